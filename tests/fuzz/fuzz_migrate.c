/*
 * Fuzzing both ends of a migration with another end that says anything: sections that might come at that place, others,
 * damaged ones, and plain bytes. Nothing may crash, hang or use memory without bound, what is refused is refused with
 *one clear line, and the VM ends up where the outcome says. With clang -fsanitize=fuzzer this is a libFuzzer target;
 *without it a main() replays files, or makes up what is said. An input is a byte that says which end it is for, two
 *lengths of 16 bits, and what is said on three connections: so many bytes, so many, the rest.
 *
 *	fuzz_migrate [-n ROUNDS] [-s SEED] [FILE...]
 */
#include "vm/migrate_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGES       24u
#define INPUT_MAX   60000u /* fits a socket's buffer */
#define CONNECTIONS 3u     /* of one input */
#define HEAD        5u     /* before what is said */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
	uint8_t mem[PAGES][PAGE_SIZE];
	const uint8_t *said[CONNECTIONS]; /* what the other end says */
	size_t bytes[CONNECTIONS];
	unsigned connections;
	bool made, runs;
	int64_t clock;
};

static unsigned ran, outcomes[MIGRATE_STRANDED + 1]; /* to see that inputs get that far */

static void check_line(const char *text)
{
	if (!*text)
		abort();
	for (; *text; text++)
		if ((unsigned char)*text < ' ')
			abort();
}

/* A connection on which the next piece of what is said lies ready, and nothing follows. The other end is in *@far. */
static struct transport *connection(struct world *w, bool is_server, int *far)
{
	struct transport_config cfg = TRANSPORT_CONFIG_DEFAULT;
	unsigned n = w->connections++;
	struct transport *t;
	struct error err;
	int fd[2], room = 1 << 20;

	cfg.stall_ms = 20;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd))
		abort();
	setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (write(fd[1], w->said[n], w->bytes[n]) != (ssize_t)w->bytes[n] || shutdown(fd[1], SHUT_WR))
		abort();
	if (transport_adopt(&t, fd[0], is_server, "stranger", &cfg, &err))
		abort();
	*far = fd[1];
	return t;
}

/* ---- a destination ---- */

static int far_end = -1;

static int take_in(void *ctx, struct transport **out, int64_t wait_ms, struct error *err)
{
	struct world *w = ctx;

	(void)wait_ms;
	if (far_end >= 0)
		close(far_end);
	far_end = -1;
	if (w->connections == CONNECTIONS)
		return error_set(err, -ECANCELED, "nobody comes any more");
	*out = connection(w, true, &far_end);
	return 0;
}

static int dest_create(void *ctx, const void *config, size_t bytes, uint64_t *pages, struct error *err)
{
	struct world *w = ctx;

	(void)config;
	if (w->made)
		abort();
	w->made = true;
	if (bytes > 1000)
		return error_set(err, -EINVAL, "no such VM");
	*pages = PAGES;
	return 0;
}

static int dest_write(void *ctx, uint64_t page, const uint8_t *data, struct error *err)
{
	struct world *w = ctx;

	(void)err;
	if (!w->made || page >= PAGES)
		abort();
	if (data)
		memcpy(w->mem[page], data, PAGE_SIZE);
	return 0;
}

static int dest_load(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	(void)bytes;
	if (!((struct world *)ctx)->made)
		abort();
	check_line(name);
	return n > 100 ? error_set(err, -EINVAL, "%s: too much", name) : 0;
}

static int dest_finish(void *ctx, const uint64_t *absent, const struct migrate_fetch *fetch, struct error *err)
{
	(void)fetch, (void)err;
	if (!((struct world *)ctx)->made || (absent && bitmap_next(absent, 0, 64) < 64 && absent[0] >> PAGES))
		abort();
	return 0;
}

static void dest_hash(void *ctx, uint64_t hash[2])
{
	(void)ctx;
	hash[0] = hash[1] = 0;
}

static void dest_drop(void *ctx) { ((struct world *)ctx)->made = false; }

static void dest_say(void *ctx, const char *line)
{
	(void)ctx;
	check_line(line);
}

static void dest_arrived(void *ctx) { (void)ctx; }

