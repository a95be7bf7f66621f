/*
 * A machine that several VMs share: one processor and one memory, large enough for
 * what each of them needs.
 */
#include "engine/engine_impl.h"

#include <errno.h>
#include <stdlib.h>

/* Everything of a processor that its VMs cannot have each for itself. */
static bool same_processor(const struct cpu_config *a, const struct cpu_config *b)
{
	return !memcmp(a->feature, b->feature, sizeof(a->feature)) && a->maxphyaddr == b->maxphyaddr &&
	       a->mitigations == b->mitigations && a->fast_path == b->fast_path && a->data_cache == b->data_cache &&
	       a->translate == b->translate && a->code_cache == b->code_cache &&
	       !memcmp(&a->hw, &b->hw, sizeof(a->hw));
}

static int check(const struct engine_config *cfg, unsigned vms, struct error *err)
{
	if (!vms || vms > ENGINE_VMS_MAX)
		return error_set(err, -EINVAL, "a machine has from 1 to %d VMs", ENGINE_VMS_MAX);
	for (unsigned i = 0; i < vms; i++) {
		int r = engine_config_check(&cfg[i], err);

		if (r)
			return r;
		if (engine_mmu_is_bare(cfg[i].mmu))
			return error_set(err, -EINVAL, "engine: a native guest has the machine to itself");
		if (!same_processor(&cfg[i].cpu, &cfg[0].cpu))
			return error_set(err, -EINVAL, "engine: VMs on one machine have the same processor");
	}
	return 0;
}

static int make_memory(struct engine_machine *m, const struct engine_config *cfg, unsigned vms, struct error *err)
{
	struct machmem_range ram[2];
	uint64_t bytes = 0;
	unsigned ranges;

	for (unsigned i = 0; i < vms; i++)
		bytes += hv_machine_memory(&cfg[i]);
	ranges = engine_ram_layout(bytes, ram);
	if (ram[ranges - 1].base + ram[ranges - 1].bytes > 1ull << cfg->cpu.maxphyaddr)
		return error_set(err, -EINVAL, "engine: %llu MiB of machine memory need more than %u physical-address bits",
				 (unsigned long long)(bytes >> 20), cfg->cpu.maxphyaddr);
	return machmem_init(&m->mem, ram, ranges, err);
}

int engine_machine_create(struct engine_machine **out, const struct engine_config *cfg, unsigned vms,
			  struct error *err)
{
	struct engine_machine *m;
	int r = check(cfg, vms, err);

	if (r)
		return r;
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(err, -ENOMEM, "engine: out of memory");
	m->processor = cfg->cpu;
	m->vms_max = vms;
	r = make_memory(m, cfg, vms, err);
	if (!r)
		r = cpu_create(&m->cpu, &m->mem, &cfg->cpu, err);
	if (!r)
		r = hv_machine_init(&m->hv, &m->mem, m->cpu, err);
	if (r) {
		engine_machine_destroy(m);
		return r;
	}
	*out = m;
	return 0;
}

void engine_machine_destroy(struct engine_machine *m)
{
	if (!m)
		return;
	if (m->hv.cpu)
		hv_machine_fini(&m->hv);
	cpu_destroy(m->cpu);
	if (m->mem.host)
		machmem_destroy(&m->mem);
	free(m);
}

int engine_machine_admit(struct engine_machine *m, const struct engine_config *cfg, struct error *err)
{
	if (m->hv.vms == m->vms_max)
		return error_set(err, -EINVAL, "engine: the machine was made for %u VMs", m->vms_max);
	if (engine_mmu_is_bare(cfg->mmu) || !same_processor(&cfg->cpu, &m->processor))
		return error_set(err, -EINVAL, "engine: not a VM that the machine was made for");
	return 0;
}
