/*
 * Importers of foreign traces, on small files made here to the layouts in docs/trace-import.md: what events come out, and
 * that files that are cut off or lie are refused with file, place and reason after everything before was given out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "arch/x86.h"
#include "base/util.h"
#include "trace/importer.h"
#include <errno.h>
#include <lzma.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

/* ---- a file of bytes, and what comes out of it ---- */

struct bytes {
	uint8_t *data;
	size_t n, room;
};

static void add(struct bytes *b, const void *data, size_t n)
{
	while (b->n + n > b->room) {
		b->room = b->room ? 2 * b->room : 4096;
		b->data = realloc(b->data, b->room);
		assert_non_null(b->data);
	}
	memcpy(b->data + b->n, data, n);
	b->n += n;
}

static void add_text(struct bytes *b, const char *text) { add(b, text, strlen(text)); }

static void __attribute__((format(printf, 2, 3))) add_line(struct bytes *b, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	add_text(b, text);
}

static int file_of(const struct bytes *b, char path[32])
{
	int fd = memfd_create("trace", 0);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, b->data, b->n), (ssize_t)b->n);
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

#define EVENTS_MAX 4096u
struct result {
	struct trace_info info;
	unsigned begun, n;
	struct trace_event ev[EVENTS_MAX];
	uint8_t (*page)[4096];
	unsigned pages;
	int fail_at; /* put() refuses at this event, 0: never */
};
static struct result got;

static int take_info(void *ctx, const struct trace_info *info, struct error *err)
{
	struct result *r = ctx;

	(void)err;
	r->info = *info;
	r->begun++;
	return 0;
}

static int take_events(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct result *r = ctx;

	assert_int_equal(r->begun, 1);
	assert_true(n > 0);
	for (unsigned i = 0; i < n; i++) {
		struct error e = {0};

		if (trace_event_check(&ev[i], &e))
			fail_msg("%s", e.text);
		assert_true(r->n < EVENTS_MAX);
		r->ev[r->n] = ev[i];
		if (ev[i].kind == TRACE_PAGE) {
			r->page = realloc(r->page, (r->pages + 1) * sizeof(*r->page));
			memcpy(r->page[r->pages], trace_event_page(&ev[i]), 4096);
			r->ev[r->n].value = r->pages++;
		}
		if (r->fail_at && (int)++r->n == r->fail_at)
			return error_set(err, -ENOSPC, "full");
		r->n += !r->fail_at;
	}
	return 0;
}

static struct error why;

/* Imports @b; options end with NULL. */
static int import_bytes(const struct trace_format *f, const struct bytes *b, ...)
{
	struct trace_import to = {take_info, take_events, &got};
	struct trace_options o = {0};
	const char *option;
	char path[32];
	int fd = file_of(b, path), rc, fail_at = got.fail_at;
	va_list ap;

	free(got.page);
	memset(&got, 0, sizeof(got));
	got.fail_at = fail_at;
	why = (struct error){0};
	va_start(ap, b);
	while ((option = va_arg(ap, const char *)))
		o.option[o.count++] = option;
	va_end(ap);
	rc = f->import(path, &o, &to, &why);
	close(fd);
	return rc;
}

static void refused(int rc, int code, const char *text)
{
	assert_int_equal(rc, code);
	if (!strstr(why.text, text))
		fail_msg("'%s' does not say '%s'", why.text, text);
}

/* Event number @i, as text: kind, flags, address, size, pc. */
static void event(unsigned i, const char *want)
{
	const struct trace_event *ev = &got.ev[i];
	char text[128];

	assert_true(i < got.n);
	if (trace_is_access(ev))
		snprintf(text, sizeof(text), "%s%s%s %llx,%u @%llx+%u", trace_kind_name(ev->kind),
			 ev->flags & TRACE_FIRST ? "!" : "", ev->flags & TRACE_AGAIN ? "again" : "",
			 (unsigned long long)ev->addr, ev->size, (unsigned long long)ev->pc, trace_insn_bytes(ev));
	else
		snprintf(text, sizeof(text), "%s %llu", trace_kind_name(ev->kind), (unsigned long long)ev->value);
	assert_string_equal(text, want);
	if (trace_is_access(ev))
		assert_int_equal(ev->mode, TRACE_USER);
}

static void events(const char *const *want)
{
	unsigned i = 0;

	for (; want[i]; i++)
		event(i, want[i]);
	assert_int_equal(got.n, i);
}

