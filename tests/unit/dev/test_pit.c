/* The 8254. Times: tick n of the 1193182 Hz input begins at ceil(n * 1e9 / 1193182) ns. */
#include "dev_test.h"

#include "dev/pit.h"

static struct pit pit;
static struct device dev;

static int setup(void **state)
{
	(void)state;
	pit_init(&pit);
	dev = pit_device(&pit);
	return 0;
}

static uint64_t tick(uint64_t n) { return (n * SECOND + PIT_HZ - 1) / PIT_HZ; }

static void program(unsigned channel, uint8_t mode, uint16_t count, uint64_t now)
{
	out8(&dev, 0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1), now);
	out8(&dev, 0x40 + channel, (uint8_t)count, now);
	out8(&dev, 0x40 + channel, (uint8_t)(count >> 8), now);
}

static uint16_t latched(unsigned channel, uint64_t now)
{
	uint16_t low;

	out8(&dev, 0x43, (uint8_t)(channel << 6), now);
	low = in8(&dev, 0x40 + channel, now);
	return (uint16_t)(low | in8(&dev, 0x40 + channel, now) << 8);
}

static uint32_t pulses(void)
{
	uint32_t p;

	dev.irq(&pit, &p);
	return p;
}

static void idle_at_reset(void **state)
{
	(void)state;
	assert_true(dev.advance(&pit, 0) == UINT64_MAX);
	assert_true(irq_level(&dev, 0));
}

/* The count is loaded at tick 1, and is 0 at tick 101. */
static void mode0(void **state)
{
	(void)state;
	program(0, 0, 100, 0);
	assert_false(irq_level(&dev, 0));
	assert_int_equal(dev.advance(&pit, 0), tick(1));
	assert_int_equal(dev.advance(&pit, tick(1)), tick(101));
	assert_int_equal(latched(0, tick(11)), 90);
	dev.advance(&pit, tick(101) - 1);
	assert_false(irq_level(&dev, 0));
	assert_true(dev.advance(&pit, tick(101)) == UINT64_MAX);
	assert_true(irq_level(&dev, 0));
	assert_int_equal(latched(0, tick(102)), 0xffff);
	out8(&dev, 0x43, 0x30, tick(103));
	assert_false(irq_level(&dev, 0));
}

/* 250 Hz as Linux programs it: low for the last tick of each period. */
static void mode2(void **state)
{
	uint64_t now;

	(void)state;
	program(0, 2, 4773, 0);
	pulses();
	now = dev.advance(&pit, tick(1));
	for (uint64_t period = 1; period < 5; period++) {
		assert_int_equal(now, tick(period * 4773));
		now = dev.advance(&pit, now);
		assert_false(irq_level(&dev, 0));
		assert_int_equal(now, tick(1 + period * 4773));
		now = dev.advance(&pit, now);
		assert_int_not_equal(pulses(), 0);
		assert_true(irq_level(&dev, 0));
	}
	/* a late look still sees that there was an edge */
	dev.advance(&pit, tick(1 + 100 * 4773 + 7));
	assert_int_not_equal(pulses(), 0);
	assert_int_equal(latched(0, tick(1 + 100 * 4773 + 7)), 4773 - 7);
	assert_int_equal(pulses(), 0);
}

/* A new count waits for the end of the cycle. */
static void mode2_new_count(void **state)
{
	(void)state;
	program(0, 2, 1000, 0);
	out8(&dev, 0x40, 100, tick(501));
	out8(&dev, 0x40, 0, tick(501));
	assert_int_equal(latched(0, tick(502)), 499);
	out8(&dev, 0x43, 0xe2, tick(503)); /* read back status of channel 0: count not yet loaded */
	assert_int_equal(in8(&dev, 0x40, tick(503)), 0x80 | 0x40 | 0x34);
	assert_int_equal(latched(0, tick(1001)), 100);
	assert_int_equal(latched(0, tick(1101)), 100);
	out8(&dev, 0x43, 0xe2, tick(1102));
	assert_int_equal(in8(&dev, 0x40, tick(1102)), 0x80 | 0x34);
}

/* Square wave: high for the larger half. */
static void mode3(void **state)
{
	(void)state;
	program(0, 3, 5, 0);
	for (unsigned n = 1; n < 21; n++) {
		dev.advance(&pit, tick(n));
		assert_int_equal(irq_level(&dev, 0), (n - 1) % 5 < 3);
	}
	program(2, 3, 10, 0);
	out8(&dev, 0x61, 1, tick(100));
	assert_int_equal(latched(2, tick(101)), 10);
	assert_int_equal(latched(2, tick(103)), 6);
	assert_int_equal(latched(2, tick(106)), 10);
}

