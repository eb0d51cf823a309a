# SPDX-License-Identifier: MIT
"""Clones show exactly what they were made from, whatever they are made into, and the VM neither waits nor changes; a clone
that is broken off leaves nothing."""
import os
import subprocess
import time

import pytest

from harness import images
from harness.client import Client, Variant, variants
from harness.disks import import_chain, refused
from harness.filesystems import Filler
from harness.tree import Tree

MIB = 1 << 20


@pytest.fixture
def tree(client, directory, qemus):
    def make(*args, **options):
        return Tree(client, directory, qemus, *args, **options)
    return make


@pytest.fixture(params=["live", "down"])
def grown(request, tree):
    tree = tree(2)
    for name in ("s1", "s2"):
        tree.snapshot(name)
    if request.param == "down":
        tree.down()
    return tree


def clone(client, snapshot, name="copy", **options):
    return client.call(snapshot, "Snapshot", "Clone", "sa{sv}", name, variants(options))


def clone_volume(client, volume, name, pool, **options):
    return client.call(volume, "Volume", "Clone", "soa{sv}", name, pool, variants(options))


def made_by(client, job):
    """The result of a clone, its disks in the order of their targets."""
    result = client.finish(job)
    result["disks"].sort(key=lambda disk: client.get(disk, "Disk", "Target"))
    return result


def volume_of(client, disk):
    return client.get_all(client.get(disk, "Disk", "Active"), "Volume")


def digest_of(client, disk):
    volume = volume_of(client, disk)
    return images.digest(volume["Path"], fmt=volume["Format"])


def pool_of(client, disk):
    return client.get(client.get(disk, "Disk", "Active"), "Volume", "Pool")


def test_a_vm_from_a_snapshot(client, grown):
    client.call(grown.vm, "VM", "SetConfig", "ays", b"<later/>", "application/xml")
    before = grown.content()
    result = made_by(client, clone(client, grown.snapshots["s1"]))
    vm = client.get_all(result["vm"], "VM")
    assert (vm["Name"], vm["State"], sorted(vm["Disks"])) == ("copy", "shutoff", sorted(result["disks"]))
    assert client.call(result["vm"], "VM", "GetConfig") == client.call(grown.snapshots["s1"], "Snapshot", "GetConfig")
    assert "left-out" not in result
    for number, disk in enumerate(result["disks"]):
        properties = client.get_all(disk, "Disk")
        assert (properties["Target"], properties["Name"]) == (f"serial{number}", f"copy-serial{number}")
        volume = volume_of(client, disk)
        assert volume["Backing"] == "/" and volume["State"] == "ok"
        images.check(volume["Path"])
        assert digest_of(client, disk) == before["s1", number]
    assert grown.content() == before
    # What nobody wrote takes no room.
    assert volume["AllocatedBytes"] < 8 * MIB


@pytest.mark.parametrize("options", [
    {"format": "raw"}, {"format": "raw", "preallocation": "falloc"}, {"format": "raw", "preallocation": "full"},
    {"format": "qcow2", "preallocation": "metadata"}, {"format": "qcow2", "preallocation": "falloc"},
    {"format": "qcow2", "preallocation": "full"}, {"format": "qcow2", "cluster-size": 4096},
    {"format": "qcow2", "extended-l2": True}, {"format": "qcow2", "compression": "zstd"}],
    ids=lambda options: "-".join(str(v) for v in options.values()))
def test_formats(client, tree, options):
    tree = tree()
    tree.snapshot("s1")
    tree.snapshot("s2")
    before = tree.content()
    [disk] = made_by(client, clone(client, tree.snapshots["s2"], **options))["disks"]
    volume = volume_of(client, disk)
    assert volume["Format"] == options["format"] and digest_of(client, disk) == before["s2", 0]
    allocated = volume["AllocatedBytes"]
    assert allocated >= 64 * MIB if options.get("preallocation") in ("falloc", "full") else allocated < 8 * MIB
    if volume["Format"] == "qcow2":
        images.check(volume["Path"])
        data = images.info(volume["Path"])["format-specific"]["data"]
        assert data["extended-l2"] == options.get("extended-l2", False)
        assert data["compression-type"] == options.get("compression", "zlib")
        assert volume["ClusterBytes"] == options.get("cluster-size", 65536)


def test_of_a_raw_base(client, tree):
    """Where nothing is said, the copy is as its source."""
    tree = tree(base_format="raw")
    tree.snapshot("s1")
    before = tree.content()
    [disk] = made_by(client, clone(client, tree.snapshots["s1"]))["disks"]
    assert volume_of(client, disk)["Format"] == "raw" and digest_of(client, disk) == before["s1", 0]


