/* See fake_engine.h. */
#include "fake_engine.h"
#include <errno.h>
#include <stdlib.h>

const char *const engine_mmu_name[ENGINE_MMU_COUNT] = {
	"native", "brute", "shadow", "ept", "hugegpt", "dmt", "pvdmt", "agile", "nested", "nested-pvdmt", "native-dmt",
};

struct engine_vm {
	uint64_t memory, backed;
	uint8_t *ram;
	struct engine_regs regs;
	struct engine_sregs sregs;
};

struct engine_vm *fake_engine_new(uint64_t memory, uint64_t backed)
{
	struct engine_vm *vm = calloc(1, sizeof(*vm));

	vm->memory = memory;
	vm->backed = backed;
	vm->ram = calloc(1, backed);
	return vm;
}

void fake_engine_free(struct engine_vm *vm)
{
	free(vm->ram);
	free(vm);
}

uint8_t *fake_engine_ram(struct engine_vm *vm, uint64_t a) { return vm->ram + a; }

static bool is_ram(const struct engine_vm *vm, uint64_t a, uint64_t bytes)
{
	struct machmem_range r[2];
	unsigned n = engine_ram_layout(vm->memory, r);

	for (unsigned i = 0; i < n; i++)
		if (a >= r[i].base && a - r[i].base <= r[i].bytes && bytes <= r[i].bytes - (a - r[i].base))
			return true;
	return false;
}

int engine_mem_write(struct engine_vm *vm, gpa_t a, const void *buf, uint64_t bytes)
{
	if (!is_ram(vm, a.v, bytes))
		return -EFAULT;
	if (a.v < vm->backed && bytes <= vm->backed - a.v)
		memcpy(vm->ram + a.v, buf, bytes);
	return 0;
}

int engine_mem_read(struct engine_vm *vm, gpa_t a, void *buf, uint64_t bytes)
{
	if (!is_ram(vm, a.v, bytes) || a.v > vm->backed || bytes > vm->backed - a.v)
		return -EFAULT;
	memcpy(buf, vm->ram + a.v, bytes);
	return 0;
}

void engine_get_regs(struct engine_vm *vm, struct engine_regs *r) { *r = vm->regs; }
void engine_set_regs(struct engine_vm *vm, const struct engine_regs *r) { vm->regs = *r; }
void engine_get_sregs(struct engine_vm *vm, struct engine_sregs *s) { *s = vm->sregs; }
void engine_set_sregs(struct engine_vm *vm, const struct engine_sregs *s) { vm->sregs = *s; }
