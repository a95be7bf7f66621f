/*
 * Fuzzing traces: whatever is in a file, a frame or a text, reading ends in order or with one clear line, in bounded
 * time and memory, and gives out no event that is none. What is read is written, read and followed again. With clang
 * -fsanitize=fuzzer this is a libFuzzer target; without it a main() replays files, or makes traces and damages them:
 *
 *	fuzz_trace [-n ROUNDS] [-s SEED] [FILE...]
 *
 * The first byte of an input says what the rest is: 0 a file, 1 a frame (number of events in 4 bytes, then it), 2 a
 * text.
 */
#include "fuzz_main.h"
#include "pick.h"
#include "some_events.h"
#include "trace/file_impl.h"
#include "trace/stat.h"
#include "trace/state.h"
#include "trace/text.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <xxhash.h>

#define INPUT_MAX   (64u << 10)
#define EVENTS_MAX  200000u /* that are looked at of an input */
#define STATE_PAGES 256u

enum { INPUT_FILE, INPUT_FRAME, INPUT_TEXT, INPUT_KINDS };

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_trace: %s\n", what);
	abort();
}

/* 0, or an error with one line. */
static bool fine(int ret, const struct error *err)
{
	must(ret <= 0 && (!ret || (err->code == ret && *err->text && !strchr(err->text, '\n'))),
	     "no line for an error");
	return !ret;
}

/* ---- what is done with events ---- */

struct follower {
	struct trace_state *state;
	struct trace_stat *stat;
	struct encoder *encoder;  /* writes them again */
	struct decoder *first, *decoder; /* of frames that are inputs; of those that are written again */
	uint64_t events;
};

static int check_event(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	(void)ctx;
	for (unsigned i = 0; i < n; i++)
		must(trace_event_check(&ev[i], err) == 0, "the state gives out what is no event");
	return 0;
}

/* The events of one frame, written and read again, are the same. */
static void again(struct follower *f, const struct trace_event *ev, unsigned n)
{
	struct trace_event back[256];
	const char *why;
	uint8_t *frame;
	size_t bytes;

	encoder_reset(f->encoder);
	for (unsigned i = 0; i < n; i++)
		must(encode(f->encoder, &ev[i]) == 0, "no memory");
	bytes = encoder_bytes(f->encoder);
	frame = malloc(bytes + DECODE_PADDING);
	encoder_finish(f->encoder, frame);
	must(!decoder_begin(f->decoder, frame, bytes, n), "what was written is no frame");
	for (unsigned at = 0, some; at < n; at += some) {
		some = decode(f->decoder, back, ARRAY_SIZE(back), &why);
		must(some && !why, "what was written cannot be read");
		for (unsigned i = 0; i < some; i++)
			must(same_event(&ev[at + i], &back[i]), "it is read as something else");
	}
	free(frame);
}

static bool follow(struct follower *f, const struct trace_event *ev, unsigned n)
{
	struct error err = {0};

	for (unsigned i = 0; i < n; i++)
		must(trace_event_check(&ev[i], &err) == 0, err.text);
	again(f, ev, n);
	must(trace_stat_put(f->stat, ev, n, &err) == 0, err.text);
	f->events += n;
	return fine(trace_state_put(f->state, ev, n, &err), &err) && f->events < EVENTS_MAX;
}

static void begin(struct follower *f)
{
	must(!trace_state_create(&f->state, STATE_PAGES, NULL) && !trace_stat_create(&f->stat, NULL), "no memory");
	f->events = 0;
}

static void end(struct follower *f)
{
	const struct trace_sink to = {check_event, NULL};
	struct trace_stats t;
	struct error err = {0};

	fine(trace_state_give(f->state, &to, &err), &err);
	trace_stat_get(f->stat, &t);
	must(t.events == f->events, "events are lost");
	trace_state_destroy(f->state);
	trace_stat_destroy(f->stat);
}

/* ---- inputs ---- */

