# SPDX-License-Identifier: MIT
"""The daemon, or QEMU, killed between any two steps of a snapshot with memory, and of its coming back: the guest never
stands still for longer than it takes to start the daemon again, memory is there or not, and what is there is of one instant
with the disks; no file is left over, and QEMU is set as it was.
"""
import os

import pytest

from harness.bus import Bus
from harness.client import Client
from harness.daemon import Daemon
from harness.memory_vm import MemoryVm

CONFIG = '[quiesce]\nagent-timeout = "2s"\n[qemu]\ngreeting-timeout = "2s"\n'
# Written for seconds, or at once.
LARGE, SMALL = 2048, 32

STEPS = ["files", "nodes", "prepare", "stop", "switch", "save", "write", "finish"]
BEFORE = ("files", "nodes", "prepare", "stop", "switch")
LOAD = ["check", "load", "loaded", "start"]


class Scene:
    """Bus, daemon, and a busy guest. `still`: one whose memory is written while it stands still."""

    def __init__(self, directory, memory=SMALL, still=False):
        self.directory = directory
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus, CONFIG).start()
        self.client = Client(self.bus.address)
        extra = []
        if still:
            with open(directory + "/ram", "wb") as f:
                f.truncate(memory << 20)
            extra = ["-object", f"memory-backend-file,id=ram,size={memory}M,mem-path={directory}/ram,share=off",
                     "-machine", "memory-backend=ram"]
        self.vm = MemoryVm(self.client, directory, memory=memory, extra=extra)
        self.vm.is_killed = True
        self.settings = self.vm.migration_settings()

    def snapshot(self):
        """No answer: the daemon may die before it gives one."""
        return self.client.send(self.vm.vm, "VM", "CreateSnapshot", "sa{sv}", "s1", {"memory": ("b", True)})

    def restart(self, wait=True):
        self.client.close()
        self.daemon.start(wait=wait)
        if wait:
            self.client = self.vm.client = Client(self.bus.address)

    def job(self, kind="create-snapshot"):
        [job] = [path for path, p in self.client.of_kind("job").items() if p["Kind"] == kind]
        return job

    def outcome(self):
        """(state, error, message, properties of the snapshot or None), and that they agree."""
        state, error, message, _ = self.client.wait(self.job())
        taken = list(self.client.of_kind("snapshot").values())
        assert len(taken) <= 1
        snapshot = taken[0] if taken else None
        if state == "succeeded":
            assert snapshot["Consistency"] == "memory" and snapshot["MemoryBytes"] > 0
        elif snapshot:
            assert "kept without memory" in message and snapshot["Consistency"] == "crash"
            assert (snapshot["Status"], snapshot["MemoryBytes"]) == ("ok", 0)
        else:
            assert "undone" in message or error in ("Unreachable", "NotRunning", "Interrupted"), message
        return state, error, message, snapshot

    def check_running(self):
        """The guest writes, on the disk that the records name, and QEMU is as it was."""
        self.client.wait_property(self.vm.vm, "VM", "State", "running")
        self.vm.guest.wait_writing(20)
        assert self.vm.guest.active_file("dev0") == self.vm.active()
        assert self.vm.migration_settings() == self.settings
        assert self.vm.guest.execute("query-migrate").get("status") in (None, "completed", "cancelled", "failed")
        assert self.vm.get("Job") == "/"
        self.vm.check_files()

    def check_comes_back(self, name="s1"):
        self.daemon.forget_failpoints()
        self.vm.down()
        self.vm.revert(name)
        self.vm.launch(paused=True)
        state, _, message, _ = self.vm.loaded()
        assert state == "succeeded", message
        assert self.vm.check_of_one_instant() > 0

    def works_again(self):
        self.daemon.forget_failpoints()
        self.vm.take("next")
        self.vm.check_files()

    def close(self):
        self.client.close()
        self.vm.end()
        self.daemon.stop()
        self.bus.stop()
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def scene(directory):
    made = []

    def make(**options):
        where = f"{directory}/{len(made)}"
        os.mkdir(where)
        made.append(Scene(where, **options))
        return made[-1]
    yield make
    for scene in made:
        scene.close()


