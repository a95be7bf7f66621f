/*
 * Local APIC: see lapic.h. Modelled: both register interfaces with their access
 * rules, the mode transitions of IA32_APIC_BASE, fixed / NMI / INIT / start-up
 * messages, priorities, level-triggered EOI with broadcast suppression, the error
 * status register, LINT pins and the three timer modes.
 *
 * Left out: other processors (a message that is not for us vanishes, delivery
 * status is always idle, lowest priority means us if we match), SMI, remote reads,
 * the CMCI entry, and bus arbitration (APR and RRD read 0). The thermal and
 * performance-counter entries hold what is written and never fire.
 *
 * Source: SDM volume 3, "Advanced Programmable Interrupt Controller (APIC)".
 */
#include "cpu/lapic.h"

#include <string.h>

#include "arch/x86.h"
#include "base/util.h"

/* Register numbers: offset / 16 in the APIC page, MSR - 0x800 in x2APIC mode. */
enum lapic_reg {
	R_ID = 0x02, R_VERSION = 0x03, R_TPR = 0x08, R_APR = 0x09, R_PPR = 0x0a, R_EOI = 0x0b, R_RRD = 0x0c,
	R_LDR = 0x0d, R_DFR = 0x0e, R_SVR = 0x0f, R_ISR = 0x10, R_TMR = 0x18, R_IRR = 0x20, R_ESR = 0x28,
	R_ICR = 0x30, R_ICR_HI = 0x31, R_LVT = 0x32, R_TIMER_INIT = 0x38, R_TIMER_COUNT = 0x39,
	R_TIMER_DIV = 0x3e, R_SELF_IPI = 0x3f, R_COUNT = 0x40,
};

/* How a register may be reached: page (X) or MSR (M), read (R) or write (W). XX: exists in the page. */
#define XX 1u
#define XW 2u
#define MR 4u
#define MW 8u
#define RO (XX | MR)
#define RW (XX | XW | MR | MW)

static const uint8_t reg_access[R_COUNT] = {
	[R_ID] = XX | XW | MR,
	[R_VERSION] = RO,
	[R_TPR] = RW,
	[R_APR] = XX,
	[R_PPR] = RO,
	[R_EOI] = XX | XW | MW,
	[R_RRD] = XX,
	[R_LDR] = XX | XW | MR,
	[R_DFR] = XX | XW,
	[R_SVR] = RW,
	[R_ISR ... R_IRR + 7] = RO,
	[R_ESR] = RW,
	[R_ICR] = RW,
	[R_ICR_HI] = XX | XW,
	[R_LVT ... R_LVT + 5] = RW,
	[R_TIMER_INIT] = RW,
	[R_TIMER_COUNT] = RO,
	[R_TIMER_DIV] = RW,
	[R_SELF_IPI] = MW,
};

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define VERSION            (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24) /* can suppress EOI broadcast */
#define SVR_ENABLED        (1u << 8)
#define SVR_NO_EOI_BCAST   (1u << 12)
#define SVR_WRITABLE       0x13ffu

#define LVT_STATUS         (1u << 12)
#define LVT_REMOTE_IRR     (1u << 14)
#define LVT_LEVEL          (1u << 15)
#define LVT_MASKED         (1u << 16)
#define LVT_READ_ONLY      (LVT_STATUS | LVT_REMOTE_IRR)
#define LVT_TIMER_MODE     (3u << 17)
#define TIMER_ONE_SHOT     (0u << 17)
#define TIMER_PERIODIC     (1u << 17)
#define TIMER_DEADLINE     (2u << 17)

#define ESR_SEND_VECTOR    (1u << 5)
#define ESR_RECEIVE_VECTOR (1u << 6)
#define ESR_REGISTER       (1u << 7)

#define ICR_LOGICAL        (1u << 11)
#define ICR_STATUS         (1u << 12)
#define ICR_ASSERT         (1u << 14)
#define ICR_LEVEL          (1u << 15)
#define ICR_WRITABLE       0xccfffu
#define ICR_X2_RESERVED    0xfff32000u

