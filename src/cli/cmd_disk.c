/* gnomon disk: makes, describes, snapshots, branches, commits and checks disk images. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/disk_bench.h"
#include "cli/verbs.h"
#include "disk/image.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct disk_command {
	struct verb_args a;
	enum disk_format format;
	uint64_t cluster_bytes, refcount_bits;
	enum disk_repair repair;
	bool json;
	struct disk_bench bench;
};

/* ---- options ---- */

static int set_format(void *ctx, const char *v, struct error *err)
{
	struct disk_command *c = ctx;

	for (c->format = DISK_FORMAT_RAW; c->format <= DISK_FORMAT_QCOW2; c->format++)
		if (strcmp(v, disk_format_name(c->format)) == 0)
			return 0;
	return error_set(err, -EINVAL, "--format '%s': one of raw, qcow2", v);
}

static int set_cluster(void *ctx, const char *v, struct error *err)
{
	return parse_size("cluster-size", v, &((struct disk_command *)ctx)->cluster_bytes, err);
}

static int set_refcount_bits(void *ctx, const char *v, struct error *err)
{
	return parse_count("refcount-bits", v, &((struct disk_command *)ctx)->refcount_bits, err);
}

static int set_repair(void *ctx, const char *v, struct error *err)
{
	struct disk_command *c = ctx;

	c->repair = strcmp(v, "leaks") == 0 ? DISK_REPAIR_LEAKS : DISK_REPAIR_ALL;
	if (c->repair == DISK_REPAIR_ALL && strcmp(v, "all") != 0)
		return error_set(err, -EINVAL, "--repair '%s': one of leaks, all", v);
	return 0;
}

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct disk_command *)ctx)->json = true;
	return 0;
}

#define JSON_OPTION {"json", NULL, "print JSON", set_json}

static const struct option_desc no_options[] = {{0}}, json_options[] = {JSON_OPTION, {0}};
static const struct option_desc create_options[] = {
	{"format", "qcow2|raw", "format of the image (default qcow2)", set_format},
	{"cluster-size", "SIZE", "unit of allocation, a power of two from 1K to 2M (default 64K)", set_cluster},
	{"refcount-bits", "N", "width of refcounts, 1 to 64 (default 16)", set_refcount_bits},
	{0},
};
static const struct option_desc convert_options[] = {
	{"format", "qcow2|raw", "format of the new image (default qcow2)", set_format},
	{"cluster-size", "SIZE", "unit of allocation (default 64K)", set_cluster},
	{0},
};
static const struct option_desc check_options[] = {
	{"repair", "leaks|all", "leaks: make lost clusters free; all: also correct refcounts that are too\n"
				"low, and flags", set_repair},
	JSON_OPTION,
	{0},
};

/* ---- outcomes ---- */

static int fail(const struct error *err)
{
	cli_error("disk", err->text);
	switch (err->code) {
	case -EINTR:
		return CLI_INTERRUPTED;
	case -ENOMEM:
	case -EIO:
	case -ENOSPC:
	case -EDQUOT:
		return CLI_HOST_FAILED;
	}
	return CLI_USAGE;
}

/* @ret: of a call that is the command's last; what came before it in @d is closed. */
static int finish(struct disk *d, int ret, struct error *err)
{
	int closed = disk_close(d, ret ? NULL : err);

	return ret || closed ? fail(err) : CLI_OK;
}

static void print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(o);
}

static void put(json_t *o, const char *key, uint64_t v) { json_object_set_new(o, key, json_integer((json_int_t)v)); }
static void put_bool(json_t *o, const char *key, bool v) { json_object_set_new(o, key, json_boolean(v)); }

/* Names in images are bytes; JSON's strings are UTF-8. */
static void put_string(json_t *o, const char *key, const char *v)
{
	json_t *s = v ? json_string(v) : json_null();

	json_object_set_new(o, key, s ? s : json_string("?"));
}

/* ---- long work ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

static void catch_signals(void)
{
	struct sigaction a = {.sa_handler = on_signal};

	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
}

struct shown {
	double at;
	bool any;
};

static int show_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct shown *s = ctx;
	struct timespec now;
	double seconds;

	clock_gettime(CLOCK_MONOTONIC, &now);
	seconds = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	if (s->at <= 0)
		s->at = seconds;
	if (isatty(STDERR_FILENO) && (seconds - s->at > 0.25 || (s->any && done == total))) {
		s->at = seconds;
		s->any = true;
		fprintf(stderr, "\r%3.0f %%%s", total ? 100.0 * (double)done / (double)total : 100.0,
		        done == total ? "\n" : "");
	}
	return interrupted;
}

/* ---- create, branch, resize ---- */

