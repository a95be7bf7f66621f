/*
 * Direct memory translation (DMT) and what goes with it, written down: two MSRs, the register that maps a range of
 * linear addresses to the leaf entries of its page tables, the request by which a guest asks its host for memory of a
 * kind, and the bit that ends the shadow part of an agile walk. No processor on the market has any of it; the
 * idea and what is modelled are in docs/dmt.md and docs/agile-paging.md.
 *
 * The answer to a request follows from its arguments and the earlier ones alone. So pv_serve() is the same function on
 * the bare machine, in the hypervisor and wherever a guest is modelled, and a guest sees the same everywhere.
 */
#ifndef GNOMON_ARCH_DMT_H
#define GNOMON_ARCH_DMT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "arch/addr.h"
#include "arch/x86.h"

/*
 * MSR_DMT_LOAD, written: loads the register file. Bits 5:0: how many registers, 0 to DMT_REGISTERS; bits 63:6:
 * guest-physical address, 64-byte aligned, of as many struct dmt_entry. Registers beyond them hold nothing. #GP(0),
 * with nothing changed, if there are more, or if one of them is not in RAM. Read: what was last written; 0 after RESET.
 */
#define MSR_DMT_LOAD   0xc0000d10u
/*
 * MSR_PV_REQUEST, written: guest-physical address, 64-byte aligned, of a struct pv_request, which is answered in
 * place; #GP(0) if it is not in RAM. Read: what was last written; 0 after RESET. In VMX non-root operation either
 * access exits always.
 */
#define MSR_PV_REQUEST 0xc0000d11u

#define DMT_REGISTERS  16u
#define DMT_COUNT_MASK 0x3full
#define DMT_ALIGN      64u

/* A register as software writes it to memory. */
struct dmt_entry {
	uint64_t start, end; /* linear addresses (host stages: guest-physical); pages of the register's size; end exclusive */
	uint64_t tea;        /* guest-physical address (host stages: machine address) of the leaf entry for @start */
	uint64_t info;       /* DMT_* */
};
static_assert(sizeof(struct dmt_entry) == 32, "as software writes it");

#define DMT_P          BIT64(0)
#define DMT_SIZE_SHIFT 1  /* bits 2:1: page size */
#define DMT_SIZE       6ull
#define DMT_4K         0ull
#define DMT_2M         1ull
#define DMT_ID_SHIFT   32 /* bits 47:32: the gTEA that @tea lies in, as PV_TEA_ALLOC gave it; 0: none */
#define DMT_ID         (0xffffull << DMT_ID_SHIFT)

static inline unsigned dmt_shift(const struct dmt_entry *e) { return (e->info & DMT_SIZE) >> DMT_SIZE_SHIFT ? 21 : 12; }
static inline unsigned dmt_id(const struct dmt_entry *e) { return (unsigned)((e->info & DMT_ID) >> DMT_ID_SHIFT); }
/* Bytes of leaf entries that the register speaks of. It is well formed. */
static inline uint64_t dmt_bytes(const struct dmt_entry *e) { return ((e->end - e->start) >> dmt_shift(e)) * 8; }
/* Where the leaf entry of @addr is, which is in [start, end). */
static inline uint64_t dmt_entry_of(const struct dmt_entry *e, uint64_t addr)
{
	return e->tea + ((addr - e->start) >> dmt_shift(e)) * 8;
}

/*
 * Does it say something? One that does not serves no address and is refused; one that is not present just serves
 * none.
 */
static inline bool dmt_well_formed(const struct dmt_entry *e)
{
	uint64_t below = (1ull << dmt_shift(e)) - 1;

	return (e->info & DMT_P) && (e->info & DMT_SIZE) >> DMT_SIZE_SHIFT <= DMT_2M &&
	       !(e->info & ~(DMT_P | DMT_SIZE | DMT_ID)) && e->start < e->end && !((e->start | e->end) & below) &&
	       !(e->tea & 7) && e->tea <= PTE_ADDR_MASK && dmt_bytes(e) <= PTE_ADDR_MASK - e->tea;
}

/* ---- requests ---- */

enum pv_op {
	PV_HUGE = 1,      /* back [gpa, gpa + pages * 4096) by 2 MiB pages of the machine; both are multiples of 2 MiB */
	PV_TEA_ALLOC = 2, /* make that range contiguous in machine memory: a gTEA; @id is what registers name it by */
	PV_TEA_FREE = 3,  /* gTEA @id is no more */
};

/* The guest's rights and wrongs; whether the host could do it is not among them. */
enum pv_status {
	PV_DONE = 0,
	PV_BAD_OP = 1,
	PV_BAD_RANGE = 2, /* empty, unaligned, not all RAM */
	PV_OVERLAP = 3,   /* shares pages with a gTEA that there is */
	PV_FULL = 4,      /* there are as many as there may be */
	PV_BAD_ID = 5,    /* no such gTEA */
};

