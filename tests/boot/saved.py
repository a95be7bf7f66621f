#!/usr/bin/env python3
"""Saved VMs from outside, on whole boots: what went into a file and came out of it, as often as wanted and under any
scheme, ends as the run that was never interrupted. And whatever fails meanwhile, one VM goes on or one file has it.

	saved.py GNOMON GUEST_KIT APIC_ELF suspend|chain|limit|junk|faults|damage [COUNT [SEED]]

COUNT: so many suspends, checkpoints, faults, damaged files."""
import atexit, json, os, random, resource, shutil, signal, struct, subprocess, sys, tempfile, time

gnomon, kit, apic, case = os.path.abspath(sys.argv[1]), sys.argv[2], os.path.abspath(sys.argv[3]), sys.argv[4]
count = int(sys.argv[5]) if len(sys.argv) > 5 else 10
rnd = random.Random(int(sys.argv[6]) if len(sys.argv) > 6 else 1)
kernel = os.path.join(kit, "vmlinux-cloud")
if not os.path.exists(kernel):
    print("saved.py: no guest kit; run 'make guest'", file=sys.stderr)
    sys.exit(77)
kernel, initrd, initrd_dev = (os.path.abspath(os.path.join(kit, x)) for x in ("vmlinux-cloud", "initramfs.cpio", "initramfs-dev.cpio"))
work = tempfile.mkdtemp(prefix="gnomon-saved-")
os.chdir(work)
SCHEMES = "native", "brute", "shadow", "ept"
QUICK = "native", "shadow", "ept"  # brute rebuilds everything at each of the guest's many switches
APPEND = "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work="
started, failures = [], 0


@atexit.register
def clean_up():
    for p in started:
        if p.poll() is None:
            p.kill()
            p.wait()
    shutil.rmtree(work, ignore_errors=True)


def fail(text):
    global failures
    failures += 1
    print(f"saved.py: {text}", file=sys.stderr, flush=True)


def check(ok, text):
    if not ok:
        fail(text)
    return ok


