/*
 * "Loading MSRs", "Saving MSRs"; what an entry loads, what an exit saves, and what it loads for the host.
 */
#include "vmx.h"

struct msr_entry { u64 index, value; };
static struct msr_entry area[512] __attribute__((aligned(16)));
static struct msr_entry area2[8] __attribute__((aligned(16)));

#define SYSENTER_CS 0x174u
#define SYSENTER_ESP 0x175u
#define SYSENTER_EIP 0x176u
#define MSR_CSTAR 0xc0000083u

/* ---- entry: exit reason 34 with the number of the entry that failed ---- */

static void bad_entry(const char *what, u64 index, u64 value)
{
	for (unsigned place = 0; place < 3; place++) {
		u64 lstar = rdmsr(MSR_LSTAR), cstar = rdmsr(MSR_CSTAR);

		for (unsigned i = 0; i < 3; i++)
			area[i] = (struct msr_entry){ i == 0 ? MSR_LSTAR : MSR_CSTAR, 0x1000 * (i + 1) };
		area[place] = (struct msr_entry){ index, value };
		vm_good(LONG);
		vm_put(F_ENTRY_MSR_LOAD, at(area));
		vm_put(F_ENTRY_LOADS, 3);
		vm_put(F_INJECT, INFO(T_HARD, V_UD));
		if (check(vm_enter() == OK, "%s: VMfail", what) &&
		    expect_exit(what, ENTRY_FAILED | R_BAD_MSR, place + 1)) {
			expect_field(what, "the event to inject", F_INJECT, INFO(T_HARD, V_UD));
			expect_field(what, "RIP", F_GUEST_RIP, at(g_call));
			check(host_rflags == 2, "%s: RFLAGS 0x%lx", what, host_rflags);
			if (place)
				check(rdmsr(MSR_LSTAR) == 0x1000, "%s: the entries before it are loaded", what);
		}
		wrmsr(MSR_LSTAR, lstar);
		wrmsr(MSR_CSTAR, cstar);
	}
	expect_good(what);
}

void group_entry_msrs(void)
{
	bad_entry("loading FS_BASE", MSR_FS_BASE, 0);
	bad_entry("loading GS_BASE", MSR_GS_BASE, 0);
	bad_entry("loading an x2APIC register", 0x808, 0);
	bad_entry("loading an x2APIC register", 0x8ff, 0);
	bad_entry("loading an MSR with bit 32 of its number", 1ull << 32 | MSR_STAR, 0);
	bad_entry("loading an MSR that does not exist", 0x12345678, 0);
	bad_entry("loading a read-only MSR", VMX_BASIC, rdmsr(VMX_BASIC));
	bad_entry("loading an address that is not canonical", MSR_LSTAR, 1ull << 63);
	bad_entry("loading a bad PAT", MSR_PAT, 2);
	bad_entry("loading reserved bits of EFER", MSR_EFER, rdmsr(MSR_EFER) | 2);
	/* Many good ones. */
	for (unsigned i = 0; i < ARRAY_SIZE(area); i++)
		area[i] = (struct msr_entry){ MSR_CSTAR, i };
	vm_good(LONG);
	vm_put(F_ENTRY_MSR_LOAD, at(area));
	vm_put(F_ENTRY_LOADS, ARRAY_SIZE(area));
	if (vm_run("512 MSRs", g_call) && expect_call("512 MSRs", g_call))
		check(rdmsr(MSR_CSTAR) == ARRAY_SIZE(area) - 1, "512 MSRs: the last counts: 0x%lx", rdmsr(MSR_CSTAR));
	wrmsr(MSR_CSTAR, 0);
}

/* ---- lists of good MSRs, both ways ---- */

GUEST(l_swap, "rdmsr; mov %eax, %ebx; mov %esi, %eax; xor %edx, %edx; wrmsr");

