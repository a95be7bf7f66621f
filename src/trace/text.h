/*
 * Events as text, one a line (docs/traces.md): for people, tests, and traces made by hand. What is printed is read
 * again to the bit.
 *
 *	read 0x7ffc10 8 user pc=0x401000 insn=4 first
 *	write 0xffff888000103008 8 super value=0x67 gpa=0x103008
 *	page 0x103000 0=0x104067 511=0x8000000000105067
 *	cr3 0x103000 initial
 */
#ifndef GNOMON_TRACE_TEXT_H
#define GNOMON_TRACE_TEXT_H

#include "trace/event.h"
#include "trace/format.h"

#include <stdio.h>

#define TRACE_LINE_MAX 16384u /* bytes of a line */

/* Prints the event and a newline. Failures are left in @out, for ferror(). */
void trace_text_print(const struct trace_event *ev, FILE *out);

/*
 * Reads one from @line, which is changed. @page: where the contents of a page go, [PAGE_SIZE]; ev->value then leads
 * there. -EINVAL with @err: what is wrong.
 */
int trace_text_parse(char *line, struct trace_event *ev, uint8_t *page, struct error *err);

extern const struct trace_format trace_format_text;

#endif
