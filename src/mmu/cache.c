#include "mmu/cache.h"

#include <assert.h>

int mem_caches_init(struct mem_caches *c, const struct hw *hw)
{
	assert((hw->line & (hw->line - 1)) == 0);
	/* Without any cache accesses are counted by lines all the same. */
	*c = (struct mem_caches){.line_shift = hw->line ? (unsigned)__builtin_ctz(hw->line) : 6,
				   .last = UINT64_MAX};
	for (unsigned i = 0; i < HW_MEMORY; i++) {
		const struct hw_cache *h = &hw->cache[i];

		if (!h->bytes)
			continue;
		assert(hw->line && h->bytes / hw->line <= UINT32_MAX);
		int r = assoc_init(&c->level[i], (uint32_t)(h->bytes / hw->line), h->ways);

		if (r)
			return r;
	}
	return 0;
}

void mem_caches_destroy(struct mem_caches *c)
{
	for (unsigned i = 0; i < HW_MEMORY; i++)
		assoc_destroy(&c->level[i]);
}

static bool hits(struct assoc *a, uint64_t line)
{
	uint32_t first, way;

	if (!a->sets)
		return false;
	first = assoc_first(a, line);
	way = assoc_find(a, first, first + a->ways, line);
	if (way == ASSOC_NONE)
		return false;
	assoc_touch(a, way);
	return true;
}

enum hw_place mem_caches_access(struct mem_caches *c, uint64_t at)
{
	uint64_t line = at >> c->line_shift;
	unsigned place = HW_L1;

	/* The line of the last access is the most recently used one where it would hit: nothing changes. */
	if (line == c->last && c->level[HW_L1].sets)
		return HW_L1;
	c->last = line;
	while (place < HW_MEMORY && !hits(&c->level[place], line))
		place++;
	for (unsigned i = 0; i < place; i++) {
		struct assoc *a = &c->level[i];

		if (a->sets)
			assoc_put(a, assoc_victim(a, assoc_first(a, line)), line);
	}
	return (enum hw_place)place;
}
