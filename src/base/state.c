/*
 * Structs as self-describing bytes and back: see state.h. The encoding is in docs/FORMATS.md.
 *
 * Left out: reading what another version of a table wrote.
 */
#include "base/state.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define KIND_ARRAY 0x80u
#define FIELDS_MAX 128u

static const char *const kind_name[STATE_KINDS] = {
	[STATE_UINT] = "number", [STATE_BOOL] = "boolean", [STATE_BYTES] = "bytes", [STATE_STRUCT] = "struct",
};

/* ---- numbers of 1 to 8 bytes, in the struct and in the payload alike ---- */

static uint64_t read_uint(const void *p, size_t size)
{
	uint64_t v = 0;

	memcpy(&v, p, size); /* of hosts there are only little-endian ones here */
	return v;
}

static void write_uint(void *p, size_t size, uint64_t v) { memcpy(p, &v, size); }

/* How many elements of the array are used. */
static uint64_t used_count(const struct state_field *f, const uint8_t *object)
{
	return f->used_size ? read_uint(object + f->used, f->used_size) : f->count;
}

/* ---- saving ---- */

void state_buffer_free(struct state_buffer *b)
{
	free(b->data);
	*b = (struct state_buffer){0};
}

static int put(struct state_buffer *b, const void *data, size_t n, struct error *err)
{
	if (b->room - b->bytes < n) {
		size_t room = max_u64(2 * b->room, b->bytes + n + 256);
		uint8_t *grown = realloc(b->data, room);

		if (!grown)
			return error_set(err, -ENOMEM, "saving state: out of memory");
		b->data = grown;
		b->room = room;
	}
	memcpy(b->data + b->bytes, data, n);
	b->bytes += n;
	return 0;
}

static int put_uint(struct state_buffer *b, size_t size, uint64_t v, struct error *err)
{
	return put(b, &v, size, err);
}

static int put_name(struct state_buffer *b, const char *name, struct error *err)
{
	size_t n = strlen(name);
	int ret;

	assert(n && n <= STATE_NAME_MAX);
	ret = put_uint(b, 1, n, err);
	return ret ? ret : put(b, name, n, err);
}

static int save_struct(const struct state_desc *d, uint8_t *object, struct state_buffer *b, struct error *err);

static int save_values(const struct state_field *f, uint8_t *object, uint64_t n, struct state_buffer *b,
		       struct error *err)
{
	int ret = 0;

	if (f->kind != STATE_STRUCT)
		return put(b, object + f->offset, n * f->size, err);
	for (uint64_t i = 0; i < n && !ret; i++)
		ret = save_struct(f->sub, object + f->offset + i * f->size, b, err);
	return ret;
}

static int save_field(const struct state_desc *d, const struct state_field *f, uint8_t *object, struct state_buffer *b,
		      struct error *err)
{
	uint64_t n = used_count(f, object);
	int ret;

	if (n > f->count)
		return error_set(err, -EOVERFLOW, "state of %s: %s has %" PRIu64 " elements, there is room for %u", d->name,
				 f->name, n, f->count);
	ret = put_name(b, f->name, err);
	if (!ret)
		ret = put_uint(b, 1, f->kind | (f->array ? KIND_ARRAY : 0), err);
	if (!ret)
		ret = put_uint(b, 1, f->kind == STATE_STRUCT ? 0 : f->size, err);
	if (!ret)
		ret = put_uint(b, 4, n, err);
	return ret ? ret : save_values(f, object, n, b, err);
}

static int save_struct(const struct state_desc *d, uint8_t *object, struct state_buffer *b, struct error *err)
{
	int ret;

	if (d->prepare)
		d->prepare(object);
	ret = put_name(b, d->name, err);
	if (!ret)
		ret = put_uint(b, 2, d->version, err);
	if (!ret)
		ret = put_uint(b, 2, d->fields, err);
	for (unsigned i = 0; i < d->fields && !ret; i++)
		ret = save_field(d, &d->field[i], object, b, err);
	return ret;
}

