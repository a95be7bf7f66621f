/* Events from records of foreign traces: checks, groups, counts. */
#include "trace/importer.h"
#include "arch/x86.h"
#include "trace/page_dump.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define INSNS_EVERY     256u /* instructions that an event tells of */
#define NO_PAGE         UINT64_MAX

/* ---- events ---- */

static int flush(struct importer *imp, struct error *err)
{
	unsigned n = imp->events;
	int rc = n ? imp->to->put(imp->to->ctx, imp->batch, n, err) : 0;

	imp->events = 0;
	imp->refused = rc;
	return rc;
}

int importer_put(struct importer *imp, const struct trace_event *ev, struct error *err)
{
	imp->batch[imp->events++] = *ev;
	return imp->events < IMPORT_BATCH && ev->kind != TRACE_PAGE ? 0 : flush(imp, err);
}

static int put_insns(struct importer *imp, struct error *err)
{
	struct trace_event ev = {.kind = TRACE_INSNS, .value = imp->insns};

	imp->insns = 0;
	return ev.value ? importer_put(imp, &ev, err) : 0;
}

/* The address as it stands in events. */
static int check_address(struct importer *imp, uint64_t *addr, unsigned bytes, const char *what, struct error *err)
{
	uint64_t folded = *addr & (IMPORT_USER_END - 1);

	if (imp->fold && folded + bytes <= IMPORT_USER_END)
		*addr = folded;
	if (*addr >= IMPORT_USER_END || *addr + bytes > IMPORT_USER_END)
		return import_source_bad(imp->source, imp->at, err,
					 "%s of %u bytes at %#llx, where no program has memory%s", what, bytes,
					 (unsigned long long)*addr,
					 imp->fold ? "" : " (--addresses fold keeps the low 47 bits)");
	return 0;
}

static int put_access(struct importer *imp, enum trace_kind kind, uint64_t addr, unsigned bytes, struct error *err)
{
	struct trace_event ev = {.kind = (uint8_t)kind, .size = (uint8_t)bytes, .mode = TRACE_USER,
				 .aux = imp->insn_bytes, .addr = addr, .pc = imp->pc};

	if (imp->first || !imp->in_insn)
		ev.flags = imp->again ? TRACE_FIRST | TRACE_AGAIN : TRACE_FIRST;
	imp->first = imp->again = false;
	return importer_put(imp, &ev, err);
}

static int put_fetch(struct importer *imp, unsigned bytes, struct error *err)
{
	uint64_t page = imp->pc & PAGE_MASK, last = (imp->pc + bytes - 1) & PAGE_MASK;

	if (imp->fetches == IMPORT_FETCHES_NONE ||
	    (imp->fetches == IMPORT_FETCHES_PAGE && page == imp->fetched && last == imp->fetched))
		return 0;
	imp->fetched = last;
	return put_access(imp, TRACE_FETCH, imp->pc, bytes, err);
}

int importer_insn(struct importer *imp, uint64_t pc, unsigned bytes, bool fetched, struct error *err)
{
	unsigned touched = bytes ? bytes : 1;
	int rc;

	if (bytes > IMPORT_INSN_MAX)
		return import_source_bad(imp->source, imp->at, err, "an instruction of %u bytes", bytes);
	rc = check_address(imp, &pc, touched, "an instruction", err);
	if (rc)
		return rc;
	imp->insns += imp->in_insn;
	if (imp->insns >= INSNS_EVERY) {
		rc = put_insns(imp, err);
		if (rc)
			return rc;
	}
	imp->in_insn = imp->first = true;
	imp->again = false;
	imp->pc = pc;
	imp->insn_bytes = (uint8_t)(bytes <= TRACE_INSN_BYTES ? bytes : 0);
	return fetched ? put_fetch(imp, touched, err) : 0;
}

int importer_at(struct importer *imp, uint64_t pc, struct error *err)
{
	int rc = check_address(imp, &pc, 1, "an instruction", err);

	imp->insns += imp->in_insn;
	imp->in_insn = false;
	imp->insn_bytes = 0;
	imp->pc = pc;
	return rc;
}

