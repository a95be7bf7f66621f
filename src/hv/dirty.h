/*
 * Which pages does a guest write, which does it access? What trackers (dirty_<x>.c), backends and the rest of the
 * hypervisor know of each other. The story is in docs/tracking.md.
 *
 * A tracker works on the backend's tables. Those that find out by faults take rights away from pages and give
 * them back when the guest asks (they grant them); the others let the hardware set flags in leaf entries. Writes that
 * do not go through those tables - of the hypervisor, of devices - are noted where they are made.
 * While a tracker is armed every leaf entry maps 4 KiB.
 */
#ifndef GNOMON_HV_DIRTY_H
#define GNOMON_HV_DIRTY_H

#include "base/bitmap.h"
#include "hv/hv.h"

/* What trackers are made of; one file each, listed in dirty.c. */
struct hv_tracker {
	unsigned schemes; /* that have it: 1 << ENGINE_SHADOW ... */
	bool hides;       /* pages that are not granted for access are not present in the tables */
	bool protects;    /* pages that are not granted for writing are not writable */
	bool flags;       /* leaf entries are made with accessed and dirty flags clear */
	bool accesses;    /* it knows the pages that are only read, too */
	/* What it needs besides the tables, before they follow it; NULL: nothing. -ENOMEM, -ENODEV. */
	int (*arm)(struct hv_vm *vm, struct error *err);
	void (*disarm)(struct hv_vm *vm);
	/* After each VM exit; NULL: nothing. */
	void (*exited)(struct hv_vm *vm);
	/* Completes written[] and accessed[], and begins anew: afterwards it will notice the next write to any page. */
	void (*collect)(struct hv_vm *vm);
};
extern const struct hv_tracker hv_tracker_wp, hv_tracker_present, hv_tracker_ad, hv_tracker_pml;

/* Is a tracker armed? */
static inline bool hv_tracks(const struct hv_vm *vm) { return unlikely(vm->dirty.tracker != NULL); }

/* Words of a bitmap. */
static inline uint64_t hv_page_words(const struct hv_vm *vm) { return bitmap_words(machmem_pages(vm->ram, vm->rams)); }

/* Number of the page of guest RAM; UINT64_MAX: none. */
static inline uint64_t hv_page_of(const struct hv_vm *vm, uint64_t a) { return machmem_page_of(vm->ram, vm->rams, a); }
static inline gfn_t hv_page_gfn(const struct hv_vm *vm, uint64_t page)
{
	return gfn(machmem_page_at(vm->ram, page) >> PAGE_SHIFT);
}

/* ---- for whoever accesses guest RAM other than through the hardware's tables; within one page ---- */

static inline void hv_note(const struct hv_vm *vm, uint64_t *map, uint64_t a)
{
	uint64_t page = hv_page_of(vm, a);

	if (page != UINT64_MAX)
		bitmap_set(map, page);
}

static inline void hv_note_written(struct hv_vm *vm, uint64_t a)
{
	if (hv_tracks(vm))
		hv_note(vm, vm->dirty.written, a);
}

static inline void hv_note_accessed(struct hv_vm *vm, uint64_t a)
{
	if (hv_tracks(vm))
		hv_note(vm, vm->dirty.accessed, a);
}

/* ---- for backends ---- */

/* What the leaf entry of a page of guest RAM may be now. */
#define HV_MAY_ACCESS 1u
#define HV_MAY_WRITE  2u
#define HV_MAY_ALL    3u
static inline unsigned hv_dirty_rights(const struct hv_vm *vm, gfn_t g)
{
	const struct hv_dirty *d = &vm->dirty;
	unsigned may = HV_MAY_ALL;
	uint64_t page;

	if (!hv_tracks(vm) || d->tracker->flags)
		return HV_MAY_ALL;
	page = hv_page_of(vm, g.v << PAGE_SHIFT);
	if (d->tracker->hides && !bitmap_has(d->may_access, page))
		may = 0;
	if (!bitmap_has(d->may_write, page))
		may &= ~HV_MAY_WRITE;
	return may;
}

/* Are leaf entries to be made without accessed and dirty flags, and looked at before they go? */
static inline bool hv_dirty_by_flags(const struct hv_vm *vm) { return hv_tracks(vm) && vm->dirty.tracker->flags; }

/*
 * The guest faulted for an access to the page at @a that nothing but the tracker may forbid: notes it and grants the
 * rights. The backend makes the entry anew.
 */
void hv_dirty_fault(struct hv_vm *vm, uint64_t a, bool write);

/* Flags found in the leaf entry of a page. */
static inline void hv_dirty_found(struct hv_vm *vm, uint64_t page, bool accessed, bool dirty)
{
	if (accessed)
		bitmap_set(vm->dirty.accessed, page);
	if (dirty)
		bitmap_set(vm->dirty.written, page);
}

/* The same where only the machine frame is known, of a leaf entry (without EPT) that is about to go. */
static inline void hv_dirty_leaf_goes(struct hv_vm *vm, uint64_t e)
{
	if (hv_dirty_by_flags(vm) && e & (PTE_A | PTE_D))
		hv_dirty_found(vm, vm->dirty.page_of_frame[(e & PTE_ADDR_MASK) >> PAGE_SHIFT], e & PTE_A, e & PTE_D);
}

/* ---- for trackers ---- */

/* Takes all grants back; with flags: clears those of the pages that were logged. */
void hv_dirty_begin_anew(struct hv_vm *vm);

/* ---- for the p2m ---- */

/* Guest frames from @first on have got machine frames from @m on. */
static inline void hv_dirty_frames_given(struct hv_vm *vm, gfn_t first, mfn_t m, uint64_t frames)
{
	for (uint64_t i = 0; unlikely(vm->dirty.page_of_frame != NULL) && i < frames; i++)
		vm->dirty.page_of_frame[m.v + i] = (uint32_t)hv_page_of(vm, (first.v + i) << PAGE_SHIFT);
}

/* ---- for the hypervisor's core ---- */

static inline void hv_dirty_exited(struct hv_vm *vm)
{
	if (hv_tracks(vm) && vm->dirty.tracker->exited)
		vm->dirty.tracker->exited(vm);
}

#endif
