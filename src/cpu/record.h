/*
 * Recording: what software does on the bare machine, as a trace (trace/event.h). While cpu->recorder is set every
 * access takes the long way through the model and no host code runs, so the hooks below see all of them; what the
 * guest does, and what is counted, is the same.
 *
 * The recorder makes groups: the accesses of one instruction (of one iteration, with REP), or of the delivery of an
 * event. An instruction that stops for a device and is executed again is recorded once, as it was completed; one that
 * faults is recorded up to its fault. A frame is a table from the first time the page walker reads an entry in it:
 * its contents go out then, and every store to it after that has its value.
 */
#ifndef GNOMON_CPU_RECORD_H
#define GNOMON_CPU_RECORD_H

#include "cpu/cpu.h"
#include "trace/event.h"

struct recorder;

/*
 * Begins to record: what the TLBs and the caches of walks hold is forgotten, and the registers go to @sink as
 * TRACE_INITIAL. The processor is between two instructions. -ENOMEM, -EINVAL: it is in VMX operation, errors of the
 * sink; nothing is recorded then.
 */
int recorder_begin(struct cpu *cpu, const struct trace_sink *sink, struct error *err);
/* The rest goes to the sink, and nothing more is recorded. The first error that the sink had. Nothing if there is none. */
int recorder_end(struct cpu *cpu, struct error *err);
/* Has the sink failed? Then nothing has been recorded since. */
bool recorder_failed(const struct cpu *cpu);

/* ---- hooks, to be called while cpu->recorder is set ---- */

/* The instruction of @bytes at linear address @pc begins. */
void record_insn(struct cpu *cpu, uint64_t pc, unsigned bytes);
/* Another iteration of it begins. */
void record_iteration(struct cpu *cpu);
/* The delivery of an event begins. @pc: what it interrupts */
void record_delivery(struct cpu *cpu, uint64_t pc);
/* The page of code at @lin is looked up, for the instruction at @pc. */
void record_fetch(struct cpu *cpu, uint64_t pc, uint64_t lin);
/*
 * Memory is about to be accessed; record_fault(): the last access, fetch or load of a control register ended in what
 * cpu->stop says.
 */
void record_access(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_kind kind, enum access_mode mode);
void record_fault(struct cpu *cpu);
/*
 * Where the last access went: machine addresses of its two parts, the first of which has @first bytes; RECORD_NO_RAM:
 * to a device. @data: what is stored; NULL: it was a load
 */
#define RECORD_NO_RAM (~0ull)
void record_parts(struct cpu *cpu, const uint64_t hpa[2], unsigned first, const void *data);
/* The instruction stops for a device and is going to be executed again. */
void record_stopped(struct cpu *cpu);
/* Registers, as instructions load them: TRACE_CR0, CR3, CR4, PKRU; TRACE_WRMSR with @addr. */
void record_register(struct cpu *cpu, enum trace_kind kind, uint64_t addr, uint64_t value);
/* A WRMSR, if translation depends on the MSR. */
void record_wrmsr(struct cpu *cpu, uint32_t msr, uint64_t value);
void record_invlpg(struct cpu *cpu, uint64_t lin);
/* The last access was the load of the descriptor. */
void record_invpcid(struct cpu *cpu, unsigned type, uint64_t pcid, uint64_t lin);
/* VMX operation begins, which no trace has: the recorder fails. */
void record_vmxon(struct cpu *cpu);
/* Something reads paging structures at machine address @at. */
void record_table(struct cpu *cpu, uint64_t at);
/* Memory was written from outside; within one page. */
void record_outside(struct cpu *cpu, uint64_t hpa, unsigned bytes);

#endif
