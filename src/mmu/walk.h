/* The hardware page walker: one radix walk, and nesting as its composition with the EPT walk. */
#ifndef GNOMON_MMU_WALK_H
#define GNOMON_MMU_WALK_H

#include "mmu/mmu.h"

/*
 * Walks for one access: reads the tables, sets accessed and dirty flags, counts
 * its references in mmu->stats.
 * On XLATE_OK fills @e (tag, page, rights, shift, pkey; not the tags).
 */
enum xlate_event walk_linear(struct mmu *mmu, uint64_t lin, enum access_kind kind, enum access_mode mode,
			     struct tlb_entry *e, struct xlate *out);

/* Guest-physical to host-physical through EPT (or identity). */
enum xlate_event walk_physical(struct mmu *mmu, uint64_t gpa, enum access_kind kind, struct xlate *out,
			       struct tlb_entry *e);

/* The registers have changed: what follows from them (mmu->tags and others) is computed anew. */
void walk_set_regs(struct mmu *mmu);

#endif
