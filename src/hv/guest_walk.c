/*
 * The guest's own page tables, walked by software: what a shadow pager needs to
 * know of them, and how the emulator translates. The result - fault or not, error
 * code, accessed and dirty flags left behind - is the processor's own, for every
 * paging mode; but this code shares nothing with the processor's walker, so that
 * each can be checked against the other.
 *
 * A table outside guest RAM reads as all ones, as on the bare machine.
 * Sources: SDM volume 3, "Paging": the figures of the entries of each mode,
 * "Determination of Access Rights", "Page-Fault Exceptions", "Accessed and Dirty Flags".
 */
#include "hv/core.h"
#include "hv/dirty.h"

struct walking {
	struct hv_vm *vm;
	struct guest_walk *w;
	uint64_t lin;
	enum access_kind kind;
	enum access_mode mode;
	bool set_ad;
	bool wide;          /* 8-byte entries */
	bool lma;
	/* Of the entry that was loaded last: its address, and what stage 2 allows */
	uint64_t at, ept_rights;
};

/* Guest RAM for a table entry; NULL if no frame stands behind it. */
static uint8_t *entry_ptr(struct hv_vm *vm, uint64_t a)
{
	return p2m_contents(vm, gfn(a >> PAGE_SHIFT)) ? p2m_ptr(vm, a) : NULL;
}

/* False: stage 2, if there is one, has an event. */
static bool through_stage2(struct walking *k, uint64_t a, enum access_kind kind, bool table, uint64_t *out)
{
	*out = a;
	if (likely(!k->vm->stage2))
		return true;
	k->w->event = k->vm->stage2(k->vm, a, kind, table, k->set_ad, out, &k->ept_rights, &k->w->ept);
	return k->w->event == XLATE_OK;
}

static bool load_entry(struct walking *k, uint64_t a, uint64_t *e)
{
	const uint8_t *p;

	if (!through_stage2(k, a, ACCESS_READ, true, &a))
		return false;
	k->at = a;
	p = entry_ptr(k->vm, a);
	hv_count_reads(k->vm, 1);
	if (k->set_ad)
		hv_note_accessed(k->vm, a);
	if (!p)
		*e = p2m_is_ram(k->vm, a) ? 0 : k->wide ? ~0ull : ~0u;
	else
		*e = k->wide ? get_u64(p) : get_u32(p);
	return true;
}

/* Sets flags in the entry that was loaded last. False: it cannot be written. */
static bool set_flags(struct walking *k, unsigned level, uint64_t flags)
{
	struct guest_walk *w = k->w;
	uint8_t *p;

	if (!k->set_ad || (w->entry[level] & flags) == flags)
		return true;
	if (!(k->ept_rights & EPT_W)) {
		w->event = XLATE_EPT_VIOLATION;
		w->ept.gpa = gpa(w->entry_gpa[level]);
		w->ept.qualification = EPT_VIOL_WRITE | k->ept_rights << EPT_VIOL_RIGHTS_SHIFT;
		return false;
	}
	w->entry[level] |= flags;
	p = entry_ptr(k->vm, k->at);
	if (!p)
		return true;
	put_u16(p, (uint16_t)(get_u16(p) | flags));
	hv_count_writes(k->vm, 1);
	hv_note_written(k->vm, k->at);
	hv_snoop(k->vm, k->at, 2);
	return true;
}

static void find_page(struct walking *k) { k->w->ok = through_stage2(k, k->w->gpa, k->kind, false, &k->w->gpa); }

/* Faults: the error code is the cause with what the access was. */
static void fault(const struct walking *k, uint32_t cause)
{
	const struct hv_guest_regs *g = &k->vm->guest;
	bool tells_fetch = g->cr4 & CR4_SMEP || (g->cr4 & CR4_PAE && g->efer & EFER_NXE);

	k->w->ok = false;
	k->w->error = cause;
	if (k->kind == ACCESS_WRITE)
		k->w->error |= PF_W;
	if (mode_is_user(k->mode))
		k->w->error |= PF_U;
	if (k->kind == ACCESS_FETCH && tells_fetch)
		k->w->error |= PF_I;
}

static unsigned level_shift(const struct walking *k, unsigned level)
{
	return k->wide ? PAGE_SHIFT + 9 * (level - 1) : PAGE_SHIFT + 10 * (level - 1);
}

/* Address bits that the processor does not have. */
static uint64_t beyond_maxphyaddr(const struct hv_vm *vm)
{
	return PTE_ADDR_MASK & (~0ull << vm->cfg.cpu.maxphyaddr);
}

static bool is_leaf(const struct walking *k, unsigned level, uint64_t e)
{
	if (level == 1)
		return true;
	if (!(e & PTE_PS))
		return false;
	return k->wide ? level <= (k->lma ? 3u : 2u) : k->vm->guest.cr4 & CR4_PSE;
}

static bool reserved_32bit(const struct walking *k, unsigned level, uint64_t e)
{
	unsigned width = k->vm->cfg.cpu.maxphyaddr < 40 ? k->vm->cfg.cpu.maxphyaddr : 40;

	if (level == 1 || !is_leaf(k, level, e))
		return false;
	/* Bits 20:13 of a 4 MiB entry are physical address bits 39:32; bit 21 is reserved. */
	return bits(e, 21, 13) >> (width - 32);
}

static bool reserved_wide(const struct walking *k, unsigned level, uint64_t e)
{
	if (e & beyond_maxphyaddr(k->vm))
		return true;
	if (e & PTE_NX && !(k->vm->guest.efer & EFER_NXE))
		return true;
	if (!k->lma && bits(e, 62, 52))
		return true;
	if (level == 1 || !(e & PTE_PS))
		return false;
	if (!is_leaf(k, level, e) || (level == 3 && !k->vm->cfg.cpu.feature[CPUF_PDPE1GB]))
		return true;
	return bits(e, level_shift(k, level) - 1, 13); /* bit 12 is PAT */
}

