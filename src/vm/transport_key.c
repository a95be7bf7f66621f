/* Files with a key that both ends have: one line "gnomon:" and 64 hexadecimal digits, for its owner's eyes only. */
#include "vm/transport_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES (sizeof(TRANSPORT_KEY_USER) + 2 * TRANSPORT_KEY_BYTES) /* with the colon, without the newline */

int transport_make_key(const char *path, struct error *err)
{
	uint8_t key[TRANSPORT_KEY_BYTES];
	char line[LINE_BYTES + 2];
	int n, fd;

	if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
		return error_set(err, -EIO, "'%.300s': no random numbers", path);
	n = sprintf(line, "%s:", TRANSPORT_KEY_USER);
	for (unsigned i = 0; i < sizeof(key); i++)
		n += sprintf(line + n, "%02x", key[i]);
	line[n++] = '\n';
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(err, -errno, "'%.300s': cannot make it: %s", path, strerror(errno));
	if (write(fd, line, (size_t)n) != n || fsync(fd)) {
		int ret = error_set(err, errno ? -errno : -ENOSPC, "'%.300s': cannot write: %s", path, strerror(errno));

		unlink(path);
		close(fd);
		return ret;
	}
	close(fd);
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_key(const char *line, size_t bytes, uint8_t key[TRANSPORT_KEY_BYTES])
{
	const size_t user = strlen(TRANSPORT_KEY_USER);

	if (bytes < LINE_BYTES || memcmp(line, TRANSPORT_KEY_USER ":", user + 1) != 0)
		return -EINVAL;
	if (bytes > LINE_BYTES + 1 || (bytes == LINE_BYTES + 1 && line[LINE_BYTES] != '\n'))
		return -EINVAL;
	for (unsigned i = 0; i < TRANSPORT_KEY_BYTES; i++) {
		int high = hex_digit(line[user + 1 + 2 * i]), low = hex_digit(line[user + 2 + 2 * i]);

		if (high < 0 || low < 0)
			return -EINVAL;
		key[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

int transport_read_key(const char *path, uint8_t key[TRANSPORT_KEY_BYTES], struct error *err)
{
	char line[LINE_BYTES + 8];
	struct stat st;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return error_set(err, -errno, "'%.300s': cannot open: %s", path, strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return error_set(err, -EINVAL, "'%.300s': no file", path);
	}
	n = read(fd, line, sizeof(line));
	close(fd);
	if (st.st_mode & 077)
		return error_set(err, -EACCES, "'%.300s': others may read or write this key (chmod 600)", path);
	if (n < 0 || parse_key(line, (size_t)n, key))
		return error_set(err, -EINVAL, "'%.300s': no key (gnomon migrate --make-key FILE makes one)", path);
	return 0;
}
