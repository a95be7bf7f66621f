/* The local APIC. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/lapic.h"

#define MSR_BASE     0x1b
#define MSR_DEADLINE 0x6e0
#define TICK         LAPIC_TSC_PER_CRYSTAL

enum {
	ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0,
	ISR = 0x100, TMR = 0x180, ESR = 0x280, ICR = 0x300, ICR_HI = 0x310, LVT_TIMER = 0x320,
	LVT_LINT0 = 0x350, LVT_LINT1 = 0x360, LVT_ERROR = 0x370, INIT_COUNT = 0x380, COUNT = 0x390,
	DIVIDE = 0x3e0,
};

static struct lapic l;

static int setup(void **state)
{
	(void)state;
	memset(&l, 0, sizeof(l));
	l.has_x2apic = l.has_tsc_deadline = true;
	l.maxphyaddr = 46;
	lapic_reset(&l, 0);
	lapic_write(&l, SVR, 0x1ff, 0);
	return 0;
}

static uint64_t base_msr(void)
{
	uint64_t v;

	assert_int_equal(lapic_rdmsr(&l, MSR_BASE, 0, &v), 0);
	return v;
}

static int setup_x2apic(void **state)
{
	setup(state);
	return lapic_wrmsr(&l, MSR_BASE, base_msr() | APIC_BASE_EXTD, 0);
}

static uint64_t rdmsr(uint32_t msr, uint64_t now)
{
	uint64_t v;

	assert_int_equal(lapic_rdmsr(&l, msr, now, &v), 0);
	return v;
}

static void wrmsr(uint32_t msr, uint64_t v, uint64_t now)
{
	assert_int_equal(lapic_wrmsr(&l, msr, v, now), 0);
}

static void assert_gp_read(uint32_t msr)
{
	uint64_t v;

	assert_int_equal(lapic_rdmsr(&l, msr, 0, &v), -1);
}

static void assert_gp_write(uint32_t msr, uint64_t v) { assert_int_equal(lapic_wrmsr(&l, msr, v, 0), -1); }

/* Whether @vector is the one pending; takes and ends it. */
static void assert_interrupt(int vector)
{
	assert_int_equal(lapic_pending(&l), vector);
	if (vector >= 0) {
		assert_int_equal(lapic_ack(&l), vector);
		lapic_write(&l, EOI, 0, 0);
	}
}

static void reset_state(void **state)
{
	(void)state;
	lapic_reset(&l, 3);
	assert_int_equal(base_msr(), 0xfee00900);
	assert_int_equal(lapic_read(&l, ID, 0), 3 << 24);
	assert_int_equal(lapic_read(&l, VERSION, 0), 0x01050014);
	assert_int_equal(lapic_read(&l, SVR, 0), 0xff);
	assert_int_equal(lapic_read(&l, DFR, 0), 0xffffffff);
	for (unsigned r = LVT_TIMER; r <= LVT_ERROR; r += 16)
		assert_int_equal(lapic_read(&l, r, 0), 0x10000);
	lapic_write(&l, LVT_TIMER, 0x31, 0);
	assert_int_equal(lapic_read(&l, LVT_TIMER, 0), 0x10031); /* masked while software-disabled */
	lapic_virtual_wire(&l);
	assert_true(lapic_accepts_extint(&l));
}

