/* The 8254 interval timer of a PC, and port 0x61 beside it. */
#ifndef GNOMON_DEV_PIT_H
#define GNOMON_DEV_PIT_H

#include "dev/device.h"

#define PIT_HZ  1193182u
#define PIT_IRQ 0

struct pit_channel {
	uint8_t mode;         /* 0..5 */
	uint8_t access;       /* 1 low byte, 2 high byte, 3 low then high */
	bool bcd, gate;
	uint8_t write_low;    /* access 3: the low byte that was written */
	bool write_high_next, read_high_next;
	uint8_t latched;      /* bytes of the latched count still to be read: bit 0 low, bit 1 high */
	uint16_t latch;
	bool status_latched;
	uint8_t status;
	bool null_count;      /* a count is written but not yet in the counter */
	/*
	 * Counting. With a gate that stops the count (modes 0 and 4), start moves on by the
	 * time it was stopped.
	 */
	bool armed;           /* counting, or stopped by the gate */
	bool stopped;
	uint64_t stop_tick;   /* when the gate stopped it */
	uint64_t start;       /* tick at which the counter holds count */
	uint32_t count;       /* 1..65536 */
	bool has_next;        /* modes 2, 3: next is loaded at tick switch_at; 1, 5: at the next trigger */
	uint32_t next;
	uint64_t switch_at;
};

struct pit {
	struct pit_channel channel[3];
	uint8_t port61;
	uint64_t seen;        /* tick up to which channel 0's edges have been looked for */
	bool out0, pulse0;    /* output of channel 0 at that tick; it rose again since the last pit_irq() */
};

extern const struct state_desc pit_desc;

void pit_init(struct pit *p);
struct device pit_device(struct pit *p);

#endif
