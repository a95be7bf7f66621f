/*
 * A snapshot of memory while the VM runs on. The host write-protects the pages (userfaultfd(2)); a thread is told of
 * the first write to each, copies what is there and lets the write happen. The reader takes copies first, since they
 * occupy room, then what has not been written, a run of neighbours at a time.
 */
#include "base/bitmap.h"
#include "engine/engine_impl.h"
#include "engine/host_faults.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define RUN_PAGES 64
/* Frames between two that are wanted, which are protected with them: a write that stops for nothing costs less than a call. */
#define GAP_PAGES 16

struct copy {
	struct copy *next;
	uint64_t page;
	uint8_t data[PAGE_SIZE];
};

struct engine_snapshot {
	struct engine_vm *vm;
	struct host_faults faults;
	bool ending;
	pthread_mutex_t lock;  /* of all below */
	pthread_cond_t room_again;
	uint64_t pages;
	uint64_t *left;        /* pages that are to be read and have not been copied */
	uint64_t *nothing;     /* those of them that had no frame: zeros */
	uint64_t *absent;      /* ... or whose contents the source has */
	uint32_t *page_of;     /* for each machine frame: page number plus 1 */
	uint64_t at;           /* the reader's place in left */
	struct copy *copies;
	uint64_t copied, room; /* bytes of copies */
	/* A run that has been read and is being handed out */
	uint64_t run_page[RUN_PAGES];
	unsigned run_count, run_next;
	uint8_t run[RUN_PAGES][PAGE_SIZE];
};

static const struct machmem *memory_of(const struct engine_snapshot *s) { return &s->vm->machine->mem; }

static const uint8_t *look(const struct engine_snapshot *s, uint64_t page, bool *absent)
{
	*absent = false;
	return s->vm->ops->look(s->vm, engine_page_gpa(s->vm, page).v >> PAGE_SHIFT, absent);
}

/* Protects pages, or lets them be written and wakes who waited for it. */
static int protect(const struct engine_snapshot *s, const uint8_t *first, uint64_t pages, bool on)
{
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)first, pages * PAGE_SIZE},
					 .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
	int r;

	do
		r = ioctl(s->faults.fd, UFFDIO_WRITEPROTECT, &wp);
	while (r && errno == EAGAIN);
	return r ? -errno : 0;
}

/* ---- writes ---- */

/* Keeps what the page has. Without memory for it the write waits: there will be some when the reader is further. */
static void keep(struct engine_snapshot *s, uint64_t page, const uint8_t *data)
{
	struct copy *c;

	while (!s->ending && bitmap_has(s->left, page) && (s->copied >= s->room || !(c = malloc(sizeof(*c)))))
		pthread_cond_wait(&s->room_again, &s->lock);
	if (s->ending || !bitmap_has(s->left, page))
		return;
	c->page = page;
	memcpy(c->data, data, PAGE_SIZE);
	c->next = s->copies;
	s->copies = c;
	s->copied += PAGE_SIZE;
	bitmap_clear(s->left, page);
}

static void serve(void *ctx, uint64_t address)
{
	struct engine_snapshot *s = ctx;
	const struct machmem *mem = memory_of(s);
	uint64_t frame = ((address & PAGE_MASK) - (uintptr_t)mem->host) >> PAGE_SHIFT;
	const uint8_t *data = mem->host + (frame << PAGE_SHIFT);

	pthread_mutex_lock(&s->lock);
	if (s->page_of[frame])
		keep(s, s->page_of[frame] - 1, data);
	protect(s, data, 1, false);
	pthread_mutex_unlock(&s->lock);
}

static void keep_present(struct engine_snapshot *s, uint64_t page)
{
	const uint8_t *data;
	bool absent;

	pthread_mutex_lock(&s->lock);
	data = look(s, page, &absent);
	if (bitmap_has(s->left, page) && !bitmap_has(s->nothing, page) && !bitmap_has(s->absent, page))
		keep(s, page, data);
	pthread_mutex_unlock(&s->lock);
}

void snapshot_keep(struct engine_vm *vm, uint64_t page)
{
	pthread_mutex_lock(&vm->snapshot_lock);
	if (vm->snapshot)
		keep_present(vm->snapshot, page);
	pthread_mutex_unlock(&vm->snapshot_lock);
}

/* ---- reading ---- */

static int take_copy(struct engine_snapshot *s, uint64_t *page, uint8_t data[PAGE_SIZE])
{
	struct copy *c = s->copies;

	s->copies = c->next;
	s->copied -= PAGE_SIZE;
	*page = c->page;
	memcpy(data, c->data, PAGE_SIZE);
	free(c);
	pthread_cond_broadcast(&s->room_again);
	return 1;
}

static int take_from_run(struct engine_snapshot *s, uint64_t *page, uint8_t data[PAGE_SIZE])
{
	*page = s->run_page[s->run_next];
	memcpy(data, s->run[s->run_next++], PAGE_SIZE);
	return 1;
}

/* Reads the page at s->at, and those that follow it in machine memory, too; then they may be written. */
static void read_run(struct engine_snapshot *s)
{
	bool absent;
	const uint8_t *first = look(s, s->at, &absent);

	s->run_count = s->run_next = 0;
	while (s->run_count < RUN_PAGES && s->at < s->pages && bitmap_has(s->left, s->at) && !bitmap_has(s->nothing, s->at) &&
	       !bitmap_has(s->absent, s->at) && look(s, s->at, &absent) == first + s->run_count * PAGE_SIZE) {
		memcpy(s->run[s->run_count], first + s->run_count * PAGE_SIZE, PAGE_SIZE);
		bitmap_clear(s->left, s->at);
		s->run_page[s->run_count++] = s->at++;
	}
	protect(s, first, s->run_count, false);
	pthread_cond_broadcast(&s->room_again); /* somebody may wait to copy one of them */
}

