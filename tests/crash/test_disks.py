# SPDX-License-Identifier: MIT
"""The daemon, or QEMU with it, killed between any two steps of what is done to a disk: resized, deleted, plugged in and out,
kept in a snapshot of its own. What was begun is finished or undone, QEMU and the records say the same, no node and no file
is left over, and the job says what happened.

The points are not listed by hand: a run without a kill tells which ones are passed."""
import os

import pytest

from harness import images
from harness.bus import Bus
from harness.chains import volume_chain
from harness.client import Client
from harness.daemon import Daemon
from harness.disks import active, attach, delete, detach, import_chain, patterns, resize, snapshot
from harness.qemu import Qemu

MIB = 1 << 20
CONFIG = '[qemu]\ngreeting-timeout = "2s"\n'


class Scene:
    """A VM, running or down, with a disk of its own, `root`; and `data`, a disk of three layers with a bitmap that is the
    VM's where `attached`, plugged into a SCSI bus, which lets go of it without a guest."""

    def __init__(self, directory, live, attached):
        self.directory, self.live = directory, live
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG).start()
        self.client = Client(self.bus.address)
        self.qemu = None
        os.mkdir(directory + "/pool")
        pool = self.client.create_pool("main", directory + "/pool")
        self.root, root_paths = import_chain(self.client, pool, "root", size=16 * MIB)
        self.data, self.paths = import_chain(self.client, pool, "data", layers=3, size=16 * MIB, bitmaps=("check",))
        self.digest = images.digest(self.paths[-1])
        self.vm = self.client.register_vm("web", qmp_socket=directory + "/vm/qmp.sock")
        self.client.finish(attach(self.client, self.root, self.vm, "root"))
        if live:
            self.run_qemu()
        if attached:
            self.client.finish(self.attach(self.client))

    def attach(self, client):
        options = {"device": "scsi-hd", "bus": "scsi0.0"} if self.live else {}
        return attach(client, self.data, self.vm, "data", **options)

    def run_qemu(self):
        os.makedirs(self.directory + "/vm", exist_ok=True)
        root = {"path": active(self.client, self.root), "serial": "root"}
        self.qemu = Qemu(self.directory + "/vm", [root], running=True,
                         extra=["-device", "virtio-scsi-pci,id=scsi0"]).start()
        self.client.call(self.vm, "VM", "Refresh")

    def restart(self):
        self.client.close()
        self.daemon.start()
        self.client = Client(self.bus.address)

    def job(self):
        """The one that was broken off is the last."""
        jobs = self.client.of_kind("job")
        return max(jobs, key=lambda path: jobs[path]["StartedUsec"])

    def killed_at(self, point, act, with_qemu=False):
        """(state, error, message, result) of the job as it was settled."""
        self.daemon.at(point)
        act(self, wait=False)
        self.daemon.wait_killed()
        if with_qemu:
            self.qemu.kill()
        self.restart()
        outcome = self.client.wait(self.job())
        self.daemon.forget_failpoints()
        return outcome

    def close(self):
        self.client.close()
        self.daemon.stop()
        if self.qemu:
            self.qemu.kill()
        self.bus.stop()
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]

    # --- what has to be true in the end ---
    def check(self, attached, layers=3):
        """The disk is the VM's or not, in the records and in QEMU; its chain and content are what they were."""
        disk = self.client.get_all(self.data, "Disk")
        assert (disk["State"], disk["VM"]) == ("ok", self.vm if attached else "/"), disk
        assert (self.data in self.client.get(self.vm, "VM", "Disks")) == attached
        assert self.client.get(self.vm, "VM", "Job") == "/"
        chain = images.chain(disk["ActivePath"])
        assert volume_chain(self.client, disk["Active"]) == chain and len(chain) == layers and chain[-3:] == self.paths[::-1]
        patterns(chain[0], (1, 0, MIB), (2, MIB, MIB), (3, 2 * MIB, MIB))
        self.check_files(chain)
        if self.qemu and self.qemu.process.poll() is None:
            known = {self.qemu.file_of(node) for node in self.qemu.nodes().values()}
            assert known == {active(self.client, self.root), *(chain if attached else [])}
            assert len(self.qemu.nodes()) == 2 + (2 * layers if attached else 0)
        elif not attached or not self.qemu:
            for path in chain:
                images.check(path)

    def check_files(self, chain):
        expected = chain + images.chain(active(self.client, self.root))
        assert sorted(f"{self.directory}/pool/{name}" for name in images.image_files(self.directory + "/pool")) == \
            sorted(expected), "a file that belongs to nothing, or one that is gone"
        assert len(self.client.of_kind("volume")) == len(expected)

    def check_bitmap(self):
        found = images.bitmaps(active(self.client, self.data))
        assert found["check"]["flags"] == ["auto"], found


