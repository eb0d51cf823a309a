# SPDX-License-Identifier: MIT
"""The daemon, or QEMU, or both killed between any two steps of a merge: what stays shows what it showed, a snapshot that
was to go is gone, whole, or says that it is not, and can be deleted then; no file and no node is left over."""
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
POINTS = ["copy", "bitmaps", "switch", "unlink"]


class Scene:
    def __init__(self, directory):
        self.directory = directory
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG)
        self.daemon.start()
        self.client = Client(self.bus.address)
        self.running = []
        self.tree = Tree(self.client, directory, self.start_qemu, 2)

    def start_qemu(self, name, disks):
        self.running.append(Qemu(f"{self.directory}/{name}", disks).start())
        return self.running[-1]

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = self.tree.client = Client(self.bus.address)

    def job(self):
        jobs = [path for path, p in self.client.of_kind("job").items() if p["Kind"] == "delete-snapshot"]
        assert len(jobs) == 1
        return jobs[0]

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


def begin(scene, name, point, order):
    scene.daemon.at(f"delete-snapshot.{point}", order)
    scene.client.send(scene.tree.snapshots[name], "Snapshot", "Delete", "a{sv}", {})


def settled(scene, name, before):
    """The invariants, and the deletion done to its end."""
    tree, client = scene.tree, scene.client
    state, error, message, _ = client.wait(scene.job())
    found = client.of_kind("snapshot")
    gone = tree.snapshots[name] not in found
    assert gone == (state == "succeeded"), (state, error, message)
    if not gone:
        status = client.get(tree.snapshots[name], "Snapshot", "Status")
        assert status in ("ok", "failed"), status
        if status == "ok":
            assert tree.content() == before
        if tree.qemu.process.poll() is not None:
            tree.up()
        scene.daemon.forget_failpoints()
        client.finish(client.call(tree.snapshots[name], "Snapshot", "Delete", "a{sv}", {}))
    tree.forget(name)
    assert tree.content() == {key: value for key, value in before.items() if key[0] != name}
    tree.check()


def grow(scene, down):
    scene.tree.snapshot("s1")
    scene.tree.snapshot("s2")
    if down:
        scene.tree.down()
    return scene.tree.content()


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
@pytest.mark.parametrize("name", ["s1", "s2"])
@pytest.mark.parametrize("point", POINTS)
def test_daemon_killed(scene, point, name, down):
    before = grow(scene, down)
    begin(scene, name, point, "kill")
    scene.daemon.wait_killed()
    scene.restart()
    settled(scene, name, before)


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
@pytest.mark.parametrize("name", ["s1", "s2"])
@pytest.mark.parametrize("point", POINTS)
def test_daemon_killed_at_the_second_disk(scene, point, name, down):
    """One disk is done, the other is not: the record says just that, and the rest follows."""
    before = grow(scene, down)
    begin(scene, name, "unlink", "stop")
    scene.daemon.wait_stopped()
    scene.daemon.at(f"delete-snapshot.{point}", "kill")
    scene.daemon.resume()
    scene.daemon.wait_killed()
    assert scene.daemon.passed().count(f"delete-snapshot.{point}") == 2
    scene.restart()
    settled(scene, name, before)


@pytest.mark.parametrize("name", ["s1", "s2"])
@pytest.mark.parametrize("point", POINTS)
def test_qemu_killed(scene, point, name):
    before = grow(scene, False)
    begin(scene, name, point, "stop")
    scene.daemon.wait_stopped()
    scene.tree.qemu.kill()
    scene.daemon.resume()
    settled(scene, name, before)


@pytest.mark.parametrize("name", ["s1", "s2"])
@pytest.mark.parametrize("point", POINTS)
def test_both_killed(scene, point, name):
    before = grow(scene, False)
    begin(scene, name, point, "kill")
    scene.daemon.wait_killed()
    scene.tree.qemu.kill()
    scene.restart()
    settled(scene, name, before)


def test_the_guest_writes_on_while_nobody_watches(scene):
    """The daemon dies in the moment of the switch, the guest passes to the lower volume and writes there, and QEMU dies,
    too: what the guest wrote last counts."""
    tree = scene.tree
    tree.snapshot("s1", mib=8)
    tree.snapshot("s2", mib=1)  # less than below: it is committed
    tree.content()  # all is flushed
    begin(scene, "s2", "switch", "kill")
    scene.daemon.wait_killed()
    uppers = [tree.qemu.active_file(f"dev{number}") for number in range(2)]
    job = tree.qemu.execute("query-jobs")[0]["id"]
    tree.qemu.execute("job-complete", id=job)
    while tree.qemu.execute("query-jobs")[0]["status"] != "concluded":
        pass
    number = 0 if tree.qemu.active_file("dev0") != uppers[0] else 1
    lower = tree.qemu.active_file(f"dev{number}")
    assert lower != uppers[number]
    tree.qemu.write(f"dev{number}", 0x99, 0, MIB)  # where the upper volume has data of its own
    tree.qemu.io(f"dev{number}", "flush")
    later = os.stat(lower).st_mtime + 5
    tree.qemu.kill()
    os.utime(lower, (later, later))
    expected = images.digest(lower)
    scene.restart()
    state, error, message, _ = scene.client.wait(scene.job())
    assert (state, error) == ("failed", "Interrupted") and "contents differ" in message, (state, error, message)
    assert tree.path(number) == lower and images.digest(lower) == expected
    assert os.path.exists(uppers[number])
