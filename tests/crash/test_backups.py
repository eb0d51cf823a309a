# SPDX-License-Identifier: MIT
"""The daemon, or the VM's QEMU, or both killed between any two steps of the beginning and the end of a backup: what was being
begun is gone without a trace, its checkpoint too; what was being ended ends; and the guest writes on."""
import os

import pytest

from harness import backups, images
from harness.bus import Bus
from harness.client import Client
from harness.daemon import Daemon
from harness.qemu import Qemu
from harness.tree import MIB, Tree

CONFIG = '[qemu]\ngreeting-timeout = "2s"\n'
STARTING = ["files", "nodes", "hold", "thaw", "filters", "readers", "server", "finish"]
FINISHING = ["check", "end", "remove", "finish"]
ABORTING = ["end", "drop", "remove", "finish"]


class Scene:
    def __init__(self, directory):
        self.directory = directory
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG).start()
        self.client = Client(self.bus.address)
        self.running = []
        self.tree = Tree(self.client, directory, self.start_qemu, count=2)
        backups.finish(self.client, backups.start(self.client, self.tree.vm, checkpoint="before"))
        # QEMU stores bitmaps when it closes an image.
        self.tree.down()
        self.tree.up()
        self.tree.write(9, MIB, MIB)

    def start_qemu(self, name, disks):
        self.running.append(Qemu(f"{self.directory}/{name}", disks).start())
        return self.running[-1]

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = self.tree.client = Client(self.bus.address)

    def job(self, kind):
        jobs = [(p["StartedUsec"], path) for path, p in self.client.of_kind("job").items() if p["Kind"] == kind]
        return max(jobs)[1]

    def send(self, path, interface, method, *arguments):
        self.client.send(path, interface, method, *arguments)

    def begin(self, point, order="kill", **options):
        self.daemon.at(f"start-backup.{point}", order)
        self.send(self.tree.vm, "VM", "StartBackup", "a{sv}",
                  {"kind": ("s", "incremental"), "checkpoint": ("s", "new"), "quiesce": ("s", "off"), **options})

    def nothing_left(self, checkpoints):
        assert self.client.of_kind("backup") == {} and backups.exports_left(self.client) == []
        assert backups.leftovers(self.daemon.directory, self.tree.pools, self.tree.qemu) == []
        assert backups.checkpoints(self.client, self.tree.vm) == checkpoints

    def works_on(self):
        """The guest writes, another backup can be made, and what it shows is right."""
        self.tree.write(11, 3 * MIB, MIB)
        held = [value for key, value in sorted(self.tree.content().items()) if key[0] == "active"]
        backup = backups.start(self.client, self.tree.vm)
        self.tree.write(12, 3 * MIB, MIB)
        shown = backups.shown(self.client, backup)
        assert [backups.Copy().take(*shown[disk]) for disk in self.tree.disks] == held
        backups.finish(self.client, backup)
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


@pytest.mark.parametrize("point", STARTING)
def test_daemon_killed_while_it_begins_one(scene, point):
    scene.begin(point)
    scene.daemon.wait_killed()
    scene.tree.qemu.write("dev0", 13, 5 * MIB, MIB)
    scene.restart()
    error, message = scene.client.failure(scene.job("start-backup"))
    assert error == "Interrupted" and "there is no backup" in message
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", ["hold", "filters", "server", "finish"])
def test_both_killed_while_it_begins(scene, point):
    scene.begin(point)
    scene.daemon.wait_killed()
    scene.tree.qemu.kill()
    scene.restart()
    assert scene.client.failure(scene.job("start-backup"))[0] == "Interrupted"
    scene.nothing_left({"before": "unusable"})
    for number in range(2):
        assert len(images.bitmaps(scene.tree.path(number))) == 1
    scene.tree.up()
    scene.works_on()


@pytest.mark.parametrize("point", ["nodes", "hold", "filters", "readers", "server"])
def test_qemu_killed_while_it_begins(scene, point):
    scene.begin(point, "stop")
    scene.daemon.wait_stopped()
    scene.tree.qemu.kill()
    scene.daemon.resume()
    error, message = scene.client.failure(scene.job("start-backup"))
    assert error in ("Unreachable", "NotRunning"), (error, message)
    scene.nothing_left({"before": "unusable"})
    scene.tree.up()
    scene.works_on()


