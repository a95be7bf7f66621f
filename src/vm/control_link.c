/* See control_link.h. */
#include "vm/control_link.h"

#include "vm/control.h"
#include <errno.h>
#include <stdlib.h>

#define BUFFER_KEEP 65536u /* an empty buffer larger than this is given back */

/* Adds bytes at the end; moves the rest to the front before it grows. */
static int append(struct control_buffer *b, const char *data, size_t bytes)
{
	size_t used = b->end - b->start;

	if (b->room - b->end < bytes) {
		if (b->start)
			memmove(b->data, b->data + b->start, used);
		b->start = 0;
		b->end = used;
	}
	if (b->room - b->end < bytes) {
		size_t room = b->room ? b->room : 4096;
		char *grown;

		while (room - b->end < bytes)
			room *= 2;
		grown = realloc(b->data, room);
		if (!grown)
			return -ENOMEM;
		b->data = grown;
		b->room = room;
	}
	memcpy(b->data + b->end, data, bytes);
	b->end += bytes;
	return 0;
}

static void release(struct control_buffer *b)
{
	free(b->data);
	*b = (struct control_buffer){0};
}

static void consume(struct control_buffer *b, size_t bytes)
{
	b->start += bytes;
	if (b->start < b->end)
		return;
	b->start = b->end = 0;
	if (b->room > BUFFER_KEEP)
		release(b);
}

/* Bytes of the first line without its end, SIZE_MAX if it is not whole. */
static size_t first_line(struct control_link *l)
{
	size_t used = l->in.end - l->in.start;
	const char *text, *end;

	if (l->scanned == used)
		return SIZE_MAX;
	text = l->in.data + l->in.start;
	end = memchr(text + l->scanned, '\n', used - l->scanned);
	l->scanned = end ? (size_t)(end - text) : used;
	return end ? l->scanned : SIZE_MAX;
}

int control_link_take(struct control_link *l, const char *data, size_t bytes)
{
	size_t line;

	if (l->in.start == l->in.end)
		consume(&l->in, 0);
	if (!bytes)
		return 0;
	if (append(&l->in, data, bytes))
		return -ENOMEM;
	line = first_line(l);
	return min_u64(line, l->in.end - l->in.start) > CONTROL_LINE_MAX ? -EMSGSIZE : 0;
}

bool control_link_has_line(struct control_link *l) { return first_line(l) != SIZE_MAX; }

bool control_link_line(struct control_link *l, const char **line, size_t *bytes)
{
	size_t n = first_line(l);

	if (n == SIZE_MAX)
		return false;
	*line = l->in.data + l->in.start;
	*bytes = n;
	l->scanned = 0;
	l->in.start += n + 1; /* not consume(): the line is still to be read */
	return true;
}

int control_link_put(struct control_link *l, const char *data, size_t bytes)
{
	if (bytes > CONTROL_OUT_MAX - (l->out.end - l->out.start))
		return -ENOBUFS;
	return append(&l->out, data, bytes);
}

size_t control_link_pending(const struct control_link *l, const char **data)
{
	*data = l->out.data ? l->out.data + l->out.start : "";
	return l->out.end - l->out.start;
}

void control_link_sent(struct control_link *l, size_t bytes) { consume(&l->out, bytes); }

void control_link_free(struct control_link *l)
{
	release(&l->in);
	release(&l->out);
	l->scanned = 0;
}
