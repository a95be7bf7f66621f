// SPDX-License-Identifier: GPL-2.0
/*
 * Translation entry areas (TEAs): the last-level tables of a large VMA in one physically contiguous run, a page for each 2 MiB
 * of addresses. A register says where the run is, and the processor finds a leaf entry by arithmetic.
 *
 * A TEA is made at the first fault in a VMA of at least gnomon.tea_min bytes. A VMA that overlaps it or is near (what no VMA
 * had in between, its bubbles, is at most 2 % of the whole) joins it: the TEA grows in place, or a new run is
 * allocated and the tables move there. It ends when no VMA is left in it. Whatever cannot be had - frames in a row, a
 * free register - leaves a VMA with ordinary tables, which are right as well.
 *
 * The run has a reference to each of its pages for good; one that is linked as a table has one more, so that who frees a table
 * needs to know nothing of TEAs. A page is linked only at its own place, or not at all. The processor reads pages
 * that are not linked, too: they hold no present entry.
 *
 * Locks: an array of TEAs is changed under gnomon_mm.lock and page_table_lock, and read under either. Tables move under
 * page_table_lock with mmap_lock held for reading, which is enough on one processor without preemption: who sleeps
 * holds no pointer into a table. SMP would need mmap_lock for writing.
 *
 * Huge pages: their entries are in second-level tables, each of which is contiguous for 1 GiB as it is. One that has, or had, huge
 * pages in a TEA's addresses gets a register, while there are any left. It has a reference of ours as well, so that it
 * stays what it is until the register goes.
 *
 * Left out: stacks.
 */
#include <linux/gnomon_tables.h>
#include <linux/highmem.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/swap.h>

#include <asm/io.h>
#include <asm/msr.h>
#include <asm/pgalloc.h>
#include <asm/tlbflush.h>

#include "gnomon_tables.h"

#define BUBBLE_SHARE	50	/* one part in so many */
#define GROWTH_SHARE	8	/* who grows gets one part in so many more, so as not to grow again soon */

struct span {
	unsigned long start, end;	/* multiples of 2 MiB */
};

struct tea {
	struct span at;
	unsigned long bubbles;		/* bytes */
	struct page *run;		/* the page for at.start */
	u16 id;				/* gTEA, 0: none */
};

/* A second-level table with huge pages, and the first address that it maps. */
struct huge_table {
	struct page *page;
	unsigned long start;
	u16 id;
};

/* One page a process that has, or had, a TEA. */
struct gnomon_mm {
	struct dmt_entry regs[DMT_REGISTERS] __aligned(DMT_ALIGN);
	unsigned int n_regs;
	struct mutex lock;
	unsigned int n, n_huge;
	struct tea tea[DMT_REGISTERS];
	struct huge_table huge[DMT_REGISTERS];
	struct span refused[DMT_REGISTERS];	/* what there could be no TEA for: asked again when it has changed */
	unsigned int next_refused;
};
static_assert(sizeof(struct gnomon_mm) <= PAGE_SIZE);

static u64 loaded;	/* what MSR_GNOMON_DMT_LOAD was last set to */

static struct {
	u64 made, joined, grown, moved, tables_moved, freed;
	u64 no_memory, no_register, no_gtea;
	u64 placed, parked, huge, loads;
} count;

#define page_table_pages(at) (((at)->end - (at)->start) >> PMD_SHIFT)

/* ---- registers ---- */

static void load_registers(struct mm_struct *mm)
{
	struct gnomon_mm *g = mm->context.gnomon;
	u64 value = g && g->n_regs ? __pa(g->regs) | g->n_regs : 0;

	if (!value && !loaded)
		return;
	wrmsrl(MSR_GNOMON_DMT_LOAD, value);
	loaded = value;
	count.loads++;
}

void gnomon_tea_switch(struct mm_struct *next)
{
	if (gnomon_tea_on)
		load_registers(next);
}

static void add_register(struct gnomon_mm *g, unsigned long start, unsigned long end, u64 tea, u64 info)
{
	if (start < end && g->n_regs < DMT_REGISTERS)
		g->regs[g->n_regs++] = (struct dmt_entry){ start, end, tea, DMT_PRESENT | info };
}

