/*
 * The run loop of a VM: it gives the engine the processor's time, answers port and
 * device accesses from the platform, carries interrupts, and decides what happens
 * when the guest is idle. Whatever it does follows from virtual time only, except
 * where a person types or the wall clock was asked for.
 */
#include "vm/vm_impl.h"
#include "vm/acpi.h"
#include "dev/virtio.h"
#include "disk/disk.h"
#include "vm/firmware.h"
#include "vm/load.h"
#include "vm/vm_state.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_SECOND 1000000000ll
/* How often, in virtual time, input and the host's clock are looked at. */
#define SLICE_NS ((uint64_t)2000000)
#define LIVE_SLICE_NS ((uint64_t)200000) /* ... with a network */
#define SHARED_WAIT_NS 50000 /* of real time, for a VM that shares its machine */
#define WAIT_MAX_NS 100000000
/* Wake-ups without an instruction in between before a halted guest is given up. */
#define IDLE_WAKES_MAX        10000000u
#define IDLE_WAKES_MASKED_MAX 16u /* with IF = 0, when only an NMI could help */
#define KERNEL_BYTES_MAX ((uint64_t)2 << 30)

const char *const vm_end_name[VM_END_COUNT] = {
	[VM_END_NONE] = "running",         [VM_END_POWER_OFF] = "poweroff",
	[VM_END_RESET] = "reset",          [VM_END_DEBUG_EXIT] = "debug-exit",
	[VM_END_TRIPLE_FAULT] = "triple-fault", [VM_END_HALTED] = "halted",
	[VM_END_LIMIT] = "limit",          [VM_END_INTERRUPTED] = "interrupted",
	[VM_END_FAILED] = "failed",
	[VM_END_SUSPENDED] = "suspended",
	[VM_END_MIGRATED] = "migrated",
};

void vm_config_default(struct vm_config *cfg)
{
	*cfg = (struct vm_config){.append = "", .limit_insns = UINT64_MAX};
	cfg->engine.memory = (uint64_t)512 << 20;
	cpu_config_default(&cfg->engine.cpu);
}

/* ---- making it ---- */

static int read_file(struct blob *b, const struct vm_config *cfg, const char *what, const char *name, uint64_t max,
		     struct error *err)
{
	char *joined;
	int ret;

	if (*name == '/' || !cfg->directory)
		return blob_read(b, what, name, max, err);
	if (asprintf(&joined, "%s%s", cfg->directory, name) < 0)
		return error_set(err, -ENOMEM, "%s: out of memory", what);
	ret = blob_read(b, what, joined, max, err);
	b->name = name;
	free(joined);
	return ret;
}

/* Multiboot modules: "file args,file args"; a doubled comma stands for one. Anything else has one initrd. */
#define VM_MODULES_MAX 64
struct initrds {
	struct load_module module[VM_MODULES_MAX];
	unsigned count;
	char *text; /* the modules' strings point in here */
	char *name; /* ... and their file names in here */
};

static void initrds_free(struct initrds *in)
{
	for (unsigned i = 0; i < in->count; i++)
		blob_free(&in->module[i].file);
	free(in->text);
	free(in->name);
}

/* Ends the first element of a comma-separated list; returns the rest, NULL if there is none. */
static char *cut_element(char *list)
{
	char *to = list;

	for (char *from = list; *from; from++) {
		if (*from == ',' && *++from != ',') {
			*to = 0;
			return from;
		}
		*to++ = *from;
	}
	*to = 0;
	return NULL;
}

static int read_modules(struct initrds *in, const struct vm_config *cfg, struct error *err)
{
	const char *spec = cfg->initrd;
	char *name;

	in->text = strdup(spec);
	in->name = name = malloc(strlen(spec) + 1);
	if (!in->text || !name)
		return error_set(err, -ENOMEM, "--initrd: out of memory");
	for (char *item = in->text, *next; item; item = next) {
		size_t length;
		int ret;

		next = cut_element(item);
		if (in->count == VM_MODULES_MAX)
			return error_set(err, -EINVAL, "--initrd: more than %d modules", VM_MODULES_MAX);
		length = strcspn(item, " ");
		memcpy(name, item, length);
		name[length] = 0;
		ret = read_file(&in->module[in->count].file, cfg, "initrd", name, cfg->engine.memory, err);
		if (ret)
			return ret;
		in->module[in->count++].args = item;
		name += length + 1;
	}
	return 0;
}

static int read_initrds(struct initrds *in, const struct vm_config *cfg, enum load_format format, struct error *err)
{
	int ret;

	if (!cfg->initrd)
		return 0;
	if (format == LOAD_MULTIBOOT)
		return read_modules(in, cfg, err);
	ret = read_file(&in->module[0].file, cfg, "initrd", cfg->initrd, cfg->engine.memory, err);
	in->module[0].args = "";
	in->count = ret == 0;
	return ret;
}