static void base_transitions(void **state)
{
	uint64_t off = LAPIC_DEFAULT_BASE | APIC_BASE_BSP;

	(void)state;
	assert_gp_write(MSR_BASE, off | APIC_BASE_EXTD);
	assert_gp_write(MSR_BASE, off | APIC_BASE_EN | 1);
	assert_gp_write(MSR_BASE, off | APIC_BASE_EN | 1 << 9);
	assert_gp_write(MSR_BASE, off | APIC_BASE_EN | 1ull << 46);
	wrmsr(MSR_BASE, 0xfed40000 | APIC_BASE_EN | 1ull << 45, 0);
	wrmsr(MSR_BASE, off | APIC_BASE_EN, 0);
	lapic_write(&l, ID, 0x05000000, 0);
	lapic_write(&l, TPR, 0x20, 0);
	wrmsr(MSR_BASE, off | APIC_BASE_EN | APIC_BASE_EXTD, 0);
	assert_int_equal(rdmsr(0x802, 0), 0); /* x2APIC: the initial ID, and the rest kept */
	assert_int_equal(rdmsr(0x808, 0), 0x20);
	assert_gp_write(MSR_BASE, off | APIC_BASE_EN);
	assert_gp_write(MSR_BASE, off | APIC_BASE_EXTD);
	wrmsr(MSR_BASE, off, 0);
	assert_int_equal(base_msr(), off);
	assert_gp_write(MSR_BASE, off | APIC_BASE_EXTD);
	assert_gp_write(MSR_BASE, off | APIC_BASE_EN | APIC_BASE_EXTD);
	wrmsr(MSR_BASE, off | APIC_BASE_EN, 0);
	assert_int_equal(lapic_read(&l, SVR, 0), 0xff); /* state was lost */
	assert_int_equal(lapic_read(&l, ID, 0), 0);
	l.has_x2apic = false;
	assert_gp_write(MSR_BASE, off | APIC_BASE_EN | APIC_BASE_EXTD);
}

static void x2apic_access_rules(void **state)
{
	static const uint16_t readable[] = {
		0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x810, 0x817, 0x818, 0x81f, 0x820, 0x827,
		0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x839, 0x83e,
	};
	uint32_t msr, n = 0;
	uint64_t v;

	(void)state;
	for (msr = 0x800; msr < 0x900; msr++)
		n += lapic_rdmsr(&l, msr, 0, &v) == 0;
	/* of the three sets of 8 registers two are in the list */
	assert_int_equal(n, sizeof(readable) / sizeof(readable[0]) + 3 * 6);
	for (n = 0; n < sizeof(readable) / sizeof(readable[0]); n++)
		rdmsr(readable[n], 0);
	assert_gp_read(0x80b);
	assert_gp_read(0x83f);
	assert_gp_write(0x802, 0);
	assert_gp_write(0x803, 0);
	assert_gp_write(0x80a, 0);
	assert_gp_write(0x80d, 0);
	assert_gp_write(0x80e, 0);
	assert_gp_write(0x820, 0);
	assert_gp_write(0x839, 0);
	assert_gp_write(0x831, 0);
	assert_gp_write(0x808, 0x100);
	assert_gp_write(0x80b, 1);
	assert_gp_write(0x80f, 1 << 13);
	assert_gp_write(0x828, 1);
	assert_gp_write(0x830, 1 << 13);
	assert_gp_write(0x830, 1 << 20);
	assert_gp_write(0x832, 1 << 19);
	assert_gp_write(0x832, 1 << 8);
	assert_gp_write(0x835, 1 << 17);
	assert_gp_write(0x837, 1 << 10);
	assert_gp_write(0x838, 1ull << 32);
	assert_gp_write(0x83e, 4);
	assert_gp_write(0x83f, 0x100);
	wrmsr(0x808, 0xff, 0);
	wrmsr(0x838, 0xffffffff, 0);
	wrmsr(0x83e, 0xb, 0);
	wrmsr(0x80b, 0, 0);
}

static void not_x2apic(void **state)
{
	(void)state;
	assert_gp_read(0x802);
	assert_gp_write(0x80b, 0);
}

