/*
 * See cost.h. Every line is a count times a figure. Left out: whatever overlaps
 * (out-of-order execution, two walkers), instruction-cache misses, pollution of
 * caches by the hypervisor, and its instructions other than those that are counted.
 */
#include "lab/cost.h"

#include <assert.h>

static_assert(OBS_PLACES == HW_PLACES && OBS_LEVELS == HW_LEVELS && OBS_EXIT_REASONS == HW_EXIT_REASONS,
	      "counters and description speak of the same things");

uint32_t cost_latency(const struct hw *hw, enum hw_place place)
{
	return place == HW_MEMORY ? hw->memory_latency : hw->cache[place].latency;
}

static double times(uint64_t count, double cycles) { return (double)count * cycles; }

static void account_translation(const struct hw *hw, const struct obs *obs, struct cost *c)
{
	uint64_t cached = 0;

	for (unsigned level = 0; level < OBS_LEVELS; level++)
		cached += obs->translation.guest_cache_hits[level] + obs->translation.host_cache_hits[level];
	c->l2_tlb = times(obs->translation.l2d_hits + obs->translation.l2i_hits, hw->cost.l2_tlb_hit);
	c->walks = times(obs->translation.walks, hw->cost.l2_tlb_miss);
	for (unsigned p = 0; p < HW_PLACES; p++)
		c->references += times(obs->translation.ref_hits[p], cost_latency(hw, (enum hw_place)p));
	c->walk_caches = times(cached, hw->cost.walk_cache_hit) +
			 times(obs->translation.nested_tlb_hits, hw->cost.nested_tlb_hit);
	c->registers = times(obs->translation.dmt.lookups, hw->cost.register_lookup);
	for (unsigned p = 0; p < HW_PLACES; p++)
		c->registers += times(obs->translation.dmt.reload_hits[p], cost_latency(hw, (enum hw_place)p));
	c->translation = c->l2_tlb + c->walks + c->references + c->walk_caches + c->registers;
}

/* A hit in L1 is part of the instruction. */
static void account_data(const struct hw *hw, const struct obs *obs, struct cost *c)
{
	double l1 = cost_latency(hw, HW_L1);

	for (unsigned p = HW_L1 + 1; p < HW_PLACES; p++) {
		double beyond = cost_latency(hw, (enum hw_place)p) - l1;

		c->data += times(obs->translation.data_hits[p], beyond > 0 ? beyond : 0);
	}
}

static void account_hypervisor(const struct hw *hw, const struct obs *obs, struct cost *c)
{
	for (unsigned i = 0; i < OBS_EXIT_REASONS; i++)
		c->exits += times(obs->exits.by_reason[i], hw->cost.exit[i]);
	c->entries = times(obs->hypervisor.entries, hw->cost.entry);
	c->dispatch = times(obs->exits.total, hw->cost.dispatch);
	c->vmcs = times(obs->hypervisor.vmreads, hw->cost.vmread) + times(obs->hypervisor.vmwrites, hw->cost.vmwrite);
	c->invalidations = times(obs->hypervisor.invepts, hw->cost.invept) +
			   times(obs->hypervisor.invvpids, hw->cost.invvpid);
	c->emulation = times(obs->shadow.emulated, hw->cost.emulated_insn);
	c->tables = times(obs->hypervisor.table_reads, hw->cost.table_read) +
		    times(obs->hypervisor.table_writes, hw->cost.table_write);
	c->hypervisor = c->exits + c->entries + c->dispatch + c->vmcs + c->invalidations + c->emulation + c->tables;
}

void cost_account(const struct hw *hw, const struct obs *obs, uint64_t insns, struct cost *out)
{
	*out = (struct cost){.instructions = times(insns, hw->cost.instruction)};
	account_translation(hw, obs, out);
	account_data(hw, obs, out);
	out->events = times(obs->cpu.exceptions + obs->cpu.interrupts, hw->cost.page_fault);
	account_hypervisor(hw, obs, out);
	out->total = out->instructions + out->translation + out->data + out->events + out->hypervisor;
}
