/* Memory for set-associative arrays; everything else is inline. */
#include "mmu/assoc.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int assoc_init(struct assoc *a, uint32_t entries, uint32_t ways)
{
	*a = (struct assoc){0};
	if (!entries)
		return 0;
	assert(ways && entries % ways == 0 && ((entries / ways) & (entries / ways - 1)) == 0);
	/* Empty is zero, so that the pages of a large cache cost nothing before they are used. */
	a->key = calloc(entries, sizeof(*a->key));
	a->stamp = calloc(entries, sizeof(*a->stamp));
	if (!a->key || !a->stamp)
		return -ENOMEM;
	a->sets = entries / ways;
	a->ways = ways;
	return 0;
}

void assoc_destroy(struct assoc *a)
{
	free(a->key);
	free(a->stamp);
	*a = (struct assoc){0};
}