/* To the next page that is left. False: there is none. */
static bool advance(struct engine_snapshot *s)
{
	s->at = bitmap_next(s->left, s->at, s->pages);
	return s->at < s->pages;
}

int engine_snapshot_next(struct engine_snapshot *s, uint64_t *page, uint8_t data[PAGE_SIZE])
{
	const struct engine_source *source = &s->vm->source;
	bool fetch = false;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->copies) {
		r = take_copy(s, page, data);
	} else if (s->run_next < s->run_count) {
		r = take_from_run(s, page, data);
	} else if (advance(s)) {
		*page = s->at;
		fetch = bitmap_has(s->absent, s->at);
		if (fetch || bitmap_has(s->nothing, s->at)) {
			r = fetch ? 1 : 2;
			bitmap_clear(s->left, s->at++);
		} else {
			read_run(s);
			r = take_from_run(s, page, data);
		}
	}
	pthread_mutex_unlock(&s->lock);
	if (!fetch)
		return r;
	memset(data, 0, PAGE_SIZE);
	return source->fetch(source->ctx, *page, data) ? -EIO : 1;
}

/* ---- beginning and end ---- */

static int watch(struct engine_snapshot *s, struct error *err)
{
	const struct machmem *mem = memory_of(s);
	int r = 0;

	for (unsigned i = 0; i < mem->ranges && !r; i++)
		r = host_faults_watch(&s->faults, mem->host + mem->range[i].base, mem->range[i].bytes,
				      UFFDIO_REGISTER_MODE_WP, err);
	return r;
}

/* Sorts the pages by what they have, and protects those that have a frame, as many as possible by one call. */
static int protect_all(struct engine_snapshot *s, struct error *err)
{
	const uint8_t *first = NULL, *host = memory_of(s)->host;
	uint64_t n = 0;
	int r = 0;

	for (uint64_t page = bitmap_next(s->left, 0, s->pages); page < s->pages && !r;
	     page = bitmap_next(s->left, page + 1, s->pages)) {
		bool absent;
		const uint8_t *p = look(s, page, &absent);

		if (!p) {
			bitmap_set(absent ? s->absent : s->nothing, page);
			continue;
		}
		s->page_of[(uint64_t)(p - host) >> PAGE_SHIFT] = (uint32_t)page + 1;
		if (n && p >= first + n * PAGE_SIZE && p <= first + (n + GAP_PAGES) * PAGE_SIZE) {
			n = (uint64_t)(p - first) / PAGE_SIZE + 1;
			continue;
		}
		r = n ? protect(s, first, n, true) : 0;
		first = p;
		n = 1;
	}
	if (n && !r)
		r = protect(s, first, n, true);
	return r ? error_set(err, r, "userfaultfd: cannot protect guest memory: %s", strerror(-r)) : 0;
}

static int allocate(struct engine_snapshot *s, const uint64_t *pages, struct error *err)
{
	uint64_t words = s->pages / 64 + 1;

	s->left = calloc(words, sizeof(*s->left));
	s->nothing = calloc(words, sizeof(*s->nothing));
	s->absent = calloc(words, sizeof(*s->absent));
	s->page_of = calloc(memory_of(s)->span >> PAGE_SHIFT, sizeof(*s->page_of));
	if (!s->left || !s->nothing || !s->absent || !s->page_of)
		return error_set(err, -ENOMEM, "out of memory");
	memcpy(s->left, pages, (s->pages + 63) / 64 * sizeof(*pages));
	return 0;
}

static int start(struct engine_snapshot *s, const uint64_t *pages, struct error *err)
{
	int r = host_faults_open(&s->faults, UFFD_FEATURE_PAGEFAULT_FLAG_WP, "watch writes to memory", err);

	if (!r)
		r = allocate(s, pages, err);
	if (!r)
		r = watch(s, err);
	if (!r)
		r = protect_all(s, err);
	return r ? r : host_faults_start(&s->faults, serve, s, err);
}

int engine_snapshot_begin(struct engine_vm *vm, const uint64_t *pages, uint64_t room, struct engine_snapshot **out,
			  struct error *err)
{
	struct engine_snapshot *s;
	int r;

	if (engine_mmu_is_bare(vm->cfg.mmu))
		return error_set(err, -ENOTSUP, "nothing stands in front of the bare machine's memory");
	if (vm->snapshot)
		return error_set(err, -EBUSY, "a snapshot of memory is being taken already");
	s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(err, -ENOMEM, "out of memory");
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->room_again, NULL);
	s->vm = vm;
	s->pages = engine_pages(vm);
	s->room = room;
	r = start(s, pages, err);
	if (r) {
		engine_snapshot_end(s);
		return r;
	}
	pthread_mutex_lock(&vm->snapshot_lock);
	*out = vm->snapshot = s;
	pthread_mutex_unlock(&vm->snapshot_lock);
	return 0;
}

void engine_snapshot_end(struct engine_snapshot *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->ending = true; /* nobody waits for room any more */
	pthread_cond_broadcast(&s->room_again);
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&s->vm->snapshot_lock);
	if (s->vm->snapshot == s)
		s->vm->snapshot = NULL;
	pthread_mutex_unlock(&s->vm->snapshot_lock);
	host_faults_close(&s->faults);
	for (struct copy *c = s->copies, *next; c; c = next) {
		next = c->next;
		free(c);
	}
	pthread_cond_destroy(&s->room_again);
	pthread_mutex_destroy(&s->lock);
	free(s->left);
	free(s->nothing);
	free(s->absent);
	free(s->page_of);
	free(s);
}
