/*
 * The translator by example: what host code must get right beyond the instructions themselves. Each
 * test runs the same guest code interpreted and translated, and says what both must give.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <unistd.h>

#include "cpu/block.h"
#include "cpu/cpu.h"

#define CODE   0x10000ull /* two pages */
#define DATA   0x20000ull /* two pages, the third is read-only, the fourth is not there */
#define STACK  0x30000ull /* grows down from here */
#define TABLES 0x40000ull
#define IDT    0x50000ull
#define HALT   0x51000ull /* handlers: HLT */

struct rig {
	struct machmem mem;
	struct cpu *cpu;
	uint8_t *host;
};

static void map(struct rig *r, uint64_t lin, uint64_t rights)
{
	put_u64(r->host + TABLES + 0x3000 + (lin >> 12) * 8, rights ? lin | rights : 0);
}

static void make_tables(struct rig *r)
{
	put_u64(r->host + TABLES, (TABLES + 0x1000) | PTE_P | PTE_W);
	put_u64(r->host + TABLES + 0x1000, (TABLES + 0x2000) | PTE_P | PTE_W);
	put_u64(r->host + TABLES + 0x2000, (TABLES + 0x3000) | PTE_P | PTE_W);
	for (uint64_t a = 0; a < 0x60000; a += PAGE_SIZE)
		map(r, a, PTE_P | PTE_W);
	map(r, DATA + 0x2000, PTE_P);
	map(r, DATA + 0x3000, 0);
}

static void make_idt(struct rig *r)
{
	for (unsigned v = 0; v < 32; v++) {
		put_u64(r->host + IDT + v * 16, ((HALT + v) & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (HALT + v) >> 16 << 48);
		put_u64(r->host + IDT + v * 16 + 8, 0);
	}
	memset(r->host + HALT, 0xf4, 64);
	put_u64(r->host + IDT + 0x800 + 8, 0x00209b0000000000ull); /* GDT: code */
}

static void set_processor(struct cpu *c)
{
	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	c->efer = EFER_LME | EFER_LMA | EFER_NXE;
	c->cr3 = TABLES;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		c->seg[i] = (struct seg){.sel = 0x10, .limit = 0xffffffff, .attr = 3 | SEG_AR_S | SEG_AR_P | SEG_AR_DB | SEG_AR_G};
	c->seg[SEG_CS] = (struct seg){.sel = 8, .limit = 0xffffffff, .attr = 0xb | SEG_AR_S | SEG_AR_P | SEG_AR_L | SEG_AR_G};
	c->gdtr = (struct dtable){IDT + 0x800, 0xff};
	c->idtr = (struct dtable){IDT, 511};
	c->gpr[RSP] = STACK;
	c->gpr[REG_RIP] = CODE;
	cpu_update_mode(c);
}

static void rig_make(struct rig *r, bool translate, uint64_t code_cache)
{
	struct machmem_range range = {0, 1 << 20};
	struct cpu_config cfg;
	struct error err;

	assert_int_equal(machmem_init(&r->mem, &range, 1, &err), 0);
	r->host = machmem_ptr(&r->mem, hpa(0));
	cpu_config_default(&cfg);
	hw_default(&cfg.hw);
	cfg.translate = translate;
	cfg.translate_after = 0;
	cfg.code_cache = code_cache;
	assert_int_equal(cpu_create(&r->cpu, &r->mem, &cfg, &err), 0);
	make_tables(r);
	make_idt(r);
	set_processor(r->cpu);
}

static void rig_free(struct rig *r)
{
	cpu_destroy(r->cpu);
	machmem_destroy(&r->mem);
}

#define PUT(r, at, ...)                                        \
	do {                                                   \
		static const uint8_t bytes_[] = {__VA_ARGS__}; \
		memcpy((r)->host + (at), bytes_, sizeof(bytes_)); \
	} while (0)

#define EACH(r, cache)                                                                   \
	for (unsigned way_ = 0; way_ < 2 && (rig_make(&(r), way_, cache), true); way_++, rig_free(&(r)))

#define CACHE (1u << 20)
#define LONG 1000 /* ticks: host code stops some time before the end */

/* The frame of a #PF: error code, RIP, CS, RFLAGS. */
static uint64_t pushed(const struct rig *r, unsigned n) { return get_u64(r->host + r->cpu->gpr[RSP] + 8 * n); }

/* An exception in a load finds the flags of an instruction that the next overwrites. */
static void flags_at_a_fault(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0x48, 0x01, 0xd8, /* add rax, rbx */
		    0x48, 0x8b, 0x0e,           /* mov rcx, [rsi] */
		    0x48, 0x85, 0xd2, 0xf4);    /* test rdx, rdx; hlt */
		r.cpu->gpr[RAX] = 0x7fffffffffffffff;
		r.cpu->gpr[RBX] = 0x7fffffffffffffff;
		r.cpu->gpr[RSI] = DATA + 0x3000;
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(pushed(&r, 1), CODE + 3);
		assert_int_equal(pushed(&r, 3) & RF_ARITH, RF_OF | RF_SF | RF_AF);
		assert_int_equal(r.cpu->cr2, DATA + 0x3000);
		assert_int_equal(r.cpu->gpr[RAX], 0xfffffffffffffffe);
		assert_int_equal(r.cpu->insns, 2); /* ADD and HLT */
	}
}

