/*
 * The translator: host code for blocks. docs/translator.md is the description.
 *
 * Host code exists for a block and a data-access mode (enum access_mode), 64-bit mode only.
 * It does what the interpreter's uops do and nothing else: the same memory accesses to the TLB
 * model, the same boundaries, the same instruction counts. Whatever is rare or may fault is left to
 * the uop's own execute function, called with all state in struct cpu.
 */
#ifndef GNOMON_CPU_XLATE_H
#define GNOMON_CPU_XLATE_H

#include "cpu/block.h"

/*
 * A jump in host code that can be tied to the block it goes to. All pointers but the const ones are into the writable
 * view, to the 4 bytes of a distance if not said otherwise.
 *
 * One that may leave the page is preceded by comparisons: of the linear address it was tied for, and of what the L1
 * instruction TLB says of its page. One that finds the flags not saved has two ways: if the block it goes to has no use
 * for them, the light one, which counts the block's instructions itself and saves the flags only if they are too many;
 * else one that saves them.
 */
struct xlink {
	uint8_t *site;           /* the jump */
	bool jmp;                /* ... is a JMP: nothing, if it goes to what stands behind it */
	int32_t ahead;           /* what the light way takes back from the clock */
	const uint8_t *loose;    /* where it goes when tied to nothing */
	/* Two ways: site leads to one of them, NULL if there is one; */
	const uint8_t *light, *saving;
	uint8_t *ticks[2];       /* ... in the light one: the block's instructions, as ticks, */
	uint8_t *light_jump;     /* and its jump; */
	uint8_t *saved_jump;     /* where the other one goes on */
	uint8_t *lin;            /* the 8 bytes of the linear address expected; NULL: within the page */
	uint8_t *addend;         /* ... of the difference of its page's machine and linear address */
	uint8_t *slot[3];        /* displacements of the page's slot in the fast lookup: tag, addend, entry */
	uint8_t *same;           /* the jump if the page is the one executed from last */
	const uint8_t *arrived;  /* ... where that goes when tied to a block in @page, the machine address of this one's, */
	uint64_t page;
	const uint8_t *missed;   /* and where otherwise */
	uint8_t *differs;        /* the jump for another address */
	const uint8_t *other;    /* where that goes when tied */
	struct xlink *next;      /* other jumps to the same block */
};

/* What indirect jumps look up: host code by linear address, for as long as the page is mapped where it was. */
struct xcache_entry {
	uint64_t lin;
	uint64_t page;           /* machine address of the page */
	const uint8_t *code;
	uint64_t unused;         /* a power of two in all */
};
#define XCACHE_SLOTS 4096u

/* Where the interpreter goes on after host code was left. */
struct xexit {
	struct block *block;     /* status other than EXEC_NEXT: the block and the uop that reported it */
	const struct uop *at;
};

struct translator;

/* -ENOMEM, -errno of the mappings. @cpu->cfg.code_cache bytes of code at most. */
int xlate_create(struct cpu *cpu, struct error *err);
void xlate_destroy(struct cpu *cpu);
/* All blocks are gone, or their host code is no longer wanted. */
void xlate_flush(struct cpu *cpu);
/* @b is no longer valid: nothing jumps to its host code any more. */
void xlate_forget(struct cpu *cpu, struct block *b);

/*
 * Host code for @b as it would run now, made if the block has run often enough; NULL: interpret
 * it. The jump that host code was last left through is tied to it.
 */
const uint8_t *xlate_code(struct cpu *cpu, struct block *b);
/*
 * Host code for RIP, which is machine address @at, if indirect jumps have been there: no block is looked for, and it may
 * turn out not to run. NULL: use xlate_code().
 */
const uint8_t *xlate_cached(struct cpu *cpu, uint64_t at);
/*
 * Runs host code at @code until it leaves. No instruction beyond cpu->deadline is begun, and
 * cpu->insns is as after the block before. Returns EXEC_NEXT at a block's boundary, or the status of a
 * uop: then @out says which, and cpu->insns is the count at the beginning of its block.
 */
int xlate_run(struct cpu *cpu, const uint8_t *code, struct xexit *out);

#endif
