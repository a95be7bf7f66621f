/*
 * gnomon control: asks a running VM, or tells it what to do, through its control socket (docs/control.md). What commands
 * there are and what kinds of arguments they take is asked of the VM, so nothing of that is listed here.
 */
#include "cli/cli.h"
#include "vm/control.h"
#include "vm/control_link.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ARGS_MAX 64

struct client {
	const char *path, *command; /* command: NULL if only events are wanted */
	char *arg[ARGS_MAX];
	unsigned args;
	bool json, events;
	int fd;
	struct control_link link;
};

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct client *)ctx)->json = true;
	return 0;
}

static int set_events(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct client *)ctx)->events = true;
	return 0;
}

static const struct option_desc client_options[] = {
	{"json", NULL, "print what comes as JSON, one line each", set_json},
	{"events", NULL, "print events as they come, until the run is over", set_events},
	{0},
};

static void help(FILE *out)
{
	const struct option_group groups[] = {{.title = "Options", .table = client_options}, {0}};

	fputs("Usage: gnomon control PATH COMMAND [KEY=VALUE]... [OPTIONS]\n"
	      "       gnomon control PATH COMMAND '{JSON}' [OPTIONS]\n"
	      "       gnomon control PATH --events\n\n"
	      "Asks a VM that runs with --control PATH, or tells it what to do, and prints what it answers:\n\n"
	      "  query-status      is it running, and how far it is\n"
	      "  query-stats       the report so far\n"
	      "  stop, cont        hold it; let it go on\n"
	      "  system_powerdown  press the power button\n"
	      "  quit              end the run; its report is written\n"
	      "  query-commands    what else there is, with arguments\n",
	      out);
	options_help(out, groups);
	fputs("\nExit status:\n"
	      "  0    done\n"
	      "  2    bad options, or nothing to talk to at PATH\n"
	      "  10   the VM hung up before it answered, or what it said makes no sense\n"
	      "  18   the VM refused or failed to do it: it says why\n",
	      out);
}

/* ---- the line ---- */

static int complain(const struct client *c, int code, const char *what, struct error *err)
{
	return error_set(err, code, "'%.200s': %s", c->path, what);
}

static int connect_to(struct client *c, struct error *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(c->path) >= sizeof(a.sun_path))
		return complain(c, -EINVAL, "longer than the path of a socket can be", err);
	memcpy(a.sun_path, c->path, strlen(c->path) + 1);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&a, sizeof(a)))
		return complain(c, -EINVAL, errno == ECONNREFUSED ? "nobody listens there (any more)" : strerror(errno), err);
	return 0;
}

/* The next object that the VM says; NULL with @err if there is none: -EPIPE if it hung up. */
static json_t *receive(struct client *c, struct error *err)
{
	char chunk[4096];
	const char *line;
	size_t bytes;
	json_t *o;

	while (!control_link_line(&c->link, &line, &bytes)) {
		ssize_t n = recv(c->fd, chunk, sizeof(chunk), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			complain(c, -EPIPE, "the VM hung up", err);
			return NULL;
		}
		if (control_link_take(&c->link, chunk, (size_t)n)) {
			complain(c, -EPROTO, "a line that is too long", err);
			return NULL;
		}
	}
	o = json_loadb(line, bytes, 0, NULL);
	if (!json_is_object(o)) {
		json_decref(o);
		complain(c, -EPROTO, "a line that is no JSON object: no control socket of gnomon's?", err);
		return NULL;
	}
	return o;
}

static int send_all(struct client *c, const char *text, struct error *err)
{
	for (size_t left = strlen(text); left;) {
		ssize_t n = send(c->fd, text, left, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return complain(c, -EPIPE, "the VM hung up", err);
		text += n;
		left -= (size_t)n;
	}
	return 0;
}

static int send_request(struct client *c, const char *command, json_t *args, struct error *err)
{
	json_t *o = json_pack("{s:s, s:O*, s:i}", "execute", command, "arguments", args, "id", 1);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	int ret = text ? send_all(c, text, err) : error_set(err, -EINVAL, "'%.60s': no command is called so", command);

	free(text);
	json_decref(o);
	return ret ? ret : send_all(c, "\n", err);
}

/* The error that an answer or a refusal to talk is; 0 if it is none. */
static int take_error(const json_t *o, struct error *err)
{
	const json_t *e = json_object_get(o, "error");
	const char *desc = json_string_value(json_object_get(e, "desc"));

	if (!e)
		return 0;
	return error_set(err, -EREMOTEIO, "%.400s", desc ? desc : "an error without a description");
}

static int take_greeting(struct client *c, struct error *err)
{
	json_t *o = receive(c, err);
	int ret = o ? take_error(o, err) : err->code;
	const json_t *protocol = json_object_get(json_object_get(o, "gnomon"), "protocol");

	if (ret == 0 && !json_is_integer(protocol))
		ret = complain(c, -EPROTO, "no greeting: no control socket of gnomon's?", err);
	else if (ret == 0 && json_integer_value(protocol) != CONTROL_PROTOCOL)
		ret = complain(c, -EPROTO, "it speaks another version of the protocol", err);
	json_decref(o);
	return ret;
}

/* ---- for people ---- */

/* Text on a line of its own: what would move the cursor is left out. */
static void print_text(const char *s, int indent)
{
	for (; *s; s++)
		if (*s == '\n' && s[1])
			printf("\n%*s", indent, "");
		else if (*s != '\n')
			putchar((unsigned char)*s < ' ' || *s == 127 ? '?' : *s);
	putchar('\n');
}

static void print_value(const json_t *v, int indent);

/* @begun: the first one goes on a line that has begun */
static void print_members(const json_t *o, int indent, bool begun)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)o, key, v) { /* the macro wants it writable */
		if (json_is_object(v) && !json_object_size(v))
			continue;
		printf("%*s%s:", begun ? 0 : indent, "", key);
		print_value(v, indent + 2);
		begun = false;
	}
}

