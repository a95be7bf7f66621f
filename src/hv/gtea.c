/*
 * gTEAs: see gtea.h. A range that could not be made contiguous keeps its identifier, which then says nothing: the processor
 * translates addresses in it through the host's stage, as without.
 */
#include "hv/gtea.h"

#include "hv/core.h"
#include "hv/dirty.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int gteas_create(struct gteas **out, struct error *err)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : error_set(err, -ENOMEM, "gTEAs: out of memory");
}

void gteas_load(struct hv_vm *vm, const struct gteas *g)
{
	bool use = g && !(hv_tracks(vm) && vm->dirty.tracker->accesses);

	vmx_set_gteas(vm->cpu, use ? g->by_id : NULL, use ? PV_TEAS_MAX : 0);
}

/* Where all of the range is in one piece, or DMT_SCATTERED. */
static uint64_t machine_run(const struct hv_vm *vm, uint64_t first, uint64_t pages)
{
	mfn_t m, next;

	if (p2m_peek(vm, gfn(first), &m, NULL))
		return DMT_SCATTERED;
	for (uint64_t i = 1; i < pages; i++)
		if (p2m_peek(vm, gfn(first + i), &next, NULL) || next.v != m.v + i)
			return DMT_SCATTERED;
	return m.v << PAGE_SHIFT;
}

void gteas_request(struct hv_vm *vm, struct gteas *g, const struct pv_request *r)
{
	struct dmt_gtea *t;
	mfn_t m;

	if (r->op != PV_TEA_ALLOC && r->op != PV_TEA_FREE)
		return;
	t = &g->by_id[r->id - 1];
	*t = (struct dmt_gtea){.pages = 0};
	if (r->op == PV_TEA_ALLOC) {
		bool done = !p2m_make_run(vm, gfn(r->gpa >> PAGE_SHIFT), r->pages, 0, &m);

		*(done ? &vm->obs.pv.runs : &vm->obs.pv.runs_failed) += 1;
		*t = (struct dmt_gtea){.gpa = r->gpa, .pages = r->pages,
				       .machine = done ? m.v << PAGE_SHIFT : DMT_SCATTERED};
	}
	gteas_load(vm, g);
}

void gteas_p2m_changed(struct hv_vm *vm, struct gteas *g, gfn_t first, uint64_t frames)
{
	bool any = false;

	for (unsigned i = 0; g && i < PV_TEAS_MAX; i++) {
		struct dmt_gtea *t = &g->by_id[i];
		uint64_t at = t->gpa >> PAGE_SHIFT;

		if (!t->pages || t->machine == DMT_SCATTERED || at >= first.v + frames || first.v >= at + t->pages)
			continue;
		t->machine = machine_run(vm, at, t->pages);
		any = true;
	}
	if (any)
		gteas_load(vm, g);
}

bool gteas_audit(struct hv_vm *vm, const struct gteas *g, char *buf, size_t bytes)
{
	for (unsigned i = 0; g && i < PV_TEAS_MAX; i++) {
		const struct dmt_gtea *t = &g->by_id[i];
		const struct pv_range *asked = &vm->emul->pv.state.tea[i];

		if (t->gpa == asked->gpa && t->pages == asked->pages &&
		    (!t->pages || t->machine == DMT_SCATTERED || t->machine == machine_run(vm, t->gpa >> PAGE_SHIFT, t->pages)))
			continue;
		snprintf(buf, bytes, "gTEA %u: %llu pages of %llx at machine address %llx; the guest asked for %llu of %llx", i + 1,
			 (unsigned long long)t->pages, (unsigned long long)t->gpa, (unsigned long long)t->machine,
			 (unsigned long long)asked->pages, (unsigned long long)asked->gpa);
		return false;
	}
	return true;
}
