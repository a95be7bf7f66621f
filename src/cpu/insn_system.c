/*
 * System instructions: the dispatch to their groups, and those that belong to no
 * larger one - flags, HLT, time stamps, random numbers, CPUID, MSRs, caches.
 *
 * Source: SDM volume 2. Left out: MONITOR and MWAIT, RSM, SMX, performance
 * counters (hidden or #UD, as on a processor without them).
 */
#include "cpu/insn_system.h"

#include "cpu/cpuid.h"
#include "cpu/flags.h"
#include "cpu/msr.h"
#include "cpu/record.h"
#include "cpu/vmx.h"

/* ---- lowering from tables ---- */

static uint8_t operand_code(const struct insn *in, unsigned n)
{
	ZydisRegister reg = in->op[n].reg.value;

	if (n >= in->z.operand_count || !op_is_reg(in, n))
		return REG_OFF(REG_ZERO);
	if (reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS)
		return (uint8_t)(reg - ZYDIS_REGISTER_ES);
	if (reg >= ZYDIS_REGISTER_CR0 && reg <= ZYDIS_REGISTER_CR15)
		return (uint8_t)(reg - ZYDIS_REGISTER_CR0);
	if (reg >= ZYDIS_REGISTER_DR0 && reg <= ZYDIS_REGISTER_DR15)
		return (uint8_t)(reg - ZYDIS_REGISTER_DR0);
	return zreg_off(reg);
}

static bool allowed(const struct insn *in, const struct sys_insn *e, const struct uop *u)
{
	bool mem = u->flags & UOP_HAS_MEM;

	if (u->flags & UOP_LOCK)
		return false;
	if (e->feature != NO_FEATURE && !cpu_has(in->cpu, (enum cpu_feature)e->feature))
		return false;
	if (in->mode_bits == 64 ? e->flags & SYS_NOT64 : e->flags & SYS_64)
		return false;
	return !(mem ? e->flags & SYS_REG : e->flags & SYS_MEM);
}

bool lower_from_table(struct insn *in, struct uop *u, const struct sys_insn *table, unsigned entries)
{
	const struct sys_insn *e = table;

	while (e < table + entries && e->mnemonic != in->z.mnemonic)
		e++;
	if (e == table + entries)
		return false;
	if (!allowed(in, e, u)) {
		u->exec = exec_ud;
		return true;
	}
	u->exec = e->exec;
	u->aux = e->aux;
	u->dst = operand_code(in, 0);
	u->src = operand_code(in, 1);
	for (unsigned i = 0; i < in->z.operand_count_visible; i++)
		if (op_is_imm(in, i))
			u->imm = in->op[i].imm.value.u;
	if (e->flags & SYS_RIP)
		u->flags |= UOP_SETS_RIP;
	if (e->flags & (SYS_ENDS | SYS_RIP))
		in->ends_block = true;
	in->alone = e->flags & SYS_ALONE;
	return true;
}

/* ---- no effect ---- */

static int x_nothing(struct cpu *cpu, const struct uop *u)
{
	(void)cpu;
	(void)u;
	return EXEC_NEXT;
}

static int x_pause(struct cpu *cpu, const struct uop *u)
{
	return vmx_intercept(cpu, u, EXIT_REASON_PAUSE, 0) ? EXEC_STOP : EXEC_NEXT;
}

/* Faults as a load of one byte does. */
static int x_clflush(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;
	uint8_t ignored;

	if (ea(cpu, u, 1, ACCESS_READ, &lin) || ld8(cpu, lin, &ignored))
		return EXEC_STOP;
	return EXEC_NEXT;
}

static int x_wbinvd(struct cpu *cpu, const struct uop *u)
{
	if (require_cpl0(cpu) || vmx_intercept(cpu, u, u->aux, 0))
		return EXEC_STOP;
	return EXEC_NEXT;
}

/* ---- HLT, interrupt flag, flags image ---- */

static int x_hlt(struct cpu *cpu, const struct uop *u)
{
	if (require_cpl0(cpu) || vmx_intercept(cpu, u, EXIT_REASON_HLT, 0))
		return EXEC_STOP;
	cpu->halted = true;
	cpu->stats.halts++;
	return EXEC_LEAVE;
}

