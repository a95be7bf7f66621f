/* Events as text, and the format of whole traces as text. */
#include "trace/text.h"

#include "base/util.h"
#include "trace/members.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_LINE "gnomon-trace-text 1"

static const char *const mode_name[TRACE_MODES] = {"super", "super-ac", "user", "user-align", "implicit"};

struct word { unsigned bit; const char *name; };
static const struct word access_words[] = {{TRACE_FIRST, "first"}, {TRACE_AGAIN, "again"}, {TRACE_DELIVERY, "delivery"},
					   {TRACE_FAULTS, "faults"}, {0}};
static const struct word register_words[] = {{TRACE_INITIAL, "initial"}, {0}};
static const struct word map_words[] = {{TRACE_MAP_WRITE, "write"}, {TRACE_MAP_EXEC, "exec"},
					{TRACE_MAP_STACK, "stack"}, {TRACE_MAP_FILE, "file"},
					{TRACE_MAP_HUGE, "huge"},   {TRACE_MAP_NOHUGE, "nohuge"},
					{TRACE_MAP_FREE, "free"},   {0}};

static const struct word *words_of(unsigned kind)
{
	return kind <= TRACE_FETCH ? access_words : kind >= TRACE_MAP ? map_words : register_words;
}

/* Counts are read more easily in decimal. */
static bool is_count(unsigned kind) { return kind == TRACE_INSNS || kind == TRACE_INVPCID || kind >= TRACE_MAP; }

/* ---- printing ---- */

static void print_page(const struct trace_event *ev, FILE *out)
{
	for (unsigned i = 0; i < PAGE_SIZE / 8; i++) {
		uint64_t v = get_u64(trace_event_page(ev) + 8 * i);

		if (v)
			fprintf(out, " %u=0x%" PRIx64, i, v);
	}
}

static void print_access(const struct trace_event *ev, FILE *out)
{
	fprintf(out, " %s", mode_name[ev->mode]);
	if (ev->flags & TRACE_VALUE)
		fprintf(out, " value=0x%" PRIx64 " gpa=0x%" PRIx64, ev->value, trace_value_gpa(ev));
	if (ev->pc)
		fprintf(out, " pc=0x%" PRIx64, ev->pc);
	if (trace_insn_bytes(ev))
		fprintf(out, " insn=%u", trace_insn_bytes(ev));
}

void trace_text_print(const struct trace_event *ev, FILE *out)
{
	unsigned has = trace_members[ev->kind].has;

	fputs(trace_kind_name(ev->kind), out);
	if (has & HAS_ADDR)
		fprintf(out, " 0x%" PRIx64, ev->addr);
	if (has & HAS_SIZE)
		fprintf(out, " %u", ev->size);
	if (trace_is_access(ev))
		print_access(ev, out);
	else if (has & HAS_AUX)
		fprintf(out, " %u", ev->aux);
	if (has & HAS_VALUE)
		fprintf(out, is_count(ev->kind) ? " %" PRIu64 : " 0x%" PRIx64, ev->value);
	if (ev->kind == TRACE_PAGE)
		print_page(ev, out);
	for (const struct word *w = words_of(ev->kind); w->bit; w++)
		if (ev->flags & w->bit)
			fprintf(out, " %s", w->name);
	putc('\n', out);
}

/* ---- parsing ---- */

static bool parse_number(const char *text, uint64_t max, uint64_t *v)
{
	char *end;

	errno = 0;
	*v = strtoull(text, &end, 0);
	return *text >= '0' && *text <= '9' && !*end && !errno && *v <= max;
}

/* The next word of the line must be a number. */
static int take_number(char **rest, const char *what, uint64_t max, uint64_t *v, struct error *err)
{
	char *word = strtok_r(NULL, " \t", rest);

	if (!word)
		return error_set(err, -EINVAL, "%s is missing", what);
	return parse_number(word, max, v)
		       ? 0
		       : error_set(err, -EINVAL, "%s '%.40s': no number, or too large", what, word);
}

