#include "vm/control_saved.h"
#include "vm/checkpoint.h"

#include <errno.h>
#include <stdlib.h>

#define COMPRESS_MAX 19

struct control_saved {
	struct control *control;
	struct checkpointer *checkpointer; /* NULL: none was asked for yet */
	struct control_job *job;           /* of the checkpoint being written */
};

/* ---- arguments ---- */

static int compress_of(const json_t *args, int *level, struct error *err)
{
	json_int_t v = json_integer_value(json_object_get(args, "compress"));

	if (v < 0 || v > COMPRESS_MAX)
		return error_set(err, -EINVAL, "compress: a zstd level from 1 to %d, or 0 for none", COMPRESS_MAX);
	*level = (int)v;
	return 0;
}

static int path_of(const json_t *args, const char **path, struct error *err)
{
	*path = json_string_value(json_object_get(args, "file"));
	return **path == '/' ? 0 : error_set(err, -EINVAL, "file: an absolute path is wanted");
}

/* ---- suspend ---- */

static int run_suspend(const struct control_call *call, json_t **ret, struct error *err)
{
	struct suspend_options o = {.replace = json_is_true(json_object_get(call->args, "replace"))};
	const char *path;
	int r = path_of(call->args, &path, err);

	if (!r)
		r = compress_of(call->args, &o.compress, err);
	if (!r)
		r = vm_suspend(call->vm, path, &o, err);
	if (!r)
		*ret = json_pack("{s:s, s:I}", "file", path, "instructions", (json_int_t)vm_insns(call->vm));
	return r;
}

/* ---- checkpoints ---- */

static int on_progress(void *ctx, uint64_t pages, uint64_t of)
{
	const struct control_saved *s = ctx;

	control_job_set(s->job, "pages", (int64_t)pages);
	control_job_set(s->job, "pages_total", (int64_t)of);
	return control_job_cancelled(s->job);
}

static void on_done(void *ctx, int code, const struct checkpoint_result *r, const struct error *err)
{
	struct control_saved *s = ctx;

	control_job_set(s->job, "pages", (int64_t)r->pages);
	control_job_set(s->job, "bytes", (int64_t)r->bytes);
	control_job_set(s->job, "pause_us", (int64_t)(r->pause_ns / 1000));
	control_job_set(s->job, "total_us", (int64_t)(r->total_ns / 1000));
	control_job_end(s->job, code, err);
}

static int tracker_of(const json_t *args, struct checkpoint_options *o, struct error *err)
{
	const char *name = json_string_value(json_object_get(args, "dirty"));

	if (!name)
		return 0;
	for (unsigned i = 0; i < ENGINE_DIRTY_COUNT; i++)
		if (!strcmp(name, engine_dirty_name[i])) {
			o->choose_tracker = true;
			o->tracker = i;
			return 0;
		}
	return error_set(err, -EINVAL, "dirty: there is no tracker '%s'", name);
}

static int take(struct control_saved *s, const struct control_call *call, const struct checkpoint_options *o,
		json_t **ret, struct error *err)
{
	const struct checkpoint_result *r;
	const char *path;
	int ret_code = path_of(call->args, &path, err);

	if (!ret_code)
		ret_code = control_job_begin(s->control, "checkpoint", &s->job, err);
	if (ret_code)
		return ret_code;
	ret_code = checkpoint_take(s->checkpointer, path, o, err);
	if (ret_code) {
		control_job_end(s->job, ret_code, err);
		return ret_code;
	}
	r = checkpoint_last(s->checkpointer);
	*ret = json_pack("{s:s, s:s, s:b, s:s, s:I}", "file", path, "id", r->id, "incremental", r->incremental, "full_because",
			 r->full_because, "pause_us", (json_int_t)(r->pause_ns / 1000));
	return 0;
}

static int run_checkpoint(const struct control_call *call, json_t **ret, struct error *err)
{
	struct control_saved *s = call->ctx;
	struct checkpoint_options o = {.full = json_is_true(json_object_get(call->args, "full")), .progress = on_progress,
				       .done = on_done, .ctx = s};
	int r = compress_of(call->args, &o.compress, err);

	if (!r)
		r = tracker_of(call->args, &o, err);
	if (!r && !s->checkpointer)
		r = checkpointer_create(&s->checkpointer, call->vm, err);
	return r ? r : take(s, call, &o, ret, err);
}

static int run_query_checkpoint(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)err;
	*ret = control_job_describe(call->control, "checkpoint");
	return 0;
}

/* ---- the table ---- */

static const struct control_argument suspend_args[] = {
	{"file", CONTROL_STRING, true}, {"replace", CONTROL_BOOLEAN, false}, {"compress", CONTROL_INTEGER, false}, {NULL},
};
static const struct control_argument checkpoint_args[] = {
	{"file", CONTROL_STRING, true},     {"full", CONTROL_BOOLEAN, false}, {"compress", CONTROL_INTEGER, false},
	{"dirty", CONTROL_STRING, false}, {NULL},
};
static const struct control_command commands[] = {
	{.name = "suspend", .help = "writes the whole VM to a file, and ends the run", .args = suspend_args,
	 .run = run_suspend, .on_vm_thread = true},
	{.name = "checkpoint", .help = "writes the VM's state of this instant to a file, while it runs on",
	 .args = checkpoint_args, .run = run_checkpoint, .on_vm_thread = true},
	{.name = "query-checkpoint", .help = "how the last checkpoint is coming along", .run = run_query_checkpoint,
	 .without_vm = true},
	{.name = NULL},
};

int control_saved_create(struct control_saved **out, struct control *c, struct error *err)
{
	struct control_saved *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "out of memory");
	s->control = c;
	r = control_add_commands(c, commands, s, err);
	if (r)
		free(s);
	else
		*out = s;
	return r;
}

void control_saved_destroy(struct control_saved *s)
{
	if (!s)
		return;
	checkpointer_destroy(s->checkpointer);
	free(s);
}
