/*
 * The machine's buses and interrupt wiring: see platform.h.
 *
 * An access that lies within one range goes to that range's device, byte by byte if
 * the device is 8 bits wide; one that touches a range only in part is split into
 * bytes that find their own way; where nothing answers, reads give all ones.
 *
 * Interrupt lines of all devices are wired together by number, then to the PIC
 * (IRQ 0-15) and to the IOAPIC input of the same number, but for the interval timer
 * (IRQ 0), which is at input 2: input 0 is where a PC has the PIC's output, not
 * wired here.
 */
#include "vm/platform.h"

#include "base/util.h"
#include <assert.h>
#include <errno.h>

/* The list of devices. */
static void list_devices(struct platform *p)
{
	const struct device list[] = {
		serial_device(&p->serial),
		pic_device(&p->pic),
		ioapic_device(&p->ioapic),
		pit_device(&p->pit),
		acpi_pm_device(&p->acpi_pm),
		rtc_device(&p->rtc),
		i8042_device(&p->i8042),
		reset_device(&p->reset),
		debug_exit_device(&p->debug_exit),
		fw_cfg_device(&p->fw_cfg),
		testdev_device(&p->testdev),
	};

	static_assert(ARRAY_SIZE(list) < PLATFORM_DEVICES, "and the PCI bus");
	memcpy(p->device, list, sizeof(list));
	p->devices = ARRAY_SIZE(list);
}

/* ---- interrupts ---- */

static void drive_line(struct platform *p, unsigned irq, bool level)
{
	pic_set_irq(&p->pic, irq, level);
	ioapic_set_pin(&p->ioapic, irq == PIT_IRQ ? PLATFORM_PIT_PIN : irq, level);
}

/* Tells the controllers what changed; a pulse on a line that stays high is a low and a high. */
static void drive_lines(struct platform *p, uint32_t pulses)
{
	uint32_t lines = 0, changed;

	for (unsigned i = 0; i < p->devices; i++)
		lines |= p->levels[i];
	for (changed = lines ^ p->lines; changed; changed &= changed - 1) {
		unsigned irq = (unsigned)__builtin_ctz(changed);

		drive_line(p, irq, lines >> irq & 1);
	}
	for (pulses &= lines & p->lines; pulses; pulses &= pulses - 1) {
		unsigned irq = (unsigned)__builtin_ctz(pulses);

		drive_line(p, irq, false);
		drive_line(p, irq, true);
	}
	p->lines = lines;
}

/* Brings a device to the present and gathers its next event and its interrupt outputs. */
static void refresh_device(struct platform *p, unsigned i)
{
	const struct device *d = &p->device[i];
	uint32_t pulses = 0, levels = p->levels[i];

	if (d->advance)
		p->next[i] = d->advance(d->state, p->now);
	if (d->irq)
		levels = d->irq(d->state, &pulses);
	if (levels == p->levels[i] && !pulses)
		return;
	p->levels[i] = levels;
	drive_lines(p, pulses);
}

static void find_next_event(struct platform *p)
{
	p->next_event = UINT64_MAX;
	for (unsigned i = 0; i < p->devices; i++)
		p->next_event = min_u64(p->next_event, p->next[i]);
}

uint64_t platform_advance(struct platform *p, uint64_t now)
{
	if (now > p->now)
		p->now = now;
	if (p->now < p->next_event)
		return p->next_event;
	for (unsigned i = 0; i < p->devices; i++)
		if (p->next[i] <= p->now)
			refresh_device(p, i);
	find_next_event(p);
	return p->next_event;
}

bool platform_take_msi(struct platform *p, uint64_t *addr, uint32_t *data)
{
	return ioapic_take_message(&p->ioapic, addr, data) || pci_bus_take_msi(&p->pci, addr, data);
}

bool platform_pic_intr(const struct platform *p)
{
	return pic_intr(&p->pic);
}

uint8_t platform_pic_ack(struct platform *p)
{
	return pic_ack(&p->pic);
}

void platform_eoi(struct platform *p, uint8_t vector)
{
	ioapic_eoi(&p->ioapic, vector);
}

/* ---- the bus ---- */

