/* The platform: routing of accesses, wiring of interrupts, requests; and its ACPI tables. */
#include "dev_test.h"

#include "vm/acpi.h"
#include "vm/platform.h"

static struct platform p;

static int setup(void **state)
{
	(void)state;
	platform_init(&p, 256 << 20, RTC_DEFAULT_EPOCH, false);
	return 0;
}

static uint64_t read_bus(bool pio, uint64_t addr, unsigned bytes)
{
	uint64_t v = 0x5555555555555555;

	platform_io(&p, pio, false, addr, bytes, &v, p.now);
	return v;
}

static void write_bus(bool pio, uint64_t addr, unsigned bytes, uint64_t v)
{
	platform_io(&p, pio, true, addr, bytes, &v, p.now);
}

static void set_redirect(unsigned pin, uint32_t low)
{
	write_bus(false, IOAPIC_BASE, 4, 0x10 + 2 * pin);
	write_bus(false, IOAPIC_BASE + 0x10, 4, low);
}

static void unmapped(void **state)
{
	(void)state;
	assert_int_equal(read_bus(true, 0x80, 1), 0xff);
	assert_int_equal(read_bus(true, 0xcfc, 4), 0xffffffff);
	assert_int_equal(read_bus(true, 0xfffe, 4), 0xffffffff);
	assert_true(read_bus(false, 0xfed00000, 8) == UINT64_MAX);
	assert_int_equal(read_bus(false, UINT64_MAX, 2), 0xffff);
	write_bus(true, 0x80, 1, 0x42);
	write_bus(false, UINT64_MAX - 2, 8, 0);
	assert_int_equal(platform_request(&p), PLATFORM_RUN);
}

static void wide_accesses(void **state)
{
	(void)state;
	write_bus(true, 0x21, 1, 0xab);
	assert_int_equal(read_bus(true, 0x21, 2), 0xffab);         /* the second byte is nobody's */
	assert_int_equal(read_bus(true, 0x3f6, 4), 0x0000ffff);    /* ends in the serial port */
	assert_int_equal(read_bus(true, ACPI_PM_CNT_PORT, 2), 1);
	write_bus(true, 0xcf8, 4, 0x80000600);
	assert_int_equal(read_bus(true, 0xcf8, 4), 0xffffffff);
	assert_int_equal(platform_request(&p), PLATFORM_RUN);
}

/* An interrupt of the serial port reaches both controllers. */
static void isa_interrupt(void **state)
{
	uint64_t addr;
	uint32_t data;

	(void)state;
	write_bus(true, 0x20, 1, 0x11);
	write_bus(true, 0x21, 1, 0x20);
	write_bus(true, 0x21, 1, 4);
	write_bus(true, 0x21, 1, 1);
	set_redirect(4, 0x44);
	write_bus(true, 0x3fc, 1, 0x08);
	write_bus(true, 0x3f9, 1, 0x01);
	assert_false(platform_pic_intr(&p));
	assert_int_equal(platform_put_input(&p, (const uint8_t *)"x", 1), 1);
	assert_true(platform_pic_intr(&p));
	assert_int_equal(platform_pic_ack(&p), 0x24);
	assert_true(platform_take_msi(&p, &addr, &data));
	assert_int_equal(addr, 0xfee00000);
	assert_int_equal(data, 0x44);
	assert_false(platform_take_msi(&p, &addr, &data));
	assert_int_equal(read_bus(true, 0x3f8, 1), 'x');
}

/* The interval timer ticks through IOAPIC input 2 at 250 Hz. */
static void timer_interrupt(void **state)
{
	uint64_t next, addr;
	uint32_t data, ticks = 0;

	(void)state;
	set_redirect(2, 0x30);
	write_bus(true, 0x43, 1, 0x34);
	write_bus(true, 0x40, 1, 4773 & 0xff);
	write_bus(true, 0x40, 1, 4773 >> 8);
	for (next = platform_next_event(&p); next < 100 * MS;) {
		next = platform_advance(&p, next);
		while (platform_take_msi(&p, &addr, &data)) {
			assert_int_equal(data, 0x30);
			ticks++;
		}
	}
	assert_int_equal(ticks, 24);
	/* looked at late, it is one interrupt more, not many and not none */
	platform_advance(&p, 10 * SECOND);
	assert_true(platform_take_msi(&p, &addr, &data));
	assert_false(platform_take_msi(&p, &addr, &data));
}

