/*
 * Guests as traces: recording one, and being one. The bare machine and the hypervisor differ in who writes memory from
 * outside and in what stands around the processor; the processor's part is cpu/record.h and cpu/replay.h.
 *
 * The processor takes whole instructions, with all their repetitions, because an emulator may take as many at once.
 * So the last instruction of what is given is held back until it is known to be over.
 */
#include "engine/engine_impl.h"

#include "cpu/record.h"
#include "cpu/replay.h"

#include <errno.h>
#include <stdlib.h>

#define HELD_MAX 65536u /* events; an instruction that is longer is cut */

struct engine_replay {
	struct replay processor;
	struct trace_event held[HELD_MAX];
	unsigned helds;
};

/* ---- intervals ---- */

int engine_begin_interval(struct engine_vm *vm, struct error *err)
{
	int r = vm->hv ? hv_forget(vm->hv, err) : 0;

	engine_drop_translations(vm);
	return r;
}

/* ---- recording ---- */

int engine_record(struct engine_vm *vm, const struct trace_sink *sink, struct error *err)
{
	if (vm->hv)
		return error_set(err, -ENOTSUP, "only a guest on the bare machine (native) can be recorded");
	if (vm->cpu->recorder)
		return error_set(err, -EBUSY, "the guest is being recorded already");
	return recorder_begin(vm->cpu, sink, err);
}

bool engine_record_failed(const struct engine_vm *vm) { return !vm->hv && recorder_failed(vm->cpu); }
int engine_record_end(struct engine_vm *vm, struct error *err) { return vm->hv ? 0 : recorder_end(vm->cpu, err); }

/* ---- replay ---- */

int engine_replay_begin(struct engine_vm *vm, bool populate, struct error *err)
{
	struct engine_replay *r = calloc(1, sizeof(*r));
	int ret = vm->hv && populate ? hv_populate(vm->hv, err) : 0;

	if (!r || ret) {
		free(r);
		return ret ? ret : error_set(err, -ENOMEM, "replay: out of memory");
	}
	vm->replay = r;
	machmem_use_small_pages(vm->hv ? vm->hv->mem : &vm->mem);
	replay_attach(&r->processor, vm->cpu);
	if (vm->hv)
		replay_attach(&r->processor, vm->hv->emul);
	return 0;
}

void replay_destroy(struct engine_replay *r) { free(r); }

static int write_memory(void *ctx, uint64_t a, const void *from, unsigned bytes, struct error *err)
{
	struct engine_vm *vm = ctx;

	if (engine_mem_write(vm, gpa(a), from, bytes) == 0)
		return 0;
	return error_set(err, -EINVAL, "replay: the trace writes guest-physical %#llx: no memory there", (unsigned long long)a);
}

static void load_registers(void *ctx, const struct replay *r)
{
	replay_registers(r, ((struct engine_vm *)ctx)->cpu);
}

static void load_msr(void *ctx, const struct trace_event *ev)
{
	replay_load_msr(((struct engine_vm *)ctx)->cpu, ev);
}

static const struct replay_outside outside = {write_memory, load_registers, load_msr};

static int run_native(struct engine_vm *vm, struct replay *r, struct error *err)
{
	int ret = 0;

	while (!ret && replay_run(vm->cpu) == REPLAY_OUTSIDE)
		ret = replay_take_outside(r, &outside, vm, err);
	return ret;
}

static int run(struct engine_vm *vm, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct replay *r = &vm->replay->processor;

	if (!n)
		return 0;
	replay_feed(r, ev, n);
	return vm->hv ? hv_replay(vm->hv, r, err) : run_native(vm, r, err);
}

/* Does nothing that comes after the event belong to the instruction of the events before it? */
static bool parts(const struct trace_event *ev)
{
	return trace_begins_insn(ev) || ev->kind == TRACE_PAGE || ev->kind == TRACE_STORE || ev->kind == TRACE_INSNS ||
	       ev->kind > TRACE_INVPCID;
}

/* Completes the instruction that is held back. Returns how many events of @ev belong to it. */
static unsigned hold_more(struct engine_replay *r, const struct trace_event *ev, unsigned n, bool *over)
{
	unsigned i = 0;

	while (i < n && !parts(&ev[i]) && r->helds < HELD_MAX)
		r->held[r->helds++] = ev[i++];
	*over = i < n || r->helds == HELD_MAX;
	return i;
}

static int take_held(struct engine_vm *vm, struct error *err)
{
	unsigned n = vm->replay->helds;

	vm->replay->helds = 0;
	return run(vm, vm->replay->held, n, err);
}

/* How many of the events are of instructions that are over. */
static unsigned complete(const struct trace_event *ev, unsigned n)
{
	for (unsigned i = n; i > 0; i--)
		if (parts(&ev[i - 1]))
			return trace_begins_insn(&ev[i - 1]) && n - (i - 1) < HELD_MAX ? i - 1 : n;
	return n < HELD_MAX ? 0 : n;
}

int engine_replay(struct engine_vm *vm, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct engine_replay *r = vm->replay;
	unsigned whole;
	bool over;
	int ret;

	if (r->helds) {
		unsigned more = hold_more(r, ev, n, &over);

		ev += more;
		n -= more;
		ret = over ? take_held(vm, err) : 0;
		if (ret || !over)
			return ret;
	}
	whole = complete(ev, n);
	ret = run(vm, ev, whole, err);
	memcpy(r->held, ev + whole, (n - whole) * sizeof(*ev));
	r->helds = n - whole;
	return ret;
}

int engine_replay_finish(struct engine_vm *vm, struct error *err) { return take_held(vm, err); }

struct engine_replayed engine_replayed(const struct engine_vm *vm)
{
	const struct replay *r = &vm->replay->processor;

	return (struct engine_replayed){.accesses = r->accesses, .insns = r->insns, .faults = r->faults,
					.unexpected = r->unexpected};
}
