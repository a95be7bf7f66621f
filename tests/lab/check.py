#!/usr/bin/env python3
"""Runs a lab with small counts and checks what its figures have to be: check.py GNOMON KIT LAB

What is checked follows from the architecture or from the scheme, never from the paper's figures.
"""
import json
import os
import subprocess
import sys

gnomon, kit, lab = sys.argv[1:]
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)


def near(value, expected, what, tolerance=1e-9):
    check(value is not None and abs(value - expected) <= tolerance, '%s: %s, expected %s' % (what, value, expected))


def table(result, name):
    found = [t for t in result['tables'] if t['id'] == name]
    check(len(found) == 1, 'table %s' % name)
    return {row['label']: dict(zip(found[0]['columns'], row['values'])) for row in found[0]['rows']}


def lines(result):
    return {line['id']: line for line in result['comparison']}


def schema(result):
    check(result['schema'] == 'gnomon-lab/1' and result['lab'] == lab and result['quick'] is True, 'head')
    check(len(result['comparison']) > 0 and len(result['tables']) > 0, 'there are tables')
    for line in result['comparison']:
        check(line['why'].endswith('.'), '%s: a sentence why' % line['id'])
        if None in (line['ours'], line['paper']) or not line['paper']:
            continue
        near(line['ratio'], line['ours'] / line['paper'] if line['paper_high'] is None else line['ratio'], line['id'])


def adams_agesen(result):
    exits = table(result, 'exits')
    expected = {  # native, shadow with traces, lazy, brute, ept
        'syscall': [0, 0, 0, 0, 0], 'in (port 0x80)': [0, 1, 1, 1, 1], 'cr8wr': [0, 1, 1, 1, 1],
        'call/ret': [0, 0, 0, 0, 0], 'pgfault': [0, 1, 1, 1, 0], 'divzero': [0, 0, 0, 0, 0],
        'ptemod, unchanged': [0, 1, 0, 1, 0], 'ptemod, P to NP': [0, 1, 0, 1, 0], 'ptemod, NP to P': [0, 1, 0, 1, 0],
        # A table that is written and never used is no table any more. Brute force never gives it back.
        'unchanged, never used': [0, 0, 0, 1, 0],
        # Traced: two writes and the load. Lazy: one write lets the table go, and the load.
        'P to NP to P, used, CR3 load': [0, 3, 2, None, 0],
    }
    for name, want in expected.items():
        for way, n in zip(['native', 'shadow, traced', 'shadow, lazy', 'brute', 'ept'], want):
            if n is not None:
                near(exits[name][way], n, 'exits: %s, %s' % (name, way))
    cycles = table(result, 'cycles')
    for name in ['syscall', 'call/ret', 'divzero']:
        near(cycles[name]['shadow, traced'], cycles[name]['native'], '%s costs nothing' % name)
    if 'forkwait' in [t['id'] for t in result['tables']]:
        forks = table(result, 'forkwait')
        check(forks['native']['exits'] == 0, 'forkwait: native has no exits')
        check(forks['shadow, traced']['slowdown'] > forks['shadow, lazy']['slowdown'] > 1, 'forkwait: slowdowns')
        check(len({row['instructions'] for row in forks.values()}) == 1, 'forkwait: the same instructions')
    else:
        check(lines(result)['forkwait.p4']['ours'] is None, 'forkwait without a kit')


