/*
 * Refcounts, and finding free clusters. An increment is in a refcount block in memory at once and on
 * the disk before any reference is; a decrement waits in a list until the reference is gone from
 * the disk, so a block in memory can be written at any time. A crash can leave counts too high
 * (clusters are lost until a repair), never too low.
 */
#include "disk/qcow2.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

#define RC_BYTES (1u << 20) /* refcounts in memory */

/* ---- arrays of refcounts: 1, 2, 4, 8, 16, 32 or 64 bits each ---- */

uint64_t q2_refcount_in(const void *array, unsigned order, uint64_t i)
{
	const uint8_t *p = array;

	switch (order) {
	case 3:
		return p[i];
	case 4:
		return be16_at(p + 2 * i);
	case 5:
		return be32_at(p + 4 * i);
	case 6:
		return be64_at(p + 8 * i);
	}
	i <<= order; /* in bits; the lowest bits of a byte come first */
	return p[i / 8] >> i % 8 & ((1u << (1u << order)) - 1);
}

void q2_refcount_put(void *array, unsigned order, uint64_t i, uint64_t n)
{
	uint8_t *p = array;
	unsigned mask;

	switch (order) {
	case 3:
		p[i] = (uint8_t)n;
		return;
	case 4:
		put_be16(p + 2 * i, (uint16_t)n);
		return;
	case 5:
		put_be32(p + 4 * i, (uint32_t)n);
		return;
	case 6:
		put_be64(p + 8 * i, n);
		return;
	}
	i <<= order;
	mask = (1u << (1u << order)) - 1;
	p[i / 8] = (uint8_t)((p[i / 8] & ~(mask << i % 8)) | (unsigned)n << i % 8);
}

/* ---- slices ---- */

static unsigned slice_count_bits(const struct qcow2 *q) { return q->rc.slice_bits + 3 - q->h.refcount_order; }

static int load_slice(struct qcow2 *q, uint64_t at, struct q2_slot **slot, struct error *err)
{
	struct q2_slot *s = q2_cache_find(&q->rc, at);
	uint8_t *data;
	int ret = 0;

	if (!s) {
		s = q2_cache_victim(&q->rc);
		if (s->dirty)
			ret = q2_cache_write(&q->rc, &q->disk.file, err);
		if (ret)
			return ret;
		q2_cache_put(&q->rc, s, at);
		data = q2_cache_data(&q->rc, s);
		ret = file_read(&q->disk.file, at, data, 1ull << q->rc.slice_bits, err);
		if (ret)
			q2_cache_drop(&q->rc, at, 1);
	}
	*slot = s;
	return ret;
}

/* The slice with a cluster's refcount; NULL if there is no refcount block for it. */
static int slice_of(struct qcow2 *q, uint64_t cluster, struct q2_slot **slot, struct error *err)
{
	uint64_t block = cluster >> q->block_bits;
	uint64_t byte = (cluster & ((1ull << q->block_bits) - 1)) << q->h.refcount_order >> 3;

	*slot = NULL;
	if (block >= q->rt_size || !q->rt[block])
		return 0;
	return load_slice(q, q->rt[block] + (byte & ~((1ull << q->rc.slice_bits) - 1)), slot, err);
}

static uint64_t get_in_slice(struct qcow2 *q, const struct q2_slot *s, uint64_t cluster)
{
	return q2_refcount_in(q2_cache_data(&q->rc, s), q->h.refcount_order,
	                      cluster & ((1ull << slice_count_bits(q)) - 1));
}

static void put_in_slice(struct qcow2 *q, struct q2_slot *s, uint64_t cluster, uint64_t n)
{
	q2_refcount_put(q2_cache_data(&q->rc, s), q->h.refcount_order,
	                cluster & ((1ull << slice_count_bits(q)) - 1), n);
	q2_cache_dirty(&q->rc, s);
}

int q2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *n, struct error *err)
{
	struct q2_slot *s;
	int ret = slice_of(q, cluster, &s, err);

	if (!ret)
		*n = s ? get_in_slice(q, s, cluster) : 0;
	return ret;
}

