/*
 * A trace says what a guest did, as a row of events: its accesses by linear address, loads of the registers that
 * translation depends on, invalidations, and contents of and stores to its page tables. A trace whose events are
 * complete in this sense is a *machine trace*; a *plain trace* has accesses and, for the model of an operating system
 * that turns it into a machine trace, what the program asked its system for (TRACE_MAP to TRACE_ADVISE).
 *
 * The events from one with TRACE_FIRST up to the next access with TRACE_FIRST are a *group*: one instruction. If an
 * access of a group leaves to a hypervisor and the guest is resumed, the processor does the whole group again, and so
 * does who replays it.
 *
 * Left out: values that are read or written, but for those that decide about translations; more than one processor.
 */
#ifndef GNOMON_TRACE_EVENT_H
#define GNOMON_TRACE_EVENT_H

#include "arch/addr.h"
#include "base/error.h"

#include <assert.h>
#include <stdbool.h>

/*
 * Kinds of events, with the members of struct trace_event that each has; members that a kind does not have are 0. The
 * numbers stand in files. X(symbol, number, name in text)
 */
#define TRACE_KINDS(X)                                                                                                 \
	/* Accesses: addr linear, size (bytes), mode, flags, pc (linear), aux as below; value with TRACE_VALUE */      \
	X(READ, 1, "read")                                                                                             \
	X(WRITE, 2, "write")                                                                                           \
	X(FETCH, 3, "fetch")                                                                                           \
	/* value: instructions completed since the last such event (or the beginning), 1 to 2^32 - 1 */               \
	X(INSNS, 4, "insns")                                                                                           \
	/* addr: guest-physical, of a page whose contents matter from here on; these are trace_event_page() */         \
	X(PAGE, 5, "page")                                                                                             \
	/* A store to guest-physical memory (a device's, a loader's): addr, size 1 to 8, within a page; value */       \
	X(STORE, 6, "store")                                                                                           \
	/* Registers: value; flags TRACE_INITIAL. CR3 with bit 63: nothing is invalidated */                           \
	X(CR0, 7, "cr0")                                                                                               \
	X(CR3, 8, "cr3")                                                                                               \
	X(CR4, 9, "cr4")                                                                                               \
	X(PKRU, 10, "pkru")                                                                                            \
	/* addr: number of the MSR, value; flags TRACE_INITIAL */                                                      \
	X(WRMSR, 11, "wrmsr")                                                                                          \
	/* A PAE page-directory-pointer register: addr: 0 to 3, value; flags: TRACE_INITIAL always */                  \
	X(PDPTE, 12, "pdpte")                                                                                          \
	/* addr: linear */                                                                                             \
	X(INVLPG, 13, "invlpg")                                                                                        \
	/* aux: type; value: PCID; addr: linear (type 0) */                                                            \
	X(INVPCID, 14, "invpcid")                                                                                      \
	/* Something that the guest or who made the trace marked: value, addr without meaning here */                  \
	X(MARK, 15, "mark")                                                                                            \
	/* For the model of an operating system. Spaces are numbered; what follows TRACE_SWITCH is of that space, and  \
	 * a trace begins in space 0. MAP, UNMAP, ADVISE: addr, value: linear bytes; flags: TRACE_MAP_* */             \
	X(MAP, 16, "map")                                                                                              \
	X(UNMAP, 17, "unmap")                                                                                          \
	X(ADVISE, 18, "advise")                                                                                        \
	/* value: the new space, which begins as a copy of the current one; it goes on in the current one */           \
	X(FORK, 19, "fork")                                                                                            \
	/* value: the space; a new one begins empty */                                                                 \
	X(SWITCH, 20, "switch")                                                                                        \
	/* value: the space, which ends and may not be the current one */                                              \
	X(EXIT, 21, "exit")

enum trace_kind {
#define X(symbol, number, name) TRACE_##symbol = number,
	TRACE_KINDS(X)
#undef X
	TRACE_KIND_END, /* kinds are 1 up to this */
};

/* enum access_mode of mmu/mmu.h, by number */
enum trace_mode {
	TRACE_SUPER, TRACE_SUPER_AC, TRACE_USER, TRACE_USER_ALIGN,
	TRACE_IMPLICIT, /* the processor's own, of descriptor tables and the like */
	TRACE_MODES,
};

