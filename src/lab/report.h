/*
 * The report of one run as JSON, schema "gnomon-report/1": keys are documented in
 * docs/FORMATS.md and stay. What a reader may rely on is written here, once.
 */
#ifndef GNOMON_LAB_REPORT_H
#define GNOMON_LAB_REPORT_H

#include "vm/vm.h"
#include <jansson.h>

#define REPORT_SCHEMA "gnomon-report/1"

/* What the process knows beside the VM. */
struct report_host {
	double ready_seconds; /* from the command's begin to the guest's first instruction; 0: not known */
	double user_seconds;  /* CPU time of the process in user mode */
	uint64_t max_rss_kib;
	int exit_code;        /* the status the process ends with */
};

/* What the process has used so far. */
struct report_host report_measure_host(int exit_code);
/* A new JSON object, NULL if out of memory. */
json_t *report_build(const struct vm_config *cfg, const struct vm_result *r, const struct report_host *host);

/* What was counted, as reports have it: "exits", "faults", "translation", "shadow" and "hypervisor" of @obs go into @o. */
void report_put_counts(json_t *o, const struct obs *obs);

/* SDM name of a basic exit reason, NULL if it has none. */
const char *report_exit_reason_name(unsigned reason);

/*
 * A file that appears whole or not at all: written beside @path and renamed. If
 * @path is no regular file (a terminal, a pipe) it is written directly.
 */
struct report_file {
	const char *path;
	char *temp; /* NULL: direct */
	int fd;
	bool durable; /* its owner may set it: what is in place outlasts a loss of power, at the cost of waiting for the disk */
};
/* Opens it; so an unwritable path is known before a long run. -errno with @err; nothing is left behind. */
int report_file_open(struct report_file *f, const char *path, struct error *err);
/* Writes @json and puts the file in place; closes in any case. -errno with @err: nothing is left behind. */
int report_file_commit(struct report_file *f, const json_t *json, struct error *err);
/* ... writes @bytes of @data. */
int report_file_commit_bytes(struct report_file *f, const char *data, size_t bytes, struct error *err);
/* Closes and forgets it; nothing is left behind. */
void report_file_abandon(struct report_file *f);

#endif
