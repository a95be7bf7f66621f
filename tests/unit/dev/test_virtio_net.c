/* The virtio network card, with a wire that the test holds. */
#include "dev_test.h"
#include "virtio_rig.h"

#include "dev/virtio_net.h"

#define RX   0x100000ull
#define TX   0x104000ull
#define DATA 0x110000ull
#define F_MRG (1ull << 15)

struct wire {
	struct net_backend backend;
	uint8_t sent[NET_FRAME_MAX];
	size_t sent_bytes;
	unsigned sends, arriving;
	size_t frame_bytes;
	bool down, closed;
};

static void wire_send(struct net_backend *n, const uint8_t *frame, size_t bytes)
{
	struct wire *w = (struct wire *)(void *)n;

	memcpy(w->sent, frame, bytes);
	w->sent_bytes = bytes;
	w->sends++;
}

static size_t wire_receive(struct net_backend *n, uint8_t *frame)
{
	struct wire *w = (struct wire *)(void *)n;

	if (!w->arriving)
		return 0;
	w->arriving--;
	for (size_t i = 0; i < w->frame_bytes; i++)
		frame[i] = (uint8_t)(i * 7);
	return w->frame_bytes;
}

static unsigned wire_wait_for(struct net_backend *n, struct pollfd *p, unsigned max, int *ms)
{
	(void)n, (void)p, (void)max, (void)ms;
	return 0;
}

static void wire_work(struct net_backend *n) { (void)n; }
static bool wire_is_up(struct net_backend *n) { return !((struct wire *)(void *)n)->down; }
static void wire_close(struct net_backend *n) { ((struct wire *)(void *)n)->closed = true; }

static const struct net_backend_ops wire_ops = {.send = wire_send, .receive = wire_receive, .wait_for = wire_wait_for,
						.work = wire_work, .is_up = wire_is_up, .close = wire_close};

static struct rig r;
static struct rig_ring ring[2];
static struct virtio_net net;
static struct wire wire;

static int setup(void **state)
{
	static const uint8_t mac[6] = {2, 0x47, 1, 2, 3, 4};

	(void)state;
	rig_init(&r);
	wire = (struct wire){.backend = {&wire_ops}, .frame_bytes = 1000};
	virtio_net_init(&net, &wire.backend, &r.dma, mac, "wire");
	rig_plug(&r, &net.virtio);
	rig_enable_msix(&r, 0x40);
	ring[0] = rig_ring(RX, 16);
	ring[1] = rig_ring(TX, 16);
	rig_start(&r, F_MRG, ring, 2);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	virtio_net_close(&net);
	assert_true(wire.closed);
	rig_free(&r);
	return 0;
}

static void give_buffer(unsigned i, uint32_t bytes)
{
	rig_desc(&r, ring[0].desc, i, DATA + 0x1000 * i, bytes, RIG_WRITE, 0);
	rig_offer(&r, &ring[0], (uint16_t)i);
}

static void arrive(unsigned frames, size_t bytes)
{
	wire.frame_bytes = bytes;
	wire.arriving = frames;
	virtio_net_poll(&net, r.now);
	rig_run(&r, 20);
}

static void configuration(void **state)
{
	(void)state;
	assert_int_equal(rig_read(&r, RIG_BAR + 0x2000, 8), 0x0001040302014702);
	assert_int_equal(rig_read(&r, rig_config(1, PCI_DEVICE_ID), 2), 0x1041);
	wire.down = true;
	virtio_net_poll(&net, 0);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x2006, 2), 0);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x15, 1), 1); /* a new generation */
}

static void transmit(void **state)
{
	(void)state;
	rig_desc(&r, ring[1].desc, 0, DATA, 12, RIG_NEXT, 1);
	rig_desc(&r, ring[1].desc, 1, DATA + 100, 60, 0, 0);
	memset(rig_at(&r, DATA + 100), 0x77, 60);
	rig_offer(&r, &ring[1], 0);
	rig_ring_doorbell(&r, 1);
	assert_int_equal(wire.sends, 0); /* not within the access */
	rig_run(&r, 5);
	assert_int_equal(wire.sends, 1);
	assert_int_equal(wire.sent_bytes, 60);
	assert_int_equal(wire.sent[59], 0x77);
	assert_int_equal(rig_used_idx(&r, &ring[1]), 1);
	/* Too short and too long are lost. */
	rig_desc(&r, ring[1].desc, 1, DATA + 100, 13, 0, 0);
	rig_offer(&r, &ring[1], 0);
	rig_desc(&r, ring[1].desc, 2, DATA, 12 + NET_FRAME_MAX + 1, 0, 0);
	rig_offer(&r, &ring[1], 2);
	rig_ring_doorbell(&r, 1);
	rig_run(&r, 5);
	assert_int_equal(wire.sends, 1);
	assert_int_equal(net.dropped, 2);
	assert_int_equal(rig_used_idx(&r, &ring[1]), 3);
	assert_int_equal(rig_status(&r), 15);
	/* Without a header it is no frame. */
	rig_desc(&r, ring[1].desc, 3, DATA, 11, 0, 0);
	rig_offer(&r, &ring[1], 3);
	rig_ring_doorbell(&r, 1);
	rig_run(&r, 5);
	assert_true(rig_status(&r) & VIRTIO_NEEDS_RESET);
}

