/*
 * Fuzzing qcow2 images: whatever is in the file, opening, reading, checking, writing, snapshots and repairs end in order or
 * with one clear line, in bounded time and memory; and what was repaired is in order. With clang -fsanitize=fuzzer this is
 * a libFuzzer target; without it a main() replays files, or makes images and damages them:
 *
 *	fuzz_qcow2 [-n ROUNDS] [-s SEED] [FILE...]
 */
#include "disk/image.h"
#include "disk/qcow2_format.h"
#include "base/util.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#define FILE_MAX (256 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* A result and its message: 0, or an error with one line. */
static bool fine(int ret, struct error *err)
{
	if (ret) {
		must(ret < 0 && err->code == ret && *err->text);
		for (const char *p = err->text; *p; p++)
			must((unsigned char)*p >= ' ');
	}
	*err = (struct error){0};
	return !ret;
}

static void read_all(struct disk *d, uint64_t most)
{
	static uint8_t buf[64 * 1024];
	uint64_t bytes = min_u64(disk_bytes(d), most);
	struct error err = {0};

	for (uint64_t at = 0; at < bytes; at += sizeof(buf))
		fine(disk_read(d, at, buf, min_u64(sizeof(buf), bytes - at), &err), &err);
	if (disk_bytes(d) > bytes) /* and the end */
		fine(disk_read(d, disk_bytes(d) - 512, buf, 512, &err), &err);
}

static void check(struct disk *d, enum disk_repair repair)
{
	struct disk_check c = {0}, again = {0};
	struct error err = {0};

	if (!fine(disk_check(d, repair, &c, &err), &err) || repair == DISK_REPAIR_NONE || c.errors || c.leaks)
		return;
	if (fine(disk_check(d, DISK_REPAIR_NONE, &again, &err), &err))
		must(!again.errors && !again.leaks);
}

static void change(struct disk *d, unsigned seed)
{
	static uint8_t buf[9000];
	uint64_t bytes = disk_bytes(d), at = bytes ? seed * 7919ull % bytes : 0, n = min_u64(sizeof(buf), bytes - at);
	struct error err = {0};

	fine(disk_write(d, at, buf, n, &err), &err);
	fine(disk_write(d, 0, buf, min_u64(bytes, 600), &err), &err);
	fine(disk_flush(d, &err), &err);
	fine(disk_write_zeroes(d, at / 2, min_u64(bytes - at / 2, 200000), seed & 1, &err), &err);
	fine(disk_discard(d, at / 3, min_u64(bytes - at / 3, 100000), &err), &err);
	fine(disk_snapshot_take(d, "fuzz", &err), &err);
	fine(disk_write(d, at / 4, buf, min_u64(bytes - at / 4, 3000), &err), &err);
	if (seed & 2)
		fine(disk_snapshot_apply(d, "1", &err), &err);
	fine(disk_snapshot_delete(d, seed & 4 ? "fuzz" : "1", &err), &err);
	fine(disk_resize(d, (disk_bytes(d) + 70000) & ~511ull, &err), &err);
}

static void try_image(const char *path, const struct disk_options *o, unsigned seed)
{
	struct disk_snapshot *list;
	struct error err = {0};
	struct disk_info info;
	unsigned count;
	struct disk *d;

	if (!fine(disk_open(&d, path, o, &err), &err))
		return;
	fine(disk_info(d, &info, &err), &err);
	if (fine(disk_snapshots(d, &list, &count, &err), &err))
		disk_snapshots_free(list, count);
	if (o->read_only)
		check(d, DISK_REPAIR_NONE);
	else if (o->repair)
		check(d, DISK_REPAIR_ALL);
	else
		change(d, seed);
	read_all(d, 1 << 20);
	fine(disk_close(d, &err), &err);
}