int state_save(const struct state_desc *desc, void *object, struct state_buffer *out, struct error *err)
{
	return save_struct(desc, object, out, err);
}

int state_give(const struct state_sink *sink, const struct state_object *o, struct error *err)
{
	struct state_buffer b = {0};
	int ret = state_save(o->desc, o->object, &b, err);

	if (!ret)
		ret = sink->section(sink->ctx, o->name, b.data, b.bytes, err);
	state_buffer_free(&b);
	return ret;
}

/* ---- reading ---- */

struct cursor {
	const uint8_t *at, *end;
	const char *what; /* the struct, for messages */
	struct error *err;
};

static const uint8_t *take(struct cursor *c, size_t n)
{
	const uint8_t *p = c->at;

	if ((size_t)(c->end - c->at) < n)
		return NULL;
	c->at += n;
	return p;
}

static int cut_short(const struct cursor *c)
{
	return error_set(c->err, -EINVAL, "state of %s: it ends in the middle", c->what);
}

static int take_uint(struct cursor *c, size_t size, uint64_t *v)
{
	const uint8_t *p = take(c, size);

	*v = p ? read_uint(p, size) : 0;
	return p ? 0 : cut_short(c);
}

/* Names are for messages, too: printable, and nothing but a name. */
static int take_name(struct cursor *c, char name[STATE_NAME_MAX + 1])
{
	const uint8_t *p;
	uint64_t n;

	if (take_uint(c, 1, &n))
		return -EINVAL;
	if (!n || n > STATE_NAME_MAX)
		return error_set(c->err, -EINVAL, "state of %s: a name of %u bytes", c->what, (unsigned)n);
	p = take(c, n);
	if (!p)
		return cut_short(c);
	for (unsigned i = 0; i < n; i++)
		if (p[i] <= ' ' || p[i] > '~')
			return error_set(c->err, -EINVAL, "state of %s: a name that is none", c->what);
	memcpy(name, p, n);
	name[n] = 0;
	return 0;
}

/* What precedes the values of a field. */
struct head {
	char name[STATE_NAME_MAX + 1];
	unsigned kind; /* known */
	bool array;
	size_t size;
	uint64_t count;
};

static bool size_possible(unsigned kind, size_t size)
{
	switch (kind) {
	case STATE_UINT:
		return size == 1 || size == 2 || size == 4 || size == 8;
	case STATE_STRUCT:
		return size == 0;
	default:
		return size == 1;
	}
}

static int take_head(struct cursor *c, struct head *h)
{
	uint64_t kind, size;

	if (take_name(c, h->name) || take_uint(c, 1, &kind) || take_uint(c, 1, &size) || take_uint(c, 4, &h->count))
		return -EINVAL;
	h->array = kind & KIND_ARRAY;
	h->kind = kind & (KIND_ARRAY - 1u);
	h->size = size;
	if (h->kind >= STATE_KINDS || !size_possible(h->kind, size) || (!h->array && h->count != 1))
		return error_set(c->err, -EINVAL, "state of %s: field '%s' is of no known kind", c->what, h->name);
	if (size && h->count > (uint64_t)(c->end - c->at) / size)
		return cut_short(c);
	return 0;
}

/* ---- loading ---- */

static int load_struct(const struct state_desc *d, uint8_t *object, struct cursor *c);

static int refuse(const struct cursor *c, const struct state_field *f, const char *why)
{
	return error_set(c->err, -EINVAL, "state of %s: field '%s' %s", c->what, f->name, why);
}

static int load_uints(const struct state_field *f, uint8_t *to, uint64_t n, struct cursor *c)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t v;

		if (take_uint(c, f->size, &v))
			return -EINVAL;
		if (v > f->max)
			return error_set(c->err, -EINVAL, "state of %s: field '%s' is %" PRIu64 ", at most %" PRIu64
					 " is possible", c->what, f->name, v, f->max);
		write_uint(to + i * f->size, f->size, v);
	}
	return 0;
}

