# Gnomon, from a fresh machine to a table: a thin layer over Meson (in build/).
#   make        build build/gnomon            make test   all tests
#   make run    boot Debian four times,       make bench  speed beside QEMU
#               print the comparison          make debian a Debian to log in to
#                                             make help   the rest

BUILD := build
ASAN  := build-asan
GUEST := $(BUILD)/guest

# What `make run` runs; each can be given on the command line. One row of runs for
# each workload; "none" is the boot alone.
MMU    ?= native,brute,shadow,ept
# The boot of WORK is part of what is compared; the runs of BRANCHED begin where one boot of each has come to.
BRANCHED ?= $(if $(filter command line environment,$(origin WORK)),,forkwait:1000,gups:1000000)
WORK     ?= none
MEMORY ?= 256M
APPEND ?= console=ttyS0 panic=-1 cryptomgr.notests
ARGS   ?=

# Meson's own output goes to a file, and is shown if it fails.
comma := ,
configure = echo "  SETUP   $(1)" && mkdir -p $(1) && \
	{ meson setup $(1) $(2) >$(1)/setup.log 2>&1 || { cat $(1)/setup.log >&2; exit 1; }; }
# A line for each file only where it takes the place of the one before.
NINJA = ninja $$([ -t 1 ] || echo --quiet)

.PHONY: all run lab shell debian test bench bench-moving bench-replay bench-kvm guest guest-generic guest-kvm guest-xen guest-kernel rootfs sanitize debug clean distclean help FORCE
.DELETE_ON_ERROR:

all: $(BUILD)/build.ninja
	@$(NINJA) -C $(BUILD) src/cli/gnomon
	@ln -sfn src/cli/gnomon $(BUILD)/gnomon

$(BUILD)/build.ninja:
	@scripts/setup.sh --check build
	@$(call configure,$(BUILD),)

# ASan and UBSan, with the backends' audits compiled for debugging.
$(ASAN)/build.ninja:
	@scripts/setup.sh --check build test
	@$(call configure,$(ASAN),--buildtype=debugoptimized -Db_sanitize=address$(comma)undefined -Db_lundef=false -Dtests=enabled)

sanitize debug: $(ASAN)/build.ninja
	@ninja -C $(ASAN)

guest:
	@scripts/setup.sh --check guest
	@scripts/fetch-kernel.sh cloud $(GUEST)
	@scripts/make-initramfs.sh $(GUEST)

guest-generic: guest
	@scripts/fetch-kernel.sh generic $(GUEST)

# A guest that is a hypervisor: Debian's KVM, and a guest for it (docs/kvm.md).
guest-kvm: guest $(BUILD)/build.ninja
	@$(NINJA) -C $(BUILD) guest/kvm/gnomon-kvm
	@scripts/make-initramfs.sh $(GUEST) $(BUILD)/guest/kvm/gnomon-kvm

# Debian's Xen, the same with shadow paging (built from source: minutes, once), and a domain 0 (docs/xen.md).
guest-xen: guest-generic
	@scripts/setup.sh xen
	@scripts/fetch-xen.sh $(GUEST)
	@scripts/make-xen.sh $(GUEST)

# Debian's kernel with page tables for HugeGPT and DMT, from source (docs/guest-kernel.md): minutes, once.
guest-kernel:
	@scripts/setup.sh kernel
	@scripts/make-guest-kernel.sh $(GUEST)

# A small Debian root file system, for "make debian" and a test.
rootfs:
	@scripts/setup.sh --check guest rootfs
	@scripts/make-rootfs.sh $(GUEST)

run:
	@scripts/setup.sh build guest
	@$(MAKE) --no-print-directory all guest
	@$(BUILD)/gnomon compare --mmu $(MMU) --kernel $(GUEST)/vmlinux-cloud --initrd $(GUEST)/initramfs.cpio \
		--memory $(MEMORY) --append "$(APPEND)" --work "$(WORK)" $(ARGS)
	@[ -z "$(BRANCHED)" ] || $(BUILD)/gnomon compare --mmu $(MMU) --kernel $(GUEST)/vmlinux-cloud --initrd $(GUEST)/initramfs.cpio \
		--memory $(MEMORY) --append "$(APPEND)" --from GNOMON-INIT --work "$(BRANCHED)" $(ARGS)

# A lab with the guests that it wants: make lab LAB=xen-migration ARGS=--explain
LAB ?= list
LAB_GUEST_kvm           := guest-kvm
LAB_GUEST_nested        := guest-kvm
LAB_GUEST_xen-migration := guest-xen
LAB_GUEST_dmt           := guest-kernel
LAB_GUEST_hugegpt       := guest-kernel
LAB_GUEST_agile         := guest-kernel
lab:
	@scripts/setup.sh build guest
	@$(MAKE) --no-print-directory all guest $(LAB_GUEST_$(LAB))
	@$(BUILD)/gnomon lab $(LAB) $(if $(filter list,$(LAB)),,--kit $(GUEST)) $(ARGS)

