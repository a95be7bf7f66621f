#include "vm/migrate_incoming.h"
#include "vm/migrate_wire.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REQUESTS_MAX 64u /* threads that wait at once; more wait their turn */

struct migrate_incoming {
	pthread_mutex_t lock;
	pthread_cond_t changed;    /* a page has come, a request has gone, or nothing will come any more */
	uint64_t pages, left, demanded;
	uint64_t *absent;          /* have not come */
	uint8_t **store;           /* [pages]: have come and are not the VM's yet; ZERO_PAGE for zeros */
	uint64_t stored;           /* ... so many */
	uint64_t next_arrived;     /* where incoming_next() looks on */
	uint64_t request[REQUESTS_MAX];
	bool asked[REQUESTS_MAX];  /* ... and whether the other end was asked */
	unsigned requests;
	int wake_fd;
	bool settled;
	bool given_up;
};

static uint8_t zero_page[1]; /* an address, nothing else */
#define ZERO_PAGE (&zero_page[0])

int incoming_create(struct migrate_incoming **out, uint64_t pages, struct error *err)
{
	struct migrate_incoming *l = calloc(1, sizeof(*l));

	if (!l)
		return error_set(err, -ENOMEM, "out of memory");
	l->pages = l->left = pages;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->store = calloc(pages, sizeof(*l->store));
	l->absent = calloc(bitmap_words(pages), 8);
	if (!l->store || !l->absent || l->wake_fd < 0) {
		int ret = error_set(err, -ENOMEM, "out of memory or of descriptors");

		incoming_free(l);
		return ret;
	}
	bitmap_fill(l->absent, pages);
	*out = l;
	return 0;
}

static void release(uint8_t *data)
{
	if (data != ZERO_PAGE)
		free(data);
}

void incoming_free(struct migrate_incoming *l)
{
	if (!l)
		return;
	for (uint64_t i = 0; l->store && i < l->pages; i++)
		release(l->store[i]);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l->store);
	free(l->absent);
	free(l);
}

/* ---- the receiver ---- */

static void take_out(struct migrate_incoming *l, uint64_t page)
{
	if (!l->store[page])
		return;
	release(l->store[page]);
	l->store[page] = NULL;
	l->stored--;
}

int incoming_put(struct migrate_incoming *l, uint64_t page, const uint8_t *data)
{
	uint8_t *copy = data ? malloc(PAGE_SIZE) : ZERO_PAGE;

	if (!copy)
		return -ENOMEM;
	if (data)
		memcpy(copy, data, PAGE_SIZE);
	pthread_mutex_lock(&l->lock);
	if (!l->settled || bitmap_has(l->absent, page)) {
		take_out(l, page);
		l->left -= bitmap_has(l->absent, page);
		bitmap_clear(l->absent, page);
		l->store[page] = copy;
		l->stored++;
		copy = ZERO_PAGE;
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
	release(copy);
	return 0;
}

void incoming_settle(struct migrate_incoming *l, const uint64_t *absent)
{
	pthread_mutex_lock(&l->lock);
	l->settled = true;
	memcpy(l->absent, absent, bitmap_words(l->pages) * 8);
	l->left = bitmap_count(absent, bitmap_words(l->pages));
	for (uint64_t i = 0; i < l->pages; i++)
		if (bitmap_has(absent, i) || l->store[i] == ZERO_PAGE)
			take_out(l, i);
	pthread_mutex_unlock(&l->lock);
}

void incoming_not_zero(struct migrate_incoming *l, uint64_t *bitmap)
{
	pthread_mutex_lock(&l->lock);
	for (uint64_t i = 0; i < l->pages; i++)
		if (l->store[i] || bitmap_has(l->absent, i))
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

static bool is_requested(const struct migrate_incoming *l, uint64_t page)
{
	for (unsigned i = 0; i < l->requests; i++)
		if (l->request[i] == page)
			return true;
	return false;
}

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
		if (l->requests < REQUESTS_MAX && !is_requested(l, page)) {
			l->asked[l->requests] = false;
			l->request[l->requests++] = page;
			l->demanded++;
			wake(l);
		}
		pthread_cond_wait(&l->changed, &l->lock);
	}
	forget_request(l, page);
	pthread_cond_broadcast(&l->changed); /* there is room for another request */
}

int incoming_fetch(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE])
{
	struct migrate_incoming *l = ctx;
	const uint8_t *from;

	pthread_mutex_lock(&l->lock);
	await(l, page);
	from = l->store[page];
	if (from == ZERO_PAGE)
		memset(data, 0, PAGE_SIZE);
	else if (from)
		memcpy(data, from, PAGE_SIZE);
	pthread_mutex_unlock(&l->lock);
	return from ? 0 : -EIO;
}

bool incoming_next(struct migrate_incoming *l, uint64_t *page)
{
	bool found = false;

	pthread_mutex_lock(&l->lock);
	for (uint64_t i = 0; i < l->pages && l->stored && !found; i++) {
		*page = l->next_arrived;
		found = l->store[*page];
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
