# SPDX-License-Identifier: MIT
"""Volume.Map and Volume.Measure, held against what qemu-img says of the same chains."""
import json
import os

import pytest

from harness import images
from harness.chains import volume_at
from harness.client import DBusError, variants
from harness.down_vm import DownVm
from harness.tree import Tree

MIB = 1 << 20


@pytest.fixture
def config():
    """A QEMU that does not answer is given up soon."""
    return '[quiesce]\nagent-timeout = "1s"\n[qemu]\ngreeting-timeout = "1s"\ncommand-timeout = "5s"\n'


def map_of(client, volume, start=0, length=0):
    return [tuple(e) for e in client.call(volume, "Volume", "Map", "tt", start, length)]


def whole_map(client, volume):
    """All answers put together, after a look at whether they follow each other."""
    found, start, size = [], 0, client.get(volume, "Volume", "SizeBytes")
    while start < size:
        page = map_of(client, volume, start)
        assert page and page[0][0] == start
        for extent in page:
            assert extent[0] == start and extent[1] > 0
            start += extent[1]
            found.append(extent)
    assert start == size
    return found


def joined(extents):
    result = []
    for start, length, kind in extents:
        if result and result[-1][2] == kind:
            result[-1] = (result[-1][0], result[-1][1] + length, kind)
        else:
            result.append((start, length, kind))
    return result


def map_of_qemu(path, fmt="qcow2"):
    entries = json.loads(images.run("qemu-img", "map", "-U", "-f", fmt, "--output=json", path))
    return joined([(e["start"], e["length"], "hole" if not e["present"] else "data" if e["data"] else "zero")
                   for e in entries])


def measure(client, volume, **options):
    return tuple(client.call(volume, "Volume", "Measure", "a{sv}", variants(options)))


def measure_of_qemu(path, *options, fmt="qcow2", output="qcow2"):
    argv = ["qemu-img", "measure", "-U", "-f", fmt, "-O", output, "--output=json"]
    for option in options:
        argv += ["-o", option]
    return json.loads(images.run(*argv, path))


def scribble(path):
    images.run("qemu-io", "-f", "qcow2", *[w for command in (
        "write -P 7 5M 300k", "write -z 6M 1M", "write -z -u 8M 64k", "discard 9M 256k", "write -P 8 15M 1M")
        for w in ("-c", command)], path)


# --- maps ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [None, "cluster_size=4096", "extended_l2=on"])
@pytest.mark.parametrize("base_format", ["qcow2", "raw"])
def test_every_volume_of_a_chain(client, imported, options, base_format):
    disk, paths = imported("root", 4, size=16 * MIB, options=options, base_format=base_format)
    for path in paths[1:]:
        scribble(path)
    for path in paths:
        volume, properties = volume_at(client, path)
        assert joined(whole_map(client, volume)) == whole_map(client, volume) == map_of_qemu(path, properties["Format"])


def test_overlays_of_another_size(client, imported, pool):
    disk, (base,) = imported("root", size=16 * MIB)
    client.finish(client.call(disk, "Disk", "CreateOverlay", "a{sv}", {}))
    client.finish(client.call(disk, "Disk", "Resize", "ta{sv}", 24 * MIB, {}))
    path = client.get(disk, "Disk", "ActivePath")
    images.write(path, 9, 20 * MIB, MIB)
    found = whole_map(client, client.get(disk, "Disk", "Active"))
    assert found == [(0, MIB, "data"), (MIB, 15 * MIB, "hole"), (16 * MIB, 4 * MIB, "zero"), (20 * MIB, MIB, "data"),
                     (21 * MIB, 3 * MIB, "zero")]


def test_parts_of_a_disk(client, imported):
    disk, paths = imported("root", 2, size=16 * MIB)  # data in the first and the second MiB
    volume = client.get(disk, "Disk", "Active")
    assert map_of(client, volume, 0, 0) == [(0, 2 * MIB, "data"), (2 * MIB, 14 * MIB, "hole")]
    assert map_of(client, volume, 512, 1024) == [(512, 1024, "data")]
    assert map_of(client, volume, 2 * MIB - 1, 2) == [(2 * MIB - 1, 1, "data"), (2 * MIB, 1, "hole")]
    assert map_of(client, volume, 5 * MIB, (1 << 64) - 1) == [(5 * MIB, 11 * MIB, "hole")]
    assert map_of(client, volume, 16 * MIB, 0) == []
    with pytest.raises(DBusError) as error:
        map_of(client, volume, 16 * MIB + 1, 1)
    assert error.value.short == "InvalidArgument"


