/*
 * A 16550A serial port: FIFOs, the four interrupt sources, loopback, divisor latch,
 * scratch register, modem lines with a partner that is always ready.
 *
 * The line is infinitely fast: a byte written to the transmitter is sent at once, so
 * THRE and TEMT are always set and the transmitter-empty interrupt comes up again
 * immediately after each write. The character timeout, likewise, is no time at all: fewer
 * bytes than the trigger level are announced as a timeout (IIR 1100b) straight away.
 * Left out: break and parity conditions, baud rate, FIFO DMA modes.
 *
 * Source: the 16550D data sheet. On a PC, OUT2 gates the interrupt line.
 */
#include "dev/serial.h"

#include <errno.h>

#define IER_RX      0x01
#define IER_THRE    0x02
#define IER_LINE    0x04
#define IER_MODEM   0x08

#define IIR_NONE    0x01
#define IIR_MODEM   0x00
#define IIR_THRE    0x02
#define IIR_RX      0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFOS   0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02

#define LCR_DLAB    0x80
#define MCR_OUT2    0x08
#define MCR_LOOP    0x10

#define LSR_READY   0x01
#define LSR_OVERRUN 0x02
#define LSR_ERRORS  0x1e
#define LSR_EMPTY   0x60 /* THRE and TEMT */

#define MSR_RI      0x40
#define MSR_READY   0xb0 /* DCD, DSR, CTS: someone is listening */

static size_t ring_used(const struct serial_ring *r) { return r->tail - r->head; }

static bool ring_put(struct serial_ring *r, uint8_t b)
{
	if (ring_used(r) == SERIAL_RING)
		return false;
	r->byte[r->tail++ % SERIAL_RING] = b;
	return true;
}

static bool ring_take(struct serial_ring *r, uint8_t *b)
{
	if (!ring_used(r))
		return false;
	*b = r->byte[r->head++ % SERIAL_RING];
	return true;
}

void serial_init(struct serial *s, uint16_t port, uint8_t irq)
{
	memset(s, 0, sizeof(*s));
	s->port = port;
	s->irq_line = irq;
	s->ranges[0] = (struct device_range){ true, port, 8 };
	s->lsr = LSR_EMPTY;
	s->msr = MSR_READY;
	s->divisor = 12;
}

/* ---- receiver ---- */

static unsigned rx_size(const struct serial *s) { return s->fcr & FCR_ENABLE ? SERIAL_FIFO : 1; }

static unsigned rx_trigger(const struct serial *s)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

/* With FIFOs an overrun loses the new byte, without them it overwrites the old one. */
static void receive(struct serial *s, uint8_t b)
{
	if (s->rx_count == rx_size(s)) {
		s->lsr |= LSR_OVERRUN;
		if (!(s->fcr & FCR_ENABLE))
			s->rx[0] = b;
		return;
	}
	s->rx[s->rx_count++] = b;
	s->lsr |= LSR_READY;
}

/* Lets the receiver have what is on the line. The sender waits for room, and for the end of loopback. */
static void refill(struct serial *s)
{
	uint8_t b;

	while (!(s->mcr & MCR_LOOP) && s->rx_count < rx_size(s) && ring_take(&s->in, &b))
		receive(s, b);
}

static uint8_t read_rx(struct serial *s)
{
	uint8_t b = s->rx[0];

	if (!s->rx_count)
		return 0;
	s->rx_count--;
	memmove(s->rx, s->rx + 1, s->rx_count);
	refill(s);
	if (!s->rx_count)
		s->lsr &= (uint8_t)~LSR_READY;
	return b;
}

static void clear_rx(struct serial *s)
{
	s->rx_count = 0;
	s->lsr &= (uint8_t)~(LSR_READY | LSR_ERRORS);
	refill(s);
}

/* ---- interrupts ---- */

static uint8_t interrupt_source(const struct serial *s)
{
	if ((s->ier & IER_LINE) && (s->lsr & LSR_ERRORS))
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->rx_count)
		return s->rx_count >= rx_trigger(s) ? IIR_RX : IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	if ((s->ier & IER_MODEM) && (s->msr & 0x0f))
		return IIR_MODEM;
	return IIR_NONE;
}

static uint32_t serial_irq(void *state, uint32_t *pulses)
{
	const struct serial *s = state;

	*pulses = 0;
	if (!(s->mcr & MCR_OUT2) || (s->mcr & MCR_LOOP) || interrupt_source(s) == IIR_NONE)
		return 0;
	return 1u << s->irq_line;
}

