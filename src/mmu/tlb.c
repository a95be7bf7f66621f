#include "mmu/tlb.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static int array_init(struct tlb_array *a, const struct hw_array *hw, bool fast)
{
	uint32_t sets = hw_array_sets(hw);

	assert(hw->ways && sets && (sets & (sets - 1)) == 0 && sets * hw->ways == hw->entries);
	*a = (struct tlb_array){.sets = sets, .ways = hw->ways, .pages = hw->pages};
	a->entry = aligned_alloc(64, hw->entries * sizeof(*a->entry));
	a->mru = calloc(sets, sizeof(*a->mru));
	a->slots = fast ? calloc((size_t)sets * FAST_WORDS, sizeof(*a->slots)) : NULL;
	a->slot = fast ? malloc(sets * sizeof(*a->slot)) : NULL;
	if (!a->entry || !a->mru || (fast && (!a->slots || !a->slot)))
		return -ENOMEM;
	if (fast)
		memset(a->slot, 0xff, sets * sizeof(*a->slot));
	for (uint32_t i = 0; i < hw->entries; i++)
		a->entry[i] = (struct tlb_entry){.tag = TLB_INVALID};
	return 0;
}

int tlb_init(struct tlb *t, const struct hw_tlb *hw, bool fast)
{
	*t = (struct tlb){0};
	assert(hw->arrays <= HW_ARRAYS_MAX);
	for (unsigned i = 0; i < hw->arrays; i++) {
		const struct hw_array *h = &hw->array[i];
		struct tlb_array *a = &t->array[t->arrays];

		if (!h->entries)
			continue;
		t->arrays++;
		if (array_init(a, h, fast))
			return -ENOMEM;
		for (unsigned size = 0; size < HW_PAGES; size++) {
			if (!(h->pages >> size & 1))
				continue;
			assert(!t->of[size]);
			t->of[size] = a;
		}
	}
	return 0;
}

void tlb_destroy(struct tlb *t)
{
	for (unsigned i = 0; i < t->arrays; i++) {
		free(t->array[i].entry);
		free(t->array[i].mru);
		free(t->array[i].slots);
		free(t->array[i].slot);
	}
	*t = (struct tlb){0};
}

static uint32_t set_of(const struct tlb_array *a, uint64_t tag) { return (uint32_t)tag & (a->sets - 1); }

static bool tags_match(const struct tlb_entry *e, struct tlb_tags t)
{
	if (e->ep4ta != t.ep4ta)
		return false;
	return e->asid == t.asid || ((e->rights & TLB_G) && e->asid >> 12 == t.asid >> 12);
}

struct tlb_entry *tlb_find(const struct tlb_array *a, uint64_t lin, unsigned shift, struct tlb_tags t)
{
	uint64_t tag = lin >> shift;
	struct tlb_entry *e = &a->entry[(size_t)set_of(a, tag) * a->ways];

	for (uint32_t w = 0; w < a->ways; w++)
		if (e[w].tag == tag && e[w].shift == shift && tags_match(&e[w], t))
			return &e[w];
	return NULL;
}

static void fast_suspend_slot(struct fast_tlb *f, unsigned slot)
{
	for (unsigned m = 0; m < MODE_USER_ALIGN; m++) {
		f->slot[m][slot].rtag = FAST_INVALID;
		f->slot[m][slot].wtag = FAST_INVALID;
	}
}

static NOINLINE void fast_suspend_several(struct l1_tlb *l1, uint64_t *word)
{
	for (unsigned w = 0; w < FAST_WORDS; w++) {
		for (uint64_t left = word[w]; left; left &= left - 1)
			fast_suspend_slot(&l1->fast, w * 64 + (unsigned)__builtin_ctzll(left));
		word[w] = 0;
	}
}

/* The MRU way of the set is about to be another one: its pages do not match any more. */
static void fast_suspend_set(struct l1_tlb *l1, struct tlb_array *a, uint32_t set)
{
	unsigned slot = a->slot[set];

	a->slot[set] = FAST_NONE;
	if (likely(slot < FAST_SLOTS))
		fast_suspend_slot(&l1->fast, slot);
	else if (slot == FAST_SEVERAL)
		fast_suspend_several(l1, &a->slots[(size_t)set * FAST_WORDS]);
}