@pytest.fixture
def scene(directory):
    made = []

    def make(live=False, attached=False):
        where = f"{directory}/{len(made)}"
        os.mkdir(where)
        made.append(Scene(where, live, attached))
        return made[-1]
    yield make
    for scene in made:
        scene.close()


def acting(call):
    """An operation: act(scene) waits for its end, act(scene, wait=False) does not wait for an answer, as the daemon may die
    before it gives one."""
    class NoAnswer:
        def __init__(self, client):
            self.client = client

        def call(self, path, interface, member, signature, *arguments):
            self.client.send(path, interface, member, signature, *arguments)

    def act(scene, wait=True):
        if wait:
            return scene.client.finish(call(scene, scene.client))
        return call(scene, NoAnswer(scene.client))
    return act


RESIZE = acting(lambda scene, client: resize(client, scene.data, 32 * MIB))
DELETE = acting(lambda scene, client: delete(client, scene.data, snapshots=True))
ATTACH = acting(lambda scene, client: scene.attach(client))
DETACH = acting(lambda scene, client: detach(client, scene.data))
SNAPSHOT = acting(lambda scene, client: snapshot(client, scene.data, "s1"))


def points(scene, act):
    scene.daemon.forget_failpoints()
    act(scene)
    names = scene.daemon.passed()
    scene.daemon.forget_failpoints()
    return [name.split(".", 1)[1] for name in names]


def test_the_points_are_those_that_are_tried(scene):
    """The parametrized tests below have to name every step; what a run passes says which there are."""
    down = scene()
    assert points(down, RESIZE) == ["resize", "finish"]
    assert points(down, SNAPSHOT) == ["lock", "files", "bitmaps", "switch"]
    assert points(down, ATTACH) == ["finish"]
    assert points(down, DETACH) == ["finish"]
    assert points(down, DELETE) == ["lock", "forget", "unlink"]
    up = scene(live=True)
    assert points(up, ATTACH) == ["look", "nodes", "device", "finish"]
    assert points(up, RESIZE) == ["resize", "finish"]
    assert points(up, DETACH) == ["look", "unplug", "nodes", "finish"]


# --- resized ---

@pytest.mark.parametrize("point", ["resize", "finish"])
@pytest.mark.parametrize("live", [False, True], ids=["offline", "live"])
def test_resize(scene, live, point):
    s = scene(live, attached=live)
    state, error, message, result = s.killed_at(f"resize-disk.{point}", RESIZE)
    size = 32 * MIB if point == "finish" else 16 * MIB
    if point == "finish":
        assert state == "succeeded" and result == {"size-bytes": 32 * MIB, "before-bytes": 16 * MIB}
    else:
        assert (state, error) == ("failed", "Interrupted") and f"it has {16 * MIB} bytes" in message, message
    assert s.client.get(s.data, "Disk", "SizeBytes") == size == images.info(s.paths[-1])["virtual-size"]
    s.check(attached=live)
    RESIZE(s)
    assert images.info(s.paths[-1])["virtual-size"] == 32 * MIB
    if live:
        s.qemu.quit()
    s.check_bitmap()


