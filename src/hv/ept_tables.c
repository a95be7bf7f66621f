/*
 * EPT tables that say what the p2m says. They are filled by violations, with the largest page that the p2m's run of frames
 * and leaf_max allow. While the pages that the guest writes are tracked (hv/dirty.h) every mapping is 4 KiB.
 *
 * Left out: execute-only mappings.
 * Source: SDM volume 3, "The Extended Page Table Mechanism (EPT)".
 */
#include "hv/ept.h"

#include "hv/core.h"
#include "hv/dirty.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

/* The table at address @table, of a tree. */
static uint64_t *table_ptr(const struct hv_vm *vm, const struct ept_tables *t, uint64_t table)
{
	return machmem_ptr(vm->mem, hpa(t->space ? t->space->machine(vm, table) : table));
}

static uint64_t *slot_of(const struct hv_vm *vm, const struct ept_tables *t, uint64_t table, uint64_t a, unsigned level)
{
	return &table_ptr(vm, t, table)[a >> ept_shift(level) & 0x1ff];
}

/* With accessed and dirty flags a walk of the guest's tables counts as a write to them, which would be trapped. */
uint64_t ept_tables_eptp(const struct hv_vm *vm, const struct ept_tables *t)
{
	bool protects = hv_tracks(vm) && vm->dirty.tracker->protects;

	return t->root | EPT_MT_WB | (protects || t->rights ? 0 : EPTP_AD) |
	       (uint64_t)(t->levels - 1) << EPTP_WALK_SHIFT;
}

void ept_tables_flush(struct hv_vm *vm, const struct ept_tables *t)
{
	enum vmx_result r = vmx_invept(vm->cpu, INVEPT_SINGLE, ept_tables_eptp(vm, t));

	assert(r == VMX_SUCCEED);
	(void)r;
}

/* ---- tables ---- */

/* The area that the table of @level for @a is in; NULL: none. */
static const struct ept_tea *tea_of(const struct ept_tables *t, unsigned level, uint64_t a)
{
	for (unsigned i = 0; i < t->teas; i++)
		if (t->tea[i].level == level && a - t->tea[i].base < t->tea[i].bytes)
			return &t->tea[i];
	return NULL;
}

static uint64_t table_in_tea(const struct ept_tea *tea, uint64_t a)
{
	return tea->first + ((a - tea->base) >> ept_shift(tea->level + 1) << PAGE_SHIFT);
}

/* Zeroed frames in a row, where the tables lie. */
static int alloc_frames(struct hv_vm *vm, struct ept_tables *t, uint64_t frames, uint64_t *first)
{
	mfn_t m;
	int r;

	if (t->space) {
		r = t->space->alloc(vm, frames, first);
	} else {
		r = frames == 1 ? machmem_alloc(vm->mem, 0, OWNER_HYPERVISOR, &m)
				: machmem_alloc_run(vm->mem, frames, OWNER_HYPERVISOR, &m);
		*first = r ? 0 : m.v << PAGE_SHIFT;
	}
	if (r)
		return r;
	t->tables += frames;
	hv_count_writes(vm, frames * HV_TABLE_LINES);
	return 0;
}

static void free_frames(struct hv_vm *vm, struct ept_tables *t, uint64_t first, uint64_t frames)
{
	t->tables -= frames;
	if (t->space)
		t->space->free(vm, first, frames);
	else
		machmem_free(vm->mem, mfn(first >> PAGE_SHIFT), frames);
}

/* A table of @level for @a, all zeros. */
static int table_alloc(struct hv_vm *vm, struct ept_tables *t, unsigned level, uint64_t a, uint64_t *table)
{
	const struct ept_tea *tea = tea_of(t, level, a);

	if (!tea)
		return alloc_frames(vm, t, 1, table);
	*table = table_in_tea(tea, a);
	return 0;
}

static void table_free(struct hv_vm *vm, struct ept_tables *t, unsigned level, uint64_t a, uint64_t table)
{
	if (!tea_of(t, level, a)) {
		free_frames(vm, t, table, 1);
		return;
	}
	memset(table_ptr(vm, t, table), 0, PAGE_SIZE);
	hv_count_writes(vm, HV_TABLE_LINES);
}

