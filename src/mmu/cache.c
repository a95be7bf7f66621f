#include "mmu/cache.h"

#include <assert.h>

int mem_caches_init(struct mem_caches *c, struct arena *arena, const struct hw *hw)
{
	assert((hw->line & (hw->line - 1)) == 0);
	/* Without any cache accesses are counted by lines all the same. */
	*c = (struct mem_caches){.line_shift = hw->line ? (unsigned)__builtin_ctz(hw->line) : 6,
				   .last = UINT64_MAX};
	for (unsigned i = 0; i < HW_MEMORY; i++) {
		const struct hw_cache *h = &hw->cache[i];

		if (!h->bytes)
			continue;
		assert(hw->line && h->bytes / hw->line <= UINT32_MAX);
		int r = assoc_init(&c->level[i], arena, (uint32_t)(h->bytes / hw->line), h->ways);

		if (r)
			return r;
	}
	return 0;
}
