# SPDX-License-Identifier: MIT
"""Who takes the snapshots. Each peer makes guests of its own, alike in machine, disks and chains, and has one
call that is timed: guest.snapshot().
"""
import os
import shutil
import subprocess
import uuid

from harness import images
from harness.channels import QMP
from harness.client import ROOT
from harness.qemu import Qemu

DISK_BYTES = 1 << 30


class Chains:
    """Directories with disk0 ... diskN, each a chain of so many images, copied from one that was made
    once."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory)

    def copy(self, target, disks, depth):
        """Paths of the active images in a new directory."""
        original = os.path.join(self.directory, f"{disks}-{depth}")
        if not os.path.exists(original):
            self._make(original, disks, depth)
        shutil.copytree(original, target)
        return [f"{target}/disk{number}.{depth - 1}.qcow2" for number in range(disks)]

    @staticmethod
    def _make(directory, disks, depth):
        os.mkdir(directory)
        for disk in range(disks):
            for layer in range(depth):
                images.create(f"{directory}/disk{disk}.{layer}.qcow2", None if layer else DISK_BYTES,
                              backing=f"disk{disk}.{layer - 1}.qcow2" if layer else None)


# --- volchain ---

class Volchain:
    """The daemon, called over one D-Bus connection that is there all the time."""
    name = "volchain"

    def __init__(self, client, chains):
        self.client, self.chains = client, chains

    def guest(self, directory, disks, depth):
        return VolchainGuest(self.client, directory, self.chains.copy(f"{directory}/images", disks, depth))


class VolchainGuest:
    """agent: the socket of its agent; the guest runs then, as one that stands still is not frozen. tap: makes
    a witness from the path of the monitor, at whose .path the daemon finds the monitor then.
    """

    def __init__(self, client, directory, disks, agent=None, tap=None):
        self.client, self.disks = client, disks
        self.qemu = Qemu(directory, disks, running=agent is not None, own_monitor=False).start()
        self.tap = tap(self.qemu.qmp) if tap else None
        monitor = self.tap.path if tap else self.qemu.qmp
        try:
            self.vm = client.register_vm(f"bench-{uuid.uuid4()}", qmp_socket=monitor, agent_socket=agent)
        except BaseException:
            self.qemu.kill()
            raise

    def snapshot(self, **options):
        """From the call to the answer of Job.Wait; the job's result."""
        return self.client.finish(self.client.create_snapshot(self.vm, **options))

    def check(self, rounds):
        active = {p["Target"]: p["ActivePath"] for p in self.client.of_kind("disk").values() if p["VM"] == self.vm}
        for number, disk in enumerate(self.disks):
            top = active[f"serial{number}"]
            assert len(images.chain(top)) == len(images.chain(disk)) + rounds, top
            images.check(top)

    def close(self):
        try:
            self.client.call(self.vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
        finally:
            if self.tap:
                self.tap.close()
            self.qemu.kill()


# --- a script over bare QMP ---

class Bare:
    """What anybody would write: one connection to a storage daemon that makes the overlays, one to QEMU."""
    name = "bare QMP"

    def __init__(self, chains):
        self.chains = chains

    def guest(self, directory, disks, depth):
        return BareGuest(directory, self.chains.copy(f"{directory}/images", disks, depth))


class BareGuest:
    def __init__(self, directory, disks):
        self.disks, self.active, self.taken = disks, [], 0
        self.qemu = Qemu(directory, disks, own_monitor=False).start()
        self.monitor = QMP.to(self.qemu.qmp)
        socket = f"{directory}/storage-daemon.sock"
        # It is there when its listening socket is: the parent of --daemonize ends then.
        subprocess.run(["qemu-storage-daemon", "--daemonize", "--pidfile", f"{directory}/pid", "--chardev",
                        f"socket,id=m,path={socket},server=on,wait=off", "--monitor", "chardev=m"],
                       check=True, timeout=30)
        self.storage = QMP.to(socket)
        self.active = [(f"vol{number}", path) for number, path in enumerate(disks)]

    def _job(self, name, options):
        self.storage.execute("blockdev-create", **{"job-id": name, "options": options})
        self.storage.event("JOB_STATUS_CHANGE", id=name, status="concluded")
        self.storage.execute("job-dismiss", id=name)

    def _create(self, path, below):
        self._job("file", {"driver": "file", "filename": path, "size": 0})
        self.storage.execute("blockdev-add", driver="file", filename=path, **{"node-name": "new"})
        self._job("format", {"driver": "qcow2", "file": "new", "size": DISK_BYTES,
                             "backing-file": os.path.basename(below), "backing-fmt": "qcow2"})
        self.storage.execute("blockdev-del", **{"node-name": "new"})

    def snapshot(self):
        self.taken += 1
        actions, active = [], []
        for number, (node, below) in enumerate(self.active):
            path = f"{os.path.dirname(below)}/disk{number}.s{self.taken}.qcow2"
            overlay = f"s{self.taken}-{number}"
            self._create(path, below)
            file = {"driver": "file", "filename": path, "discard": "unmap"}
            self.monitor.execute("blockdev-add", driver="qcow2", backing=None, discard="unmap", file=file,
                                 **{"node-name": overlay})
            actions.append({"type": "blockdev-snapshot", "data": {"node": node, "overlay": overlay}})
            active.append((overlay, path))
        self.monitor.execute("transaction", actions=actions)
        self.active = active

    def check(self, rounds):
        for (_, path), disk in zip(self.active, self.disks, strict=True):
            assert len(images.chain(path)) == len(images.chain(disk)) + rounds, path
            images.check(path)

    def close(self):
        try:
            self.storage.execute("quit")
            self.storage.close()
            self.monitor.close()
        finally:
            self.qemu.kill()


# --- libvirt ---

class LibvirtApi:
    """libvirt's own library, one connection that is there all the time."""
    name = "libvirt API"

    def __init__(self, host, chains):
        self.host, self.chains = host, chains

    def guest(self, directory, disks, depth):
        return LibvirtGuest(self.host, directory, self.chains.copy(f"{directory}/images", disks, depth))


class Virsh(LibvirtApi):
    """A virsh process for each snapshot, as a script would have it."""
    name = "virsh"

    def guest(self, directory, disks, depth):
        return VirshGuest(self.host, directory, self.chains.copy(f"{directory}/images", disks, depth))


class LibvirtGuest:
    def __init__(self, host, directory, disks):
        self.host, self.disks, self.taken = host, disks, 0
        self.domain = host.start_domain(os.path.basename(directory), disks)

    def snapshot(self):
        self.taken += 1
        self.host.snapshot(self.domain, f"s{self.taken}")

    def check(self, rounds):
        for path, disk in zip(self.host.disk_files(self.domain), self.disks, strict=True):
            assert len(images.chain(path)) == len(images.chain(disk)) + rounds, path

    def close(self):
        self.host.end_domain(self.domain)


class VirshGuest(LibvirtGuest):
    def snapshot(self):
        self.taken += 1
        self.host.virsh("snapshot-create-as", "--domain", self.domain.name(), "--name", f"s{self.taken}",
                        "--disk-only", "--atomic")


def ping(client):
    """The least that a call to the daemon costs its caller."""
    client.call(ROOT, "org.freedesktop.DBus.Peer", "Ping")
