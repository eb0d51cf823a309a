# SPDX-License-Identifier: MIT
"""Backups among bitmaps that are not as volchain makes them: another program's, ones that are missing in a layer, and ones of
which the image says what is not so. What cannot be known is backed up in full, with the reason; nobody else's is touched; and
nothing that an image says brings the daemon down."""
import os

import pytest

from harness import backups, images
from harness.client import DBusError, variants
from harness.damage import LIES, findings, lie_about_bitmaps
from harness.recordings import RecordedTree, recorded, units_of
from harness.tree import MIB, Tree

SIZE = 32 * MIB
# Of libvirt, of virtnbdbackup, of people; some look like ours, some like what we make for a while.
FOREIGN = ["virtnbdbackup.0", "backup-vda", "monday", "vc.monday", "vc.17.monday", "vc-1700000000000000-monday", "since-c0",
           "since-monday", ".", "vc.1700000000000000", "vc.1700000000000000.", "vc.1700000000000000.../../c0", "vc.1700000000000000.a\nb"]


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, count=2, size=SIZE)
    yield tree
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []
    assert client.of_kind("backup") == {}


def content(tree):
    return [value for key, value in sorted(tree.content().items()) if key[0] == "active"]


def backed_up(tree, copies, **options):
    """Makes one, and takes what it shows, which has to be right; {disk number: "full" or "incremental"}, and the reasons."""
    held = content(tree)
    backup = backups.start(tree.client, tree.vm, **options)
    tree.write(0xee, 9 * MIB, MIB)
    shown = backups.shown(tree.client, backup)
    assert [copy.take(*shown[disk]) for disk, copy in zip(tree.disks, copies, strict=True)] == held
    kinds, reasons = (what(tree.client, backup) for what in (backups.kinds, backups.reasons))
    backups.finish(tree.client, backup)
    return [kinds[disk] for disk in tree.disks], [reasons[disk] for disk in tree.disks]


def in_image(path, name):
    """The one bitmap of the checkpoint of this name."""
    found, = [bitmap for bitmap in images.bitmaps(path) if bitmap.startswith("vc.") and bitmap.endswith(f".{name}")]
    return found


# --- one that is not there ---

