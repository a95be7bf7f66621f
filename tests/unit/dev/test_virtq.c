/* Split virtqueues: what they are for, and what a hostile driver makes of them. */
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
	refused("available ring");
	q.avail = ~0ull - 1;
	refused("available ring");
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
