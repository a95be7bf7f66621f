/*
 * Table-driven option parsing on top of getopt_long(), with messages of our own:
 * one line that names the option, and no partial state to clean up.
 */
#include "cli/cli.h"
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#define OPTIONS_MAX 64
#define OPTION_BASE 256 /* getopt's values for our options: above any character */

struct option_list {
	struct option opt[OPTIONS_MAX + 2];
	const struct option_desc *desc[OPTIONS_MAX];
	const struct option_group *group[OPTIONS_MAX];
	unsigned count;
};

static void list_build(struct option_list *l, const struct option_group *groups)
{
	l->count = 0;
	for (const struct option_group *g = groups; g->title; g++)
		for (const struct option_desc *d = g->table; d->name && l->count < OPTIONS_MAX; d++) {
			l->opt[l->count] = (struct option){d->name, d->value ? required_argument : no_argument, NULL,
							   OPTION_BASE + (int)l->count};
			l->desc[l->count] = d;
			l->group[l->count++] = g;
		}
	l->opt[l->count] = (struct option){"help", no_argument, NULL, 'h'};
	l->opt[l->count + 1] = (struct option){0};
}

static bool takes_value(const struct option_group *groups, const char *arg)
{
	for (const struct option_group *g = groups; g->title; g++)
		for (const struct option_desc *d = g->table; d->name; d++)
			if (strcmp(arg + 2, d->name) == 0)
				return d->value;
	return false;
}

unsigned options_take_arguments(int *argc, char **argv, const struct option_group *groups, const char **arg,
				unsigned max)
{
	unsigned args = 0;
	bool all = false;
	int left = 1;

	for (int i = 1; i < *argc; i++) {
		if (!all && strcmp(argv[i], "--") == 0) {
			all = true;
		} else if (!all && argv[i][0] == '-' && argv[i][1]) {
			argv[left++] = argv[i];
			if (argv[i][1] == '-' && takes_value(groups, argv[i]) && i + 1 < *argc)
				argv[left++] = argv[++i];
		} else if (args++ < max) {
			arg[args - 1] = argv[i];
		}
	}
	argv[left] = NULL;
	*argc = left;
	return args;
}

/* Why getopt_long() refused argv[at]. */
static int refused(const struct option_list *l, int c, int opt, const char *arg, struct error *err)
{
	if (c == ':' && opt >= OPTION_BASE)
		return error_set(err, -EINVAL, "option '--%s' needs a value (%s)", l->desc[opt - OPTION_BASE]->name,
				 l->desc[opt - OPTION_BASE]->value);
	if (opt >= OPTION_BASE)
		return error_set(err, -EINVAL, "option '--%s' takes no value", l->desc[opt - OPTION_BASE]->name);
	return error_set(err, -EINVAL, "unknown option '%s'", arg);
}

static int take(const struct option_group *g, const struct option_desc *d, const char *value, struct error *err)
{
	int ret = d->set(g->ctx, value, err);

	return ret == 0 && g->given ? g->given(g->given_ctx, d, value, err) : ret;
}

enum options_result options_parse(int argc, char **argv, const struct option_group *groups, struct error *err)
{
	struct option_list l;

	list_build(&l, groups);
	optind = 0; /* start afresh: glibc's way to reset */
	opterr = 0;
	for (;;) {
		int at = optind ? optind : 1;
		int c = getopt_long(argc, argv, "+:h", l.opt, NULL);

		if (c == -1)
			break;
		if (c == 'h')
			return OPTIONS_HELP;
		if (c == '?' || c == ':') {
			refused(&l, c, optopt, argv[at], err);
			return OPTIONS_BAD;
		}
		if (take(l.group[c - OPTION_BASE], l.desc[c - OPTION_BASE], optarg, err))
			return OPTIONS_BAD;
	}
	if (optind < argc) {
		error_set(err, -EINVAL, "unexpected argument '%s'", argv[optind]);
		return OPTIONS_BAD;
	}
	return OPTIONS_OK;
}

static void help_lines(FILE *out, const char *text)
{
	const char *nl;

	for (; (nl = strchr(text, '\n')); text = nl + 1)
		fprintf(out, "%.*s\n%30s", (int)(nl - text), text, "");
	fprintf(out, "%s\n", text);
}

void options_help(FILE *out, const struct option_group *groups)
{
	for (const struct option_group *g = groups; g->title; g++) {
		fprintf(out, "\n%s:\n", g->title);
		for (const struct option_desc *d = g->table; d->name; d++) {
			int n = fprintf(out, "  --%s%s%s", d->name, d->value ? " " : "", d->value ? d->value : "");

			if (n < 29)
				fprintf(out, "%*s", 30 - n, "");
			else
				fprintf(out, "\n%30s", "");
			help_lines(out, d->help);
		}
	}
}

/* A number and what multiplies it; @suffixes: letters in steps of @step. -EINVAL, -ERANGE. */
static int parse_number(const char *text, const char *suffixes, uint64_t step, uint64_t unit, uint64_t *v)
{
	char *end;
	const char *s;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	*v = strtoull(text, &end, 0);
	if (errno)
		return -ERANGE;
	if (*end) {
		s = strchr(suffixes, *end & ~0x20);
		if (!s || end[1])
			return -EINVAL;
		unit = step;
		for (; s > suffixes; s--)
			unit *= step;
	}
	return __builtin_mul_overflow(*v, unit, v) ? -ERANGE : 0;
}

int parse_size(const char *name, const char *text, uint64_t *bytes, struct error *err)
{
	uint64_t v;

	if (parse_number(text, "KMGT", 1024, 1024 * 1024, &v))
		return error_set(err, -EINVAL, "--%s '%s': a size is a number with K, M, G or T (M if there is none)",
				 name, text);
	*bytes = v;
	return 0;
}

int parse_count(const char *name, const char *text, uint64_t *n, struct error *err)
{
	uint64_t v;

	if (parse_number(text, "KMGT", 1000, 1, &v))
		return error_set(err, -EINVAL, "--%s '%s': not a number", name, text);
	*n = v;
	return 0;
}

void cli_error(const char *command, const char *text)
{
	fprintf(stderr, "gnomon%s%s: %s\n", *command ? " " : "", command, text);
}