static void print_elements(const json_t *a, int indent)
{
	for (size_t i = 0; i < json_array_size(a); i++) {
		const json_t *v = json_array_get(a, i);

		printf("%*s-", indent, "");
		if (json_object_size(v)) {
			putchar(' ');
			print_members(v, indent + 2, true);
		} else {
			print_value(v, indent + 2);
		}
	}
}

/* What follows a key or a dash: on the same line, or on lines of its own. */
static void print_value(const json_t *v, int indent)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		putchar('\n');
		print_members(v, indent, false);
		break;
	case JSON_ARRAY:
		putchar('\n');
		print_elements(v, indent);
		break;
	case JSON_STRING:
		putchar(' ');
		print_text(*json_string_value(v) ? json_string_value(v) : "-", indent);
		break;
	case JSON_INTEGER:
		printf(" %" JSON_INTEGER_FORMAT "\n", json_integer_value(v));
		break;
	case JSON_REAL:
		printf(" %.6g\n", json_real_value(v));
		break;
	case JSON_TRUE:
		puts(" yes");
		break;
	case JSON_FALSE:
		puts(" no");
		break;
	case JSON_NULL:
		puts(" -");
		break;
	}
}

static void print_line(const json_t *v)
{
	char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);

	puts(text ? text : "");
	free(text);
}

static void print_answer(const struct client *c, const json_t *v)
{
	if (c->json)
		print_line(v);
	else if (json_is_array(v))
		print_elements(v, 0);
	else
		print_members(v, 0, false);
}

static void print_event(const struct client *c, const json_t *o)
{
	const json_t *data = json_object_get(o, "data");
	const json_t *stamp = json_object_get(o, "timestamp");
	const char *name = json_string_value(json_object_get(o, "event"));
	time_t seconds = (time_t)json_integer_value(json_object_get(stamp, "seconds"));
	struct tm tm = {0};

	if (c->json) {
		print_line(o);
	} else {
		localtime_r(&seconds, &tm);
		printf("%02d:%02d:%02d %s\n", tm.tm_hour, tm.tm_min, tm.tm_sec, name ? name : "?");
		print_members(data, 2, false);
	}
	fflush(stdout);
}

/* ---- asking ---- */

/* The answer to the last request, NULL with @err. Events that come before it are printed if they are wanted. */
static json_t *await(struct client *c, struct error *err)
{
	for (;;) {
		json_t *o = receive(c, err), *ret = json_object_get(o, "return");

		if (!o)
			return NULL;
		if (json_object_get(o, "event") && c->events)
			print_event(c, o);
		json_incref(ret);
		take_error(o, err);
		json_decref(o);
		if (ret || err->code)
			return ret;
	}
}

static json_t *ask(struct client *c, const char *command, json_t *args, struct error *err)
{
	return send_request(c, command, args, err) ? NULL : await(c, err);
}

/* ---- arguments ---- */

/* What the command takes, by name; NULL if there is no such command: then the VM says so itself. */
static const json_t *arguments_of(const json_t *list, const char *command)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *o = json_array_get(list, i);
		const char *name = json_string_value(json_object_get(o, "name"));

		if (name && strcmp(name, command) == 0)
			return json_object_get(o, "arguments");
	}
	return NULL;
}

/* @text as a value of the kind the VM wants; NULL with @err. */
static json_t *make_value(const char *key, const char *text, const char *type, struct error *err)
{
	uint64_t n;
	json_t *v;

	if (type && strcmp(type, control_kind_name[CONTROL_BOOLEAN]) == 0) {
		if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
			return json_boolean(*text == 't');
		error_set(err, -EINVAL, "%.60s: true or false is wanted", key);
		return NULL;
	}
	if (type && strcmp(type, control_kind_name[CONTROL_INTEGER]) == 0) {
		if (parse_count(key, text, &n, NULL) == 0 && n <= INT64_MAX)
			return json_integer((json_int_t)n);
		error_set(err, -EINVAL, "%.60s: a number is wanted", key);
		return NULL;
	}
	v = json_string(text);
	if (!v)
		error_set(err, -EINVAL, "%.60s: not text in UTF-8", key);
	return v;
}

