/*
 * A guest for tests of virtio devices: a piece of RAM, a driver that sets up rings in it, and the PCI bus that leads
 * to the device. RAM is exactly as large as it says, so that the sanitizers see what goes past it.
 */
#ifndef TESTS_UNIT_DEV_VIRTIO_RIG_H
#define TESTS_UNIT_DEV_VIRTIO_RIG_H

#include "dev/virtio_pci.h"

#include <errno.h>
#include <stdlib.h>

#define RIG_RAM_BASE  0x100000ull
#define RIG_RAM_BYTES 0x80000ull
#define RIG_BAR       0xd0000000ull /* where the tests put BAR 0 of slot 1 */
#define RIG_MSIX      0xd0010000ull /* BAR 2 */

enum { RIG_NEXT = 1, RIG_WRITE = 2, RIG_INDIRECT = 4 };

struct rig {
	uint8_t *ram;
	struct dma dma;
	unsigned refused;    /* accesses outside RAM that the device tried all the same */
	uint64_t released;   /* bytes */
	struct pci_bus bus;
	struct device pci;
	struct virtio_pci t;
	uint64_t now;
};

static inline bool rig_is_ram(void *ctx, uint64_t a, uint64_t bytes)
{
	(void)ctx;
	return !bytes || (a - RIG_RAM_BASE < RIG_RAM_BYTES && bytes <= RIG_RAM_BYTES - (a - RIG_RAM_BASE));
}

static inline int rig_dma_read(void *ctx, uint64_t a, void *buf, uint64_t bytes)
{
	struct rig *r = ctx;

	if (!rig_is_ram(ctx, a, bytes)) {
		r->refused++;
		return -EFAULT;
	}
	memcpy(buf, r->ram + (a - RIG_RAM_BASE), bytes);
	return 0;
}

static inline int rig_dma_write(void *ctx, uint64_t a, const void *buf, uint64_t bytes)
{
	struct rig *r = ctx;

	if (!rig_is_ram(ctx, a, bytes)) {
		r->refused++;
		return -EFAULT;
	}
	memcpy(r->ram + (a - RIG_RAM_BASE), buf, bytes);
	return 0;
}

static inline int rig_dma_release(void *ctx, uint64_t a, uint64_t bytes)
{
	struct rig *r = ctx;

	if (!rig_is_ram(ctx, a, bytes))
		return -EFAULT;
	memset(r->ram + (a - RIG_RAM_BASE), 0, bytes);
	r->released += bytes;
	return 0;
}

static inline void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	r->ram = calloc(1, RIG_RAM_BYTES);
	r->dma = (struct dma){.ctx = r, .is_ram = rig_is_ram, .read = rig_dma_read, .write = rig_dma_write,
			      .release = rig_dma_release};
}

static inline void rig_free(struct rig *r) { free(r->ram); }

static inline uint8_t *rig_at(struct rig *r, uint64_t a) { return r->ram + (a - RIG_RAM_BASE); }

/* ---- a ring as a driver makes it ---- */

struct rig_ring {
	uint64_t desc, avail, used;
	uint16_t size, avail_idx, seen_used;
};

static inline struct rig_ring rig_ring(uint64_t at, uint16_t size)
{
	return (struct rig_ring){.desc = at, .avail = at + 0x2000, .used = at + 0x3000, .size = size};
}

static inline void rig_desc(struct rig *r, uint64_t table, unsigned i, uint64_t a, uint32_t bytes, uint16_t flags,
			    uint16_t next)
{
	uint8_t *d = rig_at(r, table) + 16 * i;

	put_u64(d, a);
	put_u32(d + 8, bytes);
	put_u16(d + 12, flags);
	put_u16(d + 14, next);
}

/* Makes chain @head available. */
static inline void rig_offer(struct rig *r, struct rig_ring *q, uint16_t head)
{
	put_u16(rig_at(r, q->avail) + 4 + 2 * (q->avail_idx % q->size), head);
	put_u16(rig_at(r, q->avail) + 2, ++q->avail_idx);
}

static inline uint16_t rig_used_idx(struct rig *r, const struct rig_ring *q) { return get_u16(rig_at(r, q->used) + 2); }

