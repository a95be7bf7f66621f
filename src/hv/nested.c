/*
 * VMX for a guest that is a hypervisor: VMCS02, which the machine's processor executes L2 by, and the way from L1 to L2
 * and back. Who comes here has L1's processor - the emulator's - already where it is going: in non-root operation with
 * L2's registers, or in root operation with L1's.
 *
 * What VMCS02 holds: of guest state L2's; of host state L0's; of controls what either wants that intercepts, what both want
 * that permits (docs/nested-vmx.md has the table).
 *
 * Source: SDM volume 3, "VM Entries", "VM-Execution Control Fields".
 */
#include "hv/core.h"
#include "hv/nested.h"

#include "cpu/vmx_vmcs.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Controls of L1's that intercept an instruction of L2: the processor has them intercept, too. */
#define PROC_INTERCEPTS                                                                                                   \
	(PROC_HLT | PROC_INVLPG | PROC_MWAIT | PROC_RDPMC | PROC_RDTSC | PROC_CR3_LOAD | PROC_CR3_STORE | PROC_CR8_LOAD | \
	 PROC_CR8_STORE | PROC_MOV_DR | PROC_MTF | PROC_MONITOR | PROC_PAUSE)
#define PROC2_INTERCEPTS (PROC2_DESCRIPTOR_TABLE | PROC2_WBINVD | PROC2_RDRAND | PROC2_RDSEED)
/* Without these an instruction is undefined. */
#define PROC2_PERMITS (PROC2_RDTSCP | PROC2_INVPCID)
#define PROC_WINDOWS  (PROC_INTERRUPT_WINDOW | PROC_NMI_WINDOW)

/* ---- what L1 is told that there is ---- */

/*
 * All that the processor has, but for what needs more of L0 than is here: what the processor does by itself in memory of
 * L1's without an exit, and EPT where L0 has none.
 */
static struct vmx_limits limits_of(bool ept)
{
	struct vmx_limits l = {.pin = ~0u, .proc = ~0u, .proc2 = ~0u, .exit = ~0u, .entry = ~0u,
			       .ept_vpid = ~0ull, .misc = ~0ull};

	l.pin = PIN_DEFAULT1 | PIN_EXTERNAL_INTERRUPT | PIN_NMI | PIN_VIRTUAL_NMI | PIN_PREEMPTION_TIMER;
	l.proc = PROC_DEFAULT1_OLD | PROC_INTERCEPTS | PROC_WINDOWS | PROC_TSC_OFFSETTING | PROC_UNCOND_IO | PROC_IO_BITMAPS |
		 PROC_MSR_BITMAPS | PROC_SECONDARY;
	l.proc2 = PROC2_INTERCEPTS | PROC2_PERMITS | PROC2_VPID;
	if (ept)
		l.proc2 |= PROC2_EPT | PROC2_UNRESTRICTED | PROC2_PML;
	else
		l.ept_vpid = ~0ull << 32;
	return l;
}

/* ---- VMCS01 and VMCS02 ---- */

static void swap_state(struct hv_core *core, struct nested_vmcs *other)
{
	struct nested_vmcs now = {core->launched, core->sync_cr3, core->sync_efer, core->proc, core->entry_ctl,
				  core->tsc_offset};

	core->launched = other->launched;
	core->sync_cr3 = other->sync_cr3;
	core->sync_efer = other->sync_efer;
	core->proc = other->proc;
	core->entry_ctl = other->entry_ctl;
	core->tsc_offset = other->tsc_offset;
	*other = now;
}

hpa_t hv_current_vmcs(const struct hv_vm *vm) { return hv_nested_inside(vm) ? vm->nested->vmcs : vm->vmcs; }

static void load_vmcs(struct hv_vm *vm, bool inside)
{
	enum vmx_result r;

	vm->nested->inside = inside;
	swap_state(hv_core(vm), &vm->nested->other);
	r = vmx_vmptrld(vm->cpu, hv_current_vmcs(vm));
	assert(r == VMX_SUCCEED);
	(void)r;
}

