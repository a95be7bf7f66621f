/* Firmware configuration: a few numbers that small test kernels ask for at ports 0x510 and 0x511. */
#ifndef GNOMON_DEV_FW_CFG_H
#define GNOMON_DEV_FW_CFG_H

#include "dev/device.h"

struct fw_cfg {
	uint64_t memory;  /* RAM in bytes */
	uint16_t key;
	uint32_t offset;  /* bytes of the item read so far */
};

extern const struct state_desc fw_cfg_desc;

void fw_cfg_init(struct fw_cfg *f, uint64_t memory);
struct device fw_cfg_device(struct fw_cfg *f);

#endif
