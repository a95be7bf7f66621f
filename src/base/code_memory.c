#include "base/code_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* The file from its beginning on, on a border between huge pages. MAP_FAILED: errno says why. */
static void *map_view(int fd, size_t bytes, int protection)
{
	uint8_t *room = mmap(NULL, bytes + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;
	void *view;

	if (room == MAP_FAILED)
		return MAP_FAILED;
	before = -(uintptr_t)room & (HUGE_PAGE - 1);
	view = mmap(room + before, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
	if (view == MAP_FAILED) {
		int why = errno;

		munmap(room, bytes + HUGE_PAGE);
		errno = why;
		return MAP_FAILED;
	}
	if (before)
		munmap(room, before);
	if (before != HUGE_PAGE)
		munmap(room + before + bytes, HUGE_PAGE - before);
	return view;
}

/*
 * Asked for by themselves, since hosts seldom give huge pages to memory of files by themselves. The host wants a page that
 * is there already. If it has none, or cannot, code stands in small pages as well, and is slower.
 */
void code_memory_take_huge_page(struct code_memory *m)
{
	uint8_t *rw = m->rw + m->reached;
	void *rx = (void *)(uintptr_t)(m->rx + m->reached);

	if (m->bytes - m->reached < HUGE_PAGE) {
		m->reached = m->bytes;
		return;
	}
	*(volatile uint8_t *)rw = *rw;
	if (madvise(rw, HUGE_PAGE, MADV_COLLAPSE) || madvise(rx, HUGE_PAGE, MADV_COLLAPSE))
		m->reached = m->bytes; /* nor will it the next time */
	else
		m->reached += HUGE_PAGE;
}

int code_memory_map(struct code_memory *m, size_t bytes, const char *who, struct error *err)
{
	int fd = memfd_create("gnomon-code", MFD_CLOEXEC), rc = 0;
	void *rw = MAP_FAILED, *rx = MAP_FAILED;

	*m = (struct code_memory){.bytes = bytes};
	if (fd < 0)
		return error_set(err, -errno, "%s: memfd_create: %s", who, strerror(errno));
	if (ftruncate(fd, (off_t)bytes) == 0 &&
	    (rw = map_view(fd, bytes, PROT_READ | PROT_WRITE)) != MAP_FAILED)
		rx = map_view(fd, bytes, PROT_READ | PROT_EXEC);
	if (rx == MAP_FAILED)
		rc = error_set(err, -errno, "%s: no memory for code: %s", who, strerror(errno));
	close(fd);
	if (rc && rw != MAP_FAILED)
		munmap(rw, bytes);
	if (!rc)
		*m = (struct code_memory){.rw = rw, .rx = rx, .bytes = bytes};
	return rc;
}

void code_memory_unmap(struct code_memory *m)
{
	if (m->rw) {
		munmap(m->rw, m->bytes);
		munmap((void *)(uintptr_t)m->rx, m->bytes);
	}
	*m = (struct code_memory){0};
}
