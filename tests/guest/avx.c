/*
 * AVX as an operating system meets it: what CR4.OSXSAVE, XCR0, CR0.TS and CR0.EM do to it, what becomes of the
 * upper halves of registers, XSAVE areas, faults of operands that cross into a missing page, and a loop
 * of AVX2 that is long enough to be translated. On a processor without AVX only its absence is checked.
 */
#include "lib/guest.h"

static const struct trap *const t = &last_trap;
static u8 area[4096] __attribute__((aligned(64)));
static u64 words[64] __attribute__((aligned(64)));
static u64 tables[3][512] __attribute__((aligned(4096)));

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }
static bool has_avx(void) { return cpuid(1, 0).c >> 28 & 1; }
static bool has_avx2(void) { return cpuid(7, 0).b >> 5 & 1; }

PIECE(p_vaddps, "vaddps %ymm0, %ymm1, %ymm2");
PIECE(p_xsetbv, "xor %ecx, %ecx; mov %edi, %eax; xor %edx, %edx; xsetbv");
PIECE(p_clear_ts, "clts");

static void state(const char *what, u64 cr0, u64 cr4, u32 xcr0, u64 vector)
{
	u64 old0 = read_cr0(), old4 = read_cr4();

	write_cr4(old4 | CR4_OSXSAVE);
	run_code(p_xsetbv, KERNEL, xcr0, 0);
	expect("XSETBV", V_DONE, 0);
	write_cr4((old4 & ~(u64)CR4_OSXSAVE) | cr4);
	write_cr0(old0 | cr0);
	run_code(p_vaddps, KERNEL, 0, 0);
	expect(what, vector, 0);
	write_cr0(old0);
	write_cr4(old4 | CR4_OSXSAVE);
}

static void availability(void)
{
	state("AVX in force", 0, CR4_OSXSAVE, 7, V_DONE);
	state("XCR0 without AVX", 0, CR4_OSXSAVE, 3, V_UD);
	state("CR4.OSXSAVE clear", 0, 0, 7, V_UD);
	state("CR0.TS", CR0_TS, CR4_OSXSAVE, 7, V_NM);
	state("CR0.TS, XCR0 without AVX", CR0_TS, CR4_OSXSAVE, 1, V_UD);
	if (!option("qemu")) /* QEMU's translator (7.2) raises #UD, as for SSE */
		state("CR0.EM means nothing", CR0_EM, CR4_OSXSAVE, 7, V_DONE);
	run_code(p_xsetbv, KERNEL, 5, 0);
	expect("XCR0 with AVX but not SSE", V_GP, 0);
	run_code(p_xsetbv, KERNEL, 7, 0);
	check(cpuid(0xd, 0).b == 576 + 256, "area for x87, SSE and AVX: %u bytes", cpuid(0xd, 0).b);
	check(cpuid(0xd, 2).a == 256 && cpuid(0xd, 2).b == 576, "AVX component: %u bytes at %u", cpuid(0xd, 2).a,
	      cpuid(0xd, 2).b);
}

/* ymm0 = 32 bytes at RDI; then something; ymm0 back to 32 bytes there. */
#define AROUND(name, text) PIECE(name, "vmovdqu (%rdi), %ymm0\n" text "\nvmovdqu %ymm0, (%rdi)")
AROUND(p_nothing, "");
AROUND(p_zeroupper, "vzeroupper");
AROUND(p_zeroall, "vzeroall");
AROUND(p_sse, "paddq %xmm0, %xmm0");
AROUND(p_vex128, "vpaddq %xmm0, %xmm0, %xmm0");
AROUND(p_vex256, "vaddpd %ymm0, %ymm0, %ymm0");

static void around(const char *what, const void *code, u64 low, u64 high)
{
	/* Often enough for host code. */
	for (unsigned i = 0; i < 40; i++) {
		words[0] = words[1] = 1;
		words[2] = words[3] = 3;
		run_code(code, KERNEL, address(words), 0);
		expect(what, V_DONE, 0);
		if (!check(words[0] == low && words[1] == low && words[2] == high && words[3] == high,
			   "%s: 0x%lx 0x%lx 0x%lx 0x%lx", what, words[0], words[1], words[2], words[3]))
			return;
	}
}

static void upper_halves(void)
{
	around("VMOVDQU", p_nothing, 1, 3);
	around("VZEROUPPER", p_zeroupper, 1, 0);
	around("VZEROALL", p_zeroall, 0, 0);
	around("SSE", p_sse, 2, 3);
	around("VEX.128", p_vex128, 2, 0);
	around("VEX.256", p_vex256, 2, 6);
}

PIECE(p_xsave, "vmovdqu (%rsi), %ymm0; vmovdqu %ymm0, %ymm7; mov $7, %eax; xor %edx, %edx; xsave (%rdi); vzeroall");
PIECE(p_xrstor, "mov $7, %eax; xor %edx, %edx; xrstor (%rdi); vmovdqu %ymm7, (%rsi)");

