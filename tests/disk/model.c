/* See model.h. */
#include "model.h"
#include "disk/freeze.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *const model_op_name[16] = {"write", "read", "zero", "discard", "flush", "take", "apply", "delete", "branch",
				       "commit", "grow", "reopen", "freeze", "absorb", "large write", NULL};
enum { OP_WRITE, OP_READ, OP_ZERO, OP_DISCARD, OP_FLUSH, OP_TAKE, OP_APPLY, OP_DELETE, OP_BRANCH, OP_COMMIT, OP_GROW,
       OP_REOPEN, OP_FREEZE, OP_ABSORB, OP_LARGE };

uint64_t model_random(struct model *m, uint64_t below)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return (m->random >> 11) % below;
}

void model_must(int ret, const struct error *err, const char *what)
{
	if (!ret)
		return;
	fprintf(stderr, "%s: %d: %s\n", what, ret, err->text);
	abort();
}

void model_directory(char *dir, size_t bytes, const char *name)
{
	const char *tmp = getenv("TMPDIR");

	if (!tmp)
		tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(dir, bytes, "%.80s/%.30s-XXXXXX", tmp, name);
	if (!mkdtemp(dir)) {
		perror(dir);
		exit(2);
	}
}

static struct model_image *top(struct model *m) { return &m->image[m->depth - 1]; }

/* ---- the files ---- */

static void open_top(struct model *m)
{
	struct error err = {0};

	model_must(disk_open(&m->disk, top(m)->path, &m->options, &err), &err, "open");
	if (disk_bytes(m->disk) != top(m)->bytes) {
		fprintf(stderr, "%s: %llu bytes instead of %llu\n", top(m)->path,
		        (unsigned long long)disk_bytes(m->disk), (unsigned long long)top(m)->bytes);
		abort();
	}
}

static void close_top(struct model *m)
{
	struct error err = {0};

	model_must(disk_close(m->disk, &err), &err, "close");
	m->disk = NULL;
}

static void add_image(struct model *m, uint64_t bytes)
{
	struct model_image *i = &m->image[m->depth], *below = m->depth ? i - 1 : NULL;
	struct disk_create_options o = {.bytes = bytes,
	                                .refcount_bits = m->refcount_bits,
	                                .version = m->version,
	                                .cluster_bytes = m->cluster,
	                                .backing = below ? strrchr(below->path, '/') + 1 : NULL};
	struct error err = {0};

	*i = (struct model_image){.bytes = bytes, .data = calloc(1, m->max_bytes)};
	snprintf(i->path, sizeof(i->path), "%.120s/%llu-%u.img", m->dir, (unsigned long long)m->seed, m->names++);
	i->raw = !below && model_random(m, 8) == 0;
	if (i->raw)
		o = (struct disk_create_options){.bytes = bytes, .format = DISK_FORMAT_RAW};
	if (below)
		memcpy(i->data, below->data, min_u64(bytes, below->bytes));
	model_must(disk_create(i->path, &o, &err), &err, "create");
	m->depth++;
}

static void drop_image(struct model *m)
{
	struct model_image *i = top(m);

	for (unsigned n = 0; n < i->snapshots; n++)
		free(i->snapshot[n].data);
	free(i->data);
	unlink(i->path);
	m->depth--;
}

void model_begin(struct model *m, const char *dir, uint64_t seed)
{
	static const unsigned cluster_bits[] = {9, 9, 10, 12, 13, 16, 16, 21},
	                      refcount_bits[] = {16, 16, 16, 8, 32, 64, 4, 2, 1};
	struct disk_options o = m->options;

	*m = (struct model){.dir = dir, .seed = seed, .random = seed * 0x9e3779b97f4a7c15 | 1, .options = o};
	model_random(m, 2);
	m->version = model_random(m, 8) ? 3 : 2;
	m->cluster = 1ull << cluster_bits[model_random(m, ARRAY_SIZE(cluster_bits))];
	m->refcount_bits = m->version == 2 ? 16 : refcount_bits[model_random(m, ARRAY_SIZE(refcount_bits))];
	m->max_bytes = min_u64(16 << 20, m->cluster * (200 + model_random(m, 2000)));
	m->options.cache_bytes = model_random(m, 3) ? 0 : 4096; /* a small cache is written often */
	add_image(m, 512 * (1 + model_random(m, m->max_bytes / 512)));
	open_top(m);
}

void model_end(struct model *m)
{
	close_top(m);
	while (m->depth)
		drop_image(m);
}

/* ---- comparing ---- */

static void differs(struct model *m, uint64_t at, const uint8_t *is, uint64_t bytes)
{
	const uint8_t *want = top(m)->data + at;
	uint64_t i = 0;

	while (i < bytes && is[i] == want[i])
		i++;
	fprintf(stderr, "%s: byte %llu is 0x%02x instead of 0x%02x\n", top(m)->path,
	        (unsigned long long)(at + i), is[i], want[i]);
	abort();
}

