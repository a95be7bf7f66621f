/* The virtio disk, driven through the PCI bus as a guest drives it. */
#include "dev_test.h"
#include "virtio_rig.h"

#include "dev/virtio_blk.h"
#include "disk/file.h"
#include "disk/freeze.h"

#include <semaphore.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define RING   0x100000ull
#define HEADER 0x110000ull
#define STATUS 0x110100ull
#define DATA   0x120000ull
#define DISK_BYTES (1 << 20)

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };

static struct rig r;
static struct rig_ring ring;
static struct virtio_blk blk;
static char path[64];
static unsigned syncs;
static int fail_with; /* what the host's file system says to writes */
static sem_t may_read, was_done;
static bool slow; /* the host's file system waits for may_read */

static int tap(void *ctx, const struct file *f, const struct file_call *call)
{
	(void)ctx, (void)f;
	syncs += call->op == FILE_SYNC;
	if (slow && call->op == FILE_READ)
		sem_wait(&may_read);
	return call->op == FILE_WRITE ? fail_with : 0;
}

static void note_done(void *ctx) { sem_post(ctx); }

static void make(const struct disk_options *options, bool wall)
{
	static const struct disk_listener listener = {.done = note_done, .ctx = &was_done};
	static const struct file_tap taps = {.before = tap};
	struct disk_options o = *options;
	struct error err = {0};
	struct disk *disk;

	o.tap = &taps;
	rig_init(&r);
	fail_with = 0;
	slow = false;
	sem_init(&may_read, 0, 0);
	sem_init(&was_done, 0, 0);
	assert_int_equal(disk_open(&disk, path, &o, &err), 0);
	assert_int_equal(virtio_blk_init(&blk, disk, &r.dma, "SERIAL-1", wall ? &listener : NULL, "some.img", &err), 0);
	rig_plug(&r, &blk.virtio);
	ring = rig_ring(RING, 64);
	rig_enable_msix(&r, 0x40);
}

