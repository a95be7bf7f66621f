/*
 * Real mode: a 16-bit program below 64 KiB. Interrupts and exceptions through the
 * vector table, segment limits ("big" segments too), far transfers, string
 * instructions, the instructions that 64-bit mode has not, ports, the PIC, and the
 * way to protected mode and back.
 *
 * Compiled with -m16: C code uses 32-bit registers and CS = DS = ES = SS = 0.
 * Checks that QEMU's translator (7.2) fails are excused there by the word "qemu".
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef _Bool bool;
enum { false, true };

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- from the loader's 32-bit protected mode to main() ---- */

__asm__(".pushsection .multiboot, \"a\"\n	.balign 4\n	.long 0x1badb002, 0, "
        "-0x1badb002\n.popsection\n"
        ".pushsection .bss\n	.balign 16\n	.skip 4096\nstack_top:\n.popsection\n"
        ".pushsection .text\n	.code32\n	.globl start\n"
        "start:	cli\n	cld\n	mov	%ebx, information\n"
        "	lgdt	gdt_pointer\n	lidt	ivt_pointer\n	ljmp	$8, $1f\n	.code16gcc\n"
        "1:	mov	$0x10, %ax\n	mov	%ax, %ds\n	mov	%ax, %es\n	mov	%ax, %fs\n"
        "	mov	%ax, %gs\n	mov	%ax, %ss\n	mov	%cr0, %eax\n	and	$~1, %al\n"
        "	mov	%eax, %cr0\n	ljmp	$0, $2f\n"
        "2:	xor	%ax, %ax\n	mov	%ax, %ds\n	mov	%ax, %es\n	mov	%ax, %fs\n"
        "	mov	%ax, %gs\n	mov	%ax, %ss\n	mov	$stack_top, %esp\n	calll	"
        "main\n	hlt\n"
        ".popsection\n");

struct __attribute__((packed)) table { u16 limit; u32 base; };
/* Null; 16-bit code and data of 64 KiB; flat data; 32-bit code; data of 4 KiB */
static const unsigned long long gdt[] = { 0, 0x00009b000000ffff, 0x000093000000ffff, 0x00cf93000000ffff,
					  0x00cf9b000000ffff, 0x0000930000000fff };
struct table gdt_pointer = { sizeof(gdt) - 1, (u32)gdt }, ivt_pointer = { 0x3ff, 0 };
const u32 *information;

/* ---- ports, console, checks ---- */

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

static void check(bool ok, const char *what, u32 found)
{
	checks++;
	if (ok)
		return;
	failures++;
	print("FAIL: ");
	print(what);
	print(": ");
	print_hex(found);
	print("\n");
}

static void same(const char *what, u32 found, u32 expected) { check(found == expected, what, found); }

static bool on_qemu(void)
{
	const char *p = (const char *)information[4];

	for (; *p; p++)
		if (p[0] == 'q' && p[1] == 'e' && p[2] == 'm' && p[3] == 'u' && p[-1] == ' ')
			return true;
	return false;
}

/* ---- exceptions ---- */

struct fault { u16 vector, ip, cs, flags; u32 esp; };
volatile struct fault fault;
u32 saved_esp, saved_ebp;
u16 resume_ip;
extern const u8 fault_entries[];

/* 16 entries of 8 bytes. What faulted is left for resume_ip, with clean segments. */
__asm__(".pushsection .text\n	.code16gcc\n	.balign 8\nfault_entries:\n	vector = 0\n	.rept "
        "16\n	.balign 8\n"
        "	pushw	$vector\n	jmp	fault_common\n	vector = vector + 1\n	.endr\n"
        "fault_common:\n	popw	%cs:fault\n	movl	%esp, %cs:fault+8\n	popw	"
        "%cs:fault+2\n	popw	%cs:fault+4\n"
        "	popw	%cs:fault+6\n	cld\n	pushl	$0\n	popfl\n	xorl	%eax, %eax\n	movw	%ax, "
        "%ds\n	movw	%ax, %es\n"
        "	movw	%ax, %ss\n	movl	saved_esp, %esp\n	jmp	*resume_ip\n.popsection\n");

