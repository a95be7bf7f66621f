/*
 * An open qcow2 image, for the files that make up the format. The rules of what is written when are
 * in docs/storage.md; what keeps them is
 *
 *	qcow2_header.c    the header and its extensions
 *	qcow2_cache.c     slices of L2 tables and refcount blocks in memory
 *	qcow2_refcount.c  refcounts, allocation, what is freed later
 *	qcow2_map.c       from a guest offset to an extent of the file, and back into L2 tables
 *	qcow2_io.c        reading and writing
 *	qcow2.c           opening, flushing in order, closing
 *	qcow2_tx.c        changes of many refcounts that take effect by one write of the header
 *	qcow2_snapshot.c  snapshots; qcow2_check.c  consistency; qcow2_create.c  new images
 *
 * "Cluster" as a number is an offset in the file divided by the cluster size.
 */
#ifndef GNOMON_DISK_QCOW2_H
#define GNOMON_DISK_QCOW2_H

#include "disk/disk_impl.h"
#include "disk/qcow2_format.h"

/* What the header says, in the host's byte order; offsets and sizes in bytes unless named otherwise. */
struct q2_header {
	uint32_t version;
	uint64_t size;
	unsigned cluster_bits, refcount_order;
	uint32_t l1_size; /* entries */
	uint64_t l1_at, rt_at, snapshots_at;
	uint32_t rt_clusters, snapshots;
	uint64_t incompatible, compatible, autoclear;
	uint32_t length;
	uint8_t compression;
	uint64_t backing_at;
	uint32_t backing_bytes;
	char backing[Q2_NAME_MAX + 1]; /* as it stands there; "" if none */
	char backing_format[64];       /* "" if not said */
	uint64_t bitmaps_at, bitmaps_bytes; /* the directory of bitmaps */
	uint32_t bitmaps;
	uint8_t raw[Q2_H_BYTES]; /* the header as it stands on the disk */
};

/* Slices of metadata clusters, found by their offset in the file. */
struct q2_slot {
	uint64_t at;   /* 0: empty, as no table lies at the beginning */
	uint32_t next; /* in the hash chain: slot number + 1 */
	bool dirty, recent;
};

struct q2_cache {
	unsigned slice_bits, hash_bits;
	uint32_t slots, used, hand, dirty;
	uint32_t last; /* found last: slot number + 1 */
	struct q2_slot *slot;
	uint32_t *hash;
	uint8_t *data;
};

/* A set of clusters. */
struct q2_set {
	uint64_t *key; /* cluster + 1; 0: empty */
	uint64_t count, size;
};

struct q2_run {
	uint64_t first, count; /* clusters */
	bool punch;
};

struct qcow2 {
	struct disk disk;
	struct q2_header h;
	uint64_t cluster_bytes, cache_bytes;
	unsigned l2_bits;     /* log2 of the entries of an L2 table */
	unsigned entry_bits;  /* log2 of an entry's bytes */
	unsigned grain_bits;  /* log2 of the bytes a mapping can change by: a cluster, or a subcluster */
	unsigned block_bits;  /* log2 of the refcounts in a block */

	uint64_t *l1; /* entries in the host's byte order; NULL: could not be loaded again after a change */
	uint32_t l1_dirty_from, l1_dirty_to;
	struct q2_cache l2, rc;

	/* From the first write on. */
	bool writing;
	uint64_t *rt; /* likewise */
	uint32_t rt_size, rt_dirty_from, rt_dirty_to; /* entries */
	struct q2_set meta;    /* clusters of tables: data is never written there */
	uint64_t free_hint;    /* no cluster below it is free */
	uint64_t virgin;       /* clusters from here on were never written: the host has zeroes there */
	struct q2_run *pending; /* to be freed when the references to them are gone from the disk */
	uint32_t pendings, pending_room;
	uint64_t pending_clusters;

	uint8_t *edges;    /* two clusters */
	uint8_t *packed;   /* for decompression: a compressed cluster, and an unpacked one */
	uint64_t unpacked_entry;
};

