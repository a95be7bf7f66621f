/*
 * Holding a VM back for a share of the host's time, so that it writes less: its thread sleeps now and then, between two
 * runs. In the guest's own time nothing happens.
 */
#ifndef GNOMON_VM_MIGRATE_THROTTLE_H
#define GNOMON_VM_MIGRATE_THROTTLE_H

#include "vm/control.h"

struct migrate_throttle;
int migrate_throttle_create(struct migrate_throttle **out, struct control *c, struct error *err);
/* From now on @percent of the time (0 to 99). One thread calls it. */
void migrate_throttle_set(struct migrate_throttle *t, unsigned percent);
/* While there may be a VM, or after it. NULL is fine. */
void migrate_throttle_free(struct migrate_throttle *t);

#endif
