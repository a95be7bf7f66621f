/*
 * A disk of the VM is copied to a new image while the guest uses it; at the end the VM goes on with the copy, or the copy
 * is what the disk was at that instant. The disk's worker does the work (disk/mirror.h); a thread here watches it,
 * tells how far it is, and has the VM's thread make the end of it.
 */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "vm/control_mirror.h"
#include "disk/image.h"
#include "disk/mirror.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS 10000000L /* how often to look how far it is */
#define ROUNDS  8         /* of copying, before changes are mirrored */

struct control_mirror {
	struct control *control;
	struct control_job *job;
	bool started;            /* there is a thread to be joined */
	pthread_t thread;
	/* of the present or last one */
	struct vm *vm;
	unsigned disk;
	bool pivot;
	struct disk *to;         /* NULL: it is the VM's now */
	struct disk_mirror *mirror;
};

/* ---- on the VM's thread ---- */

static int stop(void *ctx)
{
	struct control_mirror *cm = ctx;

	vm_stop_mirror(cm->vm, cm->disk, cm->mirror);
	return 0;
}

struct ending {
	struct control_mirror *cm;
	struct error err;
};

static int finish(void *ctx)
{
	struct ending *e = ctx;
	struct control_mirror *cm = e->cm;
	int ret = cm->pivot ? vm_pivot(cm->vm, cm->disk, cm->mirror, cm->to, &e->err)
			    : vm_complete_mirror(cm->vm, cm->disk, cm->mirror, &e->err);

	if (!ret && cm->pivot)
		cm->to = NULL;
	return ret;
}

/* ---- the thread ---- */

static void look(struct control_mirror *cm, struct disk_mirror_progress *p)
{
	disk_mirror_progress(cm->mirror, p);
	control_job_phase(cm->job, disk_mirror_phase_name[p->phase]);
	control_job_set(cm->job, "bytes_total", (int64_t)p->total);
	control_job_set(cm->job, "bytes_left", (int64_t)p->left);
	control_job_set(cm->job, "bytes_copied", (int64_t)p->copied);
	control_job_set(cm->job, "bytes_zero", (int64_t)p->zeroes);
	control_job_set(cm->job, "bytes_mirrored", (int64_t)p->mirrored);
	control_job_set(cm->job, "rounds", p->rounds);
}

/* Until there is something to be done about it. */
static void watch(struct control_mirror *cm, struct disk_mirror_progress *p)
{
	const struct timespec pause = {.tv_nsec = LOOK_NS};

	for (look(cm, p); p->phase < DISK_MIRROR_READY && !control_job_cancelled(cm->job); look(cm, p))
		nanosleep(&pause, NULL);
}

/* The disk's worker has let go of the mirror. If there is no VM any more, whoever ends it sees to that. */
static void let_go(struct control_mirror *cm)
{
	const struct timespec pause = {.tv_nsec = LOOK_NS};
	struct disk_mirror_progress p;

	control_run_on_vm(cm->control, stop, cm);
	for (disk_mirror_progress(cm->mirror, &p); p.in_use; disk_mirror_progress(cm->mirror, &p))
		nanosleep(&pause, NULL);
}

/* A copy that is not whole is of no use. */
static int close_copy(struct control_mirror *cm, int ret, struct error *err)
{
	char *path = strdup(disk_path(cm->to));
	int closed = disk_close(cm->to, ret ? NULL : err);

	cm->to = NULL;
	if ((ret || closed) && path)
		unlink(path);
	free(path);
	return ret ? ret : closed;
}

static void *work(void *arg)
{
	struct control_mirror *cm = arg;
	struct disk_mirror_progress p;
	struct ending e = {.cm = cm};
	int ret = -ECANCELED;

	watch(cm, &p);
	if (p.phase == DISK_MIRROR_READY && !control_job_cancelled(cm->job)) {
		ret = disk_flush_name(cm->to, &e.err);
		if (!ret)
			ret = control_run_on_vm(cm->control, finish, &e);
	}
	let_go(cm);
	look(cm, &p);
	if (p.phase == DISK_MIRROR_FAILED && (!ret || ret == -ECANCELED)) {
		e.err = p.err;
		ret = p.err.code;
	}
	if (cm->to)
		ret = close_copy(cm, ret, &e.err);
	control_job_end(cm->job, ret, ret && *e.err.text ? &e.err : NULL);
	return NULL;
}

static int start_thread(struct control_mirror *cm, struct error *err)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&cm->thread, NULL, work, cm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	cm->started = !ret;
	return ret ? error_set(err, -ret, "mirror: cannot start a thread: %s", strerror(ret)) : 0;
}

static void forget(struct control_mirror *cm)
{
	if (cm->started)
		pthread_join(cm->thread, NULL);
	disk_mirror_free(cm->mirror);
	cm->started = false;
	cm->mirror = NULL;
}

/* ---- the command ---- */

struct wish {
	unsigned disk;
	const char *file;
	enum disk_format format;
	struct disk_mirror_options options;
	bool pivot;
};

static int take_count(const json_t *args, const char *name, json_int_t most, json_int_t *v, struct error *err)
{
	const json_t *o = json_object_get(args, name);

	if (o)
		*v = json_integer_value(o);
	return *v >= 0 && *v <= most ? 0 : error_set(err, -EINVAL, "%s: from 0 to %lld", name, (long long)most);
}

