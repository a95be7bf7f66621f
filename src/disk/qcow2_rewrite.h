/*
 * Changes of many refcounts at once: snapshots, dropping everything, repairs. The new refcounts are made
 * in memory; everything that differs is written to clusters that are free before and after; then one
 * write of the header, less than a sector, turns from the old tables to the new. A crash leaves the one
 * or the other, and no refcount is ever wrong.
 */
#ifndef GNOMON_DISK_QCOW2_REWRITE_H
#define GNOMON_DISK_QCOW2_REWRITE_H

#include "disk/qcow2.h"

struct q2_rewrite {
	struct qcow2 *q;
	struct q2_header h;  /* as it will be */
	uint8_t *refcount;   /* as they will be, in the image's own width */
	uint8_t *used;       /* a bit each: in use before */
	uint8_t *changed;    /* a bit for each refcount block */
	uint64_t clusters;   /* in these arrays: whole refcount blocks */
	uint64_t fresh;      /* clusters from here on are zeroes in the file */
	uint64_t loaded;     /* blocks that were there at the beginning */
	uint64_t hint;       /* no cluster below it is free before and after */
	uint64_t *rt;        /* offsets of blocks, 0: none yet */
	struct error *err;
};

/* Flushes the image and begins. Nothing of the disk changes before the commit. */
int q2_rewrite_begin(struct q2_rewrite *w, struct qcow2 *q, struct error *err);
/* Ends it without, or after, a commit. */
void q2_rewrite_end(struct q2_rewrite *w);
/* A refcount as it will be; 0 beyond the arrays. set: below w->clusters only. */
uint64_t q2_rewrite_get(const struct q2_rewrite *w, uint64_t cluster);
void q2_rewrite_set(struct q2_rewrite *w, uint64_t cluster, uint64_t n);
/* As set, of a cluster that is in use though its refcount did not say so, or the other way round. */
void q2_rewrite_mark(struct q2_rewrite *w, uint64_t cluster, uint64_t n);
/* -EIO if a refcount would become negative, -EOVERFLOW if it does not fit. */
int q2_rewrite_add(struct q2_rewrite *w, uint64_t first, uint64_t count, int by);
/* Clusters in a row. */
int q2_rewrite_alloc(struct q2_rewrite *w, uint64_t count, uint64_t *first);
/* Adds @by to the refcounts of everything an L1 table leads to: L2 tables and clusters. @l1: host's byte order */
int q2_rewrite_add_tree(struct q2_rewrite *w, uint64_t *l1, uint32_t size, int by);
/*
 * Makes flags in the L2 tables of an L1 table say of every cluster whether its refcount is one. Tables with wrong
 * flags stay; @refs references move from each to a corrected copy.
 */
int q2_rewrite_copied_flags(struct q2_rewrite *w, uint64_t *l1, uint32_t size, int refs);
/* Likewise in the L1 table itself, after all changes. */
void q2_rewrite_l1_flags(struct q2_rewrite *w, uint64_t *l1, uint32_t size);
/* Writes a table to new clusters. @offset: where it is then */
int q2_rewrite_table(struct q2_rewrite *w, const void *table, uint64_t bytes, uint64_t *offset);
/* As above, of an L1 table in the host's byte order. */
int q2_rewrite_l1(struct q2_rewrite *w, const uint64_t *l1, uint32_t size, uint64_t *offset);
/* Makes it happen. The image is loaded anew. */
int q2_rewrite_commit(struct q2_rewrite *w);

/* Counts all references and makes refcounts and flags of that; -EIO if the image is damaged otherwise. */
int q2_rebuild_refcounts(struct qcow2 *q, struct error *err);
/* A larger L1 table, if it is too small for @size bytes of disk. */
int q2_grow_l1(struct qcow2 *q, uint64_t size, struct error *err);
/* Gives up everything the image has itself, other than snapshots. */
int q2_make_empty(struct qcow2 *q, struct error *err);

#endif
