/*
 * The guest's workloads, one program: gnomon-work NAME [N [M [small|huge]]]. Each
 * strains one thing that MMU schemes pay differently for, or has the accesses of a
 * kind of program (work_lookup.c, work_pointers.c). They use no clock and no random
 * source, so that every run executes the same instructions; each checks its own
 * result and prints a sum of it, which no layout of memory changes.
 */
#include "work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE_PAGE ((uint64_t)2 * MIB)

/* Anonymous memory of @bytes that stays in 4 KiB pages; NULL if there is none. */
static void *map_small_pages(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_NOHUGEPAGE); /* fails where the kernel has no huge pages: as well */
	return p;
}

void *map_pages(uint64_t bytes)
{
	bool small = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1;
	uint64_t room = bytes + HUGE_PAGE, from, to;
	uint8_t *p;

	if (!bytes || room < bytes)
		return NULL;
	p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	/* What lies before the boundary, and what is over behind the end, goes back. */
	from = -(uint64_t)(uintptr_t)p & (HUGE_PAGE - 1);
	to = (from + bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	if ((from && munmap(p, from)) || (to < room && munmap(p + to, room - to)))
		return NULL;
	madvise(p + from, bytes, small ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	return p + from;
}

bool unmap_pages(void *p, uint64_t bytes)
{
	return !munmap(p, bytes);
}

void work_ready(const char *name)
{
	printf("GNOMON-READY %s\n", name);
	fflush(stdout);
}

/* Forks a child that runs @body and waits for it; its exit status, or -1. */
static int fork_and_wait(int (*body)(void *), void *arg)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(body(arg));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static int exit_with(void *arg)
{
	return *(int *)arg;
}

/* Fork, exit, wait: page-table work with almost nothing between. */
static bool work_forkwait(uint64_t n, uint64_t m, uint64_t *sum)
{
	(void)m;
	for (uint64_t i = 0; i < n; i++) {
		int code = (int)(i & 0x7f);

		if (fork_and_wait(exit_with, &code) != code)
			return false;
		*sum += (uint64_t)code;
	}
	return true;
}

/* Updates at random places of a table far larger than the TLB's reach: one walk each. */
static bool work_gups(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint64_t words = mib * MIB / sizeof(uint64_t), random = 0x9e3779b97f4a7c15;
	uint64_t *table = map_pages(mib * MIB);

	if (!table)
		return false;
	for (uint64_t i = 0; i < words; i += PAGE / sizeof(uint64_t))
		table[i] = i;
	work_ready("gups");
	for (uint64_t i = 0; i < n; i++) {
		uint64_t r = next_random(&random);

		table[r % words] ^= r;
	}
	for (uint64_t i = 0; i < words; i += PAGE / sizeof(uint64_t))
		*sum += table[i];
	return unmap_pages(table, mib * MIB);
}

/* Maps, touches every page, unmaps: faults that fill tables and flushes that empty them. */
static bool work_pftouch(uint64_t n, uint64_t pages, uint64_t *sum)
{
	for (uint64_t i = 0; i < n; i++) {
		volatile uint8_t *p = map_small_pages(pages * PAGE);

		if (!p)
			return false;
		for (uint64_t j = 0; j < pages; j++) {
			*sum += p[j * PAGE];
			p[j * PAGE] = (uint8_t)(i + j);
			*sum += p[j * PAGE];
		}
		if (munmap((void *)(uintptr_t)p, pages * PAGE))
			return false;
	}
	return true;
}

struct cow_area { uint8_t *base; uint64_t pages; };

static int write_every_page(void *arg)
{
	struct cow_area *a = arg;

	for (uint64_t j = 0; j < a->pages; j++)
		a->base[j * PAGE]++;
	return 0;
}

/* Takes write permission away and gives it back; shares the pages with a child, and both write. */
static bool work_cow(uint64_t n, uint64_t pages, uint64_t *sum)
{
	struct cow_area a = { map_small_pages(pages * PAGE), pages };

	if (!a.base)
		return false;
	write_every_page(&a);
	for (uint64_t i = 0; i < n; i++) {
		if (mprotect(a.base, pages * PAGE, PROT_READ) ||
		    mprotect(a.base, pages * PAGE, PROT_READ | PROT_WRITE))
			return false;
		write_every_page(&a);
		if (i % 4 == 0 && fork_and_wait(write_every_page, &a))
			return false;
		write_every_page(&a);
	}
	for (uint64_t j = 0; j < pages; j++) {
		if (a.base[j * PAGE] != (uint8_t)(1 + 2 * n))
			return false;
		*sum += a.base[j * PAGE];
	}
	return true;
}

static bool work_syscall(uint64_t n, uint64_t m, uint64_t *sum)
{
	long parent = syscall(SYS_getppid);

	(void)m;
	for (uint64_t i = 0; i < n; i++)
		if (syscall(SYS_getppid) != parent)
			return false;
	*sum = n;
	return true;
}

struct pipes { int to_child[2], to_parent[2]; uint64_t n; };

static int echo_bytes(void *arg)
{
	struct pipes *p = arg;
	uint8_t b;

	for (uint64_t i = 0; i < p->n; i++) {
		if (read(p->to_child[0], &b, 1) != 1)
			return 1;
		b++;
		if (write(p->to_parent[1], &b, 1) != 1)
			return 1;
	}
	return 0;
}

/* One byte there and back through two pipes: two switches of address space a turn. */
static bool work_ctxsw(uint64_t n, uint64_t m, uint64_t *sum)
{
	struct pipes p = { .n = n };
	uint8_t b = 0;
	int status;
	pid_t pid;

	(void)m;
	if (pipe(p.to_child) || pipe(p.to_parent))
		return false;
	pid = fork();
	if (pid == 0)
		_exit(echo_bytes(&p));
	if (pid < 0)
		return false;
	for (uint64_t i = 0; i < n; i++) {
		if (write(p.to_child[1], &b, 1) != 1 || read(p.to_parent[0], &b, 1) != 1)
			return false;
		*sum += b;
	}
	return waitpid(pid, &status, 0) == pid && status == 0 && b == (uint8_t)n;
}

/* Integer arithmetic that touches no memory: what every scheme should do at the same cost. */
static bool work_intloop(uint64_t n, uint64_t m, uint64_t *sum)
{
	uint64_t a = 1, b = 0x9e3779b97f4a7c15;

	(void)m;
	if (!n)
		return true;
	__asm__ volatile("1:\n\t"
			 "add %[b], %[a]\n\t"
			 "rol $7, %[a]\n\t"
			 "xor %[n], %[a]\n\t"
			 "lea 3(%[a], %[b], 2), %[b]\n\t"
			 "dec %[n]\n\t"
			 "jnz 1b"
			 : [a] "+r"(a), [b] "+r"(b), [n] "+r"(n)
			 :
			 : "cc");
	*sum = a ^ b;
	return true;
}

static int compare_words(const void *x, const void *y)
{
	const uint32_t *a = x, *b = y;

	return *a < *b ? -1 : *a > *b;
}

static uint64_t collatz_steps(uint64_t x)
{
	uint64_t steps = 0;

	for (; x > 1; steps++)
		x = x & 1 ? 3 * x + 1 : x / 2;
	return steps;
}

/* Ordinary user code: sorts @n words and follows @n Collatz sequences. */
static bool work_mixed(uint64_t n, uint64_t m, uint64_t *sum)
{
	uint32_t *v = malloc(n * sizeof(*v) + 1);
	uint64_t random = 88172645463325252;

	(void)m;
	if (!v)
		return false;
	for (uint64_t i = 0; i < n; i++)
		v[i] = (uint32_t)next_random(&random);
	qsort(v, n, sizeof(*v), compare_words);
	for (uint64_t i = 0; i < n; i++) {
		if (i && v[i - 1] > v[i])
			return false;
		*sum += v[i] * (i + 1) + collatz_steps(i + 1);
	}
	free(v);
	return true;
}

/* Copies @kib KiB to and fro with the string instruction, @n times. */
static bool work_memcpy(uint64_t n, uint64_t kib, uint64_t *sum)
{
	size_t bytes = kib * KIB;
	uint8_t *from = map_small_pages(bytes), *to = map_small_pages(bytes);

	if (!from || !to)
		return false;
	for (size_t i = 0; i < bytes; i++)
		from[i] = (uint8_t)(i * 7);
	for (uint64_t i = 0; i < n; i++) {
		uint8_t *s = i & 1 ? to : from, *d = i & 1 ? from : to;
		size_t left = bytes;

		__asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(left) : : "memory");
	}
	*sum = from[bytes - 1] + to[bytes / 2];
	return n == 0 || !memcmp(from, to, bytes);
}

/* ---- areas: what mappings go through in a life ---- */

/* Writes, or checks, one word in every page of [@base, +@bytes); @tag tells areas and times apart. */
static bool area_pass(uint8_t *base, size_t bytes, uint64_t tag, bool writing)
{
	for (size_t at = 0; at < bytes; at += PAGE) {
		uint64_t *word = (uint64_t *)(base + at);

		if (writing)
			*word = tag + at;
		else if (*word != tag + at)
			return false;
	}
	return true;
}

static bool area_write(uint8_t *base, size_t bytes, uint64_t tag) { return area_pass(base, bytes, tag, true); }
static bool area_holds(uint8_t *base, size_t bytes, uint64_t tag) { return area_pass(base, bytes, tag, false); }

static bool area_map(uint8_t *at, size_t bytes)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	return mmap(at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == at;
}

/* Grows to both sides, twice each; moves away and back. */
static bool area_grow(uint8_t *middle, size_t bytes)
{
	uint8_t *base = middle, *away = middle + 16 * bytes;
	size_t size = bytes;

	if (!area_map(base, bytes) || !area_write(base, bytes, 1))
		return false;
	for (int i = 0; i < 2; i++) {
		if (!area_map(base + size, bytes) || !area_write(base + size, bytes, 1 + size - (size_t)(middle - base)))
			return false;
		size += bytes;
		base -= bytes;
		size += bytes;
		if (!area_map(base, bytes) || !area_write(base, bytes, 1 - (uint64_t)(middle - base)))
			return false;
		if (!area_holds(base, size, 1 - (uint64_t)(middle - base)))
			return false;
	}
	if (mremap(base, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, away) != away ||
	    !area_holds(away, size, 1 - (uint64_t)(middle - base)) ||
	    mremap(away, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, base) != base)
		return false;
	return area_holds(base, size, 1 - (uint64_t)(middle - base)) && !munmap(base, size);
}

struct area { uint8_t *base; size_t bytes; };

static int area_child(void *arg)
{
	struct area *a = arg;

	return !(area_holds(a->base, a->bytes, 5) && area_write(a->base, a->bytes, 6) && area_holds(a->base, a->bytes, 6));
}

/* A child writes what it shares; then a hole comes and goes. */
static bool area_share(uint8_t *base, size_t bytes)
{
	struct area a = { base, bytes };
	size_t half = bytes / 2;

	if (!area_map(base, bytes) || !area_write(base, bytes, 5) || fork_and_wait(area_child, &a))
		return false;
	if (!area_holds(base, bytes, 5) || munmap(base + half, half / 2) || !area_map(base + half, half / 2))
		return false;
	if (base[half] || !area_write(base + half, half / 2, 5 + half))
		return false;
	return area_holds(base, bytes, 5) && !munmap(base, bytes);
}

/* More areas than a processor has registers for. */
static bool area_many(uint8_t *base, size_t bytes)
{
	enum { AREAS = 20 };
	bool ok = true;

	for (uint64_t i = 0; i < AREAS; i++)
		if (!area_map(base + 2 * i * bytes, bytes) || !area_write(base + 2 * i * bytes, bytes, i))
			return false;
	for (uint64_t i = 0; i < AREAS; i++)
		ok &= area_holds(base + 2 * i * bytes, bytes, i);
	for (uint64_t i = 0; i < AREAS; i++)
		ok &= !munmap(base + 2 * i * bytes, bytes);
	return ok;
}

/* Huge pages where the kernel has them: split by a change of rights, by a fork that writes, made of small ones. */
static bool area_huge(uint8_t *base, size_t bytes)
{
	struct area a = { base, bytes };

	if (!area_map(base, bytes))
		return false;
	madvise(base, bytes, MADV_HUGEPAGE);
	if (!area_write(base, bytes, 5) || mprotect(base + PAGE, PAGE, PROT_READ))
		return false;
	if (!area_holds(base, bytes, 5) || mprotect(base + PAGE, PAGE, PROT_READ | PROT_WRITE))
		return false;
	madvise(base, bytes, 25 /* MADV_COLLAPSE */);
	if (!area_holds(base, bytes, 5) || fork_and_wait(area_child, &a) || !area_holds(base, bytes, 5))
		return false;
	if (madvise(base, bytes / 2, MADV_DONTNEED) || base[0] || !area_write(base, bytes / 2, 5))
		return false;
	return area_holds(base, bytes, 5) && !munmap(base, bytes);
}

/* An area in which a small page is touched every @step bytes. */
static bool area_dot(uint8_t *base, size_t bytes, size_t step)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE;

	if (mmap(base, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) != base)
		return false;
	madvise(base, bytes, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < bytes; at += step)
		base[at] = (uint8_t)(at / step + 1);
	return true;
}