static int take_wish(const json_t *args, struct wish *w, struct error *err)
{
	const char *format = json_string_value(json_object_get(args, "format"));
	json_int_t disk = 0, speed = 0, rounds = ROUNDS;
	int ret = take_count(args, "disk", DEVICES_DISKS_MAX - 1, &disk, err);

	if (!ret)
		ret = take_count(args, "speed", INT64_MAX, &speed, err);
	if (!ret)
		ret = take_count(args, "rounds", 1000000, &rounds, err);
	if (ret)
		return ret;
	*w = (struct wish){.disk = (unsigned)disk, .file = json_string_value(json_object_get(args, "file")),
			   .format = DISK_FORMAT_QCOW2, .pivot = !json_is_false(json_object_get(args, "pivot"))};
	w->options = (struct disk_mirror_options){.bytes_per_second = (uint64_t)speed, .rounds = (unsigned)rounds};
	if (*w->file != '/')
		return error_set(err, -EINVAL, "file: an absolute path is wanted");
	if (format && !strcmp(format, "raw"))
		w->format = DISK_FORMAT_RAW;
	else if (format && strcmp(format, "qcow2") != 0)
		return error_set(err, -EINVAL, "format: qcow2 or raw");
	return 0;
}

/* A new image that those may read who may read the old one. */
static int make_copy(struct control_mirror *cm, const struct wish *w, struct error *err)
{
	uint64_t bytes = vm_disk_bytes(cm->vm, w->disk);
	const struct disk_create_options o = {
		.format = w->format, .bytes = w->format == DISK_FORMAT_RAW ? bytes : (bytes + 511) & ~511ull};
	bool read_only = false;
	const char *from = vm_disk(cm->vm, w->disk, &read_only);
	struct stat st;
	int ret;

	if (!from)
		return error_set(err, -EINVAL, "there is no disk %u", w->disk);
	if (w->pivot && read_only)
		return error_set(err, -EROFS, "%.300s: read only: pivot=false makes a copy", from);
	ret = disk_create(w->file, &o, err);
	if (ret == -ENOENT) /* a directory of the path's */
		err->code = ret = -EINVAL;
	if (ret)
		return ret;
	if (stat(from, &st) == 0)
		chmod(w->file, st.st_mode & 0777);
	/* By its contents, so that the guest of a raw copy cannot make another format of it. */
	ret = disk_open(&cm->to, w->file, NULL, err);
	if (ret)
		unlink(w->file);
	return ret;
}

static int start(struct control_mirror *cm, const struct wish *w, struct error *err)
{
	struct disk_mirror_target target;
	int ret = make_copy(cm, w, err);

	if (ret)
		return ret;
	cm->disk = w->disk;
	cm->pivot = w->pivot;
	target = disk_mirror_to(cm->to);
	ret = disk_mirror_create(&cm->mirror, vm_disk_bytes(cm->vm, w->disk), &target, &w->options, err);
	if (!ret)
		ret = vm_start_mirror(cm->vm, w->disk, cm->mirror, err);
	if (!ret) {
		ret = start_thread(cm, err);
		if (ret)
			vm_stop_mirror(cm->vm, w->disk, cm->mirror);
	}
	if (ret) {
		close_copy(cm, ret, NULL);
		forget(cm);
	}
	return ret;
}

static int run_mirror(const struct control_call *call, json_t **ret, struct error *err)
{
	struct control_mirror *cm = call->ctx;
	struct wish w;
	int r = take_wish(call->args, &w, err);

	(void)ret;
	if (!r)
		r = control_job_begin(cm->control, "mirror", &cm->job, err);
	if (r)
		return r;
	forget(cm); /* the last one, which has ended */
	cm->vm = call->vm;
	r = start(cm, &w, err);
	if (r)
		control_job_end(cm->job, r, err);
	return r;
}

static int run_query_mirror(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)err;
	*ret = control_job_describe(call->control, "mirror");
	return 0;
}

static const struct control_argument mirror_args[] = {
	{"file", CONTROL_STRING, true},    {"disk", CONTROL_INTEGER, false},   {"format", CONTROL_STRING, false},
	{"speed", CONTROL_INTEGER, false}, {"rounds", CONTROL_INTEGER, false}, {"pivot", CONTROL_BOOLEAN, false}, {NULL},
};
static const struct control_command commands[] = {
	{.name = "mirror", .help = "copies a disk to a new image while the guest uses it, and goes on with the copy",
	 .args = mirror_args, .run = run_mirror, .on_vm_thread = true},
	{.name = "query-mirror", .help = "how the last mirror is coming along", .run = run_query_mirror},
	{.name = NULL},
};

int control_mirror_create(struct control_mirror **out, struct control *c, struct error *err)
{
	struct control_mirror *cm = calloc(1, sizeof(*cm));
	int ret;

	if (!cm)
		return error_set(err, -ENOMEM, "out of memory");
	cm->control = c;
	ret = control_add_commands(c, commands, cm, err);
	if (ret)
		free(cm);
	else
		*out = cm;
	return ret;
}

void control_mirror_destroy(struct control_mirror *cm)
{
	if (!cm)
		return;
	if (cm->started)
		stop(cm);
	forget(cm);
	free(cm);
}
