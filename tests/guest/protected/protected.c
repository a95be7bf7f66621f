/*
 * 32-bit protected mode: segment limits and types, task switches by every way there
 * is and what they store and check, 16-bit code, stacks, gates and tasks, virtual-8086
 * mode and its extensions (where CPUID has them), and paging with 4-byte entries
 * (4 MiB pages) and with PAE.
 *
 * Checks that QEMU's translator (7.2) fails are excused there by the word "qemu".
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long long u64;
typedef _Bool bool;
enum { false, true };

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

__asm__(".pushsection .multiboot, \"a\"\n	.balign 4\n	.long 0x1badb002, 0, "
        "-0x1badb002\n.popsection\n"
        ".pushsection .bss\n	.balign 16\n	.skip 16384\nstack_top:\n.popsection\n"
        ".pushsection .text\n	.globl start\nstart:	cli\n	cld\n	mov	$stack_top, %esp\n	"
        "push	%ebx\n"
        "	call	main\n.popsection\n");

/* ---- console and checks ---- */

static void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void print(const char *s)
{
	for (; *s; s++) {
		while (!(inb(0x3fd) & 0x20))
			;
		outb(0x3f8, (u8)*s);
	}
}

static void print_hex(u32 v)
{
	char text[11] = "0x";

	for (unsigned i = 0; i < 8; i++)
		text[2 + i] = "0123456789abcdef"[v >> (28 - 4 * i) & 15];
	print(text);
}

static unsigned checks, failures;
static bool qemu;

static void same(const char *what, u32 found, u32 expected)
{
	checks++;
	if (found == expected)
		return;
	failures++;
	print("FAIL: ");
	print(what);
	print(": ");
	print_hex(found);
	print(", expected ");
	print_hex(expected);
	print("\n");
}

void *memset(void *d, int c, unsigned n);
void *memset(void *d, int c, unsigned n)
{
	void *start = d;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return start;
}

/* ---- descriptors ---- */

enum {
	CODE = 0x08,
	DATA = 0x10,
	UCODE = 0x1b,
	UDATA = 0x23,
	MAIN_TSS = 0x28,
	OTHER_TSS = 0x30,
	TASK_GATE = 0x38,
	LDT = 0x40,
	SCRATCH = 0x48,
	CONFORMING = 0x50,
	CALL_GATE = 0x58,
	CODE16 = 0x60,
	TSS16 = 0x68,
	ENTRIES = 32,
	NT = 1 << 14,
	VM = 1 << 17,
	TF = 1 << 8,
	BUSY = 2,
	IF = 1 << 9,
	IOPL = 3 << 12,
	VIF = 1 << 19,
	VIP = 1 << 20,
};

struct tss {
	u16 link, r0;
	u32 esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt;
	u16 trap, map;
	u8 redirect[32], io[8];
};
struct __attribute__((packed)) table { u16 limit; u32 base; };
struct gate { u16 low, selector; u8 zero, type; u16 high; };

static u64 gdt[ENTRIES] __attribute__((aligned(8)));
static struct gate idt[256];
static struct tss main_tss, other;
static u8 other_stack[4096] __attribute__((aligned(16))), ring0_stack[4096] __attribute__((aligned(16)));

