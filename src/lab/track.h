/*
 * Watching which pages a guest writes and which it uses, interval by interval, while it runs to its end: what
 * gnomon run --dirty and --wss do. The trackers are the engine's (docs/tracking.md).
 */
#ifndef GNOMON_LAB_TRACK_H
#define GNOMON_LAB_TRACK_H

#include "vm/vm.h"
#include <jansson.h>

struct track_config {
	bool dirty;               /* pages written, */
	enum engine_dirty how;    /* ... by this tracker */
	uint64_t interval;        /* ... every so many instructions */
	bool wss;                 /* the working set: pages accessed */
	uint64_t wss_interval;
	/* Each time pages are collected all memory is compared with a copy: what changed must be among them. */
	bool verify;
};
#define TRACK_INTERVAL_DEFAULT 10000000u
#define TRACK_INTERVAL_MIN     1000u

/* Does it fit together, and with the scheme? -EINVAL. */
int track_check(const struct track_config *cfg, enum engine_mmu mmu, struct error *err);

/*
 * Begins to track, before the VM has run. @say gets a line for each interval of the working set. -ENOMEM, and what
 * track_check() says.
 */
struct track;
int track_begin(struct track **out, struct vm *vm, const struct track_config *cfg,
		void (*say)(void *ctx, const char *line), void *ctx, struct error *err);
/* Runs the VM to its end. -ENOMEM; -EIO: a page changed and was not found; the VM has not ended then. */
int track_run(struct track *t, struct error *err);
/* What was found, in a line or two for people; before the VM is destroyed. */
void track_describe(const struct track *t, char *buf, size_t bytes);
/* The intervals, for the report's "tracking". */
void track_report(const struct track *t, json_t *tracking);
/* NULL is nothing. After the VM was destroyed, too. */
void track_destroy(struct track *t);

#endif
