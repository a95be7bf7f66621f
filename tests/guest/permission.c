/*
 * The permission matrix of x86-64 paging: entries of every level with every
 * combination of the bits that matter, under the control bits that change what
 * they mean, accessed in every way. What has to happen is computed by an oracle
 * written from the SDM (volume 3, "Paging": "Access Rights", "Protection Keys",
 * "Page-Fault Exceptions", "Accessed and Dirty Flags") that shares nothing with
 * the walkers under test: it looks at the list of entries, not at memory.
 *
 * Checked for each: success or #PF, the error code, CR2, and the accessed and
 * dirty flags left behind. The SDM lets a processor set the accessed flag of an
 * upper entry that it followed before a fault below; either is accepted there.
 */
#include "lib/guest.h"

enum access { READ, WRITE, FETCH, IMPLICIT, ACCESSES };
static const char *const access_name[ACCESSES] = { "read", "write", "fetch", "implicit" };

/* Where in the data page each access goes; the bytes there are laid down by prepare_data(). */
enum { AT_DESCRIPTOR = 0x40, AT_FETCH = 0x80, AT_DATA = 0xc0 };
static const unsigned offset_of[ACCESSES] = { AT_DATA, AT_DATA, AT_FETCH, AT_DESCRIPTOR };

enum { MAX_LEVEL = 5, ERR_P = 1, ERR_W = 2, ERR_U = 4, ERR_RSVD = 8, ERR_ID = 16, ERR_PK = 32 };

#define KEY(k) ((u64)(k) << 59)
#define FRAME_MASK 0x000ffffffffff000ull

struct machine { /* what does not lie in the entries */
	bool wp, smep, smap, nxe, pke;
	u32 pkru;
};

struct attempt {
	u64 entry[MAX_LEVEL + 1]; /* by level: 1 = PTE ... 5 = PML5E; entry[leaf] maps the page */
	unsigned leaf;            /* level of the leaf: 1, 2 or 3 */
	struct machine m;
	enum access access;
	int cpl;
	bool ac;
};

struct verdict { bool fault; u64 error; unsigned stop; /* level whose entry ended the walk */ };

static unsigned top;          /* level of the root's entries: 4 or 5 */
static unsigned maxphyaddr;
static struct machine now;    /* what the control registers hold */
static bool has_smep, has_smap, has_nx, has_pku, has_1g;
static u64 accesses_tried;
static const char *block;     /* of the enumeration, for messages */

static u64 tables[MAX_LEVEL + 1][512] __attribute__((aligned(4096))); /* [n]: the table that holds level-n entries */
static u8 data[4096] __attribute__((aligned(4096)));
static u64 va_base;           /* a 512 GiB-aligned address whose tables are ours */

/* ---- the oracle ---- */

/* Bits that must be zero in a present entry of @level ("Paging", figures and tables of 4- and 5-level paging). */
static u64 reserved_bits(unsigned level, u64 entry, bool nxe)
{
	u64 reserved = FRAME_MASK & ~((1ull << maxphyaddr) - 1);

	if (!nxe)
		reserved |= PTE_NX;
	if (level >= 4)
		reserved |= PTE_PS;
	if (level == 3 && (entry & PTE_PS))
		reserved |= has_1g ? 0x3fffe000ull : PTE_PS;
	if (level == 2 && (entry & PTE_PS))
		reserved |= 0x1fe000ull;
	return reserved;
}

/* Whether protection keys forbid a data access to a user-mode address. */
static bool key_forbids(const struct attempt *a, u64 leaf, bool write, bool user_access)
{
	u32 rights = a->m.pkru >> 2 * (leaf >> 59 & 15);

	if (!a->m.pke)
		return false;
	return (rights & 1) || ((rights & 2) && write && (a->m.wp || user_access));
}

