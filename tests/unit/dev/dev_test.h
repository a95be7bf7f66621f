/* What the device tests share: cmocka, and accesses to a device as the platform makes them. */
#ifndef TESTS_UNIT_DEV_TEST_H
#define TESTS_UNIT_DEV_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/device.h"

#define MS 1000000ull
#define SECOND 1000000000ull

static inline uint8_t in8(const struct device *d, uint64_t addr, uint64_t now)
{
	return (uint8_t)d->read(d->state, addr, 1, now);
}

static inline void out8(const struct device *d, uint64_t addr, uint8_t v, uint64_t now)
{
	d->write(d->state, addr, 1, v, now);
}

/* Level of interrupt output @line; forgets pulses. */
static inline bool irq_level(const struct device *d, unsigned line)
{
	uint32_t pulses;

	return d->irq(d->state, &pulses) >> line & 1;
}

#endif
