/*
 * The hypervisor's core: makes a VM and runs its vCPU: enter the guest, find out why it exited, handle that, again.
 * Handlers are in exit_<group>.c, in the list at the end of this file; paging is
 * the backend's.
 *
 * Time. Every guest instruction counts once, whoever executes it. The machine's
 * TSC counts those that the guest executed; emulated_insns those that the
 * hypervisor completed for it; TSC_OFFSET adds the latter, so that the guest sees
 * the sum. The VMX-preemption timer ends guest execution exactly at the next event.
 */
#include "hv/core.h"

#include "cpu/block.h"
#include "hv/dirty.h"
#include "hv/nested.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const struct hv_mmu_ops *const hv_mmu_backends[ENGINE_MMU_COUNT] = {
	[ENGINE_BRUTE] = &hv_mmu_brute,
	[ENGINE_SHADOW] = &hv_mmu_shadow,
	[ENGINE_EPT] = &hv_mmu_ept,
	[ENGINE_HUGEGPT] = &hv_mmu_hugegpt,
	[ENGINE_DMT] = &hv_mmu_dmt,
	[ENGINE_PVDMT] = &hv_mmu_pvdmt,
	[ENGINE_AGILE] = &hv_mmu_agile,
	[ENGINE_NESTED] = &hv_mmu_nested,
	[ENGINE_NESTED_PVDMT] = &hv_mmu_nested_pvdmt,
};

enum hv_verdict hv_fail(struct hv_vm *vm, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(vm->fail_text, sizeof(vm->fail_text), fmt, ap);
	va_end(ap);
	return HV_FAIL;
}

/* ---- VMCS fields ---- */

uint64_t hv_read(struct hv_vm *vm, enum vmcs_field f)
{
	uint64_t v = 0;
	enum vmx_result r = vmx_vmread(vm->cpu, f, &v);

	assert(r == VMX_SUCCEED);
	(void)r;
	return v;
}

void hv_write(struct hv_vm *vm, enum vmcs_field f, uint64_t v)
{
	enum vmx_result r = vmx_vmwrite(vm->cpu, f, v);

	assert(r == VMX_SUCCEED);
	(void)r;
}

void hv_update_proc(struct hv_vm *vm, uint32_t set, uint32_t clear)
{
	struct hv_core *core = hv_core(vm);
	uint32_t proc = ((core->proc | set) & ~clear) | hv_nested_windows(vm);

	if (proc == core->proc)
		return;
	core->proc = proc;
	hv_write(vm, VMCS_PROC_CTL, proc);
}

/* ---- guest memory ---- */

void hv_snoop(struct hv_vm *vm, uint64_t a, unsigned bytes)
{
	mfn_t m;

	if (p2m_peek(vm, gfn(a >> PAGE_SHIFT), &m, NULL) == 0)
		blocks_note_write(vm->cpu, m.v << PAGE_SHIFT | (a & ~PAGE_MASK), bytes);
}

void hv_ram_written(struct hv_vm *vm, uint64_t a, unsigned bytes)
{
	hv_make_current(vm);
	hv_note_written(vm, a);
	hv_snoop(vm, a, bytes);
	vm->mmu->guest_wrote(vm, a, bytes);
}

/* ---- making a VM ---- */

static int make_vmcs(struct hv_vm *vm, struct error *err)
{
	struct hv_core *core = hv_core(vm);
	struct hv_machine *m = vm->machine;

	if (hv_alloc_frame(m, &vm->vmcs) || hv_alloc_frame(m, &core->io_bitmap_a) ||
	    hv_alloc_frame(m, &core->io_bitmap_b) || hv_alloc_frame(m, &core->msr_bitmap))
		return error_set(err, -ENOMEM, "hypervisor: no machine memory for the VMCS");
	put_u32(machmem_ptr(vm->mem, vm->vmcs), VMCS_REVISION);
	if (vmx_vmclear(vm->cpu, vm->vmcs))
		return error_set(err, -ENODEV, "hypervisor: the processor refuses the VMCS");
	hv_make_current(vm);
	return 0;
}

/* Control bits that are wanted with those that must be; false if the processor has not all of them. */
static bool adjust_controls(struct hv_vm *vm, uint32_t capability, uint32_t want, uint32_t *out)
{
	uint64_t cap;

	if (vmx_read_capability(vm->cpu, capability, &cap))
		return false;
	*out = (want | (uint32_t)cap) & (uint32_t)(cap >> 32);
	return (*out & want) == want;
}

