# SPDX-License-Identifier: MIT
"""A disk goes to another pool: what it and its snapshots show stays the same, the guest does not notice, its bitmaps go on,
nothing of it is left in the old place, and what is broken off leaves nothing in the new one."""
import json
import os
import subprocess

import pytest

from harness import images
from harness.client import variants
from harness.disks import refused
from harness.tree import Tree

MIB = 1 << 20


@pytest.fixture
def other(client, directory):
    os.mkdir(f"{directory}/other")
    return client.create_pool("other", f"{directory}/other")


@pytest.fixture
def tree(client, directory, qemus):
    def make(*args, **options):
        return Tree(client, directory, qemus, *args, **options)
    return make


@pytest.fixture(params=["live", "down"])
def grown(request, tree):
    tree = tree(2)
    for name in ("s1", "s2", "s3"):
        tree.snapshot(name)
    if request.param == "down":
        tree.down()
    return tree


def move(client, disk, pool, **options):
    return client.call(disk, "Disk", "Move", "oa{sv}", pool, variants(options))


def files_of(client, disk):
    return sorted(p["Path"] for p in client.of_kind("volume").values() if p["Disk"] == disk)


def check_alive(tree):
    """The guest goes on, on the new files, and further operations work."""
    if tree.qemu.process.poll() is None:
        nodes = tree.qemu.nodes().values()
        known = {path for number in range(len(tree.disks)) for path in images.chain(tree.path(number))}
        assert {tree.qemu.file_of(node) for node in nodes} == known
        assert tree.qemu.execute("query-jobs") == []
    tree.snapshot("later")
    before = tree.content()
    tree.client.finish(tree.delete("s2"))
    tree.forget("s2")
    assert tree.content() == {key: value for key, value in before.items() if key[0] != "s2"}


def test_the_whole_disk(client, grown, other, directory):
    before = grown.content()
    result = client.finish(move(client, grown.disks[0], other))
    assert result == {"volumes": 4}
    assert grown.content() == before
    assert all(path.startswith(f"{directory}/other/") for path in files_of(client, grown.disks[0]))
    assert sorted(images.image_files(f"{directory}/other")) == \
        [os.path.basename(path) for path in files_of(client, grown.disks[0])]
    assert sorted(images.image_files(grown.pool)) == [os.path.basename(p) for p in files_of(client, grown.disks[1])]
    assert client.get(grown.disks[0], "Disk", "State") == "ok" and client.get(grown.disks[0], "Disk", "Pool") == other
    for path in files_of(client, grown.disks[0]):
        images.check(path)
    assert images.chain(grown.path()) == [f"{directory}/other/{os.path.basename(p)}" for p in images.chain(grown.path())]
    grown.write(0x99, 0, MIB)
    check_alive(grown)


def test_collapsed(client, grown, other, directory):
    before = grown.content()
    snapshots = {name: grown.volume_of(name) for name in grown.snapshots}
    assert client.finish(move(client, grown.disks[0], other, collapse=True)) == {"volumes": 1}
    assert grown.content() == before
    assert len(images.chain(grown.path())) == 1 and grown.path().startswith(f"{directory}/other/")
    assert {name: grown.volume_of(name) for name in grown.snapshots} == snapshots
    images.check(grown.path())
    if grown.qemu.process.poll() is None:
        assert grown.qemu.active_file("dev0") == grown.path()
    # What is allocated is what is shown, no more.
    assert os.stat(grown.path()).st_blocks * 512 < 16 * MIB
    grown.write(0x99, 0, MIB)
    assert {k: v for k, v in grown.content().items() if k[0] != "active"} == \
        {k: v for k, v in before.items() if k[0] != "active"}


def test_collapsed_without_snapshots(client, tree, other):
    """What nobody needs goes."""
    tree = tree()
    client.finish(client.call(tree.disks[0], "Disk", "CreateOverlay", "a{sv}", {}))
    tree.write(0x21, MIB, MIB)
    before = tree.content()
    client.finish(move(client, tree.disks[0], other, collapse=True))
    assert tree.content() == before and images.image_files(tree.pool) == []
    assert len(files_of(client, tree.disks[0])) == 1


