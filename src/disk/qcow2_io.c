/*
 * Reading and writing. Contiguous clusters are one call to the host; what a new cluster needs besides
 * the data, its edges, goes with the data in one call, or not at all if it is zero and the host has
 * zeroes there.
 */
#include "disk/qcow2.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#define ZEROES_BYTES (64 * 1024)
static const uint8_t zeroes[ZEROES_BYTES];

/* ---- reading ---- */

/* Does the image below have anything but zeroes there, as far as its size tells? */
static bool below_reaches(const struct qcow2 *q, uint64_t at)
{
	return q->disk.backing && at < q->disk.backing->bytes;
}

static int read_below(struct qcow2 *q, uint64_t at, uint8_t *buf, uint64_t bytes, struct error *err)
{
	struct disk *b = q->disk.backing;
	uint64_t n = below_reaches(q, at) ? min_u64(bytes, b->bytes - at) : 0;

	memset(buf + n, 0, bytes - n);
	return n ? b->ops->read(b, at, buf, n, err) : 0;
}

static bool inflate_cluster(const struct qcow2 *q, uint8_t *out, const uint8_t *in, uint64_t bytes)
{
	z_stream z = {.avail_in = (uInt)bytes, .next_out = out, .avail_out = (uInt)q->cluster_bytes};
	int ret;

	memcpy(&z.next_in, &in, sizeof(in)); /* which zlib only reads, without saying const */
	if (inflateInit2(&z, -12) != Z_OK) /* "Compressed Clusters Descriptor": no header, windows of 4 KiB */
		return false;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out;
}

static bool unzstd_cluster(const struct qcow2 *q, uint8_t *out, const uint8_t *in, uint64_t bytes)
{
	ZSTD_outBuffer to = {.dst = out, .size = q->cluster_bytes};
	ZSTD_inBuffer from = {.src = in, .size = bytes};
	ZSTD_DCtx *z = ZSTD_createDCtx();
	size_t last, ret = 1;

	while (z && to.pos < to.size && !ZSTD_isError(ret)) {
		last = to.pos + from.pos;
		ret = ZSTD_decompressStream(z, &to, &from);
		if (to.pos + from.pos == last)
			break;
	}
	ZSTD_freeDCtx(z);
	return to.pos == to.size && !ZSTD_isError(ret);
}

/* Leaves the cluster behind the place for packed ones in q->packed. */
static int unpack(struct qcow2 *q, uint64_t entry, struct error *err)
{
	uint8_t *out;
	uint64_t at, bytes;
	int ret;

	if (!q->packed)
		q->packed = malloc(3 * q->cluster_bytes);
	if (!q->packed)
		return q2_no_memory(q, err);
	if (q->unpacked_entry == entry)
		return 0;
	q->unpacked_entry = 0;
	q2_compressed_place(q, entry, &at, &bytes);
	ret = file_read(&q->disk.file, at, q->packed, bytes, err);
	if (ret)
		return ret;
	out = q->packed + 2 * q->cluster_bytes;
	if (!(q->h.compression == Q2_ZSTD ? unzstd_cluster : inflate_cluster)(q, out, q->packed, bytes))
		return q2_damaged(q, err, "the compressed cluster at %llu cannot be unpacked", (unsigned long long)at);
	q->unpacked_entry = entry;
	return 0;
}

static int read_extent(struct qcow2 *q, const struct q2_extent *x, uint64_t at, uint8_t *buf, struct error *err)
{
	int ret;

	switch (x->kind) {
	case Q2_K_DATA:
		return file_read(&q->disk.file, x->host, buf, x->bytes, err);
	case Q2_K_UNALLOCATED:
		return read_below(q, at, buf, x->bytes, err);
	case Q2_K_COMPRESSED:
		ret = unpack(q, x->entry, err);
		if (!ret)
			memcpy(buf, q->packed + 2 * q->cluster_bytes + (at & (q->cluster_bytes - 1)), x->bytes);
		return ret;
	case Q2_K_ZERO:
	case Q2_K_ZERO_HELD:
		break;
	}
	memset(buf, 0, x->bytes);
	return 0;
}

