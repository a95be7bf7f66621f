/*
 * Other formats that traces are made from and turned into: one struct each, listed in trace_formats[]. "gnomon trace
 * import" and "export" know them by that.
 */
#ifndef GNOMON_TRACE_FORMAT_H
#define GNOMON_TRACE_FORMAT_H

#include "trace/file.h"

#include <stdio.h>

#define TRACE_DETECT_BYTES 4096u /* of a file's beginning that detect() is shown at most */
#define TRACE_OPTIONS_MAX  16u

/* "name=value" of each --option, in the order given; a format refuses those that it does not know (-EINVAL). */
struct trace_options {
	const char *option[TRACE_OPTIONS_MAX];
	unsigned count;
};

/* What an import gives its events to. */
struct trace_import {
	/*
	 * Called once, before the first event: what the trace says of itself (creator may be left ""). 0, or negative
	 * errno with @err.
	 */
	int (*begin)(void *ctx, const struct trace_info *info, struct error *err);
	/* Events, in order. */
	int (*put)(void *ctx, const struct trace_event *ev, unsigned n, struct error *err);
	void *ctx;
};

struct trace_format {
	const char *name;
	const char *help; /* one line; options, if any, on more lines */
	/* Is it a file of this format, as far as its first @n bytes tell? NULL: only if it is asked for by name. */
	bool (*detect)(const uint8_t *head, size_t n);
	/*
	 * Reads @path ("-": standard input) to its end. 0; -EBADMSG with "FILE: OFFSET (or line): why", after
	 * everything before was given out; what @to returned; -errno of the host. NULL: cannot be imported.
	 */
	int (*import)(const char *path, const struct trace_options *options, const struct trace_import *to,
		      struct error *err);
	/* Writes what @from still has to @out. Errors of trace_next(); -errno of writing. NULL: cannot be exported. */
	int (*export)(struct trace_reader *from, const struct trace_options *options, FILE *out, struct error *err);
};

extern const struct trace_format *const trace_formats[]; /* ends with NULL */

#endif
