/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page tables where translation hardware would have them: Gnomon's part of Linux.
 *
 * gnomon.tables=hugegpt: tables come from a pool of 2 MiB regions that the host is asked to back by large pages.
 * gnomon.tables=dmt, pvdmt: the tables of the last level of a large VMA are contiguous, a translation entry area (TEA), and
 * registers say where. Without the processor's `dmt` feature, or without that parameter, everything here does nothing.
 *
 * One processor only (CONFIG_SMP=n).
 */
#ifndef _LINUX_GNOMON_TABLES_H
#define _LINUX_GNOMON_TABLES_H

#include <linux/mm.h>

enum gnomon_level { GNOMON_PTE, GNOMON_PMD, GNOMON_PUD, GNOMON_P4D, GNOMON_PGD, GNOMON_LEVELS };

#ifdef CONFIG_GNOMON_TABLES

extern bool gnomon_pool_on, gnomon_tea_on;

struct page *gnomon_pool_take(enum gnomon_level level);
pgtable_t gnomon_tea_place_table(struct mm_struct *mm, pmd_t *pmd, pgtable_t table);
bool gnomon_tea_park_table(struct mm_struct *mm, pmd_t *pmd, pgtable_t table);
pgtable_t gnomon_tea_unpark_table(struct mm_struct *mm, pmd_t *pmd);
void gnomon_tea_provide(struct vm_area_struct *vma);
void gnomon_tea_drop_unmapped(struct mm_struct *mm);
void gnomon_tea_destroy(struct mm_struct *mm);
void gnomon_tea_switch(struct mm_struct *next);

/* A page for a table, as alloc_page() gives one: from the pool if there is one. */
static inline struct page *gnomon_table_page(gfp_t gfp, enum gnomon_level level)
{
	struct page *page = gnomon_pool_on ? gnomon_pool_take(level) : NULL;

	return page ? page : alloc_page(gfp);
}

static inline void *gnomon_table(gfp_t gfp, enum gnomon_level level)
{
	struct page *page = gnomon_table_page(gfp, level);

	return page ? page_address(page) : NULL;
}

/* The table that is to go into *@pmd, under its lock: @table, or in its stead (it is freed) the one of a TEA. */
static inline pgtable_t gnomon_tea_place(struct mm_struct *mm, pmd_t *pmd, pgtable_t table)
{
	return gnomon_tea_on ? gnomon_tea_place_table(mm, pmd, table) : table;
}

/* A huge page has come into *@pmd and @table is kept for when it is split. True if its TEA keeps it. */
static inline bool gnomon_tea_park(struct mm_struct *mm, pmd_t *pmd, pgtable_t table)
{
	return gnomon_tea_on && gnomon_tea_park_table(mm, pmd, table);
}

/* The table that was kept so, or NULL. */
static inline pgtable_t gnomon_tea_unpark(struct mm_struct *mm, pmd_t *pmd)
{
	return gnomon_tea_on ? gnomon_tea_unpark_table(mm, pmd) : NULL;
}

/* Tables may not move to other addresses with what they map. */
static inline bool gnomon_tea_fixed(void) { return gnomon_tea_on; }

/* Before tables of @vma are made: sees to a TEA for it. mmap_lock is held; may sleep. */
static inline void gnomon_tea_want(struct vm_area_struct *vma)
{
	if (gnomon_tea_on)
		gnomon_tea_provide(vma);
}

/* After VMAs of @mm and their tables are gone. mmap_lock is held; may sleep. */
static inline void gnomon_tea_unmapped(struct mm_struct *mm)
{
	if (gnomon_tea_on)
		gnomon_tea_drop_unmapped(mm);
}

#else

static inline struct page *gnomon_table_page(gfp_t gfp, enum gnomon_level level) { return alloc_page(gfp); }
static inline void *gnomon_table(gfp_t gfp, enum gnomon_level level) { return (void *)__get_free_page(gfp); }
static inline pgtable_t gnomon_tea_place(struct mm_struct *mm, pmd_t *pmd, pgtable_t table) { return table; }
static inline bool gnomon_tea_park(struct mm_struct *mm, pmd_t *pmd, pgtable_t table) { return false; }
static inline pgtable_t gnomon_tea_unpark(struct mm_struct *mm, pmd_t *pmd) { return NULL; }
static inline bool gnomon_tea_fixed(void) { return false; }
static inline void gnomon_tea_want(struct vm_area_struct *vma) { }
static inline void gnomon_tea_unmapped(struct mm_struct *mm) { }
static inline void gnomon_tea_destroy(struct mm_struct *mm) { }
static inline void gnomon_tea_switch(struct mm_struct *next) { }

#endif
#endif
