#!/usr/bin/env python3
"""
Speed and memory of gnomon replay, one design at a time, beside simulators that can be run: replay.py GNOMON KIT
[RUNS]

Million accesses a second of user CPU time, decoding included, one thread, with Skylake's TLBs, walk caches and memory
caches; the best of RUNS, since whatever disturbs only takes time. Rates below the goal of 25 are marked with '!'.
Three traces: two workloads of a Linux guest with the tables that it had, and accesses at random, imported from text,
with tables by the model of an operating system. Designs that a guest has to take part in get tables by the model
throughout. Then memory: the most that a replay of a trace took, and of one ten times as long, which must not be more
('!': by over a tenth).

The peers run the first workload as a program of the host: Valgrind's cachegrind, which models caches and no
translation, and its lackey, which only writes each access as a line of text, what a simulator behind a pipe would
begin with. They take every instruction's fetch for an access; a recorded guest's trace has those that look up a page.

Environment: WORKS="name:N:MiB name:N:MiB", TEXT: accesses of the imported trace, PEERS=no.
"""
import json
import os
import random
import re
import subprocess
import sys
import tempfile

GOAL = 25
MEMORY_GROWS = 1.1
DESIGNS = [('radix', 'native'), ('radix', 'virt'), ('shadow', 'virt'), ('agile', 'virt'), ('dmt', 'native'),
           ('dmt', 'virt'), ('pvdmt', 'virt'), ('hugegpt', 'virt'), ('radix', 'nested')]
if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
gnomon, kit = sys.argv[1:3]
runs = int(sys.argv[3] if len(sys.argv) > 3 else os.environ.get('RUNS', 3))
works = os.environ.get('WORKS', 'gups:6000000:64 btree:400000:64').split()
text_accesses = int(os.environ.get('TEXT', 4000000))
source = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
tmp = tempfile.TemporaryDirectory(dir='/var/tmp')


def use(command, out=subprocess.DEVNULL, err=None, feed=subprocess.DEVNULL):
    """Runs it; user seconds and the most memory (bytes) of it alone."""
    p = subprocess.Popen(command, stdin=feed, stdout=out, stderr=err)
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        sys.exit(f'bench: {" ".join(command)}: status {p.returncode}')
    return usage.ru_utime, usage.ru_maxrss << 10


def record(work, path):
    with open(f'{tmp.name}/console', 'w+') as console:
        use([gnomon, 'run', '--mmu', 'native', '--memory', '256M', '--kernel', f'{kit}/vmlinux-cloud', '--initrd',
             f'{kit}/initramfs.cpio', '--append', f'console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work={work}',
             '--trace', path, '--trace-from', 'GNOMON-READY', '--trace-until', 'GNOMON-WORK'],
            out=console, err=subprocess.DEVNULL)
        console.seek(0)
        if 'GNOMON-DONE ok' not in console.read():
            sys.exit(f'bench: {work}: the work was not done')
    return path


def write_text(path):
    """A loop of four instructions that read and write at random in 256 MiB, as lackey writes it."""
    r = random.Random(1)
    with open(path, 'w') as f:
        for n in range(text_accesses):
            f.write(f'I  {0x400000 + 4 * (n % 4):08x},4\n'
                    f' {"S" if n % 4 == 0 else "L"} {0x100000000 + (r.getrandbits(28) & ~7):x},8\n')
    return path


def import_text(text, times, path):
    command = [gnomon, 'trace', 'import', '--format', 'lackey', '-', path]
    cat = subprocess.Popen(['cat'] + [text] * times, stdout=subprocess.PIPE)
    use(command, feed=cat.stdout)
    cat.stdout.close()
    cat.wait()
    return path


def replay(trace, design, setup):
    """Accesses a second, and memory."""
    with open(f'{tmp.name}/json', 'w+') as f:
        seconds, memory = use([gnomon, 'replay', trace, '--designs', design, '--setups', setup, '--hw', 'skylake',
                               '--jobs', '1', '--quiet', '--json', '-'], out=f)
        f.seek(0)
        result, = json.load(f)['results']
    if result['error']:
        sys.exit(f'bench: {design}, {setup}: {result["error"]}')
    return result['accesses'] / max(seconds, 0.01), memory


