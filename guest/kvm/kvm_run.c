/*
 * The run loop: KVM executes until something is wanted of a device, a timer of one is due, or the guest is through.
 *
 * One thread. A timer's signal is blocked except within KVM_RUN, where it ends the call; so nothing is interrupted
 * anywhere else, and a signal that comes just before KVM_RUN is not lost.
 */
#include "kvm_vm.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TIMER_SIGNAL SIGALRM
#define NS_PER_S     1000000000ull

/* ---- time ---- */

uint64_t kvm_machine_now(const struct kvm_machine *m)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)(t.tv_sec - m->start.tv_sec) * NS_PER_S + (uint64_t)t.tv_nsec - (uint64_t)m->start.tv_nsec;
}

/* The timer's signal comes at @at. */
static void arm(struct kvm_machine *m, uint64_t at)
{
	struct itimerspec t = {{0, 0}, {0, 0}};
	uint64_t ns;

	if (at == m->armed_ns)
		return;
	m->armed_ns = at;
	if (at != UINT64_MAX) {
		ns = at + (uint64_t)m->start.tv_nsec;
		t.it_value = (struct timespec){m->start.tv_sec + (time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
	}
	timer_settime(m->timer, TIMER_ABSTIME, &t, NULL);
}

static void take_signal(struct kvm_machine *m)
{
	const struct timespec none = {0, 0};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, TIMER_SIGNAL);
	if (sigtimedwait(&set, NULL, &none) == TIMER_SIGNAL)
		m->armed_ns = UINT64_MAX;
}

/* Within KVM_RUN the timer's signal is not blocked. */
static int set_signal_mask(const struct engine_vm *vm)
{
	struct {
		struct kvm_signal_mask head;
		uint64_t set;
	} __attribute__((packed)) mask = {.head.len = 8, .set = 0};

	return ioctl(vm->vcpu, KVM_SET_SIGNAL_MASK, &mask);
}

/* ---- console ---- */

void kvm_machine_flush(struct kvm_machine *m)
{
	if (m->in_line)
		printf("%s%.*s\n", m->prefix, (int)m->in_line, m->line);
	m->in_line = 0;
	fflush(stdout);
}

static void put_char(struct kvm_machine *m, char c)
{
	if (c == '\r')
		return;
	if (c == '\n' || m->in_line == sizeof(m->line) - 1) {
		printf("%s%.*s\n", m->prefix, (int)m->in_line, m->line);
		fflush(stdout);
		m->in_line = 0;
	}
	if (c == '\n')
		return;
	m->line[m->in_line++] = c >= 0 && c < ' ' && c != '\t' ? '?' : c;
	m->line[m->in_line] = '\0';
	if (m->watch && strstr(m->line, m->watch))
		m->seen = true;
}

static void take_output(struct kvm_machine *m)
{
	uint8_t buf[256];
	size_t n;

	while ((n = platform_take_output(&m->platform, buf, sizeof(buf))) > 0)
		for (size_t i = 0; i < n; i++)
			put_char(m, (char)buf[i]);
}

/* ---- interrupts ---- */

/*
 * KVM has to know which vectors come from level-triggered inputs: it tells of their EOI. Messages themselves are sent
 * when they are due (platform_take_msi()).
 */
static void tell_routes(struct kvm_machine *m)
{
	enum { MASKED = 1 << 16, LEVEL = 1 << 15, LOGICAL = 1 << 11 };
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[IOAPIC_PINS];
	} r = {.head.nr = 0};

	if (!memcmp(m->routes, m->platform.ioapic.redirect, sizeof(m->routes)))
		return;
	memcpy(m->routes, m->platform.ioapic.redirect, sizeof(m->routes));
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = m->routes[pin];

		if (e & MASKED)
			continue;
		r.entry[r.head.nr++] = (struct kvm_irq_routing_entry){
			.gsi = pin, .type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = 0xfee00000u | (uint32_t)(e >> 56) << 12 | (e & LOGICAL ? 4 : 0),
				  .data = (uint32_t)(e & 0x7ff) | (e & LEVEL ? 3u << 14 : 0)}};
	}
	if (ioctl(m->vm->fd, KVM_SET_GSI_ROUTING, &r))
		perror("gnomon-kvm: KVM_SET_GSI_ROUTING");
}

static void send_messages(struct kvm_machine *m)
{
	uint64_t addr;
	uint32_t data;

	while (platform_take_msi(&m->platform, &addr, &data)) {
		const struct kvm_msi msi = {.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};

		if (ioctl(m->vm->fd, KVM_SIGNAL_MSI, &msi) < 0)
			perror("gnomon-kvm: KVM_SIGNAL_MSI");
	}
}

/* The PIC's interrupt goes in when the processor can take it; until then KVM is asked to say when. */
static void drive_pic(struct kvm_machine *m)
{
	struct kvm_run *run = m->vm->run;
	bool wanted = platform_pic_intr(&m->platform);

	if (wanted && run->ready_for_interrupt_injection) {
		const struct kvm_interrupt irq = {.irq = platform_pic_ack(&m->platform)};

		if (ioctl(m->vm->vcpu, KVM_INTERRUPT, &irq))
			perror("gnomon-kvm: KVM_INTERRUPT");
		run->ready_for_interrupt_injection = 0;
		wanted = platform_pic_intr(&m->platform);
	}
	run->request_interrupt_window = wanted;
}

/* ---- exits ---- */

