# SPDX-License-Identifier: MIT
"""RegisterVM: what is found in QEMU's block graph becomes disks and volumes, however it was put there."""
import os
import subprocess

import pytest

from harness import images
from harness.chains import disk_by_target, make_chain, volume_at, volume_chain
from harness.client import DBusError, variants


def test_chains_become_records(client, pool_directory, qemus):
    chain = make_chain(pool_directory, "root", layers=4)
    qemu = qemus("vm", [chain[-1]])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    disk, properties = disk_by_target(client, vm, "serial0")
    assert properties["ActivePath"] == chain[-1] and properties["State"] == "ok"
    assert properties["SizeBytes"] == 64 << 20 and len(properties["Volumes"]) == 4
    assert volume_chain(client, properties["Active"]) == chain[::-1] == images.chain(chain[-1])
    volumes = client.of_kind("volume")
    assert [volumes[volume_at(client, path)[0]]["Depth"] for path in chain] == [1, 2, 3, 4]
    assert [p["Active"] for p in (volume_at(client, path)[1] for path in chain)] == [False, False, False, True]
    assert client.get(vm, "VM", "State") == "paused"
    assert client.get(vm, "VM", "Disks") == [disk]
    pools = client.of_kind("pool")
    assert [p["Path"] for p in pools.values()] == [pool_directory]


@pytest.mark.parametrize("drive", [False, True], ids=["blockdev", "drive"])
@pytest.mark.parametrize("base_format", ["qcow2", "raw"])
def test_forms_of_attachment(client, pool_directory, qemus, drive, base_format):
    """-blockdev with its backing chain spelled out or opened by QEMU, legacy -drive, raw bases."""
    chain = make_chain(pool_directory, "root", layers=3, base_format=base_format)
    single = make_chain(pool_directory, "data", layers=1, base_format=base_format)
    qemu = qemus("vm", [{"path": chain[-1], "drive": drive},
                        {"path": single[0], "fmt": base_format, "drive": drive}])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    _, root = disk_by_target(client, vm, "serial0")
    assert volume_chain(client, root["Active"]) == chain[::-1]
    assert volume_at(client, chain[0])[1]["Format"] == base_format
    _, data = disk_by_target(client, vm, "serial1")
    assert data["ActivePath"] == single[0]


def test_target_is_the_serial_or_the_device(client, pool_directory, qemus):
    one, two = make_chain(pool_directory, "one")[0], make_chain(pool_directory, "two")[0]
    qemu = qemus("vm", [one, {"path": two, "serial": ""}])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    targets = {p["Target"]: p["ActivePath"] for p in client.of_kind("disk").values() if p["VM"] == vm}
    assert targets == {"serial0": one, "dev1": two}


def test_a_base_that_two_vms_share(client, pool_directory, qemus):
    """The base belongs to one disk; both chains lead to it."""
    base = make_chain(pool_directory, "base")[0]
    tops = [images.create(f"{pool_directory}/top{n}.qcow2", None, backing="base.0.qcow2") for n in range(2)]
    vms = [client.register_vm(f"vm{n}", qmp_socket=qemus(f"vm{n}", [top]).qmp) for n, top in enumerate(tops)]
    shared, properties = volume_at(client, base)
    assert sorted(properties["Children"]) == sorted(volume_at(client, top)[0] for top in tops)
    for vm, top in zip(vms, tops):
        disk = client.of_kind("disk")[client.get(vm, "VM", "Disks")[0]]
        assert volume_chain(client, disk["Active"]) == [top, base]


def test_what_is_not_adopted_is_named(client, pool_directory, directory, qemus):
    """A CD drive, an empty one, a read-only disk, a null device: not disks to take snapshots of, or named as such."""
    disk = make_chain(pool_directory, "root")[0]
    iso = images.create(f"{pool_directory}/cd.iso", 1 << 20, fmt="raw")
    qemu = qemus("vm", [disk], extra=[
        "-drive", f"file={iso},format=raw,if=none,id=cd,media=cdrom,readonly=on", "-device", "ide-cd,drive=cd,id=cd0,bus=ide.0",
        "-device", "ide-cd,id=cd1,bus=ide.1",
        "-blockdev", '{"driver":"null-co","node-name":"nul","size":1048576,"read-zeroes":true}',
        "-device", "virtio-blk-pci,drive=nul,id=null0"])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    assert [p["Target"] for p in client.of_kind("disk").values()] == ["serial0"]
    unmanaged = client.get(vm, "VM", "Unmanaged")
    assert [device for device, _ in unmanaged] == ["null0"], unmanaged
    assert "null-co" in unmanaged[0][1]


