/*
 * From a walk's log to a table and to JSON. Flags are shown as the manual's
 * figures name them; software-available and ignored bits are not decoded, the
 * entry stands beside them.
 */
#include "lab/walk_view.h"

#include "arch/vmx.h"
#include "arch/x86.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

static const char *const place_name[HW_PLACES] = {
	[HW_L1] = "L1", [HW_L2] = "L2", [HW_LLC] = "LLC", [HW_MEMORY] = "memory",
};
static const char *const kind_name[] = {
	[ACCESS_READ] = "read", [ACCESS_WRITE] = "write", [ACCESS_FETCH] = "fetch",
};
static const char *const event_name[] = {
	[XLATE_OK] = "mapped", [XLATE_PAGE_FAULT] = "page-fault", [XLATE_EPT_VIOLATION] = "ept-violation",
	[XLATE_EPT_MISCONFIG] = "ept-misconfiguration", [XLATE_PML_FULL] = "pml-full",
};
static const char *const owner_name[] = {
	[ENGINE_NOBODYS] = "device", [ENGINE_HYPERVISORS] = "hypervisor", [ENGINE_THIS_VMS] = "vm",
	[ENGINE_ANOTHER_VMS] = "other-vm",
};

void walk_view_make(struct walk_view *v, struct engine_vm *vm)
{
	if (v->cold)
		engine_drop_translations(vm);
	/* The view first: the walk may set accessed and dirty flags. */
	engine_view(vm, v->address, v->kind, v->mode, &v->guest);
	v->event = engine_walk(vm, v->address, v->kind, v->mode, &v->x, &v->log);
	v->ram = engine_is_ram(vm, v->event >= XLATE_EPT_VIOLATION ? v->x.gpa : v->guest.gpa);
	v->owner = v->event == XLATE_OK ? engine_owner(vm, v->x.page) : ENGINE_NOBODYS;
}

void walk_view_add_up(const struct walk_log *log, struct walk_totals *t)
{
	*t = (struct walk_totals){0};
	for (unsigned i = 0; i < log->steps; i++) {
		const struct walk_step *s = &log->step[i];

		t->cycles += s->cycles;
		t->walk_cache_hits += s->what == STEP_WALK_CACHE;
		t->nested_tlb_hits += s->what == STEP_NESTED_TLB;
		t->registers += s->what == STEP_REGISTER;
		if (s->what != STEP_REF)
			continue;
		t->refs++;
		t->stage_refs[s->stage]++;
		t->places[s->place < HW_PLACES ? s->place : HW_MEMORY]++;
	}
}

/* ---- entries ---- */

static bool host_leaf(unsigned level, uint64_t e) { return level == 1 || (level <= 3 && e & EPT_PS); }

static const char *memory_type(uint64_t e)
{
	static const char *const type[8] = {"UC", "WC", "??", "??", "WT", "WP", "WB", "??"};

	return type[e >> EPT_MT_SHIFT & 7];
}

const char *walk_view_flags(enum walk_stage stage, unsigned level, uint64_t e, char *buf)
{
	unsigned pkey = e >> PTE_PKEY_SHIFT & 15;

	if (stage == STAGE_HOST) {
		sprintf(buf, "%c %c %c %s %c %c %c", e & EPT_R ? 'R' : '-', e & EPT_W ? 'W' : '-', e & EPT_X ? 'X' : '-',
			host_leaf(level, e) ? memory_type(e) : "--", level > 1 && e & EPT_PS ? 'L' : '-',
			e & EPT_A ? 'A' : '-', e & EPT_D ? 'D' : '-');
		return buf;
	}
	sprintf(buf, "%c %c %c %c %c %c %c %c %c %c", e & PTE_P ? 'P' : '-', e & PTE_W ? 'W' : '-', e & PTE_U ? 'U' : '-',
		e & PTE_PWT ? 't' : '-', e & PTE_PCD ? 'c' : '-', e & PTE_A ? 'A' : '-', e & PTE_D ? 'D' : '-',
		!(e & PTE_PS) ? '-' : level > 1 ? 'L' : 'a', e & PTE_G ? 'G' : '-', e & PTE_NX ? 'N' : '-');
	if (pkey)
		sprintf(buf + strlen(buf), " k%u", pkey);
	return buf;
}

