/*
 * Address spaces: made, switched, copied, ended, and what has to be invalidated when. Linux's rules: a change in the
 * current space is invalidated at once, page by page up to 33 pages, else all of it; a space that is not current only
 * notes that there was something, and everything tagged for it goes when it is loaded. PCIDs are six, given to
 * spaces in turn. Fork copies the tables, whose writable pages become read-only on both sides.
 */
#include "trace/os_impl.h"

#include <errno.h>
#include <stdlib.h>

#define PAGES_MAX 33u /* tlb_single_page_flush_ceiling */

/* ---- making and loading ---- */

static struct os_space *new_in_slot(struct osm *o, uint64_t id, unsigned slot)
{
	struct os_space *s = calloc(1, sizeof(*s));

	if (!s) {
		os_fail(o, -ENOMEM, "out of memory");
		return NULL;
	}
	*s = (struct os_space){.id = id, .ctx = ++o->ctxs, .slot = slot, .last_switch = ++o->clock};
	s->root = os_table_new(o, s, OS_LEVELS, 0);
	if (!s->root) {
		free(s);
		return NULL;
	}
	for (unsigned i = OS_ENTRIES / 2; i < OS_ENTRIES; i++)
		if (o->kernel->e[i])
			os_table_set(o, s->root, i, o->kernel->e[i]);
	o->space[slot] = s;
	o->spaces++;
	return s;
}

struct os_space *os_space_new(struct osm *o, uint64_t id)
{
	for (unsigned slot = 0; slot < OSM_SPACES_MAX; slot++)
		if (!o->space[slot])
			return new_in_slot(o, id, slot);
	os_fail(o, -EINVAL, "more than %u address spaces at a time", OSM_SPACES_MAX);
	return NULL;
}

struct os_space *os_space_find(const struct osm *o, uint64_t id)
{
	for (unsigned i = 0, left = o->spaces; left && i < OSM_SPACES_MAX; i++) {
		if (!o->space[i])
			continue;
		if (o->space[i]->id == id)
			return o->space[i];
		left--;
	}
	return NULL;
}

/* The PCID number for @s; *flush: what is tagged with it is not, or no longer, right. */
static unsigned choose_asid(struct osm *o, const struct os_space *s, bool *flush)
{
	for (unsigned i = 0; i < OS_ASIDS; i++) {
		if (o->asid[i].ctx != s->ctx)
			continue;
		*flush = o->asid[i].flushes != s->flushes;
		return i;
	}
	*flush = true;
	return o->asid_next++ % OS_ASIDS;
}

static uint64_t cr3_of(const struct osm *o)
{
	return o->current->root->frame << PAGE_SHIFT | (o->cfg.pcid ? o->asid_now + 1 : 0);
}

void os_space_load(struct osm *o, struct os_space *s)
{
	bool flush = true;

	o->current = s;
	s->last_switch = ++o->clock;
	if (o->cfg.pcid)
		o->asid_now = choose_asid(o, s, &flush);
	o->asid[o->asid_now].ctx = s->ctx;
	o->asid[o->asid_now].flushes = s->flushes;
	os_cr3(o, cr3_of(o) | (flush ? 0 : CR3_NOFLUSH));
	os_reg_load(o, s);
}

void os_space_switch(struct osm *o, uint64_t id)
{
	struct os_space *s = os_space_find(o, id);

	if (s && s == o->current)
		return;
	os_execute(o, OS_TEXT_SYSCALL);
	if (!s)
		s = os_space_new(o, id);
	if (s)
		os_space_load(o, s);
	o->stats.switches++;
}

/* ---- invalidations ---- */

static void seen(struct osm *o, const struct os_space *s) { o->asid[o->asid_now].flushes = s->flushes; }

void os_flush_page(struct osm *o, struct os_space *s, uint64_t va)
{
	s->flushes++;
	if (s != o->current)
		return;
	os_invlpg(o, va);
	seen(o, s);
	o->stats.page_flushes++;
}

