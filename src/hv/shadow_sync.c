/*
 * How shadow entries follow guest entries: composing one from the other, what a
 * traced write changes, tables that go out of sync and come back, and when a
 * frame that is written again and again stops being a table.
 *
 * Tables above the leaf level are always in sync: their frames are mapped
 * read-only and every write is emulated and applied at once. A leaf table may be
 * out of sync, as a TLB may: what the guest changed there need not be seen before
 * it flushes (INVLPG, CR3 load, INVPCID ...).
 */
#include "hv/shadow.h"

#include <stdlib.h>

/* A direct page's imaginary guest entry: everything is allowed, and the large page's attributes. */
static uint64_t direct_entry(const struct shadow_page *p, unsigned i)
{
	uint64_t g = p->gfn.v + ((uint64_t)i << (9 * (p->role.level - 1)));

	return g << PAGE_SHIFT | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | (p->role.level > 1 ? PTE_PS : 0) |
	       (p->role.global ? PTE_G : 0) | (uint64_t)p->role.pkey << PTE_PKEY_SHIFT;
}

uint64_t shadow_guest_entry(const struct shadow *s, const struct shadow_page *p, unsigned i)
{
	enum hwpt_format f = (enum hwpt_format)p->role.format;

	if (p->role.direct)
		return direct_entry(p, i);
	return hwpt_guest_entry(s->vm, p->gfn, f, hwpt_guest_index(f, p->role.level, p->role.quadrant, i));
}

uint64_t shadow_compose(struct shadow *s, const struct shadow_page *p, uint64_t guest_entry, bool alloc,
			gfn_t *g)
{
	uint64_t attributes = guest_entry & ~PTE_PS, e; /* bit 7 of a 4 KiB entry is PAT */
	unsigned may;
	mfn_t m;

	*g = gfn((guest_entry & PTE_ADDR_MASK) >> PAGE_SHIFT);
	if (!p->role.direct && !hwpt_page_entry(s->vm, shadow_rules(p), guest_entry))
		return 0;
	if (alloc ? p2m_get(s->vm, *g, &m, NULL) : p2m_peek(s->vm, *g, &m, NULL))
		return 0;
	may = hv_dirty_rights(s->vm, *g);
	if (!(may & HV_MAY_ACCESS))
		return 0;
	if (!(guest_entry & PTE_D) || !(may & HV_MAY_WRITE) || shadow_is_traced(s, *g))
		attributes &= ~PTE_W;
	if (!hwpt_is_long((enum hwpt_format)p->role.format))
		attributes &= ~HWPT_KEY;
	e = hwpt_leaf(m, attributes);
	return hv_dirty_by_flags(s->vm) ? e & ~(PTE_A | PTE_D) : e;
}

static void update_snapshot(struct shadow_page *p, unsigned i, uint64_t e)
{
	enum hwpt_format f = (enum hwpt_format)p->role.format;
	unsigned index = hwpt_guest_index(f, 1, p->role.quadrant, i);
	uint8_t *table = (uint8_t *)p->snapshot;

	if (f == HWPT_32)
		put_u32(table + 4 * index, (uint32_t)e);
	else
		put_u64(table + 8 * index, e);
}

void shadow_sync_entry(struct shadow *s, struct shadow_page *p, unsigned i, bool alloc)
{
	uint64_t e = shadow_guest_entry(s, p, i);
	gfn_t g;
	uint64_t new = shadow_compose(s, p, e, alloc, &g);

	if (p->unsync)
		update_snapshot(p, i, e);
	shadow_set_leaf(s, p, i, new, g.v);
}

/*
 * Makes entry @i current and, if that makes it present, notes that it came
 * without a fault: its accessed flag tells later whether it was of use.
 */
static bool fill_ahead(struct shadow *s, struct shadow_page *p, unsigned i)
{
	uint64_t old = p->entry[i];

	shadow_sync_entry(s, p, i, false);
	if (old || !p->entry[i])
		return false;
	hv_count_writes(s->vm, 1);
	p->entry[i] &= ~PTE_A;
	s->count.prefetched++;
	return true;
}

void shadow_prefetch(struct shadow *s, struct shadow_page *p, unsigned i)
{
	unsigned first = i & ~(SHADOW_PREFETCH - 1);

	hv_count_reads(s->vm, SHADOW_PREFETCH);
	for (unsigned k = first; k < first + SHADOW_PREFETCH; k++)
		if (!p->entry[k])
			fill_ahead(s, p, k);
}

/* ---- traced writes ---- */

/* A guest entry above the leaf level was written: the link follows it, or goes. */
static void update_link(struct shadow *s, struct shadow_page *p, unsigned i)
{
	uint64_t old = p->entry[i], e;
	struct shadow_page *child;
	gfn_t table;

	hv_count_reads(s->vm, 1);
	if (!old)
		return;
	e = shadow_guest_entry(s, p, i);
	if (shadow_is_switch(p, old) && e & PTE_A && hwpt_table_entry(s->vm, shadow_rules(p), p->role.level, e, &table) &&
	    s->frame[table.v].nested) {
		shadow_set_switch(s, p, i, table, e);
		return;
	}
	if (!shadow_is_link(p, old) || !(e & PTE_A) ||
	    !hwpt_table_entry(s->vm, shadow_rules(p), p->role.level, e, &table)) {
		shadow_clear(s, p, i);
		return;
	}
	child = shadow_page_of(s, old);
	if (child->role.direct || child->gfn.v != table.v)
		shadow_clear(s, p, i);
	else
		shadow_set_link(s, p, i, child, e);
}

