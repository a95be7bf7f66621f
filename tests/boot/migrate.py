#!/usr/bin/env python3
"""
A Debian that works is moved between processes: migrate.py GNOMON KIT [--moves N] [--faults N] [--seed S] [-v]

Moves: at random moments, by every mode, between all schemes, with and without TLS, throttling, compression, a cap; the
guest ends as if nothing had been: state hash, instructions, console, and a disk's contents.

Faults: the same over a wire that breaks at a section of the protocol or at a byte: it is cut, stalls, turns a bit over,
loses the second half, comes back soon, late or never; or one of the two processes is killed. Then exactly one process
runs the VM to its end, or one stands still with all of it.
"""
import argparse, hashlib, json, os, random, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time

APPEND = "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work="
WORK = "forkwait:700"
DISK_WORK = "forkwait:200,disk:8,forkwait:400"
WAIT = 60

ap = argparse.ArgumentParser()
ap.add_argument("gnomon")
ap.add_argument("kit")
ap.add_argument("--moves", type=int, default=0)
ap.add_argument("--faults", type=int, default=0)
ap.add_argument("--seed", type=int, default=1)
ap.add_argument("-v", action="store_true")
opt = ap.parse_args()
rnd = random.Random(opt.seed)
top = tempfile.mkdtemp(prefix="migrate.")


class Failure(Exception):
    pass


def check(ok, *what):
    if not ok:
        raise Failure(" ".join(str(w) for w in what))


# ---- guests ----

