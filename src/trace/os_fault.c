/*
 * Page faults: demand paging and copy-on-write of single pages. The zero page is not modelled: the first touch of a
 * page gives it a frame, be it a read.
 */
#include "trace/os_impl.h"

#include <errno.h>

uint64_t os_page_flags(unsigned area_flags)
{
	uint64_t e = PTE_P | PTE_U | PTE_A;

	if (area_flags & TRACE_MAP_WRITE)
		e |= PTE_W | PTE_D;
	return area_flags & TRACE_MAP_EXEC ? e : e | PTE_NX;
}

static bool permits(uint64_t e, unsigned kind)
{
	return (e & PTE_P) && (kind != TRACE_WRITE || (e & PTE_W)) && (kind != TRACE_FETCH || !(e & PTE_NX));
}

/* From now on accesses of @kind by this entry need no look at it. */
static void remember(struct osm *o, uint64_t va, const struct os_leaf *l, unsigned kind)
{
	struct os_near *n = os_near_of(o, va, kind);
	uint64_t key = os_near_key(o->current, va);

	if (os_is_huge(l)) {
		*n = (struct os_near){((n->key & ~7ull) == key ? n->key : key) | 1ull << (kind - 1), NULL};
	} else {
		*n = (struct os_near){key, l->table};
		l->table->ready[kind - 1][l->index / 64] |= 1ull << l->index % 64;
	}
}

bool os_permitted(struct osm *o, uint64_t va, unsigned kind)
{
	struct os_leaf l = os_leaf(o->current, va);

	if (!permits(l.entry, kind))
		return false;
	l.table->e[l.index] |= PTE_A | (kind == TRACE_WRITE ? PTE_D : 0);
	remember(o, va, &l, kind);
	return true;
}

static void map_page(struct osm *o, struct os_space *s, uint64_t va, unsigned flags)
{
	struct os_table *t = os_table_find(s, va, 1);
	uint64_t frame;

	if (!t) {
		os_tea_prepare(o, s, va, 1);
		t = os_table_get(o, s, va, 1);
	}
	if (!t || !os_frame_alloc_data(o, 0, va, &frame))
		return;
	os_table_set(o, t, os_index(va, 1), frame << PAGE_SHIFT | os_page_flags(flags));
	os_frame_map(o, frame);
	os_huge_promote(o, s, va);
}

/* A write to a page that others have, too: it gets a frame of its own. */
static void copy_page(struct osm *o, struct os_space *s, uint64_t va, const struct os_leaf *l, unsigned flags)
{
	uint64_t old = os_entry_frame(l->entry), frame;

	if (!os_frame_alloc_data(o, 0, va, &frame))
		return;
	os_table_set(o, l->table, l->index, 0);
	os_flush_page(o, s, va);
	os_table_set(o, l->table, l->index, frame << PAGE_SHIFT | os_page_flags(flags));
	os_frame_map(o, frame);
	os_frame_unmap(o, old);
	o->stats.cow_copies++;
}

/* The page is there, but the entry does not permit what the area does. */
static void correct(struct osm *o, struct os_space *s, uint64_t va, struct os_leaf l, unsigned kind, unsigned flags)
{
	bool write = kind == TRACE_WRITE, alone = os_frame_users(o, os_entry_frame(l.entry)) == 1;

	if (write && !alone && os_is_huge(&l)) {
		os_huge_split(o, s, va);
		if (o->failed)
			return;
		l = os_leaf(s, va);
	}
	if (write && !alone) {
		copy_page(o, s, va, &l, flags);
		return;
	}
	if (write)
		l.entry |= PTE_W | PTE_D;
	else
		l.entry &= ~PTE_NX;
	os_table_set(o, l.table, l.index, l.entry | PTE_A);
	o->stats.cow_reuses += write;
}

void os_fault(struct osm *o, uint64_t va, unsigned kind)
{
	unsigned wanted = kind == TRACE_WRITE ? TRACE_MAP_WRITE : kind == TRACE_FETCH ? TRACE_MAP_EXEC : 0;
	struct os_space *s = o->current;
	const struct os_vma *v;
	struct os_leaf l;

	os_deliver(o);
	os_execute(o, OS_TEXT_FAULT);
	o->stats.faults++;
	v = os_area(o, s, va, wanted);
	if (!v)
		return;
	l = os_leaf(s, va);
	if (l.entry & PTE_P)
		correct(o, s, va, l, kind, v->flags);
	else if (!os_huge_fault(o, s, va, v))
		map_page(o, s, va, v->flags);
}
