/*
 * See ref_model.h. In order: arrays, memory caches, EPT walk, guest walk, TLBs,
 * invalidations. Nothing here is fast and nothing is shared between structures but the
 * array they are all made of.
 */
#include "ref_model.h"

#include <stdlib.h>

#include "arch/vmx.h"
#include "arch/x86.h"

/* ---- an array: sets of ways, the least recently used goes ---- */

static bool array_new(struct ref_array *a, uint32_t entries, uint32_t ways)
{
	if (!entries)
		return true;
	a->sets = entries / ways;
	a->ways = ways;
	a->entry = calloc(entries, sizeof(*a->entry));
	return a->entry;
}

static bool same_tags(const struct ref_entry *e, const struct ref_entry *want)
{
	return e->kind == want->kind && e->vpid == want->vpid && (e->pcid == want->pcid || e->global) &&
	       e->ep4ta == want->ep4ta && e->format == want->format;
}

/* The entry of the set with @index that answers @want. */
static struct ref_entry *array_find(const struct ref_array *a, uint64_t index, const struct ref_entry *want)
{
	for (unsigned way = 0; a->sets && way < a->ways; way++) {
		struct ref_entry *e = &a->entry[index % a->sets * a->ways + way];

		if (e->valid && e->key == want->key && e->shift == want->shift && same_tags(e, want) &&
		    e->address >> e->shift == want->address >> want->shift)
			return e;
	}
	return NULL;
}

static struct ref_entry *array_use(struct ref_model *r, struct ref_array *a, uint64_t index,
				   const struct ref_entry *want)
{
	struct ref_entry *e = array_find(a, index, want);

	if (e)
		e->used = ++r->now;
	return e;
}

/* In place of what there is for the same, of an empty way, or of the one used longest ago. */
static void array_enter(struct ref_model *r, struct ref_array *a, uint64_t index, const struct ref_entry *new)
{
	struct ref_entry *set, *place;

	if (!a->sets || r->asking)
		return;
	set = &a->entry[index % a->sets * a->ways];
	place = array_find(a, index, new);
	for (unsigned way = 0; !place && way < a->ways; way++)
		if (!set[way].valid)
			place = &set[way];
	if (!place) {
		place = set;
		for (unsigned way = 1; way < a->ways; way++)
			if (set[way].used < place->used)
				place = &set[way];
	}
	*place = *new;
	place->valid = true;
	place->used = ++r->now;
}

/* ---- the machine ---- */

static bool tlb_new(struct ref_tlb *t, const struct hw_tlb *hw)
{
	bool ok = true;

	t->arrays = hw->arrays;
	for (unsigned i = 0; i < HW_ARRAYS_MAX && i < hw->arrays; i++) {
		t->pages[i] = hw->array[i].entries ? hw->array[i].pages : 0;
		ok &= array_new(&t->array[i], hw->array[i].entries, hw->array[i].ways);
	}
	return ok;
}

struct ref_model *ref_new(struct machmem *mem, const struct hw *hw)
{
	struct ref_model *r = calloc(1, sizeof(*r));
	bool ok;

	if (!r)
		return NULL;
	r->mem = mem;
	r->hw = *hw;
	r->maxphyaddr = 46;
	r->pages_1g = true;
	ok = tlb_new(&r->l1d, &hw->l1d) && tlb_new(&r->l1i, &hw->l1i) && tlb_new(&r->l2d, &hw->l2d) &&
	     (!hw->l2_split || tlb_new(&r->l2i, &hw->l2i));
	for (unsigned l = 2; l < HW_LEVELS && hw->walk_caches == HW_WALK_SPLIT; l++)
		ok = ok && array_new(&r->guest[l], hw->guest[l].entries, hw->guest[l].ways) &&
		     array_new(&r->host[l], hw->host[l].entries, hw->host[l].ways);
	if (hw->walk_caches == HW_WALK_UNIFIED)
		ok = ok && array_new(&r->unified, hw->unified.entries, hw->unified.ways);
	ok = ok && array_new(&r->nested_tlb, hw->nested_tlb.entries, hw->nested_tlb.ways);
	for (unsigned i = 0; i < HW_MEMORY; i++)
		if (hw->cache[i].bytes)
			ok = ok && array_new(&r->cache[i], (uint32_t)(hw->cache[i].bytes / hw->line),
					     hw->cache[i].ways);
	if (ok)
		return r;
	ref_free(r);
	return NULL;
}

/* Every array there is, for those who look at all. */
#define REF_ARRAYS_MAX (4 * HW_ARRAYS_MAX + 2 * HW_LEVELS + 2)
struct everything {
	unsigned arrays;
	struct ref_array *array[REF_ARRAYS_MAX];
	bool tlb[REF_ARRAYS_MAX];
};

/* All but the memory caches. */
static struct everything everything_of(struct ref_model *r)
{
	struct ref_tlb *tlb[] = {&r->l1d, &r->l1i, &r->l2d, &r->l2i};
	struct everything all = {0};

	for (unsigned t = 0; t < ARRAY_SIZE(tlb); t++) {
		for (unsigned i = 0; i < tlb[t]->arrays; i++) {
			all.tlb[all.arrays] = true;
			all.array[all.arrays++] = &tlb[t]->array[i];
		}
	}
	for (unsigned l = 2; l < HW_LEVELS; l++) {
		all.array[all.arrays++] = &r->guest[l];
		all.array[all.arrays++] = &r->host[l];
	}
	all.array[all.arrays++] = &r->unified;
	all.array[all.arrays++] = &r->nested_tlb;
	return all;
}

void ref_free(struct ref_model *r)
{
	struct everything all = everything_of(r);

	for (unsigned i = 0; i < all.arrays; i++)
		free(all.array[i]->entry);
	for (unsigned i = 0; i < HW_MEMORY; i++)
		free(r->cache[i].entry);
	free(r);
}

/* ---- the memory hierarchy ---- */

static enum hw_place memory_access(struct ref_model *r, uint64_t at)
{
	struct ref_entry line = {.kind = REF_LINE, .key = at / (r->hw.line ? r->hw.line : 64)};
	unsigned place = HW_L1;

