/*
 * A cable between two VMs: a Unix stream socket on which each frame follows its length, 4 bytes, big-endian. (QEMU's
 * "-netdev stream" speaks the same.) Whoever comes first listens at the path, the second connects. When the other
 * end goes, the one that listens waits for the next.
 *
 * A frame for which the socket has no room is lost. What comes from the other end may be anything: a length that no
 * frame has ends the connection.
 */
#include "vm/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LENGTH_BYTES 4u
#define RECORD_MAX   (LENGTH_BYTES + NET_FRAME_MAX)

struct net_socket {
	struct net_backend backend;
	struct sockaddr_un address;
	int listener, peer;          /* -1: none */
	uint8_t in[RECORD_MAX];      /* a record, as far as it has arrived */
	size_t in_bytes;
	uint8_t out[RECORD_MAX];     /* the rest of one that did not go out whole */
	size_t out_bytes;
};

static struct net_socket *socket_of(struct net_backend *n) { return (struct net_socket *)(void *)n; }

static void hang_up(struct net_socket *s)
{
	if (s->peer >= 0)
		close(s->peer);
	s->peer = -1;
	s->in_bytes = s->out_bytes = 0;
}

/* Sends what it can. Returns the bytes sent; the peer may be gone then. */
static size_t push(struct net_socket *s, const uint8_t *data, size_t bytes)
{
	ssize_t n = s->peer < 0 ? -1 : send(s->peer, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && s->peer >= 0 && errno != EAGAIN && errno != EINTR)
		hang_up(s);
	return n < 0 ? 0 : (size_t)n;
}

static void push_rest(struct net_socket *s)
{
	size_t n = s->out_bytes ? push(s, s->out, s->out_bytes) : 0;

	if (n > s->out_bytes)
		n = s->out_bytes;
	s->out_bytes -= n;
	memmove(s->out, s->out + n, s->out_bytes);
}

static void socket_send(struct net_backend *n, const uint8_t *frame, size_t bytes)
{
	struct net_socket *s = socket_of(n);
	uint8_t record[RECORD_MAX];
	uint32_t length = htonl((uint32_t)bytes);
	size_t sent;

	push_rest(s);
	if (s->peer < 0 || s->out_bytes)
		return;
	memcpy(record, &length, LENGTH_BYTES);
	memcpy(record + LENGTH_BYTES, frame, bytes);
	sent = push(s, record, LENGTH_BYTES + bytes);
	if (!sent)
		return;
	/* Once it has begun a record has to be finished. */
	s->out_bytes = LENGTH_BYTES + bytes - sent;
	memcpy(s->out, record + sent, s->out_bytes);
}

/* Reads on until there are @want bytes of a record. */
static bool fill(struct net_socket *s, size_t want)
{
	while (s->in_bytes < want) {
		ssize_t n = recv(s->peer, s->in + s->in_bytes, want - s->in_bytes, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			hang_up(s);
		if (n <= 0)
			return false;
		s->in_bytes += (size_t)n;
	}
	return true;
}

static size_t socket_receive(struct net_backend *n, uint8_t *frame)
{
	struct net_socket *s = socket_of(n);
	uint32_t length;

	if (s->peer < 0 || !fill(s, LENGTH_BYTES))
		return 0;
	memcpy(&length, s->in, LENGTH_BYTES);
	length = ntohl(length);
	if (length < NET_FRAME_MIN || length > NET_FRAME_MAX) {
		hang_up(s);
		return 0;
	}
	if (!fill(s, LENGTH_BYTES + length))
		return 0;
	s->in_bytes = 0;
	memcpy(frame, s->in + LENGTH_BYTES, length);
	return length;
}

static unsigned socket_wait_for(struct net_backend *n, struct pollfd *p, unsigned max, int *wait_ms)
{
	struct net_socket *s = socket_of(n);

	(void)wait_ms;
	if (!max || (s->peer < 0 && s->listener < 0))
		return 0;
	*p = (struct pollfd){.fd = s->peer >= 0 ? s->peer : s->listener, .events = POLLIN};
	if (s->out_bytes)
		p->events |= POLLOUT;
	return 1;
}

static void socket_work(struct net_backend *n)
{
	struct net_socket *s = socket_of(n);

	if (s->peer < 0 && s->listener >= 0)
		s->peer = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	push_rest(s);
}

static bool socket_is_up(struct net_backend *n) { return socket_of(n)->peer >= 0; }

static void socket_close(struct net_backend *n)
{
	struct net_socket *s = socket_of(n);

	hang_up(s);
	if (s->listener >= 0) {
		close(s->listener);
		unlink(s->address.sun_path);
	}
	free(s);
}

static const struct net_backend_ops socket_ops = {
	.send = socket_send, .receive = socket_receive, .wait_for = socket_wait_for, .work = socket_work,
	.is_up = socket_is_up, .close = socket_close,
};

static int new_socket(void) { return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

static const struct sockaddr *address_of(const struct net_socket *s)
{
	return (const struct sockaddr *)(const void *)&s->address;
}

/* A socket that nobody listens at is left over from somebody who had no time to remove it. */
static int connect_or_listen(struct net_socket *s)
{
	s->peer = new_socket();
	if (s->peer < 0)
		return -errno;
	if (connect(s->peer, address_of(s), sizeof(s->address)) == 0)
		return 0;
	if (errno != ENOENT && errno != ECONNREFUSED)
		return -errno;
	if (errno == ECONNREFUSED)
		unlink(s->address.sun_path);
	hang_up(s);
	s->listener = new_socket();
	if (s->listener < 0 || bind(s->listener, address_of(s), sizeof(s->address)))
		return -errno;
	return listen(s->listener, 1) ? -errno : 0;
}

int net_open_socket(struct net_backend **out, const char *path, struct error *err)
{
	struct net_socket *s;
	int ret;

	if (strlen(path) >= sizeof(s->address.sun_path))
		return error_set(err, -ENAMETOOLONG, "--net socket:%.300s: longer than a socket's path can be", path);
	s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(err, -ENOMEM, "--net socket: out of memory");
	s->backend.ops = &socket_ops;
	s->listener = s->peer = -1;
	s->address.sun_family = AF_UNIX;
	memcpy(s->address.sun_path, path, strlen(path) + 1);
	ret = connect_or_listen(s);
	if (ret == 0) {
		*out = &s->backend;
		return 0;
	}
	if (s->listener >= 0)
		close(s->listener);
	hang_up(s);
	free(s);
	return error_set(err, ret, "--net socket:%.300s: %s", path, strerror(-ret));
}
