/*
 * gnomon compare: runs the same guest under several schemes side by side, each a
 * child process, and prints what each cost in one table.
 */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/cli.h"
#include "cli/jobs.h"
#include "cli/progress.h"
#include "lab/compare.h"
#include "lab/html.h"
#include "lab/report.h"
#include "vm/net.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKS_MAX    32
#define SCHEMES_MAX  16
#define FORWARD_MAX  64
#define CHILD_ARGS   (FORWARD_MAX + 16)

enum format { FORMAT_TABLE, FORMAT_JSON, FORMAT_CSV };

struct compare {
	struct vm_config cfg; /* what all runs have in common: for checking, and for --append */
	enum engine_mmu mmu[SCHEMES_MAX];
	unsigned schemes;
	char *work[WORKS_MAX]; /* NULL: none chosen, the guest decides */
	unsigned works;
	const char *forward[FORWARD_MAX]; /* options every child is given */
	unsigned forwards;
	const char *forward_resumed[FORWARD_MAX]; /* ... of them those that a child which resumes is given, too */
	unsigned forwards_resumed;
	char *forward_name[FORWARD_MAX];
	unsigned forward_names;
	enum format format;
	const char *logs;
	const char *html;            /* also write a page there; NULL: no */
	struct report_file html_file;
	uint64_t jobs_at_once;
	char *temp; /* directory of reports, error output and, without --logs, console logs */
	const char *from;    /* the runs begin where the guest has printed this; NULL: with the boot */
	struct jobs boots;   /* with from: a job a work, whose VMs the others resume */
	struct jobs jobs;
	struct progress progress;
};

/* Set by signals, read between intervals. */
static volatile sig_atomic_t interrupted;

static void on_end_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

/* ---- options ---- */

static int set_mmu(void *ctx, const char *v, struct error *err)
{
	struct compare *c = ctx;

	c->schemes = 0;
	for (const char *p = v;; p++) {
		size_t n = strcspn(p, ",");

		if (c->schemes == SCHEMES_MAX)
			return error_set(err, -EINVAL, "--mmu: more than %d schemes", SCHEMES_MAX);
		if (parse_mmu(p, n, &c->mmu[c->schemes], err))
			return -EINVAL;
		c->schemes++;
		p += n;
		if (!*p)
			return 0;
	}
}

/* NAME, NAME:N, NAME:N:M, NAME=N: becomes a word of the kernel command line and of file names. */
static char *copy_work(const char *p, size_t n, bool list, struct error *err)
{
	const char *allowed = list ? "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:=,"
				   : "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:=";
	char *w = strndup(p, n);

	if (w && (n == 0 || n > 100 || strspn(w, allowed) != n)) {
		error_set(err, -EINVAL, "--work '%s': not of the form NAME or NAME:N", w);
		free(w);
		return NULL;
	}
	for (char *eq = w ? strchr(w, '=') : NULL; eq; eq = strchr(eq, '='))
		*eq = ':';
	return w;
}

static int set_work(void *ctx, const char *v, struct error *err)
{
	struct compare *c = ctx;
	const char *separator = strchr(v, ';') ? ";" : ",";

	for (const char *p = v;; p++) {
		size_t n = strcspn(p, separator);

		if (c->works == WORKS_MAX)
			return error_set(err, -EINVAL, "--work: more than %d", WORKS_MAX);
		c->work[c->works] = copy_work(p, n, *separator == ';', err);
		if (!c->work[c->works])
			return -EINVAL;
		c->works++;
		p += n;
		if (!*p)
			return 0;
	}
}

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct compare *)ctx)->format = FORMAT_JSON;
	return 0;
}

static int set_csv(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct compare *)ctx)->format = FORMAT_CSV;
	return 0;
}

static int set_html(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct compare *)ctx)->html = v;
	return 0;
}

static int set_logs(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct compare *)ctx)->logs = v;
	return 0;
}

static int set_jobs(void *ctx, const char *v, struct error *err)
{
	struct compare *c = ctx;
	int ret = parse_count("jobs", v, &c->jobs_at_once, err);

	if (ret == 0 && (c->jobs_at_once == 0 || c->jobs_at_once > 256))
		return error_set(err, -EINVAL, "--jobs '%s': from 1 to 256", v);
	return ret;
}

static int set_from(void *ctx, const char *v, struct error *err)
{
	if (!*v)
		return error_set(err, -EINVAL, "--from '': a text is wanted");
	((struct compare *)ctx)->from = v;
	return 0;
}