static int setup_controls(struct hv_vm *vm, struct error *err)
{
	struct hv_core *core = hv_core(vm);
	uint32_t pin, proc2, exit;

	if (!adjust_controls(vm, MSR_VMX_TRUE_PINBASED_CTLS,
			     PIN_EXTERNAL_INTERRUPT | PIN_NMI | PIN_VIRTUAL_NMI | PIN_PREEMPTION_TIMER, &pin) ||
	    !adjust_controls(vm, MSR_VMX_TRUE_PROCBASED_CTLS,
			     PROC_TSC_OFFSETTING | PROC_HLT | PROC_CR8_LOAD | PROC_CR8_STORE | PROC_IO_BITMAPS |
				     PROC_MSR_BITMAPS | PROC_SECONDARY,
			     &core->proc) ||
	    !adjust_controls(vm, MSR_VMX_PROCBASED_CTLS2,
			     (vm->vpid ? PROC2_VPID : 0) | (vm->cfg.cpu.feature[CPUF_RDTSCP] ? PROC2_RDTSCP : 0) |
				     (vm->cfg.cpu.feature[CPUF_INVPCID] ? PROC2_INVPCID : 0),
			     &proc2) ||
	    !adjust_controls(vm, MSR_VMX_TRUE_EXIT_CTLS,
			     EXIT_SAVE_DEBUG | EXIT_HOST_64 | EXIT_ACK_INTERRUPT | EXIT_LOAD_PAT | EXIT_SAVE_EFER |
				     EXIT_LOAD_EFER,
			     &exit) ||
	    !adjust_controls(vm, MSR_VMX_TRUE_ENTRY_CTLS, ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER,
			     &core->entry_ctl))
		return error_set(err, -ENODEV, "hypervisor: the processor lacks a VMX control");
	exit &= ~EXIT_ACK_INTERRUPT; /* an external interrupt only means that somebody wants the processor back */
	hv_write(vm, VMCS_PIN_CTL, pin);
	hv_write(vm, VMCS_PROC_CTL, core->proc);
	hv_write(vm, VMCS_PROC_CTL2, proc2);
	hv_write(vm, VMCS_EXIT_CTL, exit);
	hv_write(vm, VMCS_ENTRY_CTL, core->entry_ctl);
	return 0;
}

/* The host-state area: where exits arrive. Host C takes over there, so only its validity counts. */
static void setup_host_state(struct hv_vm *vm)
{
	static const struct { enum vmcs_field field; uint64_t v; } fixed[] = {
		{VMCS_HOST_CS_SEL, VMX_ROOT_CS}, {VMCS_HOST_SS_SEL, VMX_ROOT_DS}, {VMCS_HOST_DS_SEL, VMX_ROOT_DS},
		{VMCS_HOST_ES_SEL, VMX_ROOT_DS}, {VMCS_HOST_FS_SEL, VMX_ROOT_DS}, {VMCS_HOST_GS_SEL, VMX_ROOT_DS},
		{VMCS_HOST_TR_SEL, VMX_ROOT_TR}, {VMCS_HOST_FS_BASE, 0}, {VMCS_HOST_GS_BASE, 0},
		{VMCS_HOST_TR_BASE, 0}, {VMCS_HOST_GDTR_BASE, 0}, {VMCS_HOST_IDTR_BASE, 0},
		{VMCS_HOST_SYSENTER_CS, 0}, {VMCS_HOST_SYSENTER_ESP, 0}, {VMCS_HOST_SYSENTER_EIP, 0},
		{VMCS_HOST_RSP, 0}, {VMCS_HOST_RIP, 0},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++)
		hv_write(vm, fixed[i].field, fixed[i].v);
	/* As MOV from CR and RDMSR give them in root operation. */
	hv_write(vm, VMCS_HOST_CR0, vm->cpu->cr0);
	hv_write(vm, VMCS_HOST_CR3, vm->cpu->cr3);
	hv_write(vm, VMCS_HOST_CR4, vm->cpu->cr4);
	hv_write(vm, VMCS_HOST_EFER, vm->cpu->efer);
	hv_write(vm, VMCS_HOST_PAT, vm->cpu->msr.pat);
}

/* MSRs that the guest reads and writes without an exit: VMX switches them, or nobody else uses them. */
static const uint32_t free_msrs[] = {
	MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK,
	MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX,
};

static void free_msr(uint8_t *bitmap, uint32_t msr)
{
	/* Four bitmaps of 1 KiB: reads of low and high MSRs, then writes. */
	unsigned n = msr & 0x1fff, at = (msr >= 0xc0000000 ? 0x400 : 0) + n / 8;

	bitmap[at] &= (uint8_t)~(1u << n % 8);
	bitmap[at + 0x800] &= (uint8_t)~(1u << n % 8);
}

static void setup_bitmaps(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	uint8_t *msr = machmem_ptr(vm->mem, core->msr_bitmap);

	memset(machmem_ptr(vm->mem, core->io_bitmap_a), 0xff, PAGE_SIZE);
	memset(machmem_ptr(vm->mem, core->io_bitmap_b), 0xff, PAGE_SIZE);
	memset(msr, 0xff, PAGE_SIZE);
	for (unsigned i = 0; i < ARRAY_SIZE(free_msrs); i++)
		free_msr(msr, free_msrs[i]);
	/* The processor reads its registers from guest-physical memory, which it finds by EPT only. */
	if (engine_mmu_nests(vm->cfg.mmu))
		free_msr(msr, MSR_DMT_LOAD);
	hv_write(vm, VMCS_IO_BITMAP_A, core->io_bitmap_a.v);
	hv_write(vm, VMCS_IO_BITMAP_B, core->io_bitmap_b.v);
	hv_write(vm, VMCS_MSR_BITMAP, core->msr_bitmap.v);
}

