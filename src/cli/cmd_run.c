/* gnomon run: boots one guest under one scheme, with the terminal as its serial console. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/cli.h"
#include "cli/console.h"
#include "cli/stats.h"
#include "lab/report.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#define PROGRESS_INTERVAL_US 200000

struct run {
	struct vm_config cfg;
	const char *report, *serial;
	int progress_fd; /* -1: none */
	struct console console;
	struct report_file file;
	struct vm *vm;
	bool want_stats;
	uint64_t stats_ns; /* 0: the default */
	struct stats stats;
};

/* Signal handlers have no other way to find the run. */
static struct {
	struct run *run;
} current;

/* ---- options ---- */

static int set_mmu(void *ctx, const char *v, struct error *err)
{
	return parse_mmu(v, strlen(v), &((struct run *)ctx)->cfg.engine.mmu, err);
}

static int set_report(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct run *)ctx)->report = v;
	return 0;
}

static int set_serial(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct run *)ctx)->serial = v;
	return 0;
}

static int set_progress(void *ctx, const char *v, struct error *err)
{
	uint64_t fd;
	int ret = parse_count("progress-fd", v, &fd, err);

	if (ret)
		return ret;
	if (fd > INT32_MAX)
		return error_set(err, -EINVAL, "--progress-fd '%s': no file descriptor", v);
	((struct run *)ctx)->progress_fd = (int)fd;
	return 0;
}

static int set_stats(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct run *)ctx)->want_stats = true;
	return 0;
}

static int set_stats_interval(void *ctx, const char *v, struct error *err)
{
	((struct run *)ctx)->want_stats = true;
	return stats_parse_interval(v, &((struct run *)ctx)->stats_ns, err);
}

static const struct option_desc run_options[] = {
	{"mmu", "SCHEME", "native, brute, shadow or ept (default native)", set_mmu},
	{"report", "FILE", "write what was counted as JSON", set_report},
	{"serial", "FILE", "serial output to FILE, or 'none' (default: the terminal)", set_serial},
	{"stats", NULL, "show on standard error once a second what is counted", set_stats},
	{"stats-interval", "S", "every S seconds (0.05 to 3600)", set_stats_interval},
	{"progress-fd", "N", "write the count of instructions to descriptor N now and then", set_progress},
	{0},
};

static void help(FILE *out)
{
	const struct option_group groups[] = {
		{.title = "Run", .table = run_options},
		{.title = "Guest and machine", .table = guest_options},
		{0},
	};

	fputs("Usage: gnomon run --kernel FILE [--mmu SCHEME] [OPTIONS]\n\n"
	      "Boots one guest. Its serial port is the terminal: Ctrl-A X ends the run, Ctrl-A H helps.\n",
	      out);
	options_help(out, groups);
	fputs("\nExit status:\n"
	      "  0    the guest powered off or reset, or --limit-insns was reached\n"
	      "  odd  the guest wrote V to the debug-exit port 0xf4: (V << 1 | 1) & 255\n"
	      "  2    bad options, kernel, initrd or report path: nothing was run\n"
	      "  4    triple fault\n"
	      "  6    halted for good: nothing is left that could wake the processor\n"
	      "  8    VM entry failed, or the hypervisor gave up\n"
	      "  10   failure of the host: out of memory, report not written\n"
	      "  130  interrupted: Ctrl-A X or a signal\n",
	      out);
}

/* ---- signals ---- */

static void on_end_signal(int sig)
{
	(void)sig;
	if (current.run && current.run->vm)
		vm_interrupt(current.run->vm);
}

/* A crash must not leave a terminal in raw mode. */
static void on_fatal_signal(int sig)
{
	if (current.run)
		console_restore(&current.run->console);
	raise(sig); /* the handler is gone (SA_RESETHAND): the signal takes its course when we return */
}

static void on_progress_signal(int sig)
{
	char text[24], *p = text + sizeof(text);
	int saved = errno;
	uint64_t n;

	(void)sig;
	if (current.run && current.run->vm) {
		*--p = '\n';
		for (n = vm_insns(current.run->vm); n || *p == '\n'; n /= 10)
			*--p = (char)('0' + n % 10);
		if (write(current.run->progress_fd, p, (size_t)(text + sizeof(text) - p)) < 0) {
			/* nobody listens: no reason to stop */
		}
	}
	errno = saved;
}

static void install_signals(struct run *run)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
	const struct itimerval every = {{0, PROGRESS_INTERVAL_US}, {0, PROGRESS_INTERVAL_US}};
	struct sigaction sa = {.sa_handler = on_end_signal};

	current.run = run;
	for (unsigned i = 0; i < ARRAY_SIZE(ending); i++)
		sigaction(ending[i], &sa, NULL);
	sa = (struct sigaction){.sa_handler = on_fatal_signal, .sa_flags = (int)SA_RESETHAND};
	for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
		sigaction(fatal[i], &sa, NULL);
	sa = (struct sigaction){.sa_handler = SIG_IGN};
	sigaction(SIGPIPE, &sa, NULL);
	if (run->console.tty)
		sigaction(SIGTSTP, &sa, NULL);
	if (run->progress_fd >= 0) {
		sa = (struct sigaction){.sa_handler = on_progress_signal, .sa_flags = SA_RESTART};
		sigaction(SIGALRM, &sa, NULL);
		setitimer(ITIMER_REAL, &every, NULL);
	}
}

