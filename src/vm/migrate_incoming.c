#include "vm/migrate_incoming.h"
#include "vm/migrate_wire.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define REQUESTS_MAX 64u /* threads that wait at once; more wait their turn */
#define CHUNK_BYTES  (2u << 20)
#define CHUNK_PAGES  (CHUNK_BYTES / PAGE_SIZE)

/* Room for pages, got and given back by so many at a time: malloc() of each would cost more than the page. */
struct chunk {
	struct chunk *next, **prev;  /* in the list of those with room */
	uint8_t *pages;              /* at a multiple of CHUNK_BYTES */
	unsigned used;
	uint64_t taken[CHUNK_PAGES / 64];
};

/* What the receiver has of a page that is not the VM's yet. */
enum held { HELD_NOT, HELD_ZEROS, HELD_DATA };

/* Memory of the room is given back by so many pages, as much as the host may take for one huge page. */
#define PIECE_PAGES 512u
#define PIECE_BYTES (PIECE_PAGES * PAGE_SIZE)
/* Of a VM with so many pages the room is made of the host's huge pages, as its memory is (mem/machmem.c). */
#define HUGE_FROM (((uint64_t)64 << 20) / PAGE_SIZE)

struct migrate_incoming {
	pthread_mutex_t lock;
	pthread_cond_t changed;    /* a page that was waited for has come, a request has gone, or nothing will come */
	uint64_t pages, left, demanded;
	uint64_t *absent;          /* have not come */
	uint8_t *held;             /* [pages]: enum held */
	uint64_t stored;           /* pages that are held */
	uint8_t *map, *room;       /* room for each page of the VM, in place; memory only for those that are held */
	uint64_t pieces;           /* of the room */
	uint16_t *in_piece;        /* [pieces]: pages with data */
	uint64_t filling;          /* the piece that the last one came to: kept though it may be empty */
	uint64_t next_arrived;     /* where incoming_next() looks on */
	uint64_t request[REQUESTS_MAX];
	bool asked[REQUESTS_MAX];  /* ... and whether the other end was asked */
	unsigned requests, crowded; /* ... and how many wait for there to be room for theirs */
	int wake_fd;
	bool settled;
	bool given_up;
};

static uint64_t map_bytes(const struct migrate_incoming *l) { return (l->pieces + 1) * PIECE_BYTES; }

static int make_room(struct migrate_incoming *l)
{
	void *map;

	l->pieces = l->pages / PIECE_PAGES + 1;
	map = mmap(NULL, map_bytes(l), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return -ENOMEM;
	l->map = map;
	l->room = l->map + (-(uintptr_t)map & (PIECE_BYTES - 1));
	if (l->pages >= HUGE_FROM) /* pages come in order, by and large */
		madvise(l->room, l->pieces * PIECE_BYTES, MADV_HUGEPAGE);
	l->held = calloc(l->pages, sizeof(*l->held));
	l->in_piece = calloc(l->pieces, sizeof(*l->in_piece));
	l->absent = calloc(bitmap_words(l->pages), 8);
	return l->held && l->in_piece && l->absent ? 0 : -ENOMEM;
}

int incoming_create(struct migrate_incoming **out, uint64_t pages, struct error *err)
{
	struct migrate_incoming *l = calloc(1, sizeof(*l));

	if (!l)
		return error_set(err, -ENOMEM, "out of memory");
	l->pages = l->left = pages;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0 || make_room(l)) {
		int ret = error_set(err, -ENOMEM, "out of memory or of descriptors");

		incoming_free(l);
		return ret;
	}
	bitmap_fill(l->absent, pages);
	*out = l;
	return 0;
}

void incoming_free(struct migrate_incoming *l)
{
	if (!l)
		return;
	if (l->map)
		munmap(l->map, map_bytes(l));
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l->held);
	free(l->in_piece);
	free(l->absent);
	free(l);
}

/* ---- the receiver ---- */

static void release_if_empty(struct migrate_incoming *l, uint64_t piece)
{
	if (!l->in_piece[piece] && piece != l->filling)
		madvise(l->room + piece * PIECE_BYTES, PIECE_BYTES, MADV_DONTNEED);
}

static void take_out(struct migrate_incoming *l, uint64_t page)
{
	enum held was = l->held[page];

	l->held[page] = HELD_NOT;
	l->stored -= was != HELD_NOT;
	if (was != HELD_DATA)
		return;
	l->in_piece[page / PIECE_PAGES]--;
	release_if_empty(l, page / PIECE_PAGES);
}

static void hold(struct migrate_incoming *l, uint64_t page, const uint8_t *data)
{
	uint64_t before = l->filling;

	l->held[page] = data ? HELD_DATA : HELD_ZEROS;
	l->stored++;
	if (!data)
		return;
	memcpy(l->room + page * PAGE_SIZE, data, PAGE_SIZE);
	l->in_piece[page / PIECE_PAGES]++;
	l->filling = page / PIECE_PAGES;
	if (before != l->filling)
		release_if_empty(l, before);
}

static bool is_requested(const struct migrate_incoming *l, uint64_t page)
{
	for (unsigned i = 0; i < l->requests; i++)
		if (l->request[i] == page)
			return true;
	return false;
}

