/*
 * Our side of the differential fuzzer: a processor in 64-bit mode at CPL 3 whose
 * page tables map the same addresses with the same rights as the host process.
 * An instruction is decoded, lowered and executed as the block cache does it, or as host
 * code if there is a translator; an exception is taken as a value, before delivery.
 */
#include "difffuzz.h"

#include "cpu/access.h"
#include "cpu/block.h"
#include "cpu/cpu.h"
#include "cpu/flags.h"
#include "cpu/lower.h"
#include "cpu/xlate.h"

#include <stdio.h>
#include <stdlib.h>

struct guest {
	struct machmem mem;
	struct cpu *cpu;
	unsigned bits; /* mode the processor is in */
	uint8_t *base; /* host address of the frames for CODE, DATA, RO */
	uint64_t frames;
	uint64_t translated; /* runs as host code */
};

#define OFFSET_CODE 0u
#define OFFSET_DATA CODE_BYTES
#define OFFSET_RO   (CODE_BYTES + DATA_BYTES)

uint8_t *guest_data(struct guest *g, uint64_t addr)
{
	if (addr - CODE_BASE < CODE_BYTES)
		return g->base + OFFSET_CODE + (addr - CODE_BASE);
	if (addr - DATA_BASE < DATA_BYTES)
		return g->base + OFFSET_DATA + (addr - DATA_BASE);
	return g->base + OFFSET_RO + (addr - RO_BASE);
}

/* ---- page tables ---- */

static uint64_t new_table(struct guest *g)
{
	mfn_t f;

	if (machmem_alloc(&g->mem, 0, OWNER_MACHINE, &f))
		abort();
	return mfn_to_hpa(f).v;
}

static uint64_t *table_entry(struct guest *g, uint64_t table, uint64_t lin, unsigned shift)
{
	uint64_t *t = machmem_ptr(&g->mem, hpa(table));

	return &t[lin >> shift & 511];
}

static void map_page(struct guest *g, uint64_t root, uint64_t lin, uint64_t frame, uint64_t rights)
{
	uint64_t table = root;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t *e = table_entry(g, table, lin, shift);

		if (!(*e & PTE_P))
			*e = new_table(g) | PTE_P | PTE_W | PTE_U;
		table = *e & PTE_ADDR_MASK;
	}
	*table_entry(g, table, lin, 12) = frame | PTE_P | PTE_U | rights;
}

static uint64_t make_page_tables(struct guest *g)
{
	uint64_t root = new_table(g);

	for (uint64_t i = 0; i < CODE_BYTES; i += 4096)
		map_page(g, root, CODE_BASE + i, g->frames + OFFSET_CODE + i, 0);
	for (uint64_t i = 0; i < DATA_BYTES; i += 4096)
		map_page(g, root, DATA_BASE + i, g->frames + OFFSET_DATA + i, PTE_W | PTE_NX);
	for (uint64_t i = 0; i < RO_BYTES; i += 4096)
		map_page(g, root, RO_BASE + i, g->frames + OFFSET_RO + i, PTE_NX);
	return root;
}

/* ---- the processor ---- */

static void set_segments(struct cpu *c)
{
	uint16_t sel[6];

	host_selectors(sel);
	for (unsigned i = 0; i < 6; i++)
		c->seg[i] = (struct seg){.sel = sel[i], .limit = 0xffffffff,
					 .attr = 3 | SEG_AR_S | SEG_AR_DPL | SEG_AR_P | SEG_AR_DB | SEG_AR_G};
	c->seg[SEG_CS].attr = 0xb | SEG_AR_S | SEG_AR_DPL | SEG_AR_P | SEG_AR_L | SEG_AR_G;
	c->seg[SEG_FS].base = host_fs_base();
	c->seg[SEG_GS].base = host_gs_base();
}

/* Null selectors: in 64-bit mode FS and GS have bases all the same, in compatibility mode they are unusable. */
static void set_code_bits(struct guest *g, unsigned bits)
{
	struct cpu *c = g->cpu;
	uint16_t sel[6];

	host_selectors(sel);
	g->bits = bits;
	c->seg[SEG_CS].sel = bits == 32 ? HOST_CS32 : sel[SEG_CS];
	c->seg[SEG_CS].attr = (c->seg[SEG_CS].attr & ~(SEG_AR_L | SEG_AR_DB)) | (bits == 32 ? SEG_AR_DB : SEG_AR_L);
	for (unsigned i = SEG_FS; i <= SEG_GS; i++)
		c->seg[i].attr = (c->seg[i].attr & ~SEG_AR_UNUSABLE) | (bits == 32 ? SEG_AR_UNUSABLE : 0);
	cpu_update_mode(c);
}

static void set_user_mode(struct guest *g)
{
	struct cpu *c = g->cpu;

	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	c->cr3 = make_page_tables(g);
	c->rflags = RF_ONE | RF_IF;
	set_segments(c);
	set_code_bits(g, 64);
}

struct guest *guest_create(bool translate)
{
	struct machmem_range range = {0, 8 << 20};
	struct guest *g = calloc(1, sizeof(*g));
	struct cpu_config cfg;
	struct error err;
	mfn_t f;

