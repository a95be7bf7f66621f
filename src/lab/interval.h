/*
 * A part of a guest's run, from one text on its console to another, whose events are counted by themselves, and on
 * the bare machine can be recorded as a trace. Where it begins all translations are forgotten
 * (engine_begin_interval()), so that the counts are those of the same part under another scheme, and of a replay of
 * its trace (docs/replay.md).
 */
#ifndef GNOMON_LAB_INTERVAL_H
#define GNOMON_LAB_INTERVAL_H

#include "vm/vm.h"
#include <jansson.h>

struct interval_config {
	bool wanted;
	const char *from, *until; /* what the console says; NULL: from the first instruction, to the last */
	const char *trace;        /* record into this file, "-": standard output; NULL: only count */
	const char *creator;      /* what the trace says made it */
};

/* Does it fit together, and with the scheme? -EINVAL. */
int interval_check(const struct interval_config *cfg, enum engine_mmu mmu, struct error *err);

struct interval {
	const struct interval_config *cfg;
	bool begun, ended;
	uint64_t first_insn, insns; /* completed before it, and in it */
	struct obs obs;             /* what was counted in it; tables as they were at its end */
	uint64_t events;            /* of the trace */
};
/*
 * Runs the VM to its end, with the interval on the way. Errors of files and memory; -ENOENT: the guest ended before
 * it printed where the interval begins. In all cases the VM has ended; a trace that could not be completed is not
 * there.
 */
int interval_run(struct interval *iv, const struct interval_config *cfg, struct vm *vm, struct error *err);
/* For the report's "interval". */
json_t *interval_report(const struct interval *iv);

#endif
