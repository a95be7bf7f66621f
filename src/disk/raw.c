/* Raw images: the file is the disk. A hole is what was never written, or discarded. */
#include "disk/disk_impl.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct raw {
	struct disk disk;
	uint64_t data_at, data_end; /* no hole when it was last looked for */
};

static struct raw *raw_of(struct disk *d) { return (struct raw *)(void *)d; }

static int raw_read(struct disk *d, uint64_t at, void *buf, uint64_t bytes, struct error *err)
{
	return file_read(&d->file, at, buf, bytes, err);
}

/*
 * What a write from @at on leaves in the first four bytes; a raw disk whose guest writes the magic of
 * another format there must not become one with backing files of the guest's choice.
 */
static int check_magic(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	uint8_t magic[4];
	int ret;

	if (!d->probed || at >= sizeof(magic))
		return 0;
	ret = file_read(&d->file, 0, magic, sizeof(magic), err);
	if (ret)
		return ret;
	memcpy(magic + at, buf, min_u64(bytes, sizeof(magic) - at));
	if (memcmp(magic, "QFI\xfb", sizeof(magic)) != 0)
		return 0;
	return error_set(err, -EPERM, "%s: refused to make a qcow2 image of a raw one by writing to its beginning "
			 "(give the format to allow it)", d->file.path);
}

static int raw_write(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	int ret = check_magic(d, at, buf, bytes, err);

	return ret ? ret : file_write(&d->file, at, buf, bytes, err);
}

static int raw_write_zeroes(struct disk *d, uint64_t at, uint64_t bytes, bool may_unmap, struct error *err)
{
	return may_unmap ? file_punch(&d->file, at, bytes, err) : file_zero(&d->file, at, bytes, err);
}

static int raw_discard(struct disk *d, uint64_t at, uint64_t bytes, struct error *err)
{
	return file_punch(&d->file, at, bytes, err);
}

static int raw_flush(struct disk *d, struct error *err)
{
	return file_sync(&d->file, err);
}

/*
 * Holes, where the host's file system knows them. Where there is data the host may search long for its end (in memory it
 * looks at each page), so what was found is kept: a hole that came since is read as data, which are zeroes.
 */
static int raw_extent(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err)
{
	struct raw *r = raw_of(d);
	off_t data, end;

	(void)err;
	*x = (struct disk_extent){.kind = DISK_X_DATA, .bytes = bytes};
	if (at >= r->data_at && at < r->data_end) {
		x->bytes = min_u64(bytes, r->data_end - at);
		return 0;
	}
	data = lseek(d->file.fd, (off_t)at, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return 0;
	if (data < 0 || (uint64_t)data > at) {
		x->kind = DISK_X_ZERO;
		x->bytes = data < 0 ? bytes : min_u64(bytes, (uint64_t)data - at);
		return 0;
	}
	end = lseek(d->file.fd, (off_t)at, SEEK_HOLE);
	if (end > (off_t)at) {
		x->bytes = min_u64(bytes, (uint64_t)end - at);
		r->data_at = at;
		r->data_end = (uint64_t)end;
	}
	return 0;
}

static const struct disk_ops raw_ops = {
	.format = DISK_FORMAT_RAW,
	.read = raw_read,
	.write = raw_write,
	.write_zeroes = raw_write_zeroes,
	.discard = raw_discard,
	.flush = raw_flush,
	.extent = raw_extent,
};

int raw_open(struct disk **out, struct file *f, const struct disk_options *o, const struct disk *above,
	     struct error *err)
{
	struct raw *r = calloc(1, sizeof(*r));

	(void)o;
	(void)above;
	if (!r)
		return error_set(err, -ENOMEM, "%s: out of memory", f->path);
	r->disk = (struct disk){.ops = &raw_ops, .file = *f, .bytes = f->bytes};
	*out = &r->disk;
	return 0;
}
