/*
 * A guest gone wild: random accesses of every width to every register of every
 * device, with time that jumps. Nothing may crash (the sanitizers watch), events
 * must lie in the future, and the same sequence must give the same answers.
 */
#include "dev_test.h"

#include "vm/platform.h"

#define ACCESSES 150000

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* An address in or close to a device's range. */
static uint64_t pick_address(const struct platform *p, uint64_t *seed, bool *pio)
{
	const struct device_range *r = p->device[next_random(seed) % p->devices].ranges;
	unsigned n = 0;

	while (r[n].bytes)
		n++;
	r += next_random(seed) % n;
	*pio = r->pio;
	return r->base + next_random(seed) % min_u64(r->bytes + 2, 0x48) - 1;
}

static uint64_t pick_value(uint64_t *seed)
{
	uint64_t v = next_random(seed);

	switch (v >> 60 & 3) {
	case 0:
		return v & 0xff;
	case 1:
		return v & 0x3f;
	case 2:
		return 1ull << (v & 63);
	default:
		return v;
	}
}

static uint64_t pick_time(uint64_t now, uint64_t *seed)
{
	uint64_t v = next_random(seed);

	switch (v & 63) {
	case 0:
		return now + (v >> 20) % (100 * SECOND);
	case 1:
		return now - (v >> 20) % MS; /* an owner that makes a mistake */
	default:
		return now + (v >> 20) % 10000;
	}
}

/* Takes whatever is on offer; returns a digest of it. */
static uint64_t drain(struct platform *p)
{
	uint64_t addr, digest = p->next_event;
	uint32_t data;
	uint8_t buf[64];

	for (unsigned i = 0; i < 100 && platform_take_msi(p, &addr, &data); i++)
		digest = digest * 31 + addr + data;
	if (platform_pic_intr(p))
		digest = digest * 31 + platform_pic_ack(p);
	return digest * 31 + (platform_take_output(p, buf, sizeof(buf)) + platform_take_log(p, buf, sizeof(buf)));
}

static uint64_t run(uint64_t seed, bool firmware)
{
	static struct platform p;
	uint64_t now = 0, digest = 0, addr, v;
	unsigned bytes;
	bool pio;

	platform_init(&p, 1 << 30, RTC_DEFAULT_EPOCH, firmware);
	for (unsigned i = 0; i < ACCESSES; i++) {
		addr = pick_address(&p, &seed, &pio);
		v = pick_value(&seed);
		now = pick_time(now, &seed);
		bytes = 1 + (unsigned)(next_random(&seed) & 7);
		platform_io(&p, pio, next_random(&seed) & 1, addr, bytes, &v, now);
		now = max_u64(now, p.now);
		assert_true(p.next_event > p.now);
		if ((i & 15) == 0)
			now = max_u64(now, min_u64(platform_next_event(&p), now + 50 * MS));
		assert_true(platform_advance(&p, now) > p.now);
		if ((i & 255) == 0)
			platform_put_input(&p, (const uint8_t *)&v, 8);
		if ((i & 1023) == 0)
			platform_power_button(&p);
		platform_eoi(&p, (uint8_t)v);
		digest = digest * 1000003 + v + drain(&p);
	}
	return digest;
}

static void wild_guest(void **state)
{
	uint64_t first = run(0x1234567, false);

	(void)state;
	assert_true(first == run(0x1234567, false));
	assert_true(first != run(0x7654321, false));
	assert_true(first != run(0x1234567, true));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(wild_guest) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
