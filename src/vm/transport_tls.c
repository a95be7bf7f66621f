/*
 * TLS 1.3 under a transport, by GnuTLS. Both ends prove who they are: by a key that both have, mixed with ephemeral
 * Diffie-Hellman, or by certificates, of which the accepting end insists on one, too. A handshake without that proof
 * fails, and its owner never gets a transport. No tickets, no resumption, no early data, no older version.
 */
#include "vm/transport_impl.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <stdlib.h>

/*
 * AES first: processors help with it. (A key of 128 bits, because a pre-shared key goes with SHA-256, and so with that
 * or ChaCha20 only.)
 */
#define PRIORITY_BOTH "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
#define PRIORITY_PSK  PRIORITY_BOTH ":-KX-ALL:+ECDHE-PSK:+DHE-PSK"
#define PRIORITY_X509 PRIORITY_BOTH

struct tls {
	gnutls_session_t session;
	gnutls_psk_client_credentials_t psk_client;
	gnutls_psk_server_credentials_t psk_server;
	gnutls_certificate_credentials_t certificate;
	gnutls_typed_vdata_st expected[2]; /* what the other end's certificate has to say */
	uint8_t key[TRANSPORT_KEY_BYTES];
	bool up;                           /* the handshake is complete */
};

/* ---- making it ---- */

static int no_memory(struct transport *t, struct error *err)
{
	return transport_fail(t, -ENOMEM, err, "TLS: out of memory");
}

static int give_key(gnutls_session_t session, const char *user, gnutls_datum_t *key)
{
	const struct tls *tls = gnutls_session_get_ptr(session);

	if (strcmp(user, TRANSPORT_KEY_USER) != 0)
		return -1;
	key->data = gnutls_malloc(sizeof(tls->key));
	if (!key->data)
		return -1;
	memcpy(key->data, tls->key, sizeof(tls->key));
	key->size = sizeof(tls->key);
	return 0;
}

static int set_psk(struct transport *t, const struct transport_config *cfg, struct error *err)
{
	struct tls *tls = t->tls;
	gnutls_datum_t key = {tls->key, sizeof(tls->key)};
	int ret = transport_read_key(cfg->psk_file, tls->key, err);

	if (ret)
		return ret;
	if (gnutls_priority_set_direct(tls->session, PRIORITY_PSK, NULL))
		return transport_fail(t, -ENOTSUP, err, "TLS: this GnuTLS lacks what is needed");
	if (t->is_server) {
		if (gnutls_psk_allocate_server_credentials(&tls->psk_server))
			return no_memory(t, err);
		gnutls_psk_set_server_credentials_function(tls->psk_server, give_key);
		ret = gnutls_credentials_set(tls->session, GNUTLS_CRD_PSK, tls->psk_server);
	} else {
		if (gnutls_psk_allocate_client_credentials(&tls->psk_client) ||
		    gnutls_psk_set_client_credentials(tls->psk_client, TRANSPORT_KEY_USER, &key, GNUTLS_PSK_KEY_RAW))
			return no_memory(t, err);
		ret = gnutls_credentials_set(tls->session, GNUTLS_CRD_PSK, tls->psk_client);
	}
	return ret ? no_memory(t, err) : 0;
}

static int load_certificates(gnutls_certificate_credentials_t c, const struct transport_config *cfg, struct error *err)
{
	int n = gnutls_certificate_set_x509_trust_file(c, cfg->ca_file, GNUTLS_X509_FMT_PEM);

	if (n <= 0)
		return error_set(err, -EINVAL, "'%.300s': no certificate of a CA: %s", cfg->ca_file,
				 n ? gnutls_strerror(n) : "the file has none");
	n = gnutls_certificate_set_x509_key_file(c, cfg->cert_file, cfg->cert_key, GNUTLS_X509_FMT_PEM);
	if (n < 0)
		return error_set(err, -EINVAL, "'%.200s', '%.200s': no certificate with its key: %s", cfg->cert_file,
				 cfg->cert_key, gnutls_strerror(n));
	return 0;
}

