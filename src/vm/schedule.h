/*
 * Several VMs on one processor, one after the other: round robin with a time
 * slice counted in instructions, so that who runs when does not depend on the host.
 */
#ifndef GNOMON_VM_SCHEDULE_H
#define GNOMON_VM_SCHEDULE_H

#include "vm/vm.h"

#define SCHEDULE_SLICE_DEFAULT 1000000u

struct schedule_result {
	uint64_t slices;   /* turns given */
	uint64_t switches; /* of them, those for which the processor changed hands */
};

/*
 * Runs all VMs to their ends. A VM has the processor for @slice instructions (at least 1), or until it halts: its
 * idle time then passes at its next turn. One that ended leaves the ring. vm_interrupt() ends a VM as ever.
 * @vms: made with vm_create_on() on one machine
 */
void schedule_run(struct vm *const *vms, unsigned count, uint64_t slice, struct schedule_result *result);

#endif
