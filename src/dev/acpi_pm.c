/*
 * ACPI fixed hardware: PM1a event block with timer, global-lock, power-button and RTC
 * bits, PM1a control block, a 32-bit PM timer. The machine is always in ACPI mode:
 * SCI_EN reads 1 and there is no SMI command port.
 *
 * Soft-off (S5) is the only sleep state; SLP_EN with another type does nothing.
 * Source: the ACPI specification, "ACPI Register Model".
 */
#include "dev/acpi_pm.h"

#define TMR_STS     0x0001
#define PWRBTN_STS  0x0100
#define STATUS_BITS 0x8731 /* WAK, RTC, SLPBTN, PWRBTN, GBL, BM, TMR */
#define ENABLE_BITS 0x0721
#define SCI_EN      0x0001
#define SLP_TYP     0x1c00
#define SLP_EN      0x2000
#define CONTROL_BITS (0x0006 | SLP_TYP)

void acpi_pm_init(struct acpi_pm *pm)
{
	*pm = (struct acpi_pm){ .control = SCI_EN };
}

static uint64_t timer_ticks(uint64_t now_ns)
{
	return (uint64_t)((unsigned __int128)now_ns * ACPI_PM_TIMER_HZ / 1000000000u);
}

/* The first nanosecond at which the timer shows @tick. */
static uint64_t tick_time(uint64_t tick)
{
	unsigned __int128 ns = (unsigned __int128)tick * 1000000000u;

	ns = (ns + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ;
	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* TMR_STS: the timer's highest bit has changed. */
static uint64_t acpi_pm_advance(void *state, uint64_t now)
{
	struct acpi_pm *pm = state;
	uint64_t tick = timer_ticks(now);

	if (tick >> 31 != pm->last_tick >> 31)
		pm->status |= TMR_STS;
	pm->last_tick = tick;
	return pm->enable & TMR_STS ? tick_time(((tick >> 31) + 1) << 31) : UINT64_MAX;
}

static uint32_t acpi_pm_irq(void *state, uint32_t *pulses)
{
	const struct acpi_pm *pm = state;

	*pulses = 0;
	return pm->status & pm->enable ? 1u << ACPI_PM_SCI : 0;
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	pm->status |= PWRBTN_STS;
}

static uint64_t acpi_pm_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct acpi_pm *pm = state;
	unsigned offset = (unsigned)(addr - ACPI_PM_EVT_PORT), shift = 8 * (offset & 1);

	(void)bytes;
	acpi_pm_advance(pm, now);
	switch (offset & ~1u) {
	case 0:
		return pm->status >> shift & 0xff;
	case 2:
		return pm->enable >> shift & 0xff;
	case 4:
		return pm->control >> shift & 0xff;
	case 8:
	case 10:
		return timer_ticks(now) >> 8 * (offset & 3) & 0xff;
	default:
		return 0;
	}
}

/* The high byte holds SLP_TYP and SLP_EN; SLP_EN always reads 0. */
static void write_control(struct acpi_pm *pm, uint16_t v, uint16_t written)
{
	pm->control = (pm->control & ~(written & CONTROL_BITS)) | (v & written & CONTROL_BITS);
	if ((v & written & SLP_EN) && (pm->control & SLP_TYP) == ACPI_PM_S5_TYPE << 10)
		pm->request = PLATFORM_POWER_OFF;
}

static void acpi_pm_write(void *state, uint64_t addr, unsigned bytes, uint64_t value, uint64_t now)
{
	struct acpi_pm *pm = state;
	unsigned offset = (unsigned)(addr - ACPI_PM_EVT_PORT), shift = 8 * (offset & 1);
	uint16_t v = (uint16_t)((value & 0xff) << shift), written = (uint16_t)(0xff << shift);

	(void)bytes;
	acpi_pm_advance(pm, now);
	switch (offset & ~1u) {
	case 0: /* write 1 to clear */
		pm->status &= ~(v & STATUS_BITS);
		break;
	case 2:
		pm->enable = (pm->enable & ~written) | (v & ENABLE_BITS);
		break;
	case 4:
		write_control(pm, v, written);
		break;
	default:
		break;
	}
}

struct device acpi_pm_device(struct acpi_pm *pm)
{
	static const struct device_range ranges[] = { { true, ACPI_PM_EVT_PORT, 12 }, { false, 0, 0 } };

	return (struct device){ .name = "acpi-pm", .state = pm, .ranges = ranges, .byte_wide = true,
				.read = acpi_pm_read, .write = acpi_pm_write, .advance = acpi_pm_advance,
				.irq = acpi_pm_irq };
}

/* State; a request ends the run at once and is none. */
static const struct state_field acpi_pm_fields[] = {
	STATE_U_MAX(struct acpi_pm, status, STATUS_BITS), STATE_U_MAX(struct acpi_pm, enable, ENABLE_BITS),
	STATE_U_MAX(struct acpi_pm, control, CONTROL_BITS | SCI_EN), STATE_U_MAX(struct acpi_pm, last_tick, DEVICE_TIME_MAX),
};
const struct state_desc acpi_pm_desc = STATE_DESC("acpi-pm", 1, acpi_pm_fields);
