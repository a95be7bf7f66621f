/* What a network card can be connected to: what owners write, and the cable between two ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "vm/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void words(void **state)
{
	static const struct {
		const char *text;
		int ret;
		enum net_kind kind;
		const char *name;
	} cases[] = {
		{"none", 0, NET_NONE, ""}, {"user", 0, NET_USER, ""}, {"socket:/a,b", -EINVAL, NET_SOCKET, "/a"},
		{"socket:/tmp/x,mac=02:00:00:00:00:01", 0, NET_SOCKET, "/tmp/x"}, {"tap:tap0", 0, NET_TAP, "tap0"},
		{"tap:0123456789abcde", 0, NET_TAP, "0123456789abcde"}, {"tap:0123456789abcdef", -EINVAL, NET_TAP, ""},
		{"", -EINVAL, NET_NONE, ""}, {"users", -EINVAL, NET_USER, ""}, {"socket:", -EINVAL, NET_SOCKET, ""},
		{"none,mac=02:00:00:00:00", -EINVAL, NET_NONE, ""}, {"none,mac=2:0:0:0:0:1x", -EINVAL, NET_NONE, ""},
		{"none,mac=03:00:00:00:00:01", -EINVAL, NET_NONE, ""}, {"none,", -EINVAL, NET_NONE, ""},
	};
	struct net_config net;
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(net_parse(cases[i].text, &net, &err), cases[i].ret);
		if (cases[i].ret)
			continue;
		assert_int_equal(net.kind, cases[i].kind);
		assert_string_equal(net.name, cases[i].name);
	}
	assert_int_equal(net_parse("user,mac=02:47:aB:00:00:ff", &net, &err), 0);
	assert_memory_equal(net.mac, "\x02\x47\xab\x00\x00\xff", 6);
}

/* ---- the cable ---- */

static char path[64];

static int setup(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "/tmp/test-net-%d", (int)getpid());
	unlink(path);
	return 0;
}

static struct net_backend *end_of_cable(void)
{
	struct net_backend *n = NULL;
	struct error err;

	assert_int_equal(net_open_socket(&n, path, &err), 0);
	return n;
}

static size_t take(struct net_backend *n, uint8_t *frame)
{
	n->ops->work(n);
	return n->ops->receive(n, frame);
}

static void there_and_back(void **state)
{
	struct net_backend *a = end_of_cable(), *b;
	uint8_t frame[NET_FRAME_MAX], got[NET_FRAME_MAX];
	struct pollfd p[2];
	int ms = 1000;

	(void)state;
	assert_false(a->ops->is_up(a));
	a->ops->send(a, frame, 100); /* to nobody */
	b = end_of_cable();
	assert_true(b->ops->is_up(b));
	assert_int_equal(take(a, got), 0);
	assert_true(a->ops->is_up(a));
	for (unsigned n = NET_FRAME_MIN; n <= NET_FRAME_MAX; n += 47) {
		memset(frame, (int)n, sizeof(frame));
		a->ops->send(a, frame, n);
		b->ops->send(b, frame, n);
		assert_int_equal(take(b, got), n);
		assert_memory_equal(got, frame, n);
		assert_int_equal(take(a, got), n);
	}
	assert_int_equal(a->ops->wait_for(a, p, 2, &ms), 1);
	assert_int_equal(poll(p, 1, 0), 0);
	b->ops->send(b, frame, 60);
	assert_int_equal(poll(p, 1, 1000), 1);
	/* More than the socket takes: whole frames are lost, what arrives is in order and whole. */
	for (unsigned i = 0; i < 5000; i++) {
		memset(frame, (int)(i & 0xff), sizeof(frame));
		put_u32(frame, i);
		a->ops->send(a, frame, 1000 + i % 500);
	}
	for (uint32_t last = 0, n = 0;; n++) {
		size_t bytes = take(b, got);

		a->ops->work(a); /* the rest of one that did not go out whole */
		if (!bytes) {
			assert_in_range(n, 10, 4999);
			break;
		}
		assert_true(!n || get_u32(got) > last);
		last = get_u32(got);
		assert_int_equal(bytes, 1000 + last % 500);
		assert_int_equal(got[bytes - 1], last & 0xff);
	}
	/* The one that listens waits for the next. */
	b->ops->close(b);
	assert_int_equal(take(a, got), 60); /* from before */
	assert_int_equal(take(a, got), 0);
	assert_false(a->ops->is_up(a));
	b = end_of_cable();
	a->ops->work(a);
	assert_true(a->ops->is_up(a));
	b->ops->close(b);
	a->ops->close(a);
	assert_int_equal(access(path, F_OK), -1);
}

static int stranger(void)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(at.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

/* What the other end sends may be anything. */
static void strangers(void **state)
{
	static const uint32_t lengths[] = {0, NET_FRAME_MIN - 1, NET_FRAME_MAX + 1, 0x7fffffff, 0xffffffff};
	struct net_backend *a = end_of_cable();
	uint8_t got[NET_FRAME_MAX], data[100] = {0};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		uint32_t length = htonl(lengths[i]);
		int fd = stranger();

		assert_int_equal(write(fd, &length, 4), 4);
		assert_int_equal(take(a, got), 0);
		assert_false(a->ops->is_up(a)); /* hung up */
		close(fd);
	}
	for (unsigned i = 0; i < 2; i++) {
		uint32_t length = htonl(100);
		int fd = stranger();

		/* In pieces, and cut off. */
		assert_int_equal(write(fd, &length, 3), 3);
		assert_int_equal(take(a, got), 0);
		assert_int_equal(write(fd, (uint8_t *)&length + 3, 1), 1);
		assert_int_equal(write(fd, data, 99), 99);
		assert_int_equal(take(a, got), 0);
		if (i) {
			assert_int_equal(write(fd, data, 1), 1);
			assert_int_equal(take(a, got), 100);
		}
		close(fd);
		assert_int_equal(take(a, got), 0);
	}
	a->ops->close(a);
}

static void left_over(void **state)
{
	struct net_backend *a;
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct error err;

	(void)state;
	strcpy(at.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	close(fd); /* somebody who had no time to clean up */
	a = end_of_cable();
	a->ops->close(a);
	assert_int_equal(net_open_socket(&a, "/nonexistent/wire", &err), -ENOENT);
	assert_int_equal(net_open_socket(&a, "/a/path/that/is/much/longer/than/the/hundred/and/eight/bytes/that/an/address/of/a/"
					     "local/socket/has/room/for/on/Linux", &err), -ENAMETOOLONG);
}

/* libslirp answers an ARP request for its gateway. */
static void user_mode(void **state)
{
	static const uint8_t request[42] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
		2, 0, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2,
	};
	uint8_t got[NET_FRAME_MAX];
	struct net_backend *n;
	struct error err;

	(void)state;
	assert_int_equal(net_open_slirp(&n, &err), 0);
	assert_true(n->ops->is_up(n));
	n->ops->send(n, request, sizeof(request));
	assert_true(take(n, got) >= 42);
	assert_int_equal(got[21], 2); /* a reply */
	assert_memory_equal(got + 28, "\x0a\x00\x02\x02", 4);
	assert_int_equal(take(n, got), 0);
	n->ops->close(n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words), cmocka_unit_test_setup(there_and_back, setup),
		cmocka_unit_test_setup(strangers, setup), cmocka_unit_test_setup(left_over, setup),
		cmocka_unit_test(user_mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