static int parse_mode(char **rest, struct trace_event *ev, struct error *err)
{
	const char *word = strtok_r(NULL, " \t", rest);

	for (unsigned i = 0; word && i < TRACE_MODES; i++) {
		if (strcmp(word, mode_name[i]) == 0) {
			ev->mode = (uint8_t)i;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "mode '%.40s': one of super, super-ac, user, user-align, implicit",
			 word ? word : "");
}

/* A word behind the members: a flag, NAME=VALUE of an access, INDEX=VALUE of a page. */
static int parse_word(char *word, struct trace_event *ev, uint8_t *page, uint64_t *gpa, struct error *err)
{
	char *value = strchr(word, '=');
	uint64_t v = 0, index;

	for (const struct word *w = words_of(ev->kind); !value && w->bit; w++) {
		if (strcmp(word, w->name) == 0) {
			ev->flags |= (uint8_t)w->bit;
			return 0;
		}
	}
	if (!value || !parse_number(value + 1, UINT64_MAX, &v))
		return error_set(err, -EINVAL, "'%.40s' makes no sense behind '%s'", word, trace_kind_name(ev->kind));
	*value = 0;
	if (ev->kind == TRACE_PAGE && parse_number(word, PAGE_SIZE / 8 - 1, &index)) {
		put_u64(page + 8 * index, v);
	} else if (trace_is_access(ev) && strcmp(word, "pc") == 0) {
		ev->pc = v;
	} else if (trace_is_access(ev) && strcmp(word, "insn") == 0 && v <= TRACE_INSN_BYTES) {
		ev->aux |= (uint32_t)v;
	} else if (ev->kind == TRACE_WRITE && strcmp(word, "value") == 0) {
		ev->flags |= TRACE_VALUE;
		ev->value = v;
	} else if (ev->kind == TRACE_WRITE && strcmp(word, "gpa") == 0 && v < TRACE_GPA_END) {
		*gpa = v;
	} else {
		return error_set(err, -EINVAL, "'%.40s=' makes no sense behind '%s', or its value does not", word,
				 trace_kind_name(ev->kind));
	}
	return 0;
}

static int find_kind(const char *word, struct trace_event *ev, struct error *err)
{
	for (ev->kind = 1; word && ev->kind < TRACE_KIND_END; ev->kind++)
		if (strcmp(word, trace_kind_name(ev->kind)) == 0)
			return 0;
	return error_set(err, -EINVAL, "'%.40s' is no event", word ? word : "");
}

static int parse_members(char **rest, struct trace_event *ev, struct error *err)
{
	unsigned has = trace_members[ev->kind].has;
	uint64_t v = 0;

	if (has & HAS_ADDR && take_number(rest, "address", UINT64_MAX, &ev->addr, err))
		return err->code;
	if (has & HAS_SIZE && take_number(rest, "size", UINT8_MAX, &v, err))
		return err->code;
	ev->size = (uint8_t)v;
	if (trace_is_access(ev))
		return parse_mode(rest, ev, err);
	v = 0;
	if (has & HAS_AUX && take_number(rest, "type", UINT32_MAX, &v, err))
		return err->code;
	ev->aux = (uint32_t)v;
	return has & HAS_VALUE ? take_number(rest, "value", UINT64_MAX, &ev->value, err) : 0;
}

int trace_text_parse(char *line, struct trace_event *ev, uint8_t *page, struct error *err)
{
	char *rest, *word = strtok_r(line, " \t", &rest);
	uint64_t gpa = UINT64_MAX;
	struct error e = {0};

	*ev = (struct trace_event){0};
	if (!find_kind(word, ev, &e))
		parse_members(&rest, ev, &e);
	if (ev->kind == TRACE_PAGE) {
		memset(page, 0, PAGE_SIZE);
		ev->value = (uintptr_t)page;
	}
	while (!e.code && (word = strtok_r(NULL, " \t", &rest)))
		parse_word(word, ev, page, &gpa, &e);
	if (!e.code && ev->flags & TRACE_VALUE && ev->kind == TRACE_WRITE) {
		if (gpa == UINT64_MAX || ((gpa ^ ev->addr) & ~PAGE_MASK))
			error_set(&e, -EINVAL, "gpa=: of a write with value=, with the same place in its page");
		else
			ev->aux = trace_value_aux(gpa, ev->aux);
	} else if (!e.code && gpa != UINT64_MAX) {
		error_set(&e, -EINVAL, "gpa= without value=");
	}
	if (!e.code)
		trace_event_check(ev, &e);
	return e.code ? error_set(err, e.code, "%s", e.text) : 0;
}

/* ---- whole traces ---- */

static bool detect(const uint8_t *head, size_t n)
{
	return n >= strlen(HEAD_LINE) && memcmp(head, HEAD_LINE, strlen(HEAD_LINE)) == 0;
}

static int no_options(const struct trace_options *o, struct error *err)
{
	return o->count ? error_set(err, -EINVAL, "text: it has no option '%.60s'", o->option[0]) : 0;
}

static int write_text(struct trace_reader *from, const struct trace_options *options, FILE *out, struct error *err)
{
	const struct trace_info *i = trace_reader_info(from);
	const struct trace_event *ev;
	unsigned n;
	int ret = no_options(options, err);

	if (ret)
		return ret;
	fprintf(out,
		HEAD_LINE "\ncreator %s\nsource %s\ncpu-features %s\nmemory %" PRIu64
			  "\nmaxphyaddr %u\ntables %s\n\n",
		i->creator, i->source, i->cpu_features, i->memory, i->maxphyaddr, i->tables ? "yes" : "no");
	while ((ret = trace_next(from, &ev, &n, err)) > 0) {
		for (unsigned k = 0; k < n; k++)
			trace_text_print(&ev[k], out);
		if (ferror(out))
			return error_set(err, -EIO, "the text cannot be written");
	}
	return ret;
}

struct text_reader {
	FILE *in;
	const char *path;
	unsigned long long line_number;
	char line[TRACE_LINE_MAX + 1];
	uint8_t page[PAGE_SIZE];
};

static int bad_line(const struct text_reader *r, const char *why, struct error *err)
{
	return error_set(err, -EBADMSG, "%s: line %llu: %s", r->path, r->line_number, why);
}

/* The next line, without its end: 1, or 0 behind the last. */
static int next_line(struct text_reader *r, struct error *err)
{
	size_t n;

	r->line_number++;
	if (!fgets(r->line, sizeof(r->line), r->in))
		return ferror(r->in) ? error_set(err, -EIO, "%s: cannot be read: %m", r->path) : 0;
	n = strlen(r->line);
	if (!n || r->line[n - 1] != '\n')
		return bad_line(r,
				n + 1 < sizeof(r->line) ? "cut off, or with a zero in it"
							: "longer than a line may be",
				err);
	r->line[n - 1] = 0;
	return 1;
}

static bool set_text(char *to, size_t room, const char *text)
{
	return snprintf(to, room, "%s", text) < (int)room;
}

static bool set_info(struct trace_info *i, const char *key, const char *value)
{
	uint64_t v;

	if (strcmp(key, "creator") == 0)
		return set_text(i->creator, sizeof(i->creator), value);
	if (strcmp(key, "source") == 0)
		return set_text(i->source, sizeof(i->source), value);
	if (strcmp(key, "cpu-features") == 0)
		return set_text(i->cpu_features, sizeof(i->cpu_features), value);
	if (strcmp(key, "tables") == 0) {
		i->tables = strcmp(value, "yes") == 0;
		return i->tables || strcmp(value, "no") == 0;
	}
	if (strcmp(key, "memory") == 0 && parse_number(value, UINT64_MAX, &v)) {
		i->memory = v;
		return true;
	}
	if (strcmp(key, "maxphyaddr") == 0 && parse_number(value, 64, &v)) {
		i->maxphyaddr = (unsigned)v;
		return true;
	}
	return false;
}

/* Up to the empty line. */
static int read_info(struct text_reader *r, struct trace_info *info, struct error *err)
{
	int ret;

	*info = (struct trace_info){0};
	ret = next_line(r, err);
	if (ret > 0 && strcmp(r->line, HEAD_LINE) != 0)
		ret = bad_line(r, "does not begin with '" HEAD_LINE "'", err);
	while (ret > 0 && (ret = next_line(r, err)) > 0 && *r->line) {
		char *value = strchr(r->line, ' ');

		if (value)
			*value++ = 0;
		if (!value || !set_info(info, r->line, value))
			ret = bad_line(r, "a key that is unknown, or a value that makes no sense", err);
	}
	return ret ? ret : bad_line(r, "ends before its events", err);
}

static int read_events(struct text_reader *r, const struct trace_import *to, struct error *err)
{
	struct trace_event ev;
	struct error why;
	int ret;

	while ((ret = next_line(r, err)) > 0) {
		if (!*r->line || *r->line == '#')
			continue;
		if (trace_text_parse(r->line, &ev, r->page, &why))
			return bad_line(r, why.text, err);
		ret = to->put(to->ctx, &ev, 1, err);
		if (ret)
			return ret;
	}
	return ret;
}

static int read_text(const char *path, const struct trace_options *options, const struct trace_import *to,
		     struct error *err)
{
	struct text_reader *r;
	struct trace_info info;
	int ret = no_options(options, err);

	if (ret)
		return ret;
	r = calloc(1, sizeof(*r));
	if (!r)
		return error_set(err, -ENOMEM, "%s: no memory", path);
	r->path = path;
	r->in = strcmp(path, "-") ? fopen(path, "re") : stdin;
	ret = r->in ? read_info(r, &info, err) : error_set(err, -errno, "%s: cannot be opened: %m", path);
	if (ret > 0)
		ret = to->begin(to->ctx, &info, err);
	if (!ret)
		ret = read_events(r, to, err);
	if (r->in && r->in != stdin)
		fclose(r->in);
	free(r);
	return ret;
}

const struct trace_format trace_format_text = {
	.name = "text", .help = "one event a line, for people and tests", .detect = detect, .import = read_text,
	.export = write_text,
};