def test_thin(client, grown):
    before = grown.content()
    result = made_by(client, clone(client, grown.snapshots["s1"], thin=True))
    for number, disk in enumerate(result["disks"]):
        volume = volume_of(client, disk)
        assert volume["Backing"] == grown.volume_of("s1", number)
        assert volume["AllocatedBytes"] < MIB and digest_of(client, disk) == before["s1", number]
        images.write(volume["Path"], 0x77, 0, MIB)
    assert grown.content() == before
    # The snapshot is protected from then on, and can go when the clone is gone.
    error, message = refused_job(client, lambda: grown.delete("s1"))
    assert error in ("InUse", "Busy") and "copy-serial" in message, message
    assert grown.content() == before
    for disk in result["disks"]:
        client.finish(client.call(disk, "Disk", "Delete", "a{sv}", {}))
    client.finish(grown.delete("s1"))
    grown.forget("s1")
    grown.check()


def refused_job(client, call):
    """(error, message) of a call that is refused, or of the job it starts."""
    try:
        job = call()
    except Exception as error:  # noqa: BLE001 - looked at by the caller
        return error.short, error.message
    return client.failure(job)


def test_thin_in_its_own_pool_only(client, tree, directory):
    tree = tree()
    tree.snapshot("s1")
    os.mkdir(f"{directory}/other")
    other = client.create_pool("other", f"{directory}/other")
    error, message = refused(lambda: clone(client, tree.snapshots["s1"], thin=True, pool=Variant("o", other)))
    assert error == "InvalidArgument" and "pool" in message


def test_pools_and_disks(client, tree, directory):
    tree = tree(3)
    tree.snapshot("s1")
    before = tree.content()
    pools = []
    for name in ("fast", "slow"):
        os.mkdir(f"{directory}/{name}")
        pools.append(client.create_pool(name, f"{directory}/{name}"))
    result = made_by(client, clone(client, tree.snapshots["s1"], pool=Variant("o", pools[1]),
                                 pools=Variant("a{oo}", {tree.disks[0]: pools[0]}),
                                 disks=Variant("ao", tree.disks[:2])))
    assert [pool_of(client, disk) for disk in result["disks"]] == pools
    assert [digest_of(client, disk) for disk in result["disks"]] == [before["s1", 0], before["s1", 1]]
    [left_out] = result["left-out"]
    assert "serial2" in left_out and "disks" in left_out


def test_a_disk_that_was_deleted_since(client, tree):
    tree = tree(2)
    tree.snapshot("s1")
    before = tree.content()
    tree.down()
    client.finish(client.call(tree.disks[1], "Disk", "Delete", "a{sv}", variants({"snapshots": True})))
    result = made_by(client, clone(client, tree.snapshots["s1"]))
    assert [digest_of(client, disk) for disk in result["disks"]] == [before["s1", 0]]
    [left_out] = result["left-out"]
    assert "the disk was deleted" in left_out


def test_while_the_vm_goes_on(client, tree):
    """The copy is slow; the guest writes, snapshots come, others go. What the clone is made of cannot go."""
    tree = tree()
    tree.snapshot("s1", mib=8)
    tree.snapshot("s2", mib=8)
    before = tree.content()
    job = clone(client, tree.snapshots["s2"], speed=4 * MIB)
    tree.snapshot("s3")
    tree.snapshot("s4")
    client.finish(tree.delete("s3"))
    for name in ("s1", "s2"):
        error, message = refused_job(client, lambda name=name: tree.delete(name))
        assert error == "Busy" and "clone" in message and "'copy'" in message, message
    assert client.get(job, "Job", "State") == "running"
    client.call(job, "Job", "SetSpeed", "t", 0)
    [disk] = client.finish(job)["disks"]
    assert digest_of(client, disk) == before["s2", 0]
    tree.forget("s3")
    assert {key: value for key, value in tree.content().items() if key[0] in ("s1", "s2")} == \
        {key: value for key, value in before.items() if key[0] != "active"}
    client.finish(tree.delete("s2"))


def test_cancel_leaves_nothing(client, tree):
    tree = tree(2)
    tree.snapshot("s1", mib=8)
    tree.snapshot("s2")
    before, files = tree.content(), images.image_files(tree.pool)
    job = clone(client, tree.snapshots["s2"], speed=MIB)
    with client.signals(path=job, member="PropertiesChanged") as changes:
        changes.until(lambda path, member, body: body[1].get("DoneBytes", (0, 0))[1] > 0)
    client.call(job, "Job", "Cancel")
    assert client.wait(job)[0] == "cancelled"
    assert images.image_files(tree.pool) == files and len(client.of_kind("vm")) == 1
    assert tree.content() == before
    tree.check()
    made_by(client, clone(client, tree.snapshots["s2"]))


