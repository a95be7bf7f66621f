/*
 * EPT tables, and what backends have in common that give one to the guest: the tables themselves, which say what the
 * p2m says (ept_tables.c), and the guest's registers, most of which it then has to itself (mmu_ept.c).
 *
 * A backend that uses the functions of mmu_ept.c in its struct hv_mmu_ops begins its state with a struct ept_tables.
 */
#ifndef GNOMON_HV_EPT_H
#define GNOMON_HV_EPT_H

#include "arch/vmx.h"
#include "hv/hv.h"

#define EPT_RWX (EPT_R | EPT_W | EPT_X)
#define EPT_TEAS_MAX 4u

/*
 * A translation entry area: the tables of one level, in one piece of machine memory, so that the entry for an address can be
 * found without a walk. An area lies in its place from the beginning; a table in it is part of the tree when it is linked.
 */
struct ept_tea {
	uint64_t base, bytes; /* the addresses it serves; base is of a table's first entry */
	uint64_t first;       /* address of the first table */
	uint64_t frames;
	unsigned level;       /* of the tables, 1 or 2 */
};

struct ept_tables;

/*
 * Whose memory tables lie in, if they are not the hypervisor's own in machine memory: an inner hypervisor's, whose entries
 * hold addresses of another space.
 */
struct ept_space {
	/* Zeroed frames in a row; their address in the space. -ENOMEM. */
	int (*alloc)(struct hv_vm *vm, uint64_t frames, uint64_t *first);
	void (*free)(struct hv_vm *vm, uint64_t first, uint64_t frames);
	/* The machine address of a table. */
	uint64_t (*machine)(const struct hv_vm *vm, uint64_t table);
};

struct ept_tables {
	const struct ept_space *space; /* NULL: machine memory */
	uint64_t root;        /* address */
	unsigned levels;      /* 5 if the processor can and guest-physical addresses need it */
	unsigned leaf_max;    /* level of the largest pages */
	uint64_t tables;      /* frames that they take, those of areas included */
	struct ept_tea tea[EPT_TEAS_MAX];
	unsigned teas;
	/* What the entry of a page may allow, beside what the tracker lets it; NULL: all. EPT_R | ... */
	uint64_t (*rights)(const struct hv_vm *vm, gfn_t g);
};

static inline unsigned ept_shift(unsigned level) { return PAGE_SHIFT + 9 * (level - 1); }
static inline unsigned ept_order(unsigned level) { return 9 * (level - 1); }
static inline bool ept_is_leaf(uint64_t e, unsigned level) { return level == 1 || e & EPT_PS; }

/* ---- ept_tables.c ---- */

/* An empty tree; @t: zeros, but for space, which the caller may have set. -ENOMEM. */
int ept_tables_init(struct hv_vm *vm, struct ept_tables *t, struct error *err);
/* All frames go back to the machine. */
void ept_tables_destroy(struct hv_vm *vm, struct ept_tables *t);
/*
 * From now on the tables of @level for the addresses are those of an area. Before anything is mapped there.
 * @base: where such a table begins. -ENOMEM: no such run of frames, nothing has changed.
 */
int ept_tables_add_tea(struct hv_vm *vm, struct ept_tables *t, unsigned level, uint64_t base, uint64_t bytes);
/* The registers of direct translation that lead to the entries in the areas (arch/dmt.h). How many. */
unsigned ept_tables_registers(const struct hv_vm *vm, const struct ept_tables *t, struct dmt_entry e[EPT_TEAS_MAX]);
/* The EPT pointer as things are now: with accessed and dirty flags unless a tracker cannot do with them. */
uint64_t ept_tables_eptp(const struct hv_vm *vm, const struct ept_tables *t);
/* The TLB forgets what it has of them. */
void ept_tables_flush(struct hv_vm *vm, const struct ept_tables *t);
/* An EPT violation that nothing but a missing entry, or the tracker, caused. HV_EMULATE: no RAM there. */
enum hv_verdict ept_tables_fill(struct hv_vm *vm, struct ept_tables *t, uint64_t a, uint64_t qualification);
/* The present leaf entry for @a and its level; NULL: there is none. */
uint64_t *ept_tables_find(struct hv_vm *vm, const struct ept_tables *t, uint64_t a, unsigned *level);
/*
 * Maps the page of @level at @a, whatever was there, to the address @to with all rights, its flags set. Tables that the p2m
 * says nothing about are filled so. -ENOMEM: also if a larger page is in the way.
 */
int ept_tables_put(struct hv_vm *vm, struct ept_tables *t, uint64_t a, uint64_t to, unsigned level);
/*
 * Maps the page of @level at @a to the frames from @m on with @rights, whatever was there: tables that were made from others
 * than the p2m alone. *stale: set if the TLB may hold what is no longer so. -ENOMEM.
 */
