/*
 * A Linux bzImage, entered at its 64-bit entry point (Linux "The Linux/x86 Boot
 * Protocol", sections "The Real-Mode Kernel Header" and "64-bit Boot Protocol").
 * The real-mode part of the image is never run: we do its work, the zero page.
 * Left out: 16- and 32-bit entry, EFI handover, kernels older than protocol 2.12.
 */
#include "vm/load.h"
#include <errno.h>
#include <inttypes.h>

/* Offsets in the image's first sectors; the setup header has the same ones in the zero page. */
#define HDR_SETUP_SECTS     0x1f1
#define HDR_SYSSIZE         0x1f4 /* of the protected-mode part, in 16-byte paragraphs */
#define HDR_BOOT_FLAG       0x1fe
#define HDR_JUMP_BYTES      0x201 /* the setup header ends this far behind 0x202 */
#define HDR_MAGIC           0x202
#define HDR_VERSION         0x206
#define HDR_TYPE_OF_LOADER  0x210
#define HDR_LOADFLAGS       0x211
#define HDR_CODE32_START    0x214
#define HDR_RAMDISK_IMAGE   0x218
#define HDR_RAMDISK_SIZE    0x21c
#define HDR_CMD_LINE_PTR    0x228
#define HDR_INITRD_ADDR_MAX 0x22c
#define HDR_ALIGNMENT       0x230
#define HDR_RELOCATABLE     0x234
#define HDR_XLOADFLAGS      0x236
#define HDR_CMDLINE_SIZE    0x238
#define HDR_PREF_ADDRESS    0x258
#define HDR_INIT_SIZE       0x260
#define HDR_END             0x268

#define ZP_ACPI_RSDP_ADDR 0x070
#define ZP_E820_ENTRIES   0x1e8
#define ZP_SETUP_HEADER   0x1f1
#define ZP_E820_TABLE     0x2d0
#define ZP_SETUP_END      0x290 /* room for the setup header */
#define E820_ENTRY_BYTES  20

#define LOADFLAG_HIGH     1u
#define XLF_KERNEL_64     1u
#define LOADER_UNDEFINED  0xff /* type_of_loader of one without an assigned number */
#define ENTRY64_OFFSET    0x200

struct bzimage {
	uint64_t payload, payload_bytes; /* in the file */
	uint64_t pref, align, init_size;
	uint64_t initrd_max;             /* highest address the initrd may touch, plus one */
	uint64_t cmdline_max;            /* bytes without the terminator */
	bool relocatable;
	uint16_t version;
	unsigned header_end;             /* of the setup header */
};

bool load_is_bzimage(const struct blob *b)
{
	return blob_has(b, HDR_MAGIC, 4) && memcmp(b->data + HDR_MAGIC, "HdrS", 4) == 0;
}

static int bad(const struct load_request *rq, struct error *err, const char *why)
{
	return error_set(err, -ENOEXEC, "kernel '%s': bzImage: %s", rq->kernel.name, why);
}

/* Where the protected-mode part lies in the file. */
static int parse_payload(const struct load_request *rq, struct bzimage *bz, struct error *err)
{
	const struct blob *k = &rq->kernel;
	unsigned sects = k->data[HDR_SETUP_SECTS];
	uint64_t promised = (uint64_t)get_u32(k->data + HDR_SYSSIZE) * 16;

	bz->payload = ((sects ? sects : 4) + 1) * 512ull;
	if (bz->payload >= k->bytes || promised > k->bytes - bz->payload)
		return error_set(err, -ENOEXEC,
				 "kernel '%s': bzImage: truncated: %" PRIu64 " bytes, its header promises %" PRIu64,
				 k->name, k->bytes, bz->payload + promised);
	bz->payload_bytes = promised ? promised : k->bytes - bz->payload;
	if (bz->payload_bytes <= ENTRY64_OFFSET)
		return bad(rq, err, "no code at the 64-bit entry point");
	return 0;
}

