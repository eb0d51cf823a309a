# SPDX-License-Identifier: MIT
"""A VM that is down, with a history of snapshots: for tests of previews, and of what they leave behind."""
import os

from harness import digest, images
from harness.chains import volume_chain
from harness.client import DBusError, variants
from harness.qemu import Qemu

MIB = 1 << 20
SIZE = 16 * MIB


class DownVm:
    """VM "web" with `count` disks of a pool of their own. What is written goes into a place of its own each time, so
    that a state is told by all that was ever written to it. `bitmaps`: names, in each disk's first image."""

    def __init__(self, client, directory, count=2, bitmaps=(), pool="pool"):
        self.client, self.directory = client, directory
        self.pool_path = f"{directory}/{pool}"
        os.makedirs(self.pool_path, exist_ok=True)
        self.pool = client.create_pool(pool, self.pool_path)
        self.qmp = f"{directory}/vm/qmp.sock"
        self.vm = client.register_vm("web", qmp_socket=self.qmp, config=b"<now/>", config_type="application/xml")
        self.disks = [self.add_disk(f"disk{n}", f"serial{n}") for n in range(count)]
        for disk in self.disks:
            for name in bitmaps:
                images.run("qemu-img", "bitmap", "--add", self.active(disk), name)
        self.writes = 0
        self.right_states = {"ok", "locked"}  # of volumes, in check()
        self.states = {}

    def add_disk(self, name, target):
        job = self.client.call(self.pool, "Pool", "CreateDisk", "sta{sv}", name, SIZE, {})
        disk = self.client.finish(job)["disk"]
        self.client.finish(self.client.call(disk, "Disk", "Attach", "osa{sv}", self.vm, target, {}))
        return disk

    # --- what it is ---
    def active(self, disk):
        return self.client.get(disk, "Disk", "ActivePath")

    def actives(self):
        return [self.active(disk) for disk in self.disks]

    def contents(self):
        """What a guest would read of each disk."""
        return [images.digest(path) for path in self.actives()]

    def snapshots(self):
        """{name: properties}"""
        return {p["Name"]: {**p, "path": path} for path, p in self.client.of_kind("snapshot").items()
                if p["VM"] == self.vm}

    def snapshot(self, name):
        return self.snapshots()[name]["path"]

    def tree(self):
        """{name: name of the parent}, after a look at whether Children and Current say the same."""
        found = self.snapshots()
        names = {p["path"]: name for name, p in found.items()}
        for name, properties in found.items():
            children = {n for n, p in found.items() if p["Parent"] == properties["path"]}
            assert {names[child] for child in properties["Children"]} == children
            assert properties["Current"] == (self.get("CurrentSnapshot") == properties["path"])
        return {name: names.get(p["Parent"]) for name, p in found.items()}

    def current(self):
        names = {p["path"]: name for name, p in self.snapshots().items()}
        return names.get(self.get("CurrentSnapshot"))

    def get(self, name):
        return self.client.get(self.vm, "VM", name)

    def config(self):
        return bytes(self.client.call(self.vm, "VM", "GetConfig")[0])

    # --- what is done to it ---
    def write(self, *disks):
        """Something new to these disks, or to all."""
        self.writes += 1
        for disk in disks or self.disks:
            images.write(self.active(disk), self.writes % 255 + 1, (self.writes * 64 * 1024) % SIZE, 64 * 1024)

    def take(self, name, **options):
        """A snapshot; what the VM has is kept in `states`."""
        self.states[name] = dict(zip(self.disks, self.contents()))
        self.client.finish(self.client.create_snapshot(self.vm, name, **options))

    def history(self, *names):
        """Something is written, and a snapshot taken, again and again; at last something is written."""
        for name in names:
            self.write()
            self.take(name)
        self.write()
        return self

    def preview_job(self, choice, **options):
        """`choice`: {disk: name of a snapshot}"""
        paths = {disk: self.snapshot(name) for disk, name in choice.items()}
        return self.client.call(self.vm, "VM", "Preview", "a{oo}a{sv}", paths, variants(options))

    def preview(self, what, **options):
        """`what`: a snapshot's name, or as of preview_job()."""
        return self.client.finish(self.of_snapshot(what, "Preview", **options) if isinstance(what, str)
                                  else self.preview_job(what, **options))

    def of_snapshot(self, name, method, **options):
        return self.client.call(self.snapshot(name), "Snapshot", method, "a{sv}", variants(options))

    def revert(self, name, **options):
        return self.client.finish(self.of_snapshot(name, "Revert", **options))

    def commit(self, **options):
        return self.client.finish(self.client.call(self.vm, "VM", "CommitPreview", "a{sv}", variants(options)))

    def undo(self):
        return self.client.finish(self.client.call(self.vm, "VM", "UndoPreview", "a{sv}", {}))

    def refused(self, call):
        """(error, message) of a call that is refused, or starts a job that fails."""
        try:
            return self.client.failure(call())
        except DBusError as error:
            return error.short, error.message

    # --- as a machine ---
    def launch_arguments(self, **options):
        return self.client.call(self.vm, "VM", "LaunchArguments", "a{sv}", variants(options))

    def run(self, **options):
        """A QEMU with what LaunchArguments says, when the daemon has seen it; the devices are device_of(disk)."""
        arguments = self.launch_arguments(device="virtio-blk-pci")
        qemu = Qemu(f"{self.directory}/vm", [], extra=arguments, **options).start()
        self.client.call(self.vm, "VM", "Refresh")
        assert self.get("State") in ("running", "paused")
        return qemu

    @staticmethod
    def device_of(disk):
        return "vcd-" + disk.rsplit("/", 1)[1].replace("_", "")[:16]

    def end(self, qemu):
        """It ends in order, and the daemon has seen that."""
        qemu.quit()
        self.client.call(self.vm, "VM", "Refresh")
        assert self.get("State") == "shutoff"

    # --- what has to be true at all times ---
    def files(self):
        """Of volumes: without copies of variable stores."""
        return {f"{self.pool_path}/{name}" for name in images.image_files(self.pool_path) if ".nvram" not in name}

    def check(self):
        """The files are those of the records, whole, and the chains are as the daemon says."""
        volumes = {p["Path"]: p for p in self.client.of_kind("volume").values()}
        assert self.files() == set(volumes), "a file without a record, or a record without a file"
        for path, properties in volumes.items():
            assert properties["State"] in self.right_states, properties
            if properties["Format"] == "qcow2":
                images.check(path)
        preview = self.get("PreviewOf") != "/"
        for disk in self.client.of_kind("disk").values():
            assert volume_chain(self.client, disk["Active"]) == images.chain(disk["ActivePath"])
            assert disk["State"] == ("preview" if disk["Former"] != "/" else "ok"), disk
            assert disk["Former"] == "/" or preview
        reachable = set()
        tops = [p["Active"] for p in self.client.of_kind("disk").values()]
        tops += [p["Former"] for p in self.client.of_kind("disk").values() if p["Former"] != "/"]
        tops += [v for p in self.client.of_kind("snapshot").values() for _, v in p["Disks"]]
        for top in tops:
            reachable |= set(volume_chain(self.client, top))
        assert reachable == set(volumes), "a volume that nothing leads to"
        assert self.get("Job") == "/"

    def bytes_of(self, path):
        return digest.of_file(path)
