#include "vm/migrate_wire.h"

#include <errno.h>
#include <stdio.h>

#define WORDS_A_SECTION (1u << 16) /* of a bitmap: 512 KiB, four million pages */
#define REFUSAL_MAX     300u

const char *const migrate_mode_name[MIGRATE_MODES] = {"stop", "precopy", "postcopy", "hybrid"};
const char *const migrate_phase_name[MIGRATE_PHASES] = {"connecting", "disks", "copying", "stopped", "asking",
							"pushing", "recovering", "over"};

/* ---- the link ---- */

static int link_write(void *ctx, const void *data, size_t bytes, struct error *err)
{
	return transport_write(ctx, data, bytes, err);
}

static int link_read(void *ctx, void *data, size_t bytes, struct error *err)
{
	return transport_read(ctx, data, bytes, err);
}

static struct stream_io link_io(const struct migrate_link *l)
{
	return (struct stream_io){.write = link_write, .read = link_read, .ctx = l->t};
}

int migrate_link_open(struct migrate_link *l, struct transport *t, struct error *err)
{
	struct stream_io io;

	*l = (struct migrate_link){.t = t};
	io = link_io(l);
	return stream_begin(&l->out, &io, err);
}

void migrate_link_close(struct migrate_link *l)
{
	if (l->reading)
		stream_close(&l->in);
	transport_close(l->t);
	*l = (struct migrate_link){.t = NULL};
}

int migrate_put(struct migrate_link *l, const char *name, const void *data, size_t bytes, struct error *err)
{
	return stream_put(&l->out, name, data, bytes, err);
}

int migrate_flush(struct migrate_link *l, struct error *err) { return transport_flush(l->t, err); }

int migrate_send(struct migrate_link *l, const char *name, const void *data, size_t bytes, struct error *err)
{
	int ret = migrate_put(l, name, data, bytes, err);

	return ret ? ret : migrate_flush(l, err);
}

/* The other end's words, as far as they can be printed. */
static int refused(const struct migrate_link *l, const struct stream_section *s, struct error *err)
{
	char text[REFUSAL_MAX + 1];
	size_t n = (size_t)min_u64(s->bytes, REFUSAL_MAX);

	for (size_t i = 0; i < n; i++)
		text[i] = (char)(s->data[i] >= ' ' && s->data[i] <= '~' ? s->data[i] : '?');
	text[n] = 0;
	return error_set(err, -ECONNREFUSED, "%.100s refuses: %s", transport_name(l->t), text);
}

int migrate_get(struct migrate_link *l, struct stream_section *s, struct error *err)
{
	int ret;

	if (!l->reading) {
		struct stream_io io = link_io(l);

		l->reading = true;
		ret = stream_open(&l->in, &io, transport_name(l->t), err);
		if (ret)
			return ret;
	}
	ret = stream_get(&l->in, s, err);
	if (ret < 0)
		return ret;
	if (ret == 0)
		return error_set(err, -EPROTO, "%.100s: the stream ends", transport_name(l->t));
	return strcmp(s->name, "mig.refuse") == 0 ? refused(l, s, err) : 0;
}

int migrate_unexpected(const struct migrate_link *l, const struct stream_section *s, const char *instead_of,
		       struct error *err)
{
	return error_set(err, -EPROTO, "%.100s: section %s of %zu bytes where %s should be", transport_name(l->t),
			 s->name, s->bytes, instead_of);
}

int migrate_expect(struct migrate_link *l, const char *name, size_t bytes, struct stream_section *s, struct error *err)
{
	int ret = migrate_get(l, s, err);

	if (ret)
		return ret;
	return strcmp(s->name, name) == 0 && s->bytes == bytes ? 0 : migrate_unexpected(l, s, name, err);
}

void migrate_refuse(struct migrate_link *l, const char *why)
{
	if (l->t)
		migrate_send(l, "mig.refuse", why, (size_t)min_u64(strlen(why), REFUSAL_MAX), NULL);
}

/* ---- messages ---- */

#define HELLO_BYTES   (16u + MIGRATE_TOKEN_BYTES)
#define WELCOME_BYTES 16u

static int check_version(const struct migrate_link *l, uint32_t version, struct error *err)
{
	if (version == MIGRATE_VERSION)
		return 0;
	return error_set(err, -ENOTSUP, "%.100s speaks version %u of the migration protocol, we version %u",
			 transport_name(l->t), version, MIGRATE_VERSION);
}

