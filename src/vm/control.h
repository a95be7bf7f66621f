/*
 * The control socket of a running VM: lines of JSON in the manner of QMP (docs/control.md) on a Unix stream socket.
 * A thread of its own serves up to CONTROL_CLIENTS clients and never waits for the VM, nor the VM for it. What a command
 * does is a function in a table; one that concerns the VM is executed by the VM's thread at a boundary between two
 * engine_run(), so the VM needs no locks.
 *
 *	control_create()                 commands: the tables that are added
 *	control_add_commands() ...
 *	control_attach()                 there is a VM; perhaps later
 *	control_open()                   clients may come from now on
 *	control_detach()                 it has ended, or is about to go
 *	control_destroy()
 */
#ifndef GNOMON_VM_CONTROL_H
#define GNOMON_VM_CONTROL_H

#include "vm/vm.h"
#include <jansson.h>

#define CONTROL_PROTOCOL 1
#define CONTROL_CLIENTS  16
#define CONTROL_LINE_MAX ((size_t)1 << 20) /* bytes of a request */
#define CONTROL_OUT_MAX  ((size_t)4 << 20) /* bytes that wait for a client to read them */

struct control;

/* ---- commands ---- */

enum control_kind { CONTROL_STRING, CONTROL_INTEGER, CONTROL_BOOLEAN };
extern const char *const control_kind_name[]; /* "string", "integer", "boolean" */

struct control_argument {
	const char *name;
	enum control_kind kind;
	bool required;
};

/* What a command is given. */
struct control_call {
	struct control *control;
	struct vm *vm;       /* NULL on the socket's thread */
	void *ctx;           /* what its table was added with */
	const json_t *args;  /* an object with members of the kinds above, required ones present; no others */
};

struct control_command {
	const char *name;
	const char *help;                    /* one line */
	const struct control_argument *args; /* ends with name == NULL; NULL: it takes none */
	/*
	 * Executes it. No lock is held: everything in this file may be called.
	 * @ret: the answer, a new reference; NULL stands for an empty object
	 * Errors: a negative errno with a line in @err. -EINVAL: the arguments make no sense; -EBUSY: not now.
	 */
	int (*run)(const struct control_call *call, json_t **ret, struct error *err);
	bool on_vm_thread; /* needs the VM; otherwise it runs on the socket's thread, and is to be quick */
	bool while_held;   /* also while control_hold() says that the VM is not to be touched */
	bool without_vm;   /* if there is none (yet, or any more) it runs on the socket's thread, call->vm being NULL */
};

/* ---- its life ---- */

struct control_config {
	const char *version; /* of the program */
	const char *name;    /* of the VM, "" if it has none */
};

/* With the commands that need no VM, and those of vm/control_vm.c. -ENOMEM, -EMFILE with @err. */
int control_create(struct control **out, const struct control_config *cfg, struct error *err);
/* More commands; before control_open(). @table ends with name == NULL and stays the caller's. -ENOSPC with @err. */
int control_add_commands(struct control *c, const struct control_command *table, void *ctx, struct error *err);
/*
 * Listens at @path (mode 0600) and starts the thread. A socket there that nobody listens at is replaced.
 * Errors: -EADDRINUSE if somebody does; -EEXIST if it is no socket; of the host. Nothing is left behind.
 */
int control_open(struct control *c, const char *path, struct error *err);
/* Removes the path, if it is still ours. Async-signal-safe: for a process that is about to die. */
void control_unlink(const struct control *c);
/* Sends what is still to be sent, as far as clients read it within a second; hangs up; removes the path. */
void control_destroy(struct control *c);

/* From now on commands reach @vm. On the thread that runs it, while it does not run. */
void control_attach(struct control *c, struct vm *vm);
/*
 * The VM is no more: event SHUTDOWN, jobs are asked to end, commands for the VM are refused from now on. Only query-status
 * still tells how it ended. Happens by itself when vm_run_until() comes to the end; otherwise on the VM's thread. Without
 * a VM nothing happens.
 */
void control_detach(struct control *c);

/* ---- for commands ---- */

/*
 * Tells all clients. @data: stolen, NULL for an empty object; @event: capitals by custom, a literal. From any thread.
 */
void control_emit(struct control *c, const char *event, json_t *data);
/* Pauses the VM or lets it go on, with the event (STOP, RESUME) if that is a change. On the VM's thread. */
void control_pause(struct control *c);
void control_continue(struct control *c);
/*
 * From now on commands for the VM are refused, with @why (a literal), but for those that have while_held; NULL: no longer. On
 * the VM's thread.
 */
void control_hold(struct control *c, const char *why);
/*
 * Has the VM's thread execute @fn and waits for it: for the threads of jobs, never on the VM's own or in a command.
 * Returns what @fn returns; -ECANCELED if there is no VM (any more), @fn is not called then.
 */
int control_run_on_vm(struct control *c, int (*fn)(void *ctx), void *ctx);

/* ---- jobs: work that takes long ---- */

enum control_job_state { CONTROL_JOB_RUNNING, CONTROL_JOB_COMPLETED, CONTROL_JOB_FAILED, CONTROL_JOB_CANCELLED };

/*
 * One job of a kind ("migrate", "checkpoint") at a time; the last one stays to be asked about. All functions
 * from any thread. Clients see them by query-jobs, cancel-job and the event JOB; commands of the job's own are made of
 * control_job_describe() and control_job_cancel().
 */
struct control_job;
/* Begins one. @kind: a literal. -EBUSY if one of that kind is running, -ENOSPC for too many kinds, with @err. */
int control_job_begin(struct control *c, const char *kind, struct control_job **job, struct error *err);
/* Progress in words, and in numbers under names. @phase, @name: literals; at most 16 names, more are dropped. */
void control_job_phase(struct control_job *job, const char *phase);
void control_job_set(struct control_job *job, const char *name, int64_t value);
/* Has somebody asked for its end? To be looked at now and then. */
bool control_job_cancelled(const struct control_job *job);
/* When somebody does, @fd (an eventfd) becomes readable too, for a thread that waits. */
void control_job_on_cancel(struct control_job *job, int fd);
/* Its end. @code: 0, -ECANCELED, or another errno for a failure; @err: its line, may be NULL. The event JOB. */
void control_job_end(struct control_job *job, int code, const struct error *err);
/* A new object that describes the last job of @kind; {"status": "none"} if there was none. */
json_t *control_job_describe(struct control *c, const char *kind);
/* Asks the running job of @kind to end. -ENOENT with @err if there is none. */
int control_job_cancel(struct control *c, const char *kind, struct error *err);

#endif
