/* See virtio.h. */
#include "dev/virtio.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define RING_FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

static void reset(struct virtio *v)
{
	v->status = 0;
	v->accepted = 0;
	v->queue_interrupts = 0;
	v->config_interrupt = false;
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		virtq_reset(&v->queue[i], i < v->ops->queues ? VIRTQ_SIZE_MAX : 0);
		v->doorbell[i] = UINT64_MAX;
	}
}

void virtio_init(struct virtio *v, const struct virtio_ops *ops, const struct dma *dma, uint64_t features,
		 const char *label)
{
	assert(ops->queues <= VIRTIO_QUEUES_MAX && ops->config_bytes <= VIRTIO_CONFIG_MAX);
	memset(v, 0, sizeof(*v));
	v->ops = ops;
	v->dma = dma;
	v->label = label;
	v->offered = features | RING_FEATURES;
	reset(v);
}

/* ---- what the driver does ---- */

void virtio_accept(struct virtio *v, uint64_t features)
{
	if (!(v->status & VIRTIO_FEATURES_OK))
		v->accepted = features;
}

void virtio_set_status(struct virtio *v, uint8_t status)
{
	if (!status) {
		if (v->ops->reset)
			v->ops->reset(v);
		reset(v);
		return;
	}
	/* A set of features that we cannot work with shows by the bit staying clear. */
	if (status & ~v->status & VIRTIO_FEATURES_OK &&
	    (v->accepted & ~v->offered || !virtio_has(v, VIRTIO_F_VERSION_1)))
		status &= (uint8_t)~VIRTIO_FEATURES_OK;
	if (status & VIRTIO_DRIVER_OK && !(status & VIRTIO_FEATURES_OK))
		status &= (uint8_t)~VIRTIO_DRIVER_OK;
	v->status = status | (v->status & VIRTIO_NEEDS_RESET);
}

void virtio_enable_queue(struct virtio *v, unsigned queue)
{
	struct virtq *q = &v->queue[queue];

	q->packed = virtio_has(v, VIRTIO_F_RING_PACKED);
	if (!virtq_aligned(q))
		return;
	q->enabled = true;
	q->event_idx = virtio_has(v, VIRTIO_F_EVENT_IDX);
	q->indirect = virtio_has(v, VIRTIO_F_INDIRECT_DESC);
}

static bool runs(const struct virtio *v)
{
	return (v->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET)) == VIRTIO_DRIVER_OK;
}

void virtio_ring(struct virtio *v, unsigned queue, uint64_t now)
{
	if (queue < v->ops->queues && v->queue[queue].enabled && runs(v))
		v->doorbell[queue] = min_u64(v->doorbell[queue], now + VIRTIO_DOORBELL_NS);
}

/* ---- what the device does ---- */

static uint64_t next_doorbell(const struct virtio *v)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < v->ops->queues; i++)
		next = min_u64(next, v->doorbell[i]);
	return next;
}

uint64_t virtio_advance(struct virtio *v, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < v->ops->queues && runs(v); i++) {
		if (v->doorbell[i] > now)
			continue;
		v->doorbell[i] = UINT64_MAX;
		v->ops->process(v, i, now);
	}
	if (runs(v) && v->ops->advance)
		next = v->ops->advance(v, now);
	return runs(v) ? min_u64(next, next_doorbell(v)) : UINT64_MAX;
}

void virtio_say(struct virtio *v, const char *fmt, ...)
{
	int n;
	va_list ap;

	if (*v->message || v->messages == VIRTIO_MESSAGES)
		return;
	v->messages++;
	n = snprintf(v->message, sizeof(v->message), "virtio-%s%s%s%s: ", v->ops->name, *v->label ? " " : "", v->label,
		     v->messages == VIRTIO_MESSAGES ? " (the last line about it)" : "");
	va_start(ap, fmt);
	if (n > 0 && (size_t)n < sizeof(v->message))
		vsnprintf(v->message + n, sizeof(v->message) - (size_t)n, fmt, ap);
	va_end(ap);
}

void virtio_stop(struct virtio *v, const char *why)
{
	if (v->status & VIRTIO_NEEDS_RESET)
		return;
	v->status |= VIRTIO_NEEDS_RESET;
	v->config_interrupt = true;
	virtio_say(v, "%s; the device stands still until the guest resets it", why);
}

void virtio_config_changed(struct virtio *v)
{
	v->generation++;
	v->config_interrupt = true;
}

bool virtio_pop(struct virtio *v, unsigned queue, struct virtq_chain *chain)
{
	int ret = virtq_pop(&v->queue[queue], v->dma, chain);

	if (ret < 0)
		virtio_stop(v, v->queue[queue].broken);
	return ret > 0;
}

void virtio_push(struct virtio *v, unsigned queue, uint16_t head, uint32_t written)
{
	v->chains++;
	if (virtq_push(&v->queue[queue], v->dma, head, written) < 0)
		virtio_stop(v, v->queue[queue].broken);
}

void virtio_interrupt(struct virtio *v, unsigned queue)
{
	if (virtq_wants_interrupt(&v->queue[queue], v->dma))
		v->queue_interrupts |= 1u << queue;
}

/* ---- state ---- */

static bool queues_possible(const struct virtio *v)
{
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		const struct virtq *q = &v->queue[i];

		if (i >= v->ops->queues && (q->enabled || q->size || v->doorbell[i] != UINT64_MAX))
			return false;
	}
	return true;
}

static int virtio_check(void *object, struct error *err)
{
	const struct virtio *v = object;
	bool agreed = !(v->accepted & ~v->offered) && virtio_has(v, VIRTIO_F_VERSION_1);

	if ((v->status & VIRTIO_FEATURES_OK && !agreed) ||
	    (v->status & VIRTIO_DRIVER_OK && !(v->status & VIRTIO_FEATURES_OK)))
		return error_set(err, -EINVAL, "state of virtio-%s: status %#x with features %#llx", v->ops->name, v->status,
				 (unsigned long long)v->accepted);
	return queues_possible(v) ? 0 : error_set(err, -EINVAL, "state of virtio-%s: queues that it cannot have",
						  v->ops->name);
}

static const struct state_field virtio_fields[] = {
	STATE_U(struct virtio, accepted), STATE_U(struct virtio, status), STATE_U(struct virtio, generation),
	STATE_DATA(struct virtio, config), STATE_SV(struct virtio, queue, &virtq_desc), STATE_UV(struct virtio, doorbell),
	STATE_U_MAX(struct virtio, queue_interrupts, (1u << VIRTIO_QUEUES_MAX) - 1), STATE_B(struct virtio, config_interrupt),
};
const struct state_desc virtio_desc = STATE_DESC("virtio", 1, virtio_fields, .check = virtio_check);
