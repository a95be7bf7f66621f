/*
 * A VM's state and memory, held in this process: to make as many VMs of it as a lab wants, under any scheme; and as
 * what has arrived at the far end of a migration.
 */
#ifndef GNOMON_LAB_LAB_STATE_H
#define GNOMON_LAB_LAB_STATE_H

#include "vm/vm_state.h"

struct lab_section {
	char name[64];
	uint8_t *bytes;
	size_t n;
};

struct lab_state {
	struct lab_section *section;
	unsigned sections, room;
	uint64_t bytes;   /* of all sections */
	uint64_t pages;
	uint8_t *memory;  /* of so many pages; what was never written takes no room */
	uint64_t *filled; /* a bit a page: it is not zeros */
};

/* An empty one, for a VM with so many pages. -ENOMEM. */
int lab_state_init(struct lab_state *s, uint64_t pages, struct error *err);
void lab_state_fini(struct lab_state *s);

/* Copies a page as it is now. 1: it has contents; 0: it is zeros; -EIO. */
int lab_state_page(struct lab_state *s, struct engine_vm *engine, uint64_t page);
/* Takes everything but memory, after vm_quiesce(). Errors of vm_save_state(), -ENOMEM. */
int lab_state_sections(struct lab_state *s, struct vm *vm, struct error *err);
/* Both of them, whole. */
int lab_state_take(struct lab_state *s, struct vm *vm, struct error *err);

/*
 * Makes a VM of it. @hw, @mmu: what is to execute it
 * @keep: to be freed with vm_config_strings_free() after the VM. Errors: those of vm_state.h.
 */
int lab_state_make(const struct lab_state *s, const struct hw *hw, enum engine_mmu mmu, struct vm **out,
		   struct vm_config_strings *keep, struct error *err);

#endif
