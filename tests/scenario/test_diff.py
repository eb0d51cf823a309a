# SPDX-License-Identifier: MIT
"""Snapshot.Diff and DiffMap, held against the contents: every byte that differs is in an extent, and what nobody wrote to
is in none."""
import random

import pytest

from harness import images
from harness.client import DBusError
from harness.content import content
from harness.down_vm import DownVm
from harness.tree import Tree

MIB = 1 << 20
CLUSTER = 65536


def diff(client, snapshot, other="/"):
    """{disk: (where, size, other size, bytes, extents)}"""
    found = client.call(snapshot, "Snapshot", "Diff", "oa{sv}", other, {})
    assert len({disk for disk, *_ in found}) == len(found)
    return {disk: tuple(rest) for disk, *rest in found}


def diff_map(client, snapshot, other, disk):
    """All pages."""
    found, start = [], 0
    while True:
        page, after = client.call(snapshot, "Snapshot", "DiffMap", "oot", other, disk, start)
        for begin, length, kind in page:
            assert begin >= start and length > 0 and kind in ("data", "zero", "hole")
            start = begin + length
            found.append((begin, length, kind))
        if after == 0:
            return found
        assert after >= start
        start = after


def blocks_that_differ(one, two, block=512):
    size = max(len(one), len(two))
    one, two = one.ljust(size, b"\0"), two.ljust(size, b"\0")
    return {n for n in range(0, size, block) if one[n:n + block] != two[n:n + block]}


def state(client, snapshot, disk):
    """What a guest would read, or read at the snapshot."""
    volume = client.get(disk, "Disk", "Active") if snapshot == "/" else dict(client.get(snapshot, "Snapshot", "Disks"))[disk]
    return content(client.get(volume, "Volume", "Path"), client.get(volume, "Volume", "Format"))


