# SPDX-License-Identifier: MIT
"""Checkpoints and backups: how they are made, read, and what they must not leave behind."""
import contextlib
import mmap
import os
import time

import nbd

from harness import digest
from harness.client import Variant, variants

MIB = 1 << 20


def bitmap_name(name, usec=1_700_000_000_000_000):
    """What the bitmap of a checkpoint is called in the images."""
    return f"vc.{usec:016}.{name}"


def checkpoints(client, vm):
    """{name: state}"""
    return {name: state for name, _, state in client.get(vm, "VM", "Checkpoints")}


def problems(client, vm):
    """{(name, disk): why}"""
    return {(name, disk): why for name, disk, why in client.get(vm, "VM", "CheckpointProblems")}


def delete_checkpoint(client, vm, name):
    """The images in which a part stays."""
    return client.finish(client.call(vm, "VM", "DeleteCheckpoint", "sa{sv}", name, variants({})))["left"]


# --- backups ---

def options_of(options):
    if isinstance(options.get("allow_uid"), int):
        options["allow_uid"] = Variant("u", options["allow_uid"])
    return variants({"quiesce": "off", **options})


def begin(client, vm, **options):
    """The job of a VM.StartBackup."""
    return client.call(vm, "VM", "StartBackup", "a{sv}", options_of(options))


def start(client, vm, **options):
    """A backup; its object."""
    return client.finish(begin(client, vm, **options))["backup"]


def begin_of_snapshot(client, vm, snapshot, **options):
    """The job of a VM.StartBackup of a snapshot."""
    return client.call(vm, "VM", "StartBackup", "a{sv}", variants({"snapshot": Variant("o", snapshot), **options}))


def start_of_snapshot(client, vm, snapshot, **options):
    return client.finish(begin_of_snapshot(client, vm, snapshot, **options))["backup"]


# Before one has ended, nothing is held.
BEFORE_IT_IS_HELD = {"record", "files", "nodes", "freeze", "hold"}


def wait_held(client, job, timeout=60):
    """Until the moment of a backup that begins is held, or it has ended."""
    end = time.monotonic() + timeout
    with client.signals(path=job, member="PropertiesChanged") as changes:
        while client.get(job, "Job", "Step") in BEFORE_IT_IS_HELD and client.get(job, "Job", "FinishedUsec") == 0:
            with contextlib.suppress(TimeoutError):
                changes.next(max(0.001, min(1, end - time.monotonic())))
            assert time.monotonic() < end, "nothing is held"


def finish(client, backup):
    """The job's result."""
    return client.finish(client.call(backup, "Backup", "Finish", "a{sv}", {}))


def abort(client, backup):
    client.finish(client.call(backup, "Backup", "Abort"))


def gone(client, backup, timeout=30):
    """Until it is no more."""
    end = time.monotonic() + timeout
    while backup in client.of_kind("backup"):
        assert time.monotonic() < end, f"{backup} is still there: {client.get_all(backup, 'Backup')}"
        time.sleep(0.05)


def shown(client, backup):
    """{disk: (uri, name of the bitmap)} of its exports."""
    found = {}
    for path in client.get(backup, "Backup", "Exports"):
        properties = client.get_all(path, "Export")
        found[properties["Disk"]] = (properties["Uri"], properties["Bitmap"])
    return found


def kinds(client, backup):
    """{disk: "full" or "incremental"}"""
    return {disk: kind for disk, kind, _ in client.get(backup, "Backup", "Disks")}


def reasons(client, backup):
    return {disk: why for disk, _, why in client.get(backup, "Backup", "Disks")}


class Copy:
    """What a backup program keeps of a disk: full once, then what has changed. `read`: bytes of the last round."""

    def __init__(self):
        self.data, self.read = None, 0

    def take(self, uri, bitmap):
        handle = nbd.NBD()
        handle.add_meta_context("base:allocation")
        if bitmap:
            handle.add_meta_context(bitmap)
        handle.connect_uri(uri)
        size = handle.get_size()
        if not bitmap:
            self.data = self.blank(size)
        assert len(self.data) == size
        self.read = 0
        for offset, length, flags in extents(handle, size, bitmap or "base:allocation"):
            wanted = flags & 1 if bitmap else not flags & 2
            if not wanted:
                continue
            for at in range(offset, offset + length, MIB):
                piece = min(MIB, offset + length - at)
                self.data[at:at + piece] = handle.pread(piece, at)
                self.read += piece
        handle.shutdown()
        return self.digest()

    def blank(self, size):
        return bytearray(size)

    def digest(self):
        return digest.of_bytes(self.data)


class FileCopy(Copy):
    """In a sparse file, for a disk that is larger than what memory is good for."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def blank(self, size):
        with open(self.path, "w+b") as f:
            f.truncate(size)
            return mmap.mmap(f.fileno(), size)

    def digest(self):
        self.data.flush()
        return digest.of_file(self.path)


def extents(handle, size, context):
    assert handle.can_meta_context(context), context
    found, offset = [], 0
    while offset < size:
        got = []
        # The length is a number of 32 bits.
        handle.block_status(min(size - offset, 1 << 30), offset,
                            lambda name, at, entries, error: got.extend(entries) if name == context else None)
        for length, flags in zip(got[::2], got[1::2]):
            length = min(length, size - offset)
            found.append((offset, length, flags))
            offset += length
    return found


def spoil(qemu):
    """Takes away what a backup's health is found out by: it cannot be finished any more."""
    for export in qemu.execute("query-block-exports"):
        if export["id"].startswith("vcb-") and export["id"].endswith("h"):
            qemu.execute("block-export-del", id=export["id"])
    end = time.monotonic() + 20
    while any(e["id"].endswith("h") for e in qemu.execute("query-block-exports")):
        assert time.monotonic() < end


def wait_failed(client, backup, timeout=40):
    """Until it says so; why."""
    client.wait_property(backup, "Backup", "State", "failed", timeout=timeout)
    return client.get(backup, "Backup", "Problem")


def leftovers(directory, pools, qemu=None):
    """Everything that backups have made: to be empty."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        found += [f"{directory}/run/backups/{name}" for name in os.listdir(f"{directory}/run/backups")]
    for pool in pools:
        found += [f"{pool}/{name}" for name in os.listdir(pool) if name.startswith(".vc-")]
    if qemu is not None and qemu.process.poll() is None:
        found += [name for name in qemu.nodes() if name.startswith("vcb-")]
        found += [job["id"] for job in qemu.execute("query-jobs")]
        found += [export["id"] for export in qemu.execute("query-block-exports")]
        found += [b["qdev"] for b in qemu.execute("query-block") if b["inserted"]["node-name"].startswith("vcb-")]
    return found


def exports_left(client):
    return [path for path, p in client.of_kind("export").items() if p["Backup"] != "/"]


__all__ = ["Copy", "FileCopy", "abort", "begin", "begin_of_snapshot", "bitmap_name", "checkpoints", "delete_checkpoint", "exports_left",
           "finish", "gone", "kinds", "leftovers", "options_of", "problems", "reasons", "shown", "spoil", "start",
           "start_of_snapshot", "wait_failed", "wait_held"]
