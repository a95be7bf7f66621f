/* The list of other formats. */
#include "trace/importer.h"
#include "trace/text.h"

const struct trace_format *const trace_formats[] = {
	&trace_format_text,
	&trace_format_drmemtrace,
	&trace_format_lackey,
	&trace_format_champsim,
	&trace_format_pt_dump,
	NULL,
};