int q2_read(struct disk *d, uint64_t at, void *buf, uint64_t bytes, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	struct q2_extent x;
	uint8_t *p = buf;
	int ret = 0;

	for (; bytes && !ret; at += x.bytes, p += x.bytes, bytes -= x.bytes) {
		ret = q2_map(q, at, bytes, &x, err);
		if (ret)
			return ret;
		ret = read_extent(q, &x, at, p, err);
	}
	return ret;
}

int q2_extent_at(struct disk *d, uint64_t at, uint64_t bytes, struct disk_extent *x, struct error *err)
{
	struct q2_extent e;
	int ret = q2_map(qcow2_of(d), at, bytes, &e, err);

	if (ret)
		return ret;
	*x = (struct disk_extent){.kind = DISK_X_ZERO, .bytes = e.bytes, .packed = e.kind == Q2_K_COMPRESSED};
	if (e.kind == Q2_K_UNALLOCATED)
		x->kind = DISK_X_BELOW;
	else if (e.kind == Q2_K_DATA || e.kind == Q2_K_COMPRESSED)
		x->kind = DISK_X_DATA;
	return 0;
}

/* ---- writing ---- */

static bool is_zero(const uint8_t *p, uint64_t bytes)
{
	return !bytes || (!*p && memcmp(p, p + 1, bytes - 1) == 0);
}

/* What a cluster has beside the data that are written to it: as it reads now. */
static int load_edge(struct qcow2 *q, const struct q2_extent *x, uint64_t at, uint8_t *edge, uint64_t bytes,
		     struct error *err)
{
	if (x->kind == Q2_K_ZERO || x->kind == Q2_K_ZERO_HELD ||
	    (x->kind == Q2_K_UNALLOCATED && !below_reaches(q, at))) {
		memset(edge, 0, bytes);
		return 0;
	}
	return q2_read(&q->disk, at, edge, bytes, err);
}

/*
 * Fills whole clusters at @host: the data, and around them what was there.
 * @first, @last: the extents that the first and the last cluster are of
 * @zero: the clusters are zeroes on the host
 */
static int write_filled(struct qcow2 *q, uint64_t at, const void *buf, uint64_t bytes, uint64_t host, bool zero,
			const struct q2_extent *first, const struct q2_extent *last, struct error *err)
{
	uint64_t mask = q->cluster_bytes - 1, head = at & mask, tail = -(at + bytes) & mask;
	struct iovec iov[3];
	int n = 0, ret = 0;

	if ((head || tail) && !q->edges) {
		q->edges = malloc(2 * q->cluster_bytes);
		if (!q->edges)
			return q2_no_memory(q, err);
	}
	if (head)
		ret = load_edge(q, first, at - head, q->edges, head, err);
	if (!ret && tail)
		ret = load_edge(q, last, at + bytes, q->edges + q->cluster_bytes, tail, err);
	if (ret)
		return ret;
	if (head && !(zero && is_zero(q->edges, head)))
		iov[n++] = (struct iovec){q->edges, head};
	else
		host += head;
	memcpy(&iov[n].iov_base, &buf, sizeof(buf));
	iov[n++].iov_len = bytes;
	if (tail && !(zero && is_zero(q->edges + q->cluster_bytes, tail)))
		iov[n++] = (struct iovec){q->edges + q->cluster_bytes, tail};
	return file_writev(&q->disk.file, host, iov, n, err);
}

/* Into new clusters. *bytes: what to write, all within a slice; then what was written. */
static int write_new(struct qcow2 *q, uint64_t at, const void *buf, uint64_t *bytes, const struct q2_extent *first,
		     const struct q2_extent *last, struct error *err)
{
	uint64_t mask = q->cluster_bytes - 1, start = at & ~mask, cluster = 0, got = 0, n = *bytes;
	bool zero = false;
	int ret = q2_own_l2(q, at, err);

	if (!ret)
		ret = q2_alloc(q, q2_clusters_for(q, at + n - start), &cluster, &got, &zero, err);
	if (ret)
		return ret;
	if (got << q->h.cluster_bits < at + n - start) { /* fewer than asked for: whole ones */
		n = start + (got << q->h.cluster_bits) - at;
		last = first;
	}
	ret = write_filled(q, at, buf, n, cluster << q->h.cluster_bits, zero, first, last, err);
	if (!ret)
		ret = q2_set_entries(q, start, got, cluster << q->h.cluster_bits | Q2_COPIED, true, false, err);
	if (ret)
		q2_unalloc(q, cluster, got, NULL);
	*bytes = n;
	return ret;
}

