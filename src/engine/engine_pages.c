/* Guest RAM as a sequence of pages: what bitmaps and streams of pages count in. */
#include "engine/engine_impl.h"

uint64_t engine_pages(const struct engine_vm *vm) { return machmem_pages(vm->ram, vm->rams); }

gpa_t engine_page_gpa(const struct engine_vm *vm, uint64_t page) { return gpa(machmem_page_at(vm->ram, page)); }

uint64_t engine_page_of(const struct engine_vm *vm, gpa_t a) { return machmem_page_of(vm->ram, vm->rams, a.v); }
