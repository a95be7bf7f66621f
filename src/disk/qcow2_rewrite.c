/* See qcow2_rewrite.h. */
#include "disk/qcow2_rewrite.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

#define ARRAY_MAX (1ull << 30) /* bytes of refcounts in memory */

static bool bit_get(const uint8_t *map, uint64_t i) { return map[i / 8] >> i % 8 & 1; }
static void bit_set(uint8_t *map, uint64_t i) { map[i / 8] |= (uint8_t)(1u << i % 8); }
static uint64_t blocks_of(const struct q2_rewrite *w) { return w->clusters >> w->q->block_bits; }

/* ---- the arrays ---- */

static int enlarge(void *array, uint64_t old, uint64_t bytes)
{
	uint8_t **p = array, *more = realloc(*p, bytes ? bytes : 1);

	if (!more)
		return -ENOMEM;
	memset(more + old, 0, bytes - old);
	*p = more;
	return 0;
}

/* Room for @clusters at least. */
static int extend(struct q2_rewrite *w, uint64_t clusters)
{
	uint64_t block = 1ull << w->q->block_bits, have = w->clusters, blocks = blocks_of(w), want;

	want = (clusters + block - 1) & ~(block - 1);
	if (want <= have)
		return 0;
	if (want >> 3 << w->h.refcount_order > ARRAY_MAX)
		return error_set(w->err, -EFBIG,
		                 "%s: too large for this operation: its refcounts take more than %llu MiB",
		                 q2_path(w->q), ARRAY_MAX >> 20);
	if (enlarge(&w->refcount, (have << w->h.refcount_order) / 8, (want << w->h.refcount_order) / 8) ||
	    enlarge(&w->used, (have + 7) / 8, (want + 7) / 8) ||
	    enlarge(&w->changed, (blocks + 7) / 8, ((want >> w->q->block_bits) + 7) / 8) ||
	    enlarge(&w->rt, blocks * 8, (want >> w->q->block_bits) * 8))
		return q2_no_memory(w->q, w->err);
	w->clusters = want;
	return 0;
}

static int load_blocks(struct q2_rewrite *w)
{
	struct qcow2 *q = w->q;
	int ret = 0;

	w->loaded = blocks_of(w);
	for (uint64_t b = 0; b < w->loaded && !ret; b++) {
		w->rt[b] = b < q->rt_size ? q->rt[b] : 0;
		if (w->rt[b])
			ret = file_read(&q->disk.file, w->rt[b], w->refcount + (b << q->h.cluster_bits),
			                q->cluster_bytes, w->err);
	}
	for (uint64_t c = 0; c < w->clusters && !ret; c++)
		if (q2_rewrite_get(w, c))
			bit_set(w->used, c);
	return ret;
}

int q2_rewrite_begin(struct q2_rewrite *w, struct qcow2 *q, struct error *err)
{
	int ret = q2_begin_writing(q, err);

	if (!ret)
		ret = q2_flush(&q->disk, err);
	if (!ret)
		ret = q2_refcounts_write(q, err);
	*w = (struct q2_rewrite){.q = q, .h = q->h, .fresh = q->virgin, .err = err};
	if (!ret)
		ret = extend(w, q2_clusters_for(q, q->disk.file.bytes));
	if (!ret)
		ret = load_blocks(w);
	if (ret)
		q2_rewrite_end(w);
	return ret;
}

void q2_rewrite_end(struct q2_rewrite *w)
{
	free(w->refcount);
	free(w->used);
	free(w->changed);
	free(w->rt);
	w->refcount = w->used = w->changed = NULL;
	w->rt = NULL;
}

uint64_t q2_rewrite_get(const struct q2_rewrite *w, uint64_t cluster)
{
	return cluster < w->clusters ? q2_refcount_in(w->refcount, w->h.refcount_order, cluster) : 0;
}

void q2_rewrite_set(struct q2_rewrite *w, uint64_t cluster, uint64_t n)
{
	q2_refcount_put(w->refcount, w->h.refcount_order, cluster, n);
	bit_set(w->changed, cluster >> w->q->block_bits);
}

void q2_rewrite_mark(struct q2_rewrite *w, uint64_t cluster, uint64_t n)
{
	q2_rewrite_set(w, cluster, n);
	if (n)
		bit_set(w->used, cluster);
}

int q2_rewrite_add(struct q2_rewrite *w, uint64_t first, uint64_t count, int by)
{
	uint64_t n;

	for (uint64_t c = first; c < first + count; c++) {
		n = q2_rewrite_get(w, c);
		if (c >= w->clusters || (by < 0 && !n))
			return q2_damaged(
			        w->q, w->err,
			        "cluster %llu is in use, but its refcount says less; check and repair it",
			        (unsigned long long)c);
		if (by > 0 && n == q2_refcount_max(w->h.refcount_order))
			return error_set(w->err, -EOVERFLOW,
			                 "%s: refcounts of %u bits are too small for one more snapshot",
			                 q2_path(w->q), 1u << w->h.refcount_order);
		q2_rewrite_set(w, c, by > 0 ? n + 1 : n - 1);
	}
	return 0;
}