/* A store over two pages, the second of which cannot be written, has not written the first. */
static void split_store_that_faults(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0x48, 0x89, 0x07, 0xf4); /* mov [rdi], rax; hlt */
		r.cpu->gpr[RAX] = ~0ull;
		r.cpu->gpr[RDI] = DATA + 0x1ffc;
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->cr2, DATA + 0x2000);
		assert_int_equal(pushed(&r, 0), 3); /* a write, a protection violation */
		assert_int_equal(get_u64(r.host + DATA + 0x1ffc), 0);
	}
}

/* A store changes the instruction behind it, in the block that runs. */
static void block_that_changes_itself(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0xb9, 3, 0, 0, 0,        /* mov ecx, 3 */
		    0x88, 0x0d, 0x01, 0x00, 0x00, 0x00, /* 5: mov [rip+1], cl: the immediate at 12 */
		    0xb0, 0x00,                         /* 11: mov al, 0 */
		    0x00, 0xc3,                         /* 13: add bl, al */
		    0xff, 0xc9, 0x75, 0xf2,             /* 15: dec ecx; jnz 5 */
		    0xf4);
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->gpr[RBX], 3 + 2 + 1);
		assert_int_equal(r.cpu->insns, 1 + 3 * 5 + 1);
	}
}

/* A store changes the block that follows, which has been laid behind this one. */
static void block_that_changes_the_next(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0x88, 0x0d, 0x03, 0x00, 0x00, 0x00, /* mov [rip+3], cl: the immediate at 9 */
		    0xeb, 0x00,                                    /* jmp 8 */
		    0xb0, 0x00, 0x00, 0xc3,                        /* 8: mov al, 0; add bl, al */
		    0xff, 0xc9, 0x75, 0xf0, 0xf4);                 /* dec ecx; jnz 0; hlt */
		r.cpu->gpr[REG_RIP] = CODE + 8;
		r.cpu->gpr[RCX] = 5;
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->gpr[RBX], 4 + 3 + 2 + 1);
		assert_int_equal(r.cpu->insns, 4 + 4 * 6 + 1);
	}
}

static void run_from(struct rig *r, uint64_t rip, uint64_t rcx)
{
	r->cpu->halted = false;
	r->cpu->gpr[REG_RIP] = rip;
	r->cpu->gpr[RCX] = rcx;
	r->cpu->gpr[RAX] = 0;
	assert_int_equal(cpu_run(r->cpu, cpu_tsc(r->cpu) + LONG), CPU_RUN_HALTED);
}

