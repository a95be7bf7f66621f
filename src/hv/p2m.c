/*
 * The p2m: which machine frame stands behind a frame of the guest. One word for
 * every frame of guest RAM, in host memory; a frame is allocated when it is first
 * used, so an untouched page of the guest costs nothing. With large host pages
 * allocation happens in naturally aligned runs of 2^9 or 2^18 frames, smaller ones
 * where the run would reach past the guest's RAM or the machine has none left.
 *
 * A frame may be absent: its contents are elsewhere (in a file, at another host) and are fetched when it is first
 * looked at, by whomever. To all others it is a frame like any.
 *
 * A frame that was given stays, unless the guest asked for a range to be contiguous (p2m_make_run()): then its contents move.
 *
 * Left out: sharing, ballooning and paging out.
 */
#include "hv/core.h"
#include "hv/dirty.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* A word: mfn, the order of the run it was allocated in, and whether there is one. */
#define P2M_VALID       0x80000000u
#define P2M_ORDER_SHIFT 29
#define P2M_MFN         0x1fffffffu
#define P2M_ABSENT      1u /* the word of a frame that is not there yet, but has contents */
static_assert(MACHMEM_SPAN_MAX >> PAGE_SHIFT <= P2M_MFN + 1ull, "every frame number fits");

struct p2m {
	uint32_t *word[ENGINE_RANGES_MAX];     /* for each range of guest RAM: [ram[i].bytes >> PAGE_SHIFT] */
	uint64_t frames;       /* allocated */
	struct p2m_source source;
	struct p2m_watch watch;
	uint32_t *old;         /* room for the words of a range that moves */
	bool broken;           /* contents could not be had: the guest must not run on */
};

static const unsigned order_of[3] = {0, 9, 18};

int p2m_init(struct hv_vm *vm, struct error *err)
{
	struct p2m *p = calloc(1, sizeof(*p));

	if (!p)
		return error_set(err, -ENOMEM, "p2m: out of memory");
	vm->p2m = p;
	for (unsigned i = 0; i < vm->rams; i++) {
		p->word[i] = calloc(vm->ram[i].bytes >> PAGE_SHIFT, sizeof(*p->word[i]));
		if (!p->word[i]) {
			p2m_destroy(vm);
			return error_set(err, -ENOMEM, "p2m: out of memory");
		}
	}
	return 0;
}

void p2m_destroy(struct hv_vm *vm)
{
	struct p2m *p = vm->p2m;

	if (!p)
		return;
	machmem_free_owner(vm->mem, vm->owner);
	for (unsigned i = 0; i < vm->rams; i++)
		free(p->word[i]);
	free(p->old);
	free(p);
	vm->p2m = NULL;
}

static uint32_t *word_of(const struct hv_vm *vm, uint64_t g)
{
	for (unsigned i = 0; i < vm->rams; i++) {
		uint64_t first = vm->ram[i].base >> PAGE_SHIFT;

		if (g - first < vm->ram[i].bytes >> PAGE_SHIFT)
			return &vm->p2m->word[i][g - first];
	}
	return NULL;
}

bool p2m_is_ram(const struct hv_vm *vm, uint64_t a) { return word_of(vm, a >> PAGE_SHIFT) != NULL; }

static void read_word(uint32_t w, mfn_t *m, unsigned *order)
{
	*m = mfn(w & P2M_MFN);
	if (order)
		*order = order_of[w >> P2M_ORDER_SHIFT & 3];
}

/* The words of @frames frames from @first on; NULL: they are not all RAM. */
static uint32_t *words_of(const struct hv_vm *vm, uint64_t first, uint64_t frames)
{
	uint32_t *w = word_of(vm, first), *last = word_of(vm, first + frames - 1);

	if (frames > machmem_pages(vm->ram, vm->rams))
		return NULL;
	return w && last && (uint64_t)(last - w) == frames - 1 ? w : NULL;
}

/* Is the aligned run of 2^order frames around @g all guest RAM without frames yet? */
static bool run_is_empty(const struct hv_vm *vm, uint64_t g, unsigned order)
{
	const uint32_t *w = words_of(vm, g >> order << order, 1ull << order);

	for (uint64_t i = 0; w && i < 1ull << order; i++)
		if (w[i] & P2M_VALID)
			return false;
	return w;
}

void p2m_set_watch(struct hv_vm *vm, const struct p2m_watch *watch) { vm->p2m->watch = *watch; }

void p2m_set_source(struct hv_vm *vm, const struct p2m_source *source) { vm->p2m->source = *source; }

int p2m_set_absent(struct hv_vm *vm, gfn_t g)
{
	uint32_t *w = word_of(vm, g.v);

	if (!w)
		return -EFAULT;
	if (*w & P2M_VALID)
		return -EEXIST;
	*w = P2M_ABSENT;
	return 0;
}