static ALWAYS_INLINE void touch(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e)
{
	uint32_t set = set_of(a, e->tag);

	if (a->slots) {
		if (a->mru[set] == e)
			return;
		fast_suspend_set(l1, a, set);
		a->mru[set] = e;
	}
	e->stamp = ++mmu->clock;
}

void tlb_touch(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e) { touch(mmu, l1, a, e); }

static uint32_t victim_way(const struct tlb_entry *set, uint32_t ways)
{
	uint64_t oldest = set[0].stamp;
	uint32_t victim = 0;

	/* A way that holds nothing has stamp 0. No branches: which way it is cannot be predicted. */
	for (uint32_t w = 1; w < ways; w++) {
		bool older = set[w].stamp < oldest;

		oldest = older ? set[w].stamp : oldest;
		victim = older ? w : victim;
	}
	return victim;
}

struct tlb_entry *tlb_insert(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e)
{
	uint32_t set = set_of(a, e->tag);
	struct tlb_entry *ways = &a->entry[(size_t)set * a->ways];
	uint32_t way = victim_way(ways, a->ways);
	uint32_t generation = ways[way].generation + 1;

	a->holds |= (uint8_t)(1u << (e->shift - PAGE_SHIFT) / 9);
	if (a->slots)
		fast_suspend_set(l1, a, set);
	ways[way] = *e;
	ways[way].stamp = ++mmu->clock;
	ways[way].generation = generation;
	a->mru[set] = &ways[way];
	return &ways[way];
}

void tlb_drop(struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e)
{
	uint32_t set = set_of(a, e->tag);

	/* Only the most recently used way's slots match; the generation sees to those that would be touched. */
	if (a->slots && a->mru[set] == e)
		fast_suspend_set(l1, a, set);
	e->tag = TLB_INVALID;
	e->stamp = 0;
	e->generation++;
}

static void mark_bit(struct tlb_array *a, uint32_t set, unsigned slot)
{
	a->slots[(size_t)set * FAST_WORDS + slot / 64] |= 1ull << (slot % 64);
}

static void mark_slot(struct tlb_array *a, const struct tlb_entry *e, unsigned slot)
{
	uint32_t set = set_of(a, e->tag);

	if (likely(a->slot[set] == FAST_NONE)) {
		a->slot[set] = (uint16_t)slot;
	} else if (a->slot[set] != slot) {
		if (a->slot[set] != FAST_SEVERAL)
			mark_bit(a, set, a->slot[set]);
		mark_bit(a, set, slot);
		a->slot[set] = FAST_SEVERAL;
	}
}

void fast_fill(struct l1_tlb *l1, const struct fast_entry *f, uint64_t lin, enum access_mode mode)
{
	unsigned slot = fast_slot(lin);

	l1->fast.slot[mode][slot] = *f;
	l1->fast.used[mode][slot / 64] |= 1ull << (slot % 64);
	if (f->array && f->array->slots)
		mark_slot(f->array, f->entry, slot);
}

struct fast_entry *mmu_fast_touch(struct mmu *mmu, struct l1_tlb *l1, uint64_t lin, enum access_kind kind,
				  enum access_mode mode)
{
	unsigned slot = fast_slot(lin);
	struct fast_entry *f = &l1->fast.slot[mode][slot];

	if ((lin & PAGE_MASK) != (kind == ACCESS_WRITE ? f->any_wtag : f->any_rtag) ||
	    f->generation != f->entry->generation)
		return NULL;
	touch(mmu, l1, f->array, f->entry);
	f->rtag = f->any_rtag;
	f->wtag = f->any_wtag;
	mark_slot(f->array, f->entry, slot);
	return f;
}

void fast_flush(struct l1_tlb *l1)
{
	for (unsigned m = 0; m < MODE_COUNT; m++) {
		for (unsigned w = 0; w < FAST_WORDS; w++) {
			for (uint64_t left = l1->fast.used[m][w]; left; left &= left - 1) {
				struct fast_entry *f = &l1->fast.slot[m][w * 64 + (unsigned)__builtin_ctzll(left)];

				f->rtag = f->any_rtag = FAST_INVALID;
				f->wtag = f->any_wtag = FAST_INVALID;
			}
			l1->fast.used[m][w] = 0;
		}
	}
}