enum { MODE_FIXED, MODE_LOWEST, MODE_SMI, MODE_REMOTE_READ, MODE_NMI, MODE_INIT, MODE_STARTUP, MODE_EXTINT };

static bool x2apic(const struct lapic *l) { return l->base & APIC_BASE_EXTD; }
static bool globally_enabled(const struct lapic *l) { return l->base & APIC_BASE_EN; }
static bool software_enabled(const struct lapic *l) { return l->svr & SVR_ENABLED; }

/* ---- 256-bit vector sets ---- */

static void set_bit256(uint32_t *set, uint8_t n) { set[n >> 5] |= 1u << (n & 31); }
static void clear_bit256(uint32_t *set, uint8_t n) { set[n >> 5] &= ~(1u << (n & 31)); }
static bool test_bit256(const uint32_t *set, uint8_t n) { return set[n >> 5] >> (n & 31) & 1; }

static int highest_bit256(const uint32_t *set)
{
	for (int i = 7; i >= 0; i--)
		if (set[i])
			return i * 32 + 31 - __builtin_clz(set[i]);
	return -1;
}

/* ---- reset ---- */

static void reset_registers(struct lapic *l)
{
	memset(l->irr, 0, sizeof(l->irr));
	memset(l->isr, 0, sizeof(l->isr));
	memset(l->tmr, 0, sizeof(l->tmr));
	l->tpr = l->ldr = l->esr = l->esr_pending = 0;
	l->dfr = ~0u;
	l->svr = 0xff;
	l->icr_lo = l->icr_hi = 0;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = LVT_MASKED;
	l->timer_init = l->timer_div = l->timer_count = 0;
	l->timer_running = false;
	l->timer_start = l->tsc_deadline = 0;
	memset(l->eoi_pending, 0, sizeof(l->eoi_pending));
}

/* "Local APIC State After Power-Up or Reset". The one processor is the bootstrap processor. */
void lapic_reset(struct lapic *l, uint32_t id)
{
	reset_registers(l);
	l->id = id;
	l->reg_id = id << 24;
	l->base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | APIC_BASE_BSP;
	l->nmi = l->init = l->sipi = false;
	l->sipi_vector = 0;
	l->lint_level = 0;
}

/* "Local APIC State After an INIT Reset". */
void lapic_init_reset(struct lapic *l)
{
	reset_registers(l);
	l->nmi = l->sipi = false;
}

void lapic_virtual_wire(struct lapic *l)
{
	l->svr = SVR_ENABLED | 0xff;
	l->lvt[LVT_LINT0] = MODE_EXTINT << 8;
	l->lvt[LVT_LINT1] = MODE_NMI << 8;
}

/* ---- accepting interrupts ---- */

static void signal_error(struct lapic *l, uint32_t esr_bit);

/* "Interrupt Acceptance for Fixed Interrupts". False if the vector is illegal or the APIC is off. */
static bool accept_fixed(struct lapic *l, uint8_t vector, bool level)
{
	if (!software_enabled(l))
		return false;
	if (vector < 16) {
		signal_error(l, ESR_RECEIVE_VECTOR);
		return false;
	}
	set_bit256(l->irr, vector);
	if (level)
		set_bit256(l->tmr, vector);
	else
		clear_bit256(l->tmr, vector);
	return true;
}

/* An interrupt of the local vector table comes up. */
static void fire_lvt(struct lapic *l, unsigned n)
{
	uint32_t lvt = l->lvt[n];
	unsigned mode = n == LVT_TIMER || n == LVT_ERROR ? MODE_FIXED : lvt >> 8 & 7;

	if (lvt & LVT_MASKED)
		return;
	if (mode == MODE_NMI) {
		l->nmi = true;
	} else if (mode == MODE_INIT) {
		l->init = true;
	} else if (mode == MODE_FIXED) {
		/* only LINT0 can be level-triggered: LINT1's trigger bit is ignored */
		bool level = n == LVT_LINT0 && (lvt & LVT_LEVEL);

		if (accept_fixed(l, (uint8_t)lvt, level) && level)
			l->lvt[n] |= LVT_REMOTE_IRR;
	}
}

