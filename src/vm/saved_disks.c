/* Files with a whole VM: the disks that belong to it. */
#include "disk/image.h"
#include "vm/saved_impl.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int saved_check_disks(const struct saved *s, struct error *err)
{
	for (unsigned i = 0; i < s->info.disks; i++) {
		const struct saved_disk *d = &s->info.disk[i];
		const char *path = d->base ? d->base : d->path;
		struct stat st;

		if (stat(path, &st))
			return error_set(err, -errno, "disk %s: %s", path, strerror(errno));
		if (!d->base && ((uint64_t)st.st_size != d->bytes || saved_time_of(&st) != d->changed_ns))
			return error_set(err, -ESTALE, "disk %s: has been written since the VM was saved", path);
	}
	return 0;
}

bool saved_has_frozen_disks(const struct saved *s)
{
	for (unsigned i = 0; i < s->info.disks; i++)
		if (s->info.disk[i].base)
			return true;
	return false;
}

/* The same disk at another path, as an option's text. */
static char *move_disk(const char *text, const char *path, struct error *err)
{
	struct devices_disk disk;
	char moved[2 * PATH_MAX];

	if (devices_parse_disk(text, &disk, err))
		return NULL;
	if (strlen(path) >= sizeof(disk.path)) {
		error_set(err, -ENAMETOOLONG, "disk %.100s...: too long", path);
		return NULL;
	}
	strcpy(disk.path, path);
	return devices_print_disk(&disk, moved, sizeof(moved), err) ? NULL : strdup(moved);
}

/* A branch of one frozen disk, called as the disk was. */
static int branch_disk(struct saved *s, unsigned i, struct vm_config *cfg, const char *directory, char path[PATH_MAX],
		       struct error *err)
{
	const struct saved_disk *d = &s->info.disk[i];
	const char *slash = strrchr(d->path, '/');
	int r;

	if (snprintf(path, PATH_MAX, "%s/%s", directory, slash ? slash + 1 : d->path) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "%.100s...: too long", directory);
	r = disk_branch(d->base, path, err);
	if (r)
		return r;
	s->disk_text[i] = move_disk(cfg->devices.disk[i], path, err);
	if (s->disk_text[i])
		cfg->devices.disk[i] = s->disk_text[i];
	else
		unlink(path);
	return s->disk_text[i] ? 0 : err->code ? err->code : -ENOMEM;
}

int saved_branch_disks(struct saved *s, struct vm_config *cfg, const char *directory, struct error *err)
{
	char real[PATH_MAX], made[DEVICES_DISKS_MAX][PATH_MAX];
	int r = 0;

	if (!realpath(directory, real))
		return error_set(err, -errno, "%s: %s", directory, strerror(errno));
	if (s->info.disks != cfg->devices.disks)
		return error_set(err, -EINVAL, "%s: contradicts itself about disks", state_file_path(s->file[0]));
	for (unsigned i = 0; i < s->info.disks; i++) {
		if (s->info.disk[i].base)
			r = branch_disk(s, i, cfg, real, made[i], err);
		while (r && i-- > 0)
			if (s->info.disk[i].base)
				unlink(made[i]);
		if (r)
			return r;
	}
	return 0;
}

void saved_remove_branches(struct saved *s)
{
	struct devices_disk disk;

	for (unsigned i = 0; i < s->info.disks; i++)
		if (s->disk_text[i] && !devices_parse_disk(s->disk_text[i], &disk, NULL))
			unlink(disk.path);
}
