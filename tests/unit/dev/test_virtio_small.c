/* The small virtio devices: entropy, console, balloon. */
#include "dev_test.h"
#include "virtio_rig.h"

#include "dev/virtio_balloon.h"
#include "dev/virtio_console.h"
#include "dev/virtio_rng.h"

#define RING 0x100000ull /* queue n: 16 KiB further */
#define DATA 0x110000ull

static struct rig r;
static struct rig_ring ring[3];

static void begin(struct virtio *v, uint64_t features)
{
	rig_plug(&r, v);
	rig_enable_msix(&r, 0x40);
	for (unsigned i = 0; i < v->ops->queues; i++)
		ring[i] = rig_ring(RING + 0x4000 * i, 16);
	rig_start(&r, features, ring, v->ops->queues);
	assert_int_equal(rig_status(&r), 15);
}

static int setup(void **state)
{
	(void)state;
	rig_init(&r);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_free(&r);
	return 0;
}

static void request(unsigned queue, uint64_t a, uint32_t bytes, unsigned flags)
{
	rig_desc(&r, ring[queue].desc, 0, a, bytes, (uint16_t)flags, 0);
	rig_offer(&r, &ring[queue], 0);
	rig_ring_doorbell(&r, queue);
	rig_run(&r, 5);
}

/* ---- entropy ---- */

static void entropy(void **state)
{
	struct virtio_rng rng;
	uint8_t first[64];
	uint32_t bytes;

	(void)state;
	virtio_rng_init(&rng, &r.dma, 42, false);
	begin(&rng.virtio, 0);
	request(0, DATA, 61, RIG_WRITE);
	rig_used(&r, &ring[0], 0, &bytes);
	assert_int_equal(bytes, 61);
	memcpy(first, rig_at(&r, DATA), 64);
	assert_int_equal(first[61] | first[62] | first[63], 0);
	request(0, DATA, 61, RIG_WRITE);
	assert_memory_not_equal(first, rig_at(&r, DATA), 61);
	request(0, DATA, 0x10000, RIG_WRITE); /* not all at once */
	rig_used(&r, &ring[0], 2, &bytes);
	assert_int_equal(bytes, 4096);
	request(0, DATA, 16, 0); /* nothing to write into */
	rig_used(&r, &ring[0], 3, &bytes);
	assert_int_equal(bytes, 0);
	/* The same seed, the same numbers. */
	memset(rig_at(&r, RING), 0, 0x10000);
	virtio_rng_init(&rng, &r.dma, 42, false);
	begin(&rng.virtio, 0);
	request(0, DATA, 61, RIG_WRITE);
	assert_memory_equal(first, rig_at(&r, DATA), 61);
}

static void entropy_of_the_host(void **state)
{
	struct virtio_rng rng;
	uint8_t first[64];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		memset(rig_at(&r, RING), 0, 0x10000);
		virtio_rng_init(&rng, &r.dma, 42, true);
		begin(&rng.virtio, 0);
		request(0, DATA, 64, RIG_WRITE);
		assert_int_equal(rig_used_idx(&r, &ring[0]), 1);
		if (i)
			assert_memory_not_equal(first, rig_at(&r, DATA), 64);
		memcpy(first, rig_at(&r, DATA), 64);
	}
}

/* ---- console ---- */

static char text[10000];
static size_t text_bytes;

static void output(void *ctx, const uint8_t *data, size_t bytes)
{
	(void)ctx;
	memcpy(text + text_bytes, data, bytes);
	text_bytes += bytes;
}

