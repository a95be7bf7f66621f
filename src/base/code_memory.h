/*
 * Memory for host code that is made at run time: seen twice, writable at one address and executable at another, never
 * both. On the host's huge pages where it lends them to such memory: host code is spread over megabytes, and most of what a
 * jump in it costs is the host's own TLB miss.
 */
#ifndef GNOMON_BASE_CODE_MEMORY_H
#define GNOMON_BASE_CODE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct code_memory {
	uint8_t *rw;       /* NULL: there is none */
	const uint8_t *rx; /* the same bytes */
	size_t bytes;
	size_t reached;    /* huge pages were asked for so far */
};

/* @bytes: a multiple of the host's pages; zeros, and no memory until they are written. -ENOMEM and what mmap() may give, as "@who: ..." */
int code_memory_map(struct code_memory *m, size_t bytes, const char *who, struct error *err);
/* Makes a huge page of the next one's range, if the host can. */
void code_memory_take_huge_page(struct code_memory *m);
/* Code is going to be written below @end, at most bytes: huge pages are taken as far as that. For who writes from the beginning on. */
static inline void code_memory_reach(struct code_memory *m, size_t end)
{
	while (m->reached < end)
		code_memory_take_huge_page(m);
}
/* Also of what was never mapped, if it is all zeros. */
void code_memory_unmap(struct code_memory *m);

#endif
