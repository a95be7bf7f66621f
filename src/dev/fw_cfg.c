/*
 * The firmware configuration interface of QEMU's PC, as far as test kernels use it:
 * signature, interface version, size of RAM, number of processors (one), and an
 * empty file directory. A 16-bit write to 0x510 selects an item, each byte read
 * from 0x511 gives its next byte, and 0 past its end. No DMA interface, no files.
 */
#include "dev/fw_cfg.h"

#define SELECT_PORT 0x510
#define DATA_PORT   0x511

enum { ITEM_SIGNATURE = 0, ITEM_VERSION = 1, ITEM_RAM_SIZE = 3, ITEM_CPUS = 5, ITEM_MAX_CPUS = 0xf };

void fw_cfg_init(struct fw_cfg *f, uint64_t memory)
{
	*f = (struct fw_cfg){ .memory = memory };
}

/* Items as little-endian numbers of at most 8 bytes. Unknown ones read 0, and so does the empty directory. */
static uint64_t item(const struct fw_cfg *f)
{
	switch (f->key) {
	case ITEM_SIGNATURE:
		return 'Q' | 'E' << 8 | 'M' << 16 | 'U' << 24;
	case ITEM_RAM_SIZE:
		return f->memory;
	case ITEM_VERSION:
	case ITEM_CPUS:
	case ITEM_MAX_CPUS:
		return 1;
	default:
		return 0;
	}
}

static uint64_t fw_cfg_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct fw_cfg *f = state;

	(void)now;
	if (addr != DATA_PORT || bytes != 1)
		return 0;
	if (f->offset >= 8)
		return 0;
	return item(f) >> 8 * f->offset++ & 0xff;
}

static void fw_cfg_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct fw_cfg *f = state;

	(void)now;
	if (addr != SELECT_PORT || bytes != 2)
		return;
	f->key = (uint16_t)v;
	f->offset = 0;
}

struct device fw_cfg_device(struct fw_cfg *f)
{
	static const struct device_range ranges[] = { { true, SELECT_PORT, 2 }, { false, 0, 0 } };

	return (struct device){ .name = "fw-cfg", .state = f, .ranges = ranges,
				.read = fw_cfg_read, .write = fw_cfg_write };
}

/* State; the size of RAM is the configuration's. */
static const struct state_field fw_cfg_fields[] = {
	STATE_U(struct fw_cfg, key), STATE_U_MAX(struct fw_cfg, offset, 8),
};
const struct state_desc fw_cfg_desc = STATE_DESC("fw-cfg", 1, fw_cfg_fields);