class Guest:
    """One that stands at its start in a file, and how it ends if left alone."""

    def __init__(self, kind):
        self.kind = kind
        self.file = f"{top}/{kind}.vm"
        self.disk = f"{top}/disk.img" if kind == "disk" else None
        initrd = "initramfs-dev.cpio" if self.disk else "initramfs.cpio"
        args = ["--kernel", f"{opt.kit}/vmlinux-cloud", "--initrd", f"{opt.kit}/{initrd}", "--memory", "128M",
                "--append", APPEND + (DISK_WORK if self.disk else WORK), "--mmu", "ept"]
        if self.disk:
            with open(self.disk, "wb") as f:
                f.truncate(16 << 20)
            args += ["--disk", self.disk]
        out = subprocess.run([opt.gnomon, "run", *args, "--suspend", self.file, "--suspend-on", "GNOMON-INIT",
                              "--serial", f"{top}/before"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        check(out.returncode == 0 and os.path.exists(self.file), "no beginning:", out.stderr)
        if self.disk:
            shutil.copy2(self.disk, self.disk + ".start")
        alone = subprocess.run([opt.gnomon, *self.resume("ept"), "--serial", f"{top}/alone", "--report",
                                f"{top}/alone.json"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        check(alone.returncode == 0, "it does not end well alone:", alone.stderr)
        self.end = ending(f"{top}/alone.json")
        self.console = read(f"{top}/alone")
        check(b"GNOMON-DONE ok" in self.console, "it did not do its work")
        self.contents = self.sum()

    def resume(self, mmu):
        return ["resume", self.file, "--mmu", mmu] + (["--force"] if self.disk else [])

    def fresh(self):
        if self.disk:
            shutil.copy2(self.disk + ".start", self.disk)

    def sum(self):
        return hashlib.sha256(read(self.disk)).digest() if self.disk else None


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except FileNotFoundError:
        return b""


def ending(report):
    try:
        g = json.loads(read(report))["guest"]
    except (ValueError, KeyError):
        return None
    return (g["exit"], g["state_hash"], g["instructions"]) if "state_hash" in g else None


# ---- the wire ----

HEAD = 12


class Wire:
    """Carries connections to the destination, section by section; one of them with a fault."""

    def __init__(self, to, fault=None, on_fault=None):
        self.to, self.fault, self.on_fault = to, fault, on_fault
        self.happened = False
        self.closed_until = 0
        self.count = 0
        self.sections = [[], []]
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(8)
        self.address = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if time.time() < self.closed_until:
                near.close()
                continue
            try:
                far = socket.create_connection(self.to)
            except OSError:
                near.close()
                continue
            for s in (near, far):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            n, self.count = self.count, self.count + 1
            pair = (near, far)
            for d in (0, 1):
                threading.Thread(target=self.carry, args=(pair, d, n), daemon=True).start()

    def close(self):
        self.listener.close()

    def cut(self, pair):
        for s in pair:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def carry(self, pair, d, n):
        try:
            self.pass_on(pair, d, n)
        except OSError:
            pass
        self.cut(pair)

    def pass_on(self, pair, d, n):
        src, dst = pair[d], pair[1 - d]
        fault = self.fault if self.fault and self.fault["from"] == d and n == 0 else None
        if fault and "byte" in fault:
            self.pass_bytes(src, dst, pair, fault)
            return
        if fault is None:
            while True:
                b = src.recv(65536)
                if not b:
                    return
                dst.sendall(b)
        dst.sendall(self.take(src, HEAD))
        seen = 0
        while True:
            name, raw = self.section(src)
            hit = not self.happened and re.fullmatch(fault["section"], name) and seen == fault["nth"]
            if re.fullmatch(fault["section"], name):
                seen += 1
            if not hit:
                dst.sendall(raw)
                continue
            if self.strike(dst, pair, raw, fault):
                return

    def strike(self, dst, pair, raw, fault):
        """True if nothing more passes."""
        self.happened = True
        kind = fault["kind"]
        if kind == "corrupt":
            at = rnd.randrange(len(raw))
            raw = raw[:at] + bytes([raw[at] ^ 1 << rnd.randrange(8)]) + raw[at + 1:]
        elif kind == "half":
            raw = raw[:len(raw) // 2]
        elif kind in ("before", "stall", "kill-source", "kill-dest") and not fault["delivered"]:
            raw = b""
        self.closed_until = time.time() + fault["away"]
        if kind.startswith("kill"):
            if not raw:
                self.on_fault(kind)
            dst.sendall(raw)
            if raw:
                time.sleep(rnd.choice((0, 0, 0.02)))
                self.on_fault(kind)
            return False
        dst.sendall(raw)
        if kind == "slow":
            time.sleep(0.5)
        if kind in ("corrupt", "slow"):
            return False
        if kind == "stall":
            time.sleep(4)
        return True

    def pass_bytes(self, src, dst, pair, fault):
        passed = 0
        while True:
            b = src.recv(65536)
            if not b:
                return
            if not self.happened and passed + len(b) > fault["byte"]:
                at = fault["byte"] - passed
                self.happened = True
                self.closed_until = time.time() + fault["away"]
                if fault["kind"] == "corrupt":
                    b = b[:at] + bytes([b[at] ^ 4]) + b[at + 1:]
                else:
                    dst.sendall(b[:at])
                    if fault["kind"] == "stall":
                        time.sleep(4)
                    return
            passed += len(b)
            dst.sendall(b)

    @staticmethod
    def take(s, n):
        b = b""
        while len(b) < n:
            more = s.recv(min(n - len(b), 1 << 20))
            if not more:
                raise OSError("end")
            b += more
        return b

    def section(self, s):
        n = self.take(s, 1)
        head = self.take(s, n[0] + 8)
        size = int.from_bytes(head[-8:], "little")
        if size > 16 << 20:
            raise OSError("no section")
        return head[:-8].decode("latin1"), n + head + self.take(s, size + 8)


# ---- one migration ----

class Case:
    def __init__(self, guest, name):
        self.guest, self.name = guest, name
        self.dir = f"{top}/case"
        shutil.rmtree(self.dir, ignore_errors=True)
        os.mkdir(self.dir)
        guest.fresh()
        self.processes = []

    def start(self, name, *args):
        out = open(f"{self.dir}/{name}.err", "wb")
        p = subprocess.Popen([opt.gnomon, *args, "--serial", f"{self.dir}/{name}.txt", "--report",
                              f"{self.dir}/{name}.json", "--control", f"{self.dir}/{name}.sock"],
                             stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.processes.append(p)
        return p

    def serve(self, mmu, *args):
        self.there = self.start("there", "serve", "--mmu", mmu, "--listen", "tcp:127.0.0.1:0", *args)
        until = time.time() + 10
        while time.time() < until:
            m = re.search(rb"at tcp:127.0.0.1:(\d+)", read(f"{self.dir}/there.err"))
            if m:
                self.port = int(m[1])
                return
            time.sleep(0.01)
        raise Failure("serve does not wait")

    def begin(self, mmu):
        self.here = self.start("here", *self.guest.resume(mmu))
        until = time.time() + 10
        while not os.path.exists(f"{self.dir}/here.sock") and time.time() < until:
            time.sleep(0.005)

    def migrate(self, *args, timeout=WAIT):
        p = subprocess.run([opt.gnomon, "migrate", f"{self.dir}/here.sock", *args], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=timeout)
        self.said = p.stdout + p.stderr
        check(p.returncode in (0, 2, 10, 18), "gnomon migrate:", p.returncode, self.said)
        return p.returncode

    def status(self):
        p = subprocess.run([opt.gnomon, "migrate", f"{self.dir}/here.sock", "--status"], capture_output=True, text=True)
        return json.loads(p.stdout) if p.returncode == 0 else {"status": "gone"}

    def ended(self, p, name, wait):
        """How the VM of a process ended; None: it did not within that time, or there was none."""
        try:
            p.wait(wait)
        except subprocess.TimeoutExpired:
            return None
        return ending(f"{self.dir}/{name}.json")

    def finish(self):
        for p in self.processes:
            for signal in (2, 2, 9):
                if p.poll() is None:
                    p.send_signal(signal)
                    try:
                        p.wait(5)
                    except subprocess.TimeoutExpired:
                        pass
        for p, name in zip(self.processes, ("there", "here")):
            left = {f for f in os.listdir(self.dir) if f.startswith(name)} - {f"{name}.{e}" for e in ("err", "txt", "json")}
            check(p.returncode == -9 or not left, "left over:", left)

    def text(self):
        return "\n".join(f"--- {n}\n" + read(f"{self.dir}/{n}.err").decode("latin1")[-1500:] for n in ("here", "there"))


MODES = [["--precopy"], ["--postcopy"], ["--hybrid", "2"], ["--stop"]]
SCHEMES = ["native", "shadow", "ept"]


def choose(kind):
    mode = rnd.choice(MODES)
    source = rnd.choice(SCHEMES if mode[0] in ("--postcopy", "--stop") else SCHEMES[1:])
    extra = []
    if rnd.random() < 0.25:
        extra += ["--compress", "1"]
    if rnd.random() < 0.25 and mode[0] in ("--precopy", "--stop"):
        extra += ["--verify"]
    if rnd.random() < 0.25 and kind == "plain":
        extra += ["--bandwidth", "16M"]
    if rnd.random() < 0.25 and mode[0] == "--precopy":
        extra += ["--auto-converge", "--downtime-limit", "20"]
    if mode[0] in ("--precopy", "--hybrid") and rnd.random() < 0.5:
        extra += ["--dirty", rnd.choice(["wp", "present", "ad"] + (["pml"] if source == "ept" else []))]
    return mode + extra, source, rnd.choice(SCHEMES)


def same_end(case, got, parts):
    g = case.guest
    check(got == g.end, "it ends as", got, "instead of", g.end)
    check(b"".join(read(f"{case.dir}/{p}.txt") for p in parts) == g.console, "its console says something else")
    check(g.sum() == g.contents, "its disk has other contents")


def move(guest):
    args, source, dest = choose(guest.kind)
    tls = ["--tls-psk", f"{top}/key"] if rnd.random() < 0.3 else []
    name = f"{guest.kind}: {source} to {dest} {' '.join(args + tls)}"
    case = Case(guest, name)
    begun = time.time()
    try:
        case.serve(dest, *tls)
        case.begin(source)
        time.sleep(rnd.random() * 0.4)
        rc = case.migrate(f"tcp:127.0.0.1:{case.port}", *args, *tls)
        if rc == 0:
            check(case.ended(case.here, "here", WAIT)[0] == "migrated", "the source did not end as it should")
            same_end(case, case.ended(case.there, "there", WAIT), ("here", "there"))
        else: # it ended before it could be moved
            same_end(case, case.ended(case.here, "here", WAIT), ("here",))
            check("ended" in case.said or "hung up" in case.said or "nobody" in case.said or "no VM" in case.said, case.said)
        if opt.v:
            print(f"{time.time() - begun:.1f} s: {name} | {case.said.strip().splitlines()[0]}", flush=True)
        return rc == 0
    except (Failure, subprocess.TimeoutExpired, TypeError) as e:
        raise Failure(f"{name}: {e}\n{case.text()}")
    finally:
        case.finish()


# ---- faults ----

SECTIONS = [
    ["mig.hello", "config", "pages.*", "pages.*", "mig.round", "mig.state", "vcpu", "lapic", "mig.state-end", "mig.run",
     "mig.run", "mig.run", "mig.done", "mig.all", "mig.absent"],
    ["mig.welcome", "mig.accept", "mig.round", "mig.ready", "mig.ready", "mig.running", "mig.running", "mig.running",
     "mig.need", "mig.complete"],
]
KINDS = ["before", "half", "after", "corrupt", "stall", "slow", "kill-source", "kill-dest"]


def choose_fault(tls):
    d = rnd.randrange(2)
    fault = {"from": d, "away": rnd.choice((0, 0, 0, 0.5, 2, 1000)), "delivered": rnd.random() < 0.5}
    if tls:
        fault.update(kind=rnd.choice(("cut", "stall", "corrupt")), byte=rnd.choice(
            (rnd.randrange(4000), rnd.randrange(20_000_000)) if d == 0 else (rnd.randrange(300), rnd.randrange(3000))))
    else:
        fault.update(kind=rnd.choice(KINDS), section=rnd.choice(SECTIONS[d]), nth=0)
        if fault["section"] in ("pages.*", "mig.need"):
            fault["nth"] = rnd.randrange(150)
    return fault


def judge(case, fault, rc):
    """After gnomon migrate has ended. Returns what became of the VM in a word."""
    killed = case.killed
    if killed == "kill-source":
        got = case.ended(case.there, "there", 8)
        if got:
            check(got == case.guest.end, "it ran there, but ends as", got)
            return "there"
        check(case.there.poll() is None, "the destination is gone, and says", case.text())
        waits = b"waits for the source" in read(f"{case.dir}/there.err")
        check(waits or read(f"{case.dir}/there.txt") == b"", "it ran there and does not go on")
        return "lost in post-copy" if waits else "lost with the source"
    state = case.status() if case.here.poll() is None else {"status": "gone"}
    if state["status"] in ("in-doubt", "held", "stranded"):
        return unsettled(case, state, killed)
    got = case.ended(case.here, "here", WAIT)
    check(got, "the source does not end, and says", state)
    if got[0] == "migrated":
        there = case.ended(case.there, "there", WAIT)
        if killed == "kill-dest" and case.there.returncode == -9:
            return "killed after the end"
        same_end(case, there, ("here", "there"))
        return "there"
    same_end(case, got, ("here",))
    check(read(f"{case.dir}/there.txt") == b"", "it ran there, too")
    check(rc == 18 or rc == 10 or not case.wire.happened, "nobody said that it stayed:", case.said)
    return "here"


def unsettled(case, state, killed):
    check(case.said and len(state.get("error", "")) > 10, "no word on why:", state)
    check(case.here.poll() is None, "the source is gone")
    before = read(f"{case.dir}/here.txt")
    for command in ("cont", "stop"):
        p = subprocess.run([opt.gnomon, "control", f"{case.dir}/here.sock", command], capture_output=True, text=True)
        check(p.returncode and "on its way" in p.stderr, command, "was not refused:", p.stderr)
    if killed == "kill-dest":
        if state["status"] == "stranded":
            check(case.migrate("--resume") == 18, "a VM that ran elsewhere may not go on here")
            return "lost with the destination"
        check(case.migrate("--resume") == 0, "it cannot be resumed:", case.said)
        got = case.ended(case.here, "here", WAIT)
        check(got == case.guest.end, "resumed, it ends as", got)
        return "resumed by hand"
    got = case.ended(case.there, "there", 3) if state["status"] == "in-doubt" else None
    if got:
        check(got == case.guest.end and read(f"{case.dir}/here.txt") == before, "two of them:", got)
        check(case.here.poll() is None, "the source ends")
        return "there, in doubt here"
    rc = case.migrate("--recover", f"tcp:127.0.0.1:{case.port}")
    got = case.ended(case.here, "here", WAIT)
    check(got, "it is settled, but does not end:", rc, case.said)
    if got[0] == "migrated":
        same_end(case, case.ended(case.there, "there", WAIT), ("here", "there"))
        return "there, recovered"
    same_end(case, got, ("here",))
    return "here, recovered"


def break_one(guest):
    args, source, dest = choose(guest.kind)
    tls = ["--tls-psk", f"{top}/key"] if rnd.random() < 0.2 else []
    fault = choose_fault(bool(tls))
    patience = ["--stall", "1", "--patience", "2"]
    name = f"{guest.kind}: {source} to {dest} {' '.join(args + tls)}, {fault}"
    case = Case(guest, name)
    case.killed = None

    def kill(kind):
        case.killed = kind
        (case.here if kind == "kill-source" else case.there).kill()

    try:
        case.serve(dest, *tls, "--stall", "1", "--patience", "4")
        case.begin(source)
        time.sleep(rnd.random() * 0.2)
        case.wire = Wire(("127.0.0.1", case.port), fault, kill)
        rc = case.migrate(case.wire.address, *args, *tls, *patience)
        outcome = judge(case, fault, rc) if case.wire.happened else "no fault"
        case.wire.close()
        if opt.v:
            print(f"{outcome}: {name}", flush=True)
        return outcome
    except (Failure, subprocess.TimeoutExpired, TypeError) as e:
        raise Failure(f"{name}: {e}\n{case.text()}")
    finally:
        case.finish()


def main():
    if not os.path.exists(f"{opt.kit}/initramfs-dev.cpio"):
        print("migrate.py: no guest kit; run 'make guest'")
        return 77
    check(subprocess.run([opt.gnomon, "migrate", "--make-key", f"{top}/key"]).returncode == 0, "no key")
    guests = [Guest("plain"), Guest("disk")]
    moved = sum(move(guests[i % 3 == 2]) for i in range(opt.moves))
    if opt.moves:
        print(f"{moved} of {opt.moves} moved, the others had ended")
        check(moved >= opt.moves / 2, "too few of them were there in time")
    outcomes, done = {}, 0
    while done < opt.faults:
        what = break_one(guests[rnd.random() < 0.2])
        outcomes[what] = outcomes.get(what, 0) + 1
        done += what != "no fault"
    if opt.faults:
        print(f"{done} faults:", ", ".join(f"{k} {v}" for k, v in sorted(outcomes.items())))
    return 0


try:
    code = main()
except Failure as e:
    print("migrate.py: seed", opt.seed, e, file=sys.stderr)
    code = 1
finally:
    shutil.rmtree(top, ignore_errors=True)
sys.exit(code)