/* Reading the cause of a transmitter interrupt takes it back. */
static uint8_t read_iir(struct serial *s)
{
	uint8_t source = interrupt_source(s);

	if (source == IIR_THRE)
		s->thre_pending = false;
	return source | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

/* ---- modem lines ---- */

/* Sets the lines (upper half of MSR) and notes the changes; RI counts when it ends. */
static void set_modem_lines(struct serial *s, uint8_t lines)
{
	uint8_t changed = (s->msr ^ lines) & 0xf0;

	if (lines & MSR_RI)
		changed &= (uint8_t)~MSR_RI;
	s->msr = lines | (s->msr & 0x0f) | (uint8_t)(changed >> 4);
}

static void write_mcr(struct serial *s, uint8_t v)
{
	uint8_t lines = MSR_READY;

	s->mcr = v & 0x1f;
	if (s->mcr & MCR_LOOP) /* DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD */
		lines = (uint8_t)((v & 2) << 3 | (v & 1) << 5 | (v & 0x0c) << 4);
	set_modem_lines(s, lines);
	refill(s);
}

/* ---- registers ---- */

static void transmit(struct serial *s, uint8_t b)
{
	if (s->mcr & MCR_LOOP)
		receive(s, b);
	else
		ring_put(&s->out, b);
	s->thre_pending = true;
}

/* Enabling the interrupt while the transmitter is empty raises it. */
static void write_ier(struct serial *s, uint8_t v)
{
	if ((v & IER_THRE) && !(s->ier & IER_THRE))
		s->thre_pending = true;
	s->ier = v & 0x0f;
}

static void write_fcr(struct serial *s, uint8_t v)
{
	bool toggled = (v ^ s->fcr) & FCR_ENABLE;

	s->fcr = v & FCR_ENABLE ? v & 0xc9 : 0;
	if (toggled || (v & FCR_CLEAR_RX))
		clear_rx(s);
}

static uint64_t serial_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct serial *s = state;
	uint8_t v;

	(void)bytes;
	(void)now;
	switch (addr - s->port) {
	case 0:
		return s->lcr & LCR_DLAB ? s->divisor & 0xff : read_rx(s);
	case 1:
		return s->lcr & LCR_DLAB ? s->divisor >> 8 : s->ier;
	case 2:
		return read_iir(s);
	case 3:
		return s->lcr;
	case 4:
		return s->mcr;
	case 5:
		v = s->lsr;
		s->lsr &= (uint8_t)~LSR_ERRORS;
		return v;
	case 6:
		v = s->msr;
		s->msr &= 0xf0;
		return v;
	default:
		return s->scratch;
	}
}

static void serial_write(void *state, uint64_t addr, unsigned bytes, uint64_t value, uint64_t now)
{
	struct serial *s = state;
	uint8_t v = (uint8_t)value;

	(void)bytes;
	(void)now;
	switch (addr - s->port) {
	case 0:
		if (s->lcr & LCR_DLAB)
			s->divisor = (s->divisor & 0xff00) | v;
		else
			transmit(s, v);
		break;
	case 1:
		if (s->lcr & LCR_DLAB)
			s->divisor = (uint16_t)((s->divisor & 0xff) | v << 8);
		else
			write_ier(s, v);
		break;
	case 2:
		write_fcr(s, v);
		break;
	case 3:
		s->lcr = v;
		break;
	case 4:
		write_mcr(s, v);
		break;
	case 7:
		s->scratch = v;
		break;
	default: /* LSR and MSR: writing is for factory tests */
		break;
	}
}

struct device serial_device(struct serial *s)
{
	return (struct device){ .name = "serial", .state = s, .ranges = s->ranges, .byte_wide = true,
				.read = serial_read, .write = serial_write, .irq = serial_irq };
}

size_t serial_take_output(struct serial *s, uint8_t *buf, size_t bytes)
{
	size_t n = 0;

	while (n < bytes && ring_take(&s->out, &buf[n]))
		n++;
	return n;
}

size_t serial_put_input(struct serial *s, const uint8_t *buf, size_t bytes)
{
	size_t n = 0;

	while (n < bytes && ring_put(&s->in, buf[n]))
		n++;
	refill(s);
	return n;
}

/* ---- state ---- */

/* A ring is saved from its first byte on: where it lies in the buffer is nobody's business. */
static void ring_prepare(void *object)
{
	struct serial_ring *r = object, straight = {.head = 0};

	while (ring_take(r, &straight.byte[straight.tail]))
		straight.tail++;
	*r = straight;
}

static int ring_check(void *object, struct error *err)
{
	struct serial_ring *r = object;

	(void)err;
	r->head = 0;
	return 0;
}

static const struct state_field ring_fields[] = {STATE_DATA_USED(struct serial_ring, byte, tail)};
static const struct state_desc ring_desc = STATE_DESC("serial-ring", 1, ring_fields, .prepare = ring_prepare,
						      .check = ring_check);

static int serial_check(void *object, struct error *err)
{
	const struct serial *s = object;

	if (s->rx_count > rx_size(s) || s->fcr & ~0xc9)
		return error_set(err, -EINVAL, "state of serial: %u bytes received with FIFO control %#x", s->rx_count, s->fcr);
	return 0;
}

static const struct state_field serial_fields[] = {
	STATE_U_MAX(struct serial, ier, 0x0f), STATE_U(struct serial, fcr), STATE_U(struct serial, lcr),
	STATE_U_MAX(struct serial, mcr, 0x1f), STATE_U(struct serial, lsr), STATE_U(struct serial, msr),
	STATE_U(struct serial, scratch), STATE_U(struct serial, divisor), STATE_DATA_USED(struct serial, rx, rx_count),
	STATE_B(struct serial, thre_pending), STATE_S(struct serial, out, &ring_desc),
	STATE_S(struct serial, in, &ring_desc),
};
const struct state_desc serial_desc = STATE_DESC("serial", 1, serial_fields, .check = serial_check);