static int vm_install_acpi(struct vm *vm, uint64_t *rsdp, struct error *err)
{
	uint8_t tables[PAGE_SIZE];
	size_t n = acpi_build(tables, sizeof(tables), platform_has_pci(&vm->platform), ACPI_LOAD_GPA, rsdp);
	int ret = n ? engine_mem_write(vm->engine, gpa(ACPI_LOAD_GPA), tables, n) : -ENOSPC;

	return ret ? error_set(err, ret, "the ACPI tables do not fit in guest memory") : 0;
}

static void vm_terminal_output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct vm *vm = ctx;

	if (vm->console.output)
		vm->console.output(vm->console.ctx, data, bytes);
}

static int vm_make_devices(struct vm *vm, bool go_on, struct error *err)
{
	const struct vm_config *cfg = &vm->cfg;
	const struct devices_host host = {.engine = vm->engine, .platform = &vm->platform, .directory = cfg->directory,
					  .seed = cfg->engine.cpu.seed, .wall = cfg->clock == VM_CLOCK_WALL,
					  .go_on = go_on, .terminal = vm_terminal_output, .terminal_ctx = vm};

	return devices_create(&vm->devices, &cfg->devices, &host, err);
}

/* The engine and the devices. @go_on: a saved VM's */
static int vm_make_machine(struct vm *vm, bool go_on, struct error *err)
{
	int ret = vm->machine ? engine_create_on(vm->machine, &vm->engine, &vm->cfg.engine, err)
			      : engine_create(&vm->engine, &vm->cfg.engine, err);

	return ret ? ret : vm_make_devices(vm, go_on, err);
}

static int vm_load(struct vm *vm, const struct load_request *rq, struct error *err)
{
	struct load_request full = *rq;
	int ret = vm_make_machine(vm, false, err);

	full.vm = vm->engine;
	if (ret == 0)
		ret = vm_install_acpi(vm, &full.rsdp, err);
	/* The other boot protocols promise nothing of what firmware leaves. */
	if (ret == 0 && load_detect(&rq->kernel) == LOAD_MULTIBOOT)
		ret = firmware_leave_behind(vm->engine, &vm->platform, err);
	return ret ? ret : load_kernel(&full, err);
}

/* Reads the files first: creating a machine costs more than finding out that one is missing. */
static int vm_boot(struct vm *vm, struct error *err)
{
	const struct vm_config *cfg = &vm->cfg;
	struct initrds in = {.count = 0};
	struct load_request rq = {.memory = cfg->engine.memory, .cmdline = cfg->append,
				  .long_mode = cfg->engine.cpu.feature[CPUF_LM]};
	int ret = cfg->kernel_image ? blob_copy(&rq.kernel, cfg->kernel, cfg->kernel_image, cfg->kernel_bytes, err)
				    : read_file(&rq.kernel, cfg, "kernel", cfg->kernel, KERNEL_BYTES_MAX, err);

	if (ret)
		return ret;
	ret = read_initrds(&in, cfg, load_detect(&rq.kernel), err);
	rq.module = in.module;
	rq.modules = in.count;
	if (ret == 0)
		ret = vm_load(vm, &rq, err);
	initrds_free(&in);
	blob_free(&rq.kernel);
	return ret;
}

static int vm_open_firmware_log(struct vm *vm, struct error *err)
{
	const char *name = vm->cfg.firmware_log;

	vm->firmware_log = name ? fopen(name, "we") : NULL;
	return name && !vm->firmware_log ? error_set(err, -errno, "firmware log '%s': %s", name, strerror(errno)) : 0;
}

/* From RESET on the processor executes firmware. */
static int vm_reset(struct vm *vm, struct error *err)
{
	struct blob image;
	int ret = read_file(&image, &vm->cfg, "firmware", vm->cfg.firmware, ENGINE_ROM_BYTES, err);

	if (ret)
		return ret;
	ret = vm_make_machine(vm, false, err);
	if (ret == 0)
		ret = firmware_load(vm->engine, &image, err);
	if (ret == 0)
		ret = vm_open_firmware_log(vm, err);
	blob_free(&image);
	return ret;
}

int vm_create(struct vm **out, const struct vm_config *cfg, struct error *err)
{
	return vm_create_on(out, cfg, NULL, err);
}