static const struct option_desc compare_options[] = {
	{"mmu", "LIST", "schemes to compare, those of run (default native,brute,shadow,ept)", set_mmu},
	{"work", "LIST", "run the guest once for each: NAME[:N],...; adds gnomon.work=NAME:N to the\n"
			 "command line. With ';' between them, one may be a list of its own: a:1,b:2;c",
	 set_work},
	{"from", "TEXT", "boot once, natively, until the guest has printed TEXT, and compare from there on:\n"
			 "every run resumes the same VM", set_from},
	{"json", NULL, "print all reports and differences as JSON", set_json},
	{"csv", NULL, "print a line per run", set_csv},
	{"html", "FILE", "write a page of tables and charts, too, that needs nothing else to be shown or printed", set_html},
	{"logs", "DIR", "keep the guests' serial output, one file a run", set_logs},
	{"jobs", "N", "runs at a time (default: the processors there are)", set_jobs},
	{0},
};

/* Every run starts with the same disks: what a guest writes is thrown away. NULL: out of memory. */
static char *snapshot_of(const char *value)
{
	struct devices_disk disk;
	char *text;

	if (devices_parse_disk(value, &disk, NULL) || disk.read_only || disk.snapshot)
		return strdup(value);
	return asprintf(&text, "%s,snapshot", value) < 0 ? NULL : text;
}

static int forward_disk(struct compare *c, const char *value, struct error *err)
{
	char *disk = snapshot_of(value);

	if (!disk)
		return error_set(err, -ENOMEM, "out of memory");
	c->forward_name[c->forward_names++] = disk;
	c->forward[c->forwards++] = disk;
	c->cfg.devices.disk[c->cfg.devices.disks - 1] = disk;
	return 0;
}

/* Remembers what the children are to be given. */
static int forward(void *ctx, const struct option_desc *d, const char *value, struct error *err)
{
	struct compare *c = ctx;
	char *name;

	if (strcmp(d->name, "append") == 0)
		return 0; /* each child gets its own */
	if (c->forwards + 2 > FORWARD_MAX)
		return error_set(err, -EINVAL, "too many options");
	if (asprintf(&name, "--%s", d->name) < 0)
		return error_set(err, -ENOMEM, "out of memory");
	c->forward_name[c->forward_names++] = name;
	c->forward[c->forwards++] = name;
	if (guest_option_of_machine(d)) {
		c->forward_resumed[c->forwards_resumed++] = name;
		if (value)
			c->forward_resumed[c->forwards_resumed++] = value;
	}
	if (strcmp(d->name, "disk") == 0)
		return forward_disk(c, value, err);
	if (value)
		c->forward[c->forwards++] = value;
	return 0;
}

static void help(FILE *out)
{
	const struct option_group groups[] = {
		{.title = "Comparison", .table = compare_options},
		{.title = "Guest and machine", .table = guest_options},
		{0},
	};

	fputs("Usage: gnomon compare --kernel FILE [--mmu LIST] [--work LIST] [OPTIONS]\n\n"
	      "Runs the same guest under each scheme, as many at a time as there are processors, and\n"
	      "prints what each cost. Equal runs have the same end, instruction count and state hash.\n",
	      out);
	options_help(out, groups);
	fputs("\nExit status: 0 all runs agree, 1 they differ or one has no result, 2 bad options or input\n"
	      "(nothing was run), 10 failure of the host, 130 interrupted\n",
	      out);
}

/* Makes the guest once and throws it away, so that bad input is one message and not one a scheme. */
static int try_loading(const struct compare *c, struct error *err)
{
	struct vm *vm;
	int ret = vm_create(&vm, &c->cfg, err);

	if (ret == 0)
		vm_destroy(vm);
	return ret;
}

static bool has_network(const struct compare *c)
{
	struct net_config net;

	for (unsigned i = 0; i < c->cfg.devices.nets; i++)
		if (net_parse(c->cfg.devices.net[i], &net, NULL) || net.kind != NET_NONE)
			return true;
	return false;
}

