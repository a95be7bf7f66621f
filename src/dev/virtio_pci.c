/*
 * Virtio over PCI, the modern transport: the structures of version 1 in a memory BAR, a page each, and the
 * capabilities that point to them, among them the way to them through configuration space alone. Interrupts by
 * MSI-X (a vector for the configuration, one a queue) or by the pin and the ISR register.
 *
 * Left out: the legacy interface, notification data, resetting one queue, shared memory.
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Virtio Over PCI Bus".
 */
#include "dev/virtio_pci.h"

#define VENDOR          0x1af4
#define DEVICE_FIRST    0x1040 /* plus the device type */
#define REVISION        1

#define BAR_STRUCTURES  0
#define BAR_MSIX        2
#define REGION_BYTES    0x1000u
enum { REGION_COMMON, REGION_ISR, REGION_DEVICE, REGION_NOTIFY, REGIONS };
#define NOTIFY_MULTIPLIER 4u

enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI = 5 };
/* Offsets in a capability */
enum { CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_DATA = 16 };

enum { /* struct virtio_pci_common_cfg */
	OFFERED_SELECT = 0x00, OFFERED = 0x04, ACCEPTED_SELECT = 0x08, ACCEPTED = 0x0c, CONFIG_VECTOR = 0x10,
	QUEUES = 0x12, STATUS = 0x14, GENERATION = 0x15, QUEUE_SELECT = 0x16, QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a, QUEUE_ENABLE = 0x1c, QUEUE_NOTIFY_OFF = 0x1e, QUEUE_DESC = 0x20, QUEUE_AVAIL = 0x28,
	QUEUE_USED = 0x30, COMMON_BYTES = 0x38,
};

#define NO_VECTOR   0xffff
#define ISR_QUEUE   1u
#define ISR_CONFIG  2u

/* ---- interrupts ---- */

static void raise(struct virtio_pci *t, uint16_t vector, uint8_t isr)
{
	t->v->interrupts++;
	if (pci_msix_enabled(&t->fn)) {
		if (vector != NO_VECTOR)
			pci_msix_raise(&t->fn, vector);
	} else {
		t->isr |= isr;
		t->fn.intx = true;
	}
}

void virtio_pci_collect(struct virtio_pci *t)
{
	struct virtio *v = t->v;

	for (uint32_t left = v->queue_interrupts; left; left &= left - 1)
		raise(t, t->queue_vector[__builtin_ctz(left)], ISR_QUEUE);
	if (v->config_interrupt)
		raise(t, t->config_vector, ISR_CONFIG);
	v->queue_interrupts = 0;
	v->config_interrupt = false;
}

/* Reading it acknowledges the interrupt. */
static uint64_t read_isr(struct virtio_pci *t)
{
	uint8_t isr = t->isr;

	t->isr = 0;
	t->fn.intx = false;
	return isr;
}

/* ---- the common structure ---- */

static struct virtq *selected(struct virtio_pci *t)
{
	return t->queue_select < t->v->ops->queues ? &t->v->queue[t->queue_select] : NULL;
}

static uint32_t half(uint64_t v, uint32_t select)
{
	return select < 2 ? (uint32_t)(v >> 32 * select) : 0;
}

/* What a driver sees there; with a queue selected that does not exist, zeros. */
static void fill_common(struct virtio_pci *t, uint8_t *c)
{
	const struct virtq *q = selected(t);

	put_u32(c + OFFERED_SELECT, t->offered_select);
	put_u32(c + OFFERED, half(t->v->offered, t->offered_select));
	put_u32(c + ACCEPTED_SELECT, t->accepted_select);
	put_u32(c + ACCEPTED, half(t->v->accepted, t->accepted_select));
	put_u16(c + CONFIG_VECTOR, t->config_vector);
	put_u16(c + QUEUES, (uint16_t)t->v->ops->queues);
	c[STATUS] = t->v->status;
	c[GENERATION] = t->v->generation;
	put_u16(c + QUEUE_SELECT, t->queue_select);
	if (!q)
		return;
	put_u16(c + QUEUE_SIZE, q->size);
	put_u16(c + QUEUE_VECTOR, t->queue_vector[t->queue_select]);
	put_u16(c + QUEUE_ENABLE, q->enabled);
	put_u16(c + QUEUE_NOTIFY_OFF, t->queue_select);
	put_u64(c + QUEUE_DESC, q->desc);
	put_u64(c + QUEUE_AVAIL, q->avail);
	put_u64(c + QUEUE_USED, q->used);
}

