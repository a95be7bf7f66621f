#!/usr/bin/env python3
"""
How fast a VM moves over the loopback, beside a plain copy of as many bytes over TCP in the same run:
migrate.py GNOMON KIT [--memory MiB] [--runs N]

The guest fills most of its memory with numbers and goes on changing some of it. Printed for each mode and kind of
connection: time, bytes, rate, the rate of the plain copy right before, their ratio, and how long the VM stood still.
"""
import argparse, mmap, os, re, shutil, socket, statistics, subprocess, tempfile, threading, time

ap = argparse.ArgumentParser()
ap.add_argument("gnomon")
ap.add_argument("kit")
ap.add_argument("--memory", type=int, default=512)
ap.add_argument("--runs", type=int, default=3)
opt = ap.parse_args()
top = tempfile.mkdtemp(prefix="bench.")


def plain_copy(size):
    """Bytes a second of one thread that writes and one that reads, into memory that was never touched."""
    listener = socket.create_server(("127.0.0.1", 0))
    block = os.urandom(1 << 20)

    def send():
        with socket.create_connection(listener.getsockname()) as s:
            for _ in range(size >> 20):
                s.sendall(block)

    t = threading.Thread(target=send)
    begun = time.time()
    t.start()
    s, _ = listener.accept()
    into, got = memoryview(mmap.mmap(-1, size)), 0
    while got < size:
        got += s.recv_into(into[got:got + (1 << 20)])
    t.join()
    return got / (time.time() - begun)


def run(mode, tls):
    args = ["--tls-psk", f"{top}/key"] if tls else []
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    said = open(f"{top}/serve", "wb")
    there = subprocess.Popen([opt.gnomon, "serve", "--mmu", "ept", "--listen", "tcp:127.0.0.1:0", "--serial", "none", *args],
                             stderr=said, **quiet)
    here = subprocess.Popen([opt.gnomon, "run", "--mmu", "ept", "--kernel", f"{opt.kit}/vmlinux-cloud", "--initrd",
                             f"{opt.kit}/initramfs.cpio", "--memory", f"{opt.memory}M", "--append",
                             "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work="
                             f"gups:2000000:{opt.memory * 3 // 4},gups:2000000000:4", "--serial", f"{top}/console",
                             "--control", f"{top}/sock"], stderr=subprocess.DEVNULL, **quiet)
    try:
        while b"gups" not in open(f"{top}/console", "rb").read() if os.path.exists(f"{top}/console") else True:
            time.sleep(0.2)
        address = re.search(r"tcp:[0-9.:]+\d", open(f"{top}/serve").read())[0]
        beside = plain_copy(opt.memory << 20)
        out = subprocess.run([opt.gnomon, "migrate", f"{top}/sock", address, *mode, *args], capture_output=True, text=True)
        m = re.search(r"moved in ([\d.]+) s, .* for ([\d.]+) ms; (\d+) pages \((\d+) of zeros", out.stdout)
        if not m:
            raise SystemExit(f"migrate.py: {out.stdout}{out.stderr}{open(f'{top}/serve').read()}")
        seconds, downtime, pages = float(m[1]), float(m[2]), int(m[3]) - int(m[4])
        return seconds, downtime, pages * 4096 / seconds, beside
    finally:
        for p in (here, there):
            p.kill()
            p.wait()
        os.path.exists(f"{top}/console") and os.unlink(f"{top}/console")
        os.path.exists(f"{top}/sock") and os.unlink(f"{top}/sock")


try:
    subprocess.run([opt.gnomon, "migrate", "--make-key", f"{top}/key"], check=True)
    print(f"{'':24}{'seconds':>9}{'MiB/s':>8}{'plain TCP':>11}{'ratio':>7}{'stood still, ms':>17}")
    for mode in (["--stop"], ["--precopy"], ["--postcopy"], ["--hybrid", "1"]):
        for tls in (False, True):
            runs = [run(mode, tls) for _ in range(opt.runs)]
            s, down, rate, beside = (statistics.median(x) for x in zip(*runs))
            ratio = statistics.median(r[2] / r[3] for r in runs)
            name = mode[0][2:] + (", TLS" if tls else "")
            print(f"{name:24}{s:9.3f}{rate / 2**20:8.0f}{beside / 2**20:11.0f}{ratio:7.2f}{down:17.1f}", flush=True)
finally:
    shutil.rmtree(top, ignore_errors=True)
