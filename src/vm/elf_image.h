/*
 * ELF executables as a boot loader sees them: loadable segments by physical
 * address, notes, and the entry point. 32- and 64-bit, x86, little-endian, in
 * one form. The bytes are hostile.
 */
#ifndef GNOMON_VM_ELF_IMAGE_H
#define GNOMON_VM_ELF_IMAGE_H

#include "vm/load.h"

#define ELF_SEGMENTS_MAX 64 /* that can be loaded */

struct elf_segment {
	uint64_t offset, file_bytes; /* in the file; checked against its size */
	uint64_t vaddr, paddr, mem_bytes;
	bool exec;
};

struct elf_image {
	struct elf_segment seg[ELF_SEGMENTS_MAX];
	unsigned segs;
	uint64_t entry;       /* e_entry as it stands */
	const struct blob *file;
	uint64_t ph_offset;   /* of the program headers, checked */
	unsigned ph_count, ph_bytes;
	bool is64;
};

/* Does the file begin like an ELF? */
bool elf_is(const struct blob *b);
/* -ENOEXEC with @err: no x86 executable, truncated, or headers that lie. */
int elf_parse(struct elf_image *e, const struct blob *b, struct error *err);
/* Physical address of the entry point: e_entry is virtual where segments are. */
uint64_t elf_entry_paddr(const struct elf_image *e);
/*
 * Looks for a note in PT_NOTE segments.
 * @value: receives its descriptor, 4 or 8 bytes little-endian
 * True if it is there.
 */
bool elf_find_note(const struct elf_image *e, const char *name, uint32_t type, uint64_t *value);
/* Takes room for and writes every segment. @end: receives the end of the highest. */
int elf_load(const struct elf_image *e, const struct load_request *rq, struct load_space *s, uint64_t *end,
	     struct error *err);

#endif
