/* See worker.h. */
#include "disk/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct disk_worker {
	struct disk *disk;
	const struct disk_listener *listener; /* NULL: none */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t submitted, finished;
	/* under the lock */
	struct disk_request *first, *last;
	bool stop;
	struct disk_mirror *mirror; /* changes while nothing is submitted */
	bool mirroring;             /* a step of it is under way */
	unsigned requests;          /* since the last one */
};

/* Requests that may be done while the mirror waits: so it comes to an end however busy the disk is. */
#define REQUESTS_A_STEP 4

/* ---- the thread ---- */

static int perform(struct disk *d, struct disk_request *rq)
{
	switch (rq->kind) {
	case DISK_WORK_READ:
		return disk_read(d, rq->at, rq->buf, rq->bytes, &rq->err);
	case DISK_WORK_WRITE:
		return disk_write(d, rq->at, rq->buf, rq->bytes, &rq->err);
	case DISK_WORK_FLUSH:
		return disk_flush(d, &rq->err);
	case DISK_WORK_DISCARD:
		return disk_discard(d, rq->at, rq->bytes, &rq->err);
	case DISK_WORK_ZEROES:
		return disk_write_zeroes(d, rq->at, rq->bytes, rq->may_unmap, &rq->err);
	case DISK_WORK_KINDS:
		break;
	}
	return error_set(&rq->err, -EINVAL, "no such request");
}

/* What a request that is done means for the mirror. */
static void reflect(struct disk_mirror *m, struct disk *d, const struct disk_request *rq)
{
	if (rq->kind == DISK_WORK_READ || rq->kind == DISK_WORK_FLUSH)
		return;
	if (rq->result || rq->kind == DISK_WORK_DISCARD)
		disk_mirror_touched(m, d, rq->at, rq->bytes);
	else if (rq->kind == DISK_WORK_ZEROES)
		disk_mirror_zeroed(m, rq->at, rq->bytes);
	else
		disk_mirror_wrote(m, rq->at, rq->buf, rq->bytes);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Under the lock, which is released meanwhile. False: there is nothing to copy now, and *wait_ns says for how long. */
static bool step_mirror(struct disk_worker *w, uint64_t *wait_ns)
{
	struct disk_mirror *m = w->mirror;
	uint64_t now = now_ns();

	*wait_ns = UINT64_MAX;
	if (!m || w->stop || (w->first && w->requests < REQUESTS_A_STEP) || !disk_mirror_wants(m, now, wait_ns))
		return false;
	w->mirroring = true;
	w->requests = 0;
	pthread_mutex_unlock(&w->lock);
	disk_mirror_step(m, w->disk, now);
	pthread_mutex_lock(&w->lock);
	w->mirroring = false;
	pthread_cond_broadcast(&w->finished);
	return true;
}

/* Under the lock. */
static void wait_for_work(struct disk_worker *w, uint64_t wait_ns)
{
	uint64_t until = now_ns() + wait_ns;
	const struct timespec t = {(time_t)(until / 1000000000), (long)(until % 1000000000)};

	if (wait_ns == UINT64_MAX)
		pthread_cond_wait(&w->submitted, &w->lock);
	else
		pthread_cond_timedwait(&w->submitted, &w->lock, &t);
}

/* The next request, NULL at the end. */
static struct disk_request *take(struct disk_worker *w)
{
	struct disk_request *rq;
	uint64_t wait_ns;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		if (step_mirror(w, &wait_ns))
			continue;
		if (w->first || w->stop)
			break;
		wait_for_work(w, wait_ns);
	}
	rq = w->first;
	w->requests++;
	pthread_mutex_unlock(&w->lock);
	return rq;
}

/* It leaves the queue only now: it is its submitter's again, and not to be touched any more. */
static void finish(struct disk_worker *w, struct disk_request *rq)
{
	pthread_mutex_lock(&w->lock);
	w->first = rq->next;
	rq->done = true;
	pthread_cond_broadcast(&w->finished);
	pthread_mutex_unlock(&w->lock);
	if (w->listener)
		w->listener->done(w->listener->ctx);
}

static void *work(void *arg)
{
	struct disk_worker *w = arg;
	struct disk_request *rq;

	while ((rq = take(w)) != NULL) {
		rq->result = perform(w->disk, rq);
		if (!rq->result && rq->then_flush)
			rq->result = disk_flush(w->disk, &rq->err);
		if (w->mirror)
			reflect(w->mirror, w->disk, rq);
		finish(w, rq);
	}
	return NULL;
}

/* ---- for its owner ---- */

/* Signals are for the threads that run guests. */
static int start_thread(struct disk_worker *w)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&w->thread, NULL, work, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -ret;
}

static void free_worker(struct disk_worker *w)
{
	pthread_cond_destroy(&w->submitted);
	pthread_cond_destroy(&w->finished);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

int disk_worker_start(struct disk_worker **out, struct disk *disk, const struct disk_listener *listener,
		      struct error *err)
{
	struct disk_worker *w = calloc(1, sizeof(*w));
	pthread_condattr_t monotonic;
	int ret;

	if (!w)
		return error_set(err, -ENOMEM, "disk: out of memory");
	w->disk = disk;
	w->listener = listener;
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&w->submitted, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&w->finished, NULL);
	ret = start_thread(w);
	if (ret) {
		free_worker(w);
		return error_set(err, ret, "disk: cannot start a thread: %s", strerror(-ret));
	}
	*out = w;
	return 0;
}

void disk_worker_stop(struct disk_worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->submitted);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	free_worker(w);
}

void disk_worker_submit(struct disk_worker *w, struct disk_request *rq)
{
	rq->done = false;
	rq->next = NULL;
	pthread_mutex_lock(&w->lock);
	if (w->first)
		w->last->next = rq;
	else
		w->first = rq;
	w->last = rq;
	pthread_cond_signal(&w->submitted);
	pthread_mutex_unlock(&w->lock);
}

bool disk_worker_is_done(struct disk_worker *w, const struct disk_request *rq)
{
	bool done;

	pthread_mutex_lock(&w->lock);
	done = rq->done;
	pthread_mutex_unlock(&w->lock);
	return done;
}

void disk_worker_wait(struct disk_worker *w, const struct disk_request *rq)
{
	pthread_mutex_lock(&w->lock);
	while (!rq->done)
		pthread_cond_wait(&w->finished, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

void disk_worker_set_disk(struct disk_worker *w, struct disk *disk)
{
	pthread_mutex_lock(&w->lock);
	w->disk = disk;
	pthread_mutex_unlock(&w->lock);
}

void disk_worker_set_mirror(struct disk_worker *w, struct disk_mirror *m)
{
	pthread_mutex_lock(&w->lock);
	w->mirror = m;
	while (w->mirroring)
		pthread_cond_wait(&w->finished, &w->lock);
	pthread_cond_signal(&w->submitted);
	pthread_mutex_unlock(&w->lock);
}