static int setup(void **state)
{
	int fd;

	(void)state;
	strcpy(path, "/tmp/test-virtio-blk.XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	make(&(struct disk_options){.format = DISK_FORMAT_RAW}, false);
	rig_start(&r, 1ull << 9, &ring, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++) /* a test that failed may have left so many */
		sem_post(&may_read);
	virtio_blk_close(&blk, NULL);
	rig_free(&r);
	unlink(path);
	return 0;
}

static void offer(uint32_t type, uint64_t sector, uint32_t bytes, unsigned flags)
{
	uint8_t *h = rig_at(&r, HEADER);

	put_u32(h, type);
	put_u32(h + 4, 0);
	put_u64(h + 8, sector);
	*rig_at(&r, STATUS) = 0xee;
	rig_desc(&r, ring.desc, 0, HEADER, 16, RIG_NEXT, bytes ? 1 : 2);
	rig_desc(&r, ring.desc, 1, DATA, bytes, (uint16_t)(RIG_NEXT | flags), 2);
	rig_desc(&r, ring.desc, 2, STATUS, 1, RIG_WRITE, 0);
	rig_offer(&r, &ring, 0);
}

/* One request to its end: its status. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t bytes, unsigned flags)
{
	uint16_t before = rig_used_idx(&r, &ring);

	offer(type, sector, bytes, flags);
	rig_ring_doorbell(&r, 0);
	rig_run(&r, 10);
	assert_int_equal(rig_used_idx(&r, &ring), before + 1);
	return *rig_at(&r, STATUS);
}

static void configuration(void **state)
{
	(void)state;
	assert_int_equal(rig_read(&r, RIG_BAR + 0x2000, 8), DISK_BYTES / 512);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x2014, 4), 512);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x12, 2), 1);
	assert_int_equal(rig_status(&r), 15);
	assert_int_equal(rig_read(&r, rig_config(1, PCI_VENDOR_ID), 4), 0x10421af4);
}

static void reads_what_it_wrote(void **state)
{
	uint64_t addr;
	uint32_t data;

	(void)state;
	memset(rig_at(&r, DATA), 0x5a, 8192);
	assert_int_equal(request(OUT, 5, 8192, 0), 0);
	assert_true(pci_bus_take_msi(&r.bus, &addr, &data));
	assert_int_equal(data, 0x41);
	memset(rig_at(&r, DATA), 0, 16384);
	assert_int_equal(request(IN, 4, 16384, RIG_WRITE), 0);
	assert_int_equal(*rig_at(&r, DATA + 511), 0);
	assert_int_equal(*rig_at(&r, DATA + 512), 0x5a);
	assert_int_equal(*rig_at(&r, DATA + 512 + 8191), 0x5a);
	assert_int_equal(*rig_at(&r, DATA + 512 + 8192), 0);
	assert_int_equal(request(FLUSH, 0, 0, 0), 0);
}

static void other_requests(void **state)
{
	uint8_t *d = rig_at(&r, DATA);

	(void)state;
	assert_int_equal(request(GET_ID, 0, 20, RIG_WRITE), 0);
	assert_string_equal((char *)d, "SERIAL-1");
	assert_int_equal(request(99, 0, 0, 0), 2);
	memset(d, 0x11, 4096);
	assert_int_equal(request(OUT, 0, 4096, 0), 0);
	memset(d, 0, 16);
	put_u64(d, 2);
	put_u32(d + 8, 3);
	assert_int_equal(request(ZEROES, 0, 16, 0), 0);
	put_u32(d + 12, 1);
	assert_int_equal(request(ZEROES, 0, 16, 0), 0); /* may unmap */
	assert_int_equal(request(DISCARD, 0, 16, 0), 2); /* has no such flag */
	put_u32(d + 12, 0);
	put_u64(d, 6);
	assert_int_equal(request(DISCARD, 0, 16, 0), 0);
	assert_int_equal(request(DISCARD, 0, 24, 0), 1);
	put_u64(d, DISK_BYTES / 512);
	assert_int_equal(request(DISCARD, 0, 16, 0), 1);
	assert_int_equal(request(IN, 0, 4096, RIG_WRITE), 0);
	assert_int_equal(d[1023], 0x11);
	assert_int_equal(d[1024], 0);
	assert_int_equal(d[2559], 0);
	assert_int_equal(d[2560], 0x11);
}

static void bounds(void **state)
{
	(void)state;
	assert_int_equal(request(IN, DISK_BYTES / 512 - 1, 512, RIG_WRITE), 0);
	assert_int_equal(request(IN, DISK_BYTES / 512 - 1, 1024, RIG_WRITE), 1);
	assert_int_equal(request(OUT, DISK_BYTES / 512, 512, 0), 1);
	assert_int_equal(request(OUT, ~0ull, 512, 0), 1);
	assert_int_equal(request(OUT, 1ull << 55, 512, 0), 1);
	assert_int_equal(request(IN, 0, 511, RIG_WRITE), 1);
	assert_int_equal(rig_status(&r), 15);
}

/* Nothing shows before its time, whatever the host has done by then; and then it is there. */
static void virtual_time(void **state)
{
	uint64_t next, done;

	(void)state;
	r.now = 1000000;
	offer(IN, 0, 65536, RIG_WRITE);
	rig_ring_doorbell(&r, 0);
	next = rig_advance(&r, r.now);
	assert_int_equal(next, 1000000 + VIRTIO_DOORBELL_NS);
	done = rig_advance(&r, next);
	assert_int_equal(done, next + VIRTIO_BLK_REQUEST_NS + 65536 / VIRTIO_BLK_BYTES_PER_NS);
	usleep(2000);
	assert_int_equal(rig_advance(&r, done - 1), done);
	assert_int_equal(rig_used_idx(&r, &ring), 0);
	assert_int_equal(*rig_at(&r, STATUS), 0xee);
	assert_int_equal(rig_advance(&r, done), UINT64_MAX);
	assert_int_equal(rig_used_idx(&r, &ring), 1);
	assert_int_equal(*rig_at(&r, STATUS), 0);
}

