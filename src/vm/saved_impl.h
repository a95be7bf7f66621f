/* What the files that read, write and manage saved VMs know of each other. */
#ifndef GNOMON_VM_SAVED_IMPL_H
#define GNOMON_VM_SAVED_IMPL_H

#include "vm/saved.h"
#include <jansson.h>
#include <sys/stat.h>

extern const char *const saved_kind_name[2];

static inline int64_t saved_time_of(const struct stat *st)
{
	return st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
}

/* From a JSON object, which may hold anything; strings point into it. False: it makes no sense. */
bool saved_read_info(struct saved_info *info, json_t *o);
/* The section "saved" of a file; strings of @info point into *@json, which is the caller's. */
int saved_load_info(struct state_file *f, struct saved_info *info, json_t **json, struct error *err);

#endif
