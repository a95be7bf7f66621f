/* CPUID as a function of the configuration: the processor's, and a hypervisor's answer to its guest. */
#ifndef GNOMON_CPU_CPUID_H
#define GNOMON_CPU_CPUID_H

#include "cpu/cpu.h"

/* Layout of the XSAVE area (standard form), as leaf 0DH reports it. */
#define XSAVE_LEGACY_BYTES  576u  /* FXSAVE region and header */
#define XSAVE_AVX_OFFSET    576u
#define XSAVE_AVX_BYTES     256u
#define XSAVE_PKRU_OFFSET  2688u  /* where server processors of this family have it */
#define XSAVE_PKRU_BYTES      8u

/*
 * Executes CPUID.
 * @cr4, @xcr0: what the OSXSAVE and OSPKE bits and the size of the XSAVE area depend on
 * @apic_enabled: IA32_APIC_BASE.EN
 * @out: EAX, EBX, ECX, EDX
 */
void cpu_cpuid(const struct cpu_config *cfg, uint64_t cr4, uint64_t xcr0, uint32_t apic_id, bool apic_enabled,
	       uint32_t leaf, uint32_t sub, uint32_t out[4]);

/* Bits that XCR0 may have. */
uint64_t cpu_xcr0_bits(const struct cpu_config *cfg);
/* IA32_ARCH_CAPABILITIES, and whether IA32_SPEC_CTRL and IA32_PRED_CMD exist. */
uint64_t cpu_arch_capabilities(const struct cpu_config *cfg);
bool cpu_has_spec_ctrl(const struct cpu_config *cfg);

#endif