/* "Access Rights": whether an access to a translated address is allowed, keys aside. */
static bool rights_forbid(const struct attempt *a, bool user_page, bool writable, bool nx)
{
	bool user_access = a->cpl == USER && a->access != IMPLICIT;

	if (user_access) {
		if (!user_page)
			return true;
		return (a->access == WRITE && !writable) || (a->access == FETCH && nx);
	}
	if (a->access == FETCH)
		return nx || (user_page && a->m.smep);
	if (user_page && a->m.smap && (a->access == IMPLICIT || !a->ac))
		return true;
	return a->access == WRITE && !writable && a->m.wp;
}

static struct verdict judge(const struct attempt *a)
{
	bool user_access = a->cpl == USER && a->access != IMPLICIT, write = a->access == WRITE;
	bool user_page = true, writable = true, nx = false;
	u64 error = (write ? ERR_W : 0) | (user_access ? ERR_U : 0) |
		    (a->access == FETCH && (a->m.smep || a->m.nxe) ? ERR_ID : 0);

	for (unsigned level = top; level >= a->leaf; level--) {
		u64 e = a->entry[level];

		if (!(e & PTE_P))
			return (struct verdict){ true, error, level };
		if (e & reserved_bits(level, e, a->m.nxe))
			return (struct verdict){ true, error | ERR_P | ERR_RSVD, level };
		user_page &= !!(e & PTE_U);
		writable &= !!(e & PTE_W);
		nx |= !!(e & PTE_NX);
	}
	error |= ERR_P;
	if (user_page && a->access != FETCH && key_forbids(a, a->entry[a->leaf], write, user_access))
		return (struct verdict){ true, error | ERR_PK, a->leaf };
	if (rights_forbid(a, user_page, writable, nx))
		return (struct verdict){ true, error, a->leaf };
	return (struct verdict){ false, 0, a->leaf };
}

/* ---- the machine ---- */

PIECE(piece_read, "mov (%rdi), %rax");
PIECE(piece_write, "mov %rax, (%rdi)");
PIECE(piece_implicit, "mov %esi, %gs");

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }

static void set_bit(u64 *v, u64 bit, bool on) { *v = on ? *v | bit : *v & ~bit; }

static void set_machine(const struct machine *m)
{
	u64 cr0 = read_cr0(), cr4 = read_cr4(), efer = rdmsr(MSR_EFER);

	set_bit(&cr0, CR0_WP, m->wp);
	set_bit(&cr4, CR4_SMEP, m->smep);
	set_bit(&cr4, CR4_SMAP, m->smap);
	set_bit(&cr4, CR4_PKE, m->pke);
	set_bit(&efer, EFER_NXE, m->nxe);
	if (m->wp != now.wp)
		write_cr0(cr0);
	if (m->smep != now.smep || m->smap != now.smap || m->pke != now.pke)
		write_cr4(cr4);
	if (m->nxe != now.nxe)
		wrmsr(MSR_EFER, efer);
	if (m->pke && (!now.pke || m->pkru != now.pkru))
		wrpkru(m->pkru);
	if (m->wp != now.wp || m->nxe != now.nxe || m->smep != now.smep || m->smap != now.smap)
		write_cr3(read_cr3());
	now = *m;
}

static u64 *slot(unsigned level, u64 va) { return &tables[level][va >> (12 + 9 * (level - 1)) & 511]; }

/* The root's entry lies in the boot table; slot() of the root's level is copied there. */
static volatile u64 *slot_in_memory(unsigned level, u64 va)
{
	u64 *boot = top == 5 ? boot_pml5 : boot_pml4;

	return level == top ? &boot[va >> (12 + 9 * (level - 1)) & 511] : slot(level, va);
}

static void put_entries(const struct attempt *a, u64 va)
{
	for (unsigned level = top; level >= a->leaf; level--) {
		volatile u64 *e = slot_in_memory(level, va);

		if (*e != a->entry[level])
			*e = a->entry[level];
	}
	invlpg(va);
}

static void perform(const struct attempt *a, u64 va)
{
	static const char *const piece[ACCESSES] = { piece_read, piece_write, NULL, piece_implicit };
	enum { LDT_ENTRY = AT_DESCRIPTOR | 4 | 3 };
	const void *code = a->access == FETCH ? (const void *)(uintptr_t)va : piece[a->access];

	run_code_flags(code, a->cpl, a->ac ? FLAG_AC : 0, va, LDT_ENTRY, 0);
}

