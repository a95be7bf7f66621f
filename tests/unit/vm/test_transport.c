/* The byte stream of migrations: what arrives, who is let in, and that every wait has an end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vm/transport.h"

#include "pki.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static const char *file(const char *name)
{
	static char path[8][128];
	static unsigned next;
	char *p = path[next++ % 8];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

/* ---- two ends ---- */

struct end {
	struct transport_config cfg;
	int fd;
	struct transport *t;
	int ret;
	struct error err;
	pthread_t thread;
};

static void *connect_client(void *ctx)
{
	struct end *e = ctx;

	e->ret = transport_adopt(&e->t, e->fd, false, "server", &e->cfg, &e->err);
	return NULL;
}

/* Both ends of a new connection, as far as they get. */
static void meet(struct end *client, struct end *server)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	client->fd = fd[0];
	server->fd = fd[1];
	assert_int_equal(pthread_create(&client->thread, NULL, connect_client, client), 0);
	server->ret = transport_adopt(&server->t, server->fd, true, "client", &server->cfg, &server->err);
	pthread_join(client->thread, NULL);
}

static void part(struct end *a, struct end *b)
{
	transport_close(a->t);
	transport_close(b->t);
	a->t = b->t = NULL;
}

static struct transport_config secured(enum transport_security kind, const char *psk)
{
	struct transport_config c = TRANSPORT_CONFIG_DEFAULT;

	c.security = kind;
	c.psk_file = psk;
	c.connect_ms = 3000;
	c.stall_ms = 3000;
	return c;
}

static struct transport_config certified(const char *ca, const char *name, const char *peer)
{
	struct transport_config c = secured(TRANSPORT_X509, NULL);
	static char text[64][128];
	static unsigned next;
	char *crt = text[next++ % 64], *key = text[next++ % 64], *authority = text[next++ % 64];

	snprintf(crt, 128, "%s/%s.crt", dir, name);
	snprintf(key, 128, "%s/%s.key", dir, name);
	snprintf(authority, 128, "%s/%s.crt", dir, ca);
	c.cert_file = crt;
	c.cert_key = key;
	c.ca_file = authority;
	c.peer_name = peer;
	return c;
}

static int setup(void **state)
{
	struct pki_end ca, other, end;

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/test-transport-%d", (int)getpid());
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(transport_make_key(file("key"), NULL), 0);
	assert_int_equal(transport_make_key(file("other-key"), NULL), 0);
	pki_make(&ca, "ca", NULL);
	pki_make(&other, "other-ca", NULL);
	pki_save(&ca, file("ca.crt"), NULL);
	pki_save(&other, file("other-ca.crt"), NULL);
	pki_make(&end, "left.example", &ca);
	pki_save(&end, file("left.crt"), file("left.key"));
	pki_free(&end);
	pki_make(&end, "right.example", &ca);
	pki_save(&end, file("right.crt"), file("right.key"));
	pki_free(&end);
	pki_make(&end, "right.example", &other);
	pki_save(&end, file("stranger.crt"), file("stranger.key"));
	pki_free(&end);
	pki_free(&ca);
	pki_free(&other);
	return 0;
}

static int teardown(void **state)
{
	static const char *const names[] = {"key",      "other-key", "ca.crt",    "other-ca.crt", "left.crt",
					    "left.key", "right.crt", "right.key", "stranger.crt", "stranger.key"};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		unlink(file(names[i]));
	return rmdir(dir);
}

/* ---- addresses and keys ---- */

static void addresses(void **state)
{
	static const struct {
		const char *text, *host, *port;
	} good[] = {{"tcp:localhost:1", "localhost", "1"}, {"tcp:10.0.0.1:65535", "10.0.0.1", "65535"},
		    {"tcp:[::1]:0", "::1", "0"}, {"tcp:[fe80::1]:4455", "fe80::1", "4455"}};
	static const char *const bad[] = {"",          "tcp:",           "tcp:host",       "tcp:host:",
					  "tcp::1",    "tcp:host:65536", "tcp:host:1x",    "tcp:::1:5",
					  "tcp:[::1]", "tcp:[::1:5",     "tcp:[]:5",       "udp:host:1",
					  "host:1",    "tcp:host:-1",    "tcp:host:000001"};
	struct transport_address a;
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(transport_parse_address(good[i].text, &a, &err), 0);
		assert_string_equal(a.host, good[i].host);
		assert_string_equal(a.port, good[i].port);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(transport_parse_address(bad[i], &a, &err), -EINVAL);
}

