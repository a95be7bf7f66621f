#!/usr/bin/env python3
"""The control socket of a running VM from outside: what it promises to scripts, what it does about clients that
promise nothing, and that none of it changes what the guest does.

	control.py GNOMON APIC_ELF DEVICE_ELF [KERNEL INITRD]

With a kernel: only that last part, on a whole boot."""
import atexit, filecmp, json, os, random, shutil, signal, socket, stat, struct, subprocess, sys, tempfile, threading, time

gnomon, apic, short = (os.path.abspath(a) for a in sys.argv[1:4])
work = tempfile.TemporaryDirectory()
failures = 0


def fail(text):
    global failures
    failures += 1
    print(f"control.py: {text}", file=sys.stderr)


def check(ok, text):
    if not ok:
        fail(text)


def path(name):
    return os.path.join(work.name, name)


def kernel(name, code):
    """A multiboot kernel without a file format: a header, then code at 1 MiB + 32."""
    header = struct.pack("<8I", 0x1badb002, 0x10000, -(0x1badb002 + 0x10000) & 0xffffffff, 0x100000, 0x100000, 0, 0, 0x100020)
    with open(path(name), "wb") as f:
        f.write(header + bytes.fromhex(code))
    return path(name)


SPIN = kernel("spin", "eb fe")                      # jmp .
IDLE = kernel("idle", "fb f4 eb fd")                # sti; 1: hlt; jmp 1b
BUTTON = kernel("button", "66 ba 00 06 66 ed f6 c4 01 74 f9 b0 21 e6 f4 f4")  # until PM1 status has PWRBTN: exit code 67


class Client:
    def __init__(self, name, tries=500):
        self.socket = socket.socket(socket.AF_UNIX)
        for i in range(tries):
            try:
                self.socket.connect(path(name))
                break
            except OSError:
                time.sleep(0.02)
        self.socket.settimeout(60)
        self.file = self.socket.makefile("rw")
        self.greeting = json.loads(self.file.readline())
        self.events = []

    def answer(self):
        """The next answer, None if the VM has hung up."""
        while True:
            line = self.file.readline()
            if not line:
                return None
            o = json.loads(line)
            if "event" not in o:
                return o
            self.events.append(o)

    def ask(self, command, **args):
        try:
            self.file.write(json.dumps({"execute": command, "arguments": args, "id": command}) + "\n")
            self.file.flush()
        except OSError:
            return None
        o = self.answer()
        check(o is None or o.get("id") == command, f"{command}: the answer's id: {o}")
        return o

    def get(self, command, **args):
        o = self.ask(command, **args) or {}
        check("return" in o, f"{command}: {o}")
        return o.get("return", {})

    def insns(self):
        return self.get("query-status")["instructions"]

    def close(self):
        self.file.close()
        self.socket.close()


started = []


