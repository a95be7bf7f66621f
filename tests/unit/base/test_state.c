/* Structs as self-describing bytes: what is saved comes back, equal structs are equal bytes, and nothing else is loaded. */
#include "base/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

enum colour { RED, GREEN, BLUE };

struct inner {
	uint16_t port;
	bool on;
	uint32_t low, high; /* low <= high */
};

struct outer {
	uint8_t tiny;
	uint64_t huge;
	int64_t below_zero;
	enum colour colour;
	bool flags[3];
	void *host; /* not state */
	uint8_t data[5];
	uint32_t words[4];
	struct inner one, many[2];
	uint16_t queue[6];
	unsigned queued;
	bool prepared;
};

static int check_inner(void *object, struct error *err)
{
	const struct inner *i = object;

	return i->low <= i->high ? 0 : error_set(err, -EINVAL, "inner: low %u, high %u", i->low, i->high);
}

static const struct state_field inner_fields[] = {
	STATE_U_MAX(struct inner, port, 1000), STATE_B(struct inner, on), STATE_U(struct inner, low),
	STATE_U(struct inner, high),
};
static const struct state_desc inner_desc = STATE_DESC("inner", 1, inner_fields, .check = check_inner);

static void prepare_outer(void *object) { ((struct outer *)object)->prepared = true; }

static const struct state_field outer_fields[] = {
	STATE_U(struct outer, tiny), STATE_U(struct outer, huge), STATE_UV_USED(struct outer, queue, queued),
	STATE_U(struct outer, below_zero),
	STATE_U_MAX(struct outer, colour, BLUE), STATE_BV(struct outer, flags), STATE_DATA(struct outer, data),
	STATE_UV_MAX(struct outer, words, 99), STATE_S(struct outer, one, &inner_desc),
	STATE_SV(struct outer, many, &inner_desc),
};
static const struct state_desc outer_desc = STATE_DESC("outer", 3, outer_fields, .prepare = prepare_outer);

static const struct outer example = {
	.tiny = 7, .huge = 0xfedcba9876543210, .below_zero = -5, .colour = GREEN, .flags = {true, false, true},
	.data = {1, 2, 3, 4, 5}, .words = {0, 9, 98, 99}, .one = {1000, true, 3, 4},
	.many = {{1, false, 0, 0}, {2, true, 1, 0xffffffff}}, .queue = {11, 22, 33}, .queued = 3,
};

static struct state_buffer save(const struct outer *what)
{
	struct outer o = *what;
	struct state_buffer b = {0};

	assert_int_equal(state_save(&outer_desc, &o, &b, NULL), 0);
	assert_true(o.prepared);
	return b;
}

static void there_and_back(void **state)
{
	struct state_buffer b = save(&example), again;
	struct outer o;

	(void)state;
	memset(&o, 0xa5, sizeof(o));
	o.host = &o;
	assert_int_equal(state_load(&outer_desc, &o, b.data, b.bytes, NULL), 0);
	assert_ptr_equal(o.host, &o);
	assert_true(o.huge == example.huge && o.below_zero == -5);
	assert_int_equal(o.colour, GREEN);
	assert_int_equal(o.queued, 3);
	assert_int_equal(o.queue[2], 33);
	assert_int_equal(o.queue[5], 0);
	assert_memory_equal(o.many, example.many, sizeof(o.many[0].port));
	assert_int_equal(o.many[1].high, 0xffffffff);
	/* Padding, and what is no state, leave no trace: the same bytes. */
	again = save(&o);
	assert_int_equal(again.bytes, b.bytes);
	assert_memory_equal(again.data, b.data, b.bytes);
	state_buffer_free(&again);
	state_buffer_free(&b);
}

/* Names are part of the form: so is what they are followed by. */
static void form(void **state)
{
	struct inner i = {0x1234 & 0x3ff, true, 1, 2};
	static const uint8_t expected[] = "\x05inner\x01\x00\x04\x00"
					  "\x04port\x00\x02\x01\x00\x00\x00\x34\x02"
					  "\x02on\x01\x01\x01\x00\x00\x00\x01"
					  "\x03low\x00\x04\x01\x00\x00\x00\x01\x00\x00\x00"
					  "\x04high\x00\x04\x01\x00\x00\x00\x02\x00\x00";
	struct state_buffer b = {0};

	(void)state;
	assert_int_equal(state_save(&inner_desc, &i, &b, NULL), 0);
	assert_int_equal(b.bytes, sizeof(expected)); /* whose last byte is the string's own zero */
	assert_memory_equal(b.data, expected, b.bytes);
	state_buffer_free(&b);
}

static void too_many_used(void **state)
{
	struct outer o = example;
	struct state_buffer b = {0};
	struct error err = {0};

	(void)state;
	o.queued = 7;
	assert_int_equal(state_save(&outer_desc, &o, &b, &err), -EOVERFLOW);
	assert_non_null(strstr(err.text, "queue"));
	state_buffer_free(&b);
}

/* Where @text is in the bytes, the first time. */
static uint8_t *find(const struct state_buffer *b, const char *text)
{
	uint8_t *p = memmem(b->data, b->bytes, text, strlen(text));

	assert_non_null(p);
	return p;
}

static void refused(const struct state_buffer *b, const char *why)
{
	struct error err = {0};
	struct outer o = {0};

	assert_int_equal(state_load(&outer_desc, &o, b->data, b->bytes, &err), -EINVAL);
	if (!strstr(err.text, why))
		fail_msg("'%s' does not say '%s'", err.text, why);
	assert_true(o.queued <= ARRAY_SIZE(o.queue));
}

