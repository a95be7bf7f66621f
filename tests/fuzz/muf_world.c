/* See muf_world.h. */
#include "muf_world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "arch/vmx.h"
#include "arch/x86.h"

static uint64_t pick(struct muf_world *w, const uint64_t *from, unsigned n) { return from[muf_below(w, n)]; }
#define PICK(w, ...) \
	pick(w, (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/* ---- hardware ---- */

static struct hw_array random_array(struct muf_world *w, unsigned none_percent, unsigned sets_log2, unsigned ways)
{
	struct hw_array a = {0};

	a.ways = 1 + muf_below(w, ways);
	a.entries = muf_chance(w, none_percent) ? 0 : a.ways << muf_below(w, sets_log2 + 1);
	return a;
}

static struct hw_tlb random_tlb(struct muf_world *w, unsigned none_percent, unsigned sets_log2, unsigned ways)
{
	static const uint8_t shapes[][HW_ARRAYS_MAX] = {
		{HW_4K, HW_2M, HW_1G}, {HW_4K | HW_2M, HW_1G}, {HW_4K, HW_2M | HW_1G}, {HW_4K | HW_2M | HW_1G},
		{HW_4K, HW_2M}, {HW_4K}, {HW_4K | HW_1G}, {HW_2M}, {HW_1G}, {HW_4K | HW_1G, HW_2M},
	};
	const uint8_t *shape = shapes[muf_below(w, ARRAY_SIZE(shapes))];
	struct hw_tlb t = {0};

	if (muf_chance(w, none_percent))
		return t;
	while (t.arrays < HW_ARRAYS_MAX && shape[t.arrays]) {
		t.array[t.arrays] = random_array(w, 10, sets_log2, ways);
		t.array[t.arrays].pages = shape[t.arrays];
		t.arrays++;
	}
	return t;
}

static void random_walk_caches(struct muf_world *w, struct hw *hw)
{
	hw->walk_caches = (enum hw_walk_caches)PICK(w, HW_WALK_NONE, HW_WALK_SPLIT, HW_WALK_SPLIT, HW_WALK_UNIFIED,
						    HW_WALK_UNIFIED);
	for (unsigned l = 2; l < HW_LEVELS; l++) {
		hw->guest[l] = random_array(w, 30, 2, 3);
		hw->host[l] = random_array(w, 30, 2, 3);
	}
	hw->unified = random_array(w, 5, 4, 4);
	hw->unified_guest = muf_chance(w, 80);
	hw->unified_host = muf_chance(w, 80);
	hw->unified_host_leaf = muf_chance(w, 50);
	hw->nested_tlb = random_array(w, 50, 3, 4);
}

/* A processor's, as they come with the program. */
static void builtin_hw(struct muf_world *w, struct hw *hw)
{
	const struct hw_builtin *b;
	unsigned n = 0;

	while (hw_builtins[n].name)
		n++;
	b = &hw_builtins[muf_below(w, n)];
	if (hw_load(hw, b->name, NULL))
		abort(); /* unit tests say that they are right */
}

static void random_hw(struct muf_world *w, struct hw *hw)
{
	if (muf_chance(w, 8)) {
		builtin_hw(w, hw);
		return;
	}
	*hw = (struct hw){.name = "random", .line = (uint32_t)PICK(w, 32, 64, 64, 128)};
	hw->l1d = random_tlb(w, 5, 2, 4);
	hw->l1i = random_tlb(w, 5, 2, 4);
	hw->l2d = random_tlb(w, 15, 4, 6);
	hw->l2_split = muf_chance(w, 30);
	hw->l2i = random_tlb(w, 10, 3, 4);
	random_walk_caches(w, hw);
	for (unsigned i = 0; i < HW_MEMORY; i++) {
		struct hw_array a = random_array(w, 20, 3 + 2 * i, 4);

		hw->cache[i] = (struct hw_cache){a.entries * (uint64_t)hw->line, a.ways, 1 + i};
	}
	hw->memory_latency = 100;
}

static void print_array(const char *name, unsigned level, const struct hw_array *a)
{
	if (a->entries)
		fprintf(stderr, " %s%.0u=%u/%u", name, level, a->entries, a->ways);
}

static void print_tlb(const char *name, const struct hw_tlb *t)
{
	fprintf(stderr, " %s", name);
	for (unsigned i = 0; i < t->arrays; i++)
		fprintf(stderr, "[%s%s%s %u/%u]", t->array[i].pages & HW_4K ? "4K" : "",
			t->array[i].pages & HW_2M ? "2M" : "", t->array[i].pages & HW_1G ? "1G" : "",
			t->array[i].entries, t->array[i].ways);
}

void muf_print_hw(const struct hw *hw)
{
	static const char *const kinds[] = {"none", "split", "unified"};

	fprintf(stderr, "  hardware: %s", hw->name);
	print_tlb("l1d", &hw->l1d);
	print_tlb("l1i", &hw->l1i);
	print_tlb("l2d", &hw->l2d);
	if (hw->l2_split)
		print_tlb("l2i", &hw->l2i);
	fprintf(stderr, "\n  walk caches: %s", kinds[hw->walk_caches]);
	for (unsigned l = 2; l < HW_LEVELS && hw->walk_caches == HW_WALK_SPLIT; l++) {
		print_array("guest", l, &hw->guest[l]);
		print_array("host", l, &hw->host[l]);
	}
	if (hw->walk_caches == HW_WALK_UNIFIED) {
		print_array("", 0, &hw->unified);
		fprintf(stderr, "%s%s%s", hw->unified_guest ? " guest" : "", hw->unified_host ? " host" : "",
			hw->unified_host_leaf ? " leaf" : "");
	}
	print_array("nested_tlb", 0, &hw->nested_tlb);
	for (unsigned i = 0; i < HW_MEMORY; i++)
		fprintf(stderr, " L%u=%llu/%u", i + 1, (unsigned long long)hw->cache[i].bytes, hw->cache[i].ways);
	fprintf(stderr, " line=%u\n", hw->line);
}

/* ---- memory ---- */

/*
 * A GiB of RAM, one that is mixed, one of RAM, a mixed one: large pages of every kind. What is not
 * tables is never touched and costs nothing.
 */
static const struct machmem_range ram[] = {{0, 0x60000000}, {0x80000000, 0x40200000}};

static uint64_t get_entry(const struct muf_world *w, uint64_t at, unsigned bytes)
{
	return bytes == 8 ? machmem_read64(&w->mem[0], hpa(at)) : machmem_read32(&w->mem[0], hpa(at));
}

/* Keeps what the two have as accessed and dirty flags: they are compared elsewhere. */
static void put_entry(struct muf_world *w, uint64_t at, unsigned bytes, uint64_t v)
{
	for (unsigned i = 0; i < MUF_MEMORIES; i++) {
		uint8_t *p = machmem_ptr(&w->mem[i], hpa(at));

		if (bytes == 8)
			put_u64(p, v);
		else
			put_u32(p, (uint32_t)v);
	}
}

static uint64_t pool_page(unsigned n) { return MUF_POOL + n * PAGE_SIZE; }

static uint64_t new_guest_page(struct muf_world *w, unsigned level)
{
	if (w->guest_pages == MUF_GUEST) {
		/* Any other of the level, and if there is none any at all. */
		for (unsigned tries = 0; tries < 50; tries++) {
			unsigned n = muf_below(w, MUF_GUEST);

			if (w->level[n] == level)
				return pool_page(n);
		}
		return pool_page(muf_below(w, MUF_GUEST));
	}
	w->level[w->guest_pages] = level;
	return pool_page(w->guest_pages++);
}

static uint64_t new_ept_page(struct muf_world *w, unsigned level)
{
	if (w->ept_pages == MUF_EPT) {
		for (unsigned tries = 0; tries < 50; tries++) {
			unsigned n = MUF_GUEST + muf_below(w, MUF_EPT);

			if (w->level[n] == level)
				return pool_page(n);
		}
		return pool_page(MUF_GUEST + muf_below(w, MUF_EPT));
	}
	w->level[MUF_GUEST + w->ept_pages] = level;
	return pool_page(MUF_GUEST + w->ept_pages++);
}

/* ---- addresses ---- */

uint64_t muf_address(struct muf_world *w, enum muf_mode mode)
{
	uint64_t a = muf_next(w) & 0xff8;

	switch (mode) {
	case MUF_UNPAGED:
		return (muf_gpa(w) & PAGE_MASK & 0xffffffff) | a;
	case MUF_32BIT:
		return PICK(w, 0, 1, 2, 0x3ff) << 22 | PICK(w, 0, 1, 2, 3, 5, 7, 511, 512) << 12 | a;
	case MUF_PAE:
		return PICK(w, 0, 1, 3) << 30 | PICK(w, 0, 1, 2, 511) << 21 | PICK(w, 0, 1, 2, 3, 5, 7, 511) << 12 | a;
	default:
		a |= PICK(w, 0, 0, 0, 1, 2) << 30 | PICK(w, 0, 1, 2, 511) << 21 | PICK(w, 0, 1, 2, 3, 5, 7, 511) << 12;
		a |= PICK(w, 0, 0, 0, 0, 0, 1, 511) << 39;
		if (mode == MUF_5LEVEL)
			return a | (muf_chance(w, 70) ? 0 : muf_chance(w, 50) ? 1ull << 48 : ~0ull << 48);
		return (uint64_t)((int64_t)(a << 16) >> 16);
	}
}

static uint64_t data_page(struct muf_world *w)
{
	static const uint64_t pages[] = {
		0x200000, 0x201000, 0x3ff000, 0x400000, 0x600000, 0x601000, 0x40000000, 0x40001000, 0x5ffff000,
		0x60000000, 0x7fe00000, 0x80000000, 0x80200000, 0x80201000, 0xc0000000, 0xc0001000, 0xc0200000,
		0xfee00000, 0x100000000ull, 0x8000000000ull, 0x8040000000ull,
	};

	/* The last are beyond what some processors have. */
	return pick(w, pages, ARRAY_SIZE(pages) - (muf_chance(w, 95) ? 2 : 0));
}

uint64_t muf_gpa(struct muf_world *w)
{
	return (muf_chance(w, 40) ? pool_page(muf_below(w, MUF_GUEST)) : data_page(w)) | (muf_next(w) & 0xff8);
}

/* ---- entries ---- */

static uint64_t guest_flags(struct muf_world *w, unsigned bytes)
{
	unsigned yes = w->tidy ? 98 : 80;
	uint64_t e = muf_chance(w, w->tidy ? 99 : 92) ? PTE_P : 0;

	e |= muf_chance(w, yes) ? PTE_W : 0;
	e |= muf_chance(w, yes) ? PTE_U : 0;
	e |= muf_chance(w, 60) ? PTE_A : 0;
	e |= muf_chance(w, 50) ? PTE_D : 0;
	e |= muf_chance(w, 25) ? PTE_G : 0;
	if (bytes == 8) {
		e |= muf_chance(w, 100 - yes) ? PTE_NX : 0;
		e |= muf_chance(w, 1) ? BIT64(muf_below(w, 64)) : 0;
	}
	return e;
}

static uint64_t pkey(struct muf_world *w, enum muf_mode mode)
{
	return mode >= MUF_4LEVEL && muf_chance(w, 30) ? (uint64_t)muf_below(w, 4) << PTE_PKEY_SHIFT : 0;
}

static uint64_t large_address(struct muf_world *w, enum muf_mode mode, unsigned shift)
{
	uint64_t a = data_page(w), e;

	if (mode == MUF_32BIT) /* PSE-36 */
		return (a & 0xffc00000) | (a >> 32 & 0xff) << 13 | (muf_chance(w, 3) ? muf_next(w) & 0x3fe000 : 0);
	e = a & ~(BIT64(shift) - 1);
	if (muf_chance(w, 2))
		e |= muf_next(w) & (BIT64(shift) - 1) & PAGE_MASK;
	return e;
}

static unsigned mode_shift(enum muf_mode mode, unsigned level)
{
	return 12 + (mode == MUF_32BIT ? 10 : 9) * (level - 1);
}

/* A random entry of a guest's table of @level. */
static uint64_t guest_entry(struct muf_world *w, enum muf_mode mode, unsigned level)
{
	unsigned bytes = mode == MUF_32BIT ? 4 : 8;
	uint64_t e = guest_flags(w, bytes);

	if (level == 1)
		return e | (data_page(w) & (bytes == 4 ? 0xfffff000 : ~0ull)) | pkey(w, mode);
	if (level <= 3 && muf_chance(w, level == 2 ? 30 : 15))
		return e | large_address(w, mode, mode_shift(mode, level)) | PTE_PS | pkey(w, mode);
	if (level > 3 && muf_chance(w, 1))
		e |= PTE_PS;
	return e | new_guest_page(w, level - 1);
}

static uint64_t ept_rights(struct muf_world *w)
{
	if (muf_chance(w, w->tidy ? 99 : 85))
		return 7;
	return muf_below(w, 8);
}

static uint64_t ept_leaf(struct muf_world *w, uint64_t to, unsigned level)
{
	uint64_t e = ept_rights(w) | (level > 1 ? EPT_PS : 0), type = muf_chance(w, 99) ? EPT_MT_WB : muf_below(w, 8);

	e |= to & ~(BIT64(12 + 9 * (level - 1)) - 1);
	e |= muf_chance(w, 40) ? EPT_A : 0;
	e |= muf_chance(w, 30) ? EPT_D : 0;
	if (muf_chance(w, 1))
		e |= BIT64(12 + muf_below(w, 40));
	return e | type << EPT_MT_SHIFT;
}

/* Where guest-physical @a goes if it is mapped with a page of @level. */
static uint64_t ept_target(struct muf_world *w, uint64_t a, unsigned level)
{
	bool table = a - MUF_POOL < MUF_GUEST * PAGE_SIZE;

	if (table)
		return level == 1 && muf_chance(w, 10) ? pool_page(muf_below(w, MUF_GUEST)) : a;
	return muf_chance(w, 50) && !(a >> 32) ? a : data_page(w);
}

static uint64_t ept_entry(struct muf_world *w, uint64_t a, unsigned level)
{
	bool table = a - MUF_POOL < MUF_GUEST * PAGE_SIZE;
	unsigned large = table ? level == 2 ? 10 : 0 : level == 2 ? 35 : 20;

	if (level == 1 || (level <= 3 && muf_chance(w, large)))
		return ept_leaf(w, ept_target(w, a, level), level);
	return new_ept_page(w, level - 1) | ept_rights(w) | (muf_chance(w, 50) ? EPT_A : 0) |
	       (muf_chance(w, 1) ? BIT64(3 + muf_below(w, 5)) : 0);
}

/* ---- tables ---- */

static unsigned guest_levels(enum muf_mode mode) { return mode == MUF_5LEVEL ? 5 : mode == MUF_4LEVEL ? 4 : 2; }

/* Machine address of the entry of @level on the way to @lin, as if guest-physical were machine addresses; 0: none. */
static uint64_t guest_entry_at(const struct muf_world *w, const struct muf_context *c, uint64_t lin, unsigned level,
			       bool make, struct muf_world *writable)
{
	unsigned bytes = c->mode == MUF_32BIT ? 4 : 8;
	uint64_t table = (c->mode == MUF_PAE ? c->regs.pdpte[lin >> 30 & 3] : c->regs.cr3) & 0xffffff000ull;

	for (unsigned l = guest_levels(c->mode);; l--) {
		uint64_t at = table + (lin >> mode_shift(c->mode, l) & (PAGE_SIZE / bytes - 1)) * bytes, e;

		if (table - MUF_POOL >= MUF_GUEST * PAGE_SIZE)
			return 0;
		if (l == level)
			return at;
		e = get_entry(w, at, bytes);
		if (make && !e) {
			e = guest_entry(writable, c->mode, l);
			put_entry(writable, at, bytes, e);
		}
		if (!e || (e & PTE_PS && l <= 3))
			return 0;
		table = e & (bytes == 4 ? 0xfffff000 : PTE_ADDR_MASK);
	}
}

static uint64_t ept_entry_at(const struct muf_world *w, uint64_t eptp, uint64_t a, unsigned level, bool make,
			     struct muf_world *writable)
{
	uint64_t table = eptp & EPT_ADDR_MASK;

	for (unsigned l = (unsigned)(eptp >> EPTP_WALK_SHIFT & 7) + 1;; l--) {
		uint64_t at = table + (a >> (12 + 9 * (l - 1)) & 511) * 8, e;

		if (table - MUF_POOL >= MUF_POOL_BYTES)
			return 0;
		if (l == level)
			return at;
		e = get_entry(w, at, 8);
		if (make && !e) {
			e = ept_entry(writable, a, l);
			put_entry(writable, at, 8, e);
		}
		if (!e || (e & EPT_PS && l <= 3))
			return 0;
		table = e & EPT_ADDR_MASK;
	}
}

static void map_guest(struct muf_world *w, const struct muf_context *c)
{
	for (unsigned i = 0; c->mode != MUF_UNPAGED && i < 150; i++) {
		uint64_t at = guest_entry_at(w, c, muf_address(w, c->mode), 1, true, w);

		if (at)
			put_entry(w, at, c->mode == MUF_32BIT ? 4 : 8, guest_entry(w, c->mode, 1));
	}
}

static void map_ept_page(struct muf_world *w, uint64_t eptp, uint64_t a)
{
	uint64_t at = ept_entry_at(w, eptp, a, 1, true, w);

	if (at)
		put_entry(w, at, 8, ept_entry(w, a, 1));
}

static void map_ept(struct muf_world *w, uint64_t eptp)
{
	for (unsigned i = 0; i < MUF_GUEST; i++)
		map_ept_page(w, eptp, pool_page(i));
	for (unsigned i = 0; i < 60; i++)
		map_ept_page(w, eptp, data_page(w));
}

/* ---- contexts ---- */

static struct mmu_regs random_regs(struct muf_world *w, enum muf_mode mode, const struct mmu_regs *root)
{
	struct mmu_regs r = *root;

	r.cr0 = CR0_PE | (mode == MUF_UNPAGED ? 0 : CR0_PG) | (muf_chance(w, 70) ? CR0_WP : 0);
	r.cr4 = CR4_PSE | (muf_chance(w, 80) ? CR4_PGE : 0) | (muf_chance(w, 20) ? CR4_SMEP : 0) |
		(muf_chance(w, 20) ? CR4_SMAP : 0) | (muf_chance(w, 20) ? CR4_PKE : 0);
	r.efer = muf_chance(w, 90) ? EFER_NXE : 0;
	r.pkru = muf_chance(w, 50) ? 0 : (uint32_t)muf_next(w) & 0xff;
	if (mode >= MUF_PAE)
		r.cr4 |= CR4_PAE;
	if (mode >= MUF_4LEVEL) {
		r.efer |= EFER_LME | EFER_LMA;
		r.cr4 |= (mode == MUF_5LEVEL ? CR4_LA57 : 0) | (muf_chance(w, 70) ? CR4_PCIDE : 0);
	}
	return r;
}

static void random_context(struct muf_world *w, struct muf_context *c)
{
	struct mmu_regs root = {.vpid = (uint16_t)PICK(w, 0, 1, 1, 2, 0xffff)};

	c->mode = (enum muf_mode)PICK(w, MUF_UNPAGED, MUF_32BIT, MUF_PAE, MUF_4LEVEL, MUF_4LEVEL, MUF_4LEVEL,
				      MUF_5LEVEL);
	root.nested = root.vpid ? muf_chance(w, 70) : muf_chance(w, 20);
	if (root.nested)
		root.eptp = w->eptp[muf_below(w, MUF_ROOTS)] ^ (muf_chance(w, 10) ? EPTP_AD : 0);
	if (c->mode == MUF_PAE)
		for (unsigned i = 0; i < 4; i++)
			root.pdpte[i] = muf_chance(w, 90) ? new_guest_page(w, 2) | PTE_P : 0;
	else if (c->mode != MUF_UNPAGED)
		root.cr3 = new_guest_page(w, guest_levels(c->mode));
	if (c->mode >= MUF_4LEVEL)
		root.cr3 |= PICK(w, 0, 1, 0xfff);
	c->regs = random_regs(w, c->mode, &root);
	if (!(c->regs.cr4 & CR4_PCIDE))
		c->regs.cr3 &= PAGE_MASK;
}

/* Now and then another PCID of the same tables, or another VPID or EPT of the same guest. */
static void vary_context(struct muf_world *w, struct muf_context *c, const struct muf_context *from)
{
	enum muf_mode mode = from->mode;

	*c = *from;
	c->regs = random_regs(w, mode, &from->regs);
	if (muf_chance(w, 50))
		c->regs.vpid = (uint16_t)PICK(w, 0, 1, 2, 0xffff);
	if (c->regs.nested && muf_chance(w, 50))
		c->regs.eptp = w->eptp[muf_below(w, MUF_ROOTS)];
	if (mode >= MUF_4LEVEL)
		c->regs.cr3 = (c->regs.cr3 & PAGE_MASK) | (c->regs.cr4 & CR4_PCIDE ? PICK(w, 0, 1, 0xfff) : 0);
}

int muf_world_init(struct muf_world *w, uint64_t seed)
{
	int r = 0;

	*w = (struct muf_world){.rng = (seed + 1) * 0x9e3779b97f4a7c15ull};
	for (unsigned i = 0; i < 8; i++)
		muf_next(w);
	for (unsigned i = 0; i < MUF_MEMORIES && !r; i++)
		r = machmem_init(&w->mem[i], ram, ARRAY_SIZE(ram), NULL);
	if (r)
		return r;
	w->tidy = muf_chance(w, 60);
	w->maxphyaddr = (unsigned)PICK(w, 46, 46, 39, 36, 52);
	w->pages_1g = muf_chance(w, 90);
	random_hw(w, &w->hw);
	for (unsigned i = 0; i < MUF_ROOTS; i++) {
		unsigned levels = muf_chance(w, 75) ? 4 : 5;

		w->eptp[i] = new_ept_page(w, levels) | EPT_MT_WB | (levels - 1) << EPTP_WALK_SHIFT |
			     (muf_chance(w, 50) ? EPTP_AD : 0);
	}
	for (unsigned i = 0; i < MUF_CONTEXTS; i++) {
		if (i && muf_chance(w, 50))
			vary_context(w, &w->context[i], &w->context[muf_below(w, i)]);
		else
			random_context(w, &w->context[i]);
	}
	for (unsigned i = 0; i < MUF_CONTEXTS; i++)
		map_guest(w, &w->context[i]);
	for (unsigned i = 0; i < MUF_ROOTS; i++)
		map_ept(w, w->eptp[i]);
	w->first = malloc(MUF_POOL_BYTES);
	if (!w->first)
		return -ENOMEM;
	memcpy(w->first, machmem_ptr(&w->mem[0], hpa(MUF_POOL)), MUF_POOL_BYTES);
	return 0;
}

void muf_world_destroy(struct muf_world *w)
{
	free(w->first);
	for (unsigned i = 0; i < MUF_MEMORIES; i++)
		machmem_destroy(&w->mem[i]);
}

/* ---- edits ---- */

static uint64_t changed(struct muf_world *w, uint64_t e, uint64_t fresh, const uint64_t *flags, unsigned n)
{
	if (!(e & 7) || muf_chance(w, 40))
		return fresh;
	return e ^ pick(w, flags, n);
}

static void edit_guest(struct muf_world *w, const struct muf_context *c, uint64_t lin)
{
	static const uint64_t flags[] = {PTE_P, PTE_W, PTE_U, PTE_A, PTE_D, PTE_G, PTE_W | PTE_U};
	unsigned level = muf_chance(w, 80) ? 1 : 1 + muf_below(w, guest_levels(c->mode));
	unsigned bytes = c->mode == MUF_32BIT ? 4 : 8;
	uint64_t at = guest_entry_at(w, c, lin, level, false, NULL), e;

	if (!at)
		return;
	e = get_entry(w, at, bytes);
	put_entry(w, at, bytes, changed(w, e, guest_entry(w, c->mode, level), flags, ARRAY_SIZE(flags)));
}

static void edit_ept(struct muf_world *w, uint64_t eptp)
{
	static const uint64_t flags[] = {EPT_R, EPT_W, EPT_X, EPT_A, EPT_D, EPT_R | EPT_W | EPT_X};
	unsigned level = muf_chance(w, 80) ? 1 : 1 + muf_below(w, 4);
	uint64_t a = muf_gpa(w), at = ept_entry_at(w, eptp, a, level, false, NULL);

	if (at)
		put_entry(w, at, 8, changed(w, get_entry(w, at, 8), ept_entry(w, a, level), flags, ARRAY_SIZE(flags)));
}

bool muf_edit(struct muf_world *w, const struct muf_context *c, uint64_t lin)
{
	if (c->mode != MUF_UNPAGED && (!c->regs.nested || muf_chance(w, 60))) {
		edit_guest(w, c, lin);
		return true;
	}
	if (c->regs.nested)
		edit_ept(w, c->regs.eptp);
	return false;
}

void muf_repair(struct muf_world *w)
{
	size_t bytes = muf_chance(w, 60) ? PAGE_SIZE : MUF_POOL_BYTES;
	size_t at = bytes == PAGE_SIZE ? muf_below(w, MUF_GUEST + MUF_EPT) * PAGE_SIZE : 0;

	for (unsigned i = 0; i < MUF_MEMORIES; i++)
		memcpy((uint8_t *)machmem_ptr(&w->mem[i], hpa(MUF_POOL)) + at, w->first + at, bytes);
}
