/*
 * Nested paging: the guest has its page tables to itself and the hardware
 * translates a second time, through EPT, which says what the p2m says. No exit for
 * anything a guest does to its page tables; an EPT violation the first time it
 * touches a frame, filled with the largest page that the p2m's run of frames and
 * --host-pages allow. Accesses outside guest RAM are device accesses: emulated.
 *
 * The tables are in ept_tables.c. What is here beside them, the registers of a guest with EPT, other backends
 * use, too (hv/ept.h).
 */
#include "hv/core.h"
#include "hv/ept.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Combined mappings of the guest, which it tags with PCIDs of its own. Without a VPID, VM exits drop them. */
static void flush_linear(struct hv_vm *vm, bool globals)
{
	uint64_t type = globals ? INVVPID_SINGLE : INVVPID_SINGLE_KEEP_GLOBALS;
	bool done = !vm->vpid || vmx_invvpid(vm->cpu, type, vm->vpid, gva(0)) == VMX_SUCCEED;

	assert(done);
	(void)done;
}

/* ---- registers: all but a few bits of CR0 and CR4 are the guest's own ---- */

#define CR0_HELD CR0_NE   /* VMX operation needs these set */
#define CR4_HELD CR4_VMXE
/* VM entry does not load CD and NW: the guest's are kept in the read shadow. */
#define CR0_MASKED (CR0_HELD | CR0_CD | CR0_NW)

void ept_write_registers(struct hv_vm *vm)
{
	const struct hv_guest_regs *g = &vm->guest;

	hv_write(vm, VMCS_GUEST_CR0, g->cr0 | CR0_HELD);
	hv_write(vm, VMCS_CR0_SHADOW, g->cr0);
	hv_write(vm, VMCS_GUEST_CR4, g->cr4 | CR4_HELD);
	hv_write(vm, VMCS_CR4_SHADOW, g->cr4);
	hv_write(vm, VMCS_GUEST_CR3, g->cr3);
	hv_write(vm, VMCS_GUEST_PDPTE0, g->pdpte[0]);
	hv_write(vm, VMCS_GUEST_PDPTE1, g->pdpte[1]);
	hv_write(vm, VMCS_GUEST_PDPTE2, g->pdpte[2]);
	hv_write(vm, VMCS_GUEST_PDPTE3, g->pdpte[3]);
}

/*
 * What the guest does by itself, the processor makes forget. These are for what was emulated: task switches,
 * and whatever came in their way.
 */
void ept_mode_changed(struct hv_vm *vm)
{
	ept_write_registers(vm);
	flush_linear(vm, true);
}

void ept_load_cr3(struct hv_vm *vm, bool flush)
{
	ept_write_registers(vm);
	if (flush)
		flush_linear(vm, false);
}

void ept_invlpg(struct hv_vm *vm, uint64_t lin)
{
	(void)lin; /* INVLPG drops the cached upper entries of all addresses, INVVPID of one address does not */
	flush_linear(vm, true);
}

void ept_flush(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid)
{
	(void)pcid; /* root software cannot invalidate a single PCID of a guest */
	flush_linear(vm, kind == HV_FLUSH_ALL);
}

void ept_setup_vmcs(struct hv_vm *vm)
{
	hv_write(vm, VMCS_PROC_CTL2, hv_read(vm, VMCS_PROC_CTL2) | PROC2_EPT | PROC2_UNRESTRICTED);
	hv_write(vm, VMCS_PROC_CTL,
		 hv_read(vm, VMCS_PROC_CTL) & ~(uint64_t)(PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG));
	hv_write(vm, VMCS_EPTP, ept_tables_eptp(vm, ept_of(vm)));
	hv_write(vm, VMCS_EXCEPTION_BITMAP, 0);
	hv_write(vm, VMCS_CR0_MASK, CR0_MASKED);
	hv_write(vm, VMCS_CR4_MASK, CR4_HELD);
	/* Somebody else may have had the VPID, and the root's frame for a root. */
	flush_linear(vm, true);
	ept_tables_flush(vm, ept_of(vm));
}

/* ---- what EPT has nothing to do with ---- */

enum hv_verdict ept_page_fault(struct hv_vm *vm, uint64_t lin, uint32_t error)
{
	return hv_fail(vm, "page fault at %llx (error %x) intercepted under EPT", (unsigned long long)lin, error);
}

void ept_guest_wrote(struct hv_vm *vm, uint64_t a, unsigned bytes) { (void)vm, (void)a, (void)bytes; }

void ept_emulated_access(struct hv_vm *vm, uint64_t a, unsigned bytes, bool write)
{
	(void)vm, (void)a, (void)bytes, (void)write;
}

/* ---- the tables ---- */

enum hv_verdict ept_violation(struct hv_vm *vm, uint64_t a, uint64_t qualification)
{
	return ept_tables_fill(vm, ept_of(vm), a, qualification);
}

/* While the backend is being made there are no tables yet. */
void ept_p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames)
{
	if (ept_of(vm))
		ept_tables_p2m_changed(vm, ept_of(vm), first, frames);
}

void ept_track(struct hv_vm *vm)
{
	hv_write(vm, VMCS_EPTP, ept_tables_eptp(vm, ept_of(vm)));
	ept_tables_track(vm, ept_of(vm));
}

void ept_retrack(struct hv_vm *vm, const uint64_t *pages) { ept_tables_retrack(vm, ept_of(vm), pages); }
void ept_scan(struct hv_vm *vm) { ept_tables_scan(vm, ept_of(vm)); }

bool ept_audit(struct hv_vm *vm, char *buf, size_t bytes) { return ept_tables_audit(vm, ept_of(vm), buf, bytes); }

void ept_observe(const struct hv_vm *vm, struct obs *obs) { ept_observe_tables(ept_of(vm), obs); }

int ept_init(struct hv_vm *vm, struct error *err)
{
	vm->mmu_state = calloc(1, sizeof(struct ept_tables));
	if (!vm->mmu_state)
		return error_set(err, -ENOMEM, "EPT: out of memory");
	return ept_tables_init(vm, ept_of(vm), err);
}

void ept_destroy(struct hv_vm *vm)
{
	ept_tables_destroy(vm, ept_of(vm));
	free(vm->mmu_state);
	vm->mmu_state = NULL;
}

const struct hv_mmu_ops hv_mmu_ept = {
	.name = "ept",
	.init = ept_init,
	.destroy = ept_destroy,
	EPT_GUEST_OPS,
	EPT_TABLE_OPS,
};
