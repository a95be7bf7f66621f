/* See bitmap.h. */
#include "base/bitmap.h"
#include "base/util.h"

uint64_t bitmap_count(const uint64_t *b, uint64_t words)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < words; i++)
		n += (uint64_t)__builtin_popcountll(b[i]);
	return n;
}

uint64_t bitmap_next(const uint64_t *b, uint64_t from, uint64_t bits)
{
	uint64_t word;

	if (from >= bits)
		return bits;
	word = b[from / 64] & ~0ull << from % 64;
	for (from &= ~63ull; !word;) {
		from += 64;
		if (from >= bits)
			return bits;
		word = b[from / 64];
	}
	return min_u64(from + (uint64_t)__builtin_ctzll(word), bits);
}

void bitmap_fill(uint64_t *b, uint64_t bits)
{
	memset(b, 0xff, bits / 64 * 8);
	if (bits % 64)
		b[bits / 64] = (1ull << bits % 64) - 1;
}
