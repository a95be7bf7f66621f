/*
 * DynamoRIO's memory traces after post-processing (drmemtrace.trace, also gzip, xz): packed records of a type (16
 * bits), a size (16 bits) and an address (64 bits), from a header to a footer. The simulators of the DMT artifact have
 * 64 bits more in each record and have put types of their own before most others, so the numbers of these are shifted;
 * which of the three it is follows from the header, whose type differs in each.
 *
 * Instructions, loads and stores become events. Prefetches, flushes, markers and encodings are passed over. What the
 * tracer wrote while the program ran (the files in raw/) names basic blocks, not accesses, and can be decoded only with
 * the program and its libraries at hand: that is for the DynamoRIO that recorded it.
 */
#include "trace/importer.h"

#include <errno.h>

/* Types as DynamoRIO numbers them. Those from PREFETCH_FIRST on are shifted in the artifact's simulators. */
enum type {
	TYPE_READ = 0,
	TYPE_WRITE = 1,
	TYPE_PREFETCH_FIRST = 2,
	TYPE_PREFETCH_LAST = 9,
	TYPE_INSTR = 10,
	TYPE_INSTR_RETURN = 16,
	TYPE_INSTR_BUNDLE = 17,
	TYPE_FLUSH_FIRST = 18,
	TYPE_FLUSH_LAST = 21,
	TYPE_THREAD = 22,
	TYPE_THREAD_EXIT = 23,
	TYPE_PID = 24,
	TYPE_HEADER = 25,
	TYPE_FOOTER = 26,
	TYPE_HARDWARE_PREFETCH = 27,
	TYPE_MARKER = 28,
	TYPE_INSTR_NO_FETCH = 29,
	TYPE_INSTR_MAYBE_FETCH = 30,
	TYPE_INSTR_SYSENTER = 31,
	TYPE_PREFETCH2_FIRST = 32,
	TYPE_PREFETCH2_LAST = 46,
	TYPE_ENCODING = 47,
	TYPE_INSTR_TAKEN_JUMP = 48,
	TYPE_INSTR_UNTAKEN_JUMP = 49,
};

/* Of whom the records are. */
struct layout {
	unsigned bytes; /* of a record */
	unsigned shift; /* of types */
};
static const struct layout layouts[] = {
	{12, 0},  /* DynamoRIO, and the artifact's tracer */
	{20, 6},  /* the artifact's simulator of bare machines */
	{20, 30}, /* that of virtual machines */
};
#define HEADER_BYTES 12u /* what all headers have */
#define VERSION_MAX  64u
#define BUNDLE_MAX   8u

struct record {
	unsigned type, size;
	const uint8_t *addr; /* 8 bytes */
};

static struct record record_at(const uint8_t *p, const struct layout *l)
{
	unsigned type = get_u16(p);

	/* Types of the simulators' own become numbers that nobody has. */
	if (type >= TYPE_PREFETCH_FIRST)
		type = type - TYPE_PREFETCH_FIRST >= l->shift ? type - l->shift : UINT32_MAX;
	return (struct record){type, get_u16(p + 2), p + 4};
}

static bool is_raw(const uint8_t *head, size_t n)
{
	/* An entry of 64 bits: type 6 in the highest three, kind 0 in five, 8 bits, the version in 48. */
	return n >= 8 && head[7] == 0xc0 && (get_u64(head) & 0xffffffffffff) - 1 < VERSION_MAX;
}

static const struct layout *layout_of(const uint8_t *head, size_t n)
{
	for (unsigned i = 0; n >= HEADER_BYTES && i < ARRAY_SIZE(layouts); i++)
		if (record_at(head, &layouts[i]).type == TYPE_HEADER && get_u16(head + 2) == 0 &&
		    get_u64(head + 4) - 1 < VERSION_MAX)
			return &layouts[i];
	return NULL;
}

/* ---- records ---- */

static int take_bundle(struct importer *imp, const struct record *r, uint64_t *next_pc, struct error *err)
{
	if (r->size > BUNDLE_MAX)
		return import_source_bad(imp->source, imp->at, err, "a bundle of %u instructions", r->size);
	if (!imp->in_insn)
		return import_source_bad(imp->source, imp->at, err, "a bundle without an instruction before it");
	for (unsigned i = 0; i < r->size; i++) {
		int rc = importer_insn(imp, *next_pc, r->addr[i], true, err);

		if (rc)
			return rc;
		*next_pc = imp->pc + r->addr[i];
	}
	return 0;
}

static int take_insn(struct importer *imp, const struct record *r, uint64_t *next_pc, struct error *err)
{
	uint64_t pc = get_u64(r->addr);
	bool same = imp->in_insn && pc == imp->pc;
	int rc;

	if (r->size == 0) /* only says where the accesses that follow are made: filtered traces */
		return importer_at(imp, pc, err);
	if (same && (r->type == TYPE_INSTR_NO_FETCH || r->type == TYPE_INSTR_MAYBE_FETCH)) {
		importer_again(imp);
		return 0;
	}
	rc = importer_insn(imp, pc, r->size, r->type != TYPE_INSTR_NO_FETCH, err);
	*next_pc = imp->pc + r->size;
	return rc;
}

