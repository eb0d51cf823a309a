# SPDX-License-Identifier: MIT
"""Checkpoints are what is in the images: found there, judged disk by disk, deleted there, and told from the bitmaps of other
programs."""
import pytest

from harness import exports, images
from harness.backups import bitmap_name, checkpoints, delete_checkpoint, problems
from harness.client import DBusError
from harness.filesystems import Filler
from harness.tree import MIB, Tree

MONDAY, TUESDAY = bitmap_name("monday"), bitmap_name("tuesday", 1_700_000_100_000_000)


@pytest.fixture
def tree(client, directory, qemus):
    return Tree(client, directory, qemus, count=2)


def add(tree, bitmap, numbers=(0, 1)):
    for number in numbers:
        tree.qemu.execute("block-dirty-bitmap-add", node=tree.qemu.top_node(f"dev{number}")["node-name"], name=bitmap,
                          persistent=True)
    tree.client.call(tree.vm, "VM", "Refresh")


def in_images(tree, bitmap):
    """The images of the VM, which is down, that have a bitmap."""
    chains = [path for number in range(len(tree.disks)) for path in images.chain(tree.path(number))]
    return [path for path in chains if bitmap in images.bitmaps(path)]


def test_found_in_the_images(tree):
    assert checkpoints(tree.client, tree.vm) == {}
    add(tree, MONDAY)
    add(tree, TUESDAY)
    expected = [["monday", 1_700_000_000_000_000, "ok"], ["tuesday", 1_700_000_100_000_000, "ok"]]
    assert [list(row) for row in tree.client.get(tree.vm, "VM", "Checkpoints")] == expected
    assert tree.client.get(tree.vm, "VM", "CheckpointProblems") == []
    tree.down()
    assert [list(row) for row in tree.client.get(tree.vm, "VM", "Checkpoints")] == expected
    tree.up()
    assert [list(row) for row in tree.client.get(tree.vm, "VM", "Checkpoints")] == expected


def test_snapshots_carry_them_and_merges_unite_them(tree):
    add(tree, MONDAY)
    tree.snapshot("s1")
    assert checkpoints(tree.client, tree.vm) == {"monday": "ok"}
    add(tree, TUESDAY)
    tree.snapshot("s2")
    assert checkpoints(tree.client, tree.vm) == {"monday": "ok", "tuesday": "ok"}
    tree.client.finish(tree.delete("s1"))
    tree.forget("s1")
    assert checkpoints(tree.client, tree.vm) == {"monday": "ok", "tuesday": "ok"}
    tree.down()
    assert checkpoints(tree.client, tree.vm) == {"monday": "ok", "tuesday": "ok"}
    tree.check()


def test_disk_by_disk(tree):
    add(tree, MONDAY, numbers=[0])
    assert checkpoints(tree.client, tree.vm) == {"monday": "partial"}
    [((name, disk), why)] = problems(tree.client, tree.vm).items()
    assert (name, disk) == ("monday", tree.disks[1]) and "has no such bitmap" in why


def test_a_crash_of_qemu_makes_them_unusable(tree):
    add(tree, TUESDAY)
    # QEMU stores bitmaps when it closes an image; one that was never stored is not there after a crash.
    tree.down()
    tree.up()
    add(tree, MONDAY)
    tree.qemu.kill()
    tree.client.wait_property(tree.vm, "VM", "State", "crashed")
    tree.client.call(tree.vm, "VM", "Refresh")
    assert checkpoints(tree.client, tree.vm) == {"tuesday": "unusable"}
    assert all("when its QEMU crashed" in why for why in problems(tree.client, tree.vm).values())
    tree.up()
    assert checkpoints(tree.client, tree.vm) == {"tuesday": "unusable"}
    assert delete_checkpoint(tree.client, tree.vm, "tuesday") == []
    assert checkpoints(tree.client, tree.vm) == {}


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
def test_deleted(tree, down):
    add(tree, MONDAY)
    add(tree, TUESDAY)
    if down:
        tree.down()
    assert delete_checkpoint(tree.client, tree.vm, "monday") == []
    assert checkpoints(tree.client, tree.vm) == {"tuesday": "ok"}
    if not down:
        tree.down()
    assert in_images(tree, MONDAY) == [] and len(in_images(tree, TUESDAY)) == 2
    with pytest.raises(DBusError) as failure:
        tree.client.call(tree.vm, "VM", "DeleteCheckpoint", "sa{sv}", "monday", {})
    assert failure.value.name.endswith("NotFound") and "no checkpoint 'monday'" in str(failure.value)


