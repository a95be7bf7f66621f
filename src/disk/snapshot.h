/* A disk whose changes are thrown away: see snapshot.c. */
#ifndef GNOMON_DISK_SNAPSHOT_H
#define GNOMON_DISK_SNAPSHOT_H

#include "disk/disk.h"

/*
 * Opens an image for reading and puts a layer over it that takes what is written, until it is closed. Reads and
 * writes see the layer first. Errors as disk_open(), and those of a temporary file in TMPDIR (default /var/tmp).
 */
int disk_open_snapshot(struct disk **out, const char *path, const struct disk_options *o, struct error *err);

#endif
