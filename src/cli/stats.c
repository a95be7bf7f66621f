/*
 * See stats.h. Rates are per second of host time; what concerns translation is
 * also set against instructions, which does not depend on the host.
 */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/stats.h"
#include "lab/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define STATS_SIGNAL SIGUSR2
#define TOP_REASONS  3
#define NS_PER_SECOND 1000000000ull

int stats_parse_interval(const char *text, uint64_t *interval_ns, struct error *err)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds >= 0.05) || !(seconds <= 3600))
		return error_set(err, -EINVAL, "--stats-interval '%s': seconds from 0.05 to 3600", text);
	*interval_ns = (uint64_t)(seconds * 1e9);
	return 0;
}

static double host_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- what happened between two samples ---- */

static double rate(const struct stats_vm *v, uint64_t was, uint64_t now)
{
	double seconds = v->now.host - v->was.host;

	return seconds > 0 ? (double)(now - was) / seconds : 0;
}

static double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

/* 950, 12.3k, 4.56M: four places at most before the unit. */
static const char *short_number(double x, char buf[16])
{
	static const char unit[] = " kMGT";
	unsigned n = 0;

	while (x >= 999.5 && n < sizeof(unit) - 2) {
		x /= 1000;
		n++;
	}
	snprintf(buf, 16, "%.*f%.*s", n == 0 || x >= 99.95 ? 0 : x >= 9.995 ? 1 : 2, x, n ? 1 : 0, &unit[n]);
	return buf;
}

static void add(char *buf, size_t bytes, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void add(char *buf, size_t bytes, const char *fmt, ...)
{
	size_t used = strlen(buf);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + used, bytes - used, fmt, ap);
	va_end(ap);
}

/* The most frequent exit reasons. */
static void add_reasons(const struct stats_vm *v, char *buf, size_t bytes)
{
	const uint64_t *was = v->was.obs.exits.by_reason, *now = v->now.obs.exits.by_reason;
	bool said[OBS_EXIT_REASONS] = {false};
	char number[16];

	for (unsigned n = 0; n < TOP_REASONS; n++) {
		unsigned top = 0;
		const char *name;

		for (unsigned i = 1; i < OBS_EXIT_REASONS; i++)
			if (!said[i] && (said[top] || now[i] - was[i] > now[top] - was[top]))
				top = i;
		if (now[top] == was[top])
			break;
		said[top] = true;
		name = report_exit_reason_name(top);
		add(buf, bytes, "%s%s %s", n ? ", " : "", name ? name : "?", short_number(rate(v, was[top], now[top]), number));
	}
}

static uint64_t tlb_misses(const struct obs *o) { return o->translation.l2d_misses + o->translation.l2i_misses; }

static void cache_lookups(const struct obs *o, uint64_t *hits, uint64_t *all)
{
	*hits = 0;
	for (unsigned i = 0; i < OBS_LEVELS; i++)
		*hits += o->translation.guest_cache_hits[i] + o->translation.host_cache_hits[i];
	*all = *hits + o->translation.guest_cache_misses + o->translation.host_cache_misses;
}

/* Share of walk-cache lookups that hit, in percent; negative: there were none. */
static double cache_hit_rate(const struct stats_vm *v)
{
	uint64_t hits_was, all_was, hits, all;

	cache_lookups(&v->was.obs, &hits_was, &all_was);
	cache_lookups(&v->now.obs, &hits, &all);
	return all > all_was ? 100 * ratio((double)(hits - hits_was), (double)(all - all_was)) : -1;
}

static uint64_t table_bytes(const struct obs *o)
{
	return o->tables.shadow_bytes + o->tables.ept_bytes + o->tables.p2m_bytes;
}

static void add_walks(const struct stats_vm *v, char *buf, size_t bytes)
{
	const struct obs *was = &v->was.obs, *now = &v->now.obs;
	uint64_t walks = now->translation.walks - was->translation.walks;
	double cached = cache_hit_rate(v);
	char number[16];

	add(buf, bytes, "%s walks/s of %.2f references",
	    short_number(rate(v, was->translation.walks, now->translation.walks), number),
	    ratio((double)(now->translation.refs - was->translation.refs), (double)walks));
	if (cached >= 0)
		add(buf, bytes, ", walk caches hit %.1f %%", cached);
}

