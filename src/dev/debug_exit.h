/* A port through which a test kernel ends the run with a code (QEMU's isa-debug-exit). */
#ifndef GNOMON_DEV_DEBUG_EXIT_H
#define GNOMON_DEV_DEBUG_EXIT_H

#include "dev/device.h"

#define DEBUG_EXIT_PORT 0xf4

struct debug_exit {
	enum platform_request request;
	uint32_t code; /* (value written << 1) | 1: never 0 */
};

void debug_exit_init(struct debug_exit *d);
struct device debug_exit_device(struct debug_exit *d);

#endif