/* A VM of which only the platform is made. */
static int vm_allocate(struct vm **out, const struct vm_config *cfg, struct engine_machine *machine, struct error *err)
{
	struct vm *vm;
	int ret = memmap_check_memory(cfg->engine.memory, cfg->engine.cpu.maxphyaddr, err);

	if (ret)
		return ret;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return error_set(err, -ENOMEM, "out of memory");
	vm->cfg = *cfg;
	vm->machine = machine;
	vm->stop = VM_STOP_NONE;
	vm->console_insns = UINT64_MAX;
	vm->quiesce_insns = UINT64_MAX;
	vm->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (vm->wake_fd < 0) {
		ret = error_set(err, -errno, "no eventfd: %s", strerror(errno));
		vm_destroy(vm);
		return ret;
	}
	platform_init(&vm->platform, cfg->engine.memory,
		      cfg->clock == VM_CLOCK_WALL ? (int64_t)time(NULL) : RTC_DEFAULT_EPOCH, cfg->engine.rom);
	*out = vm;
	return 0;
}

int vm_create_on(struct vm **out, const struct vm_config *cfg, struct engine_machine *machine, struct error *err)
{
	struct vm *vm;
	int ret = vm_allocate(&vm, cfg, machine, err);

	if (ret)
		return ret;
	ret = cfg->firmware ? vm_reset(vm, err) : vm_boot(vm, err);
	if (ret)
		vm_destroy(vm);
	else
		*out = vm;
	return ret;
}

int vm_create_empty(struct vm **out, const struct vm_config *cfg, struct error *err)
{
	struct vm *vm;
	int ret = vm_allocate(&vm, cfg, NULL, err);

	if (ret)
		return ret;
	ret = vm_make_machine(vm, true, err);
	if (ret)
		vm_destroy(vm);
	else
		*out = vm;
	return ret;
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	vm_close_devices(vm, NULL);
	if (vm->engine)
		engine_destroy(vm->engine);
	if (vm->firmware_log)
		fclose(vm->firmware_log);
	if (vm->wake_fd >= 0)
		close(vm->wake_fd);
	for (unsigned i = 0; i < DEVICES_DISKS_MAX; i++)
		free(vm->disk_text[i]);
	free(vm->vcpu);
	free(vm);
}

int vm_close_devices(struct vm *vm, struct error *err)
{
	int ret = devices_close(vm->devices, err);

	vm->devices = NULL;
	return ret;
}

int vm_close_disks(struct vm *vm, struct error *err) { return devices_close_disks(vm->devices, err); }
int vm_open_disks(struct vm *vm, struct error *err) { return devices_open_disks(vm->devices, err); }

int vm_freeze_disks(struct vm *vm, const char *id, struct devices_frozen *out, struct error *err)
{
	return devices_freeze_disks(vm->devices, id, out, err);
}

uint64_t vm_disk_bytes(const struct vm *vm, unsigned i) { return devices_disk_bytes(vm->devices, i); }

int vm_start_mirror(struct vm *vm, unsigned i, struct disk_mirror *m, struct error *err)
{
	return devices_start_mirror(vm->devices, i, m, err);
}

int vm_complete_mirror(struct vm *vm, unsigned i, struct disk_mirror *m, struct error *err)
{
	return devices_complete_mirror(vm->devices, i, m, err);
}

/* What --disk would say of disk @i if it were the file @path. To be freed. */
static int describe_disk(const struct vm *vm, unsigned i, const char *path, char **text, struct error *err)
{
	struct devices_disk disk;
	int ret = devices_parse_disk(vm->cfg.devices.disk[i], &disk, err);

	if (!ret && snprintf(disk.path, sizeof(disk.path), "%s", path) >= (int)sizeof(disk.path))
		ret = error_set(err, -ENAMETOOLONG, "%.300s: %s", path, strerror(ENAMETOOLONG));
	disk.snapshot = false;
	*text = ret ? NULL : malloc(2 * sizeof(disk));
	if (!ret && !*text)
		ret = error_set(err, -ENOMEM, "out of memory");
	return ret ? ret : devices_print_disk(&disk, *text, 2 * sizeof(disk), err);
}

int vm_pivot(struct vm *vm, unsigned i, struct disk_mirror *m, struct disk *to, struct error *err)
{
	char *text = NULL;
	int ret = i < vm->cfg.devices.disks ? describe_disk(vm, i, disk_path(to), &text, err)
					    : error_set(err, -ENOENT, "there is no disk %u", i);

	if (!ret)
		ret = devices_pivot(vm->devices, i, m, to, err);
	if (ret) {
		free(text);
		return ret;
	}
	free(vm->disk_text[i]);
	vm->cfg.devices.disk[i] = vm->disk_text[i] = text;
	return 0;
}

void vm_stop_mirror(struct vm *vm, unsigned i, struct disk_mirror *m) { devices_stop_mirror(vm->devices, i, m); }

