/*
 * Random guests. Memory is laid out as in mf_layout.h: descriptor tables, handlers
 * and code in an identity-mapped part whose tables a strict guest leaves alone; plain
 * pages; pages under random tables. Code is a ring of slots of MF_SLOT bytes, each
 * holding a unit or two: a privileged operation, stores, a table change with its flush.
 *
 * A strict guest's results do not depend on what a TLB keeps: whatever may change a
 * translation is followed by a flush before anything uses it. Two ways of that: tables
 * are only changed by units made for it, or (store_flush) a flush follows every store.
 */
#include "mf_gen.h"

#include <errno.h>
#include <stdlib.h>

const char *const mf_mode_name[MF_MODES] = {
	[MF_FLAT32] = "flat32", [MF_PAGED32] = "paged32", [MF_PAE] = "pae", [MF_LONG] = "long",
	[MF_LA57] = "la57", [MF_COMPAT] = "compat", [MF_REAL] = "real",
};

extern const uint8_t mf_stubs[], mf_stubs_end[];
extern const uint8_t mf_fault64[], mf_fault64_code[], mf_trap64[], mf_irq64[], mf_syscall64[];
extern const uint8_t mf_fault32[], mf_fault32_code[], mf_trap32[], mf_irq32[], mf_syscall32[];
extern const uint8_t mf_fault16[];

static uint64_t rnd(struct mf_guest *g) { return mf_next(&g->rng); }
static uint32_t below(struct mf_guest *g, uint32_t n) { return (uint32_t)((rnd(g) >> 32) * n >> 32); }
static bool one_in(struct mf_guest *g, uint32_t n) { return below(g, n) == 0; }

static bool is_long(const struct mf_guest *g) { return g->mode == MF_LONG || g->mode == MF_LA57 || g->mode == MF_COMPAT; }
static bool is_paged(const struct mf_guest *g) { return g->mode != MF_FLAT32 && g->mode != MF_REAL; }
static bool wide_entries(const struct mf_guest *g) { return g->mode != MF_PAGED32; }
static unsigned levels(const struct mf_guest *g)
{
	return g->mode == MF_PAGED32 ? 2 : g->mode == MF_PAE ? 3 : g->mode == MF_LA57 ? 5 : 4;
}

static void put(struct mf_guest *g, uint32_t at, uint64_t v, unsigned bytes) { memcpy(g->mem + at, &v, bytes); }

static uint32_t stub(const uint8_t *label) { return MF_STUBS + (uint32_t)(label - mf_stubs); }

/* ---- page tables ---- */

static uint64_t entry_flags(struct mf_guest *g, unsigned level)
{
	uint64_t r = rnd(g), e = PTE_P;

	e |= (r & 3 ? PTE_W : 0) | (r >> 2 & 3 ? PTE_U : 0) | (r >> 4 & 7 ? 0 : PTE_PWT) | (r >> 7 & 7 ? 0 : PTE_PCD);
	e |= (r >> 10 & 1 ? PTE_A : 0) | (r >> 11 & 1 ? PTE_D : 0) | (r >> 12 & 7) << 9;
	if (!g->pcid && one_in(g, 4))
		e |= PTE_G;
	if (level == 1 && one_in(g, 8))
		e |= PTE_PAT;
	if (wide_entries(g)) {
		if (one_in(g, 4))
			e |= PTE_NX;
		if (is_long(g) && one_in(g, 4))
			e |= (uint64_t)below(g, 16) << PTE_PKEY_SHIFT;
	}
	return e;
}

static uint64_t data_frame(struct mf_guest *g) { return MF_DATA_FRAME + below(g, MF_DATA_FRAMES) * 0x1000ull; }

/* Something that is no RAM, mostly a device. */
static uint64_t odd_frame(struct mf_guest *g)
{
	switch (below(g, 5)) {
	case 0:
		return 0xfee00000;
	case 1:
		return MF_MEMORY + below(g, 64) * 0x1000ull;
	case 2:
		return wide_entries(g) ? (rnd(g) & ((1ull << g->cpu.maxphyaddr) - 1) & PTE_ADDR_MASK) | 1ull << 34 :
					 0xe0000000;
	default:
		return MF_DEVICE + below(g, 16) * 0x1000ull;
	}
}

static uint64_t play_frame(struct mf_guest *g, unsigned level)
{
	static const uint8_t first[6] = {0, 0, 4, 6, 7, 7}, count[6] = {8, 4, 2, 1, 1, 1};

	if (g->wild || g->store_flush)
		return MF_PLAY_FRAME + below(g, MF_PLAY_FRAMES) * 0x1000ull;
	return MF_PLAY_FRAME + (first[level] + below(g, count[level])) * 0x1000ull;
}

static uint64_t leaf_frame(struct mf_guest *g)
{
	unsigned r = below(g, 16);

	if (r < 2)
		return odd_frame(g);
	if (g->wild && r < 4)
		return below(g, MF_IDENTITY_END >> 12) * 0x1000ull;
	if ((g->wild || g->store_flush) && r < 8)
		return play_frame(g, 1);
	return data_frame(g);
}

static uint64_t large_frame(struct mf_guest *g, unsigned level)
{
	if (level == 2 && one_in(g, 2))
		return MF_DATA_FRAME;
	if (g->wild && one_in(g, 4))
		return 0;
	return level == 2 ? MF_DEVICE & ~0x3fffffull : (1 + below(g, 3)) * SIZE_1G;
}

/* A random entry of a table at @level. */
static uint64_t random_entry(struct mf_guest *g, unsigned level)
{
	uint64_t e = entry_flags(g, level), r = below(g, 32);

	if (r == 0)
		return 0;
	if (r <= 2)
		return rnd(g) & ~PTE_P;
	if (r == 3 && g->wild)
		return rnd(g);
	if (level == 1)
		e |= leaf_frame(g);
	else if ((level == 2 || (level == 3 && is_long(g))) && one_in(g, 3))
		e |= PTE_PS | large_frame(g, level) | (one_in(g, 16) ? rnd(g) & 0x1fe000 : 0);
	else
		e = (e & ~(uint64_t)PTE_PS) | play_frame(g, level - 1);
	if (r == 4 && wide_entries(g))
		e |= 1ull << (36 + below(g, 16)); /* reserved or far away */
	if (r == 5 && level > 3)
		e |= PTE_PS;
	return e;
}

static unsigned entry_bytes(const struct mf_guest *g) { return wide_entries(g) ? 8 : 4; }
static unsigned entries(const struct mf_guest *g) { return 4096 / entry_bytes(g); }

static void set_entry(struct mf_guest *g, uint32_t table, unsigned i, uint64_t e)
{
	put(g, table + i * entry_bytes(g), e, entry_bytes(g));
}

/* A table in the part that is left alone; entries from @first on are random and may be changed through a window. */
static uint32_t new_table(struct mf_guest *g, unsigned level, unsigned first)
{
	unsigned n = g->tables++;
	uint32_t at = MF_TABLES + n * 0x1000u;

	for (unsigned i = first; i < entries(g); i++)
		if (i < first + 8 || i >= entries(g) - 2 || one_in(g, 8))
			set_entry(g, at, i, random_entry(g, level));
	if (n < MF_WINDOWS && first < entries(g))
		g->play[g->plays++] = (struct mf_table){MF_WINDOW + n * 0x1000u, level, first, entries(g) - first};
	return at;
}

