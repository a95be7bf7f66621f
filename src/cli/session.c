/* See session.h. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/session.h"
#include "vm/saved.h"
#include "vm/schedule.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_INTERVAL_US 200000

/* Signal handlers have no other way to find the run. */
static struct {
	struct session *session;
} current;

static int64_t host_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* ---- options ---- */

static int set_progress(void *ctx, const char *v, struct error *err)
{
	uint64_t fd;
	int ret = parse_count("progress-fd", v, &fd, err);

	if (ret)
		return ret;
	if (fd > INT32_MAX)
		return error_set(err, -EINVAL, "--progress-fd '%s': no file descriptor", v);
	((struct session *)ctx)->progress_fd = (int)fd;
	return 0;
}

static int set_stats(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct session *)ctx)->want_stats = true;
	return 0;
}

static int set_stats_interval(void *ctx, const char *v, struct error *err)
{
	((struct session *)ctx)->want_stats = true;
	return stats_parse_interval(v, &((struct session *)ctx)->stats_ns, err);
}

static int set_suspend(void *ctx, const char *v, struct error *err)
{
	if (!*v)
		return error_set(err, -EINVAL, "--suspend '': a path is wanted");
	((struct session *)ctx)->suspend = v;
	return 0;
}

static int set_suspend_at(void *ctx, const char *v, struct error *err)
{
	return parse_count("suspend-at", v, &((struct session *)ctx)->suspend_at.insns, err);
}

static int set_suspend_on(void *ctx, const char *v, struct error *err)
{
	if (!*v)
		return error_set(err, -EINVAL, "--suspend-on '': a text is wanted");
	((struct session *)ctx)->suspend_at.console = v;
	return 0;
}

static int set_dirty(void *ctx, const char *v, struct error *err)
{
	struct track_config *t = &((struct session *)ctx)->track;

	for (unsigned i = 0; i < ENGINE_DIRTY_COUNT; i++) {
		if (strcmp(v, engine_dirty_name[i]) == 0) {
			t->dirty = true;
			t->how = (enum engine_dirty)i;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "--dirty '%s': one of wp, present, ad, pml", v);
}

static int parse_interval(const char *option, const char *v, uint64_t *interval, struct error *err)
{
	int ret = parse_count(option, v, interval, err);

	if (ret == 0 && *interval < TRACK_INTERVAL_MIN)
		ret = error_set(err, -EINVAL, "--%s '%s': at least %u instructions", option, v, TRACK_INTERVAL_MIN);
	return ret;
}

static int set_dirty_interval(void *ctx, const char *v, struct error *err)
{
	return parse_interval("dirty-interval", v, &((struct session *)ctx)->track.interval, err);
}

static int set_wss(void *ctx, const char *v, struct error *err)
{
	((struct session *)ctx)->track.wss = true;
	return parse_interval("wss", v, &((struct session *)ctx)->track.wss_interval, err);
}

static int set_part_text(const char *option, const char **text, const char *v, struct error *err)
{
	if (!*v)
		return error_set(err, -EINVAL, "--%s '': a text is wanted", option);
	*text = v;
	return 0;
}

static int set_trace(void *ctx, const char *v, struct error *err)
{
	((struct session *)ctx)->part.wanted = true;
	return set_part_text("trace", &((struct session *)ctx)->part.trace, v, err);
}

static int set_count(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct session *)ctx)->part.wanted = true;
	return 0;
}

static int set_count_from(void *ctx, const char *v, struct error *err)
{
	((struct session *)ctx)->part.wanted = true;
	return set_part_text("count-from", &((struct session *)ctx)->part.from, v, err);
}

static int set_count_until(void *ctx, const char *v, struct error *err)
{
	((struct session *)ctx)->part.wanted = true;
	return set_part_text("count-until", &((struct session *)ctx)->part.until, v, err);
}

static int set_trace_from(void *ctx, const char *v, struct error *err)
{
	return set_part_text("trace-from", &((struct session *)ctx)->part.from, v, err);
}

static int set_trace_until(void *ctx, const char *v, struct error *err)
{
	return set_part_text("trace-until", &((struct session *)ctx)->part.until, v, err);
}