void vm_describe_devices(const struct vm *vm, char *buf, size_t bytes) { devices_describe(vm->devices, buf, bytes); }

const char *vm_disk(const struct vm *vm, unsigned i, bool *read_only) { return devices_disk(vm->devices, i, read_only); }

void vm_set_messages(struct vm *vm, void (*say)(void *ctx, const char *line), void *ctx)
{
	vm->say = say;
	vm->say_ctx = ctx;
}

void vm_set_console(struct vm *vm, struct vm_console console)
{
	vm->console = console;
	vm->input_open = console.input;
}

/* ---- asked from outside ---- */

/* Flags that signal handlers and other threads set. */
static void raise_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELEASE); }
static bool flag_is_up(const int *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
static bool take_flag(int *flag) { return flag_is_up(flag) && __atomic_exchange_n(flag, 0, __ATOMIC_ACQUIRE); }

/* Has the VM's thread look at its flags soon, whether it executes or waits. */
static void vm_wake(struct vm *vm)
{
	const uint64_t one = 1;
	int saved = errno;

	engine_kick(vm->engine);
	if (write(vm->wake_fd, &one, sizeof(one)) < 0) {
		/* full: it is awake */
	}
	errno = saved;
}

void vm_interrupt(struct vm *vm)
{
	raise_flag(&vm->interrupted);
	vm_wake(vm);
}

void vm_add_ticker(struct vm *vm, struct vm_ticker *t)
{
	t->due = 0;
	t->next = vm->tickers;
	vm->tickers = t;
}

void vm_remove_ticker(struct vm *vm, struct vm_ticker *t)
{
	struct vm_ticker **at = &vm->tickers;

	while (*at && *at != t)
		at = &(*at)->next;
	if (*at)
		*at = t->next;
}

void vm_tick(struct vm *vm, struct vm_ticker *t)
{
	raise_flag(&t->due);
	raise_flag(&vm->ticked);
	vm_wake(vm);
}

/* Calls those that are due. The flag is lowered last but one: what is asked from then on is seen or asked again. */
static void vm_serve_tickers(struct vm *vm)
{
	uint64_t wakes;

	if (!flag_is_up(&vm->ticked) || vm->ticking)
		return;
	if (read(vm->wake_fd, &wakes, sizeof(wakes)) < 0) {
		/* nobody had to be woken */
	}
	take_flag(&vm->ticked);
	vm->ticking = true;
	for (struct vm_ticker *t = vm->tickers, *next; t; t = next) {
		next = t->next;
		if (take_flag(&t->due))
			t->tick(t->ctx);
	}
	vm->ticking = false;
}

/* Whoever may be waiting for the VM's thread waits in vain from now on. */
static void vm_tell_end(struct vm *vm)
{
	if (vm->end_told)
		return;
	vm->end_told = true;
	for (struct vm_ticker *t = vm->tickers, *next; t; t = next) {
		next = t->next;
		if (t->ended)
			t->ended(t->ctx);
	}
}

void vm_pause(struct vm *vm) { vm->paused = true; }
void vm_continue(struct vm *vm) { vm->paused = false; }
bool vm_is_paused(const struct vm *vm) { return vm->paused; }

void vm_press_power_button(struct vm *vm)
{
	vm->power_button = true;
	vm->run.deadline_ns = 0; /* a stretch that was cut ends as soon as nothing is half done */
}

enum vm_end vm_why_ended(const struct vm *vm) { return vm->end; }
const char *vm_end_message(const struct vm *vm) { return vm->message; }
const struct vm_config *vm_get_config(const struct vm *vm) { return &vm->cfg; }

uint64_t vm_insns(const struct vm *vm) { return engine_insns(vm->engine); }

/* ---- the end ---- */

/* Ends the run. @why: NULL for an ordinary end; otherwise the state of the processor is added to it. */
static void vm_end(struct vm *vm, enum vm_end end, const char *why)
{
	int n;

	vm->end = end;
	if (!why)
		return;
	n = snprintf(vm->message, sizeof(vm->message), "%s\n", why);
	engine_describe(vm->engine, vm->message + n, sizeof(vm->message) - (size_t)n);
}

void vm_leave(struct vm *vm, enum vm_end how)
{
	if (vm->end == VM_END_NONE)
		vm_end(vm, how, NULL);
}

static void vm_check_request(struct vm *vm)
{
	switch (platform_request(&vm->platform)) {
	case PLATFORM_RUN:
		break;
	case PLATFORM_POWER_OFF:
		vm_end(vm, VM_END_POWER_OFF, NULL);
		break;
	case PLATFORM_RESET:
		vm_end(vm, VM_END_RESET, NULL);
		break;
	case PLATFORM_DEBUG_EXIT:
		vm_end(vm, VM_END_DEBUG_EXIT, NULL);
		break;
	}
}

/* ---- time ---- */

static int64_t host_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_SECOND + t.tv_nsec;
}

