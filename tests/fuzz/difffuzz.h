/*
 * Differential fuzzer: what its parts share.
 *
 * One test is one instruction with one initial state. It is executed on the host's
 * own processor (df_host.c) and on ours (df_guest.c); df_gen.c invents it, difffuzz.c
 * compares and reports. Both sides see the same linear addresses.
 *
 * The host side is kept harmless by the layout: the process has nothing below
 * 4 GiB but the pages named here, and the generator only lets an instruction touch
 * [0, 4 GiB), non-canonical addresses and the kernel's half.
 */
#ifndef GNOMON_DIFFFUZZ_H
#define GNOMON_DIFFFUZZ_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DATA_BASE  0x50000000ull /* read and write */
#define DATA_BYTES 0x3000ull
#define RO_BASE    (DATA_BASE + DATA_BYTES) /* follows at once: read only */
#define RO_BYTES   0x1000ull
#define CODE_BASE  0xa0000000ull /* read and execute */
#define CODE_BYTES 0x10000ull
#define LOW_END    0x100000000ull
#define HOST_BASE  0x101000000ull /* the host side's entry and exit code and save area */

/* The last slot is no test's: 64-bit code that compatibility mode leaves through. */
#define THUNK (CODE_BASE + CODE_BYTES - SLOT_BYTES)

/* Code is placed in slots: a jump out at BRANCH_BACK and BRANCH_AHEAD, the instruction at SLOT_INSN. */
#define SLOT_BYTES   64u
#define SLOT_INSN    16u
#define BRANCH_BACK  0u
#define BRANCH_AHEAD 56u /* the far jump out of compatibility mode is 7 bytes */

struct state {
	uint64_t gpr[16];
	uint64_t rip;
	uint64_t rflags;
	_Alignas(64) uint8_t fx[512]; /* FXSAVE64 image */
	uint8_t ymm_hi[256];          /* upper halves of YMM0-15 */
};

struct outcome {
	struct state s;
	int vector;     /* -1: completed */
	uint32_t error;
	uint64_t cr2;
};

#define BYTES_MAX 15

struct test {
	unsigned bits;       /* 64, or 32: compatibility mode */
	uint8_t bytes[BYTES_MAX];
	unsigned len;        /* bytes given to both sides */
	bool valid;          /* the decoder knows it */
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint64_t slot;       /* address of its slot */
	uint64_t target;     /* where a branch goes if it is taken */
	struct state in;
};

static inline uint64_t test_rip(const struct test *t) { return t->slot + SLOT_INSN; }

/* ---- random numbers (SplitMix64) ---- */
struct rng { uint64_t s; };
static inline uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}
static inline uint64_t rng_below(struct rng *r, uint64_t n) { return (rng_next(r) >> 16) % n; }
static inline bool rng_one_in(struct rng *r, uint64_t n) { return rng_below(r, n) == 0; }

/* ---- the host side ---- */
/* Maps the layout. Returns 0 or -errno (a message is on stderr). */
int host_init(void);
uint8_t *host_code(uint64_t addr); /* writable view of a code address */
static inline uint8_t *host_data(uint64_t addr) { return (uint8_t *)(uintptr_t)addr; }
uint8_t *host_ro(void);            /* writable view of the read-only page */
uint64_t host_gs_base(void);       /* what GS.base is while a test runs */
uint64_t host_fs_base(void);
/* Fills the slot: jumps out at both branch targets, the bytes at SLOT_INSN and a jump out after them. */
void host_place(const struct test *t);
void host_run(const struct test *t, struct outcome *out);
void host_selectors(uint16_t sel[6]); /* ES, CS, SS, DS, FS, GS; CS is that of 64-bit mode */
#define HOST_CS32 0x23 /* Linux: user code, 32 bits */

/* ---- our side ---- */
struct guest;
/* @translate: instructions are executed as host code where there is any. */
struct guest *guest_create(bool translate);
void guest_destroy(struct guest *g);
uint8_t *guest_data(struct guest *g, uint64_t addr); /* bytes of DATA, RO or CODE */
/* Takes over the code that host_place() has put down. */
void guest_place(struct guest *g, const struct test *t);
uint64_t guest_translated(const struct guest *g); /* runs that were host code */
void guest_run(struct guest *g, const struct test *t, struct outcome *out);

/* ---- the generator ---- */
struct gen;
struct gen *gen_create(uint64_t seed, const char *only, unsigned bits);
void gen_destroy(struct gen *gen);
/* A new instruction in @t, at t->slot; sets t->bits. False: not this time. */
bool gen_instruction(struct gen *gen, struct test *t);
/* A new initial state for it; writes operands into both memories. False: none found that is safe. */
bool gen_state(struct gen *gen, struct test *t, struct guest *g);
unsigned gen_mnemonics(const struct gen *gen);

#endif