/* Logs an error; the first since the last write of the ESR raises the error interrupt. */
static void signal_error(struct lapic *l, uint32_t esr_bit)
{
	bool armed = !l->esr_pending;

	l->esr_pending |= esr_bit;
	if (armed)
		fire_lvt(l, LVT_ERROR);
}

/* "Determining IPI Destination". @wide: a 32-bit x2APIC destination, otherwise 8 bits. */
static bool matches(const struct lapic *l, uint32_t dest, bool logical, bool wide)
{
	uint8_t ldr = (uint8_t)(l->ldr >> 24);

	if (dest == (wide ? ~0u : 0xffu))
		return true;
	if (x2apic(l)) {
		if (!logical)
			return dest == l->id;
		return dest >> 16 == (l->id >> 4 & 0xffff) && (dest & 0xffff & 1u << (l->id & 15));
	}
	if (!logical)
		return dest == l->reg_id >> 24;
	switch (l->dfr >> 28) {
	case 15: /* flat */
		return dest & ldr;
	case 0:  /* cluster */
		return (dest ^ ldr) >> 4 == 0 && (dest & ldr & 15);
	default:
		return false;
	}
}

/* A message whose destination includes us. */
static bool accept_message(struct lapic *l, unsigned mode, uint8_t vector, bool level)
{
	switch (mode) {
	case MODE_FIXED:
	case MODE_LOWEST:
		return accept_fixed(l, vector, level);
	case MODE_NMI:
		l->nmi = true;
		return true;
	case MODE_INIT:
		l->init = true;
		return true;
	case MODE_STARTUP:
		l->sipi = true;
		l->sipi_vector = vector;
		return true;
	default:
		return false;
	}
}

bool lapic_msi(struct lapic *l, uint64_t address, uint32_t data)
{
	unsigned mode = data >> 8 & 7;
	bool level = data & ICR_LEVEL;

	if (!globally_enabled(l) || address >> 20 != 0xfee || mode == MODE_STARTUP)
		return false;
	if (level && !(data & ICR_ASSERT))
		return false;
	if (!matches(l, address >> 12 & 0xff, address & 4, false))
		return false;
	return accept_message(l, mode, (uint8_t)data, level);
}

/* "Issuing Interprocessor Interrupts": acts on what the ICR holds. Always edge-triggered here. */
static void send_ipi(struct lapic *l)
{
	uint32_t lo = l->icr_lo;
	unsigned mode = lo >> 8 & 7, shorthand = lo >> 18 & 3;
	uint32_t dest = x2apic(l) ? l->icr_hi : l->icr_hi >> 24;

	if ((mode == MODE_FIXED || mode == MODE_LOWEST) && (lo & 0xff) < 16)
		signal_error(l, ESR_SEND_VECTOR);
	if (mode == MODE_INIT && (lo & ICR_LEVEL) && !(lo & ICR_ASSERT))
		return; /* INIT level de-assert: nothing on processors since the Pentium 4 */
	if (shorthand == 3)
		return; /* all others: there are none */
	if (shorthand == 1 && mode != MODE_FIXED && mode != MODE_LOWEST && mode != MODE_NMI)
		return;
	if (shorthand == 0 && !matches(l, dest, lo & ICR_LOGICAL, x2apic(l)))
		return;
	accept_message(l, mode, (uint8_t)lo, false);
}

bool lapic_accepts_extint(const struct lapic *l)
{
	if (!globally_enabled(l))
		return true; /* the pin is the processor's INTR */
	return !(l->lvt[LVT_LINT0] & LVT_MASKED) && (l->lvt[LVT_LINT0] >> 8 & 7) == MODE_EXTINT;
}

