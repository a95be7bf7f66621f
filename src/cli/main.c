/* gnomon: finds the command and runs it. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/cli.h"

const struct command *const commands[] = {
	&cmd_run,
	&cmd_suspend,
	&cmd_resume,
	&cmd_checkpoint,
	&cmd_migrate,
	&cmd_serve,
	&cmd_compare,
	&cmd_hw,
	&cmd_walk,
	&cmd_lab,
	&cmd_disk,
	&cmd_trace,
	&cmd_replay,
	&cmd_results,
	&cmd_control,
	&cmd_help,
	&cmd_version,
	NULL,
};

const struct command *command_find(const char *name)
{
	for (unsigned i = 0; commands[i]; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const struct command *c;
	char text[128];

	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow (ulimit -f) is an error like a full disk */
	if (argc < 2) {
		cmd_help.help(stderr);
		return CLI_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return cmd_help.run(1, argv + 1);
	if (strcmp(argv[1], "--version") == 0)
		return cmd_version.run(1, argv + 1);
	c = command_find(argv[1]);
	if (c)
		return c->run(argc - 1, argv + 1);
	snprintf(text, sizeof(text), "unknown %s '%.64s' (see gnomon --help)", argv[1][0] == '-' ? "option" : "command",
		 argv[1]);
	cli_error("", text);
	return CLI_USAGE;
}
