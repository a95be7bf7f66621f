/* An image absorbs the one below it: contents stay, also where a call to the host fails or the process dies at one. */
#include "disk/disk_impl.h"
#include "disk/image.h"
#include "disk/qcow2_format.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB 1024ull

struct scene {
	char dir[64], path[3][96]; /* the lowest first */
	uint8_t *want;
	uint64_t bytes;
	struct error err;
};

static int begin(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	const char *tmp = getenv("TMPDIR");

	if (!tmp)
		tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(s->dir, sizeof(s->dir), "%.40s/absorb-XXXXXX", tmp);
	assert_non_null(mkdtemp(s->dir));
	for (unsigned i = 0; i < 3; i++)
		snprintf(s->path[i], sizeof(s->path[i]), "%s/image%u", s->dir, i);
	*state = s;
	return 0;
}

static int end(void **state)
{
	struct scene *s = *state;

	for (unsigned i = 0; i < 3; i++)
		unlink(s->path[i]);
	assert_int_equal(rmdir(s->dir), 0);
	free(s->want);
	free(s);
	return 0;
}

static struct disk *opened(struct scene *s, const char *path, const struct file_tap *tap)
{
	struct disk *d = NULL;
	int ret = disk_open(&d, path, &(struct disk_options){.tap = tap}, &s->err);

	if (ret)
		print_error("%s\n", s->err.text);
	assert_int_equal(ret, 0);
	return d;
}

static void closed(struct scene *s, struct disk *d) { assert_int_equal(disk_close(d, &s->err), 0); }

static void write_at(struct scene *s, struct disk *d, uint64_t at, uint64_t bytes, int byte)
{
	uint8_t *data = malloc(bytes);

	memset(data, byte, bytes);
	assert_int_equal(disk_write(d, at, data, bytes, &s->err), 0);
	free(data);
}

/*
 * Three images on each other. The one between is smaller than those around it, so what the lowest has behind its end
 * must not show; has zeroes over data; and has data that begins and ends within clusters of the top one.
 */
static void make(struct scene *s, enum disk_format lowest)
{
	struct disk_create_options o = {.bytes = 1000 * KIB, .format = lowest};
	struct disk *d;

	for (unsigned i = 0; i < 3; i++)
		unlink(s->path[i]);
	assert_int_equal(disk_create(s->path[0], &o, &s->err), 0);
	o = (struct disk_create_options){.bytes = 500 * KIB, .backing = "image0", .cluster_bytes = 4 * KIB};
	assert_int_equal(disk_create(s->path[1], &o, &s->err), 0);
	o = (struct disk_create_options){.bytes = 900 * KIB, .backing = "image1", .cluster_bytes = 16 * KIB};
	assert_int_equal(disk_create(s->path[2], &o, &s->err), 0);
	d = opened(s, s->path[0], NULL);
	write_at(s, d, 0, 1000 * KIB, 1);
	closed(s, d);
	d = opened(s, s->path[1], NULL);
	write_at(s, d, 20 * KIB, 30 * KIB, 2);
	write_at(s, d, 300 * KIB + 100, 5000, 2);
	assert_int_equal(disk_write_zeroes(d, 100 * KIB, 60 * KIB, true, &s->err), 0);
	closed(s, d);
	d = opened(s, s->path[2], NULL);
	write_at(s, d, 30 * KIB, 3 * KIB, 3);
	s->bytes = disk_bytes(d);
	free(s->want);
	s->want = malloc(s->bytes);
	assert_int_equal(disk_read(d, 0, s->want, s->bytes, &s->err), 0);
	assert_int_equal(s->want[600 * KIB], 0);
	closed(s, d);
}

static void assert_contents(struct scene *s, struct disk *d)
{
	uint8_t *is = malloc(s->bytes);

	assert_int_equal(disk_read(d, 0, is, s->bytes, &s->err), 0);
	assert_memory_equal(is, s->want, s->bytes);
	free(is);
}

static void assert_in_order(struct scene *s)
{
	const struct disk_options o = {.read_only = true, .alone = true};
	struct disk_check c = {0};
	struct disk *d;

	assert_int_equal(disk_open(&d, s->path[2], &o, &s->err), 0);
	assert_int_equal(disk_check(d, DISK_REPAIR_NONE, &c, &s->err), 0);
	assert_int_equal(c.errors, 0);
	closed(s, d);
}

