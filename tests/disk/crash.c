/*
 * Crashes. A stream of writes, zero writes, discards, snapshots and flushes is cut off at any moment; then the image
 * must be in order (lost clusters allowed) and hold everything that was flushed.
 *
 *	crash-disk kill [-n KILLS] [-s SEED] [-q]    a child process is killed
 *	crash-disk freeze [-n KILLS] [-s SEED] [-q]  ... that freezes the disk now and then, instead of snapshots
 *	crash-disk power [-n CUTS] [-s SEED] [-q]    of what was written after the last barrier, sectors are missing
 *
 * -q: now and then qemu-img check must agree.
 */
#include "model.h"
#include "disk/file.h"
#include "disk/freeze.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 3 /* snapshots there may be */
#define ROUNDS_PER_IMAGE 40

enum kind { WRITE, ZERO, DISCARD, FLUSH, TOGGLE, APPLY, FREEZE };

struct op {
	enum kind kind;
	uint64_t at, bytes;
	unsigned slot;
};

/* What the contents are for certain, and the way there. */
struct world {
	char dir[128], path[160], below[160];
	uint64_t seed, cluster, bytes;
	struct disk_options options;
	uint8_t *base, *below_data, *snapshot[SLOTS];
	bool exists[SLOTS];
	unsigned long rounds, leaks;
	bool qemu, freezes;
};

static void fail(const struct world *w, const char *what)
{
	fprintf(stderr, "%s: %s\n", w->path, what);
	abort();
}

static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9;
	v = (v ^ v >> 27) * 0x94d049bb133111eb;
	return v ^ v >> 31;
}

/* ---- the stream: operation @i is a function of its number, and of the snapshots there are ---- */

static struct op op_number(const struct world *w, uint64_t i)
{
	uint64_t r = mix(w->seed + i * 0x9e3779b97f4a7c15), align = mix(r + 1) % 3 == 0   ? 1
	                                                            : mix(r + 1) % 3 == 1 ? 512
	                                                                                  : w->cluster;
	unsigned k = (unsigned)(r % 100);
	struct op op = {.slot = (unsigned)(mix(r + 2) % SLOTS)};

	op.kind = k < 60 ? WRITE : k < 70 ? ZERO : k < 80 ? DISCARD : k < 94 ? FLUSH : k < 98 ? TOGGLE : APPLY;
	if (w->freezes && op.kind > FLUSH)
		op.kind = FREEZE;
	if (op.kind == APPLY && !w->exists[op.slot])
		op.kind = FLUSH;
	if (op.kind == DISCARD) /* of whole clusters; the rest would be as it was */
		align = w->cluster;
	op.at = mix(r + 3) % w->bytes / align * align;
	op.bytes = min_u64(w->bytes - op.at, (1 + mix(r + 4) % (4 * w->cluster) / align) * align);
	return op;
}

static uint8_t op_byte(uint64_t i, uint64_t at) { return (uint8_t)(mix(i * 77 + (at >> 3)) >> at % 8 * 8); }

static void name_of(unsigned slot, char *name) { snprintf(name, 8, "slot%u", slot); }

/* What is frozen by operation @i has its number behind the image's name. A chain has an end. */
static int freeze(const struct world *w, struct disk **d, uint64_t i, struct error *err)
{
	char base[64];
	int ret;

	snprintf(base, sizeof(base), "%.40s.%llu", strrchr(w->path, '/') + 1, (unsigned long long)i);
	ret = disk_freeze(d, base, err);
	return ret == -ELOOP ? disk_flush(*d, err) : ret;
}

