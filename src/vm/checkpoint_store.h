/*
 * Checkpoints as files in a directory: which there are and what stands on what, and taking one out of a chain.
 */
#ifndef GNOMON_VM_CHECKPOINT_STORE_H
#define GNOMON_VM_CHECKPOINT_STORE_H

#include "vm/saved.h"

struct checkpoint_entry {
	char *name;             /* of the file, in its directory */
	struct saved_info info; /* disks and strings are not kept: disks is their number only */
	char *parent;           /* name of the file that its parent link names; NULL */
	uint64_t bytes;         /* of the file */
	const char *problem;    /* NULL, or why it cannot be restored: "parent is missing", ... */
};

struct checkpoint_list {
	struct checkpoint_entry *entry; /* by the time they were taken */
	unsigned count;
};

/*
 * All states of VMs in a directory, suspended ones too; other files are passed over, damaged ones are told of by their
 * problem. -errno of the host.
 */
int checkpoint_list_read(struct checkpoint_list *list, const char *directory, struct error *err);
void checkpoint_list_free(struct checkpoint_list *list);

/*
 * Deletes a checkpoint. What stands on it takes over the pages it needs first, file by file, each of which is replaced
 * whole: if this is interrupted, everything can be restored still, and it can be done again.
 * Waits until nobody writes checkpoints to the directory, or opens some.
 * -ECANCELED: a signal came, or @progress said so; -EBADMSG: it is damaged, or a file is, in the directory, that could
 * need it; of the host
 * @progress: of pages; may be NULL
 * @children: receives how many files took over pages
 */
int checkpoint_delete(const char *path, const struct saved_progress *progress, unsigned *children, struct error *err);

#endif
