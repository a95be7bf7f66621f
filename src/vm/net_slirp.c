/*
 * User-mode networking: libslirp is a small network with a gateway (10.0.2.2, the host), a name server (10.0.2.3) and
 * a DHCP server, and speaks to the world with ordinary sockets of this process. No rights are needed; nothing from
 * outside reaches the guest unless it asked.
 *
 * Left out: IPv6, forwarding of ports to the guest, TFTP.
 */
#include "vm/net.h"

#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <time.h>

#define QUEUE_FRAMES 64 /* for the guest; beyond that they are lost */
#define FDS_MAX      256

struct net_slirp {
	struct net_backend backend;
	Slirp *slirp;
	unsigned first, count;
	struct { size_t bytes; uint8_t data[NET_FRAME_MAX]; } queue[QUEUE_FRAMES];
	struct pollfd *fd; /* where fds are put at the moment */
	unsigned fds, fds_max;
};

static struct net_slirp *slirp_of(struct net_backend *n) { return (struct net_slirp *)(void *)n; }

/* ---- what libslirp calls ---- */

static ssize_t send_packet(const void *frame, size_t bytes, void *opaque)
{
	struct net_slirp *s = opaque;
	unsigned at = (s->first + s->count) % QUEUE_FRAMES;

	if (bytes > NET_FRAME_MAX || s->count == QUEUE_FRAMES)
		return (ssize_t)bytes;
	memcpy(s->queue[at].data, frame, bytes);
	s->queue[at].bytes = bytes;
	s->count++;
	return (ssize_t)bytes;
}

/* Bad frames are the guest's business, as on any network. */
static void guest_error(const char *text, void *opaque) { (void)text, (void)opaque; }

static int64_t clock_ns(void *opaque)
{
	struct timespec t;

	(void)opaque;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Descriptors are asked for afresh each time. */
static void note_fd(int fd, void *opaque) { (void)fd, (void)opaque; }
static void notify(void *opaque) { (void)opaque; }

static const struct {
	int slirp, poll;
} event_bits[] = {
	{SLIRP_POLL_IN, POLLIN}, {SLIRP_POLL_OUT, POLLOUT}, {SLIRP_POLL_PRI, POLLPRI},
	{SLIRP_POLL_ERR, POLLERR}, {SLIRP_POLL_HUP, POLLHUP},
};

static int add_fd(int fd, int events, void *opaque)
{
	struct net_slirp *s = opaque;
	struct pollfd p = {.fd = fd};

	if (s->fds == s->fds_max)
		return -1;
	for (unsigned i = 0; i < ARRAY_SIZE(event_bits); i++)
		if (events & event_bits[i].slirp)
			p.events |= (short)event_bits[i].poll;
	s->fd[s->fds] = p;
	return (int)s->fds++;
}

static int events_of(int i, void *opaque)
{
	const struct net_slirp *s = opaque;
	int events = 0;

	if (i < 0 || (unsigned)i >= s->fds)
		return 0;
	for (unsigned k = 0; k < ARRAY_SIZE(event_bits); k++)
		if (s->fd[i].revents & event_bits[k].poll)
			events |= event_bits[k].slirp;
	return events;
}

/* ---- the back end ---- */

static void slirp_send(struct net_backend *n, const uint8_t *frame, size_t bytes)
{
	slirp_input(slirp_of(n)->slirp, frame, (int)bytes);
}

static size_t slirp_receive(struct net_backend *n, uint8_t *frame)
{
	struct net_slirp *s = slirp_of(n);
	size_t bytes;

	if (!s->count)
		return 0;
	bytes = s->queue[s->first].bytes;
	memcpy(frame, s->queue[s->first].data, bytes);
	s->first = (s->first + 1) % QUEUE_FRAMES;
	s->count--;
	return bytes;
}

static unsigned slirp_wait_for(struct net_backend *n, struct pollfd *p, unsigned max, int *wait_ms)
{
	struct net_slirp *s = slirp_of(n);
	uint32_t ms = *wait_ms < 0 ? UINT32_MAX : (uint32_t)*wait_ms;

	s->fd = p;
	s->fds = 0;
	s->fds_max = max;
	slirp_pollfds_fill(s->slirp, &ms, add_fd, s);
	*wait_ms = s->count ? 0 : (int)min_u64(ms, INT32_MAX);
	return s->fds;
}

static void slirp_work(struct net_backend *n)
{
	struct net_slirp *s = slirp_of(n);
	struct pollfd fd[FDS_MAX];
	int ms = 0;

	slirp_wait_for(n, fd, FDS_MAX, &ms);
	slirp_pollfds_poll(s->slirp, poll(fd, s->fds, 0) < 0, events_of, s);
	s->fds = 0;
}

static bool slirp_is_up(struct net_backend *n)
{
	(void)n;
	return true;
}

static void slirp_close(struct net_backend *n)
{
	slirp_cleanup(slirp_of(n)->slirp);
	free(slirp_of(n));
}

static const struct net_backend_ops slirp_ops = {
	.send = slirp_send, .receive = slirp_receive, .wait_for = slirp_wait_for, .work = slirp_work,
	.is_up = slirp_is_up, .close = slirp_close,
};

int net_open_slirp(struct net_backend **out, struct error *err)
{
	/* Timers are for IPv6 only. */
	static const SlirpCb callbacks = {
		.send_packet = send_packet, .guest_error = guest_error, .clock_get_ns = clock_ns,
		.register_poll_fd = note_fd, .unregister_poll_fd = note_fd, .notify = notify,
	};
	SlirpConfig cfg = {.version = 1, .in_enabled = true};
	struct net_slirp *s = calloc(1, sizeof(*s));

	if (!s)
		return error_set(err, -ENOMEM, "--net user: out of memory");
	cfg.vnetwork.s_addr = htonl(0x0a000200);
	cfg.vnetmask.s_addr = htonl(0xffffff00);
	cfg.vhost.s_addr = htonl(0x0a000202);
	cfg.vnameserver.s_addr = htonl(0x0a000203);
	cfg.vdhcp_start.s_addr = htonl(0x0a00020f);
	s->backend.ops = &slirp_ops;
	s->slirp = slirp_new(&cfg, &callbacks, s);
	if (!s->slirp) {
		free(s);
		return error_set(err, -ENODEV, "--net user: libslirp does not start");
	}
	*out = &s->backend;
	return 0;
}
