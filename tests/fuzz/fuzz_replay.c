/*
 * Traces that lie, given to machines: whatever events say, a machine takes them or gives up with a message. Input is
 * a scheme and a row of events; those made up are mostly about few pages, some of which are tables. Under
 * AddressSanitizer it finds the rest.
 */
#include "engine/engine.h"
#include "fuzz_main.h"
#include "pick.h"
#include "vm/vm.h"

#include <assert.h>
#include <string.h>

#define MEMORY (16ull << 20)
#define EVENTS_MAX 400u
#define PAGES 8u

static uint8_t page[PAGE_SIZE];

/* A row of bytes as events; what cannot be in a trace is passed over. */
static unsigned read_events(const uint8_t *data, size_t size, struct trace_event *ev)
{
	unsigned n = 0;

	for (; size >= sizeof(*ev) && n < EVENTS_MAX; data += sizeof(*ev), size -= sizeof(*ev)) {
		memcpy(&ev[n], data, sizeof(*ev));
		if (ev[n].kind == TRACE_PAGE)
			ev[n].value = (uintptr_t)page;
		n += trace_event_check(&ev[n], NULL) == 0;
	}
	return n;
}

static void replay(enum engine_mmu mmu, const struct trace_event *ev, unsigned n)
{
	struct vm_config cfg;
	struct engine_vm *vm;
	struct error err = {0};
	struct obs obs;

	vm_config_default(&cfg);
	cfg.engine.mmu = mmu;
	cfg.engine.memory = MEMORY;
	cfg.engine.cpu.translate = false;
	cfg.engine.cpu.feature[CPUF_DMT] = true;
	if (engine_create(&vm, &cfg.engine, &err))
		return;
	if (!engine_replay_begin(vm, false, &err) && !engine_replay(vm, ev, n / 2, &err) &&
	    !engine_replay(vm, ev + n / 2, n - n / 2, &err))
		engine_replay_finish(vm, &err);
	assert(!err.code || *err.text);
	engine_observe(vm, &obs);
	engine_destroy(vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct trace_event ev[EVENTS_MAX];

	if (size < 1)
		return 0;
	for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
		((uint64_t *)page)[i] = (uint64_t)(i % PAGES) << PAGE_SHIFT | 0x67 | (i % 7 == 0 ? 0x80 : 0);
	replay((enum engine_mmu)(data[0] % ENGINE_MMU_COUNT), ev, read_events(data + 1, size - 1, ev));
	return 0;
}

static uint64_t some_address(void)
{
	static const uint64_t base[] = {0, 0xffff800000000000, 0x7ffffffff000, 0xfee00000, MEMORY - PAGE_SIZE, 1ull << 47};

	return base[pick(6)] + (uint64_t)pick(PAGES) * PAGE_SIZE + (pick(3) ? pick(PAGE_SIZE) & ~7u : PAGE_SIZE - pick(8));
}

static struct trace_event some_event(void)
{
	static const uint64_t cr0[] = {0x11, 0x80000011, 0x80010011, 0x10, 0xe0000011}, cr4[] = {0, 0x20, 0x30a0, 0x3206a0, 0x10};
	struct trace_event ev = {.kind = (uint8_t)(pick(3) ? 1 + pick(3) : 1 + pick(TRACE_KIND_END - 1))};

	if (trace_is_access(&ev)) {
		ev.size = (uint8_t)(1u << pick(5));
		ev.mode = (uint8_t)pick(TRACE_MODES);
		ev.flags = pick(2) ? TRACE_FIRST : 0;
		ev.flags |= (ev.flags && pick(4) == 0) ? (pick(2) ? TRACE_AGAIN : TRACE_DELIVERY) : 0;
		ev.flags |= pick(9) == 0 ? TRACE_FAULTS : 0;
		ev.pc = some_address();
		ev.addr = ev.kind == TRACE_FETCH && pick(2) ? ev.pc : some_address();
		ev.aux = pick(16);
		if (ev.kind == TRACE_WRITE && pick(2) && ev.size <= 8 && (ev.addr & ~PAGE_MASK) + ev.size <= PAGE_SIZE) {
			ev.flags |= TRACE_VALUE;
			ev.aux = trace_value_aux((uint64_t)pick(PAGES) << PAGE_SHIFT, pick(16));
			ev.value = (uint64_t)pick(PAGES) << PAGE_SHIFT | (pick(2) ? 0x67 : pick(4096));
		}
		return ev;
	}
	ev.value = ev.kind == TRACE_CR0 ? cr0[pick(5)] : ev.kind == TRACE_CR4 ? cr4[pick(5)] : pick64(1ull << 40) >> pick(40);
	ev.addr = some_address();
	if (ev.kind == TRACE_CR3)
		ev.value = (uint64_t)pick(PAGES) << PAGE_SHIFT | (pick(4) ? 0 : 1ull << 63);
	if (ev.kind == TRACE_WRMSR) {
		ev.addr = pick(2) ? MSR_EFER : 0xc0000d10 + pick(2);
		ev.value = ev.addr == MSR_EFER ? (pick(2) ? 0x500 : 0xd00) : (uint64_t)pick(PAGES) << PAGE_SHIFT | pick(17);
	}
	if (ev.kind == TRACE_CR0 || ev.kind == TRACE_CR3 || ev.kind == TRACE_CR4 || ev.kind == TRACE_PKRU)
		ev.addr = 0;
	if (ev.kind == TRACE_PKRU)
		ev.value = (uint32_t)ev.value;
	if (ev.kind == TRACE_PDPTE)
		ev.addr = pick(4), ev.flags = TRACE_INITIAL;
	if (ev.kind >= TRACE_CR0 && ev.kind <= TRACE_WRMSR && pick(3) == 0)
		ev.flags = TRACE_INITIAL;
	if (ev.kind == TRACE_PAGE)
		ev.addr = (uint64_t)pick(pick(40) ? PAGES : 8192) << PAGE_SHIFT, ev.value = 1;
	if (ev.kind == TRACE_STORE)
		ev.size = 8, ev.addr = (uint64_t)pick(PAGES) << PAGE_SHIFT | (pick(512) * 8);
	if (ev.kind == TRACE_INVPCID) {
		ev.aux = pick(4), ev.value = pick(4096);
		ev.addr = ev.aux ? 0 : ev.addr;
	}
	if (ev.kind == TRACE_INVLPG)
		ev.value = 0;
	return ev;
}

/* Four-level paging over the few pages, which are all tables of each other. */
static struct trace_event beginning(unsigned k)
{
	static const struct trace_event regs[] = {
		{.kind = TRACE_WRMSR, .flags = TRACE_INITIAL, .addr = MSR_EFER, .value = 0xd00},
		{.kind = TRACE_CR4, .flags = TRACE_INITIAL, .value = 0x206a0},
		{.kind = TRACE_CR3, .flags = TRACE_INITIAL},
		{.kind = TRACE_CR0, .flags = TRACE_INITIAL, .value = 0x80010011},
	};

	return k < PAGES ? (struct trace_event){.kind = TRACE_PAGE, .addr = (uint64_t)k << PAGE_SHIFT, .value = 1} :
			   regs[k - PAGES];
}

static void make_up(uint64_t rounds, uint64_t seed)
{
	static uint8_t data[1 + EVENTS_MAX * sizeof(struct trace_event)];

	random_state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		unsigned n = PAGES + 4 + pick(EVENTS_MAX - PAGES - 4), sane = pick(4) ? PAGES + 4 : 0;

		data[0] = (uint8_t)i;
		for (unsigned k = 0; k < n; k++) {
			struct trace_event ev = k < sane ? beginning(k) : some_event();

			memcpy(data + 1 + k * sizeof(ev), &ev, sizeof(ev));
		}
		LLVMFuzzerTestOneInput(data, 1 + n * sizeof(struct trace_event));
	}
}

#ifndef FUZZ_WITH_LIBFUZZER
int main(int argc, char **argv) { return fuzz_main(argc, argv, 100, 1 << 20, make_up); }
#endif
