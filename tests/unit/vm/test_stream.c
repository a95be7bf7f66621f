/* The stream of a VM's state: what goes in comes out, and nothing else is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/state_file.h"

#define LIMIT 5000u

struct memory {
	uint8_t *data;
	size_t bytes, room, at;
};

static int mem_write(void *ctx, const void *data, size_t bytes, struct error *err)
{
	struct memory *m = ctx;

	(void)err;
	if (m->bytes + bytes > m->room)
		m->data = realloc(m->data, m->room = (m->bytes + bytes) * 2);
	memcpy(m->data + m->bytes, data, bytes);
	m->bytes += bytes;
	return 0;
}

static int mem_read(void *ctx, void *data, size_t bytes, struct error *err)
{
	struct memory *m = ctx;

	if (bytes > m->bytes - m->at)
		return error_set(err, -ENODATA, "it ends");
	memcpy(data, m->data + m->at, bytes);
	m->at += bytes;
	return 0;
}

static const uint8_t *page_of(uint64_t n)
{
	static _Alignas(8) uint8_t page[PAGE_SIZE];

	if (n % 7 == 0)
		return NULL;
	for (unsigned i = 0; i < PAGE_SIZE; i++)
		page[i] = (uint8_t)(n % 5 == 0 ? i : i * 7 + n * (i / 64));
	if (n % 11 == 0)
		memset(page, 0, PAGE_SIZE);
	return page;
}

static void put_pages(struct stream_writer *s, int compress, uint64_t first, uint64_t n)
{
	struct pages_writer w;
	struct error err;

	assert_int_equal(pages_writer_init(&w, s, compress, &err), 0);
	for (uint64_t i = first; i < first + n; i++)
		assert_int_equal(pages_put(&w, i, page_of(i), &err), 0);
	assert_int_equal(pages_flush(&w, &err), 0);
	assert_int_equal(w.pages, n);
	pages_writer_fini(&w);
}

static void write_stream(struct memory *m, int compress)
{
	const struct stream_io io = {.write = mem_write, .ctx = m};
	struct stream_writer w;
	struct error err;

	assert_int_equal(stream_begin(&w, &io, &err), 0);
	assert_int_equal(stream_put(&w, "first", "abc", 3, &err), 0);
	put_pages(&w, compress, 0, 700);
	assert_int_equal(stream_put(&w, "empty", NULL, 0, &err), 0);
	assert_int_equal(stream_put2(&w, "two", "ab", 2, "cd", 2, &err), 0);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(w.at, m->bytes);
}

/* Reads to the end. Returns the last return value; checks what it is given. */
static int read_stream(struct memory *m, struct error *err, bool check)
{
	const struct stream_io io = {.read = mem_read, .ctx = m};
	struct stream_reader r;
	struct stream_section s;
	unsigned pages = 0;
	int ret;

	m->at = 0;
	ret = stream_open(&r, &io, "test", err);
	while (!ret && (ret = stream_get(&r, &s, err)) == 1) {
		struct pages p;

		ret = 0;
		if (!pages_is_section(s.name))
			continue;
		ret = pages_parse(&p, &s, LIMIT, "test", err);
		for (unsigned i = 0; check && !ret && i < p.count; i++, pages++) {
			const uint8_t *want = page_of(p.entry[i].page);

			assert_int_equal(p.entry[i].page, pages);
			if (!want || pages_is_zero(want))
				assert_null(p.entry[i].data);
			else
				assert_memory_equal(p.entry[i].data, want, PAGE_SIZE);
		}
		pages_free(&p);
		if (ret)
			break;
	}
	if (check)
		assert_int_equal(pages, 700);
	stream_close(&r);
	return ret;
}

static void what_goes_in_comes_out(void **state)
{
	(void)state;
	for (int compress = 0; compress < 3; compress++) {
		struct memory m = {0};
		struct error err;

		write_stream(&m, compress);
		assert_int_equal(read_stream(&m, &err, true), 0);
		free(m.data);
	}
}

static void every_flipped_bit_is_noticed(void **state)
{
	struct memory m = {0};
	struct error err;

	(void)state;
	write_stream(&m, 1);
	srandom(1);
	for (unsigned i = 0; i < 3000; i++) {
		size_t at = i < 400 ? i / 4 : (size_t)random() % m.bytes;
		uint8_t bit = (uint8_t)(1u << random() % 8);

		m.data[at] ^= bit;
		assert_true(read_stream(&m, &err, false) < 0);
		m.data[at] ^= bit;
	}
	free(m.data);
}

static void every_cut_is_noticed(void **state)
{
	struct memory m = {0};
	struct error err;
	size_t bytes;

	(void)state;
	write_stream(&m, 1);
	bytes = m.bytes;
	for (m.bytes = 0; m.bytes < bytes; m.bytes += m.bytes < 200 || m.bytes + 200 > bytes ? 1 : 97)
		assert_int_equal(read_stream(&m, &err, false), -ENODATA);
	free(m.data);
}

static void put_lie(struct memory *m, const char *name, uint64_t length)
{
	const struct stream_io io = {.write = mem_write, .ctx = m};
	struct stream_writer w;
	struct error err;
	uint8_t b[8];

	m->bytes = 0;
	assert_int_equal(stream_begin(&w, &io, &err), 0);
	b[0] = (uint8_t)strlen(name);
	mem_write(m, b, 1, &err);
	mem_write(m, name, strlen(name), &err);
	put_u64(b, length);
	mem_write(m, b, 8, &err);
}

