/*
 * Random blocks on the interpreter and on the translator: two processors that differ in
 * nothing else. A test is some dozens of random instructions, over two code pages, with branches among
 * them, that read and write data, read-only and unmapped pages, cross page boundaries, and change the code they
 * stand in, through it and through another mapping. It runs to an exception (whose handler
 * halts), a HLT, or a random instruction count, in one or more stretches.
 *
 * Compared after each: all registers, flags, x87 and SSE state, memory, instruction and event counts, and
 * everything that the translation hardware counted.
 */
#include "cpu/block.h"
#include "cpu/cpu.h"

#include <Zydis/Zydis.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define CODE    0x400000ull     /* two pages, executable and writable */
#define ALIAS   0x600000ull     /* the same, not executable */
#define DATA    0x500000ull     /* four pages, then one that cannot be written, then nothing */
#define SEAM    0x8000000ull    /* a page on each side: a slot of the fast lookup that neighbours would share */
#define KERNEL  0x300000ull     /* handlers, tables, stack */
#define DATA_PAGES 4u

enum frame { F_CODE = 0, F_DATA = 2, F_RO = F_DATA + DATA_PAGES, F_SEAM, F_KERNEL = F_SEAM + 2, F_COUNT = F_KERNEL + 4 };

struct side {
	struct machmem mem;
	struct cpu *cpu;
	uint64_t frames; /* machine address of the first of F_COUNT */
	uint64_t root;   /* of the page tables */
	uint8_t *host;
};

static struct side side[2];
static uint64_t rng_state;

