/* gnomon disk bench: how fast a disk is read or written. */
#ifndef GNOMON_CLI_DISK_BENCH_H
#define GNOMON_CLI_DISK_BENCH_H

#include "cli/cli.h"
#include "disk/disk.h"

struct disk_bench {
	bool write, random, json;
	uint64_t block;       /* bytes of an access */
	uint64_t total;       /* bytes in all */
	uint64_t step;        /* bytes from one access to the next; 0: as they lie, or at random */
	uint64_t flush_every; /* accesses; 0: only at the end */
	uint64_t seed;
};

extern const struct disk_bench disk_bench_default;
extern const struct option_desc disk_bench_options[]; /* ctx: struct disk_bench */

/* Runs it. @seconds: what it took, with a flush at the end of writing. Errors as in disk.h. */
int disk_bench_run(const struct disk_bench *b, struct disk *d, double *seconds, struct error *err);
void disk_bench_print(const struct disk_bench *b, struct disk *d, double seconds, bool json);

#endif