	while (place < HW_MEMORY && !array_use(r, &r->cache[place], line.key, &line))
		place++;
	for (unsigned i = 0; i < place; i++)
		array_enter(r, &r->cache[i], line.key, &line);
	return (enum hw_place)place;
}

void ref_data_access(struct ref_model *r, uint64_t at, unsigned bytes)
{
	for (unsigned i = 0; r->data_cache && i < bytes; i++)
		if (i == 0 || (at + i) % r->hw.line == 0)
			r->stats.data_hits[memory_access(r, at + i)]++;
}

/* ---- walking ---- */

/* One translation being looked for in the tables. */
struct search {
	struct ref_model *r;
	uint64_t lin;
	enum access_kind kind;
	enum access_mode mode;
	bool no_caches;   /* the second attempt: everything comes from memory */
	bool used_cached; /* something of this attempt did not */
	unsigned refs;
	struct xlate *out;
};

/* What EPT makes of a guest-physical address. */
struct machine_address {
	uint64_t at;
	uint16_t rights; /* TLB_EPT_* */
	unsigned shift;
	bool dirty;
};

static bool has_ad(const struct ref_model *r) { return r->regs.eptp & EPTP_AD; }
/* Paging modes are tags too: what another mode made is never used. */
static unsigned ept_format(const struct ref_model *r)
{
	return r->regs.nested ? 100 + 10 * (unsigned)(r->regs.eptp >> 3 & 7) + has_ad(r) : 0;
}
static uint64_t current_ep4ta(const struct ref_model *r) { return r->regs.nested ? r->regs.eptp & EPT_ADDR_MASK : 0; }
static unsigned current_pcid(const struct ref_model *r)
{
	return r->regs.cr4 & CR4_PCIDE ? (unsigned)(r->regs.cr3 & CR3_PCID_MASK) : 0;
}

/* What is known of a linear address as the registers are. Without paging it is a guest-physical one. */
static struct ref_entry known_of_linear(const struct ref_model *r, uint64_t lin, unsigned shift)
{
	bool paging = r->regs.cr0 & CR0_PG;

	return (struct ref_entry){.kind = paging ? REF_LINEAR_OR_COMBINED : REF_GUEST_PHYSICAL, .key = lin >> shift,
				  .shift = shift, .address = lin, .vpid = paging ? r->regs.vpid : 0,
				  .pcid = paging ? current_pcid(r) : 0, .ep4ta = current_ep4ta(r)};
}

static struct ref_entry known_of_physical(const struct ref_model *r, uint64_t gpa_v, unsigned shift)
{
	return (struct ref_entry){.kind = REF_GUEST_PHYSICAL, .key = gpa_v >> shift, .shift = shift,
				  .address = gpa_v, .ep4ta = current_ep4ta(r)};
}

static void touch(struct ref_model *r, uint64_t at)
{
	if (r->touches < REF_TOUCHES_MAX)
		r->touched[r->touches++] = at;
}

static void count_reference(struct search *s, enum walk_stage stage, uint64_t at)
{
	if (s->r->asking)
		return;
	touch(s->r, at);
	s->refs++;
	s->r->stats.stage_refs[stage]++;
	s->r->stats.ref_hits[memory_access(s->r, at)]++;
}

static void set_bits(struct ref_model *r, uint64_t at, uint64_t bits_to_set, unsigned bytes)
{
	uint8_t *p = machmem_ptr(r->mem, hpa(at));

	if (!machmem_is_ram(r->mem, hpa(at)))
		return;
	if (r->asking) {
		r->would_set = true;
		return;
	}
	touch(r, at);
	if (bytes == 8)
		put_u64(p, get_u64(p) | bits_to_set);
	else
		put_u32(p, get_u32(p) | (uint32_t)bits_to_set);
}

static uint64_t above_maxphyaddr(const struct ref_model *r)
{
	uint64_t mask = 0;

	for (unsigned b = r->maxphyaddr; b < 52; b++)
		mask |= BIT64(b);
	return mask;
}

/*
 * The unified cache is looked up by where an entry stands. An entry whose flags must be set first is
 * no use: that is done in memory.
 */
static bool unified_lookup(struct search *s, const struct ref_entry *key, enum walk_stage stage, unsigned level,
			   uint64_t flags_if_leaf, uint64_t *value)
{
	struct ref_model *r = s->r;
	const struct ref_entry *e = s->no_caches ? NULL : array_use(r, &r->unified, key->key / 8, key);
	bool leaf;

	if (!e)
		return false;
	leaf = stage == STAGE_HOST && (level == 1 || (level <= 3 && (e->value & EPT_PS)));
	if (leaf && (e->value & flags_if_leaf) != flags_if_leaf)
		return false;
	s->used_cached = true;
	r->stats.walk_cache_hits[stage][level]++;
	*value = e->value;
	return true;
}

static void unified_enter(struct search *s, struct ref_entry *key, enum walk_stage stage, uint64_t value)
{
	struct ref_model *r = s->r;

	if (!r->unified.sets)
		return;
	if (!s->no_caches)
		r->stats.walk_cache_misses[stage]++;
	key->value = value;
	array_enter(r, &r->unified, key->key / 8, key);
}

static bool any_exists(const struct ref_array array[HW_LEVELS])
{
	return array[2].sets || array[3].sets || array[4].sets || array[5].sets;
}

/* ---- EPT ---- */

static enum xlate_event violation(struct search *s, uint64_t gpa_v, uint64_t qualification)
{
	s->out->gpa = gpa(gpa_v);
	s->out->qualification = qualification;
	return XLATE_EPT_VIOLATION;
}

/* SDM "EPT Misconfigurations" */
static bool ept_misconfigured(const struct ref_model *r, uint64_t e, unsigned level, bool leaf)
{
	unsigned type = (unsigned)(e >> 3 & 7);

	if ((e & 7) == 2 || (e & 7) == 6)
		return true;
	if (e & above_maxphyaddr(r))
		return true;
	if (!leaf) /* bits 6:3, and 7 where there are no pages */
		return (e & 0x78) || (level >= 4 && (e & 0x80));
	if (type == 2 || type == 3 || type == 7)
		return true;
	return (level == 3 && (e & 0x3ffff000)) || (level == 2 && (e & 0x1ff000));
}

/*
 * SDM "Page-Modification Logging": the index is looked at before any flag is set; what is logged is the page, when its
 * dirty flag was clear. False: the log is full.
 */
