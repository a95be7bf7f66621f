/*
 * See lab_migration_log.h. The log itself says nothing of what a page is: the guest's tables are walked from its CR3,
 * each time there are entries, to know which of them are in pages of tables. Those of address spaces that are not in
 * use are missed.
 */
#include "lab/lab_migration_log.h"
#include "arch/vmx.h"
#include "base/bitmap.h"
#include "lab/compare.h"
#include "lab/report.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#define LEVELS 4u /* the guest's: its processor has no LA57 */

/* ---- which pages are tables ---- */

static void mark_table(struct lab_log *l, gpa_t at, unsigned level)
{
	uint64_t page = engine_page_of(vm_engine(l->vm), at), entry[PAGE_SIZE / 8];

	if (page == UINT64_MAX || bitmap_has(l->tables, page))
		return;
	bitmap_set(l->tables, page);
	if (level == 1 || engine_mem_read(vm_engine(l->vm), at, entry, sizeof(entry)))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(entry); i++)
		if (entry[i] & PTE_P && !(level < LEVELS && entry[i] & PTE_PS))
			mark_table(l, gpa(entry[i] & PTE_ADDR_MASK), level - 1);
}

/* ---- parts ---- */

static json_t *count(uint64_t n) { return json_integer((json_int_t)n); }

__attribute__((format(printf, 3, 4))) static size_t add(char *text, size_t bytes, const char *fmt, ...)
{
	size_t used = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text + used, bytes - used, fmt, ap);
	va_end(ap);
	return strlen(text);
}

static const char *name_of(const struct lab_log_part *p)
{
	const char *name = report_exit_reason_name(p->reason);

	return name ? name : "a reason without a name";
}

static void describe_when(const struct lab_log_part *p, char *text, size_t bytes)
{
	char from[32], to[32], exits[32];

	compare_group_digits(p->insns, from);
	compare_group_digits(p->to_insns, to);
	add(text, bytes, "%10.3f ms  instruction %s", (double)p->ns / 1e6, from);
	if (p->to_insns != p->insns)
		add(text, bytes, " to %s", to);
	if (p->reason == EXIT_REASON_PML_FULL)
		add(text, bytes, ": PML full");
	else if (p->reason == ENGINE_LOG_COLLECTED)
		add(text, bytes, ": pages are collected");
	else
		add(text, bytes, ": emptied at %s exit%s (%s)", compare_group_digits(p->exits, exits),
		    p->exits == 1 ? "" : "s", name_of(p));
}

static void describe_what(const struct lab_log_part *p, char *text, size_t bytes)
{
	char n[32];

	add(text, bytes, ": %s entr%s", compare_group_digits(p->entries, n), p->entries == 1 ? "y" : "ies");
	if (p->pages != p->entries)
		add(text, bytes, ", %s different pages", compare_group_digits(p->pages, n));
	if (p->tables)
		add(text, bytes, ", %s of page tables", compare_group_digits(p->tables, n));
	if (p->entries == 1) {
		add(text, bytes, ": %#llx", (unsigned long long)p->first.v);
		return;
	}
	if (p->run_most > 1)
		add(text, bytes, ", up to %s neighbours in a row", compare_group_digits(p->run_most, n));
	add(text, bytes, ": %#llx ... %#llx", (unsigned long long)p->first.v, (unsigned long long)p->last.v);
}

static json_t *event_of(const struct lab_log_part *p)
{
	bool collected = p->reason == ENGINE_LOG_COLLECTED;
	json_t *e = json_object();
	char text[400] = "";

	describe_when(p, text, sizeof(text));
	describe_what(p, text, sizeof(text));
	json_object_set_new(e, "text", json_string(text));
	json_object_set_new(e, "event", json_string(collected ? "collected" :
						    p->reason == EXIT_REASON_PML_FULL ? "full" : "emptied"));
	json_object_set_new(e, "reason", collected ? json_null() : json_string(name_of(p)));
	json_object_set_new(e, "exits", count(p->exits));
	json_object_set_new(e, "instruction", count(p->insns));
	json_object_set_new(e, "to_instruction", count(p->to_insns));
	json_object_set_new(e, "ns", count(p->ns));
	json_object_set_new(e, "entries", count(p->entries));
	json_object_set_new(e, "pages", count(p->pages));
	json_object_set_new(e, "page_tables", count(p->tables));
	json_object_set_new(e, "neighbours", count(p->run_most));
	json_object_set_new(e, "first", count(p->first.v));
	json_object_set_new(e, "last", count(p->last.v));
	return e;
}

/* The part that grows is complete. */
static void end_part(struct lab_log *l)
{
	if (!l->part.entries)
		return;
	if (json_array_size(l->round) + json_array_size(l->events) < l->limit) {
		json_array_append_new(l->round, event_of(&l->part));
	} else {
		l->beyond += l->part.entries;
		l->beyond_parts++;
	}
	l->part = (struct lab_log_part){.entries = 0};
	memset(l->seen, 0, l->words * sizeof(*l->seen));
}

