/*
 * When does pre-copy end, and is the VM to be held back? Arithmetic on what was measured, and nothing else.
 *
 * A page costs what pages with contents cost so far, to the other end's answer; the VM may stop when the pages that are
 * left cost less than the downtime that is allowed, or are few (Clark and others, "Live migration of virtual machines",
 * NSDI 2005, stop by an amount, too). A VM that in two rounds writes more than half of what is sent is held back for
 * a fifth of its time, and then for more and more.
 */
#ifndef GNOMON_VM_MIGRATE_POLICY_H
#define GNOMON_VM_MIGRATE_POLICY_H

#include "vm/migrate.h"

#define MIGRATE_FEW_PAGES      50u
/* Within a round: how often is looked which pages were written, in time and in pages that had their turn. */
#define MIGRATE_PEEK_NS        100000000ll
#define MIGRATE_PEEK_PAGES     1024u
#define MIGRATE_THROTTLE_FIRST 20u /* percent */
#define MIGRATE_THROTTLE_STEP  10u
#define MIGRATE_THROTTLE_MOST  99u

enum migrate_verdict {
	MIGRATE_GO_ON,   /* another round */
	MIGRATE_FINISH,  /* stop the VM and send the rest */
	MIGRATE_FOLLOW,  /* go over to post-copy */
	MIGRATE_GIVE_UP, /* it does not converge, and the owner is strict */
};

struct migrate_round {
	uint64_t pages;  /* sent with contents (not zeros) */
	uint64_t zeros;
	uint64_t bytes;
	int64_t ns;      /* until the other end had it all */
	uint64_t left;   /* pages written meanwhile, and still to be sent */
};

struct migrate_policy {
	struct migrate_options opt;
	int64_t answer_ns;  /* of the other end to an empty message */
	unsigned round;
	uint64_t pages, ns; /* of the rounds that count */
	unsigned losing;    /* rounds in which too much was written */
	/* what follows from them */
	uint64_t expected_ns, bytes_per_second, dirty_per_second;
	unsigned throttle;
};

void migrate_policy_init(struct migrate_policy *p, const struct migrate_options *opt, int64_t answer_ns);
/* After each round. */
enum migrate_verdict migrate_policy_decide(struct migrate_policy *p, const struct migrate_round *r);

#endif
