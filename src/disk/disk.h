/*
 * A virtual disk: an array of bytes in an image file, raw or qcow2, with the images below it.
 * One caller at a time, any thread; every call is complete when it returns. All functions return 0
 * or a negative errno with a line in @err; what a failed call changed of the disk's contents is
 * only bytes of the range it was asked to change, and the disk can be used further.
 */
#ifndef GNOMON_DISK_DISK_H
#define GNOMON_DISK_DISK_H

#include "base/error.h"
#include <stdbool.h>
#include <stdint.h>

struct disk;
struct file_tap; /* disk/file.h: sees and may fail every call to the host's file system; for tests */

enum disk_format { DISK_FORMAT_PROBE, DISK_FORMAT_RAW, DISK_FORMAT_QCOW2 };

struct disk_options {
	bool read_only;
	bool no_lock;               /* look at an image that others may be writing; needs read_only */
	bool alone;                 /* without the images below it: only what it has itself can be read */
	bool backing_writable;      /* the image below it is opened for writing, too */
	bool repair;                /* also an image that is marked as dirty or corrupt; to check and repair it only */
	enum disk_format format;    /* of the image itself; PROBE: by its first bytes */
	uint64_t cache_bytes;       /* of metadata, at most; 0: enough for most images */
	const struct file_tap *tap; /* NULL: none */
};

/*
 * Opens an image and the images below it, these read-only.
 * @o: NULL: for writing, with everything as 0 means
 * -errno of the host; -EBUSY if somebody uses the image in a way that excludes this; -EINVAL if it is
 * no image that makes sense; -ENOTSUP if it needs what is not supported (@err names it); -ELOOP if
 * there are too many images below it. *@out is set on success only.
 *
 * A guest that may write a raw disk may write a qcow2 header to its beginning. An image that was taken
 * for raw by its contents therefore refuses, with -EPERM, writes that would make it a qcow2 image.
 */
int disk_open(struct disk **out, const char *path, const struct disk_options *o, struct error *err);

/* Flushes and closes; the disk is gone whatever is returned. */
int disk_close(struct disk *d, struct error *err);

/* The virtual size in bytes; any number, not only whole sectors. */
uint64_t disk_bytes(const struct disk *d);
bool disk_read_only(const struct disk *d);
const char *disk_path(const struct disk *d);
enum disk_format disk_format(const struct disk *d);
/* "raw", "qcow2" */
const char *disk_format_name(enum disk_format f);
/* The image below it, NULL if there is none. */
struct disk *disk_backing(const struct disk *d);

/*
 * Ranges: @at and @bytes in bytes, of any alignment. -EINVAL beyond the end; -EROFS for changes of a
 * disk that is open read-only; -EIO or another errno of the host.
 */
int disk_read(struct disk *d, uint64_t at, void *buf, uint64_t bytes, struct error *err);
int disk_write(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err);
/* The range reads as zeroes. @may_unmap: room in the image may be given up for it. */
int disk_write_zeroes(struct disk *d, uint64_t at, uint64_t bytes, bool may_unmap, struct error *err);
/* The contents are no longer needed: each byte of the range reads as it was, or as zero. */
int disk_discard(struct disk *d, uint64_t at, uint64_t bytes, struct error *err);
/* What was written before is on stable storage when it returns 0. */
int disk_flush(struct disk *d, struct error *err);
/* The name of a new image is, too. From any thread. */
int disk_flush_name(struct disk *d, struct error *err);

#endif
