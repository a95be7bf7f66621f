/* Virtqueues, split and packed: what they are for, and what a hostile driver makes of them. */
#include "dev_test.h"
#include "virtio_rig.h"

#define RING 0x100000ull
#define DATA 0x110000ull

static struct rig r;
static struct rig_ring ring;
static struct virtq q;
static struct virtq_chain c;

static int setup(void **state)
{
	(void)state;
	rig_init(&r);
	ring = rig_ring(RING, 8);
	virtq_reset(&q, 8);
	q.desc = ring.desc;
	q.avail = ring.avail;
	q.used = ring.used;
	q.enabled = true;
	q.indirect = true;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_free(&r);
	return 0;
}

static void desc(unsigned i, uint64_t a, uint32_t bytes, unsigned flags, unsigned next)
{
	rig_desc(&r, ring.desc, i, a, bytes, (uint16_t)flags, (uint16_t)next);
}

static int pop(void) { return virtq_pop(&q, &r.dma, &c); }

static void chain_there_and_back(void **state)
{
	char text[32] = "";
	uint32_t bytes;

	(void)state;
	assert_int_equal(pop(), 0);
	assert_false(virtq_has_work(&q, &r.dma));
	desc(3, DATA, 5, RIG_NEXT, 0);
	desc(0, DATA + 0x100, 0, RIG_NEXT, 7);
	desc(7, DATA + 0x200, 6, RIG_NEXT, 1);
	desc(1, DATA + 0x300, 4, RIG_WRITE | RIG_NEXT, 2);
	desc(2, DATA + 0x400, 100, RIG_WRITE, 2);
	memcpy(rig_at(&r, DATA), "hello", 5);
	memcpy(rig_at(&r, DATA + 0x200), " there", 6);
	rig_offer(&r, &ring, 3);
	assert_true(virtq_has_work(&q, &r.dma));
	assert_int_equal(pop(), 1);
	assert_int_equal(c.head, 3);
	assert_int_equal(c.outs, 3);
	assert_int_equal(c.ins, 2);
	assert_int_equal(c.out_bytes, 11);
	assert_int_equal(c.in_bytes, 104);
	assert_int_equal(virtq_read(&c, &r.dma, 0, text, sizeof(text)), 11);
	assert_string_equal(text, "hello there");
	memset(text, 0, sizeof(text));
	assert_int_equal(virtq_read(&c, &r.dma, 4, text, 3), 3);
	assert_string_equal(text, "o t");
	assert_int_equal(virtq_read(&c, &r.dma, 11, text, 1), 0);
	assert_int_equal(virtq_write(&c, &r.dma, 2, "abcdef", 6), 6);
	assert_memory_equal(rig_at(&r, DATA + 0x302), "ab", 2);
	assert_memory_equal(rig_at(&r, DATA + 0x400), "cdef", 4);
	assert_int_equal(virtq_write(&c, &r.dma, 103, "xyz", 3), 1);
	assert_int_equal(pop(), 0);
	assert_int_equal(virtq_push(&q, &r.dma, c.head, 8), 0);
	assert_int_equal(rig_used_idx(&r, &ring), 1);
	assert_int_equal(rig_used(&r, &ring, 0, &bytes), 3);
	assert_int_equal(bytes, 8);
}

/* The free-running indices pass 65536. */
static void wraps_around(void **state)
{
	uint32_t bytes;

	(void)state;
	for (unsigned i = 0; i < 70000; i++) {
		desc(i % 8, DATA, i, RIG_WRITE, 0);
		rig_offer(&r, &ring, i % 8);
		assert_int_equal(pop(), 1);
		assert_int_equal(c.head, i % 8);
		assert_int_equal(virtq_push(&q, &r.dma, c.head, i), 0);
		assert_int_equal(rig_used(&r, &ring, (uint16_t)i, &bytes), i % 8);
		assert_int_equal(rig_used_idx(&r, &ring), (i + 1) & 0xffff);
	}
	assert_null(q.broken);
}