def test_the_points_are_those_that_are_tried(scene):
    for still in (False, True):
        s = scene(still=still)
        s.daemon.forget_failpoints()
        s.client.finish(s.client.answer(s.snapshot()))
        assert s.daemon.passed() == [f"create-snapshot.{step}" for step in STEPS]
    s.vm.down()
    s.vm.revert()
    s.daemon.forget_failpoints()
    s.vm.launch()
    s.vm.loaded()
    assert s.daemon.passed() == [f"load-memory.{step}" for step in LOAD]


@pytest.mark.parametrize("still", [False, True], ids=["background", "still"])
@pytest.mark.parametrize("step", STEPS)
def test_daemon_killed(scene, step, still):
    """Large: what is written in the background is under way then."""
    s = scene(memory=LARGE if step == "write" and not still else SMALL, still=still)
    s.daemon.at(f"create-snapshot.{step}")
    s.snapshot()
    s.daemon.wait_killed()
    s.restart()
    state, error, message, snapshot = s.outcome()
    assert state == ("succeeded" if step == "finish" else "failed"), message
    assert (snapshot is None) == (step in BEFORE), message
    if state == "failed":
        assert error == "Interrupted", message
    s.check_running()
    s.works_again()
    s.check_running()
    s.check_comes_back("s1" if step == "finish" else "next")


@pytest.mark.parametrize("still", [False, True], ids=["background", "still"])
@pytest.mark.parametrize("step", STEPS)
def test_qemu_killed(scene, step, still):
    s = scene(memory=LARGE if step == "write" and not still else SMALL, still=still)
    s.daemon.at(f"create-snapshot.{step}", "stop")
    s.snapshot()
    s.daemon.wait_stopped()
    s.vm.guest.kill()
    s.daemon.resume()
    state, _, message, snapshot = s.outcome()
    assert state == ("succeeded" if step == "finish" else "failed"), message
    if step in ("files", "nodes", "prepare", "stop"):
        assert snapshot is None
    s.vm.check_files()
    s.daemon.forget_failpoints()
    s.vm.launch()
    s.vm.guest.wait_writing(50)
    s.vm.take("next")
    s.check_comes_back("next")


@pytest.mark.parametrize("step", STEPS)
def test_both_killed(scene, step):
    s = scene(memory=LARGE if step == "write" else SMALL)
    s.daemon.at(f"create-snapshot.{step}")
    s.snapshot()
    s.daemon.wait_killed()
    s.vm.guest.kill()
    s.restart()
    state, _, message, snapshot = s.outcome()
    assert state == ("succeeded" if step == "finish" else "failed"), message
    s.vm.check_files()
    s.vm.launch()
    s.vm.guest.wait_writing(2)
    s.works_again()
    if step == "finish":
        s.check_comes_back()


@pytest.mark.parametrize("still", [False, True], ids=["background", "still"])
def test_killed_again_while_it_recovers(scene, still):
    s = scene(still=still)
    s.daemon.at("create-snapshot.save")
    s.snapshot()
    s.daemon.wait_killed()
    s.client.close()
    # Killed by hand, as it settles what it finds: before it is ready.
    s.daemon.start(wait=False)
    s.daemon.kill()
    s.restart()
    assert s.outcome()[0] == "failed"
    s.check_running()
    s.works_again()


def test_a_guest_that_was_paused_stays_so(scene):
    """Whoever paused it says when it runs: no daemon resumes it."""
    for step in ("stop", "switch", "save", "write"):
        s = scene()
        s.vm.guest.execute("stop")
        s.client.wait_property(s.vm.vm, "VM", "State", "paused")
        s.daemon.at(f"create-snapshot.{step}")
        s.snapshot()
        s.daemon.wait_killed()
        s.restart()
        s.outcome()
        assert s.vm.get("State") == "paused" and not s.vm.guest.execute("query-status")["running"], step
        # Its disk is its own, whatever became of the migration.
        s.vm.guest.io("dev0", "write -q -P 7 0 4096")
        s.vm.guest.execute("cont")
        s.check_running()


# --- it comes back ---

def due(scene, **options):
    s = scene(**options)
    s.vm.take("s1")
    s.vm.guest.wait_writing()
    s.vm.down()
    s.vm.revert()
    s.daemon.forget_failpoints()
    return s


