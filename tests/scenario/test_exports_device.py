# SPDX-License-Identifier: MIT
"""Exports as a disk that is plugged into a running appliance. Without a guest: a PCIe port with native hot-plug lets go by
itself, one with ACPI hot-plug waits for a guest that is not there. A real guest is in tests/guest/test_exports.py."""
import os

import pytest

from harness import exports, images
from harness.client import Client
from harness.disks import refused
from harness.qemu import blockdevs
from harness.tree import Tree

MIB = 1 << 20


@pytest.fixture
def config():
    return '[quiesce]\nagent-timeout = "1s"\n[qemu]\ngreeting-timeout = "1s"\nunplug-timeout = "2s"\n'


NATIVE = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]


def ports(count=2):
    return [word for n in range(count) for word in ("-device", f"pcie-root-port,id=port{n},chassis={n + 1},slot={n + 1}")]


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus)
    tree.snapshot("s1")
    yield tree
    assert exports.leftovers(daemon.directory) == []


@pytest.fixture
def appliance(client, directory, qemus):
    """make(extra, ...) -> (vm, qemu): a VM that runs, with a disk of its own."""
    def make(extra=(*NATIVE, *ports()), **options):
        path = images.create(f"{directory}/appliance.qcow2", "16M")
        qemu = qemus("appliance", [{"path": path, "serial": "own"}], running=True, extra=extra, **options)
        return client.register_vm("appliance", qmp_socket=qemu.qmp), qemu
    return make


def make(client, tree, vm, **options):
    return exports.make(client, tree.snapshots["s1"], tree.disks[0], kind="device", vm=vm, **options)


def only_its_own(qemu):
    assert set(qemu.nodes()) == {"vol0", "vol0-file"}, set(qemu.nodes())
    assert [block["qdev"] for block in qemu.execute("query-block")] == ["/machine/peripheral/dev0/virtio-backend"]


def device_id(export):
    return "vce-" + export.rsplit("/", 1)[1].replace("_", "")[:16]


def shown_by(qemu, export, directory):
    """The digest of what the guest would read."""
    path = f"{directory}/shown.raw"
    node = qemu.top_node(device_id(export))["node-name"]
    images.create(path, 64 * MIB, fmt="raw")
    for blockdev in blockdevs("copy", path, "raw"):
        qemu.execute("blockdev-add", **blockdev)
    qemu.execute("blockdev-backup", **{"job-id": "copy", "device": node, "target": "copy", "sync": "full"})
    qemu.monitor.event("BLOCK_JOB_COMPLETED")
    for name in ("copy", "copy-file"):
        qemu.execute("blockdev-del", **{"node-name": name})
    return images.digest(path, fmt="raw")


@pytest.mark.parametrize("writable", [False, True])
def test_in_and_out(client, tree, appliance, directory, writable):
    expected = images.digest(client.get(tree.volume_of("s1"), "Volume", "Path"))
    vm, qemu = appliance()
    before = client.get_all(vm, "VM")
    export = make(client, tree, vm, writable=writable, serial="backup1")
    shown = client.get_all(export, "Export")
    assert (shown["Appliance"], shown["Device"], shown["Uri"], shown["Path"]) == (vm, "backup1", "", "")
    assert qemu.execute("qom-get", path=f"/machine/peripheral/{device_id(export)}", property="serial") == "backup1"
    assert shown_by(qemu, export, directory) == expected
    assert qemu.top_node(device_id(export))["ro"] != writable
    if writable:
        qemu.write(device_id(export), 0x99, 0, MIB)
        qemu.io(device_id(export), "flush")
        assert shown_by(qemu, export, directory) != expected
    # It is no disk of the appliance's: it is not adopted, not complained of, and in no snapshot of it.
    client.call(vm, "VM", "Refresh")
    assert client.get_all(vm, "VM") == before
    client.finish(client.create_snapshot(vm, "of the appliance", quiesce="off"))
    error, _ = refused(lambda: tree.delete("s1"))
    assert error == "Busy"
    exports.stop(client, export)
    assert images.digest(client.get(tree.volume_of("s1"), "Volume", "Path")) == expected
    assert not [name for name in qemu.nodes() if name.startswith("vc-" + device_id(export)[4:16])]
    client.finish(tree.delete("s1"))


def test_several(client, tree, appliance):
    vm, qemu = appliance(extra=(*NATIVE, *ports(4)))
    made = [make(client, tree, vm) for _ in range(3)]
    assert len({client.get(export, "Export", "Device") for export in made}) == 3
    for export in made:
        exports.stop(client, export)
    only_its_own(qemu)


def test_into_the_vm_itself(client, directory, qemus, daemon):
    """A VM that looks at its own past."""
    tree = Tree(client, directory, lambda name, disks: qemus(name, disks, running=True, extra=(*NATIVE, *ports())))
    tree.snapshot("s1")
    export = make(client, tree, tree.vm)
    assert client.get(tree.vm, "VM", "Disks") == tree.disks
    tree.snapshot("s2")
    exports.stop(client, export)
    assert exports.leftovers(daemon.directory) == []
    tree.check()


def test_a_guest_that_does_not_answer(client, tree, appliance):
    vm, qemu = appliance(extra=ports())
    export = make(client, tree, vm)
    error, message = client.failure(client.call(export, "Export", "Stop", "a{sv}", {"timeout-usec": ("t", 800_000)}))
    assert error == "Timeout" and "the export stays" in message
    assert client.get(export, "Export", "State") == "ready" and qemu.top_node(device_id(export))
    error, _ = refused(lambda: client.call(vm, "VM", "Unregister", "a{sv}", {}))
    assert error == "Busy"
    # The appliance ends, and the export with it.
    qemu.quit()
    exports.gone(client, export)


