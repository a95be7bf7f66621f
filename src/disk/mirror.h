/*
 * Copying a disk that is in use to somewhere else. A bit a cluster says that the target does not have what the disk
 * has; copying clears bits, and what becomes of a change of the disk depends on how far the work is:
 *
 *	copying     a change sets the bits of its clusters, which are copied again, round by round
 *	mirroring   a change of a cluster whose bit is set needs nothing more: it is yet to be copied; any other one is
 *		    made in the target, too, before it is acknowledged. So bits only go, and the end is certain
 *	ready       no bit is set: the target has all, at every moment, until the mirror is completed or stopped
 *
 * It goes from copying to mirroring by itself, when a round leaves more than half of what the one before left, or after
 * a number of rounds. The target is a table of functions, so it may be an image, or a connection to another host.
 *
 * A target that fails ends the mirror, and nothing else: the disk is used as if there had been none.
 */
#ifndef GNOMON_DISK_MIRROR_H
#define GNOMON_DISK_MIRROR_H

#include "disk/disk.h"
#include <limits.h>

/*
 * Where it is copied to. Called one at a time, by the thread that uses the disk (the disk's worker, mostly), in the order in
 * which it is to take effect: one that only queues keeps that order. Before anything is written it has any contents.
 * Return 0, or a negative errno with a line in @err, after which they are not called any more. They may wait, and a guest's
 * change that is mirrored waits with them.
 */
struct disk_mirror_target {
	void *ctx;
	int (*write)(void *ctx, uint64_t at, const void *buf, uint64_t bytes, struct error *err);
	int (*zero)(void *ctx, uint64_t at, uint64_t bytes, struct error *err);
	/* Everything before is on stable storage, or known to have arrived: what the end of the work needs. */
	int (*flush)(void *ctx, struct error *err);
	/* Would a write not have to wait? Copying waits with the disk free for the guest until it says so. NULL: always. */
	bool (*has_room)(void *ctx);
};

#define DISK_MIRROR_NEVER UINT_MAX

struct disk_mirror_options {
	uint64_t cluster_bytes;    /* a power of two from 4 KiB to 16 MiB; 0: 64 KiB */
	uint64_t bytes_per_second; /* of copying, at most; changes that are mirrored are not held back. 0: no limit */
	unsigned rounds;           /* of copying before changes are mirrored; 0: at once; DISK_MIRROR_NEVER */
};

struct disk_mirror;

/* A mirror of a disk of @bytes, of which the target has nothing yet. -EINVAL, -ENOMEM. */
int disk_mirror_create(struct disk_mirror **out, uint64_t bytes, const struct disk_mirror_target *target,
		       const struct disk_mirror_options *o, struct error *err);
/* After it was completed or stopped, or never used. NULL is fine. */
void disk_mirror_free(struct disk_mirror *m);
uint64_t disk_mirror_bytes(const struct disk_mirror *m);

/* ---- for whoever uses the disk: one thread at a time ---- */

/*
 * After each change of the disk, before it is acknowledged: what was written; that it reads as zeroes; that it is not known
 * what it reads as, because it was discarded, or the change failed.
 */
void disk_mirror_wrote(struct disk_mirror *m, uint64_t at, const void *buf, uint64_t bytes);
void disk_mirror_zeroed(struct disk_mirror *m, uint64_t at, uint64_t bytes);
void disk_mirror_touched(struct disk_mirror *m, struct disk *d, uint64_t at, uint64_t bytes);
/*
 * Is a piece to be copied now?
 * @now_ns: of a clock that does not go back
 * @wait_ns: if not, in how many ns to ask again; UINT64_MAX: not before a change
 */
bool disk_mirror_wants(struct disk_mirror *m, uint64_t now_ns, uint64_t *wait_ns);
/* Copies a piece, a fraction of a MiB of data at most. */
void disk_mirror_step(struct disk_mirror *m, struct disk *d, uint64_t now_ns);
/*
 * While nobody changes the disk: copies what is left, and flushes the target, which is then complete. The error that
 * ended the mirror, now or before.
 */
int disk_mirror_complete(struct disk_mirror *m, struct disk *d, struct error *err);
/* The disk's user does not use it any more: nothing above is called again. @why: for those who ask later, e.g. -ECANCELED */
void disk_mirror_stop(struct disk_mirror *m, int why);

/* ---- from any thread ---- */

enum disk_mirror_phase {
	DISK_MIRROR_COPYING, DISK_MIRROR_MIRRORING, DISK_MIRROR_READY,
	DISK_MIRROR_DONE,   /* completed */
	DISK_MIRROR_FAILED, /* see the error; or stopped */
};
extern const char *const disk_mirror_phase_name[]; /* "copying", "mirroring", "ready", "done", "failed" */

struct disk_mirror_progress {
	enum disk_mirror_phase phase;
	bool in_use;             /* by the disk's user: not completed or stopped yet */
	unsigned rounds;         /* complete ones */
	uint64_t total, left;    /* bytes of the disk, and of clusters that the target does not have */
	uint64_t copied, zeroes; /* bytes copied as data, and as zeroes */
	uint64_t mirrored;       /* bytes of changes made in the target, too */
	struct error err;        /* FAILED: why */
};
void disk_mirror_progress(struct disk_mirror *m, struct disk_mirror_progress *p);
/* From now on changes are mirrored, whatever the options say. */
void disk_mirror_converge(struct disk_mirror *m);
void disk_mirror_set_speed(struct disk_mirror *m, uint64_t bytes_per_second);

/* ---- a target that is an image ---- */

/* Writes go to @to, which stays the caller's, and is at least as large. */
struct disk_mirror_target disk_mirror_to(struct disk *to);

#endif
