/*
 * Memory for the tables of one model, which are looked up at random all the time: together, and on the host's huge
 * pages if they are wanted, so that looking them up does not miss the host's TLB. Given back all at once.
 */
#ifndef GNOMON_BASE_ARENA_H
#define GNOMON_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena_chunk;

struct arena {
	struct arena_chunk *chunks;
	uint8_t *next; /* of the last chunk: what is free */
	size_t left;
	bool huge;
};

/* Nothing is allocated yet. @huge: ask the host for huge pages, which take long to clear. */
void arena_init(struct arena *a, bool huge);
/* Zeros, aligned to a line of the host's cache; not NULL for @bytes == 0. NULL: no memory, or @count * @bytes is too large. */
void *arena_alloc(struct arena *a, size_t count, size_t bytes);
/* Everything that was allocated is gone. Also of an arena that is all zeros. */
void arena_destroy(struct arena *a);

#endif
