/* Memory that is not there yet, and looking at memory from beside the vCPU. */
#include "engine/engine_impl.h"

#include <errno.h>

int engine_set_source(struct engine_vm *vm, const struct engine_source *source, const uint64_t *absent,
		      struct error *err)
{
	vm->source = *source;
	return vm->ops->set_source(vm, absent, err);
}

int engine_page_read(struct engine_vm *vm, uint64_t page, uint8_t data[PAGE_SIZE])
{
	bool absent = false;
	const uint8_t *p = vm->ops->look(vm, engine_page_gpa(vm, page).v >> PAGE_SHIFT, &absent);

	if (absent)
		return vm->source.fetch(vm->source.ctx, page, data) ? -EIO : 1;
	if (!p)
		return 0;
	memcpy(data, p, PAGE_SIZE);
	return vm->ops->lost(vm) ? -EIO : 1; /* the bare machine's are brought by touching them */
}
