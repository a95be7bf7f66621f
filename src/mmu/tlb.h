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
 * @arena: has its memory; @fast: keep track of fast slots (first level). -ENOMEM.
 */
int tlb_init(struct tlb *t, struct arena *arena, const struct hw_tlb *hw, bool fast);

/* Page sizes as the TLBs know them: 0, 1, 2 are 4 KiB, 2 MiB, 1 GiB. */
static inline unsigned tlb_size_shift(unsigned size) { return PAGE_SHIFT + 9 * size; }
static inline unsigned tlb_size(unsigned shift) { return (shift >= PAGE_SHIFT + 9) + (shift >= PAGE_SHIFT + 18); }

/* The set that page number @tag belongs to, its first way, and the line that is searched for its ways from @way on. */
static inline uint32_t tlb_set_of(const struct tlb_array *a, uint64_t tag) { return (uint32_t)tag & (a->sets - 1); }
static inline struct tlb_entry *tlb_set(const struct tlb_array *a, uint64_t tag)
{
	return &a->entry[(size_t)tlb_set_of(a, tag) * a->ways];
}
static inline struct ways_line *tlb_line(const struct tlb_array *a, uint32_t set, uint32_t way)
{
	return &a->line[(size_t)set * a->lines + way / WAYS_LINE];
}

static inline bool tlb_tags_match(const struct tlb_entry *e, struct tlb_tags t)
{
	if (e->ep4ta != t.ep4ta)
		return false;
	return e->asid == t.asid || ((e->rights & TLB_G) && e->asid >> 12 == t.asid >> 12);
}

/* The entry in the line that begins at @way of the set, or NULL. */
static ALWAYS_INLINE struct tlb_entry *tlb_find_in_line(const struct tlb_array *a, uint32_t way, uint64_t tag,
							unsigned shift, struct tlb_tags t)
{
	uint32_t set = tlb_set_of(a, tag);

	for (uint32_t m = ways_match(tlb_line(a, set, way), ways_part(tag)); m; m &= m - 1) {
		struct tlb_entry *e = &a->entry[(size_t)set * a->ways + way + (uint32_t)__builtin_ctz(m)];

		if (e->tag == tag && e->shift == shift && tlb_tags_match(e, t))
			return e;
	}
	return NULL;
}

/* The entry for a page of size 2^shift that holds @lin, or NULL. Does not change LRU order. */
static ALWAYS_INLINE struct tlb_entry *tlb_find(const struct tlb_array *a, uint64_t lin, unsigned shift,
						struct tlb_tags t)
{
	struct tlb_entry *e = tlb_find_in_line(a, 0, lin >> shift, shift, t);

	for (uint32_t way = WAYS_LINE; unlikely(!e && way < a->ways); way += WAYS_LINE)
		e = tlb_find_in_line(a, way, lin >> shift, shift, t);
	return e;
}

/* Makes @e, which is in @a, the most recently used of its set. */
static inline void tlb_touch(struct mmu *mmu, struct tlb_array *a, struct tlb_entry *e)
{
	uint32_t set = tlb_set_of(a, e->tag);

	if (a->stamps)
		e->stamp = ++mmu->clock;
	else
		ways_touch(&a->line[set], (uint32_t)(e - &a->entry[(size_t)set * a->ways]));
}

/* Where struct tlb_array counts pieces of the page of 2^@guest_shift bytes that holds @lin. */
static inline unsigned tlb_piece_slot(uint64_t lin, unsigned guest_shift)
{
	return (unsigned)((lin >> guest_shift) * 0x9e3779b97f4a7c15ull >> 32 ^ guest_shift << 5) % TLB_PIECE_SLOTS;
}
/*
 * What is counted of entries that are no pages of 4 KiB on both sides. @by: 1 if @e is about to be in @a, -1 if it is
 * about to leave.
 */
void tlb_count_unusual(struct tlb_array *a, const struct tlb_entry *e, int by);
/*
 * The same of way @way of line @l, which holds @e. Such ways are marked in the line, so that an entry that leaves need not be
 * looked at: the host would wait for it.
 */
static ALWAYS_INLINE void tlb_count_leaving(struct tlb_array *a, struct ways_line *l, uint32_t way, const struct tlb_entry *e)
{
	if (unlikely(l->marked >> way & 1)) {
		tlb_count_unusual(a, e, -1);
		l->marked &= (uint16_t)~(1u << way);
	}
}
static ALWAYS_INLINE void tlb_count_entering(struct tlb_array *a, struct ways_line *l, uint32_t way, const struct tlb_entry *e)
{
	if (unlikely((e->shift ^ PAGE_SHIFT) | (e->guest_shift ^ PAGE_SHIFT))) {
		l->marked |= (uint16_t)(1u << way);
		tlb_count_unusual(a, e, 1);
	}
}
/* May @a hold an entry of @size, which is not 4 KiB, for @lin? */
static ALWAYS_INLINE bool tlb_may_hold_large(const struct tlb_array *a, uint64_t lin, unsigned size)
{
	return a->large[size][(lin >> tlb_size_shift(size)) % TLB_LARGE_SLOTS];
}
/* May an entry of @a be a piece of a larger page of the guest that holds @lin? If not, all that is about @lin is in one set of each size. */
bool tlb_may_hold_pieces(const struct tlb_array *a, uint64_t lin);