static void indirect(void **state)
{
	(void)state;
	rig_desc(&r, DATA, 0, DATA + 0x1000, 16, RIG_NEXT, 2);
	rig_desc(&r, DATA, 2, DATA + 0x2000, 32, RIG_WRITE, 0);
	desc(1, DATA + 0x3000, 7, RIG_NEXT, 5);
	desc(5, DATA, 48, RIG_INDIRECT, 0);
	rig_offer(&r, &ring, 1);
	assert_int_equal(pop(), 1);
	assert_int_equal(c.outs, 2);
	assert_int_equal(c.ins, 1);
	assert_int_equal(c.out_bytes, 23);
	assert_int_equal(c.part[1].gpa, DATA + 0x1000);
}

/* The queue is broken, for this reason; on with a new one. */
static void refused(const char *why)
{
	assert_int_equal(pop(), -EINVAL);
	assert_non_null(q.broken);
	assert_non_null(strstr(q.broken, why));
	teardown(NULL);
	setup(NULL);
}

static void bad_chains(void **state)
{
	(void)state;
	desc(0, DATA, 1, RIG_NEXT, 0); /* leads to itself */
	rig_offer(&r, &ring, 0);
	refused("longer than the queue");
	desc(0, DATA, 1, RIG_NEXT, 8);
	rig_offer(&r, &ring, 0);
	refused("out of its table");
	rig_offer(&r, &ring, 8);
	refused("out of its table");
	desc(0, DATA, 1, RIG_WRITE | RIG_NEXT, 1);
	desc(1, DATA, 1, 0, 0);
	rig_offer(&r, &ring, 0);
	refused("follows one to write");
	desc(0, RIG_RAM_BASE + RIG_RAM_BYTES - 4, 5, 0, 0);
	rig_offer(&r, &ring, 0);
	refused("not in RAM");
	desc(0, ~0ull - 3, 8, RIG_WRITE, 0); /* wraps around */
	rig_offer(&r, &ring, 0);
	refused("not in RAM");
	desc(0, DATA, 0xffffffff, RIG_WRITE, 0);
	rig_offer(&r, &ring, 0);
	refused("not in RAM");
}

static void bad_indirects(void **state)
{
	(void)state;
	desc(0, DATA, 16, RIG_INDIRECT, 0);
	rig_offer(&r, &ring, 0);
	q.indirect = false;
	refused("not negotiated");
	for (unsigned i = 0; i < 3; i++) {
		static const struct { uint32_t bytes; unsigned flags; } bad[] = {{0, 0}, {24, 0}, {16, RIG_NEXT}};

		desc(0, DATA, bad[i].bytes, RIG_INDIRECT | bad[i].flags, 1);
		rig_offer(&r, &ring, 0);
		refused("impossible form");
	}
	desc(0, DATA, 16, RIG_INDIRECT, 0);
	rig_desc(&r, DATA, 0, DATA, 16, RIG_INDIRECT, 0);
	rig_offer(&r, &ring, 0);
	refused("within an indirect");
	desc(0, DATA, 32, RIG_INDIRECT, 0);
	rig_desc(&r, DATA, 0, DATA, 16, RIG_NEXT, 2);
	rig_offer(&r, &ring, 0);
	refused("out of its table");
	desc(0, DATA, 32, RIG_INDIRECT, 0);
	rig_desc(&r, DATA, 0, DATA, 16, RIG_NEXT, 0);
	rig_offer(&r, &ring, 0);
	refused("longer than the queue");
	desc(0, RIG_RAM_BASE + RIG_RAM_BYTES - 16, 64, RIG_INDIRECT, 0);
	rig_desc(&r, RIG_RAM_BASE + RIG_RAM_BYTES - 16, 0, DATA, 16, RIG_NEXT, 1);
	rig_offer(&r, &ring, 0);
	refused("not in RAM");
}

static void bad_indices(void **state)
{
	(void)state;
	put_u16(rig_at(&r, ring.avail) + 2, 9);
	refused("runs away");
	rig_offer(&r, &ring, 0);
	desc(0, DATA, 1, 0, 0);
	assert_int_equal(pop(), 1);
	put_u16(rig_at(&r, ring.avail) + 2, 0); /* backwards */
	refused("runs away");
	desc(0, DATA, 1, 0, 0);
	for (unsigned i = 0; i < 8; i++) { /* one head again and again */
		rig_offer(&r, &ring, 0);
		assert_int_equal(pop(), 1);
	}
	rig_offer(&r, &ring, 0);
	refused("more chains in use");
}

