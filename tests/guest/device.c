/*
 * Instructions on device memory: the test device's memory behaves as RAM, so every
 * form of operand must give what it gives on RAM, although a hypervisor has to
 * emulate it. Each form runs on both and the outcomes are compared: registers,
 * flags, memory. Also accesses across the end of the device's page, faults with a
 * device operand, stacks and strings there, and events delivered onto page tables.
 */
#include "lib/guest.h"

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }

static const struct trap *const t = &last_trap;

enum { DEVICE = 0xff000000, WORDS = 64 };
static u64 ram[512] __attribute__((aligned(4096)));
static volatile u64 *const device = (volatile u64 *)(uintptr_t)DEVICE;

/* RDI: the memory. RSI, RDX (and RCX): given. Flags are the state to begin with. */
#define FORM(name, text) PIECE(name, "xor %eax, %eax; mov $0x123456789abcdef, %rax; mov $0xfedcba9876543210, %rbx; " text \
			       "; pushf; pop %r8; mov %rbx, %r11")

FORM(m_load8, "mov (%rdi), %al");
FORM(m_load16, "mov (%rdi), %ax");
FORM(m_load32, "mov (%rdi), %eax");
FORM(m_load64, "mov 8(%rdi), %rax");
FORM(m_odd, "mov 3(%rdi), %rax; mov %rbx, 5(%rdi)");
FORM(m_store8, "mov %bh, 1(%rdi)");
FORM(m_store16, "mov %bx, 2(%rdi)");
FORM(m_store32, "movl $-5, 4(%rdi)");
FORM(m_store64, "movq $-5, 8(%rdi)");
FORM(m_zx, "movzbl 2(%rdi), %eax; movswq 4(%rdi), %rbx");
FORM(m_sx, "movslq 4(%rdi), %rax; movzwl 6(%rdi), %ebx");
FORM(m_alu, "add %eax, (%rdi); adc 8(%rdi), %rbx; sbb %rbx, 16(%rdi); xor %al, 24(%rdi); or %ax, 32(%rdi); "
            "and (%rdi), %rax; "
            "sub $7, %rax; cmp %rax, 8(%rdi)");
FORM(m_imm, "addb $1, (%rdi); adcl $-1, 4(%rdi); subq $300, 8(%rdi); cmpw $0x1234, 16(%rdi); testl $0xf0f0, 20(%rdi)");
FORM(m_unary, "incl (%rdi); decb 4(%rdi); negq 8(%rdi); notw 16(%rdi); lock incq 24(%rdi); lock negb 32(%rdi)");
FORM(m_xchg8, "xchg %al, (%rdi)");
FORM(m_xchg16, "xchg %ax, (%rdi)");
FORM(m_xchg32, "xchg %eax, (%rdi)");
FORM(m_xchg64, "xchg %rax, (%rdi)");
FORM(m_xadd, "xadd %al, (%rdi); xadd %bx, 8(%rdi); lock xadd %eax, 16(%rdi); lock xadd %rbx, 24(%rdi)");
FORM(m_cmpxchg, "cmpxchg %rbx, (%rdi); mov 8(%rdi), %rax; lock cmpxchg %rbx, 8(%rdi); cmpxchg %bl, 16(%rdi)");
FORM(m_cmpxchg8b, "mov (%rdi), %eax; mov 4(%rdi), %edx; mov $3, %ebx; mov $4, %ecx; lock cmpxchg8b (%rdi); "
                  "cmpxchg8b (%rdi)");
FORM(m_cmpxchg16b, "mov (%rdi), %rax; mov 8(%rdi), %rdx; mov $3, %ebx; mov $4, %ecx; lock cmpxchg16b (%rdi)");
FORM(m_bits, "btsl $5, (%rdi); btcq %rdx, (%rdi); mov $9, %ebx; btr %ebx, (%rdi); btl $3, (%rdi); lock btcl "
             "$31, 4(%rdi)");
FORM(m_bits_far, "mov $70, %eax; btcl %eax, (%rdi); mov $-1, %rax; btcq %rax, 16(%rdi); btsl %eax, 16(%rdi)");
FORM(m_scan, "bsf (%rdi), %rax; bsr 8(%rdi), %ebx; popcnt (%rdi), %rax");
FORM(m_shift, "shll $3, (%rdi); sarq %cl, 8(%rdi); rorw $5, 16(%rdi); rclb $1, 24(%rdi); rcrq %cl, 32(%rdi); "
     "shld $3, %rbx, 40(%rdi); shrd %cl, %eax, 48(%rdi)");
