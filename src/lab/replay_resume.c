/* See replay_resume.h. Results are kept as the JSON that replay_report() makes of them; reals survive that exactly. */
#include "lab/replay_resume.h"

#include "lab/report.h"
#include "vm/file.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define FILE_MAX (16u << 20) /* bytes: some kilobytes a cell */
#define SUM_BYTES (1u << 20) /* of the trace at once */

struct resumption {
	const struct replay_config *cfg;
	const struct replay_resume *how;
	struct stat trace;          /* as it was when its checksum was made */
	json_t *inputs;             /* what results depend on */
	json_t *finished;           /* results in the file: an array */
	json_t *failed;             /* results of machines that gave up, or of a trace that is damaged */
	uint64_t events;            /* of the trace that a group took */
	bool began[REPLAY_CELLS_MAX]; /* a cell that has been given a machine, or has a result in the file */
	unsigned group;
	struct error why;
	struct replay_config part;  /* of the group at hand */
	struct replay_results out;
};

/* ---- what results depend on ---- */

static int check_trace(const struct resumption *s, struct error *err)
{
	const struct stat *was = &s->trace;
	struct stat is;

	if (stat(s->how->trace, &is))
		return error_set(err, -errno, "%s: %m", s->how->trace);
	if (is.st_ino != was->st_ino || is.st_dev != was->st_dev || is.st_size != was->st_size ||
	    is.st_mtim.tv_sec != was->st_mtim.tv_sec || is.st_mtim.tv_nsec != was->st_mtim.tv_nsec)
		return error_set(err, -EINVAL, "%s: has changed while it was replayed", s->how->trace);
	return 0;
}

static int sum_of(const struct resumption *s, const char *path, int fd, XXH3_state_t *x, uint8_t *buf, struct error *err)
{
	ssize_t n;

	XXH3_64bits_reset(x);
	while ((n = read(fd, buf, SUM_BYTES)) != 0) {
		if (n < 0 && errno != EINTR)
			return error_set(err, -errno, "%s: cannot be read: %m", path);
		if (s->cfg->stop && s->cfg->stop(s->cfg->ctx))
			return error_set(err, -EINTR, "interrupted");
		if (n > 0)
			XXH3_64bits_update(x, buf, (size_t)n);
	}
	return 0;
}

/* Of all of the trace, or the program: that takes little beside replaying. */
static int sum_file_at(const struct resumption *s, const char *path, uint64_t *sum, struct error *err)
{
	XXH3_state_t *x = XXH3_createState();
	uint8_t *buf = malloc(SUM_BYTES);
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		ret = error_set(err, -errno, "%s: cannot be opened: %m", path);
	else
		ret = x && buf ? sum_of(s, path, fd, x, buf, err) : error_set(err, -ENOMEM, "replay: out of memory");
	if (ret == 0)
		*sum = XXH3_64bits_digest(x);
	if (fd >= 0)
		close(fd);
	free(buf);
	XXH3_freeState(x);
	return ret;
}

static void put_hex(json_t *o, const char *key, uint64_t v)
{
	json_object_set_new(o, key, json_sprintf("%016" PRIx64, v));
}

static void put_features(json_t *o, const struct cpu_config *cpu)
{
	static const char *const name[CPUF_COUNT] = {
#define X(sym, text, leaf, sub, reg, bit) text,
		CPU_FEATURES(X)
#undef X
	};
	json_t *features = json_array();

	for (unsigned i = 0; i < CPUF_COUNT; i++)
		if (cpu->feature[i])
			json_array_append_new(features, json_string(name[i]));
	json_object_set_new(o, "cpu-features", features);
}

