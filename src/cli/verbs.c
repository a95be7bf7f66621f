/* Commands that are made of verbs. */
#include "cli/verbs.h"

#include <errno.h>

void verb_list(const struct verb_command *c, FILE *out)
{
	for (unsigned i = 0; i < c->verbs; i++)
		fprintf(out, "  %s %s\n            %s\n", c->verb[i].name, c->verb[i].args, c->verb[i].summary);
}

static void help_verb(const struct verb_command *c, const struct verb *v, FILE *out)
{
	const struct option_group groups[] = {{.title = "Options", .table = v->options}, {0}};

	fprintf(out, "Usage: gnomon %s %s %s%s\n\n%c%s.\n", c->name, v->name, v->args,
		v->options->name ? " [OPTIONS]" : "", *v->summary - 'a' + 'A', v->summary + 1);
	if (v->options->name)
		options_help(out, groups);
	if (c->more_help)
		c->more_help(v, out);
}

const struct verb *verb_find(const struct verb_command *c, int argc, char **argv, void (*help)(FILE *out),
			     verb_failed *failed, int *status)
{
	struct error err;

	for (unsigned i = 0; argc > 1 && i < c->verbs; i++)
		if (strcmp(c->verb[i].name, argv[1]) == 0)
			return &c->verb[i];
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		help(stdout);
		*status = CLI_OK;
		return NULL;
	}
	if (argc > 1)
		error_set(&err, -EINVAL, "no verb '%.64s' (see gnomon %s --help)", argv[1], c->name);
	else
		error_set(&err, -EINVAL, "a verb is missing (see gnomon %s --help)", c->name);
	*status = failed(&err);
	return NULL;
}

int verb_run(const struct verb_command *c, const struct verb *v, int argc, char **argv, void *command,
	     void *options_ctx, verb_failed *failed)
{
	const struct option_group groups[] = {{.title = "Options", .table = v->options, .ctx = options_ctx}, {0}};
	struct verb_args *a = command;
	struct error err = {0}, why;

	argc--;
	argv++;
	a->args = (int)options_take_arguments(&argc, argv, groups, a->arg, VERB_ARGS_MAX);
	switch (options_parse(argc, argv, groups, &err)) {
	case OPTIONS_HELP:
		help_verb(c, v, stdout);
		return CLI_OK;
	case OPTIONS_BAD:
		error_set(&why, err.code, "%.440s (see gnomon %s --help)", err.text, c->name);
		return failed(&why);
	case OPTIONS_OK:
		break;
	}
	if (a->args >= v->min && a->args <= v->max)
		return v->run(command);
	error_set(&err, -EINVAL, "usage: %s %s (see gnomon %s --help)", v->name, v->args, c->name);
	return failed(&err);
}
