/*
 * The 8042 keyboard controller, with nothing attached: self tests pass, the command
 * byte can be read and written, and pulsing output line 0 resets the machine.
 * The ACPI tables say it is not there; this serves software that does not ask.
 *
 * Left out: keyboard and mouse (bytes sent to them vanish), IRQ 1 and 12, the A20 gate
 * (the line is always open).
 */
#include "dev/i8042.h"

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM      0x04 /* self test passed */
#define STATUS_COMMAND     0x08
#define OUTPUT_NOT_RESET   0x01 /* output port: line 0 is the reset line, active low */
#define OUTPUT_A20         0x02

enum {
	READ_CONFIG = 0x20, WRITE_CONFIG = 0x60, DISABLE_AUX = 0xa7, TEST_AUX = 0xa9, SELF_TEST = 0xaa,
	TEST_KEYBOARD = 0xab, READ_INPUT_PORT = 0xc0, READ_OUTPUT_PORT = 0xd0, WRITE_OUTPUT_PORT = 0xd1,
	ECHO_KEYBOARD = 0xd2, ECHO_AUX = 0xd3, SEND_AUX = 0xd4, PULSE = 0xf0,
};

void i8042_init(struct i8042 *k)
{
	*k = (struct i8042){ .config = STATUS_SYSTEM };
}

static void answer(struct i8042 *k, uint8_t v)
{
	k->output = v;
	k->output_full = true;
}

static void command(struct i8042 *k, uint8_t v)
{
	k->command = 0;
	switch (v) {
	case READ_CONFIG:
		answer(k, k->config);
		break;
	case SELF_TEST:
		answer(k, 0x55);
		break;
	case TEST_KEYBOARD:
	case TEST_AUX:
	case READ_INPUT_PORT:
		answer(k, 0);
		break;
	case READ_OUTPUT_PORT:
		answer(k, OUTPUT_NOT_RESET | OUTPUT_A20);
		break;
	case WRITE_CONFIG:
	case WRITE_OUTPUT_PORT:
	case ECHO_KEYBOARD:
	case ECHO_AUX:
	case SEND_AUX:
		k->command = v;
		break;
	default:
		if (v >= PULSE && !(v & OUTPUT_NOT_RESET))
			k->request = PLATFORM_RESET;
		break;
	}
}

static void parameter(struct i8042 *k, uint8_t v)
{
	switch (k->command) {
	case WRITE_CONFIG:
		k->config = v;
		break;
	case WRITE_OUTPUT_PORT:
		if (!(v & OUTPUT_NOT_RESET))
			k->request = PLATFORM_RESET;
		break;
	case ECHO_KEYBOARD:
	case ECHO_AUX:
		answer(k, v);
		break;
	default: /* for a device that is not there */
		break;
	}
	k->command = 0;
}

static uint64_t i8042_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct i8042 *k = state;

	(void)bytes;
	(void)now;
	if (addr == 0x64)
		return (k->output_full ? STATUS_OUTPUT_FULL : 0) | (k->config & STATUS_SYSTEM) |
		       (k->command ? STATUS_COMMAND : 0);
	k->output_full = false;
	return k->output;
}

static void i8042_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	(void)bytes;
	(void)now;
	if (addr == 0x64)
		command(state, (uint8_t)v);
	else
		parameter(state, (uint8_t)v);
}

struct device i8042_device(struct i8042 *k)
{
	static const struct device_range ranges[] = { { true, 0x60, 1 }, { true, 0x64, 1 }, { false, 0, 0 } };

	return (struct device){ .name = "i8042", .state = k, .ranges = ranges, .byte_wide = true,
				.read = i8042_read, .write = i8042_write };
}

/* State; a request ends the run at once and is none. */
static const struct state_field i8042_fields[] = {
	STATE_U(struct i8042, command), STATE_U(struct i8042, config), STATE_U(struct i8042, output),
	STATE_B(struct i8042, output_full),
};
const struct state_desc i8042_desc = STATE_DESC("i8042", 1, i8042_fields);
