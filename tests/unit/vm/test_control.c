/*
 * The control socket from inside: lines and their bounds, arguments, jobs, events, errands of other threads, and a VM
 * that spins in the middle of it. What it is from outside: tests/cli/control.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vm/control_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- lines ---- */

static void expect_line(struct control_link *l, const char *want)
{
	const char *line;
	size_t bytes;

	if (!want) {
		assert_false(control_link_line(l, &line, &bytes));
		return;
	}
	assert_true(control_link_line(l, &line, &bytes));
	assert_int_equal(bytes, strlen(want));
	assert_memory_equal(line, want, bytes);
}

static void test_lines(void **state)
{
	struct control_link l = {.scanned = 0};

	(void)state;
	assert_int_equal(control_link_take(&l, "", 0), 0);
	expect_line(&l, NULL);
	assert_int_equal(control_link_take(&l, "one\n\ntw", 7), 0);
	expect_line(&l, "one");
	expect_line(&l, "");
	expect_line(&l, NULL);
	assert_int_equal(control_link_take(&l, "o\nthree\n", 8), 0);
	expect_line(&l, "two");
	expect_line(&l, "three");
	expect_line(&l, NULL);
	control_link_free(&l);
}

/* A line of CONTROL_LINE_MAX bytes is taken, however it comes; one byte more is not. */
static void test_longest_line(void **state)
{
	struct control_link l = {.scanned = 0};
	char *text = malloc(CONTROL_LINE_MAX + 2);
	const char *line;
	size_t bytes;

	(void)state;
	assert_non_null(text);
	memset(text, 'x', CONTROL_LINE_MAX + 2);
	assert_int_equal(control_link_take(&l, text, CONTROL_LINE_MAX), 0);
	assert_int_equal(control_link_take(&l, "\n", 1), 0);
	assert_true(control_link_line(&l, &line, &bytes));
	assert_int_equal(bytes, CONTROL_LINE_MAX);
	assert_int_equal(control_link_take(&l, text, 100), 0);
	assert_int_equal(control_link_take(&l, text, CONTROL_LINE_MAX - 99), -EMSGSIZE);
	control_link_free(&l);
	text[CONTROL_LINE_MAX + 1] = '\n';
	assert_int_equal(control_link_take(&l, text, CONTROL_LINE_MAX + 2), -EMSGSIZE);
	control_link_free(&l);
	free(text);
}

static void test_out(void **state)
{
	struct control_link l = {.scanned = 0};
	static char chunk[1 << 16];
	const char *data;
	size_t queued = 0;

	(void)state;
	while (control_link_put(&l, chunk, sizeof(chunk)) == 0)
		queued += sizeof(chunk);
	assert_int_equal(queued, CONTROL_OUT_MAX);
	assert_int_equal(control_link_pending(&l, &data), queued);
	control_link_sent(&l, 5);
	assert_int_equal(control_link_put(&l, "12345", 5), 0);
	assert_int_equal(control_link_put(&l, "6", 1), -ENOBUFS);
	control_link_sent(&l, queued - 5);
	assert_int_equal(control_link_pending(&l, &data), 5);
	assert_memory_equal(data, "12345", 5);
	control_link_free(&l);
}

/* ---- a conversation without a socket ---- */

static struct control *make(void)
{
	const struct control_config cfg = {.version = "1.2", .name = "some"};
	struct error err = {0};
	struct control *c;

	assert_int_equal(control_create(&c, &cfg, &err), 0);
	return c;
}

/* What @p is sent next; a new reference. */
static json_t *next(struct control_peer *p)
{
	const char *text, *end;
	size_t bytes = control_link_pending(&p->link, &text);
	json_t *o;

	assert_true(bytes > 0);
	end = memchr(text, '\n', bytes);
	assert_non_null(end);
	o = json_loadb(text, (size_t)(end - text), 0, NULL);
	assert_non_null(o);
	control_link_sent(&p->link, (size_t)(end + 1 - text));
	return o;
}