/* Brings the contents of those frames of a new run that have some. */
static int fetch_run(struct hv_vm *vm, const uint32_t *w, uint64_t g, uint64_t frames, mfn_t first)
{
	const struct p2m_source *s = &vm->p2m->source;

	for (uint64_t i = 0; i < frames; i++) {
		void *page = machmem_ptr(vm->mem, mfn_to_hpa(mfn(first.v + i)));

		if (w[i] != P2M_ABSENT || !s->fetch(s->ctx, gfn(g + i), page))
			continue;
		vm->p2m->broken = true;
		return -EIO;
	}
	return 0;
}

/* Allocates a run of order number @n (index of order_of) around @g. */
static int allocate_run(struct hv_vm *vm, uint64_t g, unsigned n)
{
	struct p2m *p = vm->p2m;
	unsigned order = order_of[n];
	uint64_t frames = 1ull << order;
	uint32_t *w;
	mfn_t first;
	int r;

	if (!run_is_empty(vm, g, order))
		return -ENOMEM;
	r = machmem_alloc(vm->mem, order, vm->owner, &first);
	if (r)
		return r;
	w = word_of(vm, g >> order << order);
	r = fetch_run(vm, w, g >> order << order, frames, first);
	if (r) {
		machmem_free(vm->mem, first, frames);
		return r;
	}
	for (uint64_t i = 0; i < frames; i++) /* after the contents: others may look, see p2m_look() */
		__atomic_store_n(&w[i], P2M_VALID | n << P2M_ORDER_SHIFT | (uint32_t)(first.v + i), __ATOMIC_RELEASE);
	p->frames += frames;
	vm->obs.tables.guest_frames = p->frames;
	hv_dirty_frames_given(vm, gfn(g >> order << order), first, frames);
	if (vm->mmu->p2m_changed)
		vm->mmu->p2m_changed(vm, gfn(g >> order << order), frames);
	return 0;
}

int p2m_get(struct hv_vm *vm, gfn_t g, mfn_t *m, unsigned *order)
{
	uint32_t *w = word_of(vm, g.v);

	if (!w)
		return -EFAULT;
	if (!(*w & P2M_VALID)) {
		unsigned n = vm->cfg.host_pages == HOST_PAGES_1G ? 2 : vm->cfg.host_pages == HOST_PAGES_2M ? 1 : 0;
		int r;

		while ((r = allocate_run(vm, g.v, n)) != 0)
			if (r != -ENOMEM || n-- == 0)
				return r;
	}
	read_word(*w, m, order);
	return 0;
}

int p2m_peek(const struct hv_vm *vm, gfn_t g, mfn_t *m, unsigned *order)
{
	const uint32_t *w = word_of(vm, g.v);

	if (!w)
		return -EFAULT;
	if (!(*w & P2M_VALID))
		return -ENOENT;
	read_word(*w, m, order);
	return 0;
}

/* ---- moving ---- */

/* Is the range in one piece already, and of 2 MiB pages if such are wanted? */
static bool is_run(const uint32_t *w, uint64_t frames, unsigned order)
{
	for (uint64_t i = 0; i < frames; i++)
		if (!(w[i] & P2M_VALID) || (w[i] & P2M_MFN) != (w[0] & P2M_MFN) + i ||
		    order_of[w[i] >> P2M_ORDER_SHIFT & 3] < order)
			return false;
	return true;
}

/* The larger run that @g is in loses a part: its frames stand each for itself from now on. Widens [*first, *end) to it. */
static void break_run(struct hv_vm *vm, uint64_t g, uint64_t *first, uint64_t *end)
{
	const uint32_t *at = word_of(vm, g);
	unsigned order = *at & P2M_VALID ? order_of[*at >> P2M_ORDER_SHIFT & 3] : 0;
	uint64_t from = g >> order << order;
	uint32_t *w = word_of(vm, from);

	for (uint64_t i = 0; order && i < 1ull << order; i++)
		__atomic_store_n(&w[i], w[i] & ~(3u << P2M_ORDER_SHIFT), __ATOMIC_RELEASE);
	*first = min_u64(*first, from);
	*end = max_u64(*end, from + (1ull << order));
}

/* What is in the frames goes to the new ones from @to on. */
static int copy_run(struct hv_vm *vm, const uint32_t *w, uint64_t g, uint64_t frames, mfn_t to)
{
	const struct p2m_watch *watch = &vm->p2m->watch;

	for (uint64_t i = 0; i < frames; i++) {
		if (!(w[i] & P2M_VALID))
			continue;
		if (watch->moves)
			watch->moves(watch->ctx, gfn(g + i), false);
		hv_snoop(vm, (g + i) << PAGE_SHIFT, PAGE_SIZE); /* code decoded from the old frame is not found any more */
		memcpy(machmem_ptr(vm->mem, mfn_to_hpa(mfn(to.v + i))),
		       machmem_ptr(vm->mem, mfn_to_hpa(mfn(w[i] & P2M_MFN))), PAGE_SIZE);
	}
	return fetch_run(vm, w, g, frames, to);
}