/* Entries of @h for the addresses of @at. */
static void add_huge_register(struct gnomon_mm *g, const struct huge_table *h, const struct span *at)
{
	unsigned long start = max(h->start, at->start), end = min(h->start + PUD_SIZE, at->end);

	add_register(g, start, end, page_to_phys(h->page) + ((start - h->start) >> PMD_SHIFT) * sizeof(pmd_t),
		     DMT_2M | (u64)h->id << DMT_ID_SHIFT);
}

/* After a change of what they are made of: page_table_lock is held. */
static void update_registers(struct mm_struct *mm, struct gnomon_mm *g)
{
	g->n_regs = 0;
	for (unsigned int i = 0; i < g->n; i++)
		add_register(g, g->tea[i].at.start, g->tea[i].at.end, page_to_phys(g->tea[i].run),
			     (u64)g->tea[i].id << DMT_ID_SHIFT);
	for (unsigned int i = 0; i < g->n_huge; i++)
		for (unsigned int j = 0; j < g->n; j++)
			add_huge_register(g, &g->huge[i], &g->tea[j].at);
	barrier();
	if (this_cpu_read(cpu_tlbstate.loaded_mm) == mm)
		load_registers(mm);
}

/* ---- gTEAs ---- */

/* Asks the host for @n pages in a row; what it calls them, or 0. */
static u16 gtea_alloc(struct page *first, unsigned long n)
{
	u16 id = 0;

	if (gnomon_mode == GNOMON_PVDMT && !gnomon_request(PV_TEA_ALLOC, first, n, &id))
		count.no_gtea++;
	return id;
}

static void gtea_free(u16 id)
{
	if (id)
		gnomon_request(PV_TEA_FREE, NULL, 0, &id);
}

/* ---- tables in their places ---- */

static struct page *page_at(const struct tea *t, unsigned long addr)
{
	return t->run + ((addr - t->at.start) >> PMD_SHIFT);
}

static bool within(const struct span *at, unsigned long addr) { return at->start <= addr && addr < at->end; }

/* pmd_alloc_one() noted in a PMD table what its first entry maps. */
static unsigned long address_of(pmd_t *pmd)
{
	unsigned long entry = offset_in_page(pmd) / sizeof(*pmd);

	return virt_to_page(pmd)->index + (entry << PMD_SHIFT);
}

/* The page whose place is *@pmd, or NULL. */
static struct page *page_for(struct mm_struct *mm, pmd_t *pmd)
{
	struct gnomon_mm *g = mm->context.gnomon;
	unsigned long addr;

	if (!g)
		return NULL;
	addr = address_of(pmd);
	for (unsigned int i = 0; i < g->n; i++)
		if (within(&g->tea[i].at, addr))
			return page_at(&g->tea[i], addr);
	return NULL;
}

/* Makes @page, which is free, a table; false if that cannot be. */
static bool page_becomes_table(struct page *page)
{
	if (page_ref_count(page) != 1 || !pgtable_pte_page_ctor(page))
		return false;
	get_page(page);
	return true;
}

pgtable_t gnomon_tea_place_table(struct mm_struct *mm, pmd_t *pmd, pgtable_t table)
{
	struct page *page = page_for(mm, pmd);

	if (!page || page == table || !page_becomes_table(page))
		return table;
	clear_highpage(page);
	pte_free(mm, table);
	count.placed++;
	return page;
}

/* There is a huge page in *@pmd. */
static void note_huge(struct mm_struct *mm, pmd_t *pmd)
{
	struct gnomon_mm *g = mm->context.gnomon;
	struct page *page = virt_to_page(pmd);

	for (unsigned int i = 0; i < g->n_huge; i++)
		if (g->huge[i].page == page)
			return;
	if (g->n_huge == DMT_REGISTERS)
		return;
	get_page(page);
	g->huge[g->n_huge++] = (struct huge_table){ page, page->index, gtea_alloc(page, 1) };
	update_registers(mm, g);
	count.huge++;
}

