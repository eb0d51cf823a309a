# SPDX-License-Identifier: MIT
"""The daemon killed in the middle of a check: nothing is half done, and the next one begins anew. And what crashes of other
operations leave behind: a check recognises each of these states, and what it says to do about it helps."""
import os

import pytest

from harness import damage, images
from harness.bus import Bus
from harness.client import Client, variants
from harness.daemon import Daemon
from harness.damage import digests, findings, kinds, only
from harness.disks import import_chain
from harness.qemu import Qemu
from harness.tree import Tree

MIB = 1 << 20
CONFIG = '[qemu]\ngreeting-timeout = "2s"\n'


class Scene:
    """A bus and a daemon that is killed and started again."""

    def __init__(self, directory):
        self.directory = directory
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG).start()
        self.client = Client(self.bus.address)
        self.running = []
        self.tree = None

    def grow(self, disks=1, mib=1):
        """A VM with two snapshots; `mib`: the data between them."""
        self.tree = Tree(self.client, self.directory, self.start_qemu, disks)
        self.tree.snapshot("s1", mib=mib)
        self.tree.snapshot("s2")
        return self.tree

    def start_qemu(self, name, disks):
        self.running.append(Qemu(f"{self.directory}/{name}", disks).start())
        return self.running[-1]

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = Client(self.bus.address)
        if self.tree:
            self.tree.client = self.client

    def job(self, kind):
        (job,) = [path for path, p in self.client.of_kind("job").items() if p["Kind"] == kind]
        return job

    def close(self):
        self.client.close()
        self.daemon.stop()
        for qemu in self.running:
            qemu.kill()
        self.bus.stop()
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def scene(directory):
    scene = Scene(directory)
    yield scene
    scene.close()


# --- a check that is killed ---
STEPS = ["look", "images", "files", "repair"]


@pytest.fixture
def damaged(scene):
    """(disk, pool's directory): a disk with a leak, a lost bitmap and an overlay that no record knows."""
    path = scene.directory + "/pool"
    os.mkdir(path)
    pool = scene.client.create_pool("main", path)
    disk, paths = import_chain(scene.client, pool, "root", 3)
    damage.lose_bitmap(scene.directory, paths[-1], "lost")
    damage.leak(paths[1])
    images.create(f"{path}/root-00000000-0000-4000-8000-000000000001.qcow2", "64M", backing=os.path.basename(paths[1]))
    return disk, path


def passed(scene):
    return [point.removeprefix("check-disk.") for point in scene.daemon.passed() if point.startswith("check-disk.")]


def test_the_points_are_those_that_are_tried(scene, damaged):
    disk, path = damaged
    before = digests(path)
    assert kinds(findings(scene.client, disk)) == ["bitmap warning+", "leak warning+", "orphan warning+"]
    assert passed(scene) == STEPS[:-1] and digests(path) == before
    assert kinds(findings(scene.client, disk, repair=True)) == ["bitmap warning!", "leak warning!", "orphan warning!"]
    assert passed(scene)[3:] == STEPS
    assert findings(scene.client, disk) == []


@pytest.mark.parametrize("step", STEPS)
def test_killed(scene, damaged, step):
    disk, path = damaged
    before = digests(path)
    scene.daemon.at(f"check-disk.{step}")
    scene.client.send(disk, "Disk", "Check", "a{sv}", variants({"repair": True}))
    scene.daemon.wait_killed()
    scene.restart()
    state, error, message, result = scene.client.wait(scene.job("check-disk"))
    assert (state, error) == ("failed", "Interrupted") and "check it again" in message and result == {}, message
    assert digests(path) == before and scene.client.get(disk, "Disk", "State") == "ok"
    assert kinds(findings(scene.client, disk, repair=True)) == ["bitmap warning!", "leak warning!", "orphan warning!"]
    assert findings(scene.client, disk) == []


def test_killed_between_a_leftovers_record_and_its_file(scene, damaged):
    """The record went, the file did not: it is one that was given up."""
    disk, path = damaged
    findings(scene.client, disk, repair=True)
    gone = f"{path}/root-00000000-0000-4000-8000-000000000002.qcow2"
    images.create(gone, "64M")
    images.write(gone, 7, 0, MIB)
    scene.daemon.stop()
    with damage.state(scene.daemon) as database:
        database.execute("INSERT INTO unwanted_file VALUES (?, ?, 0, 1)", (path, os.path.basename(gone)))
    scene.restart()
    assert kinds(findings(scene.client, disk, repair=True)) == ["orphan warning!"] and not os.path.exists(gone)


# --- what crashes of others leave ---
def serious(scene):
    """What there is to be said of the disks of the tree, but for what is only to be known."""
    return [f for disk in scene.tree.disks for f in findings(scene.client, disk) if f["severity"] != "info"]


POINTS = ["copy", "bitmaps", "switch", "unlink"]