@pytest.mark.parametrize("layer", [1, 2], ids=["in the middle", "at the top"])
def test_missing_in_a_layer(tree, layer):
    """Of one disk of two. What the lower layers know of it is worth nothing then."""
    copies = [backups.Copy() for _ in tree.disks]
    backed_up(tree, copies, checkpoint="c0")
    for name in ("s1", "s2"):
        tree.snapshot(name)
    tree.down()
    chain = images.chain(tree.path(1))[::-1]
    assert len(chain) == 3
    name = in_image(chain[layer], "c0")
    images.run("qemu-img", "bitmap", "--remove", chain[layer], name)
    tree.client.call(tree.vm, "VM", "Refresh")
    # Down as running.
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "partial"}
    tree.up()
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "partial"}
    [((_, disk), why)] = backups.problems(tree.client, tree.vm).items()
    expected = "a layer above has none" if layer == 1 else "has no such bitmap"
    assert disk == tree.disks[1] and expected in why
    with pytest.raises(DBusError, match=expected):
        backups.begin(tree.client, tree.vm, kind="incremental", require_incremental=True)
    kinds, reasons = backed_up(tree, copies, kind="incremental", checkpoint="c1")
    assert kinds == ["incremental", "full"] and reasons[0] == "" and expected in reasons[1]
    # What is missing stays missing, and what is new is whole.
    tree.write(0x44, 5 * MIB, MIB)
    assert backed_up(tree, copies, kind="incremental")[0] == ["incremental"] * 2
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "partial", "c1": "ok"}
    # Merged, it is no better: of what was written to that layer nobody knows.
    for snapshot in ("s1", "s2"):
        tree.client.finish(tree.delete(snapshot))
        tree.forget(snapshot)
        assert backups.checkpoints(tree.client, tree.vm) == {"c0": "partial", "c1": "ok"}
    assert backed_up(tree, copies, kind="differential", since="c0")[0] == ["incremental", "full"]
    backups.delete_checkpoint(tree.client, tree.vm, "c0")
    assert backups.checkpoints(tree.client, tree.vm) == {"c1": "ok"}
    tree.down()
    tree.check()


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
@pytest.mark.parametrize("direction", ["commit", "stream"])
@pytest.mark.parametrize("lower", [True, False], ids=["with the layer below", "with the layer above"])
def test_a_hole_is_not_merged_away(client, directory, qemus, daemon, lower, direction, down):
    """The layer without a part of the recording becomes one with a layer that has one. What is left must not look whole: a
    backup would miss what was written to it."""
    tree = RecordedTree(client, directory, qemus)
    tree.down()
    name = backups.bitmap_name("monday")
    tree.begin(name)
    base = tree.client.get(tree.disks[0], "Disk", "Active")
    for _ in range(2):
        tree.scatter()
        tree.overlay()
    tree.scatter()
    middle = client.get(client.get(tree.disks[0], "Disk", "Active"), "Volume", "Backing")
    client.call(tree.vm, "VM", "Refresh")
    assert backups.checkpoints(client, tree.vm) == {"monday": "ok"}
    images.run("qemu-img", "bitmap", "--remove", client.get(middle, "Volume", "Path"), name)
    if not down:
        tree.up()
    client.call(tree.vm, "VM", "Refresh")
    assert backups.checkpoints(client, tree.vm) == {"monday": "unusable"}
    before = content(tree)
    job = client.call(base if lower else middle, "Volume", "Merge", "a{sv}", variants({"direction": direction}))
    client.finish(job)
    assert content(tree) == before
    client.call(tree.vm, "VM", "Refresh")
    assert backups.checkpoints(client, tree.vm).get("monday", "unusable") == "unusable"
    if not down:
        tree.down()
    assert backups.checkpoints(client, tree.vm).get("monday", "unusable") == "unusable"
    tree.check()


# --- one that is there already ---

def test_there_already(tree):
    """Of some disks of the VM only, or what is left of it in lower layers: the name is taken until it is deleted."""
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0", disks=[tree.disks[0]]))
    for disks in (None, [tree.disks[0]], [tree.disks[1]]):
        with pytest.raises(DBusError, match="delete it, or name another") as failure:
            backups.begin(tree.client, tree.vm, checkpoint="c0", disks=disks)
        assert failure.value.short == "AlreadyExists"
    assert tree.client.of_kind("backup") == {}
    backups.delete_checkpoint(tree.client, tree.vm, "c0")
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0"))
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "ok"}


# --- another program's ---

def foreign_in(path):
    return {name for name in images.bitmaps(path) if name in FOREIGN}


def test_nobody_else_s_is_touched(client, directory, qemus, daemon):
    """Through everything that a backup does, and what goes on between backups."""
    tree = Tree(client, directory, qemus, count=2, size=SIZE, bitmaps=FOREIGN)
    units = set()
    copies = [backups.Copy() for _ in tree.disks]
    assert backups.checkpoints(client, tree.vm) == {}
    assert backed_up(tree, copies, kind="incremental", checkpoint="c0") == (["full"] * 2, ["there is no checkpoint"] * 2)
    units |= set(units_of(9 * MIB, MIB))
    tree.snapshot("s1")
    units |= set(units_of(0, MIB)) | set(units_of(6 * MIB, MIB))  # what a snapshot of the tree writes to
    assert backed_up(tree, copies, kind="incremental", checkpoint="c1")[0] == ["incremental"] * 2
    backups.abort(client, backups.start(client, tree.vm, kind="differential", since="c0", checkpoint="c2"))
    os.mkdir(f"{directory}/backups")
    pushed = backups.begin(client, tree.vm, mode="push", target=f"{directory}/backups", checkpoint="c3")
    assert len(client.finish(pushed)["files"]) == 2
    daemon.stop()
    daemon.start()
    for name in FOREIGN:
        with pytest.raises(DBusError, match="has no checkpoint") as failure:
            client.call(tree.vm, "VM", "DeleteCheckpoint", "sa{sv}", name, {})
        assert failure.value.short == "NotFound"
        with pytest.raises(DBusError) as failure:
            backups.begin(client, tree.vm, kind="differential", since=name)
        assert failure.value.short == "NotFound"
    client.finish(tree.delete("s1"))
    tree.forget("s1")
    for name in ("c0", "c1", "c3"):
        assert backups.delete_checkpoint(client, tree.vm, name) == []
    assert backups.checkpoints(client, tree.vm) == {}
    tree.down()
    for number in range(2):
        path = tree.path(number)
        assert set(images.bitmaps(path)) == set(FOREIGN)
        for name in FOREIGN:
            marked, _ = recorded(path, name)
            assert units <= marked, name
    assert backups.leftovers(daemon.directory, tree.pools) == []
    tree.check()


