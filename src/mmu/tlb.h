/*
 * TLBs: set-associative arrays with true LRU, and the host-side lookups that mirror
 * first-level ones. Replacement other than LRU and
 * hashed set indices are not modelled.
 */
#ifndef GNOMON_MMU_TLB_H
#define GNOMON_MMU_TLB_H

#include "arch/vmx.h"
#include "arch/x86.h"
#include "mmu/mmu.h"

/*
 * The arrays that @hw describes, empty; it must not move afterwards.
 * @fast: keep track of fast slots (first level). -ENOMEM (tlb_destroy() is still allowed).
 */
int tlb_init(struct tlb *t, const struct hw_tlb *hw, bool fast);
void tlb_destroy(struct tlb *t);

/* Page sizes as the TLBs know them: 0, 1, 2 are 4 KiB, 2 MiB, 1 GiB. */
static inline unsigned tlb_size_shift(unsigned size) { return PAGE_SHIFT + 9 * size; }
static inline unsigned tlb_size(unsigned shift) { return (shift >= PAGE_SHIFT + 9) + (shift >= PAGE_SHIFT + 18); }

/* First way of the set that page number @tag belongs to. */
static inline struct tlb_entry *tlb_set(const struct tlb_array *a, uint64_t tag)
{
	return &a->entry[(size_t)((uint32_t)tag & (a->sets - 1)) * a->ways];
}

/* The entry for a page of size 2^shift that holds @lin, or NULL. Does not change LRU order. */
struct tlb_entry *tlb_find(const struct tlb_array *a, uint64_t lin, unsigned shift, struct tlb_tags t);
/* Makes @e, which is in @a, the most recently used of its set. */
void tlb_touch(struct mmu *mmu, struct tlb_array *a, struct tlb_entry *e);
/*
 * Enters a copy of @e, or of the part of its page that holds @lin and has the @size, in place of the least recently
 * used way; it becomes the most recently used. @l1: that @a is part of, or NULL
 */
struct tlb_entry *tlb_insert(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e,
			     uint64_t lin, unsigned size);
/* Where struct tlb_array counts pieces of the page of 2^@guest_shift bytes that holds @lin. */
static inline unsigned tlb_piece_slot(uint64_t lin, unsigned guest_shift)
{
	return (unsigned)(lin >> guest_shift ^ guest_shift << 5) % TLB_PIECE_SLOTS;
}
/* May an entry of @a be a piece of a larger page of the guest that holds @lin? If not, all that is about @lin is in one set of each size. */
bool tlb_may_hold_pieces(const struct tlb_array *a, uint64_t lin);

/* The way, which is in @a, holds nothing any more, and host-side lookups made from it do not match. @l1 as in tlb_insert(). */
void tlb_drop(struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e);

/* Puts the page of @lin into the fast lookup; f->entry is in @a (NULL: in no TLB). */
void fast_fill(struct l1_tlb *l1, const struct tlb_array *a, const struct fast_entry *f, uint64_t lin,
	       enum access_mode mode);
void fast_flush(struct l1_tlb *l1);

#endif
