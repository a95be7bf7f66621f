/*
 * The common part of the bare-metal tests: console, checks, descriptor tables,
 * running pieces of code. One processor, no allocation, no interrupts unless a
 * test asks for them.
 */
#include "guest.h"

struct trap last_trap;
u64 resume_rip, resume_rsp;
void (*trap_hook)(u64 vector);

_Static_assert(offsetof(struct trap, vector) == TRAP_VECTOR && offsetof(struct trap, error) == TRAP_ERROR &&
	       offsetof(struct trap, rip) == TRAP_RIP && offsetof(struct trap, cs) == TRAP_CS &&
	       offsetof(struct trap, rflags) == TRAP_RFLAGS && offsetof(struct trap, rsp) == TRAP_RSP &&
	       offsetof(struct trap, ss) == TRAP_SS && offsetof(struct trap, cr2) == TRAP_CR2 &&
	       offsetof(struct trap, rax) == TRAP_RAX && offsetof(struct trap, rbx) == TRAP_RBX &&
	       offsetof(struct trap, rcx) == TRAP_RCX && offsetof(struct trap, rdx) == TRAP_RDX &&
	       offsetof(struct trap, rsi) == TRAP_RSI && offsetof(struct trap, rdi) == TRAP_RDI &&
	       offsetof(struct trap, rbp) == TRAP_RBP && offsetof(struct trap, r8) == TRAP_R8 &&
	       offsetof(struct trap, r11) == TRAP_R11 && offsetof(struct trap, stack) == TRAP_STACK &&
	       offsetof(struct trap, new_ss) == TRAP_NEW_SS, "boot.S stores into struct trap");

enum { SERIAL = 0x3f8, SERIAL_STATUS = SERIAL + 5, DEBUG_EXIT = 0xf4, SHOWN_FAILURES = 20 };

struct gate { u16 offset_low, selector; u8 ist, type; u16 offset_mid; u32 offset_high, zero; };
struct __attribute__((packed)) table_pointer { u16 limit; u64 base; };

static struct gate idt[256] __attribute__((aligned(16)));
static u64 gdt[GDT_ENTRIES] __attribute__((aligned(16)));
static u8 tss[0x68] __attribute__((aligned(16)));
static const char *command_line = "";
static u64 checks, failures, known;
static bool shown; /* the last failed check was printed */

void *memset(void *d, int c, size_t n)
{
	void *start = d;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return start;
}

