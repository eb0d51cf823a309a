# SPDX-License-Identifier: MIT
"""Dirty bitmaps as they are in the images, read block by block by QEMU's own NBD server; and a model of what they have to
hold."""
import json
import os
import random
import select
import subprocess
import tempfile

from harness import images
from harness.client import variants
from harness.tree import Tree

KIB, MIB = 1 << 10, 1 << 20
UNIT = 4 * KIB  # what is written is whole units
CLUSTER = 64 * KIB  # which jobs copy as a whole


def dirty_ranges(path, name):
    """[(offset, length)] that a bitmap of an image has marked. No process may have the image open for writing."""
    with tempfile.TemporaryDirectory(prefix="vc-nbd-") as directory:
        socket, pid_file = f"{directory}/s", f"{directory}/pid"
        images.run("qemu-nbd", "--fork", "--pid-file", pid_file, "-r", "-f", "qcow2", "-B", name, "-k", socket, path,
                   stdin=subprocess.DEVNULL)
        with open(pid_file) as f:
            pidfd = os.pidfd_open(int(f.read()))
        try:
            source = f"driver=nbd,server.type=unix,server.path={socket},x-dirty-bitmap=qemu:dirty-bitmap:{name}"
            extents = json.loads(images.run("qemu-img", "map", "--output=json", "--image-opts", source))
            # It ends when its one client is gone; until then it keeps others from writing to the image.
            ended, _, _ = select.select([pidfd], [], [], 20)
            assert ended, "qemu-nbd does not end"
        finally:
            os.close(pidfd)
    # A context of the client's choice takes the place of "is it allocated": its first bit reads as "no data".
    return [(extent["start"], extent["length"]) for extent in extents if not extent["data"]]


def units_of(offset, length):
    return range(offset // UNIT, (offset + length + UNIT - 1) // UNIT)


def dirty_units(path, name):
    return {unit for offset, length in dirty_ranges(path, name)
            for unit in units_of(offset, length)}


def recorded(top, name):
    """(units, granularities) that the recording of this name covers which the chain below `top` ends in: its bitmaps from
    the top down without a gap. None where the top layer has none that records."""
    units, granularities = set(), set()
    for layer in images.chain(top):
        bitmap = images.bitmaps(layer).get(name) if layer.endswith(".qcow2") else None
        if bitmap is None:
            break
        assert "in-use" not in bitmap["flags"], f"{layer}: {bitmap}"
        if "auto" not in bitmap["flags"]:
            break
        granularities.add(bitmap["granularity"])
        units |= dirty_units(layer, name)
    return (units, granularities) if granularities else None


def rounded(units, granularity, end):
    """Those units, and all up to the end of the disk that lie in the same blocks of this size."""
    per_block = max(1, granularity // UNIT)
    return {unit for block in {unit // per_block for unit in units}
            for unit in range(block * per_block, min((block + 1) * per_block, end))}


class Coverage:
    """How much more than was written is marked, over all that was looked at."""

    def __init__(self):
        self.looked_at = self.least = self.most = self.marked = self.dropped = 0

    def check(self, top, name, units, granularity):
        """Whether the recording is there; it covers what was written, and little else."""
        found = recorded(top, name)
        if found is None:
            self.dropped += 1
            return False
        marked, granularities = found
        assert granularities == {granularity}, (name, granularities)
        missing = units - marked
        assert not missing, f"{name} in {top} misses {len(missing)} of {len(units)} units, as {sorted(missing)[:5]}"
        # A job copies whole clusters, and what it writes into a lower layer is marked there.
        end = images.info(top)["virtual-size"] // UNIT
        most = rounded(rounded(units, CLUSTER, end), granularity, end)
        beyond = marked - most
        assert not beyond, f"{name} in {top} marks {len(beyond)} units that nobody wrote, as {sorted(beyond)[:5]}"
        self.looked_at += 1
        self.least += len(rounded(units, granularity, end))
        self.most += len(most)
        self.marked += len(marked)
        return True

    def __str__(self):
        more = 100 * (self.marked - self.least) / max(1, self.least)
        return (f"{self.looked_at} recordings, {self.least * UNIT // KIB} KiB written in whole blocks, "
                f"{self.marked * UNIT // KIB} KiB marked (+{more:.1f}%), {self.dropped} recordings dropped")


def begin_bitmap(tree, number, name, granularity):
    """A persistent bitmap in the active layer of a disk of a Tree."""
    if tree.qemu.process.poll() is None:
        node = tree.qemu.top_node(f"dev{number}")["node-name"]
        tree.qemu.execute("block-dirty-bitmap-add", node=node, name=name, persistent=True, granularity=granularity)
    else:
        images.run("qemu-img", "bitmap", "--add", "-g", str(granularity), tree.path(number), name)


class Recording:
    def __init__(self, granularity):
        self.granularity, self.units, self.running = granularity, set(), True

    def copy(self):
        twin = Recording(self.granularity)
        twin.units, twin.running = set(self.units), self.running
        return twin


class RecordedTree(Tree):
    """A tree of one disk, in whose active layer bitmaps are begun, and which knows what was written since."""

    def __init__(self, *args, seed=0, **options):
        self.recordings, self.recordings_of = {}, {}
        self.random, self.coverage = random.Random(seed), Coverage()
        super().__init__(*args, **options)

    def running(self):
        return self.qemu.process.poll() is None

    def begin(self, name, granularity=CLUSTER):
        begin_bitmap(self, 0, name, granularity)
        self.recordings[name] = Recording(granularity)

    def end(self, name):
        """It records no more."""
        if self.running():
            node = self.qemu.top_node("dev0")["node-name"]
            self.qemu.execute("block-dirty-bitmap-disable", node=node, name=name)
        else:
            images.run("qemu-img", "bitmap", "--disable", self.path(), name)
        self.recordings[name].running = False

    def write(self, pattern, offset, length):
        super().write(pattern, offset, length)
        self.note(offset, length)

    def note(self, offset, length):
        for recording in self.recordings.values():
            if recording.running:
                recording.units.update(units_of(offset, length))

    def scatter(self, count=12, size=64 * MIB):
        """Writes of random places and lengths."""
        for _ in range(count):
            length = self.random.choice((1, 1, 3, 16, 40)) * UNIT
            offset = self.random.randrange((size - length) // UNIT) * UNIT
            self.write(self.random.randint(1, 255), offset, length)

    def snapshot(self, name, mib=1):
        self.recordings_of[name] = {key: recording.copy() for key, recording in self.recordings.items()}
        return super().snapshot(name, mib)

    def overlay(self, backing=None):
        options = variants({"activate": True}) | {"backing": ("o", backing)} if backing else {}
        self.client.finish(self.client.call(self.disks[0], "Disk", "CreateOverlay", "a{sv}", options))

    def delete(self, name, **options):
        self.recordings_of.pop(name)
        return super().delete(name, **options)

    def check_recordings(self, kept=()):
        """The active state's, and each snapshot's. Those in `kept` must be there in the active state."""
        if self.running():
            self.down()
        for name, recording in self.recordings.items():
            there = self.coverage.check(self.path(), name, recording.units, recording.granularity)
            assert there or name not in kept, f"{name} is not there any more"
        for snapshot, recordings in self.recordings_of.items():
            path = self.client.get(self.volume_of(snapshot), "Volume", "Path")
            for name, recording in recordings.items():
                if path.endswith(".qcow2"):
                    self.coverage.check(path, name, recording.units, recording.granularity)
