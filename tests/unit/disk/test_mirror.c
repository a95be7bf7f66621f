/*
 * A disk is copied while it is changed at random moments; the target is memory, which can refuse. In the end it must
 * have what the disk has, and from when the mirror is ready on it must have that all the time.
 */
#include "disk/image.h"
#include "disk/file.h"
#include "disk/worker.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES (3 * 1024 * 1024 + 77 * 512ull)
#define CLUSTER 16384

struct scene {
	char dir[64], path[96];
	struct error err;
	struct disk *d;
	uint8_t *target, *is;
	uint64_t random;
	unsigned calls, fail_at; /* the call of the target that fails; 0: none */
	unsigned flushes;
	bool full;               /* has no room */
	int fail_reads;          /* what the host says to reads of the disk */
};

static uint64_t draw(struct scene *s, uint64_t below)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return (s->random >> 11) % below;
}

/* ---- the target ---- */

static int next_call(struct scene *s, struct error *err)
{
	assert_false(s->fail_at && s->calls >= s->fail_at); /* never again after it failed */
	return ++s->calls == s->fail_at ? error_set(err, -ENOSPC, "the target is full") : 0;
}

static int target_write(void *ctx, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	struct scene *s = ctx;

	assert_true(bytes && at + bytes <= BYTES);
	memcpy(s->target + at, buf, bytes);
	return next_call(s, err);
}

static int target_zero(void *ctx, uint64_t at, uint64_t bytes, struct error *err)
{
	struct scene *s = ctx;

	assert_true(bytes && at + bytes <= BYTES);
	memset(s->target + at, 0, bytes);
	return next_call(s, err);
}

static int target_flush(void *ctx, struct error *err)
{
	struct scene *s = ctx;

	s->flushes++;
	return next_call(s, err);
}

static bool target_has_room(void *ctx) { return !((struct scene *)ctx)->full; }

static struct disk_mirror *make_mirror(struct scene *s, unsigned rounds, uint64_t speed)
{
	const struct disk_mirror_target t = {s, target_write, target_zero, target_flush, target_has_room};
	const struct disk_mirror_options o = {.cluster_bytes = CLUSTER, .rounds = rounds, .bytes_per_second = speed};
	struct disk_mirror *m;

	memset(s->target, 0xdd, BYTES);
	s->calls = s->fail_at = s->flushes = 0;
	assert_int_equal(disk_mirror_create(&m, BYTES, &t, &o, &s->err), 0);
	return m;
}

/* ---- the disk ---- */

static int tap(void *ctx, const struct file *f, const struct file_call *call)
{
	(void)f;
	return call->op == FILE_READ ? ((struct scene *)ctx)->fail_reads : 0;
}

static void make_disk(struct scene *s, enum disk_format format)
{
	static struct file_tap taps;
	struct disk_create_options o = {.bytes = BYTES, .format = format};
	uint8_t data[5000];

	if (format == DISK_FORMAT_QCOW2)
		o.cluster_bytes = 4096;
	taps = (struct file_tap){tap, s};
	disk_close(s->d, NULL);
	unlink(s->path);
	s->fail_reads = 0;
	assert_int_equal(disk_create(s->path, &o, &s->err), 0);
	assert_int_equal(disk_open(&s->d, s->path, &(struct disk_options){.tap = &taps}, &s->err), 0);
	for (unsigned i = 0; i < 60; i++) {
		memset(data, (int)i + 1, sizeof(data));
		assert_int_equal(disk_write(s->d, draw(s, BYTES - sizeof(data)), data, sizeof(data), &s->err), 0);
	}
}

static int begin(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	const char *tmp = getenv("TMPDIR");

	if (!tmp)
		tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(s->dir, sizeof(s->dir), "%.40s/mirror-XXXXXX", tmp);
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/disk", s->dir);
	s->target = malloc(BYTES);
	s->is = malloc(BYTES);
	s->random = 0x9e3779b97f4a7c15;
	*state = s;
	return 0;
}

