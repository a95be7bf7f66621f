/*
 * Calls of the operating system: INT n, INT3, INTO, INT1, BOUND; SYSCALL, SYSRET,
 * SYSENTER, SYSEXIT.
 *
 * Source: SDM volume 2.
 */
#include "cpu/insn_system.h"

#include "cpu/flags.h"

/* ---- software events ---- */

/*
 * Delivers at once. The instruction is complete only when its own handler is
 * reached, which cpu_deliver_event() counts; the run loop counts what it executes.
 */
static int software_event(struct cpu *cpu, const struct uop *u, uint8_t vector, enum event_type type)
{
	struct event ev = {.vector = vector, .type = (uint8_t)type, .insn_len = u->len};
	uint64_t start = cpu->gpr[REG_RIP];

	cpu->gpr[REG_RIP] = uop_rip(cpu, u);
	if (cpu_deliver_event(cpu, &ev)) {
		cpu->gpr[REG_RIP] = start;
		return EXEC_STOP;
	}
	cpu->insns--;
	cpu->tf_after = true;
	/* Traps that MOV SS held back: a breakpoint comes after INT n, a single step never; INT1 is a #DB itself. */
	cpu->db_pending = type == EVENT_PRIV_SOFT_EXCEPTION ? 0 : cpu->db_pending & ~DR6_BS;
	return EXEC_LEAVE;
}

/* ---- INT n in virtual-8086 mode ---- */

#define TSS_IOMAP_BASE    102u
#define REDIRECTION_BYTES 32u /* the bit map before the I/O permission bit map */

int cpu_take_virtual_flags(struct cpu *cpu, uint64_t *image, uint64_t *mask)
{
	if (*image & RF_TF || (*image & RF_IF && cpu->rflags & RF_VIP))
		return raise_gp0(cpu);
	*image = (*image & ~RF_VIF) | (*image & RF_IF ? RF_VIF : 0);
	*mask = (*mask & ~(RF_IF | RF_IOPL)) | RF_VIF;
	return 0;
}

/* With VME: does the TSS leave @vector to the program's own table? 0 with *own, or EXEC_STOP. */
static int read_redirection(struct cpu *cpu, uint8_t vector, bool *own)
{
	uint16_t map;
	uint8_t bits;
	uint32_t at;

	if (cpu->tr.limit < TSS_IOMAP_BASE + 1)
		return raise_gp0(cpu);
	if (table_read(cpu, (uint32_t)(cpu->tr.base + TSS_IOMAP_BASE), &map, 2))
		return EXEC_STOP;
	at = map - REDIRECTION_BYTES + vector / 8u;
	if (at > cpu->tr.limit)
		return raise_gp0(cpu);
	if (table_read(cpu, (uint32_t)(cpu->tr.base + at), &bits, 1))
		return EXEC_STOP;
	*own = !(bits >> (vector & 7) & 1);
	return 0;
}

/* As real mode does it, by the table at linear address 0; with IOPL below 3 VIF takes the place of IF. */
static int int_by_own_table(struct cpu *cpu, const struct uop *u, uint8_t vector)
{
	uint64_t rflags = cpu_get_rflags(cpu);
	struct fstack st;
	uint32_t to;

	if (table_read(cpu, vector * 4u, &to, 4))
		return EXEC_STOP;
	fstack_current(cpu, &st);
	if (fstack_push(cpu, &st, 2, cpu_iopl(cpu) < 3 ? cpu_virtual_flags(rflags) : rflags) ||
	    fstack_push(cpu, &st, 2, cpu->seg[SEG_CS].sel) || fstack_push(cpu, &st, 2, uop_next_rip(cpu, u)))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	cpu->rflags &= ~(RF_TF | RF_RF | (cpu_iopl(cpu) < 3 ? RF_VIF : RF_IF));
	seg_load_real(cpu, SEG_CS, (uint16_t)(to >> 16));
	cpu->gpr[REG_RIP] = (uint16_t)to;
	cpu_update_cpl(cpu);
	cpu->tf_after = true;
	return EXEC_LEAVE;
}

