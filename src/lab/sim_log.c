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

static int compare(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->high != y->high)
		return x->high < y->high ? -1 : 1;
	return x->low < y->low ? -1 : x->low > y->low;
}

static void print_row(const struct row *row, unsigned steps, FILE *out)
{
	for (unsigned i = 0; i < steps; i++) {
		uint64_t word = i < 16 ? row->high : row->low;

		fprintf(out, "%s,", token_name[word >> (60 - 4 * (i % 16)) & 15]);
	}
	fprintf(out, "RANGE_HIT,\t%" PRIu64 "\n", row->count);
}

int sim_log_write(const struct sim_log *l, FILE *out, const char *name, struct error *err)
{
	struct row *sorted = malloc((l->rows + 1) * sizeof(*sorted));
	uint32_t n = 0;

	if (!sorted)
		return error_set(err, -ENOMEM, "%s: out of memory", name);
	for (uint32_t i = 0; i < l->slots; i++)
		if (l->row[i].count)
			sorted[n++] = l->row[i];
	qsort(sorted, n, sizeof(*sorted), compare);
	fprintf(out, "Page walks by where their references hit, %u steps each\n"
		"num_requests : %" PRIu64 "\nnum_left_out : %" PRIu64 "\n"
		"~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~\n",
		l->nested ? NESTED_STEPS : NATIVE_STEPS, l->walks, l->left_out);
	for (uint32_t i = 0; i < n; i++)
		print_row(&sorted[i], l->nested ? NESTED_STEPS : NATIVE_STEPS, out);
	free(sorted);
	if (fflush(out) || ferror(out))
		return error_set(err, errno ? -errno : -EIO, "%s: cannot write", name);
	return 0;
}
