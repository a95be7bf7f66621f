/* What is done with images as a whole, and is not a matter of one format: see image.h. */
#include "disk/image.h"
#include "disk/disk_impl.h"
#include "disk/qcow2.h"
#include "disk/qcow2_check.h"
#include "disk/qcow2_create.h"
#include "disk/qcow2_rewrite.h"
#include "disk/qcow2_snapshot.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define COPY_BYTES (1u << 20) /* copied at a time */

static bool is_qcow2(const struct disk *d) { return d->ops->format == DISK_FORMAT_QCOW2; }

/* ---- making ---- */

/* The backing file must be there and make sense; tells its format, and what is to be as it has it. */
static int look_below(const char *path, struct disk_create_options *o, enum disk_format *format, struct error *err)
{
	const struct disk_options below = {.read_only = true, .format = o->backing_format, .tap = o->tap};
	struct disk *d;
	char *name;
	int ret = disk_backing_path(&name, path, o->backing, err);

	if (ret)
		return ret;
	ret = disk_open(&d, name, &below, err);
	free(name);
	if (ret)
		return ret;
	if (!o->bytes)
		o->bytes = (d->bytes + 511) & ~511ull;
	if (!o->cluster_bytes && is_qcow2(d))
		o->cluster_bytes = qcow2_of(d)->cluster_bytes;
	*format = d->ops->format;
	return disk_close(d, err);
}

static int fill(struct file *f, const struct disk_create_options *o, const char *backing_format, struct error *err)
{
	int ret = o->format == DISK_FORMAT_RAW ? file_truncate(f, o->bytes, err)
	                                       : q2_create(f, o, o->bytes, backing_format, err);

	if (!ret)
		ret = file_sync(f, err);
	return ret ? ret : file_publish(f, err);
}

int disk_create(const char *path, const struct disk_create_options *options, struct error *err)
{
	struct disk_create_options o = *options;
	enum disk_format format = DISK_FORMAT_PROBE;
	struct file f;
	int ret = 0;

	if (o.format == DISK_FORMAT_RAW && (o.backing || o.cluster_bytes || o.refcount_bits || o.version))
		return error_set(err, -EINVAL, "%s: a raw image has no clusters and no image below it", path);
	if (o.backing)
		ret = look_below(path, &o, &format, err);
	if (!ret)
		ret = file_create(&f, path, o.tap, err);
	if (ret)
		return ret;
	ret = fill(&f, &o, disk_format_name(format), err);
	file_close(&f);
	return ret;
}

/* The way from a directory to a file, both absolute: "../" for what they do not share, then the rest. */
static char *relative_path(const char *dir, const char *file)
{
	size_t shared = 0, ups = 0;
	char *out, *p;

	for (size_t i = 0;; i++) {
		if ((dir[i] == '/' || !dir[i]) && file[i] == '/')
			shared = i;
		if (!dir[i] || dir[i] != file[i])
			break;
	}
	for (const char *d = dir + shared; *d; d++)
		ups += *d == '/' && d[1];
	out = p = malloc(3 * ups + strlen(file) + 1);
	for (; p && ups; ups--)
		p = stpcpy(p, "../");
	if (p)
		strcpy(p, file + shared + 1);
	return out;
}

int disk_name_for(const char *base, bool absolute, const char *path, char **name, struct error *err)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("."), *real_dir, *real_base;

	*name = NULL;
	real_dir = dir ? realpath(dir, NULL) : NULL;
	if (!real_dir)
		error_set(err, dir ? -errno : -ENOMEM, "%s: cannot create: %s", path, strerror(dir ? errno : ENOMEM));
	real_base = real_dir ? realpath(base, NULL) : NULL;
	if (real_dir && !real_base)
		error_set(err, -errno, "%s: cannot open: %s", base, strerror(errno));
	if (real_base)
		*name = absolute ? strdup(base)
		                     : relative_path(strcmp(real_dir, "/") == 0 ? "" : real_dir, real_base);
	if (real_base && !*name)
		error_set(err, -ENOMEM, "%s: out of memory", path);
	free(dir);
	free(real_dir);
	free(real_base);
	return *name ? 0 : err ? err->code : -EIO;
}

int disk_branch(const char *base, const char *path, struct error *err)
{
	struct disk_create_options o = {0};
	struct error why = {0};
	char *name;
	int ret = disk_name_for(base, *base == '/', path, &name, &why);

	o.backing = name;
	if (!ret)
		ret = disk_create(path, &o, &why);
	free(name);
	return ret ? error_set(err, ret, "%s", why.text) : 0;
}

/* ---- size ---- */

