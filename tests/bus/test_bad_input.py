# SPDX-License-Identifier: MIT
"""Bad input to every method: a named error, never a crash, and nothing is changed by it.

The methods, their arguments and options come from daemon/interfaces. What each one means, and so what is bad
for it, is said in harness.world.CALLS and in MEANING below: a member that is missing there fails
test_nothing_is_left_out.
"""
import os
import uuid

import pytest
from jeepney import DBusAddress, MessageFlag, new_method_call

from harness import interfaces
from harness.client import NAME, ROOT, Client, DBusError
from harness.interfaces import KINDS
from harness.world import CALLS, MiB

DECLARED = interfaces.declared()
METHODS = {f"{i.short}.{m.name}": m for i in DECLARED.values() for m in i.methods.values()}
MAX = (1 << 64) - 1
LONG = "x" * 10240

# Everything in api.md's table but Internal, and what was added to it; and what D-Bus itself answers.
OURS = {f"{NAME}.Error.{name}" for name in (
    "InvalidArgument NotFound AlreadyExists Busy InUse NotRunning Running Unreachable AgentUnavailable "
    "QuiesceFailed UnsafeImage CorruptImage BrokenChain NoSpace ReadOnly Unsupported Cancelled Timeout "
    "QemuFailed Interrupted").split()}
INCALLS = f"{NAME}.Error.InvalidArgument"
DBUS = "org.freedesktop.DBus.Error."

SNAPSHOT_OPTIONS = {"description": "description", "disks": "disks", "exclude": "disks", "quiesce": "word",
                    "freeze-timeout-usec": "timeout", "on-disk-failure": "word", "memory": "flag"}
SCHEDULE_OPTIONS = {**{f"keep-{rule}": "flag" for rule in ("last", "hourly", "daily", "weekly", "monthly", "yearly")},
                    "max-chain": "chain length", "snapshot": "snapshot options", "enabled": "flag", "time-zone": "time zone",
                    "jitter-usec": "jitter", "when-down": "word", "speed": "flag"}