/* A short block laid behind another is changed, and then what its jump was tied to. */
static void short_block_that_is_laid(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0xeb, 0x0e);                             /* jmp 10h */
		PUT(&r, CODE + 0x10, 0x85, 0xc9, 0x74, 0x0c,          /* test ecx, ecx; jz 20h */
		    0x29, 0xd2, 0xf4);                                 /* sub edx, edx: nobody needs the flags; hlt */
		PUT(&r, CODE + 0x20, 0x29, 0xd2, 0xb0, 0x01, 0xf4);    /* sub edx, edx; mov al, 1; hlt */
		run_from(&r, CODE + 0x10, 1);
		run_from(&r, CODE, 1);
		run_from(&r, CODE, 0);
		assert_int_equal(r.cpu->gpr[RAX], 1);
		blocks_note_write(r.cpu, CODE + 0x10, 1);
		r.host[CODE + 0x23] = 2;
		blocks_note_write(r.cpu, CODE + 0x23, 1);
		run_from(&r, CODE, 0);
		assert_int_equal(r.cpu->gpr[RAX], 2);
		run_from(&r, CODE, 1);
		assert_int_equal(r.cpu->gpr[RAX], 0);
	}
}

static uint64_t code_stamp(const struct rig *r, uint64_t lin)
{
	const struct tlb_array *a = r->cpu->mmu.l1i.tlb.of[0];

	for (unsigned i = 0; i < a->sets * a->ways; i++)
		if (a->entry[i].tag == lin >> PAGE_SHIFT)
			return a->entry[i].stamp;
	fail_msg("no entry for %llx", (unsigned long long)lin);
	return 0;
}

/* Where the run ends between two blocks, the page of the second has not been asked for: what is due then comes first. */
static void no_fetch_at_the_deadline(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0xff, 0xc0, 0xe9, 0xf9, 0x0f, 0x00, 0x00);          /* inc eax; jmp CODE + 0x1000 */
		PUT(&r, CODE + 0x1000, 0xff, 0xc3, 0xe9, 0xf9, 0xef, 0xff, 0xff); /* inc ebx; jmp CODE */
		for (uint64_t n = LONG + 2; n < 10 * LONG; n += LONG) {
			assert_int_equal(cpu_run(r.cpu, n), CPU_RUN_DEADLINE);
			assert_int_equal(r.cpu->gpr[REG_RIP], CODE + 0x1000);
			assert_true(code_stamp(&r, CODE) > code_stamp(&r, CODE + 0x1000));
		}
	}
}

/* A loop of chained blocks stops after exactly as many instructions as asked for, wherever that is. */
static void deadline_within_a_loop(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0x48, 0xff, 0xc0,       /* inc rax */
		    0x48, 0x83, 0xc3, 0x02,           /* add rbx, 2 */
		    0x48, 0x39, 0xcb, 0x75, 0xf4);    /* cmp rbx, rcx; jne CODE */
		r.cpu->gpr[RCX] = 1;
		for (uint64_t n = 0; n < 20000; n += 237) {
			assert_int_equal(cpu_run(r.cpu, n), CPU_RUN_DEADLINE);
			assert_int_equal(r.cpu->insns, n);
			assert_int_equal(r.cpu->gpr[RAX], (n + 3) / 4);
			assert_int_equal(r.cpu->gpr[RBX], (n + 2) / 4 * 2);
			assert_int_equal(r.cpu->gpr[REG_RIP], CODE + (n % 4 == 0 ? 0 : n % 4 == 1 ? 3 : n % 4 == 2 ? 7 : 10));
		}
	}
}

static void *kick_soon(void *cpu)
{
	usleep(20000);
	((struct cpu *)cpu)->kick = 1;
	return NULL;
}

/* Code that never leaves host code by itself can be interrupted. */
static void kick_out_of_a_loop(void **state)
{
	pthread_t other;
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0xeb, 0xfe);
		assert_int_equal(pthread_create(&other, NULL, kick_soon, r.cpu), 0);
		assert_int_equal(cpu_run(r.cpu, UINT64_MAX), CPU_RUN_KICKED);
		pthread_join(other, NULL);
		assert_int_equal(r.cpu->gpr[REG_RIP], CODE);
		assert_true(r.cpu->insns > 0);
	}
}