static void compare_range(struct model *m, uint64_t at, uint64_t bytes)
{
	uint8_t *buf = malloc(bytes ? bytes : 1);
	struct error err = {0};

	model_must(disk_read(m->disk, at, buf, bytes, &err), &err, "read");
	if (memcmp(buf, top(m)->data + at, bytes) != 0)
		differs(m, at, buf, bytes);
	free(buf);
}

void model_compare(struct model *m) { compare_range(m, 0, top(m)->bytes); }

static void say(void *ctx, const char *text)
{
	fprintf(stderr, "%s: %s\n", (const char *)ctx, text);
}

void model_reopen(struct model *m)
{
	struct disk_check c = {.say = say, .ctx = top(m)->path};
	struct disk_options o = {.read_only = true, .alone = true};
	struct error err = {0};
	struct disk *d;

	close_top(m);
	model_must(disk_open(&d, top(m)->path, &o, &err), &err, "open to check");
	model_must(disk_check(d, DISK_REPAIR_NONE, &c, &err), &err, "check");
	if (c.errors || c.leaks) {
		fprintf(stderr, "%s: %llu errors, %llu leaks after an orderly close\n", top(m)->path,
		        (unsigned long long)c.errors, (unsigned long long)c.leaks);
		abort();
	}
	model_must(disk_close(d, &err), &err, "close");
	open_top(m);
}

/* ---- operations ---- */

/* A range that is aligned to clusters, to sectors, or not at all, and sometimes touches the end. */
static void random_range(struct model *m, uint64_t most, uint64_t *at, uint64_t *bytes)
{
	const uint64_t align[] = {m->cluster, 512, 1, m->cluster};
	uint64_t size = top(m)->bytes, a = align[model_random(m, 4)];

	*at = model_random(m, size) / a * a;
	*bytes = (1 + model_random(m, min_u64(most, size))) / a * a;
	if (!*bytes)
		*bytes = a;
	if (*bytes > size - *at || model_random(m, 16) == 0)
		*bytes = min_u64(size - *at, most);
}

static void op_write(struct model *m, uint64_t most)
{
	uint64_t at, bytes, word = 0;
	struct error err = {0};

	random_range(m, most, &at, &bytes);
	for (uint64_t i = 0; i < bytes; i++) {
		if (i % 8 == 0)
			word = model_random(m, UINT64_MAX);
		top(m)->data[at + i] = (uint8_t)(word >> i % 8 * 8);
	}
	if (top(m)->raw && memcmp(top(m)->data, "QFI\xfb", 4) == 0)
		top(m)->data[0] = 0;
	model_must(disk_write(m->disk, at, top(m)->data + at, bytes, &err), &err, "write");
}

static void op_zero(struct model *m)
{
	uint64_t at, bytes;
	struct error err = {0};

	random_range(m, 20 * m->cluster, &at, &bytes);
	memset(top(m)->data + at, 0, bytes);
	model_must(disk_write_zeroes(m->disk, at, bytes, model_random(m, 2), &err), &err, "zero");
}

/* What is discarded is as it was or zero, byte for byte. */
static void op_discard(struct model *m)
{
	uint8_t *buf, *data;
	uint64_t at, bytes;
	struct error err = {0};

	random_range(m, 20 * m->cluster, &at, &bytes);
	model_must(disk_discard(m->disk, at, bytes, &err), &err, "discard");
	buf = malloc(bytes);
	data = top(m)->data + at;
	model_must(disk_read(m->disk, at, buf, bytes, &err), &err, "read");
	for (uint64_t i = 0; i < bytes; i++)
		data[i] = buf[i] ? data[i] : 0;
	free(buf);
	compare_range(m, at, bytes);
}

static void op_take(struct model *m)
{
	struct model_image *i = top(m);
	struct error err = {0};
	int ret;

	if (i->raw || i->snapshots == MODEL_SNAPSHOTS)
		return;
	snprintf(i->snapshot[i->snapshots].name, 16, "s%u", m->names++);
	ret = disk_snapshot_take(m->disk, i->snapshot[i->snapshots].name, &err);
	if (ret == -EOVERFLOW && m->refcount_bits < 8)
		return;
	model_must(ret, &err, "take");
	i->snapshot[i->snapshots].bytes = i->bytes;
	i->snapshot[i->snapshots].data = malloc(m->max_bytes);
	memcpy(i->snapshot[i->snapshots++].data, i->data, m->max_bytes);
}

static void op_apply(struct model *m)
{
	struct model_image *i = top(m);
	struct error err = {0};
	unsigned n;
	int ret;

	if (!i->snapshots)
		return;
	n = (unsigned)model_random(m, i->snapshots);
	ret = disk_snapshot_apply(m->disk, i->snapshot[n].name, &err);
	if (ret == -EOVERFLOW && m->refcount_bits < 8)
		return;
	model_must(ret, &err, "apply");
	i->bytes = i->snapshot[n].bytes;
	memcpy(i->data, i->snapshot[n].data, m->max_bytes);
	if (disk_bytes(m->disk) != i->bytes)
		abort();
	model_compare(m);
}

