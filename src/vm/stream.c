#include "vm/stream.h"

#include <errno.h>
#include <stdlib.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#ifdef HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h> /* by the widest vectors that the host has */
#endif

static const char magic[8] = {'G', 'N', 'O', 'M', 'O', 'N', 'S', 'T'};

#define HEAD_BYTES_MAX (1 + STREAM_NAME_MAX + 8)

/* ---- writing ---- */

static int put(struct stream_writer *w, const void *data, size_t bytes, struct error *err)
{
	int r = bytes ? w->io.write(w->io.ctx, data, bytes, err) : 0;

	if (!r)
		w->at += bytes;
	return r;
}

int stream_begin(struct stream_writer *w, const struct stream_io *io, struct error *err)
{
	uint8_t header[STREAM_HEADER_BYTES];

	*w = (struct stream_writer){.io = *io};
	memcpy(header, magic, sizeof(magic));
	put_u32(header + sizeof(magic), STREAM_VERSION);
	return put(w, header, sizeof(header), err);
}

int stream_put2(struct stream_writer *w, const char *name, const void *data, size_t bytes, const void *more,
		size_t more_bytes, struct error *err)
{
	uint8_t head[HEAD_BYTES_MAX], sum[8];
	size_t name_bytes = strlen(name), n = 1 + name_bytes + 8;
	XXH3_state_t h;
	int r;

	if (!name_bytes || name_bytes > STREAM_NAME_MAX || bytes > STREAM_SECTION_MAX ||
	    more_bytes > STREAM_SECTION_MAX - bytes)
		return error_set(err, -EFBIG, "section %.64s of %zu bytes is too large for a stream", name,
				 bytes + more_bytes);
	head[0] = (uint8_t)name_bytes;
	memcpy(head + 1, name, name_bytes);
	put_u64(head + 1 + name_bytes, bytes + more_bytes);
	XXH3_64bits_reset(&h);
	XXH3_64bits_update(&h, head, n);
	if (bytes)
		XXH3_64bits_update(&h, data, bytes);
	if (more_bytes)
		XXH3_64bits_update(&h, more, more_bytes);
	put_u64(sum, XXH3_64bits_digest(&h));
	r = put(w, head, n, err);
	if (!r)
		r = put(w, data, bytes, err);
	if (!r)
		r = put(w, more, more_bytes, err);
	if (!r)
		r = put(w, sum, sizeof(sum), err);
	if (!r)
		w->sections++;
	return r;
}

int stream_put(struct stream_writer *w, const char *name, const void *data, size_t bytes, struct error *err)
{
	return stream_put2(w, name, data, bytes, NULL, 0, err);
}

int stream_end(struct stream_writer *w, struct error *err)
{
	uint8_t count[8];

	put_u64(count, w->sections);
	return stream_put(w, "end", count, sizeof(count), err);
}

/* ---- reading ---- */

static int get(struct stream_reader *r, void *data, size_t bytes, struct error *err)
{
	int ret = bytes ? r->io.read(r->io.ctx, data, bytes, err) : 0;

	if (!ret)
		r->at += bytes;
	return ret;
}

int stream_open(struct stream_reader *r, const struct stream_io *io, const char *what, struct error *err)
{
	uint8_t header[STREAM_HEADER_BYTES];
	int ret;

	*r = (struct stream_reader){.io = *io, .what = what};
	ret = get(r, header, sizeof(header), err);
	if (ret)
		return ret;
	if (memcmp(header, magic, sizeof(magic)))
		return error_set(err, -EINVAL, "%s: this is not the state of a VM", what);
	if (get_u32(header + sizeof(magic)) != STREAM_VERSION)
		return error_set(err, -ENOTSUP, "%s: state of version %u; version %d is supported", what,
				 get_u32(header + sizeof(magic)), STREAM_VERSION);
	return 0;
}

/* Names are printed: they are of letters that are safe to print. */
static bool name_is_good(const char *name, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	return bytes;
}

int stream_get_head(struct stream_reader *r, struct stream_head *head, struct error *err)
{
	uint8_t raw[HEAD_BYTES_MAX];
	uint64_t at = r->at;
	int ret = get(r, raw, 1, err);
	size_t n = raw[0];

	if (ret)
		return ret;
	if (!n || n > STREAM_NAME_MAX)
		return error_set(err, -EBADMSG, "%s: no section begins at byte %llu", r->what, (unsigned long long)at);
	ret = get(r, raw + 1, n + 8, err);
	if (ret)
		return ret;
	memset(head->name, 0, sizeof(head->name));
	memcpy(head->name, raw + 1, n);
	head->bytes = get_u64(raw + 1 + n);
	if (!name_is_good(head->name, n))
		return error_set(err, -EBADMSG, "%s: no section begins at byte %llu", r->what, (unsigned long long)at);
	if (head->bytes > STREAM_SECTION_MAX)
		return error_set(err, -EFBIG, "%s: section %s at byte %llu claims %llu bytes", r->what, head->name,
				 (unsigned long long)at, (unsigned long long)head->bytes);
	return 1;
}

static int make_room(struct stream_reader *r, size_t bytes, struct error *err)
{
	uint8_t *data;

	if (bytes <= r->room)
		return 0;
	data = realloc(r->data, bytes);
	if (!data)
		return error_set(err, -ENOMEM, "%s: out of memory", r->what);
	r->data = data;
	r->room = bytes;
	return 0;
}

static uint64_t hash_section(const struct stream_head *head, const uint8_t *data)
{
	uint8_t raw[HEAD_BYTES_MAX];
	size_t n = strlen(head->name);
	XXH3_state_t h;

	raw[0] = (uint8_t)n;
	memcpy(raw + 1, head->name, n);
	put_u64(raw + 1 + n, head->bytes);
	XXH3_64bits_reset(&h);
	XXH3_64bits_update(&h, raw, 1 + n + 8);
	if (head->bytes)
		XXH3_64bits_update(&h, data, head->bytes);
	return XXH3_64bits_digest(&h);
}

static int check_end(const struct stream_reader *r, const struct stream_section *s, struct error *err)
{
	if (s->bytes != 8 || get_u64(s->data) != r->sections)
		return error_set(err, -EBADMSG, "%s: the end is not that of a state of %llu sections", r->what,
				 (unsigned long long)r->sections);
	return 0;
}

int stream_get_payload(struct stream_reader *r, const struct stream_head *head, struct stream_section *section,
		       struct error *err)
{
	uint8_t sum[8];
	int ret = make_room(r, head->bytes, err);

	if (!ret)
		ret = get(r, r->data, head->bytes, err);
	if (!ret)
		ret = get(r, sum, sizeof(sum), err);
	if (ret)
		return ret;
	if (get_u64(sum) != hash_section(head, r->data))
		return error_set(err, -EBADMSG, "%s: section %s is damaged (its checksum is wrong)", r->what, head->name);
	memcpy(section->name, head->name, sizeof(section->name));
	section->data = r->data;
	section->bytes = head->bytes;
	if (!strcmp(head->name, "end"))
		return check_end(r, section, err);
	r->sections++;
	return 1;
}

int stream_get(struct stream_reader *r, struct stream_section *section, struct error *err)
{
	struct stream_head head;
	int ret = stream_get_head(r, &head, err);

	return ret < 0 ? ret : stream_get_payload(r, &head, section, err);
}

void stream_close(struct stream_reader *r)
{
	free(r->data);
	r->data = NULL;
	r->room = 0;
}