def test_a_running_vm_keeps_what_it_stands_on(tree):
    add(tree, MONDAY)
    before = [tree.path(n) for n in range(2)]
    tree.snapshot("s1")
    assert sorted(delete_checkpoint(tree.client, tree.vm, "monday")) == sorted(before)
    assert checkpoints(tree.client, tree.vm) == {"monday": "unusable"}, "what is left of it"
    tree.down()
    assert in_images(tree, MONDAY) == sorted(before)
    assert delete_checkpoint(tree.client, tree.vm, "monday") == [] and in_images(tree, MONDAY) == []
    assert checkpoints(tree.client, tree.vm) == {}
    tree.check()


@pytest.mark.parametrize("name", ["monday", "vc.monday", "vc.17.monday", "vc-1700000000000000-monday", "vc.170000000000000x.monday"])
def test_another_program_s_bitmap_is_never_touched(tree, name):
    add(tree, name)
    assert checkpoints(tree.client, tree.vm) == {}
    for wanted in ("monday", name):
        with pytest.raises(DBusError) as failure:
            tree.client.call(tree.vm, "VM", "DeleteCheckpoint", "sa{sv}", wanted, {})
        assert failure.value.name.endswith("NotFound")
    add(tree, MONDAY)
    assert delete_checkpoint(tree.client, tree.vm, "monday") == []
    tree.down()
    assert len(in_images(tree, name)) == 2 and in_images(tree, MONDAY) == []


def test_two_that_are_called_the_same(tree):
    other = bitmap_name("monday", 1_700_000_200_000_000)
    add(tree, MONDAY, numbers=[0])
    add(tree, other, numbers=[1])
    assert [row[0] for row in tree.client.get(tree.vm, "VM", "Checkpoints")] == ["monday", "monday"]
    with pytest.raises(DBusError, match="of different times"):
        tree.client.call(tree.vm, "VM", "DeleteCheckpoint", "sa{sv}", "monday", {})
    assert delete_checkpoint(tree.client, tree.vm, other) == []
    assert checkpoints(tree.client, tree.vm) == {"monday": "partial"}


def test_exports_find_them_by_name(tree):
    add(tree, MONDAY)
    tree.write(0x33, 4 * MIB, MIB)
    tree.snapshot("s1")
    export = exports.make(tree.client, tree.snapshots["s1"], tree.disks[0], since="monday")
    assert tree.client.get(export, "Export", "Bitmap") == "qemu:dirty-bitmap:since-monday"
    dirty = [(at, length) for at, length, flags in
             exports.extents(exports.uri(tree.client, export), "qemu:dirty-bitmap:since-monday") if flags & 1]
    assert dirty == [(4 * MIB, MIB)]
    exports.stop(tree.client, export)


def test_no_room_for_that_of_a_snapshot(client, directory, qemus, small_filesystem):
    """Of a VM that is down: QEMU leaves a bitmap out then, and says nothing. There is no snapshot without its checkpoint."""
    pool = small_filesystem(32)
    tree = Tree(client, directory, qemus, size=16 * MIB, pools=[pool])
    tree.down()
    filler = Filler(pool, left=36 << 10)
    before = images.image_files(pool)
    error, message = client.failure(client.create_snapshot(tree.vm, "s1", checkpoint="c0", quiesce="off"))
    assert error == "NoSpace" and "the checkpoint could not be stored" in message
    assert images.image_files(pool) == before and client.of_kind("snapshot") == {}
    filler.gone()
    client.finish(client.create_snapshot(tree.vm, "s1", checkpoint="c0", quiesce="off"))
    assert checkpoints(client, tree.vm) == {"c0": "ok"}
    tree.check()
