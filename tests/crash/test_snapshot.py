# SPDX-License-Identifier: MIT
"""The daemon, or QEMU, killed between any two steps of a snapshot or an overlay: what was begun is finished or undone,
the records match the files, nobody is left frozen, no file and no node is left over, and the job says what happened.

The points are not listed here: a run without a kill tells which ones are passed, and each is tried.
"""
import os

import pytest

from harness import images
from harness.agent import FakeAgent
from harness.bus import Bus
from harness.chains import disk_by_target, make_chain, volume_chain
from harness.client import Client
from harness.daemon import Daemon
from harness.qemu import Qemu

pytestmark = pytest.mark.every

MIB = 1 << 20
CONFIG = '[quiesce]\nagent-timeout = "2s"\n[qemu]\ngreeting-timeout = "2s"\n'


class Scene:
    """Bus, daemon and, where it is live, a QEMU with two disks whose agent is a double that counts freezes."""

    def __init__(self, directory, live, disks=2):
        self.directory, self.live = directory, live
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG)
        os.mkdir(directory + "/pool")
        self.paths = [make_chain(directory + "/pool", f"disk{n}", size=16 * MIB)[0] for n in range(disks)]
        for path in self.paths:
            images.run("qemu-img", "bitmap", "--add", path, "check")
        self.qemu = self.agent = self.client = None
        self.daemon.start()
        self.client = Client(self.bus.address)
        self.run_qemu()
        self.vm = self.client.register_vm("web", qmp_socket=directory + "/vm/qmp.sock",
                                          agent_socket=directory + "/vm/agent.sock" if live else None)
        self.disks = [disk_by_target(self.client, self.vm, f"serial{n}")[0] for n in range(disks)]
        if not live:
            self.qemu.quit()
            self.agent.close()
            self.client.call(self.vm, "VM", "Refresh")
        self.digests = [images.digest(path) for path in self.paths]

    def run_qemu(self):
        os.makedirs(self.directory + "/vm", exist_ok=True)
        paths = self.paths if not hasattr(self, "vm") else \
            [self.client.get(disk, "Disk", "ActivePath") for disk in self.disks]
        self.qemu = Qemu(self.directory + "/vm", paths, running=True).start()
        # A double: the real one needs a guest, and this is about the daemon's own steps.
        self.agent = FakeAgent(self.directory + "/vm/agent.sock")

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = Client(self.bus.address)

    def job(self):
        jobs = [path for path, p in self.client.of_kind("job").items() if p["Kind"] in ("create-snapshot", "create-overlay")]
        assert len(jobs) == 1
        return jobs[0]

    def close(self):
        if self.client:
            self.client.close()
        self.daemon.stop()
        self.qemu.kill()
        self.agent.close()
        self.bus.stop()
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]

    # --- what has to be true in the end ---
    def check(self, layers):
        """Each disk has this many layers, nothing else is there, and all say the same."""
        actives = []
        for number, disk in enumerate(self.disks):
            properties = self.client.get_all(disk, "Disk")
            assert properties["State"] == "ok", properties
            active = properties["ActivePath"]
            chain = images.chain(active)
            assert len(chain) == layers and chain[-1] == self.paths[number], chain
            assert volume_chain(self.client, properties["Active"]) == chain
            assert images.digest(active) == self.digests[number]
            for path in chain:
                images.check(path)
            if self.qemu.process and self.qemu.process.poll() is None:
                assert self.qemu.active_file(f"dev{number}") == active
            actives += chain
        files = [f"{self.directory}/pool/{name}" for name in images.image_files(self.directory + "/pool")]
        assert sorted(files) == sorted(actives), "a file that belongs to nothing"
        assert len(self.client.of_kind("volume")) == len(actives)
        if self.qemu.process and self.qemu.process.poll() is None:
            used = {n["node-name"] for n in self.qemu.nodes().values()}
            assert len(used) == 2 * len(actives), used
            assert not self.agent.frozen
        assert self.client.get(self.vm, "VM", "Job") == "/"

    def check_bitmaps(self):
        """The bitmap goes on in each active layer: read when QEMU has closed the images."""
        for disk in self.disks:
            found = images.bitmaps(self.client.get(disk, "Disk", "ActivePath"))
            assert "check" in found and "in-use" not in found["check"]["flags"], found

    def works_again(self):
        """The next snapshot is taken as if nothing had been."""
        self.daemon.forget_failpoints()
        self.client.finish(self.client.create_snapshot(self.vm, "next"))


