#include "vm/migrate_throttle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define PERIOD_US 50000u

struct migrate_throttle {
	struct control *control;
	pthread_t thread;
	bool running;
	unsigned percent; /* atomic */
};

static unsigned percent_of(const struct migrate_throttle *t) { return __atomic_load_n(&t->percent, __ATOMIC_RELAXED); }

static int hold(void *ctx)
{
	usleep(PERIOD_US * percent_of(ctx) / 100);
	return 0;
}

static void *work(void *ctx)
{
	struct migrate_throttle *t = ctx;

	for (unsigned percent; (percent = percent_of(t)) > 0;) {
		if (control_run_on_vm(t->control, hold, t))
			break;
		usleep(PERIOD_US * (100 - percent) / 100);
	}
	return NULL;
}

int migrate_throttle_create(struct migrate_throttle **out, struct control *c, struct error *err)
{
	struct migrate_throttle *t = calloc(1, sizeof(*t));

	if (!t)
		return error_set(err, -ENOMEM, "out of memory");
	t->control = c;
	*out = t;
	return 0;
}

void migrate_throttle_set(struct migrate_throttle *t, unsigned percent)
{
	__atomic_store_n(&t->percent, percent, __ATOMIC_RELAXED);
	if (percent && !t->running)
		t->running = pthread_create(&t->thread, NULL, work, t) == 0; /* without it, it is not held back */
	if (!percent && t->running) {
		pthread_join(t->thread, NULL);
		t->running = false;
	}
}

void migrate_throttle_free(struct migrate_throttle *t)
{
	if (!t)
		return;
	migrate_throttle_set(t, 0);
	free(t);
}
