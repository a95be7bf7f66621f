#include "mmu/tlb.h"

#include <assert.h>
#include <errno.h>

static int array_init(struct tlb_array *a, struct arena *arena, const struct hw_array *hw, bool fast)
{
	uint32_t sets = hw_array_sets(hw);

	assert(hw->ways && sets && (sets & (sets - 1)) == 0 && sets * hw->ways == hw->entries);
	*a = (struct tlb_array){.sets = sets, .ways = hw->ways, .pages = hw->pages};
	a->entry = arena_alloc(arena, hw->entries, sizeof(*a->entry));
	a->slots = fast && hw->pages != HW_4K ? arena_alloc(arena, hw->entries, sizeof(*a->slots)) : NULL;
	a->line = ways_new(arena, sets, hw->ways, &a->lines);
	a->stamps = fast || a->lines > 1;
	if (!a->entry || !a->line || (fast && hw->pages != HW_4K && !a->slots))
		return -ENOMEM;
	for (uint32_t i = 0; i < hw->entries; i++)
		a->entry[i] = (struct tlb_entry){.tag = TLB_INVALID};
	return 0;
}

int tlb_init(struct tlb *t, struct arena *arena, const struct hw_tlb *hw, bool fast)
{
	*t = (struct tlb){0};
	assert(hw->arrays <= HW_ARRAYS_MAX);
	for (unsigned i = 0; i < hw->arrays; i++) {
		const struct hw_array *h = &hw->array[i];
		struct tlb_array *a = &t->array[t->arrays];

		if (!h->entries)
			continue;
		t->arrays++;
		if (array_init(a, arena, h, fast))
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

void fast_drop_large(struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e)
{
	for (unsigned w = 0; w < FAST_WORDS; w++) {
		uint64_t *word = &a->slots[e - a->entry][w];

		for (; *word; *word &= *word - 1)
			fast_drop_slot(l1, e, w * 64 + (unsigned)__builtin_ctzll(*word), 7);
	}
}

void tlb_count_unusual(struct tlb_array *a, const struct tlb_entry *e, int by)
{
	if (e->shift > PAGE_SHIFT)
		a->large[tlb_size(e->shift)][e->tag % TLB_LARGE_SLOTS] += (uint32_t)by;
	if (e->shift < e->guest_shift)
		a->pieces[tlb_piece_slot(e->tag << e->shift, e->guest_shift)] += (uint32_t)by;
}

bool tlb_may_hold_pieces(const struct tlb_array *a, uint64_t lin)
{
	/* The sizes of pages of the guest that may be more than an entry: 2 MiB, 4 MiB, 1 GiB. */
	return a->pieces[tlb_piece_slot(lin, 21)] || a->pieces[tlb_piece_slot(lin, 22)] ||
	       a->pieces[tlb_piece_slot(lin, 30)];
}

void tlb_drop(struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e)
{
	uint32_t set = tlb_set_of(a, e->tag), way = (uint32_t)(e - &a->entry[(size_t)set * a->ways]);
	struct ways_line *l = tlb_line(a, set, way);

	if (l1)
		fast_drop(l1, a, e);
	tlb_count_leaving(a, l, way % WAYS_LINE, e);
	l->part[way % WAYS_LINE] = 0;
	e->tag = TLB_INVALID;
	e->stamp = 0;
}

void fast_flush(struct l1_tlb *l1)
{
	for (unsigned m = 0; m < MODE_COUNT; m++) {
		for (unsigned w = 0; w < FAST_WORDS; w++) {
			for (uint64_t left = l1->fast.used[m][w]; left; left &= left - 1) {
				struct fast_entry *f = &l1->fast.slot[m][w * 64 + (unsigned)__builtin_ctzll(left)];

				f->rtag = f->wtag = FAST_INVALID;
			}
			l1->fast.used[m][w] = 0;
		}
	}
}
