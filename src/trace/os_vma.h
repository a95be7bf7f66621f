/*
 * The areas of a modelled address space (Linux's VMAs): disjoint ranges in ascending order, neighbours that are alike
 * made one.
 */
#ifndef GNOMON_TRACE_OS_VMA_H
#define GNOMON_TRACE_OS_VMA_H

#include "base/error.h"
#include "base/util.h"

#define OS_VMAS_MAX 65530u /* Linux's vm.max_map_count */

#define OS_VMA_INFERRED 0x80u /* nobody asked for it: accesses showed that it is there; beside TRACE_MAP_* */

struct os_vma {
	uint64_t start, end; /* linear, page aligned, end exclusive */
	uint32_t flags;      /* TRACE_MAP_WRITE, EXEC, STACK, FILE, HUGE, NOHUGE; OS_VMA_INFERRED */
};

struct os_vmas {
	struct os_vma *v;
	unsigned n, room;
};

void os_vmas_free(struct os_vmas *a);
/* Makes @to, which is empty, a copy. -ENOMEM */
int os_vmas_copy(struct os_vmas *to, const struct os_vmas *from);

/* Index of the first area that ends after @va: it holds @va, or lies behind it. a->n: there is none. */
unsigned os_vmas_find(const struct os_vmas *a, uint64_t va);
/* The area that holds @va; NULL. It stays where it is until areas change. */
struct os_vma *os_vmas_at(const struct os_vmas *a, uint64_t va);
/* Does one area hold all of the range? */
bool os_vmas_cover(const struct os_vmas *a, uint64_t start, uint64_t end);
/* Does an area hold any of it? */
bool os_vmas_touch(const struct os_vmas *a, uint64_t start, uint64_t end);

/* Adds an area where there is none. -ENOMEM, -E2BIG (OS_VMAS_MAX); nothing changed then. */
int os_vmas_add(struct os_vmas *a, struct os_vma v);
/* Takes a range out; areas are cut or split. Errors as above. */
int os_vmas_remove(struct os_vmas *a, uint64_t start, uint64_t end);
/* Changes flags of all there is in the range: sets @set, clears @clear. Errors as above: part may be done. */
int os_vmas_change(struct os_vmas *a, uint64_t start, uint64_t end, uint32_t set, uint32_t clear);
/* Area @i grows to [start, end), which reaches into no other area; it may touch its neighbours. */
void os_vmas_grow(struct os_vmas *a, unsigned i, uint64_t start, uint64_t end);

/* Ascending, disjoint, page aligned, not empty? -EINVAL: no. */
int os_vmas_audit(const struct os_vmas *a, struct error *err);

#endif
