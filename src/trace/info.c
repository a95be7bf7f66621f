/* What both sides of a file need: what a trace says of itself, how it is saved and what it may be; room for blocks. */
#include "trace/file_impl.h"

#include <errno.h>
#include <stdlib.h>

/* A text of one line, with zeros from its end on. */
static bool is_text(const char *t, size_t room)
{
	size_t n = strnlen(t, room);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)t[i] < ' ' || t[i] == 0x7f)
			return false;
	for (size_t i = n; i < room; i++)
		if (t[i])
			return false;
	return n < room;
}

static int check_info(void *object, struct error *err)
{
	const struct trace_info *i = object;

	if (!is_text(i->creator, sizeof(i->creator)) || !is_text(i->source, sizeof(i->source)) ||
	    !is_text(i->cpu_features, sizeof(i->cpu_features)))
		return error_set(err, -EINVAL, "creator, source, cpu_features: texts of one line");
	if (i->memory > TRACE_GPA_END)
		return error_set(err, -EINVAL, "memory: more than 1 TiB");
	return 0;
}

static const struct state_field info_fields[] = {
	STATE_DATA(struct trace_info, creator),
	STATE_DATA(struct trace_info, source),
	STATE_DATA(struct trace_info, cpu_features),
	STATE_B(struct trace_info, tables),
	STATE_U(struct trace_info, memory),
	STATE_U_MAX(struct trace_info, maxphyaddr, 52),
};
const struct state_desc trace_info_desc = STATE_DESC("trace", 1, info_fields, .check = check_info);

int file_reserve(const char *path, struct bytes *b, size_t n, struct error *err)
{
	if (b->room >= n)
		return 0;
	free(b->data);
	b->room = 0;
	b->data = malloc(n);
	if (!b->data)
		return error_set(err, -ENOMEM, "%s: no memory for %zu bytes", path, n);
	b->room = n;
	return 0;
}
