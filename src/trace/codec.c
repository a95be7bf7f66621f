/* The model of what comes next that writer and reader of a frame keep alike. */
#include "trace/codec.h"

#include <errno.h>
#include <stdlib.h>

static_assert(sizeof(struct site) == 64, "a site is a line of the host's cache");

int model_init(struct model *m)
{
	m->site = aligned_alloc(sizeof(struct site), FRAME_SITES * sizeof(struct site));
	return m->site ? 0 : -ENOMEM;
}

void model_free(struct model *m) { free(m->site); }

uint32_t model_add(struct model *m, const struct trace_event *ev)
{
	struct site *s = &m->site[m->sites];

	*s = (struct site){.ev = *ev, .addr_bits = ~0ull};
	switch (ev->kind) {
	case TRACE_FETCH:
		s->class = SITE_FETCH;
		s->ev.addr = ev->pc;
		break;
	case TRACE_INSNS:
		s->class = SITE_OTHER;
		s->addr_bits = 0;
		break;
	default:
		s->class = SITE_DATA;
		s->ev.addr = m->last[SITE_DATA];
	}
	if (s->class != SITE_OTHER)
		m->pc = ev->pc;
	return m->sites++;
}

void model_reset(struct model *m)
{
	const struct trace_event insn = {.kind = TRACE_INSNS, .value = 1};

	*m = (struct model){.site = m->site};
	model_add(m, &insn);
}