/* A test kernel drives lines through the test device. */
static void driven_lines(void **state)
{
	uint64_t addr;
	uint32_t data;

	(void)state;
	set_redirect(14, 0x77);
	set_redirect(20, 0x8078);
	write_bus(true, 0x200e, 1, 1);
	write_bus(true, 0x200e, 1, 0);
	write_bus(true, 0x2014, 1, 1);
	assert_true(platform_take_msi(&p, &addr, &data));
	assert_int_equal(data, 0x77);
	assert_true(platform_take_msi(&p, &addr, &data));
	assert_int_equal(data, 0xc078);
	platform_eoi(&p, 0x78);
	assert_true(platform_take_msi(&p, &addr, &data));
	write_bus(true, 0x2014, 1, 0);
	platform_eoi(&p, 0x78);
	assert_false(platform_take_msi(&p, &addr, &data));
}

static void requests(void **state)
{
	uint8_t c;

	(void)state;
	write_bus(true, 0x3f8, 1, 'A');
	assert_int_equal(platform_take_output(&p, &c, 1), 1);
	assert_int_equal(c, 'A');
	write_bus(true, ACPI_PM_CNT_PORT, 2, 5 << 10 | 0x2000);
	assert_int_equal(platform_request(&p), PLATFORM_POWER_OFF);
	setup(NULL);
	write_bus(true, 0x64, 1, 0xfe);
	assert_int_equal(platform_request(&p), PLATFORM_RESET);
	setup(NULL);
	write_bus(true, RESET_PORT, 1, RESET_VALUE);
	assert_int_equal(platform_request(&p), PLATFORM_RESET);
	setup(NULL);
	write_bus(true, 0xf4, 1, 0);
	assert_int_equal(platform_request(&p), PLATFORM_DEBUG_EXIT);
	assert_int_equal(platform_debug_code(&p), 1);
}

static void power_button(void **state)
{
	uint64_t addr;
	uint32_t data;

	(void)state;
	set_redirect(9, 0x8039);
	write_bus(true, ACPI_PM_EVT_PORT + 2, 2, 0x0100);
	platform_power_button(&p);
	assert_true(platform_take_msi(&p, &addr, &data));
	assert_int_equal(data, 0xc039);
}

/* ---- ACPI tables, read as a guest would ---- */

static uint8_t tables[4096];
static size_t table_bytes;

static uint8_t sum(const uint8_t *b, size_t bytes)
{
	uint8_t s = 0;

	while (bytes--)
		s = (uint8_t)(s + *b++);
	return s;
}

static const uint8_t *table(uint64_t gpa, const char *signature)
{
	const uint8_t *t = tables + (gpa - ACPI_LOAD_GPA);

	assert_in_range(gpa, ACPI_LOAD_GPA, ACPI_LOAD_GPA + table_bytes - 36);
	assert_memory_equal(t, signature, 4);
	assert_true(get_u32(t + 4) <= table_bytes - (gpa - ACPI_LOAD_GPA));
	if (memcmp(signature, "FACS", 4) != 0)
		assert_int_equal(sum(t, get_u32(t + 4)), 0);
	return t;
}

static void acpi_tables(void **state)
{
	uint64_t rsdp_gpa;
	const uint8_t *xsdt, *rsdt, *fadt, *madt, *dsdt;

	(void)state;
	table_bytes = acpi_build(tables, sizeof(tables), false, ACPI_LOAD_GPA, &rsdp_gpa);
	assert_in_range(table_bytes, 500, 4096);
	assert_int_equal(rsdp_gpa, ACPI_LOAD_GPA);
	assert_memory_equal(tables, "RSD PTR ", 8);
	assert_int_equal(tables[15], 2);
	assert_int_equal(sum(tables, 20), 0);
	assert_int_equal(sum(tables, 36), 0);
	xsdt = table(get_u64(tables + 24), "XSDT");
	rsdt = table(get_u32(tables + 16), "RSDT");
	fadt = table(get_u64(xsdt + 36), "FACP");
	madt = table(get_u64(xsdt + 44), "APIC");
	assert_int_equal(get_u32(rsdt + 36), get_u64(xsdt + 36));
	dsdt = table(get_u64(fadt + 140), "DSDT");
	assert_int_equal(get_u32(fadt + 40), get_u64(fadt + 140));
	table(get_u32(fadt + 36), "FACS");
	assert_int_equal(get_u32(fadt + 36) % 64, 0);
	assert_int_equal(get_u32(fadt + 4), 276);
	assert_int_equal(get_u64(fadt + 120), RESET_PORT);
	assert_int_equal(fadt[128], RESET_VALUE);
	assert_int_equal(get_u32(fadt + 64), ACPI_PM_CNT_PORT);
	assert_int_equal(get_u32(madt + 4), 90);
	assert_non_null(memmem(dsdt, get_u32(dsdt + 4), "\x08_S5_\x12", 6));
}