static void set_vector(unsigned n, const volatile void *handler) { *(volatile u32 *)(n * 4) = (u32)handler; }

enum { NONE = 0xffff };

/* Executes @text with EAX and EBX as given; fault.vector is NONE if nothing happened. */
#define TRY(text, eax, ebx)                                                                                       \
	do {                                                                                                      \
		u32 a_ = (eax), b_ = (ebx);                                                                       \
		__asm__ volatile("movw $0xffff, fault\n	movl %%esp, saved_esp\n	movl %%ebp, saved_ebp\n"         \
				 "	movw $2f, resume_ip\n" text "\n2:	movl saved_ebp, %%ebp\n	pushl $0\n	popfl" \
				 : "+a"(a_), "+b"(b_) : : "ecx", "edx", "esi", "edi", "memory", "cc");           \
	} while (0)
#define EXPECT(what, n) same(what, fault.vector, n)

__attribute__((used)) static u16 words[8] __attribute__((aligned(16)));

static void exceptions(void)
{
	for (unsigned i = 0; i < 16; i++)
		set_vector(i, fault_entries + 8 * i);
	TRY("ud2", 0, 0);
	EXPECT("UD2", 6);
	same("three words are pushed, no error code", saved_esp - fault.esp, 6);
	check(*(volatile u16 *)(u32)fault.ip == 0x0b0f && fault.cs == 0, "the address of UD2", fault.ip);
	TRY("xorw %%cx, %%cx; divw %%cx", 1, 0);
	EXPECT("division by zero", 0);
	TRY("movw (%%ebx), %%ax", 0, 0xffff);
	EXPECT("a word across the limit", 13);
	TRY("movl (%%ebx), %%eax", 0, 0xfffd);
	EXPECT("four bytes across the limit", 13);
	TRY("movb (%%ebx), %%al", 0, 0x10000);
	EXPECT("past the limit", 13);
	TRY("movb (%%ebx), %%al", 0, 0xffff);
	EXPECT("the last byte", NONE);
	TRY("movw %%ss:(%%ebx), %%ax", 0, 0xffff);
	EXPECT("past the stack's limit", 12);
	TRY("movl %%ebx, %%ebp; movl 1(%%ebp), %%eax", 0, 0xfffd);
	EXPECT("past the stack's limit, through EBP", 12);
	TRY(".byte 0xf0, 0x90", 0, 0);
	EXPECT("LOCK NOP", 6);
	TRY(".byte 0x0f, 0x00, 0xd8", 0, 0); /* ltr %ax */
	EXPECT("LTR", 6);
	TRY(".byte 0x0f, 0x00, 0xc0", 0, 0); /* sldt %ax */
	EXPECT("SLDT", 6);
	TRY(".byte 0x63, 0xc0", 0, 0); /* arpl %ax, %ax */
	EXPECT("ARPL", 6);
	TRY(".byte 0x0f, 0x02, 0xc0", 0, 0); /* lar %ax, %ax */
	EXPECT("LAR", 6);
	TRY("sysenter", 0, 0);
	EXPECT("SYSENTER", 13);
	TRY("int3", 0, 0);
	EXPECT("INT3", 3);
	check(*(volatile u8 *)(u32)(fault.ip - 1) == 0xcc, "INT3 is a trap", fault.ip);
	TRY("movb $0x7f, %%al; addb $1, %%al; into", 0, 0);
	EXPECT("INTO", 4);
	words[0] = 10;
	words[1] = 20;
	TRY("boundw %%ax, words", 15, 0);
	EXPECT("BOUND, within", NONE);
	TRY("boundw %%ax, words", 21, 0);
	EXPECT("BOUND, outside", 5);
	TRY("movl %%eax, %%cr0", 0x80000000, 0); /* PG without PE */
	EXPECT("CR0: PG without PE", 13);
	TRY("pushfl; orl $0x100, (%%esp); popfl; nop; nop", 0, 0);
	EXPECT("single step", 1);
}