/* ---- the refcount table ---- */

static void rt_changed(struct qcow2 *q, uint32_t block)
{
	if (q->rt_dirty_from == q->rt_dirty_to) {
		q->rt_dirty_from = block;
		q->rt_dirty_to = block + 1;
	}
	q->rt_dirty_from = (uint32_t)min_u64(q->rt_dirty_from, block);
	q->rt_dirty_to = (uint32_t)max_u64(q->rt_dirty_to, block + 1);
}

static int write_rt(struct qcow2 *q, uint64_t at, uint32_t from, uint32_t to, const uint64_t *rt, struct error *err)
{
	uint64_t *be = malloc((to - from) * 8ull);
	int ret;

	if (!be)
		return q2_no_memory(q, err);
	for (uint32_t i = from; i < to; i++)
		be[i - from] = htobe64(rt[i]);
	ret = file_write(&q->disk.file, at + 8ull * from, be, (to - from) * 8ull, err);
	free(be);
	return ret;
}

int q2_refcounts_write(struct qcow2 *q, struct error *err)
{
	int ret = q2_cache_write(&q->rc, &q->disk.file, err);

	if (ret || q->rt_dirty_from == q->rt_dirty_to)
		return ret;
	ret = file_sync(&q->disk.file, err); /* a new block before the entry that leads to it */
	if (!ret)
		ret = write_rt(q, q->h.rt_at, q->rt_dirty_from, q->rt_dirty_to, q->rt, err);
	if (!ret)
		q->rt_dirty_from = q->rt_dirty_to = 0;
	return ret;
}

/* A cluster becomes part of a table. It must not be one already, nor have left anything in memory. */
static int take_for_table(struct qcow2 *q, uint64_t cluster, struct error *err)
{
	if (q2_set_has(&q->meta, cluster)) {
		q2_mark_corrupt(q);
		return q2_damaged(q, err, "cluster %llu is part of a table, but free by its refcount",
		                  (unsigned long long)cluster);
	}
	q2_cache_drop(&q->l2, cluster << q->h.cluster_bits, q->cluster_bytes);
	q2_cache_drop(&q->rc, cluster << q->h.cluster_bits, q->cluster_bytes);
	return q2_set_add(&q->meta, cluster) ? q2_no_memory(q, err) : 0;
}

/* Writes a refcount block at @cluster in which the clusters of [first, end) that it covers have refcount 1. */
static int write_block(struct qcow2 *q, uint64_t block, uint64_t cluster, uint64_t first, uint64_t end,
                       struct error *err)
{
	uint64_t base = block << q->block_bits;
	uint8_t *data = calloc(1, q->cluster_bytes);
	int ret;

	if (!data)
		return q2_no_memory(q, err);
	for (uint64_t c = max_u64(first, base); c < min_u64(end, base + (1ull << q->block_bits)); c++)
		q2_refcount_put(data, q->h.refcount_order, c - base, 1);
	ret = take_for_table(q, cluster, err);
	if (!ret)
		ret = file_write(&q->disk.file, cluster << q->h.cluster_bits, data, q->cluster_bytes, err);
	if (ret)
		q2_set_remove(&q->meta, cluster);
	free(data);
	return ret;
}

/* A refcount block for the clusters around @cluster, which holds it itself. */
static int add_block(struct qcow2 *q, uint64_t cluster, struct error *err)
{
	uint64_t block = cluster >> q->block_bits;
	int ret = write_block(q, block, cluster, cluster, cluster + 1, err);

	if (ret)
		return ret;
	q->rt[block] = cluster << q->h.cluster_bits;
	rt_changed(q, (uint32_t)block);
	q->virgin = max_u64(q->virgin, cluster + 1);
	return 0;
}

/* The layout of a larger refcount table: blocks that cover all of it, then the table, from cluster @first on. */
struct growth {
	uint64_t first, blocks, clusters, entries;
};