static int x_int(struct cpu *cpu, const struct uop *u)
{
	bool own = false;

	if (cpu_vme(cpu) && read_redirection(cpu, (uint8_t)u->imm, &own))
		return EXEC_STOP;
	if (own)
		return int_by_own_table(cpu, u, (uint8_t)u->imm);
	if (cpu_v86(cpu) && cpu_iopl(cpu) < 3)
		return raise_gp0(cpu);
	return software_event(cpu, u, (uint8_t)u->imm, EVENT_SOFT_INT);
}

static int x_int3(struct cpu *cpu, const struct uop *u)
{
	return software_event(cpu, u, EXC_BP, EVENT_SOFT_EXCEPTION);
}

static int x_int1(struct cpu *cpu, const struct uop *u)
{
	return software_event(cpu, u, EXC_DB, EVENT_PRIV_SOFT_EXCEPTION);
}

static int x_into(struct cpu *cpu, const struct uop *u)
{
	if (cpu->cc & CC_OF)
		return software_event(cpu, u, EXC_OF, EVENT_SOFT_EXCEPTION);
	cpu->gpr[REG_RIP] = uop_next_rip(cpu, u);
	return EXEC_LEAVE;
}

/* One of the bounds as a signed number. */
static int read_bound(struct cpu *cpu, uint64_t lin, unsigned bytes, int32_t *v)
{
	uint32_t raw = 0;
	int r = mem_read(cpu, lin, &raw, bytes);

	*v = bytes == 2 ? (int16_t)raw : (int32_t)raw;
	return r;
}

/* The upper bound is not read if the lower one decides. */
static int x_bound(struct cpu *cpu, const struct uop *u)
{
	int32_t index = u->opsize == 2 ? (int16_t)r16(cpu, u->dst) : (int32_t)r32(cpu, u->dst), bound;
	uint64_t lin;

	if (ea(cpu, u, 2u * u->opsize, ACCESS_READ, &lin) || read_bound(cpu, lin, u->opsize, &bound))
		return EXEC_STOP;
	if (index < bound)
		return raise_exc(cpu, EXC_BR);
	if (read_bound(cpu, lin + u->opsize, u->opsize, &bound))
		return EXEC_STOP;
	return index > bound ? raise_exc(cpu, EXC_BR) : EXEC_NEXT;
}

/* ---- SYSCALL ---- */

static int x_syscall(struct cpu *cpu, const struct uop *u)
{
	uint64_t rflags;
	uint16_t sel = (uint16_t)(cpu->msr.star >> 32) & 0xfffc;

	if (!(cpu->efer & EFER_SCE))
		return raise_ud(cpu);
	rflags = cpu_get_rflags(cpu) & ~RF_RF;
	cpu->gpr[RCX] = uop_next_rip(cpu, u);
	cpu->gpr[R11] = rflags;
	seg_load_flat_cs(cpu, sel, 0, true);
	seg_load_flat_ss(cpu, (uint16_t)(sel + 8), 0);
	cpu->gpr[REG_RIP] = cpu->msr.lstar;
	cpu_set_rflags(cpu, rflags & ~cpu->msr.fmask);
	cpu_update_cpl(cpu);
	cpu->tf_after = true;
	if (cpu->rflags & RF_TF)
		cpu->db_pending |= DR6_BS;
	return EXEC_LEAVE;
}