int ept_tables_set(struct hv_vm *vm, struct ept_tables *t, uint64_t a, mfn_t m, unsigned level, uint64_t rights, bool *stale);
/* Every present leaf becomes what @change says, which may be 0. How many changed; the caller flushes. */
typedef uint64_t ept_leaf_change(void *ctx, struct hv_vm *vm, uint64_t g, unsigned level, uint64_t e);
uint64_t ept_tables_edit(struct hv_vm *vm, struct ept_tables *t, ept_leaf_change *change, void *ctx);
/* Nothing is mapped any more; the root stays. */
void ept_tables_clear(struct hv_vm *vm, struct ept_tables *t);
/* Calls @seen for every present leaf: guest frame, level, entry; until it returns false, and then returns that. */
typedef bool ept_leaf_seen(void *ctx, struct hv_vm *vm, uint64_t g, unsigned level, uint64_t e);
bool ept_tables_each(struct hv_vm *vm, const struct ept_tables *t, ept_leaf_seen *seen, void *ctx);
/* The entry of the 4 KiB page at @a; NULL: it has none. */
uint64_t *ept_tables_entry(struct hv_vm *vm, const struct ept_tables *t, uint64_t a);
/*
 * The page's rights have become fewer (t->rights): takes those away that its entry has too many of; a large page goes. The
 * caller flushes. False: nothing was to be done.
 */
bool ept_tables_restrict(struct hv_vm *vm, struct ept_tables *t, gfn_t g);
/* As the functions of struct hv_mmu_ops. */
void ept_tables_track(struct hv_vm *vm, struct ept_tables *t);
void ept_tables_retrack(struct hv_vm *vm, struct ept_tables *t, const uint64_t *pages);
void ept_tables_scan(struct hv_vm *vm, struct ept_tables *t);
void ept_tables_p2m_changed(struct hv_vm *vm, struct ept_tables *t, gfn_t first, uint64_t frames);
bool ept_tables_audit(struct hv_vm *vm, const struct ept_tables *t, char *buf, size_t bytes);

/* ---- mmu_ept.c: for struct hv_mmu_ops ---- */

static inline struct ept_tables *ept_of(const struct hv_vm *vm) { return vm->mmu_state; }

int ept_init(struct hv_vm *vm, struct error *err);
void ept_destroy(struct hv_vm *vm);
void ept_setup_vmcs(struct hv_vm *vm);
enum hv_verdict ept_page_fault(struct hv_vm *vm, uint64_t lin, uint32_t error);
enum hv_verdict ept_violation(struct hv_vm *vm, uint64_t a, uint64_t qualification);
/* vm->guest into the VMCS. */
void ept_write_registers(struct hv_vm *vm);
void ept_mode_changed(struct hv_vm *vm);
void ept_load_cr3(struct hv_vm *vm, bool flush);
void ept_invlpg(struct hv_vm *vm, uint64_t lin);
void ept_flush(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid);
void ept_guest_wrote(struct hv_vm *vm, uint64_t a, unsigned bytes);
void ept_emulated_access(struct hv_vm *vm, uint64_t a, unsigned bytes, bool write);
void ept_p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames);
void ept_track(struct hv_vm *vm);
void ept_retrack(struct hv_vm *vm, const uint64_t *pages);
void ept_scan(struct hv_vm *vm);
bool ept_audit(struct hv_vm *vm, char *buf, size_t bytes);
void ept_observe(const struct hv_vm *vm, struct obs *obs);
static inline void ept_observe_tables(const struct ept_tables *t, struct obs *obs) { obs->tables.ept_bytes = t->tables << PAGE_SHIFT; }

/* The guest has its registers and its page tables to itself. */
#define EPT_GUEST_OPS                                                                                              \
	.setup_vmcs = ept_setup_vmcs, EPT_REGISTER_OPS
#define EPT_REGISTER_OPS                                                                                           \
	.page_fault = ept_page_fault, .mode_changed = ept_mode_changed, .load_cr3 = ept_load_cr3,                  \
	.invlpg = ept_invlpg, .flush = ept_flush, .guest_wrote = ept_guest_wrote,                                  \
	.emulated_access = ept_emulated_access
/* And its EPT is the tables that the state begins with. */
#define EPT_TABLE_OPS                                                                                              \
	.ept_violation = ept_violation, .p2m_changed = ept_p2m_changed, .track = ept_track, .retrack = ept_retrack, \
	.scan = ept_scan, .audit = ept_audit, .observe = ept_observe

#endif