def start(*args, image=SPIN, sock="s", report="r.json"):
    p = subprocess.Popen([gnomon, "run", "--kernel", image, "--memory", "16M", "--serial", "none", "--control", path(sock),
                          "--report", path(report), *args], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    started.append(p)
    return p


@atexit.register
def leave_none_running():
    for p in started:
        if p.poll() is None:
            p.kill()
            p.communicate()


def guest(report="r.json"):
    with open(path(report)) as f:
        return json.load(f)["guest"]


def ended(p, status, what):
    _, err = p.communicate(timeout=60)
    check(p.returncode == status, f"{what}: status {p.returncode} instead of {status}: {err}")
    check(not os.path.exists(path("s")), f"{what}: the socket stays")
    return err


def tell(*args):
    return subprocess.run([gnomon, "control", path("s"), *args], capture_output=True, text=True, timeout=60)


# ---- what it promises ----

def test_commands():
    p = start()
    c, watcher = Client("s"), Client("s")
    mode = os.stat(path("s")).st_mode
    check(stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600, f"mode {mode:o}")
    check(c.greeting["gnomon"]["protocol"] == 1, f"greeting {c.greeting}")
    s = c.get("query-status")
    check((s["status"], s["mmu"], s["memory"], s["clock"]) == ("running", "native", 16 << 20, "icount"), f"status {s}")
    c.get("stop")
    c.get("stop")
    before = c.insns()
    time.sleep(0.1)
    check(c.get("query-status")["status"] == "paused" and c.insns() == before, "it runs while it is paused")
    begun = time.time()
    for i in range(20):
        c.insns()
    check(time.time() - begun < 1, f"20 answers of a paused VM took {time.time() - begun:.2f} s")
    check(c.get("query-stats")["guest"]["instructions"] == before, "query-stats counts otherwise")
    check("state_hash" not in c.get("query-stats")["guest"] and len(c.get("query-stats", hash=True)["guest"]["state_hash"]) == 32,
          "query-stats and the hash")
    c.get("cont")
    time.sleep(0.1)
    check(c.insns() > before, "it does not go on")
    names = [x["name"] for x in c.get("query-commands")]
    check({"query-status", "stop", "cont", "quit", "query-stats", "query-jobs"} <= set(names), f"commands {names}")
    for bad, cls, says in (("frob", "CommandNotFound", "frob"), ("stop", "InvalidArgument", "'x'"),
                           ("cancel-job", "InvalidArgument", "'kind' is missing")):
        e = c.ask(bad, **({"x": 1} if bad == "stop" else {})).get("error", {})
        check(e.get("class") == cls and says in e.get("desc", ""), f"{bad}: {e}")
    c.get("quit")
    err = ended(p, 130, "quit")
    check("interrupted" in err and guest()["exit"] == "interrupted", f"quit: {err}")
    check(watcher.answer() is None, "a watcher got an answer")
    check([e["event"] for e in watcher.events] == ["STOP", "RESUME", "SHUTDOWN"], f"events {watcher.events}")
    check(watcher.events[-1]["data"]["reason"] == "interrupted", f"SHUTDOWN: {watcher.events[-1]}")


def test_client():
    p = start()
    Client("s").close()
    follower = subprocess.Popen([gnomon, "control", path("s"), "--events", "--json"], stdout=subprocess.PIPE, text=True)
    r = tell("query-status")
    check(r.returncode == 0 and "status: running\n" in r.stdout, f"control query-status: {r}")
    time.sleep(0.3)  # the follower is there
    check(tell("stop").stdout == "", "control stop prints something")
    r = tell("--json", "query-status")
    check(json.loads(r.stdout)["status"] == "paused", f"control --json: {r}")
    r = tell("query-stats", "hash=true", "--json")
    check(r.stdout.count("\n") == 1 and "state_hash" in json.loads(r.stdout)["guest"], f"query-stats: {r}")
    r = tell("query-stats", '{"hash": true}')
    check(r.returncode == 0 and "state_hash: " in r.stdout, f"query-stats with JSON: {r}")
    for args, status, says in ((["frob"], 18, "no command 'frob'"), (["stop", "x=1"], 18, "unknown argument 'x'"),
                               (["query-stats", "hash=2"], 2, "true or false"), (["stop", "x"], 2, "KEY=VALUE"),
                               (["stop", "{"], 2, "arguments"), ([], 2, "COMMAND or --events"),
                               (["--frob"], 2, "--frob"), (["cancel-job", "kind=x"], 18, "'x'")):
        r = tell(*args)
        check(r.returncode == status and says in r.stderr and r.stderr.count("\n") == 1, f"control {args}: {r}")
    tell("cont")
    tell("quit")
    ended(p, 130, "control quit")
    out, _ = follower.communicate(timeout=60)
    check([json.loads(x)["event"] for x in out.splitlines()] == ["STOP", "RESUME", "SHUTDOWN"], f"--events: {out}")
    check(follower.returncode == 0, f"--events: status {follower.returncode}")
    r = tell("quit")
    check(r.returncode == 2 and r.stderr.count("\n") == 1, f"control without a VM: {r}")


def test_path():
    for sig, status in ((signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGSEGV, -signal.SIGSEGV)):
        p = start()
        Client("s").close()
        p.send_signal(sig)
        ended(p, status, sig.name)
    p = start()
    Client("s").get("stop")
    p.send_signal(signal.SIGINT)
    ended(p, 130, "SIGINT while paused")
    p = start()
    Client("s").close()
    q = start(report="other.json")
    _, err = q.communicate(timeout=60)
    check(q.returncode == 2 and "in use" in err, f"a live socket: {q.returncode} {err}")
    check(not os.path.exists(path("other.json")), "refused, but there is a report")
    p.kill()
    p.communicate()
    check(os.path.exists(path("s")), "a killed run's socket is gone: nothing tested")
    p = start()
    c = Client("s")
    c.get("quit")
    ended(p, 130, "a stale socket")
    with open(path("file"), "w") as f:
        f.write("precious")
    for sock, says in (("file", "no socket"), ("none/s", "No such file"), ("x" * 200, "longer than")):
        p = start(sock=sock)
        _, err = p.communicate(timeout=60)
        check(p.returncode == 2 and says in err and err.count("\n") == 1, f"--control {sock}: {p.returncode} {err}")
    check(open(path("file")).read() == "precious", "a file is gone")


def test_idle():
    """A guest that waits for the network answers as quickly as one that runs."""
    p = start("--net", "user", image=IDLE)
    c = Client("s")
    c.insns()
    begun = time.time()
    for i in range(30):
        c.insns()
    check(time.time() - begun < 1.5, f"30 answers of an idle VM took {time.time() - begun:.2f} s")
    c.get("quit")
    ended(p, 130, "idle")


def test_wall_clock():
    p = start("--clock", "wall")
    c = Client("s")
    began, first = time.time(), c.get("query-status")["virtual_ns"]
    c.get("stop")
    time.sleep(1.5)
    c.get("cont")
    time.sleep(0.2)
    passed, last = time.time() - began, c.get("query-status")["virtual_ns"]
    # a guest that executes faster than its clock would only make this larger than the time it ran
    rate_bound = 2.5
    check((last - first) / 1e9 < (passed - 1.5) * rate_bound + 0.3, f"{(last - first) / 1e9:.2f} s virtual in {passed:.2f} s, 1.5 s paused")
    c.get("quit")
    ended(p, 130, "wall clock")


def test_power_button():
    for mmu in "native", "ept":
        p = start("--mmu", mmu, image=BUTTON)
        c = Client("s")
        c.get("system_powerdown")
        ended(p, 67, f"power button, {mmu}")


def test_several():
    """One of two VMs on a machine is held: the other one goes on to its end, and both end as they do alone."""
    for name in "a", "b":
        with open(path(name + ".vm"), "w") as f:
            f.write(f'kernel = "{short}"; memory = "16M"; mmu = "ept"; control = "{name}.sock"; report = "{name}.json"; serial = "none";\n')
    run = [gnomon, "run", "--vm", path("a.vm"), "--vm", path("b.vm"), "--slice", "1000"]
    subprocess.run(run, stderr=subprocess.DEVNULL, timeout=60)
    want = guest("a.json")
    p = subprocess.Popen(run, stderr=subprocess.DEVNULL)
    started.append(p)
    a = Client("a.sock")
    held = "return" in (a.ask("stop") or {})  # it may be over already
    b = Client("b.sock", 1)
    while b.get("query-status")["status"] != "ended":  # its socket stays until both have
        time.sleep(0.05)
    check([e["event"] for e in b.events] == ["SHUTDOWN"], f"the other VM: {b.events}")
    check(not held or a.get("query-status")["status"] == "paused", "the one that is held is not paused")
    if held:
        a.ask("cont")
    p.wait(timeout=60)
    for name in "a", "b":
        check(guest(name + ".json")["state_hash"] == want["state_hash"], f"VM {name} ended otherwise")


# ---- clients that promise nothing ----

def raw(data, half_close=False):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path("s"))
    s.settimeout(60)
    try:
        s.sendall(data)
        if half_close:
            s.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # cut off
    return s


