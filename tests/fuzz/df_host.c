/*
 * The host side of the differential fuzzer: enters an instruction with all
 * registers loaded, gets them back after it, or from the signal frame if it
 * faults.
 *
 * The entry and exit code is copied to a page within reach of the code slots, its
 * save area on the page after it, so that the exit needs no register. It is
 * entered with IRETQ, which also serializes: the slot was just written.
 */
#include "difffuzz.h"

#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

struct save_area {
	uint64_t gpr[16];       /* 0 */
	uint64_t rip;           /* 128 */
	uint64_t rflags;        /* 136 */
	uint64_t host_rsp;      /* 144 */
	uint64_t cs, ss;        /* 152, 160 */
	uint64_t taken;         /* 168 */
	uint32_t host_mxcsr;    /* 176 */
	uint32_t pad;
	_Alignas(64) uint8_t fx[512]; /* 192: an XSAVE area of x87, SSE and AVX */
	uint64_t header[8];
	uint8_t ymm_hi[256];
	/* not used by the code below */
	struct outcome *out;
	uint8_t *code_rw, *ro_rw;
	uint64_t fs_base;
	uint64_t cs64;
};
_Static_assert(offsetof(struct save_area, fx) == 192, "the assembly knows these offsets");

#define SAVE ((struct save_area *)(uintptr_t)(HOST_BASE + 4096))

/* clang-format off */
__asm__(
	".pushsection .text\n"
	".balign 4096\n"
	"df_blob:\n"
	"df_enter:\n"
	"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"mov %rsp, (df_blob + 4096 + 144)(%rip)\n"
	"stmxcsr (df_blob + 4096 + 176)(%rip)\n"
	"mov $7, %eax; xor %edx, %edx\n"
	"xrstor64 (df_blob + 4096 + 192)(%rip)\n"
	"pushq (df_blob + 4096 + 160)(%rip)\n"
	"pushq (df_blob + 4096 + 32)(%rip)\n"
	"pushq (df_blob + 4096 + 136)(%rip)\n"
	"pushq (df_blob + 4096 + 152)(%rip)\n"
	"pushq (df_blob + 4096 + 128)(%rip)\n"
	"mov (df_blob + 4096 + 0)(%rip), %rax\n"
	"mov (df_blob + 4096 + 8)(%rip), %rcx\n"
	"mov (df_blob + 4096 + 16)(%rip), %rdx\n"
	"mov (df_blob + 4096 + 24)(%rip), %rbx\n"
	"mov (df_blob + 4096 + 40)(%rip), %rbp\n"
	"mov (df_blob + 4096 + 48)(%rip), %rsi\n"
	"mov (df_blob + 4096 + 56)(%rip), %rdi\n"
	"mov (df_blob + 4096 + 64)(%rip), %r8\n"
	"mov (df_blob + 4096 + 72)(%rip), %r9\n"
	"mov (df_blob + 4096 + 80)(%rip), %r10\n"
	"mov (df_blob + 4096 + 88)(%rip), %r11\n"
	"mov (df_blob + 4096 + 96)(%rip), %r12\n"
	"mov (df_blob + 4096 + 104)(%rip), %r13\n"
	"mov (df_blob + 4096 + 112)(%rip), %r14\n"
	"mov (df_blob + 4096 + 120)(%rip), %r15\n"
	"iretq\n"
	"df_exit_branch:\n"
	"movq $1, (df_blob + 4096 + 168)(%rip)\n"
	"df_exit:\n"
	"mov %rax, (df_blob + 4096 + 0)(%rip)\n"
	"mov %rcx, (df_blob + 4096 + 8)(%rip)\n"
	"mov %rdx, (df_blob + 4096 + 16)(%rip)\n"
	"mov %rbx, (df_blob + 4096 + 24)(%rip)\n"
	"mov %rsp, (df_blob + 4096 + 32)(%rip)\n"
	"mov %rbp, (df_blob + 4096 + 40)(%rip)\n"
	"mov %rsi, (df_blob + 4096 + 48)(%rip)\n"
	"mov %rdi, (df_blob + 4096 + 56)(%rip)\n"
	"mov %r8, (df_blob + 4096 + 64)(%rip)\n"
	"mov %r9, (df_blob + 4096 + 72)(%rip)\n"
	"mov %r10, (df_blob + 4096 + 80)(%rip)\n"
	"mov %r11, (df_blob + 4096 + 88)(%rip)\n"
	"mov %r12, (df_blob + 4096 + 96)(%rip)\n"
	"mov %r13, (df_blob + 4096 + 104)(%rip)\n"
	"mov %r14, (df_blob + 4096 + 112)(%rip)\n"
	"mov %r15, (df_blob + 4096 + 120)(%rip)\n"
	"mov (df_blob + 4096 + 144)(%rip), %rsp\n"
	"pushfq\n"
	"popq (df_blob + 4096 + 136)(%rip)\n"
	"pushq $0x202\n"
	"popfq\n"
	"mov $7, %eax; xor %edx, %edx\n"
	"xsave64 (df_blob + 4096 + 192)(%rip)\n"
	"df_recover:\n"
	"fninit; vzeroupper\n"
	"ldmxcsr (df_blob + 4096 + 176)(%rip)\n"
	"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"ret\n"
	"df_blob_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t df_blob[], df_enter[], df_exit[], df_exit_branch[], df_recover[], df_blob_end[];

static uint64_t blob_address(const uint8_t *label) { return HOST_BASE + (uint64_t)(label - df_blob); }

/* ---- signals ---- */

static void take_registers(const ucontext_t *uc, struct outcome *o)
{
	static const int slot[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
	const greg_t *g = uc->uc_mcontext.gregs;
	uint64_t in_use;

	for (int i = 0; i < 16; i++)
		o->s.gpr[i] = (uint64_t)g[slot[i]];
	o->s.rip = (uint64_t)g[REG_RIP];
	o->s.rflags = (uint64_t)g[REG_EFL];
	memcpy(o->s.fx, uc->uc_mcontext.fpregs, 512);
	/* The kernel's frame is an XSAVE area: header at 512, AVX at 576. */
	memcpy(&in_use, (const uint8_t *)uc->uc_mcontext.fpregs + 512, 8);
	if (in_use & 4)
		memcpy(o->s.ymm_hi, (const uint8_t *)uc->uc_mcontext.fpregs + 576, 256);
	else
		memset(o->s.ymm_hi, 0, 256);
}

static bool in_test(uint64_t rip) { return rip < LOW_END; }

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *g;

	/* The test's alignment-check flag is still in force. */
	__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andl $0xfffbffff, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
				 : "memory", "cc");
	g = uc->uc_mcontext.gregs;
	(void)info;
	if (!SAVE->out || !in_test((uint64_t)g[REG_RIP])) {
		dprintf(2, "difffuzz: signal %d outside a test, RIP %llx, address %llx\n", sig,
			(unsigned long long)g[REG_RIP], (unsigned long long)g[REG_CR2]);
		signal(sig, SIG_DFL);
		return;
	}
	take_registers(uc, SAVE->out);
	SAVE->out->vector = (int)g[REG_TRAPNO];
	SAVE->out->error = (uint32_t)g[REG_ERR];
	SAVE->out->cr2 = (uint64_t)g[REG_CR2];
	g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | (greg_t)SAVE->cs64;
	g[REG_RIP] = (greg_t)blob_address(df_recover);
	g[REG_RSP] = (greg_t)SAVE->host_rsp;
	g[REG_EFL] = 0x202;
}

