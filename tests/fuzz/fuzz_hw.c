/*
 * Fuzzing the reader of hardware descriptions. With clang -fsanitize=fuzzer this is
 * a libFuzzer target; without it a main() replays files, or changes the built-in
 * descriptions at random for a while:
 *
 *	fuzz_hw [-n ROUNDS] [-s SEED] [FILE...]
 *
 * Whatever is accepted must be a description the model can be built from.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "mmu/hw.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libconfig 1.5 loses the string it is in when the text ends or makes no sense. */
const char *__lsan_default_suppressions(void) { return "leak:libconfig"; }

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check_array(const struct hw_array *a)
{
	uint32_t sets = hw_array_sets(a);

	must(a->entries <= HW_ENTRIES_MAX);
	if (a->entries)
		must(a->ways && sets * a->ways == a->entries && !(sets & (sets - 1)));
}

static void check_tlb(const struct hw_tlb *t)
{
	unsigned seen = 0;

	must(t->arrays <= HW_ARRAYS_MAX);
	for (unsigned i = 0; i < t->arrays; i++) {
		check_array(&t->array[i]);
		must(t->array[i].entries && t->array[i].pages && !(t->array[i].pages & (seen | ~7u)));
		seen |= t->array[i].pages;
	}
}

static void check_caches(const struct hw *hw)
{
	must(hw->line >= 8 && hw->line <= 4096 && !(hw->line & (hw->line - 1)));
	for (unsigned i = 0; i < HW_MEMORY; i++) {
		const struct hw_cache *c = &hw->cache[i];
		uint64_t sets;

		if (!c->bytes)
			continue;
		must(c->ways);
		sets = c->bytes / c->ways / hw->line;
		must(sets && sets * c->ways * hw->line == c->bytes && !(sets & (sets - 1)));
	}
}

static void check(const struct hw *hw)
{
	must(*hw->name && memchr(hw->name, 0, sizeof(hw->name)) && memchr(hw->title, 0, sizeof(hw->title)));
	check_tlb(&hw->l1d);
	check_tlb(&hw->l1i);
	check_tlb(&hw->l2d);
	check_tlb(&hw->l2i);
	for (unsigned i = 2; i < HW_LEVELS; i++) {
		check_array(&hw->guest[i]);
		check_array(&hw->host[i]);
	}
	check_array(&hw->unified);
	check_array(&hw->nested_tlb);
	check_caches(hw);
	must(hw->cost.instruction > 0 && hw->cost.instruction <= 1000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size ? size : 1); /* of exactly this size, so that a read past it is seen */
	struct error err = {0};
	struct hw hw;

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	if (hw_parse(&hw, copy, size, "f", &err) == 0)
		check(&hw);
	else
		must(strncmp(err.text, "f:", 2) == 0 && !strchr(err.text, '\n')); /* one clear line */
	free(copy);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "fuzz_main.h"
#include "pick.h"

#define TEXT_BYTES 8192

/* Words that mean something, or nearly. */
static const char *random_word(uint64_t *s)
{
	static const char *const word[] = {
		"0", "1", "-1", "3", "64", "65536", "65537", "4294967295", "4294967296", "18446744073709551616", "0x7fffffff",
		"1.5", "1e300", "-0.0", "true", "\"all\"", "\"4k\"", "\"2m\"", "[\"1g\"]", "[]", "()", "{}", "{", "}", "(", ")",
		"[", "]", ";", "=", ":", ",", "\"", "\\", "#", "/*", "*/", "//", "\n@include \"x\"", "base = \"zen\";",
		"base = \"skylake\";", "base = \"\";", "ways = 0;", "entries = 0;", "entries = 12;", "pages = [\"4k\"];",
		"kind = \"none\";", "kind = \"unified\";", "line = 32;", "line = 7;", "bytes = 0;", "bytes = 96;",
		"exit = { default = 3; };", "exit = {};", "name = \"x\";", "\"\\x01\"", "\"\\n\"", "l2 = ();", "l2d = ();",
	};

	return word[next_random(s) % ARRAY_SIZE(word)];
}

/* Cuts a piece out of the text and puts @word there. */
static size_t replace(char *text, size_t bytes, size_t at, size_t cut, const char *word)
{
	size_t n = strlen(word);

	if (cut > bytes - at)
		cut = bytes - at;
	if (bytes - cut + n > TEXT_BYTES)
		return bytes;
	memmove(text + at + n, text + at + cut, bytes - at - cut);
	memcpy(text + at, word, n);
	return bytes - cut + n;
}

/* A number or word of the text, or any few bytes, becomes something else; sometimes a byte flips. */
static size_t mutate(char *text, size_t bytes, uint64_t *s)
{
	for (unsigned n = 1 + next_random(s) % 4; n && bytes; n--) {
		size_t at = next_random(s) % bytes, cut;

		switch (next_random(s) % 4) {
		case 0:
			text[at] ^= (char)(1u << next_random(s) % 8);
			break;
		case 1:
			bytes = replace(text, bytes, at, next_random(s) % 8, random_word(s));
			break;
		case 2:
			bytes = replace(text, bytes, at, next_random(s) % 64, "");
			break;
		default: /* the next value */
			while (at < bytes && text[at] != '=')
				at++;
			if (at == bytes)
				break;
			for (cut = 0, at++; at + cut < bytes && !strchr(";\n", text[at + cut]);)
				cut++;
			bytes = replace(text, bytes, at, cut, random_word(s));
		}
	}
	return bytes;
}

static void fuzz(uint64_t rounds, uint64_t seed)
{
	unsigned builtins = 0;

	while (hw_builtins[builtins].name)
		builtins++;
	for (uint64_t i = 0; i < rounds; i++) {
		uint64_t s = (seed + i) * 0x9e3779b97f4a7c15 | 1;
		const char *from = hw_builtins[next_random(&s) % builtins].text;
		char text[TEXT_BYTES];
		size_t bytes = strlen(from);

		must(bytes < sizeof(text));
		memcpy(text, from, bytes);
		bytes = mutate(text, bytes, &s);
		LLVMFuzzerTestOneInput((const uint8_t *)text, bytes);
	}
	printf("%llu descriptions\n", (unsigned long long)rounds);
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 10000, 1 << 17, fuzz); }

#endif
