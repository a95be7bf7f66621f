/*
 * How the sets of the models are searched and kept in order: one line of the host's cache for up to 16 ways.
 *
 * A lookup compares 15 bits of a hash of each way's key, all at once; what matches is compared whole by the
 * caller. The order of use is a permutation of the ways, the most recently used first. Sets of more than
 * 16 ways have several lines, and their users keep stamps instead.
 */
#ifndef GNOMON_MMU_WAYS_H
#define GNOMON_MMU_WAYS_H

#include <assert.h>
#include <emmintrin.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/util.h"

#define WAYS_LINE 16u

struct ways_line {
	uint16_t part[WAYS_LINE]; /* of each way's key: ways_part(); 0: the way is empty, or there is none */
	/* Bits 4n+3:4n: the way used n-th last, as long as there are so many; kept so that all zero is the first order. */
	uint64_t order;
	uint16_t marked;  /* bit n: the user's mark on way n */
	uint16_t unused[11];
};
static_assert(sizeof(struct ways_line) == 64, "one line of the host's cache");

#define WAYS_FIRST_ORDER 0xfedcba9876543210ull

/*
 * Lines for @sets sets of @ways ways, all empty, of @arena; nothing is spent on those that are not used.
 * @lines: receives how many a set has. NULL: no memory.
 */
struct ways_line *ways_new(struct arena *arena, uint32_t sets, uint32_t ways, uint32_t *lines);

/* What stands for @key in a search: never 0. */
static inline uint16_t ways_part(uint64_t key) { return (uint16_t)(key * 0x9e3779b97f4a7c15ull >> 49 | 0x8000); }

/* The ways of the line that have @part: bit n for way n. */
static inline uint32_t ways_match(const struct ways_line *l, uint16_t part)
{
	__m128i want = _mm_set1_epi16((short)part);
	__m128i low = _mm_cmpeq_epi16(_mm_load_si128((const __m128i *)(const void *)&l->part[0]), want);
	__m128i high = _mm_cmpeq_epi16(_mm_load_si128((const __m128i *)(const void *)&l->part[8]), want);

	return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(low, high));
}

/* Lines of one: the way becomes the most recently used. */
static inline void ways_touch(struct ways_line *l, uint32_t way)
{
	uint64_t order = l->order ^ WAYS_FIRST_ORDER, nibbles = 0x1111111111111111ull;
	uint64_t differ = order ^ way * nibbles, below;

	/* The lowest digit that does not differ is marked by the lowest of these bits. */
	below = (differ - nibbles) & ~differ & nibbles * 8;
	below = ((below & -below) >> 3) - 1;
	order = (order & ~(below << 4 | 15)) | (order & below) << 4 | way;
	l->order = order ^ WAYS_FIRST_ORDER;
}

/*
 * Lines of one: the first of the set's @ways ways that is empty, or else the least recently used. It becomes the
 * most recently used. (The first: where a global translation stands beside one of a PCID, the first way is found.)
 */
static inline uint32_t ways_replace(struct ways_line *l, uint32_t ways)
{
	uint64_t order = l->order ^ WAYS_FIRST_ORDER, used = ~0ull >> (64 - 4 * ways);
	uint32_t way = (uint32_t)(order >> (4 * (ways - 1)) & 15), empty = ways_match(l, 0) & ((1u << ways) - 1);

	if (unlikely(empty)) {
		way = (uint32_t)__builtin_ctz(empty);
		ways_touch(l, way);
		return way;
	}
	/* The last of the order becomes the first. */
	l->order = ((order & ~used) | (order << 4 & used) | way) ^ WAYS_FIRST_ORDER;
	return way;
}

#endif
