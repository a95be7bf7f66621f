/*
 * See lab_precopy.h. Pages go in batches: their contents are read, and the guest runs for as long as the link takes to
 * carry them. Left out: packets, other traffic, compression, what copying takes of the guest's processor.
 */
#include "lab/lab_precopy.h"
#include "base/bitmap.h"
#include "vm/migrate_policy.h"
#include "vm/pages.h"
#include <errno.h>
#include <stdlib.h>

#define NS_PER_S   1000000000ull
#define HEAD_BYTES 16u /* of a page in the stream: vm/pages.h */

struct move {
	struct lab_precopy *p;
	struct vm *vm;
	struct engine_vm *engine;
	struct lab_state *arrived;
	uint64_t words;
	uint64_t *send, *dirty;       /* bitmaps */
	struct lab_round *round;
	const struct lab_count *before;
	uint64_t begun_insns, begun_ns;
	uint64_t link_ns;             /* the link is busy until then */
	uint64_t batch, batch_bytes;  /* pages that are on their way */
};

static uint64_t carry_ns(const struct lab_precopy *p, uint64_t bytes)
{
	return (uint64_t)((__uint128_t)bytes * NS_PER_S / p->link.bytes_per_second);
}

/* ---- time ---- */

static int note_cut(struct lab_precopy *p, uint64_t insns)
{
	if (p->cuts == p->room) {
		size_t room = p->room ? 2 * p->room : 256;
		uint64_t *bigger = realloc(p->cut, room * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		p->cut = bigger;
		p->room = room;
	}
	p->cut[p->cuts++] = insns;
	return 0;
}

/* The guest runs while the link is busy for so long. Idle time that begins before the end passes whole. */
static int run_for(struct move *m, uint64_t ns, struct error *err)
{
	struct vm_stop stop = VM_STOP_NONE;

	m->link_ns += ns;
	while (engine_now(m->engine) < m->link_ns) {
		stop.insns = vm_insns(m->vm) + (m->link_ns - engine_now(m->engine)); /* each takes at least one */
		if (vm_run_until(m->vm, &stop) == VM_STOPPED_END)
			return error_set(err, -EIO, "the guest ended before it had been copied: the link is too slow");
		if (note_cut(m->p, vm_insns(m->vm)))
			return error_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

/* ---- pages ---- */

static int carry_batch(struct move *m, struct error *err)
{
	uint64_t bytes = m->batch_bytes;

	m->batch = m->batch_bytes = 0;
	m->round->bytes += bytes;
	return run_for(m, carry_ns(m->p, bytes), err);
}

static int put_page(struct move *m, uint64_t page, struct error *err)
{
	int ret = lab_state_page(m->arrived, m->engine, page);

	if (ret < 0)
		return error_set(err, ret, "a page of the guest's memory cannot be read");
	m->round->sent += ret == 1;
	m->round->zeros += ret == 0;
	m->batch_bytes += HEAD_BYTES + (ret == 1 ? PAGE_SIZE : 0);
	return ++m->batch == PAGES_BATCH ? carry_batch(m, err) : 0;
}

static int peek(struct move *m, uint64_t *last_ns)
{
	if ((int64_t)(m->link_ns - *last_ns) < MIGRATE_PEEK_NS)
		return 0;
	*last_ns = m->link_ns;
	return engine_dirty_collect(m->engine, m->dirty);
}

static int send_pages(struct move *m, struct error *err)
{
	uint64_t last_ns = m->link_ns, passed = 0;
	int ret = 0;

	for (uint64_t page = 0; ret == 0; page++) {
		page = bitmap_next(m->send, page, m->arrived->pages);
		if (page == m->arrived->pages)
			break;
		if (++passed % MIGRATE_PEEK_PAGES == 0)
			ret = peek(m, &last_ns);
		bitmap_clear(m->send, page);
		if (bitmap_has(m->dirty, page))
			m->round->again++;
		else if (ret == 0)
			ret = put_page(m, page, err);
	}
	return ret ? ret : carry_batch(m, err);
}

/* ---- rounds ---- */

static void begin_round(struct move *m)
{
	m->round = &m->p->round[m->p->rounds];
	*m->round = (struct lab_round){.due = bitmap_count(m->send, m->words)};
}

static void end_round(struct move *m, bool stopped)
{
	m->round->insns = vm_insns(m->vm) - m->begun_insns;
	m->round->ns = m->link_ns - m->begun_ns;
	if (m->p->ended)
		m->p->ended(m->p->ctx, m->p, stopped);
}

static int one_round(struct move *m, struct migrate_round *r, struct error *err)
{
	uint64_t begun = m->link_ns, *swap = m->send;
	int ret;

	begin_round(m);
	ret = send_pages(m, err);
	if (ret == 0)
		ret = run_for(m, m->p->link.answer_ns, err);
	if (ret == 0)
		ret = engine_dirty_collect(m->engine, m->dirty);
	m->send = m->dirty;
	m->dirty = swap; /* all zeros by now */
	*r = (struct migrate_round){.pages = m->round->sent, .zeros = m->round->zeros, .bytes = m->round->bytes,
				    .ns = (int64_t)(m->link_ns - begun), .left = bitmap_count(m->send, m->words)};
	return ret;
}

static int copy_while_it_runs(struct move *m, struct error *err)
{
	struct migrate_options opt = MIGRATE_OPTIONS_DEFAULT;
	enum migrate_verdict verdict;
	struct migrate_policy policy;
	struct migrate_round r;

	opt.rounds = m->p->link.rounds;
	opt.downtime_ns = m->p->link.downtime_ns;
	migrate_policy_init(&policy, &opt, (int64_t)m->p->link.answer_ns);
	bitmap_fill(m->send, m->arrived->pages);
	do {
		int ret = one_round(m, &r, err);

		if (ret)
			return ret;
		verdict = migrate_policy_decide(&policy, &r);
		end_round(m, false);
		m->p->rounds++;
	} while (verdict == MIGRATE_GO_ON);
	m->p->converged = r.left <= MIGRATE_FEW_PAGES || policy.expected_ns <= opt.downtime_ns;
	return 0;
}

/* The VM stands still: what is left, and the state. */
static int copy_the_rest(struct move *m, struct error *err)
{
	uint64_t begun = m->link_ns;
	int ret = 0;

	if (vm_quiesce(m->vm))
		return error_set(err, -EIO, "the guest ended before it had been copied");
	ret = note_cut(m->p, vm_insns(m->vm));
	if (ret == 0)
		ret = engine_dirty_collect(m->engine, m->send);
	lab_count_look(m->vm, &m->p->spent);
	lab_count_subtract(&m->p->spent, m->before);
	begin_round(m);
	for (uint64_t page = 0; ret == 0; page++) {
		page = bitmap_next(m->send, page, m->arrived->pages);
		if (page == m->arrived->pages)
			break;
		ret = lab_state_page(m->arrived, m->engine, page);
		m->round->sent += ret == 1;
		m->round->zeros += ret == 0;
		ret = ret < 0 ? ret : 0;
	}
	if (ret)
		return error_set(err, ret, "what is left of the guest's memory cannot be copied");
	ret = lab_state_sections(m->arrived, m->vm, err);
	m->round->bytes = HEAD_BYTES * (m->round->sent + m->round->zeros) + PAGE_SIZE * m->round->sent +
			  m->arrived->bytes;
	m->link_ns += carry_ns(m->p, m->round->bytes) + m->p->link.answer_ns;
	m->p->downtime_ns = m->link_ns - begun;
	m->p->total_ns = m->link_ns - m->begun_ns;
	end_round(m, true);
	return ret;
}

int lab_precopy_run(struct lab_precopy *p, struct vm *vm, enum engine_dirty how, struct lab_state *arrived,
		    struct error *err)
{
	struct move m = {.p = p, .vm = vm, .engine = vm_engine(vm), .arrived = arrived,
			 .words = bitmap_words(arrived->pages), .begun_insns = vm_insns(vm)};
	struct lab_count before;
	int ret = 0;

	lab_count_look(vm, &before);
	m.before = &before;
	p->rounds = 0;
	p->cuts = 0;
	m.link_ns = m.begun_ns = engine_now(m.engine);
	m.send = calloc(m.words, sizeof(*m.send));
	m.dirty = calloc(m.words, sizeof(*m.dirty));
	if (!m.send || !m.dirty)
		ret = error_set(err, -ENOMEM, "out of memory");
	engine_dirty_watch(m.engine, p->log);
	if (ret == 0)
		ret = engine_dirty_arm(m.engine, how, err);
	if (ret == 0)
		ret = copy_while_it_runs(&m, err);
	if (ret == 0)
		ret = copy_the_rest(&m, err);
	engine_dirty_watch(m.engine, NULL);
	engine_dirty_disarm(m.engine);
	free(m.send);
	free(m.dirty);
	return ret;
}

void lab_precopy_fini(struct lab_precopy *p)
{
	free(p->cut);
	p->cut = NULL;
	p->cuts = p->room = 0;
}