@pytest.fixture
def scene(directory):
    made = []

    def make(live, disks=2):
        where = f"{directory}/{len(made)}"
        os.mkdir(where)
        made.append(Scene(where, live, disks))
        return made[-1]
    yield make
    for scene in made:
        scene.close()


def snapshot(scene, wait=True):
    # No answer: the daemon may die before it gives one.
    request = scene.client.send(scene.vm, "VM", "CreateSnapshot", "sa{sv}", "s1", {"quiesce": ("s", "auto")})
    if wait:
        scene.client.finish(scene.client.answer(request))


def overlay(scene, wait=True):
    request = scene.client.send(scene.disks[0], "Disk", "CreateOverlay", "a{sv}", {})
    if wait:
        scene.client.finish(scene.client.answer(request))


def points(scene, act):
    scene.daemon.forget_failpoints()
    act(scene)
    return scene.daemon.passed()


LIVE = ["files", "nodes", "freeze", "switch", "thaw", "finish"]
OFFLINE = ["lock", "files", "bitmaps", "switch"]


def test_the_points_are_those_that_are_tried(scene):
    """The parametrized tests below have to name every step; what a run passes says which there are."""
    assert points(scene(True), snapshot) == [f"create-snapshot.{p}" for p in LIVE]
    assert points(scene(False), snapshot) == [f"create-snapshot.{p}" for p in OFFLINE]


@pytest.mark.parametrize("point", LIVE)
def test_daemon_killed_live(scene, point):
    s = scene(True)
    s.daemon.at(f"create-snapshot.{point}")
    snapshot(s, wait=False)
    s.daemon.wait_killed()
    s.restart()
    state, error, message, result = s.client.wait(s.job())
    done = point in ("thaw", "finish")
    assert state == ("succeeded" if done else "failed"), message
    if done:
        taken = s.client.get_all(result["snapshot"], "Snapshot")
        # A freeze that nobody saw the end of is none.
        assert taken["Consistency"] == ("filesystem" if point == "finish" else "crash") and taken["Status"] == "ok"
        assert taken["Current"] and len(taken["Disks"]) == 2
    else:
        assert error == "Interrupted" and "undone" in message, message
        assert s.client.of_kind("snapshot") == {}
    s.check(2 if done else 1)
    assert s.agent.thaws >= s.agent.freezes
    s.works_again()
    s.check(3 if done else 2)
    s.qemu.quit()
    s.check_bitmaps()


def test_daemon_killed_with_a_disk_left_out(directory):
    """Without a freeze no step is on disk between the nodes and the switch but the switch itself: it says that one
    disk, whose overlay QEMU may not open, has no part in it."""
    user = 65534
    bus = Bus(directory + "/bus")
    daemon = Daemon(directory + "/d", bus, CONFIG).start()
    os.mkdir(directory + "/pool", 0o777)
    paths = [make_chain(directory + "/pool", f"disk{n}", size=16 * MIB)[0] for n in range(2)]
    for path in paths:
        os.chown(path, user, user)
    qemu = Qemu(directory + "/vm", paths, user=user).start()
    try:
        os.chown(paths[1], 0, 0)
        os.chmod(paths[1], 0o600)
        client = Client(bus.address)
        vm = client.register_vm("web", qmp_socket=qemu.qmp)
        daemon.at("create-snapshot.thaw")
        client.send(vm, "VM", "CreateSnapshot", "sa{sv}", "s1",
                    {"quiesce": ("s", "off"), "on-disk-failure": ("s", "exclude")})
        daemon.wait_killed()
        client.close()
        daemon.start()
        client = Client(bus.address)
        [taken] = client.of_kind("snapshot").values()
        assert taken["Status"] == "partial" and len(taken["Disks"]) == 1
        for number in range(2):
            active = disk_by_target(client, vm, f"serial{number}")[1]["ActivePath"]
            assert active == qemu.active_file(f"dev{number}") and (active == paths[number]) == (number == 1)
        client.close()
    finally:
        qemu.kill()
        daemon.stop()
        bus.stop()


@pytest.mark.parametrize("point", OFFLINE)
def test_daemon_killed_offline(scene, point):
    s = scene(False)
    s.daemon.at(f"create-snapshot.{point}")
    snapshot(s, wait=False)
    s.daemon.wait_killed()
    s.restart()
    state, error, message, _ = s.client.wait(s.job())
    assert (state, error) == ("failed", "Interrupted"), message
    assert s.client.of_kind("snapshot") == {}
    s.check(1)
    s.works_again()
    s.check(2)
    s.check_bitmaps()