/* The vector table's limit holds for interrupts. */
static void vector_table(void)
{
	static struct table small = { 0x20 * 4 - 1, 0 };

	set_vector(0x60, fault_entries + 8 * 15);
	TRY("int $0x60", 0, 0);
	EXPECT("INT 0x60", 15);
	check(*(volatile u8 *)(u32)(fault.ip - 2) == 0xcd, "INT pushes the next address", fault.ip);
	TRY("sti; stc; int $0x60", 0, 0);
	same("INT pushes the flags", fault.flags & 0x201, 0x201);
	__asm__ volatile("lidtl %0" : : "m"(small));
	TRY("int $0x60", 0, 0);
	EXPECT("INT past the table", 13);
	__asm__ volatile("lidtl ivt_pointer");
	TRY("int $0x60", 0, 0);
	EXPECT("INT again", 15);
}

/* ---- what firmware left ---- */

/* Its timer goes on, through the PIC and its vector: HLT ends. A masked line does not matter. */
static void firmware(void)
{
	u32 esp;

	outb(0x200b, 1);
	outb(0x200b, 0);
	__asm__ volatile("movl %%esp, %0; sti; hlt; cli; subl %%esp, %0" : "=r"(esp));
	same("HLT with firmware's timer", esp, 0);
	__asm__ volatile("movl %%esp, %0; int $0x60; subl %%esp, %0" : "=r"(esp));
	same("INT through firmware's vector", esp, on_qemu() ? esp : 0);
	outb(0x21, 0xff), outb(0xa1, 0xff);
}

/* ---- instructions ---- */

#define COMPUTE(text, in)                                                                                    \
	({                                                                                                   \
		u32 r_ = (in);                                                                               \
		__asm__ volatile(text : "+a"(r_) : : "ebx", "ecx", "edx", "cc", "memory");                   \
		r_;                                                                                          \
	})

static void decimal(void)
{
	same("AAD", COMPUTE("aad", 0x12345678), 0x123400d4);
	same("AAM", COMPUTE("aam", 0x76543210), 0x76540106);
	same("DAA", COMPUTE("clc; daa", 0x1234009b), 0x12340001);
	same("DAS", COMPUTE("sahf; das", 0x0146), 0x01e6);
	same("AAA", COMPUTE("clc; aaa", 0x0000000b) & 0xffff, 0x0101);
	same("AAS", COMPUTE("clc; aas", 0x0000020b) & 0xffff, 0x0105);
	same("SALC, clear", COMPUTE("clc; .byte 0xd6", 0x12345678), 0x12345600);
	same("SALC, set", COMPUTE("stc; .byte 0xd6", 0x12345678), 0x123456ff);
	same("CBW", COMPUTE("cbw", 0x123456fe), 0x1234fffe);
	same("CWDE", COMPUTE("cwde", 0xfffe), 0xfffffffe);
	same("SAHF, LAHF", COMPUTE("sahf; movl $0, %%eax; lahf", 0xfd00), 0xd700);
	same("BSWAP", COMPUTE("bswap %%eax", 0x12345678), 0x78563412);
	same("MOVSX of AH", COMPUTE("movsx %%ah, %%eax", 0x12349678), 0xffffff96);
	same("SHLD", COMPUTE("movl $0xef000000, %%edx; shld $8, %%edx, %%eax", 0xbe), 0xbeef);
	same("8-bit IDIV", COMPUTE("movw $-2, %%cx; idivb %%cl", 256), 0x80);
	same("LOOP counts CX", COMPUTE("movl $0x1000a, %%ecx; 1: incl %%eax; loop 1b; addl %%ecx, %%eax", 0), 0x1000a);
	same("LOOP with 67 counts ECX", COMPUTE("movl $300, %%ecx; 1: incl %%eax; addr32 loop 1b", 0), 300);
	same("JCXZ looks at CX", COMPUTE("movl $0x10000, %%ecx; jcxz 1f; incl %%eax; 1:", 0), 0);
	same("JECXZ at ECX", COMPUTE("movl $0x10000, %%ecx; jecxz 1f; incl %%eax; 1:", 0), 1);
	same("SMSW, 32 bits", COMPUTE("smswl %%eax; movl %%cr0, %%ebx; xorl %%ebx, %%eax", 0), 0);
	same("MOV DR with odd mode bits",
	     COMPUTE("movl %%eax, %%dr0; xorl %%eax, %%eax; .byte 0x0f, 0x21, 0x00", 0xaced), 0xaced);
	same("XADD with itself", COMPUTE("xaddl %%eax, %%eax", 0x12345678), 0x2468acf0);
	same("POPFD of all ones but TF and IF",
	     COMPUTE("pushl $0xfffffcff; popfl; pushfl; popl %%eax; pushl $2; popfl", 0), 0x00247cd7);
}

