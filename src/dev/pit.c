/*
 * The 8254 interval timer: three channels, all six modes, binary and BCD, counter
 * latch and read-back; and port 0x61, which holds channel 2's gate and shows its
 * output and the refresh toggle.
 *
 * Nothing is counted step by step: a channel remembers the tick at which its
 * counter was loaded, and count, output and the next edge follow from that. A
 * tick is one period of the 1.193182 MHz input.
 *
 * Left out: a count of 1 in modes 2 and 3 (illegal; taken as 2), the sound. A new
 * count in mode 3 waits for the end of the cycle, not of the half cycle.
 * Source: the 82C54 data sheet; port 0x61 from the ICH data sheets.
 */
#include "dev/pit.h"

#include <errno.h>

#define P61_GATE2   0x01
#define P61_WRITES  0x0f
#define P61_REFRESH 0x10
#define P61_OUT2    0x20
#define REFRESH_NS  15085

#define NEVER UINT64_MAX

static uint64_t tick_of(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * PIT_HZ / 1000000000u);
}

/* The first nanosecond that belongs to @tick. */
static uint64_t time_of(uint64_t tick)
{
	unsigned __int128 ns = ((unsigned __int128)tick * 1000000000u + PIT_HZ - 1) / PIT_HZ;

	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* ---- one channel as a function of time ---- */

static bool periodic(const struct pit_channel *c) { return c->mode == 2 || c->mode == 3; }
static bool triggered(const struct pit_channel *c) { return c->mode == 1 || c->mode == 5; }

/* Ticks for which the counter has counted since it was loaded. Negative: not loaded yet. */
static int64_t elapsed(const struct pit_channel *c, uint64_t tick)
{
	return (int64_t)((c->stopped ? c->stop_tick : tick) - c->start);
}

/* Takes over a count that was waiting for the end of the cycle. */
static void settle(struct pit_channel *c, uint64_t tick)
{
	if (c->null_count && c->armed && !c->has_next && elapsed(c, tick) >= 0)
		c->null_count = false;
	if (!c->has_next || !periodic(c) || c->stopped || tick < c->switch_at)
		return;
	c->start = c->switch_at;
	c->count = c->next;
	c->has_next = c->null_count = false;
}

/* The OUT pin. */
static bool output(const struct pit_channel *c, uint64_t tick)
{
	int64_t e = elapsed(c, tick);

	if (!c->armed)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
		return e >= c->count;
	case 1:
		return e < 0 || e >= c->count;
	case 2:
		return c->stopped || e < 0 || e % c->count != c->count - 1;
	case 3:
		return c->stopped || e < 0 || e % c->count < (c->count + 1) / 2;
	default: /* 4, 5: low for one tick */
		return e != c->count;
	}
}

/* The next tick after @tick at which OUT may change by itself. */
static uint64_t next_change(const struct pit_channel *c, uint64_t tick)
{
	int64_t e = elapsed(c, tick);
	uint64_t cycle, phase;

	if (!c->armed || c->stopped)
		return NEVER;
	if (c->has_next && periodic(c) && c->switch_at > tick)
		return c->switch_at;
	if (e < 0)
		return c->start;
	switch (c->mode) {
	case 0:
	case 1:
		return e < c->count ? c->start + c->count : NEVER;
	case 2:
	case 3:
		cycle = tick - (uint64_t)e % c->count;
		phase = c->mode == 2 ? c->count - 1 : (c->count + 1) / 2;
		return tick < cycle + phase ? cycle + phase : cycle + c->count;
	default:
		if (e < c->count)
			return c->start + c->count;
		return e == c->count ? tick + 1 : NEVER;
	}
}

/* The counting element's value, as a binary number. */
static uint32_t counter(const struct pit_channel *c, uint64_t tick)
{
	int64_t e = elapsed(c, tick);
	uint32_t wrap = c->bcd ? 10000 : 65536, phase;

	if (!c->armed || e < 0)
		return c->count % wrap;
	switch (c->mode) {
	case 2:
		return (c->count - (uint32_t)(e % c->count)) % wrap;
	case 3: /* counts down by two, twice a cycle */
		phase = (uint32_t)(e % c->count);
		if (phase >= (c->count + 1) / 2)
			phase -= (c->count + 1) / 2;
		return ((c->count & ~1u) - 2 * phase) % wrap;
	default: /* goes on below zero */
		return (c->count + wrap - (uint32_t)(e % wrap)) % wrap;
	}
}

static uint16_t to_bcd(uint32_t n)
{
	return (uint16_t)(n / 1000 % 10 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10);
}

