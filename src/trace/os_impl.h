/*
 * Inside the operating-system model (os_model.h): what its files share. Who wants to follow one fault begins with
 * os_fault() in os_fault.c.
 *
 * What goes wrong on the way is noted in struct osm and stops all output; so functions that give out events return
 * nothing, and who calls them looks at osm.failed where going on would make no sense.
 */
#ifndef GNOMON_TRACE_OS_IMPL_H
#define GNOMON_TRACE_OS_IMPL_H

#include "arch/dmt.h"
#include "trace/os_buddy.h"
#include "trace/os_model.h"
#include "trace/os_vma.h"

/* The kernel's part of each address space, as Linux has it (four levels, no KASLR). */
#define OS_USER_END   0x7ffffffff000ull
#define OS_DIRECT_MAP 0xffff888000000000ull /* + guest-physical address */
#define OS_TEXT_MAP   0xffffffff80000000ull /* likewise, of the kernel's image */
#define OS_IMAGE      (16ull << 20)         /* guest-physical */
#define OS_IMAGE_END  (32ull << 20)
#define OS_LOW_END    (1ull << 20)          /* firmware's */
#define OS_HOLE       (3ull << 30)          /* of a PC's RAM, see engine_ram_layout() */
#define OS_HOLE_END   (4ull << 30)

#define OS_ENTRIES 512u
#define OS_LEVELS  4u

/* Bytes that an entry of a table of @level covers, and a whole table. */
static inline uint64_t os_entry_bytes(unsigned level) { return 1ull << (PAGE_SHIFT + 9 * (level - 1)); }
static inline uint64_t os_table_bytes(unsigned level) { return 1ull << (PAGE_SHIFT + 9 * level); }
static inline unsigned os_index(uint64_t va, unsigned level)
{
	return (unsigned)(va >> (PAGE_SHIFT + 9 * (level - 1))) % OS_ENTRIES;
}

#define OS_TABLE_FLAGS (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D) /* Linux's _PAGE_TABLE: the leaf alone decides */

enum os_frame_type {
	OS_FREE,
	OS_DATA,
	OS_TABLE,  /* a table on an ordinary frame */
	OS_TEA,    /* of a TEA */
	OS_POOL,   /* of HugeGPT's pool */
	OS_KERNEL, /* image, pages of requests and registers */
	OS_PINNED, /* what fragments memory */
	OS_KEPT,   /* free, but only for what cannot be moved */
	OS_HELD,   /* free, but kept from others while a range is being emptied */
	OS_NO_RAM,
};

struct os_frame {
	uint64_t type : 4;
	uint64_t huge : 1;       /* DATA: of a 2 MiB page that somebody still maps as one */
	uint64_t stale : 1;      /* it was a table or the like: its contents may not be zero */
	uint64_t vpn : 35;       /* DATA: where it is mapped, in each space that has it */
	uint64_t maps : 11;      /* level-1 entries that map it */
	uint64_t huge_maps : 11; /* first frame of a huge page: level-2 entries that map that */
};
static_assert(sizeof(struct os_frame) == 8, "8 bytes for each frame");

struct os_tea {
	struct os_tea *next;   /* ascending addresses, those of both levels mixed */
	uint64_t start, end;   /* linear, multiples of what a table covers */
	uint64_t first, used;  /* frame of the table for @start; how many are tables */
	unsigned level;        /* of its tables: 1, or 2 for huge pages */
	unsigned id;           /* pvDMT: gTEA; 0: none */
	bool withdrawn;        /* no register may name it */
};

static inline uint64_t os_tea_frames(const struct os_tea *t) { return (t->end - t->start) / os_table_bytes(t->level); }

struct os_table {
	uint64_t frame, va;      /* va: the first address that it covers */
	struct os_tea *tea;      /* that it lies in; NULL */
	struct os_table **child; /* [OS_ENTRIES]; NULL in a table of level 1 */
	unsigned level, used;    /* used: entries that are not 0 */
	/*
	 * Level 1: a bit for each entry and kind of access (- 1): it is permitted, and leaves the entry's flags as
	 * they are. Not set: that is to be found out.
	 */
	uint64_t ready[3][OS_ENTRIES / 64];
	uint64_t e[OS_ENTRIES];
};

struct os_space {
	uint64_t id, ctx;      /* ctx: never used again */
	unsigned slot;         /* osm.space[] */
	uint64_t last_switch;
	struct os_table *root;
	struct os_vmas vmas;
	uint64_t flushes;      /* of all its translations, or of some: who has seen fewer must flush */
	/* DMT */
	struct os_tea *teas;
	uint64_t reg_frame;    /* page with reg[]; 0: none yet */
	struct dmt_entry reg[DMT_REGISTERS];
	unsigned regs;
	bool teas_changed;     /* since reg[] was made */
};