def test_without_adoption(client, pool_directory, qemus):
    disk = make_chain(pool_directory, "root")[0]
    vm = client.register_vm("web", qmp_socket=qemus("vm", [disk]).qmp, adopt=False)
    assert client.get(vm, "VM", "Disks") == [] and client.of_kind("disk") == {}
    assert client.get(vm, "VM", "State") == "paused"


def test_a_guest_cannot_pass_a_raw_disk_off_as_qcow2(client, pool_directory, qemus, directory):
    """A raw disk in which the guest wrote a qcow2 header that names a file of the host as its backing file."""
    secret = images.create(f"{directory}/secret.raw", 1 << 20, fmt="raw")
    hostile = images.create(f"{directory}/header.qcow2", None, backing=secret, backing_format="raw")
    raw = images.create(f"{pool_directory}/root.raw", 8 << 20, fmt="raw")
    with open(hostile, "rb") as header, open(raw, "r+b") as disk:
        disk.write(header.read(65536))
    qemu = qemus("vm", [{"path": raw, "fmt": "raw"}])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    volume, properties = volume_at(client, raw)
    assert properties["Format"] == "raw" and properties["Backing"] == "/"
    client.finish(client.create_snapshot(vm, "s1"))
    active = client.of_kind("disk")[client.get(vm, "VM", "Disks")[0]]["ActivePath"]
    assert images.info(active)["backing-filename-format"] == "raw"
    assert images.chain(active) == [active, raw]


def test_a_vm_that_starts_later(client, pool_directory, qemus, directory):
    """Registered while it is down; its disks are adopted as soon as it runs, without being asked."""
    disk = make_chain(pool_directory, "root")[0]
    os.mkdir(f"{directory}/vm")
    with client.signals(interface="org.freedesktop.DBus.ObjectManager", member="InterfacesAdded") as added:
        vm = client.register_vm("web", qmp_socket=f"{directory}/vm/qmp.sock")
        assert client.get(vm, "VM", "State") == "shutoff"
        qemus("vm", [disk])
        added.until(lambda path, member, body: "org.volchain1.Disk" in body[1])
    assert disk_by_target(client, vm, "serial0")[1]["ActivePath"] == disk


def test_started_on_a_longer_chain(client, daemon, pool_directory, qemus, directory):
    """Overlays that somebody else made while we looked away: what is true is shown."""
    chain = make_chain(pool_directory, "root")
    qemu = qemus("vm", [chain[0]])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    with client.signals(interface="org.freedesktop.DBus.Properties", member="PropertiesChanged") as changes:
        qemu.quit()
        changes.until(lambda path, member, body: path == vm and body[1].get("State", (0, ""))[1] == "shutoff")
    top = images.create(f"{pool_directory}/mine.qcow2", None, backing="root.0.qcow2")
    qemu = qemus("vm", [top])
    client.call(vm, "VM", "Refresh")
    disk, properties = disk_by_target(client, vm, "serial0")
    assert properties["ActivePath"] == top and properties["State"] == "ok"
    assert volume_chain(client, properties["Active"]) == [top, chain[0]]


def test_libvirts_monitor_is_refused(client, pool_directory, qemus):
    """Beside libvirt's own monitor a second one works, but libvirt would not know of new overlays."""
    disk = make_chain(pool_directory, "root")[0]
    qemu = qemus("vm", [disk], extra=[
        "-chardev", f"socket,id=charmonitor,path={pool_directory}/../libvirt.sock,server=on,wait=off",
        "-mon", "chardev=charmonitor,id=monitor,mode=control"])
    with pytest.raises(DBusError) as refused:
        client.register_vm("web", qmp_socket=qemu.qmp)
    assert refused.value.short == "Unsupported" and "libvirt" in refused.value.message
    assert "foreign-manager" in refused.value.message
    assert client.of_kind("vm") == {} and client.of_kind("disk") == {}
    vm = client.register_vm("web", qmp_socket=qemu.qmp, foreign_manager=True)
    assert len(client.get(vm, "VM", "Disks")) == 1


