#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Start the tiny test guest made by mkguest.sh, and talk to it.  Standard library only.

    import guest
    d = guest.mkdisk("/tmp/x/a.qcow2", 64 << 20, fs="ext4")
    with guest.Guest("/tmp/x/g1", "/path/to/mkguest-output", [d], writer=True) as g:
        g.qga.ping(); g.sh("sync; md5sum /mnt/vda/f"); g.qmp.execute("query-named-block-nodes"); g.acked()

From a shell:   guest.py run OUTDIR WORKDIR disk.qcow2 ...   |   guest.py qmp SOCK '{"execute":"query-status"}'
                guest.py qga SOCK guest-fsfreeze-status      |   guest.py sh SOCK 'ls /mnt/vda'
"""
import base64, ctypes, json, os, random, signal, socket, subprocess, sys, time


class QMPError(Exception):
    def __init__(self, err):
        super().__init__(f"{err.get('class')}: {err.get('desc')}")
        self.err = err


class Channel:
    """A line-of-JSON connection over a unix socket, with one deadline for each wait."""
    def __init__(self, path, timeout=10.0):
        self.path, self.timeout, self.buf = path, timeout, b""
        end = time.monotonic() + timeout
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                return
            except OSError:
                self.sock.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def close(self):
        self.sock.close()

    def send(self, obj, prefix=b""):
        self.sock.settimeout(self.timeout)
        self.sock.sendall(prefix + json.dumps(obj).encode() + b"\n")

    def recv(self, timeout=None):
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while b"\n" not in self.buf:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer on {self.path}")
            self.sock.settimeout(left)
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError(f"{self.path} closed")
            self.buf += data
        line, self.buf = self.buf.split(b"\n", 1)
        return line


class QMP(Channel):
    def __init__(self, path, timeout=10.0):
        super().__init__(path, timeout)
        self.events = []
        self.greeting = json.loads(self.recv())
        self.execute("qmp_capabilities")

    def _msg(self, timeout):
        m = json.loads(self.recv(timeout))
        if "event" in m:
            self.events.append(m)
        return m

    def execute(self, command, timeout=None, **args):
        """execute("blockdev-add", driver="qcow2", ...); '-' in a name: pass **{"node-name": "x"}."""
        ident = random.getrandbits(32)
        self.send({"execute": command, "arguments": args, "id": ident} if args else {"execute": command, "id": ident})
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            m = self._msg(max(0.0, end - time.monotonic()))
            if m.get("id") == ident:
                if "error" in m:
                    raise QMPError(m["error"])
                return m["return"]

    def event(self, name, timeout=30.0, **match):
        """Wait for (and take) an event; match on its data."""
        end = time.monotonic() + timeout
        while True:
            for i, e in enumerate(self.events):
                if e["event"] == name and all(e.get("data", {}).get(k) == v for k, v in match.items()):
                    return self.events.pop(i)
            self._msg(max(0.0, end - time.monotonic()))


class QGA(Channel):
    """Guest agent client.  Always sync() after connecting: an earlier client may have left half an answer behind."""
    def sync(self, timeout=None):
        ident = random.getrandbits(31)
        self.send({"execute": "guest-sync-delimited", "arguments": {"id": ident}}, prefix=b"\xff")
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            line = self.recv(max(0.0, end - time.monotonic()))
            if b"\xff" in line:
                line = line.rsplit(b"\xff", 1)[1]
            try:
                if json.loads(line).get("return") == ident:
                    return
            except ValueError:
                pass

    def execute(self, command, timeout=None, **args):
        self.send({"execute": command, "arguments": args} if args else {"execute": command})
        m = json.loads(self.recv(timeout))
        if "error" in m:
            raise QMPError(m["error"])
        return m["return"]

    def ping(self):
        return self.execute("guest-ping")

    def wait(self, timeout=60.0):
        """Until the agent answers.  One sync is sent and waited for: the port buffers it until the agent is up."""
        self.sync(timeout)

    def exec(self, argv, input=None, timeout=60.0, check=True):
        """Run argv in the guest; -> (exit status, stdout, stderr)."""
        args = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if input is not None:
            args["input-data"] = base64.b64encode(input if isinstance(input, bytes) else input.encode()).decode()
        pid = self.execute("guest-exec", **args)["pid"]
        end, pause = time.monotonic() + timeout, 0.002
        while True:
            st = self.execute("guest-exec-status", pid=pid)
            if st["exited"]:
                break
            if time.monotonic() > end:
                raise TimeoutError(f"guest command still runs: {argv}")
            time.sleep(pause)
            pause = min(pause * 2, 0.1)
        out, err = (base64.b64decode(st.get(k, "")).decode(errors="replace") for k in ("out-data", "err-data"))
        rc = st.get("exitcode", -st.get("signal", 0))
        if check and rc:
            raise RuntimeError(f"guest: {argv} -> {rc}\n{out}{err}")
        return rc, out, err

    def sh(self, script, **kw):
        return self.exec(["/bin/sh", "-c", script], **kw)[1]

    def freeze(self, timeout=None):
        return self.execute("guest-fsfreeze-freeze", timeout=timeout)

    def thaw(self, timeout=None):
        return self.execute("guest-fsfreeze-thaw", timeout=timeout)


def mkdisk(path, size, fs=None, fmt="qcow2"):
    """An image with a file system in it, made without root (mkfs on a sparse file, then qemu-img convert)."""
    if fs is None:
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, str(size)], check=True)
        return path
    raw = path + ".raw.tmp"
    with open(raw, "wb") as f:
        f.truncate(size)
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if fs == "ext4":
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", raw], check=True, env=env)
    else:
        subprocess.run([f"mkfs.{fs}", "-q", raw], check=True, env=env)
    if fmt == "raw":
        os.rename(raw, path)
    else:
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, raw, path], check=True)
        os.unlink(raw)
    return path


def default_cmdline(machine):
    return ("console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check "
            "random.trust_cpu=on rcupdate.rcu_expedited=1 cryptomgr.notests apparmor=0 audit=0 "
            "nowatchdog 8250.nr_uarts=1 i8042.noaux i8042.nokbd noreplace-smp "
            "initcall_blacklist=init_kprobe_trace,crypto_kdf108_init")


class Guest:
    def __init__(self, workdir, image_dir, disks=(), mem=128, accel="tcg", machine="q35", cpu=None, smp=1,
                 hotplug_ports=2, writer=False, options="", append="", initrd="initrd.img", kernel=None,
                 qemu="qemu-system-x86_64", extra=(), ack=True, control=True, die_with_parent=True,
                 shared_mem=False, cmdline=None):
        """disks: each a path (qcow2, or raw when it ends in .raw), or a dict:
             node      node name of the top node (default vol0, vol1, ...); the file node is <node>-file
             path, fmt a file;  or  blockdevs: [ {...}, ... ]  -blockdev objects, the last one being <node>
             serial    disk serial (default the node name)     bus  "virtio-blk" (default) or "scsi"
             ro        read-only                                port hot-unpluggable: put it behind root port N (q35)
             device    extra -device properties
           options: words for the guest's init: writer_ms=50 hang_agent=1 no_agent=1 mkfs=1 nomount=1 hook=fail ...
           control: a second agent, on its own port and socket, which stays usable when the daemon under test holds
             the first, and also with hang_agent/no_agent: sh() and exec() go there."""
        self.dir, self.accel, self.proc = os.path.abspath(workdir), accel, None
        os.makedirs(self.dir, exist_ok=True)
        p = lambda n: os.path.join(self.dir, n)
        self.qmp_path, self.qga_path, self.ctl_path, self.ack_path, self.console_path, self.console_log = (
            p("qmp.sock"), p("qga.sock"), p("ctl.sock"), p("ack.log"), p("console.sock"), p("console.log"))
        self.control, self._qmp, self._qga, self._ctl = control, None, None, None
        for f in (self.qmp_path, self.qga_path, self.ctl_path, self.console_path, self.ack_path, self.console_log):
            if len(f) > 107:
                raise ValueError(f"too long for a unix socket: {f}")
            if os.path.exists(f):
                os.unlink(f)
        if kernel is None:
            kernel = "vmlinux" if os.path.exists(os.path.join(image_dir, "vmlinux")) else "vmlinuz"
        words = [cmdline or default_cmdline(machine), options, append]
        if writer:
            words.append("writer=1")
        if cpu is None:
            cpu = "host" if accel == "kvm" else "qemu64,+rdrand"     # without rdrand getrandom() blocks: mkfs takes 4 s
        a = [qemu, "-name", os.path.basename(self.dir), "-nodefaults", "-no-user-config", "-display", "none",
             "-accel", accel, "-machine", machine, "-cpu", cpu, "-smp", str(smp), "-m", str(mem), "-no-reboot",
             "-kernel", os.path.join(image_dir, kernel), "-initrd", os.path.join(image_dir, initrd),
             "-append", " ".join(w for w in words if w),
             "-chardev", f"socket,id=qmp,path={self.qmp_path},server=on,wait=off", "-mon", "chardev=qmp,mode=control",
             "-chardev", f"socket,id=con,path={self.console_path},server=on,wait=off,logfile={self.console_log}",
             "-serial", "chardev:con",
             "-device", "virtio-serial-pci,id=vser",
             "-chardev", f"socket,id=qga,path={self.qga_path},server=on,wait=off",
             "-device", "virtserialport,bus=vser.0,nr=1,chardev=qga,name=org.qemu.guest_agent.0"]
        if control:
            a += ["-chardev", f"socket,id=ctl,path={self.ctl_path},server=on,wait=off",
                  "-device", "virtserialport,bus=vser.0,nr=2,chardev=ctl,name=org.guesttest.agent.0"]
        if ack:
            a += ["-chardev", f"file,id=ack,path={self.ack_path}",
                  "-device", "virtserialport,bus=vser.0,nr=3,chardev=ack,name=org.guesttest.ack"]
        if shared_mem:      # vhost-user-blk needs it
            i = a.index("-machine") + 1
            a[i] += ",memory-backend=mem"
            a += ["-object", f"memory-backend-memfd,id=mem,size={mem}M,share=on"]
        if machine.startswith("q35"):
            for i in range(hotplug_ports):
                a += ["-device", f"pcie-root-port,id=rp{i},chassis={i + 1},slot={i + 1}"]
        scsi = False
        for i, d in enumerate(disks):
            d = {"path": d} if isinstance(d, (str, os.PathLike)) else dict(d)
            node = d.get("node", f"vol{i}")
            for b in d.get("blockdevs") or blockdevs(node, d["path"], d.get("fmt"), d.get("ro", False)):
                a += ["-blockdev", json.dumps(b)]
            if d.get("bus") == "scsi":
                if not scsi:
                    a += ["-device", "virtio-scsi-pci,id=scsi"]
                    scsi = True
                dev = {"driver": "scsi-hd", "bus": "scsi.0"}
            else:
                dev = {"driver": "virtio-blk-pci"}
                if "port" in d:
                    dev["bus"] = f"rp{d['port']}"
            dev.update({"id": f"dev-{node}", "drive": node, "serial": d.get("serial", node)[:20]}, **d.get("device", {}))
            a += ["-device", json.dumps(dev)]
        self.argv = a + list(extra)
        self.die_with_parent = die_with_parent

    def start(self):
        libc = ctypes.CDLL(None)
        self.t0 = time.monotonic()
        self.log = open(os.path.join(self.dir, "qemu.log"), "wb")
        self.proc = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                     preexec_fn=(lambda: libc.prctl(1, signal.SIGKILL)) if self.die_with_parent else None)
        return self

    def _up(self):
        if self.proc.poll() is not None:
            raise RuntimeError(f"qemu ended with {self.proc.returncode}: " + open(self.log.name).read())

    def _connect(self, cls, path):
        end = time.monotonic() + 10
        while not os.path.exists(path):
            self._up()
            if time.monotonic() > end:
                raise TimeoutError(path)
            time.sleep(0.005)
        return cls(path)

    @property
    def qmp(self):
        self._qmp = self._qmp or self._connect(QMP, self.qmp_path)
        return self._qmp

    @property
    def qga(self):
        self._qga = self._qga or self._connect(QGA, self.qga_path)
        return self._qga

    @property
    def ctl(self):
        if not self.control:
            return self.qga
        self._ctl = self._ctl or self._connect(QGA, self.ctl_path)
        return self._ctl

    def wait(self, timeout=60.0, agent=True):
        """Until the agent answers (the control agent too when there is one); -> seconds since start()."""
        if agent:
            self.qga.wait(timeout)
        if self.control:
            self.ctl.wait(timeout)
        return time.monotonic() - self.t0

    def sh(self, script, **kw):
        return self.ctl.sh(script, **kw)

    def acked(self):
        """The last record number the guest reported durable (0: none yet)."""
        try:
            data = open(self.ack_path, "rb").read()
        except FileNotFoundError:
            return 0
        lines = data[:data.rfind(b"\n") + 1].split()
        return int(lines[-1]) if lines and lines[-1].isdigit() else 0

    def wait_acked(self, n, timeout=60.0):
        end = time.monotonic() + timeout
        while self.acked() < n:
            self._up()
            if time.monotonic() > end:
                raise TimeoutError(f"record {n} not acknowledged, at {self.acked()}")
            time.sleep(0.01)
        return self.acked()

    def kill(self):
        """Like a power cut."""
        if self.proc and self.proc.poll() is None:
            self.proc.kill()
        self._reap()

    def quit(self):
        """QMP quit: QEMU flushes and closes the images; the guest gets no warning."""
        try:
            self.qmp.execute("quit")
        except ConnectionError:
            pass
        self._reap()

    def shutdown(self, timeout=30.0):
        """Orderly: the guest unmounts and powers off."""
        self.ctl.send({"execute": "guest-shutdown"})
        self._reap(timeout)

    def _reap(self, timeout=30.0):
        if self.proc:
            self.proc.wait(timeout)
        for c in (self._qmp, self._qga, self._ctl):
            if c:
                c.close()
        self._qmp = self._qga = self._ctl = None

    def __enter__(self):
        self.start()
        try:
            self.wait(agent="_agent=1" not in " ".join(self.argv))
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc):
        self.kill()


def blockdevs(node, path, fmt=None, ro=False):
    fmt = fmt or ("raw" if str(path).endswith(".raw") else "qcow2")
    return [{"driver": "file", "node-name": f"{node}-file", "filename": str(path), "read-only": ro},
            {"driver": fmt, "node-name": node, "file": f"{node}-file", "read-only": ro,
             **({"discard": "unmap"} if not ro else {})}]


def journal_check(data, what="journal"):
    """Records 1..n in order, whole, no gap; -> n."""
    n, rest = divmod(len(data), 64)
    if rest:
        raise AssertionError(f"{what}: torn record at the end ({len(data)} bytes)")
    for i in range(n):
        rec = data[i * 64:i * 64 + 64]
        if rec[:13] != b"J %010d " % (i + 1) or rec[-1:] != b"\n" or rec.count(b".") != 50:
            raise AssertionError(f"{what}: record {i + 1} is {rec!r}")
    return n


def image_report(path, fmt="qcow2", tmp=None):
    """Look into an ext4 volume without booting or root: state, journal, dirty.  Needs qemu-img and e2fsprogs."""
    raw = (tmp or str(path)) + ".look.raw"
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    run = lambda *a: subprocess.run(a, capture_output=True, env=env)
    try:
        subprocess.run(["qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", str(path), raw], check=True)
        head = run("dumpe2fs", "-h", raw).stdout.decode()
        rep = {"needs_recovery": "needs_recovery" in head,
               "state": [l.split(":", 1)[1].strip() for l in head.splitlines() if l.startswith("Filesystem state")][0]}
        rep["fsck"] = run("e2fsck", "-fn", raw).returncode          # 0: clean; with needs_recovery it looks without replay
        if rep["needs_recovery"]:
            rep["fsck_replay"] = run("e2fsck", "-fy", raw).returncode   # on the throw-away copy; 0/1: journal replayed, fine
        for f in ("journal", "dirty"):
            r = run("debugfs", "-R", f"cat /{f}", raw)
            rep[f] = r.stdout
        return rep
    finally:
        if os.path.exists(raw):
            os.unlink(raw)


def main(argv):
    if argv[:1] == ["run"]:
        import argparse
        ap = argparse.ArgumentParser(prog="guest.py run", description="run a guest in the foreground")
        ap.add_argument("image_dir"); ap.add_argument("workdir"); ap.add_argument("disks", nargs="*")
        ap.add_argument("--mem", type=int, default=128); ap.add_argument("--machine", default="q35")
        ap.add_argument("--accel", default="tcg"); ap.add_argument("--options", default="")
        ap.add_argument("--append", default=""); ap.add_argument("--writer", action="store_true")
        ap.add_argument("--detach", action="store_true", help="leave it running, print its pid")
        o = ap.parse_intermixed_args(argv[1:])
        g = Guest(o.workdir, o.image_dir, o.disks, mem=o.mem, machine=o.machine, accel=o.accel, options=o.options,
                  append=o.append, writer=o.writer, die_with_parent=not o.detach).start()
        t = g.wait(120, agent="_agent=1" not in o.options)
        print(f"pid {g.proc.pid}  agent after {t:.2f} s\nqmp {g.qmp_path}\nqga {g.qga_path}\nctl {g.ctl_path}\nconsole {g.console_path}", flush=True)
        if not o.detach:
            try:
                g.proc.wait()
            except KeyboardInterrupt:
                g.kill()
        return 0
    if argv[:1] == ["qmp"]:
        m = json.loads(argv[2]); q = QMP(argv[1])
        print(json.dumps(q.execute(m["execute"], **m.get("arguments", {})), indent=1))
        return 0
    if argv[:1] == ["qga"]:
        q = QGA(argv[1]); q.sync(5)
        print(json.dumps(q.execute(argv[2], **(json.loads(argv[3]) if len(argv) > 3 else {})), indent=1))
        return 0
    if argv[:1] == ["sh"]:
        q = QGA(argv[1]); q.sync(5)
        rc, out, err = q.exec(["/bin/sh", "-c", argv[2]], check=False)
        sys.stdout.write(out); sys.stderr.write(err)
        return rc
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