static int setup_vmcs(struct hv_vm *vm, struct error *err)
{
	struct hv_core *core = hv_core(vm);
	int r = setup_controls(vm, err);

	if (r)
		return r;
	setup_host_state(vm);
	setup_bitmaps(vm);
	hv_write(vm, VMCS_VPID, vm->vpid);
	hv_write(vm, VMCS_GUEST_VMCS_LINK, ~0ull);
	hv_write(vm, VMCS_CR0_MASK, 0);
	hv_write(vm, VMCS_CR4_MASK, 0);
	vm->mmu->setup_vmcs(vm);
	core->proc = (uint32_t)hv_read(vm, VMCS_PROC_CTL);
	core->sync_cr3 = !(core->proc & PROC_CR3_LOAD);
	core->sync_efer = hv_read(vm, VMCS_PROC_CTL2) & PROC2_UNRESTRICTED;
	return 0;
}

static int create_parts(struct hv_vm *vm, struct error *err)
{
	uint64_t misc = 0;
	int r = make_vmcs(vm, err);

	if (r)
		return r;
	vmx_read_capability(vm->cpu, MSR_VMX_MISC, &misc);
	if (misc & 0x1f)
		return error_set(err, -ENODEV, "hypervisor: the VMX-preemption timer is too coarse");
	if ((r = p2m_init(vm, err)) || (r = hv_emulator_create(vm, err)) || (r = hv_nested_create(vm, err)) ||
	    (r = vm->mmu->init(vm, err)) || (r = setup_vmcs(vm, err)))
		return r;
	hv_put_state(vm); /* the emulator's processor was created in RESET state: that is the guest's */
	return 0;
}

int hv_create(struct hv_vm **out, struct hv_machine *machine, const struct engine_config *cfg,
	      const struct machmem_range *ram, unsigned rams, struct error *err)
{
	struct hv_vm *vm = calloc(1, sizeof(*vm));
	struct hv_core *core = aligned_alloc(64, (sizeof(*core) + 63) & ~(size_t)63);
	int r;

	if (!vm || !core) {
		free(vm);
		free(core);
		return error_set(err, -ENOMEM, "hypervisor: out of memory");
	}
	memset(core, 0, sizeof(*core));
	vm->machine = machine;
	vm->cfg = *cfg;
	memcpy(vm->ram, ram, rams * sizeof(*ram));
	vm->rams = rams;
	vm->mem = machine->mem;
	vm->cpu = machine->cpu;
	vm->owner = (uint16_t)(OWNER_VM + machine->vms);
	vm->vpid = cfg->no_vpid ? 0 : (uint16_t)(1 + machine->vms);
	vm->mmu = hv_mmu_backends[cfg->mmu];
	vm->priv = core;
	core->stop_passed = UINT64_MAX;
	core->left_tsc = core->away_tsc = cpu_tsc(vm->cpu);
	core->left_insns = core->away_insns = vm->cpu->insns;
	r = vm->mmu ? create_parts(vm, err) : error_set(err, -EINVAL, "hypervisor: not an MMU backend");
	if (r) {
		hv_destroy(vm);
		return r;
	}
	machine->vms++;
	*out = vm;
	return 0;
}

void hv_destroy(struct hv_vm *vm)
{
	struct hv_machine *m = vm->machine;

	if (vm->vmcs.v)
		hv_make_current(vm);
	hv_dirty_disarm(vm);
	if (vm->mmu_state)
		vm->mmu->destroy(vm);
	hv_nested_destroy(vm);
	hv_emulator_destroy(vm);
	p2m_destroy(vm);
	if (vm->vmcs.v)
		vmx_vmclear(vm->cpu, vm->vmcs);
	m->current = m->current == vm ? NULL : m->current;
	m->last = m->last == vm ? NULL : m->last;
	free(vm->priv);
	free(vm);
}

/* ---- state that the guest changes by itself ---- */

void hv_sync_guest(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	uint64_t mask0 = hv_read(vm, VMCS_CR0_MASK), mask4 = hv_read(vm, VMCS_CR4_MASK);

	/* What L2 reads of masked bits is not what L1 has there; they only change where we see it. */
	if (hv_nested_inside(vm)) {
		vm->guest.cr0 = (hv_read(vm, VMCS_GUEST_CR0) & ~mask0) | (vm->guest.cr0 & mask0);
		vm->guest.cr4 = (hv_read(vm, VMCS_GUEST_CR4) & ~mask4) | (vm->guest.cr4 & mask4);
	} else {
		vm->guest.cr0 = (hv_read(vm, VMCS_GUEST_CR0) & ~mask0) | (hv_read(vm, VMCS_CR0_SHADOW) & mask0);
		vm->guest.cr4 = (hv_read(vm, VMCS_GUEST_CR4) & ~mask4) | (hv_read(vm, VMCS_CR4_SHADOW) & mask4);
	}
	if (core->sync_efer)
		vm->guest.efer = hv_read(vm, VMCS_GUEST_EFER);
	if (!core->sync_cr3)
		return;
	vm->guest.cr3 = hv_read(vm, VMCS_GUEST_CR3);
	vm->guest.pdpte[0] = hv_read(vm, VMCS_GUEST_PDPTE0);
	vm->guest.pdpte[1] = hv_read(vm, VMCS_GUEST_PDPTE1);
	vm->guest.pdpte[2] = hv_read(vm, VMCS_GUEST_PDPTE2);
	vm->guest.pdpte[3] = hv_read(vm, VMCS_GUEST_PDPTE3);
}

