/* Raw images, locks, and the calls to the host that fail. */
#include "disk/disk.h"
#include "disk/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (1024 * 1024)

struct scene {
	char dir[64], path[96];
	struct error err;
};

static int begin(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	const char *tmp = getenv("TMPDIR");
	int fd;

	snprintf(s->dir, sizeof(s->dir), "%.40s/disk-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/raw", s->dir);
	fd = open(s->path, O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4 * MIB + 100), 0);
	close(fd);
	*state = s;
	return 0;
}

static int end(void **state)
{
	struct scene *s = *state;

	unlink(s->path);
	rmdir(s->dir);
	free(s);
	return 0;
}

static struct disk *opened(struct scene *s, const struct disk_options *o)
{
	struct disk *d = NULL;

	assert_int_equal(disk_open(&d, s->path, o, &s->err), 0);
	return d;
}

static void reads_what_was_written(void **state)
{
	struct scene *s = *state;
	struct disk *d = opened(s, NULL);
	uint8_t in[5000], out[5000];

	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7);
	assert_int_equal(disk_format(d), DISK_FORMAT_RAW);
	assert_int_equal(disk_bytes(d), 4 * MIB + 100);
	assert_int_equal(disk_write(d, 4 * MIB + 100 - sizeof(in), in, sizeof(in), &s->err), 0);
	assert_int_equal(disk_close(d, &s->err), 0);
	d = opened(s, &(struct disk_options){.read_only = true});
	assert_int_equal(disk_read(d, 4 * MIB + 100 - sizeof(out), out, sizeof(out), &s->err), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(disk_write(d, 0, in, 1, &s->err), -EROFS);
	assert_int_equal(disk_close(d, &s->err), 0);
}

static void ends_at_its_end(void **state)
{
	struct scene *s = *state;
	struct disk *d = opened(s, NULL);
	uint8_t b[200];

	assert_int_equal(disk_read(d, 4 * MIB, b, 101, &s->err), -EINVAL);
	assert_int_equal(disk_write(d, UINT64_MAX, b, 1, &s->err), -EINVAL);
	assert_int_equal(disk_write(d, 1, b, UINT64_MAX, &s->err), -EINVAL);
	assert_int_equal(disk_read(d, 4 * MIB + 100, b, 0, &s->err), 0);
	assert_int_equal(disk_close(d, &s->err), 0);
}

static uint64_t blocks(const struct scene *s)
{
	struct stat st;

	assert_int_equal(stat(s->path, &st), 0);
	return (uint64_t)st.st_blocks;
}

static void discard_gives_room_back(void **state)
{
	struct scene *s = *state;
	struct disk *d = opened(s, NULL);
	uint8_t *b = malloc(MIB);
	uint64_t full;

	memset(b, 0x55, MIB);
	assert_int_equal(disk_write(d, 0, b, MIB, &s->err), 0);
	assert_int_equal(disk_flush(d, &s->err), 0);
	full = blocks(s);
	assert_int_equal(disk_discard(d, 5, MIB / 2, &s->err), 0);
	assert_int_equal(disk_write_zeroes(d, MIB - 4096, 4095, false, &s->err), 0);
	assert_int_equal(disk_flush(d, &s->err), 0);
	assert_true(blocks(s) <= full - MIB / 2 / 512 + 16);
	assert_int_equal(disk_read(d, 0, b, MIB, &s->err), 0);
	for (unsigned i = 0; i < MIB; i++)
		assert_int_equal(b[i], (i >= 5 && i < 5 + MIB / 2) || (i >= MIB - 4096 && i < MIB - 1) ? 0 : 0x55);
	assert_int_equal(disk_close(d, &s->err), 0);
	free(b);
}

static void does_not_become_qcow2(void **state)
{
	struct scene *s = *state;
	struct disk *d = opened(s, NULL);

	assert_int_equal(disk_write(d, 0, "QFI\xfb", 4, &s->err), -EPERM);
	assert_int_equal(disk_write(d, 0, "QFI", 3, &s->err), 0);
	assert_int_equal(disk_write(d, 3, "\xfb", 1, &s->err), -EPERM);
	assert_int_equal(disk_close(d, &s->err), 0);
	d = opened(s, &(struct disk_options){.format = DISK_FORMAT_RAW});
	assert_int_equal(disk_write(d, 0, "QFI\xfb", 4, &s->err), 0);
	assert_int_equal(disk_close(d, &s->err), 0);
}

