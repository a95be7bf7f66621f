/*
 * The good virtual machine, entering it, and the checks that every part uses.
 */
#include "vmx.h"

struct capabilities cap;
u64 reg[16];
u64 host_rflags;

#define PAGES(name, n) u8 name[(n) * 4096] PAGE_ALIGNED
PAGES(vmxon_region, 1);
PAGES(vmcs_region, 1);
PAGES(vmcs_other, 1);
PAGES(io_bitmaps, 2);
PAGES(msr_bitmap, 1);
PAGES(test_pages, 8);
static u8 guest_tss[0x68 + 32 + 1] __attribute__((aligned(16)));
static u8 guest_tss32[0x68 + 32 + 1] __attribute__((aligned(16)));
static u64 guest_idt32[256] __attribute__((aligned(16)));
u64 guest_pml4[512] PAGE_ALIGNED, test_pdpt[512] PAGE_ALIGNED, test_pd[512] PAGE_ALIGNED, test_pt[512] PAGE_ALIGNED;
u64 ept_pml4[512] PAGE_ALIGNED, ept_pdpt[512] PAGE_ALIGNED, ept_pd[4 * 512] PAGE_ALIGNED;
u64 ept_test_pdpt[512] PAGE_ALIGNED, ept_test_pd[512] PAGE_ALIGNED, ept_test_pt[512] PAGE_ALIGNED;
u32 guest_pd32[1024] PAGE_ALIGNED;
static u64 guest_pd_pae[4 * 512] PAGE_ALIGNED;
u64 guest_pdpt_pae[4] PAGE_ALIGNED;
struct guest_gate guest_idt[256] __attribute__((aligned(16)));
static bool launched;
static u64 host_cr0;
static bool verbose; /* the word on the command line: each entry is announced */

int vm_enter_asm(u64 *registers, int resume);

bool skip(const char *what)
{
	print("  not offered: %s\n", what);
	return false;
}

/* ---- fields ---- */

void vm_put(u32 field, u64 v)
{
	enum how how = vmwrite(field, v);

	if (how != OK)
		check(false, "VMWRITE of field 0x%x: failed (%d), error %ld", field, how, vm_get(F_INSN_ERROR));
}

u64 vm_get(u32 field)
{
	u64 v = 0xbad;

	if (vmread(field, &v) != OK)
		check(false, "VMREAD of field 0x%x failed", field);
	return v;
}

void vmcs_current(u8 *region)
{
	*(volatile u32 *)region = cap.revision;
	check(vmclear(at(region)) == OK, "VMCLEAR of a good VMCS");
	check(vmptrld(at(region)) == OK, "VMPTRLD of a good VMCS");
	launched = false;
}

/* ---- the good state ---- */

struct table_pointer { u16 limit; u64 base; } __attribute__((packed));

static void good_host(void)
{
	struct table_pointer gdt, idt;
	u16 tr, cs, ss, ds, es;

	__asm__ volatile("sgdt %0; sidt %1; str %2; mov %%cs, %3; mov %%ss, %4; mov %%ds, %5; mov %%es, %6"
			 : "=m"(gdt), "=m"(idt), "=r"(tr), "=r"(cs), "=r"(ss), "=r"(ds), "=r"(es));
	vm_put(F_HOST_CS_SEL, cs);
	vm_put(F_HOST_SS_SEL, ss);
	vm_put(F_HOST_DS_SEL, ds);
	vm_put(F_HOST_ES_SEL, es);
	vm_put(F_HOST_FS_SEL, 0);
	vm_put(F_HOST_GS_SEL, 0);
	vm_put(F_HOST_TR_SEL, tr);
	vm_put(F_HOST_FS_BASE, rdmsr(MSR_FS_BASE));
	vm_put(F_HOST_GS_BASE, rdmsr(MSR_GS_BASE));
	vm_put(F_HOST_TR_BASE, at(tss_bytes()));
	vm_put(F_HOST_GDTR_BASE, gdt.base);
	vm_put(F_HOST_IDTR_BASE, idt.base);
	vm_put(F_HOST_CR0, host_cr0);
	vm_put(F_HOST_CR3, read_cr3());
	vm_put(F_HOST_CR4, read_cr4());
	vm_put(F_HOST_SYSENTER_CS, 0);
	vm_put(F_HOST_SYSENTER_ESP, 0);
	vm_put(F_HOST_SYSENTER_EIP, 0);
	vm_put(F_HOST_RIP, at(vm_exit_entry));
	if (can_exit(X_LOAD_PAT))
		vm_put(F_HOST_PAT, rdmsr(MSR_PAT));
	if (can_exit(X_LOAD_EFER))
		vm_put(F_HOST_EFER, rdmsr(MSR_EFER));
}

