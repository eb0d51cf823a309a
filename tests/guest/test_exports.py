# SPDX-License-Identifier: MIT
"""A real appliance: Linux sees the disk of a snapshot by its serial, mounts it, reads the files, and lets it go."""
import time

import pytest

from harness import exports, images
from harness.filesystems import Ext4, make_disk

MIB = 1 << 20
PORTS = [word for n in range(2) for word in ("-device", f"pcie-root-port,id=port{n},chassis={n + 1},slot={n + 1}")]
WAYS = {"acpi": [], "native": ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]}


@pytest.fixture
def config():
    return '[quiesce]\nagent-timeout = "10s"\nthaw-timeout = "20s"\nfreeze-timeout = "30s"\nfreeze-limit = "30s"\n'


@pytest.fixture
def source(client, pool, pool_directory, qemus):
    """(VM, disk, snapshot) of a VM with a file system."""
    path = make_disk(f"{pool_directory}/source.qcow2")
    raw = f"{pool_directory}/source.raw"
    images.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    with open(f"{pool_directory}/words", "w") as f:
        f.write("what was saved\n")
    images.run("debugfs", "-w", "-R", f"write {pool_directory}/words words", raw, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    images.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    qemu = qemus("source", [path])
    vm = client.register_vm("source", qmp_socket=qemu.qmp)
    [disk] = client.get(vm, "VM", "Disks")
    snapshot = client.finish(client.create_snapshot(vm, "s1", quiesce="off"))["snapshot"]
    return vm, disk, snapshot, path


@pytest.fixture(params=list(WAYS))
def appliance(client, pool_directory, guests, request):
    guest = guests("appliance", [make_disk(f"{pool_directory}/appliance.qcow2")], extra=WAYS[request.param] + PORTS)
    return guest, client.register_vm("appliance", qmp_socket=guest.qmp, agent_socket=guest.agent)


def disks_in(guest):
    lines = [line.split() for line in guest.shell("disks").splitlines()]
    return {serial: (name, int(size)) for name, serial, size, *_ in lines}


def until(guest, condition, timeout=30):
    end = time.monotonic() + timeout
    while not condition(found := disks_in(guest)):
        assert time.monotonic() < end, found
    return found


def test_ten_times_in_a_row(client, daemon, source, appliance):
    guest, vm = appliance
    _, disk, snapshot, path = source
    before = images.digest(path)
    for turn in range(10):
        writable = turn % 2 == 1
        export = exports.make(client, snapshot, disk, kind="device", vm=vm, serial=f"backup{turn}", writable=writable)
        serial = client.get(export, "Export", "Device")
        name, size = until(guest, lambda disks: serial in disks)[serial]
        assert size == 64 * MIB
        how = "rw" if writable else "ro,noload"
        guest.shell(f"mkdir -p /mnt/backup; mount -t ext4 -o {how} /dev/{name} /mnt/backup")
        assert guest.shell("cat /mnt/backup/words") == "what was saved\n"
        if writable:
            guest.shell("echo mine > /mnt/backup/mine; sync")
        guest.shell("umount /mnt/backup")
        exports.stop(client, export)
        assert set(disks_in(guest)) == {"serial0"} and len(guest.nodes()) == 2
    assert images.digest(path) == before
    with Ext4(path) as filesystem:
        assert filesystem.read("/mine") is None
    assert exports.leftovers(daemon.directory) == []
