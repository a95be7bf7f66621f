/*
 * What a replay that begins in the middle of a trace needs: registers and the pages whose contents are known, as they
 * are there. Follows the events, and gives them out as events. For cutting traces, and for replaying several pieces
 * of one at once.
 *
 * Accessed and dirty flags, which no event says, are set as a processor sets them whose TLB holds little: a page
 * table may have accessed flags that it did not have when the trace was recorded, or lack them, as it may between two
 * processors. Of a plain trace it keeps what the program asked its system for; which pages the program touched before
 * is not kept.
 */
#ifndef GNOMON_TRACE_STATE_H
#define GNOMON_TRACE_STATE_H

#include "trace/event.h"

#define TRACE_STATE_PAGES_MAX (1u << 20) /* known pages: 4 GiB of page tables */

struct trace_state;

/* Nothing is known. @pages_max: of pages whose contents are known, up to TRACE_STATE_PAGES_MAX. -ENOMEM. */
int trace_state_create(struct trace_state **s, unsigned pages_max, struct error *err);
void trace_state_destroy(struct trace_state *s); /* NULL is nothing */

/*
 * Follows @n events. A sink (@state is a struct trace_state). -E2BIG: more is to be kept than there is room for;
 * -ENOMEM. Then the state is of no use.
 */
int trace_state_put(void *state, const struct trace_event *ev, unsigned n, struct error *err);

/*
 * Gives out what a trace begins with that goes on from here. Requests of paravirtual guests and loads of DMT registers,
 * which read memory, come with the memory as it was then; it is put right behind them. Errors of @to.
 */
int trace_state_give(struct trace_state *s, const struct trace_sink *to, struct error *err);

/* The PAGE_SIZE bytes of a page as they are now; NULL: not known. Until the next call that changes the state. */
const uint8_t *trace_state_page(const struct trace_state *s, uint64_t gpa);
unsigned trace_state_pages(const struct trace_state *s);

#endif