/* A level-triggered LINT0 that is asserted and not yet under service is (again) requested. */
static void sample_lint0(struct lapic *l)
{
	uint32_t lvt = l->lvt[LVT_LINT0];

	if (!(l->lint_level & 1) || (lvt & LVT_REMOTE_IRR))
		return;
	if ((lvt & LVT_LEVEL) && (lvt >> 8 & 7) == MODE_FIXED)
		fire_lvt(l, LVT_LINT0);
}

void lapic_set_lint(struct lapic *l, unsigned pin, bool level)
{
	uint8_t mask = (uint8_t)(1u << (pin & 1));
	bool rising = level && !(l->lint_level & mask);

	l->lint_level = (uint8_t)(level ? l->lint_level | mask : l->lint_level & ~mask);
	if (!rising)
		return;
	if (!globally_enabled(l)) {
		if (pin & 1)
			l->nmi = true;
		return;
	}
	if ((pin & 1) || !(l->lvt[LVT_LINT0] & LVT_LEVEL) || (l->lvt[LVT_LINT0] >> 8 & 7) != MODE_FIXED)
		fire_lvt(l, LVT_LINT0 + (pin & 1));
	else
		sample_lint0(l);
}

/* ---- priorities, delivery to the core, EOI ---- */

/* "Task and Processor Priorities". */
static uint32_t ppr(const struct lapic *l)
{
	int isrv = highest_bit256(l->isr);
	uint32_t served = isrv < 0 ? 0 : (uint32_t)isrv & 0xf0;

	return (l->tpr & 0xf0) >= served ? l->tpr : served;
}

int lapic_pending(const struct lapic *l)
{
	int vector = highest_bit256(l->irr);

	if (vector < 0 || !globally_enabled(l) || ((uint32_t)vector & 0xf0) <= (ppr(l) & 0xf0))
		return -1;
	return vector;
}

uint8_t lapic_ack(struct lapic *l)
{
	int vector = lapic_pending(l);

	if (vector < 0)
		return (uint8_t)l->svr;
	clear_bit256(l->irr, (uint8_t)vector);
	set_bit256(l->isr, (uint8_t)vector);
	return (uint8_t)vector;
}

/* "Signaling Interrupt Servicing Completion". */
static void end_of_interrupt(struct lapic *l)
{
	int vector = highest_bit256(l->isr);

	if (vector < 0)
		return;
	clear_bit256(l->isr, (uint8_t)vector);
	if (!test_bit256(l->tmr, (uint8_t)vector))
		return;
	if (!(l->svr & SVR_NO_EOI_BCAST))
		l->eoi_pending[vector >> 6] |= 1ull << (vector & 63);
	if ((l->lvt[LVT_LINT0] & LVT_REMOTE_IRR) && (l->lvt[LVT_LINT0] & 0xff) == (uint32_t)vector) {
		l->lvt[LVT_LINT0] &= ~LVT_REMOTE_IRR;
		sample_lint0(l);
	}
}

int lapic_take_eoi(struct lapic *l)
{
	for (int i = 3; i >= 0; i--) {
		if (l->eoi_pending[i]) {
			int bit = 63 - __builtin_clzll(l->eoi_pending[i]);

			l->eoi_pending[i] &= ~(1ull << bit);
			return i * 64 + bit;
		}
	}
	return -1;
}

void lapic_set_cr8(struct lapic *l, uint8_t v)
{
	l->tpr = (uint32_t)(v & 15) << 4;
}

/* ---- timer ---- */

static uint32_t timer_mode(const struct lapic *l) { return l->lvt[LVT_TIMER] & LVT_TIMER_MODE; }

/* TSC ticks per count: "Divide Configuration Register". */
static uint64_t timer_tick(const struct lapic *l)
{
	unsigned code = (l->timer_div & 3) | (l->timer_div >> 1 & 4);

	return (uint64_t)LAPIC_TSC_PER_CRYSTAL << ((code + 1) & 7);
}

/* TSC ticks since the count was set. A caller whose clock is a little behind sees the count not yet begun. */
static uint64_t timer_passed(const struct lapic *l, uint64_t now)
{
	return (int64_t)(now - l->timer_start) < 0 ? 0 : now - l->timer_start;
}