/* Frozen while a request is under way: it is in what is frozen, and the guest is told of it when it would have been. */
static void frozen_in_flight(void **state)
{
	const struct disk_options o = {.read_only = true, .format = DISK_FORMAT_RAW};
	uint64_t next, done;
	struct disk *disk;
	char base[80];
	uint8_t byte;

	(void)state;
	r.now = 1000000;
	memset(rig_at(&r, DATA), 0x5a, 65536);
	offer(OUT, 0, 65536, 0);
	rig_ring_doorbell(&r, 0);
	next = rig_advance(&r, r.now);
	done = rig_advance(&r, next);
	disk = virtio_blk_settle(&blk);
	snprintf(base, sizeof(base), "%s.frozen", path);
	assert_int_equal(disk_freeze(&disk, strrchr(base, '/') + 1, NULL), 0);
	virtio_blk_set_disk(&blk, disk);
	assert_int_equal(*rig_at(&r, STATUS), 0xee);
	assert_int_equal(rig_advance(&r, done - 1), done);
	assert_int_equal(*rig_at(&r, STATUS), 0xee);
	assert_int_equal(rig_advance(&r, done), UINT64_MAX);
	assert_int_equal(*rig_at(&r, STATUS), 0);

	memset(rig_at(&r, DATA), 0x66, 8192);
	assert_int_equal(request(OUT, 1, 8192, 0), 0);
	assert_int_equal(request(IN, 0, 8192, RIG_WRITE), 0);
	assert_int_equal(*rig_at(&r, DATA + 511), 0x5a);
	assert_int_equal(*rig_at(&r, DATA + 512), 0x66);
	assert_int_equal(disk_open(&disk, base, &o, NULL), 0);
	assert_int_equal(disk_read(disk, 512, &byte, 1, NULL), 0);
	assert_int_equal(byte, 0x5a);
	disk_close(disk, NULL);
	unlink(base);
}

static void wait_done(void)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 60;
	assert_int_equal(sem_timedwait(&was_done, &limit), 0);
}

/* By the wall clock nothing is due while the host works; it says when it is done, and what it says is looked at. */
static void wall_clock(void **state)
{
	(void)state;
	virtio_blk_close(&blk, NULL);
	rig_free(&r);
	make(&(struct disk_options){.format = DISK_FORMAT_RAW}, true);
	slow = true;
	rig_start(&r, 0, &ring, 1);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t now = r.now + VIRTIO_DOORBELL_NS;

		offer(i == 1 ? 99 : IN, 0, 512, RIG_WRITE);
		rig_ring_doorbell(&r, 0);
		assert_int_equal(rig_advance(&r, now), UINT64_MAX);
		virtio_blk_poll(&blk, now);
		assert_int_equal(rig_advance(&r, now + 1000000000), UINT64_MAX);
		assert_int_equal(rig_used_idx(&r, &ring), 0);
		assert_true(virtio_blk_waits(&blk));
	}
	/* The second asks for what is not known: known at once, but not before the first. */
	sem_post(&may_read);
	wait_done();
	assert_int_equal(rig_advance(&r, r.now), UINT64_MAX);
	assert_int_equal(rig_used_idx(&r, &ring), 0);
	virtio_blk_poll(&blk, r.now);
	assert_int_equal(rig_advance(&r, r.now), UINT64_MAX);
	assert_int_equal(rig_used_idx(&r, &ring), 2);
	assert_true(virtio_blk_waits(&blk));
	sem_post(&may_read);
	wait_done();
	virtio_blk_poll(&blk, r.now);
	assert_false(virtio_blk_waits(&blk));
	assert_int_equal(rig_advance(&r, r.now), UINT64_MAX);
	assert_int_equal(rig_used_idx(&r, &ring), 3);
	/* Nothing but that is under way: complete when it is taken. */
	slow = false;
	assert_int_equal(request(99, 0, 0, 0), 2);
}

