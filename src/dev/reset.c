/*
 * Port 0x92 (fast reset; the A20 bit is remembered and has no effect) and the reset
 * control register 0xcf9. The latter shares its address with PCI configuration
 * access: only a byte access reaches it, everything else at 0xcf8 finds no host
 * bridge, ignores writes and reads all ones.
 */
#include "dev/reset.h"

#define P92_RESET 0x01
#define P92_A20   0x02
#define CONTROL_RESET 0x04 /* the change from 0 to 1 resets */
#define CONTROL_BITS  0x0e

void reset_init(struct reset_port *r)
{
	*r = (struct reset_port){ .port92 = P92_A20 };
}

static uint64_t reset_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	const struct reset_port *r = state;

	(void)now;
	if (addr == 0x92)
		return r->port92;
	if (addr == RESET_PORT && bytes == 1)
		return r->control;
	return ~0ull;
}

static void reset_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct reset_port *r = state;

	(void)now;
	if (addr == 0x92) {
		if (v & ~(uint64_t)r->port92 & P92_RESET)
			r->request = PLATFORM_RESET;
		r->port92 = v & (P92_RESET | P92_A20);
	} else if (addr == RESET_PORT && bytes == 1) {
		if (v & ~(uint64_t)r->control & CONTROL_RESET)
			r->request = PLATFORM_RESET;
		r->control = v & CONTROL_BITS;
	}
}

struct device reset_device(struct reset_port *r)
{
	static const struct device_range ranges[] = {
		{ true, 0x92, 1 }, { true, 0xcf8, 4 }, { false, 0, 0 },
	};

	return (struct device){ .name = "reset", .state = r, .ranges = ranges,
				.read = reset_read, .write = reset_write };
}

/* State; a request ends the run at once and is none. */
static const struct state_field reset_fields[] = {
	STATE_U_MAX(struct reset_port, port92, P92_RESET | P92_A20), STATE_U_MAX(struct reset_port, control, CONTROL_BITS),
};
const struct state_desc reset_desc = STATE_DESC("reset", 1, reset_fields);
