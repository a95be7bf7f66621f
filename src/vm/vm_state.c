/* See vm_state.h. What a run remembers between two stretches is here; devices and the vCPU have their tables themselves. */
#include "vm/vm_state.h"

#include "vm/vm_config.h"
#include "vm/vm_impl.h"

#include <errno.h>
#include <stdlib.h>

/* What the run loop remembers. */
struct run_state {
	bool cut;                /* the stretch before was ended for a stop, and the next one has its: */
	uint64_t deadline_ns;
	bool request_irq_window;
	bool halt_pending;       /* halted, idle time has yet to pass: */
	uint64_t wake_ns;
	bool power_button;
	uint64_t look_at;
	uint64_t ran_ns;         /* with the wall clock only */
	uint8_t input[INPUT_BYTES];
	uint32_t input_count;
	uint32_t idle_wakes;
	uint64_t idle_insns;
};

#define RUN_U(m) STATE_U(struct run_state, m)
#define RUN_B(m) STATE_B(struct run_state, m)
static const struct state_field run_fields[] = {
	RUN_B(cut), RUN_U(deadline_ns), RUN_B(request_irq_window), RUN_B(halt_pending), RUN_U(wake_ns), RUN_B(power_button),
	RUN_U(look_at), STATE_U_MAX(struct run_state, ran_ns, DEVICE_TIME_MAX),
	STATE_DATA_USED(struct run_state, input, input_count), RUN_U(idle_wakes), RUN_U(idle_insns),
};
static const struct state_desc run_desc = STATE_DESC("vm", 1, run_fields);

static void get_run(const struct vm *vm, struct run_state *r)
{
	*r = (struct run_state){
		.cut = vm->cut, .halt_pending = vm->halt_pending, .power_button = vm->power_button,
		.look_at = vm->look_at, .input_count = vm->input_count, .idle_wakes = vm->idle_wakes,
		.idle_insns = vm->idle_insns,
	};
	if (vm->cut) { /* otherwise both are found anew */
		r->deadline_ns = vm->run.deadline_ns;
		r->request_irq_window = vm->run.request_irq_window;
	}
	if (vm->halt_pending)
		r->wake_ns = vm->run.hlt.wake_ns;
	if (vm->cfg.clock == VM_CLOCK_WALL)
		r->ran_ns = (uint64_t)vm_ran_ns(vm);
	memcpy(r->input, vm->input, vm->input_count);
}

static void set_run(struct vm *vm, const struct run_state *r)
{
	vm->cut = r->cut;
	vm->run.deadline_ns = r->deadline_ns;
	vm->run.request_irq_window = r->request_irq_window;
	vm->run.exit = r->halt_pending ? ENGINE_EXIT_HLT : ENGINE_EXIT_DEADLINE;
	vm->halt_pending = r->halt_pending;
	if (r->halt_pending)
		vm->run.hlt.wake_ns = r->wake_ns;
	vm->power_button = r->power_button;
	vm->look_at = r->look_at;
	vm->ran_ns = (int64_t)r->ran_ns;
	vm->input_count = r->input_count;
	memcpy(vm->input, r->input, r->input_count);
	vm->idle_wakes = r->idle_wakes;
	vm->idle_insns = r->idle_insns;
}

/* The sections but those of devices on the bus. */
#define SECTIONS_MAX (3 + PLATFORM_SECTIONS_MAX)
static unsigned list_sections(struct vm *vm, struct engine_vcpu *vcpu, struct run_state *run,
			      struct state_object section[SECTIONS_MAX])
{
	section[0] = (struct state_object){"vcpu", &engine_vcpu_desc, vcpu};
	section[1] = (struct state_object){"lapic", &lapic_desc, &vcpu->lapic};
	section[2] = (struct state_object){"vm", &run_desc, run};
	return 3 + platform_sections(&vm->platform, section + 3);
}

/* ---- saving ---- */

static int save_config(const struct vm *vm, const struct state_sink *sink, struct error *err)
{
	char *text;
	int ret = vm_config_to_text(&text, &vm->cfg, err);

	if (!ret) {
		ret = sink->section(sink->ctx, VM_STATE_CONFIG, text, strlen(text), err);
		free(text);
	}
	return ret;
}

