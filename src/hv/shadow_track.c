/*
 * Tracking under shadow paging (hv/dirty.h): rights of the entries that map a page are found through its list of
 * mappings. A page that serves as a table and is traced is not writable anyhow: its writes are emulated, and noted
 * there.
 *
 * The TLB forgets everything each time: links may have gone without a flush (flush_link()), so that it may hold more
 * than the tables say.
 */
#include "hv/shadow.h"

static struct shadow_link *link_of(const struct shadow *s, entry_ref r)
{
	return &s->page[r / HWPT_ENTRIES].link[r % HWPT_ENTRIES];
}

/* Clears the accessed and dirty flags of the page's entries. Those that were set. */
static uint64_t take_flags(struct shadow *s, gfn_t g)
{
	uint64_t found = 0;

	for (entry_ref r = s->frame[g.v].mapped; r; r = link_of(s, r)->next) {
		uint64_t *e = &s->page[r / HWPT_ENTRIES].entry[r % HWPT_ENTRIES], flags = *e & (PTE_A | PTE_D);

		hv_count_reads(s->vm, 1);
		hv_count_writes(s->vm, flags != 0);
		*e &= ~flags;
		found |= flags;
	}
	return found;
}

/* The hardware sets flags in nested tables by what the entries that switch to them say. */
static void protect_page(struct shadow *s, gfn_t g)
{
	shadow_write_protect(s, g);
	shadow_clear_switches(s, g);
}

/* The tracker's rules for one page, whose rights or flags it takes away. */
static void restrict_page(struct shadow *s, const struct hv_tracker *t, gfn_t g)
{
	if (t->hides)
		shadow_unmap_frame(s, g);
	else if (t->protects)
		protect_page(s, g);
	else
		take_flags(s, g);
}

/* Regions that are mapped in pieces for the tracker's sake alone may be mapped as a whole again. */
static void drop_pieces(struct shadow *s)
{
	for (uint32_t n = 1; n < s->fresh; n++) {
		struct shadow_page *p = &s->page[n];
		unsigned order;
		mfn_t m;

		if (p->live && !p->pins && p->role.direct && p->role.level == 1 &&
		    p2m_peek(s->vm, p->gfn, &m, &order) == 0 && order >= 9)
			shadow_zap_page(s, p);
	}
}

void shadow_track(struct hv_vm *vm)
{
	const struct hv_tracker *t = vm->dirty.tracker;
	uint64_t pages = machmem_pages(vm->ram, vm->rams);
	struct shadow *s = shadow_of(vm);

	shadow_begin(s);
	s->flush.all = true;
	if (!t)
		drop_pieces(s); /* the others get their rights back as the guest asks for them */
	for (uint64_t page = 0; t && page < pages; page++) {
		gfn_t g = hv_page_gfn(vm, page);

		vm->obs.tracking.splits += s->region[g.v / HWPT_ENTRIES].large != 0;
		shadow_clear_large(s, g);
		restrict_page(s, t, g);
	}
	shadow_end(s);
}

void shadow_retrack(struct hv_vm *vm, const uint64_t *pages)
{
	uint64_t count = machmem_pages(vm->ram, vm->rams);
	struct shadow *s = shadow_of(vm);

	shadow_begin(s);
	s->flush.all = true;
	for (uint64_t page = 0; page < count; page++) {
		if (bitmap_has(pages, page))
			restrict_page(s, vm->dirty.tracker, hv_page_gfn(vm, page));
	}
	shadow_end(s);
}

void shadow_scan(struct hv_vm *vm)
{
	uint64_t count = machmem_pages(vm->ram, vm->rams);
	struct shadow *s = shadow_of(vm);

	shadow_begin(s);
	s->flush.all = true;
	for (uint64_t page = 0; page < count; page++) {
		uint64_t flags = take_flags(s, hv_page_gfn(vm, page));

		hv_dirty_found(vm, page, flags & PTE_A, flags & PTE_D);
	}
	shadow_end(s);
}
