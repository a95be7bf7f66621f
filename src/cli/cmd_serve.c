/* gnomon serve: waits for a VM that another gnomon sends (gnomon migrate), and runs it to its end. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/session.h"
#include "vm/migrate_in.h"

#include <errno.h>

#define LISTEN_DEFAULT  "tcp:127.0.0.1:4455"
#define RECOVER_DEFAULT 60000

static struct {
	struct session session;
	struct transport_options transport;
	const char *listen;
	struct migrate_in_config cfg;
	struct migrate_in *in;
	int argc;
	char **argv;
	bool runs;         /* the VM is here */
	volatile sig_atomic_t cancelled;
	int interruptions; /* by signals, since then */
} serve;

static int set_listen(void *ctx, const char *v, struct error *err)
{
	(void)ctx, (void)err;
	serve.listen = v;
	return 0;
}

static int set_disks(void *ctx, const char *v, struct error *err)
{
	(void)ctx, (void)err;
	serve.cfg.disks = v;
	return 0;
}

static const struct option_desc serve_options[] = {
	{"listen", "ADDRESS", "where to wait: tcp:HOST:PORT or tcp:[IPV6]:PORT (default " LISTEN_DEFAULT ")",
	 set_listen},
	{"disks", "DIRECTORY", "disks come along (gnomon migrate --with-disks): their images are made in DIRECTORY",
	 set_disks},
	{0},
};

static void help(FILE *out)
{
	static struct option_desc machine[GUEST_OPTIONS_MAX];
	const struct option_group groups[] = {
		{.title = "Serve", .table = serve_options},
		{.title = "Connection", .table = transport_options},
		{.title = "Run", .table = vm_options},
		{.title = "Command", .table = session_options},
		{.title = "Machine", .table = machine},
		{0},
	};

	guest_options_of_machine(machine);
	fputs("Usage: gnomon serve [--listen ADDRESS] [--tls-psk FILE] [--mmu SCHEME] [OPTIONS]\n\n"
	      "Waits for a VM that gnomon migrate sends, and runs it on to its end, bit for bit, under any scheme and\n"
	      "on any hardware. What the guest can see of its machine comes with it; disks have to be there under the\n"
	      "same names, or come along (--disks). A sender who fails, or is refused, is told of, and the wait goes on.\n",
	      out);
	options_help(out, groups);
	fputs(session_exit_help, out);
}

static void say(void *ctx, const char *line)
{
	(void)ctx;
	cli_error("serve", line);
}

/* ---- the VM ---- */

/* The options once more, over what has come: the configuration is the VM's, they change the rest of it. */
static int adapt(void *ctx, struct vm_config *cfg, struct error *err)
{
	static struct option_desc machine[GUEST_OPTIONS_MAX];
	static struct session ignored;
	struct transport_options transport = {.psk = NULL};
	struct vm_description what = {.cfg = *cfg};
	const struct option_group groups[] = {
		{.title = "Serve", .table = serve_options},
		{.title = "Connection", .table = transport_options, .ctx = &transport},
		{.title = "Run", .table = vm_options, .ctx = &what},
		{.title = "Command", .table = session_options, .ctx = &ignored},
		{.title = "Machine", .table = machine, .ctx = &what.cfg},
		{0},
	};

	(void)ctx;
	guest_options_of_machine(machine);
	if (options_parse(serve.argc, serve.argv, groups, err) != OPTIONS_OK)
		return -EINVAL;
	*cfg = serve.session.run[0].what.cfg = what.cfg;
	return 0;
}

static int connect_vm(void *ctx, struct vm *vm, struct error *err)
{
	(void)ctx;
	return session_connect(&serve.session, vm, err);
}

/* Until there is a VM, whose run has handlers of its own. */
static void on_signal(int sig)
{
	(void)sig;
	serve.cancelled = true;
	migrate_in_cancel(serve.in);
}

static void handle_signals(void)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	const struct sigaction sa = {.sa_handler = on_signal};

	for (unsigned i = 0; i < ARRAY_SIZE(ending); i++)
		sigaction(ending[i], &sa, NULL);
}

