/*
 * Write protection carried on to reads: no page is present until it is touched, and writable only when it is
 * written. Costs an exit for each page that is touched and another if it is written later; in return it knows the
 * pages that are only read.
 */
#include "hv/dirty.h"

const struct hv_tracker hv_tracker_present = {
	.schemes = 1u << ENGINE_BRUTE | 1u << ENGINE_SHADOW | ENGINE_NESTS,
	.hides = true,
	.protects = true,
	.accesses = true,
	.collect = hv_dirty_begin_anew,
};
