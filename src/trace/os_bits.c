/* Sets of numbers as bit maps with summaries. A search goes up until a summary has something, then down again. */
#include "trace/os_bits.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int os_bits_init(struct os_bits *b, uint64_t bits)
{
	uint64_t words = bits;

	assert(bits && bits <= 1ull << (6 * OS_BITS_LEVELS));
	*b = (struct os_bits){.bits = bits};
	do {
		words = (words + 63) / 64;
		b->words[b->levels] = words;
		b->level[b->levels] = calloc(words, sizeof(uint64_t));
		if (!b->level[b->levels++]) {
			os_bits_free(b);
			return -ENOMEM;
		}
	} while (words > 1);
	return 0;
}

void os_bits_free(struct os_bits *b)
{
	for (unsigned i = 0; i < b->levels; i++)
		free(b->level[i]);
	*b = (struct os_bits){0};
}

/* Word @w of level @level - 1 is not 0 any more, or is 0 now. */
static void note(struct os_bits *b, unsigned level, uint64_t w, bool some)
{
	for (; level < b->levels; level++, w /= 64) {
		uint64_t *word = &b->level[level][w / 64], before = *word;

		*word = some ? before | 1ull << w % 64 : before & ~(1ull << w % 64);
		if (!before == !*word)
			return;
	}
}

void os_bits_set(struct os_bits *b, uint64_t n, uint64_t count, bool member)
{
	for (uint64_t end = n + count, next; n < end; n = next) {
		uint64_t w = n / 64, *word = &b->level[0][w], before = *word, mask;

		next = min_u64((w + 1) * 64, end);
		mask = ~0ull >> (64 - (next - n)) << n % 64;
		*word = member ? before | mask : before & ~mask;
		if (!before != !*word)
			note(b, 1, w, member);
	}
}

uint64_t os_bits_next(const struct os_bits *b, uint64_t n)
{
	for (unsigned i = 0; i < b->levels && n / 64 < b->words[i]; i++, n = n / 64 + 1) {
		uint64_t word = b->level[i][n / 64] >> n % 64;

		if (!word)
			continue;
		n += (unsigned)__builtin_ctzll(word);
		while (i-- > 0)
			n = n * 64 + (unsigned)__builtin_ctzll(b->level[i][n]);
		return n;
	}
	return OS_BITS_NONE;
}

uint64_t os_bits_last(const struct os_bits *b)
{
	uint64_t n = 0;

	if (!b->level[b->levels - 1][0])
		return OS_BITS_NONE;
	for (unsigned i = b->levels; i-- > 0;)
		n = n * 64 + 63 - (unsigned)__builtin_clzll(b->level[i][n]);
	return n;
}

uint64_t os_bits_next_gap(const struct os_bits *b, uint64_t n)
{
	while (n < b->bits) {
		uint64_t word = ~b->level[0][n / 64] >> n % 64;

		if (word) {
			n += (unsigned)__builtin_ctzll(word);
			return n < b->bits ? n : OS_BITS_NONE;
		}
		n = (n / 64 + 1) * 64;
	}
	return OS_BITS_NONE;
}

uint64_t os_bits_find_gap(const struct os_bits *b, uint64_t n, uint64_t align)
{
	for (uint64_t at = 0, end;; at = end) {
		at = os_bits_next_gap(b, at);
		if (at == OS_BITS_NONE)
			return OS_BITS_NONE;
		at = (at + align - 1) & ~(align - 1);
		if (at >= b->bits || n > b->bits - at)
			return OS_BITS_NONE;
		end = os_bits_next(b, at);
		if (end == OS_BITS_NONE || end - at >= n)
			return at;
	}
}
