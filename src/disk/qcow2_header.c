/* The header of a qcow2 image and its extensions: read, judged, and changed in place. */
#include "disk/qcow2.h"
#include "base/util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int damaged(const struct file *f, struct error *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int damaged(const struct file *f, struct error *err, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return error_set(err, -EINVAL, "%s: not a qcow2 image that makes sense: %s", f->path, text);
}

/* ---- features ---- */

/* The name the image gives to a feature bit ("Feature name table"), or "bit N". */
static void feature_name(const uint8_t *table, uint32_t bytes, unsigned bit, char *name, size_t room)
{
	snprintf(name, room, "bit %u", bit);
	for (; bytes >= 48; table += 48, bytes -= 48)
		if (table[0] == 0 && table[1] == bit && table[2]) {
			snprintf(name, room, "'%.46s'", (const char *)table + 2);
			for (; *name; name++)
				if (*name < ' ' || *name > '~')
					*name = '?';
			return;
		}
}

static int check_features(const struct q2_header *h, struct file *f, const uint8_t *names, uint32_t bytes,
                          struct error *err)
{
	uint64_t unknown = h->incompatible & ~(Q2_DIRTY | Q2_CORRUPT | Q2_COMPRESSION | Q2_EXTENDED_L2);
	char name[64];

	if (h->incompatible & Q2_DATA_FILE)
		return error_set(err, -ENOTSUP,
		                 "%s: has its data in another file (external data file): not supported",
		                 f->path);
	if (!unknown)
		return 0;
	feature_name(names, bytes, (unsigned)__builtin_ctzll(unknown), name, sizeof(name));
	return error_set(err, -ENOTSUP, "%s: needs a feature that is not supported: %s", f->path, name);
}

/* ---- extensions ---- */

static int read_bitmaps(struct q2_header *h, struct file *f, const uint8_t *p, uint32_t bytes, struct error *err)
{
	if (!(h->autoclear & Q2_BITMAPS))
		return 0;
	if (bytes < 24)
		return damaged(f, err, "the bitmaps extension has %u bytes", bytes);
	h->bitmaps = be32_at(p);
	h->bitmaps_bytes = be64_at(p + 8);
	h->bitmaps_at = be64_at(p + 16);
	return 0;
}

static int read_extension(struct q2_header *h, struct file *f, uint32_t type, const uint8_t *p, uint32_t bytes,
			  struct error *err)
{
	if (type == Q2_EXT_BITMAPS)
		return read_bitmaps(h, f, p, bytes, err);
	if (type != Q2_EXT_BACKING_FORMAT)
		return 0;
	if (bytes >= sizeof(h->backing_format))
		return damaged(f, err, "the name of the backing format has %u bytes", bytes);
	memcpy(h->backing_format, p, bytes);
	h->backing_format[bytes] = 0;
	return 0;
}

/* @bytes: of the first cluster, as far as the extensions may go */
static int read_extensions(struct q2_header *h, struct file *f, const uint8_t *cluster, uint64_t bytes,
                           struct error *err)
{
	const uint8_t *names = NULL;
	uint32_t type, length, names_bytes = 0;
	int ret;

	for (uint64_t at = h->length; at + 8 <= bytes; at += 8 + ((uint64_t)length + 7) / 8 * 8) {
		type = be32_at(cluster + at);
		length = be32_at(cluster + at + 4);
		if (type == Q2_EXT_END)
			break;
		if (length > bytes - at - 8)
			return damaged(f, err, "header extension 0x%x does not fit into the header", type);
		if (type == Q2_EXT_FEATURE_NAMES) {
			names = cluster + at + 8;
			names_bytes = length;
		}
		ret = read_extension(h, f, type, cluster + at + 8, length, err);
		if (ret)
			return ret;
	}
	return check_features(h, f, names, names_bytes, err);
}