static void page_access(void **state)
{
	(void)state;
	assert_int_equal(lapic_read(&l, 0x84, 0), 0);
	lapic_write(&l, 0x40, 1, 0); /* reserved */
	assert_int_equal(lapic_read(&l, ESR, 0), 0);
	lapic_write(&l, ESR, 0, 0);
	assert_int_equal(lapic_read(&l, ESR, 0), 0x80);
	lapic_write(&l, ESR, 0, 0);
	assert_int_equal(lapic_read(&l, ESR, 0), 0);
	lapic_read(&l, 0x3f0, 0);
	lapic_write(&l, ESR, 0, 0);
	assert_int_equal(lapic_read(&l, ESR, 0), 0x80);
	lapic_write(&l, PPR, 0xff, 0); /* read-only: ignored */
	assert_int_equal(lapic_read(&l, PPR, 0), 0);
	lapic_write(&l, LDR, 0xffffffff, 0);
	assert_int_equal(lapic_read(&l, LDR, 0), 0xff000000);
	lapic_write(&l, DFR, 0, 0);
	assert_int_equal(lapic_read(&l, DFR, 0), 0x0fffffff);
}

static void priorities(void **state)
{
	(void)state;
	assert_true(lapic_msi(&l, 0xfee00000, 0x31));
	assert_true(lapic_msi(&l, 0xfee00000, 0x52));
	assert_true(lapic_msi(&l, 0xfee00000, 0x55));
	assert_int_equal(lapic_ack(&l), 0x55);
	assert_int_equal(lapic_read(&l, PPR, 0), 0x50);
	assert_int_equal(lapic_pending(&l), -1); /* 0x52 is of the same class */
	assert_true(lapic_msi(&l, 0xfee00000, 0x60));
	assert_int_equal(lapic_ack(&l), 0x60);
	assert_int_equal(lapic_read(&l, ISR + 0x30, 0), 1);
	assert_int_equal(lapic_read(&l, ISR + 0x20, 0), 1 << 0x15);
	lapic_write(&l, EOI, 0, 0);
	lapic_write(&l, EOI, 0, 0);
	assert_int_equal(lapic_pending(&l), 0x52);
	lapic_set_cr8(&l, 5);
	assert_int_equal(lapic_read(&l, TPR, 0), 0x50);
	assert_int_equal(lapic_pending(&l), -1);
	assert_int_equal(lapic_ack(&l), 0xff); /* nothing any more: spurious */
	lapic_write(&l, TPR, 0x4f, 0);
	assert_int_equal(lapic_cr8(&l), 4);
	assert_int_equal(lapic_read(&l, PPR, 0), 0x4f);
	assert_interrupt(0x52);
	assert_interrupt(-1);
	lapic_set_cr8(&l, 0);
	assert_interrupt(0x31);
}

static void level_and_eoi(void **state)
{
	(void)state;
	assert_true(lapic_msi(&l, 0xfee00000, 0xc071));
	assert_int_equal(lapic_read(&l, TMR + 0x30, 0), 1 << 0x11);
	lapic_ack(&l);
	assert_int_equal(lapic_take_eoi(&l), -1);
	lapic_write(&l, EOI, 0, 0);
	assert_int_equal(lapic_take_eoi(&l), 0x71);
	assert_int_equal(lapic_take_eoi(&l), -1);
	lapic_write(&l, SVR, 0x11ff, 0); /* broadcast suppressed */
	assert_true(lapic_msi(&l, 0xfee00000, 0xc071));
	assert_interrupt(0x71);
	assert_int_equal(lapic_take_eoi(&l), -1);
	assert_true(lapic_msi(&l, 0xfee00000, 0x0071)); /* an edge clears the TMR bit */
	assert_int_equal(lapic_read(&l, TMR + 0x30, 0), 0);
	assert_false(lapic_msi(&l, 0xfee00000, 0x8071)); /* level de-assert */
	lapic_write(&l, EOI, 0, 0);
	lapic_write(&l, EOI, 0, 0); /* one too many */
}

