/*
 * Internal snapshots: an entry in the snapshot table with an L1 table of its own, which shares L2 tables
 * and clusters with others by their refcounts ("Snapshots"). Every operation is one rewrite, so it
 * takes effect by one write of the header.
 */
#include "disk/qcow2_rewrite.h"
#include "disk/qcow2_snapshot.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- the table ---- */

void q2_snapshots_free(struct q2_snapshots *t)
{
	for (uint32_t i = 0; i < t->count; i++) {
		free(t->s[i].raw);
		free(t->s[i].id);
		free(t->s[i].name);
	}
	free(t->s);
	*t = (struct q2_snapshots){0};
}

/* Judges and decodes an entry of which @s->raw has the whole. */
static int decode(const struct qcow2 *q, struct q2_snapshot *s, struct error *err)
{
	const uint8_t *p = s->raw;
	uint32_t extra = be32_at(p + Q2_S_EXTRA_BYTES), id = be16_at(p + Q2_S_ID_BYTES),
	         name = be16_at(p + Q2_S_NAME_BYTES);
	uint64_t end = (q->disk.file.bytes + q->cluster_bytes - 1) & ~(q->cluster_bytes - 1);

	s->l1_at = be64_at(p + Q2_S_L1_AT);
	s->l1_size = be32_at(p + Q2_S_L1_SIZE);
	s->seconds = be32_at(p + Q2_S_SECONDS);
	s->state_bytes = be32_at(p + Q2_S_STATE_BYTES);
	s->disk_bytes = q->h.size;
	if (extra >= Q2_SX_DISK_BYTES)
		s->state_bytes = be64_at(p + Q2_S_BYTES + Q2_SX_STATE_BYTES);
	if (extra >= Q2_SX_ICOUNT)
		s->disk_bytes = be64_at(p + Q2_S_BYTES + Q2_SX_DISK_BYTES);
	s->id = strndup((const char *)p + Q2_S_BYTES + extra, id);
	s->name = strndup((const char *)p + Q2_S_BYTES + extra + id, name);
	if (!s->id || !s->name)
		return q2_no_memory(q, err);
	if (8ull * s->l1_size > Q2_L1_BYTES_MAX || s->l1_at & (q->cluster_bytes - 1) || s->l1_at > end ||
	    8ull * s->l1_size > end - s->l1_at || (s->l1_size && !s->l1_at))
		return q2_damaged(q, err, "a snapshot has %u L1 entries at %#llx", s->l1_size,
		                  (unsigned long long)s->l1_at);
	return 0;
}

/* Reads the entry at @at of the file. */
static int read_entry(struct qcow2 *q, uint64_t at, struct q2_snapshot *s, struct error *err)
{
	uint8_t fixed[Q2_S_BYTES];
	int ret = file_read(&q->disk.file, at, fixed, sizeof(fixed), err);

	if (ret)
		return ret;
	if (be32_at(fixed + Q2_S_EXTRA_BYTES) > Q2_EXTRA_MAX)
		return q2_damaged(q, err, "a snapshot has %u bytes of extra data", be32_at(fixed + Q2_S_EXTRA_BYTES));
	s->raw_bytes = Q2_S_BYTES + be32_at(fixed + Q2_S_EXTRA_BYTES) + be16_at(fixed + Q2_S_ID_BYTES) +
		       be16_at(fixed + Q2_S_NAME_BYTES);
	if (at > q->disk.file.bytes || s->raw_bytes > q->disk.file.bytes + q->cluster_bytes - at)
		return q2_damaged(q, err, "the snapshot table goes beyond the end of the file");
	s->raw = malloc(s->raw_bytes);
	if (!s->raw)
		return q2_no_memory(q, err);
	ret = file_read(&q->disk.file, at, s->raw, s->raw_bytes, err);
	return ret ? ret : decode(q, s, err);
}

