/* What the tests of the operating-system model share: a machine, events that must be taken, and figures. */
#ifndef GNOMON_TESTS_OS_TEST_H
#define GNOMON_TESTS_OS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "os_rig.h"

#define KIB 1024ull
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define RW  TRACE_MAP_WRITE

static inline struct os_rig *rig_new(const struct osm_config *cfg)
{
	struct os_rig *r = malloc(sizeof(*r));
	struct error err = {0};

	assert_non_null(r);
	if (rig_init(r, cfg, &err))
		fail_msg("%s", err.text);
	return r;
}

static inline void rig_delete(struct os_rig *r)
{
	rig_destroy(r);
	free(r);
}

/* The event, and everything must agree afterwards. */
static inline void put(struct os_rig *r, struct trace_event ev)
{
	struct error err = {0};

	if (rig_put(r, ev, &err) || osm_audit(r->osm, &err))
		fail_msg("%s %#llx: %s", trace_kind_name(ev.kind), (unsigned long long)ev.addr, err.text);
}

static inline void put_read(struct os_rig *r, uint64_t va) { put(r, rig_access(TRACE_READ, va, 8)); }
static inline void put_write(struct os_rig *r, uint64_t va) { put(r, rig_access(TRACE_WRITE, va, 8)); }

/* A write to each @step bytes of a range; looked over at the end only. */
static inline void put_writes(struct os_rig *r, uint64_t start, uint64_t bytes, uint64_t step)
{
	struct error err = {0};

	for (uint64_t va = start; va < start + bytes; va += step)
		if (rig_put(r, rig_access(TRACE_WRITE, va, 8), &err))
			fail_msg("write %#llx: %s", (unsigned long long)va, err.text);
	if (osm_audit(r->osm, &err))
		fail_msg("%s", err.text);
}

/* The event is refused with @code and @text. */
static inline void put_bad(struct os_rig *r, struct trace_event ev, int code, const char *text)
{
	struct error err = {0};

	assert_int_equal(rig_put(r, ev, &err), code);
	assert_string_equal(err.text, text);
}

static inline struct osm_stats stats(const struct os_rig *r)
{
	struct osm_stats s;

	osm_stats(r->osm, &s);
	return s;
}

static inline uint64_t where(struct os_rig *r, uint64_t va)
{
	unsigned shift;

	return rig_walk(r, va, &shift);
}

static inline unsigned page_shift(struct os_rig *r, uint64_t va)
{
	unsigned shift = 0;

	rig_walk(r, va, &shift);
	return shift;
}

#endif
