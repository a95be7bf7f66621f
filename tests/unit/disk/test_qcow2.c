/*
 * qcow2 images: what is written and where, calls to the host that fail one by one, images that lie. What random
 * sequences of operations do is in tests/disk.
 */
#include "disk/image.h"
#include "disk/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB 1024ull
#define MIB (1024 * KIB)

struct scene {
	char dir[64], path[96], over[96];
	struct error err;
};

static int begin(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	const char *tmp = getenv("TMPDIR");

	if (!tmp)
		tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(s->dir, sizeof(s->dir), "%.40s/qcow2-XXXXXX", tmp);
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/image", s->dir);
	snprintf(s->over, sizeof(s->over), "%s/over", s->dir);
	*state = s;
	return 0;
}

static int end(void **state)
{
	struct scene *s = *state;

	unlink(s->path);
	unlink(s->over);
	assert_int_equal(rmdir(s->dir), 0);
	free(s);
	return 0;
}

static void create(struct scene *s, uint64_t bytes, uint64_t cluster)
{
	const struct disk_create_options o = {.bytes = bytes, .cluster_bytes = cluster};

	unlink(s->path);
	assert_int_equal(disk_create(s->path, &o, &s->err), 0);
}

static struct disk *opened(struct scene *s, const char *path, const struct disk_options *o)
{
	struct disk *d = NULL;
	int ret = disk_open(&d, path, o, &s->err);

	if (ret)
		print_error("%s\n", s->err.text);
	assert_int_equal(ret, 0);
	return d;
}

static void closed(struct scene *s, struct disk *d) { assert_int_equal(disk_close(d, &s->err), 0); }

/* No errors; @leaks: whether clusters may be lost. */
static void assert_in_order(struct scene *s, const char *path, bool leaks)
{
	struct disk *d = opened(s, path, &(struct disk_options){.read_only = true, .alone = true});
	struct disk_check c = {0};

	assert_int_equal(disk_check(d, DISK_REPAIR_NONE, &c, &s->err), 0);
	assert_int_equal(c.errors, 0);
	assert_true(leaks || !c.leaks);
	closed(s, d);
}

static void assert_bytes(struct scene *s, struct disk *d, uint64_t at, uint64_t bytes, uint8_t value)
{
	uint8_t *b = malloc(bytes);

	assert_int_equal(disk_read(d, at, b, bytes, &s->err), 0);
	for (uint64_t i = 0; i < bytes; i++)
		assert_int_equal(b[i], value);
	free(b);
}

static int fill(struct scene *s, struct disk *d, uint64_t at, uint64_t bytes, uint8_t value)
{
	uint8_t *b = malloc(bytes);
	int ret;

	memset(b, value, bytes);
	ret = disk_write(d, at, b, bytes, &s->err);
	free(b);
	return ret;
}

static uint64_t host_bytes(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return 512ull * (uint64_t)st.st_blocks;
}

/* ---- size and room ---- */

static void a_branch_is_small_whatever_its_base(void **state)
{
	struct scene *s = *state;
	struct disk *d;

	create(s, 4096 * 1024 * MIB, 0);
	d = opened(s, s->path, NULL);
	assert_int_equal(fill(s, d, 4000000 * MIB, 70 * KIB, 1), 0);
	closed(s, d);
	assert_int_equal(disk_branch(s->path, s->over, &s->err), 0);
	assert_true(host_bytes(s->over) <= 16 * KIB);
	d = opened(s, s->over, NULL);
	assert_int_equal(disk_bytes(d), 4096 * 1024 * MIB);
	assert_bytes(s, d, 4000000 * MIB, 70 * KIB, 1);
	assert_int_equal(fill(s, d, 4000000 * MIB + 5, 10, 2), 0);
	assert_bytes(s, d, 4000000 * MIB, 5, 1);
	assert_bytes(s, d, 4000000 * MIB + 5, 10, 2);
	assert_bytes(s, d, 4000000 * MIB + 15, 60 * KIB, 1);
	closed(s, d);
	assert_in_order(s, s->over, false);
}

