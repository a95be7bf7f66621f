/* gnomon trace: says what is in a trace, cuts pieces out of it, and turns other formats into traces and back. */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "cli/verbs.h"
#include "trace/cut.h"
#include "trace/stat.h"
#include "trace/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct trace_command {
	struct verb_args a;
	bool json;
	uint64_t count, at;
	struct trace_range range; /* to == 0: not given */
	const struct trace_format *format;
	struct trace_options options;
	char *owned[TRACE_OPTIONS_MAX]; /* those of the options that were put together here */
	unsigned owned_count;
};

/* ---- options ---- */

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct trace_command *)ctx)->json = true;
	return 0;
}

static int set_count(void *ctx, const char *v, struct error *err)
{
	return parse_count("count", v, &((struct trace_command *)ctx)->count, err);
}

static int set_at(void *ctx, const char *v, struct error *err)
{
	return parse_count("at", v, &((struct trace_command *)ctx)->at, err);
}

/* "A..B", "A..", "..B": from A up to B. */
static int set_range(struct trace_command *c, const char *name, const char *v, bool insns, struct error *err)
{
	char from[32] = "0", to[32] = "";
	const char *dots = strstr(v, "..");

	if (c->range.to)
		return error_set(err, -EINVAL, "--events, --instructions: only one of the two, and once");
	if (!dots || dots - v >= (int)sizeof(from) || snprintf(to, sizeof(to), "%s", dots + 2) >= (int)sizeof(to))
		return error_set(err, -EINVAL, "--%s '%.60s': FROM..TO", name, v);
	if (dots != v)
		snprintf(from, sizeof(from), "%.*s", (int)(dots - v), v);
	c->range = (struct trace_range){.insns = insns, .to = UINT64_MAX};
	if (parse_count(name, from, &c->range.from, err) || (*to && parse_count(name, to, &c->range.to, err)))
		return err->code;
	return c->range.from < c->range.to ? 0 : error_set(err, -EINVAL, "--%s '%s': nothing is between them", name, v);
}

static int set_events(void *ctx, const char *v, struct error *err) { return set_range(ctx, "events", v, false, err); }
static int set_insns(void *ctx, const char *v, struct error *err)
{
	return set_range(ctx, "instructions", v, true, err);
}

static int set_format(void *ctx, const char *v, struct error *err)
{
	struct trace_command *c = ctx;

	for (unsigned i = 0; trace_formats[i]; i++) {
		c->format = trace_formats[i];
		if (strcmp(v, c->format->name) == 0)
			return 0;
	}
	return error_set(err, -EINVAL, "--format '%.60s': no such format (see gnomon trace --help)", v);
}

static int add_option(void *ctx, const char *v, struct error *err)
{
	struct trace_options *o = &((struct trace_command *)ctx)->options;

	if (!strchr(v, '='))
		return error_set(err, -EINVAL, "--option '%.60s': NAME=VALUE", v);
	if (o->count == TRACE_OPTIONS_MAX)
		return error_set(err, -EINVAL, "--option: more than %u of them", TRACE_OPTIONS_MAX);
	o->option[o->count++] = v;
	return 0;
}

/* An option of its own that the format is given as NAME=VALUE. */
static int add_named(void *ctx, const char *name, const char *value, struct error *err)
{
	struct trace_command *c = ctx;
	char *text;
	int ret;

	if (asprintf(&text, "%s=%s", name, value) < 0)
		return error_set(err, -ENOMEM, "--%s: out of memory", name);
	ret = add_option(c, text, err);
	if (ret)
		free(text);
	else
		c->owned[c->owned_count++] = text;
	return ret;
}

static int set_fetches(void *ctx, const char *v, struct error *err) { return add_named(ctx, "fetches", v, err); }
static int set_addresses(void *ctx, const char *v, struct error *err) { return add_named(ctx, "addresses", v, err); }
static int set_pt_dump(void *ctx, const char *v, struct error *err) { return add_named(ctx, "pt-dump", v, err); }
static int set_host_dump(void *ctx, const char *v, struct error *err) { return add_named(ctx, "pt-dump-host", v, err); }
static int set_compat(void *ctx, const char *v, struct error *err) { return add_named(ctx, "compat", v, err); }

