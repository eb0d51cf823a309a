# SPDX-License-Identifier: MIT
"""The daemon killed between any two steps of a clone: no file of it is left, or all of it is there; what it is made of has
not changed, and is not held any more."""
import os

import pytest

from harness import images
from harness.bus import Bus
from harness.client import Client, variants
from harness.daemon import Daemon
from harness.tree import Tree
from harness.qemu import Qemu

MIB = 1 << 20


class Scene:
    def __init__(self, directory):
        self.directory, self.started = directory, []
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, "").start()
        self.client = Client(self.bus.address)
        self.tree = Tree(self.client, directory, self.make_qemu, 2)
        self.tree.snapshot("s1", mib=4)
        self.tree.snapshot("s2", mib=4)

    def make_qemu(self, name, disks):
        self.started.append(Qemu(f"{self.directory}/{name}", disks).start())
        return self.started[-1]

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = self.tree.client = Client(self.bus.address)

    def clone(self, client, **options):
        return client.call(self.tree.snapshots["s2"], "Snapshot", "Clone", "sa{sv}", "copy", variants(options))

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


def passed(scene, **options):
    scene.daemon.forget_failpoints()
    result = scene.client.finish(scene.clone(scene.client, **options))
    names = scene.daemon.passed()
    scene.daemon.forget_failpoints()
    return [name.split(".", 1)[1] for name in names], result


@pytest.mark.parametrize("thin", [False, True])
def test_the_points_are_those_that_are_tried(scene, thin):
    assert passed(scene, thin=thin)[0] == ["overlays" if thin else "copy", "record"]


@pytest.mark.parametrize("thin,point", [(False, "copy"), (False, "record"), (True, "overlays"), (True, "record")])
def test_killed(scene, thin, point):
    before, files = scene.tree.content(), images.image_files(scene.tree.pool)
    scene.daemon.at(f"clone-snapshot.{point}")
    with_no_answer = scene.client
    with_no_answer.send(scene.tree.snapshots["s2"], "Snapshot", "Clone", "sa{sv}", "copy", variants({"thin": thin}))
    scene.daemon.wait_killed()
    scene.restart()
    scene.daemon.forget_failpoints()
    jobs = scene.client.of_kind("job")
    state, error, message, _ = scene.client.wait(max(jobs, key=lambda path: jobs[path]["StartedUsec"]))
    assert (state, error) == ("failed", "Interrupted") and "nothing was cloned" in message, message
    assert images.image_files(scene.tree.pool) == files and len(scene.client.of_kind("vm")) == 1
    assert scene.tree.content() == before
    scene.tree.check()
    scene.client.finish(scene.clone(scene.client, thin=thin))
    if not thin:
        scene.client.finish(scene.tree.delete("s2"))


def test_killed_in_the_middle_of_copying(scene):
    """The storage daemon ends, too, and what it wrote goes."""
    before, files = scene.tree.content(), images.image_files(scene.tree.pool)
    job = scene.clone(scene.client, speed=MIB)
    scene.client.wait_copied(job)
    assert len(images.image_files(scene.tree.pool)) == len(files) + 1
    scene.daemon.kill()
    scene.restart()
    assert scene.client.wait(job)[:2] == ("failed", "Interrupted")
    assert images.image_files(scene.tree.pool) == files and scene.tree.content() == before
    scene.tree.check()
    assert os.path.exists(scene.tree.paths[0])
