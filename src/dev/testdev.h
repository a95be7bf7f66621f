/* A device for tests of the processor and the interrupt controllers. */
#ifndef GNOMON_DEV_TESTDEV_H
#define GNOMON_DEV_TESTDEV_H

#include "dev/device.h"

#define TESTDEV_LATCH_PORT  0xe0   /* 4 bytes that hold what is written */
#define TESTDEV_PAGE_PORT   0xe4   /* 4 bytes: accepted, without effect */
#define TESTDEV_IRQ_PORT    0x2000 /* a port a line: the level to drive it to */
#define TESTDEV_IRQS        24
#define TESTDEV_MEMORY      0xff000000ull
#define TESTDEV_MEMORY_SIZE 0x10000u

struct testdev {
	uint8_t latch[4];
	uint32_t lines;
	uint8_t memory[TESTDEV_MEMORY_SIZE]; /* device memory: every access is an exit */
	uint32_t memory_saved; /* state: bytes up to the last one that is not zero */
};

extern const struct state_desc testdev_desc;

void testdev_init(struct testdev *t);
struct device testdev_device(struct testdev *t);

#endif
