/*
 * Traces in files and pipes: zstd frames of delta-coded events (docs/FORMATS.md). Each frame is for itself, so a reader
 * can begin at any, which the index at the end leads to; a pipe is read without it. Every length is bounded before
 * memory is asked for, and nothing is given out before its checksum was right.
 */
#ifndef GNOMON_TRACE_FILE_H
#define GNOMON_TRACE_FILE_H

#include "trace/event.h"

#define TRACE_TEXT_MAX 255u

/* What a trace says of itself. Text is printable UTF-8 in one line; "" or 0: not said. */
struct trace_info {
	char creator[TRACE_TEXT_MAX + 1];  /* the program that made it */
	char source[TRACE_TEXT_MAX + 1];   /* what was traced */
	char cpu_features[1024];           /* names of the processor's features, a blank between them */
	bool tables;                       /* a machine trace: page tables and registers are in it */
	uint64_t memory;                   /* bytes of guest-physical memory */
	unsigned maxphyaddr;               /* physical-address bits */
};

/* ---- writing ---- */

struct trace_writer;

/*
 * Begins a trace. @path: a file, which appears under this name when it is closed and until then has ".part" behind
 * it; what exists and is no regular file is written to directly, and "-" is standard output. -EINVAL (@info), -errno
 * of the host, -ENOMEM.
 */
int trace_writer_open(struct trace_writer **w, const char *path, const struct trace_info *info, struct error *err);

/*
 * Adds @n events. -EINVAL: one is none (trace_event_check()); -errno of writing, -ENOMEM. After an error nothing more
 * can be added.
 */
int trace_put(struct trace_writer *w, const struct trace_event *ev, unsigned n, struct error *err);

/* The same as a sink. */
struct trace_sink trace_writer_sink(struct trace_writer *w);

/* Events and instructions (sum of TRACE_INSNS) so far; bytes that are already in the file. */
uint64_t trace_writer_events(const struct trace_writer *w);
uint64_t trace_writer_insns(const struct trace_writer *w);
uint64_t trace_writer_bytes(const struct trace_writer *w);

/* What should come behind the last event is missing (its source was damaged): the trace says so. Before it is closed. */
void trace_writer_is_partial(struct trace_writer *w);
/*
 * Ends the trace, and the file gets its name. On an error (also one of trace_put() before) what was written stays as
 * PATH.part. @w is gone in any case; NULL is nothing.
 */
int trace_writer_close(struct trace_writer *w, struct error *err);
/* Ends without a trace: the file is removed. */
void trace_writer_drop(struct trace_writer *w);

/* ---- reading ---- */

struct trace_reader;

/*
 * Opens a trace; "-" is standard input. -errno of the host, -ENOMEM; -EBADMSG: no trace, of an unknown version, or
 * damaged ("FILE: OFFSET: why").
 */
int trace_reader_open(struct trace_reader **r, const char *path, struct error *err);
void trace_reader_close(struct trace_reader *r); /* NULL is nothing */

const struct trace_info *trace_reader_info(const struct trace_reader *r);
const char *trace_reader_path(const struct trace_reader *r);

/*
 * The next events in their order. 1: *ev and *n (at least 1), which last until the next call for this reader; 0: the
 * trace is over, and was whole; -EBADMSG: cut off, damaged or lying, with "FILE: OFFSET: why": everything given out
 * before was right; -errno of reading, -ENOMEM. An error comes again if it is called again.
 */
int trace_next(struct trace_reader *r, const struct trace_event **ev, unsigned *n, struct error *err);

/* Of the last batch: number of its first event in the trace (from 0), and instructions completed before it. */
uint64_t trace_reader_event(const struct trace_reader *r);
uint64_t trace_reader_insns(const struct trace_reader *r);

/*
 * How much there is of it: events, instructions, bytes. True if that is known, which takes a file with an index.
 */
struct trace_totals {
	uint64_t events, insns, bytes;
};
bool trace_reader_totals(const struct trace_reader *r, struct trace_totals *t);
/* Does the trace say that what should come behind its last event is missing? Known with the index, or at the end. */
bool trace_reader_is_partial(const struct trace_reader *r);
/* Bytes of the file up to the end of what was read so far: of progress. */
uint64_t trace_reader_bytes(const struct trace_reader *r);

/*
 * The next batch begins with event number @event; or with the first event before which @insns instructions are
 * completed. Without an index (pipes, files that are cut off) only forward, and what is passed over is read. Behind
 * the end: the next call returns 0. Errors of trace_next(); -ESPIPE: backward is impossible.
 */
int trace_seek_event(struct trace_reader *r, uint64_t event, struct error *err);
int trace_seek_insns(struct trace_reader *r, uint64_t insns, struct error *err);

#endif