static void read_only(void **state)
{
	(void)state;
	virtio_blk_close(&blk, NULL);
	rig_free(&r);
	make(&(struct disk_options){.format = DISK_FORMAT_RAW, .read_only = true}, false);
	rig_write(&r, RIG_BAR, 4, 0);
	assert_true(rig_read(&r, RIG_BAR + 4, 4) & 1 << 5);
	rig_start(&r, 1 << 5, &ring, 1);
	assert_int_equal(request(IN, 0, 512, RIG_WRITE), 0);
	assert_int_equal(request(OUT, 0, 512, 0), 1);
	assert_int_equal(request(FLUSH, 0, 0, 0), 0);
}

/* The guest is told each time, the user once. */
static void host_errors(void **state)
{
	(void)state;
	fail_with = -ENOSPC;
	assert_int_equal(request(OUT, 0, 512, 0), 1);
	assert_non_null(strstr(blk.virtio.message, "virtio-blk some.img: "));
	assert_non_null(strstr(blk.virtio.message, "No space left"));
	*blk.virtio.message = 0;
	assert_int_equal(request(OUT, 0, 512, 0), 1);
	assert_string_equal(blk.virtio.message, "");
	fail_with = 0;
	assert_int_equal(request(OUT, 0, 512, 0), 0);
	assert_int_equal(request(IN, 0, 512, RIG_WRITE), 0);
}

/* A driver that does not flush has every write on stable storage; one that does, when it flushes. */
static void write_through(void **state)
{
	(void)state;
	syncs = 0;
	assert_int_equal(request(OUT, 0, 512, 0), 0);
	assert_int_equal(request(OUT, 1, 512, 0), 0);
	assert_int_equal(syncs, 0);
	assert_int_equal(request(FLUSH, 0, 0, 0), 0);
	assert_int_equal(syncs, 1);
	ring = rig_ring(RING, 64);
	memset(rig_at(&r, RING), 0, 0x4000);
	rig_start(&r, 0, &ring, 1);
	assert_int_equal(request(OUT, 0, 512, 0), 0);
	assert_int_equal(syncs, 2);
	assert_int_equal(request(OUT, 1, 512, 0), 0);
	assert_int_equal(syncs, 3);
	assert_int_equal(request(IN, 1, 512, RIG_WRITE), 0);
	assert_int_equal(syncs, 3);
}

/* A guest that breaks its ring again and again does not fill the terminal. */
static void few_messages(void **state)
{
	unsigned lines = 0;

	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		memset(rig_at(&r, RING), 0, 0x4000);
		ring = rig_ring(RING, 64);
		rig_start(&r, 0, &ring, 1);
		put_u16(rig_at(&r, ring.avail) + 2, 1000);
		rig_ring_doorbell(&r, 0);
		rig_run(&r, 5);
		assert_true(rig_status(&r) & VIRTIO_NEEDS_RESET);
		lines += *blk.virtio.message != 0;
		*blk.virtio.message = 0;
	}
	assert_int_equal(lines, VIRTIO_MESSAGES);
}

static void malformed(void **state)
{
	(void)state;
	rig_desc(&r, ring.desc, 0, HEADER, 15, RIG_NEXT, 2);
	rig_desc(&r, ring.desc, 2, STATUS, 1, RIG_WRITE, 0);
	rig_offer(&r, &ring, 0);
	rig_ring_doorbell(&r, 0);
	rig_run(&r, 10);
	assert_true(rig_status(&r) & VIRTIO_NEEDS_RESET);
	assert_non_null(strstr(blk.virtio.message, "no header"));
	assert_int_equal(rig_used_idx(&r, &ring), 0);
	/* It stands still until it is reset. */
	rig_ring_doorbell(&r, 0);
	assert_int_equal(rig_advance(&r, r.now), UINT64_MAX);
	memset(rig_at(&r, RING), 0, 0x4000);
	ring = rig_ring(RING, 64);
	rig_start(&r, 0, &ring, 1);
	assert_int_equal(rig_status(&r), 15);
	assert_int_equal(request(IN, 0, 512, RIG_WRITE), 0);
}