static uint64_t read_common(struct virtio_pci *t, uint32_t offset)
{
	uint8_t c[REGION_BYTES + 8] = {0};

	fill_common(t, c);
	return get_u64(c + offset);
}

static void accept(struct virtio_pci *t, uint32_t v)
{
	uint64_t keep = t->v->accepted;

	if (t->accepted_select == 0)
		virtio_accept(t->v, (keep & ~0xffffffffull) | v);
	else if (t->accepted_select == 1)
		virtio_accept(t->v, (keep & 0xffffffffull) | (uint64_t)v << 32);
}

static void forget_vectors(struct virtio_pci *t)
{
	t->config_vector = NO_VECTOR;
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		t->queue_vector[i] = NO_VECTOR;
}

static void set_status(struct virtio_pci *t, uint8_t status)
{
	virtio_set_status(t->v, status);
	if (status)
		return;
	t->offered_select = t->accepted_select = 0;
	t->queue_select = 0;
	forget_vectors(t);
	read_isr(t);
}

static uint16_t checked_vector(const struct virtio_pci *t, uint64_t v)
{
	return (v & 0xffff) < t->fn.msix.vectors ? (uint16_t)v : NO_VECTOR;
}

static void set_size(struct virtq *q, uint64_t v)
{
	if (v && v <= VIRTQ_SIZE_MAX) /* whether it is a power of two is seen when the queue is turned on */
		q->size = (uint16_t)v;
}

/* A part of a 64-bit address: all of it, its low or its high half. */
static void set_address(uint64_t *address, unsigned at, unsigned bytes, uint64_t v)
{
	if (bytes == 8 && at == 0)
		*address = v;
	else if (bytes == 4 && at == 0)
		*address = (*address & ~0xffffffffull) | v;
	else if (bytes == 4 && at == 4)
		*address = (*address & 0xffffffffull) | v << 32;
}

/* A queue that is on stays as it is until the device is reset. */
static void write_queue(struct virtio_pci *t, uint32_t offset, unsigned bytes, uint64_t v)
{
	struct virtq *q = selected(t);

	if (!q)
		return;
	if (offset == QUEUE_VECTOR && bytes == 2)
		t->queue_vector[t->queue_select] = checked_vector(t, v);
	if (q->enabled)
		return;
	if (offset == QUEUE_SIZE && bytes == 2)
		set_size(q, v);
	else if (offset == QUEUE_ENABLE && bytes == 2 && v == 1)
		virtio_enable_queue(t->v, t->queue_select);
	else if (offset >= QUEUE_USED)
		set_address(&q->used, offset - QUEUE_USED, bytes, v);
	else if (offset >= QUEUE_AVAIL)
		set_address(&q->avail, offset - QUEUE_AVAIL, bytes, v);
	else if (offset >= QUEUE_DESC)
		set_address(&q->desc, offset - QUEUE_DESC, bytes, v);
}

/* Registers are written whole, as drivers have to; anything else vanishes. */
static void write_common(struct virtio_pci *t, uint32_t offset, unsigned bytes, uint64_t v)
{
	if (offset == OFFERED_SELECT && bytes == 4)
		t->offered_select = (uint32_t)v;
	else if (offset == ACCEPTED_SELECT && bytes == 4)
		t->accepted_select = (uint32_t)v;
	else if (offset == ACCEPTED && bytes == 4)
		accept(t, (uint32_t)v);
	else if (offset == CONFIG_VECTOR && bytes == 2)
		t->config_vector = checked_vector(t, v);
	else if (offset == STATUS && bytes == 1)
		set_status(t, (uint8_t)v);
	else if (offset == QUEUE_SELECT && bytes == 2)
		t->queue_select = (uint16_t)v;
	else if (offset >= QUEUE_SIZE && offset < COMMON_BYTES)
		write_queue(t, offset, bytes, v);
}

