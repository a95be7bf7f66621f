/* See devices.h. */
#include "vm/devices.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_console.h"
#include "dev/virtio_net.h"
#include "dev/virtio_pci.h"
#include "dev/virtio_rng.h"
#include "disk/freeze.h"
#include "disk/snapshot.h"
#include "vm/net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEVICES_MAX (DEVICES_DISKS_MAX + DEVICES_NETS_MAX + 3)

struct devices {
	struct devices_host host;
	bool packed;
	struct dma dma;
	uint64_t bytes_read, bytes_written; /* of guest memory */
	struct virtio_pci pci[DEVICES_MAX];
	unsigned count;
	char disk_path[DEVICES_DISKS_MAX][PATH_MAX];
	struct virtio_blk blk[DEVICES_DISKS_MAX];
	unsigned disks;
	struct virtio_net net[DEVICES_NETS_MAX];
	unsigned nets;
	struct virtio_rng rng;
	struct virtio_balloon balloon;
	bool has_balloon;
	struct virtio_console console;
	int console_fd;
	bool terminal; /* the console is the terminal's */
	/* The wall clock: a disk's worker has done something. */
	struct disk_listener listener;
	atomic_bool called;
	int called_fd; /* an eventfd, readable from then on; -1: none */
};

/* ---- guest memory ---- */

static bool dma_is_ram(void *ctx, uint64_t a, uint64_t bytes)
{
	const struct devices *d = ctx;

	return engine_dma_is_ram(d->host.engine, gpa(a), bytes);
}

static int dma_read(void *ctx, uint64_t a, void *buf, uint64_t bytes)
{
	struct devices *d = ctx;

	d->bytes_read += bytes;
	return engine_dma_read(d->host.engine, gpa(a), buf, bytes);
}

static int dma_write(void *ctx, uint64_t a, const void *buf, uint64_t bytes)
{
	struct devices *d = ctx;

	d->bytes_written += bytes;
	return engine_dma_write(d->host.engine, gpa(a), buf, bytes);
}

static int dma_release(void *ctx, uint64_t a, uint64_t bytes)
{
	const struct devices *d = ctx;

	return engine_dma_release(d->host.engine, gpa(a), bytes);
}

/* ---- what the owner says ---- */

/* Copies up to a single comma; "" if it does not fit. Returns what follows: a comma or the end. */
static const char *take_name(const char *text, char *to, size_t bytes)
{
	size_t n = 0;

	for (; *text && (*text != ',' || text[1] == ','); text++) {
		if (*text == ',')
			text++;
		if (n < bytes)
			to[n] = *text;
		n++;
	}
	to[n < bytes ? n : 0] = 0;
	return text;
}

static bool is_word(const char *text, size_t bytes, const char *word)
{
	return strlen(word) == bytes && memcmp(text, word, bytes) == 0;
}

static int take_disk_word(struct devices_disk *disk, const char *word, size_t n, struct error *err)
{
	static const char serial[] = "serial=";
	size_t skip = sizeof(serial) - 1;

	if (is_word(word, n, "ro")) {
		disk->read_only = true;
	} else if (is_word(word, n, "snapshot")) {
		disk->snapshot = true;
	} else if (n > skip && memcmp(word, serial, skip) == 0) {
		if (n - skip > DEVICES_SERIAL_MAX)
			return error_set(err, -EINVAL, "--disk: serial '%.*s': at most %d bytes", (int)(n - skip),
					 word + skip, DEVICES_SERIAL_MAX);
		memcpy(disk->serial, word + skip, n - skip);
		disk->serial[n - skip] = 0;
	} else {
		return error_set(err, -EINVAL, "--disk: '%.*s': after the file come ro, snapshot, serial=TEXT", (int)n,
				 word);
	}
	return 0;
}

int devices_parse_disk(const char *text, struct devices_disk *disk, struct error *err)
{
	int ret = 0;

	memset(disk, 0, sizeof(*disk));
	text = take_name(text, disk->path, sizeof(disk->path));
	if (!*disk->path)
		return error_set(err, -EINVAL, "--disk: no file name, or one that is too long");
	while (*text && !ret) {
		size_t n = strcspn(++text, ",");

		ret = take_disk_word(disk, text, n, err);
		text += n;
	}
	return ret;
}

