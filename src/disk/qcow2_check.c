/*
 * Consistency: every reference in the image is counted, and the counts are compared with the refcounts. Tables
 * are visited once, however many snapshots share them. What can be repaired is repaired by one rewrite.
 */
#include "disk/qcow2_check.h"
#include "disk/qcow2_rewrite.h"
#include "disk/qcow2_snapshot.h"
#include "base/util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SAY_MAX 20 /* findings that are told */

enum { UNUSED, DATA, PACKED, L2_TABLE, OTHER_TABLE };

struct checker {
	struct qcow2 *q;
	struct q2_rewrite w;
	struct disk_check *c;
	struct error *err;
	uint64_t clusters;  /* in the arrays */
	uint32_t *count;    /* references found */
	uint8_t *use;
	uint64_t said;
	uint64_t structural; /* errors that no change of refcounts and flags removes */
};

static void say(struct checker *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct checker *k, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (!k->c->say || k->said++ >= SAY_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	k->c->say(k->c->ctx, text);
	if (k->said == SAY_MAX)
		k->c->say(k->c->ctx, "(further findings are only counted)");
}

#define structural(k, ...) ((k)->c->errors++, (k)->structural++, say(k, __VA_ARGS__))

/* ---- counting ---- */

/* One more reference to each of some clusters, which are used as @use says. */
static void refer(struct checker *k, uint64_t first, uint64_t count, uint8_t use, uint32_t times, const char *by)
{
	for (uint64_t c = first; c < first + count; c++) {
		if (c >= k->clusters) {
			structural(k, "%s refers to offset %#llx, beyond the end of the file", by,
				   (unsigned long long)(c << k->q->h.cluster_bits));
			return;
		}
		if (k->use[c] != UNUSED && (k->use[c] != use || use == OTHER_TABLE) &&
		    !(k->use[c] <= PACKED && use <= PACKED))
			structural(k, "%s refers to offset %#llx, which has another use", by,
				   (unsigned long long)(c << k->q->h.cluster_bits));
		k->use[c] = k->use[c] > use ? k->use[c] : use;
		k->count[c] = k->count[c] > UINT32_MAX - times ? UINT32_MAX : k->count[c] + times;
	}
}

static void refer_bytes(struct checker *k, uint64_t at, uint64_t bytes, const char *by)
{
	refer(k, at >> k->q->h.cluster_bits, q2_clusters_for(k->q, bytes), OTHER_TABLE, 1, by);
}

/* The L2 tables of an L1 table; what they refer to comes later. */
static void count_l1(struct checker *k, const uint64_t *l1, uint32_t size, const char *by)
{
	uint64_t at;

	for (uint32_t i = 0; i < size; i++) {
		at = l1[i] & Q2_OFFSET;
		if (at & (k->q->cluster_bytes - 1))
			structural(k, "%s: entry %u is %#llx", by, i, (unsigned long long)l1[i]);
		else if (at)
			refer(k, at >> k->q->h.cluster_bits, 1, L2_TABLE, 1, by);
	}
}

static void count_l2(struct checker *k, const uint8_t *table, uint32_t times)
{
	struct qcow2 *q = k->q;

	for (uint64_t i = 0; i < 1ull << q->l2_bits; i++) {
		uint64_t entry = be64_at(table + (i << q->entry_bits)), at = entry & Q2_OFFSET, bytes;

		if (entry & Q2_COMPRESSED) {
			q2_compressed_place(q, entry, &at, &bytes);
			refer(k, at >> q->h.cluster_bits,
			      ((at + bytes - 1) >> q->h.cluster_bits) - (at >> q->h.cluster_bits) + 1, PACKED,
			      times, "a compressed cluster");
			k->c->compressed_clusters++;
		} else if (at & (q->cluster_bytes - 1)) {
			structural(k, "an L2 entry is %#llx", (unsigned long long)entry);
		} else if (at) {
			refer(k, at >> q->h.cluster_bits, 1, DATA, times, "an L2 entry");
			k->c->data_clusters++;
		}
	}
}

static int count_l2_tables(struct checker *k)
{
	uint8_t *table = malloc(k->q->cluster_bytes);
	int ret = table ? 0 : q2_no_memory(k->q, k->err);

	for (uint64_t c = 0; c < k->clusters && !ret; c++) {
		if (k->use[c] != L2_TABLE)
			continue;
		ret = file_read(&k->q->disk.file, c << k->q->h.cluster_bits, table, k->q->cluster_bytes, k->err);
		if (!ret)
			count_l2(k, table, k->count[c]);
	}
	free(table);
	return ret;
}

static int count_snapshots(struct checker *k)
{
	struct q2_snapshots t;
	uint64_t *l1;
	char by[64];
	int ret = q2_snapshots_load(k->q, &t, k->err);

	if (ret)
		return ret;
	refer_bytes(k, k->q->h.snapshots_at, t.bytes, "the snapshot table");
	for (uint32_t i = 0; i < t.count && !ret; i++) {
		ret = q2_snapshot_l1(k->q, &t.s[i], &l1, k->err);
		if (ret)
			break;
		snprintf(by, sizeof(by), "the L1 table of snapshot '%.30s'", t.s[i].name);
		refer_bytes(k, t.s[i].l1_at, 8ull * t.s[i].l1_size, by);
		count_l1(k, l1, t.s[i].l1_size, by);
		free(l1);
	}
	q2_snapshots_free(&t);
	return ret;
}

/* The bitmaps of one directory entry ("Bitmap directory"): a table of clusters. */
static int count_bitmap(struct checker *k, const uint8_t *entry)
{
	uint64_t at = be64_at(entry), bytes = 8ull * be32_at(entry + 8), cluster;
	uint8_t *table;
	int ret;

	if (at & (k->q->cluster_bytes - 1) || bytes > Q2_L1_BYTES_MAX) {
		structural(k, "a bitmap's table of %llu bytes at %#llx", (unsigned long long)bytes,
		           (unsigned long long)at);
		return 0;
	}
	refer_bytes(k, at, bytes, "a bitmap");
	table = malloc(max_u64(1, bytes));
	if (!table)
		return q2_no_memory(k->q, k->err);
	ret = file_read(&k->q->disk.file, at, table, bytes, k->err);
	for (uint64_t i = 0; i < bytes && !ret; i += 8) {
		cluster = (be64_at(table + i) & Q2_OFFSET) >> k->q->h.cluster_bits;
		if (cluster)
			refer(k, cluster, 1, OTHER_TABLE, 1, "a bitmap");
	}
	free(table);
	return ret;
}

static int count_bitmaps(struct checker *k)
{
	const struct q2_header *h = &k->q->h;
	uint64_t at = 0, left = h->bitmaps_bytes;
	uint8_t *dir;
	int ret;

	if (!h->bitmaps)
		return 0;
	if (h->bitmaps_at & (k->q->cluster_bytes - 1) || left > Q2_SNAPSHOT_TABLE_MAX) {
		structural(k, "the directory of bitmaps has %llu bytes", (unsigned long long)left);
		return 0;
	}
	refer_bytes(k, h->bitmaps_at, left, "the directory of bitmaps");
	dir = malloc(max_u64(1, left));
	if (!dir)
		return q2_no_memory(k->q, k->err);
	ret = file_read(&k->q->disk.file, h->bitmaps_at, dir, left, k->err);
	for (uint32_t i = 0; i < h->bitmaps && !ret && at + 24 <= left; i++) {
		ret = count_bitmap(k, dir + at);
		at += (24ull + be16_at(dir + at + 18) + be32_at(dir + at + 20) + 7) & ~7ull;
	}
	free(dir);
	return ret;
}

static int count_all(struct checker *k)
{
	struct qcow2 *q = k->q;
	int ret;

	refer(k, 0, 1, OTHER_TABLE, 1, "the header");
	refer_bytes(k, q->h.l1_at, 8ull * q->h.l1_size, "the L1 table");
	refer_bytes(k, q->h.rt_at, (uint64_t)q->h.rt_clusters << q->h.cluster_bits, "the refcount table");
	for (uint32_t b = 0; b < q->rt_size; b++)
		if (q->rt[b])
			refer(k, q->rt[b] >> q->h.cluster_bits, 1, OTHER_TABLE, 1, "the refcount table");
	count_l1(k, q->l1, q->h.l1_size, "the L1 table");
	ret = count_snapshots(k);
	if (!ret)
		ret = count_bitmaps(k);
	return ret ? ret : count_l2_tables(k);
}

/* ---- comparing ---- */

static void compare(struct checker *k, uint64_t cluster)
{
	uint64_t stored = q2_rewrite_get(&k->w, cluster), found = cluster < k->clusters ? k->count[cluster] : 0;

	if (found && k->use[cluster] >= L2_TABLE)
		k->c->table_clusters++;
	if (found)
		k->c->end = (cluster + 1) << k->q->h.cluster_bits;
	if (stored == found)
		return;
	if (stored > found)
		k->c->leaks++;
	else
		k->c->errors++;
	say(k, "%s cluster at %#llx: refcount %llu, references %llu",
	    stored > found ? "leaked" : "refcount too low for the",
	    (unsigned long long)(cluster << k->q->h.cluster_bits), (unsigned long long)stored,
	    (unsigned long long)found);
}

static void check_flag(struct checker *k, uint64_t entry, uint64_t at, const char *what)
{
	bool one = q2_rewrite_get(&k->w, (entry & Q2_OFFSET) >> k->q->h.cluster_bits) == 1;

	if (!(entry & Q2_OFFSET) || one == !!(entry & Q2_COPIED))
		return;
	k->c->errors++;
	say(k, "the %s entry at %#llx says %s, and the refcount says otherwise", what, (unsigned long long)at,
	    one ? "'shared'" : "'not shared'");
}

/* Flags matter in what can be written: the tables of the present contents. */
static int check_flags(struct checker *k)
{
	struct qcow2 *q = k->q;
	uint8_t *table = malloc(q->cluster_bytes);
	int ret = table ? 0 : q2_no_memory(q, k->err);

	for (uint32_t i = 0; i < q->h.l1_size && !ret; i++) {
		uint64_t at = q->l1[i] & Q2_OFFSET, entry;

		if (!at || at & (q->cluster_bytes - 1) || at >= q->disk.file.bytes)
			continue;
		check_flag(k, q->l1[i], q->h.l1_at + 8ull * i, "L1");
		ret = file_read(&q->disk.file, at, table, q->cluster_bytes, k->err);
		for (uint64_t n = 0; n < 1ull << q->l2_bits && !ret; n++) {
			entry = be64_at(table + (n << q->entry_bits));
			if (!(entry & Q2_COMPRESSED))
				check_flag(k, entry, at + (n << q->entry_bits), "L2");
		}
	}
	free(table);
	return ret;
}

/* ---- repairing ---- */

static int repair(struct checker *k, enum disk_repair how)
{
	struct q2_rewrite *w = &k->w;
	struct qcow2 *q = k->q;
	uint64_t *l1 = malloc(max_u64(8, 8ull * q->h.l1_size));
	int ret = l1 ? 0 : q2_no_memory(q, k->err);

	for (uint64_t c = 0; c < k->clusters && !ret; c++) {
		if (k->count[c] > q2_refcount_max(w->h.refcount_order))
			ret = error_set(k->err, -EOVERFLOW, "%s: more references than refcounts can count", q2_path(q));
		else if (k->count[c] != q2_rewrite_get(w, c))
			q2_rewrite_mark(w, c, k->count[c]);
	}
	for (uint64_t c = k->clusters; c < w->clusters && !ret; c++)
		if (q2_rewrite_get(w, c))
			q2_rewrite_mark(w, c, 0);
	if (!ret)
		memcpy(l1, q->l1, 8ull * q->h.l1_size);
	if (!ret)
		ret = q2_rewrite_copied_flags(w, l1, q->h.l1_size, 1);
	if (!ret)
		ret = q2_rewrite_add(w, q->h.l1_at >> q->h.cluster_bits, q2_clusters_for(q, 8ull * q->h.l1_size), -1);
	if (!ret) {
		q2_rewrite_l1_flags(w, l1, q->h.l1_size);
		ret = q2_rewrite_l1(w, l1, q->h.l1_size, &w->h.l1_at);
	}
	if (how == DISK_REPAIR_ALL)
		w->h.incompatible &= ~(Q2_DIRTY | Q2_CORRUPT);
	if (!ret)
		ret = q2_rewrite_commit(w);
	free(l1);
	return ret;
}

/* ---- the whole ---- */

static int run(struct checker *k, enum disk_repair how)
{
	struct disk_check *c = k->c;
	int ret;

	k->clusters = q2_clusters_for(k->q, k->q->disk.file.bytes);
	k->count = calloc(k->clusters + 1, sizeof(*k->count));
	k->use = calloc(k->clusters + 1, 1);
	if (!k->count || !k->use)
		return q2_no_memory(k->q, k->err);
	ret = count_all(k);
	for (uint64_t i = 0; i < k->w.clusters && !ret; i++)
		compare(k, i);
	if (!ret)
		ret = check_flags(k);
	if (ret || how == DISK_REPAIR_NONE || k->structural || (how == DISK_REPAIR_LEAKS && c->errors))
		return ret;
	if (!c->errors && !c->leaks && !(how == DISK_REPAIR_ALL && (c->marked_dirty || c->marked_corrupt)))
		return 0;
	ret = repair(k, how);
	if (ret)
		return ret;
	c->fixed_errors = c->errors;
	c->fixed_leaks = c->leaks;
	c->errors = c->leaks = 0;
	return 0;
}

int q2_check(struct disk *d, enum disk_repair how, struct disk_check *c, struct error *err)
{
	struct checker k = {.q = qcow2_of(d), .c = c, .err = err};
	int ret;

	if (how != DISK_REPAIR_NONE && k.q->entry_bits == 4)
		return error_set(err, -ENOTSUP,
		                 "%s: has subclusters (extended L2 entries), which can be read, not written",
		                 q2_path(k.q));
	c->marked_dirty = k.q->h.incompatible & Q2_DIRTY;
	c->marked_corrupt = k.q->h.incompatible & Q2_CORRUPT;
	ret = q2_rewrite_begin(&k.w, k.q, err);
	if (ret)
		return ret;
	ret = run(&k, how);
	free(k.count);
	free(k.use);
	q2_rewrite_end(&k.w);
	return ret;
}

int q2_rebuild_refcounts(struct qcow2 *q, struct error *err)
{
	struct disk_check c = {0};
	int ret = q2_check(&q->disk, DISK_REPAIR_ALL, &c, err);

	if (!ret && c.errors)
		ret = q2_damaged(
		        q, err,
		        "it was not closed in order, and its refcounts cannot be made anew; see 'check'");
	return ret;
}
