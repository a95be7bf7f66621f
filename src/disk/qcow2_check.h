/* Checking a qcow2 image; see disk/image.h. */
#ifndef GNOMON_DISK_QCOW2_CHECK_H
#define GNOMON_DISK_QCOW2_CHECK_H

#include "disk/image.h"

int q2_check(struct disk *d, enum disk_repair how, struct disk_check *c, struct error *err);

#endif
