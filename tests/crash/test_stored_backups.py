# SPDX-License-Identifier: MIT
"""The daemon killed between any two steps of the beginning and the end of a backup of a VM that is down, or of a snapshot: what was
being begun is gone without a trace, its checkpoint too; what was being ended ends."""
import os

import pytest

from harness import backups, exports, images
from harness.bus import Bus
from harness.client import Client
from harness.daemon import Daemon
from harness.qemu import Qemu
from harness.tree import MIB, Tree

CONFIG = '[qemu]\ngreeting-timeout = "2s"\n'
STARTING = ["checkpoint", "hold", "server", "graph", "show", "finish"]
FINISHING = ["check", "end", "remove", "finish"]
ABORTING = ["end", "drop", "remove", "finish"]


class Scene:
    """A VM with two disks and a snapshot, down, with a checkpoint "before"."""

    def __init__(self, directory):
        self.directory = directory
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG).start()
        self.client = Client(self.bus.address)
        self.running = []
        self.tree = Tree(self.client, directory, self.start_qemu, count=2)
        backups.finish(self.client, backups.start(self.client, self.tree.vm, checkpoint="before"))
        self.tree.snapshot("s1")
        self.tree.write(9, MIB, MIB)
        self.tree.down()
        self.held = self.content("active")

    def start_qemu(self, name, disks):
        self.running.append(Qemu(f"{self.directory}/{name}", disks).start())
        return self.running[-1]

    def content(self, of):
        return [value for (what, _), value in sorted(self.tree.content().items(), key=lambda item: item[0][1]) if what == of]

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = self.tree.client = Client(self.bus.address)

    def job(self, kind):
        jobs = [(p["StartedUsec"], path) for path, p in self.client.of_kind("job").items() if p["Kind"] == kind]
        return max(jobs)[1]

    def begin(self, point, order="kill", snapshot=False, **options):
        self.daemon.at(f"start-backup.{point}", order)
        if snapshot:
            options = {"snapshot": ("o", self.tree.snapshots["s1"]), "kind": ("s", "incremental"), **options}
        else:
            options = {"kind": ("s", "incremental"), "checkpoint": ("s", "new"), **options}
        self.client.send(self.tree.vm, "VM", "StartBackup", "a{sv}", options)

    def nothing_left(self, checkpoints):
        assert self.client.of_kind("backup") == {} and backups.exports_left(self.client) == []
        assert exports.leftovers(self.daemon.directory) == []
        assert backups.checkpoints(self.client, self.tree.vm) == checkpoints
        for number in range(2):
            names = {name.split(".", 2)[2] for name in images.bitmaps(self.tree.path(number))}
            assert names == set(checkpoints)

    def works_on(self):
        """Another backup can be made, and what it shows is right; the VM can be started."""
        backup = backups.start(self.client, self.tree.vm)
        shown = backups.shown(self.client, backup)
        assert [backups.Copy().take(*shown[disk]) for disk in self.tree.disks] == self.held
        backups.finish(self.client, backup)
        self.tree.up()
        self.tree.write(11, 3 * MIB, MIB)
        self.tree.check()
        self.tree.down()

    def close(self):
        self.client.close()
        self.daemon.stop()
        for qemu in self.running:
            qemu.kill()
        self.bus.stop()
        exports.end_all(self.directory)
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def scene(directory):
    scene = Scene(directory)
    yield scene
    scene.close()


@pytest.mark.parametrize("point", STARTING)
def test_daemon_killed_while_it_begins_one(scene, point):
    scene.begin(point)
    scene.daemon.wait_killed()
    scene.restart()
    error, message = scene.client.failure(scene.job("start-backup"))
    assert error == "Interrupted" and "there is no backup" in message
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", ["hold", "server", "graph", "show", "finish"])
def test_daemon_killed_while_it_begins_one_of_a_snapshot(scene, point):
    scene.begin(point, snapshot=True)
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.failure(scene.job("start-backup"))[0] == "Interrupted"
    scene.nothing_left({"before": "ok"})
    scene.client.finish(scene.tree.delete("s1"))
    scene.tree.forget("s1")
    scene.works_on()