static void good_controls(enum mode m)
{
	vm_put(F_PIN, cap.pin.must);
	vm_put(F_PROC, cap.proc.must | (can_proc(PROC_2ND) ? PROC_2ND : 0));
	if (can_proc(PROC_2ND))
		vm_put(F_PROC2, m == BARE || m == REAL ? P2_EPT | P2_UNRESTRICTED : 0);
	vm_put(F_EXIT, cap.exit.must | X_HOST64);
	vm_put(F_ENTRY, cap.entry.must | (m == LONG || m == COMPAT ? N_IA32E : 0));
	/* Entries and exits switch EFER where they can: a guest without IA-32e mode must not have the host's. */
	if (can_exit(X_LOAD_EFER | X_SAVE_EFER) && can_entry(N_LOAD_EFER)) {
		vm_or(F_EXIT, X_LOAD_EFER | X_SAVE_EFER);
		vm_or(F_ENTRY, N_LOAD_EFER);
		vm_put(F_GUEST_EFER, m == LONG || m == COMPAT ? EFER_LMA | EFER_LME | EFER_SCE : 0);
	}
	vm_put(F_EXCEPTIONS, 0);
	vm_put(F_PF_MASK, 0);
	vm_put(F_PF_MATCH, 0);
	vm_put(F_CR3_TARGETS, 0);
	vm_put(F_EXIT_STORES, 0);
	vm_put(F_EXIT_LOADS, 0);
	vm_put(F_ENTRY_LOADS, 0);
	vm_put(F_INJECT, 0);
	vm_put(F_INJECT_ERROR, 0);
	vm_put(F_INJECT_LEN, 0);
	vm_put(F_CR0_MASK, 0);
	vm_put(F_CR4_MASK, 0);
	vm_put(F_CR0_SHADOW, 0);
	vm_put(F_CR4_SHADOW, 0);
	if (can_proc(PROC_IO_BITMAPS)) {
		vm_put(F_IO_BITMAP_A, at(io_bitmaps));
		vm_put(F_IO_BITMAP_B, at(io_bitmaps) + 4096);
	}
	if (can_proc(PROC_MSR_BITMAPS))
		vm_put(F_MSR_BITMAP, at(msr_bitmap));
	if (can_proc(PROC_TSC_OFFSET))
		vm_put(F_TSC_OFFSET, 0);
	if (can_proc(PROC_TPR))
		vm_put(F_TPR_THRESHOLD, 0);
	if (can_proc2(P2_VPID))
		vm_put(F_VPID, 0);
	if (can_proc2(P2_EPT))
		vm_put(F_EPTP, eptp_of(ept_pml4, false));
	if (can_proc2(P2_VMFUNC))
		vm_put(F_VMFUNC_CTL, 0);
	vm_put(F_GUEST_LINK, ~0ull);
}

static void segment(u32 sel_field, u16 sel, u64 base, u32 limit, u32 rights)
{
	u32 i = sel_field - F_GUEST_ES_SEL;

	vm_put(sel_field, sel);
	vm_put(F_GUEST_ES_BASE + i, base);
	vm_put(F_GUEST_ES_LIMIT + i, limit);
	vm_put(F_GUEST_ES_AR + i, rights);
}

static void good_segments(enum mode m)
{
	bool old = m == V86 || m == REAL;
	u32 code = m == LONG ? 0xa09b : m == REAL ? 0x9b : m == V86 ? 0xf3 : 0xc09b;
	u32 data = m == V86 ? 0xf3 : m == REAL ? 0x93 : 0xc093;
	u32 limit = old ? 0xffff : 0xffffffff;

	for (u32 f = F_GUEST_ES_SEL; f <= F_GUEST_GS_SEL; f += 2)
		segment(f, old ? 0 : SEL_DATA, 0, limit, data);
	segment(F_GUEST_CS_SEL, old ? LOW_SELECTOR : m == LONG ? SEL_CODE : SEL_CODE32, old ? LOW_BASE : 0, limit,
		code);
	segment(F_GUEST_LDTR_SEL, 0, 0, 0, 0x10000);
	segment(F_GUEST_TR_SEL, SEL_TSS, at(m == LONG || m == COMPAT ? guest_tss : guest_tss32), sizeof(guest_tss) - 1,
		0x8b);
}