	if (!g || machmem_init(&g->mem, &range, 1, &err) || machmem_alloc(&g->mem, 9, OWNER_MACHINE, &f)) {
		fprintf(stderr, "difffuzz: cannot make the machine\n");
		return NULL;
	}
	g->frames = mfn_to_hpa(f).v;
	g->base = machmem_ptr(&g->mem, hpa(g->frames));
	cpu_config_default(&cfg);
	cfg.translate = translate;
	cfg.translate_after = 0;
	if (cpu_create(&g->cpu, &g->mem, &cfg, &err)) {
		fprintf(stderr, "difffuzz: %s\n", err.text);
		return NULL;
	}
	set_user_mode(g);
	memset(guest_data(g, CODE_BASE), 0xcc, CODE_BYTES); /* as the host's */
	return g;
}

void guest_destroy(struct guest *g)
{
	cpu_destroy(g->cpu);
	machmem_destroy(&g->mem);
	free(g);
}

/* ---- one instruction ---- */

static void load_state(struct cpu *c, const struct state *s)
{
	memcpy(c->gpr, s->gpr, sizeof(s->gpr));
	c->gpr[REG_ZERO] = 0;
	c->gpr[REG_RIP] = s->rip;
	cpu_set_rflags(c, s->rflags);
	memcpy(c->fpu.fx, s->fx, sizeof(c->fpu.fx));
	memcpy(c->fpu.ymm_hi, s->ymm_hi, sizeof(c->fpu.ymm_hi));
	c->stop = (struct stop){.kind = STOP_NONE};
	c->db_pending = 0;
	c->bus.done_count = c->bus.replay = 0;
}

void guest_place(struct guest *g, const struct test *t)
{
	uint8_t *p = guest_data(g, t->slot);

	blocks_note_write(g->cpu, g->frames + (uint64_t)(p - g->base), SLOT_BYTES);
	memcpy(p, host_code(t->slot), SLOT_BYTES);
}

uint64_t guest_translated(const struct guest *g) { return g->translated; }

static int interpret(struct cpu *c, const struct uop *u)
{
	int r;

	do
		r = u->exec(c, u);
	while (r == EXEC_REPEAT);
	return r;
}

/* The instruction's block: it alone, or it and the jump behind it. */
static struct block *find_block(struct guest *g, uint64_t rip)
{
	struct cpu *c = g->cpu;
	uint64_t at = g->frames + (uint64_t)(guest_data(g, rip) - g->base);
	struct block *b = blocks_find(c->blocks, at, g->bits);

	c->fetch_page = rip & PAGE_MASK;
	c->fetch_hpa = at & PAGE_MASK;
	return b ? b : blocks_decode(c, at, BLOCK_NO_HPA, g->bits);
}

/* As host code; false: there is none, and nothing has been done. *@status is as from the uop, and RIP too. */
static bool run_translated(struct guest *g, uint64_t rip, int *status)
{
	struct cpu *c = g->cpu;
	struct block *b = find_block(g, rip);
	const uint8_t *code;
	struct xexit out;

	c->xlink = NULL; /* the jump that the last test was left through is nobody's */
	code = xlate_code(c, b);
	if (!code)
		return false;
	do {
		c->deadline = c->insns + b->insns;
		*status = xlate_run(c, code, &out);
	} while (*status == EXEC_REPEAT);
	if (c->xvec_off) {
		c->xvec_off = false;
		return false;
	}
	/* Through both: the jump went where the host's does. */
	if (*status == EXEC_NEXT && b->insns > 1)
		c->gpr[REG_RIP] = rip + b->uop[0].len;
	g->translated++;
	return true;
}

void guest_run(struct guest *g, const struct test *t, struct outcome *out)
{
	struct cpu *c = g->cpu;
	uint64_t rip = test_rip(t);
	enum block_place place;
	bool through = true;
	struct uop u;
	int r;

	if (g->bits != t->bits)
		set_code_bits(g, t->bits);
	load_state(c, &t->in);
	c->gpr[REG_RIP] = rip;
	lower_one(c, guest_data(g, rip), 15, t->bits, 0, &u, &place);
	if (!c->xlate || !run_translated(g, rip, &r)) {
		r = interpret(c, &u);
		through = false;
	}
	if (r != EXEC_STOP && !(through && r == EXEC_NEXT) && !(u.flags & UOP_SETS_RIP))
		c->gpr[REG_RIP] = rip + u.len;
	memcpy(out->s.gpr, c->gpr, sizeof(out->s.gpr));
	out->s.rip = c->gpr[REG_RIP];
	out->s.rflags = cpu_get_rflags(c);
	memcpy(out->s.fx, c->fpu.fx, sizeof(out->s.fx));
	memcpy(out->s.ymm_hi, c->fpu.ymm_hi, sizeof(out->s.ymm_hi));
	out->vector = -1;
	out->error = 0;
	out->cr2 = 0;
	if (r != EXEC_STOP)
		return;
	if (c->stop.kind != STOP_EXCEPTION) {
		out->vector = 1000 + (int)c->stop.kind;
		return;
	}
	out->vector = c->stop.vector;
	out->error = c->stop.has_error ? c->stop.error : 0;
	out->cr2 = c->stop.payload;
	if (c->stop.noncanonical && (u.flags & UOP_SEG_STACK))
		out->vector = EXC_SS;
}
