/*
 * What Valgrind's tool lackey prints with --trace-mem=yes: a line for each instruction and each access that it makes,
 * "I  ADDRESS,SIZE", " L ADDRESS,SIZE" (load), " S ..." (store), " M ..." (load and store of the same place), addresses
 * hexadecimal. Valgrind's own messages ("==PID== ...", "--PID-- ...") and lines of --trace-superblocks ("SB ADDRESS")
 * are passed over. Anything else ends the import: it is not known what such a line hides.
 */
#include "trace/importer.h"

#include <errno.h>

#define LINE_MAX_BYTES 65536u /* Valgrind's messages hold whole command lines */

static int hex_digit(uint8_t c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "ADDRESS,SIZE" up to @end. */
static bool parse_operand(const uint8_t *p, const uint8_t *end, uint64_t *addr, unsigned *bytes)
{
	const uint8_t *begin = p;

	for (*addr = 0; p < end && hex_digit(*p) >= 0 && p - begin < 16; p++)
		*addr = *addr << 4 | (uint64_t)hex_digit(*p);
	if (p == begin || p == end || *p++ != ',' || p == end || end - p > 6)
		return false;
	for (*bytes = 0; p < end && *p >= '0' && *p <= '9'; p++)
		*bytes = *bytes * 10 + (unsigned)(*p - '0');
	return p == end;
}

/* What a line says, by its first two characters. */
enum line { MESSAGE, INSN, LOAD, STORE, MODIFY, STRANGE };

static enum line kind_of(const uint8_t *p, size_t n)
{
	static const struct { char text[3]; enum line kind; } kinds[] = {
		{"I ", INSN}, {" L", LOAD}, {" S", STORE}, {" M", MODIFY},
		{"==", MESSAGE}, {"--", MESSAGE}, {"SB", MESSAGE},
	};

	for (unsigned i = 0; n >= 2 && i < ARRAY_SIZE(kinds); i++)
		if (memcmp(p, kinds[i].text, 2) == 0)
			return kinds[i].kind;
	return n ? STRANGE : MESSAGE;
}

static enum line parse_line(const uint8_t *p, const uint8_t *end, uint64_t *addr, unsigned *bytes)
{
	enum line kind = kind_of(p, (size_t)(end - p));

	if (kind == MESSAGE || kind == STRANGE)
		return kind;
	return end - p > 3 && p[2] == ' ' && parse_operand(p + 3, end, addr, bytes) ? kind : STRANGE;
}

static int take_line(struct importer *imp, const uint8_t *p, const uint8_t *end, struct error *err)
{
	uint64_t addr;
	unsigned bytes;
	int rc = 0;

	if (end > p && end[-1] == '\r')
		end--;
	switch (parse_line(p, end, &addr, &bytes)) {
	case MESSAGE:
		return 0;
	case INSN:
		return importer_insn(imp, addr, bytes, true, err);
	case LOAD:
		return importer_access(imp, TRACE_READ, addr, bytes, err);
	case MODIFY:
		rc = importer_access(imp, TRACE_READ, addr, bytes, err);
		/* fallthrough */
	case STORE:
		return rc ? rc : importer_access(imp, TRACE_WRITE, addr, bytes, err);
	case STRANGE:
		break;
	}
	return import_source_bad(imp->source, imp->at, err,
				 "'%.*s' is no line of lackey's (valgrind --log-file keeps the program's own output "
				 "apart)",
				 (int)min_u64((uint64_t)(end - p), 40), (const char *)p);
}

/* The lines that are visible whole. Returns the bytes that they have, or negative errno. */
static int64_t take_lines(struct importer *imp, const uint8_t *p, size_t n, struct error *err)
{
	const uint8_t *line = p, *end;

	while ((end = memchr(line, '\n', (size_t)(p + n - line)))) {
		int rc;

		imp->at = (size_t)(line - p);
		rc = take_line(imp, line, end, err);
		if (rc)
			return rc;
		line = end + 1;
	}
	return line - p;
}

static int parse(struct importer *imp, struct error *err)
{
	const uint8_t *p;
	int64_t n, used;

	for (;;) {
		n = import_source_want(imp->source, LINE_MAX_BYTES, &p, err);
		if (n <= 0)
			return (int)n;
		used = take_lines(imp, p, (size_t)n, err);
		if (used < 0)
			return (int)used;
		imp->at = 0;
		if (!used)
			return import_source_bad(imp->source, 0, err,
						 n < LINE_MAX_BYTES ? "ends in the middle of a line"
						 : "a line of more than %u bytes", LINE_MAX_BYTES);
		import_source_take(imp->source, (size_t)used);
	}
}

static int import(const char *path, const struct trace_options *options, const struct trace_import *to,
		  struct error *err)
{
	return importer_run(path, options, to, "lackey text", parse, err);
}

/* The first line that is no message decides. */
static bool detect(const uint8_t *head, size_t n)
{
	uint8_t text[TRACE_DETECT_BYTES];
	const uint8_t *line = text, *end, *limit = text + importer_unpack_head(head, n, text, sizeof(text));
	uint64_t addr;
	unsigned bytes;

	while ((end = memchr(line, '\n', (size_t)(limit - line)))) {
		enum line kind = parse_line(line, end - (end > line && end[-1] == '\r'), &addr, &bytes);

		if (kind != MESSAGE)
			return kind != STRANGE;
		line = end + 1;
	}
	return false;
}

const struct trace_format trace_format_lackey = {
	.name = "lackey",
	.help = "what valgrind --tool=lackey --trace-mem=yes prints; plain, gzip, xz",
	.detect = detect,
	.import = import,
};
