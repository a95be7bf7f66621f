/*
 * See control.h. A client has one request at a time under way: its next line waits, which keeps its answers in
 * order and the queue for the VM's thread as short as the list of clients.
 */
#include "vm/control.h"

#include "vm/control_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- sending ---- */

void control_wake(struct control *c)
{
	const uint64_t one = 1;

	if (write(c->wake_fd, &one, sizeof(one)) < 0) {
		/* full: it is awake */
	}
}

void control_peer_send(struct control_peer *cl, char *line)
{
	if (!line || control_link_put(&cl->link, line, strlen(line)))
		cl->overrun = true;
	free(line);
}

static void answer_return(struct control *c, struct control_peer *cl, json_t *ret, json_t *id)
{
	char *line = control_format_return(ret, id);

	control_lock(c);
	control_peer_send(cl, line);
	control_unlock(c);
}

static void answer_error(struct control *c, struct control_peer *cl, const struct error *err, json_t *id)
{
	char *line = control_format_error(err, id);

	control_lock(c);
	control_peer_send(cl, line);
	control_unlock(c);
}

static void keep_event(struct control *c, json_t *event)
{
	json_t **slot = &c->event[c->events++ % CONTROL_EVENTS_KEPT];

	json_decref(*slot);
	*slot = event;
}

void control_emit_locked(struct control *c, const char *event, json_t *data)
{
	json_t *o = control_build_event(event, data);

	json_decref(data);
	if (!o)
		return; /* out of memory: nobody hears of it */
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		if (c->peer[i].used && !c->peer[i].closing)
			control_peer_send(&c->peer[i], control_format(o));
	keep_event(c, o);
}

void control_emit(struct control *c, const char *event, json_t *data)
{
	control_lock(c);
	control_emit_locked(c, event, data);
	control_unlock(c);
	control_wake(c);
}

/* ---- commands ---- */

static const struct control_command *find_command(const struct control *c, const char *name, void **ctx)
{
	for (unsigned i = 0; i < c->table_count; i++)
		for (const struct control_command *cmd = c->tables[i].table; cmd->name; cmd++)
			if (strcmp(cmd->name, name) == 0) {
				*ctx = c->tables[i].ctx;
				return cmd;
			}
	return NULL;
}

/* @vm: on its thread, otherwise NULL */
static void execute(struct control *c, struct control_peer *cl, struct vm *vm, const struct control_command *cmd,
		    void *ctx, const struct control_request *rq)
{
	const struct control_call call = {.control = c, .vm = vm, .ctx = ctx, .args = rq->args};
	struct error err = {0};
	json_t *ret = NULL;
	bool held = vm && c->held && !cmd->while_held;
	int code = held ? error_set(&err, -EBUSY, "%s", c->held) : cmd->run(&call, &ret, &err);

	if (code)
		err.code = code;
	if (code)
		answer_error(c, cl, &err, rq->id);
	else
		answer_return(c, cl, ret, rq->id);
	json_decref(ret);
}

static int no_vm(const struct control *c, struct error *err)
{
	return error_set(err, -EBUSY, c->phase == CONTROL_ENDED ? "the VM has ended" : "there is no VM yet");
}

/* Gives the request to the VM's thread. -EBUSY with @err if there is no VM. */
static int hand_over(struct control *c, struct control_peer *cl, const struct control_command *cmd, void *ctx,
		     struct control_request *rq, struct error *err)
{
	int ret = 0;

	control_lock(c);
	if (c->phase != CONTROL_VM) {
		ret = no_vm(c, err);
	} else {
		cl->rq = *rq;
		*rq = (struct control_request){.args = NULL};
		cl->cmd = cmd;
		cl->cmd_ctx = ctx;
		cl->waiting = true;
		c->queue[c->queued++] = (uint8_t)(cl - c->peer);
		if (c->vm) /* under the lock: it is still there */
			vm_tick(c->vm, &c->ticker);
	}
	control_unlock(c);
	return ret;
}

static void handle_request(struct control *c, struct control_peer *cl, struct control_request *rq)
{
	struct error err = {0};
	void *ctx = NULL;
	const struct control_command *cmd = find_command(c, rq->name, &ctx);
	bool here;

	control_lock(c);
	here = cmd && (!cmd->on_vm_thread || (cmd->without_vm && c->phase != CONTROL_VM));
	control_unlock(c);
	if (!cmd)
		error_set(&err, -ENOSYS, "no command '%s' (query-commands lists them)", rq->name);
	else if (control_check_arguments(cmd, rq->args, &err) == 0) {
		if (here)
			execute(c, cl, NULL, cmd, ctx, rq);
		else
			hand_over(c, cl, cmd, ctx, rq, &err);
	}
	if (err.code)
		answer_error(c, cl, &err, rq->id);
}

