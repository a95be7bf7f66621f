/* WRMSR of MSR_DMT_LOAD and MSR_PV_REQUEST (arch/dmt.h), and what they leave in the processor. */
#ifndef GNOMON_CPU_DMT_H
#define GNOMON_CPU_DMT_H

#include "cpu/cpu.h"

/* Both: 0; -1: #GP(0), nothing has changed; the first also EXEC_STOP: a VM exit by EPT. */
int cpu_load_dmt(struct cpu *cpu, uint64_t v);
int cpu_serve_request(struct cpu *cpu, uint64_t at);

/* How many registers a value of MSR_DMT_LOAD is about. */
unsigned cpu_dmt_count(uint64_t load);
/* The processor as WRMSR of @load leaves it that found @e in memory. @load: a value that was accepted */
void cpu_set_dmt(struct cpu *cpu, uint64_t load, const struct dmt_entry *e);

#endif