/* Into the clusters that were kept for zeroes. */
static int write_held(struct qcow2 *q, uint64_t at, const void *buf, uint64_t *bytes, const struct q2_extent *x,
		      struct error *err)
{
	uint64_t mask = q->cluster_bytes - 1, start = at & ~mask, host = x->host & ~mask;
	int ret;

	*bytes = min_u64(x->bytes, q2_slice_reach(q, at));
	ret = write_filled(q, at, buf, *bytes, host, false, x, x, err);
	if (ret)
		return ret;
	return q2_set_entries(q, start, q2_clusters_for(q, at + *bytes - start), host | Q2_COPIED, true, false, err);
}

/* Before data are written to clusters that an L2 entry names. */
static int check_place(struct qcow2 *q, const struct q2_extent *x, struct error *err)
{
	if (x->host >> q->h.cluster_bits >= q2_clusters_for(q, q->disk.file.bytes))
		return q2_damaged(q, err, "data at %llu, beyond the end of the file", (unsigned long long)x->host);
	if (!q2_hits_tables(q, x->host, x->bytes))
		return 0;
	q2_mark_corrupt(q);
	return q2_damaged(q, err, "data at %llu, where tables are", (unsigned long long)x->host);
}

static bool needs_new(const struct q2_extent *x)
{
	return !((x->kind == Q2_K_DATA || x->kind == Q2_K_ZERO_HELD) && x->copied);
}

/* As far as new clusters are needed from @at on, in one slice; @last: the extent it ends with. */
static int extend_new(struct qcow2 *q, uint64_t at, uint64_t *bytes, const struct q2_extent *first,
                      struct q2_extent *last, struct error *err)
{
	uint64_t limit = min_u64(*bytes, q2_slice_reach(q, at)), n = min_u64(first->bytes, limit);
	struct q2_extent x;
	int ret = 0;

	*last = *first;
	while (n < limit && !ret) {
		ret = q2_map(q, at + n, limit - n, &x, err);
		if (ret || !needs_new(&x))
			break;
		*last = x;
		n += x.bytes;
	}
	*bytes = n;
	return ret;
}

static int write_some(struct qcow2 *q, uint64_t at, const void *buf, uint64_t *bytes, struct error *err)
{
	struct q2_extent first, last;
	int ret = q2_map(q, at, *bytes, &first, err);

	if (ret)
		return ret;
	if (needs_new(&first)) {
		ret = extend_new(q, at, bytes, &first, &last, err);
		return ret ? ret : write_new(q, at, buf, bytes, &first, &last, err);
	}
	ret = check_place(q, &first, err);
	if (ret)
		return ret;
	if (first.kind == Q2_K_ZERO_HELD)
		return write_held(q, at, buf, bytes, &first, err);
	*bytes = first.bytes;
	return file_write(&q->disk.file, first.host, buf, first.bytes, err);
}

int q2_write(struct disk *d, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	const uint8_t *p = buf;
	uint64_t n;
	int ret = q2_begin_change(q, err);

	for (; bytes && !ret; at += n, p += n, bytes -= n) {
		n = bytes;
		ret = write_some(q, at, p, &n, err);
	}
	return ret;
}

/* ---- zeroes and discarding ---- */

static int write_zero_data(struct qcow2 *q, uint64_t at, uint64_t bytes, struct error *err)
{
	uint64_t n;
	int ret = 0;

	for (; bytes && !ret; at += n, bytes -= n) {
		n = min_u64(bytes, sizeof(zeroes));
		ret = q2_write(&q->disk, at, zeroes, n, err);
	}
	return ret;
}

/* Whole clusters of one extent in one slice become zeroes: by their entries if the version allows it. */
static int zero_clusters(struct qcow2 *q, uint64_t at, const struct q2_extent *x, bool may_unmap, struct error *err)
{
	uint64_t entry = below_reaches(q, at) ? Q2_ZERO_FLAG : 0;
	bool step = false;
	int ret;

	if (x->kind == Q2_K_ZERO || (x->kind == Q2_K_ZERO_HELD && !may_unmap) ||
	    (x->kind == Q2_K_UNALLOCATED && !entry))
		return 0;
	if (q->h.version < 3 && (entry || !may_unmap))
		return write_zero_data(q, at, x->bytes, err);
	if (x->kind == Q2_K_DATA && x->copied && !may_unmap) {
		ret = check_place(q, x, err);
		if (ret)
			return ret;
		entry = x->host | Q2_COPIED | Q2_ZERO_FLAG;
		step = true;
	}
	ret = q2_own_l2(q, at, err);
	return ret ? ret : q2_set_entries(q, at, q2_clusters_for(q, x->bytes), entry, step, may_unmap, err);
}

