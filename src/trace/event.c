/* Names of events, and what they may be. */
#include "trace/event.h"

#include "base/util.h"
#include "trace/members.h"

#include <errno.h>
#include <inttypes.h>

const char *trace_kind_name(unsigned kind)
{
	static const char *const name[TRACE_KIND_END] = {
#define X(symbol, number, text) [number] = text,
		TRACE_KINDS(X)
#undef X
	};

	return kind < TRACE_KIND_END ? name[kind] : NULL;
}

#define ACCESS   (HAS_SIZE | HAS_MODE | HAS_AUX | HAS_ADDR | HAS_PC)
#define SPACE    (HAS_ADDR | HAS_VALUE)
#define GROUP    (TRACE_FIRST | TRACE_AGAIN | TRACE_DELIVERY | TRACE_FAULTS)
#define MAP_KIND                                                                                             \
	(TRACE_MAP_WRITE | TRACE_MAP_EXEC | TRACE_MAP_STACK | TRACE_MAP_FILE | TRACE_MAP_HUGE |              \
	 TRACE_MAP_NOHUGE)

const struct trace_members trace_members[TRACE_KIND_END] = {
	[TRACE_READ] = {ACCESS, GROUP},
	[TRACE_WRITE] = {ACCESS, GROUP | TRACE_VALUE},
	[TRACE_FETCH] = {ACCESS, GROUP},
	[TRACE_INSNS] = {HAS_VALUE, 0},
	[TRACE_PAGE] = {HAS_ADDR, 0},
	[TRACE_STORE] = {HAS_SIZE | HAS_ADDR | HAS_VALUE, 0},
	[TRACE_CR0] = {HAS_VALUE, TRACE_INITIAL},
	[TRACE_CR3] = {HAS_VALUE, TRACE_INITIAL},
	[TRACE_CR4] = {HAS_VALUE, TRACE_INITIAL},
	[TRACE_PKRU] = {HAS_VALUE, TRACE_INITIAL},
	[TRACE_WRMSR] = {HAS_ADDR | HAS_VALUE, TRACE_INITIAL},
	[TRACE_PDPTE] = {HAS_ADDR | HAS_VALUE, TRACE_INITIAL},
	[TRACE_INVLPG] = {HAS_ADDR, 0},
	[TRACE_INVPCID] = {HAS_AUX | HAS_ADDR | HAS_VALUE, 0},
	[TRACE_MARK] = {HAS_ADDR | HAS_VALUE, 0},
	[TRACE_MAP] = {SPACE, MAP_KIND},
	[TRACE_UNMAP] = {SPACE, 0},
	[TRACE_ADVISE] = {SPACE, TRACE_MAP_HUGE | TRACE_MAP_NOHUGE | TRACE_MAP_FREE},
	[TRACE_FORK] = {HAS_VALUE, 0},
	[TRACE_SWITCH] = {HAS_VALUE, 0},
	[TRACE_EXIT] = {HAS_VALUE, 0},
};

unsigned trace_members_of(const struct trace_event *ev)
{
	unsigned has = trace_members[ev->kind].has;

	return ev->kind == TRACE_WRITE && (ev->flags & TRACE_VALUE) ? has | HAS_VALUE : has;
}

/* A member that the kind does not have; NULL: none is set. */
static const char *superfluous(const struct trace_event *ev, unsigned has)
{
	return ev->size && !(has & HAS_SIZE) ? "size" : ev->mode && !(has & HAS_MODE) ? "mode" :
	       ev->aux && !(has & HAS_AUX) ? "aux" : ev->addr && !(has & HAS_ADDR) ? "addr" :
	       ev->pc && !(has & HAS_PC) ? "pc" :
	       ev->value && !(has & HAS_VALUE) && ev->kind != TRACE_PAGE ? "value" :
	       ev->flags & ~trace_members[ev->kind].flags ? "flags" : NULL;
}

static bool fits_page(uint64_t addr, unsigned size)
{
	return size >= 1 && size <= 8 && (addr & ~PAGE_MASK) + size <= PAGE_SIZE;
}

static const char *wrong_access(const struct trace_event *ev)
{
	if (ev->mode >= TRACE_MODES)
		return "there is no such mode";
	if (!ev->size)
		return "its size is 0";
	if ((ev->flags & (TRACE_AGAIN | TRACE_DELIVERY)) && !(ev->flags & TRACE_FIRST))
		return "only the first access of a group can be one of an iteration or delivery";
	if (!(ev->flags & TRACE_VALUE))
		return ev->aux > TRACE_INSN_BYTES ? "its instruction is longer than 15 bytes" : NULL;
	if (!fits_page(ev->addr, ev->size))
		return "a write with its value has 1 to 8 bytes, within a page";
	return ev->size < 8 && ev->value >> (8 * ev->size) ? "its value has more bytes than it" : NULL;
}

static const char *wrong_store(const struct trace_event *ev)
{
	if (!fits_page(ev->addr, ev->size))
		return "a store has 1 to 8 bytes, within a page";
	if (ev->addr >= TRACE_GPA_END)
		return "its address is not below 1 TiB";
	return ev->size < 8 && ev->value >> (8 * ev->size) ? "its value has more bytes than it" : NULL;
}

static const char *wrong_range(const struct trace_event *ev)
{
	if (!ev->value || (ev->addr | ev->value) & ~PAGE_MASK)
		return "a range is of whole pages, and at least one";
	return ev->addr > -ev->value ? "its range ends behind the last address" : NULL;
}

static const char *wrong(const struct trace_event *ev)
{
	switch (ev->kind) {
	case TRACE_READ:
	case TRACE_WRITE:
	case TRACE_FETCH:
		return wrong_access(ev);
	case TRACE_INSNS:
		return !ev->value || ev->value > UINT32_MAX ? "a number from 1 to 4294967295" : NULL;
	case TRACE_PAGE:
		return (ev->addr & ~PAGE_MASK) || ev->addr >= TRACE_GPA_END ? "no address of a page below 1 TiB" :
		       !ev->value ? "its bytes are missing" : NULL;
	case TRACE_STORE:
		return wrong_store(ev);
	case TRACE_PDPTE:
		return ev->addr > 3 ? "there are registers 0 to 3" : ev->flags ? NULL : "it is always initial";
	case TRACE_WRMSR:
		return ev->addr > UINT32_MAX ? "an MSR's number has 32 bits" : NULL;
	case TRACE_INVPCID:
		return ev->aux > 3 ? "there are types 0 to 3" : ev->value > 0xfff ? "a PCID has 12 bits" : NULL;
	case TRACE_MAP:
	case TRACE_UNMAP:
	case TRACE_ADVISE:
		return wrong_range(ev);
	case TRACE_FORK:
	case TRACE_SWITCH:
	case TRACE_EXIT:
		return ev->value > UINT32_MAX ? "a space's number has 32 bits" : NULL;
	}
	return NULL;
}

int trace_event_check(const struct trace_event *ev, struct error *err)
{
	const char *why;

	if (!ev->kind || ev->kind >= TRACE_KIND_END)
		return error_set(err, -EINVAL, "kind %u: there is no such event", ev->kind);
	why = superfluous(ev, trace_members_of(ev));
	if (why)
		return error_set(err, -EINVAL, "%s: %s has no meaning here", trace_kind_name(ev->kind), why);
	why = wrong(ev);
	return why ? error_set(err, -EINVAL, "%s: %s", trace_kind_name(ev->kind), why) : 0;
}