static uint32_t timer_current(const struct lapic *l, uint64_t now)
{
	uint64_t passed;

	if (!l->timer_running)
		return 0;
	passed = timer_passed(l, now) / timer_tick(l);
	return passed >= l->timer_count ? 0 : l->timer_count - (uint32_t)passed;
}

void lapic_shift_tsc(struct lapic *l, uint64_t delta)
{
	l->timer_start += delta;
}

/* Several periods that have passed unseen make one interrupt: the IRR holds no more. */
static void advance_count(struct lapic *l, uint64_t now)
{
	uint64_t tick = timer_tick(l), passed = timer_passed(l, now), first = l->timer_count * tick;

	if (passed < first)
		return;
	if (timer_mode(l) == TIMER_PERIODIC && l->timer_init) {
		uint64_t period = l->timer_init * tick;

		l->timer_start += first + (passed - first) / period * period;
		l->timer_count = l->timer_init;
	} else {
		l->timer_running = false;
		l->timer_count = 0;
	}
	fire_lvt(l, LVT_TIMER);
}

void lapic_advance(struct lapic *l, uint64_t now)
{
	if (l->timer_running)
		advance_count(l, now);
	if (l->tsc_deadline && now >= l->tsc_deadline) {
		l->tsc_deadline = 0;
		fire_lvt(l, LVT_TIMER);
	}
}

uint64_t lapic_next_deadline(const struct lapic *l)
{
	uint64_t at;

	if (l->lvt[LVT_TIMER] & LVT_MASKED)
		return UINT64_MAX; /* whatever happens is found when a register is looked at */
	if (l->tsc_deadline)
		return l->tsc_deadline;
	if (!l->timer_running)
		return UINT64_MAX;
	at = l->timer_start + l->timer_count * timer_tick(l);
	return at < l->timer_start ? UINT64_MAX : at;
}

static void start_timer(struct lapic *l, uint32_t count, uint64_t now)
{
	if (timer_mode(l) == TIMER_DEADLINE)
		return;
	l->timer_init = l->timer_count = count;
	l->timer_start = now;
	l->timer_running = count != 0;
}

/* The count goes on from where it is, at the new speed. */
static void set_divider(struct lapic *l, uint32_t v, uint64_t now)
{
	if (l->timer_running) {
		l->timer_count = timer_current(l, now);
		l->timer_start = now;
	}
	l->timer_div = v & 0xb;
}

/* Entering or leaving TSC-deadline mode disarms the timer; one-shot and periodic share the count. */
static void change_timer_mode(struct lapic *l, uint32_t old)
{
	if (old == timer_mode(l) || (old != TIMER_DEADLINE && timer_mode(l) != TIMER_DEADLINE))
		return;
	l->timer_running = false;
	l->timer_init = l->timer_count = 0;
	l->tsc_deadline = 0;
}

/* ---- registers ---- */

/* Bits of an LVT entry that exist. */
static uint32_t lvt_bits(const struct lapic *l, unsigned n)
{
	switch (n) {
	case LVT_TIMER:
		return 0xff | LVT_STATUS | LVT_MASKED | TIMER_PERIODIC |
		       (l->has_tsc_deadline ? TIMER_DEADLINE : 0);
	case LVT_THERMAL:
	case LVT_PERF:
		return 0x7ff | LVT_STATUS | LVT_MASKED;
	case LVT_ERROR:
		return 0xff | LVT_STATUS | LVT_MASKED;
	default:
		return 0x7ff | LVT_STATUS | 1u << 13 | LVT_REMOTE_IRR | LVT_LEVEL | LVT_MASKED;
	}
}

