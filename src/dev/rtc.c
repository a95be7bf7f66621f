/*
 * The real-time clock: time and date with century in BCD or binary, 12 or 24 hours;
 * alarm, periodic and update-ended interrupts; update in progress; CMOS memory
 * with the memory-size bytes that old software reads.
 *
 * The clock shows a fixed start plus virtual time, so runs are deterministic. Nothing
 * ticks: flags are worked out from the time that has passed since they were last looked
 * at, and events are asked for only while an interrupt is enabled.
 *
 * Left out: daylight saving, stopping the divider chain, the square-wave pin, the alarm's
 * day and month. The day of the week is always that of the date.
 *
 * Source: the MC146818 data sheet; CMOS addresses as PC firmware uses them.
 */
#include "dev/rtc.h"

#include <errno.h>

#define NS 1000000000ull

enum {
	SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR,
	REG_A, REG_B, REG_C, REG_D,
};

#define A_UIP    0x80
#define B_SET    0x80
#define B_PIE    0x40
#define B_AIE    0x20
#define B_UIE    0x10
#define B_BINARY 0x04
#define B_24H    0x02
#define C_IRQF   0x80
#define C_PF     0x40
#define C_AF     0x20
#define C_UF     0x10
#define D_VALID  0x80
#define UIP_NS   244000 /* announced this long before the update */
#define HOUR_PM  0x80

