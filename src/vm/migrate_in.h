/*
 * The destination of a migration in a Gnomon that waits for a VM: what the protocol (vm/migrate.h) needs, done with a
 * VM made of what arrives and of what the owner says of the machine.
 */
#ifndef GNOMON_VM_MIGRATE_IN_H
#define GNOMON_VM_MIGRATE_IN_H

#include "vm/transport.h"
#include "vm/vm.h"

struct migrate_in_config {
	struct transport_address at;
	struct transport_config how;
	int64_t recover_ms;
	/*
	 * Called when all of a VM's state has come, before the other end is told: connects it to the world outside. An
	 * error keeps the VM at the source. @disconnect: it will not run here after all.
	 */
	int (*connect)(void *ctx, struct vm *vm, struct error *err);
	void (*disconnect)(void *ctx);
	/* Changes what the source says of the VM into what it is to be here. */
	int (*adapt)(void *ctx, struct vm_config *cfg, struct error *err);
	const char *disks;    /* where the images of disks that come along are made; NULL: disks are there already */
	void (*say)(void *ctx, const char *line); /* for the user; from any thread */
	void *ctx;
};

struct migrate_in;
/* Listens. @cfg: lasts as long as the result. Errors: those of files with keys, and of listening. */
int migrate_in_create(struct migrate_in **out, const struct migrate_in_config *cfg, struct error *err);
/* Where: "tcp:HOST:PORT". */
const char *migrate_in_name(const struct migrate_in *m);
/* Waits until a VM is to run here. -ECANCELED after migrate_in_cancel(). */
int migrate_in_wait(struct migrate_in *m, struct vm **out, struct error *err);
/* Ends waiting, and a post-copy that waits for its source: the VM fails then. Async-signal-safe. */
void migrate_in_cancel(struct migrate_in *m);
/*
 * The VM has ended, but is there: waits for what of its memory is still to come, and for the source to know that it
 * ran.
 */
void migrate_in_finish(struct migrate_in *m);
/* After vm_destroy(). NULL is fine. */
void migrate_in_free(struct migrate_in *m);

#endif