void importer_again(struct importer *imp)
{
	if (!imp->in_insn || imp->first)
		return;
	imp->first = imp->again = true;
}

int importer_access(struct importer *imp, enum trace_kind kind, uint64_t addr, unsigned bytes, struct error *err)
{
	int rc;

	if (!bytes || bytes > IMPORT_ACCESS_MAX)
		return import_source_bad(imp->source, imp->at, err, "an access of %u bytes", bytes);
	rc = check_address(imp, &addr, bytes, kind == TRACE_READ ? "a load" : "a store", err);
	if (rc || bytes <= IMPORT_PIECE)
		return rc ? rc : put_access(imp, kind, addr, bytes, err);
	while (!rc && bytes) {
		unsigned piece = IMPORT_PIECE - (unsigned)(addr % IMPORT_PIECE);

		piece = piece < bytes ? piece : bytes;
		rc = put_access(imp, kind, addr, piece, err);
		addr += piece;
		bytes -= piece;
	}
	return rc;
}

int importer_process(struct importer *imp, uint64_t pid, struct error *err)
{
	struct trace_event ev = {.kind = TRACE_SWITCH};
	unsigned n = 0;

	while (n < imp->spaces && imp->space[n] != pid)
		n++;
	if (n == imp->spaces) {
		if (n == IMPORT_SPACES_MAX)
			return import_source_bad(imp->source, imp->at, err, "more than %u processes",
						 IMPORT_SPACES_MAX);
		if (n && imp->pt_dump)
			return import_source_bad(imp->source, imp->at, err,
						 "a second process (%llu), and page tables of one only",
						 (unsigned long long)pid);
		imp->space[imp->spaces++] = pid;
	}
	ev.value = n;
	if (n == imp->current)
		return 0;
	imp->current = n;
	imp->fetched = NO_PAGE;
	return importer_put(imp, &ev, err);
}

/* ---- page tables ---- */

static int put_event(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++)
		rc = importer_put(ctx, &ev[i], err);
	return rc;
}

static int read_dump(const char *path, const struct page_dump_options *o, const struct trace_sink *put,
		     struct page_dump_facts *facts, struct error *err)
{
	struct import_source *source;
	int rc = import_source_open(&source, path, err);

	if (rc)
		return rc;
	rc = page_dump_read(source, o, put, facts, err);
	import_source_close(source);
	return rc;
}

/* What the guest's dump says, and, if there is one, whether the host's has what it names. */
static int check_dumps(struct importer *imp, struct page_dump_facts *facts, struct error *err)
{
	struct page_dump_options o = {.byte_addresses = imp->byte_addresses};
	struct page_dump_map *map = NULL;
	int rc = 0;

	if (imp->pt_dump_host) {
		map = page_dump_map_create();
		if (!map)
			return error_set(err, -ENOMEM, "%s: out of memory", imp->pt_dump_host);
		o.linear = map;
		rc = read_dump(imp->pt_dump_host, &o, NULL, facts, err);
		o.linear = NULL;
		o.within = map;
	}
	if (!rc)
		rc = read_dump(imp->pt_dump, &o, NULL, facts, err);
	page_dump_map_destroy(map);
	return rc;
}

static int put_register(struct importer *imp, enum trace_kind kind, uint64_t addr, uint64_t value, struct error *err)
{
	struct trace_event ev = {.kind = (uint8_t)kind, .flags = TRACE_INITIAL, .addr = addr, .value = value};

	return importer_put(imp, &ev, err);
}

/* What lies where there is no memory here goes behind all other memory. */
static uint64_t hole_distance(const struct page_dump_facts *facts)
{
	uint64_t behind = max_u64(facts->end, PAGE_DUMP_HOLE_END);

	return facts->hole_end ? ((behind + SIZE_1G - 1) & ~(SIZE_1G - 1)) - PAGE_DUMP_HOLE : 0;
}

