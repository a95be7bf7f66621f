/* Traces as text: read again to the bit, and lines that make no sense are named. */
#include "some_events.h"
#include "base/util.h"
#include "trace/text.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define EVENTS 20000u

static char dir[64], trace[128], text[128];

static int parse(const char *line, struct trace_event *ev, uint8_t *page, struct error *err)
{
	char copy[TRACE_LINE_MAX + 1];

	snprintf(copy, sizeof(copy), "%s", line);
	return trace_text_parse(copy, ev, page, err);
}

static void test_events(void **state)
{
	static char buf[TRACE_LINE_MAX + 1];
	struct some_events s = {.state = 7};
	uint8_t page[PAGE_SIZE];

	(void)state;
	for (unsigned i = 0; i < EVENTS; i++) {
		struct trace_event ev = any_event(&s), back;
		FILE *f = fmemopen(buf, sizeof(buf), "w");
		struct error err;

		trace_text_print(&ev, f);
		fclose(f);
		*strchr(buf, '\n') = 0;
		if (trace_text_parse(buf, &back, page, &err))
			fail_msg("%s", err.text);
		assert_true(same_event(&ev, &back));
	}
}

/* The longest line there is. */
static void test_full_page(void **state)
{
	static char buf[TRACE_LINE_MAX + 1];
	uint8_t page[PAGE_SIZE], back[PAGE_SIZE];
	struct trace_event ev = trace_page(TRACE_GPA_END - PAGE_SIZE, page), got;
	FILE *f = fmemopen(buf, sizeof(buf), "w");
	struct error err;

	(void)state;
	memset(page, 0xfe, sizeof(page));
	trace_text_print(&ev, f);
	fclose(f);
	assert_non_null(strchr(buf, '\n'));
	*strchr(buf, '\n') = 0;
	assert_int_equal(trace_text_parse(buf, &got, back, &err), 0);
	assert_memory_equal(page, back, sizeof(page));
}

static void test_lines(void **state)
{
	static const struct { const char *line, *says;
	} bad[] = {
		{"", "no event"},
		{"jump 1", "'jump'"},
		{"read", "address"},
		{"read x 8 user", "'x'"},
		{"read 0x10 256 user", "size"},
		{"read 0x10 8", "mode"},
		{"read 0x10 8 kernel", "'kernel'"},
		{"read 0x10 8 user initial", "'initial'"},
		{"read 0x10 8 user value=1", "'value='"},
		{"read 0x10 8 user insn=16", "'insn='"},
		{"read 0x10 8 user pc=1z", "'pc=1z'"},
		{"write 0x10 8 user value=1", "gpa="},
		{"write 0x10 8 user value=1 gpa=0x1018", "gpa="},
		{"write 0x10 8 user gpa=0x1010", "gpa="},
		{"write 0x10 1 user value=256 gpa=0x1010", "more bytes"},
		{"page 0x1001", "address"},
		{"page 0x1000 512=1", "'512='"},
		{"insns 0", "1 to"},
		{"cr3", "value"},
		{"cr3 0x1000 first", "'first'"},
		{"wrmsr 0xc0000080 0x500 initial more", "'more'"},
		{"read -1 8 user", "'-1'"},
		{"read 0x1ffffffffffffffff 8 user", "too large"},
		{"map 0x1000 4096 free", "flags"},
	};
	struct trace_event ev;
	uint8_t page[PAGE_SIZE];
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		if (parse(bad[i].line, &ev, page, &err) != -EINVAL || !strstr(err.text, bad[i].says))
			fail_msg("'%s': %s", bad[i].line, err.text);
	}
	assert_int_equal(
		parse("write 0xffff888000103008 8 super pc=0x401000 insn=3 first value=0x67 gpa=0x103008",
		      &ev, page, &err),
		0);
	assert_int_equal(trace_value_gpa(&ev), 0x103008);
	assert_int_equal(trace_insn_bytes(&ev), 3);
}

static int import_begin(void *ctx, const struct trace_info *info, struct error *err)
{
	return trace_writer_open(ctx, trace, info, err);
}

static int import_put(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	return trace_put(*(struct trace_writer **)ctx, ev, n, err);
}

static int import(struct error *err)
{
	struct trace_writer *w = NULL;
	const struct trace_import to = {import_begin, import_put, &w};
	const struct trace_options none = {.count = 0};
	int ret = trace_format_text.import(text, &none, &to, err);

	assert_int_equal(trace_writer_close(w, NULL), 0);
	return ret;
}

static void export(const char *to)
{
	const struct trace_options none = {.count = 0};
	FILE *f = fopen(to, "w");
	struct trace_reader *r;
	struct error err;

	assert_int_equal(trace_reader_open(&r, trace, &err), 0);
	assert_int_equal(trace_format_text.export(r, &none, f, &err), 0);
	trace_reader_close(r);
	fclose(f);
}

static void test_whole_traces(void **state)
{
	const struct trace_info info = {.creator = "a  b", .cpu_features = "fpu", .memory = 4096, .maxphyaddr = 52};
	struct some_events s = {.state = 3};
	struct trace_writer *w;
	char command[512], before[140];
	struct error err;

	(void)state;
	assert_int_equal(trace_writer_open(&w, trace, &info, &err), 0);
	for (unsigned i = 0; i < EVENTS; i++) {
		struct trace_event ev = any_event(&s);

		assert_int_equal(trace_put(w, &ev, 1, &err), 0);
	}
	assert_int_equal(trace_writer_close(w, &err), 0);
	snprintf(before, sizeof(before), "%s.before", trace);
	assert_int_equal(rename(trace, before), 0);
	assert_int_equal(symlink(before, trace), 0);
	export(text);
	assert_int_equal(unlink(trace), 0);
	if (import(&err))
		fail_msg("%s", err.text);
	snprintf(command, sizeof(command), "cmp %s %s", trace, before);
	assert_int_equal(system(command), 0);
}

static void test_bad_texts(void **state)
{
	static const struct { const char *text, *says;
	} bad[] = {
		{"", "line 1"},
		{"gnomon-trace-text 2\n", "line 1"},
		{"gnomon-trace-text 1\nmemory 1\n", "line 3"},
		{"gnomon-trace-text 1\nmemory x\n\n", "line 2"},
		{"gnomon-trace-text 1\nfrobs 1\n\n", "line 2"},
		{"gnomon-trace-text 1\n\n# x\ninsns 1\n\ninsns 0\n", "line 6"},
		{"gnomon-trace-text 1\n\ninsns 1", "cut off"},
	};
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		FILE *f = fopen(text, "w");

		fputs(bad[i].text, f);
		fclose(f);
		assert_int_equal(import(&err), -EBADMSG);
		if (!strstr(err.text, bad[i].says))
			fail_msg("%u: %s", i, err.text);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events), cmocka_unit_test(test_full_page), cmocka_unit_test(test_lines),
		cmocka_unit_test(test_whole_traces), cmocka_unit_test(test_bad_texts),
	};
	char command[128];
	int failed;

	snprintf(dir, sizeof(dir), "/tmp/test-trace-text-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	snprintf(trace, sizeof(trace), "%s/trace", dir);
	snprintf(text, sizeof(text), "%s/text", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) || failed;
}
