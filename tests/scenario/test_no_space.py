# SPDX-License-Identifier: MIT
"""Merges on a file system that is nearly full: NoSpace before the first byte where that can be known; else the copying stops,
says why, and goes on when there is room, or is cancelled with the guest's chain as it was. Live and down."""
import os
import subprocess

import pytest

from harness import images
from harness.client import variants
from harness.filesystems import Filler
from harness.tree import MIB, Tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
PACE = 2 * MIB  # so slow that the room can be taken away meanwhile


@pytest.fixture
def small_pool(directory):
    """The pool on a file system of 224 MiB."""
    path = f"{directory}/pool"
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=224M,mode=755", "tmpfs", path], check=True, timeout=20)
    yield path
    subprocess.run(["umount", "-l", path], check=True, timeout=20)


class Work:
    """Three layers with so many MiB in each; two snapshots, or none."""

    def __init__(self, tree, base, middle, top, snapshots=True):
        self.tree, self.client, self.name = tree, tree.client, None
        tree.write(0x10, 16 * MIB, base * MIB)
        self.grow("s1", snapshots)
        tree.write(0x12, 60 * MIB, middle * MIB)
        self.grow("s2", snapshots)
        tree.write(0x13, 104 * MIB, top * MIB)

    def grow(self, name, snapshots):
        if snapshots:
            self.tree.snapshot(name)
            return
        self.client.finish(self.client.call(self.tree.disks[0], "Disk", "CreateOverlay", "a{sv}", {}))
        self.tree.layer += 1
        self.tree.write(self.tree.layer, 0, MIB)

    def chain(self):
        """The volumes, the active one first."""
        volumes = [self.client.get(self.tree.disks[0], "Disk", "Active")]
        while (below := self.client.get(volumes[-1], "Volume", "Backing")) != "/":
            volumes.append(below)
        return volumes


def delete(name):
    def start(work, **options):
        work.name = name
        return work.tree.delete(name, **options)
    return start


def commit_all(work, **options):
    top, *_, bottom = work.chain()
    return work.client.call(top, "Volume", "Commit", "oa{sv}", bottom, variants(options))


def flatten(work, **options):
    return work.client.call(work.tree.disks[0], "Disk", "Flatten", "a{sv}", variants(options))


# What is prepared, what is done, and how many layers there are afterwards.
WAYS = {
    "active layer, down": ((1, 40, 12), delete("s2"), 2),
    "inner layer, down": ((40, 12, 12), delete("s1"), 2),
    "into the active layer, up": ((1, 12, 20), delete("s2"), 2),
    "into an inner layer, up": ((12, 40, 1), delete("s1"), 2),
    "a range, down": ((40, 8, 8, False), commit_all, 1),
    "flattened": ((12, 12, 12), flatten, 1),
}


@pytest.fixture(params=["live", "down"])
def work(request, client, directory, qemus):
    def make(what):
        prepared, _, _ = WAYS[what]
        work = Work(Tree(client, directory, qemus, size=128 * MIB), *prepared)
        if request.param == "down":
            work.tree.down()
        return work
    return make


def forgotten(work, before):
    """What has to be there afterwards."""
    if work.name:
        work.tree.forget(work.name)
    return {key: value for key, value in before.items() if key[0] != work.name}


@pytest.mark.parametrize("what", WAYS)
def test_no_room_is_known_before_the_first_byte(client, small_pool, work, what):
    _, start, layers = WAYS[what]
    w = work(what)
    before = w.tree.content()
    filler = Filler(small_pool)
    error, message = client.failure(start(w))
    assert error == "NoSpace" and "nothing was changed" in message
    filler.gone()
    assert w.tree.content() == before
    assert all(p["Status"] == "ok" for p in client.of_kind("snapshot").values())
    w.tree.check()
    client.finish(start(w))
    expected = forgotten(w, before)
    assert w.tree.content() == expected
    w.tree.check()
    assert len(images.chain(w.tree.path())) == layers


@pytest.mark.parametrize("then", ["room", "resume", "cancel"])
@pytest.mark.parametrize("what", WAYS)
def test_a_full_file_system_in_the_middle(client, small_pool, work, what, then):
    _, start, layers = WAYS[what]
    w = work(what)
    before = w.tree.content()
    job = start(w, speed=PACE)
    client.wait_copied(job)
    filler = Filler(small_pool)
    client.call(job, "Job", "SetSpeed", "t", 0)
    client.wait_property(job, "Job", "State", "paused")
    name, message = client.get(job, "Job", "Error")
    assert name.endswith("NoSpace") and "goes on by itself" in message
    if w.tree.qemu.process.poll() is None:
        assert w.tree.qemu.execute("query-status")["status"] in ("paused", "prelaunch")  # the guest was not touched
    if then == "cancel":
        client.call(job, "Job", "Cancel")
        assert client.failure(job)[0] == "Cancelled"
        filler.gone()
        w.tree.check_files()
        assert w.tree.content()["active", 0] == before["active", 0]
        job = start(w)
    else:
        filler.gone()
        if then == "resume":
            client.call(job, "Job", "Resume")
    client.finish(job)
    expected = forgotten(w, before)
    assert w.tree.content() == expected
    w.tree.check()
    assert len(images.chain(w.tree.path())) == layers
