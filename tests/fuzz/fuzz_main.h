/*
 * What a libFuzzer target does as a program of its own: FUZZER [-n ROUNDS] [-s SEED] [FILE...]. It replays files, or makes
 * input up.
 */
#ifndef GNOMON_FUZZ_MAIN_H
#define GNOMON_FUZZ_MAIN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The file, up to @most bytes of it, is one input. 0, or 1: it cannot be read. */
static int fuzz_replay(const char *path, size_t most)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data = malloc(most);
	size_t n;

	if (!f || !data) {
		perror(path);
		free(data);
		return 1;
	}
	n = fread(data, 1, most, f);
	fclose(f);
	LLVMFuzzerTestOneInput(data, n);
	free(data);
	return 0;
}

/*
 * @rounds: without -n; @most: bytes of a file that are read
 * @make_up: tries so many made-up inputs. @seed is odd.
 * Returns the exit status.
 */
static inline int fuzz_main(int argc, char **argv, uint64_t rounds, size_t most,
			    void (*make_up)(uint64_t rounds, uint64_t seed))
{
	uint64_t seed = 1;
	int c, failed = 0;

	while ((c = getopt(argc, argv, "n:s:")) != -1) {
		if (c == 'n')
			rounds = strtoull(optarg, NULL, 0);
		else if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else
			return 2;
	}
	if (optind == argc)
		make_up(rounds, seed * 0x9e3779b97f4a7c15 | 1);
	for (int i = optind; i < argc; i++)
		failed |= fuzz_replay(argv[i], most);
	return failed;
}

#endif
