/* base/arena.h */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/arena.h"
#include "base/util.h"

static const size_t sizes[] = {1, 64, 100, 4096, 3000000, 7, 2 << 20, 0, 1 << 20, 65};

/* What is allocated is zeros, aligned, and of nobody else, however large and however many chunks that takes. */
static void pieces_are_apart(void **state)
{
	for (unsigned huge = 0; huge < 2; huge++) {
		uint8_t *piece[ARRAY_SIZE(sizes)];
		struct arena a;

		arena_init(&a, huge);
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
			piece[i] = arena_alloc(&a, sizes[i], 1);
			assert_non_null(piece[i]);
			assert_int_equal((uintptr_t)piece[i] % 64, 0);
			for (size_t n = 0; n < sizes[i]; n++)
				assert_int_equal(piece[i][n], 0);
			memset(piece[i], (int)i + 1, sizes[i]);
		}
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
			for (size_t n = 0; n < sizes[i]; n++)
				assert_int_equal(piece[i][n], i + 1);
		arena_destroy(&a);
	}
	(void)state;
}

static void what_is_too_large_is_refused(void **state)
{
	struct arena a;

	(void)state;
	arena_init(&a, true);
	assert_null(arena_alloc(&a, SIZE_MAX / 4, 8));
	assert_null(arena_alloc(&a, SIZE_MAX, 1));
	assert_null(arena_alloc(&a, SIZE_MAX / 2, 1)); /* no host has so many addresses */
	assert_non_null(arena_alloc(&a, 10, 10));
	arena_destroy(&a);
	a = (struct arena){0};
	arena_destroy(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_are_apart),
		cmocka_unit_test(what_is_too_large_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
