/* Certificates for tests, made on the spot: a CA, and what it vouches for. */
#ifndef GNOMON_TEST_PKI_H
#define GNOMON_TEST_PKI_H

#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct pki_end {
	gnutls_x509_crt_t crt;
	gnutls_x509_privkey_t key;
};

static inline void pki_write(const char *path, const gnutls_datum_t *text)
{
	FILE *f = fopen(path, "w");

	if (!f || fwrite(text->data, text->size, 1, f) != 1 || fclose(f))
		abort();
	gnutls_free(text->data);
}

/* Signed by @ca, or by itself if that is NULL. */
static inline void pki_make(struct pki_end *e, const char *name, const struct pki_end *ca)
{
	static unsigned char serial;

	serial++;
	gnutls_x509_crt_init(&e->crt);
	gnutls_x509_privkey_init(&e->key);
	gnutls_x509_privkey_generate(e->key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	gnutls_x509_crt_set_version(e->crt, 3);
	gnutls_x509_crt_set_serial(e->crt, &serial, 1);
	gnutls_x509_crt_set_activation_time(e->crt, time(NULL) - 3600);
	gnutls_x509_crt_set_expiration_time(e->crt, time(NULL) + 3600);
	gnutls_x509_crt_set_dn_by_oid(e->crt, GNUTLS_OID_X520_COMMON_NAME, 0, name, (unsigned)__builtin_strlen(name));
	gnutls_x509_crt_set_key(e->crt, e->key);
	gnutls_x509_crt_set_basic_constraints(e->crt, !ca, -1);
	if (ca)
		gnutls_x509_crt_set_subject_alt_name(e->crt, GNUTLS_SAN_DNSNAME, name, (unsigned)__builtin_strlen(name),
						     GNUTLS_FSAN_SET);
	if (gnutls_x509_crt_sign2(e->crt, ca ? ca->crt : e->crt, ca ? ca->key : e->key, GNUTLS_DIG_SHA256, 0))
		abort();
}

/* @key_path may be NULL. */
static inline void pki_save(const struct pki_end *e, const char *crt_path, const char *key_path)
{
	gnutls_datum_t text;

	if (gnutls_x509_crt_export2(e->crt, GNUTLS_X509_FMT_PEM, &text))
		abort();
	pki_write(crt_path, &text);
	if (!key_path)
		return;
	if (gnutls_x509_privkey_export2(e->key, GNUTLS_X509_FMT_PEM, &text))
		abort();
	pki_write(key_path, &text);
}

static inline void pki_free(struct pki_end *e)
{
	gnutls_x509_crt_deinit(e->crt);
	gnutls_x509_privkey_deinit(e->key);
}

#endif
