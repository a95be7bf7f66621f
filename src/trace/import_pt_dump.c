/* A dump of page tables alone (trace/page_dump.h), as a machine trace without accesses. */
#include "trace/importer.h"
#include "trace/page_dump.h"

static int import(const char *path, const struct trace_options *options, const struct trace_import *to,
		  struct error *err)
{
	return importer_run_tables(path, options, to, err);
}

static bool detect(const uint8_t *head, size_t n)
{
	uint8_t text[TRACE_DETECT_BYTES];

	return page_dump_detect(text, importer_unpack_head(head, n, text, sizeof(text)));
}

const struct trace_format trace_format_pt_dump = {
	.name = "pt-dump",
	.help = "page tables alone, as the DMT artifact dumps them; plain, gzip, xz",
	.detect = detect,
	.import = import,
};
