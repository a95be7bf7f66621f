/* The 8259A pair. */
#include "dev_test.h"

#include "dev/pic.h"

static struct pic pic;
static struct device dev;

static void init_chip(uint64_t port, uint8_t base, uint8_t icw4)
{
	out8(&dev, port, 0x11, 0);
	out8(&dev, port + 1, base, 0);
	out8(&dev, port + 1, port == 0x20 ? 4 : 2, 0);
	out8(&dev, port + 1, icw4, 0);
}

static int setup(void **state)
{
	(void)state;
	pic_init(&pic);
	dev = pic_device(&pic);
	init_chip(0x20, 0x20, 1);
	init_chip(0xa0, 0x28, 1);
	return 0;
}

static uint8_t isr(uint64_t port)
{
	out8(&dev, port, 0x0b, 0);
	return in8(&dev, port, 0);
}

static uint8_t irr(uint64_t port)
{
	out8(&dev, port, 0x0a, 0);
	return in8(&dev, port, 0);
}

static void edge(void **state)
{
	(void)state;
	assert_false(pic_intr(&pic));
	pic_set_irq(&pic, 3, true);
	assert_true(pic_intr(&pic));
	assert_int_equal(irr(0x20), 0x08);
	assert_int_equal(pic_ack(&pic), 0x23);
	assert_int_equal(isr(0x20), 0x08);
	assert_int_equal(irr(0x20), 0);
	out8(&dev, 0x20, 0x20, 0);
	assert_false(pic_intr(&pic)); /* still high, but no new edge */
	pic_set_irq(&pic, 3, false);
	pic_set_irq(&pic, 3, true);
	assert_true(pic_intr(&pic));
}

static void priorities_and_mask(void **state)
{
	(void)state;
	pic_set_irq(&pic, 5, true);
	pic_set_irq(&pic, 1, true);
	assert_int_equal(pic_ack(&pic), 0x21);
	assert_false(pic_intr(&pic)); /* 5 waits for the end of 1 */
	out8(&dev, 0x20, 0x61, 0);    /* specific EOI */
	assert_true(pic_intr(&pic));
	out8(&dev, 0x21, 0x20, 0);
	assert_false(pic_intr(&pic));
	assert_int_equal(in8(&dev, 0x21, 0), 0x20);
	out8(&dev, 0x21, 0, 0);
	assert_int_equal(pic_ack(&pic), 0x25);
	pic_set_irq(&pic, 0, true);
	assert_int_equal(pic_ack(&pic), 0x20); /* nested */
	assert_int_equal(isr(0x20), 0x21);
	out8(&dev, 0x20, 0x20, 0);
	assert_int_equal(isr(0x20), 0x20);
}

static void cascade(void **state)
{
	(void)state;
	pic_set_irq(&pic, 12, true);
	assert_int_equal(irr(0x20), 0x04);
	assert_int_equal(pic_ack(&pic), 0x2c);
	assert_int_equal(isr(0x20), 0x04);
	assert_int_equal(isr(0xa0), 0x10);
	pic_set_irq(&pic, 8, true); /* higher on the slave, but the master is busy with its input 2 */
	assert_false(pic_intr(&pic));
	out8(&dev, 0x20, 0x20, 0);
	assert_int_equal(pic_ack(&pic), 0x28);
	out8(&dev, 0xa0, 0x20, 0);
	out8(&dev, 0xa0, 0x20, 0);
	out8(&dev, 0x20, 0x20, 0);
	assert_false(pic_intr(&pic));
	assert_int_equal(isr(0xa0), 0);
	pic_set_irq(&pic, 2, true); /* the cascade input is nobody's */
	assert_false(pic_intr(&pic));
}

static void fully_nested(void **state)
{
	(void)state;
	init_chip(0x20, 0x20, 0x11);
	pic_set_irq(&pic, 12, true);
	assert_int_equal(pic_ack(&pic), 0x2c);
	pic_set_irq(&pic, 8, true);
	assert_true(pic_intr(&pic));
	assert_int_equal(pic_ack(&pic), 0x28);
}

static void spurious(void **state)
{
	(void)state;
	assert_int_equal(pic_ack(&pic), 0x27);
	assert_int_equal(isr(0x20), 0);
}

static void level_triggered(void **state)
{
	(void)state;
	out8(&dev, 0x4d1, 0xff, 0);
	assert_int_equal(in8(&dev, 0x4d1, 0), 0xde);
	assert_int_equal(in8(&dev, 0x4d0, 0), 0);
	pic_set_irq(&pic, 9, true);
	assert_int_equal(pic_ack(&pic), 0x29);
	out8(&dev, 0xa0, 0x20, 0);
	out8(&dev, 0x20, 0x20, 0);
	assert_true(pic_intr(&pic)); /* still asserted */
	pic_set_irq(&pic, 9, false);
	assert_false(pic_intr(&pic));
}

static void auto_eoi_and_rotation(void **state)
{
	(void)state;
	init_chip(0x20, 0x40, 0x03);
	pic_set_irq(&pic, 1, true);
	assert_int_equal(pic_ack(&pic), 0x41);
	assert_int_equal(isr(0x20), 0);
	out8(&dev, 0x20, 0xc3, 0); /* 3 gets the lowest priority, so 4 the highest */
	pic_set_irq(&pic, 0, true);
	pic_set_irq(&pic, 4, true);
	assert_int_equal(pic_ack(&pic), 0x44);
	out8(&dev, 0x20, 0x80, 0); /* rotate on automatic EOI */
	assert_int_equal(pic_ack(&pic), 0x40);
	assert_int_equal(pic.chip[0].lowest, 0);
}

static void special_mask(void **state)
{
	(void)state;
	pic_set_irq(&pic, 1, true);
	assert_int_equal(pic_ack(&pic), 0x21);
	pic_set_irq(&pic, 6, true);
	assert_false(pic_intr(&pic));
	out8(&dev, 0x21, 0x02, 0);
	out8(&dev, 0x20, 0x68, 0);
	assert_true(pic_intr(&pic)); /* a masked input in service blocks nothing */
	assert_int_equal(pic_ack(&pic), 0x26);
}

static void poll(void **state)
{
	(void)state;
	out8(&dev, 0x20, 0x0c, 0);
	assert_int_equal(in8(&dev, 0x20, 0), 0);
	pic_set_irq(&pic, 4, true);
	out8(&dev, 0x20, 0x0c, 0);
	assert_int_equal(in8(&dev, 0x20, 0), 0x84);
	assert_int_equal(isr(0x20), 0x10);
	assert_false(pic_intr(&pic));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(edge, setup),
		cmocka_unit_test_setup(priorities_and_mask, setup),
		cmocka_unit_test_setup(cascade, setup),
		cmocka_unit_test_setup(fully_nested, setup),
		cmocka_unit_test_setup(spurious, setup),
		cmocka_unit_test_setup(level_triggered, setup),
		cmocka_unit_test_setup(auto_eoi_and_rotation, setup),
		cmocka_unit_test_setup(special_mask, setup),
		cmocka_unit_test_setup(poll, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