const struct option_desc session_options[] = {
	{"stats", NULL, "show on standard error once a second what is counted", set_stats},
	{"stats-interval", "S", "every S seconds (0.05 to 3600)", set_stats_interval},
	{"progress-fd", "N", "write the count of instructions to descriptor N now and then", set_progress},
	{"dirty", "TRACKER", "find out which pages the guest writes: by wp, present, ad or pml\n"
	 "(docs/tracking.md); with --audit memory is compared, too", set_dirty},
	{"dirty-interval", "N", "... every N instructions (default 10M)", set_dirty_interval},
	{"wss", "N", "say every N instructions how many pages were accessed", set_wss},
	{"trace", "FILE", "native only: record the run as a trace for gnomon replay (-: standard output,\n"
	 "and the console is standard error); docs/replay.md", set_trace},
	{"trace-from", "TEXT", "... from where the guest has printed TEXT", set_trace_from},
	{"trace-until", "TEXT", "... to where it has printed TEXT", set_trace_until},
	{"count-interval", NULL, "count for itself what happens with all translations forgotten at the beginning, as a\n"
	 "trace does (\"interval\" of the report)", set_count},
	{"count-from", "TEXT", "... from where the guest has printed TEXT", set_count_from},
	{"count-until", "TEXT", "... to where it has printed TEXT", set_count_until},
	{"suspend", "FILE", "suspend the VM into FILE, where one of the next two says", set_suspend},
	{"suspend-at", "N", "... when N instructions are complete in all (k, M, G: powers of ten)", set_suspend_at},
	{"suspend-on", "TEXT", "... when the guest has printed TEXT", set_suspend_on},
	{0},
};

const char session_exit_help[] =
	"\nExit status (several VMs: 0 if all ended so, otherwise that of the first that did not):\n"
	"  0    the guest powered off or reset, --limit-insns was reached, or the VM went on elsewhere\n"
	"  odd  the guest wrote V to the debug-exit port 0xf4: (V << 1 | 1) & 255\n"
	"  2    bad options, VM file, kernel, initrd or report path: nothing was run\n"
	"  4    triple fault\n"
	"  6    halted for good: nothing is left that could wake the processor\n"
	"  8    VM entry failed, or the hypervisor gave up\n"
	"  10   failure of the host: out of memory, report not written\n"
	"  130  interrupted: Ctrl-A X or a signal\n";

/* ---- signals ---- */

static void on_end_signal(int sig)
{
	(void)sig;
	for (unsigned i = 0; current.session && i < current.session->runs; i++)
		if (current.session->run[i].vm)
			vm_interrupt(current.session->run[i].vm);
	if (current.session && current.session->interrupt)
		current.session->interrupt(current.session->make_ctx);
}

/* A crash must not leave a terminal in raw mode, or a socket that nobody listens at. */
static void on_fatal_signal(int sig)
{
	for (unsigned i = 0; current.session && i < current.session->runs; i++) {
		console_restore(&current.session->run[i].console);
		guest_control_unlink(&current.session->run[i].control);
	}
	raise(sig); /* the handler is gone (SA_RESETHAND): the signal takes its course when we return */
}

static void on_progress_signal(int sig)
{
	char text[24], *p = text + sizeof(text);
	int saved = errno;
	uint64_t n = 0;

	(void)sig;
	for (unsigned i = 0; current.session && i < current.session->runs; i++)
		n += vm_insns(current.session->run[i].vm);
	if (current.session) {
		*--p = '\n';
		for (; n || *p == '\n'; n /= 10)
			*--p = (char)('0' + n % 10);
		if (write(current.session->progress_fd, p, (size_t)(text + sizeof(text) - p)) < 0) {
			/* nobody listens: no reason to stop */
		}
	}
	errno = saved;
}

