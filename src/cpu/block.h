/*
 * The block cache: decoded blocks keyed by host-physical address and decode
 * mode. It notices writes to decoded bytes: machmem.code_map has a bit for every
 * 64 bytes that a block was decoded from, and whoever writes such a frame calls
 * blocks_note_write(). A block that is no longer valid has all its uops replaced
 * by one that sends the run loop back to look the address up, so that a block
 * may even destroy itself.
 */
#ifndef GNOMON_CPU_BLOCK_H
#define GNOMON_CPU_BLOCK_H

#include "cpu/cpu.h"

#define BLOCK_INSNS_MAX 48
#define BLOCK_LINKS     4
#define BLOCK_NO_HPA    (~0ull)

struct block {
	uint64_t hpa;     /* of the first byte; BLOCK_NO_HPA once invalid */
	uint64_t hpa2;    /* of the second page if the (only) instruction crosses into one, else BLOCK_NO_HPA */
	uint16_t bits;    /* 16, 32, 64 */
	uint16_t insns;   /* instructions in it */
	uint16_t uops;    /* insns, and one more if it ends without a branch */
	uint16_t bytes;
	struct block *hash_next, *page_next, *page2_next;
	struct block *link[BLOCK_LINKS]; /* blocks that ran after this one: a hint, checked by hpa */
	/* Host code (cpu/xlate.h), valid if xgeneration is the buffer's. */
	const uint8_t *xcode[MODE_USER_ALIGN];
	const uint8_t *xlight[MODE_USER_ALIGN]; /* for those who have counted its instructions; or NULL */
	struct xlink *xlinks;  /* jumps that go to it */
	uint32_t xgeneration;
	uint32_t xruns;        /* times it was interpreted where it might have been translated */
	struct uop uop[];
};

int blocks_create(struct cpu *cpu, struct error *err);
void blocks_destroy(struct cpu *cpu);

/* The block at @hpa, or NULL. */
struct block *blocks_find(struct blocks *bs, uint64_t hpa, unsigned bits);
/*
 * Decodes the block at @hpa. @hpa2: the frame that follows in the linear
 * address space, for an instruction that crosses; BLOCK_NO_HPA if not known, then
 * NULL is returned if it is needed. May drop all blocks to make room.
 */
struct block *blocks_decode(struct cpu *cpu, uint64_t hpa, uint64_t hpa2, unsigned bits);
/* Memory [hpa, hpa+bytes), within one frame, was or will be written. */
void blocks_note_write(struct cpu *cpu, uint64_t hpa, unsigned bytes);
/* Forgets everything (features changed, say). */
void blocks_flush(struct cpu *cpu);

/* What the uops of an invalid block return: no effect, look up RIP again. */
#define EXEC_STALE 4

#endif