#define OS_ASIDS 6u     /* Linux's TLB_NR_DYN_ASIDS */
#define OS_OUT   4096u
#define OS_GROUP 64u    /* accesses of a group; longer ones are cut */
#define OS_NEAR  65536u
#define OS_NEAR_CODE 256u

struct os_pool_segment {
	uint64_t first;
	struct os_bits used;
};

struct os_leaf { /* the lowest table for an address, and the entry in it */
	struct os_table *table;
	unsigned index;
	uint64_t entry; /* 0: nothing there */
};

/*
 * Blocks of 2 MiB that were accessed, as a cache: the way through the tables is longer. Code has entries of its own: it
 * is few blocks, and each instruction asks for one, while its data would push it out.
 */
struct os_near {
	uint64_t key;           /* block << 14 | (slot of its space + 1) << 3 | of a huge page: kinds that are ready */
	struct os_table *table; /* of level 1; NULL: it is a huge page */
};

struct osm {
	struct osm_config cfg;
	struct trace_sink sink;
	int failed;
	struct error err;
	struct osm_stats stats;

	/* output */
	struct trace_event out[OS_OUT];
	unsigned outs;
	uint64_t insns;          /* of the kernel, not yet given out */

	/* input */
	struct trace_event group[OS_GROUP];
	unsigned grouped;
	bool group_known;        /* all of it is os_known() */
	bool group_faults;
	struct os_near near[OS_NEAR], near_code[OS_NEAR_CODE];

	/* memory */
	uint64_t frames;
	struct os_frame *frame;
	struct os_buddy buddy;
	struct os_bits fixed;    /* frames that cannot be moved */
	struct os_bits kept;     /* frames of type KEPT */
	struct os_bits kept_block; /* blocks of 2 MiB whose fixed frames go back to these */
	uint64_t contig_failed, contig_frees; /* so many frames in a row there were not, after so many frees */

	/* spaces */
	struct os_space *space[OSM_SPACES_MAX];
	unsigned spaces;
	struct os_space *current;
	struct os_table *kernel;  /* a root with what all spaces share */
	uint64_t ctxs, clock;
	struct { uint64_t ctx, flushes; } asid[OS_ASIDS];
	unsigned asid_now, asid_next;

	/* cooperation */
	struct os_pool_segment *pool;
	unsigned segments;
	struct pv_state pv;
	uint64_t request_frame;  /* 0: none yet */
	struct os_tea *dying;    /* out of use, but registers may still name them */
	bool teas_changed;       /* in some space */
};

/* ---- os_emit.c: what the kernel executes ---- */

/* The kernel's routines by the offset in its image of the instruction in question. */
enum os_text {
	OS_TEXT_FAULT = 0x1000, OS_TEXT_SYSCALL = 0x1800, OS_TEXT_SET = 0x2040, OS_TEXT_CLEAR = 0x3080,
	OS_TEXT_COPY_LOAD = 0x30c0, OS_TEXT_COPY_STORE = 0x30c4, OS_TEXT_INVLPG = 0x4100, OS_TEXT_CR3 = 0x4200,
	OS_TEXT_DMT_STORE = 0x5040, OS_TEXT_DMT_LOAD = 0x5080, OS_TEXT_PV_STORE = 0x6040, OS_TEXT_PV_MSR = 0x6080,
	OS_TEXT_PV_LOAD = 0x60c0,
};

static inline uint64_t os_text_at(enum os_text at) { return OS_TEXT_MAP + OS_IMAGE + at; }

