/* See guest_control.h. What it adds to the commands of vm/control.h is what needs reports. */
#include "cli/guest_control.h"
#include "lab/report.h"

static const struct control_argument stats_args[] = {{"hash", CONTROL_BOOLEAN, false}, {NULL}};

/* The report so far. What only the end can say is left out, and the hash, unless asked for, since it takes a while. */
static int run_query_stats(const struct control_call *call, json_t **ret, struct error *err)
{
	bool hash = json_is_true(json_object_get(call->args, "hash"));
	const struct report_host host = report_measure_host(0);
	struct vm_result r;
	json_t *guest;

	(void)err;
	if (hash)
		vm_result(call->vm, &r);
	else
		vm_progress(call->vm, &r);
	*ret = report_build(vm_get_config(call->vm), &r, &host);
	guest = json_object_get(*ret, "guest");
	json_object_del(guest, "exit_code");
	json_object_del(guest, "message");
	if (!hash) {
		json_object_del(guest, "state_hash");
		json_object_del(guest, "state_hash_no_accessed");
		json_object_del(guest, "memory_hash");
	}
	return 0;
}

static const struct control_command stats_commands[] = {
	{.name = "query-stats", .help = "the report so far; with hash, the state's hash too", .args = stats_args,
	 .run = run_query_stats, .on_vm_thread = true, .while_held = true},
	{.name = NULL},
};

static int add_commands(struct guest_control *g, struct error *err)
{
	int ret = control_add_commands(g->control, stats_commands, NULL, err);

	if (!ret)
		ret = control_saved_create(&g->saved, g->control, err);
	if (!ret)
		ret = control_mirror_create(&g->mirror, g->control, err);
	return ret ? ret : migrate_out_create(&g->migrate, g->control, err);
}

int guest_control_open(struct guest_control *g, const struct vm_description *what, struct vm *vm, struct error *err)
{
	const struct control_config cfg = {.version = GNOMON_VERSION, .name = what->name ? what->name : ""};
	int ret;

	*g = (struct guest_control){.control = NULL};
	if (!what->control)
		return 0;
	ret = control_create(&g->control, &cfg, err);
	if (ret)
		return ret;
	if (vm)
		control_attach(g->control, vm);
	ret = add_commands(g, err);
	if (ret == 0)
		ret = control_open(g->control, what->control, err);
	if (ret)
		guest_control_close(g);
	return ret;
}

void guest_control_attach(struct guest_control *g, struct vm *vm)
{
	if (g->control)
		control_attach(g->control, vm);
}

void guest_control_close(struct guest_control *g)
{
	const struct guest_control was = *g;

	*g = (struct guest_control){.control = NULL}; /* first: a signal's handler looks at it */
	if (was.control)
		control_detach(was.control); /* jobs tell how they ended, so the socket goes last */
	migrate_out_stop(was.migrate);
	control_mirror_destroy(was.mirror);
	control_saved_destroy(was.saved);
	control_destroy(was.control);
	migrate_out_free(was.migrate);
}

void guest_control_unlink(const struct guest_control *g)
{
	if (g->control)
		control_unlink(g->control);
}
