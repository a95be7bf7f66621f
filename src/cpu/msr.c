/*
 * Model-specific registers: those that CPUID announces, and the few that software
 * for this family reads without asking. Any other is #GP(0), as on a machine
 * without thermal sensors, performance counters and power management; so are the
 * VMX capability MSRs, if CPUID shows no VMX.
 *
 * Source: SDM volume 4; volume 3, "Memory Type Range Registers", "Time-Stamp
 * Counter", "Machine-Check MSRs".
 */
#include "cpu/msr.h"

#include "cpu/cpuid.h"
#include "cpu/dmt.h"
#include "cpu/segment.h"
#include "cpu/vmx.h"

#define MICROCODE_REVISION 0x02007006ull
/* Non-turbo ratio in 100 MHz (bits 15:8), lowest ratio (47:40). */
#define PLATFORM_INFO_VALUE (10ull << 8 | 8ull << 40)
/* Eight variable ranges, fixed ranges, write-combining. */
#define MTRR_VARIABLE 8u
#define MTRRCAP_VALUE (MTRR_VARIABLE | 1u << 8 | 1u << 10)
#define MISC_ENABLE_WRITABLE 0x400c51889ull
#define MISC_ENABLE_ONES 0x1800ull /* no branch trace store, no precise event sampling: read-only */
#define DEBUGCTL_WRITABLE 3ull
#define FEATURE_CONTROL_WRITABLE (FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON)
#define SPEC_CTRL_WRITABLE 0x403ull /* IBRS, STIBP, BHI_DIS_S */
#define MTRR_DEF_WRITABLE 0xcffull

/* ---- MTRR and PAT ---- */

/* UC, WC, WT, WP, WB; PAT has UC- besides. */
static bool memory_type_ok(uint64_t type, bool pat) { return (pat ? 0xf3u : 0x73u) >> type & 1; }

static bool types_ok(uint64_t v, bool pat)
{
	for (unsigned i = 0; i < 8; i++)
		if ((v >> (8 * i) & 0xff) > 7 || !memory_type_ok(v >> (8 * i) & 7, pat))
			return false;
	return true;
}

static uint64_t *mtrr_fixed(struct cpu *cpu, uint32_t msr)
{
	if (msr == MSR_MTRR_FIX64K_00000)
		return &cpu->msr.mtrr_fixed[0];
	if (msr == MSR_MTRR_FIX16K_80000 || msr == MSR_MTRR_FIX16K_A0000)
		return &cpu->msr.mtrr_fixed[1 + msr - MSR_MTRR_FIX16K_80000];
	if (msr >= MSR_MTRR_FIX4K_C0000 && msr < MSR_MTRR_FIX4K_C0000 + 8)
		return &cpu->msr.mtrr_fixed[3 + msr - MSR_MTRR_FIX4K_C0000];
	return NULL;
}

static uint64_t *mtrr_variable(struct cpu *cpu, uint32_t msr)
{
	unsigned n = msr - MSR_MTRR_PHYSBASE0;

	if (n >= 2 * MTRR_VARIABLE)
		return NULL;
	return n & 1 ? &cpu->msr.mtrr_mask[n / 2] : &cpu->msr.mtrr_base[n / 2];
}

static int read_mtrr(struct cpu *cpu, uint32_t msr, uint64_t *v)
{
	uint64_t *reg = mtrr_fixed(cpu, msr);

	if (!reg)
		reg = mtrr_variable(cpu, msr);
	if (!reg || !cpu_has(cpu, CPUF_MTRR))
		return -1;
	*v = *reg;
	return 0;
}

