/* gnomon checkpoint: takes checkpoints of a running VM, lists, shows, restores and deletes them. Restoring is resuming. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "base/state.h"
#include "cli/cli.h"
#include "cli/vm_client.h"
#include "vm/checkpoint_store.h"
#include "vm/vm_state.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define ARGS_MAX 2
#define POLL_MS  20
#define NAME_TEXT (NAME_MAX + 5)

struct checkpoint_command {
	const char *arg[ARGS_MAX];
	bool full, json;
	uint64_t compress;
	const char *dirty; /* NULL: the best there is */
};

/* ---- options ---- */

static int set_full(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct checkpoint_command *)ctx)->full = true;
	return 0;
}

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct checkpoint_command *)ctx)->json = true;
	return 0;
}

static int set_compress(void *ctx, const char *v, struct error *err)
{
	return parse_count("compress", v, &((struct checkpoint_command *)ctx)->compress, err);
}

static int set_dirty(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct checkpoint_command *)ctx)->dirty = v;
	return 0;
}

static const struct option_desc no_options[] = {{0}};
static const struct option_desc list_options[] = {{"json", NULL, "print JSON", set_json}, {0}};
static const struct option_desc take_options[] = {
	{"full", NULL, "all of memory, on no parent", set_full},
	{"dirty", "TRACKER", "how written pages are found out from now on: wp, present, ad, pml\n"
			     "(default: pml under ept, else wp)", set_dirty},
	{"compress", "N", "compress memory with zstd at level N, 1 to 19 (default: not)", set_compress},
	{0},
};

/* ---- take ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

static long long number(const json_t *o, const char *key) { return (long long)json_integer_value(json_object_get(o, key)); }

/* Asks until the VM has written it. Ctrl-C has it stopped; then nothing is left of the file. */
static int follow(struct vm_client *c, json_t **job, struct error *err)
{
	bool told = false;
	int ret;

	for (;;) {
		const char *status;

		ret = vm_client_call(c, "query-checkpoint", NULL, job, err);
		if (ret)
			return ret;
		status = json_string_value(json_object_get(*job, "status"));
		if (!status || strcmp(status, "running") != 0)
			return 0;
		json_decref(*job);
		if (interrupted && !told) {
			json_t *answer;

			ret = vm_client_call(c, "cancel-job", json_pack("{s:s}", "kind", "checkpoint"), &answer, err);
			if (ret)
				return ret;
			json_decref(answer);
			told = true;
		}
		usleep(POLL_MS * 1000);
	}
}

static void print_taken(const char *file, const json_t *taken, const json_t *progress)
{
	const char *because = json_string_value(json_object_get(taken, "full_because"));
	char bytes[32];

	human_bytes((uint64_t)number(progress, "bytes"), bytes);
	printf("%s: %s, %lld pages, %s; the VM stood still for %.1f ms, written in %.2f s\n", file,
	       json_is_true(json_object_get(taken, "incremental")) ? "incremental" : "full", number(progress, "pages"),
	       bytes, (double)number(progress, "pause_us") / 1e3, (double)number(progress, "total_us") / 1e6);
	if (because && *because)
		printf("  full because %s\n", because);
}

static int finish_take(const char *file, const json_t *taken, const json_t *job, struct error *err)
{
	const char *status = json_string_value(json_object_get(job, "status"));

	if (status && !strcmp(status, "completed")) {
		print_taken(file, taken, json_object_get(job, "progress"));
		return 0;
	}
	if (status && !strcmp(status, "cancelled"))
		return error_set(err, -EINTR, "stopped: there is no checkpoint");
	status = json_string_value(json_object_get(job, "error"));
	return error_set(err, -EREMOTEIO, "%.400s", status ? status : "it failed, and the VM does not say why");
}

/* A VM that ends completes its checkpoint first; then it is gone, and can say no more. */
static bool is_written(const char *file, const json_t *taken)
{
	const char *id = json_string_value(json_object_get(taken, "id"));
	struct saved *s;
	struct error err;
	bool same;

	if (!id || saved_open(&s, file, &err))
		return false;
	same = !strcmp(saved_info(s)->id, id);
	saved_close(s);
	return same;
}

static int take_and_follow(struct vm_client *client, const struct checkpoint_command *c, struct error *err)
{
	char *path = absolute_path(c->arg[1]);
	json_t *args, *taken, *job;
	int ret;

	if (!path)
		return error_set(err, -ENOMEM, "out of memory");
	args = json_pack("{s:s, s:b, s:I, s:s*}", "file", path, "full", c->full, "compress", (json_int_t)c->compress,
			 "dirty", c->dirty);
	free(path);
	if (!args)
		return error_set(err, -EINVAL, "the name of FILE is not text in UTF-8");
	ret = vm_client_call(client, "checkpoint", args, &taken, err);
	if (ret)
		return ret;
	ret = follow(client, &job, err);
	if (!ret) {
		ret = finish_take(c->arg[1], taken, job, err);
		json_decref(job);
	} else if (ret == -EPIPE && is_written(c->arg[1], taken)) {
		printf("%s: written; the VM has ended\n", c->arg[1]);
		ret = 0;
	}
	json_decref(taken);
	return ret;
}