def test_more_time_is_none_for_a_caller_that_has_left(client, bus, tree, appliance):
    """A bound export whose guest does not let go stays due, whatever time it is given."""
    vm, qemu = appliance(extra=ports())
    caller = Client(bus.address)
    export = exports.make(caller, tree.snapshots["s1"], tree.disks[0], kind="device", vm=vm, bind_to_caller=True)
    with client.signals(path=export, member="PropertiesChanged") as changes:
        caller.close()
        states = []

        def back_again(path, member, body):
            states.extend([body[1]["State"][1]] if "State" in body[1] else [])
            return states[-2:] == ["stopping", "ready"]
        changes.until(back_again)
        client.call(export, "Export", "Renew", "t", 3_600_000_000)
        # It is tried again by itself.
        changes.until(lambda path, member, body: body[1].get("State", (None, None))[1] == "stopping", timeout=60)
    qemu.kill()
    exports.gone(client, export)


def test_the_appliance_ends_while_it_is_to_let_go(client, tree, appliance):
    """What nobody looked after meanwhile is found out, and the export goes with the appliance."""
    vm, qemu = appliance(extra=ports())
    export = make(client, tree, vm)
    job = client.call(export, "Export", "Stop", "a{sv}", {"timeout-usec": ("t", 30_000_000)})
    with client.signals(path=job, member="PropertiesChanged") as changes:
        if client.get(job, "Job", "Step") != "unplug":
            changes.until(lambda path, member, body: body[1].get("Step", (0, ""))[1] == "unplug")
        qemu.kill()
    client.wait(job)
    exports.gone(client, export)


def test_dozens_leave_nothing_in_the_appliance(client, daemon, tree, appliance):
    """Descriptors of its QEMU and of the daemon, nodes, devices: after thirty as after two."""
    vm, qemu = appliance()

    def descriptors():
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (qemu.process.pid, daemon.process.pid)]

    def one(number):
        exports.stop(client, make(client, tree, vm, writable=number % 2 == 0))
    one(0), one(1)
    before = descriptors()
    for number in range(30):
        one(number)
    assert all(now <= then + 1 for now, then in zip(descriptors(), before)), (before, descriptors())
    only_its_own(qemu)


def test_the_appliance_crashes(client, tree, appliance):
    vm, qemu = appliance()
    export = make(client, tree, vm, writable=True)
    qemu.kill()
    exports.gone(client, export)


@pytest.mark.parametrize("ended", [False, True])
def test_it_goes_on_without_the_daemon(client, daemon, bus, tree, appliance, ended):
    vm, qemu = appliance()
    export = make(client, tree, vm, writable=True)
    daemon.kill()
    if ended:
        qemu.quit()
    daemon.start()
    again = Client(bus.address)
    if ended:
        exports.gone(again, export)
    else:
        assert again.get(export, "Export", "State") == "ready"
        exports.stop(again, export)
        only_its_own(qemu)
    again.close()


def test_what_is_refused(client, tree, appliance):
    def error_of(**options):
        return refused(lambda: exports.begin(client, tree.snapshots["s1"], tree.disks[0], **options))
    assert error_of(kind="device")[0] == "InvalidArgument"
    vm, qemu = appliance(extra=())
    assert error_of(kind="nbd", vm=vm)[0] == "InvalidArgument"
    assert error_of(kind="device", vm=vm, serial="x" * 21)[0] == "InvalidArgument"
    assert error_of(kind="device", vm=vm, since="cp")[0] == "InvalidArgument"
    error, message = client.failure(exports.begin(client, tree.snapshots["s1"], tree.disks[0], kind="device", vm=vm))
    assert error == "Unsupported" and "PCIe root port" in message
    only_its_own(qemu)
    qemu.quit()
    client.call(vm, "VM", "Refresh")
    assert error_of(kind="device", vm=vm)[0] == "NotRunning"


@pytest.mark.parametrize("point", ["files", "graph", "show", "finish"])
def test_daemon_killed_while_it_makes_one(client, daemon, bus, tree, appliance, point):
    vm, qemu = appliance()
    daemon.at(f"export.{point}", "kill")
    options = {"kind": ("s", "device"), "vm": ("o", vm), "writable": ("b", True)}
    client.send(tree.snapshots["s1"], "Snapshot", "Export", "oa{sv}", tree.disks[0], options)
    daemon.wait_killed()
    daemon.start()
    again = Client(bus.address)
    [job] = [path for path, p in again.of_kind("job").items() if p["Kind"] == "export"]
    state, error, _, result = again.wait(job)
    if point == "finish":
        assert state == "succeeded", "the appliance has the device"
        exports.stop(again, result["export"])
    else:
        assert (state, error) == ("failed", "Interrupted") and again.of_kind("export") == {}
    only_its_own(qemu)
    again.close()


@pytest.mark.parametrize("point", ["unplug", "end", "finish"])
def test_daemon_killed_while_it_ends_one(client, daemon, bus, tree, appliance, point):
    vm, qemu = appliance()
    export = make(client, tree, vm, writable=True)
    daemon.at(f"stop-export.{point}", "kill")
    client.send(export, "Export", "Stop", "a{sv}", {})
    daemon.wait_killed()
    daemon.start()
    again = Client(bus.address)
    exports.gone(again, export)
    only_its_own(qemu)
    again.close()