FORM(m_mul, "imul (%rdi), %rbx; imul $311, 8(%rdi), %ecx; mulb 16(%rdi); mull 20(%rdi); imulq 24(%rdi)");
FORM(m_div, "mov $0x1234, %eax; xor %edx, %edx; movl $17, (%rdi); divl (%rdi); movq $-9, 8(%rdi); cqto; idivq 8(%rdi)");
FORM(m_setcc, "cmp %rax, %rbx; seta (%rdi); setl 1(%rdi); cmovb 8(%rdi), %rcx; cmovne 4(%rdi), %ebx");
FORM(m_stack, "push (%rdi); pop 8(%rdi); pushw 2(%rdi); popw 20(%rdi); push %rax; pop 24(%rdi)");
FORM(m_call, "lea 1f(%rip), %rax; mov %rax, (%rdi); call *(%rdi); jmp 2f; 1: ret; 2: xor %eax, %eax; movq "
             "%rax, (%rdi)");
FORM(m_string, "mov %rdi, %rbx; lea 64(%rdi), %rsi; mov $9, %ecx; rep movsb; mov $3, %ecx; rep movsq; lodsw; "
               "stosl; mov %rbx, %rdi; xor %ebx, %ebx");
FORM(m_down, "mov %rdi, %rbx; lea 64(%rdi), %rsi; lea 120(%rdi), %rdi; mov $5, %ecx; std; rep movsl; cld; "
             "mov %rbx, %rdi; xor %ebx, %ebx; xor %esi, %esi");
FORM(m_scan_string,
     "mov %rdi, %rbx; mov $50, %ecx; mov (%rdi), %al; inc %al; repne scasb; mov %rbx, %rdi; xor %ebx, %ebx");
FORM(m_compare, "mov %rdi, %rbx; lea 128(%rdi), %rsi; mov $99, %ecx; xor %eax, %eax; repe cmpsb; mov %rbx, "
                "%rdi; xor %ebx, %ebx; xor %esi, %esi");
FORM(m_ports, "mov %rdi, %rbx; mov %rdi, %rsi; mov $0xe0, %edx; mov $7, %ecx; rep outsb; mov $3, %ecx; lea "
              "32(%rbx), %rdi; rep insw; "
              "mov %rbx, %rdi; xor %ebx, %ebx; xor %esi, %esi");
FORM(m_msw, "smsw 6(%rdi); sldt 10(%rdi); str 20(%rdi); mov %cs, 30(%rdi); mov %ds, 33(%rdi); sgdt 40(%rdi); "
            "sidt 51(%rdi)");
FORM(m_lmsw, "smsw (%rdi); lmsw (%rdi)");
FORM(m_segment,
     "movw $0x10, (%rdi); movw (%rdi), %es; mov %es, %eax; movw $0, (%rdi); movw (%rdi), %ss; mov %ss, %ebx; "
     "movw $0x10, (%rdi); movw (%rdi), %ss");
FORM(m_far, "movl $0x33, 8(%rdi); lea 1f(%rip), %rax; mov %rax, (%rdi); movw $8, 8(%rdi); rex64 ljmp "
            "*(%rdi); ud2; 1: xor %eax, %eax; "
            "mov %rax, (%rdi)");
FORM(m_enter, "mov %rsp, %r9; mov %rbp, %r10; lea 256(%rdi), %rsp; mov $0x1111, %ebp; enter $32, $0; push "
              "$-7; push $0x12345; leave; "
              "mov %r9, %rsp; mov %r10, %rbp; movq $0, 248(%rdi)");
FORM(m_sse, "movups (%rdi), %xmm0; movaps %xmm0, 16(%rdi); movdqu 3(%rdi), %xmm1; movq %xmm1, 40(%rdi); movd "
            "%xmm0, 48(%rdi); "
            "movhps 8(%rdi), %xmm1; movntps %xmm1, 64(%rdi); paddd (%rdi), %xmm1; movupd %xmm1, 85(%rdi)");
FORM(m_mmx, "movq (%rdi), %mm0; movq %mm0, 8(%rdi); paddb 16(%rdi), %mm0; movntq %mm0, 24(%rdi); emms");
FORM(m_x87, "fninit; fildl (%rdi); fistpll 8(%rdi); fnstcw 16(%rdi); fldcw 16(%rdi); fld1; fstpt 20(%rdi); "
            "fldt 20(%rdi); fstpl 40(%rdi)");
FORM(m_movbe, "lea (%rdi), %rax; lock orl $0, (%rax); movnti %rbx, 8(%rdi); clflush (%rdi); prefetcht0 "
              "(%rdi); xor %eax, %eax");
FORM(m_table, "mov %rdi, %rbx; mov $3, %al; xlat; mov $0, %ebx");
FORM(m_fxsave, "fxsave 512(%rdi); fxrstor 512(%rdi)");

