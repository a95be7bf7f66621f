/*
 * Shadow paging: the MMU backend of processors without EPT. The hardware walks
 * tables gva -> hpa that are a cache of the guest's tables combined with the p2m.
 * This file is the backend interface; the machinery is in shadow_*.c, the whole
 * story in docs/shadow-paging.md.
 *
 * Left out: several vCPUs (there is one, so no locks), memory types.
 */
#include "hv/shadow.h"

#include <errno.h>
#include <stdlib.h>

void shadow_unmake(struct shadow *s)
{
	shadow_cache_destroy(s);
	hwpt_free_frame(s->vm, s->top);
	hwpt_free_frame(s->vm, s->empty);
}

int shadow_make(struct shadow *s, struct hv_vm *vm, struct error *err)
{
	int r;

	s->vm = vm;
	s->top = s->empty = HWPT_NO_FRAME;
	r = hwpt_alloc_top(vm, &s->top, err);
	if (!r && hwpt_alloc_frame(vm, &s->empty))
		r = error_set(err, -ENOMEM, "shadow paging: no machine frame left for page tables");
	if (!r)
		r = shadow_cache_init(s, err);
	return r;
}

static void shadow_destroy(struct hv_vm *vm)
{
	struct shadow *s = shadow_of(vm);

	if (!s)
		return;
	shadow_unmake(s);
	free(s);
	vm->mmu_state = NULL;
}

static int shadow_init(struct hv_vm *vm, struct error *err)
{
	struct shadow *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "shadow paging: out of memory");
	vm->mmu_state = s;
	r = shadow_make(s, vm, err);
	if (r)
		shadow_destroy(vm);
	return r;
}

/* Rare, and may come with a new CR3 or new PDPTEs: everything is looked at anew. */
static void shadow_mode_changed(struct hv_vm *vm)
{
	struct shadow *s = shadow_of(vm);

	shadow_begin(s);
	s->flush.all = true;
	shadow_resync_all(s);
	s->rules = hwpt_rules(&vm->guest);
	shadow_load_roots(s);
	hwpt_write_regs(vm, shadow_hardware_root(s));
	shadow_end(s);
}

void shadow_load_cr3(struct hv_vm *vm, bool flush)
{
	struct shadow *s = shadow_of(vm);

	shadow_begin(s);
	/* Without PCIDs all address spaces share one tag. */
	if (flush || !hwpt_uses_pcid(&vm->guest))
		s->flush.nonglobal = true;
	shadow_resync_all(s);
	if (shadow_load_roots(s))
		s->count.cr3_hits++;
	else
		s->count.cr3_misses++;
	shadow_write_root(s);
	shadow_end(s);
}

void shadow_invlpg(struct hv_vm *vm, uint64_t lin)
{
	struct shadow *s = shadow_of(vm);
	uint64_t canonical = hwpt_canonical(s->rules.format, lin);

	if (canonical != lin && hwpt_is_long(s->rules.format))
		return;
	shadow_begin(s);
	shadow_sync_address(s, canonical);
	shadow_flush_page(s, canonical);
	shadow_end(s);
}

void shadow_flush(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid)
{
	struct shadow *s = shadow_of(vm);

	(void)pcid; /* root software cannot invalidate a single PCID of a guest */
	shadow_begin(s);
	if (kind == HV_FLUSH_ALL)
		s->flush.all = true;
	else
		s->flush.nonglobal = true;
	shadow_resync_all(s);
	shadow_end(s);
}

void shadow_guest_wrote(struct hv_vm *vm, uint64_t gpa, unsigned bytes)
{
	struct shadow *s = shadow_of(vm);

	shadow_begin(s);
	while (bytes && gpa >> PAGE_SHIFT < s->frames) {
		unsigned n = (unsigned)min_u64(bytes, PAGE_SIZE - (gpa & ~PAGE_MASK));

		shadow_wrote(s, gpa, n);
		gpa += n;
		bytes -= n;
	}
	shadow_end(s);
}

void shadow_emulated_access(struct hv_vm *vm, uint64_t gpa, unsigned bytes, bool write)
{
	const struct shadow *s = shadow_of(vm);

	(void)bytes;
	if (write && gpa >> PAGE_SHIFT < s->frames && shadow_is_traced(s, gfn(gpa >> PAGE_SHIFT)))
		vm->obs.faults.traced_writes++;
}

void shadow_p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames)
{
	struct shadow *s = shadow_of(vm);
	bool changed;

	if (!s)
		return;
	changed = s->changed;
	s->changed = false;
	/* Not an operation of its own: a fill that needs a frame comes here in its middle. */
	for (uint64_t g = first.v; g < first.v + frames && g < s->frames; g++) {
		shadow_unmap_frame(s, gfn(g));
		for (uint32_t n = s->frame[g].tables; n; n = s->page[n].same_frame)
			shadow_empty_page(s, &s->page[n]);
	}
	if (s->changed)
		shadow_flush_all(s);
	s->changed |= changed;
}

void shadow_observe(const struct hv_vm *vm, struct obs *obs)
{
	const struct shadow *s = shadow_of(vm);

	obs->tables.shadow_bytes = (s->in_use + 2ull) << PAGE_SHIFT;
	obs->tables.shadow_bytes_max = (s->in_use_max + 2ull) << PAGE_SHIFT;
	obs->shadow.fills = s->count.fills;
	obs->shadow.prefetched = s->count.prefetched;
	obs->shadow.zapped = s->count.zapped;
	obs->shadow.recycled = s->count.recycled;
	obs->shadow.unsynced = s->count.unsynced;
	obs->shadow.resynced = s->count.resynced;
	obs->shadow.flooded = s->count.flooded;
	obs->shadow.cr3_hits = s->count.cr3_hits;
	obs->shadow.cr3_misses = s->count.cr3_misses;
}

const struct hv_mmu_ops hv_mmu_shadow = {
	.name = "shadow",
	.init = shadow_init,
	.destroy = shadow_destroy,
	.setup_vmcs = hwpt_setup_vmcs,
	.page_fault = shadow_page_fault,
	.mode_changed = shadow_mode_changed,
	.load_cr3 = shadow_load_cr3,
	.invlpg = shadow_invlpg,
	.flush = shadow_flush,
	.guest_wrote = shadow_guest_wrote,
	.emulated_access = shadow_emulated_access,
	.p2m_changed = shadow_p2m_changed,
	.track = shadow_track,
	.retrack = shadow_retrack,
	.scan = shadow_scan,
	.audit = shadow_audit,
	.observe = shadow_observe,
};
