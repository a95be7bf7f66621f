/*
 * Locks of image files. What a user of an image does with it, and what it does not bear others to
 * do, are bits; for each there is one byte of the file, at 100 + bit and 200 + bit, and a shared
 * lock on it says that the bit is set. Whoever opens an image first sets its own bits and then
 * looks whether somebody's bits exclude them: of two that come at the same time at least one is
 * refused. These are QEMU's bytes and bits, so the two respect each other.
 *
 * The locks are those of an open file description (F_OFD_SETLK), which hold between two openings
 * within one process and are not lost when another descriptor of the file is closed.
 */
#include "disk/file.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define USES_AT     100 /* byte 100 + bit: somebody does that */
#define EXCLUDES_AT 200 /* byte 200 + bit: somebody does not bear others to do that */

enum { READS = 1u << 0, WRITES = 1u << 1, RESIZES = 1u << 3 };

static int lock_byte(const struct file *f, unsigned at)
{
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	return fcntl(f->fd, F_OFD_SETLK, &l) ? -errno : 0;
}

/* Has anybody else a lock on that byte? */
static bool byte_is_locked(const struct file *f, unsigned at)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	return fcntl(f->fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

static void unlock_byte(const struct file *f, unsigned at)
{
	struct flock l = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	fcntl(f->fd, F_OFD_SETLK, &l);
}

static int set_bits(const struct file *f, unsigned base, unsigned mask)
{
	int ret = 0;

	for (unsigned bit = 0; mask >> bit && !ret; bit++)
		if (mask & 1u << bit)
			ret = lock_byte(f, base + bit);
	return ret;
}

static bool any_bit_locked(const struct file *f, unsigned base, unsigned mask)
{
	for (unsigned bit = 0; mask >> bit; bit++)
		if (mask & 1u << bit && byte_is_locked(f, base + bit))
			return true;
	return false;
}

/* ---- who it is ---- */

/* Has the process that file open? */
static bool process_has_open(const char *pid, const struct stat *file)
{
	char path[64 + sizeof(((struct dirent *)0)->d_name)];
	struct dirent *e;
	struct stat st;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	while (dir && !found && (e = readdir(dir)))
		found = fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && st.st_dev == file->st_dev &&
			st.st_ino == file->st_ino;
	if (dir)
		closedir(dir);
	return found;
}

static void read_name(const char *pid, char *name, size_t bytes)
{
	char path[64 + sizeof(((struct dirent *)0)->d_name)];
	FILE *in;

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	in = fopen(path, "r");
	if (!in || !fgets(name, (int)bytes, in))
		snprintf(name, bytes, "?");
	name[strcspn(name, "\n")] = 0;
	if (in)
		fclose(in);
}

/* " (process 4711, qemu-img)" of another process that has the file open; "" if none can be seen. */
static void describe_user(const struct file *f, char *text, size_t bytes)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	struct stat file;
	char name[32];

	*text = 0;
	if (fstat(f->fd, &file) == 0)
		while (proc && !*text && (e = readdir(proc))) {
			if (*e->d_name < '0' || *e->d_name > '9' || atol(e->d_name) == getpid() ||
			    !process_has_open(e->d_name, &file))
				continue;
			read_name(e->d_name, name, sizeof(name));
			snprintf(text, bytes, " (process %.20s, %s)", e->d_name, name);
		}
	if (proc)
		closedir(proc);
}

int file_lock(struct file *f, struct error *err)
{
	unsigned uses = f->read_only ? READS : READS | WRITES | RESIZES, excludes = WRITES | RESIZES;
	char who[96];
	int ret = set_bits(f, USES_AT, uses);

	if (!ret)
		ret = set_bits(f, EXCLUDES_AT, excludes);
	if (ret == -EINVAL || ret == -EOPNOTSUPP || ret == -ENOLCK || ret == -ENOSYS)
		return 0;
	if (!ret && !any_bit_locked(f, EXCLUDES_AT, uses) && !any_bit_locked(f, USES_AT, excludes))
		return 0;
	if (ret && ret != -EAGAIN && ret != -EACCES)
		return error_set(err, ret, "%s: cannot lock: %s", f->path, strerror(-ret));
	describe_user(f, who, sizeof(who));
	if (!f->read_only && !any_bit_locked(f, USES_AT, WRITES))
		return error_set(
		        err, -EBUSY,
		        "%s: in use as it is, perhaps below other images%s; it cannot be opened for writing",
		        f->path, who);
	return error_set(err, -EBUSY, "%s: in use for writing%s", f->path, who);
}

void file_share(struct file *f)
{
	for (unsigned bit = 0; (WRITES | RESIZES) >> bit; bit++)
		if ((WRITES | RESIZES) & 1u << bit)
			unlock_byte(f, USES_AT + bit);
	f->read_only = true;
}
