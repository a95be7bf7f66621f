/*
 * Local APIC: xAPIC and x2APIC register interfaces, timer (one-shot, periodic,
 * TSC deadline), interrupt acceptance. A value, driven by whoever owns it: the
 * processor of the bare machine, or a hypervisor for its guest. Time is given in
 * TSC ticks (ns). Source: SDM volume 3, "Advanced Programmable Interrupt
 * Controller (APIC)".
 */
#ifndef GNOMON_CPU_LAPIC_H
#define GNOMON_CPU_LAPIC_H

#include "base/state.h"
#include <stdbool.h>
#include <stdint.h>

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define APIC_BASE_BSP      (1ull << 8)
#define APIC_BASE_EXTD     (1ull << 10)
#define APIC_BASE_EN       (1ull << 11)

/*
 * TSC ticks (ns) per tick of the timer's input clock before the divider: the core
 * crystal that CPUID leaf 15H reports. It runs as fast as the TSC: a program that
 * polls the count sees every read differ, and waits cost no more than they must.
 */
#define LAPIC_TSC_PER_CRYSTAL 1u

struct lapic {
	uint64_t base;          /* IA32_APIC_BASE */
	uint32_t id;            /* initial APIC ID */
	uint32_t reg_id;        /* xAPIC ID register (bits 31:24 hold it) */
	bool has_x2apic, has_tsc_deadline;
	unsigned maxphyaddr;
	uint32_t irr[8], isr[8], tmr[8];
	uint32_t tpr, ldr, dfr, svr, esr, esr_pending;
	uint32_t icr_lo, icr_hi;
	uint32_t lvt[6];        /* timer, thermal, performance, LINT0, LINT1, error */
	uint32_t timer_init, timer_div;
	bool timer_running;     /* one-shot or periodic count in progress */
	uint32_t timer_count;   /* count at timer_start */
	uint64_t timer_start;   /* TSC when the count was written / the period began */
	uint64_t tsc_deadline;  /* 0 = disarmed */
	bool nmi, init, sipi;   /* delivered to the processor core; the owner clears them */
	uint8_t sipi_vector;
	uint8_t lint_level;     /* levels of the LINT pins: bits 0, 1 */
	uint64_t eoi_pending[4]; /* vectors with level trigger whose EOI is to be broadcast: bitmap */
};

extern const struct state_desc lapic_desc; /* of struct lapic: all but has_* and maxphyaddr, which loading needs set */

void lapic_reset(struct lapic *l, uint32_t id); /* RESET; keeps has_*, maxphyaddr */
void lapic_init_reset(struct lapic *l);         /* INIT: keeps base and ID */
/*
 * What firmware leaves behind on a PC ("virtual wire"): software-enabled, LINT0 passes
 * the external controller (ExtINT), LINT1 is NMI. For a VM that starts without firmware.
 */
void lapic_virtual_wire(struct lapic *l);
/* The TSC was moved by @delta ticks (WRMSR): the count-down timer does not notice, the deadline does. */
void lapic_shift_tsc(struct lapic *l, uint64_t delta);

/*
 * Registers. Offsets are bytes from the APIC page. @now in TSC ticks. 32-bit accesses:
 * what lies between the registers (offsets that are no multiple of 16) reads 0, ignores writes.
 * The caller decides whether the page is decoded at all: EN set, EXTD clear in base.
 */
uint32_t lapic_read(struct lapic *l, unsigned offset, uint64_t now);
void lapic_write(struct lapic *l, unsigned offset, uint32_t v, uint64_t now);
/*
 * Accesses to the page as they come from the processor: registers are 32 bits wide at 16-byte steps. What lies
 * between them reads 0; writes that are not a whole register are ignored. @offset: within the page
 */
static inline uint64_t lapic_page_read(struct lapic *l, unsigned offset, uint64_t now)
{
	return (offset & 15) < 4 ? lapic_read(l, offset & ~15u, now) >> (8 * (offset & 3)) : 0;
}
static inline void lapic_page_write(struct lapic *l, unsigned offset, unsigned bytes, uint64_t v, uint64_t now)
{
	if (bytes == 4 && !(offset & 15))
		lapic_write(l, offset, (uint32_t)v, now);
}

/* MSR interface: APIC_BASE, 0x800-0x8ff, TSC_DEADLINE. Returns 0, or -1: #GP(0). */
int lapic_rdmsr(struct lapic *l, uint32_t msr, uint64_t now, uint64_t *v);
int lapic_wrmsr(struct lapic *l, uint32_t msr, uint64_t v, uint64_t now);

/* CR8 <-> TPR */
static inline uint8_t lapic_cr8(const struct lapic *l) { return (uint8_t)(l->tpr >> 4 & 15); }
void lapic_set_cr8(struct lapic *l, uint8_t v);

/* A message on the APIC bus (MSI address and data, or an IOAPIC entry in that form). True if accepted. */
bool lapic_msi(struct lapic *l, uint64_t address, uint32_t data);
/* LINT pins. LINT0 in ExtINT mode passes the external controller through. */
bool lapic_accepts_extint(const struct lapic *l);
void lapic_set_lint(struct lapic *l, unsigned pin, bool level);

/* Fires the timer if it is due. */
void lapic_advance(struct lapic *l, uint64_t now);
/* TSC tick of the next timer event, UINT64_MAX if none. */
uint64_t lapic_next_deadline(const struct lapic *l);

/* Highest-priority vector that could be delivered now (above PPR), or -1. */
int lapic_pending(const struct lapic *l);
/* Accepts it: IRR to ISR. If nothing can be delivered any more, the spurious vector. */
uint8_t lapic_ack(struct lapic *l);
/* Takes one level-triggered vector whose EOI must be broadcast to the IOAPIC, or -1. */
int lapic_take_eoi(struct lapic *l);
/* Is there one to take? */
static inline bool lapic_has_eoi(const struct lapic *l)
{
	return l->eoi_pending[0] | l->eoi_pending[1] | l->eoi_pending[2] | l->eoi_pending[3];
}

#endif
