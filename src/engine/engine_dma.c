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

/* ---- being watched ---- */

static void device_seen(const struct engine_vm *vm, gpa_t a, uint64_t bytes, bool write)
{
	const struct engine_watch *w = vm->watch;
	uint64_t first, end;

	if (likely(!w))
		return;
	first = max_u64(a.v, w->page.v);
	end = min_u64(a.v + bytes, w->page.v + PAGE_SIZE);
	if (first < end)
		w->seen(w->ctx, true, first - w->page.v, (unsigned)(end - first), write);
}

static void processor_seen(void *ctx, uint64_t offset, unsigned bytes, bool write)
{
	const struct engine_watch *w = ((struct engine_vm *)ctx)->watch;

	w->seen(w->ctx, false, offset, bytes, write);
}

/* The processor is told of the page by its machine address; again, when the frame is another one (engine_hv.c). */
int engine_watch_page(struct engine_vm *vm, const struct engine_watch *watch)
{
	struct mmu *mmu = &vm->cpu->mmu;
	const uint8_t *page;

	if (!watch) {
		vm->watch = NULL;
		mmu->watch = (struct mmu_watch){.bytes = 0};
		return 0;
	}
	if (!vm->cfg.cpu.data_cache)
		return -EINVAL;
	if (watch->page.v & ~PAGE_MASK || !engine_dma_is_ram(vm, watch->page, PAGE_SIZE))
		return -EFAULT;
	page = vm->ops->page(vm, watch->page.v >> PAGE_SHIFT, true);
	if (!page)
		return -ENOMEM;
	vm->watch = watch;
	mmu->watch = (struct mmu_watch){.first = (uint64_t)(page - mmu->mem->host), .bytes = PAGE_SIZE,
					.seen = processor_seen, .ctx = vm};
	return 0;
}

/* ---- copying ---- */

int engine_dma_read(struct engine_vm *vm, gpa_t a, void *buf, uint64_t bytes)
{
	if (!engine_dma_is_ram(vm, a, bytes))
		return -EFAULT;
	device_seen(vm, a, bytes, false);
	return engine_mem_read(vm, a, buf, bytes);
}

int engine_dma_write(struct engine_vm *vm, gpa_t a, const void *buf, uint64_t bytes)
{
	if (!engine_dma_is_ram(vm, a, bytes))
		return -EFAULT;
	device_seen(vm, a, bytes, true);
	return engine_mem_write(vm, a, buf, bytes);
}

/* A page without a frame is zeros already. */
static void release_page(struct engine_vm *vm, uint64_t frame)
{
	uint8_t *page = vm->ops->page(vm, frame, false);

	if (!page)
		return;
	snapshot_keep(vm, engine_page_of(vm, gpa(frame << PAGE_SHIFT)));
	lazy_forget(vm->lazy, engine_page_of(vm, gpa(frame << PAGE_SHIFT)));
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
