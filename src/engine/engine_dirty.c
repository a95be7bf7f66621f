/* Tracking of written pages, as the seam has it: hv/dirty.h behind checks. */
#include "engine/engine_impl.h"

#include <errno.h>

const char *const engine_dirty_name[ENGINE_DIRTY_COUNT] = {
	[ENGINE_DIRTY_WP] = "wp",
	[ENGINE_DIRTY_PRESENT] = "present",
	[ENGINE_DIRTY_AD] = "ad",
	[ENGINE_DIRTY_PML] = "pml",
};

bool engine_dirty_possible(enum engine_mmu mmu, enum engine_dirty how) { return hv_dirty_possible(mmu, how); }

int engine_dirty_arm(struct engine_vm *vm, enum engine_dirty how, struct error *err)
{
	if (how >= ENGINE_DIRTY_COUNT)
		return error_set(err, -EINVAL, "engine: no tracker number %d", (int)how);
	if (!engine_dirty_possible(vm->cfg.mmu, how))
		return error_set(err, -EINVAL, "engine: tracking by '%s' is not possible under '%s'",
				 engine_dirty_name[how], engine_mmu_name[vm->cfg.mmu]);
	if (vm->hv->dirty.tracker)
		return error_set(err, -EINVAL, "engine: pages are being tracked already");
	return hv_dirty_arm(vm->hv, how, err);
}

int engine_dirty_collect(struct engine_vm *vm, uint64_t *bitmap)
{
	return vm->hv ? hv_dirty_collect(vm->hv, bitmap, NULL) : -EINVAL;
}

int engine_accessed_collect(struct engine_vm *vm, uint64_t *bitmap)
{
	return vm->hv ? hv_dirty_collect(vm->hv, NULL, bitmap) : -EINVAL;
}

void engine_dirty_disarm(struct engine_vm *vm)
{
	if (vm->hv)
		hv_dirty_disarm(vm->hv);
}

void engine_dirty_watch(struct engine_vm *vm, const struct engine_log_watch *watch)
{
	if (vm->hv)
		vm->hv->log_watch = watch;
}