/* Version 2 has no zeroes that hide what is below. */
static int discard_clusters(struct qcow2 *q, uint64_t at, const struct q2_extent *x, struct error *err)
{
	return q->h.version < 3 && below_reaches(q, at) ? 0 : zero_clusters(q, at, x, true, err);
}

enum change { CHANGE_ZERO, CHANGE_ZERO_UNMAP, CHANGE_DISCARD };

/* @at: begins a cluster; @bytes: whole clusters, or to the end of the disk */
static int change_clusters(struct qcow2 *q, uint64_t at, uint64_t bytes, enum change how, struct error *err)
{
	struct q2_extent x;
	int ret = 0;

	for (; bytes && !ret; at += x.bytes, bytes -= x.bytes) {
		ret = q2_map(q, at, min_u64(bytes, q2_slice_reach(q, at)), &x, err);
		if (ret)
			return ret;
		/* A compressed cluster, or any, is changed whole. */
		ret = how == CHANGE_DISCARD ? discard_clusters(q, at, &x, err) :
					      zero_clusters(q, at, &x, how == CHANGE_ZERO_UNMAP, err);
	}
	return ret;
}

/* The part of a range that is whole clusters; the last cluster of the disk is whole if it ends with the disk. */
static void whole_clusters(const struct qcow2 *q, uint64_t at, uint64_t bytes, uint64_t *first, uint64_t *end)
{
	uint64_t mask = q->cluster_bytes - 1;

	*first = (at + mask) & ~mask;
	*end = at + bytes == q->disk.bytes ? at + bytes : (at + bytes) & ~mask;
	if (*first > *end)
		*first = *end = at + bytes; /* none */
}

int q2_write_zeroes(struct disk *d, uint64_t at, uint64_t bytes, bool may_unmap, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	uint64_t first, end;
	int ret = q2_begin_change(q, err);

	whole_clusters(q, at, bytes, &first, &end);
	if (!ret)
		ret = write_zero_data(q, at, first - at, err);
	if (!ret)
		ret = change_clusters(q, first, end - first, may_unmap ? CHANGE_ZERO_UNMAP : CHANGE_ZERO, err);
	return ret ? ret : write_zero_data(q, end, at + bytes - end, err);
}

/* Less than a cluster becomes zeroes, if it is not. */
static int discard_edge(struct qcow2 *q, uint64_t at, uint64_t bytes, struct error *err)
{
	int ret;

	if (!bytes)
		return 0;
	if (!q->edges)
		q->edges = malloc(2 * q->cluster_bytes);
	if (!q->edges)
		return q2_no_memory(q, err);
	ret = q2_read(&q->disk, at, q->edges, bytes, err);
	return ret || is_zero(q->edges, bytes) ? ret : write_zero_data(q, at, bytes, err);
}

/*
 * A guest must not be able to tell whether its raw image has become the lowest of a chain meanwhile (freeze.h): then
 * every byte of what it discards becomes zero, as in a raw image.
 */
static bool stands_on_raw(const struct qcow2 *q)
{
	const struct disk *d = &q->disk;

	while (d->backing)
		d = d->backing;
	return d->ops->format == DISK_FORMAT_RAW;
}

int q2_discard(struct disk *d, uint64_t at, uint64_t bytes, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	uint64_t first, end;
	bool exact = stands_on_raw(q);
	int ret = q2_begin_change(q, err);

	whole_clusters(q, at, bytes, &first, &end);
	if (!ret && exact)
		ret = discard_edge(q, at, first - at, err);
	if (!ret)
		ret = change_clusters(q, first, end - first, exact ? CHANGE_ZERO_UNMAP : CHANGE_DISCARD, err);
	return ret || !exact ? ret : discard_edge(q, end, at + bytes - end, err);
}