static void msr_lists(void)
{
	u64 lstar = rdmsr(MSR_LSTAR), kernel = rdmsr(MSR_KERNEL_GS_BASE);

	wrmsr(MSR_LSTAR, 0x111000);
	wrmsr(MSR_KERNEL_GS_BASE, 0x222000);
	area[0] = (struct msr_entry){ MSR_LSTAR, 0x333000 };
	area[1] = (struct msr_entry){ MSR_KERNEL_GS_BASE, 0x444000 };
	area2[0] = (struct msr_entry){ MSR_LSTAR, 0xdead };
	area2[1] = (struct msr_entry){ MSR_KERNEL_GS_BASE, 0xdead };
	area2[4] = (struct msr_entry){ MSR_LSTAR, 0x555000 };
	area2[5] = (struct msr_entry){ MSR_KERNEL_GS_BASE, 0x666000 };
	memset(msr_bitmap, 0, PAGE);
	vm_good(LONG);
	vm_or(F_PROC, can_proc(PROC_MSR_BITMAPS) ? PROC_MSR_BITMAPS : 0);
	vm_put(F_ENTRY_MSR_LOAD, at(area));
	vm_put(F_ENTRY_LOADS, 2);
	vm_put(F_EXIT_MSR_STORE, at(area2));
	vm_put(F_EXIT_STORES, 2);
	vm_put(F_EXIT_MSR_LOAD, at(area2 + 4));
	vm_put(F_EXIT_LOADS, 2);
	reg[G_RCX] = MSR_LSTAR;
	reg[G_RSI] = 0x777000;
	if (vm_run("MSR lists", l_swap) && can_proc(PROC_MSR_BITMAPS) && expect_call("MSR lists", l_swap_next)) {
		check(reg[G_RBX] == 0x333000, "MSR lists: the guest's value 0x%lx", reg[G_RBX]);
		check(area2[0].value == 0x777000 && area2[1].value == 0x444000, "MSR lists: stored 0x%lx 0x%lx",
		      area2[0].value, area2[1].value);
		check(area2[0].index == MSR_LSTAR && area[0].value == 0x333000, "MSR lists: the rest is as it was");
		check(rdmsr(MSR_LSTAR) == 0x555000 && rdmsr(MSR_KERNEL_GS_BASE) == 0x666000,
		      "MSR lists: loaded 0x%lx 0x%lx",
		      rdmsr(MSR_LSTAR), rdmsr(MSR_KERNEL_GS_BASE));
	}
	wrmsr(MSR_LSTAR, lstar);
	wrmsr(MSR_KERNEL_GS_BASE, kernel);
}

/* ---- host state ---- */

struct table_pointer { u16 limit; u64 base; } __attribute__((packed));

PIECE(i_trap_to_user, "nop");

static u64 read_dr7(void)
{
	u64 v;
	__asm__ volatile("mov %%dr7, %0" : "=r"(v));
	return v;
}

/* A guest whose state differs from the host's wherever it can. */
static void different_guest(void)
{
	vm_good(LONG);
	vm_put(F_GUEST_FS_BASE, 0x123456000);
	vm_put(F_GUEST_GS_BASE, 0xffff800012345000);
	vm_put(F_GUEST_DS_SEL, 0);
	vm_put(F_GUEST_DS_AR, 0x10000);
	vm_put(F_GUEST_ES_LIMIT, 0xfff);
	vm_put(F_GUEST_GDTR_BASE, 0x5000);
	vm_put(F_GUEST_GDTR_LIMIT, 0x17);
	vm_put(F_GUEST_IDTR_BASE, 0x6000);
	vm_put(F_GUEST_IDTR_LIMIT, 0x7f);
	vm_put(F_GUEST_TR_SEL, 0x28);
	vm_put(F_GUEST_TR_BASE, 0x7000);
	vm_put(F_GUEST_LDTR_SEL, 0x48);
	vm_put(F_GUEST_LDTR_BASE, 0x8000);
	vm_put(F_GUEST_LDTR_LIMIT, 0x1f);
	vm_put(F_GUEST_LDTR_AR, 0x82);
	vm_or(F_GUEST_CR0, CR0_TS | CR0_AM);
	vm_or(F_GUEST_CR4, CR4_DE | CR4_TSD);
	vm_or(F_GUEST_CR3, 0x18);
	vm_or(F_ENTRY, can_entry(N_LOAD_DEBUG) ? N_LOAD_DEBUG : 0);
	vm_put(F_GUEST_DR7, 0x455);
	vm_put(F_GUEST_RFLAGS, 0x244ed7);
	vm_put(F_GUEST_SYSENTER_CS, 0x1111);
	vm_put(F_GUEST_SYSENTER_ESP, 0x2222);
	vm_put(F_GUEST_SYSENTER_EIP, 0x3333);
	vm_put(F_GUEST_RSP, 0x9999000);
}