int q2_rewrite_alloc(struct q2_rewrite *w, uint64_t count, uint64_t *first)
{
	uint64_t row = 0, c = w->hint;
	int ret;

	for (; row < count; c++) {
		ret = extend(w, c + 1);
		if (ret)
			return ret;
		row = bit_get(w->used, c) || q2_rewrite_get(w, c) ? 0 : row + 1;
	}
	*first = c - count;
	if (count == 1)
		w->hint = c;
	for (uint64_t i = 0; i < count; i++)
		q2_rewrite_set(w, *first + i, 1);
	/* Even if nothing comes of it, these are not zeroes any more. */
	w->q->virgin = max_u64(w->q->virgin, c);
	return 0;
}

/* ---- tables ---- */

/* Whole clusters, of which zeroes at the end need not be written where the file has never been. */
static int write_clusters(struct q2_rewrite *w, uint64_t at, const uint8_t *data, uint64_t bytes)
{
	struct file *f = &w->q->disk.file;
	uint64_t n = bytes;
	int ret;

	if (at >> w->h.cluster_bits < w->fresh)
		return file_write(f, at, data, bytes, w->err);
	while (n >= 512 && !data[n - 1] && memcmp(data + n - 512, data + n - 511, 511) == 0)
		n -= 512;
	ret = file_write(f, at, data, n, w->err);
	return ret || f->bytes >= at + bytes ? ret : file_truncate(f, at + bytes, w->err);
}

int q2_rewrite_table(struct q2_rewrite *w, const void *table, uint64_t bytes, uint64_t *offset)
{
	uint64_t first = 0, count = q2_clusters_for(w->q, bytes);
	uint8_t *padded;
	int ret = count ? q2_rewrite_alloc(w, count, &first) : 0;

	*offset = count && !ret ? first << w->h.cluster_bits : 0;
	if (ret || !count)
		return ret;
	padded = calloc(count, w->q->cluster_bytes);
	if (!padded)
		return q2_no_memory(w->q, w->err);
	memcpy(padded, table, bytes);
	ret = write_clusters(w, *offset, padded, count << w->h.cluster_bits);
	free(padded);
	return ret;
}

int q2_rewrite_l1(struct q2_rewrite *w, const uint64_t *l1, uint32_t size, uint64_t *offset)
{
	uint64_t *be = malloc(max_u64(8, 8ull * size));
	int ret;

	if (!be)
		return q2_no_memory(w->q, w->err);
	for (uint32_t i = 0; i < size; i++)
		be[i] = htobe64(l1[i]);
	ret = q2_rewrite_table(w, be, 8ull * size, offset);
	free(be);
	return ret;
}

/* The clusters that an L2 entry refers to. */
static uint64_t clusters_of_entry(const struct qcow2 *q, uint64_t entry, uint64_t *first)
{
	uint64_t at, bytes;

	if (entry & Q2_COMPRESSED) {
		q2_compressed_place(q, entry, &at, &bytes);
		*first = at >> q->h.cluster_bits;
		return ((at + bytes - 1) >> q->h.cluster_bits) - *first + 1;
	}
	*first = (entry & Q2_OFFSET) >> q->h.cluster_bits;
	return *first != 0;
}

static int add_l2(struct q2_rewrite *w, const uint8_t *table, int by)
{
	struct qcow2 *q = w->q;
	uint64_t first, count;
	int ret = 0;

	for (uint64_t i = 0; i < 1ull << q->l2_bits && !ret; i++) {
		count = clusters_of_entry(q, be64_at(table + (i << q->entry_bits)), &first);
		if (count)
			ret = q2_rewrite_add(w, first, count, by);
	}
	return ret;
}

/* Calls a function with each L2 table of an L1 table. */
static int for_each_l2(struct q2_rewrite *w, uint64_t *l1, uint32_t size, int arg,
		       int (*f)(struct q2_rewrite *w, uint64_t *entry, uint64_t at, uint8_t *table, int arg))
{
	uint8_t *table = malloc(w->q->cluster_bytes);
	uint64_t at;
	int ret = table ? 0 : q2_no_memory(w->q, w->err);

	for (uint32_t i = 0; i < size && !ret; i++) {
		ret = q2_l2_at(w->q, l1[i], &at, w->err);
		if (ret || !at)
			continue;
		ret = file_read(&w->q->disk.file, at, table, w->q->cluster_bytes, w->err);
		if (!ret)
			ret = f(w, &l1[i], at, table, arg);
	}
	free(table);
	return ret;
}