/* The new part must not show what the image below has there. */
static int clear_grown(struct qcow2 *q, uint64_t from, uint64_t to, struct error *err)
{
	uint64_t cluster_end = (from + q->cluster_bytes - 1) & ~(q->cluster_bytes - 1);
	uint64_t below = q->disk.backing ? q->disk.backing->bytes : 0, end = min_u64(to, max_u64(below, cluster_end));
	int ret = 0;

	if (end > from)
		ret = q2_write_zeroes(&q->disk, from, end - from, true, err);
	return ret ? ret : q2_flush(&q->disk, err);
}

static int q2_resize(struct qcow2 *q, uint64_t bytes, struct error *err)
{
	uint64_t old = q->h.size;
	int ret;

	if (bytes % 512)
		return error_set(err, -EINVAL, "%s: a disk of %llu bytes: not a multiple of 512", q2_path(q),
				 (unsigned long long)bytes);
	ret = q2_begin_change(q, err);
	if (!ret)
		ret = q2_grow_l1(q, bytes, err);
	if (ret)
		return ret;
	q->disk.bytes = bytes;
	ret = clear_grown(q, old, bytes, err);
	q->h.size = bytes;
	if (!ret)
		ret = q2_header_update(&q->disk.file, &q->h, err);
	if (!ret)
		ret = file_sync(&q->disk.file, err);
	if (ret)
		q->disk.bytes = q->h.size = old;
	return ret;
}

int disk_resize(struct disk *d, uint64_t bytes, struct error *err)
{
	int ret;

	if (d->read_only)
		return error_set(err, -EROFS, "%s: open for reading only", d->file.path);
	if (bytes < d->bytes)
		return error_set(
		        err, -ENOTSUP,
		        "%s: has %llu bytes; a disk cannot be made smaller, as that would cut off data",
		        d->file.path, (unsigned long long)d->bytes);
	if (bytes == d->bytes)
		return 0;
	if (is_qcow2(d))
		return q2_resize(qcow2_of(d), bytes, err);
	if (d->file.device)
		return error_set(err, -ENOTSUP, "%s: a block device has the size it has", d->file.path);
	ret = file_truncate(&d->file, bytes, err);
	if (!ret)
		d->bytes = bytes;
	return ret;
}

/* ---- snapshots ---- */

int disk_snapshots(struct disk *d, struct disk_snapshot **list, unsigned *count, struct error *err)
{
	struct q2_snapshots t = {0};
	int ret = is_qcow2(d) ? q2_snapshots_load(qcow2_of(d), &t, err) : 0;

	if (ret)
		return ret;
	*count = 0;
	*list = calloc(t.count + 1ull, sizeof(**list));
	for (uint32_t i = 0; *list && i < t.count; i++) {
		(*list)[i] = (struct disk_snapshot){t.s[i].id, t.s[i].name, t.s[i].disk_bytes,
		                                    t.s[i].state_bytes, t.s[i].seconds};
		t.s[i].id = t.s[i].name = NULL;
		++*count;
	}
	q2_snapshots_free(&t);
	return *list ? 0 : error_set(err, -ENOMEM, "%s: out of memory", d->file.path);
}

void disk_snapshots_free(struct disk_snapshot *list, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		free(list[i].id);
		free(list[i].name);
	}
	free(list);
}

int disk_snapshot_take(struct disk *d, const char *name, struct error *err) { return q2_snapshot_take(d, name, err); }
int disk_snapshot_apply(struct disk *d, const char *name, struct error *err) { return q2_snapshot_apply(d, name, err); }
int disk_snapshot_delete(struct disk *d, const char *name, struct error *err)
{
	return q2_snapshot_delete(d, name, err);
}

/* ---- copying ---- */

int disk_report(const struct disk_progress *p, const struct disk *d, uint64_t done, uint64_t total, struct error *err)
{
	if (!p || !p->report(p->ctx, done, total))
		return 0;
	return error_set(err, -EINTR, "%s: interrupted", d->file.path);
}

int disk_extent_in_chain(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err)
{
	int ret = disk_extent(d, at, bytes, x, err);

	while (!ret && x->kind == DISK_X_BELOW) {
		d = d->backing;
		if (!d || at >= d->bytes) {
			x->kind = DISK_X_ZERO;
			return 0;
		}
		ret = disk_extent(d, at, min_u64(x->bytes, d->bytes - at), x, err);
	}
	return ret;
}

/* @skip_zero: what reads as zeroes need not be written */
static int copy_range(struct disk *from, struct disk *to, uint64_t at, uint64_t bytes, bool skip_zero, uint8_t *buf,
		      struct error *err)
{
	int ret = disk_read(from, at, buf, bytes, err);

