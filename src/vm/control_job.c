/* Jobs: see control.h. A slot a kind; what it holds after the end is for those who ask later. */
#include "vm/control_impl.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <time.h>

static const char *const state_name[] = {
	[CONTROL_JOB_RUNNING] = "running",     [CONTROL_JOB_COMPLETED] = "completed",
	[CONTROL_JOB_FAILED] = "failed",       [CONTROL_JOB_CANCELLED] = "cancelled",
};

/* ---- all under the lock ---- */

static struct control_job *find_job(struct control *c, const char *kind)
{
	for (unsigned i = 0; i < CONTROL_JOBS; i++)
		if (c->job[i].kind && strcmp(c->job[i].kind, kind) == 0)
			return &c->job[i];
	return NULL;
}

static struct control_job *unused_job(struct control *c)
{
	for (unsigned i = 0; i < CONTROL_JOBS; i++)
		if (!c->job[i].kind)
			return &c->job[i];
	return NULL;
}

static int64_t elapsed_ms(const struct control_job *job)
{
	struct timespec now = job->ended;

	if (job->state == CONTROL_JOB_RUNNING)
		clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - job->begun.tv_sec) * 1000 + (now.tv_nsec - job->begun.tv_nsec) / 1000000;
}

static json_t *describe(const struct control_job *job)
{
	json_t *o = json_pack("{s:s, s:s, s:I}", "kind", job->kind, "status", state_name[job->state], "elapsed_ms",
			      (json_int_t)elapsed_ms(job)), *progress;

	if (job->phase)
		json_object_set_new(o, "phase", json_string(job->phase));
	if (job->state == CONTROL_JOB_RUNNING && job->cancel)
		json_object_set_new(o, "cancelling", json_true());
	if (job->state == CONTROL_JOB_FAILED)
		json_object_set_new(o, "error", json_string(job->err.text));
	progress = json_object();
	for (unsigned i = 0; i < job->numbers; i++)
		json_object_set_new(progress, job->number[i].name, json_integer(job->number[i].value));
	json_object_set_new(o, "progress", progress);
	return o;
}

/* ---- for whoever does the work ---- */

int control_job_begin(struct control *c, const char *kind, struct control_job **out, struct error *err)
{
	struct control_job *job;
	int ret = 0;

	control_lock(c);
	job = find_job(c, kind);
	if (!job)
		job = unused_job(c);
	if (!job) {
		ret = error_set(err, -ENOSPC, "more than %d kinds of jobs", CONTROL_JOBS);
	} else if (job->kind && job->state == CONTROL_JOB_RUNNING) {
		ret = error_set(err, -EBUSY, "a job '%s' is running already", kind);
	} else {
		*job = (struct control_job){.control = c, .kind = kind, .cancel_fd = -1};
		clock_gettime(CLOCK_MONOTONIC, &job->begun);
		control_emit_locked(c, "JOB", describe(job));
		*out = job;
	}
	control_unlock(c);
	control_wake(c);
	return ret;
}

void control_job_phase(struct control_job *job, const char *phase)
{
	control_lock(job->control);
	job->phase = phase;
	control_unlock(job->control);
}

void control_job_set(struct control_job *job, const char *name, int64_t value)
{
	unsigned i = 0;

	control_lock(job->control);
	while (i < job->numbers && strcmp(job->number[i].name, name))
		i++;
	if (i < CONTROL_JOB_NUMBERS) {
		job->number[i].name = name;
		job->number[i].value = value;
		job->numbers += i == job->numbers;
	}
	control_unlock(job->control);
}

bool control_job_cancelled(const struct control_job *job)
{
	bool cancel;

	control_lock(job->control);
	cancel = job->cancel;
	control_unlock(job->control);
	return cancel;
}

void control_job_on_cancel(struct control_job *job, int fd)
{
	control_lock(job->control);
	job->cancel_fd = fd;
	if (job->cancel)
		eventfd_write(fd, 1);
	control_unlock(job->control);
}

/* Under the lock. */
static void cancel(struct control_job *job)
{
	job->cancel = true;
	if (job->cancel_fd >= 0)
		eventfd_write(job->cancel_fd, 1);
}

void control_job_end(struct control_job *job, int code, const struct error *err)
{
	struct control *c = job->control;

	control_lock(c);
	job->state = code == 0 ? CONTROL_JOB_COMPLETED : code == -ECANCELED ? CONTROL_JOB_CANCELLED : CONTROL_JOB_FAILED;
	if (err)
		job->err = *err;
	else if (code)
		error_set(&job->err, code, "%s", strerror(-code));
	clock_gettime(CLOCK_MONOTONIC, &job->ended);
	control_emit_locked(c, "JOB", describe(job));
	control_unlock(c);
	control_wake(c);
}

/* ---- for whoever asks ---- */

json_t *control_job_describe(struct control *c, const char *kind)
{
	const struct control_job *job;
	json_t *o;

	control_lock(c);
	job = find_job(c, kind);
	o = job ? describe(job) : json_pack("{s:s, s:s}", "kind", kind, "status", "none");
	control_unlock(c);
	return o;
}

int control_job_cancel(struct control *c, const char *kind, struct error *err)
{
	struct control_job *job;
	int ret = 0;

	control_lock(c);
	job = find_job(c, kind);
	if (job && job->state == CONTROL_JOB_RUNNING)
		cancel(job);
	else
		ret = error_set(err, -ENOENT, "no job '%.60s' is running", kind);
	control_unlock(c);
	return ret;
}

static int run_query_jobs(const struct control_call *call, json_t **ret, struct error *err)
{
	struct control *c = call->control;

	(void)err;
	*ret = json_array();
	control_lock(c);
	for (unsigned i = 0; i < CONTROL_JOBS; i++)
		if (c->job[i].kind)
			json_array_append_new(*ret, describe(&c->job[i]));
	control_unlock(c);
	return 0;
}

static int run_cancel_job(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)ret;
	return control_job_cancel(call->control, json_string_value(json_object_get(call->args, "kind")), err);
}

static const struct control_argument cancel_args[] = {{"kind", CONTROL_STRING, true}, {NULL}};

const struct control_command control_job_commands[] = {
	{.name = "query-jobs", .help = "long work: what runs, and how the last of each kind ended", .run = run_query_jobs},
	{.name = "cancel-job", .help = "ask a running job to end", .args = cancel_args, .run = run_cancel_job},
	{.name = NULL},
};