def bhargava(result):
    compare = lines(result)
    near(compare['refs.native']['ours'], 4, 'native')
    near(compare['refs.2d']['ours'], 24, '2D')
    near(compare['refs.ntlb']['ours'], 4, 'a nested-TLB hit saves a nested walk')
    for pattern in ['random', 'sequential', 'program']:
        rows = table(result, pattern)
        for name in ['2D, no caches', 'native, no walk cache']:
            near(rows[name]['PWC hits'], 0, '%s: PWC hits' % name)
        # A unified cache saves a reference for each hit, no more.
        for name in ['1D_PWC: guest entries only', '2D_PWC', '2D_PWC without nested leaves']:
            near(rows[name]['references'] + rows[name]['PWC hits'], 24, '%s, %s' % (pattern, name), 1e-6)
        name = '2D_PWC + nested TLB'
        near(rows[name]['references'] + rows[name]['PWC hits'] + 4 * rows[name]['NTLB hits'], 24, name, 1e-6)
        name = 'the same, 2M nested pages'
        near(rows[name]['references'] + rows[name]['PWC hits'] + 3 * rows[name]['NTLB hits'], 19, name, 1e-6)
        # The final address and the guest's leaf entry are always there to be read.
        check(rows['2D_PWC without nested leaves']['references'] >= 6 - 1e-9, '%s: leaves' % pattern)
        check(rows['2D_PWC + nested TLB']['walk cycles'] < rows['2D_PWC']['walk cycles'] <
              rows['2D, no caches']['walk cycles'], '%s: caches help' % pattern)


def hugepages(result):
    refs = table(result, 'references')
    expected = {
        'native 4K': 4, 'native 2M': 3, 'native 1G': 2, 'native 4K, 5 levels': 5,
        'guest 4K, host 4K': 24, 'guest 4K, host 2M': 19, 'guest 4K, host 1G': 14,
        'guest 2M, host 4K': 19, 'guest 2M, host 2M': 15, 'guest 2M, host 1G': 11,
        'guest 1G, host 4K': 14, 'guest 1G, host 2M': 11, 'guest 1G, host 1G': 8,
        'guest 4K, host 4K, 5 levels': 29, 'guest 4K, host 4K, host 5 levels': 29,
        'guest 4K, host 4K, 5 levels in both': 35,
    }
    check(set(refs) == set(expected), 'all spaces')
    for name, n in expected.items():
        near(refs[name]['references a walk'], n, 'references: %s' % name)
        near(refs[name]['walks a read'], 1, 'walks: %s' % name)
    walks, splintered, l1 = table(result, 'walks'), table(result, 'splintered'), table(result, 'l1-misses')
    sizes = {'4K': 0, '2M': 1, '1G': 2}
    for name, row in walks.items():
        words = name.replace(',', '').split()
        guest, host = (words[1], words[3]) if words[0] == 'guest' else (words[1], '1G')
        smaller = min(guest, host, key=sizes.get)
        for region, n in row.items():
            near(n, walks['native %s' % smaller][region], 'walks: %s as native %s' % (name, smaller), 0.01)
            check((splintered[name][region] > 0) == (l1[name][region] > 0 and sizes[host] < sizes[guest]),
                  'splintered: %s' % name)


def vpid(result):
    for mmu in ['ept', 'shadow']:
        rows = table(result, 'vpid-%s' % mmu)
        for slices in ['10k', '100k', '1M']:
            tags = rows['%s instructions, two VMs, tags' % slices]
            without = rows['%s instructions, two VMs, no tags' % slices]
            check(tags['TLB misses'] < without['TLB misses'], '%s, %s: misses' % (mmu, slices))
            check(tags['cycles'] < without['cycles'], '%s, %s: cycles' % (mmu, slices))
    rows = table(result, 'pcid')
    for mmu in ['native', 'shadow', 'ept']:
        check(rows['%s, PCIDs' % mmu]['TLB misses'] < rows['%s, no PCIDs' % mmu]['TLB misses'], '%s: PCIDs' % mmu)


def translation(result):
    rows, host = table(result, 'cycles'), table(result, 'host')
    exits = {'read, CR3 load': 1, 'in (port 0x80)': 1, 'cr8wr': 1, 'cpuid': 1, 'rdtsc': 0, 'cli, sti': 0, 'pushf, popf': 0,
             'syscall, sysret': 0, 'call, ret': 0, 'divzero': 0, 'pgfault': 1, 'page-table write': 1}
    check(set(rows) == set(exits) == set(host), 'all operations')
    for name, n in exits.items():
        row = rows[name]
        near(row['exits'], n, 'exits: %s' % name)
        near(row['door'] + row['work'], row['VT-x'], 'cycles: %s' % name, 1e-6)
        check((row['door'] > 0) == (n > 0), 'the door: %s' % name)
        if n == 0:
            near(row['VT-x'], row['bare machine'], '%s costs nothing' % name, 1e-6)
    # What a translator would still pay is far more than the write; the sensitive instructions leave nothing of the kind.
    check(rows['page-table write']['work'] > 10 * rows['cr8wr']['work'], 'a page-table write keeps its work')
    # Times are the host's: only what no disturbance can turn round.
    for name in ['in (port 0x80)', 'cr8wr', 'cpuid', 'page-table write']:
        check(host[name]['VT-x, translated'] > host[name]['bare, translated'], 'an exit takes time: %s' % name)


