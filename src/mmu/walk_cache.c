#include "mmu/walk_cache.h"

#include <errno.h>
#include <stdlib.h>

int walk_cache_init(struct walk_cache *c, const struct hw_array *hw)
{
	int r = assoc_init(&c->lru, hw->entries, hw->ways);

	c->entry = hw->entries ? calloc(hw->entries, sizeof(*c->entry)) : NULL;
	return r || (hw->entries && !c->entry) ? -ENOMEM : 0;
}

void walk_cache_destroy(struct walk_cache *c)
{
	assoc_destroy(&c->lru);
	free(c->entry);
	c->entry = NULL;
}

void walk_cache_enter(struct walk_cache *c, const struct walk_entry *e)
{
	uint32_t set, way;

	if (!walk_cache_exists(c))
		return;
	set = assoc_set(&c->lru, walk_cache_index(e));
	way = walk_cache_way(c, set, e);
	if (way == ASSOC_NONE)
		way = assoc_put(&c->lru, set, walk_cache_key(e));
	else
		assoc_touch(&c->lru, set, way);
	c->entry[assoc_at(&c->lru, set, way)] = *e;
}
