/* Events for tests: of every kind, at random, and such as programs make. */
#ifndef SOME_EVENTS_H
#define SOME_EVENTS_H

#include "trace/event.h"

struct some_events {
	uint64_t state;              /* of the random numbers; not 0 */
	uint64_t pc, sp;
	struct trace_event ahead[4]; /* the rest of a group */
	unsigned left;
	uint8_t page[PAGE_SIZE];
};

uint64_t some_number(struct some_events *s, uint64_t below);
/* Any event, of any kind, at its limits too. Its page lasts until the next event. */
struct trace_event any_event(struct some_events *s);
/* What a loop of a program does: fetches, reads of an array, a stack, now and then something rare. */
struct trace_event likely_event(struct some_events *s);
bool same_event(const struct trace_event *a, const struct trace_event *b);

#endif
