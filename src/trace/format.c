/* The list of other formats. */
#include "trace/text.h"

const struct trace_format *const trace_formats[] = {
	&trace_format_text,
	NULL,
};