def read_all(s):
    data = b""
    try:
        while chunk := s.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data.decode().splitlines()


def test_hostile():
    p = start()
    c = Client("s")
    for data in (b'{"execute": "query-sta', b"\x00\xff\xfe", b'{"execute":"stop"', b""):
        raw(data).close()
    lines = read_all(raw(b"[" * 100000 + b'\n{"execute":"x\xff"}\n{"execute":"stop","id":' + b"9" * 400 + b'}\n7\n{"execute":"stop","a\xc3\xa9":1}\n'
                         b'{"execute":"query-status","id":{"a":[1]}}\n', True))
    answers = [json.loads(x) for x in lines[1:]]
    check([a.get("error", {}).get("class") for a in answers] == ["Syntax", "Syntax", "Syntax", "InvalidArgument", "InvalidArgument", None],
          f"hostile lines: {lines}")
    check(answers[-1].get("id") == {"a": [1]}, f"id: {answers[-1]}")
    lines = read_all(raw(b"x" * (1 << 20) + b"yz"))
    check("1 MiB" in lines[-1], f"a long line: {lines}")
    # One that asks and never reads: it is not listened to any more, or is cut off, and nobody else notices.
    deaf = raw(b"")
    deaf.setblocking(False)
    request = b'{"execute":"query-commands"}\n' * 1000
    sent = 0
    try:
        while sent < 8 << 20:
            sent += deaf.send(request)
    except BlockingIOError:
        pass
    check(c.get("query-status")["status"] == "running" and sent < 8 << 20, "a client that does not read")
    many = [raw(b"") for i in range(20)]
    many[-1].settimeout(10)
    check(b"as many clients" in many[-1].recv(4096), "more clients than there may be")
    for s in many + [deaf]:
        s.close()
    for i in range(100):
        try:
            check(Client("s").greeting["gnomon"]["protocol"] == 1, "no greeting")
            break
        except KeyError:
            time.sleep(0.05)
    else:
        fail("closed connections are not given back")
    rnd = random.Random(1)
    for i in range(200):
        data = b"".join(rnd.choice([b'{"execute":"stop"}\n', b'{"execute":"cont"}\n', b'{"execute":"query-stats"}\n', b"{}\n"])
                        for n in range(rnd.randrange(1, 5)))
        raw(data[:rnd.randrange(1, len(data) + 1)]).close()
    c.get("cont")
    c.get("quit")
    ended(p, 130, "hostile clients")


