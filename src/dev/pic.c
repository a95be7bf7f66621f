/*
 * Two cascaded 8259A interrupt controllers with their edge/level registers (ELCR):
 * all initialization and operation words, automatic EOI, rotation, special mask,
 * special fully nested mode, poll.
 *
 * An edge stays latched although the line falls before it is acknowledged (the chip
 * would then report a spurious interrupt). Left out: 8080 mode, buffered mode.
 *
 * Source: the 8259A data sheet.
 */
#include "dev/pic.h"

#include <errno.h>

#define CASCADE  2
#define SPURIOUS 7

#define ICW1_ICW4   0x01
#define ICW1_SINGLE 0x02
#define ICW1_LEVEL  0x08
#define ICW1        0x10
#define OCW3        0x08

void pic_init(struct pic *p)
{
	memset(p, 0, sizeof(*p));
	for (unsigned i = 0; i < 2; i++) {
		p->chip[i].lowest = 7;
		p->chip[i].imr = 0xff;
		p->chip[i].elcr_mask = i ? 0xde : 0xf8; /* IRQ 0, 1, 2, 8, 13 are always edges */
	}
}

static uint8_t level_inputs(const struct pic_chip *c) { return c->level_mode ? 0xff : c->elcr; }

/* The member of @set with the highest priority, as a distance 0..7 from the top; 8 if the set is empty. */
static unsigned top_priority(const struct pic_chip *c, uint8_t set)
{
	unsigned n = 0;

	while (n < 8 && !(set >> ((c->lowest + 1 + n) & 7) & 1))
		n++;
	return n;
}

/* The input the chip would interrupt for now, or -1. */
static int chip_pending(const struct pic_chip *c, bool master)
{
	uint8_t blocking = c->isr;
	unsigned want = top_priority(c, c->irr & (uint8_t)~c->imr);

	if (c->special_mask)
		blocking &= (uint8_t)~c->imr;
	if (c->fully_nested && master)
		blocking &= (uint8_t)~(1u << CASCADE);
	if (want >= top_priority(c, blocking))
		return -1;
	return (int)((c->lowest + 1 + want) & 7);
}

static void chip_set_line(struct pic_chip *c, unsigned n, bool level)
{
	uint8_t mask = (uint8_t)(1u << n);

	if (level_inputs(c) & mask)
		c->irr = level ? c->irr | mask : c->irr & (uint8_t)~mask;
	else if (level && !(c->lines & mask))
		c->irr |= mask;
	c->lines = level ? c->lines | mask : c->lines & (uint8_t)~mask;
}

/* The slave's output is the master's cascade input: a request lasts as long as the slave has one. */
static void update_cascade(struct pic *p)
{
	bool level = chip_pending(&p->chip[1], false) >= 0;
	uint8_t others = (uint8_t)~(1u << CASCADE);

	p->chip[0].irr = (uint8_t)((p->chip[0].irr & others) | level << CASCADE);
}

void pic_set_irq(struct pic *p, unsigned n, bool level)
{
	if (n == CASCADE || n > 15)
		return;
	chip_set_line(&p->chip[n >> 3], n & 7, level);
	update_cascade(p);
}

bool pic_intr(const struct pic *p)
{
	return chip_pending(&p->chip[0], true) >= 0;
}

/* The chip's part of an acknowledge cycle: the input, or the spurious one. */
static unsigned chip_ack(struct pic_chip *c, bool master)
{
	int n = chip_pending(c, master);
	uint8_t mask;

	if (n < 0)
		return SPURIOUS;
	mask = (uint8_t)(1u << n);
	if (!(level_inputs(c) & mask))
		c->irr &= (uint8_t)~mask;
	if (!c->auto_eoi)
		c->isr |= mask;
	else if (c->rotate_on_auto_eoi)
		c->lowest = (uint8_t)n;
	return (unsigned)n;
}

uint8_t pic_ack(struct pic *p)
{
	bool cascade = chip_pending(&p->chip[0], true) == CASCADE;
	unsigned n = chip_ack(&p->chip[0], true);
	uint8_t vector = (uint8_t)(p->chip[0].base | n);

	if (cascade)
		vector = (uint8_t)(p->chip[1].base | chip_ack(&p->chip[1], false));
	update_cascade(p);
	return vector;
}

/* ---- command words ---- */

static void write_icw1(struct pic_chip *c, uint8_t v)
{
	c->irr = level_inputs(c) & c->lines; /* the edge detectors are reset */
	c->imr = c->isr = 0;
	c->lowest = 7;
	c->special_mask = c->read_isr = c->poll = false;
	c->auto_eoi = c->rotate_on_auto_eoi = c->fully_nested = false;
	c->single = v & ICW1_SINGLE;
	c->need_icw4 = v & ICW1_ICW4;
	c->level_mode = v & ICW1_LEVEL;
	c->icw = 2;
}

static void write_icw(struct pic_chip *c, uint8_t v)
{
	switch (c->icw) {
	case 2:
		c->base = v & 0xf8;
		c->icw = !c->single ? 3 : c->need_icw4 ? 4 : 0;
		break;
	case 3: /* the cascade is wired, whatever this says */
		c->icw = c->need_icw4 ? 4 : 0;
		break;
	default:
		c->fully_nested = v & 0x10;
		c->auto_eoi = v & 0x02;
		c->icw = 0;
		break;
	}
}