/* Does it, and notes which snapshots there are then. */
static void do_op(struct world *w, struct disk **disk, uint64_t i, const struct op *op)
{
	struct disk *d = *disk;
	struct error err = {0};
	uint8_t *data;
	char name[8];
	int ret = 0;

	name_of(op->slot, name);
	switch (op->kind) {
	case WRITE:
		data = malloc(op->bytes);
		for (uint64_t n = 0; n < op->bytes; n++)
			data[n] = op_byte(i, op->at + n);
		ret = disk_write(d, op->at, data, op->bytes, &err);
		free(data);
		break;
	case ZERO:
		ret = disk_write_zeroes(d, op->at, op->bytes, i % 2, &err);
		break;
	case DISCARD:
		ret = disk_discard(d, op->at, op->bytes, &err);
		break;
	case FLUSH:
		ret = disk_flush(d, &err);
		break;
	case TOGGLE:
		ret = w->exists[op->slot] ? disk_snapshot_delete(d, name, &err) : disk_snapshot_take(d, name, &err);
		w->exists[op->slot] = !w->exists[op->slot];
		break;
	case APPLY:
		ret = disk_snapshot_apply(d, name, &err);
		break;
	case FREEZE:
		ret = freeze(w, disk, i, &err);
		break;
	}
	model_must(ret, &err, "operation");
}

/* ---- what must be true afterwards ---- */

/* The operation has certainly taken place. */
static void settle(struct world *w, uint64_t i, const struct op *op)
{
	for (uint64_t b = op->at; op->kind == WRITE && b < op->at + op->bytes; b++)
		w->base[b] = op_byte(i, b);
	if (op->kind == ZERO || op->kind == DISCARD)
		memset(w->base + op->at, 0, op->bytes);
	if (op->kind == TOGGLE) {
		w->exists[op->slot] = !w->exists[op->slot];
		memcpy(w->snapshot[op->slot], w->base, w->bytes);
	}
	if (op->kind == APPLY)
		memcpy(w->base, w->snapshot[op->slot], w->bytes);
}

/*
 * What the disk has, byte for byte, must be what it had at operation @from, or what one of those before @to made of it.
 * That is then taken for the new base.
 */
static void verify(struct world *w, struct disk *d, uint64_t settled, uint64_t from, uint64_t to)
{
	uint8_t *is = malloc(w->bytes), *fine = malloc(w->bytes);
	struct error err = {0};

	model_must(disk_read(d, 0, is, w->bytes, &err), &err, "read after the crash");
	for (uint64_t i = settled; i < from; i++) {
		struct op op = op_number(w, i);

		settle(w, i, &op);
	}
	for (uint64_t b = 0; b < w->bytes; b++)
		fine[b] = is[b] == w->base[b];
	for (uint64_t i = from; i < to; i++) {
		struct op op = op_number(w, i);

		for (uint64_t b = op.at; op.kind <= DISCARD && b < op.at + op.bytes; b++)
			fine[b] |= is[b] == (op.kind == WRITE ? op_byte(i, b) : 0);
		for (uint64_t b = 0; op.kind == APPLY && b < w->bytes; b++)
			fine[b] |= is[b] == w->snapshot[op.slot][b];
	}
	for (uint64_t b = 0; b < w->bytes; b++)
		if (!fine[b]) {
			fprintf(stderr,
			        "%s: byte %llu is 0x%02x, flushed was 0x%02x (operations %llu to %llu)\n",
			        w->path, (unsigned long long)b, is[b], w->base[b], (unsigned long long)from,
			        (unsigned long long)to);
			abort();
		}
	memcpy(w->base, is, w->bytes);
	free(is);
	free(fine);
}

static void say(void *ctx, const char *text) { fprintf(stderr, "%s: %s\n", (const char *)ctx, text); }

/* Is the image in order? @repair: then without lost clusters, too. */
static void check(struct world *w, bool repair)
{
	struct disk_options o = {.read_only = !repair, .repair = repair, .alone = true};
	struct disk_check c = {0};
	struct error err = {0};
	struct disk *d;
	char command[400];

	model_must(disk_open(&d, w->path, &o, &err), &err, "open after the crash");
	model_must(disk_check(d, repair ? DISK_REPAIR_LEAKS : DISK_REPAIR_NONE, &c, &err), &err,
	           "check after the crash");
	if (c.errors || (repair && c.leaks)) {
		c = (struct disk_check){.say = say, .ctx = w->path};
		disk_check(d, DISK_REPAIR_NONE, &c, &err);
		fail(w, "not in order after the crash");
	}
	w->leaks += c.leaks;
	model_must(disk_close(d, &err), &err, "close after the crash");
	snprintf(command, sizeof(command), "qemu-img check -U %s >%s/log 2>&1; [ $? -eq 0 -o $? -eq 3 ]",
	         w->path, w->dir);
	if (w->qemu && w->rounds % 8 == 0 && system(command))
		fail(w, "qemu-img check complains");
}