static void keys(void **state)
{
	struct transport_config c = secured(TRANSPORT_PSK, file("bad-key"));
	struct error err = {0};
	FILE *f;

	(void)state;
	assert_int_equal(transport_make_key(file("key"), &err), -EEXIST);
	assert_int_equal(transport_check(&c, &err), -ENOENT);
	f = fopen(c.psk_file, "w");
	fputs("gnomon:00112233\n", f);
	fclose(f);
	chmod(c.psk_file, 0600);
	assert_int_equal(transport_check(&c, &err), -EINVAL);
	chmod(c.psk_file, 0640);
	assert_int_equal(transport_check(&c, &err), -EACCES);
	unlink(c.psk_file);
	c.psk_file = file("key");
	assert_int_equal(transport_check(&c, &err), 0);
	c = certified("ca", "left", NULL);
	assert_int_equal(transport_check(&c, &err), 0);
	c.cert_key = c.cert_file;
	assert_int_equal(transport_check(&c, &err), -EINVAL);
}

/* ---- the stream ---- */

#define PIECES 300u

struct talk {
	struct transport *t;
	int ret;
	struct error err;
};

static uint8_t byte_at(uint64_t at) { return (uint8_t)(at * 2654435761u >> 13); }

static size_t piece_bytes(unsigned i) { return 1 + (i * 7919u) % 9000u; }

/* Sends pieces, and waits for an answer to every tenth. */
static void *speak(void *ctx)
{
	struct talk *k = ctx;
	uint8_t buf[9000];
	uint64_t at = 0;

	for (unsigned i = 0; i < PIECES && k->ret == 0; i++) {
		size_t n = piece_bytes(i);

		for (size_t j = 0; j < n; j++)
			buf[j] = byte_at(at++);
		k->ret = transport_write(k->t, buf, n, &k->err);
		if (k->ret == 0 && i % 10 == 9) /* without a flush: the read does it */
			k->ret = transport_read(k->t, buf, 4, &k->err);
	}
	if (k->ret == 0)
		k->ret = transport_flush(k->t, &k->err);
	return NULL;
}

static void converse(struct transport *client, struct transport *server)
{
	struct talk k = {.t = client};
	uint8_t buf[9000];
	uint64_t at = 0;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, speak, &k), 0);
	for (unsigned i = 0; i < PIECES; i++) {
		size_t n = piece_bytes(i);

		assert_int_equal(transport_read(server, buf, n, NULL), 0);
		for (size_t j = 0; j < n; j++)
			assert_int_equal(buf[j], byte_at(at++));
		if (i % 10 == 9) {
			assert_int_equal(transport_write(server, "word", 4, NULL), 0);
			assert_int_equal(transport_flush(server, NULL), 0);
		}
	}
	pthread_join(thread, NULL);
	assert_int_equal(k.ret, 0);
	assert_int_equal(transport_sent(client), at);
	assert_int_equal(transport_received(server), at);
}

static void all_arrives(void **state)
{
	const struct transport_config pairs[][2] = {
		{secured(TRANSPORT_PLAIN, NULL), secured(TRANSPORT_PLAIN, NULL)},
		{secured(TRANSPORT_PSK, file("key")), secured(TRANSPORT_PSK, file("key"))},
		{certified("ca", "left", "right.example"), certified("ca", "right", NULL)},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct end client = {.cfg = pairs[i][0]}, server = {.cfg = pairs[i][1]};
		uint8_t b;

		meet(&client, &server);
		assert_int_equal(client.ret, 0);
		assert_int_equal(server.ret, 0);
		converse(client.t, server.t);
		transport_close(client.t);
		client.t = NULL;
		assert_int_equal(transport_read(server.t, &b, 1, &server.err), -ECONNRESET);
		assert_non_null(strstr(server.err.text, "client: the connection was closed"));
		assert_int_equal(transport_write(server.t, &b, 1, &server.err), -ECONNRESET);
		part(&client, &server);
	}
}

/* ---- who is let in ---- */

