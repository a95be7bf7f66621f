/* See disk_bench.h. Accesses one after the other, as a guest with one request under way makes them. */
#include "cli/disk_bench.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

const struct disk_bench disk_bench_default = {.block = 4096, .total = 256ull << 20, .seed = 1};

static int set_write(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct disk_bench *)ctx)->write = true;
	return 0;
}

static int set_random(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct disk_bench *)ctx)->random = true;
	return 0;
}

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct disk_bench *)ctx)->json = true;
	return 0;
}

static int set_block(void *ctx, const char *v, struct error *err)
{
	struct disk_bench *b = ctx;
	int ret = parse_size("block", v, &b->block, err);

	if (ret == 0 && (b->block < 512 || b->block > 1ull << 30))
		ret = error_set(err, -EINVAL, "--block '%s': from 512 bytes to 1G", v);
	return ret;
}

static int set_total(void *ctx, const char *v, struct error *err)
{
	return parse_size("total", v, &((struct disk_bench *)ctx)->total, err);
}

static int set_step(void *ctx, const char *v, struct error *err)
{
	return parse_size("step", v, &((struct disk_bench *)ctx)->step, err);
}

static int set_flush_every(void *ctx, const char *v, struct error *err)
{
	return parse_count("flush-every", v, &((struct disk_bench *)ctx)->flush_every, err);
}

static int set_seed(void *ctx, const char *v, struct error *err)
{
	return parse_count("seed", v, &((struct disk_bench *)ctx)->seed, err);
}

const struct option_desc disk_bench_options[] = {
	{"write", NULL, "write; what was there is lost. Otherwise only read", set_write},
	{"random", NULL, "at random, otherwise one behind the other", set_random},
	{"step", "SIZE", "each access so far behind the one before, beginning anew at the end of the disk\n"
			"(default: one behind the other)", set_step},
	{"block", "SIZE", "bytes of an access (default 4K)", set_block},
	{"total", "SIZE", "bytes in all (default 256M)", set_total},
	{"flush-every", "N", "flush after every N writes (default: once at the end)", set_flush_every},
	{"seed", "N", "of the places (default 1)", set_seed},
	{"json", NULL, "print JSON", set_json},
	{0},
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int run(const struct disk_bench *b, struct disk *d, uint8_t *buf, struct error *err)
{
	uint64_t blocks = disk_bytes(d) / b->block, r = b->seed * 0x9e3779b97f4a7c15 | 1, at;
	int ret = 0;

	for (uint64_t i = 0; i < b->total / b->block && !ret; i++) {
		r ^= r << 13;
		r ^= r >> 7;
		r ^= r << 17;
		at = b->step ? i * b->step % (blocks * b->block) : (b->random ? r >> 11 : i) % blocks * b->block;
		at = min_u64(at, (blocks - 1) * b->block);
		ret = b->write ? disk_write(d, at, buf, b->block, err) : disk_read(d, at, buf, b->block, err);
		if (!ret && b->write && b->flush_every && (i + 1) % b->flush_every == 0)
			ret = disk_flush(d, err);
	}
	return ret || !b->write ? ret : disk_flush(d, err);
}

int disk_bench_run(const struct disk_bench *b, struct disk *d, double *seconds, struct error *err)
{
	uint8_t *buf;
	int ret;

	if (disk_bytes(d) < b->block)
		return error_set(err, -EINVAL, "%s: smaller than a block of %" PRIu64 " bytes", disk_path(d), b->block);
	buf = malloc(b->block);
	if (!buf)
		return error_set(err, -ENOMEM, "%s: out of memory", disk_path(d));
	memset(buf, 0xa5, b->block);
	*seconds = now();
	ret = run(b, d, buf, err);
	*seconds = now() - *seconds;
	free(buf);
	return ret;
}

void disk_bench_print(const struct disk_bench *b, struct disk *d, double seconds, bool json)
{
	uint64_t n = b->total / b->block;
	double rate = (double)n / seconds, mib = rate * (double)b->block / (1 << 20);

	if (json)
		printf("{\"accesses\": %" PRIu64 ", \"block\": %" PRIu64 ", \"seconds\": %.6f, \"per_second\": %.1f, "
		       "\"mib_per_second\": %.2f}\n", n, b->block, seconds, rate, mib);
	else
		printf("%s: %" PRIu64 " %s %s of %" PRIu64 " bytes in %.3f s: %.0f a second, %.1f MiB/s\n",
		       disk_path(d), n,
		       b->random ? "random"
		       : b->step ? "scattered"
		                 : "sequential",
		       b->write ? "writes" : "reads", b->block, seconds, rate, mib);
}
