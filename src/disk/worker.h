/*
 * A thread that does the requests of one disk, one after the other in the order of submission, while the submitter
 * goes on. It knows nothing of guests: data is in buffers of the submitter's. While there is nothing to do, and now and
 * then if there always is, it copies a piece of the disk to a mirror, if it has one.
 */
#ifndef GNOMON_DISK_WORKER_H
#define GNOMON_DISK_WORKER_H

#include "disk/mirror.h"

enum disk_work {
	DISK_WORK_READ, DISK_WORK_WRITE, DISK_WORK_FLUSH, DISK_WORK_DISCARD, DISK_WORK_ZEROES, DISK_WORK_KINDS,
};

struct disk_request {
	enum disk_work kind;
	uint64_t at, bytes;     /* of the disk; not for a flush */
	void *buf;              /* [bytes]: to read into, or to write */
	bool may_unmap;         /* zeroes */
	bool then_flush;        /* done only when it is on stable storage */
	/* valid when it is done */
	int result;             /* 0 or a negative errno, with err */
	struct error err;
	/* the worker's own */
	bool done;
	struct disk_request *next;
};

/* Told of each request that is done, by the worker's thread. */
struct disk_listener {
	void (*done)(void *ctx);
	void *ctx;
};

struct disk_worker;

/*
 * Starts the thread. The disk is the worker's until disk_worker_stop(), while anything is submitted.
 * @listener: NULL: nobody; must last as long as the worker
 * -EAGAIN, -ENOMEM.
 */
int disk_worker_start(struct disk_worker **out, struct disk *disk, const struct disk_listener *listener,
		      struct error *err);
/* Does what was submitted and ends the thread. */
void disk_worker_stop(struct disk_worker *w);
/* The request and its buffer are the worker's until it is done. */
void disk_worker_submit(struct disk_worker *w, struct disk_request *rq);
bool disk_worker_is_done(struct disk_worker *w, const struct disk_request *rq);
void disk_worker_wait(struct disk_worker *w, const struct disk_request *rq);
/* Goes on with another disk. Everything submitted is done, and there is no mirror. */
void disk_worker_set_disk(struct disk_worker *w, struct disk *disk);
/*
 * Has the disk mirrored from now on, or not any more (NULL): then the mirror is not used when it returns. Everything
 * submitted is done.
 */
void disk_worker_set_mirror(struct disk_worker *w, struct disk_mirror *m);

#endif