static int end(void **state)
{
	struct scene *s = *state;

	disk_close(s->d, NULL);
	unlink(s->path);
	assert_int_equal(rmdir(s->dir), 0);
	free(s->target);
	free(s->is);
	free(s);
	return 0;
}

static void assert_same(struct scene *s)
{
	assert_int_equal(disk_read(s->d, 0, s->is, BYTES, &s->err), 0);
	assert_memory_equal(s->is, s->target, BYTES);
}

/* A change of the disk, and what the mirror is told. */
static void change(struct scene *s, struct disk_mirror *m)
{
	uint64_t at = draw(s, BYTES), bytes = min_u64(BYTES - at, 1 + draw(s, draw(s, 4) ? 9000 : 300000));
	uint8_t *data;

	switch (draw(s, 6)) {
	case 0:
		assert_int_equal(disk_write_zeroes(s->d, at, bytes, true, &s->err), 0);
		disk_mirror_zeroed(m, at, bytes);
		break;
	case 1:
		assert_int_equal(disk_discard(s->d, at, bytes, &s->err), 0);
		disk_mirror_touched(m, s->d, at, bytes);
		break;
	default:
		data = malloc(bytes);
		memset(data, (int)draw(s, 256), bytes);
		data[0] = (uint8_t)draw(s, 256);
		assert_int_equal(disk_write(s->d, at, data, bytes, &s->err), 0);
		disk_mirror_wrote(m, at, data, bytes);
		free(data);
	}
}

static struct disk_mirror_progress progress_of(struct disk_mirror *m)
{
	struct disk_mirror_progress p;

	disk_mirror_progress(m, &p);
	return p;
}

/* ---- copying ---- */

static void copies_what_changes(void **state)
{
	static const unsigned rounds[] = {0, 1, 2, 10, DISK_MIRROR_NEVER};
	struct scene *s = *state;

	for (unsigned i = 0; i < 40; i++) {
		unsigned allowed = rounds[i % 5], steps = (unsigned)draw(s, 120);
		struct disk_mirror_progress p, before;
		struct disk_mirror *m;
		uint64_t wait;

		make_disk(s, i & 1 ? DISK_FORMAT_RAW : DISK_FORMAT_QCOW2);
		m = make_mirror(s, allowed, 0);
		before = progress_of(m);
		assert_int_equal(before.left, BYTES);
		for (unsigned n = 0; n < steps; n++) {
			if (draw(s, 3))
				change(s, m);
			else if (disk_mirror_wants(m, 0, &wait))
				disk_mirror_step(m, s->d, 0);
			p = progress_of(m);
			assert_true(p.phase >= before.phase && p.phase <= DISK_MIRROR_READY);
			if (before.phase != DISK_MIRROR_COPYING)
				assert_true(p.left <= before.left);
			if (p.phase == DISK_MIRROR_READY)
				assert_same(s);
			before = p;
		}
		assert_true(allowed != DISK_MIRROR_NEVER || before.phase == DISK_MIRROR_COPYING);
		assert_int_equal(disk_mirror_complete(m, s->d, &s->err), 0);
		assert_same(s);
		p = progress_of(m);
		assert_int_equal(p.phase, DISK_MIRROR_DONE);
		assert_int_equal(p.left, 0);
		assert_false(p.in_use);
		assert_int_equal(s->flushes, 1);
		change(s, m); /* which is no matter any more */
		disk_mirror_free(m);
	}
}