def run(*args, timeout=300, **more):
    return subprocess.run([gnomon, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          timeout=timeout, **more)


def must(*args, **more):
    r = run(*args, **more)
    check(r.returncode == 0, f"{args}: status {r.returncode}: {r.stderr}")
    return r


def one_line(r, what):
    """A failure says so in one line, and by its status."""
    check(r.returncode > 0 and r.stderr.startswith("gnomon ") and r.stderr.count("\n") == 1,
          f"{what}: status {r.returncode}, says {r.stderr!r}")


def outcome(report):
    with open(report) as f:
        g = json.load(f)["guest"]
    return g["exit"], g["instructions"], g["state_hash_no_accessed"]


def text(*names):
    return b"".join(open(n, "rb").read() for n in names if os.path.exists(n))


def forget(*names):
    for n in names:
        if os.path.exists(n):
            os.unlink(n)


# ---- suspend: on and on, under another scheme each time ----

GUESTS = [
    ["--kernel", kernel, "--initrd", initrd, "--memory", "128M", "--append", APPEND + "forkwait:5,ctxsw:20"],
    ["--kernel", kernel, "--initrd", initrd_dev, "--memory", "128M", "--append", APPEND + "console:3,balloon:40,rng:16",
     "--rng", "--balloon", "40M", "--virtio-console", "hvc", "--seed", "3"],
]


def suspend_some(guest, hops, want):
    """Returns how many suspends there were."""
    at = sorted(rnd.sample(range(1000, want[1]), hops))
    serial, done = [], 0
    forget("hvc")
    console = b""
    for i in range(hops + 1):
        args = ["resume", f"vm{i - 1}"] if i else ["run", *guest]
        args += ["--mmu", rnd.choice(SCHEMES), "--serial", f"serial{i}", "--report", "report.json"]
        if i < hops:
            args += ["--suspend", f"vm{i}", "--suspend-at", str(at[i])]
        if i and rnd.random() < 0.2:
            args.append("--verify")
        r = must(*args)
        serial.append(f"serial{i}")
        console += text("hvc")
        if i < hops and not os.path.exists(f"vm{i}"):
            fail(f"{args}: no file: {r.stderr}")
            return done
        done += i < hops
        if i:
            forget(f"vm{i - 1}")
    got = (*outcome("report.json"), text(*serial), console if len(console) == len(want[4]) else text("hvc"))
    for name, a, b in zip(("end", "instructions", "hash", "console", "virtio console"), got, want):
        check(a == b, f"suspended at {at}: {name} is {a}, not {b}")
    forget(*serial)
    return done


def test_suspend():
    done = 0
    wants = []
    for guest in GUESTS:
        must("run", *guest, "--mmu", "ept", "--serial", "serial", "--report", "report.json")
        wants.append((*outcome("report.json"), text("serial"), text("hvc")))
    while done < count:
        i = rnd.randrange(len(GUESTS))
        done += suspend_some(GUESTS[i], min(5, count - done), wants[i])
        if failures:
            break
    print(f"{done} suspends")


# ---- a running VM ----

LONG = ["--kernel", kernel, "--initrd", initrd, "--memory", "128M", "--append", APPEND + "ctxsw:30000,forkwait:40"]


def start(*args, sock="sock"):
    forget("report.json")
    p = subprocess.Popen([gnomon, *args, "--serial", "none", "--control", sock, "--report", "report.json"],
                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    started.append(p)
    while p.poll() is None and not os.path.exists(sock):
        time.sleep(0.01)
    return p


def paused(p):
    """Holds the VM, so that it does not end. False: it has."""
    r = run("control", "sock", "stop")
    return r.returncode == 0 and p.poll() is None


def finish(p, want, what):
    run("control", "sock", "cont")
    _, err = p.communicate(timeout=300)
    check(p.returncode == 0 and outcome("report.json") == want, f"{what}: status {p.returncode}, ended as {err!r}, not {want}")


def listed(directory):
    return json.loads(must("checkpoint", "list", directory, "--json").stdout)


def resume_to_end(path, want, *args):
    r = run("resume", path, "--mmu", rnd.choice(QUICK), "--serial", "none", "--report", "resumed.json", *args)
    if check(r.returncode == 0, f"resume {path}: status {r.returncode}: {r.stderr}"):
        got = outcome("resumed.json")
        check(got == want, f"resume {path}: {got}, not {want}")


def reference():
    must("run", *LONG, "--mmu", "ept", "--serial", "none", "--report", "report.json")
    return outcome("report.json")


# ---- chains ----

def take_chain(want, mmu, number):
    p = start("run", *LONG, "--mmu", mmu)
    taken = []
    for i in range(number):
        if i and rnd.random() < 0.5:
            run("control", "sock", "cont")
            time.sleep(0.05)
        if not paused(p):
            break
        compress = ["--compress", str(rnd.randrange(1, 5))] if rnd.random() < 0.3 else []
        r = must("checkpoint", "take", "sock", f"cps/c{i}", *compress)
        check(("incremental" in r.stdout) == (i > 0 and mmu != "native"), f"checkpoint {i}: {r.stdout}")
        taken.append(f"c{i}")
        if rnd.random() < 0.5:
            run("control", "sock", "cont")
    finish(p, want, f"{number} checkpoints under {mmu}")
    return taken


def test_chain():
    want = reference()
    os.mkdir("cps")
    taken = take_chain(want, rnd.choice(("shadow", "ept")), count)
    check(len(taken) == count, f"only {len(taken)} of {count} checkpoints were taken before the guest ended")
    names = {e["name"] for e in listed("cps")}
    check(names == set(taken) and not any(e["problem"] for e in listed("cps")), f"listed: {names}, not {taken}")
    for name in {taken[0], taken[len(taken) // 2], taken[-1]}:
        resume_to_end(f"cps/{name}", want)
    for name in rnd.sample(taken[:-1], len(taken) // 2):
        must("checkpoint", "delete", f"cps/{name}")
        taken.remove(name)
    left = listed("cps")
    check({e["name"] for e in left} == set(taken) and not any(e["problem"] for e in left), f"after deleting: {left}")
    for name in {taken[0], taken[-1]}:
        resume_to_end(f"cps/{name}", want, "--verify")
    check(sorted(os.listdir("cps")) == sorted(taken), f"something is left: {os.listdir('cps')}")
    print(f"{count} checkpoints")


def test_limit():
    """The longest chain there can be is whole, and what follows it begins another."""
    header = struct.pack("<8I", 0x1badb002, 0x10000, -(0x1badb002 + 0x10000) & 0xffffffff, 0x100000, 0x100000, 0, 0, 0x100020)
    with open("spin", "wb") as f:
        f.write(header + b"\xeb\xfe")
    p = start("run", "--kernel", "spin", "--memory", "4M", "--mmu", "ept")
    paused(p)  # so all of them are the same state
    os.mkdir("cps")
    for i in range(257):
        r = must("checkpoint", "take", "sock", f"cps/c{i}")
        check(("incremental" in r.stdout) == (i not in (0, 256)), f"checkpoint {i}: {r.stdout}")
    check("as long as one may be" in r.stdout, f"the 257th: {r.stdout}")
    run("control", "sock", "quit")
    p.communicate()
    insns = str(listed("cps")[0]["instructions"] + 1000)
    ends = set()
    for name in "c0", "c255", "c256":
        must("resume", f"cps/{name}", "--serial", "none", "--limit-insns", insns, "--report", "r.json")
        ends.add(outcome("r.json"))
    check(len(ends) == 1, f"the same state, continued: {ends}")


# ---- junk ----

def test_junk():
    """A directory with anything in it: states are told from it, and what could be one is not passed over."""
    must("run", "--kernel", apic, "--memory", "16M", "--serial", "none", "--suspend", "state", "--suspend-at", "100000")
    os.mkdir("d")
    os.mkdir("d/directory")
    os.mkfifo("d/pipe")
    os.symlink("/nowhere", "d/dangling")
    os.symlink("pipe", "d/to-a-pipe")
    os.symlink("../state", "d/link")
    data = open("state", "rb").read()
    for name, what in (("empty", b""), ("short", b"abc"), ("text", b"nothing\n" * 1000), (".gnomon-12ab3c.part", data[:5000]),
                       ("cut", data[:5000]), ("version", data[:8] + b"\x07" + data[9:]), ("one\x1b[31m\nred", data), (b"not\xffutf", data)):
        with open(os.path.join(b"d", name if isinstance(name, bytes) else name.encode()), "wb") as f:
            f.write(what)
    want = {"link": None, "one\x1b[31m\nred": None, "not?utf": None, "cut": "damaged or cut off", "version": "of a version that is not known here"}
    first = must("checkpoint", "list", "d", "--json").stdout
    got = {e["name"]: e["problem"] for e in json.loads(first)}
    check(got == want, f"listed: {got}, not {want}")
    keys = ["name", "id", "parent", "seconds", "instructions", "memory", "bytes", "disks", "problem"]
    check(all(list(e) == keys for e in json.loads(first)), f"keys: {[list(e) for e in json.loads(first)]}")
    check(must("checkpoint", "list", "d", "--json").stdout == first, "listed twice, not the same")
    out = must("checkpoint", "list", "d").stdout
    check("\x1b" not in out and len(out.splitlines()) == 1 + len(want) + 2, f"printed: {out!r}")
    one_line(run("checkpoint", "delete", "d/link"), "delete beside a damaged state")
    check(os.path.exists("d/link"), "it is deleted")
    for name in "cut", "version":
        one_line(run("checkpoint", "show", "d/" + name), name)
        os.unlink("d/" + name)
    must("checkpoint", "delete", "d/link")
    for name in "pipe", "empty", "text", "directory", "to-a-pipe":
        for command in ("resume",), ("checkpoint", "show"), ("checkpoint", "delete"):
            one_line(run(*command, "d/" + name), f"{command} {name}")
    must("checkpoint", "show", "state")


# ---- faults ----

class Faults:
    """A VM that is to come to its end, a directory of its checkpoints, and what goes wrong meanwhile."""

    def __init__(self):
        self.want = reference()
        self.faults, self.kinds, self.p, self.n, self.vms, self.restored = 0, {}, None, 0, 0, 0
        os.mkdir("cps")
        os.mkdir("gone")

    def new_vm(self):
        """From the beginning, or from what there is."""
        states = [e["name"] for e in listed("cps")]
        mmu = rnd.choice(QUICK)
        if states and rnd.random() < 0.5:
            self.p = start("resume", "cps/" + rnd.choice(states), "--mmu", mmu)
        else:
            self.p = start("run", *LONG, "--mmu", mmu)
        self.vms += 1
        if len(states) > 12:
            shutil.rmtree("cps")
            os.mkdir("cps")

    def name(self):
        self.n += 1
        return f"cps/s{self.n}"

    def held(self):
        """A VM that waits; a new one if it has ended, as it should."""
        while True:
            if self.p and paused(self.p):
                return
            if self.p:
                self.ended()
            self.new_vm()

    def ended(self):
        finish(self.p, self.want, f"after {self.faults} faults")
        self.p = None

    def go(self):
        run("control", "sock", "cont")

    def limit(self, bytes_):
        resource.prlimit(self.p.pid, resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))

    def refused(self, r, path, what):
        one_line(r, what)
        check(not path or not os.path.lexists(path), f"{what}: {path} is there")

    def full_disk(self, *command):
        path = self.name()
        self.limit(rnd.choice((0, 1, 4096, rnd.randrange(300000), rnd.randrange(20 << 20))))
        r = run(*command, "sock", path)
        self.limit(resource.RLIM_INFINITY)
        if r.returncode == 0:  # an incremental one may have fitted
            check(command[0] == "checkpoint" and run("checkpoint", "show", path).returncode == 0, f"{command}: {r.stdout}")
        else:
            self.refused(r, path, "a full disk")

    def full_disk_take(self):
        self.full_disk("checkpoint", "take")

    def full_disk_suspend(self):
        self.full_disk("suspend")

    def bad_path(self):
        command = rnd.choice((("checkpoint", "take"), ("suspend",)))
        with open("file", "w") as f:
            f.write("precious")
        long = "x" * 300
        path = rnd.choice(("file", "gone/no/where", "file/below", long, "cps", "/proc/nothing", "/dev/null", "cps/a\nb" if len(command) > 1 else "cps", "y" * 5000))
        r = run(*command, "sock", path)
        self.refused(r, None, f"{command} {path[:30]!r}")
        check(open("file").read() == "precious", f"{command} {path}: a file is changed")

    def busy(self):
        a = subprocess.Popen([gnomon, "checkpoint", "take", "sock", self.name()], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        b = run("checkpoint", "take", "sock", self.name())
        _, err = a.communicate()
        check(a.returncode == 0 or b.returncode == 0, f"two at once: neither: {err} {b.stderr}")
        for status, said in (a.returncode, err), (b.returncode, b.stderr):
            check(status == 0 or (said.count("\n") == 1 and ("running already" in said or "being written" in said)), f"two at once: {said!r}")

    def interrupted_take(self):
        path, sig = self.name(), rnd.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
        if rnd.random() < 0.5:
            self.go()
        c = subprocess.Popen([gnomon, "checkpoint", "take", "sock", path, *rnd.choice(([], ["--full"], ["--compress", "9", "--full"]))],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(rnd.random() * 0.1)
        c.send_signal(sig)
        _, err = c.communicate(timeout=120)
        if sig == signal.SIGKILL:  # the VM knows nothing of it
            while self.p.poll() is None and '"running"' in run("control", "sock", "query-checkpoint", "--json").stdout:
                time.sleep(0.02)
        elif c.returncode > 0:
            check(err.count("\n") == 1, f"interrupted: {err!r}")
            check(not os.path.exists(path) or self.p.poll() is not None or "hung up" in err, f"interrupted: {path} is there: {err!r}")
        if os.path.exists(path):
            check(run("checkpoint", "show", path).returncode == 0, f"interrupted: {path} is damaged")

    def interrupted_suspend(self):
        """The file has the VM, or the VM goes on."""
        path = self.name()
        c = subprocess.Popen([gnomon, "suspend", "sock", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(rnd.random() * 0.1)
        c.send_signal(rnd.choice((signal.SIGINT, signal.SIGKILL)))
        c.communicate(timeout=120)
        r = run("control", "sock", "query-status")  # after what it may have begun
        if r.returncode == 0 and "suspended" not in r.stdout and not os.path.exists(path):
            return
        self.take_up(path)

    def take_up(self, path):
        _, err = self.p.communicate(timeout=120)
        check(self.p.returncode == 0 and ": suspended " in err and os.path.exists(path), f"suspended: {err!r}, {os.listdir('cps')}")
        self.p = start("resume", path, "--mmu", rnd.choice(QUICK))

    def directory_goes(self):
        d = f"gone/{self.n}"
        os.mkdir(d)
        self.go()
        c = subprocess.Popen([gnomon, "checkpoint", "take", "sock", d + "/x", "--full"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(rnd.random() * 0.05)
        os.rename(d, d + ".away")
        self.n += 1
        _, err = c.communicate(timeout=120)
        there = os.listdir(d + ".away")
        check(c.returncode == 0 if there else c.returncode > 0 and err.count("\n") == 1 or self.p.poll() is not None,
              f"a directory that is renamed: {c.returncode} {err!r} {there}")
        shutil.rmtree(d + ".away")

    def kill_vm(self):
        """Then what it had written is all there is, and it is whole."""
        path = self.name()
        command = rnd.choice((["suspend"], ["checkpoint", "take"], ["checkpoint", "take"]))
        self.go()
        c = subprocess.Popen([gnomon, *command, "sock", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(rnd.random() * 0.15)
        self.p.kill()
        self.p.communicate()
        _, err = c.communicate(timeout=120)
        check(c.returncode == 0 or err.count("\n") == 1, f"the VM is killed: {err!r}")
        check(c.returncode != 0 or os.path.exists(path), f"the VM is killed: {command} said yes")
        self.p = None
        forget("sock")
        self.look()

    def broken_delete(self):
        states = [e["name"] for e in listed("cps")]
        if len(states) < 3:
            for i in range(3):
                run("checkpoint", "take", "sock", self.name())
            states = [e["name"] for e in listed("cps")]
        if not states:
            return
        path = "cps/" + rnd.choice(states)
        if rnd.random() < 0.4:
            bytes_ = rnd.randrange(1 << 20)
            r = run("checkpoint", "delete", path,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY)))
            if r.returncode:
                one_line(r, "delete on a full disk")
                check(os.path.exists(path), "delete failed, and did it")
        else:
            c = subprocess.Popen([gnomon, "checkpoint", "delete", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(rnd.random() * 0.06)
            c.send_signal(rnd.choice((signal.SIGKILL, signal.SIGINT)))
            c.communicate(timeout=120)
        self.look()

    def look(self):
        """All that is in the directory can be restored, and there is nothing else in it."""
        states = listed("cps")
        for e in states:
            check(not e["problem"], f"{e['name']}: {e['problem']}")
        names = {e["name"] for e in states}
        others = {n for n in os.listdir("cps") if n not in names}
        check(all(n.startswith(".gnomon-") and n.endswith(".part") for n in others), f"something is left: {others}")
        if names and rnd.random() < 0.15:
            self.restored += 1
            resume_to_end("cps/" + rnd.choice(sorted(names)), self.want)

    def run(self):
        kinds = [self.full_disk_take, self.full_disk_take, self.full_disk_suspend, self.bad_path, self.busy, self.interrupted_take,
                 self.interrupted_take, self.interrupted_suspend, self.directory_goes, self.kill_vm, self.broken_delete, self.broken_delete]
        rnd.shuffle(kinds)
        while self.faults < count and failures < 5:
            self.held()
            kind = kinds[self.faults % len(kinds)]
            kind()
            self.faults += 1
            self.kinds[kind.__name__] = self.kinds.get(kind.__name__, 0) + 1
            if rnd.random() < 0.3:
                self.go()
        if self.p:
            self.ended()
        self.look()
        print(f"{self.faults} faults, {self.vms} VMs, {self.restored} restored: " + ", ".join(f"{n} {k}" for k, n in sorted(self.kinds.items())))


# ---- damaged files ----

def damage(data):
    """Changes bytes. Returns what was done."""
    at = rnd.choice((rnd.randrange(len(data)), rnd.randrange(64), rnd.randrange(6000), len(data) - 1 - rnd.randrange(64)))
    how = rnd.randrange(4)
    if how == 0:
        del data[at:]
        return f"cut off at {at}"
    if how == 1:
        n = min(rnd.randrange(1, 5000), len(data) - at)
        data[at:at + n] = bytes(n)
        return f"{n} zeros at {at}"
    if how == 2:
        del data[at:at + rnd.randrange(1, 100)]
        return f"bytes missing at {at}"
    data[at] ^= 1 << rnd.randrange(8)
    return f"a bit of byte {at}"


def try_damaged(path, want, what, sure=False):
    r = run("resume", path, "--mmu", rnd.choice(SCHEMES), "--serial", "none", "--report", "resumed.json")
    if r.returncode == want[3] and os.path.exists("resumed.json"):
        check(outcome("resumed.json") == want[:3] and not sure, f"{what}: not noticed: {outcome('resumed.json')}")
        return False
    check(r.returncode in (2, 8, 10) and 0 < r.stderr.count("\n") < 20 and "gnomon resume: " in r.stderr, f"{what}: status {r.returncode}: {r.stderr}")
    return True


def test_damage():
    small = ["--kernel", apic, "--memory", "16M", "--mmu", "ept", "--serial", "none"]
    r = run("run", *small, "--report", "report.json")
    want = (*outcome("report.json"), r.returncode)
    # a chain of three by a VM that resumes what it suspends would have no parents: taken by one that runs
    must("run", *small, "--suspend", "whole", "--suspend-at", str(want[1] // 2))
    p = start("resume", "whole", "--mmu", "ept", "--suspend", "never", "--suspend-on", "never printed")
    if paused(p):
        for name in "a", "b", "c":
            must("checkpoint", "take", "sock", name)
            run("control", "sock", "cont") if name == "b" else None
            paused(p)
    run("control", "sock", "quit")
    p.communicate()
    noticed = tried = 0
    states = [n for n in ("whole", "a", "b", "c") if os.path.exists(n)]
    while tried < count and failures < 5:
        os.makedirs("d", exist_ok=True)
        for n in states:
            shutil.copy(n, "d/" + n)
        victim = rnd.choice(states)
        data = bytearray(open(victim, "rb").read())
        kind = rnd.randrange(8)
        sure = False
        if kind == 0 and len(states) == 4:
            what, sure = "a parent is missing", True
            os.unlink("d/b")
            opened = "c"
        elif kind == 1 and len(states) == 4:
            what, sure = "a parent is another state", True
            os.replace("d/a", "d/b")
            opened = "c"
        elif kind == 2:
            what, sure = "another version", True
            data[8] = 2
            open("d/" + victim, "wb").write(data)
            opened = victim
        else:
            what = f"{victim}: {damage(data)}"
            open("d/" + victim, "wb").write(data)
            opened = victim if victim in ("whole", "c") or len(states) < 4 else "c"
        forget("resumed.json")
        tried += 1
        noticed += try_damaged("d/" + opened, want, what, sure)
        r = run("checkpoint", "list", "d", "--json")
        check(r.returncode == 0 and isinstance(json.loads(r.stdout), list), f"list: {r.stderr}")
        shutil.rmtree("d")
    for n in states:
        forget("resumed.json")
        check(not try_damaged(n, want, n), f"{n} cannot be resumed: nothing tested")
    print(f"{tried} damaged, {noticed} noticed, the others ended as they should; states {states}")


{"suspend": test_suspend, "chain": test_chain, "limit": test_limit, "junk": test_junk, "faults": lambda: Faults().run(), "damage": test_damage}[case]()
sys.exit(1 if failures else 0)