/* Keys are what a message calls them. */
static json_t *build_inputs(const struct resumption *s, uint64_t trace_sum, uint64_t program_sum)
{
	const struct replay_config *cfg = s->cfg;
	json_t *o = json_object();

	json_object_set_new(o, "version of gnomon", json_string(s->how->version));
	/* Two builds of a version may count differently. */
	put_hex(o, "build of gnomon", program_sum);
	json_object_set_new(o, "size of the trace", json_integer(s->trace.st_size));
	put_hex(o, "checksum of the trace", trace_sum);
	json_object_set_new(o, "hw", json_string(cfg->engine.cpu.hw.name));
	put_hex(o, "checksum of the hardware description", XXH3_64bits(&cfg->engine.cpu.hw, sizeof(cfg->engine.cpu.hw)));
	put_features(o, &cfg->engine.cpu);
	json_object_set_new(o, "features of the trace", json_boolean(!cfg->features_given));
	json_object_set_new(o, "memory", json_integer((json_int_t)cfg->memory));
	json_object_set_new(o, "tables", json_integer(cfg->tables));
	json_object_set_new(o, "fragmentation", json_integer(cfg->os.fragmentation));
	json_object_set_new(o, "seed", json_integer((json_int_t)cfg->os.seed));
	json_object_set_new(o, "tea-threshold", json_integer((json_int_t)cfg->os.tea_threshold));
	json_object_set_new(o, "populate", json_boolean(cfg->populate));
	json_object_set_new(o, "data-cache", json_boolean(cfg->engine.cpu.data_cache));
	json_object_set_new(o, "no-vpid", json_boolean(cfg->engine.no_vpid));
	json_object_set_new(o, "limit-events", json_integer((json_int_t)cfg->limit_events));
	return o;
}

/* ---- the file ---- */

static int damaged(const struct resumption *s, const char *why, struct error *err)
{
	return error_set(err, -EBADMSG, "'%s': %s", s->how->file, why);
}

/* Of everything in the file but the checksum itself. */
static bool sum_file(const json_t *file, char sum[17])
{
	json_t *all = json_copy((json_t *)(uintptr_t)file);
	char *text;

	json_object_del(all, "checksum");
	text = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
	if (text)
		snprintf(sum, 17, "%016" PRIx64, XXH3_64bits(text, strlen(text)));
	free(text);
	json_decref(all);
	return text != NULL;
}

static int write_file(const struct resumption *s, struct error *err)
{
	json_t *o = json_object();
	struct report_file f;
	char *text, sum[17];
	int ret;

	json_object_set_new(o, "schema", json_string(REPLAY_RESUME_SCHEMA));
	json_object_set(o, "inputs", s->inputs);
	json_object_set_new(o, "events", json_integer((json_int_t)s->events));
	json_object_set(o, "results", s->finished);
	if (sum_file(o, sum))
		json_object_set_new(o, "checksum", json_string(sum));
	text = json_dumps(o, JSON_INDENT(1));
	ret = text ? report_file_open(&f, s->how->file, err) : error_set(err, -ENOMEM, "replay: out of memory");
	if (ret == 0) {
		f.durable = true;
		ret = report_file_commit_bytes(&f, text, strlen(text), err);
	}
	free(text);
	json_decref(o);
	return ret;
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *v = json_string_value(json_object_get(o, key));

	return v ? v : "";
}

static bool is_of(const json_t *result, const struct replay_cell *cell)
{
	return strcmp(text_of(result, "design"), replay_design_name(cell->design)) == 0 &&
	       strcmp(text_of(result, "setup"), replay_setup_name[cell->setup]) == 0 &&
	       strcmp(text_of(result, "pages"), replay_pages_name[cell->pages]) == 0;
}

static json_t *result_of(const json_t *results, const struct replay_cell *cell)
{
	for (size_t i = 0; i < json_array_size(results); i++)
		if (is_of(json_array_get(results, i), cell))
			return json_array_get(results, i);
	return NULL;
}

/* What the report is made of must be there; nothing else of a result is looked at here. */
static bool is_result(const json_t *o)
{
	const json_t *cycles = json_object_get(o, "cycles");

	return json_is_integer(json_object_get(o, "instructions")) && json_is_number(json_object_get(cycles, "mean_walk")) &&
	       json_is_number(json_object_get(cycles, "total")) && json_is_null(json_object_get(o, "error"));
}