static void becomes_ready(void **state)
{
	struct scene *s = *state;
	struct disk_mirror *m;
	uint64_t wait;

	make_disk(s, DISK_FORMAT_QCOW2);
	m = make_mirror(s, 3, 0);
	while (disk_mirror_wants(m, 0, &wait)) {
		disk_mirror_step(m, s->d, 0);
		change(s, m);
		change(s, m);
	}
	assert_int_equal(wait, UINT64_MAX);
	assert_int_equal(progress_of(m).phase, DISK_MIRROR_READY);
	assert_true(progress_of(m).rounds <= 4);
	for (unsigned i = 0; i < 30; i++) {
		change(s, m);
		assert_same(s);
	}
	assert_true(progress_of(m).mirrored > 0);
	disk_mirror_stop(m, -ECANCELED);
	assert_int_equal(progress_of(m).phase, DISK_MIRROR_FAILED);
	assert_int_equal(progress_of(m).err.code, -ECANCELED);
	assert_int_equal(disk_mirror_complete(m, s->d, &s->err), -ECANCELED);
	disk_mirror_free(m);
}

/* Only rounds until somebody else says. */
static void goes_over_when_told(void **state)
{
	struct scene *s = *state;
	struct disk_mirror *m;
	uint64_t wait;

	make_disk(s, DISK_FORMAT_RAW);
	m = make_mirror(s, DISK_MIRROR_NEVER, 0);
	for (unsigned i = 0; i < 300 && disk_mirror_wants(m, 0, &wait); i++) {
		disk_mirror_step(m, s->d, 0);
		change(s, m);
	}
	assert_int_equal(progress_of(m).phase, DISK_MIRROR_COPYING);
	assert_true(progress_of(m).rounds > 3);
	disk_mirror_converge(m);
	while (disk_mirror_wants(m, 0, &wait)) {
		disk_mirror_step(m, s->d, 0);
		change(s, m);
	}
	assert_int_equal(progress_of(m).phase, DISK_MIRROR_READY);
	assert_same(s);
	assert_int_equal(disk_mirror_complete(m, s->d, &s->err), 0);
	disk_mirror_free(m);
}

static void copies_holes_as_zeroes(void **state)
{
	struct scene *s = *state;
	struct disk_mirror *m;

	for (unsigned raw = 0; raw < 2; raw++) {
		make_disk(s, raw ? DISK_FORMAT_RAW : DISK_FORMAT_QCOW2);
		assert_int_equal(disk_write_zeroes(s->d, 0, BYTES, true, &s->err), 0);
		m = make_mirror(s, 0, 0);
		assert_int_equal(disk_mirror_complete(m, s->d, &s->err), 0);
		assert_same(s);
		assert_int_equal(progress_of(m).copied, 0);
		assert_int_equal(progress_of(m).zeroes, BYTES);
		assert_true(s->calls < 10);
		disk_mirror_free(m);
	}
}

/* ---- pace ---- */

static void keeps_its_pace(void **state)
{
	struct scene *s = *state;
	struct disk_mirror *m;
	uint64_t now = 5000000000, wait, seconds;
	uint8_t *data = malloc(BYTES);

	make_disk(s, DISK_FORMAT_RAW);
	memset(data, 1, BYTES);
	assert_int_equal(disk_write(s->d, 0, data, BYTES, &s->err), 0);
	free(data);
	m = make_mirror(s, 0, 100000);
	for (;;) {
		if (disk_mirror_wants(m, now, &wait))
			disk_mirror_step(m, s->d, now);
		else if (wait == UINT64_MAX)
			break;
		else
			now += wait;
	}
	seconds = (now - 5000000000) / 1000000000;
	assert_in_range(seconds, (BYTES - 262144) / 100000 - 1, BYTES / 100000 + 1);
	assert_int_equal(progress_of(m).phase, DISK_MIRROR_READY);
	disk_mirror_stop(m, -ECANCELED);
	disk_mirror_free(m);

	m = make_mirror(s, 0, 0);
	s->full = true;
	assert_false(disk_mirror_wants(m, now, &wait));
	assert_in_range(wait, 1, 1000000000);
	s->full = false;
	assert_true(disk_mirror_wants(m, now, &wait));
	disk_mirror_set_speed(m, 1);
	disk_mirror_step(m, s->d, now);
	assert_false(disk_mirror_wants(m, now + 1000000000, &wait));
	disk_mirror_stop(m, -ECANCELED);
	disk_mirror_free(m);
}

