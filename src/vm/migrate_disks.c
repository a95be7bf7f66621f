#include "vm/migrate_disks.h"
#include "disk/image.h"
#include "disk/mirror.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HEAD_BYTES   24
#define ROUNDS       8                       /* of copying, before changes are mirrored */
#define PIECE_MAX    ((uint64_t)1 << 20)     /* data of a section */
#define COPY_MAX     ((uint64_t)4 << 20)     /* that copying lets wait */
#define WAITING_MAX  ((uint64_t)256 << 20)   /* with what the guest writes meanwhile */

enum kind { KIND_DATA, KIND_ZERO, KIND_FIRST };

/* ---- the source ---- */

struct item {
	struct item *next;
	size_t bytes;
	uint8_t data[]; /* a section's payload */
};

struct disk_out {
	struct disks_out *all;
	unsigned disk;
	struct disk_mirror *mirror;
	bool ended;
};

struct disks_out {
	struct vm *vm;
	struct disk_out out[DEVICES_DISKS_MAX];
	unsigned count;
	pthread_mutex_t lock; /* of what follows */
	struct item *first, **last;
	uint64_t waiting;     /* bytes in the queue */
	bool closed;          /* nobody is going to send any more */
};

static int append(struct disks_out *d, unsigned disk, enum kind kind, uint64_t at, uint64_t bytes, const void *data,
		  size_t data_bytes, struct error *err)
{
	struct item *item = malloc(sizeof(*item) + HEAD_BYTES + data_bytes);
	int ret = 0;

	if (!item)
		return error_set(err, -ENOMEM, "out of memory");
	item->next = NULL;
	item->bytes = HEAD_BYTES + data_bytes;
	put_u32(item->data, disk);
	put_u32(item->data + 4, kind);
	put_u64(item->data + 8, at);
	put_u64(item->data + 16, bytes);
	if (data_bytes)
		memcpy(item->data + HEAD_BYTES, data, data_bytes);
	pthread_mutex_lock(&d->lock);
	if (d->closed)
		ret = error_set(err, -ECANCELED, "the migration has ended");
	else if (d->waiting > WAITING_MAX)
		ret = error_set(err, -ENOBUFS, "the guest writes to its disks faster than can be sent");
	if (!ret) {
		*d->last = item;
		d->last = &item->next;
		d->waiting += item->bytes;
	}
	pthread_mutex_unlock(&d->lock);
	if (ret)
		free(item);
	return ret;
}

static int target_write(void *ctx, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	const struct disk_out *o = ctx;
	const uint8_t *from = buf;
	int ret = 0;

	for (uint64_t n; bytes && !ret; at += n, from += n, bytes -= n) {
		n = min_u64(bytes, PIECE_MAX);
		ret = append(o->all, o->disk, KIND_DATA, at, n, from, n, err);
	}
	return ret;
}

static int target_zero(void *ctx, uint64_t at, uint64_t bytes, struct error *err)
{
	const struct disk_out *o = ctx;

	return append(o->all, o->disk, KIND_ZERO, at, bytes, NULL, 0, err);
}

/* The other end flushes before it says that it is ready. */
static int target_flush(void *ctx, struct error *err)
{
	(void)ctx, (void)err;
	return 0;
}

static bool target_has_room(void *ctx)
{
	struct disks_out *d = ((const struct disk_out *)ctx)->all;
	bool room;

	pthread_mutex_lock(&d->lock);
	room = d->waiting < COPY_MAX;
	pthread_mutex_unlock(&d->lock);
	return room;
}

/* What kind of image it is, so that the other end makes such a one. */
static int announce(struct vm *vm, unsigned disk, const char *path, migrate_put_section *put, void *to, struct error *err)
{
	const struct disk_options look = {.read_only = true, .no_lock = true, .alone = true};
	uint8_t first[DISKS_FIRST_BYTES] = {0};
	struct disk_info info;
	struct disk *image;
	int ret = disk_open(&image, path, &look, err);

	if (ret)
		return ret;
	ret = disk_info(image, &info, err);
	disk_close(image, NULL);
	if (ret)
		return ret;
	put_u32(first, disk);
	put_u32(first + 4, KIND_FIRST);
	put_u64(first + 16, vm_disk_bytes(vm, disk));
	put_u32(first + HEAD_BYTES, info.format);
	put_u64(first + HEAD_BYTES + 8, info.format == DISK_FORMAT_QCOW2 ? info.cluster_bytes : 0);
	return put(to, "mig.disk", first, sizeof(first), err);
}