static void destinations(void **state)
{
	(void)state;
	assert_false(lapic_msi(&l, 0xfee01000, 0x40));
	assert_true(lapic_msi(&l, 0xfeeff000, 0x40));
	assert_false(lapic_msi(&l, 0xfed00000, 0x40));
	assert_false(lapic_msi(&l, 0xfee01004, 0x40)); /* logical, LDR 0 */
	lapic_write(&l, LDR, 0x12000000, 0);
	assert_true(lapic_msi(&l, 0xfee10004, 0x40));
	assert_false(lapic_msi(&l, 0xfee20004, 0x40));
	lapic_write(&l, DFR, 0, 0); /* cluster 1, member 2 */
	assert_true(lapic_msi(&l, 0xfee13004, 0x40));
	assert_false(lapic_msi(&l, 0xfee23004, 0x40));
	assert_false(lapic_msi(&l, 0xfee11004, 0x40));
	assert_true(lapic_msi(&l, 0xfeeff004, 0x140)); /* lowest priority */
	assert_false(lapic_msi(&l, 0xfee00000, 0x700)); /* ExtINT */
	assert_false(lapic_msi(&l, 0xfee00000, 0x200)); /* SMI */
	assert_true(lapic_msi(&l, 0xfee00000, 0x400));
	assert_true(l.nmi);
	lapic_write(&l, SVR, 0xff, 0);
	assert_false(lapic_msi(&l, 0xfee00000, 0x41)); /* software-disabled: no fixed ones */
	assert_true(lapic_msi(&l, 0xfee00000, 0x400));
	assert_int_equal(lapic_pending(&l), 0x40); /* but what is pending stays */
}

static void ipi(void **state)
{
	(void)state;
	lapic_write(&l, ICR, 0x000440f1, 0); /* self */
	assert_interrupt(0xf1);
	lapic_write(&l, ICR, 0x000840f2, 0); /* all */
	assert_interrupt(0xf2);
	lapic_write(&l, ICR, 0x000c40f3, 0); /* all others */
	assert_interrupt(-1);
	lapic_write(&l, ICR_HI, 0xff000000, 0);
	lapic_write(&l, ICR, 0x000040cf, 0);
	assert_interrupt(0xcf);
	lapic_write(&l, ICR_HI, 0x01000000, 0); /* somebody else */
	lapic_write(&l, ICR, 0x000050cf, 0);
	assert_interrupt(-1);
	assert_int_equal(lapic_read(&l, ICR, 0), 0x40cf); /* delivered, as far as anybody can tell */
	lapic_write(&l, ICR_HI, 0, 0);
	lapic_write(&l, ICR, 0x0400, 0);
	assert_true(l.nmi);
	lapic_write(&l, ICR, 0x8500, 0); /* INIT level de-assert */
	assert_false(l.init);
	lapic_write(&l, ICR, 0xc500, 0);
	assert_true(l.init);
	lapic_write(&l, ICR, 0x4612, 0);
	assert_true(l.sipi);
	assert_int_equal(l.sipi_vector, 0x12);
}

static void x2apic_ipi(void **state)
{
	(void)state;
	lapic_reset(&l, 0x25);
	wrmsr(MSR_BASE, base_msr() | APIC_BASE_EXTD, 0);
	wrmsr(0x80f, 0x1ff, 0);
	assert_int_equal(rdmsr(0x80d, 0), 0x00020020);
	wrmsr(0x830, 0x25ull << 32 | 0x40a1, 0);
	assert_int_equal(lapic_pending(&l), 0xa1);
	assert_int_equal(rdmsr(0x830, 0), 0x25ull << 32 | 0x40a1);
	wrmsr(0x830, 0x00020020ull << 32 | 0x48b1, 0);
	assert_int_equal(lapic_pending(&l), 0xb1);
	wrmsr(0x830, 0x00030020ull << 32 | 0x48c1, 0);
	wrmsr(0x830, 0xffull << 32 | 0x40c1, 0);
	assert_int_equal(lapic_pending(&l), 0xb1);
	wrmsr(0x830, 0xffffffffull << 32 | 0x40c1, 0);
	assert_int_equal(lapic_pending(&l), 0xc1);
	wrmsr(0x83f, 0xd1, 0);
	assert_int_equal(lapic_pending(&l), 0xd1);
	assert_true(lapic_msi(&l, 0xfee25000, 0xe1));
}