static void zeroes_and_discards_give_room_back(void **state)
{
	struct scene *s = *state;
	struct disk *d;

	create(s, 64 * MIB, 0);
	d = opened(s, s->path, NULL);
	assert_int_equal(fill(s, d, 0, 8 * MIB, 7), 0);
	assert_int_equal(disk_flush(d, &s->err), 0);
	assert_true(host_bytes(s->path) >= 8 * MIB);
	assert_int_equal(disk_discard(d, 0, 4 * MIB, &s->err), 0);
	assert_int_equal(disk_write_zeroes(d, 4 * MIB, 2 * MIB, true, &s->err), 0);
	assert_int_equal(disk_write_zeroes(d, 6 * MIB, 1 * MIB, false, &s->err), 0); /* keeps its room */
	assert_int_equal(disk_flush(d, &s->err), 0);
	assert_true(host_bytes(s->path) <= 2 * MIB + 512 * KIB);
	assert_bytes(s, d, 0, 7 * MIB, 0);
	assert_bytes(s, d, 7 * MIB, MIB, 7);
	/* What was freed is used again: the file does not become longer. */
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(fill(s, d, 0, 6 * MIB, 3), 0);
		assert_int_equal(disk_discard(d, 0, 6 * MIB, &s->err), 0);
		assert_int_equal(disk_flush(d, &s->err), 0);
	}
	closed(s, d);
	d = opened(s, s->path, NULL);
	struct disk_info i;
	assert_int_equal(disk_info(d, &i, &s->err), 0);
	assert_true(i.file_bytes <= 10 * MIB);
	closed(s, d);
	assert_in_order(s, s->path, false);
}

/* Snapshots over and over leave no garbage behind. */
static void snapshots_do_not_make_the_file_grow(void **state)
{
	struct scene *s = *state;
	struct disk *d;
	struct disk_info i;

	create(s, 4 * MIB, 512);
	d = opened(s, s->path, NULL);
	assert_int_equal(fill(s, d, 0, MIB, 1), 0);
	for (unsigned n = 0; n < 30; n++) {
		assert_int_equal(disk_snapshot_take(d, "s", &s->err), 0);
		assert_int_equal(fill(s, d, 10000, 50000, (uint8_t)n), 0);
		assert_int_equal(disk_snapshot_apply(d, "s", &s->err), 0);
		assert_int_equal(disk_snapshot_delete(d, "s", &s->err), 0);
	}
	assert_bytes(s, d, 0, MIB, 1);
	assert_int_equal(disk_info(d, &i, &s->err), 0);
	assert_true(i.file_bytes < 2 * MIB);
	closed(s, d);
	assert_in_order(s, s->path, false);
}

/* With the smallest clusters the refcount table grows soon, several times. */
static void refcount_table_grows(void **state)
{
	struct scene *s = *state;
	struct disk *d;

	create(s, 40 * MIB, 512);
	d = opened(s, s->path, &(struct disk_options){.cache_bytes = 4096});
	for (uint64_t at = 0; at < 40 * MIB; at += 2 * MIB)
		assert_int_equal(fill(s, d, at, 2 * MIB, (uint8_t)(1 + at / MIB)), 0);
	for (uint64_t at = 0; at < 40 * MIB; at += 2 * MIB)
		assert_bytes(s, d, at, 2 * MIB, (uint8_t)(1 + at / MIB));
	closed(s, d);
	assert_in_order(s, s->path, false);
}

static void growing(void **state)
{
	struct scene *s = *state;
	struct disk *d;

	create(s, 100 * KIB, 512);
	d = opened(s, s->path, NULL);
	assert_int_equal(fill(s, d, 0, 100 * KIB, 1), 0);
	closed(s, d);
	/* Shorter than its base, then longer than it was: what is added is zero, not what the base has there. */
	assert_int_equal(disk_create(s->over,
	                             &(struct disk_create_options){.bytes = 1536, .backing = "image"},
	                             &s->err),
	                 0);
	d = opened(s, s->over, NULL);
	assert_bytes(s, d, 0, 1536, 1);
	assert_int_equal(disk_resize(d, 1024, &s->err), -ENOTSUP);
	assert_int_equal(disk_resize(d, 1537, &s->err), -EINVAL);
	assert_int_equal(disk_resize(d, 400 * MIB, &s->err), 0);
	assert_bytes(s, d, 0, 1536, 1);
	assert_bytes(s, d, 1536, 200 * KIB, 0);
	closed(s, d);
	d = opened(s, s->over, &(struct disk_options){.read_only = true});
	assert_int_equal(disk_bytes(d), 400 * MIB);
	assert_bytes(s, d, 1536, 200 * KIB, 0);
	assert_int_equal(disk_resize(d, 500 * MIB, &s->err), -EROFS);
	closed(s, d);
	assert_in_order(s, s->over, false);
}

