#!/usr/bin/env python3
"""Makes a C file of binary files: embed-files.py OUT.c STRUCT ARRAY HEADER FILE...

The array's elements are {name without suffix, bytes, number of them}; it ends with {NULL}.
"""
import os
import sys

out, struct, array, header, *files = sys.argv[1:]

with open(out, 'w', encoding='ascii') as f:
    f.write('/* Made by scripts/embed-files.py. */\n#include "%s"\n\n' % header)
    for i, path in enumerate(files):
        with open(path, 'rb') as binary:
            data = binary.read()
        f.write('static const uint8_t file%d[%d] = {' % (i, len(data)))
        for at in range(0, len(data), 24):
            f.write('\n\t' + ','.join(str(b) for b in data[at:at + 24]) + ',')
        f.write('\n};\n')
    f.write('\nconst struct %s %s[] = {\n' % (struct, array))
    for i, path in enumerate(files):
        f.write('\t{"%s", file%d, sizeof(file%d)},\n' % (os.path.splitext(os.path.basename(path))[0], i, i))
    f.write('\t{0},\n};\n')