/* Likewise the image that was frozen last, which nobody has written since. */
static void check_frozen(struct world *w)
{
	const struct disk_options o = {.read_only = true};
	struct disk_check c = {0};
	struct error err = {0};
	struct disk *d;

	model_must(disk_open(&d, w->path, &o, &err), &err, "open after the crash");
	if (disk_backing(d)) {
		model_must(disk_check(disk_backing(d), DISK_REPAIR_NONE, &c, &err), &err, "check what is frozen");
		if (c.errors)
			fail(w, "what is frozen is not in order");
	}
	model_must(disk_close(d, &err), &err, "close after the crash");
}

/* The snapshots there are must be those there should be, other than @unsure; their contents, by going back to them. */
static void verify_snapshots(struct world *w, struct disk *d, int unsure, bool apply)
{
	struct disk_snapshot *list;
	bool there[SLOTS] = {false};
	struct error err = {0};
	unsigned count;
	char name[8];

	model_must(disk_snapshots(d, &list, &count, &err), &err, "list");
	for (unsigned i = 0; i < count; i++)
		there[atoi(list[i].name + 4) % SLOTS] = true;
	disk_snapshots_free(list, count);
	for (unsigned i = 0; i < SLOTS; i++) {
		if (there[i] != w->exists[i] && (int)i != unsure)
			fail(w, "a snapshot is there that should not be, or the other way round");
		if (there[i] && !w->exists[i]) /* it was being taken, and nothing was changed by that */
			memcpy(w->snapshot[i], w->base, w->bytes);
		w->exists[i] = there[i];
	}
	for (unsigned i = 0; i < SLOTS && apply; i++) {
		if (!w->exists[i])
			continue;
		name_of(i, name);
		model_must(disk_snapshot_apply(d, name, &err), &err, "apply after the crash");
		memcpy(w->base, w->snapshot[i], w->bytes);
		verify(w, d, 0, 0, 0);
	}
}

/* Everything, after a crash with operations before @flushed done for certain and those from @to on not begun. */
static void examine(struct world *w, uint64_t settled, uint64_t flushed, uint64_t to)
{
	struct op last;
	struct error err = {0};
	struct disk *d;
	bool with_snapshots = mix(w->seed + w->rounds) % 4 == 0;

	w->rounds++;
	check(w, false);
	if (w->freezes)
		check_frozen(w);
	model_must(disk_open(&d, w->path, &w->options, &err), &err, "open after the crash");
	verify(w, d, settled, flushed, to);
	last = op_number(w, to ? to - 1 : 0);
	verify_snapshots(w, d, to > flushed && last.kind == TOGGLE ? (int)last.slot : -1, with_snapshots);
	model_must(disk_close(d, &err), &err, "close after the crash");
	if (with_snapshots)
		check(w, true);
}

/* ---- images ---- */

static void make_below(struct world *w)
{
	struct disk_create_options o = {.bytes = w->bytes, .format = w->seed % 2 ? DISK_FORMAT_RAW : DISK_FORMAT_QCOW2};
	struct error err = {0};
	struct disk *d;

	snprintf(w->below, sizeof(w->below), "%.128s/below", w->dir);
	model_must(disk_create(w->below, &o, &err), &err, "create");
	model_must(disk_open(&d, w->below, NULL, &err), &err, "open");
	for (uint64_t at = 0; at < w->bytes; at++)
		w->base[at] = (uint8_t)(mix(at / 100000) ? mix(at) : 0);
	model_must(disk_write(d, 0, w->base, w->bytes, &err), &err, "write");
	model_must(disk_close(d, &err), &err, "close");
}

