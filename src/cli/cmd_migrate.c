/* gnomon migrate: asks a running VM, by its control socket, to move to another gnomon, and shows how that goes. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/cli.h"
#include "cli/vm_client.h"
#include "vm/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_US 200000u /* between two looks at the progress */

enum what { MOVE, STATUS, CANCEL, RECOVER, RESUME, MAKE_KEY };

struct migrate_command {
	enum what what;
	const char *key_file;
	json_t *args; /* of the control command "migrate" */
	struct transport_options transport;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

/* ---- options ---- */

static int put_text(void *ctx, const char *name, const char *v)
{
	json_object_set_new(((struct migrate_command *)ctx)->args, name, json_string(v));
	return 0;
}

static int put_flag(void *ctx, const char *name)
{
	json_object_set_new(((struct migrate_command *)ctx)->args, name, json_true());
	return 0;
}

static int put_number(void *ctx, const char *option, const char *name, const char *v, struct error *err)
{
	uint64_t n;
	int ret = parse_count(option, v, &n, err);

	if (ret == 0 && n > INT64_MAX)
		ret = error_set(err, -EINVAL, "--%s '%s': too large", option, v);
	if (ret == 0)
		json_object_set_new(((struct migrate_command *)ctx)->args, name, json_integer((json_int_t)n));
	return ret;
}

static int set_precopy(void *c, const char *v, struct error *e)
{
	(void)v, (void)e;
	return put_text(c, "mode", "precopy");
}
static int set_postcopy(void *c, const char *v, struct error *e)
{
	(void)v, (void)e;
	return put_text(c, "mode", "postcopy");
}
static int set_stop(void *c, const char *v, struct error *e) { (void)v, (void)e; return put_text(c, "mode", "stop"); }
static int set_hybrid(void *c, const char *v, struct error *e)
{
	put_text(c, "mode", "hybrid");
	return put_number(c, "hybrid", "rounds", v, e);
}
static int set_rounds(void *c, const char *v, struct error *e) { return put_number(c, "rounds", "rounds", v, e); }
static int set_dirty(void *c, const char *v, struct error *e) { (void)e; return put_text(c, "dirty", v); }
static int set_downtime(void *c, const char *v, struct error *e)
{
	return put_number(c, "downtime-limit", "downtime_ms", v, e);
}
static int set_compress(void *c, const char *v, struct error *e) { return put_number(c, "compress", "compress", v, e); }
static int set_converge(void *c, const char *v, struct error *e)
{
	(void)v, (void)e;
	return put_flag(c, "auto_converge");
}
static int set_strict(void *c, const char *v, struct error *e) { (void)v, (void)e; return put_flag(c, "strict"); }
static int set_disks(void *c, const char *v, struct error *e) { (void)v, (void)e; return put_flag(c, "disks"); }
static int set_verify(void *c, const char *v, struct error *e) { (void)v, (void)e; return put_flag(c, "verify"); }

static int set_bandwidth(void *ctx, const char *v, struct error *err)
{
	uint64_t bytes;
	int ret = parse_size("bandwidth", v, &bytes, err);

	if (ret == 0 && bytes > INT64_MAX)
		ret = error_set(err, -EINVAL, "--bandwidth '%s': too large", v);
	if (ret == 0)
		json_object_set_new(((struct migrate_command *)ctx)->args, "bandwidth",
				    json_integer((json_int_t)bytes));
	return ret;
}

static int set_what(void *ctx, enum what what, struct error *err)
{
	struct migrate_command *c = ctx;

	if (c->what != MOVE)
		return error_set(err, -EINVAL, "one of --status, --cancel, --recover, --resume, --make-key at a time");
	c->what = what;
	return 0;
}

static int set_status(void *c, const char *v, struct error *err) { (void)v; return set_what(c, STATUS, err); }
static int set_cancel(void *c, const char *v, struct error *err) { (void)v; return set_what(c, CANCEL, err); }
static int set_recover(void *c, const char *v, struct error *err) { (void)v; return set_what(c, RECOVER, err); }
static int set_resume(void *c, const char *v, struct error *err) { (void)v; return set_what(c, RESUME, err); }
static int set_make_key(void *ctx, const char *v, struct error *err)
{
	((struct migrate_command *)ctx)->key_file = v;
	return set_what(ctx, MAKE_KEY, err);
}

static const struct option_desc migrate_options[] = {
	{"precopy", NULL,
	 "copy memory while the VM runs, what it writes again and again; then stop it for\nthe rest (default)",
	 set_precopy},
	{"postcopy", NULL, "move at once; memory follows, what the VM touches first", set_postcopy},
	{"hybrid", "N", "N rounds of pre-copy, then post-copy", set_hybrid},
	{"stop", NULL, "the VM stands still while all is copied", set_stop},
	{"downtime-limit", "MS", "stop the VM when it will take no longer than that (default 300)", set_downtime},
	{"rounds", "N", "of pre-copy at most (default 30)", set_rounds},
	{"strict", NULL, "after that give up, instead of stopping the VM for longer", set_strict},
	{"auto-converge", NULL, "hold the VM back if it writes faster than can be sent", set_converge},
	{"dirty", "HOW", "how written pages are found: wp, present, ad, pml (default: the cheapest)", set_dirty},
	{"with-disks", NULL, "copy the disks, too, while the VM uses them; to gnomon serve --disks", set_disks},
	{"bandwidth", "SIZE", "bytes a second while the VM runs (default: no cap)", set_bandwidth},
	{"compress", "N", "with zstd, level 1 to 19", set_compress},
	{"verify", NULL,
	 "run there only if a hash of memory and registers is the same; takes time while it\nstands still", set_verify},
	{0},
};

static const struct option_desc other_options[] = {
	{"status", NULL, "say how a migration goes, or went, and change nothing", set_status},
	{"cancel", NULL, "the VM stays; impossible once it was told to run there", set_cancel},
	{"recover", NULL, "after a connection was lost for long: try again to reach the other end (at ADDRESS)",
	 set_recover},
	{"resume", NULL, "the VM goes on here after such a loss: you made sure that it does not run there", set_resume},
	{"make-key", "FILE", "make a key for both ends, and nothing else", set_make_key},
	{0},
};

static void help(FILE *out)
{
	const struct option_group groups[] = {
		{.title = "Migration", .table = migrate_options},
		{.title = "Connection", .table = transport_options},
		{.title = "Instead of a migration", .table = other_options},
		{0},
	};

	fputs("Usage: gnomon migrate SOCKET ADDRESS [OPTIONS]\n"
	      "       gnomon migrate SOCKET --status | --cancel | --recover [ADDRESS] | --resume\n"
	      "       gnomon migrate --make-key FILE\n\n"
	      "Moves a running VM to the gnomon serve at ADDRESS, tcp:HOST:PORT. SOCKET is what the run was given as\n"
	      "--control. Whatever fails, the VM runs at one end and not at the other; if that cannot be known, it is\n"
	      "paused here until it can. An interrupted command cancels the migration.\n",
	      out);
	options_help(out, groups);
	fputs(vm_client_exit_help, out);
}

/* ---- showing ---- */

static int64_t number(const json_t *o, const char *name) { return json_integer_value(json_object_get(o, name)); }
static const char *word(const json_t *o, const char *name)
{
	const char *text = json_string_value(json_object_get(o, name));

	return text ? text : "";
}

static void show(const json_t *o, bool terminal)
{
	char rate[32], bytes[32];

	human_bytes((uint64_t)number(o, "bytes_per_second"), rate);
	human_bytes((uint64_t)number(o, "bytes"), bytes);
	fprintf(stderr, "%s%s: round %lld, %lld of %lld pages to go, %s sent", terminal ? "\r\033[K" : "",
		word(o, "phase"), (long long)number(o, "round"), (long long)number(o, "left"),
		(long long)number(o, "pages"), bytes);
	if (number(o, "bytes_per_second"))
		fprintf(stderr, ", %s/s, %lld pages/s written, downtime now %.1f ms", rate,
			(long long)number(o, "dirty_pages_per_second"),
			(double)number(o, "expected_downtime_us") / 1000);
	if (number(o, "throttle"))
		fprintf(stderr, ", held back %lld %%", (long long)number(o, "throttle"));
	if (number(o, "demanded"))
		fprintf(stderr, ", %lld pages asked for", (long long)number(o, "demanded"));
	if (!terminal)
		fputc('\n', stderr);
}

/* @o: an answer of query-migrate, or the progress of the job */
static void show_end(const json_t *o)
{
	uint64_t first_us = (uint64_t)number(o, "first_round_us");
	char bytes[32], rate[32];

	human_bytes((uint64_t)number(o, "bytes"), bytes);
	printf("moved in %.3f s, of which the VM stood still for %.1f ms; %lld pages (%lld of zeros, %lld asked for), "
	       "%s\n",
	       (double)number(o, "total_us") / 1e6, (double)number(o, "downtime_us") / 1000,
	       (long long)number(o, "sent"), (long long)number(o, "zero"), (long long)number(o, "demanded"), bytes);
	if (!first_us)
		return;
	human_bytes((uint64_t)number(o, "first_round_bytes"), bytes);
	human_bytes((uint64_t)((double)number(o, "first_round_bytes") * 1e6 / (double)first_us), rate);
	printf("first round: %s of pages in %.3f s, %s/s\n", bytes, (double)first_us / 1e6, rate);
}

/* ---- following it ---- */

struct watcher {
	struct vm_client client;
	json_t *end; /* the event of the job's end; NULL: it has not come */
	bool terminal, cancelled;
};

static void take_event(void *ctx, const json_t *event)
{
	struct watcher *w = ctx;
	json_t *data = json_object_get(event, "data");

	if (strcmp(word(event, "event"), "JOB") != 0 || strcmp(word(data, "kind"), "migrate") != 0 ||
	    strcmp(word(data, "status"), "running") == 0)
		return;
	json_decref(w->end);
	w->end = json_incref(data);
}

/* After the VM has moved its process ends, perhaps before we asked: then its last words tell. */
static void hear_last_words(struct watcher *w)
{
	struct error err;
	json_t *o;

	while (!w->end && (o = vm_client_receive(&w->client, &err)) != NULL) {
		if (json_object_get(o, "event"))
			take_event(w, o);
		json_decref(o);
	}
}

static int conclude(struct watcher *w, struct error *err)
{
	const char *status = word(w->end, "status");

	if (w->terminal)
		fputs("\r\033[K", stderr);
	if (strcmp(status, "completed") == 0) {
		show_end(json_object_get(w->end, "progress"));
		return 0;
	}
	if (strcmp(status, "cancelled") == 0)
		return error_set(err, w->cancelled ? -EINTR : -EREMOTEIO, "cancelled: the VM stays where it is");
	return error_set(err, -EREMOTEIO, "%.450s", word(w->end, "error"));
}

static void cancel(struct watcher *w)
{
	struct error err = {0};
	json_t *answer;

	w->cancelled = true;
	if (vm_client_call(&w->client, "migrate-cancel", NULL, &answer, &err) == 0)
		json_decref(answer);
}

static int follow(struct watcher *w, struct error *err)
{
	json_t *o;
	int ret = 0;

	for (unsigned n = 0; ret == 0 && !w->end; n++) {
		if (interrupted && !w->cancelled)
			cancel(w);
		ret = vm_client_call(&w->client, "query-migrate", NULL, &o, err);
		if (ret == 0 && strcmp(word(o, "status"), "running") == 0 && (w->terminal || n % 25 == 10))
			show(o, w->terminal);
		if (ret == 0)
			json_decref(o);
		if (ret == 0 && !w->end)
			usleep(LOOK_US);
	}
	if (ret == -EPIPE)
		hear_last_words(w);
	return w->end ? conclude(w, err) : ret;
}

static int begin_and_follow(const char *socket, const char *command, json_t *args, struct error *err)
{
	const struct sigaction sa = {.sa_handler = on_signal};
	struct watcher w = {.terminal = isatty(STDERR_FILENO)};
	json_t *answer;
	int ret = vm_client_open(&w.client, socket, err);

	if (ret) {
		json_decref(args);
		return ret;
	}
	w.client.event = take_event;
	w.client.event_ctx = &w;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	ret = vm_client_call(&w.client, command, args, &answer, err);
	if (ret == 0) {
		json_decref(answer);
		json_decref(w.end); /* of an earlier one */
		w.end = NULL;
		ret = follow(&w, err);
	}
	json_decref(w.end);
	vm_client_close(&w.client);
	return ret;
}

/* ---- the command ---- */

/* Files are opened by the VM's process, which may have another current directory. */
static int put_path(json_t *args, const char *name, const char *path, struct error *err)
{
	char *absolute;

	if (!path)
		return 0;
	absolute = absolute_path(path);
	if (!absolute)
		return error_set(err, -ENOMEM, "out of memory");
	json_object_set_new(args, name, json_string(absolute));
	free(absolute);
	return 0;
}

static int put_transport(struct migrate_command *c, struct error *err)
{
	const struct transport_options *o = &c->transport;
	int ret = put_path(c->args, "psk", o->psk, err);

	if (ret == 0)
		ret = put_path(c->args, "ca", o->ca, err);
	if (ret == 0)
		ret = put_path(c->args, "cert", o->cert, err);
	if (ret == 0)
		ret = put_path(c->args, "key", o->key, err);
	if (o->name)
		put_text(c, "name", o->name);
	if (o->plain)
		put_flag(c, "plain");
	if (o->stall_ms)
		json_object_set_new(c->args, "stall_ms", json_integer((json_int_t)o->stall_ms));
	if (o->recover_ms)
		json_object_set_new(c->args, "recover_ms", json_integer((json_int_t)o->recover_ms));
	return ret;
}

static int simple(const char *socket, const char *command, struct error *err)
{
	json_t *answer;
	int ret = vm_client_once(socket, command, NULL, &answer, err);

	if (ret == 0)
		json_decref(answer);
	return ret;
}

static int status(const char *socket, struct error *err)
{
	json_t *o;
	int ret = vm_client_once(socket, "query-migrate", NULL, &o, err);

	if (ret)
		return ret;
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
	return 0;
}

static int perform(struct migrate_command *c, const char **arg, unsigned args, struct error *err)
{
	const unsigned wanted = c->what == MAKE_KEY ? 0 : c->what == MOVE ? 2 : 1;
	struct transport_address a;
	int ret;

	if (args != wanted && !(c->what == RECOVER && args == 2))
		return error_set(err, -EINVAL, "%s (see gnomon migrate --help)",
				 c->what == MOVE ? "SOCKET and ADDRESS are wanted" : "arguments that make no sense");
	if (args == 2) {
		ret = transport_parse_address(arg[1], &a, err);
		if (ret)
			return ret;
		put_text(c, "to", arg[1]);
	}
	switch (c->what) {
	case MAKE_KEY:
		return transport_make_key(c->key_file, err);
	case STATUS:
		return status(arg[0], err);
	case CANCEL:
		return simple(arg[0], "migrate-cancel", err);
	case RESUME:
		return simple(arg[0], "migrate-resume", err);
	case RECOVER:
		return begin_and_follow(arg[0], "migrate-recover", json_incref(c->args), err);
	case MOVE:
		break;
	}
	ret = put_transport(c, err);
	return ret ? ret : begin_and_follow(arg[0], "migrate", json_incref(c->args), err);
}

static int migrate_command(int argc, char **argv)
{
	struct migrate_command c = {.what = MOVE, .args = json_object()};
	const struct option_group groups[] = {
		{.title = "Migration", .table = migrate_options, .ctx = &c},
		{.title = "Connection", .table = transport_options, .ctx = &c.transport},
		{.title = "Instead of a migration", .table = other_options, .ctx = &c},
		{0},
	};
	struct error err = {0};
	const char *arg[2];
	unsigned args = options_take_arguments(&argc, argv, groups, arg, ARRAY_SIZE(arg));
	enum options_result parsed = options_parse(argc, argv, groups, &err);
	int ret = -EINVAL;

	if (parsed == OPTIONS_OK)
		ret = perform(&c, arg, args, &err);
	json_decref(c.args);
	if (parsed == OPTIONS_HELP) {
		help(stdout);
		return CLI_OK;
	}
	if (ret)
		cli_error("migrate", err.text);
	return vm_client_status(ret);
}

const struct command cmd_migrate = {"migrate", "move a running VM to another gnomon", migrate_command, help};
