/*
 * The guest of 'gnomon lab rings': asks devices for 64 bytes at a time, over and over, in one of several ways.
 * Words: "op=NAME n=COUNT", "shared" puts the driver's and the device's index into one cache line.
 *
 *   ports     the test device's ports: a command, 16 times 4 bytes
 *   mmio      its memory: a command, 8 times 8 bytes
 *   single    the entropy device's virtqueue: one request, one notification, wait for it
 *   batch     16 requests, one notification, wait for all
 *   stream    up to 16 requests on their way, a notification for each
 *   event     the same, with a notification only where the device asks for one (event index)
 *
 * Completions are seen by looking at the used index; interrupts are off. The console says LAB-0, LAB-1, LAB-2 as in
 * nano.c. The ring lies at RING, where the host watches it.
 *
 * Source of all that concerns the ring: Virtual I/O Device (VIRTIO) Version 1.2.
 */
#include "measure.h"

enum { PORT = 0xe0, DEVICE = 0xff000000, RING = 32 << 20, SIZE = 16, BYTES = 64, LINE = 64 };
enum { PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc, RNG_ID = 0x10441af4 };
enum { CAP_VENDOR = 9, CAP_COMMON = 1, CAP_NOTIFY = 2 };
enum {
	ACCEPTED_SELECT = 0x08, ACCEPTED = 0x0c, STATUS = 0x14, QUEUE_SELECT = 0x16, QUEUE_SIZE = 0x18,
	QUEUE_ENABLE = 0x1c, QUEUE_NOTIFY_OFF = 0x1e, QUEUE_DESC = 0x20, QUEUE_AVAIL = 0x28, QUEUE_USED = 0x30,
};
enum { VERSION_1 = 1 /* of the high half */, EVENT_IDX = 1 << 29, DESC_WRITE = 2, NO_INTERRUPT = 1 };

struct desc { u64 gpa; u32 bytes; u16 flags, next; };
struct avail { u16 flags, idx, ring[SIZE], used_event; };
struct used { u16 flags, idx; struct { u32 id, bytes; } ring[SIZE]; u16 avail_event; };

static volatile struct desc *const desc = (volatile struct desc *)(uintptr_t)RING;
static volatile struct avail *const avail = (volatile struct avail *)(uintptr_t)(RING + SIZE * sizeof(struct desc));
static volatile struct used *used;
static volatile u16 *doorbell;
static u64 data[SIZE][BYTES / 8] __attribute__((aligned(LINE)));
static u16 made, seen; /* requests made, and seen to be answered */
static bool event_idx;

static _Noreturn void fail(const char *why)
{
	print("LAB-FAIL: %s\n", why);
	exit_machine(1);
}

/* ---- finding the device ---- */

