/* What the files that read, write and manage saved VMs know of each other. */
#ifndef GNOMON_VM_SAVED_IMPL_H
#define GNOMON_VM_SAVED_IMPL_H

#include "vm/saved.h"
#include "vm/vm_state.h"
#include <jansson.h>
#include <pthread.h>
#include <sys/stat.h>

extern const char *const saved_kind_name[2];

struct saved {
	struct state_file *file[SAVED_CHAIN_MAX]; /* [0] is the one that was opened */
	unsigned files;
	json_t *json;                             /* of the first: strings of info point in here */
	struct saved_info info;
	struct vm_config_strings strings;
	char *disk_text[DEVICES_DISKS_MAX];       /* of saved_branch_disks() */
	uint64_t pages;
	uint16_t *from;                           /* for each page: the file that has it, plus 1; 0: zeros */
	uint64_t data_pages, asked;
	pthread_mutex_t lock;
	char failure[sizeof(((struct error *)0)->text)];
};

static inline int64_t saved_time_of(const struct stat *st)
{
	return st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
}

/* Can a file of that name be named as a parent? */
bool saved_name_is_plain(const char *name);
/* From a JSON object, which may hold anything; strings point into it. False: it makes no sense. */
bool saved_read_info(struct saved_info *info, json_t *o);
/* The section "saved" of a file; strings of @info point into *@json, which is the caller's. */
int saved_load_info(struct state_file *f, struct saved_info *info, json_t **json, struct error *err);

#endif
