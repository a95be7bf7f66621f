/*
 * Invalidations that the translation hardware makes by itself; those that software
 * asks for are in mmu.h.
 */
#ifndef GNOMON_MMU_FLUSH_H
#define GNOMON_MMU_FLUSH_H

#include "mmu/tlb.h"

/* The translations of @lin that a lookup with @t would find, from every TLB. */
void flush_translation(struct mmu *m, uint64_t lin, struct tlb_tags t);

/* After an access to @lin that ended in @ev: what the manual drops by page faults and EPT violations. */
void flush_after_event(struct mmu *m, enum xlate_event ev, uint64_t lin, const struct xlate *x);
/* The same for an access that the processor made by physical address. */
void flush_after_physical_event(struct mmu *m, enum xlate_event ev, const struct xlate *x);


/* What a walk to @lin with the registers as they are is shortened by; what one to guest-physical @gpa_v is. */
void flush_stale_structures(struct mmu *m, uint64_t lin);
void flush_stale_nested(struct mmu *m, uint64_t gpa_v);

#endif