static bool detected(const struct trace_format *f, const struct bytes *b)
{
	return f->detect && f->detect(b->data, min_u64(b->n, TRACE_DETECT_BYTES));
}

static void drop(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){0};
}

/* ---- packing ---- */

static struct bytes gzipped(const struct bytes *b)
{
	struct bytes out = {malloc(b->n + 4096), 0, b->n + 4096};
	z_stream z = {.next_in = b->data, .avail_in = (uInt)b->n, .next_out = out.data, .avail_out = (uInt)out.room};

	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	out.n = z.total_out;
	deflateEnd(&z);
	return out;
}

static struct bytes xzed(const struct bytes *b, uint32_t preset)
{
	struct bytes out = {malloc(b->n + 4096), 0, b->n + 4096};

	assert_int_equal(lzma_easy_buffer_encode(preset, LZMA_CHECK_CRC64, NULL, b->data, b->n, out.data, &out.n, out.room),
			 LZMA_OK);
	return out;
}

/* ---- lackey ---- */

static void test_lackey(void **state)
{
	static const char *const want[] = {
		"fetch! 401000,3 @401000+3", "read 1ffeffe7e,8 @401000+3",
		"write! 1ffeffe70,4 @401003+5", "read 402000,2 @401003+5", "write 402000,2 @401003+5",
		"fetch! 401ffe,4 @401ffe+4", /* up to the next page, which the instruction after it lies in */
		"read! 10003c,4 @402002+1", "read 100040,64 @402002+1", "read 100080,32 @402002+1",
		"insns 4", NULL,
	};
	struct bytes b = {0};

	(void)state;
	add_text(&b, "==77== Lackey, an example Valgrind tool\n==77== Command: ./a\n==77== \n"
		     "I  00401000,3\n L 1ffeffe7e,8\nI  00401003,5\n S 1ffeffe70,4\n M 00402000,2\nSB 00401ffe\n"
		     "I  00401ffe,4\nI  00402002,1\r\n L 0010003c,100\n--77-- bye\n");
	assert_true(detected(&trace_format_lackey, &b));
	assert_int_equal(import_bytes(&trace_format_lackey, &b, NULL), 0);
	events(want);
	assert_false(got.info.tables);
	assert_non_null(strstr(got.info.source, "lackey"));

	assert_int_equal(import_bytes(&trace_format_lackey, &b, "fetches=all", NULL), 0);
	event(2, "fetch! 401003,5 @401003+5");
	event(3, "write 1ffeffe70,4 @401003+5");
	assert_int_equal(got.n, 12);
	assert_int_equal(import_bytes(&trace_format_lackey, &b, "fetches=none", NULL), 0);
	event(0, "read! 1ffeffe7e,8 @401000+3");
	assert_int_equal(got.n, 8);
	refused(import_bytes(&trace_format_lackey, &b, "fetches=some", NULL), -EINVAL, "--fetches 'some'");
	refused(import_bytes(&trace_format_lackey, &b, "colour=red", NULL), -EINVAL, "--colour");
	refused(import_bytes(&trace_format_lackey, &b, "compat=dmt-artifact", NULL), -EINVAL, "--pt-dump");
	drop(&b);
}

static void test_lackey_strange(void **state)
{
	static const struct { const char *text, *says; unsigned events; } cases[] = {
		{"I  401000,3\n L 402000,8\nhello\n", "offset 24: 'hello' is no line of lackey's", 3},
		{"I  401000,3\n L 402000,8", "offset 12: ends in the middle of a line", 2},
		{"I  401000,3\n L 4020", "offset 12: ends in the middle", 2},
		{"I  401000,3\n L 402000\n", "no line of lackey's", 2},
		{"I  401000,3\n L 402000,\n", "no line of lackey's", 2},
		{"I  401000,3\n L ,8\n", "no line of lackey's", 2},
		{"I  401000,3\n L 402000,0\n", "an access of 0 bytes", 2},
		{"I  401000,3\n L 402000,99999\n", "an access of 99999 bytes", 2},
		{"I  401000,3\n S ffff800000000000,8\n", "offset 12: a store of 8 bytes at 0xffff800000000000", 2},
		{"I  401000,3\n S 7ffffffffffe,8\n", "where no program has memory", 2},
		{"I  401000,3\n S 11111111111111111,8\n", "no line of lackey's", 2},
		{"I  401000,200\n", "offset 0: an instruction of 200 bytes", 0},
	};
	char unit[5000];
	struct bytes b = {0};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bytes c = {0};

		add_text(&c, cases[i].text);
		refused(import_bytes(&trace_format_lackey, &c, NULL), -EBADMSG, cases[i].says);
		assert_memory_equal(why.text, "/proc/self/fd/", 14);
		/* What was before it is there, but the instruction that it breaks off in does not count. */
		if (cases[i].events)
			event(0, "fetch! 401000,3 @401000+3");
		assert_int_equal(got.n, cases[i].events ? cases[i].events - 1 : 0);
		drop(&c);
	}
	memset(unit, 'x', sizeof(unit));
	for (unsigned i = 0; i < 20; i++)
		add(&b, unit, sizeof(unit));
	refused(import_bytes(&trace_format_lackey, &b, NULL), -EBADMSG, "a line of more than 65536 bytes");
	assert_false(detected(&trace_format_lackey, &b));
	drop(&b);
	assert_int_equal(import_bytes(&trace_format_lackey, &b, NULL), 0);
	assert_int_equal(got.n, 0);
}