/* ---- the end ---- */

static int exit_status(const struct vm_result *r)
{
	switch (r->end) {
	case VM_END_POWER_OFF:
	case VM_END_RESET:
	case VM_END_LIMIT:
		return CLI_OK;
	case VM_END_DEBUG_EXIT:
		return r->debug_exit;
	case VM_END_TRIPLE_FAULT:
		return CLI_TRIPLE_FAULT;
	case VM_END_HALTED:
		return CLI_HALTED;
	case VM_END_INTERRUPTED:
		return CLI_INTERRUPTED;
	case VM_END_FAILED:
	case VM_END_NONE:
	case VM_END_COUNT:
		break;
	}
	return CLI_GUEST_FAILED;
}

static struct report_host measure_host(int exit_code)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (struct report_host){.user_seconds = (double)ru.ru_utime.tv_sec + (double)ru.ru_utime.tv_usec / 1e6,
				    .max_rss_kib = (uint64_t)ru.ru_maxrss,
				    .exit_code = exit_code};
}

static void say_end(const struct run *run, const struct vm_result *r, const struct report_host *host)
{
	fprintf(stderr, "gnomon run: %s: %s after %llu instructions, %.2f s virtual, %.2f s user\n",
		engine_mmu_name[run->cfg.engine.mmu], vm_end_name[r->end], (unsigned long long)r->insns,
		(double)r->virtual_ns / 1e9, host->user_seconds);
	if (*r->message)
		fprintf(stderr, "%s%s", r->message, r->message[strlen(r->message) - 1] == '\n' ? "" : "\n");
}

static int write_report(struct run *run, const struct vm_result *r, const struct report_host *host)
{
	struct error err = {0};
	json_t *json;
	int ret;

	if (!run->report)
		return 0;
	json = report_build(&run->cfg, r, host);
	ret = report_file_commit(&run->file, json, &err);
	json_decref(json);
	if (ret)
		cli_error("run", err.text);
	return ret;
}

static int start_stats(struct run *run, struct error *err)
{
	if (!run->want_stats)
		return 0;
	stats_init(&run->stats, stderr, run->stats_ns, run->console.out >= 0 && isatty(run->console.out));
	stats_add(&run->stats, run->vm, NULL, run->cfg.engine.mmu);
	return stats_start(&run->stats, err);
}

static int run_to_end(struct run *run)
{
	static struct vm_result result; /* large */
	struct report_host host;
	int status;

	vm_run(run->vm, &result);
	stats_stop(&run->stats);
	status = exit_status(&result);
	host = measure_host(status);
	console_restore(&run->console);
	console_end_line(&run->console);
	say_end(run, &result, &host);
	return write_report(run, &result, &host) ? CLI_HOST_FAILED : status;
}

/* Everything that can go wrong before the guest runs goes wrong here. */
static int prepare(struct run *run, struct error *err)
{
	int ret = guest_options_check(&run->cfg, err);

	if (ret == 0 && run->report)
		ret = report_file_open(&run->file, run->report, err);
	if (ret == 0)
		ret = vm_create(&run->vm, &run->cfg, err);
	return ret;
}

/* The console is opened last: error messages are for a terminal in its ordinary state. */
static int run_prepared(struct run *run, struct error *err)
{
	int ret = console_open(&run->console, run->serial, err);

	if (ret) {
		cli_error("run", err->text);
		return CLI_USAGE;
	}
	vm_set_console(run->vm, console_for_vm(&run->console));
	install_signals(run);
	ret = start_stats(run, err);
	if (ret) {
		console_close(&run->console);
		cli_error("run", err->text);
		return CLI_HOST_FAILED;
	}
	ret = run_to_end(run);
	console_close(&run->console);
	return ret;
}

static int run_command(int argc, char **argv)
{
	static struct run run = {.progress_fd = -1, .file = {.fd = -1}, .console = {.in = -1, .out = -1}};
	const struct option_group groups[] = {
		{.title = "Run", .table = run_options, .ctx = &run},
		{.title = "Guest and machine", .table = guest_options, .ctx = &run.cfg},
		{0},
	};
	struct error err = {0};
	int status;

	vm_config_default(&run.cfg);
	switch (options_parse(argc, argv, groups, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		return CLI_OK;
	case OPTIONS_BAD:
		strncat(err.text, " (see gnomon run --help)", sizeof(err.text) - strlen(err.text) - 1);
		cli_error("run", err.text);
		return CLI_USAGE;
	case OPTIONS_OK:
		break;
	}
	if (prepare(&run, &err)) {
		cli_error("run", err.text);
		status = err.code == -ENOMEM ? CLI_HOST_FAILED : CLI_USAGE;
	} else {
		status = run_prepared(&run, &err);
	}
	report_file_abandon(&run.file);
	current.run = NULL;
	vm_destroy(run.vm);
	return status;
}

const struct command cmd_run = {"run", "boot one guest under one scheme", run_command, help};
