/* The I/O APIC. */
#include "dev_test.h"

#include "dev/ioapic.h"

static struct ioapic ioapic;
static struct device dev;

static int setup(void **state)
{
	(void)state;
	ioapic_init(&ioapic, 1);
	dev = ioapic_device(&ioapic);
	return 0;
}

static uint32_t get(uint8_t reg)
{
	dev.write(&ioapic, IOAPIC_BASE, 4, reg, 0);
	return (uint32_t)dev.read(&ioapic, IOAPIC_BASE + 0x10, 4, 0);
}

static void set(uint8_t reg, uint32_t v)
{
	dev.write(&ioapic, IOAPIC_BASE, 4, reg, 0);
	dev.write(&ioapic, IOAPIC_BASE + 0x10, 4, v, 0);
}

static void set_redirect(unsigned pin, uint64_t v)
{
	set((uint8_t)(0x11 + 2 * pin), (uint32_t)(v >> 32));
	set((uint8_t)(0x10 + 2 * pin), (uint32_t)v);
}

static void assert_message(uint64_t want_addr, uint32_t want_data)
{
	uint64_t addr;
	uint32_t data;

	assert_true(ioapic_take_message(&ioapic, &addr, &data));
	assert_int_equal(addr, want_addr);
	assert_int_equal(data, want_data);
}

static void assert_silence(void)
{
	uint64_t addr;
	uint32_t data;

	assert_false(ioapic_take_message(&ioapic, &addr, &data));
}

static void registers(void **state)
{
	(void)state;
	assert_int_equal(get(0), 1 << 24);
	assert_int_equal(get(1), 0x00170020);
	set(0, 0xffffffff);
	assert_int_equal(get(0), 0x0f000000);
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		assert_int_equal(get((uint8_t)(0x10 + 2 * i)), 0x10000);
	set_redirect(3, ~0ull);
	assert_int_equal(get(0x16), 0x1afff); /* delivery status and remote IRR are read-only */
	assert_int_equal(get(0x17), 0xff000000);
	assert_int_equal(get(0x40), 0);
	set(0xff, 0xffffffff);
}

static void edge(void **state)
{
	(void)state;
	ioapic_set_pin(&ioapic, 4, true);
	set_redirect(4, 0x31);
	assert_silence(); /* the edge came while masked */
	ioapic_set_pin(&ioapic, 4, false);
	ioapic_set_pin(&ioapic, 4, true);
	ioapic_set_pin(&ioapic, 4, false);
	ioapic_set_pin(&ioapic, 4, true);
	assert_message(0xfee00000, 0x31);
	assert_silence();
	set_redirect(5, 0x0500000000000932); /* logical 5, lowest priority */
	ioapic_set_pin(&ioapic, 5, true);
	assert_message(0xfee05004, 0x132);
}

static void level(void **state)
{
	(void)state;
	ioapic_set_pin(&ioapic, 9, true);
	set_redirect(9, 0x18039);
	assert_silence();
	set_redirect(9, 0x8039);
	assert_message(0xfee00000, 0xc039);
	assert_int_equal(get(0x22), 0xc039);
	assert_silence();
	ioapic_eoi(&ioapic, 0x38);
	assert_silence();
	ioapic_eoi(&ioapic, 0x39);
	assert_message(0xfee00000, 0xc039); /* still high */
	ioapic_set_pin(&ioapic, 9, false);
	dev.write(&ioapic, IOAPIC_BASE + 0x40, 4, 0x39, 0);
	assert_silence();
	assert_int_equal(get(0x22), 0x8039);
}

/* Linux clears a stuck remote IRR by making the input edge-triggered and masked for a moment. */
static void trigger_change(void **state)
{
	(void)state;
	set_redirect(9, 0x8039);
	ioapic_set_pin(&ioapic, 9, true);
	assert_message(0xfee00000, 0xc039);
	set_redirect(9, 0x10039);
	set_redirect(9, 0x8039);
	assert_message(0xfee00000, 0xc039);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(registers, setup),
		cmocka_unit_test_setup(edge, setup),
		cmocka_unit_test_setup(level, setup),
		cmocka_unit_test_setup(trigger_change, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