static bool ept_flags_may_be_set(struct ref_model *r, uint64_t gpa_v, uint64_t e, uint64_t flags)
{
	uint64_t at = r->pml_log + 8ull * r->pml_index;

	if (!r->pml || !has_ad(r) || r->asking)
		return true;
	if (r->pml_index > 511)
		return false;
	if (!(flags & EPT_D) || e & EPT_D)
		return true;
	put_u64(machmem_ptr(r->mem, hpa(at)), gpa_v / 4096 * 4096);
	touch(r, at);
	r->pml_index = r->pml_index ? r->pml_index - 1 : 0xffff;
	return true;
}

/* Which rights the access needs, in the encoding of a qualification's bits 2:0 (and of an entry's). */
static uint64_t ept_need(const struct ref_model *r, enum access_kind kind, bool of_table)
{
	if (of_table && has_ad(r))
		return 3; /* "processor accesses to guest paging-structure entries are treated as writes" */
	return kind == ACCESS_WRITE ? 2 : kind == ACCESS_FETCH ? 4 : 1;
}

static uint16_t ept_rights_to_tlb(uint64_t rwx) { return (uint16_t)((rwx & 7) * TLB_EPT_R); }
static uint64_t tlb_rights_to_ept(uint16_t rights) { return rights / TLB_EPT_R & 7; }

/* Split caches: the longest prefix that is held says where the walk goes on. */
static void ept_start(struct search *s, uint64_t gpa_v, unsigned *level, uint64_t *table, uint64_t *rights)
{
	struct ref_model *r = s->r;
	unsigned levels = *level;

	if (r->hw.walk_caches != HW_WALK_SPLIT || s->no_caches || !any_exists(r->host))
		return;
	for (unsigned l = 2; l <= levels; l++) {
		struct ref_entry key = known_of_physical(r, gpa_v, 12 + 9 * (l - 1)), *e;

		key.format = ept_format(r);
		e = array_use(r, &r->host[l], key.key, &key);
		if (!e)
			continue;
		s->used_cached = true;
		r->stats.walk_cache_hits[STAGE_HOST][l]++;
		*rights = tlb_rights_to_ept(e->rights);
		*table = e->value;
		*level = l - 1;
		return;
	}
	r->stats.walk_cache_misses[STAGE_HOST]++;
}

static enum xlate_event ept_walk(struct search *s, uint64_t gpa_v, enum access_kind kind, bool of_table,
				 struct machine_address *to)
{
	struct ref_model *r = s->r;
	unsigned level = (unsigned)(r->regs.eptp >> 3 & 7) + 1;
	uint64_t need = ept_need(r, kind, of_table), rights = 7, table = r->regs.eptp & EPT_ADDR_MASK;
	uint64_t final = of_table ? 0 : EPT_VIOL_FINAL;

	if (level == 4 && gpa_v >> 48)
		return violation(s, gpa_v, need | final);
	ept_start(s, gpa_v, &level, &table, &rights);
	for (;; level--) {
		unsigned shift = 12 + 9 * (level - 1);
		uint64_t at = table + (gpa_v >> shift) % 512 * 8, e = 0;
		struct ref_entry key = known_of_physical(r, gpa_v, shift);
		uint64_t leaf_flags = has_ad(r) ? EPT_A | (need & 2 ? EPT_D : 0) : 0, flags;
		bool leaf, cached;

		key.key = at;
		key.format = ept_format(r);
		cached = unified_lookup(s, &key, STAGE_HOST, level, leaf_flags, &e);
		if (!cached) {
			count_reference(s, STAGE_HOST, at);
			e = machmem_read64(r->mem, hpa(at));
		}
		if (!(e & 7))
			return violation(s, gpa_v, need | final);
		leaf = level == 1 || (level <= 3 && (e & EPT_PS));
		if (ept_misconfigured(r, e, level, leaf)) {
			s->out->gpa = gpa(gpa_v);
			return XLATE_EPT_MISCONFIG;
		}
		rights &= e;
		if (leaf && (rights & need) != need)
			return violation(s, gpa_v, need | rights << 3 | final);
		flags = leaf ? leaf_flags : leaf_flags & EPT_A;
		if ((e & flags) != flags) {
			if (!ept_flags_may_be_set(r, gpa_v, e, flags)) {
				s->out->gpa = gpa(gpa_v);
				return XLATE_PML_FULL;
			}
			set_bits(r, at, flags, 8);
		}
		e |= flags;
		if (!cached && (leaf ? r->hw.unified_host_leaf : r->hw.unified_host))
			unified_enter(s, &key, STAGE_HOST, e);
		if (leaf) {
			to->at = (e & EPT_ADDR_MASK & ~(BIT64(shift) - 1)) | (gpa_v & (BIT64(shift) - 1));
			to->rights = ept_rights_to_tlb(rights);
			to->shift = shift;
			to->dirty = !has_ad(r) || (e & EPT_D);
			return XLATE_OK;
		}
		table = e & EPT_ADDR_MASK;
		if (r->hw.walk_caches == HW_WALK_SPLIT) {
			struct ref_entry new = known_of_physical(r, gpa_v, shift);

			new.format = ept_format(r);
			new.value = table;
			new.rights = ept_rights_to_tlb(rights);
			array_enter(r, &r->host[level], new.key, &new);
		}
	}
}

/* A guest-physical address that the walk forms. */
static enum xlate_event to_machine(struct search *s, uint64_t gpa_v, enum access_kind kind, bool of_table,
				   struct machine_address *to)
{
	struct ref_model *r = s->r;
	struct ref_entry key = known_of_physical(r, gpa_v, 12);
	bool nested_tlb = of_table && r->nested_tlb.sets;
	enum xlate_event ev;

	key.format = ept_format(r);
	if (!r->regs.nested) {
		*to = (struct machine_address){gpa_v, TLB_EPT_RWX, 30, true};
		return XLATE_OK;
	}
	if (nested_tlb && !s->no_caches) {
		const struct ref_entry *e = array_use(r, &r->nested_tlb, key.key, &key);

		if (e) {
			r->stats.nested_tlb_hits++;
			s->used_cached = true;
			*to = (struct machine_address){e->value | (gpa_v & 0xfff), e->rights, 12, true};
			return XLATE_OK;
		}
		r->stats.nested_tlb_misses++;
	}
	ev = ept_walk(s, gpa_v, kind, of_table, to);
	if (ev || !nested_tlb)
		return ev;
	key.value = to->at & PAGE_MASK;
	key.rights = to->rights;
	array_enter(r, &r->nested_tlb, key.key, &key);
	return XLATE_OK;
}

