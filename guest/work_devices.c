/*
 * Workloads that use virtio devices: gnomon-work NAME [N [M]]. A name it does not know is one of the ordinary
 * workloads (work.c).
 *
 *   disk N M    N MiB on disk M (0: /dev/vda): written, read back past the page cache, compared, then partly
 *               discarded and zeroed
 *   end N M     writes the last N MiB of disk M
 *   sum N M     reads the first N MiB of disk M and prints a checksum
 *   rng N       reads N KiB of entropy
 *   net N M     M KiB to port N of 10.0.2.2, which sends them back; own address 10.0.2.15
 *   peer N M    one of two guests on a cable: 1 listens and sends back, 2 sends M KiB; addresses 10.9.0.N
 *   balloon N   waits until N MiB of the guest's memory are no longer free
 *   console N   writes N lines to /dev/hvc0
 *   fs N M      makes files of N KiB on the ext4 file system of disk M and reads them back
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
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

/* ---- network ---- */

static struct sockaddr_in address(const char *text, unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	inet_pton(AF_INET, text, &a.sin_addr);
	return a;
}

static int bring_up(const char *own)
{
	struct ifreq rq = {.ifr_name = "eth0"};
	struct sockaddr_in a = address(own, 0);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	memcpy(&rq.ifr_addr, &a, sizeof(a));
	if (fd < 0 || ioctl(fd, SIOCSIFADDR, &rq))
		return -1;
	a = address("255.255.255.0", 0);
	memcpy(&rq.ifr_netmask, &a, sizeof(a));
	if (ioctl(fd, SIOCSIFNETMASK, &rq))
		return -1;
	rq.ifr_flags = IFF_UP | IFF_RUNNING;
	return ioctl(fd, SIOCSIFFLAGS, &rq);
}

/* The other end may not be there yet. */
static int reach(const struct sockaddr_in *to)
{
	for (int tries = 0; tries < 50; tries++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to)) == 0)
			return fd;
		close(fd);
		usleep(200000);
	}
	return -1;
}

static bool all(int fd, char *data, size_t bytes, bool send)
{
	while (bytes) {
		ssize_t n = send ? write(fd, data, bytes) : read(fd, data, bytes);

		if (n <= 0)
			return false;
		data += n;
		bytes -= (size_t)n;
	}
	return true;
}

/* Sends and gets back in pieces that the two ends' buffers can hold. */
static int converse(int fd, unsigned kib)
{
	uint64_t *want = malloc(CHUNK), *got = malloc(CHUNK);

	if (fd < 0 || !want || !got)
		return fail("connect");
	for (uint64_t at = 0; at < (uint64_t)kib << 10; at += 8192) {
		fill(want, at);
		errno = 0;
		if (!all(fd, (char *)want, 8192, true) || !all(fd, (char *)got, 8192, false) || memcmp(want, got, 8192))
			return fail("what came back");
	}
	close(fd);
	return 0;
}

static int work_net(unsigned port, unsigned kib)
{
	struct sockaddr_in to = address("10.0.2.2", port);

	if (bring_up("10.0.2.15"))
		return fail("eth0");
	return converse(reach(&to), kib);
}

static int send_back(void)
{
	struct sockaddr_in at = address("10.9.0.1", 7);
	int fd = socket(AF_INET, SOCK_STREAM, 0), peer;
	char data[8192];
	ssize_t n;

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 1))
		return fail("listen");
	peer = accept(fd, NULL, NULL);
	while ((n = read(peer, data, sizeof(data))) > 0)
		if (!all(peer, data, (size_t)n, true))
			return fail("send back");
	return peer < 0 || n < 0 ? fail("connection") : 0;
}

static int work_peer(unsigned number, unsigned kib)
{
	struct sockaddr_in to = address("10.9.0.1", 7);

	if (bring_up(number == 1 ? "10.9.0.1" : "10.9.0.2"))
		return fail("eth0");
	return number == 1 ? send_back() : converse(reach(&to), kib);
}

/* ---- the others ---- */

static long meminfo_kib(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "r");
	long kib = -1;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			kib = strtol(line + strlen(key), NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

/* The balloon has been filling since the module was loaded. */
static int work_balloon(unsigned mib)
{
	long total = meminfo_kib("MemTotal:");
	char *memory = malloc(8 << 20);
	int tries;

	for (tries = 0; tries < 100 && meminfo_kib("MemFree:") > total - ((long)mib << 10); tries++)
		usleep(100000);
	errno = 0;
	if (total < 0 || tries == 100)
		return fail("the balloon does not grow");
	/* What is left works. */
	if (!memory)
		return fail("malloc");
	for (unsigned i = 0; i < 8 << 20; i += 4096)
		memory[i] = (char)(i >> 12);
	for (unsigned i = 0; i < 8 << 20; i += 4096)
		if (memory[i] != (char)(i >> 12))
			return fail("memory");
	return 0;
}

static int work_console(unsigned lines)
{
	FILE *f = fopen("/dev/hvc0", "w");

	if (!f)
		return fail("/dev/hvc0");
	for (unsigned i = 0; i < lines; i++)
		fprintf(f, "line %u of %u\n", i + 1, lines);
	return fclose(f) ? fail("/dev/hvc0") : 0;
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
	if (!strcmp(name, "net"))
		return work_net(n, m);
	if (!strcmp(name, "peer"))
		return work_peer(n, m);
	if (!strcmp(name, "balloon"))
		return work_balloon(n);
	if (!strcmp(name, "console"))
		return work_console(n);
	if (!strcmp(name, "fs"))
		return work_fs(n, m);
	execv("/bin/gnomon-work-cpu", argv);
	return fail("/bin/gnomon-work-cpu");
}