static const struct option_desc json_options[] = {{"json", NULL, "print JSON", set_json}, {0}};
static const struct option_desc head_options[] = {
	{"count", "N", "so many events (default 20)", set_count},
	{"at", "K", "from event number K on (the first is 0)", set_at},
	{0},
};
static const struct option_desc cut_options[] = {
	{"events", "FROM..TO", "by numbers of events: from the instruction that begins at FROM or next, up to\n"
			       "where one begins at TO or next", set_events},
	{"instructions", "FROM..TO", "likewise by numbers of instructions completed", set_insns},
	{0},
};
static const struct option_desc import_options[] = {
	{"format", "NAME", "of the file (default: found out from its beginning)", set_format},
	{"fetches", "WHICH",
	 "accesses for the fetch of instructions: page (default): of those on another page\n"
	 "than the one before; all; none",
	 set_fetches},
	{"addresses", "HOW",
	 "those beyond 2^47, where programs have no memory: refuse (default): the import\n"
	 "ends; fold: their low 47 bits are taken",
	 set_addresses},
	{"pt-dump", "FILE",
	 "the program's page tables, as the DMT artifact dumps them:\nmakes a machine trace", set_pt_dump},
	{"pt-dump-host", "FILE",
	 "the dump of the virtual machine's host: where the tables of\n--pt-dump lie must be in it",
	 set_host_dump},
	{"compat", "dmt-artifact",
	 "the dumps' numbers are byte addresses, as the artifact's simulators take them,\n"
	 "not frame numbers",
	 set_compat},
	{"option", "NAME=VALUE", "for the format; may be given several times", add_option},
	{0},
};
static const struct option_desc export_options[] = {
	{"format", "NAME", "of what is written (default text)", set_format},
	{"option", "NAME=VALUE", "for the format; may be given several times", add_option},
	{0},
};

/* ---- outcomes ---- */

static int fail(const struct error *err)
{
	cli_error("trace", err->text);
	switch (err->code) {
	case -EBADMSG:
		return CLI_DAMAGED;
	case -ENOMEM:
	case -EIO:
	case -ENOSPC:
	case -EDQUOT:
	case -EPIPE:
		return CLI_HOST_FAILED;
	}
	return CLI_USAGE;
}

static void print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(o);
}

static void put(json_t *o, const char *key, uint64_t v) { json_object_set_new(o, key, json_integer((json_int_t)v)); }

/* Texts in traces are bytes; JSON's strings are UTF-8. */
static void put_string(json_t *o, const char *key, const char *v)
{
	json_t *s = json_string(v);

	json_object_set_new(o, key, s ? s : json_string("?"));
}

/* @ret: of the last thing done with @r. */
static int finish(struct trace_reader *r, int ret, const struct error *err)
{
	trace_reader_close(r);
	return ret ? fail(err) : CLI_OK;
}

/* A trace is no text. */
static int check_output(const char *path, struct error *err)
{
	return strcmp(path, "-") == 0 && isatty(STDOUT_FILENO) ?
	       error_set(err, -EINVAL, "standard output is a terminal, which a trace does not suit") : 0;
}

/* ---- info ---- */

static json_t *info_json(const struct trace_reader *r)
{
	const struct trace_info *i = trace_reader_info(r);
	struct trace_totals t;
	json_t *o = json_object();
	bool known = trace_reader_totals(r, &t);

	put_string(o, "file", trace_reader_path(r));
	put_string(o, "creator", i->creator);
	put_string(o, "source", i->source);
	put_string(o, "cpu_features", i->cpu_features);
	json_object_set_new(o, "tables", json_boolean(i->tables));
	put(o, "memory_bytes", i->memory);
	put(o, "maxphyaddr", i->maxphyaddr);
	json_object_set_new(o, "events", known ? json_integer((json_int_t)t.events) : json_null());
	json_object_set_new(o, "instructions", known ? json_integer((json_int_t)t.insns) : json_null());
	json_object_set_new(o, "partial", known ? json_boolean(trace_reader_is_partial(r)) : json_null());
	json_object_set_new(o, "file_bytes", known ? json_integer((json_int_t)t.bytes) : json_null());
	return o;
}

