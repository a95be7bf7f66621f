/* Bitmaps in words of 64 bits: bit n is bit n % 64 of word n / 64. Bits behind the last one that counts stay clear. */
#ifndef GNOMON_BASE_BITMAP_H
#define GNOMON_BASE_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

static inline bool bitmap_has(const uint64_t *b, uint64_t n) { return b[n / 64] >> (n % 64) & 1; }
static inline void bitmap_set(uint64_t *b, uint64_t n) { b[n / 64] |= 1ull << (n % 64); }
static inline void bitmap_clear(uint64_t *b, uint64_t n) { b[n / 64] &= ~(1ull << (n % 64)); }
/* Words for so many bits. */
static inline uint64_t bitmap_words(uint64_t bits) { return bits / 64 + (bits % 64 != 0); }
/* How many are set. */
uint64_t bitmap_count(const uint64_t *b, uint64_t words);
/* The first one set from @from on; @bits if there is none. */
uint64_t bitmap_next(const uint64_t *b, uint64_t from, uint64_t bits);
/* Sets the first @bits. */
void bitmap_fill(uint64_t *b, uint64_t bits);

#endif
