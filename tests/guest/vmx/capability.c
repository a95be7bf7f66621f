/*
 * "VMX Capability Reporting Facility": the MSRs exist, are read-only, and agree with one another.
 */
#include "vmx.h"

PIECE(c_rdmsr, "mov %edi, %ecx; rdmsr; shl $32, %rdx; or %rdx, %rax");
PIECE(c_wrmsr, "mov %edi, %ecx; mov %esi, %eax; xor %edx, %edx; wrmsr");

static bool msr_exists(u32 msr) { return run_code(c_rdmsr, KERNEL, msr, 0)->vector == V_DONE; }

static u64 need(const char *name, u32 msr)
{
	const struct trap *t = run_code(c_rdmsr, KERNEL, msr, 0);

	check(t->vector == V_DONE, "%s: RDMSR of 0x%x: vector %ld", name, msr, t->vector);
	return t->vector == V_DONE ? t->rax : 0;
}

static void read_only(void)
{
	for (u32 msr = VMX_BASIC; msr <= VMX_VMFUNC; msr++) {
		if (!msr_exists(msr))
			continue;
		check(run_code(c_wrmsr, KERNEL, msr, (u32)rdmsr(msr))->vector == V_GP, "WRMSR of 0x%x is refused", msr);
		check(run_code(c_rdmsr, USER, msr, 0)->vector == V_GP, "RDMSR of 0x%x in user mode is refused", msr);
	}
}

/* One group of controls: the old MSR and the one that tells which of the default1 bits may be 0. */
static struct allowed controls(const char *name, u32 msr, u32 true_msr, u32 default1, u32 flexible)
{
	u64 old = need(name, msr), new = cap.basic >> 55 & 1 ? need(name, true_msr) : old;
	struct allowed a = { (u32)new, (u32)(new >> 32) };

	check((u32)old == default1, "%s: bits that must be 1: 0x%x, expected the default1 class 0x%x", name, (u32)old,
	      default1);
	check(!((u32)old & ~(u32)(old >> 32)), "%s: 0x%lx demands what it forbids", name, old);
	check(old >> 32 == new >> 32, "%s: the two MSRs allow different bits: 0x%lx, 0x%lx", name, old, new);
	check(!(a.must & ~default1) && (a.must | flexible) == (default1 | flexible),
	      "%s: bits that must be 1: 0x%x of default1 0x%x", name, a.must, default1);
	return a;
}

static void dependencies(void)
{
	check(!can_pin(PIN_VNMI) || can_pin(PIN_NMI), "virtual NMIs need NMI exiting");
	check(!can_proc(PROC_NMIWIN) || can_pin(PIN_VNMI), "NMI-window exiting needs virtual NMIs");
	check(can_pin(PIN_TIMER) == can_exit(X_SAVE_TIMER), "the preemption timer and saving it come together");
	check(can_exit(X_HOST64) && can_entry(N_IA32E), "64-bit hosts and guests");
	check(can_exit(X_LOAD_EFER) == can_entry(N_LOAD_EFER), "loading EFER, both ways");
	check(can_exit(X_LOAD_PAT) == can_entry(N_LOAD_PAT), "loading PAT, both ways");
	check(!can_proc2(P2_UNRESTRICTED) || can_proc2(P2_EPT), "unrestricted guest needs EPT");
	check(!can_proc2(P2_PML) || can_ept(CAP_AD), "PML needs EPT with accessed and dirty flags");
	check(!can_proc2(P2_UNRESTRICTED) || cap.misc & MISC_STORE_LMA, "unrestricted guest: exits store LMA");
	check(msr_exists(VMX_PROC2) == can_proc(PROC_2ND), "MSR of the secondary controls");
	check(msr_exists(VMX_EPT_VPID) == (can_proc2(P2_EPT) || can_proc2(P2_VPID)), "MSR about EPT and VPID");
	check(msr_exists(VMX_VMFUNC) == can_proc2(P2_VMFUNC), "MSR of the VM functions");
	check(!msr_exists(0x493) && !msr_exists(0x49f), "no MSRs beyond");
	check(!(cap.proc2.must), "secondary controls: none must be 1 (0x%x)", cap.proc2.must);
	check(!can_proc2(P2_X2APIC) || can_proc(PROC_TPR), "virtualizing x2APIC mode needs the TPR shadow");
	check(!can_proc2(P2_VID) || can_proc(PROC_TPR), "virtual-interrupt delivery needs the TPR shadow");
	check(!can_proc2(P2_RDTSCP) || cpuid(0x80000001, 0).d >> 27 & 1 || cpuid(7, 0).c >> 22 & 1,
	      "the RDTSCP control is of use");
	check(!can_proc2(P2_INVPCID) || cpuid(7, 0).b >> 10 & 1, "the INVPCID control is of use");
}

