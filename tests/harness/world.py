# SPDX-License-Identifier: MIT
"""A daemon that has objects of every kind: for tests that look at all interfaces, not at one operation."""
import os

from harness import backups, exports, images
from harness.bus import Bus
from harness.client import ROOT, Client
from harness.daemon import Daemon
from harness.interfaces import KINDS
from harness.qemu import Qemu

MiB = 1 << 20

# A right call of each method on World.target(), and the error it ends in nevertheless (None: it succeeds).
# Made in this order, each leaves the next one possible.
BRIEFLY = {"ttl-usec": ("t", 1)}
CALLS = {
    "Snapshot.Export": (lambda w: [w.disks[2], BRIEFLY], None),
    "Volume.Export": (lambda w: [BRIEFLY], None),
    "Manager.Find": (lambda w: ["pool", "main"], None),
    "Pool.Refresh": (lambda w: [], None),
    "Pool.CreateDisk": (lambda w: ["another", MiB, {}], None),
    "Pool.ImportDisk": (lambda w: ["stray.qcow2", {}], None),
    "Pool.Remove": (lambda w: [], "InUse"),
    "Disk.CreateOverlay": (lambda w: [{}], None),
    "Disk.CreateSnapshot": (lambda w: ["alone", {}], None),
    "Disk.Resize": (lambda w: [2 * MiB, {}], None),
    "Disk.Move": (lambda w: [w.pool, {}], "InvalidArgument"),
    "Disk.Delete": (lambda w: [{}], "InUse"),
    "Disk.Attach": (lambda w: [w.down, "spare", {}], None),
    "Disk.Detach": (lambda w: [{}], None),
    "Disk.Flatten": (lambda w: [{}], None),
    "Disk.Check": (lambda w: [{}], None),
    "Volume.Commit": (lambda w: [w.one["volume"], {}], "InvalidArgument"),
    "Volume.Clone": (lambda w: ["copy", w.pool, {}], None),
    "Volume.Merge": (lambda w: [{}], "InUse"),
    "Volume.Delete": (lambda w: [{}], "InUse"),
    "Volume.Map": (lambda w: [0, 0], None),
    "Volume.Measure": (lambda w: [{}], None),
    "Volume.Checksum": (lambda w: [{}], None),
    "Snapshot.Diff": (lambda w: ["/", {}], None),
    "Snapshot.DiffMap": (lambda w: ["/", w.disks[2], 0], None),
    "VM.SaveProfile": (lambda w: ["nightly", {"quiesce": ("s", "off")}], None),
    "VM.DeleteProfile": (lambda w: ["nightly"], None),
    "Manager.ImportManifest": (lambda w: ["/no/such/manifest.json", {}], "NotFound"),
    "Manager.CreateSchedule": (lambda w: ["another", w.down, "daily", {}], None),
    "Schedule.Update": (lambda w: [{}], None),
    "Schedule.RunNow": (lambda w: [], None),
    "VM.CreateSnapshot": (lambda w: ["another", {}], None),
    "VM.Preview": (lambda w: [{w.disks[2]: w.snapshot}, {}], None),
    "VM.UndoPreview": (lambda w: [{}], None),
    "Snapshot.Preview": (lambda w: [{}], None),
    "VM.CommitPreview": (lambda w: [{}], None),
    "Snapshot.Revert": (lambda w: [{}], None),
    "VM.StartBackup": (lambda w: [{"quiesce": ("s", "require")}], "NotRunning"),
    "VM.DeleteCheckpoint": (lambda w: ["monday", {}], "NotFound"),
    "VM.LaunchArguments": (lambda w: [{}], None),
    "VM.GetConfig": (lambda w: [], None),
    "VM.SetConfig": (lambda w: [b"<x/>", "application/xml"], None),
    "VM.Update": (lambda w: [{}], None),
    "VM.Refresh": (lambda w: [], None),
    "VM.Unregister": (lambda w: [{}], "InUse"),
    "Snapshot.Clone": (lambda w: ["clone", {}], None),
    "Snapshot.SetMetadata": (lambda w: [{}], None),
    "Snapshot.GetConfig": (lambda w: [], None),
    "Snapshot.ToXML": (lambda w: [], None),
    "VM.ImportSnapshotXML": (lambda w: ["<domainsnapshot/>", {}], "InvalidArgument"),
    "Job.Cancel": (lambda w: [], "Unsupported"),
    "Job.Pause": (lambda w: [], "Unsupported"),
    "Job.Resume": (lambda w: [], "Unsupported"),
    "Job.SetSpeed": (lambda w: [MiB], "Unsupported"),
    "Job.Wait": (lambda w: [], None),
    "Manager.CreatePool": (lambda w: ["another", w.vacant, {}], None),
    "Manager.RegisterVM": (lambda w: ["another", {}], None),
    "Snapshot.Delete": (lambda w: [{}], None),
    "Manager.RestoreDisk": (lambda w: ["restored", w.pool, MiB, BRIEFLY], None),
    "Backup.GetConfig": (lambda w: [], None),
    "Backup.Finish": (lambda w: [{}], "Unsupported"),
    "Backup.Abort": (lambda w: [], None),
    "Export.Renew": (lambda w: [0], None),
    "Export.Open": (lambda w: [], None),
    "Export.Stop": (lambda w: [{}], None),
    "Schedule.Delete": (lambda w: [], None),
}


