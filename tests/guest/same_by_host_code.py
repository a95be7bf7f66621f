#!/usr/bin/env python3
"""Runs a guest twice, interpreted and as host code: same_by_host_code.py STATUS GNOMON ARGUMENTS...

Both have to end with STATUS, to say the same on the console, and to leave reports that are equal in
everything but what the host took and what was decoded.
"""
import difflib
import json
import os
import subprocess
import sys
import tempfile

HOST_ONLY = {'host'}
CPU = ['interrupts', 'exceptions']  # of the processor's part; the rest of it is how blocks were made
NEEDED = {'guest', 'exits', 'faults', 'translation', 'tables', 'shadow', 'hypervisor', 'cost', 'cpu'}


def facts(path):
    with open(path) as f:
        report = json.load(f)
    missing = NEEDED - set(report)
    if missing:
        sys.exit('the report lacks %s' % ', '.join(sorted(missing)))
    report['cpu'] = {name: report['cpu'][name] for name in CPU}
    return json.dumps({k: v for k, v in report.items() if k not in HOST_ONLY}, indent=1, sort_keys=True).splitlines()


def main():
    status, command = int(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as where:
        path = {kind: os.path.join(where, kind) for kind in ['interp', 'translate']}
        runs = {kind: subprocess.Popen(command + ['--cpu', kind, '--report', p + '.report', '--serial', p + '.serial'],
                                       stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
                for kind, p in path.items()}
        for kind, run in runs.items():
            message = run.communicate()[1].decode()
            if run.returncode != status:
                sys.exit('%s: exit status %d, expected %d: %s\n%s' % (kind, run.returncode, status, command, message))
        console = [open(p + '.serial', 'rb').read() for p in path.values()]
        interp, translate = [facts(p + '.report') for p in path.values()]
    difference = list(difflib.unified_diff(interp, translate, 'interpreted', 'as host code', lineterm='', n=1))
    for line in difference:
        print(line, file=sys.stderr)
    if console[0] != console[1]:
        print('the console differs', file=sys.stderr)
    if difference or console[0] != console[1]:
        sys.exit('not the same: %s' % ' '.join(command))
    sys.stdout.buffer.write(console[0])
    print('the same by host code in %d lines of the report' % len(interp))


main()
