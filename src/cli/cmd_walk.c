/*
 * gnomon walk: stops a guest somewhere and shows how the processor translates an
 * address there, reference by reference. Several addresses are walked one after the
 * other, so a later walk finds what an earlier one left in the caches.
 */
#include "cli/cli.h"
#include "cli/console.h"
#include "lab/walk_view.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define ADDRESSES_MAX 16

/* An address to translate: a number, or a register's name to look up when the guest has stopped. */
struct wanted {
	const char *name; /* of wanted_name[], NULL: the number */
	uint64_t address;
};

enum privilege { PRIVILEGE_CURRENT, PRIVILEGE_SUPER, PRIVILEGE_USER };

struct walk_command {
	struct vm_config cfg;
	const char *serial;
	struct vm_stop stop;
	struct wanted wanted[ADDRESSES_MAX];
	unsigned count;
	int access;              /* enum access_kind, -1: as the address suggests */
	enum privilege privilege;
	bool cold, json;
	struct vm *vm;
};

/* ---- registers by name ---- */

static const char *const wanted_name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10",
					  "r11", "r12", "r13", "r14", "r15", "rip", "cr2", "gdt", "idt", "tss"};
enum { WANTED_RSP = 4, WANTED_RIP = 16, WANTED_CR2, WANTED_GDT, WANTED_IDT, WANTED_TSS };

/* The linear address that register @n points to. */
static uint64_t register_address(unsigned n, const struct engine_regs *r, const struct engine_sregs *s)
{
	bool code64 = s->efer & EFER_LMA && s->seg[SEG_CS].attr & SEG_AR_L;

	switch (n) {
	case WANTED_RIP:
		return code64 ? r->rip : (uint32_t)(s->seg[SEG_CS].base + r->rip);
	case WANTED_RSP:
		return code64 ? r->gpr[n] : (uint32_t)(s->seg[SEG_SS].base + r->gpr[n]);
	case WANTED_CR2:
		return s->cr2;
	case WANTED_GDT:
		return s->gdt.base;
	case WANTED_IDT:
		return s->idt.base;
	case WANTED_TSS:
		return s->tr.base;
	}
	return code64 ? r->gpr[n] : (uint32_t)r->gpr[n];
}

static unsigned wanted_index(const char *name)
{
	unsigned n = 0;

	while (n < ARRAY_SIZE(wanted_name) && strcmp(wanted_name[n], name) != 0)
		n++;
	return n;
}

/* ---- options ---- */

static int set_mmu(void *ctx, const char *v, struct error *err)
{
	return parse_mmu(v, strlen(v), &((struct walk_command *)ctx)->cfg.engine.mmu, err);
}

static int set_serial(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct walk_command *)ctx)->serial = v;
	return 0;
}

static int set_at_insn(void *ctx, const char *v, struct error *err)
{
	return parse_count("at-insn", v, &((struct walk_command *)ctx)->stop.insns, err);
}

static int set_at_console(void *ctx, const char *v, struct error *err)
{
	if (!*v)
		return error_set(err, -EINVAL, "--at-console: an empty text");
	((struct walk_command *)ctx)->stop.console = v;
	return 0;
}

/* "0x1234": a linear address. */
static int parse_address(const char *option, const char *text, uint64_t *address, struct error *err)
{
	char *end;

	errno = 0;
	*address = strtoull(text, &end, 16);
	if (strncmp(text, "0x", 2) != 0 || !text[2] || *end || errno)
		return error_set(err, -EINVAL, "--%s '%s': no address (0x...)", option, text);
	return 0;
}

static int set_at_address(void *ctx, const char *v, struct error *err)
{
	struct walk_command *w = ctx;

	w->stop.at_address = true;
	return parse_address("at-address", v, &w->stop.address, err);
}