static void fill_identity(struct mf_guest *g, uint32_t pt)
{
	bool user_code = one_in(g, 2);

	for (unsigned i = 0; i < MF_IDENTITY_END >> 12; i++) {
		uint32_t a = i << 12;
		uint64_t e = 0;

		if (a < 0xe000 || (a >= MF_TABLES && a < MF_TABLES_END))
			e = a | PTE_P | PTE_W;
		else if (a >= (MF_CODE & ~0xfffu) && a < (MF_CODE & ~0xfffu) + MF_CODE_PAGES * 0x1000u)
			e = a | PTE_P | PTE_W | (user_code ? PTE_U : 0);
		else if (a >= MF_SCRATCH && a < MF_SCRATCH_END)
			e = a | PTE_P | PTE_W | (a & 0x1000 ? PTE_U : 0);
		else if (a >= MF_WINDOW && a < MF_WINDOW + MF_WINDOWS * 0x1000u)
			e = (MF_TABLES + a - MF_WINDOW) | PTE_P | PTE_W;
		else if (a >= MF_WINDOW + MF_WINDOWS * 0x1000u && a < MF_WINDOW + (MF_WINDOWS + MF_PLAY_FRAMES) * 0x1000u)
			e = (MF_PLAY_FRAME + a - MF_WINDOW - MF_WINDOWS * 0x1000u) | PTE_P | PTE_W;
		else if (a == MF_APIC)
			e = 0xfee00000 | PTE_P | PTE_W | PTE_PCD;
		if (e && one_in(g, 2))
			e |= PTE_A | PTE_D;
		set_entry(g, pt, i, e);
	}
}

/* The table of MF_PLAIN: code and stack for user mode, else random data pages. */
static void fill_plain(struct mf_guest *g, uint32_t pt)
{
	for (unsigned i = 0; i < MF_CODE_PAGES; i++)
		set_entry(g, pt, 16 + i, (MF_CODE & ~0xfffull) + i * 0x1000 + (PTE_P | PTE_U | (one_in(g, 2) ? PTE_W : 0)));
	for (unsigned i = 0; i < 2; i++)
		set_entry(g, pt, 32 + i, MF_USTACK_FRAME + i * 0x1000 + (PTE_P | PTE_U | PTE_W));
	for (unsigned i = 64; i < 192; i++)
		set_entry(g, pt, i, random_entry(g, 1));
}

static uint32_t build_root(struct mf_guest *g)
{
	unsigned wide = wide_entries(g), step = wide ? 2 : 1; /* entries for 4 MiB */
	uint32_t pd = new_table(g, 2, wide ? 8 : 4), pt0 = new_table(g, 1, entries(g)), pt1 = new_table(g, 1, 64);
	uint64_t link = PTE_P | PTE_W | PTE_U, top;

	fill_identity(g, pt0);
	fill_plain(g, pt1);
	set_entry(g, pd, 0, pt0 | link);
	set_entry(g, pd, (MF_PLAIN >> 22) * step, pt1 | link);
	set_entry(g, pd, (MF_PLAY >> 22) * step, (MF_PLAY_FRAME + below(g, 4) * 0x1000) | link);
	top = pd;
	for (unsigned level = 3; level <= levels(g); level++) {
		bool pae_top = g->mode == MF_PAE;
		uint32_t t = new_table(g, level, pae_top ? entries(g) : 1);

		set_entry(g, t, 0, top | (pae_top ? PTE_P : link));
		if (pae_top) /* a reserved bit there makes every load of CR3 fault */
			for (unsigned i = 1; i < 4; i++)
				set_entry(g, t, i, one_in(g, 3) ? 0 : play_frame(g, 2) | PTE_P);
		top = t;
	}
	return (uint32_t)top;
}

static void build_tables(struct mf_guest *g)
{
	for (unsigned f = 0; f < MF_PLAY_FRAMES; f++) {
		unsigned level = f < 4 ? 1 : f < 6 ? 2 : f == 6 ? 3 : 4;

		if (!wide_entries(g) && level > 2)
			level = 1;
		g->play[g->plays++] = (struct mf_table){MF_WINDOW + (MF_WINDOWS + f) * 0x1000u, level, 0, entries(g)};
		for (unsigned i = 0; i < entries(g); i++)
			if (i < 64 || i >= entries(g) - 2)
				set_entry(g, MF_PLAY_FRAME + f * 0x1000u, i, random_entry(g, level));
	}
	g->root[0] = build_root(g);
	g->root[1] = build_root(g);
}

/* ---- descriptors ---- */

static uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
	/* attr: access byte, and G D/B L AVL in bits 12 to 15 as VMX has them */
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(attr >> 12 & 15) << 52 | (uint64_t)(base >> 24) << 56;
}

static void build_gdt(struct mf_guest *g)
{
	uint64_t d[MF_GDT_BYTES / 8] = {0};
	bool lm = is_long(g);

	for (unsigned i = 0x98 / 8; i < ARRAY_SIZE(d); i++)
		d[i] = one_in(g, 2) ? rnd(g) : descriptor(0, 0xfffff, (uint32_t)rnd(g) & 0xff);
	d[MF_KCS / 8] = descriptor(0, 0xfffff, lm ? 0xa09b : 0xc09b);
	d[MF_KDS / 8] = descriptor(0, 0xfffff, 0xc093);
	d[MF_UCS32 / 8] = descriptor(0, 0xfffff, 0xc0fb);
	d[MF_UDS / 8] = descriptor(0, 0xfffff, 0xc0f3);
	d[MF_UCS64 / 8] = descriptor(0, 0xfffff, lm ? 0xa0fb : 0xc0fb);
	d[MF_KCS32 / 8] = descriptor(0, 0xfffff, 0xc09b);
	d[MF_TR / 8] = descriptor(MF_TSS, 0x2ff, 0x8b);
	d[MF_LDTR / 8] = descriptor(MF_LDT, 0xff, 0x82);
	d[MF_CALL_GATE / 8] = (stub(mf_syscall32) & 0xffff) | (uint64_t)MF_KCS << 16 | 0xecull << 40;
	if (lm) {
		d[MF_TR / 8 + 1] = d[MF_LDTR / 8 + 1] = d[MF_CALL_GATE / 8 + 1] = 0;
		d[MF_CALL_GATE / 8] = (stub(mf_syscall64) & 0xffff) | (uint64_t)MF_KCS << 16 | 0xecull << 40;
	}
	/* A strict guest has no code whose decoding would lose the flushes. */
	d[MF_CS16 / 8] = descriptor(MF_CODE & ~0xfffu, 0xffff, g->wild ? 0x009b : 0x001b);
	d[MF_DS16 / 8] = descriptor(0, 0xffff, 0x0093);
	d[0x78 / 8] = descriptor(0, below(g, 0x100000), 0xc097);
	d[0x80 / 8] = descriptor(0, 0xfffff, 0xc013);
	d[0x88 / 8] = descriptor(0, 0xfffff, lm ? 0xa09f : 0xc09f);
	d[MF_TR_OTHER / 8] = lm ? 0 : descriptor(MF_TSS_OTHER, 0x67, 0x89);
	memcpy(g->mem + MF_GDT, d, sizeof(d));
	for (unsigned i = 0; i < 0x100; i += 8)
		put(g, MF_LDT + i, one_in(g, 2) ? rnd(g) : descriptor(0, 0xfffff, 0xc0f3), 8);
	if (!g->wild) /* random code segments might be 16-bit ones */
		for (unsigned i = 0; i < 0x100; i += 8) {
			g->mem[MF_LDT + i + 5] &= 0xf7;
			if (i >= 0x98)
				g->mem[MF_GDT + i + 5] &= 0xf7;
			if (i >= 0x98)
				g->mem[MF_GDT + i + 0x100 + 5] &= 0xf7;
		}
}

static void gate(struct mf_guest *g, unsigned vector, const uint8_t *label, unsigned dpl, unsigned ist)
{
	uint32_t to = stub(label);
	bool trap = one_in(g, 4);
	uint64_t v = (to & 0xffff) | (uint64_t)MF_KCS << 16 | (uint64_t)ist << 32 |
		     (uint64_t)(0x8eu | (trap ? 1 : 0) | dpl << 5) << 40 | (uint64_t)(to >> 16) << 48;

	if (is_long(g)) {
		put(g, MF_IDT + vector * 16, v, 8);
		put(g, MF_IDT + vector * 16 + 8, 0, 8);
	} else {
		put(g, MF_IDT + vector * 8, v, 8);
	}
}