int migrate_put_hello(struct migrate_link *l, const struct migrate_hello *h, struct error *err)
{
	uint8_t b[HELLO_BYTES];

	put_u32(b, h->version);
	put_u32(b + 4, h->kind);
	put_u64(b + 8, h->capabilities);
	memcpy(b + 16, h->token, MIGRATE_TOKEN_BYTES);
	return migrate_send(l, "mig.hello", b, sizeof(b), err);
}

int migrate_get_hello(struct migrate_link *l, struct migrate_hello *h, struct error *err)
{
	struct stream_section s;
	int ret = migrate_expect(l, "mig.hello", HELLO_BYTES, &s, err);

	if (ret)
		return ret;
	h->version = get_u32(s.data);
	h->kind = get_u32(s.data + 4);
	h->capabilities = get_u64(s.data + 8);
	memcpy(h->token, s.data + 16, MIGRATE_TOKEN_BYTES);
	if (h->kind >= MIGRATE_HELLOS)
		return error_set(err, -EPROTO, "%.100s: a hello of unknown kind %u", transport_name(l->t), h->kind);
	return check_version(l, h->version, err);
}

int migrate_put_welcome(struct migrate_link *l, const struct migrate_welcome *w, struct error *err)
{
	uint8_t b[WELCOME_BYTES];

	put_u32(b, w->version);
	put_u32(b + 4, w->standing);
	put_u64(b + 8, w->capabilities);
	return migrate_send(l, "mig.welcome", b, sizeof(b), err);
}

int migrate_get_welcome(struct migrate_link *l, struct migrate_welcome *w, struct error *err)
{
	struct stream_section s;
	int ret = migrate_expect(l, "mig.welcome", WELCOME_BYTES, &s, err);

	if (ret)
		return ret;
	w->version = get_u32(s.data);
	w->standing = get_u32(s.data + 4);
	w->capabilities = get_u64(s.data + 8);
	if (w->standing >= MIGRATE_STANDINGS)
		return error_set(err, -EPROTO, "%.100s: a welcome of unknown kind %u", transport_name(l->t),
				 w->standing);
	return check_version(l, w->version, err);
}

int migrate_send_token(struct migrate_link *l, const char *name, const uint8_t token[MIGRATE_TOKEN_BYTES],
		       struct error *err)
{
	return migrate_send(l, name, token, MIGRATE_TOKEN_BYTES, err);
}

int migrate_expect_token(struct migrate_link *l, const char *name, const uint8_t token[MIGRATE_TOKEN_BYTES],
			 struct error *err)
{
	struct stream_section s;
	int ret = migrate_expect(l, name, MIGRATE_TOKEN_BYTES, &s, err);

	if (ret == 0 && memcmp(s.data, token, MIGRATE_TOKEN_BYTES) != 0)
		ret = error_set(err, -EPROTO, "%.100s: %s for another migration", transport_name(l->t), name);
	return ret;
}

/* ---- bitmaps ---- */

int migrate_put_bitmap(struct migrate_link *l, const char *name, const uint64_t *bitmap, uint64_t words,
		       struct error *err)
{
	uint8_t first[8];
	int ret = 0;

	for (uint64_t at = 0, n; at < words && ret == 0; at += n) {
		n = min_u64(words - at, WORDS_A_SECTION);
		put_u64(first, at);
		if (bitmap_count(bitmap + at, n))
			ret = stream_put2(&l->out, name, first, sizeof(first), bitmap + at, n * 8, err);
	}
	return ret;
}

int migrate_add_bitmap(const struct migrate_link *l, const struct stream_section *s, uint64_t *bitmap, uint64_t pages,
		       struct error *err)
{
	uint64_t words = bitmap_words(pages), at, n;

	if (s->bytes < 16 || s->bytes % 8)
		return migrate_unexpected(l, s, "words of a bitmap", err);
	at = get_u64(s->data);
	n = s->bytes / 8 - 1;
	if (at > words || n > words - at ||
	    (at + n == words && pages % 64 && get_u64(s->data + n * 8) >> (pages % 64)))
		return error_set(err, -EPROTO, "%.100s: %s beyond the end of memory", transport_name(l->t), s->name);
	for (uint64_t i = 0; i < n; i++)
		bitmap[at + i] |= get_u64(s->data + 8 + i * 8);
	return 0;
}
