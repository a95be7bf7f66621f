/*
 * Fuzzing the importers of foreign traces: whatever a file holds, only events come out that are some, and a refusal is one
 * line that begins with the file's name. The first byte of the input chooses format and options, the rest is the file;
 * for a trace with page tables the second byte says how much of it is the dump. With clang -fsanitize=fuzzer this is a
 * libFuzzer target; without it a main() replays files, or makes up traces and damages them:
 *
 *	fuzz_import [-n ROUNDS] [-s SEED] [FILE...]
 */
#include "arch/x86.h"
#include "base/util.h"
#include "trace/importer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct trace_format *const formats[] = {
	&trace_format_lackey, &trace_format_champsim, &trace_format_drmemtrace, &trace_format_pt_dump,
};
#define FORMATS   ARRAY_SIZE(formats)
#define WITH_DUMP 0x04u
#define FOLD      0x08u
#define FETCHES   0x30u
#define AS_HOST   0x40u
#define AS_BYTES  0x80u

static void must(bool ok)
{
	if (!ok)
		abort();
}

struct seen {
	bool begun, tables;
	uint64_t memory;
};

static int take_info(void *ctx, const struct trace_info *info, struct error *err)
{
	struct seen *s = ctx;

	(void)err;
	must(!s->begun && memchr(info->source, 0, sizeof(info->source)));
	must(!info->tables || (info->memory && info->memory % PAGE_SIZE == 0 && info->memory <= TRACE_GPA_END));
	s->begun = true;
	s->tables = info->tables;
	s->memory = info->memory;
	return 0;
}

/* A table, and what it leads to, lies in memory, which reaches further by the hole if it has more than 3 GiB. */
static void check_table(const struct seen *s, const struct trace_event *ev)
{
	uint64_t end = s->memory + (s->memory > 3 * SIZE_1G ? SIZE_1G : 0);

	must(s->tables && ev->addr < end);
	for (unsigned i = 0; i < 512; i++) {
		uint64_t e = get_u64(trace_event_page(ev) + 8 * i);

		must(!e || (e & PTE_P && (e & PTE_ADDR_MASK) < end));
	}
}

static int take_events(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	const struct seen *s = ctx;

	(void)err;
	must(s->begun && n);
	for (unsigned i = 0; i < n; i++) {
		must(!trace_event_check(&ev[i], NULL));
		if (trace_is_access(&ev[i]))
			must(ev[i].mode == TRACE_USER && ev[i].size <= IMPORT_PIECE &&
			     ev[i].addr + ev[i].size <= IMPORT_USER_END && ev[i].pc < IMPORT_USER_END);
		if (ev[i].kind == TRACE_PAGE)
			check_table(s, &ev[i]);
	}
	return 0;
}