static void snapshots_by_name(void **state)
{
	struct scene *s = *state;
	struct disk_snapshot *list;
	unsigned count;
	struct disk *d;

	create(s, MIB, 4096);
	d = opened(s, s->path, NULL);
	assert_int_equal(fill(s, d, 0, 8192, 1), 0);
	assert_int_equal(disk_snapshot_take(d, "one", &s->err), 0);
	assert_int_equal(disk_resize(d, 2 * MIB, &s->err), 0);
	assert_int_equal(fill(s, d, 4096, MIB, 2), 0);
	assert_int_equal(disk_snapshot_take(d, "two", &s->err), 0);
	assert_int_equal(disk_snapshot_take(d, "one", &s->err), -EEXIST);
	assert_int_equal(disk_snapshot_take(d, "", &s->err), -EINVAL);
	assert_int_equal(disk_snapshot_apply(d, "three", &s->err), -ENOENT);
	assert_int_equal(disk_snapshot_apply(d, "1", &s->err), 0); /* by its id */
	assert_int_equal(disk_bytes(d), MIB);
	assert_bytes(s, d, 0, 8192, 1);
	assert_bytes(s, d, 8192, MIB - 8192, 0);
	assert_int_equal(disk_snapshots(d, &list, &count, &s->err), 0);
	assert_int_equal(count, 2);
	assert_string_equal(list[1].name, "two");
	assert_int_equal(list[1].disk_bytes, 2 * MIB);
	disk_snapshots_free(list, count);
	assert_int_equal(disk_snapshot_delete(d, "one", &s->err), 0);
	assert_int_equal(disk_snapshot_apply(d, "two", &s->err), 0);
	assert_bytes(s, d, 4096, MIB, 2);
	closed(s, d);
	assert_in_order(s, s->path, false);
}

static void commit_needs_an_image_below(void **state)
{
	struct scene *s = *state;
	struct disk *d;

	create(s, MIB, 0);
	d = opened(s, s->path, NULL);
	assert_int_equal(disk_commit(d, NULL, &s->err), -EINVAL);
	closed(s, d);
	assert_int_equal(disk_branch(s->path, s->over, &s->err), 0);
	d = opened(s, s->over, NULL);
	assert_int_equal(disk_commit(d, NULL, &s->err), -EROFS);
	closed(s, d);
	unlink(s->path);
	assert_int_equal(disk_open(&d, s->over, NULL, &s->err), -ENOENT);
	assert_non_null(strstr(s->err.text, "over: the image below it"));
	assert_non_null(strstr(s->err.text, "/image: cannot open"));
}

/* ---- failures ---- */

struct failing {
	long countdown;  /* calls until the first that fails */
	long many;       /* how many fail */
	bool syncs;      /* barriers, otherwise everything else */
	int code;
	bool happened;
};

static int fail_some(void *ctx, const struct file *f, const struct file_call *call)
{
	struct failing *t = ctx;

	if (f->read_only || t->syncs != (call->op == FILE_SYNC))
		return 0;
	if (t->countdown-- > 0 || t->many-- <= 0)
		return 0;
	t->happened = true;
	return call->op == FILE_READ ? -EIO : t->code;
}

enum { STEPS = 14, DISK = 48 * 1024 };

/* One step of a sequence that touches everything; @model: what the disk should have then. */
static int step(struct scene *s, struct disk *d, unsigned n, uint8_t *model)
{
	static const struct { uint32_t at, bytes; uint8_t value;
	} write[STEPS] = {[0] = {0, 9000, 1},
	                  [1] = {20000, 3000, 2},
	                  [4] = {100, 12000, 3},
	                  [6] = {21000, 20000, 4},
	                  [11] = {0, 30000, 5}};
	int ret;

	switch (n) {
	case 2:
	case 10:
	case 13:
		return disk_flush(d, &s->err);
	case 3:
		return disk_snapshot_take(d, "a", &s->err);
	case 5:
		ret = disk_write_zeroes(d, 4096, 4096, true, &s->err);
		if (!ret)
			memset(model + 4096, 0, 4096);
		return ret;
	case 7:
		ret = disk_discard(d, 8192, 4096, &s->err);
		if (!ret)
			memset(model + 8192, 0, 4096);
		return ret;
	case 8:
		return disk_snapshot_take(d, "b", &s->err);
	case 9:
		return disk_snapshot_delete(d, "a", &s->err);
	case 12:
		return disk_resize(d, disk_bytes(d) + 64 * MIB, &s->err);
	}
	ret = fill(s, d, write[n].at, write[n].bytes, write[n].value);
	if (!ret)
		memset(model + write[n].at, write[n].value, write[n].bytes);
	return ret;
}

