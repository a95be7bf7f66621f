/* See file.h. */
#include "disk/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZEROES_BYTES (64 * 1024)

static int fail(const struct file *f, const char *what, int code, struct error *err)
{
	return error_set(err, code, "%s: cannot %s: %s", f->path, what, strerror(-code));
}

static int ask_tap(const struct file *f, const struct file_call *call)
{
	return f->tap ? f->tap->before(f->tap->ctx, f, call) : 0;
}

/* ---- open and close ---- */

static int look_at(struct file *f, struct error *err)
{
	struct stat st;
	off_t end;

	if (fstat(f->fd, &st))
		return fail(f, "open", -errno, err);
	if (S_ISDIR(st.st_mode))
		return fail(f, "open", -EISDIR, err);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, -EINVAL, "%s: neither a regular file nor a block device", f->path);
	end = lseek(f->fd, 0, SEEK_END);
	if (end < 0)
		return fail(f, "find the size", -errno, err);
	f->device_number = st.st_dev;
	f->inode = st.st_ino;
	f->device = S_ISBLK(st.st_mode);
	f->bytes = (uint64_t)end;
	return 0;
}

int file_open(struct file *f, const char *path, bool read_only, const struct file_tap *tap, struct error *err)
{
	int ret;

	*f = (struct file){.fd = -1, .read_only = read_only, .tap = tap, .path = strdup(path)};
	if (!f->path)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	/* Not to wait for the other end of a pipe. */
	f->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	ret = f->fd < 0 ? fail(f, read_only ? "open" : "open for writing", -errno, err) : look_at(f, err);
	if (ret)
		file_close(f);
	return ret;
}