enum access_mode hv_access_mode(struct hv_vm *vm)
{
	uint64_t rflags = hv_read(vm, VMCS_GUEST_RFLAGS);

	if ((hv_read(vm, VMCS_GUEST_SS_AR) & SEG_AR_DPL) == SEG_AR_DPL)
		return MODE_USER;
	return rflags & RF_AC ? MODE_SUPER_AC : MODE_SUPER;
}

/* ---- completing instructions ---- */

void hv_count_insn(struct hv_vm *vm)
{
	uint64_t blocking = hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY);

	vm->emulated_insns++;
	if (blocking & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS))
		hv_write(vm, VMCS_GUEST_INTERRUPTIBILITY,
			 blocking & ~(uint64_t)(INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS));
}

void hv_skip_insn(struct hv_vm *vm)
{
	uint64_t rip = hv_read(vm, VMCS_GUEST_RIP) + hv_read(vm, VMCS_EXIT_INSN_LEN);
	uint64_t rflags = hv_read(vm, VMCS_GUEST_RFLAGS);
	bool code64 = hv_read(vm, VMCS_GUEST_CS_AR) & SEG_AR_L && hv_core(vm)->entry_ctl & ENTRY_IA32E;

	hv_write(vm, VMCS_GUEST_RIP, code64 ? rip : (uint32_t)rip);
	if (rflags & RF_RF)
		hv_write(vm, VMCS_GUEST_RFLAGS, rflags & ~RF_RF);
	hv_count_insn(vm);
	if (rflags & RF_TF)
		hv_write(vm, VMCS_GUEST_PENDING_DEBUG, hv_read(vm, VMCS_GUEST_PENDING_DEBUG) | PENDING_DEBUG_BS);
}

/* ---- time ---- */

uint64_t hv_now(const struct hv_vm *vm) { return hv_virtual_now(vm); }
uint64_t hv_insns(const struct hv_vm *vm) { return hv_own_insns(vm) + vm->emulated_insns; }

void hv_advance(struct hv_vm *vm, uint64_t to_ns)
{
	uint64_t now = hv_virtual_now(vm);

	hv_make_current(vm); /* time passes for nobody else */
	if (to_ns > now)
		cpu_skip_time(vm->cpu, cpu_tsc(vm->cpu) + (to_ns - now));
}

/* Instructions that the guest may execute before something is due. */
static uint64_t ticks_left(struct hv_vm *vm, const struct engine_run *run)
{
	uint64_t timer = lapic_next_deadline(&vm->emul->lapic), tsc = hv_guest_tsc(vm);
	uint64_t now = hv_virtual_now(vm), insns = hv_insns(vm);
	uint64_t left = min_u64(run->deadline_ns - min_u64(now, run->deadline_ns),
				run->insn_limit - min_u64(insns, run->insn_limit));

	timer = min_u64(timer, hv_nested_deadline(vm));
	if (timer != UINT64_MAX)
		left = min_u64(left, timer > tsc ? timer - tsc : 0);
	return min_u64(left, UINT32_MAX);
}

/* ---- entry and exit ---- */

static enum hv_verdict entry_failed(struct hv_vm *vm, enum vmx_result r)
{
	if (r == VMX_FAIL_VALID)
		return hv_fail(vm, "VM entry failed: VM-instruction error %u",
			       (unsigned)hv_read(vm, VMCS_VM_INSTRUCTION_ERROR));
	return hv_fail(vm, "VM entry failed: no current VMCS");
}

/* The guest executes until the processor is back in root operation. */
static enum hv_verdict execute_guest(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);

	for (;;) {
		enum cpu_run_status status = cpu_run(vm->cpu, INT64_MAX);

		switch (status) {
		case CPU_RUN_VMEXIT:
			return HV_RESUME;
		case CPU_RUN_KICKED:
			/* Somebody wants the processor: that is an external interrupt. */
			core->kicked = true;
			vm->cpu->extint = true;
			break;
		case CPU_RUN_DEADLINE:
			break;
		default:
			return hv_fail(vm, "the processor stopped, and no guest can cause that (%d)", (int)status);
		}
	}
}