/* Every call to the host fails once, or from there on for a while; what failed works when it is done again. */
static void fails_everywhere(struct scene *s, long many, int code)
{
	uint8_t *model = malloc(DISK), *is = malloc(DISK);
	bool happened = true;

	for (long n = 0; happened; n++) {
		struct failing t = {.countdown = LONG_MAX, .many = many, .code = code};
		const struct file_tap tap = {fail_some, &t};
		struct disk *d;

		create(s, DISK, 512);
		d = opened(s, s->path, &(struct disk_options){.tap = &tap, .cache_bytes = 2048});
		memset(model, 0, DISK);
		t.countdown = n;
		for (unsigned k = 0; k < STEPS; k++) {
			s->err = (struct error){0};
			if (!step(s, d, k, model))
				continue;
			assert_true(t.happened);
			assert_true(s->err.code == code || s->err.code == -EIO);
			assert_non_null(strstr(s->err.text, s->dir));
			t.many = 0;
			if (k == 3 || k == 8 || k == 9) { /* it may have come to its end in spite of the error */
				step(s, d, k, model);
				continue;
			}
			if (step(s, d, k, model))
				fail_msg("call %ld, step %u: still '%s'", n, k, s->err.text);
		}
		t.many = 0;
		assert_int_equal(disk_read(d, 0, is, DISK, &s->err), 0);
		assert_memory_equal(is, model, DISK);
		closed(s, d);
		assert_in_order(s, s->path, true);
		happened = t.happened;
	}
	free(model);
	free(is);
}

static void each_call_fails_once(void **state) { fails_everywhere(*state, 1, -ENOSPC); }
static void calls_fail_for_a_while(void **state) { fails_everywhere(*state, 12, -EIO); }

/* After a barrier failed no flush succeeds; what is on the disk is in order. */
static void barriers_fail(void **state)
{
	struct scene *s = *state;
	uint8_t *model = malloc(DISK);
	bool happened = true;

	for (long n = 0; happened; n++) {
		struct failing t = {.countdown = LONG_MAX, .many = 1, .syncs = true, .code = -EIO};
		const struct file_tap tap = {fail_some, &t};
		struct disk *d;

		create(s, DISK, 512);
		d = opened(s, s->path, &(struct disk_options){.tap = &tap});
		t.countdown = n;
		for (unsigned k = 0; k < STEPS; k++)
			step(s, d, k, model);
		happened = t.happened;
		if (happened)
			assert_int_equal(disk_flush(d, &s->err), -EIO);
		assert_int_equal(disk_close(d, &s->err), happened ? -EIO : 0);
		assert_in_order(s, s->path, true);
	}
	free(model);
}

/* The host's own limit: a file that may not become longer. */
static void the_file_cannot_grow(void **state)
{
	struct scene *s = *state;
	struct rlimit old, limit;
	struct disk *d;
	uint64_t at = 0;
	int ret = 0;

	create(s, 64 * MIB, 0);
	d = opened(s, s->path, NULL);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = old;
	limit.rlim_cur = 2 * MIB + 1000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (; !ret && at < 64 * MIB; at += 100 * KIB)
		ret = fill(s, d, at, 100 * KIB, 6);
	assert_int_equal(ret, -EFBIG);
	assert_non_null(strstr(s->err.text, "File too large"));
	assert_int_equal(disk_flush(d, &s->err), 0);
	assert_bytes(s, d, 0, at - 100 * KIB, 6);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(fill(s, d, at - 100 * KIB, 4 * MIB, 6), 0);
	assert_bytes(s, d, 0, at - 100 * KIB + 4 * MIB, 6);
	closed(s, d);
	assert_in_order(s, s->path, false);
}

static void read_only_files(void **state)
{
	struct scene *s = *state;
	struct disk *d;

	create(s, MIB, 0);
	chmod(s->path, 0444);
	if (geteuid()) { /* to root nothing is read-only */
		assert_int_equal(disk_open(&d, s->path, NULL, &s->err), -EACCES);
		assert_non_null(strstr(s->err.text, "open for writing"));
	}
	d = opened(s, s->path, &(struct disk_options){.read_only = true});
	assert_bytes(s, d, 0, MIB, 0);
	assert_int_equal(disk_snapshot_take(d, "x", &s->err), -EROFS);
	assert_int_equal(disk_write_zeroes(d, 0, 512, true, &s->err), -EROFS);
	closed(s, d);
}

