/* The chipset's own ways to reset a PC: ports 0x92 and 0xcf9. */
#ifndef GNOMON_DEV_RESET_H
#define GNOMON_DEV_RESET_H

#include "dev/device.h"

#define RESET_PORT  0xcf9
#define RESET_VALUE 0x06 /* full reset, as the FADT says */

struct reset_port {
	uint8_t port92, control;
	enum platform_request request;
};

extern const struct state_desc reset_desc;

void reset_init(struct reset_port *r);
struct device reset_device(struct reset_port *r);

#endif
