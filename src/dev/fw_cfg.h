/*
 * Firmware configuration: numbers that small test kernels ask for at ports 0x510 and 0x511, and files for firmware, which
 * writes its log to port 0x402.
 */
#ifndef GNOMON_DEV_FW_CFG_H
#define GNOMON_DEV_FW_CFG_H

#include "dev/device.h"

#define FW_CFG_FILES_MAX 4
#define FW_CFG_NAME_MAX  56 /* with its 0 */
#define FW_CFG_BYTES_MAX (1u << 20)
#define FW_CFG_LOG       16

struct fw_cfg {
	uint64_t memory;  /* RAM in bytes */
	uint16_t key;
	uint32_t offset;  /* bytes of the item read so far */
	struct fw_cfg_file { const char *name; const void *data; uint32_t bytes; } file[FW_CFG_FILES_MAX];
	unsigned files;
	bool has_log;             /* port 0x402 is there */
	uint8_t log[FW_CFG_LOG];  /* written to it and not taken yet; the oldest are lost */
	unsigned logged;
};

extern const struct state_desc fw_cfg_desc;

void fw_cfg_init(struct fw_cfg *f, uint64_t memory);
/* Before the machine runs. @name (shorter than FW_CFG_NAME_MAX) and @data (at most FW_CFG_BYTES_MAX) last as long as @f. */
void fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, uint32_t bytes);
/* Before fw_cfg_device(): there is a port for firmware's log. */
void fw_cfg_add_log(struct fw_cfg *f);
/* What was written there since the last call: to be taken after each access. Returns how many of at most @bytes. */
size_t fw_cfg_take_log(struct fw_cfg *f, uint8_t *buf, size_t bytes);
struct device fw_cfg_device(struct fw_cfg *f);

#endif
