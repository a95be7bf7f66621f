/*
 * The inside of the control socket, shared by its files: control.c has commands and clients, control_socket.c the
 * socket and its thread, control_job.c the jobs, control_vm.c the commands that every VM has.
 *
 * Locks: control.lock guards everything that says so, and is never held while a command runs, while anything waits, or
 * while the host is asked for more than to send some bytes.
 */
#ifndef GNOMON_VM_CONTROL_IMPL_H
#define GNOMON_VM_CONTROL_IMPL_H

#include "vm/control_link.h"
#include "vm/control_protocol.h"
#include <pthread.h>
#include <sys/un.h>

#define CONTROL_TABLES      8
#define CONTROL_JOBS        8
#define CONTROL_JOB_NUMBERS 16
#define CONTROL_EVENTS_KEPT 32
#define CONTROL_OUT_ENOUGH  65536u /* a client that has so much to read is not listened to meanwhile */

struct control_peer {
	bool used;
	int fd;                     /* -1: none (tests) */
	struct control_link link;   /* out: under the lock; in: the socket's thread's */
	bool eof, hung_up;          /* the socket's thread's: no more will come; nobody is there */
	/* under the lock */
	bool waiting;               /* the VM's thread has a request of it */
	bool overrun;               /* it did not read: to be cut off */
	bool closing;               /* after what it is sent now */
	struct control_request rq;
	const struct control_command *cmd;
	void *cmd_ctx;
};

struct control_job {
	struct control *control;
	const char *kind;           /* NULL: unused */
	enum control_job_state state;
	const char *phase;
	struct { const char *name; int64_t value; } number[CONTROL_JOB_NUMBERS];
	unsigned numbers;
	struct error err;
	struct timespec begun, ended;
	bool cancel;
	int cancel_fd;              /* -1: none */
};

/* A function that another thread has the VM's thread call. Lives on that thread's stack. */
struct control_errand {
	int (*fn)(void *ctx);
	void *ctx;
	int ret;
	bool done;
	struct control_errand *next;
};

enum control_phase { CONTROL_NO_VM, CONTROL_VM, CONTROL_ENDED };

struct control {
	char *version, *name;
	struct { const struct control_command *table; void *ctx; } tables[CONTROL_TABLES];
	unsigned table_count;
	pthread_mutex_t lock;
	pthread_cond_t errand_done;
	struct control_peer peer[CONTROL_CLIENTS];
	/* under the lock */
	enum control_phase phase;
	struct vm *vm;
	struct vm_ticker ticker;
	const char *held;           /* why the VM is not to be touched; NULL: it may be. The VM's thread's */
	uint8_t queue[CONTROL_CLIENTS]; /* clients whose requests wait for the VM's thread, oldest first */
	unsigned queued;
	struct control_errand *errands; /* likewise, oldest first */
	struct control_job job[CONTROL_JOBS];
	json_t *event[CONTROL_EVENTS_KEPT]; /* a ring */
	unsigned events;
	json_t *last_status;        /* CONTROL_ENDED */
	bool stopping;
	/* control_socket.c */
	pthread_t thread;
	bool running;
	int listener, wake_fd;
	struct sockaddr_un address;
	dev_t dev;                  /* of the path, to know whether it is still ours */
	ino_t ino;
};

extern const struct control_command control_core_commands[], control_vm_commands[], control_job_commands[];

static inline void control_lock(struct control *c) { pthread_mutex_lock(&c->lock); }
static inline void control_unlock(struct control *c) { pthread_mutex_unlock(&c->lock); }

/* ---- clients (control.c); on the socket's thread ---- */

/* A new client of @fd, greeted; NULL if there are CONTROL_CLIENTS. */
struct control_peer *control_peer_open(struct control *c, int fd);
/* It is gone. Not while it waits. Closes nothing. */
void control_peer_close(struct control *c, struct control_peer *cl);
/* Bytes that came. One line too long: it is told, and is closing. */
void control_peer_take(struct control *c, struct control_peer *cl, const char *data, size_t bytes);
/* Deals with its next line, if there is one whose turn it is. False if there was nothing to do. */
bool control_peer_turn(struct control *c, struct control_peer *cl);
/* Queues a line, which is freed; NULL counts as one that did not fit. Under the lock. */
void control_peer_send(struct control_peer *cl, char *line);
/* Executes what waits for the VM's thread. On that thread. */
void control_serve(struct control *c);
/* Has the socket's thread look for what is to be sent. From any thread. */
void control_wake(struct control *c);
/* control_emit() under the lock. */
void control_emit_locked(struct control *c, const char *event, json_t *data);
/* The answer to query-status. On the VM's thread. */
json_t *control_vm_status(const struct control *c, struct vm *vm);

#endif