static void host_tables(void)
{
	struct table_pointer gdt, idt;
	u16 tr, ldtr, selectors[6];

	__asm__ volatile("sgdt %0; sidt %1; str %2; sldt %3" : "=m"(gdt), "=m"(idt), "=m"(tr), "=m"(ldtr));
	__asm__ volatile("mov %%es, %0; mov %%cs, %1; mov %%ss, %2; mov %%ds, %3; mov %%fs, %4; mov %%gs, %5"
			 : "=m"(selectors[0]), "=m"(selectors[1]), "=m"(selectors[2]), "=m"(selectors[3]),
			 	"=m"(selectors[4]),
			   "=m"(selectors[5]));
	check(gdt.base == vm_get(F_HOST_GDTR_BASE) && gdt.limit == 0xffff, "host state: GDTR 0x%lx, limit 0x%x",
	      gdt.base,
	      gdt.limit);
	check(idt.base == vm_get(F_HOST_IDTR_BASE) && idt.limit == 0xffff, "host state: IDTR 0x%lx, limit 0x%x",
	      idt.base,
	      idt.limit);
	check(tr == SEL_TSS, "host state: TR 0x%x", tr);
	check(ldtr == 0, "host state: LDTR 0x%x", ldtr);
	for (u32 i = 0; i < 6; i++)
		check(selectors[i] == vm_get(F_HOST_ES_SEL + 2 * i), "host state: selector %d is 0x%x", i,
		      selectors[i]);
}

/* Limits and rights are fixed: by LSL and LAR they are the descriptors', so they are tried. */
static void host_segments_work(void)
{
	volatile u32 value = 0;

	__asm__ volatile("mov %1, %%es:(%0)" : : "r"(&value), "r"(0x77u) : "memory");
	check(value == 0x77, "host state: ES of the host writes");
	run_code(i_trap_to_user, USER, 0, 0);
	check(last_trap.vector == V_DONE && last_trap.new_ss == 0, "host state: TR gives the stack: vector %ld",
	      last_trap.vector);
}

static void expect_msr(const char *name, u32 msr, u64 v)
{
	check(rdmsr(msr) == v, "host state: %s 0x%lx, expected 0x%lx", name, rdmsr(msr), v);
}