static int take(const struct checkpoint_command *c, struct error *err)
{
	const struct sigaction sa = {.sa_handler = on_signal};
	struct vm_client client;
	int ret = vm_client_open(&client, c->arg[0], err);

	if (ret)
		return ret;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	ret = take_and_follow(&client, c, err);
	vm_client_close(&client);
	return ret;
}

/* ---- list ---- */

/* Would it command a terminal instead of being shown? */
static bool is_control(const char *c)
{
	unsigned char first = (unsigned char)c[0], second = (unsigned char)c[1];

	return first < ' ' || first == 0x7f || (first == 0xc2 && second < 0xa0);
}

/* A name as text: what is no UTF-8 becomes '?', and for terminals what would command them. */
static void name_as_text(const char *name, bool plain, char text[NAME_TEXT])
{
	size_t n = 0;

	for (size_t bytes = 1; *name && n < NAME_MAX; name += bytes, n += bytes) {
		json_t *c = NULL;

		for (bytes = 0; !c && bytes < 4 && name[bytes];)
			c = json_stringn(name, ++bytes);
		if (!c || (plain && is_control(name))) {
			bytes = c ? bytes : 1;
			memset(text + n, '?', bytes);
		} else {
			memcpy(text + n, name, bytes);
		}
		json_decref(c);
	}
	text[n] = 0;
}

static json_t *entry_json(const struct checkpoint_entry *e)
{
	char name[NAME_TEXT];

	name_as_text(e->name, false, name);
	return json_pack("{s:s, s:s, s:s?, s:I, s:I, s:I, s:I, s:i, s:s?}", "name", name, "id", e->info.id, "parent",
			 e->parent, "seconds", (json_int_t)e->info.seconds, "instructions", (json_int_t)e->info.insns,
			 "memory", (json_int_t)e->info.memory, "bytes", (json_int_t)e->bytes, "disks",
			 (int)e->info.disks, "problem", e->problem);
}

static void print_json(const struct checkpoint_list *list)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < list->count; i++)
		json_array_append_new(all, entry_json(&list->entry[i]));
	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
}

static void print_entry(const struct checkpoint_entry *e, unsigned depth)
{
	char bytes[32], when[32], name[NAME_TEXT];

	name_as_text(e->name, true, name);
	human_bytes(e->bytes, bytes);
	human_time(e->info.seconds, when);
	printf("%*s%-*s  %-19s  %15" PRIu64 "  %10s  %s%s\n", (int)depth * 2, "", 28 - (int)depth * 2, name, when,
	       e->info.insns, bytes, e->info.kind == SAVED_SUSPENDED ? "suspended" : e->parent ? "incremental" : "full",
	       e->info.disks ? ", with disks" : "");
	if (e->problem)
		printf("%*s  ! %s\n", (int)depth * 2, "", e->problem);
}

/* Those that stand on @parent, each with what stands on it. Hops are bounded by depth. */
static void print_tree(const struct checkpoint_list *list, const char *parent, unsigned depth, bool *shown)
{
	for (unsigned i = 0; i < list->count; i++) {
		const struct checkpoint_entry *e = &list->entry[i];

		if (shown[i] || (parent ? !e->parent || strcmp(e->info.parent_id, parent) != 0 : e->parent != NULL))
			continue;
		shown[i] = true;
		print_entry(e, depth);
		if (*e->info.id)
			print_tree(list, e->info.id, depth < 10 ? depth + 1 : depth, shown);
	}
}

static void print_list(const struct checkpoint_list *list)
{
	bool *shown = calloc(list->count + 1, sizeof(*shown));

	if (!shown)
		return;
	printf("%-28s  %-19s  %15s  %10s\n", "name", "taken (UTC)", "instructions", "file");
	print_tree(list, NULL, 0, shown);
	for (unsigned i = 0; i < list->count; i++) /* whose parent is not there */
		if (!shown[i])
			print_entry(&list->entry[i], 0);
	free(shown);
}

static int list(const struct checkpoint_command *c, struct error *err)
{
	struct checkpoint_list all;
	int ret = checkpoint_list_read(&all, c->arg[0] ? c->arg[0] : ".", err);

	if (ret)
		return ret;
	if (c->json)
		print_json(&all);
	else if (all.count)
		print_list(&all);
	else
		printf("no checkpoints\n");
	checkpoint_list_free(&all);
	return 0;
}

/* ---- show ---- */

