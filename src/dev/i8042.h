/* A keyboard controller without keyboard: what resets a PC through port 0x64. */
#ifndef GNOMON_DEV_I8042_H
#define GNOMON_DEV_I8042_H

#include "dev/device.h"

struct i8042 {
	uint8_t command;      /* command whose parameter is awaited, 0 if none */
	uint8_t config;       /* command byte */
	uint8_t output;       /* answer waiting at port 0x60 */
	bool output_full;
	enum platform_request request;
};

extern const struct state_desc i8042_desc;

void i8042_init(struct i8042 *k);
struct device i8042_device(struct i8042 *k);

#endif
