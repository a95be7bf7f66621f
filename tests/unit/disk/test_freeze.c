/*
 * Disks frozen in use: what is where afterwards, who may open it, names that cannot be, and calls to the host that
 * fail, or at which the process dies, one by one.
 */
#include "disk/file.h"
#include "disk/freeze.h"
#include "disk/image.h"
#include "disk/snapshot.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB   1024ull
#define BYTES (1024 * KIB + 512)

struct scene {
	char dir[64], path[128], base[128], other[128];
	struct error err;
};

static int begin(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	const char *tmp = getenv("TMPDIR");

	if (!tmp)
		tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(s->dir, sizeof(s->dir), "%.40s/freeze-XXXXXX", tmp);
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/disk", s->dir);
	snprintf(s->base, sizeof(s->base), "%s/frozen", s->dir);
	snprintf(s->other, sizeof(s->other), "%s/other", s->dir);
	*state = s;
	return 0;
}

/* Files in the scene's directory; removes them if asked to. */
static unsigned files(const struct scene *s, bool remove)
{
	DIR *dir = opendir(s->dir);
	struct dirent *e;
	unsigned n = 0;

	while ((e = readdir(dir))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		n++;
		if (remove && unlinkat(dirfd(dir), e->d_name, 0))
			unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
	}
	closedir(dir);
	return n;
}

static int end(void **state)
{
	struct scene *s = *state;

	files(s, true);
	assert_int_equal(rmdir(s->dir), 0);
	free(s);
	return 0;
}

static void create(struct scene *s, const char *path, enum disk_format format)
{
	const struct disk_create_options o = {.bytes = BYTES, .format = format};

	unlink(path);
	assert_int_equal(disk_create(path, &o, &s->err), 0);
}

static struct disk *opened(struct scene *s, const char *path, bool read_only)
{
	const struct disk_options o = {.read_only = read_only};
	struct disk *d = NULL;
	int ret = disk_open(&d, path, &o, &s->err);

	if (ret)
		print_error("%s\n", s->err.text);
	assert_int_equal(ret, 0);
	return d;
}

static void closed(struct scene *s, struct disk *d) { assert_int_equal(disk_close(d, &s->err), 0); }

static void write_at(struct scene *s, struct disk *d, uint64_t at, int byte)
{
	uint8_t data[3000];

	memset(data, byte, sizeof(data));
	assert_int_equal(disk_write(d, at, data, sizeof(data), &s->err), 0);
}

static void assert_at(struct scene *s, struct disk *d, uint64_t at, int byte)
{
	uint8_t data[3000], want[3000];

	memset(want, byte, sizeof(want));
	assert_int_equal(disk_read(d, at, data, sizeof(data), &s->err), 0);
	assert_memory_equal(data, want, sizeof(data));
}

static void assert_in_order(struct scene *s, const char *path)
{
	const struct disk_options o = {.read_only = true, .alone = true};
	struct disk_check c = {0};
	struct disk *d;

	assert_int_equal(disk_open(&d, path, &o, &s->err), 0);
	assert_int_equal(disk_check(d, DISK_REPAIR_NONE, &c, &s->err), 0);
	assert_int_equal(c.errors, 0);
	assert_int_equal(c.leaks, 0);
	closed(s, d);
}

static void freeze(struct scene *s, struct disk **d, const char *base)
{
	int ret = disk_freeze(d, base, &s->err);

	if (ret)
		print_error("%s\n", s->err.text);
	assert_int_equal(ret, 0);
}

/* ---- what is where ---- */

