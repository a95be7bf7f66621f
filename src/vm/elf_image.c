/*
 * Parsing and loading ELF executables (System V ABI, "Object Files" and "Program
 * Loading"). Sections, relocations and dynamic linking are not looked at.
 */
#include "vm/elf_image.h"
#include <elf.h>
#include <errno.h>
#include <inttypes.h>

bool elf_is(const struct blob *b)
{
	return b->bytes >= SELFMAG && memcmp(b->data, ELFMAG, SELFMAG) == 0;
}

static int bad(const struct blob *b, struct error *err, const char *why)
{
	return error_set(err, -ENOEXEC, "kernel '%s': ELF: %s", b->name, why);
}

/* A program header in 64-bit form. @n is below ph_count, whose table is in the file. */
static Elf64_Phdr program_header(const struct elf_image *e, unsigned n)
{
	const uint8_t *p = e->file->data + e->ph_offset + (uint64_t)n * e->ph_bytes;
	Elf64_Phdr h;
	Elf32_Phdr h32;

	if (e->is64) {
		memcpy(&h, p, sizeof(h));
		return h;
	}
	memcpy(&h32, p, sizeof(h32));
	return (Elf64_Phdr){.p_type = h32.p_type, .p_flags = h32.p_flags, .p_offset = h32.p_offset,
			    .p_vaddr = h32.p_vaddr, .p_paddr = h32.p_paddr, .p_filesz = h32.p_filesz,
			    .p_memsz = h32.p_memsz, .p_align = h32.p_align};
}

static int parse_header(struct elf_image *e, struct error *err)
{
	const struct blob *b = e->file;
	Elf32_Ehdr h32;
	Elf64_Ehdr h;
	unsigned machine;

	e->is64 = b->bytes > EI_CLASS && b->data[EI_CLASS] == ELFCLASS64;
	if (!blob_has(b, 0, e->is64 ? sizeof(h) : sizeof(h32)))
		return bad(b, err, "truncated inside its header");
	if (b->data[EI_DATA] != ELFDATA2LSB || (!e->is64 && b->data[EI_CLASS] != ELFCLASS32))
		return bad(b, err, "neither 32- nor 64-bit little-endian");
	memcpy(&h, b->data, e->is64 ? sizeof(h) : sizeof(h32));
	memcpy(&h32, b->data, sizeof(h32));
	machine = h.e_machine; /* at the same place in both */
	if (machine != EM_X86_64 && machine != EM_386)
		return bad(b, err, "not for x86");
	e->entry = e->is64 ? h.e_entry : h32.e_entry;
	e->ph_offset = e->is64 ? h.e_phoff : h32.e_phoff;
	e->ph_count = e->is64 ? h.e_phnum : h32.e_phnum;
	e->ph_bytes = e->is64 ? h.e_phentsize : h32.e_phentsize;
	if (e->ph_count == 0)
		return bad(b, err, "no program headers: not an executable");
	if (e->ph_bytes < (e->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return bad(b, err, "program headers are too small");
	if (!blob_has(b, e->ph_offset, (uint64_t)e->ph_count * e->ph_bytes))
		return bad(b, err, "program headers lie outside the file (truncated?)");
	return 0;
}

static int add_segment(struct elf_image *e, const Elf64_Phdr *h, struct error *err)
{
	if (!blob_has(e->file, h->p_offset, h->p_filesz))
		return error_set(err, -ENOEXEC,
				 "kernel '%s': ELF: truncated: a segment of %" PRIu64 " bytes at offset %" PRIu64
				 " in a file of %" PRIu64,
				 e->file->name, h->p_filesz, h->p_offset, e->file->bytes);
	if (h->p_memsz < h->p_filesz)
		return bad(e->file, err, "a segment is smaller in memory than in the file");
	if (e->segs == ELF_SEGMENTS_MAX)
		return bad(e->file, err, "more than 64 segments to load");
	e->seg[e->segs++] = (struct elf_segment){
		.offset = h->p_offset, .file_bytes = h->p_filesz, .vaddr = h->p_vaddr, .paddr = h->p_paddr,
		.mem_bytes = h->p_memsz, .exec = h->p_flags & PF_X};
	return 0;
}

int elf_parse(struct elf_image *e, const struct blob *b, struct error *err)
{
	int ret;

	*e = (struct elf_image){.file = b};
	ret = parse_header(e, err);
	for (unsigned i = 0; ret == 0 && i < e->ph_count; i++) {
		Elf64_Phdr h = program_header(e, i);

		if (h.p_type == PT_LOAD && h.p_memsz)
			ret = add_segment(e, &h, err);
	}
	if (ret == 0 && e->segs == 0)
		ret = bad(b, err, "nothing to load");
	return ret;
}

uint64_t elf_entry_paddr(const struct elf_image *e)
{
	for (unsigned i = 0; i < e->segs; i++) {
		const struct elf_segment *s = &e->seg[i];

		if (s->exec && e->entry - s->vaddr < s->file_bytes)
			return e->entry - s->vaddr + s->paddr;
	}
	return e->entry;
}

/* Notes in bytes [at, end) of the file, which are there. Each iteration consumes at least a note header. */
static bool find_note_in(const struct elf_image *e, const Elf64_Phdr *seg, const char *name, uint32_t type,
			 uint64_t *value)
{
	const uint64_t align = seg->p_align == 8 ? 8 : 4, name_bytes = strlen(name) + 1;
	uint64_t at = 0;

	while (seg->p_filesz - at >= sizeof(Elf64_Nhdr)) {
		const uint8_t *p = e->file->data + seg->p_offset + at;
		uint64_t room = seg->p_filesz - at, desc, next;
		Elf64_Nhdr n;

		memcpy(&n, p, sizeof(n));
		desc = (sizeof(n) + n.n_namesz + align - 1) & ~(align - 1);
		next = (desc + n.n_descsz + align - 1) & ~(align - 1);
		if (desc > room || n.n_descsz > room - desc)
			return false;
		if (n.n_type == type && n.n_namesz == name_bytes && memcmp(p + sizeof(n), name, name_bytes) == 0 &&
		    (n.n_descsz == 4 || n.n_descsz == 8)) {
			*value = n.n_descsz == 8 ? get_u64(p + desc) : get_u32(p + desc);
			return true;
		}
		if (next >= room)
			return false;
		at += next;
	}
	return false;
}

bool elf_find_note(const struct elf_image *e, const char *name, uint32_t type, uint64_t *value)
{
	for (unsigned i = 0; i < e->ph_count; i++) {
		Elf64_Phdr h = program_header(e, i);

		if (h.p_type == PT_NOTE && blob_has(e->file, h.p_offset, h.p_filesz) &&
		    find_note_in(e, &h, name, type, value))
			return true;
	}
	return false;
}

int elf_load(const struct elf_image *e, const struct load_request *rq, struct load_space *s, uint64_t *end,
	     struct error *err)
{
	int ret = 0;

	*end = 0;
	for (unsigned i = 0; ret == 0 && i < e->segs; i++) {
		const struct elf_segment *g = &e->seg[i];

		ret = load_space_take(s, g->paddr, g->mem_bytes, "segment", rq->kernel.name, err);
		/* What the file does not give is zero: so is RAM that nobody has written. */
		if (ret == 0)
			ret = load_write(rq, g->paddr, e->file->data + g->offset, g->file_bytes, "segment", err);
		if (ret == 0)
			*end = max_u64(*end, g->paddr + g->mem_bytes);
	}
	return ret;
}