/* The flags of one entry after the access: what must, may and must not have been set. */
static bool entry_as_expected(const struct attempt *a, const struct verdict *v, unsigned level, u64 after)
{
	u64 before = a->entry[level];

	if (v->fault)
		return after == before || (level > v->stop && after == (before | PTE_A));
	before |= PTE_A;
	if (level == a->leaf && a->access == WRITE)
		before |= PTE_D;
	return after == before;
}

static void describe(const struct attempt *a)
{
	print("  [%s] %s at CPL %d%s, leaf level %u, CR0.WP %d SMEP %d SMAP %d NXE %d PKE %d PKRU %x\n", block,
	      access_name[a->access], a->cpl, a->ac ? " with AC" : "", a->leaf, a->m.wp, a->m.smep, a->m.smap, a->m.nxe,
	      a->m.pke, a->m.pkru);
	for (unsigned level = top; level >= a->leaf; level--)
		print("  level %u: %016lx\n", level, a->entry[level]);
}

/*
 * What QEMU's translator is known to get wrong (seen in 7.2), excused only with
 * "qemu" on the command line: AC lets implicit accesses past SMAP, the error
 * code of a reserved bit lacks P, and the accessed flag of a 1 GiB leaf is set
 * before rights are checked.
 */
static const char *excuse_outcome(const struct attempt *a, const struct verdict *v)
{
	bool implicit_ac = a->access == IMPLICIT && a->cpl == KERNEL && a->ac && a->m.smap;

	return implicit_ac || (v->error & ERR_RSVD) ? "qemu" : "";
}

static const char *excuse_entry(const struct attempt *a, const struct verdict *v, unsigned level)
{
	return v->fault && level == 3 && a->leaf == 3 ? "qemu" : "";
}

static void try(const struct attempt *a)
{
	u64 va = va_base + address(data) + offset_of[a->access];
	struct verdict v = judge(a);
	const struct trap *t = &last_trap;
	bool ok;

	accesses_tried++;
	set_machine(&a->m);
	put_entries(a, va);
	perform(a, va);
	if (v.fault)
		ok = check_unless(excuse_outcome(a, &v), t->vector == V_PF && t->error == v.error && t->cr2 == va,
				  "vector %ld error 0x%lx cr2 0x%lx, expected #PF error 0x%lx cr2 0x%lx", t->vector, t->error,
				  t->cr2, v.error, va);
	else
		ok = check_unless(excuse_outcome(a, &v), t->vector == V_DONE, "vector %ld error 0x%lx cr2 0x%lx, expected success",
				  t->vector, t->error, t->cr2);
	for (unsigned level = top; ok && level >= a->leaf; level--) {
		u64 after = *slot_in_memory(level, va);

		ok = check_unless(excuse_entry(a, &v, level), entry_as_expected(a, &v, level, after),
				  "level-%u entry is %016lx afterwards", level, after);
	}
	if (!ok && failure_shown())
		describe(a);
}

/* ---- the enumeration ---- */

/* Permissive entries down to @leaf. */
static void permissive(struct attempt *a, unsigned leaf)
{
	u64 frame = leaf == 1 ? address(data) : address(data) & ~(leaf == 2 ? MIB2 - 1 : GIB - 1);

	a->leaf = leaf;
	for (unsigned level = top; level > leaf; level--)
		a->entry[level] = address(tables[level - 1]) | PTE_P | PTE_W | PTE_U | PTE_A;
	a->entry[leaf] = frame | PTE_P | PTE_W | PTE_U | (leaf > 1 ? PTE_PS : 0);
}

static void try_every_access(struct attempt *a)
{
	for (a->cpl = KERNEL; a->cpl <= USER; a->cpl += USER)
		for (int access = 0; access < ACCESSES; access++) {
			a->access = (enum access)access;
			try(a);
		}
}

