/*
 * Page-modification logging: where the hardware sets the dirty flag of an EPT entry it writes down the page, too. The
 * log is emptied at every VM exit, so that it seldom fills up, and when pages are collected. To collect is to clear
 * the dirty flags of the pages that were logged. As with the flags alone, the pages of guest tables that are walked
 * are among them.
 * Source: SDM volume 3, "Page-Modification Logging"; docs/pml.md.
 */
#include "hv/dirty.h"

#include <assert.h>
#include <errno.h>

#include "hv/core.h"

static_assert(ENGINE_LOG_ENTRIES == PML_ENTRIES, "a log that is shown has room for all entries");

/* Shows the entries from @first on to who watches. What is read for it does not count. */
static void show_log(struct hv_vm *vm, const uint8_t *log, uint64_t first, bool exited)
{
	struct engine_log shown = {.reason = ENGINE_LOG_COLLECTED, .entries = (unsigned)(PML_ENTRIES - first)};
	struct vmx_counts door = *vmx_counts(vm->cpu);

	if (exited)
		shown.reason = hv_read(vm, VMCS_EXIT_REASON) & 0xffff;
	shown.cr3 = hv_read(vm, VMCS_GUEST_CR3);
	*vmx_counts(vm->cpu) = door;
	for (unsigned i = 0; i < shown.entries; i++)
		shown.entry[i] = gpa(get_u64(log + 8 * (PML_ENTRIES - 1 - i)));
	vm->log_watch->emptied(vm->log_watch->ctx, &shown);
}

static void empty_log(struct hv_vm *vm, bool exited)
{
	const uint8_t *log = machmem_ptr(vm->mem, vm->dirty.log);
	uint64_t index = hv_read(vm, VMCS_GUEST_PML_INDEX), first;

	if (index == PML_ENTRIES - 1)
		return;
	/* The index is of the entry that would be written next, 0xffff when the last one, number 0, has been. */
	first = index < PML_ENTRIES ? index + 1 : 0;
	if (unlikely(vm->log_watch != NULL))
		show_log(vm, log, first, exited);
	for (uint64_t i = first; i < PML_ENTRIES; i++) {
		uint64_t page = hv_page_of(vm, get_u64(log + 8 * i));

		hv_count_reads(vm, 1);
		vm->obs.tracking.logged++;
		if (page == UINT64_MAX)
			continue;
		bitmap_set(vm->dirty.written, page);
		bitmap_set(vm->dirty.may_write, page);
	}
	hv_write(vm, VMCS_GUEST_PML_INDEX, PML_ENTRIES - 1);
}

static void after_exit(struct hv_vm *vm) { empty_log(vm, true); }

static void collect(struct hv_vm *vm)
{
	empty_log(vm, false);
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
	.schemes = (ENGINE_NESTS & ~(1u << ENGINE_AGILE)),
	.flags = true,
	.arm = arm,
	.disarm = disarm,
	.exited = after_exit,
	.collect = collect,
};
