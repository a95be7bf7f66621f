/* gnomon hw: the built-in hardware descriptions, and what a description says. */
#include "cli/cli.h"
#include "arch/vmx.h"
#include "mmu/hw.h"

static void help(FILE *out)
{
	fputs("Usage: gnomon hw list\n"
	      "       gnomon hw show NAME|FILE [--summary]\n"
	      "       gnomon hw check FILE\n\n"
	      "Descriptions of translation hardware, for 'gnomon run --hw NAME|FILE': TLBs, walk caches, nested\n"
	      "TLB, memory hierarchy, and what things cost in cycles.\n\n"
	      "  list    the built-in descriptions\n"
	      "  show    the text of a built-in one, to copy and edit; with --summary (and of a file) a table\n"
	      "  check   is the file a description? Otherwise says the line, the key and why not\n\n"
	      "A description may begin with another one and change it; this is a whole file:\n\n"
	      "  base = \"skylake\";\n"
	      "  name = \"skylake-ntlb\";\n"
	      "  nested_tlb = { entries = 16; ways = \"all\"; };\n\n"
	      "Exit status: 0, or 2 if there is no such description or it is refused\n",
	      out);
}

static int fail(const char *text)
{
	cli_error("hw", text);
	return CLI_USAGE;
}

/* ---- the summary ---- */

static void print_array(FILE *out, const char *label, const char *pages, const struct hw_array *a)
{
	fprintf(out, "  %-22s %-10s", label, pages);
	if (!a->entries)
		fputs("      none\n", out);
	else
		fprintf(out, "  %6u entries  %5u way%s  %5u set%s\n", a->entries, a->ways, a->ways == 1 ? " " : "s",
			hw_array_sets(a), hw_array_sets(a) == 1 ? "" : "s");
}

static void print_tlb(FILE *out, const char *label, const struct hw_tlb *t)
{
	if (!t->arrays)
		print_array(out, label, "", &(struct hw_array){0});
	for (unsigned i = 0; i < t->arrays; i++) {
		const struct hw_array *a = &t->array[i];
		char pages[16];

		snprintf(pages, sizeof(pages), "%s%s%s", a->pages & HW_4K ? "4K " : "", a->pages & HW_2M ? "2M " : "",
			 a->pages & HW_1G ? "1G" : "");
		print_array(out, i ? "" : label, pages, a);
	}
}

static void print_levels(FILE *out, const char *dimension, const struct hw_array level[HW_LEVELS])
{
	static const char *const name[HW_LEVELS] = {NULL, NULL, "PDE", "PDPTE", "PML4E", "PML5E"};
	char label[32];

	for (unsigned i = HW_LEVELS - 1; i >= 2; i--) {
		snprintf(label, sizeof(label), "%s %s", dimension, name[i]);
		print_array(out, label, "", &level[i]);
	}
}

static void print_walk_caches(FILE *out, const struct hw *hw)
{
	static const char *const kind[] = {[HW_WALK_NONE] = "none", [HW_WALK_SPLIT] = "one for each level (Intel's)",
					   [HW_WALK_UNIFIED] = "one page-table cache (AMD's)"};

	fprintf(out, "\nWalk caches: %s\n", kind[hw->walk_caches]);
	if (hw->walk_caches == HW_WALK_SPLIT) {
		print_levels(out, "guest", hw->guest);
		print_levels(out, "host", hw->host);
	} else if (hw->walk_caches == HW_WALK_UNIFIED) {
		print_array(out, "page-table cache", "", &hw->unified);
		fprintf(out, "  %-22s %s%s%s\n", "holds entries of", hw->unified_guest ? "guest " : "",
			hw->unified_host ? "host " : "", hw->unified_host_leaf ? "host-leaf" : "");
	}
	print_array(out, "nested TLB", "", &hw->nested_tlb);
}

static void print_caches(FILE *out, const struct hw *hw)
{
	static const char *const name[] = {[HW_L1] = "L1 data", [HW_L2] = "L2", [HW_LLC] = "last level"};

	fprintf(out, "\nMemory hierarchy: lines of %u bytes\n", hw->line);
	for (unsigned i = 0; i < HW_MEMORY; i++) {
		const struct hw_cache *c = &hw->cache[i];

		if (c->bytes)
			fprintf(out, "  %-22s %8.1f KiB  %5u ways  %6u cycles\n", name[i], (double)c->bytes / 1024, c->ways,
				c->latency);
		else
			fprintf(out, "  %-22s     none\n", name[i]);
	}
	fprintf(out, "  %-22s %12s  %10s  %6u cycles\n", "memory", "", "", hw->memory_latency);
}

