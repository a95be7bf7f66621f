/* The 16550A, driven as Linux's 8250 driver does. */
#include "dev_test.h"

#include "dev/serial.h"

#define P SERIAL_COM1_PORT

static struct serial serial;
static struct device dev;

static int setup(void **state)
{
	(void)state;
	serial_init(&serial, P, SERIAL_COM1_IRQ);
	dev = serial_device(&serial);
	return 0;
}

static bool irq(void) { return irq_level(&dev, SERIAL_COM1_IRQ); }

static void reset_state(void **state)
{
	(void)state;
	assert_int_equal(in8(&dev, P + 1, 0), 0);
	assert_int_equal(in8(&dev, P + 2, 0), 0x01);
	assert_int_equal(in8(&dev, P + 5, 0), 0x60);
	assert_int_equal(in8(&dev, P + 6, 0), 0xb0);
	out8(&dev, P + 7, 0x5a, 0);
	assert_int_equal(in8(&dev, P + 7, 0), 0x5a);
	out8(&dev, P + 1, 0xff, 0);
	assert_int_equal(in8(&dev, P + 1, 0), 0x0f);
}

static void divisor_latch(void **state)
{
	(void)state;
	out8(&dev, P + 3, 0x83, 0);
	out8(&dev, P, 0x34, 0);
	out8(&dev, P + 1, 0x12, 0);
	assert_int_equal(in8(&dev, P, 0), 0x34);
	assert_int_equal(in8(&dev, P + 1, 0), 0x12);
	out8(&dev, P + 3, 0x03, 0);
	assert_int_equal(in8(&dev, P + 1, 0), 0);
}

/* The driver recognizes a 16550A: loopback shows 0x90 for RTS and OUT2, IIR shows FIFOs. */
static void autoconfig(void **state)
{
	(void)state;
	out8(&dev, P + 4, 0x10 | 0x0a, 0);
	assert_int_equal(in8(&dev, P + 6, 0) & 0xf0, 0x90);
	out8(&dev, P + 4, 0, 0);
	out8(&dev, P + 2, 0x01, 0);
	assert_int_equal(in8(&dev, P + 2, 0) >> 6, 3);
	out8(&dev, P + 2, 0x00, 0);
	assert_int_equal(in8(&dev, P + 2, 0) >> 6, 0);
}

static void transmit(void **state)
{
	uint8_t buf[8];

	(void)state;
	out8(&dev, P, 'h', 0);
	out8(&dev, P, 'i', 0);
	assert_int_equal(in8(&dev, P + 5, 0) & 0x60, 0x60);
	assert_int_equal(serial_take_output(&serial, buf, 1), 1);
	assert_int_equal(buf[0], 'h');
	assert_int_equal(serial_take_output(&serial, buf, sizeof(buf)), 1);
	assert_int_equal(buf[0], 'i');
	assert_int_equal(serial_take_output(&serial, buf, sizeof(buf)), 0);
}

/* The transmitter interrupt: on enabling, again after each write, taken back by reading IIR. */
static void transmit_interrupt(void **state)
{
	(void)state;
	out8(&dev, P + 4, 0x0b, 0);
	assert_false(irq());
	out8(&dev, P + 1, 0x02, 0);
	assert_true(irq());
	assert_int_equal(in8(&dev, P + 2, 0), 0x02);
	assert_false(irq());
	assert_int_equal(in8(&dev, P + 2, 0), 0x01);
	out8(&dev, P, 'x', 0);
	assert_true(irq());
	assert_int_equal(in8(&dev, P + 2, 0), 0x02);
	out8(&dev, P + 1, 0x00, 0);
	out8(&dev, P + 1, 0x02, 0);
	assert_true(irq()); /* enabled anew: raised anew */
	out8(&dev, P + 4, 0x03, 0);
	assert_false(irq()); /* OUT2 gates the line */
}

static void receive(void **state)
{
	const uint8_t text[] = "0123456789abcdefghij";

	(void)state;
	out8(&dev, P + 2, 0x41, 0); /* FIFOs, trigger at 4 */
	out8(&dev, P + 4, 0x08, 0);
	out8(&dev, P + 1, 0x01, 0);
	assert_int_equal(serial_put_input(&serial, text, 2), 2);
	assert_true(irq());
	assert_int_equal(in8(&dev, P + 2, 0), 0xcc); /* below the trigger: timeout */
	assert_int_equal(serial_put_input(&serial, text + 2, 18), 18);
	assert_int_equal(in8(&dev, P + 2, 0), 0xc4);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(in8(&dev, P + 5, 0), 0x61);
		assert_int_equal(in8(&dev, P, 0), text[i]);
	}
	assert_int_equal(in8(&dev, P + 5, 0), 0x60);
	assert_false(irq());
}

static void loopback_overrun(void **state)
{
	(void)state;
	out8(&dev, P + 4, 0x10, 0);
	out8(&dev, P + 1, 0x04, 0);
	out8(&dev, P, 1, 0);
	out8(&dev, P, 2, 0);
	assert_int_equal(in8(&dev, P + 2, 0), 0x06);
	assert_int_equal(in8(&dev, P + 5, 0), 0x63);
	assert_int_equal(in8(&dev, P + 5, 0), 0x61);
	assert_int_equal(in8(&dev, P, 0), 2); /* without FIFOs the new byte replaces the old one */
	assert_int_equal(serial_take_output(&serial, (uint8_t[1]){ 0 }, 1), 0);
}

static void modem_status(void **state)
{
	(void)state;
	out8(&dev, P + 1, 0x08, 0);
	out8(&dev, P + 4, 0x14, 0); /* loopback with OUT1: RI on, everything else off */
	assert_int_equal(in8(&dev, P + 2, 0), 0x00);
	assert_int_equal(in8(&dev, P + 6, 0), 0x4b);
	assert_int_equal(in8(&dev, P + 6, 0), 0x40);
	out8(&dev, P + 4, 0x10, 0);
	assert_int_equal(in8(&dev, P + 6, 0), 0x04); /* RI counts when it ends */
	assert_int_equal(in8(&dev, P + 2, 0), 0x01);
}

static void ring_is_bounded(void **state)
{
	static uint8_t buf[2 * SERIAL_RING];

	(void)state;
	for (unsigned i = 0; i < 2 * SERIAL_RING; i++)
		out8(&dev, P, (uint8_t)i, 0);
	assert_int_equal(serial_take_output(&serial, buf, sizeof(buf)), SERIAL_RING);
	assert_int_equal(serial_put_input(&serial, buf, sizeof(buf)), SERIAL_RING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(reset_state, setup),
		cmocka_unit_test_setup(divisor_latch, setup),
		cmocka_unit_test_setup(autoconfig, setup),
		cmocka_unit_test_setup(transmit, setup),
		cmocka_unit_test_setup(transmit_interrupt, setup),
		cmocka_unit_test_setup(receive, setup),
		cmocka_unit_test_setup(loopback_overrun, setup),
		cmocka_unit_test_setup(modem_status, setup),
		cmocka_unit_test_setup(ring_is_bounded, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
