/*
 * Mixed random reads and writes of a file, all of it verified: gnomon-mixedio FILE MIB OPERATIONS
 *
 * Each block of 4 KiB says where it belongs and how often it was written, in every word; this program remembers the
 * latter. An operation reads or writes 1 to 16 blocks at a random place, through the page cache or past it (O_DIRECT),
 * so that both have to agree; now and then it flushes, or gives back the blocks to the file system (a hole reads as
 * zeros). In the end everything is read past the page cache. The sequence of operations is the same in every run.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK      4096u
#define WORDS      (BLOCK / sizeof(uint64_t))
#define BLOCKS_MAX 16u /* of an operation */
#define FILE_MAX   1024u /* MiB */

struct file {
	const char *name;
	int fd[2];            /* through the page cache, past it */
	uint32_t *written;    /* how often each block was; 0: it is zeros */
	uint32_t blocks;
	uint64_t *buffer;
	unsigned long reads, writes, holes, flushes, kib;
};

static bool fail(const char *what, const char *name)
{
	fprintf(stderr, "gnomon-mixedio: %s: %s: %s\n", name, what, strerror(errno));
	return false;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t word_of(uint32_t block, uint32_t written, unsigned i)
{
	return written ? ((uint64_t)block << 32 | written) * 0x9e3779b97f4a7c15 + i : 0;
}

static bool read_blocks(struct file *f, int fd, uint32_t first, uint32_t n)
{
	if (pread(fd, f->buffer, (size_t)n * BLOCK, (off_t)first * BLOCK) != (ssize_t)n * BLOCK)
		return fail("read", f->name);
	for (uint32_t b = 0; b < n; b++)
		for (unsigned i = 0; i < WORDS; i++)
			if (f->buffer[b * WORDS + i] != word_of(first + b, f->written[first + b], i)) {
				fprintf(stderr, "gnomon-mixedio: %s: block %u, written %u times, has wrong data\n", f->name,
					first + b, f->written[first + b]);
				return false;
			}
	f->reads++;
	return true;
}

static bool write_blocks(struct file *f, int fd, uint32_t first, uint32_t n)
{
	for (uint32_t b = 0; b < n; b++) {
		f->written[first + b]++;
		for (unsigned i = 0; i < WORDS; i++)
			f->buffer[b * WORDS + i] = word_of(first + b, f->written[first + b], i);
	}
	if (pwrite(fd, f->buffer, (size_t)n * BLOCK, (off_t)first * BLOCK) != (ssize_t)n * BLOCK)
		return fail("write", f->name);
	f->writes++;
	return true;
}

static bool make_hole(struct file *f, uint32_t first, uint32_t n)
{
	if (fallocate(f->fd[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first * BLOCK, (off_t)n * BLOCK))
		return fail("punch a hole", f->name);
	memset(f->written + first, 0, n * sizeof(*f->written));
	f->holes++;
	return true;
}

static bool flush(struct file *f)
{
	f->flushes++;
	return fdatasync(f->fd[0]) ? fail("flush", f->name) : true;
}

static bool operate(struct file *f, uint64_t r)
{
	uint32_t n = 1 + (uint32_t)(r >> 8) % BLOCKS_MAX, first = (uint32_t)((r >> 16) % (f->blocks - n + 1));
	int fd = f->fd[r >> 7 & 1];
	unsigned kind = r & 127;

	if (kind < 2)
		return make_hole(f, first, n);
	if (kind < 4)
		return flush(f);
	f->kib += n * BLOCK / 1024;
	return kind < 64 ? write_blocks(f, fd, first, n) : read_blocks(f, fd, first, n);
}

static bool open_file(struct file *f, const char *name, uint32_t mib)
{
	f->name = name;
	f->blocks = mib * (1024 * 1024 / BLOCK);
	f->written = calloc(f->blocks, sizeof(*f->written));
	f->buffer = aligned_alloc(BLOCK, BLOCKS_MAX * BLOCK);
	f->fd[0] = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	f->fd[1] = open(name, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (!f->written || !f->buffer || f->fd[0] < 0 || f->fd[1] < 0)
		return fail("open", name);
	return ftruncate(f->fd[0], (off_t)f->blocks * BLOCK) ? fail("set the size", name) : true;
}

static bool verify_all(struct file *f)
{
	if (!flush(f))
		return false;
	for (uint32_t b = 0; b < f->blocks; b += BLOCKS_MAX)
		if (!read_blocks(f, f->fd[1], b, BLOCKS_MAX))
			return false;
	return true;
}

int main(int argc, char **argv)
{
	unsigned long mib = argc == 4 ? strtoul(argv[2], NULL, 10) : 0;
	unsigned long operations = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
	uint64_t state = 0x2545f4914f6cdd1d;
	struct file f = {.kib = 0};

	if (!mib || mib > FILE_MAX || !operations) {
		fprintf(stderr, "usage: gnomon-mixedio FILE MIB OPERATIONS (MIB from 1 to %u)\n", FILE_MAX);
		return 2;
	}
	if (!open_file(&f, argv[1], (uint32_t)mib))
		return 1;
	for (unsigned long i = 0; i < operations; i++)
		if (!operate(&f, next_random(&state)))
			return 1;
	if (!verify_all(&f))
		return 1;
	printf("mixed I/O: %lu operations of %lu KiB in all, then %lu MiB read: %lu reads, %lu writes, %lu holes, "
	       "%lu flushes, all verified\n", operations, f.kib, mib, f.reads, f.writes, f.holes, f.flushes);
	return 0;
}
