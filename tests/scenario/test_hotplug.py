# SPDX-License-Identifier: MIT
"""Disks plugged into a running VM and out of it again: the whole chain, as it is when a VM is started with it, and nothing
of it left behind. Without a guest: a PCIe port with native hot-plug, and a SCSI bus, let go by themselves; ACPI hot-plug
waits for a guest that is not there. A real guest is in tests/guest/test_hotplug.py."""
import json
import os

import pytest

from harness import images
from harness.chains import disk_by_target, volume_chain
from harness.client import Client
from harness.disks import active, attach, detach, patterns, refused, resize, snapshot
from harness.qemu import blockdevs

MIB = 1 << 20
# Ports that need no guest to let go of a device.
NATIVE = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]


def ports(count=2):
    return [word for n in range(count) for word in ("-device", f"pcie-root-port,id=port{n},chassis={n + 1},slot={n + 1}")]


@pytest.fixture
def web(client, qemus, imported):
    """make(extra, ...) -> (vm, qemu): a VM that runs, with a disk of its own."""
    def make(extra=(*NATIVE, *ports()), **options):
        _, paths = imported("root")
        qemu = qemus("vm", [{"path": paths[0], "serial": "root"}], running=True, extra=extra, **options)
        return client.register_vm("web", qmp_socket=qemu.qmp), qemu
    return make


def only_root(qemu):
    assert set(qemu.nodes()) == {"vol0", "vol0-file"}, set(qemu.nodes())
    assert [block["qdev"] for block in qemu.execute("query-block")] == ["/machine/peripheral/dev0/virtio-backend"]


def device_of(result, qemu):
    """What QEMU has on the device that an Attach named."""
    return qemu.top_node(result["device"])


# --- in and out ---

def test_a_chain(client, web, imported):
    vm, qemu = web()
    disk, paths = imported("data", layers=3, bitmaps=("one",))
    images.run("qemu-img", "bitmap", "--add", paths[1], "below")
    result = client.finish(attach(client, disk, vm, "data"))
    assert client.get_all(disk, "Disk") | {"VM": vm, "Target": "data", "State": "ok"} == client.get_all(disk, "Disk")
    assert sorted(client.get(vm, "VM", "Disks")) == sorted([disk, disk_by_target(client, vm, "root")[0]])
    assert client.get(vm, "VM", "Unmanaged") == []
    assert qemu.active_file(result["device"]) == paths[2]
    serial = qemu.execute("qom-get", path=f"/machine/peripheral/{result['device']}", property="serial")
    assert serial == "data"
    read_only = {qemu.file_of(node): node["ro"] for node in qemu.nodes().values() if node["drv"] == "qcow2"}
    assert [read_only[path] for path in paths] == [True, True, False] and len(qemu.nodes()) == 2 + 6
    assert images.bitmaps(paths[1])["below"]["flags"] == ["auto"], "a crash would lose it"
    [bitmap] = device_of(result, qemu)["dirty-bitmaps"]
    assert (bitmap["name"], bitmap["recording"], bitmap["persistent"]) == ("one", True, True)
    qemu.io(result["device"], f"read -P 1 0 {MIB}")
    qemu.write(result["device"], 9, 8 * MIB, MIB)

    client.finish(detach(client, disk))
    only_root(qemu)
    assert (client.get(disk, "Disk", "VM"), client.get(disk, "Disk", "Target")) == ("/", "")
    assert client.get(disk, "Disk", "State") == "ok" and volume_chain(client, client.get(disk, "Disk", "Active")) == paths[::-1]
    patterns(paths[2], (1, 0, MIB), (2, MIB, MIB), (3, 2 * MIB, MIB), (9, 8 * MIB, MIB), (0, 9 * MIB, 55 * MIB))
    assert images.bitmaps(paths[2])["one"]["flags"] == ["auto"]
    for path in paths:
        images.check(path)
    # Nobody has it open: it can be worked on offline, and come back.
    client.finish(resize(client, disk, 96 * MIB))
    again = client.finish(attach(client, disk, vm, "again"))
    assert device_of(again, qemu)["image"]["virtual-size"] == 96 * MIB
    client.finish(detach(client, disk))
    only_root(qemu)


