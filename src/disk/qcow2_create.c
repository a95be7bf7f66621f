/*
 * New qcow2 images: header, refcount table, refcount blocks, L1 table, one behind the other. Only what is not zero is
 * written, so an image of any size takes a few small writes.
 */
#include "disk/qcow2_create.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

/* Where things are, in clusters. */
struct layout {
	unsigned cluster_bits, refcount_order;
	uint64_t l1_size, rt, blocks, l1, total; /* entries; clusters */
};

static unsigned log2_of(uint64_t v) { return 63u - (unsigned)__builtin_clzll(v); }
static bool is_power_of_two(uint64_t v) { return v && !(v & (v - 1)); }

static uint64_t divide_up(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

static int plan(const char *path, const struct disk_create_options *o, uint64_t bytes, struct layout *l,
                struct error *err)
{
	uint64_t cluster = o->cluster_bytes ? o->cluster_bytes : 65536, per_block, before;
	unsigned refcount_bits = o->refcount_bits ? o->refcount_bits : 16;

	if (!is_power_of_two(cluster) || cluster < 1u << Q2_CLUSTER_BITS_MIN || cluster > 1u << Q2_CLUSTER_BITS_MAX)
		return error_set(err, -EINVAL,
		                 "%s: a cluster size of %llu bytes: not a power of two from 512 to 2 MiB",
		                 path, (unsigned long long)cluster);
	if (!is_power_of_two(refcount_bits) || refcount_bits > 64)
		return error_set(err, -EINVAL, "%s: refcounts of %u bits: not a power of two up to 64", path,
		                 refcount_bits);
	if (o->version == 2 && (refcount_bits != 16 || o->lazy_refcounts || o->zstd))
		return error_set(
		        err, -EINVAL,
		        "%s: only version 3 has refcounts of other than 16 bits, lazy ones, and zstd", path);
	*l = (struct layout){.cluster_bits = log2_of(cluster), .refcount_order = log2_of(refcount_bits)};
	per_block = cluster * 8 / refcount_bits;
	l->l1_size = divide_up(bytes, cluster * (cluster / 8));
	l->l1 = divide_up(l->l1_size * 8, cluster);
	if (bytes > INT64_MAX || l->l1_size * 8 > Q2_L1_BYTES_MAX)
		return error_set(err, -EFBIG, "%s: a disk of %llu bytes is too large for clusters of %llu bytes", path,
				 (unsigned long long)bytes, (unsigned long long)cluster);
	do {
		before = l->total;
		l->total = 1 + l->rt + l->blocks + l->l1;
		l->blocks = divide_up(l->total, per_block);
		l->rt = divide_up(l->blocks * 8, cluster);
	} while (l->total != before);
	return 0;
}

static void put_extension(uint8_t *header, uint64_t *at, uint32_t type, const char *text)
{
	uint32_t n = (uint32_t)strlen(text);

	put_be32(header + *at, type);
	put_be32(header + *at + 4, n);
	memcpy(header + *at + 8, text, n);
	*at += 8 + (n + 7ull) / 8 * 8;
}

static int write_header(struct file *f, const struct disk_create_options *o, uint64_t bytes, const struct layout *l,
			const char *backing_format, struct error *err)
{
	uint8_t h[Q2_H_BYTES + 64 + 16 + Q2_NAME_MAX] = {0};
	unsigned version = o->version ? o->version : 3;
	uint64_t at = version == 3 ? Q2_H_BYTES : Q2_H_V2_BYTES;

	memcpy(h, Q2_MAGIC, 4);
	put_be32(h + Q2_H_VERSION, version);
	put_be32(h + Q2_H_CLUSTER_BITS, l->cluster_bits);
	put_be64(h + Q2_H_SIZE, bytes);
	put_be32(h + Q2_H_L1_SIZE, (uint32_t)l->l1_size);
	put_be64(h + Q2_H_L1_AT, l->l1 ? (1 + l->rt + l->blocks) << l->cluster_bits : 0);
	put_be64(h + Q2_H_RT_AT, 1ull << l->cluster_bits);
	put_be32(h + Q2_H_RT_CLUSTERS, (uint32_t)l->rt);
	if (version == 3) {
		put_be64(h + Q2_H_INCOMPATIBLE, o->zstd ? Q2_COMPRESSION : 0);
		put_be64(h + Q2_H_COMPATIBLE, o->lazy_refcounts ? Q2_LAZY : 0);
		put_be32(h + Q2_H_REFCOUNT_ORDER, l->refcount_order);
		put_be32(h + Q2_H_LENGTH, Q2_H_BYTES);
		h[Q2_H_COMPRESSION] = o->zstd ? Q2_ZSTD : Q2_ZLIB;
	}
	if (o->backing) {
		put_extension(h, &at, Q2_EXT_BACKING_FORMAT, backing_format);
		at += 8; /* the end of the extensions: zeroes */
		put_be64(h + Q2_H_BACKING_AT, at);
		put_be32(h + Q2_H_BACKING_BYTES, (uint32_t)strlen(o->backing));
		memcpy(h + at, o->backing, strlen(o->backing));
		at += strlen(o->backing);
	}
	if (at > 1ull << l->cluster_bits)
		return error_set(err, -ENAMETOOLONG,
		                 "%s: the name of the image below it does not fit into a cluster", f->path);
	return file_write(f, 0, h, at, err);
}

static int write_refcounts(struct file *f, const struct layout *l, struct error *err)
{
	uint64_t cluster = 1ull << l->cluster_bits, per_block = cluster * 8 >> l->refcount_order, n, entry;
	uint8_t *block = calloc(1, cluster);
	int ret = block ? 0 : error_set(err, -ENOMEM, "%s: out of memory", f->path);

	for (uint64_t b = 0; b < l->blocks && !ret; b++) {
		n = min_u64(per_block, l->total - b * per_block);
		memset(block, 0, cluster);
		for (uint64_t i = 0; i < n; i++)
			q2_refcount_put(block, l->refcount_order, i, 1);
		ret = file_write(f, (1 + l->rt + b) << l->cluster_bits, block, ((n << l->refcount_order) + 7) / 8, err);
		entry = htobe64((1 + l->rt + b) << l->cluster_bits);
		if (!ret)
			ret = file_write(f, cluster + 8 * b, &entry, 8, err);
	}
	free(block);
	return ret;
}

int q2_create(struct file *f, const struct disk_create_options *o, uint64_t bytes, const char *backing_format,
	      struct error *err)
{
	struct layout l;
	int ret = 0;

	if (o->version && o->version != 2 && o->version != 3)
		return error_set(err, -EINVAL, "%s: qcow2 version %u: 2 and 3 can be made", f->path, o->version);
	if (bytes % 512)
		return error_set(err, -EINVAL, "%s: a disk of %llu bytes: not a multiple of 512", f->path,
				 (unsigned long long)bytes);
	if (o->backing && (!*o->backing || strlen(o->backing) > Q2_NAME_MAX))
		return error_set(err, -ENAMETOOLONG, "%s: the name of the image below it has 1 to %u bytes",
		                 f->path, Q2_NAME_MAX);
	ret = plan(f->path, o, bytes, &l, err);
	if (!ret)
		ret = write_header(f, o, bytes, &l, backing_format, err);
	if (!ret)
		ret = write_refcounts(f, &l, err);
	return ret ? ret : file_truncate(f, l.total << l.cluster_bits, err);
}