def rings(result):
    rows, moved = table(result, 'exits'), table(result, 'lines')
    order = ['ports: a command, 16 x 4 bytes', 'device memory: a command, 8 x 8 bytes', 'ring, one at a time',
             'ring, 16 on their way, each notified', 'ring, 16 on their way, event index', 'ring, batches of 16']
    check(set(rows) == set(order), 'all ways')
    for name, row in rows.items():
        near(row['shadow'], row['ept'], '%s: exits under shadow as under EPT' % name)
        near(row['ports'] + row['memory'] + row['turns'], row['ept'], '%s: no other exits' % name)
    for more, less in zip(order, order[1:]):
        check(rows[more]['ept'] > rows[less]['ept'], 'exits: %s more than %s' % (more, less))
    # An exit an access; a ring: one for the doorbell and one for the device's turn.
    for name, exits, doorbells in zip(order, [17, 9, 2, None, None, 2 / 16], [0, 0, 1, 1, None, 1 / 16]):
        near(rows[name]['ept'], rows[name]['ept'] if exits is None else exits, 'exits: %s' % name)
        doorbells = rows[name]['doorbells'] if doorbells is None else doorbells
        near(rows[name]['doorbells'], doorbells, 'doorbells: %s' % name)
    check(0 < rows[order[4]]['doorbells'] < 1, 'the event index saves doorbells')
    for name, row in moved.items():
        near(row['to device'] + row['to processor'], row['moved'], 'lines: %s' % name)
        for scheme in ['shadow', 'ept']:
            near(row['moved: %s' % scheme], row['moved'], 'lines: %s under %s' % (name, scheme))
    for name in order[2:]:
        apart, one = moved['%s, apart' % name], moved['%s, one line' % name]
        near(rows[name]['ports'], 0, '%s: no ports' % name)
        if 'on their way' in name:
            check(one['moved'] > apart['moved'], 'indices in one line: %s' % name)
        else:
            near(one['moved'], apart['moved'], 'a driver that waits: %s' % name)
        # Two lines at least have to come when every request is waited for: its descriptor and the device's index.
        check(apart['moved'] >= 2 if name == order[2] else 0 < apart['moved'] < 2, 'lines: %s' % name)


