/*
 * Two hosts for the state machines of migration: VMs that are arrays of pages with somebody who writes to them, files
 * that only one host can have open, and a wire between them that breaks as a test wants it.
 */
#ifndef GNOMON_TEST_MIGRATE_WORLD_H
#define GNOMON_TEST_MIGRATE_WORLD_H

#include "base/util.h"
#include "vm/migrate.h"

#include "fault_proxy.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>

#define WORLD_PAGES   600u
#define WORLD_WORDS   ((WORLD_PAGES + 63) / 64)
#define WORLD_QUEUE   64u
#define WORLD_WIRES   256u
#define WORLD_STALL   60   /* ms */
#define WORLD_PAGE_NS 1000 /* what a page costs the source */

struct world {
	/* the source's host */
	uint8_t (*from)[PAGE_SIZE];
	uint64_t dirty[WORLD_WORDS];
	bool tracking;
	uint64_t random;
	unsigned writes;        /* for 1000 pages read, the VM writes so many */
	unsigned hot;           /* ... among so many pages */
	unsigned throttle;
	bool slow;              /* so that the VM at the other end is faster than what is pushed */
	int64_t clock;
	unsigned cancel_at;     /* pages read; 0: never */
	unsigned reads;
	bool cancelled;
	/* the destination's */
	uint8_t (*to)[PAGE_SIZE];
	bool present[WORLD_PAGES];
	bool has_vm, lazy;
	bool refuse_config, refuse_load, small;
	bool no_postcopy;
	struct migrate_fetch fetch;
	char said[600];
	unsigned sections;
	/* both */
	pthread_mutex_t lock;
	int running;            /* hosts on which the VM runs: never more than one */
	int open;               /* ... or that have its files open */
	bool ran_there, runs_here, files_there;
	bool torn;              /* one of these rules was broken */
	/* the wire */
	struct fault fault[WORLD_WIRES];
	pthread_t wire[WORLD_WIRES];
	unsigned wires;
	unsigned unreachable_from; /* connections from this one on fail; 0: none */
	bool hangs_up;          /* ... by being made and hung up at once */
	int hung_up[WORLD_WIRES];
	unsigned hung;
	pthread_cond_t came;
	int queue[WORLD_QUEUE];
	unsigned queued;
	bool closing;
	int64_t stall_ms, recover_ms; /* the latter of the destination */
	/* the destination's thread */
	pthread_t host;
	struct migrate_dest *dest;
	int dest_ret;
};

static inline unsigned world_random(struct world *w, unsigned below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (unsigned)(w->random >> 33) % below;
}

static inline void world_change(struct world *w, int running, int open)
{
	pthread_mutex_lock(&w->lock);
	w->running += running;
	w->open += open;
	w->torn |= w->running > 1 || w->open > 1 || w->running < 0 || w->open < 0;
	pthread_mutex_unlock(&w->lock);
}

/* ---- the source's VM ---- */

static inline void world_write(struct world *w)
{
	unsigned page = world_random(w, w->hot), at = world_random(w, PAGE_SIZE);

	page -= page % 7 == 3; /* those are never touched */

	w->from[page][at]++;
	if (w->tracking)
		w->dirty[page / 64] |= 1ull << page % 64;
}

static inline int world_read_page(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE])
{
	struct world *w = ctx;
	unsigned writes = w->writes * (100 - w->throttle) / 100;

	w->clock += WORLD_PAGE_NS;
	if (w->slow && !w->runs_here)
		usleep(20);
	if (++w->reads == w->cancel_at)
		w->cancelled = true;
	if (w->runs_here)
		for (unsigned i = 0; i < writes / 1000 + (world_random(w, 1000) < writes % 1000); i++)
			world_write(w);
	if (page % 7 == 3) /* never touched */
		return 0;
	memcpy(data, w->from[page], PAGE_SIZE);
	return 1;
}

static inline int world_track(void *ctx, struct error *err)
{
	struct world *w = ctx;

	(void)err;
	memset(w->dirty, 0, sizeof(w->dirty));
	w->tracking = true;
	return 0;
}

