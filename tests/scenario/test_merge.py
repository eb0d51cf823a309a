# SPDX-License-Identifier: MIT
"""Volumes and snapshots that go, live and down, in every place of a tree: what stays shows what it showed before, and
nothing else is left."""
import pytest

from harness import images
from harness.client import DBusError, variants
from harness.tree import Tree

MIB = 1 << 20


@pytest.fixture
def tree(client, directory, qemus):
    def make(*args, **options):
        return Tree(client, directory, qemus, *args, **options)
    return make


@pytest.fixture(params=["live", "down"])
def grown(request, tree):
    """Three snapshots, two disks; running or not."""
    tree = tree(2)
    for name in ("s1", "s2", "s3"):
        tree.snapshot(name)
    if request.param == "down":
        tree.down()
    return tree


@pytest.mark.parametrize("name", ["s1", "s2", "s3"])
def test_a_snapshot_goes(client, grown, name):
    before = grown.content()
    client.finish(grown.delete(name))
    grown.forget(name)
    assert grown.content() == {key: value for key, value in before.items() if key[0] != name}
    grown.check()
    assert len(images.chain(grown.path())) == 3
    assert all(len(client.get(disk, "Disk", "Volumes")) == 3 for disk in grown.disks)


def test_the_tree_is_right_afterwards(client, grown):
    client.finish(grown.delete("s2"))
    s1, s3 = grown.snapshots["s1"], grown.snapshots["s3"]
    assert client.get(s3, "Snapshot", "Parent") == s1 and client.get(s1, "Snapshot", "Children") == [s3]
    client.finish(grown.delete("s3"))
    assert client.get(grown.vm, "VM", "CurrentSnapshot") == s1 and client.get(s1, "Snapshot", "Current")
    client.finish(grown.delete("s1"))
    assert client.get(grown.vm, "VM", "CurrentSnapshot") == "/" and client.get(grown.vm, "VM", "Snapshots") == []
    grown.forget("s1", "s2", "s3")
    grown.check()
    assert len(images.chain(grown.path())) == 1


def test_all_go_at_once(client, grown):
    before = grown.content()
    client.finish(grown.delete("s1", children=True))
    grown.forget("s1", "s2", "s3")
    assert grown.content() == {key: value for key, value in before.items() if key[0] == "active"}
    grown.check()
    assert client.of_kind("snapshot") == {} and len(images.chain(grown.path())) == 1


def test_the_cheaper_direction(client, tree):
    """The smaller layer is copied: down where the upper one is small, up where the lower one is."""
    tree = tree()
    tree.snapshot("s1", mib=16)
    tree.snapshot("s2", mib=1)
    small_above = tree.volume_of("s2")
    client.finish(tree.delete("s2"))
    tree.forget("s2")
    assert client.get(tree.disks[0], "Disk", "Active") == small_above
    tree.snapshot("s3", mib=16)
    tree.snapshot("s4", mib=1)
    tree.check()


def test_a_range_is_committed(client, grown):
    active = [client.get(disk, "Disk", "Active") for disk in grown.disks]
    base = grown.volume_of("s2")
    with pytest.raises(DBusError) as refused:
        client.call(active[0], "Volume", "Commit", "oa{sv}", base, {})
    assert refused.value.short == "InUse" and "s" in refused.value.message
    with pytest.raises(DBusError) as refused:
        client.call(base, "Volume", "Commit", "oa{sv}", active[0], {})
    assert refused.value.short == "InvalidArgument"


def test_overlays_are_committed_and_merged(client, tree):
    tree = tree()
    base = client.get(tree.disks[0], "Disk", "Active")
    for number in range(4):
        client.finish(client.call(tree.disks[0], "Disk", "CreateOverlay", "a{sv}", {}))
        tree.write(0x20 + number, (8 + number) * MIB, MIB)
    before = tree.content()
    active = client.get(tree.disks[0], "Disk", "Active")
    middle = client.get(active, "Volume", "Backing")
    result = client.finish(client.call(middle, "Volume", "Commit", "oa{sv}", base, {}))
    assert result == {"volume": base} and len(images.chain(tree.path())) == 2
    assert tree.content() == before
    tree.check()
    client.finish(client.call(active, "Volume", "Commit", "oa{sv}", base, {}))
    assert tree.path() == tree.paths[0] and tree.content() == before
    tree.check()


@pytest.mark.parametrize("direction", ["commit", "stream"])
def test_a_volume_is_merged_as_asked(client, tree, direction):
    tree = tree()
    base = client.get(tree.disks[0], "Disk", "Active")
    client.finish(client.call(tree.disks[0], "Disk", "CreateOverlay", "a{sv}", {}))
    overlay = client.get(tree.disks[0], "Disk", "Active")
    tree.write(0x33, 9 * MIB, MIB)
    before = tree.content()
    client.finish(client.call(base, "Volume", "Merge", "a{sv}", variants({"direction": direction})))
    assert client.get(tree.disks[0], "Disk", "Active") == (base if direction == "commit" else overlay)
    assert tree.content() == before
    tree.check()


