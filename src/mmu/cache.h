/*
 * The memory hierarchy as far as page tables (and, on request, data) see it: which
 * level of set-associative caches holds a line. Lines have no contents here and no
 * states: one processor, memory is always current. Not modelled: write-back
 * traffic, inclusion (a line that leaves an outer level may stay in an inner one),
 * prefetching, instruction fetches.
 */
#ifndef GNOMON_MMU_CACHE_H
#define GNOMON_MMU_CACHE_H

#include "mmu/assoc.h"
#include "mmu/hw.h"

struct mem_caches {
	struct assoc level[HW_MEMORY]; /* by enum hw_place; any may be absent */
	unsigned line_shift;
	uint64_t last; /* line of the last access; ~0: there was none */
};

/* Empty; their memory is of @arena. -ENOMEM. */
int mem_caches_init(struct mem_caches *c, struct arena *arena, const struct hw *hw);

/* Does the level hold the line? It becomes the most recently used of its set. */
static ALWAYS_INLINE bool mem_cache_hits(struct assoc *a, uint64_t line)
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

/* An access to the line that holds machine address @at: where it hits. The line is in every level afterwards. */
static inline enum hw_place mem_caches_access(struct mem_caches *c, uint64_t at)
{
	uint64_t line = at >> c->line_shift;
	unsigned place = HW_L1;

	/* The line of the last access is the most recently used one where it would hit: nothing changes. */
	if (line == c->last && c->level[HW_L1].sets)
		return HW_L1;
	c->last = line;
	while (place < HW_MEMORY && !mem_cache_hits(&c->level[place], line))
		place++;
	for (unsigned i = 0; i < place; i++)
		if (c->level[i].sets)
			assoc_put(&c->level[i], assoc_set(&c->level[i], line), line);
	return (enum hw_place)place;
}

#endif
