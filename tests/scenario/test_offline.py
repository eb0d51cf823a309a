# SPDX-License-Identifier: MIT
"""Snapshots and overlays of disks that no QEMU uses: proved by the image locks, bitmaps carried on, nothing lost."""
import os

import pytest

from harness import images
from harness.chains import disk_by_target, make_chain, volume_chain
from harness.client import DBusError, Variant, variants
from harness.qemu import Qemu

MIB = 1 << 20


@pytest.fixture
def down(client, directory, qemus):
    """make(N) -> (vm, paths, disks): a VM that was seen with its disks and has ended."""
    def make(count=1, options=None, bitmaps=()):
        os.mkdir(f"{directory}/pool")
        paths = [make_chain(f"{directory}/pool", f"disk{n}", options=options)[0] for n in range(count)]
        for path in paths:
            for name in bitmaps:
                images.run("qemu-img", "bitmap", "--add", "-g", "131072", path, name)
        qemu = qemus("vm", paths)
        vm = client.register_vm("web", qmp_socket=qemu.qmp)
        disks = [disk_by_target(client, vm, f"serial{n}")[0] for n in range(count)]
        qemu.quit()
        client.call(vm, "VM", "Refresh")
        assert client.get(vm, "VM", "State") == "shutoff"
        return vm, paths, disks
    return make


def active(client, disk):
    return client.get(disk, "Disk", "ActivePath")


def test_an_offline_snapshot(client, down):
    vm, paths, disks = down(3)
    digests = [images.digest(path) for path in paths]
    result = client.finish(client.create_snapshot(vm, "s1"))
    snapshot = client.get_all(result["snapshot"], "Snapshot")
    assert (snapshot["Consistency"], snapshot["Status"], snapshot["VMState"]) == ("offline", "ok", "shutoff")
    for number, disk in enumerate(disks):
        assert images.chain(active(client, disk)) == [active(client, disk), paths[number]]
        assert volume_chain(client, client.get(disk, "Disk", "Active")) == images.chain(active(client, disk))
        images.check(active(client, disk))
        images.write(active(client, disk), 0x70 + number, 0, 4 * MIB)
        assert images.digest(paths[number]) == digests[number] != images.digest(active(client, disk))


def test_the_vm_starts_on_what_is_active(client, down, qemus):
    vm, paths, disks = down(2)
    client.finish(client.create_snapshot(vm, "s1"))
    qemu = qemus("vm", [active(client, disk) for disk in disks])
    client.call(vm, "VM", "Refresh")
    for number, disk in enumerate(disks):
        assert qemu.active_file(f"dev{number}") == active(client, disk)
        assert client.get(disk, "Disk", "State") == "ok"
    client.finish(client.create_snapshot(vm, "s2"))
    assert len(images.chain(active(client, disks[0]))) == 3


def test_bitmaps_go_on(client, down):
    vm, paths, disks = down(1, bitmaps=("one", "two", "stopped"))
    images.run("qemu-img", "bitmap", "--disable", paths[0], "stopped")
    client.finish(client.create_snapshot(vm, "s1"))
    found = images.bitmaps(active(client, disks[0]))
    assert set(found) == {"one", "two"} and all(b["flags"] == ["auto"] and b["granularity"] == 131072 for b in found.values())
    assert set(images.bitmaps(paths[0])) == {"one", "two", "stopped"}
    images.check(active(client, disks[0]))


def test_another_process_has_the_image(client, down, directory):
    """The VM is down as far as we know, but somebody writes to one of its disks."""
    vm, paths, disks = down(2)
    stranger = Qemu(f"{directory}/stranger", [paths[1]]).start()
    try:
        files = images.image_files(f"{directory}/pool")
        error, message = client.failure(client.create_snapshot(vm, "s1"))
        assert error == "InUse" and paths[1] in message and str(stranger.process.pid) in message, message
        assert images.image_files(f"{directory}/pool") == files and client.of_kind("snapshot") == {}
        result = client.finish(client.create_snapshot(vm, "s2", on_disk_failure="exclude"))
        snapshot = client.get_all(result["snapshot"], "Snapshot")
        assert snapshot["Status"] == "partial" and [d for d, _ in snapshot["Excluded"]] == [disks[1]]
    finally:
        stranger.kill()
    client.finish(client.create_snapshot(vm, "s3"))


def test_a_freeze_cannot_be_required(client, down, directory):
    vm, paths, disks = down(1)
    error, message = client.failure(client.create_snapshot(vm, "s1", quiesce="require"))
    assert error in ("NotRunning", "QuiesceFailed") and "down" in message
    assert images.chain(active(client, disks[0])) == [paths[0]]


