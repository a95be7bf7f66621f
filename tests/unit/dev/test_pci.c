/* The PCI bus: configuration space both ways, BARs, capabilities, MSI-X, interrupt pins. */
#include "dev_test.h"

#include "dev/pci.h"

#include <errno.h>

struct toy {
	struct pci_function fn;
	uint32_t offset;
	unsigned bytes, reads, writes;
	uint64_t last;
};

static uint64_t toy_read(void *state, unsigned bar, uint32_t offset, unsigned bytes, uint64_t now)
{
	struct toy *t = state;

	(void)now;
	t->reads++;
	t->bytes = bytes;
	return 0x1000000 * bar + offset;
}

static void toy_write(void *state, unsigned bar, uint32_t offset, unsigned bytes, uint64_t v, uint64_t now)
{
	struct toy *t = state;

	(void)bar, (void)now;
	t->writes++;
	t->offset = offset;
	t->bytes = bytes;
	t->last = v;
}

static struct pci_bus bus;
static struct device dev;
static struct toy toy[2];

#define CONFIG(slot, at) (PCI_ECAM_BASE + 0x8000ull * (slot) + (at))

static uint64_t rd(uint64_t a, unsigned bytes) { return dev.read(dev.state, a, bytes, 0); }
static void wr(uint64_t a, unsigned bytes, uint64_t v) { dev.write(dev.state, a, bytes, v, 0); }

static int setup(void **state)
{
	static const struct pci_ops ops = {.bar_read = toy_read, .bar_write = toy_write};
	static const struct pci_identity id = {.vendor = 0x1234, .device = 0x5678, .revision = 9,
					       .class_code = 0x010203, .subsystem_vendor = 0xaaaa,
					       .subsystem = 0xbbbb};

	(void)state;
	memset(toy, 0, sizeof(toy));
	pci_bus_init(&bus);
	for (unsigned i = 0; i < 2; i++) {
		pci_function_init(&toy[i].fn, &id, &ops, &toy[i]);
		pci_add_bar(&toy[i].fn, 0, 0x1000);
		pci_add_msix(&toy[i].fn, 1, 3);
		assert_int_equal(pci_bus_add(&bus, &toy[i].fn), i + 1);
	}
	dev = pci_bus_device(&bus);
	return 0;
}

static uint64_t config_port(unsigned slot, unsigned at, unsigned bytes)
{
	wr(PCI_ADDRESS_PORT, 4, 0x80000000u | slot << 11 | (at & 0xfc));
	return rd(PCI_DATA_PORT + (at & 3), bytes);
}

static void identity(void **state)
{
	(void)state;
	assert_int_equal(config_port(1, PCI_VENDOR_ID, 4), 0x56781234);
	assert_int_equal(config_port(1, PCI_DEVICE_ID, 2), 0x5678);
	assert_int_equal(config_port(1, PCI_REVISION, 4), 0x01020309);
	assert_int_equal(config_port(1, PCI_SUBSYSTEM_VENDOR, 4), 0xbbbbaaaa);
	assert_int_equal(config_port(0, 0x0a, 2), 0x0600); /* the host bridge, which Linux looks for */
	assert_int_equal(config_port(3, PCI_VENDOR_ID, 4), 0xffffffff);
	assert_int_equal(rd(CONFIG(1, 0), 4), 0x56781234);
	assert_int_equal(rd(CONFIG(1, 0) + 0x1000, 4), 0xffffffff); /* function 1 */
	assert_int_equal(rd(CONFIG(1, 0x100), 4), 0);               /* no extended capabilities */
	wr(CONFIG(1, 0), 4, 0);
	assert_int_equal(rd(CONFIG(1, 0), 4), 0x56781234);
	/* Another bus; the address without its enable bit; an access to it that is not whole. */
	wr(PCI_ADDRESS_PORT, 4, 0x80010000);
	assert_int_equal(rd(PCI_DATA_PORT, 4), 0xffffffff);
	wr(PCI_ADDRESS_PORT, 4, 0x00000800);
	assert_int_equal(rd(PCI_DATA_PORT, 4), 0xffffffff);
	wr(PCI_ADDRESS_PORT, 2, 0x1234);
	assert_int_equal(rd(PCI_ADDRESS_PORT, 4), 0x00000800);
	assert_int_equal(rd(PCI_ADDRESS_PORT, 1), 0xff);
}