static void install_signals(struct session *s)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
	const struct itimerval every = {{0, PROGRESS_INTERVAL_US}, {0, PROGRESS_INTERVAL_US}};
	struct sigaction sa = {.sa_handler = on_end_signal};
	bool tty = false;

	current.session = s;
	for (unsigned i = 0; i < ARRAY_SIZE(ending); i++)
		sigaction(ending[i], &sa, NULL);
	sa = (struct sigaction){.sa_handler = on_fatal_signal, .sa_flags = (int)SA_RESETHAND};
	for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
		sigaction(fatal[i], &sa, NULL);
	sa = (struct sigaction){.sa_handler = SIG_IGN};
	sigaction(SIGPIPE, &sa, NULL);
	for (unsigned i = 0; i < s->runs; i++)
		tty |= s->run[i].console.tty;
	if (tty)
		sigaction(SIGTSTP, &sa, NULL);
	if (s->progress_fd >= 0) {
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
	case VM_END_SUSPENDED:
	case VM_END_MIGRATED:
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

static void say_end(const struct session *s, const struct run *run, const struct vm_result *r,
		    const struct report_host *host)
{
	const char *why = s->failure ? s->failure(s->make_ctx) : "";

	fprintf(stderr, "gnomon %s: %s%s%s: %s after %llu instructions, %.2f s virtual, ",
		s->command, run->what.name ? run->what.name : "", run->what.name ? ": " : "",
		engine_mmu_name[run->what.cfg.engine.mmu], vm_end_name[r->end], (unsigned long long)r->insns,
		(double)r->virtual_ns / 1e9);
	if (run->what.name)
		fprintf(stderr, "%llu world switches\n", (unsigned long long)r->obs.hypervisor.world_switches);
	else
		fprintf(stderr, "%.2f s user\n", host->user_seconds);
	if (*r->message)
		fprintf(stderr, "%s%s", r->message, r->message[strlen(r->message) - 1] == '\n' ? "" : "\n");
	if (*why)
		cli_error(s->command, why);
}

static int write_report(const struct session *s, struct run *run, const struct vm_result *r, const struct report_host *host)
{
	struct error err = {0};
	json_t *json;
	int ret;

	if (!run->what.report)
		return 0;
	json = report_build(&run->what.cfg, r, host);
	if (json && s->part.wanted && s->interval.ended)
		json_object_set_new(json, "interval", interval_report(&s->interval));
	if (json && run->track)
		track_report(run->track, json_object_get(json, "tracking"));
	ret = report_file_commit(&run->file, json, &err);
	json_decref(json);
	if (ret)
		cli_error(s->command, err.text);
	return ret;
}

/* What the guest wrote is on its disks before anything else is said of it. */
static int close_devices(const struct session *s, struct run *run)
{
	struct error err = {0};
	int ret = vm_close_devices(run->vm, &err);

	if (ret)
		cli_error(s->command, err.text);
	return ret;
}

/* A line that a device has for the user. */
static void say(void *ctx, const char *line)
{
	const struct run *run = ctx;

	fprintf(stderr, "gnomon %s: %s%s%s\n", current.session->command, run->what.name ? run->what.name : "",
		run->what.name ? ": " : "", line);
}

static void say_devices(struct run *run)
{
	char line[200];

	vm_describe_devices(run->vm, line, sizeof(line));
	if (*line)
		say(run, line);
}

static void say_tracking(struct run *run)
{
	char line[400];

	if (!run->track)
		return;
	track_describe(run->track, line, sizeof(line));
	say(run, line);
}

/* Says and writes what came of one VM. Returns its exit status. */
static int finish(const struct session *s, struct run *run)
{
	static struct vm_result result; /* large */
	struct report_host host;
	int status;

	vm_result(run->vm, &result);
	say_devices(run);
	say_tracking(run);
	status = close_devices(s, run) ? CLI_HOST_FAILED : exit_status(&result);
	/* Also when only the hash needed what could not be had: then the hash is of something else. */
	if (status == CLI_OK && s->failure && *s->failure(s->make_ctx))
		status = CLI_HOST_FAILED;
	host = report_measure_host(status);
	host.ready_seconds = (double)(s->ready_ns - s->began_ns) / 1e9;
	say_end(s, run, &result, &host);
	return write_report(s, run, &result, &host) ? CLI_HOST_FAILED : status;
}

static int start_stats(struct session *s, struct error *err)
{
	bool terminal = false;

	if (!s->want_stats)
		return 0;
	for (unsigned i = 0; i < s->runs; i++)
		terminal |= s->run[i].console.out >= 0 && isatty(s->run[i].console.out);
	stats_init(&s->stats, stderr, s->stats_ns, terminal);
	for (unsigned i = 0; i < s->runs; i++)
		stats_add(&s->stats, s->run[i].vm, s->run[i].what.name, s->run[i].what.cfg.engine.mmu);
	return stats_start(&s->stats, err);
}

/* If that fails the guest has its say to the end. */
static int suspend(struct session *s, struct vm *vm)
{
	const struct suspend_options o = {.replace = false};
	struct error err = {0};
	int ret = vm_suspend(vm, s->suspend, &o, &err);

	if (ret)
		cli_error(s->command, err.text);
	return ret ? CLI_HOST_FAILED : CLI_OK;
}

/* A tracker that lost a page: the guest has not ended then. */
static int run_tracked(struct session *s)
{
	struct error err = {0};
	int ret = track_run(s->run[0].track, &err);

	if (ret) {
		console_end_line(&s->run[0].console);
		cli_error(s->command, err.text);
	}
	return ret ? CLI_GUEST_FAILED : CLI_OK;
}

static int run_part(struct session *s)
{
	struct error err = {0};
	int ret = interval_run(&s->interval, &s->part, s->run[0].vm, &err);

	if (ret) {
		console_end_line(&s->run[0].console);
		cli_error(s->command, err.text);
	}
	return !ret ? CLI_OK : ret == -ENOENT ? CLI_GUEST_FAILED : CLI_HOST_FAILED;
}

static int run_one(struct session *s)
{
	struct vm *vm = s->run[0].vm;
	int status = CLI_OK;

	if (s->run[0].track)
		return run_tracked(s);
	if (s->part.wanted)
		return run_part(s);

	if (s->suspend && vm_run_until(vm, &s->suspend_at) != VM_STOPPED_END)
		status = suspend(s, vm);
	else if (s->suspend && vm_why_ended(vm) != VM_END_SUSPENDED)
		cli_error(s->command, "the guest ended before it was to be suspended");
	while (vm_run_until(vm, &VM_STOP_NONE) != VM_STOPPED_END)
		;
	return status;
}

static int run_to_end(struct session *s)
{
	struct schedule_result schedule;
	struct vm *vms[ENGINE_VMS_MAX];
	int status = CLI_OK;

	for (unsigned i = 0; i < s->runs; i++)
		vms[i] = s->run[i].vm;
	s->ready_ns = host_ns();
	if (s->files)
		schedule_run(vms, s->runs, s->slice ? s->slice : SCHEDULE_SLICE_DEFAULT, &schedule);
	else
		status = run_one(s);
	stats_stop(&s->stats);
	for (unsigned i = 0; i < s->runs; i++) {
		console_restore(&s->run[i].console);
		console_end_line(&s->run[i].console);
	}
	for (unsigned i = 0; i < s->runs; i++) {
		int one = finish(s, &s->run[i]);

		status = status ? status : one;
	}
	if (s->files)
		fprintf(stderr, "gnomon run: %u VMs, %llu slices, %llu world switches\n", s->runs,
			(unsigned long long)schedule.slices, (unsigned long long)schedule.switches);
	return status;
}

/* ---- the beginning ---- */

/* Names mark the lines of what VMs print; the terminal's input goes to one. */
static int check_together(const struct session *s, struct error *err)
{
	for (unsigned i = 0; i < s->files; i++)
		for (unsigned j = 0; j < i; j++) {
			const struct vm_description *a = &s->vm_file[j].vm, *b = &s->vm_file[i].vm;

			if (strcmp(a->name, b->name) == 0)
				return error_set(err, -EINVAL, "%.200s: name: '%s' is the name of the VM in '%.200s' too",
						 s->vm_path[i], b->name, s->vm_path[j]);
			if (a->serial && b->serial && strcmp(a->serial, "stdio") == 0 && strcmp(b->serial, "stdio") == 0)
				return error_set(err, -EINVAL, "%.200s: serial: the VM in '%.200s' has stdio already",
						 s->vm_path[i], s->vm_path[j]);
		}
	return 0;
}

static int read_vm_files(struct session *s, struct error *err)
{
	for (unsigned i = 0; i < s->files; i++) {
		int ret = vm_file_load(&s->vm_file[i], s->vm_path[i], &s->guest.cfg, err);

		if (ret)
			return ret;
		s->run[i].what = s->vm_file[i].vm;
	}
	s->runs = s->files;
	return check_together(s, err);
}

static int make_machine(struct session *s, struct error *err)
{
	static struct engine_config cfg[ENGINE_VMS_MAX];

	for (unsigned i = 0; i < s->runs; i++)
		cfg[i] = s->run[i].what.cfg.engine;
	return engine_machine_create(&s->machine, cfg, s->runs, err);
}

static int make_vm(struct session *s, unsigned i, struct error *err)
{
	struct run *run = &s->run[i];
	struct error why = {0};
	int ret;

	if (s->make)
		return s->make(s->make_ctx, &run->what.cfg, &run->vm, err);
	if (!s->files)
		return vm_create(&run->vm, &run->what.cfg, err);
	ret = vm_create_on(&run->vm, &run->what.cfg, s->machine, &why);
	return ret ? error_set(err, ret, "%.200s: %.300s", s->vm_path[i], why.text) : 0;
}

static int check_suspend(const struct session *s, struct error *err)
{
	bool at = s->suspend_at.insns != UINT64_MAX || s->suspend_at.console;

	if (s->suspend && !at)
		return error_set(err, -EINVAL, "--suspend: --suspend-at or --suspend-on is missing");
	if (at && !s->suspend)
		return error_set(err, -EINVAL, "--suspend-at, --suspend-on: --suspend FILE is missing");
	if (s->suspend && access(s->suspend, F_OK) == 0)
		return error_set(err, -EEXIST, "--suspend '%s': exists already", s->suspend);
	return 0;
}

static int complete_tracking(struct session *s, struct error *err)
{
	struct track_config *t = &s->track;

	if (t->interval && !t->dirty)
		return error_set(err, -EINVAL, "option '--dirty-interval' needs --dirty");
	if (!t->dirty && !t->wss)
		return 0;
	if (s->files)
		return error_set(err, -EINVAL, "options '--dirty' and '--wss' are for one VM (no --vm)");
	if (s->suspend)
		return error_set(err, -EINVAL, "options '--dirty' and '--wss' do not go together with --suspend");
	if (!t->interval)
		t->interval = TRACK_INTERVAL_DEFAULT;
	t->verify = s->guest.cfg.engine.audit;
	return track_check(t, s->guest.cfg.engine.mmu, err);
}

static int complete_part(struct session *s, struct error *err)
{
	if ((s->part.from || s->part.until) && !s->part.wanted)
		return error_set(err, -EINVAL, "options '--trace-from' and '--trace-until' need --trace");
	if (!s->part.wanted)
		return 0;
	if (s->files || s->suspend || s->track.dirty || s->track.wss)
		return error_set(err, -EINVAL, "options '--trace' and '--count-...' go together with none of --vm, --suspend, "
				 "--dirty and --wss");
	s->part.creator = "gnomon " GNOMON_VERSION;
	if (s->part.trace && strcmp(s->part.trace, "-") == 0 && !s->guest.serial)
		s->guest.serial = "/dev/stderr";
	return interval_check(&s->part, s->guest.cfg.engine.mmu, err);
}

/* Everything that can go wrong before a guest runs goes wrong here. */
static int prepare(struct session *s, struct error *err)
{
	int ret = check_suspend(s, err);

	if (ret == 0)
		ret = complete_tracking(s, err);
	if (ret == 0)
		ret = complete_part(s, err);
	if (ret == 0 && s->files)
		ret = read_vm_files(s, err);
	if (!s->files) {
		s->runs = 1;
		s->run[0].what = s->guest;
	}
	for (unsigned i = 0; ret == 0 && i < s->runs; i++)
		if (s->run[i].what.report)
			ret = report_file_open(&s->run[i].file, s->run[i].what.report, err);
	if (ret == 0 && s->files)
		ret = make_machine(s, err);
	for (unsigned i = 0; ret == 0 && i < s->runs; i++)
		ret = make_vm(s, i, err);
	if (ret == 0 && (s->track.dirty || s->track.wss))
		ret = track_begin(&s->run[0].track, s->run[0].vm, &s->track, say, &s->run[0], err);
	return ret;
}

static int open_console(struct run *run, struct error *err)
{
	const char *serial = run->what.serial;

	if (run->what.name && !serial) {
		console_open_labelled(&run->console, run->what.name);
		return 0;
	}
	if (run->what.name && strcmp(serial, "stdio") == 0)
		serial = NULL;
	return console_open(&run->console, serial, err);
}

static void connect_guest(struct run *run)
{
	vm_set_console(run->vm, console_for_vm(&run->console));
	vm_set_messages(run->vm, say, run);
}

static int open_controls(struct session *s, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < s->runs && ret == 0; i++)
		ret = guest_control_open(&s->run[i].control, &s->run[i].what, s->run[i].vm, err);
	return ret;
}

