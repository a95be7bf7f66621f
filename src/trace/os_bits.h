/*
 * A large set of small numbers: a bit map with summaries above it, so that the next member, the last one and gaps are
 * found without looking at all of it. Untouched parts cost no memory.
 */
#ifndef GNOMON_TRACE_OS_BITS_H
#define GNOMON_TRACE_OS_BITS_H

#include "base/util.h"

#define OS_BITS_LEVELS 6
#define OS_BITS_NONE   UINT64_MAX

struct os_bits {
	uint64_t *level[OS_BITS_LEVELS]; /* [0]: the map; [n]: bit i is set if word i of [n-1] is not 0 */
	uint64_t words[OS_BITS_LEVELS];
	unsigned levels;
	uint64_t bits;                   /* members are below it */
};

/* An empty set of numbers below @bits (1 to 2^36). -ENOMEM: nothing is left allocated. */
int os_bits_init(struct os_bits *b, uint64_t bits);
void os_bits_free(struct os_bits *b);

static inline bool os_bits_has(const struct os_bits *b, uint64_t n) { return b->level[0][n / 64] >> n % 64 & 1; }
/* Makes @count numbers from @n on members, or not. */
void os_bits_set(struct os_bits *b, uint64_t n, uint64_t count, bool member);
static inline void os_bits_add(struct os_bits *b, uint64_t n) { os_bits_set(b, n, 1, true); }
static inline void os_bits_remove(struct os_bits *b, uint64_t n) { os_bits_set(b, n, 1, false); }

/*
 * The first member at or after @n, the last one at all, the first number at or after @n that is none; OS_BITS_NONE.
 */
uint64_t os_bits_next(const struct os_bits *b, uint64_t n);
uint64_t os_bits_last(const struct os_bits *b);
uint64_t os_bits_next_gap(const struct os_bits *b, uint64_t n);

/* The first gap of @n numbers that begins at a multiple of @align (a power of two). OS_BITS_NONE. */
uint64_t os_bits_find_gap(const struct os_bits *b, uint64_t n, uint64_t align);

#endif