void group_host_state(void)
{
	u64 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4(), efer = rdmsr(MSR_EFER), pat = rdmsr(MSR_PAT);

	different_guest();
	vm_put(F_HOST_SYSENTER_CS, 0x4444);
	vm_put(F_HOST_SYSENTER_ESP, 0x5555000);
	vm_put(F_HOST_SYSENTER_EIP, 0xffff800000006666);
	vm_put(F_HOST_FS_BASE, 0x7777000);
	vm_put(F_HOST_GS_BASE, 0xffff800000008888);
	vm_or(F_HOST_CR4, CR4_DE);
	if (can_entry(N_LOAD_PAT) && can_exit(X_LOAD_PAT)) {
		vm_or(F_ENTRY, N_LOAD_PAT);
		vm_put(F_GUEST_PAT, 0x0606060606060606);
		vm_or(F_EXIT, X_LOAD_PAT);
		vm_put(F_HOST_PAT, 0x0007040600070406);
	}
	if (!vm_run("host state", g_call) || !expect_call("host state", g_call))
		return;
	check(host_rflags == 2, "host state: RFLAGS 0x%lx", host_rflags);
	check(read_cr0() == cr0 && read_cr3() == cr3 && read_cr4() == (cr4 | CR4_DE),
	      "host state: CR0 0x%lx CR3 0x%lx CR4 0x%lx",
	      read_cr0(), read_cr3(), read_cr4());
	check(read_dr7() == 0x400, "host state: DR7 0x%lx", read_dr7());
	expect_msr("DEBUGCTL", MSR_DEBUGCTL, 0);
	expect_msr("SYSENTER_CS", SYSENTER_CS, 0x4444);
	expect_msr("SYSENTER_ESP", SYSENTER_ESP, 0x5555000);
	expect_msr("SYSENTER_EIP", SYSENTER_EIP, 0xffff800000006666);
	expect_msr("FS_BASE", MSR_FS_BASE, 0x7777000);
	expect_msr("GS_BASE", MSR_GS_BASE, 0xffff800000008888);
	expect_msr("EFER", MSR_EFER, efer);
	if (can_exit(X_LOAD_PAT))
		expect_msr("PAT", MSR_PAT, 0x0007040600070406);
	host_tables();
	host_segments_work();
	write_cr4(cr4);
	wrmsr(MSR_PAT, pat);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
	expect_good("host state");
}

/* ---- guest state: loaded, and saved as it was ---- */

struct seen {
	struct table_pointer gdt, idt;
	u16 tr, ldtr, selectors[6];
	u64 cr0, cr3, cr4, dr7, rflags;
} __attribute__((packed));
static struct seen seen __attribute__((aligned(16)));

GUEST(l_state, "pushf; pop %rax; mov %rax, 68(%rbx); sgdt (%rbx); sidt 10(%rbx); str %eax; mov %ax, 20(%rbx);"
	       "sldt %eax; mov %ax, 22(%rbx); mov %es, %eax; mov %ax, 24(%rbx); mov %cs, %eax; mov %ax, 26(%rbx);"
	       "mov %ss, %eax; mov %ax, 28(%rbx); mov %ds, %eax; mov %ax, 30(%rbx); mov %fs, %eax; mov %ax, 32(%rbx);"
	       "mov %gs, %eax; mov %ax, 34(%rbx); mov %cr0, %rax; mov %rax, 36(%rbx);"
	       "mov %cr3, %rax; mov %rax, 44(%rbx);"
	       "mov %cr4, %rax; mov %rax, 52(%rbx); mov %dr7, %rax; mov %rax, 60(%rbx)");

static const u32 saved[] = {
	F_GUEST_ES_SEL, F_GUEST_CS_SEL, F_GUEST_SS_SEL, F_GUEST_DS_SEL, F_GUEST_FS_SEL, F_GUEST_GS_SEL,
		F_GUEST_LDTR_SEL,
	F_GUEST_TR_SEL, F_GUEST_ES_LIMIT, F_GUEST_CS_LIMIT, F_GUEST_SS_LIMIT, F_GUEST_DS_LIMIT, F_GUEST_FS_LIMIT,
	F_GUEST_GS_LIMIT, F_GUEST_LDTR_LIMIT, F_GUEST_TR_LIMIT, F_GUEST_GDTR_LIMIT, F_GUEST_IDTR_LIMIT, F_GUEST_ES_AR,
	F_GUEST_CS_AR, F_GUEST_SS_AR, F_GUEST_FS_AR, F_GUEST_GS_AR, F_GUEST_LDTR_AR, F_GUEST_TR_AR,
	F_GUEST_CS_BASE, F_GUEST_ES_BASE, F_GUEST_SS_BASE, F_GUEST_FS_BASE, F_GUEST_GS_BASE, F_GUEST_LDTR_BASE,
	F_GUEST_TR_BASE, F_GUEST_GDTR_BASE, F_GUEST_IDTR_BASE, F_GUEST_CR0, F_GUEST_CR3, F_GUEST_CR4, F_GUEST_RSP,
	F_GUEST_RFLAGS, F_GUEST_SYSENTER_CS, F_GUEST_SYSENTER_ESP, F_GUEST_SYSENTER_EIP, F_INTERRUPTIBILITY, F_ACTIVITY,
};

