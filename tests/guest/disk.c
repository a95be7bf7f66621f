/*
 * The virtio disk and its interrupt, with no other source of interrupts: a program that halts until its request is
 * complete goes on when it is, and one that executes meanwhile is interrupted. By the wall clock a notice that
 * gets lost shows as a long wait: the VM looks by itself at last. The disk is this program's own file.
 *
 * Source of all that concerns the device: Virtual I/O Device (VIRTIO) Version 1.2.
 */
#include "lib/guest.h"

enum { PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc, DISK_ID = 0x10421af4, MEMORY_AND_MASTER = 6 };
enum { CAP_VENDOR = 9, CAP_MSIX = 0x11, CAP_COMMON = 1, CAP_NOTIFY = 2 };
enum {
	ACCEPTED_SELECT = 0x08, ACCEPTED = 0x0c, STATUS = 0x14, QUEUE_SELECT = 0x16, QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a, QUEUE_ENABLE = 0x1c, QUEUE_NOTIFY_OFF = 0x1e, QUEUE_DESC = 0x20, QUEUE_AVAIL = 0x28,
	QUEUE_USED = 0x30,
};
enum { VERSION_1 = 1 /* of the high half */, FLUSHES = 1 << 9, DESC_NEXT = 1, DESC_WRITE = 2, RING = 4 };
enum { IN = 0, OUT = 1, FLUSH = 4, SECTOR = 512, BLOCK = 4096 };
enum { VECTOR = 0x40, ROUNDS = 200 };
#define APIC_PAGE 0xfee00000ull
#define LONG_NS 500000 /* of the TSC, which counts nanoseconds */

static struct { u64 gpa; u32 bytes; u16 flags, next; } desc[RING] __attribute__((aligned(16)));
static volatile struct { u16 flags, idx, ring[RING]; } avail __attribute__((aligned(4)));
static volatile struct { u16 flags, idx; struct { u32 id, bytes; } ring[RING]; } used __attribute__((aligned(4)));
static struct { u32 type, zero; u64 sector; } header;
static u8 data[BLOCK];
static volatile u8 status;
static volatile u16 *doorbell;
static volatile unsigned interrupts;

/* ---- finding the device ---- */

