/*
 * Pre-copy from a VM to another one in the same process: all pages are sent while the guest runs, then those that it
 * wrote meanwhile, and so on; then it stops, the rest and the vCPU follow, and it goes on in the other VM. The link is a
 * rate: so many bytes take so long, and so long the guest runs. In the end, before the second VM has anything but what was
 * sent, both memories are compared: a page that KVM did not find written is seen.
 */
#include "kvm_vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static uint64_t pages_of(const struct kvm_machine *m) { return m->vm->memory >> PAGE_SHIFT; }

static uint64_t count(const uint64_t *bitmap, uint64_t words)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < words; i++)
		n += (uint64_t)__builtin_popcountll(bitmap[i]);
	return n;
}

static uint64_t send(struct engine_vm *to, const struct engine_vm *from, const uint64_t *bitmap, uint64_t words)
{
	uint64_t sent = 0;

	for (uint64_t i = 0; i < words; i++) {
		for (uint64_t left = bitmap[i]; left; left &= left - 1) {
			uint64_t at = (i * 64 + (uint64_t)__builtin_ctzll(left)) << PAGE_SHIFT;

			memcpy(to->ram + at, from->ram + at, PAGE_SIZE);
			sent++;
		}
	}
	return sent;
}

static uint64_t differing(const struct engine_vm *a, const struct engine_vm *b)
{
	uint64_t n = 0;

	for (uint64_t at = 0; at < a->memory; at += PAGE_SIZE)
		n += memcmp(a->ram + at, b->ram + at, PAGE_SIZE) != 0;
	return n;
}

static uint64_t time_of(const struct kvm_migration *g, uint64_t pages)
{
	return (uint64_t)((double)pages * PAGE_SIZE * 1e9 / (double)g->bytes_per_second);
}

static int move_rest(struct kvm_machine *m, struct engine_vm *to, struct kvm_migration *g, const uint64_t *bitmap,
		     uint64_t words, struct error *err)
{
	uint64_t pages = send(to, m->vm, bitmap, words);
	struct engine_vm *from = m->vm;
	int ret;

	g->sent += pages;
	g->differ = differing(from, to);
	ret = kvm_vm_copy_vcpu(to, from, err);
	if (ret == 0)
		ret = kvm_vm_log(from, false, err);
	if (ret == 0)
		ret = kvm_machine_set_vm(m, to, err);
	if (ret)
		return ret;
	g->down_ns = time_of(g, pages);
	return 0;
}

static void show_round(const struct kvm_machine *m, unsigned round, uint64_t pages)
{
	printf("KVM-ROUND %u pages %" PRIu64 " at %" PRIu64 " us\n", round, pages, kvm_machine_now(m) / 1000);
	fflush(stdout);
}

int kvm_migrate(struct kvm_machine *m, struct engine_vm *to, struct kvm_migration *g, enum kvm_end *end,
		struct error *err)
{
	uint64_t words = (pages_of(m) + 63) / 64, begun = kvm_machine_now(m), pages = pages_of(m);
	uint64_t *bitmap = calloc(words + 1, sizeof(*bitmap));
	int ret = bitmap ? kvm_vm_log(m->vm, true, err) : error_set(err, -ENOMEM, "out of memory");

	for (uint64_t n = 0; n < pages && bitmap; n++)
		bitmap[n / 64] |= 1ull << n % 64;
	while (ret == 0) {
		if (g->rounds_done)
			ret = kvm_vm_dirty(m->vm, bitmap, err);
		if (ret)
			break;
		pages = count(bitmap, words);
		g->dirty += g->rounds_done ? pages : 0;
		show_round(m, g->rounds_done, pages);
		if (g->rounds_done == g->rounds || (g->rounds_done && pages <= g->left_pages))
			break;
		g->sent += send(to, m->vm, bitmap, words);
		g->rounds_done++;
		*end = kvm_machine_run(m, kvm_machine_now(m) + time_of(g, pages));
		if (*end != KVM_END_NONE)
			goto out;
	}
	if (ret == 0)
		ret = move_rest(m, to, g, bitmap, words, err);
	g->total_ns = kvm_machine_now(m) - begun;
out:
	free(bitmap);
	return ret;
}