static void add_tlb(const struct stats_vm *v, char *buf, size_t bytes)
{
	uint64_t misses = tlb_misses(&v->now.obs) - tlb_misses(&v->was.obs);

	add(buf, bytes, "%.3f TLB misses per 1000 instructions",
	    1000 * ratio((double)misses, (double)(v->now.insns - v->was.insns)));
}

/* What the hypervisor's scheme does. */
static void add_scheme(const struct stats_vm *v, char *buf, size_t bytes)
{
	const struct obs *was = &v->was.obs, *now = &v->now.obs;
	char number[16];

	switch (v->mmu) {
	case ENGINE_BRUTE:
	case ENGINE_SHADOW:
		add(buf, bytes, "%s fills/s", short_number(rate(v, was->shadow.fills, now->shadow.fills), number));
		break;
	case ENGINE_EPT:
	case ENGINE_HUGEGPT:
	case ENGINE_DMT:
	case ENGINE_PVDMT:
	case ENGINE_AGILE:
	case ENGINE_NESTED:
	case ENGINE_NESTED_PVDMT:
		add(buf, bytes, "%s EPT violations/s",
		    short_number(rate(v, was->faults.ept_violations, now->faults.ept_violations), number));
		break;
	case ENGINE_NATIVE:
	case ENGINE_NATIVE_DMT:
	case ENGINE_MMU_COUNT:
		return;
	}
	add(buf, bytes, ", tables %" PRIu64 " KiB", (table_bytes(now) + 1023) >> 10);
}

static void add_exits(const struct stats_vm *v, char *buf, size_t bytes)
{
	char number[16], reasons[160] = "";

	add_reasons(v, reasons, sizeof(reasons));
	add(buf, bytes, "%s exits/s%s%s%s",
	    short_number(rate(v, v->was.obs.exits.total, v->now.obs.exits.total), number), *reasons ? " (" : "", reasons,
	    *reasons ? ")" : "");
}

/* A guest that is a hypervisor: its own exits for VMX instructions, and its guest's, by who handles them. */
static void add_levels(const struct stats_vm *v, const char *between, char *buf, size_t bytes)
{
	const struct obs_levels *was = &v->was.obs.levels, *now = &v->now.obs.levels;
	char vmx[16], exits[16], reflected[16];

	if (!now->entries)
		return;
	add(buf, bytes, "%sits VMX instructions %s exits/s, its guest %s exits/s, %s VM exits to it/s", between,
	    short_number(rate(v, was->l1_vmx, now->l1_vmx), vmx), short_number(rate(v, was->exits, now->exits), exits),
	    short_number(rate(v, was->reflected, now->reflected), reflected));
}

static void add_speed(const struct stats_vm *v, char *buf, size_t bytes)
{
	add(buf, bytes, "%6.1f s, virtual %.3f s, %.1f M instructions/s", v->now.host, (double)v->now.virtual_ns / 1e9,
	    rate(v, v->was.insns, v->now.insns) / 1e6);
}

/* All parts, @between them; what comes first is the title. */
static void format(const struct stats_vm *v, const char *between, char *buf, size_t bytes)
{
	add_speed(v, buf, bytes);
	if (!engine_mmu_is_bare(v->mmu)) {
		add(buf, bytes, "%s", between);
		add_exits(v, buf, bytes);
		add_levels(v, between, buf, bytes);
	}
	add(buf, bytes, "%s", between);
	add_walks(v, buf, bytes);
	add(buf, bytes, "%s", between);
	add_tlb(v, buf, bytes);
	if (!engine_mmu_is_bare(v->mmu)) {
		add(buf, bytes, "%s", between);
		add_scheme(v, buf, bytes);
	}
	add(buf, bytes, "\n");
}

void stats_format_line(const struct stats_vm *v, char *buf, size_t bytes)
{
	snprintf(buf, bytes, "%s%s", v->name ? v->name : "", v->name ? ": " : "");
	format(v, "; ", buf, bytes);
}

void stats_format_block(const struct stats_vm *v, char *buf, size_t bytes)
{
	snprintf(buf, bytes, "%-12s ", v->name ? v->name : engine_mmu_name[v->mmu]);
	format(v, "\n  ", buf, bytes);
}

