/*
 * Workloads that use virtio devices: gnomon-work NAME [N [M]]. A name it does not know is one of the ordinary
 * workloads (work.c).
 *
 *   disk N M    N MiB on disk M (0: /dev/vda): written, read back past the page cache, compared, then partly
 *               discarded and zeroed
 *   end N M     writes the last N MiB of disk M
 *   sum N M     reads the first N MiB of disk M and prints a checksum
 *   rng N       reads N KiB of entropy
 *   fs N M      makes files of N KiB on the ext4 file system of disk M and reads them back
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 65536

static int fail(const char *what)
{
	fprintf(stderr, "gnomon-work: %s: %s\n", what, errno ? strerror(errno) : "wrong data");
	return 1;
}

static int open_disk(unsigned number, int flags)
{
	char path[] = "/dev/vda";

	path[7] = (char)('a' + number % 26);
	return open(path, flags | O_CLOEXEC);
}

/* Data that says where it belongs. */
static void fill(uint64_t *to, uint64_t at)
{
	for (unsigned i = 0; i < CHUNK / 8; i++)
		to[i] = (at + 8 * i) * 0x9e3779b97f4a7c15 + 1;
}

static bool is_zero(const uint64_t *p)
{
	for (unsigned i = 0; i < CHUNK / 8; i++)
		if (p[i])
			return false;
	return true;
}

static bool same(int fd, uint64_t at, bool zero, uint64_t *want, uint64_t *got)
{
	fill(want, at);
	errno = 0;
	if (pread(fd, got, CHUNK, (off_t)at) != CHUNK)
		return false;
	return zero ? is_zero(got) : !memcmp(want, got, CHUNK);
}

static int work_disk(unsigned mib, unsigned number)
{
	uint64_t bytes = (uint64_t)mib << 20, range[2] = {bytes / 2, bytes / 4};
	uint64_t *want = aligned_alloc(4096, CHUNK), *got = aligned_alloc(4096, CHUNK);
	int fd = open_disk(number, O_RDWR), direct = open_disk(number, O_RDONLY | O_DIRECT);

	if (fd < 0 || direct < 0 || !want || !got)
		return fail("cannot open the disk");
	for (uint64_t at = 0; at < bytes; at += CHUNK) {
		fill(want, at);
		if (pwrite(fd, want, CHUNK, (off_t)at) != CHUNK)
			return fail("write");
	}
	if (fsync(fd))
		return fail("fsync");
	for (uint64_t at = 0; at < bytes; at += CHUNK)
		if (!same(direct, at, false, want, got))
			return fail("read back");
	if (ioctl(fd, BLKZEROOUT, range))
		return fail("write zeroes");
	for (uint64_t at = range[0]; at < range[0] + range[1]; at += CHUNK)
		if (!same(direct, at, true, want, got))
			return fail("zeroes");
	range[0] += range[1];
	if (ioctl(fd, BLKDISCARD, range))
		return fail("discard");
	for (uint64_t at = 0; at < bytes / 2; at += CHUNK)
		if (!same(direct, at, false, want, got))
			return fail("what was to stay");
	return 0;
}

static int work_end(unsigned mib, unsigned number)
{
	uint64_t *data = aligned_alloc(4096, CHUNK), from;
	int fd = open_disk(number, O_WRONLY);
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

	if (end < (off_t)mib << 20 || !data)
		return fail("cannot open the disk");
	from = (uint64_t)end - ((uint64_t)mib << 20);
	for (uint64_t at = from; at < (uint64_t)end; at += CHUNK) {
		fill(data, at);
		if (pwrite(fd, data, CHUNK, (off_t)at) != CHUNK)
			return fail("write");
	}
	return fsync(fd) ? fail("fsync") : 0;
}

static int work_sum(unsigned mib, unsigned number)
{
	uint64_t *data = aligned_alloc(4096, CHUNK), sum = 0;
	int fd = open_disk(number, O_RDONLY);

	if (fd < 0 || !data)
		return fail("cannot open the disk");
	for (uint64_t at = 0; at < (uint64_t)mib << 20; at += CHUNK) {
		if (pread(fd, data, CHUNK, (off_t)at) != CHUNK)
			return fail("read");
		for (unsigned i = 0; i < CHUNK / 8; i++)
			sum = (sum ^ data[i]) * 0x100000001b3;
	}
	printf("sum %016llx\n", (unsigned long long)sum);
	return 0;
}

static int work_rng(unsigned kib)
{
	unsigned char data[1024];
	unsigned count[256] = {0};
	int fd = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail("/dev/hwrng");
	for (unsigned k = 0; k < kib; k++) {
		for (size_t have = 0; have < sizeof(data);) {
			ssize_t n = read(fd, data + have, sizeof(data) - have);

			if (n <= 0)
				return fail("/dev/hwrng");
			have += (size_t)n;
		}
		for (unsigned i = 0; i < sizeof(data); i++)
			count[data[i]]++;
	}
	/* No value is missing or has more than four times its share. */
	for (unsigned i = 0; i < 256; i++)
		if (kib >= 16 && (!count[i] || count[i] > 16 * kib)) {
			errno = 0;
			return fail("entropy");
		}
	return 0;
}

static int work_fs(unsigned kib, unsigned number)
{
	uint64_t *want = aligned_alloc(4096, CHUNK), *got = aligned_alloc(4096, CHUNK);
	char device[] = "/dev/vda";
	int fd;

	device[7] = (char)('a' + number % 26);
	if (!want || !got || mount(device, "/mnt", "ext4", 0, NULL))
		return fail("mount");
	fd = open("/mnt/file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail("create");
	for (uint64_t at = 0; at < (uint64_t)kib << 10; at += CHUNK) {
		fill(want, at);
		if (pwrite(fd, want, CHUNK, (off_t)at) != CHUNK)
			return fail("write");
	}
	close(fd);
	if (umount("/mnt") || mount(device, "/mnt", "ext4", MS_RDONLY, NULL))
		return fail("mount again");
	fd = open("/mnt/file", O_RDONLY | O_CLOEXEC);
	for (uint64_t at = 0; at < (uint64_t)kib << 10; at += CHUNK)
		if (fd < 0 || !same(fd, at, false, want, got))
			return fail("read back");
	close(fd);
	return umount("/mnt") ? fail("umount") : 0;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	unsigned n = argc > 2 ? (unsigned)atoi(argv[2]) : 1, m = argc > 3 ? (unsigned)atoi(argv[3]) : 0;

	if (!strcmp(name, "disk"))
		return work_disk(n, m);
	if (!strcmp(name, "end"))
		return work_end(n, m);
	if (!strcmp(name, "sum"))
		return work_sum(n, m);
	if (!strcmp(name, "rng"))
		return work_rng(n);
	if (!strcmp(name, "fs"))
		return work_fs(n, m);
	execv("/bin/gnomon-work-cpu", argv);
	return fail("/bin/gnomon-work-cpu");
}