/* With a PCI bus: its tables, and what Linux looks for in the AML. */
static void acpi_pci(void **state)
{
	uint64_t rsdp_gpa;
	const uint8_t *xsdt, *fadt, *mcfg, *dsdt;

	(void)state;
	table_bytes = acpi_build(tables, sizeof(tables), true, ACPI_LOAD_GPA, &rsdp_gpa);
	assert_in_range(table_bytes, 1000, 4096);
	xsdt = table(get_u64(tables + 24), "XSDT");
	assert_int_equal(get_u32(xsdt + 4), 36 + 3 * 8);
	fadt = table(get_u64(xsdt + 36), "FACP");
	mcfg = table(get_u64(xsdt + 52), "MCFG");
	assert_int_equal(get_u32(mcfg + 4), 60);
	assert_int_equal(get_u64(mcfg + 44), PCI_ECAM_BASE);
	dsdt = table(get_u64(fadt + 140), "DSDT");
	assert_non_null(memmem(dsdt, get_u32(dsdt + 4), "\x08_HID\x0c\x41\xd0\x0a\x08", 10)); /* PNP0A08 */
	assert_non_null(memmem(dsdt, get_u32(dsdt + 4), "\x08_CID\x0c\x41\xd0\x0a\x03", 10));
	assert_non_null(memmem(dsdt, get_u32(dsdt + 4), "\x08_PRT\x12", 6));
	assert_non_null(memmem(dsdt, get_u32(dsdt + 4), "\x86\x09\x00\x01\x00\x00\x00\xe0\x00\x00\x10\x00", 12));
}

/* The bus is there with its first function: its address register, which the reset register lies in. */
static void pci_bus_in_platform(void **state)
{
	static const struct pci_identity id = {.vendor = 0x1234, .device = 0x5678};
	static const struct pci_ops none = {0};
	static struct pci_function fn;
	uint64_t addr;
	uint32_t data;

	(void)state;
	assert_false(platform_has_pci(&p));
	pci_function_init(&fn, &id, &none, NULL);
	pci_add_msix(&fn, 0, 1);
	assert_int_equal(platform_add_pci(&p, &fn), 0);
	assert_true(platform_has_pci(&p));
	write_bus(true, 0xcf8, 4, 0x80000800);
	assert_int_equal(read_bus(true, 0xcf8, 4), 0x80000800);
	assert_int_equal(read_bus(true, 0xcfc, 4), 0x56781234);
	write_bus(true, 0xcfb, 1, 1); /* how Linux looks for the mechanism */
	assert_int_equal(read_bus(true, 0xcf8, 4), 0x80000800);
	assert_int_equal(platform_request(&p), PLATFORM_RUN);
	write_bus(false, PCI_ECAM_BASE + 0x8000 + PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	write_bus(false, PCI_ECAM_BASE + 0x8000 + fn.msix.cap + 2, 2, 0x8000);
	write_bus(false, PCI_WINDOW_BASE, 8, 0xfee00000);
	write_bus(false, PCI_WINDOW_BASE + 8, 8, 0x33);
	pci_msix_raise(&fn, 0);
	assert_true(platform_take_msi(&p, &addr, &data));
	assert_int_equal(data, 0x33);
	write_bus(true, 0xcf9, 1, 6);
	assert_int_equal(platform_request(&p), PLATFORM_RESET);
}

static void acpi_room(void **state)
{
	static uint8_t guarded[4096];
	uint64_t rsdp_gpa;
	size_t need = acpi_build(tables, sizeof(tables), false, ACPI_LOAD_GPA, &rsdp_gpa);

	(void)state;
	for (size_t room = 0; room < need; room++) {
		memset(guarded, 0xee, sizeof(guarded));
		assert_int_equal(acpi_build(guarded, room, false, ACPI_LOAD_GPA, &rsdp_gpa), 0);
		assert_int_equal(guarded[room], 0xee);
	}
	assert_int_equal(acpi_build(guarded, need, false, ACPI_LOAD_GPA, &rsdp_gpa), need);
	assert_memory_equal(guarded, tables, need);
	assert_int_equal(acpi_build(tables, sizeof(tables), false, ACPI_LOAD_GPA + 16, &rsdp_gpa), 0);
	assert_int_equal(acpi_build(tables, sizeof(tables), false, 0xfffff000 + 64, &rsdp_gpa), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(unmapped, setup),
		cmocka_unit_test_setup(wide_accesses, setup),
		cmocka_unit_test_setup(isa_interrupt, setup),
		cmocka_unit_test_setup(timer_interrupt, setup),
		cmocka_unit_test_setup(driven_lines, setup),
		cmocka_unit_test_setup(requests, setup),
		cmocka_unit_test_setup(power_button, setup),
		cmocka_unit_test(acpi_tables),
		cmocka_unit_test(acpi_pci), cmocka_unit_test_setup(pci_bus_in_platform, setup),
		cmocka_unit_test(acpi_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