def test_snapshots_go_on(client, web, imported):
    """The new disk is one like the others; the file of the snapshot is not written to, and the next layer is."""
    vm, qemu = web()
    disk, paths = imported("data", layers=2)
    device = client.finish(attach(client, disk, vm, "data"))["device"]
    both = client.finish(client.create_snapshot(vm, "both"))["snapshot"]
    assert len(client.get(both, "Snapshot", "Disks")) == 2
    content = images.digest(paths[1])
    qemu.write(device, 9, 0, MIB)
    client.finish(snapshot(client, disk, "alone"))
    qemu.write(device, 8, MIB, MIB)
    assert images.digest(paths[1]) == content
    client.finish(detach(client, disk))
    assert len(qemu.nodes()) == 4 and client.get(vm, "VM", "CurrentSnapshot") == both
    patterns(active(client, disk), (9, 0, MIB), (8, MIB, MIB), (0, 2 * MIB, 62 * MIB))
    assert [s["VM"] for s in client.of_kind("snapshot").values() if s["Name"] == "alone"] == ["/"]
    device = client.finish(attach(client, disk, vm, "data"))["device"]
    assert qemu.active_file(device) == active(client, disk)
    assert [s["VM"] for s in client.of_kind("snapshot").values() if s["Name"] == "alone"] == [vm]
    client.finish(client.create_snapshot(vm, "next"))


def test_without_a_target(client, web, imported):
    vm, qemu = web()
    disk, _ = imported("data")
    device = client.finish(attach(client, disk, vm))["device"]
    assert client.get(disk, "Disk", "Target") == device
    client.call(vm, "VM", "Refresh")
    assert client.get(disk, "Disk", "Target") == device
    client.finish(detach(client, disk))


def test_a_scsi_bus(client, web, imported):
    vm, qemu = web(extra=["-device", "virtio-scsi-pci,id=scsi0"])
    disk, paths = imported("data")
    result = client.finish(attach(client, disk, vm, "data", device="scsi-hd", bus="scsi0.0"))
    assert qemu.active_file(result["device"]) == paths[0]
    client.finish(client.create_snapshot(vm, "s1"))
    client.finish(detach(client, disk))
    assert len(qemu.nodes()) == 4  # the root disk has an overlay now


def test_a_raw_disk(client, web, imported):
    vm, qemu = web()
    disk, paths = imported("data", base_format="raw", size=8 * MIB)
    result = client.finish(attach(client, disk, vm, "data"))
    assert device_of(result, qemu)["drv"] == "raw"
    qemu.write(result["device"], 5, 4 * MIB, MIB)
    client.finish(detach(client, disk))
    only_root(qemu)
    patterns(paths[0], (1, 0, MIB), (5, 4 * MIB, MIB))


def test_two_on_one_base(client, web, imported, pool, pool_directory):
    """Each has nodes of its own; the one that stays is not touched when the other goes."""
    vm, qemu = web()
    one, paths = imported("one", layers=2)
    images.create(f"{pool_directory}/other.qcow2", None, backing="one.0.qcow2")
    other = client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", "other.qcow2", {}))["disk"]
    first, second = (client.finish(attach(client, disk, vm, name)) for disk, name in ((one, "one"), (other, "other")))
    assert len(qemu.nodes()) == 2 + 4 + 4
    client.finish(detach(client, one))
    assert len(qemu.nodes()) == 2 + 4
    qemu.io(second["device"], f"read -P 1 0 {MIB}")
    client.finish(detach(client, other))
    only_root(qemu)


