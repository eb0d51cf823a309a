# SPDX-License-Identifier: MIT
"""Merges beneath a guest that writes all the time: they end, the guest never waits for long, whoever dies meanwhile, and
nothing that it wrote is lost."""
import os
import time

import pytest

from harness import images
from harness.busy_guest import MIB, BusyGuest, check_content
from harness.chains import disk_by_target
from harness.client import variants

# A write of the guest waits for no longer than this, on a machine that is busy with the tests: a flush of what was copied
# is the longest of what it may have to wait for. A job that is left pending would hold it for ever.
LONGEST_GAP = 3.0


@pytest.fixture
def config():
    return '[qemu]\ngreeting-timeout = "1s"\n[jobs]\ncatch-up-limit = "4s"\n'


class Scene:
    """A guest with one disk; and what lies on it where the guest does not write."""

    def __init__(self, client, directory, **options):
        self.client, self.directory = client, directory
        os.mkdir(f"{directory}/pool")
        self.path = BusyGuest.make(f"{directory}/pool/root.qcow2", 256 * MIB, **options)
        images.write(self.path, 0x11, 32 * MIB, 40 * MIB)
        self.guest = BusyGuest(f"{directory}/vm", [self.path], **options).start()
        self.vm = client.register_vm("busy", qmp_socket=self.guest.qmp)
        self.disk = disk_by_target(client, self.vm, "serial0")[0]
        self.snapshots, self.written = {}, [(0x11, 32 * MIB, 40 * MIB)]

    def snapshot(self, name, pattern, offset, length):
        """Takes it, and writes to the layer that is active then, where the guest does not write."""
        self.snapshots[name] = self.client.finish(self.client.create_snapshot(self.vm, name, quiesce="off"))["snapshot"]
        self.guest.write("dev0", pattern, offset, length)
        self.written.append((pattern, offset, length))

    def delete(self, name, **options):
        return self.client.call(self.snapshots.pop(name), "Snapshot", "Delete", "a{sv}", variants(options))

    def active(self):
        return self.client.get(self.disk, "Disk", "ActivePath")

    def finished(self, chain):
        """Stops the guest; all that was ever written is there, in these files."""
        count = self.guest.stop_writing()
        path = self.active()
        assert self.guest.active_file("dev0") == path and images.chain(path) == chain
        self.guest.quit()
        check_content(path, self.guest.blocks, self.guest.block, count)
        reads = [word for pattern, offset, length in self.written
                 for word in ("-c", f"read -P {pattern} {offset} {length}")]
        output = images.run("qemu-io", "-f", "qcow2", "-r", *reads, path)
        assert "verification failed" not in output, output
        for layer in images.chain(path):
            images.check(layer)
        volumes = self.client.of_kind("volume").values()
        assert sorted(os.path.basename(p["Path"]) for p in volumes) == images.image_files(f"{self.directory}/pool")


@pytest.fixture
def scene(client, directory):
    made = []

    def make(**options):
        made.append(Scene(client, directory, **options))
        return made[-1]
    yield make
    for scene in made:
        scene.guest.kill()


# Which snapshot goes; how much the layers above s1's volume hold, as the smaller one of two is copied; which of the three are
# left.
WAYS = {"the active layer, down": ("s2", 50, 1, (1, 0)), "an inner layer, down": ("s1", 1, 1, (2, 0)),
        "into an inner layer, up": ("s1", 60, 1, (2, 1)), "into the active layer, up": ("s2", 1, 50, (2, 0))}


def grow(scene, way, **options):
    """(the scene, the snapshot, the chain that it has to be afterwards)"""
    name, middle, top, left = WAYS[way]
    s = scene(**options)
    s.snapshot("s1", 0x22, 80 * MIB, middle * MIB)
    s.snapshot("s2", 0x33, 160 * MIB, top * MIB)
    layers = images.chain(s.active())[::-1]
    return s, name, [layers[number] for number in left]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block", [4096, 65536], ids=["4k", "64k"])
def test_a_merge_ends_and_the_guest_hardly_waits(client, scene, capsys, way, block):
    s, name, left = grow(scene, way, block=block)
    before = s.guest.longest_gap(time.monotonic() - 0.5)
    began = time.monotonic()
    client.finish(s.delete(name))
    ended = time.monotonic()
    s.guest.wait_writing()
    gap = s.guest.longest_gap(began)
    with capsys.disabled():
        print(f"\n  {way}, {block} bytes at a time, {s.guest.rate() / MIB:.1f} MiB/s: merged in {ended - began:.2f} s, "
              f"longest wait for a write {1e3 * gap:.0f} ms (before: {1e3 * before:.0f} ms)")
    assert gap < LONGEST_GAP
    s.finished(left)