static int interrupt_at_half(void *ctx, uint64_t done, uint64_t total)
{
	(void)ctx;
	return done > total / 2;
}

static void an_interrupted_commit_can_be_done_again(void **state)
{
	static const struct disk_progress p = {interrupt_at_half, NULL};
	static const struct disk_options both = {.backing_writable = true};
	struct scene *s = *state;
	struct disk *d;

	create(s, 8 * MIB, 0);
	assert_int_equal(disk_branch(s->path, s->over, &s->err), 0);
	d = opened(s, s->over, &both);
	assert_int_equal(fill(s, d, 100, 7 * MIB, 9), 0);
	assert_int_equal(disk_commit(d, &p, &s->err), -EINTR);
	assert_bytes(s, d, 100, 7 * MIB, 9);
	closed(s, d);
	assert_in_order(s, s->path, false);
	assert_in_order(s, s->over, false);
	d = opened(s, s->over, &both);
	assert_int_equal(disk_commit(d, NULL, &s->err), 0);
	assert_bytes(s, d, 100, 7 * MIB, 9);
	closed(s, d);
	assert_in_order(s, s->over, false);
	d = opened(s, s->path, NULL);
	assert_bytes(s, d, 0, 100, 0);
	assert_bytes(s, d, 100, 7 * MIB, 9);
	closed(s, d);
}

/* ---- images that lie ---- */

static void poke(const char *path, uint64_t at, const void *bytes, size_t n)
{
	int fd = open(path, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, n, (off_t)at), n);
	close(fd);
}

static void poke_be64(const char *path, uint64_t at, uint64_t v)
{
	v = __builtin_bswap64(v);
	poke(path, at, &v, 8);
}

static void assert_refused(struct scene *s, int code, const char *says)
{
	struct disk *d;

	assert_int_equal(disk_open(&d, s->path, NULL, &s->err), code);
	if (!strstr(s->err.text, says))
		fail_msg("says '%s'", s->err.text);
}

static void headers_that_lie(void **state)
{
	struct scene *s = *state;
	static const struct { uint64_t at, v; int code; const char *says;
	} lie[] = {
	        {24, UINT64_MAX, -EINVAL, "a disk of"},
	        {24, 1ull << 50, -EINVAL, "too small for the disk"},
	        {36, 0xffffffff00000000, -EINVAL, "L1 table of"},
	        {40, 0x30001, -EINVAL, "begins no cluster"},
	        {40, 1ull << 40, -EINVAL, "beyond the end"},
	        {48, 0, -EINVAL, "refcount table is at 0"},
	        {48, 1ull << 62, -EINVAL, "beyond the end"},
	        {56, 0, -EINVAL, "refcount table of 0"},
	        {56, 0xffffffff00000000, -EINVAL, "refcount table of"},
	        {60, 0xffffffff00000000, -EINVAL, "4294967295 snapshots"},
	        {72, 1ull << 33, -ENOTSUP, "bit 33"},
	        {72, 2, -EIO, "marked as corrupt"},
	        {96, 7ull << 32 | 112, -EINVAL, "2^7 bits"},
	        {96, 4ull << 32 | 90, -EINVAL, "header of 90"},
	        {96, 4ull << 32 | 70000, -EINVAL, "header of 70000"},
	        {104, 9ull << 56, -ENOTSUP, "compression type 9"},
	        {104, 1ull << 56, -EINVAL, "feature bit says otherwise"},
	        {112, 0xe2792acaffffffff, -EINVAL, "does not fit"},
	        {112, 0xe2792aca00001000, -EINVAL, "backing format has"},
	        {16, 3ull << 32 | 4, -EINVAL, "2^4 bytes"},
	        {16, 3ull << 32 | 40, -EINVAL, "2^40 bytes"},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(lie); i++) {
		create(s, MIB, 0);
		poke_be64(s->path, lie[i].at, lie[i].v);
		assert_refused(s, lie[i].code, lie[i].says);
	}
	create(s, MIB, 0);
	poke_be64(s->path, 8, 200);
	poke_be64(s->path, 16, 2000ull << 32 | 16);
	assert_refused(s, -EINVAL, "name of the backing file");
	create(s, MIB, 0);
	poke_be64(s->path, 8, 200);
	poke_be64(s->path, 16, 12ull << 32 | 16);
	poke(s->path, 200, "nbd://a/bcde", 12);
	assert_refused(s, -ENOTSUP, "is no file");
}