int64_t vm_ran_ns(const struct vm *vm)
{
	return vm->ran_ns + (vm->entered_ns ? host_ns() - vm->entered_ns : 0);
}

/* ---- console ---- */

/* The longest beginning of @text that text[0 .. matched) followed by @byte ends with. */
static size_t match_byte(const char *text, size_t matched, uint8_t byte)
{
	for (size_t n = matched + 1; n; n--)
		if ((uint8_t)text[n - 1] == byte && !memcmp(text, text + matched - (n - 1), n - 1))
			return n;
	return 0;
}

static void vm_match_output(struct vm *vm, const uint8_t *data, size_t bytes)
{
	const char *text = vm->stop.console;

	if (!text || !*text)
		return;
	for (size_t i = 0; i < bytes && vm->console_insns == UINT64_MAX; i++) {
		vm->console_matched = match_byte(text, vm->console_matched, data[i]);
		if (!text[vm->console_matched]) /* by an instruction that is not complete yet */
			vm->console_insns = engine_insns(vm->engine) + 1;
	}
}

static void vm_flush_output(struct vm *vm)
{
	uint8_t data[256];
	size_t n;

	while ((n = platform_take_output(&vm->platform, data, sizeof(data))) > 0) {
		if (vm->console.output)
			vm->console.output(vm->console.ctx, data, n);
		vm_match_output(vm, data, n);
	}
	n = platform_take_log(&vm->platform, data, sizeof(data));
	if (n && vm->firmware_log)
		fwrite(data, 1, n, vm->firmware_log);
}

/* Brings typed bytes to the serial port, or to the virtio console if the terminal is its. */
static size_t vm_put_input(struct vm *vm)
{
	if (!vm->input_count)
		return 0;
	if (devices_have_terminal(vm->devices))
		return devices_put_input(vm->devices, vm->input, vm->input_count, engine_now(vm->engine));
	return platform_put_input(&vm->platform, vm->input, vm->input_count);
}

/* Takes what is typed, waiting at most @wait_ns for some. True if any arrived. */
static bool vm_poll_input(struct vm *vm, int64_t wait_ns)
{
	size_t taken;

	if (vm->input_count == 0 && vm->input_open) {
		int n = vm->console.input(vm->console.ctx, vm->input, INPUT_BYTES, wait_ns);

		vm->input_open = n >= 0;
		vm->input_count = n > 0 ? (unsigned)n : 0;
		/* A terminal that hangs up or the quit key ends the run; the end of a file does not. */
		if (n < 0 && vm->console.live)
			vm_interrupt(vm);
	}
	taken = vm_put_input(vm);
	vm->input_count -= (unsigned)taken;
	memmove(vm->input, vm->input + taken, vm->input_count);
	return taken > 0;
}

/* ---- idle ---- */

/* Nothing executes: is there reason to believe that anything ever will? */
static bool vm_is_stuck(struct vm *vm, bool masked)
{
	if (vm->idle_insns != engine_insns(vm->engine)) {
		vm->idle_insns = engine_insns(vm->engine);
		vm->idle_wakes = 0;
	}
	if ((vm->input_open || devices_are_live(vm->devices)) && !masked)
		return false; /* somebody may still type, or a frame come */
	return ++vm->idle_wakes > (masked ? IDLE_WAKES_MASKED_MAX : IDLE_WAKES_MAX);
}

/*
 * Waits at most @wait_ns for what devices are connected to, for input or for vm_tick() and vm_interrupt(). True if any
 * of them came. A VM that shares its machine waits hardly at all for devices: the others have work.
 */
static bool vm_wait(struct vm *vm, int64_t wait_ns)
{
	struct pollfd p[DEVICES_FDS_MAX + 2] = {{.fd = vm->wake_fd, .events = POLLIN}};
	int wait_ms = (int)(wait_ns / 1000000);
	unsigned n = 1 + (vm->devices ? devices_wait_for(vm->devices, p + 1, DEVICES_FDS_MAX, &wait_ms) : 0);
	bool hardly = vm->machine && devices_are_live(vm->devices);
	struct timespec t;

	wait_ns = min_i64(min_i64(wait_ns, (wait_ms + 1) * 1000000ll), hardly ? SHARED_WAIT_NS : WAIT_MAX_NS);
	if (vm->input_open && vm->console.fd >= 0 && !vm->input_count)
		p[n++] = (struct pollfd){.fd = vm->console.fd, .events = POLLIN};
	t = (struct timespec){.tv_sec = wait_ns / NS_PER_SECOND, .tv_nsec = wait_ns % NS_PER_SECOND};
	return ppoll(p, n, &t, NULL) > 0;
}