/* For restore_rf(): the exit does not tell. */
static void note_entry(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);

	core->entered_event = hv_read(vm, VMCS_ENTRY_INTR_INFO) & INTR_INFO_VALID || hv_debug_trap_due(vm);
	core->entered_rf = hv_read(vm, VMCS_GUEST_RFLAGS) & RF_RF;
	core->entered_gd = hv_read(vm, VMCS_GUEST_DR7) & DR7_GD;
	core->entered_rip = hv_read(vm, VMCS_GUEST_RIP);
	core->entered_insns = hv_insns(vm);
}

enum hv_verdict hv_enter(struct hv_vm *vm, const struct engine_run *run, bool *exited)
{
	struct hv_core *core = hv_core(vm);
	uint64_t offset = vm->emulated_insns + (uint64_t)core->guest_tsc_base - core->away_tsc + hv_nested_tsc_offset(vm);
	enum vmx_result r;

	if (offset != core->tsc_offset) {
		core->tsc_offset = offset;
		hv_write(vm, VMCS_TSC_OFFSET, offset);
	}
	hv_write(vm, VMCS_GUEST_PREEMPTION_TIMER, ticks_left(vm, run));
	note_entry(vm);
	cpu_set_stop(vm->cpu, core->stop_armed, core->stop_address,
		     core->stop_passed - vm->emulated_insns + core->away_insns);
	r = vmx_enter(vm->cpu, !core->launched, exited);
	if (r != VMX_SUCCEED)
		return entry_failed(vm, r);
	core->launched = true;
	return HV_RESUME;
}

static enum hv_verdict enter_guest(struct hv_vm *vm, const struct engine_run *run)
{
	bool exited = false;
	enum hv_verdict v = hv_enter(vm, run, &exited);

	return v == HV_RESUME && !exited ? execute_guest(vm) : v;
}

struct work hv_save_work(const struct hv_vm *vm)
{
	return (struct work){*vmx_counts(vm->cpu), vm->obs.hypervisor.table_reads, vm->obs.hypervisor.table_writes,
			     vm->obs.nested.l1_requests};
}

void hv_restore_work(struct hv_vm *vm, const struct work *w)
{
	*vmx_counts(vm->cpu) = w->door;
	vm->obs.hypervisor.table_reads = w->table_reads;
	vm->obs.hypervisor.table_writes = w->table_writes;
	vm->obs.nested.l1_requests = w->l1_requests;
}

static enum hv_verdict audit(struct hv_vm *vm)
{
	uint64_t every = max_u64(vm->cfg.audit_every, 1);
	struct work work;
	char text[160] = "";
	bool ok;

	if (!vm->cfg.audit || vm->obs.exits.total % every)
		return HV_RESUME;
	work = hv_save_work(vm);
	hv_sync_guest(vm);
	ok = vm->mmu->audit(vm, text, sizeof(text)) && hv_audit_owners(vm, text, sizeof(text));
	hv_restore_work(vm, &work);
	if (ok)
		return HV_RESUME;
	return hv_fail(vm, "audit after exit %llu (%s): %s", (unsigned long long)vm->obs.exits.total,
		       hv_exit_name(hv_core(vm)->exit_reason), text);
}

static enum hv_verdict handle_exit(struct hv_vm *vm)
{
	const struct vmx_counts before = *vmx_counts(vm->cpu);
	struct hv_core *core = hv_core(vm);
	uint32_t basic;

	core->exit_reason = (uint32_t)hv_read(vm, VMCS_EXIT_REASON);
	core->qualification = hv_read(vm, VMCS_EXIT_QUALIFICATION);
	basic = core->exit_reason & 0xffff;
	vm->obs.exits.total++;
	if (basic < OBS_EXIT_REASONS)
		vm->obs.exits.by_reason[basic]++;
	if (vm->mmu->exited)
		vm->mmu->exited(vm, basic, &before);
	if (core->exit_reason & EXIT_REASON_ENTRY_FAILURE)
		return hv_fail(vm, "%s (qualification %llu)", hv_exit_name(core->exit_reason),
			       (unsigned long long)core->qualification);
	/* The processor keeps the "IA-32e mode guest" control equal to the guest's EFER.LMA. */
	if (core->sync_efer)
		core->entry_ctl = (uint32_t)hv_read(vm, VMCS_ENTRY_CTL);
	if (hv_nested_inside(vm))
		return hv_nested_handle(vm, basic);
	hv_take_vectoring(vm);
	if (basic >= OBS_EXIT_REASONS || !hv_exit_handlers[basic])
		return hv_fail(vm, "unexpected VM exit %u", basic);
	return hv_exit_handlers[basic](vm);
}

enum hv_verdict hv_ask(struct hv_vm *vm, const struct bus_access *a, enum hv_continuation next)
{
	struct hv_core *core = hv_core(vm);

	core->want = *a;
	core->asking = true;
	core->continuation = next;
	return HV_RESUME;
}