def test_resize_and_both_killed(scene):
    s = scene(live=True, attached=True)
    state, error, message, _ = s.killed_at("resize-disk.resize", RESIZE, with_qemu=True)
    assert (state, error) == ("failed", "Interrupted"), message
    assert s.client.get(s.data, "Disk", "SizeBytes") == 16 * MIB


# --- deleted ---

@pytest.mark.parametrize("point", ["lock", "forget", "unlink"])
def test_delete(scene, point):
    s = scene()
    SNAPSHOT(s)
    chain = images.chain(active(s.client, s.data))
    state, error, message, result = s.killed_at(f"delete-disk.{point}", DELETE)
    if point == "unlink":
        assert state == "succeeded" and result == {"volumes": 4}, message
    else:
        assert (state, error) == ("failed", "Interrupted") and "nothing was deleted" in message, message
        s.check(attached=False, layers=4)
        assert len(s.client.of_kind("snapshot")) == 1
        DELETE(s)
    assert set(s.client.of_kind("disk")) == {s.root} and s.client.of_kind("snapshot") == {}
    assert not any(os.path.exists(path) for path in chain)
    s.check_files([])


def test_delete_and_a_process_that_opens_the_image_meanwhile(scene):
    """When the records are gone: the file stays as long as it is needed, and the job says so."""
    s = scene()
    s.daemon.at("delete-disk.unlink")
    DELETE(s, wait=False)
    s.daemon.wait_killed()
    stranger = Qemu(f"{s.directory}/stranger", [s.paths[0]]).start()
    try:
        s.restart()
        state, error, message, _ = s.client.wait(s.job())
        assert (state, error) == ("failed", "InUse") and s.paths[0] in message and "forgotten" in message, message
    finally:
        stranger.kill()
    assert [os.path.exists(path) for path in s.paths] == [True, False, False]
    assert set(s.client.of_kind("disk")) == {s.root}


# --- plugged in ---

@pytest.mark.parametrize("point", ["look", "nodes", "device", "finish"])
def test_attach(scene, point):
    s = scene(live=True)
    state, error, message, result = s.killed_at(f"attach-disk.{point}", ATTACH)
    if point == "finish":
        assert state == "succeeded" and s.qemu.active_file(result["device"]) == s.paths[-1], message
    else:
        assert (state, error) == ("failed", "Interrupted"), message
        s.check(attached=False)
        ATTACH(s)
    s.check(attached=True)
    s.client.finish(s.client.create_snapshot(s.vm, "next"))
    DETACH(s)
    s.check_bitmap()


@pytest.mark.parametrize("point", ["nodes", "device", "finish"])
def test_attach_and_both_killed(scene, point):
    s = scene(live=True)
    state, error, message, _ = s.killed_at(f"attach-disk.{point}", ATTACH, with_qemu=True)
    assert (state, error) == ("failed", "Interrupted") and "floats" in message, message
    assert s.client.get(s.data, "Disk", "VM") == "/"
    s.run_qemu()
    ATTACH(s)
    s.check(attached=True)


def test_attach_and_killed_again_while_it_recovers(scene):
    s = scene(live=True)
    s.daemon.at("attach-disk.device")
    ATTACH(s, wait=False)
    s.daemon.wait_killed()
    s.daemon.at("attach-disk.undo")
    s.client.close()
    s.daemon.start(wait=False)
    s.daemon.wait_killed()
    s.daemon.start()
    s.client = Client(s.bus.address)
    state, error, message, _ = s.client.wait(s.job())
    assert (state, error) == ("failed", "Interrupted"), message
    s.check(attached=False)
    ATTACH(s)
    s.check(attached=True)


def test_attach_to_a_vm_that_is_down(scene):
    s = scene()
    state, error, message, _ = s.killed_at("attach-disk.finish", ATTACH)
    assert (state, error) == ("failed", "Interrupted") and "nothing was changed" in message, message
    s.check(attached=False)
    ATTACH(s)
    s.check(attached=True)


