/* Trace files: what is written is read, from files and pipes, from any place on; and what is damaged is refused. */
#include "some_events.h"
#include "base/util.h"
#include "trace/file_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

#define MANY 2500000u /* events: three frames */

static char dir[64], path[128], part[140];

static const struct trace_info some_info = {.creator = "test 1",
					    .source = "a loop",
					    .cpu_features = "pse pae",
					    .tables = true,
					    .memory = 1 << 28,
					    .maxphyaddr = 46};

typedef struct trace_event event_source(struct some_events *s);

static void write_events(const char *to, event_source *source, uint64_t seed, unsigned n)
{
	struct some_events s = {.state = seed};
	struct trace_writer *w;
	struct error err;

	assert_int_equal(trace_writer_open(&w, to, &some_info, &err), 0);
	for (unsigned i = 0; i < n; i++) {
		struct trace_event ev = source(&s);

		if (trace_put(w, &ev, 1, &err))
			fail_msg("%s", err.text);
	}
	assert_int_equal(trace_writer_events(w), n);
	if (trace_writer_close(w, &err))
		fail_msg("%s", err.text);
}

/* Reads to the end and compares, from event number @from on. Returns the result of the last trace_next(). */
static int compare(struct trace_reader *r, event_source *source, uint64_t seed, uint64_t from, uint64_t *count,
		   struct error *err)
{
	struct some_events s = {.state = seed};
	const struct trace_event *ev;
	uint64_t insns = 0;
	unsigned n;
	int ret;

	for (*count = 0; *count < from; ++*count) {
		struct trace_event want = source(&s);

		insns += want.kind == TRACE_INSNS ? want.value : 0;
	}
	while ((ret = trace_next(r, &ev, &n, err)) > 0) {
		assert_true(n > 0);
		assert_int_equal(trace_reader_event(r), *count);
		assert_int_equal(trace_reader_insns(r), insns);
		for (unsigned i = 0; i < n; i++, ++*count) {
			struct trace_event want = source(&s);

			if (!same_event(&want, &ev[i]))
				fail_msg("event %llu differs", (unsigned long long)*count);
			insns += want.kind == TRACE_INSNS ? want.value : 0;
		}
	}
	return ret;
}

static void read_events(const char *from, event_source *source, uint64_t seed, unsigned n)
{
	struct trace_reader *r;
	struct error err;
	uint64_t count;

	assert_int_equal(trace_reader_open(&r, from, &err), 0);
	assert_memory_equal(trace_reader_info(r), &some_info, sizeof(some_info));
	if (compare(r, source, seed, 0, &count, &err))
		fail_msg("%s", err.text);
	assert_int_equal(count, n);
	trace_reader_close(r);
}

static off_t file_bytes(const char *name)
{
	struct stat st;

	return stat(name, &st) ? -1 : st.st_size;
}

static void test_round_trip(void **state)
{
	static const unsigned counts[] = {0, 1, 2, 2047, 2048, 2049, 30000};

	(void)state;
	assert_int_equal(BLOCK_RAW_MAX, 22020108); /* as docs/FORMATS.md says */
	assert_int_equal(BLOCK_STORED_MAX, 22192140);
	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		write_events(path, any_event, i + 1, counts[i]);
		assert_int_equal(file_bytes(part), -1);
		read_events(path, any_event, i + 1, counts[i]);
	}
	write_events(path, likely_event, 5, MANY);
	read_events(path, likely_event, 5, MANY);
	assert_true(file_bytes(path) < 3 * MANY / 2);
}

/* More sites than a frame may have: frames end early. */
static struct trace_event new_site(struct some_events *s)
{
	s->pc += 3;
	return (struct trace_event){.kind = TRACE_READ, .size = 4, .mode = TRACE_USER, .pc = s->pc, .addr = s->pc * 77};
}

static void test_many_sites(void **state)
{
	(void)state;
	write_events(path, new_site, 1, 200000);
	read_events(path, new_site, 1, 200000);
}

struct piped {
	int fd;
	const uint8_t *data;
	size_t bytes;
};

