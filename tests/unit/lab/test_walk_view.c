/*
 * A walk in words: flags of entries, sums, the table and the JSON of walks that
 * are written down by hand here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "arch/vmx.h"
#include "arch/x86.h"
#include "lab/walk_view.h"
#include <stdlib.h>
#include <string.h>

static void flags(enum walk_stage stage, unsigned level, uint64_t entry, const char *want)
{
	char buf[32];

	assert_string_equal(walk_view_flags(stage, level, entry, buf), want);
	assert_true(strlen(want) < sizeof(buf));
}

static void test_flags(void **state)
{
	(void)state;
	flags(STAGE_GUEST, 1, 0, "- - - - - - - - - -");
	flags(STAGE_GUEST, 4, 0x1000 | PTE_P | PTE_W | PTE_U | PTE_A, "P W U - - A - - - -");
	flags(STAGE_GUEST, 2, PTE_P | PTE_PS | PTE_G | PTE_NX | PTE_D | PTE_A, "P - - - - A D L G N");
	flags(STAGE_GUEST, 1, PTE_P | PTE_PAT | PTE_PWT | PTE_PCD, "P - - t c - - a - -");
	flags(STAGE_GUEST, 1, ~0ull, "P W U t c A D a G N k15");
	flags(STAGE_HOST, 4, 0x1000 | EPT_R | EPT_W | EPT_X | EPT_A, "R W X -- - A -");
	flags(STAGE_HOST, 1, EPT_R | EPT_MT_WB << EPT_MT_SHIFT | EPT_D, "R - - WB - - D");
	flags(STAGE_HOST, 2, EPT_R | EPT_W | EPT_PS | EPT_MT_UC << EPT_MT_SHIFT, "R W - UC L - -");
	flags(STAGE_HOST, 4, EPT_PS, "- - - -- L - -"); /* no leaf: reserved there */
	flags(STAGE_HOST, 1, ~0ull, "R W X ?? - A D");
}

static struct walk_step *step(struct walk_view *v, int what, enum walk_stage stage, unsigned level, uint64_t at,
			      uint64_t entry, uint32_t cycles)
{
	struct walk_step *s = &v->log.step[v->log.steps++];

	*s = (struct walk_step){.stage = stage, .level = (uint8_t)level, .at = at, .at_gpa = at, .entry = entry,
				.cycles = cycles};
	s->what = what;
	return s;
}

/* Four levels on the bare machine. */
static struct walk_view *native_walk(void)
{
	struct walk_view *v = calloc(1, sizeof(*v));
	static const uint64_t entry[] = {0x2067, 0x3067, 0x4067, 0x8000000000005163};

	v->address = gva(0x7ffff123);
	v->name = "rsp";
	for (unsigned i = 0; i < 4; i++)
		step(v, STEP_REF, STAGE_GUEST, 4 - i, 0x1000 * (i + 1) + 8 * i, entry[i], 4)->rights =
			i < 3 ? TLB_W | TLB_U : TLB_W | TLB_NX;
	v->log.step[3].place = HW_MEMORY;
	v->log.step[3].cycles = 200;
	v->log.mapped = true;
	v->log.shift = v->log.guest_shift = 12;
	v->log.rights = TLB_W | TLB_NX | TLB_G | TLB_D | TLB_EPT_RWX;
	v->x.page = hpa(0x5000);
	v->owner = ENGINE_THIS_VMS;
	v->ram = true;
	v->guest = (struct engine_view){.levels = 4, .mapped = true, .permits = true, .gpa = gpa(0x5123), .shift = 12};
	return v;
}

static char *printed(const struct walk_view *v)
{
	char *text = NULL;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);

	walk_view_print(v, f);
	fclose(f);
	return text;
}

static void says(const struct walk_view *v, const char *want)
{
	char *text = printed(v);

	if (!strstr(text, want))
		fail_msg("no '%s' in:\n%s", want, text);
	free(text);
}

/* Lines of the table, which begin with a number or are its head, fit 100 columns. */
static void narrow(const struct walk_view *v)
{
	char *text = printed(v), *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (line[0] == ' ')
			assert_true(strlen(line) <= 100);
	free(text);
}

static void test_native(void **state)
{
	struct walk_view *v = native_walk();
	struct walk_totals t;

	(void)state;
	walk_view_add_up(&v->log, &t);
	assert_int_equal(t.refs, 4);
	assert_int_equal(t.stage_refs[STAGE_GUEST], 4);
	assert_int_equal(t.places[HW_L1], 3);
	assert_int_equal(t.places[HW_MEMORY], 1);
	assert_int_equal(t.cycles, 212);
	says(v, "000000007ffff123 (rsp), read by supervisor\n");
	says(v, " 1 guest L4       0 00001000 0000000000002067 P W U - - A D - - - wux L1        4\n");
	says(v, " 4 guest L1       3 00004018 8000000000005163 P W - - - A D - G N w-- mem     200\n");
	says(v, "Maps to machine address 5123 (this VM's): a page of 4 KiB.\n");
	says(v, "Rights: supervisor, writable, no execution, global, dirty.\n");
	says(v, "Total: 4 references (3 in L1, 1 in memory); 212 cycles.\n");
	narrow(v);
	free(v);
}

