/*
 * Fuzzing the protocol of the control socket: whatever a client sends, each line that is not blank has exactly one
 * answer, answers are JSON of the promised form, and other clients see events only. No VM and no socket: commands for the
 * VM's thread are served by hand, at any moment. With clang -fsanitize=fuzzer this is a libFuzzer target; without it
 * a main() replays files, or makes up requests and damages them:
 *
 *	fuzz_control [-n ROUNDS] [-s SEED] [FILE...]
 */
#include "vm/control_impl.h"
#include "vm/file.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- commands ---- */

static int run_echo(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)err;
	*ret = json_deep_copy(call->args);
	return 0;
}

/* Says what the client said, cut anywhere. */
static int run_fail(const struct control_call *call, json_t **ret, struct error *err)
{
	json_int_t n = json_integer_value(json_object_get(call->args, "n"));

	(void)ret;
	return error_set(err, n & 1 ? -EIO : -EBUSY, "%.*s", (int)(n >> 1 & 31),
			 json_string_value(json_object_get(call->args, "text")));
}

static int run_emit(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)ret, (void)err;
	control_emit(call->control, "FUZZ", json_deep_copy(call->args));
	return 0;
}

static int run_job(const struct control_call *call, json_t **ret, struct error *err)
{
	struct control_job *job;
	int code = control_job_begin(call->control, "fuzz", &job, err);

	if (code)
		return code;
	control_job_set(job, "n", json_integer_value(json_object_get(call->args, "n")));
	if (json_is_true(json_object_get(call->args, "end")))
		control_job_end(job, -ECANCELED, NULL);
	*ret = control_job_describe(call->control, "fuzz");
	return 0;
}

static const struct control_argument some_args[] = {
	{"text", CONTROL_STRING, false}, {"n", CONTROL_INTEGER, false}, {"b", CONTROL_BOOLEAN, false}, {NULL},
};
static const struct control_argument fail_args[] = {
	{"text", CONTROL_STRING, true}, {"n", CONTROL_INTEGER, false}, {NULL},
};
static const struct control_argument job_args[] = {
	{"n", CONTROL_INTEGER, false}, {"end", CONTROL_BOOLEAN, true}, {NULL},
};
static const struct control_command fuzz_commands[] = {
	{.name = "echo", .help = "here", .args = some_args, .run = run_echo},
	{.name = "slow", .help = "there", .args = some_args, .run = run_echo, .on_vm_thread = true},
	{.name = "fail", .help = "refuse", .args = fail_args, .run = run_fail, .on_vm_thread = true},
	{.name = "emit", .help = "tell all", .args = some_args, .run = run_emit},
	{.name = "job", .help = "begin, or begin and end", .args = job_args, .run = run_job},
	{.name = NULL},
};

/* ---- what a client sees ---- */

struct seen {
	unsigned greetings, answers, events;
};

static bool is_class(const char *name)
{
	static const char *const classes[] = {"Syntax", "CommandNotFound", "InvalidArgument", "NotNow", "Failed"};

	for (unsigned i = 0; name && i < ARRAY_SIZE(classes); i++)
		if (strcmp(name, classes[i]) == 0)
			return true;
	return false;
}

static void check_line(struct seen *seen, const char *line, size_t bytes)
{
	json_t *o = json_loadb(line, bytes, 0, NULL), *error = json_object_get(o, "error");

	if (!json_is_object(o))
		abort();
	if (error && (!is_class(json_string_value(json_object_get(error, "class"))) ||
		      !json_is_string(json_object_get(error, "desc"))))
		abort();
	if (error || json_object_get(o, "return"))
		seen->answers++;
	else if (json_is_string(json_object_get(o, "event")) && json_is_object(json_object_get(o, "data")))
		seen->events++;
	else if (json_object_get(o, "gnomon"))
		seen->greetings++;
	else
		abort();
	json_decref(o);
}

/* The client reads all there is. */
static void read_all(struct control_peer *cl, struct seen *seen)
{
	const char *text, *end;
	size_t bytes = control_link_pending(&cl->link, &text);

	for (const char *p = text; p < text + bytes; p = end + 1) {
		end = memchr(p, '\n', (size_t)(text + bytes - p));
		if (!end)
			abort();
		check_line(seen, p, (size_t)(end - p));
	}
	control_link_sent(&cl->link, bytes);
}

/* Everything that can be done for it is done; the VM's thread comes in when it is waited for. */
static void pump(struct control *c, struct control_peer *cl, struct seen *seen)
{
	for (;;) {
		if (control_peer_turn(c, cl))
			continue;
		read_all(cl, seen);
		if (cl->waiting)
			control_serve(c);
		else if (cl->closing || !control_link_has_line(&cl->link))
			break;
	}
	read_all(cl, seen);
}

/* Lines that want an answer. */
static unsigned count_lines(const char *data, size_t size)
{
	unsigned lines = 0;
	bool blank = true;

	for (size_t i = 0; i < size; i++) {
		if (data[i] == '\n') {
			lines += !blank;
			blank = true;
		} else if (!strchr(" \t\r", data[i]) || !data[i]) {
			blank = false;
		}
	}
	return lines;
}