static int load_bools(const struct state_field *f, uint8_t *to, uint64_t n, struct cursor *c)
{
	const uint8_t *p = take(c, n);

	if (!p)
		return cut_short(c);
	for (uint64_t i = 0; i < n; i++) {
		bool b = p[i];

		if (p[i] > 1)
			return refuse(c, f, "is neither true nor false");
		memcpy(to + i, &b, sizeof(b));
	}
	return 0;
}

static int load_values(const struct state_field *f, uint8_t *to, uint64_t n, struct cursor *c)
{
	const uint8_t *p;
	int ret = 0;

	switch (f->kind) {
	case STATE_UINT:
		return load_uints(f, to, n, c);
	case STATE_BOOL:
		return load_bools(f, to, n, c);
	case STATE_STRUCT:
		for (uint64_t i = 0; i < n && !ret; i++)
			ret = load_struct(f->sub, to + i * f->size, c);
		return ret;
	default:
		p = take(c, n);
		if (!p)
			return cut_short(c);
		memcpy(to, p, n);
		return 0;
	}
}

static int load_field(const struct state_field *f, const struct head *h, uint8_t *object, struct cursor *c)
{
	size_t size = f->kind == STATE_STRUCT ? 0 : f->size;

	if (h->kind != f->kind || h->array != f->array || h->size != size) {
		return error_set(c->err, -EINVAL, "state of %s: field '%s' is %s of %zu bytes, not %s of %zu", c->what,
				 f->name, kind_name[h->kind], h->size, kind_name[f->kind], size);
	}
	if (f->used_size ? h->count > f->count : h->count != f->count)
		return error_set(c->err, -EINVAL, "state of %s: field '%s' has %" PRIu64 " elements, not %u", c->what,
				 f->name, h->count, f->count);
	if (f->used_size) {
		write_uint(object + f->used, f->used_size, h->count);
		memset(object + f->offset, 0, f->size * f->count);
	}
	return load_values(f, object + f->offset, h->count, c);
}

static const struct state_field *find_field(const struct state_desc *d, const char *name)
{
	for (unsigned i = 0; i < d->fields; i++)
		if (strcmp(d->field[i].name, name) == 0)
			return &d->field[i];
	return NULL;
}

static int load_fields(const struct state_desc *d, uint8_t *object, uint64_t fields, struct cursor *c)
{
	bool seen[FIELDS_MAX] = {false};

	assert(d->fields <= FIELDS_MAX);
	for (uint64_t i = 0; i < fields; i++) {
		const struct state_field *f;
		struct head h;

		if (take_head(c, &h))
			return -EINVAL;
		f = find_field(d, h.name);
		if (!f)
			return error_set(c->err, -EINVAL, "state of %s: there is no field '%s'", d->name, h.name);
		if (seen[f - d->field])
			return refuse(c, f, "is there twice");
		seen[f - d->field] = true;
		if (load_field(f, &h, object, c))
			return -EINVAL;
		c->what = d->name;
	}
	for (unsigned i = 0; i < d->fields; i++)
		if (!seen[i])
			return refuse(c, &d->field[i], "is missing");
	return 0;
}

static int load_struct(const struct state_desc *d, uint8_t *object, struct cursor *c)
{
	char name[STATE_NAME_MAX + 1];
	uint64_t version, fields;

	c->what = d->name;
	if (take_name(c, name) || take_uint(c, 2, &version) || take_uint(c, 2, &fields))
		return -EINVAL;
	if (strcmp(name, d->name) != 0)
		return error_set(c->err, -EINVAL, "state of %s: it is that of '%s'", d->name, name);
	if (version != d->version)
		return error_set(c->err, -EINVAL, "state of %s: version %u, known is %u", d->name, (unsigned)version,
				 d->version);
	if (load_fields(d, object, fields, c))
		return -EINVAL;
	return d->check ? d->check(object, c->err) : 0;
}

