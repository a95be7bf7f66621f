/* Inside of the transport: the stream's struct, and what TLS does in place of plain reads and writes. */
#ifndef GNOMON_VM_TRANSPORT_IMPL_H
#define GNOMON_VM_TRANSPORT_IMPL_H

#include "vm/transport.h"
#include <gnutls/gnutls.h>
#include <sys/types.h>

#define TRANSPORT_BUFFER 65536u

struct transport {
	int fd;
	bool is_server;
	char name[TRANSPORT_NAME_MAX];
	int cancel_fd;
	int64_t stall_ms;
	struct tls *tls;           /* NULL: plain */
	int broken;                /* the first failure: nothing works after it */
	uint8_t in[TRANSPORT_BUFFER];
	size_t in_at, in_end;
	uint8_t out[TRANSPORT_BUFFER];
	size_t out_bytes;
	uint64_t sent, received;
	/* the cap on what is sent */
	uint64_t rate;             /* bytes a second; 0: none */
	int64_t paid_ns;           /* host time at which what was sent is paid for */
	bool urgent;               /* ... and who writes sees to it */
};

/* Records the failure as the transport's, with the name of the other end in front. Returns @code. */
int transport_fail(struct transport *t, int code, struct error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/*
 * Waits until the socket is ready for @events (of poll()) or @until_ns has come: -ETIMEDOUT without a text; -ECANCELED,
 * with one.
 */
int transport_wait_socket(struct transport *t, short events, int64_t until_ns, struct error *err);

/* Does the handshake and checks the other end's proof, until @until_ns of host time. */
int tls_start(struct transport *t, const struct transport_config *cfg, const char *host, int64_t until_ns,
	      struct error *err);
void tls_end(struct tls *tls);
/* As send() and recv(): -EAGAIN with *@events to wait for; 0 of a read is the end; other failures have a text. */
ssize_t tls_send(struct transport *t, const void *data, size_t bytes, short *events, struct error *err);
ssize_t tls_receive(struct transport *t, void *data, size_t bytes, short *events, struct error *err);
bool tls_has_pending(const struct tls *tls);

#define TRANSPORT_KEY_BYTES 32u
#define TRANSPORT_KEY_USER  "gnomon"
int transport_read_key(const char *path, uint8_t key[TRANSPORT_KEY_BYTES], struct error *err);

#endif
