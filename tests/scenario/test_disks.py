# SPDX-License-Identifier: MIT
"""Disks made larger and smaller, and deleted: what is kept is kept byte for byte, what goes is gone, and nobody's image is
touched while a process has it open."""
import os

import pytest

from harness import images
from harness.chains import volume_at
from harness.client import Client, Variant
from harness.disks import active, attach, delete, detach, overlay, patterns, refused, resize
from harness.qemu import Qemu, blockdevs

MIB = 1 << 20


@pytest.fixture
def stranger(directory):
    """Makes QEMUs that nobody knows of."""
    started = []

    def make(*disks):
        started.append(Qemu(f"{directory}/stranger{len(started)}", disks).start())
        return started[-1]
    yield make
    for qemu in started:
        qemu.kill()


# --- larger and smaller ---

def test_offline(client, imported):
    disk, paths = imported("data", layers=3, bitmaps=("one", "two"))
    with client.signals(path=disk, member="PropertiesChanged") as changes:
        result = client.finish(resize(client, disk, 96 * MIB))
        changes.until(lambda path, member, body: body[1].get("SizeBytes", (0, 0))[1] == 96 * MIB)
    assert result == {"size-bytes": 96 * MIB, "before-bytes": 64 * MIB}
    assert client.get(disk, "Disk", "SizeBytes") == 96 * MIB
    assert client.get(client.get(disk, "Disk", "Active"), "Volume", "SizeBytes") == 96 * MIB
    assert [images.info(path)["virtual-size"] for path in paths] == [64 * MIB, 64 * MIB, 96 * MIB]
    assert images.chain(paths[2]) == paths[::-1]
    found = images.bitmaps(paths[2])
    assert set(found) == {"one", "two"} and all(b["flags"] == ["auto"] for b in found.values()), found
    images.check(paths[2])
    patterns(paths[2], (1, 0, MIB), (2, MIB, MIB), (3, 2 * MIB, MIB), (0, 3 * MIB, 93 * MIB))
    # The next overlay is as large.
    overlay(client, disk)
    assert images.info(active(client, disk))["virtual-size"] == 96 * MIB


def test_to_what_it_is(client, imported):
    disk, paths = imported("data")
    before = os.stat(paths[0]).st_mtime_ns
    assert client.finish(resize(client, disk, 64 * MIB)) == {"size-bytes": 64 * MIB, "before-bytes": 64 * MIB}
    assert os.stat(paths[0]).st_mtime_ns == before


def test_smaller(client, imported):
    disk, paths = imported("data", bitmaps=("one",))
    images.write(paths[0], 7, 32 * MIB, MIB)
    before = images.digest(paths[0])
    error, message = refused(lambda: resize(client, disk, 16 * MIB))
    assert error == "InvalidArgument" and "shrink" in message and str(64 * MIB) in message, message
    assert images.digest(paths[0]) == before
    client.finish(resize(client, disk, 16 * MIB, shrink=True))
    assert client.get(disk, "Disk", "SizeBytes") == images.info(paths[0])["virtual-size"] == 16 * MIB
    images.check(paths[0])
    # What was cut off does not come back.
    client.finish(resize(client, disk, 64 * MIB))
    patterns(paths[0], (1, 0, MIB), (0, MIB, 63 * MIB))
    assert images.bitmaps(paths[0])["one"]["flags"] == ["auto"]


def test_never_smaller_than_what_is_below(client, imported):
    disk, paths = imported("data", layers=2)
    client.finish(resize(client, disk, 80 * MIB))
    for size in 16 * MIB, 64 * MIB - 512:
        error, message = refused(lambda: resize(client, disk, size, shrink=True))
        assert error == "InvalidArgument" and paths[0] in message, message
    client.finish(resize(client, disk, 64 * MIB, shrink=True))
    patterns(paths[1], (1, 0, MIB), (2, MIB, MIB), (0, 2 * MIB, 62 * MIB))


def test_what_the_backing_volume_has_beyond_stays_hidden(client, pool, pool_directory):
    """An overlay that was made smaller than what it stands on."""
    base, top = f"{pool_directory}/base.qcow2", f"{pool_directory}/top.qcow2"
    images.create(base, 8 * MIB)
    images.write(base, 0x5A, 0, 8 * MIB)
    images.create(top, 4 * MIB, backing="base.qcow2")
    disk = client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", "top.qcow2", {}))["disk"]
    assert client.get(disk, "Disk", "SizeBytes") == 4 * MIB
    error, message = refused(lambda: resize(client, disk, 6 * MIB))
    assert error == "InvalidArgument" and base in message, message
    client.finish(resize(client, disk, 16 * MIB))
    patterns(top, (0x5A, 0, 4 * MIB), (0, 4 * MIB, 12 * MIB))
    images.check(top)