static bool pushes_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void build_idt(struct mf_guest *g)
{
	bool lm = is_long(g);
	const uint8_t *fault = lm ? mf_fault64 : mf_fault32, *code = lm ? mf_fault64_code : mf_fault32_code;
	const uint8_t *trap = lm ? mf_trap64 : mf_trap32, *irq = lm ? mf_irq64 : mf_irq32;

	for (unsigned v = 0; v < 256; v++) {
		unsigned ist = lm && (v == 8 || v == 2 || v == 12 || one_in(g, 24)) ? 1 : 0;
		const uint8_t *to = v >= 32 ? (v < 0x80 ? irq : trap) : v == 1 || v == 3 || v == 4 || v == 2 ? trap : fault;

		gate(g, v, pushes_code(v) ? code : to, v == 3 || v == 4 || v >= 0x80 ? 3 : 0, ist);
	}
	if (!lm && one_in(g, 4)) /* double faults switch tasks */
		put(g, MF_IDT + 8 * 8, (uint64_t)MF_TR_OTHER << 16 | 0x85ull << 40, 8);
}

static void build_tss(struct mf_guest *g)
{
	if (is_long(g)) {
		for (unsigned i = 0; i < 3; i++)
			put(g, MF_TSS + 4 + 8 * i, MF_KSTACK, 8);
		for (unsigned i = 1; i < 8; i++)
			put(g, MF_TSS + 0x1c + 8 * i, MF_IST, 8);
	} else {
		for (unsigned i = 0; i < 3; i++) {
			put(g, MF_TSS + 4 + 8 * i, MF_KSTACK, 4);
			put(g, MF_TSS + 8 + 8 * i, MF_KDS, 4);
		}
		memcpy(g->mem + MF_TSS_OTHER, g->mem + MF_TSS, 0x68);
		put(g, MF_TSS_OTHER + 0x1c, g->root[1], 4);
		put(g, MF_TSS_OTHER + 0x20, MF_CODE + below(g, MF_SLOTS) * MF_SLOT, 4);
		put(g, MF_TSS_OTHER + 0x24, 2 | (one_in(g, 2) ? RF_IF : 0), 4);
		put(g, MF_TSS_OTHER + 0x38, MF_IST, 4);
		for (unsigned i = 0; i < 6; i++)
			put(g, MF_TSS_OTHER + 0x48 + 4 * i, i == 1 ? MF_KCS : MF_KDS, 4);
	}
	put(g, MF_TSS + 0x66, 0x88, 2);
	for (unsigned i = 0x88; i < 0x2f8; i += 8)
		put(g, MF_TSS + i, one_in(g, 2) ? 0 : rnd(g), 8);
}

/* ---- code ---- */

struct out {
	struct mf_guest *g;
	uint8_t b[256]; /* a unit that does not fit into its slot is not taken */
	unsigned n;
};

static void emit(struct out *o, unsigned n, const void *bytes)
{
	if (o->n + n <= sizeof(o->b))
		memcpy(o->b + o->n, bytes, n);
	o->n += n;
}
#define E(o, ...) emit(o, sizeof((const uint8_t[]){__VA_ARGS__}), (const uint8_t[]){__VA_ARGS__})

static void emit_int(struct out *o, uint64_t v, unsigned n) { emit(o, n, &v); }

/* The code is decoded as 16-bit code: what follows wants 32-bit operands or addresses. */
static bool real(const struct out *o) { return o->g->mode == MF_REAL; }

static void mov_imm(struct out *o, unsigned reg, uint64_t v)
{
	if (v >> 32) {
		E(o, 0x48, (uint8_t)(0xb8 + reg));
		emit_int(o, v, 8);
		return;
	}
	if (real(o))
		E(o, 0x66);
	E(o, (uint8_t)(0xb8 + reg));
	emit_int(o, v, 4);
}

/* Forgets all translations. Changes RAX. */
static void flush(struct out *o)
{
	if (o->g->wild ? one_in(o->g, 2) : o->g->flush == MF_FLUSH_CR3)
		E(o, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8);
	else if (is_paged(o->g))
		E(o, 0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0);
}

static void flush_after_store(struct out *o)
{
	if (o->g->store_flush || (o->g->wild && one_in(o->g, 8)))
		flush(o);
}

static uint64_t canonical(const struct mf_guest *g, uint64_t a)
{
	unsigned drop = 64 - (g->mode == MF_LA57 ? 57 : 48);

	return is_long(g) && g->mode != MF_COMPAT ? (uint64_t)((int64_t)(a << drop) >> drop) : (uint32_t)a;
}

/* Below the entries that build_root() made random: the first eight of each table and the last two. */
static uint64_t some_index(struct mf_guest *g, unsigned first, unsigned count)
{
	return one_in(g, 4) ? count - 1 - below(g, 2) : first + below(g, 8);
}

static uint64_t upper_address(struct mf_guest *g)
{
	uint64_t a = (uint64_t)below(g, 16) << 12;
	unsigned top = levels(g), level = 2 + below(g, top - 1);

	if (!wide_entries(g))
		return a | some_index(g, 4, 1024) << 22;
	if (g->mode == MF_PAE && level == 3)
		return a | (uint64_t)(1 + below(g, 3)) << 30 | (uint64_t)below(g, 16) << 21;
	a |= some_index(g, level == 2 ? 8 : 1, 512) << (12 + 9 * (level - 1));
	if (level > 2)
		a |= (uint64_t)below(g, 16) << 21;
	return canonical(g, a);
}

static uint64_t page_address(struct mf_guest *g)
{
	switch (below(g, g->wild ? 12 : 10)) {
	case 0: case 1: case 2:
		return MF_PLAIN + (64 + (uint64_t)below(g, 128)) * 0x1000;
	case 3: case 4: case 5: case 6:
		return MF_PLAY + (uint64_t)below(g, 66) * 0x1000;
	case 7: case 8:
		return is_paged(g) ? upper_address(g) : MF_DEVICE;
	case 9:
		return MF_SCRATCH + (uint64_t)below(g, (MF_SCRATCH_END - MF_SCRATCH) >> 12) * 0x1000;
	case 10:
		return (uint64_t)below(g, MF_IDENTITY_END >> 12) * 0x1000;
	default:
		return is_long(g) ? rnd(g) : (uint32_t)rnd(g);
	}
}

/* Where random accesses go: any page whose contents a strict guest may change. */
static uint64_t data_address(struct mf_guest *g)
{
	uint64_t page = page_address(g) & PAGE_MASK;

	if (g->mode == MF_FLAT32 || g->mode == MF_REAL)
		page = one_in(g, 8) ? MF_DEVICE + (page & 0xf000) : MF_SCRATCH + page % (MF_SCRATCH_END - MF_SCRATCH);
	if (one_in(g, 4))
		return page + 4096 - below(g, 16);
	return page + (one_in(g, 2) ? below(g, 512) * 8 : below(g, 4096));
}

