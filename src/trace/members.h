/* Which members of struct trace_event each kind has: what files, texts and checks go by. */
#ifndef GNOMON_TRACE_MEMBERS_H
#define GNOMON_TRACE_MEMBERS_H

#include "trace/event.h"

enum { HAS_SIZE = 1, HAS_MODE = 2, HAS_AUX = 4, HAS_ADDR = 8, HAS_PC = 16, HAS_VALUE = 32 };

struct trace_members {
	uint8_t has;   /* HAS_* */
	uint8_t flags; /* those that it may have */
};
extern const struct trace_members trace_members[TRACE_KIND_END];

/* HAS_* of an event whose kind is one: with value if it is a WRITE with TRACE_VALUE. */
unsigned trace_members_of(const struct trace_event *ev);

#endif
