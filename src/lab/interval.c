/* See interval.h. */
#include "lab/interval.h"

#include "lab/report.h"
#include "trace/file.h"
#include "vm/vm_state.h"
#include <errno.h>
#include <stdio.h>

int interval_check(const struct interval_config *cfg, enum engine_mmu mmu, struct error *err)
{
	if (cfg->trace && mmu != ENGINE_NATIVE)
		return error_set(err, -EINVAL, "option '--trace' needs --mmu native: its trace is replayed under any scheme");
	return 0;
}

/* ---- counts of a part: all members of struct obs are counters, or sizes that are left as they are at the end ---- */

static_assert(sizeof(struct obs) % sizeof(uint64_t) == 0, "counters and nothing else");

static void subtract(struct obs *after, const struct obs *before)
{
	uint64_t *a = (uint64_t *)after;
	const uint64_t *b = (const uint64_t *)before;
	struct obs end = *after;

	for (size_t i = 0; i < sizeof(*after) / sizeof(*a); i++)
		a[i] -= b[i];
	after->tables = end.tables;
	after->translation.refs_max = 0;
	for (unsigned i = 0; i <= OBS_REFS_MAX; i++)
		if (after->translation.by_refs[i])
			after->translation.refs_max = i;
}

/* ---- the trace ---- */

/* A failure to write ends the run: nobody would have the trace. */
struct tracing {
	struct vm *vm;
	struct trace_writer *w;
	struct trace_sink file;
};

static int put(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct tracing *t = ctx;
	int r = t->file.put(t->file.ctx, ev, n, err);

	if (r)
		vm_interrupt(t->vm);
	return r;
}

static void append_feature(char *text, size_t bytes, const char *name)
{
	size_t used = strlen(text);

	snprintf(text + used, bytes - used, "%s%s", used ? " " : "", name);
}

static void describe(const struct vm_config *cfg, const char *creator, struct trace_info *info)
{
	static const char *const name[CPUF_COUNT] = {
#define X(sym, text, leaf, sub, reg, bit) text,
		CPU_FEATURES(X)
#undef X
	};

	*info = (struct trace_info){.tables = true, .memory = cfg->engine.memory, .maxphyaddr = cfg->engine.cpu.maxphyaddr};
	snprintf(info->creator, sizeof(info->creator), "%s", creator);
	snprintf(info->source, sizeof(info->source), "%.250s", cfg->kernel ? cfg->kernel : "");
	for (unsigned i = 0; i < CPUF_COUNT; i++)
		if (cfg->engine.cpu.feature[i])
			append_feature(info->cpu_features, sizeof(info->cpu_features), name[i]);
}

static int begin_trace(struct tracing *t, const struct interval_config *cfg, struct error *err)
{
	const struct trace_sink sink = {put, t};
	struct trace_info info;
	int r;

	describe(vm_get_config(t->vm), cfg->creator, &info);
	r = trace_writer_open(&t->w, cfg->trace, &info, err);
	if (r)
		return r;
	t->file = trace_writer_sink(t->w);
	return engine_record(vm_engine(t->vm), &sink, err);
}

/* @r: what has gone wrong already */
static int end_trace(struct tracing *t, struct interval *iv, int r, struct error *err)
{
	struct error late = {0};

	if (!t->w)
		return r;
	if (engine_record_end(vm_engine(t->vm), &late) && !r) {
		*err = late;
		r = late.code;
	}
	iv->events = trace_writer_events(t->w);
	if (r)
		trace_writer_drop(t->w);
	else
		r = trace_writer_close(t->w, err);
	t->w = NULL;
	return r;
}

/* ---- the run ---- */

/* False: the guest has ended. */
static bool run_to(struct vm *vm, const char *text)
{
	struct vm_stop stop = VM_STOP_NONE;

	stop.console = text;
	while (vm_run_until(vm, &stop) != VM_STOPPED_CONSOLE)
		if (vm_why_ended(vm) != VM_END_NONE)
			return false;
	return vm_quiesce(vm) == 0;
}

static int begin(struct interval *iv, struct tracing *t, struct obs *before, struct error *err)
{
	int r = engine_begin_interval(vm_engine(t->vm), err);

	if (!r && iv->cfg->trace)
		r = begin_trace(t, iv->cfg, err);
	if (r)
		return r;
	iv->begun = true;
	iv->first_insn = engine_insns(vm_engine(t->vm));
	engine_observe(vm_engine(t->vm), before);
	return 0;
}

static void finish(struct interval *iv, struct vm *vm, const struct obs *before)
{
	iv->ended = true;
	iv->insns = engine_insns(vm_engine(vm)) - iv->first_insn;
	engine_observe(vm_engine(vm), &iv->obs);
	subtract(&iv->obs, before);
}

static int run_interval(struct interval *iv, struct tracing *t, struct error *err)
{
	const struct interval_config *cfg = iv->cfg;
	struct obs before;
	int r;

	if (cfg->from && !run_to(t->vm, cfg->from))
		return error_set(err, -ENOENT, "the guest ended before it printed '%.200s', where the interval was to begin",
				 cfg->from);
	r = begin(iv, t, &before, err);
	if (!r) {
		run_to(t->vm, cfg->until);
		finish(iv, t->vm, &before);
	}
	return end_trace(t, iv, r, err);
}

int interval_run(struct interval *iv, const struct interval_config *cfg, struct vm *vm, struct error *err)
{
	struct tracing t = {.vm = vm};
	int r;

	*iv = (struct interval){.cfg = cfg};
	r = run_interval(iv, &t, err);
	if (r && r != -ENOENT)
		vm_interrupt(vm);
	while (vm_run_until(vm, &VM_STOP_NONE) != VM_STOPPED_END)
		;
	return r;
}

json_t *interval_report(const struct interval *iv)
{
	json_t *o = json_object();

	json_object_set_new(o, "from", iv->cfg->from ? json_string(iv->cfg->from) : json_null());
	json_object_set_new(o, "until", iv->cfg->until ? json_string(iv->cfg->until) : json_null());
	json_object_set_new(o, "first_instruction", json_integer((json_int_t)iv->first_insn));
	json_object_set_new(o, "instructions", json_integer((json_int_t)iv->insns));
	json_object_set_new(o, "trace_events", json_integer((json_int_t)iv->events));
	report_put_counts(o, &iv->obs);
	return o;
}
