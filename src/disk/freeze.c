/* See freeze.h; pictures and the order of things are in docs/storage.md. */
#include "disk/freeze.h"
#include "disk/disk_impl.h"
#include "disk/qcow2.h"
#include "disk/qcow2_create.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int no_memory(const struct disk *d, struct error *err)
{
	return error_set(err, -ENOMEM, "%s: out of memory", d->file.path);
}

static const struct qcow2 *as_qcow2(const struct disk *d)
{
	return d->ops->format == DISK_FORMAT_QCOW2 ? (const struct qcow2 *)(const void *)d : NULL;
}

/* ---- what can be frozen ---- */

static int check_disk(const struct disk *d, struct error *err)
{
	unsigned images = 0;

	if (d->file.nameless || d->file.remove)
		return error_set(err, -ENOTSUP,
				 "%s: its changes are thrown away, so there is no file that could be frozen",
				 d->backing ? d->backing->file.path : d->file.path);
	if (d->read_only)
		return error_set(err, -EROFS, "%s: open for reading only", d->file.path);
	if (d->file.device)
		return error_set(err, -ENOTSUP, "%s: a block device cannot be frozen; branch it, and use the branch",
				 d->file.path);
	for (const struct disk *b = d; b; b = b->backing)
		images++;
	if (images >= DISK_CHAIN_MAX)
		return error_set(err, -ELOOP, "%s: %u images below each other already; one more is too many",
				 d->file.path, images);
	return 0;
}

/* ---- names ---- */

