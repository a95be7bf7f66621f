/*
 * Running this program several times at once: each job is a child "gnomon run"
 * with a report file, a log of its console and a pipe on which it says how far it
 * is. As many run at a time as there are processors.
 */
#ifndef GNOMON_CLI_JOBS_H
#define GNOMON_CLI_JOBS_H

#include "base/error.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum job_state { JOB_WAITING, JOB_RUNNING, JOB_DONE };

struct job {
	const char *title;     /* what it runs, for progress */
	const char *mmu;
	char **argv;           /* of the child; ends with NULL; owned */
	char *report, *log, *errors; /* paths; owned */
	enum job_state state;
	pid_t pid;
	int progress;          /* read end, -1 if closed */
	char line[32];         /* part of a progress line */
	unsigned line_bytes;
	uint64_t insns;
	double started, seconds; /* host time; seconds once it is done */
	int status;            /* wait status once it is done */
};

struct jobs {
	struct job *job;
	unsigned count, limit; /* at a time */
	/* Called when a job starts or ends, and at intervals. */
	void (*changed)(void *ctx, const struct job *j); /* j == NULL: nothing special */
	void *ctx;
	bool (*stop)(void *ctx); /* asked at intervals: should all be ended? */
};

/* Runs all. -EINTR if stop() said so (children are gone then), other -errno with @err if one cannot be started. */
int jobs_run(struct jobs *js, struct error *err);
/* Processors this process may use. */
unsigned jobs_processors(void);
double jobs_clock(void);

#endif
