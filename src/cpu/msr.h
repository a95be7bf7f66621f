/* Model-specific registers as RDMSR and WRMSR see them. */
#ifndef GNOMON_CPU_MSR_H
#define GNOMON_CPU_MSR_H

#include "cpu/cpu.h"

/*
 * Read and write an MSR without privilege checks and VMX intercepts: what RDMSR and
 * WRMSR do once they are allowed to, and what a hypervisor does that emulates
 * the MSRs of its guest on a processor of its own. Return 0, or -1: #GP(0) with
 * nothing changed (*v included). Writing MSR_DMT_LOAD under EPT may also return EXEC_STOP.
 */
int cpu_rdmsr(struct cpu *cpu, uint32_t msr, uint64_t *v);
int cpu_wrmsr(struct cpu *cpu, uint32_t msr, uint64_t v);

/* Is it a memory type range register? A write to one invalidates the TLBs. */
bool cpu_msr_is_mtrr(uint32_t msr);

#endif
