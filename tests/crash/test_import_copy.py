# SPDX-License-Identifier: MIT
"""The daemon killed between any two steps of an import with "copy": no file of it is left, and what was to be imported is
as it was."""
import os

import pytest

from harness import images
from harness.bus import Bus
from harness.chains import make_chain
from harness.client import Client, variants
from harness.daemon import Daemon

MIB = 1 << 20
STEPS = ["read", "copy", "rebase", "finish"]


class Scene:
    def __init__(self, directory):
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, "").start()
        self.client = Client(self.bus.address)
        self.directory = f"{directory}/pool"
        for path in self.directory, f"{directory}/outside":
            os.mkdir(path)
        self.pool = self.client.create_pool("main", self.directory)
        self.chain = make_chain(f"{directory}/outside", "root", layers=3)
        self.expected = [images.digest(path) for path in self.chain]

    def arguments(self):
        return self.pool, "Pool", "ImportDisk", "sa{sv}", self.chain[-1], variants({"copy": True})

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = Client(self.bus.address)

    def nothing_left(self):
        assert images.image_files(self.directory) == [] and self.client.of_kind("disk") == {}
        assert [images.digest(path) for path in self.chain] == self.expected

    def works(self):
        self.daemon.forget_failpoints()
        made = self.client.finish(self.client.call(*self.arguments()))
        assert images.digest(self.client.get(made["volume"], "Volume", "Path")) == self.expected[-1]
        assert len(images.image_files(self.directory)) == 3

    def close(self):
        self.client.close()
        self.daemon.stop()
        self.bus.stop()
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def scene(directory):
    made = Scene(directory)
    yield made
    made.close()


def last_job(client):
    jobs = client.of_kind("job")
    return max(jobs, key=lambda path: jobs[path]["StartedUsec"])


def test_the_points_are_those_that_are_tried(scene):
    scene.works()
    assert [name.split(".", 1)[1] for name in scene.daemon.passed()] == STEPS


@pytest.mark.parametrize("point", STEPS)
def test_killed(scene, point):
    scene.daemon.at(f"import-disk.{point}")
    scene.client.send(*scene.arguments())
    scene.daemon.wait_killed()
    scene.restart()
    state, error, message, _ = scene.client.wait(last_job(scene.client))
    assert (state, error) == ("failed", "Interrupted") and "nothing was imported" in message, message
    scene.nothing_left()
    scene.works()


def test_killed_in_the_recovery(scene):
    scene.daemon.at("import-disk.finish")
    scene.client.send(*scene.arguments())
    scene.daemon.wait_killed()
    scene.client.close()
    scene.daemon.at("import-disk.undo")
    scene.daemon.start(wait=False)
    scene.daemon.wait_killed()
    scene.daemon.start()
    scene.client = Client(scene.bus.address)
    assert scene.client.wait(last_job(scene.client))[:2] == ("failed", "Interrupted")
    scene.nothing_left()


@pytest.mark.parametrize("point", STEPS)
def test_a_step_fails(scene, point):
    scene.daemon.at(f"import-disk.{point}", "error NoSpace the disk is full")
    error, message = scene.client.failure(scene.client.call(*scene.arguments()))
    assert error == "NoSpace" and "the disk is full" in message
    scene.nothing_left()
    scene.works()