void *memcpy(void *d, const void *s, size_t n)
{
	void *start = d;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	return start;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

static void print_char(char c)
{
	while (!(inb(SERIAL_STATUS) & 0x20))
		;
	outb(SERIAL, (u8)c);
}

static void print_string(const char *s)
{
	for (; *s; s++)
		print_char(*s);
}

static void print_number(u64 v, unsigned base, unsigned width)
{
	char buf[32];
	unsigned n = sizeof(buf);

	buf[--n] = '\0';
	do {
		buf[--n] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (sizeof(buf) - 1 - n < width && n)
		buf[--n] = '0';
	print_string(buf + n);
}

/* %s, %c, %d, %u, %x with l, ll and a width that pads with zeros. */
void vprint(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		unsigned width = 0, longs = 0;
		u64 v;

		if (*fmt != '%') {
			print_char(*fmt);
			continue;
		}
		for (fmt++; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + (unsigned)(*fmt - '0');
		for (; *fmt == 'l'; fmt++)
			longs++;
		if (*fmt == 's') {
			print_string(va_arg(ap, const char *));
		} else if (*fmt == 'c') {
			print_char((char)va_arg(ap, int));
		} else if (*fmt == 'd' && !longs) {
			int i = va_arg(ap, int);

			if (i < 0)
				print_char('-');
			print_number(i < 0 ? -(u64)i : (u64)i, 10, width);
		} else {
			v = longs ? va_arg(ap, u64) : va_arg(ap, u32);
			print_number(v, *fmt == 'x' ? 16 : 10, width);
		}
	}
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprint(fmt, ap);
	va_end(ap);
}

bool option(const char *word)
{
	size_t n = strlen(word);

	for (const char *p = command_line; n && *p; p++)
		if (!memcmp(p, word, n) && (p == command_line || p[-1] == ' ') && (!p[n] || p[n] == ' '))
			return true;
	return false;
}

u64 option_number(const char *name, u64 fallback)
{
	size_t n = strlen(name);
	u64 v = 0;

	for (const char *p = command_line; *p; p++) {
		if (memcmp(p, name, n) || p[n] != '=' || (p != command_line && p[-1] != ' '))
			continue;
		for (p += n + 1; *p >= '0' && *p <= '9'; p++)
			v = v * 10 + (u64)(*p - '0');
		return v;
	}
	return fallback;
}

static bool count_check(bool ok, bool excused, const char *fmt, va_list ap)
{
	checks++;
	shown = false;
	if (ok)
		return true;
	if (excused) {
		known++;
		return false;
	}
	shown = ++failures <= option_number("show", SHOWN_FAILURES);
	if (shown) {
		print("FAIL: ");
		vprint(fmt, ap);
		print("\n");
	}
	return false;
}

bool failure_shown(void) { return shown; }

void check_sums(u64 *made, u64 *failed)
{
	*made = checks;
	*failed = failures;
}

bool check(bool ok, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	count_check(ok, false, fmt, ap);
	va_end(ap);
	return ok;
}

bool check_unless(const char *word, bool ok, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	count_check(ok, option(word), fmt, ap);
	va_end(ap);
	return ok;
}

bool expect_unless(const char *word, const char *what, u64 vector, u64 error)
{
	const struct trap *t = &last_trap;

	return check_unless(word, t->vector == vector && t->error == error,
			    "%s: vector %ld error 0x%lx, expected vector %ld error 0x%lx (rip 0x%lx cr2 0x%lx)", what,
			    t->vector, t->error, vector, error, t->rip, t->cr2);
}

bool expect(const char *what, u64 vector, u64 error)
{
	return expect_unless("", what, vector, error);
}

_Noreturn void exit_machine(u32 value)
{
	outl(DEBUG_EXIT, value);
	for (;;)
		__asm__ volatile("cli; hlt");
}

_Noreturn void finish(const char *test)
{
	print("%s: %ld checks, %ld failed", test, checks, failures);
	if (known)
		print(", %ld known to differ here", known);
	print("\n");
	exit_machine(failures || !checks);
}

void gate_set(unsigned vector, const void *handler, unsigned dpl, unsigned ist, bool present)
{
	u64 a = (u64)(uintptr_t)handler;

	idt[vector] = (struct gate){ (u16)a, SEL_CODE, (u8)ist, (u8)(0x0e | dpl << 5 | (unsigned)present << 7),
				     (u16)(a >> 16), (u32)(a >> 32), 0 };
}

void gate_reset(unsigned vector)
{
	bool user = vector == V_BP || vector == V_OF || vector == V_DONE;

	gate_set(vector, vector_entries + vector * 16, user ? 3 : 0, 0, true);
}

void gdt_set(unsigned selector, u64 descriptor) { ((volatile u64 *)gdt)[selector / 8] = descriptor; }
u64 gdt_get(unsigned selector) { return ((volatile u64 *)gdt)[selector / 8]; }
void tss_set_ist(unsigned n, u64 rsp) { memcpy(tss + 0x24 + (n - 1) * 8, &rsp, 8); }
u8 *tss_bytes(void) { return tss; }

static void set_system_descriptor(unsigned selector, u64 base, u32 limit, unsigned type)
{
	gdt_set(selector, (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)(0x80 | type) << 40 |
			  (u64)(limit >> 16 & 0xf) << 48 | (base >> 24 & 0xff) << 56);
	gdt_set(selector + 8, base >> 32);
}

void ldt_load(u64 base, u32 limit)
{
	set_system_descriptor(SEL_LDT, base, limit, 2);
	__asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
}

static void load_tables(void)
{
	struct table_pointer gp = { sizeof(gdt) - 1, (u64)(uintptr_t)gdt };
	struct table_pointer ip = { sizeof(idt) - 1, (u64)(uintptr_t)idt };
	u64 rsp0 = (u64)(uintptr_t)trap_stack_top;

	gdt_set(SEL_CODE, 0x00af9b000000ffff);
	gdt_set(SEL_DATA, 0x00cf93000000ffff);
	gdt_set(SEL_UCODE32 & ~7, 0x00cffb000000ffff);
	gdt_set(SEL_UDATA & ~7, 0x00cff3000000ffff);
	gdt_set(SEL_UCODE & ~7, 0x00affb000000ffff);
	gdt_set(SEL_CODE32, 0x00cf9b000000ffff);
	memcpy(tss + 4, &rsp0, 8);
	tss[0x66] = sizeof(tss); /* no I/O permission map */
	set_system_descriptor(SEL_TSS, (u64)(uintptr_t)tss, sizeof(tss) - 1, 9);
	for (unsigned v = 0; v < 256; v++)
		gate_reset(v);
	__asm__ volatile("lgdt %0; lidt %1" : : "m"(gp), "m"(ip));
	__asm__ volatile("mov %w0, %%ss; mov %w0, %%ds; mov %w0, %%es" : : "r"(SEL_DATA));
	__asm__ volatile("pushq %0; pushq $1f; lretq; 1:" : : "i"(SEL_CODE) : "memory");
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

struct trap_frame { u64 vector, error, rip, cs, rflags, rsp, ss; };

/* Something trapped that no test asked for: an interrupt or NMI for the hook, or the end. */
void trap_handle(const struct trap_frame *f)
{
	if ((f->vector >= 32 || f->vector == V_NMI) && trap_hook) {
		trap_hook(f->vector);
		return;
	}
	print("FAIL: unexpected vector %ld error 0x%lx at 0x%lx cr2 0x%lx rsp 0x%lx rflags 0x%lx\n", f->vector,
	      f->error, f->rip, read_cr2(), f->rsp, f->rflags);
	exit_machine(1);
}

u64 user_address(const void *p) { return USER_BASE + (u64)(uintptr_t)p; }

static u8 piece_stack[8192] __attribute__((aligned(16)));

const struct trap *run_code_flags(const void *code, int cpl, u64 rflags, u64 rdi, u64 rsi, u64 rdx)
{
	u64 rip = (u64)(uintptr_t)code, rsp = (u64)(uintptr_t)(piece_stack + sizeof(piece_stack) - 512);
	struct start_frame f;

	/* Code of this program has an alias for user mode; other addresses (mapped by a test) are what they are. */
	if (cpl == USER && rip < GIB)
		rip += USER_BASE;
	f = (struct start_frame){ rip, cpl == USER ? SEL_UCODE : SEL_CODE, rflags | 2,
				  cpl == USER ? rsp + USER_BASE : rsp, cpl == USER ? SEL_UDATA : SEL_DATA };
	run_frame(&f, rdi, rsi, rdx);
	return &last_trap;
}

const struct trap *run_code(const void *code, int cpl, u64 rdi, u64 rsi)
{
	return run_code_flags(code, cpl, 0, rdi, rsi, 0);
}

struct multiboot_info { u32 flags, mem_lower, mem_upper, boot_device, cmdline; };

/* boot.S comes here in 64-bit mode. */
_Noreturn void guest_main(const struct multiboot_info *info)
{
	if (info->flags & 4)
		command_line = (const char *)(uintptr_t)info->cmdline;
	outb(0x21, 0xff); /* firmware may have left the PIC and its timer on */
	outb(0xa1, 0xff);
	load_tables();
	main();
	exit_machine(1);
}
