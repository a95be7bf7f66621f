/* gnomon lab: runs a published experiment and prints our figures next to the paper's. */
#include "cli/cli.h"
#include "cli/jobs.h"
#include "lab/footprint.h"
#include "lab/html.h"
#include "lab/lab.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct lab_command {
	struct lab_options o;
	struct hw hw;
	bool json;
	const char *html; /* also write a page there; NULL: no */
	const char *migrates, *explains; /* an option that only such a lab heeds; NULL: none was given */
	uint64_t began_ns;
	char kit[PATH_MAX];
};

static int set_hw(void *ctx, const char *v, struct error *err)
{
	struct lab_command *c = ctx;
	struct error why = {0};

	if (hw_load(&c->hw, v, &why))
		return error_set(err, -EINVAL, "--hw: %.400s", why.text);
	c->o.hw = &c->hw;
	return 0;
}

static int set_kit(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct lab_command *)ctx)->o.kit = v;
	return 0;
}

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct lab_command *)ctx)->json = true;
	return 0;
}

static int set_html(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct lab_command *)ctx)->html = v;
	return 0;
}

static int set_quick(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct lab_command *)ctx)->o.quick = true;
	return 0;
}

static int set_jobs(void *ctx, const char *v, struct error *err)
{
	uint64_t n;
	int ret = parse_count("jobs", v, &n, err);

	if (ret == 0 && (n == 0 || n > 64))
		ret = error_set(err, -EINVAL, "--jobs '%s': from 1 to 64", v);
	if (ret == 0)
		((struct lab_command *)ctx)->o.threads = (unsigned)n;
	return ret;
}

/* A count of @name from 1 on, for labs that migrate. */
static int set_link(struct lab_command *c, const char *name, const char *v, uint64_t most, uint64_t *out,
		    struct error *err)
{
	uint64_t n;
	int ret = parse_count(name + 2, v, &n, err);

	if (ret == 0 && (n == 0 || n > most))
		ret = error_set(err, -EINVAL, "%s '%s': from 1 to %llu", name, v, (unsigned long long)most);
	if (ret == 0)
		*out = n;
	c->migrates = name;
	return ret;
}

static int set_bandwidth(void *ctx, const char *v, struct error *err)
{
	struct lab_command *c = ctx;
	uint64_t bytes;
	int ret = parse_size("bandwidth", v, &bytes, err);

	if (ret == 0 && (bytes < 16 << 20 || bytes > 1ull << 40))
		ret = error_set(err, -EINVAL, "--bandwidth '%s': from 16M to 1024G", v);
	if (ret == 0)
		c->o.link.bytes_per_second = bytes;
	c->migrates = "--bandwidth";
	return ret;
}

static int set_downtime(void *ctx, const char *v, struct error *err)
{
	struct lab_command *c = ctx;
	uint64_t ms;
	int ret = set_link(c, "--downtime-limit", v, 3600000, &ms, err);

	if (ret == 0)
		c->o.link.downtime_ns = ms * 1000000;
	return ret;
}

static int set_rounds(void *ctx, const char *v, struct error *err)
{
	struct lab_command *c = ctx;
	uint64_t rounds;
	int ret = set_link(c, "--rounds", v, LAB_ROUNDS_MAX, &rounds, err);

	if (ret == 0)
		c->o.link.rounds = (unsigned)rounds;
	return ret;
}

static int set_explain(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct lab_command *)ctx)->o.explain = true;
	((struct lab_command *)ctx)->explains = "--explain";
	return 0;
}

static int set_limit(void *ctx, const char *v, struct error *err)
{
	struct lab_command *c = ctx;
	uint64_t lines;
	int ret = parse_count("limit", v, &lines, err);

	if (ret == 0 && (lines == 0 || lines > 1000000))
		ret = error_set(err, -EINVAL, "--limit '%s': from 1 to 1000000", v);
	if (ret == 0)
		c->o.limit = (unsigned)lines;
	c->explains = "--limit";
	return ret;
}