static inline struct qcow2 *qcow2_of(struct disk *d) { return (struct qcow2 *)d; }
static inline const char *q2_path(const struct qcow2 *q) { return q->disk.file.path; }
static inline uint64_t q2_clusters_for(const struct qcow2 *q, uint64_t bytes)
{
	return (bytes >> q->h.cluster_bits) + ((bytes & (q->cluster_bytes - 1)) != 0);
}

/* -EIO with "PATH: damaged image: ..." */
int q2_damaged(const struct qcow2 *q, struct error *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int q2_no_memory(const struct qcow2 *q, struct error *err);

/* ---- qcow2_header.c ---- */

/* Reads and judges a header; what it says fits together and within the limits. -EINVAL, -ENOTSUP, -EIO. */
int q2_header_read(struct q2_header *h, struct file *f, struct error *err);
/*
 * Writes the fields that can change in an existing image: one write of less than a sector. The rest of the header
 * stays as it is.
 */
int q2_header_update(struct file *f, const struct q2_header *h, struct error *err);
/*
 * Names another image below, or none (NULL), in an image that has one: one write of a sector, between barriers. @h is read
 * anew. -ENOTSUP if that cannot be one write; -ENAMETOOLONG.
 */
int q2_header_set_backing(struct q2_header *h, struct file *f, const char *name, const char *format, struct error *err);

/* ---- qcow2_cache.c ---- */

int q2_cache_init(struct q2_cache *c, unsigned slice_bits, uint64_t slots);
void q2_cache_free(struct q2_cache *c);
/* The slot that has the slice, or NULL. */
struct q2_slot *q2_cache_find(struct q2_cache *c, uint64_t at);
/* A slot to be reused: it may be dirty. Not taken out of the cache yet. */
struct q2_slot *q2_cache_victim(struct q2_cache *c);
/* Makes a clean slot hold another slice, whose contents the caller provides. */
void q2_cache_put(struct q2_cache *c, struct q2_slot *s, uint64_t at);
/* Forgets all slices in a range of the file, changes too. */
void q2_cache_drop(struct q2_cache *c, uint64_t at, uint64_t bytes);
static inline uint8_t *q2_cache_data(const struct q2_cache *c, const struct q2_slot *s)
{
	return c->data + ((uint64_t)(s - c->slot) << c->slice_bits);
}
static inline void q2_cache_dirty(struct q2_cache *c, struct q2_slot *s)
{
	c->dirty += !s->dirty;
	s->dirty = true;
}
/* Writes dirty slices, neighbours in one go; in any order among them. What was not written stays dirty. */
int q2_cache_write(struct q2_cache *c, struct file *f, struct error *err);

bool q2_set_has(const struct q2_set *s, uint64_t cluster);
int q2_set_add(struct q2_set *s, uint64_t cluster);
void q2_set_remove(struct q2_set *s, uint64_t cluster);
void q2_set_free(struct q2_set *s);

/* ---- qcow2_refcount.c ---- */

/* One of an array of refcounts of 2^order bits. */
uint64_t q2_refcount_in(const void *array, unsigned order, uint64_t i);
void q2_refcount_put(void *array, unsigned order, uint64_t i, uint64_t n);
static inline uint64_t q2_refcount_max(unsigned order) { return order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1; }

/* Loads the refcount table and what else writing needs; once. */
int q2_begin_writing(struct qcow2 *q, struct error *err);
void q2_end_writing(struct qcow2 *q);
int q2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *n, struct error *err);
/*
 * Takes up to @want clusters in a row; each has refcount 1 afterwards.
 * @first, @got: which, and how many there are, at least one
 * @zero: they are known to be zeroes in the file. May be NULL.
 */
