/*
 * A disk whose changes are thrown away: the image below is open for reading, and clusters that were written are in a
 * sparse temporary file without a name, at the place they have on the disk. A bit a cluster says which those are.
 *
 * Left out: giving room in the temporary file back; a flush that reaches anything.
 */
#include "disk/snapshot.h"
#include "base/util.h"
#include "disk/disk_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLUSTER_BYTES 0x10000ull

struct snapshot {
	struct disk disk; /* its file is the temporary one */
	uint8_t *taken;   /* [a bit a cluster]: it is in the file */
	uint8_t *cluster; /* [CLUSTER_BYTES] */
};

static struct snapshot *snapshot_of(struct disk *d) { return (struct snapshot *)(void *)d; }

static bool is_taken(const struct snapshot *s, uint64_t n) { return s->taken[n / 8] >> (n % 8) & 1; }

/* Bytes from @at to the end of its cluster, at most @left. */
static uint64_t piece_of(uint64_t at, uint64_t left) { return min_u64(left, CLUSTER_BYTES - at % CLUSTER_BYTES); }

static int snapshot_read(struct disk *d, uint64_t at, void *buf, uint64_t bytes, struct error *err)
{
	struct snapshot *s = snapshot_of(d);
	uint8_t *to = buf;
	int ret = 0;

	while (bytes && !ret) {
		uint64_t n = piece_of(at, bytes);

		ret = is_taken(s, at / CLUSTER_BYTES) ? file_read(&d->file, at, to, n, err)
						      : disk_read(d->backing, at, to, n, err);
		at += n;
		to += n;
		bytes -= n;
	}
	return ret;
}

/* Brings the cluster at @at into the file, with @n bytes of it replaced; NULL: by zeros. */
static int take_cluster(struct snapshot *s, uint64_t at, const uint8_t *from, uint64_t n, struct error *err)
{
	uint64_t first = at - at % CLUSTER_BYTES, bytes = min_u64(CLUSTER_BYTES, s->disk.bytes - first);
	int ret = n == bytes ? 0 : disk_read(s->disk.backing, first, s->cluster, bytes, err);

	if (ret)
		return ret;
	if (from)
		memcpy(s->cluster + (at - first), from, n);
	else
		memset(s->cluster + (at - first), 0, n);
	ret = file_write(&s->disk.file, first, s->cluster, bytes, err);
	if (!ret)
		s->taken[first / CLUSTER_BYTES / 8] |= (uint8_t)(1u << (first / CLUSTER_BYTES % 8));
	return ret;
}

static int write_piece(struct snapshot *s, uint64_t at, const uint8_t *from, uint64_t n, struct error *err)
{
	if (!is_taken(s, at / CLUSTER_BYTES))
		return take_cluster(s, at, from, n, err);
	if (from)
		return file_write(&s->disk.file, at, from, n, err);
	memset(s->cluster, 0, n);
	return file_write(&s->disk.file, at, s->cluster, n, err);
}

/* @from: NULL: zeros */
static int write_all(struct disk *d, uint64_t at, const uint8_t *from, uint64_t bytes, struct error *err)
{
	int ret = 0;

	while (bytes && !ret) {
		uint64_t n = piece_of(at, bytes);

		ret = write_piece(snapshot_of(d), at, from, n, err);
		at += n;
		from = from ? from + n : NULL;
		bytes -= n;
	}
	return ret;
}

static int snapshot_write(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	return write_all(d, at, buf, bytes, err);
}

static int snapshot_write_zeroes(struct disk *d, uint64_t at, uint64_t bytes, bool may_unmap, struct error *err)
{
	(void)may_unmap;
	return write_all(d, at, NULL, bytes, err);
}

/* As it was. */
static int snapshot_discard(struct disk *d, uint64_t at, uint64_t bytes, struct error *err)
{
	(void)d, (void)at, (void)bytes, (void)err;
	return 0;
}

static int snapshot_flush(struct disk *d, struct error *err)
{
	(void)d, (void)err;
	return 0;
}

static int snapshot_close(struct disk *d, struct error *err)
{
	struct snapshot *s = snapshot_of(d);

	(void)err;
	free(s->taken);
	free(s->cluster);
	return 0;
}

static const struct disk_ops snapshot_ops = {
	.format = DISK_FORMAT_RAW, .close = snapshot_close, .read = snapshot_read, .write = snapshot_write,
	.write_zeroes = snapshot_write_zeroes, .discard = snapshot_discard, .flush = snapshot_flush,
};

/* A file without a name; the one it is given would matter only where files cannot be without. */
static int open_temporary(struct file *f, const struct file_tap *tap, struct error *err)
{
	const char *dir = getenv("TMPDIR");
	char *path;
	int ret;

	if (asprintf(&path, "%s/gnomon-snapshot-%d", dir && *dir ? dir : "/var/tmp", (int)getpid()) < 0)
		return error_set(err, -ENOMEM, "snapshot: out of memory");
	ret = file_create(f, path, tap, err);
	free(path);
	return ret;
}

static int make_layer(struct snapshot *s, const struct file_tap *tap, struct error *err)
{
	uint64_t clusters = (s->disk.bytes + CLUSTER_BYTES - 1) / CLUSTER_BYTES;

	s->taken = calloc(clusters / 8 + 1, 1);
	s->cluster = malloc(CLUSTER_BYTES);
	if (!s->taken || !s->cluster)
		return error_set(err, -ENOMEM, "%s: out of memory for a snapshot", disk_path(s->disk.backing));
	return open_temporary(&s->disk.file, tap, err);
}

int disk_open_snapshot(struct disk **out, const char *path, const struct disk_options *o, struct error *err)
{
	struct disk_options below = o ? *o : (struct disk_options){0};
	struct snapshot *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	below.read_only = true;
	ret = disk_open(&s->disk.backing, path, &below, err);
	if (ret) {
		free(s);
		return ret;
	}
	s->disk.ops = &snapshot_ops;
	s->disk.bytes = disk_bytes(s->disk.backing);
	ret = make_layer(s, below.tap, err);
	if (ret) {
		disk_close(s->disk.backing, NULL);
		snapshot_close(&s->disk, NULL);
		free(s);
		return ret;
	}
	*out = &s->disk;
	return 0;
}