/* Bytes of an entry: only tables of 32-bit guests that the processor itself walks have small ones. */
static unsigned entry_bytes(const struct walk_view *v, enum walk_stage stage)
{
	bool own = engine_mmu_is_bare(v->mmu) || engine_mmu_nests(v->mmu);

	return stage == STAGE_GUEST && own && v->guest.levels == 2 ? 4 : 8;
}

static unsigned entry_index(const struct walk_view *v, const struct walk_step *s)
{
	return (unsigned)((s->at & ~PAGE_MASK) / entry_bytes(v, s->stage));
}

/* Split walk caches and the nested TLB know a table or a page, not the entry it came from. */
static bool is_entry(const struct walk_step *s)
{
	return s->what == STEP_REF || (s->what == STEP_WALK_CACHE && s->at);
}

static bool nested(const struct walk_view *v) { return engine_mmu_nests(v->mmu); }

/* Whose tables the processor walks in a stage. */
static const char *tables_name(const struct walk_view *v, enum walk_stage stage)
{
	if (stage == STAGE_HOST)
		return "EPT";
	return engine_mmu_is_bare(v->mmu) || engine_mmu_nests(v->mmu) ? "guest" : v->mmu == ENGINE_SHADOW ? "shadow" : "brute";
}

/* ---- words ---- */

static const char *page_size(unsigned shift)
{
	switch (shift) {
	case 12:
		return "4 KiB";
	case 21:
		return "2 MiB";
	case 22:
		return "4 MiB";
	case 30:
		return "1 GiB";
	}
	return "?";
}

static void add(char *buf, size_t bytes, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void add(char *buf, size_t bytes, const char *fmt, ...)
{
	size_t used = strlen(buf);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + used, bytes - used, fmt, ap);
	va_end(ap);
}

/* Bits of a page fault's error code. */
static void describe_error(uint32_t e, char *buf, size_t bytes)
{
	*buf = 0;
	add(buf, bytes, "%s, %s by %s%s%s", e & PF_P ? "protection" : "not present",
	    e & PF_I ? "fetch" : e & PF_W ? "write" : "read", e & PF_U ? "user" : "supervisor",
	    e & PF_RSVD ? ", reserved bit" : "", e & PF_PK ? ", protection key" : "");
}

static void describe_qualification(const struct walk_view *v, char *buf, size_t bytes)
{
	uint64_t q = v->x.qualification;
	unsigned had = q >> EPT_VIOL_RIGHTS_SHIFT & 7;

	*buf = 0;
	add(buf, bytes, "%s%s%s of %s, EPT allows %c%c%c", q & EPT_VIOL_READ ? "read" : "",
	    q & EPT_VIOL_WRITE ? q & EPT_VIOL_READ ? " and write" : "write" : "", q & EPT_VIOL_FETCH ? "fetch" : "",
	    q & EPT_VIOL_FINAL ? "the page" : "a guest table", had & EPT_R ? 'r' : '-', had & EPT_W ? 'w' : '-',
	    had & EPT_X ? 'x' : '-');
}

static const char *page_fault_meaning(const struct walk_view *v)
{
	bool nests = engine_mmu_nests(v->mmu) && v->mmu != ENGINE_AGILE; /* where shadow entries may be what is missing */

	if (engine_mmu_is_bare(v->mmu) || nests || !v->guest.permits)
		return "the guest's own tables do not allow it: its page-fault handler would run";
	if (!v->ram)
		return "hidden from the guest: a device's address, the hypervisor would emulate the access";
	return "hidden from the guest, whose tables allow it: the hypervisor would fill its own";
}

