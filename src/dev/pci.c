/*
 * The PCI bus and its host bridge: see pci.h.
 *
 * Left out: bridges and further buses, functions other than 0, port and 64-bit BARs, expansion ROMs, MSI without X,
 * power management, error reporting (what no device answers reads as all ones and is no error), PCI Express beyond
 * the memory-mapped way to configuration space. Of the 440FX: its registers but for those of the shadow RAM (PAM), which
 * are remembered and have no effect: the RAM below 1 MiB is always there and can be written.
 * Source: PCI Local Bus Specification 3.0, "Configuration Space"; PCI Firmware Specification, "MCFG"; Intel 440FX PCIset,
 * "PMC Register Description".
 */
#include "dev/pci_impl.h"

#include <errno.h>

#define HOST_BRIDGE_VENDOR 0x1b36 /* a generic host bridge that drivers know nothing special of */
#define HOST_BRIDGE_DEVICE 0x0008
#define HOST_BRIDGE_CLASS  0x060000u

/* Intel's 82441FX, on a board that firmware takes for QEMU's: then it looks for fw_cfg. */
#define PMC_VENDOR          0x8086
#define PMC_DEVICE          0x1237
#define PMC_REVISION        2
#define PMC_SUBSYSTEM_VENDOR 0x1af4
#define PMC_SUBSYSTEM       0x1100
#define PMC_PAM             0x59
#define PMC_PAMS            7
#define PMC_PAM_BITS        0x33 /* read enable and write enable of two segments each */

#define FIRST_CAPABILITY 0x40
#define ADDRESS_ENABLE   0x80000000u
#define BAR_BYTES_MIN    16u
#define BAR_BYTES_MAX    0x100000u

static uint64_t low_bytes(uint64_t v, unsigned bytes)
{
	return bytes < 8 ? v & ((1ull << 8 * bytes) - 1) : v;
}

/* ---- a function ---- */