/* The device whose range the whole access lies in, or -1; @partly: the access touches some range. */
static int find_device(const struct platform *p, bool pio, uint64_t addr, unsigned bytes, bool *partly)
{
	*partly = false;
	/* The reset register is within the PCI bus's address register, which takes only whole accesses. */
	if (pio && addr == PCI_ADDRESS_PORT && bytes == 4 && platform_has_pci(p))
		return (int)p->devices - 1;
	for (unsigned i = 0; i < p->devices; i++) {
		for (const struct device_range *r = p->device[i].ranges; r->bytes; r++) {
			if (r->pio != pio)
				continue;
			if (addr - r->base < r->bytes && r->bytes - (addr - r->base) >= bytes)
				return (int)i;
			if (addr - r->base < r->bytes || r->base - addr < bytes)
				*partly = true;
		}
	}
	return -1;
}

static uint64_t low_bytes(uint64_t v, unsigned bytes)
{
	return bytes < 8 ? v & ((1ull << 8 * bytes) - 1) : v;
}

/* One access to one device, or to nothing (-1). */
static void access_device(struct platform *p, int i, bool write, uint64_t addr, unsigned bytes,
			  uint64_t *data)
{
	const struct device *d = i < 0 ? NULL : &p->device[i];

	if (!d)
		*data = write ? *data : low_bytes(~0ull, bytes);
	else if (write)
		d->write(d->state, addr, bytes, low_bytes(*data, bytes), p->now);
	else
		*data = low_bytes(d->read(d->state, addr, bytes, p->now), bytes);
}

static void access_bytes(struct platform *p, bool pio, bool write, uint64_t addr, unsigned bytes,
			 uint64_t *data)
{
	uint64_t whole = 0, one;
	bool partly;

	for (unsigned n = 0; n < bytes; n++) {
		int i = find_device(p, pio, addr + n, 1, &partly);

		one = *data >> 8 * n & 0xff;
		access_device(p, i, write, addr + n, 1, &one);
		whole |= one << 8 * n;
		if (i >= 0)
			refresh_device(p, (unsigned)i);
	}
	if (!write)
		*data = whole;
}

void platform_io(struct platform *p, bool pio, bool write, uint64_t addr, unsigned bytes, uint64_t *data,
		 uint64_t now)
{
	bool partly;
	int i;

	platform_advance(p, now);
	i = find_device(p, pio, addr, bytes, &partly);
	if (i >= 0 ? p->device[i].byte_wide : partly) {
		access_bytes(p, pio, write, addr, bytes, data);
	} else {
		access_device(p, i, write, addr, bytes, data);
		if (i >= 0)
			refresh_device(p, (unsigned)i);
	}
	find_next_event(p);
}

/* ---- the rest ---- */

enum platform_request platform_request(const struct platform *p)
{
	if (p->debug_exit.request != PLATFORM_RUN)
		return p->debug_exit.request;
	if (p->acpi_pm.request != PLATFORM_RUN)
		return p->acpi_pm.request;
	return p->i8042.request != PLATFORM_RUN ? p->i8042.request : p->reset.request;
}

uint32_t platform_debug_code(const struct platform *p)
{
	return p->debug_exit.code;
}

size_t platform_take_output(struct platform *p, uint8_t *buf, size_t bytes)
{
	return serial_take_output(&p->serial, buf, bytes);
}

size_t platform_take_log(struct platform *p, uint8_t *buf, size_t bytes) { return fw_cfg_take_log(&p->fw_cfg, buf, bytes); }

static void refresh_state(struct platform *p, const void *state)
{
	for (unsigned i = 0; i < p->devices; i++)
		if (p->device[i].state == state)
			refresh_device(p, i);
	find_next_event(p);
}

size_t platform_put_input(struct platform *p, const uint8_t *buf, size_t bytes)
{
	size_t n = serial_put_input(&p->serial, buf, bytes);

	refresh_state(p, &p->serial);
	return n;
}

void platform_power_button(struct platform *p)
{
	acpi_pm_power_button(&p->acpi_pm);
	refresh_state(p, &p->acpi_pm);
}

static void add_bus(struct platform *p)
{
	p->next[p->devices] = UINT64_MAX;
	p->device[p->devices++] = pci_bus_device(&p->pci);
}