/* flags of accesses */
#define TRACE_FIRST    0x01u /* the first access of an instruction */
/*
 * WRITE: what is written matters (the page is, or was, a page table, or its contents are of use to the hardware
 * otherwise); it is in value, and size is 1 to 8 within a page. An instruction that stores more has several such
 * events.
 */
#define TRACE_VALUE    0x02u
/* With FIRST: a further iteration of the REP instruction whose iteration the group before is. */
#define TRACE_AGAIN    0x04u
/* With FIRST: an interrupt or exception is delivered; if it is done again, then without a fetch. */
#define TRACE_DELIVERY 0x08u
#define TRACE_FAULTS   0x10u /* the access raised an exception in the guest when it was recorded */
/* flags of registers */
#define TRACE_INITIAL                                                                                        \
	0x01u /* it has this value where the trace begins: no instruction loads it, nothing else happens */
/* flags of MAP, ADVISE */
#define TRACE_MAP_WRITE  0x01u
#define TRACE_MAP_EXEC   0x02u
#define TRACE_MAP_STACK  0x04u /* grows downward */
#define TRACE_MAP_FILE   0x08u /* of a file: never in huge pages */
#define TRACE_MAP_HUGE   0x10u /* huge pages are wanted; ADVISE: from now on */
#define TRACE_MAP_NOHUGE 0x20u /* huge pages are not wanted */
#define TRACE_MAP_FREE   0x40u /* ADVISE only: the contents are not needed any more */

struct trace_event {
	uint8_t kind, size, mode, flags;
	/*
	 * Accesses: bytes of the instruction, 0: not known; at most 15. With TRACE_VALUE they are in bits 3:0 and the
	 * guest-physical frame that is written in bits 31:4.
	 */
	uint32_t aux;
	uint64_t addr, pc;
	uint64_t value; /* of PAGE: trace_event_page() */
};
static_assert(sizeof(struct trace_event) == 32, "events are 32 bytes");

#define TRACE_INSN_BYTES 0xfu
#define TRACE_FRAME_SHIFT 4 /* so frames lie below 1 TiB */
#define TRACE_GPA_END ((uint64_t)1 << (28 + PAGE_SHIFT))

static inline bool trace_is_access(const struct trace_event *ev) { return ev->kind <= TRACE_FETCH; }
static inline bool trace_begins_group(const struct trace_event *ev)
{
	return trace_is_access(ev) && (ev->flags & TRACE_FIRST);
}
/* Begins an instruction: a group that is no further iteration. */
static inline bool trace_begins_insn(const struct trace_event *ev)
{
	return trace_begins_group(ev) && !(ev->flags & TRACE_AGAIN);
}

/* Of an access: bytes of its instruction, or 0. */
static inline unsigned trace_insn_bytes(const struct trace_event *ev) { return ev->aux & TRACE_INSN_BYTES; }

/* Of a WRITE with TRACE_VALUE: the guest-physical address that is written; and aux for it. */
static inline uint64_t trace_value_gpa(const struct trace_event *ev)
{
	return (uint64_t)(ev->aux >> TRACE_FRAME_SHIFT) << PAGE_SHIFT | (ev->addr & ~PAGE_MASK);
}
static inline uint32_t trace_value_aux(uint64_t gpa, unsigned insn_bytes)
{
	return (uint32_t)(gpa >> PAGE_SHIFT) << TRACE_FRAME_SHIFT | (insn_bytes & TRACE_INSN_BYTES);
}

/* Of a PAGE: its PAGE_SIZE bytes, which belong to whoever gives the event and last as long as the call or
 * batch does. */
static inline const uint8_t *trace_event_page(const struct trace_event *ev)
{
	return (const uint8_t *)(uintptr_t)ev->value;
}
static inline struct trace_event trace_page(uint64_t gpa, const void *bytes)
{
	return (struct trace_event){.kind = TRACE_PAGE, .addr = gpa, .value = (uintptr_t)bytes};
}

/* Who takes events: a file, a filter, a replay. 0, or negative errno with @err; then no more are given. */
struct trace_sink {
	int (*put)(void *ctx, const struct trace_event *ev, unsigned n, struct error *err);
	void *ctx;
};

/* "read", ...; NULL if there is no such kind. */
const char *trace_kind_name(unsigned kind);

/*
 * Is this an event, by the rules above? Files hold, and readers give out, no others. 0, or -EINVAL with @err (which
 * kind, which member, why).
 */
int trace_event_check(const struct trace_event *ev, struct error *err);

#endif
