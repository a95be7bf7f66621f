/*
 * The command line: one file a command, an explicit list of them, and options
 * described by tables that drive both the parser and the help pages.
 */
#ifndef GNOMON_CLI_CLI_H
#define GNOMON_CLI_CLI_H

#include "base/error.h"
#include "vm/vm.h"
#include <stdio.h>

/*
 * Process exit statuses. Those of guests that leave through the debug-exit port
 * are odd, as QEMU makes them; our own are even (but for compare's CLI_DIFFERENT).
 */
enum {
	CLI_OK = 0,
	CLI_DIFFERENT = 1,     /* compare: runs that should be equal are not */
	CLI_USAGE = 2,         /* bad option or input: nothing was run */
	CLI_TRIPLE_FAULT = 4,
	CLI_HALTED = 6,        /* halted with nothing left that could wake it */
	CLI_GUEST_FAILED = 8,  /* VM entry failed, or the hypervisor gave up */
	CLI_HOST_FAILED = 10,  /* out of memory, the report could not be written */
	CLI_LEAKS = 14,        /* disk check: clusters are lost, no data */
	CLI_DAMAGED = 16,      /* disk check: the image contradicts itself */
	CLI_NOT_REACHED = 12,  /* walk: the guest ended before it came to the stop */
	CLI_REFUSED = 18,      /* a running VM refused or failed to do what it was asked */
	CLI_INTERRUPTED = 130,
};

struct command {
	const char *name;
	const char *summary; /* one line */
	int (*run)(int argc, char **argv); /* argv[0] is the command's name */
	void (*help)(FILE *out);
};
extern const struct command cmd_run, cmd_suspend, cmd_resume, cmd_checkpoint, cmd_compare, cmd_hw, cmd_walk, cmd_lab,
	cmd_disk, cmd_trace, cmd_replay, cmd_results, cmd_control, cmd_serve, cmd_migrate, cmd_help, cmd_version;
extern const struct command *const commands[]; /* ends with NULL */
const struct command *command_find(const char *name);

/* ---- options (cli/options.c) ---- */

struct option_desc {
	const char *name;  /* without "--" */
	const char *value; /* placeholder, NULL if it takes none */
	const char *help;  /* lines separated by \n */
	/* Takes the value; -EINVAL with @err if it makes no sense. */
	int (*set)(void *ctx, const char *value, struct error *err);
};

/* A table of options and what their setters are given. Tables end with name == NULL. */
struct option_group {
	const char *title;
	const struct option_desc *table;
	void *ctx;
	/* Told of every option of this table that was given, after its setter took it. May be NULL. */
	int (*given)(void *ctx, const struct option_desc *d, const char *value, struct error *err);
	void *given_ctx;
};

enum options_result { OPTIONS_OK, OPTIONS_HELP, OPTIONS_BAD };
/*
 * Parses all of argv; --help and -h are understood everywhere. Arguments that are
 * no options are errors.
 * @groups: ends with title == NULL
 */
enum options_result options_parse(int argc, char **argv, const struct option_group *groups, struct error *err);
void options_help(FILE *out, const struct option_group *groups);
/*
 * Before options_parse(): takes the arguments that are no options out of argv, up to @max of them into @arg. What follows
 * "--" is no option. Returns how many there are, also if more than @max; *argc becomes that of what is left.
 */
unsigned options_take_arguments(int *argc, char **argv, const struct option_group *groups, const char **arg,
				unsigned max);

/* "64", "512K", "2G": a number of bytes; without a suffix MiB. */
int parse_size(const char *name, const char *text, uint64_t *bytes, struct error *err);
/* "1000", "0x10", "5k", "20M", "1G": a count, suffixes are powers of ten. */
int parse_count(const char *name, const char *text, uint64_t *n, struct error *err);

/* ---- what run and compare share (cli/guest_options.c) ---- */
extern const struct option_desc guest_options[]; /* ctx: struct vm_config */
/* Is it one of those that describe the processor, which VMs on one machine share? */
bool guest_option_of_processor(const struct option_desc *d);
/* Those that describe how the machine executes, not what the guest sees of it: a saved VM can be given others. */
#define GUEST_OPTIONS_MAX 48
bool guest_option_of_machine(const struct option_desc *d);
void guest_options_of_machine(struct option_desc table[GUEST_OPTIONS_MAX]);
/* Can it be given several times? In a VM file it has a list of values then. */
bool guest_option_repeats(const struct option_desc *d);
/* After parsing: is what is needed there, and does it fit together? */
int guest_options_check(const struct vm_config *cfg, struct error *err);
/* Index of a name in engine_mmu_name[]; -EINVAL with @err. */
int parse_mmu(const char *text, size_t length, enum engine_mmu *mmu, struct error *err);

/* ---- what serve and migrate share (cli/transport_options.c) ---- */
struct transport_options {
	const char *psk, *ca, *cert, *key, *name; /* NULL: not given */
	bool plain;
	uint64_t stall_ms, recover_ms;            /* 0: not given */
};
extern const struct option_desc transport_options[]; /* ctx: struct transport_options */

/* The path from the root on; of a file that need not exist. Allocated; NULL without memory. */
char *absolute_path(const char *path);
/* "1 KiB", "3.2 GiB": for people. */
void human_bytes(uint64_t v, char text[32]);
/* Seconds since 1970 as date and time (UTC). */
void human_time(int64_t seconds, char text[32]);
/* One line on standard error: "gnomon COMMAND: text". */
void cli_error(const char *command, const char *text);

#endif