/* Calls @f for each setting of WP, SMEP, SMAP and NXE that the processor knows. */
static void each_machine(void (*f)(const struct machine *m))
{
	for (unsigned i = 0; i < 16; i++) {
		struct machine m = { .wp = i & 1, .smep = i & 2, .smap = i & 4, .nxe = !(i & 8) };

		if ((m.smep && !has_smep) || (m.smap && !has_smap) || (m.nxe && !has_nx))
			continue;
		f(&m);
	}
}

static unsigned largest_leaf(void) { return has_1g ? 3 : 2; }

/* Every combination of a leaf's P, W, U, NX, A, D. */
static void leaf_bits(const struct machine *m)
{
	for (unsigned leaf = 1; leaf <= largest_leaf(); leaf++)
		for (unsigned bits = 0; bits < 128; bits++) {
			struct attempt a = { .m = *m, .ac = bits & 64 };

			permissive(&a, leaf);
			set_bit(&a.entry[leaf], PTE_P, bits & 1);
			set_bit(&a.entry[leaf], PTE_W, bits & 2);
			set_bit(&a.entry[leaf], PTE_U, bits & 4);
			set_bit(&a.entry[leaf], PTE_NX, bits & 8);
			set_bit(&a.entry[leaf], PTE_A, bits & 16);
			set_bit(&a.entry[leaf], PTE_D, bits & 32);
			try_every_access(&a);
		}
}

/* Every combination of an upper entry's P, W, U, NX, A with those of the leaf's W, U, NX. */
static void upper_bits(const struct machine *m)
{
	for (unsigned leaf = 1; leaf <= largest_leaf(); leaf++)
		for (unsigned level = leaf + 1; level <= top; level++)
			for (unsigned bits = 0; bits < 256; bits++) {
				struct attempt a = { .m = *m };

				permissive(&a, leaf);
				set_bit(&a.entry[level], PTE_P, bits & 1);
				set_bit(&a.entry[level], PTE_W, bits & 2);
				set_bit(&a.entry[level], PTE_U, bits & 4);
				set_bit(&a.entry[level], PTE_NX, bits & 8);
				set_bit(&a.entry[level], PTE_A, bits & 16);
				set_bit(&a.entry[leaf], PTE_W, bits & 32);
				set_bit(&a.entry[leaf], PTE_U, bits & 64);
				set_bit(&a.entry[leaf], PTE_NX, bits & 128);
				try_every_access(&a);
			}
}

/* One reserved bit at one level, the entry present or not, permissions wide or none. */
static void one_reserved_bit(const struct machine *m, unsigned leaf, unsigned level, u64 bit)
{
	for (unsigned how = 0; how < 4; how++) {
		struct attempt a = { .m = *m };

		permissive(&a, leaf);
		a.entry[level] |= bit;
		if (how & 1)
			a.entry[level] &= ~PTE_P;
		if (how & 2)
			a.entry[top] &= ~(PTE_W | PTE_U);
		try_every_access(&a);
	}
}

static void reserved(const struct machine *m)
{
	for (unsigned leaf = 1; leaf <= largest_leaf(); leaf++)
		for (unsigned level = leaf; level <= top; level++) {
			struct attempt a;

			permissive(&a, leaf);
			for (unsigned bit = 7; bit < 64; bit++) {
				u64 reserved = reserved_bits(level, a.entry[level], m->nxe);

				/* 51 downward may be many; the ends and the middle of a run are enough. */
				if (reserved >> bit & 1)
					one_reserved_bit(m, leaf, level, 1ull << bit);
			}
		}
}

/* A large-page bit where the processor has no such page: reserved. */
static void no_gigabyte_pages(const struct machine *m)
{
	if (!has_1g)
		one_reserved_bit(m, 1, 3, PTE_PS);
}