/* ---- failures ---- */

/* Whichever call of the target fails: that is told, it is not called again, and the disk is none the worse. */
static void gives_up_when_the_target_fails(void **state)
{
	struct scene *s = *state;

	for (unsigned n = 1; n < 40; n++) {
		struct disk_mirror_progress p;
		struct disk_mirror *m;
		uint64_t wait;

		make_disk(s, DISK_FORMAT_QCOW2);
		m = make_mirror(s, n % 3, 0);
		s->fail_at = n;
		for (unsigned i = 0; i < 200; i++) {
			change(s, m);
			if (disk_mirror_wants(m, 0, &wait))
				disk_mirror_step(m, s->d, 0);
		}
		p = progress_of(m);
		assert_int_equal(p.phase, DISK_MIRROR_FAILED);
		assert_true(p.in_use);
		assert_int_equal(p.err.code, -ENOSPC);
		assert_string_equal(p.err.text, "the target is full");
		assert_int_equal(disk_mirror_complete(m, s->d, &s->err), -ENOSPC);
		assert_string_equal(s->err.text, "the target is full");
		assert_false(progress_of(m).in_use);
		disk_mirror_free(m);
	}
}

static void gives_up_when_the_disk_cannot_be_read(void **state)
{
	struct scene *s = *state;
	struct disk_mirror *m;

	make_disk(s, DISK_FORMAT_RAW);
	m = make_mirror(s, 0, 0);
	s->fail_reads = -EIO;
	assert_int_equal(disk_mirror_complete(m, s->d, &s->err), -EIO);
	assert_non_null(strstr(s->err.text, s->path));
	disk_mirror_free(m);
	s->fail_reads = 0;
	m = make_mirror(s, 0, 0);
	s->fail_at = 1000;
	while (progress_of(m).left)
		disk_mirror_step(m, s->d, 0);
	s->fail_at = s->calls + 1; /* the flush */
	assert_int_equal(disk_mirror_complete(m, s->d, &s->err), -ENOSPC);
	disk_mirror_free(m);
}

/* Whoever changes the disk may have asked for what is not there. */
static void bounds(void **state)
{
	const struct disk_mirror_target t = {.ctx = NULL};
	static const uint64_t bad[] = {1, 2048, 4097, 32 << 20, 1ull << 63};
	struct scene *s = *state;
	struct disk_mirror *m;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(disk_mirror_create(&m, BYTES, &t,
						    &(struct disk_mirror_options){.cluster_bytes = bad[i]}, &s->err),
				 -EINVAL);
	make_disk(s, DISK_FORMAT_RAW);
	for (unsigned rounds = 0; rounds < 2; rounds++) {
		m = make_mirror(s, rounds, 0);
		disk_mirror_touched(m, s->d, BYTES - 1, UINT64_MAX);
		disk_mirror_touched(m, s->d, BYTES, 1);
		disk_mirror_touched(m, s->d, UINT64_MAX, UINT64_MAX);
		disk_mirror_zeroed(m, BYTES, 0);
		disk_mirror_zeroed(m, 0, 0);
		assert_int_equal(disk_mirror_complete(m, s->d, &s->err), 0);
		assert_same(s);
		disk_mirror_free(m);
	}
}

/* ---- by a worker ---- */

#define DEPTH 16

static void submit(struct scene *s, struct disk_worker *w, struct disk_request *rq, uint8_t *data)
{
	static const enum disk_work kinds[] = {DISK_WORK_WRITE, DISK_WORK_WRITE, DISK_WORK_READ, DISK_WORK_DISCARD,
					       DISK_WORK_ZEROES, DISK_WORK_FLUSH};

	*rq = (struct disk_request){.kind = kinds[draw(s, 6)], .at = draw(s, BYTES - 20000), .buf = data,
				    .bytes = 1 + draw(s, 20000), .may_unmap = draw(s, 2), .then_flush = draw(s, 20) == 0};
	if (rq->kind == DISK_WORK_WRITE)
		memset(data, (int)draw(s, 256), 20000);
	disk_worker_submit(w, rq);
}

