# SPDX-License-Identifier: MIT
"""The daemon killed between any two steps of what brings variable stores back, or their former content: then they go
together with the disks, and no copy is left over."""
import os

import pytest

from harness.bus import Bus
from harness.client import Client, Variant, variants
from harness.daemon import Daemon
from harness.down_vm import DownVm

# operation: (kind of job, options, steps)
PREVIEW = ["lock", "files", "bitmaps", "switch", "nvram"]
KEEP = variants({"keep-branch": True})
OPERATIONS = {
    "preview": ("preview", {}, PREVIEW),
    "revert": ("revert", {}, PREVIEW + ["unlink"]),
    "revert, keep": ("revert", KEEP, PREVIEW + ["unlink"]),
    "undo": ("undo-preview", {}, ["lock", "switch", "nvram", "unlink"]),
    "commit": ("commit-preview", {}, ["lock", "switch", "unlink"]),
    "commit, keep": ("commit-preview", KEEP, ["lock", "switch", "unlink"]),
}
SWITCHED = {"nvram", "unlink"}


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Scene:
    """A VM with two stores and a snapshot "s1", which have other contents now; the end of a preview has one, of "s1"."""

    def __init__(self, directory, operation):
        self.kind, self.options, self.steps = OPERATIONS[operation]
        self.bus = Bus(directory + "/bus")
        self.daemon = Daemon(directory + "/d", self.bus).start()
        self.client = Client(self.bus.address)
        self.vm = DownVm(self.client, directory, 1)
        self.stores = [f"{directory}/{name}_VARS.fd" for name in ("first", "second")]
        self.fill("then ")
        self.client.call(self.vm.vm, "VM", "Update", "a{sv}", variants({"nvram": Variant("as", self.stores)}))
        self.vm.history("s1")
        self.fill("now ")
        if self.kind in ("undo-preview", "commit-preview"):
            self.vm.preview("s1")
            self.fill("previewed ")
            self.vm.write()
        self.before = self.picture()

    def fill(self, text):
        for number, path in enumerate(self.stores):
            with open(path, "wb") as f:
                f.write(f"{text}{number} ".encode() * 1000)

    def picture(self):
        return {"stores": [read(path) for path in self.stores], "tree": self.vm.tree(), "current": self.vm.current(),
                "previewed": self.vm.get("PreviewOf") != "/", "copies": self.copies(), "config": self.vm.config()}

    def copies(self):
        return len([name for name in os.listdir(self.vm.pool_path) if ".nvram" in name])

    def call(self):
        if self.kind in ("preview", "revert"):
            return self.client.send(self.vm.snapshot("s1"), "Snapshot", self.kind.capitalize(), "a{sv}", self.options)
        method = {"commit-preview": "CommitPreview", "undo-preview": "UndoPreview"}[self.kind]
        return self.client.send(self.vm.vm, "VM", method, "a{sv}", self.options)

    def run(self):
        self.daemon.forget_failpoints()
        return self.client.finish(self.client.answer(self.call()))

    def killed_at(self, *steps):
        """And each time started again; (state, error, message, result) of the job."""
        for number, step in enumerate(steps):
            self.daemon.at(f"{self.kind}.{step}")
            if number == 0:
                self.call()
            else:
                self.client.close()
                self.daemon.start(wait=False)
            self.daemon.wait_killed()
        self.client.close()
        self.daemon.start()
        self.client = self.vm.client = Client(self.bus.address)
        [job] = [path for path, p in self.client.of_kind("job").items() if p["Kind"] == self.kind]
        return self.client.wait(job)

    def check(self):
        """Each copy is a snapshot's or a preview's, and no half of a store lies about."""
        named = sum(len(p["Nvram"]) for p in self.client.of_kind("snapshot").values())
        assert self.copies() == named + (2 if self.vm.get("PreviewOf") != "/" else 0)
        assert not [name for name in os.listdir(os.path.dirname(self.stores[0])) if name.endswith(".volchain")]
        self.vm.check()

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
        assert s.daemon.passed() == [f"{s.kind}.{step}" for step in s.steps]
        s.check()
    return expected[operation]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_done(scene, expected, operation):
    now = after(scene, expected, operation)
    tag = {"undo": b"now ", "commit": b"previewed ", "commit, keep": b"previewed "}.get(operation, b"then ")
    assert [store[:len(tag)] for store in now["stores"]] == [tag, tag]
    assert now["copies"] == (4 if operation == "preview" or "keep" in operation else 2)


@pytest.mark.parametrize("operation,step", [(o, step) for o in OPERATIONS for step in OPERATIONS[o][2]])
def test_killed(scene, expected, operation, step):
    done = after(scene, expected, operation)
    s = scene(operation)
    before = s.picture()
    state, error, message, _ = s.killed_at(step)
    assert state == ("succeeded" if step in SWITCHED else "failed") and error in ("", "Interrupted"), message
    s.check()
    assert s.picture() == (done if step in SWITCHED else before)
    if step not in SWITCHED:
        s.run()
        s.check()
        assert s.picture() == done


@pytest.mark.parametrize("operation", ["preview", "revert, keep", "undo"])
def test_killed_again_while_it_recovers(scene, expected, operation):
    done = after(scene, expected, operation)
    s = scene(operation)
    state, _, message, _ = s.killed_at("nvram", "nvram")
    assert state == "succeeded", message
    s.check()
    assert s.picture() == done