static void stack_forms(void)
{
	u32 a, b;

	__asm__ volatile("xorl $0x12340000, %%esp; pushw %%ax; xorl $0x12340000, %%esp; popw %%bx"
	                 : "=b"(b)
	                 : "a"(0x9977), "0"(0));
	same("the stack pointer is 16 bits wide", b, 0x9977);
	__asm__ volatile(
	        "movl %%esp, %%ebx; pushal; addw $12, %%sp; popl %%eax; movl %%ebx, %%esp; subl %%ebx, %%eax"
	        : "=a"(a)
	        :
	        : "ebx", "ecx", "edx", "esi", "edi");
	same("PUSHA pushes the old ESP", a, 0);
	__asm__ volatile("pushl %%fs; popl %%eax; pushw %%ss; popw %%ax" : "=a"(a));
	same("segment registers on the stack", a & 0xffff, 0);
	__asm__ volatile("movl %%esp, %%ecx; enterw $16, $0; movw %%sp, %%ax; leavew; subl %%esp, %%ecx; "
	                 "movl %%ecx, %%ebx"
	                 : "=a"(a), "=b"(b)
	                 :
	                 : "ecx");
	same("ENTER and LEAVE", b, 0);
	/* IRETD takes no VM, VIP, VIF and no bit above them. */
	__asm__ volatile("pushfl; popl %%eax; orl $0xffda8028, %%eax; andl $~2, %%eax; pushl %%eax; pushl "
	                 "%%cs; pushl $1f; iretl; 1: pushfl; popl %%eax;"
	                 "pushl $2; popfl"
	                 : "=a"(a));
	same("IRETD in real mode: flags", a & 0xffdf8028, on_qemu() ? a & 0xffdf8028 : 0);
}

__attribute__((used)) static const struct __attribute__((packed)) {
	u32 offset;
	u16 sel;
} far_pointer = {0x1234, 0x10};

static void far_forms(void)
{
	u32 a, b;

	__asm__ volatile("lgsl far_pointer, %%eax; movl %%gs, %%ebx; xorl %%ecx, %%ecx; movl %%ecx, %%gs"
	                 : "=a"(a), "=b"(b)
	                 :
	                 : "ecx");
	same("LGS: offset", a, 0x1234);
	same("LGS: selector", b, 0x10);
	__asm__ volatile("movw %%ss, %%dx; lssl far_pointer, %%eax; movw %%ss, %%bx; movw %%dx, %%ss"
	                 : "=a"(a), "=b"(b)
	                 : "1"(0)
	                 : "edx");
	same("LSS: selector", b, 0x10);
	__asm__ volatile(
	        "movw $1, %%ax; movw %%ax, %%gs; movl %%gs:words-16, %%ebx; xorw %%ax, %%ax; movw %%ax, %%gs"
	        : "=b"(b)
	        :
	        : "eax");
	same("a selector is a sixteenth of the base", b, words[0] | (u32)words[1] << 16);
	__asm__ volatile("jmp 2f; 1: movl $7, %%eax; lretw $4; 2: pushl $0; lcallw $0, $1b" : "=a"(a));
	same("far call, far return with an operand", a, 7);
	__asm__ volatile(
	        "jmp 2f; 1: movl %%cs, %%eax; lretw; 2: lcallw *3f; jmp 4f; 3: .word 1b - 0x100, 0x10; 4:"
	        : "=a"(a));
	same("far call through memory to another segment", a & 0xffff, 0x10);
	__asm__ volatile("ljmpl $0, $1f; hlt; 1: movl $9, %%eax" : "=a"(a));
	same("far jump", a, 9);
}