static int read_backing_name(struct q2_header *h, struct file *f, const uint8_t *cluster, uint64_t bytes,
                             struct error *err)
{
	if (!h->backing_at)
		return 0;
	if (h->backing_bytes > Q2_NAME_MAX || h->backing_at > bytes || h->backing_bytes > bytes - h->backing_at)
		return damaged(f, err, "the name of the backing file is not in the header");
	memcpy(h->backing, cluster + h->backing_at, h->backing_bytes);
	h->backing[h->backing_bytes] = 0;
	if (strlen(h->backing) != h->backing_bytes)
		return damaged(f, err, "the name of the backing file contains a zero byte");
	return 0;
}

/* ---- the fixed part ---- */

static void decode(struct q2_header *h)
{
	const uint8_t *p = h->raw;

	h->version = be32_at(p + Q2_H_VERSION);
	h->backing_at = be64_at(p + Q2_H_BACKING_AT);
	h->backing_bytes = be32_at(p + Q2_H_BACKING_BYTES);
	h->cluster_bits = be32_at(p + Q2_H_CLUSTER_BITS);
	h->size = be64_at(p + Q2_H_SIZE);
	h->l1_size = be32_at(p + Q2_H_L1_SIZE);
	h->l1_at = be64_at(p + Q2_H_L1_AT);
	h->rt_at = be64_at(p + Q2_H_RT_AT);
	h->rt_clusters = be32_at(p + Q2_H_RT_CLUSTERS);
	h->snapshots = be32_at(p + Q2_H_SNAPSHOTS);
	h->snapshots_at = be64_at(p + Q2_H_SNAPSHOTS_AT);
	h->refcount_order = 4;
	h->length = Q2_H_V2_BYTES;
	if (h->version < 3)
		return;
	h->incompatible = be64_at(p + Q2_H_INCOMPATIBLE);
	h->compatible = be64_at(p + Q2_H_COMPATIBLE);
	h->autoclear = be64_at(p + Q2_H_AUTOCLEAR);
	h->refcount_order = be32_at(p + Q2_H_REFCOUNT_ORDER);
	h->length = be32_at(p + Q2_H_LENGTH);
	h->compression = h->length > Q2_H_COMPRESSION ? p[Q2_H_COMPRESSION] : Q2_ZLIB;
}

static int check_basics(const struct q2_header *h, struct file *f, struct error *err)
{
	if (memcmp(h->raw, Q2_MAGIC, 4) != 0)
		return error_set(err, -EINVAL, "%s: not a qcow2 image", f->path);
	if (h->version < 2 || h->version > 3)
		return error_set(err, -ENOTSUP, "%s: qcow2 version %u is not supported (2 and 3 are)",
		                 f->path, h->version);
	if (be32_at(h->raw + Q2_H_CRYPT))
		return error_set(err, -ENOTSUP, "%s: encrypted: not supported", f->path);
	if (h->cluster_bits < Q2_CLUSTER_BITS_MIN || h->cluster_bits > Q2_CLUSTER_BITS_MAX)
		return damaged(f, err, "clusters of 2^%u bytes", h->cluster_bits);
	if (h->refcount_order > 6)
		return damaged(f, err, "refcounts of 2^%u bits", h->refcount_order);
	if (h->length < (h->version == 3 ? Q2_H_V3_BYTES : Q2_H_V2_BYTES) || h->length > 1u << h->cluster_bits)
		return damaged(f, err, "a header of %u bytes", h->length);
	if (h->compression > Q2_ZSTD)
		return error_set(err, -ENOTSUP, "%s: compression type %u is not supported", f->path, h->compression);
	if ((h->compression != Q2_ZLIB) != !!(h->incompatible & Q2_COMPRESSION))
		return damaged(f, err, "compression type %u, and its feature bit says otherwise", h->compression);
	if (h->incompatible & Q2_EXTENDED_L2 && h->cluster_bits < 14)
		return damaged(f, err, "subclusters in clusters of %u bytes", 1u << h->cluster_bits);
	return 0;
}