@pytest.mark.parametrize("name", ["s1", "s2"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("killed", ["daemon", "QEMU", "both"])
def test_a_merge(scene, killed, point, name):
    tree = scene.grow(2)
    before = tree.content()
    scene.daemon.at(f"delete-snapshot.{point}", "stop" if killed == "QEMU" else "kill")
    scene.client.send(tree.snapshots[name], "Snapshot", "Delete", "a{sv}", {})
    if killed == "QEMU":
        scene.daemon.wait_stopped()
        tree.qemu.kill()
        scene.daemon.resume()
    else:
        scene.daemon.wait_killed()
        if killed == "both":
            tree.qemu.kill()
        scene.restart()
    state, error, message, _ = scene.client.wait(scene.job("delete-snapshot"))
    found = serious(scene)
    if state == "succeeded" or scene.client.get(tree.snapshots[name], "Snapshot", "Status") == "ok":
        assert found == [], (state, message)
    else:
        assert found and {f["kind"] for f in found} <= {"illegal", "snapshot"}, found
        for finding in found:
            assert f"'{name}'" in finding["message"] and "again" in finding["message"], finding
    for disk in tree.disks:
        findings(scene.client, disk, repair=True)
    if state != "succeeded":
        if tree.qemu.process.poll() is not None:
            tree.up()
        scene.daemon.forget_failpoints()
        scene.client.finish(tree.delete(name))
    tree.forget(name)
    assert tree.content() == {key: value for key, value in before.items() if key[0] != name}
    assert serious(scene) == []
    tree.check()


def test_the_loser_of_a_switch(scene):
    """The guest passed to the lower volume and wrote on while the daemon was dead, and QEMU died, too: the upper volume is
    kept to be looked at. It is named, left alone, and goes when it is deleted."""
    tree = scene.grow(mib=8)  # more than above: it is committed
    tree.content()  # all is flushed
    scene.daemon.at("delete-snapshot.switch", "kill")
    scene.client.send(tree.snapshots["s2"], "Snapshot", "Delete", "a{sv}", {})
    scene.daemon.wait_killed()
    upper = tree.qemu.active_file("dev0")
    job = tree.qemu.execute("query-jobs")[0]["id"]
    tree.qemu.execute("job-complete", id=job)
    while tree.qemu.execute("query-jobs")[0]["status"] != "concluded":
        pass
    lower = tree.qemu.active_file("dev0")
    assert lower != upper
    tree.qemu.write("dev0", 0x99, 0, MIB)
    tree.qemu.io("dev0", "flush")
    later = os.stat(lower).st_mtime + 5
    tree.qemu.kill()
    os.utime(lower, (later, later))
    scene.restart()
    assert scene.client.wait(scene.job("delete-snapshot"))[:2] == ("failed", "Interrupted")
    expected, left = images.digest(lower), images.digest(upper)
    found = findings(scene.client, tree.disks[0], repair=True)
    loser = only([f for f in found if f["kind"] != "snapshot"], "illegal")
    assert loser["path"] == upper and "volume delete" in loser["message"] and images.digest(upper) == left
    assert tree.path() == lower and images.digest(lower) == expected
    scene.daemon.forget_failpoints()
    scene.client.finish(scene.client.call(loser["volume"], "Volume", "Delete", "a{sv}", {}))
    if tree.snapshots["s2"] in scene.client.of_kind("snapshot"):
        scene.client.finish(tree.delete("s2"))
    assert findings(scene.client, tree.disks[0]) == [] and images.digest(tree.path()) == expected


SNAPSHOT = {"live": ["files", "nodes", "freeze", "switch", "thaw", "finish"], "down": ["lock", "files", "bitmaps", "switch"]}


@pytest.mark.parametrize("how,point,killed", [(how, point, killed) for how, points in SNAPSHOT.items() for point in points
                                              for killed in ("daemon", "both") if how == "live" or killed == "daemon"])
def test_a_snapshot(scene, how, point, killed):
    tree = scene.grow()
    if how == "down":
        tree.down()
    scene.daemon.at(f"create-snapshot.{point}")
    scene.client.send(tree.vm, "VM", "CreateSnapshot", "sa{sv}", "s3", {})
    scene.daemon.wait_killed()
    if killed == "both":
        tree.qemu.kill()
    scene.restart()
    scene.client.wait(max(scene.client.of_kind("job").items(), key=lambda job: job[1]["StartedUsec"])[0])
    assert serious(scene) == []


@pytest.mark.parametrize("operation,method,point", [
    ("preview", "Preview", "switch"), ("revert", "Revert", "unlink"), ("commit-preview", "CommitPreview", "unlink"),
    ("undo-preview", "UndoPreview", "unlink")])
def test_a_preview(scene, operation, method, point):
    tree = scene.grow()
    tree.down()
    client, s1 = scene.client, tree.snapshots["s1"]
    ends = operation.endswith("-preview")
    if ends:
        client.finish(client.call(s1, "Snapshot", "Preview", "a{sv}", {}))
    scene.daemon.at(f"{operation}.{point}")
    client.send(tree.vm if ends else s1, "VM" if ends else "Snapshot", method, "a{sv}", {})
    scene.daemon.wait_killed()
    scene.restart()
    scene.client.wait(scene.job(operation))
    assert serious(scene) == []


def test_a_disk_that_was_being_made(scene):
    """What is left of it goes at the start; a check of another disk in the pool has nothing to say."""
    tree = scene.grow()
    pool = scene.client.get(tree.disks[0], "Disk", "Pool")
    for step in ("file", "format", "finish"):
        scene.daemon.at(f"create-disk.{step}")
        scene.client.send(pool, "Pool", "CreateDisk", "sta{sv}", "new", MIB, {})
        scene.daemon.wait_killed()
        scene.restart()
        assert serious(scene) == []