enum hv_verdict hv_settle(struct hv_vm *vm, enum hv_verdict v)
{
	switch (v) {
	case HV_EMULATE:
		if (hv_core(vm)->vectoring.info)
			return hv_emulate_delivery(vm);
		return hv_emulate(vm, HV_EMULATE_ITERATIONS);
	case HV_REFLECT:
		hv_inject_page_fault(vm, vm->fault.address, vm->fault.error);
		return HV_RESUME;
	case HV_RESUME:
	case HV_FAIL:
		break;
	}
	return v;
}

enum hv_verdict hv_exited(struct hv_vm *vm)
{
	bool inside = hv_nested_inside(vm);
	enum hv_verdict v;

	hv_dirty_exited(vm);
	v = hv_settle(vm, handle_exit(vm));
	if (inside)
		vm->nested->count.by_l0 += hv_nested_inside(vm);
	return v == HV_RESUME ? audit(vm) : v;
}

static enum hv_verdict run_once(struct hv_vm *vm, const struct engine_run *run)
{
	enum hv_verdict v = enter_guest(vm, run);

	return v == HV_RESUME ? hv_exited(vm) : v;
}

/* What is left to do of an instruction whose device access has been answered. */
static enum hv_verdict continue_instruction(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	enum hv_continuation what = core->continuation;

	core->continuation = CONTINUE_NONE;
	return what == CONTINUE_IO ? exit_io_finish(vm) : hv_emulate_continue(vm);
}

/* ---- engine_run() ---- */

static void take_answer(struct hv_vm *vm, const struct engine_run *run)
{
	struct hv_core *core = hv_core(vm);

	if (core->asked && !core->want.write)
		core->want.data = run->io.data;
	core->asked = false;
}

static bool give_access(struct hv_vm *vm, struct engine_run *run)
{
	struct hv_core *core = hv_core(vm);

	if (!core->asking)
		return false;
	core->asking = false;
	core->asked = true;
	run->exit = core->want.pio ? ENGINE_EXIT_IO : ENGINE_EXIT_MMIO;
	run->io.write = core->want.write;
	run->io.size = core->want.size;
	run->io.addr = core->want.addr;
	run->io.data = core->want.write ? core->want.data : 0;
	return true;
}

static bool give_eoi(struct hv_vm *vm, struct engine_run *run)
{
	int vector = lapic_take_eoi(&vm->emul->lapic);

	if (vector < 0)
		return false;
	run->exit = ENGINE_EXIT_IOAPIC_EOI;
	run->eoi.vector = (uint8_t)vector;
	return true;
}

/* Is the vCPU on its way to a handler? A debug trap belongs to the instruction before it. */
static bool between_instruction_and_handler(struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);

	if (core->shutdown)
		return false;
	return core->inject.info || (hv_debug_trap_due(vm) &&
				     !(hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_MOVSS));
}

/* As on the bare machine, what has begun is finished before the limit is looked at. */
static bool limit_reached(struct hv_vm *vm, struct engine_run *run)
{
	if (between_instruction_and_handler(vm))
		return false;
	if (hv_insns(vm) >= run->insn_limit)
		run->exit = ENGINE_EXIT_LIMIT;
	else if (hv_virtual_now(vm) >= run->deadline_ns)
		run->exit = ENGINE_EXIT_DEADLINE;
	else
		return false;
	return true;
}

static bool stays_halted(struct hv_vm *vm, struct engine_run *run)
{
	struct hv_core *core = hv_core(vm);
	uint64_t tick, tsc = hv_guest_tsc(vm);

	if (!core->halted)
		return false;
	if (hv_wakes(vm)) {
		core->halted = false;
		return false;
	}
	tick = min_u64(lapic_next_deadline(&vm->emul->lapic), hv_nested_deadline(vm));
	run->exit = ENGINE_EXIT_HLT;
	run->hlt.wake_ns = tick == UINT64_MAX ? UINT64_MAX : hv_virtual_now(vm) + (tick > tsc ? tick - tsc : 0);
	return true;
}

static bool failed(struct hv_vm *vm, struct engine_run *run)
{
	run->exit = ENGINE_EXIT_FAIL;
	snprintf(run->fail.text, sizeof(run->fail.text), "%s", vm->fail_text);
	return false;
}

/* One stretch. Returns false if the caller has to be told of run->exit. */
static bool step(struct hv_vm *vm, struct engine_run *run)
{
	struct hv_core *core = hv_core(vm);
	enum hv_verdict v;

	if (core->shutdown) {
		run->exit = ENGINE_EXIT_SHUTDOWN;
		return false;
	}
	if (p2m_is_broken(vm)) {
		v = HV_RESUME; /* no further: see below */
	} else if (core->continuation) {
		v = continue_instruction(vm);
	} else {
		lapic_advance(&vm->emul->lapic, hv_guest_tsc(vm));
		hv_take_init(vm);
		switch (hv_nested_boundary(vm, &v)) {
		case HV_BOUNDARY_EXITED:
			return v != HV_FAIL || failed(vm, run);
		case HV_BOUNDARY_VECTOR:
			run->exit = ENGINE_EXIT_IRQ_WINDOW;
			return false;
		case HV_BOUNDARY_QUIET:
			break;
		}
		if (stays_halted(vm, run))
			return false;
		if (core->by_emulation)
			hv_choose_emulation(vm);
		if (hv_prepare_events(vm)) {
			run->exit = ENGINE_EXIT_IRQ_WINDOW;
			return false;
		}
		v = core->by_emulation ? hv_emulate_guest(vm) : run_once(vm, run);
	}
	if (v != HV_FAIL && p2m_is_broken(vm))
		v = hv_fail(vm, "contents of the guest's memory could not be had");
	if (v == HV_FAIL)
		return failed(vm, run);
	if (core->stopped) {
		core->stopped = false;
		core->stop_passed = hv_insns(vm);
		run->exit = ENGINE_EXIT_STOP;
		return false;
	}
	if (core->kicked) {
		core->kicked = false;
		run->exit = ENGINE_EXIT_INTR;
		return false;
	}
	return true;
}

