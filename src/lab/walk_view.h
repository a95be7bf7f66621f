/*
 * A page walk made visible: what the translation hardware did for one address, as
 * a table for people and as JSON for programs (docs/FORMATS.md, "Walk"). The walk
 * itself is engine_walk()'s; here it is put into words, and what its outcome means
 * under the scheme is said.
 */
#ifndef GNOMON_LAB_WALK_VIEW_H
#define GNOMON_LAB_WALK_VIEW_H

#include "engine/engine.h"
#include <jansson.h>
#include <stdio.h>

#define WALK_SCHEMA "gnomon-walk/1"

struct walk_view {
	/* What was asked for */
	enum engine_mmu mmu;
	gva_t address;
	const char *name;        /* of the register it came from, NULL: none */
	enum access_kind kind;
	enum access_mode mode;
	bool cold;               /* translations were dropped before */
	/* What came out: walk_view_make() */
	enum xlate_event event;
	struct xlate x;
	struct walk_log log;
	struct engine_view guest;
	bool ram;                /* guest RAM at the guest-physical address it is about */
	enum engine_owner owner; /* of the machine page */
};

/* Makes the walk that v->address, kind, mode and cold describe, and fills in the rest. Between runs. */
void walk_view_make(struct walk_view *v, struct engine_vm *vm);

/* What the steps add up to. */
struct walk_totals {
	unsigned refs, stage_refs[STAGES], places[HW_PLACES];
	unsigned walk_cache_hits, nested_tlb_hits, registers;
	uint64_t cycles; /* of the steps; what a TLB miss costs beside them is not in it */
};
void walk_view_add_up(const struct walk_log *log, struct walk_totals *t);

/*
 * The flags of a paging-structure entry, one place each, "-" where it is 0: "P W U - - A D - G N".
 * @level: 1 = PTE. Stages differ in format. @buf holds at least 32 bytes. Returns it.
 */
const char *walk_view_flags(enum walk_stage stage, unsigned level, uint64_t entry, char *buf);
/* A sentence: what the outcome means for the guest and for the hypervisor. @buf holds at least 256 bytes. Returns it. */
const char *walk_view_meaning(const struct walk_view *v, char *buf);

void walk_view_print(const struct walk_view *v, FILE *out);
/* A new JSON object, NULL if out of memory. */
json_t *walk_view_json(const struct walk_view *v);

#endif