def test_a_missing_image(client, down, directory):
    vm, paths, disks = down(2)
    os.rename(paths[0], paths[0] + ".away")
    error, message = client.failure(client.create_snapshot(vm, "s1"))
    assert error == "BrokenChain" and paths[0] in message, message
    # Also where it was seen to be missing meanwhile.
    client.finish(client.call(client.get(client.get(disks[0], "Disk", "Active"), "Volume", "Pool"), "Pool", "Refresh"))
    assert client.get(disks[0], "Disk", "State") == "broken"
    os.rename(paths[0] + ".away", paths[0])
    client.finish(client.create_snapshot(vm, "s1"))


def test_raw_disks(client, directory, qemus):
    os.mkdir(f"{directory}/pool")
    raw = images.create(f"{directory}/pool/data.raw", 8 * MIB + 512, fmt="raw")
    images.write(raw, 0x31, 0, MIB, fmt="raw")
    qemu = qemus("vm", [{"path": raw, "fmt": "raw"}])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    qemu.quit()
    client.call(vm, "VM", "Refresh")
    before = images.digest(raw, "raw")
    client.finish(client.create_snapshot(vm, "s1"))
    top = active(client, client.get(vm, "VM", "Disks")[0])
    assert images.info(top)["virtual-size"] == 8 * MIB + 512 and images.digest(top) == before


# --- overlays ---

def overlay(client, disk, **options):
    return client.call(disk, "Disk", "CreateOverlay", "a{sv}", variants(options))


def test_create_overlay_offline(client, down):
    vm, paths, disks = down(1)
    result = client.finish(overlay(client, disks[0]))
    assert client.get(disks[0], "Disk", "Active") == result["volume"]
    assert images.chain(active(client, disks[0]))[1:] == [paths[0]]


def test_a_branch(client, down):
    """backing=: the active volume stays, unless activate is given; the old leaf is kept."""
    vm, paths, disks = down(1)
    base = client.get(disks[0], "Disk", "Active")
    leaf = client.finish(overlay(client, disks[0]))["volume"]
    images.write(active(client, disks[0]), 0x66, 0, MIB)
    content = images.digest(active(client, disks[0]))
    branch = client.finish(overlay(client, disks[0], backing=Variant("o", base)))["volume"]
    assert client.get(disks[0], "Disk", "Active") == leaf and client.get(branch, "Volume", "Backing") == base
    assert sorted(client.get(base, "Volume", "Children")) == sorted([leaf, branch])
    other = client.finish(overlay(client, disks[0], backing=Variant("o", base), activate=True))["volume"]
    assert client.get(disks[0], "Disk", "Active") == other
    assert images.digest(client.get(leaf, "Volume", "Path")) == content
    assert images.digest(active(client, disks[0])) == images.digest(paths[0])
    error, message = refused(lambda: overlay(client, disks[0], activate=True))
    assert error == "InvalidArgument" and "activate" in message



def refused(call):
    with pytest.raises(DBusError) as error:
        call()
    return error.value.short, error.value.message


def test_overlay_of_a_running_vm(client, directory, qemus):
    os.mkdir(f"{directory}/pool")
    paths = [make_chain(f"{directory}/pool", f"disk{n}")[0] for n in range(2)]
    qemu = qemus("vm", paths)
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    disk = disk_by_target(client, vm, "serial0")[0]
    result = client.finish(overlay(client, disk))
    assert client.get(result["volume"], "Volume", "Path") == qemu.active_file("dev0") == active(client, disk)
    assert qemu.active_file("dev1") == paths[1] and client.of_kind("snapshot") == {}
    # A branch of a disk in use is made offline beside it, and cannot be switched to.
    base = client.get(result["volume"], "Volume", "Backing")
    branch = client.finish(overlay(client, disk, backing=Variant("o", base)))["volume"]
    assert qemu.active_file("dev0") == active(client, disk) != client.get(branch, "Volume", "Path")
    error, message = refused(lambda: overlay(client, disk, backing=Variant("o", base), activate=True))
    assert error == "Running", message


# --- attach, detach ---

def test_attach_and_detach_as_records(client, down):
    vm, paths, disks = down(2)
    client.finish(client.call(disks[1], "Disk", "Detach", "a{sv}", {}))
    assert client.get(disks[1], "Disk", "VM") == "/" and client.get(vm, "VM", "Disks") == [disks[0]]
    error, message = refused(lambda: client.call(disks[1], "Disk", "Detach", "a{sv}", {}))
    assert error == "InvalidArgument", message
    client.finish(client.create_snapshot(vm, "s1"))
    assert images.chain(active(client, disks[1])) == [paths[1]]
    error, message = refused(lambda: client.call(disks[1], "Disk", "Attach", "osa{sv}", vm, "serial0", {}))
    assert error == "AlreadyExists", message
    client.finish(client.call(disks[1], "Disk", "Attach", "osa{sv}", vm, "data", {}))
    assert client.get(disks[1], "Disk", "Target") == "data" and sorted(client.get(vm, "VM", "Disks")) == sorted(disks)
    error, message = refused(lambda: client.call(disks[1], "Disk", "Attach", "osa{sv}", vm, "other", {}))
    assert error == "InUse", message