static bool area_dotted(const uint8_t *base, size_t bytes, size_t step)
{
	for (size_t at = 0; at < bytes; at += step)
		if (base[at] != (uint8_t)(at / step + 1))
			return false;
	return true;
}

/* Far larger than any memory; then one of a thousand tables. */
static bool area_sparse(uint8_t *base)
{
	size_t bytes = (size_t)256 * 1024 * MIB, step = bytes / 8 + 3 * PAGE;

	if (!area_dot(base, bytes, step) || !area_dotted(base, bytes, step) || munmap(base, bytes))
		return false;
	bytes = (size_t)2048 * MIB, step = 2 * MIB + PAGE;
	return area_dot(base, bytes, step) && area_dotted(base, bytes, step) && !munmap(base, bytes);
}

/* Neighbours, little apart, of which the one in the middle comes last and goes first. */
static bool area_near(uint8_t *base)
{
	size_t bytes = (size_t)128 * MIB, step = 3 * MIB + 5 * PAGE, apart = bytes + 2 * MIB;
	static const unsigned order[] = { 0, 2, 1 };
	bool ok = true;

	for (unsigned i = 0; i < 3; i++)
		ok &= area_dot(base + order[i] * apart, bytes, step);
	for (unsigned i = 0; i < 3; i++)
		ok &= area_dotted(base + i * apart, bytes, step);
	ok &= !munmap(base + apart, bytes);
	for (unsigned i = 0; i < 3; i += 2)
		ok &= area_dotted(base + i * apart, bytes, step) && !munmap(base + i * apart, bytes);
	return ok;
}