/* Fast slots made from @e do not match any more. @modes: bit n: those of mode n may be */
static ALWAYS_INLINE void fast_drop_slot(struct l1_tlb *l1, const struct tlb_entry *e, unsigned slot,
					 unsigned modes)
{
	for (; modes; modes &= modes - 1) {
		struct fast_entry *f = &l1->fast.slot[__builtin_ctz(modes)][slot];

		if (f->entry == e)
			f->rtag = f->wtag = FAST_INVALID;
	}
}
/* The same of a page larger than 4 KiB. */
void fast_drop_large(struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e);
/* What the way @e of a first-level TLB holds is about to leave it. */
static ALWAYS_INLINE void fast_drop(struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e)
{
	if (e->tag == TLB_INVALID)
		return;
	if (likely(e->shift == PAGE_SHIFT))
		fast_drop_slot(l1, e, fast_slot(e->tag << PAGE_SHIFT), e->modes);
	else
		fast_drop_large(l1, a, e);
}

/* The way that was used least recently; one that holds nothing has stamp 0. */
static ALWAYS_INLINE uint32_t tlb_oldest_of(const struct tlb_entry *set, uint32_t ways)
{
	uint64_t oldest = set[0].stamp;
	uint32_t victim = 0;

	/* No branches: which way it is cannot be predicted. */
	for (uint32_t w = 1; w < ways; w++) {
		bool older = set[w].stamp < oldest;

		oldest = older ? set[w].stamp : oldest;
		victim = older ? w : victim;
	}
	return victim;
}
static ALWAYS_INLINE uint32_t tlb_oldest_way(const struct tlb_entry *set, uint32_t ways)
{
	return ways == 4 ? tlb_oldest_of(set, 4) : tlb_oldest_of(set, ways);
}

/*
 * Enters a copy of @e, or of the part of its page that holds @lin and has the @size, in place of the least recently
 * used way; it becomes the most recently used. @l1: that @a is part of, or NULL
 */
static ALWAYS_INLINE struct tlb_entry *tlb_insert(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a,
						  const struct tlb_entry *e, uint64_t lin, unsigned size)
{
	unsigned shift = tlb_size_shift(size);
	uint64_t tag = lin >> shift, page = e->page + (lin & ((1ull << e->shift) - (1ull << shift)));
	uint32_t set = tlb_set_of(a, tag), way;
	struct tlb_entry *ways = &a->entry[(size_t)set * a->ways], *to;
	struct ways_line *l = tlb_line(a, set, 0);

	if (a->stamps)
		way = tlb_oldest_way(ways, a->ways);
	else
		way = ways_replace(l, a->ways);
	to = &ways[way];
	l += way / WAYS_LINE;
	if (l1)
		fast_drop(l1, a, to);
	tlb_count_leaving(a, l, way % WAYS_LINE, to);
	/* One by one: @e was just written so, and the host would wait for its stores if it read more at once. */
	to->tag = tag;
	to->page = page;
	to->asid = e->asid;
	to->ep4ta = e->ep4ta;
	to->rights = e->rights;
	to->shift = (uint8_t)shift;
	to->guest_shift = e->guest_shift;
	to->pkey = e->pkey;
	to->modes = 0;
	tlb_count_entering(a, l, way % WAYS_LINE, to);
	l->part[way % WAYS_LINE] = ways_part(tag);
	if (a->stamps)
		to->stamp = ++mmu->clock;
	a->holds |= (uint8_t)(1u << size);
	return to;
}

/* The way, which is in @a, holds nothing any more, and host-side lookups made from it do not match. @l1 as in tlb_insert(). */
void tlb_drop(struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e);

/* Puts the page of @lin into the fast lookup; f->entry is in @a (NULL: in no TLB) and of a page of 2^@shift bytes. */
static ALWAYS_INLINE void fast_fill(struct l1_tlb *l1, const struct tlb_array *a, const struct fast_entry *f,
				    unsigned shift, uint64_t lin, enum access_mode mode)
{
	unsigned slot = fast_slot(lin);

	l1->fast.slot[mode][slot] = *f;
	l1->fast.used[mode][slot / 64] |= 1ull << (slot % 64);
	f->entry->modes |= (uint8_t)(1u << mode);
	if (shift > PAGE_SHIFT && a && a->slots)
		a->slots[f->entry - a->entry][slot / 64] |= 1ull << (slot % 64);
}
void fast_flush(struct l1_tlb *l1);

#endif