static inline int world_collect(void *ctx, uint64_t *bitmap, struct error *err)
{
	struct world *w = ctx;

	if (w->cancelled && w->runs_here)
		return error_set(err, -ECANCELED, "cancelled");
	for (unsigned i = 0; i < WORLD_WORDS; i++)
		bitmap[i] |= w->dirty[i];
	memset(w->dirty, 0, sizeof(w->dirty));
	return 0;
}

static inline void world_untrack(void *ctx) { ((struct world *)ctx)->tracking = false; }
static inline void world_throttle(void *ctx, unsigned percent) { ((struct world *)ctx)->throttle = percent; }

typedef int world_put(void *to, const char *name, const void *bytes, size_t n, struct error *err);

static inline int world_describe(void *ctx, world_put *put, void *to, struct error *err)
{
	(void)ctx;
	return put(to, "config", "a VM", 4, err);
}

static inline int world_pause(void *ctx, struct error *err)
{
	struct world *w = ctx;

	(void)err;
	world_change(w, -1, -1);
	w->runs_here = false;
	return 0;
}

static inline int world_save(void *ctx, world_put *put, void *to, struct error *err)
{
	int ret = put(to, "vcpu", "registers", 9, err);

	(void)ctx;
	return ret ? ret : put(to, "serial", "port", 4, err);
}

static inline void world_hash_of(uint8_t (*mem)[PAGE_SIZE], uint64_t hash[2])
{
	const uint8_t *p = &mem[0][0];

	hash[0] = hash[1] = 7;
	for (size_t i = 0; i < (size_t)WORLD_PAGES * PAGE_SIZE; i += 8)
		hash[0] = hash[0] * 31 + get_u64(p + i);
}

static inline void world_hash(void *ctx, uint64_t hash[2]) { world_hash_of(((struct world *)ctx)->from, hash); }

static inline int world_resume(void *ctx, struct error *err)
{
	struct world *w = ctx;
	bool free_to_open;

	pthread_mutex_lock(&w->lock);
	free_to_open = !w->files_there;
	pthread_mutex_unlock(&w->lock);
	if (!free_to_open)
		return error_set(err, -EAGAIN, "the files are in use");
	world_change(w, 1, 1);
	w->runs_here = true;
	return 0;
}

static inline int64_t world_now(void *ctx) { return ((struct world *)ctx)->clock; }

/* ---- the wire ---- */

static inline int world_connect(void *ctx, bool may_cancel, struct transport **out, struct error *err)
{
	struct world *w = ctx;
	struct transport_config cfg = TRANSPORT_CONFIG_DEFAULT;
	int left[2], right[2];
	unsigned n = w->wires;

	(void)may_cancel;
	if (w->hangs_up && w->unreachable_from && n >= w->unreachable_from) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, left))
			abort();
		if (w->hung == WORLD_WIRES)
			return error_set(err, -EHOSTUNREACH, "hung up too often");
		shutdown(left[1], SHUT_WR);
		w->hung_up[w->hung++] = left[1];
		return transport_adopt(out, left[0], false, "there", &cfg, err);
	}
	if ((w->unreachable_from && n >= w->unreachable_from) || n == WORLD_WIRES)
		return error_set(err, -EHOSTUNREACH, "there is no way to the other end");
	cfg.stall_ms = w->stall_ms;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, left) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, right))
		abort();
	w->wires++;
	wire_start(left[1], right[0], &w->fault[n], &w->wire[n]);
	pthread_mutex_lock(&w->lock);
	if (w->queued == WORLD_QUEUE)
		abort();
	w->queue[w->queued++] = right[1];
	pthread_cond_broadcast(&w->came);
	pthread_mutex_unlock(&w->lock);
	return transport_adopt(out, left[0], false, "there", &cfg, err);
}

static inline void world_nap(void *ctx, int64_t ms)
{
	struct world *w = ctx;

	w->clock += ms * 1000000;
	usleep(40000);
}

