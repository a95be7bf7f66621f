/*
 * ChampSim's traces: records of 64 bytes (its struct input_instr), one an instruction: address, whether it branches and
 * did, two registers written, four read, two places in memory written, four read; 0 stands for none. Often packed by xz
 * or gzip. There is nothing in them to recognise them by.
 *
 * Sizes are not recorded. Accesses and fetches are of one byte, so they never cross a page. Loads come before stores.
 */
#include "trace/importer.h"

#include <errno.h>

#define RECORD      64u
#define BRANCH_AT   8u
#define TAKEN_AT    9u
#define STORES_AT   16u
#define STORES      2u
#define LOADS_AT    32u
#define LOADS       4u

static int take_places(struct importer *imp, enum trace_kind kind, const uint8_t *place, unsigned n, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++)
		if (get_u64(place + 8 * i))
			rc = importer_access(imp, kind, get_u64(place + 8 * i), 1, err);
	return rc;
}

static int take_record(struct importer *imp, const uint8_t *p, struct error *err)
{
	int rc;

	if (p[BRANCH_AT] > 1 || p[TAKEN_AT] > 1)
		return import_source_bad(imp->source, imp->at, err,
					 "no ChampSim instruction (is_branch %u, branch_taken %u)", p[BRANCH_AT],
					 p[TAKEN_AT]);
	rc = importer_insn(imp, get_u64(p), 0, true, err);
	if (!rc)
		rc = take_places(imp, TRACE_READ, p + LOADS_AT, LOADS, err);
	if (!rc)
		rc = take_places(imp, TRACE_WRITE, p + STORES_AT, STORES, err);
	return rc;
}

static int parse(struct importer *imp, struct error *err)
{
	const uint8_t *p;
	int64_t n;
	int rc;

	for (;;) {
		n = import_source_want(imp->source, RECORD, &p, err);
		if (n <= 0)
			return (int)n;
		if (n < RECORD)
			return import_source_bad(imp->source, 0, err, "ends in the middle of an instruction");
		for (imp->at = 0; imp->at + RECORD <= (size_t)n; imp->at += RECORD) {
			rc = take_record(imp, p + imp->at, err);
			if (rc)
				return rc;
		}
		import_source_take(imp->source, imp->at);
		imp->at = 0;
	}
}

static int import(const char *path, const struct trace_options *options, const struct trace_import *to,
		  struct error *err)
{
	return importer_run(path, options, to, "ChampSim instructions", parse, err);
}

const struct trace_format trace_format_champsim = {
	.name = "champsim",
	.help = "ChampSim's instructions (64 bytes each); plain, gzip, xz; only by --format",
	.import = import,
};
