# SPDX-License-Identifier: MIT
"""Persistent bitmaps after snapshots and merges: what is left of a recording covers every block that was written since it
began, read block by block out of the images, and hardly more. A backup that goes by it misses nothing."""
import pytest

from harness import images
from harness.client import variants
from harness.disks import resize
from harness.recordings import CLUSTER, KIB, MIB, RecordedTree

SIZE = 64 * MIB
FINE, COARSE = 4 * KIB, MIB


@pytest.fixture
def tree(client, directory, qemus):
    def make(seed=0, **options):
        return RecordedTree(client, directory, qemus, seed=seed, **options)
    return make


def grow(tree, down):
    """Three snapshots with writes to every layer; recordings of several grains that begin before the first, after the
    first and after the last one, and one that ends."""
    if down:
        tree.down()
    tree.scatter()
    for name, granularity in (("early", CLUSTER), ("fine", FINE), ("coarse", COARSE), ("ended", CLUSTER)):
        tree.begin(name, granularity)
    tree.scatter()
    tree.end("ended")
    tree.snapshot("s1")
    tree.begin("middle")
    tree.scatter()
    tree.snapshot("s2")
    tree.scatter()
    tree.snapshot("s3")
    tree.begin("late", FINE)
    tree.scatter()


KEPT = {"early", "fine", "coarse", "middle", "late"}


def delete(*names):
    def work(tree):
        for name in names:
            tree.client.finish(tree.delete(name))
            tree.forget(name)
            tree.scatter(4)
    return work


def delete_heavy(name, mib):
    """Much is written to what stands on the snapshot, so that what is below is copied up."""
    def work(tree):
        tree.write(0x77, 20 * MIB, mib * MIB)
        delete(name)(tree)
    return work


def overlays(direction):
    """Overlays without snapshots, merged one by one."""
    def work(tree):
        for _ in range(3):
            tree.overlay()
            tree.scatter()
        for _ in range(3):
            volume = tree.client.get(tree.client.get(tree.disks[0], "Disk", "Active"), "Volume", "Backing")
            tree.client.finish(tree.client.call(volume, "Volume", "Merge", "a{sv}", variants({"direction": direction})))
            tree.scatter(4)
    return work


def commit_range(tree):
    base = tree.client.get(tree.disks[0], "Disk", "Active")
    for _ in range(3):
        tree.overlay()
        tree.scatter()
    active = tree.client.get(tree.disks[0], "Disk", "Active")
    tree.client.finish(tree.client.call(active, "Volume", "Commit", "oa{sv}", base, {}))


def flatten(tree):
    tree.client.finish(tree.client.call(tree.disks[0], "Disk", "Flatten", "a{sv}", {}))


def subtree(tree):
    tree.client.finish(tree.delete("s1", children=True))
    tree.forget("s1", "s2", "s3")
    tree.recordings_of.clear()


WORK = {
    "nothing": lambda tree: None,
    "the first goes": delete("s1"),
    "one in the middle goes": delete("s2"),
    "the last one goes": delete("s3"),
    "the last one goes, up": delete_heavy("s3", 30),
    "all go": delete("s2", "s1", "s3"),
    "all go, the last one first": delete("s3", "s2", "s1"),
    "all go at once": subtree,
    "overlays, down": overlays("commit"),
    "overlays, up": overlays("stream"),
    "a range, down": commit_range,
    "flattened": flatten,
}


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
@pytest.mark.parametrize("what", WORK)
def test_recordings_cover_what_was_written(tree, capsys, what, down):
    tree = tree(seed=f"{what}{down}")
    grow(tree, down)
    WORK[what](tree)
    tree.scatter(4)
    content = tree.content()
    tree.check()
    tree.check_recordings(kept=KEPT)
    assert tree.content() == content
    with capsys.disabled():
        print(f"\n  {what}, {'down' if down else 'live'}: {tree.coverage}")


@pytest.mark.parametrize("seed", range(4))
def test_live_and_down_in_turns(tree, seed):
    """QEMU stores bitmaps when it ends and loads them when it starts; merges come in between."""
    tree = tree(seed=seed)
    grow(tree, down=seed % 2 == 0)
    for name in tree.random.sample(["s1", "s2", "s3"], 3):
        if tree.running():
            tree.down()
        else:
            tree.up()
        delete(name)(tree)
    tree.check()
    tree.check_recordings(kept=KEPT)


