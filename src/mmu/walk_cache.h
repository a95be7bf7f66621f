/*
 * What page walks are shortened by: paging-structure caches of both organisations
 * and the nested TLB (docs/walk-caches.md). One kind of array serves all; walk.c
 * says what goes in and what a hit is good for, flush.c what is dropped when.
 */
#ifndef GNOMON_MMU_WALK_CACHE_H
#define GNOMON_MMU_WALK_CACHE_H

#include <stdbool.h>
#include <string.h>

#include "base/util.h"
#include "mmu/assoc.h"
#include "mmu/hw.h"

/* What a cached thing is valid for. */
struct walk_tags {
	uint32_t asid;   /* vpid << 12 | pcid of linear and combined mappings; ASID_PHYSICAL: guest-physical */
	uint32_t mode;   /* formats of the tables it was made of, WALK_MODE_*: another mode never finds it */
	uint64_t ep4ta;  /* 0: made without EPT */
};
#define ASID_PHYSICAL (1u << 28)
#define WALK_MODE_GUEST 0x07u /* guest entries: levels of the format; PAE counts its registers */
#define WALK_MODE_EPT   0x08u
#define WALK_MODE_EPT5  0x10u /* five levels */
#define WALK_MODE_AGILE 0x40u /* linear: begins in a shadow table */
#define WALK_MODE_AD    0x20u /* with accessed and dirty flags: what was cached with them has them set */

struct walk_entry {
	struct walk_tags tags;
	uint8_t shift;    /* the entry maps 2^shift bytes of addresses... */
	uint8_t part, switched; /* split, guest: enum walk_part of the next table; as in struct walk */
	uint64_t prefix;  /* ...those whose upper part this is: linear or guest-physical */
	uint64_t at;      /* unified: machine address of the entry; else 0 */
	uint64_t value;   /* unified: the entry; else machine address of the next table (split) or the page (nested TLB) */
	uint64_t table;   /* split, guest: guest-physical address of the next table */
	uint16_t rights;  /* split: of the levels so far (TLB_*) */
	uint16_t ept_rights; /* split guest entry, nested TLB: EPT's rights to the page of the table */
};

#define WALK_CACHE_GUESSES 64u

struct walk_cache {
	struct assoc lru;
	struct walk_entry *entry; /* [entries] */
	/* For the host alone: the entry that was last found or made for such an index; looked at before the set is searched. */
	uint32_t guess[WALK_CACHE_GUESSES];
};

/* Empty; its memory is of @arena. -ENOMEM. */
int walk_cache_init(struct walk_cache *c, struct arena *arena, const struct hw_array *hw);

static inline bool walk_cache_exists(const struct walk_cache *c) { return c->lru.sets; }

/* The unified cache is looked up by machine address, the others by prefix. */
static inline uint64_t walk_cache_key(const struct walk_entry *e) { return e->at ? e->at : e->prefix; }
static inline uint64_t walk_cache_index(const struct walk_entry *e) { return e->at ? e->at >> 3 : e->prefix; }

static inline bool walk_cache_same(const struct walk_entry *a, const struct walk_entry *b)
{
	return a->prefix == b->prefix && a->shift == b->shift && a->at == b->at && a->tags.asid == b->tags.asid &&
	       a->tags.mode == b->tags.mode && a->tags.ep4ta == b->tags.ep4ta;
}

static inline uint32_t *walk_cache_guess(struct walk_cache *c, const struct walk_entry *want)
{
	return &c->guess[walk_cache_index(want) % WALK_CACHE_GUESSES];
}

/* Is @want what entry @at holds? */
static ALWAYS_INLINE bool walk_cache_holds(const struct walk_cache *c, size_t at, const struct walk_entry *want)
{
	return c->lru.key[at] == walk_cache_key(want) + 1 && walk_cache_same(&c->entry[at], want);
}

/* The way of the set that holds @want, or ASSOC_NONE, by a search; it is the next guess. */
uint32_t walk_cache_search(struct walk_cache *c, uint32_t set, struct walk_entry want);

/* The same. The cache exists. */
static ALWAYS_INLINE uint32_t walk_cache_way(struct walk_cache *c, uint32_t set, const struct walk_entry *want)
{
	uint32_t guess = *walk_cache_guess(c, want);

	if (likely(walk_cache_holds(c, guess, want)))
		return guess - (uint32_t)assoc_at(&c->lru, set, 0);
	return walk_cache_search(c, set, *want);
}

/*
 * What the cache holds for @want (tags, shift, prefix and, unified, at count); it becomes the
 * most recently used. NULL: nothing, or there is no such cache.
 */
static ALWAYS_INLINE const struct walk_entry *walk_cache_find(struct walk_cache *c, const struct walk_entry *want)
{
	uint32_t set, way;

	if (!walk_cache_exists(c))
		return NULL;
	set = assoc_set(&c->lru, walk_cache_index(want));
	way = walk_cache_way(c, set, want);
	if (way == ASSOC_NONE)
		return NULL;
	assoc_touch(&c->lru, set, way);
	return &c->entry[assoc_at(&c->lru, set, way)];
}

/* Enters a copy in place of what it held for the same, or of the least recently used. */
static ALWAYS_INLINE void walk_cache_enter(struct walk_cache *c, const struct walk_entry *e)
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
	*walk_cache_guess(c, e) = (uint32_t)assoc_at(&c->lru, set, way);
}

#endif