static void disconnect_vm(void *ctx)
{
	(void)ctx;
	session_disconnect(&serve.session);
	handle_signals();
}

static int wait_for_vm(void *ctx, const struct vm_config *cfg, struct vm **out, struct error *err)
{
	int ret;

	(void)ctx, (void)cfg;
	ret = migrate_in_create(&serve.in, &serve.cfg, err);
	if (ret)
		return ret;
	fprintf(stderr, "gnomon serve: waiting for a VM at %s%s\n", migrate_in_name(serve.in),
		serve.cfg.how.security != TRANSPORT_PLAIN ? " (TLS)" : transport_is_loopback(&serve.cfg.at)
		? " (no TLS: from this machine only)" : " (no TLS: from anybody)");
	handle_signals();
	ret = migrate_in_wait(serve.in, out, err);
	serve.runs = ret == 0;
	return ret;
}

/*
 * The first signal ends the VM, as ever. If it cannot end, because memory has to come first that perhaps never comes,
 * the second one gives that up.
 */
static void interrupt(void *ctx)
{
	(void)ctx;
	if (!serve.in || (serve.runs && !serve.interruptions++))
		return;
	serve.cancelled |= !serve.runs;
	migrate_in_cancel(serve.in);
}

static void ended(void *ctx)
{
	(void)ctx;
	if (serve.in && serve.session.run[0].vm)
		migrate_in_finish(serve.in);
}

/* ---- the command ---- */

static int complete(struct error *err)
{
	const struct transport_options *o = &serve.transport;
	struct migrate_in_config *c = &serve.cfg;
	int ret = transport_parse_address(serve.listen ? serve.listen : LISTEN_DEFAULT, &c->at, err);

	if (ret)
		return ret;
	c->how = TRANSPORT_CONFIG_DEFAULT;
	c->how.psk_file = o->psk;
	c->how.ca_file = o->ca;
	c->how.cert_file = o->cert;
	c->how.cert_key = o->key;
	c->how.peer_name = o->name;
	if (o->stall_ms)
		c->how.stall_ms = (int64_t)o->stall_ms;
	c->recover_ms = o->recover_ms ? (int64_t)o->recover_ms : RECOVER_DEFAULT;
	c->adapt = adapt;
	c->connect = connect_vm;
	c->disconnect = disconnect_vm;
	c->say = say;
	return transport_choose_security(&c->how, &c->at, o->plain, err);
}

static enum options_result parse(int argc, char **argv, struct error *err)
{
	static struct option_desc machine[GUEST_OPTIONS_MAX];
	struct session *s = &serve.session;
	const struct option_group groups[] = {
		{.title = "Serve", .table = serve_options},
		{.title = "Connection", .table = transport_options, .ctx = &serve.transport},
		{.title = "Run", .table = vm_options, .ctx = &s->guest},
		{.title = "Command", .table = session_options, .ctx = s},
		{.title = "Machine", .table = machine, .ctx = &s->guest.cfg},
		{0},
	};
	enum options_result parsed;

	guest_options_of_machine(machine);
	parsed = options_parse(argc, argv, groups, err);
	return parsed == OPTIONS_OK && complete(err) ? OPTIONS_BAD : parsed;
}

static int serve_command(int argc, char **argv)
{
	struct session *s = &serve.session;
	struct error err = {0};
	int status;

	session_init(s, "serve");
	serve.argc = argc;
	serve.argv = argv;
	switch (parse(argc, argv, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		return CLI_OK;
	case OPTIONS_BAD:
		strncat(err.text, " (see gnomon serve --help)", sizeof(err.text) - strlen(err.text) - 1);
		cli_error("serve", err.text);
		return CLI_USAGE;
	case OPTIONS_OK:
		break;
	}
	s->make = wait_for_vm;
	s->interrupt = interrupt;
	s->ended = ended;
	status = session_run(s);
	migrate_in_free(serve.in);
	return serve.cancelled ? CLI_INTERRUPTED : status;
}

const struct command cmd_serve = {"serve", "wait for a VM that moves here, and run it", serve_command, help};