static void fill(volatile u64 *p)
{
	for (unsigned i = 0; i < 160; i++)
		p[i] = 0x9e3779b97f4a7c15ull * (i + 1) ^ (i >= 16 && i < 28 ? 0 : i << 8);
	for (unsigned i = 0; i < 11; i++)
		p[16 + i] = p[i]; /* for the comparing strings: equal for 88 bytes */
}

static void compare_form(const char *name, const void *code, u64 rdx)
{
	struct trap on_ram;
	unsigned wrong = ~0u;

	fill(ram);
	on_ram = *run_code_flags(code, KERNEL, 0, address(ram), 0, rdx);
	fill(device);
	run_code_flags(code, KERNEL, 0, DEVICE, 0, rdx);
	check(t->vector == on_ram.vector && t->vector == V_DONE, "%s: vector %ld on the device, %ld on RAM",
	      name, t->vector, on_ram.vector);
	check(t->rax == on_ram.rax && t->r11 == on_ram.r11 && t->rcx == on_ram.rcx && t->rdx == on_ram.rdx,
	      "%s: registers 0x%lx 0x%lx 0x%lx 0x%lx on the device", name, t->rax, t->r11, t->rcx, t->rdx);
	check(t->r8 == on_ram.r8 && t->rdi == DEVICE, "%s: flags 0x%lx, on RAM 0x%lx", name, t->r8, on_ram.r8);
	for (unsigned i = 0; i < 160; i++)
		if (device[i] != ram[i])
			wrong = i < wrong ? i : wrong;
	check(wrong == ~0u, "%s: quadword %u is 0x%lx, on RAM 0x%lx", name, wrong, device[wrong & 511],
	      ram[wrong & 511]);
}

static void forms(void)
{
	static const struct { const char *name, *code;
	} list[] = {
#define F(n) { #n, n }
	        F(m_load8),   F(m_load16),  F(m_load32),    F(m_load64),      F(m_odd),     F(m_store8),
	        F(m_store16), F(m_store32), F(m_store64),   F(m_zx),          F(m_sx),      F(m_alu),
	        F(m_imm),     F(m_unary),   F(m_xchg8),     F(m_xchg16),      F(m_xchg32),  F(m_xchg64),
	        F(m_xadd),    F(m_cmpxchg), F(m_cmpxchg8b), F(m_cmpxchg16b),  F(m_bits),    F(m_bits_far),
	        F(m_scan),    F(m_shift),   F(m_mul),       F(m_div),         F(m_setcc),   F(m_stack),
	        F(m_call),    F(m_string),  F(m_down),      F(m_scan_string), F(m_compare), F(m_ports),
	        F(m_msw),     F(m_lmsw),    F(m_segment),   F(m_far),         F(m_enter),   F(m_sse),
	        F(m_mmx),     F(m_x87),     F(m_movbe),     F(m_table),       F(m_fxsave),
#undef F
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		compare_form(list[i].name, list[i].code, 13);
		compare_form(list[i].name, list[i].code, 0x1c5);
	}
}

/* ---- two pages of the device in a row, and one that is not there ---- */

static u64 pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096))),
        pt[512] __attribute__((aligned(4096)));
enum { SLOT = 0x90 };
static const u64 window = (u64)SLOT << 39;

PIECE(w_load, "mov (%rdi), %rax");
PIECE(w_store, "mov %rsi, (%rdi)");
PIECE(w_ins, "mov %edx, %ecx; mov $0xe0, %edx; rep insb");
PIECE(w_movs, "mov %edx, %ecx; rep movsb");
PIECE(w_push, "mov %rdi, %rsp; push %rsi");
PIECE(w_ltr, "movw $0x30, (%rdi); ltr (%rdi); str %eax");
PIECE(w_div, "movq $0, (%rdi); mov $1, %eax; mov $2, %edx; divq (%rdi)");
PIECE(w_jump, "mov $0x1111111111111111, %rax; mov %rax, (%rdi); jmp *(%rdi)");
PIECE(w_run, "jmp *%rdi");

