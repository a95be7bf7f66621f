/*
 * The firmware configuration interface of QEMU's PC, as far as test kernels and SeaBIOS use it: signature, interface
 * version, size of RAM, number of processors (one), and a directory of files, which is empty unless firmware is to run.
 * A 16-bit write to 0x510 selects an item, each byte read from 0x511 gives its next byte, and 0 past its end. Firmware
 * that reads e9 at port 0x402 writes what it has to say there.
 *
 * Left out: the DMA interface, writing items.
 * Source: QEMU, "QEMU Firmware Configuration (fw_cfg) Device".
 */
#include "dev/fw_cfg.h"

#include <assert.h>

#define SELECT_PORT 0x510
#define DATA_PORT   0x511
#define LOG_PORT    0x402
#define LOG_IS_HERE 0xe9

enum {
	ITEM_SIGNATURE = 0, ITEM_VERSION = 1, ITEM_RAM_SIZE = 3, ITEM_CPUS = 5, ITEM_MAX_CPUS = 0xf,
	ITEM_DIRECTORY = 0x19, ITEM_FILES = 0x20,
};
/* The directory: a count and entries, big-endian. */
#define DIRECTORY_HEAD 4u
#define ENTRY_BYTES    64u
enum { ENTRY_SIZE = 0, ENTRY_KEY = 4, ENTRY_NAME = 8 };
static_assert(ENTRY_NAME + FW_CFG_NAME_MAX == ENTRY_BYTES, "the name is the last member");

void fw_cfg_init(struct fw_cfg *f, uint64_t memory)
{
	*f = (struct fw_cfg){ .memory = memory };
}

void fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, uint32_t bytes)
{
	assert(f->files < FW_CFG_FILES_MAX && strlen(name) < FW_CFG_NAME_MAX && bytes <= FW_CFG_BYTES_MAX);
	f->file[f->files++] = (struct fw_cfg_file){name, data, bytes};
}

void fw_cfg_add_log(struct fw_cfg *f) { f->has_log = true; }

size_t fw_cfg_take_log(struct fw_cfg *f, uint8_t *buf, size_t bytes)
{
	size_t n = min_u64(f->logged, bytes);

	memcpy(buf, f->log, n);
	f->logged -= (unsigned)n;
	memmove(f->log, f->log + n, f->logged);
	return n;
}

static void put_log(struct fw_cfg *f, uint8_t v)
{
	if (f->logged == FW_CFG_LOG)
		memmove(f->log, f->log + 1, --f->logged);
	f->log[f->logged++] = v;
}

/* Items as little-endian numbers of at most 8 bytes. Unknown ones read 0. */
static uint64_t number(const struct fw_cfg *f)
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

static uint32_t item_bytes(const struct fw_cfg *f)
{
	if (f->key == ITEM_DIRECTORY)
		return DIRECTORY_HEAD + ENTRY_BYTES * f->files;
	return f->key >= ITEM_FILES && f->key - ITEM_FILES < (int)f->files ? f->file[f->key - ITEM_FILES].bytes : 8;
}

static void put_big_endian(uint8_t *to, uint32_t v) { put_u32(to, __builtin_bswap32(v)); }

static uint8_t directory_byte(const struct fw_cfg *f)
{
	unsigned n = (f->offset - DIRECTORY_HEAD) / ENTRY_BYTES, at = (f->offset - DIRECTORY_HEAD) % ENTRY_BYTES;
	uint8_t entry[ENTRY_BYTES] = {0};

	if (f->offset < DIRECTORY_HEAD) {
		put_big_endian(entry, f->files);
		return entry[f->offset];
	}
	put_big_endian(entry + ENTRY_SIZE, f->file[n].bytes);
	put_big_endian(entry + ENTRY_KEY, (ITEM_FILES + n) << 16); /* 16 bits of it are reserved */
	strcpy((char *)entry + ENTRY_NAME, f->file[n].name);
	return entry[at];
}

/* The next byte of the item, which there is. */
static uint8_t item_byte(const struct fw_cfg *f)
{
	if (f->key == ITEM_DIRECTORY)
		return directory_byte(f);
	if (f->key >= ITEM_FILES && f->key - ITEM_FILES < (int)f->files)
		return ((const uint8_t *)f->file[f->key - ITEM_FILES].data)[f->offset];
	return (uint8_t)(number(f) >> 8 * f->offset);
}

static uint64_t fw_cfg_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct fw_cfg *f = state;
	uint8_t v;

	(void)now;
	if (addr == LOG_PORT)
		return LOG_IS_HERE;
	if (addr != DATA_PORT || bytes != 1 || f->offset >= item_bytes(f))
		return 0;
	v = item_byte(f);
	f->offset++;
	return v;
}

static void fw_cfg_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct fw_cfg *f = state;

	(void)now;
	if (addr == LOG_PORT)
		put_log(f, (uint8_t)v);
	if (addr != SELECT_PORT || bytes != 2)
		return;
	f->key = (uint16_t)v;
	f->offset = 0;
}

struct device fw_cfg_device(struct fw_cfg *f)
{
	static const struct device_range ranges[] = {
		{ true, LOG_PORT, 1 }, { true, SELECT_PORT, 2 }, { false, 0, 0 },
	};

	return (struct device){ .name = "fw-cfg", .state = f, .ranges = f->has_log ? ranges : ranges + 1,
				.read = fw_cfg_read, .write = fw_cfg_write };
}

/* State; the size of RAM and the files are the configuration's, and the log is taken after each access. */
static const struct state_field fw_cfg_fields[] = {
	STATE_U(struct fw_cfg, key), STATE_U_MAX(struct fw_cfg, offset, FW_CFG_BYTES_MAX),
};
const struct state_desc fw_cfg_desc = STATE_DESC("fw-cfg", 1, fw_cfg_fields);
