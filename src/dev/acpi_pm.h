/* ACPI fixed hardware: PM1a event and control blocks, PM timer, power button. */
#ifndef GNOMON_DEV_ACPI_PM_H
#define GNOMON_DEV_ACPI_PM_H

#include "dev/device.h"

#define ACPI_PM_EVT_PORT  0x600 /* status, enable: 2 bytes each */
#define ACPI_PM_CNT_PORT  0x604 /* 2 bytes */
#define ACPI_PM_TMR_PORT  0x608 /* 4 bytes */
#define ACPI_PM_SCI       9
#define ACPI_PM_S5_TYPE   5     /* SLP_TYPa of soft-off, as in \_S5 */
#define ACPI_PM_TIMER_HZ  3579545u

struct acpi_pm {
	uint16_t status, enable, control;
	uint64_t last_tick;  /* PM timer at the last look */
	enum platform_request request;
};

extern const struct state_desc acpi_pm_desc;

void acpi_pm_init(struct acpi_pm *pm);
struct device acpi_pm_device(struct acpi_pm *pm);
/* The power button is pressed: raises the SCI if the guest has enabled it. */
void acpi_pm_power_button(struct acpi_pm *pm);

#endif