static void rings_outside(void **state)
{
	(void)state;
	q.avail = RIG_RAM_BASE - 4;
	refused("what the driver says");
	q.avail = ~0ull - 1;
	refused("what the driver says");
	q.desc = RIG_RAM_BASE + RIG_RAM_BYTES - 8;
	rig_offer(&r, &ring, 0);
	refused("descriptor is not in RAM");
	desc(0, DATA, 1, 0, 0);
	rig_offer(&r, &ring, 0);
	assert_int_equal(pop(), 1);
	q.used = RIG_RAM_BASE + RIG_RAM_BYTES;
	assert_int_equal(virtq_push(&q, &r.dma, 0, 0), -EINVAL);
	refused("used ring");
	q.enabled = false;
	assert_int_equal(pop(), 0);
}

static void give(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		desc(0, DATA, 1, 0, 0);
		rig_offer(&r, &ring, 0);
		assert_int_equal(pop(), 1);
		assert_int_equal(virtq_push(&q, &r.dma, 0, 0), 0);
	}
}

static void interrupts(void **state)
{
	(void)state;
	assert_false(virtq_wants_interrupt(&q, &r.dma)); /* nothing given back */
	give(1);
	assert_true(virtq_wants_interrupt(&q, &r.dma));
	assert_false(virtq_wants_interrupt(&q, &r.dma)); /* once */
	put_u16(rig_at(&r, ring.avail), 1);
	give(1);
	assert_false(virtq_wants_interrupt(&q, &r.dma));
	q.event_idx = true; /* the flag does not count then */
	put_u16(rig_at(&r, ring.avail) + 4 + 2 * 8, 4);
	give(2);
	assert_false(virtq_wants_interrupt(&q, &r.dma)); /* entries 2 and 3 */
	give(1);
	assert_true(virtq_wants_interrupt(&q, &r.dma)); /* entry 4 */
	give(1);
	assert_false(virtq_wants_interrupt(&q, &r.dma));
}

static void notifications(void **state)
{
	(void)state;
	virtq_want_notification(&q, &r.dma, false);
	assert_int_equal(get_u16(rig_at(&r, ring.used)), 1);
	virtq_want_notification(&q, &r.dma, true);
	assert_int_equal(get_u16(rig_at(&r, ring.used)), 0);
	q.event_idx = true;
	give(3);
	virtq_want_notification(&q, &r.dma, true);
	assert_int_equal(get_u16(rig_at(&r, ring.used) + 4 + 8 * 8), 3);
	virtq_want_notification(&q, &r.dma, false);
	assert_int_equal(get_u16(rig_at(&r, ring.used) + 4 + 8 * 8), 0x8003);
}

/* ---- packed ---- */

#define EVENTS_DRIVER 0x101000ull
#define EVENTS_DEVICE 0x101100ull

enum { AVAIL = 1 << 7, USED = 1 << 15 };

/* What a driver keeps. */
static struct { unsigned next; bool lap; } at;

static int setup_packed(void **state)
{
	setup(state);
	virtq_reset(&q, 5); /* no power of two */
	q.desc = RING;
	q.avail = EVENTS_DRIVER;
	q.used = EVENTS_DEVICE;
	q.enabled = q.packed = q.indirect = true;
	at.next = 0;
	at.lap = true;
	return 0;
}

static void put(unsigned i, uint64_t a, uint32_t bytes, unsigned flags, unsigned id)
{
	rig_desc(&r, RING, i, a, bytes, (uint16_t)id, (uint16_t)flags); /* the two are the other way round */
}

/* The next descriptor becomes available. */
static void add(uint64_t a, uint32_t bytes, unsigned flags, unsigned id)
{
	put(at.next, a, bytes, flags | (at.lap ? AVAIL : USED), id);
	if (++at.next == 5) {
		at.next = 0;
		at.lap = !at.lap;
	}
}