static int check_table(const struct q2_header *h, struct file *f, const char *what, uint64_t at, uint64_t bytes,
		       struct error *err)
{
	uint64_t cluster = 1ull << h->cluster_bits, end = (f->bytes + cluster - 1) & ~(cluster - 1);

	if (at & (cluster - 1) || (bytes && !at))
		return damaged(f, err, "the %s is at %llu, which begins no cluster", what, (unsigned long long)at);
	if (bytes && (at > end || bytes > end - at))
		return damaged(f, err, "the %s (%llu bytes at %llu) is beyond the end of the file", what,
			       (unsigned long long)bytes, (unsigned long long)at);
	return 0;
}

static int check_tables(const struct q2_header *h, struct file *f, struct error *err)
{
	unsigned reach = h->cluster_bits + h->cluster_bits - (h->incompatible & Q2_EXTENDED_L2 ? 4 : 3);
	uint64_t l1_bytes = 8ull * h->l1_size, rt_bytes = (uint64_t)h->rt_clusters << h->cluster_bits;
	int ret;

	if (h->size > INT64_MAX)
		return damaged(f, err, "a disk of %llu bytes", (unsigned long long)h->size);
	if (l1_bytes > Q2_L1_BYTES_MAX)
		return damaged(f, err, "an L1 table of %llu bytes", (unsigned long long)l1_bytes);
	if (h->l1_size < (h->size >> reach) + ((h->size & ((1ull << reach) - 1)) != 0))
		return damaged(f, err, "an L1 table of %u entries is too small for the disk", h->l1_size);
	if (!rt_bytes || rt_bytes > Q2_RT_BYTES_MAX)
		return damaged(f, err, "a refcount table of %llu bytes", (unsigned long long)rt_bytes);
	if (h->snapshots > Q2_SNAPSHOTS_MAX)
		return damaged(f, err, "%u snapshots", h->snapshots);
	ret = check_table(h, f, "L1 table", h->l1_at, l1_bytes, err);
	if (!ret)
		ret = check_table(h, f, "refcount table", h->rt_at, rt_bytes, err);
	if (!ret && h->snapshots)
		ret = check_table(h, f, "snapshot table", h->snapshots_at, (uint64_t)h->snapshots * Q2_S_BYTES, err);
	return ret;
}

int q2_header_read(struct q2_header *h, struct file *f, struct error *err)
{
	uint64_t bytes;
	uint8_t *cluster;
	int ret;

	memset(h, 0, sizeof(*h));
	ret = file_read(f, 0, h->raw, sizeof(h->raw), err);
	if (ret)
		return ret;
	decode(h);
	ret = check_basics(h, f, err);
	if (ret)
		return ret;
	bytes = 1ull << h->cluster_bits;
	cluster = malloc(bytes);
	if (!cluster)
		return error_set(err, -ENOMEM, "%s: out of memory", f->path);
	ret = file_read(f, 0, cluster, bytes, err);
	if (!ret) /* the extensions end where the name begins */
		ret = read_extensions(h, f, cluster, h->backing_at ? min_u64(h->backing_at, bytes) : bytes, err);
	if (!ret)
		ret = read_backing_name(h, f, cluster, bytes, err);
	if (!ret)
		ret = check_tables(h, f, err);
	free(cluster);
	return ret;
}

int q2_header_update(struct file *f, const struct q2_header *h, struct error *err)
{
	uint8_t raw[Q2_H_BYTES];

	memcpy(raw, h->raw, sizeof(raw));
	put_be64(raw + Q2_H_SIZE, h->size);
	put_be32(raw + Q2_H_L1_SIZE, h->l1_size);
	put_be64(raw + Q2_H_L1_AT, h->l1_at);
	put_be64(raw + Q2_H_RT_AT, h->rt_at);
	put_be32(raw + Q2_H_RT_CLUSTERS, h->rt_clusters);
	put_be32(raw + Q2_H_SNAPSHOTS, h->snapshots);
	put_be64(raw + Q2_H_SNAPSHOTS_AT, h->snapshots_at);
	if (h->version >= 3) {
		put_be64(raw + Q2_H_INCOMPATIBLE, h->incompatible);
		put_be64(raw + Q2_H_COMPATIBLE, h->compatible);
		put_be64(raw + Q2_H_AUTOCLEAR, h->autoclear);
	}
	return file_write(f, 0, raw, h->version >= 3 ? Q2_H_V3_BYTES : Q2_H_V2_BYTES, err);
}