int disks_out_announce(struct vm *vm, migrate_put_section *put, void *to, struct error *err)
{
	bool read_only;
	const char *path;
	int ret = 0;

	for (unsigned i = 0; !ret && (path = vm_disk(vm, i, &read_only)); i++)
		ret = read_only ? 0 : announce(vm, i, path, put, to, err);
	return ret;
}

static int begin_one(struct disks_out *d, unsigned disk, struct error *err)
{
	struct disk_out *o = &d->out[d->count];
	const struct disk_mirror_target target = {.ctx = o, .write = target_write, .zero = target_zero,
						  .flush = target_flush, .has_room = target_has_room};
	const struct disk_mirror_options options = {.rounds = ROUNDS};
	int ret;

	o->all = d;
	o->disk = disk;
	ret = disk_mirror_create(&o->mirror, vm_disk_bytes(d->vm, disk), &target, &options, err);
	if (ret)
		return ret;
	ret = vm_start_mirror(d->vm, disk, o->mirror, err);
	if (ret)
		disk_mirror_free(o->mirror);
	else
		d->count++;
	return ret;
}

int disks_out_begin(struct disks_out **out, struct vm *vm, struct error *err)
{
	struct disks_out *d = calloc(1, sizeof(*d));
	bool read_only;
	int ret = 0;

	if (!d)
		return error_set(err, -ENOMEM, "out of memory");
	d->vm = vm;
	d->last = &d->first;
	pthread_mutex_init(&d->lock, NULL);
	for (unsigned i = 0; !ret && vm_disk(vm, i, &read_only); i++)
		ret = read_only ? 0 : begin_one(d, i, err);
	if (ret || !d->count) {
		disks_out_end(d);
		disks_out_free(d);
		d = NULL;
	}
	*out = d;
	return ret;
}

/* What is left in all; the first failure. */
static int look(struct disks_out *d, uint64_t *left, struct error *err)
{
	*left = 0;
	for (unsigned i = 0; i < d->count; i++) {
		struct disk_mirror_progress p;

		disk_mirror_progress(d->out[i].mirror, &p);
		if (p.phase == DISK_MIRROR_FAILED)
			return error_set(err, p.err.code ? p.err.code : -EIO, "disk %u: %s", d->out[i].disk, p.err.text);
		*left += p.left;
	}
	return 0;
}

static struct item *take(struct disks_out *d)
{
	struct item *item;

	pthread_mutex_lock(&d->lock);
	item = d->first;
	if (item) {
		d->first = item->next;
		d->last = d->first ? d->last : &d->first;
		d->waiting -= item->bytes;
	}
	pthread_mutex_unlock(&d->lock);
	return item;
}

int disks_out_send(struct disks_out *d, migrate_put_section *put, void *to, uint64_t *left, bool *any, struct error *err)
{
	struct item *item;
	int ret = look(d, left, err);

	*any = false;
	while (!ret && (item = take(d))) {
		ret = put(to, "mig.disk", item->data, item->bytes, err);
		free(item);
		*any = true;
	}
	return ret;
}

int disks_out_complete(struct disks_out *d, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < d->count && !ret; i++) {
		ret = vm_complete_mirror(d->vm, d->out[i].disk, d->out[i].mirror, err);
		d->out[i].ended = !ret;
	}
	return ret;
}

void disks_out_end(struct disks_out *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	d->closed = true;
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < d->count; i++)
		if (!d->out[i].ended)
			vm_stop_mirror(d->vm, d->out[i].disk, d->out[i].mirror);
}