static unsigned flags_of(unsigned i) { return get_u16(rig_at(&r, RING) + 16 * i + 14); }

static void packed_there_and_back(void **state)
{
	char text[16] = "";

	(void)state;
	assert_int_equal(pop(), 0);
	memcpy(rig_at(&r, DATA), "abc", 3);
	add(DATA, 3, RIG_NEXT, 7);
	assert_true(virtq_has_work(&q, &r.dma));
	add(DATA + 16, 8, RIG_NEXT | RIG_WRITE, 7);
	add(DATA + 32, 8, RIG_WRITE, 9); /* the last one's ID counts */
	assert_int_equal(pop(), 1);
	assert_int_equal(c.head, 9);
	assert_int_equal(c.outs, 1);
	assert_int_equal(c.ins, 2);
	assert_int_equal(virtq_read(&c, &r.dma, 0, text, 16), 3);
	assert_string_equal(text, "abc");
	assert_int_equal(pop(), 0);
	assert_int_equal(virtq_push(&q, &r.dma, 9, 12), 0);
	assert_int_equal(flags_of(0), AVAIL | USED | RIG_WRITE);
	assert_int_equal(get_u32(rig_at(&r, RING) + 8), 12);
	assert_int_equal(get_u16(rig_at(&r, RING) + 12), 9);
	/* Two chains over the end of the ring, given back in the other order. */
	add(DATA, 1, 0, 1);
	add(DATA, 1, RIG_NEXT, 2);
	add(DATA, 1, 0, 2);
	assert_int_equal(pop(), 1);
	assert_int_equal(c.head, 1);
	assert_int_equal(pop(), 1);
	assert_int_equal(c.head, 2);
	assert_int_equal(q.in_use, 3);
	assert_int_equal(virtq_push(&q, &r.dma, 2, 0), 0);
	assert_int_equal(flags_of(3), AVAIL | USED);
	assert_int_equal(virtq_push(&q, &r.dma, 1, 0), 0);
	assert_int_equal(flags_of(0), 0); /* the next lap: both bits clear */
	assert_int_equal(q.in_use, 0);
	for (unsigned i = 0; i < 1000; i++) {
		add(DATA, i, RIG_WRITE | RIG_NEXT, 3);
		add(DATA, i, RIG_WRITE, 3);
		assert_int_equal(pop(), 1);
		assert_int_equal(c.in_bytes, 2 * i);
		assert_int_equal(pop(), 0);
		assert_int_equal(virtq_push(&q, &r.dma, 3, 1), 0);
	}
}

static void packed_indirect(void **state)
{
	(void)state;
	rig_desc(&r, DATA, 0, DATA + 0x1000, 16, 0, RIG_NEXT); /* a flag that means nothing here */
	rig_desc(&r, DATA, 1, DATA + 0x2000, 32, 0, RIG_WRITE);
	add(DATA, 32, RIG_INDIRECT, 4);
	assert_int_equal(pop(), 1);
	assert_int_equal(c.head, 4);
	assert_int_equal(c.outs, 1);
	assert_int_equal(c.ins, 1);
	assert_int_equal(q.in_use, 1);
}

static void packed_refused(const char *why)
{
	assert_int_equal(pop(), -EINVAL);
	assert_non_null(strstr(q.broken, why));
	teardown(NULL);
	setup_packed(NULL);
}

static void packed_bad(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5; i++)
		put(i, DATA, 1, RIG_NEXT | AVAIL, 0);
	packed_refused("longer than the queue");
	add(DATA, 1, 0, 256);
	packed_refused("buffer ID");
	add(RIG_RAM_BASE + RIG_RAM_BYTES, 1, 0, 0);
	packed_refused("not in RAM");
	add(DATA, 1, RIG_WRITE | RIG_NEXT, 0);
	add(DATA, 1, 0, 0);
	packed_refused("follows one to write");
	add(DATA, 0xfffffff0, RIG_INDIRECT, 0);
	packed_refused("longer than the queue");
	add(DATA, 16, RIG_INDIRECT | RIG_NEXT, 0);
	packed_refused("impossible form");
	add(DATA, 16, RIG_INDIRECT, 0);
	rig_desc(&r, DATA, 0, DATA, 16, 0, RIG_INDIRECT);
	packed_refused("within an indirect");
	q.desc = RIG_RAM_BASE + RIG_RAM_BYTES - 8;
	packed_refused("descriptor is not in RAM");
	for (unsigned i = 0; i < 5; i++)
		add(DATA, 1, 0, i);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(pop(), 1);
	add(DATA, 1, 0, 0); /* before anything came back */
	packed_refused("more chains in use");
	add(DATA, 1, 0, 0);
	assert_int_equal(pop(), 1);
	q.desc = 0;
	assert_int_equal(virtq_push(&q, &r.dma, 0, 0), -EINVAL);
	packed_refused("descriptor is not in RAM");
}