struct pv_request {
	uint32_t op;          /* enum pv_op */
	uint32_t status;      /* answer: enum pv_status */
	uint64_t gpa, pages;  /* pages of 4 KiB */
	uint64_t id;          /* answer of PV_TEA_ALLOC: the smallest that is free, from 1 on; argument of PV_TEA_FREE */
	uint64_t pad[4];
};
static_assert(sizeof(struct pv_request) == 64, "as software writes it");

#define PV_TEAS_MAX 1024u
#define PV_HUGE_MAX 256u

struct pv_range { uint64_t gpa, pages; }; /* pages == 0: there is none */

/* What requests so far have led to. */
struct pv_state {
	struct pv_range tea[PV_TEAS_MAX];  /* by id - 1 */
	struct pv_range huge[PV_HUGE_MAX]; /* in the order of the requests */
};

static inline uint64_t pv_bytes(const struct pv_range *r) { return r->pages << PAGE_SHIFT; }

static inline bool pv_overlap(const struct pv_range *a, const struct pv_range *b)
{
	return a->pages && b->pages && (a->gpa < b->gpa ? b->gpa - a->gpa < pv_bytes(a) : a->gpa - b->gpa < pv_bytes(b));
}

/* Bytes of the range, or 0 if it is none that can be: empty, not of whole pages, longer than addresses go. */
static inline uint64_t pv_range_bytes(const struct pv_request *r)
{
	uint64_t end = PTE_ADDR_MASK + PAGE_SIZE;

	if (r->gpa & ~PAGE_MASK || r->gpa >= end || r->pages > (end - r->gpa) >> PAGE_SHIFT)
		return 0;
	return r->pages << PAGE_SHIFT;
}

static inline enum pv_status pv_serve_huge(struct pv_state *s, struct pv_range want)
{
	if ((want.gpa | pv_bytes(&want)) & (SIZE_2M - 1))
		return PV_BAD_RANGE;
	for (unsigned i = 0; i < PV_HUGE_MAX; i++) {
		struct pv_range *have = &s->huge[i];

		if (!have->pages) {
			*have = want;
			return PV_DONE;
		}
		if (want.gpa >= have->gpa && want.gpa + pv_bytes(&want) <= have->gpa + pv_bytes(have))
			return PV_DONE; /* asked for before */
	}
	return PV_FULL;
}

static inline enum pv_status pv_serve_alloc(struct pv_state *s, struct pv_range want, uint64_t *id)
{
	unsigned at = PV_TEAS_MAX;

	for (unsigned i = PV_TEAS_MAX; i-- > 0;) {
		if (pv_overlap(&s->tea[i], &want))
			return PV_OVERLAP;
		at = s->tea[i].pages ? at : i;
	}
	if (at == PV_TEAS_MAX)
		return PV_FULL;
	s->tea[at] = want;
	*id = at + 1;
	return PV_DONE;
}

/*
 * Serves @r: notes it in @s and writes the answer into r->status and, where there is one, r->id.
 * @in_ram: all of the range (pv_range_bytes() at r->gpa) is RAM of the guest
 */
static inline void pv_serve(struct pv_state *s, struct pv_request *r, bool in_ram)
{
	struct pv_range want = {r->gpa, r->pages};
	bool range_ok = pv_range_bytes(r) && in_ram;

	switch (r->op) {
	case PV_HUGE:
		r->status = range_ok ? pv_serve_huge(s, want) : PV_BAD_RANGE;
		break;
	case PV_TEA_ALLOC:
		r->status = range_ok ? pv_serve_alloc(s, want, &r->id) : PV_BAD_RANGE;
		break;
	case PV_TEA_FREE:
		if (r->id - 1 >= PV_TEAS_MAX || !s->tea[r->id - 1].pages) {
			r->status = PV_BAD_ID;
			break;
		}
		memset(&s->tea[r->id - 1], 0, sizeof(s->tea[0]));
		r->status = PV_DONE;
		break;
	default:
		r->status = PV_BAD_OP;
	}
}

/* ---- agile paging ---- */

/*
 * In an entry of a shadow table that refers to another table (and in the shadow root pointer): the address is the
 * machine address of the *guest's* table of the next level, and from there the walk is nested. Software's to use in
 * all other tables.
 */
#define PTE_SWITCH   BIT64(52)
/*
 * Beside it (the dirty flag, which such an entry does not have): the hardware may set accessed and dirty flags in
 * that table.
 */
#define PTE_SWITCH_W PTE_D

#endif