/* ---- rights of the guest's tables (SDM "Determination of Access Rights") ---- */

static bool long_mode(const struct ref_model *r) { return r->regs.efer & EFER_LMA; }
static bool user_mode(enum access_mode m) { return m == MODE_USER || m == MODE_USER_ALIGN; }

static bool key_allows(const struct ref_model *r, uint16_t rights, unsigned pkey, enum access_kind kind,
		       enum access_mode mode)
{
	bool access_disabled = r->regs.pkru >> (2 * pkey) & 1, write_disabled = r->regs.pkru >> (2 * pkey + 1) & 1;

	if (!long_mode(r) || !(r->regs.cr4 & CR4_PKE) || !(rights & TLB_U) || kind == ACCESS_FETCH)
		return true;
	if (access_disabled)
		return false;
	return !(kind == ACCESS_WRITE && write_disabled && (user_mode(mode) || (r->regs.cr0 & CR0_WP)));
}

static bool mode_allows(const struct ref_model *r, uint16_t rights, enum access_kind kind, enum access_mode mode)
{
	bool user_page = rights & TLB_U, user = user_mode(mode);

	if (user && !user_page)
		return false;
	if (kind == ACCESS_FETCH)
		return !(rights & TLB_NX) && (user || !user_page || !(r->regs.cr4 & CR4_SMEP));
	if (!user && user_page && (r->regs.cr4 & CR4_SMAP) && mode != MODE_SUPER_AC)
		return false;
	if (kind == ACCESS_WRITE && !(rights & TLB_W))
		return !user && !(r->regs.cr0 & CR0_WP);
	return true;
}

static enum xlate_event page_fault(struct search *s, uint32_t cause)
{
	const struct mmu_regs *g = &s->r->regs;
	uint32_t code = cause;

	if (s->kind == ACCESS_WRITE)
		code |= PF_W;
	if (user_mode(s->mode))
		code |= PF_U;
	if (s->kind == ACCESS_FETCH && ((g->cr4 & CR4_SMEP) || ((g->cr4 & CR4_PAE) && (g->efer & EFER_NXE))))
		code |= PF_I;
	s->out->error_code = code;
	return XLATE_PAGE_FAULT;
}

/* ---- the guest's tables ---- */

/* The paging mode, as numbers. */
struct geometry {
	unsigned top;         /* level of the root's entries */
	unsigned entry_bytes;
	unsigned format;      /* names the mode in tags */
};

static struct geometry geometry_of(const struct ref_model *r)
{
	if (long_mode(r))
		return r->regs.cr4 & CR4_LA57 ? (struct geometry){5, 8, 5} : (struct geometry){4, 8, 4};
	return r->regs.cr4 & CR4_PAE ? (struct geometry){2, 8, 3} : (struct geometry){2, 4, 2};
}

static unsigned shift_of(const struct geometry *g, unsigned level)
{
	return 12 + (g->entry_bytes == 4 ? 10 : 9) * (level - 1);
}

static bool is_page(const struct ref_model *r, const struct geometry *g, unsigned level, uint64_t e)
{
	if (level == 1)
		return true;
	if (g->entry_bytes == 4)
		return (e & PTE_PS) && (r->regs.cr4 & CR4_PSE);
	return level <= 3 && (e & PTE_PS);
}

static bool reserved_bit_set(const struct ref_model *r, const struct geometry *g, unsigned level, uint64_t e)
{
	if (g->entry_bytes == 4) {
		uint64_t mask = BIT64(21);

		/* Bits 20:13 hold address bits 39:32; those that the processor has not are reserved. */
		for (unsigned address_bit = 32; address_bit < 40; address_bit++)
			if (address_bit >= r->maxphyaddr)
				mask |= BIT64(address_bit - 32 + 13);
		return level == 2 && is_page(r, g, level, e) && (e & mask);
	}
	if (e & above_maxphyaddr(r))
		return true;
	if ((e & PTE_NX) && !(r->regs.efer & EFER_NXE))
		return true;
	if (g->format == 3 && (e & 0x7ff0000000000000ull)) /* PAE: 62:52 */
		return true;
	if (level == 1 || !(e & PTE_PS))
		return false;
	if (level >= 4 || (level == 3 && !r->pages_1g))
		return true;
	return e & (level == 3 ? 0x3fffe000u : 0x1fe000u);
}

static uint64_t page_address(const struct geometry *g, unsigned level, uint64_t e)
{
	if (g->entry_bytes == 4 && level == 2)
		return (e & 0xffc00000) + ((e >> 13 & 0xff) << 32);
	return e & PTE_ADDR_MASK & ~(BIT64(shift_of(g, level)) - 1);
}

/* Sets accessed (and dirty) flags in a guest entry: a write to a page that EPT must allow. */
static enum xlate_event set_flags(struct search *s, const struct geometry *g, uint64_t entry_gpa,
				  const struct machine_address *entry, uint64_t flags)
{
	if (s->r->regs.nested && !(entry->rights & TLB_EPT_W))
		return violation(s, entry_gpa, EPT_VIOL_WRITE | tlb_rights_to_ept(entry->rights) << 3);
	set_bits(s->r, entry->at, flags, g->entry_bytes);
	return XLATE_OK;
}

static enum xlate_event guest_leaf(struct search *s, const struct geometry *g, unsigned level, uint64_t e,
				   uint64_t entry_gpa, const struct machine_address *entry, uint16_t rights,
				   struct ref_entry *t)
{
	struct ref_model *r = s->r;
	uint64_t flags = PTE_A | (s->kind == ACCESS_WRITE ? PTE_D : 0);
	unsigned shift = shift_of(g, level);
	struct machine_address final;
	enum xlate_event ev;

