# SPDX-License-Identifier: MIT
"""Disk images with file systems in them, and what the guest's writer left there; nothing is mounted."""
import contextlib
import os
import subprocess
import tempfile

from harness import images

ENVIRONMENT = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
RECORD_BYTES = 64


def make_disk(path, size=64 << 20, filesystem="ext4"):
    """A qcow2 image with a file system. The path."""
    raw = f"{path}.raw"
    with open(raw, "wb") as f:
        f.truncate(size)
    quick = {"ext4": ["-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"], "xfs": []}[filesystem]
    images.run(f"mkfs.{filesystem}", "-q", *quick, raw, env=ENVIRONMENT)
    images.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    os.unlink(raw)
    return str(path)


class Filler:
    """Takes all room that is left in a directory's file system, but for some bytes."""

    def __init__(self, directory, left=0):
        self.path = f"{directory}/.filler"
        with open(self.path, "wb", buffering=0) as f:
            # Never more than that: a guest that writes at that moment is not to meet a full file system.
            if left:
                room = os.statvfs(directory)
                os.posix_fallocate(f.fileno(), 0, max(1, room.f_bavail * room.f_frsize - left))
                return
            for piece in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        f.write(bytes(piece))

    def gone(self):
        os.unlink(self.path)


def tool(*argv):
    return subprocess.run(argv, capture_output=True, timeout=120, check=False, env=ENVIRONMENT)


def count_records(data):
    """How many records there are: from 1 on, in order, each of them whole."""
    count, rest = divmod(len(data), RECORD_BYTES)
    assert rest == 0, f"a torn record at the end of {count}"
    for number in range(1, count + 1):
        record = data[(number - 1) * RECORD_BYTES:number * RECORD_BYTES]
        assert record == b"J %010d %s\n" % (number, b"." * 50), f"record {number} is {record!r}"
    return count


class Ext4:
    """The ext4 in a volume, as the image and its chain have it: nothing is replayed, nothing repaired.

    clean: it needs no recovery and e2fsck finds nothing. why: what was found.
    """

    def __init__(self, volume):
        descriptor, self.raw = tempfile.mkstemp(prefix="vc-look-")
        os.close(descriptor)
        images.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", volume, self.raw)
        header = images.run("dumpe2fs", "-h", self.raw, env=ENVIRONMENT)
        self.needs_recovery = "needs_recovery" in header
        self.state = header.partition("Filesystem state:")[2].split("\n")[0].strip()
        check = tool("e2fsck", "-fn", self.raw)
        self.check_status = check.returncode
        self.clean = not self.needs_recovery and self.state == "clean" and self.check_status == 0
        said = (check.stdout + check.stderr).decode(errors="replace")
        self.why = f"state {self.state}, needs_recovery {self.needs_recovery}\n{said}"

    def replay(self):
        """What a mount would do first: replays the journal, in this copy. False where that does not help."""
        return tool("e2fsck", "-fy", self.raw).returncode in (0, 1)  # 1: something was corrected

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.unlink(self.raw)

    def read(self, path):
        """A file's content; None where there is none."""
        result = tool("debugfs", "-R", f"cat {path}", self.raw)
        assert result.returncode == 0, result.stderr
        return None if b"File not found" in result.stderr else result.stdout

    def records(self, name="journal"):
        return count_records(self.read(f"/{name}") or b"")
