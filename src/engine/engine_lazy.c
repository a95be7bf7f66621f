/*
 * The bare machine's memory, brought when it is first touched. There is no hypervisor whose tables could say that a
 * page is not there, so the host says it: userfaultfd(2) hands accesses to missing pages, by guest, devices and hash
 * alike, to a thread that fetches their contents while the access waits.
 *
 * A fault brings the pages that follow along, as far as they are absent: a guest that goes on where it was stopped
 * touches neighbours.
 */
#include "engine/engine_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FETCH_PAGES 16 /* at most, by one fault */
/* Ranges are watched in pieces of this size, those that hold an absent page. */
#define PIECE_PAGES 512

struct lazy_memory {
	struct engine_vm *vm;
	int faults;        /* userfaultfd */
	int quit;          /* eventfd */
	pthread_t thread;
	bool running;
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

		if (ioctl(l->faults, UFFDIO_COPY, &copy) == 0)
			break;
		if (copy.copy > 0) {
			i += (unsigned)((uint64_t)copy.copy >> PAGE_SHIFT);
		} else if (errno == EEXIST) {
			struct uffdio_range range = {copy.dst, PAGE_SIZE};

			ioctl(l->faults, UFFDIO_WAKE, &range);
			i++;
		} else if (errno != EAGAIN) {
			give_up(l);
			return;
		}
	}
	for (unsigned i = 0; i < n; i++)
		clear(l->absent, page + i);
}

static void serve(struct lazy_memory *l, uint64_t address)
{
	gpa_t a = gpa((address & PAGE_MASK) - (uintptr_t)l->vm->mem.host);
	uint64_t page = engine_page_of(l->vm, a);
	struct uffdio_zeropage zero = {.range = {address & PAGE_MASK, PAGE_SIZE}};
	unsigned n;

	if (page == UINT64_MAX || !test(l->absent, page)) {
		if (ioctl(l->faults, UFFDIO_ZEROPAGE, &zero))
			ioctl(l->faults, UFFDIO_WAKE, &zero.range);
		return;
	}
	n = run_of(l, page);
	fetch(l, page, n);
	place(l, page, n);
}

static void *serve_faults(void *arg)
{
	struct lazy_memory *l = arg;
	struct pollfd p[2] = {{.fd = l->faults, .events = POLLIN}, {.fd = l->quit, .events = POLLIN}};

	for (;;) {
		struct uffd_msg m;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].revents)
			return NULL;
		if (read(l->faults, &m, sizeof(m)) == sizeof(m) && m.event == UFFD_EVENT_PAGEFAULT)
			serve(l, m.arg.pagefault.address);
	}
}

void lazy_forget(struct lazy_memory *l, uint64_t page)
{
	if (l)
		clear(l->absent, page);
}

void lazy_destroy(struct lazy_memory *l)
{
	const uint64_t one = 1;

	if (!l)
		return;
	if (l->running && write(l->quit, &one, sizeof(one)) == sizeof(one))
		pthread_join(l->thread, NULL);
	if (l->faults >= 0)
		close(l->faults);
	if (l->quit >= 0)
		close(l->quit);
	free(l->absent);
	free(l);
}

static int open_faults(struct lazy_memory *l, struct error *err)
{
	struct uffdio_api api = {.api = UFFD_API};

	l->faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	l->quit = eventfd(0, EFD_CLOEXEC);
	if (l->faults < 0 || l->quit < 0 || ioctl(l->faults, UFFDIO_API, &api))
		return error_set(err, -errno, "the host cannot bring memory when it is touched (userfaultfd): %s",
				 strerror(errno));
	return 0;
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
	for (uint64_t page = 0, n; page < l->pages; page += n) {
		struct uffdio_register r = {.mode = UFFDIO_REGISTER_MODE_MISSING};

		n = min_u64(PIECE_PAGES, l->pages - page);
		while (host_of(l, page + n - 1) != host_of(l, page) + (n - 1) * PAGE_SIZE)
			n--;
		if (!any(l->absent, page, n))
			continue;
		r.range.start = (uintptr_t)host_of(l, page);
		r.range.len = n * PAGE_SIZE;
		/* No huge pages there: one would be filled with zeros around what is put in place. */
		if (ioctl(l->faults, UFFDIO_REGISTER, &r))
			return error_set(err, -errno, "userfaultfd: cannot watch guest memory: %s", strerror(errno));
	}
	return 0;
}

static int start(struct lazy_memory *l, const uint64_t *absent, struct error *err)
{
	int r = open_faults(l, err);

	if (r)
		return r;
	l->pages = engine_pages(l->vm);
	l->absent = malloc((l->pages / 64 + 1) * sizeof(*absent));
	if (!l->absent)
		return error_set(err, -ENOMEM, "out of memory");
	memcpy(l->absent, absent, (l->pages + 63) / 64 * sizeof(*absent));
	r = watch(l, err);
	if (r)
		return r;
	r = pthread_create(&l->thread, NULL, serve_faults, l);
	if (r)
		return error_set(err, -r, "cannot start a thread: %s", strerror(r));
	l->running = true;
	return 0;
}

int lazy_create(struct engine_vm *vm, const uint64_t *absent, struct error *err)
{
	struct lazy_memory *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return error_set(err, -ENOMEM, "out of memory");
	l->vm = vm;
	l->faults = l->quit = -1;
	r = start(l, absent, err);
	if (r) {
		lazy_destroy(l);
		return r;
	}
	vm->lazy = l;
	return 0;
}