	t->pkey = e >> 59 & 15;
	if (!key_allows(r, rights, t->pkey, s->kind, s->mode))
		return page_fault(s, PF_P | PF_PK);
	if (!mode_allows(r, rights, s->kind, s->mode))
		return page_fault(s, PF_P);
	if ((e & flags) != flags) {
		ev = set_flags(s, g, entry_gpa, entry, flags);
		if (ev)
			return ev;
	}
	ev = to_machine(s, page_address(g, level, e) + (s->lin & (BIT64(shift) - 1)), s->kind, false, &final);
	if (ev)
		return ev;
	if (((e | flags) & PTE_D) && final.dirty)
		rights |= TLB_D;
	if ((e & PTE_G) && (r->regs.cr4 & CR4_PGE))
		rights |= TLB_G;
	t->guest_shift = shift;
	t->shift = final.shift < shift ? final.shift : shift == 22 ? 21 : shift;
	t->rights = rights | final.rights;
	t->value = final.at & PAGE_MASK;
	return XLATE_OK;
}

/* Where the walk begins: the longest prefix that the split caches hold, or the root. */
static bool walk_start(struct search *s, const struct geometry *g, unsigned *level, uint64_t *table, uint16_t *rights,
		       struct ref_entry *hit)
{
	struct ref_model *r = s->r;
	*level = g->top;
	*rights = TLB_W | TLB_U;
	*hit = (struct ref_entry){0};
	*table = r->regs.cr3 & (g->entry_bytes == 4 ? 0xfffff000u : PTE_ADDR_MASK);
	if (g->format == 3) { /* PDPTEs are registers: what they say is never cached */
		uint64_t pdpte = r->regs.pdpte[s->lin >> 30 & 3];

		*table = pdpte & PTE_ADDR_MASK;
		if (!(pdpte & PTE_P))
			return false;
	}
	for (unsigned l = 2; r->hw.walk_caches == HW_WALK_SPLIT && !s->no_caches && l <= g->top; l++) {
		struct ref_entry key = known_of_linear(r, s->lin, shift_of(g, l)), *e;

		key.format = g->format + 1000 * ept_format(r);
		e = array_use(r, &r->guest[l], key.key, &key);
		if (!e)
			continue;
		s->used_cached = true;
		r->stats.walk_cache_hits[STAGE_GUEST][l]++;
		*hit = *e;
		*level = l - 1;
		*rights = e->rights;
		return true;
	}
	if (!s->no_caches && any_exists(r->guest))
		r->stats.walk_cache_misses[STAGE_GUEST]++;
	return true;
}

static enum xlate_event guest_walk(struct search *s, struct ref_entry *t)
{
	struct ref_model *r = s->r;
	struct geometry g = geometry_of(r);
	struct ref_entry hit, followed = {0};
	unsigned level;
	uint64_t table = 0;
	uint16_t rights;

	if (!walk_start(s, &g, &level, &table, &rights, &hit))
		return page_fault(s, 0);
	for (;; level--) {
		unsigned shift = shift_of(&g, level);
		uint64_t index = s->lin >> shift & (g.entry_bytes == 4 ? 1023 : 511), e = 0, entry_gpa;
		struct machine_address entry;
		struct ref_entry key;
		bool cached;
		enum xlate_event ev;

		if (hit.valid) {
			/* The table's machine address is known: no EPT walk for it. */
			entry = (struct machine_address){hit.value + index * g.entry_bytes, hit.table_rights, 12, true};
			entry_gpa = hit.table_gpa + index * g.entry_bytes;
			hit.valid = false;
		} else {
			entry_gpa = table + index * g.entry_bytes;
			ev = to_machine(s, entry_gpa, ACCESS_READ, true, &entry);
			if (ev)
				return ev;
		}
		if (followed.valid) {
			followed.value = entry.at & PAGE_MASK;
			followed.table_rights = entry.rights;
			array_enter(r, &r->guest[level + 1], followed.key, &followed);
		}
		key = known_of_linear(r, s->lin, shift);
		key.key = entry.at;
		key.format = g.format + 1000 * ept_format(r);
		cached = level > 1 && unified_lookup(s, &key, STAGE_GUEST, level, 0, &e);
		if (!cached) {
			count_reference(s, STAGE_GUEST, entry.at);
			e = g.entry_bytes == 8 ? machmem_read64(r->mem, hpa(entry.at))
					       : machmem_read32(r->mem, hpa(entry.at));
		}
		if (!(e & PTE_P))
			return page_fault(s, 0);
		if (reserved_bit_set(r, &g, level, e))
			return page_fault(s, PF_P | PF_RSVD);
		if (!(e & PTE_W))
			rights &= (uint16_t)~TLB_W;
		if (!(e & PTE_U))
			rights &= (uint16_t)~TLB_U;
		if (g.entry_bytes == 8 && (e & PTE_NX))
			rights |= TLB_NX;
		if (is_page(r, &g, level, e))
			return guest_leaf(s, &g, level, e, entry_gpa, &entry, rights, t);
		if (!(e & PTE_A)) {
			ev = set_flags(s, &g, entry_gpa, &entry, PTE_A);
			if (ev)
				return ev;
		}
		if (!cached && r->hw.unified_guest)
			unified_enter(s, &key, STAGE_GUEST, e | PTE_A);
		table = e & (g.entry_bytes == 4 ? 0xfffff000u : PTE_ADDR_MASK);
		followed = known_of_linear(r, s->lin, shift);
		followed.valid = r->hw.walk_caches == HW_WALK_SPLIT;
		followed.format = g.format + 1000 * ept_format(r);
		followed.table_gpa = table;
		followed.rights = rights;
	}
}

static enum xlate_event physical_walk(struct search *s, struct ref_entry *t)
{
	struct machine_address to;
	enum xlate_event ev = to_machine(s, s->lin, s->kind, false, &to);

	if (ev)
		return ev;
	t->shift = t->guest_shift = to.shift;
	t->rights = TLB_W | TLB_U | to.rights | (to.dirty ? TLB_D : 0);
	t->value = to.at & PAGE_MASK;
	t->pkey = 0;
	return XLATE_OK;
}

static void before_repeat(struct ref_model *r, enum xlate_event ev, uint64_t lin, bool physical,
			  const struct xlate *x);
