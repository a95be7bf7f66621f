/*
 * The buddy allocator of a modelled machine: page frames by number, in blocks of 2^0 to 2^10, split and merged with
 * their buddies as Linux does. Where Linux takes the block that was freed last, this takes the lowest or the highest
 * address, so that what was allocated follows from what was asked for alone.
 */
#ifndef GNOMON_TRACE_OS_BUDDY_H
#define GNOMON_TRACE_OS_BUDDY_H

#include "base/error.h"
#include "trace/os_bits.h"

#define OS_ORDERS 11 /* Linux's MAX_ORDER */
#define OS_ORDER_2M 9

struct os_buddy {
	uint64_t frames;               /* numbers are below it */
	struct os_bits block[OS_ORDERS]; /* bit n of [o]: frames n << o up to (n + 1) << o are a free block */
	struct os_bits used;           /* frames in no free block */
	uint64_t free_frames;
	uint64_t frees;                /* how often something was freed: a search that failed fails again until then */
};

/* An allocator of which nothing is free yet. -ENOMEM. */
int os_buddy_init(struct os_buddy *b, uint64_t frames);
void os_buddy_destroy(struct os_buddy *b);

/*
 * Allocates 2^order frames, aligned to their size: from the smallest block that will do, of those the lowest.
 * -ENOMEM: there is none.
 */
int os_buddy_alloc(struct os_buddy *b, unsigned order, uint64_t *first);
/* Likewise, at the highest address: for what cannot be moved, to keep it apart. -ENOMEM */
int os_buddy_alloc_high(struct os_buddy *b, unsigned order, uint64_t *first);
/* Allocates these frames, which are free. */
void os_buddy_take(struct os_buddy *b, uint64_t first, uint64_t frames);
/* Frees frames that are in use. */
void os_buddy_free(struct os_buddy *b, uint64_t first, uint64_t frames);

static inline bool os_buddy_is_free(const struct os_buddy *b, uint64_t frame) { return !os_bits_has(&b->used, frame); }

/*
 * Are the blocks disjoint, whole, as large as they can be, and do the counts agree? -EINVAL: no. Looks at every
 * frame.
 */
int os_buddy_audit(const struct os_buddy *b, struct error *err);

#endif