static int install_signals(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	stack_t ss = {.ss_size = 64 << 10};
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

	ss.ss_sp = malloc(ss.ss_size);
	if (!ss.ss_sp || sigaltstack(&ss, NULL) < 0)
		return -errno;
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (sigaction(signals[i], &sa, NULL) < 0)
			return -errno;
	return 0;
}

/* ---- layout ---- */

static void *map_at(uint64_t addr, size_t bytes, int prot, int flags, int fd)
{
	void *p = mmap((void *)(uintptr_t)addr, bytes, prot, flags | MAP_FIXED, fd, 0);

	return p == MAP_FAILED || p != (void *)(uintptr_t)addr ? NULL : p;
}

/* A second, writable view of pages that tests see without that right. */
static uint8_t *map_twice(uint64_t addr, size_t bytes, int prot)
{
	int fd = memfd_create("difffuzz", MFD_CLOEXEC);
	uint8_t *rw = NULL;
	volatile uint8_t touch = 0;

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return NULL;
	rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (rw == MAP_FAILED || !map_at(addr, bytes, prot, MAP_SHARED | MAP_POPULATE, fd))
		return NULL;
	close(fd);
	for (size_t i = 0; i < bytes; i += 4096)
		touch ^= *(volatile uint8_t *)(uintptr_t)(addr + i);
	(void)touch;
	return rw;
}