static void hear(struct world *w, const uint8_t *data, size_t size)
{
	size_t first = get_u16(data + 1), second = get_u16(data + 3), rest = size - HEAD;

	memset(w, 0, sizeof(*w));
	w->bytes[0] = first < rest ? first : rest;
	rest -= w->bytes[0];
	w->bytes[1] = second < rest ? second : rest;
	w->bytes[2] = rest - w->bytes[1];
	w->said[0] = data + HEAD;
	w->said[1] = w->said[0] + w->bytes[0];
	w->said[2] = w->said[1] + w->bytes[1];
}

static void fuzz_destination(const uint8_t *data, size_t size)
{
	static struct world w;
	const struct migrate_dest_vm vm = {
		.ctx = &w, .can_postcopy = true, .create = dest_create, .write_page = dest_write, .load = dest_load,
		.finish = dest_finish, .hash = dest_hash, .drop = dest_drop, .say = dest_say, .arrived = dest_arrived,
	};
	const struct migrate_door door = {.ctx = &w, .accept = take_in};
	struct migrate_dest *d;
	struct error err;

	hear(&w, data, size);
	if (migrate_dest_create(&d, &vm, &door, 0, &err))
		return;
	if (migrate_dest_wait(d, &err) == 0) {
		if (!w.made)
			abort();
		ran++;
		if (migrate_dest_start(d, &err) == 0)
			migrate_dest_end(d);
	} else {
		check_line(err.text);
		if (w.made)
			abort();
	}
	migrate_dest_free(d);
	if (far_end >= 0)
		close(far_end);
	far_end = -1;
}

/* ---- a source ---- */

static int source_read(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE])
{
	struct world *w = ctx;

	w->clock += 1000;
	if (page >= PAGES)
		abort();
	memcpy(data, w->mem[page], PAGE_SIZE);
	return page % 3 != 0;
}

static int source_track(void *ctx, struct error *err)
{
	(void)ctx, (void)err;
	return 0;
}

static int source_collect(void *ctx, uint64_t *bitmap, struct error *err)
{
	(void)ctx, (void)err;
	bitmap[0] |= 5;
	return 0;
}

static void source_untrack(void *ctx) { (void)ctx; }

static void source_throttle(void *ctx, unsigned percent)
{
	(void)ctx;
	if (percent > 99)
		abort();
}

typedef int put_fn(void *to, const char *name, const void *bytes, size_t n, struct error *err);

static int source_describe(void *ctx, put_fn *put, void *to, struct error *err)
{
	(void)ctx;
	return put(to, "config", "VM", 2, err);
}

static int source_pause(void *ctx, struct error *err)
{
	(void)err;
	((struct world *)ctx)->runs = false;
	return 0;
}

static int source_save(void *ctx, put_fn *put, void *to, struct error *err)
{
	(void)ctx;
	return put(to, "vcpu", "all", 3, err);
}

static int source_resume(void *ctx, struct error *err)
{
	(void)err;
	((struct world *)ctx)->runs = true;
	return 0;
}

static int64_t source_clock(void *ctx) { return ((struct world *)ctx)->clock += 1000; }

static int source_connects(void *ctx, bool may_cancel, struct transport **out, struct error *err)
{
	struct world *w = ctx;

	(void)may_cancel;
	if (far_end >= 0)
		close(far_end);
	far_end = -1;
	if (w->connections == CONNECTIONS)
		return error_set(err, -ECONNREFUSED, "nobody is there any more");
	*out = connection(w, false, &far_end);
	return 0;
}

static void source_nap(void *ctx, int64_t ms) { ((struct world *)ctx)->clock += ms * 1000000; }

static bool source_cancelled(void *ctx)
{
	(void)ctx;
	return false;
}

