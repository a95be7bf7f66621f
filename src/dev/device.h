/*
 * Device models and what they see of the machine. A device is a struct with
 * functions of the shapes below; the platform (vm/platform.h) routes accesses to
 * them. Devices speak upward through values: interrupt lines are levels they hold,
 * time is passed in, requests (power off, reset, exit) are fields they set.
 *
 * Whatever a device is given comes from a guest that may be hostile: any register,
 * any value, any access width. Times never run backwards.
 *
 * Each device has a table of its fields (base/state.h), <device>_desc, by which it is saved and loaded into one that was
 * made in the same way. What its making decides is not in the table.
 */
#ifndef GNOMON_DEV_DEVICE_H
#define GNOMON_DEV_DEVICE_H

#include "base/state.h"
#include "base/util.h"

/* Times and counts in ticks that are loaded are at most this: 146 years in ns. */
#define DEVICE_TIME_MAX (1ull << 62)

/* What a device wants of the run as a whole. */
enum platform_request { PLATFORM_RUN, PLATFORM_POWER_OFF, PLATFORM_RESET, PLATFORM_DEBUG_EXIT };

/* Ports, or device memory, that a device answers to. */
struct device_range {
	bool pio;
	uint64_t base, bytes;
};

/*
 * A device on the bus. Its functions get absolute addresses: ports are below
 * 64 KiB, device memory is above, so the address alone says which it is.
 */
struct device {
	const char *name;
	void *state;
	const struct device_range *ranges; /* ends with bytes == 0 */
	/*
	 * An 8-bit device: wider accesses reach it as bytes at ascending addresses, as
	 * an ISA bus does it. Others get every access that lies within one of their
	 * ranges whole, 1 to 8 bytes wide, aligned or not.
	 */
	bool byte_wide;
	uint64_t (*read)(void *state, uint64_t addr, unsigned bytes, uint64_t now_ns);
	void (*write)(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now_ns);
	/*
	 * Brings the device to @now_ns. Returns the time of its next event, later than @now_ns;
	 * UINT64_MAX if none. May be NULL.
	 */
	uint64_t (*advance)(void *state, uint64_t now_ns);
	/*
	 * Interrupt outputs, a bit a line: the levels as of the last access or advance. A
	 * line that went low and high again since the last call is also set in @pulses.
	 * May be NULL.
	 */
	uint32_t (*irq)(void *state, uint32_t *pulses);
};

#endif