# One guest with a shell on this terminal: make shell MMU=shadow
shell: MMU := $(if $(filter command line environment,$(origin MMU)),$(MMU),ept)
shell:
	@scripts/setup.sh build guest
	@$(MAKE) --no-print-directory all guest
	@$(BUILD)/gnomon run --mmu $(MMU) --kernel $(GUEST)/vmlinux-cloud --initrd $(GUEST)/initramfs.cpio \
		--memory $(MEMORY) --append "$(APPEND) quiet" $(ARGS)

# Debian with a login shell on this terminal. What is changed there is in a branch of the image and stays for the next
# time; without the file debian.qcow2 it begins anew.
debian: MMU := $(if $(filter command line environment,$(origin MMU)),$(MMU),ept)
debian:
	@scripts/setup.sh build guest rootfs
	@$(MAKE) --no-print-directory all guest rootfs
	@[ -e $(GUEST)/debian.qcow2 ] || \
		$(BUILD)/gnomon disk branch $(GUEST)/$$(readlink $(GUEST)/debian.img) $(GUEST)/debian.qcow2
	@$(BUILD)/gnomon run --mmu $(MMU) --kernel $(GUEST)/vmlinux-cloud --initrd $(GUEST)/initramfs-dev.cpio \
		--memory $(MEMORY) --append "$(APPEND) quiet gnomon.root=/dev/vda" --disk $(GUEST)/debian.qcow2 --rng $(ARGS)

# Without the Debian image its test is skipped.
test:
	@scripts/setup.sh build guest rootfs test
	@$(MAKE) --no-print-directory all guest-generic guest-kvm $(ASAN)/build.ninja
	@scripts/make-rootfs.sh $(GUEST) || echo "make test: going on without the Debian image" >&2
	@scripts/run-tests.sh $(BUILD) $(ASAN)

bench:
	@scripts/setup.sh build guest bench
	@$(MAKE) --no-print-directory all guest
	@bench/work.sh $(BUILD)/gnomon $(GUEST)
	@bench/boot.sh $(BUILD)/gnomon $(GUEST)
	@bench/counting.sh $(BUILD)/gnomon $(GUEST)
	@bench/disk.sh $(BUILD)/gnomon

# A guest under KVM on the machine beside the same guest directly: a minute or two.
bench-kvm:
	@scripts/setup.sh build guest
	@$(MAKE) --no-print-directory all guest-kvm
	@python3 bench/kvm.py $(BUILD)/gnomon $(GUEST)

# Trackers, saving and resuming 4 GiB, migration by itself and beside QEMU's: a while, and 12 GiB of room in /var/tmp.
bench-moving:
	@scripts/setup.sh build guest bench
	@$(MAKE) --no-print-directory all guest
	@bench/tracking.sh $(BUILD)/gnomon $(GUEST)
	@bench/saved.sh $(BUILD)/gnomon $(GUEST)
	@python3 bench/migrate.py $(BUILD)/gnomon $(GUEST)
	@python3 bench/migrate_peer.py $(BUILD)/gnomon $(GUEST)

# Accesses a second of gnomon replay under each design, its memory, simulators that can be run: some minutes.
bench-replay:
	@scripts/setup.sh build guest bench
	@$(MAKE) --no-print-directory all guest
	@python3 bench/replay.py $(BUILD)/gnomon $(GUEST)

# Keeps the downloaded kernels and configured build directories; distclean does not.
clean:
	@for d in $(BUILD) $(ASAN); do [ ! -e $$d/build.ninja ] || ninja -C $$d -t clean; done

distclean:
	rm -rf $(BUILD) $(ASAN)

help:
	@echo "make            build build/gnomon"
	@echo "make run        boot the same Debian kernel under each scheme and print the comparison"
	@echo "                WORK=$(WORK)  BRANCHED=$(BRANCHED)  MMU=$(MMU)"
	@echo "                MEMORY=$(MEMORY)  APPEND='$(APPEND)'  ARGS='--json ...'"
	@echo "make lab        repeat an experiment, with the guests that it wants: LAB=xen-migration, kvm, dmt ... (LAB=list)"
	@echo "make shell      boot one guest to a shell on this terminal (MMU=ept)"
	@echo "make debian     log in to a small Debian on a disk, with redis and sqlite3 (MMU=ept)"
	@echo "make test       all tests"
	@echo "make bench      CPU time of workloads and a boot, beside QEMU's translator by hardware model; disk images"
	@echo "make bench-moving   trackers, saving and resuming a large VM, migration beside a plain copy and QEMU"
	@echo "make bench-replay   speed and memory of replaying traces, beside simulators under Valgrind"
	@echo "make bench-kvm      a guest under Debian's KVM on the machine beside the same guest directly"
	@echo "make guest      fetch the kernel and build the initramfs in build/guest"
	@echo "make guest-kvm  ... and a guest that runs guests of its own under Debian's KVM"
	@echo "make guest-xen  fetch Debian's Xen and make its domain 0"
	@echo "make guest-kernel   build the kernel that takes part in HugeGPT and DMT (minutes, once)"
	@echo "make rootfs     make that Debian's disk image in build/guest"
	@echo "make sanitize   build build-asan with AddressSanitizer and UBSan (also: make debug)"
	@echo "make clean      remove what was built; distclean: and what was downloaded"
	@echo "As root on Debian 12, run, lab, guest-kernel, debian, test and bench install the packages they need."