static void make_world(struct world *w, const char *dir, uint64_t seed)
{
	static const unsigned cluster_bits[] = {9, 12, 16, 10}, clusters[] = {1500, 300, 30, 700},
	                      refcount_bits[] = {16, 8, 64, 4};
	unsigned kind = (unsigned)(mix(seed) % 4);
	struct disk_create_options o = {.cluster_bytes = 1u << cluster_bits[kind],
	                                .refcount_bits = refcount_bits[mix(seed + 1) % 4]};
	struct error err = {0};

	*w = (struct world){.seed = seed, .qemu = w->qemu, .freezes = w->freezes, .leaks = w->leaks,
			    .cluster = o.cluster_bytes};
	snprintf(w->dir, sizeof(w->dir), "%s", dir);
	snprintf(w->path, sizeof(w->path), "%.120s/crash-%llu", dir, (unsigned long long)seed);
	o.bytes = w->bytes = clusters[kind] * o.cluster_bytes;
	w->options.cache_bytes = mix(seed + 2) % 2 ? 0 : 2048;
	w->base = calloc(1, w->bytes);
	for (unsigned i = 0; i < SLOTS; i++)
		w->snapshot[i] = calloc(1, w->bytes);
	if (mix(seed + 3) % 2) {
		make_below(w);
		o.backing = "below";
	}
	model_must(disk_create(w->path, &o, &err), &err, "create");
}

