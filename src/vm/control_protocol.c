/* See control_protocol.h. Jansson reads and writes; what a client may have put there is looked at here. */
#include "vm/control_protocol.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

const char *const control_kind_name[] = {
	[CONTROL_STRING] = "string", [CONTROL_INTEGER] = "integer", [CONTROL_BOOLEAN] = "boolean",
};

/* ---- requests ---- */

/* The error's line may quote the client: one line, and text. */
static int refuse(struct error *err, int code, const char *before, const char *quoted, const char *after)
{
	error_set(err, code, "%s%.60s%s", before, quoted, after);
	for (char *p = err->text; *p; p++)
		if ((unsigned char)*p < ' ' || (unsigned char)*p >= 127)
			*p = '?';
	return code;
}

static int take_name(struct control_request *rq, const json_t *execute, struct error *err)
{
	const char *name = json_string_value(execute);

	if (!execute)
		return refuse(err, -EINVAL, "'execute' is missing", "", "");
	if (!name)
		return refuse(err, -EINVAL, "'execute' is no string", "", "");
	if (strlen(name) >= sizeof(rq->name))
		return refuse(err, -ENOSYS, "no command '", name, "...'");
	memcpy(rq->name, name, strlen(name) + 1);
	return 0;
}

static int take_members(struct control_request *rq, json_t *o, struct error *err)
{
	json_t *args = json_object_get(o, "arguments"), *v;
	const char *key;

	rq->id = json_incref(json_object_get(o, "id"));
	json_object_foreach(o, key, v) {
		if (strcmp(key, "execute") && strcmp(key, "arguments") && strcmp(key, "id"))
			return refuse(err, -EINVAL, "unknown member '", key, "' of the request");
	}
	if (args && !json_is_object(args))
		return refuse(err, -EINVAL, "'arguments' is no object", "", "");
	rq->args = args ? json_incref(args) : json_object();
	if (!rq->args)
		return error_set(err, -ENOMEM, "out of memory");
	return take_name(rq, json_object_get(o, "execute"), err);
}

int control_request_parse(struct control_request *rq, const char *line, size_t bytes, struct error *err)
{
	json_error_t why;
	json_t *o = json_loadb(line, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	int ret;

	*rq = (struct control_request){.args = NULL};
	if (!o)
		return refuse(err, -EBADMSG, "no JSON: ", why.text, "");
	ret = json_is_object(o) ? take_members(rq, o, err) : refuse(err, -EINVAL, "a request is an object", "", "");
	json_decref(o);
	return ret;
}

void control_request_free(struct control_request *rq)
{
	json_decref(rq->args);
	json_decref(rq->id);
	*rq = (struct control_request){.args = NULL};
}

static bool is_kind(const json_t *v, enum control_kind kind)
{
	switch (kind) {
	case CONTROL_STRING:
		return json_is_string(v);
	case CONTROL_INTEGER:
		return json_is_integer(v);
	case CONTROL_BOOLEAN:
		return json_is_boolean(v);
	}
	return false;
}

static const struct control_argument *find_argument(const struct control_command *cmd, const char *name)
{
	for (const struct control_argument *a = cmd->args; a && a->name; a++)
		if (strcmp(a->name, name) == 0)
			return a;
	return NULL;
}

int control_check_arguments(const struct control_command *cmd, const json_t *args, struct error *err)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)args, key, v) { /* the macro wants it writable */
		const struct control_argument *a = find_argument(cmd, key);

		if (!a)
			return refuse(err, -EINVAL, "unknown argument '", key, "'");
		if (!is_kind(v, a->kind))
			return error_set(err, -EINVAL, "argument '%s': a%s %s is wanted", a->name,
					 a->kind == CONTROL_INTEGER ? "n" : "", control_kind_name[a->kind]);
	}
	for (const struct control_argument *a = cmd->args; a && a->name; a++)
		if (a->required && !json_object_get(args, a->name))
			return error_set(err, -EINVAL, "argument '%s' is missing", a->name);
	return 0;
}

/* ---- answers ---- */

const char *control_error_class(int code)
{
	switch (code) {
	case -EBADMSG:
	case -EMSGSIZE:
		return "Syntax";
	case -ENOSYS:
		return "CommandNotFound";
	case -EINVAL:
		return "InvalidArgument";
	case -EBUSY:
	case -ENOENT:
	case -ECANCELED:
		return "NotNow";
	default:
		return "Failed";
	}
}

char *control_format(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT) : NULL, *line;
	size_t n = text ? strlen(text) : 0;

	line = text ? realloc(text, n + 2) : NULL;
	if (!line) {
		free(text);
		return NULL;
	}
	line[n] = '\n';
	line[n + 1] = 0;
	return line;
}

static char *format_answer(const char *key, json_t *value, json_t *id)
{
	json_t *o = json_object();
	char *line = NULL;

	if (json_object_set_new(o, key, value) == 0 && (!id || json_object_set(o, "id", id) == 0))
		line = control_format(o);
	json_decref(o);
	return line;
}

char *control_format_return(json_t *ret, json_t *id)
{
	return format_answer("return", ret ? json_incref(ret) : json_object(), id);
}

char *control_format_error(const struct error *err, json_t *id)
{
	json_t *desc = json_string(err->text); /* fails if a line was cut within a character */

	return format_answer("error", json_pack("{s:s, s:o}", "class", control_error_class(err->code), "desc",
						desc ? desc : json_string("a line that is no text")), id);
}

char *control_format_greeting(const struct control_config *cfg)
{
	json_t *o = json_pack("{s:{s:s, s:i, s:s, s:[]}}", "gnomon", "version", cfg->version, "protocol", CONTROL_PROTOCOL,
			      "name", cfg->name, "capabilities");
	char *line = control_format(o);

	json_decref(o);
	return line;
}

json_t *control_build_event(const char *event, json_t *data)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return json_pack("{s:s, s:o, s:{s:I, s:I}}", "event", event, "data", data ? json_incref(data) : json_object(),
			 "timestamp", "seconds", (json_int_t)t.tv_sec, "microseconds", (json_int_t)(t.tv_nsec / 1000));
}