/* A huge page comes, with a table for later. Parked: one that stays in its place in a TEA and is not linked. */
bool gnomon_tea_park_table(struct mm_struct *mm, pmd_t *pmd, pgtable_t table)
{
	struct page *page = page_for(mm, pmd);

	if (page)
		note_huge(mm, pmd);
	if (page != table)
		return false;
	SetPageOwnerPriv1(table);
	count.parked++;
	return true;
}

pgtable_t gnomon_tea_unpark_table(struct mm_struct *mm, pmd_t *pmd)
{
	struct page *page = page_for(mm, pmd);

	if (!page || !PageOwnerPriv1(page))
		return NULL;
	ClearPageOwnerPriv1(page);
	return page;
}

/* ---- runs of frames ---- */

/*
 * Who wants a frame is refused all of its pageblock (4 MiB) if there is something in it that cannot be moved. So that a run can
 * grow into the rest of its own, its pages pretend that they can be, and refuse when it comes to it.
 */
static bool stay(struct page *page, isolate_mode_t mode) { return false; }
static int stay_anyway(struct page *to, struct page *from, enum migrate_mode mode) { return -EAGAIN; }
static void stayed(struct page *page) { }

static const struct movable_operations run_pages = {
	.isolate_page = stay,
	.migrate_page = stay_anyway,
	.putback_page = stayed,
};

/* Frames just allocated become pages of a run, with no entry in them. */
static void run_add(struct page *first, unsigned long n)
{
	for (struct page *page = first; page < first + n; page++) {
		clear_highpage(page);
		lock_page(page);
		__SetPageMovable(page, &run_pages);
		unlock_page(page);
	}
}

/* Freeing ends the pretence, too. */
static void run_free(struct page *first, unsigned long n)
{
	if (n)
		free_contig_range(page_to_pfn(first), n);
}

/*
 * Short runs the page allocator may have at hand; for others frames are cleared of what they hold, which takes a while. Either
 * way they lie among movable pages, which a run that grows can push away.
 */
static struct page *run_alloc(unsigned long n)
{
	void *at = NULL;

	if (n <= MAX_ORDER_NR_PAGES)
		at = alloc_pages_exact(n << PAGE_SHIFT, GFP_KERNEL | __GFP_MOVABLE | __GFP_NORETRY | __GFP_NOWARN);
	return at ? virt_to_page(at) : alloc_contig_pages(n, GFP_KERNEL | __GFP_NOWARN, numa_node_id(), NULL);
}

static bool frames_alloc(struct tea *t)
{
	unsigned long n = page_table_pages(&t->at);

	t->run = run_alloc(n);
	if (t->run)
		run_add(t->run, n);
	return t->run;
}

/* Takes just these frames, whoever has them now, if that can be. */
static bool frames_take(unsigned long first, unsigned long n)
{
	struct zone *zone = NULL;

	for (unsigned long pfn = first; pfn < first + n; pfn++) {
		struct page *page = pfn_to_online_page(pfn);

		if (!page || PageReserved(page) || (zone && page_zone(page) != zone))
			return false;
		zone = page_zone(page);
	}
	lru_add_drain(); /* a page on its way to the LRU lists cannot be moved */
	if (n && alloc_contig_range(first, first + n, MIGRATE_MOVABLE, GFP_KERNEL | __GFP_NOWARN))
		return false;
	run_add(pfn_to_page(first), n);
	return true;
}

/* No register names it any more, and none of its pages is a table. */
static void tea_free(struct tea *t)
{
	gtea_free(t->id);
	run_free(t->run, page_table_pages(&t->at));
	count.freed++;
}

/* Makes @t's run reach over @to, with frames before and behind it; unchanged if those cannot be had. */
static bool tea_extend(struct tea *t, const struct span *to)
{
	unsigned long before = (t->at.start - to->start) >> PMD_SHIFT, behind = (to->end - t->at.end) >> PMD_SHIFT;
	unsigned long first = page_to_pfn(t->run);

	if (before > first || !frames_take(first - before, before))
		return false;
	if (!frames_take(first + page_table_pages(&t->at), behind)) {
		run_free(pfn_to_page(first - before), before);
		return false;
	}
	gtea_free(t->id);
	t->at = *to;
	t->run -= before;
	t->id = gtea_alloc(t->run, page_table_pages(to));
	return true;
}