static uint64_t rnd(void)
{
	uint64_t z = (rng_state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static uint64_t below(uint64_t n) { return (rnd() >> 16) % n; }
static bool one_in(uint64_t n) { return below(n) == 0; }

/* ---- the machine ---- */

static uint64_t new_table(struct side *s)
{
	mfn_t f;

	if (machmem_alloc(&s->mem, 0, OWNER_MACHINE, &f))
		abort();
	return mfn_to_hpa(f).v;
}

static void map_page(struct side *s, uint64_t root, uint64_t lin, unsigned frame, uint64_t rights)
{
	uint64_t table = root, *e;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		e = (uint64_t *)machmem_ptr(&s->mem, hpa(table)) + (lin >> shift & 511);
		if (!*e)
			*e = new_table(s) | PTE_P | PTE_W | PTE_U;
		table = *e & PTE_ADDR_MASK;
	}
	e = (uint64_t *)machmem_ptr(&s->mem, hpa(table)) + (lin >> 12 & 511);
	*e = (s->frames + frame * PAGE_SIZE) | PTE_P | rights;
}

static uint64_t make_tables(struct side *s)
{
	uint64_t root = new_table(s);

	for (unsigned i = 0; i < 2; i++) {
		map_page(s, root, CODE + i * PAGE_SIZE, F_CODE + i, PTE_U | PTE_W);
		map_page(s, root, ALIAS + i * PAGE_SIZE, F_CODE + i, PTE_U | PTE_W | PTE_NX);
		map_page(s, root, SEAM - PAGE_SIZE + i * PAGE_SIZE, F_SEAM + i, PTE_U | PTE_W | PTE_NX);
	}
	for (unsigned i = 0; i < DATA_PAGES; i++)
		map_page(s, root, DATA + i * PAGE_SIZE, F_DATA + i, PTE_U | PTE_W | PTE_NX);
	map_page(s, root, DATA + DATA_PAGES * PAGE_SIZE, F_RO, PTE_U | PTE_NX);
	for (unsigned i = 0; i < 4; i++)
		map_page(s, root, KERNEL + i * PAGE_SIZE, F_KERNEL + i, PTE_W);
	return root;
}

/* Handlers halt; the IDT is the second kernel page, GDT and TSS are in the third, the stack is the fourth. */
static void make_kernel(struct side *s)
{
	uint8_t *k = s->host + F_KERNEL * PAGE_SIZE;
	uint64_t *gdt = (uint64_t *)(void *)(k + 2 * PAGE_SIZE);

	memset(k, 0xf4, PAGE_SIZE);
	for (unsigned v = 0; v < 32; v++) {
		uint64_t at = KERNEL + v * 16;

		put_u64(k + PAGE_SIZE + v * 16, (at & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (at >> 16 & 0xffff) << 48);
		put_u64(k + PAGE_SIZE + v * 16 + 8, at >> 32);
	}
	gdt[1] = 0x00209b0000000000ull;
	put_u64(k + 2 * PAGE_SIZE + 0x104, KERNEL + 4 * PAGE_SIZE); /* TSS at 0x100: RSP0 */
}

static void set_processor(struct side *s, unsigned cpl, bool smap)
{
	struct cpu *c = s->cpu;

	/* Code that changes itself at privilege level 0 may have become any instruction. */
	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	if (c->cr3 != s->root)
		mmu_flush_all_vpids(&c->mmu);
	c->cr3 = s->root;
	c->dr7 = DR7_FIXED;
	c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | (smap ? CR4_SMAP : 0);
	c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		c->seg[i] = (struct seg){.sel = (uint16_t)(0x10 | cpl), .limit = 0xffffffff,
					 .attr = 3 | SEG_AR_S | cpl << 5 | SEG_AR_P | SEG_AR_DB | SEG_AR_G};
	c->seg[SEG_CS].sel = (uint16_t)(8 | cpl);
	c->seg[SEG_CS].attr = 0xb | SEG_AR_S | cpl << 5 | SEG_AR_P | SEG_AR_L | SEG_AR_G;
	c->seg[SEG_FS].base = DATA + 64;
	c->seg[SEG_GS].base = DATA + PAGE_SIZE - 40;
	c->gdtr = (struct dtable){KERNEL + 2 * PAGE_SIZE, 0xff};
	c->idtr = (struct dtable){KERNEL + PAGE_SIZE, 511};
	c->tr = (struct seg){.sel = 0x40, .base = KERNEL + 2 * PAGE_SIZE + 0x100, .limit = 0x67, .attr = 11 | SEG_AR_P};
	c->cpl = (uint8_t)cpl;
	c->halted = false;
	c->nmi_blocked = false;
	c->shutdown = false;
	c->stop = (struct stop){0};
	c->db_pending = 0;
	c->dr6 = DR6_FIXED;
	c->shadow_sti = c->shadow_movss = false;
	cpu_update_mode(c);
}

static int make_side(struct side *s, bool translate, uint64_t code_cache)
{
	struct machmem_range range = {0, 4 << 20};
	struct cpu_config cfg;
	struct error err;

	if (machmem_init(&s->mem, &range, 1, &err))
		return -1;
	s->frames = 2 << 20;
	s->host = machmem_ptr(&s->mem, hpa(s->frames));
	cpu_config_default(&cfg);
	hw_default(&cfg.hw);
	cfg.translate = translate;
	cfg.translate_after = 0;
	if (code_cache)
		cfg.code_cache = code_cache;
	if (cpu_create(&s->cpu, &s->mem, &cfg, &err)) {
		fprintf(stderr, "blockfuzz: %s\n", err.text);
		return -1;
	}
	s->root = make_tables(s);
	make_kernel(s);
	return 0;
}

/* ---- instructions ---- */

struct form {
	uint8_t map, opcode;
	bool modrm;
	int8_t ext;  /* ModRM.reg, or -1: any */
	uint8_t imm; /* bytes; 9: of the operand size, at most 4; 10: at most 8 */
	uint8_t weight;
};

static const struct form forms[] = {
	{0, 0x00, true, -1, 0, 6}, {0, 0x01, true, -1, 0, 6}, {0, 0x02, true, -1, 0, 4}, {0, 0x03, true, -1, 0, 4},
	{0, 0x04, false, -1, 1, 2}, {0, 0x05, false, -1, 9, 2}, {0, 0x80, true, -1, 1, 6}, {0, 0x81, true, -1, 9, 6},
	{0, 0x83, true, -1, 1, 8}, {0, 0x84, true, -1, 0, 4}, {0, 0x85, true, -1, 0, 6}, {0, 0x86, true, -1, 0, 2},
	{0, 0x87, true, -1, 0, 3}, {0, 0x88, true, -1, 0, 6}, {0, 0x89, true, -1, 0, 12}, {0, 0x8a, true, -1, 0, 6},
	{0, 0x8b, true, -1, 0, 14}, {0, 0x8d, true, -1, 0, 6}, {0, 0x90, false, -1, 0, 3}, {0, 0x98, false, -1, 0, 2},
	{0, 0x99, false, -1, 0, 2}, {0, 0xa8, false, -1, 1, 1}, {0, 0xa9, false, -1, 9, 1}, {0, 0xb0, false, -1, 1, 2},
	{0, 0xb8, false, -1, 10, 3}, {0, 0xc0, true, -1, 1, 4}, {0, 0xc1, true, -1, 1, 6}, {0, 0xd0, true, -1, 0, 2},
	{0, 0xd1, true, -1, 0, 3}, {0, 0xd2, true, -1, 0, 2}, {0, 0xd3, true, -1, 0, 4}, {0, 0xc6, true, 0, 1, 3},
	{0, 0xc7, true, 0, 9, 4}, {0, 0xf6, true, 0, 1, 2}, {0, 0xf7, true, 0, 9, 2}, {0, 0xf6, true, 3, 0, 1},
	{0, 0xf7, true, 2, 0, 1}, {0, 0xf7, true, 3, 0, 2}, {0, 0xf6, true, 4, 0, 1}, {0, 0xf7, true, 4, 0, 2},
	{0, 0xf7, true, 5, 0, 2}, {0, 0xf7, true, 6, 0, 2}, {0, 0xf7, true, 7, 0, 1}, {0, 0xf6, true, 6, 0, 1},
	{0, 0xfe, true, 0, 0, 2}, {0, 0xfe, true, 1, 0, 2}, {0, 0xff, true, 0, 0, 3}, {0, 0xff, true, 1, 0, 3},
	{0, 0xff, true, 2, 0, 1}, {0, 0xff, true, 4, 0, 1}, {0, 0xff, true, 6, 0, 2}, {0, 0x8f, true, 0, 0, 2},
	{0, 0x50, false, -1, 0, 6}, {0, 0x58, false, -1, 0, 6}, {0, 0x68, false, -1, 9, 2}, {0, 0x6a, false, -1, 1, 2},
	{0, 0x69, true, -1, 9, 2}, {0, 0x6b, true, -1, 1, 2}, {0, 0x63, true, -1, 0, 2}, {0, 0x9c, false, -1, 0, 2},
	{0, 0x9d, false, -1, 0, 1}, {0, 0x9e, false, -1, 0, 1}, {0, 0x9f, false, -1, 0, 1}, {0, 0xf5, false, -1, 0, 1},
	{0, 0xf8, false, -1, 0, 1}, {0, 0xf9, false, -1, 0, 1}, {0, 0xfc, false, -1, 0, 2}, {0, 0xfd, false, -1, 0, 1},
	{0, 0xa4, false, -1, 0, 1}, {0, 0xa5, false, -1, 0, 1}, {0, 0xab, false, -1, 0, 1}, {0, 0xad, false, -1, 0, 1},
	{0, 0xae, false, -1, 0, 1}, {0, 0xc3, false, -1, 0, 1}, {0, 0xc2, false, -1, 2, 1}, {0, 0xc9, false, -1, 0, 1},
	{0, 0xd7, false, -1, 0, 1}, {0, 0xcc, false, -1, 0, 1}, {0, 0xf4, false, -1, 0, 1}, {0, 0xa1, false, -1, 0, 0},
	{1, 0xaf, true, -1, 0, 3}, {1, 0xb6, true, -1, 0, 4}, {1, 0xb7, true, -1, 0, 3}, {1, 0xbe, true, -1, 0, 3},
	{1, 0xbf, true, -1, 0, 3}, {1, 0xa3, true, -1, 0, 2}, {1, 0xab, true, -1, 0, 2}, {1, 0xb3, true, -1, 0, 2},
	{1, 0xbb, true, -1, 0, 2}, {1, 0xba, true, -1, 1, 3}, {1, 0xbc, true, -1, 0, 2}, {1, 0xbd, true, -1, 0, 2},
	{1, 0xa4, true, -1, 1, 1}, {1, 0xa5, true, -1, 0, 1}, {1, 0xac, true, -1, 1, 1}, {1, 0xad, true, -1, 0, 1},
	{1, 0xb0, true, -1, 0, 1}, {1, 0xb1, true, -1, 0, 2}, {1, 0xc0, true, -1, 0, 1}, {1, 0xc1, true, -1, 0, 2},
	{1, 0xc8, false, -1, 0, 2}, {1, 0x1f, true, 0, 0, 1}, {1, 0x31, false, -1, 0, 1}, {1, 0xa2, false, -1, 0, 1},
	{1, 0x6f, true, -1, 0, 3}, {1, 0x7f, true, -1, 0, 3}, {1, 0xef, true, -1, 0, 3}, {1, 0x10, true, -1, 0, 3},
	{1, 0x11, true, -1, 0, 3}, {1, 0x28, true, -1, 0, 2}, {1, 0x29, true, -1, 0, 2}, {1, 0x58, true, -1, 0, 3},
	{1, 0x59, true, -1, 0, 2}, {1, 0x2a, true, -1, 0, 2}, {1, 0x2c, true, -1, 0, 2}, {1, 0x2e, true, -1, 0, 3},
	{1, 0x6e, true, -1, 0, 2}, {1, 0x7e, true, -1, 0, 2}, {1, 0xd7, true, -1, 0, 2}, {1, 0x74, true, -1, 0, 2},
	{1, 0xfe, true, -1, 0, 2}, {1, 0x70, true, -1, 1, 2}, {1, 0x14, true, -1, 0, 2}, {1, 0x5e, true, -1, 0, 1},
	{1, 0x51, true, -1, 0, 1}, {1, 0xc6, true, -1, 1, 1}, {1, 0xae, true, 2, 0, 1}, {1, 0xae, true, 3, 0, 1},
	{1, 0xd6, true, -1, 0, 2}, {1, 0x16, true, -1, 0, 1}, {1, 0x12, true, -1, 0, 1}, {1, 0x73, true, -1, 1, 1},
	{1, 0xe6, true, -1, 0, 1}, {1, 0x5a, true, -1, 0, 1}, {1, 0x2f, true, -1, 0, 1},
	{2, 0x00, true, -1, 0, 2}, {2, 0x10, true, -1, 0, 1}, {2, 0x17, true, -1, 0, 2}, {2, 0x38, true, -1, 0, 1},
	{2, 0xf0, true, -1, 0, 1}, {3, 0x0f, true, -1, 1, 2}, {3, 0x16, true, -1, 1, 1}, {3, 0x22, true, -1, 1, 1},
	{3, 0x63, true, -1, 1, 1}, {3, 0x0b, true, -1, 1, 1},
};

static unsigned form_weights;

static const struct form *random_form(void)
{
	int64_t n = (int64_t)below(form_weights);
	unsigned i = 0;

	while ((n -= forms[i].weight) >= 0)
		i++;
	return &forms[i];
}

static unsigned put_modrm(uint8_t *p, const struct form *f)
{
	uint8_t *start = p;
	unsigned mod = (unsigned)below(4), rm = (unsigned)below(8);

	if (one_in(2))
		mod = 3;
	*p++ = (uint8_t)(mod << 6 | (f->ext >= 0 ? (unsigned)f->ext : below(8)) << 3 | rm);
	if (mod == 3)
		return 1;
	if (rm == 4) {
		/* Mostly without an index: two pointers make none. */
		*p++ = (uint8_t)(one_in(12) ? rnd() : 0x20 | (rnd() & 0xc7));
		rm = p[-1] & 7;
	}
	if (mod == 1) {
		*p++ = (uint8_t)rnd();
	} else if (mod == 2 || (mod == 0 && (rm & 7) == 5)) {
		/* RIP-relative reaches the code around it. */
		put_u32(p, (uint32_t)(int32_t)((int64_t)below(0x1800) - 0xc00));
		p += 4;
	}
	return (unsigned)(p - start);
}

static unsigned put_prefixes(uint8_t *p, const struct form *f, bool *wide, bool *small)
{
	uint8_t *start = p;

	*small = one_in(f->map ? 3 : 8);
	*wide = one_in(2);
	if (*small)
		*p++ = 0x66;
	if (one_in(f->map ? 4 : 12))
		*p++ = one_in(2) ? 0xf2 : 0xf3;
	if (one_in(16))
		*p++ = one_in(2) ? 0x64 : 0x65;
	if (one_in(60))
		*p++ = 0x67;
	if (one_in(40) && f->modrm)
		*p++ = 0xf0;
	if (*wide || one_in(2))
		*p++ = (uint8_t)(0x40 | (*wide ? 8 : 0) | (rnd() & 7));
	return (unsigned)(p - start);
}

static unsigned put_plain(uint8_t *p)
{
	const struct form *f = random_form();
	uint8_t *start = p;
	bool wide, small;
	unsigned imm = f->imm;

	if (one_in(40)) { /* CLAC, STAC */
		memcpy(p, one_in(2) ? "\x0f\x01\xca" : "\x0f\x01\xcb", 3);
		return 3;
	}
	p += put_prefixes(p, f, &wide, &small);
	if (f->map)
		*p++ = 0x0f;
	if (f->map > 1)
		*p++ = f->map == 2 ? 0x38 : 0x3a;
	*p = f->opcode;
	if (!f->map && f->opcode < 8)
		*p |= (uint8_t)(below(8) << 3);
	if (!f->modrm && (f->opcode & 0xf8) == f->opcode && (f->opcode == 0x50 || f->opcode == 0x58 || f->opcode == 0xb0 ||
							     f->opcode == 0xb8 || f->opcode == 0x90 || f->opcode == 0xc8))
		*p |= rnd() & 7;
	p++;
	if (f->modrm)
		p += put_modrm(p, f);
	if (imm == 9)
		imm = small && !wide ? 2 : 4;
	if (imm == 10)
		imm = wide ? 8 : small ? 2 : 4;
	put_u64(p, one_in(2) ? rnd() : below(70));
	return (unsigned)(p + imm - start);
}

/* A branch to some address in the code, mostly near. */
static unsigned put_branch(uint8_t *p, unsigned at)
{
	unsigned kind = (unsigned)below(16);
	int32_t d;

	if (one_in(2)) {
		p[0] = kind < 12 ? (uint8_t)(0x70 | (rnd() & 15)) : kind < 15 ? 0xeb : (uint8_t)(0xe0 + below(4));
		p[1] = one_in(3) ? (uint8_t)rnd() : (uint8_t)below(40);
		return 2;
	}
	d = (int32_t)(one_in(3) ? (int64_t)below(2 * PAGE_SIZE) - (int64_t)at : (int64_t)below(120) - 40);
	if (kind < 10) {
		p[0] = 0x0f;
		p[1] = (uint8_t)((one_in(8) ? 0x90 : one_in(6) ? 0x40 : 0x80) | (rnd() & 15));
		if (p[1] < 0x80 || p[1] > 0x8f)
			return 2 + put_modrm(p + 2, &(struct form){.ext = -1});
		put_u32(p + 2, (uint32_t)d);
		return 6;
	}
	p[0] = kind < 13 ? 0xe9 : 0xe8;
	put_u32(p + 1, (uint32_t)d);
	return 5;
}

static uint64_t random_pointer(void)
{
	switch (below(24)) {
	case 0: return ALIAS + below(2 * PAGE_SIZE);
	case 1: return CODE + below(2 * PAGE_SIZE);
	case 2: return SEAM - 16 + below(32);
	case 3: return DATA + PAGE_SIZE * (1 + below(DATA_PAGES)) - below(20);
	case 4: return DATA + (DATA_PAGES + 1) * PAGE_SIZE - below(40);
	case 5: return (DATA + PAGE_SIZE + below(2 * PAGE_SIZE)) & ~15ull;
	default: return DATA + PAGE_SIZE + below(2 * PAGE_SIZE);
	}
}

static uint64_t random_value(void)
{
	static const uint64_t special[] = {0, 1, ~0ull, 0x80, 0x7fff, 0x80000000, 0x7fffffffffffffff, 0x8000000000000000,
					   0x7ffffffffff8, 0x800000000000, 0xffff800000000000, 31, 63, 64};

	switch (below(4)) {
	case 0: return special[below(ARRAY_SIZE(special))];
	case 1: return below(256);
	default: return rnd();
	}
}

/* ---- a test ---- */

struct test {
	unsigned start;      /* offset of the first instruction in the code */
	unsigned cpl;
	bool smap;           /* supervisor accesses need EFLAGS.AC: all data is the user's */
	uint64_t gpr[16], rflags;
	uint8_t fx[512];
	unsigned stretches;
	uint64_t stretch[3]; /* instructions to run at a time */
};

/* Fills both sides' code from @from on. */
static void put_code(unsigned from)
{
	unsigned count = 4 + (unsigned)below(40), at = from;

	for (unsigned i = 0; i < count && at < 2 * PAGE_SIZE - 64; i++) {
		uint8_t bytes[64] = {0};
		unsigned n = one_in(6) ? put_branch(bytes, at) : put_plain(bytes);

		for (unsigned k = 0; k < 2; k++) {
			uint8_t *p = side[k].host + F_CODE * PAGE_SIZE + at;

			for (unsigned b = 0; b < n; b++)
				if (side[k].mem.code_map[(side[k].frames + at + b) >> PAGE_SHIFT])
					blocks_note_write(side[k].cpu, side[k].frames + at + b, 1);
			memcpy(p, bytes, n);
		}
		at += n;
	}
}

static void random_test(struct test *t)
{
	t->start = one_in(4) ? (unsigned)(PAGE_SIZE - below(60)) : (unsigned)below(2 * PAGE_SIZE - 1200);
	t->cpl = one_in(2) ? 3 : 0;
	for (unsigned r = 0; r < 16; r++)
		t->gpr[r] = r == RSP ? (one_in(10) ? random_pointer() : DATA + 2 * PAGE_SIZE + below(PAGE_SIZE))
			    : one_in(5) ? random_value() : random_pointer();
	if (one_in(2))
		t->gpr[RCX] = below(40);
	t->smap = one_in(4);
	t->rflags = RF_ONE | (one_in(4) ? RF_AC : 0) | (rnd() & RF_ARITH) | (one_in(10) ? RF_DF : 0);
	for (unsigned i = 0; i < 16; i++) {
		put_u64(t->fx + FX_XMM(i), one_in(3) ? 0x3ff0000000000000ull + (rnd() >> 20) : rnd());
		put_u64(t->fx + FX_XMM(i) + 8, rnd());
	}
	put_u32(t->fx + FX_MXCSR, one_in(8) ? 0x1f80 & ~(uint32_t)(rnd() & 0x1f80) : 0x1f80 | (uint32_t)(one_in(3) ? rnd() & 0x6000 : 0));
	t->stretches = 1 + (unsigned)below(3);
	for (unsigned i = 0; i < 3; i++)
		t->stretch[i] = one_in(3) ? below(200) : below(1000); /* host code stops some time before the end */
	if (one_in(4)) {
		uint64_t seed = rnd();

		for (unsigned k = 0; k < 2; k++)
			for (unsigned i = 0; i < 512; i++)
				put_u64(side[k].host + (F_DATA + i % DATA_PAGES) * PAGE_SIZE + (seed * i >> 40) % 4088, seed * i);
	}
	put_code(t->start);
}

static enum cpu_run_status run_side(struct side *s, const struct test *t)
{
	struct cpu *c = s->cpu;
	enum cpu_run_status st = CPU_RUN_DEADLINE;

	memcpy(c->gpr, t->gpr, sizeof(t->gpr));
	c->gpr[REG_RIP] = CODE + t->start;
	memcpy(c->fpu.fx + 32, t->fx + 32, 384);
	memcpy(c->fpu.fx + FX_MXCSR, t->fx + FX_MXCSR, 4);
	cpu_set_rflags(c, t->rflags);
	set_processor(s, t->cpl, t->smap);
	for (unsigned i = 0; i < t->stretches && (st == CPU_RUN_DEADLINE || st == CPU_RUN_BUS); i++)
		st = cpu_run(c, cpu_tsc(c) + t->stretch[i]);
	return st;
}

static const char *difference(void)
{
	const struct cpu *a = side[0].cpu, *b = side[1].cpu;

	if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)))
		return "general registers";
	if (cpu_get_rflags(a) != cpu_get_rflags(b))
		return "flags";
	if (memcmp(a->fpu.fx, b->fpu.fx, 512))
		return "x87 or SSE state";
	if (a->insns != b->insns)
		return "instruction count";
	if (a->cr2 != b->cr2 || a->dr6 != b->dr6 || a->halted != b->halted || a->shutdown != b->shutdown)
		return "control state";
	if (a->stats.exceptions != b->stats.exceptions || a->stats.page_faults != b->stats.page_faults ||
	    a->stats.halts != b->stats.halts)
		return "events";
	if (memcmp(&a->mmu.stats, &b->mmu.stats, sizeof(a->mmu.stats)))
		return "translation counters";
	if (memcmp(side[0].host, side[1].host, F_COUNT * PAGE_SIZE))
		return "memory";
	return NULL;
}