/* Controls and host state of VMCS01: most of them are VMCS02's, too, and stay. */
static const struct { enum vmcs_field field; } copied[] = {
#define X(sym, encoding, writable) {VMCS_##sym},
	VMCS_FIELDS(X)
#undef X
};

/* False: it is not copied, or the processor has no such field. */
static bool read_copied(struct hv_vm *vm, enum vmcs_field f, uint64_t *v)
{
	unsigned type = vmcs_field_type(f);

	return (type == VMCS_TYPE_CONTROL || type == VMCS_TYPE_HOST) && f != VMCS_ENTRY_INTR_INFO &&
	       vmx_vmread(vm->cpu, f, v) == VMX_SUCCEED;
}

static void make_vmcs(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;
	uint64_t v[ARRAY_SIZE(copied)] = {0};
	bool has[ARRAY_SIZE(copied)], done;

	for (unsigned i = 0; i < ARRAY_SIZE(copied); i++)
		has[i] = read_copied(vm, copied[i].field, &v[i]);
	put_u32(machmem_ptr(vm->mem, n->vmcs), VMCS_REVISION);
	done = vmx_vmclear(vm->cpu, n->vmcs) == VMX_SUCCEED;
	assert(done);
	(void)done;
	n->other = (struct nested_vmcs){.entry_ctl = hv_core(vm)->entry_ctl};
	load_vmcs(vm, true);
	for (unsigned i = 0; i < ARRAY_SIZE(copied); i++)
		if (has[i])
			hv_write(vm, copied[i].field, v[i]);
	hv_write(vm, VMCS_MSR_BITMAP, n->msr_bitmap.v);
	hv_write(vm, VMCS_GUEST_VMCS_LINK, ~0ull);
	hv_write(vm, VMCS_GUEST_PML_INDEX, PML_ENTRIES - 1);
	load_vmcs(vm, false);
	n->made = true;
}

/* ---- merging ---- */

/* What L0 wants, as VMCS01 says it. */
static void note_l0(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;

	n->l0.proc = hv_core(vm)->proc & ~(uint32_t)PROC_WINDOWS;
	n->l0.pin = hv_read(vm, VMCS_PIN_CTL);
	n->l0.proc2 = (uint32_t)hv_read(vm, VMCS_PROC_CTL2);
	n->l0.exceptions = (uint32_t)hv_read(vm, VMCS_EXCEPTION_BITMAP);
	n->l0.cr4_mask = hv_read(vm, VMCS_CR4_MASK);
	n->l0.eptp = n->ept ? hv_read(vm, VMCS_EPTP) : 0;
	n->l0.pml = hv_read(vm, VMCS_PML_ADDRESS);
}

/* A page of L1's bitmaps; NULL: no RAM there, so all ones. */
static const uint8_t *l1_page(struct hv_vm *vm, uint64_t a) { return p2m_ptr(vm, a & PAGE_MASK); }

static void merge_msr_bitmap(struct hv_vm *vm)
{
	const struct vmx_state *x = &vm->emul->vmx;
	const uint8_t *l0 = machmem_ptr(vm->mem, hv_core(vm)->msr_bitmap);
	const uint8_t *l1 = x->proc & PROC_MSR_BITMAPS ? l1_page(vm, x->msr_bitmap) : NULL;
	uint8_t *to = machmem_ptr(vm->mem, vm->nested->msr_bitmap);

	hv_count_writes(vm, HV_TABLE_LINES);
	for (unsigned i = 0; i < PAGE_SIZE; i += 8)
		put_u64(to + i, l1 ? get_u64(l0 + i) | get_u64(l1 + i) : ~0ull);
}

static void merge_exceptions(struct hv_vm *vm)
{
	const struct vmx_state *x = &vm->emul->vmx;
	uint32_t l0 = vm->nested->l0.exceptions;
	bool all_page_faults = l0 >> EXC_PF & 1; /* L0's mask and match are 0 */

	hv_write(vm, VMCS_EXCEPTION_BITMAP,
		 all_page_faults ? l0 | x->exception_bitmap | 1u << EXC_PF : l0 | x->exception_bitmap);
	hv_write(vm, VMCS_PF_ERROR_MASK, all_page_faults ? 0 : x->pf_mask);
	hv_write(vm, VMCS_PF_ERROR_MATCH, all_page_faults ? 0 : x->pf_match);
}