/* The end that accepts never gets a stream, and the other one at the latest when it reads. */
static void is_refused(struct transport_config client_cfg, struct transport_config server_cfg, const char *says)
{
	struct end client = {.cfg = client_cfg}, server = {.cfg = server_cfg};
	uint8_t b;

	meet(&client, &server);
	assert_int_not_equal(server.ret, 0);
	assert_null(server.t);
	if (client.ret == 0)
		client.ret = transport_read(client.t, &b, 1, &client.err);
	assert_int_not_equal(client.ret, 0);
	if (!strstr(server.err.text, says) && !strstr(client.err.text, says))
		fail_msg("neither '%s' nor '%s' says '%s'", server.err.text, client.err.text, says);
	part(&client, &server);
}

static void strangers(void **state)
{
	struct transport_config psk = secured(TRANSPORT_PSK, file("key")),
				wrong = secured(TRANSPORT_PSK, file("other-key"));
	struct transport_config left = certified("ca", "left", "right.example"), right = certified("ca", "right", NULL);
	struct transport_config plain = secured(TRANSPORT_PLAIN, NULL);

	(void)state;
	plain.stall_ms = psk.connect_ms = right.connect_ms = 400;
	is_refused(wrong, psk, "same key");
	is_refused(plain, psk, "no TLS handshake in time");
	is_refused(certified("ca", "left", "right.example"), psk, "");
	is_refused(psk, right, "");
	is_refused(certified("ca", "stranger", "right.example"), right, "ertificate");
	is_refused(certified("other-ca", "left", "right.example"), right, "ertificate");
	is_refused(certified("ca", "left", "wrong.example"), right, "name");
	right.peer_name = "elsewhere.example";
	is_refused(left, right, "name");
}

/* What somebody sends who is no TLS client; and one who stops in the middle of the handshake. */
static void no_handshake(void **state)
{
	static const char *const words[] = {
		"GNOMONST\1\0\0\0",     "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01",
		"\x16\x03\x03\xff\xff", "\x80\x2e\x01\x00\x02",   "\0\0\0\0\0\0\0\0\0\0\0\0\0"};
	struct transport_config cfg = secured(TRANSPORT_PSK, file("key"));
	struct transport *t = NULL;
	struct error err;
	char got[4096];
	int fd[2];

	(void)state;
	cfg.connect_ms = 200;
	for (unsigned i = 0; i < ARRAY_SIZE(words) * 2; i++) {
		const char *w = words[i / 2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
		assert_true(write(fd[0], w, *w ? 5 : 13) > 0);
		if (i % 2)
			shutdown(fd[0], SHUT_WR);
		err.text[0] = 0;
		assert_int_not_equal(transport_adopt(&t, fd[1], true, "stranger", &cfg, &err), 0);
		assert_null(t);
		assert_non_null(strstr(err.text, "stranger: "));
		assert_true(read(fd[0], got, sizeof(got)) <= 7); /* an alert, or nothing */
		close(fd[0]);
	}
}

/* ---- ends of waiting ---- */

static void stalls(void **state)
{
	static uint8_t buf[1 << 20];
	struct end client = {.cfg = secured(TRANSPORT_PLAIN, NULL)}, server = {.cfg = secured(TRANSPORT_PLAIN, NULL)};

	(void)state;
	client.cfg.stall_ms = server.cfg.stall_ms = 100;
	meet(&client, &server);
	assert_int_equal(transport_read(client.t, buf, 1, &client.err), -ETIMEDOUT);
	assert_non_null(strstr(client.err.text, "server: sends nothing for 0.1 s"));
	part(&client, &server);
	meet(&client, &server);
	assert_int_equal(transport_write(client.t, buf, sizeof(buf), &client.err), -ETIMEDOUT);
	assert_non_null(strstr(client.err.text, "takes nothing"));
	part(&client, &server);
}

static void *cancel_soon(void *ctx)
{
	const uint64_t one = 1;

	usleep(50000);
	assert_int_equal(write(*(const int *)ctx, &one, sizeof(one)), sizeof(one));
	return NULL;
}

static void cancels(void **state)
{
	struct transport_config cfgs[] = {secured(TRANSPORT_PLAIN, NULL), secured(TRANSPORT_PSK, file("key"))};
	struct transport_listener *l;
	struct transport_address a;
	struct transport *t;
	struct error err;
	pthread_t thread;
	uint8_t b;

	(void)state;
	assert_int_equal(transport_parse_address("tcp:127.0.0.1:0", &a, &err), 0);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(cfgs); i++) {
		struct end client = {.cfg = cfgs[i / 2]}, server = {.cfg = cfgs[i / 2]};
		int fd = eventfd(0, EFD_CLOEXEC);

		client.cfg.stall_ms = -1;
		meet(&client, &server);
		part(&client, &server);
		client.cfg.cancel_fd = fd;
		meet(&client, &server);
		assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &fd), 0);
		if (i % 2) {
			assert_int_equal(transport_read(client.t, &b, 1, &client.err), -ECANCELED);
		} else {
			assert_int_equal(transport_listen(&l, &a, &err), 0);
			assert_int_equal(transport_accept(l, &t, &client.cfg, -1, &err), -ECANCELED);
			transport_listener_close(l);
		}
		pthread_join(thread, NULL);
		assert_int_equal(transport_wait(client.t, -1, -1, &client.err), -ECANCELED);
		part(&client, &server);
		close(fd);
	}
}