static bool is_blank(const char *line, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
			return false;
	return true;
}

static void handle_line(struct control *c, struct control_peer *cl, const char *line, size_t bytes)
{
	struct control_request rq;
	struct error err = {0};

	if (is_blank(line, bytes))
		return;
	if (control_request_parse(&rq, line, bytes, &err))
		answer_error(c, cl, &err, rq.id);
	else
		handle_request(c, cl, &rq);
	control_request_free(&rq);
}

/* ---- clients ---- */

struct control_peer *control_peer_open(struct control *c, int fd)
{
	const struct control_config cfg = {.version = c->version, .name = c->name};

	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_peer *cl = &c->peer[i];

		if (cl->used)
			continue;
		control_lock(c);
		*cl = (struct control_peer){.used = true, .fd = fd};
		control_peer_send(cl, control_format_greeting(&cfg));
		control_unlock(c);
		return cl;
	}
	return NULL;
}

void control_peer_close(struct control *c, struct control_peer *cl)
{
	control_lock(c);
	control_link_free(&cl->link);
	cl->used = false;
	control_unlock(c);
}

void control_peer_take(struct control *c, struct control_peer *cl, const char *data, size_t bytes)
{
	struct error err = {0};
	int ret = control_link_take(&cl->link, data, bytes);

	if (!ret)
		return;
	error_set(&err, ret, ret == -EMSGSIZE ? "a request of more than 1 MiB" : "out of memory");
	answer_error(c, cl, &err, NULL);
	control_lock(c);
	cl->closing = true;
	control_unlock(c);
}

bool control_peer_turn(struct control *c, struct control_peer *cl)
{
	const char *line, *out;
	size_t bytes;
	bool free_for_it;

	control_lock(c);
	free_for_it = !cl->waiting && !cl->closing && !cl->overrun &&
		      control_link_pending(&cl->link, &out) < CONTROL_OUT_ENOUGH;
	control_unlock(c);
	if (!free_for_it || !control_link_line(&cl->link, &line, &bytes))
		return false;
	handle_line(c, cl, line, bytes);
	return true;
}

/* ---- the VM's thread ---- */

/* The oldest request, which stays the client's. NULL if there is none. */
static struct control_peer *next_waiting(struct control *c)
{
	struct control_peer *cl = c->queued ? &c->peer[c->queue[0]] : NULL;

	if (cl)
		memmove(c->queue, c->queue + 1, --c->queued);
	return cl;
}

static void finish_waiting(struct control *c, struct control_peer *cl)
{
	control_request_free(&cl->rq);
	control_lock(c);
	cl->waiting = false;
	control_unlock(c);
}

static struct control_errand *next_errand(struct control *c)
{
	struct control_errand *e = c->errands;

	if (e)
		c->errands = e->next;
	return e;
}

static void finish_errand(struct control *c, struct control_errand *e, int ret)
{
	control_lock(c);
	e->ret = ret;
	e->done = true;
	pthread_cond_broadcast(&c->errand_done);
	control_unlock(c);
}

/* No more than waited when it began: clients that ask without a pause do not keep the VM from running. */
void control_serve(struct control *c)
{
	struct control_peer *cl;
	struct control_errand *errand;
	unsigned n;

	control_lock(c);
	n = c->queued;
	errand = next_errand(c);
	control_unlock(c);
	if (errand)
		finish_errand(c, errand, errand->fn(errand->ctx));
	while (n--) {
		control_lock(c);
		cl = next_waiting(c);
		control_unlock(c);
		execute(c, cl, c->vm, cl->cmd, cl->cmd_ctx, &cl->rq);
		finish_waiting(c, cl);
	}
	control_wake(c);
}

static void on_tick(void *ctx)
{
	struct control *c = ctx;
	bool more;

	control_serve(c);
	control_lock(c);
	more = c->queued || c->errands;
	if (more && c->vm)
		vm_tick(c->vm, &c->ticker);
	control_unlock(c);
}

static void on_end(void *ctx) { control_detach(ctx); }

int control_run_on_vm(struct control *c, int (*fn)(void *ctx), void *ctx)
{
	struct control_errand errand = {.fn = fn, .ctx = ctx, .ret = -ECANCELED}, **at = &c->errands;

	control_lock(c);
	if (c->phase == CONTROL_VM) {
		while (*at)
			at = &(*at)->next;
		*at = &errand;
		if (c->vm)
			vm_tick(c->vm, &c->ticker);
		while (!errand.done)
			pthread_cond_wait(&c->errand_done, &c->lock);
	}
	control_unlock(c);
	return errand.ret;
}

void control_hold(struct control *c, const char *why) { c->held = why; }