static void print_info(const struct trace_reader *r)
{
	const struct trace_info *i = trace_reader_info(r);
	struct trace_totals t;
	char size[32];

	printf("trace          %s\nmade by        %s\nof             %s\nkind           %s\n", trace_reader_path(r),
	       *i->creator ? i->creator : "?", *i->source ? i->source : "?",
	       i->tables ? "machine trace, with page tables" : "plain trace, without page tables");
	if (i->memory) {
		human_bytes(i->memory, size);
		printf("memory         %s\n", size);
	}
	if (i->maxphyaddr)
		printf("addresses      %u bits, physical\n", i->maxphyaddr);
	if (*i->cpu_features)
		printf("features       %s\n", i->cpu_features);
	if (!trace_reader_totals(r, &t)) {
		puts("events         not known: a pipe, or cut off (gnomon trace stat counts them)");
		return;
	}
	if (trace_reader_is_partial(r))
		puts("partial        what it was made from ended badly: what should come behind the last event is missing");
	human_bytes(t.bytes, size);
	printf("events         %" PRIu64 "\ninstructions   %" PRIu64
	       "\nfile           %s, %.2f bytes an event\n",
	       t.events, t.insns, size, t.events ? (double)t.bytes / (double)t.events : 0.0);
}

static int info(void *command)
{
	struct trace_command *c = command;
	struct trace_reader *r;
	struct error err = {0};

	if (trace_reader_open(&r, c->a.arg[0], &err))
		return fail(&err);
	if (c->json)
		print_json(info_json(r));
	else
		print_info(r);
	return finish(r, 0, &err);
}

/* ---- head ---- */

static int head(void *command)
{
	struct trace_command *c = command;
	const struct trace_event *ev;
	struct error err = {0};
	struct trace_reader *r;
	uint64_t left = c->count;
	unsigned n;
	int ret;

	if (trace_reader_open(&r, c->a.arg[0], &err))
		return fail(&err);
	ret = trace_seek_event(r, c->at, &err);
	while (!ret && left && (ret = trace_next(r, &ev, &n, &err)) > 0) {
		for (unsigned i = 0; i < n && left; i++, left--) {
			printf("%" PRIu64 "\t", trace_reader_event(r) + i);
			trace_text_print(&ev[i], stdout);
		}
		ret = 0;
	}
	return finish(r, ret, &err);
}

/* ---- stat ---- */

static const char *const mode_name[TRACE_MODES] = {"super", "super_ac", "user", "user_align", "implicit"};

static double share(uint64_t part, uint64_t of) { return of ? (double)part / (double)of : 0; }
static uint64_t accesses(const struct trace_stats *t)
{
	return t->kind[TRACE_READ] + t->kind[TRACE_WRITE] + t->kind[TRACE_FETCH];
}

static json_t *stat_json(const struct trace_reader *r, const struct trace_stats *t, bool whole)
{
	json_t *o = json_object(), *kinds = json_object(), *modes = json_object();

	put_string(o, "file", trace_reader_path(r));
	json_object_set_new(o, "whole", json_boolean(whole));
	put(o, "events", t->events);
	put(o, "instructions", t->insns);
	for (unsigned i = 1; i < TRACE_KIND_END; i++)
		if (t->kind[i])
			put(kinds, trace_kind_name(i), t->kind[i]);
	json_object_set_new(o, "by_kind", kinds);
	for (unsigned i = 0; i < TRACE_MODES; i++)
		put(modes, mode_name[i], t->mode[i]);
	json_object_set_new(o, "by_mode", modes);
	put(o, "read_bytes", t->read_bytes);
	put(o, "written_bytes", t->written_bytes);
	put(o, "table_stores", t->values);
	put(o, "faults", t->faults);
	put(o, "spaces", t->spaces);
	put(o, "tables", t->tables);
	put(o, "pages_4k", t->pages_4k);
	put(o, "pages_2m", t->pages_2m);
	put(o, "pages_1g", t->pages_1g);
	put(o, "written_4k", t->written_4k);
	json_object_set_new(o, "at_least", json_boolean(t->at_least));
	put(o, "same_page", t->same_page);
	put(o, "window_accesses", TRACE_STAT_WINDOW);
	put(o, "windows", t->windows);
	json_object_set_new(o, "window_pages_mean", json_real(share(t->window_pages, t->windows)));
	put(o, "window_pages_max", t->window_pages_max);
	put(o, "file_bytes", trace_reader_bytes(r));
	return o;
}

