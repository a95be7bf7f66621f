/* What the owner of a VM says of its disks, and freezing all of them or none. */
#include "disk/image.h"
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

	platform_init(&s->platform, 64 << 20, 0);
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
		cmocka_unit_test_setup_teardown(prints_what_it_parses, begin, end),
	};

	return cmocka_run_group_tests_name("devices", tests, NULL, NULL);
}
