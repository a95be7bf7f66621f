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

/* The unified cache is looked up by machine address, the others by prefix. */
static uint64_t key_of(const struct walk_entry *e) { return e->at ? e->at : e->prefix; }
static uint64_t index_of(const struct walk_entry *e) { return e->at ? e->at >> 3 : e->prefix; }

static bool same(const struct walk_entry *a, const struct walk_entry *b)
{
	return a->prefix == b->prefix && a->shift == b->shift && a->at == b->at && a->tags.asid == b->tags.asid &&
	       a->tags.ep4ta == b->tags.ep4ta && a->tags.mode == b->tags.mode;
}

static uint32_t way_of(const struct walk_cache *c, const struct walk_entry *want)
{
	uint32_t first = assoc_first(&c->lru, index_of(want)), end = first + c->lru.ways, i = first;

	for (;; i++) {
		i = assoc_find(&c->lru, i, end, key_of(want));
		if (i == ASSOC_NONE || same(&c->entry[i], want))
			return i;
	}
}

const struct walk_entry *walk_cache_find(struct walk_cache *c, const struct walk_entry *want)
{
	uint32_t i = walk_cache_exists(c) ? way_of(c, want) : ASSOC_NONE;

	if (i == ASSOC_NONE)
		return NULL;
	assoc_touch(&c->lru, i);
	return &c->entry[i];
}

void walk_cache_enter(struct walk_cache *c, const struct walk_entry *e)
{
	uint32_t i;

	if (!walk_cache_exists(c))
		return;
	i = way_of(c, e);
	if (i == ASSOC_NONE)
		i = assoc_victim(&c->lru, assoc_first(&c->lru, index_of(e)));
	assoc_put(&c->lru, i, key_of(e));
	c->entry[i] = *e;
}