/* More than a batch and a window; who takes events fails. */
static void test_lackey_long(void **state)
{
	struct bytes b = {0};

	(void)state;
	for (unsigned i = 0; i < 3000; i++)
		add_line(&b, "I  %08x,4\n L %08x,8\n==1== %0250d\n", 0x401000 + i % 1000 * 4, 0x800000 + i * 8, i);
	assert_int_equal(import_bytes(&trace_format_lackey, &b, NULL), 0);
	assert_int_equal(got.n, 3000 + 1 + 12); /* loads, one fetch, counts */
	event(got.n - 1, "insns 184");
	got.fail_at = 700;
	refused(import_bytes(&trace_format_lackey, &b, NULL), -ENOSPC, "full");
	assert_int_equal(got.n, 700);
	got.fail_at = 0;
	drop(&b);
}

/* ---- ChampSim ---- */

static void add_champsim(struct bytes *b, uint64_t ip, const uint64_t stores[2], const uint64_t loads[4])
{
	uint8_t r[64] = {0};

	put_u64(r, ip);
	r[8] = r[9] = 1;
	r[10] = r[12] = 26;
	memcpy(r + 16, stores, 16);
	memcpy(r + 32, loads, 32);
	add(b, r, sizeof(r));
}

static struct bytes champsim_trace(void)
{
	struct bytes b = {0};

	add_champsim(&b, 0x400100, (uint64_t[2]){0}, (uint64_t[4]){0});
	add_champsim(&b, 0x400104, (uint64_t[2]){0, 0x7fff0000}, (uint64_t[4]){0x1000fff, 0, 0x2000});
	add_champsim(&b, 0x500104, (uint64_t[2]){0x3000}, (uint64_t[4]){0});
	return b;
}

static const char *const champsim_events[] = {
	"fetch! 400100,1 @400100+0", "read! 1000fff,1 @400104+0", "read 2000,1 @400104+0", "write 7fff0000,1 @400104+0",
	"fetch! 500104,1 @500104+0", "write 3000,1 @500104+0", "insns 3", NULL,
};

static void test_champsim(void **state)
{
	struct bytes b = champsim_trace(), z = gzipped(&b), x = xzed(&b, 9), two = {0};

	(void)state;
	assert_int_equal(import_bytes(&trace_format_champsim, &b, NULL), 0);
	events(champsim_events);
	assert_int_equal(import_bytes(&trace_format_champsim, &z, NULL), 0);
	events(champsim_events);
	assert_int_equal(import_bytes(&trace_format_champsim, &x, NULL), 0);
	events(champsim_events);
	/* Packed pieces one behind the other are one trace. */
	add(&two, z.data, z.n);
	add(&two, z.data, z.n);
	assert_int_equal(import_bytes(&trace_format_champsim, &two, NULL), 0);
	event(got.n - 1, "insns 6");
	two.n = 0;
	add(&two, x.data, x.n);
	add(&two, x.data, x.n);
	assert_int_equal(import_bytes(&trace_format_champsim, &two, NULL), 0);
	event(got.n - 1, "insns 6");
	drop(&two);
	drop(&b);
	drop(&z);
	drop(&x);
}