#define HEAD 6 /* of a field, behind its name: kind, size, count */

static void hostile(void **state)
{
	static const struct { const char *field; unsigned at; uint8_t v; const char *why; } cases[] = {
		{"colour", HEAD, 3, "field 'colour' is 3, at most 2"},
		{"words", HEAD + 4, 125, "field 'words' is 125"},
		{"port", HEAD + 1, 4, "state of inner: field 'port' is"},
		{"flags", HEAD + 1, 2, "field 'flags' is neither true nor false"},
		{"tiny", 0, 1, "field 'tiny'"},              /* a boolean */
		{"tiny", 0, 0x80, "field 'tiny'"},           /* an array */
		{"tiny", 0, 9, "of no known kind"},
		{"tiny", 1, 3, "of no known kind"},          /* three bytes */
		{"huge", 1, 4, "field 'huge' is number of 4 bytes"},
		{"tiny", 2, 2, "of no known kind"},          /* two of them */
		{"words", 2, 5, "field 'words'"},
		{"queue", 2, 7, "field 'queue' has 7 elements"},
		{"data", 4, 0xff, "ends in the middle"},
		{"many", 2, 3, "field 'many' has 3 elements"},
		{"outer", 5, 4, "version"},
		{"outer", 0, 'p', "that of 'puter'"},
		{"outer", 7, 200, "state of outer: "},       /* more fields than there are */
		{"outer", 7, 9, "field 'many' is missing"},
		{"tiny", 3, ' ', "state of outer: "},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct state_buffer b = save(&example);
		uint8_t *p = find(&b, cases[i].field);
		bool in_name = cases[i].v >= 'a' && cases[i].v <= 'z';

		p += in_name || !strcmp(cases[i].field, "outer") ? cases[i].at : strlen(cases[i].field) + cases[i].at;
		*p = cases[i].v;
		refused(&b, cases[i].why);
		state_buffer_free(&b);
	}
}

static void names(void **state)
{
	struct state_buffer b = save(&example);

	(void)state;
	memcpy(find(&b, "tiny"), "tidy", 4);
	refused(&b, "there is no field 'tidy'");
	state_buffer_free(&b);
	b = save(&example);
	memcpy(find(&b, "huge"), "tiny", 4);
	refused(&b, "field 'tiny'"); /* twice, or of another size */
	state_buffer_free(&b);
	b = save(&example);
	find(&b, "tiny")[1] = 0x1b;
	refused(&b, "a name that is none");
	state_buffer_free(&b);
}

static void fields_together(void **state)
{
	struct outer o = example;
	struct state_buffer b;

	(void)state;
	o.many[1].low = 5;
	o.many[1].high = 4;
	b = save(&o);
	refused(&b, "inner: low 5, high 4");
	state_buffer_free(&b);
}

static void cut_and_longer(void **state)
{
	struct state_buffer b = save(&example), more = {0};
	struct outer o = {0};

	(void)state;
	for (size_t n = 0; n < b.bytes; n++) {
		uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees the end */

		memcpy(exact, b.data, n);
		assert_int_equal(state_load(&outer_desc, &o, exact, n, NULL), -EINVAL);
		free(exact);
	}
	more.data = malloc(b.bytes + 1);
	memcpy(more.data, b.data, b.bytes);
	more.data[b.bytes] = 0;
	more.bytes = b.bytes + 1;
	refused(&more, "1 bytes follow");
	state_buffer_free(&more);
	state_buffer_free(&b);
}

static void any_byte(void **state)
{
	struct state_buffer b = save(&example);
	FILE *out = fopen("/dev/null", "w");

	(void)state;
	assert_non_null(out);
	for (size_t at = 0; at < b.bytes; at++) {
		uint8_t was = b.data[at];

		for (unsigned v = 0; v < 256; v += 3) {
			struct outer o = {0};

			b.data[at] = (uint8_t)v;
			if (state_load(&outer_desc, &o, b.data, b.bytes, NULL) == 0)
				assert_true(o.queued <= 6 && o.colour <= BLUE && o.one.low <= o.one.high);
			state_print(b.data, b.bytes, 0, out, NULL);
		}
		b.data[at] = was;
	}
	fclose(out);
	state_buffer_free(&b);
}

static void printed(void **state)
{
	struct state_buffer b = save(&example);
	char *text = NULL;
	size_t n;
	FILE *out = open_memstream(&text, &n);

	(void)state;
	assert_int_equal(state_print(b.data, b.bytes, 1, out, NULL), 0);
	fclose(out);
	assert_non_null(strstr(text, "\ttiny: 7\n\thuge: 0xfedcba9876543210\n\tqueue: 0xb 0x16 0x21\n"));
	assert_non_null(strstr(text, "\tflags: true false true\n\tdata: 5 bytes\n\t\t0000: 0102030405\n"));
	assert_non_null(strstr(text, "\tmany 1\n\t\tport: 2\n\t\ton: true\n"));
	free(text);
	state_buffer_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back), cmocka_unit_test(form), cmocka_unit_test(too_many_used),
		cmocka_unit_test(hostile), cmocka_unit_test(names), cmocka_unit_test(fields_together),
		cmocka_unit_test(cut_and_longer), cmocka_unit_test(any_byte), cmocka_unit_test(printed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