int devices_print_disk(const struct devices_disk *disk, char *text, size_t bytes, struct error *err)
{
	size_t n = 0;
	int tail;

	for (const char *p = disk->path; *p && n + 2 < bytes; p++) {
		text[n++] = *p;
		if (*p == ',')
			text[n++] = ',';
	}
	tail = snprintf(text + n, bytes - n, "%s%s%s%s", disk->read_only ? ",ro" : "", disk->snapshot ? ",snapshot" : "",
			*disk->serial ? ",serial=" : "", disk->serial);
	if (n + 2 >= bytes || (size_t)tail >= bytes - n)
		return error_set(err, -ENAMETOOLONG, "%.300s: %s", disk->path, strerror(ENAMETOOLONG));
	return 0;
}

/* ---- making them ---- */

static int plug(struct devices *d, struct virtio *v, struct error *err)
{
	struct virtio_pci *t = &d->pci[d->count];

	if (d->packed)
		v->offered |= VIRTIO_F_RING_PACKED;
	virtio_pci_init(t, v);
	if (platform_add_pci(d->host.platform, &t->fn))
		return error_set(err, -ENOSPC, "too many devices");
	d->count++;
	return 0;
}

static int join_path(const struct devices *d, char *to, const char *path, struct error *err)
{
	const char *directory = *path == '/' || !d->host.directory ? "" : d->host.directory;

	if (snprintf(to, PATH_MAX, "%s%s", directory, path) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "%.300s: %s", path, strerror(ENAMETOOLONG));
	return 0;
}

/* By the thread of a disk's worker. A guest that executes is interrupted, an owner that waits for the descriptor wakes. */
static void call(void *ctx)
{
	struct devices *d = ctx;

	eventfd_write(d->called_fd, 1); /* first: devices_poll() empties it when it finds the flag */
	atomic_store(&d->called, true);
	engine_kick(d->host.engine);
}

static int prepare_calls(struct devices *d, struct error *err)
{
	d->listener = (struct disk_listener){.done = call, .ctx = d};
	d->called_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return d->called_fd < 0 ? error_set(err, -errno, "--disk: no eventfd: %s", strerror(errno)) : 0;
}

static int add_disk(struct devices *d, const char *text, struct error *err)
{
	struct disk_options o = {0};
	struct devices_disk what;
	char *path = d->disk_path[d->disks];
	struct disk *disk;
	int ret = devices_parse_disk(text, &what, err);

	if (!ret)
		ret = join_path(d, path, what.path, err);
	if (ret)
		return ret;
	o.read_only = what.read_only;
	ret = what.snapshot && !what.read_only ? disk_open_snapshot(&disk, path, &o, err)
					       : disk_open(&disk, path, &o, err);
	if (!ret)
		ret = virtio_blk_init(&d->blk[d->disks], disk, &d->dma, what.serial, d->host.wall ? &d->listener : NULL,
				      path, err);
	if (ret)
		return ret;
	return plug(d, &d->blk[d->disks++].virtio, err);
}

static int add_rng(struct devices *d, struct error *err)
{
	virtio_rng_init(&d->rng, &d->dma, d->host.seed, d->host.wall);
	return plug(d, &d->rng.virtio, err);
}

/* A locally administered address that follows from the seed, so that two VMs with different ones can meet. */
static void default_mac(const struct devices *d, uint8_t mac[6])
{
	mac[0] = 0x02;
	mac[1] = 0x47;
	mac[2] = (uint8_t)(d->host.seed >> 16);
	mac[3] = (uint8_t)(d->host.seed >> 8);
	mac[4] = (uint8_t)d->host.seed;
	mac[5] = (uint8_t)(d->nets + 1);
}

static int add_net(struct devices *d, const char *text, struct error *err)
{
	struct net_backend *backend = NULL;
	struct net_config cfg;
	char path[PATH_MAX];
	int ret = net_parse(text, &cfg, err);

	if (!ret)
		ret = join_path(d, path, cfg.name, err);
	if (!ret)
		ret = net_open(&backend, &cfg, path, err);
	if (ret)
		return ret;
	if (!cfg.has_mac)
		default_mac(d, cfg.mac);
	virtio_net_init(&d->net[d->nets], backend, &d->dma, cfg.mac, text);
	return plug(d, &d->net[d->nets++].virtio, err);
}

static int add_balloon(struct devices *d, uint64_t bytes, struct error *err)
{
	if (bytes >> PAGE_SHIFT > UINT32_MAX)
		return error_set(err, -EINVAL, "--balloon: more than any guest has");
	virtio_balloon_init(&d->balloon, &d->dma, (uint32_t)(bytes >> PAGE_SHIFT));
	d->has_balloon = true;
	return plug(d, &d->balloon.virtio, err);
}

static void console_output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct devices *d = ctx;

	while (bytes) {
		ssize_t n = write(d->console_fd, data, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			virtio_say(&d->console.virtio, "cannot write: %s", strerror(n ? errno : EIO));
			return;
		}
		data += n;
		bytes -= (size_t)n;
	}
}