int q2_snapshots_load(struct qcow2 *q, struct q2_snapshots *t, struct error *err)
{
	uint64_t at = q->h.snapshots_at;
	int ret = 0;

	*t = (struct q2_snapshots){.s = calloc(q->h.snapshots + 1ull, sizeof(*t->s))}; /* one more can be added */
	if (!t->s)
		return q2_no_memory(q, err);
	for (; t->count < q->h.snapshots && !ret; t->bytes = at - q->h.snapshots_at) {
		struct q2_snapshot *s = &t->s[t->count++];

		ret = read_entry(q, at, s, err);
		at += (s->raw_bytes + 7ull) & ~7ull;
		if (!ret && at - q->h.snapshots_at > Q2_SNAPSHOT_TABLE_MAX)
			ret = q2_damaged(q, err, "a snapshot table of more than %u bytes", Q2_SNAPSHOT_TABLE_MAX);
	}
	if (ret)
		q2_snapshots_free(t);
	return ret;
}

int q2_snapshot_l1(struct qcow2 *q, const struct q2_snapshot *s, uint64_t **l1, struct error *err)
{
	int ret;

	*l1 = malloc(max_u64(8, 8ull * s->l1_size));
	if (!*l1)
		return q2_no_memory(q, err);
	ret = file_read(&q->disk.file, s->l1_at, *l1, 8ull * s->l1_size, err);
	for (uint32_t i = 0; i < s->l1_size; i++)
		(*l1)[i] = be64toh((*l1)[i]);
	if (ret)
		free(*l1);
	return ret;
}

/* Writes the table, without entry @without, to new clusters; the old ones are given up. */
static int write_table(struct q2_rewrite *w, const struct q2_snapshots *t, uint32_t without)
{
	uint64_t bytes = 0;
	uint8_t *table;
	int ret;

	for (uint32_t i = 0; i < t->count; i++)
		bytes += i == without ? 0 : (t->s[i].raw_bytes + 7ull) & ~7ull;
	if (t->count > Q2_SNAPSHOTS_MAX || bytes > Q2_SNAPSHOT_TABLE_MAX)
		return error_set(w->err, -EFBIG, "%s: no room for more snapshots", q2_path(w->q));
	table = calloc(1, max_u64(1, bytes));
	if (!table)
		return q2_no_memory(w->q, w->err);
	bytes = 0;
	for (uint32_t i = 0; i < t->count; i++)
		if (i != without) {
			memcpy(table + bytes, t->s[i].raw, t->s[i].raw_bytes);
			bytes += (t->s[i].raw_bytes + 7ull) & ~7ull;
		}
	w->h.snapshots = t->count - (without < t->count);
	ret = q2_rewrite_add(w, w->q->h.snapshots_at >> w->h.cluster_bits, q2_clusters_for(w->q, t->bytes), -1);
	if (!ret)
		ret = q2_rewrite_table(w, table, bytes, &w->h.snapshots_at);
	free(table);
	return ret;
}

/* ---- what all operations do ---- */

/* An operation under way. */
struct work {
	struct qcow2 *q;
	struct q2_rewrite w;
	struct q2_snapshots t;
	uint64_t *l1; /* the image's, as it will be */
};

static int begin(struct work *k, struct disk *d, struct error *err)
{
	struct qcow2 *q = qcow2_of(d);
	int ret;

	*k = (struct work){.q = q};
	if (d->read_only)
		return error_set(err, -EROFS, "%s: open for reading only", d->file.path);
	if (d->ops->format != DISK_FORMAT_QCOW2)
		return error_set(err, -ENOTSUP, "%s: a raw image has no snapshots; a branch of it can", d->file.path);
	ret = q2_begin_change(q, err);
	if (!ret)
		ret = q2_snapshots_load(q, &k->t, err);
	if (!ret)
		ret = q2_rewrite_begin(&k->w, q, err);
	if (ret)
		q2_snapshots_free(&k->t);
	return ret;
}

