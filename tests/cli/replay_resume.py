#!/usr/bin/env python3
"""A replay that is interrupted and goes on later: replay_resume.py GNOMON. However often it is killed, the results are
those of one pass; a file that is damaged, or of another replay, is refused."""
import json
import os
import shutil
import random
import signal
import subprocess
import sys
import tempfile
import time

gnomon = os.path.realpath(sys.argv[1])
failures = []
ALL = ['--designs', 'radix,shadow,hugegpt,dmt,pvdmt,agile', '--setups', 'native,virt,nested', '--pages', '4k,thp',
       '--memory', '256M']
RESUME = ['--resume', 'keep', '--jobs', '1']


def check(ok, what):
    if not ok:
        failures.append(what)


def command(*args):
    return [gnomon, 'replay', 't.trace', *ALL, *args]


def replay(*args):
    return subprocess.run(command(*args), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)


def ends(status, says, *args):
    p = replay(*args)
    check(p.returncode == status and says in p.stderr and len(p.stderr.splitlines()) <= 1,
          '%s: status %d, says %r' % (' '.join(args), p.returncode, p.stderr))


def load(path):
    with open(path, encoding='utf-8') as f:
        return json.load(f)


def results(path):
    o = load(path)
    del o['host_seconds']
    return o


def kept():
    """How many results the file has; it is whole whenever one looks."""
    return len(load('keep')['results']) if os.path.exists('keep') else 0


def interrupt(number):
    """Begins, and sends the signal when the file has got more results than it had, in the middle of another group."""
    before = kept()
    p = subprocess.Popen(command(*RESUME, '--json', 'part.json'), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    while kept() <= before and p.poll() is None:
        time.sleep(0.002)
    p.send_signal(number)
    says = p.communicate(timeout=100)[1]
    return p.returncode, says, kept()


def make_trace():
    rng = random.Random(7)
    with open('log', 'w', encoding='utf-8') as f:
        f.write('==7== Lackey\n')
        for _ in range(150000):
            f.write('I  %x,4\n %s %x,8\n' % (0x401000 + 4 * rng.randrange(4000), rng.choice('LSM'),
                                             0x10000000 + 8 * rng.randrange(4 << 20)))
    subprocess.run([gnomon, 'trace', 'import', 'log', 't.trace'], check=True)


def interruptions():
    p = replay('--json', 'whole.json')
    check(p.returncode == 0, 'one pass: %s' % p.stderr)
    cells = len(load('whole.json')['results'])
    status, _, first = interrupt(signal.SIGKILL)
    check(status == -signal.SIGKILL and 0 < first < cells, 'killed: status %d, %d results' % (status, first))
    status, says, second = interrupt(signal.SIGINT)
    check(status == 130 and first < second < cells, 'interrupted: status %d, %d results' % (status, second))
    check('%d of %d results are finished' % (second, cells) in says, 'interrupted: says %r' % says)
    part = load('part.json')
    check(part['partial'] and len(part['results']) == second, 'interrupted: not what is finished')
    p = replay(*RESUME, '--json', 'resumed.json')
    check(p.returncode == 0 and kept() == cells, 'resumed: %s' % p.stderr)
    check(results('resumed.json') == results('whole.json'), 'a resumed replay has other results')
    with open('resumed.json', encoding='utf-8') as a, open('whole.json', encoding='utf-8') as b:
        check([s for s in a if 'host_seconds' not in s] == [s for s in b if 'host_seconds' not in s], 'other text')
    # Nothing is left to do; fewer cells are some of them.
    ends(0, '', *RESUME, '--json', 'again.json')
    check(results('again.json') == results('whole.json'), 'a finished replay has other results')
    ends(0, '', *RESUME, '--designs', 'agile,dmt', '--json', 'some.json')
    replay('--designs', 'agile,dmt', '--json', 'some_whole.json')
    check(results('some.json') == results('some_whole.json'), 'fewer designs have other results')


def refusals():
    for option in ('--seed 1', '--fragmentation 10', '--memory 512M', '--hw zen', '--populate', '--no-vpid',
                   '--data-cache', '--limit-events 1000', '--tables model', '--tea-threshold 64K',
                   '--cpu-features -pcid'):
        ends(2, 'depend on something else', *RESUME, *option.split())
    # Another build, though of the same version, may count differently.
    shutil.copy(gnomon, 'other')
    with open('other', 'ab') as f:
        f.write(b'x')
    p = subprocess.run(['./other', *command(*RESUME)[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
    check(p.returncode == 2 and 'build of gnomon' in p.stderr, 'another build: %d %s' % (p.returncode, p.stderr))
    os.unlink('other')
    ends(2, '--sim-log', *RESUME, '--sim-log', 'log.sim')
    p = subprocess.run([gnomon, 'replay', '-', *RESUME], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=100)
    check(p.returncode == 2 and 'cannot be read twice' in p.stderr, 'a pipe: %d %s' % (p.returncode, p.stderr))
    with open('t.trace', 'r+b') as f:
        f.seek(-40, os.SEEK_END)
        byte = f.read(1)
        f.seek(-40, os.SEEK_END)
        f.write(bytes([byte[0] ^ 1]))
    check(replay(*RESUME).returncode in (2, 16), 'another trace is taken')
    with open('t.trace', 'r+b') as f:
        f.seek(-40, os.SEEK_END)
        f.write(byte)


def damage():
    with open('keep', 'rb') as f:
        good = f.read()
    rng = random.Random(1)
    bad = [b'', b'{', b'[]', b'null', b'{}', b'\0' * 100, b'[' * 100000, good[:-2], good[:len(good) // 2],
           good.replace(b'"results"', b'"other"'), b'{"schema": "gnomon-replay-resume/1"}']
    for _ in range(10):
        at = rng.randrange(len(good))
        bad.append(good[:at] + bytes([good[at] ^ 1 << rng.randrange(7)]) + good[at + 1:])
    for data in bad:
        with open('keep', 'wb') as f:
            f.write(data)
        p = replay(*RESUME, '--designs', 'radix')
        # What JSON does not care for (the case of a hexadecimal escape, a blank) may have changed nothing.
        same = p.returncode == 0 and json.loads(data) == json.loads(good)
        check(same or p.returncode == 16 and len(p.stderr.splitlines()) == 1 and 'keep' in p.stderr,
              'damaged %r: status %d, says %r' % (data[:40], p.returncode, p.stderr))
    os.unlink('keep')
    os.mkdir('keep')
    ends(2, 'not a regular file', *RESUME)
    ends(2, 'no/such', '--resume', 'no/such/file')
    # A machine that gives up, and a trace that is cut off, are not kept as finished; what there is, is shown.
    with open('t.trace', 'rb') as f:
        whole = f.read()
    with open('t.trace', 'wb') as f:
        f.write(whole[:len(whole) * 2 // 3])
    ends(16, 't.trace', '--resume', 'cut', '--jobs', '2', '--json', 'cut.json')
    ends(16, 't.trace', '--json', 'cut_whole.json')
    check(results('cut.json') == results('cut_whole.json'), 'a trace that is cut off: other results')
    check(load('cut')['results'] == [], 'a trace that is cut off: results are kept')


with tempfile.TemporaryDirectory() as where:
    os.chdir(where)
    make_trace()
    for step in (interruptions, refusals, damage):
        step()
    os.chdir('/')
for line in failures:
    print('replay_resume.py:', line, file=sys.stderr)
sys.exit(bool(failures))
