/*
 * Page tables of the modelled machine, each with a frame and, in the model, its entries and the tables below it.
 * Where a frame comes from is the design's business: a TEA, the pool, or anywhere.
 */
#include "trace/os_impl.h"

#include <errno.h>
#include <stdlib.h>

static bool frame_for(struct osm *o, struct os_space *s, struct os_table *t)
{
	struct os_tea *tea = s ? os_tea_at(s, t->va, t->level) : NULL;

	if (tea) {
		t->tea = tea;
		t->frame = tea->first + (t->va - tea->start) / os_table_bytes(t->level);
		tea->used++;
		o->stats.tea.used++;
		return true;
	}
	if (o->cfg.kind == OSM_HUGEGPT && os_pool_alloc(o, &t->frame))
		return true;
	return os_frame_alloc_fixed(o, OS_TABLE, &t->frame);
}

struct os_table *os_table_new(struct osm *o, struct os_space *s, unsigned level, uint64_t va)
{
	struct os_table *t = calloc(1, sizeof(*t));

	if (t && level > 1)
		t->child = calloc(OS_ENTRIES, sizeof(*t->child));
	if (!t || (level > 1 && !t->child)) {
		free(t);
		os_fail(o, -ENOMEM, "out of memory");
		return NULL;
	}
	t->level = level;
	t->va = va & ~(os_table_bytes(level) - 1);
	if (!frame_for(o, s, t)) {
		os_table_forget(t);
		return NULL;
	}
	o->frame[t->frame].stale = 1; /* from now on: what it holds is not known to be zero when it is freed */
	o->stats.table_frames++;
	if (o->stats.table_frames > o->stats.table_frames_max)
		o->stats.table_frames_max = o->stats.table_frames;
	return t;
}

void os_table_forget(struct os_table *t)
{
	for (unsigned i = 0; t->child && i < OS_ENTRIES; i++)
		if (t->child[i])
			os_table_forget(t->child[i]);
	free(t->child);
	free(t);
}

void os_table_free(struct osm *o, struct os_table *t)
{
	if (o->frame[t->frame].type == OS_TABLE)
		os_frame_free_fixed(o, t->frame, 1);
	else if (o->frame[t->frame].type == OS_POOL)
		os_pool_free(o, t->frame);
	if (t->level == 1)
		os_near_forget(o, t->va);
	o->stats.table_frames--;
	os_table_forget(t);
}

struct os_table *os_table_find(const struct os_space *s, uint64_t va, unsigned level)
{
	struct os_table *t = s->root;

	while (t && t->level > level)
		t = t->child[os_index(va, t->level)];
	return t;
}

/* What was known of an entry is so no more. */
static void forget_known(struct osm *o, struct os_table *t, unsigned index)
{
	for (unsigned k = 0; t->level == 1 && k < 3; k++)
		t->ready[k][index / 64] &= ~(1ull << index % 64);
	if (t->level == 2)
		os_near_forget(o, t->va + index * SIZE_2M);
}

void os_table_set(struct osm *o, struct os_table *t, unsigned index, uint64_t entry)
{
	forget_known(o, t, index);
	t->used += !!entry;
	t->used -= !!t->e[index];
	t->e[index] = entry;
	os_store(o, OS_TEXT_SET, (t->frame << PAGE_SHIFT) + 8 * index, entry);
}

void os_table_link(struct osm *o, struct os_table *parent, struct os_table *t)
{
	unsigned i = os_index(t->va, parent->level);

	parent->child[i] = t;
	os_table_set(o, parent, i, t->frame << PAGE_SHIFT | OS_TABLE_FLAGS);
}

struct os_table *os_table_get(struct osm *o, struct os_space *s, uint64_t va, unsigned level)
{
	struct os_table *t = s->root;

	while (t->level > level) {
		unsigned i = os_index(va, t->level);
		struct os_table *child = t->child[i];

		if (!child) {
			child = t->e[i] ? NULL : os_table_new(o, s, t->level - 1, va);
			if (!child)
				return NULL;
			os_table_link(o, t, child);
		}
		t = child;
	}
	return t;
}

struct os_leaf os_leaf(const struct os_space *s, uint64_t va)
{
	struct os_table *t = s->root;
	unsigned i = os_index(va, t->level);

	while (t->level > 1 && t->child[i]) {
		t = t->child[i];
		i = os_index(va, t->level);
	}
	return (struct os_leaf){t, i, t->e[i]};
}