static int write_mtrr(struct cpu *cpu, uint32_t msr, uint64_t v)
{
	uint64_t *reg = mtrr_fixed(cpu, msr);
	bool ok;

	if (!cpu_has(cpu, CPUF_MTRR))
		return -1;
	if (reg) {
		ok = types_ok(v, false);
	} else {
		reg = mtrr_variable(cpu, msr);
		if (!reg || v >> cpu->cfg.maxphyaddr)
			return -1;
		if ((msr - MSR_MTRR_PHYSBASE0) & 1)
			ok = !(v & 0x7ff);
		else
			ok = (v & 0xfff) < 8 && memory_type_ok(v & 7, false);
	}
	if (!ok)
		return -1;
	*reg = v;
	return 0;
}

bool cpu_msr_is_mtrr(uint32_t msr)
{
	return msr == MSR_MTRR_DEF_TYPE || msr - MSR_MTRR_PHYSBASE0 < 2 * MTRR_VARIABLE ||
	       msr == MSR_MTRR_FIX64K_00000 || msr == MSR_MTRR_FIX16K_80000 || msr == MSR_MTRR_FIX16K_A0000 ||
	       (msr >= MSR_MTRR_FIX4K_C0000 && msr < MSR_MTRR_FIX4K_C0000 + 8);
}

/* ---- EFER, time ---- */

static int write_efer(struct cpu *cpu, uint64_t v)
{
	uint64_t may = EFER_LMA;

	if (cpu_has(cpu, CPUF_SYSCALL))
		may |= EFER_SCE;
	if (cpu_has(cpu, CPUF_LM))
		may |= EFER_LME;
	if (cpu_has(cpu, CPUF_NX))
		may |= EFER_NXE;
	if (v & ~may)
		return -1;
	if (((v ^ cpu->efer) & EFER_LME) && (cpu->cr0 & CR0_PG))
		return -1;
	cpu->efer = (v & ~EFER_LMA) | (cpu->efer & EFER_LMA);
	cpu_update_mode(cpu);
	return 0;
}

static void shift_tsc(struct cpu *cpu, uint64_t delta)
{
	cpu->tsc_base += delta;
	cpu->msr.tsc_adjust += delta;
	lapic_shift_tsc(&cpu->lapic, delta);
	cpu->deadline = 0;
}

static int write_apic(struct cpu *cpu, uint32_t msr, uint64_t v)
{
	if (!cpu_has(cpu, CPUF_APIC))
		return -1;
	/* The timer may be due earlier now, an interrupt may be deliverable. */
	cpu->deadline = 0;
	return lapic_wrmsr(&cpu->lapic, msr, v, cpu_tsc(cpu));
}