static void name_backing(const char *path, const char *name)
{
	poke_be64(path, 8, 200);
	poke_be64(path, 16, strlen(name) << 32 | 16);
	poke(path, 200, name, strlen(name));
}

static void chains_have_an_end(void **state)
{
	struct scene *s = *state;
	char name[16], next[16];
	struct disk *d;

	create(s, MIB, 0);
	name_backing(s->path, "image");
	assert_int_equal(disk_open(&d, s->path, &(struct disk_options){.read_only = true}, &s->err), -ELOOP);
	assert_non_null(strstr(s->err.text, "below itself"));
	assert_int_equal(disk_open(&d, s->path, NULL, &s->err), -ELOOP);
	/* by way of another one, and by another name */
	assert_int_equal(disk_create(s->over, &(struct disk_create_options){.bytes = MIB}, &s->err), 0);
	name_backing(s->path, "./over");
	name_backing(s->over, "../../../../../../../dev/../proc/self/cwd/over");
	assert_int_equal(chdir(s->dir), 0);
	assert_int_equal(disk_open(&d, s->path, &(struct disk_options){.read_only = true}, &s->err), -ELOOP);
	/* different ones, but too many */
	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		snprintf(next, sizeof(next), "n%u", i + 1);
		assert_int_equal(disk_create(name, &(struct disk_create_options){.bytes = MIB}, &s->err), 0);
		name_backing(name, next);
	}
	assert_int_equal(disk_open(&d, "n0", &(struct disk_options){.read_only = true}, &s->err), -ELOOP);
	assert_non_null(strstr(s->err.text, "more than 256 images"));
	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		unlink(name);
	}
	assert_int_equal(chdir("/"), 0);
}

/* The layout of a new image: header, refcount table, refcount block, L1; then L2 and data. */
enum { RT = 1, BLOCK, L1, L2, DATA };
#define CLUSTER(n) ((n) * 65536ull)

/* An image with something at its beginning, in which @v then stands at @at. */
static struct disk *lying(struct scene *s, uint64_t at, uint64_t v)
{
	struct disk *d;

	create(s, 16 * MIB, 0);
	d = opened(s, s->path, NULL);
	assert_int_equal(fill(s, d, 0, 100000, 1), 0);
	closed(s, d);
	poke_be64(s->path, at, v);
	return opened(s, s->path, NULL);
}

static void tables_that_lie(void **state)
{
	struct scene *s = *state;
	uint8_t b[512];
	struct disk *d;

	/* L2 tables where none can be */
	d = lying(s, CLUSTER(L1), CLUSTER(L2) + 512);
	assert_int_equal(disk_read(d, 0, b, 512, &s->err), -EIO);
	assert_int_equal(fill(s, d, 0, 512, 1), -EIO);
	closed(s, d);
	d = lying(s, CLUSTER(L1), 1ull << 50);
	assert_int_equal(disk_read(d, 0, b, 512, &s->err), -EIO);
	closed(s, d);
	/* data in a table: written nowhere, and the image is marked */
	for (unsigned table = 0; table <= L2; table++) {
		d = lying(s, CLUSTER(L2), CLUSTER(table) | 1ull << 63);
		assert_int_equal(fill(s, d, 0, 512, 0xee), table ? -EIO : 0); /* offset 0: none */
		if (table) {
			assert_non_null(strstr(s->err.text, "where tables are"));
			assert_int_equal(fill(s, d, MIB, 512, 1), -EIO);
		}
		closed(s, d);
		if (table)
			assert_refused(s, -EIO, "marked as corrupt");
	}
}