static uint64_t physical_end(const struct page_dump_facts *facts)
{
	return facts->hole_end ? facts->hole_end + hole_distance(facts) : facts->end;
}

static uint64_t physical_root(const struct page_dump_facts *facts)
{
	bool moved = facts->root >= PAGE_DUMP_HOLE && facts->root < PAGE_DUMP_HOLE_END;

	return facts->root + (moved ? hole_distance(facts) : 0);
}

/* Bytes of memory that reach so far, with the hole in them. */
static uint64_t memory_of(const struct page_dump_facts *facts)
{
	uint64_t end = (physical_end(facts) + SIZE_2M - 1) & ~(SIZE_2M - 1);

	return end > PAGE_DUMP_HOLE_END ? end - SIZE_1G : end;
}

/* The registers of a program in 64-bit mode with these tables, and the tables. */
static int put_tables(struct importer *imp, const struct page_dump_facts *facts, struct error *err)
{
	struct page_dump_options o = {.byte_addresses = imp->byte_addresses, .move_hole = hole_distance(facts)};
	struct trace_sink put = {put_event, imp};
	struct page_dump_facts again;
	int rc = put_register(imp, TRACE_CR0, 0, CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG, err);

	if (!rc)
		rc = put_register(imp, TRACE_CR3, 0, physical_root(facts), err);
	if (!rc)
		rc = put_register(imp, TRACE_CR4, 0, CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT, err);
	if (!rc)
		rc = put_register(imp, TRACE_WRMSR, MSR_EFER, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE, err);
	if (!rc)
		rc = read_dump(imp->pt_dump, &o, &put, &again, err);
	if (!rc && (again.rows != facts->rows || again.end > physical_end(facts) || again.hole_end != facts->hole_end))
		rc = error_set(err, -EBADMSG, "%s: changed while it was read", imp->pt_dump);
	return rc;
}

/* ---- the whole ---- */

static int begin_plain(struct importer *imp, const char *what, struct error *err)
{
	struct trace_info info = {0};

	snprintf(info.source, sizeof(info.source), "%s of %.160s", what, import_source_name(imp->source));
	return imp->to->begin(imp->to->ctx, &info, err);
}

/* @what: NULL: tables only */
static int begin_machine(struct importer *imp, const char *what, struct error *err)
{
	struct page_dump_facts facts;
	struct trace_info info = {.tables = true, .maxphyaddr = 46};
	char of[128] = "";
	int rc = check_dumps(imp, &facts, err);

	if (rc)
		return rc;
	if (what)
		snprintf(of, sizeof(of), "%s of %.60s, ", what, import_source_name(imp->source));
	snprintf(info.source, sizeof(info.source), "%s%llu page tables of %.60s", of,
		 (unsigned long long)facts.tables, imp->pt_dump);
	if (facts.unbacked) {
		size_t n = strlen(info.source);

		snprintf(info.source + n, sizeof(info.source) - n, ", %llu pages not in the host's dump",
			 (unsigned long long)facts.unbacked);
	}
	info.memory = memory_of(&facts);
	rc = imp->to->begin(imp->to->ctx, &info, err);
	return rc ? rc : put_tables(imp, &facts, err);
}

/* What is left to say: that the last instruction is complete, if the trace did not break off in it. */
static int finish(struct importer *imp, bool whole, struct error *err)
{
	int rc;

	imp->insns += imp->in_insn && whole;
	rc = put_insns(imp, err);
	return rc ? rc : flush(imp, err);
}

static int choose(const char *option, const char *value, const char *const *name, unsigned names, unsigned *chosen,
		  struct error *err)
{
	for (*chosen = 0; *chosen < names; ++*chosen)
		if (strcmp(value, name[*chosen]) == 0)
			return 0;
	return error_set(err, -EINVAL, "--%s '%s': not known", option, value);
}

