# SPDX-License-Identifier: MIT
"""VM.LaunchArguments: a QEMU that is started with them has the disks as they are, and volchain finds them again."""
import json
import os
import time

import pytest

from harness import images
from harness.chains import disk_by_target, make_chain
from harness.down_vm import MIB, SIZE, DownVm
from harness.qemu import Qemu


@pytest.fixture
def make(client, directory):
    def make(*arguments, **options):
        return DownVm(client, directory, *arguments, **options)
    return make


def nodes_of(arguments):
    """{name of a format node: its object}, of what -blockdev gets."""
    found = [json.loads(value) for option, value in zip(arguments[::2], arguments[1::2]) if option == "-blockdev"]
    names = [n["node-name"] for n in found] + [n["file"]["node-name"] for n in found]
    assert len(set(names)) == len(names) and max(map(len, names)) <= 31
    return {node["node-name"]: node for node in found}


def chain_of(nodes, name):
    """From the top down: (file, format)."""
    chain = []
    while name:
        chain.append((nodes[name]["file"]["filename"], nodes[name]["driver"]))
        name = nodes[name].get("backing")
    return chain


def test_every_layer_is_said(make, client):
    vm = make(2).history("s1", "s2")
    arguments = vm.launch_arguments()
    assert set(arguments[::2]) == {"-blockdev"} and len(arguments) == 2 * 6
    nodes = nodes_of(arguments)
    for disk in vm.disks:
        root = vm.device_of(disk)
        assert chain_of(nodes, root) == [(path, "qcow2") for path in images.chain(vm.active(disk))]
        assert "read-only" not in nodes[root] and "read-only" not in nodes[root]["file"]
        below = nodes[nodes[root]["backing"]]
        assert below["read-only"] is True
        assert (below["file"]["read-only"], below["file"]["auto-read-only"]) == (False, True)
        assert nodes[below["backing"]]["backing"] is None
    # Each after what it stands on.
    for position, name in enumerate(nodes):
        assert nodes[name]["backing"] in [None, *list(nodes)[:position]]
    with_devices = vm.launch_arguments(device="virtio-blk-pci")
    devices = [value for option, value in zip(with_devices[::2], with_devices[1::2]) if option == "-device"]
    assert devices == [f"virtio-blk-pci,drive={vm.device_of(d)},id={vm.device_of(d)},serial=serial{n}"
                       for n, d in enumerate(vm.disks)]
    assert [a for a in with_devices if a not in devices + ["-device"]] == arguments


def test_a_machine_of_it(make, client):
    """Found again as the same disks, written to, snapshots taken live; and the names stay when it is started again."""
    vm = make(2).history("s1")
    roots = {vm.device_of(disk) for disk in vm.disks}
    for name in ("live1", "live2"):
        arguments = vm.launch_arguments()
        assert roots <= set(nodes_of(arguments))
        qemu = vm.run(running=True)
        assert sorted(vm.get("Disks")) == sorted(vm.disks) and vm.get("Unmanaged") == []
        for number, disk in enumerate(vm.disks):
            properties = client.get_all(disk, "Disk")
            assert (properties["State"], properties["Target"]) == ("ok", f"serial{number}")
            qemu.write(vm.device_of(disk), 0x90 + number, 4 * MIB, MIB)
        client.finish(client.create_snapshot(vm.vm, name))
        for number, disk in enumerate(vm.disks):
            qemu.write(vm.device_of(disk), 0x95 + number, 5 * MIB, MIB)
        vm.end(qemu)
        vm.check()
    assert vm.tree() == {"s1": None, "live1": "s1", "live2": "live1"}


def test_a_device_of_the_callers_own(make, client, directory):
    """The node's name follows from the disk's id: no look at the arguments is needed."""
    vm = make(1).history("s1")
    device = {"driver": "virtio-blk-pci", "id": "mine", "drive": vm.device_of(vm.disks[0]), "serial": "serial0"}
    qemu = Qemu(f"{directory}/vm", [], extra=[*vm.launch_arguments(), "-device", json.dumps(device)]).start()
    client.call(vm.vm, "VM", "Refresh")
    assert client.get(vm.disks[0], "Disk", "State") == "ok" and qemu.active_file("mine") == vm.active(vm.disks[0])
    vm.end(qemu)


def test_backing_layers_can_be_merged_into(make, client):
    """They are opened read-only in such a way that a commit can open them for writing."""
    vm = make(1).history("s1", "s2")
    qemu = vm.run()
    (root,) = [name for name in nodes_of(vm.launch_arguments()) if name.startswith("vcd-")]
    nodes = nodes_of(vm.launch_arguments())
    top = nodes[root]["backing"]
    qemu.execute("block-commit", device=root, **{"job-id": "merge", "top-node": top, "base-node": nodes[top]["backing"],
                                                 "auto-dismiss": False})
    end = time.monotonic() + 30
    while (job := qemu.execute("query-jobs")[0])["status"] != "concluded":
        assert time.monotonic() < end, job
    assert "error" not in job
    vm.end(qemu)