static void do_port(struct kvm_machine *m)
{
	struct kvm_run *run = m->vm->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;
	uint64_t v;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		v = 0;
		if (write)
			memcpy(&v, data, run->io.size);
		platform_io(&m->platform, true, write, run->io.port, run->io.size, &v, kvm_machine_now(m));
		if (!write)
			memcpy(data, &v, run->io.size);
		take_output(m);
	}
}

static void do_mmio(struct kvm_machine *m)
{
	struct kvm_run *run = m->vm->run;
	uint64_t v = 0;

	memcpy(&v, run->mmio.data, 8);
	platform_io(&m->platform, false, run->mmio.is_write, run->mmio.phys_addr, run->mmio.len, &v, kvm_machine_now(m));
	if (!run->mmio.is_write)
		memcpy(run->mmio.data, &v, 8);
}

static enum kvm_end do_failure(struct kvm_machine *m)
{
	const struct kvm_run *run = m->vm->run;

	if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		snprintf(m->failure, sizeof(m->failure), "VM entry fails, hardware reason %#" PRIx64,
			 (uint64_t)run->fail_entry.hardware_entry_failure_reason);
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		snprintf(m->failure, sizeof(m->failure), "KVM's internal error %u (%u numbers, %#" PRIx64 " %#" PRIx64 ")",
			 run->internal.suberror, run->internal.ndata, (uint64_t)run->internal.data[0],
			 (uint64_t)run->internal.data[1]);
	else
		snprintf(m->failure, sizeof(m->failure), "an exit that is not handled: %u", run->exit_reason);
	return KVM_END_FAIL;
}

static enum kvm_end do_exit(struct kvm_machine *m)
{
	const struct kvm_run *run = m->vm->run;

	m->exits[run->exit_reason % ARRAY_SIZE(m->exits)]++;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		do_port(m);
		return KVM_END_NONE;
	case KVM_EXIT_MMIO:
		do_mmio(m);
		return KVM_END_NONE;
	case KVM_EXIT_IOAPIC_EOI:
		platform_eoi(&m->platform, run->eoi.vector);
		return KVM_END_NONE;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return KVM_END_NONE;
	case KVM_EXIT_SHUTDOWN:
		return KVM_END_SHUTDOWN;
	default:
		return do_failure(m);
	}
}

static enum kvm_end enter(struct kvm_machine *m)
{
	if (ioctl(m->vm->vcpu, KVM_RUN, 0) == 0)
		return do_exit(m);
	if (errno == EINTR || errno == EAGAIN) {
		m->exits[KVM_EXIT_INTR]++;
		take_signal(m);
		return KVM_END_NONE;
	}
	snprintf(m->failure, sizeof(m->failure), "KVM_RUN: %s", strerror(errno));
	return KVM_END_FAIL;
}

/* An access that was answered becomes complete only when KVM is entered again; now it is, and nothing more. */
static enum kvm_end complete_access(struct kvm_machine *m)
{
	struct kvm_run *run = m->vm->run;
	enum kvm_end end = KVM_END_NONE;

	run->immediate_exit = 1;
	while (end == KVM_END_NONE && ioctl(m->vm->vcpu, KVM_RUN, 0) == 0)
		end = do_exit(m);
	run->immediate_exit = 0;
	return end;
}

static enum kvm_end requested(const struct kvm_machine *m)
{
	switch (platform_request(&m->platform)) {
	case PLATFORM_POWER_OFF:
		return KVM_END_POWER_OFF;
	case PLATFORM_RESET:
		return KVM_END_RESET;
	case PLATFORM_DEBUG_EXIT:
		return KVM_END_EXIT;
	case PLATFORM_RUN:
		break;
	}
	return KVM_END_NONE;
}

enum kvm_end kvm_machine_run(struct kvm_machine *m, uint64_t until_ns)
{
	enum kvm_end end = KVM_END_NONE;

	while (end == KVM_END_NONE) {
		uint64_t now = kvm_machine_now(m), next = platform_advance(&m->platform, now);

		tell_routes(m);
		send_messages(m);
		drive_pic(m);
		end = requested(m);
		if (end == KVM_END_NONE && (m->seen || now >= until_ns)) {
			end = complete_access(m);
			return end ? end : requested(m);
		}
		arm(m, min_u64(next, until_ns));
		if (end == KVM_END_NONE)
			end = enter(m);
	}
	return end;
}

int kvm_machine_init(struct kvm_machine *m, struct engine_vm *vm, const char *prefix, struct error *err)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = TIMER_SIGNAL};
	sigset_t set;

	memset(m, 0, sizeof(*m));
	m->vm = vm;
	m->prefix = prefix;
	m->armed_ns = UINT64_MAX;
	memset(m->routes, 0xff, sizeof(m->routes));
	sigemptyset(&set);
	sigaddset(&set, TIMER_SIGNAL);
	if (sigprocmask(SIG_BLOCK, &set, NULL) || set_signal_mask(vm) || timer_create(CLOCK_MONOTONIC, &ev, &m->timer))
		return error_set(err, -errno, "timer: %s", strerror(errno));
	clock_gettime(CLOCK_MONOTONIC, &m->start);
	platform_init(&m->platform, vm->memory, RTC_DEFAULT_EPOCH, false);
	return 0;
}

void kvm_machine_fini(struct kvm_machine *m) { timer_delete(m->timer); }

int kvm_machine_set_vm(struct kvm_machine *m, struct engine_vm *vm, struct error *err)
{
	m->vm = vm;
	memset(m->routes, 0xff, sizeof(m->routes));
	return set_signal_mask(vm) ? error_set(err, -errno, "KVM_SET_SIGNAL_MASK: %s", strerror(errno)) : 0;
}