static void write_lvt(struct lapic *l, unsigned n, uint32_t v)
{
	uint32_t old_mode = timer_mode(l);

	l->lvt[n] = (v & lvt_bits(l, n) & ~LVT_READ_ONLY) | (l->lvt[n] & LVT_READ_ONLY);
	if (!software_enabled(l))
		l->lvt[n] |= LVT_MASKED;
	if (n == LVT_TIMER)
		change_timer_mode(l, old_mode);
	if (n == LVT_LINT0) {
		if (!(l->lvt[n] & LVT_LEVEL) || (l->lvt[n] >> 8 & 7) != MODE_FIXED)
			l->lvt[n] &= ~LVT_REMOTE_IRR;
		sample_lint0(l);
	}
}

/* "Local APIC State After It Has Been Software Disabled": the mask bits are set, and stay. */
static void write_svr(struct lapic *l, uint32_t v)
{
	l->svr = v & SVR_WRITABLE;
	if (!software_enabled(l))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			l->lvt[i] |= LVT_MASKED;
}

static uint32_t read_ldr(const struct lapic *l)
{
	return x2apic(l) ? (l->id >> 4 & 0xffff) << 16 | 1u << (l->id & 15) : l->ldr;
}

static uint32_t read_reg(struct lapic *l, unsigned reg, uint64_t now)
{
	switch (reg) {
	case R_ID:          return x2apic(l) ? l->id : l->reg_id;
	case R_VERSION:     return VERSION;
	case R_TPR:         return l->tpr;
	case R_PPR:         return ppr(l);
	case R_LDR:         return read_ldr(l);
	case R_DFR:         return l->dfr;
	case R_SVR:         return l->svr;
	case R_ISR ... R_ISR + 7: return l->isr[reg - R_ISR];
	case R_TMR ... R_TMR + 7: return l->tmr[reg - R_TMR];
	case R_IRR ... R_IRR + 7: return l->irr[reg - R_IRR];
	case R_ESR:         return l->esr;
	case R_ICR:         return l->icr_lo;
	case R_ICR_HI:      return l->icr_hi;
	case R_LVT ... R_LVT + 5: return l->lvt[reg - R_LVT];
	case R_TIMER_INIT:  return l->timer_init;
	case R_TIMER_COUNT: return timer_current(l, now);
	case R_TIMER_DIV:   return l->timer_div;
	default:            return 0; /* write-only, or not implemented: APR, RRD */
	}
}

static void write_reg(struct lapic *l, unsigned reg, uint32_t v, uint64_t now)
{
	switch (reg) {
	case R_ID:
		l->reg_id = v & 0xff000000;
		break;
	case R_TPR:
		l->tpr = v & 0xff;
		break;
	case R_EOI:
		end_of_interrupt(l);
		break;
	case R_LDR:
		l->ldr = v & 0xff000000;
		break;
	case R_DFR:
		l->dfr = v | 0x0fffffff;
		break;
	case R_SVR:
		write_svr(l, v);
		break;
	case R_ESR: /* the value written does not matter; what was logged becomes readable */
		l->esr = l->esr_pending;
		l->esr_pending = 0;
		break;
	case R_ICR:
		l->icr_lo = v & ICR_WRITABLE & ~ICR_STATUS;
		send_ipi(l);
		break;
	case R_ICR_HI:
		l->icr_hi = v & 0xff000000;
		break;
	case R_LVT ... R_LVT + 5:
		write_lvt(l, reg - R_LVT, v);
		break;
	case R_TIMER_INIT:
		start_timer(l, v, now);
		break;
	case R_TIMER_DIV:
		set_divider(l, v, now);
		break;
	case R_SELF_IPI:
		if (v < 16)
			signal_error(l, ESR_SEND_VECTOR);
		accept_fixed(l, (uint8_t)v, false);
		break;
	default:
		break;
	}
}

/* ---- the page ---- */

uint32_t lapic_read(struct lapic *l, unsigned offset, uint64_t now)
{
	unsigned reg = offset >> 4;

	lapic_advance(l, now);
	if (offset & 15)
		return 0;
	if (reg >= R_COUNT || !(reg_access[reg] & XX)) {
		signal_error(l, ESR_REGISTER);
		return 0;
	}
	return read_reg(l, reg, now);
}