/* With EPT: a nested-TLB hit, a cached table, an entry of a large page; addresses of 46 bits. */
static void test_nested(void **state)
{
	struct walk_view *v = native_walk();
	struct walk_step *s;

	(void)state;
	v->mmu = ENGINE_EPT;
	v->log.steps = 0;
	v->log.tlb_level = 2;
	step(v, STEP_NESTED_TLB, STAGE_HOST, 0, 0, 0x9000, 1)->rights = TLB_EPT_RWX;
	step(v, STEP_REF, STAGE_GUEST, 2, 0x9010, 0x200000000083, 14)->rights = TLB_W;
	step(v, STEP_WALK_CACHE, STAGE_HOST, 3, 0, 0xa000, 2)->rights = TLB_EPT_RWX;
	s = step(v, STEP_REF, STAGE_HOST, 2, 0xa008, 0x3fff002000b7, 4);
	s->rights = TLB_EPT_RWX;
	s->at_gpa = 0x200000000123;
	v->log.guest_shift = 30;
	v->log.shift = 21;
	says(v, "The level-2 TLB holds it");
	says(v, " 1 nested TLB   ");
	says(v, " 4 EPT L2 page  200000000123   1 00000000a008 00003fff002000b7 R W X WB L - -      rwx L1        4\n");
	says(v, "a page of 1 GiB, of which the TLB holds 2 MiB.\n");
	says(v, "Total: 2 references, 1 to guest tables and 1 to EPT (2 in L1); 21 cycles.\n"
		"Beside them: 1 from walk caches, 1 from the nested TLB.\n");
	narrow(v);
	free(v);
}

static void meaning(struct walk_view *v, enum engine_mmu mmu, enum xlate_event ev, bool permits, bool ram,
		    const char *want)
{
	char buf[256];

	v->mmu = mmu;
	v->event = ev;
	v->guest.permits = permits;
	v->ram = ram;
	if (!strstr(walk_view_meaning(v, buf), want))
		fail_msg("'%s' does not say '%s'", buf, want);
}

static void test_faults(void **state)
{
	struct walk_view *v = native_walk();

	(void)state;
	meaning(v, ENGINE_NATIVE, XLATE_PAGE_FAULT, false, true, "the guest's own tables do not allow it");
	meaning(v, ENGINE_SHADOW, XLATE_PAGE_FAULT, false, true, "the guest's own tables do not allow it");
	meaning(v, ENGINE_SHADOW, XLATE_PAGE_FAULT, true, true, "would fill its own");
	meaning(v, ENGINE_BRUTE, XLATE_PAGE_FAULT, true, false, "would emulate the access");
	meaning(v, ENGINE_EPT, XLATE_EPT_VIOLATION, true, true, "with no EPT entry yet");
	meaning(v, ENGINE_EPT, XLATE_EPT_VIOLATION, true, false, "a device's address");
	v->x.error_code = PF_P | PF_W | PF_U;
	v->mmu = ENGINE_NATIVE;
	v->event = XLATE_PAGE_FAULT;
	says(v, "Page fault, error code 0x7: protection, write by user.\n");
	v->mmu = ENGINE_EPT;
	v->event = XLATE_EPT_VIOLATION;
	v->x.gpa = gpa(0x1234000);
	v->x.qualification = EPT_VIOL_WRITE | EPT_VIOL_FINAL | 5 << EPT_VIOL_RIGHTS_SHIFT;
	says(v, "EPT violation at guest-physical 1234000, qualification 0x12a: write of the page, EPT allows r-x.\n");
	free(v);
}

static const char *text_at(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }
static json_int_t number_at(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static void test_json(void **state)
{
	struct walk_view *v = native_walk();
	json_t *o = walk_view_json(v);
	const json_t *steps = json_object_get(o, "steps"), *last = json_array_get(steps, 3);
	const json_t *result = json_object_get(o, "result"), *totals = json_object_get(o, "totals");

	(void)state;
	assert_string_equal(text_at(o, "address"), "0x7ffff123");
	assert_string_equal(text_at(o, "register"), "rsp");
	assert_string_equal(text_at(o, "access"), "read");
	assert_int_equal(json_array_size(steps), 4);
	assert_string_equal(text_at(last, "what"), "reference");
	assert_string_equal(text_at(last, "entry"), "0x8000000000005163");
	assert_string_equal(text_at(last, "table"), "0x4000");
	assert_string_equal(text_at(last, "hit"), "memory");
	assert_int_equal(number_at(last, "index"), 3);
	assert_int_equal(number_at(last, "cycles"), 200);
	assert_true(json_is_true(json_object_get(json_object_get(last, "bits"), "no_execute")));
	assert_true(json_is_false(json_object_get(json_object_get(last, "rights"), "execute")));
	assert_string_equal(text_at(result, "event"), "mapped");
	assert_string_equal(text_at(result, "machine"), "0x5123");
	assert_string_equal(text_at(result, "owner"), "vm");
	assert_int_equal(number_at(totals, "refs"), 4);
	assert_int_equal(number_at(json_object_get(totals, "ref_hits"), "memory"), 1);
	json_decref(o);
	free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flags),  cmocka_unit_test(test_native), cmocka_unit_test(test_nested),
		cmocka_unit_test(test_faults), cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