def migration(result):
    trackers = ['shadow, wp', 'shadow, ad', 'ept, wp', 'ept, ad', 'ept, pml']
    for guest, rounds, converges in [('gups', 4, 'no'), ('forkwait', 1, 'yes')]:
        went, due = table(result, '%s.went' % guest), table(result, '%s.rounds' % guest)
        costs, reasons = table(result, '%s.costs' % guest), table(result, '%s.reasons' % guest)
        check(went['shadow, pml']['arrives'] == 'impossible' and set(went) == set(trackers) | {'shadow, pml'}, 'rows')
        for name in trackers:
            what, row, pages = '%s, %s' % (guest, name), went[name], due[name]
            check(row['arrives'] == 'equal', '%s: arrives' % what)
            check(row['converged'] == converges, '%s: converged' % what)
            near(row['rounds'], rounds, '%s: rounds' % what)
            # Whatever was to be sent was sent, said to be zeros, or passed over; first everything.
            near(row['pages sent'] + row['zeros'] + row['passed over'], sum(pages.values()), '%s: pages' % what)
            near(pages['round 1'], 32768, '%s: the first round' % what)
            check(0 < pages['at last'] < 5000, '%s: the last pages' % what)
            check(row['downtime ms'] < row['total ms'], '%s: times' % what)
            # No two trackers see different writes; those that have EPT's dirty flags see walks, too.
            flags = name in ('ept, ad', 'ept, pml')
            for n in pages:
                least = due['shadow, wp'][n]
                check(least <= pages[n] <= 1.1 * least if flags else pages[n] == least, '%s: %s' % (what, n))
            near(sum(reasons[name].values()), costs[name]['by tracking'], '%s: reasons' % what)
            near(costs[name]['pages found'], sum(pages.values()) - 32768, '%s: found' % what)
            check(costs[name]['slowdown'] > 1, '%s: slowdown' % what)
        for rows in (due, went):
            check(rows['ept, ad'] == rows['ept, pml'], '%s: flags and log agree' % guest)
        for scheme, reason in [('shadow', 'page fault'), ('ept', 'EPT violation')]:
            row, found = reasons['%s, wp' % scheme], costs['%s, wp' % scheme]['pages found']
            check(found / 2 < row[reason] <= found, '%s, %s, wp: an exit a page' % (guest, scheme))
            slow = [costs['%s, %s' % (scheme, how)]['slowdown'] for how in ('wp', 'ad')]
            check(slow[0] > slow[1], '%s, %s: wp costs more' % (guest, scheme))
        pml = costs['ept, pml']
        near(reasons['ept, pml']['PML full'], pml['PML full'], '%s: a full log' % guest)
        check(pml['PML full'] <= pml['logged'] / 512, '%s: a full log has 512 entries' % guest)
        check(pml['by tracking'] <= pml['PML full'] + 2, '%s: pml has no other exits' % guest)
        check(pml['logged'] >= pml['pages found'] * 0.99, '%s: logged' % guest)
    check(table(result, 'gups.costs')['ept, pml']['PML full'] > 0, 'gups fills the log')
    trace, pml = result['trace'], table(result, 'gups.costs')['ept, pml']
    near(sum(e.get('entries', 0) for e in trace), pml['logged'], 'explained: all entries')
    full = [e for e in trace if e['event'] == 'full']
    check(len(full) == pml['PML full'], 'explained: every full log')
    for e in full:
        check(e['entries'] == e['pages'] == 512 and e['reason'] == 'Page-modification log full', 'explained: full')
    check(sum(e['page_tables'] for e in trace if 'page_tables' in e) > 0, 'explained: tables that are walked')


def ours(result, name):
    return next(line['ours'] for line in result['comparison'] if line['id'] == name)


def dmt(result):
    # Nearly all walks are the table's, whose entries registers lead to.
    for name, refs in [('refs.native', 1), ('refs.dmt', 3), ('refs.pvdmt', 2), ('refs.nested', 3)]:
        near(ours(result, name), refs, name, 0.05)
    for pages in ['4k', 'thp']:
        rows = table(result, 'fallbacks.%s' % pages)
        for name in ['native', 'virt radix', 'nested radix']:
            near(rows['gups'][name], 100, '%s has no registers' % name)
        for name in ['native DMT', 'virt DMT', 'virt pvDMT', 'nested pvDMT']:
            check(rows['gups'][name] < 25, '%s: %s falls back' % (pages, name))
        row = table(result, 'refs.%s' % pages)['gups']
        check(row['native DMT'] <= row['native'] and row['virt pvDMT'] < row['virt DMT'], '%s: order of references' % pages)
        check(ours(result, 'near.walk.pvdmt.%s' % pages) > ours(result, 'near.walk.dmt.%s' % pages), '%s: pvDMT before DMT' % pages)
        # Over a footprint nothing is walked but the table, and all of it by registers.
        far = table(result, 'far.refs.%s' % pages)['gups']
        for name, refs in [('native DMT', 1), ('virt DMT', 3), ('virt pvDMT', 2), ('nested pvDMT', 3)]:
            near(far[name], refs, 'far, %s: %s' % (pages, name))
            near(table(result, 'far.fallbacks.%s' % pages)['gups'][name], 0, 'far, %s: %s falls back' % (pages, name))
        check(far['virt pvDMT'] < far['virt radix'] < far['radix, bare host'] <= 24, 'far, %s: radix' % pages)
        check(ours(result, 'walk.pvdmt.%s' % pages) > max(1, ours(result, 'walk.dmt.%s' % pages)), 'far, %s: order' % pages)
        check(ours(result, 'app.pvdmt.%s' % pages) > 1, 'far, %s: programs gain' % pages)