@pytest.mark.parametrize("size", [0, 1, 64 * MIB + 1, 1 << 63])
def test_no_size(client, imported, size):
    disk, paths = imported("data")
    assert refused(lambda: resize(client, disk, size))[0] == "InvalidArgument"
    assert images.info(paths[0])["virtual-size"] == 64 * MIB


def test_raw(client, imported, stranger):
    disk, paths = imported("data", base_format="raw", size=8 * MIB)
    client.finish(resize(client, disk, 12 * MIB))
    assert os.stat(paths[0]).st_size == 12 * MIB == client.get(disk, "Disk", "SizeBytes")
    patterns(paths[0], (1, 0, MIB), (0, MIB, 11 * MIB))
    client.finish(resize(client, disk, 4 * MIB, shrink=True))
    patterns(paths[0], (1, 0, MIB), (0, MIB, 3 * MIB))
    qemu = stranger({"path": paths[0], "fmt": "raw"})
    error, message = client.failure(resize(client, disk, 16 * MIB))
    assert error == "InUse" and str(qemu.process.pid) in message, message
    assert os.stat(paths[0]).st_size == 4 * MIB


def test_another_process_has_the_image(client, imported, stranger):
    disk, paths = imported("data", layers=2)
    qemu = stranger(paths[1])
    error, message = client.failure(resize(client, disk, 96 * MIB))
    assert error == "InUse" and str(qemu.process.pid) in message and str(64 * MIB) in message, message
    qemu.kill()
    client.finish(resize(client, disk, 96 * MIB))


def test_something_stands_on_it(client, imported, pool, pool_directory):
    """As far as an import lets that come about: a disk is imported on one that is not its disk's active volume, which is
    activated then."""
    disk, paths = imported("data")
    base = client.get(disk, "Disk", "Active")
    overlay(client, disk)
    images.create(f"{pool_directory}/other.qcow2", None, backing="data.0.qcow2")
    client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", "other.qcow2", {}))
    branch = overlay(client, disk, backing=Variant("o", base), activate=True)
    client.finish(resize(client, disk, 96 * MIB))
    assert client.get(branch, "Volume", "SizeBytes") == 96 * MIB
    assert images.info(paths[0])["virtual-size"] == 64 * MIB


def test_missing_or_broken(client, imported):
    disk, paths = imported("data", layers=2)
    os.rename(paths[1], paths[1] + ".away")
    error, message = refused(lambda: resize(client, disk, 96 * MIB))
    assert error == "BrokenChain" and paths[1] in message, message
    os.rename(paths[1] + ".away", paths[1])
    os.rename(paths[0], paths[0] + ".away")
    error, message = refused(lambda: resize(client, disk, 96 * MIB))
    assert error == "BrokenChain" and paths[0] in message, message
    os.rename(paths[0] + ".away", paths[0])
    client.finish(resize(client, disk, 96 * MIB))


# --- while the VM runs ---

def test_live(client, imported, qemus):
    disk, paths = imported("data", layers=2, bitmaps=("one",))
    qemu = qemus("vm", [paths[1]], running=True)
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    assert client.get(disk, "Disk", "VM") == vm
    with client.signals(path=disk, member="PropertiesChanged") as changes:
        client.finish(resize(client, disk, 96 * MIB))
        changes.until(lambda path, member, body: body[1].get("SizeBytes", (0, 0))[1] == 96 * MIB)
    node = qemu.top_node("dev0")
    assert node["image"]["virtual-size"] == 96 * MIB
    assert [(b["name"], b["recording"], b.get("inconsistent")) for b in node["dirty-bitmaps"]] == [("one", True, None)]
    qemu.write("dev0", 9, 80 * MIB, MIB)
    error, message = refused(lambda: resize(client, disk, 64 * MIB))
    assert error == "InvalidArgument" and "shrink" in message, message
    error, message = refused(lambda: resize(client, disk, 32 * MIB, shrink=True))
    assert error == "InvalidArgument" and paths[0] in message, message
    client.finish(client.create_snapshot(vm, "s1"))
    assert images.info(active(client, disk))["virtual-size"] == 96 * MIB
    client.finish(resize(client, disk, 128 * MIB))
    qemu.quit()
    client.call(vm, "VM", "Refresh")
    patterns(active(client, disk), (1, 0, MIB), (2, MIB, MIB), (9, 80 * MIB, MIB), (0, 96 * MIB, 32 * MIB))
    images.check(active(client, disk))
    assert images.bitmaps(active(client, disk))["one"]["flags"] == ["auto"]
    client.finish(resize(client, disk, 160 * MIB))
    assert images.info(active(client, disk))["virtual-size"] == 160 * MIB