static void test_champsim_strange(void **state)
{
	struct bytes b = champsim_trace(), z, c = {0};
	static const char zip[] = "PK\3\4 ...";

	(void)state;
	b.n -= 10;
	refused(import_bytes(&trace_format_champsim, &b, NULL), -EBADMSG, "offset 128: ends in the middle of an instruction");
	event(0, "fetch! 400100,1 @400100+0");
	event(got.n - 1, "insns 1"); /* the second is known to be complete when a third begins */
	b.n += 10;
	b.data[64 + 8] = 2;
	refused(import_bytes(&trace_format_champsim, &b, NULL), -EBADMSG, "offset 64: no ChampSim instruction");
	b.data[64 + 8] = 0;
	b.data[64 + 32 + 7] = 0x80;
	refused(import_bytes(&trace_format_champsim, &b, NULL), -EBADMSG, "offset 64: a load of 1 bytes at 0x8000000001000fff");
	assert_int_equal(import_bytes(&trace_format_champsim, &b, "addresses=fold", NULL), 0);
	events(champsim_events);
	/* Packed ones that are cut off or damaged: what was unpacked before counts. */
	for (unsigned i = 0; i < 5000; i++)
		add_champsim(&b, 0x400000 + i % 64 * 4, (uint64_t[2]){0}, (uint64_t[4]){0});
	b.data[64 + 32 + 7] = 0;
	z = gzipped(&b);
	z.n /= 2;
	refused(import_bytes(&trace_format_champsim, &z, NULL), -EBADMSG, "ends in the middle of gzip data");
	z.n = z.n / 2;
	memset(z.data + z.n - 60, 0xff, 60);
	assert_int_equal(import_bytes(&trace_format_champsim, &z, NULL), -EBADMSG);
	assert_non_null(strstr(why.text, "of the compressed file"));
	drop(&z);
	z = xzed(&b, 1);
	z.n -= 9;
	refused(import_bytes(&trace_format_champsim, &z, NULL), -EBADMSG, "ends in the middle of xz data");
	z.data[z.n / 2] ^= 0x55;
	refused(import_bytes(&trace_format_champsim, &z, NULL), -EBADMSG, "damaged xz data");
	drop(&z);
	add(&c, zip, sizeof(zip));
	refused(import_bytes(&trace_format_champsim, &c, NULL), -EBADMSG, "a zip archive; only gzip and xz");
	drop(&c);
	drop(&b);
}

/* An xz stream whose decoder would need more than it may have. */
static void test_xz_memory(void **state)
{
	lzma_options_lzma o;
	lzma_filter filters[] = {{LZMA_FILTER_LZMA2, &o}, {LZMA_VLI_UNKNOWN, NULL}};
	struct bytes b = champsim_trace(), x = {malloc(8192), 0, 8192};
	uint8_t *size;

	(void)state;
	assert_false(lzma_lzma_preset(&o, 0));
	o.dict_size = 1u << 20;
	assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_NONE, NULL, b.data, b.n, x.data, &x.n, x.room), LZMA_OK);
	/* The header of the block has, after the filter's number, the size of the dictionary in one byte; a checksum ends it. */
	size = memmem(x.data + 14, 16, "\x21\1", 2);
	assert_non_null(size);
	assert_int_equal(size[2], 16);
	size[2] = 36; /* 1 GiB */
	put_u32(x.data + 12 + (x.data[12] + 1) * 4 - 4, lzma_crc32(x.data + 12, (size_t)x.data[12] * 4, 0));
	refused(import_bytes(&trace_format_champsim, &x, NULL), -EBADMSG, "needs more than 256 MiB of memory");
	drop(&b);
	drop(&x);
}

/* ---- DynamoRIO ---- */

struct dr {
	struct bytes b;
	unsigned bytes, shift;
};

static void add_dr(struct dr *d, unsigned type, unsigned size, uint64_t addr)
{
	uint8_t r[20] = {0};

	put_u16(r, (uint16_t)(type >= 2 ? type + d->shift : type));
	put_u16(r + 2, (uint16_t)size);
	put_u64(r + 4, addr);
	put_u64(r + 12, 0x1234567);
	add(&d->b, r, d->bytes);
}

enum { DR_INSTR = 10, DR_BUNDLE = 17, DR_THREAD = 22, DR_PID = 24, DR_HEADER = 25, DR_FOOTER = 26, DR_MARKER = 28,
       DR_NO_FETCH = 29, DR_MAYBE_FETCH = 30 };

static struct dr dr_trace(unsigned bytes, unsigned shift)
{
	struct dr d = {.bytes = bytes, .shift = shift};

