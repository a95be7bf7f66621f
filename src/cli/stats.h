/*
 * Live counters of running VMs (run --stats): what happened since the last look,
 * by the second of host time. A timer asks every VM to report at a moment of its
 * own; looking changes nothing in the guests.
 */
#ifndef GNOMON_CLI_STATS_H
#define GNOMON_CLI_STATS_H

#include "vm/vm.h"
#include <stdio.h>
#include <time.h>

#define STATS_INTERVAL_DEFAULT_NS 1000000000ull

/* The counters of a VM at one moment. */
struct stats_sample {
	double host;     /* seconds since stats_start() */
	uint64_t insns, virtual_ns;
	struct obs obs;
};

struct stats;
struct stats_vm {
	struct stats *stats;
	struct vm *vm;
	const char *name;   /* NULL if it is the only one */
	enum engine_mmu mmu;
	struct vm_ticker ticker;
	struct stats_sample was, now;
};

struct stats {
	FILE *out;
	bool live;          /* a block, redrawn in place; otherwise a line each time */
	const char *newline; /* of what is written to: terminals in raw mode need more */
	uint64_t interval_ns;
	unsigned columns;   /* live: of the terminal */
	unsigned drawn;     /* lines of the block on the screen */
	double started;     /* host clock */
	timer_t timer;
	bool running;
	unsigned count;
	struct stats_vm vm[ENGINE_VMS_MAX];
};

/* "1", "0.2", ...: seconds between two looks, 0.05 to 3600. -EINVAL with @err. */
int stats_parse_interval(const char *text, uint64_t *interval_ns, struct error *err);

/*
 * @interval_ns: 0 for the default
 * @guest_on_terminal: the guests write to the terminal too, so nothing may be redrawn there
 */
void stats_init(struct stats *s, FILE *out, uint64_t interval_ns, bool guest_on_terminal);
/* At most ENGINE_VMS_MAX. @vm must live until stats_stop(). */
void stats_add(struct stats *s, struct vm *vm, const char *name, enum engine_mmu mmu);
/* Starts the timer: it sends a signal, SIGUSR2. -errno with @err. */
int stats_start(struct stats *s, struct error *err);
/* Ends it; what stands on the screen stays. May be called if it was never started. */
void stats_stop(struct stats *s);

/* For tests: the text of what happened between two samples. Lines end with newlines. */
void stats_format_line(const struct stats_vm *v, char *buf, size_t bytes);
void stats_format_block(const struct stats_vm *v, char *buf, size_t bytes);

#endif