static int add_address(struct walk_command *w, const char *text, struct error *err)
{
	unsigned n = wanted_index(text);
	struct wanted *to = &w->wanted[w->count];

	if (w->count == ADDRESSES_MAX)
		return error_set(err, -EINVAL, "--address: more than %d", ADDRESSES_MAX);
	*to = (struct wanted){0};
	if (n < ARRAY_SIZE(wanted_name))
		to->name = wanted_name[n];
	else if (strncmp(text, "0x", 2) != 0)
		return error_set(err, -EINVAL, "--address '%s': an address (0x...) or a register (rip, rsp, rax, cr2, ...)",
				 text);
	else if (parse_address("address", text, &to->address, err))
		return -EINVAL;
	w->count++;
	return 0;
}

static int set_address(void *ctx, const char *v, struct error *err)
{
	struct walk_command *w = ctx;
	int ret = 0;

	w->count = 0;
	while (ret == 0) {
		char item[32];
		size_t n = strcspn(v, ",");

		snprintf(item, sizeof(item), "%.*s", (int)(n < sizeof(item) ? n : sizeof(item) - 1), v);
		ret = add_address(w, item, err);
		if (!v[n])
			break;
		v += n + 1;
	}
	return ret;
}

static int set_access(void *ctx, const char *v, struct error *err)
{
	static const char *const name[] = {[ACCESS_READ] = "read", [ACCESS_WRITE] = "write", [ACCESS_FETCH] = "fetch"};

	for (unsigned i = 0; i < ARRAY_SIZE(name); i++)
		if (strcmp(name[i], v) == 0) {
			((struct walk_command *)ctx)->access = (int)i;
			return 0;
		}
	return error_set(err, -EINVAL, "--access '%s': one of read, write, fetch", v);
}

static int set_user(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct walk_command *)ctx)->privilege = PRIVILEGE_USER;
	return 0;
}

static int set_super(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct walk_command *)ctx)->privilege = PRIVILEGE_SUPER;
	return 0;
}

static int set_cold(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct walk_command *)ctx)->cold = true;
	return 0;
}

static int set_json(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct walk_command *)ctx)->json = true;
	return 0;
}

static const struct option_desc stop_options[] = {
	{"at-insn", "N", "when N guest instructions are complete (k, M, G: powers of ten)", set_at_insn},
	{"at-console", "TEXT", "when the guest has put TEXT out on its serial port", set_at_console},
	{"at-address", "ADDR", "before it executes the instruction at linear address ADDR", set_at_address},
	{0},
};

static const struct option_desc walk_options[] = {
	{"address", "LIST", "linear addresses (0x...) or registers: rip (default), rsp, rax ... r15,\n"
			    "cr2, gdt, idt, tss; separated by commas", set_address},
	{"access", "KIND", "read, write or fetch (default: fetch for rip, else read)", set_access},
	{"user", NULL, "with user rights (default: the guest's at that moment)", set_user},
	{"super", NULL, "with supervisor rights", set_super},
	{"cold", NULL, "with TLBs, walk caches and nested TLB empty", set_cold},
	{"mmu", "SCHEME", "native, brute, shadow, ept, hugegpt, dmt, pvdmt, agile, nested, nested-pvdmt or\n"
			  "native-dmt (default native)", set_mmu},
	{"json", NULL, "as JSON instead of a table", set_json},
	{"serial", "FILE", "serial output of the guest to FILE (default: none)", set_serial},
	{0},
};

static void help(FILE *out)
{
	const struct option_group groups[] = {
		{.title = "Where to stop (at the first of them)", .table = stop_options},
		{.title = "What to show", .table = walk_options},
		{.title = "Guest and machine", .table = guest_options},
		{0},
	};

	fputs("Usage: gnomon walk --kernel FILE --at-... [--address LIST] [--mmu SCHEME] [OPTIONS]\n\n"
	      "Stops a guest at a point and shows how an address is translated there, reference by reference.\n",
	      out);
	options_help(out, groups);
	fputs("\nExit status:\n"
	      "  0    shown, whether the address is mapped or not\n"
	      "  2    bad options, kernel or initrd: nothing was run\n"
	      "  10   failure of the host\n"
	      "  12   the guest ended before it came to where it was to stop\n",
	      out);
}

/* ---- showing ---- */