static void freezes_one(struct scene *s, enum disk_format format)
{
	struct disk *d, *below;

	create(s, s->path, format);
	d = opened(s, s->path, false);
	write_at(s, d, 1000, 1);
	write_at(s, d, 500000, 2);
	freeze(s, &d, "frozen");
	write_at(s, d, 2000, 3);
	assert_int_equal(disk_write_zeroes(d, 500000, 3000, true, &s->err), 0);

	below = opened(s, s->base, true);
	assert_int_equal(disk_format(below), format);
	assert_at(s, below, 1000, 1);
	assert_at(s, below, 500000, 2);
	closed(s, below);
	assert_int_equal(disk_open(&below, s->base, NULL, &s->err), -EBUSY);
	assert_int_equal(disk_open(&below, s->path, &(struct disk_options){.read_only = true}, &s->err), -EBUSY);

	assert_string_equal(disk_path(d), s->path);
	assert_string_equal(disk_path(disk_backing(d)), s->base);
	closed(s, d);
	assert_int_equal(files(s, false), 2);
	assert_in_order(s, s->base);
	assert_in_order(s, s->path);
	d = opened(s, s->path, false);
	assert_int_equal(disk_format(d), DISK_FORMAT_QCOW2);
	assert_int_equal(disk_bytes(d), BYTES);
	assert_at(s, d, 2000, 3);
	assert_at(s, d, 500000, 0);
	closed(s, d);
}

static void freezes_qcow2(void **state) { freezes_one(*state, DISK_FORMAT_QCOW2); }
static void freezes_raw(void **state) { freezes_one(*state, DISK_FORMAT_RAW); }

static void freezes_again(void **state)
{
	struct scene *s = *state;
	struct disk *d, *old;
	char name[32], path[160];

	create(s, s->path, DISK_FORMAT_QCOW2);
	d = opened(s, s->path, false);
	for (int i = 1; i <= 20; i++) {
		write_at(s, d, 10000, i);
		snprintf(name, sizeof(name), "frozen%d", i);
		freeze(s, &d, name);
	}
	for (int i = 1; i <= 20; i++) {
		snprintf(path, sizeof(path), "%s%d", s->base, i);
		old = opened(s, path, true);
		assert_at(s, old, 10000, i);
		closed(s, old);
	}
	closed(s, d);
	assert_int_equal(files(s, false), 21);
}

/* What was freed by overwriting a snapshot's clusters is free in the frozen image, too: nothing is written to it later. */
static void leaves_nothing_to_be_written(void **state)
{
	struct scene *s = *state;
	struct stat before, after;
	struct disk *d;

	create(s, s->path, DISK_FORMAT_QCOW2);
	d = opened(s, s->path, false);
	for (unsigned i = 0; i < 10; i++)
		write_at(s, d, 70000 * i, 1);
	assert_int_equal(disk_write_zeroes(d, 0, 300 * KIB, true, &s->err), 0);
	freeze(s, &d, "frozen");
	assert_in_order(s, s->base);
	assert_int_equal(stat(s->base, &before), 0);
	write_at(s, d, 0, 2);
	closed(s, d);
	assert_int_equal(stat(s->base, &after), 0);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	assert_int_equal(before.st_size, after.st_size);
}