/* SeaBIOS takes the serial port for its screen and keyboard if it is told so. */
static void tell_firmware(struct platform *p)
{
	static const uint8_t serial_port[8] = {SERIAL_COM1_PORT & 0xff, SERIAL_COM1_PORT >> 8};

	fw_cfg_add_file(&p->fw_cfg, "etc/sercon-port", serial_port, sizeof(serial_port));
	fw_cfg_add_log(&p->fw_cfg);
}

void platform_init(struct platform *p, uint64_t memory, int64_t epoch, bool firmware)
{
	memset(p, 0, sizeof(*p));
	p->runs_firmware = firmware;
	ps2_keyboard_init(&p->keyboard);
	serial_init(&p->serial, SERIAL_COM1_PORT, SERIAL_COM1_IRQ);
	pic_init(&p->pic);
	pit_init(&p->pit);
	ioapic_init(&p->ioapic, PLATFORM_IOAPIC_ID);
	rtc_init(&p->rtc, memory, epoch);
	acpi_pm_init(&p->acpi_pm);
	i8042_init(&p->i8042, firmware ? &p->keyboard : NULL);
	reset_init(&p->reset);
	debug_exit_init(&p->debug_exit);
	fw_cfg_init(&p->fw_cfg, memory);
	if (firmware)
		tell_firmware(p);
	testdev_init(&p->testdev);
	if (firmware)
		pci_bus_init_440fx(&p->pci);
	else
		pci_bus_init(&p->pci);
	list_devices(p);
	if (firmware)
		add_bus(p);
	for (unsigned i = 0; i < p->devices; i++) {
		p->next[i] = UINT64_MAX;
		refresh_device(p, i);
	}
	find_next_event(p);
}

bool platform_has_pci(const struct platform *p) { return p->runs_firmware || p->pci.slots > 1; }

int platform_add_pci(struct platform *p, struct pci_function *fn)
{
	bool first = !platform_has_pci(p);
	int slot = pci_bus_add(&p->pci, fn);

	if (slot < 0)
		return slot;
	if (first)
		add_bus(p);
	return 0;
}

void platform_pci_changed(struct platform *p) { refresh_state(p, &p->pci); }

/* ---- state ---- */

static int platform_check(void *object, struct error *err)
{
	struct platform *p = object;

	for (unsigned i = 0; i < p->devices; i++)
		if (!p->device[i].advance && p->next[i] != UINT64_MAX)
			return error_set(err, -EINVAL, "state of platform: %s has no events", p->device[i].name);
	find_next_event(p);
	return 0;
}

static const struct state_field platform_fields[] = {
	STATE_UV(struct platform, next), STATE_UV(struct platform, levels), STATE_U(struct platform, lines),
	STATE_U_MAX(struct platform, now, DEVICE_TIME_MAX),
};
static const struct state_desc platform_desc = STATE_DESC("platform", 1, platform_fields, .check = platform_check);

unsigned platform_sections(struct platform *p, struct state_object section[PLATFORM_SECTIONS_MAX])
{
	const struct state_object list[] = {
		{"platform", &platform_desc, p}, {"serial", &serial_desc, &p->serial}, {"pic", &pic_desc, &p->pic},
		{"pit", &pit_desc, &p->pit}, {"ioapic", &ioapic_desc, &p->ioapic}, {"rtc", &rtc_desc, &p->rtc},
		{"acpi-pm", &acpi_pm_desc, &p->acpi_pm}, {"i8042", &i8042_desc, &p->i8042},
		{"reset", &reset_desc, &p->reset}, {"fw-cfg", &fw_cfg_desc, &p->fw_cfg},
		{"test-device", &testdev_desc, &p->testdev}, {"pci", &pci_bus_desc, &p->pci},
		{"pci.0", &pci_function_desc, &p->pci.bridge},
	};
	unsigned n = ARRAY_SIZE(list) - (platform_has_pci(p) ? 0 : 2);

	static_assert(ARRAY_SIZE(list) < PLATFORM_SECTIONS_MAX, "room for all, and the keyboard");
	memcpy(section, list, n * sizeof(*list));
	if (p->runs_firmware)
		section[n++] = (struct state_object){"keyboard", &ps2_keyboard_desc, &p->keyboard};
	return n;
}
