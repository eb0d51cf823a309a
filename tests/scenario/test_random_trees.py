# SPDX-License-Identifier: MIT
"""Random sequences of what can be done to a VM's disks, held against a model that only knows contents: after each step
every snapshot that is left, and the active state, show what the model says, images are clean, and no file is left over.

A failure names its seed and the steps so far. More of them: VOLCHAIN_SEEDS=100-300 runs those seeds.
"""
import hashlib
import os
import random

import pytest

from harness import images
from harness.client import variants
from harness.tree import Tree

MIB = 1 << 20
SIZE = 8 * MIB
STEPS = 14


def seeds():
    first, _, last = os.environ.get("VOLCHAIN_SEEDS", "1-8").partition("-")
    return range(int(first), int(last or first) + 1)


class Model:
    """What the disks and the snapshots hold."""

    def __init__(self, disks):
        self.active = [bytearray(SIZE) for _ in range(disks)]
        self.snapshots = {}
        self.parent, self.current = {}, None

    def snapshot(self, name):
        self.snapshots[name] = [bytes(disk) for disk in self.active]
        self.parent[name], self.current = self.current, name

    def subtree(self, name):
        found = [name]
        for other in found:
            found += [child for child, parent in self.parent.items() if parent == other]
        return found

    def forget(self, names):
        for name in names:
            above = self.parent.pop(name)
            for child, parent in self.parent.items():
                if parent == name:
                    self.parent[child] = above
            if self.current == name:
                self.current = above
            del self.snapshots[name]

    def digests(self):
        states = {"active": self.active, **self.snapshots}
        return {(name, number): hashlib.sha256(disk).hexdigest() for name, disks in states.items()
                for number, disk in enumerate(disks)}


class Run:
    def __init__(self, tree, seed, disks):
        self.tree, self.random, self.done = tree, random.Random(seed), []
        self.model = Model(disks)
        for disk in self.model.active:
            disk[:MIB] = bytes([1]) * MIB  # as make_chain() does
        self.names = 0

    def running(self):
        return self.tree.qemu.process.poll() is None

    # --- what can be done ---
    def write(self):
        number = self.random.randrange(len(self.tree.disks))
        for _ in range(self.random.randint(1, 4)):
            pattern = self.random.randint(1, 255)
            offset = self.random.randrange(SIZE // 4096) * 4096
            length = min(self.random.choice((4096, 65536, 300 * 1024, MIB)), SIZE - offset)
            if self.running():
                self.tree.qemu.write(f"dev{number}", pattern, offset, length)
            else:
                images.write(self.tree.path(number), pattern, offset, length)
            self.model.active[number][offset:offset + length] = bytes([pattern]) * length

    def snapshot(self):
        self.names += 1
        name = f"s{self.names}"
        client = self.tree.client
        self.tree.snapshots[name] = client.finish(client.create_snapshot(self.tree.vm, name, quiesce="off"))["snapshot"]
        self.model.snapshot(name)

    def delete(self):
        name = self.random.choice(sorted(self.model.snapshots))
        children = self.random.random() < 0.2
        self.tree.client.finish(self.tree.delete(name, children=children))
        gone = self.model.subtree(name) if children else [name]
        self.model.forget(gone)
        self.tree.forget(*gone)

    def flatten(self):
        disk = self.random.choice(self.tree.disks)
        self.tree.client.finish(self.tree.client.call(disk, "Disk", "Flatten", "a{sv}", {}))

    def overlay(self):
        disk = self.random.choice(self.tree.disks)
        self.tree.client.finish(self.tree.client.call(disk, "Disk", "CreateOverlay", "a{sv}", {}))

    def merge(self):
        """An inner volume that no snapshot names goes."""
        named = {self.tree.volume_of(name, n) for name in self.tree.snapshots for n in range(len(self.tree.disks))}
        found = [path for path, p in self.tree.client.of_kind("volume").items()
                 if path not in named and not p["Active"] and len(p["Children"]) == 1]
        if found:
            options = {"direction": self.random.choice(("auto", "commit", "stream"))}
            self.tree.client.finish(self.tree.client.call(self.random.choice(sorted(found)), "Volume", "Merge", "a{sv}",
                                                          variants(options)))

    def power(self):
        if self.running():
            self.tree.down()
        else:
            self.tree.up()

    # --- a sequence of it ---
    def step(self):
        choices = [self.write] * 3 + [self.snapshot] * 3 + [self.flatten, self.overlay, self.merge, self.power]
        if self.model.snapshots:
            choices += [self.delete] * 3
        act = self.random.choice(choices)
        self.done.append(act.__name__)
        act()
        assert self.tree.content() == self.model.digests()
        self.tree.check()
        self.check_records()

    def check_records(self):
        client, snapshots = self.tree.client, self.tree.snapshots
        assert set(client.of_kind("snapshot")) == set(snapshots.values())
        for name, path in snapshots.items():
            parent = self.model.parent[name]
            assert client.get(path, "Snapshot", "Parent") == (snapshots[parent] if parent else "/")
            assert client.get(path, "Snapshot", "Status") == "ok"
        current = self.model.current
        assert client.get(self.tree.vm, "VM", "CurrentSnapshot") == (snapshots[current] if current else "/")


@pytest.mark.parametrize("seed", seeds())
def test_a_random_sequence(client, directory, qemus, seed):
    disks = seed % 3 + 1
    run = Run(Tree(client, directory, qemus, disks, size=SIZE), seed, disks)
    for _ in range(STEPS):
        try:
            run.step()
        except BaseException:
            print(f"seed {seed}: {' '.join(run.done)}")
            raise