def test_bitmaps_of_backing_layers_outlive_a_crash(make, client):
    vm = make(1, bitmaps=("check",)).history("s1", "s2")
    qemu = vm.run()
    qemu.kill()
    chain = images.chain(vm.active(vm.disks[0]))
    assert len(chain) == 3 and [images.bitmaps(path)["check"]["flags"] for path in chain[1:]] == [["auto"], ["auto"]]


def test_commas(make, client):
    """In file names and in serials: both are said in another syntax."""
    vm = make(1, pool="po,ol, too")
    vm.disks.append(vm.add_disk("a,b=c", "x,y=z,"))
    vm.history("s1")
    qemu = vm.run()
    assert client.get(vm.disks[1], "Disk", "State") == "ok" and client.get(vm.disks[1], "Disk", "Target") == "x,y=z,"
    assert "po,ol, too/a_b_c-" in qemu.active_file(vm.device_of(vm.disks[1]))
    vm.end(qemu)
    vm.check()


def test_options_go_on(client, directory, qemus, pool_directory):
    """What a VM was run with is what it is started with again: cache, aio, discard, zeroes; raw bases; shared disks."""
    top = make_chain(pool_directory, "root", layers=2, base_format="raw")[-1]
    shared = images.create(f"{pool_directory}/shared.raw", SIZE, fmt="raw")
    cached = {"cache": {"direct": True, "no-flush": True}}
    disks = [{"path": top, "blockdevs": [
                 {"driver": "file", "node-name": "f", "filename": top, "aio": "io_uring", "discard": "unmap",
                  **cached},
                 {"driver": "qcow2", "node-name": "vol0", "file": "f", "discard": "unmap", "detect-zeroes": "unmap",
                  **cached}]},
             {"path": shared, "fmt": "raw", "device": {"share-rw": True}}]
    qemu = qemus("vm", disks)
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    root, data = (disk_by_target(client, vm, f"serial{n}")[0] for n in range(2))
    qemu.quit()
    client.call(vm, "VM", "Refresh")
    arguments = client.call(vm, "VM", "LaunchArguments", "a{sv}", {"device": ("s", "virtio-blk-pci")})
    nodes = nodes_of(arguments)
    upper = nodes[DownVm.device_of(root)]
    below = nodes[upper["backing"]]
    assert upper["detect-zeroes"] == "unmap" and "detect-zeroes" not in below
    for node in upper, below:
        assert node["cache"] == node["file"]["cache"] == {"direct": True, "no-flush": True}
        assert node["discard"] == node["file"]["discard"] == "unmap" and node["file"]["aio"] == "io_uring"
    assert (upper["driver"], below["driver"]) == ("qcow2", "raw") and "backing" not in below
    assert nodes[DownVm.device_of(data)]["driver"] == "raw"
    assert arguments[-1].endswith(",serial=serial1,share-rw=on") and "share-rw" not in arguments[-3]
    started = qemus("vm", [], extra=arguments)
    client.call(vm, "VM", "Refresh")
    assert {client.get(disk, "Disk", "State") for disk in (root, data)} == {"ok"}
    assert client.get(data, "Disk", "Shareable")
    again = client.call(vm, "VM", "LaunchArguments", "a{sv}", {"device": ("s", "virtio-blk-pci")})
    assert again == arguments
    started.quit()


def test_without_disks(client):
    assert client.call(client.register_vm("web"), "VM", "LaunchArguments", "a{sv}", {}) in ([], None)


def test_refused_where_the_chain_is_broken(make, client):
    vm = make(2).history("s1")
    base = images.chain(vm.active(vm.disks[1]))[-1]
    os.rename(base, base + ".away")
    error, message = vm.refused(vm.launch_arguments)
    assert error == "BrokenChain" and base in message and "disk1" in message
    os.rename(base + ".away", base)
    vm.launch_arguments()
    # A base that nobody knows.
    images.create(f"{vm.pool_path}/stranger.img", SIZE)
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "stranger.img", base)
    error, message = vm.refused(vm.launch_arguments)
    assert error == "BrokenChain" and "stranger.img" in message


@pytest.mark.parametrize("device", ["virtio-blk-pci,drive=x", "a b", "a=b", "../x", "ü", "x" * 65])
def test_what_is_no_device(make, device):
    vm = make(1)
    error, message = vm.refused(lambda: vm.launch_arguments(device=device))
    assert error == "InvalidArgument" and "'device'" in message
