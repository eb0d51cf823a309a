# SPDX-License-Identifier: MIT
"""Who merges layers, and what. Each way gets a chain of its own, a copy of one that was made once, does its work in run(),
which is timed, and says afterwards which image holds the result.
"""
import os
import subprocess

from harness import images
from harness.client import variants
from harness.qemu import Qemu

MIB = 1 << 20
PIECE = 256  # MiB that qemu-io writes at once
LIMIT = 1800


class Layers:
    """A chain with so many MiB in each layer, the lowest first, each in an area of its own, made once. An area of the disk is
    never written to, and the top layer may be empty."""

    def __init__(self, directory, mebibytes):
        self.directory, self.mebibytes = directory, mebibytes
        os.makedirs(directory)
        self.names = [f"layer{number}.qcow2" for number in range(len(mebibytes))]
        for number, name in enumerate(self.names):
            images.create(f"{directory}/{name}", None if number else (sum(mebibytes) + 64) * MIB,
                          backing=self.names[number - 1] if number else None)
            self.fill(f"{directory}/{name}", number)
        self.digest = digest(f"{directory}/{self.names[-1]}")

    def fill(self, path, number):
        """Writes what the layer of this number holds."""
        begin, amount = sum(self.mebibytes[:number]), self.mebibytes[number]
        for offset in range(0, amount, PIECE):
            length = min(PIECE, amount - offset)
            command = f"write -q -P {number % 250 + 1} {begin + offset}M {length}M"
            subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, timeout=LIMIT)

    def copy(self, target, layers=None):
        """Paths of a copy, the lowest layer first; of the first so many layers only."""
        os.mkdir(target)
        names = self.names[:layers]
        for name in names:
            subprocess.run(["cp", "--sparse=always", "--reflink=auto", f"{self.directory}/{name}", target], check=True,
                           timeout=LIMIT)
        return [f"{target}/{name}" for name in names]


def digest(path):
    """Of what the disk shows."""
    raw = f"{path}.raw"
    try:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True, timeout=LIMIT)
        summed = subprocess.run(["sha256sum", raw], capture_output=True, text=True, check=True, timeout=LIMIT)
    finally:
        os.unlink(raw)
    return summed.stdout.split()[0]


def cool(directory):
    """Nothing of the files in it is in the page cache any more, and nothing waits to be written: the same for everybody."""
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            if not os.path.isfile(path):
                continue
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def flush(path):
    """What has become of it is on the medium."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


# --- volchain ---

class VolchainDisk:
    """A VM whose disk is the chain `paths`; running or down."""

    def __init__(self, site, directory, paths, live):
        self.client, self.directory, self.live = site.client, directory, live
        self.qemu = Qemu(f"{directory}/vm", [paths[-1]], own_monitor=False).start()
        try:
            self.vm = self.client.register_vm(os.path.basename(directory), qmp_socket=self.qemu.qmp)
            (self.disk,) = self.client.get(self.vm, "VM", "Disks")
            if not live:
                self.down()
        except BaseException:
            self.qemu.kill()
            raise

    def down(self):
        self.qemu.terminate()
        self.client.call(self.vm, "VM", "Refresh")

    def up(self):
        self.qemu = Qemu(f"{self.directory}/vm", [self.active_path()], own_monitor=False).start()
        self.client.call(self.vm, "VM", "Refresh")

    def active_path(self):
        return self.client.get(self.disk, "Disk", "ActivePath")

    def chain(self):
        """Volumes, the active one first."""
        volumes = [self.client.get(self.disk, "Disk", "Active")]
        while (below := self.client.get(volumes[-1], "Volume", "Backing")) != "/":
            volumes.append(below)
        return volumes

    def finish(self, job):
        return self.client.finish(job, LIMIT)

    def close(self):
        """The path of the active image, which nobody has open any more."""
        path = self.active_path()
        if self.qemu.process.poll() is None:
            self.qemu.terminate()
        self.client.call(self.vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
        return path


class VolchainRange(VolchainDisk):
    """Volume.Commit of all layers into the lowest: one job."""

    def __init__(self, site, directory, layers, live):
        super().__init__(site, directory, layers.copy(f"{directory}/images"), live)

    def run(self):
        volumes = self.chain()
        self.finish(self.client.call(volumes[0], "Volume", "Commit", "oa{sv}", volumes[-1], {}))
        flush(self.active_path())


class VolchainSnapshots(VolchainDisk):
    """Snapshot.Delete of one snapshot after the other, the oldest first. The layers are those of snapshots that it took."""

    def __init__(self, site, directory, layers, live):
        super().__init__(site, directory, layers.copy(f"{directory}/images", 1), live=False)
        self.snapshots = []
        for number in range(1, len(layers.names)):
            result = self.finish(self.client.create_snapshot(self.vm, f"s{number}"))
            self.snapshots.append(result["snapshot"])
            layers.fill(self.active_path(), number)
        if live:
            self.up()

    def run(self):
        for snapshot in self.snapshots:
            self.finish(self.client.call(snapshot, "Snapshot", "Delete", "a{sv}", {}))
        flush(self.active_path())


class VolchainMerge(VolchainDisk):
    """Volume.Merge of the second layer from below with the one above it."""

    def __init__(self, site, directory, layers, live, direction):
        super().__init__(site, directory, layers.copy(f"{directory}/images"), live)
        self.direction = direction

    def run(self):
        volume = self.chain()[-2]
        options = variants({"direction": self.direction})
        self.finish(self.client.call(volume, "Volume", "Merge", "a{sv}", options))
        flush(self.client.get(self.chain()[-2], "Volume", "Path"))


# --- libvirt ---

class Virsh:
    """virsh blockcommit of one layer after the other into the lowest, from below, so that nothing is copied twice; or of all
    at once."""

    def __init__(self, site, directory, layers, at_once):
        self.host, self.at_once = site.libvirt, at_once
        self.paths = layers.copy(f"{directory}/images")
        self.domain = self.host.start_domain(os.path.basename(directory), [self.paths[-1]])

    def run(self):
        if not self.at_once:
            for path in self.paths[1:-1]:
                self.commit("--top", path, "--wait")
                os.unlink(path)
        self.commit("--active", "--pivot", "--wait")
        for path in self.paths[1:] if self.at_once else self.paths[-1:]:
            os.unlink(path)
        flush(self.paths[0])

    def commit(self, *words):
        self.host.virsh("blockcommit", self.domain.name(), "vda", "--base", self.paths[0], *words, timeout=LIMIT)

    def close(self):
        self.host.end_domain(self.domain)
        return self.paths[0]


# --- qemu-img ---

class QemuImg:
    """qemu-img commit of one layer after the other into the lowest, from below; or of all at once. Nothing may run."""

    def __init__(self, _, directory, layers, at_once):
        self.at_once, self.paths = at_once, layers.copy(f"{directory}/images")

    def run(self):
        base, *others = self.paths
        if self.at_once:
            self._do("commit", "-q", "-d", "-b", base, others[-1])
        else:
            for number, path in enumerate(others):
                self._do("commit", "-q", "-d", path)
                if number + 1 < len(others):
                    self._do("rebase", "-q", "-u", "-F", "qcow2", "-b", os.path.basename(base), others[number + 1])
                os.unlink(path)
        for path in others if self.at_once else []:
            os.unlink(path)
        flush(base)

    @staticmethod
    def _do(*words):
        subprocess.run(["qemu-img", *words], check=True, timeout=LIMIT)

    def close(self):
        return self.paths[0]
