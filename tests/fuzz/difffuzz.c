/*
 * Differential fuzzer: unprivileged instructions in 64-bit and compatibility mode,
 * the host's own processor against ours, translating from an instruction's first execution (or --interpret). Compared are all general registers, RIP, flags, x87, MMX and SSE state,
 * the data pages, and the exception with its error code and address.
 *
 * Flags the manual leaves undefined are compared too (our ALU is the host's) but
 * for the few below where the two cannot agree.
 */
#include "difffuzz.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 4 /* states tried for one instruction */

struct options {
	uint64_t count, seed;
	const char *only;
	bool verbose, keep_going, interpret;
};

struct tally {
	uint64_t run, mismatches, faults;
};

struct fuzz {
	struct options opt;
	struct gen *gen[2]; /* for 64-bit mode, for compatibility mode */
	struct guest *guest;
	struct tally by[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	uint64_t run, faults, skipped, mismatches, turn;
};

/* ---- comparison ---- */

#define FLAGS_COMPARED 0x244cd5ull /* arithmetic flags, DF, NT, AC, ID */

/* Rotates by more than one leave OF undefined, and the host's depends on which form it is. */
static uint64_t flags_mask(const struct test *t)
{
	switch (t->z.mnemonic) {
	case ZYDIS_MNEMONIC_ROL: case ZYDIS_MNEMONIC_ROR: case ZYDIS_MNEMONIC_RCL: case ZYDIS_MNEMONIC_RCR:
		return t->z.opcode == 0xd0 || t->z.opcode == 0xd1 ? FLAGS_COMPARED : FLAGS_COMPARED & ~0x800ull;
	default: return FLAGS_COMPARED;
	}
}

/* Which byte of a large or masked operand a fault is reported at is the microcode's affair. */
static uint64_t address_mask(const struct test *t)
{
	switch (t->z.mnemonic) {
	case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FRSTOR: case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS: case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD: case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return ~0xfffull;
	default: return ~0ull;
	}
}

/*
 * With underflow or overflow unmasked, our precision flag is that of the masked
 * result. DPPS and its kin are several operations, and an unmasked exception in one keeps
 * the flags of the following ones away.
 */
static uint32_t mxcsr_mask(const struct test *t, const struct outcome *host)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, host->s.fx + 24, 4);
	if (host->vector == 19 &&
	    (t->z.mnemonic == ZYDIS_MNEMONIC_DPPS || t->z.mnemonic == ZYDIS_MNEMONIC_DPPD ||
	     t->z.mnemonic == ZYDIS_MNEMONIC_VDPPS || t->z.mnemonic == ZYDIS_MNEMONIC_VDPPD))
		return ~0x3fu;
	if (host->vector == 19 && (mxcsr & ~(mxcsr >> 7) & 0x18))
		return ~0x20u;
	return ~0u;
}

/* A difference, or NULL. */
static const char *compare_fpu(const uint8_t *a, const uint8_t *b, uint32_t mxcsr)
{
	uint32_t ma, mb;

	memcpy(&ma, a + 24, 4);
	memcpy(&mb, b + 24, 4);
	if (memcmp(a, b, 5))
		return "x87 control, status or tags";
	if (memcmp(a + 6, b + 6, 18))
		return "x87 opcode or pointers";
	if ((ma ^ mb) & mxcsr)
		return "MXCSR";
	for (unsigned i = 0; i < 8; i++)
		if (memcmp(a + 32 + 16 * i, b + 32 + 16 * i, 10))
			return "x87 register";
	if (memcmp(a + 160, b + 160, 256))
		return "XMM register";
	return NULL;
}

/* Linux shows a user program that a fault in the kernel's half was a protection violation. */
static uint32_t error_mask(const struct outcome *host)
{
	return host->vector == 14 && host->cr2 >> 63 ? ~1u : ~0u;
}

/* A store in two parts may have made the first when the second faults. */
static bool memory_undefined(const struct test *t, const struct outcome *host)
{
	return host->vector >= 0 && t->valid && (t->z.mnemonic == ZYDIS_MNEMONIC_FBSTP || t->op[0].size == 80);
}

static const char *compare(const struct test *t, const struct outcome *h, const struct outcome *o)
{
	const char *d;

	if (h->vector != o->vector)
		return "exception";
	if (h->vector >= 0 && ((h->error ^ o->error) & error_mask(h)))
		return "error code";
	if (h->vector == 14 && ((h->cr2 ^ o->cr2) & address_mask(t)))
		return "fault address";
	if (memcmp(h->s.gpr, o->s.gpr, sizeof(h->s.gpr)))
		return "general register";
	if (h->s.rip != o->s.rip)
		return "RIP";
	if ((h->s.rflags ^ o->s.rflags) & flags_mask(t))
		return "flags";
	d = compare_fpu(h->s.fx, o->s.fx, mxcsr_mask(t, h));
	if (!d && memcmp(h->s.ymm_hi, o->s.ymm_hi, sizeof(h->s.ymm_hi)))
		d = "upper half of a YMM register";
	return d;
}

/* ---- report ---- */

