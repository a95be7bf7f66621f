/* gnomon replay: a trace through designs of address translation (lab/replay.h). */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/cli.h"
#include "cli/jobs.h"
#include "lab/html.h"
#include "lab/replay_resume.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

struct replay_command {
	const char *designs, *setups, *pages, *json, *csv, *html, *sim_log, *resume;
	struct vm_config vm;       /* of it: the processor */
	struct replay_config cfg;
	const char *spec;
	bool quiet, terminal;
	double began, shown;
	double group_began;
	unsigned group, groups;    /* with --resume: the pass over the trace at hand, and how many there are */
};

/* A signal handler has no other way. */
static volatile sig_atomic_t interrupted;

/* ---- options ---- */

static int set_designs(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct replay_command *)ctx)->designs = v;
	return 0;
}

static int set_setups(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct replay_command *)ctx)->setups = v;
	return 0;
}

static int set_pages(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct replay_command *)ctx)->pages = v;
	return 0;
}

static int set_hw(void *ctx, const char *v, struct error *err)
{
	struct hw *hw = &((struct replay_command *)ctx)->vm.engine.cpu.hw;

	return hw_load(hw, v, err);
}

static int set_features(void *ctx, const char *v, struct error *err)
{
	struct replay_command *c = ctx;

	c->cfg.features_given = true;
	return cpu_config_parse(&c->vm.engine.cpu, v, err);
}

static int set_memory(void *ctx, const char *v, struct error *err)
{
	return parse_size("memory", v, &((struct replay_command *)ctx)->cfg.memory, err);
}

static int set_tables(void *ctx, const char *v, struct error *err)
{
	static const char *const name[] = {[REPLAY_TABLES_TRACE] = "trace", [REPLAY_TABLES_MODEL] = "model"};

	for (unsigned i = REPLAY_TABLES_TRACE; i <= REPLAY_TABLES_MODEL; i++) {
		if (strcmp(v, name[i]) == 0) {
			((struct replay_command *)ctx)->cfg.tables = (enum replay_tables)i;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "--tables '%.60s': trace or model", v);
}

static int set_fragmentation(void *ctx, const char *v, struct error *err)
{
	uint64_t n;
	int ret = parse_count("fragmentation", v, &n, err);

	if (ret == 0 && n > 100)
		ret = error_set(err, -EINVAL, "--fragmentation '%s': 0 to 100 per cent", v);
	if (ret == 0)
		((struct replay_command *)ctx)->cfg.os.fragmentation = (unsigned)n;
	return ret;
}

static int set_seed(void *ctx, const char *v, struct error *err)
{
	return parse_count("seed", v, &((struct replay_command *)ctx)->cfg.os.seed, err);
}

static int set_tea_threshold(void *ctx, const char *v, struct error *err)
{
	return parse_size("tea-threshold", v, &((struct replay_command *)ctx)->cfg.os.tea_threshold, err);
}

static int set_populate(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct replay_command *)ctx)->cfg.populate = true;
	return 0;
}

static int set_data_cache(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct replay_command *)ctx)->vm.engine.cpu.data_cache = true;
	return 0;
}

static int set_no_vpid(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct replay_command *)ctx)->vm.engine.no_vpid = true;
	return 0;
}

static int set_jobs(void *ctx, const char *v, struct error *err)
{
	uint64_t n;
	int ret = parse_count("jobs", v, &n, err);

	if (ret == 0 && (n == 0 || n > REPLAY_CELLS_MAX))
		ret = error_set(err, -EINVAL, "--jobs '%s': 1 to %d", v, REPLAY_CELLS_MAX);
	if (ret == 0)
		((struct replay_command *)ctx)->cfg.jobs = (unsigned)n;
	return ret;
}

static int set_limit(void *ctx, const char *v, struct error *err)
{
	return parse_count("limit-events", v, &((struct replay_command *)ctx)->cfg.limit_events, err);
}

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct replay_command *)ctx)->json = v;
	return 0;
}

static int set_html(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct replay_command *)ctx)->html = v;
	return 0;
}

static int set_csv(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct replay_command *)ctx)->csv = v;
	return 0;
}

static int set_sim_log(void *ctx, const char *v, struct error *err)
{
	struct replay_command *c = ctx;

	if (!*v)
		return error_set(err, -EINVAL, "--sim-log: an empty name");
	c->sim_log = v;
	c->cfg.sim_logs = true;
	return 0;
}

static int set_resume(void *ctx, const char *v, struct error *err)
{
	if (!*v)
		return error_set(err, -EINVAL, "--resume: an empty name");
	((struct replay_command *)ctx)->resume = v;
	return 0;
}