	add_dr(&d, DR_HEADER, 0, 1);
	add_dr(&d, DR_THREAD, 4, 77);
	add_dr(&d, DR_PID, 4, 76);
	add_dr(&d, DR_MARKER, 2, 0x123456789abcdef0);
	add_dr(&d, DR_INSTR, 3, 0x401000);
	add_dr(&d, 0, 8, 0x7ffd1000);
	add_dr(&d, DR_BUNDLE, 3, 0x050402); /* lengths 2, 4, 5 */
	add_dr(&d, 1, 16, 0x7ffd1008);
	add_dr(&d, 2, 1, 0x9000);           /* prefetch */
	add_dr(&d, 16, 2, 0x402000);        /* return */
	add_dr(&d, 0, 4, 0x5000);
	add_dr(&d, DR_NO_FETCH, 2, 0x402000);
	add_dr(&d, 0, 4, 0x5004);
	add_dr(&d, 1, 4, 0x6004);
	add_dr(&d, DR_FOOTER, 0, 0);
	return d;
}

static void test_drmemtrace(void **state)
{
	static const char *const want[] = {
		"fetch! 401000,3 @401000+3", "read 7ffd1000,8 @401000+3", "write! 7ffd1008,16 @401009+5",
		"fetch! 402000,2 @402000+2", "read 5000,4 @402000+2", "read!again 5004,4 @402000+2",
		"write 6004,4 @402000+2", "insns 5", NULL,
	};
	static const unsigned layouts[][2] = {{12, 0}, {20, 6}, {20, 30}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct dr d = dr_trace(layouts[i][0], layouts[i][1]);
		struct bytes z = gzipped(&d.b);

		assert_true(detected(&trace_format_drmemtrace, &d.b));
		assert_true(detected(&trace_format_drmemtrace, &z));
		assert_false(detected(&trace_format_lackey, &d.b));
		assert_false(detected(&trace_format_pt_dump, &d.b));
		assert_int_equal(import_bytes(&trace_format_drmemtrace, &d.b, NULL), 0);
		events(want);
		assert_int_equal(import_bytes(&trace_format_drmemtrace, &z, NULL), 0);
		events(want);
		/* Cut off anywhere: refused, and what comes out is the beginning of the whole. */
		for (size_t n = d.b.n - 1; n > 0; n -= n > 7 ? 7 : n) {
			struct bytes cut = {d.b.data, n, n};

			refused(import_bytes(&trace_format_drmemtrace, &cut, NULL), -EBADMSG, "/proc/self/fd/");
			for (unsigned j = 0; j < got.n && got.ev[j].kind != TRACE_INSNS; j++)
				event(j, want[j]);
		}
		drop(&z);
		drop(&d.b);
	}
}

static void test_drmemtrace_processes(void **state)
{
	struct dr d = {.bytes = 12};

	(void)state;
	add_dr(&d, DR_HEADER, 0, 2);
	add_dr(&d, DR_PID, 4, 500);
	add_dr(&d, DR_INSTR, 1, 0x1000);
	add_dr(&d, DR_PID, 4, 500);
	add_dr(&d, DR_INSTR, 1, 0x1001);
	add_dr(&d, DR_PID, 4, 501);
	add_dr(&d, DR_INSTR, 1, 0x1000);
	add_dr(&d, DR_PID, 4, 500);
	add_dr(&d, DR_INSTR, 0, 0x2000); /* without a size: says where, is not counted */
	add_dr(&d, 0, 0, 0x3000);
	add_dr(&d, 1, 2, 0x3004);
	add_dr(&d, DR_FOOTER, 0, 0);
	assert_int_equal(import_bytes(&trace_format_drmemtrace, &d.b, NULL), 0);
	event(0, "fetch! 1000,1 @1000+1");
	event(1, "switch 1");
	event(2, "fetch! 1000,1 @1000+1");
	event(3, "switch 0");
	event(4, "read! 3000,1 @2000+0");
	event(5, "write! 3004,2 @2000+0");
	event(6, "insns 3");
	assert_int_equal(got.n, 7);
	drop(&d.b);
}

