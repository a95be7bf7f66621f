/* Direct translation as the walker calls it. */
#ifndef GNOMON_MMU_DMT_IMPL_H
#define GNOMON_MMU_DMT_IMPL_H

#include "mmu/walk_impl.h"

/*
 * A walk by registers: of the linear address w->lin if mmu->direct, of the guest-physical one if mmu->direct_host.
 * True:
 * @e and w->out are filled in as by walk_linear() and walk_physical(), and the walk is counted. False: nothing has
 * changed but counts and caches; the tables are to be walked, w->refs references having been made already.
 */
bool dmt_walk_linear(struct walk *w, struct tlb_entry *e);
bool dmt_walk_physical(struct walk *w, struct tlb_entry *e);

/* What follows from registers of the processor and of translation is computed anew. */
void dmt_update(struct mmu *m);

/* mmu_dmt.audit: compares the translation @e with the tables, which are read without any effect. */
void dmt_audit_linear(struct mmu *m, const struct walk *w, const struct tlb_entry *e);
void dmt_audit_physical(struct mmu *m, const struct walk *w, const struct tlb_entry *e);

#endif
