/*
 * Tracking the pages a guest writes: arming, collecting and disarming, whatever the tracker; and the list of
 * trackers. What a backend does for them is with its tables.
 *
 * Left out: trackers for a part of memory, several at once.
 */
#include "hv/dirty.h"

#include "hv/core.h"

#include <errno.h>
#include <stdlib.h>

static const struct hv_tracker *const trackers[ENGINE_DIRTY_COUNT] = {
	[ENGINE_DIRTY_WP] = &hv_tracker_wp,
	[ENGINE_DIRTY_PRESENT] = &hv_tracker_present,
	[ENGINE_DIRTY_AD] = &hv_tracker_ad,
	[ENGINE_DIRTY_PML] = &hv_tracker_pml,
};

bool hv_dirty_possible(enum engine_mmu mmu, enum engine_dirty how)
{
	return mmu < ENGINE_MMU_COUNT && how < ENGINE_DIRTY_COUNT && trackers[how]->schemes >> mmu & 1;
}

/* The frames that there are already. */
static void note_frames(struct hv_vm *vm)
{
	uint64_t pages = machmem_pages(vm->ram, vm->rams);

	for (uint64_t page = 0; page < pages; page++) {
		gfn_t g = hv_page_gfn(vm, page);
		mfn_t m;

		if (p2m_peek(vm, g, &m, NULL) == 0)
			hv_dirty_frames_given(vm, g, m, 1);
	}
}

/* ---- arming ---- */

static void free_maps(struct hv_dirty *d)
{
	free(d->written);
	free(d->accessed);
	free(d->may_access);
	free(d->may_write);
	free(d->again);
	free(d->page_of_frame);
	*d = (struct hv_dirty){.log = d->log}; /* the frame is kept for the next time */
}

static bool make_maps(struct hv_vm *vm, const struct hv_tracker *t)
{
	struct hv_dirty *d = &vm->dirty;
	uint64_t words = hv_page_words(vm);
	bool by_frame = t->flags && !engine_mmu_nests(vm->cfg.mmu);

	d->written = calloc(words, sizeof(*d->written));
	d->accessed = calloc(words, sizeof(*d->accessed));
	d->may_access = calloc(words, sizeof(*d->may_access));
	d->may_write = calloc(words, sizeof(*d->may_write));
	d->again = calloc(words, sizeof(*d->again));
	d->page_of_frame = by_frame ? calloc(vm->mem->span >> PAGE_SHIFT, sizeof(*d->page_of_frame)) : NULL;
	return d->written && d->accessed && d->may_access && d->may_write && d->again &&
	       (d->page_of_frame || !by_frame);
}

int hv_dirty_arm(struct hv_vm *vm, enum engine_dirty how, struct error *err)
{
	struct hv_dirty *d = &vm->dirty;
	bool inside;
	int r = 0;

	hv_make_current(vm);
	inside = hv_nested_outside(vm);
	if (!make_maps(vm, trackers[how]))
		r = error_set(err, -ENOMEM, "tracking of pages: out of memory");
	else if (trackers[how]->arm)
		r = trackers[how]->arm(vm, err);
	if (!r && d->page_of_frame)
		note_frames(vm);
	if (r) {
		free_maps(d);
	} else {
		d->tracker = trackers[how];
		vm->mmu->track(vm);
	}
	hv_nested_inside_again(vm, inside);
	return r;
}

void hv_dirty_disarm(struct hv_vm *vm)
{
	const struct hv_tracker *t = vm->dirty.tracker;
	bool inside;

	if (!t)
		return;
	hv_make_current(vm);
	inside = hv_nested_outside(vm);
	free_maps(&vm->dirty);
	if (t->disarm)
		t->disarm(vm);
	vm->mmu->track(vm);
	hv_nested_inside_again(vm, inside);
}

/* ---- collecting ---- */

/* Moves the pages of @from to @to. How many there were. */
static uint64_t take(uint64_t *from, uint64_t *to, uint64_t words)
{
	uint64_t pages = 0;

	for (uint64_t i = 0; i < words; i++) {
		pages += (uint64_t)__builtin_popcountll(from[i]);
		to[i] |= from[i];
		from[i] = 0;
	}
	return pages;
}

int hv_dirty_collect(struct hv_vm *vm, uint64_t *written, uint64_t *accessed)
{
	struct hv_dirty *d = &vm->dirty;
	bool inside;

	if (!d->tracker || (accessed && !d->tracker->accesses))
		return -EINVAL;
	hv_make_current(vm);
	inside = hv_nested_outside(vm);
	d->tracker->collect(vm);
	hv_nested_inside_again(vm, inside);
	vm->obs.tracking.collections++;
	if (written)
		vm->obs.tracking.pages += take(d->written, written, hv_page_words(vm));
	if (accessed)
		take(d->accessed, accessed, hv_page_words(vm));
	return 0;
}
