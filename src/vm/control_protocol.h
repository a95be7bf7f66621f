/*
 * What the lines of a control socket say (docs/control.md): a request is taken apart and checked against the command's
 * table of arguments, an answer or an event is put together. Text in, text out.
 */
#ifndef GNOMON_VM_CONTROL_PROTOCOL_H
#define GNOMON_VM_CONTROL_PROTOCOL_H

#include "vm/control.h"

/* A request that makes sense so far: its command is yet to be found. */
struct control_request {
	char name[64];
	json_t *args; /* an object */
	json_t *id;   /* NULL: none */
};

/*
 * Takes a line apart. @rq->id is set even if it is refused, when it could be read.
 * Errors: -EBADMSG (no JSON), -EINVAL (no request) with @err. control_request_free() in any case.
 */
int control_request_parse(struct control_request *rq, const char *line, size_t bytes, struct error *err);
void control_request_free(struct control_request *rq);
/* Are the arguments what the command takes? -EINVAL with @err that names the first that is not. */
int control_check_arguments(const struct control_command *cmd, const json_t *args, struct error *err);

/* The class of an error, by its negative errno. */
const char *control_error_class(int code);
/*
 * Lines to be sent, with their ends; free() them. NULL if out of memory. @ret, @data, @id: the caller's; NULL: an empty
 * object, or no id.
 */
char *control_format_return(json_t *ret, json_t *id);
char *control_format_error(const struct error *err, json_t *id);
char *control_format_greeting(const struct control_config *cfg);
/* {"event": ...}, with the present time: a new reference. */
json_t *control_build_event(const char *event, json_t *data);
/* Any object as a line. */
char *control_format(json_t *object);

#endif
