/* The control socket of a guest that a command runs: --control, for all commands that run one. */
#ifndef GNOMON_CLI_GUEST_CONTROL_H
#define GNOMON_CLI_GUEST_CONTROL_H

#include "cli/vm_file.h"
#include "vm/control_mirror.h"
#include "vm/control_saved.h"
#include "vm/migrate_out.h"

/* All zeros: there is none. */
struct guest_control {
	struct control *control;
	struct control_saved *saved;
	struct control_mirror *mirror;
	struct migrate_out *migrate;
};

/*
 * Opens the socket that @what asks for, if it does. Signals that end the run have handlers already, or the path may stay
 * behind.
 * @what: stays until guest_control_close()
 * @vm: what clients find behind it from the beginning; NULL: nothing until guest_control_attach()
 * Errors: those of control_open() with @err "--control ..."; nothing is left open.
 */
int guest_control_open(struct guest_control *g, const struct vm_description *what, struct vm *vm,
		       struct error *err);
/* From now on commands reach @vm; while it does not run. */
void guest_control_attach(struct guest_control *g, struct vm *vm);
/* Before the VM is destroyed. */
void guest_control_close(struct guest_control *g);
/* As control_unlink(). */
void guest_control_unlink(const struct guest_control *g);

#endif
