/* The MC146818 real-time clock and the CMOS memory of a PC. */
#ifndef GNOMON_DEV_RTC_H
#define GNOMON_DEV_RTC_H

#include "dev/device.h"

#define RTC_PORT          0x70
#define RTC_IRQ           8
#define RTC_CENTURY       0x32       /* CMOS address of the century, as the FADT says */
#define RTC_DEFAULT_EPOCH 1704067200 /* 2024-01-01 00:00:00 UTC: what a deterministic run starts at */

struct rtc {
	uint8_t index;
	bool nmi_masked;     /* bit 7 of port 0x70 */
	uint8_t cmos[128];   /* time registers here count only while the clock is stopped (SET) */
	int64_t epoch;       /* seconds since 1970 at virtual time 0 */
	uint64_t checked;    /* time up to which flags have been worked out, ns */
};

extern const struct state_desc rtc_desc;

/* @memory: RAM in bytes, for the memory-size bytes. @epoch: seconds since 1970 at time 0. */
void rtc_init(struct rtc *r, uint64_t memory, int64_t epoch);
struct device rtc_device(struct rtc *r);

#endif
