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
	a->slots = fast && hw->pages != HW_4K ? calloc(hw->entries, sizeof(*a->slots)) : NULL;
	a->line = ways_new(sets, hw->ways, &a->lines, &a->memory);
	a->stamps = fast || a->lines > 1;
	if (!a->entry || !a->line || (fast && hw->pages != HW_4K && !a->slots))
		return -ENOMEM;
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
		free(t->array[i].memory);
		free(t->array[i].slots);
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

/* The line that has the way. */
static struct ways_line *line_of(const struct tlb_array *a, uint32_t set, uint32_t way)
{
	return &a->line[(size_t)set * a->lines + way / WAYS_LINE];
}

struct tlb_entry *tlb_find(const struct tlb_array *a, uint64_t lin, unsigned shift, struct tlb_tags t)
{
	uint64_t tag = lin >> shift;
	uint16_t part = ways_part(tag);
	uint32_t set = set_of(a, tag);
	struct tlb_entry *ways = &a->entry[(size_t)set * a->ways];

	for (uint32_t n = 0; n < a->ways; n += WAYS_LINE) {
		for (uint32_t m = ways_match(line_of(a, set, n), part); m; m &= m - 1) {
			struct tlb_entry *e = &ways[n + (uint32_t)__builtin_ctz(m)];

			if (e->tag == tag && e->shift == shift && tags_match(e, t))
				return e;
		}
	}
	return NULL;
}

static void fast_drop_slot(struct l1_tlb *l1, const struct tlb_entry *e, unsigned slot)
{
	for (unsigned m = 0; m < MODE_USER_ALIGN; m++) {
		struct fast_entry *f = &l1->fast.slot[m][slot];

		if (f->entry == e)
			f->rtag = f->wtag = FAST_INVALID;
	}
}

/* What the way @e of a first-level TLB holds is about to leave it. */
static void fast_drop(struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e)
{
	if (e->tag == TLB_INVALID)
		return;
	if (e->shift == PAGE_SHIFT) {
		fast_drop_slot(l1, e, fast_slot(e->tag << PAGE_SHIFT));
		return;
	}
	for (unsigned w = 0; w < FAST_WORDS; w++) {
		uint64_t *word = &a->slots[e - a->entry][w];

		for (; *word; *word &= *word - 1)
			fast_drop_slot(l1, e, w * 64 + (unsigned)__builtin_ctzll(*word));
	}
}

void tlb_touch(struct mmu *mmu, struct tlb_array *a, struct tlb_entry *e)
{
	uint32_t set = set_of(a, e->tag);

	if (a->stamps)
		e->stamp = ++mmu->clock;
	else
		ways_touch(&a->line[set], (uint32_t)(e - &a->entry[(size_t)set * a->ways]));
}

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

/* @by: 1 if @e is about to be in @a, -1 if it is about to leave. */
static void count_piece(struct tlb_array *a, const struct tlb_entry *e, int by)
{
	if (e->tag != TLB_INVALID && e->shift < e->guest_shift)
		a->pieces[tlb_piece_slot(e->tag << e->shift, e->guest_shift)] += (uint32_t)by;
}

bool tlb_may_hold_pieces(const struct tlb_array *a, uint64_t lin)
{
	/* The sizes of pages of the guest that may be more than an entry: 2 MiB, 4 MiB, 1 GiB. */
	return a->pieces[tlb_piece_slot(lin, 21)] || a->pieces[tlb_piece_slot(lin, 22)] ||
	       a->pieces[tlb_piece_slot(lin, 30)];
}

struct tlb_entry *tlb_insert(struct mmu *mmu, struct l1_tlb *l1, struct tlb_array *a, const struct tlb_entry *e,
			     uint64_t lin, unsigned size)
{
	unsigned shift = tlb_size_shift(size);
	uint64_t tag = lin >> shift;
	uint32_t set = set_of(a, tag);
	struct tlb_entry *ways = &a->entry[(size_t)set * a->ways];
	uint32_t way = a->stamps ? victim_way(ways, a->ways) : ways_victim(&a->line[set], a->ways);

	a->holds |= (uint8_t)(1u << size);
	if (l1)
		fast_drop(l1, a, &ways[way]);
	count_piece(a, &ways[way], -1);
	ways[way] = *e;
	ways[way].page += lin & ((1ull << e->shift) - (1ull << shift));
	ways[way].tag = tag;
	ways[way].shift = (uint8_t)shift;
	count_piece(a, &ways[way], 1);
	line_of(a, set, way)->part[way % WAYS_LINE] = ways_part(tag);
	tlb_touch(mmu, a, &ways[way]);
	return &ways[way];
}

void tlb_drop(struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e)
{
	uint32_t set = set_of(a, e->tag), way = (uint32_t)(e - &a->entry[(size_t)set * a->ways]);

	if (l1)
		fast_drop(l1, a, e);
	count_piece(a, e, -1);
	line_of(a, set, way)->part[way % WAYS_LINE] = 0;
	e->tag = TLB_INVALID;
	e->stamp = 0;
}

void fast_fill(struct l1_tlb *l1, const struct tlb_array *a, const struct fast_entry *f, uint64_t lin,
	       enum access_mode mode)
{
	unsigned slot = fast_slot(lin);

	l1->fast.slot[mode][slot] = *f;
	l1->fast.used[mode][slot / 64] |= 1ull << (slot % 64);
	if (a && a->slots)
		a->slots[f->entry - a->entry][slot / 64] |= 1ull << (slot % 64);
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
