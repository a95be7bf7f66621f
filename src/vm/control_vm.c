/* Commands of the control socket that every VM has. */
#include "vm/control_impl.h"

#include <errno.h>

static const char *status_of(const struct vm *vm)
{
	if (vm_why_ended(vm) != VM_END_NONE)
		return "ended";
	return vm_is_paused(vm) ? "paused" : "running";
}

/* Why it ended, on top of the rest. */
static void add_end(json_t *o, struct vm *vm)
{
	const char *message = vm_end_message(vm);

	if (vm_why_ended(vm) == VM_END_NONE)
		return;
	json_object_set_new(o, "reason", json_string(vm_end_name[vm_why_ended(vm)]));
	if (*message)
		json_object_set_new(o, "message", json_string(message));
}

json_t *control_vm_status(const struct control *c, struct vm *vm)
{
	const struct vm_config *cfg;
	json_t *o;

	if (!vm)
		return json_pack("{s:s, s:s}", "status", "waiting", "name", c->name);
	cfg = vm_get_config(vm);
	o = json_pack("{s:s, s:s, s:s, s:I, s:s, s:I, s:I}", "status", status_of(vm), "name", c->name, "mmu",
		      engine_mmu_name[cfg->engine.mmu], "memory", (json_int_t)cfg->engine.memory, "clock",
		      cfg->clock == VM_CLOCK_WALL ? "wall" : "icount", "instructions", (json_int_t)vm_insns(vm),
		      "virtual_ns", (json_int_t)engine_now(vm_engine(vm)));
	add_end(o, vm);
	return o;
}

static int run_query_status(const struct control_call *call, json_t **ret, struct error *err)
{
	struct control *c = call->control;

	(void)err;
	if (!call->vm) { /* it has ended, or is yet to come */
		control_lock(c);
		*ret = json_deep_copy(c->last_status);
		control_unlock(c);
	}
	if (!*ret)
		*ret = control_vm_status(c, call->vm);
	return 0;
}

void control_pause(struct control *c)
{
	if (!c->vm || vm_is_paused(c->vm))
		return;
	vm_pause(c->vm);
	control_emit(c, "STOP", NULL);
}

void control_continue(struct control *c)
{
	if (!c->vm || !vm_is_paused(c->vm))
		return;
	vm_continue(c->vm);
	control_emit(c, "RESUME", NULL);
}

static int run_stop(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)ret, (void)err;
	control_pause(call->control);
	return 0;
}

static int run_cont(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)ret, (void)err;
	control_continue(call->control);
	return 0;
}

static int run_quit(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)ret, (void)err;
	if (call->vm)
		vm_interrupt(call->vm);
	return 0;
}

static int run_powerdown(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)ret, (void)err;
	if (call->vm)
		vm_press_power_button(call->vm);
	return 0;
}

const struct control_command control_vm_commands[] = {
	{.name = "query-status", .help = "is it running, and how far it is", .run = run_query_status, .on_vm_thread = true,
	 .while_held = true, .without_vm = true},
	{.name = "stop", .help = "hold the VM; it stays held until cont", .run = run_stop, .on_vm_thread = true},
	{.name = "cont", .help = "let it go on", .run = run_cont, .on_vm_thread = true},
	{.name = "system_powerdown", .help = "press the power button", .run = run_powerdown, .on_vm_thread = true},
	{.name = "quit", .help = "end the run as interrupted; its report is written", .run = run_quit,
	 .on_vm_thread = true, .while_held = true},
	{.name = NULL},
};
