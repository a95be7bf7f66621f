/*
 * What the modelled kernel executes, as events. Each instruction is a fetch from the kernel's image and what it does;
 * tables are written where Linux writes them, at their address in the direct map.
 */
#include "trace/os_impl.h"

#include <stdarg.h>
#include <stdio.h>

#define BYTES_STORE 4u /* MOV to or from memory, with a displacement */
#define BYTES_OTHER 3u /* MOV CR3, INVLPG, REP STOSQ */
#define BYTES_MSR   2u

void os_fail(struct osm *o, int code, const char *fmt, ...)
{
	char text[sizeof(o->err.text)];
	va_list ap;

	if (o->failed)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	o->failed = error_set(&o->err, code, "os model: %s", text);
}

void os_emit_flush(struct osm *o)
{
	int r;

	if (!o->outs || o->failed)
		return;
	r = o->sink.put(o->sink.ctx, o->out, o->outs, &o->err);
	o->outs = 0;
	if (r)
		o->failed = r;
}

void os_emit(struct osm *o, const struct trace_event *ev)
{
	if (o->outs == OS_OUT)
		os_emit_flush(o);
	if (!o->failed)
		o->out[o->outs++] = *ev;
}

void os_emit_insns(struct osm *o)
{
	while (o->insns) {
		struct trace_event ev = {.kind = TRACE_INSNS, .value = min_u64(o->insns, UINT32_MAX)};

		os_emit(o, &ev);
		o->insns -= ev.value;
	}
}

/* The instruction itself: begins a group. */
static void fetch(struct osm *o, enum os_text at, unsigned bytes)
{
	struct trace_event ev = {.kind = TRACE_FETCH, .size = (uint8_t)bytes, .mode = TRACE_SUPER,
				 .flags = TRACE_FIRST, .aux = bytes, .addr = os_text_at(at), .pc = os_text_at(at)};

	os_emit(o, &ev);
	o->insns++;
	o->stats.kernel_insns++;
}

void os_execute(struct osm *o, enum os_text at) { fetch(o, at, BYTES_OTHER); }

/* Where the processor finds what it needs for an exception, in the kernel's image. */
enum os_data {
	OS_DATA_IDT = 0x800000, OS_DATA_GDT = 0x801000, OS_DATA_TSS = 0x802000, OS_DATA_STACK = 0x804000,
};

#define GATE_BYTES  16u
#define KERNEL_CODE 0x10u /* its selector */
#define TSS_RSP0    4u
#define FRAME_WORDS 6u    /* SS, RSP, RFLAGS, CS, RIP, error code */

static void implicit(struct osm *o, unsigned kind, unsigned flags, uint64_t at, unsigned size)
{
	struct trace_event ev = {.kind = (uint8_t)kind, .size = (uint8_t)size, .mode = TRACE_IMPLICIT,
				 .flags = (uint8_t)flags, .addr = OS_DIRECT_MAP + OS_IMAGE + at, .pc = os_text_at(OS_TEXT_FAULT)};

	os_emit(o, &ev);
}

void os_deliver(struct osm *o)
{
	implicit(o, TRACE_READ, TRACE_FIRST | TRACE_DELIVERY, OS_DATA_IDT + EXC_PF * GATE_BYTES, GATE_BYTES);
	implicit(o, TRACE_READ, 0, OS_DATA_GDT + KERNEL_CODE, 8);
	implicit(o, TRACE_READ, 0, OS_DATA_TSS + TSS_RSP0, 8);
	for (unsigned i = 1; i <= FRAME_WORDS; i++)
		implicit(o, TRACE_WRITE, 0, OS_DATA_STACK - 8 * i, 8);
}

static void store(struct osm *o, enum os_text at, unsigned bytes, unsigned flags, uint64_t pa, uint64_t value)
{
	struct trace_event ev = {.kind = TRACE_WRITE, .size = 8, .mode = TRACE_SUPER,
				 .flags = (uint8_t)(TRACE_VALUE | flags), .aux = trace_value_aux(pa, bytes),
				 .addr = OS_DIRECT_MAP + pa, .pc = os_text_at(at), .value = value};

	os_emit(o, &ev);
	o->stats.stores++;
}

void os_store(struct osm *o, enum os_text at, uint64_t pa, uint64_t value)
{
	fetch(o, at, BYTES_STORE);
	store(o, at, BYTES_STORE, 0, pa, value);
}

void os_load(struct osm *o, enum os_text at, uint64_t pa)
{
	struct trace_event ev = {.kind = TRACE_READ, .size = 8, .mode = TRACE_SUPER, .aux = BYTES_STORE,
				 .addr = OS_DIRECT_MAP + pa, .pc = os_text_at(at)};

	fetch(o, at, BYTES_STORE);
	os_emit(o, &ev);
}

void os_clear_page(struct osm *o, uint64_t frame)
{
	uint64_t pa = frame << PAGE_SHIFT;

	fetch(o, OS_TEXT_CLEAR, BYTES_OTHER);
	for (unsigned i = 0; i < OS_ENTRIES; i++)
		store(o, OS_TEXT_CLEAR, BYTES_OTHER, i ? TRACE_FIRST | TRACE_AGAIN : 0, pa + 8 * i, 0);
}

void os_cr3(struct osm *o, uint64_t value)
{
	struct trace_event ev = {.kind = TRACE_CR3, .value = value};

	fetch(o, OS_TEXT_CR3, BYTES_OTHER);
	os_emit(o, &ev);
}

void os_invlpg(struct osm *o, uint64_t va)
{
	struct trace_event ev = {.kind = TRACE_INVLPG, .addr = va};

	fetch(o, OS_TEXT_INVLPG, BYTES_OTHER);
	os_emit(o, &ev);
}

void os_wrmsr(struct osm *o, enum os_text at, uint32_t msr, uint64_t value)
{
	struct trace_event ev = {.kind = TRACE_WRMSR, .addr = msr, .value = value};

	fetch(o, at, BYTES_MSR);
	os_emit(o, &ev);
}