/* Gives up the image's L1 table (not what it leads to), writes the new one, and commits. */
static int finish(struct work *k)
{
	struct q2_rewrite *w = &k->w;
	int ret = q2_rewrite_copied_flags(w, k->l1, w->h.l1_size, 1);

	if (ret)
		return ret;
	q2_rewrite_l1_flags(w, k->l1, w->h.l1_size);
	ret = q2_rewrite_add(w, k->q->h.l1_at >> w->h.cluster_bits, q2_clusters_for(k->q, 8ull * k->q->h.l1_size), -1);
	if (!ret)
		ret = q2_rewrite_l1(w, k->l1, w->h.l1_size, &w->h.l1_at);
	return ret ? ret : q2_rewrite_commit(w);
}

static void end(struct work *k)
{
	free(k->l1);
	q2_rewrite_end(&k->w);
	q2_snapshots_free(&k->t);
}

static int copy_l1(struct work *k, const uint64_t *l1, uint32_t size, uint32_t room, struct error *err)
{
	k->l1 = calloc(max_u64(1, room), 8);
	if (!k->l1)
		return q2_no_memory(k->q, err);
	memcpy(k->l1, l1, 8ull * size);
	return 0;
}

/* By name, otherwise by id; -1. */
static int find(const struct q2_snapshots *t, const char *name)
{
	for (uint32_t i = 0; i < t->count; i++)
		if (strcmp(t->s[i].name, name) == 0)
			return (int)i;
	for (uint32_t i = 0; i < t->count; i++)
		if (strcmp(t->s[i].id, name) == 0)
			return (int)i;
	return -1;
}

static int find_or_say(const struct work *k, const char *name, struct error *err)
{
	int i = find(&k->t, name);

	return i >= 0 ? i : error_set(err, -ENOENT, "%s: has no snapshot '%.100s'", q2_path(k->q), name);
}

/* ---- take ---- */

static unsigned long next_id(const struct q2_snapshots *t)
{
	unsigned long max = 0, id;

	for (uint32_t i = 0; i < t->count; i++) {
		id = strtoul(t->s[i].id, NULL, 10);
		if (id > max && id < UINT32_MAX)
			max = id;
	}
	return max + 1;
}

/* Adds an entry for @l1_at to the table in memory. */
static int add_entry(struct work *k, const char *name, uint64_t l1_at, struct error *err)
{
	struct q2_snapshot *s = &k->t.s[k->t.count];
	size_t name_bytes = strlen(name), id_bytes;
	struct timespec now;
	char id[24];
	uint8_t *p;

	clock_gettime(CLOCK_REALTIME, &now);
	id_bytes = (size_t)snprintf(id, sizeof(id), "%lu", next_id(&k->t));
	s->raw_bytes = (uint32_t)(Q2_S_BYTES + Q2_SX_BYTES + id_bytes + name_bytes);
	s->raw = p = calloc(1, s->raw_bytes);
	if (!p)
		return q2_no_memory(k->q, err);
	k->t.count++;
	put_be64(p + Q2_S_L1_AT, l1_at);
	put_be32(p + Q2_S_L1_SIZE, k->q->h.l1_size);
	put_be16(p + Q2_S_ID_BYTES, (uint16_t)id_bytes);
	put_be16(p + Q2_S_NAME_BYTES, (uint16_t)name_bytes);
	put_be32(p + Q2_S_SECONDS, (uint32_t)now.tv_sec);
	put_be32(p + Q2_S_NANOSECONDS, (uint32_t)now.tv_nsec);
	put_be32(p + Q2_S_EXTRA_BYTES, Q2_SX_BYTES);
	put_be64(p + Q2_S_BYTES + Q2_SX_DISK_BYTES, k->q->h.size);
	put_be64(p + Q2_S_BYTES + Q2_SX_ICOUNT, UINT64_MAX); /* not available */
	memcpy(p + Q2_S_BYTES + Q2_SX_BYTES, id, id_bytes);
	memcpy(p + Q2_S_BYTES + Q2_SX_BYTES + id_bytes, name, name_bytes);
	return 0;
}

