/* Commands of the control socket that copy a disk in use: mirror, query-mirror. */
#ifndef GNOMON_VM_CONTROL_MIRROR_H
#define GNOMON_VM_CONTROL_MIRROR_H

#include "vm/control.h"

struct control_mirror;
/* Adds the commands; before control_open(). -ENOMEM, -ENOSPC. */
int control_mirror_create(struct control_mirror **out, struct control *c, struct error *err);
/* On the VM's thread, after control_detach() and before control_destroy(): ends what is under way. NULL is fine. */
void control_mirror_destroy(struct control_mirror *cm);

#endif