int ept_tables_init(struct hv_vm *vm, struct ept_tables *t, struct error *err)
{
	t->levels = vm->cfg.cpu.feature[CPUF_LA57] && vm->cfg.cpu.maxphyaddr > 48 ? 5 : 4;
	t->leaf_max = 3;
	if (table_alloc(vm, t, t->levels, 0, &t->root))
		return error_set(err, -ENOMEM, "EPT: no machine memory for the root table");
	return 0;
}

int ept_tables_add_tea(struct hv_vm *vm, struct ept_tables *t, unsigned level, uint64_t base, uint64_t bytes)
{
	uint64_t each = 1ull << ept_shift(level + 1);
	struct ept_tea *tea = &t->tea[t->teas];
	int r;

	assert(t->teas < EPT_TEAS_MAX && !(base & (each - 1)));
	*tea = (struct ept_tea){.base = base, .bytes = bytes, .frames = (bytes + each - 1) / each, .level = level};
	r = alloc_frames(vm, t, tea->frames, &tea->first);
	if (!r)
		t->teas++;
	return r;
}

unsigned ept_tables_registers(const struct hv_vm *vm, const struct ept_tables *t, struct dmt_entry e[EPT_TEAS_MAX])
{
	for (unsigned i = 0; i < t->teas; i++) {
		const struct ept_tea *tea = &t->tea[i];
		uint64_t page = 1ull << ept_shift(tea->level);

		e[i] = (struct dmt_entry){.start = tea->base, .end = (tea->base + tea->bytes + page - 1) & ~(page - 1),
					  .tea = t->space ? t->space->machine(vm, tea->first) : tea->first,
					  .info = DMT_P | (tea->level == 1 ? DMT_4K : DMT_2M) << DMT_SIZE_SHIFT};
	}
	return t->teas;
}

/* The slot for @a at @level, with the tables on the way to it. NULL: no memory, or a larger page is in the way. */
static uint64_t *walk_to(struct hv_vm *vm, struct ept_tables *t, uint64_t a, unsigned level)
{
	uint64_t table = t->root;

	for (unsigned l = t->levels; l > level; l--) {
		uint64_t *e = slot_of(vm, t, table, a, l);
		uint64_t below;

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX)) {
			if (table_alloc(vm, t, l - 1, a, &below))
				return NULL;
			hv_count_writes(vm, 1);
			*e = below | EPT_RWX;
		} else if (ept_is_leaf(*e, l)) {
			return NULL;
		}
		table = *e & EPT_ADDR_MASK;
	}
	return slot_of(vm, t, table, a, level);
}

uint64_t *ept_tables_find(struct hv_vm *vm, const struct ept_tables *t, uint64_t a, unsigned *level)
{
	uint64_t table = t->root;

	for (unsigned l = t->levels;; l--) {
		uint64_t *e = slot_of(vm, t, table, a, l);

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			return NULL;
		*level = l;
		if (ept_is_leaf(*e, l))
			return e;
		table = *e & EPT_ADDR_MASK;
	}
}

/* A hypervisor maps to a VM what it gave to the VM, nothing else. */
static void check_owner(const struct hv_vm *vm, mfn_t first, unsigned level)
{
	assert(machmem_owner(vm->mem, first) == vm->owner);
	assert(machmem_owner(vm->mem, mfn(first.v + (1ull << ept_order(level)) - 1)) == vm->owner);
	(void)vm, (void)first, (void)level;
}

static uint64_t leaf(mfn_t first, unsigned level, uint64_t rights)
{
	return rights ? first.v << PAGE_SHIFT | rights | EPT_MT_WB << EPT_MT_SHIFT | (level > 1 ? EPT_PS : 0) : 0;
}

/* ---- rights ---- */