static inline uint32_t rig_used(struct rig *r, const struct rig_ring *q, uint16_t n, uint32_t *bytes)
{
	const uint8_t *e = rig_at(r, q->used) + 4 + 8 * (n % q->size);

	*bytes = get_u32(e + 4);
	return get_u32(e);
}

/* ---- the bus ---- */

static inline uint64_t rig_read(struct rig *r, uint64_t a, unsigned bytes)
{
	return r->pci.read(r->pci.state, a, bytes, r->now);
}

static inline void rig_write(struct rig *r, uint64_t a, unsigned bytes, uint64_t v)
{
	r->pci.write(r->pci.state, a, bytes, v, r->now);
}

/* Brings the devices to @now; returns the next event. */
static inline uint64_t rig_advance(struct rig *r, uint64_t now)
{
	r->now = now;
	return r->pci.advance(r->pci.state, now);
}

static inline uint64_t rig_config(unsigned slot, unsigned at) { return PCI_ECAM_BASE + 0x8000ull * slot + at; }

/* Puts @v into slot 1, with its BARs where the macros say. */
static inline void rig_plug(struct rig *r, struct virtio *v)
{
	pci_bus_init(&r->bus);
	virtio_pci_init(&r->t, v);
	pci_bus_add(&r->bus, &r->t.fn);
	r->pci = pci_bus_device(&r->bus);
	rig_write(r, rig_config(1, PCI_BAR0), 4, RIG_BAR);
	rig_write(r, rig_config(1, PCI_BAR0 + 8), 4, RIG_MSIX);
	rig_write(r, rig_config(1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* Turns MSI-X on, with vector n sending @data + n. */
static inline void rig_enable_msix(struct rig *r, uint32_t data)
{
	unsigned vectors = r->t.fn.msix.vectors;

	for (unsigned i = 0; i < vectors; i++) {
		rig_write(r, RIG_MSIX + 16 * i, 8, 0xfee00000);
		rig_write(r, RIG_MSIX + 16 * i + 8, 4, data + i);
		rig_write(r, RIG_MSIX + 16 * i + 12, 4, 0);
	}
	rig_write(r, rig_config(1, r->t.fn.msix.cap + 2u), 2, 0x8000);
}

/* What a driver does until DRIVER_OK; queue n gets MSI-X vector n + 1. */
static inline void rig_start(struct rig *r, uint64_t features, const struct rig_ring *ring, unsigned rings)
{
	rig_write(r, RIG_BAR + 0x14, 1, 0);
	rig_write(r, RIG_BAR + 0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	for (unsigned half = 0; half < 2; half++) {
		rig_write(r, RIG_BAR + 0x08, 4, half);
		rig_write(r, RIG_BAR + 0x0c, 4, (features | VIRTIO_F_VERSION_1) >> 32 * half & 0xffffffff);
	}
	rig_write(r, RIG_BAR + 0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	rig_write(r, RIG_BAR + 0x10, 2, 0);
	for (unsigned i = 0; i < rings; i++) {
		rig_write(r, RIG_BAR + 0x16, 2, i);
		rig_write(r, RIG_BAR + 0x18, 2, ring[i].size);
		rig_write(r, RIG_BAR + 0x1a, 2, i + 1);
		rig_write(r, RIG_BAR + 0x20, 8, ring[i].desc);
		rig_write(r, RIG_BAR + 0x28, 4, ring[i].avail & 0xffffffff);
		rig_write(r, RIG_BAR + 0x2c, 4, ring[i].avail >> 32);
		rig_write(r, RIG_BAR + 0x30, 8, ring[i].used);
		rig_write(r, RIG_BAR + 0x1c, 2, 1);
	}
	rig_write(r, RIG_BAR + 0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

static inline uint8_t rig_status(struct rig *r) { return (uint8_t)rig_read(r, RIG_BAR + 0x14, 1); }

static inline void rig_ring_doorbell(struct rig *r, unsigned queue) { rig_write(r, RIG_BAR + 0x3000 + 4 * queue, 2, queue); }

/* Lets time pass until nothing is due any more or @rounds events have been. */
static inline void rig_run(struct rig *r, unsigned rounds)
{
	uint64_t next = rig_advance(r, r->now);

	while (next != UINT64_MAX && rounds--)
		next = rig_advance(r, next);
}

#endif