const char *walk_view_meaning(const struct walk_view *v, char *buf)
{
	const char *text = "";

	switch (v->event) {
	case XLATE_OK:
		text = v->owner == ENGINE_NOBODYS ? "mapped, to a device" : "mapped";
		break;
	case XLATE_PAGE_FAULT:
		text = page_fault_meaning(v);
		break;
	case XLATE_EPT_VIOLATION:
		text = v->ram ? "hidden from the guest: RAM with no EPT entry yet, the hypervisor would make one" :
				"hidden from the guest: a device's address, the hypervisor would emulate the access";
		break;
	case XLATE_EPT_MISCONFIG:
		text = "an EPT entry that no hypervisor should write: the hypervisor would give up";
		break;
	case XLATE_PML_FULL:
		text = "hidden from the guest: the page-modification log is full, the hypervisor would empty it";
		break;
	}
	snprintf(buf, 256, "%s", text);
	return buf;
}

/* ---- the table ---- */

/* Digits of the widest address in the table. */
static int address_digits(const struct walk_log *log)
{
	uint64_t all = 0;
	int digits = 8;

	for (unsigned i = 0; i < log->steps; i++)
		all |= log->step[i].at | log->step[i].at_gpa;
	while (digits < 16 && all >> 4 * digits)
		digits++;
	return digits;
}

static void print_head(const struct walk_view *v, FILE *out)
{
	char text[40] = "";

	if (v->name)
		snprintf(text, sizeof(text), " (%s)", v->name);
	fprintf(out, "%016" PRIx64 "%s, %s by %s%s\n", v->address.v, text, kind_name[v->kind],
		mode_is_user(v->mode) ? "user" : "supervisor", v->cold ? ", nothing cached" : "");
	if (v->log.tlb_level)
		fprintf(out, "The level-%u TLB holds it, so an access makes no walk now. If it did not:\n", v->log.tlb_level);
	if (v->log.repeated)
		fprintf(out, "A walk with cached parts came to a fault: hardware made it again without. The second:\n");
}

static void print_columns(const struct walk_view *v, int digits, FILE *out)
{
	fprintf(out, " # %-12s ", "step");
	if (nested(v))
		fprintf(out, "%-*s ", digits, "for gpa");
	fprintf(out, "idx %-*s %-16s %-19s %-3s %-4s cycles\n", digits, "entry at", "entry", "bits", "can", "hit");
}

static void step_name(const struct walk_view *v, const struct walk_step *s, char *buf, size_t bytes)
{
	*buf = 0;
	if (s->what == STEP_NESTED_TLB)
		add(buf, bytes, "nested TLB");
	else if (s->what == STEP_REGISTER)
		add(buf, bytes, "%s reg L%u", s->stage == STAGE_HOST ? "host" : "guest", s->level);
	else if (s->stage == STAGE_GUEST && s->part == PART_SHADOW)
		add(buf, bytes, "shadow L%u", s->level);
	else if (s->stage == STAGE_GUEST)
		add(buf, bytes, "%s L%u", tables_name(v, s->stage), s->level);
	else if (s->guest_level)
		add(buf, bytes, "EPT L%u for %u", s->level, s->guest_level);
	else
		add(buf, bytes, "EPT L%u page", s->level);
}

/* What may be done so far: three letters. */
static void rights_text(const struct walk_step *s, char buf[4])
{
	uint16_t r = s->rights;

	if (is_entry(s) && s->stage == STAGE_GUEST && !(s->entry & PTE_P))
		strcpy(buf, "---");
	else if (s->stage == STAGE_HOST || s->what == STEP_NESTED_TLB)
		sprintf(buf, "%c%c%c", r & TLB_EPT_R ? 'r' : '-', r & TLB_EPT_W ? 'w' : '-', r & TLB_EPT_X ? 'x' : '-');
	else
		sprintf(buf, "%c%c%c", r & TLB_W ? 'w' : '-', r & TLB_U ? 'u' : '-', r & TLB_NX ? '-' : 'x');
}

