/*
 * What shadow paging and brute force have in common: the formats of guest and
 * hardware tables, the registers a guest without EPT runs with, and the kinds of
 * page fault. See hwpt.h.
 */
#include "hv/hwpt.h"
#include "hv/core.h"

#include <assert.h>
#include <errno.h>

enum hwpt_format hwpt_format(const struct hv_guest_regs *g)
{
	if (!(g->cr0 & CR0_PG))
		return HWPT_NONE;
	if (g->efer & EFER_LMA)
		return g->cr4 & CR4_LA57 ? HWPT_5 : HWPT_4;
	return g->cr4 & CR4_PAE ? HWPT_PAE : HWPT_32;
}

struct hwpt_rules hwpt_rules(const struct hv_guest_regs *g)
{
	enum hwpt_format f = hwpt_format(g);

	return (struct hwpt_rules){
		.format = f,
		.nxe = f >= HWPT_PAE && g->efer & EFER_NXE,
		.pse = f == HWPT_32 && g->cr4 & CR4_PSE,
	};
}

bool hwpt_entries_of(enum hwpt_format f, unsigned level, unsigned quadrant, unsigned offset, unsigned bytes,
		     unsigned *first, unsigned *last)
{
	unsigned width = hwpt_entry_bytes(f), from = offset / width, to = (offset + bytes - 1) / width;
	unsigned mirrored = f == HWPT_32 && level == 2 ? HWPT_ENTRIES / 2 : HWPT_ENTRIES;
	unsigned begin = quadrant * mirrored, end = begin + mirrored - 1, each = HWPT_ENTRIES / mirrored;

	if (to < begin || from > end)
		return false;
	*first = ((from < begin ? begin : from) - begin) * each;
	*last = ((to > end ? end : to) - begin) * each + each - 1;
	return true;
}

const void *hwpt_guest_table(struct hv_vm *vm, gfn_t table) { return p2m_contents(vm, table); }

uint64_t hwpt_guest_entry(struct hv_vm *vm, gfn_t table, enum hwpt_format f, unsigned index)
{
	const void *page = hwpt_guest_table(vm, table);

	hv_count_reads(vm, 1);
	return page ? hwpt_entry_in(page, f, index) : 0;
}

/* Bits that are reserved in an entry of any level. */
static uint64_t reserved_bits(const struct hv_vm *vm, struct hwpt_rules r)
{
	uint64_t bad = PTE_ADDR_MASK & (~0ull << vm->cfg.cpu.maxphyaddr);

	if (r.format == HWPT_32)
		return 0;
	if (r.format == HWPT_PAE)
		bad |= 0x7ff0000000000000ull;
	return r.nxe ? bad : bad | PTE_NX;
}

bool hwpt_page_entry(const struct hv_vm *vm, struct hwpt_rules r, uint64_t e)
{
	return (e & (PTE_P | PTE_A)) == (PTE_P | PTE_A) && !(e & reserved_bits(vm, r));
}

bool hwpt_table_entry(const struct hv_vm *vm, struct hwpt_rules r, unsigned level, uint64_t e, gfn_t *table)
{
	bool large = e & PTE_PS && (r.format != HWPT_32 || r.pse);

	if (!(e & PTE_P) || large || e & reserved_bits(vm, r) || level < 2)
		return false;
	*table = gfn((e & PTE_ADDR_MASK) >> PAGE_SHIFT);
	return p2m_is_ram(vm, table->v << PAGE_SHIFT);
}

int hwpt_alloc_frame(struct hv_vm *vm, mfn_t *frame)
{
	int r = machmem_alloc(vm->mem, 0, OWNER_HYPERVISOR, frame);

	hv_count_writes(vm, r ? 0 : HV_TABLE_LINES);
	return r;
}

void hwpt_free_frame(struct hv_vm *vm, mfn_t frame)
{
	if (frame.v != HWPT_NO_FRAME.v)
		machmem_free(vm->mem, frame, 1);
}

int hwpt_alloc_top(struct hv_vm *vm, mfn_t *frame, struct error *err)
{
	if (hwpt_alloc_frame(vm, frame))
		return error_set(err, -ENOMEM, "hypervisor: no machine frame left for page tables");
	if (frame->v >> (32 - PAGE_SHIFT) == 0)
		return 0;
	hwpt_free_frame(vm, *frame);
	*frame = HWPT_NO_FRAME;
	return error_set(err, -ENOMEM, "hypervisor: no machine frame left below 4 GiB");
}