static int parse_placement(const struct load_request *rq, struct bzimage *bz, struct error *err)
{
	const uint8_t *d = rq->kernel.data;

	bz->relocatable = d[HDR_RELOCATABLE];
	bz->pref = get_u64(d + HDR_PREF_ADDRESS);
	bz->align = get_u32(d + HDR_ALIGNMENT);
	bz->init_size = get_u32(d + HDR_INIT_SIZE);
	bz->cmdline_max = get_u32(d + HDR_CMDLINE_SIZE);
	bz->initrd_max = (uint64_t)get_u32(d + HDR_INITRD_ADDR_MAX) + 1;
	if (bz->relocatable && (bz->align < PAGE_SIZE || bz->align > SIZE_1G || bz->align & (bz->align - 1)))
		return bad(rq, err, "kernel_alignment is no power of two from 4 KiB to 1 GiB");
	if (bz->init_size < bz->payload_bytes)
		return bad(rq, err, "init_size is smaller than the image");
	if (bz->pref < MEMMAP_ROM_END || bz->pref >= SIZE_1G * 4)
		return bad(rq, err, "pref_address is not between 1 MiB and 4 GiB");
	return 0;
}

static int parse_header(const struct load_request *rq, struct bzimage *bz, struct error *err)
{
	const struct blob *k = &rq->kernel;
	int ret;

	if (!blob_has(k, 0, HDR_END))
		return bad(rq, err, "truncated inside the setup header");
	if (get_u16(k->data + HDR_BOOT_FLAG) != 0xaa55)
		return bad(rq, err, "boot flag 0xaa55 is missing");
	bz->version = get_u16(k->data + HDR_VERSION);
	if (bz->version < 0x20c)
		return error_set(err, -ENOEXEC,
				 "kernel '%s': bzImage: boot protocol %u.%02u is older than 2.12 (Linux 3.8)", k->name,
				 bz->version >> 8, bz->version & 0xff);
	if (!(get_u16(k->data + HDR_XLOADFLAGS) & XLF_KERNEL_64))
		return bad(rq, err, "a 32-bit kernel: it has no 64-bit entry point");
	if (!(k->data[HDR_LOADFLAGS] & LOADFLAG_HIGH))
		return bad(rq, err, "a zImage (not loaded at 1 MiB or above)");
	bz->header_end = (unsigned)min_u64(HDR_MAGIC + k->data[HDR_JUMP_BYTES], ZP_SETUP_END);
	if (bz->header_end < HDR_END || !blob_has(k, 0, bz->header_end))
		return bad(rq, err, "the setup header is too short for its version");
	ret = parse_payload(rq, bz, err);
	return ret ? ret : parse_placement(rq, bz, err);
}

/* The preferred address if it is free; another aligned one if the kernel can be moved. */
static int place_kernel(const struct load_request *rq, const struct bzimage *bz, struct load_space *s,
			uint64_t *base, struct error *err)
{
	const struct load_want want = {.bytes = bz->init_size, .align = bz->align, .min = MEMMAP_ROM_END,
				       .max = SIZE_1G * 4, .what = "kernel"};
	struct error first;

	*base = bz->pref;
	if (!bz->relocatable)
		return load_space_take(s, bz->pref, bz->init_size, "kernel", rq->kernel.name, err);
	*base = (bz->pref + bz->align - 1) & ~(bz->align - 1);
	if (load_space_take(s, *base, bz->init_size, "kernel", rq->kernel.name, &first) == 0)
		return 0;
	return load_space_find(s, &want, rq->kernel.name, base, err);
}

static int place_initrd(const struct load_request *rq, const struct bzimage *bz, struct load_space *s,
			uint64_t *base, struct error *err)
{
	const struct blob *initrd = &rq->module[0].file;
	const struct load_want want = {.bytes = initrd->bytes, .align = PAGE_SIZE, .min = MEMMAP_ROM_END,
				       .max = min_u64(bz->initrd_max, SIZE_1G * 3), .high = true, .what = "initrd"};
	int ret = load_space_find(s, &want, initrd->name, base, err);

	return ret ? ret : load_write(rq, *base, initrd->data, initrd->bytes, "initrd", err);
}

