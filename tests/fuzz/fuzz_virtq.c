/*
 * Fuzzing virtio devices: a guest that writes anything into rings and registers of every device. Nothing may crash,
 * hang or reach outside guest memory (the sanitizers see the RAM's ends), and the same input twice must leave the same
 * memory and the same interrupts. With clang -fsanitize=fuzzer this is a libFuzzer target; without it a main()
 * replays files, or makes up inputs:
 *
 *	fuzz_virtq [-n ROUNDS] [-s SEED] [FILE|DIRECTORY...]
 */
#include "../unit/dev/virtio_rig.h"

#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_console.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "disk/snapshot.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEVICES    5
#define DISK_BYTES (256 * 1024)
#define RINGS      0x100000ull /* each queue's ring has 16 KiB here, so that inputs can find it */
#define BUFFERS    0x150000ull
#define OPS_MAX    400u
#define EVENTS_MAX 2000u       /* of one step of time: more is a device that does not come to rest */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct wire {
	struct net_backend backend;
	uint64_t state;
	unsigned left; /* frames that are going to arrive */
	uint64_t sum;  /* of what was sent */
};

struct world {
	struct rig r;
	struct virtio_pci t[DEVICES];
	struct virtio *v[DEVICES];
	struct virtio_blk blk;
	struct virtio_net net;
	struct virtio_rng rng;
	struct virtio_balloon balloon;
	struct virtio_console console;
	struct wire wire;
	struct rig_ring ring[DEVICES][VIRTIO_QUEUES_MAX];
	uint64_t digest;
};

struct input {
	const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->at < in->end; i++)
		v |= (uint64_t)*in->at++ << 8 * i;
	return v;
}

static void mix(struct world *w, uint64_t v) { w->digest = (w->digest ^ v) * 0x100000001b3 + (w->digest >> 40); }

/* ---- a wire that makes frames up ---- */

static void wire_send(struct net_backend *n, const uint8_t *frame, size_t bytes)
{
	struct wire *w = (struct wire *)(void *)n;

	if (bytes < NET_FRAME_MIN || bytes > NET_FRAME_MAX)
		abort();
	for (size_t i = 0; i < bytes; i++)
		w->sum = w->sum * 31 + frame[i];
}

static size_t wire_receive(struct net_backend *n, uint8_t *frame)
{
	struct wire *w = (struct wire *)(void *)n;

	if (!w->left)
		return 0;
	w->left--;
	w->state = w->state * 6364136223846793005 + 1;
	memset(frame, (int)w->state, NET_FRAME_MAX);
	return NET_FRAME_MIN + (w->state >> 33) % (NET_FRAME_MAX - NET_FRAME_MIN + 1);
}

static unsigned wire_wait_for(struct net_backend *n, struct pollfd *p, unsigned max, int *wait_ms)
{
	(void)n, (void)p, (void)max, (void)wait_ms;
	return 0;
}

static void wire_work(struct net_backend *n) { (void)n; }
static bool wire_is_up(struct net_backend *n) { return ((struct wire *)(void *)n)->left % 2 == 0; }
static void wire_close(struct net_backend *n) { (void)n; }

static const struct net_backend_ops wire_ops = {.send = wire_send, .receive = wire_receive, .wait_for = wire_wait_for,
						.work = wire_work, .is_up = wire_is_up, .close = wire_close};

static const uint8_t typed[VIRTIO_CONSOLE_INPUT]; /* waits for buffers */

static void console_output(void *ctx, const uint8_t *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		mix(ctx, data[i]);
}

/* ---- making it ---- */

