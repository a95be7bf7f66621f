/*
 * DMT's side of the guest: the leaf tables of an area, or of a cluster of areas with hardly anything between them,
 * lie in one run of frames in the order of their addresses, the TEA (translation entry area). So the entry for an
 * address is where arithmetic says, and a register can say it for all of the cluster.
 *
 * A TEA is made when the first leaf table of its cluster is needed, if the cluster is large enough. When a table is
 * needed behind its end (areas grew) it becomes at least twice as long: by the frames beside it if these can be had,
 * else by moving to a longer run, tables and all; where two become neighbours they become one. If there is no such
 * run, tables are ordinary ones, which only the walk finds. It goes when the last of its tables does.
 *
 * Level 1 tables have a TEA for 4 KiB pages. Level 2 tables have one, for 2 MiB pages, where huge pages are.
 */
#include "trace/os_impl.h"

#include <errno.h>
#include <stdlib.h>

#define USER_END_ROUND (1ull << 47)

struct range { uint64_t start, end; };

static uint64_t length(struct range r) { return r.end - r.start; }

struct os_tea *os_tea_at(const struct os_space *s, uint64_t va, unsigned level)
{
	for (struct os_tea *t = s->teas; t && t->start <= va; t = t->next)
		if (t->level == level && va < t->end)
			return t;
	return NULL;
}

static void changed(struct osm *o, struct os_space *s) { s->teas_changed = o->teas_changed = true; }

/* ---- clusters ---- */

/* May areas of together @occupied bytes be one cluster of the range? */
static bool dense(const struct osm *o, struct range r, uint64_t occupied)
{
	return (length(r) - occupied) * 100 <= length(r) * o->cfg.tea_bubble;
}

static bool joins(const struct osm *o, const struct os_vma *v, struct range *r, uint64_t *occupied)
{
	struct range wider = {min_u64(r->start, v->start), max_u64(r->end, v->end)};
	uint64_t more = *occupied + (v->end - v->start);

	if (v->flags & TRACE_MAP_STACK || !dense(o, wider, more))
		return false;
	*r = wider;
	*occupied = more;
	return true;
}

/*
 * The cluster around the area of @va: neighbours are added as long as the bubble permits, downward first. False: the
 * area is a stack, or all of it is below the threshold.
 */
static bool cluster(const struct osm *o, const struct os_space *s, uint64_t va, struct range *r)
{
	const struct os_vmas *a = &s->vmas;
	unsigned low = os_vmas_find(a, va), high = low;
	uint64_t occupied;

	if (low == a->n || va < a->v[low].start || a->v[low].flags & TRACE_MAP_STACK)
		return false;
	*r = (struct range){a->v[low].start, a->v[low].end};
	occupied = length(*r);
	for (bool more = true; more;) {
		more = false;
		if (low && joins(o, &a->v[low - 1], r, &occupied)) {
			low--;
			more = true;
		} else if (high + 1 < a->n && joins(o, &a->v[high + 1], r, &occupied)) {
			high++;
			more = true;
		}
	}
	return length(*r) >= o->cfg.tea_threshold;
}

/* ---- frames ---- */

static void take_frames(struct osm *o, uint64_t first, uint64_t frames)
{
	os_frame_fix(o, first, frames, OS_TEA, true); /* the hardware reads entries of tables that there are not yet */
	o->stats.tea.frames += frames;
	if (o->stats.tea.frames > o->stats.tea.frames_max)
		o->stats.tea.frames_max = o->stats.tea.frames;
}

static void ask_host(struct osm *o, struct os_tea *t)
{
	uint64_t id = 0;

	t->id = 0;
	if (o->cfg.kind != OSM_PVDMT)
		return;
	o->stats.tea.requests++;
	if (os_request(o, PV_TEA_ALLOC, t->first, os_tea_frames(t), &id))
		t->id = (unsigned)id;
	else
		o->stats.tea.refused++;
}

static void tell_host(struct osm *o, struct os_tea *t)
{
	uint64_t id = t->id;

	if (!t->id)
		return;
	o->stats.tea.requests++;
	o->stats.tea.refused += !os_request(o, PV_TEA_FREE, 0, 0, &id);
	t->id = 0;
}

/* ---- making and ending ---- */

static void insert(struct os_space *s, struct os_tea *t)
{
	struct os_tea **p = &s->teas;

	while (*p && (*p)->start < t->start)
		p = &(*p)->next;
	t->next = *p;
	*p = t;
}

