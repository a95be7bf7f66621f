/*
 * Page-modification logging: where the hardware sets the dirty flag of an EPT entry it writes down the page, too. The
 * log is emptied at every VM exit, so that it seldom fills up, and when pages are collected. To collect is to clear
 * the dirty flags of the pages that were logged. As with the flags alone, the pages of guest tables that are walked
 * are among them.
 * Source: SDM volume 3, "Page-Modification Logging"; docs/pml.md.
 */
#include "hv/dirty.h"

#include <errno.h>

#include "hv/core.h"

static void empty_log(struct hv_vm *vm)
{
	const uint8_t *log = machmem_ptr(vm->mem, vm->dirty.log);
	uint64_t index = hv_read(vm, VMCS_GUEST_PML_INDEX);

	if (index == PML_ENTRIES - 1)
		return;
	/* The entry that would be written next; the index is 0xffff when the last one, number 0, has been. */
	for (uint64_t i = index < PML_ENTRIES ? index + 1 : 0; i < PML_ENTRIES; i++) {
		uint64_t page = hv_page_of(vm, get_u64(log + 8 * i));

		hv_count_reads(vm, 1);
		vm->obs.tracking.logged++;
		if (page == UINT64_MAX)
			continue;
		hv_page_set(vm->dirty.written, page);
		hv_page_set(vm->dirty.may_write, page);
	}
	hv_write(vm, VMCS_GUEST_PML_INDEX, PML_ENTRIES - 1);
}

static void collect(struct hv_vm *vm)
{
	empty_log(vm);
	hv_dirty_begin_anew(vm);
}

static int arm(struct hv_vm *vm, struct error *err)
{
	uint64_t cap = 0, proc2 = hv_read(vm, VMCS_PROC_CTL2);

	if (vmx_read_capability(vm->cpu, MSR_VMX_PROCBASED_CTLS2, &cap) || !(cap >> 32 & PROC2_PML))
		return error_set(err, -ENODEV, "the processor has no page-modification logging");
	if (!vm->dirty.log.v && hv_alloc_frame(vm->machine, &vm->dirty.log))
		return error_set(err, -ENOMEM, "no machine memory for the page-modification log");
	hv_write(vm, VMCS_PML_ADDRESS, vm->dirty.log.v);
	hv_write(vm, VMCS_GUEST_PML_INDEX, PML_ENTRIES - 1);
	hv_write(vm, VMCS_PROC_CTL2, proc2 | PROC2_PML);
	return 0;
}

static void disarm(struct hv_vm *vm)
{
	hv_write(vm, VMCS_PROC_CTL2, hv_read(vm, VMCS_PROC_CTL2) & ~(uint64_t)PROC2_PML);
}

const struct hv_tracker hv_tracker_pml = {
	.schemes = 1u << ENGINE_EPT,
	.flags = true,
	.arm = arm,
	.disarm = disarm,
	.exited = empty_log,
	.collect = collect,
};