static void console(void **state)
{
	struct virtio_console c;

	(void)state;
	text_bytes = 0;
	virtio_console_init(&c, &r.dma, output, NULL);
	begin(&c.virtio, 0);
	memcpy(rig_at(&r, DATA), "hello", 5);
	request(1, DATA, 5, 0);
	assert_int_equal(text_bytes, 5);
	assert_memory_equal(text, "hello", 5);
	memset(rig_at(&r, DATA), 'x', 9000);
	request(1, DATA, 9000, 0);
	assert_int_equal(text_bytes, 9005);
	assert_int_equal(rig_used_idx(&r, &ring[1]), 2);
	request(0, DATA, 3, RIG_WRITE); /* waits for input */
	assert_int_equal(rig_used_idx(&r, &ring[0]), 0);
	assert_int_equal(virtio_console_put_input(&c, (const uint8_t *)"typed", 5, r.now), 5);
	rig_run(&r, 5);
	assert_int_equal(rig_used_idx(&r, &ring[0]), 1);
	assert_memory_equal(rig_at(&r, DATA), "typ", 3);
	request(0, DATA, 100, RIG_WRITE); /* the rest waits for a buffer */
	assert_int_equal(rig_used_idx(&r, &ring[0]), 2);
	assert_memory_equal(rig_at(&r, DATA), "ed", 2);
	for (unsigned left = VIRTIO_CONSOLE_INPUT, i = 0; i < 2; i++, left = 0)
		assert_int_equal(virtio_console_put_input(&c, (const uint8_t *)text, VIRTIO_CONSOLE_INPUT, r.now), left);
	for (unsigned i = 0; i < 3; i++)
		rig_desc(&r, ring[1].desc, i, RIG_RAM_BASE, RIG_RAM_BYTES, i < 2 ? RIG_NEXT : 0, (uint16_t)(i + 1));
	rig_offer(&r, &ring[1], 0);
	rig_ring_doorbell(&r, 1);
	rig_run(&r, 5);
	assert_true(rig_status(&r) & VIRTIO_NEEDS_RESET);
	assert_int_equal(text_bytes, 9005);
}

/* ---- balloon ---- */

static void balloon(void **state)
{
	struct virtio_balloon b;
	uint8_t *d = rig_at(&r, DATA);

	(void)state;
	virtio_balloon_init(&b, &r.dma, 1000);
	begin(&b.virtio, 1 << 1);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x2000, 4), 1000);
	memset(rig_at(&r, 0x140000), 0x55, 0x4000);
	put_u32(d, 0x141);
	put_u32(d + 4, 0x143);
	put_u32(d + 8, 0xfffffff0); /* no RAM of the guest's */
	request(0, DATA, 15, 0);    /* the last three bytes are no number */
	assert_int_equal(b.released, 2);
	assert_int_equal(r.released, 0x2000);
	assert_int_equal(*rig_at(&r, 0x140fff), 0x55);
	assert_int_equal(*rig_at(&r, 0x141000), 0);
	assert_int_equal(*rig_at(&r, 0x142000), 0x55);
	assert_int_equal(*rig_at(&r, 0x143fff), 0);
	request(1, DATA, 8, 0);
	assert_int_equal(rig_used_idx(&r, &ring[1]), 1);
	rig_write(&r, RIG_BAR + 0x2004, 4, 77);
	assert_int_equal(b.actual, 77);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x2004, 4), 77);
	request(0, DATA, 0x10004, 0);
	assert_true(rig_status(&r) & VIRTIO_NEEDS_RESET);
}

static void balloon_statistics(void **state)
{
	struct virtio_balloon b;
	uint8_t *d = rig_at(&r, DATA);

	(void)state;
	virtio_balloon_init(&b, &r.dma, 0);
	begin(&b.virtio, 1 << 1);
	put_u16(d, BALLOON_FREE);
	put_u64(d + 2, 123);
	put_u16(d + 10, 999); /* unknown */
	put_u64(d + 12, 1);
	put_u16(d + 20, BALLOON_TOTAL);
	put_u64(d + 22, 456);
	request(2, DATA, 35, 0);
	assert_int_equal(b.stat[BALLOON_FREE], 123);
	assert_int_equal(b.stat[BALLOON_TOTAL], 456);
	assert_int_equal(b.stats_known, 1u << BALLOON_FREE | 1u << BALLOON_TOTAL);
	assert_int_equal(rig_used_idx(&r, &ring[2]), 0); /* kept until we want to know more */
	assert_int_equal(rig_advance(&r, r.now), UINT64_MAX);
	put_u32(rig_at(&r, DATA + 0x100), 0x150);
	request(0, DATA + 0x100, 4, 0);
	assert_int_equal(rig_used_idx(&r, &ring[2]), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(entropy, setup, teardown),
		cmocka_unit_test_setup_teardown(entropy_of_the_host, setup, teardown),
		cmocka_unit_test_setup_teardown(console, setup, teardown),
		cmocka_unit_test_setup_teardown(balloon, setup, teardown),
		cmocka_unit_test_setup_teardown(balloon_statistics, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