static int check_inputs(const struct resumption *s, const json_t *inputs, struct error *err)
{
	const char *key;
	json_t *mine;

	json_object_foreach(s->inputs, key, mine) {
		const json_t *other = json_object_get(inputs, key);
		char *a, *b;

		if (json_equal(mine, other))
			continue;
		a = json_dumps(other, JSON_ENCODE_ANY);
		b = json_dumps(mine, JSON_ENCODE_ANY);
		error_set(err, -EINVAL, "'%.100s': results that depend on something else: %s (there %.120s, now %.120s)",
			  s->how->file, key, a ? a : "nothing", b ? b : "nothing");
		free(a);
		free(b);
		return -EINVAL;
	}
	return 0;
}

static int take_file(struct resumption *s, const json_t *o, struct error *err)
{
	json_t *results = json_object_get(o, "results");
	json_int_t events = json_integer_value(json_object_get(o, "events"));
	char sum[17];
	int ret;

	if (strcmp(text_of(o, "schema"), REPLAY_RESUME_SCHEMA))
		return damaged(s, "no file of an interrupted replay", err);
	if (!sum_file(o, sum) || strcmp(text_of(o, "checksum"), sum))
		return damaged(s, "damaged: its checksum is wrong", err);
	ret = check_inputs(s, json_object_get(o, "inputs"), err);
	if (ret)
		return ret;
	if (!json_is_array(results) || json_array_size(results) > REPLAY_CELLS_MAX || events < 0)
		return damaged(s, "damaged: no results", err);
	for (size_t i = 0; i < json_array_size(results); i++)
		if (!is_result(json_array_get(results, i)))
			return damaged(s, "damaged: a result that is none", err);
	s->events = (uint64_t)events;
	json_decref(s->finished);
	s->finished = json_incref(results);
	return 0;
}

static int parse_file(struct resumption *s, const struct blob *b, struct error *err)
{
	json_error_t why;
	json_t *o = json_loadb((const char *)b->data, b->bytes, JSON_REJECT_DUPLICATES, &why);
	int ret;

	if (!o)
		return error_set(err, -EBADMSG, "'%.200s': line %d: %s", s->how->file, why.line, why.text);
	ret = take_file(s, o, err);
	json_decref(o);
	return ret;
}

/* A file that is not there has no results. */
static int read_file(struct resumption *s, struct error *err)
{
	struct stat st;
	struct blob b;
	int ret;

	if (stat(s->how->file, &st))
		return errno == ENOENT ? 0 : error_set(err, -errno, "'%s': %m", s->how->file);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "'%s': not a regular file", s->how->file);
	if (st.st_size == 0)
		return damaged(s, "is empty", err);
	ret = blob_read(&b, "resume", s->how->file, FILE_MAX, err);
	if (ret)
		return ret;
	ret = parse_file(s, &b, err);
	blob_free(&b);
	return ret;
}

/* ---- groups ---- */

/* The next cells without a result; none: false. */
static bool choose_group(struct resumption *s)
{
	s->part = *s->cfg;
	s->part.cells = 0;
	for (unsigned i = 0; i < s->cfg->cells && s->part.cells < s->cfg->jobs; i++) {
		if (s->began[i])
			continue;
		s->began[i] = true;
		s->part.cell[s->part.cells++] = s->cfg->cell[i];
	}
	return s->part.cells > 0;
}

static void take_results(struct resumption *s)
{
	json_t *report = replay_report(&s->out, &s->cfg->engine.cpu.hw);
	json_t *results = json_object_get(report, "results");

	for (unsigned i = 0; i < s->out.results; i++) {
		bool finished = s->out.whole && !s->out.result[i].err.code;
		json_t *o = json_array_get(results, i);

		json_object_set_new(o, "speedup", json_null()); /* over what other groups have, too */
		json_array_append(finished ? s->finished : s->failed, o);
	}
	s->events = max_u64(s->events, s->out.events);
	json_decref(report);
}