void hwpt_set_top(struct hv_vm *vm, mfn_t top, unsigned i, const mfn_t *table)
{
	uint64_t e = table ? table->v << PAGE_SHIFT | PTE_P : 0;

	put_u64((uint8_t *)machmem_ptr(vm->mem, mfn_to_hpa(top)) + 8 * i, e);
	hv_count_writes(vm, 1);
}

void hwpt_setup_vmcs(struct hv_vm *vm)
{
	uint64_t proc = hv_read(vm, VMCS_PROC_CTL), proc2 = hv_read(vm, VMCS_PROC_CTL2);

	hv_write(vm, VMCS_PROC_CTL, proc | PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG);
	/* With INVLPG exiting, INVPCID exits too; without its control bit it would be undefined. */
	if (vm->cfg.cpu.feature[CPUF_INVPCID])
		proc2 |= PROC2_INVPCID;
	hv_write(vm, VMCS_PROC_CTL2, proc2 & ~(uint64_t)(PROC2_EPT | PROC2_UNRESTRICTED));
	hv_write(vm, VMCS_EXCEPTION_BITMAP, hv_read(vm, VMCS_EXCEPTION_BITMAP) | 1u << EXC_PF);
	hv_write(vm, VMCS_PF_ERROR_MASK, 0);
	hv_write(vm, VMCS_PF_ERROR_MATCH, 0);
	hv_write(vm, VMCS_CR3_TARGET_COUNT, 0);
	hv_write(vm, VMCS_CR0_MASK, ~0ull);
	hv_write(vm, VMCS_CR4_MASK, ~0ull);
	/* Somebody else may have had the VPID. */
	hwpt_flush_all(vm);
}

bool hwpt_uses_pcid(const struct hv_guest_regs *g)
{
	return hwpt_is_long(hwpt_format(g)) && g->cr4 & CR4_PCIDE;
}

void hwpt_write_cr3(struct hv_vm *vm, mfn_t root)
{
	uint64_t pcid = hwpt_uses_pcid(&vm->guest) ? vm->guest.cr3 & CR3_PCID_MASK : 0;

	hv_write(vm, VMCS_GUEST_CR3, root.v << PAGE_SHIFT | pcid);
}

void hwpt_write_regs(struct hv_vm *vm, mfn_t root)
{
	const struct hv_guest_regs *g = &vm->guest;
	enum hwpt_format f = hwpt_format(g);
	uint64_t cr4 = g->cr4 | CR4_PAE | CR4_VMXE, efer = g->efer & ~(EFER_LME | EFER_LMA);
	uint64_t entry = hv_read(vm, VMCS_ENTRY_CTL) & ~(uint64_t)ENTRY_IA32E;

	/* Paging is always on, and supervisor writes always respect read-only entries. */
	hv_write(vm, VMCS_GUEST_CR0, g->cr0 | CR0_PE | CR0_PG | CR0_WP | CR0_NE);
	hv_write(vm, VMCS_CR0_SHADOW, g->cr0);
	if (!hwpt_is_long(f))
		cr4 &= ~(CR4_PCIDE | CR4_LA57);
	if (f == HWPT_NONE)
		cr4 &= ~(CR4_SMEP | CR4_SMAP);
	hv_write(vm, VMCS_GUEST_CR4, cr4);
	hv_write(vm, VMCS_CR4_SHADOW, g->cr4);
	if (hwpt_is_long(f)) {
		efer |= EFER_LME | EFER_LMA;
		entry |= ENTRY_IA32E;
	}
	/* With NXE page faults tell fetches from reads; tables made without it have no NX bits. */
	if (vm->cfg.cpu.feature[CPUF_NX])
		efer |= EFER_NXE;
	hv_write(vm, VMCS_GUEST_EFER, efer);
	hv_write(vm, VMCS_ENTRY_CTL, entry);
	hwpt_write_cr3(vm, root);
}

/*
 * Was it an instruction fetch? The error code tells with EFER.NXE, which the guest
 * always runs with. Without NX in the processor: if it is where the instruction is.
 */
