/* Messages are one line, whatever is in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/error.h"

static void nothing_commands_a_terminal(void **state)
{
	struct error err = {0};

	(void)state;
	assert_int_equal(error_set(&err, -EINVAL, "%s: %s", "a\nb\x1b[31m", "\x7f\xc2\x9b\xc3\xa9\xc2\xa0"), -EINVAL);
	assert_string_equal(err.text, "a?b?[31m: ???\xc3\xa9\xc2\xa0");
	assert_int_equal(err.code, -EINVAL);
	assert_int_equal(error_set(NULL, -EIO, "x"), -EIO);
}

static void long_texts_are_cut(void **state)
{
	struct error err = {0};
	char text[2 * sizeof(err.text)];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	error_set(&err, -EIO, "%s", text);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_commands_a_terminal),
		cmocka_unit_test(long_texts_are_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
