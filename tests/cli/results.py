#!/usr/bin/env python3
"""Pages of results: results.py GNOMON. They must be well-formed, show the numbers of the JSON, refer to nothing
outside, and keep what names contain from becoming markup or script."""
import csv
import html.parser
import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.parse

gnomon = sys.argv[1]
failures = []
EVIL = '</script><img src=x onerror=alert(1)>&amp;"\'\n,=1+1 \u2028 é'
VOID = {'meta', 'br', 'hr', 'img', 'input', 'link'}


def check(ok, what):
    if not ok:
        failures.append(what)


class Page(html.parser.HTMLParser):
    """What is in a page; complains about tags that do not match and addresses that lead outside."""

    def __init__(self, text):
        super().__init__()
        self.open, self.configs, self.links, self.cells, self.titles, self.elements = [], [], [], [], [], []
        self.canvases, self.text = [], ''
        self.feed(text)
        self.close()
        check(not self.open, 'open at the end: %s' % self.open)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append(tag)
        check(tag not in ('img', 'link', 'iframe', 'object', 'base', 'form'), 'element %s' % tag)
        for name, value in attrs.items():
            check(not name.startswith('on'), '%s has %s' % (tag, name))
            if name in ('src', 'href', 'srcset', 'data', 'action'):
                check(name == 'href' and value.startswith('data:text/csv;'), '%s leads to %s' % (name, value))
        if tag == 'a':
            self.links.append(attrs['href'])
        if tag == 'canvas':
            self.canvases.append(attrs['id'])
        if tag not in VOID:
            self.open.append((tag, attrs))
        self.text = ''

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            failures.append('</%s> closes %s' % (tag, self.open[-1:]))
            return
        _, attrs = self.open.pop()
        if tag == 'script' and attrs.get('class') == 'config':
            self.configs.append((attrs['data-canvas'], json.loads(self.text)))
        if tag in ('td', 'th'):
            self.cells.append(self.text)
        if tag in ('h1', 'h2'):
            self.titles.append(self.text)
        self.text = ''