/* A buffer of 16 MiB and more: refused, without taking as much of the host. */
static void too_long(void **state)
{
	(void)state;
	ring.size = 128;
	rig_start(&r, VIRTIO_F_INDIRECT_DESC, &ring, 1);
	for (unsigned i = 1; i < 127; i++)
		rig_desc(&r, DATA, i, RIG_RAM_BASE, RIG_RAM_BYTES, RIG_WRITE | (i < 126 ? RIG_NEXT : 0),
			 (uint16_t)(i + 1));
	rig_desc(&r, DATA, 0, HEADER, 16, RIG_NEXT, 1);
	memset(rig_at(&r, HEADER), 0, 16);
	rig_desc(&r, ring.desc, 0, DATA, 127 * 16, RIG_INDIRECT, 0);
	rig_offer(&r, &ring, 0);
	rig_ring_doorbell(&r, 0);
	rig_run(&r, 4);
	assert_int_equal(*rig_at(&r, RIG_RAM_BASE + RIG_RAM_BYTES - 1), 1);
	assert_int_equal(blk.bytes_in_flight, 0);
}

/* Reset while a request is with the worker: nothing of it reaches the guest's memory any more. */
static void reset_in_flight(void **state)
{
	(void)state;
	offer(IN, 0, 65536, RIG_WRITE);
	rig_ring_doorbell(&r, 0);
	rig_advance(&r, VIRTIO_DOORBELL_NS);
	assert_non_null(blk.first);
	rig_write(&r, RIG_BAR + 0x14, 1, 0);
	assert_null(blk.first);
	rig_run(&r, 4);
	rig_advance(&r, 1000000000);
	assert_int_equal(*rig_at(&r, STATUS), 0xee);
	assert_int_equal(rig_used_idx(&r, &ring), 0);
}

/* Without the right to access memory it waits, and goes on. */
static void not_master(void **state)
{
	(void)state;
	rig_write(&r, rig_config(1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	offer(IN, 0, 512, RIG_WRITE);
	rig_ring_doorbell(&r, 0);
	assert_int_equal(rig_advance(&r, 1000000), UINT64_MAX);
	assert_int_equal(rig_used_idx(&r, &ring), 0);
	rig_write(&r, rig_config(1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	rig_run(&r, 4);
	assert_int_equal(rig_used_idx(&r, &ring), 1);
}

/* Without MSI-X: the pin and the ISR register. */
static void by_pin(void **state)
{
	uint32_t pulses;

	(void)state;
	rig_write(&r, rig_config(1, r.t.fn.msix.cap + 2u), 2, 0);
	assert_int_equal(request(IN, 0, 512, RIG_WRITE), 0);
	assert_int_equal(r.pci.irq(r.pci.state, &pulses), 1u << (PCI_IRQ_FIRST + 1));
	assert_int_equal(rig_read(&r, RIG_BAR + 0x1000, 1), 1);
	assert_int_equal(r.pci.irq(r.pci.state, &pulses), 0);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x1000, 1), 0);
}

/* The way to the BAR through configuration space. */
static void config_window(void **state)
{
	uint64_t cap = rig_config(1, r.t.cfg_cap);

	(void)state;
	assert_int_equal(rig_read(&r, cap + 3, 1), 5);
	rig_write(&r, cap + 4, 1, 0);
	rig_write(&r, cap + 8, 4, 0x14);
	rig_write(&r, cap + 12, 4, 1);
	assert_int_equal(rig_read(&r, cap + 16, 1), 15);
	rig_write(&r, cap + 8, 4, 0x2000);
	rig_write(&r, cap + 12, 4, 4);
	assert_int_equal(rig_read(&r, cap + 16, 4), DISK_BYTES / 512);
	rig_write(&r, cap + 8, 4, 0x16);
	rig_write(&r, cap + 12, 4, 2);
	rig_write(&r, cap + 16, 4, 7);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x16, 2), 7);
	/* Nonsense leads nowhere. */
	rig_write(&r, cap + 4, 1, 5);
	rig_write(&r, cap + 16, 4, 3);
	rig_write(&r, cap + 4, 1, 0);
	rig_write(&r, cap + 8, 4, 0xfffffffe);
	rig_write(&r, cap + 16, 4, 3);
	rig_write(&r, cap + 8, 4, 0x16);
	rig_write(&r, cap + 12, 4, 0x80000002);
	rig_write(&r, cap + 16, 4, 3);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x16, 2), 7);
}

