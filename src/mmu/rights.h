/* What the rights of a translation allow (guest paging; not EPT). SDM "Determination of Access Rights", "Protection Keys". */
#ifndef GNOMON_MMU_RIGHTS_H
#define GNOMON_MMU_RIGHTS_H

#include "arch/x86.h"
#include "mmu/mmu.h"

static inline bool mmu_is_long(const struct mmu *m) { return m->regs.efer >> 10 & 1; }

static inline bool pkey_permits(const struct mmu *m, uint16_t rights, uint8_t pkey, enum access_kind kind, bool user)
{
	uint32_t key = m->regs.pkru >> (pkey * 2);

	if (!(m->regs.cr4 & CR4_PKE) || !mmu_is_long(m) || !(rights & TLB_U))
		return true;
	if (key & 1)
		return false;
	return !(key & 2) || kind != ACCESS_WRITE || (!user && !(m->regs.cr0 & CR0_WP));
}

static inline bool fetch_permitted(const struct mmu *m, uint16_t rights, bool user)
{
	if (rights & TLB_NX)
		return false;
	if (user)
		return rights & TLB_U;
	return !((rights & TLB_U) && (m->regs.cr4 & CR4_SMEP));
}

/* User access, SMAP and CR0.WP; not protection keys. */
static inline bool data_permitted(const struct mmu *m, uint16_t rights, enum access_kind kind, enum access_mode mode)
{
	bool user = mode_is_user(mode);

	if (user && !(rights & TLB_U))
		return false;
	if (!user && (rights & TLB_U) && (m->regs.cr4 & CR4_SMAP) && mode != MODE_SUPER_AC)
		return false;
	return kind != ACCESS_WRITE || (rights & TLB_W) || (!user && !(m->regs.cr0 & CR0_WP));
}

/* Does a translation with these rights allow the access (guest paging only)? */
static inline bool rights_permit(const struct mmu *m, uint16_t rights, uint8_t pkey, enum access_kind kind, enum access_mode mode)
{
	bool user = mode_is_user(mode);

	if (!mmu_paging(m))
		return true;
	if (kind == ACCESS_FETCH)
		return fetch_permitted(m, rights, user);
	return data_permitted(m, rights, kind, mode) && pkey_permits(m, rights, pkey, kind, user);
}

#endif