void incoming_put(struct migrate_incoming *l, uint64_t page, const uint8_t *data)
{
	pthread_mutex_lock(&l->lock);
	if (!l->settled || bitmap_has(l->absent, page)) {
		take_out(l, page);
		l->left -= bitmap_has(l->absent, page);
		bitmap_clear(l->absent, page);
		hold(l, page, data);
		if (l->crowded || is_requested(l, page))
			pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
}

void incoming_settle(struct migrate_incoming *l, const uint64_t *absent)
{
	pthread_mutex_lock(&l->lock);
	l->settled = true;
	memcpy(l->absent, absent, bitmap_words(l->pages) * 8);
	l->left = bitmap_count(absent, bitmap_words(l->pages));
	for (uint64_t i = 0; i < l->pages; i++)
		if (bitmap_has(absent, i) || l->held[i] == HELD_ZEROS)
			take_out(l, i);
	pthread_mutex_unlock(&l->lock);
}

void incoming_not_zero(struct migrate_incoming *l, uint64_t *bitmap)
{
	pthread_mutex_lock(&l->lock);
	for (uint64_t i = 0; i < l->pages; i++)
		if (l->held[i] || bitmap_has(l->absent, i))
			bitmap_set(bitmap, i);
	pthread_mutex_unlock(&l->lock);
}

static void wake(struct migrate_incoming *l)
{
	const uint64_t one = 1;

	if (write(l->wake_fd, &one, sizeof(one)) < 0) {
		/* the counter is full: it is readable as it is */
	}
}

bool incoming_next_request(struct migrate_incoming *l, uint64_t *page)
{
	bool found = false;
	uint64_t n;

	pthread_mutex_lock(&l->lock);
	if (read(l->wake_fd, &n, sizeof(n)) < 0) {
		/* nothing new; what is old is looked at all the same */
	}
	for (unsigned i = 0; i < l->requests && !found; i++) {
		found = !l->asked[i];
		l->asked[i] = true;
		*page = l->request[i];
	}
	if (found)
		wake(l); /* there may be more */
	pthread_mutex_unlock(&l->lock);
	return found;
}

int incoming_wake_fd(const struct migrate_incoming *l) { return l->wake_fd; }

void incoming_ask_again(struct migrate_incoming *l)
{
	pthread_mutex_lock(&l->lock);
	memset(l->asked, 0, sizeof(l->asked));
	wake(l);
	pthread_mutex_unlock(&l->lock);
}

uint64_t incoming_left(struct migrate_incoming *l)
{
	uint64_t n;

	pthread_mutex_lock(&l->lock);
	n = l->left;
	pthread_mutex_unlock(&l->lock);
	return n;
}

uint64_t incoming_demanded(struct migrate_incoming *l)
{
	uint64_t n;

	pthread_mutex_lock(&l->lock);
	n = l->demanded;
	pthread_mutex_unlock(&l->lock);
	return n;
}

void incoming_absent(struct migrate_incoming *l, uint64_t *bitmap)
{
	pthread_mutex_lock(&l->lock);
	memcpy(bitmap, l->absent, bitmap_words(l->pages) * 8);
	pthread_mutex_unlock(&l->lock);
}

void incoming_give_up(struct migrate_incoming *l)
{
	pthread_mutex_lock(&l->lock);
	l->given_up = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

/* ---- the VM ---- */

static void forget_request(struct migrate_incoming *l, uint64_t page)
{
	for (unsigned i = 0; i < l->requests; i++)
		if (l->request[i] == page) {
			l->request[i] = l->request[--l->requests];
			l->asked[i] = l->asked[l->requests];
			return;
		}
}

/* Until it is there, or will not come. With the lock. */
static void await(struct migrate_incoming *l, uint64_t page)
{
	while (bitmap_has(l->absent, page) && !l->given_up) {
		bool crowded = l->requests == REQUESTS_MAX && !is_requested(l, page);

		if (!crowded && !is_requested(l, page)) {
			l->asked[l->requests] = false;
			l->request[l->requests++] = page;
			l->demanded++;
			wake(l);
		}
		l->crowded += crowded;
		pthread_cond_wait(&l->changed, &l->lock);
		l->crowded -= crowded;
	}
	forget_request(l, page);
	pthread_cond_broadcast(&l->changed); /* there is room for another request */
}

int incoming_fetch(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE])
{
	struct migrate_incoming *l = ctx;
	enum held held;

	pthread_mutex_lock(&l->lock);
	await(l, page);
	held = l->held[page];
	if (held == HELD_ZEROS)
		memset(data, 0, PAGE_SIZE);
	else if (held == HELD_DATA)
		memcpy(data, l->room + page * PAGE_SIZE, PAGE_SIZE);
	pthread_mutex_unlock(&l->lock);
	return held != HELD_NOT ? 0 : -EIO;
}

bool incoming_next(struct migrate_incoming *l, uint64_t *page)
{
	bool found = false;

	pthread_mutex_lock(&l->lock);
	for (uint64_t i = 0; i < l->pages && l->stored && !found; i++) {
		*page = l->next_arrived;
		found = l->held[*page] != HELD_NOT;
		if (++l->next_arrived == l->pages)
			l->next_arrived = 0;
	}
	pthread_mutex_unlock(&l->lock);
	return found;
}

void incoming_forget(struct migrate_incoming *l, uint64_t page)
{
	pthread_mutex_lock(&l->lock);
	take_out(l, page);
	pthread_mutex_unlock(&l->lock);
}