/* aux: REX.W */
static int x_sysret(struct cpu *cpu, const struct uop *u)
{
	uint16_t sel = (uint16_t)(cpu->msr.star >> 48);
	uint64_t rip = u->aux ? cpu->gpr[RCX] : (uint32_t)cpu->gpr[RCX];

	if (!(cpu->efer & EFER_SCE))
		return raise_ud(cpu);
	if (require_cpl0(cpu))
		return EXEC_STOP;
	/* Before the privilege changes: that is Intel's way. */
	if (!cpu_canonical(cpu, rip))
		return raise_gp0(cpu);
	seg_load_flat_cs(cpu, (uint16_t)((sel + (u->aux ? 16u : 0)) | 3), 3, u->aux);
	seg_load_flat_ss(cpu, (uint16_t)((sel + 8u) | 3), 3);
	cpu->gpr[REG_RIP] = rip;
	cpu_set_rflags(cpu, cpu->gpr[R11] & 0x3c7fd7);
	cpu_update_cpl(cpu);
	/* As if the SYSCALL had just completed: a single step traps before the caller's next instruction. */
	cpu->tf_after = true;
	if (cpu->rflags & RF_TF)
		cpu->db_pending |= DR6_BS;
	return EXEC_LEAVE;
}

/* ---- SYSENTER ---- */

static int x_sysenter(struct cpu *cpu, const struct uop *u)
{
	uint16_t sel = (uint16_t)cpu->msr.sysenter_cs & 0xfffc;
	bool lma = cpu_lma(cpu);

	(void)u;
	if (cpu_real_mode(cpu) || !sel)
		return raise_gp0(cpu);
	cpu->rflags &= ~(RF_VM | RF_IF | RF_RF);
	seg_load_flat_cs(cpu, sel, 0, lma);
	seg_load_flat_ss(cpu, (uint16_t)(sel + 8), 0);
	cpu->gpr[RSP] = lma ? cpu->msr.sysenter_esp : (uint32_t)cpu->msr.sysenter_esp;
	cpu->gpr[REG_RIP] = lma ? cpu->msr.sysenter_eip : (uint32_t)cpu->msr.sysenter_eip;
	cpu_update_mode(cpu);
	return EXEC_LEAVE;
}

/* aux: REX.W */
static int x_sysexit(struct cpu *cpu, const struct uop *u)
{
	uint16_t sel = (uint16_t)cpu->msr.sysenter_cs;
	uint64_t rip = cpu->gpr[RDX], rsp = cpu->gpr[RCX];

	if (cpu_real_mode(cpu) || cpu->cpl || !(sel & 0xfffc))
		return raise_gp0(cpu);
	if (!u->aux) {
		rip = (uint32_t)rip;
		rsp = (uint32_t)rsp;
	} else if (!cpu_canonical(cpu, rip) || !cpu_canonical(cpu, rsp)) {
		return raise_gp0(cpu);
	}
	seg_load_flat_cs(cpu, (uint16_t)((sel + (u->aux ? 32u : 16u)) | 3), 3, u->aux);
	seg_load_flat_ss(cpu, (uint16_t)((sel + (u->aux ? 40u : 24u)) | 3), 3);
	cpu->gpr[RSP] = rsp;
	cpu->gpr[REG_RIP] = rip;
	cpu_update_mode(cpu);
	return EXEC_LEAVE;
}

static const struct sys_insn event_table[] = {
	{ZYDIS_MNEMONIC_INT, x_int, SYS_RIP, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_INT3, x_int3, SYS_RIP, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_INT1, x_int1, SYS_RIP, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_INTO, x_into, SYS_RIP | SYS_NOT64, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_BOUND, x_bound, SYS_MEM | SYS_NOT64, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_SYSCALL, x_syscall, SYS_RIP | SYS_64, CPUF_SYSCALL, 0},
	{ZYDIS_MNEMONIC_SYSRET, x_sysret, SYS_RIP | SYS_64, CPUF_SYSCALL, 0},
	{ZYDIS_MNEMONIC_SYSENTER, x_sysenter, SYS_RIP, CPUF_SEP, 0},
	{ZYDIS_MNEMONIC_SYSEXIT, x_sysexit, SYS_RIP, CPUF_SEP, 0},
};

bool lower_event(struct insn *in, struct uop *u)
{
	if (!lower_from_table(in, u, event_table, ARRAY_SIZE(event_table)))
		return false;
	if (in->z.mnemonic == ZYDIS_MNEMONIC_SYSRET || in->z.mnemonic == ZYDIS_MNEMONIC_SYSEXIT)
		u->aux = in->z.raw.rex.W;
	return true;
}