static void remove_from(struct os_space *s, struct os_tea *t)
{
	struct os_tea **p = &s->teas;

	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
}

/* It is out of use; registers may name it until os_tea_settle(). */
static void retire(struct osm *o, struct os_space *s, struct os_tea *t)
{
	remove_from(s, t);
	t->next = o->dying;
	o->dying = t;
	o->stats.tea.now--;
	changed(o, s);
}

static struct os_tea *make(struct osm *o, struct os_space *s, struct range r, unsigned level)
{
	uint64_t frames = length(r) / os_table_bytes(level), first;
	struct os_tea *t;

	if (!os_contig_alloc(o, frames, 1, &first))
		return NULL;
	t = calloc(1, sizeof(*t));
	if (!t) {
		os_fail(o, -ENOMEM, "out of memory");
		return NULL;
	}
	*t = (struct os_tea){.start = r.start, .end = r.end, .first = first, .level = level};
	take_frames(o, first, frames);
	ask_host(o, t);
	insert(s, t);
	o->stats.tea.now++;
	changed(o, s);
	return t;
}

void os_tea_put(struct osm *o, struct os_space *s, struct os_tea *t)
{
	o->stats.tea.used--;
	if (--t->used)
		return;
	retire(o, s, t);
	o->stats.tea.freed++;
}

static void give_back(struct osm *o, struct os_tea *t)
{
	uint64_t frames = os_tea_frames(t);

	tell_host(o, t);
	os_frame_free_fixed(o, t->first, frames);
	o->stats.tea.frames -= frames;
	free(t);
}

void os_tea_settle(struct osm *o)
{
	if (!o->teas_changed)
		return;
	o->teas_changed = false;
	for (unsigned i = 0; i < OSM_SPACES_MAX; i++)
		if (o->space[i] && o->space[i]->teas_changed)
			os_reg_update(o, o->space[i]);
	while (o->dying) {
		struct os_tea *t = o->dying;

		o->dying = t->next;
		give_back(o, t);
	}
}

/* ---- tables move in ---- */

static void move_table(struct osm *o, struct os_space *s, struct os_table *t, struct os_tea *tea)
{
	struct os_table *parent = os_table_find(s, t->va, t->level + 1);
	uint64_t frame = tea->first + (t->va - tea->start) / os_table_bytes(t->level), from = t->frame;

	for (unsigned i = 0; i < OS_ENTRIES; i++) {
		if (!t->e[i])
			continue;
		os_load(o, OS_TEXT_COPY_LOAD, (from << PAGE_SHIFT) + 8 * i);
		os_store(o, OS_TEXT_COPY_STORE, (frame << PAGE_SHIFT) + 8 * i, t->e[i]);
	}
	if (t->tea)
		t->tea->used--;
	else
		os_frame_free_fixed(o, from, 1);
	o->stats.tea.used += !t->tea;
	t->frame = frame;
	t->tea = tea;
	tea->used++;
	o->frame[frame].stale = 1;
	os_table_link(o, parent, t);
	o->stats.tea.tables_moved++;
}

/* All tables that there are in the range of @tea move into it. */
static void adopt(struct osm *o, struct os_space *s, struct os_tea *tea)
{
	uint64_t bytes = os_table_bytes(tea->level), first = 0, end = 0;

	for (uint64_t va = tea->start; va < tea->end; va += bytes) {
		struct os_table *t = os_table_find(s, va, tea->level);

		if (!t || t->tea == tea)
			continue;
		move_table(o, s, t, tea);
		first = end ? first : va;
		end = va + bytes;
	}
	if (end)
		os_flush_range(o, s, first, end, PAGE_SHIFT);
}

/* ---- growing ---- */

/* The frames before and behind a TEA are taken, as many as it grows. */
static bool take_beside(struct osm *o, const struct os_tea *t, uint64_t front, uint64_t back)
{
	uint64_t behind = t->first + os_tea_frames(t);

	if (t->first < front || !os_contig_take(o, behind, back))
		return false;
	if (os_contig_take(o, t->first - front, front))
		return true;
	os_contig_free(o, behind, back);
	return false;
}

/* A gTEA cannot grow: it ends, registers first, and another one begins. */
static void withdraw(struct osm *o, struct os_space *s, struct os_tea *t)
{
	if (!t->id)
		return;
	t->withdrawn = true;
	os_reg_update(o, s);
	tell_host(o, t);
	t->withdrawn = false;
}

