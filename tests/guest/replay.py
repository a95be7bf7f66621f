#!/usr/bin/env python3
"""
Live run and replay of its own trace agree to the unit: replay.py [options] GNOMON [-- OPTIONS OF GNOMON RUN]

Records a guest on the bare machine, runs it live under each scheme with the same interval counted for itself, replays
the trace under the same schemes, and compares. The recorded run has to end as one that nobody records.
"""
import argparse
import json
import subprocess
import sys
import tempfile

COUNTS = ['walks', 'refs', 'refs_max', 'guest_refs', 'host_refs', 'by_refs', 'walk_caches', 'nested_tlb', 'repeated',
          'splintered', 'l1d_misses', 'l1i_misses', 'l2d_hits', 'l2d_misses', 'l2i_hits', 'l2i_misses']
EXITS = ['EPT violation', 'Exception or NMI', 'INVLPG', 'INVPCID', 'WRMSR']
FAULTS = ['true', 'hidden', 'traced_writes', 'ept_violations']
SHADOW = ['fills', 'prefetched', 'zapped', 'recycled', 'unsynced', 'resynced', 'flooded', 'cr3_hits', 'cr3_misses']
DMT = ['lookups', 'guest_hits', 'host_hits', 'second_host_hits', 'misses', 'translations', 'fallbacks', 'reloads',
       'reload_refs', 'refused']
DESIGN = {'native': 'radix', 'ept': 'radix', 'shadow': 'shadow', 'brute': 'brute', 'hugegpt': 'hugegpt', 'agile': 'agile',
          'nested': 'radix', 'native-dmt': 'dmt', 'dmt': 'dmt', 'pvdmt': 'pvdmt', 'nested-pvdmt': 'pvdmt'}

parser = argparse.ArgumentParser()
parser.add_argument('--from', dest='begin')
parser.add_argument('--until')
parser.add_argument('--schemes', default='native,ept,shadow')
parser.add_argument('--hw', default='skylake')
parser.add_argument('--host-pages', default='4k', choices=['4k', '2m'])
parser.add_argument('--status', type=int, default=1)
parser.add_argument('--except', dest='other', action='append', default=[], help='exits that are not in traces')
parser.add_argument('gnomon')
parser.add_argument('options', nargs='+')
args = parser.parse_args()
tmp = tempfile.TemporaryDirectory()
bad = 0


def complain(text):
    global bad
    bad += 1
    print('replay.py: ' + text, file=sys.stderr)


def run(name, scheme, options):
    path = f'{tmp.name}/{name}.json'
    command = [args.gnomon, 'run', '--mmu', scheme, '--serial', 'none', '--report', path, '--hw', args.hw,
               '--host-pages', args.host_pages] + options + args.options
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != args.status:
        sys.exit(f'{command}: status {done.returncode}: {done.stderr}')
    with open(path) as f:
        return json.load(f)


def interval(begin, until):
    return ([begin, args.begin] if args.begin else []) + ([until, args.until] if args.until else [])


def compare(what, live, replayed, keys):
    for key in keys:
        if live.get(key, 0) != replayed.get(key, 0):
            complain(f'{what}: {key}: live {live.get(key, 0)}, replay {replayed.get(key, 0)}')


trace = f'{tmp.name}/trace'
plain = run('plain', 'native', [])
recorded = run('recorded', 'native', ['--trace', trace] + interval('--trace-from', '--trace-until'))
for key in ('instructions', 'state_hash', 'exit'):
    if plain['guest'][key] != recorded['guest'][key]:
        complain(f'recording changed the guest: {key}')
schemes = args.schemes.split(',')
live = {s: run(s, s, ['--count-interval'] + interval('--count-from', '--count-until'))['interval'] for s in schemes}
compare('counted while recording', live['native']['translation'], recorded['interval']['translation'], COUNTS)
designs = ','.join(sorted({DESIGN[s] for s in schemes}))
out = subprocess.run([args.gnomon, 'replay', trace, '--designs', designs, '--setups', 'native,virt,nested', '--populate', '--tables', 'trace',
                      '--pages', 'thp' if args.host_pages == '2m' else '4k', '--hw', args.hw, '--json', '-', '--quiet'],
                     stdout=subprocess.PIPE, text=True)
if out.returncode:
    sys.exit(f'gnomon replay: status {out.returncode}')
results = {r['mmu']: r for r in json.loads(out.stdout)['results']}
for s in schemes:
    a, b = live[s], results[s]
    if a['instructions'] != b['instructions']:
        complain(f'{s}: instructions: live {a["instructions"]}, replay {b["instructions"]}')
    if b['faults_unexpected'] or b['error']:
        complain(f'{s}: {b["faults_unexpected"]} unexpected faults, error {b["error"]}')
    compare(s, a['translation'], b['translation'], COUNTS)
    compare(s + ' dmt', a['translation'].get('dmt', {}), b['translation'].get('dmt', {}), DMT)
    compare(s + ' agile', a['translation'].get('agile', {}), b['translation'].get('agile', {}),
            ['shadow', 'pte', 'pde', 'pdpte', 'pml4e', 'pml5e'])
    compare(s + ' exits', a['exits']['by_reason'], b['exits']['by_reason'], [e for e in EXITS if e not in args.other])
    compare(s + ' faults', a['faults'], b['faults'], FAULTS)
    compare(s + ' shadow', a['shadow'], b['shadow'], SHADOW)
    print(f'{s}: {b["translation"]["walks"]} walks, {b["translation"]["refs"]} references, {b["exits"]["total"]} exits')
sys.exit(1 if bad else 0)