void pci_function_init(struct pci_function *fn, const struct pci_identity *id, const struct pci_ops *ops, void *state)
{
	memset(fn, 0, sizeof(*fn));
	fn->ops = ops;
	fn->state = state;
	fn->cap_next = FIRST_CAPABILITY;
	put_u16(fn->config + PCI_VENDOR_ID, id->vendor);
	put_u16(fn->config + PCI_DEVICE_ID, id->device);
	put_u16(fn->config + PCI_SUBSYSTEM_VENDOR, id->subsystem_vendor);
	put_u16(fn->config + PCI_SUBSYSTEM_ID, id->subsystem);
	put_u32(fn->config + PCI_REVISION, id->revision | id->class_code << 8);
	put_u16(fn->writable + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX);
	fn->writable[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_add_bar(struct pci_function *fn, unsigned bar, uint32_t bytes)
{
	assert(bar < PCI_BARS && bytes >= BAR_BYTES_MIN && bytes <= BAR_BYTES_MAX && !(bytes & (bytes - 1)));
	fn->bar_bytes[bar] = bytes;
	put_u32(fn->writable + PCI_BAR0 + 4 * bar, -bytes);
}

uint8_t pci_add_capability(struct pci_function *fn, uint8_t id, unsigned bytes, const void *body)
{
	uint8_t at = fn->cap_next;

	assert(bytes >= 2 && at + bytes <= PCI_CONFIG_BYTES - 4);
	fn->config[at] = id;
	fn->config[fn->cap_last ? fn->cap_last + 1 : PCI_CAP_POINTER] = at;
	memcpy(fn->config + at + 2, body, bytes - 2);
	fn->config[PCI_STATUS] |= PCI_STATUS_CAPS;
	fn->cap_last = at;
	fn->cap_next = (uint8_t)(at + ((bytes + 3) & ~3u));
	return at;
}

/* ---- configuration space ---- */

static bool pin_asserted(const struct pci_function *fn)
{
	return fn->intx && !pci_msix_enabled(fn) &&
	       !(get_u16(fn->config + PCI_COMMAND) & PCI_COMMAND_NO_INTX);
}

/* @at + @bytes may reach past the 256 bytes there are: what is there reads as zeros. */
static uint64_t config_read(struct pci_function *fn, unsigned at, unsigned bytes, uint64_t now)
{
	uint64_t v = 0;

	if (fn->ops->config_read && at < PCI_CONFIG_BYTES)
		fn->ops->config_read(fn->state, at, bytes, now);
	fn->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
	if (fn->intx)
		fn->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	for (unsigned i = 0; i < bytes && at + i < PCI_CONFIG_BYTES; i++)
		v |= (uint64_t)fn->config[at + i] << 8 * i;
	return v;
}

static void config_write(struct pci_function *fn, unsigned at, unsigned bytes, uint64_t v, uint64_t now)
{
	for (unsigned i = 0; i < bytes && at + i < PCI_CONFIG_BYTES; i++) {
		uint8_t can = fn->writable[at + i];

		fn->config[at + i] = (uint8_t)((fn->config[at + i] & ~can) | (v >> 8 * i & can));
	}
	if (fn->ops->config_written && at < PCI_CONFIG_BYTES)
		fn->ops->config_written(fn->state, at, bytes, now);
}

/* The function that an address in configuration space belongs to: bus, device and function from bit @shift on. */
static struct pci_function *function_at(const struct pci_bus *bus, uint64_t address, unsigned shift)
{
	uint64_t number = address >> shift; /* bus << 8 | device << 3 | function */

	return number >> 8 || number & 7 ? NULL : bus->fn[number >> 3];
}

static uint64_t port_read(struct pci_bus *bus, uint64_t port, unsigned bytes, uint64_t now)
{
	struct pci_function *fn;

	if (port == PCI_ADDRESS_PORT && bytes == 4)
		return bus->address;
	if (port < PCI_DATA_PORT || !(bus->address & ADDRESS_ENABLE))
		return ~0ull;
	fn = function_at(bus, bus->address & 0xffffff, 8);
	return fn ? config_read(fn, (bus->address & 0xfc) + (unsigned)(port - PCI_DATA_PORT), bytes, now) : ~0ull;
}

static void port_write(struct pci_bus *bus, uint64_t port, unsigned bytes, uint64_t v, uint64_t now)
{
	struct pci_function *fn;

	if (port == PCI_ADDRESS_PORT && bytes == 4)
		bus->address = (uint32_t)v & (ADDRESS_ENABLE | 0xfffffc);
	if (port < PCI_DATA_PORT || !(bus->address & ADDRESS_ENABLE))
		return;
	fn = function_at(bus, bus->address & 0xffffff, 8);
	if (fn)
		config_write(fn, (bus->address & 0xfc) + (unsigned)(port - PCI_DATA_PORT), bytes, v, now);
}

static uint64_t ecam_read(struct pci_bus *bus, uint64_t offset, unsigned bytes, uint64_t now)
{
	struct pci_function *fn = function_at(bus, offset, 12);

	return fn ? config_read(fn, offset & 0xfff, bytes, now) : ~0ull;
}

static void ecam_write(struct pci_bus *bus, uint64_t offset, unsigned bytes, uint64_t v, uint64_t now)
{
	struct pci_function *fn = function_at(bus, offset, 12);

	if (fn)
		config_write(fn, offset & 0xfff, bytes, v, now);
}

/* ---- device memory ---- */

/* The function and BAR that decode all of an access; NULL if none does. */
static struct pci_function *decode(const struct pci_bus *bus, uint64_t addr, unsigned bytes, unsigned *bar,
				   uint32_t *offset)
{
	for (unsigned slot = 1; slot < bus->slots; slot++) {
		struct pci_function *fn = bus->fn[slot];

		if (!(get_u16(fn->config + PCI_COMMAND) & PCI_COMMAND_MEMORY))
			continue;
		for (*bar = 0; *bar < PCI_BARS; ++*bar) {
			uint64_t at = addr - get_u32(fn->config + PCI_BAR0 + 4 * *bar);

			if (at >= fn->bar_bytes[*bar] || fn->bar_bytes[*bar] - at < bytes)
				continue;
			*offset = (uint32_t)at;
			return fn;
		}
	}
	return NULL;
}

static uint64_t memory_read(struct pci_bus *bus, uint64_t addr, unsigned bytes, uint64_t now)
{
	uint32_t offset;
	unsigned bar;
	struct pci_function *fn = decode(bus, addr, bytes, &bar, &offset);

	if (fn && fn->msix.vectors && bar == fn->msix.bar)
		return pci_msix_read(fn, offset, bytes);
	return fn && fn->ops->bar_read ? fn->ops->bar_read(fn->state, bar, offset, bytes, now) : ~0ull;
}

static void memory_write(struct pci_bus *bus, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	uint32_t offset;
	unsigned bar;
	struct pci_function *fn = decode(bus, addr, bytes, &bar, &offset);

	if (fn && fn->msix.vectors && bar == fn->msix.bar)
		pci_msix_write(fn, offset, bytes, v);
	else if (fn && fn->ops->bar_write)
		fn->ops->bar_write(fn->state, bar, offset, bytes, v, now);
}

/* ---- the bus as a device of the platform ---- */

static bool has_ecam(const struct pci_bus *bus, uint64_t addr)
{
	return !bus->is_440fx && addr - PCI_ECAM_BASE < PCI_ECAM_BYTES;
}

static uint64_t bus_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	uint64_t v;

	if (addr < 0x10000)
		v = port_read(state, addr, bytes, now);
	else
		v = has_ecam(state, addr) ? ecam_read(state, addr - PCI_ECAM_BASE, bytes, now)
				  : memory_read(state, addr, bytes, now);
	return low_bytes(v, bytes);
}

static void bus_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	if (addr < 0x10000)
		port_write(state, addr, bytes, v, now);
	else if (has_ecam(state, addr))
		ecam_write(state, addr - PCI_ECAM_BASE, bytes, v, now);
	else
		memory_write(state, addr, bytes, v, now);
}