static void lies_do_not_cost_memory(void **state)
{
	struct memory m = {0};
	struct error err;

	(void)state;
	put_lie(&m, "big", STREAM_SECTION_MAX + 1);
	assert_int_equal(read_stream(&m, &err, false), -EFBIG);
	put_lie(&m, "big", UINT64_MAX);
	assert_int_equal(read_stream(&m, &err, false), -EFBIG);
	put_lie(&m, "bad\nname", 3);
	assert_int_equal(read_stream(&m, &err, false), -EINVAL);
	m.data[8] = 9;
	assert_int_equal(read_stream(&m, &err, false), -ENOTSUP);
	m.data[0] = 'g';
	assert_int_equal(read_stream(&m, &err, false), -EINVAL);
	free(m.data);
}

/* A section of pages with @n entries of its own making. */
static int parse_lie(uint32_t count, uint64_t page, uint32_t kind, uint32_t bytes, size_t section_bytes, bool packed)
{
	static uint8_t raw[65536];
	struct stream_section s = {.data = raw, .bytes = section_bytes};
	struct pages p;
	struct error err;
	int r;

	memset(raw, 0, sizeof(raw));
	strcpy(s.name, packed ? "pages.zstd" : "pages");
	put_u32(raw, count);
	put_u64(raw + 8, page);
	put_u32(raw + 16, kind);
	put_u32(raw + 20, bytes);
	r = pages_parse(&p, &s, LIMIT, "test", &err);
	pages_free(&p);
	return r;
}

static void pages_that_lie(void **state)
{
	(void)state;
	assert_int_equal(parse_lie(1, 1, PAGE_RAW, PAGE_SIZE, 24 + PAGE_SIZE, false), 0);
	assert_int_equal(parse_lie(1, LIMIT, PAGE_RAW, PAGE_SIZE, 24 + PAGE_SIZE, false), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, PAGE_RAW, PAGE_SIZE, 23 + PAGE_SIZE, false), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, PAGE_RAW, PAGE_SIZE, 25 + PAGE_SIZE, false), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, PAGE_RAW, 8, 24 + 8, false), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, 3, 0, 24, false), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, PAGE_SAME, 8, 24 + 8, false), -EBADMSG);
	assert_int_equal(parse_lie(0, 1, PAGE_ZERO, 0, 24, false), -EBADMSG);
	assert_int_equal(parse_lie(257, 1, PAGE_ZERO, 0, 60000, false), -EBADMSG);
	assert_int_equal(parse_lie(2, 1, PAGE_ZERO, 0, 24, false), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, PAGE_RAW, PAGE_SIZE, 24 + 100, true), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, PAGE_RAW, UINT32_MAX, 24 + 100, true), -EBADMSG);
	assert_int_equal(parse_lie(1, 1, PAGE_ZERO, 0, 4, false), -EBADMSG);
}

/* ---- files ---- */

static void files_are_read_out_of_order(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state", dir);
	for (int compress = 0; compress < 2; compress++) {
		struct state_file_writer *w;
		struct state_file *f;
		struct stream_section s;
		uint8_t data[PAGE_SIZE];
		struct error err;

		assert_int_equal(state_file_create(&w, path, true, &err), 0);
		put_pages(state_file_stream(w), compress, 0, 2600);
		assert_int_equal(stream_put(state_file_stream(w), "late", "xyz", 3, &err), 0);
		put_pages(state_file_stream(w), compress, 10, 1); /* replaces */
		assert_int_equal(state_file_commit(w, &err), 0);

		assert_int_equal(state_file_create(&w, path, false, &err), -EEXIST);
		assert_int_equal(state_file_open(&f, path, &err), 0);
		assert_int_equal(state_file_verify(f, &err), 0);
		assert_int_equal(state_file_section(f, "late", &s, &err), 1);
		assert_memory_equal(s.data, "xyz", 3);
		assert_int_equal(state_file_section(f, "never", &s, &err), 0);
		assert_int_equal(state_file_index(f, LIMIT, &err), 0);
		for (uint64_t i = 0; i < 2700; i++) {
			uint64_t n = i * 1777 % 2700;
			const uint8_t *want = n < 2600 ? page_of(n) : NULL;
			bool zero = !want || pages_is_zero(want);

			assert_int_equal(state_file_has(f, n), n >= 2600 ? STATE_FILE_NOT_THERE :
					 zero ? STATE_FILE_ZERO : STATE_FILE_DATA);
			assert_int_equal(state_file_page(f, n, data, &err), 0);
			if (zero)
				assert_true(pages_is_zero(data));
			else
				assert_memory_equal(data, want, PAGE_SIZE);
		}
		state_file_close(f);
	}
	unlink(path);
	assert_int_equal(rmdir(dir), 0); /* nothing else was left */
}

static void an_abandoned_file_leaves_nothing(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];
	struct state_file_writer *w;
	struct error err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state", dir);
	assert_int_equal(state_file_create(&w, path, false, &err), 0);
	put_pages(state_file_stream(w), 0, 0, 2600);
	state_file_abandon(w);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(state_file_create(&w, path, false, &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_goes_in_comes_out),
		cmocka_unit_test(every_flipped_bit_is_noticed),
		cmocka_unit_test(every_cut_is_noticed),
		cmocka_unit_test(lies_do_not_cost_memory),
		cmocka_unit_test(pages_that_lie),
		cmocka_unit_test(files_are_read_out_of_order),
		cmocka_unit_test(an_abandoned_file_leaves_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