static uint64_t tracked_rights(const struct hv_vm *vm, uint64_t g)
{
	unsigned may = hv_dirty_rights(vm, gfn(g));

	return may & HV_MAY_WRITE ? EPT_RWX : may & HV_MAY_ACCESS ? EPT_R | EPT_X : 0;
}

static uint64_t page_rights(const struct hv_vm *vm, const struct ept_tables *t, uint64_t g)
{
	return tracked_rights(vm, g) & (t->rights ? t->rights(vm, gfn(g)) : EPT_RWX);
}

/* May the region around @g be one page of @level: are all its pages allowed the same? */
static bool may_be_large(const struct hv_vm *vm, const struct ept_tables *t, uint64_t g, unsigned level)
{
	uint64_t first = g >> ept_order(level) << ept_order(level);

	for (uint64_t i = 0; t->rights && i < 1ull << ept_order(level); i++)
		if (t->rights(vm, gfn(first + i)) != EPT_RWX)
			return false;
	return true;
}

/* ---- filling ---- */

static enum hv_verdict no_memory(struct hv_vm *vm, uint64_t a)
{
	return hv_fail(vm, "EPT: no memory for a table for guest-physical %llx", (unsigned long long)a);
}

static enum hv_verdict is_mapped(struct hv_vm *vm, uint64_t a)
{
	return hv_fail(vm, "EPT violation at guest-physical %llx, which is mapped", (unsigned long long)a);
}

/* A large page, or the only one of its run. A table is in a large one's way if pages of it were mapped before. */
static enum hv_verdict map(struct hv_vm *vm, struct ept_tables *t, uint64_t a, mfn_t m, unsigned level, uint64_t need)
{
	uint64_t g = a >> PAGE_SHIFT, *e;
	mfn_t first;

	while (level > 1 && !may_be_large(vm, t, g, level))
		level--;
	while ((e = walk_to(vm, t, a, level)) && *e & EPT_RWX && !ept_is_leaf(*e, level))
		level--;
	if (!e)
		return no_memory(vm, a);
	if ((*e & need) == need && need)
		return is_mapped(vm, a);
	first = mfn(m.v & ~((1ull << ept_order(level)) - 1));
	check_owner(vm, first, level);
	hv_count_writes(vm, 1);
	*e = leaf(first, level, level > 1 ? EPT_RWX : page_rights(vm, t, g));
	return HV_RESUME;
}

/* A run of frames that is one large page otherwise: its 4 KiB pages are mapped together. @e: the level-2 entry */
static int map_pieces(struct hv_vm *vm, struct ept_tables *t, uint64_t a, mfn_t m, uint64_t *e)
{
	uint64_t g = a >> PAGE_SHIFT & ~0x1ffull;
	uint64_t table;

	if (table_alloc(vm, t, 1, a, &table))
		return -ENOMEM;
	for (unsigned i = 0; i < 512; i++)
		*slot_of(vm, t, table, (g + i) << PAGE_SHIFT, 1) =
			leaf(mfn((m.v & ~0x1ffull) + i), 1, page_rights(vm, t, g + i));
	*e = table | EPT_RWX;
	hv_count_writes(vm, 1 + 512);
	vm->obs.tracking.splits++;
	return 0;
}

static enum hv_verdict map_tracked(struct hv_vm *vm, struct ept_tables *t, uint64_t a, mfn_t m, unsigned order,
				   uint64_t need)
{
	uint64_t *e = walk_to(vm, t, a, 2);
	bool pieces = e && order >= 9 && !(*e & EPT_RWX);

	if (pieces && map_pieces(vm, t, a, m, e))
		e = NULL;
	e = e ? walk_to(vm, t, a, 1) : NULL;
	if (!e)
		return no_memory(vm, a);
	if (*e && (*e & need) == need && !pieces)
		return is_mapped(vm, a);
	check_owner(vm, m, 1);
	hv_dirty_fault(vm, a, need & EPT_W);
	hv_count_writes(vm, 1);
	*e = leaf(m, 1, page_rights(vm, t, a >> PAGE_SHIFT));
	return HV_RESUME;
}

