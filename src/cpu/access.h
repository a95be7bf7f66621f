/*
 * Memory access for execute functions.
 *
 * All addresses are linear. Loads and stores return 0, or EXEC_STOP with the
 * cause recorded in cpu->stop: the caller returns at once. A store that fails has
 * written nothing, even if it crosses a page. The inline part is the fast
 * lookup; everything else is in access.c.
 */
#ifndef GNOMON_CPU_ACCESS_H
#define GNOMON_CPU_ACCESS_H

#include "cpu/cpu.h"

/* Slow paths: any size up to 64 bytes, page crossings, devices, breakpoints, code pages. */
int mem_read_slow(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes, enum access_mode mode);
int mem_write_slow(struct cpu *cpu, uint64_t lin, const void *buf, unsigned bytes, enum access_mode mode);
/* Read that will be followed by a write of the same bytes: faults as a write does. */
int mem_rmw_slow(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes, enum access_mode mode);
/* Checks that a write would succeed (and sets accessed and dirty flags); writes nothing. */
int mem_probe_write(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_mode mode);
/* All of an access but its data: translations, flags, faults, exits and counts. No device is asked. */
int mem_touch(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_kind kind, enum access_mode mode);

#define DEFINE_ACCESS(N, T)                                                                             \
	static ALWAYS_INLINE int ld##N(struct cpu *cpu, uint64_t lin, T *out)                           \
	{                                                                                               \
		enum access_mode mode = (enum access_mode)cpu->mode;                                    \
		const uint8_t *host = mmu_fast_data(&cpu->mmu, lin, sizeof(T), ACCESS_READ, mode);      \
		if (unlikely(!host))                                                                    \
			return mem_read_slow(cpu, lin, out, sizeof(T), mode);                           \
		memcpy(out, host, sizeof(T));                                                           \
		return 0;                                                                               \
	}                                                                                               \
	static ALWAYS_INLINE int st##N(struct cpu *cpu, uint64_t lin, T v)                              \
	{                                                                                               \
		enum access_mode mode = (enum access_mode)cpu->mode;                                    \
		uint8_t *host = mmu_fast_data(&cpu->mmu, lin, sizeof(T), ACCESS_WRITE, mode);           \
		if (unlikely(!host))                                                                    \
			return mem_write_slow(cpu, lin, &v, sizeof(T), mode);                           \
		memcpy(host, &v, sizeof(T));                                                            \
		return 0;                                                                               \
	}                                                                                               \
	/* Load with the intent to store: follow with st##N of the same address. */                    \
	static ALWAYS_INLINE int rmw##N(struct cpu *cpu, uint64_t lin, T *out)                          \
	{                                                                                               \
		enum access_mode mode = (enum access_mode)cpu->mode;                                    \
		const uint8_t *host = mmu_fast_data(&cpu->mmu, lin, sizeof(T), ACCESS_WRITE, mode);     \
		if (unlikely(!host))                                                                    \
			return mem_rmw_slow(cpu, lin, out, sizeof(T), mode);                            \
		memcpy(out, host, sizeof(T));                                                           \
		return 0;                                                                               \
	}

struct u128 { uint64_t lo, hi; };
struct u256 { uint64_t q[4]; };

DEFINE_ACCESS(8, uint8_t)
DEFINE_ACCESS(16, uint16_t)
DEFINE_ACCESS(32, uint32_t)
DEFINE_ACCESS(64, uint64_t)
DEFINE_ACCESS(128, struct u128)
DEFINE_ACCESS(256, struct u256)

/* Larger operands (FXSAVE, FBSTP, ...): any size up to 64 bytes at a time. */
static inline int mem_read(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes)
{
	return mem_read_slow(cpu, lin, buf, bytes, (enum access_mode)cpu->mode);
}
static inline int mem_write(struct cpu *cpu, uint64_t lin, const void *buf, unsigned bytes)
{
	return mem_write_slow(cpu, lin, buf, bytes, (enum access_mode)cpu->mode);
}

