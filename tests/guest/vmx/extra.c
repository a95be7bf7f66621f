/*
 * TPR shadow and the APIC-access page, VMCS shadowing, VM functions.
 */
#include "vmx.h"

GUEST(k_to_cr8, "mov %rbx, %cr8");
GUEST(k_from_cr8, "mov %cr8, %rbx");
GUEST(k_read, "mov (%rbx), %eax");
GUEST(k_write, "mov %eax, (%rbx)");

static u32 virtual_apic[1024] PAGE_ALIGNED;
enum { TPR = 0x80 / 4 };

/* ---- "Controls for APIC Virtualization": the TPR shadow ---- */

static void tpr_begin(u32 tpr, u32 threshold)
{
	vm_good(LONG);
	memset(virtual_apic, 0, sizeof(virtual_apic));
	virtual_apic[TPR] = tpr;
	vm_or(F_PROC, PROC_TPR);
	vm_clear(F_PROC, PROC_CR8_LOAD | PROC_CR8_STORE);
	vm_put(F_VIRTUAL_APIC, at(virtual_apic));
	vm_put(F_TPR_THRESHOLD, threshold);
}

static u64 host_cr8(void)
{
	u64 v;
	__asm__ volatile("mov %%cr8, %0" : "=r"(v));
	return v;
}

static void tpr_shadow(void)
{
	u64 cr8 = host_cr8();

	tpr_begin(0x75, 0);
	if (vm_run("TPR shadow, MOV from CR8", k_from_cr8) && expect_call("TPR shadow, MOV from CR8", k_from_cr8_next))
		check(reg[G_RBX] == 7, "TPR shadow: CR8 reads %ld", reg[G_RBX]);
	tpr_begin(0x75, 0);
	reg[G_RBX] = 11;
	if (vm_run("TPR shadow, MOV to CR8", k_to_cr8) && expect_call("TPR shadow, MOV to CR8", k_to_cr8_next))
		check(virtual_apic[TPR] == 0xb0, "TPR shadow: the virtual TPR is 0x%x", virtual_apic[TPR]);
	check(host_cr8() == cr8, "TPR shadow: CR8 of the host is %ld", host_cr8());
	tpr_begin(0, 0);
	reg[G_RBX] = 16;
	if (vm_run("TPR shadow, MOV of 16 to CR8", k_to_cr8))
		expect_event("TPR shadow, MOV of 16 to CR8", V_GP, 0);
	/* Exits of CR8's own come first. */
	tpr_begin(0, 0);
	vm_or(F_PROC, PROC_CR8_LOAD);
	if (vm_run("TPR shadow and CR8-load exiting", k_to_cr8))
		expect_exit("TPR shadow and CR8-load exiting", R_CR, 8 | 3 << 8);
}

/* Below the threshold: an exit after the instruction. */
static void tpr_threshold(void)
{
	for (u32 threshold = 0; threshold < 16; threshold += 3)
		for (u64 tpr = 0; tpr < 16; tpr++) {
			tpr_begin(0xf0, threshold);
			reg[G_RBX] = tpr;
			if (!vm_run("TPR threshold", k_to_cr8))
				continue;
			if (tpr >= threshold) {
				expect_call("TPR threshold", k_to_cr8_next);
			} else if (expect_exit("TPR threshold", R_TPR, 0)) {
				expect_field("TPR threshold", "RIP", F_GUEST_RIP, at(k_to_cr8_next));
				check(virtual_apic[TPR] == tpr << 4, "TPR threshold: the virtual TPR is 0x%x",
				      virtual_apic[TPR]);
			}
		}
	/* The control checks look at the virtual TPR of the moment. */
	tpr_begin(0x30, 3);
	if (vm_run("TPR at the threshold", g_call))
		expect_call("TPR at the threshold", g_call);
	virtual_apic[TPR] = 0x20;
	check(vm_enter() == FAIL_VALID && vm_get(F_INSN_ERROR) == E_CONTROLS, "TPR below the threshold at an entry");
	virtual_apic[TPR] = 0x30;
	if (vm_run("TPR at the threshold again", g_call))
		expect_call("TPR at the threshold again", g_call);
}

/* ---- the APIC-access page ---- */

enum { LINEAR_READ = 0, LINEAR_WRITE = 1, LINEAR_FETCH = 2 };