/* ---- showing ---- */

static unsigned terminal_columns(FILE *out)
{
	struct winsize w;

	return ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

/* Lines no wider than the terminal: one that wraps could not be redrawn. Returns how many. */
static unsigned put_lines(const struct stats *s, const char *text)
{
	unsigned lines = 0;

	for (const char *nl; (nl = strchr(text, '\n')); text = nl + 1, lines++) {
		int width = (int)(nl - text);

		if (s->live && (unsigned)width > s->columns)
			width = (int)s->columns;
		fprintf(s->out, "%s%.*s%s", s->live ? "\033[K" : "", width, text, s->newline);
	}
	return lines;
}

static void redraw(struct stats *s)
{
	char text[1024];
	unsigned lines = 0;

	s->columns = terminal_columns(s->out);
	if (s->drawn)
		fprintf(s->out, "\033[%uA\r", s->drawn);
	for (unsigned i = 0; i < s->count; i++) {
		stats_format_block(&s->vm[i], text, sizeof(text));
		lines += put_lines(s, text);
	}
	s->drawn = lines;
	fflush(s->out);
}

/* A VM's turn to be looked at, at a boundary between its instructions. */
static void look(void *ctx)
{
	struct stats_vm *v = ctx;
	struct stats *s = v->stats;
	char text[1024];

	v->was = v->now;
	v->now.host = host_seconds() - s->started;
	v->now.insns = vm_insns(v->vm);
	v->now.virtual_ns = engine_now(vm_engine(v->vm));
	vm_observe(v->vm, &v->now.obs);
	if (s->live) {
		redraw(s);
		return;
	}
	stats_format_line(v, text, sizeof(text));
	put_lines(s, text);
	fflush(s->out);
}

/* ---- the timer ---- */

static void on_timer(int sig, siginfo_t *info, void *context)
{
	struct stats *s = info->si_value.sival_ptr;

	(void)sig, (void)context;
	if (info->si_code != SI_TIMER) /* somebody else's signal */
		return;
	for (unsigned i = 0; i < s->count; i++)
		vm_tick(s->vm[i].vm, &s->vm[i].ticker);
}

void stats_init(struct stats *s, FILE *out, uint64_t interval_ns, bool guest_on_terminal)
{
	bool tty = isatty(fileno(out));

	*s = (struct stats){.out = out, .interval_ns = interval_ns ? interval_ns : STATS_INTERVAL_DEFAULT_NS,
			    .live = tty && !guest_on_terminal, .newline = tty ? "\r\n" : "\n"};
}

void stats_add(struct stats *s, struct vm *vm, const char *name, enum engine_mmu mmu)
{
	struct stats_vm *v = &s->vm[s->count];

	if (s->count == ENGINE_VMS_MAX)
		return;
	*v = (struct stats_vm){.stats = s, .vm = vm, .name = name, .mmu = mmu,
				.ticker = {.tick = look, .ctx = v}};
	s->count++;
	vm_add_ticker(vm, &v->ticker);
}

int stats_start(struct stats *s, struct error *err)
{
	struct sigaction sa = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = STATS_SIGNAL, .sigev_value.sival_ptr = s};
	struct timespec t = {(time_t)(s->interval_ns / NS_PER_SECOND), (long)(s->interval_ns % NS_PER_SECOND)};
	struct itimerspec every = {t, t};

	s->started = host_seconds();
	sigaction(STATS_SIGNAL, &sa, NULL);
	if (timer_create(CLOCK_MONOTONIC, &event, &s->timer))
		return error_set(err, -errno, "--stats: no timer: %s", strerror(errno));
	s->running = true;
	if (timer_settime(s->timer, 0, &every, NULL))
		return error_set(err, -errno, "--stats: no timer: %s", strerror(errno));
	return 0;
}

void stats_stop(struct stats *s)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	if (!s->running)
		return;
	timer_delete(s->timer);
	sigaction(STATS_SIGNAL, &ignore, NULL);
	s->running = false;
	for (unsigned i = 0; i < s->count; i++)
		vm_remove_ticker(s->vm[i].vm, &s->vm[i].ticker);
}
