/*
 * What programs ask their system for: areas, and that they go. An access where no area is shows one that nobody spoke
 * of (the trace began late, or its format does not know): it is inferred. The trace is right, always: an access that
 * an area does not permit makes it permitted.
 */
#include "trace/os_impl.h"

#include <errno.h>

#define VMA_FLAGS \
	(TRACE_MAP_WRITE | TRACE_MAP_EXEC | TRACE_MAP_STACK | TRACE_MAP_FILE | TRACE_MAP_HUGE | TRACE_MAP_NOHUGE)

static void areas_failed(struct osm *o, int r)
{
	if (r == -E2BIG)
		os_fail(o, r, "more than %u areas in a space: addresses are too far apart", OS_VMAS_MAX);
	else if (r)
		os_fail(o, r, "out of memory");
}

/* Widens a range to whole pages. False: it is no range of user space, a failure. */
static bool whole_pages(struct osm *o, uint64_t *start, uint64_t *end)
{
	uint64_t bytes = *end;

	if (!bytes || *start >= OS_USER_END || bytes > OS_USER_END - *start)
		os_fail(o, -EINVAL, "%llu bytes at %#llx are no range of user space", (unsigned long long)bytes,
			(unsigned long long)*start);
	*end = (*start + bytes + PAGE_SIZE - 1) & PAGE_MASK;
	*start &= PAGE_MASK;
	return !o->failed;
}

/* ---- taking out ---- */

struct zapped {
	uint64_t first, end; /* linear; end 0: nothing */
	bool small, tables;
};

static void zap_entry(struct osm *o, struct os_table *t, unsigned i, uint64_t va, struct zapped *z)
{
	uint64_t f = os_entry_frame(t->e[i]), end = va + os_entry_bytes(t->level);

	os_table_set(o, t, i, 0);
	if (t->level == 2)
		os_frame_unmap_huge(o, f);
	else
		os_frame_unmap(o, f);
	z->first = z->end ? min_u64(z->first, va) : va;
	z->end = max_u64(z->end, end);
	z->small |= t->level == 1;
}

/* Clears the entries of what lies in [start, end), and frees tables that no area needs. */
static void zap_table(struct osm *o, struct os_space *s, struct os_table *t, uint64_t start, uint64_t end,
		      struct zapped *z)
{
	uint64_t size = os_entry_bytes(t->level), last = min_u64(end, t->va + os_table_bytes(t->level)) - 1;

	for (unsigned i = os_index(max_u64(start, t->va), t->level); i <= os_index(last, t->level); i++) {
		uint64_t va = t->va + i * size;
		struct os_table *child = t->level > 1 ? t->child[i] : NULL;

		if (!child) {
			if (t->e[i])
				zap_entry(o, t, i, va, z);
			continue;
		}
		zap_table(o, s, child, start, end, z);
		if (child->used || os_vmas_touch(&s->vmas, va, va + size))
			continue;
		t->child[i] = NULL;
		os_table_set(o, t, i, 0);
		if (child->tea)
			os_tea_put(o, s, child->tea);
		os_table_free(o, child);
		z->tables = true;
	}
}

void os_zap(struct osm *o, struct os_space *s, uint64_t start, uint64_t end)
{
	struct zapped z = {0};

	if (start >= end)
		return;
	zap_table(o, s, s->root, start, end, &z);
	if (z.end)
		os_flush_range(o, s, z.first, z.end, z.small ? PAGE_SHIFT : 21);
	else if (z.tables)
		os_flush_all(o, s);
}

/* A huge page that reaches over @va is split, so that one part can go. */
static void split_at(struct osm *o, struct os_space *s, uint64_t va)
{
	struct os_leaf l = os_leaf(s, va);

	if (va & (SIZE_2M - 1) && os_is_huge(&l))
		os_huge_split(o, s, va);
}

/* An area that begins or ends at @va now has its pages for itself. */
static void split_at_border(struct osm *o, struct os_space *s, uint64_t va)
{
	if (va && !os_vmas_cover(&s->vmas, va - 1, va + 1))
		split_at(o, s, va);
}

