/* See mirror.h. */
#include "disk/mirror.h"
#include "disk/disk_impl.h"
#include "base/bitmap.h"
#include "base/util.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CLUSTER (64u << 10)
#define STEP_BYTES      (256u << 10) /* of data copied at a time: a guest's request waits for that at most */
#define STEP_ZEROES     (64u << 20)
#define ROOM_NS         1000000u     /* how often to ask a target without room */

const char *const disk_mirror_phase_name[] = {
	[DISK_MIRROR_COPYING] = "copying", [DISK_MIRROR_MIRRORING] = "mirroring", [DISK_MIRROR_READY] = "ready",
	[DISK_MIRROR_DONE] = "done",       [DISK_MIRROR_FAILED] = "failed",
};

struct disk_mirror {
	struct disk_mirror_target target;
	uint64_t bytes;
	unsigned cluster_bits;
	uint64_t clusters;
	uint64_t *dirty;         /* [a bit a cluster]: the target does not have it */
	uint64_t dirties;        /* bits set */
	uint64_t cursor;         /* cluster at which the present round goes on */
	uint64_t round_began;    /* bits that were set when it began */
	unsigned rounds_allowed;
	bool mirroring;
	uint64_t next_ns;        /* not to copy before, for the speed */
	uint8_t *buf;            /* [buf_bytes] */
	uint64_t buf_bytes;
	/* Shared with those who ask. */
	pthread_mutex_t lock;
	struct disk_mirror_progress progress;
	uint64_t bytes_per_second;
	bool converge;
};

/* ---- what others may ask and say ---- */

void disk_mirror_progress(struct disk_mirror *m, struct disk_mirror_progress *p)
{
	pthread_mutex_lock(&m->lock);
	*p = m->progress;
	pthread_mutex_unlock(&m->lock);
}

void disk_mirror_converge(struct disk_mirror *m)
{
	pthread_mutex_lock(&m->lock);
	m->converge = true;
	pthread_mutex_unlock(&m->lock);
}

void disk_mirror_set_speed(struct disk_mirror *m, uint64_t bytes_per_second)
{
	pthread_mutex_lock(&m->lock);
	m->bytes_per_second = bytes_per_second;
	pthread_mutex_unlock(&m->lock);
}

static bool has_ended(const struct disk_mirror *m) { return m->progress.phase >= DISK_MIRROR_DONE; }

/* What has changed since, for them; and what they want. */
static void tell(struct disk_mirror *m)
{
	struct disk_mirror_progress *p = &m->progress;

	pthread_mutex_lock(&m->lock);
	m->mirroring |= m->converge;
	if (!has_ended(m))
		p->phase = !m->mirroring ? DISK_MIRROR_COPYING :
			   m->dirties ? DISK_MIRROR_MIRRORING : DISK_MIRROR_READY;
	p->left = min_u64(m->dirties << m->cluster_bits, m->bytes);
	pthread_mutex_unlock(&m->lock);
}

static void fail(struct disk_mirror *m, const struct error *err)
{
	pthread_mutex_lock(&m->lock);
	if (!has_ended(m)) {
		m->progress.phase = DISK_MIRROR_FAILED;
		m->progress.err = *err;
	}
	pthread_mutex_unlock(&m->lock);
}

static void count(struct disk_mirror *m, uint64_t *what, uint64_t bytes)
{
	pthread_mutex_lock(&m->lock);
	*what += bytes;
	pthread_mutex_unlock(&m->lock);
}

/* ---- bits ---- */

static bool is_dirty(const struct disk_mirror *m, uint64_t c) { return bitmap_has(m->dirty, c); }

static void set_dirty(struct disk_mirror *m, uint64_t c, bool to)
{
	m->dirties += (uint64_t)to - is_dirty(m, c);
	(to ? bitmap_set : bitmap_clear)(m->dirty, c);
}

static uint64_t first_cluster(const struct disk_mirror *m, uint64_t at) { return at >> m->cluster_bits; }
/* The first one behind a range of at least a byte. */
static uint64_t end_cluster(const struct disk_mirror *m, uint64_t at, uint64_t bytes)
{
	return ((at + bytes - 1) >> m->cluster_bits) + 1;
}

/* Clusters from @c on, before @end, that are all dirty, or all not. */
static uint64_t run_of(const struct disk_mirror *m, uint64_t c, uint64_t end)
{
	uint64_t n = 1;

	while (c + n < end && is_dirty(m, c + n) == is_dirty(m, c))
		n++;
	return n;
}

static uint64_t next_dirty(const struct disk_mirror *m, uint64_t c)
{
	uint64_t next = bitmap_next(m->dirty, c, m->clusters);

	return next < m->clusters ? next : UINT64_MAX;
}

/* The bytes of @n clusters from @c on; the last cluster of the disk may be a part. */
static uint64_t bytes_of(const struct disk_mirror *m, uint64_t c, uint64_t n)
{
	return min_u64(n << m->cluster_bits, m->bytes - (c << m->cluster_bits));
}

/* ---- making one ---- */