/* Instructions with a memory operand: opcode, /digit or -1 for a register. */
struct mem_op { uint8_t n, op[4]; int8_t digit; uint8_t imm; };
static const struct mem_op mem_ops[] = {
	{1, {0x88}, -1, 0}, {1, {0x89}, -1, 0}, {1, {0x89}, -1, 0}, {1, {0x8a}, -1, 0}, {1, {0x8b}, -1, 0}, {1, {0x8b}, -1, 0},
	{1, {0x00}, -1, 0}, {1, {0x01}, -1, 0}, {1, {0x29}, -1, 0}, {1, {0x31}, -1, 0}, {1, {0x03}, -1, 0}, {1, {0x3b}, -1, 0},
	{1, {0x11}, -1, 0}, {1, {0x1b}, -1, 0}, {1, {0x87}, -1, 0}, {2, {0x0f, 0xc1}, -1, 0}, {2, {0x0f, 0xb1}, -1, 0},
	{2, {0xf0, 0x01}, -1, 0}, {3, {0xf0, 0x0f, 0xc1}, -1, 0}, {1, {0xff}, 0, 0}, {1, {0xff}, 1, 0}, {1, {0xf7}, 2, 0},
	{1, {0xf7}, 3, 0}, {1, {0xf7}, 4, 0}, {1, {0xf7}, 6, 0}, {1, {0xf6}, 7, 0}, {1, {0xc7}, 0, 4}, {1, {0x80}, 4, 1},
	{1, {0x83}, 1, 1}, {1, {0xc1}, 4, 1}, {1, {0xd3}, 5, 0}, {2, {0x0f, 0xba}, 5, 1}, {2, {0x0f, 0xba}, 7, 1},
	{2, {0x0f, 0xb6}, -1, 0}, {2, {0x0f, 0xbf}, -1, 0}, {2, {0x0f, 0x44}, -1, 0}, {2, {0x0f, 0xaf}, -1, 0},
	{2, {0x0f, 0xc7}, 1, 0}, {1, {0xff}, 6, 0}, {2, {0x0f, 0x10}, 1, 0}, {2, {0x0f, 0x11}, 1, 0}, {2, {0x0f, 0x28}, 2, 0},
	{2, {0x0f, 0x29}, 2, 0}, {3, {0x66, 0x0f, 0x6f}, 3, 0}, {3, {0x66, 0x0f, 0x7f}, 3, 0}, {3, {0xf3, 0x0f, 0x6f}, 4, 0},
	{3, {0xf3, 0x0f, 0x7f}, 4, 0}, {3, {0x66, 0x0f, 0xd6}, 4, 0}, {2, {0x0f, 0xe7}, 4, 0}, {2, {0x0f, 0x7f}, 5, 0},
	{3, {0x66, 0x0f, 0xfe}, 1, 0}, {2, {0x0f, 0x58}, 1, 0}, {2, {0x0f, 0xae}, 0, 0}, {2, {0x0f, 0xae}, 1, 0},
	{2, {0x0f, 0xae}, 3, 0}, {2, {0x0f, 0xae}, 2, 0}, {2, {0x0f, 0xae}, 7, 0}, {1, {0xdd}, 0, 0}, {1, {0xdd}, 3, 0},
	{1, {0xdb}, 7, 0}, {1, {0xdb}, 5, 0}, {1, {0xd9}, 6, 0}, {1, {0xdd}, 6, 0}, {1, {0x8f}, 0, 0}, {2, {0x0f, 0xc3}, -1, 0},
	{2, {0x0f, 0x18}, 1, 0}, {2, {0x0f, 0xae}, 4, 0}, {2, {0x0f, 0x01}, 0, 0}, {2, {0x0f, 0x01}, 1, 0}, {2, {0x0f, 0x01}, 4, 0},
	{2, {0x0f, 0x00}, 0, 0}, {1, {0x8c}, 3, 0}, {1, {0x62}, -1, 0}, {1, {0xf6}, 2, 0}, {2, {0x0f, 0xc7}, 4, 0},
};

/* No register but RSP and RBX, and in real mode none that would be the address's. */
static unsigned some_register(struct out *o)
{
	static const uint8_t r[] = {RAX, RCX, RDX, RBP, RSI, RDI};

	return r[below(o->g, sizeof(r))];
}

/* Stores in pieces: the first may change the tables that the second goes through. */
static bool piecewise(const struct mem_op *m)
{
	return (m->op[0] == 0xdd && m->digit == 6) ||
	       (m->op[0] == 0x0f && m->op[1] == 0xae && (m->digit == 0 || m->digit == 4));
}

static void mem_op(struct out *o)
{
	const struct mem_op *m = &mem_ops[below(o->g, ARRAY_SIZE(mem_ops))];
	unsigned reg = m->digit < 0 ? some_register(o) : (unsigned)m->digit, skip = 0;
	bool p66 = one_in(o->g, 8) && m->op[0] != 0xf0;

	if (o->g->store_flush && piecewise(m))
		return;
	if (real(o)) {
		E(o, 0x67);
	} else if (p66) {
		E(o, 0x66);
	}
	if (one_in(o->g, 12))
		E(o, (uint8_t)(one_in(o->g, 2) ? 0x64 : 0x65));
	if (m->op[0] == 0xf0 || m->op[0] == 0x66 || m->op[0] == 0xf3)
		emit(o, skip = 1, m->op);
	if (is_long(o->g) && one_in(o->g, 2))
		E(o, (uint8_t)(0x40 | (one_in(o->g, 3) ? 0 : 8) | (m->digit < 0 && one_in(o->g, 3) ? 4 : 0)));
	emit(o, m->n - skip, m->op + skip);
	if (one_in(o->g, 3))
		E(o, (uint8_t)(0x43 | reg << 3), (uint8_t)below(o->g, 16));
	else
		E(o, (uint8_t)(0x03 | reg << 3));
	emit_int(o, rnd(o->g), m->imm == 4 && p66 && !real(o) ? 2 : m->imm == 4 && real(o) ? 2 : m->imm);
}

static void u_memory(struct out *o)
{
	mov_imm(o, RBX, data_address(o->g));
	mem_op(o);
	flush_after_store(o);
	if (!o->g->store_flush && one_in(o->g, 2))
		mem_op(o);
}

static void u_alu(struct out *o)
{
	unsigned n = 1 + below(o->g, 5);

	while (n--) {
		static const uint8_t op[] = {0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x87, 0x88, 0x38, 0xd1, 0xd3};
		uint8_t a = (uint8_t)some_register(o), b = (uint8_t)some_register(o), k = op[below(o->g, sizeof(op))];

		switch (below(o->g, 8)) {
		case 0:
			mov_imm(o, a, one_in(o->g, 2) ? (uint32_t)rnd(o->g) : data_address(o->g));
			break;
		case 1:
			E(o, 0x0f, 0xaf, (uint8_t)(0xc0 | a << 3 | b));
			break;
		case 2:
			E(o, 0x0f, (uint8_t)(0x40 + below(o->g, 16)), (uint8_t)(0xc0 | a << 3 | b));
			break;
		case 3:
			E(o, 0xf7, (uint8_t)(0xf0 | below(o->g, 2) << 3 | b)); /* DIV, IDIV */
			break;
		case 4:
			E(o, 0x0f, (uint8_t)(0x90 + below(o->g, 16)), (uint8_t)(0xc0 | (b & 3)));
			break;
		case 5:
			E(o, 0x66, 0x0f, 0x6e, (uint8_t)(0xc0 | below(o->g, 8) << 3 | b));
			break;
		default:
			if (is_long(o->g) && one_in(o->g, 2))
				E(o, 0x48);
			E(o, k, (uint8_t)(0xc0 | a << 3 | b));
		}
	}
}

/* REP string instructions. A strict guest whose data pages may be tables stores to scratch memory only. */
static void u_string(struct out *o)
{
	static const uint8_t load[] = {0xac, 0xad, 0xae, 0xaf, 0xa6, 0xa7}, store[] = {0xa4, 0xa5, 0xaa, 0xab};
	struct mf_guest *g = o->g;
	bool stores = one_in(g, 2);
	uint64_t scratch = MF_SCRATCH + below(g, MF_SCRATCH_END - MF_SCRATCH);
	uint32_t count = one_in(g, 4) ? below(g, 20000) : below(g, 64);

	mov_imm(o, RDI, stores && g->store_flush ? scratch : data_address(g));
	mov_imm(o, RSI, one_in(g, 2) ? scratch : data_address(g));
	mov_imm(o, RCX, one_in(g, 16) && !stores ? (uint32_t)rnd(g) : count);
	/* Backwards from the first scratch page into what lies before it: unmapped. */
	E(o, (uint8_t)(one_in(g, 4) ? 0xfd : 0xfc));
	if (real(o))
		E(o, 0x67);
	if (one_in(g, 3) && !stores)
		E(o, 0x66);
	E(o, (uint8_t)(one_in(g, 4) ? 0xf2 : 0xf3));
	if (is_long(g) && one_in(g, 2))
		E(o, 0x48);
	E(o, stores ? store[below(g, sizeof(store))] : load[below(g, sizeof(load))], 0xfc);
}