def test_a_disk_is_flattened(client, grown):
    before = grown.content()
    active = client.get(grown.disks[0], "Disk", "Active")
    assert client.finish(client.call(grown.disks[0], "Disk", "Flatten", "a{sv}", {})) == {"volume": active}
    assert images.chain(grown.path(0)) == [grown.path(0)] and len(images.chain(grown.path(1))) == 4
    assert grown.content() == before  # the snapshots are all there
    grown.check()
    client.finish(grown.delete("s1", children=True))
    grown.forget("s1", "s2", "s3")
    grown.check()
    assert len(client.get(grown.disks[0], "Disk", "Volumes")) == 1


def test_branches(client, tree):
    """A snapshot with several children, at the root and in the middle; leaves that nobody needs go."""
    tree = tree()
    tree.write(0x10, 30 * MIB, 24 * MIB)
    tree.snapshot("s1")
    tree.snapshot("s2")
    tree.down()
    disk = tree.disks[0]
    client.finish(client.call(disk, "Disk", "CreateOverlay", "a{sv}",
                              variants({"activate": True}) | {"backing": ("o", tree.volume_of("s1"))}))
    tree.layer += 1
    tree.write(tree.layer, 0, 2 * MIB)
    before = tree.content()
    old_leaf = [path for path, p in client.of_kind("volume").items() if p["Backing"] == tree.volume_of("s2")]
    client.finish(client.call(old_leaf[0], "Volume", "Delete", "a{sv}", {}))
    tree.up()
    assert tree.content() == before
    s1_volume = tree.volume_of("s1")
    client.finish(tree.delete("s1"))
    tree.forget("s1")
    # Its volume has much data and two children: it stays until one is left.
    assert client.get(s1_volume, "Volume", "State") == "ok"
    assert tree.content() == {key: value for key, value in before.items() if key[0] != "s1"}
    tree.check()
    client.finish(tree.delete("s2"))
    tree.forget("s2")
    assert tree.content() == {("active", 0): before["active", 0]}
    tree.check()
    assert len(images.chain(tree.path())) == 1


def test_what_is_named_stays(client, grown):
    active = client.get(grown.disks[0], "Disk", "Active")
    for volume, method, signature in ((grown.volume_of("s1"), "Merge", "a{sv}"), (grown.volume_of("s1"), "Delete", "a{sv}"),
                                      (active, "Delete", "a{sv}"), (active, "Merge", "a{sv}")):
        with pytest.raises(DBusError) as refused:
            client.call(volume, "Volume", method, signature, {})
        assert refused.value.short == "InUse"
    grown.check()


def test_bitmaps_are_united(client, tree):
    """What was written since a bitmap began is in the survivor's, whichever way layers are merged."""
    tree = tree()
    tree.qemu.execute("block-dirty-bitmap-add", node="vol0", name="since", persistent=True, granularity=65536)
    tree.write(0x11, 20 * MIB, MIB)
    client.call(tree.vm, "VM", "Refresh")
    tree.snapshot("s1")
    tree.snapshot("s2")
    client.finish(tree.delete("s1"))
    client.finish(tree.delete("s2"))
    tree.forget("s1", "s2")
    tree.check()
    node = tree.qemu.top_node("dev0")
    bitmap = {b["name"]: b for b in node["dirty-bitmaps"]}["since"]
    # 1 MiB at 20, and for each of two layers 1 MiB at 0 (the same) and 1 MiB of its own.
    assert bitmap["recording"] and not bitmap.get("inconsistent") and bitmap["count"] >= 4 * MIB
    tree.down()
    assert images.bitmaps(tree.path())["since"]["flags"] == ["auto"]


def test_a_merge_is_paused_limited_and_cancelled(client, tree):
    tree = tree()
    tree.write(0x10, 30 * MIB, 24 * MIB)
    tree.snapshot("s1", mib=24)
    before = tree.content()
    active = client.get(tree.disks[0], "Disk", "Active")
    job = tree.delete("s1", speed=MIB)
    client.wait_property(job, "Job", "Step", "copy")
    assert client.get(job, "Job", "SpeedBytes") == MIB
    client.call(job, "Job", "Pause")
    client.wait_property(job, "Job", "State", "paused")
    client.call(job, "Job", "Resume")
    client.wait_property(job, "Job", "State", "running")
    client.call(job, "Job", "Cancel")
    error, message = client.failure(job)
    assert error == "Cancelled"
    assert client.get(tree.disks[0], "Disk", "Active") == active
    assert tree.content()["active", 0] == before["active", 0]
    client.finish(tree.delete("s1"))
    tree.forget("s1")
    assert tree.content() == {("active", 0): before["active", 0]}
    tree.check()
