# SPDX-License-Identifier: MIT
"""The daemon killed between any two steps of a preview, its commit or undoing, or a revert: then the VM is on the one
state or on the other, with all of its disks, no file is left over, and every image is whole.

The points are not listed here: a run without a kill tells which ones are passed, and each is tried.
"""
import os

import pytest

from harness.bus import Bus
from harness.client import Client, variants
from harness.daemon import Daemon
from harness.down_vm import DownVm

OPERATIONS = {"preview": ("preview",), "revert": ("revert",), "revert, keep": ("revert", {"keep_branch": True}),
              "commit": ("commit-preview",), "commit, keep": ("commit-preview", {"keep_branch": True}),
              "undo": ("undo-preview",)}
PREVIEW = ["lock", "files", "bitmaps", "switch"]
END = ["lock", "switch", "unlink"]
STEPS = {name: {"preview": PREVIEW, "revert": PREVIEW + ["unlink"]}.get(name.split(",")[0], END)
         for name in OPERATIONS}


class Scene:
    """A VM with two disks, bitmaps and three snapshots; for the end of a preview also with one, that was written to."""

    def __init__(self, directory, operation):
        self.kind, *self.options = OPERATIONS[operation]
        self.options = variants(self.options[0] if self.options else {})
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus).start()
        self.client = Client(self.bus.address)
        self.vm = DownVm(self.client, directory, 2, bitmaps=("check",)).history("s1", "s2", "s3")
        self.client.call(self.vm.vm, "VM", "SetConfig", "ays", b"later", "text/plain")
        if self.kind in ("commit-preview", "undo-preview"):
            self.former = self.picture()
            self.vm.preview("s1")
            self.vm.write()
        self.before = self.picture()

    def picture(self):
        """All that makes a state of the VM: what it has, not what it is called."""
        return {"contents": self.vm.contents(), "tree": self.vm.tree(), "current": self.vm.current(),
                "previewed": self.vm.get("PreviewOf") != "/", "config": self.vm.config(),
                "files": len(self.vm.files())}

    def call(self):
        """The method's call, without a wait for an answer: the daemon may die before it gives one."""
        if self.kind in ("preview", "revert"):
            return self.client.send(self.vm.snapshot("s1"), "Snapshot", self.kind.capitalize(), "a{sv}", self.options)
        method = {"commit-preview": "CommitPreview", "undo-preview": "UndoPreview"}[self.kind]
        return self.client.send(self.vm.vm, "VM", method, "a{sv}", self.options)

    def run(self):
        self.daemon.forget_failpoints()
        return self.client.finish(self.client.answer(self.call()))

    def restart(self, wait=True):
        self.client.close()
        self.daemon.start(wait=wait)
        if wait:
            self.client = self.vm.client = Client(self.bus.address)

    def job(self):
        (job,) = [path for path, p in self.client.of_kind("job").items() if p["Kind"] == self.kind and
                  (self.kind != "preview" or p["State"] != "succeeded")]
        return job

    def close(self):
        self.client.close()
        self.daemon.stop()
        self.bus.stop()
        text = self.daemon.text()
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def scene(directory):
    made = []

    def make(operation):
        where = f"{directory}/{len(made)}"
        os.mkdir(where)
        made.append(Scene(where, operation))
        return made[-1]
    yield make
    for scene in made:
        scene.close()


@pytest.fixture(scope="module")
def expected():
    """What each operation makes of the VM, from a run without a kill."""
    return {}


def after(scene, expected, operation):
    if operation not in expected:
        s = scene(operation)
        s.run()
        expected[operation] = s.picture()
        assert s.daemon.passed() == [f"{s.kind}.{step}" for step in STEPS[operation]]
        s.vm.check()
    return expected[operation]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_points_are_those_that_are_tried(scene, expected, operation):
    """The tests below name every step; what a run passes says which there are. And that a run does what it has to."""
    s = scene(operation)
    s.run()
    assert s.daemon.passed() == [f"{s.kind}.{step}" for step in STEPS[operation]]
    s.vm.check()
    now = s.picture()
    if operation == "undo":
        assert now == s.former
    else:
        assert now["config"] == b"<now/>" and now["previewed"] == (operation == "preview")
        tree = {"preview": {"s1", "s2", "s3"}, "commit": {"s1"}, "revert": {"s1"},
                "commit, keep": {"s1", "s2", "s3", "before preview of 's1'"},
                "revert, keep": {"s1", "s2", "s3", "before revert to 's1'"}}[operation]
        assert set(now["tree"]) == tree


@pytest.mark.parametrize("operation,step", [(o, step) for o in OPERATIONS for step in STEPS[o]])
def test_killed(scene, expected, operation, step):
    done = after(scene, expected, operation)
    s = scene(operation)
    s.daemon.at(f"{s.kind}.{step}")
    s.call()
    s.daemon.wait_killed()
    s.restart()
    state, error, message, result = s.client.wait(s.job())
    switched = step == "unlink"
    assert state == ("succeeded" if switched else "failed"), message
    if not switched:
        assert error == "Interrupted" and step in message and ("before" in message), message
    s.vm.check()
    now = s.picture()
    assert {k: v for k, v in now.items() if k != "contents"} == \
        {k: v for k, v in (done if switched else s.before).items() if k != "contents"}
    if not switched or operation == "undo":
        assert now["contents"] == (s.former if switched else s.before)["contents"]
    elif s.kind == "revert":
        assert now["contents"] == [s.vm.states["s1"][disk] for disk in s.vm.disks]
    else:
        assert now["contents"] == s.before["contents"]
    # It goes on as if nothing had been.
    if not switched:
        s.run()
        s.vm.check()
    elif operation != "undo":
        s.vm.write()
        s.vm.take("next")
        assert s.vm.tree()["next"] == "s1"


@pytest.mark.parametrize("operation,step,again", [
    ("preview", "bitmaps", "undo"), ("revert", "switch", "undo"), ("revert", "unlink", "unlink"),
    ("commit", "unlink", "unlink"), ("undo", "unlink", "unlink")])
def test_killed_again_while_it_recovers(scene, operation, step, again):
    s = scene(operation)
    s.daemon.at(f"{s.kind}.{step}")
    s.call()
    s.daemon.wait_killed()
    s.daemon.at(f"{s.kind}.{again}")
    s.restart(wait=False)
    s.daemon.wait_killed()
    s.restart()
    state, error, message, _ = s.client.wait(s.job())
    assert state == ("succeeded" if again == "unlink" else "failed"), message
    s.vm.check()
    assert (s.picture() == s.before) == (again == "undo")


def test_killed_before_the_state_is_written(scene):
    """The commit of the switch fails: nothing has happened, and it can be tried again."""
    for operation in ("revert", "commit", "undo"):
        s = scene(operation)
        s.daemon.at(f"{s.kind}.switch", "error NoSpace no room")
        error, message = s.client.failure(s.client.answer(s.call()))
        assert error == "NoSpace" and "before" in message, message
        s.vm.check()
        assert s.picture() == s.before
        s.run()
        s.vm.check()
