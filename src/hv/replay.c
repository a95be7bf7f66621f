/*
 * The hypervisor and a guest that is a trace: VM entries, exits and their handlers are those of a guest that
 * executes; what is fed to the processor is events (cpu/replay.h). No event is ever injected: what the guest did
 * about interrupts and exceptions is in the trace. What comes from outside, contents of memory, is written while the
 * processor is in root operation, where it goes and comes without that being counted.
 */
#include "hv/core.h"

#include "cpu/replay.h"

#include <errno.h>

/* ---- forgetting ---- */

int hv_populate(struct hv_vm *vm, struct error *err)
{
	for (unsigned i = 0; i < vm->rams; i++)
		for (uint64_t a = vm->ram[i].base; a < vm->ram[i].base + vm->ram[i].bytes; a += PAGE_SIZE) {
			mfn_t m;
			int r = p2m_get(vm, gfn(a >> PAGE_SHIFT), &m, NULL);

			if (r)
				return error_set(err, r, "hypervisor: no machine memory for all of the guest's");
		}
	return 0;
}

int hv_forget(struct hv_vm *vm, struct error *err)
{
	struct hv_core *core = hv_core(vm);
	bool inside;
	int r;

	if (vm->dirty.tracker)
		return error_set(err, -EBUSY, "hypervisor: pages are being tracked");
	hv_make_current(vm);
	hv_load_paging(vm);
	inside = hv_nested_outside(vm);
	hv_nested_moved(vm);
	vm->mmu->destroy(vm);
	r = vm->mmu->init(vm, err);
	if (!r)
		r = hv_populate(vm, err);
	if (r)
		return r;
	hv_repeat_requests(vm); /* what the guest was promised, it still has */
	vm->mmu->setup_vmcs(vm);
	core->proc = (uint32_t)hv_read(vm, VMCS_PROC_CTL);
	hv_nested_inside_again(vm, inside);
	core->paging_changed = true;
	hv_commit_paging(vm);
	return 0;
}

/* ---- what comes from outside ---- */

static int write_memory(void *ctx, uint64_t a, const void *from, unsigned bytes, struct error *err)
{
	struct hv_vm *vm = ctx;
	void *to = p2m_ptr(vm, a);

	if (!to)
		return error_set(err, p2m_is_ram(vm, a) ? -ENOMEM : -EINVAL,
				 "replay: the trace writes guest-physical %#llx: %s", (unsigned long long)a,
				 p2m_is_ram(vm, a) ? "out of machine memory" : "no memory there");
	memcpy(to, from, bytes);
	hv_ram_written(vm, a, bytes);
	return 0;
}

static void load_registers(void *ctx, const struct replay *r)
{
	struct hv_vm *vm = ctx;
	struct work work = hv_save_work(vm);

	replay_registers(r, hv_get_state(vm));
	hv_put_state(vm);
	hv_restore_work(vm, &work);
}

static void load_msr(void *ctx, const struct trace_event *ev)
{
	struct hv_vm *vm = ctx;
	struct work work = hv_save_work(vm);

	hv_load_state(vm);
	replay_load_msr(vm->emul, ev);
	hv_settle_requests(vm);
	hv_restore_work(vm, &work);
}

static const struct replay_outside outside = {write_memory, load_registers, load_msr};

/* ---- the guest ---- */

/* An access that exits again and again without getting any further is one that the hypervisor cannot resolve. */
#define ATTEMPTS_MAX 1000

static const struct engine_run no_end = {.deadline_ns = UINT64_MAX, .insn_limit = UINT64_MAX};

/* An entry that follows no exit is not counted, either. */
static enum hv_verdict enter(struct hv_vm *vm, enum replay_entry how)
{
	struct work work = hv_save_work(vm);
	bool exited = false;
	enum hv_verdict v;

	hv_core(vm)->stop_armed = false;
	v = hv_enter(vm, &no_end, &exited);
	if (how == REPLAY_ANEW)
		hv_restore_work(vm, &work);
	if (v == HV_RESUME && exited)
		return hv_exited(vm) == HV_FAIL ? HV_FAIL :
						  hv_fail(vm, "replay: VM entry exited, and nothing was injected");
	if (v == HV_RESUME)
		replay_entered(vm->cpu, how);
	return v;
}

/* The guest where the processor cannot execute it: all is emulated. */
static enum hv_verdict emulate(struct hv_vm *vm, struct replay *r)
{
	if (r->ev[r->at].kind != TRACE_INSNS)
		return hv_emulate(vm, HV_EMULATE_ITERATIONS);
	r->insns += r->ev[r->at++].value;
	return HV_RESUME;
}

/* An exit was handled: how is the guest entered again? What was to be injected is dropped. */
static enum replay_entry after_exit(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	/* What is to be injected again, because its delivery exited, is made again as a group is. */
	bool injects = core->inject.info && core->inject.info != core->vectoring.info;

	core->inject = (struct hv_event){0};
	core->halted = core->shutdown = false;
	return injects ? REPLAY_ABANDONED : REPLAY_HANDLED;
}

static int failed(struct hv_vm *vm, struct error *err) { return error_set(err, -EIO, "replay: %.200s", vm->fail_text); }

int hv_replay(struct hv_vm *vm, struct replay *r, struct error *err)
{
	struct hv_core *core = hv_core(vm);
	enum replay_entry how = REPLAY_ANEW;
	enum replay_status s;
	unsigned attempts = 0, farthest = 0;
	int ret = 0;

	hv_make_current(vm);
	for (;;) {
		if (how == REPLAY_ANEW)
			ret = replay_take_outside(r, &outside, vm, err);
		if (ret || (how == REPLAY_ANEW && r->at >= r->n))
			return ret;
		if (core->by_emulation)
			hv_choose_emulation(vm);
		if (core->by_emulation) {
			if (emulate(vm, r) == HV_FAIL)
				return failed(vm, err);
			if (after_exit(vm) == REPLAY_ABANDONED)
				replay_abandon(r);
			how = REPLAY_ANEW;
			continue;
		}
		if (enter(vm, how) == HV_FAIL)
			return failed(vm, err);
		s = replay_run(vm->cpu);
		attempts = r->at > farthest ? 0 : attempts + 1;
		farthest = r->at > farthest ? r->at : farthest;
		if (attempts == ATTEMPTS_MAX) {
			hv_fail(vm, "the %s of %#llx exits again and again (%s, qualification %#llx)",
				trace_kind_name(r->ev[r->at].kind), (unsigned long long)r->ev[r->at].addr,
				hv_exit_name(core->exit_reason), (unsigned long long)core->qualification);
			replay_leave(vm->cpu);
			return failed(vm, err);
		}
		how = REPLAY_ANEW;
		if (s != REPLAY_EXIT)
			replay_leave(vm->cpu);
		else if (hv_exited(vm) == HV_FAIL)
			return failed(vm, err);
		else
			how = after_exit(vm);
	}
}
