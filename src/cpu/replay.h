/*
 * The processor's other front end: it takes events of a trace (trace/event.h) instead of instructions. Accesses go
 * through the same TLBs and walkers, loads of registers and invalidations through the same functions as the
 * instructions that make them, and in VMX non-root operation all of it exits as it would. Exceptions that are the
 * guest's own, and what a hypervisor injects, are not delivered: what the guest did about them is in the trace.
 *
 * A group of events that exits is made again after VM entry, as the instruction would be executed again, unless the
 * hypervisor completed it (RIP has moved on), emulated it (replay_emulate_one()) or gave the guest an exception. As
 * the run loop does, the processor looks up the page of code at RIP after each VM entry.
 *
 * Who uses it feeds whole instructions, with all their repetitions (TRACE_AGAIN).
 */
#ifndef GNOMON_CPU_REPLAY_H
#define GNOMON_CPU_REPLAY_H

#include "cpu/cpu.h"
#include "trace/event.h"

struct replay {
	const struct trace_event *ev; /* what there is: [n] */
	unsigned n, at;               /* at: the next one */
	/* The processor was entered, and has not looked up its code: at RIP, or if that is not known where the next group is */
	bool entered, rip_known;
	bool ahead;                   /* the exit came from that lookup */
	bool moved;                   /* the emulator has taken events since the last exit, */
	bool jumped;                  /* ... and where it goes on is not known */
	uint64_t exit_rip;
	uint8_t mode;                 /* enum access_mode of the last fetch: the guest's privilege */
	uint8_t applied;              /* ... as segment registers and flags have it, or REPLAY_NO_MODE */
	/* Initial values of registers, until the first event of another kind */
	bool initial;
	uint64_t cr0, cr3, cr4, efer, pdpte[4];
	uint32_t pkru;
	uint64_t accesses;            /* reads, writes and fetches taken, repetitions after exits included */
	uint64_t insns;               /* sum of TRACE_INSNS */
	uint64_t faults;              /* accesses that raised exceptions in the guest */
	uint64_t unexpected;          /* accesses that faulted and had not, or the other way round */
};
#define REPLAY_NO_MODE 0xffu

/* @cpu takes events from now on. For a VM's emulator the same @r as for the machine's processor. */
void replay_attach(struct replay *r, struct cpu *cpu);
/* The next events, all earlier ones having been taken. They are not kept longer than the owner lets replay_run() run. */
void replay_feed(struct replay *r, const struct trace_event *ev, unsigned n);

enum replay_status {
	REPLAY_DRY,     /* all events were taken */
	REPLAY_OUTSIDE, /* the next event is not the processor's: contents of memory, initial registers */
	REPLAY_EXIT,    /* VMX: the processor is in root operation again, as after cpu_run() */
};
enum replay_status replay_run(struct cpu *cpu);

enum replay_entry {
	REPLAY_ANEW,      /* nothing exited: the next event is the one that is next */
	REPLAY_HANDLED,   /* what exited is made again, if nobody completed it */
	REPLAY_ABANDONED, /* ... is not: the guest got an exception instead */
};
/* VM entry is complete. */
void replay_entered(struct cpu *cpu, enum replay_entry how);
/* The guest got an exception while its emulator took the events of a group: the rest of them is left out. */
void replay_abandon(struct replay *r);
/* Takes the processor out of non-root operation with nothing having happened: no exit that anybody counts. */
void replay_leave(struct cpu *cpu);

/*
 * What events that do not concern the processor do: the bare machine and the hypervisor differ in that. Nothing of it
 * is counted.
 */
struct replay_outside {
	/* Guest-physical memory. Failures are negative errno with @err. */
	int (*write)(void *ctx, uint64_t gpa, const void *from, unsigned bytes, struct error *err);
	/* The initial values of registers, for replay_registers(). The TLBs are its own. */
	void (*load_registers)(void *ctx, const struct replay *r);
	/* That of another MSR, for replay_load_msr(); the registers come before it. */
	void (*load_msr)(void *ctx, const struct trace_event *ev);
};
/* Takes all events that are next and do not concern the processor (REPLAY_OUTSIDE). Errors of write(). */
int replay_take_outside(struct replay *r, const struct replay_outside *to, void *ctx, struct error *err);
/* Loads an initial value on the processor that holds the guest's MSRs, as WRMSR does and without counting anything. */
void replay_load_msr(struct cpu *cpu, const struct trace_event *ev);
/* Gives @cpu all registers as noted, and segments to go with them. The TLBs are the caller's. */
void replay_registers(const struct replay *r, struct cpu *cpu);

/* cpu_emulate_one(): the emulator's processor makes the accesses of the instruction that exited. */
enum cpu_emul_result replay_emulate_one(struct cpu *cpu, unsigned max_iterations, unsigned *counted);
/* cpu_deliver_event() on it: those of the delivery that exited. EXEC_NEXT. */
int replay_deliver(struct cpu *cpu);

#endif