/* Changes an entry of a table the way an operating system does: through its own alias, then a flush. */
static void u_table(struct out *o)
{
	struct mf_guest *g = o->g;
	const struct mf_table *t;
	unsigned i;
	uint64_t e;
	bool leaf;

	if (!g->plays)
		return;
	t = &g->play[below(g, g->plays)];
	i = t->first + (one_in(g, 3) ? below(g, t->count) : (unsigned)min_u64(below(g, 16), t->count - 1));
	e = random_entry(g, t->level);
	mov_imm(o, RBX, t->window + i * entry_bytes(g));
	if (wide_entries(g) && !(g->wild && is_long(g))) { /* reads the same in 32-bit and 64-bit code */
		E(o, 0xc7, 0x03);
		emit_int(o, 0, 4);
		E(o, 0xc7, 0x43, 0x04);
		emit_int(o, e >> 32, 4);
		E(o, 0xc7, 0x03);
		emit_int(o, e, 4);
	} else {
		mov_imm(o, RAX, e | (wide_entries(g) ? PTE_NX : 0));
		if (wide_entries(g) && !(e & PTE_NX))
			E(o, 0x48, 0x0f, 0xba, 0xf0, 0x3f); /* btr rax, 63 */
		if (wide_entries(g))
			E(o, 0x48);
		E(o, 0x89, 0x03);
	}
	/* A leaf table that is in one place only: INVLPG is enough. */
	leaf = t->level == 1 && t->first == 64 && !g->pcid && !g->store_flush;
	if (leaf && one_in(g, 2)) {
		mov_imm(o, RBX, MF_PLAIN + i * 0x1000u + below(g, 4096));
		E(o, 0x0f, 0x01, 0x3b);
	} else {
		flush(o);
	}
}

/* Patches the immediate of "add eax, imm32" at the start of every sixteenth slot. */
static void u_patch(struct out *o)
{
	uint32_t slot = (5 + 16 * below(o->g, MF_SLOTS / 16)) * MF_SLOT;

	mov_imm(o, RBX, (one_in(o->g, 2) ? MF_CODE : MF_UCODE) + slot);
	mov_imm(o, RAX, (uint32_t)rnd(o->g));
	if (real(o))
		E(o, 0x67, 0x66);
	E(o, 0x89, 0x43, 0x01);
	flush_after_store(o);
}

static void u_jump(struct out *o)
{
	uint32_t to = (one_in(o->g, 2) || !is_paged(o->g) ? MF_CODE : MF_UCODE) + below(o->g, MF_SLOTS) * MF_SLOT;

	if (real(o)) {
		E(o, 0x0f, (uint8_t)(0x80 + below(o->g, 16)));
		emit_int(o, below(o->g, 16) * MF_SLOT, 2);
		return;
	}
	mov_imm(o, RDX, to);
	switch (below(o->g, 3)) {
	case 0:
		E(o, 0xff, 0xe2);
		break;
	case 1:
		E(o, 0x52, 0xc3); /* push; ret */
		break;
	default:
		E(o, (uint8_t)(0x70 + below(o->g, 16)), 0x02, 0xff, 0xe2);
	}
}

static void push_imm(struct out *o, uint32_t v)
{
	E(o, 0x68);
	emit_int(o, v, 4);
}

static uint32_t random_flags(struct mf_guest *g)
{
	uint32_t f = (uint32_t)(RF_ONE | (rnd(g) & RF_ARITH));

	f |= one_in(g, 2) ? (uint32_t)RF_IF : 0;
	f |= one_in(g, 12) ? (uint32_t)RF_TF : 0;
	f |= one_in(g, 8) ? (uint32_t)RF_AC : 0;
	f |= one_in(g, 3) ? (uint32_t)RF_IOPL : 0;
	f |= one_in(g, 16) ? (uint32_t)RF_NT : 0;
	/* Of an IRET under TF that sets RF a hypervisor whose #DB delivery faults knows nothing. */
	f |= g->wild && one_in(g, 8) ? (uint32_t)RF_RF : 0;
	f |= one_in(g, 8) ? (uint32_t)RF_ID : 0;
	if (g->wild || !is_paged(g))
		f |= one_in(g, 16) ? (uint32_t)RF_VM : 0;
	return f;
}

/* May 64-bit code come to be decoded as 32-bit code? Not if that could lose the flush after a store. */
static bool mixes_code(const struct mf_guest *g)
{
	return !is_long(g) || g->mode == MF_COMPAT || !g->store_flush;
}

/* IRET: to another privilege, another code size, other flags. */
static void u_iret(struct out *o)
{
	static const uint16_t cs[] = {MF_UCS32, MF_UCS64, MF_UCS64, MF_KCS, MF_KCS32, 0x88, 0x80, MF_CS16};
	struct mf_guest *g = o->g;
	uint16_t to = cs[below(g, ARRAY_SIZE(cs))];
	bool user;
	uint32_t slot = below(g, MF_SLOTS) * MF_SLOT;

	if (!mixes_code(g))
		to = to == MF_UCS32 ? MF_UCS64 : to == MF_KCS32 ? MF_KCS : to;
	user = to & 3;
	if (real(o)) {
		E(o, 0x9c, 0x66, 0x68);
		emit_int(o, 0x1000u << 16 | (MF_SLOT * below(g, MF_SLOTS) + 16), 4);
		E(o, 0xcf);
		return;
	}
	if (is_long(g) || user) {
		push_imm(o, one_in(g, 16) ? (uint32_t)below(g, 0x100) : user ? MF_UDS : MF_KDS);
		push_imm(o, user ? MF_USTACK - 8 * below(g, 64) : MF_KSTACK - 8 * below(g, 64));
	}
	push_imm(o, random_flags(g));
	push_imm(o, one_in(g, 32) ? (uint32_t)below(g, 0x200) : to);
	push_imm(o, (user && is_paged(g) ? MF_UCODE : MF_CODE) + slot);
	if (is_long(g))
		E(o, 0x48);
	E(o, 0xcf);
}

static uint64_t cr0_bits(struct mf_guest *g)
{
	static const uint64_t b[] = {CR0_MP, CR0_EM, CR0_TS, CR0_NE, CR0_WP, CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_ET};

	return b[below(g, ARRAY_SIZE(b))];
}

static uint64_t cr4_bits(struct mf_guest *g)
{
	static const uint64_t b[] = {
		CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_MCE, CR4_PCE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_UMIP,
		CR4_FSGSBASE, CR4_OSXSAVE, CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_SMXE, CR4_PGE, CR4_PCIDE, CR4_VMXE,
	};
	uint64_t v = b[below(g, ARRAY_SIZE(b))];

	if (v == CR4_VMXE || v == CR4_SMXE)
		return g->wild && v == CR4_SMXE ? v : 0;
	if (!g->wild && ((v == CR4_PGE && g->flush == MF_FLUSH_CR3) || (v == CR4_PCIDE && !g->pcid)))
		return 0;
	return v;
}

/* MOV to CR0, CR4: a bit or two changed, followed by a flush: what CR4.PSE means for cached entries is not defined. */
static void u_control(struct out *o)
{
	struct mf_guest *g = o->g;
	bool cr4 = one_in(g, 2);
	uint32_t v = (uint32_t)(cr4 ? cr4_bits(g) : cr0_bits(g));

	if (g->wild && one_in(g, 8))
		v ^= (uint32_t)1 << below(g, 32);
	E(o, 0x0f, 0x20, (uint8_t)(0xc0 | (cr4 ? 4 : 0) << 3));
	if (real(o))
		E(o, 0x66);
	E(o, 0x35);
	emit_int(o, v, 4);
	E(o, 0x0f, 0x22, (uint8_t)(0xc0 | (cr4 ? 4 : 0) << 3));
	if (is_paged(g) && cr4)
		flush(o);
}

/* Paging off and on again. */
static void u_paging(struct out *o)
{
	if (!is_paged(o->g) || is_long(o->g))
		return;
	E(o, 0x0f, 0x20, 0xc0, 0x0f, 0xba, 0xf0, 0x1f, 0x0f, 0x22, 0xc0); /* mov eax, cr0; btr eax, 31; mov cr0, eax */
	mov_imm(o, RBX, data_address(o->g));
	E(o, 0x8b, 0x13);
	E(o, 0x0f, 0x20, 0xc0, 0x0f, 0xba, 0xe8, 0x1f, 0x0f, 0x22, 0xc0);
}