static int plan_growth(const struct qcow2 *q, uint64_t first, struct growth *g, struct error *err)
{
	uint64_t end_block;

	*g = (struct growth){.first = first, .blocks = 1, .clusters = 2ull * q->h.rt_clusters};
	for (;;) {
		g->entries = g->clusters << (q->h.cluster_bits - 3);
		end_block = ((first + g->blocks + g->clusters - 1) >> q->block_bits) + 1;
		if (end_block > g->entries)
			g->clusters++;
		else if (end_block - (first >> q->block_bits) > g->blocks)
			g->blocks++;
		else
			break;
		if (g->clusters << q->h.cluster_bits > Q2_RT_BYTES_MAX)
			return error_set(err, -EFBIG,
			                 "%s: the image file would be too large for clusters of %llu bytes",
			                 q2_path(q), (unsigned long long)q->cluster_bytes);
	}
	return 0;
}

static int write_growth(struct qcow2 *q, const struct growth *g, uint64_t *rt, struct error *err)
{
	uint64_t end = g->first + g->blocks + g->clusters, block = g->first >> q->block_bits;
	struct q2_header h = q->h;
	int ret = 0;

	for (uint64_t i = 0; i < g->blocks && !ret; i++) {
		ret = write_block(q, block + i, g->first + i, g->first, end, err);
		rt[block + i] = (g->first + i) << q->h.cluster_bits;
	}
	for (uint64_t i = 0; i < g->clusters && !ret; i++)
		ret = take_for_table(q, g->first + g->blocks + i, err);
	h.rt_at = (g->first + g->blocks) << q->h.cluster_bits;
	h.rt_clusters = (uint32_t)g->clusters;
	if (!ret)
		ret = write_rt(q, h.rt_at, 0, (uint32_t)g->entries, rt, err);
	if (!ret)
		ret = file_sync(&q->disk.file, err);
	if (!ret)
		ret = q2_header_update(&q->disk.file, &h, err);
	if (!ret)
		q->h = h;
	return ret ? ret : file_sync(&q->disk.file, err);
}

/* A larger refcount table from cluster @first on, which the old one does not reach. */
static int grow_rt(struct qcow2 *q, uint64_t first, struct error *err)
{
	uint64_t old_first = q->h.rt_at >> q->h.cluster_bits, old_clusters = q->h.rt_clusters, *rt;
	struct growth g;
	int ret = plan_growth(q, first, &g, err);

	if (!ret)
		ret = q2_refcounts_write(q, err);
	if (ret)
		return ret;
	rt = calloc(g.entries, 8);
	if (!rt)
		return q2_no_memory(q, err);
	memcpy(rt, q->rt, q->rt_size * 8ull);
	ret = write_growth(q, &g, rt, err);
	if (q->h.rt_clusters != g.clusters) { /* it did not take place */
		for (uint64_t i = 0; i < g.blocks + g.clusters; i++)
			q2_set_remove(&q->meta, first + i);
		free(rt);
		return ret;
	}
	free(q->rt);
	q->rt = rt;
	q->rt_size = (uint32_t)g.entries;
	q->virgin = max_u64(q->virgin, first + g.blocks + g.clusters);
	for (uint64_t i = 0; i < old_clusters; i++)
		q2_set_remove(&q->meta, old_first + i);
	return ret ? ret : q2_unalloc(q, old_first, old_clusters, err);
}

/* ---- allocation ---- */

/* The first free cluster from @from on; *slot NULL: there is no refcount block for it. */
static int find_free(struct qcow2 *q, uint64_t from, uint64_t *found, struct q2_slot **slot, struct error *err)
{
	uint64_t row = 1ull << slice_count_bits(q), c = from;
	int ret;

	while (c < Q2_OFFSET >> q->h.cluster_bits) {
		ret = slice_of(q, c, slot, err);
		if (ret)
			return ret;
		do {
			*found = c;
			if (!*slot || !get_in_slice(q, *slot, c))
				return 0;
		} while (++c & (row - 1));
	}
	return error_set(err, -EFBIG, "%s: the image file is as large as it can be", q2_path(q));
}