static void try_file(struct follower *f, const uint8_t *data, size_t size)
{
	int fd = memfd_create("trace", MFD_CLOEXEC), ret;
	const struct trace_event *ev;
	struct trace_reader *r;
	struct error err = {0};
	struct trace_totals t;
	char path[64];
	unsigned n;

	must(fd >= 0 && pwrite(fd, data, size, 0) == (ssize_t)size, "no file");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fine(trace_reader_open(&r, path, &err), &err)) {
		while ((ret = trace_next(r, &ev, &n, &err)) > 0 && follow(f, ev, n))
			;
		fine(ret > 0 ? 0 : ret, &err);
		trace_reader_totals(r, &t);
		for (unsigned i = 0; i < 4; i++) {
			uint64_t to = i < 2 ? f->events / (i + 1) : size * 7919 % (t.events + 2);

			if (fine((i % 2 ? trace_seek_insns : trace_seek_event)(r, to, &err), &err) &&
			    (ret = trace_next(r, &ev, &n, &err)) > 0)
				must(i % 2 ? trace_reader_insns(r) >= to : trace_reader_event(r) == to,
				     "sought and not found");
		}
		trace_reader_close(r);
	}
	close(fd);
}

static void try_frame(struct follower *f, const uint8_t *data, size_t size)
{
	static struct trace_event ev[1024];
	uint8_t *frame;
	const char *why;
	unsigned n;

	if (size < 4)
		return;
	size -= 4;
	frame = calloc(1, size + DECODE_PADDING);
	memcpy(frame, data + 4, size);
	if (!decoder_begin(f->first, frame, size, get_u32(data))) {
		do {
			n = decode(f->first, ev, ARRAY_SIZE(ev), &why);
		} while (n && follow(f, ev, n) && !why);
	}
	free(frame);
}

static int text_begin(void *ctx, const struct trace_info *info, struct error *err)
{
	(void)ctx, (void)info, (void)err;
	return 0;
}

static int text_put(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	return follow(ctx, ev, n) ? 0 : error_set(err, -E2BIG, "enough");
}

