/* Making a processor and its state after RESET (SDM "Processor State After Reset"). */
#include "cpu/cpu.h"

#include <errno.h>

#include "cpu/block.h"
#include "cpu/stub.h"
#include "cpu/xlate.h"

static int create_parts(struct cpu *cpu, struct machmem *mem, struct error *err)
{
	int r = mmu_init(&cpu->mmu, mem, &cpu->cfg.hw, err);

	if (!r)
		r = blocks_create(cpu, err);
	if (!r && stubs_create(&cpu->stubs, err))
		r = err ? err->code : -ENOMEM;
	if (!r && cpu->cfg.translate)
		r = xlate_create(cpu, err);
	return r;
}

int cpu_create(struct cpu **out, struct machmem *mem, const struct cpu_config *cfg, struct error *err)
{
	struct arena arena;
	struct cpu *cpu;
	int r;

	if (cfg->maxphyaddr < 36 || cfg->maxphyaddr > 52)
		return error_set(err, -EINVAL, "processor: MAXPHYADDR %u is outside 36..52", cfg->maxphyaddr);
	arena_init(&arena, machmem_is_large(mem));
	cpu = arena_alloc(&arena, 1, sizeof(*cpu));
	if (!cpu)
		return error_set(err, -ENOMEM, "processor: out of memory");
	cpu->arena = arena;
	cpu->cfg = *cfg;
	cpu->probe.passed = UINT64_MAX;
	r = create_parts(cpu, mem, err);
	if (r) {
		cpu_destroy(cpu);
		return r;
	}
	cpu->mmu.maxphyaddr = cfg->maxphyaddr;
	cpu->mmu.pages_1g = cpu_has(cpu, CPUF_PDPE1GB);
	cpu->mmu.fast_path = cfg->fast_path;
	cpu->mmu.data_cache = cfg->data_cache;
	cpu_reset(cpu);
	*out = cpu;
	return 0;
}

void cpu_destroy(struct cpu *cpu)
{
	struct arena arena;

	if (!cpu)
		return;
	xlate_destroy(cpu);
	stubs_destroy(cpu->stubs);
	blocks_destroy(cpu);
	mmu_destroy(&cpu->mmu);
	arena = cpu->arena; /* which the processor itself is in */
	arena_destroy(&arena);
}

static void reset_segments(struct cpu *cpu)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg[i] = (struct seg){.attr = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_A, .limit = 0xffff};
	cpu->seg[SEG_CS] = (struct seg){.sel = 0xf000, .base = 0xffff0000, .limit = 0xffff,
					.attr = SEG_AR_P | SEG_AR_S | SEG_AR_CODE | SEG_AR_RW | SEG_AR_A};
	cpu->ldtr = (struct seg){.attr = SEG_AR_P | 2, .limit = 0xffff};
	cpu->tr = (struct seg){.attr = SEG_AR_P | 11, .limit = 0xffff};
	cpu->gdtr = (struct dtable){.limit = 0xffff};
	cpu->idtr = (struct dtable){.limit = 0xffff};
}

static void reset_fpu(struct cpu *cpu)
{
	memset(&cpu->fpu, 0, sizeof(cpu->fpu));
	put_u16(cpu->fpu.fx + FX_FCW, 0x0040);
	cpu->fpu.fx[FX_FTW] = 0xff;
	put_u32(cpu->fpu.fx + FX_MXCSR, 0x1f80);
}

/* What RESET and INIT have in common: the state in which the first instruction of firmware is executed. */
static void begin(struct cpu *cpu)
{
	memset(cpu->gpr, 0, sizeof(cpu->gpr));
	cpu->gpr[RDX] = 0x00050654; /* the processor signature that CPUID gives */
	cpu->gpr[REG_RIP] = 0xfff0;
	cpu->cc = 0;
	cpu->rflags = RF_ONE;
	cpu->cr0 = (cpu->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
	cpu->dr6 = DR6_FIXED;
	cpu->dr7 = DR7_FIXED;
	memset(cpu->dr, 0, sizeof(cpu->dr));
	reset_segments(cpu);
	cpu->fetch_page = FAST_INVALID;
	cpu_update_mode(cpu);
	mmu_flush_everything(&cpu->mmu);
}

void cpu_init(struct cpu *cpu)
{
	begin(cpu);
	cpu->vmx.debugctl = 0;
	cpu->db_pending = 0;
	cpu->shadow_sti = cpu->shadow_movss = cpu->behind_movss = false;
	cpu->nmi_pending = cpu->nmi_blocked = cpu->halted = false;
	lapic_init_reset(&cpu->lapic);
	cpu->lapic.init = false;
}

void cpu_reset(struct cpu *cpu)
{
	cpu->cr0 = CR0_CD | CR0_NW;
	cpu->xcr0 = XCR0_X87;
	memset(&cpu->msr, 0, sizeof(cpu->msr));
	memset(&cpu->pv, 0, sizeof(cpu->pv));
	mmu_dmt_load(&cpu->mmu, NULL, 0);
	cpu->msr.pat = 0x0007040600070406ull;
	cpu->msr.misc_enable = 1; /* fast strings */
	reset_fpu(cpu);
	cpu->vmx = (struct vmx_state){.current = hpa(VMCS_NONE), .counts = cpu->vmx.counts, .tally = cpu->vmx.tally};
	cpu->lapic.has_x2apic = cpu_has(cpu, CPUF_X2APIC);
	cpu->lapic.has_tsc_deadline = cpu_has(cpu, CPUF_TSC_DEADLINE);
	cpu->lapic.maxphyaddr = cpu->cfg.maxphyaddr;
	lapic_reset(&cpu->lapic, cpu->cfg.apic_id);
	cpu->rng = cpu->cfg.seed;
	begin(cpu);
}

void cpu_skip_time(struct cpu *cpu, uint64_t tsc)
{
	if (tsc > cpu_tsc(cpu))
		cpu->tsc_base += tsc - cpu_tsc(cpu);
}