static int check(struct compare *c, struct error *err)
{
	if (c->cfg.clock == VM_CLOCK_WALL)
		return error_set(err, -EINVAL, "--clock wall: such runs are never equal");
	if (guest_options_check(&c->cfg, err))
		return -EINVAL;
	if (has_network(c))
		return error_set(err, -EINVAL, "--net: runs with a network are never equal (none: a card without "
				 "a cable)");
	if (c->cfg.devices.console)
		return error_set(err, -EINVAL, "--virtio-console: one file for all runs makes no sense");
	if (c->from && c->cfg.devices.disks)
		return error_set(err, -EINVAL, "--from: not with --disk: every run would write the same disk");
	if (try_loading(c, err))
		return err->code;
	if (c->logs && mkdir(c->logs, 0777) && errno != EEXIST)
		return error_set(err, -errno, "--logs '%s': %s", c->logs, strerror(errno));
	if (c->logs && access(c->logs, W_OK | X_OK))
		return error_set(err, -errno, "--logs '%s': %s", c->logs, strerror(errno));
	return c->html ? report_file_open(&c->html_file, c->html, err) : 0;
}

/* ---- the jobs ---- */

static char *path_in(const char *dir, const char *work, const char *mmu, const char *suffix)
{
	char *p;

	return asprintf(&p, "%s/%s%s%s%s", dir, work ? work : "", work ? "-" : "", mmu, suffix) < 0 ? NULL : p;
}

/* A child's arguments as they are collected; what cannot be copied leaves a hole. */
struct arguments {
	char **argv;
	unsigned n;
};

static void add(struct arguments *a, const char *const *word, unsigned words)
{
	for (unsigned i = 0; i < words; i++)
		a->argv[a->n++] = strdup(word[i]);
}

/* The guest itself, and the work it is told of. */
static void add_guest(struct arguments *a, const struct compare *c, const char *work)
{
	char *append;

	add(a, c->forward, c->forwards);
	a->argv[a->n++] = strdup("--append");
	a->argv[a->n++] = asprintf(&append, "%s%s%s%s", c->cfg.append, work && *c->cfg.append ? " " : "",
				   work ? "gnomon.work=" : "", work ? work : "") < 0 ? NULL : append;
}

static bool complete(const struct arguments *a)
{
	for (unsigned i = 0; i < a->n; i++)
		if (!a->argv[i])
			return false;
	return true;
}

/* The arguments of one child. @saved: the VM that it resumes, or NULL: it boots */
static char **child_arguments(const struct compare *c, const struct job *j, const char *work, const char *saved)
{
	const char *own[] = {"--mmu", j->mmu, "--report", j->report, "--serial", j->log, "--progress-fd", "3"};
	struct arguments a = {.argv = calloc(CHILD_ARGS, sizeof(*a.argv))};

	if (!a.argv)
		return NULL;
	add(&a, (const char *const[]){"gnomon", saved ? "resume" : "run", saved}, saved ? 3 : 2);
	add(&a, own, ARRAY_SIZE(own));
	if (saved)
		add(&a, c->forward_resumed, c->forwards_resumed);
	else
		add_guest(&a, c, work);
	return complete(&a) ? a.argv : NULL;
}

/* ... of one that boots, and is suspended into @saved. */
static char **boot_arguments(const struct compare *c, const struct job *j, const char *work, const char *saved)
{
	const char *own[] = {"gnomon", "run", "--serial", j->log, "--progress-fd", "3", "--suspend", saved,
			     "--suspend-on", c->from};
	struct arguments a = {.argv = calloc(CHILD_ARGS, sizeof(*a.argv))};

	if (!a.argv)
		return NULL;
	add(&a, own, ARRAY_SIZE(own));
	add_guest(&a, c, work);
	return complete(&a) ? a.argv : NULL;
}

/* The files of a job. @suffix: what they are called besides the work */
static int name_files(const struct compare *c, struct job *j, const char *work, const char *suffix)
{
	j->report = path_in(c->temp, work, suffix, ".json");
	j->errors = path_in(c->temp, work, suffix, ".err");
	j->log = path_in(c->logs ? c->logs : c->temp, work, suffix, ".log");
	return j->report && j->errors && j->log ? 0 : -ENOMEM;
}

static int make_job(const struct compare *c, struct job *j, const char *work, enum engine_mmu mmu, const char *saved)
{
	*j = (struct job){.title = work ? work : "", .mmu = engine_mmu_name[mmu], .progress = -1};
	if (name_files(c, j, work, j->mmu))
		return -ENOMEM;
	j->argv = child_arguments(c, j, work, saved);
	return j->argv ? 0 : -ENOMEM;
}

/* A job whose "report" is the VM that it leaves behind. */
static int make_boot(const struct compare *c, struct job *j, const char *work)
{
	*j = (struct job){.title = work ? work : "", .mmu = "boot", .progress = -1};
	if (name_files(c, j, work, j->mmu))
		return -ENOMEM;
	j->argv = boot_arguments(c, j, work, j->report);
	return j->argv ? 0 : -ENOMEM;
}