/* The size that follows the file's name. */
static int size_argument(const char *text, uint64_t *bytes, struct error *err)
{
	return parse_size("SIZE", text, bytes, err) ?
	       error_set(err, -EINVAL, "'%s': a size is a number with K, M, G or T (M if there is none)", text) : 0;
}

static int create(void *command)
{
	struct disk_command *c = command;
	struct disk_create_options o = {.format = c->format, .cluster_bytes = c->cluster_bytes,
					.refcount_bits = (unsigned)c->refcount_bits};
	struct error err = {0};

	if (size_argument(c->a.arg[1], &o.bytes, &err))
		return fail(&err);
	return disk_create(c->a.arg[0], &o, &err) ? fail(&err) : CLI_OK;
}

static int branch(void *command)
{
	struct disk_command *c = command;
	struct error err = {0};

	return disk_branch(c->a.arg[0], c->a.arg[1], &err) ? fail(&err) : CLI_OK;
}

static int resize(void *command)
{
	struct disk_command *c = command;
	struct error err = {0};
	struct disk *d;
	uint64_t bytes;
	int ret;

	if (size_argument(c->a.arg[1], &bytes, &err))
		return fail(&err);
	if (disk_open(&d, c->a.arg[0], NULL, &err))
		return fail(&err);
	ret = disk_resize(d, bytes, &err);
	return finish(d, ret, &err);
}

/* ---- info and list ---- */

