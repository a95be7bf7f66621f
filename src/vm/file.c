/*
 * Reading files whole. They are read, not mapped: a file that is truncated while
 * we look at it must not be able to kill us with SIGBUS.
 */
#include "vm/file.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int blob_fill(struct blob *b, int fd, uint64_t max, uint64_t room)
{
	for (;;) {
		ssize_t n;

		if (b->bytes == room) {
			uint8_t *grown;

			if (room > max)
				return -EFBIG;
			room = room * 2 < max + 1 ? room * 2 : max + 1;
			grown = realloc(b->data, room);
			if (!grown)
				return -ENOMEM;
			b->data = grown;
		}
		n = read(fd, b->data + b->bytes, room - b->bytes);
		if (n == 0)
			return b->bytes > max ? -EFBIG : 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			b->bytes += (uint64_t)n;
	}
}

static int blob_open(const char *name, uint64_t *size)
{
	struct stat st;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		close(fd);
		return -EISDIR;
	}
	*size = st.st_size > 0 ? (uint64_t)st.st_size : 0;
	return fd;
}

int blob_read(struct blob *b, const char *what, const char *name, uint64_t max, struct error *err)
{
	uint64_t size = 0, room;
	int fd, ret;

	*b = (struct blob){.name = name};
	fd = blob_open(name, &size);
	if (fd < 0)
		return error_set(err, fd, "%s '%s': %s", what, name, strerror(-fd));
	/* One byte more than the file is said to have, so that the end is seen without growing. */
	room = (size < max ? size : max) + 1;
	b->data = malloc(room);
	ret = b->data ? blob_fill(b, fd, max, room) : -ENOMEM;
	close(fd);
	if (ret == 0 && b->bytes)
		return 0;
	blob_free(b);
	if (ret == 0)
		return error_set(err, -EINVAL, "%s '%s': the file is empty", what, name);
	if (ret == -EFBIG)
		return error_set(err, ret, "%s '%s': larger than the %" PRIu64 " MiB there is room for", what, name,
				 max >> 20);
	return error_set(err, ret, "%s '%s': %s", what, name, strerror(-ret));
}

int blob_copy(struct blob *b, const char *name, const void *data, uint64_t bytes, struct error *err)
{
	*b = (struct blob){.name = name, .data = malloc(bytes), .bytes = bytes};
	if (!b->data) {
		b->bytes = 0;
		return error_set(err, -ENOMEM, "'%s': out of memory", name);
	}
	memcpy(b->data, data, bytes);
	return 0;
}

void blob_free(struct blob *b)
{
	free(b->data);
	b->data = NULL;
	b->bytes = 0;
}