/* Where a step's value came from, in four letters. */
static const char *hit_name(const struct walk_step *s)
{
	static const char *const place[HW_PLACES] = {"L1", "L2", "LLC", "mem"};

	if (s->what == STEP_REF)
		return place[s->place < HW_PLACES ? s->place : HW_MEMORY];
	return s->what == STEP_WALK_CACHE ? "PWC" : "nTLB";
}

static void print_step(const struct walk_view *v, unsigned n, int digits, FILE *out)
{
	const struct walk_step *s = &v->log.step[n];
	char name[24], flags[32], rights[4];

	if (s->what == STEP_FALL_BACK) {
		fprintf(out, "%2u the registers came to nothing: the tables\n", n + 1);
		return;
	}
	step_name(v, s, name, sizeof(name));
	rights_text(s, rights);
	fprintf(out, "%2u %-12s ", n + 1, name);
	if (nested(v) && s->what == STEP_WALK_CACHE && s->stage == STAGE_GUEST && !is_entry(s))
		fprintf(out, "%*s ", digits, "");
	else if (nested(v))
		fprintf(out, "%0*" PRIx64 " ", digits, s->at_gpa);
	if (s->what == STEP_REGISTER) {
		fprintf(out, "%3u %0*" PRIx64 " %-36s %s %-4s %6u\n", entry_index(v, s), digits, s->at, "", "   ", "reg",
			s->cycles);
		return;
	}
	if (is_entry(s)) {
		walk_view_flags(s->stage, s->level, s->entry, flags);
		fprintf(out, "%3u %0*" PRIx64, entry_index(v, s), digits, s->at);
	} else {
		strcpy(flags, s->what == STEP_WALK_CACHE ? "the table" : "the page");
		fprintf(out, "%3s %*s", "", digits, "");
	}
	fprintf(out, " %016" PRIx64 " %-19s %s %-4s %6u\n", s->entry, flags, rights, hit_name(s), s->cycles);
}

static void print_mapping(const struct walk_view *v, FILE *out)
{
	static const char *const whose[] = {"a device", "the hypervisor's", "this VM's", "another VM's"};
	const struct walk_log *l = &v->log;

	fprintf(out, "Maps to machine address %" PRIx64 " (%s)", v->x.page.v | (v->address.v & ~PAGE_MASK), whose[v->owner]);
	if (!l->mapped) {
		fputs(".\n", out);
		return;
	}
	fprintf(out, ": a page of %s", page_size(l->guest_shift));
	if (l->shift != l->guest_shift)
		fprintf(out, ", of which the TLB holds %s", page_size(l->shift));
	fprintf(out, ".\nRights: %s, %s, %s%s%s", l->rights & TLB_U ? "user" : "supervisor",
		l->rights & TLB_W ? "writable" : "read-only", l->rights & TLB_NX ? "no execution" : "executable",
		l->rights & TLB_G ? ", global" : "", l->rights & TLB_D ? ", dirty" : "");
	if (l->pkey)
		fprintf(out, ", protection key %u", l->pkey);
	if (nested(v))
		fprintf(out, "; EPT %c%c%c", l->rights & TLB_EPT_R ? 'r' : '-', l->rights & TLB_EPT_W ? 'w' : '-',
			l->rights & TLB_EPT_X ? 'x' : '-');
	fputs(".\n", out);
}

static void print_outcome(const struct walk_view *v, FILE *out)
{
	char text[128], meaning[256];

	switch (v->event) {
	case XLATE_OK:
		print_mapping(v, out);
		return;
	case XLATE_PAGE_FAULT:
		describe_error(v->x.error_code, text, sizeof(text));
		fprintf(out, "Page fault, error code 0x%x: %s.\n", v->x.error_code, text);
		break;
	case XLATE_EPT_VIOLATION:
		describe_qualification(v, text, sizeof(text));
		fprintf(out, "EPT violation at guest-physical %" PRIx64 ", qualification 0x%" PRIx64 ": %s.\n", v->x.gpa.v,
			v->x.qualification, text);
		break;
	case XLATE_EPT_MISCONFIG:
		fprintf(out, "EPT misconfiguration at guest-physical %" PRIx64 ".\n", v->x.gpa.v);
		break;
	case XLATE_PML_FULL:
		fprintf(out, "Page-modification log full at guest-physical %" PRIx64 ".\n", v->x.gpa.v);
		break;
	}
	fprintf(out, "Under %s: %s.\n", engine_mmu_name[v->mmu], walk_view_meaning(v, meaning));
}