static void u_root(struct out *o)
{
	struct mf_guest *g = o->g;
	unsigned r = below(g, 2);
	uint64_t v = g->root[r];

	if (!is_paged(g))
		return;
	if (g->pcid && is_long(g)) {
		E(o, 0x0f, 0x20, 0xe0, 0xa9); /* mov eax, cr4; test eax, PCIDE; jz: only with PCIDs may bits be there */
		emit_int(o, CR4_PCIDE, 4);
		E(o, 0x74, g->mode == MF_COMPAT ? 0x08 : 0x0d);
		v |= 1 + r * 8 + below(g, 3);
		if (one_in(g, 2) && g->mode != MF_COMPAT)
			v |= CR3_NOFLUSH;
		if (g->mode != MF_COMPAT)
			E(o, 0x48);
		E(o, 0xb8);
		emit_int(o, v, g->mode == MF_COMPAT ? 4 : 8);
		E(o, 0x0f, 0x22, 0xd8);
		return;
	}
	if (g->wild && one_in(g, 8))
		v |= rnd(g) & 0xfff;
	if (g->wild && one_in(g, 8))
		v = rnd(g) & (is_long(g) ? ~0ull : ~0u);
	v |= (uint64_t)below(g, 4) << 3;
	if (g->mode == MF_PAE)
		v &= ~0x18ull;
	mov_imm(o, RAX, v);
	E(o, 0x0f, 0x22, 0xd8);
	if (g->flush == MF_FLUSH_PGE)
		flush(o);
}

static void u_invalidate(struct out *o)
{
	mov_imm(o, RBX, data_address(o->g));
	if (one_in(o->g, 2)) {
		E(o, 0x0f, 0x01, 0x3b);
		return;
	}
	/* INVPCID with a descriptor in scratch memory */
	mov_imm(o, RBX, MF_SCRATCH + 16 * below(o->g, 64));
	mov_imm(o, RCX, one_in(o->g, 8) ? (uint32_t)rnd(o->g) : below(o->g, 4));
	E(o, 0xc7, 0x03);
	emit_int(o, below(o->g, 16), 4);
	E(o, 0xc7, 0x43, 0x04);
	emit_int(o, 0, 4);
	E(o, 0x66, 0x0f, 0x38, 0x82, 0x0b);
}

static void u_msr(struct out *o)
{
	static const uint32_t msr[] = {
		MSR_EFER, MSR_EFER, MSR_PAT, MSR_TSC, MSR_APIC_BASE, MSR_TSC_ADJUST, MSR_SYSENTER_CS, MSR_SYSENTER_ESP,
		MSR_SYSENTER_EIP, MSR_STAR, MSR_LSTAR, MSR_FMASK, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX,
		MSR_MISC_ENABLE, MSR_DEBUGCTL, MSR_MTRR_DEF_TYPE, MSR_MTRR_PHYSBASE0, MSR_SPEC_CTRL, MSR_PRED_CMD, MSR_XSS,
		MSR_CSTAR, MSR_TSC_DEADLINE, 0x808, 0x80b, 0x830, 0x832, 0x838, 0x83e, 0x80d, 0x802, 0x83f, 0x999, MSR_VMX_BASIC,
		MSR_FEATURE_CONTROL, MSR_MCG_STATUS, MSR_PLATFORM_INFO,
	};
	struct mf_guest *g = o->g;
	uint32_t m = msr[below(g, ARRAY_SIZE(msr))], hi = one_in(g, 4) ? (uint32_t)rnd(g) : 0;
	uint32_t lo = one_in(g, 2) ? (uint32_t)rnd(g) : (uint32_t)data_address(g);

	mov_imm(o, RCX, m);
	if (one_in(g, 3)) {
		E(o, 0x0f, 0x32);
		return;
	}
	switch (m) {
	case MSR_EFER: /* read, change a bit, write */
		E(o, 0x0f, 0x32);
		if (real(o))
			E(o, 0x66);
		E(o, 0x35);
		emit_int(o, g->wild ? 1u << below(g, 16) : one_in(g, 3) ? EFER_SCE : EFER_NXE, 4);
		E(o, 0x0f, 0x30);
		if (is_paged(g))
			flush(o);
		return;
	case MSR_LSTAR: case MSR_SYSENTER_EIP: case MSR_CSTAR:
		lo = stub(is_long(g) ? mf_syscall64 : mf_syscall32);
		hi = 0;
		break;
	case MSR_SYSENTER_ESP:
		lo = MF_KSTACK;
		hi = 0;
		break;
	case MSR_SYSENTER_CS:
		lo = one_in(g, 8) ? 0 : MF_KCS;
		break;
	case MSR_STAR:
		lo = 0;
		hi = MF_KCS | 0x18u << 16;
		break;
	case MSR_APIC_BASE: /* stepping through xAPIC and x2APIC */
		lo = 0xfee00000 | (uint32_t)APIC_BASE_BSP | (one_in(g, 8) ? 0 : (uint32_t)APIC_BASE_EN) |
		     (one_in(g, 2) ? (uint32_t)APIC_BASE_EXTD : 0);
		hi = 0;
		break;
	case MSR_TSC_DEADLINE:
		E(o, 0x0f, 0x31, 0x05);
		emit_int(o, below(g, 2000), 4);
		E(o, 0x0f, 0x30);
		return;
	case 0x838:
		lo = below(g, 3000);
		break;
	case 0x832:
		lo = (0x30 + below(g, 16)) | below(g, 4) << 17;
		break;
	case 0x80d: case 0x80b:
		lo = 0;
		break;
	}
	mov_imm(o, RAX, lo);
	mov_imm(o, RDX, hi);
	E(o, 0x0f, 0x30);
}

/* The local APIC through its page. */
static void u_apic(struct out *o)
{
	static const uint16_t reg[] = {0x20, 0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x300, 0x310, 0x320, 0x350, 0x360, 0x370, 0x380,
				       0x390, 0x3e0, 0x100, 0x200, 0x3f0};
	struct mf_guest *g = o->g;
	uint32_t r = reg[below(g, ARRAY_SIZE(reg))], v = (uint32_t)rnd(g);

	if (r == 0x380)
		v = below(g, 5000);
	else if (r == 0x320)
		v = (0x30 + below(g, 16)) | below(g, 4) << 17;
	else if (r == 0xf0)
		v = 0x1ff;
	else if (r == 0x80)
		v = below(g, 3) << 5;
	else if (r == 0x300)
		v = (0x30 + below(g, 16)) | (one_in(g, 2) ? 0x40000 : 0) | (one_in(g, 4) ? 0x400 : 0);
	mov_imm(o, RBX, (is_paged(g) ? MF_APIC : 0xfee00000u) + r + (one_in(g, 16) ? below(g, 16) : 0));
	mov_imm(o, RAX, v);
	if (real(o))
		E(o, 0x66, 0x67);
	E(o, (uint8_t)(one_in(g, 3) ? 0x8b : 0x89), 0x03);
}

static void u_io(struct out *o)
{
	static const uint16_t port[] = {0x60, 0x80, 0x3f8, 0xf4, 0x1000, 0xfffe};
	struct mf_guest *g = o->g;

	mov_imm(o, RDX, port[below(g, ARRAY_SIZE(port))]);
	switch (below(g, 6)) {
	case 0:
		E(o, 0x66, (uint8_t)(0xec + below(g, 4)));
		break;
	case 1:
		E(o, (uint8_t)(0xe4 + below(g, 4)), 0x80);
		break;
	case 2: /* INS, OUTS */
		mov_imm(o, RCX, below(g, 10));
		mov_imm(o, RDI, g->store_flush ? MF_SCRATCH + below(g, 0x10000) : data_address(g));
		mov_imm(o, RSI, data_address(g));
		if (real(o))
			E(o, 0x67);
		E(o, (uint8_t)(one_in(g, 2) ? 0xf3 : 0x26), (uint8_t)(0x6c + below(g, 4)), 0xfc);
		break;
	default:
		E(o, (uint8_t)(0xec + below(g, 4)));
	}
}