static inline bool world_cancelled(void *ctx)
{
	(void)ctx;
	return false;
}

static inline int world_accept(void *ctx, struct transport **out, int64_t wait_ms, struct error *err)
{
	struct world *w = ctx;
	struct transport_config cfg = TRANSPORT_CONFIG_DEFAULT;
	struct timespec until;
	int fd = -1, ret = 0;

	cfg.stall_ms = w->stall_ms;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (wait_ms < 0 ? 0 : wait_ms) % 1000 * 1000000;
	until.tv_sec += (wait_ms < 0 ? 3600 : wait_ms / 1000) + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&w->lock);
	while (!w->queued && !w->closing && ret == 0)
		ret = pthread_cond_timedwait(&w->came, &w->lock, &until);
	if (w->queued) {
		fd = w->queue[0];
		memmove(w->queue, w->queue + 1, --w->queued * sizeof(int));
	}
	pthread_mutex_unlock(&w->lock);
	if (fd < 0)
		return error_set(err, w->closing ? -ECANCELED : -ETIMEDOUT, "nobody");
	return transport_adopt(out, fd, true, "here", &cfg, err);
}

/* ---- the destination's VM ---- */

static inline int world_create(void *ctx, const void *config, size_t bytes, uint64_t *pages, struct error *err)
{
	struct world *w = ctx;

	if (w->refuse_config || bytes != 4 || memcmp(config, "a VM", 4) != 0)
		return error_set(err, -EINVAL, "no such VM can be made here");
	w->has_vm = true;
	w->sections = 0;
	memset(w->to, 0, (size_t)WORLD_PAGES * PAGE_SIZE);
	memset(w->present, 1, sizeof(w->present));
	*pages = w->small ? WORLD_PAGES - 1 : WORLD_PAGES;
	return 0;
}

static inline int world_write_page(void *ctx, uint64_t page, const uint8_t *data, struct error *err)
{
	struct world *w = ctx;

	(void)err;
	if (data)
		memcpy(w->to[page], data, PAGE_SIZE);
	else
		memset(w->to[page], 0, PAGE_SIZE);
	return 0;
}

static inline int world_load(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct world *w = ctx;

	if (w->refuse_load)
		return error_set(err, -EINVAL, "%s makes no sense", name);
	w->sections += (!strcmp(name, "vcpu") && n == 9 && !memcmp(bytes, "registers", 9)) ||
		       (!strcmp(name, "serial") && n == 4 && !memcmp(bytes, "port", 4));
	return 0;
}

static inline int world_finish(void *ctx, const uint64_t *absent, const struct migrate_fetch *fetch, struct error *err)
{
	struct world *w = ctx;

	if (w->sections != 2)
		return error_set(err, -EINVAL, "a section is missing");
	for (unsigned i = 0; absent && i < WORLD_PAGES; i++)
		w->present[i] = !(absent[i / 64] >> i % 64 & 1);
	w->lazy = absent;
	if (absent)
		w->fetch = *fetch;
	world_change(w, 0, 1);
	pthread_mutex_lock(&w->lock);
	w->files_there = true;
	pthread_mutex_unlock(&w->lock);
	return 0;
}

static inline void world_hash_there(void *ctx, uint64_t hash[2]) { world_hash_of(((struct world *)ctx)->to, hash); }

static inline void world_drop(void *ctx)
{
	struct world *w = ctx;

	if (w->files_there)
		world_change(w, 0, -1);
	pthread_mutex_lock(&w->lock);
	w->files_there = false;
	pthread_mutex_unlock(&w->lock);
	w->has_vm = w->lazy = false;
}

static inline void world_say(void *ctx, const char *line)
{
	struct world *w = ctx;

	snprintf(w->said, sizeof(w->said), "%s", line);
	for (const char *p = line; *p; p++)
		if ((unsigned char)*p < ' ')
			w->torn = true;
}

static inline void world_arrived(void *ctx) { (void)ctx; }