@pytest.mark.parametrize("live", [True, False], ids=["live", "down"])
def test_a_raw_disk(client, tree, other, live):
    tree = tree(base_format="raw")
    tree.write(0x21, 8 * MIB, MIB)
    if not live:
        tree.down()
    before = tree.content()
    client.finish(move(client, tree.disks[0], other))
    assert tree.content() == before and client.get(tree.disks[0], "Disk", "Pool") == other
    tree.snapshot("s1")
    assert tree.content()["s1", 0] == before["active", 0]


def test_branches_go_along(client, tree, other, directory):
    tree = tree()
    tree.snapshot("s1")
    tree.snapshot("s2")
    tree.down()
    client.finish(client.call(tree.snapshots["s1"], "Snapshot", "Revert", "a{sv}", variants({"keep-branch": True})))
    tree.write(0x55, 3 * MIB, MIB)
    before = tree.content()
    client.finish(move(client, tree.disks[0], other))
    assert tree.content() == before and images.image_files(tree.pool) == []
    tree.up()
    tree.write(0x56, 4 * MIB, MIB)
    client.finish(move(client, tree.disks[0], next(path for path in client.of_kind("pool") if path != other)))
    assert images.image_files(f"{directory}/other") == []
    after = tree.content()
    assert {k: v for k, v in after.items() if k[0] != "active"} == {k: v for k, v in before.items() if k[0] != "active"}


@pytest.mark.parametrize("live", [True, False], ids=["live", "down"])
def test_bitmaps_go_on(client, tree, other, live):
    """What was recorded before, while and after the disk moved is marked; little else is."""
    tree = tree()
    tree.write(0x11, 32 * MIB, 8 * MIB)
    node = tree.qemu.top_node("dev0")["node-name"]
    tree.qemu.execute("block-dirty-bitmap-add", node=node, name="monday", persistent=True, granularity=65536)
    tree.write(0x12, 0, MIB)
    tree.snapshot("s1")
    if not live:
        tree.down()
    client.finish(move(client, tree.disks[0], other))
    if live:
        tree.write(0x13, 20 * MIB, MIB)
        tree.qemu.quit()
        client.call(tree.vm, "VM", "Refresh")
    marked = [dirty_bytes(path, "monday") for path in images.chain(tree.path())]
    # The layer above s1: what the tree wrote after it, and the last write.
    assert marked == [(3 if live else 2) * MIB, MIB]


def dirty_bytes(path, name):
    """Bytes that a bitmap marks, as NBD shows it."""
    address = f"{path}.sock"
    images.run("qemu-nbd", "-r", "-k", address, "-B", name, "-f", "qcow2", path, "--fork")
    # The server ends with its only client.
    options = f"driver=nbd,server.type=unix,server.path={address},x-dirty-bitmap=qemu:dirty-bitmap:{name}"
    extents = json.loads(images.run("qemu-img", "map", "--output=json", "--image-opts", options))
    return sum(extent["length"] for extent in extents if not extent["data"])


def test_refusals(client, tree, other):
    tree = tree()
    tree.snapshot("s1")
    own = next(path for path in client.of_kind("pool") if path != other)
    error, message = refused(lambda: move(client, tree.disks[0], own))
    assert error == "InvalidArgument" and "already" in message
    client.finish(client.call(tree.snapshots["s1"], "Snapshot", "Clone", "sa{sv}", "thin", variants({"thin": True})))
    error, message = refused(lambda: move(client, tree.disks[0], other))
    assert error == "InUse" and "thin" in message and "collapse" in message, message