static void fuzz_source(const uint8_t *data, size_t size, unsigned mode)
{
	static struct world w;
	const struct migrate_source_vm vm = {
		.ctx = &w,
		.pages = PAGES,
		.read_page = source_read,
		.track = source_track,
		.collect = source_collect,
		.untrack = source_untrack,
		.throttle = source_throttle,
		.describe = source_describe,
		.pause = source_pause,
		.save = source_save,
		.hash = dest_hash,
		.resume = source_resume,
		.now_ns = source_clock,
	};
	const struct migrate_peer peer = {.ctx = &w, .connect = source_connects, .nap = source_nap,
					  .cancelled = source_cancelled};
	struct migrate_options o = MIGRATE_OPTIONS_DEFAULT;
	struct migrate_source *s;
	struct error err = {0};
	enum migrate_outcome outcome;

	hear(&w, data, size);
	w.runs = true;
	memset(w.mem, 3, sizeof(w.mem));
	o.mode = (enum migrate_mode)(mode % MIGRATE_MODES);
	o.recover_ms = 1000;
	if (migrate_source_create(&s, &o, &vm, &peer, &err))
		return;
	memset(s->token, 0, sizeof(s->token)); /* so that what is made up can have it */
	outcome = migrate_source_run(s, &err);
	outcomes[outcome]++;
	if (outcome != MIGRATE_MOVED)
		check_line(err.text);
	if (w.runs != (outcome == MIGRATE_STAYED))
		abort();
	migrate_source_free(s);
	if (far_end >= 0)
		close(far_end);
	far_end = -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < HEAD || size > INPUT_MAX)
		return 0;
	if (*data & 1)
		fuzz_destination(data, size);
	else
		fuzz_source(data, size, *data >> 1);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "fuzz_main.h"
#include "pick.h"

struct text {
	uint8_t data[INPUT_MAX];
	size_t bytes;
};

static int add(void *ctx, const void *data, size_t bytes, struct error *err)
{
	struct text *t = ctx;

	(void)err;
	if (bytes > sizeof(t->data) - t->bytes)
		return -ENOSPC;
	memcpy(t->data + t->bytes, data, bytes);
	t->bytes += bytes;
	return 0;
}

static uint64_t some_number(void)
{
	static const uint64_t odd[] = {0,  1,  2,          PAGES - 1,  PAGES,     PAGES + 1,
				       63, 64, UINT32_MAX, UINT64_MAX, 1ull << 63};

	return pick(3) ? pick(PAGES) : odd[pick(sizeof(odd) / sizeof(odd[0]))];
}

/* Pages as they should be, with a wrong one now and then. */
static void say_pages(struct stream_writer *w)
{
	static uint8_t data[PAGE_SIZE] __attribute__((aligned(64)));
	struct pages_writer p;
	unsigned n = 1 + pick(6);

	if (pages_writer_init(&p, w, pick(4) ? 0 : 1, NULL))
		return;
	for (unsigned i = 0; i < n; i++) {
		memset(data, (int)pick(3), sizeof(data));
		pages_put(&p, pick(20) ? pick(PAGES) : some_number(), data, NULL);
	}
	pages_flush(&p, NULL);
	pages_writer_fini(&p);
}

static void say_numbers(struct stream_writer *w, const char *name, unsigned words)
{
	uint8_t b[64];

	for (unsigned i = 0; i < 8; i++)
		put_u64(b + 8 * i, some_number());
	stream_put(w, name, b, pick(30) ? words * 8 : pick(65), NULL);
}

static void say_hello(struct stream_writer *w, const char *name, unsigned kind, unsigned bytes)
{
	uint8_t b[32] = {0};

	put_u32(b, pick(40) ? MIGRATE_VERSION : (uint32_t)some_number());
	put_u32(b + 4, pick(20) ? kind : (uint32_t)some_number());
	put_u64(b + 8, pick(8) ? 7 : some_number());
	stream_put(w, name, b, pick(40) ? bytes : pick(33), NULL);
}

static void say_token(struct stream_writer *w, const char *name)
{
	uint8_t b[MIGRATE_TOKEN_BYTES] = {0}; /* as in say_hello() */

	b[0] = pick(20) == 0;
	stream_put(w, name, b, pick(40) ? sizeof(b) : pick(17), NULL);
}

static void say_bitmap(struct stream_writer *w)
{
	uint8_t b[24];

	put_u64(b, pick(10) ? 0 : some_number());
	put_u64(b + 8, pick(4) ? pick(1 << PAGES) : some_number());
	put_u64(b + 16, some_number());
	stream_put(w, "mig.absent", b, pick(20) ? 16 : pick(25), NULL);
}