# What arguments and options mean.
MEANING = {
    "Manager.CreatePool.name": "name", "Manager.CreatePool.path": "directory",
    "Manager.CreatePool.create": "flag",
    "Manager.RegisterVM.name": "vm name", "Manager.RegisterVM.id": "uuid",
    "Manager.RegisterVM.qmp-socket": "monitor",
    "Manager.RegisterVM.agent-socket": "socket", "Manager.RegisterVM.config": "config",
    "Manager.RegisterVM.config-type": "mime type", "Manager.RegisterVM.adopt": "flag",
    "Manager.RegisterVM.foreign-manager": "flag", "Manager.RegisterVM.nvram": "stores",
    "Manager.Find.kind": "word", "Manager.Find.what": "what",
    "Pool.CreateDisk.name": "disk name", "Pool.CreateDisk.size": "size", "Pool.CreateDisk.format": "word",
    "Pool.CreateDisk.preallocation": "word", "Pool.CreateDisk.cluster-size": "cluster size",
    "Pool.CreateDisk.extended-l2": "flag", "Pool.CreateDisk.compression": "word",
    "Pool.ImportDisk.path": "image", "Pool.ImportDisk.name": "other disk name",
    "Pool.ImportDisk.format": "word", "Pool.ImportDisk.copy": "flag",
    "Disk.CreateOverlay.backing": "backing", "Disk.CreateOverlay.activate": "flag",
    "Disk.Attach.vm": "vm", "Disk.Attach.target": "target", "Disk.Attach.device": "word of QEMU",
    "Disk.Attach.bus": "word of QEMU", "Disk.Detach.timeout-usec": "timeout",
    "Disk.CreateSnapshot.name": "snapshot name", "Disk.CreateSnapshot.description": "description",
    "Disk.CreateSnapshot.quiesce": "word", "Disk.CreateSnapshot.freeze-timeout-usec": "timeout",
    "Disk.Move.pool": "pool", "Disk.Move.collapse": "flag", "Disk.Move.speed": "flag",
    "Disk.Resize.size": "size", "Disk.Resize.shrink": "flag", "Disk.Check.repair": "flag", "Disk.Delete.snapshots": "flag",
    "VM.CreateSnapshot.name": "snapshot name", "VM.CreateSnapshot.description": "description",
    "VM.CreateSnapshot.disks": "disks", "VM.CreateSnapshot.exclude": "left out disks",
    "VM.CreateSnapshot.quiesce": "word",
    "VM.CreateSnapshot.freeze-timeout-usec": "timeout", "VM.CreateSnapshot.on-disk-failure": "word",
    "VM.CreateSnapshot.checkpoint": "description",
    "VM.CreateSnapshot.memory": "flag", "VM.Preview.memory": "flag", "VM.LaunchArguments.memory": "flag",
    "Snapshot.Preview.memory": "flag", "Snapshot.Revert.memory": "flag",
    "VM.Update.nvram": "stores", "VM.Update.discard-memory": "flag",
    "VM.Preview.disks": "choice", "VM.Preview.config-from": "config from", "VM.CommitPreview.keep-branch": "flag",
    "VM.LaunchArguments.device": "device", "VM.DeleteCheckpoint.name": "checkpoint",
    "VM.StartBackup.kind": "word", "VM.StartBackup.since": "checkpoint", "VM.StartBackup.disks": "disks",
    "VM.StartBackup.quiesce": "word", "VM.StartBackup.freeze-timeout-usec": "timeout",
    "VM.StartBackup.checkpoint": "description", "VM.StartBackup.require-incremental": "flag",
    "VM.StartBackup.allow-uid": "user", "VM.StartBackup.mode": "word",
    "VM.StartBackup.target": "credentials", "VM.StartBackup.target-pool": "pool", "VM.StartBackup.compress": "flag",
    "VM.StartBackup.speed": "flag", "VM.StartBackup.bind-to-caller": "flag", "VM.StartBackup.snapshot": "config from",
    "Manager.RestoreDisk.name": "disk name", "Manager.RestoreDisk.pool": "pool", "Manager.RestoreDisk.size": "size",
    "Manager.RestoreDisk.format": "word", "Manager.RestoreDisk.preallocation": "word",
    "Manager.RestoreDisk.cluster-size": "cluster size", "Manager.RestoreDisk.extended-l2": "flag",
    "Manager.RestoreDisk.compression": "word", "Manager.RestoreDisk.ttl-usec": "life",
    "Manager.RestoreDisk.bind-to-caller": "flag", "Manager.RestoreDisk.allow-uid": "user",
    "Manager.RestoreDisk.max-connections": "flag", "Manager.RestoreDisk.address": "address",
    "Manager.RestoreDisk.tls-credentials": "credentials",
    "VM.CreateSnapshot.profile": "profile", "VM.DeleteProfile.name": "profile", "VM.SaveProfile.name": "profile name",
    **{f"VM.SaveProfile.{option}": meaning for option, meaning in SNAPSHOT_OPTIONS.items()},
    "Manager.ImportManifest.path": "manifest", "Manager.ImportManifest.name": "optional vm name",
    "Manager.ImportManifest.pools": "moved pools", "Manager.ImportManifest.ignore-newer": "flag",
    "Manager.CreateSchedule.name": "schedule name", "Manager.CreateSchedule.vm": "vm",
    "Manager.CreateSchedule.calendar": "calendar",
    "Schedule.Update.name": "other schedule name", "Schedule.Update.calendar": "calendar",
    **{f"{method}.{option}": meaning for method in ("Manager.CreateSchedule", "Schedule.Update")
       for option, meaning in SCHEDULE_OPTIONS.items()},
    "VM.ImportSnapshotXML.xml": "snapshot document", "VM.ImportSnapshotXML.current": "flag",
    "Snapshot.Preview.config": "flag", "Snapshot.Revert.config": "flag", "Snapshot.Revert.keep-branch": "flag",
    "Disk.Flatten.speed": "flag", "Job.SetSpeed.speed": "flag",
    "Volume.Commit.base": "base", "Volume.Commit.speed": "flag",
    "Volume.Clone.name": "disk name", "Volume.Clone.pool": "pool", "Volume.Clone.thin": "flag",
    "Snapshot.Clone.name": "vm name", "Snapshot.Clone.pool": "pool", "Snapshot.Clone.pools": "pools",
    "Snapshot.Clone.disks": "some disks", "Snapshot.Clone.thin": "flag", "Snapshot.Clone.shareable": "word",
    **{f"{kind}.Clone.{option}": meaning for kind in ("Volume", "Snapshot") for option, meaning in (
        ("format", "word"), ("preallocation", "word"), ("cluster-size", "cluster size"), ("extended-l2", "flag"),
        ("compression", "word"), ("speed", "flag"))},
    "Volume.Merge.direction": "word", "Volume.Merge.speed": "flag",
    "Volume.Map.start": "position", "Volume.Map.length": "flag",
    "Volume.Measure.format": "word", "Volume.Measure.cluster-size": "cluster size",
    "Volume.Measure.extended-l2": "flag", "Volume.Measure.bitmaps": "flag",
    "Volume.Checksum.algorithm": "word", "Volume.Checksum.speed": "flag",
    "Snapshot.Diff.other": "other snapshot", "Snapshot.DiffMap.other": "other snapshot",
    "Snapshot.DiffMap.disk": "disk of both", "Snapshot.DiffMap.start": "position",
    **{f"{method}.{option}": meaning for method in ("Snapshot.Export", "Volume.Export") for option, meaning in {
        "kind": "word", "writable": "flag", "ttl-usec": "life", "bind-to-caller": "flag", "allow-uid": "user",
        "since": "checkpoint", "max-connections": "flag", "address": "address", "tls-credentials": "credentials",
        "vm": "vm", "serial": "serial"}.items()},
    "Snapshot.Export.disk": "disk of it", "Export.Renew.ttl": "life", "Export.Stop.timeout-usec": "timeout",
    "Snapshot.Delete.children": "flag", "Snapshot.Delete.speed": "flag",
    "VM.SetConfig.config": "config", "VM.SetConfig.type": "mime type",
    "VM.Update.name": "vm name", "VM.Update.qmp-socket": "monitor", "VM.Update.agent-socket": "socket",
    "VM.Unregister.forget-snapshots": "flag",
    "Snapshot.SetMetadata.name": "other snapshot name", "Snapshot.SetMetadata.description": "description",
}

