/*
 * The stream of a transport: buffers, waiting, the cap on the rate. Where bytes come from and go to is the socket or
 * TLS over it (vm/transport_tls.c); how there comes to be a connection is in vm/transport_socket.c.
 */
#include "vm/transport_impl.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS 1000000ll
#define NS_PER_S  1000000000ll
/* So much may go out at once under a cap: the rate is kept over times longer than this. */
#define BURST_NS (20 * NS_PER_MS)
/* What is sent at a time under a cap, so that a cancellation is seen and nobody waits long. */
#define PACED_BYTES 8192u

int64_t transport_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

int transport_fail(struct transport *t, int code, struct error *err, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!t->broken)
		t->broken = code;
	return error_set(err, code, "%.100s: %s", t->name, text);
}

/* ---- waiting ---- */

static int poll_ms(int64_t until_ns)
{
	int64_t left = until_ns - transport_now_ns();

	if (until_ns == INT64_MAX)
		return -1;
	return left <= 0 ? 0 : (int)min_i64((left + NS_PER_MS - 1) / NS_PER_MS, 1000000);
}

/* Like poll() on both and the owner's wish to end. Returns events of p[0 .. 1], whose fd may be -1. */
static int wait_for(struct transport *t, struct pollfd p[3], int64_t until_ns, struct error *err)
{
	int n;

	p[2] = (struct pollfd){.fd = t->cancel_fd, .events = POLLIN};
	do
		n = poll(p, 3, poll_ms(until_ns));
	while ((n < 0 && errno == EINTR) || (n == 0 && transport_now_ns() < until_ns));
	if (n < 0)
		return transport_fail(t, -errno, err, "poll: %s", strerror(errno));
	if (p[2].revents)
		return transport_fail(t, -ECANCELED, err, "cancelled");
	return n;
}

int transport_wait_socket(struct transport *t, short events, int64_t until_ns, struct error *err)
{
	struct pollfd p[3] = {{.fd = t->fd, .events = events}, {.fd = -1}};
	int n = wait_for(t, p, until_ns, err);

	if (n < 0)
		return n;
	return n ? 0 : -ETIMEDOUT;
}

static int64_t stall_end(const struct transport *t)
{
	return t->stall_ms < 0 ? INT64_MAX : transport_now_ns() + t->stall_ms * NS_PER_MS;
}

static int stalled(struct transport *t, const char *what, struct error *err)
{
	return transport_fail(t, -ETIMEDOUT, err, "%s for %.1f s: the connection counts as lost", what,
			      (double)t->stall_ms / 1000);
}

int transport_wait(struct transport *t, int wake_fd, int64_t wait_ms, struct error *err)
{
	struct pollfd p[3] = {{.fd = t->fd, .events = POLLIN}, {.fd = wake_fd, .events = POLLIN}};
	bool buffered = t->in_at < t->in_end || (t->tls && tls_has_pending(t->tls));
	int64_t until = wait_ms < 0 ? INT64_MAX : transport_now_ns() + wait_ms * NS_PER_MS;
	int n;

	if (t->broken)
		return transport_fail(t, t->broken, err, "the connection is broken");
	n = transport_flush(t, err);
	if (n)
		return n;
	n = wait_for(t, p, buffered ? 0 : until, err);
	if (n < 0)
		return n;
	return (buffered || p[0].revents ? TRANSPORT_READABLE : 0) | (p[1].revents ? TRANSPORT_WOKEN : 0);
}

/* ---- sending ---- */

static ssize_t send_some(struct transport *t, const uint8_t *data, size_t bytes, short *events, struct error *err)
{
	ssize_t n;

	if (t->tls)
		return tls_send(t, data, bytes, events, err);
	*events = POLLOUT;
	n = send(t->fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EINTR)
		return -EAGAIN;
	return transport_fail(t, -errno, err, "sending: %s", strerror(errno));
}

/* Waits until what was sent is paid for, by the rate; looks in any case whether the owner wants to end. */
static int pace(struct transport *t, struct error *err)
{
	struct pollfd p[3] = {{.fd = -1}, {.fd = -1}};
	int64_t now = transport_now_ns();

	if (t->paid_ns < now - BURST_NS)
		t->paid_ns = now - BURST_NS;
	return wait_for(t, p, t->rate && !t->urgent ? t->paid_ns : now, err);
}

static void pay(struct transport *t, size_t bytes)
{
	if (t->rate)
		t->paid_ns += (int64_t)((__uint128_t)bytes * NS_PER_S / t->rate);
}

/* Sends all of it. */
static int push(struct transport *t, const uint8_t *data, size_t bytes, struct error *err)
{
	while (bytes) {
		short events = 0;
		ssize_t n;
		int ret = pace(t, err);

		if (ret)
			return ret;
		n = send_some(t, data, t->rate && bytes > PACED_BYTES ? PACED_BYTES : bytes, &events, err);
		if (n == -EAGAIN) {
			ret = transport_wait_socket(t, events, stall_end(t), err);
			if (ret)
				return ret == -ETIMEDOUT ? stalled(t, "takes nothing", err) : ret;
			continue;
		}
		if (n < 0)
			return (int)n;
		pay(t, (size_t)n);
		t->sent += (uint64_t)n;
		data += n;
		bytes -= (size_t)n;
	}
	return 0;
}

