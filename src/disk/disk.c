/* Opening by format, and the checks that all formats share. */
#include "disk/disk_impl.h"
#include "disk/qcow2_format.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const format_name[] = {[DISK_FORMAT_PROBE] = "probe", [DISK_FORMAT_RAW] = "raw",
					  [DISK_FORMAT_QCOW2] = "qcow2"};

const char *disk_format_name(enum disk_format f) { return format_name[f]; }
uint64_t disk_bytes(const struct disk *d) { return d->bytes; }
bool disk_read_only(const struct disk *d) { return d->read_only; }
const char *disk_path(const struct disk *d) { return d->file.path; }
enum disk_format disk_format(const struct disk *d) { return d->ops->format; }
struct disk *disk_backing(const struct disk *d) { return d->backing; }

/* ---- open and close ---- */

static int probe(struct file *f, enum disk_format *format, struct error *err)
{
	uint8_t magic[4];
	int ret = file_read(f, 0, magic, sizeof(magic), err);

	*format = !ret && memcmp(magic, Q2_MAGIC, sizeof(magic)) == 0 ? DISK_FORMAT_QCOW2 : DISK_FORMAT_RAW;
	return ret;
}

static int open_format(struct disk **out, struct file *f, const struct disk_options *o, const struct disk *above,
                       struct error *err)
{
	enum disk_format format = o->format;
	int ret = 0;

	if (format == DISK_FORMAT_PROBE)
		ret = probe(f, &format, err);
	if (!ret)
		ret = (format == DISK_FORMAT_QCOW2 ? q2_open : raw_open)(out, f, o, above, err);
	if (ret)
		return ret;
	(*out)->read_only = o->read_only;
	(*out)->probed = o->format == DISK_FORMAT_PROBE;
	return 0;
}

int disk_backing_path(char **out, const char *image, const char *backing, struct error *err)
{
	const char *colon = strchr(backing, ':'), *slash = strchr(backing, '/'), *dir_end = strrchr(image, '/');
	int n;

	if (strncmp(backing, "file:", 5) == 0)
		backing += 5;
	else if (colon && (!slash || colon < slash))
		return error_set(err, -ENOTSUP, "%s: the image below it, '%.200s', is no file", image, backing);
	n = *backing == '/' || !dir_end ? asprintf(out, "%s", backing) :
					  asprintf(out, "%.*s%s", (int)(dir_end - image + 1), image, backing);
	return n < 0 ? error_set(err, -ENOMEM, "%s: out of memory", image) : 0;
}

/* The chain ends, however the names in it lie. */
static int check_chain(const struct file *f, const struct disk *above, struct error *err)
{
	unsigned depth = 0;

	for (; above; above = above->above) {
		if (above->file.device_number == f->device_number && above->file.inode == f->inode)
			return error_set(err, -ELOOP, "%s: an image below itself", f->path);
		if (++depth == DISK_CHAIN_MAX)
			return error_set(err, -ELOOP, "%s: more than %u images below each other", f->path,
					 DISK_CHAIN_MAX);
	}
	return 0;
}

int disk_open_below(struct disk **out, const char *path, const struct disk_options *o, const struct disk *above,
		    struct error *err)
{
	struct file f;
	int ret = file_open(&f, path, o->read_only, o->tap, err);

	if (ret)
		return ret;
	ret = check_chain(&f, above, err);
	if (!ret && !o->no_lock)
		ret = file_lock(&f, err);
	if (!ret)
		ret = open_format(out, &f, o, above, err);
	if (ret)
		file_close(&f);
	return ret;
}

int disk_open(struct disk **out, const char *path, const struct disk_options *o, struct error *err)
{
	static const struct disk_options plain = {0};

	if (!o)
		o = &plain;
	if (o->no_lock && !o->read_only)
		return error_set(err, -EINVAL, "%s: to write an image it must be locked", path);
	return disk_open_below(out, path, o, NULL, err);
}

int disk_close(struct disk *d, struct error *err)
{
	int ret, ret2 = 0, ret3 = 0;

	if (!d)
		return 0;
	ret = disk_flush(d, err);
	if (d->ops->close)
		ret2 = d->ops->close(d, ret ? NULL : err);
	if (d->backing)
		ret3 = disk_close(d->backing, ret || ret2 ? NULL : err);
	file_close(&d->file);
	free(d);
	return ret ? ret : ret2 ? ret2 : ret3;
}

/* ---- reading and writing ---- */

static int check_range(const struct disk *d, uint64_t at, uint64_t bytes, struct error *err)
{
	if (at <= d->bytes && bytes <= d->bytes - at)
		return 0;
	return error_set(err, -EINVAL, "%s: %llu bytes at %llu are beyond the end of the disk (%llu bytes)",
	                 d->file.path, (unsigned long long)bytes, (unsigned long long)at,
	                 (unsigned long long)d->bytes);
}

static int check_change(const struct disk *d, uint64_t at, uint64_t bytes, struct error *err)
{
	if (d->read_only)
		return error_set(err, -EROFS, "%s: open for reading only", d->file.path);
	return check_range(d, at, bytes, err);
}

int disk_read(struct disk *d, uint64_t at, void *buf, uint64_t bytes, struct error *err)
{
	int ret = check_range(d, at, bytes, err);

	return ret || !bytes ? ret : d->ops->read(d, at, buf, bytes, err);
}

int disk_write(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	int ret = check_change(d, at, bytes, err);

	return ret || !bytes ? ret : d->ops->write(d, at, buf, bytes, err);
}

int disk_write_zeroes(struct disk *d, uint64_t at, uint64_t bytes, bool may_unmap, struct error *err)
{
	int ret = check_change(d, at, bytes, err);

	return ret || !bytes ? ret : d->ops->write_zeroes(d, at, bytes, may_unmap, err);
}

int disk_discard(struct disk *d, uint64_t at, uint64_t bytes, struct error *err)
{
	int ret = check_change(d, at, bytes, err);

	return ret || !bytes ? ret : d->ops->discard(d, at, bytes, err);
}

int disk_flush(struct disk *d, struct error *err)
{
	return d->read_only ? 0 : d->ops->flush(d, err);
}

int disk_flush_name(struct disk *d, struct error *err) { return file_sync_names(&d->file, d->file.path, err); }

int disk_extent(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err)
{
	int ret = check_range(d, at, bytes, err);

	*x = (struct disk_extent){.kind = DISK_X_DATA, .bytes = bytes};
	return ret || !d->ops->extent ? ret : d->ops->extent(d, at, bytes, x, err);
}