/* Chains taken and put back are there again, over the end of the ring, too. */
static void rewound(void **state)
{
	struct virtq_mark mark;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		add(DATA, 1, 0, 0);
		assert_int_equal(pop(), 1);
		virtq_push(&q, &r.dma, 0, 0);
	}
	mark = virtq_mark(&q);
	add(DATA, 11, 0, 1);
	add(DATA, 12, 0, 2);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(pop(), 1);
		assert_int_equal(c.out_bytes, 11);
		assert_int_equal(pop(), 1);
		assert_int_equal(c.out_bytes, 12);
		assert_int_equal(pop(), 0);
		virtq_rewind(&q, mark);
		assert_int_equal(q.in_use, 0);
	}
}

static void packed_give(void)
{
	add(DATA, 1, 0, 0);
	assert_int_equal(pop(), 1);
	assert_int_equal(virtq_push(&q, &r.dma, 0, 0), 0);
}

static void packed_events(void **state)
{
	uint8_t *driver = rig_at(&r, EVENTS_DRIVER), *device = rig_at(&r, EVENTS_DEVICE);

	(void)state;
	assert_false(virtq_wants_interrupt(&q, &r.dma));
	packed_give();
	assert_true(virtq_wants_interrupt(&q, &r.dma));
	assert_false(virtq_wants_interrupt(&q, &r.dma));
	put_u16(driver + 2, 1);
	packed_give();
	assert_false(virtq_wants_interrupt(&q, &r.dma));
	q.event_idx = true;
	put_u16(driver + 2, 2);
	put_u16(driver, 3 | 0x8000); /* the descriptor at 3, in this lap */
	packed_give();
	assert_false(virtq_wants_interrupt(&q, &r.dma)); /* that was the one at 2 */
	packed_give();
	assert_true(virtq_wants_interrupt(&q, &r.dma));
	put_u16(driver, 1); /* in the next lap */
	packed_give();
	assert_true(virtq_wants_interrupt(&q, &r.dma)); /* a new lap: once too often does no harm */
	packed_give();
	assert_false(virtq_wants_interrupt(&q, &r.dma));
	packed_give();
	assert_true(virtq_wants_interrupt(&q, &r.dma));
	virtq_want_notification(&q, &r.dma, true);
	assert_int_equal(get_u16(device + 2), 2);
	assert_int_equal(get_u16(device), 2);
	virtq_want_notification(&q, &r.dma, false);
	assert_int_equal(get_u16(device + 2), 1);
	q.event_idx = false;
	virtq_want_notification(&q, &r.dma, true);
	assert_int_equal(get_u16(device + 2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(chain_there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(wraps_around, setup, teardown),
		cmocka_unit_test_setup_teardown(indirect, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_chains, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_indirects, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_indices, setup, teardown),
		cmocka_unit_test_setup_teardown(rings_outside, setup, teardown),
		cmocka_unit_test_setup_teardown(interrupts, setup, teardown),
		cmocka_unit_test_setup_teardown(notifications, setup, teardown),
		cmocka_unit_test_setup_teardown(packed_there_and_back, setup_packed, teardown),
		cmocka_unit_test_setup_teardown(packed_indirect, setup_packed, teardown),
		cmocka_unit_test_setup_teardown(packed_bad, setup_packed, teardown),
		cmocka_unit_test_setup_teardown(rewound, setup_packed, teardown),
		cmocka_unit_test_setup_teardown(packed_events, setup_packed, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