static bool map_layout(void)
{
	int anon = MAP_PRIVATE | MAP_ANONYMOUS;
	uint8_t *code, *ro;

	/* Whatever is mapped below 4 GiB would be at the tests' mercy. */
	if (mmap((void *)0x10000, LOW_END - 0x10000, PROT_NONE, anon | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) !=
	    (void *)0x10000)
		return false;
	if (!map_at(DATA_BASE, DATA_BYTES, PROT_READ | PROT_WRITE, anon | MAP_POPULATE, -1) ||
	    !map_at(HOST_BASE, 4096, PROT_READ | PROT_WRITE, anon, -1) ||
	    !map_at(HOST_BASE + 4096, 4096, PROT_READ | PROT_WRITE, anon | MAP_POPULATE, -1))
		return false;
	code = map_twice(CODE_BASE, CODE_BYTES, PROT_READ | PROT_EXEC);
	ro = map_twice(RO_BASE, RO_BYTES, PROT_READ);
	if (!code || !ro)
		return false;
	memcpy((void *)(uintptr_t)HOST_BASE, df_blob, (size_t)(df_blob_end - df_blob));
	if (mprotect((void *)(uintptr_t)HOST_BASE, 4096, PROT_READ | PROT_EXEC) < 0)
		return false;
	SAVE->code_rw = code;
	SAVE->ro_rw = ro;
	memset(code, 0xcc, CODE_BYTES);
	mlock((void *)(uintptr_t)DATA_BASE, DATA_BYTES);
	return true;
}

uint64_t host_gs_base(void) { return DATA_BASE + 0x800; }
uint64_t host_fs_base(void) { return SAVE->fs_base; }
uint8_t *host_code(uint64_t addr) { return SAVE->code_rw + (addr - CODE_BASE); }
uint8_t *host_ro(void) { return SAVE->ro_rw; }

void host_selectors(uint16_t sel[6])
{
	__asm__("mov %%es, %0; mov %%cs, %1; mov %%ss, %2; mov %%ds, %3; mov %%fs, %4; mov %%gs, %5"
		: "=r"(sel[0]), "=r"(sel[1]), "=r"(sel[2]), "=r"(sel[3]), "=r"(sel[4]), "=r"(sel[5]));
}

static void put_jump(uint8_t *at, uint64_t from, uint64_t to)
{
	int32_t rel = (int32_t)(to - (from + 5));

	at[0] = 0xe9;
	memcpy(at + 1, &rel, 4);
}

/* A far jump to 64-bit code, which tells the ways out apart by where it is entered. */
static void put_far_jump(uint8_t *at, uint64_t to)
{
	at[0] = 0xea;
	memcpy(at + 1, &to, 4);
	memcpy(at + 5, &SAVE->cs64, 2);
}

static void place_exit(const struct test *t, unsigned at, bool branch)
{
	uint8_t *p = host_code(t->slot) + at;

	if (t->bits == 32)
		put_far_jump(p, THUNK + (branch ? 16 : 0));
	else
		put_jump(p, t->slot + at, blob_address(branch ? df_exit_branch : df_exit));
}

static void place_thunk(void)
{
	uint8_t *p = host_code(THUNK);

	put_jump(p, THUNK, blob_address(df_exit));
	put_jump(p + 16, THUNK + 16, blob_address(df_exit_branch));
}

void host_place(const struct test *t)
{
	uint8_t *p = host_code(t->slot);

	memset(p, 0xcc, SLOT_BYTES);
	memcpy(p + SLOT_INSN, t->bytes, t->len);
	place_exit(t, SLOT_INSN + t->z.length, false);
	place_exit(t, BRANCH_BACK, true);
	place_exit(t, BRANCH_AHEAD, true);
}

int host_init(void)
{
	uint16_t sel[6];

	if (!map_layout()) {
		fprintf(stderr, "difffuzz: skipped: cannot have the low 4 GiB of the address space: %s\n", strerror(errno));
		return -ENOMEM;
	}
	host_selectors(sel);
	SAVE->cs64 = sel[1];
	SAVE->ss = sel[2];
	/* 64-bit mode does not look at these two; compatibility mode needs them. */
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(sel[2]));
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, host_gs_base()) < 0 ||
	    syscall(SYS_arch_prctl, ARCH_GET_FS, &SAVE->fs_base) < 0)
		return -errno;
	place_thunk();
	return install_signals();
}

void host_run(const struct test *t, struct outcome *out)
{
	void (*enter)(void) = (void (*)(void))(uintptr_t)blob_address(df_enter);
	struct save_area *s = SAVE;

	memcpy(s->gpr, t->in.gpr, sizeof(s->gpr));
	s->rip = test_rip(t);
	s->cs = t->bits == 32 ? HOST_CS32 : s->cs64;
	s->rflags = t->in.rflags;
	s->taken = 0;
	memcpy(s->fx, t->in.fx, 512);
	memset(s->header, 0, sizeof(s->header));
	s->header[0] = 7;
	memcpy(s->ymm_hi, t->in.ymm_hi, 256);
	out->vector = -1;
	out->error = 0;
	out->cr2 = 0;
	s->out = out;
	enter();
	s->out = NULL;
	if (out->vector >= 0)
		return;
	memcpy(out->s.gpr, s->gpr, sizeof(s->gpr));
	out->s.rip = s->taken ? t->target : test_rip(t) + t->z.length;
	out->s.rflags = s->rflags;
	memcpy(out->s.fx, s->fx, 512);
	memcpy(out->s.ymm_hi, s->ymm_hi, 256);
}