enum hv_verdict ept_tables_fill(struct hv_vm *vm, struct ept_tables *t, uint64_t a, uint64_t qualification)
{
	uint64_t need = qualification & EPT_RWX; /* bits 2:0 are in the order of an entry's */
	unsigned order, level;
	mfn_t m;
	int r = p2m_get(vm, gfn(a >> PAGE_SHIFT), &m, &order);

	if (r == -EFAULT)
		return HV_EMULATE;
	if (r)
		return hv_fail(vm, "no machine memory for guest-physical %llx", (unsigned long long)a);
	if (hv_tracks(vm))
		return map_tracked(vm, t, a, m, order, need);
	level = order / 9 + 1;
	return map(vm, t, a, m, level < t->leaf_max ? level : t->leaf_max, need);
}

int ept_tables_put(struct hv_vm *vm, struct ept_tables *t, uint64_t a, uint64_t to, unsigned level)
{
	uint64_t *e = walk_to(vm, t, a, level);

	if (!e)
		return -ENOMEM;
	hv_count_writes(vm, 1);
	*e = leaf(mfn(to >> PAGE_SHIFT), level, EPT_RWX) | EPT_A | EPT_D;
	return 0;
}

bool ept_tables_restrict(struct hv_vm *vm, struct ept_tables *t, gfn_t g)
{
	unsigned level = 0;
	uint64_t *e = ept_tables_find(vm, t, g.v << PAGE_SHIFT, &level), rights = page_rights(vm, t, g.v);

	if (!e || !(*e & EPT_RWX & ~rights))
		return false;
	hv_count_writes(vm, 1);
	*e = level > 1 ? 0 : leaf(mfn((*e & EPT_ADDR_MASK) >> PAGE_SHIFT), 1, rights);
	return true;
}

/* ---- what is tracked ---- */

/* With a tracker that goes by flags, what the entry of a page knows. */
static void note_flags(struct hv_vm *vm, uint64_t g, uint64_t e)
{
	if (hv_dirty_by_flags(vm))
		hv_dirty_found(vm, hv_page_of(vm, g << PAGE_SHIFT), e & EPT_A, e & EPT_D);
}

/* Frees what hangs off the entry of @level for frames from @g on. */
static void free_below(struct hv_vm *vm, struct ept_tables *t, uint64_t e, unsigned level, uint64_t g)
{
	uint64_t table = e & EPT_ADDR_MASK;

	if (!(e & EPT_RWX) || ept_is_leaf(e, level))
		return;
	for (uint64_t i = 0; level > 2 && i < 512; i++)
		free_below(vm, t, *slot_of(vm, t, table, i << ept_shift(level - 1), level - 1), level - 1,
			   g + (i << ept_order(level - 1)));
	table_free(vm, t, level - 1, g << PAGE_SHIFT, table);
}

static void free_all_below_root(struct hv_vm *vm, struct ept_tables *t)
{
	for (uint64_t i = 0; i < 512; i++)
		free_below(vm, t, *slot_of(vm, t, t->root, i << ept_shift(t->levels), t->levels), t->levels,
			   i << ept_order(t->levels));
}

void ept_tables_clear(struct hv_vm *vm, struct ept_tables *t)
{
	free_all_below_root(vm, t);
	memset(table_ptr(vm, t, t->root), 0, PAGE_SIZE);
	hv_count_writes(vm, HV_TABLE_LINES);
}

void ept_tables_destroy(struct hv_vm *vm, struct ept_tables *t)
{
	if (t->root)
		free_all_below_root(vm, t);
	if (t->root)
		free_frames(vm, t, t->root, 1);
	for (unsigned i = 0; i < t->teas; i++)
		free_frames(vm, t, t->tea[i].first, t->tea[i].frames);
	*t = (struct ept_tables){.levels = 0};
}

/* ---- composed tables ---- */

/* A larger page that is in the way of one of @level goes. */
static bool make_way(struct hv_vm *vm, struct ept_tables *t, uint64_t a, unsigned level)
{
	unsigned at = 0;
	uint64_t *e = ept_tables_find(vm, t, a, &at);

	if (!e || at <= level)
		return false;
	hv_count_writes(vm, 1);
	*e = 0;
	return true;
}