static void print_bytes(const uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		printf("%02x%s", p[i], i + 1 < n ? " " : "");
}

static void print_insn(const struct test *t)
{
	ZydisFormatter f;
	char text[128] = "(undefined)";

	if (t->valid) {
		ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
		ZydisFormatterFormatInstruction(&f, &t->z, t->op, t->z.operand_count_visible, text, sizeof(text),
						test_rip(t), NULL);
	}
	print_bytes(t->bytes, t->len);
	printf("  %s%s\n", text, t->bits == 32 ? " (32)" : "");
}

static void print_fx(const char *what, const uint8_t *in, const uint8_t *h, const uint8_t *o, unsigned n)
{
	if (!memcmp(h, o, n) && !memcmp(in, h, n))
		return;
	printf("  %-6s in ", what);
	print_bytes(in, n);
	printf("\n       host ");
	print_bytes(h, n);
	printf("\n       ours ");
	print_bytes(o, n);
	printf("%s\n", memcmp(h, o, n) ? "   <--" : "");
}

static void print_states(const struct test *t, const struct outcome *h, const struct outcome *o)
{
	static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
	char what[16];

	printf("  exception host %d error %x address %llx, ours %d error %x address %llx\n", h->vector, h->error,
	       (unsigned long long)h->cr2, o->vector, o->error, (unsigned long long)o->cr2);
	for (unsigned i = 0; i < 16; i++)
		printf("  %-4s in %016llx host %016llx ours %016llx%s\n", name[i], (unsigned long long)t->in.gpr[i],
		       (unsigned long long)h->s.gpr[i], (unsigned long long)o->s.gpr[i],
		       h->s.gpr[i] != o->s.gpr[i] ? "   <--" : "");
	printf("  rip  in %016llx host %016llx ours %016llx\n", (unsigned long long)t->in.rip,
	       (unsigned long long)h->s.rip, (unsigned long long)o->s.rip);
	printf("  flags in %06llx host %06llx ours %06llx\n", (unsigned long long)t->in.rflags,
	       (unsigned long long)h->s.rflags, (unsigned long long)o->s.rflags);
	print_fx("x87", t->in.fx, h->s.fx, o->s.fx, 24);
	print_fx("mxcsr", t->in.fx + 24, h->s.fx + 24, o->s.fx + 24, 4);
	for (unsigned i = 0; i < 8; i++) {
		snprintf(what, sizeof(what), "st%u", i);
		print_fx(what, t->in.fx + 32 + 16 * i, h->s.fx + 32 + 16 * i, o->s.fx + 32 + 16 * i, 10);
	}
	for (unsigned i = 0; i < 16; i++) {
		snprintf(what, sizeof(what), "xmm%u", i);
		print_fx(what, t->in.fx + 160 + 16 * i, h->s.fx + 160 + 16 * i, o->s.fx + 160 + 16 * i, 16);
		snprintf(what, sizeof(what), "ymm%uh", i);
		print_fx(what, t->in.ymm_hi + 16 * i, h->s.ymm_hi + 16 * i, o->s.ymm_hi + 16 * i, 16);
	}
}

static void print_memory(struct guest *g)
{
	unsigned shown = 0;

	for (uint64_t a = DATA_BASE; a < DATA_BASE + DATA_BYTES && shown < 8; a += 16) {
		if (!memcmp(host_data(a), guest_data(g, a), 16))
			continue;
		printf("  [%llx] host ", (unsigned long long)a);
		print_bytes(host_data(a), 16);
		printf("\n             ours ");
		print_bytes(guest_data(g, a), 16);
		printf("\n");
		shown++;
	}
}

static void report(struct fuzz *f, const struct test *t, const struct outcome *h, const struct outcome *o,
		   const char *what)
{
	f->mismatches++;
	f->by[t->valid ? t->z.mnemonic : 0].mismatches++;
	if (f->by[t->valid ? t->z.mnemonic : 0].mismatches > 2)
		return;
	printf("MISMATCH in %s after %llu: ", what, (unsigned long long)f->run);
	print_insn(t);
	print_states(t, h, o);
	print_memory(f->guest);
}

/* ---- the loop ---- */

static void run_state(struct fuzz *f, struct test *t)
{
	struct outcome h, o;
	const char *what;
	bool memory;

	host_run(t, &h);
	guest_run(f->guest, t, &o);
	f->run++;
	f->by[t->valid ? t->z.mnemonic : 0].run++;
	if (h.vector >= 0) {
		f->faults++;
		f->by[t->valid ? t->z.mnemonic : 0].faults++;
	}
	what = compare(t, &h, &o);
	memory = !memory_undefined(t, &h) && memcmp(host_data(DATA_BASE), guest_data(f->guest, DATA_BASE), DATA_BYTES) != 0;
	if (what || memory)
		report(f, t, &h, &o, what ? what : "memory");
	if (memory || memory_undefined(t, &h))
		memcpy(guest_data(f->guest, DATA_BASE), host_data(DATA_BASE), DATA_BYTES);
}

