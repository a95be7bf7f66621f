/*
 * The memory hierarchy as far as page tables (and, on request, data) see it: which
 * level of set-associative caches holds a line. Lines have no contents here and no
 * states: one processor, memory is always current. Not modelled: write-back
 * traffic, inclusion (a line that leaves an outer level may stay in an inner one),
 * prefetching, instruction fetches.
 */
#ifndef GNOMON_MMU_CACHE_H
#define GNOMON_MMU_CACHE_H

#include "mmu/assoc.h"
#include "mmu/hw.h"

struct mem_caches {
	struct assoc level[HW_MEMORY]; /* by enum hw_place; any may be absent */
	unsigned line_shift;
	uint64_t last; /* line of the last access; ~0: there was none */
};

/* -ENOMEM (mem_caches_destroy() is still allowed). */
int mem_caches_init(struct mem_caches *c, const struct hw *hw);
void mem_caches_destroy(struct mem_caches *c);

/* An access to the line that holds machine address @at: where it hits. The line is in every level afterwards. */
enum hw_place mem_caches_access(struct mem_caches *c, uint64_t at);

#endif