static void good_idt(enum mode m)
{
	bool wide = m == LONG || m == COMPAT;

	vm_put(F_GUEST_IDTR_BASE, wide ? at(guest_idt) : m == REAL ? LOW_BASE + LOW_IVT : at(guest_idt32));
	vm_put(F_GUEST_IDTR_LIMIT, wide ? sizeof(guest_idt) - 1 : m == REAL ? 0x3ff : sizeof(guest_idt32) - 1);
}

static void good_registers(enum mode m)
{
	u64 cr0 = host_cr0, cr4 = read_cr4(), cr3 = at(guest_pml4);

	if (m == PAE)
		cr3 = at(guest_pdpt_pae);
	if (m == FLAT || m == V86)
		cr3 = at(guest_pd32);
	if (m == FLAT || m == V86 || m == BARE || m == REAL)
		cr4 = (cr4 & ~(u64)CR4_PAE) | 1 << 4; /* PSE */
	if (m != LONG && m != COMPAT)
		cr4 &= ~(u64)(CR4_PCIDE | CR4_LA57);
	if (m == BARE || m == REAL)
		cr0 &= ~CR0_PG;
	if (m == REAL)
		cr0 &= ~(u64)CR0_PE;
	vm_put(F_GUEST_CR0, cr0);
	vm_put(F_GUEST_CR3, cr3);
	vm_put(F_GUEST_CR4, cr4);
	vm_put(F_GUEST_DR7, 0x400);
	vm_put(F_GUEST_RSP, m == V86 || m == REAL ? 0x1000 : at(guest_stack_top));
	vm_put(F_GUEST_RIP, m == V86 || m == REAL ? 0 : at(g_call));
	vm_put(F_GUEST_RFLAGS, m == V86 ? 0x20002 : 2);
	vm_put(F_GUEST_GDTR_BASE, vm_get(F_HOST_GDTR_BASE));
	vm_put(F_GUEST_GDTR_LIMIT, GDT_ENTRIES * 8 - 1);
	good_idt(m);
	vm_put(F_GUEST_SYSENTER_CS, 0);
	vm_put(F_GUEST_SYSENTER_ESP, 0);
	vm_put(F_GUEST_SYSENTER_EIP, 0);
	vm_put(F_GUEST_DEBUGCTL, 0);
	if (can_entry(N_LOAD_PAT))
		vm_put(F_GUEST_PAT, rdmsr(MSR_PAT));
	vm_put(F_INTERRUPTIBILITY, 0);
	vm_put(F_ACTIVITY, ACTIVE);
	vm_put(F_PENDING_DEBUG, 0);
	for (unsigned i = 0; can_proc2(P2_EPT) && i < 4; i++)
		vm_put(F_GUEST_PDPTE0 + 2 * i, guest_pdpt_pae[i]);
}

void vm_good(enum mode m)
{
	good_host();
	good_controls(m);
	good_segments(m);
	good_registers(m);
	if (m == BARE || m == REAL)
		ept_good();
	memset(reg, 0, sizeof(reg));
}

bool vm_can(enum mode m)
{
	switch (m) {
	case LONG: case COMPAT: case PAE: case FLAT: case V86: return true;
	default: return can_proc2(P2_EPT | P2_UNRESTRICTED);
	}
}

/* ---- EPT ---- */

u64 eptp_of(const u64 *pml4, bool ad)
{
	return at(pml4) | (cap.ept_vpid & CAP_WB ? 6 : 0) | 3 << 3 | (ad ? EPTP_AD : 0);
}

void ept_good(void)
{
	memset(ept_pml4, 0, sizeof(ept_pml4));
	memset(ept_pdpt, 0, sizeof(ept_pdpt));
	memset(ept_test_pdpt, 0, sizeof(ept_test_pdpt));
	memset(ept_test_pd, 0, sizeof(ept_test_pd));
	memset(ept_test_pt, 0, sizeof(ept_test_pt));
	ept_pml4[0] = at(ept_pdpt) | EPT_RWX;
	for (unsigned i = 0; i < 4; i++)
		ept_pdpt[i] = (at(ept_pd) + i * PAGE) | EPT_RWX;
	for (unsigned i = 0; i < 4 * 512; i++)
		ept_pd[i] = (i * MIB2) | EPT_RWX | EPT_LARGE | EPT_WB;
	ept_pml4[1] = at(ept_test_pdpt) | EPT_RWX;
	ept_test_pdpt[0] = at(ept_test_pd) | EPT_RWX;
	ept_test_pd[0] = at(ept_test_pt) | EPT_RWX;
	for (unsigned i = 0; i < 8; i++)
		ept_test_pt[i] = (at(test_pages) + i * PAGE) | EPT_RWX | EPT_WB;
	if (cap.ept_vpid & CAP_INVEPT_ALL)
		invept(INVEPT_ALL, 0);
}

