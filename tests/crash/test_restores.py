# SPDX-License-Identifier: MIT
"""The daemon killed between any two steps of a restore: before its image is shown nothing is left of it; what is being finished
becomes a disk, with all that was written; what is being aborted goes."""
import os

import pytest

from harness import backups, digest, exports, images, restores
from harness.bus import Bus
from harness.client import Client
from harness.daemon import Daemon

MIB = 1 << 20
SIZE = 32 * MIB
STARTING = ["file", "format", "server", "graph", "show", "finish"]
FINISHING = ["flush", "close", "check", "finish"]
ABORTING = ["end", "remove", "finish"]
DATA = bytes(3 * MIB) + b"\7" * (5 * MIB) + bytes(SIZE - 8 * MIB)


class Scene:
    def __init__(self, directory):
        self.directory = directory
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus).start()
        self.client = Client(self.bus.address)
        self.path = f"{directory}/pool"
        os.mkdir(self.path)
        self.pool = self.client.create_pool("pool", self.path)

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = Client(self.bus.address)

    def job(self, kind):
        jobs = [(p["StartedUsec"], path) for path, p in self.client.of_kind("job").items() if p["Kind"] == kind]
        return max(jobs)[1]

    def filled(self):
        restore, uri = restores.start(self.client, "root", self.pool, SIZE)
        restores.fill(uri, DATA)
        return restore

    def server(self, restore):
        return exports.server_of(self.daemon.directory, self.client.get(restore, "Backup", "Exports")[0])

    def nothing_left(self):
        assert self.client.of_kind("backup") == {} and backups.exports_left(self.client) == []
        assert exports.leftovers(self.daemon.directory) == [] and restores.leftovers(self.path) == []
        assert self.client.of_kind("disk") == self.client.of_kind("volume") == {}

    def is_a_disk(self):
        assert self.client.of_kind("backup") == {} and backups.exports_left(self.client) == []
        assert exports.leftovers(self.daemon.directory) == []
        [disk] = self.client.of_kind("disk").values()
        assert disk["Name"] == "root" and disk["State"] == "ok"
        images.check(disk["ActivePath"])
        assert images.digest(disk["ActivePath"]) == digest.of_bytes(DATA)
        assert restores.leftovers(self.path) == [os.path.basename(disk["ActivePath"])]

    def works_on(self, name="root"):
        restore, uri = restores.start(self.client, name, self.pool, SIZE)
        restores.fill(uri, DATA)
        disk = self.client.finish(self.client.call(restore, "Backup", "Finish", "a{sv}", {}))["disk"]
        assert images.digest(self.client.get(disk, "Disk", "ActivePath")) == digest.of_bytes(DATA)

    def close(self):
        self.client.close()
        self.daemon.stop()
        self.bus.stop()
        exports.end_all(self.directory)
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def scene(directory):
    scene = Scene(directory)
    yield scene
    scene.close()


def begin(scene, point, order="kill"):
    scene.daemon.at(f"restore-disk.{point}", order)
    scene.client.send("/org/volchain1", "Manager", "RestoreDisk", "sota{sv}", "root", scene.pool, SIZE, {})


@pytest.mark.parametrize("point", STARTING)
def test_killed_while_it_begins(scene, point):
    begin(scene, point)
    scene.daemon.wait_killed()
    scene.restart()
    error, message = scene.client.failure(scene.job("restore-disk"))
    assert error == "Interrupted" and "nothing is restored" in message
    scene.nothing_left()
    scene.works_on()


@pytest.mark.parametrize("point", STARTING)
def test_a_step_fails(scene, point):
    begin(scene, point, "error NoSpace the disk is full")
    job = None
    while job is None:
        job = next((path for path, p in scene.client.of_kind("job").items() if p["State"] == "failed"), None)
    assert scene.client.failure(job)[0] == "NoSpace"
    scene.nothing_left()
    scene.works_on()


@pytest.mark.parametrize("point", ["file", "format", "server"])
def test_cancelled(scene, point):
    begin(scene, point, "stop")
    scene.daemon.wait_stopped()
    scene.daemon.resume()
    job = scene.job("restore-disk")
    scene.client.call(job, "Job", "Cancel")
    assert scene.client.wait(job)[0] == "cancelled"
    scene.nothing_left()
    scene.works_on()


@pytest.mark.parametrize("point", FINISHING)
def test_killed_while_it_is_finished(scene, point):
    restore = scene.filled()
    scene.daemon.at(f"finish-backup.{point}", "kill")
    scene.client.send(restore, "Backup", "Finish", "a{sv}", {})
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("finish-backup"))[0] == "succeeded"
    scene.is_a_disk()
    scene.works_on("another")


@pytest.mark.parametrize("point", FINISHING)
def test_both_killed_while_it_is_finished(scene, point):
    """Until it is on disk that all was flushed, nobody knows whether the storage daemon wrote what it was given."""
    restore = scene.filled()
    server = scene.server(restore)
    scene.daemon.at(f"finish-backup.{point}", "kill")
    scene.client.send(restore, "Backup", "Finish", "a{sv}", {})
    scene.daemon.wait_killed()
    if point in ("flush", "close"):
        os.kill(server, 9)
    scene.restart()
    state, _, message, _ = scene.client.wait(scene.job("finish-backup"))
    if point == "flush":
        assert state == "failed" and "nothing is left" in message
        assert restores.leftovers(scene.path) == []
        backups.abort(scene.client, restore)
        scene.nothing_left()
        scene.works_on()
    else:
        assert state == "succeeded"
        scene.is_a_disk()


@pytest.mark.parametrize("point", FINISHING)
def test_a_step_of_the_end_fails(scene, point):
    restore = scene.filled()
    scene.daemon.at(f"finish-backup.{point}", "error NoSpace the disk is full")
    error, message = scene.client.failure(scene.client.call(restore, "Backup", "Finish", "a{sv}", {}))
    assert error == "NoSpace" and "nothing is left" in message
    assert scene.client.get(restore, "Backup", "State") == "failed"
    assert restores.leftovers(scene.path) == []
    backups.abort(scene.client, restore)
    scene.nothing_left()
    scene.works_on()


@pytest.mark.parametrize("point", ABORTING)
def test_killed_while_it_is_aborted(scene, point):
    restore = scene.filled()
    scene.daemon.at(f"abort-backup.{point}", "kill")
    scene.client.send(restore, "Backup", "Abort")
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("abort-backup"))[0] == "succeeded"
    scene.nothing_left()
    scene.works_on()