static void saved_as_loaded(void)
{
	static u64 before[ARRAY_SIZE(saved)];

	different_guest();
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		before[i] = vm_get(saved[i]);
	if (!vm_run("guest state", g_call) || !expect_call("guest state", g_call))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		check(vm_get(saved[i]) == before[i], "guest state: field 0x%x is 0x%lx, was 0x%lx", saved[i],
		      vm_get(saved[i]),
		      before[i]);
	check(vm_get(F_GUEST_DS_AR) >> 16 & 1, "guest state: DS is unusable");
}

static void loaded(void)
{
	different_guest();
	vm_put(F_GUEST_RSP, at(guest_stack_top));
	vm_put(F_GUEST_DS_SEL, SEL_DATA | 3);
	vm_put(F_GUEST_DS_AR, 0xc0f3);
	vm_put(F_GUEST_RFLAGS, 0x44ed7);
	reg[G_RBX] = at(&seen);
	if (!vm_run("guest state", l_state) || !expect_call("guest state", l_state_next))
		return;
	check(seen.gdt.base == 0x5000 && seen.gdt.limit == 0x17, "the guest sees GDTR 0x%lx, 0x%x", seen.gdt.base,
	      seen.gdt.limit);
	check(seen.idt.base == 0x6000 && seen.idt.limit == 0x7f, "the guest sees IDTR 0x%lx, 0x%x", seen.idt.base,
	      seen.idt.limit);
	check(seen.tr == 0x28 && seen.ldtr == 0x48, "the guest sees TR 0x%x, LDTR 0x%x", seen.tr, seen.ldtr);
	for (u32 i = 0; i < 6; i++)
		check(seen.selectors[i] == vm_get(F_GUEST_ES_SEL + 2 * i), "the guest sees selector %d as 0x%x", i,
		      seen.selectors[i]);
	check(seen.cr0 == vm_get(F_GUEST_CR0) && seen.cr3 == vm_get(F_GUEST_CR3) && seen.cr4 == vm_get(F_GUEST_CR4),
	      "the guest sees CR0 0x%lx CR3 0x%lx CR4 0x%lx", seen.cr0, seen.cr3, seen.cr4);
	check(seen.rflags == 0x44ed7, "the guest sees RFLAGS 0x%lx", seen.rflags);
	if (can_entry(N_LOAD_DEBUG))
		check(seen.dr7 == 0x455, "the guest sees DR7 0x%lx", seen.dr7);
}

/* Bases and limits are used: FS and GS in 64-bit mode, all in compatibility mode. */
GUEST(l_bases, "mov %fs:8, %rax; mov %gs:16, %rdx");
GUEST(l_limit, ".code32; mov %es:0xffc, %eax; mov %ds:4, %edx; l_limit_at: mov %es:0xffd, %eax; .code64");
extern const char l_limit_at[];

static void bases_and_limits(void)
{
	static u64 data[600];

	data[1] = 0x1212;
	data[2] = 0x3434;
	vm_good(LONG);
	vm_put(F_GUEST_FS_BASE, at(data));
	vm_put(F_GUEST_GS_BASE, at(data));
	if (vm_run("bases", l_bases) && expect_call("bases", l_bases_next))
		check(reg[G_RAX] == 0x1212 && reg[G_RDX] == 0x3434, "bases: 0x%lx 0x%lx", reg[G_RAX], reg[G_RDX]);
	((volatile u32 *)data)[0x3ff] = 0x5656;
	vm_good(COMPAT);
	vm_put(F_GUEST_ES_BASE, at(data));
	vm_put(F_GUEST_ES_LIMIT, 0xfff);
	vm_put(F_GUEST_ES_AR, 0x4093);
	vm_put(F_GUEST_DS_BASE, at(data) + 4);
	if (vm_run("limits", l_limit) && expect_event("limits", V_GP, 0)) {
		check(reg[G_RAX] == 0x5656 && reg[G_RDX] == 0x1212, "limits: 0x%lx 0x%lx", reg[G_RAX], reg[G_RDX]);
		check(vm_frame()->rip == at(l_limit_at), "limits: the fault is at 0x%lx", vm_frame()->rip);
	}
}

