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

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <xxhash.h>

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

#define ALIKE 60u /* pages */

/* Pages that differ in one word of 512, or not at all from the one before. */
static void make_alike(uint8_t *page, uint64_t n)
{
	memset(page, 0x5a, PAGE_SIZE);
	put_u64(page + 8, n / 2);
}

/* Pages that look the same are not taken for each other, and ones that are the same go once. */
static void pages_that_look_alike(void **state)
{
	struct memory m = {0};
	const struct stream_io io = {.write = mem_write, .read = mem_read, .ctx = &m};
	_Alignas(8) uint8_t want[PAGE_SIZE];
	struct stream_writer s;
	struct stream_reader r;
	struct stream_section section;
	struct pages_writer w;
	struct pages p;
	struct error err;

	(void)state;
	assert_int_equal(stream_begin(&s, &io, &err), 0);
	assert_int_equal(pages_writer_init(&w, &s, 0, &err), 0);
	for (uint64_t n = 0; n < ALIKE; n++) {
		uint8_t *room = pages_room(&w);

		make_alike(room, n);
		make_alike(want, n);
		assert_int_equal(pages_put(&w, n, n & 1 ? want : room, &err), 0);
	}
	assert_int_equal(pages_flush(&w, &err), 0);
	assert_int_equal(w.same, ALIKE / 2);
	assert_int_equal(w.zero, 0);
	pages_writer_fini(&w);
	assert_int_equal(stream_open(&r, &io, "test", &err), 0);
	assert_int_equal(stream_get(&r, &section, &err), 1);
	assert_int_equal(pages_parse(&p, &section, LIMIT, "test", &err), 0);
	assert_int_equal(p.count, ALIKE);
	for (unsigned n = 0; n < p.count; n++) {
		make_alike(want, n);
		assert_memory_equal(p.entry[n].data, want, PAGE_SIZE);
	}
	pages_free(&p);
	stream_close(&r);
	free(m.data);
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
	assert_int_equal(read_stream(&m, &err, false), -EBADMSG);
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
	put_u32(raw + 4, (uint32_t)XXH3_64bits(raw + 8, count <= PAGES_BATCH ? count * 16 : 0));
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

static void write_file(const char *path)
{
	struct state_file_writer *w;
	struct error err;

	assert_int_equal(state_file_create(&w, path, true, &err), 0);
	put_pages(state_file_stream(w), 0, 0, 300);
	assert_int_equal(stream_put(state_file_stream(w), "late", "xyz", 3, &err), 0);
	assert_int_equal(state_file_commit(w, &err), 0);
}

static void flip(int fd, off_t at, uint8_t bits)
{
	uint8_t b;

	assert_int_equal(pread(fd, &b, 1, at), 1);
	b ^= bits;
	assert_int_equal(pwrite(fd, &b, 1, at), 1);
}

/* Before any page is asked for: a page that is not found would be taken for zeros. */
static void a_damaged_table_is_noticed_at_once(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];
	const off_t head = STREAM_HEADER_BYTES + 1 + 5 + 8;
	struct state_file *f;
	struct error err;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state", dir);
	write_file(path);
	fd = open(path, O_RDWR);
	for (off_t at = STREAM_HEADER_BYTES; at < head + (off_t)PAGES_TABLE_BYTES(PAGES_BATCH); at += at < head + 64 ? 1 : 7) {
		int r;

		flip(fd, at, (uint8_t)(1u << at % 8));
		r = state_file_open(&f, path, &err);
		if (!r) {
			r = state_file_index(f, LIMIT, &err);
			state_file_close(f);
		}
		if (!r)
			fail_msg("a flipped bit of byte %lld was not noticed", (long long)at);
		flip(fd, at, (uint8_t)(1u << at % 8));
	}
	assert_int_equal(state_file_open(&f, path, &err), 0);
	assert_int_equal(state_file_index(f, LIMIT, &err), 0);
	state_file_close(f);
	close(fd);
	unlink(path);
	rmdir(dir);
}

static void a_file_that_changes_is_noticed(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];
	uint8_t data[PAGE_SIZE];
	struct state_file *f;
	struct error err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state", dir);
	write_file(path);
	assert_int_equal(state_file_open(&f, path, &err), 0);
	assert_int_equal(state_file_index(f, LIMIT, &err), 0);
	assert_int_equal(state_file_page(f, 1, data, &err), 0);
	assert_int_equal(truncate(path, 100000), 0);
	assert_int_equal(state_file_page(f, 299, data, &err), -ENODATA);
	assert_int_equal(state_file_page(f, 2, data, &err), 0); /* has been read */
	state_file_close(f);
	unlink(path);
	rmdir(dir);
}