static void save_areas(void)
{
	for (unsigned i = 0; i < 4; i++)
		words[i] = 0x1111111111111111 * (i + 1);
	run_code(p_xsave, KERNEL, address(area), address(words));
	expect("XSAVE", V_DONE, 0);
	check((area[512] & 6) == 6, "XSTATE_BV 0x%x", area[512]);
	check(!memcmp(area + 576 + 16 * 7, words + 2, 16), "upper half of YMM7 is not in the area");
	memset(words, 0, sizeof(words));
	run_code(p_xrstor, KERNEL, address(area), address(words));
	expect("XRSTOR", V_DONE, 0);
	for (unsigned i = 0; i < 4; i++)
		check(words[i] == 0x1111111111111111 * (i + 1), "YMM7 came back with 0x%lx", words[i]);
	area[512] &= ~4;
	run_code(p_xrstor, KERNEL, address(area), address(words));
	check(words[1] && !words[2] && !words[3], "AVX not in the area: 0x%lx 0x%lx 0x%lx", words[1], words[2], words[3]);
}

/* One page at a place of its own, nothing after it. */
static u8 *lonely_page(void)
{
	u64 va = 0x123456789000;

	boot_pml4[va >> 39 & 511] = address(tables[0]) | 3;
	tables[0][va >> 30 & 511] = address(tables[1]) | 3;
	tables[1][va >> 21 & 511] = address(tables[2]) | 3;
	tables[2][va >> 12 & 511] = address(area) | 3;
	invlpg(va);
	return (u8 *)va;
}

PIECE(p_load, "vmovdqu (%rdi), %ymm3; mov $1, %eax");
PIECE(p_store, "vmovdqu %ymm3, (%rdi); mov $1, %eax");
PIECE(p_aligned, "vmovdqa (%rdi), %ymm3");
PIECE(p_masked, "vpcmpeqd %xmm1, %xmm1, %xmm1; vmaskmovps (%rdi), %ymm1, %ymm2; vmaskmovps %ymm2, %ymm1, (%rdi)");
PIECE(p_gather, "vpxor %xmm5, %xmm5, %xmm5; vpcmpeqd %xmm1, %xmm1, %xmm1; vpgatherdd %ymm1, (%rdi,%ymm5), %ymm2");

static void faults(void)
{
	u8 *page = lonely_page();

	for (unsigned i = 1; i < 32; i++) {
		memset(page + PAGE - 32, 0x55, 32);
		run_code(p_load, KERNEL, address(page) + PAGE - i, 0);
		expect("load into the missing page", V_PF, 0);
		check(t->cr2 == address(page) + PAGE, "CR2 0x%lx", t->cr2);
		run_code(p_store, KERNEL, address(page) + PAGE - i, 0);
		expect("store into the missing page", V_PF, 2);
		check(t->cr2 == address(page) + PAGE, "CR2 0x%lx", t->cr2);
		/* QEMU's translator stores eight bytes at a time. */
		check_unless("qemu", page[PAGE - 1] == 0x55 && page[PAGE - i] == 0x55, "a store that faults has written");
	}
	run_code(p_load, KERNEL, address(page) + PAGE - 32, 0);
	expect("load up to the page's end", V_DONE, 0);
	run_code(p_aligned, KERNEL, address(page) + 16, 0);
	expect("VMOVDQA", V_GP, 0);
	run_code(p_masked, KERNEL, address(page) + PAGE - 16, 0);
	expect_unless("qemu", "masked elements in the missing page", V_DONE, 0);
	run_code(p_masked, KERNEL, address(page) + PAGE - 15, 0);
	expect("the last selected element crosses", V_PF, 0);
	if (!has_avx2())
		return;
	run_code(p_gather, KERNEL, address(page) + PAGE - 4, 0);
	expect("gather", V_DONE, 0);
	run_code(p_gather, KERNEL, address(page) + PAGE, 0);
	expect("gather from the missing page", V_PF, 0);
}

/* A sum of squares of 32-bit numbers from RDI up to RSI, eight at a time, by five bytes: lines and pages are crossed. */
PIECE(p_sum, "vpxor %xmm0, %xmm0, %xmm0\n"
	     "1: vmovdqu (%rdi), %ymm1; vpmulld %ymm1, %ymm1, %ymm1; vpaddd %ymm1, %ymm0, %ymm0; vpmovmskb %ymm1, %ecx\n"
	     "add %ecx, %edx; add $5, %rdi; cmp %rsi, %rdi; jb 1b\n"
	     "vextracti128 $1, %ymm0, %xmm1; vpaddd %xmm1, %xmm0, %xmm0; phaddd %xmm0, %xmm0; phaddd %xmm0, %xmm0\n"
	     "vmovd %xmm0, %eax; vzeroupper");

static u32 sum_of_squares(const u8 *from, const u8 *to)
{
	u32 sum = 0, v;

	for (; from < to; from += 5) {
		for (unsigned i = 0; i < 8; i++) {
			memcpy(&v, from + 4 * i, 4);
			sum += v * v;
		}
	}
	return sum;
}

static void long_loop(void)
{
	static u8 data[3 * 4096];

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 167 + (i >> 5));
	for (unsigned n = 0; n < 20; n++) {
		run_code(p_sum, KERNEL, address(data + n), address(data + sizeof(data) - 64));
		expect("sum of squares", V_DONE, 0);
		check((u32)t->rax == sum_of_squares(data + n, data + sizeof(data) - 64), "sum 0x%lx", t->rax);
	}
}

int main(void)
{
	run_code(p_clear_ts, KERNEL, 0, 0);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	if (!has_avx()) {
		print("No AVX\n");
		run_code(p_vaddps, KERNEL, 0, 0);
		expect("AVX", V_UD, 0);
		finish("avx");
	}
	availability();
	upper_halves();
	save_areas();
	faults();
	if (has_avx2())
		long_loop();
	finish("avx");
}
