/*
 * Checkpoints of a running VM: its whole state at one instant, in a file (vm/saved.h). The VM pauses while its devices'
 * state is copied and its pages are write-protected by the host; they are written while it runs on. A checkpoint
 * after the first holds only the pages that were changed since the last one, as a dirty-page tracker says, and names that
 * as its parent. Disks are frozen in the same instant: see devices_freeze_disks().
 */
#ifndef GNOMON_VM_CHECKPOINT_H
#define GNOMON_VM_CHECKPOINT_H

#include "vm/saved.h"

struct checkpointer;

/* For a VM that does not run at the moment, or from a tick. The VM outlives it. -ENOMEM. */
int checkpointer_create(struct checkpointer **out, struct vm *vm, struct error *err);
/* Ends what is under way: it is completed first. On the VM's thread. NULL is fine. */
void checkpointer_destroy(struct checkpointer *c);

#define CHECKPOINT_ROOM ((uint64_t)64 << 20) /* bytes of copies of overwritten pages; more makes the guest wait */

struct checkpoint_result {
	char id[SAVED_ID_BYTES];
	bool incremental;
	const char *full_because;    /* a checkpoint that is not incremental: why; "" if that was asked for, or it is the first */
	uint64_t pages, bytes;       /* written: pages of memory, bytes of the file */
	uint64_t pause_ns, total_ns; /* of the host's time: the VM stood still; until it was on stable storage */
};

struct checkpoint_options {
	bool full;
	int compress;                /* zstd level, 0: not */
	bool choose_tracker;         /* @tracker is to be used from now on; else the best that the scheme has */
	enum engine_dirty tracker;
	uint64_t room;               /* 0: CHECKPOINT_ROOM */
	/* Called by the thread that writes: now and then, not 0 has it stopped; and at the end, with 0 or what failed. */
	int (*progress)(void *ctx, uint64_t pages, uint64_t of);
	void (*done)(void *ctx, int code, const struct checkpoint_result *result, const struct error *err);
	void *ctx;
};

/*
 * Takes a checkpoint into the file @path, which must not exist: on the VM's thread, between two runs or from a tick. When it
 * returns 0 the instant is past, and o->done() will be called. The file appears whole, or not at all.
 * -EBUSY: one is being written; -EEXIST; -EINVAL, -ENAMETOOLONG: the name; -ENOTSUP: that tracker under this scheme;
 * -ECANCELED: the guest ended before a boundary came; of vm_save_state(), of freezing disks, of the host: then the VM
 * goes on, and nothing is left.
 */
int checkpoint_take(struct checkpointer *c, const char *path, const struct checkpoint_options *o, struct error *err);
/* What is known of the last one that was taken: all but bytes, pages and total_ns before it is written. */
const struct checkpoint_result *checkpoint_last(const struct checkpointer *c);
/* Waits until the one that is being written is complete. On the VM's thread. */
void checkpoint_wait(struct checkpointer *c);

#endif
