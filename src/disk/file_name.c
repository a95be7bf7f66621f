/* Names of files: see file.h. */
#include "disk/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int ask_tap(const struct file *f, enum file_op op)
{
	const struct file_call call = {.op = op};

	return f->tap ? f->tap->before(f->tap->ctx, f, &call) : 0;
}

bool file_is_called(const struct file *f, const char *name)
{
	struct stat st;

	return lstat(name, &st) == 0 && st.st_dev == f->device_number && st.st_ino == f->inode;
}

int file_link(struct file *f, const char *name, bool *made, struct error *err)
{
	int ret = ask_tap(f, FILE_LINK);
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	if (!ret && linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW))
		ret = -errno;
	if (made)
		*made = !ret;
	if (ret == -EEXIST && file_is_called(f, name))
		return 0;
	return ret ? error_set(err, ret, "%s: cannot be called %s, too: %s", f->path, name, strerror(-ret)) : 0;
}

int file_rename(struct file *f, const char *from, const char *to, struct error *err)
{
	int ret = ask_tap(f, FILE_RENAME);

	if (!ret && rename(from, to))
		ret = -errno;
	return ret ? error_set(err, ret, "%s: cannot be renamed to %s: %s", from, to, strerror(-ret)) : 0;
}

int file_remove(struct file *f, const char *name, struct error *err)
{
	int ret = ask_tap(f, FILE_REMOVE);

	if (!ret && unlink(name) && errno != ENOENT)
		ret = -errno;
	return ret ? error_set(err, ret, "%s: cannot be removed: %s", name, strerror(-ret)) : 0;
}

int file_sync_names(struct file *f, const char *name, struct error *err)
{
	const char *slash = strrchr(name, '/');
	char *dir = slash ? strndup(name, (size_t)(slash - name) + 1) : strdup(".");
	int ret = ask_tap(f, FILE_SYNC_NAMES), fd = -1;

	if (!ret && !dir)
		ret = -ENOMEM;
	if (!ret)
		fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* EINVAL: a file system whose directories need no barrier. */
	if (!ret && (fd < 0 || (fsync(fd) && errno != EINVAL)))
		ret = -errno;
	if (fd >= 0)
		close(fd);
	free(dir);
	return ret ? error_set(err, ret, "%s: cannot flush its directory: %s", name, strerror(-ret)) : 0;
}