/* Lets real time pass until virtual time @next or until something comes; virtual time goes along. */
static void vm_sleep(struct vm *vm, uint64_t next)
{
	uint64_t now = engine_now(vm->engine);
	int64_t from = host_ns(), passed, wait_ns = (int64_t)min_u64(next - now, (uint64_t)NS_PER_SECOND);
	bool unseen = vm->input_open && vm->console.fd < 0; /* the console has its own way to wait */
	bool came = !unseen && vm_wait(vm, wait_ns);
	bool typed = vm_poll_input(vm, unseen ? wait_ns : 0) || came;

	passed = host_ns() - from;
	/* A little late is on time: so that a wait is not followed by many tiny ones. */
	if (!typed && (uint64_t)passed + 50000 >= next - now)
		passed = (int64_t)(next - now);
	engine_advance(vm->engine, min_u64(next, now + (uint64_t)passed));
	if (devices_are_live(vm->devices))
		devices_poll(vm->devices, engine_now(vm->engine));
}

/* What is typed at a paused VM is kept for later; but the quit key works. */
static void vm_read_ahead(struct vm *vm)
{
	int n = vm->console.input(vm->console.ctx, vm->input + vm->input_count, INPUT_BYTES - vm->input_count, 0);

	vm->input_open = n >= 0;
	vm->input_count += n > 0 ? (unsigned)n : 0;
	if (n < 0)
		vm_interrupt(vm);
}

/* One wait of a paused VM. */
static void vm_wait_paused(struct vm *vm)
{
	bool typing = vm->input_open && vm->console.live && vm->console.fd >= 0 && vm->input_count < INPUT_BYTES;
	struct pollfd p[] = {{.fd = vm->wake_fd, .events = POLLIN}, {.fd = vm->console.fd, .events = POLLIN}};
	const struct timespec t = {.tv_nsec = vm->machine ? SHARED_WAIT_NS : WAIT_MAX_NS};

	if (ppoll(p, typing ? 2 : 1, &t, NULL) > 0 && typing && p[1].revents)
		vm_read_ahead(vm);
}

/*
 * Does what was asked from outside, and stands still while it is paused: no time passes for the guest, and the wall
 * clock is not made up for. A VM that shares its machine comes back paused, for the others to have their turns.
 */
static void vm_attend(struct vm *vm)
{
	int64_t from;

	vm_serve_tickers(vm);
	if (likely(!vm->paused) || vm->ticking)
		return;
	from = host_ns();
	do {
		vm_wait_paused(vm);
		vm_serve_tickers(vm);
	} while (vm->paused && vm->end == VM_END_NONE && !flag_is_up(&vm->interrupted) && !vm->machine);
	vm->entered_ns += host_ns() - from;
}

static void vm_idle(struct vm *vm)
{
	uint64_t next = min_u64(vm->run.hlt.wake_ns, platform_next_event(&vm->platform));
	struct engine_regs r;
	bool masked;

	engine_get_regs(vm->engine, &r);
	masked = !(r.rflags & RF_IF);
	if (!masked && vm_poll_input(vm, 0))
		return;
	if (next == UINT64_MAX && (vm->input_open || devices_are_live(vm->devices)) && !masked) {
		vm_sleep(vm, engine_now(vm->engine) + NS_PER_SECOND);
		return;
	}
	if (next == UINT64_MAX || vm_is_stuck(vm, masked)) {
		vm_end(vm, VM_END_HALTED,
		       masked ? "the guest halted with interrupts disabled"
			      : "the guest halted, and no interrupt is going to come");
		return;
	}
	if (next <= engine_now(vm->engine))
		return;
	if (vm->console.live || vm->cfg.clock == VM_CLOCK_WALL || devices_are_live(vm->devices))
		vm_sleep(vm, next);
	else
		engine_advance(vm->engine, next);
}

/* ---- running ---- */

static void vm_carry_interrupts(struct vm *vm)
{
	uint64_t address;
	uint32_t data;

	while (platform_take_msi(&vm->platform, &address, &data))
		engine_signal_msi(vm->engine, address, data);
	vm->run.request_irq_window = platform_pic_intr(&vm->platform) && engine_accepts_extint(vm->engine);
}