static uint32_t from_bcd(uint16_t v)
{
	return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

static uint16_t visible_count(const struct pit_channel *c, uint64_t tick)
{
	uint32_t n = counter(c, tick);

	return c->bcd ? to_bcd(n) : (uint16_t)n;
}

/* ---- programming a channel ---- */

static void load_counter(struct pit_channel *c, uint32_t count, uint64_t tick)
{
	c->count = count;
	c->start = tick + 1; /* the next input pulse loads it */
	c->armed = true;
	c->has_next = false;
	c->stopped = !c->gate && !triggered(c);
	c->stop_tick = c->start;
}

static void write_count(struct pit_channel *c, uint16_t v, uint64_t tick)
{
	uint32_t n = c->bcd ? from_bcd(v) : v;
	int64_t e;

	if (n == 0)
		n = c->bcd ? 10000 : 65536;
	if (n == 1 && periodic(c))
		n = 2;
	settle(c, tick);
	c->null_count = true;
	if (triggered(c)) { /* waits for the gate */
		c->next = n;
		c->has_next = true;
		return;
	}
	if (!periodic(c) || !c->armed || c->stopped || (e = elapsed(c, tick)) < 0) {
		load_counter(c, n, tick);
		return;
	}
	c->next = n;
	c->has_next = true;
	c->switch_at = tick - (uint64_t)(e % c->count) + c->count;
}

static void write_byte(struct pit_channel *c, uint8_t v, uint64_t tick)
{
	switch (c->access) {
	case 1:
		write_count(c, v, tick);
		break;
	case 2:
		write_count(c, (uint16_t)(v << 8), tick);
		break;
	default:
		if (c->write_high_next) {
			write_count(c, (uint16_t)(v << 8 | c->write_low), tick);
		} else {
			c->write_low = v;
			if (c->mode == 0) /* the first byte stops the count */
				c->armed = false;
		}
		c->write_high_next = !c->write_high_next;
		break;
	}
}

static void set_mode(struct pit_channel *c, uint8_t v)
{
	uint8_t mode = v >> 1 & 7;

	c->access = v >> 4 & 3;
	c->mode = mode > 5 ? mode & 3 : mode;
	c->bcd = v & 1;
	c->armed = c->stopped = c->has_next = false;
	c->write_high_next = c->read_high_next = false;
	c->latched = 0;
	c->status_latched = false;
	c->null_count = true;
	c->count = c->count ? c->count : 65536;
}

static void gate_rises(struct pit_channel *c, uint64_t tick)
{
	if (triggered(c)) {
		if (c->has_next || c->armed)
			load_counter(c, c->has_next ? c->next : c->count, tick);
	} else if (periodic(c)) {
		if (c->armed)
			load_counter(c, c->has_next ? c->next : c->count, tick);
	} else if (c->stopped) {
		c->start += tick - c->stop_tick;
		c->stopped = false;
	}
}

static void set_gate(struct pit_channel *c, bool gate, uint64_t tick)
{
	if (gate == c->gate)
		return;
	settle(c, tick);
	c->gate = gate;
	if (gate) {
		gate_rises(c, tick);
	} else if (!triggered(c) && c->armed && !c->stopped) {
		c->stopped = true;
		c->stop_tick = tick;
	}
}

/* ---- reading a channel ---- */

static void latch_count(struct pit_channel *c, uint64_t tick)
{
	if (c->latched)
		return;
	c->latch = visible_count(c, tick);
	c->latched = c->access;
}

static void latch_status(struct pit_channel *c, uint64_t tick)
{
	if (c->status_latched)
		return;
	c->status_latched = true;
	c->status = (uint8_t)(output(c, tick) << 7 | c->null_count << 6 | c->access << 4 | c->mode << 1 |
			      c->bcd);
}

static uint8_t read_byte(struct pit_channel *c, uint64_t tick)
{
	uint16_t v;
	bool high;

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	if (c->latched) {
		high = !(c->latched & 1);
		c->latched = high ? 0 : c->latched & 2;
		return (uint8_t)(high ? c->latch >> 8 : c->latch);
	}
	v = visible_count(c, tick);
	high = c->access == 2 || (c->access == 3 && c->read_high_next);
	if (c->access == 3)
		c->read_high_next = !c->read_high_next;
	return (uint8_t)(high ? v >> 8 : v);
}

/* ---- the chip ---- */

void pit_init(struct pit *p)
{
	memset(p, 0, sizeof(*p));
	for (unsigned i = 0; i < 3; i++) {
		p->channel[i].access = 3;
		p->channel[i].mode = 3; /* as firmware leaves it, but not counting */
		p->channel[i].gate = i != 2;
		p->channel[i].count = 65536;
	}
	p->out0 = true;
}

/* Finds out whether channel 0's output rose since the last look. */
static void look(struct pit *p, uint64_t tick)
{
	struct pit_channel *c = &p->channel[0];
	uint64_t at = p->seen;
	bool was = p->out0, now;

	/* a period has at most four changes, so a few steps see every kind of edge */
	for (unsigned steps = 0; steps < 8 && (at = next_change(c, at)) <= tick; steps++) {
		settle(c, at);
		now = output(c, at);
		p->pulse0 |= now && !was;
		was = now;
	}
	settle(c, tick);
	p->out0 = output(c, tick);
	p->pulse0 |= p->out0 && !was;
	p->seen = tick;
}

static uint64_t pit_advance(void *state, uint64_t now)
{
	struct pit *p = state;
	uint64_t tick = tick_of(now), next;

	look(p, tick);
	next = next_change(&p->channel[0], tick);
	return next == NEVER ? UINT64_MAX : time_of(next);
}

static uint32_t pit_irq(void *state, uint32_t *pulses)
{
	struct pit *p = state;

	*pulses = p->pulse0 ? 1u << PIT_IRQ : 0;
	p->pulse0 = false;
	return p->out0 ? 1u << PIT_IRQ : 0;
}

static void write_control(struct pit *p, uint8_t v, uint64_t tick)
{
	struct pit_channel *c = &p->channel[v >> 6 & 3];

	if (v >> 6 == 3) { /* read-back: counts first, then status, of the channels chosen */
		for (unsigned i = 0; i < 3; i++) {
			if (!(v >> (i + 1) & 1))
				continue;
			settle(&p->channel[i], tick);
			if (!(v & 0x20))
				latch_count(&p->channel[i], tick);
			if (!(v & 0x10))
				latch_status(&p->channel[i], tick);
		}
	} else if (!(v & 0x30)) {
		settle(c, tick);
		latch_count(c, tick);
	} else {
		set_mode(c, v);
	}
}

static uint8_t read_port61(struct pit *p, uint64_t tick, uint64_t now)
{
	uint8_t v = p->port61;

	settle(&p->channel[2], tick);
	if (now / REFRESH_NS & 1)
		v |= P61_REFRESH;
	if (output(&p->channel[2], tick))
		v |= P61_OUT2;
	return v;
}

static uint64_t pit_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct pit *p = state;
	uint64_t tick = tick_of(now);

	(void)bytes;
	if (addr == 0x61)
		return read_port61(p, tick, now);
	if (addr == 0x43)
		return 0xff; /* write-only */
	look(p, tick);
	settle(&p->channel[addr & 3], tick);
	return read_byte(&p->channel[addr & 3], tick);
}