static void error_interrupt(void **state)
{
	(void)state;
	lapic_write(&l, LVT_ERROR, 0xfe, 0);
	lapic_write(&l, ICR, 0x00044005, 0); /* illegal vector, to self: sent and received */
	assert_interrupt(0xfe);
	lapic_write(&l, ICR, 0x00044005, 0);
	assert_interrupt(-1); /* not before the ESR is written */
	lapic_write(&l, ESR, 0x1234, 0);
	assert_int_equal(lapic_read(&l, ESR, 0), 0x60);
	assert_false(lapic_msi(&l, 0xfee00000, 0x0f));
	lapic_write(&l, ESR, 0, 0);
	assert_int_equal(lapic_read(&l, ESR, 0), 0x40);
	lapic_write(&l, LVT_ERROR, 0x01, 0); /* the error interrupt itself is illegal */
	lapic_write(&l, 0x40, 0, 0);
	lapic_write(&l, ESR, 0, 0);
	assert_int_equal(lapic_read(&l, ESR, 0), 0xc0);
}

static void lint_pins(void **state)
{
	(void)state;
	lapic_write(&l, LVT_LINT0, 0x700, 0);
	assert_true(lapic_accepts_extint(&l));
	lapic_write(&l, LVT_LINT0, 0x10700, 0);
	assert_false(lapic_accepts_extint(&l));
	lapic_write(&l, LVT_LINT1, 0x400, 0);
	lapic_set_lint(&l, 1, true);
	assert_true(l.nmi);
	l.nmi = false;
	lapic_set_lint(&l, 1, true); /* no new edge */
	assert_false(l.nmi);
	lapic_write(&l, LVT_LINT0, 0x8055, 0);
	lapic_set_lint(&l, 0, true);
	assert_int_equal(lapic_read(&l, LVT_LINT0, 0), 0xc055);
	assert_int_equal(lapic_ack(&l), 0x55);
	lapic_write(&l, EOI, 0, 0);
	assert_int_equal(lapic_ack(&l), 0x55); /* still asserted */
	lapic_set_lint(&l, 0, false);
	lapic_write(&l, EOI, 0, 0);
	assert_int_equal(lapic_pending(&l), -1);
	assert_int_equal(lapic_read(&l, LVT_LINT0, 0), 0x8055);
	wrmsr(MSR_BASE, base_msr() & ~APIC_BASE_EN, 0);
	assert_true(lapic_accepts_extint(&l));
}

static void one_shot(void **state)
{
	(void)state;
	lapic_write(&l, LVT_TIMER, 0xee, 0);
	lapic_write(&l, DIVIDE, 0xb, 0);
	lapic_write(&l, INIT_COUNT, 1000, 100);
	assert_int_equal(lapic_next_deadline(&l), 100 + 1000 * TICK);
	assert_int_equal(lapic_read(&l, COUNT, 100), 1000);
	assert_int_equal(lapic_read(&l, COUNT, 100 + 400 * TICK - 1), 601);
	lapic_write(&l, DIVIDE, 0x0, 100 + 400 * TICK); /* by 2, from where it is */
	assert_int_equal(lapic_next_deadline(&l), 100 + (400 + 2 * 600) * TICK);
	lapic_advance(&l, 100 + 1600 * TICK - 1);
	assert_int_equal(lapic_pending(&l), -1);
	lapic_advance(&l, 100 + 1600 * TICK);
	assert_interrupt(0xee);
	assert_int_equal(lapic_read(&l, COUNT, 1000000), 0);
	assert_int_equal(lapic_read(&l, INIT_COUNT, 1000000), 1000);
	assert_true(lapic_next_deadline(&l) == UINT64_MAX);
	lapic_write(&l, INIT_COUNT, 10, 1000000);
	lapic_write(&l, INIT_COUNT, 0, 1000001); /* stops it */
	assert_true(lapic_next_deadline(&l) == UINT64_MAX);
}