int state_load(const struct state_desc *desc, void *object, const void *bytes, size_t n, struct error *err)
{
	struct cursor c = {.at = bytes, .end = (const uint8_t *)bytes + n, .what = desc->name, .err = err};
	int ret = load_struct(desc, object, &c);

	if (!ret && c.at != c.end)
		ret = error_set(err, -EINVAL, "state of %s: %zu bytes follow it", desc->name, (size_t)(c.end - c.at));
	return ret;
}

/* ---- printing ---- */

static void indent_to(FILE *out, unsigned indent)
{
	for (unsigned i = 0; i < indent; i++)
		fputc('\t', out);
}

static void print_uints(struct cursor *c, const struct head *h, unsigned indent, FILE *out)
{
	for (uint64_t i = 0; i < h->count; i++) {
		uint64_t v = read_uint(take(c, h->size), h->size);

		if (i && i % 8 == 0) {
			fputc('\n', out);
			indent_to(out, indent + 1);
		}
		fprintf(out, v < 10 ? " %" PRIu64 : " 0x%" PRIx64, v);
	}
	fputc('\n', out);
}

static void print_bools(struct cursor *c, const struct head *h, FILE *out)
{
	const uint8_t *p = take(c, h->count);

	for (uint64_t i = 0; i < h->count; i++)
		fprintf(out, " %s", p[i] ? "true" : "false");
	fputc('\n', out);
}

#define BYTES_A_LINE 32u

static bool only_zeros(const uint8_t *p, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

/* Lines of zeros are left out: each line says where it is. */
static void print_bytes(struct cursor *c, const struct head *h, unsigned indent, FILE *out)
{
	const uint8_t *p = take(c, h->count);

	fprintf(out, " %" PRIu64 " bytes\n", h->count);
	for (uint64_t at = 0; at < h->count; at += BYTES_A_LINE) {
		uint64_t n = min_u64(BYTES_A_LINE, h->count - at);

		if (only_zeros(p + at, n))
			continue;
		indent_to(out, indent + 1);
		fprintf(out, "%04" PRIx64 ":", at);
		for (uint64_t i = 0; i < n; i++)
			fprintf(out, i % 8 ? "%02x" : " %02x", p[at + i]);
		fputc('\n', out);
	}
}

static int print_struct(struct cursor *c, unsigned indent, unsigned depth, FILE *out);

static int print_field(struct cursor *c, const struct head *h, unsigned indent, unsigned depth, FILE *out)
{
	int ret = 0;

	for (uint64_t i = 0; h->kind == STATE_STRUCT && i < h->count && !ret; i++) {
		indent_to(out, indent);
		fprintf(out, h->array ? "%s %" PRIu64 "\n" : "%s\n", h->name, i);
		ret = print_struct(c, indent + 1, depth + 1, out);
	}
	if (h->kind == STATE_STRUCT)
		return ret;
	indent_to(out, indent);
	fprintf(out, "%s:", h->name);
	if (h->kind == STATE_UINT)
		print_uints(c, h, indent, out);
	else if (h->kind == STATE_BOOL)
		print_bools(c, h, out);
	else
		print_bytes(c, h, indent, out);
	return 0;
}

static int print_struct(struct cursor *c, unsigned indent, unsigned depth, FILE *out)
{
	char name[STATE_NAME_MAX + 1];
	uint64_t version, fields;
	struct head h;

	if (depth > STATE_DEPTH_MAX)
		return error_set(c->err, -EINVAL, "state: structs in structs without end");
	if (take_name(c, name) || take_uint(c, 2, &version) || take_uint(c, 2, &fields))
		return -EINVAL;
	for (uint64_t i = 0; i < fields; i++)
		if (take_head(c, &h) || print_field(c, &h, indent, depth, out))
			return -EINVAL;
	return 0;
}

int state_print(const void *bytes, size_t n, unsigned indent, FILE *out, struct error *err)
{
	struct cursor c = {.at = bytes, .end = (const uint8_t *)bytes + n, .what = "something", .err = err};
	int ret = print_struct(&c, indent, 0, out);

	if (!ret && c.at != c.end)
		ret = error_set(err, -EINVAL, "state: %zu bytes follow it", (size_t)(c.end - c.at));
	return ret;
}
