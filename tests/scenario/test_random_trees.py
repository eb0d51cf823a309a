# SPDX-License-Identifier: MIT
"""Random sequences of what can be done to a VM's disks, held against a model that only knows contents: after each step
every snapshot that is left, and the active state, show what the model says, images are clean, and no file is left over;
while the VM is down, the bitmaps that are left cover what was written since they were begun.

A failure names its seed and the steps so far. More of them: VOLCHAIN_SEEDS=100-300 runs those seeds, VOLCHAIN_STEPS=40
makes them longer.
"""
import os
import random

import pytest

from harness import digest, images
from harness.client import variants
from harness.damage import findings
from harness.disks import resize
from harness.recordings import Coverage, Recording, begin_bitmap, units_of
from harness.seeds import seeds
from harness.tree import Tree

MIB = 1 << 20
SIZE = 8 * MIB
LARGEST = 12 * MIB
STEPS = int(os.environ.get("VOLCHAIN_STEPS", "14"))


class Model:
    """What the disks and the snapshots hold; and on which snapshot's volume each disk and each snapshot stands, for the
    disks may be on different branches."""

    def __init__(self, disks):
        self.active = [bytearray(SIZE) for _ in range(disks)]
        self.on = [None] * disks
        self.snapshots = {}  # {name: {disk: content}}, the oldest first
        self.below = [{} for _ in range(disks)]  # {name: what its volume stands on}
        self.parent, self.current = {}, None
        self.former, self.leading = {}, None  # while a preview is shown: {disk: (content, what it stood on, bitmaps)}
        # {name: Recording} of each disk as it is, and of each disk of each snapshot.
        self.recordings = [{} for _ in range(disks)]
        self.recorded = {}

    def state(self, number):
        return self.active[number], self.on[number], self.recordings[number]

    def snapshot(self, name):
        self.keep(name, {number: self.state(number) for number in range(len(self.active))})
        self.on = [name] * len(self.active)
        self.current = name

    def keep(self, name, disks):
        """A snapshot of {disk: (content, what it stands on, bitmaps)}."""
        self.snapshots[name] = {number: bytes(content) for number, (content, _, _) in disks.items()}
        self.recorded[name] = {number: copies(recordings) for number, (_, _, recordings) in disks.items()}
        self.parent[name] = self.current
        for number, (_, on, _) in disks.items():
            self.below[number][name] = on

    def write(self, number, offset, content):
        self.active[number][offset:offset + len(content)] = content
        for recording in self.recordings[number].values():
            recording.units.update(units_of(offset, len(content)))

    def preview(self, choice):
        """{disk: snapshot}"""
        self.former = {number: self.state(number) for number in choice}
        for number, name in choice.items():
            self.active[number], self.on[number] = bytearray(self.snapshots[name][number]), name
            self.recordings[number] = copies(self.recorded[name][number])
        shown = set(choice.values())
        deepest = [name for name in shown if shown <= set(self.ancestors(name))]
        self.leading = deepest[0] if deepest else [name for name in self.snapshots if name in shown][-1]

    def undo(self):
        for number, state in self.former.items():
            self.active[number], self.on[number], self.recordings[number] = state
        self.former, self.leading = {}, None

    def commit(self):
        """The snapshots that go when nothing is kept."""
        stay = {name for number in self.former for name in self.ancestors(self.on[number])} | set(self.ancestors(self.leading))
        for number in set(range(len(self.active))) - set(self.former):
            on = self.on[number]
            while on:
                stay |= set(self.ancestors(on))
                on = self.below[number][on]
        gone, name = [], self.current
        while name and name not in stay and not [c for c, p in self.parent.items() if p == name and c not in gone]:
            gone.append(name)
            name = self.parent[name]
        return gone

    def committed(self):
        self.current = self.leading
        self.former, self.leading = {}, None

    def ancestors(self, name):
        found = []
        while name:
            found.append(name)
            name = self.parent[name]
        return found

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
            del self.snapshots[name], self.recorded[name]
            for number, below in enumerate(self.below):
                if name not in below:
                    continue
                lower = below.pop(name)
                below.update({other: lower for other, on in below.items() if on == name})
                self.on[number] = lower if self.on[number] == name else self.on[number]

    def digests(self):
        states = {"active": dict(enumerate(self.active)), **self.snapshots}
        return {(name, number): digest.of_bytes(disk) for name, disks in states.items()
                for number, disk in disks.items()}