static void bars(void **state)
{
	uint64_t first = rd(CONFIG(1, PCI_BAR0), 4), second = rd(CONFIG(2, PCI_BAR0), 4);

	(void)state;
	assert_int_equal(first % 0x1000, 0);
	assert_in_range(first, PCI_WINDOW_BASE, PCI_WINDOW_BASE + PCI_WINDOW_BYTES - 1);
	assert_int_not_equal(first, second);
	/* Decoding is off until software turns it on. */
	assert_int_equal(rd(first + 8, 4), 0xffffffff);
	wr(CONFIG(1, PCI_COMMAND), 2, 0xffff);
	assert_int_equal(rd(CONFIG(1, PCI_COMMAND), 2), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX);
	assert_int_equal(rd(first + 8, 4), 8);
	wr(first + 0x10, 2, 0xabcd);
	assert_int_equal(toy[0].last, 0xabcd);
	assert_int_equal(toy[0].offset, 0x10);
	/* Sizing; one that does not exist. */
	wr(CONFIG(1, PCI_BAR0), 4, 0xffffffff);
	assert_int_equal(rd(CONFIG(1, PCI_BAR0), 4), 0xfffff000);
	wr(CONFIG(1, PCI_BAR0 + 8), 4, 0xffffffff);
	assert_int_equal(rd(CONFIG(1, PCI_BAR0 + 8), 4), 0);
	/* Moved; and out of what the bridge decodes, over another function, byte by byte. */
	wr(CONFIG(1, PCI_BAR0), 4, 0xd1234567);
	assert_int_equal(rd(0xd1234008, 4), 8);
	assert_int_equal(rd(first + 8, 4), 0xffffffff);
	wr(CONFIG(1, PCI_BAR0), 4, 0);
	assert_int_equal(rd(0xd1234008, 4), 0xffffffff);
	wr(CONFIG(1, PCI_BAR0 + 3), 1, 0xc5);
	assert_int_equal(rd(0xc5000ff8, 8), 0xff8);
	wr(CONFIG(2, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	wr(CONFIG(1, PCI_BAR0), 4, second);
	assert_int_equal(rd(second, 4), 0);
	assert_int_equal(toy[1].reads, 0);
}

/* What firmware finds: the bridge it knows, and BARs that it has yet to place, wherever no RAM is. */
static void as_firmware_finds_it(void **state)
{
	(void)state;
	pci_bus_init_440fx(&bus);
	pci_function_init(&toy[0].fn, &(struct pci_identity){.vendor = 0x1234}, toy[0].fn.ops, &toy[0]);
	pci_add_bar(&toy[0].fn, 0, 0x1000);
	assert_int_equal(pci_bus_add(&bus, &toy[0].fn), 1);
	dev = pci_bus_device(&bus);
	assert_int_equal(config_port(0, PCI_VENDOR_ID, 4), 0x12378086);
	assert_int_equal(config_port(0, PCI_SUBSYSTEM_VENDOR, 4), 0x11001af4);
	wr(PCI_ADDRESS_PORT, 4, 0x80000058);
	assert_int_equal(rd(PCI_DATA_PORT, 4), 0); /* no RAM is shadowed yet, as the registers have it */
	wr(PCI_DATA_PORT, 4, 0xffffffff);
	assert_int_equal(rd(PCI_DATA_PORT, 4), 0x33333300);
	assert_int_equal(config_port(1, PCI_BAR0, 4), 0);
	wr(PCI_DATA_PORT, 4, PCI_ECAM_BASE); /* it has no ECAM there */
	wr(PCI_ADDRESS_PORT, 4, 0x80000800 + PCI_COMMAND);
	wr(PCI_DATA_PORT, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(rd(PCI_ECAM_BASE + 0x18, 4), 0x18);
	assert_int_equal(dev.ranges[2].base, PCI_440FX_BASE);
	assert_int_equal(dev.ranges[2].base + dev.ranges[2].bytes, PCI_440FX_END);
}

static void edges_of_config_space(void **state)
{
	(void)state;
	for (unsigned at = 0xf8; at < 0x1000; at++)
		for (unsigned bytes = 1; bytes <= 8; bytes++) {
			wr(CONFIG(1, at), bytes, ~0ull);
			rd(CONFIG(1, at), bytes);
		}
	assert_int_equal(rd(CONFIG(1, 0xfc), 8), 0);
}

static void capabilities(void **state)
{
	unsigned at = (unsigned)rd(CONFIG(1, PCI_CAP_POINTER), 1);

	(void)state;
	assert_true(rd(CONFIG(1, PCI_STATUS), 2) & PCI_STATUS_CAPS);
	assert_int_equal(rd(CONFIG(1, at), 2), PCI_CAP_MSIX); /* and no next one */
	assert_int_equal(rd(CONFIG(1, at + 2), 2), 2);        /* three vectors */
	assert_int_equal(rd(CONFIG(1, at + 4), 4), 1);        /* table: BAR 1, offset 0 */
	assert_int_equal(rd(CONFIG(1, at + 8), 4), 0x801);
	assert_false(rd(CONFIG(0, PCI_STATUS), 2) & PCI_STATUS_CAPS);
}

static void msix(void **state)
{
	unsigned control = (unsigned)rd(CONFIG(1, PCI_CAP_POINTER), 1) + 2;
	uint64_t table = rd(CONFIG(1, PCI_BAR0 + 4), 4), addr;
	uint32_t data;

	(void)state;
	wr(CONFIG(1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_msix_raise(&toy[0].fn, 0);
	assert_false(pci_bus_take_msi(&bus, &addr, &data)); /* off */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(rd(table + 16 * i + 12, 4), 1); /* masked after reset */
		wr(table + 16 * i, 4, 0xfee01000);
		wr(table + 16 * i + 4, 4, 0);
		wr(table + 16 * i + 8, 4, 0x40 + i);
	}
	wr(CONFIG(1, control), 2, 0xffff);
	assert_int_equal(rd(CONFIG(1, control), 2), 0xc002);
	wr(table + 16 + 12, 4, 0xfffffffe); /* vector 1: unmasked, nothing else can be set */
	assert_int_equal(rd(table + 16 + 12, 4), 0);
	pci_msix_raise(&toy[0].fn, 1);
	pci_msix_raise(&toy[0].fn, 2);
	pci_msix_raise(&toy[0].fn, 3); /* there is none */
	assert_false(pci_bus_take_msi(&bus, &addr, &data)); /* the function is masked */
	assert_int_equal(rd(table + 0x800, 8), 6);
	wr(table + 0x800, 8, 0);
	assert_int_equal(rd(table + 0x800, 4), 6); /* read-only */
	wr(CONFIG(1, control), 2, 0x8000);
	assert_true(pci_bus_take_msi(&bus, &addr, &data));
	assert_int_equal(addr, 0xfee01000);
	assert_int_equal(data, 0x41);
	assert_false(pci_bus_take_msi(&bus, &addr, &data)); /* vector 2 is masked itself */
	assert_int_equal(rd(table + 0x800, 8), 4);
	wr(CONFIG(1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	wr(table + 32 + 12, 4, 0);
	assert_false(pci_bus_take_msi(&bus, &addr, &data)); /* no right to write memory */
	wr(CONFIG(1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(pci_bus_take_msi(&bus, &addr, &data));
	assert_int_equal(data, 0x42);
	assert_int_equal(rd(table + 0x800, 8), 0);
	/* Anywhere in the BAR, up to its last byte. */
	for (unsigned at = 0; at <= 0xff8; at++)
		wr(table + at, 8, ~0ull);
	assert_int_equal(rd(table + 0xff8, 8), 0);
	assert_int_equal(rd(table + 48, 8), 0); /* behind the last vector */
}

static void pin(void **state)
{
	uint32_t pulses;

	(void)state;
	assert_int_equal(rd(CONFIG(1, PCI_INTERRUPT_PIN), 1), 1);
	assert_int_equal(dev.irq(dev.state, &pulses), 0);
	toy[0].fn.intx = true;
	assert_int_equal(dev.irq(dev.state, &pulses), 1u << (PCI_IRQ_FIRST + 1));
	assert_true(rd(CONFIG(1, PCI_STATUS), 2) & PCI_STATUS_INTERRUPT);
	wr(CONFIG(1, PCI_COMMAND), 2, PCI_COMMAND_NO_INTX);
	assert_int_equal(dev.irq(dev.state, &pulses), 0);
	assert_true(rd(CONFIG(1, PCI_STATUS), 2) & PCI_STATUS_INTERRUPT);
	wr(CONFIG(1, PCI_COMMAND), 2, 0);
	wr(CONFIG(1, (unsigned)rd(CONFIG(1, PCI_CAP_POINTER), 1) + 2), 2, 0x8000);
	assert_int_equal(dev.irq(dev.state, &pulses), 0);
	toy[1].fn.intx = true;
	assert_int_equal(dev.irq(dev.state, &pulses), 1u << (PCI_IRQ_FIRST + 2));
}

static void full_bus(void **state)
{
	static struct pci_function fn[PCI_SLOTS];
	static const struct pci_ops none = {0};
	static const struct pci_identity id = {.vendor = 1};

	(void)state;
	for (unsigned i = 3; i <= PCI_SLOTS; i++) {
		pci_function_init(&fn[i - 1], &id, &none, NULL);
		pci_add_bar(&fn[i - 1], 5, 0x100000);
		assert_int_equal(pci_bus_add(&bus, &fn[i - 1]), i < PCI_SLOTS ? (int)i : -ENOSPC);
	}
	assert_int_equal(rd(CONFIG(31, 0), 4), 1);
	wr(CONFIG(31, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	/* A device without device memory behind its BAR. */
	assert_int_equal(rd(rd(CONFIG(31, PCI_BAR0 + 20), 4), 4), 0xffffffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(identity, setup), cmocka_unit_test_setup(bars, setup),
		cmocka_unit_test_setup(as_firmware_finds_it, setup),
		cmocka_unit_test_setup(edges_of_config_space, setup), cmocka_unit_test_setup(capabilities, setup),
		cmocka_unit_test_setup(msix, setup), cmocka_unit_test_setup(pin, setup),
		cmocka_unit_test_setup(full_bus, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
