/* Rows of hit places, counted by combination: an open hash table of packed rows, sorted when it is written. */
#include "lab/sim_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define NESTED_STEPS 24
#define NATIVE_STEPS 4
#define GUEST_LEVEL_STEPS 5 /* four of the host, one of the guest */

/* In the order in which the artifact numbers them, which is that of its rows. */
enum token { MEMORY, L1, L2, LLC, PWC, ZERO };
static const char *const token_name[] = {"MEMORY", "L1", "L2", "LLC", "PWC", "ZERO"};

/* Steps by four bits, the first in the highest of high, so that rows compare as the artifact's do. */
struct row {
	uint64_t high, low, count;
};

struct sim_log {
	bool nested;
	struct row *row;       /* [slots], count == 0: free */
	uint32_t slots, rows;
	uint64_t walks, left_out;
};

struct sim_log *sim_log_create(bool nested)
{
	struct sim_log *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->nested = nested;
	l->slots = 256;
	l->row = calloc(l->slots, sizeof(*l->row));
	if (l->row)
		return l;
	free(l);
	return NULL;
}

void sim_log_destroy(struct sim_log *l)
{
	if (!l)
		return;
	free(l->row);
	free(l);
}

uint64_t sim_log_walks(const struct sim_log *l) { return l->walks; }
uint64_t sim_log_left_out(const struct sim_log *l) { return l->left_out; }

/* Which step of a row @s is; -1: none. */
static int step_index(const struct sim_log *l, const struct walk_step *s)
{
	unsigned level = s->what == STEP_NESTED_TLB ? 1 : s->level, of;

	if (level < 1 || level > 4 || s->guest_level > 4 || s->stage >= STAGES)
		return -1;
	if (s->stage == STAGE_GUEST)
		return l->nested ? (int)((4 - level) * GUEST_LEVEL_STEPS + 4) : (int)(4 - level);
	of = s->guest_level ? 4u - s->guest_level : 4; /* the data page's come after the last guest level's */
	return l->nested ? (int)(of * GUEST_LEVEL_STEPS + 4 - level) : -1;
}

static enum token token_of(const struct walk_step *s)
{
	static const enum token place[HW_PLACES] = {[HW_L1] = L1, [HW_L2] = L2, [HW_LLC] = LLC, [HW_MEMORY] = MEMORY};

	return s->what == STEP_REF && s->place < HW_PLACES ? place[s->place] : PWC;
}

/* Is it an access, made or saved? Else it only says what direct translation came to. */
static bool is_access(const struct walk_step *s)
{
	return s->what == STEP_REF || s->what == STEP_WALK_CACHE || s->what == STEP_NESTED_TLB;
}

/* False: no row can hold the walk. */
static bool row_of(const struct sim_log *l, const struct walk_log *walk, struct row *row)
{
	unsigned steps = l->nested ? NESTED_STEPS : NATIVE_STEPS;
	uint8_t token[NESTED_STEPS];

	memset(token, ZERO, sizeof(token));
	for (unsigned i = 0; i < walk->steps; i++) {
		int at;

		if (!is_access(&walk->step[i]))
			continue;
		at = step_index(l, &walk->step[i]);
		if (at < 0 || token[at] != ZERO)
			return false;
		token[at] = (uint8_t)token_of(&walk->step[i]);
	}
	*row = (struct row){0};
	for (unsigned i = 0; i < steps; i++)
		if (i < 16)
			row->high |= (uint64_t)token[i] << (60 - 4 * i);
		else
			row->low |= (uint64_t)token[i] << (60 - 4 * (i - 16));
	return true;
}

/* The slot of the row, or the free one where it belongs. */
static struct row *find(struct row *table, uint32_t slots, const struct row *row)
{
	uint64_t hash = (row->high ^ (row->low << 27 | row->low >> 37)) * 0x9e3779b97f4a7c15;
	uint32_t at = (uint32_t)(hash >> 32) & (slots - 1);

	while (table[at].count && (table[at].high != row->high || table[at].low != row->low))
		at = (at + 1) & (slots - 1);
	return &table[at];
}

static int grow(struct sim_log *l, struct error *err)
{
	uint32_t slots = 2 * l->slots;
	struct row *table = calloc(slots, sizeof(*table));

	if (!table)
		return error_set(err, -ENOMEM, "sim.log: out of memory");
	for (uint32_t i = 0; i < l->slots; i++)
		if (l->row[i].count)
			*find(table, slots, &l->row[i]) = l->row[i];
	free(l->row);
	l->row = table;
	l->slots = slots;
	return 0;
}