/* The guest's own tables: beside its shadow the only place where they are seen. */
static void print_guest(const struct walk_view *v, FILE *out)
{
	const struct engine_view *g = &v->guest;
	char flags[32];

	if (!g->levels) {
		fprintf(out, "The guest: no paging, guest-physical %" PRIx64 ".\n", g->gpa.v);
		return;
	}
	if (g->mapped)
		fprintf(out, "The guest sees guest-physical %" PRIx64 ", a page of %s", g->gpa.v, page_size(g->shift));
	else
		fprintf(out, "The guest sees no mapping%s", g->reserved ? " (reserved bits)" : "");
	if (engine_mmu_is_bare(v->mmu) || engine_mmu_nests(v->mmu)) { /* its entries are in the table */
		fputs(".\n", out);
		return;
	}
	fprintf(out, "; its entries:\n");
	for (unsigned i = 0; i < g->entries; i++)
		fprintf(out, "    guest L%u %3u at %08" PRIx64 " %016" PRIx64 "  %s\n", g->entry[i].level,
			(unsigned)((g->entry[i].at & ~PAGE_MASK) / g->entry[i].bytes), g->entry[i].at, g->entry[i].value,
			walk_view_flags(STAGE_GUEST, g->entry[i].level, g->entry[i].value, flags));
}

static void print_totals(const struct walk_view *v, FILE *out)
{
	struct walk_totals t;
	const char *sep = " (";

	walk_view_add_up(&v->log, &t);
	fprintf(out, "Total: %u reference%s", t.refs, t.refs == 1 ? "" : "s");
	if (nested(v))
		fprintf(out, ", %u to guest tables and %u to EPT", t.stage_refs[STAGE_GUEST], t.stage_refs[STAGE_HOST]);
	for (unsigned i = 0; i < HW_PLACES; i++)
		if (t.places[i]) {
			fprintf(out, "%s%u in %s", sep, t.places[i], place_name[i]);
			sep = ", ";
		}
	fprintf(out, "%s; %" PRIu64 " cycles.\n", t.refs ? ")" : "", t.cycles);
	if (t.registers)
		fprintf(out, "Registers that covered an address: %u.\n", t.registers);
	if (t.walk_cache_hits || t.nested_tlb_hits)
		fprintf(out, "Beside them: %u from walk caches, %u from the nested TLB.\n", t.walk_cache_hits, t.nested_tlb_hits);
}

void walk_view_print(const struct walk_view *v, FILE *out)
{
	int digits = address_digits(&v->log);

	print_head(v, out);
	if (v->log.steps)
		print_columns(v, digits, out);
	for (unsigned i = 0; i < v->log.steps; i++)
		print_step(v, i, digits, out);
	print_outcome(v, out);
	print_guest(v, out);
	print_totals(v, out);
}

/* ---- JSON ---- */

static void put(json_t *o, const char *key, uint64_t v) { json_object_set_new(o, key, json_integer((json_int_t)v)); }
static void put_bool(json_t *o, const char *key, bool v) { json_object_set_new(o, key, json_boolean(v)); }
static void put_text(json_t *o, const char *key, const char *v) { json_object_set_new(o, key, json_string(v)); }

/* Addresses and entries: 64 bits do not fit into the numbers of most readers. */
static void put_hex(json_t *o, const char *key, uint64_t v)
{
	char text[19];

	snprintf(text, sizeof(text), "0x%" PRIx64, v);
	put_text(o, key, text);
}

