#!/usr/bin/env python3
"""Makes a C file of text files: embed-text.py OUT.c STRUCT ARRAY HEADER FILE...

The array's elements are {name without suffix, text}; it ends with {NULL, NULL}.
"""
import os
import sys

out, struct, array, header, *files = sys.argv[1:]


def literal(text):
    for line in text.splitlines(keepends=True):
        line = line.replace('\\', '\\\\').replace('"', '\\"').replace('\t', '\\t').replace('\n', '\\n')
        yield '\t\t"%s"\n' % line


with open(out, 'w', encoding='ascii') as f:
    f.write('/* Made by scripts/embed-text.py. */\n#include "%s"\n\nconst struct %s %s[] = {\n' % (header, struct, array))
    for path in files:
        name = os.path.splitext(os.path.basename(path))[0]
        with open(path, encoding='ascii') as text:
            f.write('\t{"%s",\n%s\t},\n' % (name, ''.join(literal(text.read()))))
    f.write('\t{0},\n};\n')