static void receive(void **state)
{
	uint64_t addr;
	uint32_t bytes, data;

	(void)state;
	arrive(1, 1000);
	assert_int_equal(net.frame_bytes, 1000); /* it waits for a buffer */
	give_buffer(0, 2048);
	rig_ring_doorbell(&r, 0);
	rig_run(&r, 5);
	assert_int_equal(rig_used_idx(&r, &ring[0]), 1);
	assert_int_equal(rig_used(&r, &ring[0], 0, &bytes), 0);
	assert_int_equal(bytes, 1012);
	assert_int_equal(get_u16(rig_at(&r, DATA + 10)), 1);
	assert_int_equal(*rig_at(&r, DATA + 12 + 999), (uint8_t)(999 * 7));
	assert_true(pci_bus_take_msi(&r.bus, &addr, &data));
	assert_int_equal(data, 0x41);
	for (unsigned i = 0; i < 5; i++)
		give_buffer(i, 2048);
	arrive(3, NET_FRAME_MAX);
	assert_int_equal(rig_used_idx(&r, &ring[0]), 4);
	assert_int_equal(net.received, 4);
}

/* A frame in several buffers; none is taken as long as there are too few. */
static void merged(void **state)
{
	uint32_t bytes;

	(void)state;
	give_buffer(0, 400);
	give_buffer(1, 400);
	arrive(1, 1000);
	assert_int_equal(rig_used_idx(&r, &ring[0]), 0);
	assert_int_equal(net.virtio.queue[0].in_use, 0);
	give_buffer(2, 400);
	rig_ring_doorbell(&r, 0);
	rig_run(&r, 5);
	assert_int_equal(rig_used_idx(&r, &ring[0]), 3);
	assert_int_equal(rig_used(&r, &ring[0], 0, &bytes), 0);
	assert_int_equal(bytes, 400);
	assert_int_equal(rig_used(&r, &ring[0], 2, &bytes), 2);
	assert_int_equal(bytes, 212);
	assert_int_equal(get_u16(rig_at(&r, DATA + 10)), 3);
	assert_int_equal(*rig_at(&r, DATA + 0x1000), (uint8_t)(388 * 7));
	assert_int_equal(*rig_at(&r, DATA + 0x2000 + 211), (uint8_t)(999 * 7));
}

/* Without merging a frame that does not fit is lost, and its buffer is for the next. */
static void not_merged(void **state)
{
	uint32_t bytes;

	(void)state;
	ring[0] = rig_ring(RX, 16);
	rig_start(&r, 0, ring, 2);
	give_buffer(0, 400);
	arrive(1, 1000);
	assert_int_equal(net.dropped, 1);
	assert_int_equal(rig_used_idx(&r, &ring[0]), 0);
	arrive(1, 388);
	assert_int_equal(rig_used_idx(&r, &ring[0]), 1);
	rig_used(&r, &ring[0], 0, &bytes);
	assert_int_equal(bytes, 400);
}

static void buffer_too_small(void **state)
{
	(void)state;
	give_buffer(0, 12);
	arrive(1, 100);
	assert_true(rig_status(&r) & VIRTIO_NEEDS_RESET);
	assert_non_null(strstr(net.virtio.message, "too small"));
}

static void before_the_driver(void **state)
{
	(void)state;
	rig_write(&r, RIG_BAR + 0x14, 1, 0);
	arrive(3, 100);
	assert_int_equal(net.received, 0);
	assert_int_equal(wire.arriving, 2); /* one is held, the others wait on the wire */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(configuration, setup, teardown),
		cmocka_unit_test_setup_teardown(transmit, setup, teardown),
		cmocka_unit_test_setup_teardown(receive, setup, teardown),
		cmocka_unit_test_setup_teardown(merged, setup, teardown),
		cmocka_unit_test_setup_teardown(not_merged, setup, teardown),
		cmocka_unit_test_setup_teardown(buffer_too_small, setup, teardown),
		cmocka_unit_test_setup_teardown(before_the_driver, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