static void dividers(void **state)
{
	static const struct { uint32_t code, by; } d[] = {
		{ 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 },
	};

	(void)state;
	lapic_write(&l, LVT_TIMER, 0xee, 0);
	for (unsigned i = 0; i < 8; i++) {
		lapic_write(&l, DIVIDE, d[i].code, 0);
		lapic_write(&l, INIT_COUNT, 10, 0);
		assert_int_equal(lapic_next_deadline(&l), 10 * TICK * d[i].by);
	}
}

static void periodic(void **state)
{
	(void)state;
	lapic_write(&l, LVT_TIMER, 0x200ee, 0);
	lapic_write(&l, DIVIDE, 0xb, 0);
	lapic_write(&l, INIT_COUNT, 1000, 0);
	for (uint64_t n = 1; n < 4; n++) {
		assert_int_equal(lapic_next_deadline(&l), n * 1000 * TICK);
		lapic_advance(&l, n * 1000 * TICK);
		assert_interrupt(0xee);
	}
	lapic_advance(&l, 10500 * TICK); /* several periods at once: one interrupt */
	assert_interrupt(0xee);
	assert_interrupt(-1);
	assert_int_equal(lapic_read(&l, COUNT, 10500 * TICK), 500);
	assert_int_equal(lapic_next_deadline(&l), 11000 * TICK);
	lapic_write(&l, LVT_TIMER, 0x300ee, 10500 * TICK); /* masked: goes on silently */
	assert_true(lapic_next_deadline(&l) == UINT64_MAX);
	assert_int_equal(lapic_read(&l, COUNT, 12250 * TICK), 750);
	assert_int_equal(lapic_pending(&l), -1);
	lapic_write(&l, LVT_TIMER, 0x000ee, 12500 * TICK); /* one-shot now: the count goes on */
	assert_int_equal(lapic_next_deadline(&l), 13000 * TICK);
	lapic_advance(&l, 13000 * TICK);
	assert_interrupt(0xee);
	lapic_write(&l, LVT_TIMER, 0x200ee, 13000 * TICK); /* stays at zero */
	assert_int_equal(lapic_read(&l, COUNT, 13500 * TICK), 0);
	lapic_write(&l, INIT_COUNT, 0xffffffff, 0);
	lapic_shift_tsc(&l, 1000000);
	assert_int_equal(lapic_read(&l, COUNT, 1000000), 0xffffffff);
}

static void tsc_deadline(void **state)
{
	(void)state;
	wrmsr(MSR_DEADLINE, 1000, 0); /* not in that mode: ignored */
	assert_int_equal(rdmsr(MSR_DEADLINE, 0), 0);
	lapic_write(&l, LVT_TIMER, 0x400ef, 0);
	wrmsr(MSR_DEADLINE, 1000, 0);
	assert_int_equal(rdmsr(MSR_DEADLINE, 0), 1000);
	assert_int_equal(lapic_next_deadline(&l), 1000);
	lapic_write(&l, INIT_COUNT, 5, 0); /* ignored */
	assert_int_equal(lapic_read(&l, COUNT, 0), 0);
	lapic_advance(&l, 999);
	assert_interrupt(-1);
	lapic_advance(&l, 1000);
	assert_interrupt(0xef);
	assert_int_equal(rdmsr(MSR_DEADLINE, 1000), 0);
	wrmsr(MSR_DEADLINE, 500, 2000); /* past: at once */
	assert_interrupt(0xef);
	wrmsr(MSR_DEADLINE, 5000, 2000);
	wrmsr(MSR_DEADLINE, 0, 2000); /* disarmed */
	assert_true(lapic_next_deadline(&l) == UINT64_MAX);
	wrmsr(MSR_DEADLINE, 5000, 2000);
	lapic_write(&l, LVT_TIMER, 0xef, 2000); /* leaving the mode disarms */
	lapic_write(&l, LVT_TIMER, 0x400ef, 2000);
	assert_int_equal(rdmsr(MSR_DEADLINE, 2000), 0);
	l.has_tsc_deadline = false;
	assert_gp_read(MSR_DEADLINE);
	assert_gp_write(MSR_DEADLINE, 0);
}

