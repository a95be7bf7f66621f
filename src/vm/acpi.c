/*
 * ACPI tables: see acpi.h. The DSDT is assembled by hand: the little AML it needs is
 * a sleep state, three devices, and a PCI bus if there is one. Same machine, same bytes.
 *
 * Left out: everything a processor driver or power management would ask for.
 * Source: the ACPI specification 6.x, "ACPI Software Programming Model" and "ACPI
 * Machine Language (AML) Specification"; the PCI Firmware Specification, "MCFG".
 */
#include "vm/acpi.h"

#include "cpu/lapic.h"
#include "vm/platform.h"

#define HEADER_BYTES 36
#define RSDP_BYTES   36
#define FACS_BYTES   64
#define FADT_BYTES   276 /* revision 6 */

/*
 * A buffer being filled. What does not fit is dropped and counted, so that the builders
 * need no checks of their own.
 */
struct out {
	uint8_t *buf;
	size_t room, used; /* used may be more than room: too small */
	uint64_t gpa;      /* of buf[0] */
};

static void put(struct out *o, const void *data, size_t bytes)
{
	if (o->used + bytes <= o->room)
		memcpy(o->buf + o->used, data, bytes);
	o->used += bytes;
}

/* Little-endian number of @bytes bytes. */
static void put_number(struct out *o, uint64_t v, unsigned bytes)
{
	uint8_t b[8];

	put_u64(b, v);
	put(o, b, bytes);
}

static void put_zeros(struct out *o, size_t bytes)
{
	while (bytes--)
		put_number(o, 0, 1);
}

static void align(struct out *o, size_t to) { put_zeros(o, -o->used & (to - 1)); }
static uint64_t here(const struct out *o) { return o->gpa + o->used; }

/* Changes what is already there. */
static void patch(struct out *o, size_t at, uint64_t v, unsigned bytes)
{
	uint8_t b[8];

	put_u64(b, v);
	if (at + bytes <= o->room && at + bytes <= o->used)
		memcpy(o->buf + at, b, bytes);
}

/* Makes the bytes from @start on add up to 0, through the byte at @at. */
static void put_checksum(struct out *o, size_t start, size_t bytes, size_t at)
{
	uint8_t sum = 0;

	if (o->used > o->room)
		return;
	o->buf[at] = 0;
	for (size_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + o->buf[start + i]);
	o->buf[at] = (uint8_t)-sum;
}

/* ---- tables with the common header ---- */

static size_t begin_table(struct out *o, const char *signature, uint8_t revision)
{
	size_t start;

	align(o, 16);
	start = o->used;
	put(o, signature, 4);
	put_zeros(o, 4); /* length */
	put_number(o, revision, 1);
	put_zeros(o, 1); /* checksum */
	put(o, "GNOMON", 6);
	put(o, "GNOMONPC", 8);
	put_number(o, 1, 4);
	put(o, "GNMN", 4);
	put_number(o, 1, 4);
	return start;
}

/* Returns the table's guest-physical address. */
static uint64_t end_table(struct out *o, size_t start)
{
	size_t bytes = o->used - start;

	patch(o, start + 4, bytes, 4);
	put_checksum(o, start, bytes, start + 9);
	return o->gpa + start;
}

/* ---- AML ---- */

enum {
	AML_NAME = 0x08, AML_BYTE = 0x0a, AML_DWORD = 0x0c, AML_SCOPE = 0x10, AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12, AML_EXT = 0x5b, AML_DEVICE = 0x82,
};

/* Package length of what follows: two bytes, to be filled in by aml_end(). */
static size_t aml_begin(struct out *o)
{
	size_t start = o->used;

	put_zeros(o, 2);
	return start;
}

static void aml_end(struct out *o, size_t start)
{
	size_t bytes = o->used - start;

	patch(o, start, 0x40 | (bytes & 15) | (bytes >> 4 & 0xff) << 8, 2);
}

static void aml_name(struct out *o, const char *name)
{
	put_number(o, AML_NAME, 1);
	put(o, name, 4);
}

