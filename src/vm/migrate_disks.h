/*
 * Disks that move with their VM. At the source each writable disk is mirrored (disk/mirror.h) while the guest uses it; what
 * its worker hands over waits in a queue, from which the thread of the migration sends it. At the destination it goes into
 * new images. Sections "mig.disk":
 *
 *	u32 disk (in the order of the configuration), u32 kind, u64 at, u64 bytes
 *	kind 0: the data; 1: zeros, no data; 2: the first of a disk, which has so many bytes: u32 enum disk_format, u32 0,
 *	u64 bytes of a cluster
 */
#ifndef GNOMON_VM_MIGRATE_DISKS_H
#define GNOMON_VM_MIGRATE_DISKS_H

#include "vm/migrate.h"
#include "vm/vm.h"

/* ---- the source ---- */

struct disks_out;
/* Gives the first section of each writable disk, before the VM's configuration. On the VM's thread. */
int disks_out_announce(struct vm *vm, migrate_put_section *put, void *to, struct error *err);
/* Begins to mirror all writable disks. On the VM's thread. *@out is NULL if there are none. -ENOMEM, of starting mirrors. */
int disks_out_begin(struct disks_out **out, struct vm *vm, struct error *err);
/*
 * Gives what waits to @put. From the thread that sends.
 * @left: receives how many bytes the other end lacks still; 0: it has all but what waits, or changes from now on
 * @any: was anything given?
 * Errors: of @put; what ended a mirror; -ENOBUFS: the guest writes so much faster than can be sent that too much waits.
 */
int disks_out_send(struct disks_out *d, migrate_put_section *put, void *to, uint64_t *left, bool *any, struct error *err);
/* The guest writes nothing any more: all that is left waits to be sent. On the VM's thread. */
int disks_out_complete(struct disks_out *d, struct error *err);
/* Ends all mirrors that were not completed, on the VM's thread, or after the VM's end. NULL is fine. */
void disks_out_end(struct disks_out *d);
void disks_out_free(struct disks_out *d);

/* ---- the destination ---- */

struct disks_in;
/*
 * Changes the paths of writable disks in a configuration to new ones in @directory, where nothing may be so called. The
 * strings are the result's. -EEXIST, -ENAMETOOLONG, -ENOMEM.
 */
int disks_in_create(struct disks_in **out, struct vm_config *cfg, const char *directory, struct error *err);
/* A section "mig.disk". The first ones come before the VM is made. -EPROTO: it makes no sense; of images. */
#define DISKS_FIRST_BYTES 40 /* of the payload of a first section */
int disks_in_take(struct disks_in *d, const uint8_t *data, size_t bytes, struct error *err);
/* All has come: on stable storage, and closed. -EPROTO: a disk has not come. */
int disks_in_finish(struct disks_in *d, struct error *err);
/* @keep: the images are the VM's; else they go. NULL is fine. */
void disks_in_free(struct disks_in *d, bool keep);

#endif