void hv_run(struct hv_vm *vm, struct engine_run *run)
{
	vm->obs.hypervisor.world_switches += vm->machine->last && vm->machine->last != vm;
	vm->machine->last = vm;
	hv_make_current(vm);
	hv_core(vm)->extint = run->request_irq_window;
	hv_core(vm)->stop_armed = run->stop_at_address;
	hv_core(vm)->stop_address = run->stop_address;
	take_answer(vm, run);
	do {
		if (give_access(vm, run) || give_eoi(vm, run) || limit_reached(vm, run))
			return;
	} while (step(vm, run));
}

void hv_interrupt(struct hv_vm *vm, uint8_t vector)
{
	hv_core(vm)->extint_given = true;
	hv_core(vm)->extint_vector = vector;
}

void hv_nmi(struct hv_vm *vm) { hv_core(vm)->nmi_pending = true; }

struct cpu *hv_get_state(struct hv_vm *vm)
{
	struct work work;

	hv_make_current(vm);
	work = hv_save_work(vm);
	hv_load_state(vm);
	hv_restore_work(vm, &work);
	return vm->emul;
}

/* A debug trap that is due comes of the instruction before and is in the VMCS: that is as good as a register. */
bool hv_at_rest(struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);
	struct work work;
	bool injecting;

	hv_make_current(vm);
	work = hv_save_work(vm);
	injecting = core->inject.info || hv_read(vm, VMCS_ENTRY_INTR_INFO) & INTR_INFO_VALID;
	hv_restore_work(vm, &work);
	return !core->asking && !core->asked && !core->continuation && !injecting && !core->shutdown;
}

void hv_get_between(struct hv_vm *vm, struct engine_between *b)
{
	const struct hv_core *core = hv_core(vm);
	struct work work;

	hv_make_current(vm);
	work = hv_save_work(vm);
	b->insns = hv_insns(vm);
	b->now_ns = hv_virtual_now(vm);
	b->tsc = hv_guest_tsc(vm);
	b->db_pending = hv_pending_traps(vm);
	b->nmi_pending = core->nmi_pending;
	b->halted = core->halted;
	b->extint_given = core->extint_given;
	b->extint_vector = core->extint_given ? core->extint_vector : 0;
	hv_restore_work(vm, &work);
}

static void put_between(struct hv_vm *vm, const struct engine_between *b)
{
	struct hv_core *core = hv_core(vm);

	core->away_insns = vm->cpu->insns - b->insns;
	core->away_tsc = cpu_tsc(vm->cpu) - b->now_ns;
	vm->emulated_insns = 0;
	core->guest_tsc_base = (int64_t)(b->tsc - b->now_ns);
	core->nmi_pending = b->nmi_pending;
	core->halted = b->halted;
	core->extint_given = b->extint_given;
	core->extint_vector = b->extint_vector;
	hv_write(vm, VMCS_GUEST_PENDING_DEBUG, hv_pending_debug(b->db_pending));
	if (b->db_pending & DR6_BT)
		hv_inject_task_trap(vm, b->db_pending & (PENDING_DEBUG_B | DR6_BS | DR6_BT));
}

void hv_put_vcpu(struct hv_vm *vm, const struct engine_between *b)
{
	struct work work;

	hv_make_current(vm);
	work = hv_save_work(vm);
	hv_put_registers(vm);
	hv_repeat_requests(vm);
	hv_choose_emulation(vm);
	put_between(vm, b);
	hv_restore_work(vm, &work);
}