# --- and out ---

@pytest.mark.parametrize("point", ["look", "unplug", "nodes", "finish"])
def test_detach(scene, point):
    s = scene(live=True, attached=True)
    alone = s.client.finish(snapshot(s.client, s.data, "alone"))["snapshot"]
    state, error, message, _ = s.killed_at(f"detach-disk.{point}", DETACH)
    gone = point in ("nodes", "finish")
    if gone:
        assert state == "succeeded", message
    else:
        assert (state, error) == ("failed", "Interrupted"), message
        assert ("nothing was changed" if point == "look" else "stays attached") in message, message
    s.check(attached=not gone, layers=4)
    assert s.client.get(alone, "Snapshot", "VM") == ("/" if gone else s.vm)
    if not gone:
        DETACH(s)
        s.check(attached=False, layers=4)
    s.check_bitmap()


def test_detach_and_the_guest_lets_go_meanwhile(scene):
    """While nobody looks; the event is lost."""
    s = scene(live=True, attached=True)
    s.daemon.at("detach-disk.unplug")
    DETACH(s, wait=False)
    s.daemon.wait_killed()
    [device] = [block["qdev"] for block in s.qemu.execute("query-block") if block["qdev"].startswith("vcd-")]
    s.qemu.execute("device_del", id=device)
    s.qemu.monitor.event("DEVICE_DELETED", device=device)
    s.restart()
    state, _, message, _ = s.client.wait(s.job())
    assert state == "succeeded", message
    s.check(attached=False)
    s.check_bitmap()


@pytest.mark.parametrize("point", ["unplug", "nodes", "finish"])
def test_detach_and_both_killed(scene, point):
    """Whether the guest has let go is known where it was written down before."""
    s = scene(live=True, attached=True)
    state, error, message, _ = s.killed_at(f"detach-disk.{point}", DETACH, with_qemu=True)
    if point == "unplug":
        assert (state, error) == ("failed", "Interrupted") and "stays attached" in message, message
    else:
        assert state == "succeeded", message
    assert s.client.get(s.data, "Disk", "VM") == (s.vm if point == "unplug" else "/")
    s.run_qemu()
    if point != "unplug":
        ATTACH(s)
        s.check(attached=True)


def test_detach_from_another_qemu(scene):
    """The VM was started again meanwhile, with other disks under the same names of nodes."""
    s = scene(live=True, attached=True)
    s.daemon.at("detach-disk.nodes")
    DETACH(s, wait=False)
    s.daemon.wait_killed()
    nodes = [name for name in s.qemu.nodes() if name.startswith("vc-")]
    s.qemu.kill()
    s.client.close()
    other = images.create(f"{s.directory}/other.qcow2", "16M")
    named = [{"driver": "file", "node-name": "other", "filename": other},
             {"driver": "qcow2", "node-name": nodes[0], "file": "other"}]
    root = f"{s.directory}/pool/root.0.qcow2"
    s.qemu = Qemu(s.directory + "/vm", [{"path": root, "serial": "root"},
                                        {"path": other, "node": nodes[0], "blockdevs": named}], running=True).start()
    s.daemon.start()
    s.client = Client(s.bus.address)
    state, _, message, _ = s.client.wait(s.job())
    assert state == "succeeded", message
    assert s.client.get(s.data, "Disk", "VM") == "/" and s.qemu.active_file("dev1") == other


# --- kept ---

@pytest.mark.parametrize("point", ["lock", "files", "bitmaps", "switch"])
def test_snapshot_of_a_floating_disk(scene, point):
    s = scene()
    state, error, message, _ = s.killed_at(f"create-snapshot.{point}", SNAPSHOT)
    assert (state, error) == ("failed", "Interrupted"), message
    assert s.client.of_kind("snapshot") == {}
    s.check(attached=False)
    SNAPSHOT(s)
    s.check(attached=False, layers=4)
    s.check_bitmap()