BAD_NAMES = {
    "with /": "a/b", "with ..": "../x", "only a .. path": "/..", "newline": "new\nline", "tab": "a\tb",
    "control": "\x01",
    "delete": "a\x7f", "129 bytes": "x" * 129, "10 kB": LONG, "leading space": " x", "trailing space": "x ",
}
EMPTY = {"empty": ""}
SOCKETS = {"relative": "qmp.sock", "with ..": "/run/../qmp.sock", "too long": "/" + "x" * 200,
           "10 kB": "/" + LONG, "control": "\n"}


def of_kind(kind, **more):
    """Object paths that are no objects of a kind. `more`: further ones."""
    def path(number):
        return f"{ROOT}/{kind}/{uuid.UUID(int=number)}".replace("-", "_")

    def in_capitals(world):
        return f"{ROOT}/{kind}/" + world.one[kind].rsplit("/", 1)[1].upper().replace("0", "A")
    wrong = {"no object": "/", "of another kind": lambda w: w.one["pool" if kind != "pool" else "vm"],
             "no id": f"{ROOT}/{kind}/zzz", "not ours": "/org/freedesktop/DBus",
             "the kind itself": f"{ROOT}/{kind}", "unknown": path(uuid.uuid4().int), "nil": path(0),
             "vanished": lambda w: w.vanished[kind], "in capitals": in_capitals}
    return {**wrong, **more}


def in_lists(paths):
    return {label: (lambda w, value=value: [value(w) if callable(value) else value])
            for label, value in paths.items()}