static int take(struct work *k, const char *name, struct error *err)
{
	struct q2_rewrite *w = &k->w;
	uint32_t size = k->q->h.l1_size;
	uint64_t snapshot_l1;
	int ret = copy_l1(k, k->q->l1, size, size, err);

	if (!ret)
		ret = q2_rewrite_add_tree(w, k->l1, size, 1);
	if (!ret)
		ret = q2_rewrite_copied_flags(w, k->l1, size, 2);
	if (ret)
		return ret;
	q2_rewrite_l1_flags(w, k->l1, size);
	ret = q2_rewrite_l1(w, k->l1, size, &snapshot_l1);
	if (!ret)
		ret = add_entry(k, name, snapshot_l1, err);
	if (!ret)
		ret = write_table(w, &k->t, UINT32_MAX);
	return ret ? ret : finish(k);
}

int q2_snapshot_take(struct disk *d, const char *name, struct error *err)
{
	struct work k;
	int ret;

	if (!*name || strlen(name) > 255)
		return error_set(err, -EINVAL, "%s: a snapshot's name has 1 to 255 bytes", d->file.path);
	ret = begin(&k, d, err);
	if (ret)
		return ret;
	for (uint32_t i = 0; i < k.t.count; i++)
		if (strcmp(k.t.s[i].name, name) == 0)
			ret = error_set(err, -EEXIST, "%s: has a snapshot '%.100s' already", d->file.path, name);
	if (!ret)
		ret = take(&k, name, err);
	end(&k);
	return ret;
}

/* ---- apply and delete ---- */

static int apply(struct work *k, const struct q2_snapshot *s, struct error *err)
{
	struct q2_rewrite *w = &k->w;
	unsigned reach = k->q->h.cluster_bits + k->q->l2_bits;
	uint64_t needed = (s->disk_bytes >> reach) + ((s->disk_bytes & ((1ull << reach) - 1)) != 0), *l1;
	int ret;

	if (s->disk_bytes > INT64_MAX || needed * 8 > Q2_L1_BYTES_MAX)
		return q2_damaged(k->q, err, "a snapshot of %llu bytes", (unsigned long long)s->disk_bytes);
	ret = q2_snapshot_l1(k->q, s, &l1, err);
	if (ret)
		return ret;
	w->h.l1_size = (uint32_t)max_u64(s->l1_size, needed);
	w->h.size = s->disk_bytes;
	ret = copy_l1(k, l1, s->l1_size, w->h.l1_size, err);
	free(l1);
	if (!ret)
		ret = q2_rewrite_add_tree(w, k->q->l1, k->q->h.l1_size, -1);
	if (!ret)
		ret = q2_rewrite_add_tree(w, k->l1, s->l1_size, 1);
	return ret ? ret : finish(k);
}

int q2_snapshot_apply(struct disk *d, const char *name, struct error *err)
{
	struct work k;
	int ret = begin(&k, d, err), i;

	if (ret)
		return ret;
	ret = i = find_or_say(&k, name, err);
	if (ret >= 0)
		ret = apply(&k, &k.t.s[i], err);
	end(&k);
	return ret;
}

static int delete(struct work *k, uint32_t i, struct error *err)
{
	const struct q2_snapshot *s = &k->t.s[i];
	struct q2_rewrite *w = &k->w;
	uint64_t *l1;
	int ret = q2_snapshot_l1(k->q, s, &l1, err);

	if (ret)
		return ret;
	ret = q2_rewrite_add_tree(w, l1, s->l1_size, -1);
	free(l1);
	if (!ret)
		ret = q2_rewrite_add(w, s->l1_at >> w->h.cluster_bits, q2_clusters_for(k->q, 8ull * s->l1_size), -1);
	if (!ret)
		ret = write_table(w, &k->t, i);
	if (!ret)
		ret = copy_l1(k, k->q->l1, k->q->h.l1_size, k->q->h.l1_size, err);
	return ret ? ret : finish(k);
}

int q2_snapshot_delete(struct disk *d, const char *name, struct error *err)
{
	struct work k;
	int ret = begin(&k, d, err), i;

	if (ret)
		return ret;
	ret = i = find_or_say(&k, name, err);
	if (ret >= 0)
		ret = delete(&k, (uint32_t)i, err);
	end(&k);
	return ret;
}
