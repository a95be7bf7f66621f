/* The real-time clock. */
#include "dev_test.h"

#include "dev/rtc.h"

static struct rtc rtc;
static struct device dev;

static int setup(void **state)
{
	(void)state;
	rtc_init(&rtc, 5ull << 30, RTC_DEFAULT_EPOCH);
	dev = rtc_device(&rtc);
	return 0;
}

static uint8_t get(uint8_t reg, uint64_t now)
{
	out8(&dev, 0x70, reg, now);
	return in8(&dev, 0x71, now);
}

static void set(uint8_t reg, uint8_t v, uint64_t now)
{
	out8(&dev, 0x70, reg, now);
	out8(&dev, 0x71, v, now);
}

static void assert_time(uint64_t now, unsigned century, unsigned year, unsigned month, unsigned day,
			unsigned hour, unsigned minute, unsigned second)
{
	assert_int_equal(get(0x32, now), century);
	assert_int_equal(get(9, now), year);
	assert_int_equal(get(8, now), month);
	assert_int_equal(get(7, now), day);
	assert_int_equal(get(4, now), hour);
	assert_int_equal(get(2, now), minute);
	assert_int_equal(get(0, now), second);
}

static void starts_in_2024(void **state)
{
	(void)state;
	assert_time(0, 0x20, 0x24, 1, 1, 0, 0, 0);
	assert_int_equal(get(6, 0), 2); /* a Monday */
	assert_time((59 * 86400 + 13 * 3600 + 59 * 60 + 58) * SECOND, 0x20, 0x24, 2, 0x29, 0x13, 0x59, 0x58);
	assert_time(366 * 86400 * SECOND, 0x20, 0x25, 1, 1, 0, 0, 0);
	assert_int_equal(get(0x0d, 0), 0x80);
	assert_int_equal(in8(&dev, 0x70, 0), 0xff);
}

static void formats(void **state)
{
	(void)state;
	set(0x0b, 0x06, 0);
	assert_time(14 * 3600 * SECOND, 20, 24, 1, 1, 14, 0, 0);
	set(0x0b, 0x00, 14 * 3600 * SECOND);
	assert_int_equal(get(4, 14 * 3600 * SECOND), 0x82);
	assert_int_equal(get(4, 24 * 3600 * SECOND), 0x12);
	assert_int_equal(get(4, 36 * 3600 * SECOND), 0x92);
}

static void setting_the_time(void **state)
{
	(void)state;
	set(0x0b, 0x82, 0);
	set(0x32, 0x19, 0);
	set(9, 0x99, 0);
	set(8, 0x12, 0);
	set(7, 0x31, 0);
	set(4, 0x23, 0);
	set(2, 0x59, 0);
	set(0, 0x59, 0);
	assert_time(10 * SECOND, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59); /* stopped */
	set(0x0b, 0x02, 10 * SECOND);
	assert_time(11 * SECOND, 0x20, 0, 1, 1, 0, 0, 0);
	assert_int_equal(get(6, 11 * SECOND), 7); /* a Saturday */
	set(2, 0x30, 11 * SECOND);                /* without stopping */
	assert_time(12 * SECOND, 0x20, 0, 1, 1, 0, 0x30, 1);
}

static void update_interrupt(void **state)
{
	(void)state;
	set(0x0b, 0x12, SECOND / 2);
	assert_int_equal(dev.advance(&rtc, SECOND / 2), SECOND);
	assert_false(irq_level(&dev, RTC_IRQ));
	assert_true(dev.advance(&rtc, SECOND) == UINT64_MAX);
	assert_true(irq_level(&dev, RTC_IRQ));
	assert_int_equal(get(0x0c, SECOND) & 0xb0, 0x90);
	assert_false(irq_level(&dev, RTC_IRQ));
	assert_int_equal(dev.advance(&rtc, SECOND), 2 * SECOND);
	assert_int_equal(get(0x0a, SECOND), 0x26);
	assert_int_equal(get(0x0a, 2 * SECOND - 100000), 0xa6);
}

static void periodic_interrupt(void **state)
{
	(void)state;
	set(0x0b, 0x42, 0);
	assert_int_equal(dev.advance(&rtc, 0), 976563); /* 1/1024 s */
	dev.advance(&rtc, 976563);
	assert_true(irq_level(&dev, RTC_IRQ));
	assert_int_equal(get(0x0c, 976563), 0xc0);
	set(0x0a, 0x2f, 976563);
	assert_int_equal(dev.advance(&rtc, 976563), SECOND / 2);
	set(0x0a, 0x20, 976563);
	assert_true(dev.advance(&rtc, 976563) == UINT64_MAX);
}

static void alarm_interrupt(void **state)
{
	(void)state;
	set(5, 0x01, 0);
	set(3, 0x02, 0);
	set(1, 0x03, 0);
	set(0x0b, 0x22, 0);
	assert_int_equal(dev.advance(&rtc, 0), 3723 * SECOND);
	dev.advance(&rtc, 3723 * SECOND);
	assert_true(irq_level(&dev, RTC_IRQ));
	assert_int_equal(get(0x0c, 3723 * SECOND) & 0xa0, 0xa0);
	assert_int_equal(dev.advance(&rtc, 3723 * SECOND), (86400 + 3723) * SECOND);
	set(5, 0xff, 3723 * SECOND); /* every hour */
	assert_int_equal(dev.advance(&rtc, 3723 * SECOND), 7323 * SECOND);
	set(3, 0xc0, 3723 * SECOND); /* every minute */
	assert_int_equal(dev.advance(&rtc, 3723 * SECOND), 3783 * SECOND);
	set(1, 0x61, 3723 * SECOND); /* second 61: never */
	assert_true(dev.advance(&rtc, 3723 * SECOND) == UINT64_MAX);
}

static void cmos(void **state)
{
	(void)state;
	assert_int_equal(get(0x15, 0) | get(0x16, 0) << 8, 640);
	assert_int_equal(get(0x34, 0) | get(0x35, 0) << 8, (3072 - 16) * 16);
	assert_int_equal(get(0x5b, 0) | get(0x5c, 0) << 8, 2048 * 16);
	set(0x7f, 0x42, 0);
	assert_int_equal(get(0xff, 0), 0x42);
	assert_true(rtc.nmi_masked);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(starts_in_2024, setup),
		cmocka_unit_test_setup(formats, setup),
		cmocka_unit_test_setup(setting_the_time, setup),
		cmocka_unit_test_setup(update_interrupt, setup),
		cmocka_unit_test_setup(periodic_interrupt, setup),
		cmocka_unit_test_setup(alarm_interrupt, setup),
		cmocka_unit_test_setup(cmos, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
