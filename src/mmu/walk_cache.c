#include "mmu/walk_cache.h"

#include <errno.h>

int walk_cache_init(struct walk_cache *c, struct arena *arena, const struct hw_array *hw)
{
	int r = assoc_init(&c->lru, arena, hw->entries, hw->ways);

	c->entry = hw->entries ? arena_alloc(arena, hw->entries, sizeof(*c->entry)) : NULL;
	return r || (hw->entries && !c->entry) ? -ENOMEM : 0;
}

uint32_t walk_cache_search(struct walk_cache *c, uint32_t set, struct walk_entry want)
{
	uint32_t way = assoc_find(&c->lru, set, 0, walk_cache_key(&want));

	while (way != ASSOC_NONE && !walk_cache_same(&c->entry[assoc_at(&c->lru, set, way)], &want))
		way = assoc_find(&c->lru, set, way + 1, walk_cache_key(&want));
	if (way != ASSOC_NONE)
		*walk_cache_guess(c, &want) = (uint32_t)assoc_at(&c->lru, set, way);
	return way;
}
