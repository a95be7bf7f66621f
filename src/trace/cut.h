/* A piece of a trace as a trace: it begins with the state that there is at its beginning. */
#ifndef GNOMON_TRACE_CUT_H
#define GNOMON_TRACE_CUT_H

#include "trace/file.h"

struct trace_range {
	bool insns;        /* numbers of instructions completed; else of events */
	uint64_t from, to; /* the piece begins with the first instruction that begins at or behind @from, and ends */
			   /* where the first one begins at or behind @to */
};

/*
 * Reads @r, which nothing was read of, up to the end of @range, and gives the piece to @to. *given, if not NULL:
 * events, without those that make up the state. -ERANGE: no instruction begins in it; errors of trace_next(), of
 * trace_state_put(), of @to.
 */
int trace_cut(struct trace_reader *r, const struct trace_range *range, const struct trace_sink *to, uint64_t *given,
	      struct error *err);

#endif