static void free_world(struct world *w)
{
	DIR *dir = opendir(w->dir);
	struct dirent *e;

	while ((e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(dir), e->d_name, 0);
	closedir(dir);
	free(w->base);
	for (unsigned i = 0; i < SLOTS; i++)
		free(w->snapshot[i]);
}

/* ---- killing ---- */

/* What the child tells while it can. */
struct told {
	volatile uint64_t begun, flushed; /* operations before these */
};

static bool is_flush(const struct op *op) { return op->kind >= FLUSH; }

static void child(struct world *w, struct told *t, uint64_t first)
{
	struct error err = {0};
	struct disk *d;

	model_must(disk_open(&d, w->path, &w->options, &err), &err, "open");
	for (uint64_t i = first;; i++) {
		struct op op = op_number(w, i);

		t->begun = i + 1;
		do_op(w, &d, i, &op);
		if (is_flush(&op))
			t->flushed = i + 1;
	}
}

static void kill_round(struct world *w, struct told *t, uint64_t *next)
{
	uint64_t first = *next;
	pid_t pid;
	int status;

	*t = (struct told){first, first};
	pid = fork();
	if (pid < 0)
		fail(w, "cannot fork");
	if (!pid) {
		child(w, t, first);
		_exit(0);
	}
	usleep((useconds_t)(mix(w->seed * 31 + w->rounds) % 12000));
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail(w, "the child ended by itself");
	*next = t->begun;
	examine(w, first, t->flushed, t->begun);
}

static void kill_many(struct world *w, const char *dir, uint64_t seed, uint64_t kills)
{
	struct told *t = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t next = 0, ops = 0;

	if (t == MAP_FAILED)
		abort();
	for (uint64_t n = 0; n < kills; n++) {
		if (n % ROUNDS_PER_IMAGE == 0) {
			if (n)
				free_world(w);
			make_world(w, dir, seed + n / ROUNDS_PER_IMAGE);
			ops += next;
			next = 0;
		}
		kill_round(w, t, &next);
	}
	free_world(w);
	printf("%llu kills in %llu operations, %lu clusters lost and found\n", (unsigned long long)kills,
	       (unsigned long long)(ops + next), w->leaks);
}

/* ---- pulling the plug ---- */

struct entry {
	enum file_op op;
	uint64_t at, bytes;
	uint8_t *data;
};

/* Everything that was asked of the host, and the file as it was before. */
struct log {
	const struct world *w;
	struct entry *e;
	uint64_t count, room;
	uint8_t *file;
	uint64_t bytes, file_room; /* of the file */
};

static int note(void *ctx, const struct file *f, const struct file_call *call)
{
	struct log *l = ctx;
	struct entry *e;

	if (call->op == FILE_READ || f->read_only)
		return 0;
	if (l->count == l->room) {
		l->room = 2 * l->room + 1000;
		l->e = realloc(l->e, l->room * sizeof(*l->e));
	}
	e = &l->e[l->count++];
	*e = (struct entry){call->op, call->at, call->bytes, NULL};
	if (call->op == FILE_WRITE) {
		uint8_t *p = e->data = malloc(call->bytes);

		for (int i = 0; i < call->iovs; p += call->iov[i++].iov_len)
			memcpy(p, call->iov[i].iov_base, call->iov[i].iov_len);
	}
	return 0;
}

static void need(struct log *l, uint64_t bytes)
{
	if (bytes > l->file_room) {
		l->file = realloc(l->file, 2 * bytes);
		memset(l->file + l->file_room, 0, 2 * bytes - l->file_room);
		l->file_room = 2 * bytes;
	}
	l->bytes = max_u64(l->bytes, bytes);
}

/* Does what is in an entry to the file in memory; @keep: of 8 sectors, how many on average. */
static void apply_entry(struct log *l, const struct entry *e, unsigned keep, uint64_t *random)
{
	if (e->op == FILE_TRUNCATE) {
		if (e->at > l->bytes)
			need(l, e->at);
		return;
	}
	for (uint64_t n = 0, step; n < e->bytes; n += step) {
		step = min_u64(e->bytes - n, 512 - (e->at + n) % 512);
		*random = mix(*random);
		if (*random % 8 >= keep)
			continue;
		if (e->op == FILE_WRITE) {
			need(l, e->at + n + step);
			memcpy(l->file + e->at + n, e->data + n, step);
		} else if (e->at + n < l->bytes) {
			memset(l->file + e->at + n, 0, min_u64(step, l->bytes - e->at - n));
		}
	}
}

static void save(const struct log *l, const char *path)
{
	FILE *f = fopen(path, "wb");

	if (!f || fwrite(l->file, 1, l->bytes, f) != l->bytes || fclose(f))
		abort();
}

static void load(struct log *l, const char *path)
{
	FILE *f = fopen(path, "rb");
	size_t n;

	fseek(f, 0, SEEK_END);
	n = (size_t)ftell(f);
	rewind(f);
	need(l, n);
	if (fread(l->file, 1, n, f) != n)
		abort();
	fclose(f);
}

/* The end of each operation in the log; runs them all. */
static void record(struct world *w, struct log *l, uint64_t *ends, uint64_t ops)
{
	const struct file_tap tap = {note, l};
	struct disk_options o = w->options;
	struct world copy = *w; /* whose snapshots are those of the end */
	struct error err = {0};
	struct disk *d;

	o.tap = &tap;
	model_must(disk_open(&d, w->path, &o, &err), &err, "open");
	for (uint64_t i = 0; i < ops; i++) {
		struct op op = op_number(&copy, i);

		do_op(&copy, &d, i, &op);
		ends[i] = l->count;
	}
	model_must(disk_close(d, &err), &err, "close");
}

/* A world of its own for one cut, after which the run goes on as if there had been none. */
static struct world copy_world(const struct world *w)
{
	struct world copy = *w;

	copy.base = malloc(w->bytes);
	memcpy(copy.base, w->base, w->bytes);
	for (unsigned i = 0; i < SLOTS; i++) {
		copy.snapshot[i] = malloc(w->bytes);
		memcpy(copy.snapshot[i], w->snapshot[i], w->bytes);
	}
	return copy;
}

static void drop_copy(struct world *w, struct world *copy)
{
	w->rounds = copy->rounds;
	w->leaks = copy->leaks;
	free(copy->base);
	for (unsigned i = 0; i < SLOTS; i++)
		free(copy->snapshot[i]);
}

/* How far a run is: operations and entries of the log. */
struct position {
	uint64_t settled; /* operations that are certainly on the disk */
	uint64_t stable;  /* entries that are in the file in memory */
};

/* Operations that had begun when the log had @cut entries; *flushed: those before are on the disk. */
static uint64_t begun_at(const struct world *w, const uint64_t *ends, uint64_t ops, uint64_t cut, uint64_t settled,
			 uint64_t *flushed)
{
	struct world at = *w; /* for the snapshots there are */
	uint64_t i;

	*flushed = settled;
	for (i = settled; i < ops && (i ? ends[i - 1] : 0) < cut; i++) {
		struct op op = op_number(&at, i);

		if (is_flush(&op) && ends[i] <= cut)
			*flushed = i + 1;
		if (op.kind == TOGGLE)
			at.exists[op.slot] = !at.exists[op.slot];
	}
	return i;
}

/* Everything up to the last barrier before @cut is in the file; of what came then, @keep of 8 sectors are. */
static void cut_at(struct world *w, struct log *l, const uint64_t *ends, uint64_t ops, uint64_t cut, unsigned keep,
		   struct position *p)
{
	uint64_t sync = p->stable, begun, flushed, random = mix(cut), bytes;
	struct world copy;
	uint8_t *file;

	for (uint64_t i = p->stable; i < cut; i++)
		if (l->e[i].op == FILE_SYNC)
			sync = i;
	for (; p->stable < sync; p->stable++)
		apply_entry(l, &l->e[p->stable], 8, &random);
	begun = begun_at(w, ends, ops, cut, p->settled, &flushed);
	for (; p->settled < flushed; p->settled++) {
		struct op op = op_number(w, p->settled);

		settle(w, p->settled, &op);
	}
	bytes = l->bytes;
	file = malloc(bytes);
	memcpy(file, l->file, bytes);
	for (uint64_t i = sync; i < cut; i++)
		apply_entry(l, &l->e[i], keep, &random);
	save(l, w->path);
	copy = copy_world(w);
	examine(&copy, p->settled, p->settled, begun);
	drop_copy(w, &copy);
	memset(l->file, 0, l->bytes);
	memcpy(l->file, file, bytes);
	l->bytes = bytes;
	free(file);
}

/* Cuts the log of one run at @cuts moments, in order. */
static void cut_run(struct world *w, uint64_t ops, uint64_t cuts)
{
	uint64_t *ends = calloc(ops, sizeof(*ends));
	struct position p = {0};
	struct log l = {.w = w};

	load(&l, w->path);
	record(w, &l, ends, ops);
	for (uint64_t n = 0; n < cuts; n++)
		cut_at(w, &l, ends, ops, l.count * (n + 1) / (cuts + 1), (unsigned)(n % 9), &p);
	for (uint64_t i = 0; i < l.count; i++)
		free(l.e[i].data);
	free(l.e);
	free(l.file);
	free(ends);
}

static void cut_many(struct world *w, const char *dir, uint64_t seed, uint64_t cuts)
{
	for (uint64_t n = 0; n < cuts; n += ROUNDS_PER_IMAGE) {
		make_world(w, dir, seed + n / ROUNDS_PER_IMAGE);
		cut_run(w, 200, ROUNDS_PER_IMAGE);
		free_world(w);
	}
	printf("%llu cuts, %lu clusters lost and found\n", (unsigned long long)cuts, w->leaks);
}

int main(int argc, char **argv)
{
	bool power = argc > 1 && strcmp(argv[1], "power") == 0;
	uint64_t seed = 1, count = 60;
	struct world w = {0};
	char dir[128];
	int c;

	w.freezes = argc > 1 && strcmp(argv[1], "freeze") == 0;
	if (argc < 2 || (!power && !w.freezes && strcmp(argv[1], "kill") != 0))
		return 2;
	optind = 2;
	while ((c = getopt(argc, argv, "n:s:q")) != -1) {
		if (c == 'n')
			count = strtoull(optarg, NULL, 0);
		else if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'q')
			w.qemu = true;
		else
			return 2;
	}
	model_directory(dir, sizeof(dir), "crash-disk");
	(power ? cut_many : kill_many)(&w, dir, seed, count);
	return rmdir(dir) ? 2 : 0;
}