static int replay_group(struct resumption *s, struct error *err)
{
	struct trace_reader *r = NULL;
	int ret = check_trace(s, err);

	if (!ret)
		ret = trace_reader_open(&r, s->how->trace, err);
	if (!ret)
		ret = replay_trace(&s->out, &s->part, r, err);
	trace_reader_close(r);
	if (ret)
		return ret;
	if (s->out.partial && !s->why.code)
		s->why = s->out.why;
	if (s->out.partial && s->out.why.code == -EINTR) {
		s->why = s->out.why;
		return 0;
	}
	take_results(s);
	return s->out.whole ? write_file(s, err) : 0;
}

static int replay_groups(struct resumption *s, struct error *err)
{
	unsigned left = 0, groups;
	int ret = 0;

	for (unsigned i = 0; i < s->cfg->cells; i++) {
		s->began[i] = result_of(s->finished, &s->cfg->cell[i]) != NULL;
		left += !s->began[i];
	}
	groups = (left + s->cfg->jobs - 1) / s->cfg->jobs;
	/* That it can be written is known before the long part. */
	if (left)
		ret = write_file(s, err);
	while (!ret && s->why.code != -EINTR && choose_group(s)) {
		s->group++;
		if (s->how->group)
			s->how->group(s->how->ctx, s->group, groups);
		ret = replay_group(s, err);
	}
	return ret;
}

/* ---- the whole ---- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The results of all cells that have some, in the order of the cells. */
static json_t *collect(struct resumption *s)
{
	json_t *results = json_array();

	for (unsigned i = 0; i < s->cfg->cells; i++) {
		json_t *o = result_of(s->finished, &s->cfg->cell[i]);

		if (!o)
			o = result_of(s->failed, &s->cfg->cell[i]);
		if (!o)
			continue;
		json_array_append(results, o);
		s->out.insns = max_u64(s->out.insns, (uint64_t)json_integer_value(json_object_get(o, "instructions")));
	}
	return results;
}

static json_t *conclude(struct resumption *s, double seconds)
{
	json_t *results;

	s->out.results = 0;
	s->out.insns = 0;
	results = collect(s);
	s->out.events = s->events;
	s->out.seconds = seconds;
	s->out.partial = s->why.code != 0;
	if (s->why.code == -EINTR)
		error_set(&s->why, -EINTR, "interrupted: %zu of %u results are finished, '%s' has them",
			  json_array_size(results), s->cfg->cells, s->how->file);
	s->out.why = s->why;
	return replay_report_of(&s->out, &s->cfg->engine.cpu.hw, results);
}

/* The trace, its description, and what is known of results. */
static int begin(struct resumption *s, struct error *err)
{
	struct trace_reader *r;
	uint64_t sum, program;
	int ret;

	if (strcmp(s->how->trace, "-") == 0)
		return error_set(err, -EINVAL, "--resume: a pipe cannot be read twice; a file is wanted");
	if (stat(s->how->trace, &s->trace))
		return error_set(err, -errno, "%s: %m", s->how->trace);
	if (!S_ISREG(s->trace.st_mode))
		return error_set(err, -EINVAL, "--resume: %s is no file that can be read twice", s->how->trace);
	ret = trace_reader_open(&r, s->how->trace, err);
	if (ret)
		return ret;
	replay_results_begin(&s->out, s->cfg, r);
	trace_reader_close(r);
	ret = sum_file_at(s, s->how->trace, &sum, err);
	if (ret == 0)
		ret = sum_file_at(s, "/proc/self/exe", &program, err);
	if (ret)
		return ret;
	s->inputs = build_inputs(s, sum, program);
	s->finished = json_array();
	s->failed = json_array();
	return read_file(s, err);
}

int replay_resumable(json_t **report, struct error *why, const struct replay_config *cfg,
		     const struct replay_resume *how, struct error *err)
{
	struct resumption *s = calloc(1, sizeof(*s));
	double began = now();
	int ret;

	if (!s)
		return error_set(err, -ENOMEM, "replay: out of memory");
	s->cfg = cfg;
	s->how = how;
	ret = begin(s, err);
	if (!ret)
		ret = replay_groups(s, err);
	if (!ret) {
		*report = conclude(s, now() - began);
		*why = s->why;
	}
	json_decref(s->inputs);
	json_decref(s->finished);
	json_decref(s->failed);
	free(s);
	return ret;
}