def longer(work):
    name, n, rest = work.split(':', 2)
    return f'{name}:{10 * int(n)}:{rest}'


def said(what):
    print(what, file=sys.stderr, flush=True)


def speeds(traces):
    best = {}
    for n in range(runs):
        for cell in DESIGNS:
            for name, path in traces:
                rate, _ = replay(path, *cell)
                best[cell, name] = max(best.get((cell, name), 0), rate)
                said(f'run {n + 1}: {name}, {cell[0]} {cell[1]}: {rate / 1e6:.1f} M/s')
    names = [name for name, _ in traces]
    print(f'\nMillion accesses a second of user time, best of {runs}; "!": below {GOAL}')
    print(f'{"":16}' + ''.join(f'{n:>18}' for n in names))
    for cell in DESIGNS:
        rates = [best[cell, n] / 1e6 for n in names]
        print(f'{" ".join(cell):16}' + ''.join(f'{r:17.1f}{"!" if r < GOAL else " "}' for r in rates))
    return best[('radix', 'native'), names[0]], best[('radix', 'virt'), names[0]]


def memory(pairs):
    print('\nMost memory in MiB: of the trace, and of one ten times as long')
    print(f'{"":16}' + ''.join(f'{name:>20}' for name, _, _ in pairs))
    for cell in DESIGNS:
        row = ''
        for _, short, long in pairs:
            a, b = replay(short, *cell)[1], replay(long, *cell)[1]
            row += f'{a >> 20:10}{b >> 20:9}{"!" if b > MEMORY_GROWS * a else " "}'
        print(f'{" ".join(cell):16}{row}', flush=True)


def peers(ours):
    program = [f'{tmp.name}/work'] + works[0].split(':')
    use(['gcc', '-O2', '-D_GNU_SOURCE', '-static', '-o', program[0]] +
        [f'{source}/guest/{f}' for f in ('work.c', 'work_lookup.c', 'work_pointers.c')])
    best = [None] * 3
    for _ in range(runs):
        with open(f'{tmp.name}/cachegrind', 'w+') as f:
            seconds = [use(program)[0],
                       use(['valgrind', '--tool=cachegrind', '--cache-sim=yes', '--cachegrind-out-file=/dev/null'] +
                           program, err=f)[0],
                       use(['valgrind', '--tool=lackey', '--trace-mem=yes', '--log-file=/dev/null'] + program)[0]]
            f.seek(0)
            refs = [int(m.replace(',', '')) for m in re.findall(r'[ID]\s+refs:\s+([\d,]+)', f.read())]
        best = [s if b is None else min(b, s) for b, s in zip(best, seconds)]
        said(f'{works[0]}: alone {seconds[0]:.2f} s, cachegrind {seconds[1]:.2f} s, lackey {seconds[2]:.2f} s')
    accesses = sum(refs)
    print(f'\nPeers: {works[0]}, {accesses / 1e6:.0f} M accesses ({refs[1] / 1e6:.0f} M of data), '
          f'{best[0]:.2f} s by itself')
    for name, s in (('cachegrind', best[1]), ('lackey, text to nowhere', best[2])):
        rate = accesses / s
        print(f'{name:26}{rate / 1e6:8.1f} M/s; replay native {ours[0] / rate:6.1f} times, '
              f'virtualized {ours[1] / rate:6.1f} times')


text = write_text(f'{tmp.name}/text')
short = [(w.split(':')[0], record(w, f'{tmp.name}/{n}.trace')) for n, w in enumerate(works)]
short.append(('random, model', import_text(text, 1, f'{tmp.name}/text.trace')))
ours = speeds(short)
memory([(short[0][0], short[0][1], record(longer(works[0]), f'{tmp.name}/long.trace')),
        (short[-1][0], short[-1][1], import_text(text, 10, f'{tmp.name}/long-text.trace'))])
if os.environ.get('PEERS') != 'no':
    peers(ours)
