/* Random programs for the operating-system model: events that a program could have, on few pages, in few areas. */
#ifndef GNOMON_TESTS_OS_PROGRAM_H
#define GNOMON_TESTS_OS_PROGRAM_H

#include "os_rig.h"

#define MIB (1ull << 20)

struct os_program {
	uint64_t space[6]; /* that there are */
	unsigned spaces, current;
	uint64_t next;     /* number of a new one */
	uint64_t at;       /* where accesses go on */
	uint64_t random;
};

/* One in space 0, and its next event; @state: of the random numbers, not 0. */
static inline struct os_program os_program(uint64_t state) { return (struct os_program){.spaces = 1, .random = state}; }
struct trace_event os_program_event(struct os_program *p);
/* A number below @below. */
unsigned os_program_pick(struct os_program *p, unsigned below);

#endif