int disk_mirror_create(struct disk_mirror **out, uint64_t bytes, const struct disk_mirror_target *target,
		       const struct disk_mirror_options *o, struct error *err)
{
	uint64_t cluster = o && o->cluster_bytes ? o->cluster_bytes : DEFAULT_CLUSTER;
	struct disk_mirror *m;

	if (cluster & (cluster - 1) || cluster < 4096 || cluster > 16 << 20)
		return error_set(err, -EINVAL, "mirror: clusters of %llu bytes: not a power of two from 4 KiB to 16 MiB",
				 (unsigned long long)cluster);
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(err, -ENOMEM, "mirror: out of memory");
	pthread_mutex_init(&m->lock, NULL);
	m->target = *target;
	m->bytes = m->progress.total = bytes;
	m->cluster_bits = (unsigned)__builtin_ctzll(cluster);
	m->clusters = bytes / cluster + (bytes % cluster != 0);
	m->buf_bytes = max_u64(STEP_BYTES, cluster);
	m->dirty = calloc(m->clusters / 64 + 1, sizeof(*m->dirty));
	m->buf = malloc(m->buf_bytes);
	if (!m->dirty || !m->buf) {
		disk_mirror_free(m);
		return error_set(err, -ENOMEM, "mirror: out of memory");
	}
	for (uint64_t c = 0; c < m->clusters; c++)
		set_dirty(m, c, true);
	m->round_began = m->dirties;
	m->rounds_allowed = o ? o->rounds : 0;
	m->mirroring = !m->rounds_allowed || (!m->dirties && m->rounds_allowed != DISK_MIRROR_NEVER);
	m->bytes_per_second = o ? o->bytes_per_second : 0;
	m->progress.in_use = true;
	tell(m);
	*out = m;
	return 0;
}

void disk_mirror_free(struct disk_mirror *m)
{
	if (!m)
		return;
	pthread_mutex_destroy(&m->lock);
	free(m->dirty);
	free(m->buf);
	free(m);
}

uint64_t disk_mirror_bytes(const struct disk_mirror *m) { return m->bytes; }

/* ---- to the target ---- */

/* @buf: NULL: zeroes. False: the mirror has ended. */
static bool put(struct disk_mirror *m, uint64_t at, const uint8_t *buf, uint64_t bytes)
{
	struct error err = {0};
	int ret = buf ? m->target.write(m->target.ctx, at, buf, bytes, &err)
		      : m->target.zero(m->target.ctx, at, bytes, &err);

	if (ret)
		fail(m, &err);
	return !ret;
}

/* Copies what the disk has in clusters that are dirty. Returns how many of them, at least one; 0: the mirror has ended. */
static uint64_t copy(struct disk_mirror *m, struct disk *d, uint64_t c, uint64_t n)
{
	uint64_t at = c << m->cluster_bits, bytes = bytes_of(m, c, min_u64(n, STEP_ZEROES >> m->cluster_bits));
	struct error err = {0};
	struct disk_extent x;
	int ret = disk_extent_in_chain(d, at, bytes, &x, &err);
	bool zero = !ret && x.kind == DISK_X_ZERO && (x.bytes == bytes || x.bytes >> m->cluster_bits);

	if (zero && x.bytes < bytes)
		bytes = x.bytes >> m->cluster_bits << m->cluster_bits;
	if (!zero)
		bytes = min_u64(bytes, m->buf_bytes);
	if (!ret && !zero) {
		ret = disk_read(d, at, m->buf, bytes, &err);
		zero = !ret && !m->buf[0] && memcmp(m->buf, m->buf + 1, bytes - 1) == 0;
	}
	if (ret) {
		fail(m, &err);
		return 0;
	}
	if (!put(m, at, zero ? NULL : m->buf, bytes))
		return 0;
	count(m, zero ? &m->progress.zeroes : &m->progress.copied, bytes);
	n = end_cluster(m, at, bytes) - c;
	for (uint64_t i = 0; i < n; i++)
		set_dirty(m, c + i, false);
	return n;
}

/* ---- changes of the disk ---- */

static void mark(struct disk_mirror *m, uint64_t at, uint64_t bytes)
{
	for (uint64_t c = first_cluster(m, at), end = end_cluster(m, at, bytes); c < end; c++)
		set_dirty(m, c, true);
}

/* Where the target has what the disk had before, it gets the change, too. @buf: NULL: zeroes */
static void mirror(struct disk_mirror *m, uint64_t at, const uint8_t *buf, uint64_t bytes)
{
	uint64_t end = at + bytes, c, n, piece;

	for (; at < end; at += piece, buf = buf ? buf + piece : NULL) {
		c = first_cluster(m, at);
		n = run_of(m, c, end_cluster(m, at, end - at));
		piece = min_u64(end, (c + n) << m->cluster_bits) - at;
		if (is_dirty(m, c))
			continue;
		if (!put(m, at, buf, piece))
			return;
		count(m, &m->progress.mirrored, piece);
	}
}

/* A change that failed may have been of more than there is. */
static bool concerns(const struct disk_mirror *m, uint64_t at, uint64_t *bytes)
{
	*bytes = at < m->bytes ? min_u64(*bytes, m->bytes - at) : 0;
	return *bytes && !has_ended(m);
}