# --- of which the image says what is not so ---

def lied_to(tree, lie):
    """The VM is down, and the directory of the bitmaps of its second disk lies."""
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0"))
    tree.write(0x55, 3 * MIB, MIB)
    tree.down()
    lie_about_bitmaps(tree.path(1), lie)


def why_not(tree, **options):
    """The error that a backup ends in, whether it begins or not."""
    try:
        return tree.client.failure(backups.begin(tree.client, tree.vm, **options))[0]
    except DBusError as error:
        return error.short


@pytest.mark.parametrize("lie", LIES)
def test_a_directory_that_lies(tree, daemon, lie, capsys):
    """Whether QEMU opens such an image or not: the daemon says what is wrong, and goes on; and a backup that is made is right."""
    lied_to(tree, lie)
    process = daemon.process.pid
    tree.client.call(tree.vm, "VM", "Refresh")
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "partial"}, "it is good in the first disk alone"
    assert any(f["severity"] != "info" for f in findings(tree.client, tree.disks[1])), "a check says nothing"
    try:
        tree.up()
        opened = True
    except RuntimeError:
        opened = False
    with capsys.disabled():
        print(f"\n  {lie}: QEMU {'opens it' if opened else 'does not open it'}")
    readable = tree.client.get(tree.client.get(tree.disks[1], "Disk", "Active"), "Volume", "State") == "ok"
    if opened and readable:
        kinds, _ = backed_up(tree, [backups.Copy(), backups.Copy()], checkpoint="c1")
        assert kinds == ["full"] * 2
    elif opened:
        assert why_not(tree, checkpoint="c1") in ("QemuFailed", "CorruptImage")
        assert why_not(tree, kind="incremental") in ("QemuFailed", "CorruptImage"), "QEMU says that nothing has changed"
        # The other disk has nothing to do with it.
        backups.finish(tree.client, backups.start(tree.client, tree.vm, disks=tree.disks[:1]))
    assert daemon.process.pid == process and daemon.process.poll() is None
    assert tree.client.get(tree.disks[0], "Disk", "State") == "ok"


@pytest.mark.parametrize("lie", LIES)
def test_a_foreign_image_that_lies(client, directory, pool, pool_directory, daemon, lie):
    """It is refused, or taken as it is; never half."""
    path = images.create(f"{pool_directory}/foreign.qcow2", SIZE)
    for name in ("vc.1700000000000000.monday", "theirs"):
        images.run("qemu-img", "bitmap", "--add", path, name)
    lie_about_bitmaps(path, lie)
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", "foreign.qcow2", variants({"name": "foreign"}))
    state, error, message, result = client.wait(job)
    if state == "succeeded":
        assert client.get(result["disk"], "Disk", "State") == "ok"
    else:
        assert error in ("CorruptImage", "Unsupported", "UnsafeImage") and "bitmap" in message, (error, message)
        assert client.of_kind("disk") == {}
    assert daemon.process.poll() is None