# ---- nothing changes ----

def hammer(seed):
    rnd = random.Random(seed)
    try:
        c = Client("s")
        while o := c.ask(rnd.choice(["stop", "cont", "cont", "query-status", "query-stats", "query-events", "query-jobs"])):
            done[seed] += "return" in o
            if o.get("error", {}).get("desc") == "the VM has ended":
                break
        c.close()
    except (OSError, ValueError):
        pass  # it ended meanwhile


def test_same(*args, image=apic, least=1):
    start(*args, image=image).communicate(timeout=600)
    want = guest()
    p = start(*args, image=image)
    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    # Somebody may have said "stop" last, when the others had ended.
    while p.poll() is None:
        tell("cont")
        time.sleep(0.05)
    p.communicate()
    for t in threads:
        t.join()
    got = guest()
    check({k: got[k] for k in want} == want, f"{args}: ended otherwise: {got} instead of {want}")
    check(sum(done) >= least, f"{args}: only {sum(done)} commands were executed")


# ---- copying disks in use ----

def disk(*args):
    return subprocess.run([gnomon, "disk", *args], capture_output=True, text=True, timeout=60)


def settled(c, **want):
    """Waits for the end of the mirror."""
    for i in range(3000):
        job = c.get("query-mirror")
        if job.get("status") != "running":
            break
        time.sleep(0.01)
    check(all(job.get(k) == v for k, v in want.items()), f"mirror: {job}, wanted {want}")
    return job


