/*
 * Multiboot 1 kernels (Multiboot Specification 0.6.96), as qemu -kernel takes
 * them: an ELF file for i386 or x86-64, or any file with the address fields of
 * the header, and modules with command lines. Left out: video modes, symbol
 * tables, drives, APM.
 */
#include "vm/elf_image.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define HEADER_MAGIC  0x1badb002u
#define LOADER_MAGIC  0x2badb002u
#define SEARCH_BYTES  8192
#define HEADER_BYTES  12 /* magic, flags, checksum */
#define ADDRESS_BYTES 20 /* header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr */

#define FLAG_ADDRESSES (1u << 16)
#define FLAG_UNKNOWN   0xfff8u /* a loader must refuse what it does not know in bits 15:0 */

#define MBI_MEMORY  (1u << 0)
#define MBI_CMDLINE (1u << 2)
#define MBI_MODS    (1u << 3)
#define MBI_MMAP    (1u << 6)
#define MBI_LOADER  (1u << 9)
#define MBI_BYTES   120
#define MOD_BYTES   16
#define MMAP_BYTES  24

#define MODULES_MAX 64
#define LOADER_NAME "gnomon"

/* Offset of the header, or -1. */
static int64_t find_header(const struct blob *b)
{
	for (uint64_t at = 0; at + HEADER_BYTES <= SEARCH_BYTES && blob_has(b, at, HEADER_BYTES); at += 4) {
		uint32_t magic = get_u32(b->data + at), flags = get_u32(b->data + at + 4);

		if (magic == HEADER_MAGIC && magic + flags + get_u32(b->data + at + 8) == 0)
			return (int64_t)at;
	}
	return -1;
}

bool load_is_multiboot(const struct blob *b)
{
	return find_header(b) >= 0;
}

static int bad(const struct load_request *rq, struct error *err, const char *why)
{
	return error_set(err, -ENOEXEC, "kernel '%s': multiboot: %s", rq->kernel.name, why);
}

/* Loads by the header's address fields ("The address fields of Multiboot header"). */
static int load_by_addresses(const struct load_request *rq, uint64_t header, struct load_space *s, uint32_t *entry,
			     uint64_t *end, struct error *err)
{
	const struct blob *k = &rq->kernel;
	const uint8_t *f = k->data + header + HEADER_BYTES;
	uint64_t header_addr, load, load_end, bss_end, offset, bytes;
	int ret;

	if (!blob_has(k, header + HEADER_BYTES, ADDRESS_BYTES))
		return bad(rq, err, "truncated inside its header");
	header_addr = get_u32(f), load = get_u32(f + 4), load_end = get_u32(f + 8), bss_end = get_u32(f + 12);
	*entry = get_u32(f + 16);
	if (header_addr < load || header_addr - load > header)
		return bad(rq, err, "load_addr does not lie in the file");
	offset = header - (header_addr - load);
	bytes = load_end ? load_end - load : k->bytes - offset;
	if (load_end && (load_end < load || !blob_has(k, offset, bytes)))
		return bad(rq, err, "load_end_addr lies outside the file (truncated?)");
	*end = max_u64(load + bytes, bss_end);
	ret = load_space_take(s, load, *end - load, "image", k->name, err);
	return ret ? ret : load_write(rq, load, k->data + offset, bytes, "image", err);
}

static int load_image(const struct load_request *rq, struct load_space *s, uint32_t *entry, uint64_t *end,
		      struct error *err)
{
	uint64_t header = (uint64_t)find_header(&rq->kernel), start;
	uint32_t flags = get_u32(rq->kernel.data + header + 4);
	struct elf_image e;
	int ret;

	if (flags & FLAG_UNKNOWN)
		return error_set(err, -ENOEXEC, "kernel '%s': multiboot: requires unknown features (flags %#x)",
				 rq->kernel.name, flags);
	if (flags & FLAG_ADDRESSES)
		return load_by_addresses(rq, header, s, entry, end, err);
	if (!elf_is(&rq->kernel))
		return bad(rq, err, "neither an ELF nor address fields in the header");
	ret = elf_parse(&e, &rq->kernel, err);
	if (ret)
		return ret;
	start = elf_entry_paddr(&e);
	if (start > UINT32_MAX)
		return bad(rq, err, "the entry point is not a 32-bit address");
	*entry = (uint32_t)start;
	return elf_load(&e, rq, s, end, err);
}

/* The information block and what it points at, being put together: one buffer, one place in the guest. */
struct mbi {
	uint8_t *buf;
	uint64_t base, bytes, used;
};

/* Copies a string to the block; returns its guest address. The block was sized for it. */
static uint32_t mbi_string(struct mbi *m, const char *prefix, const char *str)
{
	int n = snprintf((char *)m->buf + m->used, m->bytes - m->used, "%s%s%s", prefix, *prefix ? " " : "", str);
	uint32_t at = (uint32_t)(m->base + m->used);

	m->used += (uint64_t)n + 1;
	return at;
}