static void other_files_are_no_states(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];
	struct state_file *f;
	struct error err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(state_file_open(&f, dir, &err), -EINVAL);
	snprintf(path, sizeof(path), "%s/pipe", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(state_file_open(&f, path, &err), -EINVAL);
	unlink(path);
	for (unsigned bytes = 0; bytes < 40; bytes++) {
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

		assert_int_equal(write(fd, "a text of some forty bytes, and no state of any VM", bytes), bytes);
		close(fd);
		assert_int_equal(state_file_open(&f, path, &err), -EINVAL);
	}
	unlink(path);
	rmdir(dir);
}

static void set_limit(rlim_t bytes)
{
	struct rlimit l;

	getrlimit(RLIMIT_FSIZE, &l);
	l.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static int try_to_write(const char *path, bool replace, struct error *err)
{
	struct state_file_writer *w;
	int r = state_file_create(&w, path, replace, err);

	if (r)
		return r;
	for (unsigned i = 0; !r && i < 5; i++) {
		static uint8_t data[400000];

		r = stream_put(state_file_stream(w), "some", data, sizeof(data), err);
	}
	if (!r)
		return state_file_commit(w, err);
	state_file_abandon(w);
	return r;
}

/* Wherever a disk gets full: one line, nothing is left, and what was to be replaced is as it was. */
static void a_full_disk_leaves_nothing(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];
	struct state_file *f;
	struct error err;

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state", dir);
	for (int replace = 0; replace < 2; replace++) {
		if (replace)
			write_file(path);
		for (rlim_t bytes = 0; bytes < 2000000; bytes += 97001) {
			set_limit(bytes);
			err.text[0] = 0;
			assert_int_equal(try_to_write(path, replace, &err), -EFBIG);
			assert_string_not_equal(err.text, "");
			set_limit(RLIM_INFINITY);
			if (!replace)
				assert_int_equal(access(path, F_OK), -1);
		}
	}
	assert_int_equal(state_file_open(&f, path, &err), 0);
	assert_int_equal(state_file_verify(f, &err), 0);
	state_file_close(f);
	unlink(path);
	assert_int_equal(rmdir(dir), 0);
}

static void names_that_cannot_be_given(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[600], name[300];
	struct state_file_writer *w;
	struct error err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(state_file_create(&w, dir, true, &err), -EEXIST);
	memset(name, 'x', sizeof(name));
	name[256] = 0;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(state_file_create(&w, path, false, &err), -ENAMETOOLONG);
	name[255] = 0; /* the longest there is can be written and replaced */
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	write_file(path);
	write_file(path);
	unlink(path);
	assert_true(state_file_is_part(STATE_FILE_PART_HEAD "12aXYZ" STATE_FILE_PART_TAIL));
	assert_false(state_file_is_part(STATE_FILE_PART_HEAD STATE_FILE_PART_TAIL));
	assert_false(state_file_is_part("12aXYZ" STATE_FILE_PART_TAIL));
	assert_int_equal(rmdir(dir), 0);
}

static void the_directory_has_a_lock(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];
	int a, b, c;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state", dir);
	assert_int_equal(state_file_lock_directory(path, false, false, &a), 0);
	assert_int_equal(state_file_lock_directory(path, false, false, &b), 0);
	assert_int_equal(state_file_lock_directory(path, true, false, &c), -EWOULDBLOCK);
	assert_int_equal(c, -1);
	state_file_unlock_directory(&a);
	state_file_unlock_directory(&b);
	assert_int_equal(state_file_lock_directory(path, true, true, &c), 0);
	assert_int_equal(state_file_lock_directory(path, false, false, &a), -EWOULDBLOCK);
	state_file_unlock_directory(&c);
	rmdir(dir);
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
		cmocka_unit_test(pages_that_look_alike),
		cmocka_unit_test(every_flipped_bit_is_noticed),
		cmocka_unit_test(every_cut_is_noticed),
		cmocka_unit_test(lies_do_not_cost_memory),
		cmocka_unit_test(pages_that_lie),
		cmocka_unit_test(files_are_read_out_of_order),
		cmocka_unit_test(a_damaged_table_is_noticed_at_once),
		cmocka_unit_test(a_file_that_changes_is_noticed),
		cmocka_unit_test(other_files_are_no_states),
		cmocka_unit_test(a_full_disk_leaves_nothing),
		cmocka_unit_test(names_that_cannot_be_given),
		cmocka_unit_test(the_directory_has_a_lock),
		cmocka_unit_test(an_abandoned_file_leaves_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
