/* Random programs. */
#include "os_program.h"

#include "../../fuzz/pick.h"
#include "base/util.h"

unsigned os_program_pick(struct os_program *p, unsigned below)
{
	return (unsigned)(next_random(&p->random) >> 33) % below;
}

/* Somewhere in four regions: a heap, two that are near each other, and below the stack's end. */
static uint64_t random_page(struct os_program *p)
{
	static const uint64_t base[4] = {16 * MIB, 0x7f0000000000, 0x7f0003000000, 0x7ff000000000};

	uint64_t near = os_program_pick(p, 6) * 2 * MIB + os_program_pick(p, 12) * 4096ull;
	uint64_t far = os_program_pick(p, 8 * 256) * 4096ull * (1 + os_program_pick(p, 4));

	return base[os_program_pick(p, 4)] + (os_program_pick(p, 3) ? near : far);
}

static uint64_t random_bytes(struct os_program *p)
{
	switch (os_program_pick(p, 16)) {
	case 0:
		return (1 + os_program_pick(p, 8)) * 1024 * MIB; /* a TEA of thousands of frames, which not always can be had */
	case 1:
	case 2:
	case 3:
	case 4:
		return (1 + os_program_pick(p, 8)) * 2 * MIB;
	case 5:
	case 6:
	case 7:
		return (1 + os_program_pick(p, 16)) * MIB;
	default:
		return (1 + os_program_pick(p, 40)) * 4096ull;
	}
}

static struct trace_event random_access(struct os_program *p)
{
	static const uint8_t size[] = {1, 2, 4, 8, 8, 64};
	struct trace_event ev;

	if (os_program_pick(p, 3) == 0)
		p->at = random_page(p);
	else
		p->at += os_program_pick(p, 2) ? 4096 : os_program_pick(p, 8192);
	ev = rig_access(TRACE_READ + os_program_pick(p, 8) % 3, p->at, size[os_program_pick(p, ARRAY_SIZE(size))]);
	ev.mode = TRACE_USER;
	ev.pc = ev.kind == TRACE_FETCH ? ev.addr : 0x400000 + os_program_pick(p, 4) * 4096ull;
	return ev;
}

static struct trace_event random_space_event(struct os_program *p)
{
	unsigned other = os_program_pick(p, p->spaces);
	uint64_t gone;

	switch (os_program_pick(p, 3)) {
	case 0:
		if (p->spaces == ARRAY_SIZE(p->space))
			break;
		p->space[p->spaces++] = ++p->next;
		return rig_event(TRACE_FORK, 0, p->next);
	case 1:
		if (other == p->current)
			break;
		gone = p->space[other];
		p->space[other] = p->space[--p->spaces];
		if (p->current == p->spaces)
			p->current = other;
		return rig_event(TRACE_EXIT, 0, gone);
	default:
		if (os_program_pick(p, 4) == 0 && p->spaces < ARRAY_SIZE(p->space))
			p->space[other = p->spaces++] = ++p->next; /* one that begins empty */
		p->current = other;
		return rig_event(TRACE_SWITCH, 0, p->space[other]);
	}
	return random_access(p);
}

struct trace_event os_program_event(struct os_program *p)
{
	static const unsigned advice[] = {TRACE_MAP_HUGE, TRACE_MAP_NOHUGE, TRACE_MAP_FREE};
	uint64_t at = random_page(p) & (os_program_pick(p, 2) ? ~(2 * MIB - 1) : ~0ull);
	struct trace_event ev;

	switch (os_program_pick(p, 28)) {
	case 0:
	case 1:
		return rig_map(at, random_bytes(p), os_program_pick(p, 0x40));
	case 2:
		return rig_event(TRACE_UNMAP, at, random_bytes(p));
	case 3:
		ev = rig_event(TRACE_ADVISE, at, random_bytes(p) % (64 * MIB) + 4096);
		ev.flags = (uint8_t)advice[os_program_pick(p, 3)];
		return ev;
	case 4:
		return random_space_event(p);
	case 5:
		return rig_event(TRACE_INSNS, 0, 1 + os_program_pick(p, 100));
	default:
		return random_access(p);
	}
}