# By meaning: label and bad value, or how to get it from the world.
BAD = {
    "flag": {},
    "base": of_kind("volume", itself=lambda w: w.one["volume"]),
    "word": {**EMPTY, "unknown": "no-such-word", "capitals": "QCOW2", "newline": "qcow2\n", "10 kB": LONG},
    "what": {**EMPTY, "unknown": "nothing-there", "path": "../..", "root": "/", "control": "\x01",
             "10 kB": LONG},
    "name": {**EMPTY, **BAD_NAMES, "taken": "main"},
    "disk name": {**EMPTY, **BAD_NAMES, "taken": "floating"},
    "other disk name": {**BAD_NAMES, "taken": "floating"},
    "vm name": {**EMPTY, **BAD_NAMES, "taken": "up"},
    "snapshot name": {**BAD_NAMES, "taken": "first"},
    "other snapshot name": {**EMPTY, **BAD_NAMES, "taken": "second"},
    "target": {**BAD_NAMES, "taken": "root"},
    "description": {"4097 bytes": "x" * 4097, "10 kB": LONG},
    "mime type": {"256 bytes": "x" * 256, "10 kB": LONG, "control": "text/\x01", "newline": "text/xml\n",
                  "no ASCII": "té/xt"},
    "manifest": {**EMPTY, "relative": "x.json", "missing": "/no/such/file", "a directory": "/etc", "no manifest": "/etc/passwd",
                 "a device": "/dev/null", "10 kB": "/" + LONG},
    "optional vm name": {}, "moved pools": {},
    "profile": {**EMPTY, "unknown": "no-such-profile", "10 kB": LONG},
    "profile name": {**EMPTY, **BAD_NAMES},
    "schedule name": {**EMPTY, **BAD_NAMES, "taken": "later", "97 bytes": "x" * 97},
    "other schedule name": {**EMPTY, **BAD_NAMES, "97 bytes": "x" * 97},
    "calendar": {**EMPTY, "unknown": "sometimes", "no such day": "*-02-30", "no minute": "60 * * * *",
                 "backwards": "5-1 * * * *", "every second": "*:*:*", "newline": "0 0 * * *\n", "10 kB": LONG,
                 "unknown zone": "12:00 Europe/Atlantis"},
    "time zone": {"unknown": "Europe/Atlantis", "path": "../../etc/passwd", "absolute": "/etc/localtime", "10 kB": LONG},
    "jitter": {"more than a day": 86_400_000_001, "highest": MAX},
    "chain length": {"one": 1},
    "snapshot options": {"unknown": {"no-such-option": ("b", True)}, "wrong type": {"quiesce": ("u", 1)},
                         "wrong word": {"quiesce": ("s", "maybe")}, "unknown profile": {"profile": ("s", "none")}},
    "snapshot document": {**EMPTY, "no XML": "x", "cut off": "<domainsnapshot><name>", "control": "\x01", "10 kB": LONG,
                          "another document": "<domain/>", "unknown element": "<domainsnapshot><x/></domainsnapshot>",
                          "document type": "<!DOCTYPE d [<!ENTITY e 'x'>]><domainsnapshot><name>&e;</name></domainsnapshot>",
                          "deep": "<domainsnapshot>" + "<a>" * 100000},
    "config": {"above 4 MiB": b"x" * (4 * MiB + 1), "5 MiB": b"x" * (5 * MiB)},
    "uuid": {**EMPTY, "no uuid": "zzz", "nil": str(uuid.UUID(int=0)), "with more": f"{uuid.uuid4()}x",
             "10 kB": LONG, "taken": lambda w: w.client.get(w.up, "VM", "Id")},
    "socket": SOCKETS,
    "monitor": {**SOCKETS, "of another VM": lambda w: w.qemu.qmp},
    "directory": {**EMPTY, "relative": "images", "missing": "/no/such/directory", "a file": "/etc/passwd",
                  "a device": "/dev/null", "with ..": lambda w: w.vacant + "/../vacant", "10 kB": "/" + LONG,
                  "control": "/tmp/\x01", "taken": lambda w: w.pool_path},
    "image": {**EMPTY, "the pool": ".", "above": "..", "with ..": "../images/up-root.qcow2",
              "missing": "none.qcow2", "in no directory": "none/none.qcow2", "a device": "/dev/zero",
              "absolute, elsewhere": "/etc/passwd", "a directory": lambda w: w.pool_path,
              "a link": "link.qcow2", "control": "\x01", "10 kB": LONG, "10 kB in parts": "x/" * 5000 + "x",
              "a volume": lambda w: w.client.get(w.disks[0], "Disk", "ActivePath")},
    "size": {"0": 0, "1": 1, "511": 511, "not of 512": MiB + 1, "largest": MAX, "largest of 512": MAX - 511,
             "2^63": 1 << 63},
    "cluster size": {"0": 0, "1": 1, "256": 256, "no power": 3 * 65536, "4 MiB": 4 * MiB, "largest": MAX},
    "word of QEMU": {"any, of a VM that is down": "virtio-blk-pci", "with a comma": "virtio-blk-pci,id=x", "newline": "pcie.0\n",
                     "10 kB": LONG},
    "position": {"behind the end": MiB + 1, "largest": MAX},
    "disk of both": of_kind("disk", foreign=lambda w: w.disks[0]),
    "other snapshot": {label: path for label, path in of_kind("snapshot").items() if label != "no object"},
    "timeout": {"0": 0, "above an hour": 3_600_000_001, "largest": MAX},
    "vm": of_kind("vm"),
    "pool": of_kind("pool"),
    "pools": {**{f"disk {label}": (lambda w, value=value: {(value(w) if callable(value) else value): w.pool})
                 for label, value in of_kind("disk", foreign=lambda w: w.disks[0]).items()},
              **{f"pool {label}": (lambda w, value=value: {w.disks[2]: value(w) if callable(value) else value})
                 for label, value in of_kind("pool").items()}},
    "some disks": {"none": [], **in_lists(of_kind("disk", foreign=lambda w: w.disks[0]))},
    "backing": of_kind("volume", **{
        "of another disk": lambda w: w.client.get(w.disks[0], "Disk", "Active"),
        "the active one": lambda w: w.client.get(w.one["disk"], "Disk", "Active")}),
    "disks": {"none": [], **in_lists(of_kind("disk", foreign=lambda w: w.disks[0]))},
    "choice": {"none": {},
               **{f"disk {label}": (lambda w, value=value: {(value(w) if callable(value) else value): w.snapshot})
                  for label, value in of_kind("disk", foreign=lambda w: w.disks[0]).items()},
               **{f"snapshot {label}": (lambda w, value=value: {w.disks[2]: value(w) if callable(value) else value})
                  for label, value in of_kind("snapshot", foreign=lambda w: w.foreign_snapshot).items()}},
    "config from": of_kind("snapshot", foreign=lambda w: w.foreign_snapshot),
    "device": {"with a property": "virtio-blk-pci,drive=x", "two": "a b", "control": "a\n", "10 kB": LONG},
    "disk of it": of_kind("disk", foreign=lambda w: w.disks[0]),
    "life": {"more than a year": 32_000_000_000_000, "largest": MAX},
    "user": {"nobody at all": (1 << 32) - 1},
    "checkpoint": {"unknown": "none", "newline": "a\n", "10 kB": LONG},
    "address": {"without TLS": "127.0.0.1:0", "a name": "localhost:10809", "no port": "127.0.0.1", "10 kB": LONG},
    "credentials": {"without an address": "/etc", "relative": "tls", "missing": "/no/such/directory", "10 kB": LONG},
    "serial": {"of no device": "x", "10 kB": LONG, "control": "\x01"},
    "stores": {"empty": [""], "relative": ["VARS.fd"], "missing": ["/no/such/file"], "a directory": ["/etc"],
               "a device": ["/dev/null"], "with ..": ["/etc/../etc/passwd"], "control": ["/\x01"], "10 kB": ["/" + LONG],
               "a link": lambda w: [f"{w.pool_path}/link.qcow2"], "twice": ["/etc/passwd", "/etc/passwd"],
               "an image": lambda w: [f"{w.pool_path}/stray.qcow2"], "too many": ["/etc/passwd"] * 9,
               "a volume": lambda w: [w.client.get(w.disks[0], "Disk", "ActivePath")]},
    "left out disks": {"all": lambda w: w.disks[1:], **in_lists(of_kind("disk"))},
}
# Options of the right type that do not go together, or not with this object.
COMBINATIONS = {
    **{method: {
        "raw with clusters": {"format": ("s", "raw"), "cluster-size": ("t", 65536)},
        "raw with subclusters": {"format": ("s", "raw"), "extended-l2": ("b", True)},
        "raw with compression": {"format": ("s", "raw"), "compression": ("s", "zstd")},
        "raw with metadata": {"format": ("s", "raw"), "preallocation": ("s", "metadata")},
        "subclusters in small clusters": {"extended-l2": ("b", True), "cluster-size": ("t", 4096)},
    } for method in ("Pool.CreateDisk", "Manager.RestoreDisk")},
    "VM.StartBackup": {
        "a full one since": {"since": ("s", "monday")},
        "a differential one since nothing": {"kind": ("s", "differential")},
        "a restore": {"kind": ("s", "restore")},
        "a directory to pull into": {"target": ("s", "/tmp")},
        "push without a directory": {"mode": ("s", "push")},
        "push for somebody": {"mode": ("s", "push"), "target": ("s", "/tmp"), "allow-uid": ("u", 0)},
        "pull with a limit": {"speed": ("t", 1)},
    },
    **{f"{kind}.Clone": {
        "raw with clusters": {"format": ("s", "raw"), "cluster-size": ("t", 65536)},
        "raw with metadata": {"format": ("s", "raw"), "preallocation": ("s", "metadata")},
        "thin with a format": {"thin": ("b", True), "format": ("s", "qcow2")},
        "thin with preallocation": {"thin": ("b", True), "preallocation": ("s", "full")},
    } for kind in ("Volume", "Snapshot")},
    "Disk.CreateOverlay": {"activate without backing": {"activate": ("b", True)}},
    "VM.CreateSnapshot": {
        "memory, and a disk that may be left out": {"memory": ("b", True), "on-disk-failure": ("s", "exclude")},
        "memory, and a freeze": {"memory": ("b", True), "quiesce": ("s", "require")},
    },
    "VM.Preview": {"memory of no snapshot": {"memory": ("b", True)}},
    "Snapshot.Preview": {"memory without configuration": {"memory": ("b", True), "config": ("b", False)},
                         "memory that it does not have": {"memory": ("b", True)}},
    "VM.LaunchArguments": {"memory that is not due": {"memory": ("b", True)}},
    "VM.Update": {"memory that is not due": {"discard-memory": ("b", True)}},
    "Volume.Measure": {
        "raw with clusters": {"format": ("s", "raw"), "cluster-size": ("t", 65536)},
        "raw with subclusters": {"format": ("s", "raw"), "extended-l2": ("b", True)},
        "raw with bitmaps": {"format": ("s", "raw"), "bitmaps": ("b", True)},
        "subclusters in small clusters": {"extended-l2": ("b", True), "cluster-size": ("t", 4096)},
    },
}
WRONG_TYPES = {"s": [("u", 5), ("ay", b"x"), ("v", ("s", "x"))], "b": [("s", "true"), ("u", 1)],
               "t": [("s", "5"), ("i", -1), ("d", 1.0)], "u": [("s", "5"), ("i", -1), ("t", 1 << 32)], "o": [("s", "/"), ("ao", [])],
               "ao": [("as", ["/"]), ("o", "/"), ("a(oo)", [])], "a{oo}": [("a{os}", {}), ("ao", [])], "ay": [("s", "x"), ("au", [1])],
               "a{ss}": [("a{sv}", {}), ("as", [])], "as": [("s", "/x"), ("ao", ["/x"]), ("au", [1])],
               "a{sv}": [("a{ss}", {}), ("s", "x")]}