static int place_cmdline(const struct load_request *rq, const struct bzimage *bz, struct load_space *s,
			 uint64_t *base, struct error *err)
{
	const uint64_t len = strlen(rq->cmdline);
	const struct load_want want = {.bytes = len + 1, .align = PAGE_SIZE, .min = PAGE_SIZE,
				       .max = MEMMAP_LOW_END, .what = "command line"};
	int ret;

	if (len > bz->cmdline_max)
		return error_set(err, -E2BIG,
				 "--append: %" PRIu64 " characters; kernel '%s' takes at most %" PRIu64, len,
				 rq->kernel.name, bz->cmdline_max);
	ret = load_space_find(s, &want, rq->kernel.name, base, err);
	return ret ? ret : load_write(rq, *base, rq->cmdline, len + 1, "command line", err);
}

static void fill_e820(uint8_t *zp, const struct memmap *map)
{
	zp[ZP_E820_ENTRIES] = (uint8_t)map->count;
	for (unsigned i = 0; i < map->count; i++) {
		uint8_t *e = zp + ZP_E820_TABLE + i * E820_ENTRY_BYTES;

		put_u64(e, map->entry[i].base);
		put_u64(e + 8, map->entry[i].bytes);
		put_u32(e + 16, map->entry[i].type);
	}
}

struct placed {
	uint64_t kernel, initrd, cmdline;
};

/* The zero page (struct boot_params): our copy of the setup header, filled in, and the memory map. */
static void build_zero_page(const struct load_request *rq, const struct bzimage *bz, const struct load_space *s,
			    const struct placed *at, uint8_t zp[PAGE_SIZE])
{
	memset(zp, 0, PAGE_SIZE);
	memcpy(zp + ZP_SETUP_HEADER, rq->kernel.data + ZP_SETUP_HEADER, bz->header_end - ZP_SETUP_HEADER);
	zp[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
	put_u32(zp + HDR_CODE32_START, (uint32_t)at->kernel);
	put_u32(zp + HDR_CMD_LINE_PTR, (uint32_t)at->cmdline);
	if (rq->modules) {
		put_u32(zp + HDR_RAMDISK_IMAGE, (uint32_t)at->initrd);
		put_u32(zp + HDR_RAMDISK_SIZE, (uint32_t)rq->module[0].file.bytes);
	}
	if (bz->version >= 0x20e)
		put_u64(zp + ZP_ACPI_RSDP_ADDR, rq->rsdp);
	fill_e820(zp, &s->map);
}

static int enter(const struct load_request *rq, const struct bzimage *bz, struct load_space *s,
		 const struct placed *at, struct error *err)
{
	const struct load_want want = {.bytes = PAGE_SIZE + LOAD_LONG64_BYTES, .align = PAGE_SIZE, .min = PAGE_SIZE,
				       .max = MEMMAP_LOW_END, .what = "zero page"};
	uint8_t zp[PAGE_SIZE];
	uint64_t base;
	int ret = load_space_find(s, &want, rq->kernel.name, &base, err);

	if (ret)
		return ret;
	build_zero_page(rq, bz, s, at, zp);
	ret = load_write(rq, base, zp, sizeof(zp), "zero page", err);
	if (ret)
		return ret;
	return load_enter_long64(rq, at->kernel + ENTRY64_OFFSET, base, base + PAGE_SIZE, err);
}

int load_linux_bzimage(const struct load_request *rq, struct error *err)
{
	struct load_space s;
	struct placed at = {0};
	struct bzimage bz = {0};
	int ret = parse_header(rq, &bz, err);

	if (ret)
		return ret;
	if (rq->modules > 1)
		return error_set(err, -EINVAL, "kernel '%s': a Linux kernel takes one initrd", rq->kernel.name);
	load_space_init(&s, rq->memory);
	ret = place_kernel(rq, &bz, &s, &at.kernel, err);
	if (ret == 0)
		ret = load_write(rq, at.kernel, rq->kernel.data + bz.payload, bz.payload_bytes, "kernel", err);
	if (ret == 0 && rq->modules)
		ret = place_initrd(rq, &bz, &s, &at.initrd, err);
	if (ret == 0)
		ret = place_cmdline(rq, &bz, &s, &at.cmdline, err);
	return ret ? ret : enter(rq, &bz, &s, &at, err);
}
