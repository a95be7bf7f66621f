/* A local APIC's state: its table of fields. What the processor's configuration says of it is not state. */
#include "cpu/lapic.h"

#include "base/util.h"

#include <errno.h>

#define SVR_WRITABLE 0x13ffu
#define LVT_BITS     0x7f7ffu /* of any entry */
#define DIVIDER_BITS 0xbu

static const struct state_field lapic_fields[] = {
	STATE_U(struct lapic, base), STATE_U(struct lapic, id), STATE_U(struct lapic, reg_id),
	STATE_UV(struct lapic, irr), STATE_UV(struct lapic, isr), STATE_UV(struct lapic, tmr),
	STATE_U_MAX(struct lapic, tpr, 0xff), STATE_U(struct lapic, ldr), STATE_U(struct lapic, dfr),
	STATE_U_MAX(struct lapic, svr, SVR_WRITABLE), STATE_U_MAX(struct lapic, esr, 0xff),
	STATE_U_MAX(struct lapic, esr_pending, 0xff), STATE_U(struct lapic, icr_lo), STATE_U(struct lapic, icr_hi),
	STATE_UV_MAX(struct lapic, lvt, LVT_BITS), STATE_U(struct lapic, timer_init),
	STATE_U_MAX(struct lapic, timer_div, DIVIDER_BITS), STATE_B(struct lapic, timer_running),
	STATE_U(struct lapic, timer_count), STATE_U(struct lapic, timer_start), STATE_U(struct lapic, tsc_deadline),
	STATE_B(struct lapic, nmi), STATE_B(struct lapic, init), STATE_B(struct lapic, sipi),
	STATE_U(struct lapic, sipi_vector), STATE_U_MAX(struct lapic, lint_level, 3),
	STATE_UV(struct lapic, eoi_pending),
};

static int lapic_check(void *object, struct error *err)
{
	const struct lapic *l = object;
	uint64_t mode = l->base & (APIC_BASE_EN | APIC_BASE_EXTD);
	uint64_t valid = (~0ull >> (64 - l->maxphyaddr) & ~0xfffull) | APIC_BASE_BSP | APIC_BASE_EN |
			 (l->has_x2apic ? APIC_BASE_EXTD : 0);

	if (l->base & ~valid || mode == APIC_BASE_EXTD)
		return error_set(err, -EINVAL, "state of lapic: IA32_APIC_BASE %#llx is not possible",
				 (unsigned long long)l->base);
	if (l->tsc_deadline && !l->has_tsc_deadline)
		return error_set(err, -EINVAL, "state of lapic: a TSC deadline without that feature");
	return 0;
}

const struct state_desc lapic_desc = STATE_DESC("lapic", 1, lapic_fields, .check = lapic_check);
