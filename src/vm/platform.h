/*
 * The machine around the processor: every device, the buses that lead to them,
 * and the wiring of interrupts. A value: the owner brings accesses and time to it
 * and takes interrupt messages, requests and serial output from it. After any call
 * below, look at what changed:
 *
 *	platform_take_msi()  until false, each to engine_signal_msi()
 *	platform_pic_intr()  to engine_run.request_irq_window
 *	platform_next_event() for engine_run.deadline_ns
 *	platform_request()   whether the run is to end
 *	platform_take_output()
 *
 * All of them cost next to nothing when nothing changed. Times are virtual
 * nanoseconds since the machine started and never run backwards.
 */
#ifndef GNOMON_VM_PLATFORM_H
#define GNOMON_VM_PLATFORM_H

#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/device.h"
#include "dev/fw_cfg.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/reset.h"
#include "dev/rtc.h"
#include "dev/serial.h"
#include "dev/testdev.h"

#define PLATFORM_DEVICES 12 /* at most: the PCI bus is there only if something is on it */

/* What the ACPI tables (acpi.c) say about the wiring. The timer's input is that of every PC. */
#define PLATFORM_PIT_PIN   2
#define PLATFORM_IOAPIC_ID 1

struct platform {
	struct serial serial;
	struct pic pic;
	struct pit pit;
	struct ioapic ioapic;
	struct rtc rtc;
	struct acpi_pm acpi_pm;
	struct i8042 i8042;
	struct reset_port reset;
	struct debug_exit debug_exit;
	struct fw_cfg fw_cfg;
	bool runs_firmware;
	struct ps2_keyboard keyboard;      /* with firmware */
	struct testdev testdev;
	struct pci_bus pci;

	unsigned devices;
	struct device device[PLATFORM_DEVICES];
	uint64_t next[PLATFORM_DEVICES];   /* next event of each device, ns */
	uint32_t levels[PLATFORM_DEVICES]; /* interrupt outputs of each device, by IRQ */
	uint64_t next_event;               /* earliest of next[] */
	uint32_t lines;                    /* all levels together, as the controllers have been told */
	uint64_t now;
};

/*
 * The machine after RESET. @p must not be moved afterwards: its devices refer to it.
 * @memory: RAM in bytes (CMOS and fw_cfg report it)
 * @epoch: seconds since 1970 (UTC) that the clock shows at time 0; RTC_DEFAULT_EPOCH for a deterministic run
 * @firmware: firmware is going to run. For it there are a keyboard, a PCI bus with a 440FX, whatever is on it, files that
 * have it use the serial port as its screen and keyboard, and a port for its log.
 */
void platform_init(struct platform *p, uint64_t memory, int64_t epoch, bool firmware);
/*
 * Puts a function on the PCI bus, before the machine runs; the first one brings the bus with it. -ENOSPC if the bus
 * is full.
 */
int platform_add_pci(struct platform *p, struct pci_function *fn);
/* Something on the bus has an event it had not before, by no access of the guest's. */
void platform_pci_changed(struct platform *p);
/* Is there a PCI bus? */
bool platform_has_pci(const struct platform *p);

/*
 * An access to a port or to device memory.
 * @bytes: width, 1 to 8
 * @data: value written, or where the value read goes (zero-extended; all ones where nothing answers)
 */
void platform_io(struct platform *p, bool pio, bool write, uint64_t addr, unsigned bytes, uint64_t *data,
		 uint64_t now);
/* Brings all devices to @now. Returns the time of the next event, UINT64_MAX if none. */
uint64_t platform_advance(struct platform *p, uint64_t now);
/* The time at which platform_advance() is to be called next. */
static inline uint64_t platform_next_event(const struct platform *p) { return p->next_event; }

/* Takes an interrupt message. False if there is none. */
bool platform_take_msi(struct platform *p, uint64_t *addr, uint32_t *data);
/* The PIC's INTR output, and the acknowledge cycle that gives the vector. */
bool platform_pic_intr(const struct platform *p);
uint8_t platform_pic_ack(struct platform *p);
/* The local APIC broadcasts an EOI. */
void platform_eoi(struct platform *p, uint8_t vector);

/* What a device wants of the run; the first request stays. */
enum platform_request platform_request(const struct platform *p);
/* PLATFORM_DEBUG_EXIT: (value << 1) | 1. */
uint32_t platform_debug_code(const struct platform *p);

/* Serial console: as serial_take_output() and serial_put_input(). */
size_t platform_take_output(struct platform *p, uint8_t *buf, size_t bytes);
/* What firmware has to say of its work, taken after each access; nothing without firmware. */
size_t platform_take_log(struct platform *p, uint8_t *buf, size_t bytes);
size_t platform_put_input(struct platform *p, const uint8_t *buf, size_t bytes);
/*
 * State: the sections that the platform is saved as, itself and its devices; what is on the PCI bus has its own. Loading
 * them into a platform that was made in the same way makes it the other one.
 */
#define PLATFORM_SECTIONS_MAX 15
unsigned platform_sections(struct platform *p, struct state_object section[PLATFORM_SECTIONS_MAX]);
/* The user presses the power button. */
void platform_power_button(struct platform *p);

#endif