static void after_event(struct ref_model *r, enum xlate_event ev, uint64_t lin, const struct xlate *x);
static void after_physical_event(struct ref_model *r, enum xlate_event ev, const struct xlate *x);

/* Without anything cached, and without any effect: does the walk end so, too? */
static bool tables_say_so(const struct search *s, enum xlate_event (*tables)(struct search *, struct ref_entry *),
			  enum xlate_event ev)
{
	struct xlate out = {0};
	struct search asked = {.r = s->r, .lin = s->lin, .kind = s->kind, .mode = s->mode, .out = &out, .no_caches = true};
	struct ref_entry t = {0};
	enum xlate_event theirs;

	s->r->asking = true;
	s->r->would_set = false;
	theirs = tables(&asked, &t);
	s->r->asking = false;
	if (theirs != ev || s->r->would_set)
		return false;
	if (ev == XLATE_PAGE_FAULT)
		return out.error_code == s->out->error_code;
	if (ev == XLATE_EPT_VIOLATION && out.qualification != s->out->qualification)
		return false;
	return out.gpa.v == s->out->gpa.v;
}

/* From the tables; t->value is the 4 KiB page of the address. */
static enum xlate_event walk(struct ref_model *r, uint64_t lin, enum access_kind kind, enum access_mode mode,
			     bool physical, struct xlate *out, struct ref_entry *t)
{
	struct search s = {.r = r, .lin = lin, .kind = kind, .mode = mode, .out = out};
	enum xlate_event (*tables)(struct search *, struct ref_entry *) = physical ? physical_walk : guest_walk;
	enum xlate_event ev = tables(&s, t);

	if (ev && s.used_cached && !tables_say_so(&s, tables, ev)) {
		before_repeat(r, ev, lin, physical, out);
		r->stats.repeated++;
		s.no_caches = true;
		ev = tables(&s, t);
	}
	if (!physical || r->regs.nested) {
		r->stats.walks++;
		r->stats.refs += s.refs;
		r->stats.by_refs[s.refs < WALK_REFS_MAX ? s.refs : WALK_REFS_MAX]++;
		if (s.refs > r->stats.refs_max)
			r->stats.refs_max = s.refs;
	}
	if (!ev)
		out->page = hpa(t->value);
	return ev;
}

enum xlate_event ref_translate_gpa(struct ref_model *r, uint64_t gpa_v, enum access_kind kind, struct xlate *out)
{
	struct ref_entry t = {0};
	enum xlate_event ev = walk(r, gpa_v, kind, MODE_IMPLICIT, true, out, &t);

	after_physical_event(r, ev, out);
	return ev;
}

/* ---- TLBs ---- */

static const unsigned page_shifts[HW_PAGES] = {12, 21, 30}; /* by bit of enum hw_page */

static struct ref_array *tlb_array_for(struct ref_tlb *t, unsigned page)
{
	for (unsigned i = 0; i < t->arrays; i++)
		if (t->pages[i] & 1u << page)
			return &t->array[i];
	return NULL;
}

static struct ref_entry *tlb_lookup(struct ref_model *r, struct ref_tlb *t, uint64_t lin)
{
	for (unsigned page = 0; page < HW_PAGES; page++) {
		struct ref_array *a = tlb_array_for(t, page);
		uint64_t number = lin >> page_shifts[page];
		struct ref_entry key = known_of_linear(r, lin, page_shifts[page]), *e;

		e = a ? array_find(a, number, &key) : NULL;
		if (e)
			return e;
	}
	return NULL;
}

/* @t: a translation of @lin's 4 KiB page that is good for 2^shift bytes. The largest piece that the TLB takes. */
static void tlb_enter(struct ref_model *r, struct ref_tlb *tlb, const struct ref_entry *t, uint64_t lin)
{
	for (unsigned page = HW_PAGES; page-- > 0;) {
		unsigned shift = page_shifts[page];
		struct ref_array *a = tlb_array_for(tlb, page);
		struct ref_entry e = *t;

		if (!a || shift > t->shift)
			continue;
		e.shift = shift;
		e.key = lin >> shift;
		e.address = lin;
		e.value = t->value & ~(BIT64(shift) - 1);
		if (shift < e.guest_shift)
			r->stats.splintered++;
		array_enter(r, a, e.key, &e);
		return;
	}
}

static bool permits(const struct ref_model *r, const struct ref_entry *e, enum access_kind kind,
		    enum access_mode mode)
{
	if (!(tlb_rights_to_ept(e->rights) & ept_need(r, kind, false)))
		return false;
	if (kind == ACCESS_WRITE && !(e->rights & TLB_D))
		return false;
	if (!(r->regs.cr0 & CR0_PG))
		return true;
	return mode_allows(r, e->rights, kind, mode) && key_allows(r, e->rights, e->pkey, kind, mode);
}

static void drop_translation(struct ref_model *r, uint64_t lin)
{
	struct ref_tlb *tlb[] = {&r->l1d, &r->l1i, &r->l2d, &r->l2i};
	struct ref_entry *e;

	for (unsigned i = 0; i < ARRAY_SIZE(tlb); i++)
		while ((e = tlb_lookup(r, tlb[i], lin)))
			e->valid = false;
}

static uint64_t page_of(const struct ref_entry *e, uint64_t lin)
{
	return e->value + (lin & (BIT64(e->shift) - 1) & PAGE_MASK);
}

/* Does RAM begin or end inside? Then 4 KiB are all that can be known at once. */
static bool ram_and_devices(const struct ref_model *r, uint64_t page, unsigned shift)
{
	uint64_t base = page & ~(BIT64(shift) - 1), end = base + BIT64(shift);

	for (unsigned i = 0; i < r->mem->ranges; i++) {
		uint64_t from = r->mem->range[i].base, to = from + r->mem->range[i].bytes;

		if ((from > base && from < end) || (to > base && to < end))
			return true;
	}
	return false;
}

static enum xlate_event miss(struct ref_model *r, struct ref_tlb *l1, struct ref_tlb *l2, uint64_t lin,
			     enum access_kind kind, enum access_mode mode, struct xlate *out, uint16_t *rights)
{
	struct ref_entry t = known_of_linear(r, lin, 12);
	enum xlate_event ev = walk(r, lin, kind, mode, !(r->regs.cr0 & CR0_PG), out, &t);