static void expect(struct control_peer *p, const char *want)
{
	json_t *o = next(p), *w = json_loads(want, 0, NULL);

	assert_non_null(w);
	if (json_object_get(o, "event"))
		json_object_del(o, "timestamp");
	if (!json_equal(o, w))
		fail_msg("%s instead of %s", json_dumps(o, JSON_COMPACT), want);
	json_decref(o);
	json_decref(w);
}

static struct control_peer *meet(struct control *c)
{
	struct control_peer *p = control_peer_open(c, -1);

	assert_non_null(p);
	expect(p, "{\"gnomon\":{\"version\":\"1.2\",\"protocol\":1,\"name\":\"some\",\"capabilities\":[]}}");
	return p;
}

static void say(struct control *c, struct control_peer *p, const char *line)
{
	control_peer_take(c, p, line, strlen(line));
	while (control_peer_turn(c, p))
		;
}

static void test_requests(void **state)
{
	static const struct { const char *says, *gets; } talk[] = {
		{"{\"execute\":\"query-jobs\",\"id\":[1]}\n", "{\"return\":[],\"id\":[1]}"},
		{"{\"execute\":\"query-jobs\",\"arguments\":{}}\r\n", "{\"return\":[]}"},
		{"{\"execute\":\"query-status\"}\n", "{\"return\":{\"status\":\"waiting\",\"name\":\"some\"}}"},
		{"{\"execute\":\"stop\",\"id\":2}\n",
		 "{\"error\":{\"class\":\"NotNow\",\"desc\":\"there is no VM yet\"},\"id\":2}"},
		{"{\"execute\":\"query-jobs\",\"arguments\":{\"x\":1},\"id\":3}\n",
		 "{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"unknown argument 'x'\"},\"id\":3}"},
		{"{\"execute\":\"cancel-job\"}\n",
		 "{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"argument 'kind' is missing\"}}"},
		{"{\"execute\":\"cancel-job\",\"arguments\":{\"kind\":[]}}\n",
		 "{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"argument 'kind': a string is wanted\"}}"},
		{"{\"execute\":\"\\u001b[2J\"}\n",
		 "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"no command '?[2J' (query-commands lists them)\"}}"},
		{"{\"execute\":1}\n", "{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"'execute' is no string\"}}"},
		{"{\"id\":4}\n", "{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"'execute' is missing\"},\"id\":4}"},
		{"[]\n", "{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"a request is an object\"}}"},
		{"{\"execute\":\"stop\",\"\xc3\xa9\":1}\n",
		 "{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"unknown member '?" "?' of the request\"}}"},
	};
	struct control *c = make();
	struct control_peer *p = meet(c);

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(talk); i++) {
		say(c, p, talk[i].says);
		expect(p, talk[i].gets);
	}
	say(c, p, "\n \t\r\n");
	say(c, p, "{\"execute\":\"query-jobs\"}"); /* no end of line yet */
	assert_false(control_peer_turn(c, p));
	control_destroy(c);
}

/* A request for the VM's thread holds up its own client only. */
static void test_order(void **state)
{
	struct control *c = make();
	struct control_peer *a = meet(c), *b = meet(c);

	(void)state;
	control_attach(c, NULL);
	say(c, a, "{\"execute\":\"cont\",\"id\":1}\n{\"execute\":\"query-jobs\",\"id\":2}\n");
	say(c, b, "{\"execute\":\"query-jobs\",\"id\":3}\n");
	expect(b, "{\"return\":[],\"id\":3}");
	assert_true(a->waiting);
	control_serve(c);
	assert_false(a->waiting);
	say(c, a, "{\"execute\":\"cont\",\"id\":4}\n");
	expect(a, "{\"return\":{},\"id\":1}");
	expect(a, "{\"return\":[],\"id\":2}");
	control_detach(c); /* with one that waits */
	expect(a, "{\"error\":{\"class\":\"NotNow\",\"desc\":\"the VM has ended\"},\"id\":4}");
	control_destroy(c);
}