static void merge_masks(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;
	const struct vmx_state *x = &vm->emul->vmx;
	uint64_t fixed = x->proc2 & PROC2_UNRESTRICTED ? 0 : CR0_PE | CR0_PG;

	hv_write(vm, VMCS_CR0_MASK, n->l0.cr0_mask | x->cr0_mask | fixed);
	hv_write(vm, VMCS_CR4_MASK, n->l0.cr4_mask | x->cr4_mask);
}

/* The EPT that L2 runs on; on L1's own what L2 writes is logged as L1's writes are. */
static void merge_ept(struct hv_vm *vm, uint32_t *proc2)
{
	struct hv_nested *n = vm->nested;

	if (!n->ept)
		return;
	hv_write(vm, VMCS_EPTP, n->now ? nested_eptp(n->now) : n->l0.eptp);
	hv_write(vm, VMCS_PML_ADDRESS, n->l0.pml);
	if (n->now)
		*proc2 &= ~PROC2_PML;
	if (vm->vpid)
		hv_write(vm, VMCS_VPID, nested_vpid(vm, n->vpid_now));
}

void nested_write_controls(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;
	struct hv_core *core = hv_core(vm);
	const struct vmx_state *x = &vm->emul->vmx;
	uint64_t pin = n->l0.pin;
	uint32_t proc2 = (n->l0.proc2 & ~PROC2_PERMITS) | (n->l0.proc2 & x->proc2 & PROC2_PERMITS) |
			 (x->proc2 & PROC2_INTERCEPTS);

	core->proc = n->l0.proc;
	if (n->ept) /* L2's page tables are not L0's business */
		core->proc &= ~(uint32_t)(PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG);
	core->proc |= x->proc & (PROC_INTERCEPTS | PROC_WINDOWS);
	/* With NMI exiting alone IRET does not end blocking by NMI. L0 has no use for windows then: NMIs are L1's. */
	if ((x->pin & (PIN_NMI | PIN_VIRTUAL_NMI)) == PIN_NMI)
		pin &= ~(uint64_t)PIN_VIRTUAL_NMI;
	core->sync_cr3 = n->ept;
	core->sync_efer = n->l0.proc2 & PROC2_UNRESTRICTED;
	merge_ept(vm, &proc2);
	hv_write(vm, VMCS_PIN_CTL, pin);
	hv_write(vm, VMCS_PROC_CTL, core->proc);
	hv_write(vm, VMCS_PROC_CTL2, proc2);
	merge_exceptions(vm);
	merge_masks(vm);
	merge_msr_bitmap(vm);
}

uint32_t hv_nested_windows(const struct hv_vm *vm)
{
	return hv_nested_inside(vm) ? vm->emul->vmx.proc & PROC_WINDOWS : 0;
}

uint64_t hv_nested_tsc_offset(const struct hv_vm *vm) { return hv_nested_inside(vm) ? vm->emul->vmx.tsc_offset : 0; }

bool hv_nested_takes_nmis(const struct hv_vm *vm) { return hv_nested_inside(vm) && vm->emul->vmx.pin & PIN_NMI; }

uint64_t hv_nested_deadline(const struct hv_vm *vm)
{
	const struct vmx_state *x = &vm->emul->vmx;

	return hv_nested_inside(vm) && x->pin & PIN_PREEMPTION_TIMER ? x->preemption_deadline : UINT64_MAX;
}

/* ---- from level to level ---- */

/* Nothing of what VMCS was left with is pending any more. */
static void begin(struct hv_vm *vm)
{
	hv_write(vm, VMCS_GUEST_PENDING_DEBUG, 0);
	hv_write(vm, VMCS_GUEST_ACTIVITY, ACTIVITY_ACTIVE);
	hv_write(vm, VMCS_ENTRY_INTR_INFO, 0);
}

