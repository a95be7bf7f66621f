/* What the insn_<group>.c files of system instructions share: table-driven lowering. */
#ifndef GNOMON_CPU_INSN_SYSTEM_H
#define GNOMON_CPU_INSN_SYSTEM_H

#include "cpu/access.h"
#include "cpu/decode.h"
#include "cpu/segment.h"

/* How an instruction is lowered. */
#define SYS_ENDS  0x01u /* nothing may follow in the block */
#define SYS_RIP   0x02u /* sets RIP */
#define SYS_64    0x04u /* #UD outside 64-bit mode */
#define SYS_NOT64 0x08u /* #UD in 64-bit mode */
#define SYS_REG   0x10u /* #UD with a memory operand */
#define SYS_MEM   0x20u /* #UD with a register operand */
#define SYS_ALONE 0x40u /* in its block, though it sets RIP */

#define NO_FEATURE (-1)

struct sys_insn {
	ZydisMnemonic mnemonic;
	exec_fn exec;
	uint8_t flags;
	int16_t feature; /* #UD without it, or NO_FEATURE */
	uint32_t aux;    /* for uop.aux */
};

/*
 * Lowers from a table: u->dst and u->src receive operands 0 and 1 (general-purpose registers as byte
 * offsets, others as numbers), u->imm an immediate.
 */
bool lower_from_table(struct insn *in, struct uop *u, const struct sys_insn *table, unsigned entries);

/*
 * What MOV to CR (u->dst: its number, u->src: the register it comes from), INVLPG and INVPCID do once CPL and operands have
 * been checked: EXEC_LEAVE, or EXEC_STOP. An INVPCID may exit before its descriptor is read: cpu_invpcid_intercept().
 */
int cpu_mov_to_cr(struct cpu *cpu, const struct uop *u, uint64_t v);
int cpu_invlpg(struct cpu *cpu, const struct uop *u, uint64_t lin);
int cpu_invpcid_intercept(struct cpu *cpu, const struct uop *u);
int cpu_invpcid(struct cpu *cpu, uint64_t type, uint64_t pcid, uint64_t lin);

/* The groups lower_system() asks. */
bool lower_segment(struct insn *in, struct uop *u);    /* insn_segment.c: segment registers, LDS, ... */
bool lower_far(struct insn *in, struct uop *u);        /* insn_far.c: far JMP, CALL, RET; IRET */
bool lower_event(struct insn *in, struct uop *u);      /* insn_event.c: INT, SYSCALL, SYSENTER, ... */
bool lower_control(struct insn *in, struct uop *u);    /* insn_cr.c: control and debug registers, TLB, XCR0, PKRU */
bool lower_descriptor(struct insn *in, struct uop *u); /* insn_desc.c: LGDT, LLDT, LTR, LAR, VERR, ... */
bool lower_vmx(struct insn *in, struct uop *u);        /* insn_vmx.c: VMXON, VMREAD, VMLAUNCH, ... */
bool lower_io(struct insn *in, struct uop *u);         /* insn_io.c: IN, OUT */

/* Reads the 16-bit operand 0 (SYS tables: register in u->dst) or memory. 0 or EXEC_STOP. */
static inline int load_rm16(struct cpu *cpu, const struct uop *u, uint8_t reg, uint16_t *v)
{
	uint64_t lin;

	if (u->flags & UOP_HAS_MEM)
		return ea(cpu, u, 2, ACCESS_READ, &lin) || ld16(cpu, lin, v) ? EXEC_STOP : 0;
	*v = r16(cpu, reg);
	return 0;
}

/* Stores a register's new value: 16 bits to memory, the operand size to a register. 0 or EXEC_STOP. */
static inline int store_rm16(struct cpu *cpu, const struct uop *u, uint64_t v)
{
	uint64_t lin;

	if (u->flags & UOP_HAS_MEM)
		return ea(cpu, u, 2, ACCESS_WRITE, &lin) || st16(cpu, lin, (uint16_t)v) ? EXEC_STOP : 0;
	if (u->opsize == 2)
		w16(cpu, u->dst, (uint16_t)v);
	else if (u->opsize == 4)
		w32(cpu, u->dst, (uint32_t)v);
	else
		w64(cpu, u->dst, v);
	return 0;
}

/* Faults of a privileged instruction: #GP(0) unless at CPL 0. 0 or EXEC_STOP. */
static inline int require_cpl0(struct cpu *cpu) { return unlikely(cpu->cpl != 0) ? raise_gp0(cpu) : 0; }

#endif