static int add_one(struct q2_rewrite *w, uint64_t *entry, uint64_t at, uint8_t *table, int by)
{
	int ret = add_l2(w, table, by);

	(void)entry;
	return ret ? ret : q2_rewrite_add(w, at >> w->h.cluster_bits, 1, by);
}

int q2_rewrite_add_tree(struct q2_rewrite *w, uint64_t *l1, uint32_t size, int by)
{
	return for_each_l2(w, l1, size, by, add_one);
}

/* Returns whether any flag was wrong. */
static bool correct_flags(const struct q2_rewrite *w, uint8_t *table)
{
	const struct qcow2 *q = w->q;
	uint64_t entry, right, first;
	bool wrong = false;
	uint8_t *p = table;

	for (uint64_t i = 0; i < 1ull << q->l2_bits; i++, p += 1ull << q->entry_bits) {
		entry = be64_at(p);
		right = entry & ~Q2_COPIED;
		if (!(entry & Q2_COMPRESSED) && clusters_of_entry(q, entry, &first) && q2_rewrite_get(w, first) == 1)
			right |= Q2_COPIED;
		wrong |= right != entry;
		put_be64(p, right);
	}
	return wrong;
}

/* The table in use stays as it is; a corrected copy takes its place. */
static int correct_one(struct q2_rewrite *w, uint64_t *entry, uint64_t at, uint8_t *table, int refs)
{
	uint64_t offset;
	int ret;

	if (!correct_flags(w, table))
		return 0;
	ret = q2_rewrite_table(w, table, w->q->cluster_bytes, &offset);
	for (int i = 0; i < refs && !ret; i++) {
		if (i)
			ret = q2_rewrite_add(w, offset >> w->h.cluster_bits, 1, 1);
		if (!ret)
			ret = q2_rewrite_add(w, at >> w->h.cluster_bits, 1, -1);
	}
	if (!ret)
		*entry = offset;
	return ret;
}

int q2_rewrite_copied_flags(struct q2_rewrite *w, uint64_t *l1, uint32_t size, int refs)
{
	return for_each_l2(w, l1, size, refs, correct_one);
}

void q2_rewrite_l1_flags(struct q2_rewrite *w, uint64_t *l1, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++) {
		l1[i] &= Q2_OFFSET;
		if (l1[i] && q2_rewrite_get(w, l1[i] >> w->h.cluster_bits) == 1)
			l1[i] |= Q2_COPIED;
	}
}

/* ---- the commit ---- */

/* Every changed block, and those that change by this, to a new place. */
static int place_blocks(struct q2_rewrite *w)
{
	uint8_t *placed = calloc(1, (blocks_of(w) + 7) / 8 + 1);
	uint64_t sized = blocks_of(w), before, first = 0;
	bool again = true;
	int ret = placed ? 0 : q2_no_memory(w->q, w->err);

	while (again && !ret) {
		again = false;
		for (uint64_t b = 0; b < blocks_of(w) && !ret; b++) {
			if (!bit_get(w->changed, b) || bit_get(placed, b))
				continue;
			again = true;
			bit_set(placed, b);
			if (w->rt[b])
				ret = q2_rewrite_add(w, w->rt[b] >> w->h.cluster_bits, 1, -1);
			before = blocks_of(w);
			if (!ret)
				ret = q2_rewrite_alloc(w, 1, &first);
			if (!ret && blocks_of(w) > before) {
				ret = enlarge(&placed, (sized + 7) / 8 + 1, (blocks_of(w) + 7) / 8 + 1);
				sized = blocks_of(w);
			}
			w->rt[b] = first << w->h.cluster_bits;
		}
	}
	free(placed);
	return ret;
}

static int place_rt(struct q2_rewrite *w)
{
	uint64_t entries = blocks_of(w) + blocks_of(w) / 4 + 16, clusters, first = 0;
	int ret = q2_rewrite_add(w, w->h.rt_at >> w->h.cluster_bits, w->h.rt_clusters, -1);

	/* Blocks that describe nothing are left out. */
	for (uint64_t b = w->loaded; b < w->q->rt_size && !ret; b++)
		if (w->q->rt[b])
			ret = q2_rewrite_add(w, w->q->rt[b] >> w->h.cluster_bits, 1, -1);
	clusters = max_u64(w->h.rt_clusters, q2_clusters_for(w->q, entries * 8));
	if (clusters << w->h.cluster_bits > Q2_RT_BYTES_MAX)
		clusters = Q2_RT_BYTES_MAX >> w->h.cluster_bits;
	if (!ret)
		ret = q2_rewrite_alloc(w, clusters, &first);
	if (ret)
		return ret;
	w->h.rt_at = first << w->h.cluster_bits;
	w->h.rt_clusters = (uint32_t)clusters;
	return 0;
}

