/* How a transport's connection comes about: addresses, listening, connecting. TCP over IPv4 and IPv6. */
#include "vm/transport_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTEN_BACKLOG 4

/* ---- addresses ---- */

static bool is_port(const char *text)
{
	unsigned long n = 0;

	if (!*text || strlen(text) > 5)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		n = n * 10 + (unsigned long)(*text - '0');
	}
	return n <= 65535;
}

/* Cuts "HOST:PORT" or "[HOST]:PORT" where host and port meet; NULL if it is neither. */
static const char *find_port(const char *text, const char **host, size_t *host_bytes)
{
	const char *end;

	if (*text == '[') {
		end = strchr(text, ']');
		if (!end || end[1] != ':')
			return NULL;
		*host = text + 1;
		*host_bytes = (size_t)(end - text - 1);
		return end + 2;
	}
	end = strchr(text, ':');
	if (!end || strchr(end + 1, ':'))
		return NULL;
	*host = text;
	*host_bytes = (size_t)(end - text);
	return end + 1;
}

int transport_parse_address(const char *text, struct transport_address *a, struct error *err)
{
	const char *host = NULL, *port = NULL;
	size_t bytes = 0;

	if (strncmp(text, "tcp:", 4) == 0)
		port = find_port(text + 4, &host, &bytes);
	if (!port || !bytes || bytes >= sizeof(a->host) || memchr(host, '%', bytes))
		return error_set(err, -EINVAL, "'%.300s': an address is tcp:HOST:PORT or tcp:[IPV6]:PORT", text);
	if (!is_port(port))
		return error_set(err, -EINVAL, "'%.300s': a port is a number from 0 to 65535", text);
	memcpy(a->host, host, bytes);
	a->host[bytes] = 0;
	memcpy(a->port, port, strlen(port) + 1);
	return 0;
}

bool transport_is_loopback(const struct transport_address *a)
{
	return !strcmp(a->host, "localhost") || !strncmp(a->host, "127.", 4) || !strcmp(a->host, "::1");
}

int transport_choose_security(struct transport_config *cfg, const struct transport_address *a, bool plain,
			      struct error *err)
{
	bool x509 = cfg->ca_file || cfg->cert_file || cfg->cert_key;

	cfg->security = cfg->psk_file ? TRANSPORT_PSK : x509 ? TRANSPORT_X509 : TRANSPORT_PLAIN;
	if (cfg->psk_file && x509)
		return error_set(err, -EINVAL, "TLS is by a key file or by certificates, not both");
	if (x509 && !(cfg->ca_file && cfg->cert_file && cfg->cert_key))
		return error_set(err, -EINVAL,
				 "TLS by certificates needs three files: of the CA, the certificate, and its key");
	if (cfg->security != TRANSPORT_PLAIN && plain)
		return error_set(err, -EINVAL, "either TLS or a plain connection");
	if (cfg->security != TRANSPORT_PLAIN || plain || transport_is_loopback(a))
		return 0;
	return error_set(err, -EPERM,
			 "tcp:%s:%s: without TLS everybody on the way could read and change the VM; give a key or "
			 "certificates, or ask for a plain connection",
			 a->host, a->port);
}

static int resolve(const struct transport_address *a, bool to_listen, struct addrinfo **out, struct error *err)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
				       .ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0)};
	int n = getaddrinfo(a->host, a->port, &hints, out);

	if (n == 0)
		return 0;
	return error_set(err, n == EAI_SYSTEM ? -errno : -EHOSTUNREACH, "tcp:%s:%s: %s", a->host, a->port,
			 n == EAI_SYSTEM ? strerror(errno) : gai_strerror(n));
}

/* "tcp:127.0.0.1:5" of a socket's address. */
static void name_of(const struct sockaddr *sa, socklen_t bytes, char name[TRANSPORT_NAME_MAX])
{
	char host[INET6_ADDRSTRLEN + 20], port[8];

	if (getnameinfo(sa, bytes, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(name, TRANSPORT_NAME_MAX, "tcp:?");
	else
		snprintf(name, TRANSPORT_NAME_MAX, strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

/* ---- connecting ---- */

static void set_options(int fd)
{
	const int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

/* Waits for a connection under way. */
static int await_connected(int fd, const struct transport_config *cfg, int64_t until_ns)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLOUT}, {.fd = cfg->cancel_fd, .events = POLLIN}};
	int failure = 0;
	socklen_t bytes = sizeof(failure);

	while (!p[0].revents) {
		int64_t left = (until_ns - transport_now_ns()) / 1000000;

		if (left <= 0)
			return -ETIMEDOUT;
		if (poll(p, 2, (int)min_i64(left + 1, INT32_MAX)) < 0 && errno != EINTR)
			return -errno;
		if (p[1].revents)
			return -ECANCELED;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &bytes))
		return -errno;
	return -failure;
}

/* Returns the socket. */
static int connect_to(const struct addrinfo *a, const struct transport_config *cfg, int64_t until_ns)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret;

	if (fd < 0)
		return -errno;
	ret = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : -errno;
	if (ret == -EINPROGRESS)
		ret = await_connected(fd, cfg, until_ns);
	if (ret) {
		close(fd);
		return ret;
	}
	set_options(fd);
	return fd;
}