int transport_flush(struct transport *t, struct error *err)
{
	size_t n = t->out_bytes;

	if (t->broken)
		return transport_fail(t, t->broken, err, "the connection is broken");
	t->out_bytes = 0;
	return push(t, t->out, n, err);
}

int transport_write(struct transport *t, const void *data, size_t bytes, struct error *err)
{
	int ret = 0;

	if (t->broken)
		return transport_fail(t, t->broken, err, "the connection is broken");
	if (bytes > sizeof(t->out) - t->out_bytes)
		ret = transport_flush(t, err);
	if (ret)
		return ret;
	if (bytes >= sizeof(t->out)) /* not worth a copy */
		return push(t, data, bytes, err);
	memcpy(t->out + t->out_bytes, data, bytes);
	t->out_bytes += bytes;
	return 0;
}

/* ---- receiving ---- */

static ssize_t receive_some(struct transport *t, void *data, size_t bytes, short *events, struct error *err)
{
	ssize_t n;

	if (t->tls)
		return tls_receive(t, data, bytes, events, err);
	*events = POLLIN;
	n = recv(t->fd, data, bytes, MSG_DONTWAIT);
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EINTR)
		return -EAGAIN;
	return transport_fail(t, -errno, err, "receiving: %s", strerror(errno));
}

/* Waits for some bytes, at most @bytes, into @data. Returns how many. */
static ssize_t receive(struct transport *t, void *data, size_t bytes, struct error *err)
{
	int64_t until = stall_end(t);

	for (;;) {
		short events = 0;
		ssize_t n = receive_some(t, data, bytes, &events, err);
		int ret;

		if (n == 0)
			return transport_fail(t, -ECONNRESET, err, "the connection was closed at the other end");
		if (n > 0)
			t->received += (uint64_t)n;
		if (n != -EAGAIN)
			return n;
		ret = t->out_bytes ? transport_flush(t, err) : 0;
		if (ret == 0)
			ret = transport_wait_socket(t, events, until, err);
		if (ret)
			return ret == -ETIMEDOUT && !t->broken ? stalled(t, "sends nothing", err) : ret;
	}
}

/* Some bytes by way of the buffer; of many, straight to where they are to be. Returns how many. */
static ssize_t read_some(struct transport *t, void *data, size_t bytes, struct error *err)
{
	size_t n = t->in_end - t->in_at;
	ssize_t got;

	if (!n && bytes >= sizeof(t->in))
		return receive(t, data, bytes, err);
	if (!n) {
		got = receive(t, t->in, sizeof(t->in), err);
		if (got < 0)
			return got;
		t->in_at = 0;
		t->in_end = n = (size_t)got;
	}
	n = (size_t)min_u64(bytes, n);
	memcpy(data, t->in + t->in_at, n);
	t->in_at += n;
	return (ssize_t)n;
}

int transport_read(struct transport *t, void *data, size_t bytes, struct error *err)
{
	uint8_t *to = data;

	if (t->broken)
		return transport_fail(t, t->broken, err, "the connection is broken");
	while (bytes) {
		ssize_t n = read_some(t, to, bytes, err);

		if (n < 0)
			return (int)n;
		to += n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* ---- making and ending it ---- */

void transport_set_rate(struct transport *t, uint64_t bytes_per_second)
{
	t->rate = bytes_per_second;
	t->paid_ns = 0;
}

void transport_set_urgent(struct transport *t, bool urgent) { t->urgent = urgent; }

int64_t transport_owed_ms(const struct transport *t)
{
	return t->rate ? -min_i64((transport_now_ns() - t->paid_ns) / NS_PER_MS, 0) : 0;
}

void transport_set_cancel(struct transport *t, int cancel_fd) { t->cancel_fd = cancel_fd; }
int64_t transport_stall_ms(const struct transport *t) { return t->stall_ms; }
uint64_t transport_sent(const struct transport *t) { return t->sent; }
uint64_t transport_received(const struct transport *t) { return t->received; }
const char *transport_name(const struct transport *t) { return t->name; }

static int adopt(struct transport **out, int fd, bool is_server, const char *name, const char *host,
		 const struct transport_config *cfg, int64_t until_ns, struct error *err)
{
	struct transport *t = calloc(1, sizeof(*t));
	int ret;

	if (!t) {
		close(fd);
		return error_set(err, -ENOMEM, "%.100s: out of memory", name);
	}
	t->fd = fd;
	t->is_server = is_server;
	t->cancel_fd = cfg->cancel_fd;
	t->stall_ms = cfg->stall_ms;
	t->rate = cfg->bytes_per_second;
	snprintf(t->name, sizeof(t->name), "%s", name);
	ret = cfg->security == TRANSPORT_PLAIN ? 0 : tls_start(t, cfg, host, until_ns, err);
	if (ret) {
		transport_close(t);
		return ret;
	}
	*out = t;
	return 0;
}

int transport_adopt(struct transport **out, int fd, bool is_server, const char *name,
		    const struct transport_config *cfg, struct error *err)
{
	return adopt(out, fd, is_server, name, cfg->peer_name, cfg, transport_now_ns() + cfg->connect_ms * NS_PER_MS,
		     err);
}

void transport_close(struct transport *t)
{
	if (!t)
		return;
	tls_end(t->tls);
	close(t->fd);
	free(t);
}
