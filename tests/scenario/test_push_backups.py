# SPDX-License-Identifier: MIT
"""Backups in push mode: QEMU writes files that show the moment that was held, as they lie; with progress, a limit of speed, and
a cancel that leaves nothing; and no file has its name before all are complete."""
import os
import random

import pytest

from harness import backups, images
from harness.client import DBusError, Variant
from harness.tree import MIB, Tree

SIZE = 64 * MIB


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, count=2, size=SIZE)
    yield tree
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []
    assert client.of_kind("backup") == {}


@pytest.fixture
def target(directory):
    path = f"{directory}/backups"
    os.mkdir(path)
    yield path
    assert [name for name in os.listdir(path) if name.endswith(".part")] == []


def content(tree):
    return [value for key, value in sorted(tree.content().items()) if key[0] == "active"]


def scatter(tree, seed, writes=24):
    chance = random.Random(seed)
    for _ in range(writes):
        tree.qemu.write(f"dev{chance.randrange(2)}", chance.randrange(1, 255), chance.randrange(SIZE // 4096 - 8) * 4096,
                        chance.choice([4096, 32768]))


def push(tree, target, **options):
    """The files, in the order of the targets."""
    return sorted(tree.client.finish(backups.begin(tree.client, tree.vm, mode="push", target=target, **options))["files"])


def digests(files):
    for path in files:
        images.check(path)
    return [images.digest(path) for path in files]


@pytest.mark.parametrize("compress", [False, True])
def test_a_chain_of_increments(tree, target, compress, capsys):
    tree.snapshot("s1")
    scatter(tree, 1, writes=60)
    held = {"c0": content(tree)}
    files = {"c0": push(tree, target, checkpoint="c0", compress=compress)}
    assert files["c0"] == [f"{target}/web-serial0.c0.qcow2", f"{target}/web-serial1.c0.qcow2"]
    for number in range(1, 4):
        scatter(tree, 10 + number, writes=12)
        tree.qemu.io("dev0", f"write -z {number * 8 * MIB} {MIB}")
        held[f"c{number}"] = content(tree)
        files[f"c{number}"] = push(tree, target, kind="incremental", checkpoint=f"c{number}", compress=compress)
    scatter(tree, 20)
    held["now"] = content(tree)
    files["now"] = push(tree, target, kind="differential", since="c1")
    for name in held:
        assert digests(files[name]) == held[name], name
    assert images.chain(files["c3"][0]) == [f"{target}/web-serial0.c{n}.qcow2" for n in (3, 2, 1, 0)]
    assert images.chain(files["now"][0])[1:] == [f"{target}/web-serial0.c{n}.qcow2" for n in (1, 0)]
    assert backups.checkpoints(tree.client, tree.vm) == {f"c{n}": "ok" for n in range(4)}
    sizes = {name: sum(os.stat(path).st_blocks * 512 for path in files[name]) >> 10 for name in files}
    with capsys.disabled():
        print(f"\n  KiB of files: {sizes}")
    assert sizes["c1"] < 4096


def test_while_the_guest_writes(tree, target):
    """At half a MiB a second; what is written meanwhile is not in it."""
    scatter(tree, 3, writes=100)
    held = content(tree)
    job = backups.begin(tree.client, tree.vm, mode="push", target=target, checkpoint="c0", speed=4 * MIB)
    tree.client.wait_property(job, "Job", "Step", "copy")
    [backup] = tree.client.of_kind("backup").values()
    assert (backup["Mode"], backup["State"]) == ("push", "running") and backup["Exports"] == []
    for number in range(64):
        tree.qemu.write("dev0", 7, number * MIB, 65536)
        tree.qemu.write("dev1", 8, number * MIB, 65536)
    assert [name for name in os.listdir(target) if name.endswith(".qcow2")] == []
    assert tree.client.get(job, "Job", "State") == "running"
    tree.client.call(job, "Job", "SetSpeed", "t", 0)
    assert digests(sorted(tree.client.finish(job)["files"])) == held
    assert tree.client.get(job, "Job", "DoneBytes") > 0


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_while_the_guest_writes_zeroes(tree, target, kind):
    """Of which QEMU 7.2 says that they were there before."""
    push(tree, target, checkpoint="c0")
    tree.write(0x5a, 16 * MIB, 16 * MIB)
    held = content(tree)
    job = backups.begin(tree.client, tree.vm, mode="push", target=target, checkpoint="c1", kind=kind, speed=4 * MIB)
    tree.client.wait_property(job, "Job", "Step", "copy")
    for number in range(16):
        for device in ("dev0", "dev1"):
            tree.qemu.io(device, f"write -z {'-u' if number % 2 else ''} {(16 + number) * MIB} {MIB // 2}")
    tree.client.call(job, "Job", "SetSpeed", "t", 0)
    assert digests(sorted(tree.client.finish(job)["files"])) == held


def test_cancelled(tree, target):
    tree.write(1, 0, SIZE)
    job = backups.begin(tree.client, tree.vm, mode="push", target=target, checkpoint="c0", speed=MIB)
    tree.client.wait_property(job, "Job", "Step", "copy")
    tree.client.call(job, "Job", "Cancel")
    assert tree.client.wait(job)[0] == "cancelled"
    assert os.listdir(target) == [] and backups.checkpoints(tree.client, tree.vm) == {}


def test_into_a_pool(tree, client, target):
    pool = client.create_pool("backups", target)
    scatter(tree, 4)
    held = content(tree)
    files = sorted(client.finish(backups.begin(client, tree.vm, mode="push", target_pool=Variant("o", pool)))["files"])
    assert digests(files) == held and all(os.path.dirname(path) == target for path in files)


def test_the_file_below_is_not_there(tree, target):
    push(tree, target, checkpoint="c0")
    os.unlink(f"{target}/web-serial1.c0.qcow2")
    with pytest.raises(DBusError, match="web-serial1.c0.qcow2"):
        backups.begin(tree.client, tree.vm, mode="push", target=target, kind="incremental", require_incremental=True)
    held = content(tree)
    files = push(tree, target, kind="incremental", checkpoint="c1")
    assert digests(files) == held
    assert [len(images.chain(path)) for path in files] == [2, 1]


def test_another_checkpoint_of_that_name(tree, target, directory):
    """Two directories in turns, and a name that is used again: what lies in the first is not what the increment begins with."""
    other = f"{directory}/other"
    os.mkdir(other)
    push(tree, target, checkpoint="sunday")
    backups.delete_checkpoint(tree.client, tree.vm, "sunday")
    scatter(tree, 30)
    push(tree, other, checkpoint="sunday")
    scatter(tree, 31)
    held = content(tree)
    with pytest.raises(DBusError, match="another checkpoint that was called so"):
        backups.begin(tree.client, tree.vm, mode="push", target=target, kind="incremental", require_incremental=True)
    files = push(tree, target, kind="incremental", checkpoint="monday")
    assert digests(files) == held and [len(images.chain(path)) for path in files] == [1, 1]
    files = push(tree, other, kind="incremental", since="sunday")
    assert digests(files) == held and [len(images.chain(path)) for path in files] == [2, 2]


def test_what_is_left_when_the_files_are_complete(client, directory, qemus, daemon, target):
    """They are a backup, whatever becomes of the rest; and that goes with the disks, if not before."""
    tree = Tree(client, directory, qemus, count=2, size=SIZE)
    scatter(tree, 32)
    held = content(tree)
    daemon.at("start-backup.end", "error Timeout QEMU does not answer")
    error, message = client.failure(backups.begin(client, tree.vm, mode="push", target=target, checkpoint="c0"))
    assert error == "Timeout" and "its files are complete" in message
    assert digests(sorted(f"{target}/{name}" for name in os.listdir(target))) == held
    [(failed, properties)] = client.of_kind("backup").items()
    assert properties["State"] == "failed" and backups.leftovers(daemon.directory, tree.pools) != []
    tree.down()
    for disk in tree.disks:
        client.finish(client.call(disk, "Disk", "Delete", "a{sv}", {}))
    assert [name for name in os.listdir(tree.pool) if name != ".volchain"] == []
    backups.abort(client, failed)
    assert backups.leftovers(daemon.directory, tree.pools) == [] and client.of_kind("backup") == {}


def test_what_is_wrong(tree, target, directory):
    def refused(**options):
        with pytest.raises(DBusError) as failure:
            backups.begin(tree.client, tree.vm, **options)
        return failure.value.name.rsplit(".", 1)[1]
    assert refused(mode="push") == refused(mode="pull", target=target) == refused(speed=1) == "InvalidArgument"
    assert refused(mode="push", target="backups") == refused(mode="push", target=f"{directory}/none") == "InvalidArgument"
    assert refused(mode="sideways") == refused(mode="push", target=target, allow_uid=0) == "InvalidArgument"
    push(tree, target, checkpoint="c0")
    backups.delete_checkpoint(tree.client, tree.vm, "c0")
    assert refused(mode="push", target=target, checkpoint="c0") == "AlreadyExists"


def test_disks_of_iothreads(client, directory, qemus, daemon, target):
    """The NBD server of this QEMU would crash it; files can be written."""
    path = images.create(f"{directory}/root.qcow2", SIZE)
    images.write(path, 5, 0, MIB)
    held = images.digest(path)
    qemu = qemus("vm", [{"path": path, "device": {"iothread": "io0"}}], running=True, extra=["-object", "iothread,id=io0"])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    with pytest.raises(DBusError, match="iothread"):
        backups.begin(client, vm)
    files = client.finish(backups.begin(client, vm, mode="push", target=target, checkpoint="c0"))["files"]
    assert digests(files) == [held]
    qemu.write("dev0", 6, MIB, MIB)
    files = client.finish(backups.begin(client, vm, mode="push", target=target, kind="incremental"))["files"]
    qemu.quit()
    assert digests(files) == [images.digest(path)]


def test_a_full_scratch_fails_it(client, directory, qemus, daemon, target, small_filesystem):
    pool = small_filesystem(220)
    tree = Tree(client, directory, qemus, size=SIZE, pools=[pool])
    tree.write(1, 0, SIZE)
    job = backups.begin(client, tree.vm, mode="push", target=target, checkpoint="c0", speed=8 * MIB)
    client.wait_property(job, "Job", "Step", "copy")
    room = os.statvfs(pool)
    with open(f"{pool}/filler", "wb") as f:
        f.write(bytes(max(0, room.f_bavail * room.f_frsize - 8 * MIB)))
    for number in range(24):
        tree.qemu.write("dev0", 2, (SIZE // MIB - 1 - number) * MIB, MIB)
    error, message = client.failure(job)
    assert error == "QemuFailed" and "not held any more" in message
    assert os.listdir(target) == [] and backups.checkpoints(client, tree.vm) == {}
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []
    os.unlink(f"{pool}/filler")


def test_no_room_for_the_files(client, directory, qemus, daemon, small_filesystem):
    """It waits for room, and goes on."""
    target = small_filesystem(8)
    tree = Tree(client, directory, qemus, size=SIZE)
    tree.write(1, 0, 24 * MIB)
    held = content(tree)
    job = backups.begin(client, tree.vm, mode="push", target=target)
    client.wait_property(job, "Job", "State", "paused")
    images.run("mount", "-o", "remount,size=100M", target)
    assert digests(client.finish(job)["files"]) == held