def test_names(client, tree):
    tree = tree()
    tree.snapshot("s1")
    error, message = refused(lambda: clone(client, tree.snapshots["s1"], "web"))
    assert error == "AlreadyExists" and "'web'" in message
    made_by(client, clone(client, tree.snapshots["s1"], "copy"))
    error, message = refused(lambda: clone(client, tree.snapshots["s1"], "copy"))
    assert error == "AlreadyExists" and "'copy'" in message
    # One that is being made has its name already.
    job = clone(client, tree.snapshots["s1"], "slow", speed=MIB)
    error, _ = refused_job(client, lambda: clone(client, tree.snapshots["s1"], "slow"))
    client.finish(job)
    assert error == "AlreadyExists"


def test_volumes_and_floating_disks(client, imported, pool):
    disk, paths = imported("data", layers=3)
    expected = [images.digest(path) for path in paths]
    volumes = {p["Path"]: path for path, p in client.of_kind("volume").items()}
    for number, path in enumerate(paths):
        [made] = made_by(client, clone_volume(client, volumes[path], f"copy{number}", pool))["disks"]
        assert client.get(made, "Disk", "VM") == "/" and digest_of(client, made) == expected[number]
    [thin] = made_by(client, clone_volume(client, volumes[paths[1]], "thin", pool, thin=True))["disks"]
    assert digest_of(client, thin) == expected[1]
    error, message = refused(lambda: clone_volume(client, volumes[paths[2]], "thinner", pool, thin=True))
    assert error == "InUse" and "snapshot" in message
    snapshot = client.finish(client.call(disk, "Disk", "CreateSnapshot", "sa{sv}", "one", {}))["snapshot"]
    result = made_by(client, clone(client, snapshot, "of one"))
    assert "vm" not in result and digest_of(client, result["disks"][0]) == expected[2]
    assert client.get(result["disks"][0], "Disk", "Name") == "of one"


def test_the_active_volume_of_a_vm_that_runs(client, tree):
    tree = tree()
    active, pool = client.get(tree.disks[0], "Disk", "Active"), pool_of(client, tree.disks[0])
    error, message = refused(lambda: clone_volume(client, active, "copy", pool))
    assert error == "Running" and "'web'" in message
    tree.down()
    before = tree.content()
    [disk] = made_by(client, clone_volume(client, active, "copy", pool))["disks"]
    assert digest_of(client, disk) == before["active", 0]


def test_bitmaps_do_not_go_along(client, imported, pool):
    disk, paths = imported("data", bitmaps=("monday",))
    [volume] = client.of_kind("volume")
    [made] = made_by(client, clone_volume(client, volume, "copy", pool))["disks"]
    assert images.bitmaps(volume_of(client, made)["Path"]) == {} and set(images.bitmaps(paths[0])) == {"monday"}


def test_shareable(client, directory, qemus):
    path = images.create(f"{directory}/shared.raw", "16M", fmt="raw")
    images.write(path, 9, 0, MIB, fmt="raw")
    own = images.create(f"{directory}/own.qcow2", "16M")
    qemu = qemus("vm", [own, {"path": path, "fmt": "raw", "device": {"share-rw": True}}])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    disks = {p["Target"]: d for d, p in client.of_kind("disk").items()}
    assert client.get(disks["serial1"], "Disk", "Shareable")
    # Such a disk is in no snapshot: it is said to be left out.
    snapshot = client.finish(client.create_snapshot(vm, "s1", quiesce="off", **{"on-disk-failure": "exclude"}))["snapshot"]
    result = made_by(client, clone(client, snapshot))
    assert len(result["disks"]) == 1 and "shared" in " ".join(result["left-out"]), result