static void works_beside_requests(void **state)
{
	struct scene *s = *state;
	struct disk_request rq[DEPTH] = {{0}};
	struct disk_mirror_progress p;
	struct disk_worker *w;
	struct disk_mirror *m;
	uint8_t *data = malloc(DEPTH * 20000);
	unsigned n = 0;

	make_disk(s, DISK_FORMAT_QCOW2);
	m = make_mirror(s, 4, 0);
	assert_int_equal(disk_worker_start(&w, s->d, NULL, &s->err), 0);
	for (unsigned i = 0; i < DEPTH; i++)
		submit(s, w, &rq[i], data + i * 20000);
	for (unsigned i = 0; i < DEPTH; i++)
		disk_worker_wait(w, &rq[i]);
	disk_worker_set_mirror(w, m);
	/* The queue is never empty until it is ready. */
	for (unsigned i = 0; i < DEPTH; i++)
		submit(s, w, &rq[i], data + i * 20000);
	do {
		disk_worker_wait(w, &rq[n % DEPTH]);
		assert_int_equal(rq[n % DEPTH].result, 0);
		submit(s, w, &rq[n % DEPTH], data + n % DEPTH * 20000);
		n++;
		p = progress_of(m);
	} while (p.phase < DISK_MIRROR_READY && n < 1000000);
	assert_int_equal(p.phase, DISK_MIRROR_READY);
	for (unsigned i = 0; i < DEPTH; i++)
		disk_worker_wait(w, &rq[i]);
	disk_worker_set_mirror(w, NULL);
	assert_int_equal(disk_mirror_complete(m, s->d, &s->err), 0);
	assert_same(s);
	disk_mirror_free(m);
	disk_worker_stop(w);
	free(data);
}

/* While nothing is asked of the disk it is copied, too; and stopping is possible at any time. */
static void works_when_idle(void **state)
{
	struct scene *s = *state;
	struct disk_worker *w;
	struct disk_mirror *m;

	make_disk(s, DISK_FORMAT_RAW);
	assert_int_equal(disk_worker_start(&w, s->d, NULL, &s->err), 0);
	m = make_mirror(s, 1, 0);
	disk_worker_set_mirror(w, m);
	while (progress_of(m).phase != DISK_MIRROR_READY)
		usleep(100);
	disk_worker_set_mirror(w, NULL);
	assert_int_equal(disk_mirror_complete(m, s->d, &s->err), 0);
	assert_same(s);
	disk_mirror_free(m);
	m = make_mirror(s, 1, 1000000);
	disk_worker_set_mirror(w, m);
	usleep(1000);
	disk_worker_set_mirror(w, NULL);
	disk_mirror_stop(m, -ECANCELED);
	disk_mirror_free(m);
	disk_worker_stop(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(copies_what_changes, begin, end),
		cmocka_unit_test_setup_teardown(becomes_ready, begin, end),
		cmocka_unit_test_setup_teardown(goes_over_when_told, begin, end),
		cmocka_unit_test_setup_teardown(copies_holes_as_zeroes, begin, end),
		cmocka_unit_test_setup_teardown(keeps_its_pace, begin, end),
		cmocka_unit_test_setup_teardown(gives_up_when_the_target_fails, begin, end),
		cmocka_unit_test_setup_teardown(gives_up_when_the_disk_cannot_be_read, begin, end),
		cmocka_unit_test_setup_teardown(bounds, begin, end),
		cmocka_unit_test_setup_teardown(works_beside_requests, begin, end),
		cmocka_unit_test_setup_teardown(works_when_idle, begin, end),
	};

	return cmocka_run_group_tests_name("disk mirror", tests, NULL, NULL);
}