int sim_log_put(struct sim_log *l, const struct walk_log *walk, struct error *err)
{
	struct row row, *at;
	int rc;

	if (!walk->steps)
		return 0;
	if (!row_of(l, walk, &row)) {
		l->left_out++;
		return 0;
	}
	at = find(l->row, l->slots, &row);
	if (!at->count) {
		if (l->rows == SIM_LOG_ROWS_MAX)
			return error_set(err, -EFBIG, "sim.log: more than %u different rows", SIM_LOG_ROWS_MAX);
		if (2 * l->rows >= l->slots) {
			rc = grow(l, err);
			if (rc)
				return rc;
			at = find(l->row, l->slots, &row);
		}
		*at = row;
		l->rows++;
	}
	at->count++;
	l->walks++;
	return 0;
}

/* ---- the artifact's sums ---- */

#define LEVELS 4
#define UDH    (4 * GUEST_LEVEL_STEPS) /* the host's steps to the page */
/* What the artifact adds for hashed tables: looking them up, natively and for three nested ones. */
#define ECPT_NATIVE 2
#define ECPT_NESTED 12

const char *const sim_design_name[SIM_DESIGNS] = {"radix", "FPT", "ECPT", "ASAP", "agile", "DMT", "pvDMT", "nested pvDMT"};

/* A walk's steps in cycles, and which are the last of their dimension. */
struct costs {
	uint64_t step[NESTED_STEPS];
	uint64_t guest[LEVELS]; /* of step: the guest's (or only) entries */
	unsigned leaf, host_leaf[LEVELS + 1]; /* [LEVELS]: of the page */
};

static unsigned token_at(const struct row *row, unsigned i)
{
	return (unsigned)((i < 16 ? row->high : row->low) >> (60 - 4 * (i % 16)) & 15);
}

static uint64_t cycles_of(const struct hw *hw, unsigned token)
{
	switch (token) {
	case MEMORY: return hw->memory_latency;
	case L1: return hw->cache[HW_L1].latency;
	case L2: return hw->cache[HW_L2].latency;
	case LLC: return hw->cache[HW_LLC].latency;
	case PWC: return hw->cost.walk_cache_hit;
	}
	return 0;
}

/* The last of the four steps from @from on, each @apart from the next, that was made. */
static unsigned last_made(const struct row *row, unsigned from, unsigned apart)
{
	unsigned last = 0;

	for (unsigned i = 0; i < LEVELS; i++)
		if (token_at(row, from + i * apart) != ZERO)
			last = i;
	return last;
}

static void find_costs(const struct sim_log *l, const struct row *row, const struct hw *hw, struct costs *c)
{
	unsigned apart = l->nested ? GUEST_LEVEL_STEPS : 1, first = l->nested ? GUEST_LEVEL_STEPS - 1 : 0;

	for (unsigned i = 0; i < (l->nested ? NESTED_STEPS : NATIVE_STEPS); i++)
		c->step[i] = cycles_of(hw, token_at(row, i));
	for (unsigned i = 0; i < LEVELS; i++)
		c->guest[i] = c->step[first + i * apart];
	c->leaf = last_made(row, first, apart);
	for (unsigned i = 0; i <= LEVELS && l->nested; i++)
		c->host_leaf[i] = last_made(row, i * GUEST_LEVEL_STEPS, 1);
}

static uint64_t all_of(const uint64_t step[LEVELS]) { return step[0] + step[1] + step[2] + step[3]; }
static uint64_t flat(const uint64_t step[LEVELS], unsigned leaf) { return step[leaf] + (leaf >= 2 ? step[leaf - 2] : 0); }
static uint64_t asap(const uint64_t step[LEVELS])
{
	return max_u64(max_u64(step[0] + step[1], step[2]), step[3]);
}

static uint64_t native_sum(const struct costs *c, enum sim_design design)
{
	switch (design) {
	case SIM_RADIX: return all_of(c->guest);
	case SIM_FPT: return flat(c->guest, c->leaf);
	case SIM_ECPT: return c->guest[c->leaf] + ECPT_NATIVE;
	case SIM_ASAP: return asap(c->guest);
	default: return c->guest[c->leaf];
	}
}

