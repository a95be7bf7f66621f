/*
 * A replay that goes on where it was interrupted: cells are replayed in groups, a pass over the trace each, and a file
 * keeps the results of those that are finished, with all that they depend on. Nothing of a machine is saved: what was
 * not finished begins again. docs/replay.md; the file's format is in docs/FORMATS.md.
 */
#ifndef GNOMON_LAB_REPLAY_RESUME_H
#define GNOMON_LAB_REPLAY_RESUME_H

#include "lab/replay.h"

#define REPLAY_RESUME_SCHEMA "gnomon-replay-resume/1"

struct replay_resume {
	const char *trace;   /* a file; a pipe cannot be read twice */
	const char *file;    /* of finished results; if there is none it is made */
	const char *version; /* of the program: results of another are not used */
	/* Told at the beginning of group @number of @groups, from 1. May be NULL. */
	void (*group)(void *ctx, unsigned number, unsigned groups);
	void *ctx;
};

/*
 * Replays the cells of @cfg that @how->file has no results of, cfg->jobs at once, and puts the results into that file
 * after each group.
 * @report: as replay_report() of all of them; after an interruption of those that are finished. A new reference
 * @why: code 0, or why the report is partial
 * -EINVAL: the trace is no file, or the results in the file depend on something that is different now; -EBADMSG: the
 * file is damaged or none of this kind; errors of trace_reader_open(), replay_trace() and of writing the file. What is
 * finished stays in the file then, and there is no report.
 */
int replay_resumable(json_t **report, struct error *why, const struct replay_config *cfg,
		     const struct replay_resume *how, struct error *err);

#endif