static int set_footprint(void *ctx, const char *v, struct error *err)
{
	uint64_t bytes;
	int ret = parse_size("footprint", v, &bytes, err);

	if (ret == 0 && (bytes < FOOTPRINT_MIN || bytes > FOOTPRINT_MAX || bytes % (2u << 20)))
		ret = error_set(err, -EINVAL, "--footprint '%s': a multiple of 2M from 64M to 256G", v);
	if (ret == 0)
		((struct lab_command *)ctx)->o.footprint = bytes;
	return ret;
}

static const struct option_desc migration_options[] = {
	{"bandwidth", "SIZE", "bytes that the link carries in a second of virtual time (default 1G)", set_bandwidth},
	{"downtime-limit", "MS", "stop the VM when what is left takes no longer (default 4)", set_downtime},
	{"rounds", "N", "of copying while it runs, at most (default 8)", set_rounds},
	{0},
};

static const struct option_desc explain_options[] = {
	{"explain", NULL, "of page-modification logging: when the log was full or emptied, and what else happened",
	 set_explain},
	{"limit", "N", "lines of that, about (default 60; xen-migration: 40 of each run)", set_limit},
	{0},
};

static const struct option_desc lab_options[] = {
	{"json", NULL, "print the result as JSON (docs/FORMATS.md)", set_json},
	{"html", "FILE", "write a page of tables and charts, too, that needs nothing else to be shown or printed", set_html},
	{"hw", "NAME|FILE", "another description of the hardware than the lab's own", set_hw},
	{"kit", "DIR",
	 "kernel and initramfs of 'make guest' (default: the build's), for labs that boot Linux", set_kit},
	{"quick", NULL, "small counts: seconds instead of minutes, coarser figures", set_quick},
	{"footprint", "SIZE", "of the programs in 'dmt' and 'hugegpt' whose tables no cache holds (default 32G)", set_footprint},
	{"jobs", "N", "guests that run at a time (default: one for each processor)", set_jobs},
	{0},
};

static void print_list(FILE *out)
{
	for (unsigned i = 0; lab_list[i]; i++)
		fprintf(out, "  %-14s %s\n", lab_list[i]->name, lab_list[i]->title);
}

static void help(FILE *out)
{
	const struct option_group groups[] = {
		{.title = "Options", .table = lab_options},
		{.title = "Of the labs 'migration' and 'kvm'", .table = migration_options},
		{.title = "Of the labs 'migration', 'kvm' and 'xen-migration'", .table = explain_options},
		{0},
	};

	fputs("Usage: gnomon lab [list]\n"
	      "       gnomon lab NAME [OPTIONS]\n\n"
	      "Runs a published experiment on our machine and prints our figures next to the paper's. What is\n"
	      "measured, how to read it and what differs: docs/labs.md.\n\nLabs:\n", out);
	print_list(out);
	options_help(out, groups);
	fputs("\nExit status: 0; 2 for wrong options; 10 if a guest could not be run to its end.\n", out);
}

static int fail(int status, const char *text)
{
	cli_error("lab", text);
	return status;
}

/* The guest kit that 'make guest' left in the build directory this program lies in. */
static const char *find_kit(char path[PATH_MAX])
{
	static const char *const beside[] = {"guest", "../guest", "../../guest"};
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 64);
	char *name;

	path[n > 0 ? n : 0] = 0;
	name = strrchr(path, '/');
	for (unsigned i = 0; name && i < ARRAY_SIZE(beside); i++) {
		snprintf(name + 1, 64, "%s/vmlinux-cloud", beside[i]);
		if (access(path, R_OK) == 0) {
			snprintf(name + 1, 64, "%s", beside[i]);
			return path;
		}
	}
	return NULL;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A lab measures in one or more parts; each begins with the first guest that is done. */