/* Consoles are opened last: error messages are for a terminal in its ordinary state. */
static int connect_all(struct session *s, struct error *err)
{
	unsigned i;

	for (i = 0; i < s->runs && open_console(&s->run[i], err) == 0; i++)
		connect_guest(&s->run[i]);
	if (i < s->runs)
		return err->code;
	install_signals(s);
	return open_controls(s, err);
}

int session_connect(struct session *s, struct vm *vm, struct error *err)
{
	s->run[0].vm = vm;
	s->connected = true;
	return connect_all(s, err);
}

static void close_consoles(struct session *s)
{
	for (unsigned i = 0; i < s->runs; i++)
		console_close(&s->run[i].console);
}

void session_disconnect(struct session *s)
{
	if (!s->connected)
		return;
	guest_control_close(&s->run[0].control);
	close_consoles(s);
	s->run[0].console = (struct console){.in = -1, .out = -1};
	s->run[0].vm = NULL;
	s->connected = false;
}

static int run_prepared(struct session *s, struct error *err)
{
	int status = CLI_USAGE;

	if (s->connected || connect_all(s, err) == 0)
		status = start_stats(s, err) ? CLI_HOST_FAILED : run_to_end(s);
	close_consoles(s);
	if (err->code)
		cli_error(s->command, err->text);
	return status;
}

