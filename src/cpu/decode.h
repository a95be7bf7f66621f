/*
 * From bytes to uops.
 *
 * Each group of instructions (insn_<group>.c) provides one function that is given
 * a Zydis-decoded instruction and either fills in the uop's exec function and
 * operands, or says the instruction is not of its group. The generic fields
 * (length, prefixes, memory operand, address size, operand size) are already set.
 */
#ifndef GNOMON_CPU_DECODE_H
#define GNOMON_CPU_DECODE_H

#include "cpu/cpu.h"
#include <Zydis/Zydis.h>

/* One instruction as Zydis sees it, with what lowering needs to know. */
struct insn {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	const uint8_t *bytes;
	unsigned mode_bits;     /* 16, 32, 64 */
	struct cpu *cpu;        /* for features and stub creation only, not for state */
	bool ends_block;        /* set by lowering: nothing may follow in this block */
	bool alone;             /* ... nor come before it, though it sets RIP */
};

/*
 * Lowers one instruction.
 * @u: generic fields are set: len, off, flags, opsize, addrsize, and base, index,
 *     scale, disp, seg if there is a memory operand (UOP_HAS_MEM)
 * Returns true if the instruction belongs to the group; then u->exec is set
 * (to exec_ud where the processor lacks the feature).
 */
typedef bool (*lower_fn)(struct insn *in, struct uop *u);

bool lower_int(struct insn *in, struct uop *u);    /* moves, ALU, shifts, bits, multiplication */
bool lower_flow(struct insn *in, struct uop *u);   /* near jumps, calls, returns, SETcc, CMOVcc */
bool lower_string(struct insn *in, struct uop *u); /* MOVS, STOS, ..., INS, OUTS */
bool lower_system(struct insn *in, struct uop *u); /* segments, far transfers, CRs, MSRs, I/O, VMX, ... */
bool lower_bmi(struct insn *in, struct uop *u);    /* BMI1, BMI2, MOVBE */
bool lower_vector(struct insn *in, struct uop *u); /* x87, MMX, SSE, FXSAVE, XSAVE */

/*
 * Decodes one instruction as the processor in->cpu does. False if it is undefined, too long or needs more than
 * @avail bytes.
 */
bool decode_one(const uint8_t *bytes, unsigned avail, unsigned bits, struct insn *in);

/* #UD */
int exec_ud(struct cpu *cpu, const struct uop *u);

/* ---- helpers for lowering ---- */

/* Byte offset into cpu->gpr of a Zydis general-purpose register (AH..BH included). */
uint8_t zreg_off(ZydisRegister reg);
/* The nth operand is memory / register / immediate? */
static inline bool op_is(const struct insn *in, unsigned n, ZydisOperandType t) { return in->op[n].type == t; }
static inline bool op_is_mem(const struct insn *in, unsigned n) { return op_is(in, n, ZYDIS_OPERAND_TYPE_MEMORY); }
static inline bool op_is_reg(const struct insn *in, unsigned n) { return op_is(in, n, ZYDIS_OPERAND_TYPE_REGISTER); }
static inline bool op_is_imm(const struct insn *in, unsigned n) { return op_is(in, n, ZYDIS_OPERAND_TYPE_IMMEDIATE); }

#endif