static void u_debug(struct out *o)
{
	struct mf_guest *g = o->g;
	unsigned n = below(g, 4);

	if (one_in(g, 4)) {
		mov_imm(o, RAX, 0);
		E(o, 0x0f, 0x23, 0xf8);
		return;
	}
	mov_imm(o, RAX, one_in(g, 2) ? MF_CODE + below(g, MF_SLOTS) * MF_SLOT : (uint32_t)data_address(g));
	E(o, 0x0f, 0x23, (uint8_t)(0xc0 | n << 3));
	mov_imm(o, RAX, (1u << (2 * n + below(g, 2))) | below(g, 16) << (16 + 4 * n) | 0x400 |
				(one_in(g, 16) ? (uint32_t)DR7_GD : 0) | (one_in(g, 16) ? (uint32_t)rnd(g) : 0));
	E(o, 0x0f, 0x23, 0xf8);
	if (one_in(g, 4))
		E(o, 0x0f, 0x21, 0xf0); /* mov eax, dr6 */
}

static void u_trap_flag(struct out *o)
{
	if (one_in(o->g, 2)) /* pushf; or dword [sp], TF; popf */
		E(o, 0x9c);
	else
		E(o, 0x9c, 0x90);
	if (real(o)) {
		E(o, 0x89, 0xe5, 0x80, 0x4e, 0x01, 0x01, 0x9d, 0x90, 0x90);
		return;
	}
	E(o, 0x81, 0x0c, 0x24);
	emit_int(o, one_in(o->g, 3) ? RF_AC : RF_TF, 4);
	E(o, 0x9d, 0x90, 0x90);
}

static void u_small(struct out *o)
{
	struct mf_guest *g = o->g;

	switch (below(g, 22)) {
	case 0: E(o, 0xfa); break;
	case 1: E(o, 0xfb); break;
	case 2: E(o, 0xfb, 0xf4); break;
	case 3: E(o, 0xf4); break;
	case 4: E(o, 0x0f, 0x31); break;
	case 5: E(o, 0x0f, 0x01, 0xf9); break; /* rdtscp */
	case 6: mov_imm(o, RAX, below(g, 0x18)); E(o, 0x31, 0xc9, 0x0f, 0xa2); break;
	case 7: E(o, 0x0f, 0x06); break; /* clts */
	case 8: E(o, 0xcc); break;
	case 9: E(o, 0xcd, (uint8_t)(one_in(g, 4) ? rnd(g) : 0x80 + below(g, 64))); break;
	case 10: E(o, 0x0f, 0x0b); break;
	case 11: E(o, 0x0f, 0x05); break; /* syscall */
	case 12: E(o, 0x0f, 0x34); break; /* sysenter */
	case 13: E(o, 0x0f, 0x09); break; /* wbinvd */
	case 14: E(o, 0x0f, 0x08); break; /* invd */
	case 15: E(o, 0x31, 0xc9, 0x0f, 0x01, 0xd0); break; /* xgetbv */
	case 16: mov_imm(o, RAX, 1 | below(g, 4) << 1 | (one_in(g, 2) ? 0x200 : 0));
		E(o, 0x31, 0xd2, 0x31, 0xc9, 0x0f, 0x01, 0xd1); break; /* xsetbv */
	case 17: E(o, 0x31, 0xd2, 0x31, 0xc9); mov_imm(o, RAX, (uint32_t)rnd(g)); E(o, 0x0f, 0x01, 0xef); break; /* wrpkru */
	case 18: E(o, 0x0f, 0x01, 0xf8); break; /* swapgs */
	case 19: E(o, 0x0f, 0x33); break; /* rdpmc */
	case 20: E(o, 0x0f, 0xc7, 0xf0); break; /* rdrand */
	default: E(o, 0x0f, 0x01, (uint8_t)(0xca + below(g, 2))); break; /* clac, stac */
	}
}

/* Selectors into segment registers; LTR, LLDT, LGDT, LIDT; far transfers. */
static void u_segment(struct out *o)
{
	static const uint8_t sel[] = {0, MF_KDS, MF_UDS, MF_KDS, MF_UDS, MF_DS16, 0x78, 0x80, MF_UCS32, 0x04, 0x0c, 0x17, 0x98, 0xa3, 0xe0};
	struct mf_guest *g = o->g;
	uint32_t s = sel[below(g, sizeof(sel))];

	if (s == MF_UCS32 && !mixes_code(g))
		s = MF_UDS;
	mov_imm(o, RAX, s);
	switch (below(g, 10)) {
	case 0: case 1:
		E(o, 0x8e, (uint8_t)(0xc0 | (g->wild || is_long(g) ? (one_in(g, 2) ? 3 : 0) : 0) << 3));
		break;
	case 2: case 3:
		E(o, 0x8e, (uint8_t)(0xe0 | below(g, 2) << 3));
		break;
	case 4:
		mov_imm(o, RAX, one_in(g, 4) ? s : MF_KDS);
		E(o, 0x8e, 0xd0); /* mov ss: the next instruction cannot be interrupted */
		if (one_in(g, 2))
			E(o, 0xcc);
		break;
	case 5:
		mov_imm(o, RAX, one_in(g, 2) ? MF_LDTR : s);
		E(o, 0x0f, 0x00, 0xd0);
		break;
	case 6:
		mov_imm(o, RAX, one_in(g, 2) ? MF_TR : s);
		E(o, 0x0f, 0x00, 0xd8);
		break;
	case 7: /* sgdt; lgdt and the same for the IDT */
		mov_imm(o, RBX, MF_SCRATCH + 16 * below(g, 64));
		if (real(o))
			E(o, 0x67);
		E(o, 0x0f, 0x01, (uint8_t)(0x03 | below(g, 2) << 3));
		if (one_in(g, 2) && !real(o))
			E(o, 0x0f, 0x01, (uint8_t)(0x13 | below(g, 2) << 3));
		break;
	case 8: /* lar, lsl, verr, verw */
		E(o, 0x0f, (uint8_t)(0x02 + below(g, 2)), 0xd0, 0x0f, 0x00, (uint8_t)(0xe0 | below(g, 2) << 3));
		break;
	default:
		if (real(o))
			break;
		/* far jump or call by a pointer on the stack */
		push_imm(o, one_in(g, 3) ? s : one_in(g, 3) && !is_long(g) ? MF_TR_OTHER : one_in(g, 2) ? MF_CALL_GATE : MF_KCS);
		push_imm(o, MF_CODE + below(g, MF_SLOTS) * MF_SLOT);
		if (is_long(g)) /* the selector is 8 bytes up: bring it down */
			E(o, 0x8b, 0x44, 0x24, 0x08, 0x89, 0x44, 0x24, 0x04);
		E(o, 0xff, (uint8_t)(one_in(g, 2) ? 0x2c : 0x1c), 0x24);
	}
}

/* A fresh stack, so that runs do not end with the first run-away one. */
static void u_stack(struct out *o)
{
	bool user = one_in(o->g, 2) && is_paged(o->g);

	mov_imm(o, RSP, user ? MF_USTACK - 8 * below(o->g, 100) : MF_KSTACK - 8 * below(o->g, 100));
	if (one_in(o->g, 3))
		E(o, 0x50, 0x5a);
	else if (one_in(o->g, 2))
		E(o, 0xc8, 0x20, 0x00, 0x00, 0xc9); /* enter; leave */
	else
		E(o, 0x9c, 0x59);
}

static void u_real_to_protected(struct out *o)
{
	if (!real(o))
		return;
	E(o, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x66, 0xea);
	emit_int(o, MF_CODE + below(o->g, MF_SLOTS) * MF_SLOT, 4);
	emit_int(o, MF_KCS32, 2);
}

static void u_wild(struct out *o)
{
	unsigned n = 4 + below(o->g, 40);

	if (!o->g->wild && o->g->mode != MF_FLAT32) {
		u_alu(o);
		return;
	}
	while (n--)
		E(o, (uint8_t)rnd(o->g));
}

static const struct { unsigned weight; void (*make)(struct out *o); } units[] = {
	{30, u_memory}, {10, u_alu}, {6, u_string}, {16, u_table}, {3, u_patch}, {5, u_jump}, {6, u_iret}, {6, u_control},
	{2, u_paging}, {5, u_root}, {5, u_invalidate}, {8, u_msr}, {6, u_apic}, {4, u_io}, {3, u_debug}, {2, u_trap_flag},
	{10, u_small}, {6, u_segment}, {4, u_stack}, {1, u_real_to_protected}, {2, u_wild},
};