static void one_writer_or_many_readers(void **state)
{
	static const struct disk_options read_only = {.read_only = true}, look = {.read_only = true, .no_lock = true};
	struct scene *s = *state;
	struct disk *a = opened(s, NULL), *b, *c;

	assert_int_equal(disk_open(&b, s->path, NULL, &s->err), -EBUSY);
	assert_non_null(strstr(s->err.text, "in use for writing"));
	assert_int_equal(disk_open(&b, s->path, &read_only, &s->err), -EBUSY);
	b = opened(s, &look);
	assert_int_equal(disk_close(b, &s->err), 0);
	assert_int_equal(disk_open(&b, s->path, &read_only, &s->err), -EBUSY);
	assert_int_equal(disk_close(a, &s->err), 0);
	a = opened(s, &read_only);
	b = opened(s, &read_only);
	assert_int_equal(disk_open(&c, s->path, NULL, &s->err), -EBUSY);
	assert_non_null(strstr(s->err.text, "cannot be opened for writing"));
	assert_int_equal(disk_close(a, &s->err), 0);
	assert_int_equal(disk_close(b, &s->err), 0);
	assert_int_equal(disk_open(&c, s->path, &(struct disk_options){.no_lock = true}, &s->err), -EINVAL);
}

/* Fails the calls of one kind. */
struct failing {
	enum file_op op;
	int code;
};

static int fail_one_kind(void *ctx, const struct file *f, const struct file_call *call)
{
	const struct failing *what = ctx;

	(void)f;
	return call->op == what->op ? what->code : 0;
}

static void failures_come_back(void **state)
{
	struct scene *s = *state;
	struct failing what = {.op = FILE_READ, .code = -EIO};
	const struct file_tap tap = {.before = fail_one_kind, .ctx = &what};
	struct disk *d = opened(s, &(struct disk_options){.format = DISK_FORMAT_RAW, .tap = &tap});
	uint8_t b[512] = {1};

	assert_int_equal(disk_read(d, 0, b, sizeof(b), &s->err), -EIO);
	assert_non_null(strstr(s->err.text, "cannot read 512 bytes at offset 0"));
	what = (struct failing){.op = FILE_WRITE, .code = -ENOSPC};
	assert_int_equal(disk_write(d, 512, b, sizeof(b), &s->err), -ENOSPC);
	what.code = 0;
	assert_int_equal(disk_write(d, 512, b, sizeof(b), &s->err), 0);
	assert_int_equal(disk_flush(d, &s->err), 0);
	/* After a flush that failed nobody knows what is on the disk. */
	assert_int_equal(disk_write(d, 512, b, sizeof(b), &s->err), 0);
	what = (struct failing){.op = FILE_SYNC, .code = -EIO};
	assert_int_equal(disk_flush(d, &s->err), -EIO);
	what.code = 0;
	assert_int_equal(disk_flush(d, &s->err), -EIO);
	assert_non_null(strstr(s->err.text, "earlier flush"));
	assert_int_equal(disk_close(d, &s->err), -EIO);
}

static void no_image_at_all(void **state)
{
	struct scene *s = *state;
	struct disk *d;
	char name[128];

	snprintf(name, sizeof(name), "%s/none", s->dir);
	assert_int_equal(disk_open(&d, name, NULL, &s->err), -ENOENT);
	assert_int_equal(disk_open(&d, s->dir, &(struct disk_options){.read_only = true}, &s->err), -EISDIR);
	assert_int_equal(disk_open(&d, "/dev/null", NULL, &s->err), -EINVAL);
	assert_int_equal(mkfifo(name, 0600), 0);
	assert_int_equal(disk_open(&d, name, &(struct disk_options){.read_only = true}, &s->err), -EINVAL);
	unlink(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(reads_what_was_written, begin, end),
		cmocka_unit_test_setup_teardown(ends_at_its_end, begin, end),
		cmocka_unit_test_setup_teardown(discard_gives_room_back, begin, end),
		cmocka_unit_test_setup_teardown(does_not_become_qcow2, begin, end),
		cmocka_unit_test_setup_teardown(one_writer_or_many_readers, begin, end),
		cmocka_unit_test_setup_teardown(failures_come_back, begin, end),
		cmocka_unit_test_setup_teardown(no_image_at_all, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