static int add_argument(json_t *args, const json_t *known, const char *text, struct error *err)
{
	const char *equals = strchr(text, '=');
	char key[64];
	json_t *v;

	if (!equals || equals == text || (size_t)(equals - text) >= sizeof(key))
		return error_set(err, -EINVAL, "'%.60s': KEY=VALUE is wanted", text);
	memcpy(key, text, (size_t)(equals - text));
	key[equals - text] = 0;
	v = make_value(key, equals + 1, json_string_value(json_object_get(json_object_get(known, key), "type")), err);
	if (!v)
		return -EINVAL;
	if (json_object_get(args, key) || json_object_set_new(args, key, v))
		return error_set(err, -EINVAL, "'%.60s': given twice, or no text", key);
	return 0;
}

static int parse_json(const char *text, json_t **args, struct error *err)
{
	json_error_t why;

	*args = json_loads(text, JSON_REJECT_DUPLICATES, &why);
	if (!json_is_object(*args)) {
		json_decref(*args);
		*args = NULL;
		return error_set(err, -EINVAL, "arguments: %.200s", why.text);
	}
	return 0;
}

/* The arguments of the command line; NULL with @err. */
static json_t *make_arguments(struct client *c, struct error *err)
{
	json_t *args = NULL, *list;
	const json_t *known;
	int ret = 0;

	if (c->args == 1 && *c->arg[0] == '{')
		return parse_json(c->arg[0], &args, err) ? NULL : args;
	if (c->args == 0)
		return json_object();
	list = ask(c, "query-commands", NULL, err);
	if (!list)
		return NULL;
	known = arguments_of(list, c->command);
	args = json_object();
	for (unsigned i = 0; i < c->args && ret == 0; i++)
		ret = add_argument(args, known, c->arg[i], err);
	json_decref(list);
	if (ret == 0)
		return args;
	json_decref(args);
	return NULL;
}

/* ---- the command ---- */

static int execute(struct client *c, struct error *err)
{
	json_t *args = make_arguments(c, err), *ret;

	if (!args)
		return err->code;
	ret = ask(c, c->command, args, err);
	json_decref(args);
	if (!ret)
		return err->code;
	print_answer(c, ret);
	json_decref(ret);
	return 0;
}

/* Until the VM hangs up, which is its good right. */
static int follow(struct client *c, struct error *err)
{
	json_t *o;

	while ((o = receive(c, err))) {
		if (json_object_get(o, "event"))
			print_event(c, o);
		json_decref(o);
	}
	if (err->code != -EPIPE)
		return err->code;
	*err = (struct error){0};
	return 0;
}

static int talk(struct client *c, struct error *err)
{
	int ret = connect_to(c, err);

	if (ret == 0)
		ret = take_greeting(c, err);
	if (ret == 0 && c->command)
		ret = execute(c, err);
	if (ret == 0 && c->events)
		ret = follow(c, err);
	return ret;
}

static int exit_status(int code)
{
	switch (code) {
	case 0:
		return CLI_OK;
	case -EINVAL:
		return CLI_USAGE;
	case -EREMOTEIO:
		return CLI_REFUSED;
	default:
		return CLI_HOST_FAILED;
	}
}

/* Takes path, command and arguments, which may stand anywhere, out of argv. Returns how many are left, all options. */
static int take_words(struct client *c, int argc, char **argv, struct error *err)
{
	int left = 1;

	for (int i = 1; i < argc; i++) {
		if (*argv[i] == '-')
			argv[left++] = argv[i];
		else if (!c->path)
			c->path = argv[i];
		else if (!c->command)
			c->command = argv[i];
		else if (c->args < ARGS_MAX)
			c->arg[c->args++] = argv[i];
		else
			error_set(err, -EINVAL, "more than %d arguments", ARGS_MAX);
	}
	argv[left] = NULL;
	return left;
}

static int run_command(int argc, char **argv)
{
	struct client c = {.fd = -1};
	const struct option_group groups[] = {{.title = "Options", .table = client_options, .ctx = &c}, {0}};
	struct error err = {0};
	int ret;

	argc = take_words(&c, argc, argv, &err);
	switch (options_parse(argc, argv, groups, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		return CLI_OK;
	case OPTIONS_BAD:
	case OPTIONS_OK:
		break;
	}
	if (!err.code && !c.path)
		error_set(&err, -EINVAL, "the PATH of a control socket is missing");
	else if (!err.code && !c.command && !c.events)
		error_set(&err, -EINVAL, "a COMMAND or --events is missing");
	if (err.code) {
		strncat(err.text, " (see gnomon control --help)", sizeof(err.text) - strlen(err.text) - 1);
		cli_error("control", err.text);
		return CLI_USAGE;
	}
	ret = talk(&c, &err);
	if (ret)
		cli_error("control", err.text);
	if (c.fd >= 0)
		close(c.fd);
	control_link_free(&c.link);
	return exit_status(ret);
}

const struct command cmd_control = {"control", "ask or command a running VM through its control socket", run_command,
				    help};
