/* See devices.h. */
#include "vm/devices.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_pci.h"
#include "dev/virtio_rng.h"
#include "disk/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define DEVICES_MAX (DEVICES_DISKS_MAX + 1)

struct devices {
	struct devices_host host;
	struct dma dma;
	struct virtio_pci pci[DEVICES_MAX];
	unsigned count;
	char disk_path[DEVICES_DISKS_MAX][PATH_MAX];
	struct virtio_blk blk[DEVICES_DISKS_MAX];
	unsigned disks;
	struct virtio_rng rng;
};

/* ---- guest memory ---- */

static bool dma_is_ram(void *ctx, uint64_t a, uint64_t bytes) { return engine_dma_is_ram(ctx, gpa(a), bytes); }

static int dma_read(void *ctx, uint64_t a, void *buf, uint64_t bytes) { return engine_dma_read(ctx, gpa(a), buf, bytes); }

static int dma_write(void *ctx, uint64_t a, const void *buf, uint64_t bytes)
{
	return engine_dma_write(ctx, gpa(a), buf, bytes);
}

static int dma_release(void *ctx, uint64_t a, uint64_t bytes) { return engine_dma_release(ctx, gpa(a), bytes); }

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
			return error_set(err, -EINVAL, "--disk: serial '%.*s': at most %d bytes", (int)(n - skip), word + skip,
					 DEVICES_SERIAL_MAX);
		memcpy(disk->serial, word + skip, n - skip);
		disk->serial[n - skip] = 0;
	} else {
		return error_set(err, -EINVAL, "--disk: '%.*s': after the file come ro, snapshot, serial=TEXT", (int)n, word);
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

/* ---- making them ---- */

static int plug(struct devices *d, struct virtio *v, struct error *err)
{
	struct virtio_pci *t = &d->pci[d->count];

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
	ret = what.snapshot && !what.read_only ? disk_open_snapshot(&disk, path, &o, err) : disk_open(&disk, path, &o, err);
	if (!ret)
		ret = virtio_blk_init(&d->blk[d->disks], disk, &d->dma, what.serial, d->host.wall, path, err);
	if (ret)
		return ret;
	return plug(d, &d->blk[d->disks++].virtio, err);
}

static int add_rng(struct devices *d, struct error *err)
{
	virtio_rng_init(&d->rng, &d->dma, d->host.seed, d->host.wall);
	return plug(d, &d->rng.virtio, err);
}

static int add_all(struct devices *d, const struct devices_config *cfg, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < cfg->disks && !ret; i++)
		ret = add_disk(d, cfg->disk[i], err);
	if (!ret && cfg->rng)
		ret = add_rng(d, err);
	return ret;
}

int devices_create(struct devices **out, const struct devices_config *cfg, const struct devices_host *host,
		   struct error *err)
{
	struct devices *d;
	int ret;

	*out = NULL;
	if (!cfg->disks && !cfg->rng)
		return 0;
	d = calloc(1, sizeof(*d));
	if (!d)
		return error_set(err, -ENOMEM, "out of memory");
	d->host = *host;
	d->dma = (struct dma){.ctx = host->engine, .is_ram = dma_is_ram, .read = dma_read, .write = dma_write,
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
