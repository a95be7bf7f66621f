/* One set-associative TLB array with true LRU, and the host-side lookups that mirror its most recently used ways. */
#ifndef GNOMON_MMU_TLB_H
#define GNOMON_MMU_TLB_H

#include "mmu/mmu.h"

/* @sets: power of two. @fast: keep track of fast slots (L1 arrays). -ENOMEM. */
int tlb_array_init(struct tlb_array *a, uint32_t sets, uint32_t ways, bool fast);
void tlb_array_destroy(struct tlb_array *a);

/* What a lookup must match besides the page. */
struct tlb_tags {
	uint32_t asid;  /* vpid << 12 | pcid */
	uint64_t ep4ta;
};

/* The entry for a page of size 2^shift that holds @lin, or NULL. Does not change LRU order. */
struct tlb_entry *tlb_find(const struct tlb_array *a, uint64_t lin, unsigned shift, struct tlb_tags t);
/* Makes @e, which is in @a, the most recently used of its set. */
void tlb_touch(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e);
/* Enters a copy of @e in place of the least recently used way; it becomes the most recently used. */
struct tlb_entry *tlb_insert(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e);
/* The way holds nothing any more. Host-side lookups made from it are the caller's: mmu_fast_flush(). */
void tlb_drop(struct tlb_entry *e);

/* Puts the page of @lin into the fast lookup; f->entry is the MRU way of its set (f->array is NULL: of none). */
void fast_fill(struct l1_tlb *l1, const struct fast_entry *f, uint64_t lin, enum access_mode mode);
void fast_flush(struct l1_tlb *l1);

#endif