static int write_refcounts(struct q2_rewrite *w)
{
	struct qcow2 *q = w->q;
	uint64_t bytes = (uint64_t)w->h.rt_clusters << w->h.cluster_bits, *be;
	int ret = 0;

	if (blocks_of(w) * 8 > bytes)
		return error_set(w->err, -EFBIG,
		                 "%s: the image file would be too large for clusters of %llu bytes",
		                 q2_path(q), (unsigned long long)q->cluster_bytes);
	be = calloc(1, bytes);
	if (!be)
		return q2_no_memory(q, w->err);
	for (uint64_t b = 0; b < blocks_of(w) && !ret; b++) {
		be[b] = htobe64(w->rt[b]);
		if (bit_get(w->changed, b))
			ret = write_clusters(w, w->rt[b], w->refcount + (b << q->h.cluster_bits), q->cluster_bytes);
	}
	if (!ret)
		ret = write_clusters(w, w->h.rt_at, (const uint8_t *)be, bytes);
	free(be);
	return ret;
}

/* The room of what is free now. */
static void discard_freed(struct q2_rewrite *w)
{
	uint64_t first = 0, row = 0;

	for (uint64_t c = 0; c <= w->clusters; c++) {
		if (c < w->clusters && bit_get(w->used, c) && !q2_rewrite_get(w, c)) {
			first = row++ ? first : c;
		} else if (row) {
			file_discard(&w->q->disk.file, first << w->h.cluster_bits, row << w->h.cluster_bits);
			row = 0;
		}
	}
}

int q2_rewrite_commit(struct q2_rewrite *w)
{
	struct file *f = &w->q->disk.file;
	int ret, ret2;

	ret = place_rt(w);
	if (!ret)
		ret = place_blocks(w);
	if (!ret)
		ret = write_refcounts(w);
	if (!ret)
		ret = file_sync(f, w->err);
	if (ret)
		return ret;
	ret = q2_header_update(f, &w->h, w->err);
	if (!ret)
		ret = file_sync(f, w->err);
	if (!ret)
		discard_freed(w);
	ret2 = q2_reload(w->q, ret ? NULL : w->err);
	return ret ? ret : ret2;
}

/* ---- two uses ---- */

int q2_grow_l1(struct qcow2 *q, uint64_t size, struct error *err)
{
	unsigned reach = q->h.cluster_bits + q->l2_bits;
	uint64_t entries = (size >> reach) + ((size & ((1ull << reach) - 1)) != 0), *l1;
	struct q2_rewrite w;
	int ret;

	if (entries <= q->h.l1_size)
		return 0;
	if (entries * 8 > Q2_L1_BYTES_MAX)
		return error_set(err, -EFBIG,
		                 "%s: a disk of %llu bytes is too large for clusters of %llu bytes",
		                 q2_path(q), (unsigned long long)size, (unsigned long long)q->cluster_bytes);
	ret = q2_rewrite_begin(&w, q, err);
	if (ret)
		return ret;
	l1 = calloc(entries, 8);
	ret = l1 ? 0 : q2_no_memory(q, err);
	if (!ret)
		memcpy(l1, q->l1, 8ull * q->h.l1_size);
	if (!ret)
		ret = q2_rewrite_add(&w, q->h.l1_at >> q->h.cluster_bits, q2_clusters_for(q, 8ull * q->h.l1_size), -1);
	w.h.l1_size = (uint32_t)entries;
	if (!ret)
		ret = q2_rewrite_l1(&w, l1, w.h.l1_size, &w.h.l1_at);
	if (!ret)
		ret = q2_rewrite_commit(&w);
	free(l1);
	q2_rewrite_end(&w);
	return ret;
}

int q2_make_empty(struct qcow2 *q, struct error *err)
{
	struct q2_rewrite w;
	uint64_t *l1;
	int ret = q2_rewrite_begin(&w, q, err);

	if (ret)
		return ret;
	l1 = calloc(max_u64(1, q->h.l1_size), 8);
	ret = l1 ? q2_rewrite_add_tree(&w, q->l1, q->h.l1_size, -1) : q2_no_memory(q, err);
	if (!ret)
		ret = q2_rewrite_add(&w, q->h.l1_at >> q->h.cluster_bits, q2_clusters_for(q, 8ull * q->h.l1_size), -1);
	if (!ret)
		ret = q2_rewrite_l1(&w, l1, q->h.l1_size, &w.h.l1_at);
	if (!ret)
		ret = q2_rewrite_commit(&w);
	free(l1);
	q2_rewrite_end(&w);
	return ret;
}