ANOTHER = {"s": ("u", 1), "t": ("s", "1"), "o": ("s", "/"), "ay": ("s", "x"), "a{sv}": ("a{ss}", {}),
           "a{oo}": ("a{os}", {})}


def bad_values():
    """(method, which argument or option, label, value)"""
    for key, method in METHODS.items():
        known = {name: None for name, _ in method.inputs} | method.options
        for name in known:
            for label, value in BAD.get(MEANING.get(f"{key}.{name}"), {}).items():
                yield key, name, label, value


def test_nothing_is_left_out():
    """A new method, argument or option has to be given a meaning here, and so its bad input."""
    assert set(CALLS) == set(METHODS)
    known = {f"{key}.{name}" for key, method in METHODS.items()
             for name in [n for n, type in method.inputs if type != "a{sv}"] + list(method.options)}
    assert set(MEANING) == known
    assert set(MEANING.values()) == set(BAD)


@pytest.fixture(scope="module")
def world(world):
    """With what bad input refers to: a link, and objects that are gone."""
    c = world.client
    os.symlink("/etc/passwd", f"{world.pool_path}/link.qcow2")
    c.call(world.snapshot, "Snapshot", "SetMetadata", "a{sv}", {"description": ("s", "to be changed")})
    c.finish(c.create_snapshot(world.down, "second"))
    world.foreign_snapshot = next(path for path, s in c.of_kind("snapshot").items() if s["VM"] == world.up)

    gone = f"{world.directory}/gone"
    os.mkdir(gone)
    pool = c.create_pool("gone", gone)
    made = c.finish(c.call(pool, "Pool", "CreateDisk", "sta{sv}", "gone", MiB, {}))
    vm = c.register_vm("gone")
    c.finish(c.call(made["disk"], "Disk", "Attach", "osa{sv}", vm, "x", {}))
    snapshot = c.finish(c.create_snapshot(vm, "gone"))["snapshot"]
    c.call(vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    c.call(pool, "Pool", "Remove")
    world.vanished = {"pool": pool, "disk": made["disk"], "volume": made["volume"], "vm": vm,
                      "snapshot": snapshot, "export": f"{ROOT}/export/{uuid.uuid4()}".replace("-", "_"),
                      "backup": f"{ROOT}/backup/{uuid.uuid4()}".replace("-", "_"),
                      "schedule": f"{ROOT}/schedule/{uuid.uuid4()}".replace("-", "_"),
                      "job": f"{ROOT}/job/{uuid.uuid4()}".replace("-", "_")}
    return world


def error_of(world, path, key, signature, arguments):
    """(name, message) of the error that a call, or the job it starts, ends in."""
    interface, member = key.split(".")
    try:
        result = world.client.call(path, interface, member, signature or None, *arguments)
    except DBusError as error:
        return error.name, error.message
    is_job = isinstance(result, str) and result.startswith(f"{ROOT}/job/")
    assert is_job, f"{key}{tuple(arguments)} was accepted: {result}"
    name, message = world.client.failure(result)
    return f"{NAME}.Error.{name}", message


class Unchanged:
    """Nothing that is shown, and no file, is another one at the end."""

    def __init__(self, world):
        self.world = world

    def __enter__(self):
        self.before = self.world.objects(), self.world.files()

    def __exit__(self, failure, *_):
        assert self.world.daemon.process.poll() is None, "volchaind has ended"
        if failure is None:
            assert (self.world.objects(), self.world.files()) == self.before


@pytest.mark.parametrize("key,name,label,value", [
    pytest.param(*case, id=f"{case[0]}-{case[1]}-{case[2]}".replace(" ", "_")) for case in bad_values()])
def test_bad_value(world, key, name, label, value):
    method = METHODS[key]
    arguments = CALLS[key][0](world)
    value = value(world) if callable(value) else value
    names = [n for n, _ in method.inputs]
    if name in names:
        arguments[names.index(name)] = value
    else:
        arguments[-1] = {name: (method.options[name], value)}
    with Unchanged(world):
        error, message = error_of(world, world.target(key), key, method.signature, arguments)
    assert error in OURS, f"{error}: {message}"
    assert message and len(message) < 2000


@pytest.mark.parametrize("key,label", [pytest.param(k, l, id=f"{k}-{l}".replace(" ", "_"))
                                       for k, cases in COMBINATIONS.items() for l in cases])
def test_options_that_do_not_go_together(world, key, label):
    arguments = CALLS[key][0](world)
    arguments[-1] = COMBINATIONS[key][label]
    with Unchanged(world):
        error, message = error_of(world, world.target(key), key, METHODS[key].signature, arguments)
    assert error == INCALLS, f"{error}: {message}"


@pytest.mark.every
@pytest.mark.parametrize("key", sorted(METHODS))
def test_wrong_arguments(world, key):
    """Too few, too many, each of another type: D-Bus' own error."""
    method, arguments = METHODS[key], CALLS[key][0](world)
    types = [type for _, type in method.inputs]
    attempts = [(method.signature + "u", [*arguments, 1])]
    if types:
        attempts += [("", []), ("".join(types[:-1]), arguments[:-1])]
    for position, type in enumerate(types):
        other, value = ANOTHER[type]
        attempts.append(("".join(types[:position] + [other] + types[position + 1:]),
                         arguments[:position] + [value] + arguments[position + 1:]))
    with Unchanged(world):
        for signature, values in attempts:
            error, message = error_of(world, world.target(key), key, signature, values)
            assert error == f"{DBUS}InvalidArgs", f"'{signature}': {error}: {message}"


@pytest.mark.parametrize("key", sorted(k for k, m in METHODS.items() if ("options", "a{sv}") in m.inputs))
def test_options(world, key):
    """Unknown ones, and known ones of another type: the error names them."""
    method = METHODS[key]
    attempts = [("no-such-option", ("b", True)), ("", ("s", "")), (LONG, ("s", "")), ("Name", ("s", "x"))]
    for option, type in method.options.items():
        attempts += [(option, wrong) for wrong in WRONG_TYPES[type]]
        attempts.append((option.replace("-", "_") + "_", ("s", "x")))
    with Unchanged(world):
        for option, value in attempts:
            arguments = CALLS[key][0](world)[:-1] + [{option: value}]
            error, message = error_of(world, world.target(key), key, method.signature, arguments)
            assert error == INCALLS and option[:100] in message, f"{option}={value}: {error}: {message}"


@pytest.mark.parametrize("key", sorted(k for k, m in METHODS.items() if ("options", "a{sv}") in m.inputs))
def test_huge_options(world, key):
    method = METHODS[key]
    nested = ("s", "x")
    for _ in range(40):
        nested = ("v", nested)
    huge = [{f"option-{n}": ("b", True) for n in range(20000)}, {"x": ("at", list(range(200_000)))},
            {"x": nested}, {"x": ("ay", bytes(6 * MiB))}]
    huge += [{option: ("at", list(range(200_000)))} for option in list(method.options)[:1]]
    with Unchanged(world):
        for options in huge:
            arguments = CALLS[key][0](world)[:-1] + [options]
            error, message = error_of(world, world.target(key), key, method.signature, arguments)
            assert error == INCALLS and len(message) < 2000, f"{error}: {message[:2000]}"


def test_huge_choice(world):
    choice = {f"{ROOT}/disk/{uuid.UUID(int=n + 1)}".replace("-", "_"): world.snapshot for n in range(50_000)}
    with Unchanged(world):
        error, message = error_of(world, world.down, "VM.Preview", "a{oo}a{sv}", [choice, {}])
        assert error in (INCALLS, f"{NAME}.Error.NotFound") and len(message) < 2000


def test_huge_list_of_objects(world):
    paths = [f"{ROOT}/disk/{uuid.UUID(int=n + 1)}".replace("-", "_") for n in range(50_000)]
    with Unchanged(world):
        for option in "disks", "exclude":
            arguments = ["huge", {option: ("ao", paths)}]
            error, message = error_of(world, world.down, "VM.CreateSnapshot", "sa{sv}", arguments)
            assert error in (INCALLS, f"{NAME}.Error.NotFound") and len(message) < 2000


@pytest.mark.parametrize("kind", KINDS)
def test_objects_that_are_not_there(world, kind):
    """Every method, on an object that vanished, was never there, is of another kind, or has another name."""
    interface = DECLARED[interfaces.name_of(kind)]
    paths = [value(world) if callable(value) else value for value in of_kind(kind).values()]
    paths += [path for other, path in world.one.items() if other != kind] + [ROOT, f"{ROOT}/nothing"]
    methods = [f"{interface.short}.{name}" for name in interface.methods]
    expected = {f"{DBUS}{name}" for name in ("UnknownObject", "UnknownMethod", "UnknownInterface")}
    with Unchanged(world):
        for path in paths:
            for key in methods:
                error, message = error_of(world, path, key, METHODS[key].signature, CALLS[key][0](world))
                assert error in expected, f"{key} on {path}: {error}: {message}"
            with pytest.raises(DBusError) as refused:
                world.client.get_all(path, interface.name)
            assert refused.value.name in expected


def test_properties_cannot_be_set(world):
    with Unchanged(world):
        for interface in DECLARED.values():
            path = world.object_of(interface.short)
            for member in interface.properties.values():
                with pytest.raises(DBusError) as refused:
                    world.client.call(path, "org.freedesktop.DBus.Properties", "Set", "ssv", interface.name,
                                      member.name, ("s", "x"))
                assert refused.value.name in (f"{DBUS}PropertyReadOnly", f"{DBUS}AccessDenied")
            with pytest.raises(DBusError) as unknown:
                world.client.get(path, interface.name, "NoSuchProperty")
            assert unknown.value.name == f"{DBUS}UnknownProperty"


@pytest.mark.parametrize("key", [key for key in CALLS if METHODS[key].signature.startswith("s")])
def test_text_that_is_no_utf8(world, key):
    """The bus throws out who sends it; the daemon does not get to see it."""
    interface, member = key.split(".")
    address = DBusAddress(world.target(key), bus_name=NAME, interface=f"{NAME}.{interface}")
    arguments = tuple("PLACEHOLDER" if isinstance(a, str) else a for a in CALLS[key][0](world))
    message = new_method_call(address, member, METHODS[key].signature, arguments)
    sender = Client(world.bus.address)
    with Unchanged(world):
        raw = message.serialise(serial=next(sender.connection.outgoing_serial))
        sender.connection.sock.sendall(raw.replace(b"PLACEHOLDER", b"\xff\xfe\xc0\x80 \xed\xa0\x80!!!"))
        with pytest.raises(ConnectionResetError):
            while True:  # what it was told before
                sender.connection.receive(timeout=20)
    sender.close()


def test_nobody_waits_for_the_answer(world):
    """Calls that want no reply, bad ones too, and a caller that has left before its answer."""
    with Unchanged(world):
        sender = Client(world.bus.address)
        for key, method in METHODS.items():
            arguments = ["\x01" if isinstance(a, str) and not a.startswith("/") else a
                         for a in CALLS[key][0](world)]
            signature = method.signature
            if arguments == CALLS[key][0](world) and ("options", "a{sv}") in method.inputs:
                arguments = arguments[:-1] + [{"no-such-option": ("b", True)}]
            elif arguments == CALLS[key][0](world):
                arguments, signature = [*arguments, 1], signature + "u"
            address = DBusAddress(world.target(key), bus_name=NAME, interface=f"{NAME}.{key.split('.')[0]}")
            message = new_method_call(address, key.split(".")[1], signature, tuple(arguments))
            message.header.flags |= MessageFlag.no_reply_expected
            sender.connection.send(message)
        sender.call(ROOT, "Manager", "Find", "ss", "pool", "main")  # all of the above was taken before this
        sender.close()


def test_all_else_of_the_calls_was_right(world):
    """The last one, for it changes the world: the calls that the bad ones were made from."""
    for key, (arguments, expected) in CALLS.items():
        interface, member = key.split(".")
        try:
            result = world.client.call(world.target(key), interface, member, METHODS[key].signature or None,
                                       *arguments(world))
            if isinstance(result, str) and result.startswith(f"{ROOT}/job/"):
                world.client.finish(result)
        except DBusError as error:
            assert error.short == expected, f"{key}: {error}"
        else:
            assert expected is None, key
    assert " failed: " not in "".join(line for line in world.daemon.text().splitlines() if "Internal" in line)