static uint64_t bus_advance(void *state, uint64_t now)
{
	const struct pci_bus *bus = state;
	uint64_t next = UINT64_MAX;

	for (unsigned slot = 1; slot < bus->slots; slot++) {
		struct pci_function *fn = bus->fn[slot];

		next = min_u64(next, fn->ops->advance ? fn->ops->advance(fn->state, now) : UINT64_MAX);
	}
	return next;
}

static uint32_t bus_irq(void *state, uint32_t *pulses)
{
	const struct pci_bus *bus = state;
	uint32_t levels = 0;

	*pulses = 0;
	for (unsigned slot = 1; slot < bus->slots; slot++)
		levels |= (uint32_t)pin_asserted(bus->fn[slot]) << (PCI_IRQ_FIRST + slot % PCI_IRQS);
	return levels;
}

bool pci_bus_take_msi(struct pci_bus *bus, uint64_t *addr, uint32_t *data)
{
	for (unsigned slot = 1; slot < bus->slots; slot++)
		if (pci_msix_take(bus->fn[slot], addr, data))
			return true;
	return false;
}

/* ---- making it ---- */

void pci_bus_init(struct pci_bus *bus)
{
	static const struct pci_identity bridge = {.vendor = HOST_BRIDGE_VENDOR, .device = HOST_BRIDGE_DEVICE,
						   .class_code = HOST_BRIDGE_CLASS};
	static const struct pci_ops none = {0};

	memset(bus, 0, sizeof(*bus));
	bus->bar_next = PCI_WINDOW_BASE;
	pci_function_init(&bus->bridge, &bridge, &none, NULL);
	bus->bridge.writable[PCI_INTERRUPT_LINE] = 0;
	bus->fn[0] = &bus->bridge;
	bus->slots = 1;
}

