/*
 * MSI-X: a table of messages and an array of pending bits, both in a BAR. A vector that is requested while it or
 * the whole function is masked stays pending and is sent when the mask goes.
 *
 * Left out: nothing of MSI-X; MSI itself.
 * Source: PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structures".
 */
#include "dev/pci.h"
#include "dev/pci_impl.h"

#include <errno.h>

#define CONTROL          2 /* offsets in the capability */
#define TABLE            4
#define PBA              8
#define CAPABILITY_BYTES 12

#define CONTROL_ENABLE   0x8000u
#define CONTROL_MASK     0x4000u

#define ENTRY_BYTES      16u
#define ENTRY_DATA       8
#define ENTRY_CONTROL    12
#define ENTRY_MASKED     1u

#define BAR_BYTES        4096u
#define PBA_OFFSET       2048u
static_assert(PCI_MSIX_MAX * ENTRY_BYTES <= PBA_OFFSET, "the table ends before the pending bits");

void pci_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors)
{
	uint8_t body[CAPABILITY_BYTES - 2];

	put_u16(body, (uint16_t)(vectors - 1));
	put_u32(body + TABLE - 2, bar);
	put_u32(body + PBA - 2, PBA_OFFSET | bar);
	fn->msix = (struct pci_msix){.vectors = vectors, .bar = (uint8_t)bar};
	fn->msix.cap = pci_add_capability(fn, PCI_CAP_MSIX, CAPABILITY_BYTES, body);
	put_u16(fn->writable + fn->msix.cap + CONTROL, CONTROL_ENABLE | CONTROL_MASK);
	pci_add_bar(fn, bar, BAR_BYTES);
	for (unsigned i = 0; i < vectors; i++)
		put_u32(fn->msix.table + ENTRY_BYTES * i + ENTRY_CONTROL, ENTRY_MASKED);
}

static uint16_t control(const struct pci_function *fn)
{
	return fn->msix.vectors ? get_u16(fn->config + fn->msix.cap + CONTROL) : 0;
}

bool pci_msix_enabled(const struct pci_function *fn) { return control(fn) & CONTROL_ENABLE; }

void pci_msix_raise(struct pci_function *fn, unsigned vector)
{
	if (vector < fn->msix.vectors && pci_msix_enabled(fn))
		fn->msix.pending |= 1u << vector;
}

/* A pending vector whose masks are off leaves as a message, which is a memory write of the function's. */
bool pci_msix_take(struct pci_function *fn, uint64_t *addr, uint32_t *data)
{
	struct pci_msix *m = &fn->msix;

	if (!m->pending || !pci_is_master(fn) || (control(fn) & (CONTROL_ENABLE | CONTROL_MASK)) != CONTROL_ENABLE)
		return false;
	for (unsigned i = 0; i < m->vectors; i++) {
		const uint8_t *entry = m->table + ENTRY_BYTES * i;

		if (!(m->pending >> i & 1) || entry[ENTRY_CONTROL] & ENTRY_MASKED)
			continue;
		m->pending &= ~(1u << i);
		*addr = get_u64(entry);
		*data = get_u32(entry + ENTRY_DATA);
		return true;
	}
	return false;
}

/* ---- the BAR ---- */

uint64_t pci_msix_read(const struct pci_function *fn, uint32_t offset, unsigned bytes)
{
	uint8_t page[BAR_BYTES + 8] = {0};
	uint64_t v;

	memcpy(page, fn->msix.table, ENTRY_BYTES * fn->msix.vectors);
	put_u64(page + PBA_OFFSET, fn->msix.pending);
	v = get_u64(page + offset);
	return bytes < 8 ? v & ((1ull << 8 * bytes) - 1) : v;
}

/* Of the last word of an entry only the mask bit can be written; the pending bits cannot. */
void pci_msix_write(struct pci_function *fn, uint32_t offset, unsigned bytes, uint64_t v)
{
	for (unsigned i = 0; i < bytes && offset + i < ENTRY_BYTES * fn->msix.vectors; i++) {
		uint8_t *b = &fn->msix.table[offset + i];
		unsigned in_entry = (offset + i) % ENTRY_BYTES;

		if (in_entry < ENTRY_CONTROL)
			*b = (uint8_t)(v >> 8 * i);
		else if (in_entry == ENTRY_CONTROL)
			*b = v >> 8 * i & ENTRY_MASKED;
	}
}

int pci_msix_check(const struct pci_msix *m, struct error *err)
{
	for (unsigned i = 0; i < sizeof(m->table); i++) {
		unsigned in_entry = i % ENTRY_BYTES;

		if (i < ENTRY_BYTES * m->vectors && in_entry < ENTRY_CONTROL)
			continue;
		if (m->table[i] > (i < ENTRY_BYTES * m->vectors && in_entry == ENTRY_CONTROL ? ENTRY_MASKED : 0))
			return error_set(err, -EINVAL, "state of msix: byte %u of the table is %#x", i, m->table[i]);
	}
	return m->pending >> m->vectors ? error_set(err, -EINVAL, "state of msix: vectors %#x are pending, there are %u",
						    m->pending, m->vectors) : 0;
}