static int set_option(struct importer *imp, const char *text, struct error *err)
{
	static const char *const fetches[] = {"page", "all", "none"}, *const addresses[] = {"refuse", "fold"};
	static const char *const compat[] = {"dmt-artifact"};
	const char *value = strchr(text, '=');
	unsigned n = 0;
	int rc = 0;

	if (!value)
		return error_set(err, -EINVAL, "--%s: needs a value", text);
	value++;
	if (strncmp(text, "compat=", 7) == 0) {
		rc = choose("compat", value, compat, ARRAY_SIZE(compat), &n, err);
		imp->byte_addresses = true;
	} else if (strncmp(text, "pt-dump-host=", 13) == 0) {
		imp->pt_dump_host = value;
	} else if (strncmp(text, "pt-dump=", 8) == 0 && !imp->only_tables) {
		imp->pt_dump = value;
	} else if (strncmp(text, "fetches=", 8) == 0 && !imp->only_tables) {
		rc = choose("fetches", value, fetches, ARRAY_SIZE(fetches), &n, err);
		imp->fetches = (enum import_fetches)n;
	} else if (strncmp(text, "addresses=", 10) == 0 && !imp->only_tables) {
		rc = choose("addresses", value, addresses, ARRAY_SIZE(addresses), &n, err);
		imp->fold = n;
	} else {
		rc = error_set(err, -EINVAL, "--%.*s: not an option of this format", (int)(value - 1 - text), text);
	}
	return rc;
}

/* Dumps are read twice: once to check them and for what the head of the trace says, once for the tables. */
static int check_file(const char *path, struct error *err)
{
	struct stat st;

	if (stat(path, &st))
		return error_set(err, -errno, "%s: cannot open: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "%s: a dump of page tables is read twice, so it must be a file", path);
	return 0;
}

static int set_options(struct importer *imp, const struct trace_options *options, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < options->count && !rc; i++)
		rc = set_option(imp, options->option[i], err);
	if (rc)
		return rc;
	if (!imp->pt_dump && (imp->pt_dump_host || imp->byte_addresses))
		return error_set(err, -EINVAL, "--%s needs --pt-dump", imp->pt_dump_host ? "pt-dump-host" : "compat");
	return imp->pt_dump ? check_file(imp->pt_dump, err) : 0;
}

static int run(struct importer *imp, const char *what, import_parse *parse, struct error *err)
{
	struct error later;
	int rc = imp->pt_dump ? begin_machine(imp, what, err) : begin_plain(imp, what, err), end;

	if (rc)
		return rc;
	rc = parse ? parse(imp, err) : 0;
	end = imp->refused ? 0 : finish(imp, rc == 0, rc ? &later : err);
	return rc ? rc : end;
}

static struct importer *new_importer(const struct trace_import *to)
{
	struct importer *imp = calloc(1, sizeof(*imp));

	if (!imp)
		return NULL;
	imp->to = to;
	imp->fetched = NO_PAGE;
	return imp;
}

int importer_run(const char *path, const struct trace_options *options, const struct trace_import *to,
		 const char *what, import_parse *parse, struct error *err)
{
	struct importer *imp = new_importer(to);
	int rc;

	if (!imp)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	rc = set_options(imp, options, err);
	if (!rc)
		rc = import_source_open(&imp->source, path, err);
	if (!rc)
		rc = run(imp, what, parse, err);
	import_source_close(imp->source);
	free(imp);
	return rc;
}

int importer_run_tables(const char *path, const struct trace_options *options, const struct trace_import *to,
			struct error *err)
{
	struct importer *imp = new_importer(to);
	int rc;

	if (!imp)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	imp->only_tables = true;
	imp->pt_dump = path;
	rc = set_options(imp, options, err);
	if (!rc)
		rc = run(imp, NULL, NULL, err);
	free(imp);
	return rc;
}

size_t importer_unpack_head(const uint8_t *head, size_t n, uint8_t *to, size_t room)
{
	struct import_source *s;
	const uint8_t *data;
	size_t have = 0;

	if (import_source_open_memory(&s, head, n, "", NULL))
		return 0;
	while (have < room && import_source_want(s, 1, &data, NULL) > 0) {
		to[have++] = *data;
		import_source_take(s, 1);
	}
	import_source_close(s);
	return have;
}