/* ---- the calendar ---- */

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar. */
static int64_t days_from_date(int64_t year, unsigned month, unsigned day)
{
	int64_t y = month <= 2 ? year - 1 : year; /* years begin in March, so that leap days come last */
	int64_t era = (y >= 0 ? y : y - 399) / 400, of_era = y - era * 400;
	int64_t of_year = (153 * (int64_t)(month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

struct date { int64_t year; unsigned month, day; };

static struct date date_from_days(int64_t days)
{
	int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, d = z - era * 146097;
	int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365, of_year = d - (365 * y + y / 4 - y / 100);
	unsigned m = (unsigned)((5 * of_year + 2) / 153);

	return (struct date){ .year = y + era * 400 + (m >= 10), .month = m < 10 ? m + 3 : m - 9,
			      .day = (unsigned)(of_year - (153 * m + 2) / 5 + 1) };
}

static int64_t seconds_at(const struct rtc *r, uint64_t now) { return r->epoch + (int64_t)(now / NS); }

/* ---- how registers show numbers ---- */

static uint8_t encode(const struct rtc *r, unsigned n)
{
	return (uint8_t)(r->cmos[REG_B] & B_BINARY ? n : n / 10 % 10 << 4 | n % 10);
}

static unsigned decode(const struct rtc *r, uint8_t v)
{
	return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static uint8_t encode_hour(const struct rtc *r, unsigned hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *r, uint8_t v)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & 0x7f) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Writes the time into the registers. */
static void show_time(struct rtc *r, uint64_t now)
{
	int64_t t = seconds_at(r, now), days = t / 86400;
	unsigned of_day;
	struct date d;

	if (t % 86400 < 0)
		days--;
	of_day = (unsigned)(t - days * 86400);
	d = date_from_days(days);
	r->cmos[SECONDS] = encode(r, of_day % 60);
	r->cmos[MINUTES] = encode(r, of_day / 60 % 60);
	r->cmos[HOURS] = encode_hour(r, of_day / 3600);
	/* Sunday is 1; 1970-01-01 was a Thursday */
	r->cmos[WEEKDAY] = encode(r, (unsigned)(((days + 4) % 7 + 7) % 7 + 1));
	r->cmos[DAY] = encode(r, d.day);
	r->cmos[MONTH] = encode(r, d.month);
	r->cmos[YEAR] = encode(r, (unsigned)(d.year % 100));
	r->cmos[RTC_CENTURY] = encode(r, (unsigned)(d.year / 100 % 100));
}

/* Makes the registers the time. Whatever they hold gives some time; nonsense gives a nonsensical one. */
static void take_time(struct rtc *r, uint64_t now)
{
	int64_t year = decode(r, r->cmos[RTC_CENTURY]) * 100 + decode(r, r->cmos[YEAR]), t;
	unsigned month = decode(r, r->cmos[MONTH]) % 16;

	t = days_from_date(year, month ? month : 1, decode(r, r->cmos[DAY])) * 86400;
	t += decode_hour(r, r->cmos[HOURS]) * 3600 + decode(r, r->cmos[MINUTES]) * 60;
	t += decode(r, r->cmos[SECONDS]);
	r->epoch = t - (int64_t)(now / NS);
}

static bool stopped(const struct rtc *r) { return r->cmos[REG_B] & B_SET; }

/* ---- interrupts ---- */

/* Period of the periodic interrupt in 1/32768 s; 0 if off. */
static uint64_t period(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & 15;

	if (rate == 0)
		return 0;
	return 1ull << (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t tick_of(uint64_t ns) { return (uint64_t)((unsigned __int128)ns * 32768 / NS); }

static uint64_t time_of(uint64_t tick)
{
	return (uint64_t)(((unsigned __int128)tick * NS + 32767) / 32768);
}

/* The first value from @from up that an alarm field matches below @limit, or -1. */
static int next_match(int field, int from, int limit)
{
	if (field < 0)
		return from < limit ? from : -1;
	return field >= from && field < limit ? field : -1;
}

/* An alarm register: a value, or -1 for "any". */
static int alarm_field(const struct rtc *r, unsigned reg)
{
	uint8_t v = r->cmos[reg];

	if (v >= 0xc0)
		return -1;
	return (int)(reg == HOURS_ALARM ? decode_hour(r, v) : decode(r, v));
}

/* First second of a day, @from or later, at which the alarm goes off; -1 if none. */
static int alarm_in_day(const struct rtc *r, int from)
{
	int ah = alarm_field(r, HOURS_ALARM), am = alarm_field(r, MINUTES_ALARM);
	int as = alarm_field(r, SECONDS_ALARM), h, m, s;

	for (h = next_match(ah, from / 3600, 24); h >= 0; h = next_match(ah, h + 1, 24)) {
		bool first_hour = h == from / 3600;

		m = next_match(am, first_hour ? from / 60 % 60 : 0, 60);
		for (; m >= 0; m = next_match(am, m + 1, 60)) {
			s = next_match(as, first_hour && m == from / 60 % 60 ? from % 60 : 0, 60);
			if (s >= 0)
				return h * 3600 + m * 60 + s;
		}
	}
	return -1;
}

/* Virtual time of the first alarm after @after; UINT64_MAX if none. */
static uint64_t next_alarm(const struct rtc *r, uint64_t after)
{
	uint64_t second = after / NS + 1;
	int64_t t = r->epoch + (int64_t)second, of_day = (t % 86400 + 86400) % 86400;
	int at = alarm_in_day(r, (int)of_day);
	uint64_t wait;

	if (at >= 0) {
		wait = (uint64_t)(at - of_day);
	} else {
		at = alarm_in_day(r, 0);
		if (at < 0)
			return UINT64_MAX;
		wait = (uint64_t)(86400 - of_day + at);
	}
	return second + wait > UINT64_MAX / NS ? UINT64_MAX : (second + wait) * NS;
}

/* Sets the flags of what has happened up to @now. */
static void update_flags(struct rtc *r, uint64_t now)
{
	uint64_t p = period(r);
	uint8_t *c = &r->cmos[REG_C];

	if (p && tick_of(now) / p != tick_of(r->checked) / p)
		*c |= C_PF;
	if (!stopped(r)) {
		if (now / NS != r->checked / NS)
			*c |= C_UF;
		if (!(*c & C_AF) && next_alarm(r, r->checked) <= now)
			*c |= C_AF;
	}
	r->checked = now;
	*c = *c & r->cmos[REG_B] & (B_PIE | B_AIE | B_UIE) ? *c | C_IRQF : *c & (uint8_t)~C_IRQF;
}

/* While the line is up nothing new can be heard. */
static uint64_t rtc_advance(void *state, uint64_t now)
{
	struct rtc *r = state;
	uint64_t next = UINT64_MAX, p = period(r);
	uint8_t b = r->cmos[REG_B];

	update_flags(r, now);
	if (r->cmos[REG_C] & C_IRQF)
		return UINT64_MAX;
	if ((b & B_PIE) && p)
		next = min_u64(next, time_of((tick_of(now) / p + 1) * p));
	if ((b & B_UIE) && !stopped(r))
		next = min_u64(next, (now / NS + 1) * NS);
	if ((b & B_AIE) && !stopped(r))
		next = min_u64(next, next_alarm(r, now));
	return next;
}

static uint32_t rtc_irq(void *state, uint32_t *pulses)
{
	const struct rtc *r = state;

	*pulses = 0;
	return r->cmos[REG_C] & C_IRQF ? 1u << RTC_IRQ : 0;
}

/* ---- registers ---- */

static bool time_register(unsigned i)
{
	return i == SECONDS || i == MINUTES || i == HOURS || (i >= WEEKDAY && i <= YEAR) || i == RTC_CENTURY;
}

static uint8_t read_cmos(struct rtc *r, uint64_t now)
{
	uint8_t v;

	if (time_register(r->index) && !stopped(r))
		show_time(r, now);
	switch (r->index) {
	case REG_A:
		v = r->cmos[REG_A];
		return !stopped(r) && now % NS >= NS - UIP_NS ? v | A_UIP : v;
	case REG_C: /* reading takes everything back */
		v = r->cmos[REG_C];
		r->cmos[REG_C] = 0;
		return v;
	case REG_D:
		return D_VALID;
	default:
		return r->cmos[r->index];
	}
}

/* Starting and stopping the clock; a change of format does not convert what software has stored. */
static void write_reg_b(struct rtc *r, uint8_t v, uint64_t now)
{
	bool was_stopped = stopped(r);

	if (!was_stopped && (v & B_SET)) {
		show_time(r, now);
		v &= (uint8_t)~B_UIE; /* the chip does this itself */
	}
	r->cmos[REG_B] = v;
	if (was_stopped && !(v & B_SET))
		take_time(r, now);
}

static void write_cmos(struct rtc *r, uint8_t v, uint64_t now)
{
	switch (r->index) {
	case REG_A:
		r->cmos[REG_A] = v & (uint8_t)~A_UIP;
		break;
	case REG_B:
		write_reg_b(r, v, now);
		break;
	case REG_C:
	case REG_D:
		break;
	default:
		if (time_register(r->index) && !stopped(r)) {
			show_time(r, now);
			r->cmos[r->index] = v;
			take_time(r, now);
		} else {
			r->cmos[r->index] = v;
		}
		break;
	}
}

static uint64_t rtc_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct rtc *r = state;

	(void)bytes;
	if (addr == RTC_PORT)
		return 0xff; /* write-only */
	update_flags(r, now);
	return read_cmos(r, now);
}

static void rtc_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct rtc *r = state;

	(void)bytes;
	if (addr == RTC_PORT) {
		r->index = v & 0x7f;
		r->nmi_masked = v & 0x80;
		return;
	}
	update_flags(r, now);
	write_cmos(r, (uint8_t)v, now);
	update_flags(r, now);
}

/* ---- start ---- */

static void put_word(struct rtc *r, unsigned i, uint64_t v)
{
	r->cmos[i] = (uint8_t)v;
	r->cmos[i + 1] = (uint8_t)(v >> 8);
}

/* Memory sizes: base and extended in KiB, above 16 MiB and above 4 GiB in units of 64 KiB. */
static void put_memory(struct rtc *r, uint64_t memory)
{
	uint64_t low = min_u64(memory, 3ull << 30), units = min_u64((memory - low) >> 16, 0xffffff);
	uint64_t extended = low > 1 << 20 ? min_u64((low >> 10) - 1024, 0xffff) : 0;

	put_word(r, 0x15, 640);
	put_word(r, 0x17, extended);
	put_word(r, 0x30, extended);
	put_word(r, 0x34, low > 16 << 20 ? min_u64((low - (16 << 20)) >> 16, 0xffff) : 0);
	put_word(r, 0x5b, units);
	r->cmos[0x5d] = (uint8_t)(units >> 16);
}

void rtc_init(struct rtc *r, uint64_t memory, int64_t epoch)
{
	memset(r, 0, sizeof(*r));
	r->epoch = epoch;
	r->cmos[REG_A] = 0x26; /* 32768 Hz crystal; 1024 Hz periodic rate */
	r->cmos[REG_B] = B_24H;
	r->cmos[0x14] = 0x02;  /* equipment: a coprocessor */
	put_memory(r, memory);
}

struct device rtc_device(struct rtc *r)
{
	static const struct device_range ranges[] = { { true, RTC_PORT, 2 }, { false, 0, 0 } };

	return (struct device){ .name = "rtc", .state = r, .ranges = ranges, .byte_wide = true,
				.read = rtc_read, .write = rtc_write, .advance = rtc_advance,
				.irq = rtc_irq };
}

/* ---- state ---- */

#define EPOCH_MAX (1ll << 45) /* s: a date of five digits is far within, and sums do not overflow */

static int rtc_check(void *object, struct error *err)
{
	const struct rtc *r = object;

	if (r->epoch > EPOCH_MAX || r->epoch < -EPOCH_MAX)
		return error_set(err, -EINVAL, "state of rtc: the clock began %lld s after 1970", (long long)r->epoch);
	return 0;
}

static const struct state_field rtc_fields[] = {
	STATE_U_MAX(struct rtc, index, 127), STATE_B(struct rtc, nmi_masked), STATE_DATA(struct rtc, cmos),
	STATE_U(struct rtc, epoch), STATE_U_MAX(struct rtc, checked, DEVICE_TIME_MAX),
};
const struct state_desc rtc_desc = STATE_DESC("rtc", 1, rtc_fields, .check = rtc_check);