/* A file without a name, in the directory of @path; one with it where the file system knows no others. */
static int open_unpublished(struct file *f, char *dir)
{
	char *slash = strrchr(dir, '/');

	if (slash)
		slash[slash == dir] = 0;
	if (access(f->path, F_OK) == 0)
		return -EEXIST;
	f->fd = open(slash ? dir : ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
	f->nameless = f->fd >= 0;
	if (f->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		f->fd = open(f->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		f->remove = f->fd >= 0;
	}
	return f->fd < 0 ? -errno : 0;
}

int file_create(struct file *f, const char *path, const struct file_tap *tap, struct error *err)
{
	char *dir = strdup(path);
	int ret;

	*f = (struct file){.fd = -1, .tap = tap, .path = strdup(path)};
	ret = dir && f->path ? open_unpublished(f, dir) : -ENOMEM;
	free(dir);
	if (ret)
		error_set(err, ret, "%s: cannot create: %s", path, strerror(-ret));
	else
		ret = look_at(f, err);
	if (ret)
		file_close(f);
	return ret;
}

int file_publish(struct file *f, struct error *err)
{
	char self[64];

	if (f->nameless) {
		snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
		if (linkat(AT_FDCWD, self, AT_FDCWD, f->path, AT_SYMLINK_FOLLOW))
			return fail(f, "create", -errno, err);
	}
	f->nameless = f->remove = false;
	return 0;
}

void file_close(struct file *f)
{
	if (f->remove)
		unlink(f->path);
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	*f = (struct file){.fd = -1};
}

/* ---- reading and writing ---- */

static int fail_at(const struct file *f, const char *what, uint64_t at, uint64_t bytes, int code, struct error *err)
{
	return error_set(err, code, "%s: cannot %s %llu bytes at offset %llu: %s", f->path, what,
	                 (unsigned long long)bytes, (unsigned long long)at, strerror(-code));
}

int file_read(struct file *f, uint64_t at, void *buf, uint64_t bytes, struct error *err)
{
	const struct file_call call = {.op = FILE_READ, .at = at, .bytes = bytes};
	uint64_t done = 0;
	int ret = ask_tap(f, &call);

	if (!ret && (at > INT64_MAX || bytes > INT64_MAX - at))
		ret = -EFBIG;
	while (!ret && done < bytes) {
		ssize_t n = pread(f->fd, (char *)buf + done, bytes - done, (off_t)(at + done));

		if (n == 0)
			break;
		if (n > 0)
			done += (uint64_t)n;
		else if (errno != EINTR)
			ret = -errno;
	}
	if (ret)
		return fail_at(f, "read", at, bytes, ret, err);
	memset((char *)buf + done, 0, bytes - done);
	return 0;
}

/* Takes the first @n bytes off an array of pieces. */
static void advance(struct iovec **iov, int *iovs, size_t n)
{
	while (*iovs && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		++*iov;
		--*iovs;
	}
	if (n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

/* So much written in order is sent on its way: the next barrier has less to wait for. */
#define WRITEBACK_RUN (8u << 20)

/* An error of it is the barrier's: the host keeps it for that. */
static void start_writeback(struct file *f, uint64_t at, uint64_t end)
{
	if (at != f->run_end)
		f->run_at = at;
	f->run_end = end;
	if (end - f->run_at < WRITEBACK_RUN)
		return;
	sync_file_range(f->fd, (off_t)f->run_at, (off_t)(end - f->run_at), SYNC_FILE_RANGE_WRITE);
	f->run_at = end;
}

int file_writev(struct file *f, uint64_t at, struct iovec *iov, int iovs, struct error *err)
{
	struct file_call call = {.op = FILE_WRITE, .at = at, .iov = iov, .iovs = iovs};
	uint64_t pos = at;
	int ret;

	for (int i = 0; i < iovs; i++)
		call.bytes += iov[i].iov_len;
	ret = ask_tap(f, &call);
	if (!ret && (at > INT64_MAX || call.bytes > INT64_MAX - at))
		ret = -EFBIG;
	if (!ret)
		f->unsynced = true;
	while (!ret && pos < at + call.bytes) {
		ssize_t n = iovs == 1 ? pwrite(f->fd, iov->iov_base, iov->iov_len, (off_t)pos) :
					pwritev(f->fd, iov, iovs, (off_t)pos);

		if (n > 0) {
			pos += (uint64_t)n;
			advance(&iov, &iovs, (size_t)n);
		} else if (n == 0) {
			ret = -EIO;
		} else if (errno != EINTR) {
			ret = -errno;
		}
	}
	f->bytes = max_u64(f->bytes, pos > at ? pos : 0);
	if (ret)
		return fail_at(f, "write", at, call.bytes, ret, err);
	start_writeback(f, at, pos);
	return 0;
}

int file_write(struct file *f, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	struct iovec iov = {.iov_len = bytes};

	memcpy(&iov.iov_base, &buf, sizeof(buf)); /* an iovec knows no const */
	return bytes ? file_writev(f, at, &iov, 1, err) : 0;
}

int file_sync(struct file *f, struct error *err)
{
	const struct file_call call = {.op = FILE_SYNC};
	int ret;

	if (f->sync_error)
		return error_set(
		        err, f->sync_error,
		        "%s: an earlier flush failed and data may be lost; the image must be opened anew",
		        f->path);
	if (!f->unsynced)
		return 0;
	ret = ask_tap(f, &call);
	if (!ret && fdatasync(f->fd))
		ret = -errno;
	if (ret) {
		f->sync_error = ret;
		return fail(f, "flush", ret, err);
	}
	f->unsynced = false;
	return 0;
}

/* ---- zeroes and sizes ---- */

static int write_zeroes(struct file *f, uint64_t at, uint64_t bytes, struct error *err)
{
	static const uint8_t zeroes[ZEROES_BYTES];
	uint64_t n;
	int ret;

	for (; bytes; at += n, bytes -= n) {
		n = min_u64(bytes, sizeof(zeroes));
		ret = file_write(f, at, zeroes, n, err);
		if (ret)
			return ret;
	}
	return 0;
}

/* fallocate() in one of its modes, or written zeroes where there is none. */
static int zero_by(struct file *f, enum file_op op, int mode, uint64_t at, uint64_t bytes, struct error *err)
{
	const struct file_call call = {.op = op, .at = at, .bytes = bytes};
	int ret;

	if (!bytes)
		return 0;
	ret = ask_tap(f, &call);
	if (ret)
		return fail_at(f, "zero", at, bytes, ret, err);
	f->unsynced = true;
	do
		ret = fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) ? -errno : 0;
	while (ret == -EINTR);
	if (ret == -EOPNOTSUPP || ret == -ENODEV || ret == -EINVAL)
		return write_zeroes(f, at, bytes, err);
	return ret ? fail_at(f, "zero", at, bytes, ret, err) : 0;
}

int file_zero(struct file *f, uint64_t at, uint64_t bytes, struct error *err)
{
	return zero_by(f, FILE_ZERO, FALLOC_FL_ZERO_RANGE, at, bytes, err);
}

int file_punch(struct file *f, uint64_t at, uint64_t bytes, struct error *err)
{
	return zero_by(f, FILE_PUNCH, FALLOC_FL_PUNCH_HOLE, at, bytes, err);
}

void file_discard(struct file *f, uint64_t at, uint64_t bytes)
{
	const struct file_call call = {.op = FILE_PUNCH, .at = at, .bytes = bytes};

	if (ask_tap(f, &call) == 0 &&
	    fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) == 0)
		f->unsynced = true;
}

int file_truncate(struct file *f, uint64_t bytes, struct error *err)
{
	const struct file_call call = {.op = FILE_TRUNCATE, .at = bytes};
	int ret = ask_tap(f, &call);

	if (!ret && bytes > INT64_MAX)
		ret = -EFBIG;
	if (!ret && ftruncate(f->fd, (off_t)bytes))
		ret = -errno;
	if (ret)
		return fail(f, "change the size", ret, err);
	f->unsynced = true;
	f->bytes = bytes;
	return 0;
}