/* Splits at both ends, removes the areas if @areas, and what is mapped. */
static void take_out(struct osm *o, uint64_t start, uint64_t end, bool areas)
{
	split_at(o, o->current, start);
	split_at(o, o->current, end);
	if (areas)
		areas_failed(o, os_vmas_remove(&o->current->vmas, start, end));
	if (!o->failed)
		os_zap(o, o->current, start, end);
}

void os_unmap(struct osm *o, uint64_t start, uint64_t bytes)
{
	uint64_t end = bytes;

	if (!whole_pages(o, &start, &end))
		return;
	os_execute(o, OS_TEXT_SYSCALL);
	take_out(o, start, end, true);
	o->stats.unmaps++;
}

void os_map(struct osm *o, uint64_t start, uint64_t bytes, unsigned flags)
{
	struct os_space *s = o->current;
	uint64_t end = bytes;

	if (!whole_pages(o, &start, &end))
		return;
	os_execute(o, OS_TEXT_SYSCALL);
	if (os_vmas_touch(&s->vmas, start, end))
		take_out(o, start, end, true);
	areas_failed(o, os_vmas_add(&s->vmas, (struct os_vma){start, end, flags & VMA_FLAGS}));
	o->stats.maps++;
}

void os_advise(struct osm *o, uint64_t start, uint64_t bytes, unsigned flags)
{
	uint64_t end = bytes;
	uint32_t set = flags & (TRACE_MAP_HUGE | TRACE_MAP_NOHUGE);

	if (!whole_pages(o, &start, &end))
		return;
	os_execute(o, OS_TEXT_SYSCALL);
	if (set) {
		areas_failed(o, os_vmas_change(&o->current->vmas, start, end, set,
					       (TRACE_MAP_HUGE | TRACE_MAP_NOHUGE) & ~set));
		split_at_border(o, o->current, start);
		split_at_border(o, o->current, end);
	}
	if (flags & TRACE_MAP_FREE)
		take_out(o, start, end, false);
}

/* ---- areas that nobody spoke of ---- */

/* Can an area grow by itself? An inferred one can, and a stack, downward. */
static bool grows_up(const struct os_vma *v) { return v->flags & OS_VMA_INFERRED; }
static bool grows_down(const struct os_vma *v) { return v->flags & (OS_VMA_INFERRED | TRACE_MAP_STACK); }

/*
 * The 2 MiB around @va, as far as no area is there, become one; or, if there is one near that can grow, it grows up
 * to them. Between two such, the gap is filled.
 */
static void infer(struct osm *o, struct os_space *s, uint64_t va)
{
	struct os_vmas *a = &s->vmas;
	unsigned i = os_vmas_find(a, va);
	struct os_vma *prev = i ? &a->v[i - 1] : NULL, *next = i < a->n ? &a->v[i] : NULL;
	uint64_t start = va & ~(SIZE_2M - 1), end = min_u64(start + SIZE_2M, OS_USER_END);
	bool up, down;

	if (prev)
		start = max_u64(start, prev->end);
	if (next)
		end = min_u64(end, next->start);
	up = prev && grows_up(prev) && start - prev->end <= o->cfg.gap;
	down = next && grows_down(next) && next->start - end <= o->cfg.gap;
	if (up && down && (prev->flags != next->flags))
		down = false;
	if (up) {
		os_vmas_grow(a, i - 1, prev->start, down ? next->start : end);
	} else if (down) {
		os_vmas_grow(a, i, start, next->end);
	} else {
		uint32_t flags = TRACE_MAP_WRITE | TRACE_MAP_EXEC | OS_VMA_INFERRED;

		areas_failed(o, os_vmas_add(a, (struct os_vma){start, end, flags}));
		o->stats.inferred++;
	}
}

const struct os_vma *os_area(struct osm *o, struct os_space *s, uint64_t va, unsigned flags)
{
	struct os_vma *v = os_vmas_at(&s->vmas, va);

	if (!v) {
		infer(o, s, va);
		v = os_vmas_at(&s->vmas, va);
	}
	if (v && ~v->flags & flags) {
		v->flags |= flags;
		o->stats.widened++;
	}
	return o->failed ? NULL : v;
}
