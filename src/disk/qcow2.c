/*
 * Opening and closing qcow2 images, and the order in which what is in memory goes to the disk. Not
 * supported: encryption, external data files, and writing images with subclusters; persistent bitmaps
 * become invalid by writing, as the format provides for programs that do not know them.
 */
#include "disk/qcow2.h"
#include "disk/qcow2_rewrite.h"
#include "base/util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CACHE_BYTES   (32ull << 20)  /* of L2 tables: those of 256 GiB with the usual clusters */
#define PENDING_BYTES (256ull << 20) /* of clusters that wait to be freed */

int q2_damaged(const struct qcow2 *q, struct error *err, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return error_set(err, -EIO, "%s: damaged image: %s", q2_path(q), text);
}

int q2_no_memory(const struct qcow2 *q, struct error *err)
{
	return error_set(err, -ENOMEM, "%s: out of memory", q2_path(q));
}

void q2_mark_corrupt(struct qcow2 *q)
{
	q->h.incompatible |= Q2_CORRUPT; /* of version 2, until it is closed */
	if (q->h.version >= 3)
		q2_header_update(&q->disk.file, &q->h, NULL);
}

/* ---- the order ---- */

static int write_l1(struct qcow2 *q, struct error *err)
{
	uint32_t from = q->l1_dirty_from, count = q->l1_dirty_to - from;
	uint64_t *be = malloc(count * 8ull);
	int ret;

	if (!be)
		return q2_no_memory(q, err);
	for (uint32_t i = 0; i < count; i++)
		be[i] = htobe64(q->l1[from + i]);
	ret = file_write(&q->disk.file, q->h.l1_at + 8ull * from, be, count * 8ull, err);
	if (!ret)
		q->l1_dirty_from = q->l1_dirty_to = 0;
	free(be);
	return ret;
}

/*
 * Data are in the file already, and so are new L2 tables, as they were when they were made: empty, or copies.
 * Refcounts; barrier; L2 tables and the L1 table; barrier; then what is no longer referred to is free. Barriers with
 * nothing between them cost nothing.
 */
int q2_flush(struct disk *d, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	struct file *f = &d->file;
	bool l1 = q->l1_dirty_from != q->l1_dirty_to;
	int ret = 0;

	if (!q->writing)
		return file_sync(f, err);
	ret = q2_refcounts_write(q, err);
	if (!ret && (q->l2.dirty || l1))
		ret = file_sync(f, err);
	if (!ret)
		ret = q2_cache_write(&q->l2, f, err);
	if (!ret && l1)
		ret = write_l1(q, err);
	if (!ret)
		ret = file_sync(f, err);
	return ret ? ret : q2_free_pending(q, err);
}

int q2_settle(struct disk *d, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	int ret = q2_flush(d, err);

	if (!ret && q->writing)
		ret = q2_refcounts_write(q, err);
	if (!ret)
		ret = file_sync(&d->file, err);
	if (!ret)
		q2_end_writing(q);
	return ret;
}

int q2_begin_change(struct qcow2 *q, struct error *err)
{
	int ret = 0;

	if (unlikely(!q->l1))
		ret = q2_reload(q, err);
	if (!ret && unlikely(!q->writing))
		ret = q2_begin_writing(q, err);
	if (unlikely(q->disk.file.sync_error)) /* without barriers nothing can be changed in order */
		return file_sync(&q->disk.file, err);
	if (unlikely(q->h.incompatible & Q2_CORRUPT))
		return q2_damaged(q, err, "it must be repaired before it is written again");
	if (unlikely(q->pending_clusters << q->h.cluster_bits > PENDING_BYTES) && !ret)
		ret = q2_flush(&q->disk, err);
	return ret;
}

/* ---- opening ---- */

static uint64_t cache_slots(const struct qcow2 *q, uint64_t bytes, unsigned slice_bits)
{
	uint64_t reach = q->h.cluster_bits + slice_bits - q->entry_bits;
	uint64_t all = (q->h.size >> reach) + 2, most = (bytes ? bytes : CACHE_BYTES) >> slice_bits;

	return max_u64(4, min_u64(all, most));
}

static int load_l1(struct qcow2 *q, struct error *err)
{
	int ret;

	q->l1 = malloc(max_u64(8, 8ull * q->h.l1_size));
	if (!q->l1)
		return q2_no_memory(q, err);
	ret = file_read(&q->disk.file, q->h.l1_at, q->l1, 8ull * q->h.l1_size, err);
	for (uint32_t i = 0; i < q->h.l1_size; i++)
		q->l1[i] = be64toh(q->l1[i]);
	return ret;
}

static void forget(struct qcow2 *q)
{
	q2_end_writing(q);
	q2_cache_free(&q->l2);
	free(q->l1);
	free(q->edges);
	free(q->packed);
	q->l1 = NULL;
	q->edges = q->packed = NULL;
	q->unpacked_entry = 0;
	q->l1_dirty_from = q->l1_dirty_to = 0;
}