def test_options_of_the_disk_come_along(client, qemus, imported, web):
    """Those it had in the VM where it was before."""
    disk, paths = imported("data")
    nodes = [{**blockdevs("vol0", paths[0])[0], "cache": {"direct": True}},
             {**blockdevs("vol0", paths[0])[1], "detect-zeroes": "on", "discard": "ignore", "cache": {"direct": True}}]
    before = qemus("before", [{"path": paths[0], "blockdevs": nodes}])
    first = client.register_vm("first", qmp_socket=before.qmp)
    before.quit()
    client.call(first, "VM", "Refresh")
    client.finish(detach(client, disk))
    vm, qemu = web()
    device = client.finish(attach(client, disk, vm, "data"))["device"]
    node = qemu.top_node(device)
    assert node["detect_zeroes"] == "on" and node["cache"]["direct"]
    client.finish(client.create_snapshot(vm, "s1"))
    node = qemu.top_node(device)
    assert node["detect_zeroes"] == "on" and node["cache"]["direct"], "the overlay has other options"


# --- where it can be plugged in ---

def test_ports_are_found(client, web, imported):
    """pcie.0 takes no plugging; QEMU does not look any further."""
    vm, qemu = web(extra=(*NATIVE, *ports(2)))
    disks = [imported(f"data{n}")[0] for n in range(3)]
    for number in range(2):
        client.finish(attach(client, disks[number], vm, f"data{number}"))
    error, message = client.failure(attach(client, disks[2], vm, "data2"))
    assert error == "Unsupported" and "root port to spare" in message, message
    assert len(qemu.nodes()) == 2 + 4 and client.get(disks[2], "Disk", "VM") == "/"
    client.finish(detach(client, disks[0]))
    client.finish(attach(client, disks[2], vm, "data2", bus="port0"))


def test_no_port(client, web, imported):
    vm, qemu = web(extra=())
    disk, paths = imported("data", layers=2)
    error, message = client.failure(attach(client, disk, vm, "data"))
    assert error == "Unsupported" and "PCIe root port" in message, message
    only_root(qemu)
    assert client.get(disk, "Disk", "VM") == "/" and client.get(disk, "Disk", "State") == "ok"
    client.finish(resize(client, disk, 96 * MIB))


@pytest.mark.parametrize("options, error, words", [
    ({"device": "no-such-device"}, "QemuFailed", "no-such-device"),
    ({"device": "e1000"}, "QemuFailed", "e1000"),
    ({"bus": "nowhere"}, "QemuFailed", "nowhere"),
    ({"device": "scsi-hd"}, "QemuFailed", "SCSI"),
])
def test_qemu_refuses(client, web, imported, options, error, words):
    vm, qemu = web()
    disk, _ = imported("data", layers=2)
    before = client.get_all(disk, "Disk")
    found, message = client.failure(attach(client, disk, vm, "data", **options))
    assert found == error and words in message, message
    only_root(qemu)
    assert client.get_all(disk, "Disk") == before


@pytest.mark.parametrize("options", [{"device": "x,drive=y"}, {"device": "x" * 200}, {"bus": "a b"}, {"bus": "a\nb"}])
def test_words_that_are_none(client, web, imported, options):
    vm, _ = web()
    disk, _ = imported("data")
    error, message = refused(lambda: attach(client, disk, vm, "data", **options))
    assert error == "InvalidArgument" and f"'{next(iter(options))}'" in message, message


def test_options_are_for_a_vm_that_runs(client, imported):
    disk, _ = imported("data")
    vm = client.register_vm("down")
    for options in {"device": "scsi-hd"}, {"bus": "pcie.0"}:
        error, message = refused(lambda: attach(client, disk, vm, "data", **options))
        assert error == "InvalidArgument" and "'down'" in message, message
    client.finish(attach(client, disk, vm, "data"))
    client.finish(detach(client, disk, timeout_usec=1000))


def test_another_process_has_it(client, web, imported, qemus):
    vm, qemu = web()
    disk, paths = imported("data", layers=2)
    stranger = qemus("stranger", [paths[1]])
    error, message = client.failure(attach(client, disk, vm, "data"))
    assert error == "InUse" and "lock" in message, message
    only_root(qemu)
    stranger.kill()
    client.finish(attach(client, disk, vm, "data"))