def test_an_answer_is_limited(client, pool, pool_directory):
    """A raw image with more extents than one answer has."""
    path, extents = f"{pool_directory}/fragments.raw", 70_001
    with open(path, "wb") as f:
        for number in range(0, extents, 2):
            f.seek(number * 4096)
            f.write(b"x" * 4096)
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", path, {"format": ("s", "raw")})
    volume = client.finish(job)["volume"]
    first = map_of(client, volume)
    assert len(first) == 32768
    assert whole_map(client, volume) == [(n * 4096, 4096, "data" if n % 2 == 0 else "zero") for n in range(extents)]


def test_of_a_running_vm(client, directory, qemus):
    """What the guest wrote before the call is in the map, flushed or not; what is below stays as it is."""
    tree = Tree(client, directory, qemus, size=16 * MIB)
    tree.snapshot("s1")
    active, lower = client.get(tree.disks[0], "Disk", "Active"), tree.volume_of("s1")
    before = whole_map(client, lower)
    assert before == [(0, MIB, "data"), (MIB, 15 * MIB, "hole")]
    for number in range(8, 14):
        tree.qemu.write("dev0", number, number * MIB, 64 * 1024)
        assert (number * MIB, 64 * 1024, "data") in whole_map(client, active)
    assert whole_map(client, lower) == before
    tree.qemu.io("dev0", "flush")
    assert whole_map(client, active) == map_of_qemu(tree.path())
    tree.snapshot("s2")
    assert whole_map(client, active) == map_of_qemu(client.get(active, "Volume", "Path")), "covered now"


def test_of_a_vm_that_nobody_can_tell_of(client, directory, qemus):
    """Its QEMU lives, and its monitor does not answer: nobody can tell QEMU to flush."""
    tree = Tree(client, directory, qemus, size=16 * MIB)
    tree.snapshot("s1")
    active = client.get(tree.disks[0], "Disk", "Active")
    os.kill(tree.qemu.process.pid, 19)
    try:
        with pytest.raises(DBusError) as error:
            client.call(active, "Volume", "Map", "tt", 0, 0, timeout=90)
        assert error.value.short in ("Timeout", "Unreachable"), error.value
        assert whole_map(client, tree.volume_of("s1"))[0] == (0, MIB, "data")
    finally:
        os.kill(tree.qemu.process.pid, 18)


def test_a_stranger_writes_to_it(client, imported, qemus):
    disk, (path,) = imported("root", size=16 * MIB)
    volume = client.get(disk, "Disk", "Active")
    whole_map(client, volume)
    qemus("stranger", [path])
    with pytest.raises(DBusError) as error:
        map_of(client, volume)
    assert error.value.short == "InUse" and path in error.value.message


def test_of_a_chain_that_is_not_whole(client, imported, pool):
    disk, paths = imported("root", 3, size=16 * MIB)
    volumes = [volume_at(client, path)[0] for path in paths]
    os.rename(paths[1], paths[1] + ".away")
    with pytest.raises(DBusError) as error:
        map_of(client, volumes[2])
    assert error.value.short == "BrokenChain" and paths[1] in error.value.message
    assert map_of(client, volumes[0])
    os.rename(paths[1] + ".away", paths[1])
    # Another program changes the chain behind our back: it is seen.
    images.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", os.path.basename(paths[0]), "-F", "qcow2", paths[2])
    assert whole_map(client, volumes[2]) == map_of_qemu(paths[2])
    images.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "/elsewhere/image", "-F", "qcow2", paths[2])
    with pytest.raises(DBusError) as error:
        map_of(client, volumes[2])
    assert error.value.short == "BrokenChain" and "/elsewhere/image" in error.value.message


def test_damaged_tables(client, imported):
    disk, (path,) = imported("root", size=16 * MIB)
    with open(path, "r+b") as f:
        f.seek(40)
        l1 = int.from_bytes(f.read(8), "big")
        f.seek(l1)
        f.write((1 << 40 | 1 << 63).to_bytes(8, "big"))
    with pytest.raises(DBusError) as error:
        map_of(client, client.get(disk, "Disk", "Active"))
    assert error.value.short == "CorruptImage" and path in error.value.message


def test_while_snapshots_come_and_go(client, directory, qemus):
    """Nothing that is asked about meanwhile is anything else afterwards."""
    tree = Tree(client, directory, qemus, size=16 * MIB)
    tree.snapshot("s1")
    tree.snapshot("s2")
    volume = tree.volume_of("s2")
    path, before = client.get(volume, "Volume", "Path"), whole_map(client, volume)
    job = tree.delete("s1")
    asked = 0
    while client.get(job, "Job", "FinishedUsec") == 0:
        asked += 1
        try:
            assert [e for e in whole_map(client, volume) if e[2] == "data"] == [e for e in before if e[2] == "data"]
        except DBusError as error:
            assert error.short in ("Busy", "Unsupported") or "UnknownObject" in error.name, error
    client.finish(job)
    tree.forget("s1")
    volume = tree.volume_of("s2")
    path = client.get(volume, "Volume", "Path")
    assert asked and whole_map(client, volume) == map_of_qemu(path)


