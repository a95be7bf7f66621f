/* A PS/2 keyboard on which nobody types: firmware resets one and asks it things. It hangs on an 8042 (i8042.h). */
#ifndef GNOMON_DEV_PS2_KEYBOARD_H
#define GNOMON_DEV_PS2_KEYBOARD_H

#include "dev/device.h"

#define PS2_QUEUE 4 /* answers to one command at most */

struct ps2_keyboard {
	uint8_t command;          /* whose parameter is awaited, 0 if none */
	uint8_t queue[PS2_QUEUE]; /* bytes that wait for the controller, the next one first */
	uint8_t queued;
};

extern const struct state_desc ps2_keyboard_desc;

void ps2_keyboard_init(struct ps2_keyboard *k);
/* A byte from the controller. What was still to be sent is dropped. */
void ps2_keyboard_put(struct ps2_keyboard *k, uint8_t v);
/* The next byte for the controller. False if there is none. */
bool ps2_keyboard_take(struct ps2_keyboard *k, uint8_t *v);

#endif