__attribute__((used)) static u8 text[32];

static void strings(void)
{
	u32 a, si, di, cx;

	for (unsigned i = 0; i < 32; i++)
		text[i] = (u8)i;
	__asm__ volatile("movl $text, %%esi; movl $text + 16, %%edi; movl $0x30005, %%ecx; cld; rep movsb"
			 : "=S"(si), "=D"(di), "=c"(cx) : : "memory");
	same("REP counts CX", cx, 0x30000);
	check(si == (u32)text + 5 && text[20] == 4 && text[21] == 21, "REP MOVSB", si);
	__asm__ volatile("movl $0x5ffff, %%esi; lodsb; movl %%esi, %%eax" : "=a"(a), "=S"(si));
	same("SI wraps around, the rest of ESI stays", si, 0x50000);
	TRY("movl $0xffff, %%esi; lodsw", 0, 0);
	EXPECT("LODSW across the limit", 13);
	TRY("movl $0x10010, %%esi; addr32 lodsb", 0, 0);
	EXPECT("LODSB past the limit", 13);
	__asm__ volatile("movl $text, %%esi; movw $0xe0, %%dx; movl $16, %%ecx; rep outsb; xorl %%eax, "
	                 "%%eax; inb $0xe0, %%al"
	                 : "=a"(a), "=S"(si), "=c"(cx)
	                 :
	                 : "edx");
	check((a == 15 || on_qemu()) && cx == 0 && si == (u32)text + 16, "OUTSB", a);
	__asm__ volatile("movl $text, %%edi; movw $0xe0, %%dx; movl $4, %%ecx; rep insb"
	                 : "=D"(di), "=c"(cx)
	                 :
	                 : "edx", "memory");
	check((text[3] == 15 || on_qemu()) && di == (u32)text + 4, "INSB", text[3]);
	a = COMPUTE("movl $text, %%ebx; movb $5, 9(%%ebx); xlatb", 0x89abcd09);
	same("XLAT", a, 0x89abcd05);
}

static void ports(void)
{
	if (on_qemu())
		return;
	same("port, 1 byte", COMPUTE("outb %%al, $0xe0; movb $0, %%al; inb $0xe0, %%al", 0xa5), 0xa5);
	same("port, 2 bytes", COMPUTE("outw %%ax, $0xe0; movw $0, %%ax; inw $0xe0, %%ax", 0xa55a), 0xa55a);
	same("port, 4 bytes", COMPUTE("outl %%eax, $0xe0; movl $0, %%eax; inl $0xe0, %%eax", 0xdeadbeef), 0xdeadbeef);
}

/* ---- protected mode and back ---- */

