# SPDX-License-Identifier: MIT
"""The daemon, or the storage daemon, or both killed between any two steps of the making and the ending of an export: what
was being made is gone without a trace, what was being ended ends, and the snapshot is what it was."""
import os

import pytest

from harness import exports, images
from harness.bus import Bus
from harness.client import Client
from harness.daemon import Daemon
from harness.qemu import Qemu
from harness.tree import Tree

CONFIG = '[qemu]\ngreeting-timeout = "2s"\n'
MAKING = ["files", "server", "graph", "show", "finish"]
ENDING = ["end", "remove", "finish"]


class Scene:
    def __init__(self, directory):
        self.directory = directory
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG)
        self.daemon.start()
        self.client = Client(self.bus.address)
        self.running = []
        self.tree = Tree(self.client, directory, self.start_qemu)
        self.tree.snapshot("s1")
        self.expected = images.digest(self.client.get(self.tree.volume_of("s1"), "Volume", "Path"))

    def start_qemu(self, name, disks):
        self.running.append(Qemu(f"{self.directory}/{name}", disks).start())
        return self.running[-1]

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = self.tree.client = Client(self.bus.address)

    def make(self, **options):
        return exports.make(self.client, self.tree.snapshots["s1"], self.tree.disks[0], **options)

    def begin(self, order, point, writable):
        self.daemon.at(f"export.{point}", order)
        options = {"writable": ("b", writable)}
        self.client.send(self.tree.snapshots["s1"], "Snapshot", "Export", "oa{sv}", self.tree.disks[0], options)

    def job(self, kind):
        [job] = [path for path, p in self.client.of_kind("job").items() if p["Kind"] == kind]
        return job

    def nothing_left(self):
        assert self.client.of_kind("export") == {} and exports.leftovers(self.daemon.directory) == []
        assert images.digest(self.client.get(self.tree.volume_of("s1"), "Volume", "Path")) == self.expected

    def works_on(self):
        """Another one can be made, and the snapshot be deleted after it."""
        export = self.make()
        assert exports.digest_by_uri(exports.uri(self.client, export)) == self.expected
        exports.stop(self.client, export)
        self.client.finish(self.tree.delete("s1"))
        self.tree.forget("s1")
        self.tree.check()

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


@pytest.mark.parametrize("writable", [False, True], ids=["read-only", "writable"])
@pytest.mark.parametrize("point", MAKING)
def test_daemon_killed_while_it_makes_one(scene, point, writable):
    scene.begin("kill", point, writable)
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("export"))[:2] == ("failed", "Interrupted")
    scene.nothing_left()
    scene.works_on()


@pytest.mark.parametrize("point", ["graph", "show", "finish"])
def test_storage_daemon_killed_while_it_is_made(scene, point):
    scene.begin("stop", point, True)
    scene.daemon.wait_stopped()
    [pid] = exports.servers(scene.daemon.directory)
    os.kill(pid, 9)
    scene.daemon.resume()
    state, error, message, _ = scene.client.wait(scene.job("export"))
    if state == "failed":
        assert error in ("Unreachable", "QemuFailed"), (error, message)
    else:
        assert point == "finish", "nothing is asked of it any more"
        exports.gone(scene.client, next(iter(scene.client.of_kind("export")), ""))
    scene.nothing_left()
    scene.works_on()


@pytest.mark.parametrize("point", ["graph", "show", "finish"])
def test_both_killed_while_it_is_made(scene, point):
    scene.begin("kill", point, True)
    scene.daemon.wait_killed()
    [pid] = exports.servers(scene.daemon.directory)
    os.kill(pid, 9)
    scene.restart()
    assert scene.client.wait(scene.job("export"))[:2] == ("failed", "Interrupted")
    scene.nothing_left()


@pytest.mark.parametrize("point", MAKING)
def test_cancelled_while_it_is_made(scene, point):
    scene.begin("stop", point, True)
    scene.daemon.wait_stopped()
    scene.daemon.resume()
    job = scene.job("export")
    try:
        scene.client.call(job, "Job", "Cancel")
    except Exception:  # it has ended already
        pass
    state = scene.client.wait(job)[0]
    if state == "succeeded":
        exports.stop(scene.client, next(iter(scene.client.of_kind("export"))))
    else:
        assert state == "cancelled"
    scene.nothing_left()


@pytest.mark.parametrize("point", MAKING)
def test_a_step_fails(scene, point):
    scene.begin("error NoSpace the disk is full", point, True)
    job = None
    while job is None:
        job = next((path for path, p in scene.client.of_kind("job").items() if p["Kind"] == "export"), None)
    error, message = scene.client.failure(job)
    assert error == "NoSpace" and "the disk is full" in message
    scene.nothing_left()
    scene.works_on()


@pytest.mark.parametrize("point", ENDING)
def test_daemon_killed_while_it_ends_one(scene, point):
    export = scene.make(writable=True)
    scene.daemon.at(f"stop-export.{point}", "kill")
    scene.client.send(export, "Export", "Stop", "a{sv}", {})
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("stop-export"))[0] == "succeeded"
    scene.nothing_left()
    scene.works_on()


def test_daemon_killed_in_the_recovery(scene):
    scene.begin("kill", "show", True)
    scene.daemon.wait_killed()
    scene.client.close()
    scene.daemon.at("export.undo", "kill")
    scene.daemon.start(wait=False)
    scene.daemon.wait_killed()
    scene.daemon.start()
    scene.client = scene.tree.client = Client(scene.bus.address)
    assert scene.client.wait(scene.job("export"))[:2] == ("failed", "Interrupted")
    scene.nothing_left()


def test_others_go_on(scene):
    """One that is there is not touched by what becomes of another."""
    other = scene.make()
    address = exports.uri(scene.client, other)
    scene.begin("kill", "show", True)
    scene.daemon.wait_killed()
    scene.restart()
    assert list(scene.client.of_kind("export")) == [other]
    assert exports.digest_by_uri(address) == scene.expected
    exports.stop(scene.client, other)
    scene.nothing_left()
