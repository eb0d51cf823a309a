# SPDX-License-Identifier: MIT
"""Who backs up a disk, and how what they show is read. Each has a VM of its own. What is timed is begin(), after which exports can
be read, the reading, and end(); or push().
"""
import os
import subprocess
import time

import nbd

from bench.merge_peers import LIMIT, MIB, flush
from harness import backups, images
from harness.backups import extents
from harness.qemu import Qemu

PIECE = 256 * 1024
IN_FLIGHT = 16


# --- readers, the same for everybody ---

def read_all(uri, path):
    subprocess.run(["nbdcopy", uri, path], check=True, timeout=LIMIT)
    flush(path)


def read_changes(uri, bitmap, path):
    """What the bitmap marks, into a copy of what was before. nbdcopy knows no bitmaps."""
    handle = nbd.NBD()
    handle.add_meta_context(bitmap)
    handle.connect_uri(uri)
    pieces = [(at, min(PIECE, offset + length - at)) for offset, length, flags in extents(handle, handle.get_size(), bitmap)
              if flags & 1 for at in range(offset, offset + length, PIECE)]
    with open(path, "r+b", buffering=0) as f:
        pending = []
        for at, length in pieces:
            buffer = nbd.Buffer(length)
            pending.append((at, buffer, handle.aio_pread(buffer, at)))
            if len(pending) == IN_FLIGHT:
                store(handle, f, *pending.pop(0))
        for entry in pending:
            store(handle, f, *entry)
    handle.shutdown()
    flush(path)
    return sum(length for _, length in pieces)


def store(handle, f, at, buffer, cookie):
    while not handle.aio_command_completed(cookie):
        handle.poll(-1)
    os.pwrite(f.fileno(), buffer.to_bytearray(), at)


def write_changes(write, size, mib, seed):
    """So many MiB, in pieces of one, all over the disk."""
    count = size // MIB
    for number in range(mib):
        write(seed % 250 + 1, (number * 37 + seed) % count * MIB, MIB)


# --- volchain ---

class Volchain:
    """StartBackup of a running VM, and Finish."""
    name = "volchain"

    def __init__(self, site, directory, paths, tap=None):
        self.client, self.directory, self.paths, self.backup = site.client, directory, paths, None
        self.target = f"{directory}/pushed"
        os.mkdir(self.target)
        self.qemu = Qemu(f"{directory}/vm", [paths[-1]]).start()
        self.tap = tap(f"{directory}/tap.sock", self.qemu.qmp) if tap else None
        try:
            monitor = self.tap.path if tap else self.qemu.qmp
            self.vm = self.client.register_vm(os.path.basename(directory), qmp_socket=monitor)
        except BaseException:
            self.qemu.kill()
            raise

    def write(self, pattern, offset, length):
        self.qemu.write("dev0", pattern, offset, length)

    def begin(self, checkpoint, since=None):
        """Exports can be read when it returns."""
        options = {"kind": "incremental", "since": since} if since else {}
        self.backup = backups.start(self.client, self.vm, checkpoint=checkpoint, **options)

    def shown(self):
        """(uri, the bitmap's context) of the one disk."""
        found, = backups.shown(self.client, self.backup).values()
        return found

    def end(self):
        backups.finish(self.client, self.backup)

    def push(self, checkpoint, since=None):
        """The path of the file, when all is in it."""
        options = {"kind": "incremental", "since": since} if since else {}
        job = backups.begin(self.client, self.vm, mode="push", target=self.target, checkpoint=checkpoint, **options)
        path, = self.client.finish(job, LIMIT)["files"]
        flush(path)
        return path

    def close(self):
        """The path of the active image, which nobody has open any more."""
        self.qemu.terminate()
        self.client.call(self.vm, "VM", "Unregister", "a{sv}", {})
        if self.tap:
            self.tap.close()
        return self.paths[-1]


# --- libvirt ---

CHECKPOINT = "<domaincheckpoint><name>{name}</name><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"
PULLED = """
<domainbackup mode='pull'>
  {incremental}
  <server transport='unix' socket='{directory}/nbd.sock'/>
  <disks><disk name='vda' backup='yes' type='file'><driver type='qcow2'/><scratch file='{directory}/scratch.qcow2'/></disk></disks>
</domainbackup>"""
PUSHED = """
<domainbackup mode='push'>
  {incremental}
  <disks><disk name='vda' backup='yes' type='file'><driver type='qcow2'/><target file='{path}'/></disk></disks>
</domainbackup>"""


class Libvirt:
    """virDomainBackupBegin over a connection that is there already, and virDomainAbortJob, which is how one in pull mode
    ends."""
    name = "libvirt"

    def __init__(self, site, directory, paths):
        self.host, self.directory, self.paths = site.libvirt, directory, paths
        self.domain = self.host.start_domain(os.path.basename(directory), [paths[-1]])
        self.since = None

    def write(self, pattern, offset, length):
        import libvirt_qemu  # pylint: disable=import-outside-toplevel
        command = f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -q -P {pattern} {offset} {length}"'
        answer = libvirt_qemu.qemuMonitorCommand(self.domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        assert not answer.strip(), answer

    def begin(self, checkpoint, since=None):
        self.since = since
        self._begin(PULLED, checkpoint, since)

    def _begin(self, form, checkpoint, since, reuse=False, **values):
        incremental = f"<incremental>{since}</incremental>" if since else ""
        backup = form.format(incremental=incremental, directory=self.directory, **values)
        self._call(backup, CHECKPOINT.format(name=checkpoint), reuse)

    def _call(self, backup, checkpoint, reuse):
        flags = self.host.library.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL if reuse else 0
        self.domain.backupBegin(backup, checkpoint, flags)

    def shown(self):
        return f"nbd+unix:///vda?socket={self.directory}/nbd.sock", "qemu:dirty-bitmap:backup-vda" if self.since else ""

    def end(self):
        self._abort()
        self._wait_ended(0.001)

    def _abort(self):
        self.domain.abortJob()

    def push(self, checkpoint, since=None):
        path = f"{self.directory}/pushed.{checkpoint}.qcow2"
        if since:
            # As volchain's, it is to be the changes over the file of before.
            images.create(path, None, backing=f"pushed.{since}.qcow2")
        self._begin(PUSHED, checkpoint, since, reuse=bool(since), path=path)
        self._wait_ended(0.005)
        stats = self.domain.jobStats(self.host.library.VIR_DOMAIN_JOB_STATS_COMPLETED)
        assert stats["success"], stats
        flush(path)
        return path

    def _wait_ended(self, interval):
        """It is looked for often: that costs it less than an event loop would."""
        end = time.monotonic() + LIMIT
        while self.domain.jobInfo()[0] != self.host.library.VIR_DOMAIN_JOB_NONE:
            assert time.monotonic() < end, "it does not end"
            time.sleep(interval)

    def close(self):
        self.host.end_domain(self.domain)
        return self.paths[-1]


class Virsh(Libvirt):
    """The same by virsh."""
    name = "virsh"

    def _call(self, backup, checkpoint, reuse):
        names = {}
        for kind, text in (("backup", backup), ("checkpoint", checkpoint)):
            names[kind] = f"{self.directory}/{kind}.xml"
            with open(names[kind], "w") as f:
                f.write(text)
        words = ["--reuse-external"] if reuse else []
        self.host.virsh("backup-begin", self.domain.name(), names["backup"], names["checkpoint"], *words)

    def _abort(self):
        self.host.virsh("domjobabort", self.domain.name())
