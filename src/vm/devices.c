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
#include <sys/stat.h>
#include <unistd.h>

#define DEVICES_MAX (DEVICES_DISKS_MAX + DEVICES_NETS_MAX + 3)

struct devices {
	struct devices_host host;
	bool packed;
	struct dma dma;
	uint64_t bytes_read, bytes_written; /* of guest memory */
	struct virtio_pci pci[DEVICES_MAX];
	unsigned count;
	uint8_t loaded[DEVICES_MAX];        /* state that is there: LOADED_* */
	uint8_t loaded_own;
	char disk_path[DEVICES_DISKS_MAX][PATH_MAX];
	bool disk_snapshot[DEVICES_DISKS_MAX], disk_read_only[DEVICES_DISKS_MAX];
	uint64_t disk_bytes[DEVICES_DISKS_MAX];
	struct virtio_blk blk[DEVICES_DISKS_MAX];
	unsigned disks;
	struct virtio_net net[DEVICES_NETS_MAX];
	unsigned nets;
	struct virtio_rng rng;
	struct virtio_balloon balloon;
	bool has_balloon;
	struct virtio_console console;
	int console_fd;
	uint64_t console_bytes; /* written to the file */
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

static int add_disk(struct devices *d, const char *text, bool later, struct error *err)
{
	struct disk_options o = {.no_lock = later};
	struct devices_disk what;
	char *path = d->disk_path[d->disks];
	struct disk *disk;
	int ret = devices_parse_disk(text, &what, err);

	if (!ret)
		ret = join_path(d, path, what.path, err);
	if (ret)
		return ret;
	o.read_only = what.read_only || later;
	d->disk_read_only[d->disks] = what.read_only;
	d->disk_snapshot[d->disks] = what.snapshot && !what.read_only;
	ret = what.snapshot && !what.read_only ? disk_open_snapshot(&disk, path, &o, err)
					       : disk_open(&disk, path, &o, err);
	if (!ret)
		ret = virtio_blk_init(&d->blk[d->disks], disk, &d->dma, what.serial, d->host.wall ? &d->listener : NULL,
				      path, err);
	if (ret)
		return ret;
	if (later && !what.read_only)
		virtio_blk_offer_writing(&d->blk[d->disks]);
	d->disk_bytes[d->disks] = disk_bytes(disk);
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
		d->console_bytes += (size_t)n;
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
	d->console_fd = open(path, O_WRONLY | O_CREAT | (d->host.go_on ? 0 : O_TRUNC) | O_CLOEXEC, 0666);
	if (d->console_fd < 0)
		return error_set(err, -errno, "--virtio-console '%.300s': %s", path, strerror(errno));
	virtio_console_init(&d->console, &d->dma, console_output, d);
	return plug(d, &d->console.virtio, err);
}

static int add_all(struct devices *d, const struct devices_config *cfg, struct error *err)
{
	int ret = cfg->disks && d->host.wall ? prepare_calls(d, err) : 0;

	for (unsigned i = 0; i < cfg->disks && !ret; i++)
		ret = add_disk(d, cfg->disk[i], cfg->disks_later, err);
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

int devices_close_disks(struct devices *d, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; d && i < d->disks; i++) {
		int one = virtio_blk_release_disk(&d->blk[i], ret ? NULL : err);

		ret = ret ? ret : one;
	}
	return ret;
}

static int open_disk(struct devices *d, unsigned n, struct error *err)
{
	const struct disk_options o = {.read_only = d->disk_read_only[n]};
	struct disk *disk;
	int ret = disk_open(&disk, d->disk_path[n], &o, err);

	if (ret)
		return ret;
	if (disk_bytes(disk) != d->disk_bytes[n]) {
		disk_close(disk, NULL);
		return error_set(err, -ESTALE, "%.300s: it has another size now", d->disk_path[n]);
	}
	virtio_blk_set_disk(&d->blk[n], disk);
	return 0;
}

int devices_open_disks(struct devices *d, struct error *err)
{
	int ret = devices_close_disks(d, err);

	for (unsigned i = 0; d && i < d->disks && !ret; i++)
		ret = open_disk(d, i, err);
	if (ret)
		devices_close_disks(d, NULL);
	return ret;
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

const char *devices_disk(const struct devices *d, unsigned i, bool *read_only)
{
	if (!d || i >= d->disks)
		return NULL;
	*read_only = disk_read_only(d->blk[i].disk);
	return d->disk_path[i];
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
		if (d->blk[*done].mirror)
			return error_set(err, -EBUSY, "%s: is being mirrored", d->disk_path[*done]);
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

/* ---- state ---- */

#define LOADED_FUNCTION 1u
#define LOADED_DEVICE   2u
#define LOADED_ALL      (LOADED_FUNCTION | LOADED_DEVICE)
#define SECTION_NAME_MAX 32

/*
 * What was written to a file after the state was saved is written again: it is cut off. A file that is shorter is
 * another one and goes on at its end.
 */
static int console_go_on(struct devices *d, struct error *err)
{
	struct stat st;

	if (d->console_fd < 0 || fstat(d->console_fd, &st) || !S_ISREG(st.st_mode))
		return 0;
	if ((uint64_t)st.st_size > d->console_bytes && ftruncate(d->console_fd, (off_t)d->console_bytes))
		return error_set(err, -errno, "--virtio-console: %s", strerror(errno));
	lseek(d->console_fd, 0, SEEK_END);
	return 0;
}

static const struct state_field devices_fields[] = {STATE_U_MAX(struct devices, console_bytes, INT64_MAX)};
static const struct state_desc devices_desc = STATE_DESC("devices", 1, devices_fields);

static const struct state_desc *desc_of(const struct virtio *v)
{
	static const struct { const char *kind; const struct state_desc *desc; } kinds[] = {
		{"blk", &virtio_blk_desc}, {"net", &virtio_net_desc}, {"rng", &virtio_rng_desc},
		{"balloon", &virtio_balloon_desc}, {"console", &virtio_console_desc},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i].kind, v->ops->name) == 0)
			return kinds[i].desc;
	return NULL;
}

/* "pci.N", "pci.N.<kind>", "pci.N.<kind>.<part>" for the device @i, which is in slot @i + 1. */
static const char *section_name(char name[SECTION_NAME_MAX], const struct devices *d, unsigned i, const char *part)
{
	const char *kind = d->pci[i].v->ops->name;

	if (!part)
		snprintf(name, SECTION_NAME_MAX, "pci.%u", i + 1);
	else
		snprintf(name, SECTION_NAME_MAX, "pci.%u.%s%s%s", i + 1, kind, *part ? "." : "", part);
	return name;
}

/* The disk that is device @i, or NULL. */
static struct virtio_blk *blk_of(struct devices *d, unsigned i)
{
	for (unsigned n = 0; n < d->disks; n++)
		if (&d->blk[n].virtio == d->pci[i].v)
			return &d->blk[n];
	return NULL;
}

/* Requests in flight, each with its data. */
static int save_requests(struct devices *d, unsigned i, const struct state_sink *sink, struct error *err)
{
	struct virtio_blk *b = blk_of(d, i);
	struct blk_data_state *data = b->first ? malloc(sizeof(*data)) : NULL;
	struct blk_request_state rq;
	char name[SECTION_NAME_MAX];
	int ret = b->first && !data ? error_set(err, -ENOMEM, "saving state: out of memory") : 0;

	for (unsigned n = 0; !ret && virtio_blk_save_request(b, n, &rq); n++) {
		ret = state_give(sink, &(struct state_object){section_name(name, d, i, "request"), &virtio_blk_request_desc, &rq},
				 err);
		for (data->at = 0; !ret && virtio_blk_save_data(b, n, data); data->at += data->bytes)
			ret = state_give(sink, &(struct state_object){section_name(name, d, i, "data"), &virtio_blk_data_desc,
								      data}, err);
	}
	free(data);
	return ret;
}

static int save_device(struct devices *d, unsigned i, const struct state_sink *sink, struct error *err)
{
	struct virtio *v = d->pci[i].v;
	char name[SECTION_NAME_MAX];
	int ret = state_give(sink, &(struct state_object){section_name(name, d, i, NULL), &virtio_pci_desc, &d->pci[i]}, err);

	if (!ret)
		ret = state_give(sink, &(struct state_object){section_name(name, d, i, ""), desc_of(v), v}, err);
	return ret || !blk_of(d, i) ? ret : save_requests(d, i, sink, err);
}

static int prepare_state(struct devices *d, struct error *err)
{
	int ret = 0;

	for (unsigned n = 0; n < d->disks && !ret; n++)
		ret = d->disk_snapshot[n] ? error_set(err, -ENOTSUP, "disk '%.300s': its changes are to be thrown away: they "
						      "cannot be saved", d->disk_path[n])
					  : virtio_blk_prepare_state(&d->blk[n], err);
	return ret;
}

int devices_save(struct devices *d, const struct state_sink *sink, struct error *err)
{
	int ret;

	if (!d)
		return 0;
	ret = prepare_state(d, err);
	if (!ret)
		ret = state_give(sink, &(struct state_object){"devices", &devices_desc, d}, err);
	for (unsigned i = 0; i < d->count && !ret; i++)
		ret = save_device(d, i, sink, err);
	return ret;
}

static int load_once(uint8_t *loaded, unsigned bit, const struct state_object *o, const void *bytes, size_t n,
		     struct error *err)
{
	if (*loaded & bit)
		return error_set(err, -EINVAL, "state: section '%s' is there twice", o->name);
	*loaded |= (uint8_t)bit;
	return state_load(o->desc, o->object, bytes, n, err);
}

static int load_request(struct virtio_blk *b, const void *bytes, size_t n, struct error *err)
{
	struct blk_request_state rq;
	int ret = state_load(&virtio_blk_request_desc, &rq, bytes, n, err);

	return ret ? ret : virtio_blk_load_request(b, &rq, err);
}

static int load_data(struct virtio_blk *b, const void *bytes, size_t n, struct error *err)
{
	struct blk_data_state *data = malloc(sizeof(*data));
	int ret = data ? state_load(&virtio_blk_data_desc, data, bytes, n, err)
		       : error_set(err, -ENOMEM, "loading state: out of memory");

	if (!ret)
		ret = virtio_blk_load_data(b, data, err);
	free(data);
	return ret;
}

static int load_device(struct devices *d, unsigned i, const char *section, const void *bytes, size_t n, struct error *err)
{
	struct virtio_blk *b = blk_of(d, i);
	struct virtio *v = d->pci[i].v;
	char name[SECTION_NAME_MAX];

	if (strcmp(section, section_name(name, d, i, NULL)) == 0)
		return load_once(&d->loaded[i], LOADED_FUNCTION, &(struct state_object){section, &virtio_pci_desc, &d->pci[i]},
				 bytes, n, err);
	if (strcmp(section, section_name(name, d, i, "")) == 0)
		return load_once(&d->loaded[i], LOADED_DEVICE, &(struct state_object){section, desc_of(v), v}, bytes, n, err);
	if (b && strcmp(section, section_name(name, d, i, "request")) == 0)
		return load_request(b, bytes, n, err);
	if (b && strcmp(section, section_name(name, d, i, "data")) == 0)
		return load_data(b, bytes, n, err);
	return -ENOENT;
}

int devices_load(struct devices *d, const char *name, const void *bytes, size_t n, struct error *err)
{
	int ret = -ENOENT;

	if (d && strcmp(name, "devices") == 0) {
		ret = load_once(&d->loaded_own, 1, &(struct state_object){name, &devices_desc, d}, bytes, n, err);
		return ret ? ret : console_go_on(d, err);
	}
	for (unsigned i = 0; d && i < d->count && ret == -ENOENT; i++)
		ret = load_device(d, i, name, bytes, n, err);
	return ret;
}

int devices_load_finish(struct devices *d, struct error *err)
{
	char name[SECTION_NAME_MAX];

	if (d && !d->loaded_own)
		return error_set(err, -EINVAL, "state: section 'devices' is missing");
	for (unsigned i = 0; d && i < d->count; i++) {
		const struct virtio_blk *b = blk_of(d, i);

		if (d->loaded[i] != LOADED_ALL)
			return error_set(err, -EINVAL, "state: section '%s' is missing",
					 section_name(name, d, i, d->loaded[i] & LOADED_FUNCTION ? "" : NULL));
		if (b && !virtio_blk_loaded(b))
			return error_set(err, -EINVAL, "state: section '%s' is missing", section_name(name, d, i, "data"));
	}
	if (d && d->called_fd >= 0) /* requests that the host did for the VM that was saved */
		call(d);
	return 0;
}

/* ---- mirrors of disks ---- */

uint64_t devices_disk_bytes(const struct devices *d, unsigned i)
{
	return d && i < d->disks ? disk_bytes(d->blk[i].disk) : 0;
}

int devices_start_mirror(struct devices *d, unsigned i, struct disk_mirror *m, struct error *err)
{
	if (!d || i >= d->disks)
		return error_set(err, -ENOENT, "there is no disk %u", i);
	return virtio_blk_start_mirror(&d->blk[i], m, err);
}

static int check_mirror(const struct devices *d, unsigned i, const struct disk_mirror *m, struct error *err)
{
	return d && i < d->disks && d->blk[i].mirror == m ? 0 : error_set(err, -ENOENT, "the disk is not mirrored any more");
}

int devices_complete_mirror(struct devices *d, unsigned i, struct disk_mirror *m, struct error *err)
{
	int ret = check_mirror(d, i, m, err);

	return ret ? ret : disk_mirror_complete(m, virtio_blk_end_mirror(&d->blk[i]), err);
}

int devices_pivot(struct devices *d, unsigned i, struct disk_mirror *m, struct disk *to, struct error *err)
{
	struct disk *from;
	int ret = check_mirror(d, i, m, err);

	if (!ret && disk_read_only(d->blk[i].disk))
		ret = error_set(err, -EROFS, "%s: read only, so nothing could go on in a copy", d->disk_path[i]);
	if (!ret)
		ret = devices_complete_mirror(d, i, m, err);
	if (ret)
		return ret;
	from = virtio_blk_settle(&d->blk[i]);
	virtio_blk_set_disk(&d->blk[i], to);
	snprintf(d->disk_path[i], PATH_MAX, "%s", disk_path(to));
	disk_close(from, NULL); /* nobody needs it any more: everything in it is in the other */
	return 0;
}

void devices_stop_mirror(struct devices *d, unsigned i, struct disk_mirror *m)
{
	if (check_mirror(d, i, m, NULL))
		return;
	virtio_blk_end_mirror(&d->blk[i]);
	disk_mirror_stop(m, -ECANCELED);
}