def test_live_and_smaller(client, imported, qemus):
    disk, paths = imported("data")
    qemu = qemus("vm", [paths[0]], running=True)
    client.register_vm("web", qmp_socket=qemu.qmp)
    client.finish(resize(client, disk, 16 * MIB, shrink=True))
    assert qemu.top_node("dev0")["image"]["virtual-size"] == 16 * MIB == client.get(disk, "Disk", "SizeBytes")


def test_beneath_a_filter(client, imported, qemus):
    disk, paths = imported("data")
    nodes = blockdevs("vol0", paths[0]) + [{"driver": "throttle", "node-name": "slow", "throttle-group": "group",
                                            "file": "vol0"}]
    qemu = qemus("vm", [{"path": paths[0], "node": "slow", "blockdevs": nodes}], running=True,
                 extra=["-object", "throttle-group,id=group,x-iops-total=10000"])
    client.register_vm("web", qmp_socket=qemu.qmp)
    client.finish(resize(client, disk, 96 * MIB))
    assert qemu.nodes()["slow"]["image"]["virtual-size"] == 96 * MIB
    qemu.write("dev0", 9, 95 * MIB, MIB)


def test_inconsistent_bitmaps_stand_in_the_way(client, imported, stranger):
    """As a QEMU that was killed leaves them: QEMU would have to give them a size that means nothing."""
    disk, paths = imported("data", bitmaps=("lost",))
    stranger(paths[0]).kill()
    error, message = client.failure(resize(client, disk, 96 * MIB))
    assert error == "QemuFailed" and "'lost' is inconsistent" in message and str(64 * MIB) in message, message
    images.run("qemu-img", "bitmap", "--remove", paths[0], "lost")
    client.finish(resize(client, disk, 96 * MIB))


# --- deleted ---

def test_delete(client, imported, pool_directory):
    keep, kept = imported("keep", layers=2)
    disk, paths = imported("data", layers=3)
    base = volume_at(client, paths[0])[0]
    overlay(client, disk, backing=Variant("o", base))
    digest = images.digest(kept[1])
    assert client.finish(delete(client, disk)) == {"volumes": 4}
    assert set(client.of_kind("disk")) == {keep}
    assert {v["Path"] for v in client.of_kind("volume").values()} == set(kept)
    assert images.image_files(pool_directory) == sorted(os.path.basename(path) for path in kept)
    assert images.digest(kept[1]) == digest


def test_delete_what_is_half_gone(client, imported, pool_directory):
    disk, paths = imported("data", layers=2)
    os.unlink(paths[0])
    client.finish(delete(client, disk))
    assert images.image_files(pool_directory) == [] and client.of_kind("disk") == client.of_kind("volume") == {}


def test_delete_where_the_directory_is_away(client, imported, pool_directory):
    """Its files may come back."""
    disk, paths = imported("data")
    os.rename(pool_directory, pool_directory + ".away")
    error, message = client.failure(delete(client, disk))
    assert error == "NotFound" and pool_directory in message, message
    os.rename(pool_directory + ".away", pool_directory)
    assert set(client.of_kind("disk")) == {disk} and os.path.exists(paths[0])


@pytest.mark.parametrize("layer", [0, 1])
def test_delete_while_a_process_has_it_open(client, imported, pool_directory, stranger, layer):
    """For writing, or, the base, below an overlay of its own."""
    disk, paths = imported("data", layers=2)
    qemu = stranger({"path": paths[layer], "ro": layer == 0, "device": {"driver": "virtio-blk-pci"}})
    before = client.objects()
    error, message = client.failure(delete(client, disk))
    assert error == "InUse" and str(qemu.process.pid) in message, message
    assert any(path in message for path in paths[:layer + 1]), message
    assert {p: o for p, o in client.objects().items() if "/job/" not in p} == \
        {p: o for p, o in before.items() if "/job/" not in p}
    assert images.image_files(pool_directory) == sorted(os.path.basename(path) for path in paths)
    qemu.kill()
    client.finish(delete(client, disk))