static void ept_capabilities(void)
{
	u64 v = cap.ept_vpid;

	if (can_proc2(P2_EPT)) {
		check(v >> 6 & 1, "EPT: page walks of four levels");
		check(v & (CAP_UC | CAP_WB), "EPT: a memory type for the structures");
		check(!(v & CAP_INVEPT) || v & (CAP_INVEPT_ONE | CAP_INVEPT_ALL), "INVEPT has a type");
		check(!(v & CAP_WALK5) || cap.la57, "EPT of five levels on a processor of 57 bits");
	} else {
		skip("EPT");
	}
	if (can_proc2(P2_VPID))
		check(!(v & CAP_INVVPID) || v >> 40 & 15, "INVVPID has a type");
	check(!(v & ~0x003f0f0106f341c1ull), "EPT and VPID: reserved bits of 0x%lx", v);
}

static void control_registers(void)
{
	u64 cr0_must = need("CR0_FIXED0", VMX_CR0_FIXED0), cr0_may = need("CR0_FIXED1", VMX_CR0_FIXED1);
	u64 cr4_must = need("CR4_FIXED0", VMX_CR4_FIXED0), cr4_may = need("CR4_FIXED1", VMX_CR4_FIXED1);

	check(cr0_must == (CR0_PE | CR0_NE | CR0_PG), "CR0: must 0x%lx", cr0_must);
	check(cr0_may == 0xffffffff, "CR0: may 0x%lx", cr0_may);
	check(cr4_must == CR4_VMXE, "CR4: must 0x%lx", cr4_must);
	check((cr4_may & (read_cr4() | CR4_VMXE)) == (read_cr4() | CR4_VMXE) && !(cr4_may >> 32), "CR4: may 0x%lx",
	      cr4_may);
	check(!!(cr4_may & CR4_LA57) == cap.la57, "CR4: LA57 as CPUID has it");
	check((cr4_may & CR4_PCIDE) == (cpuid(1, 0).c >> 17 & 1 ? CR4_PCIDE : 0), "CR4: PCIDE as CPUID has it");
}

void group_capabilities(void)
{
	cap.physical = cpuid(0x80000008, 0).a & 0xff;
	cap.la57 = cpuid(7, 0).c >> 16 & 1;
	cap.basic = need("VMX_BASIC", VMX_BASIC);
	cap.revision = (u32)cap.basic & 0x7fffffff;
	check(!(cap.basic >> 31 & 1), "VMX_BASIC: bit 31");
	check((cap.basic >> 32 & 0x1fff) - 1 < 4096, "VMX_BASIC: size of a region %ld", cap.basic >> 32 & 0x1fff);
	check(!(cap.basic >> 48 & 1), "VMX_BASIC: regions anywhere in memory");
	check((cap.basic >> 50 & 15) == 6, "VMX_BASIC: write-back structures");
	check(cap.basic >> 54 & 1, "VMX_BASIC: instruction information for INS and OUTS");
	cap.pin = controls("pin-based", VMX_PIN, VMX_TRUE_PIN, 0x16, 0);
	cap.proc = controls("processor-based", VMX_PROC, VMX_TRUE_PROC, 0x0401e172, PROC_CR3_LOAD | PROC_CR3_STORE);
	cap.exit = controls("exit", VMX_EXIT, VMX_TRUE_EXIT, 0x36dff, X_SAVE_DEBUG);
	cap.entry = controls("entry", VMX_ENTRY, VMX_TRUE_ENTRY, 0x11ff, N_LOAD_DEBUG);
	cap.misc = need("VMX_MISC", VMX_MISC);
	if (can_proc(PROC_2ND)) {
		u64 v = need("secondary", VMX_PROC2);

		cap.proc2 = (struct allowed){ (u32)v, (u32)(v >> 32) };
	}
	if (can_proc2(P2_EPT) || can_proc2(P2_VPID))
		cap.ept_vpid = need("EPT_VPID_CAP", VMX_EPT_VPID);
	if (can_proc2(P2_VMFUNC))
		cap.vmfunc = need("VMFUNC", VMX_VMFUNC);
	check(cap.misc & MISC_HLT, "the HLT activity state");
	check((cap.misc >> 16 & 0x1ff) <= 256, "CR3-target values: %ld", cap.misc >> 16 & 0x1ff);
	dependencies();
	ept_capabilities();
	control_registers();
	read_only();
}
