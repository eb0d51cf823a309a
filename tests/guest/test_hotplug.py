# SPDX-License-Identifier: MIT
"""Disks plugged into a real Linux and out of it again, and made larger under it: the guest sees them, writes to them, lets
go of them, and what it wrote is in the image."""
import os
import time

import pytest

from harness import images
from harness.disks import active, attach, detach, resize, snapshot
from harness.filesystems import Ext4, make_disk
from harness.guest_world import GuestWorld

MIB = 1 << 20
PORTS = [word for n in range(2) for word in ("-device", f"pcie-root-port,id=port{n},chassis={n + 1},slot={n + 1}")]
# How the guest is told of it: by ACPI, as is usual, or by the port itself, which lets its user change their mind for five
# seconds.
WAYS = {"acpi": [], "native": ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]}


@pytest.fixture
def config():
    return '[quiesce]\nagent-timeout = "10s"\nthaw-timeout = "20s"\nfreeze-timeout = "30s"\nfreeze-limit = "30s"\n'


@pytest.fixture(params=list(WAYS))
def world(client, pool, pool_directory, guests, request):
    guest = guests("guest", [make_disk(f"{pool_directory}/root.qcow2")], writer=1, extra=WAYS[request.param] + PORTS)
    guest.wait_writing()
    vm = client.register_vm("web", qmp_socket=guest.qmp, agent_socket=guest.agent)
    return GuestWorld(client, guest, vm)


@pytest.fixture
def data(client, pool, pool_directory):
    """A floating disk with a file system, on an overlay: (disk, paths)."""
    base = make_disk(f"{pool_directory}/data.qcow2")
    top = images.create(f"{pool_directory}/top.qcow2", None, backing="data.qcow2")
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", os.path.basename(top), {})
    return client.finish(job)["disk"], [base, top]


def disks_in(guest):
    """{serial: (name, bytes)} of what the guest has."""
    lines = [line.split() for line in guest.shell("disks").splitlines()]
    return {serial: (name, int(size)) for name, serial, size, *_ in lines}


def until(guest, condition, timeout=30):
    """Until the guest's disks are so: it is told of nothing that a test could wait for."""
    end = time.monotonic() + timeout
    while not condition(found := disks_in(guest)):
        assert time.monotonic() < end, found
    return found


def test_in_and_out(client, world, data):
    guest, vm = world.guest, world.vm
    disk, paths = data
    for turn in range(2):
        client.finish(attach(client, disk, vm, "data"))
        name, size = until(guest, lambda disks: "data" in disks)["data"]
        assert (name, size) == ("vdb", 64 * MIB)
        guest.shell(f"disks up > /dev/null; echo turn {turn} > /mnt/vdb/turn{turn}; disks down vdb")
        client.finish(detach(client, disk))
        assert set(disks_in(guest)) == {"serial0"} and len(guest.nodes()) == 2
        images.check(paths[1])
        with Ext4(paths[1]) as filesystem:
            assert filesystem.clean, filesystem.why
            assert filesystem.read(f"/turn{turn}") == f"turn {turn}\n".encode()
        with Ext4(paths[0]) as filesystem:
            assert filesystem.read(f"/turn{turn}") is None, "the guest has written to what lies below"
    world.goes_on()


def test_a_snapshot_of_it_alone(client, world, data):
    """With the guest frozen, and of this disk alone; it goes with it."""
    guest, vm = world.guest, world.vm
    disk, paths = data
    client.finish(attach(client, disk, vm, "data"))
    until(guest, lambda disks: "data" in disks)
    guest.shell("disks up > /dev/null; echo before > /mnt/vdb/before")
    taken = client.finish(snapshot(client, disk, "alone", quiesce="require"))["snapshot"]
    found = client.get_all(taken, "Snapshot")
    assert (found["Consistency"], found["VM"]) == ("filesystem", vm) and [d for d, _ in found["Disks"]] == [disk]
    guest.shell("echo after > /mnt/vdb/after; disks down vdb")
    client.finish(detach(client, disk))
    assert client.get(taken, "Snapshot", "VM") == "/" and len(guest.nodes()) == 2
    with Ext4(paths[1]) as filesystem:
        assert filesystem.clean, filesystem.why
        assert filesystem.read("/before") == b"before\n" and filesystem.read("/after") is None
    with Ext4(active(client, disk)) as filesystem:
        assert filesystem.read("/after") == b"after\n"
    world.goes_on()


def test_larger_while_it_writes(client, world):
    guest = world.guest
    [disk] = client.get(world.vm, "VM", "Disks")
    before = guest.wait_writing()
    client.finish(resize(client, disk, 96 * MIB))
    until(guest, lambda disks: disks["serial0"][1] == 96 * MIB)
    world.goes_on()
    guest.shell("sync")
    assert guest.acknowledged() > before
    guest.shutdown()
    client.call(world.vm, "VM", "Refresh")
    images.check(active(client, disk))
    with Ext4(active(client, disk)) as filesystem:
        assert filesystem.records() >= before
    assert images.info(active(client, disk))["virtual-size"] == 96 * MIB
