/*
 * HugeGPT: nested paging for a guest that keeps its page tables in a few regions of 2 MiB and asks for large host pages
 * there (PV_HUGE). A guest table is then found by an EPT walk that ends a level early, so that a walk without caches makes
 * 20 references instead of 24. The backend is EPT; what is added is to honour the request: docs/hugegpt.md.
 *
 * Where the machine has no run of 512 free frames left the region stays as it is; that is counted, and asking again tries
 * again.
 */
#include "hv/ept.h"

static void back_region(struct hv_vm *vm, gfn_t first)
{
	mfn_t m;

	if (p2m_make_run(vm, first, 512, 9, &m))
		vm->obs.pv.huge_failed++;
	else
		vm->obs.pv.huge_regions++;
}

static void pv_done(struct hv_vm *vm, const struct pv_request *r)
{
	uint64_t first = r->gpa >> PAGE_SHIFT;

	for (uint64_t g = 0; r->op == PV_HUGE && g < r->pages; g += 512)
		back_region(vm, gfn(first + g));
}

const struct hv_mmu_ops hv_mmu_hugegpt = {
	.name = "hugegpt",
	.init = ept_init,
	.destroy = ept_destroy,
	EPT_GUEST_OPS,
	EPT_TABLE_OPS,
	.pv_done = pv_done,
};