static void aml_byte(struct out *o, uint8_t v)
{
	put_number(o, AML_BYTE, 1);
	put_number(o, v, 1);
}

/* A plug-and-play ID "PNPxxxx" as the number EISA makes of it: letters 5 bits each, digits 4. */
static void aml_pnp_id(struct out *o, uint16_t product)
{
	uint8_t id[4] = { ('P' - 64) << 2 | ('N' - 64) >> 3, (uint8_t)(('N' - 64) << 5 | ('P' - 64)),
			  (uint8_t)(product >> 8), (uint8_t)product };

	put_number(o, AML_DWORD, 1);
	put(o, id, 4);
}

/* Resources of a device on the ISA bus: ports and an edge-triggered interrupt. */
struct isa_resources {
	uint16_t port, ports;
	unsigned irq;
};

/* Resource descriptors: I/O port, IRQ without flags, end tag (without checksum). */
static void aml_resources(struct out *o, const struct isa_resources *r)
{
	size_t start;

	aml_name(o, "_CRS");
	put_number(o, AML_BUFFER, 1);
	start = aml_begin(o);
	aml_byte(o, 8 + 3 + 2);
	put_number(o, 0x0147, 2); /* 16-bit decoded ports */
	put_number(o, r->port, 2);
	put_number(o, r->port, 2);
	put_number(o, 1, 1);
	put_number(o, r->ports, 1);
	put_number(o, 0x22, 1);
	put_number(o, 1u << r->irq, 2);
	put_number(o, 0x0079, 2);
	aml_end(o, start);
}

static void aml_isa_device(struct out *o, const char *name, uint16_t pnp, const struct isa_resources *r)
{
	size_t start;

	put_number(o, AML_EXT, 1);
	put_number(o, AML_DEVICE, 1);
	start = aml_begin(o);
	put(o, name, 4);
	aml_name(o, "_HID");
	aml_pnp_id(o, pnp);
	aml_name(o, "_UID");
	aml_byte(o, 1);
	aml_resources(o, r);
	aml_end(o, start);
}

/* \_S5 = { SLP_TYPa, SLP_TYPb, 0, 0 } */
static void aml_soft_off(struct out *o)
{
	size_t start;

	aml_name(o, "_S5_");
	put_number(o, AML_PACKAGE, 1);
	start = aml_begin(o);
	put_number(o, 4, 1);
	aml_byte(o, ACPI_PM_S5_TYPE);
	aml_byte(o, ACPI_PM_S5_TYPE);
	aml_byte(o, 0);
	aml_byte(o, 0);
	aml_end(o, start);
}

/* ---- the PCI bus ---- */

/* A device's header; what it has follows, then aml_end(). */
static size_t aml_device(struct out *o, const char *name)
{
	size_t start;

	put_number(o, AML_EXT, 1);
	put_number(o, AML_DEVICE, 1);
	start = aml_begin(o);
	put(o, name, 4);
	return start;
}

/* _CRS of @bytes of descriptors, an end tag included; they follow, then aml_end(). */
static size_t aml_crs(struct out *o, uint8_t bytes)
{
	size_t start;

	aml_name(o, "_CRS");
	put_number(o, AML_BUFFER, 1);
	start = aml_begin(o);
	aml_byte(o, bytes);
	return start;
}

#define END_TAG       0x0079
#define BUS_BYTES     16
#define IO_BYTES      8
#define MEMORY_BYTES  26
#define FIXED_BYTES   12
#define WINDOW_FIXED  0x0c /* of an address space: minimum and maximum are what they are */

