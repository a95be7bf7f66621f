/* Random numbers of the fuzzers that make up their own input: xorshift, one seed, one sequence. */
#ifndef GNOMON_FUZZ_PICK_H
#define GNOMON_FUZZ_PICK_H

#include <stdint.h>

static uint64_t random_state = 1;

/* The next of the sequence that @state, which is not 0, is at. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline unsigned pick(unsigned below) { return (unsigned)(next_random(&random_state) >> 33) % below; }
static inline uint64_t pick64(uint64_t below) { return (next_random(&random_state) >> 11) % below; }

#endif