static int load(struct qcow2 *q, struct error *err)
{
	unsigned slice_bits;
	int ret = q2_header_read(&q->h, &q->disk.file, err);

	if (ret)
		return ret;
	slice_bits = q->h.cluster_bits < 12 ? q->h.cluster_bits : 12;
	q->cluster_bytes = 1ull << q->h.cluster_bits;
	q->entry_bits = q->h.incompatible & Q2_EXTENDED_L2 ? 4 : 3;
	q->l2_bits = q->h.cluster_bits - q->entry_bits;
	q->grain_bits = q->entry_bits == 4 ? q->h.cluster_bits - 5 : q->h.cluster_bits;
	q->block_bits = q->h.cluster_bits + 3 - q->h.refcount_order;
	q->disk.bytes = q->h.size;
	ret = load_l1(q, err);
	if (!ret && q2_cache_init(&q->l2, slice_bits, cache_slots(q, q->cache_bytes, slice_bits)))
		ret = q2_no_memory(q, err);
	return ret;
}

int q2_reload(struct qcow2 *q, struct error *err)
{
	int ret;

	forget(q);
	ret = load(q, err);
	if (ret)
		forget(q);
	return ret;
}

static int begin_writable(struct qcow2 *q, struct error *err)
{
	int ret = 0;

	if (q->h.incompatible & Q2_EXTENDED_L2)
		return error_set(err, -ENOTSUP,
		                 "%s: has subclusters (extended L2 entries), which can be read, not written",
		                 q2_path(q));
	if (q->h.incompatible & Q2_CORRUPT)
		return error_set(err, -EIO,
		                 "%s: is marked as corrupt; try 'check', and open it for reading only",
		                 q2_path(q));
	if (q->h.autoclear) { /* features that others keep, and that what is written here makes out of date */
		q->h.autoclear = 0;
		ret = q2_header_update(&q->disk.file, &q->h, err);
		if (!ret)
			ret = file_sync(&q->disk.file, err);
	}
	if (ret)
		return ret;
	/* Whoever wrote last kept no refcounts, and did not come to the end. */
	return q->h.incompatible & Q2_DIRTY ? q2_rebuild_refcounts(q, err) : 0;
}

/* ---- the image below ---- */

static int backing_format(const struct qcow2 *q, enum disk_format *format, struct error *err)
{
	const char *name = q->h.backing_format;

	*format = DISK_FORMAT_PROBE;
	if (!*name)
		return 0;
	for (*format = DISK_FORMAT_RAW; *format <= DISK_FORMAT_QCOW2; ++*format)
		if (strcmp(name, disk_format_name(*format)) == 0)
			return 0;
	return error_set(err, -ENOTSUP, "%s: the image below it is of format '%.40s', which is not supported",
	                 q2_path(q), name);
}

static int open_backing(struct qcow2 *q, const struct disk_options *o, struct error *err)
{
	struct disk_options below = *o;
	struct error why = {0};
	char *path = NULL;
	int ret = backing_format(q, &below.format, err);

	if (!ret)
		ret = disk_backing_path(&path, q2_path(q), q->h.backing, err);
	if (ret)
		return ret;
	below.read_only = !o->backing_writable;
	below.backing_writable = false;
	ret = disk_open_below(&q->disk.backing, path, &below, &q->disk, &why);
	free(path);
	if (!ret)
		return 0;
	if (q->disk.above) /* the message names the first image that cannot be opened, and the one above it */
		return error_set(err, ret, "%s", why.text);
	return error_set(err, ret, "%.200s: the image below it: %.300s", q2_path(q), why.text);
}

/* ---- as a disk ---- */

static int q2_close(struct disk *d, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	int ret = 0;

	if (q->writing)
		ret = q2_refcounts_write(q, err);
	if (!ret && !d->read_only)
		ret = file_sync(&d->file, err);
	forget(q);
	return ret;
}

const struct disk_ops q2_ops = {
	.format = DISK_FORMAT_QCOW2,
	.close = q2_close,
	.read = q2_read,
	.write = q2_write,
	.write_zeroes = q2_write_zeroes,
	.discard = q2_discard,
	.flush = q2_flush,
	.extent = q2_extent_at,
	.settle = q2_settle,
};

int q2_open(struct disk **out, struct file *f, const struct disk_options *o, const struct disk *above,
	    struct error *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int ret;

	if (!q)
		return error_set(err, -ENOMEM, "%s: out of memory", f->path);
	q->disk.ops = &q2_ops;
	q->disk.file = *f;
	q->disk.above = above;
	q->cache_bytes = o->cache_bytes;
	ret = load(q, err);
	if (!ret && !o->read_only && !o->repair)
		ret = begin_writable(q, err);
	if (!ret && *q->h.backing && !o->alone)
		ret = open_backing(q, o, err);
	if (!ret) {
		*out = &q->disk;
		return 0;
	}
	forget(q);
	free(q);
	return ret;
}
