/*
 * An I/O APIC: 24 redirection entries, edge and level triggering, remote IRR, the
 * version 0x20 EOI register. Interrupts leave it as messages of the form an MSI
 * has, which the owner takes and gives to the local APIC.
 *
 * An edge on a masked input is lost, as the data sheet says. A sent message counts
 * as accepted, whether or not a local APIC took it. The arbitration ID is a copy
 * of the ID. Left out: ExtINT (the message is sent, but nothing fetches a vector).
 *
 * Source: the 82093AA data sheet; the EOI register from the ICH data sheets.
 */
#include "dev/ioapic.h"

#include <errno.h>

#define VERSION           (0x20u | (IOAPIC_PINS - 1) << 16)

#define REDIR_LOGICAL     (1ull << 11)
#define REDIR_STATUS      (1ull << 12)
#define REDIR_REMOTE_IRR  (1ull << 14)
#define REDIR_LEVEL       (1ull << 15)
#define REDIR_MASKED      (1ull << 16)
#define REDIR_READ_ONLY   (REDIR_STATUS | REDIR_REMOTE_IRR)
#define REDIR_BITS        0xff0000000001ffffull

#define MSI_ADDRESS       0xfee00000ull
#define MSI_ASSERT        (1u << 14)

void ioapic_init(struct ioapic *a, uint8_t id)
{
	memset(a, 0, sizeof(*a));
	a->id = (uint32_t)(id & 15) << 24;
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		a->redirect[i] = REDIR_MASKED;
}

/* Whether input @pin has a message to send, from its entry, level and latched edge. */
static void update_pin(struct ioapic *a, unsigned pin)
{
	uint64_t e = a->redirect[pin];
	uint32_t mask = 1u << pin;
	bool ready;

	if (e & REDIR_MASKED)
		ready = false;
	else if (e & REDIR_LEVEL)
		ready = (a->lines & mask) && !(e & REDIR_REMOTE_IRR);
	else
		ready = a->edges & mask;
	a->ready = ready ? a->ready | mask : a->ready & ~mask;
}

void ioapic_set_pin(struct ioapic *a, unsigned pin, bool level)
{
	uint32_t mask = 1u << (pin & 31);

	if (pin >= IOAPIC_PINS)
		return;
	if (level && !(a->lines & mask) && !(a->redirect[pin] & (REDIR_MASKED | REDIR_LEVEL)))
		a->edges |= mask;
	a->lines = level ? a->lines | mask : a->lines & ~mask;
	update_pin(a, pin);
}

bool ioapic_take_message(struct ioapic *a, uint64_t *addr, uint32_t *data)
{
	unsigned pin;
	uint64_t e;

	if (!a->ready)
		return false;
	pin = (unsigned)__builtin_ctz(a->ready);
	e = a->redirect[pin];
	*addr = MSI_ADDRESS | (e >> 56) << 12 | (e & REDIR_LOGICAL ? 4 : 0);
	*data = (uint32_t)(e & (0x7ff | REDIR_LEVEL)) | (e & REDIR_LEVEL ? MSI_ASSERT : 0);
	if (e & REDIR_LEVEL)
		a->redirect[pin] |= REDIR_REMOTE_IRR;
	a->edges &= ~(1u << pin);
	update_pin(a, pin);
	return true;
}

void ioapic_eoi(struct ioapic *a, uint8_t vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = a->redirect[pin];

		if ((e & REDIR_LEVEL) && (e & REDIR_REMOTE_IRR) && (e & 0xff) == vector) {
			a->redirect[pin] &= ~REDIR_REMOTE_IRR;
			update_pin(a, pin);
		}
	}
}

/* ---- registers ---- */

static uint32_t read_window(const struct ioapic *a)
{
	unsigned pin = (a->select - 0x10) >> 1;

	switch (a->select) {
	case 0:
	case 2:
		return a->id;
	case 1:
		return VERSION;
	default:
		if (a->select < 0x10 || pin >= IOAPIC_PINS)
			return 0;
		return (uint32_t)(a->redirect[pin] >> (a->select & 1 ? 32 : 0));
	}
}

/* Making an input edge-triggered forgets a level interrupt in service, and an edge seen before. */
static void write_redirect(struct ioapic *a, unsigned pin, bool high, uint32_t v)
{
	uint64_t old = a->redirect[pin], e;

	if (high)
		e = (old & 0xffffffff) | (uint64_t)v << 32;
	else
		e = (old & ~0xffffffffull) | v;
	e = (e & REDIR_BITS & ~REDIR_READ_ONLY) | (old & REDIR_READ_ONLY);
	if (!(e & REDIR_LEVEL))
		e &= ~REDIR_REMOTE_IRR;
	else
		a->edges &= ~(1u << pin);
	a->redirect[pin] = e;
	update_pin(a, pin);
}

static void write_window(struct ioapic *a, uint32_t v)
{
	unsigned pin = (a->select - 0x10) >> 1;

	if (a->select == 0)
		a->id = v & 0x0f000000;
	else if (a->select >= 0x10 && pin < IOAPIC_PINS)
		write_redirect(a, pin, a->select & 1, v);
}

static uint64_t ioapic_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct ioapic *a = state;
	uint64_t v = 0;

	(void)now;
	if (addr == IOAPIC_BASE)
		v = a->select;
	else if (addr == IOAPIC_BASE + 0x10)
		v = read_window(a);
	return bytes < 8 ? v & ((1ull << 8 * bytes) - 1) : v;
}

static void ioapic_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct ioapic *a = state;

	(void)bytes;
	(void)now;
	if (addr == IOAPIC_BASE)
		a->select = v & 0xff;
	else if (addr == IOAPIC_BASE + 0x10)
		write_window(a, (uint32_t)v);
	else if (addr == IOAPIC_BASE + 0x40)
		ioapic_eoi(a, (uint8_t)v);
}

struct device ioapic_device(struct ioapic *a)
{
	static const struct device_range ranges[] = { { false, IOAPIC_BASE, 0x1000 }, { false, 0, 0 } };

	return (struct device){ .name = "ioapic", .state = a, .ranges = ranges,
				.read = ioapic_read, .write = ioapic_write };
}

/* ---- state ---- */

static int ioapic_check(void *object, struct error *err)
{
	struct ioapic *a = object;

	a->ready = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if (a->redirect[pin] & ~REDIR_BITS)
			return error_set(err, -EINVAL, "state of ioapic: redirection entry %u is %#llx", pin,
					 (unsigned long long)a->redirect[pin]);
		update_pin(a, pin);
	}
	return a->id & ~0x0f000000u ? error_set(err, -EINVAL, "state of ioapic: ID %#x", a->id) : 0;
}

#define PINS_MAX ((1u << IOAPIC_PINS) - 1)
static const struct state_field ioapic_fields[] = {
	STATE_U(struct ioapic, id), STATE_U_MAX(struct ioapic, select, 0xff), STATE_U_MAX(struct ioapic, lines, PINS_MAX),
	STATE_U_MAX(struct ioapic, edges, PINS_MAX), STATE_UV(struct ioapic, redirect),
};
const struct state_desc ioapic_desc = STATE_DESC("ioapic", 1, ioapic_fields, .check = ioapic_check);