def copies(recordings):
    return {name: recording.copy() for name, recording in recordings.items()}


class Run:
    def __init__(self, tree, seed, disks):
        self.tree, self.random, self.done = tree, random.Random(seed), []
        self.model = Model(disks)
        for disk in self.model.active:
            disk[:MIB] = bytes([1]) * MIB  # as make_chain() does
        self.names = 0
        self.coverage = Coverage()
        for number in range(disks):
            self.begin(number)

    def running(self):
        return self.tree.qemu.process.poll() is None

    # --- what can be done ---
    def write(self):
        number = self.random.randrange(len(self.tree.disks))
        for _ in range(self.random.randint(1, 4)):
            pattern = self.random.randint(1, 255)
            size = len(self.model.active[number])
            offset = self.random.randrange(size // 4096) * 4096
            length = min(self.random.choice((4096, 65536, 300 * 1024, MIB)), size - offset)
            if self.running():
                self.tree.qemu.write(f"dev{number}", pattern, offset, length)
            else:
                images.write(self.tree.path(number), pattern, offset, length)
            self.model.write(number, offset, bytes([pattern]) * length)

    def bitmap(self):
        self.begin(self.random.randrange(len(self.tree.disks)))

    def begin(self, number):
        """A recording, in the active layer of a disk."""
        self.names += 1
        granularity = self.random.choice((4096, 65536, MIB))
        begin_bitmap(self.tree, number, f"b{self.names}", granularity)
        self.model.recordings[number][f"b{self.names}"] = Recording(granularity)

    def resize(self):
        """A disk grows."""
        number = self.random.randrange(len(self.tree.disks))
        disk = self.model.active[number]
        size = min(LARGEST, len(disk) + self.random.randint(1, 20) * 64 * 1024)
        self.tree.client.finish(resize(self.tree.client, self.tree.disks[number], size))
        disk.extend(bytes(size - len(disk)))

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
        self.model.on[self.tree.disks.index(disk)] = None
        self.tree.client.finish(self.tree.client.call(disk, "Disk", "Flatten", "a{sv}", {}))

    def overlay(self):
        disk = self.random.choice(self.tree.disks)
        self.tree.client.finish(self.tree.client.call(disk, "Disk", "CreateOverlay", "a{sv}", {}))

    def merge(self):
        """An inner volume that no snapshot names goes."""
        named = {volume for s in self.tree.client.of_kind("snapshot").values() for _, volume in s["Disks"]}
        found = [path for path, p in self.tree.client.of_kind("volume").items()
                 if path not in named and not p["Active"] and len(p["Children"]) == 1]
        if found:
            options = {"direction": self.random.choice(("auto", "commit", "stream"))}
            self.tree.client.finish(self.tree.client.call(self.random.choice(sorted(found)), "Volume", "Merge", "a{sv}",
                                                          variants(options)))

    def choose(self):
        """{disk: snapshot} for a preview: all of one, or any mixture."""
        names = list(self.model.snapshots)
        if self.random.random() < 0.5:
            name = self.random.choice(names)
            return {number: name for number in self.model.snapshots[name]}
        choice = {}
        for number in range(len(self.tree.disks)):
            having = [name for name in names if number in self.model.snapshots[name]]
            if having and self.random.random() < 0.7:
                choice[number] = self.random.choice(having)
        return choice

    def preview(self):
        choice = self.choose()
        if not choice:
            return
        if self.running():
            self.tree.down()
        paths = {self.tree.disks[number]: self.tree.snapshots[name] for number, name in choice.items()}
        client = self.tree.client
        client.finish(client.call(self.tree.vm, "VM", "Preview", "a{oo}a{sv}", paths, {}))
        self.model.preview(choice)
        assert client.get(self.tree.vm, "VM", "PreviewOf") == self.tree.snapshots[self.model.leading]

    def undo(self):
        if self.running():
            self.tree.down()
        self.tree.client.finish(self.tree.client.call(self.tree.vm, "VM", "UndoPreview", "a{sv}", {}))
        self.model.undo()

    def commit(self):
        """Whether the VM runs or not."""
        keep = self.random.random() < 0.5
        self.left(keep, self.tree.client.call(self.tree.vm, "VM", "CommitPreview", "a{sv}", variants({"keep_branch": keep})))

    def revert(self):
        name = self.random.choice(list(self.model.snapshots))
        keep = self.random.random() < 0.3
        if self.running():
            self.tree.down()
        self.model.preview({number: name for number in self.model.snapshots[name]})
        self.left(keep, self.tree.client.call(self.tree.snapshots[name], "Snapshot", "Revert", "a{sv}",
                                              variants({"keep_branch": keep})))

    def left(self, keep, job):
        """What becomes of the branch that the VM was on."""
        result, model = self.tree.client.finish(job), self.model
        if "snapshot" in result:
            assert keep
            name = self.tree.client.get(result["snapshot"], "Snapshot", "Name")
            self.tree.snapshots[name] = result["snapshot"]
            model.keep(name, model.former)
        elif keep:
            for number, (content, on, _) in model.former.items():
                assert bytes(content) == model.snapshots[on][number], "it is nowhere any more"
        gone = [] if keep else model.commit()
        assert sorted(result.get("removed", [])) == sorted(gone)
        model.committed()
        model.forget(gone)
        self.tree.forget(*gone)

    def power(self):
        if self.running():
            self.tree.down()
        else:
            self.tree.up()

    # --- a sequence of it ---
    def step(self):
        choices = [self.write] * 3 + [self.snapshot] * 3 + [self.flatten, self.overlay, self.merge, self.power, self.resize,
                                                            self.bitmap]
        if self.model.snapshots:
            choices += [self.delete] * 3 + [self.preview] * 2 + [self.revert]
        if self.model.former:
            choices = [self.write, self.write, self.power, self.undo, self.commit, self.commit]
        act = self.random.choice(choices)
        self.done.append(act.__name__)
        act()
        assert self.tree.content() == self.model.digests()
        self.tree.check()
        self.check_records()
        if not self.running():
            self.check_recordings()

    def end(self):
        """Bitmaps can be read only while the VM is down."""
        if self.running():
            self.tree.down()
        self.check_recordings()

    def check_recordings(self):
        """What is gone is forgotten by the model, too."""
        client = self.tree.client
        for number in range(len(self.tree.disks)):
            self.check_recordings_of(self.tree.path(number), self.model.recordings[number])
        for name, path in self.tree.snapshots.items():
            for disk, volume in client.get(path, "Snapshot", "Disks"):
                recordings = self.model.recorded[name][self.tree.disks.index(disk)]
                self.check_recordings_of(client.get(volume, "Volume", "Path"), recordings)

    def check_recordings_of(self, path, recordings):
        for name, recording in list(recordings.items()):
            if not self.coverage.check(path, name, recording.units, recording.granularity):
                del recordings[name]

    def check_records(self):
        client, snapshots = self.tree.client, self.tree.snapshots
        assert set(client.of_kind("snapshot")) == set(snapshots.values())
        for name, path in snapshots.items():
            parent = self.model.parent[name]
            assert client.get(path, "Snapshot", "Parent") == (snapshots[parent] if parent else "/")
            shown = name == self.model.leading or any(self.model.on[n] == name for n in self.model.former)
            assert client.get(path, "Snapshot", "Status") == ("previewed" if shown else "ok")
        for number, disk in enumerate(self.tree.disks):
            former = client.get(disk, "Disk", "Former")
            assert (former != "/") == (number in self.model.former)
            if former != "/":
                content = images.digest(client.get(former, "Volume", "Path"), self.tree.format(former))
                assert content == digest.of_bytes(self.model.former[number][0])
        current = self.model.current
        assert client.get(self.tree.vm, "VM", "CurrentSnapshot") == (snapshots[current] if current else "/")


@pytest.mark.parametrize("seed", seeds("1-3", "1-8"))
def test_a_random_sequence(client, directory, qemus, capsys, seed):
    disks = seed % 3 + 1
    run = Run(Tree(client, directory, qemus, disks, size=SIZE), seed, disks)
    try:
        for _ in range(STEPS):
            run.step()
        run.end()
        for disk in run.tree.disks:
            assert [f for f in findings(client, disk) if f["severity"] != "info"] == []
    except BaseException:
        print(f"seed {seed}: {' '.join(run.done)}")
        raise
    with capsys.disabled():
        print(f"\n  seed {seed}: {run.coverage}")
