/* What a network card of a VM can be connected to, as its owner says it. */
#ifndef GNOMON_VM_NET_H
#define GNOMON_VM_NET_H

#include "base/error.h"
#include "dev/net_backend.h"
#include <limits.h>

enum net_kind { NET_NONE, NET_USER, NET_SOCKET, NET_TAP };

struct net_config {
	enum net_kind kind;
	char name[PATH_MAX]; /* NET_SOCKET: path, NET_TAP: interface */
	bool has_mac;
	uint8_t mac[6];
};

/* "none", "user", "socket:PATH", "tap:NAME", each with ",mac=XX:XX:XX:XX:XX:XX" if wanted. -EINVAL with @err. */
int net_parse(const char *text, struct net_config *net, struct error *err);

/*
 * Opens the back end; *@out is NULL for NET_NONE. @path: of NET_SOCKET, complete
 * Errors of the host; nothing is left open then.
 */
int net_open(struct net_backend **out, const struct net_config *net, const char *path, struct error *err);

int net_open_slirp(struct net_backend **out, struct error *err);
int net_open_socket(struct net_backend **out, const char *path, struct error *err);
int net_open_tap(struct net_backend **out, const char *name, struct error *err);

#endif