static bool is_fetch(struct hv_vm *vm, uint64_t lin, uint32_t error)
{
	if (vm->cfg.cpu.feature[CPUF_NX] || error & PF_I)
		return error & PF_I;
	return lin - (hv_read(vm, VMCS_GUEST_CS_BASE) + hv_read(vm, VMCS_GUEST_RIP)) < 15;
}

struct hwpt_access hwpt_access(struct hv_vm *vm, uint64_t lin, uint32_t error)
{
	struct hwpt_access a = {ACCESS_READ, MODE_USER};

	if (error & PF_W)
		a.kind = ACCESS_WRITE;
	else if (is_fetch(vm, lin, error))
		a.kind = ACCESS_FETCH;
	if (!(error & PF_U)) {
		a.mode = hv_access_mode(vm);
		/* A supervisor access while CPL is 3 is one to a system structure. */
		if (a.mode == MODE_USER)
			a.mode = MODE_IMPLICIT;
	}
	return a;
}

bool hwpt_is_ambiguous(struct hv_vm *vm, uint64_t lin, struct hwpt_access a)
{
	static const struct { enum vmcs_field base, limit; } structure[] = {
		{VMCS_GUEST_GDTR_BASE, VMCS_GUEST_GDTR_LIMIT}, {VMCS_GUEST_IDTR_BASE, VMCS_GUEST_IDTR_LIMIT},
		{VMCS_GUEST_LDTR_BASE, VMCS_GUEST_LDTR_LIMIT}, {VMCS_GUEST_TR_BASE, VMCS_GUEST_TR_LIMIT},
	};

	if (a.mode != MODE_SUPER_AC || !(vm->guest.cr4 & CR4_SMAP))
		return false;
	/* While an event is being delivered, the stack is written too. */
	if (hv_core(vm)->vectoring.info)
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(structure); i++)
		if (lin - hv_read(vm, structure[i].base) <= hv_read(vm, structure[i].limit))
			return true;
	return false;
}

enum hv_verdict hwpt_true_fault(struct hv_vm *vm, uint64_t lin, uint32_t error)
{
	vm->obs.faults.true_faults++;
	vm->fault.address = lin;
	vm->fault.error = error;
	return HV_REFLECT;
}

enum hv_verdict hwpt_unexplained(struct hv_vm *vm, struct hwpt_unexplained *u, uint64_t lin,
				 struct hwpt_access a)
{
	if (a.kind == ACCESS_WRITE && a.mode != MODE_USER && !(vm->guest.cr0 & CR0_WP))
		return HV_EMULATE;
	u->count = u->lin == lin ? u->count + 1 : 0;
	u->lin = lin;
	if (u->count > HWPT_UNEXPLAINED_MAX)
		return hv_fail(vm, "the guest's access to %#llx keeps faulting though it is mapped",
			       (unsigned long long)lin);
	hwpt_flush_address(vm, hwpt_canonical(hwpt_format(&vm->guest), lin));
	return HV_RESUME;
}

uint64_t hwpt_table_limit(const struct hv_vm *vm)
{
	uint64_t frames = vm->cfg.shadow_memory >> PAGE_SHIFT;

	if (!vm->cfg.shadow_memory)
		frames = max_u64((vm->cfg.memory >> PAGE_SHIFT) / 100, HWPT_TABLES_MIN_DEFAULT);
	return max_u64(frames, HWPT_TABLES_MIN);
}

/* INVVPID types: individual address, single context, single context retaining globals. */
enum { INVALIDATE_ADDRESS = 0, INVALIDATE_ALL = 1, INVALIDATE_NONGLOBAL = 3 };

static bool invalidate(struct hv_vm *vm, uint64_t type, uint64_t lin)
{
	return !vm->vpid || vmx_invvpid(vm->cpu, type, vm->vpid, gva(lin)) == VMX_SUCCEED;
}

void hwpt_flush_all(struct hv_vm *vm)
{
	bool done = invalidate(vm, INVALIDATE_ALL, 0);

	assert(done);
	(void)done;
}

void hwpt_flush_address(struct hv_vm *vm, uint64_t lin)
{
	/* The operand must be canonical for the hypervisor, and the guest's addresses may be wider. */
	if (!invalidate(vm, INVALIDATE_ADDRESS, lin))
		hwpt_flush_all(vm);
}

void hwpt_flush_nonglobal(struct hv_vm *vm)
{
	bool done = invalidate(vm, INVALIDATE_NONGLOBAL, 0);

	assert(done);
	(void)done;
}