static bool passed_over(unsigned type)
{
	return (type >= TYPE_PREFETCH_FIRST && type <= TYPE_PREFETCH_LAST) ||
	       (type >= TYPE_FLUSH_FIRST && type <= TYPE_FLUSH_LAST) ||
	       (type >= TYPE_PREFETCH2_FIRST && type <= TYPE_ENCODING) || type == TYPE_THREAD ||
	       type == TYPE_THREAD_EXIT || type == TYPE_HARDWARE_PREFETCH || type == TYPE_MARKER;
}

static bool is_insn(unsigned type)
{
	return (type >= TYPE_INSTR && type <= TYPE_INSTR_RETURN) ||
	       (type >= TYPE_INSTR_NO_FETCH && type <= TYPE_INSTR_SYSENTER) || type == TYPE_INSTR_TAKEN_JUMP ||
	       type == TYPE_INSTR_UNTAKEN_JUMP;
}

/* 1: it was the footer. */
static int take_record(struct importer *imp, const struct record *r, uint64_t *next_pc, struct error *err)
{
	if (r->type == TYPE_READ || r->type == TYPE_WRITE)
		return importer_access(imp, r->type == TYPE_READ ? TRACE_READ : TRACE_WRITE, get_u64(r->addr),
				       r->size ? r->size : 1, err);
	if (is_insn(r->type))
		return take_insn(imp, r, next_pc, err);
	if (r->type == TYPE_INSTR_BUNDLE)
		return take_bundle(imp, r, next_pc, err);
	if (r->type == TYPE_PID)
		return importer_process(imp, get_u64(r->addr), err);
	if (r->type == TYPE_FOOTER)
		return 1;
	return passed_over(r->type) ? 0 : import_source_bad(imp->source, imp->at, err, "a record of an unknown type");
}

/* The records that are visible. 1: the footer is among them. */
static int take_records(struct importer *imp, const struct layout *l, const uint8_t *p, size_t n, uint64_t *next_pc,
			struct error *err)
{
	for (imp->at = 0; imp->at + l->bytes <= n; imp->at += l->bytes) {
		struct record r = record_at(p + imp->at, l);
		int rc = take_record(imp, &r, next_pc, err);

		if (rc) {
			imp->at += rc == 1 ? l->bytes : 0;
			return rc;
		}
	}
	return 0;
}

static int bad_header(struct importer *imp, const uint8_t *p, size_t n, struct error *err)
{
	return import_source_bad(imp->source, 0, err, is_raw(p, n)
		? "raw records of DynamoRIO's tracer: they name basic blocks, so decoding them needs the traced program "
		  "and its libraries; post-process them with that DynamoRIO and import the drmemtrace.trace that it writes"
		: "no header of a DynamoRIO trace");
}

/* The header, which says how the rest is laid out. */
static int take_header(struct importer *imp, const struct layout **l, struct error *err)
{
	const uint8_t *p;
	int64_t n = import_source_want(imp->source, HEADER_BYTES, &p, err);

	if (n < 0)
		return (int)n;
	*l = layout_of(p, (size_t)n);
	if (!*l)
		return bad_header(imp, p, (size_t)n, err);
	n = import_source_want(imp->source, (*l)->bytes, &p, err);
	if (n < 0)
		return (int)n;
	if (n < (*l)->bytes)
		return import_source_bad(imp->source, 0, err, "ends in the middle of a record");
	import_source_take(imp->source, (*l)->bytes);
	return 0;
}

static int take_footer(struct importer *imp, struct error *err)
{
	const uint8_t *p;
	int64_t n = import_source_want(imp->source, 1, &p, err);

	return n > 0 ? import_source_bad(imp->source, 0, err, "there is more behind the footer") : (int)n;
}

static int parse(struct importer *imp, struct error *err)
{
	const struct layout *l = NULL;
	const uint8_t *p;
	uint64_t next_pc = 0;
	int64_t n;
	int rc = take_header(imp, &l, err);

	while (!rc) {
		n = import_source_want(imp->source, l->bytes, &p, err);
		if (n < 0)
			return (int)n;
		if (n < l->bytes)
			return import_source_bad(imp->source, 0, err, n ? "ends in the middle of a record"
						 : "ends without a footer");
		rc = take_records(imp, l, p, (size_t)n, &next_pc, err);
		if (rc < 0)
			return rc;
		import_source_take(imp->source, imp->at);
		imp->at = 0;
	}
	return rc < 0 ? rc : take_footer(imp, err);
}

static int import(const char *path, const struct trace_options *options, const struct trace_import *to,
		  struct error *err)
{
	return importer_run(path, options, to, "DynamoRIO memory trace", parse, err);
}

static bool detect(const uint8_t *head, size_t n)
{
	uint8_t text[HEADER_BYTES];

	n = importer_unpack_head(head, n, text, sizeof(text));
	return layout_of(text, n) || is_raw(text, n);
}

const struct trace_format trace_format_drmemtrace = {
	.name = "drmemtrace",
	.help = "DynamoRIO's drmemtrace.trace, the DMT artifact's too; plain, gzip, xz",
	.detect = detect,
	.import = import,
};
