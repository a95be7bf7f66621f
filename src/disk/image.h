/*
 * What is done with images as a whole: making, describing, snapshots, branches, checks. The same rules as in
 * disk.h; whatever is interrupted or fails leaves images as they were or as they should become.
 */
#ifndef GNOMON_DISK_IMAGE_H
#define GNOMON_DISK_IMAGE_H

#include "disk/disk.h"

/* Told how far long work has come, in bytes of the disk. Returns not 0 to have it stopped: -EINTR. May be NULL. */
struct disk_progress {
	int (*report)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
};

struct disk_create_options {
	enum disk_format format;       /* PROBE: qcow2 */
	uint64_t bytes;                /* virtual size; 0 with a backing file: as large */
	uint64_t cluster_bytes;        /* a power of two from 512 to 2 MiB; 0: as below it, 64 KiB without */
	unsigned refcount_bits;        /* a power of two up to 64; 0: 16 */
	unsigned version;              /* 2 or 3; 0: 3 */
	bool lazy_refcounts;           /* set the flag that lets others update refcounts lazily */
	bool zstd;                     /* the compression type that others will use */
	const char *backing;           /* as it will stand in the image: relative to the image; NULL: none */
	enum disk_format backing_format; /* PROBE: what it is */
	const struct file_tap *tap;
};

/*
 * Makes a new image; constant time and room, whatever the size. It appears complete or not at all.
 * -EEXIST; -EINVAL if the options make no sense; what opening the backing file gives.
 */
int disk_create(const char *path, const struct disk_create_options *o, struct error *err);

/*
 * Makes an image whose contents begin as @base has them, and which holds only what is changed from then on. @base must
 * not change any more. A relative @base stays relative, now to the new image. Errors as of disk_create().
 */
int disk_branch(const char *base, const char *path, struct error *err);

/* Makes the disk larger; what is added reads as zeroes. -ENOTSUP to make it smaller. */
int disk_resize(struct disk *d, uint64_t bytes, struct error *err);

struct disk_snapshot {
	char *id, *name;
	uint64_t disk_bytes;     /* virtual size of the disk then */
	uint64_t vm_state_bytes; /* of a machine's state that others put beside it */
	uint64_t seconds;        /* since 1970 */
};

/* All snapshots in an image; *list is for disk_snapshots_free(). A raw image has none. */
int disk_snapshots(struct disk *d, struct disk_snapshot **list, unsigned *count, struct error *err);
void disk_snapshots_free(struct disk_snapshot *list, unsigned count);
/*
 * Keeps the present contents under a name; goes back to what has a name (the present contents are lost); forgets
 * what has a name. @name: of a snapshot, or the id of one if no name is so.
 * -EEXIST; -ENOENT; -ENOTSUP for raw images; -EOVERFLOW if refcounts are too narrow.
 */
int disk_snapshot_take(struct disk *d, const char *name, struct error *err);
int disk_snapshot_apply(struct disk *d, const char *name, struct error *err);
int disk_snapshot_delete(struct disk *d, const char *name, struct error *err);

/*
 * Writes what an image has itself into the image below it, then gives it up; needs disk_options.backing_writable.
 * Until the end the image has everything, so it can be stopped and done again.
 */
int disk_commit(struct disk *d, const struct disk_progress *p, struct error *err);

/*
 * Takes what the image below has, and it has not, into an image, which stands on what that one stood on from then on:
 * nobody needs the one between for its sake any more. The contents stay the same at every moment; it can be stopped and
 * done again. The image must be open without others above it.
 * -EINVAL if there is none below; -ENOTSUP for an image with snapshots, which would lose what they stand on, or whose
 * header cannot be changed in one write; -EROFS.
 */
int disk_absorb(struct disk *d, const struct disk_progress *p, struct error *err);

/* Copies the contents of one disk to another that reads as zeroes and is not smaller. */
int disk_copy(struct disk *from, struct disk *to, const struct disk_progress *p, struct error *err);

enum disk_repair { DISK_REPAIR_NONE, DISK_REPAIR_LEAKS, DISK_REPAIR_ALL };

struct disk_check {
	uint64_t errors;      /* contradictions that can lose data */
	uint64_t leaks;       /* clusters that are not in use, nor free */
	uint64_t fixed_errors, fixed_leaks;
	uint64_t data_clusters, compressed_clusters, table_clusters;
	uint64_t end;         /* of the last cluster in use, in the file */
	bool marked_dirty, marked_corrupt;
	/* Takes a line for each of the first findings. May be NULL. */
	void (*say)(void *ctx, const char *text);
	void *ctx;
};

/*
 * Counts all references in an image and compares. The callback is set in @c, the rest is filled in. LEAKS: makes
 * lost clusters free; ALL: also corrects refcounts that are too low, and flags. Repairs only an image without
 * contradictions of other kinds. 0 whatever is found; an error if it cannot be checked.
 */
int disk_check(struct disk *d, enum disk_repair repair, struct disk_check *c, struct error *err);

/* What is known of an image without reading its data. */
struct disk_info {
	enum disk_format format;
	uint64_t bytes, file_bytes, host_bytes; /* virtual; length of the file; room it takes */
	const char *backing, *backing_format;   /* as they stand in it; NULL if not there; gone with the disk */
	/* qcow2 */
	unsigned version, refcount_bits;
	uint64_t cluster_bytes;
	bool lazy_refcounts, dirty, corrupt, subclusters, zstd;
};
int disk_info(struct disk *d, struct disk_info *info, struct error *err);

#endif