@pytest.mark.parametrize("step", LOAD)
def test_daemon_killed_while_it_loads(scene, step):
    """It goes on from there, once."""
    s = due(scene)
    s.daemon.at(f"load-memory.{step}")
    s.client.close()
    s.vm.client = None
    arguments = arguments_of(s)
    launch(s, arguments)
    s.daemon.wait_killed()
    assert s.vm.guest.execute("query-status")["status"] == ("inmigrate" if step in ("check", "load") else "paused")
    s.restart()
    state, _, message, result = s.client.wait(s.job("load-memory"))
    assert state == "succeeded" and result["resumed"], message
    s.client.wait_property(s.vm.vm, "VM", "State", "running")
    s.vm.guest.wait_writing(20)
    assert s.vm.get("ResumesFrom") == "/"
    s.vm.down()
    assert "-incoming" not in s.vm.arguments()


def arguments_of(s):
    client = Client(s.bus.address)
    s.vm.client = client
    arguments = s.vm.arguments()
    client.close()
    return arguments


def launch(s, arguments):
    """Without a word to the daemon, which is about to die."""
    from harness.busy_guest import BusyGuest
    from harness.qemu import Qemu
    options = {**s.vm.options, "memory": s.vm.memory, "extra": [*s.vm.extra, *arguments]}
    s.vm.guest = BusyGuest(f"{s.vm.directory}/vm", [], region=8 << 20, **options)
    Qemu.start(s.vm.guest)


@pytest.mark.parametrize("step", LOAD)
def test_qemu_killed_while_it_loads(scene, step):
    """Before its guest has run it can be tried again; after that it is used up."""
    s = due(scene)
    s.daemon.at(f"load-memory.{step}", "stop")
    launch(s, s.vm.arguments())
    s.daemon.wait_stopped()
    s.vm.guest.kill()
    s.daemon.resume()
    state, _, message, _ = s.vm.loaded()
    assert state == "failed", message
    used_up = step == "start"
    assert (s.vm.get("ResumesFrom") == "/") == used_up
    s.daemon.forget_failpoints()
    s.vm.launch(paused=not used_up)
    if used_up:
        s.vm.guest.wait_writing(2)
    else:
        assert s.vm.loaded(1)[0] == "succeeded"
        assert s.vm.check_of_one_instant() > 0


@pytest.mark.parametrize("step", LOAD)
def test_both_killed_while_it_loads(scene, step):
    s = due(scene)
    s.daemon.at(f"load-memory.{step}")
    launch(s, s.vm.arguments())
    s.daemon.wait_killed()
    s.vm.guest.kill()
    s.restart()
    state, error, message, _ = s.client.wait(s.job("load-memory"))
    assert (state, error) == ("failed", "Interrupted"), message
    used_up = step == "start"
    assert (s.vm.get("ResumesFrom") == "/") == used_up
    s.vm.launch(paused=not used_up)
    if not used_up:
        assert s.vm.loaded(1)[0] == "succeeded"
        assert s.vm.check_of_one_instant() > 0


@pytest.mark.parametrize("step", ["lock", "files", "bitmaps", "switch"])
def test_killed_in_a_preview_of_it(scene, step):
    """The memory is due with the preview, or not at all."""
    s = scene()
    s.vm.take("s1")
    s.vm.down()
    s.daemon.forget_failpoints()
    s.daemon.at(f"preview.{step}")
    s.client.send(s.vm.snapshot(), "Snapshot", "Preview", "a{sv}", {})
    s.daemon.wait_killed()
    s.restart()
    assert s.client.wait(s.job("preview"))[0] == "failed"
    assert s.vm.get("ResumesFrom") == "/" and s.vm.get("PreviewOf") == "/"
    s.vm.check_files()
    s.vm.preview()
    assert s.vm.get("ResumesFrom") == s.vm.snapshot()


@pytest.mark.parametrize("step", ["copy", "bitmaps", "switch", "unlink"])
def test_killed_in_its_deletion(scene, step):
    """Whatever is left is deleted in the end, the memory with it."""
    s = scene()
    path = s.vm.take("s1")[0]["MemoryPath"]
    s.daemon.forget_failpoints()
    s.daemon.at(f"delete-snapshot.{step}")
    s.client.send(s.vm.snapshot(), "Snapshot", "Delete", "a{sv}", {})
    try:
        s.daemon.wait_killed(20)
    except Exception:
        pytest.skip("this merge does not pass that step")
    s.restart()
    state, _, message, _ = s.client.wait(s.job("delete-snapshot"))
    if state != "succeeded":
        assert os.path.exists(path), message
        s.client.finish(s.vm.of_snapshot("s1", "Delete"))
    assert not os.path.exists(path)
    s.check_running()
