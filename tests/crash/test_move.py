# SPDX-License-Identifier: MIT
"""The daemon, or QEMU with it, killed between any two steps of a move: the disk is wholly in the one place or in the other, with
all that its snapshots show, and nothing is left in the place where it is not."""
import os

import pytest

from harness import images
from harness.bus import Bus
from harness.client import Client, variants
from harness.daemon import Daemon
from harness.qemu import Qemu
from harness.tree import Tree

MIB = 1 << 20
CONFIG = '[qemu]\ngreeting-timeout = "2s"\n'
LIVE = ["look", "copy", "nodes", "mirror", "switch", "finish", "unlink"]
DOWN = ["look", "copy", "finish", "unlink"]


class Scene:
    def __init__(self, directory):
        self.directory, self.started = directory, []
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG).start()
        self.client = Client(self.bus.address)
        self.tree = Tree(self.client, directory, self.make_qemu, 1)
        self.tree.snapshot("s1", mib=4)
        self.tree.snapshot("s2", mib=4)
        os.mkdir(directory + "/other")
        self.other = self.client.create_pool("other", directory + "/other")

    def make_qemu(self, name, disks):
        self.started.append(Qemu(f"{self.directory}/{name}", disks).start())
        return self.started[-1]

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = self.tree.client = Client(self.bus.address)

    def send(self, **options):
        self.client.send(self.tree.disks[0], "Disk", "Move", "oa{sv}", self.other, variants(options))

    def job(self):
        jobs = self.client.of_kind("job")
        return max(jobs, key=lambda path: jobs[path]["StartedUsec"])

    def places(self):
        """(files in the old pool, files in the new one)"""
        return len(images.image_files(self.tree.pool)), len(images.image_files(self.directory + "/other"))

    def close(self):
        self.client.close()
        self.daemon.stop()
        for qemu in self.started:
            qemu.kill()
        self.bus.stop()
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def scene(directory):
    made = Scene(directory)
    yield made
    made.close()


@pytest.mark.parametrize("live", [True, False], ids=["live", "down"])
def test_the_points_are_those_that_are_tried(scene, live):
    if not live:
        scene.tree.down()
    scene.daemon.forget_failpoints()
    scene.client.finish(scene.client.call(scene.tree.disks[0], "Disk", "Move", "oa{sv}", scene.other, {}))
    assert [name.split(".", 1)[1] for name in scene.daemon.passed()] == (LIVE if live else DOWN)


def settled(scene, before, moved):
    assert scene.tree.content() == before
    assert scene.places() == ((0, 3) if moved else (3, 0))
    disk = scene.client.get_all(scene.tree.disks[0], "Disk")
    assert disk["State"] == "ok" and (disk["Pool"] == scene.other) == moved
    if scene.tree.qemu.process.poll() is None:
        assert scene.tree.qemu.execute("query-jobs") == []
        files = {scene.tree.qemu.file_of(node) for node in scene.tree.qemu.nodes().values()}
        assert files == set(images.chain(disk["ActivePath"]))
    for path in images.chain(disk["ActivePath"]):
        images.check(path)


@pytest.mark.parametrize("collapse", [False, True], ids=["all", "collapsed"])
@pytest.mark.parametrize("point", LIVE)
def test_live(scene, point, collapse):
    before = scene.tree.content()
    scene.daemon.at(f"move-disk.{point}")
    scene.send(collapse=collapse)
    scene.daemon.wait_killed()
    # The guest goes on, whatever the daemon was at.
    scene.tree.qemu.write("dev0", 0x71, 40 * MIB, MIB)
    scene.restart()
    state, error, message, _ = scene.client.wait(scene.job())
    scene.daemon.forget_failpoints()
    done = point in ("finish", "unlink")
    assert (state, error) == (("succeeded", "") if done else ("failed", "Interrupted")), message
    after = scene.tree.content()
    assert {k: v for k, v in after.items() if k[0] != "active"} == {k: v for k, v in before.items() if k[0] != "active"}
    if not collapse:
        settled(scene, after, done)
    elif not done:
        settled(scene, after, False)
    if not done:
        scene.client.finish(scene.client.call(scene.tree.disks[0], "Disk", "Move", "oa{sv}", scene.other, {}))
        settled(scene, after, True)
    assert scene.tree.content() == after


@pytest.mark.parametrize("point", LIVE)
def test_both(scene, point):
    before = scene.tree.content()
    scene.daemon.at(f"move-disk.{point}")
    scene.send()
    scene.daemon.wait_killed()
    scene.tree.qemu.kill()
    scene.restart()
    state, error, message, _ = scene.client.wait(scene.job())
    scene.daemon.forget_failpoints()
    assert scene.tree.content() == before, message
    moved = scene.client.get(scene.tree.disks[0], "Disk", "Pool") == scene.other
    assert moved == (state == "succeeded"), message
    settled(scene, before, moved)


@pytest.mark.parametrize("point", DOWN)
def test_down(scene, point):
    scene.tree.down()
    before = scene.tree.content()
    scene.daemon.at(f"move-disk.{point}")
    scene.send()
    scene.daemon.wait_killed()
    scene.restart()
    state, error, message, _ = scene.client.wait(scene.job())
    scene.daemon.forget_failpoints()
    done = point == "unlink"
    assert (state, error) == (("succeeded", "") if done else ("failed", "Interrupted")), message
    settled(scene, before, done)
    if not done:
        scene.client.finish(scene.client.call(scene.tree.disks[0], "Disk", "Move", "oa{sv}", scene.other, {}))
        settled(scene, before, True)
