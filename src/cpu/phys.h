/*
 * Memory by physical address, for what the processor itself keeps in memory: VMX regions, bitmaps, MSR areas.
 *
 * On the machine's processor that is machine memory. A processor in the emulator role belongs to a guest: its
 * physical addresses are that guest's, and its owner knows where they are.
 */
#ifndef GNOMON_CPU_PHYS_H
#define GNOMON_CPU_PHYS_H

#include "cpu/block.h"
#include "cpu/cpu.h"

/* Host pointer to the RAM at @a, up to its page's end; NULL: no RAM there. */
static inline uint8_t *cpu_phys_ptr(const struct cpu *cpu, uint64_t a)
{
	hpa_t at = hpa(a);

	if (unlikely(cpu->emul_ops != NULL) && !cpu->emul_ops->physical(cpu->emul_ctx, a, &at))
		return NULL;
	return machmem_is_ram(cpu->mmu.mem, at) ? machmem_ptr(cpu->mmu.mem, at) : NULL;
}

/* Naturally aligned reads; what is no RAM reads as ones. */
static inline uint32_t cpu_phys_read32(const struct cpu *cpu, uint64_t a)
{
	const uint8_t *p = cpu_phys_ptr(cpu, a);

	return p ? get_u32(p) : ~0u;
}

static inline uint64_t cpu_phys_read64(const struct cpu *cpu, uint64_t a)
{
	const uint8_t *p = cpu_phys_ptr(cpu, a);

	return p ? get_u64(p) : ~0ull;
}

/* RAM within one page was written through cpu_phys_ptr(): caches of code and the owner's tables follow. */
static inline void cpu_phys_wrote(struct cpu *cpu, uint64_t a, unsigned bytes)
{
	if (unlikely(cpu->emul_ops != NULL))
		cpu->emul_ops->wrote(cpu->emul_ctx, a, bytes);
	else if (unlikely(cpu->mmu.mem->code_map[a >> PAGE_SHIFT]))
		blocks_note_write(cpu, a, bytes);
}

#endif
