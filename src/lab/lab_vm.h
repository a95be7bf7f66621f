/*
 * Running guests for a lab and counting what they cost: a guest says on its console
 * when a part of its work is done, and the counters of one part are the difference
 * of two looks at them.
 */
#ifndef GNOMON_LAB_LAB_VM_H
#define GNOMON_LAB_LAB_VM_H

#include "lab/cost.h"
#include "lab/lab.h"
#include "vm/vm.h"

/* Bare-metal guests that come with the program (guest/lab/). */
struct lab_guest {
	const char *name;
	const uint8_t *image;
	uint64_t bytes;
};
extern const struct lab_guest lab_guests[]; /* ends with a NULL name */

/*
 * What was counted so far, or between two looks. Sizes and maxima in it mean nothing as differences; what is the
 * difference of two differences may be negative: lab_number().
 */
struct lab_count {
	struct obs obs;
	uint64_t insns;
};
void lab_count_look(struct vm *vm, struct lab_count *out);
/* a - b */
void lab_obs_subtract(struct obs *a, const struct obs *b);
void lab_count_subtract(struct lab_count *a, const struct lab_count *b);
void lab_count_add(struct lab_count *a, const struct lab_count *b);

#define LAB_COUNTS 8
#define LAB_APPEND 512

/* One guest to be measured. */
struct lab_task {
	struct vm_config cfg;
	char append[LAB_APPEND];
	/* Makes the VM; NULL: of cfg and append. */
	int (*make)(struct lab_task *task, struct vm **out, struct error *err);
	/* Runs the guest as far as is needed and fills in count[] and turns. */
	int (*measure)(struct vm *vm, struct lab_task *task, struct error *err);
	/* Told by lab_measure_parts() when LAB-0, LAB-1, LAB-2 were said: for what is counted besides. May be NULL. */
	void (*looked)(struct lab_task *task, unsigned part);
	void *ctx;            /* the lab's own */
	const char *what;     /* for progress */
	uint64_t turns;       /* in: what append asks for; the counts are those of so many */
	struct lab_count count[LAB_COUNTS];
	double host_ns;       /* processor time of a turn on this host: lab_measure_parts() */
	struct error err;
};

/* Defaults for a bare-metal guest of guest/lab: memory, scheme, hardware. measure is lab_measure_parts. */
void lab_task_init(struct lab_task *t, const char *guest, enum engine_mmu mmu, const struct hw *hw);
/*
 * Takes LAB-1 to LAB-2 (twice the turns), less LAB-0 to LAB-1: what @turns turns cost in a steady state, and
 * nothing of what is around them. host_ns is that of LAB-1 to LAB-2, by the clock of this thread.
 */
int lab_measure_parts(struct vm *vm, struct lab_task *task, struct error *err);
/* Runs until @text has come on the console. -EIO: the guest ended before; @err says how. */
int lab_run_to(struct vm *vm, const char *text, struct error *err);
/* Job number @i of several; *what: for progress. Not 0: the jobs that have not begun are left out. */
typedef int lab_job(void *ctx, unsigned i, const char **what);
/* Does all, o->threads at a time. */
void lab_run_jobs(const struct lab_options *o, lab_job *job, void *ctx, unsigned jobs);
/* Measures all, several at a time. The error of the first that failed. */
int lab_run_tasks(const struct lab_options *o, struct lab_task *task, unsigned tasks, struct error *err);

/* What was counted, in cycles of a hardware description. */
void lab_cost_of(const struct hw *hw, const struct lab_count *c, struct cost *out);
/* Cycles of count @i of a task by its hardware description, and any counter, each per turn. */
void lab_cost(const struct lab_task *t, unsigned i, struct cost *out);
static inline double lab_number(uint64_t count) { return (double)(int64_t)count; }
static inline double lab_per_turn(const struct lab_task *t, double n) { return n / (double)t->turns; }

#endif
