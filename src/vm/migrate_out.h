/*
 * The source of a migration in a running Gnomon: commands of the control socket (docs/control.md), a job with a thread
 * of its own, and what the protocol (vm/migrate.h) needs of the VM, done by the VM's thread between two runs.
 */
#ifndef GNOMON_VM_MIGRATE_OUT_H
#define GNOMON_VM_MIGRATE_OUT_H

#include "vm/control.h"

struct migrate_out;

/* Adds the commands migrate, query-migrate, migrate-cancel, migrate-recover, migrate-resume; before control_open(). */
int migrate_out_create(struct migrate_out **out, struct control *c, struct error *err);
/* After the VM's end, before control_destroy(): ends a migration that is under way. NULL is fine. */
void migrate_out_stop(struct migrate_out *m);
/* After control_destroy(). NULL is fine. */
void migrate_out_free(struct migrate_out *m);

#endif