def hugegpt(result):
    row = table(result, 'textbook.4k')['gups']
    near(row['radix'], 24, 'references of radix', 0.2)
    near(row['HugeGPT'], 20, 'references of HugeGPT', 0.2)
    far = table(result, 'far.refs.4k')['gups']
    check(far['HugeGPT'] <= far['radix'], 'order of references over a footprint')


def agile(result):
    refs, exits = table(result, 'textbook.4k')['gups'], table(result, 'exits.4k')['gups']
    near(refs['native'], 4, 'native', 0.05)
    near(refs['shadow'], 4, 'shadow', 0.05)
    check(refs['shadow'] <= refs['agile'] <= refs['nested'] <= 24, 'agile is between shadow and nested')
    check(exits['native'] == 0 and exits['agile'] < exits['shadow'], 'exits')


def kvm(result):
    whole, moving, moved, log = (table(result, 'kvm.' + name) for name in ['exits', 'moving', 'moved', 'pml'])
    for row in moved:
        check(moved[row]['lost'] == 0 and moved[row]['found written'] > 100, '%s: moved whole' % row)
    for row in ['ept, pml', 'ept, no pml']:
        check(whole[row]['EPT viol.'] > 10000 and whole[row]['exception'] < 100, '%s: EPT' % row)
    check(whole['no ept']['EPT viol.'] == 0 and whole['no ept']['exception'] > 10000, 'no ept: shadow paging')
    # Each page found is an exit without the log; with it, one in 512 at most. KVM itself writes a page or two of the guest's.
    near(moving['ept, no pml']['EPT viol.'], moved['ept, no pml']['found written'], 'ept, no pml: an exit a page', 5)
    near(moving['no ept']['exception'], moved['no ept']['found written'], 'no ept: a fault a page', 5)
    check(moving['ept, pml']['EPT viol.'] == 0, 'ept, pml: no exits by pages')
    near(log['ept, pml']['entries'], moved['ept, pml']['found written'], 'ept, pml: what was logged was found', 5)
    check(0 < log['ept, pml']['when full'] == moving['ept, pml']['PML full'] <= log['ept, pml']['entries'] / 512, 'full logs')
    for row in ['ept, no pml', 'no ept']:
        check(log[row]['entries'] == log[row]['emptied'] == 0, '%s: no log' % row)
    trace = result['trace'][:[e['event'] for e in result['trace']].index('moved')]
    near(sum(e.get('entries', 0) for e in trace), log['ept, pml']['entries'], 'explained: all entries')
    check(len([e for e in trace if e['event'] == 'full']) == log['ept, pml']['when full'], 'explained: every full log')
    check([e['event'] for e in trace[:3]] == ['begin', 'round', 'on'], 'explained: the log is turned on')


def xen_migration(result):
    moved, rounds, reasons = (table(result, name) for name in ['migrations', 'rounds', 'reasons'])
    kinds = ['hap=0', 'hap=1, no PML', 'hap=1']
    for kind in kinds:
        # Every round that follows finds at least the guest's table of 4 MiB, once it has been written.
        check(moved[kind]['rounds'] > 2 and moved[kind]['with contents'] > 20000, '%s: it was moved, in rounds' % kind)
        check(all(rounds[row][kind] > 500 for row in rounds if rounds[row][kind] is not None), '%s: live' % kind)
        check(0 < moved[kind]['stopped ms'] < moved[kind]['ms'], '%s: it stood still for a while' % kind)
        check(sum(row[kind] for row in reasons.values()) == moved[kind]['exits'], '%s: every exit has a reason' % kind)
    for kind in kinds[:2]:
        check(moved[kind]['full logs'] == moved[kind]['emptied'] == moved[kind]['entries'] == 0, '%s: no log' % kind)
    check(reasons['EPT violation']['hap=0'] == 0 and reasons['Exception or NMI']['hap=0'] > 5000, 'hap=0: shadow paging')
    check(reasons['EPT violation']['hap=1, no PML'] > 4000, 'no PML: an exit a page')
    pml = moved['hap=1']
    check(0 < pml['full logs'] <= pml['emptied'] and pml['full logs'] * 512 <= pml['entries'], 'hap=1: full logs')
    check(reasons['EPT violation']['hap=1'] < 500, 'hap=1: no exits by pages')
    events = [e['event'] for e in result['trace']]
    check(events.count('pml-on') == events.count('pml-off') == 1, 'explained: the log is on once')
    check(events.index('pml-on') < events.index('full') < events.index('pml-off'), 'explained: and full in between')
    check(events.count('full') == pml['full logs'] and events.count('emptied') == pml['emptied'], 'explained: every log')
    check(events.count('moved') == len(kinds), 'explained: each guest goes on')


