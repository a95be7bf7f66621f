/* Random numbers of the fuzzers that make up their own input: xorshift, one seed, one sequence. */
#ifndef GNOMON_FUZZ_PICK_H
#define GNOMON_FUZZ_PICK_H

#include <stdint.h>

static uint64_t random_state = 1;

static unsigned pick(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 33) % below;
}

#endif