@pytest.mark.parametrize("live", [True, False], ids=["live", "down"])
def test_what_is_in_the_new_place_already_is_left_alone(client, tree, other, directory, live):
    """An image that was kept for people to look at has just this name."""
    tree = tree()
    tree.snapshot("s1")
    if not live:
        tree.down()
    before, name = tree.content(), os.path.basename(tree.path())
    kept = images.create(f"{directory}/other/{name}", "1M")
    images.write(kept, 0x5c, 0, MIB)
    content = images.digest(kept)
    error, message = client.failure(move(client, tree.disks[0], other))
    assert error == "AlreadyExists" and kept in message, message
    assert images.image_files(f"{directory}/other") == [name] and images.digest(kept) == content
    assert tree.content() == before
    tree.check()


@pytest.mark.parametrize("live", [True, False], ids=["live", "down"])
def test_the_base_is_there_already(client, directory, qemus, live):
    """A chain that lies in two pools comes together in one."""
    for name in ("base", "top"):
        os.mkdir(f"{directory}/{name}")
    base = images.create(f"{directory}/base/base.qcow2", "16M")
    images.write(base, 1, 0, MIB)
    top = images.create(f"{directory}/top/top.qcow2", None, backing=base)
    images.write(top, 2, MIB, MIB)
    before = images.digest(top)
    qemu = qemus("vm", [top])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    [disk] = client.get(vm, "VM", "Disks")
    if not live:
        qemu.quit()
        client.call(vm, "VM", "Refresh")
    there = next(path for path, p in client.of_kind("pool").items() if p["Path"] == f"{directory}/base")
    assert client.finish(move(client, disk, there)) == {"volumes": 1}
    path = client.get(disk, "Disk", "ActivePath")
    assert images.chain(path) == [path, base] and os.path.dirname(path) == f"{directory}/base"
    assert images.digest(path) == before and images.image_files(f"{directory}/top") == []
    if live:
        assert qemu.active_file("dev0") == path


def test_cancel_leaves_it_where_it_is(client, grown, other, directory):
    before, files = grown.content(), images.image_files(grown.pool)
    job = move(client, grown.disks[0], other, speed=MIB)
    with client.signals(path=job, member="PropertiesChanged") as changes:
        changes.until(lambda path, member, body: body[1].get("DoneBytes", (0, 0))[1] > 0)
    client.call(job, "Job", "Cancel")
    assert client.wait(job)[0] == "cancelled"
    assert images.image_files(f"{directory}/other") == [] and images.image_files(grown.pool) == files
    assert grown.content() == before
    grown.check()
    client.finish(move(client, grown.disks[0], other))
    assert grown.content() == before


def test_no_room(client, grown, directory):
    path = f"{directory}/small"
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M,mode=755", "tmpfs", path], check=True, timeout=20)
    try:
        small = client.create_pool("small", path)
        before = grown.content()
        name, message = client.failure(move(client, grown.disks[0], small))
        assert name == "NoSpace" and "nothing was changed" in message, message
        assert images.image_files(path) == [] and grown.content() == before
        grown.check()
    finally:
        subprocess.run(["umount", "-l", path], check=True, timeout=20)


def test_while_the_vm_is_down_it_cannot_be_started_on_the_old_files(client, tree, other):
    """QEMU's own locks keep it from that."""
    tree = tree()
    tree.write(0x21, 0, 16 * MIB)
    tree.down()
    job = move(client, tree.disks[0], other, speed=4 * MIB)
    with client.signals(path=job, member="PropertiesChanged") as changes:
        changes.until(lambda path, member, body: body[1].get("DoneBytes", (0, 0))[1] > 0)
    result = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", tree.paths[0]], capture_output=True, text=True,
                            check=False, timeout=30)
    assert result.returncode != 0 and "lock" in result.stderr
    client.call(job, "Job", "SetSpeed", "t", 0)
    client.finish(job)


def test_a_floating_disk(client, imported, other, directory):
    disk, paths = imported("data", layers=3, bitmaps=("one",))
    before = images.digest(paths[-1])
    client.finish(move(client, disk, other))
    path = client.get(disk, "Disk", "ActivePath")
    assert path.startswith(f"{directory}/other/") and images.digest(path) == before
    assert len(images.chain(path)) == 3 and set(images.bitmaps(path)) == {"one"}
    assert not any(os.path.exists(p) for p in paths)