static inline void world_touch(void *ctx, uint64_t page)
{
	struct world *w = ctx;

	if (!w->present[page])
		w->present[page] = w->fetch.fetch(w->fetch.ctx, page, w->to[page]) == 0;
}

/* The VM at the destination touches memory here and there, and in the end all of it. */
static inline void world_execute(struct world *w)
{
	uint64_t random = 88172645463325252ull;

	for (unsigned i = 0; i < WORLD_PAGES / 2; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		world_touch(w, (random >> 20) % WORLD_PAGES);
		migrate_dest_take(w->dest, 2, world_touch, w);
	}
	for (unsigned i = 0; i < WORLD_PAGES; i++)
		world_touch(w, i);
}

static inline void *world_host(void *ctx)
{
	struct world *w = ctx;
	struct error err = {0};

	w->dest_ret = migrate_dest_wait(w->dest, &err);
	if (w->dest_ret)
		return NULL;
	w->ran_there = true;
	world_change(w, 1, 0);
	if (migrate_dest_start(w->dest, &err))
		abort();
	if (w->lazy)
		world_execute(w);
	migrate_dest_end(w->dest);
	return NULL;
}

/* ---- its life ---- */

static inline void world_begin(struct world *w, unsigned writes, unsigned hot)
{
	const struct migrate_dest_vm vm = {
		.ctx = w,
		.can_postcopy = !w->no_postcopy,
		.create = world_create,
		.write_page = world_write_page,
		.load = world_load,
		.finish = world_finish,
		.hash = world_hash_there,
		.drop = world_drop,
		.say = world_say,
		.arrived = world_arrived,
	};
	const struct migrate_door door = {.ctx = w, .accept = world_accept};
	struct error err;

	w->from = calloc(WORLD_PAGES, PAGE_SIZE);
	w->to = calloc(WORLD_PAGES, PAGE_SIZE);
	w->random = 0x9e3779b97f4a7c15;
	w->writes = writes;
	w->hot = hot;
	w->stall_ms = w->stall_ms ? w->stall_ms : WORLD_STALL;
	w->recover_ms = w->recover_ms ? w->recover_ms : 300;
	w->runs_here = true;
	w->running = w->open = 1;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->came, NULL);
	for (unsigned i = 0; i < WORLD_PAGES; i++)
		if (i % 7 != 3 && i % 5)
			memset(w->from[i], (int)(i % 11), PAGE_SIZE), w->from[i][i % 100] = (uint8_t)i;
	w->clock = 1;
	if (migrate_dest_create(&w->dest, &vm, &door, w->recover_ms, &err))
		abort();
	if (pthread_create(&w->host, NULL, world_host, w))
		abort();
}

static inline struct migrate_source *world_source(struct world *w, const struct migrate_options *opt)
{
	const struct migrate_source_vm vm = {
		.ctx = w,
		.pages = WORLD_PAGES,
		.read_page = world_read_page,
		.track = world_track,
		.collect = world_collect,
		.untrack = world_untrack,
		.throttle = world_throttle,
		.describe = world_describe,
		.pause = world_pause,
		.save = world_save,
		.hash = world_hash,
		.resume = world_resume,
		.now_ns = world_now,
	};
	const struct migrate_peer peer = {
		.ctx = w, .connect = world_connect, .nap = world_nap, .cancelled = world_cancelled};
	struct migrate_source *s;

	if (migrate_source_create(&s, opt, &vm, &peer, NULL))
		abort();
	return s;
}

/* The destination waits no longer. */
static inline void world_close(struct world *w)
{
	pthread_mutex_lock(&w->lock);
	w->closing = true;
	pthread_cond_broadcast(&w->came);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->host, NULL);
}

static inline void world_end(struct world *w)
{
	migrate_dest_free(w->dest);
	while (w->queued)
		close(w->queue[--w->queued]);
	while (w->hung)
		close(w->hung_up[--w->hung]);
	for (unsigned i = 0; i < w->wires; i++)
		pthread_join(w->wire[i], NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->came);
	free(w->from);
	free(w->to);
}

#endif