/* Two faults at once: which of them is reported, and that nothing below is looked at. */
static void precedence(const struct machine *m)
{
	u64 bad = maxphyaddr < 52 ? 1ull << 51 : PTE_NX;

	for (unsigned leaf = 1; leaf <= largest_leaf(); leaf++)
		for (unsigned upper = leaf + 1; upper <= top; upper++)
			for (unsigned how = 0; how < 4; how++) {
				struct attempt a = { .m = *m };

				permissive(&a, leaf);
				if (how & 1)
					a.entry[upper] &= ~PTE_P;
				else
					a.entry[upper] |= bad;
				if (how & 2)
					a.entry[leaf] &= ~PTE_P;
				else
					a.entry[leaf] |= bad;
				try_every_access(&a);
			}
}

/* Protection keys: rights of the page's key, with others open, on user and supervisor pages. */
static void keys_with(const struct machine *m, unsigned leaf, unsigned key)
{
	for (unsigned bits = 0; bits < 64; bits++)
		for (u32 rights = 0; rights < 4; rights++) {
			struct attempt a = { .m = *m, .ac = bits & 16 };

			a.m.pke = bits & 32;
			a.m.pkru = rights << 2 * key;
			permissive(&a, leaf);
			a.entry[leaf] |= KEY(key);
			set_bit(&a.entry[leaf], PTE_W, bits & 1);
			set_bit(&a.entry[leaf], PTE_U, bits & 2);
			set_bit(&a.entry[top], PTE_U, bits & 4);
			set_bit(&a.entry[leaf], PTE_P, bits & 8);
			try_every_access(&a);
		}
}

static void keys(const struct machine *m)
{
	static const unsigned tried[] = { 0, 1, 15 };

	if (!has_pku || m->smep != m->smap || m->nxe != has_nx)
		return;
	for (unsigned leaf = 1; leaf <= largest_leaf(); leaf++)
		for (unsigned i = 0; i < ARRAY_SIZE(tried); i++)
			keys_with(m, leaf, tried[i]);
}

static void prepare_data(void)
{
	static const u8 int_done[] = { 0xcd, V_DONE };
	u64 descriptor = 0x00cff3000000ffff; /* data, DPL 3, accessed already: loading it only reads */

	memcpy(data + AT_FETCH, int_done, sizeof(int_done));
	memcpy(data + AT_DESCRIPTOR, &descriptor, sizeof(descriptor));
	/* The descriptor's address is linear, so that its page decides: every size maps data at the same place. */
	ldt_load(va_base + address(data), AT_DESCRIPTOR + sizeof(descriptor) - 1);
}

static void detect(void)
{
	struct cpuid seven = cpuid(7, 0), ext = cpuid(0x80000001, 0);
	struct machine m = { .wp = true, .nxe = ext.d >> 20 & 1 };

	top = read_cr4() & CR4_LA57 ? 5 : 4;
	maxphyaddr = cpuid(0x80000008, 0).a & 0xff;
	has_smep = seven.b >> 7 & 1;
	has_smap = seven.b >> 20 & 1;
	has_pku = seven.c >> 3 & 1;
	has_nx = ext.d >> 20 & 1;
	has_1g = ext.d >> 26 & 1;
	va_base = top == 5 ? 1ull << 48 | 0x80ull << 39 : 0x80ull << 39;
	now = m;
	print("permission: %u levels, MAXPHYADDR %u, SMEP %d SMAP %d NX %d PKU %d 1G %d\n", top, maxphyaddr, has_smep,
	      has_smap, has_nx, has_pku, has_1g);
}

int main(void)
{
	static const struct { const char *name; void (*f)(const struct machine *m); } blocks[] = {
		{ "leaf bits", leaf_bits }, { "upper bits", upper_bits }, { "reserved bits", reserved },
		{ "no 1 GiB pages", no_gigabyte_pages }, { "precedence", precedence }, { "protection keys", keys },
	};

	detect();
	prepare_data();
	for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++) {
		u64 before = accesses_tried;

		block = blocks[i].name;
		each_machine(blocks[i].f);
		print("%s: %ld accesses\n", block, accesses_tried - before);
	}
	finish("permission");
}
