/*
 * From a described VM to its end, the same for every command that runs one in the foreground (run, resume ...): consoles,
 * signals, live counters, the control socket, the report, the exit status. Where the VM comes from is the command's.
 */
#ifndef GNOMON_CLI_SESSION_H
#define GNOMON_CLI_SESSION_H

#include "cli/cli.h"
#include "cli/console.h"
#include "cli/guest_control.h"
#include "cli/stats.h"
#include "cli/vm_file.h"
#include "lab/interval.h"
#include "lab/report.h"
#include "lab/track.h"

/* One VM of a run. */
struct run {
	struct vm_description what;
	struct console console;
	struct report_file file;
	struct vm *vm;
	struct track *track; /* NULL: pages are not tracked */
	struct guest_control control;
};

/* All of one command. Large, and referred to by signal handlers: static. */
struct session {
	const char *command;         /* for messages: "run" */
	struct vm_description guest; /* as the command line describes it; with --vm, the processor */
	/* Makes the VM of run[0]; NULL: boots it. What it is made from outlives session_run(). */
	int (*make)(void *ctx, const struct vm_config *cfg, struct vm **out, struct error *err);
	void *make_ctx;
	/* A signal wants the end: what make() has under way may want to know. Async-signal-safe. May be NULL. */
	void (*interrupt)(void *ctx);
	/* The VM has ended, and is about to be destroyed. May be NULL. */
	void (*ended)(void *ctx);
	/* Why a VM that failed could not go on, if the command knows more; "" if not. May be NULL. */
	const char *(*failure)(void *ctx);
	/* run only: several VMs from files */
	const char *vm_path[ENGINE_VMS_MAX];
	struct vm_file vm_file[ENGINE_VMS_MAX];
	unsigned files;              /* --vm: so many */
	uint64_t slice;              /* 0: not given */
	/* Where it is suspended instead of run to its end: NULL: nowhere */
	const char *suspend;         /* a file */
	struct vm_stop suspend_at;
	/* options of every such command */
	int progress_fd;             /* -1: none */
	bool want_stats;
	uint64_t stats_ns;           /* 0: the default */
	struct stats stats;
	struct track_config track;
	struct interval_config part; /* a part of the run that is counted by itself, or recorded */
	struct interval interval;
	struct engine_machine *machine;
	struct run run[ENGINE_VMS_MAX];
	unsigned runs;
	int64_t began_ns, ready_ns;  /* host clock: when the command began, and when the guests did */
	bool connected;              /* session_connect() */
};

extern const struct option_desc session_options[]; /* ctx: struct session */
extern const char session_exit_help[];             /* the part of a help page on exit statuses */

/* All as if no option had been given. */
void session_init(struct session *s, const char *command);
/*
 * Within make(): connects the VM to console, signals and control socket already, for a command that gets a VM only if all that
 * works; and the contrary. Without it, it is done after make().
 */
int session_connect(struct session *s, struct vm *vm, struct error *err);
void session_disconnect(struct session *s);
/* Makes the VMs, runs them to their end and says what came of it. Returns the exit status; nothing is left of them. */
int session_run(struct session *s);

#endif