def test_a_chain_that_is_not_whole(client, web, imported):
    vm, qemu = web()
    disk, paths = imported("data", layers=3)
    os.rename(paths[0], paths[0] + ".away")
    error, message = client.failure(attach(client, disk, vm, "data"))
    assert error == "BrokenChain" and paths[0] in message, message
    only_root(qemu)
    os.rename(paths[0] + ".away", paths[0])
    client.finish(attach(client, disk, vm, "data"))


def test_an_image_that_has_become_unsafe(client, web, imported, directory):
    """Somebody has made the backing file a link since it was imported."""
    vm, qemu = web()
    disk, paths = imported("data", layers=2)
    os.rename(paths[0], f"{directory}/elsewhere.qcow2")
    os.symlink(f"{directory}/elsewhere.qcow2", paths[0])
    error, message = client.failure(attach(client, disk, vm, "data"))
    assert error in ("UnsafeImage", "BrokenChain"), message
    only_root(qemu)


# --- disks that the VM was started with ---

@pytest.mark.parametrize("form", ["blockdev", "drive", "throttle", "anonymous"])
def test_out_of_a_vm_that_was_started_with_it(client, imported, qemus, form):
    """However that was written. SCSI lets go without a guest."""
    disk, paths = imported("data", layers=2)
    drive = ["-drive", f"file={paths[1]},format=qcow2,if=none,id=drive0"]
    nodes = [word for node in blockdevs("vol0", paths[1]) for word in ("-blockdev", json.dumps(node))]
    throttle = ["-object", "throttle-group,id=group,x-iops-total=10000",
                "-blockdev", "throttle,node-name=slow,throttle-group=group,file=vol0"]
    backend, what = {"blockdev": (nodes, "drive=vol0,id=dev0"), "drive": (drive, "drive=drive0,id=dev0"),
                     "throttle": (nodes + throttle, "drive=slow,id=dev0"), "anonymous": (drive, "drive=drive0")}[form]
    qemu = qemus("vm", [], running=True, extra=["-device", "virtio-scsi-pci,id=scsi0", *backend,
                                                "-device", f"scsi-hd,bus=scsi0.0,serial=data,{what}"])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    assert disk_by_target(client, vm, "data")[0] == disk
    client.finish(client.create_snapshot(vm, "s1"))
    client.finish(detach(client, disk))
    assert qemu.nodes() == {} and client.get(vm, "VM", "Disks") == []
    images.check(active(client, disk))
    client.finish(resize(client, disk, 96 * MIB))


def test_a_place_that_lets_nothing_go(client, web):
    """pcie.0: QEMU refuses at once."""
    vm, qemu = web()
    disk, before = disk_by_target(client, vm, "root")
    error, message = client.failure(detach(client, disk))
    assert error == "QemuFailed" and "stays attached" in message, message
    only_root(qemu)
    assert client.get_all(disk, "Disk") == before


def test_something_else_has_it_open(client, web, imported):
    """The guest lets go, an export of the VM's manager does not: QEMU has the image open, and the record goes on saying so."""
    vm, qemu = web()
    disk, paths = imported("data", layers=2)
    device = client.finish(attach(client, disk, vm, "data"))["device"]
    node = qemu.top_node(device)["node-name"]
    qemu.execute("nbd-server-start", addr={"type": "unix", "data": {"path": f"{qemu.directory}/nbd.sock"}})
    qemu.execute("block-export-add", type="nbd", id="export", **{"node-name": node})
    error, message = client.failure(detach(client, disk))
    assert error == "InUse" and node in message and "detach it again" in message, message
    assert client.get(disk, "Disk", "VM") == vm and node in qemu.nodes()
    qemu.execute("block-export-del", id="export")
    qemu.monitor.event("BLOCK_EXPORT_DELETED", id="export")
    client.finish(detach(client, disk))
    only_root(qemu)
    assert client.get(disk, "Disk", "VM") == "/"


# --- guests that do not answer ---

@pytest.fixture
def silent(client, web, imported):
    """A VM with ACPI hot-plug and no guest: (vm, qemu, disk, its device)."""
    vm, qemu = web(extra=(), machine="pc")
    disk, _ = imported("data", layers=2)
    return vm, qemu, disk, client.finish(attach(client, disk, vm, "data"))["device"]