/* ---- the device's own configuration ---- */

static uint64_t read_device(struct virtio_pci *t, uint32_t offset)
{
	uint8_t c[VIRTIO_CONFIG_MAX + 8] = {0};

	if (offset >= t->v->ops->config_bytes)
		return 0;
	if (t->v->ops->config_read)
		t->v->ops->config_read(t->v);
	memcpy(c, t->v->config, t->v->ops->config_bytes);
	return get_u64(c + offset);
}

static void write_device(struct virtio_pci *t, uint32_t offset, unsigned bytes, uint64_t v)
{
	struct virtio *d = t->v;

	if (!d->ops->config_written || offset + bytes > d->ops->config_bytes)
		return;
	memcpy(d->config + offset, &v, bytes);
	d->ops->config_written(d, offset, bytes);
}

/* ---- the BAR ---- */

static uint64_t bar_read(void *state, unsigned bar, uint32_t offset, unsigned bytes, uint64_t now)
{
	struct virtio_pci *t = state;
	uint32_t in = offset % REGION_BYTES;
	uint64_t v = 0;

	(void)now;
	if (bar != BAR_STRUCTURES)
		return 0;
	if (offset / REGION_BYTES == REGION_COMMON)
		v = read_common(t, in);
	else if (offset / REGION_BYTES == REGION_ISR && in == 0)
		v = read_isr(t);
	else if (offset / REGION_BYTES == REGION_DEVICE)
		v = read_device(t, in);
	return bytes < 8 ? v & ((1ull << 8 * bytes) - 1) : v;
}

static void ring_doorbell(struct virtio_pci *t, unsigned queue, uint64_t now)
{
	t->v->doorbells++;
	virtio_ring(t->v, queue, now);
}

static void bar_write(void *state, unsigned bar, uint32_t offset, unsigned bytes, uint64_t v, uint64_t now)
{
	struct virtio_pci *t = state;
	uint32_t in = offset % REGION_BYTES;

	if (bar != BAR_STRUCTURES)
		return;
	if (offset / REGION_BYTES == REGION_COMMON)
		write_common(t, in, bytes, v);
	else if (offset / REGION_BYTES == REGION_DEVICE)
		write_device(t, in, bytes, v);
	else if (offset / REGION_BYTES == REGION_NOTIFY)
		ring_doorbell(t, in / NOTIFY_MULTIPLIER, now);
	virtio_pci_collect(t);
}

/* ---- configuration space ---- */

/* Does an access to configuration space touch the window to the BARs, and does what it shows make sense? */
static bool window(const struct virtio_pci *t, unsigned at, unsigned bytes, unsigned *bar, uint32_t *offset,
		   unsigned *length)
{
	const uint8_t *cap = t->fn.config + t->cfg_cap;

	*bar = cap[CAP_BAR];
	*offset = get_u32(cap + CAP_OFFSET);
	*length = get_u32(cap + CAP_LENGTH);
	if (at >= t->cfg_cap + CAP_DATA + 4u || at + bytes <= t->cfg_cap + CAP_DATA + 0u)
		return false;
	return *bar == BAR_STRUCTURES && (*length == 1 || *length == 2 || *length == 4) && !(*offset % *length) &&
	       *offset < REGIONS * REGION_BYTES;
}

static void config_read(void *state, unsigned at, unsigned bytes, uint64_t now)
{
	struct virtio_pci *t = state;
	unsigned bar, length;
	uint32_t offset;

	if (window(t, at, bytes, &bar, &offset, &length))
		put_u32(t->fn.config + t->cfg_cap + CAP_DATA, (uint32_t)bar_read(t, bar, offset, length, now));
}

