/* See net.h. */
#include "vm/net.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>

static int parse_mac(const char *text, struct net_config *net, struct error *err)
{
	unsigned b[6];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != 6 || text[end])
		return error_set(err, -EINVAL, "--net: mac '%.40s': wanted is XX:XX:XX:XX:XX:XX", text);
	for (unsigned i = 0; i < 6; i++)
		net->mac[i] = (uint8_t)b[i];
	if (net->mac[0] & 1)
		return error_set(err, -EINVAL, "--net: mac '%.40s': that is a group address", text);
	net->has_mac = true;
	return 0;
}

/* @bytes of text: what a card is connected to. */
static int parse_kind(const char *text, size_t bytes, struct net_config *net, struct error *err)
{
	static const struct { const char *word; enum net_kind kind; } kinds[] = {
		{"none", NET_NONE}, {"user", NET_USER}, {"socket:", NET_SOCKET}, {"tap:", NET_TAP},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t n = strlen(kinds[i].word), room = kinds[i].kind == NET_TAP ? IFNAMSIZ : sizeof(net->name);
		bool named = kinds[i].word[n - 1] == ':';

		if (bytes < n || memcmp(text, kinds[i].word, n) != 0 || (named ? bytes == n : bytes > n))
			continue;
		if (bytes - n >= room)
			return error_set(err, -EINVAL, "--net '%.*s': the name is too long",
					 (int)min_u64(bytes, 100), text);
		net->kind = kinds[i].kind;
		memcpy(net->name, text + n, bytes - n);
		return 0;
	}
	return error_set(err, -EINVAL, "--net '%.*s': one of user, socket:PATH, tap:NAME, none",
			 (int)min_u64(bytes, 100), text);
}

int net_parse(const char *text, struct net_config *net, struct error *err)
{
	const char *comma = strrchr(text, ',');
	size_t bytes = comma ? (size_t)(comma - text) : strlen(text);
	int ret;

	memset(net, 0, sizeof(*net));
	ret = parse_kind(text, bytes, net, err);
	if (ret || !comma)
		return ret;
	if (strncmp(comma, ",mac=", 5) != 0)
		return error_set(err, -EINVAL, "--net: '%.100s': after what it is connected to comes mac=...",
				 comma + 1);
	return parse_mac(comma + 5, net, err);
}

int net_open(struct net_backend **out, const struct net_config *net, const char *path, struct error *err)
{
	*out = NULL;
	switch (net->kind) {
	case NET_USER:
		return net_open_slirp(out, err);
	case NET_SOCKET:
		return net_open_socket(out, path, err);
	case NET_TAP:
		return net_open_tap(out, net->name, err);
	case NET_NONE:
		break;
	}
	return 0;
}