/*
 * Nobody has any use for the frame any more that guest frame @g had. Who looked at it from another thread may have
 * seen it as it went: for a tracker the page was written.
 */
static void leave_frame(struct hv_vm *vm, uint64_t g, mfn_t old)
{
	const struct p2m_watch *watch = &vm->p2m->watch;

	hv_note_written(vm, g << PAGE_SHIFT);
	machmem_free(vm->mem, old, 1);
	if (watch->moves)
		watch->moves(watch->ctx, gfn(g), true);
	vm->obs.pv.moved++;
}

/* The frames [g, g + frames) become those from @to on; the backend learns of all whose word changes. */
static void replace_run(struct hv_vm *vm, uint32_t *w, uint64_t g, uint64_t frames, mfn_t to, unsigned order)
{
	uint32_t mark = P2M_VALID | (order ? 1u << P2M_ORDER_SHIFT : 0);
	uint64_t first = g, end = g + frames, had = 0;

	for (uint64_t i = 0; i < frames; i++)
		break_run(vm, g + i, &first, &end);
	hv_dirty_frames_given(vm, gfn(g), to, frames);
	for (uint64_t i = 0; i < frames; i++) {
		uint32_t old = w[i];

		__atomic_store_n(&w[i], mark | (uint32_t)(to.v + i), __ATOMIC_RELEASE);
		vm->p2m->old[i] = old;
		had += old & P2M_VALID ? 1 : 0;
	}
	vm->p2m->frames += frames - had;
	vm->obs.tables.guest_frames = vm->p2m->frames;
	if (vm->mmu->p2m_changed)
		vm->mmu->p2m_changed(vm, gfn(first), end - first);
	if (vm->mmu->p2m_moved)
		vm->mmu->p2m_moved(vm);
	for (uint64_t i = 0; i < frames; i++)
		if (vm->p2m->old[i] & P2M_VALID)
			leave_frame(vm, g + i, mfn(vm->p2m->old[i] & P2M_MFN));
}

int p2m_make_run(struct hv_vm *vm, gfn_t first, uint64_t frames, unsigned order, mfn_t *m)
{
	uint32_t *w = frames ? words_of(vm, first.v, frames) : NULL;
	uint32_t *old;
	int r;

	assert(!order || (order == 9 && frames == 512 && first.v % 512 == 0));
	if (!w)
		return -EFAULT;
	if (is_run(w, frames, order)) {
		*m = mfn(w[0] & P2M_MFN);
		return 0;
	}
	old = realloc(vm->p2m->old, frames * sizeof(*old));
	if (!old)
		return -ENOMEM;
	vm->p2m->old = old;
	r = order ? machmem_alloc(vm->mem, order, vm->owner, m) : machmem_alloc_run(vm->mem, frames, vm->owner, m);
	if (r)
		return r;
	r = copy_run(vm, w, first.v, frames, *m);
	if (r)
		machmem_free(vm->mem, *m, frames);
	else
		replace_run(vm, w, first.v, frames, *m, order);
	return r;
}

const void *p2m_contents(struct hv_vm *vm, gfn_t g)
{
	const uint32_t *w = word_of(vm, g.v);

	return w && *w ? p2m_ptr(vm, g.v << PAGE_SHIFT) : NULL;
}

bool p2m_is_broken(const struct hv_vm *vm) { return vm->p2m->broken; }

const void *p2m_look(const struct hv_vm *vm, gfn_t g, bool *absent)
{
	const uint32_t *at = word_of(vm, g.v);
	uint32_t w = at ? __atomic_load_n(at, __ATOMIC_ACQUIRE) : 0;

	*absent = w == P2M_ABSENT;
	return w & P2M_VALID ? machmem_ptr(vm->mem, mfn_to_hpa(mfn(w & P2M_MFN))) : NULL;
}

void *p2m_ptr(struct hv_vm *vm, uint64_t a)
{
	mfn_t m;

	if (p2m_get(vm, gfn(a >> PAGE_SHIFT), &m, NULL))
		return NULL;
	return machmem_ptr(vm->mem, hpa(m.v << PAGE_SHIFT | (a & ~PAGE_MASK)));
}

uint64_t p2m_bytes(const struct hv_vm *vm)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < vm->rams; i++)
		bytes += (vm->ram[i].bytes >> PAGE_SHIFT) * sizeof(uint32_t);
	return bytes;
}