static uint64_t mbi_size(const struct load_request *rq)
{
	uint64_t n = 32 + MBI_BYTES + MEMMAP_MAX * MMAP_BYTES + sizeof(LOADER_NAME);

	n += strlen(rq->kernel.name) + 1 + strlen(rq->cmdline) + 1;
	for (unsigned i = 0; i < rq->modules; i++)
		n += MOD_BYTES + strlen(rq->module[i].args) + 1;
	return n;
}

static void mbi_memory(struct mbi *m, uint8_t *info, const struct memmap *map)
{
	uint8_t *e = m->buf + m->used;

	for (unsigned i = 0; i < map->count; i++, e += MMAP_BYTES) {
		put_u32(e, MMAP_BYTES - 4); /* the size does not count itself */
		put_u64(e + 4, map->entry[i].base);
		put_u64(e + 12, map->entry[i].bytes);
		put_u32(e + 20, map->entry[i].type);
		if (map->entry[i].base == 0)
			put_u32(info + 4, (uint32_t)(map->entry[i].bytes >> 10));
		if (map->entry[i].base == MEMMAP_ROM_END)
			put_u32(info + 8, (uint32_t)(map->entry[i].bytes >> 10));
	}
	put_u32(info + 44, map->count * MMAP_BYTES);
	put_u32(info + 48, (uint32_t)(m->base + m->used));
	m->used += map->count * MMAP_BYTES;
}

static int mbi_modules(const struct load_request *rq, struct mbi *m, struct load_space *s, uint8_t *info,
		       uint64_t kernel_end, struct error *err)
{
	uint64_t list = m->used;

	put_u32(info + 20, rq->modules);
	put_u32(info + 24, (uint32_t)(m->base + list));
	m->used += (uint64_t)rq->modules * MOD_BYTES;
	for (unsigned i = 0; i < rq->modules; i++) {
		const struct load_module *mod = &rq->module[i];
		const struct load_want want = {.bytes = mod->file.bytes, .align = PAGE_SIZE,
					       .min = max_u64(kernel_end, MEMMAP_ROM_END), .max = SIZE_1G * 4,
					       .what = "module"};
		uint8_t *e = m->buf + list + i * MOD_BYTES;
		uint64_t at;
		int ret = load_space_find(s, &want, mod->file.name, &at, err);

		if (ret == 0)
			ret = load_write(rq, at, mod->file.data, mod->file.bytes, "module", err);
		if (ret)
			return ret;
		put_u32(e, (uint32_t)at);
		put_u32(e + 4, (uint32_t)(at + mod->file.bytes));
		put_u32(e + 8, mbi_string(m, "", mod->args));
	}
	return 0;
}

/* Fills in the block ("Boot information format"). The GDT has the first 32 bytes. */
static int mbi_build(const struct load_request *rq, struct mbi *m, struct load_space *s, uint64_t kernel_end,
		     struct error *err)
{
	uint8_t *info = m->buf + 32;
	int ret;

	m->used = 32 + MBI_BYTES;
	put_u32(info, MBI_MEMORY | MBI_CMDLINE | MBI_MODS | MBI_MMAP | MBI_LOADER);
	mbi_memory(m, info, &s->map);
	ret = mbi_modules(rq, m, s, info, kernel_end, err);
	if (ret)
		return ret;
	put_u32(info + 16, mbi_string(m, rq->kernel.name, rq->cmdline));
	put_u32(info + 64, mbi_string(m, "", LOADER_NAME));
	return load_write(rq, m->base, m->buf, m->bytes, "multiboot information", err);
}

static int load_information(const struct load_request *rq, struct load_space *s, uint64_t kernel_end,
			    uint64_t *base, struct error *err)
{
	struct mbi m = {.bytes = mbi_size(rq)};
	/* Above the first pages, where kernels like to put start-up code for other processors. */
	const struct load_want want = {.bytes = m.bytes, .align = PAGE_SIZE, .min = 9 * PAGE_SIZE,
				       .max = MEMMAP_LOW_END, .what = "multiboot information"};
	int ret = load_space_find(s, &want, rq->kernel.name, &m.base, err);

	if (ret)
		return ret;
	m.buf = calloc(1, m.bytes);
	if (!m.buf)
		return error_set(err, -ENOMEM, "multiboot information: out of memory");
	ret = mbi_build(rq, &m, s, kernel_end, err);
	free(m.buf);
	*base = m.base;
	return ret;
}

int load_multiboot(const struct load_request *rq, struct error *err)
{
	struct load_entry32 e = {.eax = LOADER_MAGIC};
	struct load_space s;
	uint64_t end = 0, info = 0;
	int ret;

	if (rq->modules > MODULES_MAX)
		return error_set(err, -EINVAL, "--initrd: more than %d modules", MODULES_MAX);
	load_space_init(&s, rq->memory);
	ret = load_image(rq, &s, &e.eip, &end, err);
	if (ret == 0)
		ret = load_information(rq, &s, end, &info, err);
	if (ret)
		return ret;
	e.gdt = info;
	e.ebx = (uint32_t)(info + 32);
	return load_enter_flat32(rq, &e, err);
}