static enum access_mode access_mode(const struct walk_command *w, const struct engine_regs *r,
				    const struct engine_sregs *s)
{
	bool user = (s->seg[SEG_SS].attr & SEG_AR_DPL) == SEG_AR_DPL;

	if (w->privilege == PRIVILEGE_USER || (w->privilege == PRIVILEGE_CURRENT && user))
		return MODE_USER;
	return w->privilege == PRIVILEGE_CURRENT && r->rflags & RF_AC ? MODE_SUPER_AC : MODE_SUPER;
}

static struct walk_view make_view(const struct walk_command *w, const struct wanted *a, const struct engine_regs *r,
				  const struct engine_sregs *s)
{
	struct walk_view v = {.mmu = w->cfg.engine.mmu, .address = gva(a->address), .name = a->name, .cold = w->cold,
			      .mode = access_mode(w, r, s), .kind = ACCESS_READ};

	if (a->name) {
		unsigned n = wanted_index(a->name);

		v.address = gva(register_address(n, r, s));
		if (n == WANTED_RIP)
			v.kind = ACCESS_FETCH;
	}
	if (w->access >= 0)
		v.kind = (enum access_kind)w->access;
	return v;
}

static const char *const stopped_name[] = {
	[VM_STOPPED_END] = "end", [VM_STOPPED_INSNS] = "instructions", [VM_STOPPED_CONSOLE] = "console",
	[VM_STOPPED_ADDRESS] = "address", [VM_STOPPED_HALT] = "halt",
};

static void print_legend(const struct walk_command *w)
{
	bool ept = engine_mmu_nests(w->cfg.engine.mmu);

	putchar('\n');
	if (ept)
		puts("step  EPT L4 for 3: on the way to the guest's level-3 entry; EPT L4 page: to the page itself");
	puts("bits  P present, W writable, U user, t PWT, c PCD, A accessed, D dirty, L large page (a: PAT in a\n"
	     "      4 KiB entry), G global, N no execution, kN protection key N");
	if (ept)
		puts("      EPT: R W X rights, memory type, L large page, A accessed, D dirty");
	puts(ept ? "can   rights so far in this stage: w write, u user, x execute; EPT: r w x" :
		   "can   rights so far: w write, u user, x execute");
	puts("hit   where it was found: L1, L2, LLC, mem(ory), a page-walk cache (PWC), the nested TLB (nTLB);\n"
	     "      reg: a register of direct translation covers the address, its entry is where it says");
}

static void show_table(const struct walk_command *w, enum vm_stopped why, const struct engine_regs *r,
		       const struct engine_sregs *s)
{
	static struct walk_view v; /* large */

	printf("%s on %s, stopped (%s) after %" PRIu64 " instructions:\nrip %" PRIx64 ", cr3 %" PRIx64 ", CPL %u\n",
	       engine_mmu_name[w->cfg.engine.mmu], w->cfg.engine.cpu.hw.name, stopped_name[why], vm_insns(w->vm), r->rip,
	       s->cr3, s->seg[SEG_SS].attr >> SEG_AR_DPL_SHIFT & 3);
	for (unsigned i = 0; i < w->count; i++) {
		v = make_view(w, &w->wanted[i], r, s);
		walk_view_make(&v, vm_engine(w->vm));
		putchar('\n');
		walk_view_print(&v, stdout);
	}
	print_legend(w);
}

static json_t *stopped_json(const struct walk_command *w, enum vm_stopped why, const struct engine_regs *r,
			    const struct engine_sregs *s)
{
	json_t *o = json_object();
	char text[19];

	json_object_set_new(o, "by", json_string(stopped_name[why]));
	json_object_set_new(o, "instructions", json_integer((json_int_t)vm_insns(w->vm)));
	snprintf(text, sizeof(text), "0x%" PRIx64, r->rip);
	json_object_set_new(o, "rip", json_string(text));
	snprintf(text, sizeof(text), "0x%" PRIx64, s->cr3);
	json_object_set_new(o, "cr3", json_string(text));
	json_object_set_new(o, "cpl", json_integer(s->seg[SEG_SS].attr >> SEG_AR_DPL_SHIFT & 3));
	return o;
}