/* Guest code that is made without end: the buffer fills, is emptied, and nothing is lost. */
static void code_without_end(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, 256u << 10) {
		PUT(&r, CODE, 0x88, 0x47, 0x01,        /* mov [rdi+1], al: the immediate of the code there */
		    0xff, 0xd7,                        /* call rdi */
		    0xfe, 0xc0, 0x00, 0xca,            /* inc al; add dl, cl */
		    0xff, 0xce, 0x75, 0xf3, 0xf4);     /* dec esi; jnz CODE; hlt */
		PUT(&r, CODE + 0x1000, 0xb1, 0, 0xc3); /* mov cl, 0; ret */
		r.cpu->gpr[RDI] = CODE + 0x1000;
		r.cpu->gpr[RDX] = 0;
		r.cpu->gpr[RSI] = 20000;
		assert_int_equal(cpu_run(r.cpu, 1000000), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->insns, 20000 * 8 + 1);
		assert_int_equal((uint8_t)r.cpu->gpr[RDX], 240); /* 19999 * 20000 / 2 modulo 256 */
		assert_true(!way_ || r.cpu->stats.code_flushes > 1);
	}
}

/* CR4.SMAP comes and goes with every VM exit of a hypervisor that has it from a guest that has not: host code stays. */
static void smap_comes_and_goes(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		uint64_t flushes = r.cpu->stats.code_flushes;

		PUT(&r, CODE, 0x0f, 0x01, 0xcb, /* stac */
		    0x48, 0x8b, 0x0e,           /* mov rcx, [rsi]: a user page */
		    0x0f, 0x01, 0xca,           /* clac */
		    0x48, 0x8b, 0x1e, 0xf4);    /* mov rbx, [rsi]; hlt */
		for (uint64_t table = TABLES; table <= TABLES + 0x2000; table += PAGE_SIZE)
			put_u64(r.host + table, get_u64(r.host + table) | PTE_U);
		map(&r, DATA, PTE_P | PTE_W | PTE_U);
		put_u64(r.host + DATA, 0x1234);
		r.cpu->gpr[RSI] = DATA;
		for (unsigned i = 1; i <= 6; i++) {
			bool smap = i % 2 == 0;

			r.cpu->halted = false;
			r.cpu->cr4 = smap ? r.cpu->cr4 | CR4_SMAP : r.cpu->cr4 & ~CR4_SMAP;
			r.cpu->gpr[REG_RIP] = CODE;
			r.cpu->gpr[RCX] = r.cpu->gpr[RBX] = 0;
			cpu_update_mode(r.cpu);
			assert_int_equal(cpu_run(r.cpu, i * LONG), CPU_RUN_HALTED);
			assert_int_equal(r.cpu->gpr[RCX], 0x1234);
			assert_int_equal(r.cpu->gpr[RBX], smap ? 0 : 0x1234);
			assert_int_equal(r.cpu->gpr[REG_RIP], smap ? HALT + EXC_PF + 1 : CODE + 13);
		}
		assert_int_equal(r.cpu->stats.code_flushes, flushes);
	}
}

/* SSE in host registers: the control word and its flags are the guest's, and #NM comes when it should. */
static void vector_state(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0xf3, 0x0f, 0x5e, 0xc1, /* divss xmm0, xmm1 */
		    0x90, 0xf4);
		put_u32(r.cpu->fpu.fx + FX_XMM(0), 0x3f800000);
		put_u32(r.cpu->fpu.fx + FX_XMM(1), 0x40400000);
		put_u32(r.cpu->fpu.fx + FX_MXCSR, 0x5f80); /* rounding up */
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(get_u32(r.cpu->fpu.fx + FX_XMM(0)), 0x3eaaaaab);
		assert_int_equal(get_u32(r.cpu->fpu.fx + FX_MXCSR), 0x5fa0); /* inexact */
		r.cpu->halted = false;
		r.cpu->gpr[REG_RIP] = CODE;
		r.cpu->cr0 |= CR0_TS;
		cpu_update_mode(r.cpu);
		assert_int_equal(cpu_run(r.cpu, 2 * LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->gpr[REG_RIP], HALT + EXC_NM + 1);
	}
}

