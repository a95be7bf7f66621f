/* Commands that are made of verbs, "gnomon disk create ...": a table of them; parsing, checks and help are the same. */
#ifndef GNOMON_CLI_VERBS_H
#define GNOMON_CLI_VERBS_H

#include "cli/cli.h"

#define VERB_ARGS_MAX 4

/* What is no option, from behind the verb on. */
struct verb_args {
	const char *arg[VERB_ARGS_MAX];
	int args;
};

struct verb {
	const char *name, *args, *summary; /* @args: for people; @summary begins with a small letter */
	int min, max;                      /* arguments */
	const struct option_desc *options;
	/* @command: a struct whose first member is a struct verb_args. Returns the exit status. */
	int (*run)(void *command);
};

struct verb_command {
	const char *name;
	const struct verb *verb; /* [verbs] */
	unsigned verbs;
	void (*more_help)(const struct verb *v, FILE *out); /* behind a verb's options; may be NULL */
};

/* Tells of what was wrong, and returns the exit status for it. */
typedef int verb_failed(const struct error *err);

/* The verb in argv[1]; NULL: there is none, and *status is that of the command, which then was told why or helped. */
const struct verb *verb_find(const struct verb_command *c, int argc, char **argv, void (*help)(FILE *out),
			     verb_failed *failed, int *status);
/*
 * Parses arguments and options behind the verb, and runs it. Returns the exit status.
 * @command: what it is given; @options_ctx: what its options are set in
 */
int verb_run(const struct verb_command *c, const struct verb *v, int argc, char **argv, void *command,
	     void *options_ctx, verb_failed *failed);
/* A line or two for each verb. */
void verb_list(const struct verb_command *c, FILE *out);

#endif
