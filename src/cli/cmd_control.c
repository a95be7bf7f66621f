/*
 * gnomon control: asks a running VM, or tells it what to do, through its control socket (docs/control.md). What commands
 * there are and what kinds of arguments they take is asked of the VM, so nothing of that is listed here.
 */
#include "cli/cli.h"
#include "cli/vm_client.h"
#include "vm/control.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define ARGS_MAX 64

struct order {
	const char *path, *command; /* command: NULL if only events are wanted */
	char *arg[ARGS_MAX];
	unsigned args;
	bool json, events;
};

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct order *)ctx)->json = true;
	return 0;
}

static int set_events(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct order *)ctx)->events = true;
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

	fputs("Usage: gnomon control SOCKET COMMAND [KEY=VALUE]... [OPTIONS]\n"
	      "       gnomon control SOCKET COMMAND '{JSON}' [OPTIONS]\n"
	      "       gnomon control SOCKET --events\n\n"
	      "Asks a VM that runs with --control SOCKET, or tells it what to do, and prints what it answers:\n\n"
	      "  query-status      is it running, and how far it is\n"
	      "  query-stats       the report so far\n"
	      "  stop, cont        hold it; let it go on\n"
	      "  system_powerdown  press the power button\n"
	      "  quit              end the run; its report is written\n"
	      "  query-commands    what else there is, with arguments\n",
	      out);
	options_help(out, groups);
	fputs(vm_client_exit_help, out);
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

static void print_answer(const struct order *c, const json_t *v)
{
	if (c->json)
		print_line(v);
	else if (json_is_array(v))
		print_elements(v, 0);
	else
		print_members(v, 0, false);
}

static void print_event(void *ctx, const json_t *o)
{
	const struct order *c = ctx;
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

/* The arguments of the command line. -EINVAL with @err if they make no sense; of asking the VM what it takes. */
static int make_arguments(const struct order *c, struct vm_client *vm, json_t **args, struct error *err)
{
	const json_t *known;
	json_t *list;
	int ret;

	*args = NULL;
	if (c->args == 0)
		return 0;
	if (c->args == 1 && *c->arg[0] == '{')
		return parse_json(c->arg[0], args, err);
	ret = vm_client_call(vm, "query-commands", NULL, &list, err);
	if (ret)
		return ret;
	known = arguments_of(list, c->command);
	*args = json_object();
	for (unsigned i = 0; i < c->args && ret == 0; i++)
		ret = add_argument(*args, known, c->arg[i], err);
	json_decref(list);
	if (ret)
		json_decref(*args);
	return ret;
}

/* ---- the command ---- */

static int execute(const struct order *c, struct vm_client *vm, struct error *err)
{
	json_t *args, *answer;
	int ret = make_arguments(c, vm, &args, err);

	if (ret == 0)
		ret = vm_client_call(vm, c->command, args, &answer, err);
	if (ret)
		return ret;
	print_answer(c, answer);
	json_decref(answer);
	return 0;
}

/* Until the VM hangs up, which is its good right. */
static int follow(struct order *c, struct vm_client *vm, struct error *err)
{
	json_t *o;

	while ((o = vm_client_receive(vm, err))) {
		if (json_object_get(o, "event"))
			print_event(c, o);
		json_decref(o);
	}
	return err->code == -EPIPE ? 0 : err->code;
}

static int talk(struct order *c, struct error *err)
{
	struct vm_client vm;
	int ret = vm_client_open(&vm, c->path, err);

	if (ret)
		return ret;
	vm.event = c->events ? print_event : NULL;
	vm.event_ctx = c;
	if (c->command)
		ret = execute(c, &vm, err);
	if (ret == 0 && c->events)
		ret = follow(c, &vm, err);
	vm_client_close(&vm);
	return ret;
}

/* Takes path, command and arguments, which may stand anywhere, out of argv. Returns how many are left, all options. */
static int take_words(struct order *c, int argc, char **argv, struct error *err)
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
	struct order c = {.path = NULL};
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
		error_set(&err, -EINVAL, "the SOCKET is missing");
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
	return vm_client_status(ret);
}

const struct command cmd_control = {"control", "ask or command a running VM through its control socket", run_command,
				    help};