static void set(unsigned selector, u32 base, u32 limit, unsigned type, unsigned flags)
{
	((volatile u64 *)gdt)[selector / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 |
	                                      (u64)type << 40 | (u64)(limit >> 16 & 15) << 48 |
	                                      (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static unsigned type_of(unsigned selector) { return (unsigned)(((volatile u64 *)gdt)[selector / 8] >> 40 & 0xff); }

/* ---- catching exceptions ---- */

struct fault { u32 vector, error, eip, cs, eflags, esp, ss, cr2; };
volatile struct fault fault;
u32 resume_esp, resume_eip;
extern const u8 entries[];

/* 16 bytes each. What faulted is left for resume_eip, in ring 0 with flat segments. */
__asm__(".pushsection .text\n	.balign 16\nentries:\n	vector = 0\n	.rept 256\n	.balign 16\n"
        "	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)\n	push	$0\n	"
        ".endif\n"
        "	push	$vector\n	jmp	common\n	vector = vector + 1\n	.endr\n"
        "common:\n	mov	$0x10, %eax\n	mov	%eax, %ds\n	mov	%eax, %es\n	mov	"
        "%esp, %edx\n"
        "	pop	%ss:fault\n	pop	fault+4\n	pop	fault+8\n	pop	"
        "fault+12\n	pop	fault+16\n"
        "	mov	%edx, fault+20\n	testb	$3, fault+12\n	jnz	1f\n	testb	$2, "
        "fault+18\n	jz	2f\n"
        "1:	pop	fault+20\n	pop	fault+24\n"
        "2:	mov	%cr2, %eax\n	mov	%eax, fault+28\n	mov	$0x10, %eax\n	mov	"
        "%eax, %ss\n"
        "	mov	%eax, %fs\n	mov	%eax, %gs\n	mov	resume_esp, %esp\n	push	"
        "$2\n	popf\n	cld\n"
        "	jmp	*resume_eip\n.popsection\n");

static void gate(unsigned vector, const void *handler, unsigned type)
{
	u32 a = (u32)handler;

	((volatile struct gate *)idt)[vector] = (struct gate){ (u16)a, CODE, 0, (u8)type, (u16)(a >> 16) };
}

static void gate_default(unsigned vector)
{
	gate(vector, entries + 16 * vector, vector == 0x21 || vector == 3 ? 0xee : 0x8e);
}

static void task_gate(unsigned vector, u16 selector)
{
	((volatile struct gate *)idt)[vector] = (struct gate){ 0, selector, 0, 0x85, 0 };
}

enum { NONE = 0xffff };

/* Executes @text with EAX, EBX, ECX as given; fault.vector is NONE if nothing happened. */
#define TRY(text, eax, ebx, ecx)                                                                               \
	do {                                                                                                   \
		u32 a_ = (u32)(eax), b_ = (u32)(ebx), c_ = (u32)(ecx);                                         \
		__asm__ volatile("push %%ebp\n	movl $0xffff, fault\n	movl $0, fault+4\n"                     \
				 "	movl %%esp, resume_esp\n	movl $2f, resume_eip\n" text "\n2:\n"           \
				 "	push $0x10\n	pop %%ds\n	push $0x10\n	pop %%es\n	push $2\n	popf\n	pop %%ebp"\
				 : "+a"(a_), "+b"(b_), "+c"(c_) : : "edx", "esi", "edi", "memory", "cc");       \
	} while (0)

static void expect(const char *what, u32 vector, u32 error)
{
	same(what, fault.vector, vector);
	if (fault.vector == vector && vector != NONE)
		same(what, fault.error, error);
}

static void load_tables(void)
{
	struct table g = { sizeof(gdt) - 1, (u32)gdt }, i = { sizeof(idt) - 1, (u32)idt };

	set(CODE, 0, 0xfffff, 0x9b, 0xc);
	set(DATA, 0, 0xfffff, 0x93, 0xc);
	set(UCODE, 0, 0xfffff, 0xfb, 0xc);
	set(UDATA, 0, 0xfffff, 0xf3, 0xc);
	set(CONFORMING, 0, 0xfffff, 0x9f, 0xc);
	set(CODE16, (u32)entries & 0xffff0000, 0xffff, 0x9b, 0);
	set(MAIN_TSS, (u32)&main_tss, sizeof(main_tss) - 1, 0x89, 0);
	set(OTHER_TSS, (u32)&other, sizeof(other) - 1, 0x89, 0);
	((volatile u64 *)gdt)[TASK_GATE / 8] = (u64)OTHER_TSS << 16 | 0x85ull << 40;
	for (unsigned v = 0; v < 256; v++)
		gate_default(v);
	main_tss.esp0 = (u32)ring0_stack + sizeof(ring0_stack);
	main_tss.ss0 = DATA;
	main_tss.map = (u16)__builtin_offsetof(struct tss, io);
	__asm__ volatile("lgdt %0; lidt %1; ljmp %2, $1f; 1: mov %3, %%eax; mov %%eax, %%ds; mov %%eax, "
	                 "%%es; mov %%eax, %%fs; "
	                 "mov %%eax, %%gs; mov %%eax, %%ss; mov %4, %%ax; ltr %%ax"
	                 :
	                 : "m"(g), "m"(i), "i"(CODE), "i"(DATA), "i"(MAIN_TSS)
	                 : "eax", "memory");
}

/* ---- segments ---- */

static u8 bytes[64];

static void segments(void)
{
	set(SCRATCH, (u32)bytes, 15, 0x93, 4);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%al", SCRATCH, 15, 0);
	expect("the last byte of a segment", NONE, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%al", SCRATCH, 16, 0);
	expect("past the limit", 13, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%eax", SCRATCH, 13, 0);
	expect("four bytes across the limit", 13, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%eax", SCRATCH, 0xffffffff, 0);
	expect("around the top of a small segment", 13, 0);
	set(SCRATCH, (u32)bytes, 15, 0x97, 4);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%al", SCRATCH, 15, 0);
	expect("expand-down: at the limit", 13, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%al", SCRATCH, 16, 0);
	expect("expand-down: above it", NONE, 0);
	set(SCRATCH, (u32)bytes, 15, 0x91, 4);
	TRY("mov %%eax, %%es; movb $1, %%es:(%%ebx)", SCRATCH, 0, 0);
	expect("store to a read-only segment", 13, 0);
	TRY("mov %%eax, %%ss", SCRATCH, 0, 0);
	expect("SS: read-only", 13, SCRATCH);
	set(SCRATCH, 0, 0xfffff, 0x99, 0xc);
	TRY("mov %%eax, %%es", SCRATCH, 0, 0);
	expect("ES: execute-only code", 13, SCRATCH);
	TRY("movb $1, %%cs:(%%ebx)", 0, bytes, 0);
	expect("store to a code segment", 13, 0);
	set(SCRATCH, 0, 0xfffff, 0x13, 0xc);
	TRY("mov %%eax, %%es", SCRATCH, 0, 0);
	expect("ES: not present", 11, SCRATCH);
	TRY("mov %%eax, %%ss", SCRATCH, 0, 0);
	expect("SS: not present", 12, SCRATCH);
	TRY("mov %%eax, %%ss", 0, 0, 0);
	expect("SS: null", 13, 0);
	TRY("mov %%eax, %%es", 0x1234, 0, 0);
	expect("ES: past the table", 13, 0x1234);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%al", 0, bytes, 0);
	expect("a load through a null segment", 13, 0);
	TRY("ljmp $0x10, $0", 0, 0, 0);
	expect("far jump to a data segment", 13, DATA);
	set(SCRATCH, 0, 0xfffff, 0x1b, 0xc);
	TRY("ljmp $0x48, $0", 0, 0, 0);
	expect("far jump to a segment that is not present", 11, SCRATCH);
	set(SCRATCH, 0, 15, 0x9b, 4);
	TRY("ljmp $0x48, $16", 0, 0, 0);
	expect("far jump past the limit", 13, 0);
	TRY("ljmp $0x50, $1f; 1: mov %%cs, %%eax; ljmp $8, $1f; 1:", 0, 0, 0);
	expect("to a conforming segment and back", NONE, 0);
	gate(0x22, entries, 0x0e);
	TRY("int $0x22", 0, 0, 0);
	expect("INT through a gate that is not present", 11, 0x22 * 8 + 2);
	gate(0x22, entries, 0x8c);
	TRY("int $0x22", 0, 0, 0);
	expect("INT through a call gate", 13, 0x22 * 8 + 2);
	gate_default(0x22);
	TRY("mov $0x7fffffff, %%eax; add $1, %%eax; into", 0, 0, 0);
	expect("INTO", 4, 0);
	TRY("mov $0x7fffffff, %%eax; add $1, %%eax; addr16 into", 0, 0, 0);
	expect("INTO with a prefix", 4, 0);
	TRY("bound %%eax, (%%ebx)", 5, bytes, 0);
	expect("BOUND", 5, 0);
	TRY("push %%cs; pop %%eax; lds (%%ebx), %%ecx", 0, bytes, 0);
	expect("PUSH CS, LDS of null", NONE, 0);
	TRY("arpl %%ax, %%bx", 3, 0, 0);
	expect("ARPL", NONE, 0);
}

/* ---- task switches ---- */

volatile u32 task_runs, task_flags, task_tr, task_cr0, task_top, task_link, main_type;
extern const char task_iret[], task_jump[], task_fix[];
u32 divisor;
__asm__(".pushsection .text\n"
        ".macro note\n	incl task_runs\n	pushf\n	pop task_flags\n	xor %eax, %eax\n	str "
        "%ax\n	mov %eax, task_tr\n"
        "	mov %cr0, %eax\n	mov %eax, task_cr0\n	clts\n	mov (%esp), %eax\n	mov %eax, "
        "task_top\n"
        "	movzwl other, %eax\n	mov %eax, task_link\n	mov gdt + 0x28 + 4, %eax\n	mov %eax, "
        "main_type\n.endm\n"
        "task_iret:	note\n	iret\n	jmp task_iret\n"
        "task_jump:	note\n	ljmp $0x28, $0\n	jmp task_jump\n"
        "task_fix:	note\n	movl $10, divisor\n	iret\n	jmp task_fix\n.popsection");

static u32 read_cr0(void)
{
	u32 v;

	__asm__ volatile("mov %%cr0, %0" : "=r"(v));
	return v;
}

static u32 read_cr3(void)
{
	u32 v;

	__asm__ volatile("mov %%cr3, %0" : "=r"(v));
	return v;
}

static void prepare(const void *entry)
{
	memset(&other, 0, sizeof(other));
	other.cr3 = main_tss.cr3 = read_cr3();
	other.eip = (u32)entry;
	other.eflags = 2;
	other.esp = other.esp0 = (u32)other_stack + sizeof(other_stack) - 64;
	other.cs = CODE;
	other.ss = other.ss0 = other.ds = other.es = other.fs = other.gs = DATA;
	other.map = sizeof(other);
	task_runs = task_link = 0;
	set(OTHER_TSS, (u32)&other, sizeof(other) - 1, 0x89, 0);
}

static void went_there(const char *what, bool nested)
{
	expect(what, NONE, 0);
	same(what, task_runs, 1);
	same("the task's register", task_tr, OTHER_TSS);
	same("NT in the task", task_flags >> 14 & 1, nested);
	same("CR0.TS in the task", task_cr0 >> 3 & 1, 1);
	same("the link", task_link, nested ? MAIN_TSS : 0);
	same("the main task is busy in the other", main_type >> 8 & 0xff, nested ? 0x8b : 0x89);
	same("not busy any more", type_of(OTHER_TSS), 0x89);
	same("busy again", type_of(MAIN_TSS), 0x8b);
	same("CR0.TS on return", read_cr0() >> 3 & 1, 1);
	__asm__ volatile("clts");
}

static void task_calls(void)
{
	prepare(task_iret);
	TRY("lcall $0x30, $0xf4f4f4f4", 0, 0, 0);
	went_there("call of a task", true);
	same("NT is cleared in the task that returned", other.eflags & NT, 0);
	TRY("lcall $0x30, $0xf4f4f4f4", 0, 0, 0);
	same("called again, it goes on after its IRET", task_runs, 2);
	prepare(task_jump);
	TRY("ljmp $0x30, $0xf4f4f4f4", 0, 0, 0);
	went_there("jump to a task", false);
	prepare(task_iret);
	TRY("lcall $0x38, $0", 0, 0, 0);
	went_there("call through a task gate", true);
	prepare(task_iret);
	TRY("mov $0x12345678, %%esi; stc; lcall $0x30, $0; nop", 0, 0, 0);
	same("saved ESI", main_tss.esi, 0x12345678);
	same("saved flags", main_tss.eflags & 1, 1);
	same("saved selectors", main_tss.cs << 16 | main_tss.ss, CODE << 16 | DATA);
	same("saved EIP: the next instruction", *(u8 *)main_tss.eip, 0x90);
	same("saved ESP", main_tss.esp, resume_esp);
}

static void task_interrupts(void)
{
	prepare(task_iret);
	task_gate(0x30, OTHER_TSS);
	TRY("int $0x30", 0, 0, 0);
	went_there("INT through a task gate", true);
	prepare(task_iret);
	task_gate(3, OTHER_TSS);
	TRY("int3", 0, 0, 0);
	went_there("INT3 through a task gate", true);
	gate_default(3);
	prepare(task_fix);
	task_gate(0, OTHER_TSS);
	divisor = 0;
	TRY("xor %%edx, %%edx; mov $1500, %%eax; divl divisor; mov %%eax, divisor", 0, 0, 0);
	went_there("#DE through a task gate", true);
	same("the division is executed again", divisor, 150);
	gate_default(0);
}

volatile u32 skip;
extern const char task_skip[];
__asm__(".pushsection .text\ntask_skip:	note\n	mov skip, %eax\n	add %eax, main_tss + 32\n	add "
        "$4, %esp\n	iret\n"
        "	jmp task_skip\n.popsection");

static void task_errors(void)
{
	task_gate(13, OTHER_TSS);
	prepare(task_skip);
	skip = 2;
	TRY("mov %%eax, %%es", 0x1234, 0, 0);
	went_there("#GP through a task gate", true);
	same("its error code is on the task's stack", task_top, 0x1234);
	gate_default(13);
	prepare(task_iret);
	set(OTHER_TSS, (u32)&other, sizeof(other) - 1, 0x8b, 0);
	TRY("lcall $0x30, $0", 0, 0, 0);
	expect("call of a busy task", 13, OTHER_TSS);
	TRY("int $0x30", 0, 0, 0);
	expect("INT to a busy task", 13, OTHER_TSS);
	set(OTHER_TSS, (u32)&other, sizeof(other) - 1, 0x09, 0);
	TRY("lcall $0x30, $0", 0, 0, 0);
	expect("call of a task that is not present", 11, OTHER_TSS);
	set(OTHER_TSS, (u32)&other, 0x66, 0x89, 0);
	TRY("lcall $0x30, $0", 0, 0, 0);
	expect("call of a task that is too small", 10, OTHER_TSS);
	TRY("int $0x30", 0, 0, 0);
	expect("INT to a task that is too small", 10, OTHER_TSS + (qemu ? fault.error - OTHER_TSS : 0));
	same("none of them happened", type_of(MAIN_TSS), 0x8b);
	prepare(task_iret);
	main_tss.link = DATA;
	TRY("pushf; orl $0x4000, (%%esp); popf; iret", 0, 0, 0);
	expect("IRET to a task that is none", 10, DATA);
	main_tss.link = OTHER_TSS;
	TRY("pushf; orl $0x4000, (%%esp); popf; iret", 0, 0, 0);
	expect("IRET to a task that is not busy", 10, OTHER_TSS);
	main_tss.link = 0;
}

/* After a fault in the new task: back to the main one. */
static void recover(void)
{
	__asm__ volatile("clts");
	set(MAIN_TSS, (u32)&main_tss, sizeof(main_tss) - 1, 0x89, 0);
	set(OTHER_TSS, (u32)&other, sizeof(other) - 1, 0x89, 0);
	__asm__ volatile("ltr %w0" : : "r"(MAIN_TSS));
}

static void task_state_errors(void)
{
	static const struct { const char *what; unsigned field; u32 value, vector, error; } list[] = {
		{ "new CS: data", __builtin_offsetof(struct tss, cs), DATA, 10, DATA },
		{ "new CS: null", __builtin_offsetof(struct tss, cs), 0, 10, 0 },
		{ "new DS: past the table", __builtin_offsetof(struct tss, ds), 0x1230, 10, 0x1230 },
		{ "new ES: a system segment", __builtin_offsetof(struct tss, es), MAIN_TSS, 10, MAIN_TSS },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		prepare(task_iret);
		*(volatile u32 *)((u8 *)&other + list[i].field) = list[i].value;
		TRY("lcall $0x30, $0", 0, 0, 0);
		expect(list[i].what, list[i].vector, list[i].error);
		same("the new task is the current one", type_of(OTHER_TSS) & BUSY, BUSY);
		recover();
	}
	prepare(task_iret);
	other.trap = 1;
	TRY("lcall $0x30, $0", 0, 0, 0);
	if (!qemu) {
		u32 dr6;

		expect("the T flag", 1, 0);
		__asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
		same("is BT in DR6", dr6 & 0xe00f, 0x8000);
		same("before the first instruction", fault.eip, (u32)task_iret);
		__asm__ volatile("mov %0, %%dr6" : : "r"(0xffff0ff0));
		recover();
	}
}

extern const char task_user[];
__asm__(".pushsection .text\ntask_user:	incl task_runs\n	mov %cs, task_cr0\n	iret\n	jmp "
        "task_user\n.popsection");

static void task_conforming(void)
{
	prepare(task_user);
	other.cs = CONFORMING | 3;
	other.ss = other.ds = other.es = other.fs = other.gs = UDATA;
	other.eflags |= 3 << 12;
	TRY("lcall $0x30, $0", 0, 0, 0);
	expect("a task in conforming code at user level", NONE, 0);
	same("ran", task_runs, 1);
	same("at level 3", task_cr0 & 0xffff, CONFORMING | 3);
	__asm__ volatile("clts");
}

/* ---- 16 bits: code, stacks, gates, tasks, and a local table ---- */

struct tss16 { u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt; };
static struct tss16 small_tss __attribute__((aligned(4)));
static u64 local_table[2] __attribute__((aligned(8)));
volatile u16 frame16[8];
volatile u32 regs16[4];
extern const char code16[], handler16[], task16[], gate16[];
enum { STACK16 = 0x300000 };

/* code16: near calls are of two bytes, and IP is 16 bits wide. handler16: three words were pushed, and where the stack is. */
__asm__(".pushsection .text\n	.code16\n"
        "code16:	movl $0x89ab0000, %eax\n	movw %sp, %cx\n	call 1f\n	subw %cx, %dx\n	movw %dx, "
        "%ax\n	movl $regs16, %ebx\n	movl %eax, %ss:(%ebx)\n	lretl\n1:	movw %sp, %dx\n	ret\n"
        "handler16:	movl $frame16, %ebx\n	popw %ss:(%ebx)\n	popw %ss:2(%ebx)\n	popw %ss:4(%ebx)\n	"
        "ljmpl $8, $handler16_end\n"
        "task16:	movl $regs16, %ebx\n	movl %eax, (%ebx)\n	movl %esp, 4(%ebx)\n	incw %si\n	iretw\n	jmp "
        "task16\n"
        "gate16:	movl $frame16, %ebx\n	movl %esp, %eax\n	movw %ss:(%eax), %cx\n	movw %cx, %ss:(%ebx)\n	"
        "movw %ss:2(%eax), %cx\n	movw %cx, %ss:2(%ebx)\n	movw %ss:4(%eax), %cx\n	movw %cx, %ss:4(%ebx)\n	"
        "movw %ss:6(%eax), %cx\n	movw %cx, %ss:6(%ebx)\n	movw %ss:8(%eax), %cx\n	movw %cx, %ss:8(%ebx)\n	"
        "int $0x21\n	.code32\n.popsection\n");

static u32 low16(const char *p) { return (u32)p & 0xffff; }

static void stack_of_16_bits(void)
{
	volatile u32 *memory = (volatile u32 *)STACK16;
	u32 esp;

	set(SCRATCH, STACK16, 0xffff, 0x93, 0);
	memory[0] = memory[0xfffc / 4] = memory[0x10000 / 4] = 0;
	__asm__ volatile("mov %%esp, %%esi; mov %1, %%ss; mov $0xabcd0004, %%esp; push $0x11; push $0x22; mov %%esp, %0;"
	                 "mov %2, %%ss; mov %%esi, %%esp"
	                 : "=&r"(esp) : "r"(SCRATCH), "r"(DATA) : "esi", "memory");
	same("a 16-bit stack pointer wraps, the rest of ESP stays", esp, 0xabcdfffc);
	same("pushed at its bottom", memory[0], 0x11);
	same("pushed at its top", memory[0xfffc / 4], 0x22);
	same("and nothing above it", memory[0x10000 / 4], 0);
	__asm__ volatile("mov %%esp, %%esi; mov %1, %%ss; mov $0xabcdfffc, %%esp; pop %0; pop %0; mov %%esp, %0; mov %2, %%ss;"
	                 "mov %%esi, %%esp" : "=&r"(esp) : "r"(SCRATCH), "r"(DATA) : "esi", "memory");
	same("and POP wraps", esp, 0xabcd0004);
	/* Expand-down, 16 bits: from above the limit to 64 KiB. */
	set(SCRATCH, STACK16, 0x0fff, 0x97, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%eax", SCRATCH, 0xfffc, 0);
	expect("expand-down, 16 bits: its top", NONE, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%eax", SCRATCH, 0xfffd, 0);
	expect("past 64 KiB", qemu ? fault.vector : 13, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%eax", SCRATCH, 0x10000, 0);
	expect("all of it past 64 KiB", qemu ? fault.vector : 13, 0);
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%eax", SCRATCH, 0xffe, 0);
	expect("across its limit", qemu ? fault.vector : 13, 0);
	/* A segment of 4 GiB with a base: linear addresses wrap. */
	set(SCRATCH, 0xfffff000, 0xfffff, 0x93, 0xc);
	memory[0] = 0x600df00d;
	TRY("mov %%eax, %%es; mov %%es:(%%ebx), %%eax; cmp $0x600df00d, %%eax; je 2f; ud2", SCRATCH, STACK16 + 0x1000, 0);
	expect("linear addresses wrap at 4 GiB", NONE, 0);
}

static void code_of_16_bits(void)
{
	set(CODE16, (u32)code16 & 0xffff0000, 0xffff, 0x9b, 0);
	regs16[0] = 0;
	TRY("push %%cs; push $1f; push %%eax; push %%ebx; lret; 1: add $0, %%esp", CODE16, low16(code16), 0);
	expect("16-bit code by a far return", NONE, 0);
	same("a near call pushes two bytes", regs16[0], 0x89abfffe);
	if (qemu)
		return;
	set(CODE16, (u32)code16 & 0xffff0000, low16(code16) - 1, 0x9b, 0);
	TRY("push %%eax; push %%ebx; lret", CODE16, low16(code16), 0);
	expect("past the limit of a 16-bit segment", 13, 0);
	set(CODE16, (u32)code16 & 0xffff0000, 0xffff, 0x9b, 0);
}

static void gates_of_16_bits(void)
{
	__asm__ volatile("" : : : "memory");
	((volatile struct gate *)idt)[0x31] = (struct gate){ (u16)low16(handler16), CODE16, 0, 0x86, qemu ? 0 : 0xdead };
	frame16[0] = frame16[1] = frame16[2] = 0;
	TRY("stc; int $0x31; .globl handler16_end; handler16_end: mov %%esp, %%eax; mov %%eax, regs16", 0, 0, 0);
	expect("INT through a 16-bit gate", NONE, 0);
	same("a word of CS", frame16[1], CODE);
	same("a word of flags", frame16[2] & 0x201, 1);
	same("IP: behind INT n", *(u8 *)((resume_eip & 0xffff0000) | (u16)(frame16[0] - 2)), 0xcd);
	same("three words", regs16[0], resume_esp);
	gate_default(0x31);
	/* A call gate of 16 bits with a parameter, from user mode. */
	((volatile u64 *)gdt)[CALL_GATE / 8] = low16(gate16) | (u64)CODE16 << 16 | 1ull << 32 | 0xe4ull << 40 |
					       (qemu ? 0 : 0xdeadull << 48);
	TRY("push $0x23; push %%esp; push $2; push $0x1b; push $1f; iret; 1: mov $0x23, %%eax; mov %%eax, %%ds; pushw $0x777;"
	    "lcall $0x5b, $0xdeadbeef", 0, 0, 0);
	expect("a 16-bit call gate, and INT from there", 0x21, 0);
	same("in the inner level", fault.cs & 0xffff, CODE16);
	same("the parameter of a 16-bit call gate", frame16[2], 0x777);
	same("CS of the caller, a word", frame16[1], UCODE);
	same("SS of the caller, a word", frame16[4], UDATA);
	same("SP of the caller, a word", frame16[3], (u16)(resume_esp - 6));
}

static void task_of_16_bits(void)
{
	set(TSS16, (u32)&small_tss, sizeof(small_tss) - 1, 0x81, 0);
	small_tss = (struct tss16){ .ip = (u16)low16(task16), .flags = 2, .ax = 0x1234, .si = 7, .cs = CODE16, .ss = DATA,
				    .ds = DATA, .es = DATA };
	/* Its stack is below 64 KiB, in a flat segment: ESP's upper half is all ones there. */
	set(SCRATCH, STACK16, 0xffff, 0x93, 0);
	small_tss.ss = SCRATCH;
	small_tss.sp = 0x100;
	regs16[0] = 0;
	TRY("mov $0x55667788, %%edi; push %%fs; mov $0x23, %%edx; mov %%edx, %%fs; lcall $0x68, $0; mov %%edi, regs16 + 8;"
	    "mov %%fs, %%edx; mov %%edx, regs16 + 12; pop %%fs", 0, 0, 0);
	expect("call of a 16-bit task", NONE, 0);
	same("its AX", regs16[0] & 0xffff, 0x1234);
	same("its SP", regs16[1] & 0xffff, 0x100);
	same("saved: SI", small_tss.si, 8);
	same("saved: IP, behind IRET", small_tss.ip - low16(task16), 17);
	same("the link", small_tss.link, MAIN_TSS);
	same("back: 32 bits of EDI", regs16[2], 0x55667788);
	same("back: FS", regs16[3] & 0xffff, UDATA);
	same("not busy", type_of(TSS16), 0x81);
	__asm__ volatile("clts");
	set(TSS16, (u32)&small_tss, 42, 0x81, 0);
	TRY("lcall $0x68, $0", 0, 0, 0);
	expect("a 16-bit TSS that is too small", 10, TSS16);
}

static void local_descriptors(void)
{
	volatile u64 *t = local_table;

	t[0] = 0x00cf9b000000ffff; /* an entry 0 is as good as others */
	t[1] = 0x0000930000000000 | 15 | (u64)(u32)bytes << 16;
	TRY("mov %%eax, %%es", 0xc, 0, 0);
	expect("a local selector without a local table", 13, 0xc);
	set(LDT, (u32)local_table, sizeof(local_table) - 1, 0x82, 0);
	TRY("lldt %%ax", LDT, 0, 0);
	expect("LLDT", NONE, 0);
	TRY("mov %%eax, %%es; movb %%es:15, %%al", 0xc, 0, 0);
	expect("a local data segment", NONE, 0);
	TRY("mov %%eax, %%es; movb %%es:16, %%al", 0xc, 0, 0);
	expect("past its limit", 13, 0);
	TRY("mov %%eax, %%es", 0x14, 0, 0);
	expect("past the local table", 13, 0x14);
	TRY("ljmp $4, $1f; 1: mov %%cs, %%ebx; ljmp $8, $1f; 1: cmp $4, %%bx; je 2f; ud2", 0, 0, 0);
	expect("local code", NONE, 0);
	TRY("lldt %%ax", 0xc, 0, 0);
	expect("LLDT of a local selector", 13, 0xc);
	TRY("lldt %%ax", DATA, 0, 0);
	expect("LLDT of a data segment", 13, DATA);
	set(LDT, (u32)local_table, sizeof(local_table) - 1, 0x02, 0);
	TRY("lldt %%ax", LDT, 0, 0);
	expect("LLDT: not present", 11, LDT);
	TRY("lldt %%ax", 0, 0, 0);
	expect("LLDT of null", NONE, 0);
}

/* ---- virtual-8086 mode ---- */

enum { V86_CODE = 0x7000 };

static void v86(const char *what, const u8 *code, unsigned n, u32 flags, u32 vector, u32 error)
{
	volatile u8 *to = (volatile u8 *)V86_CODE;

	for (unsigned i = 0; i < n; i++)
		to[i] = code[i];
	/* GS, FS, DS, ES, SS, ESP, EFLAGS, CS, EIP */
	TRY("push $0; push $0; push $0x1234; push $0; push $0x700; push $0x800; push %%ebx; push $0x700; "
	    "push $0; iret",
	    0, flags | VM | 2, 0);
	expect(what, vector, error);
	if (vector == fault.vector) {
		same("V86: CS", fault.cs & 0xffff, 0x700);
		same("V86: VM in the flags", fault.eflags & VM, VM);
		same("V86: SS", fault.ss & 0xffff, 0x700);
	}
}
#define V86(what, flags, vector, error, ...)                                   \
	do {                                                                   \
		static const u8 code_[] = { __VA_ARGS__ };                     \
		v86(what, code_, sizeof(code_), flags, vector, error);         \
	} while (0)

static void virtual_8086(void)
{
	enum { IOPL3 = 3 << 12 };

	V86("V86: UD2", 0, 6, 0, 0x0f, 0x0b);
	V86("V86: CLI", 0, 13, 0, 0xfa);
	V86("V86: CLI with IOPL 3", IOPL3, 6, 0, 0xfa, 0x0f, 0x0b);
	V86("V86: PUSHF", 0, 13, 0, 0x9c);
	V86("V86: PUSHF with IOPL 3", IOPL3, 6, 0, 0x9c, 0x0f, 0x0b);
	V86("V86: INT", 0, 13, 0, 0xcd, 0x21);
	V86("V86: INT with IOPL 3", IOPL3, 0x21, 0, 0xcd, 0x21);
	V86("V86: INT through a gate of DPL 0", IOPL3, 13, 0x22 * 8 + 2, 0xcd, 0x22);
	V86("V86: INT3 with IOPL 0", 0, 3, 0, 0xcc);
	V86("V86: HLT", IOPL3, 13, 0, 0xf4);
	V86("V86: MOV CR0", IOPL3, 13, 0, 0x0f, 0x22, 0xc0);
	V86("V86: LLDT", IOPL3, 6, 0, 0x0f, 0x00, 0xd0);
	V86("V86: LGDT", IOPL3, 13, 0, 0x0f, 0x01, 0x16, 0, 0);
	V86("V86: IN, no permission", IOPL3, 13, 0, 0xe4, 0x80);
	V86("V86: past the limit", 0, 13, 0, 0xa1, 0xff, 0xff);
	V86("V86: division by zero", 0, 0, 0, 0x31, 0xc9, 0xf7, 0xf1);
	V86("V86: segment load", 0, 6, 0, 0xb8, 0x00, 0x07, 0x8e, 0xd8, 0xa1, 0, 0, 0x3d, 0xb8, 0x00, 0x74, 1,
	    0xf4, 0x0f, 0x0b);
	V86("V86: far call and return", 0, 6, 0, 0x9a, 7, 0, 0x00, 0x07, 0x0f, 0x0b, 0xcb);
	V86("V86: single step", TF, 1, 0, 0x90, 0x90);
	/* By a task switch: from the V86 task's #UD back through a task gate. */
	{
		static const u8 ud2[] = { 0x0f, 0x0b };

		for (unsigned i = 0; i < sizeof(ud2); i++)
			((volatile u8 *)V86_CODE)[i] = ud2[i];
		prepare(0);
		other.cs = 0x700;
		other.ds = 0x1234;
		other.es = 0x2345;
		other.ss = 0x700;
		other.esp = 0x800;
		other.eflags = VM | 2;
		set(OTHER_TSS, (u32)&other, sizeof(other) - 1, 0x8b, 0);
		task_gate(6, MAIN_TSS);
		main_tss.link = OTHER_TSS;
		TRY("pushf; orl $0x4000, (%%esp); popf; iret", 0, 0, 0);
		expect("to a V86 task and back", NONE, 0);
		same("its flags", other.eflags & VM, VM);
		same("its ES", other.es, 0x2345);
		same("back: the main task is nested in it", main_tss.link, OTHER_TSS);
		gate_default(6);
		main_tss.link = 0;
		__asm__ volatile("clts; pushf; andl $~0x4000, (%esp); popf");
		set(OTHER_TSS, (u32)&other, sizeof(other) - 1, 0x89, 0);
	}
}

/* ---- virtual-8086 mode extensions, protected-mode virtual interrupts ---- */

static bool has_vme(void)
{
	u32 a = 1, b, c, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	return d >> 1 & 1;
}

static u16 v86_word(u32 offset) { return *(volatile u16 *)(V86_CODE + offset); }

static void v86_own_handler(unsigned vector, bool own)
{
	volatile u8 *redirect = &main_tss.redirect[vector / 8];

	*redirect = (u8)(own ? *redirect & ~(1u << vector % 8) : *redirect | 1u << vector % 8);
	*(volatile u32 *)(vector * 4) = 0x7000100; /* 700:100 */
	*(volatile u16 *)(V86_CODE + 0x100) = 0x0b0f;
}

static void virtual_interrupts(void)
{
	V86("VME: CLI", VIF, 6, 0, 0xfa, 0x0f, 0x0b);
	same("cleared VIF", fault.eflags & (VIF | IF), 0);
	V86("VME: STI", 0, 6, 0, 0xfb, 0x0f, 0x0b);
	same("set VIF", fault.eflags & (VIF | IF), VIF);
	V86("VME: STI, one is pending", VIP, 13, 0, 0xfb, 0x0f, 0x0b);
	V86("VME: CLI with IOPL 3", IOPL | VIF, 6, 0, 0xfa, 0x0f, 0x0b);
	same("left VIF", fault.eflags & (VIF | IF), VIF);
	V86("VME: PUSHF", VIF, 6, 0, 0x9c, 0x0f, 0x0b);
	same("pushed VIF as IF, and IOPL 3", v86_word(0x7fe) & (IF | IOPL), IF | IOPL);
	V86("VME: PUSHF", 0, 6, 0, 0x9c, 0x0f, 0x0b);
	same("pushed a VIF of 0", v86_word(0x7fe) & (IF | IOPL), IOPL);
	V86("VME: PUSHFD", 0, 13, 0, 0x66, 0x9c);
	V86("VME: POPF", 0, 6, 0, 0x68, 0x03, 0x02, 0x9d, 0x0f, 0x0b);
	same("popped IF into VIF", fault.eflags & (VIF | IF | IOPL | 1), VIF | 1);
	V86("VME: POPF, IF is clear", VIF | VIP, 6, 0, 0x68, 0x02, 0x00, 0x9d, 0x0f, 0x0b);
	same("cleared VIF, left VIP", fault.eflags & (VIF | VIP), VIP);
	V86("VME: POPF, one is pending", VIP, 13, 0, 0x68, 0x03, 0x02, 0x9d);
	V86("VME: POPF of TF", 0, 13, 0, 0x68, 0x02, 0x01, 0x9d);
	V86("VME: POPFD", 0, 13, 0, 0x66, 0x9d);
	V86("VME: IRET", 0, 6, 0, 0x68, 0x03, 0x02, 0x68, 0x00, 0x07, 0x68, 0x0c, 0x00, 0xcf, 0xf4, 0xf4, 0x0f, 0x0b);
	same("popped IF into VIF", fault.eflags & (VIF | IF | IOPL | 1), VIF | 1);
	same("went there", fault.eip, 12);
	V86("VME: IRET, one is pending", VIP, 13, 0, 0x68, 0x03, 0x02, 0x68, 0x00, 0x07, 0x68, 0x0c, 0x00, 0xcf);
	same("at IRET", fault.eip, 9);
	V86("VME: IRET of TF", 0, 13, 0, 0x68, 0x02, 0x01, 0x68, 0x00, 0x07, 0x68, 0x0c, 0x00, 0xcf);
	V86("VME: IRETD", 0, 13, 0, 0x66, 0xcf);
	V86("VME: INT3 is not redirected", VIF, 3, 0, 0xcc);
}

static void redirected_interrupts(void)
{
	v86_own_handler(0x21, true);
	V86("VME: INT to the program's handler", VIF, 6, 0, 0xcd, 0x21);
	same("entered", fault.eip, 0x100);
	same("cleared VIF", fault.eflags & (VIF | IF), 0);
	same("IP", v86_word(0x7fa), 2);
	same("CS", v86_word(0x7fc), 0x700);
	same("FLAGS: VIF as IF, and IOPL 3", v86_word(0x7fe) & (IF | IOPL), IF | IOPL);
	V86("VME: the same, VIF is clear", VIP, 6, 0, 0xcd, 0x21);
	same("FLAGS without IF", v86_word(0x7fe) & (IF | IOPL), IOPL);
	same("left VIP", fault.eflags & VIP, VIP);
	V86("VME: the same with IOPL 3", IOPL | VIF, 6, 0, 0xcd, 0x21);
	same("FLAGS as they are", v86_word(0x7fe) & (IF | IOPL), IOPL);
	same("left VIF", fault.eflags & VIF, VIF);
	v86_own_handler(0x21, false);
	V86("VME: INT to the monitor, IOPL 0", VIF, 13, 0, 0xcd, 0x21);
	V86("VME: INT to the monitor, IOPL 3", IOPL, 0x21, 0, 0xcd, 0x21);
	main_tss.map = 0xff00;
	V86("VME: the bit map is past the TSS", IOPL, 13, 0, 0xcd, 0x21);
	main_tss.map = (u16)__builtin_offsetof(struct tss, io);
}

#define USER "push $0x23; push %%esp; push %%ebx; push $0x1b; push $1f; iret; 1: "

static void user_virtual_interrupts(void)
{
	TRY(USER "cli; int $0x21", 0, VIF | 2, 0);
	expect("PVI: CLI", 0x21, 0);
	same("cleared VIF", fault.eflags & VIF, 0);
	TRY(USER "sti; int $0x21", 0, 2, 0);
	expect("PVI: STI", 0x21, 0);
	same("set VIF, not IF", fault.eflags & (VIF | IF), VIF);
	TRY(USER "sti; int $0x21", 0, VIP | 2, 0);
	expect("PVI: STI, one is pending", 13, 0);
	TRY(USER "pushl $0x202; popf; int $0x21", 0, 2, 0);
	expect("PVI: POPF", 0x21, 0);
	same("leaves VIF and IF", fault.eflags & (VIF | IF), 0);
	TRY(USER "pushl $2; popf; int $0x21", 0, VIF | VIP | 2, 0);
	same("POPF leaves VIF and VIP", fault.eflags & (VIF | VIP), VIF | VIP);
}

static void extensions(void)
{
	u32 cr4;

	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	if (!has_vme()) {
		TRY("mov %%eax, %%cr4", cr4 | 1, 0, 0);
		expect("CR4.VME without VME", 13, 0);
		return;
	}
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | 1));
	virtual_interrupts();
	redirected_interrupts();
	TRY(USER "cli", 0, 2, 0);
	expect("user CLI without PVI", 13, 0);
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | 2));
	user_virtual_interrupts();
	V86("V86: CLI with PVI only", 0, 13, 0, 0xfa);
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4));
}

/* ---- user mode, call gates ---- */

extern const char gate_target[];
volatile u32 gate_found[4];
__asm__(".pushsection .text\ngate_target:	mov %cs, %eax\n	mov %eax, %ss:gate_found\n	mov 8(%esp), "
        "%eax\n	mov %eax, %ss:gate_found + 4\n"
        "	mov 12(%esp), %eax\n	mov %eax, %ss:gate_found + 8\n	lret $8\n.popsection");

static void privilege(void)
{
	u32 a = (u32)gate_target;

	((volatile u64 *)gdt)[CALL_GATE / 8] = (a & 0xffff) | (u64)CODE << 16 | 2ull << 32 | 0xecull << 40 |
					       (u64)(a >> 16) << 48;
	TRY("push $0x23; push %%esp; push $2; push $0x1b; push $1f; iret; 1: mov $0x23, %%eax; mov %%eax, "
	    "%%ds; push $0x111; push $0x222;"
	    "lcall $0x5b, $0; int $0x21",
	    0, 0, 0);
	expect("call gate from user mode", 0x21, 0);
	same("its code segment", gate_found[0] & 0xffff, CODE);
	same("first parameter", gate_found[1], 0x222);
	same("second parameter", gate_found[2], 0x111);
	same("back in user mode", fault.cs & 0xffff, UCODE);
	TRY("push $0x23; push %%esp; push $2; push $0x1b; push $1f; iret; 1: ljmp $8, $0", 0, 0, 0);
	expect("user jump to kernel code", 13, CODE);
	TRY("push $0x23; push %%esp; push $2; push $0x1b; push $1f; iret; 1: cli", 0, 0, 0);
	expect("user CLI", 13, 0);
	TRY("push $0x23; push %%esp; push $2; push $0x1b; push $1f; iret; 1: lcall $0x30, $0", 0, 0, 0);
	expect("user call of a kernel's task", 13, OTHER_TSS);
	TRY("push $0x10; push %%esp; push $2; push $0x1b; push $1f; iret; 1: nop", 0, 0, 0);
	expect("IRET to user mode with the kernel's SS", 13, DATA);
}

/* ---- paging ---- */

static u32 directory[1024] __attribute__((aligned(4096))), page_table[1024] __attribute__((aligned(4096)));
static u64 pdpt[4] __attribute__((aligned(32))), pae_dir[4][512] __attribute__((aligned(4096))),
        pae_table[512] __attribute__((aligned(4096)));
static u32 target[1024] __attribute__((aligned(4096)));
enum { WINDOW = 0x40000000 };

static void write_cr4(u32 v) { __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static void write_cr3(u32 v) { __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static void write_cr0(u32 v) { __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }

static void user_access(const char *what, bool write, u32 address, u32 vector, u32 error)
{
	if (write)
		TRY("push $0x23; push %%esp; push $2; push $0x1b; push $1f; iret; 1: mov $0x23, %%eax; mov "
		    "%%eax, %%ds; movl $1, (%%ebx); "
		    "int $0x21",
		    0, address, 0);
	else
		TRY("push $0x23; push %%esp; push $2; push $0x1b; push $1f; iret; 1: mov $0x23, %%eax; mov "
		    "%%eax, %%ds; mov (%%ebx), %%eax; "
		    "int $0x21",
		    0, address, 0);
	expect(what, vector, error);
	if (vector == 14)
		same("CR2", fault.cr2, address);
}

static void paging_32(void)
{
	volatile u32 *d = directory, *t = page_table;
	u32 cr0 = read_cr0();

	for (unsigned i = 0; i < 1024; i++)
		d[i] = i << 22 | 0x87;
	d[WINDOW >> 22] = (u32)page_table | 7;
	t[0] = (u32)target | 7;
	t[1] = (u32)target | 5;
	t[2] = (u32)target | 3;
	write_cr4(0x10);
	write_cr3((u32)directory);
	write_cr0(cr0 | 0x80000000);
	target[0] = 0x600df00d;
	user_access("user load", false, WINDOW, 0x21, 0);
	same("accessed", t[0] & 0x60, 0x20);
	user_access("user store", true, WINDOW, 0x21, 0);
	same("dirty", t[0] & 0x60, 0x60);
	same("stored", target[0], 1);
	user_access("user store to a read-only page", true, WINDOW + 0x1000, 14, 7);
	user_access("user load of a supervisor's page", false, WINDOW + 0x2000, 14, 5);
	user_access("user load of nothing", false, WINDOW + 0x3000, 14, 4);
	TRY("movl $2, (%%ebx)", 0, WINDOW + 0x1000, 0);
	expect("supervisor's store to a read-only page without WP", NONE, 0);
	write_cr0(cr0 | 0x80010000);
	TRY("movl $2, (%%ebx)", 0, WINDOW + 0x1000, 0);
	expect("and with WP", 14, 3);
	d[1 + (WINDOW >> 22)] = 0x87 | 1 << 21; /* reserved in a 4 MiB page */
	TRY("mov (%%ebx), %%eax", 0, WINDOW + 0x400000, 0);
	expect("4 MiB page with a reserved bit", qemu ? fault.vector : 14, qemu ? fault.error : 9);
	d[1 + (WINDOW >> 22)] = 0x85;
	TRY("invlpg (%%ebx); movl $2, (%%ebx)", 0, WINDOW + 0x400000, 0);
	expect("store to a read-only 4 MiB page", 14, 3);
	write_cr0(cr0);
}

static bool has_nx(void)
{
	u32 a = 0x80000001, b, c, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	return d >> 20 & 1;
}

static void paging_pae(void)
{
	volatile u64 *t = pae_table, *top = pdpt;
	u32 cr0 = read_cr0();

	for (unsigned i = 0; i < 4; i++) {
		top[i] = (u32)pae_dir[i] | 1;
		for (unsigned j = 0; j < 512; j++)
			((volatile u64 *)pae_dir[i])[j] = (u64)(i << 30 | j << 21) | 0x87;
	}
	((volatile u64 *)pae_dir[1])[0] = (u32)pae_table | 7;
	t[0] = (u32)target | 7;
	t[1] = (u32)target | 5;
	t[2] = (u32)target | 7 | 1ull << 51;
	t[3] = (u32)target | 7 | 1ull << 63;
	write_cr4(0x20);
	write_cr3((u32)pdpt);
	top[2] |= 2;
	TRY("mov %%eax, %%cr0", cr0 | 0x80000000, 0, 0);
	expect("PDPTE: bit 1, on switching paging on", qemu ? fault.vector : 13, 0);
	if (qemu)
		write_cr0(cr0);
	top[2] &= ~2ull;
	write_cr0(cr0 | 0x80010000);
	target[0] = 0;
	user_access("PAE: user load", false, WINDOW, 0x21, 0);
	user_access("PAE: user store", true, WINDOW, 0x21, 0);
	same("PAE: dirty", (u32)t[0] & 0x60, 0x60);
	same("PAE: stored", target[0], 1);
	user_access("PAE: user store to a read-only page", true, WINDOW + 0x1000, 14, 7);
	user_access("PAE: bit 51", false, WINDOW + 0x2000, 14, 0xd);
	TRY("mov (%%ebx), %%eax", 0, WINDOW + 0x3000, 0);
	expect("PAE: NX without NXE is reserved", 14, 9);
	if (has_nx()) {
		__asm__ volatile("mov $0xc0000080, %%ecx; rdmsr; or $0x800, %%eax; wrmsr" : : : "eax", "ecx", "edx");
		TRY("invlpg (%%ebx); mov (%%ebx), %%eax", 0, WINDOW + 0x3000, 0);
		expect("PAE: load of an NX page", NONE, 0);
		TRY("call *%%ebx", 0, WINDOW + 0x3000, 0);
		expect("PAE: fetch of an NX page", 14, 0x11);
	}
	/* The four top entries are registers: loaded with CR3. */
	top[3] = 0;
	TRY("mov (%%ebx), %%eax", 0, 0xc0000000 + 0x100000, 0);
	expect("PAE: a top entry cleared in memory only", qemu ? fault.vector : NONE, 0);
	write_cr3((u32)pdpt);
	TRY("mov (%%ebx), %%eax", 0, 0xc0000000 + 0x100000, 0);
	expect("PAE: and loaded", 14, 0);
	if (!qemu) {
		top[3] = (u32)pae_dir[3] | 1 | 1ull << 5;
		TRY("mov %%eax, %%cr3", pdpt, 0, 0);
		expect("MOV to CR3 with a reserved bit in a top entry", 13, 0);
		top[3] = 1ull << 5;
		TRY("mov %%eax, %%cr3", pdpt, 0, 0);
		expect("not present: nothing is reserved", NONE, 0);
	}
	top[3] = (u32)pae_dir[3] | 1;
	/* A task switch loads CR3, and with it the top entries. */
	write_cr3((u32)pdpt);
	prepare(task_iret);
	top[3] = 0;
	TRY("lcall $0x30, $0", 0, 0, 0);
	expect("task switch under PAE", NONE, 0);
	__asm__ volatile("clts");
	TRY("mov (%%ebx), %%eax", 0, 0xc0000000 + 0x100000, 0);
	expect("it loaded the top entries", qemu ? fault.vector : 14, qemu ? fault.error : 0);
	write_cr0(cr0);
	write_cr4(0x10);
}

int main(const u32 *information);
int main(const u32 *information)
{
	static void (*const groups[])(void) = {
	        segments,        task_calls,   task_interrupts, task_errors, task_state_errors,
	        task_conforming, stack_of_16_bits, code_of_16_bits, gates_of_16_bits, task_of_16_bits, local_descriptors,
	        virtual_8086, extensions, privilege,       paging_32,   paging_pae,
	};

	for (const char *p = (const char *)information[4]; *p; p++)
		qemu |= p[0] == 'q' && p[1] == 'e' && p[2] == 'm' && p[3] == 'u' && p[-1] == ' ';
	outb(0x21, 0xff), outb(0xa1, 0xff);
	load_tables();
	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i]();
	print("protected: ");
	print_hex(checks);
	print(" checks, ");
	print_hex(failures);
	print(" failed\n");
	__asm__ volatile("outl %0, $0xf4" : : "a"(failures || !checks));
	for (;;)
		__asm__ volatile("cli; hlt");
}
