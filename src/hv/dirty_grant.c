/* What trackers have in common: rights that are granted by a fault, and all taken back when pages are collected. */
#include "hv/dirty.h"

void hv_dirty_fault(struct hv_vm *vm, uint64_t a, bool write)
{
	struct hv_dirty *d = &vm->dirty;
	uint64_t page = hv_page_of(vm, a);

	if (!hv_tracks(vm) || d->tracker->flags || page == UINT64_MAX)
		return;
	vm->obs.tracking.faults += (d->tracker->hides && !bitmap_has(d->may_access, page)) ||
				   (write && !bitmap_has(d->may_write, page));
	hv_dirty_found(vm, page, true, write);
	bitmap_set(d->may_access, page);
	if (write)
		bitmap_set(d->may_write, page);
}

void hv_dirty_begin_anew(struct hv_vm *vm)
{
	struct hv_dirty *d = &vm->dirty;
	uint64_t **granted = d->tracker->hides ? &d->may_access : &d->may_write, *pages = *granted;
	uint64_t bytes = hv_page_words(vm) * sizeof(*pages);

	*granted = d->again;
	d->again = pages;
	memset(d->may_write, 0, bytes);
	vm->mmu->retrack(vm, pages);
	memset(pages, 0, bytes);
}