@pytest.mark.parametrize("point", STARTING)
def test_a_step_fails(scene, point):
    scene.begin(point, "error NoSpace the disk is full")
    job = None
    while job is None:
        job = next((path for path, p in scene.client.of_kind("job").items()
                    if p["Kind"] == "start-backup" and p["State"] == "failed"), None)
    assert scene.client.failure(job)[0] == "NoSpace"
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", ["checkpoint", "server"])
def test_cancelled_while_it_begins(scene, point):
    scene.begin(point, "stop")
    scene.daemon.wait_stopped()
    scene.daemon.resume()
    job = scene.job("start-backup")
    scene.client.call(job, "Job", "Cancel")
    assert scene.client.wait(job)[0] == "cancelled"
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", ["checkpoint", "graph"])
def test_the_vm_is_started_while_it_begins(scene, point):
    """Before it is proved that nobody writes; or after, when QEMU's locks keep it so until the backup is ready."""
    paths = [scene.tree.path(number) for number in range(2)]
    scene.begin(point, "stop")
    scene.daemon.wait_stopped()
    try:
        scene.tree.qemu = scene.start_qemu("vm", paths)
        started = True
    except RuntimeError as error:
        assert "lock" in str(error)
        started = False
    assert started == (point == "checkpoint")
    scene.daemon.resume()
    job = scene.job("start-backup")
    state, error, message, _ = scene.client.wait(job)
    if started:
        assert (state, error) == ("failed", "InUse"), message
        assert backups.checkpoints(scene.client, scene.tree.vm) == {"before": "ok"}
        scene.tree.down()
        scene.nothing_left({"before": "ok"})
    else:
        assert state == "succeeded"
        [backup] = scene.client.of_kind("backup")
        backups.finish(scene.client, backup)
    scene.works_on()


@pytest.mark.parametrize("point", FINISHING)
def test_daemon_killed_while_it_finishes_one(scene, point):
    backup = backups.start(scene.client, scene.tree.vm, checkpoint="new")
    scene.daemon.at(f"finish-backup.{point}", "kill")
    scene.client.send(backup, "Backup", "Finish", "a{sv}", {})
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("finish-backup"))[::3] == ("succeeded", {"checkpoint": "new"})
    scene.nothing_left({"before": "ok", "new": "ok"})
    scene.works_on()


def test_written_before_the_check_is_made_again(scene):
    backup = backups.start(scene.client, scene.tree.vm, checkpoint="new")
    path = scene.tree.path(0)
    scene.daemon.at("finish-backup.check", "kill")
    scene.client.send(backup, "Backup", "Finish", "a{sv}", {})
    scene.daemon.wait_killed()
    images.write(path, 0x55, 5 * MIB, 4096)
    scene.restart()
    scene.held = scene.content("active")
    error, message = scene.client.failure(scene.job("finish-backup"))
    assert error == "QemuFailed" and "was written to" in message
    backups.abort(scene.client, backup)
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", ABORTING)
def test_daemon_killed_while_it_aborts_one(scene, point):
    backup = backups.start(scene.client, scene.tree.vm, checkpoint="new")
    scene.daemon.at(f"abort-backup.{point}", "kill")
    scene.client.send(backup, "Backup", "Abort")
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("abort-backup"))[0] == "succeeded"
    scene.nothing_left({"before": "ok"})
    scene.works_on()


PUSHING = {"checkpoint": False, "hold": False, "copy": False, "publish": True, "end": True}


@pytest.mark.parametrize("point", PUSHING)
def test_killed_while_it_is_pushed(scene, point):
    """All files are there, with their checkpoint, or none."""
    target = f"{scene.directory}/backups"
    os.mkdir(target)
    scene.begin(point, mode=("s", "push"), target=("s", target))
    scene.daemon.wait_killed()
    scene.restart()
    state, error, _, result = scene.client.wait(scene.job("start-backup"))
    if PUSHING[point]:
        assert state == "succeeded" and result["checkpoint"] == "new"
        assert [images.digest(path) for path in sorted(result["files"])] == scene.held
        scene.nothing_left({"before": "ok", "new": "ok"})
    else:
        assert (state, error) == ("failed", "Interrupted") and os.listdir(target) == []
        scene.nothing_left({"before": "ok"})
    scene.works_on()