static void make(struct world *w, const char *path)
{
	static const uint8_t mac[6] = {2, 1, 2, 3, 4, 5};
	struct disk_options o = {.format = DISK_FORMAT_RAW, .no_lock = true, .read_only = true};
	struct error err = {0};
	struct disk *disk;

	memset(w, 0, sizeof(*w));
	rig_init(&w->r);
	if (disk_open_snapshot(&disk, path, &o, &err) ||
	    virtio_blk_init(&w->blk, disk, &w->r.dma, "serial", NULL, "disk", &err)) {
		fprintf(stderr, "fuzz_virtq: %s\n", err.text);
		exit(1);
	}
	w->wire.backend.ops = &wire_ops;
	virtio_net_init(&w->net, &w->wire.backend, &w->r.dma, mac, "wire");
	virtio_rng_init(&w->rng, &w->r.dma, 1, false);
	virtio_balloon_init(&w->balloon, &w->r.dma, 16);
	virtio_console_init(&w->console, &w->r.dma, console_output, w);
	virtio_console_put_input(&w->console, typed, sizeof(typed), 0);
	w->v[0] = &w->blk.virtio;
	w->v[1] = &w->net.virtio;
	w->v[2] = &w->rng.virtio;
	w->v[3] = &w->balloon.virtio;
	w->v[4] = &w->console.virtio;
	pci_bus_init(&w->r.bus);
	for (unsigned i = 0; i < DEVICES; i++) {
		w->v[i]->offered |= VIRTIO_F_RING_PACKED;
		virtio_pci_init(&w->t[i], w->v[i]);
		pci_bus_add(&w->r.bus, &w->t[i].fn);
	}
	w->r.pci = pci_bus_device(&w->r.bus);
}

static uint64_t bar(const struct world *w, unsigned device, unsigned n)
{
	return get_u32(w->t[device].fn.config + PCI_BAR0 + 4 * n);
}

