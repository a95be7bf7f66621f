/* A VM under the hypervisor. */
#include "engine/engine_impl.h"

#include <errno.h>

static int hv_engine_create(struct engine_vm *vm, struct error *err)
{
	return error_set(err, -ENOSYS, "engine: %s is not available yet", engine_mmu_name[vm->cfg.mmu]);
}

const struct engine_ops engine_hv_ops = {.create = hv_engine_create};