static json_t *snapshots_json(const struct disk_snapshot *s, unsigned count)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < count; i++) {
		json_t *o = json_object();

		put_string(o, "id", s[i].id);
		put_string(o, "name", s[i].name);
		put(o, "seconds", s[i].seconds);
		put(o, "virtual_bytes", s[i].disk_bytes);
		put(o, "vm_state_bytes", s[i].vm_state_bytes);
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *info_json(struct disk *d, const struct disk_info *i, const struct disk_snapshot *s, unsigned count)
{
	json_t *o = json_object();

	put_string(o, "file", disk_path(d));
	put_string(o, "format", disk_format_name(i->format));
	put(o, "virtual_bytes", i->bytes);
	put(o, "file_bytes", i->file_bytes);
	put(o, "host_bytes", i->host_bytes);
	if (i->format != DISK_FORMAT_QCOW2)
		return o;
	put(o, "version", i->version);
	put(o, "cluster_bytes", i->cluster_bytes);
	put(o, "refcount_bits", i->refcount_bits);
	put_string(o, "compression", i->zstd ? "zstd" : "zlib");
	put_bool(o, "lazy_refcounts", i->lazy_refcounts);
	put_bool(o, "subclusters", i->subclusters);
	put_bool(o, "dirty", i->dirty);
	put_bool(o, "corrupt", i->corrupt);
	put_string(o, "backing_file", i->backing);
	put_string(o, "backing_format", i->backing_format);
	json_object_set_new(o, "snapshots", snapshots_json(s, count));
	return o;
}

static void print_snapshots(const struct disk_snapshot *s, unsigned count, const char *indent)
{
	char size[32], time[32];

	for (unsigned i = 0; i < count; i++) {
		human_bytes(s[i].disk_bytes, size);
		human_time((int64_t)s[i].seconds, time);
		printf("%s%-4s %-24s %s  %s\n", indent, s[i].id, s[i].name, time, size);
	}
}

static void print_info(struct disk *d, const struct disk_info *i, const struct disk_snapshot *s, unsigned count)
{
	char virtual[32], host[32], cluster[32];

	human_bytes(i->bytes, virtual);
	human_bytes(i->host_bytes, host);
	human_bytes(i->cluster_bytes, cluster);
	printf("file           %s\nformat         %s\nvirtual size   %s (%" PRIu64
	       " bytes)\nroom it takes  %s\n",
	       disk_path(d), disk_format_name(i->format), virtual, i->bytes, host);
	if (i->format != DISK_FORMAT_QCOW2)
		return;
	printf("clusters       %s, refcounts of %u bits, version %u\n", cluster, i->refcount_bits, i->version);
	if (i->backing)
		printf("above          %s (%s)\n", i->backing,
		       i->backing_format ? i->backing_format : "format not said");
	if (i->lazy_refcounts || i->subclusters || i->zstd)
		printf("features      %s%s%s\n", i->lazy_refcounts ? " lazy refcounts" : "",
		       i->subclusters ? " subclusters" : "", i->zstd ? " zstd" : "");
	if (i->dirty || i->corrupt)
		printf("state          %s\n", i->corrupt ? "marked as corrupt" : "not closed in order");
	if (count)
		puts("snapshots");
	print_snapshots(s, count, "  ");
}

/* An image by itself, even if somebody writes it. */
static const struct disk_options look = {.read_only = true, .no_lock = true, .alone = true};

static int info(void *command)
{
	struct disk_command *c = command;
	struct disk_snapshot *s = NULL;
	struct error err = {0};
	struct disk_info i;
	struct disk *d;
	unsigned count = 0;
	int ret;

	if (disk_open(&d, c->a.arg[0], &look, &err))
		return fail(&err);
	ret = disk_info(d, &i, &err);
	if (!ret)
		ret = disk_snapshots(d, &s, &count, &err);
	if (!ret && c->json)
		print_json(info_json(d, &i, s, count));
	else if (!ret)
		print_info(d, &i, s, count);
	if (!ret)
		disk_snapshots_free(s, count);
	return finish(d, ret, &err);
}

/* One image of a chain, @depth above its root; @json: array to append to, or NULL. */
static int list_one(struct disk *d, unsigned depth, json_t *json, struct error *err)
{
	struct disk_snapshot *s = NULL;
	struct disk_info i;
	char size[32], room[32], indent[80];
	unsigned count = 0;
	int ret = disk_info(d, &i, err), n;

	if (!ret)
		ret = disk_snapshots(d, &s, &count, err);
	if (ret)
		return ret;
	if (json)
		json_array_append_new(json, info_json(d, &i, s, count));
	human_bytes(i.bytes, size);
	human_bytes(i.host_bytes, room);
	n = (int)(depth > 12 ? 12 : depth) * 4;
	snprintf(indent, sizeof(indent), "%*s  @ ", n, "");
	if (!json) {
		printf("%*s%s%s  (%s, %s, takes %s)\n", n > 4 ? n - 4 : 0, "", depth ? "`-- " : "", disk_path(d),
		       disk_format_name(i.format), size, room);
		print_snapshots(s, count, indent);
	}
	disk_snapshots_free(s, count);
	return 0;
}

/* The root first. */
static int list_chain(struct disk *d, unsigned *depth, json_t *json, struct error *err)
{
	int ret = disk_backing(d) ? list_chain(disk_backing(d), depth, json, err) : 0;

	return ret ? ret : list_one(d, (*depth)++, json, err);
}

static int list(void *command)
{
	struct disk_command *c = command;
	json_t *json = c->json ? json_array() : NULL;
	const struct disk_options o = {.read_only = true, .no_lock = true};
	struct error err = {0};
	unsigned depth = 0;
	struct disk *d;
	int ret;

	if (disk_open(&d, c->a.arg[0], &o, &err)) {
		json_decref(json);
		return fail(&err);
	}
	ret = list_chain(d, &depth, json, &err);
	if (!ret && json)
		print_json(json);
	else
		json_decref(json);
	return finish(d, ret, &err);
}

/* ---- snapshot ---- */

static int snapshot_list(struct disk_command *c)
{
	struct disk_snapshot *s = NULL;
	struct error err = {0};
	struct disk *d;
	unsigned count = 0;
	int ret;

	if (disk_open(&d, c->a.arg[1], &look, &err))
		return fail(&err);
	ret = disk_snapshots(d, &s, &count, &err);
	if (!ret && c->json)
		print_json(snapshots_json(s, count));
	else if (!ret)
		print_snapshots(s, count, "");
	if (!ret)
		disk_snapshots_free(s, count);
	return finish(d, ret, &err);
}

static int snapshot(void *command)
{
	struct disk_command *c = command;
	static const struct {
		const char *name;
		int (*f)(struct disk *d, const char *name, struct error *err);
	} what[] = {{"take", disk_snapshot_take}, {"apply", disk_snapshot_apply}, {"delete", disk_snapshot_delete}};
	struct error err = {0};
	struct disk *d;
	int ret;

	if (strcmp(c->a.arg[0], "list") == 0 && c->a.args == 2)
		return snapshot_list(c);
	for (unsigned i = 0; i < sizeof(what) / sizeof(*what) && c->a.args == 3; i++) {
		if (strcmp(c->a.arg[0], what[i].name) != 0)
			continue;
		if (disk_open(&d, c->a.arg[1], NULL, &err))
			return fail(&err);
		ret = what[i].f(d, c->a.arg[2], &err);
		return finish(d, ret, &err);
	}
	error_set(&err, -EINVAL, "snapshot: take|apply|delete FILE NAME, or list FILE (see gnomon disk --help)");
	return fail(&err);
}

/* ---- commit, absorb and convert ---- */

static int merge(struct disk_command *c, bool down)
{
	const struct disk_options o = {.backing_writable = down};
	struct shown shown = {0};
	const struct disk_progress p = {show_progress, &shown};
	struct error err = {0};
	struct disk *d;
	int ret;

	catch_signals();
	if (disk_open(&d, c->a.arg[0], &o, &err))
		return fail(&err);
	ret = (down ? disk_commit : disk_absorb)(d, &p, &err);
	return finish(d, ret, &err);
}

static int commit(void *command) { return merge(command, true); }
static int absorb(void *command) { return merge(command, false); }

/* Copies to an image that was just made. */
static int fill(struct disk *from, const char *path, enum disk_format format, struct error *err)
{
	const struct disk_options o = {.format = format};
	struct shown shown = {0};
	const struct disk_progress p = {show_progress, &shown};
	struct disk *to;
	int ret = disk_open(&to, path, &o, err), closed;

	if (ret)
		return ret;
	ret = disk_copy(from, to, &p, err);
	closed = disk_close(to, ret ? NULL : err);
	return ret ? ret : closed;
}

static int convert(void *command)
{
	struct disk_command *c = command;
	struct disk_create_options o = {.format = c->format ? c->format : DISK_FORMAT_QCOW2,
	                                .cluster_bytes = c->cluster_bytes};
	const struct disk_options read_only = {.read_only = true};
	struct error err = {0};
	struct disk *from;
	int ret;

	catch_signals();
	if (disk_open(&from, c->a.arg[0], &read_only, &err))
		return fail(&err);
	o.bytes = o.format == DISK_FORMAT_RAW ? disk_bytes(from) : (disk_bytes(from) + 511) & ~511ull;
	ret = disk_create(c->a.arg[1], &o, &err);
	if (!ret) {
		ret = fill(from, c->a.arg[1], o.format, &err);
		if (ret)
			unlink(c->a.arg[1]);
	}
	return finish(from, ret, &err);
}

/* ---- check ---- */

static void print_finding(void *ctx, const char *text)
{
	(void)ctx;
	fprintf(stderr, "%s\n", text);
}

static void print_check(const struct disk_check *c, const char *path)
{
	if (c->fixed_errors || c->fixed_leaks)
		printf("%s: repaired %" PRIu64 " errors, and %" PRIu64 " lost clusters are free\n", path,
		       c->fixed_errors, c->fixed_leaks);
	if (c->errors)
		printf("%s: damaged: %" PRIu64 " errors, %" PRIu64 " lost clusters\n", path, c->errors, c->leaks);
	else if (c->leaks)
		printf("%s: data in order; %" PRIu64 " clusters are lost (--repair leaks)\n", path, c->leaks);
	else
		printf("%s: in order\n", path);
	if (c->marked_corrupt)
		printf("%s: marked as corrupt by whoever wrote it last\n", path);
	if (c->marked_dirty)
		printf("%s: marked as not closed in order\n", path);
}

static json_t *check_json(const struct disk_check *c, const char *path)
{
	json_t *o = json_object();

	put_string(o, "file", path);
	put(o, "errors", c->errors);
	put(o, "leaks", c->leaks);
	put(o, "fixed_errors", c->fixed_errors);
	put(o, "fixed_leaks", c->fixed_leaks);
	put(o, "data_clusters", c->data_clusters);
	put(o, "compressed_clusters", c->compressed_clusters);
	put(o, "table_clusters", c->table_clusters);
	put(o, "end", c->end);
	put_bool(o, "marked_dirty", c->marked_dirty);
	put_bool(o, "marked_corrupt", c->marked_corrupt);
	return o;
}

static int check(void *command)
{
	struct disk_command *c = command;
	const struct disk_options o = {.read_only = c->repair == DISK_REPAIR_NONE, .alone = true,
				       .repair = c->repair != DISK_REPAIR_NONE};
	struct disk_check k = {.say = c->json ? NULL : print_finding};
	struct error err = {0};
	struct disk *d;
	int ret;

	if (disk_open(&d, c->a.arg[0], &o, &err))
		return fail(&err);
	ret = disk_check(d, c->repair, &k, &err);
	if (!ret && c->json)
		print_json(check_json(&k, c->a.arg[0]));
	else if (!ret)
		print_check(&k, c->a.arg[0]);
	ret = finish(d, ret, &err);
	return ret ? ret : k.errors ? CLI_DAMAGED : k.leaks ? CLI_LEAKS : CLI_OK;
}

/* ---- bench ---- */

static int bench(void *command)
{
	struct disk_command *c = command;
	const struct disk_options o = {.read_only = !c->bench.write};
	struct error err = {0};
	struct disk *d;
	double seconds;
	int ret;

	if (disk_open(&d, c->a.arg[0], &o, &err))
		return fail(&err);
	ret = disk_bench_run(&c->bench, d, &seconds, &err);
	if (!ret)
		disk_bench_print(&c->bench, d, seconds, c->bench.json);
	return finish(d, ret, &err);
}

/* ---- verbs ---- */

static const struct verb verbs[] = {
        {"create", "FILE SIZE", "make an empty image", 2, 2, create_options, create},
        {"branch", "BASE OVERLAY", "make an image that begins as BASE is, at once and whatever its size", 2,
         2, no_options, branch},
        {"info", "FILE", "what an image is", 1, 1, json_options, info},
        {"list", "FILE", "an image and those below it, with their snapshots", 1, 1, json_options, list},
        {"snapshot", "take|apply|delete FILE NAME; snapshot list FILE",
         "keep the contents under a name, go back to them, forget them", 2, 3, json_options, snapshot},
        {"commit", "OVERLAY", "write what an image has itself into the one below it", 1, 1, no_options,
         commit},
        {"absorb", "OVERLAY", "take over what the image below has, and stand on what that one stands on", 1, 1, no_options,
         absorb},
        {"check", "FILE", "is an image consistent? Repairs it if asked to", 1, 1, check_options, check},
        {"resize", "FILE SIZE", "make a disk larger", 2, 2, no_options, resize},
        {"convert", "FILE NEW-FILE", "copy what a disk has to a new image", 2, 2, convert_options, convert},
        {"bench", "FILE", "measure reading or writing", 1, 1, disk_bench_options, bench},
};

static const struct verb_command command = {"disk", verbs, ARRAY_SIZE(verbs), NULL};

static void help(FILE *out)
{
	fputs("Usage: gnomon disk VERB ...\n\nDisk images, qcow2 and raw, for 'gnomon run --disk'.\n\n", out);
	verb_list(&command, out);
	fputs("\n'gnomon disk VERB --help' has the options. A size is a number with K, M, G or T (M if there "
	      "is none).\n"
	      "An image that somebody writes, also QEMU, is refused to everybody else; only info, list and\n"
	      "'snapshot list' look at it nevertheless.\n\n"
	      "Exit status: 0; 2 if the request or an image makes no sense, or an image is in use; 10 if the "
	      "host\n"
	      "fails; 130 if interrupted (nothing is broken: images are as before, or a commit can be done "
	      "again).\n"
	      "check: 0 if all is in order, 14 if only clusters are lost, 16 if the image is damaged.\n",
	      out);
}

static int disk_command(int argc, char **argv)
{
	struct disk_command c = {.bench = disk_bench_default};
	int status;
	const struct verb *v = verb_find(&command, argc, argv, help, fail, &status);

	if (!v)
		return status;
	return verb_run(&command, v, argc, argv, &c, v->options == disk_bench_options ? (void *)&c.bench : &c, fail);
}

const struct command cmd_disk = {"disk", "make, snapshot, branch and check disk images", disk_command, help};