static void test_drmemtrace_strange(void **state)
{
	static const struct { unsigned type, size; uint64_t addr; const char *says; } cases[] = {
		{300, 0, 0, "offset 24: a record of an unknown type"},
		{DR_HEADER, 0, 1, "unknown type"},
		{50, 4, 0, "unknown type"},
		{DR_BUNDLE, 9, 0, "a bundle of 9 instructions"},
		{DR_INSTR, 1000, 0x1000, "an instruction of 1000 bytes"},
		{DR_INSTR, 3, 0x7fffffffffff, "an instruction of 3 bytes at 0x7fffffffffff"},
		{0, 4, 0x8000000000000000, "a load of 4 bytes at 0x8000000000000000"},
	};
	struct bytes raw = {0};
	uint64_t entry = 6ull << 61 | 2;
	struct dr d;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		d = (struct dr){.bytes = 12};
		add_dr(&d, DR_HEADER, 0, 1);
		add_dr(&d, DR_INSTR, 3, 0x1000);
		add_dr(&d, cases[i].type, cases[i].size, cases[i].addr);
		add_dr(&d, DR_FOOTER, 0, 0);
		refused(import_bytes(&trace_format_drmemtrace, &d.b, NULL), -EBADMSG, cases[i].says);
		event(0, "fetch! 1000,3 @1000+3");
		drop(&d.b);
	}
	/* A type of the artifact's own, which stands in no trace; a bundle with nothing before it; more behind the end. */
	d = (struct dr){.bytes = 20, .shift = 30};
	add_dr(&d, DR_HEADER, 0, 1);
	add_dr(&d, 0, 4, 0x1000);
	d.b.data[20] = 7;
	refused(import_bytes(&trace_format_drmemtrace, &d.b, NULL), -EBADMSG, "offset 20: a record of an unknown type");
	drop(&d.b);
	d = (struct dr){.bytes = 12};
	add_dr(&d, DR_HEADER, 0, 1);
	add_dr(&d, DR_BUNDLE, 1, 1);
	refused(import_bytes(&trace_format_drmemtrace, &d.b, NULL), -EBADMSG, "a bundle without an instruction");
	drop(&d.b);
	d = dr_trace(12, 0);
	add_dr(&d, DR_INSTR, 3, 0x1000);
	refused(import_bytes(&trace_format_drmemtrace, &d.b, NULL), -EBADMSG, "more behind the footer");
	d.b.data[0] = 99;
	refused(import_bytes(&trace_format_drmemtrace, &d.b, NULL), -EBADMSG, "offset 0: no header of a DynamoRIO trace");
	drop(&d.b);
	/* Raw records of the tracer. */
	add(&raw, &entry, 8);
	entry = 1ull << 61 | 0x1234;
	add(&raw, &entry, 8);
	assert_true(detected(&trace_format_drmemtrace, &raw));
	refused(import_bytes(&trace_format_drmemtrace, &raw, NULL), -EBADMSG, "needs the traced program and its libraries");
	drop(&raw);
}

/* ---- page tables ---- */

/* What the tables that came out say of @va: address and log2 of the page's size; -1: nothing. */
static int walk(uint64_t va, uint64_t *pa)
{
	uint64_t table = 0;
	unsigned shift = 39;

	for (unsigned i = 0; i < got.n; i++)
		if (got.ev[i].kind == TRACE_CR3)
			table = got.ev[i].value;
	for (;; shift -= 9) {
		const uint8_t *page = NULL;
		uint64_t e;

		for (unsigned i = 0; i < got.n; i++)
			if (got.ev[i].kind == TRACE_PAGE && got.ev[i].addr == table)
				page = got.page[got.ev[i].value];
		assert_non_null(page);
		e = get_u64(page + 8 * (va >> shift & 511));
		if (!(e & PTE_P))
			return -1;
		assert_int_equal(e & 0x67, PTE_P | PTE_W | PTE_A | PTE_D | (va >> 47 ? 0 : PTE_U));
		table = e & PTE_ADDR_MASK;
		if (shift == 12 || e & PTE_PS) {
			*pa = table | (va & ((1ull << shift) - 1));
			return (int)shift;
		}
	}
}

static void maps(uint64_t va, uint64_t want, int shift)
{
	uint64_t pa = 0;

	assert_int_equal(walk(va, &pa), shift);
	assert_int_equal(pa, want);
}

static uint64_t register_of(unsigned kind)
{
	for (unsigned i = 0; i < got.n; i++)
		if (got.ev[i].kind == kind) {
			assert_int_equal(got.ev[i].flags, TRACE_INITIAL);
			return got.ev[i].value;
		}
	fail();
	return 0;
}

static void add_large(struct bytes *b, uint64_t va, const uint64_t tables[3], uint64_t frame, unsigned rows)
{
	for (unsigned i = 0; i < rows; i++)
		add_line(b, "%016llx,%llx,%llx,%llx,%llx,%llx\n", (unsigned long long)va + i * 4096ull,
			 (unsigned long long)tables[0], (unsigned long long)tables[1], (unsigned long long)tables[2],
			 (unsigned long long)frame, (unsigned long long)frame + i);
}

