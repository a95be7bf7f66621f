/*
 * The VMCS region, for the files that implement VT-x.
 *
 * The 4 KiB region starts with the architectural revision identifier and abort
 * indicator; its remaining format is the implementation's. Here every field has an
 * 8-byte slot whose place follows from its encoding, so that VMREAD and VMWRITE
 * need no table walk. The region is ordinary memory: whatever it contains is
 * masked to the field's width when read and never trusted.
 */
#ifndef GNOMON_CPU_VMX_VMCS_H
#define GNOMON_CPU_VMX_VMCS_H

#include "cpu/phys.h"
#include "cpu/vmx.h"
#include <assert.h>

#define VMCS_OFF_REVISION 0
#define VMCS_OFF_ABORT    4
#define VMCS_OFF_LAUNCHED 8   /* launch state: 0 clear, otherwise launched */
#define VMCS_OFF_FIELDS   64
#define VMCS_GROUP_SLOTS  28u /* indices 0..27 of each width and type */
#define VMCS_GROUPS       16u

static_assert(VMCS_OFF_FIELDS + VMCS_GROUPS * VMCS_GROUP_SLOTS * 8 <= PAGE_SIZE, "a VMCS fits in its page");

/* Parts of a field encoding (SDM "Field Encoding in VMCS"). */
static ALWAYS_INLINE unsigned vmcs_field_group(uint32_t f) { return (f >> 13 & 3) << 2 | (f >> 10 & 3); }
static ALWAYS_INLINE unsigned vmcs_field_index(uint32_t f) { return f >> 1 & 0x1ff; }
static ALWAYS_INLINE unsigned vmcs_field_type(uint32_t f) { return f >> 10 & 3; }
enum { VMCS_TYPE_CONTROL, VMCS_TYPE_READONLY, VMCS_TYPE_GUEST, VMCS_TYPE_HOST };

/* Bits that a field of this encoding has: 16, 64, 32, or natural width (64). */
static ALWAYS_INLINE uint64_t vmcs_field_mask(uint32_t f)
{
	unsigned width = f >> 13 & 3;

	return width == 0 ? 0xffffull : width == 2 ? 0xffffffffull : ~0ull;
}

static ALWAYS_INLINE unsigned vmcs_field_offset(uint32_t f)
{
	return VMCS_OFF_FIELDS + (vmcs_field_group(f) * VMCS_GROUP_SLOTS + vmcs_field_index(f)) * 8;
}

/* The current VMCS; there must be one. It is RAM: VMPTRLD found its revision identifier there. */
static inline uint8_t *vmcs_region(const struct cpu *cpu)
{
	return likely(!cpu->emul_ops) ? machmem_ptr(cpu->mmu.mem, cpu->vmx.current)
				      : cpu_phys_ptr(cpu, cpu->vmx.current.v);
}
/* The processor has written to it. Software keeps it where it likes, over code, too. */
static inline void vmcs_wrote(struct cpu *cpu) { cpu_phys_wrote(cpu, cpu->vmx.current.v, PAGE_SIZE); }

/* Fields that are known to exist. */
static ALWAYS_INLINE uint64_t vmcs_get(const uint8_t *region, uint32_t f)
{
	return get_u64(region + vmcs_field_offset(f)) & vmcs_field_mask(f);
}
static ALWAYS_INLINE uint32_t vmcs_get32(const uint8_t *region, uint32_t f)
{
	return (uint32_t)vmcs_get(region, f);
}
static ALWAYS_INLINE void vmcs_put(uint8_t *region, uint32_t f, uint64_t v)
{
	put_u64(region + vmcs_field_offset(f), v & vmcs_field_mask(f));
}

/* Who follows root operation is told. */
static inline void vmx_tell(const struct cpu *cpu, enum vmx_event what, uint64_t a, uint64_t b)
{
	if (unlikely(cpu->vmx_watch != NULL))
		cpu->vmx_watch->seen(cpu->vmx_watch->ctx, what, a, b);
}

/* ---- shared between vmx.c, vmx_entry.c and vmx_exit.c ---- */

/* VMfail with @error: valid or invalid by whether there is a current VMCS. */
enum vmx_result vmx_fail(struct cpu *cpu, uint32_t error);
/* Low half: bits that must be 1; high half: bits that may be 1. */
struct vmx_allowed { uint32_t must, may; };
struct vmx_allowed vmx_allowed_pin(const struct cpu *cpu);
struct vmx_allowed vmx_allowed_proc(const struct cpu *cpu);
struct vmx_allowed vmx_allowed_proc2(const struct cpu *cpu);
struct vmx_allowed vmx_allowed_exit(const struct cpu *cpu);
struct vmx_allowed vmx_allowed_entry(const struct cpu *cpu);
/* CR4 bits that this processor has. */
uint64_t vmx_cr4_bits(const struct cpu *cpu);
uint64_t vmx_efer_bits(const struct cpu *cpu);
bool vmx_eptp_ok(const struct cpu *cpu, uint64_t eptp);
/* VM functions that there are: IA32_VMX_VMFUNC. */
uint64_t vmx_function_bits(const struct cpu *cpu);
/* Canonical for the widest linear addresses the processor has, whatever CR4.LA57 says. */
bool vmx_canonical(const struct cpu *cpu, uint64_t a);
/* No bits at or above MAXPHYADDR. */
static inline bool vmx_physical_ok(const struct cpu *cpu, uint64_t a) { return !(a >> cpu->cfg.maxphyaddr); }
bool vmx_pat_ok(uint64_t pat);
/* Loads the four PDPTEs at @cr3 from machine memory: false if a present one has reserved bits set. */
bool vmx_read_pdptes(const struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4]);
bool vmx_pdptes_ok(const struct cpu *cpu, const uint64_t pdpte[4]);
/*
 * MSR areas (16-byte entries; the low bits of an address that changed since it was checked do not count). Return 0, or the number (from 1) of the entry
 * that cannot be loaded or stored; those before it have been.
 */
uint32_t vmx_load_msrs(struct cpu *cpu, uint64_t area, uint32_t count);
uint32_t vmx_store_msrs(struct cpu *cpu, uint64_t area, uint32_t count);
/* Would the host-state area of the VMCS @v pass the checks at VM entry, as far as controls in force decide? */
bool vmx_host_state_ok(const struct cpu *cpu, const uint8_t *v);
/* Loads host state, with everything an exit does after the guest state is saved; may end in a VMX abort. */
void vmx_load_host_state(struct cpu *cpu);
/* An entry that fails after its control and host checks: records the reason and loads host state. */
void vmx_fail_entry(struct cpu *cpu, uint32_t reason, uint64_t qualification);

#endif