static int check_free(struct qcow2 *q, uint64_t cluster, struct error *err)
{
	if (!q2_set_has(&q->meta, cluster))
		return 0;
	q2_mark_corrupt(q);
	return q2_damaged(q, err, "cluster %llu is part of a table, but free by its refcount",
	                  (unsigned long long)cluster);
}

int q2_alloc(struct qcow2 *q, uint64_t want, uint64_t *first, uint64_t *got, bool *zero, struct error *err)
{
	struct q2_slot *s;
	uint64_t c, n = 0;
	int ret;

	for (;;) {
		ret = find_free(q, q->free_hint, &c, &s, err);
		if (ret)
			return ret;
		if (s)
			break;
		ret = c >> q->block_bits < q->rt_size ? add_block(q, c, err) : grow_rt(q, c, err);
		if (ret)
			return ret;
	}
	*first = c;
	do {
		ret = check_free(q, c + n, err);
		if (ret)
			return ret;
		put_in_slice(q, s, c + n, 1);
		n++;
	} while (n < want && (c + n) & ((1ull << slice_count_bits(q)) - 1) && !get_in_slice(q, s, c + n));
	if (zero)
		*zero = c >= q->virgin;
	*got = n;
	q->free_hint = c + n;
	q->virgin = max_u64(q->virgin, c + n);
	return 0;
}

/* ---- giving back ---- */

/* One reference less. *left: how many there are now. */
static int drop_one(struct qcow2 *q, uint64_t cluster, uint64_t *left, struct error *err)
{
	struct q2_slot *s;
	int ret = slice_of(q, cluster, &s, err);

	if (ret)
		return ret;
	*left = s ? get_in_slice(q, s, cluster) : 0;
	if (!*left) {
		q2_mark_corrupt(q);
		return q2_damaged(q, err, "cluster %llu was in use, but its refcount is 0",
		                  (unsigned long long)cluster);
	}
	put_in_slice(q, s, cluster, --*left);
	if (!*left) {
		q->free_hint = min_u64(q->free_hint, cluster);
		q2_set_remove(&q->meta, cluster);
	}
	return 0;
}

int q2_unalloc(struct qcow2 *q, uint64_t first, uint64_t count, struct error *err)
{
	uint64_t left;
	int ret = 0;

	while (count && !ret)
		ret = drop_one(q, first + --count, &left, err);
	return ret;
}

int q2_free_reserve(struct qcow2 *q, uint32_t calls, struct error *err)
{
	uint32_t room = q->pendings + calls;
	struct q2_run *more;

	if (room <= q->pending_room)
		return 0;
	room += room / 2 + 64;
	more = realloc(q->pending, room * sizeof(*more));
	if (!more)
		return q2_no_memory(q, err);
	q->pending = more;
	q->pending_room = room;
	return 0;
}

void q2_free_later(struct qcow2 *q, uint64_t first, uint64_t count, bool punch)
{
	struct q2_run *last = q->pendings ? &q->pending[q->pendings - 1] : NULL;

	q->pending_clusters += count;
	if (last && last->first + last->count == first && last->punch == punch)
		last->count += count;
	else
		q->pending[q->pendings++] = (struct q2_run){first, count, punch};
}

/* From the last cluster of a run to its first; what was done is taken off the run. */
static int free_run(struct qcow2 *q, struct q2_run *r, struct error *err)
{
	uint64_t left = 0, first, freed = 0; /* a row that is free now */
	int ret = 0;

	for (first = r->first + r->count; r->count && !ret; first = r->first + r->count) {
		r->count--;
		q->pending_clusters--;
		ret = drop_one(q, first - 1, &left, err);
		if (!ret && !left) {
			freed++;
			continue;
		}
		if (freed && r->punch)
			file_discard(&q->disk.file, first << q->h.cluster_bits, freed << q->h.cluster_bits);
		freed = 0;
	}
	if (freed && r->punch)
		file_discard(&q->disk.file, r->first << q->h.cluster_bits, freed << q->h.cluster_bits);
	return ret;
}