/* ---- tables that are there already ---- */

static pmd_t *find_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (!pgd_present(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	return pud_present(*pud) && !pud_leaf(*pud) ? pmd_offset(pud, addr) : NULL;
}

/* The table at @addr moves to @page, linked or parked as it was. What it was in before goes on @old. */
static void move_table(struct mm_struct *mm, unsigned long addr, struct page *page, struct list_head *old)
{
	pmd_t *pmd = find_pmd(mm, addr);
	struct page *was;

	if (!pmd || pmd_none(*pmd))
		return;
	if (pmd_present(*pmd) && !pmd_leaf(*pmd)) {
		was = pmd_page(*pmd);
		if (was == page || !page_becomes_table(page))
			return;
		copy_highpage(page, was);
		pmd_populate(mm, pmd, page);
		clear_highpage(was); /* it may be in a run that registers still name */
	} else {
		was = page_for(mm, pmd);
		if (!was || was == page || !PageOwnerPriv1(was) || !page_becomes_table(page))
			return;
		ClearPageOwnerPriv1(was);
		SetPageOwnerPriv1(page);
	}
	list_add(&was->lru, old);
	count.tables_moved++;
}

/* All tables of @t's addresses come to their places in it. page_table_lock is held; the array does not have @t yet. */
static void move_tables(struct mm_struct *mm, const struct tea *t, struct list_head *old)
{
	for (unsigned long addr = t->at.start; addr < t->at.end; addr += PMD_SIZE)
		move_table(mm, addr, page_at(t, addr), old);
}

/* The tables that have moved: no TLB may lead to them when they are freed. */
static void free_old_tables(struct mm_struct *mm, const struct tea *t, struct list_head *old)
{
	struct page *page, *next;

	if (list_empty(old))
		return;
	flush_tlb_mm_range(mm, t->at.start, t->at.end, PAGE_SHIFT, true);
	list_for_each_entry_safe(page, next, old, lru) {
		list_del(&page->lru);
		pte_free(mm, page);
	}
}

/* @t, complete, takes the place of the TEAs whose bits are set in @joined. */
static void tea_publish(struct mm_struct *mm, struct gnomon_mm *g, struct tea *t, unsigned long joined)
{
	struct tea gone[DMT_REGISTERS];
	unsigned int n_gone = 0, kept = 0;
	LIST_HEAD(old);

	spin_lock(&mm->page_table_lock);
	move_tables(mm, t, &old);
	for (unsigned int i = 0; i < g->n; i++) {
		if (!(joined & BIT(i)))
			g->tea[kept++] = g->tea[i];
		else if (!within(&t->at, g->tea[i].at.start) || page_at(t, g->tea[i].at.start) != g->tea[i].run)
			gone[n_gone++] = g->tea[i];
	}
	g->tea[kept++] = *t;
	g->n = kept;
	update_registers(mm, g);
	spin_unlock(&mm->page_table_lock);
	free_old_tables(mm, t, &old);
	for (unsigned int i = 0; i < n_gone; i++)
		tea_free(&gone[i]);
}

/* ---- which TEA for which VMA ---- */

static bool tea_range(const struct vm_area_struct *vma, struct span *at)
{
	if (vma->vm_flags & (VM_GROWSDOWN | VM_GROWSUP | VM_PFNMAP | VM_IO | VM_MIXEDMAP | VM_HUGETLB))
		return false;
	at->start = vma->vm_start & PMD_MASK;
	at->end = ALIGN(vma->vm_end, PMD_SIZE);
	return at->end <= TASK_SIZE_MAX;
}

/* Widens @t by the addresses of @other if that makes few enough bubbles. */
static bool tea_join(struct tea *t, const struct tea *other)
{
	struct span all = { min(t->at.start, other->at.start), max(t->at.end, other->at.end) };
	unsigned long bubbles = t->bubbles + other->bubbles;

	if (other->at.start > t->at.end)
		bubbles += other->at.start - t->at.end;
	if (t->at.start > other->at.end)
		bubbles += t->at.start - other->at.end;
	if (bubbles > (all.end - all.start) / BUBBLE_SHARE)
		return false;
	t->at = all;
	t->bubbles = bubbles;
	return true;
}

/* Joins all TEAs that can be; each may bring others into reach. Returns their bits. */
static unsigned long tea_join_all(const struct gnomon_mm *g, struct tea *t)
{
	unsigned long joined = 0, before;

	do {
		before = joined;
		for (unsigned int i = 0; i < g->n; i++)
			if (!(joined & BIT(i)) && tea_join(t, &g->tea[i]))
				joined |= BIT(i);
	} while (joined != before);
	return joined;
}

static bool overlaps_another(const struct gnomon_mm *g, const struct span *at, unsigned long joined)
{
	for (unsigned int i = 0; i < g->n; i++)
		if (!(joined & BIT(i)) && g->tea[i].at.start < at->end && at->start < g->tea[i].at.end)
			return true;
	return false;
}

/* What has grown on a side gets more there, if no other TEA has it. */
static void add_slack(const struct gnomon_mm *g, struct tea *t, const struct tea *from, unsigned long joined)
{
	unsigned long more = ALIGN((t->at.end - t->at.start) / GROWTH_SHARE, PMD_SIZE);
	struct span wide = t->at;

	if (t->at.end > from->at.end && more <= (TASK_SIZE_MAX & PMD_MASK) - t->at.end)
		wide.end += more;
	if (t->at.start < from->at.start && more <= t->at.start)
		wide.start -= more;
	if (!overlaps_another(g, &wide, joined))
		t->at = wide;
}

static bool was_refused(const struct gnomon_mm *g, const struct span *want)
{
	for (unsigned int i = 0; i < DMT_REGISTERS; i++)
		if (g->refused[i].start == want->start && g->refused[i].end == want->end)
			return true;
	return false;
}

static void refuse(struct gnomon_mm *g, const struct span *want, u64 *reason)
{
	g->refused[g->next_refused++ % DMT_REGISTERS] = *want;
	(*reason)++;
}

static bool is_covered(const struct gnomon_mm *g, const struct span *want)
{
	for (unsigned int i = 0; i < g->n; i++)
		if (g->tea[i].at.start <= want->start && want->end <= g->tea[i].at.end)
			return true;
	return false;
}

/* A TEA over @want, which none covers. g->lock is held. */
static void tea_make(struct mm_struct *mm, struct gnomon_mm *g, const struct span *want)
{
	struct tea t = { .at = *want };
	unsigned long joined = tea_join_all(g, &t);

	if (!joined && want->end - want->start < gnomon_tea_min)
		return;
	if (overlaps_another(g, &t.at, joined) || (!joined && g->n == DMT_REGISTERS))
		return refuse(g, want, &count.no_register);
	if (hweight_long(joined) == 1) {
		struct tea grown = g->tea[__ffs(joined)];

		add_slack(g, &t, &grown, joined);
		grown.bubbles = t.bubbles;
		if (tea_extend(&grown, &t.at)) {
			count.grown++;
			return tea_publish(mm, g, &grown, joined);
		}
	}
	if (!frames_alloc(&t))
		return refuse(g, want, &count.no_memory);
	t.id = gtea_alloc(t.run, page_table_pages(&t.at));
	if (!joined)
		count.made++;
	else if (hweight_long(joined) == 1)
		count.moved++;
	else
		count.joined++;
	tea_publish(mm, g, &t, joined);
}

static struct gnomon_mm *gnomon_mm_of(struct mm_struct *mm)
{
	struct gnomon_mm *g = mm->context.gnomon;

	if (g)
		return g;
	g = (void *)get_zeroed_page(GFP_KERNEL);
	if (!g)
		return NULL;
	mutex_init(&g->lock);
	if (cmpxchg(&mm->context.gnomon, NULL, g))
		free_page((unsigned long)g);
	return mm->context.gnomon;
}

void gnomon_tea_provide(struct vm_area_struct *vma)
{
	struct mm_struct *mm = vma->vm_mm;
	struct gnomon_mm *g = mm->context.gnomon;
	struct span want;

	if (!tea_range(vma, &want) || (g && is_covered(g, &want)))
		return;
	if ((!g || !g->n) && want.end - want.start < gnomon_tea_min)
		return;
	g = gnomon_mm_of(mm);
	if (!g)
		return;
	mutex_lock(&g->lock);
	if (!is_covered(g, &want) && !was_refused(g, &want))
		tea_make(mm, g, &want);
	mutex_unlock(&g->lock);
}

/* ---- the end ---- */

static bool has_vma(struct mm_struct *mm, const struct span *at)
{
	return find_vma_intersection(mm, at->start, at->end);
}

static void huge_table_free(struct huge_table *h)
{
	gtea_free(h->id);
	put_page(h->page);
}

/* Takes tables that are linked no more off the list and puts them into @old; returns how many. */
static unsigned int drop_unmapped_huge(struct mm_struct *mm, struct gnomon_mm *g, struct huge_table *old)
{
	unsigned int kept = 0, n = 0;

	for (unsigned int i = 0; i < g->n_huge; i++) {
		struct span at = { g->huge[i].start, g->huge[i].start + PUD_SIZE };

		if (has_vma(mm, &at))
			g->huge[kept++] = g->huge[i];
		else
			old[n++] = g->huge[i];
	}
	g->n_huge = kept;
	return n;
}

void gnomon_tea_drop_unmapped(struct mm_struct *mm)
{
	struct gnomon_mm *g = mm->context.gnomon;
	struct tea gone[DMT_REGISTERS];
	struct huge_table old[DMT_REGISTERS];
	unsigned int n_gone = 0, kept = 0, n_old;

	if (!g || !g->n)
		return;
	mutex_lock(&g->lock);
	spin_lock(&mm->page_table_lock);
	for (unsigned int i = 0; i < g->n; i++) {
		if (has_vma(mm, &g->tea[i].at))
			g->tea[kept++] = g->tea[i];
		else
			gone[n_gone++] = g->tea[i];
	}
	g->n = kept;
	n_old = drop_unmapped_huge(mm, g, old);
	if (n_gone || n_old)
		update_registers(mm, g);
	spin_unlock(&mm->page_table_lock);
	for (unsigned int i = 0; i < n_old; i++)
		huge_table_free(&old[i]);
	for (unsigned int i = 0; i < n_gone; i++)
		tea_free(&gone[i]);
	if (n_gone)
		memset(g->refused, 0, sizeof(g->refused));
	mutex_unlock(&g->lock);
}

/* All tables of @mm are gone, and the processor has switched to another. May be called where nothing sleeps. */
void gnomon_tea_destroy(struct mm_struct *mm)
{
	struct gnomon_mm *g = mm->context.gnomon;

	if (!g)
		return;
	for (unsigned int i = 0; i < g->n_huge; i++)
		huge_table_free(&g->huge[i]);
	for (unsigned int i = 0; i < g->n; i++)
		tea_free(&g->tea[i]);
	mm->context.gnomon = NULL;
	free_page((unsigned long)g);
}

void gnomon_tea_report(struct seq_file *s)
{
	seq_printf(s, "tea_min %lu\n", gnomon_tea_min);
	seq_printf(s, "tea_made %llu\ntea_joined %llu\ntea_grown %llu\ntea_moved %llu\ntea_freed %llu\n", count.made,
		   count.joined, count.grown, count.moved, count.freed);
	seq_printf(s, "tea_tables_placed %llu\ntea_tables_moved %llu\ntea_tables_parked %llu\n", count.placed,
		   count.tables_moved, count.parked);
	seq_printf(s, "tea_no_memory %llu\ntea_no_register %llu\ntea_no_gtea %llu\n", count.no_memory, count.no_register,
		   count.no_gtea);
	seq_printf(s, "tea_huge_tables %llu\ntea_loads %llu\n", count.huge, count.loads);
}