	if (ev) {
		after_event(r, ev, lin, out);
		return ev;
	}
	if (ram_and_devices(r, t.value, t.shift))
		t.shift = 12;
	if (!machmem_is_ram(r->mem, out->page))
		t.rights |= TLB_MMIO;
	t.global = t.rights & TLB_G;
	tlb_enter(r, l2, &t, lin);
	tlb_enter(r, l1, &t, lin);
	*rights = t.rights;
	return XLATE_OK;
}

enum xlate_event ref_translate(struct ref_model *r, uint64_t lin, enum access_kind kind, enum access_mode mode,
			       struct xlate *out, uint16_t *rights)
{
	bool fetch = kind == ACCESS_FETCH;
	struct ref_tlb *l1 = fetch ? &r->l1i : &r->l1d, *l2 = fetch && r->hw.l2_split ? &r->l2i : &r->l2d;
	struct ref_entry *e;

	if (!(r->regs.cr0 & CR0_PG) && !r->regs.nested) {
		out->page = hpa(lin & PAGE_MASK);
		*rights = TLB_W | TLB_U | TLB_D | TLB_EPT_RWX | (machmem_is_ram(r->mem, hpa(lin)) ? 0 : TLB_MMIO);
		return XLATE_OK;
	}
	e = tlb_lookup(r, l1, lin);
	if (e && !permits(r, e, kind, mode)) {
		drop_translation(r, lin);
		e = NULL;
	}
	if (e) {
		e->used = ++r->now;
		out->page = hpa(page_of(e, lin));
		*rights = e->rights;
		return XLATE_OK;
	}
	*(fetch ? &r->stats.l1i_misses : &r->stats.l1d_misses) += 1;
	e = tlb_lookup(r, l2, lin);
	if (e && !permits(r, e, kind, mode)) {
		drop_translation(r, lin);
		e = NULL;
	}
	if (e) {
		struct ref_entry copy = *e;

		*(fetch ? &r->stats.l2i_hits : &r->stats.l2d_hits) += 1;
		e->used = ++r->now;
		copy.value = page_of(e, lin);
		out->page = hpa(copy.value);
		*rights = copy.rights;
		tlb_enter(r, l1, &copy, lin);
		return XLATE_OK;
	}
	*(fetch ? &r->stats.l2i_misses : &r->stats.l2d_misses) += 1;
	return miss(r, l1, l2, lin, kind, mode, out, rights);
}

enum xlate_event ref_translate_logged(struct ref_model *r, uint64_t lin, enum access_kind kind, enum access_mode mode,
				      struct xlate *out, uint16_t *rights)
{
	bool fetch = kind == ACCESS_FETCH;

	if (!(r->regs.cr0 & CR0_PG) && !r->regs.nested)
		return ref_translate(r, lin, kind, mode, out, rights);
	drop_translation(r, lin);
	*(fetch ? &r->stats.l1i_misses : &r->stats.l1d_misses) += 1;
	*(fetch ? &r->stats.l2i_misses : &r->stats.l2d_misses) += 1;
	return miss(r, fetch ? &r->l1i : &r->l1d, fetch && r->hw.l2_split ? &r->l2i : &r->l2d, lin, kind, mode, out,
		    rights);
}

/* ---- invalidations (SDM "Operations that Invalidate TLBs and Paging-Structure Caches") ---- */

/* Would it be used for @lin? */
static bool serves(const struct ref_entry *e, uint64_t lin) { return e->address >> e->shift == lin >> e->shift; }

/* Is it of the page of @lin? What the tables map as one page goes as a whole, also if several entries hold it. */
static bool concerns(const struct ref_entry *e, bool tlb, uint64_t lin)
{
	unsigned shift = tlb && e->guest_shift > e->shift ? e->guest_shift : e->shift;

	return e->address >> shift == lin >> shift;
}

typedef bool (*question)(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
			 uint64_t lin);

static void invalidate(struct ref_model *r, question drops, uint64_t about, uint64_t lin)
{
	struct everything all = everything_of(r);

	for (unsigned i = 0; i < all.arrays; i++) {
		for (unsigned n = 0; n < all.array[i]->sets * all.array[i]->ways; n++) {
			struct ref_entry *e = &all.array[i]->entry[n];

			if (e->valid && drops(r, e, all.tlb[i], about, lin))
				e->valid = false;
		}
	}
	r->stats.flushes++;
}

static bool of_current_vpid(const struct ref_model *r, const struct ref_entry *e)
{
	return e->kind == REF_LINEAR_OR_COMBINED && e->vpid == r->regs.vpid;
}

/*
 * INVLPG: "any TLB entries that are for a page number corresponding to the linear address and that are
 * associated with the current PCID. It also invalidates any global TLB entries with that page number,
 * regardless of PCID. It also invalidates all entries in all paging-structure caches associated with the
 * current PCID, regardless of the linear addresses to which they correspond."
 */
static bool invlpg(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about, uint64_t lin)
{
	(void)about;
	if (!of_current_vpid(r, e))
		return false;
	if (!tlb)
		return e->pcid == current_pcid(r);
	return (e->pcid == current_pcid(r) || e->global) && concerns(e, tlb, lin);
}

/* INVPCID 0: of the linear address and the PCID, "except global translations". */
static bool invpcid_address(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t pcid,
			    uint64_t lin)
{
	return of_current_vpid(r, e) && e->pcid == pcid && !e->global && concerns(e, tlb, lin);
}

/* INVPCID 1, MOV CR3: all of the PCID "except global translations". */
static bool invpcid_single(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t pcid,
			   uint64_t lin)
{
	(void)tlb, (void)lin;
	return of_current_vpid(r, e) && e->pcid == pcid && !e->global;
}

/* INVPCID 3 */
static bool invpcid_all_but_global(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
				   uint64_t lin)
{
	(void)tlb, (void)about, (void)lin;
	return of_current_vpid(r, e) && !e->global;
}

/* INVVPID 1: "all linear mappings and combined mappings associated with the VPID ... for all PCIDs". */
static bool invvpid_single(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t vpid,
			   uint64_t lin)
{
	(void)r, (void)tlb, (void)lin;
	return e->kind == REF_LINEAR_OR_COMBINED && e->vpid == vpid;
}

