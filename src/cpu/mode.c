/*
 * What is derived from the architectural registers: how code is decoded, on
 * whose behalf data is accessed, which segment bases apply, what the MMU must
 * know. Delivery of events and system calls change CPL all the time, so the part
 * that depends on it alone is separate.
 */
#include "cpu/flags.h"
#include "cpu/segment.h"
#include "cpu/vmx.h"

#define RFLAGS_STORED 0x3f7700ull /* of the defined flags those that are not in cpu->cc */

uint64_t cpu_get_rflags(const struct cpu *cpu)
{
	return (cpu->rflags & ~RF_ARITH) | cc_to_rflags(cpu->cc) | RF_ONE;
}

void cpu_set_rflags(struct cpu *cpu, uint64_t rflags)
{
	cpu->cc = cc_from_rflags(rflags);
	cpu->rflags = (rflags & RFLAGS_STORED) | RF_ONE;
	cpu->mode = (uint8_t)cpu_access_mode(cpu, cpu->cpl);
	cpu_update_careful(cpu);
}

/* DR7: is any breakpoint enabled whose R/W field is one of those in @rw_set (bit n: value n)? */
static bool breakpoint_armed(uint64_t dr7, unsigned rw_set)
{
	for (unsigned n = 0; n < 4; n++)
		if ((dr7 >> (2 * n) & 3) && (rw_set >> (dr7 >> (16 + 4 * n) & 3) & 1))
			return true;
	return false;
}

void cpu_update_careful(struct cpu *cpu)
{
	cpu->careful = (cpu->rflags & (RF_TF | RF_RF)) || ((cpu->dr7 & 0xff) && breakpoint_armed(cpu->dr7, 1)) ||
		       vmx_proc(cpu, PROC_MTF);
}

static unsigned code_bits(const struct cpu *cpu)
{
	const struct seg *cs = &cpu->seg[SEG_CS];

	if (cpu_lma(cpu) && (cs->attr & SEG_AR_L))
		return 64;
	return cs->attr & SEG_AR_DB ? 32 : 16;
}

static void update_bases(struct cpu *cpu)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg_base_eff[i] = cpu->long_mode && i < SEG_FS ? 0 : cpu->seg[i].base;
	cpu->seg_base_eff[SEG_NONE] = 0;
}

void cpu_update_cpl(struct cpu *cpu)
{
	unsigned bits_now = code_bits(cpu);

	if (unlikely(bits_now != cpu->code_bits || bits_now != 64)) {
		cpu->code_bits = (uint16_t)bits_now;
		cpu->long_mode = bits_now == 64;
		update_bases(cpu);
	}
	cpu->cpl = (uint8_t)seg_dpl(&cpu->seg[SEG_SS]);
	cpu->mode = (uint8_t)cpu_access_mode(cpu, cpu->cpl);
	cpu_update_careful(cpu);
}

static bool regs_differ(const struct mmu_regs *a, const struct mmu_regs *b)
{
	return a->cr0 != b->cr0 || a->cr3 != b->cr3 || a->cr4 != b->cr4 || a->efer != b->efer || a->pkru != b->pkru ||
	       a->vpid != b->vpid || a->nested != b->nested || a->eptp != b->eptp ||
	       a->agile != b->agile || a->shadow_root != b->shadow_root ||
	       memcmp(a->pdpte, b->pdpte, sizeof(a->pdpte)) != 0;
}

static void update_mmu(struct cpu *cpu)
{
	bool watch = (cpu->dr7 & 0xff) && breakpoint_armed(cpu->dr7, 1u << 1 | 1u << 3);
	struct mmu_regs r = {
		.cr0 = cpu->cr0,
		.cr3 = cpu->cr3,
		.cr4 = cpu->cr4,
		.efer = cpu->efer,
		.pkru = cpu->pkru,
		.vpid = vmx_proc2(cpu, PROC2_VPID) ? cpu->vmx.vpid : 0,
		.nested = vmx_proc2(cpu, PROC2_EPT),
		.eptp = vmx_proc2(cpu, PROC2_EPT) ? cpu->vmx.eptp : 0,
		.agile = cpu->vmx.nonroot && cpu->vmx.walk.agile,
		.shadow_root = cpu->vmx.nonroot && cpu->vmx.walk.agile ? cpu->vmx.walk.shadow_root : 0,
	};

	memcpy(r.pdpte, cpu->pdpte, sizeof(r.pdpte));
	if (watch != cpu->mmu.data_watch) {
		cpu->mmu.data_watch = watch;
		mmu_fast_flush(&cpu->mmu);
	}
	if (regs_differ(&r, &cpu->mmu.regs))
		mmu_set_regs(&cpu->mmu, &r);
}

void cpu_update_mode(struct cpu *cpu)
{
	cpu->code_bits = 0;
	cpu_update_cpl(cpu);
	update_bases(cpu);
	update_mmu(cpu);
}