static void windows(void)
{
	((volatile u64 *)boot_pml4)[SLOT] = address(pdpt) | 7;
	pdpt[0] = address(pd) | 7;
	pd[0] = address(pt) | 7;
	((volatile u64 *)pt)[0] = DEVICE | 7;
	((volatile u64 *)pt)[1] = DEVICE | 7; /* the same page */
	((volatile u64 *)pt)[3] = address(ram) | 7;
	run_code(w_store, USER, window + PAGE - 1, 0x88aa);
	expect("store across two device pages", V_DONE, 0);
	check(*((volatile u8 *)device + 4095) == 0xaa && (u8)device[0] == 0x88, "it wrote 0x%x 0x%x",
	      *((volatile u8 *)device + 4095), (u8)device[0]);
	run_code(w_load, USER, window + PAGE - 1, 0);
	check((u16)t->rax == 0x88aa, "load across two device pages: 0x%lx", t->rax);
	outl(0xe0, 0x99999999);
	run_code_flags(w_ins, KERNEL, 0, window + 4032, 0, 1024);
	expect("INSB across two device pages", V_DONE, 0);
	check(t->rdi == window + 4032 + 1024 && *((volatile u8 *)device + 1023 - 64) == 0x99,
	      "it ended at 0x%lx", t->rdi);
	run_code(w_store, USER, window + 2 * PAGE - 4, 0x1122334455667788);
	expect("store from a device page into nothing", V_PF, 6);
	check(t->cr2 == window + 2 * PAGE, "CR2 0x%lx", t->cr2);
	check((u32)(device[511] >> 32) != 0x55667788, "no part of it was done: 0x%lx", device[511]);
	run_code_flags(w_movs, USER, 0, window + 2 * PAGE - 10, window + 3 * PAGE, 25);
	expect("string into nothing", V_PF, 6);
	check(t->rcx == 15 && t->rdi == window + 2 * PAGE, "it stopped there: rcx %ld", t->rcx);
	run_code_flags(w_movs, USER, 0, window + 4 * PAGE - 10, window, 25);
	expect("string from the device into nothing", V_PF, 6);
	check(t->rcx == 15 && t->cr2 == window + 4 * PAGE, "it stopped there: rcx %ld cr2 0x%lx", t->rcx, t->cr2);
	run_code(w_push, USER, window + 2 * PAGE + 8, 1);
	expect("push into nothing", V_PF, 6);
	run_code(w_push, USER, window + 64, 0x1234);
	expect("push onto the device", V_DONE, 0);
	check(device[7] == 0x1234 && t->rsp == window + 56, "0x%lx was pushed, RSP 0x%lx", device[7], t->rsp);
	((volatile u64 *)pt)[0] = DEVICE | 5;
	invlpg(window);
	run_code(w_store, USER, window, 1);
	expect("store to a read-only device page", V_PF, 7);
	run_code(w_load, USER, window, 0);
	expect("load from it", V_DONE, 0);
	((volatile u64 *)pt)[0] = DEVICE | 3;
	invlpg(window);
	run_code(w_load, USER, window, 0);
	expect("user load from a supervisor's device page", V_PF, 5);
	gdt_set(SEL_TSS, gdt_get(SEL_TSS) & ~(2ull << 40));
	run_code(w_ltr, KERNEL, DEVICE, 0);
	expect("LTR from the device", V_DONE, 0);
	check(t->rax == SEL_TSS && gdt_get(SEL_TSS) >> 41 & 1, "TR 0x%lx", t->rax);
	run_code(w_div, KERNEL, DEVICE, 0);
	expect("division by zero, from the device", V_DE, 0);
	check(t->rax == 1 && t->rdx == 2, "nothing changed");
	run_code(w_jump, KERNEL, DEVICE, 0);
	expect("jump through the device to no canonical address", V_GP, 0);
}

/* ---- events delivered onto a stack that is a page table ---- */

static u64 tables[512] __attribute__((aligned(4096)));
PIECE(e_int, "mov %rdi, %rsp; int $0x22");
PIECE(e_ud, "mov %rdi, %rsp; ud2");

/*
 * The table maps itself, so a hypervisor that follows the guest's tables has it
 * write-protected when the frame is pushed. Its upper half is the stack.
 */
static void stack_in_table(void)
{
	u64 slot = 0x91, inside = slot << 39 | slot << 30 | slot << 21 | slot << 12;

	memset(tables, 0, sizeof(tables));
	((volatile u64 *)boot_pml4)[slot] = address(tables) | 3;
	((volatile u64 *)tables)[slot] = address(tables) | 3;
	for (unsigned i = 0; i < 3; i++) {
		((volatile u64 *)(uintptr_t)inside)[0] = i; /* through itself: it is followed as a table now */
		run_code(e_int, KERNEL, address(tables) + 4095, 0);
		expect("INT onto a page table", V_SPARE, 0);
		check(tables[505] == t->rip, "RIP was pushed: 0x%lx 0x%lx", tables[505], t->rip);
		run_code(e_ud, KERNEL, inside + 4088, 0);
		expect("#UD onto a page table, by its own mapping", V_UD, 0);
	}
	((volatile u64 *)boot_pml4)[slot] = 0;
}

int main(void)
{
	static void (*const groups[])(void) = { forms, windows, stack_in_table };

	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i]();
	finish("device");
}