@pytest.mark.parametrize("point", ["files", "nodes", "filters", "readers", "server", "finish"])
def test_a_step_fails(scene, point):
    scene.begin(point, "error NoSpace the disk is full")
    job = None
    while job is None:
        job = next((path for path, p in scene.client.of_kind("job").items()
                    if p["Kind"] == "start-backup" and p["State"] == "failed"), None)
    assert scene.client.failure(job)[0] == "NoSpace"
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", ["files", "nodes", "readers", "server"])
def test_cancelled_while_it_begins(scene, point):
    scene.begin(point, "stop")
    scene.daemon.wait_stopped()
    scene.daemon.resume()
    job = scene.job("start-backup")
    scene.client.call(job, "Job", "Cancel")
    assert scene.client.wait(job)[0] == "cancelled"
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", FINISHING)
def test_daemon_killed_while_it_finishes_one(scene, point):
    backup = backups.start(scene.client, scene.tree.vm, checkpoint="new")
    scene.daemon.at(f"finish-backup.{point}", "kill")
    scene.send(backup, "Backup", "Finish", "a{sv}", {})
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("finish-backup"))[::3] == ("succeeded", {"checkpoint": "new"})
    scene.nothing_left({"before": "ok", "new": "ok"})
    scene.works_on()


@pytest.mark.parametrize("point", ABORTING)
def test_daemon_killed_while_it_aborts_one(scene, point):
    backup = backups.start(scene.client, scene.tree.vm, checkpoint="new")
    scene.daemon.at(f"abort-backup.{point}", "kill")
    scene.send(backup, "Backup", "Abort")
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("abort-backup"))[0] == "succeeded"
    scene.nothing_left({"before": "ok"})
    scene.works_on()


PUSHING = {"hold": False, "filters": False, "copy": False, "publish": True, "end": True}


@pytest.mark.parametrize("both", [False, True], ids=["daemon", "both"])
@pytest.mark.parametrize("point", PUSHING)
def test_killed_while_it_is_pushed(scene, point, both):
    """All files are there, with their checkpoint, or none."""
    target = f"{scene.directory}/backups"
    os.mkdir(target)
    held = [value for key, value in sorted(scene.tree.content().items()) if key[0] == "active"]
    scene.begin(point, mode=("s", "push"), target=("s", target))
    scene.daemon.wait_killed()
    if both:
        scene.tree.qemu.kill()
    scene.restart()
    state, error, _, result = scene.client.wait(scene.job("start-backup"))
    checkpoints = {"before": "unusable" if both else "ok"}
    if PUSHING[point]:
        assert state == "succeeded" and result["checkpoint"] == "new"
        assert [images.digest(path) for path in sorted(result["files"])] == held
        # One that QEMU has never stored does not outlive it.
        checkpoints.update({} if both else {"new": "ok"})
    else:
        assert (state, error) == ("failed", "Interrupted") and os.listdir(target) == []
    scene.nothing_left(checkpoints)
    if both:
        scene.tree.up()
    scene.works_on()


def test_qemu_ends_while_the_daemon_is_away(scene):
    backup = backups.start(scene.client, scene.tree.vm, checkpoint="new")
    scene.daemon.kill()
    scene.tree.qemu.kill()
    scene.restart()
    assert "has ended" in backups.wait_failed(scene.client, backup)
    backups.abort(scene.client, backup)
    scene.nothing_left({"before": "unusable"})
    scene.tree.up()
    scene.works_on()


def test_the_vm_is_started_anew_while_the_daemon_is_away(scene):
    backup = backups.start(scene.client, scene.tree.vm, checkpoint="new")
    paths = [scene.tree.path(number) for number in range(2)]
    scene.daemon.kill()
    scene.tree.qemu.quit()
    scene.tree.qemu = scene.start_qemu("vm", paths)
    scene.restart()
    assert "started anew" in backups.wait_failed(scene.client, backup)
    backups.abort(scene.client, backup)
    scene.nothing_left({"before": "ok"})
    scene.works_on()


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
def test_daemon_killed_while_it_deletes_a_checkpoint(scene, down):
    if down:
        scene.tree.down()
    scene.daemon.at("delete-checkpoint.drop", "kill")
    scene.send(scene.tree.vm, "VM", "DeleteCheckpoint", "sa{sv}", "before", {})
    scene.daemon.wait_killed()
    scene.restart()
    assert scene.client.wait(scene.job("delete-checkpoint"))[0] == "succeeded"
    scene.nothing_left({})
    if down:
        scene.tree.up()
    scene.works_on()