static void changed(struct disk_mirror *m, uint64_t at, const uint8_t *buf, uint64_t bytes)
{
	if (!concerns(m, at, &bytes))
		return;
	if (m->mirroring)
		mirror(m, at, buf, bytes);
	else
		mark(m, at, bytes);
	tell(m);
}

void disk_mirror_wrote(struct disk_mirror *m, uint64_t at, const void *buf, uint64_t bytes)
{
	changed(m, at, buf, bytes);
}

void disk_mirror_zeroed(struct disk_mirror *m, uint64_t at, uint64_t bytes) { changed(m, at, NULL, bytes); }

/* What the disk has there now is copied, so that no bit is set that was not set before. */
void disk_mirror_touched(struct disk_mirror *m, struct disk *d, uint64_t at, uint64_t bytes)
{
	uint64_t n;

	if (!concerns(m, at, &bytes))
		return;
	mark(m, at, bytes);
	for (uint64_t c = first_cluster(m, at), end = end_cluster(m, at, bytes); m->mirroring && c < end; c += n) {
		n = copy(m, d, c, end - c);
		if (!n)
			break;
	}
	tell(m);
}

/* ---- copying ---- */

bool disk_mirror_wants(struct disk_mirror *m, uint64_t now_ns, uint64_t *wait_ns)
{
	tell(m);
	*wait_ns = UINT64_MAX;
	if (has_ended(m) || !m->dirties)
		return false;
	if (now_ns < m->next_ns) {
		*wait_ns = m->next_ns - now_ns;
		return false;
	}
	*wait_ns = ROOM_NS;
	return !m->target.has_room || m->target.has_room(m->target.ctx);
}

/* A round is over. Was it worth while? */
static void end_round(struct disk_mirror *m)
{
	pthread_mutex_lock(&m->lock);
	m->progress.rounds++;
	if (m->rounds_allowed != DISK_MIRROR_NEVER &&
	    (m->progress.rounds >= m->rounds_allowed || m->dirties > m->round_began / 2 || !m->dirties))
		m->mirroring = true;
	pthread_mutex_unlock(&m->lock);
	m->round_began = m->dirties;
	m->cursor = 0;
}

static void pay(struct disk_mirror *m, uint64_t bytes, uint64_t now_ns)
{
	uint64_t rate;

	pthread_mutex_lock(&m->lock);
	rate = m->bytes_per_second;
	pthread_mutex_unlock(&m->lock);
	m->next_ns = rate ? max_u64(m->next_ns, now_ns) + (uint64_t)((double)bytes / (double)rate * 1e9) : 0;
}

void disk_mirror_step(struct disk_mirror *m, struct disk *d, uint64_t now_ns)
{
	uint64_t c = next_dirty(m, m->cursor), n, before = m->progress.copied;

	if (has_ended(m) || !m->dirties)
		return;
	if (c == UINT64_MAX) { /* what is left is behind */
		end_round(m);
		c = next_dirty(m, 0);
	}
	n = copy(m, d, c, run_of(m, c, min_u64(m->clusters, c + max_u64(1, STEP_ZEROES >> m->cluster_bits))));
	m->cursor = c + n;
	pay(m, m->progress.copied - before, now_ns);
	if (n && !m->dirties)
		end_round(m);
	tell(m);
}

int disk_mirror_complete(struct disk_mirror *m, struct disk *d, struct error *err)
{
	struct error why = {0};

	while (!has_ended(m) && m->dirties)
		disk_mirror_step(m, d, 0);
	if (!has_ended(m) && m->target.flush(m->target.ctx, &why))
		fail(m, &why);
	pthread_mutex_lock(&m->lock);
	if (!has_ended(m))
		m->progress.phase = DISK_MIRROR_DONE;
	m->progress.in_use = false;
	why = m->progress.err;
	pthread_mutex_unlock(&m->lock);
	return m->progress.phase == DISK_MIRROR_DONE ? 0 : error_set(err, why.code, "%s", why.text);
}

void disk_mirror_stop(struct disk_mirror *m, int why)
{
	struct error err = {0};

	error_set(&err, why, "mirror: %s", strerror(-why));
	fail(m, &err);
	pthread_mutex_lock(&m->lock);
	m->progress.in_use = false;
	pthread_mutex_unlock(&m->lock);
}

/* ---- a target that is an image ---- */

static int image_write(void *ctx, uint64_t at, const void *buf, uint64_t bytes, struct error *err)
{
	return disk_write(ctx, at, buf, bytes, err);
}

static int image_zero(void *ctx, uint64_t at, uint64_t bytes, struct error *err)
{
	return disk_write_zeroes(ctx, at, bytes, true, err);
}

static int image_flush(void *ctx, struct error *err) { return disk_flush(ctx, err); }

struct disk_mirror_target disk_mirror_to(struct disk *to)
{
	return (struct disk_mirror_target){.ctx = to, .write = image_write, .zero = image_zero, .flush = image_flush};
}
