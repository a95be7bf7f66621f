/*
 * From a guest offset through the L1 table and a slice of an L2 table to an extent of the file, and
 * changes of L2 entries ("Cluster mapping"). What an entry says is judged where it is used.
 */
#include "disk/qcow2.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

static unsigned slice_entry_bits(const struct qcow2 *q) { return q->l2.slice_bits - q->entry_bits; }
static uint64_t l1_index(const struct qcow2 *q, uint64_t at) { return at >> q->h.cluster_bits >> q->l2_bits; }

/* The number, in its slice, of the entry for a guest offset. */
static uint64_t slice_index(const struct qcow2 *q, uint64_t at)
{
	return at >> q->h.cluster_bits & ((1ull << slice_entry_bits(q)) - 1);
}

uint64_t q2_slice_reach(const struct qcow2 *q, uint64_t at)
{
	uint64_t reach = 1ull << (slice_entry_bits(q) + q->h.cluster_bits);

	return reach - (at & (reach - 1));
}

int q2_l2_at(const struct qcow2 *q, uint64_t l1_entry, uint64_t *at, struct error *err)
{
	*at = l1_entry & Q2_OFFSET;
	if (*at & (q->cluster_bytes - 1) || *at >= q->disk.file.bytes)
		return q2_damaged(q, err, "an L2 table at %#llx", (unsigned long long)*at);
	return 0;
}

/* The slice of the L2 table at @table that has the entry for @at. */
static int load_slice(struct qcow2 *q, uint64_t table, uint64_t at, struct q2_slot **slot, struct error *err)
{
	uint64_t entry = at >> q->h.cluster_bits & ((1ull << q->l2_bits) - 1);
	uint64_t where = table + (entry >> slice_entry_bits(q) << q->l2.slice_bits);
	struct q2_slot *s = q2_cache_find(&q->l2, where);
	int ret = 0;

	if (!s) {
		s = q2_cache_victim(&q->l2);
		if (s->dirty)
			ret = q2_flush(&q->disk, err);
		if (ret)
			return ret;
		q2_cache_put(&q->l2, s, where);
		ret = file_read(&q->disk.file, where, q2_cache_data(&q->l2, s), 1ull << q->l2.slice_bits, err);
		if (ret)
			q2_cache_drop(&q->l2, where, 1);
	}
	*slot = s;
	return ret;
}

/* ---- reading entries ---- */

void q2_compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *at, uint64_t *bytes)
{
	unsigned offset_bits = 62 - (q->h.cluster_bits - 8);
	uint64_t sectors = bits(entry, 61, offset_bits) + 1;

	*at = entry & ((1ull << offset_bits) - 1);
	*bytes = sectors * 512 - (*at & 511);
}

/* What an entry says about its grain number @sub; @p: the entry. */
static int decode(const struct qcow2 *q, const uint8_t *p, unsigned sub, struct q2_extent *x, struct error *err)
{
	uint64_t entry = be64_at(p), subs = q->entry_bits == 4 ? be64_at(p + 8) : 0, host = entry & Q2_OFFSET;
	bool zero, data = host;

	*x = (struct q2_extent){.copied = entry & Q2_COPIED};
	if (entry & Q2_COMPRESSED) {
		x->kind = Q2_K_COMPRESSED;
		x->entry = entry;
		return 0;
	}
	if (q->entry_bits == 4) {
		zero = subs >> (Q2_SUBCLUSTERS + sub) & 1;
		data = subs >> sub & 1;
	} else {
		zero = entry & Q2_ZERO_FLAG && q->h.version >= 3;
	}
	if (host & (q->cluster_bytes - 1) || (data && !host) || (data && zero && q->entry_bits == 4))
		return q2_damaged(q, err, "an L2 entry is %#llx", (unsigned long long)entry);
	x->kind = zero && host ? Q2_K_ZERO_HELD : zero ? Q2_K_ZERO : data ? Q2_K_DATA : Q2_K_UNALLOCATED;
	x->host = host;
	return 0;
}