/* Maps, grows, moves, shares, splits and unmaps areas of @mib MiB and more, @n times, and never loses a word. */
static bool work_areas(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint8_t *base = (uint8_t *)0x100000000000;
	size_t bytes = mib * MIB;

	if (!bytes)
		return false;
	for (uint64_t i = 0; i < n; i++) {
		if (!area_grow(base + 4 * bytes, bytes) || !area_share(base, bytes) || !area_many(base, bytes) ||
		    !area_huge(base, bytes) || !area_sparse(base) || !area_near(base))
			return false;
		*sum += i;
	}
	return true;
}

static const struct work works[] = {
	{ "forkwait", work_forkwait, 40, 0, "fork, exit, wait: N processes", false },
	{ "gups", work_gups, 100000, 64, "N random updates of a table of M MiB", true },
	{ "pftouch", work_pftouch, 50, 64, "N times: map M pages, touch, unmap", false },
	{ "cow", work_cow, 20, 64, "N times: mprotect and copy-on-write of M pages", false },
	{ "syscall", work_syscall, 20000, 0, "N system calls", false },
	{ "ctxsw", work_ctxsw, 500, 0, "N turns of two processes over pipes", false },
	{ "intloop", work_intloop, 1000000, 0, "N turns of an integer loop", false },
	{ "mixed", work_mixed, 10000, 0, "sort N words, follow N Collatz sequences", false },
	{ "memcpy", work_memcpy, 20, 1024, "N copies of M KiB", false },
	{ "areas", work_areas, 1, 4, "N lives of mappings of M MiB: grow, move, share, split", false },
	{ 0 },
};