int transport_connect(struct transport **out, const struct transport_address *to, const struct transport_config *cfg,
		      struct error *err)
{
	struct transport_config with = *cfg;
	int64_t until = transport_now_ns() + cfg->connect_ms * 1000000;
	struct addrinfo *list;
	char name[TRANSPORT_NAME_MAX];
	int fd = -EHOSTUNREACH, ret = resolve(to, false, &list, err);

	if (ret)
		return ret;
	for (const struct addrinfo *a = list; a && fd < 0 && fd != -ECANCELED; a = a->ai_next) {
		name_of(a->ai_addr, a->ai_addrlen, name);
		fd = connect_to(a, cfg, until);
	}
	freeaddrinfo(list);
	if (fd == -ECANCELED)
		return error_set(err, fd, "tcp:%s:%s: cancelled", to->host, to->port);
	if (fd < 0)
		return error_set(err, fd, "tcp:%s:%s: cannot connect: %s", to->host, to->port, strerror(-fd));
	if (!with.peer_name)
		with.peer_name = to->host;
	return transport_adopt(out, fd, false, name, &with, err);
}

/* ---- listening ---- */

struct transport_listener {
	int fd;
	char name[TRANSPORT_NAME_MAX];
};

static int listen_at(const struct addrinfo *a)
{
	const int on = 1;
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
		return fd;
	ret = -errno;
	close(fd);
	return ret;
}

int transport_listen(struct transport_listener **out, const struct transport_address *at, struct error *err)
{
	struct transport_listener *l;
	struct sockaddr_storage bound;
	socklen_t bytes = sizeof(bound);
	struct addrinfo *list;
	int fd = -EADDRNOTAVAIL, ret = resolve(at, true, &list, err);

	if (ret)
		return ret;
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = listen_at(a);
	freeaddrinfo(list);
	if (fd < 0)
		return error_set(err, fd, "tcp:%s:%s: cannot listen: %s", at->host, at->port, strerror(-fd));
	l = calloc(1, sizeof(*l));
	if (!l) {
		close(fd);
		return error_set(err, -ENOMEM, "out of memory");
	}
	l->fd = fd;
	getsockname(fd, (struct sockaddr *)(void *)&bound, &bytes);
	name_of((const struct sockaddr *)(const void *)&bound, bytes, l->name);
	*out = l;
	return 0;
}

const char *transport_listener_name(const struct transport_listener *l) { return l->name; }
int transport_listener_fd(const struct transport_listener *l) { return l->fd; }

static int await_somebody(const struct transport_listener *l, const struct transport_config *cfg, int64_t until_ns,
			  struct error *err)
{
	struct pollfd p[2] = {{.fd = l->fd, .events = POLLIN}, {.fd = cfg->cancel_fd, .events = POLLIN}};

	for (;;) {
		int64_t left = until_ns == INT64_MAX ? -2 : (until_ns - transport_now_ns()) / 1000000;
		int n;

		if (until_ns != INT64_MAX && left < 0)
			left = 0;
		n = poll(p, 2, left == -2 ? -1 : (int)min_i64(left + 1, INT32_MAX));
		if (n < 0 && errno != EINTR)
			return error_set(err, -errno, "%s: poll: %s", l->name, strerror(errno));
		if (n > 0 && p[1].revents)
			return error_set(err, -ECANCELED, "%s: cancelled", l->name);
		if (n > 0)
			return 0;
		if (until_ns != INT64_MAX && transport_now_ns() >= until_ns)
			return error_set(err, -ETIMEDOUT, "%s: nobody came", l->name);
	}
}

int transport_accept(struct transport_listener *l, struct transport **out, const struct transport_config *cfg,
		     int64_t wait_ms, struct error *err)
{
	int64_t until = wait_ms < 0 ? INT64_MAX : transport_now_ns() + wait_ms * 1000000;
	struct sockaddr_storage from;
	socklen_t bytes;
	char name[TRANSPORT_NAME_MAX];
	int fd, ret;

	do {
		ret = await_somebody(l, cfg, until, err);
		if (ret)
			return ret;
		bytes = sizeof(from);
		fd = accept4(l->fd, (struct sockaddr *)(void *)&from, &bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);
	} while (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED));
	if (fd < 0)
		return error_set(err, -errno, "%s: cannot accept: %s", l->name, strerror(errno));
	set_options(fd);
	name_of((const struct sockaddr *)(const void *)&from, bytes, name);
	return transport_adopt(out, fd, true, name, cfg, err);
}

void transport_listener_close(struct transport_listener *l)
{
	if (!l)
		return;
	close(l->fd);
	free(l);
}
