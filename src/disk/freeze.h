/*
 * Freezing the contents of a disk that is in use: its image gets a second name and is only read from then on, and what
 * the disk was opened as becomes an overlay on it that takes what is written. Time and room do not depend on the
 * disk's size. A crash at any moment leaves, under the old name, either the image or the overlay on it, with
 * everything that was written before.
 *
 * Left after a crash may be: an overlay under a name of its own (".NAME.freeze"), which the next attempt removes; and
 * the second name, for what the first one still names. That is no harm, and an attempt with the same name takes it.
 */
#ifndef GNOMON_DISK_FREEZE_H
#define GNOMON_DISK_FREEZE_H

#include "disk/disk.h"

/*
 * @d: the disk, open for writing; on success the overlay, which the caller has in its place: same contents, same size
 * (up to whole sectors). What it was is below it.
 * @base: what the image is called from now on: a name without directories; it stays where it is
 *
 * -EEXIST if another file has that name; -EINVAL if it is no name; -EROFS; -ENOTSUP for what has no file that can have
 * two names (a block device, a layer that is thrown away); -ESTALE if the disk's path names another file by now;
 * -ELOOP if there are too many images below each other; -errno of the host. *d is then as it was, and can be used.
 */
int disk_freeze(struct disk **d, const char *base, struct error *err);

/*
 * The same in steps, for several disks of which all are to be frozen or none:
 * prepare each (what can fail does, mostly here), switch each, then finish each; or undo each that was prepared.
 */
struct disk_freeze {
	struct disk *disk, *overlay;
	char *path;      /* of the file, without symbolic links */
	char *base;      /* what it will be called, likewise */
	char *temporary; /* what the overlay is called until it takes the file's name */
	char *given;     /* the path as the disk was opened, which is the overlay's from then on */
	bool linked, published, switched; /* how far it is; linked: the second name is new */
};
/* Nothing is to be undone if it fails. */
int disk_freeze_prepare(struct disk_freeze *z, struct disk *d, const char *base, struct error *err);
/* The path now names the overlay. If it fails, it is to be undone, too. */
int disk_freeze_switch(struct disk_freeze *z, struct error *err);
/* Everything is as before, as far as the host lets it; the disk can be used in any case. */
void disk_freeze_undo(struct disk_freeze *z);
/* Others may read what is frozen from now on. Returns what is to be used instead of the disk. */
struct disk *disk_freeze_finish(struct disk_freeze *z);

#endif