static int set_quiet(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct replay_command *)ctx)->quiet = true;
	return 0;
}

static const struct option_desc replay_options[] = {
	{"designs", "LIST", "radix, shadow, hugegpt, dmt, pvdmt, agile, brute (default radix)", set_designs},
	{"setups", "LIST", "native, virt, nested (default native,virt)", set_setups},
	{"pages", "LIST", "4k, thp: of the host; of the guest, where its tables are modelled (default 4k)", set_pages},
	{"hw", "NAME|FILE", "the translation hardware (gnomon hw list)", set_hw},
	{"cpu-features", "LIST", "as gnomon run; default: those that the trace was made with", set_features},
	{"memory", "SIZE", "of the guest; default: as the trace says, 8 GiB for the model", set_memory},
	{"tables", "trace|model", "walk the trace's own tables, or those that a model of an operating system makes\n"
	 "(docs/os-model.md); default: the trace's, unless it has none or the design needs the guest's help", set_tables},
	{"fragmentation", "P", "the model: per cent of the 2 MiB blocks of memory that are broken (default 0)", set_fragmentation},
	{"seed", "N", "... and which ones", set_seed},
	{"tea-threshold", "SIZE", "... areas from this size on have a TEA", set_tea_threshold},
	{"populate", NULL, "all of guest memory has machine memory from the beginning, as in a counted interval of gnomon run",
	 set_populate},
	{"data-cache", NULL, "data accesses go through the modelled memory caches, too", set_data_cache},
	{"no-vpid", NULL, "VM entries and exits flush the TLBs", set_no_vpid},
	{"limit-events", "N", "no more of the trace than this", set_limit},
	{"jobs", "N", "threads (default: as many as there are processors)", set_jobs},
	{"json", "FILE", "write the results as JSON; -: to standard output, without the table", set_json},
	{"csv", "FILE", "... as comma-separated values", set_csv},
	{"html", "FILE", "... as a page of tables and charts that needs nothing else", set_html},
	{"sim-log", "FILE",
	 "write where the references of walks hit, as the DMT artifact's simulators do; of more than one design, setup or\n"
	 "size of pages to FILE.DESIGN-SETUP-PAGES (docs/trace-import.md)", set_sim_log},
	{"resume", "FILE",
	 "keep the results of finished cells (a design in a setup with pages of a size) in FILE, and begin with\n"
	 "those that it has: the same command goes on after an interruption. Takes a pass over the trace for every\n"
	 "--jobs cells",
	 set_resume},
	{"quiet", NULL, "no progress", set_quiet},
	{0},
};

static void help(FILE *out)
{
	const struct option_group groups[] = {{.title = "Options", .table = replay_options}, {0}};

	fputs("Usage: gnomon replay TRACE|- [OPTIONS]\n\n"
	      "Gives a trace (gnomon run --trace, gnomon trace import) to machines with other translation, all in\n"
	      "one pass, and says what each of them counted. Speedups are modelled, over radix in the same setup.\n\n"
	      "  gnomon run --kernel vmlinuz --mmu native --trace - | gnomon replay - --designs radix,shadow\n\n",
	      out);
	options_help(out, groups);
	fputs("\nExit status: 0; 2 bad options, or no trace; 8 a machine gave up; 10 failure of the host;\n"
	      "16 the trace is damaged, or --resume's FILE; 130 interrupted. Results that are partial say so.\n",
	      out);
}

/* ---- cells ---- */

/* Index of the word that begins @list in @names; *next: what comes after it. */
static int take_word(const char **list, const char *const *names, unsigned count)
{
	size_t n = strcspn(*list, ",");

	for (unsigned i = 0; i < count && names[i]; i++) {
		if (strlen(names[i]) == n && strncmp(names[i], *list, n) == 0) {
			*list += n + ((*list)[n] == ',');
			return (int)i;
		}
	}
	return -1;
}

/* A bit for each name in the list. */
static int parse_list(const char *option, const char *v, const char *const *names, unsigned count, unsigned *set,
		      struct error *err)
{
	const char *at = v;

	*set = 0;
	while (*at) {
		int i = take_word(&at, names, count);

		if (i < 0)
			return error_set(err, -EINVAL, "--%s '%.100s': '%.40s' is none of them (see gnomon replay --help)",
					 option, v, at);
		*set |= 1u << i;
	}
	return *set ? 0 : error_set(err, -EINVAL, "--%s '%.100s': nothing in it", option, v);
}