def test_timeout(client, silent):
    vm, qemu, disk, device = silent
    before, nodes = client.get_all(disk, "Disk"), qemu.nodes()
    error, message = client.failure(detach(client, disk, timeout_usec=1_000_000))
    assert error == "Timeout" and device in message and "detach it again" in message, message
    assert client.get_all(disk, "Disk") == before and set(qemu.nodes()) == set(nodes)
    # It is a disk of the VM as before.
    qemu.write(device, 7, 0, MIB)
    taken = client.finish(client.create_snapshot(vm, "s1"))["snapshot"]
    assert disk in [d for d, _ in client.get(taken, "Snapshot", "Disks")]
    for usec in 0, 3_600_000_001:
        assert refused(lambda: detach(client, disk, timeout_usec=usec))[0] == "InvalidArgument"


def test_it_lets_go_later(client, silent):
    """At a reset it lets go of what it was asked for."""
    vm, qemu, disk, device = silent
    client.failure(detach(client, disk, timeout_usec=200_000))
    with client.signals(member="PropertiesChanged"):
        qemu.execute("system_reset")
        qemu.monitor.event("DEVICE_DELETED", device=device)
    assert client.get(disk, "Disk", "VM") == vm, "nobody was told to detach it"
    error, message = refused(lambda: snapshot(client, disk, "s1"))
    assert error == "NotRunning" and "does not have it" in message, message
    client.finish(detach(client, disk, timeout_usec=200_000))
    only_root(qemu)
    assert client.get(disk, "Disk", "VM") == "/"
    client.finish(attach(client, disk, vm, "data"))


def test_cancel(client, silent):
    vm, qemu, disk, device = silent
    job = detach(client, disk, timeout_usec=60_000_000)
    with client.signals(path=job, member="PropertiesChanged"):
        client.wait_property(job, "Job", "Step", "unplug")
    client.call(job, "Job", "Cancel")
    state, error, message, _ = client.wait(job)
    assert (state, error) == ("cancelled", "Cancelled") and "stays attached" in message, message
    assert client.get(disk, "Disk", "VM") == vm and qemu.top_node(device)


def test_qemu_ends_meanwhile(client, silent):
    vm, qemu, disk, device = silent
    job = detach(client, disk, timeout_usec=60_000_000)
    client.wait_property(job, "Job", "Step", "unplug")
    qemu.kill()
    error, message = client.failure(job)
    assert error in ("Unreachable", "NotRunning") and "stays attached" in message, message
    assert client.get(disk, "Disk", "VM") == vm and client.get(vm, "VM", "State") == "crashed"
    client.finish(detach(client, disk))
    assert client.get(disk, "Disk", "VM") == "/"


def test_busy(client, silent, imported):
    """One thing at a time on a VM and on a disk."""
    vm, qemu, disk, device = silent
    other, _ = imported("other")
    job = detach(client, disk, timeout_usec=60_000_000)
    for call in (lambda: attach(client, other, vm, "other"), lambda: snapshot(client, disk, "s1"),
                 lambda: resize(client, disk, 96 * MIB), lambda: client.create_snapshot(vm, "s1")):
        error, message = refused(call)
        assert error == "Busy" and "detach-disk" in message, message
    client.call(job, "Job", "Cancel")
    client.failure(job)


def test_after_a_restart_it_is_a_disk_like_others(client, daemon, bus, web, imported):
    vm, qemu = web()
    disk, paths = imported("data", layers=2)
    device = client.finish(attach(client, disk, vm, "data"))["device"]
    client.close()
    daemon.stop()
    daemon.start()
    again = Client(bus.address)
    assert again.get(disk, "Disk", "VM") == vm and again.get(disk, "Disk", "Target") == "data"
    again.finish(again.create_snapshot(vm, "s1"))
    assert qemu.active_file(device) == active(again, disk)
    again.finish(detach(again, disk))
    assert len(qemu.nodes()) == 4
    again.close()
