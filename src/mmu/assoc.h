/*
 * A set-associative array with true LRU replacement: what walk caches, the nested
 * TLB and the memory caches are made of. It knows keys and their age; what an
 * entry holds stands in a parallel array of its user, at the number of set times
 * ways plus the way. No other replacement policy and no hashed indices: the set is
 * the low bits of the index.
 */
#ifndef GNOMON_MMU_ASSOC_H
#define GNOMON_MMU_ASSOC_H

#include <stdbool.h>
#include <stddef.h>

#include "mmu/ways.h"

struct assoc {
	struct ways_line *line; /* [sets * lines] */
	uint64_t *key;   /* [sets * ways]: the key plus 1; 0: empty */
	uint64_t *stamp; /* [sets * ways], if a set has several lines: larger is more recent; 0 if empty */
	uint32_t sets;   /* power of two; 0: there is no such structure */
	uint32_t ways;
	uint32_t lines;  /* of a set */
	uint32_t used;   /* ways that are not empty */
	uint64_t clock;
};
#define ASSOC_NONE (~0u)

/* @entries: 0, or @ways times a power of two. Everything is empty. Its memory is of @arena. -ENOMEM. */
int assoc_init(struct assoc *a, struct arena *arena, uint32_t entries, uint32_t ways);

static inline uint32_t assoc_entries(const struct assoc *a) { return a->sets * a->ways; }

/* The set that @index chooses. The structure must exist. */
static inline uint32_t assoc_set(const struct assoc *a, uint64_t index) { return (uint32_t)index & (a->sets - 1); }

/* Number of the entry. */
static inline size_t assoc_at(const struct assoc *a, uint32_t set, uint32_t way) { return (size_t)set * a->ways + way; }

static inline struct ways_line *assoc_line(const struct assoc *a, uint32_t set, uint32_t way)
{
	return &a->line[(size_t)set * a->lines + way / WAYS_LINE];
}

/* The ways [@first, @first + 32) of the set that may hold what ways_part() makes @part of, as bits from 0 on. */
static ALWAYS_INLINE uint32_t assoc_match(const struct assoc *a, uint32_t set, uint32_t first, uint16_t part)
{
	const struct ways_line *l = assoc_line(a, set, first);
	uint32_t m = ways_match(l, part);

	return first + WAYS_LINE < a->ways ? m | ways_match(l + 1, part) << WAYS_LINE : m;
}

/* The first way of the set from @from on that holds @key (not ~0); or ASSOC_NONE. */
static ALWAYS_INLINE uint32_t assoc_find(const struct assoc *a, uint32_t set, uint32_t from, uint64_t key)
{
	uint32_t skip;

	if (likely(a->lines == 1)) {
		const uint64_t *keys = &a->key[assoc_at(a, set, 0)];

		for (uint32_t m = ways_match(&a->line[set], ways_part(key)) & ~0u << from; m; m &= m - 1)
			if (likely(keys[__builtin_ctz(m)] == key + 1))
				return (uint32_t)__builtin_ctz(m);
		return ASSOC_NONE;
	}
	skip = ~0u << from % (2 * WAYS_LINE);
	for (uint32_t first = from - from % (2 * WAYS_LINE); first < a->ways; first += 2 * WAYS_LINE, skip = ~0u) {
		for (uint32_t m = assoc_match(a, set, first, ways_part(key)) & skip; m; m &= m - 1) {
			uint32_t way = first + (uint32_t)__builtin_ctz(m);

			if (likely(a->key[assoc_at(a, set, way)] == key + 1))
				return way;
		}
	}
	return ASSOC_NONE;
}

/* The way becomes the most recently used. */
static inline void assoc_touch(struct assoc *a, uint32_t set, uint32_t way)
{
	if (a->stamp)
		a->stamp[assoc_at(a, set, way)] = ++a->clock;
	else
		ways_touch(&a->line[set], way);
}

/* By stamps: an empty way of the set, or the least recently used. */
uint32_t assoc_victim_of_many(const struct assoc *a, uint32_t set);

/* Puts @key into an empty way of the set, or in place of the least recently used; it becomes the most recently used. */
static inline uint32_t assoc_put(struct assoc *a, uint32_t set, uint64_t key)
{
	struct ways_line *l = &a->line[set];
	uint32_t way;
	uint64_t *k;

	if (a->stamp) {
		way = assoc_victim_of_many(a, set);
		a->stamp[assoc_at(a, set, way)] = ++a->clock;
		l = assoc_line(a, set, way);
	} else {
		way = ways_replace(l, a->ways);
	}
	k = &a->key[assoc_at(a, set, way)];
	a->used += !*k;
	*k = key + 1;
	l->part[way % WAYS_LINE] = ways_part(key);
	return way;
}

/* Empties entry @at, which is not empty. */
void assoc_drop(struct assoc *a, size_t at);

#endif
