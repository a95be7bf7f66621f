/*
 * Exits of instructions that concern the processor as a whole: CPUID, HLT, cache
 * and TLB invalidation, what is undefined without VMX, what is best emulated.
 */
#include "hv/core.h"
#include "hv/nested.h"

#include "cpu/cpuid.h"

/* The guest sees the processor that runs it on the bare machine: same configuration, same answers. */
enum hv_verdict exit_cpuid(struct hv_vm *vm)
{
	uint64_t *gpr = vmx_gprs(vm->cpu);
	uint32_t out[4];

	hv_sync_guest(vm);
	cpu_cpuid(&vm->cfg.cpu, vm->guest.cr4, *vmx_xcr0(vm->cpu), vm->emul->lapic.id,
		  vm->emul->lapic.base & APIC_BASE_EN, (uint32_t)gpr[RAX], (uint32_t)gpr[RCX], out);
	gpr[RAX] = out[0];
	gpr[RBX] = out[1];
	gpr[RCX] = out[2];
	gpr[RDX] = out[3];
	hv_skip_insn(vm);
	return HV_RESUME;
}

/* A debug trap that is due after HLT ends it at once. */
enum hv_verdict exit_hlt(struct hv_vm *vm)
{
	hv_skip_insn(vm);
	hv_core(vm)->halted = !hv_debug_trap_due(vm);
	return HV_RESUME;
}

/* INVD, WBINVD: caches are not modelled. */
enum hv_verdict exit_invd(struct hv_vm *vm)
{
	hv_skip_insn(vm);
	return HV_RESUME;
}

/* VMX instructions are executed by the emulator's processor, whose VMX is the guest's. */
enum hv_verdict exit_vmx(struct hv_vm *vm)
{
	if (!vm->nested)
		return exit_undefined(vm);
	vm->nested->count.l1_vmx++;
	return HV_EMULATE;
}

/* SMX instructions, and those of VMX that the guest's processor has not. */
enum hv_verdict exit_undefined(struct hv_vm *vm)
{
	hv_inject_ud(vm);
	return HV_RESUME;
}

/* Rare, and the emulator knows every check: XSETBV, RDPMC. */
enum hv_verdict exit_emulated(struct hv_vm *vm)
{
	(void)vm;
	return HV_EMULATE;
}

enum hv_verdict exit_invlpg(struct hv_vm *vm)
{
	hv_sync_guest(vm);
	vm->mmu->invlpg(vm, hv_core(vm)->qualification);
	hv_skip_insn(vm);
	return HV_RESUME;
}

/* ---- INVPCID ---- */

static uint64_t guest_gpr(struct hv_vm *vm, unsigned n)
{
	return n == RSP ? hv_read(vm, VMCS_GUEST_RSP) : vmx_gprs(vm->cpu)[n];
}

/* Linear address of the memory operand that VM-exit instruction information describes. */
static uint64_t operand_address(struct hv_vm *vm, uint32_t info)
{
	static const enum vmcs_field base_of[8] = {
		VMCS_GUEST_ES_BASE, VMCS_GUEST_CS_BASE, VMCS_GUEST_SS_BASE, VMCS_GUEST_DS_BASE,
		VMCS_GUEST_FS_BASE, VMCS_GUEST_GS_BASE, VMCS_GUEST_DS_BASE, VMCS_GUEST_DS_BASE};
	unsigned size = info >> INSN_INFO_ADDR_SHIFT & 7, seg = info >> INSN_INFO_SEG_SHIFT & 7;
	bool code64 = hv_core(vm)->entry_ctl & ENTRY_IA32E && hv_read(vm, VMCS_GUEST_CS_AR) & SEG_AR_L;
	uint64_t a = hv_core(vm)->qualification;

	if (!(info & INSN_INFO_BASE_INVALID))
		a += guest_gpr(vm, info >> INSN_INFO_BASE_SHIFT & 15);
	if (!(info & INSN_INFO_INDEX_INVALID))
		a += guest_gpr(vm, info >> INSN_INFO_INDEX_SHIFT & 15) << (info & 3);
	a = size == 0 ? (uint16_t)a : size == 1 ? (uint32_t)a : a;
	if (!code64 || seg >= SEG_FS)
		a += hv_read(vm, base_of[seg]);
	return code64 ? a : (uint32_t)a;
}

/*
 * Emulated for its checks and faults; the emulator has no TLB, so what it was to
 * invalidate is passed to the backend once it is complete.
 */
enum hv_verdict exit_invpcid(struct hv_vm *vm)
{
	static const enum hv_flush kind[4] = {
		[1] = HV_FLUSH_PCID, [2] = HV_FLUSH_ALL, [3] = HV_FLUSH_NONGLOBAL};
	struct hv_core *core = hv_core(vm);
	uint32_t info = (uint32_t)hv_read(vm, VMCS_EXIT_INSN_INFO);
	uint64_t type = guest_gpr(vm, info >> INSN_INFO_REG2_SHIFT), lin = operand_address(vm, info), d[2];
	enum hv_verdict v;

	hv_sync_guest(vm);
	v = hv_emulate(vm, 1);
	if (!core->completed || !hv_read_linear(vm, lin, d, sizeof(d)))
		return v;
	if (type == 0 && (uint16_t)(d[0] & CR3_PCID_MASK) == (vm->guest.cr3 & CR3_PCID_MASK))
		vm->mmu->invlpg(vm, d[1]);
	else if (type == 0)
		vm->mmu->flush(vm, HV_FLUSH_PCID, (uint16_t)(d[0] & CR3_PCID_MASK));
	else if (type <= 3)
		vm->mmu->flush(vm, kind[type], (uint16_t)(d[0] & CR3_PCID_MASK));
	return v;
}
