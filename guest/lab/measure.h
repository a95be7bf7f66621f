/* How a lab guest is measured: the host looks at its counters where the console says LAB-0, LAB-1 and LAB-2. */
#ifndef GNOMON_LAB_MEASURE_H
#define GNOMON_LAB_MEASURE_H

#include "guest.h"

/* @op once to warm up, then @n and twice @n times: the difference is without what the marks cost. */
static void measure(void (*op)(u64 n), u64 n)
{
	op(n);
	print("LAB-0\n");
	op(n);
	print("LAB-1\n");
	op(2 * n);
	print("LAB-2\n");
	exit_machine(0);
}

#endif
