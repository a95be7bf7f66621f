/*
 * A set-associative array with true LRU replacement: what walk caches, the nested
 * TLB and the memory caches are made of. It knows keys and their age; what an
 * entry holds stands in a parallel array of its user. No other replacement policy
 * and no hashed indices: the set is the low bits of the index.
 */
#ifndef GNOMON_MMU_ASSOC_H
#define GNOMON_MMU_ASSOC_H

#include <stdbool.h>
#include <stdint.h>

struct assoc {
	uint64_t *key;   /* [sets * ways]: the key plus 1; 0: empty */
	uint64_t *stamp; /* [sets * ways]: larger is more recent; 0 if empty */
	uint32_t sets;   /* power of two; 0: there is no such structure */
	uint32_t ways;
	uint32_t used;   /* ways that are not empty */
	uint64_t clock;
};
#define ASSOC_NONE (~0u)

/* @entries: 0, or @ways times a power of two. Everything is empty. -ENOMEM (assoc_destroy() is still allowed). */
int assoc_init(struct assoc *a, uint32_t entries, uint32_t ways);
void assoc_destroy(struct assoc *a);

static inline uint32_t assoc_entries(const struct assoc *a) { return a->sets * a->ways; }

/* Number of the first way of the set that @index chooses. The structure must exist. */
static inline uint32_t assoc_first(const struct assoc *a, uint64_t index)
{
	return ((uint32_t)index & (a->sets - 1)) * a->ways;
}

/* The first way from @from on, before @end, that holds @key (not ~0); or ASSOC_NONE. */
static inline uint32_t assoc_find(const struct assoc *a, uint32_t from, uint32_t end, uint64_t key)
{
	for (uint32_t i = from; i < end; i++)
		if (a->key[i] == key + 1)
			return i;
	return ASSOC_NONE;
}

/* The way becomes the most recently used. */
static inline void assoc_touch(struct assoc *a, uint32_t i) { a->stamp[i] = ++a->clock; }

/* The way of the set to be replaced next: an empty one, or the least recently used. */
static inline uint32_t assoc_victim(const struct assoc *a, uint32_t first)
{
	uint64_t oldest = a->stamp[first];
	uint32_t victim = first;

	/* No branches: which way it is cannot be predicted. */
	for (uint32_t i = first + 1; i < first + a->ways; i++) {
		bool older = a->stamp[i] < oldest;

		oldest = older ? a->stamp[i] : oldest;
		victim = older ? i : victim;
	}
	return victim;
}

/* Puts @key into the way, as the most recently used. */
static inline void assoc_put(struct assoc *a, uint32_t i, uint64_t key)
{
	a->used += !a->key[i];
	a->key[i] = key + 1;
	assoc_touch(a, i);
}

/* Empties a way that is not empty. */
static inline void assoc_drop(struct assoc *a, uint32_t i)
{
	a->key[i] = a->stamp[i] = 0;
	a->used--;
}

#endif