void pci_bus_init_440fx(struct pci_bus *bus)
{
	static const struct pci_identity bridge = {.vendor = PMC_VENDOR, .device = PMC_DEVICE, .revision = PMC_REVISION,
						   .subsystem_vendor = PMC_SUBSYSTEM_VENDOR, .subsystem = PMC_SUBSYSTEM,
						   .class_code = HOST_BRIDGE_CLASS};
	static const struct pci_ops none = {0};

	pci_bus_init(bus);
	bus->is_440fx = true;
	pci_function_init(&bus->bridge, &bridge, &none, NULL);
	bus->bridge.writable[PCI_INTERRUPT_LINE] = 0;
	memset(bus->bridge.writable + PMC_PAM, PMC_PAM_BITS, PMC_PAMS);
}

/* Naturally aligned, one after the other. */
static void assign_bars(struct pci_function *fn, uint64_t *next)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint64_t bytes = fn->bar_bytes[i];

		if (!bytes)
			continue;
		*next = (*next + bytes - 1) & -bytes;
		put_u32(fn->config + PCI_BAR0 + 4 * i, (uint32_t)*next);
		*next += bytes;
	}
}

int pci_bus_add(struct pci_bus *bus, struct pci_function *fn)
{
	uint64_t next = bus->bar_next;

	if (bus->slots == PCI_SLOTS)
		return -ENOSPC;
	if (!bus->is_440fx)
		assign_bars(fn, &next);
	assert(next <= PCI_WINDOW_BASE + PCI_WINDOW_BYTES); /* 31 functions with 6 BARs of at most 1 MiB */
	fn->config[PCI_INTERRUPT_PIN] = 1;
	bus->bar_next = next;
	bus->fn[bus->slots] = fn;
	return (int)bus->slots++;
}

struct device pci_bus_device(struct pci_bus *bus)
{
	static const struct device_range ranges[] = {
		{true, PCI_ADDRESS_PORT, 4}, {true, PCI_DATA_PORT, 4}, {false, PCI_ECAM_BASE, PCI_ECAM_BYTES},
		{false, PCI_WINDOW_BASE, PCI_WINDOW_BYTES}, {false, 0, 0},
	};
	static const struct device_range of_440fx[] = {
		{true, PCI_ADDRESS_PORT, 4}, {true, PCI_DATA_PORT, 4},
		{false, PCI_440FX_BASE, PCI_440FX_END - PCI_440FX_BASE}, {false, 0, 0},
	};

	return (struct device){.name = "pci", .state = bus, .ranges = bus->is_440fx ? of_440fx : ranges, .read = bus_read, .write = bus_write,
			       .advance = bus_advance, .irq = bus_irq};
}

/* ---- state ---- */

static void function_prepare(void *object)
{
	struct pci_function *fn = object;

	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
		fn->software[i] = fn->config[i] & fn->writable[i];
}

static int function_check(void *object, struct error *err)
{
	struct pci_function *fn = object;

	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
		if (fn->software[i] & ~fn->writable[i])
			return error_set(err, -EINVAL, "state of pci-function: byte %#x of configuration space is %#x", i,
					 fn->software[i]);
		fn->config[i] = (uint8_t)((fn->config[i] & ~fn->writable[i]) | fn->software[i]);
	}
	return pci_msix_check(&fn->msix, err);
}

static const struct state_field msix_fields[] = {
	STATE_DATA(struct pci_msix, table), STATE_U_MAX(struct pci_msix, pending, (1u << PCI_MSIX_MAX) - 1),
};
static const struct state_desc msix_desc = STATE_DESC("msix", 1, msix_fields);

static const struct state_field function_fields[] = {
	STATE_DATA(struct pci_function, software), STATE_B(struct pci_function, intx),
	STATE_S(struct pci_function, msix, &msix_desc),
};
const struct state_desc pci_function_desc = STATE_DESC("pci-function", 1, function_fields, .prepare = function_prepare,
						       .check = function_check);

static int bus_check(void *object, struct error *err)
{
	const struct pci_bus *bus = object;

	if (bus->address & ~(ADDRESS_ENABLE | 0xfffffc))
		return error_set(err, -EINVAL, "state of pci: address register %#x", bus->address);
	return 0;
}

static const struct state_field bus_fields[] = {STATE_U(struct pci_bus, address)};
const struct state_desc pci_bus_desc = STATE_DESC("pci", 1, bus_fields, .check = bus_check);
