/*
 * Leaf entries begin with accessed and dirty flags clear, the hardware sets them, and to collect is to look at every
 * entry there is. No exits, but the work does not depend on how little was written. Under EPT a walk of the guest's
 * tables sets the dirty flags of the pages that they are in, as the manual wants it.
 */
#include "hv/dirty.h"

static void collect(struct hv_vm *vm) { vm->mmu->scan(vm); }

const struct hv_tracker hv_tracker_ad = {
	.schemes = 1u << ENGINE_BRUTE | 1u << ENGINE_SHADOW | (ENGINE_NESTS & ~(1u << ENGINE_AGILE)),
	.flags = true,
	.accesses = true,
	.collect = collect,
};
