/*
 * A byte stream between two Gnomons that know each other: TCP, and over it TLS in which both ends prove who they are,
 * by a key that both have or by certificates. Until that proof is complete nothing but the handshake is sent or read.
 *
 * Every wait ends: when bytes move, when none have moved for too long, when the owner cancels (through a descriptor
 * that becomes readable, so that a signal handler or another thread can do it). A transport belongs to one thread.
 */
#ifndef GNOMON_VM_TRANSPORT_H
#define GNOMON_VM_TRANSPORT_H

#include "base/error.h"
#include "base/util.h"

#define TRANSPORT_NAME_MAX 300 /* of an end, with the 0 */

enum transport_security { TRANSPORT_PLAIN, TRANSPORT_PSK, TRANSPORT_X509 };

/* How a connection is to be. Strings are the owner's and last as long as what is made from it. */
struct transport_config {
	enum transport_security security;
	const char *psk_file;   /* TRANSPORT_PSK: transport_make_key() */
	const char *ca_file;    /* TRANSPORT_X509, PEM: who may vouch for the other end, */
	const char *cert_file;  /* ... our certificate, */
	const char *cert_key;   /* ... and its key */
	const char *peer_name;  /* TRANSPORT_X509: the name in the other end's certificate. NULL: the host connected to;
				   who  accepts then takes any name that the CA vouches for */
	int64_t connect_ms;     /* for connecting and the handshake together */
	int64_t stall_ms;       /* without a byte moving for so long the other end counts as lost */
	uint64_t bytes_per_second; /* cap on what is sent; 0: none */
	int cancel_fd;          /* readable: give up with -ECANCELED; -1: none */
};
#define TRANSPORT_CONFIG_DEFAULT \
	((struct transport_config){.connect_ms = 10000, .stall_ms = 15000, .cancel_fd = -1})

struct transport_address;
/*
 * Which security the files that are set ask for: cfg->security. None is fine between processes of one machine, or if
 * the owner says so (@plain). -EINVAL: files that do not go together; -EPERM: no security.
 */
int transport_choose_security(struct transport_config *cfg, const struct transport_address *a, bool plain,
			      struct error *err);
/* Can its files be read, and is in them what should be? So that this is known before somebody connects. */
int transport_check(const struct transport_config *cfg, struct error *err);

struct transport_address {
	char host[256]; /* without brackets */
	char port[8];
};
/* "tcp:HOST:PORT"; an IPv6 address is in brackets. -EINVAL with @err. */
int transport_parse_address(const char *text, struct transport_address *a, struct error *err);
/* Does the name mean this machine alone? */
bool transport_is_loopback(const struct transport_address *a);

/* ---- connecting ---- */

struct transport;
/* Connects and proves. Errors say to whom. -ETIMEDOUT, -ECANCELED, -EACCES (the proof failed), those of sockets. */
int transport_connect(struct transport **out, const struct transport_address *to, const struct transport_config *cfg,
		      struct error *err);

struct transport_listener;
/* Port 0: the system chooses one. */
int transport_listen(struct transport_listener **out, const struct transport_address *at, struct error *err);
/* Where it listens: "tcp:HOST:PORT". */
const char *transport_listener_name(const struct transport_listener *l);
/* Readable when somebody comes. */
int transport_listener_fd(const struct transport_listener *l);
/*
 * Waits at most @wait_ms (negative: for ever) for somebody and lets him prove who he is.
 * -ETIMEDOUT: nobody came; -EACCES, -EPROTO, -ECONNRESET ...: somebody came who is not taken; -ECANCELED.
 */
int transport_accept(struct transport_listener *l, struct transport **out, const struct transport_config *cfg,
		     int64_t wait_ms, struct error *err);
void transport_listener_close(struct transport_listener *l);

/* The same over a connected stream socket, which becomes the transport's whatever is returned. */
int transport_adopt(struct transport **out, int fd, bool is_server, const char *name,
		    const struct transport_config *cfg, struct error *err);
/* What was not flushed is lost. NULL is fine. */
void transport_close(struct transport *t);

/* ---- the stream ---- */

/* Both or nothing; what is written goes out when there is much of it, with a flush, or before a read that has to wait.
 */
int transport_write(struct transport *t, const void *data, size_t bytes, struct error *err);
int transport_flush(struct transport *t, struct error *err);
int transport_read(struct transport *t, void *data, size_t bytes, struct error *err);

enum { TRANSPORT_READABLE = 1, TRANSPORT_WOKEN = 2 };
/*
 * Waits at most @wait_ms (negative: for ever) until there is something to read or @wake_fd (-1: none) is readable.
 * Returns which, 0 if neither; negative errno.
 */
int transport_wait(struct transport *t, int wake_fd, int64_t wait_ms, struct error *err);

int64_t transport_now_ns(void);                         /* host time, monotonic */
int64_t transport_stall_ms(const struct transport *t);
void transport_set_rate(struct transport *t, uint64_t bytes_per_second); /* 0: no cap */
void transport_set_cancel(struct transport *t, int cancel_fd); /* -1: from now on nobody cancels */
/*
 * For a sender that keeps to the cap by itself, because some things cannot wait: writing does not wait for it any more,
 * and the function after it says how long it should, in ms.
 */
void transport_set_urgent(struct transport *t, bool urgent);
int64_t transport_owed_ms(const struct transport *t);
uint64_t transport_sent(const struct transport *t);     /* bytes of ours, without what TLS adds */
uint64_t transport_received(const struct transport *t);
const char *transport_name(const struct transport *t);  /* the other end */

/* ---- keys ---- */

/* Makes a file with a new key that only its owner may read. -EEXIST if there is such a file. */
int transport_make_key(const char *path, struct error *err);

#endif
