# SPDX-License-Identifier: MIT
"""A snapshot of three disks goes, and one disk stands in the way: the others are done, records and files tell the same
everywhere, the error says what is needed, and deleting the snapshot again, when that is mended, does the rest."""
import contextlib
import os
import subprocess

import pytest

from harness import images
from harness.filesystems import Filler
from harness.tree import MIB, Tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes files immutable and mounts file systems")
DISKS = 3


class Scene:
    """s1 and s2 of a VM with three disks, each in a directory of its own. s2 goes; on `victim` that meets an obstacle."""

    def __init__(self, client, directory, qemus, position, pools=None):
        self.client = client
        self.pools = pools or [f"{directory}/pool{n}" for n in range(DISKS)]
        self.tree = Tree(client, directory, qemus, DISKS, pools=self.pools)
        self.tree.snapshot("s1", mib=16)
        self.tree.snapshot("s2")
        # Of the disks in the order in which they are worked on.
        self.order = [disk for disk, _ in client.get(self.tree.snapshots["s2"], "Snapshot", "Disks")]
        self.victim = self.tree.disks.index(self.order[position])
        self.before = None

    def look(self):
        self.before = self.tree.content()

    def delete(self):
        return self.tree.delete("s2")

    def volume(self, name):
        """The file of the victim's part of a snapshot."""
        return self.client.get(self.tree.volume_of(name, self.victim), "Volume", "Path")

    def check_halfway(self, done):
        """These disks (numbers) are done, the others are as they were."""
        tree, client = self.tree, self.client
        volumes = tree.check_files()
        states = {p["State"] for p in volumes.values()}
        assert states <= {"ok", "illegal"}, states
        status = client.get(tree.snapshots["s2"], "Snapshot", "Status")
        parts = {disk for disk, _ in client.get(tree.snapshots["s2"], "Snapshot", "Disks")}
        assert parts == {disk for n, disk in enumerate(tree.disks) if n not in done}
        assert status == ("failed" if done or "illegal" in states else "ok")
        for number in range(DISKS):
            assert len(images.chain(tree.path(number))) == (2 if number in done else 3)
            if tree.qemu.process.poll() is None:
                assert tree.qemu.active_file(f"dev{number}") == tree.path(number)
        content = tree.content()
        for (name, number), digest in self.before.items():
            if name != "s2":
                assert content[name, number] == digest, (name, number)
        if status == "ok":
            assert content == self.before

    def finish(self):
        """What stood in the way is gone."""
        self.client.finish(self.delete())
        self.check_finished()

    def check_finished(self):
        self.tree.forget("s2")
        assert self.tree.content() == {key: value for key, value in self.before.items() if key[0] != "s2"}
        self.tree.check()


@contextlib.contextmanager
def immutable(path):
    subprocess.run(["chattr", "+i", path], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True, timeout=20)


@pytest.fixture(params=["live", "down"])
def scene(request, client, directory, qemus):
    def make(position=0, **options):
        scene = Scene(client, directory, qemus, position, **options)
        if request.param == "down":
            scene.tree.down()
        scene.look()
        return scene
    return make


@pytest.mark.parametrize("position", range(DISKS))
def test_a_volume_that_cannot_be_written_to(client, scene, position):
    s = scene(position)
    with immutable(s.volume("s2")):
        error, message = client.failure(s.delete())
        name = client.get(s.tree.disks[s.victim], "Disk", "Name")
        assert name in message and "deleting the snapshot again" in message, (error, message)
        s.check_halfway(done=set(range(DISKS)) - {s.victim})
        # Once more, to no avail: nothing gets worse.
        client.failure(s.delete())
        s.check_halfway(done=set(range(DISKS)) - {s.victim})
    s.finish()


@pytest.mark.parametrize("position", range(DISKS))
def test_a_file_that_cannot_be_removed(client, scene, position):
    """Its data is where it has to be; it stays as a volume that nobody needs, with a record, and goes when it can."""
    s = scene(position)
    upper = s.tree.path(s.victim)
    with immutable(s.pools[s.victim]):
        error, message = client.failure(s.delete())
        assert os.path.basename(upper) in message and "leftover" in message, (error, message)
    assert os.path.exists(upper)
    s.check_halfway(done=set(range(DISKS)))
    s.finish()
    assert not os.path.exists(upper)


def test_a_leftover_is_deleted_by_hand(client, scene):
    s = scene()
    upper = s.tree.path(s.victim)
    with immutable(s.pools[s.victim]):
        client.failure(s.delete())
    leftover = client.find("volume", upper)
    client.finish(client.call(leftover, "Volume", "Delete", "a{sv}", {}))
    assert not os.path.exists(upper)
    s.finish()


@pytest.mark.parametrize("position", range(DISKS))
def test_qemu_refuses_one_disk(client, directory, qemus, position):
    """As the disk is busy with something else: a backup that another program has started."""
    s = Scene(client, directory, qemus, position)
    s.look()
    qemu = s.tree.qemu
    node = qemu.top_node(f"dev{s.victim}")["node-name"]
    qemu.execute("blockdev-add", driver="null-co", size=64 * MIB, **{"node-name": "target"})
    qemu.execute("blockdev-backup", device=node, target="target", sync="full", speed=1, **{"job-id": "foreign"})
    error, message = client.failure(s.delete())
    assert error == "QemuFailed" and client.get(s.tree.disks[s.victim], "Disk", "Name") in message, (error, message)
    s.check_halfway(done=set(range(DISKS)) - {s.victim})
    volume = s.tree.volume_of("s2", s.victim)
    assert client.get(volume, "Volume", "State") == "ok"  # nothing was written to it
    qemu.execute("job-cancel", id="foreign")
    qemu.monitor.event("JOB_STATUS_CHANGE", id="foreign", status="null")
    qemu.execute("blockdev-del", **{"node-name": "target"})
    s.finish()


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("then", ["room", "cancel"])
def test_one_file_system_is_full(client, scene, small_filesystem, position, then):
    """It waits, says why, and goes on; or it is cancelled: those before it are done, those after it are not begun."""
    s = scene(position, pools=[small_filesystem(96) for _ in range(DISKS)])
    s.tree.write(0x66, 40 * MIB, 6 * MIB)
    s.look()
    job = s.tree.delete("s2", speed=2 * MIB)
    # From now on there has been room enough, and it is written.
    client.wait_property(s.tree.volume_of("s2", s.victim), "Volume", "State", "illegal", timeout=60)
    filler = Filler(s.pools[s.victim])
    client.wait_property(job, "Job", "State", "paused", timeout=60)
    assert client.get(job, "Job", "Error")[0].endswith("NoSpace")
    if then == "cancel":
        client.call(job, "Job", "Cancel")
        assert client.failure(job)[0] == "Cancelled"
        filler.gone()
        s.check_halfway(done={s.tree.disks.index(disk) for disk in s.order[:position]})
        s.finish()
        return
    filler.gone()
    client.call(job, "Job", "SetSpeed", "t", 0)
    client.finish(job)
    s.check_finished()