static bool write_all(int fd, const uint8_t *data, size_t size)
{
	return pwrite(fd, data, size, 0) == (ssize_t)size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct disk_options read = {.read_only = true, .alone = true, .format = DISK_FORMAT_QCOW2},
					 write = {.alone = true, .format = DISK_FORMAT_QCOW2, .cache_bytes = 4096},
					 repair = {.alone = true, .format = DISK_FORMAT_QCOW2, .repair = true};
	int fd = memfd_create("image", MFD_CLOEXEC);
	char path[64];

	if (fd < 0 || size > FILE_MAX) {
		close(fd);
		return 0;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	must(write_all(fd, data, size));
	try_image(path, &read, 0);
	try_image(path, &write, size ? data[size / 2] : 0);
	try_image(path, &read, 0);
	try_image(path, &repair, 0);
	close(fd);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "fuzz_main.h"
#include "pick.h"

/* A compressed cluster behind the end of the image, and an L2 entry that leads to it. */
static size_t add_packed(uint8_t *image, size_t bytes, unsigned cluster_bits)
{
	uint64_t l1 = be64_at(image + Q2_H_L1_AT), l2 = l1 + 8 <= bytes ? be64_at(image + l1) & Q2_OFFSET : 0;
	uint8_t plain[4096] = {1, 2, 3};
	z_stream z = {.next_in = plain, .avail_in = 1u << cluster_bits, .next_out = image + bytes, .avail_out = 4096};

	if (!l2 || cluster_bits > 12 || bytes + 4096 > FILE_MAX)
		return bytes;
	must(deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) == Z_OK);
	must(deflate(&z, Z_FINISH) == Z_STREAM_END);
	deflateEnd(&z);
	put_be64(image + l2 + 8 * 3, Q2_COMPRESSED | bytes | (z.total_out / 512) << (62 - (cluster_bits - 8)));
	return bytes + (z.total_out + 1023) / 512 * 512;
}

/* A small image with something of everything. */
static size_t make_image(uint8_t *image)
{
	static const unsigned bits[] = {9, 9, 10, 12, 14, 16};
	unsigned cluster_bits = bits[pick64(6)];
	struct disk_create_options o = {.bytes = 512 * (1 + pick64(400)), .cluster_bytes = 1u << cluster_bits,
					.refcount_bits = 1u << pick64(7), .version = pick64(4) ? 3 : 2};
	struct disk_options qcow2 = {.format = DISK_FORMAT_QCOW2};
	char path[64];
	struct error err = {0};
	struct disk *d;
	ssize_t n;
	int fd;

	if (o.version == 2)
		o.refcount_bits = 16;
	snprintf(path, sizeof(path), "%s/fuzz-qcow2-%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", getpid());
	must(disk_create(path, &o, &err) == 0);
	must(disk_open(&d, path, &qcow2, &err) == 0);
	disk_write(d, 0, image, min_u64(o.bytes, 3000), &err);
	if (pick64(2))
		disk_snapshot_take(d, "1", &err);
	disk_write(d, o.bytes / 2, image, o.bytes - o.bytes / 2, &err);
	if (pick64(2))
		disk_snapshot_take(d, "two", &err);
	disk_write_zeroes(d, o.bytes / 4, o.bytes / 4, pick64(2), &err);
	must(disk_close(d, &err) == 0);
	fd = open(path, O_RDONLY);
	n = read(fd, image, FILE_MAX);
	close(fd);
	unlink(path);
	must(n > 0);
	if (pick64(4) == 0 && o.version == 3 && cluster_bits >= 14)
		image[Q2_H_INCOMPATIBLE + 7] |= Q2_EXTENDED_L2;
	return pick64(2) ? add_packed(image, (size_t)n, cluster_bits) : (size_t)n;
}

/* A number that means something somewhere. */
static uint64_t odd_number(unsigned cluster_bits, size_t bytes)
{
	switch (pick64(8)) {
	case 0:
		return pick64(4);
	case 1:
		return 1ull << pick64(64);
	case 2:
		return UINT64_MAX >> pick64(64);
	case 3:
		return pick64(UINT64_MAX);
	default: /* a cluster, or one that is nearly there, with flags */
		return pick64(bytes + 70000) >> cluster_bits << cluster_bits | (pick64(2) ? Q2_COPIED : 0) |
		       (pick64(8) ? 0 : Q2_COMPRESSED) | (pick64(8) ? 0 : 1);
	}
}

static size_t damage(uint8_t *image, size_t bytes)
{
	unsigned cluster_bits = be32_at(image + Q2_H_CLUSTER_BITS), cluster = 1u << cluster_bits;
	size_t at;

	for (uint64_t n = 1 + pick64(5); n; n--) {
		switch (pick64(6)) {
		case 0: /* the header */
			at = 4 * pick64(29);
			if (pick64(2))
				put_be32(image + at, (uint32_t)odd_number(cluster_bits, bytes));
			else
				put_be64(image + at, odd_number(cluster_bits, bytes));
			break;
		case 1:
		case 2: /* the beginning of some table */
			at = pick64(bytes / cluster + 1) * cluster + 8 * pick64(16);
			put_be64(image + at, odd_number(cluster_bits, bytes));
			break;
		case 3: /* anywhere */
			at = pick64(bytes / 8) * 8;
			put_be64(image + at, odd_number(cluster_bits, bytes));
			break;
		case 4:
			image[pick64(bytes)] ^= (uint8_t)(1u << pick64(8));
			break;
		case 5:
			if (pick64(8) == 0)
				bytes = max_u64(512, pick64(bytes));
			break;
		}
	}
	return bytes;
}

static void fuzz(uint64_t rounds, uint64_t seed)
{
	uint8_t *image = malloc(FILE_MAX + 8192), *copy = malloc(FILE_MAX + 8192);
	size_t bytes = 0, n;

	must(image && copy);
	random_state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		if (i % 16 == 0) {
			memset(image, (int)i, FILE_MAX);
			bytes = make_image(image);
		}
		memcpy(copy, image, bytes);
		n = damage(copy, bytes);
		LLVMFuzzerTestOneInput(copy, n);
	}
	printf("%llu images\n", (unsigned long long)rounds);
	free(image);
	free(copy);
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 2000, FILE_MAX, fuzz); }

#endif