static void vm_access(struct vm *vm, bool pio)
{
	uint64_t data = vm->run.io.data;

	platform_io(&vm->platform, pio, vm->run.io.write, vm->run.io.addr, vm->run.io.size, &data,
		    engine_now(vm->engine));
	if (!vm->run.io.write)
		vm->run.io.data = data;
	vm_flush_output(vm);
	vm_check_request(vm);
}

static void vm_handle_exit(struct vm *vm)
{
	switch (vm->run.exit) {
	case ENGINE_EXIT_IO:
	case ENGINE_EXIT_MMIO:
		vm_access(vm, vm->run.exit == ENGINE_EXIT_IO);
		break;
	case ENGINE_EXIT_HLT:
		vm->halt_pending = vm->stop.on_halt;
		if (!vm->halt_pending)
			vm_idle(vm);
		break;
	case ENGINE_EXIT_IRQ_WINDOW:
		engine_interrupt(vm->engine, platform_pic_ack(&vm->platform));
		break;
	case ENGINE_EXIT_IOAPIC_EOI:
		platform_eoi(&vm->platform, vm->run.eoi.vector);
		break;
	case ENGINE_EXIT_LIMIT:
		vm_end(vm, VM_END_LIMIT, NULL);
		break;
	case ENGINE_EXIT_SHUTDOWN:
		vm_end(vm, VM_END_TRIPLE_FAULT, "triple fault: the guest could not deliver a double fault");
		break;
	case ENGINE_EXIT_FAIL:
		vm_end(vm, VM_END_FAILED, vm->run.fail.text);
		break;
	case ENGINE_EXIT_DEADLINE:
	case ENGINE_EXIT_STOP:
	case ENGINE_EXIT_INTR:
		break;
	}
}

/* Is an instruction under way whose access has just been answered? */
static bool vm_is_in_access(const struct vm *vm)
{
	return vm->run.exit == ENGINE_EXIT_IO || vm->run.exit == ENGINE_EXIT_MMIO;
}

/* Looks outside once a slice. Returns when to look again, UINT64_MAX if there is nothing to see. */
static uint64_t vm_look_outside(struct vm *vm)
{
	bool wall = vm->cfg.clock == VM_CLOCK_WALL, called = devices_have_called(vm->devices);
	bool live = devices_are_live(vm->devices) || called;
	uint64_t now = engine_now(vm->engine);

	if (called)
		vm->look_at = now;
	if (!wall && !live && !vm->input_open && !vm->input_count)
		return UINT64_MAX;
	/* Time jumps, and devices touch memory, between instructions only. */
	if (wall && now >= vm->look_at && vm_is_in_access(vm))
		return now + 1;
	if (now >= vm->look_at) {
		if (wall) /* virtual time is never far behind the host's */
			engine_advance(vm->engine, (uint64_t)vm_ran_ns(vm));
		vm_poll_input(vm, 0);
		if (live)
			devices_poll(vm->devices, engine_now(vm->engine));
		vm->look_at = engine_now(vm->engine) + (live ? LIVE_SLICE_NS : SLICE_NS);
	}
	return vm->look_at;
}

/* What the engine is told before a stretch. After a cut all that stands: looking again could change what happens when. */
static void vm_prepare_run(struct vm *vm)
{
	uint64_t look_at = vm_look_outside(vm);
	uint64_t next;

	if (vm->power_button)
		platform_power_button(&vm->platform);
	vm->power_button = false;
	next = platform_advance(&vm->platform, engine_now(vm->engine));
	vm_carry_interrupts(vm);
	vm->run.deadline_ns = min_u64(next, look_at);
}

/* Puts the conditions under which to stop into the engine's terms. */
static void vm_prepare_stop(struct vm *vm)
{
	vm->run.insn_limit = min_u64(min_u64(vm->cfg.limit_insns, vm->quiesce_insns),
				     min_u64(vm->stop.insns, vm->console_insns));
	vm->run.stop_at_address = vm->stop.at_address;
	vm->run.stop_address = vm->stop.address;
}

static bool vm_was_cut(const struct vm *vm)
{
	return vm->run.exit == ENGINE_EXIT_STOP || vm->run.exit == ENGINE_EXIT_INTR ||
	       (vm->run.exit == ENGINE_EXIT_LIMIT && engine_insns(vm->engine) < vm->cfg.limit_insns);
}

static void vm_pass_messages(struct vm *vm)
{
	char line[VIRTIO_MESSAGE_MAX];

	while (devices_take_message(vm->devices, line, sizeof(line)))
		if (vm->say)
			vm->say(vm->say_ctx, line);
}