def test_delete_what_others_stand_on(client, imported, pool, pool_directory):
    disk, paths = imported("data")
    overlay(client, disk)
    images.create(f"{pool_directory}/other.qcow2", None, backing="data.0.qcow2")
    other = client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", "other.qcow2", {}))["disk"]
    error, message = refused(lambda: delete(client, disk, snapshots=True))
    assert error == "InUse" and "'other'" in message and f"{pool_directory}/other.qcow2" in message, message
    # The other way round nothing stands in the way, and the base stays.
    client.finish(delete(client, other))
    assert os.path.exists(paths[0])
    client.finish(delete(client, disk))
    assert images.image_files(pool_directory) == []


def test_delete_a_disk_of_a_running_vm(client, imported, qemus, pool_directory):
    disk, paths = imported("data")
    qemu = qemus("vm", [paths[0]])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    error, message = refused(lambda: delete(client, disk))
    assert error == "Running" and "'web'" in message, message
    qemu.quit()
    client.call(vm, "VM", "Refresh")
    client.finish(delete(client, disk))
    assert client.get(vm, "VM", "Disks") == [] and images.image_files(pool_directory) == []


def test_delete_a_disk_that_snapshots_name(client, imported, pool_directory):
    """A tree: both (of two disks) <- alone (of the one that goes) <- after (of the other) <- last (of the one that goes)."""
    root, root_paths = imported("root")
    data, data_paths = imported("data")
    vm = client.register_vm("web")
    client.finish(attach(client, root, vm, "root"))
    client.finish(attach(client, data, vm, "data"))
    taken = {}
    for name, disks in ("both", [root, data]), ("alone", [data]), ("after", [root]), ("last", [data]):
        taken[name] = client.finish(client.create_snapshot(vm, name, disks=disks))["snapshot"]
    content = images.digest(active(client, root))

    error, message = refused(lambda: delete(client, data))
    assert error == "InUse" and all(f"'{name}'" in message for name in ("both", "alone", "last")), message
    assert "'after'" not in message and "snapshots=true" in message
    assert client.finish(delete(client, data, snapshots=True)) == {"volumes": 4}

    found = client.of_kind("snapshot")
    assert set(found) == {taken["both"], taken["after"]}
    both, after = found[taken["both"]], found[taken["after"]]
    assert both["Status"] == "partial" and both["Disks"] == [(root, volume_at(client, root_paths[0])[0])]
    assert both["Excluded"] == [(data, "the disk was deleted")] and both["Children"] == [taken["after"]]
    assert (after["Parent"], after["Status"], after["Excluded"]) == (taken["both"], "ok", [])
    assert client.get(vm, "VM", "CurrentSnapshot") == taken["after"] and after["Current"]
    assert client.get(vm, "VM", "Disks") == [root] and images.digest(active(client, root)) == content
    chain = images.chain(active(client, root))
    assert images.image_files(pool_directory) == sorted(os.path.basename(path) for path in chain)
    # And on from there.
    last = client.finish(client.create_snapshot(vm, "last"))["snapshot"]
    assert client.get(last, "Snapshot", "Parent") == taken["after"]


def test_delete_a_floating_disk_that_a_vm_has_snapshots_of(client, imported, qemus):
    """They are of the VM, though the disk is not any more."""
    root, root_paths = imported("root")
    data, data_paths = imported("data")
    vm = client.register_vm("web")
    for disk, target in (root, "root"), (data, "data"):
        client.finish(attach(client, disk, vm, target))
    both = client.finish(client.create_snapshot(vm, "both"))["snapshot"]
    client.finish(detach(client, data))
    assert refused(lambda: delete(client, data))[0] == "InUse"
    client.finish(delete(client, data, snapshots=True))
    shown = client.get_all(both, "Snapshot")
    assert shown["Status"] == "partial" and [disk for disk, _ in shown["Disks"]] == [root]


def test_after_a_restart_a_deleted_disk_is_gone(client, imported, daemon, bus):
    disk, paths = imported("data", layers=2)
    vm = client.register_vm("web")
    client.finish(attach(client, disk, vm, "data"))
    client.finish(client.create_snapshot(vm, "s1"))
    client.finish(delete(client, disk, snapshots=True))
    client.close()
    daemon.stop()
    daemon.start()
    again = Client(bus.address)
    assert again.of_kind("disk") == again.of_kind("snapshot") == again.of_kind("volume") == {}
    assert again.get(vm, "VM", "CurrentSnapshot") == "/"
    again.close()