/* Notes a failure; the first one stays. */
void os_fail(struct osm *o, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void os_emit(struct osm *o, const struct trace_event *ev);
/* Gives the sink all that is held back. */
void os_emit_flush(struct osm *o);
/* Says how many instructions the kernel executed since it was said last. */
void os_emit_insns(struct osm *o);

/* The processor delivers a page fault of the user's: reads gate, code segment and stack pointer, pushes its frame. */
void os_deliver(struct osm *o);
/*
 * An instruction of the kernel that does nothing that a trace shows; a store, a load, of 8 bytes by physical address.
 */
void os_execute(struct osm *o, enum os_text at);
void os_store(struct osm *o, enum os_text at, uint64_t pa, uint64_t value);
void os_load(struct osm *o, enum os_text at, uint64_t pa);
/* Fills a page with zeroes (REP STOSQ). */
void os_clear_page(struct osm *o, uint64_t frame);
void os_cr3(struct osm *o, uint64_t value);
void os_invlpg(struct osm *o, uint64_t va);
void os_wrmsr(struct osm *o, enum os_text at, uint32_t msr, uint64_t value);

/* ---- os_frame.c, os_contig.c: memory ---- */

int os_frames_init(struct osm *o, struct error *err);
void os_frames_destroy(struct osm *o);

/* A frame that cannot be moved. False: memory is full, which is noted as a failure. */
bool os_frame_alloc_fixed(struct osm *o, enum os_frame_type type, uint64_t *frame);
/* Frames that cannot be moved and nobody uses now; stale ones stay so. */
void os_frame_free_fixed(struct osm *o, uint64_t first, uint64_t frames);
/* Makes held frames fixed ones; those that are stale are cleared if @clear. */
void os_frame_fix(struct osm *o, uint64_t first, uint64_t frames, enum os_frame_type type, bool clear);
/* A frame, or with @order 9 a huge page, for the page at @va, which nobody maps yet. False: there is none. */
bool os_frame_alloc_data(struct osm *o, unsigned order, uint64_t va, uint64_t *first);

/* An entry that maps it is made, is gone; then it is freed if there is no other. _huge: a level-2 entry. */
void os_frame_map(struct osm *o, uint64_t frame);
void os_frame_unmap(struct osm *o, uint64_t frame);
void os_frame_map_huge(struct osm *o, uint64_t first);
void os_frame_unmap_huge(struct osm *o, uint64_t first);
/* Entries that map it, alone or in a huge page. */
unsigned os_frame_users(const struct osm *o, uint64_t frame);

/*
 * Empties a range of frames by moving the pages of data in it, and holds it. False: something in it cannot be moved,
 * or there is no room for what is; nothing is held then.
 */
bool os_contig_take(struct osm *o, uint64_t first, uint64_t frames);
/*
 * Holds a range that begins at a multiple of @align frames: one that is free, else one that can be emptied. False:
 * none.
 */
bool os_contig_alloc(struct osm *o, uint64_t frames, uint64_t align, uint64_t *first);
/* Gives held frames back. */
void os_contig_free(struct osm *o, uint64_t first, uint64_t frames);

/* ---- os_table.c ---- */

/* A table that no entry refers to yet. NULL: memory is full, a failure. */
struct os_table *os_table_new(struct osm *o, struct os_space *s, unsigned level, uint64_t va);
/* Frees a table, which is empty or of no space any more. */
void os_table_free(struct osm *o, struct os_table *t);
/* Frees what the model remembers of a table and those below it; nothing is given out. */
void os_table_forget(struct os_table *t);
/* The table of @level that covers @va; NULL. */
struct os_table *os_table_find(const struct os_space *s, uint64_t va, unsigned level);
/* Likewise; made, with those above it. NULL: a failure, or a huge page is in its place. */
struct os_table *os_table_get(struct osm *o, struct os_space *s, uint64_t va, unsigned level);
/* Stores an entry. */
void os_table_set(struct osm *o, struct os_table *t, unsigned index, uint64_t entry);
/* Lets the parent refer to the table @t, instead of what it had there. */
void os_table_link(struct osm *o, struct os_table *parent, struct os_table *t);
struct os_leaf os_leaf(const struct os_space *s, uint64_t va);

static inline uint64_t os_entry_frame(uint64_t e) { return (e & PTE_ADDR_MASK) >> PAGE_SHIFT; }
static inline bool os_is_huge(const struct os_leaf *l) { return l->table->level == 2 && (l->entry & PTE_PS); }

/* ---- os_space.c ---- */

/* A new, empty space. NULL: a failure. */
struct os_space *os_space_new(struct osm *o, uint64_t id);
struct os_space *os_space_find(const struct osm *o, uint64_t id);
/* Loads its tables and registers. */
void os_space_load(struct osm *o, struct os_space *s);
void os_space_switch(struct osm *o, uint64_t id);
void os_space_fork(struct osm *o, uint64_t id);
/* Ends a space that is not current. */
void os_space_exit(struct osm *o, struct os_space *s);
/* Of a space that is gone: only what the model remembers. */
void os_space_forget(struct osm *o, struct os_space *s);

/* Invalidations, as Linux makes them: at once in the current space, of others when they are loaded. */
void os_flush_page(struct osm *o, struct os_space *s, uint64_t va);
void os_flush_all(struct osm *o, struct os_space *s);
/* The pages of 1 << @shift bytes in a range: one by one, or all there is if they are too many. */
void os_flush_range(struct osm *o, struct os_space *s, uint64_t start, uint64_t end, unsigned shift);

/* ---- os_area.c: what programs ask for, and what is inferred ---- */

void os_map(struct osm *o, uint64_t start, uint64_t bytes, unsigned flags);
void os_unmap(struct osm *o, uint64_t start, uint64_t bytes);
void os_advise(struct osm *o, uint64_t start, uint64_t bytes, unsigned flags);
/* Takes everything in a range out of the tables; and the tables that no area needs any more. */
void os_zap(struct osm *o, struct os_space *s, uint64_t start, uint64_t end);
/* The area of @va, which permits @flags (TRACE_MAP_WRITE, TRACE_MAP_EXEC) afterwards. NULL: a failure. */
const struct os_vma *os_area(struct osm *o, struct os_space *s, uint64_t va, unsigned flags);

/* ---- os_fault.c, os_huge.c: pages ---- */

static inline struct os_near *os_near_of(struct osm *o, uint64_t va, unsigned kind)
{
	return kind == TRACE_FETCH ? &o->near_code[(va >> 21) % OS_NEAR_CODE] : &o->near[(va >> 21) % OS_NEAR];
}
/* What is known of the block of @va, in any space, is so no more. */
static inline void os_near_forget(struct osm *o, uint64_t va)
{
	for (unsigned kind = TRACE_WRITE; kind <= TRACE_FETCH; kind++)
		if (os_near_of(o, va, kind)->key >> 14 == va >> 21)
			*os_near_of(o, va, kind) = (struct os_near){0};
}

static inline uint64_t os_near_key(const struct os_space *s, uint64_t va)
{
	return va >> 21 << 14 | (s->slot + 1) << 3;
}

/* Is it known that the access is possible, and changes nothing in the tables? */
static inline bool os_known(struct osm *o, uint64_t va, unsigned kind)
{
	const struct os_near *n = os_near_of(o, va, kind);
	unsigned i = os_index(va, 1);

	if ((n->key & ~7ull) != os_near_key(o->current, va))
		return false;
	return n->table ? n->table->ready[kind - 1][i / 64] >> i % 64 & 1 : n->key >> (kind - 1) & 1;
}
/* Is the access possible? Then its flags are set in the tables, as the processor does, and it is known. */
bool os_permitted(struct osm *o, uint64_t va, unsigned kind);
/* The fault of an access of @kind that is not. */
void os_fault(struct osm *o, uint64_t va, unsigned kind);
/* Flags of the entry of a new page of an area. */
uint64_t os_page_flags(unsigned area_flags);

/* Maps a huge page at @va if there may be one. False: no. */
bool os_huge_fault(struct osm *o, struct os_space *s, uint64_t va, const struct os_vma *v);
/* The huge page at @va becomes 512 pages, in this space. */
void os_huge_split(struct osm *o, struct os_space *s, uint64_t va);
/* The block around @va becomes a huge page if enough of it is there. */
void os_huge_promote(struct osm *o, struct os_space *s, uint64_t va);

/* ---- os_pool.c, os_tea.c, os_reg.c: cooperation ---- */

/* A frame of the pool, which grows if need be. False: there is none. */
bool os_pool_alloc(struct osm *o, uint64_t *frame);
void os_pool_free(struct osm *o, uint64_t frame);
void os_pool_destroy(struct osm *o);

/* Asks the host. *id: in, of PV_TEA_FREE; out, of PV_TEA_ALLOC. False: it was refused. */
bool os_request(struct osm *o, enum pv_op op, uint64_t first, uint64_t frames, uint64_t *id);

/* The TEA for tables of @level at @va; NULL. */
struct os_tea *os_tea_at(const struct os_space *s, uint64_t va, unsigned level);
/*
 * A table of @level for @va will be needed: sees to it that there is a TEA for it, if there should be one. Moves
 * tables and data, so whoever calls looks up afterwards.
 */
void os_tea_prepare(struct osm *o, struct os_space *s, uint64_t va, unsigned level);
/* A table of it is gone. */
void os_tea_put(struct osm *o, struct os_space *s, struct os_tea *t);
/* What the kernel did is complete: registers follow, and TEAs that none names any more are given back. */
void os_tea_settle(struct osm *o);
/* Loads the registers of @s. */
void os_reg_load(struct osm *o, const struct os_space *s);
/* Makes the registers of @s from its TEAs, and loads them if they are other ones and @s is current. */
void os_reg_update(struct osm *o, struct os_space *s);

#endif