/* Supervisor accesses that ignore CPL and EFLAGS.AC: descriptor tables, TSS. For the MMU they are like those of CPL 0. */
int sys_read(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes);
int sys_write(struct cpu *cpu, uint64_t lin, const void *buf, unsigned bytes);

/* ---- registers by slot offset ---- */
static ALWAYS_INLINE uint8_t r8(const struct cpu *c, uint8_t off) { return ((const uint8_t *)c->gpr)[off]; }
static ALWAYS_INLINE uint16_t r16(const struct cpu *c, uint8_t off) { return get_u16((const uint8_t *)c->gpr + off); }
static ALWAYS_INLINE uint32_t r32(const struct cpu *c, uint8_t off) { return get_u32((const uint8_t *)c->gpr + off); }
static ALWAYS_INLINE uint64_t r64(const struct cpu *c, uint8_t off) { return get_u64((const uint8_t *)c->gpr + off); }
static ALWAYS_INLINE void w8(struct cpu *c, uint8_t off, uint8_t v) { ((uint8_t *)c->gpr)[off] = v; }
static ALWAYS_INLINE void w16(struct cpu *c, uint8_t off, uint16_t v) { put_u16((uint8_t *)c->gpr + off, v); }
/* 32-bit results clear the upper half. */
static ALWAYS_INLINE void w32(struct cpu *c, uint8_t off, uint32_t v) { put_u64((uint8_t *)c->gpr + off, v); }
static ALWAYS_INLINE void w64(struct cpu *c, uint8_t off, uint64_t v) { put_u64((uint8_t *)c->gpr + off, v); }

/*
 * Linear address of the memory operand.
 * @bytes: size of the access, @kind: ACCESS_READ or ACCESS_WRITE, for segment
 * limit and type checks (outside 64-bit mode) and, for stores in 64-bit mode,
 * nothing: canonicality is checked where the access is translated.
 * Returns 0 or EXEC_STOP (#GP, #SS).
 */
int ea_slow(struct cpu *cpu, const struct uop *u, unsigned bytes, enum access_kind kind, uint64_t *lin);
/* Linear address of offset @off in segment @seg, with the same checks, for implicit operands (stack, strings). */
int seg_lin(struct cpu *cpu, unsigned seg, uint64_t off, unsigned bytes, enum access_kind kind, uint64_t *lin);

static ALWAYS_INLINE int ea(struct cpu *cpu, const struct uop *u, unsigned bytes, enum access_kind kind,
			    uint64_t *lin)
{
	if (unlikely(u->flags & UOP_EA_SLOW))
		return ea_slow(cpu, u, bytes, kind, lin);
	*lin = r64(cpu, u->base) + (r64(cpu, u->index) << u->scale) + (uint64_t)u->disp +
	       cpu->seg_base_eff[u->seg];
	return 0;
}

/* The offset alone, as LEA computes it (masked to the address size, not to the operand size). */
static inline uint64_t ea_offset(const struct cpu *cpu, const struct uop *u)
{
	uint64_t a = r64(cpu, u->base) + (r64(cpu, u->index) << u->scale) + (uint64_t)u->disp;

	return u->addrsize == 8 ? a : u->addrsize == 4 ? (uint32_t)a : (uint16_t)a;
}

/* RIP of the instruction itself and of the next one, as offsets in CS (not masked). */
static ALWAYS_INLINE uint64_t uop_rip(const struct cpu *c, const struct uop *u) { return c->gpr[REG_RIP] + u->off; }
static ALWAYS_INLINE uint64_t uop_next_rip(const struct cpu *c, const struct uop *u)
{
	uint64_t rip = c->gpr[REG_RIP] + u->off + u->len;

	return c->code_bits == 64 ? rip : (uint32_t)rip;
}

/* ---- ports (cpu/access.c) ---- */
/* IN: answers from the platform. OUT: posted. Neither checks privilege or VMX intercepts. */
int port_read(struct cpu *cpu, uint16_t port, unsigned bytes, uint32_t *out);
int port_write(struct cpu *cpu, uint16_t port, unsigned bytes, uint32_t v);

#endif
