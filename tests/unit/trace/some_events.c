#include "some_events.h"

#include "base/util.h"
#include "trace/members.h"

uint64_t some_number(struct some_events *s, uint64_t below)
{
	s->state ^= s->state << 13;
	s->state ^= s->state >> 7;
	s->state ^= s->state << 17;
	return (s->state * 0x2545f4914f6cdd1d >> 3) % below;
}

/* Of any length. */
static uint64_t any_value(struct some_events *s)
{
	uint64_t v = s->state * 0x9e3779b97f4a7c15 ^ some_number(s, 1ull << 60);

	return v >> some_number(s, 64);
}

static void fill_page(struct some_events *s)
{
	memset(s->page, 0, sizeof(s->page));
	for (unsigned i = (unsigned)some_number(s, 20); i; i--)
		put_u64(s->page + 8 * some_number(s, 512), any_value(s));
}

static void any_access(struct some_events *s, struct trace_event *ev)
{
	ev->size = (uint8_t)(1 + some_number(s, 255));
	ev->mode = (uint8_t)some_number(s, TRACE_MODES);
	ev->aux = (uint32_t)some_number(s, 16);
	ev->pc = any_value(s);
	if (ev->flags & (TRACE_AGAIN | TRACE_DELIVERY))
		ev->flags |= TRACE_FIRST;
	if (ev->flags & TRACE_VALUE) {
		ev->size = (uint8_t)(1 + some_number(s, 8));
		ev->addr = (ev->addr & PAGE_MASK) + some_number(s, PAGE_SIZE - ev->size + 1);
		ev->aux |= (uint32_t)any_value(s) << 4;
		ev->value = any_value(s) >> (64 - 8 * ev->size);
	}
}

struct trace_event any_event(struct some_events *s)
{
	struct trace_event ev = {.kind = (uint8_t)(1 + some_number(s, TRACE_KIND_END - 1))};

	ev.flags = trace_members[ev.kind].flags & (uint8_t)some_number(s, 256);
	if (trace_members[ev.kind].has & HAS_ADDR)
		ev.addr = any_value(s);
	if (trace_members[ev.kind].has & HAS_VALUE)
		ev.value = any_value(s);
	switch (ev.kind) {
	case TRACE_READ:
	case TRACE_WRITE:
	case TRACE_FETCH:
		any_access(s, &ev);
		break;
	case TRACE_INSNS:
		ev.value = 1 + (ev.value & 0xffff);
		break;
	case TRACE_PAGE:
		fill_page(s);
		ev = trace_page(ev.addr & (TRACE_GPA_END - 1) & PAGE_MASK, s->page);
		break;
	case TRACE_STORE:
		ev.size = (uint8_t)(1 + some_number(s, 8));
		ev.addr = (ev.addr & (TRACE_GPA_END - 1) & PAGE_MASK) + some_number(s, PAGE_SIZE - ev.size + 1);
		ev.value >>= 64 - 8 * ev.size;
		break;
	case TRACE_PDPTE:
		ev.addr &= 3;
		ev.flags = TRACE_INITIAL;
		break;
	case TRACE_WRMSR:
		ev.addr &= UINT32_MAX;
		break;
	case TRACE_INVPCID:
		ev.aux = (uint32_t)some_number(s, 4);
		ev.value &= 0xfff;
		break;
	case TRACE_MAP:
	case TRACE_UNMAP:
	case TRACE_ADVISE:
		ev.addr = ev.addr >> 1 & PAGE_MASK;
		ev.value = (ev.value >> 2 & PAGE_MASK) + PAGE_SIZE;
		break;
	case TRACE_FORK:
	case TRACE_SWITCH:
	case TRACE_EXIT:
		ev.value &= UINT32_MAX;
	}
	return ev;
}

static void later(struct some_events *s, struct trace_event ev) { s->ahead[s->left++] = ev; }

struct trace_event likely_event(struct some_events *s)
{
	uint64_t what, pc;

	if (s->left) {
		struct trace_event ev = s->ahead[0];

		memmove(s->ahead, s->ahead + 1, --s->left * sizeof(ev));
		return ev;
	}
	s->pc = s->pc % 4096 + 5;
	what = some_number(s, 4096);
	if (what < 4)
		return any_event(s);
	pc = 0x400000 + s->pc;
	if (s->pc % 3 == 0)
		later(s, (struct trace_event){.kind = TRACE_READ, .size = 8, .mode = TRACE_USER, .aux = 5, .pc = pc,
					      .addr = 0x7f0000000000 + 64 * some_number(s, 1 << 20)});
	else if (s->pc % 3 == 1)
		later(s, (struct trace_event){.kind = TRACE_WRITE, .size = 8, .mode = TRACE_USER, .aux = 5, .pc = pc,
					      .addr = 0x7ffc00000000 + (s->sp += 8)});
	later(s, (struct trace_event){.kind = TRACE_INSNS, .value = 1 + (what < 400)});
	return (struct trace_event){.kind = TRACE_FETCH, .size = 5, .mode = TRACE_USER, .flags = TRACE_FIRST, .aux = 5,
				    .addr = pc, .pc = pc};
}

bool same_event(const struct trace_event *a, const struct trace_event *b)
{
	if (a->kind != TRACE_PAGE)
		return memcmp(a, b, sizeof(*a)) == 0;
	return b->kind == TRACE_PAGE && a->addr == b->addr &&
	       memcmp(trace_event_page(a), trace_event_page(b), PAGE_SIZE) == 0;
}