def test_mirror():
    old, new, third = path("old.img"), path("new,1.img"), path("third.img")
    disk("create", old, "40M", "--format", "raw")
    os.chmod(old, 0o640)
    disk("bench", old, "--write", "--random", "--block", "5K", "--total", "3M")
    shutil.copy(old, path("same.img"))
    disk("create", path("ro.img"), "1M")
    p = start("--disk", old, "--disk", path("ro.img") + ",ro")
    c = Client("s")
    check(c.get("query-mirror") == {"kind": "mirror", "status": "none"}, "a mirror before there was one")
    for args, cls, says in (({"file": "x"}, "InvalidArgument", "absolute"), ({"file": old}, "Failed", "File exists"),
                            ({"file": new, "format": "vhd"}, "InvalidArgument", "qcow2 or raw"),
                            ({"file": new, "disk": 2}, "InvalidArgument", "no disk 2"),
                            ({"file": new, "disk": 1}, "Failed", "read only"),
                            ({"file": new, "speed": -1}, "InvalidArgument", "speed"),
                            ({"file": path("none/x")}, "InvalidArgument", "No such file")):
        e = c.ask("mirror", **args).get("error", {})
        check(says in e.get("desc", "") and e["class"] == cls, f"mirror {args}: {e}")
    # Cancelled: nothing is left, and the disk is what it was.
    c.get("mirror", file=new, speed=100000)
    e = c.ask("mirror", file=third).get("error", {})
    check("running" in e.get("desc", ""), f"a second mirror: {e}")
    check(c.get("query-mirror")["status"] == "running", "a slow mirror is over")
    c.get("cancel-job", kind="mirror")
    settled(c, status="cancelled")
    check(not os.path.exists(new), "a cancelled mirror leaves its file")
    # A copy as of one instant; the disk stays. Also of one that is read only.
    c.get("mirror", file=third, pivot=False, format="raw")
    job = settled(c, status="completed", phase="done")
    check(job["progress"]["bytes_left"] == 0 and job["progress"]["bytes_total"] == 40 << 20, f"progress {job}")
    check(filecmp.cmp(third, path("same.img"), False), "the copy is not what the disk is")
    check(stat.S_IMODE(os.stat(third).st_mode) == 0o640, "the copy has other access rights")
    check(disk("snapshot", "list", third).returncode == 0 and disk("resize", third, "48M").returncode == 0, "the copy is in use")
    check("in use" in disk("resize", old, "48M").stderr, "the disk is not in use")
    c.get("mirror", file=path("ro2.img"), disk=1, pivot=False)
    settled(c, status="completed")
    # It goes on with the copy, also while it is paused.
    c.get("stop")
    c.get("mirror", file=new, rounds=0)
    settled(c, status="completed")
    check(disk("resize", old, "48M").returncode == 0, "the old image is still in use")
    check("in use" in disk("resize", new, "48M").stderr, "the new image is not in use")
    c.get("cont")
    # The run ends while it is copied.
    os.unlink(third)
    c.get("mirror", file=third, speed=100000)
    c.get("quit")
    ended(p, 130, "quit while mirroring")
    check(not os.path.exists(third), "the copy of a run that ended is left")
    check(disk("check", new).returncode == 0, "the new image is not in order")
    disk("convert", new, path("flat.img"), "--format", "raw")
    check(filecmp.cmp(path("flat.img"), path("same.img"), False), "the new image is not what the disk was")


done = [0] * 4
if len(sys.argv) > 5:
    if not os.path.exists(sys.argv[4]):
        sys.exit(77)  # meson: skipped
    for mmu in "native", "shadow", "ept":
        done = [0] * 4
        test_same("--memory", "128M", "--mmu", mmu, "--initrd", sys.argv[5], "--append",
                  "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=forkwait:5", image=sys.argv[4], least=100)
        print(f"{mmu}: {sum(done)} commands")
else:
    for test in (test_commands, test_client, test_path, test_idle, test_wall_clock, test_power_button, test_several, test_hostile,
                 test_mirror):
        begun = time.time()
        test()
        print(f"{test.__name__}: {time.time() - begun:.1f} s")
    for mmu in "native", "ept":
        test_same("--mmu", mmu)
    print(f"{sum(done)} commands while it ran")
sys.exit(1 if failures else 0)
