/*
 * Live progress of jobs: on a terminal a line for each that runs, redrawn in
 * place; otherwise a line when one starts and when one ends.
 */
#ifndef GNOMON_CLI_PROGRESS_H
#define GNOMON_CLI_PROGRESS_H

#include "cli/jobs.h"

struct progress {
	FILE *out;
	const struct jobs *jobs;
	bool live;
	unsigned drawn;   /* lines of the live area on the screen */
	unsigned columns; /* of the terminal */
	unsigned title;   /* width of the longest title */
	double drawn_at;  /* host clock */
};

void progress_begin(struct progress *p, const struct jobs *jobs, FILE *out);
/* A job started or ended, or (NULL) time has passed. */
void progress_update(struct progress *p, const struct job *changed);
/* Takes the live area away. */
void progress_end(struct progress *p);
/* The last line with something on it in a console log, made printable; "" if none. */
void progress_last_line(const char *path, char *text, unsigned bytes);

#endif