int ept_tables_set(struct hv_vm *vm, struct ept_tables *t, uint64_t a, mfn_t m, unsigned level, uint64_t rights, bool *stale)
{
	uint64_t *e, old, new = leaf(m, level, rights);

	*stale = make_way(vm, t, a, level);
	e = walk_to(vm, t, a, level);
	if (!e)
		return -ENOMEM;
	old = *e;
	check_owner(vm, m, level);
	hv_count_writes(vm, 1);
	*e = new;
	if (!(old & EPT_RWX))
		return 0;
	free_below(vm, t, old, level, a >> ept_shift(level) << ept_order(level));
	*stale |= !ept_is_leaf(old, level) || (old ^ new) & EPT_ADDR_MASK || old & ~new & EPT_RWX;
	return 0;
}

static uint64_t edit_table(struct hv_vm *vm, struct ept_tables *t, uint64_t table, unsigned level, uint64_t base,
			   ept_leaf_change *change, void *ctx)
{
	uint64_t changed = 0;

	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << ept_order(level)), *e = slot_of(vm, t, table, g << PAGE_SHIFT, level), new;

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			continue;
		if (!ept_is_leaf(*e, level)) {
			changed += edit_table(vm, t, *e & EPT_ADDR_MASK, level - 1, g, change, ctx);
			continue;
		}
		new = change(ctx, vm, g, level, *e);
		if (new == *e)
			continue;
		hv_count_writes(vm, 1);
		*e = new;
		changed++;
	}
	return changed;
}

uint64_t ept_tables_edit(struct hv_vm *vm, struct ept_tables *t, ept_leaf_change *change, void *ctx)
{
	return edit_table(vm, t, t->root, t->levels, 0, change, ctx);
}

/* Is the region that the entry of @level is for a page of that size, and mapped in pieces all the same? */
static bool is_in_pieces(struct hv_vm *vm, const struct ept_tables *t, uint64_t e, unsigned level, uint64_t g)
{
	unsigned order;
	mfn_t m;

	return !ept_is_leaf(e, level) && level <= t->leaf_max && p2m_peek(vm, gfn(g), &m, &order) == 0 &&
	       order >= ept_order(level);
}

/* What the entry of @level for frames from @g on is to be, now that a tracker has come or gone. */
static uint64_t follow(struct hv_vm *vm, const struct ept_tables *t, uint64_t e, unsigned level, uint64_t g)
{
	if (level > 1)
		return 0;
	return leaf(mfn((e & EPT_ADDR_MASK) >> PAGE_SHIFT), 1, page_rights(vm, t, g));
}

/* Leaf entries follow the tracker; what is larger than they may be, or smaller than it need be, goes. */
static void follow_all(struct hv_vm *vm, struct ept_tables *t, uint64_t table, unsigned level, uint64_t base)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << ept_order(level)), *e = slot_of(vm, t, table, g << PAGE_SHIFT, level);

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			continue;
		if (!hv_tracks(vm) && is_in_pieces(vm, t, *e, level, g)) {
			free_below(vm, t, *e, level, g);
			*e = 0;
		} else if (!ept_is_leaf(*e, level)) {
			follow_all(vm, t, *e & EPT_ADDR_MASK, level - 1, g);
			continue;
		} else if (level == 1 || hv_tracks(vm)) {
			*e = follow(vm, t, *e, level, g);
		}
		hv_count_writes(vm, 1);
	}
}

void ept_tables_track(struct hv_vm *vm, struct ept_tables *t)
{
	follow_all(vm, t, t->root, t->levels, 0);
	ept_tables_flush(vm, t);
}

uint64_t *ept_tables_entry(struct hv_vm *vm, const struct ept_tables *t, uint64_t a)
{
	unsigned level = 0;
	uint64_t *e = ept_tables_find(vm, t, a, &level);

	return level == 1 ? e : NULL;
}