void control_attach(struct control *c, struct vm *vm)
{
	control_lock(c);
	c->phase = CONTROL_VM;
	c->vm = vm;
	c->ticker = (struct vm_ticker){.tick = on_tick, .ended = on_end, .ctx = c};
	json_decref(c->last_status); /* of an earlier one */
	c->last_status = NULL;
	control_unlock(c);
	if (vm)
		vm_add_ticker(vm, &c->ticker);
}

/* What waited for the VM's thread waited in vain. */
static void refuse_waiting(struct control *c)
{
	struct error err = {0};

	no_vm(c, &err);
	for (struct control_peer *cl; (cl = next_waiting(c)); cl->waiting = false) {
		control_peer_send(cl, control_format_error(&err, cl->rq.id));
		control_request_free(&cl->rq);
	}
	for (struct control_errand *e; (e = next_errand(c)); e->done = true)
		;
	pthread_cond_broadcast(&c->errand_done);
}

void control_detach(struct control *c)
{
	struct vm *vm = c->vm;
	json_t *status;

	if (c->phase != CONTROL_VM)
		return;
	status = control_vm_status(c, vm);
	if (vm)
		vm_remove_ticker(vm, &c->ticker);
	control_lock(c);
	c->phase = CONTROL_ENDED;
	c->vm = NULL;
	json_decref(c->last_status);
	c->last_status = status;
	for (unsigned i = 0; i < CONTROL_JOBS; i++)
		c->job[i].cancel |= c->job[i].kind && c->job[i].state == CONTROL_JOB_RUNNING;
	refuse_waiting(c);
	control_emit_locked(c, "SHUTDOWN", json_pack("{s:s, s:I, s:O*}", "reason", vm ? vm_end_name[vm_why_ended(vm)] : "",
						     "instructions", (json_int_t)(vm ? vm_insns(vm) : 0), "message",
						     json_object_get(status, "message")));
	control_unlock(c);
	control_wake(c);
}

/* ---- its life ---- */

int control_add_commands(struct control *c, const struct control_command *table, void *ctx, struct error *err)
{
	if (c->table_count == CONTROL_TABLES)
		return error_set(err, -ENOSPC, "control socket: more than %d tables of commands", CONTROL_TABLES);
	c->tables[c->table_count].table = table;
	c->tables[c->table_count++].ctx = ctx;
	return 0;
}

int control_create(struct control **out, const struct control_config *cfg, struct error *err)
{
	struct control *c = calloc(1, sizeof(*c));

	if (!c)
		return error_set(err, -ENOMEM, "control socket: out of memory");
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->errand_done, NULL);
	c->listener = -1;
	c->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	c->version = strdup(cfg->version);
	c->name = strdup(cfg->name);
	if (c->wake_fd < 0 || !c->version || !c->name) {
		control_destroy(c);
		return error_set(err, -EMFILE, "control socket: out of memory or descriptors");
	}
	control_add_commands(c, control_core_commands, NULL, NULL);
	control_add_commands(c, control_vm_commands, NULL, NULL);
	control_add_commands(c, control_job_commands, NULL, NULL);
	*out = c;
	return 0;
}

/* ---- commands that need no VM ---- */

static json_t *describe_arguments(const struct control_command *cmd)
{
	json_t *o = json_object();

	for (const struct control_argument *a = cmd->args; a && a->name; a++)
		json_object_set_new(o, a->name, json_pack("{s:s, s:b}", "type", control_kind_name[a->kind], "required",
							  (int)a->required));
	return o;
}

static int run_query_commands(const struct control_call *call, json_t **ret, struct error *err)
{
	const struct control *c = call->control;

	(void)err;
	*ret = json_array();
	for (unsigned i = 0; i < c->table_count; i++)
		for (const struct control_command *cmd = c->tables[i].table; cmd->name; cmd++)
			json_array_append_new(*ret, json_pack("{s:s, s:s, s:o}", "name", cmd->name, "help", cmd->help,
							      "arguments", describe_arguments(cmd)));
	return 0;
}

static int run_query_events(const struct control_call *call, json_t **ret, struct error *err)
{
	struct control *c = call->control;
	unsigned first;

	(void)err;
	*ret = json_array();
	control_lock(c);
	first = c->events > CONTROL_EVENTS_KEPT ? c->events - CONTROL_EVENTS_KEPT : 0;
	for (unsigned i = first; i < c->events; i++)
		json_array_append_new(*ret, json_deep_copy(c->event[i % CONTROL_EVENTS_KEPT])); /* no thread shares one */
	control_unlock(c);
	return 0;
}

const struct control_command control_core_commands[] = {
	{.name = "query-commands", .help = "what can be asked for", .run = run_query_commands},
	{.name = "query-events", .help = "the last 32 events, oldest first", .run = run_query_events},
	{.name = NULL},
};