static void big_segment(void)
{
	volatile u32 *low = (volatile u32 *)words;
	u32 a;

	*low = 0x600df00d;
	/* 1 MiB is out of reach, until GS has been loaded in protected mode. */
	TRY("movl %%gs:(%%ebx), %%eax", 0, 0x100000);
	EXPECT("1 MiB through GS", 13);
	__asm__ volatile("lgdtl gdt_pointer; movl %%cr0, %%eax; orb $1, %%al; movl %%eax, %%cr0; movw $0x18, "
	                 "%%bx; movw %%bx, %%gs;"
	                 "andb $0xfe, %%al; movl %%eax, %%cr0"
	                 :
	                 :
	                 : "eax", "ebx", "memory");
	TRY("movl $0x12345678, %%gs:(%%ebx); movl %%gs:(%%ebx), %%eax; movl %%eax, words", 0, 0x100000);
	EXPECT("1 MiB through a big GS", NONE);
	same("stored and loaded", *low, 0x12345678);
	TRY("movw $0, %%ax; movw %%ax, %%gs; movl %%gs:(%%ebx), %%eax; movl %%eax, words", 0, 0x100000);
	EXPECT("a load in real mode keeps the limit", NONE);
	/* Back to 64 KiB. */
	__asm__ volatile(
	        "movl %%cr0, %%eax; orb $1, %%al; movl %%eax, %%cr0; movw $0x10, %%bx; movw %%bx, %%gs;"
	        "andb $0xfe, %%al; movl %%eax, %%cr0; xorw %%bx, %%bx; movw %%bx, %%gs"
	        :
	        :
	        : "eax", "ebx", "memory");
	TRY("movl %%gs:(%%ebx), %%eax", 0, 0x100000);
	EXPECT("and small again", 13);
	/* 32-bit code for a moment. */
	__asm__ volatile(
	        "movl %%cr0, %%eax; orb $1, %%al; movl %%eax, %%cr0; ljmpl $0x20, $1f\n	.code32\n"
	        "1:	movl %%cr0, %%ebx; movl $0x89abcdef, %%ecx; ljmp $8, $2f\n	.code16gcc\n"
	        "2:	movl %%cr0, %%eax; andb $0xfe, %%al; movl %%eax, %%cr0; ljmpw $0, $3f; 3:"
	        : "=c"(a)
	        :
	        : "eax", "ebx", "memory");
	same("32-bit code and back", a, 0x89abcdef);
	/* A small data segment from protected mode stays small. */
	__asm__ volatile("movl %%cr0, %%eax; orb $1, %%al; movl %%eax, %%cr0; movw $0x28, %%bx; movw %%bx, %%fs;"
			 "andb $0xfe, %%al; movl %%eax, %%cr0" : : : "eax", "ebx", "memory");
	TRY("movb %%fs:0x1000, %%al", 0, 0);
	EXPECT("past 4 KiB", on_qemu() ? fault.vector : 13);
	TRY("movb %%fs:0xfff, %%al", 0, 0);
	EXPECT("within 4 KiB", NONE);
	__asm__ volatile(
	        "movl %%cr0, %%eax; orb $1, %%al; movl %%eax, %%cr0; movw $0x10, %%bx; movw %%bx, %%fs;"
	        "andb $0xfe, %%al; movl %%eax, %%cr0; xorw %%bx, %%bx; movw %%bx, %%fs"
	        :
	        :
	        : "eax", "ebx", "memory");
}

/* ---- interrupts through the PIC ---- */

volatile u16 interrupts;
extern const u8 interrupt_entry[];
__asm__(".pushsection .text\n	.code16gcc\ninterrupt_entry:\n	incw	%cs:interrupts\n	pushw	"
        "%ax\n	movb	$0x20, %al\n"
        "	outb	%al, $0xa0\n	outb	%al, $0x20\n	popw	%ax\n	iretw\n.popsection\n");

static void pulse_irq11(void)
{
	outb(0x200b, 1);
	outb(0x200b, 0);
}

static void pic(void)
{
	if (on_qemu())
		return;
	set_vector(0x73, interrupt_entry);
	/* As firmware leaves them: vectors 8 and 0x70, edges. */
	outb(0x20, 0x11), outb(0x21, 8), outb(0x21, 4), outb(0x21, 1);
	outb(0xa0, 0x11), outb(0xa1, 0x70), outb(0xa1, 2), outb(0xa1, 1);
	outb(0x21, 0xfb), outb(0xa1, 0xf7);
	pulse_irq11();
	same("held back by IF", interrupts, 0);
	__asm__ volatile("sti; nop; nop; cli");
	same("taken", interrupts, 1);
	pulse_irq11();
	__asm__ volatile("sti; hlt; cli");
	same("STI; HLT is woken, not skipped", interrupts, 2);
	outb(0x21, 0xff), outb(0xa1, 0xff);
}

int main(void)
{
	static void (*const groups[])(void) = {
		firmware, exceptions, vector_table, decimal, stack_forms, far_forms, strings, ports, big_segment, pic,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i]();
	print("real: ");
	print_hex(checks);
	print(" checks, ");
	print_hex(failures);
	print(" failed\n");
	outb(0xf4, failures || !checks);
	for (;;)
		__asm__ volatile("cli; hlt");
}