/* What the host bridge decodes: bus 0, its two ports, the memory window. */
static void aml_bridge_resources(struct out *o)
{
	size_t start = aml_crs(o, BUS_BYTES + IO_BYTES + MEMORY_BYTES + 2);

	put_number(o, 0x000d88, 3); /* word address space */
	put_number(o, 2 | WINDOW_FIXED << 8, 3);
	for (unsigned i = 0; i < 4; i++)
		put_number(o, 0, 2); /* granularity, first and last bus, translation */
	put_number(o, 1, 2);
	put_number(o, 0x0147, 2); /* 16-bit decoded ports */
	put_number(o, PCI_ADDRESS_PORT, 2);
	put_number(o, PCI_ADDRESS_PORT, 2);
	put_number(o, 1 | 8 << 8, 2);
	put_number(o, 0x001787, 3); /* double-word address space */
	put_number(o, 0 | WINDOW_FIXED << 8 | 1 << 16, 3); /* memory, read and write */
	put_number(o, 0, 4);
	put_number(o, PCI_WINDOW_BASE, 4);
	put_number(o, PCI_WINDOW_BASE + PCI_WINDOW_BYTES - 1, 4);
	put_number(o, 0, 4);
	put_number(o, PCI_WINDOW_BYTES, 4);
	put_number(o, END_TAG, 2);
	aml_end(o, start);
}

/* _PRT: INTA of each slot goes straight to an input of the IOAPIC. */
static void aml_routes(struct out *o)
{
	size_t start, route;

	aml_name(o, "_PRT");
	put_number(o, AML_PACKAGE, 1);
	start = aml_begin(o);
	put_number(o, PCI_SLOTS - 1, 1);
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		put_number(o, AML_PACKAGE, 1);
		route = aml_begin(o);
		put_number(o, 4, 1);
		put_number(o, AML_DWORD, 1);
		put_number(o, slot << 16 | 0xffff, 4);
		aml_byte(o, 0);
		aml_byte(o, 0);
		aml_byte(o, (uint8_t)(PCI_IRQ_FIRST + slot % PCI_IRQS));
		aml_end(o, route);
	}
	aml_end(o, start);
}

static void aml_bridge(struct out *o)
{
	size_t start = aml_device(o, "PCI0");

	aml_name(o, "_HID");
	aml_pnp_id(o, 0x0a08);
	aml_name(o, "_CID");
	aml_pnp_id(o, 0x0a03);
	aml_name(o, "_UID");
	aml_byte(o, 0);
	aml_bridge_resources(o);
	aml_routes(o);
	aml_end(o, start);
}

/* The memory of the memory-mapped configuration space is a motherboard resource: Linux looks there. */
static void aml_ecam(struct out *o)
{
	size_t start = aml_device(o, "MRES"), crs;

	aml_name(o, "_HID");
	aml_pnp_id(o, 0x0c02);
	crs = aml_crs(o, FIXED_BYTES + 2);
	put_number(o, 0x01000986, 4); /* fixed memory range: 9 more bytes, writable */
	put_number(o, PCI_ECAM_BASE, 4);
	put_number(o, PCI_ECAM_BYTES, 4);
	put_number(o, END_TAG, 2);
	aml_end(o, crs);
	aml_end(o, start);
}

static uint64_t build_mcfg(struct out *o)
{
	size_t t = begin_table(o, "MCFG", 1);

	put_zeros(o, 8);
	put_number(o, PCI_ECAM_BASE, 8);
	put_zeros(o, 8); /* segment 0, buses 0 to 0 */
	return end_table(o, t);
}

static uint64_t build_dsdt(struct out *o, bool pci)
{
	size_t table = begin_table(o, "DSDT", 2), scope;

	aml_soft_off(o);
	put_number(o, AML_SCOPE, 1);
	scope = aml_begin(o);
	put(o, "_SB_", 4);
	aml_isa_device(o, "COM1", 0x0501, &(struct isa_resources){ SERIAL_COM1_PORT, 8, SERIAL_COM1_IRQ });
	aml_isa_device(o, "RTC_", 0x0b00, &(struct isa_resources){ RTC_PORT, 2, RTC_IRQ });
	aml_isa_device(o, "TIMR", 0x0100, &(struct isa_resources){ 0x40, 4, PIT_IRQ });
	if (pci) {
		aml_bridge(o);
		aml_ecam(o);
	}
	aml_end(o, scope);
	return end_table(o, table);
}

/* ---- fixed tables ---- */

