/*
 * Random operations on chains of images and on arrays in memory, which must not differ:
 *
 *	random-disk [-n IMAGES] [-s SEED] [-k STEPS] [-q]
 *
 * A message about an image names it: the seed is the first number. -q: after every so many steps qemu-img has to find
 * the image in order, and its contents the same.
 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What QEMU says; the image is closed meanwhile. */
static void ask_qemu(struct model *m)
{
	const struct model_image *i = &m->image[m->depth - 1];
	char raw[256], command[1024];
	FILE *f;

	model_reopen(m);
	snprintf(raw, sizeof(raw), "%s/model.raw", m->dir);
	f = fopen(raw, "wb");
	if (!f || fwrite(i->data, 1, i->bytes, f) != i->bytes || fclose(f))
		abort();
	snprintf(command, sizeof(command),
	         "exec >%s/log 2>&1; %s%s && qemu-img compare -q -U -f raw -F %s %s %s", m->dir,
	         i->raw ? "true " : "qemu-img check -q -U ", i->path, i->raw ? "raw" : "qcow2", raw, i->path);
	if (system(command)) {
		fprintf(stderr, "%s\n", command);
		abort();
	}
	unlink(raw);
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, images = 20, steps = 150;
	struct model m = {0};
	unsigned long done[16] = {0};
	bool qemu = false;
	char dir[128], command[160];
	int c;

	while ((c = getopt(argc, argv, "n:s:k:q")) != -1) {
		if (c == 'n')
			images = strtoull(optarg, NULL, 0);
		else if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'k')
			steps = strtoull(optarg, NULL, 0);
		else if (c == 'q')
			qemu = true;
		else
			return 2;
	}
	model_directory(dir, sizeof(dir), "random-disk");
	for (uint64_t n = 0; n < images; n++) {
		model_begin(&m, dir, seed + n);
		for (uint64_t k = 0; k < steps; k++) {
			model_step(&m);
			if (qemu && model_random(&m, 60) == 0)
				ask_qemu(&m);
		}
		model_compare(&m);
		model_reopen(&m);
		model_compare(&m);
		if (qemu)
			ask_qemu(&m);
		model_end(&m);
		for (unsigned op = 0; op < 16; op++)
			done[op] += m.done[op];
	}
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	if (system(command))
		return 2;
	for (unsigned op = 0; model_op_name[op]; op++)
		printf("%s %lu%s", model_op_name[op], done[op], model_op_name[op + 1] ? ", " : "\n");
	return 0;
}
