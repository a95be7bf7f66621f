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

static uint64_t text_at(enum os_text at) { return OS_TEXT_MAP + OS_IMAGE + at; }

/* The instruction itself: begins a group. */
static void fetch(struct osm *o, enum os_text at, unsigned bytes)
{
	struct trace_event ev = {.kind = TRACE_FETCH, .size = (uint8_t)bytes, .mode = TRACE_SUPER,
				 .flags = TRACE_FIRST, .aux = bytes, .addr = text_at(at), .pc = text_at(at)};

	os_emit(o, &ev);
	o->insns++;
	o->stats.kernel_insns++;
}

void os_execute(struct osm *o, enum os_text at) { fetch(o, at, BYTES_OTHER); }

static void store(struct osm *o, enum os_text at, unsigned bytes, unsigned flags, uint64_t pa, uint64_t value)
{
	struct trace_event ev = {.kind = TRACE_WRITE, .size = 8, .mode = TRACE_SUPER,
				 .flags = (uint8_t)(TRACE_VALUE | flags), .aux = trace_value_aux(pa, bytes),
				 .addr = OS_DIRECT_MAP + pa, .pc = text_at(at), .value = value};

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
				 .addr = OS_DIRECT_MAP + pa, .pc = text_at(at)};

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
