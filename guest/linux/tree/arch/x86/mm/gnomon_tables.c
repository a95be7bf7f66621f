// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters, requests to the host, /proc/gnomon_tables, and HugeGPT's pool of page tables.
 *
 * The pool is a set of 2 MiB regions. It holds a reference to each of their pages for good; a page that is a table has one
 * more. So whoever frees a table, at once or after a flush of TLBs, does as with any page, and needs to know nothing of
 * the pool: a page with one reference is free. When the list of free pages is empty they are looked for, and if few
 * are found the pool grows.
 *
 * Left out: the pool never shrinks; tables that were made before it, and those that split the kernel's own large pages, are
 * ordinary ones.
 */
#include <linux/gnomon_tables.h>
#include <linux/highmem.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/spinlock.h>

#include <asm/cpufeature.h>
#include <asm/io.h>
#include <asm/msr.h>

#include "gnomon_tables.h"

#define SEGMENT_PAGES	(PMD_SIZE >> PAGE_SHIFT)
#define SEGMENTS_MAX	256	/* what hosts take note of */

bool gnomon_pool_on __ro_after_init;
bool gnomon_tea_on __ro_after_init;
enum gnomon_mode gnomon_mode __ro_after_init;
unsigned long gnomon_tea_min __ro_after_init = 64UL << 20;

static struct pool {
	spinlock_t lock;		/* all that follows */
	struct page *segment[SEGMENTS_MAX];
	unsigned int segments;
	struct list_head free;
	bool growing, grown_up;		/* somebody is at it; it cannot grow any more */
	u64 taken[GNOMON_LEVELS];	/* times that a page was given out */
	u64 ordinary;			/* times that there was none */
	u64 swept;			/* times that free pages were looked for */
} pool = {
	.lock = __SPIN_LOCK_UNLOCKED(pool.lock),
	.free = LIST_HEAD_INIT(pool.free),
};

static const char *const mode_name[] = { "plain", "hugegpt", "dmt", "pvdmt" };

static int __init set_mode(char *text)
{
	int mode = match_string(mode_name, ARRAY_SIZE(mode_name), text);

	if (mode < 0)
		pr_warn("gnomon.tables=%s: plain, hugegpt, dmt or pvdmt\n", text);
	else
		gnomon_mode = mode;
	return 1;
}
__setup("gnomon.tables=", set_mode);

static int __init set_tea_min(char *text)
{
	gnomon_tea_min = max(memparse(text, NULL), (unsigned long long)PMD_SIZE);
	return 1;
}
__setup("gnomon.tea_min=", set_tea_min);

/**
 * gnomon_request - ask the host
 * @op: what for
 * @pages: the first of @n pages that it is about, or NULL
 * @id: what a gTEA is called: answer to PV_TEA_ALLOC, argument of PV_TEA_FREE; else NULL
 *
 * Return: whether it was granted
 */
bool gnomon_request(u32 op, struct page *pages, unsigned long n, u16 *id)
{
	static struct pv_request request __aligned(DMT_ALIGN);
	static DEFINE_SPINLOCK(lock);
	bool granted;

	spin_lock(&lock);
	request = (struct pv_request){
		.op = op,
		.status = ~0u,
		.gpa = pages ? page_to_phys(pages) : 0,
		.pages = n,
		.id = id ? *id : 0,
	};
	barrier();
	wrmsrl(MSR_GNOMON_PV_REQUEST, __pa(&request));
	barrier();
	granted = !READ_ONCE(request.status);
	if (granted && id)
		*id = READ_ONCE(request.id);
	spin_unlock(&lock);
	return granted;
}

/* ---- the pool ---- */

/* Fills the list of free pages, which is empty; returns how many were found. pool.lock is held. */
static unsigned int pool_sweep(void)
{
	unsigned int found = 0;

	for (unsigned int i = 0; i < pool.segments; i++) {
		for (struct page *p = pool.segment[i]; p < pool.segment[i] + SEGMENT_PAGES; p++) {
			if (page_ref_count(p) == 1) {
				list_add_tail(&p->lru, &pool.free);
				found++;
			}
		}
	}
	pool.swept++;
	return found;
}