/* Through the parser: strings in it may be anything, and are printed escaped. */
static int print_json_section(const struct stream_section *s, struct error *err)
{
	json_t *o = json_loadb((const char *)s->data, s->bytes, 0, NULL);

	if (!o)
		return error_set(err, -EBADMSG, "section %s is no JSON", s->name);
	printf("%s: ", s->name);
	json_dumpf(o, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
	putchar('\n');
	json_decref(o);
	return 0;
}

static int print_section(void *ctx, const struct stream_section *s, struct error *err)
{
	(void)ctx;
	if (!strcmp(s->name, "saved") || !strcmp(s->name, VM_STATE_CONFIG))
		return print_json_section(s, err);
	printf("%s:\n", s->name);
	return state_print(s->data, s->bytes, 1, stdout, err);
}

static int show(const struct checkpoint_command *c, struct error *err)
{
	struct state_file *f;
	int ret = state_file_open(&f, c->arg[0], err);

	if (ret)
		return ret;
	ret = state_file_verify(f, err);
	if (!ret)
		ret = state_file_each(f, print_section, NULL, err);
	state_file_close(f);
	return ret;
}

/* ---- delete ---- */

static int stop_if_interrupted(void *ctx, uint64_t pages, uint64_t of)
{
	(void)ctx, (void)pages, (void)of;
	return interrupted;
}

static int delete(const struct checkpoint_command *c, struct error *err)
{
	const struct saved_progress progress = {.report = stop_if_interrupted};
	const struct sigaction sa = {.sa_handler = on_signal};
	unsigned children;
	int ret;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	ret = checkpoint_delete(c->arg[0], &progress, &children, err);
	if (!ret && children)
		printf("%s: deleted; %u %s what %s needed of it\n", c->arg[0], children,
		       children == 1 ? "checkpoint took over" : "checkpoints took over", children == 1 ? "it" : "they");
	return ret == -ECANCELED ? -EINTR : ret;
}

/* ---- verbs ---- */

static const struct verb {
	const char *name, *args, *summary;
	unsigned min, max;
	const struct option_desc *options;
	int (*run)(const struct checkpoint_command *c, struct error *err);
} verbs[] = {
	{"take", "SOCKET FILE", "write the state that a running VM has now to FILE, while it runs on", 2, 2, take_options, take},
	{"list", "[DIRECTORY]", "the saved VMs in a directory, and what stands on what", 0, 1, list_options, list},
	{"show", "FILE", "check a file, and print the state in it but for the memory", 1, 1, no_options, show},
	{"delete", "FILE", "delete a checkpoint; those that stand on it take over what they need", 1, 1, no_options, delete},
};

static void help_verb(FILE *out, const struct verb *v)
{
	const struct option_group groups[] = {{.title = "Options", .table = v->options}, {0}};

	fprintf(out, "Usage: gnomon checkpoint %s %s%s\n\n%c%s.\n", v->name, v->args,
		v->options->name ? " [OPTIONS]" : "", *v->summary - 'a' + 'A', v->summary + 1);
	if (v->options->name)
		options_help(out, groups);
}

static void help(FILE *out)
{
	fputs("Usage: gnomon checkpoint VERB ...\n\nStates of a running VM (gnomon run --control SOCKET), in files.\n\n", out);
	for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
		fprintf(out, "  %s %s\n            %s\n", verbs[i].name, verbs[i].args, verbs[i].summary);
	fputs("  restore FILE [OPTIONS]\n            run on from there: the same as gnomon resume FILE\n", out);
	fputs("\n'gnomon checkpoint VERB --help' has the options. The first checkpoint of a run holds all of\n"
	      "memory; each further one in the same directory only what was written since the one before,\n"
	      "on which it stands. 'gnomon resume FILE' runs on from any of them, as often as wanted.\n",
	      out);
	fputs(vm_client_exit_help, out);
}

static const struct verb *find_verb(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

static int run_verb(const struct verb *v, int argc, char **argv)
{
	struct checkpoint_command c = {.full = false};
	const struct option_group groups[] = {{.title = "Options", .table = v->options, .ctx = &c}, {0}};
	struct error err = {0};
	unsigned args = options_take_arguments(&argc, argv, groups, c.arg, ARGS_MAX);
	enum options_result parsed = options_parse(argc, argv, groups, &err);
	int ret = -EINVAL;

	if (parsed == OPTIONS_HELP) {
		help_verb(stdout, v);
		return CLI_OK;
	}
	if (parsed == OPTIONS_OK && (args < v->min || args > v->max))
		error_set(&err, ret, "usage: %s %s (see gnomon checkpoint --help)", v->name, v->args);
	else if (parsed == OPTIONS_OK)
		ret = v->run(&c, &err);
	if (ret)
		cli_error("checkpoint", err.text);
	return vm_client_status(ret);
}

static int checkpoint_command(int argc, char **argv)
{
	const struct verb *v = argc > 1 ? find_verb(argv[1]) : NULL;

	if (v)
		return run_verb(v, argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "restore") == 0)
		return cmd_resume.run(argc - 1, argv + 1);
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		help(stdout);
		return CLI_OK;
	}
	cli_error("checkpoint", argc > 1 ? "no such verb (see gnomon checkpoint --help)"
					 : "a verb is missing (see gnomon checkpoint --help)");
	return CLI_USAGE;
}

const struct command cmd_checkpoint = {"checkpoint", "states of a running VM in files: take, list, show, restore, delete",
				       checkpoint_command, help};
