/* A keyboard controller: what resets a PC through port 0x64. A keyboard may hang on it. */
#ifndef GNOMON_DEV_I8042_H
#define GNOMON_DEV_I8042_H

#include "dev/device.h"
#include "dev/ps2_keyboard.h"

#define I8042_IRQ 1

struct i8042 {
	uint8_t command;      /* command whose parameter is awaited, 0 if none */
	uint8_t config;       /* command byte */
	uint8_t output;       /* answer waiting at port 0x60 */
	bool output_full;
	struct ps2_keyboard *keyboard; /* NULL: none is attached */
	enum platform_request request;
};

extern const struct state_desc i8042_desc;

/* @keyboard: stays the caller's, and for as long as the controller; NULL: none */
void i8042_init(struct i8042 *k, struct ps2_keyboard *keyboard);
struct device i8042_device(struct i8042 *k);

#endif
