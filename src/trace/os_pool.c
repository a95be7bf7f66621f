/*
 * HugeGPT's side of the guest: tables come from regions of 2 MiB blocks that the host was asked to back by large
 * pages of its own, so that its walks for addresses of tables are one reference shorter. The pool begins with a
 * segment and grows by such; where memory has no such room in a row any more, by ever smaller ones; and when there is
 * none, tables are ordinary.
 *
 * And requests to the host in general: a page of the kernel with a struct pv_request, the MSR that says where, and a
 * look at the answer, which the model knows by itself.
 */
#include "trace/os_impl.h"

#include <errno.h>
#include <stdlib.h>

static bool all_ram(const struct osm *o, uint64_t first, uint64_t frames)
{
	for (uint64_t f = first; f < first + frames; f++)
		if (f >= o->frames || o->frame[f].type == OS_NO_RAM)
			return false;
	return true;
}

bool os_request(struct osm *o, enum pv_op op, uint64_t first, uint64_t frames, uint64_t *id)
{
	struct pv_request r = {.op = op, .gpa = first << PAGE_SHIFT, .pages = frames,
				.id = op == PV_TEA_FREE ? *id : 0};
	uint64_t pa;

	if (!o->request_frame && !os_frame_alloc_fixed(o, OS_KERNEL, &o->request_frame))
		return false;
	pa = o->request_frame << PAGE_SHIFT;
	os_store(o, OS_TEXT_PV_STORE, pa, op);
	os_store(o, OS_TEXT_PV_STORE, pa + 8, r.gpa);
	os_store(o, OS_TEXT_PV_STORE, pa + 16, r.pages);
	os_store(o, OS_TEXT_PV_STORE, pa + 24, r.id);
	os_wrmsr(o, OS_TEXT_PV_MSR, MSR_PV_REQUEST, pa);
	os_load(o, OS_TEXT_PV_LOAD, pa);
	if (op == PV_TEA_ALLOC)
		os_load(o, OS_TEXT_PV_LOAD, pa + 24);
	pv_serve(&o->pv, &r, all_ram(o, first, frames));
	*id = r.id;
	return r.status == PV_DONE;
}

/* ---- the pool ---- */

static bool add_segment(struct osm *o, uint64_t frames)
{
	struct os_pool_segment *p = realloc(o->pool, (o->segments + 1) * sizeof(*p)), new;
	uint64_t none = 0;

	if (p)
		o->pool = p;
	if (!p || os_bits_init(&new.used, frames)) {
		os_fail(o, -ENOMEM, "out of memory");
		return false;
	}
	if (!os_contig_alloc(o, frames, OS_ENTRIES, &new.first)) {
		os_bits_free(&new.used);
		return false;
	}
	os_frame_fix(o, new.first, frames, OS_POOL, false);
	o->pool[o->segments++] = new;
	o->stats.pool.segments++;
	o->stats.pool.frames += frames;
	o->stats.pool.refused += !os_request(o, PV_HUGE, new.first, frames, &none);
	return true;
}

static bool grow(struct osm *o)
{
	uint64_t frames = o->cfg.pool_segment >> PAGE_SHIFT;

	for (; frames >= OS_ENTRIES && !o->failed; frames = frames / 2 & ~(uint64_t)(OS_ENTRIES - 1))
		if (add_segment(o, frames))
			return true;
	return false;
}

static bool alloc_in(struct osm *o, struct os_pool_segment *p, uint64_t *frame)
{
	uint64_t n = os_bits_next_gap(&p->used, 0);

	if (n == OS_BITS_NONE)
		return false;
	os_bits_add(&p->used, n);
	*frame = p->first + n;
	if (o->frame[*frame].stale)
		os_clear_page(o, *frame);
	if (++o->stats.pool.used > o->stats.pool.used_max)
		o->stats.pool.used_max = o->stats.pool.used;
	return true;
}

bool os_pool_alloc(struct osm *o, uint64_t *frame)
{
	for (unsigned i = 0; i < o->segments; i++)
		if (alloc_in(o, &o->pool[i], frame))
			return true;
	if (grow(o))
		return alloc_in(o, &o->pool[o->segments - 1], frame);
	o->stats.pool.fallbacks++;
	return false;
}

void os_pool_free(struct osm *o, uint64_t frame)
{
	struct os_pool_segment *p = o->pool;

	while (frame - p->first >= p->used.bits)
		p++;
	os_bits_remove(&p->used, frame - p->first);
	o->stats.pool.used--;
}

void os_pool_destroy(struct osm *o)
{
	for (unsigned i = 0; i < o->segments; i++)
		os_bits_free(&o->pool[i].used);
	free(o->pool);
}