static struct page *segment_alloc(void)
{
	struct page *pages = alloc_contig_pages(SEGMENT_PAGES, GFP_KERNEL | __GFP_NOWARN, numa_node_id(), NULL);

	if (pages && !gnomon_request(PV_HUGE, pages, SEGMENT_PAGES, NULL)) {
		free_contig_range(page_to_pfn(pages), SEGMENT_PAGES);
		pages = NULL;
	}
	return pages;
}

static void pool_grow(void)
{
	struct page *pages;

	spin_lock(&pool.lock);
	if (pool.growing || pool.grown_up) {
		spin_unlock(&pool.lock);
		return;
	}
	pool.growing = true;
	spin_unlock(&pool.lock);
	pages = segment_alloc();
	spin_lock(&pool.lock);
	if (pages) {
		for (unsigned int i = 0; i < SEGMENT_PAGES; i++)
			list_add_tail(&pages[i].lru, &pool.free);
		pool.segment[pool.segments++] = pages;
	}
	pool.grown_up = !pages || pool.segments == SEGMENTS_MAX;
	pool.growing = false;
	spin_unlock(&pool.lock);
}

static struct page *pool_pop(void)
{
	struct page *page;

	spin_lock(&pool.lock);
	page = list_first_entry_or_null(&pool.free, struct page, lru);
	if (page)
		list_del(&page->lru);
	spin_unlock(&pool.lock);
	return page;
}

static void pool_refill(void)
{
	unsigned int found;

	spin_lock(&pool.lock);
	found = list_empty(&pool.free) ? pool_sweep() : SEGMENT_PAGES;
	spin_unlock(&pool.lock);
	if (found < SEGMENT_PAGES / 8)
		pool_grow();
}

/**
 * gnomon_pool_take - a page of the pool for a table
 * @level: of the table
 *
 * May sleep. Return: a zeroed page, or NULL if there is none
 */
struct page *gnomon_pool_take(enum gnomon_level level)
{
	struct page *page = pool_pop();

	if (!page) {
		pool_refill();
		page = pool_pop();
	}
	if (!page) {
		pool.ordinary++;
		return NULL;
	}
	pool.taken[level]++;
	clear_highpage(page);
	get_page(page);
	return page;
}

/* ---- what happened ---- */

static void pool_report(struct seq_file *s)
{
	static const char *const level_name[GNOMON_LEVELS] = { "pte", "pmd", "pud", "p4d", "pgd" };
	unsigned int used = 0;

	spin_lock(&pool.lock);
	for (unsigned int i = 0; i < pool.segments; i++)
		for (struct page *p = pool.segment[i]; p < pool.segment[i] + SEGMENT_PAGES; p++)
			used += page_ref_count(p) > 1;
	spin_unlock(&pool.lock);
	seq_printf(s, "pool_regions %u\npool_pages_used %u\npool_ordinary %llu\npool_swept %llu\n", pool.segments, used,
		   pool.ordinary, pool.swept);
	for (int i = 0; i < GNOMON_LEVELS; i++)
		seq_printf(s, "pool_%s %llu\n", level_name[i], pool.taken[i]);
}

static int show_tables(struct seq_file *s, void *unused)
{
	seq_printf(s, "tables %s\n", mode_name[gnomon_mode]);
	if (gnomon_pool_on)
		pool_report(s);
	if (gnomon_tea_on)
		gnomon_tea_report(s);
	return 0;
}

static int __init gnomon_tables_init(void)
{
	if (!boot_cpu_has(GNOMON_FEATURE)) {
		if (gnomon_mode != GNOMON_PLAIN)
			pr_warn("gnomon.tables=%s: the processor has no dmt\n", mode_name[gnomon_mode]);
		gnomon_mode = GNOMON_PLAIN;
	}
	gnomon_pool_on = gnomon_mode == GNOMON_HUGEGPT;
	gnomon_tea_on = gnomon_mode == GNOMON_DMT || gnomon_mode == GNOMON_PVDMT;
	return 0;
}
core_initcall(gnomon_tables_init);

static int __init gnomon_tables_proc(void)
{
	return proc_create_single("gnomon_tables", 0444, NULL, show_tables) ? 0 : -ENOMEM;
}
fs_initcall(gnomon_tables_proc);