static void job_free(const struct compare *c, struct job *j)
{
	for (char **a = j->argv; a && *a; a++)
		free(*a);
	free(j->argv);
	if (j->report)
		unlink(j->report);
	if (j->errors)
		unlink(j->errors);
	if (j->log && !c->logs)
		unlink(j->log);
	free(j->report);
	free(j->errors);
	free(j->log);
}

static unsigned compare_rows(const struct compare *c) { return c->works ? c->works : 1; }

/* The jobs of one work. */
static int make_row(struct compare *c, unsigned w)
{
	const char *work = c->works ? c->work[w] : NULL;
	int ret = 0;

	if (c->from)
		ret = make_boot(c, &c->boots.job[c->boots.count++], work);
	for (unsigned s = 0; s < c->schemes && !ret; s++)
		ret = make_job(c, &c->jobs.job[c->jobs.count++], work, c->mmu[s],
			       c->from ? c->boots.job[w].report : NULL);
	return ret;
}

static int make_jobs(struct compare *c, struct error *err)
{
	const char *tmp = getenv("TMPDIR");

	if (asprintf(&c->temp, "%s/gnomon-XXXXXX", tmp && *tmp ? tmp : "/tmp") < 0) {
		c->temp = NULL;
		return error_set(err, -ENOMEM, "out of memory");
	}
	if (!mkdtemp(c->temp)) {
		error_set(err, -errno, "temporary directory '%s': %s", c->temp, strerror(errno));
		free(c->temp);
		c->temp = NULL;
		return err->code;
	}
	c->jobs.limit = c->boots.limit = c->jobs_at_once ? (unsigned)c->jobs_at_once : jobs_processors();
	c->jobs.job = calloc((size_t)compare_rows(c) * c->schemes, sizeof(*c->jobs.job));
	c->boots.job = calloc(compare_rows(c), sizeof(*c->boots.job));
	if (!c->jobs.job || !c->boots.job)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned w = 0; w < compare_rows(c); w++)
		if (make_row(c, w))
			return error_set(err, -ENOMEM, "out of memory");
	return 0;
}

static void clean_up(struct compare *c)
{
	if (c->html && c->html_file.path)
		report_file_abandon(&c->html_file);
	for (unsigned i = 0; i < c->jobs.count; i++)
		job_free(c, &c->jobs.job[i]);
	for (unsigned i = 0; i < c->boots.count; i++)
		job_free(c, &c->boots.job[i]);
	free(c->jobs.job);
	free(c->boots.job);
	for (unsigned i = 0; i < c->works; i++)
		free(c->work[i]);
	for (unsigned i = 0; i < c->forward_names; i++)
		free(c->forward_name[i]);
	if (c->temp)
		rmdir(c->temp);
	free(c->temp);
}

static void changed(void *ctx, const struct job *j)
{
	progress_update(&((struct compare *)ctx)->progress, j);
}

static bool stop(void *ctx)
{
	(void)ctx;
	return interrupted;
}

static void catch_signals(void)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	const struct sigaction sa = {.sa_handler = on_end_signal};

	for (unsigned i = 0; i < ARRAY_SIZE(ending); i++)
		sigaction(ending[i], &sa, NULL);
}

static int run_jobs(struct compare *c, struct jobs *jobs, struct error *err)
{
	int ret;

	jobs->changed = changed;
	jobs->stop = stop;
	jobs->ctx = c;
	progress_begin(&c->progress, jobs, stderr);
	ret = jobs_run(jobs, err);
	progress_end(&c->progress);
	return ret;
}

/* ---- the result ---- */

/* Why a job left no report. */
static void job_error(const struct job *j, char *text, unsigned bytes)
{
	progress_last_line(j->errors, text, bytes);
	if (*text)
		return;
	if (WIFSIGNALED(j->status))
		snprintf(text, bytes, "killed by signal %d (%s)", WTERMSIG(j->status), strsignal(WTERMSIG(j->status)));
	else
		snprintf(text, bytes, "ended with status %d", WEXITSTATUS(j->status));
}

static void add_work(struct compare *c, json_t *comparison, unsigned w)
{
	struct compare_run run[SCHEMES_MAX];
	char text[SCHEMES_MAX][256];

	for (unsigned s = 0; s < c->schemes; s++) {
		const struct job *j = &c->jobs.job[w * c->schemes + s];

		run[s] = (struct compare_run){.mmu = j->mmu, .error = text[s]};
		run[s].report = json_load_file(j->report, 0, NULL);
		if (!run[s].report)
			job_error(j, text[s], sizeof(text[s]));
	}
	compare_add(comparison, c->works ? c->work[w] : NULL, run, c->schemes);
	for (unsigned s = 0; s < c->schemes; s++)
		json_decref(run[s].report);
}