static inline u32 inl(u16 port)
{
	u32 v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static u32 config_read(unsigned at)
{
	outl(PCI_ADDRESS, 1u << 31 | 1 << 11 | (at & ~3u)); /* slot 1 */
	return inl(PCI_DATA);
}

static void config_write(unsigned at, u32 v)
{
	outl(PCI_ADDRESS, 1u << 31 | 1 << 11 | (at & ~3u));
	outl(PCI_DATA, v);
}

static unsigned config_byte(unsigned at) { return config_read(at) >> 8 * (at & 3) & 0xff; }

static volatile u8 *bar(unsigned n, u32 offset)
{
	return (volatile u8 *)(uintptr_t)((config_read(0x10 + 4 * n) & ~15u) + offset);
}

/* The next capability of a kind (a vendor's own: of that type), 0 if there is none. */
static unsigned find(unsigned id, unsigned type)
{
	unsigned cap = config_byte(0x34);

	while (cap && (config_byte(cap) != id || (id == CAP_VENDOR && config_byte(cap + 3) != type)))
		cap = config_byte(cap + 1);
	return cap;
}

static volatile u8 *structure(unsigned cap) { return bar(config_byte(cap + 4), config_read(cap + 8)); }

static void set16(volatile u8 *at, u16 v) { *(volatile u16 *)at = v; }
static void set32(volatile u8 *at, u32 v) { *(volatile u32 *)at = v; }
static void set64(volatile u8 *at, u64 v) { *(volatile u64 *)at = v; }

static void start_msix(unsigned cap)
{
	volatile u8 *entry = bar(config_read(cap + 4) & 7, config_read(cap + 4) & ~7u);

	set64(entry, APIC_PAGE);
	set32(entry + 8, VECTOR);
	set32(entry + 12, 0);
	config_write(cap, config_read(cap) | 1u << 31);
}

static bool start_device(void)
{
	unsigned common_cap, notify_cap, msix;
	volatile u8 *common;

	if (config_read(0) != DISK_ID)
		return false;
	config_write(4, MEMORY_AND_MASTER);
	common_cap = find(CAP_VENDOR, CAP_COMMON);
	notify_cap = find(CAP_VENDOR, CAP_NOTIFY);
	msix = find(CAP_MSIX, 0);
	if (!common_cap || !notify_cap || !msix)
		return false;
	start_msix(msix);
	common = structure(common_cap);
	common[STATUS] = 0;
	common[STATUS] = 3;
	set32(common + ACCEPTED_SELECT, 0);
	set32(common + ACCEPTED, FLUSHES);
	set32(common + ACCEPTED_SELECT, 1);
	set32(common + ACCEPTED, VERSION_1);
	common[STATUS] = 11;
	set16(common + QUEUE_SELECT, 0);
	set16(common + QUEUE_SIZE, RING);
	set16(common + QUEUE_VECTOR, 0);
	set64(common + QUEUE_DESC, (uintptr_t)desc);
	set64(common + QUEUE_AVAIL, (uintptr_t)&avail);
	set64(common + QUEUE_USED, (uintptr_t)&used);
	doorbell = (volatile u16 *)(structure(notify_cap) +
				    *(volatile u16 *)(common + QUEUE_NOTIFY_OFF) * config_read(notify_cap + 16));
	set16(common + QUEUE_ENABLE, 1);
	common[STATUS] = 15;
	return common[STATUS] == 15;
}

/* ---- requests ---- */

static void arrival(u64 vector)
{
	interrupts += vector == VECTOR;
	*(volatile u32 *)(uintptr_t)(APIC_PAGE + 0xb0) = 0; /* EOI */
}

static u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static void set_desc(unsigned i, const volatile void *at, u32 bytes, u16 flags)
{
	desc[i].gpa = (uintptr_t)at;
	desc[i].bytes = bytes;
	desc[i].flags = flags;
	desc[i].next = (u16)(i + 1);
}

static void request(u32 type, u64 sector)
{
	header.type = type;
	header.sector = sector;
	set_desc(0, &header, sizeof(header), DESC_NEXT);
	if (type != FLUSH)
		set_desc(1, data, sizeof(data), DESC_NEXT | (type == IN ? DESC_WRITE : 0));
	set_desc(type == FLUSH ? 1 : 2, &status, 1, DESC_WRITE);
	status = 0xee;
	avail.ring[avail.idx % RING] = 0;
	__asm__ volatile("" : : : "memory");
	avail.idx++;
	*doorbell = 0;
}

/* Until the interrupt; returns how long that was. */
static u64 wait(unsigned before, bool halt)
{
	u64 from = rdtsc();

	while (interrupts == before) {
		if (halt)
			__asm__ volatile("sti; hlt; cli" : : : "memory");
		else
			__asm__ volatile("sti; pause; cli" : : : "memory");
	}
	return rdtsc() - from;
}

/* One request to its end. */
static u64 perform(u32 type, u64 sector, bool halt)
{
	unsigned before = interrupts, answered = used.idx;
	u64 ns;

	request(type, sector);
	ns = wait(before, halt);
	check(status == 0, "request %u: status %u", type, status);
	check((u16)(used.idx - answered) == 1, "request %u: %u answers", type, used.idx - answered);
	return ns;
}

static void rounds(const char *name, bool halt)
{
	unsigned slow = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		memset(data, (int)i, sizeof(data));
		slow += perform(OUT, BLOCK / SECTOR, halt) > LONG_NS;
		slow += perform(FLUSH, 0, halt) > LONG_NS;
		memset(data, 0, sizeof(data));
		slow += perform(IN, BLOCK / SECTOR, halt) > LONG_NS;
		check(data[0] == (u8)i && data[BLOCK - 1] == (u8)i, "round %u: not what was written", i);
	}
	/* A busy host is late, too, but not most of the time. */
	check(slow <= 2 * ROUNDS, "%s: %u of %u waits were long", name, slow, 3 * ROUNDS);
}

int main(void)
{
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1 << 11);
	*(volatile u32 *)(uintptr_t)(APIC_PAGE + 0xf0) = 0x1ff;
	trap_hook = arrival;
	if (check(start_device(), "no disk in slot 1")) {
		perform(IN, 0, true);
		check(memcmp(data, "\177ELF", 4) == 0, "the disk does not begin as this program's file");
		rounds("halted", true);
		rounds("executing", false);
	}
	finish("disk");
}
