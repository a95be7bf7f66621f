/*
 * What devices do to guest memory. A write takes the way that all writes from outside the vCPU take
 * (engine_mem_write()): the processor's caches of code see it, and so does the MMU backend, to which the guest's
 * page tables may have been write-protected. As on a real machine the TLBs do not: a guest whose device writes its
 * page tables has to flush.
 */
#include "engine/engine_impl.h"

#include <errno.h>
#include <sys/mman.h>

bool engine_dma_is_ram(const struct engine_vm *vm, gpa_t a, uint64_t bytes)
{
	for (unsigned i = 0; i < vm->rams; i++) {
		uint64_t at = a.v - vm->ram[i].base;

		if (at < vm->ram[i].bytes && bytes <= vm->ram[i].bytes - at)
			return true;
	}
	return !bytes;
}

int engine_dma_read(struct engine_vm *vm, gpa_t a, void *buf, uint64_t bytes)
{
	return engine_dma_is_ram(vm, a, bytes) ? engine_mem_read(vm, a, buf, bytes) : -EFAULT;
}

int engine_dma_write(struct engine_vm *vm, gpa_t a, const void *buf, uint64_t bytes)
{
	return engine_dma_is_ram(vm, a, bytes) ? engine_mem_write(vm, a, buf, bytes) : -EFAULT;
}

/* A page without a frame is zeros already. */
static void release_page(struct engine_vm *vm, uint64_t frame)
{
	uint8_t *page = vm->ops->page(vm, frame, false);

	if (!page)
		return;
	/* The host's memory behind it is private and anonymous: given back, it comes again as zeros. */
	if (madvise(page, PAGE_SIZE, MADV_DONTNEED))
		memset(page, 0, PAGE_SIZE);
	engine_written(vm, frame << PAGE_SHIFT, PAGE_SIZE);
}

int engine_dma_release(struct engine_vm *vm, gpa_t a, uint64_t bytes)
{
	uint64_t first = (a.v + PAGE_SIZE - 1) >> PAGE_SHIFT;

	if (!engine_dma_is_ram(vm, a, bytes))
		return -EFAULT;
	for (uint64_t f = first; f < (a.v + bytes) >> PAGE_SHIFT; f++)
		release_page(vm, f);
	return 0;
}