/* ---- sockets ---- */

static void *connect_to(void *ctx)
{
	struct end *e = ctx;
	struct transport_address a;

	e->ret = transport_parse_address(e->err.text, &a, &e->err);
	if (e->ret == 0)
		e->ret = transport_connect(&e->t, &a, &e->cfg, &e->err);
	return NULL;
}

static void over_tcp(void **state)
{
	static const char *const at[] = {"tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0"};
	struct transport_address a;
	struct transport_listener *l;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		struct end client = {.cfg = secured(TRANSPORT_PSK, file("key"))}, server = {.cfg = client.cfg};

		assert_int_equal(transport_parse_address(at[i], &a, NULL), 0);
		assert_true(transport_is_loopback(&a));
		if (transport_listen(&l, &a, &server.err)) {
			assert_int_equal(i, 1); /* a host without IPv6 */
			continue;
		}
		assert_int_equal(transport_accept(l, &server.t, &server.cfg, 10, &server.err), -ETIMEDOUT);
		strcpy(client.err.text, transport_listener_name(l));
		assert_int_equal(pthread_create(&client.thread, NULL, connect_to, &client), 0);
		assert_int_equal(transport_accept(l, &server.t, &server.cfg, 3000, &server.err), 0);
		pthread_join(client.thread, NULL);
		assert_int_equal(client.ret, 0);
		converse(client.t, server.t);
		strcpy(client.err.text, transport_listener_name(l));
		transport_listener_close(l);
		part(&client, &server);
		connect_to(&client); /* nobody there any more */
		assert_int_equal(client.ret, -ECONNREFUSED);
		assert_non_null(strstr(client.err.text, "cannot connect"));
	}
}

/* ---- the cap ---- */

static void *drink(void *ctx)
{
	struct end *e = ctx;
	static uint8_t buf[400000];

	e->ret = transport_read(e->t, buf, sizeof(buf), &e->err);
	return NULL;
}

static void keeps_to_the_rate(void **state)
{
	static uint8_t buf[400000];
	struct end client = {.cfg = secured(TRANSPORT_PLAIN, NULL)}, server = {.cfg = secured(TRANSPORT_PLAIN, NULL)};
	struct timespec a, b;
	double s;

	(void)state;
	meet(&client, &server);
	transport_set_rate(client.t, 1000000);
	assert_int_equal(pthread_create(&server.thread, NULL, drink, &server), 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(transport_write(client.t, buf, sizeof(buf), NULL), 0);
	assert_int_equal(transport_flush(client.t, NULL), 0);
	pthread_join(server.thread, NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	assert_int_equal(server.ret, 0);
	assert_true(s > 0.33); /* 0.4 less a burst of 20 ms and the last piece */
	part(&client, &server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses), cmocka_unit_test(keys),      cmocka_unit_test(all_arrives),
		cmocka_unit_test(strangers), cmocka_unit_test(no_handshake), cmocka_unit_test(stalls),
		cmocka_unit_test(cancels),   cmocka_unit_test(over_tcp),  cmocka_unit_test(keeps_to_the_rate),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
