/*
 * Whose frames can the guest reach? A check of the tables as the hardware finds them
 * from the VMCS, whatever backend made them: every table is the hypervisor's, every
 * page it maps is a frame of this VM. What the tables say beyond that is the backend's
 * own audit.
 */
#include "base/bitmap.h"
#include "hv/core.h"
#include "hv/nested.h"

#include <stdio.h>
#include <stdlib.h>

struct ownership {
	const struct hv_vm *vm;
	uint64_t *seen;  /* a bit a machine frame: a table that was looked through already */
	bool ept;
	bool wide;       /* entries of 8 bytes; otherwise 4 */
	char *buf;
	size_t bytes;
};

static unsigned level_shift(const struct ownership *o, unsigned level)
{
	return PAGE_SHIFT + (o->wide ? 9 : 10) * (level - 1);
}

static bool owned(const struct ownership *o, uint64_t page, unsigned level)
{
	const struct hv_vm *vm = o->vm;
	uint64_t first = page >> PAGE_SHIFT, frames = 1ull << (level_shift(o, level) - PAGE_SHIFT);

	for (uint64_t f = first; f < first + frames; f++) {
		if (machmem_owner(vm->mem, mfn(f)) == vm->owner)
			continue;
		snprintf(o->buf, o->bytes, "a level-%u entry maps machine frame %llx, whose owner is %u instead of %u", level,
			 (unsigned long long)f, machmem_owner(vm->mem, mfn(f)), vm->owner);
		return false;
	}
	return true;
}

static bool is_present(const struct ownership *o, uint64_t e)
{
	return o->ept ? e & (EPT_R | EPT_W | EPT_X) : e & PTE_P;
}

/* PAE: PDPTEs have no page-size bit. */
static bool is_leaf(unsigned level, unsigned levels, uint64_t e)
{
	return level == 1 || (e & PTE_PS && !(levels == 3 && level == 3));
}

static bool check_table(const struct ownership *o, uint64_t table, unsigned level, unsigned levels)
{
	uint64_t frame = table >> PAGE_SHIFT, entries = levels == 3 && level == 3 ? 4 : o->wide ? 512 : 1024;
	const uint8_t *t = machmem_ptr(o->vm->mem, hpa(table));

	if (machmem_owner(o->vm->mem, mfn(frame)) != OWNER_HYPERVISOR) {
		snprintf(o->buf, o->bytes, "the level-%u table at %llx is not the hypervisor's", level, (unsigned long long)table);
		return false;
	}
	if (bitmap_has(o->seen, frame))
		return true;
	bitmap_set(o->seen, frame);
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t e = o->wide ? get_u64(t + 8 * i) : get_u32(t + 4 * i), to = e & PTE_ADDR_MASK;

		if (!is_present(o, e))
			continue;
		if (is_leaf(level, levels, e) ? !owned(o, to & (~0ull << level_shift(o, level)), level)
					      : !check_table(o, to, level - 1, levels))
			return false;
	}
	return true;
}

/* The root that VM entry would load, and how many levels hang from it; 0: no tables. */
static unsigned find_root(struct hv_vm *vm, struct ownership *o, uint64_t *root)
{
	uint64_t cr4 = hv_read(vm, VMCS_GUEST_CR4);

	o->wide = true;
	o->ept = hv_read(vm, VMCS_PROC_CTL2) & PROC2_EPT;
	if (o->ept) {
		*root = hv_read(vm, VMCS_EPTP) & PTE_ADDR_MASK;
		return (hv_read(vm, VMCS_EPTP) >> EPTP_WALK_SHIFT & 7) + 1;
	}
	*root = hv_read(vm, VMCS_GUEST_CR3) & PTE_ADDR_MASK;
	if (hv_core(vm)->by_emulation || !(hv_read(vm, VMCS_GUEST_CR0) & CR0_PG))
		return 0;
	if (hv_core(vm)->entry_ctl & ENTRY_IA32E)
		return cr4 & CR4_LA57 ? 5 : 4;
	*root = hv_read(vm, VMCS_GUEST_CR3) & 0xffffffe0;
	o->wide = cr4 & CR4_PAE;
	return o->wide ? 3 : 2;
}

/* Tables made from an inner hypervisor's EPT: the current VMCS names one of them at most, the others are kept for later. */
static bool check_composed(struct ownership *o)
{
	const struct hv_nested *n = o->vm->nested;

	o->ept = o->wide = true;
	for (unsigned i = 0; n && i < NESTED_EPTS; i++)
		if (n->ept02[i].used && !check_table(o, n->ept02[i].tables.root, n->ept02[i].tables.levels,
						      n->ept02[i].tables.levels))
			return false;
	return true;
}

bool hv_audit_owners(struct hv_vm *vm, char *buf, size_t bytes)
{
	struct ownership o = {.vm = vm, .buf = buf, .bytes = bytes};
	uint64_t root;
	unsigned levels = find_root(vm, &o, &root);
	bool ok;

	o.seen = calloc((vm->mem->span >> PAGE_SHIFT) / 64 + 1, sizeof(*o.seen));
	if (!o.seen) {
		snprintf(buf, bytes, "out of memory for the audit");
		return false;
	}
	ok = (!levels || check_table(&o, root, levels, levels)) && check_composed(&o);
	free(o.seen);
	return ok;
}