static void print_counts(const struct trace_stats *t)
{
	uint64_t data = t->kind[TRACE_READ] + t->kind[TRACE_WRITE];

	printf("events         %" PRIu64 "\n", t->events);
	for (unsigned i = 1; i < TRACE_KIND_END; i++)
		if (t->kind[i])
			printf("  %-12s %12" PRIu64 "  %5.1f %%\n", trace_kind_name(i), t->kind[i],
			       100 * share(t->kind[i], t->events));
	printf("instructions   %" PRIu64 "\naccesses       %" PRIu64 ", %.2f an instruction; in user mode %.1f %%\n",
	       t->insns, accesses(t), share(accesses(t), t->insns),
	       100 * share(t->mode[TRACE_USER] + t->mode[TRACE_USER_ALIGN], accesses(t)));
	printf("data           %" PRIu64 " bytes read, %" PRIu64
	       " written; %.1f %% of accesses to the page of the one before\n",
	       t->read_bytes, t->written_bytes, 100 * share(t->same_page, data));
	printf("spaces         %" PRIu64 "\ntables         %" PRIu64 " pages, %" PRIu64 " stores to them\n",
	       t->spaces, t->tables, t->values);
}

static void print_stat(const struct trace_reader *r, const struct trace_stats *t)
{
	const char *least = t->at_least ? "at least " : "";
	char size[32];

	print_counts(t);
	human_bytes(t->pages_4k << 12, size);
	printf("footprint      %s%s: %" PRIu64 " pages of 4 KiB (%" PRIu64 " written), in %" PRIu64
	       " of 2 MiB, %" PRIu64 " of 1 GiB\n",
	       least, size, t->pages_4k, t->written_4k, t->pages_2m, t->pages_1g);
	printf("reuse          %.1f accesses a page\n", share(accesses(t), t->pages_4k));
	if (t->windows) {
		human_bytes((uint64_t)(share(t->window_pages, t->windows) * 4096), size);
		printf("working set    %s on average: %.0f pages in %u accesses; at most %" PRIu64 "\n", size,
		       share(t->window_pages, t->windows), TRACE_STAT_WINDOW, t->window_pages_max);
	}
	human_bytes(trace_reader_bytes(r), size);
	printf("file           %s, %.2f bytes an event\n", size, share(trace_reader_bytes(r), t->events));
}

/* Of a damaged trace what is before the damage. */
static int stat_of(void *command)
{
	struct trace_command *c = command;
	const struct trace_event *ev;
	struct error err = {0};
	struct trace_reader *r;
	struct trace_stat *s;
	struct trace_stats t;
	unsigned n;
	int ret;

	if (trace_reader_open(&r, c->a.arg[0], &err))
		return fail(&err);
	ret = trace_stat_create(&s, &err);
	if (ret)
		return finish(r, ret, &err);
	while ((ret = trace_next(r, &ev, &n, &err)) > 0 && !trace_stat_put(s, ev, n, &err))
		;
	trace_stat_get(s, &t);
	trace_stat_destroy(s);
	if (err.code && err.code != -EBADMSG)
		return finish(r, err.code, &err);
	if (c->json)
		print_json(stat_json(r, &t, !ret));
	else
		print_stat(r, &t);
	return finish(r, ret, &err);
}

/* ---- cut ---- */

/* What the piece says of itself. */
static struct trace_info cut_info(const struct trace_command *c, const struct trace_reader *r)
{
	struct trace_info i = *trace_reader_info(r);
	char range[64] = "";

	snprintf(range, sizeof(range), " [%s %" PRIu64 "..", c->range.insns ? "instructions" : "events", c->range.from);
	if (c->range.to != UINT64_MAX)
		snprintf(range + strlen(range), sizeof(range) - strlen(range), "%" PRIu64, c->range.to);
	if (strlen(i.source) + strlen(range) + 1 < sizeof(i.source))
		strcat(strcat(i.source, range), "]");
	return i;
}

