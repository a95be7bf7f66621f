/*
 * The decoded form of an instruction and of a block of them.
 *
 * A block is a straight run of instructions that lie in one 4 KiB page of
 * machine memory (the last may reach into the next page). It is decoded once,
 * keyed by host-physical address and decode mode, and says nothing about the
 * linear address it runs at: what depends on RIP is computed from the block's
 * run-time start, which stands in register slot REG_RIP. A translator to host
 * code can take the interpreter's place by consuming the same blocks.
 */
#ifndef GNOMON_CPU_UOP_H
#define GNOMON_CPU_UOP_H

#include <stdint.h>

struct cpu;
struct uop;

/*
 * What an execute function returns. EXEC_NEXT: the instruction is complete, go on
 * with the next. EXEC_LEAVE: it is complete, but the block must be left (the
 * function has not changed RIP unless it is a UOP_SETS_RIP one). EXEC_STOP: it
 * was abandoned with no architectural effect but what the manual allows; the
 * cause is in cpu->stop. EXEC_REPEAT: a REP instruction made progress and stands
 * at an iteration boundary: it counts as an instruction, RIP stays.
 */
enum exec_status { EXEC_NEXT = 0, EXEC_LEAVE, EXEC_STOP, EXEC_REPEAT };

typedef int (*exec_fn)(struct cpu *cpu, const struct uop *u);

/* Register slots: 0-15 are RAX..R15. */
#define REG_RIP  16 /* linear... RIP of the first instruction of the running block (an offset in CS) */
#define REG_ZERO 17 /* always 0 */
#define REG_SLOTS 18

/* Byte offsets into cpu->gpr, so that AH..BH are offsets 1 into RAX..RBX. */
#define REG_OFF(r)      ((uint8_t)((r) * 8))
#define REG_OFF_HIGH(r) ((uint8_t)((r) * 8 + 1)) /* AH, CH, DH, BH */

/* uop flags */
#define UOP_EA_SLOW   0x01u /* effective address needs masking or segment checks: ea_slow() */
#define UOP_SETS_RIP  0x02u /* sets gpr[REG_RIP] itself when it completes */
#define UOP_LOCK      0x04u
#define UOP_REP       0x08u /* F3 on a string instruction */
#define UOP_REPNE     0x10u
#define UOP_PSEUDO    0x20u /* not an instruction: does not count */
#define UOP_HAS_MEM   0x40u /* the ModRM operand is memory */
#define UOP_SEG_STACK 0x80u /* default segment is SS: violations are #SS */

struct uop {
	exec_fn exec;
	int64_t disp;    /* displacement; for RIP-relative, from the block's start */
	uint64_t imm;    /* immediate, sign-extended; for direct branches, the target relative to the block's start */
	uint8_t dst;     /* register operand, byte offset into cpu->gpr; or xmm / mm / seg / cr number */
	uint8_t src;     /* second register operand, likewise */
	uint8_t base;    /* byte offset of the base register (REG_ZERO if none) */
	uint8_t index;   /* byte offset of the index register (REG_ZERO if none) */
	uint8_t scale;   /* log2 of the scale */
	uint8_t seg;     /* index into cpu->seg_base_eff: SEG_* or SEG_NONE */
	uint8_t opsize;  /* operand size in bytes: 1, 2, 4, 8, (16) */
	uint8_t addrsize; /* address size in bytes: 2, 4, 8 */
	uint8_t len;     /* bytes of the instruction */
	uint8_t flags;   /* UOP_* */
	uint16_t off;    /* from the block's start, in bytes */
	uint32_t aux;    /* for the execute function: condition code, opcode, index of a host stub, ... */
	void *ptr;       /* for the execute function: a host stub, say */
};

/* seg_base_eff index of "no segment base": 0. */
#define SEG_NONE 6

#endif