static void *feed(void *ctx)
{
	struct piped *p = ctx;

	for (size_t at = 0; at < p->bytes;) {
		size_t n = p->bytes - at < 777 ? p->bytes - at : 777; /* in pieces, as pipes do */
		ssize_t done = write(p->fd, p->data + at, n);

		if (done <= 0)
			break;
		at += (size_t)done;
	}
	close(p->fd);
	return NULL;
}

static uint8_t *load(const char *name, size_t *bytes)
{
	uint8_t *data;
	FILE *f = fopen(name, "rb");

	assert_non_null(f);
	*bytes = (size_t)file_bytes(name);
	data = malloc(*bytes + 1);
	assert_int_equal(fread(data, 1, *bytes, f), *bytes);
	fclose(f);
	return data;
}

static void store(const char *name, const uint8_t *data, size_t bytes)
{
	FILE *f = fopen(name, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	fclose(f);
}

static void test_pipe(void **state)
{
	struct trace_reader *r;
	struct trace_totals t;
	struct error err;
	struct piped p;
	pthread_t thread;
	int ends[2];
	char name[64];
	uint64_t count;
	uint8_t *data;

	(void)state;
	write_events(path, likely_event, 9, 100000);
	p.data = data = load(path, &p.bytes);
	assert_int_equal(pipe(ends), 0);
	p.fd = ends[1];
	pthread_create(&thread, NULL, feed, &p);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", ends[0]);
	assert_int_equal(trace_reader_open(&r, name, &err), 0);
	assert_false(trace_reader_totals(r, &t));
	assert_int_equal(trace_seek_event(r, 70000, &err), 0); /* forward */
	assert_int_equal(compare(r, likely_event, 9, 70000, &count, &err), 0);
	assert_int_equal(count, 100000);
	assert_int_equal(trace_seek_event(r, 5, &err), -ESPIPE);
	trace_reader_close(r);
	pthread_join(thread, NULL);
	close(ends[0]);
	free(data);
}

static void test_seek(void **state)
{
	static const uint64_t to[] = {0, 1, 2047, 2048, 999999, 1048575, 1048576, 1048577, 2097152, MANY - 1, 17, MANY};
	struct trace_reader *r;
	const struct trace_event *ev;
	struct trace_totals t;
	struct error err;
	uint64_t count;
	unsigned n;

	(void)state;
	write_events(path, likely_event, 5, MANY);
	assert_int_equal(trace_reader_open(&r, path, &err), 0);
	assert_true(trace_reader_totals(r, &t));
	assert_int_equal(t.events, MANY);
	assert_int_equal(t.bytes, file_bytes(path));
	for (unsigned i = 0; i < ARRAY_SIZE(to); i++) {
		assert_int_equal(trace_seek_event(r, to[i], &err), 0);
		assert_int_equal(trace_next(r, &ev, &n, &err), to[i] < MANY);
		assert_int_equal(trace_reader_event(r), to[i]);
	}
	assert_int_equal(trace_seek_event(r, MANY + 5, &err), 0);
	assert_int_equal(trace_next(r, &ev, &n, &err), 0);
	for (uint64_t insns = 0; insns <= t.insns; insns += t.insns / 13) {
		assert_int_equal(trace_seek_insns(r, insns, &err), 0);
		count = trace_next(r, &ev, &n, &err);
		assert_true(count == 1 || insns == t.insns);
		assert_true(trace_reader_insns(r) >= insns);
	}
	assert_int_equal(trace_seek_event(r, 1200000, &err), 0);
	assert_int_equal(compare(r, likely_event, 5, 1200000, &count, &err), 0);
	assert_int_equal(count, MANY);
	trace_reader_close(r);
}

/* The first event before which so many instructions are complete, not one after it. */
static void test_seek_insns_first(void **state)
{
	static const uint64_t insns[] = {1, 1, 5, 1, 2};
	struct trace_event ev = {.kind = TRACE_READ, .size = 1};
	const struct trace_event *got;
	struct trace_writer *w;
	struct trace_reader *r;
	struct error err;
	unsigned n;

	(void)state;
	assert_int_equal(trace_writer_open(&w, path, &some_info, &err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
		struct trace_event done = {.kind = TRACE_INSNS, .value = insns[i]};

		ev.addr = i;
		assert_int_equal(trace_put(w, &ev, 1, &err), 0);
		assert_int_equal(trace_put(w, &ev, 1, &err), 0);
		assert_int_equal(trace_put(w, &done, 1, &err), 0);
	}
	assert_int_equal(trace_writer_insns(w), 10);
	assert_int_equal(trace_writer_close(w, &err), 0);
	assert_int_equal(trace_reader_open(&r, path, &err), 0);
	for (uint64_t at = 11; at-- > 0;) {
		static const unsigned event[] = {0, 3, 6, 9, 9, 9, 9, 9, 12, 15, 15};

		assert_int_equal(trace_seek_insns(r, at, &err), 0);
		assert_int_equal(trace_next(r, &got, &n, &err), at < 9);
		assert_int_equal(trace_reader_event(r), event[at]);
	}
	trace_reader_close(r);
}

/* Cut off anywhere: what is there is right, and then it is said where and why. */
static void test_cut_off(void **state)
{
	struct trace_reader *r;
	struct trace_totals t;
	struct error err;
	uint64_t count, most = 0;
	size_t bytes;
	uint8_t *data;

	(void)state;
	write_events(path, new_site, 1, 200000); /* four frames */
	data = load(path, &bytes);
	for (size_t n = 0; n < bytes; n += n < 300 || n + 200 > bytes ? 1 : 1 + (bytes - n) / 97) {
		store(path, data, n);
		if (trace_reader_open(&r, path, &err)) {
			assert_int_equal(err.code, -EBADMSG);
			assert_non_null(strstr(err.text, path));
			continue;
		}
		assert_false(trace_reader_totals(r, &t));
		assert_int_equal(compare(r, new_site, 1, 0, &count, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "cut off"));
		assert_true(count >= most);
		most = count;
		assert_int_equal(trace_seek_event(r, most / 2, &err), most ? 0 : -EBADMSG); /* in what is there */
		assert_int_equal(compare(r, new_site, 1, most / 2, &count, &err), -EBADMSG);
		assert_int_equal(count, most);
		trace_reader_close(r);
	}
	assert_int_equal(most, 200000);
	free(data);
}

/* Wherever a bit is wrong, nothing wrong is given out. */
static void test_damaged(void **state)
{
	struct trace_reader *r;
	struct error err;
	size_t bytes;
	uint64_t count;
	uint8_t *data;

	(void)state;
	write_events(path, any_event, 3, 3000);
	data = load(path, &bytes);
	for (size_t at = 0; at < bytes; at += at < 400 || at + 300 > bytes ? 1 : 1 + (bytes - at) / 97) {
		data[at] ^= 0x10;
		store(path, data, bytes);
		data[at] ^= 0x10;
		if (trace_reader_open(&r, path, &err) == 0) {
			assert_int_equal(compare(r, any_event, 3, 0, &count, &err), -EBADMSG);
			assert_true(count == 0 || count == 3000);
			trace_reader_close(r);
		}
		assert_int_equal(err.code, -EBADMSG);
	}
	data = realloc(data, bytes + 1);
	data[bytes] = 0;
	store(path, data, bytes + 1);
	assert_int_equal(trace_reader_open(&r, path, &err), 0);
	assert_int_equal(compare(r, any_event, 3, 0, &count, &err), -EBADMSG); /* more behind the end */
	trace_reader_close(r);
	free(data);
}

/* A block whose checksums are right and whose lengths lie. */
static void test_lies(void **state)
{
	struct trace_reader *r;
	struct error err;
	size_t bytes, block;
	uint64_t count;
	uint8_t *data;

	(void)state;
	write_events(path, any_event, 3, 3000);
	data = load(path, &bytes);
	block = FILE_HEAD_BYTES + BLOCK_HEAD_BYTES + get_u32(data + FILE_HEAD_BYTES + 4); /* that of the events */
	assert_int_equal(get_u32(data + block), BLOCK_EVENTS);
	for (unsigned at = 0; at < 32; at += 4) {
		for (unsigned i = 0; i < 4; i++) {
			const uint32_t lie[] = {0, 1, 0x7fffffff, UINT32_MAX}, was = get_u32(data + block + at);

			if (was == lie[i])
				continue;
			put_u32(data + block + at, lie[i]);
			put_u64(data + block + 40, XXH3_64bits(data + block, 40));
			store(path, data, bytes);
			put_u32(data + block + at, was);
			assert_int_equal(trace_reader_open(&r, path, &err), 0);
			assert_int_equal(compare(r, any_event, 3, 0, &count, &err), -EBADMSG);
			assert_int_equal(count, 0);
			trace_reader_close(r);
		}
	}
	free(data);
}

static void test_refused(void **state)
{
	static const struct trace_event bad[] = {
		{.kind = 0}, {.kind = TRACE_KIND_END}, {.kind = 255}, {.kind = TRACE_INSNS},
		{.kind = TRACE_INSNS, .value = 1ull << 32}, {.kind = TRACE_CR3, .addr = 1},
		{.kind = TRACE_READ, .size = 0}, {.kind = TRACE_READ, .size = 8, .mode = 5},
		{.kind = TRACE_READ, .size = 8, .value = 1}, {.kind = TRACE_READ, .size = 8, .flags = TRACE_VALUE},
		{.kind = TRACE_READ, .size = 8, .flags = TRACE_AGAIN}, {.kind = TRACE_READ, .size = 8, .aux = 16},
		{.kind = TRACE_WRITE, .size = 9, .flags = TRACE_VALUE},
		{.kind = TRACE_WRITE, .size = 8, .addr = 0xff9, .flags = TRACE_VALUE},
		{.kind = TRACE_WRITE, .size = 2, .value = 0x10000, .flags = TRACE_VALUE},
		{.kind = TRACE_PAGE, .addr = 0x1000}, {.kind = TRACE_STORE, .addr = 0xfff, .size = 2},
		{.kind = TRACE_STORE, .addr = TRACE_GPA_END, .size = 2}, {.kind = TRACE_PDPTE, .addr = 4, .flags = 1},
		{.kind = TRACE_INVPCID, .aux = 4}, {.kind = TRACE_MAP, .addr = 1, .value = 4096},
		{.kind = TRACE_MAP, .addr = 4096}, {.kind = TRACE_MAP, .addr = PAGE_MASK, .value = 8192},
		{.kind = TRACE_FORK, .value = 1ull << 32}, {.kind = TRACE_UNMAP, .flags = 1, .value = 4096},
	};
	struct trace_info info = {.creator = "two\nlines"};
	struct trace_writer *w;
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(trace_writer_open(&w, path, &some_info, &err), 0);
		if (trace_put(w, &bad[i], 1, &err) != -EINVAL)
			fail_msg("event %u is taken", i);
		assert_int_equal(trace_writer_close(w, &err), -EINVAL);
	}
	assert_true(file_bytes(part) > 0); /* what was written stays */
	assert_int_equal(trace_writer_open(&w, path, &info, &err), -EINVAL);
	assert_int_equal(trace_writer_open(&w, path, &some_info, &err), 0);
	trace_writer_drop(w);
	assert_int_equal(file_bytes(part), -1);
}

static void test_no_room(void **state)
{
	struct trace_event ev = {.kind = TRACE_STORE, .size = 8};
	struct some_events s = {.state = 3};
	struct trace_writer *w;
	struct error err = {0};

	(void)state;
	assert_int_equal(trace_writer_open(&w, "/dev/full", &some_info, &err), -ENOSPC);
	assert_int_equal(trace_writer_open(&w, "/dev/null", &some_info, &err), 0);
	for (unsigned i = 0; i < 2000000; i++) {
		ev.addr = some_number(&s, 1 << 20) * 8;
		ev.value = some_number(&s, 1ull << 60);
		assert_int_equal(trace_put(w, &ev, 1, &err), 0);
	}
	assert_int_equal(trace_writer_close(w, &err), 0);
	assert_int_equal(trace_writer_close(NULL, &err), 0);
	trace_reader_close(NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_many_sites), cmocka_unit_test(test_pipe),
		cmocka_unit_test(test_seek), cmocka_unit_test(test_seek_insns_first), cmocka_unit_test(test_cut_off),
		cmocka_unit_test(test_damaged), cmocka_unit_test(test_lies), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_no_room),
	};
	char command[128];
	int failed;

	snprintf(dir, sizeof(dir), "/tmp/test-trace-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/trace", dir);
	snprintf(part, sizeof(part), "%s.part", path);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) || failed;
}
