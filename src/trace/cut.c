/* Cutting: what is before the piece is followed, then the state is given out, then the piece. */
#include "trace/cut.h"

#include "trace/state.h"

#include <errno.h>

struct cutter {
	const struct trace_range *range;
	const struct trace_sink *to;
	struct trace_state *state;
	uint64_t event, insns;  /* before the event at hand */
	bool begun, over;
	uint64_t given;
};

static bool is_reached(const struct cutter *c, uint64_t at)
{
	return (c->range->insns ? c->insns : c->event) >= at;
}

/* How many of @n events come before the piece, or its end, begins; *found if it does among them. */
static unsigned count_until(struct cutter *c, const struct trace_event *ev, unsigned n, uint64_t at, bool *found)
{
	*found = false;
	for (unsigned i = 0; i < n; i++) {
		if (is_reached(c, at) && (trace_begins_insn(&ev[i]) || (!at && !c->event))) {
			*found = true;
			return i;
		}
		c->event++;
		c->insns += ev[i].kind == TRACE_INSNS ? ev[i].value : 0;
	}
	return n;
}

static int take_batch(struct cutter *c, const struct trace_event *ev, unsigned n, struct error *err)
{
	unsigned i = 0;
	int ret = 0;

	if (!c->begun) {
		i = count_until(c, ev, n, c->range->from, &c->begun);
		ret = trace_state_put(c->state, ev, i, err);
		if (!ret && c->begun)
			ret = trace_state_give(c->state, c->to, err);
	}
	if (ret || !c->begun)
		return ret;
	n = count_until(c, ev + i, n - i, c->range->to, &c->over);
	c->given += n;
	return n ? c->to->put(c->to->ctx, ev + i, n, err) : 0;
}

int trace_cut(struct trace_reader *r, const struct trace_range *range, const struct trace_sink *to, uint64_t *given,
	      struct error *err)
{
	struct cutter c = {.range = range, .to = to};
	const struct trace_event *ev;
	unsigned n;
	int ret = trace_state_create(&c.state, TRACE_STATE_PAGES_MAX, err);

	while (!ret && !c.over && (ret = trace_next(r, &ev, &n, err)) > 0)
		ret = take_batch(&c, ev, n, err);
	trace_state_destroy(c.state);
	if (given)
		*given = c.given;
	if (!ret && !c.given)
		ret = error_set(err, -ERANGE, "%s: no instruction begins in what is to be cut out",
				trace_reader_path(r));
	return ret;
}