static void set_avx(struct cpu *c, bool on)
{
	c->cr4 = on ? c->cr4 | CR4_OSXSAVE : c->cr4 & ~CR4_OSXSAVE;
	c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	cpu_update_mode(c);
}

/* Upper halves of vector registers come and go with AVX moves, and stay over SSE's. */
static void avx_moves(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		if (!cpu_has(r.cpu, CPUF_AVX))
			continue;
		PUT(&r, CODE, 0xc5, 0xfe, 0x6f, 0x06,  /* vmovdqu ymm0, [rsi] */
		    0x0f, 0x57, 0xc0,                  /* xorps xmm0, xmm0 */
		    0xc5, 0xfe, 0x7f, 0x07,            /* vmovdqu [rdi], ymm0 */
		    0xc5, 0xfe, 0x6f, 0x0e,            /* vmovdqu ymm1, [rsi] */
		    0xc5, 0xfa, 0x6f, 0x0e,            /* vmovdqu xmm1, [rsi] */
		    0xc5, 0xfe, 0x7f, 0x4f, 0x20,      /* vmovdqu [rdi+32], ymm1 */
		    0xc5, 0xfc, 0x28, 0x56, 0x18,      /* vmovaps ymm2, [rsi+24] */
		    0xc5, 0xf8, 0x77,                  /* vzeroupper */
		    0xc5, 0xfe, 0x7f, 0x57, 0x40,      /* vmovdqu [rdi+64], ymm2 */
		    0xc5, 0xfd, 0x6f, 0x06, 0xf4);     /* vmovdqa ymm0, [rsi]: not aligned */
		set_avx(r.cpu, true);
		r.cpu->gpr[RSI] = DATA + 8;
		r.cpu->gpr[RDI] = DATA + 0x108;
		for (unsigned i = 0; i < 16; i++)
			put_u64(r.host + DATA + 8 * i, i + 1);
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->gpr[REG_RIP], HALT + EXC_GP + 1);
		assert_int_equal(r.cpu->insns, 9 + 1);
		for (unsigned i = 0; i < 12; i++) {
			static const uint64_t want[12] = {0, 0, 4, 5, 2, 3, 0, 0, 5, 6, 0, 0};

			assert_int_equal(get_u64(r.host + DATA + 0x108 + 8 * i), want[i]);
		}
		r.cpu->halted = false;
		r.cpu->gpr[REG_RIP] = CODE;
		set_avx(r.cpu, false);
		assert_int_equal(cpu_run(r.cpu, 2 * LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->gpr[REG_RIP], HALT + EXC_UD + 1);
	}
}

/* A store of 32 bytes over two pages, the second of which cannot be written. */
static void avx_split_store(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		if (!cpu_has(r.cpu, CPUF_AVX))
			continue;
		PUT(&r, CODE, 0xc5, 0xfe, 0x7f, 0x07, 0xf4); /* vmovdqu [rdi], ymm0; hlt */
		set_avx(r.cpu, true);
		memset(r.cpu->fpu.fx + FX_XMM(0), 0xff, 16);
		r.cpu->gpr[RDI] = DATA + 0x1ff0;
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->cr2, DATA + 0x2000);
		assert_int_equal(get_u64(r.host + DATA + 0x1ff0), 0);
	}
}

/* Pushes that reach a page that cannot be written: those before have happened, one by one. */
static void pushes_over_a_page(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0x50, 0x41, 0x57, 0x53, 0x51, 0xf4); /* push rax; push r15; push rbx; push rcx; hlt */
		map(&r, DATA, PTE_P);
		r.cpu->gpr[RSP] = DATA + 0x1010;
		r.cpu->gpr[RAX] = 0x1111;
		r.cpu->gpr[R15] = 0x2222;
		r.cpu->gpr[RBX] = r.cpu->gpr[RCX] = 0x3333;
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_SHUTDOWN); /* no stack for the handler either */
		assert_int_equal(r.cpu->insns, 2);
		assert_int_equal(r.cpu->gpr[RSP], DATA + 0x1000);
		assert_int_equal(get_u64(r.host + DATA + 0x1008), 0x1111);
		assert_int_equal(get_u64(r.host + DATA + 0x1000), 0x2222);
		assert_int_equal(get_u64(r.host + DATA + 0xff8), 0);
	}
}