void ept_tables_retrack(struct hv_vm *vm, struct ept_tables *t, const uint64_t *pages)
{
	uint64_t count = machmem_pages(vm->ram, vm->rams);

	for (uint64_t page = 0; page < count; page++) {
		gfn_t g = hv_page_gfn(vm, page);
		uint64_t *e;

		if (!bitmap_has(pages, page))
			continue;
		e = ept_tables_entry(vm, t, g.v << PAGE_SHIFT);
		if (!e)
			continue;
		hv_count_writes(vm, 1);
		*e = follow(vm, t, *e, 1, g.v);
	}
	ept_tables_flush(vm, t);
}

static void scan_table(struct hv_vm *vm, const struct ept_tables *t, uint64_t table, unsigned level, uint64_t base)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << ept_order(level)), *e = slot_of(vm, t, table, g << PAGE_SHIFT, level);

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			continue;
		if (level > 1) {
			scan_table(vm, t, *e & EPT_ADDR_MASK, level - 1, g);
		} else if (*e & (EPT_A | EPT_D)) {
			note_flags(vm, g, *e);
			hv_count_writes(vm, 1);
			*e &= ~(EPT_A | EPT_D);
		}
	}
}

void ept_tables_scan(struct hv_vm *vm, struct ept_tables *t)
{
	scan_table(vm, t, t->root, t->levels, 0);
	ept_tables_flush(vm, t);
}

/* ---- the p2m changed ---- */

/* Is the leaf of @level for frames from @g on what the p2m says? */
static bool leaf_stands(struct hv_vm *vm, uint64_t e, unsigned level, uint64_t g)
{
	unsigned order;
	mfn_t m;

	return p2m_peek(vm, gfn(g), &m, &order) == 0 && m.v == (e & EPT_ADDR_MASK) >> PAGE_SHIFT &&
	       order >= ept_order(level);
}

/* Drops what entries of the table at @level say about frames [first, end) if the p2m says otherwise now. */
static bool zap(struct hv_vm *vm, struct ept_tables *t, uint64_t table, unsigned level, uint64_t base, uint64_t first,
		uint64_t end)
{
	uint64_t step = 1ull << ept_order(level);
	uint64_t from = first > base ? (first - base) >> ept_order(level) : 0;
	bool any = false;

	for (uint64_t i = from; i < 512 && base + i * step < end; i++) {
		uint64_t g = base + i * step, *e = slot_of(vm, t, table, g << PAGE_SHIFT, level);

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			continue;
		if (!ept_is_leaf(*e, level)) {
			any |= zap(vm, t, *e & EPT_ADDR_MASK, level - 1, g, first, end);
			/* Its frames have become one large page: the table would stand in its way. */
			if (hv_tracks(vm) || !is_in_pieces(vm, t, *e, level, g))
				continue;
			free_below(vm, t, *e, level, g);
		} else if (leaf_stands(vm, *e, level, g)) {
			continue;
		} else {
			note_flags(vm, g, *e);
		}
		hv_count_writes(vm, 1);
		*e = 0;
		any = true;
	}
	return any;
}

void ept_tables_p2m_changed(struct hv_vm *vm, struct ept_tables *t, gfn_t first, uint64_t frames)
{
	if (zap(vm, t, t->root, t->levels, 0, first.v, first.v + frames))
		ept_tables_flush(vm, t);
}

/* ---- audit ---- */

static bool each_leaf(struct hv_vm *vm, const struct ept_tables *t, uint64_t table, unsigned level, uint64_t base,
		      ept_leaf_seen *seen, void *ctx)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << ept_order(level)), e = *slot_of(vm, t, table, g << PAGE_SHIFT, level);

		if (!(e & EPT_RWX))
			continue;
		if (ept_is_leaf(e, level) ? !seen(ctx, vm, g, level, e)
					  : !each_leaf(vm, t, e & EPT_ADDR_MASK, level - 1, g, seen, ctx))
			return false;
	}
	return true;
}

