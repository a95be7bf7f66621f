/*
 * VM description files (docs/FORMATS.md, "VM description"): the options of `run`
 * as keys, in libconfig's syntax. What a key does is what the option of that name
 * does: both are the same tables.
 */
#ifndef GNOMON_CLI_VM_FILE_H
#define GNOMON_CLI_VM_FILE_H

#include "cli/cli.h"

/* One VM as the command line or a file describes it. */
struct vm_description {
	struct vm_config cfg;
	const char *name;   /* NULL: none was given */
	const char *report; /* NULL: none */
	const char *serial; /* NULL: the default */
	const char *control; /* path of its control socket; NULL: none */
};
/* Options of `run` that describe a VM besides guest_options[]; ctx: struct vm_description. */
extern const struct option_desc vm_options[];

#define VM_FILE_BYTES_MAX 65536u
#define VM_NAME_MAX       31u

struct vm_file {
	struct vm_description vm; /* its strings are the file's */
	const char *origin;
	char *kept[64];           /* what they point to */
	unsigned kept_count;
};

/*
 * Reads a description. Relative paths in it are relative to its directory.
 * @defaults: the processor, from the command line; other keys that are missing have the defaults of `run`,
 * but for the scheme: ept
 * Errors: -EINVAL with @err "FILE:LINE: key: why"; of reading. Nothing is to be freed then.
 */
int vm_file_load(struct vm_file *f, const char *path, const struct vm_config *defaults, struct error *err);
/* The same of text in memory; @origin: its path. */
int vm_file_parse(struct vm_file *f, const char *text, size_t bytes, const char *origin,
		  const struct vm_config *defaults, struct error *err);
void vm_file_free(struct vm_file *f);

#endif
