/* What comes as pieces of disks is written where it belongs, and nothing else is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "disk/disk.h"
#include "vm/migrate_disks.h"

#define DISK_BYTES 65536u

static char dir[64];
static uint8_t piece[24 + 8192];

static size_t make(uint32_t disk, uint32_t kind, uint64_t at, uint64_t bytes, size_t data)
{
	put_u32(piece, disk);
	put_u32(piece + 4, kind);
	put_u64(piece + 8, at);
	put_u64(piece + 16, bytes);
	memset(piece + 24, 0x5a, data);
	return 24 + data;
}

static size_t first(uint32_t disk, uint64_t bytes, uint32_t format, uint64_t cluster)
{
	make(disk, 2, 0, bytes, 16);
	put_u32(piece + 24, format);
	put_u32(piece + 28, 0);
	put_u64(piece + 32, cluster);
	return DISKS_FIRST_BYTES;
}

static void configure(struct vm_config *cfg)
{
	vm_config_default(cfg);
	cfg->devices.disk[0] = "/elsewhere/a.img,serial=X";
	cfg->devices.disk[1] = "/elsewhere/b.qcow2,ro";
	cfg->devices.disk[2] = "/elsewhere/c.qcow2";
	cfg->devices.disks = 3;
}

static struct disks_in *create(struct vm_config *cfg)
{
	struct disks_in *d;
	struct error err;

	configure(cfg);
	assert_int_equal(disks_in_create(&d, cfg, dir, &err), 0);
	return d;
}

static int take(struct disks_in *d, size_t bytes)
{
	struct error err;

	return disks_in_take(d, piece, bytes, &err);
}

static void expect_byte(const char *name, uint64_t at, uint8_t v)
{
	char path[128];
	struct disk *disk;
	uint8_t b;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(disk_open(&disk, path, NULL, NULL), 0);
	assert_int_equal(disk_read(disk, at, &b, 1, NULL), 0);
	assert_int_equal(b, v);
	disk_close(disk, NULL);
}

static void pieces_arrive(void **state)
{
	struct vm_config cfg;
	struct disks_in *d = create(&cfg);
	char path[128];
	struct error err;

	(void)state;
	snprintf(path, sizeof(path), "%s/a.img,serial=X", dir);
	assert_string_equal(cfg.devices.disk[0], path);
	assert_string_equal(cfg.devices.disk[1], "/elsewhere/b.qcow2,ro");
	assert_int_equal(take(d, first(0, DISK_BYTES, DISK_FORMAT_RAW, 0)), 0);
	assert_int_equal(disks_in_finish(d, &err), -EPROTO); /* the third has not come */
	disks_in_free(d, false);
	assert_int_equal(rmdir(dir), 0); /* nothing was left */
	assert_non_null(mkdtemp(strcpy(dir, "/tmp/gnomon-test-XXXXXX")));

	d = create(&cfg);
	assert_int_equal(take(d, first(0, DISK_BYTES, DISK_FORMAT_RAW, 0)), 0);
	assert_int_equal(take(d, first(2, DISK_BYTES, DISK_FORMAT_QCOW2, 4096)), 0);
	assert_int_equal(take(d, make(0, 0, 512, 4096, 4096)), 0);
	assert_int_equal(take(d, make(2, 0, DISK_BYTES - 8192, 8192, 8192)), 0);
	assert_int_equal(take(d, make(2, 1, DISK_BYTES - 8192, 4096, 0)), 0);
	assert_int_equal(disks_in_finish(d, &err), 0);
	disks_in_free(d, true);
	expect_byte("a.img", 511, 0);
	expect_byte("a.img", 512, 0x5a);
	expect_byte("c.qcow2", DISK_BYTES - 8192, 0);
	expect_byte("c.qcow2", DISK_BYTES - 4096, 0x5a);

	configure(&cfg);
	assert_int_equal(disks_in_create(&d, &cfg, dir, &err), -EEXIST);
	unlink(strcat(strcpy(path, dir), "/a.img"));
	unlink(strcat(strcpy(path, dir), "/c.qcow2"));
}

static void lies(void **state)
{
	struct vm_config cfg;
	struct disks_in *d = create(&cfg);

	(void)state;
	for (size_t n = 0; n < 24; n++)
		assert_int_equal(take(d, n), -EPROTO);
	assert_int_equal(take(d, make(0, 0, 0, 512, 512)), -EPROTO); /* before its first */
	assert_int_equal(take(d, first(1, DISK_BYTES, DISK_FORMAT_RAW, 0)), -EPROTO); /* read only */
	assert_int_equal(take(d, first(3, DISK_BYTES, DISK_FORMAT_RAW, 0)), -EPROTO);
	assert_int_equal(take(d, first(UINT32_MAX, DISK_BYTES, DISK_FORMAT_RAW, 0)), -EPROTO);
	assert_int_equal(take(d, first(0, DISK_BYTES, 77, 0)), -EPROTO);
	assert_int_equal(take(d, first(0, DISK_BYTES, DISK_FORMAT_PROBE, 0)), -EPROTO);
	assert_true(take(d, first(2, DISK_BYTES, DISK_FORMAT_QCOW2, 12345)) < 0);
	assert_true(take(d, first(2, UINT64_MAX, DISK_FORMAT_QCOW2, 65536)) < 0);
	assert_int_equal(take(d, first(0, DISK_BYTES, DISK_FORMAT_RAW, 0)), 0);
	assert_int_equal(take(d, first(0, DISK_BYTES, DISK_FORMAT_RAW, 0)), -EPROTO); /* twice */
	assert_int_equal(take(d, make(0, 0, 0, 512, 511)), -EPROTO);
	assert_int_equal(take(d, make(0, 1, 0, 512, 1)), -EPROTO);
	assert_int_equal(take(d, make(0, 9, 0, 512, 0)), -EPROTO);
	assert_int_equal(take(d, make(0, 0, DISK_BYTES, 512, 512)), -EINVAL);
	assert_int_equal(take(d, make(0, 0, UINT64_MAX - 255, 512, 512)), -EINVAL);
	assert_int_equal(take(d, make(0, 1, 1, UINT64_MAX, 0)), -EINVAL);
	disks_in_free(d, false);
}

static int set_up(void **state)
{
	(void)state;
	return !mkdtemp(strcpy(dir, "/tmp/gnomon-test-XXXXXX"));
}

static int tear_down(void **state)
{
	(void)state;
	return rmdir(dir); /* nothing is left in it */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pieces_arrive, set_up, tear_down),
		cmocka_unit_test_setup_teardown(lies, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