def run(*args):
    return subprocess.run([gnomon, 'results', *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def rows_of(text):
    return [row for row in csv.reader(io.StringIO(text)) if row]


def page_of(name, *results):
    """The page of the results, and what is common to all pages."""
    files = []
    for i, result in enumerate(results):
        files.append(os.path.join(directory, '%s%d.json' % (name, i)))
        with open(files[-1], 'w', encoding='utf-8') as f:
            json.dump(result, f)
    path = os.path.join(directory, name + '.html')
    r = run(*files, '--html', path, '--csv')
    check(r.returncode == 0, '%s: %s' % (name, r.stderr.decode()))
    with open(path, encoding='utf-8') as f:
        text = f.read()
    page = Page(text)
    check(text.startswith('<!DOCTYPE html>') and text.rstrip().endswith('</html>'), '%s: beginning and end' % name)
    check('url(' not in text.split('</style>')[0] and '@import' not in text, '%s: style leads outside' % name)
    check("default-src 'none'" in text, '%s: nothing may be fetched' % name)
    check('Chart.js v' in text and 'Permission is hereby granted' in text, '%s: licence of the library' % name)
    check('@media print' in text, '%s: style of paper' % name)
    check([c for c, _ in page.configs] == page.canvases, '%s: a canvas a chart' % name)
    # What is behind the links is what is printed, section by section.
    linked = [urllib.parse.unquote(x.split(',', 1)[1]) for x in page.links]
    printed = [part.split('\n', 1)[1] for part in ('\n' + r.stdout.decode()).split('\n# ')[1:]]
    check([rows_of(x) for x in linked] == [rows_of(x) for x in printed], '%s: CSV' % name)
    for _, config in page.configs:
        check(config['type'] == 'bar', '%s: kind of chart' % name)
        for series in config['data']['datasets']:
            check(len(series['data']) == len(config['data']['labels']), '%s: a number a label' % name)
            check(all(v is None or isinstance(v, (int, float)) for v in series['data']), '%s: numbers' % name)
    # The table has the numbers of the chart.
    return page, text, {t: c for t, (_, c) in zip(page.titles[1:], page.configs)}


def report(mmu, walks, refs, cycles, exits):
    return {'mmu': mmu, 'guest': {'exit': 'poweroff', 'instructions': 123456789, 'state_hash': 'abc' * 10},
            'exits': {'total': exits, 'by_reason': {EVIL: exits}}, 'translation': {'walks': walks, 'refs': refs},
            'cost': {'cycles': {'walks': 7 * walks, 'references': 4 * refs, 'walk_caches': 0, 'total': cycles}}}


def values(config, name):
    return next(s['data'] for s in config['data']['datasets'] if s['label'] == name)


def comparison():
    runs = [report('native', 1000, 4000, 1e6, 0), report('ept', 1000, 24000, 3e6, 50000), {'mmu': 'shadow', 'error': EVIL}]
    result = {'schema': 'gnomon-compare/1', 'equal': False,
              'works': [{'work': 'gups:1:2', 'equal': True, 'differences': [], 'baseline': 'native', 'runs': runs},
                        {'work': EVIL, 'equal': False, 'differences': [EVIL], 'baseline': 'native', 'runs': runs[1:]}]}
    page, text, charts = page_of('compare', result)
    refs = charts['References of a page walk']
    check(refs['data']['labels'] == ['gups:1:2', EVIL], 'works as labels')
    check(values(refs, 'native') == [4, None] and values(refs, 'ept') == [24, 24], 'references')
    check(values(refs, 'shadow') == [None, None], 'a run without result')
    check(values(charts['Latency of a page walk'], 'ept') == [103, 103], 'latency')
    check(values(charts['Speedup over nested radix'], 'native') == [3, None], 'speedup')
    check(values(charts['VM exits'], 'ept') == [50000, 50000], 'exits')
    check('123,456,789' in page.cells and '50,000' in page.cells, 'numbers in the tables')
    check(EVIL in page.titles and '<img' not in text, 'a name stays a name')
    check(page.elements.count('script') == 2 + len(charts), 'no script of a name')


def result_of(design, setup, pages, refs, speedup):
    return {'design': design, 'setup': setup, 'pages': pages, 'error': None, 'mean_refs': refs, 'accesses': 1000000,
            'translation': {'walks': 1234567, 'refs_max': 24}, 'cycles': {'mean_walk': 11.5 * refs, 'total': 1e9},
            'exits': {'total': 17}, 'speedup': speedup}


def replay(path):
    return {'schema': 'gnomon-replay/1', 'trace': {'path': path, 'events': 5, 'instructions': 4}, 'hw': 'skylake', 'partial': True,
            'why': EVIL, 'results': [result_of('radix', 'virt', '4k', 24, {'walk': 1, 'total': 1}),
                                     result_of('pvdmt', 'virt', '4k', 2, {'walk': 1.58, 'total': 1.2}),
                                     result_of('radix', 'native', 'thp', 3, None)]}


def replays():
    page, _, charts = page_of('one', replay('/tmp/btree.trace'))
    refs = charts['References of a page walk']
    check(refs['data']['labels'] == ['virt, 4k', 'native, thp'], 'setups as labels')
    check(values(refs, 'radix') == [24, 3] and values(refs, 'pvdmt') == [2, None], 'references of designs')
    check(values(charts['Speedup of page walks over radix'], 'pvdmt') == [1.58, None], 'speedups')
    check('1,234,567' in page.cells, 'figures')
    page, _, charts = page_of('two', replay('/tmp/btree.trace'), replay('gups.trace'))
    check(charts['Speedup over radix: virt, 4k']['data']['labels'] == ['btree', 'gups'], 'workloads side by side')
    check(values(charts['Speedup over radix: virt, 4k'], 'pvdmt') == [1.2, 1.2], 'speedup a workload')
    check('Speedup over radix: native, thp' not in page.titles, 'no chart without numbers')


def lab():
    page_of('lab', {'schema': 'gnomon-lab/1', 'title': EVIL, 'source': None, 'notes': [EVIL, 3],
                    'tables': [{'title': 't', 'columns': ['a', 7], 'rows': [{'label': EVIL, 'values': [1.5, None, EVIL]}]}],
                    'comparison': [{'what': 'w', 'unit': 'times', 'ours': 1.5, 'paper': 1.58, 'why': EVIL}]})


def bad_input():
    # Whatever is missing or of another type is an empty cell.
    for result in [{'schema': 'gnomon-compare/1'}, {'schema': 'gnomon-compare/1', 'works': [3, {'runs': [None, {'mmu': 5}]}]},
                   {'schema': 'gnomon-replay/1', 'results': {'a': 1}}, {'schema': 'gnomon-replay/1', 'results': [1, {}]},
                   {'schema': 'gnomon-lab/1', 'tables': [[], {'rows': [{'values': 1}]}], 'comparison': [2]}]:
        page_of('bad', result)
    good = os.path.join(directory, 'compare0.json')
    for text in ['', '{', '[]', '{}', '{"schema": "gnomon-report/1"}', '{"schema": 3}']:
        path = os.path.join(directory, 'x.json')
        with open(path, 'w') as f:
            f.write(text)
        r = run(path, '--csv')
        check(r.returncode == 2 and len(r.stderr.splitlines()) == 1 and not r.stdout, 'refused: %r' % text)
    for args, status in [([], 2), ([good], 2), (['--csv'], 2), ([good, good, '--csv'], 2), (['/nowhere', '--csv'], 2),
                         ([good, '--html', '/nowhere/x.html'], 10)]:
        check(run(*args).returncode == status, 'status %d: %s' % (status, args))
    check(not any('x.html' in f for f in os.listdir(directory)), 'nothing is left behind')


with tempfile.TemporaryDirectory() as directory:
    comparison()
    replays()
    lab()
    bad_input()
for line in failures:
    print('results: %s' % line, file=sys.stderr)
sys.exit(1 if failures else 0)