void disks_out_free(struct disks_out *d)
{
	struct item *item;

	if (!d)
		return;
	for (unsigned i = 0; i < d->count; i++)
		disk_mirror_free(d->out[i].mirror);
	while ((item = take(d)))
		free(item);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* ---- the destination ---- */

struct disk_in {
	char path[PATH_MAX];
	char *text;         /* of the configuration */
	struct disk *image; /* NULL: has not come yet, or is closed */
	bool wanted, made;
};

struct disks_in {
	struct disk_in in[DEVICES_DISKS_MAX];
};

static int move_one(struct disk_in *in, const char **text, const char *directory, struct error *err)
{
	struct devices_disk disk;
	char moved[2 * PATH_MAX];
	const char *slash;
	int ret = devices_parse_disk(*text, &disk, err);

	if (ret || disk.read_only)
		return ret;
	slash = strrchr(disk.path, '/');
	if (snprintf(in->path, sizeof(in->path), "%s/%s", directory, slash ? slash + 1 : disk.path) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "%.100s...: too long", directory);
	if (access(in->path, F_OK) == 0)
		return error_set(err, -EEXIST, "%.300s: exists already", in->path);
	memcpy(disk.path, in->path, sizeof(in->path));
	ret = devices_print_disk(&disk, moved, sizeof(moved), err);
	if (ret)
		return ret;
	in->text = strdup(moved);
	if (!in->text)
		return error_set(err, -ENOMEM, "out of memory");
	in->wanted = true;
	*text = in->text;
	return 0;
}

int disks_in_create(struct disks_in **out, struct vm_config *cfg, const char *directory, struct error *err)
{
	struct disks_in *d = calloc(1, sizeof(*d));
	char real[PATH_MAX];
	int ret = 0;

	if (!d)
		return error_set(err, -ENOMEM, "out of memory");
	if (!realpath(directory, real))
		ret = error_set(err, -errno, "%.300s: %s", directory, strerror(errno));
	for (unsigned i = 0; i < cfg->devices.disks && !ret; i++)
		ret = move_one(&d->in[i], &cfg->devices.disk[i], real, err);
	if (ret) {
		disks_in_free(d, false);
		return ret;
	}
	*out = d;
	return 0;
}

static int make_image(struct disk_in *in, uint64_t bytes, const uint8_t *shape, struct error *err)
{
	const struct disk_create_options o = {.format = get_u32(shape), .bytes = bytes, .cluster_bytes = get_u64(shape + 8)};
	int ret;

	if (in->image || in->made || (o.format != DISK_FORMAT_RAW && o.format != DISK_FORMAT_QCOW2))
		return error_set(err, -EPROTO, "a disk of a kind that makes no sense, or twice");
	ret = disk_create(in->path, &o, err);
	in->made = !ret;
	return ret ? ret : disk_open(&in->image, in->path, &(struct disk_options){.format = o.format}, err);
}

int disks_in_take(struct disks_in *d, const uint8_t *data, size_t bytes, struct error *err)
{
	uint32_t disk = bytes < HEAD_BYTES ? UINT32_MAX : get_u32(data), kind;
	uint64_t at, count;
	struct disk_in *in;

	if (disk >= DEVICES_DISKS_MAX || !d->in[disk].wanted)
		return error_set(err, -EPROTO, "a piece of a disk that there is not");
	in = &d->in[disk];
	kind = get_u32(data + 4);
	at = get_u64(data + 8);
	count = get_u64(data + 16);
	bytes -= HEAD_BYTES;
	if (kind == KIND_FIRST && bytes == 16)
		return make_image(in, count, data + HEAD_BYTES, err);
	if (in->image && kind == KIND_DATA && bytes == count)
		return disk_write(in->image, at, data + HEAD_BYTES, count, err);
	if (in->image && kind == KIND_ZERO && !bytes)
		return disk_write_zeroes(in->image, at, count, true, err);
	return error_set(err, -EPROTO, "a piece of disk %u that makes no sense", disk);
}

int disks_in_finish(struct disks_in *d, struct error *err)
{
	for (unsigned i = 0; i < DEVICES_DISKS_MAX; i++) {
		struct disk *image = d->in[i].image;
		int ret;

		if (!d->in[i].wanted)
			continue;
		if (!image)
			return error_set(err, -EPROTO, "%.300s: the source sends no disks (gnomon migrate --with-disks)",
					 d->in[i].path);
		d->in[i].image = NULL;
		ret = disk_close(image, err);
		if (ret)
			return ret;
	}
	return 0;
}

void disks_in_free(struct disks_in *d, bool keep)
{
	for (unsigned i = 0; d && i < DEVICES_DISKS_MAX; i++) {
		if (d->in[i].image)
			disk_close(d->in[i].image, NULL);
		if (d->in[i].made && !keep)
			unlink(d->in[i].path);
		free(d->in[i].text);
	}
	free(d);
}