/* Does grain @b, @bytes behind @a, go on with it? */
static bool continues(const struct q2_extent *a, const struct q2_extent *b, uint64_t bytes)
{
	if (a->kind != b->kind || a->kind == Q2_K_COMPRESSED)
		return false;
	return (a->kind != Q2_K_DATA && a->kind != Q2_K_ZERO_HELD) ||
	       (b->host == a->host + bytes && a->copied == b->copied);
}

static int decode_at(const struct qcow2 *q, const uint8_t *slice, uint64_t at, struct q2_extent *x, struct error *err)
{
	uint64_t in_cluster = at & (q->cluster_bytes - 1);
	int ret = decode(q, slice + (slice_index(q, at) << q->entry_bits),
	                 (unsigned)(in_cluster >> q->grain_bits), x, err);

	x->host += in_cluster;
	return ret;
}

/* An entry that makes no sense ends the extent before it; whoever comes to it gets the error. */
static int map_in_slice(const struct qcow2 *q, const uint8_t *slice, uint64_t at, uint64_t bytes, struct q2_extent *x,
			struct error *err)
{
	uint64_t grain = 1ull << q->grain_bits, n = grain - (at & (grain - 1));
	struct q2_extent next;
	int ret = decode_at(q, slice, at, x, err);

	if (ret)
		return ret;
	bytes = min_u64(bytes, q2_slice_reach(q, at));
	if (x->kind == Q2_K_COMPRESSED)
		n = q->cluster_bytes - (at & (q->cluster_bytes - 1));
	while (n < bytes && decode_at(q, slice, at + n, &next, NULL) == 0 && continues(x, &next, n))
		n += grain;
	x->bytes = min_u64(n, bytes);
	return 0;
}

/* As q2_map(), but at most to the end of a slice. */
static int map_one(struct qcow2 *q, uint64_t at, uint64_t bytes, struct q2_extent *x, struct error *err)
{
	uint64_t i = l1_index(q, at), table, reach = 1ull << (q->h.cluster_bits + q->l2_bits);
	struct q2_slot *s;
	int ret;

	ret = q2_l2_at(q, i < q->h.l1_size ? q->l1[i] : 0, &table, err);
	if (ret)
		return ret;
	if (!table) {
		*x = (struct q2_extent){.kind = Q2_K_UNALLOCATED, .bytes = min_u64(bytes, reach - (at & (reach - 1)))};
		return 0;
	}
	ret = load_slice(q, table, at, &s, err);
	if (!ret)
		ret = map_in_slice(q, q2_cache_data(&q->l2, s), at, bytes, x, err);
	if (!ret && !(q->l1[i] & Q2_COPIED)) /* what others reach through the same table is not ours alone */
		x->copied = false;
	return ret;
}

int q2_map(struct qcow2 *q, uint64_t at, uint64_t bytes, struct q2_extent *x, struct error *err)
{
	struct q2_extent next;
	int ret = 0;

	if (unlikely(!q->l1))
		ret = q2_reload(q, err);
	if (!ret)
		ret = map_one(q, at, bytes, x, err);
	while (!ret && x->bytes < bytes && ((at + x->bytes) & ((1ull << q->grain_bits) - 1)) == 0 &&
	       q2_slice_reach(q, at + x->bytes) == q2_slice_reach(q, 0) &&
	       map_one(q, at + x->bytes, bytes - x->bytes, &next, NULL) == 0 && continues(x, &next, x->bytes))
		x->bytes += next.bytes;
	return ret;
}

bool q2_hits_tables(const struct qcow2 *q, uint64_t host, uint64_t bytes)
{
	for (uint64_t c = host >> q->h.cluster_bits; c <= (host + bytes - 1) >> q->h.cluster_bits; c++)
		if (q2_set_has(&q->meta, c))
			return true;
	return false;
}

/* ---- changing entries ---- */

