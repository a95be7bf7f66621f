/*
 * The test device that processor test kernels expect: a port latch, device memory
 * that behaves as RAM, and ports that drive interrupt lines 0 to 23. Lines 0 to 15
 * are ISA interrupts and reach both controllers. The addresses are those of QEMU's
 * pc-testdev; of its page-map port only the address exists.
 */
#include "dev/testdev.h"

void testdev_init(struct testdev *t)
{
	memset(t, 0, sizeof(*t));
}

/* The bytes behind an address, and how many there are from it on; NULL for the other ports. */
static uint8_t *backing(struct testdev *t, uint64_t addr, uint64_t *bytes)
{
	if (addr >= TESTDEV_MEMORY && addr < TESTDEV_MEMORY + TESTDEV_MEMORY_SIZE) {
		*bytes = TESTDEV_MEMORY + TESTDEV_MEMORY_SIZE - addr;
		return &t->memory[addr - TESTDEV_MEMORY];
	}
	if (addr >= TESTDEV_LATCH_PORT && addr < TESTDEV_LATCH_PORT + sizeof(t->latch)) {
		*bytes = TESTDEV_LATCH_PORT + sizeof(t->latch) - addr;
		return &t->latch[addr - TESTDEV_LATCH_PORT];
	}
	return NULL;
}

static uint64_t testdev_read(void *state, uint64_t addr, unsigned bytes, uint64_t now)
{
	struct testdev *t = state;
	uint64_t v = 0, room;
	const uint8_t *p = backing(t, addr, &room);

	(void)now;
	if (p)
		memcpy(&v, p, min_u64(min_u64(bytes, room), sizeof(v)));
	return v;
}

static void testdev_write(void *state, uint64_t addr, unsigned bytes, uint64_t v, uint64_t now)
{
	struct testdev *t = state;
	uint64_t room;
	uint8_t *p = backing(t, addr, &room);

	(void)now;
	if (p)
		memcpy(p, &v, min_u64(min_u64(bytes, room), sizeof(v)));
	else if (addr >= TESTDEV_IRQ_PORT && addr < TESTDEV_IRQ_PORT + TESTDEV_IRQS)
		t->lines = (t->lines & ~(1u << (addr - TESTDEV_IRQ_PORT))) |
			   (uint32_t)((v & 0xff) != 0) << (addr - TESTDEV_IRQ_PORT);
}

static uint32_t testdev_irq(void *state, uint32_t *pulses)
{
	const struct testdev *t = state;

	*pulses = 0;
	return t->lines;
}

struct device testdev_device(struct testdev *t)
{
	static const struct device_range ranges[] = {
		{ true, TESTDEV_LATCH_PORT, 4 }, { true, TESTDEV_PAGE_PORT, 4 },
		{ true, TESTDEV_IRQ_PORT, TESTDEV_IRQS }, { false, TESTDEV_MEMORY, TESTDEV_MEMORY_SIZE },
		{ false, 0, 0 },
	};

	return (struct device){ .name = "test-device", .state = t, .ranges = ranges,
				.read = testdev_read, .write = testdev_write, .irq = testdev_irq };
}

/* ---- state ---- */

static void testdev_prepare(void *object)
{
	struct testdev *t = object;

	t->memory_saved = TESTDEV_MEMORY_SIZE;
	while (t->memory_saved && !t->memory[t->memory_saved - 1])
		t->memory_saved--;
}

static const struct state_field testdev_fields[] = {
	STATE_DATA(struct testdev, latch), STATE_U_MAX(struct testdev, lines, (1u << TESTDEV_IRQS) - 1),
	STATE_DATA_USED(struct testdev, memory, memory_saved),
};
const struct state_desc testdev_desc = STATE_DESC("test-device", 1, testdev_fields, .prepare = testdev_prepare);