static bool is_apic_msr(uint32_t msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

/* ---- registers that are only a value: which, and what may be written ---- */

/* The place of a register with no side effects, or NULL. */
static uint64_t *plain_register(struct cpu *cpu, uint32_t msr)
{
	bool syscall = cpu_has(cpu, CPUF_SYSCALL), sep = cpu_has(cpu, CPUF_SEP);

	switch (msr) {
	case MSR_STAR: return syscall ? &cpu->msr.star : NULL;
	case MSR_LSTAR: return syscall ? &cpu->msr.lstar : NULL;
	case MSR_CSTAR: return syscall ? &cpu->msr.cstar : NULL;
	case MSR_FMASK: return syscall ? &cpu->msr.fmask : NULL;
	case MSR_FS_BASE: return cpu_has(cpu, CPUF_LM) ? &cpu->seg[SEG_FS].base : NULL;
	case MSR_GS_BASE: return cpu_has(cpu, CPUF_LM) ? &cpu->seg[SEG_GS].base : NULL;
	case MSR_KERNEL_GS_BASE: return cpu_has(cpu, CPUF_LM) ? &cpu->msr.kernel_gs_base : NULL;
	case MSR_SYSENTER_CS: return sep ? &cpu->msr.sysenter_cs : NULL;
	case MSR_SYSENTER_ESP: return sep ? &cpu->msr.sysenter_esp : NULL;
	case MSR_SYSENTER_EIP: return sep ? &cpu->msr.sysenter_eip : NULL;
	case MSR_TSC_AUX: return cpu_has(cpu, CPUF_RDTSCP) || cpu_has(cpu, CPUF_RDPID) ? &cpu->msr.tsc_aux : NULL;
	case MSR_PAT: return cpu_has(cpu, CPUF_PAT) ? &cpu->msr.pat : NULL;
	case MSR_MTRR_DEF_TYPE: return cpu_has(cpu, CPUF_MTRR) ? &cpu->msr.mtrr_def_type : NULL;
	case MSR_MISC_ENABLE: return &cpu->msr.misc_enable;
	case MSR_DEBUGCTL: return &cpu->vmx.debugctl;
	case MSR_MCG_STATUS: return cpu_has(cpu, CPUF_MCA) ? &cpu->msr.mcg_status : NULL;
	case MSR_SPEC_CTRL: return cpu_has_spec_ctrl(&cpu->cfg) ? &cpu->msr.spec_ctrl : NULL;
	default: return NULL;
	}
}

static bool plain_value_ok(const struct cpu *cpu, uint32_t msr, uint64_t v)
{
	switch (msr) {
	case MSR_LSTAR: case MSR_CSTAR: case MSR_FS_BASE: case MSR_GS_BASE: case MSR_KERNEL_GS_BASE:
	case MSR_SYSENTER_ESP: case MSR_SYSENTER_EIP:
		return cpu_canonical_base(cpu, v);
	case MSR_FMASK: case MSR_TSC_AUX:
		return !(v >> 32);
	case MSR_PAT:
		return types_ok(v, true);
	case MSR_MTRR_DEF_TYPE:
		return !(v & ~MTRR_DEF_WRITABLE) && (v & 0xff) < 8 && memory_type_ok(v & 7, false);
	case MSR_MISC_ENABLE:
		return !(v & ~MISC_ENABLE_WRITABLE);
	case MSR_DEBUGCTL:
		return !(v & ~DEBUGCTL_WRITABLE);
	case MSR_MCG_STATUS:
		return !(v >> 3);
	case MSR_SPEC_CTRL:
		return !(v & ~SPEC_CTRL_WRITABLE);
	default:
		return true;
	}
}

static int write_plain(struct cpu *cpu, uint32_t msr, uint64_t v)
{
	uint64_t *reg = plain_register(cpu, msr);

	if (!reg || !plain_value_ok(cpu, msr, v))
		return -1;
	*reg = v;
	if (msr == MSR_MISC_ENABLE)
		*reg &= ~MISC_ENABLE_ONES;
	else if (msr == MSR_FS_BASE)
		cpu->seg_base_eff[SEG_FS] = v;
	else if (msr == MSR_GS_BASE)
		cpu->seg_base_eff[SEG_GS] = v;
	return 0;
}

static int read_plain(struct cpu *cpu, uint32_t msr, uint64_t *v)
{
	const uint64_t *reg = plain_register(cpu, msr);

	if (!reg)
		return read_mtrr(cpu, msr, v);
	*v = msr == MSR_MISC_ENABLE ? *reg | MISC_ENABLE_ONES : *reg;
	return 0;
}

/* ---- all of them ---- */

static int give(bool exists, uint64_t value, uint64_t *v)
{
	if (!exists)
		return -1;
	*v = value;
	return 0;
}

int cpu_rdmsr(struct cpu *cpu, uint32_t msr, uint64_t *v)
{
	if (is_apic_msr(msr))
		return cpu_has(cpu, CPUF_APIC) ? lapic_rdmsr(&cpu->lapic, msr, cpu_tsc(cpu), v) : -1;
	switch (msr) {
	case MSR_TSC:
		return give(cpu_has(cpu, CPUF_TSC), cpu_tsc(cpu), v);
	case MSR_TSC_ADJUST:
		return give(cpu_has(cpu, CPUF_TSC_ADJUST), cpu->msr.tsc_adjust, v);
	case MSR_EFER:
		return give(cpu_has(cpu, CPUF_LM) || cpu_has(cpu, CPUF_NX), cpu->efer, v);
	case MSR_PLATFORM_ID:
		return give(true, 0, v);
	case MSR_FEATURE_CONTROL:
		return give(true, cpu_has(cpu, CPUF_VMX) ? cpu->msr.feature_control : FEATURE_CONTROL_LOCK, v);
	case MSR_BIOS_SIGN_ID:
		return give(true, MICROCODE_REVISION << 32, v);
	case MSR_PLATFORM_INFO:
		return give(true, PLATFORM_INFO_VALUE, v);
	case MSR_MTRRCAP:
		return give(cpu_has(cpu, CPUF_MTRR), MTRRCAP_VALUE, v);
	case MSR_ARCH_CAPABILITIES:
		return give(cpu_has_spec_ctrl(&cpu->cfg), cpu_arch_capabilities(&cpu->cfg), v);
	case MSR_DMT_LOAD:
		return give(cpu_has(cpu, CPUF_DMT), cpu->pv.load, v);
	case MSR_PV_REQUEST:
		return give(cpu_has(cpu, CPUF_DMT), cpu->pv.request, v);
	case MSR_MCG_CAP:
		return give(cpu_has(cpu, CPUF_MCA), 0, v);
	default:
		if (cpu_has(cpu, CPUF_VMX) && vmx_read_capability(cpu, msr, v) == 0)
			return 0;
		return read_plain(cpu, msr, v);
	}
}

/* Firmware, or an operating system that finds it open, sets and locks it. */
static int write_feature_control(struct cpu *cpu, uint64_t v)
{
	if (!cpu_has(cpu, CPUF_VMX) || cpu->msr.feature_control & FEATURE_CONTROL_LOCK || v & ~FEATURE_CONTROL_WRITABLE)
		return -1;
	cpu->msr.feature_control = v;
	return 0;
}

static int write_msr(struct cpu *cpu, uint32_t msr, uint64_t v)
{
	if (is_apic_msr(msr))
		return write_apic(cpu, msr, v);
	switch (msr) {
	case MSR_SYSENTER_CS: /* half of it exists: the VMCS field has 32 bits too */
		return write_plain(cpu, msr, (uint32_t)v);
	case MSR_TSC:
		if (!cpu_has(cpu, CPUF_TSC))
			return -1;
		shift_tsc(cpu, v - cpu_tsc(cpu));
		return 0;
	case MSR_TSC_ADJUST:
		if (!cpu_has(cpu, CPUF_TSC_ADJUST))
			return -1;
		shift_tsc(cpu, v - cpu->msr.tsc_adjust);
		return 0;
	case MSR_EFER:
		return cpu_has(cpu, CPUF_LM) || cpu_has(cpu, CPUF_NX) ? write_efer(cpu, v) : -1;
	case MSR_FEATURE_CONTROL:
		return write_feature_control(cpu, v);
	case MSR_BIOS_SIGN_ID: /* cleared before CPUID loads it: no effect here */
		return 0;
	case MSR_DMT_LOAD:
		return cpu_load_dmt(cpu, v);
	case MSR_PV_REQUEST:
		return cpu_serve_request(cpu, v);
	case MSR_PRED_CMD: /* indirect-branch barrier: no predictors to flush */
		return cpu_has_spec_ctrl(&cpu->cfg) && !(v & ~1ull) ? 0 : -1;
	default:
		return plain_register(cpu, msr) ? write_plain(cpu, msr, v) : write_mtrr(cpu, msr, v);
	}
}

int cpu_wrmsr(struct cpu *cpu, uint32_t msr, uint64_t v)
{
	int r = write_msr(cpu, msr, v);

	if (r)
		return r;
	/* SDM "Invalidating the Translation Lookaside Buffers (TLBs)": writing an MTRR does, globals too. */
	if (cpu_msr_is_mtrr(msr))
		mmu_flush_vpid_all(&cpu->mmu, cpu->mmu.regs.vpid);
	return 0;
}
