/*
 * What all importers of foreign traces share: options, checks of addresses and sizes, the grouping of accesses by
 * instruction, instruction counts, and page tables from dumps (trace/page_dump.h). A parser reads records and tells of
 * instructions and accesses; this turns them into events.
 *
 * Foreign traces are of user programs: accesses are made in user mode, and addresses must lie in the lower half of the
 * canonical ones. Bytes that a record says are read or written in more than 64 bytes become several accesses.
 */
#ifndef GNOMON_TRACE_IMPORTER_H
#define GNOMON_TRACE_IMPORTER_H

#include "trace/format.h"
#include "trace/import_source.h"

#define IMPORT_USER_END    ((uint64_t)1 << 47) /* linear addresses of programs lie below */
#define IMPORT_INSN_MAX    64u    /* bytes of an "instruction" (Valgrind's own pseudo-instructions have 19 and more) */
#define IMPORT_ACCESS_MAX  65535u /* bytes of an access */
#define IMPORT_PIECE       64u    /* bytes of an event at most */
#define IMPORT_SPACES_MAX  4096u  /* processes in a trace */

/*
 * Options: fetches=page|all|none; addresses=refuse|fold; pt-dump=FILE, pt-dump-host=FILE, compat=dmt-artifact (of the
 * dumps). docs/trace-import.md says what they do.
 */
struct importer;

/*
 * Reads what imp->source still has and tells of it by the calls below. 0, or negative errno with @err, after
 * everything before was told.
 */
typedef int import_parse(struct importer *imp, struct error *err);

/*
 * The import() of a format: opens @path, reads the options, writes the head, parses. @what: of the trace's source text
 * ("ChampSim instructions").
 */
int importer_run(const char *path, const struct trace_options *options, const struct trace_import *to,
		 const char *what, import_parse *parse, struct error *err);
/* The import() of a dump of page tables, which is @path, alone. */
int importer_run_tables(const char *path, const struct trace_options *options, const struct trace_import *to,
			struct error *err);

enum import_fetches { IMPORT_FETCHES_PAGE, IMPORT_FETCHES_ALL, IMPORT_FETCHES_NONE };

#define IMPORT_BATCH 512u

struct importer {
	struct import_source *source;
	const struct trace_import *to;
	/* Options */
	enum import_fetches fetches;
	bool fold;
	const char *pt_dump, *pt_dump_host; /* NULL: none */
	bool only_tables;       /* options of dumps only */
	bool byte_addresses;    /* compat=dmt-artifact */
	/* Where the record lies that is being told of: bytes behind the source's offset, for errors. */
	size_t at;
	/* The instruction that is being told of. */
	bool in_insn, first;    /* there is one; nothing of it (with again: of its further iteration) was given out */
	bool again;
	uint8_t insn_bytes;     /* 0: not known */
	uint64_t pc;
	uint64_t fetched;       /* page of the last fetch, or UINT64_MAX */
	uint64_t insns;         /* completed and not told of */
	uint64_t space[IMPORT_SPACES_MAX]; /* processes, by the order in which they came */
	unsigned spaces, current;
	struct trace_event batch[IMPORT_BATCH];
	unsigned events;
	bool refused;           /* whom events are given to failed: no more are given */
};

/*
 * An instruction begins; the one before is complete. @bytes: 0 if not known, at most IMPORT_INSN_MAX. @fetched: false
 * if the record says that it was not fetched again.
 */
int importer_insn(struct importer *imp, uint64_t pc, unsigned bytes, bool fetched, struct error *err);
/* An instruction that is not counted, of unknown size, whose accesses follow: each stands for itself. */
int importer_at(struct importer *imp, uint64_t pc, struct error *err);
/* What follows is of a further iteration of the instruction, a repeated one. It is not counted again. */
void importer_again(struct importer *imp);
/* An access of the instruction, or of its own if there is none. @kind: TRACE_READ, TRACE_WRITE; @bytes: at least 1. */
int importer_access(struct importer *imp, enum trace_kind kind, uint64_t addr, unsigned bytes, struct error *err);
/* What follows is of process @pid. */
int importer_process(struct importer *imp, uint64_t pid, struct error *err);
/* Another event, as it is. Those of TRACE_PAGE are given on before this returns. */
int importer_put(struct importer *imp, const struct trace_event *ev, struct error *err);

/*
 * The beginning of a file as it is unpacked, for detect(): up to @room bytes in @to. Returns how many; 0 also if the
 * packing is damaged.
 */
size_t importer_unpack_head(const uint8_t *head, size_t n, uint8_t *to, size_t room);

/* The formats. */
extern const struct trace_format trace_format_lackey, trace_format_champsim, trace_format_drmemtrace,
	trace_format_pt_dump;

#endif
