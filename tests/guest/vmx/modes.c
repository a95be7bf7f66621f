/*
 * Guests of 16 and 32 bits: real mode and protected mode without paging ("unrestricted guest"), virtual-8086 mode,
 * PAE and 32-bit paging; and guests that change their mode.
 */
#include "vmx.h"

/* Code of 16 bits, which is copied to LOW_CODE; NAME_next is where it does VMCALL. */
#define CODE16(name, text)                                                                     \
	__asm__(".pushsection .text\n.code16\n" #name ":\n" text "\n" #name "_next: vmcall\n1: jmp 1b\n"  \
		".code64\n" #name "_end:\n.popsection");                                             \
	extern const char name[], name##_next[], name##_end[]

CODE16(m_arithmetic, "mov $0x1234, %ax; mov %ax, %bx; shl $4, %bx; add %bx, %ax; push %ax; pop %cx; mov %sp, %dx");
CODE16(m_memory, "mov $0x55aa, %ax; mov %ax, 0x4000; mov %es:0x4000, %bx; mov %ss:0x4000, %cx");
CODE16(m_cpuid, "cpuid");
CODE16(m_outs, "outsb");
CODE16(m_outs32, "addr32 outsb");
CODE16(m_int, "int $0x40");
CODE16(m_limit, "mov 0xffff, %ax");
CODE16(m_far, "ljmp $0x6010, $0x0000");
CODE16(m_protected, "lgdtl 0x5000; mov %cr0, %eax; or $1, %al; mov %eax, %cr0; ljmpl *0x5008");
CODE16(m_hlt, "hlt");
CODE16(m_vmread, "vmread %eax, %ebx");
CODE16(m_iopl, "pushf; cli");
GUEST(m_flat, ".code32; mov %ds:(%ebx), %eax; push %eax; pop %ecx; inc %ecx; .code64");
GUEST(m_invlpg, ".code32; invlpg 0x10(%ebx,%ecx,4); .code64");
GUEST(m_outs_flat, ".code32; outsl; .code64");
GUEST(m_outs_flat16, ".code32; addr16 outsl %fs:(%si), (%dx); .code64");
GUEST(m_landed, ".code32; mov %cs, %eax; mov $0x10, %ecx; mov %ecx, %ds; mov %ecx, %ss; .code64");
GUEST(m_to_long, ".code32; mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4; mov %ebx, %cr3;"
		 "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; mov %cr0, %eax; or $0x80000000, %eax;"
		 "mov %eax, %cr0; ljmp $8, $m_in_long; .code64; m_in_long: mov $1, %rax; shl $40, %rax");
GUEST(m_from_long, ".code32; mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0; .code64");

static u8 *low(unsigned offset) { return (u8 *)(uintptr_t)(LOW_BASE + offset); }

static const void *low_code(const char *code, const char *end)
{
	memcpy(low(LOW_CODE), code, (size_t)(end - code));
	return (const void *)(uintptr_t)LOW_CODE;
}
#define LOW(name) low_code(name, name##_end)
#define LOW_NEXT(name) ((const void *)(uintptr_t)(LOW_CODE + (u64)(name##_next - name)))

static void begin16(enum mode m)
{
	vm_good(m);
	vm_put(F_GUEST_SS_SEL, LOW_SELECTOR);
	vm_put(F_GUEST_SS_BASE, LOW_BASE);
	vm_put(F_GUEST_DS_SEL, LOW_SELECTOR);
	vm_put(F_GUEST_DS_BASE, LOW_BASE);
	vm_put(F_GUEST_ES_SEL, LOW_SELECTOR + 0x10);
	vm_put(F_GUEST_ES_BASE, LOW_BASE + 0x100);
	vm_put(F_GUEST_RSP, LOW_STACK);
}

/* What real mode and virtual-8086 mode have in common. */
static void code16(enum mode m)
{
	const char *what = m == REAL ? "real mode" : "virtual-8086 mode";

	begin16(m);
	if (vm_run(what, LOW(m_arithmetic)) && expect_call(what, LOW_NEXT(m_arithmetic)))
		check((reg[G_RAX] & 0xffff) == (u16)(0x1234 + 0x12340) && reg[G_RCX] == (reg[G_RAX] & 0xffff) &&
			      reg[G_RDX] == LOW_STACK, "%s: 0x%lx 0x%lx 0x%lx", what, reg[G_RAX], reg[G_RCX],
			      	reg[G_RDX]);
	begin16(m);
	memset(low(0x4000), 0, 0x200);
	low(0x4100)[0] = 0x77;
	if (vm_run(what, LOW(m_memory)) && expect_call(what, LOW_NEXT(m_memory)))
		check(reg[G_RBX] == 0x77 && reg[G_RCX] == 0x55aa, "%s: 0x%lx 0x%lx from memory", what, reg[G_RBX],
		      reg[G_RCX]);
	begin16(m);
	if (vm_run(what, LOW(m_cpuid)) && expect_exit(what, R_CPUID, 0)) {
		expect_field(what, "RIP", F_GUEST_RIP, LOW_CODE);
		expect_field(what, "instruction length", F_EXIT_LEN, 2);
		expect_field(what, "CS", F_GUEST_CS_SEL, LOW_SELECTOR);
	}
	begin16(m);
	memcpy(low(0x100), g_call, 3);
	if (vm_run(what, LOW(m_far)) && expect_reason(what, R_VMCALL)) {
		expect_field(what, "CS after a far jump", F_GUEST_CS_SEL, LOW_SELECTOR + 0x10);
		expect_field(what, "CS base after a far jump", F_GUEST_CS_BASE, LOW_BASE + 0x100);
		expect_field(what, "RIP after a far jump", F_GUEST_RIP, 0);
	}
	begin16(m);
	if (vm_run(what, LOW(m_vmread)))
		m == REAL ? expect_call("VMREAD in real mode", (void *)(uintptr_t)(LOW_HANDLERS + 16 * V_UD)) :
			    expect_call("VMREAD in virtual-8086 mode", guest_vectors32 + 16 * V_UD);
}

static void strings16(void)
{
	static const struct { const char *code, *end; u32 info; u64 linear; } list[] = {
		{ m_outs, m_outs_end, 0 << 7 | 3 << 15, LOW_BASE + 0x1234 },
		  { m_outs32, m_outs32_end, 1 << 7 | 3 << 15, LOW_BASE + 0x1234 },
	};

	for (unsigned i = 0; can_proc(PROC_IO) && i < ARRAY_SIZE(list); i++) {
		begin16(REAL);
		vm_or(F_PROC, PROC_IO);
		reg[G_RDX] = 0x80;
		reg[G_RSI] = i ? 0x1234 : 0xabcd1234;
		if (!vm_run("OUTS in real mode", low_code(list[i].code, list[i].end)) ||
		    !expect_exit("OUTS in real mode", R_IO, 0x80ull << 16 | 16))
			continue;
		expect_field("OUTS in real mode", "guest-linear address", F_GUEST_LINEAR, list[i].linear);
		check((vm_get(F_INSN_INFO) & 0x38380) == list[i].info,
		      "OUTS in real mode: instruction information 0x%lx",
		      vm_get(F_INSN_INFO));
	}
}

static void real_events(void)
{
	begin16(REAL);
	if (vm_run("INT in real mode", LOW(m_int)) &&
	    expect_call("INT in real mode", (void *)(uintptr_t)(LOW_HANDLERS + 16 * 0x40))) {
		check(*(volatile u16 *)low(LOW_STACK - 6) == LOW_CODE + 2, "INT in real mode: IP on the stack 0x%x",
		      *(volatile u16 *)low(LOW_STACK - 6));
		low(LOW_HANDLERS + 16 * 0x40)[3] = 0xcf; /* IRET */
		vm_skip();
		if (vm_go("IRET in real mode"))
			expect_call("IRET in real mode", LOW_NEXT(m_int));
	}
	begin16(REAL);
	if (vm_run("#GP in real mode", LOW(m_limit)))
		expect_call("#GP in real mode", (void *)(uintptr_t)(LOW_HANDLERS + 16 * V_GP));
	begin16(REAL);
	vm_put(F_EXCEPTIONS, 1 << V_GP);
	if (vm_run("#GP in real mode", LOW(m_limit)) && expect_exit("#GP in real mode", R_EXCEPTION, 0)) {
		/* Real mode has no error codes. */
		expect_field("#GP in real mode", "exit information", F_EXIT_INFO, INFO(T_HARD, V_GP));
		expect_field("#GP in real mode", "RIP", F_GUEST_RIP, LOW_CODE);
	}
	begin16(REAL);
	vm_or(F_PROC, PROC_HLT);
	if (vm_run("HLT in real mode", LOW(m_hlt)))
		expect_exit("HLT in real mode", R_HLT, 0);
	/* A vector behind the end of the table: #GP; and with no table at all the end. */
	begin16(REAL);
	vm_put(F_GUEST_IDTR_LIMIT, 0x40 * 4 - 1);
	if (vm_run("INT behind the table", LOW(m_int)))
		expect_call("INT behind the table", (void *)(uintptr_t)(LOW_HANDLERS + 16 * V_GP));
	begin16(REAL);
	vm_put(F_GUEST_IDTR_LIMIT, 0);
	if (vm_run("INT without a table", LOW(m_int)))
		expect_exit("INT without a table", R_TRIPLE, 0);
}

/* Into protected mode by the guest itself, without an exit. */
static void real_to_protected(void)
{
	struct { u16 limit; u32 base; } __attribute__((packed)) gdt = { GDT_ENTRIES * 8 - 1, 0 };
	struct { u32 offset; u16 selector; } __attribute__((packed)) target = { (u32)at(m_landed), SEL_CODE32 };

	begin16(REAL);
	gdt.base = (u32)vm_get(F_HOST_GDTR_BASE);
	memcpy(low(0x5000), &gdt, sizeof(gdt));
	memcpy(low(0x5008), &target, sizeof(target));
	if (!vm_run("real to protected mode", LOW(m_protected)) ||
	    !expect_call("real to protected mode", m_landed_next))
		return;
	check(vm_get(F_GUEST_CR0) & CR0_PE, "real to protected mode: CR0 0x%lx", vm_get(F_GUEST_CR0));
	expect_field("real to protected mode", "CS", F_GUEST_CS_SEL, SEL_CODE32);
	expect_field("real to protected mode", "rights of CS", F_GUEST_CS_AR, 0xc09b);
	expect_field("real to protected mode", "rights of SS", F_GUEST_SS_AR, 0xc093);
	expect_field("real to protected mode", "ES", F_GUEST_ES_SEL, LOW_SELECTOR + 0x10);
	check(reg[G_RAX] == SEL_CODE32, "real to protected mode: the guest sees CS 0x%lx", reg[G_RAX]);
	vm_put(F_GUEST_RIP, at(m_to_long));
	vm_put(F_GUEST_IDTR_BASE, at(guest_idt));
	vm_put(F_GUEST_IDTR_LIMIT, 0xfff);
	if (!can_proc(PROC_MSR_BITMAPS) || vm_get(F_PROC) & PROC_CR3_LOAD)
		return;
	/* And on into IA-32e mode: the exit sets the entry control. */
	memset(msr_bitmap, 0, PAGE);
	vm_or(F_PROC, PROC_MSR_BITMAPS);
	reg[G_RBX] = at(guest_pml4);
	if (!vm_go("protected to IA-32e mode") || !expect_call("protected to IA-32e mode", m_to_long_next))
		return;
	check(reg[G_RAX] == 1ull << 40, "protected to IA-32e mode: RAX 0x%lx", reg[G_RAX]);
	check(vm_get(F_ENTRY) & N_IA32E, "protected to IA-32e mode: entry controls 0x%lx", vm_get(F_ENTRY));
	if (can_exit(X_SAVE_EFER))
		check((vm_get(F_GUEST_EFER) & (EFER_LMA | EFER_LME)) == (EFER_LMA | EFER_LME),
		      "protected to IA-32e mode: EFER 0x%lx", vm_get(F_GUEST_EFER));
	vm_put(F_GUEST_RIP, at(g_call));
	if (vm_go("in IA-32e mode again"))
		expect_call("in IA-32e mode again", g_call);
}

/* Out of IA-32e mode, from compatibility mode. */
static void long_to_protected(void)
{
	vm_good_ept(COMPAT, false);
	vm_or(F_PROC2, P2_UNRESTRICTED);
	if (!vm_run("IA-32e to protected mode", m_from_long) ||
	    !expect_call("IA-32e to protected mode", m_from_long_next))
		return;
	check(!(vm_get(F_ENTRY) & N_IA32E) && !(vm_get(F_GUEST_CR0) & CR0_PG),
	      "IA-32e to protected mode: controls 0x%lx CR0 0x%lx",
	      vm_get(F_ENTRY), vm_get(F_GUEST_CR0));
	if (can_exit(X_SAVE_EFER))
		check((vm_get(F_GUEST_EFER) & (EFER_LMA | EFER_LME)) == EFER_LME,
		      "IA-32e to protected mode: EFER 0x%lx",
		      vm_get(F_GUEST_EFER));
}

static void code32(enum mode m, const char *what)
{
	static volatile u32 value = 41;

	vm_good(m);
	reg[G_RBX] = at(&value);
	if (vm_run(what, m_flat) && expect_call(what, m_flat_next)) {
		check(reg[G_RCX] == 42, "%s: ECX 0x%lx", what, reg[G_RCX]);
		check(!(vm_get(F_ENTRY) & N_IA32E) == (m != COMPAT), "%s: entry controls 0x%lx", what, vm_get(F_ENTRY));
	}
	if (can_proc(PROC_INVLPG)) {
		vm_good(m);
		vm_or(F_PROC, PROC_INVLPG);
		reg[G_RBX] = 0xfffffff8;
		reg[G_RCX] = 2;
		if (vm_run(what, m_invlpg)) /* the sum wraps around at 32 bits */
			expect_exit(what, R_INVLPG, 0x10);
	}
	for (unsigned i = 0; can_proc(PROC_IO) && i < 2; i++) {
		vm_good(m);
		vm_or(F_PROC, PROC_IO);
		vm_put(F_GUEST_FS_BASE, 0x10000);
		reg[G_RSI] = 0x12345678;
		if (!vm_run(what, i ? m_outs_flat16 : m_outs_flat) || !expect_exit(what, R_IO, 16 | 3))
			continue;
		expect_field(what, "guest-linear address", F_GUEST_LINEAR, i ? 0x15678 : 0x12345678);
		check((vm_get(F_INSN_INFO) & 0x38380) == (i ? 4 << 15 : 1 << 7 | 3 << 15),
		      "%s: instruction information 0x%lx", what,
		      vm_get(F_INSN_INFO));
	}
}

/* Virtual-8086 mode's own: what IOPL does not allow. */
static void v86(void)
{
	code16(V86);
	begin16(V86);
	if (vm_run("HLT in virtual-8086 mode", LOW(m_hlt)))
		expect_call("HLT in virtual-8086 mode", guest_vectors32 + 16 * V_GP);
	begin16(V86);
	vm_put(F_EXCEPTIONS, 1 << V_GP);
	if (vm_run("PUSHF in virtual-8086 mode", LOW(m_iopl)) &&
	    expect_exit("PUSHF in virtual-8086 mode", R_EXCEPTION, 0))
		expect_field("PUSHF in virtual-8086 mode", "exit information", F_EXIT_INFO,
			     INFO(T_HARD, V_GP) | INFO_ERROR);
	begin16(V86);
	vm_or(F_GUEST_RFLAGS, 3 << 12);
	if (vm_run("INT in virtual-8086 mode", LOW(m_int)))
		expect_call("INT in virtual-8086 mode", guest_vectors32 + 16 * 0x40);
}

void group_modes(void)
{
	code32(COMPAT, "compatibility mode");
	code32(PAE, "32-bit guest with PAE");
	code32(FLAT, "32-bit guest");
	v86();
	if (vm_can(REAL)) {
		code32(BARE, "protected mode without paging");
		code16(REAL);
		strings16();
		real_events();
		real_to_protected();
		long_to_protected();
	} else {
		skip("unrestricted guest");
	}
	expect_good("modes");
}
