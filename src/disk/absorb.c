/*
 * An image takes over what the one below it has, and stands on what that one stood on: disk_absorb() in image.h. First
 * the data are copied, which changes no contents; then one write of the header names another image.
 */
#include "disk/image.h"
#include "disk/disk_impl.h"
#include "disk/qcow2.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

#define COPY_BYTES (1ull << 20)

struct absorption {
	struct qcow2 *q;
	struct disk *base, *below; /* the image that is absorbed, and the one it stands on or NULL */
	uint8_t *buf;
	uint64_t buf_bytes;
};

/* What the base has itself at @at; behind its end it has zeroes. */
static int base_extent(const struct absorption *a, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err)
{
	if (at < a->base->bytes)
		return disk_extent(a->base, at, min_u64(bytes, a->base->bytes - at), x, err);
	*x = (struct disk_extent){.kind = DISK_X_ZERO, .bytes = bytes};
	return 0;
}

/* Will whole clusters read as zeroes without an entry of their own? */
static bool is_zero_below(const struct absorption *a, uint64_t at) { return !a->below || at >= a->below->bytes; }

/* Clusters of which nothing is in the image become zeroes, above the image that will be below. */
static int put_zeroes(struct absorption *a, uint64_t at, uint64_t bytes, struct error *err)
{
	struct disk *d = &a->q->disk;
	int ret;

	if (is_zero_below(a, at))
		return 0;
	d->backing = a->below;
	ret = q2_write_zeroes(d, at, bytes, true, err);
	d->backing = a->base;
	return ret;
}

static int put_copy(struct absorption *a, uint64_t at, uint64_t bytes, struct error *err)
{
	struct disk *d = &a->q->disk;
	int ret = disk_read(d, at, a->buf, bytes, err);

	if (ret)
		return ret;
	if (!a->buf[0] && memcmp(a->buf, a->buf + 1, bytes - 1) == 0)
		return put_zeroes(a, at, bytes, err);
	return disk_write(d, at, a->buf, bytes, err);
}

/*
 * One piece of what the image does not have: whole clusters, or to the end of the disk.
 * *bytes: at most; then what was done
 */
static int absorb_piece(struct absorption *a, uint64_t at, uint64_t *bytes, struct error *err)
{
	uint64_t mask = a->q->cluster_bytes - 1, all = *bytes, whole, touched;
	struct disk_extent x;
	int ret = base_extent(a, at, all, &x, err);

	if (ret)
		return ret;
	whole = x.bytes == all ? all : x.bytes & ~mask;
	touched = min_u64(all, (x.bytes + mask) & ~mask);
	if (x.kind != DISK_X_DATA && whole) {
		*bytes = whole;
		return x.kind == DISK_X_ZERO ? put_zeroes(a, at, whole, err) : 0;
	}
	*bytes = min_u64(touched, a->buf_bytes);
	return put_copy(a, at, *bytes, err);
}

static int copy_all(struct absorption *a, const struct disk_progress *p, struct error *err)
{
	struct disk *d = &a->q->disk;
	struct disk_extent x;
	int ret = 0;

	for (uint64_t at = 0; at < d->bytes && !ret; at += x.bytes) {
		ret = disk_extent(d, at, d->bytes - at, &x, err);
		if (!ret && x.kind == DISK_X_BELOW)
			ret = absorb_piece(a, at, &x.bytes, err);
		if (!ret)
			ret = disk_report(p, d, at + x.bytes, d->bytes, err);
	}
	return ret ? ret : q2_flush(d, err);
}

/* The name as the base has it if that leads to the same image, from another directory the way there. */
static int point_at_below(struct absorption *a, struct error *err)
{
	const char *as_named = ((struct qcow2 *)(void *)a->base)->h.backing;
	char *name = NULL;
	int ret = disk_name_for(a->below->file.path, *as_named == '/', q2_path(a->q), &name, err);

	if (!ret)
		ret = q2_header_set_backing(&a->q->h, &a->q->disk.file, name, disk_format_name(a->below->ops->format),
					    err);
	free(name);
	return ret;
}

static int change_below(struct absorption *a, struct error *err)
{
	struct disk *d = &a->q->disk;
	int ret = a->below ? point_at_below(a, err) : q2_header_set_backing(&a->q->h, &d->file, NULL, NULL, err);

	if (ret)
		return ret;
	d->backing = a->below;
	if (a->below)
		a->below->above = d;
	a->base->backing = NULL;
	return disk_close(a->base, err);
}

int disk_absorb(struct disk *d, const struct disk_progress *p, struct error *err)
{
	struct absorption a = {.base = d->backing};
	int ret;

	if (!d->backing || d->ops->format != DISK_FORMAT_QCOW2)
		return error_set(err, -EINVAL, "%s: there is no image below it", d->file.path);
	if (d->read_only)
		return error_set(err, -EROFS, "%s: open for reading only", d->file.path);
	a.q = qcow2_of(d);
	if (a.q->h.snapshots)
		return error_set(err, -ENOTSUP, "%s: has snapshots, which need the image below it", d->file.path);
	a.below = a.base->backing;
	a.buf_bytes = max_u64(COPY_BYTES, a.q->cluster_bytes);
	a.buf = malloc(a.buf_bytes);
	ret = a.buf ? copy_all(&a, p, err) : q2_no_memory(a.q, err);
	free(a.buf);
	return ret ? ret : change_below(&a, err);
}
