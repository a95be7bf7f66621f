/*
 * Device models and what they see of the machine. A device is a struct with
 * functions of the shapes below; the platform (vm/) routes accesses to them.
 * Devices speak upward through values: interrupt lines are levels they hold,
 * time is passed in, requests (power off, reset, exit) are fields they set.
 */
#ifndef GNOMON_DEV_DEVICE_H
#define GNOMON_DEV_DEVICE_H

#include "base/util.h"

/* What a device wants of the run as a whole. */
enum platform_request { PLATFORM_RUN, PLATFORM_POWER_OFF, PLATFORM_RESET, PLATFORM_DEBUG_EXIT };

/* A device on the bus: ranges of ports or device memory and how to reach it. */
struct device_range { bool pio; uint64_t base, bytes; };

struct device {
	const char *name;
	void *state;
	const struct device_range *ranges; /* ends with bytes == 0 */
	uint64_t (*read)(void *state, const struct device_range *r, uint64_t offset, unsigned bytes, uint64_t now_ns);
	void (*write)(void *state, const struct device_range *r, uint64_t offset, unsigned bytes, uint64_t v,
		      uint64_t now_ns);
	/* Brings the device to @now_ns; returns the time of its next event, UINT64_MAX if none. May be NULL. */
	uint64_t (*advance)(void *state, uint64_t now_ns);
	/* Level of interrupt output @n (ISA IRQ number or -1 past the last). May be NULL. */
	int (*irq)(void *state, unsigned n, bool *level);
};

#endif
