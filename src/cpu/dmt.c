/*
 * The two MSRs of direct translation (arch/dmt.h): loading the processor's registers from memory, and requests, which
 * the processor answers itself where no hypervisor does. What the registers do is mmu/dmt.c.
 *
 * Memory is read by physical address: through EPT where it is in force, in the emulator's role by way of its owner.
 * A hypervisor without EPT has to intercept the first of them; the second exits by itself.
 */
#include "cpu/dmt.h"

#include "cpu/block.h"
#include "cpu/vmx.h"

/* ---- physical memory ---- */

/* Machine address of guest-physical @at. 0; -1: no RAM there; EXEC_STOP: an EPT event. */
static int locate(struct cpu *cpu, uint64_t at, hpa_t *out)
{
	*out = hpa(at);
	if (cpu->emul_ops || cpu->mmu.regs.nested) {
		struct xlate x = {0};
		enum xlate_event ev = cpu->emul_ops ? cpu->emul_ops->translate_gpa(cpu->emul_ctx, at, ACCESS_READ, &x)
						    : mmu_translate_gpa(&cpu->mmu, gpa(at), ACCESS_READ, &x);

		if (ev)
			return vmx_exit_ept(cpu, ev, &x, 0, false);
		*out = hpa(x.page.v + (at & ~PAGE_MASK));
	}
	return machmem_is_ram(cpu->mmu.mem, *out) ? 0 : -1;
}

static bool holds(const struct cpu *cpu, uint64_t at, uint64_t bytes)
{
	const struct machmem *mem = cpu->mmu.mem;

	if (cpu->emul_ops)
		return cpu->emul_ops->holds(cpu->emul_ctx, at, bytes);
	return machmem_holds(mem->range, mem->ranges, at, bytes);
}

static bool address_ok(const struct cpu *cpu, uint64_t at) { return !(at >> cpu->cfg.maxphyaddr); }

/* ---- MSR_DMT_LOAD ---- */

unsigned cpu_dmt_count(uint64_t load) { return (unsigned)(load & DMT_COUNT_MASK); }

void cpu_set_dmt(struct cpu *cpu, uint64_t load, const struct dmt_entry *e)
{
	cpu->pv.load = load;
	mmu_dmt_load(&cpu->mmu, e, cpu_dmt_count(load));
}

/* Reads the register at guest-physical @at. As locate(). */
static int read_register(struct cpu *cpu, uint64_t at, struct dmt_entry *e)
{
	hpa_t place;
	int r = locate(cpu, at, &place);

	if (r)
		return r;
	memcpy(e, machmem_ptr(cpu->mmu.mem, place), sizeof(*e));
	mmu_dmt_count_reload(&cpu->mmu, place.v);
	return 0;
}

int cpu_load_dmt(struct cpu *cpu, uint64_t v)
{
	uint64_t at = v & ~DMT_COUNT_MASK;
	struct dmt_entry e[DMT_REGISTERS];
	unsigned n = cpu_dmt_count(v);

	if (!cpu_has(cpu, CPUF_DMT) || n > DMT_REGISTERS || !address_ok(cpu, at))
		return -1;
	for (unsigned i = 0; i < n; i++) {
		int r = read_register(cpu, at + i * sizeof(*e), &e[i]);

		if (r)
			return r;
	}
	cpu_set_dmt(cpu, v, e);
	cpu->mmu.stats.dmt.reloads++;
	cpu->pv.loaded = true;
	return 0;
}

/* ---- MSR_PV_REQUEST ---- */

/* Guest memory was written at @place, which is guest-physical @at. */
static void wrote(struct cpu *cpu, uint64_t at, hpa_t place, unsigned bytes)
{
	if (cpu->emul_ops)
		cpu->emul_ops->wrote(cpu->emul_ctx, at, bytes);
	else
		blocks_note_write(cpu, place.v, bytes);
}

int cpu_serve_request(struct cpu *cpu, uint64_t at)
{
	struct pv_request *r = &cpu->pv.last;
	hpa_t place;

	if (!cpu_has(cpu, CPUF_DMT) || at & (sizeof(*r) - 1) || !address_ok(cpu, at) || locate(cpu, at, &place))
		return -1;
	memcpy(r, machmem_ptr(cpu->mmu.mem, place), sizeof(*r));
	pv_serve(&cpu->pv.state, r, holds(cpu, r->gpa, pv_range_bytes(r)));
	memcpy(machmem_ptr(cpu->mmu.mem, place), r, sizeof(*r));
	wrote(cpu, at, place, sizeof(*r));
	cpu->pv.request = at;
	cpu->pv.answered = true;
	cpu->stats.requests++;
	cpu->stats.requests_refused += r->status != PV_DONE;
	return 0;
}
