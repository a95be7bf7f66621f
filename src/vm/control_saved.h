/* Commands of the control socket that save a VM: suspend, checkpoint, query-checkpoint. */
#ifndef GNOMON_VM_CONTROL_SAVED_H
#define GNOMON_VM_CONTROL_SAVED_H

#include "vm/control.h"

struct control_saved;
/* Adds the commands; before control_open(). -ENOMEM, -ENOSPC. */
int control_saved_create(struct control_saved **out, struct control *c, struct error *err);
/*
 * After control_detach(), and before control_destroy() and the end of the VM: completes what is being written. NULL is
 * fine.
 */
void control_saved_destroy(struct control_saved *s);

#endif