static void test_jobs(void **state)
{
	struct control *c = make();
	struct control_peer *p = meet(c);
	struct error err = {0}, broken = {-EIO, "it broke"};
	struct control_job *job, *second;
	json_t *o;

	(void)state;
	assert_int_equal(control_job_begin(c, "migrate", &job, &err), 0);
	assert_int_equal(control_job_begin(c, "migrate", &second, &err), -EBUSY);
	control_job_phase(job, "copying");
	control_job_set(job, "pages", 5);
	control_job_set(job, "pages", 7);
	for (unsigned i = 0; i < 40; i++)
		control_job_set(job, i & 1 ? "odd" : "even", i);
	o = control_job_describe(c, "migrate");
	assert_string_equal(json_string_value(json_object_get(o, "status")), "running");
	assert_string_equal(json_string_value(json_object_get(o, "phase")), "copying");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "progress"), "pages")), 7);
	assert_int_equal(json_object_size(json_object_get(o, "progress")), 3);
	json_decref(o);
	json_decref(next(p)); /* JOB: it has begun */
	assert_false(control_job_cancelled(job));
	say(c, p, "{\"execute\":\"cancel-job\",\"arguments\":{\"kind\":\"migrate\"}}\n");
	expect(p, "{\"return\":{}}");
	assert_true(control_job_cancelled(job));
	control_job_end(job, -EIO, &broken);
	o = next(p);
	assert_string_equal(json_string_value(json_object_get(o, "event")), "JOB");
	assert_string_equal(json_string_value(json_object_get(json_object_get(o, "data"), "error")), "it broke");
	json_decref(o);
	assert_int_equal(control_job_cancel(c, "migrate", &err), -ENOENT);
	assert_int_equal(control_job_begin(c, "migrate", &job, &err), 0);
	control_job_end(job, 0, NULL);
	o = control_job_describe(c, "checkpoint");
	assert_string_equal(json_string_value(json_object_get(o, "status")), "none");
	json_decref(o);
	control_destroy(c);
}

/* The last CONTROL_EVENTS_KEPT of them are told to those who come late. */
static void test_events(void **state)
{
	struct control *c = make();
	struct control_peer *p;
	const json_t *events;
	json_t *o;

	(void)state;
	for (int i = 0; i < CONTROL_EVENTS_KEPT + 3; i++)
		control_emit(c, "TEST", json_pack("{s:i}", "n", i));
	p = meet(c);
	control_emit(c, "LAST", NULL);
	expect(p, "{\"event\":\"LAST\",\"data\":{}}");
	say(c, p, "{\"execute\":\"query-events\"}\n");
	o = next(p);
	events = json_object_get(o, "return");
	assert_int_equal(json_array_size(events), CONTROL_EVENTS_KEPT);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json_array_get(events, 0), "data"), "n")), 4);
	json_decref(o);
	control_destroy(c);
}

/* One that does not read is given up; the others are not. */
static void test_deaf(void **state)
{
	struct control *c = make();
	struct control_peer *deaf = meet(c), *p = meet(c);
	char text[60000];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	for (unsigned i = 0; i < 100; i++) {
		control_emit(c, "LONG", json_pack("{s:s}", "text", text));
		json_decref(next(p));
	}
	assert_true(deaf->overrun);
	assert_false(p->overrun);
	control_destroy(c);
}

/* ---- a VM ---- */

/* Multiboot, without a file format: jmp to itself. */
static struct vm *make_vm(enum engine_mmu mmu)
{
	static const uint32_t spin[] = {0x1badb002, 0x10000, -(0x1badb002u + 0x10000u), 0x100000, 0x100000, 0, 0, 0x100020,
					0x9090feeb};
	struct vm_config cfg;
	struct error err = {0};
	struct vm *vm;

	vm_config_default(&cfg);
	cfg.engine.memory = (uint64_t)16 << 20;
	cfg.engine.mmu = mmu;
	cfg.kernel = "spin";
	cfg.kernel_image = spin;
	cfg.kernel_bytes = sizeof(spin);
	assert_int_equal(vm_create(&vm, &cfg, &err), 0);
	return vm;
}