/* INVVPID 3 */
static bool invvpid_keep_globals(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t vpid,
				 uint64_t lin)
{
	return invvpid_single(r, e, tlb, vpid, lin) && !e->global;
}

/* INVVPID 0 */
static bool invvpid_address(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t vpid,
			    uint64_t lin)
{
	return invvpid_single(r, e, tlb, vpid, lin) && concerns(e, tlb, lin);
}

/* INVVPID 2: of "all VPIDs except VPID 0000H". */
static bool invvpid_all(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
			uint64_t lin)
{
	(void)r, (void)tlb, (void)about, (void)lin;
	return e->kind == REF_LINEAR_OR_COMBINED && e->vpid != 0;
}

/* INVEPT 1: "all guest-physical mappings and combined mappings associated with the EP4TA", of all VPIDs and PCIDs. */
static bool invept_single(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t ep4ta,
			  uint64_t lin)
{
	(void)r, (void)tlb, (void)lin;
	return e->ep4ta && e->ep4ta == ep4ta;
}

/* INVEPT 2: of all EP4TAs. What was made without EPT stays. */
static bool invept_all(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
		       uint64_t lin)
{
	(void)r, (void)tlb, (void)about, (void)lin;
	return e->ep4ta;
}

/*
 * EPT violations: "any guest-physical mappings (associated with the current EP4TA) that would be used to
 * translate the guest-physical address that caused the EPT violation. If that guest-physical address was the
 * translation of a linear address, ... also any combined mappings for that linear address associated with the
 * current PCID, the current VPID and the current EP4TA."
 */
static bool ept_violated_gpa(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
			     uint64_t gpa_v)
{
	(void)tlb, (void)about;
	return e->kind == REF_GUEST_PHYSICAL && e->ep4ta == current_ep4ta(r) && serves(e, gpa_v);
}

static bool ept_violated_gva(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
			     uint64_t lin)
{
	(void)tlb, (void)about;
	return of_current_vpid(r, e) && e->ep4ta && e->ep4ta == current_ep4ta(r) &&
	       (e->pcid == current_pcid(r) || e->global) && serves(e, lin);
}

/*
 * Page faults: "any TLB entries that are for a page number corresponding to that linear address and that are
 * associated with the current PCID. It also invalidates all entries in the paging-structure caches that would
 * be used for that linear address and that are associated with the current PCID."
 */
static bool page_faulted(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
			 uint64_t lin)
{
	(void)tlb, (void)about;
	return of_current_vpid(r, e) && (e->pcid == current_pcid(r) || e->global) && serves(e, lin);
}

/* As by INVPCID 1, globals too. */
static bool of_pcid(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t pcid, uint64_t lin)
{
	(void)tlb, (void)lin;
	return of_current_vpid(r, e) && e->pcid == pcid;
}

static bool whatever(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
		     uint64_t lin)
{
	(void)r, (void)e, (void)tlb, (void)about, (void)lin;
	return true;
}

/* What hardware drops by itself is no invalidation that software asked for. */
static void invalidate_silently(struct ref_model *r, question drops, uint64_t address)
{
	invalidate(r, drops, 0, address);
	r->stats.flushes--;
}

/* What of walk caches and nested TLB led to an event that may not be the tables'. */
static bool stale_structure(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
			    uint64_t lin)
{
	return !tlb && of_current_vpid(r, e) && e->ep4ta == current_ep4ta(r) && page_faulted(r, e, tlb, about, lin);
}

static bool stale_nested(const struct ref_model *r, const struct ref_entry *e, bool tlb, uint64_t about,
			 uint64_t gpa_v)
{
	return !tlb && ept_violated_gpa(r, e, tlb, about, gpa_v);
}

static void before_repeat(struct ref_model *r, enum xlate_event ev, uint64_t lin, bool physical,
			  const struct xlate *x)
{
	if (!physical)
		invalidate_silently(r, stale_structure, lin);
	if (ev != XLATE_PAGE_FAULT)
		invalidate_silently(r, stale_nested, x->gpa.v);
}

static void after_physical_event(struct ref_model *r, enum xlate_event ev, const struct xlate *x)
{
	if (ev == XLATE_EPT_VIOLATION)
		invalidate_silently(r, ept_violated_gpa, x->gpa.v);
}

static void after_event(struct ref_model *r, enum xlate_event ev, uint64_t lin, const struct xlate *x)
{
	bool paging = r->regs.cr0 & CR0_PG;

	after_physical_event(r, ev, x);
	if (ev == XLATE_EPT_VIOLATION && paging && x->qualification & EPT_VIOL_FINAL)
		invalidate_silently(r, ept_violated_gva, lin);
	if (ev == XLATE_PAGE_FAULT)
		invalidate_silently(r, page_faulted, lin);
}

void ref_flush_page(struct ref_model *r, uint64_t lin) { invalidate(r, invlpg, 0, lin); }
void ref_flush_pcid_page(struct ref_model *r, unsigned pcid, uint64_t lin)
{
	invalidate(r, invpcid_address, pcid, lin);
}

void ref_flush_pcid(struct ref_model *r, unsigned pcid) { invalidate(r, invpcid_single, pcid, 0); }
void ref_flush_nonglobal(struct ref_model *r) { invalidate(r, invpcid_all_but_global, 0, 0); }
void ref_flush_vpid_all(struct ref_model *r, unsigned vpid) { invalidate(r, invvpid_single, vpid, 0); }
void ref_flush_vpid_keep_globals(struct ref_model *r, unsigned vpid)
{
	invalidate(r, invvpid_keep_globals, vpid, 0);
}

void ref_flush_vpid_page(struct ref_model *r, unsigned vpid, uint64_t lin)
{
	invalidate(r, invvpid_address, vpid, lin);
}

void ref_flush_all_vpids(struct ref_model *r) { invalidate(r, invvpid_all, 0, 0); }
void ref_flush_ept(struct ref_model *r, uint64_t eptp, bool all)
{
	invalidate(r, all ? invept_all : invept_single, eptp & EPT_ADDR_MASK, 0);
}
void ref_flush_pcid_all(struct ref_model *r, unsigned pcid) { invalidate(r, of_pcid, pcid, 0); }
void ref_flush_everything(struct ref_model *r) { invalidate(r, whatever, 0, 0); }