/* CLI, STI: CPL against IOPL; in virtual-8086 mode CPL is 3. */
static bool may_change_if(const struct cpu *cpu) { return cpu->cpl <= cpu_iopl(cpu) || cpu_real_mode(cpu); }

/* Where they may not: do they act on VIF instead (SDM "Virtual-8086 Mode Extensions", "Protected-Mode Virtual Interrupts")? */
static bool has_virtual_if(const struct cpu *cpu)
{
	return cpu_v86(cpu) ? cpu_vme(cpu) : cpu->cpl == 3 && cpu->cr4 & CR4_PVI;
}

static int x_cli(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (may_change_if(cpu))
		cpu->rflags &= ~RF_IF;
	else if (has_virtual_if(cpu))
		cpu->rflags &= ~RF_VIF;
	else
		return raise_gp0(cpu);
	return EXEC_NEXT;
}

static int x_sti(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (!may_change_if(cpu)) {
		if (!has_virtual_if(cpu) || cpu->rflags & RF_VIP)
			return raise_gp0(cpu);
		cpu->rflags |= RF_VIF;
		return EXEC_LEAVE;
	}
	if (!(cpu->rflags & RF_IF)) {
		cpu->rflags |= RF_IF;
		cpu->shadow_sti = true;
	}
	return EXEC_LEAVE;
}

/* In virtual-8086 mode with IOPL below 3: may it be, with @bytes? Then VIF stands for IF. */
static bool v86_flags_ok(const struct cpu *cpu, unsigned bytes) { return cpu_vme(cpu) && bytes == 2; }

static int x_pushf(struct cpu *cpu, const struct uop *u)
{
	struct fstack st;
	uint64_t image = cpu_get_rflags(cpu) & ~(RF_VM | RF_RF);

	if (cpu_v86(cpu) && cpu_iopl(cpu) < 3) {
		if (!v86_flags_ok(cpu, u->aux))
			return raise_gp0(cpu);
		image = cpu_virtual_flags(image);
	}
	if (cpu->long_mode && u->aux == 8) {
		uint64_t sp = cpu->gpr[RSP] - 8;

		if (unlikely(!cpu_canonical(cpu, sp)))
			return raise_exc_err(cpu, EXC_SS, 0);
		if (st64(cpu, sp, image))
			return EXEC_STOP;
		cpu->gpr[RSP] = sp;
		return EXEC_NEXT;
	}
	fstack_current(cpu, &st);
	if (fstack_push(cpu, &st, u->aux, image))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	return EXEC_NEXT;
}

/* Flags that POPF of @bytes may change at this privilege. */
static uint64_t popf_mask(const struct cpu *cpu, unsigned bytes)
{
	uint64_t mask = RF_ARITH | RF_TF | RF_DF | RF_NT | RF_AC | RF_ID;

	if (cpu->cpl == 0)
		mask |= RF_IOPL | RF_IF;
	else if (cpu->cpl <= cpu_iopl(cpu))
		mask |= RF_IF;
	return bytes == 2 ? mask & 0xffff : mask | RF_RF; /* RF is cleared */
}

static int x_popf(struct cpu *cpu, const struct uop *u)
{
	struct fstack st;
	uint64_t v, mask = popf_mask(cpu, u->aux), old = cpu_get_rflags(cpu);
	bool virtual = cpu_v86(cpu) && cpu_iopl(cpu) < 3;

	if (virtual && !v86_flags_ok(cpu, u->aux))
		return raise_gp0(cpu);
	fstack_current(cpu, &st);
	if (fstack_pop(cpu, &st, u->aux, &v) || (virtual && cpu_take_virtual_flags(cpu, &v, &mask)))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	v &= ~RF_RF;
	cpu_set_rflags(cpu, (old & ~mask) | (v & mask));
	return EXEC_LEAVE;
}

/* ---- time, random numbers, CPUID ---- */

static uint64_t tsc_value(const struct cpu *cpu)
{
	return cpu_tsc(cpu) + (vmx_proc(cpu, PROC_TSC_OFFSETTING) ? cpu->vmx.tsc_offset : 0);
}