static void keeps_access_rights(void **state)
{
	struct scene *s = *state;
	struct disk *d;
	struct stat st;

	create(s, s->path, DISK_FORMAT_RAW);
	assert_int_equal(chmod(s->path, 0600), 0);
	d = opened(s, s->path, false);
	freeze(s, &d, "frozen");
	closed(s, d);
	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* Discarded bytes read the same before and after, in whatever pieces they are discarded. */
static void discards_alike(void **state)
{
	struct scene *s = *state;
	uint8_t raw[16], overlay[16];
	struct disk *d;

	for (unsigned frozen = 0; frozen < 2; frozen++) {
		uint8_t *got = frozen ? overlay : raw;

		create(s, s->path, DISK_FORMAT_RAW);
		d = opened(s, s->path, false);
		write_at(s, d, 65000, 7);
		write_at(s, d, 200000, 7);
		if (frozen)
			freeze(s, &d, "frozen");
		assert_int_equal(disk_discard(d, 65500, 140000, &s->err), 0);
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(disk_read(d, i < 8 ? 65496 + i : 205496 - 10000 + 625 * i, got + i, 1, &s->err), 0);
		closed(s, d);
		unlink(s->base);
	}
	assert_memory_equal(raw, overlay, sizeof(raw));
	assert_int_equal(raw[0], 7);
	assert_int_equal(raw[7], 0);
}

/* ---- names ---- */

static void follows_symbolic_links(void **state)
{
	struct scene *s = *state;
	char sub[160], file[200];
	struct disk *d;
	struct stat st;

	create(s, s->path, DISK_FORMAT_RAW);
	assert_int_equal(symlink("disk", s->other), 0);
	d = opened(s, s->other, false);
	write_at(s, d, 0, 1);
	freeze(s, &d, "frozen");
	closed(s, d);
	assert_int_equal(lstat(s->other, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	d = opened(s, s->other, false);
	assert_string_equal(disk_path(disk_backing(d)), s->base);
	closed(s, d);

	/* From another directory: names relative to the link would lead nowhere. */
	snprintf(sub, sizeof(sub), "%s/sub", s->dir);
	snprintf(file, sizeof(file), "%s/link", sub);
	assert_int_equal(mkdir(sub, 0700), 0);
	assert_int_equal(symlink("../disk", file), 0);
	assert_int_equal(disk_open(&d, file, NULL, &s->err), -ENOENT);
	unlink(s->path);
	create(s, s->path, DISK_FORMAT_RAW);
	unlink(s->base);
	d = opened(s, file, false);
	write_at(s, d, 0, 2);
	freeze(s, &d, "frozen");
	closed(s, d);
	d = opened(s, file, false);
	assert_at(s, d, 0, 2);
	freeze(s, &d, "frozen2");
	closed(s, d);
	d = opened(s, s->path, false);
	assert_at(s, d, 0, 2);
	closed(s, d);
	unlink(file);
}

static void refuses_links_to_relative_chains(void **state)
{
	struct scene *s = *state;
	char sub[160], file[200], base[200];
	struct disk *d;

	snprintf(sub, sizeof(sub), "%s/sub", s->dir);
	snprintf(file, sizeof(file), "%s/link", sub);
	snprintf(base, sizeof(base), "%s/other", sub);
	assert_int_equal(mkdir(sub, 0700), 0);
	create(s, s->other, DISK_FORMAT_RAW);
	assert_int_equal(link(s->other, base), 0);
	assert_int_equal(disk_create(s->path, &(struct disk_create_options){.backing = "other"}, &s->err), 0);
	assert_int_equal(symlink("../disk", file), 0);
	d = opened(s, file, false);
	assert_int_equal(disk_freeze(&d, "frozen", &s->err), -ENOTSUP);
	closed(s, d);
	assert_int_equal(access(s->base, F_OK), -1);
	unlink(file);
	unlink(base);
}

static void refuses_names(void **state)
{
	static const char *const bad[] = {"", ".", "..", "a/b", "disk"};
	struct scene *s = *state;
	struct disk *d;

	create(s, s->path, DISK_FORMAT_RAW);
	create(s, s->other, DISK_FORMAT_RAW);
	d = opened(s, s->path, false);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(disk_freeze(&d, bad[i], &s->err), -EINVAL);
	assert_int_equal(disk_freeze(&d, "other", &s->err), -EEXIST);
	assert_int_equal(files(s, false), 2);
	freeze(s, &d, "with:colon");
	closed(s, d);
	d = opened(s, s->path, false);
	assert_non_null(disk_backing(d));
	assert_int_equal(rename(s->other, s->path), 0);
	assert_int_equal(disk_freeze(&d, "frozen", &s->err), -ESTALE);
	unlink(s->path);
	assert_int_equal(disk_freeze(&d, "frozen", &s->err), -ENOENT);
	closed(s, d);
}

static void refuses_what_cannot_be(void **state)
{
	struct scene *s = *state;
	struct disk *d;
	char name[32];
	int ret = 0;

	create(s, s->path, DISK_FORMAT_RAW);
	d = opened(s, s->path, true);
	assert_int_equal(disk_freeze(&d, "frozen", &s->err), -EROFS);
	closed(s, d);
	assert_int_equal(disk_open_snapshot(&d, s->path, NULL, &s->err), 0);
	assert_int_equal(disk_freeze(&d, "frozen", &s->err), -ENOTSUP);
	assert_non_null(strstr(s->err.text, s->path));
	closed(s, d);
	d = opened(s, s->path, false);
	for (unsigned i = 1; i < 256; i++) {
		snprintf(name, sizeof(name), "frozen%u", i);
		freeze(s, &d, name);
	}
	write_at(s, d, 0, 9);
	ret = disk_freeze(&d, "frozen", &s->err);
	assert_int_equal(ret, -ELOOP);
	closed(s, d);
	d = opened(s, s->path, false);
	assert_at(s, d, 0, 9);
	closed(s, d);
}

/* What an attempt that was cut short can leave. */
static void takes_over_what_is_left(void **state)
{
	struct scene *s = *state;
	char temporary[160];
	struct disk *d;

	snprintf(temporary, sizeof(temporary), "%s/.disk.freeze", s->dir);
	create(s, s->path, DISK_FORMAT_QCOW2);
	create(s, temporary, DISK_FORMAT_QCOW2);
	assert_int_equal(link(s->path, s->base), 0);
	d = opened(s, s->path, false);
	write_at(s, d, 0, 1);
	freeze(s, &d, "frozen");
	closed(s, d);
	assert_int_equal(files(s, false), 2);
}

/* ---- failures ---- */

struct tap_state {
	unsigned countdown; /* the call with 1 left fails */
	bool all, kill;     /* and all that follow; the process dies there */
	unsigned calls;
};

static int fail_one(void *ctx, const struct file *f, const struct file_call *call)
{
	struct tap_state *t = ctx;

	(void)f;
	if (call->op == FILE_READ || !t->countdown)
		return 0;
	t->calls++;
	if (t->countdown > 1) {
		t->countdown--;
		return 0;
	}
	if (t->kill)
		kill(getpid(), SIGKILL);
	if (!t->all)
		t->countdown = 0;
	return -ENOSPC;
}

/* A disk with contents, of which not everything has been flushed. */
static struct disk *prepared(struct scene *s, enum disk_format format, const struct file_tap *tap)
{
	struct disk *d;

	create(s, s->path, format);
	assert_int_equal(disk_open(&d, s->path, &(struct disk_options){.tap = tap}, &s->err), 0);
	write_at(s, d, 1000, 1);
	assert_int_equal(disk_flush(d, &s->err), 0);
	write_at(s, d, 300000, 2);
	return d;
}

static void goes_on_after_a_failure(void **state)
{
	struct scene *s = *state;
	bool frozen = false, stuck;

	for (unsigned variant = 0; variant < 4; variant++, frozen = false)
		for (unsigned n = 1; !frozen; n++) {
			struct tap_state t = {.all = variant & 1};
			const struct file_tap tap = {fail_one, &t};
			struct disk *d = prepared(s, variant & 2 ? DISK_FORMAT_RAW : DISK_FORMAT_QCOW2, &tap), *same = d;
			int ret;

			t.countdown = n;
			ret = disk_freeze(&d, "frozen", &s->err);
			frozen = ret == 0;
			assert_true(frozen || (ret == -ENOSPC && d == same && *s->err.text));
			t.countdown = 0;
			assert_at(s, d, 1000, 1);
			assert_at(s, d, 300000, 2);
			/* After a barrier that failed nothing can be changed any more. */
			stuck = disk_flush(d, &s->err) != 0;
			if (!stuck)
				write_at(s, d, 2000, 3);
			assert_int_equal(disk_close(d, &s->err) != 0, stuck);
			d = opened(s, s->path, false);
			assert_at(s, d, stuck ? 1000 : 2000, stuck ? 1 : 3);
			if (!stuck)
				assert_at(s, d, 300000, 2);
			if (!frozen && !t.all) /* no trace of it */
				assert_int_equal(files(s, false), 1);
			unlink(s->base);
			if (!frozen)
				assert_int_equal(disk_freeze(&d, "frozen", &s->err), 0);
			closed(s, d);
			files(s, true);
		}
}

static void survives_being_killed(void **state)
{
	struct scene *s = *state;
	int status;

	for (unsigned variant = 0; variant < 2; variant++)
		for (unsigned n = 1, done = 0; !done; n++) {
			struct tap_state t = {.kill = true};
			const struct file_tap tap = {fail_one, &t};
			struct disk *d;
			pid_t pid = fork();
			int ret;

			assert_true(pid >= 0);
			if (!pid) {
				d = prepared(s, variant ? DISK_FORMAT_RAW : DISK_FORMAT_QCOW2, &tap);
				if (disk_flush(d, NULL))
					_exit(1);
				t.countdown = n;
				_exit(disk_freeze(&d, "frozen", NULL) ? 1 : 0);
			}
			assert_int_equal(waitpid(pid, &status, 0), pid);
			done = WIFEXITED(status);
			assert_true(done ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL);
			d = opened(s, s->path, false);
			assert_at(s, d, 1000, 1);
			assert_at(s, d, 300000, 2);
			/* Either it had come to the point at which the name changes, or it can be done again. */
			ret = disk_freeze(&d, "frozen", &s->err);
			assert_int_equal(ret, disk_backing(d) && ret ? -EEXIST : 0);
			closed(s, d);
			assert_int_equal(files(s, true), 2);
		}
}

/* All of several, or none. */
static void can_be_undone(void **state)
{
	struct scene *s = *state;
	struct disk_freeze z[2];
	struct disk *d, *e;

	create(s, s->path, DISK_FORMAT_QCOW2);
	create(s, s->other, DISK_FORMAT_RAW);
	d = opened(s, s->path, false);
	e = opened(s, s->other, false);
	write_at(s, d, 0, 1);
	assert_int_equal(disk_freeze_prepare(&z[0], d, "a", &s->err), 0);
	assert_int_equal(disk_freeze_prepare(&z[1], e, "b", &s->err), 0);
	assert_int_equal(disk_freeze_switch(&z[0], &s->err), 0);
	assert_int_equal(disk_freeze_switch(&z[1], &s->err), 0);
	disk_freeze_undo(&z[0]);
	disk_freeze_undo(&z[1]);
	assert_int_equal(files(s, false), 2);
	write_at(s, d, 5000, 2);
	closed(s, d);
	closed(s, e);
	assert_in_order(s, s->path);
	d = opened(s, s->path, false);
	assert_null(disk_backing(d));
	assert_at(s, d, 5000, 2);
	closed(s, d);
}

/* A name that the host would not give back: an empty overlay on what goes on being written. */
static void is_the_same_if_it_cannot_be_undone(void **state)
{
	struct scene *s = *state;
	struct disk_freeze z;
	struct disk *d;

	create(s, s->path, DISK_FORMAT_QCOW2);
	d = opened(s, s->path, false);
	write_at(s, d, 0, 1);
	assert_int_equal(disk_freeze_prepare(&z, d, "frozen", &s->err), 0);
	assert_int_equal(disk_freeze_switch(&z, &s->err), 0);
	assert_int_equal(rename(s->base, s->other), 0);
	disk_freeze_undo(&z); /* which finds nothing to rename */
	assert_int_equal(rename(s->other, s->base), 0);
	write_at(s, d, 5000, 2);
	assert_int_equal(disk_freeze(&d, "again", &s->err), -ESTALE);
	closed(s, d);
	d = opened(s, s->path, false);
	assert_non_null(disk_backing(d));
	assert_at(s, d, 0, 1);
	assert_at(s, d, 5000, 2);
	closed(s, d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(freezes_qcow2, begin, end),
		cmocka_unit_test_setup_teardown(freezes_raw, begin, end),
		cmocka_unit_test_setup_teardown(freezes_again, begin, end),
		cmocka_unit_test_setup_teardown(leaves_nothing_to_be_written, begin, end),
		cmocka_unit_test_setup_teardown(keeps_access_rights, begin, end),
		cmocka_unit_test_setup_teardown(discards_alike, begin, end),
		cmocka_unit_test_setup_teardown(follows_symbolic_links, begin, end),
		cmocka_unit_test_setup_teardown(refuses_links_to_relative_chains, begin, end),
		cmocka_unit_test_setup_teardown(refuses_names, begin, end),
		cmocka_unit_test_setup_teardown(refuses_what_cannot_be, begin, end),
		cmocka_unit_test_setup_teardown(takes_over_what_is_left, begin, end),
		cmocka_unit_test_setup_teardown(goes_on_after_a_failure, begin, end),
		cmocka_unit_test_setup_teardown(survives_being_killed, begin, end),
		cmocka_unit_test_setup_teardown(can_be_undone, begin, end),
		cmocka_unit_test_setup_teardown(is_the_same_if_it_cannot_be_undone, begin, end),
	};

	return cmocka_run_group_tests_name("disk freeze", tests, NULL, NULL);
}