static json_t *guest_bits(unsigned level, uint64_t e)
{
	json_t *o = json_object();

	put_bool(o, "present", e & PTE_P);
	put_bool(o, "writable", e & PTE_W);
	put_bool(o, "user", e & PTE_U);
	put_bool(o, "write_through", e & PTE_PWT);
	put_bool(o, "cache_disable", e & PTE_PCD);
	put_bool(o, "accessed", e & PTE_A);
	put_bool(o, "dirty", e & PTE_D);
	put_bool(o, level > 1 ? "large" : "pat", e & PTE_PS);
	put_bool(o, "global", e & PTE_G);
	put_bool(o, "no_execute", e & PTE_NX);
	put(o, "pkey", e >> PTE_PKEY_SHIFT & 15);
	return o;
}

static json_t *host_bits(unsigned level, uint64_t e)
{
	json_t *o = json_object();

	put_bool(o, "read", e & EPT_R);
	put_bool(o, "write", e & EPT_W);
	put_bool(o, "execute", e & EPT_X);
	if (host_leaf(level, e))
		put_text(o, "memory_type", memory_type(e));
	put_bool(o, "large", level > 1 && e & EPT_PS);
	put_bool(o, "accessed", e & EPT_A);
	put_bool(o, "dirty", e & EPT_D);
	return o;
}

static json_t *rights_json(uint16_t r, bool guest, bool host)
{
	json_t *o = json_object();

	if (guest) {
		put_bool(o, "write", r & TLB_W);
		put_bool(o, "user", r & TLB_U);
		put_bool(o, "execute", !(r & TLB_NX));
	}
	if (host) {
		put_bool(o, guest ? "ept_read" : "read", r & TLB_EPT_R);
		put_bool(o, guest ? "ept_write" : "write", r & TLB_EPT_W);
		put_bool(o, guest ? "ept_execute" : "execute", r & TLB_EPT_X);
	}
	return o;
}

static json_t *step_json(const struct walk_view *v, const struct walk_step *s)
{
	static const char *const what[] = {
		[STEP_REF] = "reference", [STEP_WALK_CACHE] = "walk-cache", [STEP_NESTED_TLB] = "nested-tlb",
		[STEP_REGISTER] = "register", [STEP_FALL_BACK] = "fall-back",
	};
	bool host = s->stage == STAGE_HOST || s->what == STEP_NESTED_TLB;
	json_t *o = json_object();

	put_text(o, "what", what[s->what]);
	if (s->what == STEP_FALL_BACK)
		return o;
	put_text(o, "stage", host ? "host" : "guest");
	if (s->what != STEP_NESTED_TLB) {
		put_text(o, "tables", s->part == PART_SHADOW ? "shadow" : tables_name(v, s->stage));
		put(o, "level", s->level);
	}
	if (host)
		put(o, "for_guest_level", s->guest_level);
	if (nested(v) && (host || is_entry(s)))
		put_hex(o, "guest_physical", s->at_gpa);
	if (is_entry(s)) {
		put_hex(o, "table", s->at & PAGE_MASK);
		put(o, "index", entry_index(v, s));
		put_hex(o, "entry_at", s->at);
		put_hex(o, "entry", s->entry);
		json_object_set_new(o, "bits", host ? host_bits(s->level, s->entry) : guest_bits(s->level, s->entry));
	} else if (s->what == STEP_REGISTER) {
		put_hex(o, "address", s->at_gpa);
		put_hex(o, "entry_at", s->at);
	} else {
		put_hex(o, "gives", s->entry);
	}
	if (s->what == STEP_REF)
		put_text(o, "hit", place_name[s->place < HW_PLACES ? s->place : HW_MEMORY]);
	if (s->what != STEP_REGISTER)
		json_object_set_new(o, "rights", rights_json(s->rights, !host, host));
	put(o, "cycles", s->cycles);
	return o;
}

