# SPDX-License-Identifier: MIT
"""A VM whose disks have snapshots, each layer with data of its own, and what has to be true of it whatever was done."""
import os

from . import images
from .chains import disk_by_target, make_chain
from .client import variants

MIB = 1 << 20


class Tree:
    """A VM with `count` disks, in a QEMU without a guest, and its snapshots; each layer with a pattern of its own in the
    disk's first MiB and in a MiB of its own. `pools`: directories, one for each disk, where they are not to share one."""

    def __init__(self, client, directory, qemus, count=1, options=None, base_format="qcow2", size=64 * MIB, pools=None,
                 bitmaps=()):
        self.client, self.pool, self.qemus = client, f"{directory}/pool", qemus
        self.pools = pools or [self.pool]
        for pool in self.pools:
            os.makedirs(pool, exist_ok=True)
        self.paths = [make_chain(self.pools[n % len(self.pools)], f"disk{n}", size=size, options=options, base_format=base_format)[0]
                      for n in range(count)]
        for path in self.paths:
            for name in bitmaps:
                images.run("qemu-img", "bitmap", "--add", path, name)
        self.qemu = qemus("vm", self.paths)
        self.vm = client.register_vm("web", qmp_socket=self.qemu.qmp)
        self.disks = [disk_by_target(client, self.vm, f"serial{n}")[0] for n in range(count)]
        self.layer = 1
        self.snapshots = {}

    def path(self, number=0):
        return self.client.get(self.disks[number], "Disk", "ActivePath")

    def write(self, pattern, offset, length):
        for number in range(len(self.disks)):
            if self.qemu.process.poll() is None:
                self.qemu.write(f"dev{number}", pattern, offset, length)
            else:
                path = self.path(number)
                images.write(path, pattern, offset, length)

    def snapshot(self, name, mib=1):
        """Takes it; afterwards the new layers get `mib` MiB of data."""
        self.snapshots[name] = self.client.finish(self.client.create_snapshot(self.vm, name, quiesce="off"))["snapshot"]
        self.layer += 1
        self.write(self.layer, 0, MIB)
        self.write(0x40 + self.layer, (self.layer + 1) * 2 * MIB, mib * MIB)
        return self.snapshots[name]

    def down(self):
        self.qemu.quit()
        self.client.call(self.vm, "VM", "Refresh")

    def up(self):
        self.qemu = self.qemus("vm", [self.path(number) for number in range(len(self.disks))])
        self.client.call(self.vm, "VM", "Refresh")

    def volume_of(self, name, number=0):
        disks = dict(self.client.get(self.snapshots[name], "Snapshot", "Disks"))
        return disks[self.disks[number]]

    def content(self):
        """{(snapshot or "active", disk): digest}"""
        if self.qemu.process.poll() is None:
            for number in range(len(self.disks)):
                self.qemu.io(f"dev{number}", "flush")
        found = {}
        for number, disk in enumerate(self.disks):
            found["active", number] = images.digest(self.path(number), fmt=self.format(self.client.get(disk, "Disk", "Active")))
        for name in self.snapshots:
            has = dict(self.client.get(self.snapshots[name], "Snapshot", "Disks"))
            for number, disk in enumerate(self.disks):
                if disk not in has:
                    continue
                volume = has[disk]
                found[name, number] = images.digest(self.client.get(volume, "Volume", "Path"), fmt=self.format(volume))
        return found

    def format(self, volume):
        return self.client.get(volume, "Volume", "Format")

    def delete(self, name, **options):
        return self.client.call(self.snapshots[name], "Snapshot", "Delete", "a{sv}", variants(options))

    def forget(self, *names):
        for name in names:
            del self.snapshots[name]

    def check_files(self):
        """Files are just those of the records."""
        volumes = self.client.of_kind("volume")
        files = sorted(f"{pool}/{name}" for pool in self.pools for name in images.image_files(pool))
        assert sorted(p["Path"] for p in volumes.values()) == files
        return volumes

    def check_image(self, path):
        images.check(path)

    def check(self):
        """Files are just those of the records; headers, records and QEMU agree; nothing leaks."""
        volumes = self.check_files()
        for properties in volumes.values():
            assert properties["State"] == "ok", properties
            if properties["Format"] == "qcow2":
                self.check_image(properties["Path"])
        for number, disk in enumerate(self.disks):
            assert self.client.get(disk, "Disk", "State") in ("ok", "preview")
            if self.qemu.process.poll() is None:
                assert self.qemu.active_file(f"dev{number}") == self.path(number)
        if self.qemu.process.poll() is None:
            assert self.qemu.execute("query-jobs") == []
            named = [n for n in self.qemu.nodes().values() if n["drv"] not in ("file",)]
            assert len(named) == sum(len(images.chain(self.path(n))) for n in range(len(self.disks)))