@pytest.mark.parametrize("little", [True, False], ids=["streamed into each", "kept until one is left"])
def test_several_children(tree, little):
    """A snapshot on which two branches stand goes."""
    tree = tree()
    tree.down()
    tree.begin("early")
    tree.scatter()
    if not little:
        tree.write(0x10, 30 * MIB, 24 * MIB)
    tree.snapshot("s1")
    tree.scatter()
    tree.snapshot("s2")
    tree.scatter()
    # What is active now began at s1.
    tree.overlay(backing=tree.volume_of("s1"))
    tree.recordings = {name: recording.copy() for name, recording in tree.recordings_of["s1"].items()}
    tree.begin("branch")
    tree.scatter()
    (leaf,) = [path for path, p in tree.client.of_kind("volume").items() if p["Backing"] == tree.volume_of("s2")]
    tree.client.finish(tree.client.call(leaf, "Volume", "Delete", "a{sv}", {}))
    delete("s1")(tree)
    assert len(tree.client.of_kind("volume")) == (2 if little else 3)
    tree.check_recordings(kept={"early", "branch"})
    delete("s2")(tree)
    tree.check()
    tree.check_recordings(kept={"early", "branch"})
    assert len(images.chain(tree.path())) == 1


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
@pytest.mark.parametrize("direction", ["commit", "stream"])
def test_layers_of_different_sizes(tree, direction, down):
    """The disk has grown since the snapshot: bitmaps of two sizes cannot be united by QEMU, those of the lower volume must
    grow with it, or the recording goes: it never says less than was written."""
    tree = tree()
    if down:
        tree.down()
    tree.begin("early")
    tree.scatter()
    below = tree.client.get(tree.disks[0], "Disk", "Active")
    tree.overlay()
    tree.scatter()
    tree.client.finish(resize(tree.client, tree.disks[0], 96 * MIB))
    tree.write(0x55, 80 * MIB, MIB)
    tree.begin("grown")
    tree.write(0x56, 90 * MIB, MIB)
    before = tree.content()
    options = variants({"direction": direction})
    tree.client.finish(tree.client.call(below, "Volume", "Merge", "a{sv}", options))
    assert tree.content() == before
    tree.write(0x57, 70 * MIB, MIB)
    tree.check()
    tree.check_recordings(kept={"early", "grown"} if direction == "commit" else {"grown"})


@pytest.fixture(params=["live", "down"])
def over_raw(request, tree):
    """A raw base and two layers above it, with a recording that began in the lower one."""
    tree = tree(base_format="raw")
    tree.write(0x10, 20 * MIB, 20 * MIB)
    tree.snapshot("s1")
    tree.begin("above")
    tree.scatter()
    if request.param == "down":
        tree.down()
    return tree


def test_a_raw_base_holds_none(over_raw):
    """So what would lose a recording is copied up, whatever it costs."""
    delete("s1")(over_raw)
    over_raw.check()
    over_raw.check_recordings(kept={"above"})


def test_a_recording_that_goes_on_above_a_raw_base(client, directory, qemus):
    """It is not cut off from its beginning: a layer in between is not written down into the raw one."""
    tree = RecordedTree(client, directory, qemus, base_format="raw")
    base = client.get(tree.disks[0], "Disk", "Active")
    tree.overlay()
    tree.begin("above")
    tree.scatter()
    middle = client.get(tree.disks[0], "Disk", "Active")
    tree.overlay()
    tree.scatter()
    before = tree.content()
    error, message = client.failure(client.call(base, "Volume", "Merge", "a{sv}", variants({"direction": "commit"})))
    assert error == "Unsupported" and "'above'" in message and "'stream'" in message
    assert tree.content() == before and client.get(base, "Volume", "State") == "ok"
    client.finish(client.call(middle, "Volume", "Merge", "a{sv}", variants({"direction": "commit"})))
    tree.check_recordings(kept={"above"})
    # From the active layer it may go: then there is none, and nothing that looks like one.
    client.finish(client.call(base, "Volume", "Merge", "a{sv}", variants({"direction": "commit"})))
    assert tree.content() == before and tree.path().endswith(".raw")
    tree.check()
    tree.overlay()
    tree.check_recordings()
    assert tree.coverage.dropped == 1