static void status_register(void **state)
{
	(void)state;
	rig_write(&r, RIG_BAR + 0x14, 1, 0);
	assert_int_equal(rig_status(&r), 0);
	rig_write(&r, RIG_BAR + 0x14, 1, 3);
	rig_write(&r, RIG_BAR + 0x14, 1, 11); /* without VERSION_1 */
	assert_int_equal(rig_status(&r), 3);
	rig_write(&r, RIG_BAR + 0x08, 4, 1);
	rig_write(&r, RIG_BAR + 0x0c, 4, 0xffffffff); /* what was not offered */
	rig_write(&r, RIG_BAR + 0x14, 1, 11);
	assert_int_equal(rig_status(&r), 3);
	rig_write(&r, RIG_BAR + 0x0c, 4, 1);
	rig_write(&r, RIG_BAR + 0x14, 1, 11);
	assert_int_equal(rig_status(&r), 11);
	rig_write(&r, RIG_BAR + 0x0c, 4, 0); /* too late */
	assert_int_equal(rig_read(&r, RIG_BAR + 0x0c, 4), 1);
	/* A queue that is not aligned stays off; vectors there are not become none. */
	rig_write(&r, RIG_BAR + 0x20, 8, 0x100008);
	rig_write(&r, RIG_BAR + 0x1c, 2, 1);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x1c, 2), 0);
	rig_write(&r, RIG_BAR + 0x1a, 2, 2);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x1a, 2), 0xffff);
	rig_write(&r, RIG_BAR + 0x18, 2, 257);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x18, 2), 256);
	rig_write(&r, RIG_BAR + 0x20, 8, 0x100000);
	rig_write(&r, RIG_BAR + 0x18, 2, 100); /* no power of two: not for a split ring */
	rig_write(&r, RIG_BAR + 0x1c, 2, 1);
	assert_int_equal(rig_read(&r, RIG_BAR + 0x1c, 2), 0);
	rig_write(&r, RIG_BAR + 0x16, 2, 1); /* there is one queue only */
	assert_int_equal(rig_read(&r, RIG_BAR + 0x18, 2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(configuration, setup, teardown),
		cmocka_unit_test_setup_teardown(reads_what_it_wrote, setup, teardown),
		cmocka_unit_test_setup_teardown(other_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(virtual_time, setup, teardown),
		cmocka_unit_test_setup_teardown(wall_clock, setup, teardown),
		cmocka_unit_test_setup_teardown(read_only, setup, teardown),
		cmocka_unit_test_setup_teardown(host_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(write_through, setup, teardown),
		cmocka_unit_test_setup_teardown(few_messages, setup, teardown),
		cmocka_unit_test_setup_teardown(malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(reset_in_flight, setup, teardown),
		cmocka_unit_test_setup_teardown(frozen_in_flight, setup, teardown),
		cmocka_unit_test_setup_teardown(not_master, setup, teardown),
		cmocka_unit_test_setup_teardown(by_pin, setup, teardown),
		cmocka_unit_test_setup_teardown(config_window, setup, teardown),
		cmocka_unit_test_setup_teardown(status_register, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
