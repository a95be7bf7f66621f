/*
 * The accesses of the workloads (docs/workloads.md) over footprints that no memory has to hold: where the data
 * structure's parts would lie is computed, by the workload's own rules where these can be (the B-tree's nodes, an
 * element's neighbours), and by numbers of the same distribution where they follow from what was built before (which
 * vertices a vertex's edges lead to). So there are addresses without contents, as a replay needs them.
 */
#ifndef GNOMON_LAB_PATTERN_H
#define GNOMON_LAB_PATTERN_H

#include "trace/event.h"

#define PATTERN_STEP_MAX 2048u              /* events of a step, at most */
#define PATTERN_BYTES_MIN ((uint64_t)1 << 20)
#define PATTERN_BASE ((uint64_t)0x100000000000) /* where the data lie: linear, a multiple of 1 GiB */

struct pattern_run;

struct pattern {
	const char *name; /* of the workload */
	void (*prepare)(struct pattern_run *r);
	void (*step)(struct pattern_run *r);
	/* Steps that the workload takes with parameters @n and @mib. */
	uint64_t (*steps)(uint64_t n, uint64_t mib);
};
extern const struct pattern patterns[]; /* ends with a NULL name */
const struct pattern *pattern_find(const char *name); /* NULL: none of that name */

/* A program in the middle of its work. */
struct pattern_run {
	const struct pattern *pattern;
	uint64_t bytes, random, turn;
	uint64_t part[8];       /* the pattern's own: sizes and places of its parts */
	struct trace_event *ev; /* where events of a step go: [PATTERN_STEP_MAX] */
	unsigned n;
};

/* @bytes: of the footprint, at least PATTERN_BYTES_MIN */
void pattern_begin(struct pattern_run *r, const struct pattern *p, uint64_t bytes);
/* The next step's accesses, in @ev: each an instruction of its own, but for those that read and write. How many. */
unsigned pattern_step(struct pattern_run *r, struct trace_event ev[PATTERN_STEP_MAX]);
/* An access of the program's code, in which all are. */
struct trace_event pattern_access(enum trace_kind kind, uint64_t addr);

#endif