static void apic_begin(bool shadow)
{
	if (shadow)
		tpr_begin(0x40, 0);
	else
		vm_good(LONG);
	vm_or(F_PROC2, P2_APIC_ACCESS);
	vm_put(F_APIC_ACCESS, at(test_pages));
	test_pt[0] = at(test_pages) | 0x67;
	TEST_PAGE(0)[0x80 / 8] = 0x99;
	reg[G_RBX] = TEST_LINEAR + 0x80;
}

static void apic_access(void)
{
	apic_begin(false);
	if (vm_run("APIC access, reading", k_read))
		expect_exit("APIC access, reading", R_APIC_ACCESS, 0x80 | LINEAR_READ << 12);
	apic_begin(false);
	if (vm_run("APIC access, writing", k_write))
		expect_exit("APIC access, writing", R_APIC_ACCESS, 0x80 | LINEAR_WRITE << 12);
	if (can_proc(PROC_TPR)) {
		apic_begin(true);
		if (vm_run("APIC access, reading the shadow", k_read) &&
		    expect_call("APIC access, reading the shadow", k_read_next))
			check(reg[G_RAX] == 0x40, "APIC access: the TPR reads 0x%lx", reg[G_RAX]);
		apic_begin(true);
		reg[G_RAX] = 0x53;
		if (vm_run("APIC access, writing the shadow", k_write) &&
		    expect_call("APIC access, writing the shadow", k_write_next))
			check(virtual_apic[TPR] == 0x53, "APIC access: the virtual TPR is 0x%x", virtual_apic[TPR]);
		apic_begin(true);
		reg[G_RBX] = TEST_LINEAR + 0x20;
		if (vm_run("APIC access, another register", k_read))
			expect_exit("APIC access, another register", R_APIC_ACCESS, 0x20 | LINEAR_READ << 12);
	}
	check(TEST_PAGE(0)[0x80 / 8] == 0x99, "APIC access: the page itself is untouched");
	test_pt[0] = 0;
}

void group_tpr(void)
{
	if (can_proc(PROC_TPR)) {
		tpr_shadow();
		tpr_threshold();
	} else {
		skip("the TPR shadow");
	}
	if (can_proc2(P2_APIC_ACCESS))
		apic_access();
	else
		skip("the APIC-access page");
	expect_good("the TPR shadow");
}

/* ---- "VMCS Shadowing" ---- */

static u8 read_bitmap[4096] PAGE_ALIGNED, write_bitmap[4096] PAGE_ALIGNED;

GUEST(h_vmread, "vmread %rsi, %rdi");
GUEST(h_vmwrite, "vmwrite %rdi, %rsi");
GUEST(h_vmread_memory, "vmread %rsi, (%rbx)");

static void shadow_bit(u8 *bitmap, u32 field, bool set)
{
	if (set)
		bitmap[(field & 0x7fff) / 8] |= 1 << (field & 7);
	else
		bitmap[(field & 0x7fff) / 8] &= ~(1 << (field & 7));
}

static void shadow_begin(void)
{
	vm_good(LONG);
	vm_or(F_PROC2, P2_SHADOWING);
	vm_put(F_VMREAD_BITMAP, at(read_bitmap));
	vm_put(F_VMWRITE_BITMAP, at(write_bitmap));
	vm_put(F_GUEST_LINK, at(vmcs_other));
	reg[G_RDI] = 0xabcdef;
	reg[G_RAX] = 0;
}

static bool shadow_run(const char *what, const char *code, const char *next, u64 field)
{
	reg[G_RSI] = field;
	return vm_run(what, code) && expect_call(what, next);
}