struct world {
	struct control *control;
	struct vm *vm;
	unsigned errands, ticks;
	pthread_t vm_thread;
	bool elsewhere; /* an errand was run by another thread */
};

static int errand(void *ctx)
{
	struct world *w = ctx;

	w->elsewhere |= !pthread_equal(pthread_self(), w->vm_thread);
	w->errands++;
	return 42;
}

static int errand_pause(void *ctx)
{
	control_pause(((struct world *)ctx)->control);
	return 0;
}

static int errand_leave(void *ctx)
{
	vm_leave(((struct world *)ctx)->vm, VM_END_SUSPENDED);
	return 0;
}

/* A job's thread: it has things done on the VM's, running or paused, until the VM is gone. */
static void *work(void *ctx)
{
	struct world *w = ctx;
	uintptr_t bad = 0;

	for (unsigned i = 0; i < 20; i++)
		bad |= control_run_on_vm(w->control, errand, w) != 42;
	bad |= control_run_on_vm(w->control, errand_pause, w) != 0;
	for (unsigned i = 0; i < 20; i++)
		bad |= control_run_on_vm(w->control, errand, w) != 42;
	bad |= control_run_on_vm(w->control, errand_leave, w) != 0;
	bad |= control_run_on_vm(w->control, errand, w) != -ECANCELED;
	return (void *)bad;
}

static void count_tick(void *ctx) { ((struct world *)ctx)->ticks++; }

static void test_errands(void **state)
{
	(void)state;
	for (unsigned m = ENGINE_NATIVE; m <= ENGINE_EPT; m++) {
		struct world w = {.control = make(), .vm = make_vm((enum engine_mmu)m), .vm_thread = pthread_self()};
		struct vm_ticker other = {.tick = count_tick, .ctx = &w};
		struct control_peer *p = meet(w.control);
		pthread_t thread;
		void *bad;

		control_attach(w.control, w.vm);
		vm_add_ticker(w.vm, &other);
		vm_tick(w.vm, &other);
		assert_int_equal(pthread_create(&thread, NULL, work, &w), 0);
		assert_int_equal(vm_run_until(w.vm, &VM_STOP_NONE), VM_STOPPED_END);
		pthread_join(thread, &bad);
		assert_null(bad);
		assert_false(w.elsewhere);
		assert_int_equal(w.errands, 40);
		assert_int_equal(w.ticks, 1); /* the ticks of one are not the other's */
		expect(p, "{\"event\":\"STOP\",\"data\":{}}");
		json_decref(next(p)); /* SHUTDOWN */
		say(w.control, p, "{\"execute\":\"query-status\"}\n");
		{
			json_t *o = next(p), *s = json_object_get(o, "return");

			assert_string_equal(json_string_value(json_object_get(s, "status")), "ended");
			assert_string_equal(json_string_value(json_object_get(s, "reason")), "suspended");
			json_decref(o);
		}
		control_destroy(w.control);
		vm_destroy(w.vm);
	}
}

/* ---- the path ---- */

static void test_path(void **state)
{
	char dir[] = "/tmp/control-XXXXXX", path[64];
	struct control *a = make(), *b = make();
	struct error err = {0};
	struct stat st;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(control_open(a, path, &err), 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(control_open(b, path, &err), -EADDRINUSE);
	control_destroy(b);
	assert_int_equal(lstat(path, &st), 0); /* still a's */
	/* Somebody else's by now: it is not ours to remove. */
	assert_int_equal(unlink(path), 0);
	b = make();
	assert_int_equal(control_open(b, path, &err), 0);
	control_destroy(a);
	assert_int_equal(lstat(path, &st), 0);
	control_destroy(b);
	assert_int_equal(lstat(path, &st), -1);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),    cmocka_unit_test(test_longest_line), cmocka_unit_test(test_out),
		cmocka_unit_test(test_requests), cmocka_unit_test(test_order),        cmocka_unit_test(test_jobs),
		cmocka_unit_test(test_events),   cmocka_unit_test(test_deaf),         cmocka_unit_test(test_errands),
		cmocka_unit_test(test_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