static int add_console(struct devices *d, const char *name, struct error *err)
{
	char path[PATH_MAX];
	int ret;

	if (strcmp(name, "-") == 0) {
		d->terminal = true;
		virtio_console_init(&d->console, &d->dma, d->host.terminal, d->host.terminal_ctx);
		return plug(d, &d->console.virtio, err);
	}
	ret = join_path(d, path, name, err);
	if (ret)
		return ret;
	d->console_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (d->console_fd < 0)
		return error_set(err, -errno, "--virtio-console '%.300s': %s", path, strerror(errno));
	virtio_console_init(&d->console, &d->dma, console_output, d);
	return plug(d, &d->console.virtio, err);
}

static int add_all(struct devices *d, const struct devices_config *cfg, struct error *err)
{
	int ret = cfg->disks && d->host.wall ? prepare_calls(d, err) : 0;

	for (unsigned i = 0; i < cfg->disks && !ret; i++)
		ret = add_disk(d, cfg->disk[i], err);
	for (unsigned i = 0; i < cfg->nets && !ret; i++)
		ret = add_net(d, cfg->net[i], err);
	if (!ret && cfg->rng)
		ret = add_rng(d, err);
	if (!ret && cfg->balloon)
		ret = add_balloon(d, cfg->balloon_bytes, err);
	if (!ret && cfg->console)
		ret = add_console(d, cfg->console, err);
	return ret;
}

int devices_create(struct devices **out, const struct devices_config *cfg, const struct devices_host *host,
		   struct error *err)
{
	struct devices *d;
	int ret;

	*out = NULL;
	if (!cfg->disks && !cfg->nets && !cfg->rng && !cfg->balloon && !cfg->console)
		return 0;
	d = calloc(1, sizeof(*d));
	if (!d)
		return error_set(err, -ENOMEM, "out of memory");
	d->host = *host;
	d->console_fd = d->called_fd = -1;
	d->packed = cfg->packed;
	d->dma = (struct dma){.ctx = d, .is_ram = dma_is_ram, .read = dma_read, .write = dma_write,
			      .release = dma_release};
	ret = add_all(d, cfg, err);
	if (ret) {
		devices_close(d, NULL);
		return ret;
	}
	*out = d;
	return 0;
}

int devices_close(struct devices *d, struct error *err)
{
	int ret = 0;

	if (!d)
		return 0;
	for (unsigned i = 0; i < d->disks; i++) {
		int one = virtio_blk_close(&d->blk[i], ret ? NULL : err);

		ret = ret ? ret : one;
	}
	if (d->called_fd >= 0) /* the disks' threads are gone */
		close(d->called_fd);
	for (unsigned i = 0; i < d->nets; i++)
		virtio_net_close(&d->net[i]);
	if (d->console_fd >= 0 && close(d->console_fd) && !ret)
		ret = error_set(err, -errno, "--virtio-console: %s", strerror(errno));
	free(d);
	return ret;
}

bool devices_take_message(struct devices *d, char *buf, size_t bytes)
{
	for (unsigned i = 0; d && i < d->count; i++) {
		struct virtio *v = d->pci[i].v;

		if (!*v->message)
			continue;
		snprintf(buf, bytes, "%s", v->message);
		*v->message = 0;
		return true;
	}
	return false;
}

/* ---- the world outside ---- */

bool devices_are_live(const struct devices *d)
{
	for (unsigned i = 0; d && i < d->nets; i++)
		if (d->net[i].backend)
			return true;
	for (unsigned i = 0; d && i < d->disks; i++)
		if (virtio_blk_waits(&d->blk[i]))
			return true;
	return false;
}

bool devices_have_called(const struct devices *d) { return d && atomic_load(&d->called); }

void devices_poll(struct devices *d, uint64_t now)
{
	eventfd_t calls;

	if (atomic_exchange(&d->called, false)) /* before looking: who calls later is looked at later */
		eventfd_read(d->called_fd, &calls);
	for (unsigned i = 0; i < d->disks; i++)
		virtio_blk_poll(&d->blk[i], now);
	for (unsigned i = 0; i < d->nets; i++)
		virtio_net_poll(&d->net[i], now);
	platform_pci_changed(d->host.platform);
}

bool devices_have_terminal(const struct devices *d) { return d && d->terminal; }

size_t devices_put_input(struct devices *d, const uint8_t *data, size_t bytes, uint64_t now)
{
	size_t n = virtio_console_put_input(&d->console, data, bytes, now);

	platform_pci_changed(d->host.platform);
	return n;
}