# --- measures -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("base_format", ["qcow2", "raw"])
def test_measure_as_qemu_img_does(client, imported, base_format):
    disk, paths = imported("root", 3, size=64 * MIB + 512, options="cluster_size=4096", base_format=base_format)
    for path in paths[1:]:
        scribble(path)
    for path in paths:
        volume, properties = volume_at(client, path)
        fmt = properties["Format"]
        for options in ({}, {"cluster_size": 4096}, {"cluster_size": 2 * MIB}, {"cluster_size": 16384, "extended_l2": True}):
            theirs = measure_of_qemu(path, *[f"{n}={'on' if v is True else v}" for n, v in options.items()], fmt=fmt)
            assert measure(client, volume, **options) == (theirs["required"], theirs["fully-allocated"]), (path, options)
        theirs = measure_of_qemu(path, fmt=fmt, output="raw")
        assert measure(client, volume, format="raw") == (theirs["required"], theirs["fully-allocated"])


def test_measured_is_enough(client, imported, directory):
    """And not much more than what the copy takes."""
    disk, paths = imported("root", 4, size=256 * MIB)
    required, full = measure(client, client.get(disk, "Disk", "Active"))
    copy = f"{directory}/copy.qcow2"
    images.run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", paths[-1], copy)
    assert 4 * MIB < os.path.getsize(copy) <= required < os.path.getsize(copy) + MIB < full


def test_measure_with_bitmaps(client, imported, pool):
    disk, paths = imported("root", 2, size=4096 * MIB, bitmaps=("one", "two"))
    images.run("qemu-img", "bitmap", "--add", "-g", "4096", "--disable", paths[-1], "fine")
    client.finish(client.call(pool, "Pool", "Refresh"))
    volume = client.get(disk, "Disk", "Active")
    theirs = measure_of_qemu(paths[-1])
    assert theirs["bitmaps"] > 0
    assert measure(client, volume) == (theirs["required"], theirs["fully-allocated"])
    assert measure(client, volume, bitmaps=True) == (theirs["required"] + theirs["bitmaps"],
                                                     theirs["fully-allocated"] + theirs["bitmaps"])
    assert measure(client, volume_at(client, paths[0])[0], bitmaps=True) == measure(client, volume_at(client, paths[0])[0])


def test_preallocated_metadata_counts_as_data(client, imported, pool, pool_directory):
    """The documented bound: QEMU looks into the holes of the file, this does not."""
    path = images.create(f"{pool_directory}/p.qcow2", 16 * MIB, options="preallocation=metadata")
    images.write(path, 1, 0, MIB)
    volume = client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", path, {}))["volume"]
    theirs = measure_of_qemu(path)
    assert measure(client, volume) == (theirs["fully-allocated"], theirs["fully-allocated"])
    assert theirs["required"] <= theirs["fully-allocated"]


def test_measure_of_a_running_vm(client, directory, qemus):
    tree = Tree(client, directory, qemus, size=16 * MIB)
    volume = client.get(tree.disks[0], "Disk", "Active")
    before = measure(client, volume)
    tree.qemu.write("dev0", 5, 8 * MIB, 2 * MIB)
    assert measure(client, volume) == (before[0] + 2 * MIB, before[1])
    tree.qemu.execute("block-dirty-bitmap-add", node="vol0", name="live", persistent=True, granularity=65536)
    client.call(tree.vm, "VM", "Refresh")
    more = measure(client, volume, bitmaps=True)
    assert more[0] > before[0] + 2 * MIB and more[1] - before[1] == more[0] - before[0] - 2 * MIB


def test_an_illegal_volume_is_refused(client, directory, daemon):
    """A merge that was broken off after its first byte: what the lower volume shows stands for nothing."""
    vm = DownVm(client, directory, 1).history("one", "two")
    daemon.at("delete-snapshot.bitmaps", "error Internal broken off")
    client.failure(vm.of_snapshot("one", "Delete"))
    daemon.forget_failpoints()
    illegal = [path for path, p in client.of_kind("volume").items() if p["State"] == "illegal"]
    if not illegal:
        pytest.skip("it was streamed")
    for call in (lambda: map_of(client, illegal[0]), lambda: measure(client, illegal[0])):
        with pytest.raises(DBusError) as error:
            call()
        assert error.value.short == "Unsupported" and "illegal" in error.value.message
    assert whole_map(client, client.get(vm.disks[0], "Disk", "Active"))
