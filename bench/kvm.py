#!/usr/bin/env python3
"""Speed of a guest under Debian's KVM on the machine, beside the same guest directly on the machine: kvm.py GNOMON KIT

Host CPU time in user mode of a number of turns of each workload, as the difference of a long and a short run, so that
neither boots nor shutdowns are in it. Runs alternate; the median of the rounds counts. --rounds N, --schemes native,ept:
what the outer guest runs on; under a hypervisor KVM's guest is beside its guest.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

WORKS = {  # name: turns, and what stands behind them
    'gups': (12000000, ':16'),
    'syscall': (6000000, ''),
    'forkwait': (2000, ''),
}
APPEND = 'console=ttyS0 panic=-1 quiet cryptomgr.notests'
INNER_MEMORY = '96'


def user_seconds(gnomon, options, append):
    with tempfile.TemporaryDirectory() as folder:
        report, log = os.path.join(folder, 'report'), os.path.join(folder, 'log')
        subprocess.run([gnomon, 'run', '--report', report, '--serial', log, '--append', append] + options, check=True,
                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(log, errors='replace') as f:
            if 'GNOMON-DONE ok' not in f.read():
                sys.exit('kvm.py: the guest did not do its work: ' + append)
        with open(report) as f:
            return json.load(f)['host']['user_seconds']


def direct(a, scheme, work):
    return user_seconds(a.gnomon, ['--mmu', scheme, '--memory', INNER_MEMORY + 'M', '--kernel', a.kit + '/vmlinux-cloud',
                                   '--initrd', a.kit + '/initramfs.cpio'], APPEND + ' gnomon.work=' + work)


def under_kvm(a, scheme, digits, work):
    return user_seconds(a.gnomon, ['--mmu', scheme, '--cpu-features', '+vmx,+vme', '--memory', '512M', '--kernel',
                                   a.kit + '/vmlinux-cloud', '--initrd', a.kit + '/initramfs-kvm.cpio'],
                        '%s gnomon.work=kvm:%s:linux:%s kvm_append="%s gnomon.work=%s" kvm_options=--no-hash'
                        % (APPEND, digits, INNER_MEMORY, APPEND, work))


def main():
    p = argparse.ArgumentParser()
    p.add_argument('gnomon')
    p.add_argument('kit')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--schemes', default='native')
    p.add_argument('--works', default=','.join(WORKS))
    a = p.parse_args()
    if not os.path.exists(a.kit + '/initramfs-kvm.cpio'):
        print("kvm.py: no guest with KVM; run 'make guest-kvm'", file=sys.stderr)
        return 77
    for scheme in a.schemes.split(','):
        ways = {'direct': lambda w, s=scheme: direct(a, s, w)}
        for name, digits in (('KVM, ept', '111'), ('KVM, no ept', '011')):
            ways[name] = lambda w, s=scheme, d=digits: under_kvm(a, s, d, w)
        print('User CPU seconds on the host, --mmu %s: the same turns of a workload; speed against direct' % scheme)
        for work in a.works.split(','):
            turns, rest = WORKS[work]
            times = {way: [] for way in ways}
            for _ in range(a.rounds):
                for way, run in ways.items():
                    # The short one has what is only at the beginning: pages touched first, code translated.
                    short, long = (run('%s:%d%s' % (work, n, rest)) for n in (turns // 10, turns + turns // 10))
                    times[way].append(long - short)
            median = {way: statistics.median(t) for way, t in times.items()}
            print('  %-9s' % work, '  '.join('%s %.2f s (%.2f)' % (way, t, median['direct'] / t) if way != 'direct' else
                                             'direct %.2f s' % t for way, t in median.items()), flush=True)
    return 0


sys.exit(main())
