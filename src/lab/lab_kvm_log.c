/*
 * See lab_kvm_log.h. KVM empties the log at each VM exit after which it finds entries there, and then sets the index
 * back: that VMWRITE is what is seen of it.
 */
#include "lab/lab_kvm_log.h"
#include "arch/vmx.h"
#include "lab/compare.h"
#include "lab/report.h"
#include <errno.h>
#include <inttypes.h>

/* ---- telling ---- */

static json_t *count(uint64_t n) { return json_integer((json_int_t)n); }

static uint64_t since(const struct lab_kvm_log *l) { return engine_now(vm_engine(l->vm)) - l->begun_ns; }

/* Takes @e. */
static void tell(struct lab_kvm_log *l, json_t *e, const char *event, const char *text)
{
	json_object_set_new(e, "text", json_string(text));
	json_object_set_new(e, "event", json_string(event));
	json_array_append_new(l->events, e);
}

static void end_part(struct lab_kvm_log *l)
{
	const char *reason = report_exit_reason_name(l->part.reason);
	bool full = l->part.reason == EXIT_REASON_PML_FULL;
	char text[256], exits[32], entries[32], insns[32];
	json_t *e;

	if (!l->part.exits)
		return;
	if (json_array_size(l->events) >= l->limit) {
		l->beyond++;
		l->part.exits = 0;
		return;
	}
	reason = reason ? reason : "a reason without a name";
	compare_group_digits(l->part.entries, entries);
	compare_group_digits(l->part.insns, insns);
	if (full)
		snprintf(text, sizeof(text), "%10.3f ms  instruction %s: PML full: %s entries", (double)l->part.ns / 1e6, insns,
			 entries);
	else
		snprintf(text, sizeof(text), "%10.3f ms  instruction %s: emptied at %s exit%s (%s): %s entr%s",
			 (double)l->part.ns / 1e6, insns, compare_group_digits(l->part.exits, exits),
			 l->part.exits == 1 ? "" : "s", reason, entries, l->part.entries == 1 ? "y" : "ies");
	e = json_object();
	json_object_set_new(e, "reason", json_string(reason));
	json_object_set_new(e, "exits", count(l->part.exits));
	json_object_set_new(e, "entries", count(l->part.entries));
	json_object_set_new(e, "instruction", count(l->part.insns));
	json_object_set_new(e, "ns", count(l->part.ns));
	tell(l, e, full ? "full" : "emptied", text);
	l->part.exits = 0;
}

static void tell_round(struct lab_kvm_log *l, unsigned round, uint64_t pages)
{
	char text[128], n[32];
	json_t *e;

	end_part(l);
	if (!l->limit)
		return;
	snprintf(text, sizeof(text), "%10.3f ms  round %u: %s pages to send", (double)since(l) / 1e6, round + 1,
		 compare_group_digits(pages, n));
	e = json_object();
	json_object_set_new(e, "round", count(round + 1));
	json_object_set_new(e, "due", count(pages));
	json_object_set_new(e, "ns", count(since(l)));
	tell(l, e, "round", text);
}

static void tell_moved(struct lab_kvm_log *l)
{
	char text[160], parts[32];

	end_part(l);
	if (!l->limit)
		return;
	if (l->beyond) {
		snprintf(text, sizeof(text), "               ... and %s lines more", compare_group_digits(l->beyond, parts));
		tell(l, json_object(), "more", text);
	}
	snprintf(text, sizeof(text), "%10.3f ms  the guest goes on in the other VM", (double)since(l) / 1e6);
	tell(l, json_object(), "moved", text);
}

static void tell_control(struct lab_kvm_log *l, bool on)
{
	char text[128];

	end_part(l);
	if (!l->limit || json_array_size(l->events) >= l->limit)
		return;
	snprintf(text, sizeof(text), "%10.3f ms  KVM turns PML %s", (double)since(l) / 1e6, on ? "on" : "off");
	tell(l, json_object(), on ? "on" : "off", text);
}

/* ---- the monitor's lines ---- */

static void take_line(struct lab_kvm_log *l)
{
	uint64_t pages, at;
	unsigned round;

	if (sscanf(l->line, "KVM-ROUND %u pages %" SCNu64 " at %" SCNu64, &round, &pages, &at) == 3 && round <= LAB_ROUNDS_MAX) {
		if (!round)
			l->begun_ns = engine_now(vm_engine(l->vm));
		l->moving = true;
		l->round[round] = pages;
		tell_round(l, round, pages);
	}
	if (sscanf(l->line, "KVM-MIGRATED rounds %u sent %" SCNu64 " dirty %" SCNu64 " differ %" SCNu64 " total-us %" SCNu64
		   " down-us %" SCNu64, &l->rounds, &l->sent, &l->dirty, &l->differ, &l->total_us, &l->down_us) == 6) {
		l->moving = false;
		l->moved = l->rounds <= LAB_ROUNDS_MAX;
		tell_moved(l);
	}
}

static void output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct lab_kvm_log *l = ctx;

	for (size_t i = 0; i < bytes; i++) {
		if (data[i] != '\n' && l->used < sizeof(l->line) - 1) {
			l->line[l->used++] = (char)data[i];
			continue;
		}
		l->line[l->used] = '\0';
		l->used = 0;
		take_line(l);
	}
}

/* ---- what KVM does ---- */

static void emptied(struct lab_kvm_log *l)
{
	struct obs obs;
	uint64_t entries;

	vm_observe(l->vm, &obs);
	entries = obs.tracking.logged - l->logged;
	l->logged = obs.tracking.logged;
	if (!l->moving || !entries)
		return;
	l->drained++;
	l->drained_full += l->reason == EXIT_REASON_PML_FULL;
	l->entries += entries;
	if (l->part.exits && (l->part.reason != l->reason || l->reason == EXIT_REASON_PML_FULL))
		end_part(l);
	if (!l->part.exits++) {
		l->part.reason = l->reason;
		l->part.entries = 0;
		l->part.insns = vm_insns(l->vm);
		l->part.ns = since(l);
	}
	l->part.entries += entries;
}

static void seen(void *ctx, enum vmx_event what, uint64_t a, uint64_t b)
{
	struct lab_kvm_log *l = ctx;

	if (what == VMX_EVENT_EXIT)
		l->reason = (uint16_t)a;
	else if (what == VMX_EVENT_WRITE && a == VMCS_GUEST_PML_INDEX)
		emptied(l);
	else if (what == VMX_EVENT_WRITE && a == VMCS_PROC_CTL2 && l->moving)
		tell_control(l, b & PROC2_PML);
}

int lab_kvm_log_begin(struct lab_kvm_log *l, struct vm *vm, unsigned limit, struct error *err)
{
	int ret;

	memset(l, 0, sizeof(*l));
	l->vm = vm;
	l->limit = limit;
	l->watch = (struct vmx_watch){seen, l};
	l->events = json_array();
	vm_set_console(vm, (struct vm_console){.ctx = l, .output = output, .fd = -1});
	ret = engine_watch_vmx(vm_engine(vm), &l->watch);
	return ret ? error_set(err, ret, "VMX of this machine cannot be followed") : 0;
}

void lab_kvm_log_fini(struct lab_kvm_log *l)
{
	json_decref(l->events);
	l->events = NULL;
}