static void make_unit(struct out *o)
{
	unsigned total = 0, pick;

	for (unsigned i = 0; i < ARRAY_SIZE(units); i++)
		total += units[i].weight;
	pick = below(o->g, total);
	for (unsigned i = 0;; i++) {
		if (pick < units[i].weight) {
			units[i].make(o);
			return;
		}
		pick -= units[i].weight;
	}
}

static void build_slot(struct mf_guest *g, unsigned n)
{
	uint8_t *slot = g->mem + MF_CODE + n * MF_SLOT;
	unsigned used = 0;

	if (n % 16 == 5) {
		if (g->mode == MF_REAL)
			slot[used++] = 0x66;
		slot[used] = 0x05;
		used += 5;
	}
	for (unsigned tries = 1 + below(g, 3); tries; tries--) {
		struct out o = {.g = g};

		make_unit(&o);
		if (o.n + used > MF_SLOT - 2)
			continue;
		memcpy(slot + used, o.b, o.n);
		used += o.n;
	}
	slot[used] = 0xeb; /* to the next slot */
	slot[used + 1] = (uint8_t)(MF_SLOT - 2 - used);
	for (used += 2; used < MF_SLOT; used++)
		slot[used] = 0xf4;
}

/* Address 0 is where SYSCALL and SYSENTER go before anybody set a target: on to the code. */
static void build_page_zero(struct mf_guest *g)
{
	static const uint8_t jump[] = {0xb8, 0, 0, 0, 0, 0xbc, 0, 0, 0, 0, 0xff, 0xe0};

	memcpy(g->mem, jump, sizeof(jump));
	put(g, 1, MF_CODE + below(g, MF_SLOTS) * MF_SLOT, 4);
	put(g, 6, MF_KSTACK, 4);
}

static void build_code(struct mf_guest *g)
{
	static const uint8_t back32[] = {0xe9, 0xfb, 0xbf, 0xff, 0xff}, back16[] = {0xe9, 0xfd, 0xbf};

	for (unsigned i = 0; i < MF_SLOTS; i++)
		build_slot(g, i);
	if (g->mode == MF_REAL)
		memcpy(g->mem + MF_CODE + MF_CODE_BYTES, back16, sizeof(back16));
	else
		memcpy(g->mem + MF_CODE + MF_CODE_BYTES, back32, sizeof(back32));
}

/* ---- registers ---- */

static struct seg flat(uint16_t sel, uint32_t attr) { return (struct seg){.sel = sel, .attr = attr, .limit = 0xffffffff}; }

static void set_control(struct mf_guest *g)
{
	struct engine_sregs *s = &g->sregs;

	s->cr0 = CR0_PE | CR0_ET | CR0_NE | (one_in(g, 2) ? CR0_WP : 0) | (one_in(g, 4) ? CR0_AM : 0);
	s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | (one_in(g, 2) ? CR4_OSXSAVE : 0) | (one_in(g, 4) ? CR4_SMAP : 0) |
		 (one_in(g, 8) ? CR4_SMEP : 0) | (one_in(g, 4) ? CR4_PKE : 0) | (one_in(g, 2) ? CR4_FSGSBASE : 0);
	if (g->mode == MF_REAL)
		s->cr0 = CR0_ET | CR0_NE;
	if (!is_paged(g))
		return;
	s->cr0 |= CR0_PG;
	s->cr3 = g->root[0];
	s->cr4 |= one_in(g, 4) ? 0 : CR4_PSE;
	if (g->flush != MF_FLUSH_CR3 && one_in(g, 2))
		s->cr4 |= CR4_PGE;
	if (g->mode != MF_PAGED32)
		s->cr4 |= CR4_PAE;
	if (wide_entries(g) && !one_in(g, 4))
		s->efer |= EFER_NXE;
	if (!is_long(g))
		return;
	s->efer |= EFER_LME | EFER_LMA | EFER_SCE;
	if (g->mode == MF_LA57)
		s->cr4 |= CR4_LA57;
	if (g->pcid && one_in(g, 2)) {
		s->cr4 |= CR4_PCIDE;
		s->cr3 |= 1;
	}
}

static void set_registers(struct mf_guest *g)
{
	struct engine_sregs *s = &g->sregs;
	bool lm = is_long(g), compat = g->mode == MF_COMPAT;

	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = flat(MF_KDS, 0xc093);
	s->seg[SEG_CS] = compat ? flat(MF_KCS32, 0xc09b) : flat(MF_KCS, lm ? 0xa09b : 0xc09b);
	s->tr = (struct seg){.sel = MF_TR, .attr = 0x8b, .limit = 0x2ff, .base = MF_TSS};
	s->ldt = (struct seg){.attr = SEG_AR_UNUSABLE};
	s->gdt = (struct dtable){MF_GDT, MF_GDT_BYTES - 1};
	s->idt = (struct dtable){MF_IDT, lm ? 0xfff : 0x7ff};
	set_control(g);
	for (unsigned i = 0; i < 16; i++)
		g->regs.gpr[i] = lm && !compat ? data_address(g) : (uint32_t)data_address(g);
	g->regs.gpr[RSP] = MF_KSTACK;
	g->regs.rip = MF_CODE;
	g->regs.rflags = RF_ONE | (one_in(g, 2) ? RF_IF : 0);
	if (g->mode != MF_REAL)
		return;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = (struct seg){.attr = i == SEG_CS ? 0x9b : 0x93, .limit = 0xffff};
	s->seg[SEG_CS].sel = 0x1000;
	s->seg[SEG_CS].base = 0x10000;
	s->idt = (struct dtable){0, 0x3ff};
	g->regs.rip = 0x10;
	for (unsigned v = 0; v < 256; v++)
		put(g, v * 4, stub(mf_fault16), 4);
}

int mf_generate(struct mf_guest *g, uint64_t seed, enum mf_mode mode, int wild)
{
	static const uint8_t width[] = {36, 39, 46, 46, 52};

	*g = (struct mf_guest){.seed = seed, .rng = (seed + 1) * 0x9e3779b97f4a7c15ull | 1};
	for (unsigned i = 0; i < 8; i++)
		rnd(g);
	g->mem = calloc(1, MF_MEMORY);
	if (!g->mem)
		return -ENOMEM;
	g->mode = (enum mf_mode)below(g, MF_MODES);
	g->wild = one_in(g, 4);
	if (mode != MF_MODES)
		g->mode = mode;
	if (wild >= 0)
		g->wild = wild;
	g->store_flush = !g->wild && one_in(g, 2) && is_paged(g);
	g->flush = g->wild ? MF_FLUSH_NONE : one_in(g, 2) || !is_paged(g) ? MF_FLUSH_CR3 : MF_FLUSH_PGE;
	g->pcid = is_long(g) && (g->wild || (g->flush == MF_FLUSH_PGE && !g->store_flush && one_in(g, 2)));
	cpu_config_default(&g->cpu);
	g->cpu.maxphyaddr = width[below(g, sizeof(width))];
	g->cpu.feature[CPUF_LA57] = g->mode == MF_LA57;
	if (one_in(g, 4))
		g->cpu.feature[CPUF_PDPE1GB] = false;
	g->cpu.seed = seed;
	g->insns = 500 + below(g, 20000);
	g->period = 50 + below(g, 4000);
	for (uint32_t a = MF_DATA_FRAME; a < MF_MEMORY; a += 8)
		if (one_in(g, 2))
			put(g, a, one_in(g, 2) ? rnd(g) : random_entry(g, 1), 8);
	if (is_paged(g))
		build_tables(g);
	build_gdt(g);
	build_idt(g);
	build_tss(g);
	memcpy(g->mem + MF_STUBS, mf_stubs, (size_t)(mf_stubs_end - mf_stubs));
	put(g, MF_FLUSH, g->flush, 4);
	build_code(g);
	build_page_zero(g);
	set_registers(g);
	return 0;
}

void mf_free(struct mf_guest *g)
{
	free(g->mem);
	g->mem = NULL;
}
