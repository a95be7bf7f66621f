/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What gnomon_tables.c and gnomon_tea.c share; and the interface of the hardware and the host, which docs/dmt.md of Gnomon
 * describes.
 */
#ifndef GNOMON_TABLES_H
#define GNOMON_TABLES_H

#include <linux/build_bug.h>
#include <linux/mm_types.h>
#include <linux/seq_file.h>
#include <linux/types.h>

#define GNOMON_FEATURE		(6 * 32 + 31)	/* CPUID 0x80000001, ECX bit 31 */
#define MSR_GNOMON_DMT_LOAD	0xc0000d10	/* address of registers | how many */
#define MSR_GNOMON_PV_REQUEST	0xc0000d11	/* address of a struct pv_request */

#define DMT_REGISTERS		16
#define DMT_ALIGN		64
#define DMT_PRESENT		BIT_ULL(0)
#define DMT_2M			BIT_ULL(1)	/* pages of that size; else 4 KiB */
#define DMT_ID_SHIFT		32		/* the gTEA that .tea lies in, 0: none */

/* Linear addresses [start, end) have their leaf entries from physical address @tea on. */
struct dmt_entry {
	u64 start, end, tea, info;
};
static_assert(sizeof(struct dmt_entry) == 32);

enum { PV_HUGE = 1, PV_TEA_ALLOC = 2, PV_TEA_FREE = 3 };

struct pv_request {
	u32 op, status;		/* answer: 0 if it is granted */
	u64 gpa, pages, id;
	u64 pad[4];
};
static_assert(sizeof(struct pv_request) == DMT_ALIGN);

enum gnomon_mode { GNOMON_PLAIN, GNOMON_HUGEGPT, GNOMON_DMT, GNOMON_PVDMT };

extern enum gnomon_mode gnomon_mode;
extern unsigned long gnomon_tea_min;

bool gnomon_request(u32 op, struct page *pages, unsigned long n, u16 *id);
void gnomon_tea_report(struct seq_file *s);

#endif
