/*
 * How a device reaches the guest's memory. What stands behind these functions sees to it that only the VM's
 * own RAM is reached, that code and tables made from what is written are not used any longer, and that
 * nothing is touched if a range is not RAM throughout.
 *
 * A device may use them in its advance() only, never while it answers an access: then no instruction is half
 * done, and what the guest's processor and the device do to memory has one order, that of virtual time.
 */
#ifndef GNOMON_DEV_DMA_H
#define GNOMON_DEV_DMA_H

#include "base/util.h"

struct dma {
	void *ctx;
	/* Is every byte of [@gpa, @gpa + @bytes) guest RAM? True for 0 bytes. */
	bool (*is_ram)(void *ctx, uint64_t gpa, uint64_t bytes);
	/* 0; -EFAULT if not all of it is RAM: nothing is copied. */
	int (*read)(void *ctx, uint64_t gpa, void *buf, uint64_t bytes);
	/* The same; -ENOMEM if the machine has no frame left for a page that was never touched. */
	int (*write)(void *ctx, uint64_t gpa, const void *buf, uint64_t bytes);
	/* The guest does not need the contents any longer: they become zeros, and the host may have the memory. */
	int (*release)(void *ctx, uint64_t gpa, uint64_t bytes);
};

#endif