	if (ret || (skip_zero && !buf[0] && memcmp(buf, buf + 1, bytes - 1) == 0))
		return ret;
	return disk_write(to, at, buf, bytes, err);
}

int disk_copy(struct disk *from, struct disk *to, const struct disk_progress *p, struct error *err)
{
	uint8_t *buf = malloc(COPY_BYTES);
	struct disk_extent x;
	int ret = buf ? 0 : error_set(err, -ENOMEM, "%s: out of memory", to->file.path);

	if (to->bytes < from->bytes)
		ret = error_set(err, -EINVAL, "%s: smaller than %s", to->file.path, from->file.path);
	for (uint64_t at = 0; at < from->bytes && !ret; at += x.bytes) {
		ret = disk_extent_in_chain(from, at, from->bytes - at, &x, err);
		if (ret)
			break;
		if (x.kind == DISK_X_DATA) {
			x.bytes = min_u64(x.bytes, COPY_BYTES);
			ret = copy_range(from, to, at, x.bytes, true, buf, err);
		}
		if (!ret)
			ret = disk_report(p, from, at + x.bytes, from->bytes, err);
	}
	free(buf);
	return ret ? ret : disk_flush(to, err);
}

/* One extent of an image to the image below it. */
static int commit_extent(struct disk *d, uint64_t at, struct disk_extent *x, uint8_t *buf, struct error *err)
{
	if (x->kind == DISK_X_BELOW)
		return 0;
	if (x->kind == DISK_X_ZERO)
		return disk_write_zeroes(d->backing, at, x->bytes, true, err);
	x->bytes = min_u64(x->bytes, COPY_BYTES);
	return copy_range(d, d->backing, at, x->bytes, false, buf, err);
}

int disk_commit(struct disk *d, const struct disk_progress *p, struct error *err)
{
	struct disk_extent x;
	uint8_t *buf;
	int ret = 0;

	if (!d->backing)
		return error_set(err, -EINVAL, "%s: there is no image below it", d->file.path);
	if (d->read_only || d->backing->read_only)
		return error_set(err, -EROFS, "%s: open for reading only",
		                 d->read_only ? d->file.path : d->backing->file.path);
	buf = malloc(COPY_BYTES);
	if (!buf)
		return error_set(err, -ENOMEM, "%s: out of memory", d->file.path);
	if (d->backing->bytes < d->bytes)
		ret = disk_resize(d->backing, d->bytes, err);
	for (uint64_t at = 0; at < d->bytes && !ret; at += x.bytes) {
		ret = disk_extent(d, at, d->bytes - at, &x, err);
		if (!ret)
			ret = commit_extent(d, at, &x, buf, err);
		if (!ret)
			ret = disk_report(p, d, at + x.bytes, d->bytes, err);
	}
	free(buf);
	if (!ret)
		ret = disk_flush(d->backing, err);
	return ret ? ret : q2_make_empty(qcow2_of(d), err);
}

/* ---- looking ---- */

int disk_check(struct disk *d, enum disk_repair repair, struct disk_check *c, struct error *err)
{
	*c = (struct disk_check){.say = c->say, .ctx = c->ctx};
	if (repair != DISK_REPAIR_NONE && d->read_only)
		return error_set(err, -EROFS, "%s: open for reading only", d->file.path);
	c->end = d->file.bytes;
	return is_qcow2(d) ? q2_check(d, repair, c, err) : 0;
}

int disk_info(struct disk *d, struct disk_info *info, struct error *err)
{
	const struct q2_header *h = &qcow2_of(d)->h;
	struct stat st;

	if (fstat(d->file.fd, &st))
		return error_set(err, -errno, "%s: %s", d->file.path, strerror(errno));
	*info = (struct disk_info){.format = d->ops->format, .bytes = d->bytes, .file_bytes = d->file.bytes,
				   .host_bytes = 512ull * (uint64_t)st.st_blocks};
	if (!is_qcow2(d))
		return 0;
	info->version = h->version;
	info->refcount_bits = 1u << h->refcount_order;
	info->cluster_bytes = 1ull << h->cluster_bits;
	info->lazy_refcounts = h->compatible & Q2_LAZY;
	info->dirty = h->incompatible & Q2_DIRTY;
	info->corrupt = h->incompatible & Q2_CORRUPT;
	info->subclusters = h->incompatible & Q2_EXTENDED_L2;
	info->zstd = h->compression == Q2_ZSTD;
	info->backing = *h->backing ? h->backing : NULL;
	info->backing_format = *h->backing_format ? h->backing_format : NULL;
	return 0;
}