/* CR0.CD and NW are not switched; ET neither. */
static void cr0_kept(void)
{
	u64 host = read_cr0(), keep = CR0_CD | CR0_NW;

	vm_good(LONG);
	vm_put(F_GUEST_CR0, vm_get(F_GUEST_CR0) ^ keep);
	if (vm_run("CR0.CD and NW", g_call) && expect_call("CR0.CD and NW", g_call))
		check((vm_get(F_GUEST_CR0) & keep) == (host & keep), "CR0.CD and NW: saved CR0 0x%lx",
		      vm_get(F_GUEST_CR0));
	vm_good(LONG);
	vm_put(F_HOST_CR0, host ^ keep);
	if (vm_run("CR0.CD and NW of the host", g_call))
		check(read_cr0() == host, "CR0.CD and NW of the host: CR0 0x%lx", read_cr0());
}

GUEST(l_efer, "mov $0xc0000080, %ecx; rdmsr");
GUEST(l_efer32, ".code32; mov $0xc0000080, %ecx; rdmsr; .code64");

/* Without loading EFER entries and exits set LMA and LME by the mode, and nothing else. */
static void efer_by_mode(void)
{
	static const enum mode modes[] = { LONG, COMPAT, PAE, FLAT };
	u64 efer = rdmsr(MSR_EFER), both = EFER_LMA | EFER_LME;

	for (unsigned i = 0; can_proc(PROC_MSR_BITMAPS) && i < ARRAY_SIZE(modes); i++) {
		bool ia32e = modes[i] == LONG || modes[i] == COMPAT;

		vm_good(modes[i]);
		memset(msr_bitmap, 0, PAGE);
		vm_or(F_PROC, PROC_MSR_BITMAPS);
		vm_clear(F_ENTRY, N_LOAD_EFER);
		vm_clear(F_EXIT, X_LOAD_EFER);
		if (!vm_run("EFER by the mode", modes[i] == LONG ? l_efer : l_efer32) ||
		    !expect_call("EFER by the mode", modes[i] == LONG ? l_efer_next : l_efer32_next))
			continue;
		check(reg[G_RAX] == (ia32e ? efer : efer & ~both), "EFER by the mode %d: 0x%lx", modes[i], reg[G_RAX]);
		check(rdmsr(MSR_EFER) == efer, "EFER by the mode %d: 0x%lx in the host", modes[i], rdmsr(MSR_EFER));
	}
}

GUEST(l_push, "push %rbx; pop %rcx; mov %fs:8, %rax");

/* 64-bit mode needs no usable SS; the base of an unusable FS counts. */
static void unusable(void)
{
	static u64 data[2] = { 0, 0x7878 };

	vm_good(LONG);
	vm_put(F_GUEST_SS_AR, 0x10000);
	vm_put(F_GUEST_SS_SEL, 0);
	vm_put(F_GUEST_FS_SEL, 0);
	vm_put(F_GUEST_FS_AR, 0x10000);
	vm_put(F_GUEST_FS_BASE, at(data));
	reg[G_RBX] = 0x9191;
	if (vm_run("unusable segments", l_push) && expect_call("unusable segments", l_push_next)) {
		check(reg[G_RCX] == 0x9191 && reg[G_RAX] == 0x7878, "unusable segments: 0x%lx 0x%lx", reg[G_RCX],
		      reg[G_RAX]);
		check(vm_get(F_GUEST_SS_AR) >> 16 & vm_get(F_GUEST_FS_AR) >> 16 & 1,
		      "unusable segments are saved as such");
	}
}

void group_guest_state(void)
{
	saved_as_loaded();
	loaded();
	bases_and_limits();
	cr0_kept();
	efer_by_mode();
	unusable();
	msr_lists();
	expect_good("guest state");
}
