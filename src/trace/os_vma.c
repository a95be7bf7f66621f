/* Areas as a sorted array: there are few, and they are looked for far more often than they change. */
#include "trace/os_vma.h"

#include <errno.h>
#include <stdlib.h>

#include "arch/addr.h"

void os_vmas_free(struct os_vmas *a)
{
	free(a->v);
	*a = (struct os_vmas){0};
}

int os_vmas_copy(struct os_vmas *to, const struct os_vmas *from)
{
	*to = (struct os_vmas){0};
	if (!from->n)
		return 0;
	to->v = malloc(from->n * sizeof(*to->v));
	if (!to->v)
		return -ENOMEM;
	memcpy(to->v, from->v, from->n * sizeof(*to->v));
	to->n = to->room = from->n;
	return 0;
}

unsigned os_vmas_find(const struct os_vmas *a, uint64_t va)
{
	unsigned low = 0, high = a->n;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (a->v[mid].end > va)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

struct os_vma *os_vmas_at(const struct os_vmas *a, uint64_t va)
{
	unsigned i = os_vmas_find(a, va);

	return i < a->n && a->v[i].start <= va ? &a->v[i] : NULL;
}

bool os_vmas_cover(const struct os_vmas *a, uint64_t start, uint64_t end)
{
	const struct os_vma *v = os_vmas_at(a, start);

	return v && v->end >= end;
}

bool os_vmas_touch(const struct os_vmas *a, uint64_t start, uint64_t end)
{
	unsigned i = os_vmas_find(a, start);

	return i < a->n && a->v[i].start < end;
}

/* Room for @more areas. */
static int reserve(struct os_vmas *a, unsigned more)
{
	unsigned room = a->room ? a->room * 2 : 16;
	struct os_vma *v;

	if (a->n + more > OS_VMAS_MAX)
		return -E2BIG;
	if (a->n + more <= a->room)
		return 0;
	v = realloc(a->v, room * sizeof(*v));
	if (!v)
		return -ENOMEM;
	a->v = v;
	a->room = room;
	return 0;
}

static void insert(struct os_vmas *a, unsigned i, struct os_vma v)
{
	memmove(&a->v[i + 1], &a->v[i], (a->n - i) * sizeof(v));
	a->v[i] = v;
	a->n++;
}

static void delete(struct os_vmas *a, unsigned i, unsigned n)
{
	memmove(&a->v[i], &a->v[i + n], (a->n - i - n) * sizeof(*a->v));
	a->n -= n;
}

/* Area @i and the next one become one if nothing tells them apart. */
static bool merge(struct os_vmas *a, unsigned i)
{
	if (i + 1 >= a->n || a->v[i].end != a->v[i + 1].start || a->v[i].flags != a->v[i + 1].flags)
		return false;
	a->v[i].end = a->v[i + 1].end;
	delete(a, i + 1, 1);
	return true;
}

int os_vmas_add(struct os_vmas *a, struct os_vma v)
{
	unsigned i = os_vmas_find(a, v.start);
	int r = reserve(a, 1);

	if (r)
		return r;
	insert(a, i, v);
	merge(a, i);
	if (i)
		merge(a, i - 1);
	return 0;
}

/* Cuts the area that @va lies inside of in two. */
static int split(struct os_vmas *a, uint64_t va)
{
	unsigned i = os_vmas_find(a, va);
	struct os_vma v;
	int r;

	if (i == a->n || a->v[i].start >= va)
		return 0;
	r = reserve(a, 1);
	if (r)
		return r;
	v = a->v[i];
	v.start = va;
	a->v[i].end = va;
	insert(a, i + 1, v);
	return 0;
}

static int split_both(struct os_vmas *a, uint64_t start, uint64_t end)
{
	int r = reserve(a, 2);

	if (!r)
		r = split(a, start);
	return r ? r : split(a, end);
}

int os_vmas_remove(struct os_vmas *a, uint64_t start, uint64_t end)
{
	int r = split_both(a, start, end);

	if (!r) {
		unsigned first = os_vmas_find(a, start), last = first;

		while (last < a->n && a->v[last].start < end)
			last++;
		delete(a, first, last - first);
	}
	return r;
}

int os_vmas_change(struct os_vmas *a, uint64_t start, uint64_t end, uint32_t set, uint32_t clear)
{
	int r = split_both(a, start, end);

	if (r)
		return r;
	for (unsigned i = os_vmas_find(a, start); i < a->n && a->v[i].start < end; i++)
		a->v[i].flags = (a->v[i].flags & ~clear) | set;
	for (unsigned i = os_vmas_find(a, start ? start - 1 : 0); i < a->n && a->v[i].start <= end;)
		i += !merge(a, i);
	return 0;
}

void os_vmas_grow(struct os_vmas *a, unsigned i, uint64_t start, uint64_t end)
{
	a->v[i].start = start;
	a->v[i].end = end;
	merge(a, i);
	if (i)
		merge(a, i - 1);
}

int os_vmas_audit(const struct os_vmas *a, struct error *err)
{
	uint64_t last = 0;

	for (unsigned i = 0; i < a->n; i++) {
		const struct os_vma *v = &a->v[i];

		if (v->start < last || v->end <= v->start || (v->start | v->end) & ~PAGE_MASK)
			return error_set(err, -EINVAL, "areas: [%#llx, %#llx) after %#llx",
					 (unsigned long long)v->start, (unsigned long long)v->end,
					 (unsigned long long)last);
		last = v->end;
	}
	return 0;
}
