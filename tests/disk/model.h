/*
 * What an image should contain: plain arrays in memory beside a chain of images on the disk, and random operations that
 * are done to both.
 */
#ifndef GNOMON_TEST_DISK_MODEL_H
#define GNOMON_TEST_DISK_MODEL_H

#include "disk/image.h"
#include <stddef.h>

#define MODEL_CHAIN 6
#define MODEL_SNAPSHOTS 8

struct model_image {
	char path[160];
	bool raw;
	uint64_t bytes;
	uint8_t *data;
	struct { char name[16]; uint64_t bytes; uint8_t *data; } snapshot[MODEL_SNAPSHOTS];
	unsigned snapshots;
};

struct model {
	const char *dir;
	uint64_t seed, random;
	unsigned version, refcount_bits;
	uint64_t cluster, max_bytes;
	struct model_image image[MODEL_CHAIN];
	unsigned depth;       /* images in the chain; the last is open */
	struct disk *disk;
	struct disk_options options;
	unsigned names;
	unsigned long done[16]; /* operations by kind */
};

extern const char *const model_op_name[16]; /* ends with NULL */

uint64_t model_random(struct model *m, uint64_t below);
/* Makes a directory: in $TMPDIR, in memory if there is a file system in it, or in /tmp. */
void model_directory(char *dir, size_t bytes, const char *name);
/* Makes an empty image of random kind and opens it. */
void model_begin(struct model *m, const char *dir, uint64_t seed);
/* One random operation. */
void model_step(struct model *m);
/* Reads everything; aborts at a difference. */
void model_compare(struct model *m);
/* Closes, checks with the project's own check, opens again. */
void model_reopen(struct model *m);
/* Closes, and removes the files. */
void model_end(struct model *m);
/* Aborts with a message unless @ret is 0. */
void model_must(int ret, const struct error *err, const char *what);

#endif
