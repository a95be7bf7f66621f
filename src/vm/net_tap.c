/* A TAP interface of the host's: its frames are the guest's. Needs an interface that this user may open, or rights. */
#include "vm/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct net_tap {
	struct net_backend backend;
	int fd;
};

static struct net_tap *tap_of(struct net_backend *n) { return (struct net_tap *)(void *)n; }

static void tap_send(struct net_backend *n, const uint8_t *frame, size_t bytes)
{
	if (write(tap_of(n)->fd, frame, bytes) < 0) {
		/* lost, as on a wire */
	}
}

static size_t tap_receive(struct net_backend *n, uint8_t *frame)
{
	ssize_t got = read(tap_of(n)->fd, frame, NET_FRAME_MAX);

	return got > 0 ? (size_t)got : 0;
}

static unsigned tap_wait_for(struct net_backend *n, struct pollfd *p, unsigned max, int *wait_ms)
{
	(void)wait_ms;
	if (!max)
		return 0;
	*p = (struct pollfd){.fd = tap_of(n)->fd, .events = POLLIN};
	return 1;
}

static void tap_work(struct net_backend *n) { (void)n; }

static bool tap_is_up(struct net_backend *n)
{
	(void)n;
	return true;
}

static void tap_close(struct net_backend *n)
{
	close(tap_of(n)->fd);
	free(tap_of(n));
}

static const struct net_backend_ops tap_ops = {
	.send = tap_send, .receive = tap_receive, .wait_for = tap_wait_for, .work = tap_work, .is_up = tap_is_up,
	.close = tap_close,
};

int net_open_tap(struct net_backend **out, const char *name, struct error *err)
{
	struct ifreq rq = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	struct net_tap *t = calloc(1, sizeof(*t));
	int code;

	if (!t)
		return error_set(err, -ENOMEM, "--net tap:%s: out of memory", name);
	t->backend.ops = &tap_ops;
	strncpy(rq.ifr_name, name, IFNAMSIZ - 1);
	t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (t->fd >= 0 && ioctl(t->fd, TUNSETIFF, &rq) == 0) {
		*out = &t->backend;
		return 0;
	}
	code = -errno;
	if (t->fd >= 0)
		close(t->fd);
	error_set(err, code, "--net tap:%s: %s%s", name, t->fd < 0 ? "/dev/net/tun: " : "", strerror(-code));
	free(t);
	return code;
}