static void pops_and_flags(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0x48, 0x83, 0xc4, 0xf8, /* add rsp, -8 */
		    0x58, 0x41, 0x5f, 0x5d,           /* pop rax; pop r15; pop rbp */
		    0x9c, 0xf4);                      /* pushfq; hlt */
		r.cpu->gpr[RSP] = DATA + 0x108;
		for (unsigned i = 0; i < 3; i++)
			put_u64(r.host + DATA + 0x100 + 8 * i, i + 5);
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->gpr[RAX], 5);
		assert_int_equal(r.cpu->gpr[R15], 6);
		assert_int_equal(r.cpu->gpr[RBP], 7);
		assert_int_equal(r.cpu->gpr[RSP], DATA + 0x110);
		assert_int_equal(pushed(&r, 0) & RF_ARITH, RF_CF | RF_PF | RF_AF);
	}
}

/* Hits in host code count for the order in which a set of the TLB is used. */
static void order_of_use(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE, 0x8b, 0x06, 0x8b, 0x07, 0x8b, 0x03, 0x8b, 0x02, /* A B C D: mov eax, [rsi], [rdi], [rbx], [rdx] */
		    0x8b, 0x06, 0x8b, 0x45, 0x00,                              /* A, then E pushes out B */
		    0x8b, 0x06, 0x8b, 0x07, 0xf4);                             /* A again, B */
		r.cpu->gpr[RSI] = 0x20000;
		r.cpu->gpr[RDI] = 0x30000;
		r.cpu->gpr[RBX] = 0x40000;
		r.cpu->gpr[RDX] = 0x50000;
		r.cpu->gpr[RBP] = 0;
		r.cpu->mmu.stats = (struct mmu_stats){0};
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->mmu.stats.l1d_misses, 6);
	}
}

/* Distances of nearly 2 GiB, from the block and from its page. */
static void far_targets(void **state)
{
	struct rig r;

	(void)state;
	EACH(r, CACHE) {
		PUT(&r, CODE + 0x800, 0x8b, 0x05, 0xf0, 0xff, 0xff, 0x7f, 0xf4); /* mov eax, [rip+0x7ffffff0] */
		PUT(&r, CODE + 0xc00, 0xe9, 0xf0, 0xff, 0xff, 0x7f);             /* jmp there */
		r.cpu->gpr[REG_RIP] = CODE + 0x800;
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->cr2, CODE + 0x800 + 6 + 0x7ffffff0ull);
		r.cpu->halted = false;
		r.cpu->gpr[REG_RIP] = CODE + 0xc00;
		assert_int_equal(cpu_run(r.cpu, LONG), CPU_RUN_HALTED);
		assert_int_equal(r.cpu->cr2, CODE + 0xc00 + 5 + 0x7ffffff0ull);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flags_at_a_fault),	  cmocka_unit_test(split_store_that_faults),
		cmocka_unit_test(block_that_changes_itself), cmocka_unit_test(deadline_within_a_loop),
		cmocka_unit_test(kick_out_of_a_loop),	  cmocka_unit_test(code_without_end),
		cmocka_unit_test(smap_comes_and_goes),
		cmocka_unit_test(vector_state),		  cmocka_unit_test(pushes_over_a_page),
		cmocka_unit_test(pops_and_flags),	  cmocka_unit_test(order_of_use),
		cmocka_unit_test(far_targets),		  cmocka_unit_test(avx_moves),
		cmocka_unit_test(avx_split_store),	  cmocka_unit_test(block_that_changes_the_next),
		cmocka_unit_test(no_fetch_at_the_deadline), cmocka_unit_test(short_block_that_is_laid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