/* ---- another image below ---- */

#define SECTOR 512u

/* Where the extensions of a header end, the one that says so included, and where the backing format is named; or 0. */
static void find_extensions(const struct q2_header *h, const uint8_t *cluster, uint64_t bytes, uint64_t *end,
			    uint64_t *format)
{
	uint64_t at, n;

	*end = *format = 0;
	for (at = h->length; at + 8 <= bytes; at += 8 + n) {
		n = ((uint64_t)be32_at(cluster + at + 4) + 7) / 8 * 8;
		if (be32_at(cluster + at) == Q2_EXT_END) {
			*end = at + 8;
			return;
		}
		if (be32_at(cluster + at) == Q2_EXT_BACKING_FORMAT)
			*format = at;
	}
}

/*
 * The header's first sector names the place of the name, and the format; the new name is put where the old one is not
 * before that sector is written, at one go.
 */
static int place_name(const struct q2_header *h, struct file *f, uint8_t *cluster, const char *name, const char *format,
		      struct error *err)
{
	uint64_t cluster_bytes = 1ull << h->cluster_bits, n = strlen(name), old_end = h->backing_at + h->backing_bytes;
	uint64_t at, ext;
	int ret;

	find_extensions(h, cluster, min_u64(h->backing_at, cluster_bytes), &at, &ext);
	if (!at || !ext || ext + 16 > SECTOR || !be32_at(cluster + ext + 4) || strlen(format) > 8)
		return error_set(err, -ENOTSUP, "%s: does not name the format of the image below it in a way that could "
				 "be changed at once", f->path);
	if (at + n > h->backing_at && at < old_end)
		at = old_end;
	if (n > Q2_NAME_MAX || at + n > cluster_bytes)
		return error_set(err, -ENAMETOOLONG,
				 "%s: the name of the image below it does not fit into a cluster", f->path);
	ret = file_write(f, at, name, n, err);
	if (!ret)
		ret = file_sync(f, err);
	if (ret)
		return ret;
	memcpy(cluster + at, name, n);
	put_be64(cluster + Q2_H_BACKING_AT, at);
	put_be32(cluster + Q2_H_BACKING_BYTES, (uint32_t)n);
	put_be32(cluster + ext + 4, (uint32_t)strlen(format));
	memset(cluster + ext + 8, 0, 8);
	memcpy(cluster + ext + 8, format, strlen(format));
	return 0;
}

int q2_header_set_backing(struct q2_header *h, struct file *f, const char *name, const char *format, struct error *err)
{
	uint64_t bytes = 1ull << h->cluster_bits, end, ext;
	uint8_t *cluster = malloc(bytes);
	struct q2_header fresh;
	int ret = cluster ? file_read(f, 0, cluster, bytes, err) : error_set(err, -ENOMEM, "%s: out of memory", f->path);

	if (!ret && name) {
		ret = place_name(h, f, cluster, name, format, err);
	} else if (!ret) {
		find_extensions(h, cluster, min_u64(h->backing_at, bytes), &end, &ext);
		if (!end) /* what follows the extensions would be taken for more of them */
			ret = error_set(err, -ENOTSUP, "%s: its header extensions have no end", f->path);
		put_be64(cluster + Q2_H_BACKING_AT, 0);
		put_be32(cluster + Q2_H_BACKING_BYTES, 0);
	}
	if (!ret)
		ret = file_write(f, 0, cluster, SECTOR, err);
	if (!ret)
		ret = file_sync(f, err);
	if (!ret)
		ret = q2_header_read(&fresh, f, err);
	if (!ret)
		*h = fresh;
	free(cluster);
	return ret;
}
