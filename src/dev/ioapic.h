/* An I/O APIC with 24 inputs (82093AA with the EOI register of later ones). */
#ifndef GNOMON_DEV_IOAPIC_H
#define GNOMON_DEV_IOAPIC_H

#include "dev/device.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_PINS 24

struct ioapic {
	uint32_t id, select;
	uint32_t lines;                 /* levels of the inputs */
	uint32_t edges;                 /* edges seen and not yet sent */
	uint32_t ready;                 /* inputs with a message to send */
	uint64_t redirect[IOAPIC_PINS];
};

extern const struct state_desc ioapic_desc;

/* After RESET, but for the ID: firmware sets it to what the tables say. */
void ioapic_init(struct ioapic *a, uint8_t id);
struct device ioapic_device(struct ioapic *a);

/* Level of input @pin (asserted or not: the polarity is the wiring's business). */
void ioapic_set_pin(struct ioapic *a, unsigned pin, bool level);
/* Takes the next interrupt message, in the form of an MSI. False if there is none. */
bool ioapic_take_message(struct ioapic *a, uint64_t *addr, uint32_t *data);
/* A local APIC broadcasts the end of a level-triggered interrupt. */
void ioapic_eoi(struct ioapic *a, uint8_t vector);

#endif
