/*
 * The classical tracker: every page is write-protected, the first write to it exits, and the page is writable until
 * the next collection. Under EPT the accessed and dirty flags of EPT are off meanwhile: with them a walk of the
 * guest's tables counts as a write to these, and every table that is only walked would be found written.
 */
#include "hv/dirty.h"

const struct hv_tracker hv_tracker_wp = {
	.schemes = 1u << ENGINE_BRUTE | 1u << ENGINE_SHADOW | ENGINE_NESTS,
	.protects = true,
	.collect = hv_dirty_begin_anew,
};
