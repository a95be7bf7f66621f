/*
 * Transparent huge pages: made at the first touch of a block of 2 MiB that an area covers, if there is such a block
 * of memory; made of small pages when enough of them are there; taken apart when a part goes, or is written by one of
 * several that share it.
 *
 * Differs from Linux: khugepaged is no thread that looks around now and then, but looks at a block when a page comes
 * to it, and leaves pages that are shared alone. A split makes a new leaf table, where Linux has one put by.
 */
#include "trace/os_impl.h"

/* Does the area have huge pages, and room for one around @va? */
static bool wanted(const struct osm *o, const struct os_vma *v, uint64_t va)
{
	uint64_t block = va & ~(SIZE_2M - 1);

	if (o->cfg.pages == OSM_PAGES_4K || v->flags & (TRACE_MAP_FILE | TRACE_MAP_NOHUGE) ||
	    (o->cfg.pages == OSM_PAGES_MADVISE && !(v->flags & TRACE_MAP_HUGE)))
		return false;
	return v->start <= block && v->end >= block + SIZE_2M;
}

static uint64_t huge_entry(uint64_t first, unsigned area_flags)
{
	return first << PAGE_SHIFT | os_page_flags(area_flags) | PTE_PS;
}

bool os_huge_fault(struct osm *o, struct os_space *s, uint64_t va, const struct os_vma *v)
{
	struct os_table *t;
	uint64_t first;

	if (!wanted(o, v, va) || os_table_find(s, va, 1))
		return false;
	os_tea_prepare(o, s, va, 2);
	t = os_table_get(o, s, va, 2);
	if (!t)
		return true; /* a failure: nothing further is to be tried */
	if (!os_frame_alloc_data(o, OS_ORDER_2M, va & ~(SIZE_2M - 1), &first)) {
		o->stats.huge_missed++;
		return false;
	}
	os_table_set(o, t, os_index(va, 2), huge_entry(first, v->flags));
	os_frame_map_huge(o, first);
	o->stats.huge_faults++;
	return true;
}

void os_huge_split(struct osm *o, struct os_space *s, uint64_t va)
{
	uint64_t block = va & ~(SIZE_2M - 1), flags, first;
	struct os_table *t, *parent;
	struct os_leaf l;

	os_tea_prepare(o, s, va, 1);
	t = os_table_new(o, s, 1, va);
	if (!t)
		return;
	l = os_leaf(s, va);
	parent = l.table;
	first = os_entry_frame(l.entry);
	flags = l.entry & ~(PTE_ADDR_MASK | PTE_PS);
	os_table_set(o, parent, l.index, l.entry & ~PTE_P);
	os_flush_range(o, s, block, block + SIZE_2M, 21);
	for (unsigned i = 0; i < OS_ENTRIES; i++) {
		os_table_set(o, t, i, (first + i) << PAGE_SHIFT | flags);
		os_frame_map(o, first + i);
	}
	os_table_link(o, parent, t);
	os_frame_unmap_huge(o, first);
	o->stats.splits++;
}

/* Are all of its pages this space's alone? */
static bool alone(const struct osm *o, const struct os_table *t)
{
	for (unsigned i = 0; i < OS_ENTRIES; i++)
		if (t->e[i] && os_frame_users(o, os_entry_frame(t->e[i])) != 1)
			return false;
	return true;
}

static void collapse(struct osm *o, struct os_space *s, uint64_t block, uint64_t first, unsigned area_flags)
{
	struct os_table *t = os_table_find(s, block, 1), *parent = os_table_find(s, block, 2);
	unsigned at = os_index(block, 2);

	parent->child[at] = NULL;
	os_table_set(o, parent, at, 0);
	os_flush_range(o, s, block, block + SIZE_2M, PAGE_SHIFT);
	for (unsigned i = 0; i < OS_ENTRIES; i++) {
		uint64_t e = t->e[i];

		if (!e)
			continue;
		os_table_set(o, t, i, 0);
		os_frame_unmap(o, os_entry_frame(e));
	}
	os_table_set(o, parent, at, huge_entry(first, area_flags));
	os_frame_map_huge(o, first);
	if (t->tea)
		os_tea_put(o, s, t->tea);
	os_table_free(o, t);
	o->stats.promotions++;
}

void os_huge_promote(struct osm *o, struct os_space *s, uint64_t va)
{
	uint64_t block = va & ~(SIZE_2M - 1), first;
	const struct os_vma *v = os_vmas_at(&s->vmas, va);
	const struct os_table *t = os_table_find(s, va, 1);

	if (!o->cfg.promote || t->used < o->cfg.promote || !wanted(o, v, va) || !alone(o, t))
		return;
	os_tea_prepare(o, s, va, 2);
	if (os_frame_alloc_data(o, OS_ORDER_2M, block, &first))
		collapse(o, s, block, first, v->flags);
	else
		o->stats.huge_missed++;
}
