/* The control socket of a guest that a command runs: --control, for all commands that run one. */
#ifndef GNOMON_CLI_GUEST_CONTROL_H
#define GNOMON_CLI_GUEST_CONTROL_H

#include "cli/vm_file.h"
#include "vm/control.h"

/*
 * Opens the socket that @what asks for; *@out is NULL if it asks for none. Signals that end the run have handlers
 * already, or the path may stay behind.
 * @what: stays until control_destroy()
 * @vm: what clients find behind it from the beginning; NULL: nothing until control_attach()
 * Errors: those of control_open() with @err "--control ..."
 */
int guest_control_open(struct control **out, const struct vm_description *what, struct vm *vm, struct error *err);

#endif
