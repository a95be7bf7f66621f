/* What is in a trace, in numbers: counts, pages touched, working sets. In bounded memory, however long it is. */
#ifndef GNOMON_TRACE_STAT_H
#define GNOMON_TRACE_STAT_H

#include "trace/event.h"

#define TRACE_STAT_WINDOW  1000000u /* accesses of a window */
#define TRACE_STAT_REGIONS (1u << 19) /* 2 MiB regions that are told apart: 1 TiB; up to 100 MiB of memory */
#define TRACE_STAT_SPACES  4096u

struct trace_stats {
	uint64_t events, insns;
	uint64_t kind[TRACE_KIND_END];
	uint64_t mode[TRACE_MODES];  /* accesses */
	uint64_t read_bytes, written_bytes;
	uint64_t values;             /* stores with their values: to page tables */
	uint64_t faults;             /* accesses that raised an exception */
	uint64_t spaces;             /* roots of page tables that CR3 was loaded with, or spaces */
	uint64_t tables;             /* pages whose contents are given */
	/* Linear pages touched; those of different spaces are different, but for the upper half of addresses. */
	uint64_t pages_4k, pages_2m, pages_1g;
	uint64_t written_4k;         /* of these, 4 KiB */
	uint64_t same_page;          /* data accesses to the page of the data access before */
	/* Pages of 4 KiB touched in windows of TRACE_STAT_WINDOW accesses: the sum over the full ones, and the most. */
	uint64_t windows, window_pages, window_pages_max;
	bool at_least;               /* pages and spaces: there are more than were told apart */
};

struct trace_stat;

int trace_stat_create(struct trace_stat **s, struct error *err); /* -ENOMEM */
void trace_stat_destroy(struct trace_stat *s); /* NULL is nothing */
/* Counts @n events. A sink (@stat is a struct trace_stat). -ENOMEM. */
int trace_stat_put(void *stat, const struct trace_event *ev, unsigned n, struct error *err);
/* What was counted so far. */
void trace_stat_get(const struct trace_stat *s, struct trace_stats *out);

#endif