static const char *name_in(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int check_base(const char *base, const char *image, struct error *err)
{
	if (!*base || strchr(base, '/') || strcmp(base, ".") == 0 || strcmp(base, "..") == 0 ||
	    strcmp(base, image) == 0)
		return error_set(err, -EINVAL, "'%.200s': no name for what %.200s has now", base, image);
	return 0;
}

/* Finds the file behind the disk's path, and names the others after it. */
static int make_names(struct disk_freeze *z, const char *base, struct error *err)
{
	const struct disk *d = z->disk;
	int ret, dir;

	z->given = strdup(d->file.path);
	z->path = realpath(d->file.path, NULL);
	if (!z->path)
		return error_set(err, -errno, "%s: cannot be found any more: %s", d->file.path, strerror(errno));
	if (!file_is_called(&d->file, z->path))
		return error_set(err, -ESTALE, "%s: is another file than the one that is in use", d->file.path);
	ret = check_base(base, name_in(z->path), err);
	if (ret)
		return ret;
	dir = (int)(name_in(z->path) - z->path);
	if (asprintf(&z->base, "%.*s%s", dir, z->path, base) < 0)
		z->base = NULL;
	if (asprintf(&z->temporary, "%.*s.%s.freeze", dir, z->path, z->path + dir) < 0)
		z->temporary = NULL;
	return z->given && z->base && z->temporary ? 0 : no_memory(d, err);
}

/* Is the file in the directory in which names in it are looked up? Not if a symbolic link elsewhere leads to it. */
static bool is_at_home(const struct disk_freeze *z)
{
	size_t given = (size_t)(name_in(z->given) - z->given), real = (size_t)(name_in(z->path) - z->path);
	char *dir = given ? strndup(z->given, given) : strdup("."), *found = dir ? realpath(dir, NULL) : NULL;
	bool same = found && (real == 1 ? strcmp(found, "/") == 0
					: strlen(found) == real - 1 && memcmp(found, z->path, real - 1) == 0);

	free(dir);
	free(found);
	return same;
}

/* What is to stand in the overlay for the image. To be freed. */
static int name_below(const struct disk_freeze *z, char **name, struct error *err)
{
	const struct qcow2 *q = as_qcow2(z->disk);
	const char *base = name_in(z->base);
	bool home = is_at_home(z);

	if (!home && q && *q->h.backing && *q->h.backing != '/')
		return error_set(err, -ENOTSUP, "%s: a symbolic link to another directory, and the image below is named "
				 "relative to it; use %s", z->given, z->path);
	/* With a colon, and no slash before it, it would be taken for the name of a protocol. */
	if (asprintf(name, "%s%s", home && strchr(base, ':') ? "./" : "", home ? base : z->base) < 0)
		return no_memory(z->disk, err);
	return 0;
}

/* ---- the overlay ---- */

/* Who may read the image may read what is written from now on, and nobody else. */
static int copy_rights(const struct file *from, const struct file *to, struct error *err)
{
	struct stat st;

	if (fstat(from->fd, &st) || fchmod(to->fd, st.st_mode & 0777))
		return error_set(err, -errno, "%s: cannot set access rights: %s", to->path, strerror(errno));
	if (fchown(to->fd, st.st_uid, st.st_gid)) /* only root can give files away: then it stays ours */
		return 0;
	return 0;
}

static int fill_overlay(const struct disk_freeze *z, struct file *f, struct error *err)
{
	const struct qcow2 *q = as_qcow2(z->disk);
	struct disk_create_options o = {.cluster_bytes = q ? q->cluster_bytes : 0};
	char *name;
	int ret = name_below(z, &name, err);

	if (ret)
		return ret;
	o.backing = name;
	ret = copy_rights(&z->disk->file, f, err);
	if (!ret)
		ret = q2_create(f, &o, (z->disk->bytes + 511) & ~511ull, disk_format_name(z->disk->ops->format), err);
	if (!ret)
		ret = file_sync(f, err);
	free(name);
	return ret;
}

/* Made, locked and open before anybody can find it. */
static int make_overlay(struct disk_freeze *z, struct error *err)
{
	const struct disk_options alone = {.alone = true};
	struct file f;
	int ret = file_remove(&z->disk->file, z->temporary, err);

	if (!ret)
		ret = file_create(&f, z->temporary, z->disk->file.tap, err);
	if (ret)
		return ret;
	ret = fill_overlay(z, &f, err);
	if (!ret)
		ret = file_lock(&f, err);
	if (!ret)
		ret = q2_open(&z->overlay, &f, &alone, NULL, err);
	if (ret) {
		file_close(&f);
		return ret;
	}
	ret = file_publish(&z->overlay->file, err);
	z->published = !ret;
	return ret;
}

/* ---- the steps ---- */

static void forget(struct disk_freeze *z)
{
	free(z->path);
	free(z->base);
	free(z->temporary);
	free(z->given);
	*z = (struct disk_freeze){0};
}

int disk_freeze_prepare(struct disk_freeze *z, struct disk *d, const char *base, struct error *err)
{
	int ret = check_disk(d, err);

	*z = (struct disk_freeze){.disk = d};
	if (!ret)
		ret = make_names(z, base, err);
	if (!ret)
		ret = (d->ops->settle ? d->ops->settle : d->ops->flush)(d, err);
	if (!ret)
		ret = file_link(&d->file, z->base, &z->linked, err);
	if (!ret)
		ret = make_overlay(z, err);
	if (!ret) /* what the overlay stands on has its name for good before the overlay has its own */
		ret = file_sync_names(&d->file, z->base, err);
	if (ret)
		disk_freeze_undo(z);
	return ret;
}

int disk_freeze_switch(struct disk_freeze *z, struct error *err)
{
	int ret = file_rename(&z->disk->file, z->temporary, z->path, err);

	z->switched = !ret;
	return ret ? ret : file_sync_names(&z->disk->file, z->path, err);
}

/*
 * If the name cannot be given back, it is that of an empty overlay on the disk's image: for whoever opens it later that
 * is the same.
 */
void disk_freeze_undo(struct disk_freeze *z)
{
	struct file *f = &z->disk->file;

	if (z->switched) {
		file_rename(f, z->base, z->path, NULL);
		file_sync_names(f, z->path, NULL);
	} else {
		if (z->published)
			file_remove(f, z->temporary, NULL);
		if (z->linked)
			file_remove(f, z->base, NULL);
	}
	if (z->overlay)
		disk_close(z->overlay, NULL);
	forget(z);
}

static void rename_disk(struct disk *d, char **path)
{
	char *old = d->file.path;

	d->file.path = *path;
	*path = old;
}

struct disk *disk_freeze_finish(struct disk_freeze *z)
{
	struct disk *d = z->disk, *overlay = z->overlay;

	rename_disk(d, &z->base);
	rename_disk(overlay, &z->given);
	overlay->backing = d;
	d->above = overlay;
	d->read_only = true;
	file_share(&d->file);
	forget(z);
	return overlay;
}

int disk_freeze(struct disk **d, const char *base, struct error *err)
{
	struct disk_freeze z;
	int ret = disk_freeze_prepare(&z, *d, base, err);

	if (ret)
		return ret;
	ret = disk_freeze_switch(&z, err);
	if (ret)
		disk_freeze_undo(&z);
	else
		*d = disk_freeze_finish(&z);
	return ret;
}