/* The most frequent cost is that of all reasons that are not named. */
static void print_exits(FILE *out, const struct hw_cost *c)
{
	static const struct { unsigned number; const char *name; } reason[] = {
#define X(sym, number, name) {number, name},
		VMX_EXIT_REASONS(X)
#undef X
	};
	uint32_t common = c->exit[HW_EXIT_REASONS - 1]; /* no reason has this number: what "default" said */

	fprintf(out, "  %-22s %6u\n", "VM exit", common);
	for (unsigned i = 0; i < sizeof(reason) / sizeof(*reason); i++)
		if (c->exit[reason[i].number] != common)
			fprintf(out, "    %-20.40s %6u\n", reason[i].name, c->exit[reason[i].number]);
}

static void print_costs(FILE *out, const struct hw_cost *c)
{
	const struct { const char *name; uint32_t cycles; } cost[] = {
		{"second-level TLB hit", c->l2_tlb_hit}, {"beginning a walk", c->l2_tlb_miss},
		{"walk-cache hit", c->walk_cache_hit}, {"nested-TLB hit", c->nested_tlb_hit},
		{"lookup of registers", c->register_lookup},
		{"event delivery", c->page_fault}, {"VM entry", c->entry}, {"dispatch of an exit", c->dispatch},
		{"VMREAD", c->vmread}, {"VMWRITE", c->vmwrite}, {"INVEPT", c->invept}, {"INVVPID", c->invvpid},
		{"emulated instruction", c->emulated_insn}, {"table entry read", c->table_read},
		{"table entry written", c->table_write},
	};

	fprintf(out, "\nCosts in cycles\n  %-22s %6g\n", "instruction", c->instruction);
	for (unsigned i = 0; i < sizeof(cost) / sizeof(*cost); i++)
		fprintf(out, "  %-22s %6u\n", cost[i].name, cost[i].cycles);
	print_exits(out, c);
}

static void print_summary(FILE *out, const struct hw *hw)
{
	fprintf(out, "%s: %s\n\nTLBs\n", hw->name, hw->title);
	print_tlb(out, "first level, data", &hw->l1d);
	print_tlb(out, "first level, fetch", &hw->l1i);
	print_tlb(out, hw->l2_split ? "second level, data" : "second level", &hw->l2d);
	if (hw->l2_split)
		print_tlb(out, "second level, fetch", &hw->l2i);
	print_walk_caches(out, hw);
	print_caches(out, hw);
	print_costs(out, &hw->cost);
}

/* ---- the commands ---- */

static int list(void)
{
	struct error err;
	struct hw hw;

	for (const struct hw_builtin *b = hw_builtins; b->name; b++) {
		if (hw_load(&hw, b->name, &err))
			return fail(err.text);
		printf("%-10s %s\n", b->name, hw.title);
	}
	return CLI_OK;
}

static const char *builtin_text(const char *name)
{
	for (const struct hw_builtin *b = hw_builtins; b->name; b++)
		if (strcmp(b->name, name) == 0)
			return b->text;
	return NULL;
}

static int show(const char *name, bool summary)
{
	const char *text = builtin_text(name);
	struct error err;
	struct hw hw;

	if (hw_load(&hw, name, &err))
		return fail(err.text);
	if (text && !summary)
		fputs(text, stdout);
	else
		print_summary(stdout, &hw);
	return CLI_OK;
}

static int check(const char *path)
{
	struct error err;
	struct hw hw;

	if (hw_load(&hw, path, &err))
		return fail(err.text);
	printf("%s: %s, %s\n", path, hw.name, hw.title);
	return CLI_OK;
}

static int run_command(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	bool summary = false;
	char text[160];

	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			help(stdout);
			return CLI_OK;
		}
	if (argc > 2 && strcmp(argv[argc - 1], "--summary") == 0) {
		summary = true;
		argc--;
	}
	if (strcmp(verb, "list") == 0 && argc == 2 && !summary)
		return list();
	if (strcmp(verb, "show") == 0 && argc == 3)
		return show(argv[2], summary);
	if (strcmp(verb, "check") == 0 && argc == 3 && !summary)
		return check(argv[2]);
	snprintf(text, sizeof(text), "%s%.64s%s list, show NAME|FILE [--summary], check FILE (see gnomon hw --help)",
		 *verb ? "'" : "", verb, *verb ? "': not one of, or wrong arguments:" : "one of");
	return fail(text);
}

const struct command cmd_hw = {"hw", "list, show and check hardware descriptions", run_command, help};