static void op_delete(struct model *m)
{
	struct model_image *i = top(m);
	struct error err = {0};
	unsigned n;

	if (!i->snapshots)
		return;
	n = (unsigned)model_random(m, i->snapshots);
	model_must(disk_snapshot_delete(m->disk, i->snapshot[n].name, &err), &err, "delete");
	free(i->snapshot[n].data);
	i->snapshot[n] = i->snapshot[--i->snapshots];
}

static void op_branch(struct model *m)
{
	uint64_t bytes = top(m)->bytes;

	if (m->depth == MODEL_CHAIN)
		return;
	close_top(m);
	if (model_random(m, 3) == 0)
		bytes = 512 * (1 + model_random(m, m->max_bytes / 512));
	add_image(m, (bytes + 511) & ~511ull);
	open_top(m);
	model_compare(m);
}

/* As a branch, while it is open: what was there gets another name. */
static void op_freeze(struct model *m)
{
	struct model_image *old = top(m), *now = old + 1;
	struct error err = {0};

	if (m->depth == MODEL_CHAIN)
		return;
	*now = (struct model_image){.bytes = old->bytes, .data = malloc(m->max_bytes)};
	memcpy(now->data, old->data, m->max_bytes);
	memcpy(now->path, old->path, sizeof(now->path));
	snprintf(old->path, sizeof(old->path), "%.120s/%llu-%u.img", m->dir, (unsigned long long)m->seed, m->names++);
	model_must(disk_freeze(&m->disk, strrchr(old->path, '/') + 1, &err), &err, "freeze");
	m->depth++;
	model_compare(m);
}

/* Into the image below, which is then open instead. Snapshots would see what is below them change. */
static void op_commit(struct model *m)
{
	struct model_image *i = top(m), *below = i - 1;
	struct disk_options o = m->options;
	struct error err = {0};

	if (m->depth < 2 || i->snapshots || below->snapshots || (below->bytes % 512 && !below->raw))
		return;
	close_top(m);
	o.backing_writable = true;
	model_must(disk_open(&m->disk, i->path, &o, &err), &err, "open to commit");
	model_must(disk_commit(m->disk, NULL, &err), &err, "commit");
	model_compare(m);
	close_top(m);
	memcpy(below->data, i->data, i->bytes);
	below->bytes = max_u64(below->bytes, i->bytes);
	drop_image(m);
	open_top(m);
	model_compare(m);
}

/* The image between goes. */
static void op_absorb(struct model *m)
{
	struct model_image *i = top(m), between;
	struct error err = {0};

	if (m->depth < 2 || i->snapshots)
		return;
	model_must(disk_absorb(m->disk, NULL, &err), &err, "absorb");
	between = i[-1];
	i[-1] = *i;
	*i = between;
	drop_image(m);
	model_compare(m);
}

static void op_grow(struct model *m)
{
	struct model_image *i = top(m);
	uint64_t bytes = i->bytes + 512 * model_random(m, (m->max_bytes - i->bytes) / 512 + 1);
	struct error err = {0};

	memset(i->data + i->bytes, 0, bytes - i->bytes);
	model_must(disk_resize(m->disk, bytes, &err), &err, "grow");
	i->bytes = bytes;
	model_compare(m);
}

static void op_read(struct model *m)
{
	uint64_t at, bytes;

	random_range(m, 40 * m->cluster, &at, &bytes);
	compare_range(m, at, bytes);
}

void model_step(struct model *m)
{
	static const uint8_t weight[] = {
	        [OP_WRITE] = 36, [OP_READ] = 10,  [OP_ZERO] = 12,  [OP_DISCARD] = 10, [OP_FLUSH] = 6,
	        [OP_TAKE] = 4,   [OP_APPLY] = 3,  [OP_DELETE] = 3, [OP_BRANCH] = 2,   [OP_COMMIT] = 2,
	        [OP_GROW] = 2,   [OP_REOPEN] = 3, [OP_FREEZE] = 2, [OP_ABSORB] = 2, [OP_LARGE] = 3};
	unsigned n = (unsigned)model_random(m, 100), op = 0;
	struct error err = {0};

	while (op < OP_LARGE && n >= weight[op])
		n -= weight[op++];
	m->done[op]++;
	switch (op) {
	case OP_WRITE:
		return op_write(m, 3 * m->cluster);
	case OP_READ:
		return op_read(m);
	case OP_ZERO:
		return op_zero(m);
	case OP_DISCARD:
		return op_discard(m);
	case OP_FLUSH:
		return model_must(disk_flush(m->disk, &err), &err, "flush");
	case OP_TAKE:
		return op_take(m);
	case OP_APPLY:
		return op_apply(m);
	case OP_DELETE:
		return op_delete(m);
	case OP_BRANCH:
		return op_branch(m);
	case OP_COMMIT:
		return op_commit(m);
	case OP_GROW:
		return op_grow(m);
	case OP_REOPEN:
		return model_reopen(m);
	case OP_FREEZE:
		return op_freeze(m);
	case OP_ABSORB:
		return op_absorb(m);
	case OP_LARGE:
		return op_write(m, 300 * m->cluster);
	}
}