def test_libvirts_monitor_turns_up_later(client, pool_directory, qemus, directory):
    """Registered when it was ours, started by libvirt the next time."""
    disk = make_chain(pool_directory, "root")[0]
    qemu = qemus("vm", [disk])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    qemu.quit()
    client.wait_property(vm, "VM", "State", "shutoff")
    qemus("vm", [disk], extra=["-chardev", f"socket,id=charmonitor,path={directory}/libvirt.sock,server=on,wait=off",
                               "-mon", "chardev=charmonitor,id=monitor,mode=control"])
    client.wait_property(vm, "VM", "State", "paused")
    for call in (lambda: client.create_snapshot(vm, "s1"),
                 lambda: client.call(client.get(vm, "VM", "Disks")[0], "Disk", "CreateOverlay", "a{sv}", {})):
        with pytest.raises(DBusError) as refused:
            call()
        assert refused.value.short == "Unsupported" and "libvirt" in refused.value.message
    assert images.image_files(pool_directory) == [os.path.basename(disk)]


@pytest.mark.parametrize("how", ["part", "device"])
def test_raw_that_is_no_plain_file(client, pool_directory, qemus, how):
    """A part of a file, and a block device: neither is a volume."""
    raw = images.create(f"{pool_directory}/big.raw", 8 << 20, fmt="raw")
    loop = None
    try:
        if how == "device":
            made = subprocess.run(["losetup", "--find", "--show", raw], capture_output=True, text=True, timeout=20)
            if made.returncode:
                pytest.skip("no loop devices: " + made.stderr)
            loop = made.stdout.strip()
        file = {"driver": "host_device" if loop else "file", "node-name": "f", "filename": loop or raw}
        options = {} if loop else {"offset": 1 << 20, "size": 4 << 20}
        qemu = qemus("vm", [{"path": raw, "node": "part", "blockdevs": [
            file, {"driver": "raw", "node-name": "part", "file": "f", **options}]}])
        vm = client.register_vm("web", qmp_socket=qemu.qmp)
        assert client.of_kind("disk") == {} and client.of_kind("volume") == {}
        (device, why), = client.get(vm, "VM", "Unmanaged")
        assert device == "dev0" and ("host_device" if loop else "part of its file") in why
        qemu.kill()
    finally:
        if loop:
            subprocess.run(["losetup", "-d", loop], check=True, timeout=20)


def test_two_vms_of_one_new_directory(client, pool_directory, qemus, directory):
    """Adopted at the same time, they share the pool that the first one makes."""
    disks = [make_chain(pool_directory, f"root{n}")[0] for n in range(4)]
    vms = [qemus(f"vm{n}", [disk]) for n, disk in enumerate(disks)]
    calls = [client.send("/org/volchain1", "Manager", "RegisterVM", "sa{sv}", f"vm{n}", variants({"qmp_socket": q.qmp}))
             for n, q in enumerate(vms)]
    for call in calls:
        assert len(client.get(client.answer(call), "VM", "Disks")) == 1
    assert [p["Path"] for p in client.of_kind("pool").values()] == [pool_directory]


def test_a_monitor_that_another_client_holds(client, pool_directory, qemus):
    disk = make_chain(pool_directory, "root")[0]
    qemu = qemus("vm", [disk])
    with pytest.raises(DBusError) as refused:
        client.register_vm("web", qmp_socket=qemu.test)  # the test itself is connected to this one
    assert refused.value.short == "Unreachable" and "another client" in refused.value.message


def test_registering_twice(client, pool_directory, qemus):
    disk = make_chain(pool_directory, "root")[0]
    qemu = qemus("vm", [disk])
    client.register_vm("web", qmp_socket=qemu.qmp, id="6f3d7a5c-1111-4222-8333-944444444444")
    for name, options in [("web", {}), ("other", {"id": "6f3d7a5c-1111-4222-8333-944444444444"}),
                          ("other", {"qmp_socket": qemu.qmp})]:
        with pytest.raises(DBusError) as refused:
            client.register_vm(name, **options)
        assert refused.value.short == "AlreadyExists"