/* A file of the bytes; its name in @option behind what stands there already. */
static int file_of(const uint8_t *data, size_t size, char *option)
{
	int fd = memfd_create("fuzz", 0);

	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	sprintf(option + strlen(option), "/proc/self/fd/%d", fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const fetches[] = {"fetches=page", "fetches=all", "fetches=none", "fetches=page"};
	char path[64] = "", dump[64] = "pt-dump=", host[64] = "pt-dump-host=";
	const struct trace_format *f;
	struct trace_options o = {0};
	struct seen seen = {0};
	struct trace_import to = {take_info, take_events, &seen};
	struct error err = {0};
	int trace_fd, dump_fd = -1, rc;
	size_t split = 0;

	if (size < 2)
		return 0;
	f = formats[data[0] % FORMATS];
	if (f != &trace_format_pt_dump) {
		o.option[o.count++] = fetches[(data[0] & FETCHES) / 0x10];
		o.option[o.count++] = data[0] & FOLD ? "addresses=fold" : "addresses=refuse";
	}
	if (data[0] & WITH_DUMP) {
		bool as_host = data[0] & AS_HOST || f == &trace_format_pt_dump;

		split = (size - 2) * data[1] / 255;
		dump_fd = file_of(data + 2, split, dump);
		sprintf(host + strlen(host), "%s", dump + strlen("pt-dump="));
		if (f != &trace_format_pt_dump)
			o.option[o.count++] = dump;
		if (as_host)
			o.option[o.count++] = host;
		if (data[0] & AS_BYTES)
			o.option[o.count++] = "compat=dmt-artifact";
	}
	trace_fd = file_of(data + 2 + split, size - 2 - split, path);
	for (unsigned i = 0; i < FORMATS; i++)
		if (formats[i]->detect)
			formats[i]->detect(data + 2 + split, min_u64(size - 2 - split, TRACE_DETECT_BYTES));
	rc = f->import(path, &o, &to, &err);
	must(!rc || (rc == -EBADMSG && strncmp(err.text, "/proc/self/fd/", 14) == 0 && !strchr(err.text, '\n')));
	close(trace_fd);
	if (dump_fd >= 0)
		close(dump_fd);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "fuzz_main.h"
#include "pick.h"

#define INPUT_BYTES 16384u

struct input {
	uint8_t data[INPUT_BYTES];
	size_t n;
};

static void add(struct input *in, const void *data, size_t n)
{
	n = min_u64(n, INPUT_BYTES - in->n);
	memcpy(in->data + in->n, data, n);
	in->n += n;
}

static uint64_t some_address(void) { return pick(50) ? 0x400000 + pick(1 << 16) : next_random(&random_state); }

static void add_lackey(struct input *in)
{
	static const char *const kinds[] = {"I ", " L", " S", " M", "I ", "==", "SB"};
	char line[64];

	for (unsigned n = pick(60); n; n--)
		add(in, line, (size_t)snprintf(line, sizeof(line), "%s %08llx,%u\n", kinds[pick(ARRAY_SIZE(kinds))],
					       (unsigned long long)some_address(), pick(40) ? 1 + pick(8) : pick(70000)));
}

static void add_champsim(struct input *in)
{
	for (unsigned n = pick(20); n; n--) {
		uint64_t word[8] = {some_address(), pick(2) * 257u};

		for (unsigned i = 2; i < 8; i++)
			word[i] = pick(2) ? some_address() : 0;
		add(in, word, sizeof(word));
	}
}

static void add_record(struct input *in, unsigned layout, unsigned type, unsigned size, uint64_t addr)
{
	static const unsigned bytes[] = {12, 20, 20}, shift[] = {0, 6, 30};
	uint8_t r[20] = {0};

	put_u16(r, (uint16_t)(type >= 2 ? type + shift[layout] : type));
	put_u16(r + 2, (uint16_t)size);
	put_u64(r + 4, addr);
	add(in, r, bytes[layout]);
}

static void add_drmemtrace(struct input *in)
{
	static const uint8_t types[] = {0, 0, 0, 1, 1, 10, 10, 10, 11, 16, 17, 22, 24, 28, 29, 30, 48, 2, 47};
	unsigned layout = pick(3);

	add_record(in, layout, 25, 0, 1 + pick(6));
	for (unsigned n = pick(80); n; n--) {
		unsigned type = pick(60) ? types[pick(sizeof(types))] : pick(80);

		add_record(in, layout, type, type == 17 ? pick(9) : pick(30) ? 1 + pick(15) : pick(65536),
			   type == 24 ? pick(3) : type == 17 ? 0x0102030405060708 : some_address());
	}
	if (pick(4))
		add_record(in, layout, 26, 0, 0);
}

static void add_dump(struct input *in)
{
	uint64_t va = (uint64_t)pick(4) << 39 | (uint64_t)pick(4) << 21;
	bool bytes = pick(4) == 0;
	char line[128];

	if (pick(2))
		add(in, line, (size_t)snprintf(line, sizeof(line), "%16u\n", pick(100)));
	for (unsigned n = pick(100); n; n--) {
		uint64_t table[5] = {1, 2 + (va >> 39 & 511), 600 + (va >> 30 & 4095), 5000 + (va >> 21 & 0xfffff),
				     pick(8) ? 0x200000 + (va >> 12 & 0xffff) : pick64(1ull << 28)};

		for (unsigned i = 0; i < 5 && bytes; i++)
			table[i] <<= 12;
		add(in, line, (size_t)snprintf(line, sizeof(line), "%016llx,%llx,%llx,%llx,%llx,%llx\n",
					       (unsigned long long)va, (unsigned long long)table[0],
					       (unsigned long long)table[1], (unsigned long long)table[2],
					       (unsigned long long)table[3], (unsigned long long)table[4]));
		va += 4096ull * (pick(8) ? 1 : pick(1 << 20));
	}
}

static void pack(struct input *in, size_t from)
{
	static uint8_t packed[INPUT_BYTES];
	z_stream z = {.next_in = in->data + from, .avail_in = (uInt)(in->n - from), .next_out = packed,
		      .avail_out = (uInt)(INPUT_BYTES - from)};

	must(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	deflate(&z, Z_FINISH);
	memcpy(in->data + from, packed, z.total_out);
	in->n = from + z.total_out;
	deflateEnd(&z);
}

static void make_input(struct input *in)
{
	static void (*const make[FORMATS])(struct input *) = {add_lackey, add_champsim, add_drmemtrace, add_dump};
	size_t dump = 0;

	in->n = 2;
	in->data[0] = (uint8_t)(pick(64) * 4 + pick(FORMATS));
	if (in->data[0] & WITH_DUMP)
		add_dump(in);
	dump = in->n;
	make[in->data[0] % FORMATS](in);
	if (pick(4) == 0)
		pack(in, dump);
	for (unsigned n = pick(3) ? 0 : pick(5); n; n--)
		in->data[2 + pick((unsigned)in->n - 1) % (in->n - 1)] = pick(2) ? (uint8_t)pick(256) : (uint8_t)"\n,0f "[pick(5)];
	if (pick(4) == 0)
		in->n = 2 + pick((unsigned)in->n - 1);
	/* The second byte says where the dump ends, only roughly: the trace may get its last row. */
	in->data[1] = in->n > 2 ? (uint8_t)min_u64(255, ((dump - 2) * 255 + in->n - 3) / (in->n - 2)) : 0;
}

static void run_rounds(uint64_t rounds, uint64_t seed)
{
	static struct input in;

	random_state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		uint8_t *copy;

		make_input(&in);
		copy = malloc(in.n); /* of exactly this size, so that a read past it is seen */
		must(copy);
		memcpy(copy, in.data, in.n);
		LLVMFuzzerTestOneInput(copy, in.n);
		free(copy);
	}
	printf("%llu traces, no failure\n", (unsigned long long)rounds);
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 20000, (size_t)1 << 20, run_rounds); }

#endif
