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

/* Does the level hold the line? It becomes the most recently used of its set. */
static inline bool hits(struct assoc *a, uint64_t line)
{
	uint32_t set, way;

	if (!a->sets)
		return false;
	set = assoc_set(a, line);
	way = assoc_find(a, set, 0, line);
	if (way == ASSOC_NONE)
		return false;
	assoc_touch(a, set, way);
	return true;
}

static inline void fill(struct assoc *a, uint64_t line)
{
	uint32_t set;

	if (!a->sets)
		return;
	set = assoc_set(a, line);
	assoc_put(a, set, assoc_victim(a, set), line);
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
	for (unsigned i = 0; i < place; i++)
		fill(&c->level[i], line);
	return (enum hw_place)place;
}