static void show_progress(void *ctx, const char *what, unsigned done, unsigned all)
{
	struct lab_command *c = ctx;
	char left[64] = "";
	uint64_t s = (now_ns() - c->began_ns) / 1000000000 * (all - done) / done;

	if (s)
		snprintf(left, sizeof(left), ", %llu:%02llu left", (unsigned long long)s / 60, (unsigned long long)s % 60);
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[Kgnomon lab: %u of %u guests measured (%s)%s%s", done, all, what, left,
			done == all ? "\n" : "");
	else if (done == all)
		fprintf(stderr, "gnomon lab: %u guests measured\n", all);
	if (done == all)
		c->began_ns = now_ns();
}

static int print_result(const struct lab_command *c, const json_t *result)
{
	if (c->json) {
		json_dumpf(result, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
		putchar('\n');
	} else {
		lab_print(result, stdout);
	}
	return fflush(stdout) ? CLI_HOST_FAILED : CLI_OK;
}

static int run_lab(struct lab_command *c, const struct lab *lab)
{
	struct error err = {0};
	struct report_file page;
	json_t *result;
	int status;

	c->o.progress = show_progress;
	c->o.ctx = c;
	c->began_ns = now_ns();
	if (!c->o.threads)
		c->o.threads = jobs_processors();
	if (!c->o.kit)
		c->o.kit = find_kit(c->kit);
	if (c->html && report_file_open(&page, c->html, &err))
		return fail(CLI_USAGE, err.text);
	if (lab_run(lab, &c->o, &result, &err)) {
		if (c->html)
			report_file_abandon(&page);
		return fail(err.code == -EINVAL ? CLI_USAGE : CLI_HOST_FAILED, err.text);
	}
	status = print_result(c, result);
	if (c->html && html_commit_result(result, &page, &err))
		status = fail(CLI_HOST_FAILED, err.text);
	json_decref(result);
	return status;
}

static int run_command(int argc, char **argv)
{
	static struct lab_command c;
	const struct option_group groups[] = {
		{.title = "Options", .table = lab_options, .ctx = &c},
		{.title = "Of the labs 'migration' and 'kvm'", .table = migration_options, .ctx = &c},
		{.title = "Of the labs 'migration', 'kvm' and 'xen-migration'", .table = explain_options, .ctx = &c},
		{0},
	};
	const char *name = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
	const struct lab *lab = name ? lab_find(name) : NULL;
	struct error err = {0};
	char text[128];

	switch (options_parse(argc - (name != NULL), argv + (name != NULL), groups, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		return CLI_OK;
	case OPTIONS_BAD:
		strncat(err.text, " (see gnomon lab --help)", sizeof(err.text) - strlen(err.text) - 1);
		return fail(CLI_USAGE, err.text);
	case OPTIONS_OK:
		break;
	}
	if (!name || strcmp(name, "list") == 0) {
		print_list(stdout);
		return fflush(stdout) ? CLI_HOST_FAILED : CLI_OK;
	}
	if (lab && c.migrates && !lab->migrates) {
		snprintf(text, sizeof(text), "%s: only the labs 'migration' and 'kvm' have it", c.migrates);
		return fail(CLI_USAGE, text);
	}
	if (lab && c.explains && !lab->explains) {
		snprintf(text, sizeof(text), "%s: only the labs 'migration', 'kvm' and 'xen-migration' have it", c.explains);
		return fail(CLI_USAGE, text);
	}
	if (lab && c.o.footprint && !lab->footprint)
		return fail(CLI_USAGE, "--footprint: only the labs 'dmt' and 'hugegpt' have it");
	if (lab)
		return run_lab(&c, lab);
	snprintf(text, sizeof(text), "no lab '%.64s' (see gnomon lab list)", name);
	return fail(CLI_USAGE, text);
}

const struct command cmd_lab = {"lab", "run a published experiment: our figures beside the paper's",
				run_command, help};