/* ---- report ---- */

static void disassemble(const uint8_t *code, unsigned from)
{
	ZydisDecoder d;
	ZydisFormatter f;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned i = 0; i < 60 && from < 2 * PAGE_SIZE - 16; i++) {
		ZydisDecodedInstruction z;
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		char text[128];

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, code + from, 15, &z, op))) {
			printf("  %llx  (undefined)\n", (unsigned long long)CODE + from);
			return;
		}
		ZydisFormatterFormatInstruction(&f, &z, op, z.operand_count_visible, text, sizeof(text), CODE + from, NULL);
		printf("  %llx  %s\n", (unsigned long long)CODE + from, text);
		from += z.length;
	}
}

static void report(const char *what, const struct test *t, uint64_t number, const uint8_t *code)
{
	static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8",
					   "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"};
	const struct cpu *a = side[0].cpu, *b = side[1].cpu;

	printf("test %llu: %s differ\n", (unsigned long long)number, what);
	for (unsigned r = 0; r < 17; r++)
		printf("  %-4s in %016llx interpreter %016llx translator %016llx%s\n", name[r],
		       (unsigned long long)(r < 16 ? t->gpr[r] : CODE + t->start), (unsigned long long)a->gpr[r],
		       (unsigned long long)b->gpr[r], a->gpr[r] == b->gpr[r] ? "" : "  <--");
	printf("  flags in %llx interpreter %llx translator %llx; instructions %llu %llu; exceptions %llu %llu\n",
	       (unsigned long long)t->rflags, (unsigned long long)cpu_get_rflags(a), (unsigned long long)cpu_get_rflags(b),
	       (unsigned long long)a->insns, (unsigned long long)b->insns, (unsigned long long)a->stats.exceptions,
	       (unsigned long long)b->stats.exceptions);
	printf("  MXCSR in %x: %x %x\n", get_u32(t->fx + 24), get_u32(a->fpu.fx + 24), get_u32(b->fpu.fx + 24));
	for (unsigned i = 0; i < 416; i++)
		if (a->fpu.fx[i] != b->fpu.fx[i])
			printf("  FXSAVE image %x: in %02x interpreter %02x translator %02x\n", i, t->fx[i], a->fpu.fx[i], b->fpu.fx[i]);
	for (unsigned i = 0; i < F_COUNT * PAGE_SIZE; i++)
		if (side[0].host[i] != side[1].host[i]) {
			printf("  memory: frame %u offset %x: %02x %02x\n", i >> PAGE_SHIFT, i & 0xfff, side[0].host[i],
			       side[1].host[i]);
			break;
		}
	disassemble(code, t->start);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"count", 1, NULL, 'c'}, {"seed", 1, NULL, 's'}, {"code-cache", 1, NULL, 'k'}, {0}};
	static uint8_t code[2 * 4096];
	uint64_t count = 100000, seed = 1, insns, code_cache = 1 << 20, idle = 0;
	int o;

	while ((o = getopt_long(argc, argv, "c:s:k:", options, NULL)) >= 0) {
		if (o == 'c')
			count = strtoull(optarg, NULL, 0);
		else if (o == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (o == 'k')
			code_cache = strtoull(optarg, NULL, 0);
		else
			return 2;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(forms); i++)
		form_weights += forms[i].weight;
	if (make_side(&side[0], false, 0) || make_side(&side[1], true, code_cache))
		return 2;
	insns = side[0].cpu->insns;
	for (uint64_t n = 0; n < count; n++) {
		uint64_t before = side[0].cpu->insns;
		enum cpu_run_status st[2];
		const char *what;
		struct test t = {0};

		rng_state = seed + n * 0x632be59bd9b4e019ull;
		random_test(&t);
		memcpy(code, side[0].host + F_CODE * PAGE_SIZE, sizeof(code));
		if (one_in(64))
			for (unsigned k = 0; k < 2; k++)
				mmu_flush_all_vpids(&side[k].cpu->mmu);
		for (unsigned k = 0; k < 2; k++)
			st[k] = run_side(&side[k], &t);
		what = st[0] != st[1] ? "status" : difference();
		if (what) {
			report(what, &t, n, code);
			return 1;
		}
		idle += side[0].cpu->insns == before;
	}
	if (idle > count / 2) {
		printf("%llu tests of %llu executed nothing\n", (unsigned long long)idle, (unsigned long long)count);
		return 1;
	}
	printf("%llu blocks, %llu instructions, %llu exceptions, %llu blocks translated, %llu invalidated, %llu flushes: no difference\n",
	       (unsigned long long)count, (unsigned long long)(side[0].cpu->insns - insns),
	       (unsigned long long)side[0].cpu->stats.exceptions, (unsigned long long)side[1].cpu->stats.blocks_translated,
	       (unsigned long long)side[1].cpu->stats.blocks_invalidated, (unsigned long long)side[1].cpu->stats.code_flushes);
	for (unsigned k = 0; k < 2; k++) {
		cpu_destroy(side[k].cpu);
		machmem_destroy(&side[k].mem);
	}
	return 0;
}
