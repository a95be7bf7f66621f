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
