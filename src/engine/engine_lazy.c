/*
 * The bare machine's memory, brought when it is first touched. There is no hypervisor whose tables could say that a
 * page is not there, so the host says it: userfaultfd(2) hands accesses to missing pages, by guest, devices and hash
 * alike, to a thread that fetches their contents while the access waits.
 *
 * A fault brings the pages that follow along, as far as they are absent: a guest that goes on where it was stopped
 * touches neighbours.
 */
#include "engine/engine_impl.h"
#include "engine/host_faults.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define FETCH_PAGES 16 /* at most, by one fault */
/* Ranges are watched in pieces of this size, those that hold an absent page. */
#define PIECE_PAGES 512

struct lazy_memory {
	struct engine_vm *vm;
	struct host_faults faults;
	uint64_t *absent;  /* written by the thread, and by lazy_forget() */
	uint64_t pages;
	uint8_t data[FETCH_PAGES * PAGE_SIZE];
};

static bool test(const uint64_t *map, uint64_t n) { return __atomic_load_n(&map[n / 64], __ATOMIC_RELAXED) >> n % 64 & 1; }
static void clear(uint64_t *map, uint64_t n) { __atomic_fetch_and(&map[n / 64], ~(1ull << n % 64), __ATOMIC_RELAXED); }

static uint8_t *host_of(const struct lazy_memory *l, uint64_t page)
{
	return l->vm->mem.host + engine_page_gpa(l->vm, page).v;
}

/* The guest must not go on with zeros instead of what it had. */
static void give_up(struct lazy_memory *l)
{
	__atomic_store_n(&l->vm->lost, true, __ATOMIC_RELEASE);
	l->vm->cpu->kick = 1;
}

/* How many pages from @page on are absent and lie one behind the other; at least 1. */
static unsigned run_of(const struct lazy_memory *l, uint64_t page)
{
	unsigned n = 1;

	while (n < FETCH_PAGES && page + n < l->pages && test(l->absent, page + n) &&
	       host_of(l, page + n) == host_of(l, page) + n * PAGE_SIZE)
		n++;
	return n;
}

static void fetch(struct lazy_memory *l, uint64_t page, unsigned n)
{
	const struct engine_source *s = &l->vm->source;

	memset(l->data, 0, n * PAGE_SIZE);
	for (unsigned i = 0; i < n; i++)
		if (s->fetch(s->ctx, page + i, l->data + i * PAGE_SIZE))
			give_up(l);
}

/* Puts the contents in place, all at once, and wakes who waits. Pages that came meanwhile are left alone. */
static void place(struct lazy_memory *l, uint64_t page, unsigned n)
{
	for (unsigned i = 0; i < n;) {
		struct uffdio_copy copy = {.dst = (uintptr_t)host_of(l, page + i), .src = (uintptr_t)l->data + i * PAGE_SIZE,
					   .len = (n - i) * PAGE_SIZE};

		if (ioctl(l->faults.fd, UFFDIO_COPY, &copy) == 0)
			break;
		if (copy.copy > 0) {
			i += (unsigned)((uint64_t)copy.copy >> PAGE_SHIFT);
		} else if (errno == EEXIST) {
			struct uffdio_range range = {copy.dst, PAGE_SIZE};

			ioctl(l->faults.fd, UFFDIO_WAKE, &range);
			i++;
		} else if (errno != EAGAIN) {
			give_up(l);
			return;
		}
	}
	for (unsigned i = 0; i < n; i++)
		clear(l->absent, page + i);
}

static void serve(void *ctx, uint64_t address)
{
	struct lazy_memory *l = ctx;
	gpa_t a = gpa((address & PAGE_MASK) - (uintptr_t)l->vm->mem.host);
	uint64_t page = engine_page_of(l->vm, a);
	struct uffdio_zeropage zero = {.range = {address & PAGE_MASK, PAGE_SIZE}};
	unsigned n;

	if (page == UINT64_MAX || !test(l->absent, page)) {
		if (ioctl(l->faults.fd, UFFDIO_ZEROPAGE, &zero))
			ioctl(l->faults.fd, UFFDIO_WAKE, &zero.range);
		return;
	}
	n = run_of(l, page);
	fetch(l, page, n);
	place(l, page, n);
}

void lazy_forget(struct lazy_memory *l, uint64_t page)
{
	if (l)
		clear(l->absent, page);
}

void lazy_destroy(struct lazy_memory *l)
{
	if (!l)
		return;
	host_faults_close(&l->faults);
	free(l->absent);
	free(l);
}

static bool any(const uint64_t *map, uint64_t first, uint64_t n)
{
	for (uint64_t i = first; i < first + n; i++)
		if (test(map, i))
			return true;
	return false;
}

/* Watches the pieces of guest memory in which pages are absent. */
static int watch(struct lazy_memory *l, struct error *err)
{
	int r = 0;

	for (uint64_t page = 0, n; page < l->pages && !r; page += n) {
		n = min_u64(PIECE_PAGES, l->pages - page);
		while (host_of(l, page + n - 1) != host_of(l, page) + (n - 1) * PAGE_SIZE)
			n--;
		/* No huge pages there: one would be filled with zeros around what is put in place. */
		if (any(l->absent, page, n))
			r = host_faults_watch(&l->faults, host_of(l, page), n * PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING, err);
	}
	return r;
}

static int start(struct lazy_memory *l, const uint64_t *absent, struct error *err)
{
	int r = host_faults_open(&l->faults, 0, "bring memory when it is touched", err);

	if (r)
		return r;
	l->pages = engine_pages(l->vm);
	l->absent = malloc((l->pages / 64 + 1) * sizeof(*absent));
	if (!l->absent)
		return error_set(err, -ENOMEM, "out of memory");
	memcpy(l->absent, absent, (l->pages + 63) / 64 * sizeof(*absent));
	r = watch(l, err);
	return r ? r : host_faults_start(&l->faults, serve, l, err);
}

int lazy_create(struct engine_vm *vm, const uint64_t *absent, struct error *err)
{
	struct lazy_memory *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return error_set(err, -ENOMEM, "out of memory");
	l->vm = vm;
	r = start(l, absent, err);
	if (r) {
		lazy_destroy(l);
		return r;
	}
	vm->lazy = l;
	return 0;
}