void hv_observe(const struct hv_vm *vm, struct obs *obs)
{
	const struct vmx_counts *door = vmx_counts(vm->cpu); /* the engine made the VM current */

	obs->exits.total = vm->obs.exits.total;
	memcpy(obs->exits.by_reason, vm->obs.exits.by_reason, sizeof(obs->exits.by_reason));
	/* Events that the emulator delivered in the processor's place. */
	obs->faults.guest += vm->emul->stats.page_faults;
	obs->cpu.exceptions += vm->emul->stats.exceptions;
	obs->cpu.interrupts += vm->emul->stats.interrupts;
	obs->pv = vm->obs.pv;
	obs->pv.requests = vm->emul->stats.requests;
	obs->pv.refused = vm->emul->stats.requests_refused;
	obs->faults.true_faults = vm->obs.faults.true_faults;
	obs->faults.hidden = vm->obs.faults.hidden;
	obs->faults.traced_writes = vm->obs.faults.traced_writes;
	obs->faults.traced_reads = vm->obs.faults.traced_reads;
	obs->faults.ept_violations = vm->obs.faults.ept_violations;
	obs->hypervisor.entries = door->entries;
	obs->hypervisor.vmreads = door->vmreads;
	obs->hypervisor.vmwrites = door->vmwrites;
	obs->hypervisor.invepts = door->invepts;
	obs->hypervisor.invvpids = door->invvpids;
	obs->hypervisor.table_reads = vm->obs.hypervisor.table_reads;
	obs->hypervisor.table_writes = vm->obs.hypervisor.table_writes;
	obs->tracking = vm->obs.tracking;
	obs->tables = vm->obs.tables;
	obs->shadow = vm->obs.shadow;
	obs->hypervisor.world_switches = vm->obs.hypervisor.world_switches;
	obs->tables.p2m_bytes = p2m_bytes(vm);
	vm->mmu->observe(vm, obs);
}

void hv_describe(struct hv_vm *vm, char *buf, size_t bytes)
{
	struct hv_core *core = hv_core(vm);
	struct work work;

	hv_make_current(vm);
	work = hv_save_work(vm);
	snprintf(buf, bytes,
		 "last VM exit: %s, qualification %llx, guest-physical %llx, linear %llx; %llu exits, %s\n",
		 vm->obs.exits.total ? hv_exit_name(core->exit_reason) : "none",
		 (unsigned long long)core->qualification,
		 (unsigned long long)hv_read(vm, VMCS_GUEST_PHYSICAL),
		 (unsigned long long)hv_read(vm, VMCS_GUEST_LINEAR), (unsigned long long)vm->obs.exits.total,
		 core->halted ? "halted" : core->shutdown ? "shut down" : "active");
	hv_restore_work(vm, &work);
}

/* ---- the list of exits ---- */

hv_exit_handler *const hv_exit_handlers[OBS_EXIT_REASONS] = {
	[EXIT_REASON_EXCEPTION_NMI] = exit_exception,
	[EXIT_REASON_EXTERNAL_INTERRUPT] = exit_external_interrupt,
	[EXIT_REASON_TRIPLE_FAULT] = exit_triple_fault,
	[EXIT_REASON_INTERRUPT_WINDOW] = exit_window,
	[EXIT_REASON_NMI_WINDOW] = exit_window,
	[EXIT_REASON_TASK_SWITCH] = exit_task_switch,
	[EXIT_REASON_CPUID] = exit_cpuid,
	[EXIT_REASON_GETSEC] = exit_undefined,
	[EXIT_REASON_HLT] = exit_hlt,
	[EXIT_REASON_INVD] = exit_invd,
	[EXIT_REASON_INVLPG] = exit_invlpg,
	[EXIT_REASON_RDPMC] = exit_emulated,
	[EXIT_REASON_VMCALL] = exit_vmx,
	[EXIT_REASON_VMCLEAR] = exit_vmx,
	[EXIT_REASON_VMLAUNCH] = exit_vmx,
	[EXIT_REASON_VMPTRLD] = exit_vmx,
	[EXIT_REASON_VMPTRST] = exit_vmx,
	[EXIT_REASON_VMREAD] = exit_vmx,
	[EXIT_REASON_VMRESUME] = exit_vmx,
	[EXIT_REASON_VMWRITE] = exit_vmx,
	[EXIT_REASON_VMXOFF] = exit_vmx,
	[EXIT_REASON_VMXON] = exit_vmx,
	[EXIT_REASON_CR_ACCESS] = exit_cr,
	[EXIT_REASON_IO] = exit_io,
	[EXIT_REASON_RDMSR] = exit_rdmsr,
	[EXIT_REASON_WRMSR] = exit_wrmsr,
	[EXIT_REASON_EPT_VIOLATION] = exit_ept_violation,
	[EXIT_REASON_EPT_MISCONFIG] = exit_ept_misconfig,
	[EXIT_REASON_INVEPT] = exit_vmx,
	[EXIT_REASON_PREEMPTION_TIMER] = exit_preemption_timer,
	[EXIT_REASON_INVVPID] = exit_vmx,
	[EXIT_REASON_WBINVD] = exit_invd,
	[EXIT_REASON_XSETBV] = exit_emulated,
	[EXIT_REASON_INVPCID] = exit_invpcid,
	[EXIT_REASON_VMFUNC] = exit_vmx,
	[EXIT_REASON_PML_FULL] = exit_pml_full,
};

const char *hv_exit_name(uint32_t reason)
{
	switch (reason & 0xffff) {
#define X(sym, number, name) \
	case number:         \
		return name;
		VMX_EXIT_REASONS(X)
#undef X
	}
	return "unknown";
}