static void vm_step(struct vm *vm)
{
	if (!vm->cut)
		vm_prepare_run(vm);
	else if (devices_have_called(vm->devices)) /* the end of the instruction, if one is under way */
		vm->run.deadline_ns = min_u64(vm->run.deadline_ns, engine_now(vm->engine) + 1);
	vm_prepare_stop(vm);
	engine_run(vm->engine, &vm->run);
	vm->cut = vm_was_cut(vm);
	if (!vm->cut)
		vm_handle_exit(vm);
	if (vm->devices)
		vm_pass_messages(vm);
	if (vm->end == VM_END_NONE)
		vm_attend(vm);
	/* Only at a boundary where nothing is half done: a read that is answered is consumed by the next run. */
	if (flag_is_up(&vm->interrupted) && vm->end == VM_END_NONE)
		vm_end(vm, VM_END_INTERRUPTED, NULL);
}

int vm_quiesce(struct vm *vm)
{
	while (vm->end == VM_END_NONE && !engine_at_rest(vm->engine)) {
		vm->quiesce_insns = engine_insns(vm->engine) + 1;
		vm_step(vm);
	}
	vm->quiesce_insns = UINT64_MAX;
	return vm->end == VM_END_NONE ? 0 : -ECANCELED;
}

/* Is this where to stop? */
static bool vm_stops_here(const struct vm *vm, enum vm_stopped *why)
{
	if (vm->end != VM_END_NONE)
		*why = VM_STOPPED_END;
	else if (vm->paused)
		*why = VM_STOPPED_PAUSED;
	else if (vm->halt_pending)
		*why = VM_STOPPED_HALT;
	else if (!vm->cut)
		return false;
	else if (vm->run.exit == ENGINE_EXIT_STOP)
		*why = VM_STOPPED_ADDRESS;
	else if (engine_insns(vm->engine) >= vm->stop.insns)
		*why = VM_STOPPED_INSNS;
	else if (engine_insns(vm->engine) >= vm->console_insns)
		*why = VM_STOPPED_CONSOLE;
	else
		return false;
	return true;
}

static void vm_enter(struct vm *vm, const struct vm_stop *stop)
{
	vm->entered_ns = host_ns();
	vm->stop = *stop;
	vm->console_matched = 0;
	vm->console_insns = UINT64_MAX;
	if (vm->vcpu && vm->end == VM_END_NONE)
		vm_end(vm, VM_END_FAILED, "its state has not been loaded completely");
	if (vm->end == VM_END_NONE)
		vm_attend(vm);
	if (flag_is_up(&vm->interrupted) && vm->end == VM_END_NONE)
		vm_end(vm, VM_END_INTERRUPTED, NULL);
	if (vm->halt_pending && vm->end == VM_END_NONE && !vm->paused) {
		vm->halt_pending = false;
		vm_idle(vm);
	}
}

enum vm_stopped vm_run_until(struct vm *vm, const struct vm_stop *stop)
{
	enum vm_stopped why = VM_STOPPED_END;

	vm_enter(vm, stop);
	if (vm->end == VM_END_NONE && vm->paused) {
		why = VM_STOPPED_PAUSED;
	} else if (vm->end == VM_END_NONE && engine_insns(vm->engine) >= stop->insns) {
		why = VM_STOPPED_INSNS;
	} else if (vm->end == VM_END_NONE) {
		do
			vm_step(vm);
		while (!vm_stops_here(vm, &why));
	}
	vm_flush_output(vm);
	vm->stop = VM_STOP_NONE; /* its text is the caller's */
	vm->ran_ns = vm_ran_ns(vm);
	vm->entered_ns = 0;
	if (why == VM_STOPPED_END)
		vm_tell_end(vm);
	return why;
}

void vm_progress(struct vm *vm, struct vm_result *result)
{
	memset(result, 0, sizeof(*result));
	result->end = vm->end;
	result->debug_exit = (uint8_t)platform_debug_code(&vm->platform);
	memcpy(result->message, vm->message, sizeof(result->message));
	result->insns = engine_insns(vm->engine);
	result->resumed_at = vm->resumed_at;
	result->virtual_ns = engine_now(vm->engine);
	result->wall_seconds = (double)vm_ran_ns(vm) / (double)NS_PER_SECOND;
	vm_observe(vm, &result->obs);
}

void vm_result(struct vm *vm, struct vm_result *result)
{
	vm_progress(vm, result);
	engine_state_hash(vm->engine, &result->hash);
}

void vm_observe(const struct vm *vm, struct obs *obs)
{
	engine_observe(vm->engine, obs);
	devices_observe(vm->devices, obs);
}

struct engine_vm *vm_engine(struct vm *vm) { return vm->engine; }

void vm_run(struct vm *vm, struct vm_result *result)
{
	while (vm_run_until(vm, &VM_STOP_NONE) != VM_STOPPED_END)
		;
	vm_result(vm, result);
}