def check(client, snapshot, other, disk):
    """The extents against the contents; the extents."""
    extents = diff_map(client, snapshot, other, disk)
    one, two = state(client, snapshot, disk), state(client, other, disk)
    covered = {n for begin, length, _ in extents for n in range(begin // 512 * 512, begin + length, 512)}
    missing = blocks_that_differ(one, two) - covered
    assert not missing, f"{sorted(missing)[:10]} differ and are in no extent of {extents[:10]}"
    for begin, length, kind in extents:
        if kind != "data":
            assert not any(two[begin:begin + length]), f"{begin}+{length} is not {kind}"
    where, size, other_size, total, count = diff(client, snapshot, other)[disk]
    assert (where, size, other_size) == ("both", len(one), len(two))
    assert (total, count) == (sum(length for _, length, _ in extents), len(extents))
    return extents


def both_ways(client, one, two, disk):
    forward = check(client, one, two, disk)
    backward = check(client, two, one, disk)
    spans = lambda extents: {n for b, l, _ in extents for n in range(b, b + l, 512)}  # noqa: E731
    assert spans(forward) == spans(backward)
    return forward


def write(vm, disk, pattern, offset, length):
    images.write(vm.active(disk), pattern, offset, length)


# --- along one line -----------------------------------------------------------------------------------------

def test_what_was_written_since(client, directory):
    vm = DownVm(client, directory, 1)
    (disk,) = vm.disks
    write(vm, disk, 1, 0, 4 * MIB)
    vm.take("one")
    write(vm, disk, 2, MIB, CLUSTER)
    vm.take("two")
    write(vm, disk, 3, 5 * MIB, 2 * CLUSTER)
    one, two = vm.snapshot("one"), vm.snapshot("two")
    assert both_ways(client, one, two, disk) == [(MIB, CLUSTER, "data")]
    assert check(client, two, "/", disk) == [(5 * MIB, 2 * CLUSTER, "data")]
    assert check(client, one, "/", disk) == [(MIB, CLUSTER, "data"), (5 * MIB, 2 * CLUSTER, "data")]
    assert check(client, two, one, disk) == [(MIB, CLUSTER, "data")]
    assert check(client, one, one, disk) == [] and diff(client, one, one)[disk][3:] == (0, 0)
    vm.take("three")
    assert check(client, vm.snapshot("three"), "/", disk) == []


def test_what_is_not_found_out(client, directory):
    """The bound: the same written again counts, in whole clusters; zeroes over zeroes do not."""
    vm = DownVm(client, directory, 1)
    (disk,) = vm.disks
    write(vm, disk, 1, 0, MIB)
    vm.take("one")
    write(vm, disk, 1, 512, 512)
    images.run("qemu-io", "-f", "qcow2", "-c", "write -z 8M 1M", "-c", "write -z 512k 64k", vm.active(disk))
    assert check(client, vm.snapshot("one"), "/", disk) == [(0, CLUSTER, "data"), (512 * 1024, CLUSTER, "zero")]


def test_deleted_in_between(client, directory):
    """What the volume of one that is deleted holds goes up or down, and is found where it went."""
    vm = DownVm(client, directory, 1)
    (disk,) = vm.disks
    write(vm, disk, 1, 0, 2 * MIB)
    vm.take("one")
    write(vm, disk, 2, 2 * MIB, 3 * MIB)
    vm.take("two")
    write(vm, disk, 3, 8 * MIB, CLUSTER)
    vm.take("three")
    write(vm, disk, 4, MIB, CLUSTER)
    before = check(client, vm.snapshot("one"), vm.snapshot("three"), disk)
    assert before == [(2 * MIB, 3 * MIB, "data"), (8 * MIB, CLUSTER, "data")]
    client.finish(vm.of_snapshot("two", "Delete"))
    assert both_ways(client, vm.snapshot("one"), vm.snapshot("three"), disk) == before
    check(client, vm.snapshot("one"), "/", disk)
    client.finish(vm.of_snapshot("one", "Delete"))
    assert check(client, vm.snapshot("three"), "/", disk) == [(MIB, CLUSTER, "data")]
    vm.check()


def test_flattened(client, directory):
    """Nothing in common any more: whatever has data may differ."""
    vm = DownVm(client, directory, 1)
    (disk,) = vm.disks
    write(vm, disk, 1, 0, 2 * MIB)
    vm.take("one")
    write(vm, disk, 2, 4 * MIB, CLUSTER)
    client.finish(client.call(disk, "Disk", "Flatten", "a{sv}", {}))
    assert check(client, vm.snapshot("one"), "/", disk) == [(0, 2 * MIB, "data"), (4 * MIB, CLUSTER, "data")]


# --- branches -----------------------------------------------------------------------------------------------

def test_siblings(client, directory):
    """Two branches on one snapshot, the older one kept when the VM went back."""
    vm = DownVm(client, directory, 2)
    first, second = vm.disks
    for disk in vm.disks:
        write(vm, disk, 1, 0, 4 * MIB)
    vm.take("root")
    write(vm, first, 2, MIB, MIB)
    vm.take("left")
    write(vm, first, 3, 6 * MIB, CLUSTER)
    write(vm, second, 3, 6 * MIB, CLUSTER)
    vm.preview("root")
    write(vm, first, 4, MIB + CLUSTER, 2 * CLUSTER)
    vm.commit(keep_branch=True)
    vm.take("right")
    names = set(vm.snapshots())
    assert len(names) == 4, names
    kept = (names - {"root", "left", "right"}).pop()
    assert both_ways(client, vm.snapshot("left"), vm.snapshot("right"), first) == [(MIB, MIB, "data")]
    assert both_ways(client, vm.snapshot("left"), vm.snapshot("right"), second) == []
    extents = check(client, vm.snapshot("right"), vm.snapshot(kept), second)
    assert extents == [(6 * MIB, CLUSTER, "data")]
    assert check(client, vm.snapshot(kept), vm.snapshot("right"), second) == [(6 * MIB, CLUSTER, "hole")]
    for one in names:
        for two in names:
            for disk in vm.disks:
                check(client, vm.snapshot(one), vm.snapshot(two), disk)


def test_while_a_preview_is_shown(client, directory):
    """"/" is what is shown."""
    vm = DownVm(client, directory, 1).history("one", "two")
    (disk,) = vm.disks
    vm.preview("one")
    assert check(client, vm.snapshot("one"), "/", disk) == []
    assert check(client, vm.snapshot("two"), "/", disk) == check(client, vm.snapshot("two"), vm.snapshot("one"), disk)
    vm.undo()


# --- bases, sizes, disks ------------------------------------------------------------------------------------

def test_on_a_raw_base(client, directory, qemus):
    tree = Tree(client, directory, qemus, size=16 * MIB, base_format="raw")
    (disk,) = tree.disks
    tree.snapshot("s1")
    tree.snapshot("s2")
    tree.down()
    both_ways(client, tree.snapshots["s1"], tree.snapshots["s2"], disk)
    check(client, tree.snapshots["s1"], "/", disk)
    # A zero over a hole of the raw base is the same.
    images.run("qemu-io", "-f", "qcow2", "-c", "write -z 15M 64k", tree.path())
    assert all(begin != 15 * MIB for begin, _, _ in check(client, tree.snapshots["s1"], "/", disk))


@pytest.mark.parametrize("sizes", [(32, None), (8, None), (32, 12)])
def test_resized_in_between(client, directory, sizes):
    vm = DownVm(client, directory, 1)
    (disk,) = vm.disks
    write(vm, disk, 1, 0, 16 * MIB)
    vm.take("one")
    for number, size in enumerate(sizes):
        if size is None:
            continue
        path = vm.active(disk)
        images.run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", path, size * MIB)
        client.finish(client.call(vm.pool, "Pool", "Refresh"))
        write(vm, disk, 2 + number, (size - 1) * MIB, MIB)
        vm.take(f"size{number}")
    names = list(vm.snapshots())
    for one in names:
        check(client, vm.snapshot(one), "/", disk)
        for two in names:
            both_ways(client, vm.snapshot(one), vm.snapshot(two), disk)


def test_disks_of_one_of_them_only(client, directory):
    vm = DownVm(client, directory, 2)
    first, second = vm.disks
    vm.write()
    vm.take("one")
    third = vm.add_disk("disk2", "serial2")
    client.finish(client.call(first, "Disk", "Detach", "a{sv}", {}))
    vm.disks = [second, third]
    vm.write()
    vm.take("two")
    one, two = vm.snapshot("one"), vm.snapshot("two")
    found = diff(client, one, two)
    assert found[first] == ("this", 16 * MIB, 0, 0, 0) and found[third] == ("other", 0, 16 * MIB, 0, 0)
    assert found[second][0] == "both" and found[second][3] == CLUSTER
    assert {disk: rest[0] for disk, rest in diff(client, two, one).items()} == {first: "other", second: "both", third: "this"}
    assert {disk: rest[0] for disk, rest in diff(client, one).items()} == {first: "this", second: "both", third: "other"}
    with pytest.raises(DBusError) as error:
        client.call(one, "Snapshot", "DiffMap", "oot", two, third, 0)
    assert error.value.short == "NotFound" and "disk2" in error.value.message


def test_of_a_floating_disk(client, pool, imported):
    disk, paths = imported("root", 2, size=16 * MIB)
    snapshot = client.finish(client.call(disk, "Disk", "CreateSnapshot", "sa{sv}", "alone", {}))["snapshot"]
    assert check(client, snapshot, "/", disk) == []
    images.write(client.get(disk, "Disk", "ActivePath"), 9, 3 * MIB, CLUSTER)
    assert check(client, snapshot, "/", disk) == [(3 * MIB, CLUSTER, "data")]


def test_of_a_running_vm(client, directory, qemus):
    tree = Tree(client, directory, qemus, 2, size=16 * MIB)
    tree.snapshot("s1")
    first, second = tree.disks
    before = check_live(client, tree, first)
    tree.qemu.write("dev0", 9, 12 * MIB, 3 * CLUSTER)
    assert check_live(client, tree, first) == before + [(12 * MIB, 3 * CLUSTER, "data")]
    assert check_live(client, tree, second) == before
    assert {rest[0] for rest in diff(client, tree.snapshots["s1"]).values()} == {"both"}


def check_live(client, tree, disk):
    """Against what is there when the guest has flushed."""
    extents = diff_map(client, tree.snapshots["s1"], "/", disk)
    for number in range(2):
        tree.qemu.io(f"dev{number}", "flush")
    assert check(client, tree.snapshots["s1"], "/", disk) == extents
    return extents


# --- much, and wrong ----------------------------------------------------------------------------------------

def test_many_extents(client, imported, pool_directory, directory):
    """More than one answer holds."""
    disk, (base,) = imported("root", size=512 * MIB, options="cluster_size=4096")
    snapshot = client.finish(client.call(disk, "Disk", "CreateSnapshot", "sa{sv}", "alone", {}))["snapshot"]
    active = client.get(disk, "Disk", "ActivePath")
    raw = f"{directory}/fragments.raw"
    with open(raw, "wb") as f:
        f.truncate(512 * MIB)
        for number in range(40_000):
            f.seek(number * 2 * 4096 + 4 * MIB)
            f.write(b"y" * 4096)
    images.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "-b", base, "-F", "qcow2", active)
    images.run("qemu-img", "convert", "-n", "-S", "4k", "-f", "raw", "-O", "qcow2", "--target-is-zero", raw, active)
    client.finish(client.call(client.get(disk, "Disk", "Pool"), "Pool", "Refresh"))
    first, after = client.call(snapshot, "Snapshot", "DiffMap", "oot", "/", disk, 0)
    assert len(first) == 32768 and after == first[-1][0] + first[-1][1] + 4096
    assert diff_map(client, snapshot, "/", disk) == [(n * 8192 + 4 * MIB, 4096, "data") for n in range(40_000)]
    assert diff(client, snapshot)[disk][3:] == (40_000 * 4096, 40_000)


def test_of_snapshots_that_are_not_whole(client, directory, daemon):
    vm = DownVm(client, directory, 1).history("one", "two", "three")
    daemon.at("delete-snapshot.unlink", "error Internal broken off")
    client.failure(vm.of_snapshot("two", "Delete"))
    daemon.forget_failpoints()
    assert client.get(vm.snapshot("two"), "Snapshot", "Status") == "failed"
    for one, two in (("one", "two"), ("two", "one")):
        with pytest.raises(DBusError) as error:
            diff(client, vm.snapshot(one), vm.snapshot(two))
        assert error.value.short == "Unsupported" and "'two'" in error.value.message
    assert diff(client, vm.snapshot("one"), vm.snapshot("three"))
    client.finish(vm.of_snapshot("two", "Delete"))


# --- at random ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(1, 6))
def test_at_random(client, directory, seed):
    """Any two states of a VM with branches and deletions."""
    rng = random.Random(seed)
    vm = DownVm(client, directory, rng.choice((1, 2)))
    count = 0
    for _ in range(14):
        for disk in vm.disks:
            for _ in range(rng.randint(0, 3)):
                verb = rng.choice(("write -P %d" % rng.randint(0, 255), "write -z", "discard"))
                offset = rng.randrange(16 * MIB // 4096) * 4096
                length = min(rng.choice((4096, CLUSTER, 700_416)), 16 * MIB - offset)
                images.run("qemu-io", "-f", "qcow2", "-c", f"{verb} {offset} {length}", vm.active(disk))
        names = sorted(vm.snapshots())
        act = rng.random()
        if act < 0.55 or len(names) < 2:
            count += 1
            vm.take(f"s{count}")
        elif act < 0.7:
            client.finish(vm.of_snapshot(rng.choice(names), "Delete"))
        elif act < 0.95:
            vm.revert(rng.choice(names), keep_branch=rng.random() < 0.8)
        else:
            client.finish(client.call(rng.choice(vm.disks), "Disk", "Flatten", "a{sv}", {}))
    paths = [p["path"] for p in vm.snapshots().values()]
    for disk in vm.disks:
        for one in rng.sample(paths, min(4, len(paths))):
            check(client, one, "/", disk)
            for two in rng.sample(paths, min(4, len(paths))):
                both_ways(client, one, two, disk)