/* A certificate for the right kind of end, and with the right name if one is known. */
static void expect(struct transport *t, const char *name)
{
	struct tls *tls = t->tls;
	unsigned n = 0;

	/* Without a length GnuTLS takes the string's own. */
	tls->expected[n++] =
		(gnutls_typed_vdata_st){.type = GNUTLS_DT_KEY_PURPOSE_OID,
					.data = (unsigned char *)(uintptr_t)(t->is_server ? GNUTLS_KP_TLS_WWW_CLIENT
											  : GNUTLS_KP_TLS_WWW_SERVER)};
	if (name)
		tls->expected[n++] = (gnutls_typed_vdata_st){.type = GNUTLS_DT_DNS_HOSTNAME,
							     .data = (unsigned char *)(uintptr_t)name};
	gnutls_session_set_verify_cert2(tls->session, tls->expected, n, 0);
}

static int set_x509(struct transport *t, const struct transport_config *cfg, const char *host, struct error *err)
{
	struct tls *tls = t->tls;
	int ret;

	if (gnutls_certificate_allocate_credentials(&tls->certificate))
		return no_memory(t, err);
	ret = load_certificates(tls->certificate, cfg, err);
	if (ret)
		return ret;
	if (gnutls_priority_set_direct(tls->session, PRIORITY_X509, NULL) ||
	    gnutls_credentials_set(tls->session, GNUTLS_CRD_CERTIFICATE, tls->certificate))
		return transport_fail(t, -ENOTSUP, err, "TLS: this GnuTLS lacks what is needed");
	if (t->is_server)
		gnutls_certificate_server_set_request(tls->session, GNUTLS_CERT_REQUIRE);
	expect(t, t->is_server ? cfg->peer_name : host);
	return 0;
}

int transport_check(const struct transport_config *cfg, struct error *err)
{
	gnutls_certificate_credentials_t c;
	uint8_t key[TRANSPORT_KEY_BYTES];
	int ret = 0;

	if (cfg->security == TRANSPORT_PSK) {
		ret = transport_read_key(cfg->psk_file, key, err);
		explicit_bzero(key, sizeof(key));
	} else if (cfg->security == TRANSPORT_X509) {
		if (gnutls_certificate_allocate_credentials(&c))
			return error_set(err, -ENOMEM, "TLS: out of memory");
		ret = load_certificates(c, cfg, err);
		gnutls_certificate_free_credentials(c);
	}
	return ret;
}

static int make(struct transport *t, const struct transport_config *cfg, const char *host, struct error *err)
{
	const unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;

	t->tls = calloc(1, sizeof(*t->tls));
	if (!t->tls)
		return no_memory(t, err);
	if (gnutls_init(&t->tls->session, flags | (t->is_server ? GNUTLS_SERVER : GNUTLS_CLIENT)))
		return no_memory(t, err);
	gnutls_session_set_ptr(t->tls->session, t->tls);
	gnutls_transport_set_int(t->tls->session, t->fd);
	return cfg->security == TRANSPORT_PSK ? set_psk(t, cfg, err) : set_x509(t, cfg, host, err);
}

void tls_end(struct tls *tls)
{
	if (!tls)
		return;
	if (tls->session) {
		if (tls->up)
			gnutls_bye(tls->session, GNUTLS_SHUT_WR); /* if there is room for it */
		gnutls_deinit(tls->session);
	}
	if (tls->psk_client)
		gnutls_psk_free_client_credentials(tls->psk_client);
	if (tls->psk_server)
		gnutls_psk_free_server_credentials(tls->psk_server);
	if (tls->certificate)
		gnutls_certificate_free_credentials(tls->certificate);
	explicit_bzero(tls->key, sizeof(tls->key));
	free(tls);
}

/* ---- the handshake ---- */

static short direction(const struct tls *tls)
{
	return gnutls_record_get_direction(tls->session) ? POLLOUT : POLLIN;
}

static bool try_again(int code) { return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED; }