bool ept_testable(void)
{
	return (can_proc2(P2_EPT) && cap.physical >= 40) || skip("EPT with guest-physical addresses of 40 bits");
}

void vm_good_ept(enum mode m, bool ad)
{
	vm_good(m);
	ept_good();
	vm_or(F_PROC2, P2_EPT);
	vm_put(F_EPTP, eptp_of(ept_pml4, ad));
}

/* ---- entering ---- */

enum how vm_enter(void)
{
	enum how how = vm_enter_asm(reg, launched);

	if (how == OK && !(vm_get(F_REASON) & ENTRY_FAILED))
		launched = true;
	return how;
}

bool vm_go(const char *what)
{
	enum how how;
	u32 reason;

	if (verbose)
		print("%s\n", what);
	how = vm_enter();
	if (how != OK)
		return check(false, "%s: VM entry failed (%d), error %ld", what, how,
			     how == FAIL_VALID ? vm_get(F_INSN_ERROR) : 0);
	reason = (u32)vm_get(F_REASON);
	return check(!(reason & ENTRY_FAILED), "%s: VM entry failed, reason 0x%x qualification 0x%lx", what, reason,
		     vm_get(F_QUALIFICATION));
}

bool vm_run(const char *what, const void *code)
{
	vm_put(F_GUEST_RIP, at(code));
	return vm_go(what);
}

void vm_skip(void) { vm_put(F_GUEST_RIP, vm_get(F_GUEST_RIP) + vm_get(F_EXIT_LEN)); }

/* ---- looking at exits ---- */

/* What else there is to know about an exit that was not the expected one. */
static void explain(void)
{
	if (failure_shown())
		print("      rip 0x%lx info 0x%lx error 0x%lx vectoring 0x%lx linear 0x%lx physical 0x%lx\n",
		      vm_get(F_GUEST_RIP), vm_get(F_EXIT_INFO), vm_get(F_EXIT_ERROR), vm_get(F_VECTORING),
		      vm_get(F_GUEST_LINEAR), can_proc2(P2_EPT) ? vm_get(F_GUEST_PHYSICAL) : 0);
}

bool expect_reason(const char *what, u32 reason)
{
	u32 got = (u32)vm_get(F_REASON);

	if (check(got == reason, "%s: exit reason %u (qualification 0x%lx), expected %u", what, got,
		  vm_get(F_QUALIFICATION), reason))
		return true;
	explain();
	return false;
}

bool expect_exit(const char *what, u32 reason, u64 qualification)
{
	return expect_reason(what, reason) &&
	       expect_field(what, "exit qualification", F_QUALIFICATION, qualification);
}

bool expect_field(const char *what, const char *name, u32 field, u64 v)
{
	u64 got = vm_get(field);

	return check(got == v, "%s: %s 0x%lx, expected 0x%lx", what, name, got, v);
}

bool expect_call(const char *what, const void *where)
{
	return expect_reason(what, R_VMCALL) && expect_field(what, "RIP", F_GUEST_RIP, at(where));
}

const struct frame *vm_frame(void)
{
	u64 rsp = vm_get(F_GUEST_RSP);

	/* Of the guest's own pages the first is what is ever a stack. */
	return (const struct frame *)(uintptr_t)(rsp >= TEST_LINEAR ? at(test_pages) + (rsp & 0xfff) : rsp);
}

bool expect_event(const char *what, unsigned vector, u64 error)
{
	const volatile struct frame *f;

	if (!expect_call(what, guest_event))
		return false;
	f = vm_frame();
	return check(f->vector == vector && f->error == error,
		     "%s: the guest got vector %ld error 0x%lx, expected %d, 0x%lx",
		     what, f->vector, f->error, vector, error);
}

void expect_good(const char *after)
{
	vm_good(LONG);
	if (!vm_run(after, g_call) || !expect_call(after, g_call))
		print("      (the good state, entered afterwards)\n");
}

/* ---- start ---- */

void guest_gate_set(unsigned vector, const void *handler)
{
	u64 a = at(handler);

	guest_idt[vector] = (struct guest_gate){ (a & 0xffff) | (u64)SEL_CODE << 16 | 0x8e00ull << 32 |
							 (a & 0xffff0000) << 32, a >> 32 };
}