/* What does not exist (shadow paging on a bare machine) is left out. */
static int make_cells(struct replay_command *c, struct error *err)
{
	const char *const *names = replay_design_names();
	unsigned designs, setups, pages;
	struct replay_config *cfg = &c->cfg;

	if (parse_list("designs", c->designs, names, 32, &designs, err) ||
	    parse_list("setups", c->setups, replay_setup_name, REPLAY_SETUPS, &setups, err) ||
	    parse_list("pages", c->pages, replay_pages_name, REPLAY_PAGES, &pages, err))
		return -EINVAL;
	for (unsigned s = 0; s < REPLAY_SETUPS; s++)
		for (unsigned p = 0; p < REPLAY_PAGES; p++)
			for (unsigned d = 0; names[d]; d++) {
				struct replay_cell cell = {replay_design_find(names[d]), (enum replay_setup)s,
							   (enum replay_pages)p, ENGINE_NATIVE};

				if (setups >> s & 1 && pages >> p & 1 && designs >> d & 1 &&
				    replay_scheme(cell.design, cell.setup, &cell.mmu) && cfg->cells < REPLAY_CELLS_MAX)
					cfg->cell[cfg->cells++] = cell;
			}
	return cfg->cells ? 0 : error_set(err, -EINVAL, "none of these designs exists in these setups");
}

/* ---- progress ---- */

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

static bool stop(void *ctx)
{
	(void)ctx;
	return interrupted;
}

static void show_progress(void *ctx, const struct trace_reader *r, uint64_t events)
{
	struct replay_command *c = ctx;
	struct trace_totals totals;
	double t = jobs_clock(), spent = t - c->group_began;
	double part = trace_reader_totals(r, &totals) ? (double)trace_reader_bytes(r) / (double)totals.bytes : 0;
	char left[40] = "", group[40] = "";

	if (c->quiet || t - c->shown < (c->terminal ? 0.2 : 10))
		return;
	c->shown = t;
	if (c->groups > 1) {
		snprintf(group, sizeof(group), "group %u of %u: ", c->group, c->groups);
		part = (c->group - 1 + part) / c->groups;
	}
	if (part > 0.001)
		snprintf(left, sizeof(left), ", %2.0f %%, %.0f s left", 100 * part, (t - c->began) * (1 / part - 1));
	fprintf(stderr, "%s%s%.1f M events, %.1f M a second%s%s", c->terminal ? "\r" : "", group, (double)events / 1e6,
		(double)events / 1e6 / spent, left, c->terminal ? "\033[K" : "\n");
}

static void begin_group(void *ctx, unsigned number, unsigned groups)
{
	struct replay_command *c = ctx;

	c->group_began = jobs_clock();
	if (number == 1)
		c->began = c->group_began;
	c->group = number;
	c->groups = groups;
}

static void end_progress(const struct replay_command *c)
{
	if (c->terminal && c->shown > 0)
		fputs("\r\033[K", stderr);
}

/* ---- results ---- */

static int write_file(const char *path, const json_t *report, void (*print)(const json_t *, FILE *), struct error *err)
{
	FILE *f = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
	bool bad;

	if (!f)
		return error_set(err, -errno, "'%s': %s", path, strerror(errno));
	if (print)
		print(report, f);
	else if (json_dumpf(report, f, JSON_INDENT(2) | JSON_PRESERVE_ORDER) == 0)
		fputc('\n', f);
	bad = fflush(f) || ferror(f);
	if (f != stdout)
		bad |= fclose(f) != 0;
	return bad ? error_set(err, -EIO, "'%s': cannot be written", path) : 0;
}

static int write_page(const char *path, const json_t *report, struct error *err)
{
	struct report_file f;
	int ret = report_file_open(&f, path, err);

	return ret ? ret : html_commit_result(report, &f, err);
}

static int write_results(const struct replay_command *c, const json_t *report, struct error *err)
{
	bool table = !(c->json && strcmp(c->json, "-") == 0) && !(c->csv && strcmp(c->csv, "-") == 0);
	int ret = 0;

	if (c->json)
		ret = write_file(c->json, report, NULL, err);
	if (!ret && c->csv)
		ret = write_file(c->csv, report, replay_print_csv, err);
	if (!ret && c->html)
		ret = write_page(c->html, report, err);
	if (!ret && table)
		ret = write_file("-", report, replay_print, err);
	return ret;
}

