/* What stands behind an open disk: shared by the formats and disk.c, by nobody else. */
#ifndef GNOMON_DISK_DISK_IMPL_H
#define GNOMON_DISK_DISK_IMPL_H

#include "disk/disk.h"
#include "disk/file.h"

#define DISK_CHAIN_MAX 256 /* images in a chain: how far a lying backing file name can lead */

/* What an image itself has in a range, without the images below it. */
struct disk_extent {
	enum { DISK_X_BELOW, DISK_X_ZERO, DISK_X_DATA } kind;
	uint64_t bytes; /* from the offset asked for, at least 1 */
	bool packed;    /* DATA: compressed */
};

/* The functions of disk.h, after ranges and rights were checked. */
struct disk_ops {
	enum disk_format format;
	int (*close)(struct disk *d, struct error *err); /* what is not in struct disk; may be NULL */
	int (*read)(struct disk *d, uint64_t at, void *buf, uint64_t bytes, struct error *err);
	int (*write)(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err);
	int (*write_zeroes)(struct disk *d, uint64_t at, uint64_t bytes, bool may_unmap, struct error *err);
	int (*discard)(struct disk *d, uint64_t at, uint64_t bytes, struct error *err);
	int (*flush)(struct disk *d, struct error *err);
	/* As flush, and nothing is left that closing would write. NULL: flush does that. */
	int (*settle)(struct disk *d, struct error *err);
	/* What is at @at; looks at @bytes (> 0) at most. May be NULL. */
	int (*extent)(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err);
};

/* The beginning of each format's own struct. */
struct disk {
	const struct disk_ops *ops;
	struct file file;
	uint64_t bytes; /* virtual size */
	bool read_only;
	bool probed;    /* the format is what its contents say */
	const struct disk *above; /* the image it is below of, NULL: the one asked for */
	struct disk *backing;
};

/*
 * Opens an image that is below another one.
 * @above: that one, NULL: none
 * -ELOOP if it is in the chain already, or DISK_CHAIN_MAX images are.
 */
int disk_open_below(struct disk **out, const char *path, const struct disk_options *o, const struct disk *above,
		    struct error *err);

/*
 * A format's opener: takes the file over on success only. What the caller sets afterwards: read_only, probed.
 * @above: as above, for the image's own backing file
 */
/*
 * The path of an image's backing file: a relative name is relative to the image.
 * -ENOTSUP if it is no name of a file (a URL, json:). *out is to be freed.
 */
int disk_backing_path(char **out, const char *image, const char *backing, struct error *err);
/*
 * What is to stand in an image at @path for the image @base below it, a path that is relative to the current directory;
 * @absolute: just that path. *name is to be freed.
 */
int disk_name_for(const char *base, bool absolute, const char *path, char **name, struct error *err);
struct disk_progress;
/* Tells how far it is; -EINTR if it is to be stopped. @p: may be NULL */
int disk_report(const struct disk_progress *p, const struct disk *d, uint64_t done, uint64_t total, struct error *err);
/* What is at @at; looks at @bytes (> 0) at most. */
int disk_extent(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err);
/* Likewise, by the first image in the chain that has anything: never DISK_X_BELOW. */
int disk_extent_in_chain(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err);

int q2_open(struct disk **out, struct file *f, const struct disk_options *o, const struct disk *above,
	    struct error *err);
int raw_open(struct disk **out, struct file *f, const struct disk_options *o, const struct disk *above,
	     struct error *err);

#endif
