/*
 * The table of a VM's gTEAs: what its guest asked to be contiguous (PV_TEA_ALLOC), by identifier, and where in machine memory
 * it is. The processor looks identifiers of the guest's registers up here, bounds and all (docs/dmt.md).
 */
#ifndef GNOMON_HV_GTEA_H
#define GNOMON_HV_GTEA_H

#include "hv/hv.h"

struct gteas {
	struct dmt_gtea by_id[PV_TEAS_MAX]; /* identifier - 1 */
};

/* An empty one, for free(). -ENOMEM. */
int gteas_create(struct gteas **out, struct error *err);
/*
 * Gives it to the processor, after any change, too; NULL: there is none, and identifiers mean nothing. Nor do they while a
 * tracker wants to know of accesses: those by machine address it would miss.
 */
void gteas_load(struct hv_vm *vm, const struct gteas *g);
/* A request was served; one that is not about gTEAs is left alone. */
void gteas_request(struct hv_vm *vm, struct gteas *g, const struct pv_request *r);
/* As the function of struct hv_mmu_ops. @g: may be NULL */
void gteas_p2m_changed(struct hv_vm *vm, struct gteas *g, gfn_t first, uint64_t frames);
/* Is every one where the p2m says, and a request's? If not, a line in @buf and false. @g: may be NULL */
bool gteas_audit(struct hv_vm *vm, const struct gteas *g, char *buf, size_t bytes);

#endif
