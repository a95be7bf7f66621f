#!/usr/bin/env python3
"""Live migration beside QEMU's, and of guests that do something: migrate_peer.py GNOMON KIT

1. The same guest, whose memory is filled, moves by pre-copy over loopback between two gnomon and between two QEMU (TCG),
   both held to the same bandwidth: total time and downtime.
2. Downtime of an idle guest (by the wall clock, so that it does rest), and, with the Debian image in KIT (make rootfs),
   of one whose redis-server is being asked by its benchmark.

Medians of --runs, interleaved. Time of the wall: the machine is to be quiet.
"""
import argparse, json, os, re, shutil, socket, statistics, subprocess, tempfile, time

ap = argparse.ArgumentParser()
ap.add_argument("gnomon")
ap.add_argument("kit")
ap.add_argument("--memory", type=int, default=512, help="MiB of the guest")
ap.add_argument("--cap", type=int, default=100, help="MiB/s")
ap.add_argument("--runs", type=int, default=3)
ap.add_argument("--only", choices=["qemu", "idle", "redis"])
opt = ap.parse_args()
opt.gnomon = os.path.abspath(opt.gnomon)
top = tempfile.mkdtemp()
running = []
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
MOVED = re.compile(r"moved in ([\d.]+) s, .* for ([\d.]+) ms")
APPEND = "console=ttyS0 panic=-1 quiet cryptomgr.notests "


def start(args, **more):
    p = subprocess.Popen(args, **quiet, **more)
    running.append(p)
    return p


def end_all():
    while running:
        p = running.pop()
        p.kill()
        p.wait()


def text(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def wait_for(test, what):
    end = time.time() + 300
    while not test():
        if time.time() > end:
            raise SystemExit(f"migrate_peer.py: waited in vain for {what}")
        time.sleep(0.02)


def gnomon(append, until, settle=0.0, migrate=(), run=(), initrd="initramfs.cpio"):
    """Moves a guest when it has printed @until, and @settle seconds have passed. (seconds, ms it stood still)"""
    for name in ("console", "sock", "serve"):
        if os.path.exists(f"{top}/{name}"):
            os.unlink(f"{top}/{name}")
    start([opt.gnomon, "serve", "--mmu", "ept", "--listen", "tcp:127.0.0.1:0", "--serial", "none"],
          stderr=open(f"{top}/serve", "w"))
    start([opt.gnomon, "run", "--mmu", "ept", "--kernel", f"{opt.kit}/vmlinux-cloud", "--initrd", f"{opt.kit}/{initrd}",
           "--memory", f"{opt.memory}M", "--append", APPEND + append, "--serial", f"{top}/console", "--control",
           f"{top}/sock", *run], stderr=open(f"{top}/run", "w"))
    wait_for(lambda: until in text(f"{top}/console") and b"waiting for" in text(f"{top}/serve"), until.decode())
    time.sleep(settle)
    address = re.search(rb"tcp:[0-9.:]+\d", text(f"{top}/serve"))[0].decode()
    out = subprocess.run([opt.gnomon, "migrate", f"{top}/sock", address, *migrate], capture_output=True, text=True)
    end_all()
    m = MOVED.search(out.stdout)
    if not m:
        raise SystemExit(f"migrate_peer.py: {out.stdout}{out.stderr}{text(f'{top}/serve').decode()}")
    return float(m[1]), float(m[2])


class Qemu:
    def __init__(self, append, name, *more):
        path = f"{top}/{name}"
        if os.path.exists(path):
            os.unlink(path)
        start(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(opt.memory), "-nodefaults", "-display", "none",
               "-no-reboot", "-kernel", f"{opt.kit}/vmlinux-cloud", "-initrd", f"{opt.kit}/initramfs.cpio", "-append",
               APPEND + append, "-serial", f"file:{top}/console-{name}", "-qmp", f"unix:{path},server=on,wait=off", *more],
              stderr=subprocess.DEVNULL)
        wait_for(lambda: os.path.exists(path), "QEMU")
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        self.file = s.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise SystemExit(f"migrate_peer.py: QEMU: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def qemu(append, until):
    a = Qemu(append, "a")
    wait_for(lambda: until in text(f"{top}/console-a"), until.decode())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    Qemu(append, "b", "-incoming", f"tcp:127.0.0.1:{port}")
    a.ask("migrate-set-parameters", **{"max-bandwidth": opt.cap << 20, "downtime-limit": 300})
    a.ask("migrate", uri=f"tcp:127.0.0.1:{port}")
    while True:
        q = a.ask("query-migrate")
        if q["status"] in ("completed", "failed", "cancelled"):
            break
        time.sleep(0.02)
    end_all()
    os.unlink(f"{top}/console-a")
    if q["status"] != "completed":
        raise SystemExit(f"migrate_peer.py: QEMU's migration {q['status']}")
    return q["total-time"] / 1000, float(q["downtime"])


def medians(runs):
    return [statistics.median(x) for x in zip(*runs)]


def beside_qemu():
    if not shutil.which("qemu-system-x86_64"):
        print("beside QEMU: there is no qemu-system-x86_64")
        return
    # Fills its memory, and goes on with what hardly writes.
    work = f"gnomon.work=gups:1000000:{opt.memory * 3 // 4},intloop:1000000000000"
    ours, theirs = [], []
    for _ in range(opt.runs):
        ours.append(gnomon(work, b"WORK gups", migrate=["--bandwidth", f"{opt.cap}M"]))
        theirs.append(qemu(work, b"WORK gups"))
    (s, down), (qs, qdown) = medians(ours), medians(theirs)
    print(f"{opt.memory} MiB at {opt.cap} MiB/s: {s:.2f} s, stood still {down:.0f} ms; QEMU {qs:.2f} s, {qdown:.0f} ms", flush=True)


def idle():
    # A shell that nobody types at.
    runs = [gnomon("", b"A shell of the guest", settle=1, run=["--clock", "wall"]) for _ in range(opt.runs)]
    print(f"idle: stood still {medians(runs)[1]:.1f} ms (of {medians(runs)[0]:.2f} s)", flush=True)


def redis():
    if not os.path.exists(f"{opt.kit}/debian.img"):
        print("redis: there is no debian.img (make rootfs)")
        return
    runs = []
    for n in range(opt.runs):
        disk = f"{top}/debian{n}.qcow2"
        subprocess.run([opt.gnomon, "disk", "branch", os.path.realpath(f"{opt.kit}/debian.img"), disk], check=True, **quiet)
        runs.append(gnomon("gnomon.root=/dev/vda gnomon.work=redis:2000", b"\"rps\"", settle=1, initrd="initramfs-dev.cpio",
                           run=["--disk", disk, "--rng"]))
    s, down = medians(runs)
    print(f"redis under load: stood still {down:.1f} ms (of {s:.2f} s)", flush=True)


try:
    for name, what in (("qemu", beside_qemu), ("idle", idle), ("redis", redis)):
        if opt.only in (None, name):
            what()
finally:
    end_all()
    shutil.rmtree(top, ignore_errors=True)
