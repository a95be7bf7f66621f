/* gnomon help [COMMAND], and gnomon version. */
#include "cli/cli.h"

#ifndef GNOMON_VERSION
#error "GNOMON_VERSION is given by the build"
#endif

static void help_overview(FILE *out)
{
	fputs("Gnomon boots a guest on a software x86-64 processor with VT-x: on the bare machine, or\n"
	      "under a hypervisor with brute-force, shadow or nested paging, and counts what each costs.\n\n"
	      "Usage: gnomon COMMAND [OPTIONS]\n\nCommands:\n",
	      out);
	for (unsigned i = 0; commands[i]; i++)
		fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\n'gnomon COMMAND --help' describes a command.\n", out);
}

static int run_help(int argc, char **argv)
{
	const struct command *c = argc > 1 ? command_find(argv[1]) : &cmd_help;
	char text[128];

	if (c) {
		c->help(stdout);
		return CLI_OK;
	}
	snprintf(text, sizeof(text), "no command '%.64s' (see gnomon --help)", argv[1]);
	cli_error("help", text);
	return CLI_USAGE;
}

const struct command cmd_help = {"help", "describe the commands", run_help, help_overview};

static void help_version(FILE *out)
{
	fputs("Usage: gnomon version\n\nPrints the version.\n", out);
}

static int run_version(int argc, char **argv)
{
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		help_version(stdout);
		return CLI_OK;
	}
	puts("gnomon " GNOMON_VERSION);
	return CLI_OK;
}

const struct command cmd_version = {"version", "print the version", run_version, help_version};