static void put_edx_eax(struct cpu *cpu, uint64_t v)
{
	cpu->gpr[RAX] = (uint32_t)v;
	cpu->gpr[RDX] = v >> 32;
}

static uint64_t edx_eax(const struct cpu *cpu) { return (uint32_t)cpu->gpr[RAX] | cpu->gpr[RDX] << 32; }

/* RDTSC, RDTSCP: the exit reason is in aux. */
static int x_rdtsc(struct cpu *cpu, const struct uop *u)
{
	bool p = u->aux == EXIT_REASON_RDTSCP;

	if (p && !vmx_insn_enabled(cpu, PROC2_RDTSCP))
		return raise_ud(cpu);
	if ((cpu->cr4 & CR4_TSD) && cpu->cpl)
		return raise_gp0(cpu);
	if (vmx_intercept(cpu, u, u->aux, 0))
		return EXEC_STOP;
	put_edx_eax(cpu, tsc_value(cpu));
	if (p)
		cpu->gpr[RCX] = (uint32_t)cpu->msr.tsc_aux;
	return EXEC_NEXT;
}

static int x_rdpid(struct cpu *cpu, const struct uop *u)
{
	if (!vmx_insn_enabled(cpu, PROC2_RDTSCP))
		return raise_ud(cpu);
	w64(cpu, u->dst, (uint32_t)cpu->msr.tsc_aux);
	return EXEC_NEXT;
}

/* There are no counters to read. */
static int x_rdpmc(struct cpu *cpu, const struct uop *u)
{
	if (cpu->cpl && !(cpu->cr4 & CR4_PCE) && !cpu_real_mode(cpu))
		return raise_gp0(cpu);
	if (vmx_intercept(cpu, u, EXIT_REASON_RDPMC, 0))
		return EXEC_STOP;
	return raise_gp0(cpu);
}