static int write_sim_log(const struct replay_command *c, const struct replay_results *out, unsigned i, struct error *err)
{
	const struct replay_cell *cell = &out->result[i].cell;
	char path[4096];
	FILE *f;
	int n = snprintf(path, sizeof(path), "%s", c->sim_log), ret;

	if (out->results > 1)
		n = snprintf(path, sizeof(path), "%s.%s-%s-%s", c->sim_log, replay_design_name(cell->design),
			     replay_setup_name[cell->setup], replay_pages_name[cell->pages]);
	errno = ENAMETOOLONG;
	f = n < (int)sizeof(path) ? fopen(path, "we") : NULL;
	if (!f)
		return error_set(err, -errno, "'%.200s': %s", path, strerror(errno));
	ret = sim_log_write(out->result[i].sim_log, &c->vm.engine.cpu.hw, f, path, err);
	if (fclose(f) && !ret)
		ret = error_set(err, -EIO, "'%.200s': cannot be written", path);
	return ret;
}

static int write_sim_logs(const struct replay_command *c, const struct replay_results *out, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < out->results && !ret; i++)
		if (out->result[i].sim_log)
			ret = write_sim_log(c, out, i, err);
	return ret;
}

static int status_of(int why)
{
	switch (why) {
	case 0: return CLI_OK;
	case -EINTR: return CLI_INTERRUPTED;
	case -EBADMSG: return CLI_DAMAGED;
	case -ENOMEM: return CLI_HOST_FAILED;
	default: return CLI_GUEST_FAILED;
	}
}

static int fail(const struct error *err)
{
	cli_error("replay", err->text);
	switch (err->code) {
	case -EBADMSG: return CLI_DAMAGED;
	case -ENOMEM:
	case -EIO: return CLI_HOST_FAILED;
	case -EINTR: return CLI_INTERRUPTED;
	default: return CLI_USAGE;
	}
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

/* In one pass. @why: of results that are partial */
static int run(struct replay_command *c, const char *path, struct error *why, struct error *err)
{
	static struct replay_results out; /* large */
	struct trace_reader *r = NULL;
	json_t *report;
	int ret = trace_reader_open(&r, path, err);

	if (ret)
		return ret;
	catch_signals();
	ret = replay_trace(&out, &c->cfg, r, err);
	trace_reader_close(r);
	end_progress(c);
	if (!ret) {
		report = replay_report(&out, &c->vm.engine.cpu.hw);
		ret = write_results(c, report, err);
		json_decref(report);
	}
	if (!ret && c->sim_log)
		ret = write_sim_logs(c, &out, err);
	if (out.partial)
		*why = out.why;
	replay_free(&out);
	return ret;
}

static int run_resumable(struct replay_command *c, const char *path, struct error *why, struct error *err)
{
	const struct replay_resume how = {path, c->resume, GNOMON_VERSION, begin_group, c};
	json_t *report;
	int ret;

	if (c->sim_log)
		return error_set(err, -EINVAL, "--sim-log: what walks hit is not kept by --resume");
	catch_signals();
	ret = replay_resumable(&report, why, &c->cfg, &how, err);
	end_progress(c);
	if (ret)
		return ret;
	ret = write_results(c, report, err);
	json_decref(report);
	return ret;
}

static int replay_command(int argc, char **argv)
{
	static struct replay_command c; /* large */
	const struct option_group groups[] = {{.title = "Options", .table = replay_options, .ctx = &c}, {0}};
	const char *path = NULL;
	struct error err = {0}, why = {0};
	unsigned args;
	int ret;

	c = (struct replay_command){.designs = "radix", .setups = "native,virt", .pages = "4k",
				    .terminal = isatty(STDERR_FILENO)};
	vm_config_default(&c.vm);
	osm_config_init(&c.cfg.os, REPLAY_MODEL_MEMORY);
	c.cfg.limit_events = UINT64_MAX;
	c.cfg.jobs = jobs_processors();
	c.cfg.stop = stop;
	c.cfg.progress = show_progress;
	c.cfg.ctx = &c;
	args = options_take_arguments(&argc, argv, groups, &path, 1);
	switch (options_parse(argc, argv, groups, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		return CLI_OK;
	case OPTIONS_BAD:
		return fail(&err);
	case OPTIONS_OK:
		break;
	}
	if (args != 1) {
		error_set(&err, -EINVAL, "one trace is wanted (see gnomon replay --help)");
		return fail(&err);
	}
	if (make_cells(&c, &err))
		return fail(&err);
	c.cfg.engine = c.vm.engine;
	c.began = c.group_began = c.shown = jobs_clock(); /* what is over at once needs no progress */
	ret = c.resume ? run_resumable(&c, path, &why, &err) : run(&c, path, &why, &err);
	if (ret)
		return fail(&err);
	if (why.code)
		cli_error("replay", why.text);
	return status_of(why.code);
}

const struct command cmd_replay = {"replay", "replay a trace under designs of address translation", replay_command, help};