/* End of interrupt and rotation. */
static void write_ocw2(struct pic_chip *c, uint8_t v)
{
	unsigned command = v >> 5, n = v & 7, served;

	switch (command) {
	case 0:
	case 4:
		c->rotate_on_auto_eoi = command == 4;
		break;
	case 1: /* non-specific EOI, with or without rotation */
	case 5:
		served = top_priority(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
		if (served == 8)
			break;
		n = (c->lowest + 1 + served) & 7;
		c->isr &= (uint8_t)~(1u << n);
		if (command == 5)
			c->lowest = (uint8_t)n;
		break;
	case 3: /* specific EOI, with or without rotation */
	case 7:
		c->isr &= (uint8_t)~(1u << n);
		if (command == 7)
			c->lowest = (uint8_t)n;
		break;
	case 6: /* set priority */
		c->lowest = (uint8_t)n;
		break;
	default:
		break;
	}
}

static void write_ocw3(struct pic_chip *c, uint8_t v)
{
	c->poll = v & 0x04;
	if (v & 0x02)
		c->read_isr = v & 0x01;
	if (v & 0x40)
		c->special_mask = v & 0x20;
}

/* The poll command makes the next read an acknowledge cycle. */
static uint8_t read_poll(struct pic *p, unsigned which)
{
	struct pic_chip *c = &p->chip[which];
	int n = chip_pending(c, which == 0);

	c->poll = false;
	if (n < 0)
		return 0;
	chip_ack(c, which == 0);
	return (uint8_t)(0x80 | n);
}

static uint64_t pic_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct pic *p = state;
	unsigned which = (addr & 0x80) != 0;
	struct pic_chip *c = &p->chip[which];
	uint8_t v;

	(void)bytes;
	(void)now;
	if (addr >= 0x4d0)
		return p->chip[addr & 1].elcr;
	if (c->poll)
		v = read_poll(p, which);
	else if (addr & 1)
		v = c->imr;
	else
		v = c->read_isr ? c->isr : c->irr;
	update_cascade(p);
	return v;
}

static void write_elcr(struct pic_chip *c, uint8_t v)
{
	uint8_t changed = c->elcr ^ (v & c->elcr_mask);

	c->elcr = v & c->elcr_mask;
	c->irr = (c->irr & (uint8_t)~changed) | (changed & c->elcr & c->lines);
}

static void pic_write(void *state, uint64_t addr, unsigned bytes, uint64_t value, uint64_t now)
{
	struct pic *p = state;
	struct pic_chip *c = &p->chip[(addr & 0x80) != 0];
	uint8_t v = (uint8_t)value;

	(void)bytes;
	(void)now;
	if (addr >= 0x4d0)
		write_elcr(&p->chip[addr & 1], v);
	else if ((addr & 1) && c->icw)
		write_icw(c, v);
	else if (addr & 1)
		c->imr = v;
	else if (v & ICW1)
		write_icw1(c, v);
	else if (v & OCW3)
		write_ocw3(c, v);
	else
		write_ocw2(c, v);
	update_cascade(p);
}

struct device pic_device(struct pic *p)
{
	static const struct device_range ranges[] = {
		{ true, 0x20, 2 }, { true, 0xa0, 2 }, { true, 0x4d0, 2 }, { false, 0, 0 },
	};

	return (struct device){ .name = "pic", .state = p, .ranges = ranges, .byte_wide = true,
				.read = pic_read, .write = pic_write };
}

/* ---- state ---- */

#define CHIP_U(m) STATE_U(struct pic_chip, m)
#define CHIP_B(m) STATE_B(struct pic_chip, m)

static int chip_check(void *object, struct error *err)
{
	const struct pic_chip *c = object;

	if (c->elcr & ~c->elcr_mask || c->base & 7 || c->icw == 1)
		return error_set(err, -EINVAL, "state of pic: ELCR %#x, vectors from %#x, initialization word %u", c->elcr, c->base,
				 c->icw);
	return 0;
}

static const struct state_field chip_fields[] = {
	CHIP_U(lines), CHIP_U(irr), CHIP_U(imr), CHIP_U(isr), CHIP_U(elcr), CHIP_U(base),
	STATE_U_MAX(struct pic_chip, lowest, 7), STATE_U_MAX(struct pic_chip, icw, 4), CHIP_B(single),
	CHIP_B(need_icw4), CHIP_B(level_mode), CHIP_B(auto_eoi), CHIP_B(rotate_on_auto_eoi), CHIP_B(special_mask),
	CHIP_B(fully_nested), CHIP_B(read_isr), CHIP_B(poll),
};
static const struct state_desc chip_desc = STATE_DESC("pic-chip", 1, chip_fields, .check = chip_check);

static const struct state_field pic_fields[] = {STATE_SV(struct pic, chip, &chip_desc)};
const struct state_desc pic_desc = STATE_DESC("pic", 1, pic_fields);