unsigned devices_wait_for(struct devices *d, struct pollfd *p, unsigned max, int *wait_ms)
{
	unsigned n = 0;

	if (d->called_fd >= 0 && max)
		p[n++] = (struct pollfd){.fd = d->called_fd, .events = POLLIN};
	for (unsigned i = 0; i < d->nets; i++) {
		struct net_backend *b = d->net[i].backend;

		if (b)
			n += b->ops->wait_for(b, p + n, max - n, wait_ms);
	}
	return n;
}

void devices_observe(const struct devices *d, struct obs *obs)
{
	for (unsigned i = 0; d && i < d->count; i++) {
		obs->devices.doorbells += d->pci[i].v->doorbells;
		obs->devices.chains += d->pci[i].v->chains;
		obs->devices.interrupts += d->pci[i].v->interrupts;
	}
	if (d) {
		obs->devices.bytes_read = d->bytes_read;
		obs->devices.bytes_written = d->bytes_written;
	}
}

void devices_describe(const struct devices *d, char *buf, size_t bytes)
{
	const struct virtio_balloon *b = d ? &d->balloon : NULL;
	size_t n;

	*buf = 0;
	if (!d || !d->has_balloon)
		return;
	n = (size_t)snprintf(buf, bytes, "balloon: %u MiB with the host", b->actual >> 8);
	if (n < bytes && b->stats_known >> BALLOON_FREE & 1 && b->stats_known >> BALLOON_TOTAL & 1)
		snprintf(buf + n, bytes - n, "; the guest had %llu of %llu MiB free when it was last asked",
			 (unsigned long long)b->stat[BALLOON_FREE] >> 20,
			 (unsigned long long)b->stat[BALLOON_TOTAL] >> 20);
}

/* ---- freezing disks ---- */

static int check_id(const char *id, struct error *err)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t n = strlen(id);

	if (n && n <= DEVICES_FREEZE_ID_MAX && strspn(id, allowed) == n)
		return 0;
	return error_set(err, -EINVAL, "'%.80s': a name for frozen disks has 1 to %d letters, digits and ._-", id,
			 DEVICES_FREEZE_ID_MAX);
}

/* "dir/disk.qcow2" and "id": "disk.id.qcow2" */
static int name_base(const char *path, const char *id, char *base, struct error *err)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
	int stem = (int)(dot && dot != name ? dot - name : (ptrdiff_t)strlen(name));

	if (snprintf(base, NAME_MAX + 1, "%.*s.%s%s", stem, name, id, name + stem) > NAME_MAX)
		return error_set(err, -ENAMETOOLONG, "%.300s: %s", path, strerror(ENAMETOOLONG));
	return 0;
}

/* Those that can be written; @z of the others stays empty. Returns how far it came in *@done. */
static int prepare_disks(struct devices *d, const char *id, struct disk_freeze *z, unsigned *done, struct error *err)
{
	char base[NAME_MAX + 1];
	int ret = 0;

	for (*done = 0; *done < d->disks && !ret; *done += !ret) {
		struct disk *disk = virtio_blk_settle(&d->blk[*done]);

		z[*done] = (struct disk_freeze){0};
		if (disk_read_only(disk))
			continue;
		ret = name_base(d->disk_path[*done], id, base, err);
		if (!ret)
			ret = disk_freeze_prepare(&z[*done], disk, base, err);
	}
	return ret;
}

static void finish_disk(struct devices *d, unsigned n, struct disk_freeze *z, struct devices_frozen *out)
{
	const char *path = d->disk_path[n], *base = z->disk ? z->base : path;

	snprintf(out->disk[n].path, PATH_MAX, "%s", path);
	snprintf(out->disk[n].base, PATH_MAX, "%s", base);
	out->disk[n].read_only = !z->disk;
	if (z->disk)
		virtio_blk_set_disk(&d->blk[n], disk_freeze_finish(z));
}

int devices_freeze_disks(struct devices *d, const char *id, struct devices_frozen *out, struct error *err)
{
	struct disk_freeze z[DEVICES_DISKS_MAX];
	unsigned prepared = 0;
	int ret = check_id(id, err);

	if (!ret && d)
		ret = prepare_disks(d, id, z, &prepared, err);
	for (unsigned i = 0; i < prepared && !ret; i++)
		if (z[i].disk)
			ret = disk_freeze_switch(&z[i], err);
	for (unsigned i = 0; i < prepared && ret; i++)
		if (z[i].disk)
			disk_freeze_undo(&z[i]);
	if (ret)
		return ret;
	out->disks = prepared;
	for (unsigned i = 0; i < prepared; i++)
		finish_disk(d, i, &z[i], out);
	return 0;
}