static int write_html(struct compare *c, const json_t *comparison)
{
	struct error err = {0};
	int ret = html_commit_result(comparison, &c->html_file, &err);

	if (ret)
		cli_error("compare", err.text);
	return ret;
}

static int print_result(struct compare *c)
{
	json_t *comparison = compare_new();
	int status;

	for (unsigned w = 0; w < compare_rows(c); w++)
		add_work(c, comparison, w);
	if (c->format == FORMAT_JSON) {
		json_dumpf(comparison, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
		putchar('\n');
	} else if (c->format == FORMAT_CSV) {
		compare_print_csv(comparison, stdout);
	} else {
		compare_print_table(comparison, stdout);
	}
	status = compare_equal(comparison) ? CLI_OK : CLI_DIFFERENT;
	if (c->html && write_html(c, comparison))
		status = CLI_HOST_FAILED;
	json_decref(comparison);
	return fflush(stdout) ? CLI_HOST_FAILED : status;
}

/* A child's message without its beginning. */
static const char *without_command(const char *text)
{
	static const char *const begin[] = {"gnomon run: ", "gnomon resume: "};

	for (unsigned i = 0; i < ARRAY_SIZE(begin); i++)
		if (strncmp(text, begin[i], strlen(begin[i])) == 0)
			return text + strlen(begin[i]);
	return text;
}

/* All jobs refused their input: the message of one is the message. */
static bool all_refused(const struct compare *c, struct error *err)
{
	char text[256];

	for (unsigned i = 0; i < c->jobs.count; i++)
		if (!WIFEXITED(c->jobs.job[i].status) || WEXITSTATUS(c->jobs.job[i].status) != CLI_USAGE)
			return false;
	job_error(&c->jobs.job[0], text, sizeof(text));
	error_set(err, -EINVAL, "%s", without_command(text));
	return true;
}

/* Brings every work to the instant from which it is compared. -EINVAL: one does not get there. */
static int run_boots(struct compare *c, struct error *err)
{
	int ret = run_jobs(c, &c->boots, err);
	char text[256];

	for (unsigned i = 0; !ret && i < c->boots.count; i++) {
		const struct job *j = &c->boots.job[i];

		if (access(j->report, F_OK) == 0)
			continue;
		job_error(j, text, sizeof(text));
		ret = error_set(err, -EINVAL, "%s%s--from '%.60s': %s", j->title, *j->title ? ": " : "", c->from,
				j->status ? without_command(text) : "the guest ended before it printed that");
	}
	return ret;
}

static int compare(struct compare *c)
{
	struct error err = {0};
	int status = CLI_USAGE;

	if (check(c, &err) == 0 && make_jobs(c, &err) == 0) {
		int ret;

		catch_signals();
		ret = c->from ? run_boots(c, &err) : 0;
		if (ret == 0)
			ret = run_jobs(c, &c->jobs, &err);
		if (ret == 0 && !all_refused(c, &err))
			return print_result(c);
		status = ret == 0 || ret == -EINVAL ? CLI_USAGE : ret == -EINTR ? CLI_INTERRUPTED : CLI_HOST_FAILED;
	}
	cli_error("compare", err.text);
	return status;
}

static int run_command(int argc, char **argv)
{
	static struct compare c = {.mmu = {ENGINE_NATIVE, ENGINE_BRUTE, ENGINE_SHADOW, ENGINE_EPT}, .schemes = 4};
	const struct option_group groups[] = {
		{.title = "Comparison", .table = compare_options, .ctx = &c},
		{.title = "Guest and machine", .table = guest_options, .ctx = &c.cfg, .given = forward,
		 .given_ctx = &c},
		{0},
	};
	struct error err = {0};
	int status = CLI_USAGE;

	vm_config_default(&c.cfg);
	switch (options_parse(argc, argv, groups, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		status = CLI_OK;
		break;
	case OPTIONS_BAD:
		strncat(err.text, " (see gnomon compare --help)", sizeof(err.text) - strlen(err.text) - 1);
		cli_error("compare", err.text);
		break;
	case OPTIONS_OK:
		status = compare(&c);
		break;
	}
	clean_up(&c);
	return status;
}

const struct command cmd_compare = {"compare", "run the same guest under several schemes and compare them", run_command,
				    help};
