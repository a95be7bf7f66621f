/*
 * Fuzzing the operating-system model: whatever events a trace has, the model takes them or refuses with one clear
 * line, in bounded time and memory; what it gives out is a machine trace that the rig of the unit tests can execute,
 * and all of its books agree after each event. With clang -fsanitize=fuzzer this is a libFuzzer target; without it a
 * main() replays files, or makes input up:
 *
 *	fuzz_os_model [-n ROUNDS] [-s SEED] [FILE...]
 *
 * An input: 8 bytes for the configuration, then 8 for each event.
 */
#include "fuzz_main.h"
#include "os_rig.h"
#include "pick.h"

#include "base/util.h"

#include <errno.h>
#include <string.h>

#define INPUT_MAX (64u << 10)
#define MIB (1ull << 20)

static void must(bool ok, const char *what, const char *why)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_os_model: %s: %s\n", what, why);
	abort();
}

static struct osm_config config_of(const uint8_t *b)
{
	struct osm_config cfg;

	osm_config_init(&cfg, (64 + b[0] % 4 * 2) * MIB);
	cfg.kind = b[1] % 4;
	cfg.pages = b[1] / 4 % 3;
	cfg.pcid = b[1] & 0x80;
	cfg.fragmentation = b[2] & 0x80 ? b[2] & 0x40 ? 100 : b[2] & 0x3f : 0;
	cfg.seed = b[3];
	cfg.promote = b[4] & 0x0f;
	cfg.gap = b[5] * MIB;
	cfg.tea_threshold = b[6] % 32 * MIB;
	cfg.tea_bubble = b[7] % 101;
	cfg.pool_segment = (b[4] >> 4) * 2 * MIB;
	return cfg;
}

/* An address: by two bytes near others, or anywhere. */
static uint64_t address(const uint8_t *b)
{
	static const uint64_t base[] = {0, 16 * MIB, 20 * MIB, 0x7f0000000000, 0x7f0000200000, 0x7fff00000000};
	const uint64_t end = 0x7ffffffff000;

	if (b[0] == 0xff)
		return (get_u64(b - 2) >> b[1] % 64) & PAGE_MASK;
	if (b[0] == 0xfe)
		return end - b[1] * PAGE_SIZE;
	return base[b[0] % ARRAY_SIZE(base)] + (uint64_t)b[1] * (b[0] & 0x10 ? PAGE_SIZE : 2 * MIB);
}

static uint64_t length(uint8_t b) { return (uint64_t)(1 + b % 64) << (12 + b / 64 * 4); }

/* An event of 8 bytes; some are none. */
static struct trace_event event_of(const uint8_t *b, const void *page)
{
	static const uint8_t flags[] = {[TRACE_MAP] = 0x3f, [TRACE_ADVISE] = 0x70, [TRACE_EXIT] = 0};
	unsigned kind = b[0] >= 0x60 ? TRACE_READ + b[0] % 3 : b[0] >= 0x20 ? TRACE_MAP + b[0] % 3 :
			b[0] >= 12 ? TRACE_SWITCH : b[0] >= 6 ? TRACE_FORK : b[1] % TRACE_KIND_END;
	uint64_t at = address(&b[2]);
	struct trace_event ev = {.kind = (uint8_t)kind};

	switch (kind) {
	case TRACE_READ:
	case TRACE_WRITE:
	case TRACE_FETCH:
		return (struct trace_event){.kind = (uint8_t)kind, .size = b[4] & 0x80 ? b[4] : 8,
					    .mode = b[5] % TRACE_MODES,
					    .flags = b[5] >= 0xf0 ? b[1] : b[5] & 0x40 ? 0 : (uint8_t)TRACE_FIRST,
					    .pc = b[7] & 1 ? at : 0x400000,
					    .addr = at + (b[6] & 0x40 ? get_u16(&b[6]) & 0xfff : 0)};
	case TRACE_PAGE:
		return trace_page(at & (TRACE_GPA_END - 1), page);
	case TRACE_MAP:
	case TRACE_UNMAP:
	case TRACE_ADVISE:
		ev.flags = b[1] & flags[kind];
		ev.addr = at;
		ev.value = length(b[4]);
		return ev;
	case TRACE_FORK:
	case TRACE_SWITCH:
	case TRACE_EXIT:
		return (struct trace_event){.kind = (uint8_t)kind, .value = kind == TRACE_FORK ? b[2] : b[2] % 8u};
	case TRACE_CR3:
		ev.value = (uint64_t)(b[2] % 8) << PAGE_SHIFT;
		return ev;
	default:
		ev.addr = b[6] & 1 ? at : b[2];
		ev.value = b[6] & 2 ? get_u64(b) : b[3];
		return ev;
	}
}

static void run(struct os_rig *r, const uint8_t *data, size_t size)
{
	static const uint8_t page[PAGE_SIZE];

	for (; size >= 8; data += 8, size -= 8) {
		struct trace_event ev = event_of(data, page);
		struct error err = {0};
		int ret;

		if (trace_event_check(&ev, NULL))
			continue; /* no reader gives it out */
		ret = rig_put(r, ev, &err);
		must(ret <= 0 && (!ret || (*err.text && !strchr(err.text, '\n'))), "no line for an error", err.text);
		must(strncmp(err.text, "rig:", 4) != 0, "what was given out is wrong", err.text);
		if (ret)
			return;
		must(osm_audit(r->osm, &err) == 0, "the books disagree", err.text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = {0};
	struct osm_config cfg;
	struct os_rig *r;

	if (size < 8)
		return 0;
	cfg = config_of(data);
	r = malloc(sizeof(*r));
	must(r != NULL, "no memory", "");
	must(rig_init(r, &cfg, &err) == 0, "a good configuration is refused", err.text);
	run(r, data + 8, size - 8);
	rig_destroy(r);
	free(r);
	return 0;
}

static void make_up(uint64_t rounds, uint64_t seed)
{
	uint8_t data[8 * 200];

	random_state = seed;
	while (rounds--) {
		for (unsigned i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t)pick(256);
		for (unsigned i = 8; i < sizeof(data); i += 8) /* few places, so that events meet */
			if (pick(4))
				data[i + 3] %= 12;
		LLVMFuzzerTestOneInput(data, 8 + pick(sizeof(data) - 8));
	}
}

#ifndef FUZZ_WITH_LIBFUZZER
int main(int argc, char **argv) { return fuzz_main(argc, argv, 300, INPUT_MAX, make_up); }
#endif