void lapic_write(struct lapic *l, unsigned offset, uint32_t v, uint64_t now)
{
	unsigned reg = offset >> 4;

	lapic_advance(l, now);
	if (offset & 15)
		return;
	if (reg >= R_COUNT || !(reg_access[reg] & XX))
		signal_error(l, ESR_REGISTER);
	else if (reg_access[reg] & XW)
		write_reg(l, reg, v, now);
}

/* ---- MSRs ---- */

/*
 * "x2APIC State Transitions". Turning the APIC off forgets its state; switching to
 * x2APIC mode keeps it but for the ID, which is the initial one.
 */
static int write_apic_base(struct lapic *l, uint64_t v)
{
	uint64_t mode = v & (APIC_BASE_EN | APIC_BASE_EXTD), old = l->base & (APIC_BASE_EN | APIC_BASE_EXTD);
	uint64_t valid = (~0ull >> (64 - l->maxphyaddr) & ~0xfffull) | APIC_BASE_BSP | APIC_BASE_EN;

	if (l->has_x2apic)
		valid |= APIC_BASE_EXTD;
	if ((v & ~valid) || mode == APIC_BASE_EXTD)
		return -1;
	if (mode == APIC_BASE_EN && old == (APIC_BASE_EN | APIC_BASE_EXTD))
		return -1;
	if (mode == (APIC_BASE_EN | APIC_BASE_EXTD) && !old)
		return -1;
	if (!mode && old) {
		reset_registers(l);
		l->reg_id = l->id << 24;
	}
	l->base = v;
	return 0;
}

/* Bits of a 32-bit register that x2APIC mode lets software set. */
static uint32_t x2apic_writable(const struct lapic *l, unsigned reg)
{
	switch (reg) {
	case R_TPR:
	case R_SELF_IPI:
		return 0xff;
	case R_SVR:
		return SVR_WRITABLE;
	case R_LVT ... R_LVT + 5:
		return lvt_bits(l, reg - R_LVT);
	case R_TIMER_INIT:
		return ~0u;
	case R_TIMER_DIV:
		return 0xb;
	default: /* EOI, ESR */
		return 0;
	}
}

static int write_x2apic(struct lapic *l, unsigned reg, uint64_t v, uint64_t now)
{
	if (!x2apic(l) || reg >= R_COUNT || !(reg_access[reg] & MW))
		return -1;
	if (reg == R_ICR) {
		if (v & ICR_X2_RESERVED)
			return -1;
		l->icr_hi = (uint32_t)(v >> 32);
	} else if (v & ~(uint64_t)x2apic_writable(l, reg)) {
		return -1;
	}
	write_reg(l, reg, (uint32_t)v, now);
	return 0;
}

int lapic_rdmsr(struct lapic *l, uint32_t msr, uint64_t now, uint64_t *v)
{
	unsigned reg = msr - MSR_X2APIC_FIRST;

	lapic_advance(l, now);
	if (msr == MSR_APIC_BASE) {
		*v = l->base;
		return 0;
	}
	if (msr == MSR_TSC_DEADLINE) {
		*v = l->tsc_deadline;
		return l->has_tsc_deadline ? 0 : -1;
	}
	if (!x2apic(l) || reg >= R_COUNT || !(reg_access[reg] & MR))
		return -1;
	*v = read_reg(l, reg, now);
	if (reg == R_ICR)
		*v |= (uint64_t)l->icr_hi << 32;
	return 0;
}

int lapic_wrmsr(struct lapic *l, uint32_t msr, uint64_t v, uint64_t now)
{
	lapic_advance(l, now);
	if (msr == MSR_APIC_BASE)
		return write_apic_base(l, v);
	if (msr == MSR_TSC_DEADLINE) {
		if (!l->has_tsc_deadline)
			return -1;
		if (timer_mode(l) == TIMER_DEADLINE) {
			l->tsc_deadline = v;
			lapic_advance(l, now);
		}
		return 0;
	}
	return write_x2apic(l, msr - MSR_X2APIC_FIRST, v, now);
}
