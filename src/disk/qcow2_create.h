/* Making a qcow2 image; see disk/image.h. */
#ifndef GNOMON_DISK_QCOW2_CREATE_H
#define GNOMON_DISK_QCOW2_CREATE_H

#include "disk/image.h"
#include "disk/qcow2.h"

/*
 * Fills an empty file.
 * @bytes: virtual size
 * @backing_format: to be named if there is a backing file
 */
int q2_create(struct file *f, const struct disk_create_options *o, uint64_t bytes, const char *backing_format,
	      struct error *err);

#endif