void os_flush_all(struct osm *o, struct os_space *s)
{
	s->flushes++;
	if (s != o->current)
		return;
	os_cr3(o, cr3_of(o));
	seen(o, s);
	o->stats.flushes++;
}

void os_flush_range(struct osm *o, struct os_space *s, uint64_t start, uint64_t end, unsigned shift)
{
	if ((end - start) >> shift > PAGES_MAX) {
		os_flush_all(o, s);
		return;
	}
	for (; start < end; start += 1ull << shift)
		os_flush_page(o, s, start);
}

/* ---- fork ---- */

/* The entry of a page as both have it after a fork; the copy has not been accessed. */
static void copy_entry(struct osm *o, struct os_table *from, struct os_table *to, unsigned i)
{
	uint64_t e = from->e[i] & ~PTE_W, first = os_entry_frame(e);

	if (e != from->e[i])
		os_table_set(o, from, i, e);
	os_table_set(o, to, i, e & ~PTE_A);
	if (from->level == 2)
		os_frame_map_huge(o, first);
	else
		os_frame_map(o, first);
}

static void copy_leaf_table(struct osm *o, const struct os_table *from, struct os_space *child)
{
	struct os_table *f, *to;
	uint64_t va = from->va;

	os_tea_prepare(o, child, va, 1); /* may move the table, and pages, but not the struct */
	to = os_table_get(o, child, va, 1);
	f = os_table_find(o->current, va, 1);
	for (unsigned i = 0; to && f && i < OS_ENTRIES; i++)
		if (f->e[i])
			copy_entry(o, f, to, i);
}

static void copy_huge(struct osm *o, struct os_table *from, unsigned i, struct os_space *child)
{
	uint64_t va = from->va + i * os_entry_bytes(2);
	struct os_table *to;

	os_tea_prepare(o, child, va, 2);
	to = os_table_get(o, child, va, 2);
	if (to)
		copy_entry(o, from, to, i);
}

static void copy_tables(struct osm *o, struct os_table *from, struct os_space *child)
{
	unsigned end = from->level == OS_LEVELS ? OS_ENTRIES / 2 : OS_ENTRIES;

	for (unsigned i = 0; i < end && !o->failed; i++) {
		if (from->child[i] && from->level > 2)
			copy_tables(o, from->child[i], child);
		else if (from->child[i])
			copy_leaf_table(o, from->child[i], child);
		else if (from->e[i])
			copy_huge(o, from, i, child);
	}
}

void os_space_fork(struct osm *o, uint64_t id)
{
	struct os_space *parent = o->current, *child;

	os_execute(o, OS_TEXT_SYSCALL);
	if (os_space_find(o, id)) {
		os_fail(o, -EINVAL, "fork: space %llu exists", (unsigned long long)id);
		return;
	}
	child = os_space_new(o, id);
	if (!child)
		return;
	if (os_vmas_copy(&child->vmas, &parent->vmas)) {
		os_fail(o, -ENOMEM, "out of memory");
		return;
	}
	copy_tables(o, parent->root, child);
	os_flush_all(o, parent);
	o->stats.forks++;
}

/* ---- the end ---- */

void os_space_forget(struct osm *o, struct os_space *s)
{
	while (s->teas) {
		struct os_tea *t = s->teas;

		s->teas = t->next;
		free(t);
	}
	if (s->root)
		os_table_forget(s->root);
	os_vmas_free(&s->vmas);
	o->space[s->slot] = NULL;
	o->spaces--;
	free(s);
}

void os_space_exit(struct osm *o, struct os_space *s)
{
	os_execute(o, OS_TEXT_SYSCALL);
	os_vmas_free(&s->vmas);
	os_zap(o, s, 0, OS_USER_END);
	os_tea_settle(o);
	if (s->reg_frame)
		os_frame_free_fixed(o, s->reg_frame, 1);
	os_table_free(o, s->root);
	s->root = NULL;
	os_space_forget(o, s);
	o->stats.exits++;
}
