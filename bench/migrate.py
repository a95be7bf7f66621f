#!/usr/bin/env python3
"""
How fast a VM moves over the loopback, beside a plain copy of as many bytes over TCP in the same run:
migrate.py GNOMON KIT [--memory MiB] [--runs N] [--modes NAME,...]

The guest fills most of its memory with numbers and goes on changing some of it. Printed for each mode and kind of
connection: time, rate, the rate of the plain copy, their ratio; the rate of the plain copy made once more into the same
memory, and the ratio to it; how long the VM stood still; all medians. At the end of the line the first ratio of each
run. The first round of pre-copy has a line of its own, from what the migration counts: bytes of the pages that
went as they are (no zeros, no repetitions), and the time to the other end's answer that it has them.

The plain copy is from memory to memory: out of one that is filled into one that was never touched, as the
destination's is, of the kind that a process gets without asking for another. The guest does the same during both: it runs, except for --stop, where it stands still. Every other
run makes the plain copy first, the rest after the VM has moved. Before each of the two the host is made to have memory
at hand, unless --cold says otherwise.
"""
import argparse, json, mmap, os, re, shutil, socket, statistics, subprocess, tempfile, threading, time

ap = argparse.ArgumentParser()
ap.add_argument("gnomon")
ap.add_argument("kit")
ap.add_argument("--memory", type=int, default=512)
ap.add_argument("--runs", type=int, default=3)
ap.add_argument("--cold", action="store_true")
ap.add_argument("--modes", default="stop,precopy,postcopy,hybrid")
opt = ap.parse_args()
top = tempfile.mkdtemp(prefix="bench.")


def fresh(size):
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def filled(size):
    memory, block = fresh(size), os.urandom(1 << 20)
    for at in range(0, size, len(block)):
        memory[at:at + len(block)] = block
    return memoryview(memory)


source = filled(opt.memory << 20)


def memory_at_hand():
    """
    Takes memory and gives it back. Where this host is itself a virtual machine, memory that was free for some seconds
    has gone back to the one below, and getting it again can cost more than all else, for whoever happens to need it.
    """
    memory = fresh(len(source) * 3 // 2)
    memory.madvise(mmap.MADV_HUGEPAGE)
    memory[::4096] = bytes(len(memory) // 4096)


def copy(into):
    """Bytes a second of one thread that writes and one that reads."""
    listener = socket.create_server(("127.0.0.1", 0))

    def send():
        with socket.create_connection(listener.getsockname()) as s:
            s.sendall(source)

    t = threading.Thread(target=send)
    begun = time.time()
    t.start()
    s, _ = listener.accept()
    got = 0
    while got < len(into):
        got += s.recv_into(into[got:got + (1 << 20)])
    t.join()
    return got / (time.time() - begun)


def plain_copy():
    """Into memory that was never touched, as the destination's is; and once more into the same memory."""
    opt.cold or memory_at_hand()
    into = memoryview(fresh(len(source)))
    return copy(into), copy(into)


def command(path, name):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        with s.makefile("rw") as f:
            f.readline()
            f.write(json.dumps({"execute": name}) + "\n")
            f.flush()
            while "return" not in (answer := json.loads(f.readline())):
                if "error" in answer:
                    raise SystemExit(f"migrate.py: {name}: {answer}")


def beside(sock, mode):
    """The plain copy, while the guest does what it does during a migration of this kind."""
    if mode[0] == "--stop":
        command(sock, "stop")
    rate = plain_copy()
    if mode[0] == "--stop":
        command(sock, "cont")
    return rate


UNIT = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def run(mode, tls, before):
    """Seconds, bytes a second, downtime in ms, the plain copies' bytes a second; the same of the first round, or None."""
    args = ["--tls-psk", f"{top}/key"] if tls else []
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    said = open(f"{top}/serve", "wb")
    there = subprocess.Popen([opt.gnomon, "serve", "--mmu", "ept", "--listen", "tcp:127.0.0.1:0", "--serial", "none",
                              "--control", f"{top}/sock2", *args], stderr=said, **quiet)
    here = subprocess.Popen([opt.gnomon, "run", "--mmu", "ept", "--kernel", f"{opt.kit}/vmlinux-cloud", "--initrd",
                             f"{opt.kit}/initramfs.cpio", "--memory", f"{opt.memory}M", "--append",
                             "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work="
                             f"gups:2000000:{opt.memory * 3 // 4},gups:2000000000:4", "--serial", f"{top}/console",
                             "--control", f"{top}/sock"], stderr=subprocess.DEVNULL, **quiet)
    try:
        while b"gups" not in open(f"{top}/console", "rb").read() if os.path.exists(f"{top}/console") else True:
            time.sleep(0.2)
        address = re.search(r"tcp:[0-9.:]+\d", open(f"{top}/serve").read())[0]
        plain = beside(f"{top}/sock", mode) if before else 0
        opt.cold or memory_at_hand()
        out = subprocess.run([opt.gnomon, "migrate", f"{top}/sock", address, *mode, *args], capture_output=True, text=True)
        m = re.search(r"moved in ([\d.]+) s, .* for ([\d.]+) ms; (\d+) pages \((\d+) of zeros", out.stdout)
        if not m:
            raise SystemExit(f"migrate.py: {out.stdout}{out.stderr}{open(f'{top}/serve').read()}")
        first = re.search(r"first round: ([\d.]+) (\w+) of pages in ([\d.]+) s", out.stdout)
        if not before:
            time.sleep(1)  # what has arrived is taken in
            plain = beside(f"{top}/sock2", mode)
        seconds, downtime, pages = float(m[1]), float(m[2]), int(m[3]) - int(m[4])
        whole = (seconds, pages * 4096 / seconds, downtime, *plain)
        return whole, first and (float(first[3]), float(first[1]) * UNIT[first[2]] / float(first[3]), 0, *plain)
    finally:
        for p in (here, there):
            p.kill()
            p.wait()
        for name in ("console", "sock", "sock2"):
            os.path.exists(f"{top}/{name}") and os.unlink(f"{top}/{name}")


def show(name, runs):
    s, rate, down, plain, again = (statistics.median(x) for x in zip(*runs))
    ratios = [r[1] / r[3] for r in runs]
    print(f"{name:20}{s:8.3f}{rate / 2**20:7.0f}{plain / 2**20:11.0f}{statistics.median(ratios):7.2f}"
          f"{again / 2**20:8.0f}{statistics.median(r[1] / r[4] for r in runs):7.2f}{down:17.1f}   "
          + " ".join(f"{x:.2f}" for x in ratios), flush=True)


try:
    subprocess.run([opt.gnomon, "migrate", "--make-key", f"{top}/key"], check=True)
    print(f"{'':20}{'seconds':>8}{'MiB/s':>7}{'plain TCP':>11}{'ratio':>7}{'again':>8}{'ratio':>7}"
          f"{'stood still, ms':>17}   each run")
    for mode in (["--stop"], ["--precopy"], ["--postcopy"], ["--hybrid", "1"]):
        if mode[0][2:] not in opt.modes.split(","):
            continue
        for tls in (False, True):
            runs = [run(mode, tls, n % 2 == 0) for n in range(opt.runs)]
            name = mode[0][2:] + (", TLS" if tls else "")
            show(name, [whole for whole, _ in runs])
            if all(first for _, first in runs):
                show("  its first round", [first for _, first in runs])
finally:
    shutil.rmtree(top, ignore_errors=True)