/* In pieces whose sizes the bytes themselves decide. False if the line became too long. */
static bool feed(struct control *c, struct control_peer *cl, const char *data, size_t size, struct seen *seen)
{
	for (size_t at = 0, piece; at < size && !cl->closing; at += piece) {
		piece = 1 + (size_t)((uint8_t)data[at] * (size_t)(size < 4096 ? 1 : 997));
		piece = min_u64(piece, size - at);
		control_peer_take(c, cl, data + at, piece);
		pump(c, cl, seen);
	}
	return !cl->closing;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct control_config cfg = {.version = "0", .name = "fuzz"};
	struct seen one = {0}, other = {0};
	struct control_peer *cl, *watcher;
	struct error err = {0};
	struct control *c;
	char *copy = malloc(size ? size : 1); /* of exactly this size, so that a read past it is seen */

	if (!copy || control_create(&c, &cfg, &err))
		abort();
	memcpy(copy, data, size);
	if (control_add_commands(c, fuzz_commands, NULL, &err))
		abort();
	control_attach(c, NULL);
	cl = control_peer_open(c, -1);
	watcher = control_peer_open(c, -1);
	if (feed(c, cl, copy, size, &one) && one.answers != count_lines(copy, size))
		abort();
	read_all(cl, &one);
	read_all(watcher, &other);
	if (one.greetings != 1 || other.greetings != 1 || other.answers || (other.events != one.events && !cl->closing))
		abort();
	control_peer_close(c, cl);
	control_peer_close(c, watcher);
	control_destroy(c);
	free(copy);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "fuzz_main.h"
#include "pick.h"

#define TEXT_BYTES 4096

static void add(char *text, const char *more) { strncat(text, more, TEXT_BYTES - strlen(text) - 1); }
#define ADD_ONE_OF(text, list) add(text, list[pick(ARRAY_SIZE(list))])

static const char *const values[] = {
	"1", "-1", "0", "9223372036854775807", "9223372036854775808", "1e999", "-1.5e-400", "1E5", "true", "false", "null",
	"\"x\"", "\"\"", "\"\\u0000\"", "\"\\ud800\"", "\"\xc3\xa9\xe2\x82\xac\"", "\"\xff\xfe\"", "\"\xc3\"", "[]", "{}",
	"[[[[[[[[]]]]]]]]", "{\"a\":{\"a\":{}}}", "\"a\\nb\\u001b[2J\"", "NaN", "0x10", "01", "\"\xf0\x9f\x98\x80\"",
};

static void make_request(char *text)
{
	static const char *const commands[] = {
		"query-commands", "query-events", "query-status", "query-jobs", "cancel-job", "stop", "cont", "quit",
		"system_powerdown", "echo", "echo", "slow", "slow", "fail", "fail", "emit", "job", "", "no\\u0074hing",
		"a-name-that-is-longer-than-any-command-of-ours-will-ever-be-because-it-goes-on",
	};
	static const char *const keys[] = {"text", "n", "b", "end", "kind", "x", "", "\xc3\xa9", "t\\u0000"};
	static const char *const members[] = {"execute", "arguments", "id", "exec", ""};
	static const char *const ends[] = {"\n", "\n", "\n", "\r\n", "\n\n \n", ""};

	add(text, "{\"execute\":\"");
	ADD_ONE_OF(text, commands);
	add(text, "\"");
	if (pick(4)) {
		add(text, ",\"arguments\":{");
		for (unsigned n = pick(4); n; n--) {
			add(text, "\"");
			ADD_ONE_OF(text, keys);
			add(text, "\":");
			ADD_ONE_OF(text, values);
			add(text, n > 1 ? "," : "");
		}
		add(text, "}");
	}
	if (pick(2)) {
		add(text, ",\"");
		add(text, pick(4) ? "id" : members[pick(ARRAY_SIZE(members))]);
		add(text, "\":");
		ADD_ONE_OF(text, values);
	}
	add(text, "}");
	ADD_ONE_OF(text, ends);
}

/* Deeper, longer, or more of it than is allowed. */
static void try_excess(void)
{
	size_t size = CONTROL_LINE_MAX + 3;
	char *text = malloc(size);

	if (!text)
		return;
	memset(text, pick(2) ? '[' : ' ', size);
	text[pick(2) ? size - 1 : pick(5000)] = '\n';
	LLVMFuzzerTestOneInput((const uint8_t *)text, size);
	free(text);
}

static void run_rounds(uint64_t rounds, uint64_t seed)
{
	char text[TEXT_BYTES];

	random_state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		size_t size;

		*text = 0;
		for (unsigned n = 1 + pick(6); n; n--)
			make_request(text);
		size = strlen(text);
		for (unsigned n = pick(3); n && size; n--)
			text[pick((unsigned)size)] = pick(2) ? (char)pick(256) : "{}[]\",:\\\n\t 0e"[pick(14)];
		LLVMFuzzerTestOneInput((const uint8_t *)text, pick(8) ? size : pick((unsigned)size + 1));
		if (i % 1000 == 999)
			try_excess();
	}
	printf("%llu conversations, no failure\n", (unsigned long long)rounds);
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 20000, (size_t)4 << 20, run_rounds); }

#endif
