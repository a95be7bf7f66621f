/*
 * How the contents of a guest's memory become a number: the pages that are not all zeros, in ascending order, each with
 * its guest frame number before it. So a page that was never touched equals one that was only read.
 * Who includes this has said how xxhash is to be compiled.
 */
#ifndef GNOMON_MEM_PAGE_HASH_H
#define GNOMON_MEM_PAGE_HASH_H

#include "arch/addr.h"

#include <stdbool.h>
#include <xxhash.h>

static inline bool page_is_zero(const uint64_t *page)
{
	for (unsigned i = 0; i < PAGE_SIZE / 8; i += 4)
		if (page[i] | page[i + 1] | page[i + 2] | page[i + 3])
			return false;
	return true;
}

static inline void page_hash_add(XXH3_state_t *h, uint64_t gfn_no, const uint64_t *page)
{
	if (page_is_zero(page))
		return;
	XXH3_128bits_update(h, &gfn_no, sizeof(gfn_no));
	XXH3_128bits_update(h, page, PAGE_SIZE);
}

static inline void page_hash_end(const XXH3_state_t *h, uint64_t hash[2])
{
	XXH128_hash_t d = XXH3_128bits_digest(h);

	hash[0] = d.low64;
	hash[1] = d.high64;
}

#endif