/* Why the other end was not taken, or did not take us. */
static int refused(struct transport *t, int code, struct error *err)
{
	gnutls_datum_t why = {0};
	gnutls_session_t s = t->tls->session;
	int ret;

	switch (code) {
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return transport_fail(t, -EACCES, err,
				      "the other end refuses us (%s): is it the same key, or the same CA?",
				      gnutls_alert_get_name(gnutls_alert_get(s)));
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
		gnutls_certificate_verification_status_print(gnutls_session_get_verify_cert_status(s), GNUTLS_CRT_X509,
							     &why, 0);
		ret = transport_fail(t, -EACCES, err, "the other end's certificate is refused: %.300s",
				     why.data ? (const char *)why.data : "");
		gnutls_free(why.data);
		return ret;
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		return transport_fail(t, -ECONNRESET, err, "the connection ended during the TLS handshake");
	case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_RECORD_OVERFLOW:
		return transport_fail(t, -EPROTO, err, "the other end does not speak TLS 1.3");
	default:
		return transport_fail(t, -EACCES, err, "the other end has not proved who it is: %s",
				      gnutls_strerror(code));
	}
}

/* What the handshake ended with, independently of what was asked for. */
static int check_proof(struct transport *t, const struct transport_config *cfg, struct error *err)
{
	gnutls_session_t s = t->tls->session;
	gnutls_kx_algorithm_t kx = gnutls_kx_get(s);
	unsigned certificates = 0;

	if (gnutls_protocol_get_version(s) != GNUTLS_TLS1_3)
		return transport_fail(t, -EPROTO, err, "the other end does not speak TLS 1.3");
	if (cfg->security == TRANSPORT_PSK) {
		if (kx == GNUTLS_KX_ECDHE_PSK || kx == GNUTLS_KX_DHE_PSK)
			return 0;
	} else if (gnutls_certificate_get_peers(s, &certificates) && certificates &&
		   gnutls_session_get_verify_cert_status(s) == 0) {
		return 0;
	}
	return transport_fail(t, -EACCES, err, "the other end has not proved who it is");
}

static int shake_hands(struct transport *t, int64_t until_ns, struct error *err)
{
	for (;;) {
		int code = gnutls_handshake(t->tls->session), ret;

		if (code == GNUTLS_E_SUCCESS)
			return 0;
		if (!try_again(code)) {
			if (!gnutls_error_is_fatal(code))
				continue;
			gnutls_alert_send_appropriate(t->tls->session, code);
			return refused(t, code, err);
		}
		ret = transport_wait_socket(t, direction(t->tls), until_ns, err);
		if (ret == -ETIMEDOUT)
			return transport_fail(t, ret, err, "no TLS handshake in time");
		if (ret)
			return ret;
	}
}

int tls_start(struct transport *t, const struct transport_config *cfg, const char *host, int64_t until_ns,
	      struct error *err)
{
	int ret = make(t, cfg, host, err);

	if (ret == 0)
		ret = shake_hands(t, until_ns, err);
	if (ret == 0)
		ret = check_proof(t, cfg, err);
	if (ret == 0)
		t->tls->up = true;
	return ret;
}

/* ---- data ---- */

ssize_t tls_send(struct transport *t, const void *data, size_t bytes, short *events, struct error *err)
{
	/* After GNUTLS_E_AGAIN the same call has to be made again; the transport does so. */
	ssize_t n = gnutls_record_send(t->tls->session, data, bytes);

	if (n >= 0)
		return n;
	*events = direction(t->tls);
	if (try_again((int)n))
		return -EAGAIN;
	return transport_fail(t, -ECONNRESET, err, "sending: %s", gnutls_strerror((int)n));
}

ssize_t tls_receive(struct transport *t, void *data, size_t bytes, short *events, struct error *err)
{
	ssize_t n = gnutls_record_recv(t->tls->session, data, bytes);

	if (n >= 0)
		return n;
	*events = direction(t->tls);
	if (try_again((int)n))
		return -EAGAIN;
	if (n == GNUTLS_E_FATAL_ALERT_RECEIVED)
		return refused(t, (int)n, err);
	if (!gnutls_error_is_fatal((int)n) && n != GNUTLS_E_PREMATURE_TERMINATION)
		return -EAGAIN;
	if (n == GNUTLS_E_PREMATURE_TERMINATION)
		return transport_fail(t, -ECONNRESET, err, "the connection was closed at the other end");
	return transport_fail(t, n == GNUTLS_E_PULL_ERROR ? -ECONNRESET : -EPROTO, err, "receiving: %s",
			      gnutls_strerror((int)n));
}

bool tls_has_pending(const struct tls *tls) { return gnutls_record_check_pending(tls->session) > 0; }
