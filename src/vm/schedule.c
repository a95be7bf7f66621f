/*
 * The scheduler. Time slices are instructions and nothing else ends one but the
 * VM itself, so a run of several VMs is as repeatable as that of one.
 *
 * Left out: weights and priorities, blocking on a console while others could run.
 */
#include "vm/schedule.h"

#include "base/util.h"

#include <string.h>

/* The VM's turn. True if it will want another. */
static bool take_turn(struct vm *vm, uint64_t slice)
{
	uint64_t insns = vm_insns(vm);
	struct vm_stop stop = {.insns = slice < UINT64_MAX - insns ? insns + slice : UINT64_MAX, .on_halt = true};

	return vm_run_until(vm, &stop) != VM_STOPPED_END;
}

void schedule_run(struct vm *const *vms, unsigned count, uint64_t slice, struct schedule_result *result)
{
	struct vm *ring[ENGINE_VMS_MAX];
	const struct vm *last = NULL;
	unsigned left = count < ENGINE_VMS_MAX ? count : ENGINE_VMS_MAX;

	*result = (struct schedule_result){0};
	memcpy(ring, vms, left * sizeof(*ring));
	for (unsigned i = 0; left; i = i < left ? i : 0) {
		struct vm *vm = ring[i];

		result->slices++;
		result->switches += last && last != vm;
		last = vm;
		if (take_turn(vm, slice))
			i++;
		else
			memmove(ring + i, ring + i + 1, (--left - i) * sizeof(*ring));
	}
}
