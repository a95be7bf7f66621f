/*
 * What every loader shares: finding out the format, giving out guest RAM without
 * overlaps, and the two processor states in which kernels are entered.
 */
#include "vm/load.h"
#include <errno.h>
#include <inttypes.h>

const char *const load_format_name[] = {
	[LOAD_UNKNOWN] = "unknown",
	[LOAD_BZIMAGE] = "Linux bzImage",
	[LOAD_MULTIBOOT] = "multiboot",
	[LOAD_PVH] = "ELF with a PVH note",
};

enum load_format load_detect(const struct blob *kernel)
{
	if (load_is_bzimage(kernel))
		return LOAD_BZIMAGE;
	if (load_is_multiboot(kernel))
		return LOAD_MULTIBOOT;
	if (load_is_pvh(kernel))
		return LOAD_PVH;
	return LOAD_UNKNOWN;
}

/* Says what an image that is none of ours looks like. */
static int load_unknown(const struct blob *k, struct error *err)
{
	const char *guess = "no Linux bzImage, multiboot or PVH ELF kernel";

	if (k->bytes < 1024)
		guess = "truncated or no kernel (less than 1 KiB)";
	else if (memcmp(k->data, "\177ELF", 4) == 0)
		guess = "an ELF without a multiboot header and without a PVH entry note";
	else if (memcmp(k->data, "\x1f\x8b", 2) == 0)
		guess = "gzip data: unpack it first";
	return error_set(err, -ENOEXEC, "kernel '%s': %s", k->name, guess);
}

int load_kernel(const struct load_request *rq, struct error *err)
{
	switch (load_detect(&rq->kernel)) {
	case LOAD_BZIMAGE:
		return load_linux_bzimage(rq, err);
	case LOAD_MULTIBOOT:
		return load_multiboot(rq, err);
	case LOAD_PVH:
		return load_elf_pvh(rq, err);
	case LOAD_UNKNOWN:
		break;
	}
	return load_unknown(&rq->kernel, err);
}

/* ---- giving out RAM ---- */

void load_space_init(struct load_space *s, uint64_t memory)
{
	memmap_build(&s->map, memory);
	s->takens = 0;
}

static bool space_usable(const struct load_space *s, uint64_t base, uint64_t bytes)
{
	for (unsigned i = 0; i < s->map.count; i++) {
		const struct memmap_entry *e = &s->map.entry[i];

		if (e->type == MEMMAP_USABLE && base >= e->base && base - e->base <= e->bytes &&
		    bytes <= e->bytes - (base - e->base))
			return true;
	}
	return false;
}

/* What overlaps [base, base + bytes), which is known not to wrap. NULL if nothing. */
static const struct load_taken *space_overlap(const struct load_space *s, uint64_t base, uint64_t bytes)
{
	for (unsigned i = 0; i < s->takens; i++) {
		const struct load_taken *t = &s->taken[i];

		if (base < t->base + t->bytes && t->base < base + bytes)
			return t;
	}
	return NULL;
}

static int space_add(struct load_space *s, uint64_t base, uint64_t bytes, const char *what, const char *name,
		     struct error *err)
{
	if (s->takens == LOAD_TAKEN_MAX)
		return error_set(err, -ENOEXEC, "'%s': more than %d pieces to load", name, LOAD_TAKEN_MAX);
	s->taken[s->takens++] = (struct load_taken){base, bytes, what};
	return 0;
}

int load_space_take(struct load_space *s, uint64_t base, uint64_t bytes, const char *what, const char *name,
		    struct error *err)
{
	const struct load_taken *t;

	if (!space_usable(s, base, bytes))
		return error_set(err, -ENOSPC,
				 "'%s': the %s (%" PRIu64 " KiB at %#" PRIx64 ") does not fit in the guest's RAM", name,
				 what, (bytes + 1023) >> 10, base);
	t = space_overlap(s, base, bytes);
	if (t)
		return error_set(err, -ENOSPC, "'%s': the %s at %#" PRIx64 " overlaps the %s at %#" PRIx64, name, what,
				 base, t->what, t->base);
	return space_add(s, base, bytes, what, name, err);
}

/* The best place in one usable range, given that each overlap moves the candidate past what is in the way. */
static bool space_find_in(const struct load_space *s, const struct load_want *w, uint64_t lo, uint64_t hi,
			  uint64_t *base)
{
	const struct load_taken *t;
	uint64_t at;

	if (hi <= lo || w->bytes > hi - lo)
		return false;
	at = w->high ? (hi - w->bytes) & ~(w->align - 1) : (lo + w->align - 1) & ~(w->align - 1);
	while (at >= lo && at <= hi && w->bytes <= hi - at) {
		t = space_overlap(s, at, w->bytes);
		if (!t) {
			*base = at;
			return true;
		}
		if (w->high && t->base < w->bytes)
			return false;
		at = w->high ? (t->base - w->bytes) & ~(w->align - 1)
			     : (t->base + t->bytes + w->align - 1) & ~(w->align - 1);
	}
	return false;
}

int load_space_find(struct load_space *s, const struct load_want *w, const char *name, uint64_t *base,
		    struct error *err)
{
	for (unsigned i = 0; i < s->map.count; i++) {
		const struct memmap_entry *e = &s->map.entry[w->high ? s->map.count - 1 - i : i];

		if (e->type == MEMMAP_USABLE &&
		    space_find_in(s, w, max_u64(e->base, w->min), min_u64(e->base + e->bytes, w->max), base))
			return space_add(s, *base, w->bytes, w->what, name, err);
	}
	return error_set(err, -ENOSPC,
			 "'%s': no room for the %s (%" PRIu64 " KiB) between %#" PRIx64 " and %#" PRIx64
			 ": give the guest more --memory",
			 name, w->what, (w->bytes + 1023) >> 10, w->min, w->max);
}