static const uint64_t upper[3] = {0x100, 0x101, 0x102};

static struct bytes dump(void)
{
	struct bytes b = {0};

	add_line(&b, "%16d\n", 4711);
	add_text(&b, "0000000000400000,100,101,102,103,2000\n0000000000401000,100,101,102,103,2005\n");
	add_large(&b, 0x600000, upper, 0x4000, 512);
	add_large(&b, 0x800000, upper, 0x6000, 511); /* not all of it: a table, however odd */
	add_text(&b, "00007ffffffff000,100,105,106,107,2001\nffff888000000000,100,108,109,10a,0\n");
	return b;
}

static void test_pt_dump(void **state)
{
	struct bytes b = dump();
	char path[48] = "pt-dump=";
	struct bytes t = {0};
	int fd;

	(void)state;
	assert_true(detected(&trace_format_pt_dump, &b));
	assert_int_equal(import_bytes(&trace_format_pt_dump, &b, NULL), 0);
	assert_true(got.info.tables);
	assert_int_equal(got.info.memory, 0x6200000);
	assert_int_equal(got.pages, 11); /* 100..103, 6000, 105..10a but 104 */
	assert_int_equal(register_of(TRACE_CR3), 0x100000);
	assert_true(register_of(TRACE_CR0) & CR0_PG && register_of(TRACE_CR4) & CR4_PAE && register_of(TRACE_WRMSR) & EFER_LMA);
	maps(0x400123, 0x2000123, 12);
	maps(0x401000, 0x2005000, 12);
	maps(0x6fffff, 0x40fffff, 21);
	maps(0x801000, 0x6001000, 12);
	maps(0x7ffffffff008, 0x2001008, 12);
	maps(0xffff888000000010, 0x10, 12);
	assert_int_equal(walk(0x402000, &(uint64_t){0}), -1);
	assert_int_equal(walk(0x9ff000, &(uint64_t){0}), -1);
	/* The same with accesses behind it. */
	add_text(&t, "I  400000,4\n L 600008,8\n");
	fd = file_of(&b, path + 8);
	assert_int_equal(import_bytes(&trace_format_lackey, &t, path, NULL), 0);
	assert_true(got.info.tables);
	maps(0x600008, 0x4000008, 21);
	event(got.n - 3, "fetch! 400000,4 @400000+4");
	event(got.n - 2, "read 600008,8 @400000+4");
	close(fd);
	refused(import_bytes(&trace_format_lackey, &t, "pt-dump=/dev/null", NULL), -EINVAL, "must be a file");
	refused(import_bytes(&trace_format_pt_dump, &t, NULL), -EBADMSG, "line 1: no row of a page-table dump");
	refused(import_bytes(&trace_format_pt_dump, &b, "fetches=all", NULL), -EINVAL, "not an option of this format");
	drop(&t);
	drop(&b);
}

/* A page of 1 GiB: its "page directory" and "page tables" are its own frames. And memory at 3 GiB, which goes elsewhere. */
static void test_pt_dump_1g(void **state)
{
	struct bytes b = {0}, z;

	(void)state;
	add_line(&b, "%016d\n", 262144 + 1);
	for (unsigned i = 0; i < 512; i++)
		add_large(&b, 0x40000000 + i * SIZE_2M, (uint64_t[3]){0x100, 0x101, 0xc0000}, 0xc0000 + 512 * i, 512);
	add_text(&b, "0000000080000000,100,101,102,103,180001\n");
	z = gzipped(&b);
	assert_int_equal(import_bytes(&trace_format_pt_dump, &z, NULL), 0);
	maps(0x40000000, 0x1c0000000, 30);
	maps(0x7ffff123, 0x1fffff123, 30);
	maps(0x80000000, 0x180001000, 12);
	assert_int_equal(got.pages, 4);
	assert_int_equal(got.info.memory, 0x200000000 - SIZE_1G);
	drop(&b);
	drop(&z);
}

