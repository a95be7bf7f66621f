/*
 * A migration by pre-copy in virtual time, for the lab "migration": the rules are those of vm/migrate_precopy.c, what
 * decides is its vm/migrate_policy.h, the guest and its tracker are real; only the link is modelled, by what it
 * carries in a second of the guest's time. So the same guest is copied in the same rounds whatever the host does.
 */
#ifndef GNOMON_LAB_LAB_PRECOPY_H
#define GNOMON_LAB_LAB_PRECOPY_H

#include "lab/lab.h"
#include "lab/lab_state.h"
#include "lab/lab_vm.h"

/* What the guest's instruction and time were when the link was done with something, and what that was. */
struct lab_round {
	uint64_t insns, ns;  /* since the migration began: at the round's end */
	uint64_t due;        /* pages that were to be sent */
	uint64_t sent;       /* with contents */
	uint64_t zeros;      /* said to be zeros */
	uint64_t again;      /* passed over: they had been written again already */
	uint64_t bytes;
};

struct lab_precopy {
	struct lab_link link;         /* in */
	struct engine_log_watch *log; /* in: who is told of the page-modification log; NULL: nobody */
	/* in: told at the end of each round, the last of which is that in which the VM stands still. May be NULL */
	void (*ended)(void *ctx, const struct lab_precopy *p, bool stopped);
	void *ctx;
	struct lab_round round[LAB_ROUNDS_MAX + 1]; /* the last one: while the VM stands still */
	unsigned rounds;                            /* without that */
	bool converged;                             /* it stopped since little was left, not after the last round */
	uint64_t total_ns, downtime_ns;
	struct lab_count spent;                     /* from before the tracker was armed to the last collection */
	uint64_t *cut;                              /* counts of instructions at which the VM was stopped, in order */
	size_t cuts, room;
};

/*
 * Copies a VM to @arrived, tracking by @how; the VM stands where its state was taken, and may be destroyed. -EIO: the
 * guest ended before it was there; what engine_dirty_arm() and vm_save_state() return.
 */
int lab_precopy_run(struct lab_precopy *p, struct vm *vm, enum engine_dirty how, struct lab_state *arrived,
		    struct error *err);
void lab_precopy_fini(struct lab_precopy *p);

#endif