static void pit_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct pit *p = state;
	uint64_t tick = tick_of(now);

	(void)bytes;
	look(p, tick);
	if (addr == 0x61) {
		p->port61 = v & P61_WRITES;
		set_gate(&p->channel[2], v & P61_GATE2, tick);
	} else if (addr == 0x43) {
		write_control(p, (uint8_t)v, tick);
	} else {
		write_byte(&p->channel[addr & 3], (uint8_t)v, tick);
	}
	look(p, tick);
}

struct device pit_device(struct pit *p)
{
	static const struct device_range ranges[] = { { true, 0x40, 4 }, { true, 0x61, 1 }, { false, 0, 0 } };

	return (struct device){ .name = "pit", .state = p, .ranges = ranges, .byte_wide = true,
				.read = pit_read, .write = pit_write, .advance = pit_advance,
				.irq = pit_irq };
}

/* ---- state ---- */

#define CHANNEL_U(m, max) STATE_U_MAX(struct pit_channel, m, max)
#define CHANNEL_B(m)      STATE_B(struct pit_channel, m)

/* Counts are divided by. */
static int channel_check(void *object, struct error *err)
{
	const struct pit_channel *c = object;
	uint32_t least = periodic(c) ? 2 : 1;

	if (!c->access || c->count < 1 || (c->armed && c->count < least) || (c->has_next && c->next < least))
		return error_set(err, -EINVAL, "state of pit: mode %u, access %u, count %u, next %u", c->mode, c->access,
				 c->count, c->next);
	return 0;
}

static const struct state_field channel_fields[] = {
	CHANNEL_U(mode, 5), CHANNEL_U(access, 3), CHANNEL_B(bcd), CHANNEL_B(gate), CHANNEL_U(write_low, 0xff),
	CHANNEL_B(write_high_next), CHANNEL_B(read_high_next), CHANNEL_U(latched, 3), CHANNEL_U(latch, 0xffff),
	CHANNEL_B(status_latched), CHANNEL_U(status, 0xff), CHANNEL_B(null_count), CHANNEL_B(armed), CHANNEL_B(stopped),
	CHANNEL_U(stop_tick, DEVICE_TIME_MAX), CHANNEL_U(start, DEVICE_TIME_MAX), CHANNEL_U(count, 65536),
	CHANNEL_B(has_next), CHANNEL_U(next, 65536), CHANNEL_U(switch_at, DEVICE_TIME_MAX),
};
static const struct state_desc channel_desc = STATE_DESC("pit-channel", 1, channel_fields, .check = channel_check);

static const struct state_field pit_fields[] = {
	STATE_SV(struct pit, channel, &channel_desc), STATE_U_MAX(struct pit, port61, P61_WRITES),
	STATE_U_MAX(struct pit, seen, DEVICE_TIME_MAX), STATE_B(struct pit, out0), STATE_B(struct pit, pulse0),
};
const struct state_desc pit_desc = STATE_DESC("pit", 1, pit_fields);