bool ept_tables_each(struct hv_vm *vm, const struct ept_tables *t, ept_leaf_seen *seen, void *ctx)
{
	return each_leaf(vm, t, t->root, t->levels, 0, seen, ctx);
}

/* Does the leaf for frames from @g on say what the p2m says of each of them? */
static bool leaf_is_right(struct hv_vm *vm, uint64_t e, unsigned level, uint64_t g, char *buf, size_t bytes)
{
	uint64_t first = (e & EPT_ADDR_MASK) >> PAGE_SHIFT, frames = 1ull << ept_order(level);

	for (uint64_t i = 0; i < frames; i++) {
		mfn_t m;

		if (p2m_peek(vm, gfn(g + i), &m, NULL) == 0 && m.v == first + i &&
		    machmem_owner(vm->mem, m) == vm->owner)
			continue;
		snprintf(buf, bytes, "EPT maps gfn %llx to mfn %llx, the p2m does not", (unsigned long long)(g + i),
			 (unsigned long long)(first + i));
		return false;
	}
	return true;
}

/* Does the entry allow no more than it may? */
static bool leaf_is_granted(struct hv_vm *vm, const struct ept_tables *t, uint64_t e, unsigned level, uint64_t g,
			    char *buf, size_t bytes)
{
	for (uint64_t i = 0; t->rights && i < 1ull << ept_order(level); i++) {
		if (!(e & EPT_RWX & ~t->rights(vm, gfn(g + i))))
			continue;
		snprintf(buf, bytes, "EPT allows too much of gfn %llx", (unsigned long long)(g + i));
		return false;
	}
	return true;
}

/* Does the entry follow the tracker? */
static bool leaf_is_tracked(struct hv_vm *vm, uint64_t e, unsigned level, uint64_t g, char *buf, size_t bytes)
{
	const char *what = NULL;
	uint64_t page;

	if (!hv_tracks(vm))
		return true;
	page = hv_page_of(vm, g << PAGE_SHIFT);
	if (level > 1)
		what = "mapped by a large page";
	else if (e & EPT_RWX & ~tracked_rights(vm, g))
		what = "not granted";
	else if (vm->dirty.tracker->exited && e & EPT_D && !bitmap_has(vm->dirty.may_write, page))
		what = "dirty, and was not logged";
	if (!what)
		return true;
	snprintf(buf, bytes, "gfn %llx, whose writes are tracked, is %s", (unsigned long long)g, what);
	return false;
}

/* Is the table that the entry of @level refers to in its area, if there is one for it? */
static bool table_is_placed(const struct ept_tables *t, uint64_t e, unsigned level, uint64_t g, char *buf, size_t bytes)
{
	const struct ept_tea *tea = tea_of(t, level - 1, g << PAGE_SHIFT);

	if (!tea || table_in_tea(tea, g << PAGE_SHIFT) == (e & EPT_ADDR_MASK))
		return true;
	snprintf(buf, bytes, "the level-%u EPT table for gfn %llx is not in its area", level - 1, (unsigned long long)g);
	return false;
}

static bool audit_table(struct hv_vm *vm, const struct ept_tables *t, uint64_t table, unsigned level, uint64_t base,
			char *buf, size_t bytes)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << ept_order(level)), e = *slot_of(vm, t, table, g << PAGE_SHIFT, level);

		if (!(e & EPT_RWX))
			continue;
		if (ept_is_leaf(e, level) ? !leaf_is_right(vm, e, level, g, buf, bytes) ||
						    !leaf_is_granted(vm, t, e, level, g, buf, bytes) ||
						    !leaf_is_tracked(vm, e, level, g, buf, bytes)
					  : !table_is_placed(t, e, level, g, buf, bytes) ||
						    !audit_table(vm, t, e & EPT_ADDR_MASK, level - 1, g, buf, bytes))
			return false;
	}
	return true;
}

bool ept_tables_audit(struct hv_vm *vm, const struct ept_tables *t, char *buf, size_t bytes)
{
	return audit_table(vm, t, t->root, t->levels, 0, buf, bytes);
}