static void shadow_fields(void)
{
	/* A shadow VMCS keeps its data in memory: it is written as an ordinary one first. */
	static u64 memory;

	memset(read_bitmap, 0, PAGE);
	memset(write_bitmap, 0, PAGE);
	shadow_begin();
	reg[G_RDI] = 0x123456789;
	shadow_run("shadow VMWRITE", h_vmwrite, h_vmwrite_next, F_GUEST_RSP);
	reg[G_RDI] = 0;
	if (shadow_run("shadow VMREAD", h_vmread, h_vmread_next, F_GUEST_RSP))
		check(reg[G_RDI] == 0x123456789, "shadow VMREAD: 0x%lx", reg[G_RDI]);
	reg[G_RBX] = at(&memory);
	if (shadow_run("shadow VMREAD to memory", h_vmread_memory, h_vmread_memory_next, F_GUEST_RSP))
		check(memory == 0x123456789, "shadow VMREAD to memory: 0x%lx", memory);
	check(vm_get(F_GUEST_RSP) == at(guest_stack_top), "shadow VMWRITE leaves the current VMCS alone");
	/* Where the bit is set there is an exit, and for fields beyond 15 bits. */
	shadow_bit(read_bitmap, F_GUEST_RSP, true);
	shadow_begin();
	reg[G_RSI] = F_GUEST_RSP;
	if (vm_run("shadow VMREAD, its bit set", h_vmread))
		expect_reason("shadow VMREAD, its bit set", R_VMREAD);
	shadow_begin();
	reg[G_RDI] = 5;
	shadow_run("shadow VMWRITE, the other bit set", h_vmwrite, h_vmwrite_next, F_GUEST_RSP);
	shadow_bit(read_bitmap, F_GUEST_RSP, false);
	shadow_bit(write_bitmap, F_GUEST_RSP, true);
	shadow_begin();
	reg[G_RSI] = F_GUEST_RSP;
	if (vm_run("shadow VMWRITE, its bit set", h_vmwrite))
		expect_reason("shadow VMWRITE, its bit set", R_VMWRITE);
	shadow_begin();
	reg[G_RSI] = 1 << 15 | F_GUEST_RSP;
	if (vm_run("shadow VMREAD, bit 15 of the encoding", h_vmread))
		expect_reason("shadow VMREAD, bit 15 of the encoding", R_VMREAD);
	shadow_begin();
	reg[G_RSI] = 1ull << 32 | F_GUEST_RSP;
	if (vm_run("shadow VMREAD, bit 32 of the encoding", h_vmread))
		expect_reason("shadow VMREAD, bit 32 of the encoding", R_VMREAD);
	shadow_bit(write_bitmap, F_GUEST_RSP, false);
	/* Without a shadow VMCS: VMfailInvalid in the guest. */
	shadow_begin();
	vm_put(F_GUEST_LINK, ~0ull);
	if (shadow_run("shadow VMREAD, no shadow", h_vmread, h_vmread_next, F_GUEST_RSP))
		check(vm_get(F_GUEST_RFLAGS) & 1, "shadow VMREAD, no shadow: RFLAGS 0x%lx", vm_get(F_GUEST_RFLAGS));
	/* A field that is none: VMfailValid. */
	shadow_begin();
	if (shadow_run("shadow VMREAD of no field", h_vmread, h_vmread_next, 0x7ffe))
		check(vm_get(F_GUEST_RFLAGS) & 0x40, "shadow VMREAD of no field: RFLAGS 0x%lx", vm_get(F_GUEST_RFLAGS));
	/* In user mode: #GP before anything. */
	shadow_begin();
	vm_user();
	if (vm_run("shadow VMREAD in user mode", h_vmread + USER_BASE))
		expect_event("shadow VMREAD in user mode", V_GP, 0);
	/* Without the control everything exits. */
	shadow_begin();
	vm_clear(F_PROC2, P2_SHADOWING);
	vm_put(F_GUEST_LINK, ~0ull);
	reg[G_RSI] = F_GUEST_RSP;
	if (vm_run("VMREAD without shadowing", h_vmread))
		expect_reason("VMREAD without shadowing", R_VMREAD);
}

static void shadow_links(void)
{
	*(volatile u32 *)vmcs_other = cap.revision;
	shadow_begin();
	if (check(vm_enter() == OK, "link to an ordinary VMCS under shadowing: VMfail"))
		expect_exit("link to an ordinary VMCS under shadowing", ENTRY_FAILED | R_BAD_GUEST, 4);
	*(volatile u32 *)vmcs_other = cap.revision | 1u << 31;
	shadow_begin();
	vm_clear(F_PROC2, P2_SHADOWING);
	if (check(vm_enter() == OK, "link to a shadow VMCS without shadowing: VMfail"))
		expect_exit("link to a shadow VMCS without shadowing", ENTRY_FAILED | R_BAD_GUEST, 4);
	/* A shadow VMCS cannot be entered. */
	check(vmclear(at(vmcs_other)) == OK && vmptrld(at(vmcs_other)) == OK, "VMPTRLD of a shadow VMCS");
	check(vmlaunch() != OK, "VMLAUNCH of a shadow VMCS");
	check(vmclear(at(vmcs_other)) == OK && vmptrld(at(vmcs_region)) == OK, "VMPTRLD back");
}

void group_shadowing(void)
{
	if (!can_proc2(P2_SHADOWING)) {
		skip("VMCS shadowing");
		return;
	}
	shadow_links();
	shadow_fields();
	vmclear(at(vmcs_other));
	*(volatile u32 *)vmcs_other = cap.revision;
	vmcs_current(vmcs_region);
	expect_good("shadowing");
}