@pytest.fixture
def xfs(directory):
    """A file system with reflinks, in a file."""
    image, path = f"{directory}/xfs.img", f"{directory}/xfs"
    with open(image, "wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["/usr/sbin/mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, timeout=60)
    os.mkdir(path)
    subprocess.run(["mount", "-o", "loop", image, path], check=True, timeout=60)
    yield path
    subprocess.run(["umount", "-l", path], check=True, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_reflinks(client, xfs, directory, qemus):
    """A base of one file is not copied; a chain is, and so is what is to have another form."""
    pool = client.create_pool("main", xfs)
    disk, paths = import_chain(client, pool, "data", size=512 * MIB, bitmaps=("monday",))
    images.write(paths[0], 0x5a, 0, 100 * MIB)
    client.finish(client.call(pool, "Pool", "Refresh"))
    snapshot = client.finish(client.call(disk, "Disk", "CreateSnapshot", "sa{sv}", "one", {}))["snapshot"]
    before, free = images.digest(paths[0]), os.statvfs(xfs).f_bavail
    for number in range(8):
        result = made_by(client, clone(client, snapshot, f"copy{number}"))
        assert result["reflinked"] == 1 and digest_of(client, result["disks"][0]) == before
        assert images.bitmaps(volume_of(client, result["disks"][0])["Path"]) == {}
    assert (free - os.statvfs(xfs).f_bavail) * os.statvfs(xfs).f_frsize < 32 * MIB
    images.write(volume_of(client, result["disks"][0])["Path"], 0x66, 0, MIB)
    assert images.digest(paths[0]) == before
    active = client.get(disk, "Disk", "Active")
    [chained] = made_by(client, clone_volume(client, active, "chained", pool, format="qcow2"))["disks"]
    assert digest_of(client, chained) == before


def wait_empty(path, seconds=20):
    """The kernel gives the room of an unlinked file back when the last one who had it open is gone for good, which nobody is
    told of."""
    end = time.monotonic() + seconds
    while os.statvfs(path).f_bfree < os.statvfs(path).f_blocks:
        assert time.monotonic() < end, "somebody has the file open yet"
        time.sleep(0.05)


def test_the_room_goes_meanwhile(client, tree, directory):
    """It waits for room, and says so; cancelled, it leaves nothing."""
    tree = tree()
    tree.write(0x31, 0, 48 * MIB)
    tree.snapshot("s1")
    before, place = tree.content(), f"{directory}/small"
    os.mkdir(place)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96M", "none", place], check=True, timeout=60)

    def clone_without_room():
        """The job, which stands still, and what takes the room."""
        job = clone(client, tree.snapshots["s1"], pool=Variant("o", small), speed=4 * MIB)
        with client.signals(path=job, member="PropertiesChanged") as changes:
            changes.until(lambda path, member, body: body[1].get("DoneBytes", (0, 0))[1] > 0)
            filler = Filler(place)
            client.call(job, "Job", "SetSpeed", "t", 0)
            changes.until(lambda path, member, body: body[1].get("State", (0, 0))[1] == "paused")
        return job, filler
    try:
        small = client.create_pool("small", place)
        job, filler = clone_without_room()
        name, message = client.get(job, "Job", "Error")
        assert name.endswith(".NoSpace") and "small" in message, message
        client.call(job, "Job", "Cancel")
        assert client.wait(job)[0] == "cancelled" and images.image_files(place) == []
        filler.gone()
        wait_empty(place)
        job, _ = clone_without_room()
        subprocess.run(["mount", "-o", "remount,size=256M", place], check=True, timeout=60)
        [disk] = client.finish(job)["disks"]
        assert digest_of(client, disk) == before["s1", 0]
    finally:
        subprocess.run(["umount", "-l", place], check=True, timeout=60)


# --- room ---------------------------------------------------------------------------------------------------

@pytest.fixture
def small(client, directory):
    """A pool on a file system of 60 MiB: (pool, directory)."""
    path = f"{directory}/small"
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60M,mode=755", "tmpfs", path], check=True, timeout=20)
    yield client.create_pool("small", path), path
    subprocess.run(["umount", "-l", path], check=True, timeout=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("options", [{}, {"format": "raw"}], ids=["qcow2", "raw"])
def test_too_little_room_is_known_before_the_first_byte(client, tree, small, options):
    pool, directory = small
    tree = tree()
    tree.write(0x41, 0, 63 * MIB)
    tree.snapshot("s1")
    job = clone(client, tree.snapshots["s1"], pool=Variant("o", pool), **options)
    error, message = client.failure(job)
    assert error == "NoSpace" and directory in message and "nothing was copied" in message, message
    assert client.get(job, "Job", "DoneBytes") == 0 and images.image_files(directory) == []
    assert len(client.of_kind("vm")) == 1
    tree.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_preallocation_counts(client, tree, small):
    """The disk has 64 MiB, of which little is used."""
    pool, directory = small
    tree = tree()
    tree.snapshot("s1")
    job = clone(client, tree.snapshots["s1"], pool=Variant("o", pool), preallocation="full")
    assert client.failure(job)[0] == "NoSpace" and images.image_files(directory) == []
    client.finish(clone(client, tree.snapshots["s1"], pool=Variant("o", pool), preallocation="metadata"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_what_layers_hold_twice_counts_once(client, tree, small):
    """Layers that cover each other have more data in all than the clone, which fits."""
    pool, directory = small
    tree = tree()
    for number in range(3):
        tree.write(0x50 + number, 0, 24 * MIB)
        tree.snapshot(f"s{number}")
    result = made_by(client, clone(client, tree.snapshots["s2"], pool=Variant("o", pool)))
    expected = images.digest(client.get(tree.volume_of("s2"), "Volume", "Path"))
    assert digest_of(client, result["disks"][0]) == expected and len(images.image_files(directory)) == 1