static void run_instruction(struct fuzz *f, struct test *t)
{
	struct gen *gen = f->gen[gen_mnemonics(f->gen[0]) == 0 || (gen_mnemonics(f->gen[1]) && f->turn++ % 4 == 3)];

	if (!gen_instruction(gen, t)) {
		f->skipped++;
		return;
	}
	host_place(t);
	guest_place(f->guest, t);
	for (unsigned i = 0; i < ROUNDS && f->run < f->opt.count; i++) {
		if (!gen_state(gen, t, f->guest)) {
			f->skipped++;
			continue;
		}
		run_state(f, t);
		if (f->mismatches && !f->opt.keep_going)
			return;
	}
}

static void fill_memory(struct fuzz *f, struct rng *r)
{
	for (uint64_t i = 0; i < DATA_BYTES + RO_BYTES; i += 8) {
		uint64_t v = rng_next(r), a = DATA_BASE + i;

		memcpy(a < RO_BASE ? host_data(a) : host_ro() + (a - RO_BASE), &v, 8);
		memcpy(guest_data(f->guest, a), &v, 8);
	}
}

static void fuzz_loop(struct fuzz *f)
{
	struct rng r = {f->opt.seed ^ 0x5555};
	struct test t;

	memset(&t, 0, sizeof(t));
	fill_memory(f, &r);
	memcpy(guest_data(f->guest, THUNK), host_code(THUNK), SLOT_BYTES);
	t.slot = CODE_BASE;
	while (f->run < f->opt.count && (f->opt.keep_going || !f->mismatches)) {
		run_instruction(f, &t);
		t.slot += SLOT_BYTES;
		if (t.slot >= THUNK)
			t.slot = CODE_BASE;
	}
}

/* The most that either mode has. */
static unsigned mnemonics(const struct fuzz *f)
{
	unsigned a = gen_mnemonics(f->gen[0]), b = gen_mnemonics(f->gen[1]);

	return a > b ? a : b;
}

static void summary(const struct fuzz *f, double seconds)
{
	unsigned seen = 0;

	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
		const struct tally *t = &f->by[m];

		seen += t->run != 0;
		if (t->run && (f->opt.verbose || t->mismatches))
			printf("%-16s %8llu run %8llu faults %8llu mismatches\n",
			       m ? ZydisMnemonicGetString((ZydisMnemonic)m) : "(undefined)", (unsigned long long)t->run,
			       (unsigned long long)t->faults, (unsigned long long)t->mismatches);
	}
	printf("difffuzz: seed %llu: %llu executed (%llu as host code), %u mnemonics, %llu faulted, %llu skipped, %llu mismatches, "
	       "%.1f s, %.0f/s\n",
	       (unsigned long long)f->opt.seed, (unsigned long long)f->run,
	       (unsigned long long)guest_translated(f->guest), seen,
	       (unsigned long long)f->faults, (unsigned long long)f->skipped, (unsigned long long)f->mismatches,
	       seconds, (double)f->run / seconds);
}

static int usage(void)
{
	fprintf(stderr, "usage: difffuzz [--count N] [--seed S] [--only MNEMONIC] [--keep-going] [--verbose] [--interpret]\n");
	return 2;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option list[] = {
		{"count", required_argument, NULL, 'c'}, {"seed", required_argument, NULL, 's'},
		{"only", required_argument, NULL, 'o'}, {"keep-going", no_argument, NULL, 'k'},
		{"verbose", no_argument, NULL, 'v'}, {"interpret", no_argument, NULL, 'i'}, {0},
	};
	int c;

	*o = (struct options){.count = 200000, .seed = 1};
	while ((c = getopt_long(argc, argv, "", list, NULL)) >= 0) {
		switch (c) {
		case 'c': o->count = strtoull(optarg, NULL, 0); break;
		case 's': o->seed = strtoull(optarg, NULL, 0); break;
		case 'o': o->only = optarg; break;
		case 'k': o->keep_going = true; break;
		case 'v': o->verbose = true; break;
		case 'i': o->interpret = true; break;
		default: return -1;
		}
	}
	return optind == argc ? 0 : -1;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

#define SKIPPED 77 /* what test runners take it for */

/* The comparison is exact down to what only processors of the same maker share. */
static bool host_suits(void)
{
	if (__builtin_cpu_is("intel") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return true;
	fprintf(stderr, "difffuzz: skipped: needs an Intel processor with AVX2\n");
	return false;
}

int main(int argc, char **argv)
{
	struct fuzz *f = calloc(1, sizeof(*f));
	double start;
	bool bad;

	if (!f || parse(argc, argv, &f->opt))
		return usage();
	if (!host_suits() || host_init())
		return SKIPPED;
	f->guest = guest_create(!f->opt.interpret);
	f->gen[0] = gen_create(f->opt.seed, f->opt.only, 64);
	f->gen[1] = gen_create(f->opt.seed + 1, f->opt.only, 32);
	if (!f->guest || !mnemonics(f))
		return usage();
	start = now();
	fuzz_loop(f);
	summary(f, now() - start + 1e-9);
	bad = f->mismatches != 0;
	gen_destroy(f->gen[0]);
	gen_destroy(f->gen[1]);
	guest_destroy(f->guest);
	free(f);
	return bad;
}
