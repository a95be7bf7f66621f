/* The options of both ends of a migration that say who the other end has to be, and when it counts as lost. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>

static int set_psk(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct transport_options *)ctx)->psk = v;
	return 0;
}

static int set_ca(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct transport_options *)ctx)->ca = v;
	return 0;
}

static int set_cert(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct transport_options *)ctx)->cert = v;
	return 0;
}

static int set_key(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct transport_options *)ctx)->key = v;
	return 0;
}

static int set_name(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct transport_options *)ctx)->name = v;
	return 0;
}

static int set_plain(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct transport_options *)ctx)->plain = true;
	return 0;
}

static int parse_seconds(const char *name, const char *v, uint64_t *ms, struct error *err)
{
	char *end;
	double s = strtod(v, &end);

	if (end == v || *end || !(s >= 0.1 && s <= 86400))
		return error_set(err, -EINVAL, "--%s '%s': seconds, from 0.1 to 86400", name, v);
	*ms = (uint64_t)(s * 1000);
	return 0;
}

static int set_stall(void *ctx, const char *v, struct error *err)
{
	return parse_seconds("stall", v, &((struct transport_options *)ctx)->stall_ms, err);
}

static int set_patience(void *ctx, const char *v, struct error *err)
{
	return parse_seconds("patience", v, &((struct transport_options *)ctx)->recover_ms, err);
}

const struct option_desc transport_options[] = {
	{"tls-psk", "FILE", "TLS by a key that both ends have (gnomon migrate --make-key FILE)", set_psk},
	{"tls-ca", "FILE", "TLS by certificates: of the CA that vouches for the other end,", set_ca},
	{"tls-cert", "FILE", "... our certificate,", set_cert},
	{"tls-key", "FILE", "... and its key (PEM all)", set_key},
	{"tls-name", "NAME", "the name in the other end's certificate", set_name},
	{"plain", NULL, "no TLS, even if the other end is not on this machine: whoever is on the way can read and\n"
			"change the VM", set_plain},
	{"stall", "S", "a connection on which nothing moves for S seconds is lost (default 15)", set_stall},
	{"patience", "S", "a lost connection is tried to be made again for S seconds (default 60)", set_patience},
	{0},
};
