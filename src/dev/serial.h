/* A 16550A serial port: COM1 of a PC. */
#ifndef GNOMON_DEV_SERIAL_H
#define GNOMON_DEV_SERIAL_H

#include "dev/device.h"

#define SERIAL_COM1_PORT 0x3f8
#define SERIAL_COM1_IRQ  4

#define SERIAL_FIFO      16
#define SERIAL_RING      4096 /* bytes waiting on the owner's side, a power of two */

struct serial_ring {
	uint8_t byte[SERIAL_RING];
	uint32_t head, tail; /* taken from head, put at tail; both run freely */
};

struct serial {
	uint16_t port;
	uint8_t irq_line;
	struct device_range ranges[2];
	uint8_t ier, fcr, lcr, mcr, lsr, msr, scratch;
	uint16_t divisor;
	uint8_t rx[SERIAL_FIFO];
	unsigned rx_count;
	bool thre_pending;      /* the transmitter-empty interrupt is asserted */
	struct serial_ring out; /* transmitted, for the owner */
	struct serial_ring in;  /* typed by the owner, not yet received */
};

extern const struct state_desc serial_desc;

/* A port after RESET, at I/O port @port with interrupt line @irq. */
void serial_init(struct serial *s, uint16_t port, uint8_t irq);
struct device serial_device(struct serial *s);

/* Takes up to @bytes transmitted bytes; returns how many. A byte that finds the ring full is lost. */
size_t serial_take_output(struct serial *s, uint8_t *buf, size_t bytes);
/* Puts bytes on the receive line; returns how many there was room for. */
size_t serial_put_input(struct serial *s, const uint8_t *buf, size_t bytes);

#endif
