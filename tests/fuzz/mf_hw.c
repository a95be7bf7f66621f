/*
 * Random translation hardware for machfuzz: a built-in description, or one whose
 * structures are drawn at random, mostly tiny (things are evicted all the time) or
 * large (they never are). What a strict guest does must not depend on it.
 */
#include "mf_hw.h"

static uint32_t draw(uint64_t *rng, uint32_t n) { return (uint32_t)((mf_next(rng) >> 32) % n); }

/* @size 0: none, one or a few entries; 1: anything; 2: many. */
static struct hw_array random_array(uint64_t *rng, unsigned size, uint8_t pages)
{
	static const uint8_t most_ways[] = {2, 8, 16}, most_sets[] = {1, 5, 7}; /* sets as a power of two */
	uint32_t ways = 1 + draw(rng, most_ways[size]), sets = 1u << draw(rng, most_sets[size]);

	if (size == 2)
		return (struct hw_array){.entries = 64u * (32u << draw(rng, 3)), .ways = 64, .pages = pages};
	return (struct hw_array){.entries = ways * sets, .ways = ways, .pages = pages};
}

/* A walk cache or the nested TLB: often there is none. */
static struct hw_array random_cache(uint64_t *rng, unsigned size)
{
	return size < 2 && draw(rng, 3) == 0 ? (struct hw_array){0} : random_array(rng, size, 0);
}

/* Deals the page sizes out to arrays. @optional: sizes may be in none */
static void random_tlb(uint64_t *rng, unsigned size, bool optional, struct hw_tlb *t)
{
	uint8_t pages[HW_ARRAYS_MAX] = {0};

	*t = (struct hw_tlb){0};
	for (unsigned i = 0; i < HW_PAGES; i++)
		if (!optional || draw(rng, 4))
			pages[draw(rng, HW_ARRAYS_MAX)] |= (uint8_t)(1u << i);
	for (unsigned i = 0; i < HW_ARRAYS_MAX; i++)
		if (pages[i])
			t->array[t->arrays++] = random_array(rng, size, pages[i]);
}

static void random_walk_caches(uint64_t *rng, unsigned size, struct hw *hw)
{
	hw->walk_caches = (enum hw_walk_caches)draw(rng, HW_WALK_UNIFIED + 1);
	for (unsigned level = 2; level < HW_LEVELS; level++) {
		hw->guest[level] = random_cache(rng, size);
		hw->host[level] = random_cache(rng, size);
	}
	hw->unified = random_array(rng, size, 0);
	hw->unified_guest = draw(rng, 4);
	hw->unified_host = draw(rng, 4);
	hw->unified_host_leaf = draw(rng, 2);
	hw->nested_tlb = random_cache(rng, size);
}

void mf_random_hw(struct hw *hw, uint64_t seed)
{
	uint64_t rng = (seed + 1) * 0x9e3779b97f4a7c15ull;
	unsigned builtins = 0, n, size;
	struct error err;

	while (hw_builtins[builtins].name)
		builtins++;
	n = draw(&rng, 4 * builtins);
	if (n < builtins && !hw_load(hw, hw_builtins[n].name, &err))
		return;
	hw_default(hw);
	size = draw(&rng, 3);
	snprintf(hw->name, sizeof(hw->name), "random-%llx", (unsigned long long)seed);
	random_tlb(&rng, size, true, &hw->l1d);
	random_tlb(&rng, size, true, &hw->l1i);
	hw->l2_split = draw(&rng, 2);
	random_tlb(&rng, size, true, &hw->l2d);
	random_tlb(&rng, size, true, &hw->l2i);
	random_walk_caches(&rng, size, hw);
}