/*
 * Left out: a guest of the hypervisor's in VMX operation. What of it is in the hypervisor's own tables and VMCS is not
 * restored in all cases.
 */
static int check_vmx(const struct vm *vm, const struct engine_vcpu *vcpu, const char *what, struct error *err)
{
	if (engine_mmu_is_bare(vm->cfg.engine.mmu) || !vcpu->vmx.state.on)
		return 0;
	return error_set(err, -EOPNOTSUPP, "%s: the guest is in VMX operation, which is kept on the bare machine only", what);
}

int vm_save_state(struct vm *vm, const struct state_sink *sink, struct error *err)
{
	struct state_object section[SECTIONS_MAX];
	struct engine_vcpu vcpu;
	struct run_state run;
	unsigned n;
	int ret;

	if (vm->end != VM_END_NONE || !engine_at_rest(vm->engine))
		return error_set(err, -EBUSY, "the state cannot be saved: the guest %s",
				 vm->end != VM_END_NONE ? "has ended" : "is within an instruction");
	engine_get_vcpu(vm->engine, &vcpu);
	ret = check_vmx(vm, &vcpu, "the state cannot be saved", err);
	if (ret)
		return ret;
	get_run(vm, &run);
	n = list_sections(vm, &vcpu, &run, section);
	ret = save_config(vm, sink, err);
	for (unsigned i = 0; i < n && !ret; i++)
		ret = state_give(sink, &section[i], err);
	return ret ? ret : devices_save(vm->devices, sink, err);
}

/* ---- loading ---- */

static int begin_loading(struct vm *vm, struct error *err)
{
	if (vm->vcpu)
		return 0;
	if (engine_insns(vm->engine) || vm->loaded)
		return error_set(err, -EINVAL, "state: the VM has run or has a state already");
	vm->vcpu = malloc(sizeof(*vm->vcpu));
	if (!vm->vcpu)
		return error_set(err, -ENOMEM, "loading state: out of memory");
	engine_get_vcpu(vm->engine, vm->vcpu); /* with what the processor's configuration says of its local APIC */
	return 0;
}

static int load_listed(struct vm *vm, const struct state_object *section, unsigned i, const void *bytes, size_t n,
		       struct error *err)
{
	if (vm->loaded >> i & 1)
		return error_set(err, -EINVAL, "state: section '%s' is there twice", section->name);
	vm->loaded |= 1ull << i;
	return state_load(section->desc, section->object, bytes, n, err);
}

int vm_load_section(struct vm *vm, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct state_object section[SECTIONS_MAX];
	struct run_state run;
	unsigned sections;
	int ret = begin_loading(vm, err);

	if (ret)
		return ret;
	sections = list_sections(vm, vm->vcpu, &run, section);
	for (unsigned i = 0; i < sections; i++) {
		if (strcmp(section[i].name, name) != 0)
			continue;
		ret = load_listed(vm, &section[i], i, bytes, n, err);
		if (!ret && section[i].object == &run)
			set_run(vm, &run);
		return ret;
	}
	ret = devices_load(vm->devices, name, bytes, n, err);
	return ret == -ENOENT ? error_set(err, -EINVAL, "state: the VM has nothing that section '%.40s' is of", name) : ret;
}

static int find_missing(struct vm *vm, struct error *err)
{
	struct state_object section[SECTIONS_MAX];
	struct run_state run;
	unsigned sections = list_sections(vm, vm->vcpu, &run, section);

	for (unsigned i = 0; i < sections; i++)
		if (!(vm->loaded >> i & 1))
			return error_set(err, -EINVAL, "state: section '%s' is missing", section[i].name);
	return devices_load_finish(vm->devices, err);
}

int vm_load_finish(struct vm *vm, struct error *err)
{
	int ret = begin_loading(vm, err);

	if (!ret)
		ret = find_missing(vm, err);
	if (!ret)
		ret = check_vmx(vm, vm->vcpu, "the state cannot be loaded", err);
	if (!ret)
		ret = engine_set_vcpu(vm->engine, vm->vcpu, err);
	if (ret)
		return ret;
	free(vm->vcpu);
	vm->vcpu = NULL;
	vm->resumed_at = engine_insns(vm->engine);
	return 0;
}
