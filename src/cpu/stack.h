/* The stack as instructions other than the 64-bit fast forms see it: any stack-address and operand size. */
#ifndef GNOMON_CPU_STACK_H
#define GNOMON_CPU_STACK_H

#include "cpu/access.h"

/* Bytes of the stack pointer in use: 8, or 4 / 2 by SS.B. */
static inline unsigned stack_width(const struct cpu *cpu)
{
	return cpu->long_mode ? 8 : cpu->seg[SEG_SS].attr & SEG_AR_DB ? 4 : 2;
}

/* @p moved by @by within the stack-address size. */
static inline uint64_t stack_add(const struct cpu *cpu, uint64_t p, int64_t by)
{
	unsigned width = stack_width(cpu);
	uint64_t v = p + (uint64_t)by;

	return width == 8 ? v : width == 4 ? (uint32_t)v : (uint16_t)v;
}

/* Sets the stack pointer; with a 16-bit stack the upper part of ESP stays. */
static inline void stack_set(struct cpu *cpu, uint64_t v)
{
	unsigned width = stack_width(cpu);

	if (width == 2)
		w16(cpu, REG_OFF(RSP), (uint16_t)v);
	else
		cpu->gpr[RSP] = width == 8 ? v : (uint32_t)v;
}

static inline void stack_move(struct cpu *cpu, int64_t by) { stack_set(cpu, cpu->gpr[RSP] + (uint64_t)by); }

/* A stack access has failed: a non-canonical address is #SS whatever the instruction's own operand is. */
static inline int stack_stop(struct cpu *cpu)
{
	if (cpu->stop.noncanonical) {
		cpu->stop.vector = EXC_SS;
		cpu->stop.noncanonical = false;
	}
	return EXEC_STOP;
}

/* Reads @bytes at offset @at of the stack segment, zero-extended. 0 or EXEC_STOP. */
static inline int stack_read(struct cpu *cpu, uint64_t at, uint64_t *v, unsigned bytes)
{
	uint64_t lin;

	*v = 0;
	return seg_lin(cpu, SEG_SS, stack_add(cpu, at, 0), bytes, ACCESS_READ, &lin) || mem_read(cpu, lin, v, bytes)
		       ? stack_stop(cpu)
		       : 0;
}

static inline int stack_pop(struct cpu *cpu, uint64_t *v, unsigned bytes)
{
	if (stack_read(cpu, cpu->gpr[RSP], v, bytes))
		return EXEC_STOP;
	stack_move(cpu, bytes);
	return 0;
}

static inline int stack_push(struct cpu *cpu, uint64_t v, unsigned bytes)
{
	uint64_t sp = stack_add(cpu, cpu->gpr[RSP], -(int64_t)bytes), lin;

	if (seg_lin(cpu, SEG_SS, sp, bytes, ACCESS_WRITE, &lin) || mem_write(cpu, lin, &v, bytes))
		return stack_stop(cpu);
	stack_set(cpu, sp);
	return 0;
}

/* Would a push of @bytes at the stack pointer work? ENTER checks its final value so. */
static inline int stack_probe(struct cpu *cpu, unsigned bytes)
{
	uint64_t lin;

	return seg_lin(cpu, SEG_SS, stack_add(cpu, cpu->gpr[RSP], 0), bytes, ACCESS_WRITE, &lin) ||
			       mem_probe_write(cpu, lin, bytes, (enum access_mode)cpu->mode)
		       ? stack_stop(cpu)
		       : 0;
}

#endif
