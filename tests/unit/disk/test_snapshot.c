/* A disk whose changes are thrown away, compared with an array; and the worker in front of a disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "disk/snapshot.h"
#include "disk/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES (5 * 65536 + 1000)

static char path[64];
static uint8_t model[BYTES], image[BYTES], got[BYTES];

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s >> 11;
}

static int setup(void **state)
{
	uint64_t seed = 7;
	int fd;

	(void)state;
	strcpy(path, "/tmp/test-snapshot.XXXXXX");
	fd = mkstemp(path);
	for (unsigned i = 0; i < BYTES; i++)
		image[i] = model[i] = (uint8_t)next_random(&seed);
	assert_int_equal(write(fd, image, BYTES), BYTES);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

static void is_like_the_model(void **state)
{
	struct error err = {0};
	uint64_t seed = 1;
	struct disk *d;
	int fd;

	(void)state;
	assert_int_equal(disk_open_snapshot(&d, path, NULL, &err), 0);
	assert_int_equal(disk_bytes(d), BYTES);
	assert_false(disk_read_only(d));
	for (unsigned i = 0; i < 400; i++) {
		uint64_t at = next_random(&seed) % BYTES, n = next_random(&seed) % (i % 10 ? 5000 : 200000);

		n = n < BYTES - at ? n : BYTES - at;
		switch (next_random(&seed) % 3) {
		case 0:
			for (uint64_t k = 0; k < n; k++)
				model[at + k] = (uint8_t)next_random(&seed);
			assert_int_equal(disk_write(d, at, model + at, n, &err), 0);
			break;
		case 1:
			memset(model + at, 0, n);
			assert_int_equal(disk_write_zeroes(d, at, n, true, &err), 0);
			break;
		default:
			assert_int_equal(disk_read(d, at, got, n, &err), 0);
			assert_memory_equal(got, model + at, n);
		}
	}
	assert_int_equal(disk_discard(d, 0, 100, &err), 0);
	assert_int_equal(disk_flush(d, &err), 0);
	assert_int_equal(disk_read(d, 0, got, BYTES, &err), 0);
	assert_memory_equal(got, model, BYTES);
	assert_int_equal(disk_write(d, BYTES - 1, got, 2, &err), -EINVAL);
	assert_int_equal(disk_close(d, &err), 0);
	/* The image is as it was. */
	fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, got, BYTES), BYTES);
	close(fd);
	assert_memory_equal(got, image, BYTES);
}

static void no_such_image(void **state)
{
	struct error err = {0};
	struct disk *d;

	(void)state;
	assert_int_equal(disk_open_snapshot(&d, "/nowhere/at/all", NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/at/all"));
}

static void count(void *ctx) { ++*(unsigned *)ctx; }

static void in_order(void **state)
{
	unsigned done = 0; /* the worker's until it is stopped */
	const struct disk_listener listener = {.done = count, .ctx = &done};
	static struct disk_request rq[200];
	struct error err = {0};
	struct disk_worker *w;
	uint8_t byte[200];
	struct disk *d;

	(void)state;
	assert_int_equal(disk_open(&d, path, &(struct disk_options){.format = DISK_FORMAT_RAW}, &err), 0);
	assert_int_equal(disk_worker_start(&w, d, &listener, &err), 0);
	for (unsigned i = 0; i < 200; i++) {
		/* Written and read in turn, always the same byte. */
		byte[i] = (uint8_t)i;
		rq[i] = (struct disk_request){.kind = i % 2 ? DISK_WORK_READ : DISK_WORK_WRITE, .at = 77, .bytes = 1,
					      .buf = &byte[i]};
		disk_worker_submit(w, &rq[i]);
	}
	disk_worker_wait(w, &rq[199]);
	for (unsigned i = 0; i < 200; i++) {
		assert_true(disk_worker_is_done(w, &rq[i]));
		assert_int_equal(rq[i].result, 0);
		assert_int_equal(byte[i], i & ~1u);
	}
	rq[0] = (struct disk_request){.kind = DISK_WORK_READ, .at = BYTES, .bytes = 1, .buf = byte};
	rq[1] = (struct disk_request){.kind = DISK_WORK_FLUSH};
	disk_worker_submit(w, &rq[0]);
	disk_worker_submit(w, &rq[1]);
	disk_worker_stop(w); /* what was submitted is done all the same */
	assert_int_equal(rq[0].result, -EINVAL);
	assert_int_equal(rq[1].result, 0);
	assert_int_equal(done, 202);
	assert_int_equal(disk_close(d, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(is_like_the_model, setup, teardown),
		cmocka_unit_test_setup_teardown(no_such_image, setup, teardown),
		cmocka_unit_test_setup_teardown(in_order, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