/* What a source says, more or less. */
static void say_as_source(struct stream_writer *w)
{
	unsigned rounds = pick(4);

	say_hello(w, "mig.hello", pick(6) ? MIGRATE_NEW : pick(3), 32);
	if (pick(40))
		stream_put(w, "config", "VM", 2, NULL);
	for (unsigned i = 0; i < rounds; i++) {
		say_pages(w);
		stream_put(w, "mig.round", "1234", pick(20) ? 4 : 3, NULL);
	}
	if (pick(40))
		stream_put(w, "mig.state", NULL, 0, NULL);
	if (pick(2))
		say_bitmap(w);
	else
		say_pages(w);
	stream_put(w, pick(30) ? "vcpu" : "mig.vcpu", "all", pick(30) ? 3 : 0, NULL);
	say_numbers(w, "mig.state-end", 3);
	if (pick(30))
		say_token(w, "mig.run");
	for (unsigned i = 0; i < rounds; i++)
		say_pages(w);
	stream_put(w, pick(3) ? "mig.all" : "mig.done", NULL, 0, NULL);
	say_token(w, "mig.done");
}

/* What a destination says. */
static void say_as_destination(struct stream_writer *w)
{
	say_hello(w, "mig.welcome", pick(3) ? MIGRATE_WELCOME : pick(MIGRATE_STANDINGS + 1), 16);
	if (pick(30)) {
		uint8_t pages[8];

		put_u64(pages, pick(40) ? PAGES : some_number());
		stream_put(w, "mig.accept", pages, 8, NULL);
	}
	for (uint32_t i = 1, n = pick(2) ? pick(5) : 0; i <= n; i++) {
		uint8_t b[4];

		put_u32(b, pick(40) ? i : pick(5));
		stream_put(w, "mig.round", b, 4, NULL);
	}
	if (pick(4)) {
		say_token(w, pick(20) ? "mig.ready" : "mig.refuse");
		say_token(w, "mig.running");
	}
	for (unsigned n = pick(4); n; n--) {
		say_bitmap(w);
		say_numbers(w, "mig.need", 1);
	}
	stream_put(w, pick(2) ? "mig.absent-end" : "mig.complete", NULL, 0, NULL);
	stream_put(w, "mig.complete", NULL, 0, NULL);
}

static void damage(struct text *t)
{
	for (unsigned n = pick(4) ? 0 : 1 + pick(4); n; n--)
		t->data[HEAD + pick((unsigned)(t->bytes - HEAD))] ^= (uint8_t)(1u << pick(8));
	if (pick(8) == 0)
		t->bytes = HEAD + pick((unsigned)(t->bytes - HEAD));
}

static void make_up(struct text *t)
{
	const struct stream_io io = {.ctx = t, .write = add};
	bool destination = pick(2);

	t->data[0] = (uint8_t)(destination | pick(128) << 1);
	t->bytes = HEAD;
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		struct stream_writer w;
		size_t from = t->bytes;

		if (stream_begin(&w, &io, NULL))
			break;
		if (destination)
			say_as_source(&w);
		else
			say_as_destination(&w);
		if (i < 2)
			put_u16(t->data + 1 + 2 * i, (uint16_t)(t->bytes - from));
	}
	damage(t);
}

static void run_rounds(uint64_t rounds, uint64_t seed)
{
	static struct text t;

	random_state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		make_up(&t);
		LLVMFuzzerTestOneInput(t.data, t.bytes);
	}
}

int main(int argc, char **argv)
{
	int status = fuzz_main(argc, argv, 2000, INPUT_MAX, run_rounds);

	printf("destinations that ran: %u; sources moved %u, stayed %u, held %u, in doubt %u, stranded %u\n", ran,
	       outcomes[MIGRATE_MOVED], outcomes[MIGRATE_STAYED], outcomes[MIGRATE_HELD], outcomes[MIGRATE_IN_DOUBT],
	       outcomes[MIGRATE_STRANDED]);
	return status;
}

#endif
