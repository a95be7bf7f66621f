/* Memory for set-associative arrays, and what is rare or slow; everything else is inline. */
#include "mmu/assoc.h"

#include <errno.h>

struct ways_line *ways_new(struct arena *arena, uint32_t sets, uint32_t ways, uint32_t *lines)
{
	*lines = (ways + WAYS_LINE - 1) / WAYS_LINE;
	return arena_alloc(arena, (size_t)sets * *lines, sizeof(struct ways_line));
}

int assoc_init(struct assoc *a, struct arena *arena, uint32_t entries, uint32_t ways)
{
	*a = (struct assoc){0};
	if (!entries)
		return 0;
	assert(ways && entries % ways == 0 && ((entries / ways) & (entries / ways - 1)) == 0);
	a->line = ways_new(arena, entries / ways, ways, &a->lines);
	a->key = arena_alloc(arena, entries, sizeof(*a->key));
	a->stamp = a->lines > 1 ? arena_alloc(arena, entries, sizeof(*a->stamp)) : NULL;
	if (!a->line || !a->key || (a->lines > 1 && !a->stamp))
		return -ENOMEM;
	a->sets = entries / ways;
	a->ways = ways;
	return 0;
}

uint32_t assoc_victim_of_many(const struct assoc *a, uint32_t set)
{
	const uint64_t *stamp = &a->stamp[assoc_at(a, set, 0)];
	uint64_t oldest = stamp[0];
	uint32_t victim = 0;

	/* No branches: which way it is cannot be predicted. */
	for (uint32_t way = 1; way < a->ways; way++) {
		bool older = stamp[way] < oldest;

		oldest = older ? stamp[way] : oldest;
		victim = older ? way : victim;
	}
	return victim;
}

void assoc_drop(struct assoc *a, size_t at)
{
	uint32_t set = (uint32_t)(at / a->ways), way = (uint32_t)(at % a->ways);

	a->key[at] = 0;
	if (a->stamp)
		a->stamp[at] = 0;
	assoc_line(a, set, way)->part[way % WAYS_LINE] = 0;
	a->used--;
}