/* Channel 2 in mode 0, as calibration loops use it; the gate holds the count. */
static void port61(void **state)
{
	(void)state;
	out8(&dev, 0x61, 0xff, 0);
	assert_int_equal(in8(&dev, 0x61, 0) & 0x0f, 0x0f);
	program(2, 0, 1000, 0);
	assert_int_equal(in8(&dev, 0x61, tick(1000)) & 0x20, 0);
	assert_int_equal(in8(&dev, 0x61, tick(1001)) & 0x20, 0x20);
	program(2, 0, 1000, tick(2000));
	out8(&dev, 0x61, 0, tick(2101));
	assert_int_equal(latched(2, tick(5000)), 900);
	out8(&dev, 0x61, 1, tick(5000));
	assert_int_equal(latched(2, tick(5100)), 800);
	assert_int_not_equal(in8(&dev, 0x61, 0) & 0x10, in8(&dev, 0x61, 15085) & 0x10);
}

static void mode1_and_5(void **state)
{
	(void)state;
	program(2, 1, 10, 0);
	assert_int_equal(in8(&dev, 0x61, tick(50)) & 0x20, 0x20);
	out8(&dev, 0x61, 1, tick(50));
	assert_int_equal(in8(&dev, 0x61, tick(51)) & 0x20, 0);
	assert_int_equal(in8(&dev, 0x61, tick(60)) & 0x20, 0);
	assert_int_equal(in8(&dev, 0x61, tick(61)) & 0x20, 0x20);
	out8(&dev, 0x61, 0, tick(70));
	program(2, 5, 10, tick(70));
	out8(&dev, 0x61, 1, tick(80));
	assert_int_equal(in8(&dev, 0x61, tick(90)) & 0x20, 0x20);
	assert_int_equal(in8(&dev, 0x61, tick(91)) & 0x20, 0);
	assert_int_equal(in8(&dev, 0x61, tick(92)) & 0x20, 0x20);
}

static void mode4(void **state)
{
	(void)state;
	program(0, 4, 10, 0);
	assert_int_equal(dev.advance(&pit, tick(1)), tick(11));
	assert_int_equal(dev.advance(&pit, tick(11)), tick(12));
	assert_false(irq_level(&dev, 0));
	assert_true(dev.advance(&pit, tick(12)) == UINT64_MAX);
	assert_true(irq_level(&dev, 0));
}

static void bcd(void **state)
{
	(void)state;
	out8(&dev, 0x43, 0x31, 0);
	out8(&dev, 0x40, 0x00, 0);
	out8(&dev, 0x40, 0x10, 0);
	assert_int_equal(latched(0, tick(1)), 0x1000);
	assert_int_equal(latched(0, tick(2)), 0x0999);
	assert_int_equal(latched(0, tick(1002)), 0x9999);
}

static void byte_access(void **state)
{
	(void)state;
	out8(&dev, 0x43, 0x14, 0); /* low byte only, mode 2 */
	out8(&dev, 0x40, 50, 0);
	assert_int_equal(in8(&dev, 0x40, tick(11)), 40);
	assert_int_equal(in8(&dev, 0x40, tick(12)), 39);
	out8(&dev, 0x43, 0x24, 0); /* high byte only */
	out8(&dev, 0x40, 2, tick(12));
	assert_int_equal(in8(&dev, 0x40, tick(13)), 2);
	assert_int_equal(in8(&dev, 0x40, tick(14)), 1);
	/* a latched count stays, and status comes before it */
	out8(&dev, 0x43, 0xc2, tick(14));
	assert_int_equal(in8(&dev, 0x40, tick(400)), 0xa4);
	assert_int_equal(in8(&dev, 0x40, tick(400)), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(idle_at_reset, setup),
		cmocka_unit_test_setup(mode0, setup),
		cmocka_unit_test_setup(mode2, setup),
		cmocka_unit_test_setup(mode2_new_count, setup),
		cmocka_unit_test_setup(mode3, setup),
		cmocka_unit_test_setup(port61, setup),
		cmocka_unit_test_setup(mode1_and_5, setup),
		cmocka_unit_test_setup(mode4, setup),
		cmocka_unit_test_setup(bcd, setup),
		cmocka_unit_test_setup(byte_access, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
