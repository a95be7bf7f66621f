/* What the owner of a VM says of its disks; freezing all of them or none; mirrors of them. */
#include "disk/image.h"
#include "disk/mirror.h"
#include "vm/devices.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

struct scene {
	char dir[64], path[3][96], file[96];
	struct platform platform;
	struct devices_config cfg;
	struct devices *devices;
	struct error err;
};

static const char *in_dir(struct scene *s, const char *name)
{
	snprintf(s->file, sizeof(s->file), "%s/%s", s->dir, name);
	return s->file;
}

static void create(struct scene *s, const char *path, enum disk_format format)
{
	assert_int_equal(disk_create(path, &(struct disk_create_options){.bytes = 1 << 20, .format = format}, &s->err),
			 0);
}

/* A raw disk, one that is not written, and a qcow2 one. */
static int begin(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	const char *tmp = getenv("TMPDIR");

	snprintf(s->dir, sizeof(s->dir), "%.40s/devices-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path[0], 96, "%s/raw.img", s->dir);
	snprintf(s->path[1], 96, "%s/cd,ro", s->dir);
	snprintf(s->path[2], 96, "%s/noext", s->dir);
	create(s, s->path[0], DISK_FORMAT_RAW);
	create(s, in_dir(s, "cd"), DISK_FORMAT_RAW);
	create(s, s->path[2], DISK_FORMAT_QCOW2);
	for (unsigned i = 0; i < 3; i++)
		s->cfg.disk[s->cfg.disks++] = s->path[i];
	*state = s;
	return 0;
}

static int end(void **state)
{
	static const char *const names[] = {"raw.img", "cd", "noext", "raw.one.img", "noext.one", "raw.two.img",
					    "noext.two"};
	struct scene *s = *state;

	assert_int_equal(devices_close(s->devices, &s->err), 0);
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		unlink(in_dir(s, names[i]));
	assert_int_equal(rmdir(s->dir), 0); /* nothing else is left */
	free(s);
	return 0;
}

static void make(struct scene *s)
{
	const struct devices_host host = {.platform = &s->platform};

	platform_init(&s->platform, 64 << 20, 0, false);
	assert_int_equal(devices_create(&s->devices, &s->cfg, &host, &s->err), 0);
}

static void freezes_what_can_be_written(void **state)
{
	const struct disk_options o = {.read_only = true};
	struct scene *s = *state;
	struct devices_frozen *out = calloc(1, sizeof(*out));
	struct disk *d;

	make(s);
	assert_int_equal(devices_freeze_disks(s->devices, "one", out, &s->err), 0);
	assert_int_equal(out->disks, 3);
	assert_string_equal(out->disk[0].path, s->path[0]);
	assert_string_equal(out->disk[0].base, in_dir(s, "raw.one.img"));
	assert_true(out->disk[1].read_only);
	assert_string_equal(out->disk[1].base, out->disk[1].path);
	assert_string_equal(out->disk[2].base, in_dir(s, "noext.one"));
	/* Somebody else can begin where it was, and it goes on. */
	assert_int_equal(disk_open(&d, out->disk[2].base, &o, &s->err), 0);
	assert_int_equal(devices_freeze_disks(s->devices, "two", out, &s->err), 0);
	assert_string_equal(out->disk[0].base, in_dir(s, "raw.two.img"));
	assert_int_equal(disk_close(d, &s->err), 0);
	free(out);
}

static void freezes_all_or_none(void **state)
{
	struct scene *s = *state;
	struct devices_frozen out = {.disks = 77};

	make(s);
	create(s, in_dir(s, "noext.one"), DISK_FORMAT_RAW);
	assert_int_equal(devices_freeze_disks(s->devices, "one", &out, &s->err), -EEXIST);
	assert_int_equal(out.disks, 77);
	assert_int_equal(access(in_dir(s, "raw.one.img"), F_OK), -1);
	assert_int_equal(devices_freeze_disks(s->devices, "two", &out, &s->err), 0);
}

static void refuses_disks_that_are_thrown_away(void **state)
{
	struct scene *s = *state;
	struct devices_frozen out;

	s->cfg.disk[2] = strcat(s->path[2], ",snapshot");
	make(s);
	assert_int_equal(devices_freeze_disks(s->devices, "one", &out, &s->err), -ENOTSUP);
	assert_non_null(strstr(s->err.text, "noext"));
	assert_int_equal(access(in_dir(s, "raw.one.img"), F_OK), -1);
}

static void refuses_ids(void **state)
{
	static const char *const bad[] = {"", "a/b", "a b", "\xc3\xa4",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	struct scene *s = *state;
	struct devices_frozen out;

	make(s);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(devices_freeze_disks(s->devices, bad[i], &out, &s->err), -EINVAL);
	assert_int_equal(devices_freeze_disks(NULL, "one", &out, &s->err), 0);
	assert_int_equal(out.disks, 0);
}

/* A mirror of disk @i into the file @name. */
static struct disk_mirror *mirror_to(struct scene *s, unsigned i, const char *name, struct disk **to)
{
	struct disk_mirror_target target;
	struct disk_mirror *m;

	create(s, in_dir(s, name), DISK_FORMAT_RAW);
	assert_int_equal(disk_open(to, s->file, NULL, &s->err), 0);
	target = disk_mirror_to(*to);
	assert_int_equal(disk_mirror_create(&m, devices_disk_bytes(s->devices, i), &target, NULL, &s->err), 0);
	return m;
}

static void mirrors_and_goes_on_with_the_copy(void **state)
{
	struct scene *s = *state;
	struct disk_mirror *m, *other;
	struct devices_frozen out;
	struct disk *to, *other_to;
	bool read_only;

	make(s);
	assert_int_equal(devices_disk_bytes(s->devices, 2), 1 << 20);
	assert_int_equal(devices_disk_bytes(s->devices, 3), 0);
	m = mirror_to(s, 2, "noext.one", &to);
	other = mirror_to(s, 1, "raw.one.img", &other_to);
	assert_int_equal(devices_start_mirror(s->devices, 3, m, &s->err), -ENOENT);
	assert_int_equal(devices_pivot(s->devices, 2, m, to, &s->err), -ENOENT);
	assert_int_equal(devices_start_mirror(s->devices, 2, m, &s->err), 0);
	assert_int_equal(devices_start_mirror(s->devices, 2, other, &s->err), -EBUSY);
	assert_int_equal(devices_freeze_disks(s->devices, "two", &out, &s->err), -EBUSY);
	assert_int_equal(access(in_dir(s, "raw.two.img"), F_OK), -1);
	assert_int_equal(devices_complete_mirror(s->devices, 2, other, &s->err), -ENOENT);
	devices_stop_mirror(s->devices, 2, other); /* which is another one's */
	assert_int_equal(devices_pivot(s->devices, 2, m, to, &s->err), 0);
	assert_string_equal(devices_disk(s->devices, 2, &read_only), in_dir(s, "noext.one"));
	disk_mirror_free(m);
	/* What it had is free, and it can be frozen again. */
	assert_int_equal(disk_open(&to, s->path[2], NULL, &s->err), 0);
	assert_int_equal(disk_close(to, &s->err), 0);
	/* One that is read only can be copied, not replaced. */
	assert_int_equal(devices_start_mirror(s->devices, 1, other, &s->err), 0);
	assert_int_equal(devices_pivot(s->devices, 1, other, other_to, &s->err), -EROFS);
	assert_int_equal(devices_complete_mirror(s->devices, 1, other, &s->err), 0);
	disk_mirror_free(other);
	assert_int_equal(disk_close(other_to, &s->err), 0);
}

/* Devices that go take nobody along. */
static void stops_mirrors_at_the_end(void **state)
{
	struct scene *s = *state;
	struct disk_mirror_target target;
	struct disk_mirror_progress p;
	struct disk_mirror *m;
	struct disk *to;

	make(s);
	m = mirror_to(s, 0, "raw.one.img", &to);
	assert_int_equal(devices_start_mirror(s->devices, 0, m, &s->err), 0);
	assert_int_equal(devices_close(s->devices, &s->err), 0);
	s->devices = NULL;
	disk_mirror_progress(m, &p);
	assert_false(p.in_use);
	assert_int_equal(p.err.code, -ECANCELED);
	assert_int_equal(devices_complete_mirror(s->devices, 0, m, &s->err), -ENOENT);
	disk_mirror_free(m);
	/* Of another size. */
	make(s);
	target = disk_mirror_to(to);
	assert_int_equal(disk_mirror_create(&m, 512, &target, NULL, &s->err), 0);
	assert_int_equal(devices_start_mirror(s->devices, 0, m, &s->err), -EINVAL);
	disk_mirror_free(m);
	assert_int_equal(disk_close(to, &s->err), 0);
}

static void prints_what_it_parses(void **state)
{
	static const char *const texts[] = {"a", "/x/a,,b.img,ro", "a,snapshot,serial=77"};
	struct scene *s = *state;
	struct devices_disk disk, again;
	char text[256];

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(devices_parse_disk(texts[i], &disk, &s->err), 0);
		assert_int_equal(devices_print_disk(&disk, text, sizeof(text), &s->err), 0);
		assert_string_equal(text, texts[i]);
	}
	for (size_t n = 1; n <= strlen(texts[2]); n++)
		assert_int_equal(devices_print_disk(&disk, text, n, &s->err), -ENAMETOOLONG);
	memset(&again, 0, sizeof(again));
	memset(again.path, ',', 200);
	assert_int_equal(devices_print_disk(&again, text, sizeof(text), &s->err), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(freezes_what_can_be_written, begin, end),
		cmocka_unit_test_setup_teardown(freezes_all_or_none, begin, end),
		cmocka_unit_test_setup_teardown(refuses_disks_that_are_thrown_away, begin, end),
		cmocka_unit_test_setup_teardown(refuses_ids, begin, end),
		cmocka_unit_test_setup_teardown(mirrors_and_goes_on_with_the_copy, begin, end),
		cmocka_unit_test_setup_teardown(stops_mirrors_at_the_end, begin, end),
		cmocka_unit_test_setup_teardown(prints_what_it_parses, begin, end),
	};

	return cmocka_run_group_tests_name("devices", tests, NULL, NULL);
}