static inline u32 inl(u16 port)
{
	u32 v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static u32 config_read(unsigned slot, unsigned at)
{
	outl(PCI_ADDRESS, 1u << 31 | slot << 11 | (at & ~3u));
	return inl(PCI_DATA);
}

static unsigned config_byte(unsigned slot, unsigned at) { return config_read(slot, at) >> 8 * (at & 3) & 0xff; }

static volatile u8 *structure(unsigned slot, unsigned type, unsigned *cap)
{
	for (*cap = config_byte(slot, 0x34); *cap; *cap = config_byte(slot, *cap + 1))
		if (config_byte(slot, *cap) == CAP_VENDOR && config_byte(slot, *cap + 3) == type)
			return (volatile u8 *)(uintptr_t)((config_read(slot, 0x10 + 4 * config_byte(slot, *cap + 4)) & ~15u) +
							  config_read(slot, *cap + 8));
	fail("the device lacks a structure");
}

static void set16(volatile u8 *at, u16 v) { *(volatile u16 *)at = v; }
static void set32(volatile u8 *at, u32 v) { *(volatile u32 *)at = v; }
static void set64(volatile u8 *at, u64 v) { *(volatile u64 *)at = v; }

static void start_device(void)
{
	unsigned slot = 1, cap;
	volatile u8 *common, *notify;

	while (config_read(slot, 0) != RNG_ID)
		if (++slot == 32)
			fail("no entropy device");
	outl(PCI_ADDRESS, 1u << 31 | slot << 11 | 4);
	outl(PCI_DATA, 6); /* memory, bus master */
	common = structure(slot, CAP_COMMON, &cap);
	notify = structure(slot, CAP_NOTIFY, &cap);
	common[STATUS] = 0;
	common[STATUS] = 3;
	set32(common + ACCEPTED_SELECT, 0);
	set32(common + ACCEPTED, event_idx ? EVENT_IDX : 0);
	set32(common + ACCEPTED_SELECT, 1);
	set32(common + ACCEPTED, VERSION_1);
	common[STATUS] = 11;
	if (common[STATUS] != 11)
		fail("the device does not accept the features");
	set16(common + QUEUE_SELECT, 0);
	set16(common + QUEUE_SIZE, SIZE);
	set64(common + QUEUE_DESC, (uintptr_t)desc);
	set64(common + QUEUE_AVAIL, (uintptr_t)avail);
	set64(common + QUEUE_USED, (uintptr_t)used);
	set16(common + QUEUE_ENABLE, 1);
	doorbell = (volatile u16 *)(notify + *(volatile u16 *)(common + QUEUE_NOTIFY_OFF) * config_read(slot, cap + 16));
	common[STATUS] = 15;
}

/* ---- the ring ---- */

static void request(void)
{
	unsigned i = made % SIZE;

	desc[i].gpa = (uintptr_t)data[i];
	desc[i].bytes = BYTES;
	desc[i].flags = DESC_WRITE;
	avail->ring[i] = (u16)i;
	avail->idx = ++made; /* stores are seen in their order */
}

static void notify(void) { *doorbell = 0; }

/* What was made since @from: did the device ask to be told? */
static void notify_if_wanted(u16 from)
{
	__asm__ volatile("mfence" : : : "memory"); /* first our index, then the device's wish */
	if (!event_idx || (u16)(made - used->avail_event - 1) < (u16)(made - from))
		notify();
}

static void reap(void)
{
	while (seen != used->idx) {
		if (used->ring[seen % SIZE].id != seen % SIZE || used->ring[seen % SIZE].bytes != BYTES)
			fail("not what was asked for");
		seen++;
	}
}

static void wait_for(u16 outstanding)
{
	do
		reap();
	while ((u16)(made - seen) > outstanding);
}

static void requests(u64 n, unsigned batch)
{
	while (n) {
		u16 from = made;

		for (unsigned i = 0; i < batch && n; i++, n--)
			request();
		notify_if_wanted(from);
		wait_for(0);
	}
}

/* Looks for answers only when there is no room left, as drivers do that send. */
static void stream(u64 n)
{
	for (; n; n--) {
		u16 from = made;

		if ((u16)(made - seen) == SIZE)
			wait_for(SIZE - 1);
		request();
		notify_if_wanted(from);
	}
	wait_for(0);
}

/* ---- the ways ---- */

static void op_ports(u64 n)
{
	for (; n; n--) {
		outl(PORT, BYTES);
		for (unsigned i = 0; i < BYTES / 4; i++)
			((volatile u32 *)data[0])[i] = inl(PORT);
	}
}

static void op_mmio(u64 n)
{
	volatile u64 *device = (volatile u64 *)(uintptr_t)DEVICE;

	for (; n; n--) {
		device[0] = BYTES;
		for (unsigned i = 0; i < BYTES / 8; i++)
			data[0][i] = device[i];
	}
}

static void op_single(u64 n) { requests(n, 1); }
static void op_batch(u64 n) { requests(n, SIZE); }

static const struct { const char *name; void (*run)(u64 n); bool ring, event_idx; } ops[] = {
	{ "op=ports", op_ports, false, false }, { "op=mmio", op_mmio, false, false },
	{ "op=single", op_single, true, false }, { "op=batch", op_batch, true, false },
	{ "op=stream", stream, true, false }, { "op=event", stream, true, true },
};

int main(void)
{
	uintptr_t behind = ((uintptr_t)(avail + 1) + 3) & ~(uintptr_t)3;

	/* The used part right behind the available part: their indices in one line. Or all of it a line further on. */
	used = (volatile struct used *)(option("shared") ? behind : behind + LINE);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		if (!option(ops[i].name))
			continue;
		event_idx = ops[i].event_idx;
		avail->flags = NO_INTERRUPT;
		if (ops[i].ring)
			start_device();
		measure(ops[i].run, option_number("n", 64));
	}
	print("LAB-FAIL: no such operation\n");
	exit_machine(1);
}