/* What a driver does, so that inputs get past the door. */
static void start(struct world *w, unsigned device, uint64_t features, bool msix)
{
	uint64_t common = bar(w, device, 0), table = bar(w, device, 2);
	struct rig *r = &w->r;

	rig_write(r, rig_config(device + 1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (unsigned i = 0; i < 5 && msix; i++) {
		rig_write(r, table + 16 * i, 8, 0xfee00000);
		rig_write(r, table + 16 * i + 8, 8, i);
	}
	rig_write(r, rig_config(device + 1, w->t[device].fn.msix.cap + 2u), 2, msix ? 0x8000 : 0);
	rig_write(r, common + 0x14, 1, 0);
	for (unsigned half = 0; half < 2; half++) {
		rig_write(r, common + 0x08, 4, half);
		rig_write(r, common + 0x0c, 4,
			  ((features & w->v[device]->offered) | VIRTIO_F_VERSION_1) >> 32 * half & 0xffffffff);
	}
	rig_write(r, common + 0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	for (unsigned i = 0; i < w->v[device]->ops->queues; i++) {
		struct rig_ring *q = &w->ring[device][i];

		*q = rig_ring(RINGS + 0x4000 * (4 * device + i), 16);
		memset(rig_at(r, q->desc), 0, 0x4000);
		rig_write(r, common + 0x16, 2, i);
		rig_write(r, common + 0x18, 2, q->size);
		rig_write(r, common + 0x1a, 2, i);
		rig_write(r, common + 0x20, 8, q->desc);
		rig_write(r, common + 0x28, 8, q->avail);
		rig_write(r, common + 0x30, 8, q->used);
		rig_write(r, common + 0x1c, 2, 1);
	}
	rig_write(r, common + 0x14, 1, 15);
}

/* ---- steps ---- */

static void take_interrupts(struct world *w)
{
	uint32_t data, pulses;
	uint64_t addr;

	for (unsigned i = 0; pci_bus_take_msi(&w->r.bus, &addr, &data); i++) {
		mix(w, addr + data);
		if (i > DEVICES * PCI_MSIX_MAX)
			abort();
	}
	mix(w, w->r.pci.irq(w->r.pci.state, &pulses));
}

static void pass_time(struct world *w, uint64_t ns)
{
	uint64_t until = w->r.now + ns, next = rig_advance(&w->r, w->r.now);
	unsigned events = 0;

	for (; next <= until; next = rig_advance(&w->r, next)) {
		if (next <= w->r.now && events)
			abort(); /* an event that is not in the future */
		if (++events > EVENTS_MAX)
			abort();
	}
	rig_advance(&w->r, until);
}

static uint64_t some_address(struct input *in)
{
	uint64_t v = take(in, 3);

	switch (v & 7) {
	case 0:
		return RINGS + (v >> 3) % 0x50000;
	case 1:
		return RIG_RAM_BASE + RIG_RAM_BYTES - (v >> 3) % 64;
	case 2:
		return take(in, 8);
	default:
		return BUFFERS + (v >> 3) % 0x30000;
	}
}

static uint32_t some_length(struct input *in)
{
	static const uint32_t lengths[] = {0, 1, 4, 10, 12, 16, 17, 48, 64, 512, 513, 1024, 1530, 4096, 65536, 0x80000};
	unsigned v = (unsigned)take(in, 1);

	return v < 240 ? lengths[v % 16] : (uint32_t)take(in, 4);
}

static void step_register(struct world *w, struct input *in, unsigned device)
{
	static const uint16_t interesting[] = {0x00, 0x08, 0x0c, 0x10, 0x14, 0x16, 0x18, 0x1a, 0x1c, 0x20, 0x28, 0x30,
					       0x1000, 0x2000, 0x3000, 0x3ffc};
	unsigned kind = (unsigned)take(in, 1), bytes = 1u << (kind & 3);
	uint64_t at = bar(w, device, kind & 0x40 ? 2 : 0);

	at += kind & 0x20 ? take(in, 2) & 0x3fff : interesting[take(in, 1) % ARRAY_SIZE(interesting)];
	if (kind & 0x10)
		at = rig_config(device + 1, (unsigned)take(in, 1));
	if (kind & 0x80)
		mix(w, rig_read(&w->r, at, bytes));
	else
		rig_write(&w->r, at, bytes, take(in, bytes) & (bytes < 8 ? (1ull << 8 * bytes) - 1 : ~0ull));
}

static void step_descriptor(struct world *w, struct input *in, const struct rig_ring *q, bool packed)
{
	unsigned v = (unsigned)take(in, 2);
	uint64_t table = v & 0x8000 ? BUFFERS + 0x100 * (v >> 8 & 7) : q->desc;
	uint16_t flags = (uint16_t)(v >> 4 & 7), next = (uint16_t)(v >> 11 & 15);
	uint64_t a = some_address(in);
	uint32_t bytes = some_length(in);
	unsigned lap;

	if (!packed) {
		rig_desc(&w->r, table, v & 15, a, bytes, flags, next);
		return;
	}
	/* The two numbers are the other way round; whether it is available is the driver's to say. */
	lap = (unsigned)take(in, 1);
	flags |= (uint16_t)((lap & 1 ? 0x80 : 0) | (lap & 2 ? 0x8000 : 0));
	rig_desc(&w->r, table, v & 15, a, bytes, lap & 0x80 ? 300 : next, flags);
}

/* A request header or page numbers or statistics: numbers that mean something to a device. */
static void step_data(struct world *w, struct input *in)
{
	uint64_t a = BUFFERS + take(in, 2) % 0x1000;

	for (unsigned i = 0; i < 16; i += 4) {
		unsigned v = (unsigned)take(in, 1);

		put_u32(rig_at(&w->r, a + i), v < 128 ? v & 15 : v < 200 ? 0x100 + v : (uint32_t)take(in, 4));
	}
}

static void step_offer(struct world *w, struct input *in, struct rig_ring *q)
{
	unsigned v = (unsigned)take(in, 1);

	rig_offer(&w->r, q, v & 15);
	if (v >= 0xf0)
		put_u16(rig_at(&w->r, q->avail) + 2, (uint16_t)take(in, 2));
}

static void one_step(struct world *w, struct input *in)
{
	unsigned op = (unsigned)take(in, 1), device = op / 16 % DEVICES;
	unsigned queue = (unsigned)take(in, 1) % VIRTIO_QUEUES_MAX;
	struct rig_ring *q = &w->ring[device][queue];
	uint64_t features;

	if (!q->size)
		op &= ~15u;
	switch (op & 15) {
	case 0:
		features = take(in, 4);
		features |= features & 2 ? VIRTIO_F_RING_PACKED : 0;
		start(w, device, features, features & 1);
		break;
	case 1:
	case 2:
	case 3:
	case 4:
		step_descriptor(w, in, q, w->v[device]->queue[queue].packed);
		break;
	case 5:
	case 6:
		step_data(w, in);
		break;
	case 7:
	case 8:
	case 9:
		step_offer(w, in, q);
		break;
	case 10:
	case 11:
		rig_write(&w->r, bar(w, device, 0) + 0x3000 + 4 * queue, 2, queue);
		break;
	case 12:
		pass_time(w, take(in, 2) * 16);
		break;
	case 13:
		step_register(w, in, device);
		break;
	case 14:
		w->wire.left = (unsigned)take(in, 1) % 8;
		virtio_net_poll(&w->net, w->r.now);
		break;
	default:
		put_u64(rig_at(&w->r, RIG_RAM_BASE + take(in, 3) % (RIG_RAM_BYTES - 8)), take(in, 8));
	}
	take_interrupts(w);
}

static uint64_t run(const char *path, const uint8_t *data, size_t size)
{
	static struct world w;
	struct input in = {data, data + size};

	make(&w, path);
	for (unsigned i = 0; i < OPS_MAX && in.at < in.end; i++)
		one_step(&w, &in);
	pass_time(&w, 20000000);
	take_interrupts(&w);
	for (uint64_t i = 0; i < RIG_RAM_BYTES; i += 8)
		mix(&w, get_u64(w.r.ram + i));
	mix(&w, w.wire.sum);
	for (unsigned i = 0; i < DEVICES; i++)
		mix(&w, w.v[i]->status);
	virtio_net_close(&w.net);
	virtio_blk_close(&w.blk, NULL);
	rig_free(&w.r);
	return w.digest;
}

/* A disk in memory; made once. */
static const char *image(void)
{
	static char path[64];
	int fd;

	if (*path)
		return path;
	fd = memfd_create("disk", 0);
	if (fd < 0 || ftruncate(fd, DISK_BYTES))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	setenv("TMPDIR", "/dev/shm", 0);
	return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (run(image(), data, size) != run(image(), data, size)) {
		fprintf(stderr, "fuzz_virtq: the same input, another result\n");
		abort();
	}
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "pick.h"

#define INPUT_BYTES 4096

/* Steps that mostly concern one device, each with random bytes behind it. */
static size_t make_up(uint8_t *data)
{
	static const uint8_t usual[] = {1, 2, 3, 5, 7, 7, 8, 10, 10, 12};
	unsigned device = pick(DEVICES), steps = 5 + pick(150);
	size_t n = 0;

	data[n++] = (uint8_t)(device * 16);
	for (unsigned i = 0; i < 5; i++)
		data[n++] = (uint8_t)(pick(4) ? 0xff : pick(256));
	for (unsigned i = 0; i < steps && n < INPUT_BYTES - 16; i++) {
		unsigned d = pick(8) ? device : pick(DEVICES);

		data[n++] = (uint8_t)(d * 16 + (pick(10) ? usual[pick(ARRAY_SIZE(usual))] : pick(16)));
		data[n++] = (uint8_t)(pick(3) ? 0 : pick(4));
		for (unsigned k = pick(10); k > 0; k--)
			data[n++] = (uint8_t)(pick(2) ? pick(32) : pick(256));
	}
	return n;
}

static void replay(const char *name)
{
	static uint8_t data[1 << 20];
	FILE *f = fopen(name, "rb");

	if (!f) {
		perror(name);
		exit(2);
	}
	LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof(data), f));
	fclose(f);
}

/* All files of a directory, or one file. Returns how many. */
static int replay_all(const char *name)
{
	DIR *dir = opendir(name);
	struct dirent *e;
	char path[4096];
	int n = 0;

	if (!dir) {
		replay(name);
		return 1;
	}
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.') {
			snprintf(path, sizeof(path), "%s/%s", name, e->d_name);
			replay(path);
			n++;
		}
	closedir(dir);
	return n;
}

int main(int argc, char **argv)
{
	uint64_t rounds = 5000;
	uint8_t data[INPUT_BYTES];
	int files = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-n") == 0 && i + 1 < argc)
			rounds = strtoull(argv[++i], NULL, 0);
		else if (strcmp(argv[i], "-s") == 0 && i + 1 < argc)
			random_state = strtoull(argv[++i], NULL, 0) | 1;
		else
			files += replay_all(argv[i]);
	}
	for (uint64_t i = 0; i < rounds && !files; i++)
		LLVMFuzzerTestOneInput(data, make_up(data));
	return 0;
}

#endif