def nested(result):
    for name in ['forkwait', 'gups']:
        work, why = table(result, name), table(result, name + '.reflected')
        bare, outer = work['bare machine'], [row for row in work if ' on ' in row]
        for row in ['bare machine', 'EPT', 'shadow']:
            check(work[row]['Minstructions'] == bare['Minstructions'], '%s, %s: the same instructions' % (name, row))
            check(work[row]['of L2'] == work[row]["L1's VMX"] == 0, '%s, %s: one level' % (name, row))
        check(bare['exits'] == 0 and len(outer) == 2, '%s: rows' % name)
        for row, alone in [('EPT on EPT', 'KVM, EPT'), ('shadow on EPT', 'KVM, shadow')]:
            of = work[row]
            # What KVM is given under our hypervisor is what it gets on the bare machine, but for when timers come.
            near(of['reflected'], work[alone]['exits'], '%s, %s: exits as on the bare machine' % (name, row),
                 5 + 0.05 * work[alone]['exits'])
            near(of['Minstructions'], work[alone]['Minstructions'], '%s, %s: instructions' % (name, row), 0.1)
            check(of["L1's VMX"] > 5 * of['reflected'] and of['exits'] > of["L1's VMX"], '%s, %s: exits of L1' % (name, row))
            check(sum(why[row].values()) == of['reflected'], '%s, %s: every exit has a reason' % (name, row))
            check(of['slowdown'] > work[alone]['slowdown'] > 1, '%s, %s: two levels cost more' % (name, row))
    check(table(result, 'forkwait')['shadow on EPT']['reflected'] > 5 * table(result, 'forkwait')['EPT on EPT']['reflected'],
          'shadow on EPT: page tables exit')
    tables = table(result, 'tables')
    check(tables['EPT on EPT']['entries made'] > 0 == tables['shadow on EPT']['entries made'], 'combined tables')


def main():
    if lab == 'xen-migration' and not os.path.exists(os.path.join(kit, 'xen', 'hypervisor-shadow')):
        print("no Xen; run 'make guest-xen'", file=sys.stderr)
        return 77
    if lab in ('kvm', 'nested') and not os.path.exists(os.path.join(kit, 'initramfs-kvm.cpio')):
        print("no guest with KVM; run 'make guest-kvm'", file=sys.stderr)
        return 77
    if lab in ('dmt', 'hugegpt', 'agile') and not os.path.exists(os.path.join(kit, 'vmlinux-gnomon')):
        print("no guest kernel that takes part; run 'make guest-kernel'", file=sys.stderr)
        return 77
    command = [gnomon, 'lab', lab, '--quick', '--json', '--kit', kit] + \
        (['--explain'] if lab in ('migration', 'kvm', 'xen-migration') else []) + \
        (['--limit', '1000'] if lab == 'xen-migration' else [])
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    schema(result)
    {'adams-agesen': adams_agesen, 'bhargava': bhargava, 'hugepages': hugepages, 'vpid': vpid,
     'translation': translation, 'rings': rings, 'migration': migration, 'kvm': kvm, 'nested': nested, 'xen-migration': xen_migration,
     'dmt': dmt, 'hugegpt': hugegpt, 'agile': agile}[lab](result)
    for line in failures:
        print('%s: %s' % (lab, line), file=sys.stderr)
    return 1 if failures else 0


sys.exit(main())
