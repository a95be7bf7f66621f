/* gnomon results: a page, or CSV, of results that other commands wrote as JSON. */
#include "cli/cli.h"
#include "lab/html.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RESULTS_MAX 64

struct results_command {
	const char *html; /* NULL: not wanted */
	bool csv;
};

static int set_html(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct results_command *)ctx)->html = v;
	return 0;
}

static int set_csv(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct results_command *)ctx)->csv = true;
	return 0;
}

static const struct option_desc results_options[] = {
	{"html", "FILE", "write a page of tables and charts that needs nothing else to be shown or printed", set_html},
	{"csv", NULL, "print the numbers behind the charts and tables", set_csv},
	{0},
};

static void help(FILE *out)
{
	const struct option_group groups[] = {{.title = "Options", .table = results_options}, {0}};

	fputs("Usage: gnomon results FILE... [--html FILE] [--csv]\n\n"
	      "Makes a page, or CSV, of results that 'compare', 'replay' or 'lab' wrote with --json. Those of several\n"
	      "replays are put side by side, a workload each, named as the trace's file.\n",
	      out);
	options_help(out, groups);
	fputs("\nExit status: 0, 2 bad options or a file that is no result, 10 the page cannot be written\n", out);
}

static int load(const char *path, json_t **out, struct error *err)
{
	json_error_t why;

	*out = json_load_file(path, 0, &why);
	if (*out)
		return 0;
	return error_set(err, -EINVAL, "'%s': line %d: %s", path, why.line, why.text);
}

/* A page of the results in @path. */
static int make_page(const char *const *path, unsigned n, json_t **page, struct error *err)
{
	json_t *result[RESULTS_MAX];
	unsigned loaded = 0;
	int ret = 0;

	while (ret == 0 && loaded < n) {
		ret = load(path[loaded], &result[loaded], err);
		loaded += ret == 0;
	}
	if (ret == 0)
		ret = html_of_results((const json_t *const *)result, n, page, err);
	while (loaded)
		json_decref(result[--loaded]);
	return ret;
}

static int write_page(const struct results_command *c, const json_t *page, struct error *err)
{
	struct report_file f;
	int ret = 0;

	if (c->html)
		ret = report_file_open(&f, c->html, err);
	if (c->html && ret == 0)
		ret = html_commit(page, &f, err);
	if (c->csv && ret == 0) {
		html_write_csv(page, stdout);
		ret = fflush(stdout) ? error_set(err, -EIO, "standard output: %s", strerror(errno)) : 0;
	}
	return ret;
}

static int run_command(int argc, char **argv)
{
	struct results_command c = {0};
	const struct option_group groups[] = {{.title = "Options", .table = results_options, .ctx = &c}, {0}};
	const char *path[RESULTS_MAX];
	unsigned n = options_take_arguments(&argc, argv, groups, path, RESULTS_MAX);
	enum options_result options;
	struct error err = {0};
	json_t *page = NULL;
	int status = CLI_OK;

	options = options_parse(argc, argv, groups, &err);
	if (options == OPTIONS_HELP) {
		help(stdout);
		return CLI_OK;
	}
	if (options == OPTIONS_OK && (n == 0 || n > RESULTS_MAX || (!c.html && !c.csv)))
		error_set(&err, -EINVAL, "from 1 to %d files and --html or --csv are wanted", RESULTS_MAX);
	if (err.code || options == OPTIONS_BAD) {
		strncat(err.text, " (see gnomon results --help)", sizeof(err.text) - strlen(err.text) - 1);
		status = CLI_USAGE;
	} else if (make_page(path, n, &page, &err)) {
		status = CLI_USAGE;
	} else if (write_page(&c, page, &err)) {
		status = CLI_HOST_FAILED;
	}
	if (status != CLI_OK)
		cli_error("results", err.text);
	json_decref(page);
	return status;
}

const struct command cmd_results = {
	"results", "make a page of charts and tables, or CSV, of what compare, replay or lab found",
	run_command, help};
