/*
 * A PS/2 keyboard as firmware and drivers find it: it acknowledges commands, passes its self test and tells its kind.
 *
 * Left out: keys; what can be set (lights, rate, scan codes) is acknowledged and has no effect.
 * Source: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-key)".
 */
#include "dev/ps2_keyboard.h"

enum {
	SET_LIGHTS = 0xed, ECHO = 0xee, SCAN_CODES = 0xf0, READ_ID = 0xf2, SET_RATE = 0xf3, ENABLE = 0xf4,
	DISABLE = 0xf5, DEFAULTS = 0xf6, RESET = 0xff,
};
enum { TEST_PASSED = 0xaa, ACKNOWLEDGE = 0xfa, RESEND = 0xfe };

void ps2_keyboard_init(struct ps2_keyboard *k) { *k = (struct ps2_keyboard){0}; }

static void answer(struct ps2_keyboard *k, uint8_t v) { k->queue[k->queued++] = v; }

static void command(struct ps2_keyboard *k, uint8_t v)
{
	switch (v) {
	case ECHO:
		answer(k, ECHO);
		break;
	case SET_LIGHTS:
	case SCAN_CODES:
	case SET_RATE:
		k->command = v;
		answer(k, ACKNOWLEDGE);
		break;
	case READ_ID:
		answer(k, ACKNOWLEDGE);
		answer(k, 0xab);
		answer(k, 0x83);
		break;
	case RESET:
		answer(k, ACKNOWLEDGE);
		answer(k, TEST_PASSED);
		break;
	case ENABLE:
	case DISABLE:
	case DEFAULTS:
		answer(k, ACKNOWLEDGE);
		break;
	default:
		answer(k, RESEND);
		break;
	}
}

void ps2_keyboard_put(struct ps2_keyboard *k, uint8_t v)
{
	bool parameter = k->command && v < SET_LIGHTS;

	k->queued = 0;
	k->command = 0;
	if (parameter)
		answer(k, ACKNOWLEDGE);
	else
		command(k, v);
}

bool ps2_keyboard_take(struct ps2_keyboard *k, uint8_t *v)
{
	if (!k->queued)
		return false;
	*v = k->queue[0];
	memmove(k->queue, k->queue + 1, --k->queued);
	return true;
}

static const struct state_field fields[] = {
	STATE_U(struct ps2_keyboard, command), STATE_DATA(struct ps2_keyboard, queue),
	STATE_U_MAX(struct ps2_keyboard, queued, PS2_QUEUE),
};
const struct state_desc ps2_keyboard_desc = STATE_DESC("ps2-keyboard", 1, fields);
