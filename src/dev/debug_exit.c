/*
 * The debug exit port: a write of 1 to 4 bytes ends the run. The first write
 * counts. Reads give 0.
 */
#include "dev/debug_exit.h"

void debug_exit_init(struct debug_exit *d)
{
	*d = (struct debug_exit){ .request = PLATFORM_RUN };
}

static uint64_t debug_exit_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	(void)state;
	(void)addr;
	(void)bytes;
	(void)now;
	return 0;
}

static void debug_exit_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct debug_exit *d = state;

	(void)addr;
	(void)bytes;
	(void)now;
	if (d->request != PLATFORM_RUN)
		return;
	d->request = PLATFORM_DEBUG_EXIT;
	d->code = (uint32_t)v << 1 | 1;
}

struct device debug_exit_device(struct debug_exit *d)
{
	static const struct device_range ranges[] = { { true, DEBUG_EXIT_PORT, 4 }, { false, 0, 0 } };

	return (struct device){ .name = "debug-exit", .state = d, .ranges = ranges,
				.read = debug_exit_read, .write = debug_exit_write };
}