static void init_reset(void **state)
{
	(void)state;
	lapic_write(&l, TPR, 0x50, 0);
	lapic_write(&l, ID, 0x07000000, 0);
	lapic_init_reset(&l);
	assert_int_equal(lapic_read(&l, TPR, 0), 0);
	assert_int_equal(lapic_read(&l, ID, 0), 0x07000000);
	assert_int_equal(base_msr(), 0xfee00900);
}

/* Random register traffic: nothing breaks (the sanitizers watch), and no vector below 16 is ever pending. */
static void wild_guest(void **state)
{
	uint64_t s = 88172645463325252ull, now = 0, v;

	(void)state;
	for (unsigned i = 0; i < 1000000; i++) {
		s ^= s << 13, s ^= s >> 7, s ^= s << 17;
		now += s >> 50;
		v = s >> 8 & (s & 0x80 ? 0xfffff : 0x1ff);
		switch (s & 7) {
		case 0:
			lapic_write(&l, s >> 30 & 0xfff, (uint32_t)v, now);
			break;
		case 1:
			lapic_read(&l, s >> 30 & 0xfff, now);
			break;
		case 2:
			lapic_wrmsr(&l, 0x800 + (s >> 30 & 0xff), v, now);
			break;
		case 3:
			lapic_rdmsr(&l, 0x800 + (s >> 30 & 0x3f), now, &v);
			break;
		case 4:
			lapic_msi(&l, 0xfee00000 | (s >> 40 & 0xff00c), (uint32_t)v);
			break;
		case 5:
			if (s >> 30 & 15)
				lapic_wrmsr(&l, MSR_DEADLINE, now + (s >> 40), now);
			else
				lapic_wrmsr(&l, MSR_BASE, LAPIC_DEFAULT_BASE | (s >> 40 & 0xd00), now);
			break;
		case 6:
			lapic_set_lint(&l, s >> 30 & 1, s >> 31 & 1);
			lapic_take_eoi(&l);
			break;
		default:
			lapic_write(&l, (unsigned)(s >> 20 & 0x3f) << 4, (uint32_t)v | 0x100, now);
			if (lapic_pending(&l) >= 0)
				assert_true(lapic_ack(&l) >= 16);
			break;
		}
		lapic_advance(&l, now);
		assert_true(lapic_next_deadline(&l) > now);
		assert_int_equal(l.irr[0] & 0xffff, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(reset_state, setup),
		cmocka_unit_test_setup(base_transitions, setup),
		cmocka_unit_test_setup(x2apic_access_rules, setup_x2apic),
		cmocka_unit_test_setup(not_x2apic, setup),
		cmocka_unit_test_setup(page_access, setup),
		cmocka_unit_test_setup(priorities, setup),
		cmocka_unit_test_setup(level_and_eoi, setup),
		cmocka_unit_test_setup(destinations, setup),
		cmocka_unit_test_setup(ipi, setup),
		cmocka_unit_test_setup(x2apic_ipi, setup),
		cmocka_unit_test_setup(error_interrupt, setup),
		cmocka_unit_test_setup(lint_pins, setup),
		cmocka_unit_test_setup(one_shot, setup),
		cmocka_unit_test_setup(dividers, setup),
		cmocka_unit_test_setup(periodic, setup),
		cmocka_unit_test_setup(tsc_deadline, setup),
		cmocka_unit_test_setup(init_reset, setup),
		cmocka_unit_test_setup(wild_guest, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