static uint64_t build_facs(struct out *o)
{
	uint64_t gpa;

	align(o, 64);
	gpa = here(o);
	put(o, "FACS", 4);
	put_number(o, FACS_BYTES, 4);
	put_zeros(o, 24);
	put_number(o, 2, 1); /* version */
	put_zeros(o, FACS_BYTES - 33);
	return gpa;
}

/* Generic address of an I/O port: @access is log2(bytes) + 1. */
static void patch_port(struct out *o, size_t at, uint16_t port, unsigned bytes, unsigned access)
{
	patch(o, at, 1 | 8 * bytes << 8 | access << 24, 4);
	patch(o, at + 4, port, 8);
}

/* Offsets in the FADT ("Fixed ACPI Description Table"). */
enum {
	FADT_FACS = 36, FADT_DSDT = 40, FADT_SCI = 46, FADT_PM1A_EVT = 56, FADT_PM1A_CNT = 64,
	FADT_PM_TMR = 76, FADT_PM1_EVT_LEN = 88, FADT_PM1_CNT_LEN = 89, FADT_PM_TMR_LEN = 91,
	FADT_C2_LATENCY = 96, FADT_C3_LATENCY = 98, FADT_CENTURY = 108, FADT_BOOT_ARCH = 109,
	FADT_FLAGS = 112, FADT_RESET_REG = 116, FADT_RESET_VALUE = 128, FADT_X_DSDT = 140,
	FADT_X_PM1A_EVT = 148, FADT_X_PM1A_CNT = 172, FADT_X_PM_TMR = 208,
};

#define BOOT_LEGACY_DEVICES (1u << 0)
#define BOOT_NO_VGA         (1u << 2)
#define FLAG_WBINVD         (1u << 0)
#define FLAG_PROC_C1        (1u << 2)
#define FLAG_NO_SLEEP_BTN   (1u << 5)
#define FLAG_NO_RTC_WAKE    (1u << 6)
#define FLAG_TIMER_32       (1u << 8)
#define FLAG_RESET_REG      (1u << 10)

static uint64_t build_fadt(struct out *o, uint64_t facs, uint64_t dsdt)
{
	size_t t = begin_table(o, "FACP", 6);

	put_zeros(o, FADT_BYTES - HEADER_BYTES);
	patch(o, t + FADT_FACS, facs, 4);
	patch(o, t + FADT_DSDT, dsdt, 4);
	patch(o, t + FADT_SCI, ACPI_PM_SCI, 2);
	patch(o, t + FADT_PM1A_EVT, ACPI_PM_EVT_PORT, 4);
	patch(o, t + FADT_PM1A_CNT, ACPI_PM_CNT_PORT, 4);
	patch(o, t + FADT_PM_TMR, ACPI_PM_TMR_PORT, 4);
	patch(o, t + FADT_PM1_EVT_LEN, 4, 1);
	patch(o, t + FADT_PM1_CNT_LEN, 2, 1);
	patch(o, t + FADT_PM_TMR_LEN, 4, 1);
	patch(o, t + FADT_C2_LATENCY, 0xfff, 2); /* no such states */
	patch(o, t + FADT_C3_LATENCY, 0xfff, 2);
	patch(o, t + FADT_CENTURY, RTC_CENTURY, 1);
	patch(o, t + FADT_BOOT_ARCH, BOOT_LEGACY_DEVICES | BOOT_NO_VGA, 2);
	patch(o, t + FADT_FLAGS, FLAG_WBINVD | FLAG_PROC_C1 | FLAG_NO_SLEEP_BTN | FLAG_NO_RTC_WAKE |
	      FLAG_TIMER_32 | FLAG_RESET_REG, 4);
	patch_port(o, t + FADT_RESET_REG, RESET_PORT, 1, 1);
	patch(o, t + FADT_RESET_VALUE, RESET_VALUE, 1);
	patch(o, t + FADT_X_DSDT, dsdt, 8);
	patch_port(o, t + FADT_X_PM1A_EVT, ACPI_PM_EVT_PORT, 4, 2);
	patch_port(o, t + FADT_X_PM1A_CNT, ACPI_PM_CNT_PORT, 2, 2);
	patch_port(o, t + FADT_X_PM_TMR, ACPI_PM_TMR_PORT, 4, 3);
	return end_table(o, t);
}