static int show_json(const struct walk_command *w, enum vm_stopped why, const struct engine_regs *r,
		     const struct engine_sregs *s)
{
	static struct walk_view v; /* large */
	json_t *o = json_object(), *walks = json_array();
	int ret;

	json_object_set_new(o, "schema", json_string(WALK_SCHEMA));
	json_object_set_new(o, "mmu", json_string(engine_mmu_name[w->cfg.engine.mmu]));
	json_object_set_new(o, "hw", json_string(w->cfg.engine.cpu.hw.name));
	json_object_set_new(o, "stopped", stopped_json(w, why, r, s));
	for (unsigned i = 0; i < w->count; i++) {
		v = make_view(w, &w->wanted[i], r, s);
		walk_view_make(&v, vm_engine(w->vm));
		json_array_append_new(walks, walk_view_json(&v));
	}
	json_object_set_new(o, "walks", walks);
	ret = o ? json_dumpf(o, stdout, JSON_INDENT(2)) : -1;
	putchar('\n');
	json_decref(o);
	return ret;
}

static int show(const struct walk_command *w, enum vm_stopped why)
{
	struct engine_regs r;
	struct engine_sregs s;
	int ret = 0;

	engine_get_regs(vm_engine(w->vm), &r);
	engine_get_sregs(vm_engine(w->vm), &s);
	if (w->json)
		ret = show_json(w, why, &r, &s);
	else
		show_table(w, why, &r, &s);
	if (ret || fflush(stdout) || ferror(stdout)) {
		cli_error("walk", "the output could not be written");
		return CLI_HOST_FAILED;
	}
	return CLI_OK;
}

/* ---- running ---- */

static int ended_before(const struct walk_command *w)
{
	static struct vm_result r; /* large */
	char text[128];

	vm_result(w->vm, &r);
	snprintf(text, sizeof(text), "the guest ended (%s, after %" PRIu64 " instructions) before it came to the stop",
		 vm_end_name[r.end], r.insns);
	cli_error("walk", text);
	if (*r.message)
		fputs(r.message, stderr);
	return CLI_NOT_REACHED;
}

static int run_and_show(struct walk_command *w, struct error *err)
{
	struct console console;
	enum vm_stopped why;

	if (console_open(&console, w->serial ? w->serial : "none", err)) {
		cli_error("walk", err->text);
		return CLI_USAGE;
	}
	vm_set_console(w->vm, console_for_vm(&console));
	why = vm_run_until(w->vm, &w->stop);
	console_close(&console);
	return why == VM_STOPPED_END ? ended_before(w) : show(w, why);
}

static int check(const struct walk_command *w, struct error *err)
{
	int ret = guest_options_check(&w->cfg, err);

	if (ret)
		return ret;
	if (w->stop.insns == UINT64_MAX && !w->stop.console && !w->stop.at_address)
		return error_set(err, -EINVAL, "where to stop: --at-insn N, --at-console TEXT or --at-address ADDR is missing");
	return 0;
}

static int walk_command(int argc, char **argv)
{
	static struct walk_command w = {.access = -1, .count = 1, .wanted = {{.name = "rip"}}};
	const struct option_group groups[] = {
		{.title = "Where to stop", .table = stop_options, .ctx = &w},
		{.title = "What to show", .table = walk_options, .ctx = &w},
		{.title = "Guest and machine", .table = guest_options, .ctx = &w.cfg},
		{0},
	};
	struct error err = {0};
	int status;

	w.stop = VM_STOP_NONE;
	vm_config_default(&w.cfg);
	switch (options_parse(argc, argv, groups, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		return CLI_OK;
	case OPTIONS_BAD:
		strncat(err.text, " (see gnomon walk --help)", sizeof(err.text) - strlen(err.text) - 1);
		cli_error("walk", err.text);
		return CLI_USAGE;
	case OPTIONS_OK:
		break;
	}
	if (check(&w, &err) || vm_create(&w.vm, &w.cfg, &err)) {
		cli_error("walk", err.text);
		return err.code == -ENOMEM ? CLI_HOST_FAILED : CLI_USAGE;
	}
	status = run_and_show(&w, &err);
	vm_destroy(w.vm);
	return status;
}

const struct command cmd_walk = {"walk", "show how an address is translated, step by step", walk_command, help};