/* VMCALL at the beginning of the 64 KiB for old code, and handlers of the real-mode vectors. */
static void build_low(void)
{
	u8 *low = (u8 *)(uintptr_t)LOW_BASE;

	memset(low, 0xf4, 0x3000); /* HLT */
	memcpy(low, g_call, 3);
	for (unsigned i = 0; i < 256; i++) {
		((volatile u32 *)(low + LOW_IVT))[i] = (u32)LOW_SELECTOR << 16 | (LOW_HANDLERS + 16 * i);
		memcpy(low + LOW_HANDLERS + 16 * i, g_call, 3);
	}
}

static void build_guest32(void)
{
	for (unsigned i = 0; i < 256; i++) {
		u64 a = at(guest_vectors32) + 16 * i;

		u64 type = i == 0x40 ? 0xee00 : 0x8e00; /* one of them for all privilege levels */

		guest_idt32[i] = (a & 0xffff) | (u64)SEL_CODE32 << 16 | type << 32 | (a & 0xffff0000) << 32;
	}
	memcpy(guest_tss32 + 4, &(u32){ (u32)at(guest_stack_top) }, 4);
	memcpy(guest_tss32 + 8, &(u32){ SEL_DATA }, 4);
	guest_tss32[0x66] = 0x68;
	memset(guest_tss32 + 0x68, 0xff, 33);
}

static void build_guest(void)
{
	for (unsigned i = 0; i < 256; i++)
		guest_gate_set(i, guest_vectors + 16 * i);
	memcpy(guest_tss + 4, &(u64){ at(guest_stack_top) }, 8);
	guest_tss[0x66] = 0x68; /* the I/O permission map: nothing is allowed */
	memset(guest_tss + 0x68, 0xff, 33);
	memcpy(guest_pml4, boot_pml4, 4096);
	guest_pml4[TEST_LINEAR >> 39 & 511] = at(test_pdpt) | PTE_P | PTE_W | PTE_U;
	test_pdpt[0] = at(test_pd) | PTE_P | PTE_W | PTE_U;
	test_pd[0] = at(test_pt) | PTE_P | PTE_W | PTE_U;
	for (unsigned i = 0; i < 1024; i++)
		guest_pd32[i] = i << 22 | 0xe7;
	for (unsigned i = 0; i < 4 * 512; i++)
		guest_pd_pae[i] = (u64)i << 21 | 0xe7;
	for (unsigned i = 0; i < 4; i++)
		guest_pdpt_pae[i] = (at(guest_pd_pae) + 4096 * i) | PTE_P;
}

struct group { const char *name; void (*run)(void); };

static void run_group(const struct group *g)
{
	u64 checks, failures, checks_before, failures_before;

	check_sums(&checks_before, &failures_before);
	g->run();
	check_sums(&checks, &failures);
	print("%s: %ld checks, %ld failed\n", g->name, checks - checks_before, failures - failures_before);
}

static bool any_chosen(const struct group *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (option(list[i].name))
			return true;
	return false;
}

int main(void)
{
	static const struct group early[] = {
		{ "capabilities", group_capabilities },
		{ "instructions", group_instructions },
	};
	static const struct group list[] = {
		{ "fields", group_fields },
		{ "entry-controls", group_entry_controls },
		{ "entry-host", group_entry_host },
		{ "entry-guest", group_entry_guest },
		{ "entry-msrs", group_entry_msrs },
		{ "host-state", group_host_state },
		{ "guest-state", group_guest_state },
		{ "modes", group_modes },
		{ "exits", group_exits },
		{ "registers", group_registers },
		{ "bitmaps", group_bitmaps },
		{ "exceptions", group_exceptions },
		{ "debug", group_debug },
		{ "injection", group_injection },
		{ "delivery", group_delivery },
		{ "interrupts", group_interrupts },
		{ "timers", group_timers },
		{ "ept", group_ept },
		{ "ept-misconfiguration", group_ept_misconfig },
		{ "ept-flags", group_ept_flags },
		{ "pml", group_pml },
		{ "tags", group_tags },
		{ "tpr", group_tpr },
		{ "shadowing", group_shadowing },
		{ "vmfunc", group_vmfunc },
	};
	bool chosen = any_chosen(list, ARRAY_SIZE(list));

	if (!(cpuid(1, 0).c >> 5 & 1)) {
		print("no VMX here\n");
		check(option("absent"), "CPUID shows VMX");
		finish("vmx");
	}
	host_cr0 = read_cr0();
	verbose = option("verbose");
	build_guest();
	build_guest32();
	build_low();
	/* These also read what the processor has and enter VMX operation. */
	for (unsigned i = 0; i < ARRAY_SIZE(early); i++)
		run_group(&early[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		if (!chosen || option(list[i].name))
			run_group(&list[i]);
	check(vmxoff() == OK, "VMXOFF at the end");
	finish("vmx");
}