static bool key_denies(const struct walking *k)
{
	const struct hv_guest_regs *g = &k->vm->guest;
	uint32_t rights = hv_guest_pkru(k->vm) >> (2 * k->w->pkey);

	if (!k->lma || !(g->cr4 & CR4_PKE) || !k->w->user || k->kind == ACCESS_FETCH)
		return false;
	if (rights & 1)
		return true;
	return rights & 2 && k->kind == ACCESS_WRITE && (mode_is_user(k->mode) || g->cr0 & CR0_WP);
}

static bool fetch_denied(const struct walking *k)
{
	if (k->w->nx)
		return true;
	if (mode_is_user(k->mode))
		return !k->w->user;
	return k->w->user && k->vm->guest.cr4 & CR4_SMEP;
}

static bool data_denied(const struct walking *k)
{
	const struct hv_guest_regs *g = &k->vm->guest;

	if (mode_is_user(k->mode) && !k->w->user)
		return true;
	if (!mode_is_user(k->mode) && k->w->user && g->cr4 & CR4_SMAP && k->mode != MODE_SUPER_AC)
		return true;
	return k->kind == ACCESS_WRITE && !k->w->writable && (mode_is_user(k->mode) || g->cr0 & CR0_WP);
}

static void at_leaf(struct walking *k, unsigned level)
{
	struct guest_walk *w = k->w;
	uint64_t e = w->entry[level], offset = ~(~0ull << level_shift(k, level));

	w->pkey = (uint8_t)bits(e, 62, 59);
	w->global = e & PTE_G && k->vm->guest.cr4 & CR4_PGE;
	w->gpa = (e & PTE_ADDR_MASK & ~offset) | (k->lin & offset);
	if (!k->wide && level == 2)
		w->gpa = (e & 0xffc00000) | bits(e, 20, 13) << 32 | (k->lin & offset);
	if (k->kind == ACCESS_FETCH ? fetch_denied(k) : key_denies(k) || data_denied(k)) {
		fault(k, PF_P | (key_denies(k) ? PF_PK : 0));
		return;
	}
	if (!set_flags(k, level, PTE_A | (k->kind == ACCESS_WRITE ? PTE_D : 0)))
		return;
	w->dirty = w->entry[level] & PTE_D;
	find_page(k);
}

/* The root: CR3, or under PAE one of the four registers. False: not present. */
static bool root(const struct walking *k, uint64_t *table, unsigned *level)
{
	const struct hv_guest_regs *g = &k->vm->guest;
	unsigned i = (unsigned)bits(k->lin, 31, 30);

	if (k->lma || !k->wide) {
		*level = k->w->levels;
		*table = g->cr3 & (k->wide ? PTE_ADDR_MASK : 0xfffff000);
		return true;
	}
	*level = 2;
	k->w->table_gpa[3] = g->cr3 & 0xffffffe0;
	k->w->entry_gpa[3] = k->w->table_gpa[3] + 8 * i;
	k->w->entry[3] = g->pdpte[i];
	*table = g->pdpte[i] & PTE_ADDR_MASK;
	return g->pdpte[i] & PTE_P;
}

static void walk_tables(struct walking *k)
{
	struct guest_walk *w = k->w;
	unsigned level, index_bits = k->wide ? 9 : 10;
	uint64_t table;

	w->leaf_level = 3;
	if (!root(k, &table, &level)) {
		fault(k, 0);
		return;
	}
	for (;; level--) {
		uint64_t index = k->lin >> level_shift(k, level) & ((1u << index_bits) - 1), e;

		w->leaf_level = level;
		w->table_gpa[level] = table;
		w->entry_gpa[level] = table + index * (k->wide ? 8 : 4);
		if (!load_entry(k, w->entry_gpa[level], &e))
			return;
		w->entry[level] = e;
		if (!(e & PTE_P)) {
			fault(k, 0);
			return;
		}
		if (k->wide ? reserved_wide(k, level, e) : reserved_32bit(k, level, e)) {
			fault(k, PF_P | PF_RSVD);
			return;
		}
		w->writable &= !!(e & PTE_W);
		w->user &= !!(e & PTE_U);
		w->nx |= k->wide && e & PTE_NX;
		if (is_leaf(k, level, e)) {
			at_leaf(k, level);
			return;
		}
		if (!set_flags(k, level, PTE_A))
			return;
		table = e & (k->wide ? PTE_ADDR_MASK : 0xfffff000);
	}
}

void guest_walk(struct hv_vm *vm, uint64_t lin, enum access_kind kind, enum access_mode mode, bool set_ad,
		struct guest_walk *w)
{
	const struct hv_guest_regs *g = &vm->guest;
	struct walking k = {.vm = vm, .w = w, .lin = lin, .kind = kind, .mode = mode, .set_ad = set_ad,
			    .wide = g->cr4 & CR4_PAE, .lma = g->efer & EFER_LMA, .ept_rights = EPT_R | EPT_W | EPT_X};

	*w = (struct guest_walk){.writable = true, .user = true};
	if (!(g->cr0 & CR0_PG)) {
		w->gpa = lin;
		w->dirty = true;
		find_page(&k);
		return;
	}
	w->levels = k.lma ? (g->cr4 & CR4_LA57 ? 5 : 4) : k.wide ? 3 : 2;
	walk_tables(&k);
}