/* Drops the references that an entry holds. */
static void release(struct qcow2 *q, uint64_t entry, bool punch)
{
	uint64_t at, bytes, first;

	if (entry & Q2_COMPRESSED) {
		q2_compressed_place(q, entry, &at, &bytes);
		first = at >> q->h.cluster_bits;
		q2_free_later(q, first, ((at + bytes - 1) >> q->h.cluster_bits) - first + 1, punch);
	} else if (entry & Q2_OFFSET) {
		q2_free_later(q, (entry & Q2_OFFSET) >> q->h.cluster_bits, 1, punch);
	}
}

int q2_set_entries(struct qcow2 *q, uint64_t at, uint64_t count, uint64_t entry, bool step, bool punch,
                   struct error *err)
{
	struct q2_slot *s = NULL;
	uint64_t table, old;
	uint8_t *p;
	int ret = q2_l2_at(q, q->l1[l1_index(q, at)], &table, err);

	if (!ret)
		ret = q2_free_reserve(q, (uint32_t)count, err);
	if (!ret)
		ret = load_slice(q, table, at, &s, err);
	if (ret)
		return ret;
	p = q2_cache_data(&q->l2, s) + (slice_index(q, at) << q->entry_bits);
	for (; count; count--, p += 8, entry += step ? q->cluster_bytes : 0) {
		old = be64_at(p);
		if (old & Q2_COMPRESSED || (old & Q2_OFFSET) != (entry & Q2_OFFSET))
			release(q, old, punch);
		put_be64(p, entry);
	}
	q2_cache_dirty(&q->l2, s);
	return 0;
}

static void l1_set(struct qcow2 *q, uint32_t i, uint64_t entry)
{
	q->l1[i] = entry;
	if (q->l1_dirty_from == q->l1_dirty_to) {
		q->l1_dirty_from = i;
		q->l1_dirty_to = i + 1;
	}
	q->l1_dirty_from = (uint32_t)min_u64(q->l1_dirty_from, i);
	q->l1_dirty_to = (uint32_t)max_u64(q->l1_dirty_to, i + 1);
}

/* A new L2 table as a copy of the one at @old (0: empty), for which nobody refers to the clusters alone. */
static int write_l2(struct qcow2 *q, uint64_t cluster, uint64_t old, struct error *err)
{
	uint8_t *table = calloc(1, q->cluster_bytes);
	int ret = 0;

	if (!table)
		return q2_no_memory(q, err);
	if (old)
		ret = file_read(&q->disk.file, old, table, q->cluster_bytes, err);
	for (uint64_t i = 0; i < 1ull << q->l2_bits; i++)
		if (!(be64_at(table + 8 * i) & Q2_COMPRESSED))
			put_be64(table + 8 * i, be64_at(table + 8 * i) & ~Q2_COPIED);
	if (!ret)
		ret = file_write(&q->disk.file, cluster << q->h.cluster_bits, table, q->cluster_bytes, err);
	free(table);
	return ret;
}

int q2_own_l2(struct qcow2 *q, uint64_t at, struct error *err)
{
	uint32_t i = (uint32_t)l1_index(q, at);
	uint64_t old, cluster = 0, got;
	int ret;

	ret = q2_l2_at(q, q->l1[i], &old, err);
	if (ret || (old && q->l1[i] & Q2_COPIED))
		return ret;
	ret = q2_free_reserve(q, 1, err);
	if (!ret)
		ret = q2_alloc(q, 1, &cluster, &got, NULL, err);
	if (ret)
		return ret;
	/* It may have been a table before. */
	q2_cache_drop(&q->l2, cluster << q->h.cluster_bits, q->cluster_bytes);
	ret = write_l2(q, cluster, old, err);
	if (!ret && q2_set_add(&q->meta, cluster))
		ret = q2_no_memory(q, err);
	if (ret) {
		q2_unalloc(q, cluster, 1, NULL);
		return ret;
	}
	if (old)
		q2_free_later(q, old >> q->h.cluster_bits, 1, false);
	l1_set(q, i, cluster << q->h.cluster_bits | Q2_COPIED);
	return 0;
}
