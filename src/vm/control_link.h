/*
 * The bytes of one connection of a control socket: lines that came in, bytes that wait to go out. Bounded both ways.
 * It knows neither sockets nor JSON, and takes no locks.
 */
#ifndef GNOMON_VM_CONTROL_LINK_H
#define GNOMON_VM_CONTROL_LINK_H

#include "base/util.h"

struct control_buffer {
	char *data;
	size_t room, start, end; /* what is in use: data[start .. end) */
};

struct control_link {
	struct control_buffer in, out;
	size_t scanned; /* in.data[in.start .. in.start + scanned) has no end of line */
};

/* Adds what came in. -EMSGSIZE: a line is longer than CONTROL_LINE_MAX; -ENOMEM. */
int control_link_take(struct control_link *l, const char *data, size_t bytes);
/* The next whole line, without its end, valid until the next call of any function here; false if there is none. */
bool control_link_line(struct control_link *l, const char **line, size_t *bytes);
/* Is there one? */
bool control_link_has_line(struct control_link *l);
/* Queues bytes to go out. -ENOBUFS: more than CONTROL_OUT_MAX would wait; -ENOMEM. Nothing is queued then. */
int control_link_put(struct control_link *l, const char *data, size_t bytes);
/* What waits to go out, and that some of it went. */
size_t control_link_pending(const struct control_link *l, const char **data);
void control_link_sent(struct control_link *l, size_t bytes);
void control_link_free(struct control_link *l);

#endif