static void config_written(void *state, unsigned at, unsigned bytes, uint64_t now)
{
	struct virtio_pci *t = state;
	unsigned bar, length;
	uint32_t offset;
	uint64_t v;

	if (!window(t, at, bytes, &bar, &offset, &length))
		return;
	v = get_u32(t->fn.config + t->cfg_cap + CAP_DATA);
	bar_write(t, bar, offset, length, v & ((1ull << 8 * length) - 1), now);
}

/* Without the right to access memory the device waits. */
static uint64_t advance(void *state, uint64_t now)
{
	struct virtio_pci *t = state;
	uint64_t next = pci_is_master(&t->fn) ? virtio_advance(t->v, now) : UINT64_MAX;

	virtio_pci_collect(t);
	return next;
}

/* ---- making it ---- */

static uint8_t add_structure(struct virtio_pci *t, uint8_t type, uint32_t offset, uint32_t length, unsigned bytes)
{
	uint8_t body[CAP_DATA + 4 - 2] = {0};

	body[0] = (uint8_t)bytes;
	body[1] = type;
	body[CAP_BAR - 2] = BAR_STRUCTURES;
	put_u32(body + CAP_OFFSET - 2, offset);
	put_u32(body + CAP_LENGTH - 2, length);
	if (type == CAP_NOTIFY)
		put_u32(body + CAP_DATA - 2, NOTIFY_MULTIPLIER);
	return pci_add_capability(&t->fn, PCI_CAP_VENDOR, bytes, body);
}

/* Bar, offset, length and data of the window can be written. */
static void add_window(struct virtio_pci *t)
{
	uint8_t *w;

	t->cfg_cap = add_structure(t, CAP_PCI, 0, 0, CAP_DATA + 4);
	w = t->fn.writable + t->cfg_cap;
	w[CAP_BAR] = 0xff;
	memset(w + CAP_OFFSET, 0xff, CAP_DATA + 4 - CAP_OFFSET);
}

void virtio_pci_init(struct virtio_pci *t, struct virtio *v)
{
	static const struct pci_ops ops = {.bar_read = bar_read, .bar_write = bar_write, .config_read = config_read,
					   .config_written = config_written, .advance = advance};
	const struct pci_identity id = {
		.vendor = VENDOR, .device = (uint16_t)(DEVICE_FIRST + v->ops->id), .revision = REVISION,
		.subsystem_vendor = VENDOR, .subsystem = v->ops->id, .class_code = v->ops->pci_class,
	};

	memset(t, 0, sizeof(*t));
	t->v = v;
	pci_function_init(&t->fn, &id, &ops, t);
	pci_add_bar(&t->fn, BAR_STRUCTURES, REGIONS * REGION_BYTES);
	pci_add_msix(&t->fn, BAR_MSIX, v->ops->queues + 1);
	add_structure(t, CAP_COMMON, REGION_COMMON * REGION_BYTES, COMMON_BYTES, CAP_DATA);
	add_structure(t, CAP_ISR, REGION_ISR * REGION_BYTES, 1, CAP_DATA);
	if (v->ops->config_bytes)
		add_structure(t, CAP_DEVICE, REGION_DEVICE * REGION_BYTES, v->ops->config_bytes, CAP_DATA);
	add_structure(t, CAP_NOTIFY, REGION_NOTIFY * REGION_BYTES, NOTIFY_MULTIPLIER * v->ops->queues, CAP_DATA + 4);
	add_window(t);
	forget_vectors(t);
}

/* State. */
static const struct state_field virtio_pci_fields[] = {
	STATE_S(struct virtio_pci, fn, &pci_function_desc), STATE_U(struct virtio_pci, offered_select),
	STATE_U(struct virtio_pci, accepted_select), STATE_U(struct virtio_pci, queue_select),
	STATE_U(struct virtio_pci, config_vector), STATE_UV(struct virtio_pci, queue_vector),
	STATE_U_MAX(struct virtio_pci, isr, ISR_QUEUE | ISR_CONFIG),
};
const struct state_desc virtio_pci_desc = STATE_DESC("virtio-pci", 1, virtio_pci_fields);
