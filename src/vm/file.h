/* The contents of a host file in memory: what loaders parse. */
#ifndef GNOMON_VM_FILE_H
#define GNOMON_VM_FILE_H

#include "base/error.h"
#include <stdint.h>

struct blob {
	const char *name; /* for messages */
	uint8_t *data;
	uint64_t bytes;
};

/*
 * Reads a whole file.
 * @what: "kernel", "initrd": opens the message
 * @name: path; must outlive the blob
 * @max: largest size accepted, in bytes
 * -errno of open/read, -EISDIR, -EFBIG, -EINVAL if the file is empty, -ENOMEM; nothing is allocated on error.
 */
int blob_read(struct blob *b, const char *what, const char *name, uint64_t max, struct error *err);
/* A copy of @bytes (> 0) at @data. -ENOMEM. */
int blob_copy(struct blob *b, const char *name, const void *data, uint64_t bytes, struct error *err);
void blob_free(struct blob *b);

#endif
