/*
 * The 8042 keyboard controller: self tests pass, the command byte can be read and written, and pulsing output line 0
 * resets the machine. The ACPI tables say it is not there; this serves firmware, for which a keyboard is attached, and
 * software that does not ask.
 *
 * Left out: a mouse (bytes sent to it vanish), IRQ 12, translation of scan codes, the A20 gate (the line is always open).
 */
#include "dev/i8042.h"

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM      0x04 /* self test passed */
#define STATUS_COMMAND     0x08
#define OUTPUT_NOT_RESET   0x01 /* output port: line 0 is the reset line, active low */
#define OUTPUT_A20         0x02
#define CONFIG_INTERRUPT   0x01
#define CONFIG_KBD_OFF     0x10 /* the keyboard's clock is held: it sends nothing */

enum {
	READ_CONFIG = 0x20, WRITE_CONFIG = 0x60, DISABLE_AUX = 0xa7, TEST_AUX = 0xa9, SELF_TEST = 0xaa,
	TEST_KEYBOARD = 0xab, DISABLE_KEYBOARD = 0xad, ENABLE_KEYBOARD = 0xae, READ_INPUT_PORT = 0xc0, READ_OUTPUT_PORT = 0xd0, WRITE_OUTPUT_PORT = 0xd1,
	ECHO_KEYBOARD = 0xd2, ECHO_AUX = 0xd3, SEND_AUX = 0xd4, PULSE = 0xf0,
};

void i8042_init(struct i8042 *k, struct ps2_keyboard *keyboard)
{
	*k = (struct i8042){ .config = STATUS_SYSTEM, .keyboard = keyboard };
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
	case DISABLE_KEYBOARD:
		k->config |= CONFIG_KBD_OFF;
		break;
	case ENABLE_KEYBOARD:
		k->config &= (uint8_t)~CONFIG_KBD_OFF;
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
	case 0:
		if (k->keyboard) {
			k->config &= (uint8_t)~CONFIG_KBD_OFF; /* sending takes the clock */
			ps2_keyboard_put(k->keyboard, v);
		}
		break;
	default: /* for a device that is not there */
		break;
	}
	k->command = 0;
}

/* What the keyboard has to say comes as soon as there is room for it. */
static void listen(struct i8042 *k)
{
	if (k->keyboard && !k->output_full && !(k->config & CONFIG_KBD_OFF))
		k->output_full = ps2_keyboard_take(k->keyboard, &k->output);
}

static uint32_t i8042_irq(void *state, uint32_t *pulses)
{
	const struct i8042 *k = state;

	*pulses = 0;
	return k->keyboard && k->output_full && k->config & CONFIG_INTERRUPT ? 1u << I8042_IRQ : 0;
}

static uint64_t i8042_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct i8042 *k = state;
	uint8_t value;

	(void)bytes;
	(void)now;
	if (addr == 0x64)
		return (k->output_full ? STATUS_OUTPUT_FULL : 0) | (k->config & STATUS_SYSTEM) |
		       (k->command ? STATUS_COMMAND : 0);
	k->output_full = false;
	value = k->output;
	listen(k);
	return value;
}

static void i8042_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	(void)bytes;
	(void)now;
	if (addr == 0x64)
		command(state, (uint8_t)v);
	else
		parameter(state, (uint8_t)v);
	listen(state);
}

struct device i8042_device(struct i8042 *k)
{
	static const struct device_range ranges[] = { { true, 0x60, 1 }, { true, 0x64, 1 }, { false, 0, 0 } };

	return (struct device){ .name = "i8042", .state = k, .ranges = ranges, .byte_wide = true,
				.read = i8042_read, .write = i8042_write, .irq = i8042_irq };
}

/* State; a request ends the run at once and is none. */
static const struct state_field i8042_fields[] = {
	STATE_U(struct i8042, command), STATE_U(struct i8042, config), STATE_U(struct i8042, output),
	STATE_B(struct i8042, output_full),
};
const struct state_desc i8042_desc = STATE_DESC("i8042", 1, i8042_fields);