static json_t *steps_json(const struct walk_view *v)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < v->log.steps; i++)
		json_array_append_new(a, step_json(v, &v->log.step[i]));
	return a;
}

static json_t *result_json(const struct walk_view *v)
{
	json_t *o = json_object();
	char text[256];

	put_text(o, "event", event_name[v->event]);
	if (v->event == XLATE_OK) {
		put_hex(o, "machine", v->x.page.v | (v->address.v & ~PAGE_MASK));
		put_text(o, "owner", owner_name[v->owner]);
		if (v->log.mapped) {
			put(o, "guest_page_bytes", 1ull << v->log.guest_shift);
			put(o, "tlb_page_bytes", 1ull << v->log.shift);
			json_object_set_new(o, "rights", rights_json(v->log.rights, true, nested(v)));
			put_bool(o, "global", v->log.rights & TLB_G);
			put(o, "pkey", v->log.pkey);
		}
	} else if (v->event == XLATE_PAGE_FAULT) {
		put(o, "error_code", v->x.error_code);
		describe_error(v->x.error_code, text, sizeof(text));
		put_text(o, "text", text);
	} else {
		put_hex(o, "guest_physical", v->x.gpa.v);
		if (v->event == XLATE_EPT_VIOLATION) {
			put(o, "qualification", v->x.qualification);
			describe_qualification(v, text, sizeof(text));
			put_text(o, "text", text);
		}
	}
	put_text(o, "meaning", walk_view_meaning(v, text));
	return o;
}

static json_t *guest_json(const struct engine_view *g)
{
	json_t *o = json_object(), *a = json_array();

	put(o, "levels", g->levels);
	put_bool(o, "mapped", g->mapped);
	put_bool(o, "permits", g->permits);
	if (g->mapped) {
		put_hex(o, "guest_physical", g->gpa.v);
		put(o, "page_bytes", 1ull << g->shift);
		json_object_set_new(o, "rights", rights_json(g->rights, true, false));
	}
	for (unsigned i = 0; i < g->entries; i++) {
		json_t *e = json_object();

		put(e, "level", g->entry[i].level);
		put_hex(e, "entry_at", g->entry[i].at);
		put_hex(e, "entry", g->entry[i].value);
		json_object_set_new(e, "bits", guest_bits(g->entry[i].level, g->entry[i].value));
		json_array_append_new(a, e);
	}
	json_object_set_new(o, "entries", a);
	return o;
}

static json_t *totals_json(const struct walk_log *log)
{
	json_t *o = json_object(), *hits = json_object();
	struct walk_totals t;

	walk_view_add_up(log, &t);
	put(o, "refs", t.refs);
	put(o, "guest_refs", t.stage_refs[STAGE_GUEST]);
	put(o, "host_refs", t.stage_refs[STAGE_HOST]);
	for (unsigned i = 0; i < HW_PLACES; i++)
		put(hits, place_name[i], t.places[i]);
	json_object_set_new(o, "ref_hits", hits);
	put(o, "walk_cache_hits", t.walk_cache_hits);
	put(o, "nested_tlb_hits", t.nested_tlb_hits);
	put(o, "registers", t.registers);
	put(o, "cycles", t.cycles);
	return o;
}

json_t *walk_view_json(const struct walk_view *v)
{
	json_t *o = json_object();

	put_hex(o, "address", v->address.v);
	json_object_set_new(o, "register", v->name ? json_string(v->name) : json_null());
	put_text(o, "access", kind_name[v->kind]);
	put_text(o, "privilege", mode_is_user(v->mode) ? "user" : "supervisor");
	put_bool(o, "cold", v->cold);
	put(o, "tlb_level", v->log.tlb_level);
	put_bool(o, "repeated", v->log.repeated);
	json_object_set_new(o, "steps", steps_json(v));
	json_object_set_new(o, "result", result_json(v));
	json_object_set_new(o, "totals", totals_json(&v->log));
	json_object_set_new(o, "guest", guest_json(&v->guest));
	return o;
}