static void add_entry(struct lab_log *l, gpa_t a)
{
	uint64_t page = engine_page_of(vm_engine(l->vm), a);
	struct lab_log_part *p = &l->part;

	if (page == UINT64_MAX)
		return;
	if (p->entries && (a.v == p->last.v + PAGE_SIZE || a.v + PAGE_SIZE == p->last.v))
		p->run++;
	else
		p->run = 1;
	p->run_most = max_u64(p->run_most, p->run);
	p->pages += !bitmap_has(l->seen, page);
	bitmap_set(l->seen, page);
	p->tables += bitmap_has(l->tables, page);
	p->first = p->entries ? p->first : a;
	p->last = a;
	p->entries++;
}

static void emptied(void *ctx, const struct engine_log *log)
{
	bool alone = log->reason == EXIT_REASON_PML_FULL || log->reason == ENGINE_LOG_COLLECTED;
	struct lab_log *l = ctx;
	struct lab_log_part *p = &l->part;

	memset(l->tables, 0, l->words * sizeof(*l->tables));
	mark_table(l, gpa(log->cr3 & PTE_ADDR_MASK), LEVELS);
	if (alone || log->reason != p->reason)
		end_part(l);
	p->to_insns = engine_insns(vm_engine(l->vm));
	if (!p->exits) {
		p->insns = p->to_insns;
		p->ns = engine_now(vm_engine(l->vm)) - l->begun_ns;
		p->reason = log->reason;
	}
	p->exits++;
	for (unsigned i = 0; i < log->entries; i++)
		add_entry(l, log->entry[i]);
	if (alone)
		end_part(l);
}

/* ---- rounds ---- */

static json_t *heading_of(const struct lab_round *r, unsigned round, bool stopped)
{
	char due[32], sent[32], zeros[32], again[32], text[300] = "";
	json_t *e = json_object();

	if (stopped)
		add(text, sizeof(text), "The VM stands still");
	else
		add(text, sizeof(text), "Round %u", round);
	add(text, sizeof(text), ", until %.3f ms: %s pages to send, %s sent with contents, %s zeros, %s passed over",
	    (double)r->ns / 1e6, compare_group_digits(r->due, due), compare_group_digits(r->sent, sent),
	    compare_group_digits(r->zeros, zeros), compare_group_digits(r->again, again));
	json_object_set_new(e, "text", json_string(text));
	json_object_set_new(e, "event", json_string(stopped ? "stopped" : "round"));
	json_object_set_new(e, "round", count(round));
	json_object_set_new(e, "ns", count(r->ns));
	json_object_set_new(e, "due", count(r->due));
	json_object_set_new(e, "sent", count(r->sent));
	json_object_set_new(e, "zeros", count(r->zeros));
	json_object_set_new(e, "again", count(r->again));
	return e;
}

static json_t *rest_of(const struct lab_log *l)
{
	json_t *e = json_object();
	char text[120] = "", parts[32], entries[32];

	add(text, sizeof(text), "              ... and %s times more, %s entries",
	    compare_group_digits(l->beyond_parts, parts), compare_group_digits(l->beyond, entries));
	json_object_set_new(e, "text", json_string(text));
	json_object_set_new(e, "event", json_string("more"));
	json_object_set_new(e, "times", count(l->beyond_parts));
	json_object_set_new(e, "entries", count(l->beyond));
	return e;
}

void lab_log_round(struct lab_log *l, const struct lab_precopy *p, bool stopped)
{
	end_part(l);
	json_array_append_new(l->events, heading_of(&p->round[p->rounds], p->rounds + 1, stopped));
	json_array_extend(l->events, l->round);
	json_array_clear(l->round);
	if (l->beyond_parts)
		json_array_append_new(l->events, rest_of(l));
	l->beyond = l->beyond_parts = 0;
}

/* ---- life ---- */

int lab_log_begin(struct lab_log *l, struct vm *vm, unsigned limit, struct error *err)
{
	struct engine_vm *engine = vm_engine(vm);
	uint64_t pages = engine_pages(engine), words = bitmap_words(pages);

	*l = (struct lab_log){.watch = {emptied, l}, .vm = vm, .limit = limit, .begun_ns = engine_now(engine),
			      .pages = pages, .words = words};
	l->tables = calloc(words, sizeof(*l->tables));
	l->seen = calloc(words, sizeof(*l->seen));
	l->round = json_array();
	l->events = json_array();
	if (l->tables && l->seen && l->round && l->events)
		return 0;
	lab_log_fini(l);
	return error_set(err, -ENOMEM, "out of memory");
}

void lab_log_fini(struct lab_log *l)
{
	free(l->tables);
	free(l->seen);
	json_decref(l->round);
	json_decref(l->events);
	*l = (struct lab_log){.vm = NULL};
}
