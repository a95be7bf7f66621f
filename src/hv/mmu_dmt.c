/*
 * Direct memory translation under a hypervisor: nested paging whose EPT keeps its last entries in translation entry areas
 * (ept_tables.c), one for each range of guest RAM, so that the host's registers say where the entry for an address is. The
 * tables above are kept as ever: what the registers do not answer, the walk does. The guest's stage is the guest's own
 * business: docs/dmt.md.
 *
 * pvDMT adds the table of gTEAs. What the guest asks for by PV_TEA_ALLOC becomes contiguous in machine memory and is entered
 * there with its bounds; the guest's registers name it by an identifier, and the processor reads its entries by machine
 * address. A guest has a table of its own, with what is its own in it: whatever it writes into a register, it gets no
 * further than that.
 */
#include "hv/ept.h"
#include "hv/gtea.h"

#include <errno.h>
#include <stdlib.h>

struct dmt {
	struct ept_tables ept;  /* first: ept_of() */
	struct gteas *gteas;    /* pvDMT */
};

static struct dmt *dmt_of(const struct hv_vm *vm) { return vm->mmu_state; }

/* ---- the host's stage ---- */

/* Areas for the tables of the last level, and with large host pages of the one above. None where there is no room for one. */
static void make_areas(struct hv_vm *vm, struct ept_tables *t)
{
	for (unsigned level = 1; level <= (vm->cfg.host_pages == HOST_PAGES_4K ? 1 : 2); level++)
		for (unsigned i = 0; i < vm->rams; i++)
			ept_tables_add_tea(vm, t, level, vm->ram[i].base, vm->ram[i].bytes);
}

static void setup_vmcs(struct hv_vm *vm)
{
	struct dmt_entry e[EPT_TEAS_MAX];
	unsigned n = ept_tables_registers(vm, ept_of(vm), e);

	ept_setup_vmcs(vm);
	vmx_set_dmt(vm->cpu, 1, e, n);
	vmx_set_dmt_stages(vm->cpu, 2);
	gteas_load(vm, dmt_of(vm)->gteas);
}

static void track(struct hv_vm *vm)
{
	gteas_load(vm, dmt_of(vm)->gteas);
	ept_track(vm);
}

static void pv_done(struct hv_vm *vm, const struct pv_request *r) { gteas_request(vm, dmt_of(vm)->gteas, r); }

static void p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames)
{
	if (!dmt_of(vm))
		return;
	ept_tables_p2m_changed(vm, ept_of(vm), first, frames);
	gteas_p2m_changed(vm, dmt_of(vm)->gteas, first, frames);
}

static bool audit(struct hv_vm *vm, char *buf, size_t bytes)
{
	return ept_audit(vm, buf, bytes) && gteas_audit(vm, dmt_of(vm)->gteas, buf, bytes);
}

/* ---- making one ---- */

static int init(struct hv_vm *vm, struct error *err)
{
	struct dmt *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return error_set(err, -ENOMEM, "direct translation: out of memory");
	vm->mmu_state = d;
	r = ept_tables_init(vm, &d->ept, err);
	d->ept.leaf_max = 2;
	if (!r)
		make_areas(vm, &d->ept);
	return r;
}

static int init_pv(struct hv_vm *vm, struct error *err)
{
	int r = init(vm, err);

	return r ? r : gteas_create(&dmt_of(vm)->gteas, err);
}

static void destroy(struct hv_vm *vm)
{
	free(dmt_of(vm)->gteas);
	ept_destroy(vm);
}

#define DMT_OPS                                                                                                    \
	EPT_REGISTER_OPS, .setup_vmcs = setup_vmcs, .destroy = destroy, .ept_violation = ept_violation,            \
	.p2m_changed = p2m_changed, .track = track, .retrack = ept_retrack, .scan = ept_scan, .audit = audit,      \
	.observe = ept_observe

const struct hv_mmu_ops hv_mmu_dmt = {.name = "dmt", .init = init, DMT_OPS};
const struct hv_mmu_ops hv_mmu_pvdmt = {.name = "pvdmt", .init = init_pv, DMT_OPS, .pv_done = pv_done};