static void clean_up(struct session *s)
{
	for (unsigned i = 0; i < ENGINE_VMS_MAX; i++)
		guest_control_close(&s->run[i].control);
	if (s->ended)
		s->ended(s->make_ctx);
	current.session = NULL;
	for (unsigned i = 0; i < ENGINE_VMS_MAX; i++) {
		report_file_abandon(&s->run[i].file);
		track_destroy(s->run[i].track);
		vm_destroy(s->run[i].vm);
		vm_file_free(&s->vm_file[i]);
	}
	engine_machine_destroy(s->machine);
}

void session_init(struct session *s, const char *command)
{
	memset(s, 0, sizeof(*s));
	s->command = command;
	s->began_ns = host_ns();
	s->progress_fd = -1;
	s->suspend_at = VM_STOP_NONE;
	vm_config_default(&s->guest.cfg);
	for (unsigned i = 0; i < ENGINE_VMS_MAX; i++) {
		s->run[i].file.fd = -1;
		s->run[i].console = (struct console){.in = -1, .out = -1};
	}
}

int session_run(struct session *s)
{
	struct error err = {0};
	int status;

	current.session = s;
	if (prepare(s, &err)) {
		cli_error(s->command, err.text);
		status = err.code == -ENOMEM ? CLI_HOST_FAILED : CLI_USAGE;
	} else {
		status = run_prepared(s, &err);
	}
	clean_up(s);
	return status;
}
