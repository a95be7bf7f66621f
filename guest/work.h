/*
 * What the files of the workloads share: where pages come from, numbers that look
 * random, and the line that says where the part worth measuring begins.
 */
#ifndef GUEST_WORK_H
#define GUEST_WORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE = 4096, KIB = 1024, MIB = 1024 * 1024 };

/* A workload. @run: @n and @m from the command line; adds its result to *@sum; false: wrong, or no memory */
struct work {
	const char *name;
	bool (*run)(uint64_t n, uint64_t m, uint64_t *sum);
	uint64_t n, m; /* defaults */
	const char *help;
	bool pages; /* the size of its pages can be chosen */
};

/* Those that stand for programs with much memory; both end with an empty one. */
extern const struct work works_lookup[], works_pointers[];

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Mixes all bits of @x: another number for each. */
static inline uint64_t scramble(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/*
 * Anonymous memory of @bytes, zeros, that begins at a multiple of 2 MiB: in large pages where the kernel has some,
 * unless this process is to have none. Nothing is set aside for it: only pages that are touched need memory.
 * NULL if the address space has no such hole.
 */
void *map_pages(uint64_t bytes);
/* Gives back what map_pages(@bytes) returned; false if it was not mapped. */
bool unmap_pages(void *p, uint64_t bytes);
/* Says on the console that @name has built its data: what follows is what is to be measured or recorded. */
void work_ready(const char *name);

#endif