int load_write(const struct load_request *rq, uint64_t base, const void *data, uint64_t bytes, const char *what,
	       struct error *err)
{
	int ret = bytes ? engine_mem_write(rq->vm, gpa(base), data, bytes) : 0;

	if (ret)
		return error_set(err, ret, "writing the %s to guest memory at %#" PRIx64 ": %s", what, base,
				 strerror(-ret));
	return 0;
}

/* ---- processor states ---- */

#define AR_CODE32 (SEG_AR_G | SEG_AR_DB | SEG_AR_P | SEG_AR_S | SEG_AR_CODE | SEG_AR_RW | SEG_AR_A)
#define AR_CODE64 (SEG_AR_G | SEG_AR_L | SEG_AR_P | SEG_AR_S | SEG_AR_CODE | SEG_AR_RW | SEG_AR_A)
#define AR_DATA   (SEG_AR_G | SEG_AR_DB | SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_A)
#define AR_TSS    (SEG_AR_P | 0xbu) /* busy 32- or 64-bit TSS: TR is never unusable */

/* A flat 4 GiB descriptor (SDM "Segment Descriptors") with the given attributes. */
static uint64_t flat_descriptor(uint32_t attr)
{
	return 0x000f00000000ffffull | (uint64_t)(attr & 0xff) << 40 | (uint64_t)(attr >> 12 & 0xf) << 52;
}

static struct seg flat_segment(uint16_t sel, uint32_t attr)
{
	return (struct seg){.sel = sel, .attr = attr, .limit = 0xffffffff, .base = 0};
}

/* Flat code at @cs and data in every other segment register, a TSS, no LDT, an empty IDT. */
static void set_flat_segments(struct engine_sregs *s, uint16_t cs, uint32_t code_attr, uint16_t ds, uint64_t gdt)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = flat_segment(ds, AR_DATA);
	s->seg[SEG_CS] = flat_segment(cs, code_attr);
	s->tr = (struct seg){.attr = AR_TSS, .limit = 0x67};
	s->ldt = (struct seg){.attr = SEG_AR_UNUSABLE};
	s->gdt = (struct dtable){.base = gdt, .limit = 31};
	s->idt = (struct dtable){0};
}

int load_enter_flat32(const struct load_request *rq, const struct load_entry32 *e, struct error *err)
{
	const uint64_t table[4] = {0, flat_descriptor(AR_CODE32), flat_descriptor(AR_DATA), 0};
	struct engine_regs r = {.rflags = RF_ONE};
	struct engine_sregs s;
	int ret = load_write(rq, e->gdt, table, sizeof(table), "GDT", err);

	if (ret)
		return ret;
	engine_get_sregs(rq->vm, &s);
	set_flat_segments(&s, 0x08, AR_CODE32, 0x10, e->gdt);
	s.cr0 = CR0_PE | CR0_ET;
	s.cr3 = s.cr4 = s.efer = 0;
	engine_set_sregs(rq->vm, &s);
	r.rip = e->eip;
	r.gpr[RAX] = e->eax;
	r.gpr[RBX] = e->ebx;
	engine_set_regs(rq->vm, &r);
	return 0;
}

/* Page tables at @boot: PML4, PDPT, four page directories of 2 MiB pages. */
static int write_identity_map(const struct load_request *rq, uint64_t boot, struct error *err)
{
	const uint64_t flags = PTE_P | PTE_W | PTE_A;
	uint64_t table[512] = {0};
	int ret;

	table[0] = (boot + PAGE_SIZE) | flags;
	ret = load_write(rq, boot, table, sizeof(table), "page tables", err);
	for (unsigned i = 0; i < 4; i++)
		table[i] = (boot + (2 + i) * PAGE_SIZE) | flags;
	if (ret == 0)
		ret = load_write(rq, boot + PAGE_SIZE, table, sizeof(table), "page tables", err);
	for (unsigned d = 0; ret == 0 && d < 4; d++) {
		for (unsigned i = 0; i < 512; i++)
			table[i] = (d * 512 + i) * SIZE_2M | flags | PTE_D | PTE_PS;
		ret = load_write(rq, boot + (2 + d) * PAGE_SIZE, table, sizeof(table), "page tables", err);
	}
	return ret;
}

int load_enter_long64(const struct load_request *rq, uint64_t rip, uint64_t rsi, uint64_t boot, struct error *err)
{
	const uint64_t gdt[4] = {0, 0, flat_descriptor(AR_CODE64), flat_descriptor(AR_DATA)};
	const uint64_t gdt_gpa = boot + 6 * PAGE_SIZE;
	struct engine_regs r = {.rflags = RF_ONE, .rip = rip};
	struct engine_sregs s;
	int ret;

	if (!rq->long_mode)
		return error_set(err, -EINVAL, "kernel '%s': is entered in 64-bit mode, and --cpu-features hides lm",
				 rq->kernel.name);
	ret = write_identity_map(rq, boot, err);
	if (ret == 0)
		ret = load_write(rq, gdt_gpa, gdt, sizeof(gdt), "GDT", err);
	if (ret)
		return ret;
	engine_get_sregs(rq->vm, &s);
	set_flat_segments(&s, 0x10, AR_CODE64, 0x18, gdt_gpa);
	s.cr0 = CR0_PE | CR0_ET | CR0_PG;
	s.cr3 = boot;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LME | EFER_LMA;
	engine_set_sregs(rq->vm, &s);
	r.gpr[RSI] = rsi;
	engine_set_regs(rq->vm, &r);
	return 0;
}
