/*
 * A trace through several machines at once: each *cell* is a design of address translation in a setup with pages of a
 * size, which is a scheme of the engine (engine_replay()) with its own TLBs, caches and hypervisor. Events are
 * decoded once and given to every machine; what is counted is what the machines counted. docs/replay.md
 */
#ifndef GNOMON_LAB_REPLAY_H
#define GNOMON_LAB_REPLAY_H

#include "engine/engine.h"
#include "lab/sim_log.h"
#include "trace/file.h"
#include "trace/os_model.h"
#include <jansson.h>
#include <stdio.h>

#define REPLAY_SCHEMA "gnomon-replay/1"
#define REPLAY_CELLS_MAX 64

enum replay_setup { REPLAY_NATIVE, REPLAY_VIRT, REPLAY_NESTED, REPLAY_SETUPS };
enum replay_pages { REPLAY_4K, REPLAY_THP, REPLAY_PAGES };
extern const char *const replay_setup_name[REPLAY_SETUPS], *const replay_pages_name[REPLAY_PAGES];

struct replay_design;
/* The designs that the program has; ends with NULL. */
const char *const *replay_design_names(void);
/* NULL: none of that name. */
const struct replay_design *replay_design_find(const char *name);
const char *replay_design_name(const struct replay_design *d);
/* Is there such a thing (shadow paging on a bare machine is not), and under which scheme? */
bool replay_scheme(const struct replay_design *d, enum replay_setup setup, enum engine_mmu *mmu);

struct replay_cell {
	const struct replay_design *design;
	enum replay_setup setup;
	enum replay_pages pages;
	enum engine_mmu mmu;
};

/* Whose page tables the machines walk. */
enum replay_tables {
	REPLAY_TABLES_AUTO,  /* the trace's, if it has some and the design does not need the guest's cooperation */
	REPLAY_TABLES_TRACE,
	REPLAY_TABLES_MODEL, /* those that the model of an operating system makes (trace/os_model.h) */
};
#define REPLAY_MODEL_MEMORY (8ull << 30) /* if nobody says how much */

struct replay_config {
	struct replay_cell cell[REPLAY_CELLS_MAX];
	unsigned cells;
	struct engine_config engine; /* of all machines: hardware, features; mmu, memory and host pages are the cell's */
	uint64_t memory;             /* bytes of guest memory; 0: as the trace says */
	bool features_given;         /* engine.cpu's features are used; else those of the trace, if it says */
	enum replay_tables tables;
	struct osm_config os;        /* memory, pages and kind are the cell's; see osm_config_init() */
	bool populate;               /* as engine_replay_begin() */
	bool sim_logs;               /* where the references of each walk hit is wanted; takes time */
	unsigned jobs;               /* threads, at least 1 */
	uint64_t limit_events;       /* UINT64_MAX: none */
	/* Asked now and then: true: enough, the results so far are wanted. */
	bool (*stop)(void *ctx);
	/* Told now and then how far it is. */
	void (*progress)(void *ctx, const struct trace_reader *r, uint64_t events);
	void *ctx;
};

struct replay_result {
	struct replay_cell cell;
	bool model;                  /* its tables are the model's, of which is */
	struct osm_stats os;
	struct obs obs;
	struct engine_replayed taken;
	struct sim_log *sim_log;     /* with replay_config.sim_logs, else NULL */
	struct error err;            /* code 0: it took all events */
};

struct replay_results {
	struct trace_info info;
	char path[256];
	uint64_t memory;             /* of machines with the trace's tables; 0: there are none */
	uint64_t events, insns;      /* of the trace that were given out */
	double seconds;              /* of the host */
	bool trace_partial;          /* the trace says of itself that it lacks what came then */
	bool partial;                /* it was stopped, the trace ended badly, or a machine gave up: */
	struct error why;
	bool whole;                  /* the trace, or what the limit permits of it, was given out to its end */
	struct replay_result result[REPLAY_CELLS_MAX];
	unsigned results;
};

/* Results of nothing so far: what is known of the trace, without events. */
void replay_results_begin(struct replay_results *out, const struct replay_config *cfg, const struct trace_reader *r);

/*
 * Gives all of the trace to the machines. What goes wrong on the way, and the end that stop() asked for, leave
 * results that are marked partial: 0 also then. -ENOMEM, -EINVAL: nothing was begun.
 */
int replay_trace(struct replay_results *out, const struct replay_config *cfg, struct trace_reader *r, struct error *err);

/* Frees what results point to. */
void replay_free(struct replay_results *r);

/* The results as JSON, schema REPLAY_SCHEMA (docs/FORMATS.md). */
json_t *replay_report(const struct replay_results *r, const struct hw *hw);
/*
 * ... with @results instead of its own: elements of such reports' "results", whose speedups are set to what they are
 * among these. Takes the reference.
 */
json_t *replay_report_of(const struct replay_results *r, const struct hw *hw, json_t *results);
/* A table for people, and comma-separated values, made of that JSON alone. */
void replay_print(const json_t *report, FILE *out);
void replay_print_csv(const json_t *report, FILE *out);

#endif
