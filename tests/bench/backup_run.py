#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How long a full backup of a disk into a qcow2 file takes: by volchainctl backup run, and by nbdcopy from the same export into a
qemu-nbd; in the same rounds, in changing order, with nothing in the page cache.

  tests/bench/backup_run.py [ROUNDS [MIB [DIRECTORY]]]     5 rounds, a disk with 1024 MiB of data, /var/tmp

The daemon and the client are those of VOLCHAIN_BUILD, or build/release. "copy" ends with the flush of what was written, which
nbdcopy does, too; "all" has also what nbdcopy does not do: that the file is read again and compared, the finish and the
catalogue.
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(ROOT, "tests"))
os.environ.setdefault("VOLCHAIN_BUILD", os.path.join(ROOT, "build/release"))
from bench.measure import Series, ratio  # noqa: E402
from harness import backups, images  # noqa: E402
from harness.bus import Bus  # noqa: E402
from harness.client import Client  # noqa: E402
from harness.ctl import Ctl  # noqa: E402
from harness.daemon import Daemon  # noqa: E402
from harness.qemu import Qemu  # noqa: E402

MIB = 1 << 20


def cool():
    """Nothing is in the page cache that is on the disk, too."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("1\n")


class Site:
    def __init__(self, directory, mib):
        self.directory = directory
        os.mkdir(f"{directory}/pool")
        path = images.create(f"{directory}/pool/root.qcow2", f"{mib + 64}M")
        raw = f"{directory}/random"
        with open(raw, "wb") as f:
            for number in range(mib):
                f.write(random.Random(number).randbytes(MIB))
        images.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", raw, path)
        os.unlink(raw)
        self.bus = Bus(f"{directory}/bus")
        self.daemon = Daemon(f"{directory}/d", self.bus, verbose=False).start()
        self.client = Client(self.bus.address)
        self.qemu = Qemu(f"{directory}/vm", [path]).start()
        self.vm = self.client.register_vm("web", qmp_socket=self.qemu.qmp)
        self.ctl = Ctl(self.bus.address)

    def close(self):
        self.client.close()
        self.daemon.stop()
        self.qemu.kill()
        self.bus.stop()

    def backup_run(self):
        """(seconds of the copy, seconds of all)"""
        target = f"{self.directory}/target"
        process = self.ctl.start("backup", "run", "web", target, "--quiesce=off")
        begun, copied = time.perf_counter(), {}
        for line in process.stderr:
            copied.setdefault(line.split()[1] if line.startswith("backup: ") else "", time.perf_counter())
        process.communicate(timeout=60)
        assert process.returncode == 0
        end = time.perf_counter()
        shutil.rmtree(target)
        return copied["verify"] - copied["copy"], end - begun

    def nbdcopy(self):
        path, socket = f"{self.directory}/copy.qcow2", f"{self.directory}/nbd.sock"
        backup = backups.start(self.client, self.vm)
        [(uri, _)] = backups.shown(self.client, backup).values()
        begun = time.perf_counter()
        images.create(path, f"{self.size()}")
        server = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "--socket", socket, "--discard=unmap", "--shared=16", path])
        try:
            while not os.path.exists(socket):
                assert server.poll() is None
                time.sleep(0.001)
            images.run("nbdcopy", "--flush", uri, f"nbd+unix:///?socket={socket}")
        finally:
            server.terminate()
            server.wait(30)
        seconds = time.perf_counter() - begun
        backups.finish(self.client, backup)
        os.unlink(path)
        return seconds

    def size(self):
        [disk] = self.client.of_kind("disk").values()
        return disk["SizeBytes"]


def main():
    rounds, mib, parent = (int(word) if word.isdigit() else word for word in (sys.argv[1:] + ["5", "1024", "/var/tmp"][len(sys.argv) - 1:]))
    directory = tempfile.mkdtemp(prefix="vc-", dir=parent)
    ours, everything, theirs = Series(), Series(), Series()
    site = Site(directory, mib)
    try:
        for number in range(rounds):
            for who in random.sample(["ours", "theirs"], 2):
                cool()
                if who == "theirs":
                    theirs.add(site.nbdcopy())
                    continue
                copy, whole = site.backup_run()
                ours.add(copy)
                everything.add(whole)
            print(f"  round {number + 1}: copy {ours.values[-1]:.2f} s, all {everything.values[-1]:.2f} s, "
                  f"nbdcopy {theirs.values[-1]:.2f} s", flush=True)
    finally:
        site.close()
        shutil.rmtree(directory, ignore_errors=True)
    for name, series in (("backup run, copy", ours), ("backup run, all", everything), ("nbdcopy", theirs)):
        print(f"{name:<18} {series.text():>32} ms  {mib / series.median:7.0f} MiB/s")
    print(f"copy / nbdcopy: {ratio(ours, theirs):.2f} of its time")


if __name__ == "__main__":
    main()