/* The guest's tables by every other level, each with its host's by every other level. */
static uint64_t nested_flat(const struct costs *c)
{
	uint64_t sum = flat(c->step + UDH, c->host_leaf[LEVELS]);

	for (unsigned i = c->leaf % 2; i <= c->leaf; i += 2)
		sum += flat(c->step + i * GUEST_LEVEL_STEPS, c->host_leaf[i]) + c->guest[i];
	return sum;
}

static uint64_t nested_asap(const struct costs *c)
{
	uint64_t level[LEVELS];

	for (unsigned i = 0; i < LEVELS; i++)
		level[i] = asap(c->step + i * GUEST_LEVEL_STEPS) + c->guest[i];
	return asap(level) + asap(c->step + UDH);
}

static uint64_t nested_sum(const struct costs *c, enum sim_design design)
{
	uint64_t entry = c->guest[c->leaf], page = c->step[UDH + c->host_leaf[LEVELS]];
	uint64_t where = c->step[c->leaf * GUEST_LEVEL_STEPS + c->host_leaf[c->leaf]], all = 0;

	switch (design) {
	case SIM_RADIX:
		for (unsigned i = 0; i < NESTED_STEPS; i++)
			all += c->step[i];
		return all;
	case SIM_FPT: return nested_flat(c);
	case SIM_ECPT: return where + entry + page + ECPT_NESTED;
	case SIM_ASAP: return nested_asap(c);
	case SIM_AGILE: return all_of(c->guest) + all_of(c->step + UDH);
	case SIM_DMT: return where + entry + page;
	default: return entry + page;
	}
}

void sim_log_means(const struct sim_log *l, const struct hw *hw, double mean[SIM_DESIGNS])
{
	uint64_t sum[SIM_DESIGNS] = {0};

	for (uint32_t i = 0; i < l->slots; i++) {
		struct costs c = {0};

		if (!l->row[i].count)
			continue;
		find_costs(l, &l->row[i], hw, &c);
		for (unsigned d = 0; d < SIM_DESIGNS; d++)
			sum[d] += l->row[i].count *
				  (l->nested ? nested_sum(&c, (enum sim_design)d) : native_sum(&c, (enum sim_design)d));
	}
	for (unsigned d = 0; d < SIM_DESIGNS; d++) {
		bool has = l->walks && (l->nested || (d != SIM_AGILE && d != SIM_PVDMT && d != SIM_PVDMT_NESTED));

		mean[d] = has ? (double)sum[d] / (double)l->walks * (d == SIM_PVDMT_NESTED ? 1.5 : 1) : -1;
	}
}

/* ---- writing ---- */

static int compare(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->high != y->high)
		return x->high < y->high ? -1 : 1;
	return x->low < y->low ? -1 : x->low > y->low;
}

static void print_row(const struct row *row, unsigned steps, FILE *out)
{
	for (unsigned i = 0; i < steps; i++)
		fprintf(out, "%s,", token_name[token_at(row, i)]);
	fprintf(out, "RANGE_HIT,\t%" PRIu64 "\n", row->count);
}

static void print_head(const struct sim_log *l, const struct hw *hw, FILE *out)
{
	double mean[SIM_DESIGNS];

	fprintf(out, "Page walks by where their references hit, %u steps each\n", l->nested ? NESTED_STEPS : NATIVE_STEPS);
	fprintf(out, "num_requests : %" PRIu64 "\nnum_left_out : %" PRIu64 "\n", l->walks, l->left_out);
	sim_log_means(l, hw, mean);
	for (unsigned d = 0; d < SIM_DESIGNS; d++)
		if (mean[d] >= 0)
			fprintf(out, "by sums, %s : %.1f cycles a walk\n", sim_design_name[d], mean[d]);
	fputs("~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~\n", out);
}

int sim_log_write(const struct sim_log *l, const struct hw *hw, FILE *out, const char *name, struct error *err)
{
	struct row *sorted = malloc((l->rows + 1) * sizeof(*sorted));
	uint32_t n = 0;

	if (!sorted)
		return error_set(err, -ENOMEM, "%s: out of memory", name);
	for (uint32_t i = 0; i < l->slots; i++)
		if (l->row[i].count)
			sorted[n++] = l->row[i];
	qsort(sorted, n, sizeof(*sorted), compare);
	print_head(l, hw, out);
	for (uint32_t i = 0; i < n; i++)
		print_row(&sorted[i], l->nested ? NESTED_STEPS : NATIVE_STEPS, out);
	free(sorted);
	if (fflush(out) || ferror(out))
		return error_set(err, errno ? -errno : -EIO, "%s: cannot write", name);
	return 0;
}