static int enter_l2(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;
	int r;

	if (!n->made)
		make_vmcs(vm);
	note_l0(vm);
	n->walk = *vmx_walk(vm->cpu);
	vmx_set_walk(vm->cpu, &(struct vmx_walk){.stages = 0});
	load_vmcs(vm, true);
	begin(vm);
	r = nested_mmu_enter(vm);
	nested_write_controls(vm);
	n->count.entries++;
	return r;
}

static void enter_l1(struct hv_vm *vm)
{
	nested_mmu_leave(vm);
	load_vmcs(vm, false);
	vmx_set_walk(vm->cpu, &vm->nested->walk);
	begin(vm);
}

/* VMFUNC of L2's: another EPT of L1's is in force. */
static int change_ept(struct hv_vm *vm)
{
	const struct nested_ept *before = vm->nested->now;
	int r = nested_mmu_choose(vm);

	if (!r && vm->nested->now != before)
		hv_write(vm, VMCS_EPTP, nested_eptp(vm->nested->now));
	return r;
}

bool hv_nested_follow(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;
	bool nonroot = vm->emul->vmx.nonroot, was = n && n->inside;
	uint32_t reason = hv_core(vm)->exit_reason;
	int r = 0;

	if (!n)
		return false;
	n->crossing = nonroot != was || (!nonroot && (reason == EXIT_REASON_VMLAUNCH || reason == EXIT_REASON_VMRESUME));
	hv_core(vm)->paging_changed |= n->crossing;
	if (nonroot && !was)
		r = enter_l2(vm);
	else if (!nonroot && was)
		enter_l1(vm);
	else if (nonroot && n->now)
		r = change_ept(vm);
	if (r)
		n->no_memory = true;
	return n->crossing || nonroot;
}

void hv_nested_followed(struct hv_vm *vm)
{
	if (vm->nested)
		vm->nested->crossing = false;
}

bool hv_nested_outside(struct hv_vm *vm)
{
	bool inside = hv_nested_inside(vm);

	if (inside) {
		load_vmcs(vm, false);
		vmx_set_walk(vm->cpu, &vm->nested->walk);
	}
	return inside;
}

void hv_nested_inside_again(struct hv_vm *vm, bool inside)
{
	struct hv_nested *n = vm->nested;

	if (!inside)
		return;
	note_l0(vm);
	n->walk = *vmx_walk(vm->cpu);
	vmx_set_walk(vm->cpu, &(struct vmx_walk){.stages = 0});
	load_vmcs(vm, true);
	nested_write_controls(vm);
}

void hv_nested_moved(struct hv_vm *vm)
{
	if (vm->nested)
		nested_mmu_drop(vm);
}

/* ---- making it ---- */

int hv_nested_create(struct hv_vm *vm, struct error *err)
{
	struct hv_nested *n;

	if (!vm->cfg.cpu.feature[CPUF_VMX])
		return 0;
	if (vm->cfg.mmu == ENGINE_AGILE)
		return error_set(err, -EINVAL, "a guest under agile paging cannot be a hypervisor (processor feature vmx)");
	n = calloc(1, sizeof(*n));
	if (!n)
		return error_set(err, -ENOMEM, "nested virtualization: out of memory");
	vm->nested = n;
	n->ept = engine_mmu_nests(vm->cfg.mmu);
	n->limits = limits_of(n->ept);
	vm->emul->vmx_limits = &n->limits;
	nested_mmu_init(vm);
	if (hv_alloc_frame(vm->machine, &n->vmcs) || hv_alloc_frame(vm->machine, &n->msr_bitmap))
		return error_set(err, -ENOMEM, "nested virtualization: no machine memory for a VMCS");
	return 0;
}

void hv_nested_destroy(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;

	if (!n)
		return;
	nested_mmu_destroy(vm);
	if (n->made)
		vmx_vmclear(vm->cpu, n->vmcs);
	free(n);
	vm->nested = NULL;
}