static bool grow_in_place(struct osm *o, struct os_space *s, struct os_tea *t, struct range r)
{
	uint64_t bytes = os_table_bytes(t->level);
	uint64_t front = (t->start - r.start) / bytes, back = (r.end - t->end) / bytes;

	if (!take_beside(o, t, front, back))
		return false;
	withdraw(o, s, t);
	take_frames(o, t->first - front, front);
	take_frames(o, t->first + os_tea_frames(t), back);
	remove_from(s, t);
	t->first -= front;
	t->start = r.start;
	t->end = r.end;
	insert(s, t);
	ask_host(o, t);
	changed(o, s);
	adopt(o, s, t);
	o->stats.tea.grown_in_place++;
	return true;
}

/* A new TEA for the range takes the tables of those there, and all others in it. */
static bool replace(struct osm *o, struct os_space *s, struct range r, unsigned level)
{
	struct os_tea *new = make(o, s, r, level), *next;

	if (!new)
		return false;
	adopt(o, s, new);
	for (struct os_tea *t = s->teas; t; t = next) {
		next = t->next;
		if (t != new && t->level == level && t->start < r.end && t->end > r.start)
			retire(o, s, t);
	}
	return true;
}

/* Twice as long, in the direction of @va, but not into others. */
static struct range doubled(const struct os_space *s, const struct os_tea *t, struct range r, uint64_t va)
{
	uint64_t more = 2 * (t->end - t->start), low = 0, high = USER_END_ROUND;

	for (const struct os_tea *n = s->teas; n; n = n->next) {
		if (n == t || n->level != t->level)
			continue;
		if (n->end <= r.start)
			low = max_u64(low, n->end);
		else
			high = min_u64(high, n->start);
	}
	if (va < t->start)
		r.start = min_u64(r.start, t->end - low > more ? t->end - more : low);
	else
		r.end = max_u64(r.end, high - t->start > more ? t->start + more : high);
	return r;
}

static bool grow_to(struct osm *o, struct os_space *s, struct os_tea *t, struct range r)
{
	if (grow_in_place(o, s, t, r))
		return true;
	if (o->failed || !replace(o, s, r, t->level))
		return false;
	o->stats.tea.migrated++;
	return true;
}

static bool grow(struct osm *o, struct os_space *s, struct os_tea *t, struct range r, uint64_t va)
{
	struct range more = doubled(s, t, r, va);

	if (length(more) > length(r) && grow_to(o, s, t, more)) {
		o->stats.tea.doubled++;
		return true;
	}
	return !o->failed && grow_to(o, s, t, r);
}

/* ---- what is to be done ---- */

/* The range together with all TEAs that it reaches into; how many these are, and the last one. */
static unsigned reach(const struct os_space *s, unsigned level, struct range *r, struct os_tea **last)
{
	struct range all = *r;
	unsigned n = 0;

	for (struct os_tea *t = s->teas; t; t = t->next) {
		if (t->level != level || t->start >= r->end || t->end <= r->start)
			continue;
		all.start = min_u64(all.start, t->start);
		all.end = max_u64(all.end, t->end);
		*last = t;
		n++;
	}
	*r = all;
	return n;
}

static bool cover(struct osm *o, struct os_space *s, struct range r, unsigned level, uint64_t va)
{
	uint64_t bytes = os_table_bytes(level);
	struct os_tea *t = NULL;
	unsigned n;

	r.start &= ~(bytes - 1);
	r.end = (r.end + bytes - 1) & ~(bytes - 1);
	n = reach(s, level, &r, &t);
	if (n == 1)
		return grow(o, s, t, r, va);
	if (n > 1) {
		if (!replace(o, s, r, level))
			return false;
		o->stats.tea.merged += n - 1;
		return true;
	}
	t = make(o, s, r, level);
	if (!t)
		return false;
	adopt(o, s, t);
	o->stats.tea.made++;
	o->stats.tea.made_2m += level == 2;
	return true;
}

void os_tea_prepare(struct osm *o, struct os_space *s, uint64_t va, unsigned level)
{
	struct range r;

	if ((o->cfg.kind != OSM_DMT && o->cfg.kind != OSM_PVDMT) || os_tea_at(s, va, level) || !cluster(o, s, va, &r))
		return;
	if (!cover(o, s, r, level, va) && !o->failed && !os_table_find(s, va, level))
		o->stats.tea.fallbacks++;
}