/* An ISA interrupt that is not wired to the input of its number, or is no active-high edge. */
static void put_override(struct out *o, unsigned irq, unsigned pin, unsigned flags)
{
	put_number(o, 2 | 10 << 8, 2);
	put_number(o, irq << 8, 2); /* bus 0, IRQ */
	put_number(o, pin, 4);
	put_number(o, flags, 2);
}

static uint64_t build_madt(struct out *o)
{
	size_t t = begin_table(o, "APIC", 4);

	put_number(o, LAPIC_DEFAULT_BASE, 4);
	put_number(o, 1, 4);            /* there is a PIC, too */
	put_number(o, 0 | 8 << 8, 2);   /* local APIC: processor 0, ID 0, enabled */
	put_number(o, 0, 2);
	put_number(o, 1, 4);
	put_number(o, 1 | 12 << 8, 2);  /* IOAPIC, from interrupt 0 on */
	put_number(o, PLATFORM_IOAPIC_ID, 2);
	put_number(o, IOAPIC_BASE, 4);
	put_number(o, 0, 4);
	put_override(o, PIT_IRQ, PLATFORM_PIT_PIN, 0);
	put_override(o, ACPI_PM_SCI, ACPI_PM_SCI, 0x0d); /* level-triggered, active high */
	put_number(o, 4 | 6 << 8, 2);   /* NMI at LINT1 of all processors */
	put_number(o, 0xff, 1);
	put_number(o, 0, 2);
	put_number(o, 1, 1);
	return end_table(o, t);
}

/* @mcfg: 0: there is none */
static uint64_t build_directory(struct out *o, const char *signature, unsigned pointer_bytes, uint64_t fadt,
				uint64_t madt, uint64_t mcfg)
{
	size_t t = begin_table(o, signature, 1);

	put_number(o, fadt, pointer_bytes);
	put_number(o, madt, pointer_bytes);
	if (mcfg)
		put_number(o, mcfg, pointer_bytes);
	return end_table(o, t);
}

/* Fills in the RSDP, whose place is at the start of the buffer. */
static void build_rsdp(struct out *o, uint64_t rsdt, uint64_t xsdt)
{
	static const char head[] = "RSD PTR \0GNOMON\2"; /* signature, checksum, OEM ID, revision */

	if (o->used > o->room)
		return;
	memcpy(o->buf, head, 16);
	patch(o, 16, rsdt, 4);
	patch(o, 20, RSDP_BYTES, 4);
	patch(o, 24, xsdt, 8);
	put_checksum(o, 0, 20, 8);
	put_checksum(o, 0, RSDP_BYTES, 32);
}

size_t acpi_build(uint8_t *buf, size_t bytes, bool pci, uint64_t load_gpa, uint64_t *rsdp_gpa)
{
	struct out o = { .buf = buf, .room = bytes, .gpa = load_gpa };
	uint64_t facs, dsdt, fadt, madt, mcfg, rsdt, xsdt;

	if (load_gpa % 64 || load_gpa + bytes > 1ull << 32 || load_gpa + bytes < load_gpa)
		return 0;
	put_zeros(&o, RSDP_BYTES);
	facs = build_facs(&o);
	dsdt = build_dsdt(&o, pci);
	fadt = build_fadt(&o, facs, dsdt);
	madt = build_madt(&o);
	mcfg = pci ? build_mcfg(&o) : 0;
	rsdt = build_directory(&o, "RSDT", 4, fadt, madt, mcfg);
	xsdt = build_directory(&o, "XSDT", 8, fadt, madt, mcfg);
	build_rsdp(&o, rsdt, xsdt);
	if (o.used > o.room)
		return 0;
	*rsdp_gpa = load_gpa;
	return o.used;
}