/* What is cut out before something is wrong is kept. */
static int finish_cut(const struct trace_command *c, struct trace_writer *w, uint64_t given, int ret, struct error *err)
{
	int closed;

	if (ret && (ret != -EBADMSG || !given)) {
		trace_writer_drop(w);
		return ret;
	}
	if (ret) {
		trace_writer_is_partial(w);
		fprintf(stderr, "%s has the %" PRIu64 " events before that\n", c->a.arg[1], given);
	}
	closed = trace_writer_close(w, ret ? NULL : err);
	return ret ? ret : closed;
}

static int cut(void *command)
{
	struct trace_command *c = command;
	struct trace_writer *w;
	struct trace_reader *r;
	struct trace_sink to;
	struct trace_info i;
	struct error err = {0};
	uint64_t given;
	int ret;

	if (!c->range.to)
		error_set(&err, -EINVAL, "cut: --events or --instructions is missing (see gnomon trace cut --help)");
	if (!c->range.to || check_output(c->a.arg[1], &err) || trace_reader_open(&r, c->a.arg[0], &err))
		return fail(&err);
	i = cut_info(c, r);
	ret = trace_writer_open(&w, c->a.arg[1], &i, &err);
	if (!ret) {
		to = trace_writer_sink(w);
		ret = trace_cut(r, &c->range, &to, &given, &err);
		ret = finish_cut(c, w, given, ret, &err);
	}
	return finish(r, ret, &err);
}

/* ---- import ---- */

struct import {
	const struct trace_format *format;
	const char *to;
	struct trace_writer *writer;
};

static int import_begin(void *ctx, const struct trace_info *given, struct error *err)
{
	struct import *m = ctx;
	struct trace_info i = *given;

	if (!*i.creator)
		snprintf(i.creator, sizeof(i.creator), "gnomon " GNOMON_VERSION " trace import, %s", m->format->name);
	return trace_writer_open(&m->writer, m->to, &i, err);
}

static int import_put(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	return trace_put(((struct import *)ctx)->writer, ev, n, err);
}

/* By the beginning of a file. What a pipe gave out to be looked at would be lost. */
static int find_format(const char *path, const struct trace_format **f, struct error *err)
{
	uint8_t head_bytes[TRACE_DETECT_BYTES];
	struct stat st;
	ssize_t n;
	int fd;

	if (strcmp(path, "-") == 0 || (stat(path, &st) == 0 && !S_ISREG(st.st_mode)))
		return error_set(err, -EINVAL, "%s: the format must be given where it is not a file (--format)", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, head_bytes, sizeof(head_bytes));
	if (n < 0)
		error_set(err, -errno, "%s: cannot be read: %m", path);
	if (fd >= 0)
		close(fd);
	if (n < 0)
		return err->code;
	for (unsigned i = 0; trace_formats[i]; i++) {
		*f = trace_formats[i];
		if ((*f)->import && (*f)->detect && (*f)->detect(head_bytes, (size_t)n))
			return 0;
	}
	return error_set(err, -EINVAL, "%s: of no format that is known by its beginning (--format)", path);
}

/* What was read before something is wrong is kept: as a trace of its own. */
static int finish_import(struct import *m, int ret, struct error *err)
{
	const uint64_t events = m->writer ? trace_writer_events(m->writer) : 0;
	struct error closed = {0};

	if (ret && (ret != -EBADMSG || !events)) {
		trace_writer_drop(m->writer);
		return fail(err);
	}
	if (ret)
		trace_writer_is_partial(m->writer);
	if (trace_writer_close(m->writer, &closed))
		return fail(&closed);
	if (ret)
		fprintf(stderr, "%s has the %" PRIu64 " events before that\n", m->to, events);
	return ret ? fail(err) : CLI_OK;
}