static void absorbs(void **state)
{
	struct scene *s = *state;
	struct disk *d;

	for (unsigned raw = 0; raw < 2; raw++) {
		make(s, raw ? DISK_FORMAT_RAW : DISK_FORMAT_QCOW2);
		d = opened(s, s->path[2], NULL);
		assert_int_equal(disk_absorb(d, NULL, &s->err), 0);
		assert_contents(s, d);
		assert_string_equal(disk_path(disk_backing(d)), s->path[0]);
		write_at(s, d, 700 * KIB, 100, 4);
		memset(s->want + 700 * KIB, 4, 100);
		closed(s, d);
		assert_int_equal(unlink(s->path[1]), 0);
		assert_in_order(s);
		d = opened(s, s->path[2], NULL);
		assert_contents(s, d);
		assert_int_equal(disk_absorb(d, NULL, &s->err), 0);
		assert_null(disk_backing(d));
		assert_contents(s, d);
		closed(s, d);
		assert_int_equal(unlink(s->path[0]), 0);
		d = opened(s, s->path[2], NULL);
		assert_contents(s, d);
		assert_int_equal(disk_absorb(d, NULL, &s->err), -EINVAL);
		closed(s, d);
	}
}

static int stop(void *ctx, uint64_t done, uint64_t total)
{
	(void)total;
	return done > *(uint64_t *)ctx;
}

static void refuses_and_stops(void **state)
{
	struct scene *s = *state;
	uint64_t limit = 200 * KIB;
	const struct disk_progress p = {stop, &limit};
	struct disk *d;
	FILE *f;

	make(s, DISK_FORMAT_RAW);
	d = opened(s, s->path[2], NULL);
	assert_int_equal(disk_snapshot_take(d, "x", &s->err), 0);
	assert_int_equal(disk_absorb(d, NULL, &s->err), -ENOTSUP);
	assert_int_equal(disk_snapshot_delete(d, "x", &s->err), 0);
	assert_int_equal(disk_absorb(d, &p, &s->err), -EINTR);
	assert_contents(s, d);
	closed(s, d);
	assert_int_equal(disk_open(&d, s->path[2], &(struct disk_options){.read_only = true}, &s->err), 0);
	assert_int_equal(disk_absorb(d, NULL, &s->err), -EROFS);
	closed(s, d);
	/* A header that does not say of what format the image below is. */
	f = fopen(s->path[2], "r+b");
	assert_non_null(f);
	fseek(f, Q2_H_BYTES, SEEK_SET);
	fputc(0x77, f);
	fclose(f);
	d = opened(s, s->path[2], NULL);
	assert_int_equal(disk_absorb(d, NULL, &s->err), -ENOTSUP);
	assert_contents(s, d);
	closed(s, d);
	d = opened(s, s->path[2], NULL);
	assert_contents(s, d);
	closed(s, d);
}

struct tap_state {
	unsigned countdown;
	bool kill;
};

static int fail_one(void *ctx, const struct file *f, const struct file_call *call)
{
	struct tap_state *t = ctx;

	if (f->read_only || call->op == FILE_READ || !t->countdown || --t->countdown)
		return 0;
	if (t->kill)
		kill(getpid(), SIGKILL);
	return -EIO;
}

static void survives(struct scene *s, bool killed)
{
	int status, ret = -1;

	for (unsigned n = 1; ret; n++) {
		struct tap_state t = {.kill = killed, .countdown = n};
		const struct file_tap tap = {fail_one, &t};
		struct disk *d;
		pid_t pid;

		make(s, DISK_FORMAT_QCOW2);
		pid = killed ? fork() : 0;
		if (!pid) {
			d = opened(s, s->path[2], &tap);
			ret = disk_absorb(d, NULL, &s->err);
			assert_contents(s, d);
			disk_close(d, NULL);
			if (killed)
				_exit(ret ? 1 : 0);
		} else {
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_true(WIFEXITED(status) ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL);
			ret = WIFEXITED(status) ? 0 : -EIO;
		}
		assert_in_order(s);
		d = opened(s, s->path[2], NULL);
		assert_contents(s, d);
		if (strcmp(disk_path(disk_backing(d)), s->path[1]) == 0)
			assert_int_equal(disk_absorb(d, NULL, &s->err), 0);
		assert_contents(s, d);
		closed(s, d);
	}
}

static void survives_failures(void **state) { survives(*state, false); }
static void survives_being_killed(void **state) { survives(*state, true); }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(absorbs, begin, end),
		cmocka_unit_test_setup_teardown(refuses_and_stops, begin, end),
		cmocka_unit_test_setup_teardown(survives_failures, begin, end),
		cmocka_unit_test_setup_teardown(survives_being_killed, begin, end),
	};

	return cmocka_run_group_tests_name("disk absorb", tests, NULL, NULL);
}
