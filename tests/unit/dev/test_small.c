/* The small devices: ACPI fixed hardware, resets, debug exit, firmware configuration, test device. */
#include "dev_test.h"

#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/fw_cfg.h"
#include "dev/i8042.h"
#include "dev/reset.h"
#include "dev/testdev.h"

static void pm_timer(void **state)
{
	struct acpi_pm pm;
	struct device d = acpi_pm_device(&pm);
	uint32_t v = 0;
	uint64_t wrap = ((1ull << 31) * SECOND + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ;

	(void)state;
	acpi_pm_init(&pm);
	for (unsigned i = 0; i < 4; i++)
		v |= (uint32_t)in8(&d, ACPI_PM_TMR_PORT + i, 100 * SECOND) << 8 * i;
	assert_int_equal(v, 357954500);
	assert_true(d.advance(&pm, 0) == UINT64_MAX);
	out8(&d, ACPI_PM_EVT_PORT + 2, 1, 0);
	assert_int_equal(d.advance(&pm, 0), wrap);
	d.advance(&pm, wrap - 1);
	assert_false(irq_level(&d, ACPI_PM_SCI));
	d.advance(&pm, wrap);
	assert_true(irq_level(&d, ACPI_PM_SCI));
	assert_int_equal(in8(&d, ACPI_PM_EVT_PORT, wrap), 1);
	out8(&d, ACPI_PM_EVT_PORT, 1, wrap);
	assert_false(irq_level(&d, ACPI_PM_SCI));
}

static void power(void **state)
{
	struct acpi_pm pm;
	struct device d = acpi_pm_device(&pm);

	(void)state;
	acpi_pm_init(&pm);
	assert_int_equal(in8(&d, ACPI_PM_CNT_PORT, 0), 1); /* ACPI mode */
	acpi_pm_power_button(&pm);
	assert_false(irq_level(&d, ACPI_PM_SCI));
	out8(&d, ACPI_PM_EVT_PORT + 3, 1, 0);
	assert_true(irq_level(&d, ACPI_PM_SCI));
	out8(&d, ACPI_PM_EVT_PORT + 1, 1, 0);
	assert_false(irq_level(&d, ACPI_PM_SCI));
	out8(&d, ACPI_PM_CNT_PORT + 1, 0x20 | 3 << 2, 0);
	assert_int_equal(pm.request, PLATFORM_RUN);
	out8(&d, ACPI_PM_CNT_PORT + 1, 5 << 2, 0);
	assert_int_equal(pm.request, PLATFORM_RUN);
	assert_int_equal(in8(&d, ACPI_PM_CNT_PORT + 1, 0), 5 << 2);
	out8(&d, ACPI_PM_CNT_PORT + 1, 0x20 | 5 << 2, 0);
	assert_int_equal(pm.request, PLATFORM_POWER_OFF);
}

static void keyboard_controller(void **state)
{
	struct i8042 k;
	struct device d = i8042_device(&k);

	(void)state;
	i8042_init(&k, NULL);
	assert_int_equal(in8(&d, 0x64, 0) & 3, 0); /* ready for a command, nothing to read */
	out8(&d, 0x64, 0xaa, 0);
	assert_int_equal(in8(&d, 0x64, 0) & 1, 1);
	assert_int_equal(in8(&d, 0x60, 0), 0x55);
	assert_int_equal(in8(&d, 0x64, 0) & 1, 0);
	out8(&d, 0x64, 0x60, 0);
	out8(&d, 0x60, 0x47, 0);
	out8(&d, 0x64, 0x20, 0);
	assert_int_equal(in8(&d, 0x60, 0), 0x47);
	out8(&d, 0x64, 0xff, 0); /* pulses no line */
	assert_int_equal(k.request, PLATFORM_RUN);
	out8(&d, 0x60, 0xff, 0); /* to a keyboard that is not there */
	assert_int_equal(in8(&d, 0x64, 0) & 1, 0);
	out8(&d, 0x64, 0xfe, 0);
	assert_int_equal(k.request, PLATFORM_RESET);
}

static void keyboard(void **state)
{
	struct ps2_keyboard keys;
	struct i8042 k;
	struct device d = i8042_device(&k);

	(void)state;
	ps2_keyboard_init(&keys);
	i8042_init(&k, &keys);
	out8(&d, 0x64, 0x60, 0);
	out8(&d, 0x60, 0x01, 0); /* interrupts */
	assert_false(irq_level(&d, I8042_IRQ));
	out8(&d, 0x60, 0xff, 0); /* reset: acknowledged, and passed */
	assert_true(irq_level(&d, I8042_IRQ));
	assert_int_equal(in8(&d, 0x60, 0), 0xfa);
	assert_int_equal(in8(&d, 0x64, 0) & 1, 1);
	out8(&d, 0x64, 0xad, 0); /* its clock is held: what is in the buffer stays, nothing follows */
	assert_int_equal(in8(&d, 0x60, 0), 0xaa);
	assert_false(irq_level(&d, I8042_IRQ));
	out8(&d, 0x60, 0xf2, 0); /* who are you */
	assert_int_equal(in8(&d, 0x60, 0), 0xfa);
	out8(&d, 0x64, 0xad, 0);
	assert_int_equal(in8(&d, 0x60, 0), 0xab);
	assert_int_equal(in8(&d, 0x64, 0) & 1, 0);
	out8(&d, 0x64, 0xae, 0);
	assert_int_equal(in8(&d, 0x60, 0), 0x83);
	out8(&d, 0x60, 0xed, 0);
	assert_int_equal(in8(&d, 0x60, 0), 0xfa);
	out8(&d, 0x60, 0x07, 0); /* a parameter, no command */
	assert_int_equal(in8(&d, 0x60, 0), 0xfa);
	out8(&d, 0x60, 0x07, 0);
	assert_int_equal(in8(&d, 0x60, 0), 0xfe);
	out8(&d, 0x60, 0xed, 0);
	out8(&d, 0x60, 0xee, 0); /* a command in a parameter's place */
	assert_int_equal(in8(&d, 0x60, 0), 0xfa);
	assert_int_equal(in8(&d, 0x60, 0), 0xee);
	assert_int_equal(in8(&d, 0x64, 0) & 1, 0);
}

static void reset_ports(void **state)
{
	struct reset_port r;
	struct device d = reset_device(&r);

	(void)state;
	reset_init(&r);
	assert_int_equal(in8(&d, 0x92, 0), 2);
	out8(&d, 0x92, 3, 0);
	assert_int_equal(r.request, PLATFORM_RESET);
	reset_init(&r);
	d.write(&r, 0xcf8, 4, 0x80000600, 0); /* PCI configuration address: not the reset register */
	assert_int_equal(d.read(&r, 0xcf8, 4, 0) & 0xffffffff, 0xffffffff);
	assert_int_equal(r.request, PLATFORM_RUN);
	out8(&d, 0xcf9, 0x02, 0);
	assert_int_equal(r.request, PLATFORM_RUN);
	assert_int_equal(in8(&d, 0xcf9, 0), 0x02);
	out8(&d, 0xcf9, 0x06, 0);
	assert_int_equal(r.request, PLATFORM_RESET);
}

static void debug_exit(void **state)
{
	struct debug_exit e;
	struct device d = debug_exit_device(&e);

	(void)state;
	debug_exit_init(&e);
	assert_int_equal(e.request, PLATFORM_RUN);
	d.write(&e, DEBUG_EXIT_PORT, 4, 0x12, 0);
	d.write(&e, DEBUG_EXIT_PORT, 4, 0, 0);
	assert_int_equal(e.request, PLATFORM_DEBUG_EXIT);
	assert_int_equal(e.code, 0x25);
}

/* The last eight of the first @bytes bytes. */
static uint64_t item(const struct device *d, uint16_t key, unsigned bytes)
{
	uint64_t v = 0;

	d->write(d->state, 0x510, 2, key, 0);
	for (unsigned i = 0; i < bytes; i++) {
		uint64_t byte = in8(d, 0x511, 0);

		v = i < 8 ? v | byte << 8 * i : v >> 8 | byte << 56;
	}
	return v;
}

static void firmware_configuration(void **state)
{
	struct fw_cfg f;
	struct device d;

	(void)state;
	fw_cfg_init(&f, 0x123456000);
	d = fw_cfg_device(&f);
	assert_int_equal(item(&d, 0, 4), 0x554d4551);
	assert_int_equal(item(&d, 1, 4), 1);
	assert_int_equal(item(&d, 3, 8), 0x123456000);
	assert_int_equal(in8(&d, 0x511, 0), 0); /* past the end */
	assert_int_equal(item(&d, 5, 2), 1);
	assert_int_equal(item(&d, 15, 2), 1);
	assert_int_equal(item(&d, 0x19, 4), 0);
}

static void firmware_files(void **state)
{
	static const char name[] = "etc/second";
	struct fw_cfg f;
	struct device d;
	uint8_t log[4];

	(void)state;
	fw_cfg_init(&f, 0);
	assert_int_equal(fw_cfg_device(&f).ranges[0].base, 0x510);
	fw_cfg_add_file(&f, "etc/first", "1", 1);
	fw_cfg_add_file(&f, name, "0123456789", 10);
	fw_cfg_add_log(&f);
	d = fw_cfg_device(&f);
	assert_int_equal(item(&d, 0x19, 4), 0x02000000); /* big-endian: two files */
	assert_int_equal(item(&d, 0x19, 8) >> 32, 0x01000000);
	item(&d, 0x19, 4 + 64);
	assert_int_equal(in8(&d, 0x511, 0), 0);
	item(&d, 0x19, 4 + 64 + 3);
	assert_int_equal(in8(&d, 0x511, 0), 10);
	assert_int_equal(in8(&d, 0x511, 0), 0);
	assert_int_equal(in8(&d, 0x511, 0), 0x21);
	item(&d, 0x19, 4 + 64 + 8);
	for (unsigned i = 0; i < FW_CFG_NAME_MAX; i++)
		assert_int_equal(in8(&d, 0x511, 0), i < sizeof(name) ? name[i] : 0);
	assert_int_equal(in8(&d, 0x511, 0), 0); /* past the end */
	assert_int_equal(item(&d, 0x21, 8), 0x3736353433323130);
	assert_int_equal(in8(&d, 0x511, 0), '8');
	assert_int_equal(in8(&d, 0x511, 0), '9');
	assert_int_equal(in8(&d, 0x511, 0), 0);
	assert_int_equal(item(&d, 0x22, 8), 0); /* no such file */
	assert_int_equal(in8(&d, 0x402, 0), 0xe9);
	for (unsigned i = 0; i < FW_CFG_LOG + 2; i++)
		out8(&d, 0x402, (uint8_t)i, 0);
	assert_int_equal(fw_cfg_take_log(&f, log, sizeof(log)), 4);
	assert_int_equal(log[0], 2); /* the oldest were lost */
	for (unsigned i = 4; i < FW_CFG_LOG; i += 4)
		assert_int_equal(fw_cfg_take_log(&f, log, sizeof(log)), 4);
	assert_int_equal(log[3], FW_CFG_LOG + 1);
	assert_int_equal(fw_cfg_take_log(&f, log, sizeof(log)), 0);
}

static void test_device(void **state)
{
	static struct testdev t;
	struct device d = testdev_device(&t);

	(void)state;
	testdev_init(&t);
	d.write(&t, 0xe0, 4, 0x44332211, 0);
	assert_int_equal(in8(&d, 0xe2, 0), 0x33);
	assert_int_equal(d.read(&t, 0xe1, 2, 0), 0x3322);
	d.write(&t, 0xe4, 4, ~0u, 0);
	d.write(&t, TESTDEV_MEMORY + 0xfff8, 8, 0x1122334455667788, 0);
	assert_int_equal(d.read(&t, TESTDEV_MEMORY + 0xfffc, 4, 0), 0x11223344);
	out8(&d, 0x2000 + 14, 1, 0);
	assert_true(irq_level(&d, 14));
	out8(&d, 0x2000 + 14, 0, 0);
	assert_false(irq_level(&d, 14));
	out8(&d, 0x2017, 1, 0);
	assert_true(irq_level(&d, 23));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pm_timer), cmocka_unit_test(power), cmocka_unit_test(keyboard_controller), cmocka_unit_test(keyboard),
		cmocka_unit_test(reset_ports), cmocka_unit_test(debug_exit),
		cmocka_unit_test(firmware_configuration), cmocka_unit_test(firmware_files), cmocka_unit_test(test_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