/* ---- "VM Functions": EPTP switching ---- */

static u64 eptp_list[512] PAGE_ALIGNED, list_pml4[512] PAGE_ALIGNED, list_pdpt[512] PAGE_ALIGNED;
static u64 list_pd[512] PAGE_ALIGNED, list_pt[512] PAGE_ALIGNED;

GUEST(y_switch, "vmfunc; mov (%rbx), %rdx");
GUEST(y_vmfunc, "vmfunc");

static void function_begin(u64 eax, u64 ecx)
{
	vm_good_ept(LONG, false);
	memcpy(list_pml4, ept_pml4, sizeof(list_pml4));
	list_pml4[1] = at(list_pdpt) | EPT_RWX;
	list_pdpt[0] = at(list_pd) | EPT_RWX;
	list_pd[0] = at(list_pt) | EPT_RWX;
	list_pt[0] = (at(test_pages) + PAGE) | EPT_RWX | EPT_WB;
	memset(eptp_list, 0, sizeof(eptp_list));
	eptp_list[0] = eptp_of(ept_pml4, false);
	eptp_list[1] = eptp_of(list_pml4, false);
	eptp_list[511] = eptp_of(list_pml4, false);
	eptp_list[2] = eptp_of(list_pml4, false) | 0x80 << 1;
	TEST_PAGE(0)[0] = 0xaaaa;
	TEST_PAGE(1)[0] = 0xbbbb;
	test_pt[0] = TEST_GPA | 0x67;
	vm_or(F_PROC2, P2_VMFUNC);
	vm_put(F_VMFUNC_CTL, 1);
	vm_put(F_EPTP_LIST, at(eptp_list));
	reg[G_RAX] = eax;
	reg[G_RCX] = ecx;
	reg[G_RBX] = TEST_LINEAR;
}

static void function_exits(const char *what, u64 eax, u64 ecx)
{
	function_begin(eax, ecx);
	if (!vm_run(what, y_vmfunc) || !expect_exit(what, R_VMFUNC, 0))
		return;
	expect_field(what, "instruction length", F_EXIT_LEN, 3);
	expect_field(what, "EPTP", F_EPTP, eptp_of(ept_pml4, false));
}

void group_vmfunc(void)
{
	if (!can_proc2(P2_VMFUNC) || !(cap.vmfunc & 1) || !ept_testable()) {
		skip("EPTP switching");
		return;
	}
	for (u64 i = 0; i < 2; i++) {
		function_begin(0, i ? 511 : 1);
		if (vm_run("EPTP switching", y_switch) && expect_call("EPTP switching", y_switch_next)) {
			check(reg[G_RDX] == 0xbbbb, "EPTP switching: the guest sees 0x%lx", reg[G_RDX]);
			expect_field("EPTP switching", "EPTP", F_EPTP, eptp_of(list_pml4, false));
		}
		/* And back: what was cached under the one does not serve the other. */
		reg[G_RCX] = 0;
		if (vm_run("EPTP switching, back", y_switch) && expect_call("EPTP switching, back", y_switch_next))
			check(reg[G_RDX] == 0xaaaa, "EPTP switching, back: the guest sees 0x%lx", reg[G_RDX]);
	}
	function_exits("EPTP switching to a bad EPTP", 0, 2);
	function_exits("EPTP switching to an empty entry", 0, 3);
	function_exits("EPTP switching beyond the list", 0, 512);
	function_exits("EPTP switching beyond the list", 0, 0xffffffff);
	function_exits("a VM function that is not enabled", 1, 0);
	function_exits("VM function 63", 63, 0);
	function_begin(64, 0);
	if (vm_run("VM function 64", y_vmfunc))
		expect_event("VM function 64", V_UD, 0);
	function_begin(0, 1);
	vm_put(F_VMFUNC_CTL, 0);
	if (vm_run("EPTP switching, not enabled", y_vmfunc))
		expect_exit("EPTP switching, not enabled", R_VMFUNC, 0);
	/* From user mode, too. */
	function_begin(0, 1);
	vm_user();
	if (vm_run("EPTP switching in user mode", y_vmfunc + USER_BASE)) {
		expect_reason("EPTP switching in user mode", R_VMCALL);
		expect_field("EPTP switching in user mode", "EPTP", F_EPTP, eptp_of(list_pml4, false));
	}
	test_pt[0] = 0;
	expect_good("VM functions");
}
