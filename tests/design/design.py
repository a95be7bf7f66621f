#!/usr/bin/env python3
"""
Follows the recipe "A translation design" of docs/HACKING.md to the letter: design.py SOURCE [GUEST]

Each patch in toy/ is one step of the recipe, by its number, and changes no file that the step does not name. They are applied to
a copy of the source tree, which is built; then GUEST runs, and a trace of it is replayed, under the design: the guest has to end in
the same state as under EPT, and its walks have to make fewer references. Without GUEST nothing is built: the patches have to apply.
"""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

source, guest = sys.argv[1], (sys.argv[2:] or [None])[0]
NAME = 'toy'
here = os.path.dirname(os.path.abspath(__file__))
patches = sorted(glob.glob(f'{here}/{NAME}/*.patch'))
tmp = tempfile.TemporaryDirectory(prefix='gnomon-design.')
tree, build = f'{tmp.name}/tree', f'{tmp.name}/build'
gnomon = f'{build}/src/cli/gnomon'


def run(command, want=0, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **more)
    if done.returncode != want:
        sys.exit(f'{" ".join(command)}: status {done.returncode}, expected {want}\n{done.stdout[-4000:]}')
    return done.stdout


def check(what, holds):
    if not holds:
        sys.exit(f'design.py: not so: {what}')
    print(f'ok: {what}')


def steps():
    """The text of each step, by its number."""
    with open(f'{source}/docs/HACKING.md') as f:
        found = re.search(r'^### A translation design\n(.*?)^### ', f.read(), re.M | re.S)
    check('the recipe is in HACKING.md', found)
    parts = re.split(r'^(\d+)\. ', found.group(1), flags=re.M)
    return dict(zip(map(int, parts[1::2]), parts[2::2]))


def files_of(patch):
    with open(patch) as f:
        return re.findall(r'^\+\+\+ b/(\S+)', f.read(), re.M)


def check_steps(text):
    check('steps are numbered from 1 on', list(text) == list(range(1, len(text) + 1)))
    for patch in patches:
        step = int(os.path.basename(patch).split('-')[0])
        changed = files_of(patch)
        check(f'{os.path.basename(patch)} changes files', changed)
        for name in changed:
            said = re.sub('^src/', '', name)
            check(f'step {step} names {said}', f'`{said}`' in text.get(step, '').replace('<x>', NAME))


def copy_and_patch():
    os.mkdir(tree)
    for name in ('src', 'tests', 'guest', 'scripts'):
        shutil.copytree(f'{source}/{name}', f'{tree}/{name}', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('meson.build', 'meson_options.txt'):
        shutil.copy(f'{source}/{name}', tree)
    for patch in patches:
        run(['patch', '-p1', '--no-backup-if-mismatch', '-i', patch], cwd=tree)
    check('the patches apply', True)


def build_copy():
    # Compiled in the quickest way: what it counts does not depend on that.
    run(['meson', 'setup', build, tree, '--optimization', '0', '-Ddebug=false', '-Dwerror=true', '-Dtests=enabled'])
    run(['ninja', '-C', build, 'src/cli/gnomon', f'tests/unit/mmu/test-mmu-{NAME}'])


def live(scheme):
    path = f'{tmp.name}/{scheme}.json'
    run([gnomon, 'run', '--mmu', scheme, '--hw', 'textbook', '--audit', '--audit-every', '50', '--memory', '64M', '--serial',
         'none', '--kernel', guest, '--report', path], want=1)
    with open(path) as f:
        return json.load(f)


def replay():
    trace = f'{tmp.name}/trace'
    run([gnomon, 'run', '--mmu', 'native', '--memory', '64M', '--serial', 'none', '--kernel', guest, '--trace', trace], want=1)
    command = [gnomon, 'replay', trace, '--designs', f'radix,{NAME}', '--setups', 'virt', '--hw', 'textbook', '--quiet']
    table = run(command)
    with open(f'{tmp.name}/replay.json', 'w') as f:
        subprocess.run(command + ['--json', '-'], stdout=f, check=True)
    with open(f'{tmp.name}/replay.json') as f:
        return table, {r['design']: r for r in json.load(f)['results']}


def references(of):
    return of['translation']['refs']


check_steps(steps())
copy_and_patch()
if not guest:
    sys.exit(0)
build_copy()
run([f'{build}/tests/unit/mmu/test-mmu-{NAME}'])
ept, toy = live('ept'), live(NAME)
check('the same state', ept['guest']['state_hash'] == toy['guest']['state_hash'])
check('as many instructions', ept['guest']['instructions'] == toy['guest']['instructions'])
check(f'live: {references(toy)} references, {references(ept)} with EPT', references(toy) < references(ept))
table, replayed = replay()
check('a row of the table', re.search(rf'^\s*{NAME}\s', table, re.M))
check('replayed: as many walks', replayed[NAME]['translation']['walks'] == replayed['radix']['translation']['walks'])
check(f'replayed: {references(replayed[NAME])} references, {references(replayed["radix"])} with EPT',
      references(replayed[NAME]) < references(replayed['radix']))
check('nothing unexpected', replayed[NAME]['faults_unexpected'] == 0 and not replayed[NAME]['error'])
