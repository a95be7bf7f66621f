/* The client's side of a control socket (docs/control.md): for the commands that ask or command a running VM. */
#ifndef GNOMON_CLI_VM_CLIENT_H
#define GNOMON_CLI_VM_CLIENT_H

#include "base/error.h"
#include <jansson.h>
#include <stdbool.h>

struct vm_client {
	const char *path; /* for messages; lasts as long as the client */
	int fd;
	struct control_link *link;
	void (*event)(void *ctx, const json_t *event); /* told of events that come while an answer is waited for; NULL */
	void *event_ctx;
};

/*
 * Connects to the socket at @path and takes the greeting. -EINVAL: nobody is there; -EPROTO: it is no control socket of
 * gnomon's; -EREMOTEIO: it refused.
 */
int vm_client_open(struct vm_client *c, const char *path, struct error *err);
void vm_client_close(struct vm_client *c);
/*
 * Executes a command. @args: stolen, NULL for none; @answer: a new reference
 * -EREMOTEIO: the VM refused or failed to do it, with its reason; -EPIPE: it hung up; -EPROTO: it makes no sense.
 */
int vm_client_call(struct vm_client *c, const char *command, json_t *args, json_t **answer, struct error *err);
/* The next object that the VM says, NULL with @err. */
json_t *vm_client_receive(struct vm_client *c, struct error *err);
/* Connects, executes one command, and closes. */
int vm_client_once(const char *path, const char *command, json_t *args, json_t **answer, struct error *err);

/* The exit status of a command for what one of these has returned, and the help page's part on it. */
int vm_client_status(int ret);
extern const char vm_client_exit_help[];

#endif