# Between any two of these the daemon may die. "over": the guest has been told to pass to the lower layer.
POINTS = [(way, point) for way in WAYS for point in ("copy", "bitmaps", "switch", "over", "unlink")
          if point != "over" or way == "the active layer, down"]


@pytest.mark.parametrize("way, point", POINTS)
def test_the_guest_writes_on_when_the_daemon_dies(client, daemon, scene, way, point):
    s, name, left = grow(scene, way)
    daemon.at(f"delete-snapshot.{'switch' if point == 'over' else point}")
    began = time.monotonic()
    path = s.snapshots.pop(name)
    client.send(path, "Snapshot", "Delete", "a{sv}", {})
    daemon.wait_killed()
    if point == "over":
        job = s.guest.execute("query-jobs")[0]
        assert job["status"] == "ready"
        s.guest.execute("job-complete", id=job["id"])
    # Nobody is there to look after the job for two seconds.
    s.guest.wait_writing(minimum=2)
    assert s.guest.longest_gap(began) < LONGEST_GAP
    daemon.start()
    (job,) = [o for o, p in client.of_kind("job").items() if p["Kind"] == "delete-snapshot"]
    client.finish(job)
    s.guest.wait_writing()
    assert s.guest.longest_gap(began) < LONGEST_GAP
    assert path not in client.of_kind("snapshot")
    s.finished(left)


def wait_speed(guest, speed, timeout=20):
    """Until QEMU copies at that speed, of which no event tells."""
    end = time.monotonic() + timeout
    while [job["speed"] for job in guest.execute("query-block-jobs")] != [speed]:
        assert time.monotonic() < end, guest.execute("query-block-jobs")
        time.sleep(0.01)


def outrun(scene):
    """The active layer is to be written down at a pace that the guest has no trouble to keep up with."""
    s = scene(region=4 * MIB, block=65536)
    s.snapshot("s1", 0x22, 80 * MIB, MIB)
    s.guest.wait_writing(64)  # each block once
    return s


def test_a_guest_that_writes_faster_than_is_copied(client, scene, daemon):
    """What is below is copied up then, which ends whatever the guest does."""
    s = outrun(scene)
    active = s.active()
    job = s.delete("s1", speed=2 * MIB)
    client.wait_property(job, "Job", "Step", "copy")
    while "is copied up instead" not in daemon.text():
        assert client.get(job, "Job", "State") == "running"
        s.guest.wait_writing(minimum=0.2)
    client.call(job, "Job", "SetSpeed", "t", 0)
    client.finish(job)
    s.finished([active])  # nothing was switched


def test_a_direction_that_was_asked_for_is_kept(client, scene):
    """It fails, says why, and what to do; the guest's chain is as it was."""
    s = scene(region=4 * MIB, block=65536)
    lower = client.get(s.disk, "Disk", "Active")
    client.finish(client.call(s.disk, "Disk", "CreateOverlay", "a{sv}", {}))
    s.guest.wait_writing(64)
    active = s.active()
    options = variants({"direction": "commit", "speed": 2 * MIB})
    error, message = client.failure(client.call(lower, "Volume", "Merge", "a{sv}", options))
    assert error == "Busy" and "guest writes" in message and "'stream'" in message, (error, message)
    assert s.active() == active and s.guest.execute("query-jobs") == []
    s.guest.wait_writing()
    client.finish(client.call(lower, "Volume", "Merge", "a{sv}", variants({"direction": "stream"})))
    s.finished([active])


def test_the_daemon_dies_after_the_turn(client, daemon, scene):
    """The direction that was taken at last is taken again."""
    s = outrun(scene)
    path, active = s.snapshots["s1"], s.active()
    job = s.delete("s1", speed=2 * MIB)
    while "is copied up instead" not in daemon.text():
        assert client.get(job, "Job", "State") == "running"
        s.guest.wait_writing(minimum=0.2)
    client.wait_property(job, "Job", "Step", "copy")
    client.call(job, "Job", "SetSpeed", "t", 3 * MIB)
    wait_speed(s.guest, 3 * MIB)
    daemon.kill()
    s.guest.wait_writing()
    # It does not keep its users waiting for the end of that copy.
    daemon.start()
    assert client.get(job, "Job", "State") == "running" and client.get(job, "Job", "SpeedBytes") == 3 * MIB
    client.call(job, "Job", "SetSpeed", "t", 0)
    client.finish(job)
    assert path not in client.of_kind("snapshot")
    s.finished([active])