int q2_free_pending(struct qcow2 *q, struct error *err)
{
	int ret = 0;

	while (q->pendings && !ret) {
		struct q2_run *r = &q->pending[q->pendings - 1];

		ret = free_run(q, r, err);
		q->pendings -= !r->count;
	}
	return ret;
}

/* ---- from reading to writing ---- */

static int add_table(struct qcow2 *q, uint64_t at, uint64_t bytes, struct error *err)
{
	uint64_t first = at >> q->h.cluster_bits, count = q2_clusters_for(q, bytes);

	for (uint64_t i = 0; i < count; i++)
		if (q2_set_add(&q->meta, first + i))
			return q2_no_memory(q, err);
	return 0;
}

static int load_rt(struct qcow2 *q, struct error *err)
{
	uint64_t bytes = (uint64_t)q->h.rt_clusters << q->h.cluster_bits;
	int ret;

	q->rt = malloc(bytes);
	if (!q->rt)
		return q2_no_memory(q, err);
	q->rt_size = (uint32_t)(bytes / 8);
	ret = file_read(&q->disk.file, q->h.rt_at, q->rt, bytes, err);
	for (uint32_t i = 0; i < q->rt_size && !ret; i++) {
		q->rt[i] = be64toh(q->rt[i]) & Q2_RT_OFFSET;
		if (q->rt[i] & (q->cluster_bytes - 1) || q->rt[i] >= q->disk.file.bytes)
			ret = q2_damaged(q, err, "entry %u of the refcount table is %#llx", i,
			                 (unsigned long long)q->rt[i]);
		else if (q->rt[i])
			ret = add_table(q, q->rt[i], q->cluster_bytes, err);
	}
	return ret;
}

/* Where data must not be written: everything the header, the L1 table and the refcount table lead to. */
static int list_tables(struct qcow2 *q, struct error *err)
{
	int ret = add_table(q, 0, q->cluster_bytes, err);

	if (!ret)
		ret = add_table(q, q->h.l1_at, 8ull * q->h.l1_size, err);
	if (!ret)
		ret = add_table(q, q->h.rt_at, (uint64_t)q->h.rt_clusters << q->h.cluster_bits, err);
	if (!ret && q->h.snapshots)
		ret = add_table(q, q->h.snapshots_at, (uint64_t)q->h.snapshots * Q2_S_BYTES, err);
	for (uint32_t i = 0; i < q->h.l1_size && !ret; i++)
		if (q->l1[i] & Q2_OFFSET)
			ret = add_table(q, q->l1[i] & Q2_OFFSET, q->cluster_bytes, err);
	return ret;
}

int q2_begin_writing(struct qcow2 *q, struct error *err)
{
	unsigned slice_bits = q->h.cluster_bits < 12 ? q->h.cluster_bits : 12;
	int ret;

	if (q->writing)
		return 0;
	ret = list_tables(q, err);
	if (!ret)
		ret = load_rt(q, err);
	if (!ret && q2_cache_init(&q->rc, slice_bits, RC_BYTES >> slice_bits))
		ret = q2_no_memory(q, err);
	q->free_hint = 0;
	q->virgin = q->disk.file.device ? UINT64_MAX : q2_clusters_for(q, q->disk.file.bytes);
	q->writing = !ret;
	if (ret)
		q2_end_writing(q);
	return ret;
}

void q2_end_writing(struct qcow2 *q)
{
	free(q->rt);
	free(q->pending);
	q2_set_free(&q->meta);
	q2_cache_free(&q->rc);
	q->rt = NULL;
	q->pending = NULL;
	q->rt_size = q->rt_dirty_from = q->rt_dirty_to = q->pendings = q->pending_room = 0;
	q->pending_clusters = 0;
	q->writing = false;
}