int q2_alloc(struct qcow2 *q, uint64_t want, uint64_t *first, uint64_t *got, bool *zero, struct error *err);
/* Gives back clusters to which there was never a reference. */
int q2_unalloc(struct qcow2 *q, uint64_t first, uint64_t count, struct error *err);
/* Makes room for that many calls of q2_free_later(). */
int q2_free_reserve(struct qcow2 *q, uint32_t calls, struct error *err);
/*
 * Drops one reference to each cluster; refcounts follow when the references are gone from the disk, too.
 * @punch: their room may be given back to the host
 */
void q2_free_later(struct qcow2 *q, uint64_t first, uint64_t count, bool punch);
/* They are gone from the disk. */
int q2_free_pending(struct qcow2 *q, struct error *err);
/* Writes changed refcounts, and the refcount table behind a barrier if it changed. */
int q2_refcounts_write(struct qcow2 *q, struct error *err);

/* ---- qcow2_map.c ---- */

enum q2_kind {
	Q2_K_UNALLOCATED, /* what the image below has there */
	Q2_K_ZERO,        /* zeroes without a cluster */
	Q2_K_ZERO_HELD,   /* zeroes, with a cluster that is kept for them */
	Q2_K_DATA,
	Q2_K_COMPRESSED,
};

struct q2_extent {
	enum q2_kind kind;
	uint64_t bytes; /* from the offset asked for */
	uint64_t host;  /* DATA, ZERO_HELD: the offset in the file */
	uint64_t entry; /* COMPRESSED: the L2 entry */
	bool copied;    /* DATA, ZERO_HELD: referred to only from here */
};

/* The clusters a compressed one touches, and its offset and size. */
void q2_compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *at, uint64_t *bytes);
/* What is at @at: an extent of one kind, contiguous in the file, of at most @bytes (> 0). */
int q2_map(struct qcow2 *q, uint64_t at, uint64_t bytes, struct q2_extent *x, struct error *err);
/* The entry's offset of an L1 table as an offset in the file, 0 if there is none. -EIO if it cannot be one. */
int q2_l2_at(const struct qcow2 *q, uint64_t l1_entry, uint64_t *at, struct error *err);
/* Bytes from @at on whose L2 entries lie in one slice. */
uint64_t q2_slice_reach(const struct qcow2 *q, uint64_t at);
/*
 * Sets the L2 entries of @count clusters from the one of guest offset @at on, all of one slice, to @entry, @entry
 * plus a cluster, ... (@step) or all to @entry. Clusters that the old entries held, other than those in the new ones,
 * are freed later.
 */
int q2_set_entries(struct qcow2 *q, uint64_t at, uint64_t count, uint64_t entry, bool step, bool punch,
                   struct error *err);
/* Makes sure that there is an L2 table for @at that is referred to only from here. */
int q2_own_l2(struct qcow2 *q, uint64_t at, struct error *err);
/* Is any of those bytes of the file part of a table? */
bool q2_hits_tables(const struct qcow2 *q, uint64_t host, uint64_t bytes);

/* ---- qcow2_io.c ---- */

int q2_read(struct disk *d, uint64_t at, void *buf, uint64_t bytes, struct error *err);
int q2_write(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err);
int q2_write_zeroes(struct disk *d, uint64_t at, uint64_t bytes, bool may_unmap, struct error *err);
int q2_discard(struct disk *d, uint64_t at, uint64_t bytes, struct error *err);
int q2_extent_at(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err);

/* ---- qcow2.c ---- */

/* Writes everything that is only in memory, in order. */
int q2_flush(struct disk *d, struct error *err);
/* Likewise, and refcounts that become lower by it: nothing is left to be written. The next change begins anew. */
int q2_settle(struct disk *d, struct error *err);
/* To be called before each change. -EIO if the image is known to be corrupt. */
int q2_begin_change(struct qcow2 *q, struct error *err);
/*
 * Drops what is known of the image and reads header and L1 table again; if that fails, it is tried again when needed.
 */
int q2_reload(struct qcow2 *q, struct error *err);
/* Sets the corrupt bit, so that nobody writes the image before it is repaired. */
void q2_mark_corrupt(struct qcow2 *q);

#endif