static void refcounts_that_lie(void **state)
{
	struct scene *s = *state;
	struct disk_check c = {0};
	struct disk *d;

	/* tables that are free by their refcounts */
	d = lying(s, CLUSTER(BLOCK), 0);
	assert_int_equal(fill(s, d, MIB, 512, 1), -EIO);
	assert_non_null(strstr(s->err.text, "free by its refcount"));
	closed(s, d);
	d = opened(s, s->path, &(struct disk_options){.read_only = true});
	assert_bytes(s, d, 0, 100000, 1);
	assert_int_equal(disk_check(d, DISK_REPAIR_NONE, &c, &s->err), 0);
	assert_int_equal(c.errors, 4);
	assert_true(c.marked_corrupt);
	closed(s, d);
	d = opened(s, s->path, &(struct disk_options){.repair = true});
	assert_int_equal(disk_check(d, DISK_REPAIR_LEAKS, &c, &s->err), 0);
	assert_int_equal(c.errors, 4);
	assert_int_equal(disk_check(d, DISK_REPAIR_ALL, &c, &s->err), 0);
	assert_int_equal(c.fixed_errors, 4);
	closed(s, d);
	assert_in_order(s, s->path, false);
	d = opened(s, s->path, NULL);
	assert_bytes(s, d, 0, 100000, 1);
	assert_int_equal(fill(s, d, MIB, 512, 1), 0);
	closed(s, d);
	/* a refcount block where none can be */
	create(s, MIB, 0);
	poke_be64(s->path, CLUSTER(RT), 1ull << 40);
	d = opened(s, s->path, NULL);
	assert_int_equal(fill(s, d, 0, 512, 1), -EIO);
	assert_non_null(strstr(s->err.text, "refcount table"));
	closed(s, d);
	/* data that two entries share, which the refcount does not know: cannot be repaired silently into loss */
	d = lying(s, CLUSTER(L2) + 8, CLUSTER(DATA) | 1ull << 63);
	assert_int_equal(disk_check(d, DISK_REPAIR_NONE, &c, &s->err), 0);
	assert_true(c.errors >= 1);
	closed(s, d);
}

static void snapshot_tables_that_lie(void **state)
{
	struct scene *s = *state;
	struct disk_snapshot *list;
	unsigned count;
	struct disk *d;

	for (unsigned i = 0; i < 4; i++) {
		static const struct { uint64_t at, v; } lie[] = {
			{0, 1ull << 45}, {8, 0xffffffff00010001}, {36, 0xffffffff00000000}, {36, 0x0000040100000000}};
		uint8_t be[8];
		int fd;

		create(s, MIB, 0);
		d = opened(s, s->path, NULL);
		assert_int_equal(disk_snapshot_take(d, "x", &s->err), 0);
		closed(s, d);
		fd = open(s->path, O_RDONLY);
		assert_int_equal(pread(fd, be, 8, 64), 8);
		close(fd);
		poke_be64(s->path, ((uint64_t)be[5] << 16 | (uint64_t)be[6] << 8) + lie[i].at, lie[i].v);
		d = opened(s, s->path, NULL);
		assert_int_equal(disk_snapshots(d, &list, &count, &s->err), -EIO);
		assert_int_equal(disk_snapshot_apply(d, "x", &s->err), -EIO);
		assert_int_equal(disk_snapshot_delete(d, "x", &s->err), -EIO);
		closed(s, d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_branch_is_small_whatever_its_base, begin, end),
		cmocka_unit_test_setup_teardown(zeroes_and_discards_give_room_back, begin, end),
		cmocka_unit_test_setup_teardown(snapshots_do_not_make_the_file_grow, begin, end),
		cmocka_unit_test_setup_teardown(refcount_table_grows, begin, end),
		cmocka_unit_test_setup_teardown(growing, begin, end),
		cmocka_unit_test_setup_teardown(snapshots_by_name, begin, end),
		cmocka_unit_test_setup_teardown(commit_needs_an_image_below, begin, end),
		cmocka_unit_test_setup_teardown(each_call_fails_once, begin, end),
		cmocka_unit_test_setup_teardown(calls_fail_for_a_while, begin, end),
		cmocka_unit_test_setup_teardown(barriers_fail, begin, end),
		cmocka_unit_test_setup_teardown(the_file_cannot_grow, begin, end),
		cmocka_unit_test_setup_teardown(read_only_files, begin, end),
		cmocka_unit_test_setup_teardown(an_interrupted_commit_can_be_done_again, begin, end),
		cmocka_unit_test_setup_teardown(headers_that_lie, begin, end),
		cmocka_unit_test_setup_teardown(chains_have_an_end, begin, end),
		cmocka_unit_test_setup_teardown(tables_that_lie, begin, end),
		cmocka_unit_test_setup_teardown(refcounts_that_lie, begin, end),
		cmocka_unit_test_setup_teardown(snapshot_tables_that_lie, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