static int import(void *command)
{
	struct trace_command *c = command;
	struct import m = {.format = c->format, .to = c->a.arg[1]};
	const struct trace_import to = {import_begin, import_put, &m};
	struct error err = {0};

	if (check_output(m.to, &err) || (!m.format && find_format(c->a.arg[0], &m.format, &err)))
		return fail(&err);
	if (!m.format->import) {
		error_set(&err, -EINVAL, "--format %s: can only be exported", m.format->name);
		return fail(&err);
	}
	return finish_import(&m, m.format->import(c->a.arg[0], &c->options, &to, &err), &err);
}

/* ---- export ---- */

static int export_to(const struct trace_command *c, struct trace_reader *r, const char *path, struct error *err)
{
	FILE *out = strcmp(path, "-") ? fopen(path, "we") : stdout;
	int ret;

	if (!out)
		return error_set(err, -errno, "%s: cannot be opened for writing: %m", path);
	ret = c->format->export(r, &c->options, out, err);
	if (fflush(out) && !ret)
		ret = error_set(err, -errno, "%s: cannot be written: %m", path);
	if (out != stdout && fclose(out) && !ret)
		ret = error_set(err, -errno, "%s: cannot be written: %m", path);
	return ret;
}

static int export(void *command)
{
	struct trace_command *c = command;
	struct trace_reader *r;
	struct error err = {0};

	if (!c->format)
		c->format = &trace_format_text;
	if (!c->format->export) {
		error_set(&err, -EINVAL, "--format %s: can only be imported", c->format->name);
		return fail(&err);
	}
	if (trace_reader_open(&r, c->a.arg[0], &err))
		return fail(&err);
	return finish(r, export_to(c, r, c->a.args > 1 ? c->a.arg[1] : "-", &err), &err);
}

/* ---- verbs ---- */

static void list_formats(FILE *out)
{
	fputs("\nFormats (import and export):\n", out);
	for (unsigned i = 0; trace_formats[i]; i++) {
		const struct trace_format *f = trace_formats[i];
		const char *nl, *text = f->help;

		fprintf(out, "  %-12s %-8s  ", f->name,
			f->import && f->export ? "both"
			: f->import            ? "import"
					       : "export");
		for (; (nl = strchr(text, '\n')); text = nl + 1)
			fprintf(out, "%.*s\n%25s", (int)(nl - text), text, "");
		fprintf(out, "%s\n", text);
	}
}

static const struct verb verbs[] = {
	{"info", "TRACE", "what a trace is, and how long", 1, 1, json_options, info},
	{"head", "TRACE", "events as text, one a line, after their numbers", 1, 1, head_options, head},
	{"stat", "TRACE", "counts, footprint and working set of a trace, which it reads to the end", 1, 1,
	 json_options, stat_of},
	{"cut", "TRACE NEW-TRACE",
	 "a piece of a trace as a trace, with the registers and page tables it begins with", 2, 2,
	 cut_options, cut},
	{"import", "FILE TRACE", "make a trace of a file of another format", 2, 2, import_options, import},
	{"export", "TRACE [FILE]", "turn a trace into another format", 1, 2, export_options, export},
};

static void more_help(const struct verb *v, FILE *out)
{
	if (v->options == import_options || v->options == export_options)
		list_formats(out);
}

static const struct verb_command command = {"trace", verbs, ARRAY_SIZE(verbs), more_help};

static void help(FILE *out)
{
	fputs("Usage: gnomon trace VERB ...\n\nTraces of what guests did, for 'gnomon replay'.\n\n", out);
	verb_list(&command, out);
	list_formats(out);
	fputs("\n'gnomon trace VERB --help' has the options. TRACE can be '-', standard input or output.\n\n"
	      "Exit status: 0; 2 if the request makes no sense; 10 if the host fails; 16 if a trace is cut off or\n"
	      "damaged: what is before that was used nevertheless.\n", out);
}

static int trace_command(int argc, char **argv)
{
	struct trace_command c = {.count = 20};
	int status;
	const struct verb *v = verb_find(&command, argc, argv, help, fail, &status);

	if (!v)
		return status;
	status = verb_run(&command, v, argc, argv, &c, &c, fail);
	while (c.owned_count)
		free(c.owned[--c.owned_count]);
	return status;
}

const struct command cmd_trace = {"trace", "look into traces, cut, import and export them", trace_command, help};
