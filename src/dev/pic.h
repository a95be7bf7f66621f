/* The two 8259A interrupt controllers of a PC. */
#ifndef GNOMON_DEV_PIC_H
#define GNOMON_DEV_PIC_H

#include "dev/device.h"

struct pic_chip {
	uint8_t lines;         /* levels of the inputs */
	uint8_t irr, imr, isr;
	uint8_t elcr, elcr_mask;
	uint8_t base;          /* ICW2: vector of input 0 */
	uint8_t lowest;        /* input with the lowest priority */
	uint8_t icw;           /* initialization: next word expected (2..4), 0 when done */
	bool single, need_icw4, level_mode;
	bool auto_eoi, rotate_on_auto_eoi, special_mask, fully_nested;
	bool read_isr, poll;
};

struct pic {
	struct pic_chip chip[2]; /* master, slave on input 2 */
};

extern const struct state_desc pic_desc;

void pic_init(struct pic *p);
struct device pic_device(struct pic *p);

/* Level of IRQ @n, 0..15. IRQ 2 is the cascade and cannot be driven. */
void pic_set_irq(struct pic *p, unsigned n, bool level);
/* The INTR output. */
bool pic_intr(const struct pic *p);
/* The acknowledge cycle; returns the vector (the spurious one if the request has gone). */
uint8_t pic_ack(struct pic *p);

#endif