static void try_text(struct follower *f, const uint8_t *data, size_t size)
{
	const struct trace_import to = {text_begin, text_put, f};
	const struct trace_options none = {.count = 0};
	int fd = memfd_create("text", MFD_CLOEXEC);
	struct error err = {0};
	char path[64];

	must(fd >= 0 && pwrite(fd, data, size, 0) == (ssize_t)size, "no file");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	trace_format_text.detect(data, size);
	fine(trace_format_text.import(path, &none, &to, &err), &err);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct encoder encoder; /* large: made once */
	static struct decoder first, decoder;
	struct follower f = {.encoder = &encoder, .first = &first, .decoder = &decoder};

	if (!encoder.find)
		must(!encoder_init(&encoder) && !decoder_init(&first) && !decoder_init(&decoder), "no memory");
	if (!size)
		return 0;
	begin(&f);
	switch (*data % INPUT_KINDS) {
	case INPUT_FILE:
		try_file(&f, data + 1, size - 1);
		break;
	case INPUT_FRAME:
		try_frame(&f, data + 1, size - 1);
		break;
	case INPUT_TEXT:
		try_text(&f, data + 1, size - 1);
		break;
	}
	end(&f);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

/* ---- making inputs ---- */

static struct some_events source = {.state = 1};

static struct trace_event an_event(void) { return pick(3) ? likely_event(&source) : any_event(&source); }

static size_t make_file(uint8_t *out)
{
	const struct trace_info info = {.creator = "fuzz", .memory = 1 << 20};
	struct trace_writer *w;
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/fuzz-trace-%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", getpid());
	must(trace_writer_open(&w, path, &info, NULL) == 0, "no trace");
	for (unsigned i = pick(pick(4) ? 300 : 8000); i; i--) {
		struct trace_event ev = an_event();

		must(trace_put(w, &ev, 1, NULL) == 0, "an event is refused");
	}
	must(trace_writer_close(w, NULL) == 0, "no trace");
	fd = open(path, O_RDONLY);
	n = read(fd, out, INPUT_MAX);
	close(fd);
	unlink(path);
	must(n > 0, "no trace");
	return (size_t)n;
}

static size_t make_frame(uint8_t *out)
{
	struct encoder e;
	unsigned n = 1 + pick(400);
	size_t bytes;

	must(encoder_init(&e) == 0, "no memory");
	for (unsigned i = 0; i < n && encoder_bytes(&e) < INPUT_MAX - 8192; i++) {
		struct trace_event ev = an_event();

		must(encode(&e, &ev) == 0, "no memory");
	}
	put_u32(out, encoder_events(&e));
	encoder_finish(&e, out + 4);
	bytes = encoder_bytes(&e) + 4;
	encoder_free(&e);
	return bytes;
}

static size_t make_text(uint8_t *out)
{
	FILE *f = fmemopen(out, INPUT_MAX, "w");
	long n;

	fputs("gnomon-trace-text 1\ncreator fuzz\nmemory 1\n\n", f);
	for (unsigned i = pick(60); i; i--) {
		struct trace_event ev = an_event();

		trace_text_print(&ev, f);
	}
	fflush(f);
	n = ftell(f);
	fclose(f);
	return (size_t)n;
}

/* ---- damaging them ---- */

static uint64_t odd_number(void)
{
	switch (pick(5)) {
	case 0:
		return pick(4);
	case 1:
		return 1ull << pick(64);
	case 2:
		return UINT64_MAX >> pick(64);
	case 3:
		return pick64(70000);
	default:
		return next_random(&random_state);
	}
}

static void damage_bytes(uint8_t *data, size_t size)
{
	size_t at = pick64(size);

	switch (pick(4)) {
	case 0:
		data[at] ^= (uint8_t)(1u << pick(8));
		break;
	case 1:
		data[at] = (uint8_t)odd_number();
		break;
	case 2:
		if (at + 4 <= size)
			put_u32(data + at, (uint32_t)odd_number());
		break;
	case 3:
		if (at + 8 <= size)
			put_u64(data + at, odd_number());
		break;
	}
}

/* The checksums of a file's blocks are made right again, so that what is behind them is looked at. */
static void repair(uint8_t *data, size_t size)
{
	for (size_t at = FILE_HEAD_BYTES; at + BLOCK_HEAD_BYTES <= size;) {
		size_t stored = get_u32(data + at + 4);

		if (stored > size - at - BLOCK_HEAD_BYTES)
			stored = size - at - BLOCK_HEAD_BYTES;
		put_u64(data + at + 32, XXH3_64bits(data + at + BLOCK_HEAD_BYTES, stored));
		put_u64(data + at + 40, XXH3_64bits(data + at, 40));
		at += BLOCK_HEAD_BYTES + stored;
	}
}

/* Of text, a piece of a word for another. */
static void damage_text(uint8_t *data, size_t size)
{
	static const char *const pieces[] = {
		" ", "\n", "=", "0x", "-1", "99999999999999999999", "first", "gpa=", "page 0x1000"};
	const char *piece = pieces[pick(ARRAY_SIZE(pieces))];
	size_t at = pick64(size);

	memcpy(data + at, piece, min_u64(strlen(piece), size - at));
}

static void make_up(uint64_t rounds, uint64_t seed)
{
	uint8_t *input = malloc(INPUT_MAX + 1), *copy = malloc(INPUT_MAX + 1);
	size_t size = 0;

	must(input && copy, "no memory");
	random_state = source.state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		if (i % 16 == 0) {
			static size_t (*const make[])(uint8_t *out) = {make_file, make_frame, make_text};

			input[0] = (uint8_t)pick(INPUT_KINDS);
			size = make[input[0]](input + 1);
		}
		memcpy(copy, input, size + 1);
		for (unsigned n = (unsigned)(i % 16 ? 1 + pick(4) : 0); n; n--)
			(*copy == INPUT_TEXT && pick(2) ? damage_text : damage_bytes)(copy + 1, size);
		if (*copy == INPUT_FILE && pick(4))
			repair(copy + 1, size);
		LLVMFuzzerTestOneInput(copy, 1 + (i % 16 && pick(8) == 0 ? pick64(size) : size));
	}
	printf("%llu traces\n", (unsigned long long)rounds);
	free(input);
	free(copy);
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 2000, INPUT_MAX, make_up); }

#endif