/* Was the entry that was last filled ahead used by the guest? */
static bool used_since(const struct shadow_page *p)
{
	return p->prefetched >= 0 && p->entry[p->prefetched] & PTE_A;
}

static void wrote_table(struct shadow *s, struct shadow_page *p, unsigned offset, unsigned bytes)
{
	unsigned first, last;

	if (used_since(p))
		p->writes = 0;
	if (p->writes < SHADOW_FLOOD)
		p->writes++;
	if (!hwpt_entries_of((enum hwpt_format)p->role.format, p->role.level, p->role.quadrant, offset, bytes,
			     &first, &last))
		return;
	for (unsigned i = first; i <= last; i++) {
		if (p->role.level > 1)
			update_link(s, p, i);
		else if (fill_ahead(s, p, i))
			p->prefetched = (int16_t)i;
	}
}

void shadow_wrote(struct shadow *s, uint64_t gpa, unsigned bytes)
{
	gfn_t g = gfn(gpa >> PAGE_SHIFT);
	bool flood = false;

	if (!s->frame[g.v].tables)
		return;
	for (uint32_t n = s->frame[g.v].tables; n; n = s->page[n].same_frame) {
		struct shadow_page *p = &s->page[n];

		if (p->unsync)
			continue;
		wrote_table(s, p, gpa & ~PAGE_MASK, bytes);
		flood |= p->writes >= SHADOW_FLOOD && !p->pins;
	}
	if (flood) {
		shadow_zap_tables(s, g);
		s->count.flooded++;
	}
	if (s->agile)
		s->agile->wrote(s, g);
}

/* ---- out of sync ---- */

static bool take_snapshot(const struct shadow *s, struct shadow_page *p)
{
	const void *table = hwpt_guest_table(s->vm, p->gfn);

	if (!p->snapshot)
		p->snapshot = malloc(PAGE_SIZE);
	if (!p->snapshot)
		return false;
	hv_count_reads(s->vm, HV_TABLE_LINES);
	hv_count_writes(s->vm, HV_TABLE_LINES);
	if (table)
		memcpy(p->snapshot, table, PAGE_SIZE);
	else
		memset(p->snapshot, 0, PAGE_SIZE);
	return true;
}

bool shadow_try_unsync(struct shadow *s, gfn_t g)
{
	uint32_t n;

	if (s->vm->cfg.shadow_sync_always || s->agile)
		return false;
	for (n = s->frame[g.v].tables; n; n = s->page[n].same_frame)
		if (s->page[n].role.level > 1)
			return false;
	for (n = s->frame[g.v].tables; n; n = s->page[n].same_frame) {
		struct shadow_page *p = &s->page[n];

		if (p->unsync)
			continue;
		if (!take_snapshot(s, p))
			return false;
		p->unsync = true;
		p->unsync_at = s->unsync_count;
		s->unsync[s->unsync_count++] = n;
		s->count.unsynced++;
	}
	return true;
}

void shadow_drop_unsync(struct shadow *s, struct shadow_page *p)
{
	uint32_t last = s->unsync[--s->unsync_count];

	s->unsync[p->unsync_at] = last;
	s->page[last].unsync_at = p->unsync_at;
	p->unsync = false;
}

/* Applies what the guest changed since the snapshot. */
static void resync_page(struct shadow *s, struct shadow_page *p)
{
	const void *now = hwpt_guest_table(s->vm, p->gfn);
	enum hwpt_format f = (enum hwpt_format)p->role.format;

	shadow_drop_unsync(s, p);
	s->count.resynced++;
	hv_count_reads(s->vm, now ? HWPT_ENTRIES : 0);
	for (unsigned i = 0; now && i < HWPT_ENTRIES; i++) {
		unsigned index = hwpt_guest_index(f, 1, p->role.quadrant, i);

		if (hwpt_entry_in(now, f, index) != hwpt_entry_in(p->snapshot, f, index))
			fill_ahead(s, p, i);
	}
}

void shadow_resync_frame(struct shadow *s, gfn_t g)
{
	bool any = false;

	for (uint32_t n = s->frame[g.v].tables; n; n = s->page[n].same_frame) {
		if (!s->page[n].unsync)
			continue;
		resync_page(s, &s->page[n]);
		any = true;
	}
	if (any)
		shadow_write_protect(s, g);
}

void shadow_resync_all(struct shadow *s)
{
	while (s->unsync_count)
		shadow_resync_frame(s, s->page[s->unsync[s->unsync_count - 1]].gfn);
}

void shadow_sync_address(struct shadow *s, uint64_t lin)
{
	uint32_t n = s->root[hwpt_root_index(s->rules.format, lin)];

	while (n && s->page[n].role.level > 1) {
		struct shadow_page *p = &s->page[n];
		uint64_t e = p->entry[hwpt_index(lin, p->role.level)];

		hv_count_reads(s->vm, 1);
		n = e && shadow_is_link(p, e) ? s->page_of_frame[hwpt_frame(e).v] : 0;
	}
	if (n && s->page[n].unsync)
		shadow_sync_entry(s, &s->page[n], hwpt_index(lin, 1), false);
}
