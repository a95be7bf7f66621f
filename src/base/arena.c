#include "base/arena.h"

#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define LINE      ((size_t)64)

/* At the beginning of its memory. */
struct arena_chunk {
	struct arena_chunk *older;
	void *mapping;
	size_t bytes; /* of the mapping */
};

static size_t round_up(size_t n, size_t to) { return (n + to - 1) & ~(to - 1); }

/* Begins a chunk with @bytes free at least, on a border between huge pages. */
static bool begin_chunk(struct arena *a, size_t bytes)
{
	size_t usable = round_up(bytes + LINE, HUGE_PAGE), mapped = usable + (a->huge ? HUGE_PAGE : 0);
	struct arena_chunk *c;
	uint8_t *p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return false;
	c = (void *)p;
	if (a->huge) {
		c = (void *)round_up((uintptr_t)p, HUGE_PAGE);
		madvise(c, usable, MADV_HUGEPAGE); /* if there are none, it works as well, and slower */
	}
	*c = (struct arena_chunk){.older = a->chunks, .mapping = p, .bytes = mapped};
	a->chunks = c;
	a->next = (uint8_t *)c + LINE;
	a->left = usable - LINE;
	return true;
}

void arena_init(struct arena *a, bool huge) { *a = (struct arena){.huge = huge}; }

void *arena_alloc(struct arena *a, size_t count, size_t bytes)
{
	size_t all;
	void *p;

	if (__builtin_mul_overflow(count, bytes, &all) || all > SIZE_MAX / 2)
		return NULL;
	all = round_up(all, LINE);
	if ((!a->chunks || all > a->left) && !begin_chunk(a, all))
		return NULL;
	p = a->next;
	a->next += all;
	a->left -= all;
	return p;
}

void arena_destroy(struct arena *a)
{
	for (struct arena_chunk *c = a->chunks, *older; c; c = older) {
		older = c->older;
		munmap(c->mapping, c->bytes);
	}
	*a = (struct arena){0};
}