static void test_pt_dump_strange(void **state)
{
	static const struct { const char *text, *says; } cases[] = {
		{"0000000000000003\n0000000000001000,1,2,3,4,5\n", "ends after 1 rows, and the first line promises 3"},
		{"0000000000001000,1,2,3,4,5\n0000000000001000,1,2,3,4,5\n", "line 2: address 0x1000 after 0x1000: rows must ascend"},
		{"0000000000001000,1,2,3,4,5\n0000000000002000,9,2,3,4,5\n", "line 2: the table of the region at 0 is in frame 0x9"},
		{"0000000000001000,1,2,3,4,5\n0000000000002000,1,2,3,8,5\n", "is in frame 0x8 here and in 0x4 before"},
		{"0000000000001000,1,2,3,4,5\n0000000000200000,1,2,3,4,5\n", "where there is one already"},
		{"0000000000001000,1,1,3,4,5\n", "where there is one already"},
		{"0000000000001001,1,2,3,4,5\n", "0x1001 is not the address of a page"},
		{"0001000000000000,1,2,3,4,5\n", "is not the address of a page"},
		{"0000000000001000,1,2,3,4,10000000\n", "frame 0x10000000 lies beyond 1 TiB"},
		{"0000000000001000,1,2,3,4,fffffffffffffffff\n", "no row"},
		{"0000000000001000,1,2,3,4\n", "no row"},
		{"0000000000001000,1,2,3,4,5,6\n", "no row"},
		{"0000000000001000,1,2,3,4,5", "line 1: ends in the middle of a line"},
		{"            4711\nVM enter event not fired, please wait a while.\n", "line 2: no row"},
		{"            4711\n", "no rows"},
		{"99999999999999999999\n", "no row"},
	};
	struct bytes b = {0};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bytes c = {0};

		add_text(&c, cases[i].text);
		refused(import_bytes(&trace_format_pt_dump, &c, NULL), -EBADMSG, cases[i].says);
		assert_int_equal(got.begun, 0);
		drop(&c);
	}
	for (unsigned i = 0; i < 100; i++)
		add_text(&b, "111111");
	refused(import_bytes(&trace_format_pt_dump, &b, NULL), -EBADMSG, "line 1: a line of more than 256 bytes");
	drop(&b);
}

static void test_pt_dump_options(void **state)
{
	static const char guest[] = "0000000000001000,1,2,3,4,5\n0000000000002000,1,2,3,4,6\n";
	static const char bytes[] = "1000,1000,2000,3000,4000,5000\n2000,1000,2000,3000,4000,6000\n";
	char host[48] = "pt-dump-host=";
	struct bytes b = {0}, h = {0};
	int fd;

	(void)state;
	add_text(&b, guest);
	for (unsigned i = 1; i <= 5; i++)
		add_line(&h, "%016x,101,102,103,104,%x\n", i << 12, 0x200 + i);
	fd = file_of(&h, host + 13);
	assert_int_equal(import_bytes(&trace_format_pt_dump, &b, host, NULL), 0);
	maps(0x1000, 0x5000, 12);
	assert_non_null(strstr(got.info.source, "1 pages not in the host's dump"));
	close(fd);
	h.n -= 2 * strlen("0000000000001000,101,102,103,104,201\n");
	fd = file_of(&h, host + 13);
	refused(import_bytes(&trace_format_pt_dump, &b, host, NULL), -EBADMSG, "the host's dump does not have frame 0x4");
	close(fd);
	/* Frame numbers as byte addresses are within each other's pages; real byte addresses are not. */
	refused(import_bytes(&trace_format_pt_dump, &b, "compat=dmt-artifact", NULL), -EBADMSG,
		"0x1 as a byte address is within a page");
	b.n = 0;
	add_text(&b, bytes);
	assert_int_equal(import_bytes(&trace_format_pt_dump, &b, "compat=dmt-artifact", NULL), 0);
	maps(0x1008, 0x5008, 12);
	refused(import_bytes(&trace_format_pt_dump, &b, "compat=other", NULL), -EINVAL, "--compat 'other'");
	drop(&b);
	drop(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lackey),
		cmocka_unit_test(test_lackey_strange),
		cmocka_unit_test(test_lackey_long),
		cmocka_unit_test(test_champsim),
		cmocka_unit_test(test_champsim_strange),
		cmocka_unit_test(test_xz_memory),
		cmocka_unit_test(test_drmemtrace),
		cmocka_unit_test(test_drmemtrace_processes),
		cmocka_unit_test(test_drmemtrace_strange),
		cmocka_unit_test(test_pt_dump),
		cmocka_unit_test(test_pt_dump_1g),
		cmocka_unit_test(test_pt_dump_strange),
		cmocka_unit_test(test_pt_dump_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