static const struct work *const all_works[] = { works, works_lookup, works_pointers };
enum { LISTS = sizeof(all_works) / sizeof(all_works[0]) };

static int usage(void)
{
	printf("usage: gnomon-work NAME [N [M [small|huge]]]\n");
	for (unsigned l = 0; l < LISTS; l++)
		for (const struct work *w = all_works[l]; w->name; w++)
			printf("  %-9s %s (default %llu, %llu%s)\n", w->name, w->help, (unsigned long long)w->n,
			       (unsigned long long)w->m, w->pages ? ", small" : "");
	return 2;
}

static const struct work *find_work(const char *name)
{
	for (unsigned l = 0; l < LISTS; l++)
		for (const struct work *w = all_works[l]; w->name; w++)
			if (!strcmp(name, w->name))
				return w;
	return NULL;
}

/* A count from the command line, or @fallback if there is none; false if it is no number. */
static bool count(const char *text, uint64_t fallback, uint64_t *out)
{
	char *end;

	*out = fallback;
	if (!text)
		return true;
	errno = 0;
	*out = strtoull(text, &end, 0);
	return !errno && *text && !*end;
}

/* What pages map_pages() gives, by a property of the process; false if @text names none. */
static bool choose_pages(const char *text)
{
	if (text && !strcmp(text, "huge"))
		return true;
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* fails where the kernel has no huge pages: as well */
	return !text || !strcmp(text, "small");
}

int main(int argc, char **argv)
{
	const struct work *w = argc > 1 ? find_work(argv[1]) : NULL;
	uint64_t n, m, sum = 0;

	if (!w || argc > 5 || (argc > 4 && !w->pages) || (w->pages && !choose_pages(argc > 4 ? argv[4] : NULL)))
		return usage();
	if (!count(argv[2], w->n, &n) || !count(argc > 3 ? argv[3] : NULL, w->m, &m))
		return usage();
	if (!w->run(n, m, &sum)) {
		printf("%s: wrong result or no resources\n", w->name);
		return 1;
	}
	printf("%s %llu: sum %016llx\n", w->name, (unsigned long long)n, (unsigned long long)sum);
	return 0;
}