@pytest.mark.parametrize("point", LIVE)
def test_qemu_killed(scene, point):
    s = scene(True)
    s.daemon.at(f"create-snapshot.{point}", "stop")
    snapshot(s, wait=False)
    s.daemon.wait_stopped()
    s.qemu.kill()
    s.agent.close()
    s.daemon.resume()
    state, error, message, _ = s.client.wait(s.job())
    assert state in ("succeeded", "failed"), message
    taken = s.client.of_kind("snapshot")
    assert (state == "succeeded") == (len(taken) == 1)
    if point in ("files", "nodes", "freeze", "switch"):
        assert state == "failed" and error in ("Unreachable", "NotRunning", "Interrupted"), (error, message)
    s.check(2 if taken else 1)
    # The VM is started on what the record says.
    s.run_qemu()
    s.client.call(s.vm, "VM", "Refresh")
    s.check(2 if taken else 1)
    s.works_again()


@pytest.mark.parametrize("point", LIVE)
def test_both_killed(scene, point):
    """As a power cut does it, but for the page cache."""
    s = scene(True)
    s.daemon.at(f"create-snapshot.{point}")
    snapshot(s, wait=False)
    s.daemon.wait_killed()
    s.qemu.kill()
    s.agent.close()
    s.restart()
    state, error, message, _ = s.client.wait(s.job())
    taken = s.client.of_kind("snapshot")
    assert (state == "succeeded") == (len(taken) == 1), message
    s.check(2 if taken else 1)
    s.run_qemu()
    s.client.call(s.vm, "VM", "Refresh")
    s.check(2 if taken else 1)
    s.works_again()


@pytest.mark.parametrize("live", [True, False], ids=["live", "offline"])
def test_overlay_killed(scene, live):
    names = points(scene(live), overlay)
    assert len(names) >= 4
    for name in names:
        s = scene(live)
        s.daemon.at(name)
        overlay(s, wait=False)
        s.daemon.wait_killed()
        s.restart()
        state, _, message, result = s.client.wait(s.job())
        active = s.client.get_all(s.disks[0], "Disk")
        expected = [result["volume"]] if state == "succeeded" else []
        assert [v for v in expected if v != active["Active"]] == [], (name, message)
        chain = images.chain(active["ActivePath"])
        assert len(chain) == (2 if state == "succeeded" else 1), (name, message)
        assert sorted(images.image_files(s.directory + "/pool")) == \
            sorted(os.path.basename(p) for p in chain + s.paths[1:]), name
        if live:
            assert s.qemu.active_file("dev0") == active["ActivePath"]
            assert len(s.qemu.nodes()) == 2 * (len(chain) + 1), name


def test_killed_again_while_it_recovers(scene):
    """A crash in the recovery from a crash, at each of its points."""
    s = scene(True)
    s.daemon.at("create-snapshot.nodes")
    snapshot(s, wait=False)
    s.daemon.wait_killed()
    s.daemon.at("create-snapshot.undo")
    s.client.close()
    s.daemon.start(wait=False)
    s.daemon.wait_killed()
    s.daemon.start()
    s.client = Client(s.bus.address)
    state, error, _, _ = s.client.wait(s.job())
    assert (state, error) == ("failed", "Interrupted")
    s.check(1)
    s.works_again()


@pytest.mark.parametrize("point", ["withdraw", "merge"])
def test_killed_while_a_required_freeze_is_undone(scene, point):
    """quiesce=require, and the guest thawed by itself: the overlays are merged back, also over a crash."""
    s = scene(True)
    s.agent.thaws_by_itself = True
    s.daemon.at(f"create-snapshot.{point}")
    s.client.send(s.vm, "VM", "CreateSnapshot", "sa{sv}", "s1", {"quiesce": ("s", "require")})
    s.daemon.wait_killed()
    s.restart()
    state, error, message, _ = s.client.wait(s.job())
    assert state == "failed", message
    assert s.client.of_kind("snapshot") == {}
    s.check(1)
    s.agent.thaws_by_itself = False
    s.works_again()


def test_the_vm_is_registered_again_by_itself(scene):
    s = scene(True)
    before = s.client.objects()
    s.daemon.kill()
    s.restart()
    after = s.client.objects()
    assert set(before) == set(after)
    assert s.client.get(s.vm, "VM", "State") == "running"
    s.works_again()