class World:
    """Two VMs, "down" and "up" (a QEMU without a guest), each with two disks and a snapshot; a floating disk
    of two layers, the lower one of which is exported; a failed backup of one disk of "up"; an image that is no volume and a directory that is no pool yet; jobs, finished ones. `one`:
    an object of each kind, by kind. `polkit`: a class of harness.polkit that answers for polkit on the
    bus."""

    def __init__(self, directory, config="", polkit=None):
        self.directory, self.config = str(directory), config
        self.pool_path, self.vm_path = f"{self.directory}/pool", f"{self.directory}/images"
        self.vacant = f"{self.directory}/vacant"
        self.bus = self.daemon = self.client = self.qemu = None
        self.polkit = polkit(f"{self.directory}/polkit") if polkit else None

    def start(self):
        for path in (self.pool_path, self.vm_path, self.vacant):
            os.mkdir(path)
        self.bus = Bus(f"{self.directory}/bus", self.polkit.bus_policy if self.polkit else "")
        if self.polkit:
            self.polkit.start(self.bus)
        self.daemon = Daemon(f"{self.directory}/d", self.bus, self.config).start()
        self.client = Client(self.bus.address)
        self._make()
        return self

    def stop(self):
        if self.client:
            self.client.close()
        if self.qemu:
            self.qemu.kill()
        if self.daemon:
            self.daemon.stop()
        if self.polkit:
            self.polkit.stop()
        if self.bus:
            self.bus.stop()
        exports.end_all(self.directory)
        text = self.daemon.text() if self.daemon else ""
        assert "ERROR: AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]

    def _make(self):
        c = self.client
        self.pool = c.create_pool("main", self.pool_path)
        self.disks = [self.create_disk(name) for name in ("floating", "down-root", "down-data")]
        self.down = c.register_vm("down", config=b"<domain/>", config_type="application/xml")
        for disk, target in zip(self.disks[1:], ("root", "data")):
            c.finish(c.call(disk, "Disk", "Attach", "osa{sv}", self.down, target, {}))
        result = c.finish(c.create_snapshot(self.down, "first"))
        self.snapshot = result["snapshot"]
        c.finish(c.call(self.disks[0], "Disk", "CreateOverlay", "a{sv}", {}))
        images.create(f"{self.pool_path}/stray.qcow2", "1M")

        paths = [images.create(f"{self.vm_path}/{name}.qcow2", "16M") for name in ("up-root", "up-data")]
        self.qemu = Qemu(f"{self.directory}/qemu", paths, running=True).start()
        self.up = c.register_vm("up", qmp_socket=self.qemu.qmp)
        c.finish(c.create_snapshot(self.up, "live"))

        base = c.get(c.get(self.disks[0], "Disk", "Active"), "Volume", "Backing")
        self.export = exports.make_of_volume(c, base)
        [data] = [path for path, p in c.of_kind("disk").items() if p["VM"] == self.up and p["Target"] == "serial1"]
        self.backup = backups.start(c, self.up, disks=[data], checkpoint="monday")
        backups.spoil(self.qemu)
        c.failure(c.call(self.backup, "Backup", "Finish", "a{sv}", {}))
        self.schedule = c.create_schedule(self.down, "later", "yearly")
        self.job = next(iter(c.of_kind("job")))
        volume = dict(c.get(self.snapshot, "Snapshot", "Disks"))[self.disks[2]]
        self.one = {"pool": self.pool, "disk": self.disks[1], "volume": volume, "vm": self.down,
                    "snapshot": self.snapshot, "export": self.export, "backup": self.backup,
                    "schedule": self.schedule, "job": self.job}
        assert set(self.one) == set(KINDS)

    def create_disk(self, name, size=MiB, **options):
        job = self.client.call(self.pool, "Pool", "CreateDisk", "sta{sv}", name, size, options)
        return self.client.finish(job)["disk"]

    def target(self, method):
        """The object that CALLS calls a method ("Disk.Attach") of."""
        return self.disks[0] if method == "Disk.Attach" else self.object_of(method.split(".")[0])

    def object_of(self, interface):
        """An object that has an interface, by its short name."""
        return ROOT if interface == "Manager" else self.one[interface.lower()]

    def objects(self):
        """Everything that is shown, without jobs and what may change by itself."""
        volatile = {"FreeBytes", "CapacityBytes", "AllocatedBytes", "Connections"}
        return {path: {name: {p: v for p, v in properties.items() if p not in volatile}
                       for name, properties in interfaces.items()}
                for path, interfaces in self.client.objects().items() if "/job/" not in path}

    def files(self):
        """Every file in the pools, and what shows that it was touched."""
        found = {}
        for top in (self.pool_path, self.vm_path):
            for directory, below, names in os.walk(top):
                # Manifests are written when there is time.
                below[:] = [name for name in below if name != ".volchain"]
                for name in names:
                    path = os.path.join(directory, name)
                    status = os.lstat(path)
                    found[path] = (status.st_ino, status.st_mode, status.st_uid, status.st_size,
                                   status.st_mtime_ns)
        return found
