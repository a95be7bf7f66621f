/*
 * A PCI bus with its host bridge: configuration space by ports (mechanism #1) and by memory (ECAM), memory
 * BARs, capabilities, MSI-X, and interrupt pins.
 *
 * A function is a struct that its device embeds; the bus routes accesses to it. Devices are functions 0 of
 * slots 1 to 31; slot 0 is the host bridge. Where loaders stand in for firmware, BARs have addresses from
 * the start; decoding is off until software turns it on. Where firmware runs, the bridge is an Intel 440FX, which
 * firmware knows, and BARs have no addresses.
 */
#ifndef GNOMON_DEV_PCI_H
#define GNOMON_DEV_PCI_H

#include "dev/device.h"

#define PCI_SLOTS        32
#define PCI_CONFIG_BYTES 256u
#define PCI_BARS         6
#define PCI_MSIX_MAX     16 /* vectors of a function */

#define PCI_ADDRESS_PORT 0xcf8
#define PCI_DATA_PORT    0xcfc
#define PCI_ECAM_BASE    0xe0000000ull
#define PCI_ECAM_BYTES   0x100000ull /* one bus */
/* Where the host bridge decodes memory accesses to devices. */
#define PCI_WINDOW_BASE  0xc0000000ull
#define PCI_WINDOW_BYTES 0x20000000ull
/* ... and where that of a 440FX does, as far as there is no RAM. It has no ECAM. */
#define PCI_440FX_BASE   0x80000000ull
#define PCI_440FX_END    0xfec00000ull
/* Interrupt inputs that pins are wired to: INTA of slot n to PCI_IRQ_FIRST + n % PCI_IRQS. */
#define PCI_IRQ_FIRST    16
#define PCI_IRQS         8

enum { /* registers of configuration space */
	PCI_VENDOR_ID = 0x00, PCI_DEVICE_ID = 0x02, PCI_COMMAND = 0x04, PCI_STATUS = 0x06, PCI_REVISION = 0x08,
	PCI_CLASS = 0x09, PCI_HEADER_TYPE = 0x0e, PCI_BAR0 = 0x10, PCI_SUBSYSTEM_VENDOR = 0x2c,
	PCI_SUBSYSTEM_ID = 0x2e, PCI_CAP_POINTER = 0x34, PCI_INTERRUPT_LINE = 0x3c, PCI_INTERRUPT_PIN = 0x3d,
};

#define PCI_COMMAND_MEMORY   0x0002u
#define PCI_COMMAND_MASTER   0x0004u
#define PCI_COMMAND_NO_INTX  0x0400u
#define PCI_STATUS_INTERRUPT 0x0008u
#define PCI_STATUS_CAPS      0x0010u
#define PCI_CAP_MSIX         0x11
#define PCI_CAP_VENDOR       0x09

struct pci_function;

/* What a device does itself; any may be NULL. @state is the function's. */
struct pci_ops {
	/* An access to device memory: @offset within BAR @bar, all @bytes (1 to 8) within it. */
	uint64_t (*bar_read)(void *state, unsigned bar, uint32_t offset, unsigned bytes, uint64_t now);
	void (*bar_write)(void *state, unsigned bar, uint32_t offset, unsigned bytes, uint64_t v, uint64_t now);
	/* [@at, @at + @bytes) of configuration space is about to be read; has been written, as far as it can be. */
	void (*config_read)(void *state, unsigned at, unsigned bytes, uint64_t now);
	void (*config_written)(void *state, unsigned at, unsigned bytes, uint64_t now);
	/* As in struct device. */
	uint64_t (*advance)(void *state, uint64_t now);
};

struct pci_msix {
	unsigned vectors;    /* 0: the function has no MSI-X */
	uint8_t cap;         /* offset of the capability */
	uint8_t bar;
	uint8_t table[16 * PCI_MSIX_MAX];
	uint32_t pending;    /* a bit a vector: the pending-bit array */
};

struct pci_function {
	const struct pci_ops *ops;
	void *state;
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t writable[PCI_CONFIG_BYTES]; /* bits that software can change */
	uint32_t bar_bytes[PCI_BARS];       /* 0: none */
	uint8_t cap_last;                   /* the capability that was added last; 0: none */
	uint8_t cap_next;                   /* where the next one goes */
	bool intx;                          /* what the function wants of its interrupt pin */
	uint8_t software[PCI_CONFIG_BYTES]; /* state: the bits of config[] that software can change */
	struct pci_msix msix;
};

struct pci_bus {
	struct pci_function *fn[PCI_SLOTS]; /* [0]: the host bridge; NULL where there is nothing */
	struct pci_function bridge;
	unsigned slots;                     /* used so far, with the bridge */
	uint32_t address;                   /* what was written to PCI_ADDRESS_PORT */
	bool is_440fx;
	uint64_t bar_next;                  /* where the next BAR gets its first address */
};

/* ---- state: of struct pci_bus without its functions; of each function (slot 0 is the bridge) ---- */
extern const struct state_desc pci_bus_desc, pci_function_desc;

/* ---- the bus ---- */

void pci_bus_init(struct pci_bus *bus);
/* The same as firmware finds it, with a 440FX. */
void pci_bus_init_440fx(struct pci_bus *bus);
/* Puts a function into the next free slot. Returns the slot, or -ENOSPC if bus or window is full: nothing changed. */
int pci_bus_add(struct pci_bus *bus, struct pci_function *fn);
struct device pci_bus_device(struct pci_bus *bus);
/* Takes the next message-signalled interrupt. False if there is none. */
bool pci_bus_take_msi(struct pci_bus *bus, uint64_t *addr, uint32_t *data);

/* ---- a function, for its device ---- */

struct pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
};
void pci_function_init(struct pci_function *fn, const struct pci_identity *id, const struct pci_ops *ops, void *state);
/* A 32-bit memory BAR of @bytes: a power of two, 16 to 1 MiB. */
void pci_add_bar(struct pci_function *fn, unsigned bar, uint32_t bytes);
/* A capability with @bytes in all, header included; from its third byte on it is @body. Returns its offset. */
uint8_t pci_add_capability(struct pci_function *fn, uint8_t id, unsigned bytes, const void *body);
/* MSI-X with @vectors, 1 to PCI_MSIX_MAX; table and pending bits in BAR @bar, which becomes 4 KiB and its own. */
void pci_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors);
/* Has software turned MSI-X on? Then the pin is not used. */
bool pci_msix_enabled(const struct pci_function *fn);
/* Requests an interrupt by @vector: sent, or pending while it is masked; nothing while MSI-X is off. */
void pci_msix_raise(struct pci_function *fn, unsigned vector);
/* May the function access memory? */
static inline bool pci_is_master(const struct pci_function *fn)
{
	return get_u16(fn->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
}

#endif