/* splitmix64 */
static uint64_t next_random(struct cpu *cpu)
{
	uint64_t z = cpu->rng += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* RDRAND, RDSEED: the exit reason is in aux. */
static int x_rdrand(struct cpu *cpu, const struct uop *u)
{
	uint32_t size = u->opsize == 8 ? 2 : u->opsize == 4 ? 1 : 0;
	uint32_t info = (uint32_t)(u->dst / 8) << INSN_INFO_REG1_SHIFT | size << INSN_INFO_OPSIZE_SHIFT;

	if (vmx_intercept_insn_info(cpu, u, u->aux, 0, info))
		return EXEC_STOP;
	cpu->cc = CC_CF;
	if (u->opsize == 8)
		w64(cpu, u->dst, next_random(cpu));
	else if (u->opsize == 4)
		w32(cpu, u->dst, (uint32_t)next_random(cpu));
	else
		w16(cpu, u->dst, (uint16_t)next_random(cpu));
	return EXEC_NEXT;
}

static int x_cpuid(struct cpu *cpu, const struct uop *u)
{
	uint32_t out[4];

	if (vmx_intercept(cpu, u, EXIT_REASON_CPUID, 0))
		return EXEC_STOP;
	cpu_cpuid(&cpu->cfg, cpu->cr4, cpu->xcr0, cpu->lapic.id, cpu->lapic.base & APIC_BASE_EN,
		  (uint32_t)cpu->gpr[RAX], (uint32_t)cpu->gpr[RCX], out);
	cpu->gpr[RAX] = out[0];
	cpu->gpr[RBX] = out[1];
	cpu->gpr[RCX] = out[2];
	cpu->gpr[RDX] = out[3];
	return EXEC_NEXT;
}

/* ---- MSRs ---- */

static int x_rdmsr(struct cpu *cpu, const struct uop *u)
{
	uint32_t msr = (uint32_t)cpu->gpr[RCX];
	uint64_t v;

	if (require_cpl0(cpu) || vmx_intercept_rdmsr(cpu, u, msr))
		return EXEC_STOP;
	if (cpu_rdmsr(cpu, msr, &v))
		return raise_gp0(cpu);
	if (msr == MSR_TSC)
		v = tsc_value(cpu);
	put_edx_eax(cpu, v);
	return EXEC_LEAVE;
}

static int x_wrmsr(struct cpu *cpu, const struct uop *u)
{
	uint32_t msr = (uint32_t)cpu->gpr[RCX];
	int r;

	if (require_cpl0(cpu) || vmx_intercept_wrmsr(cpu, u, msr))
		return EXEC_STOP;
	if (unlikely(cpu->recorder))
		record_wrmsr(cpu, msr, edx_eax(cpu));
	r = cpu_wrmsr(cpu, msr, edx_eax(cpu));
	if (r < 0)
		return raise_gp0(cpu);
	return r ? EXEC_STOP : EXEC_LEAVE;
}

/* ---- tables ---- */

static const struct sys_insn misc_table[] = {
	{ZYDIS_MNEMONIC_PREFETCH, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_PREFETCHW, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_PREFETCHWT1, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_PREFETCHNTA, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_PREFETCHT0, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_PREFETCHT1, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_PREFETCHT2, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_ENDBR32, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_ENDBR64, x_nothing, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_LFENCE, x_nothing, 0, CPUF_SSE2, 0},
	{ZYDIS_MNEMONIC_MFENCE, x_nothing, 0, CPUF_SSE2, 0},
	{ZYDIS_MNEMONIC_SFENCE, x_nothing, 0, CPUF_SSE, 0},
	{ZYDIS_MNEMONIC_CLFLUSH, x_clflush, 0, CPUF_CLFSH, 0},
	{ZYDIS_MNEMONIC_PAUSE, x_pause, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_WBINVD, x_wbinvd, 0, NO_FEATURE, EXIT_REASON_WBINVD},
	{ZYDIS_MNEMONIC_INVD, x_wbinvd, 0, NO_FEATURE, EXIT_REASON_INVD},
	{ZYDIS_MNEMONIC_HLT, x_hlt, SYS_ENDS, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_CLI, x_cli, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_STI, x_sti, SYS_ENDS, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_PUSHF, x_pushf, 0, NO_FEATURE, 2},
	{ZYDIS_MNEMONIC_PUSHFD, x_pushf, 0, NO_FEATURE, 4},
	{ZYDIS_MNEMONIC_PUSHFQ, x_pushf, 0, NO_FEATURE, 8},
	{ZYDIS_MNEMONIC_POPF, x_popf, SYS_ENDS, NO_FEATURE, 2},
	{ZYDIS_MNEMONIC_POPFD, x_popf, SYS_ENDS, NO_FEATURE, 4},
	{ZYDIS_MNEMONIC_POPFQ, x_popf, SYS_ENDS, NO_FEATURE, 8},
	{ZYDIS_MNEMONIC_RDTSC, x_rdtsc, SYS_ENDS, CPUF_TSC, EXIT_REASON_RDTSC},
	{ZYDIS_MNEMONIC_RDTSCP, x_rdtsc, SYS_ENDS, CPUF_RDTSCP, EXIT_REASON_RDTSCP},
	{ZYDIS_MNEMONIC_RDPID, x_rdpid, 0, CPUF_RDPID, 0},
	{ZYDIS_MNEMONIC_RDPMC, x_rdpmc, SYS_ENDS, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_RDRAND, x_rdrand, SYS_REG, CPUF_RDRAND, EXIT_REASON_RDRAND},
	{ZYDIS_MNEMONIC_RDSEED, x_rdrand, SYS_REG, CPUF_RDSEED, EXIT_REASON_RDSEED},
	{ZYDIS_MNEMONIC_CPUID, x_cpuid, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_RDMSR, x_rdmsr, SYS_ENDS, CPUF_MSR, 0},
	{ZYDIS_MNEMONIC_WRMSR, x_wrmsr, SYS_ENDS, CPUF_MSR, 0},
};

bool lower_system(struct insn *in, struct uop *u)
{
	return lower_from_table(in, u, misc_table, ARRAY_SIZE(misc_table)) || lower_segment(in, u) ||
	       lower_far(in, u) || lower_control(in, u) || lower_descriptor(in, u) || lower_vmx(in, u) ||
	       lower_io(in, u);
}
