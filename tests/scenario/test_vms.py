# SPDX-License-Identifier: MIT
"""VMs as they come and go: states by events, reconnects, restarts of the daemon, records that follow what is true."""
import json
import os
import signal
import stat

import pytest

from harness import images
from harness.chains import disk_by_target, make_chain
from harness.client import Client, DBusError, variants

MIB = 1 << 20


def until_state(client, changes, vm, state):
    changes.until(lambda path, member, body: path == vm and body[1].get("State", (0, ""))[1] == state)


def changes_of(client):
    return client.signals(interface="org.freedesktop.DBus.Properties", member="PropertiesChanged")


@pytest.fixture
def web(client, pool_directory, qemus):
    path = make_chain(pool_directory, "root")[0]
    qemu = qemus("vm", [path])
    return client.register_vm("web", qmp_socket=qemu.qmp), qemu, path


def test_states_follow_events(client, web, qemus):
    vm, qemu, path = web
    with changes_of(client) as changes:
        for command, state in [("cont", "running"), ("stop", "paused"), ("cont", "running")]:
            qemu.execute(command)
            until_state(client, changes, vm, state)
        qemu.quit()
        until_state(client, changes, vm, "shutoff")
        qemu = qemus("vm", [path])
        until_state(client, changes, vm, "paused")
        qemu.kill()
        until_state(client, changes, vm, "crashed")
        qemu = qemus("vm", [path])
        until_state(client, changes, vm, "paused")
        qemu.process.send_signal(signal.SIGSTOP)
        # A QEMU that hangs is not gone: nobody may work on its images offline.
        with pytest.raises(DBusError) as refused:
            client.create_snapshot(vm, "s1")
        assert refused.value.short in ("Unreachable", "Timeout")
        qemu.process.send_signal(signal.SIGCONT)
    assert images.image_files(os.path.dirname(path)) == [os.path.basename(path)]


def test_registered_while_down(client, directory, qemus, pool_directory):
    vm = client.register_vm("web", qmp_socket=f"{directory}/vm/qmp.sock")
    assert client.get(vm, "VM", "State") == "shutoff"
    with changes_of(client) as changes:
        qemus("vm", [make_chain(pool_directory, "root")[0]])
        until_state(client, changes, vm, "paused")


def test_without_a_socket_it_is_down(client):
    vm = client.register_vm("web")
    assert client.get(vm, "VM", "State") == "shutoff" and client.get(vm, "VM", "AgentState") == "absent"
    client.call(vm, "VM", "Unregister", "a{sv}", {})


def test_after_a_restart_all_is_as_it_was(client, daemon, bus, web, qemus):
    vm, qemu, path = web
    snapshot = client.finish(client.create_snapshot(vm, "s1"))["snapshot"]
    before = client.objects()
    client.close()
    daemon.stop()
    daemon.start()
    again = Client(bus.address)
    after = again.objects()
    silent = {"FreeBytes", "AllocatedBytes"}
    assert {p: {i: {k: v for k, v in props.items() if k not in silent} for i, props in ifaces.items()}
            for p, ifaces in after.items()} == \
           {p: {i: {k: v for k, v in props.items() if k not in silent} for i, props in ifaces.items()}
            for p, ifaces in before.items()}
    again.finish(again.create_snapshot(vm, "s2"))
    assert again.get(vm, "VM", "CurrentSnapshot") != snapshot
    again.close()


def test_the_vm_changes_while_the_daemon_is_away(client, daemon, bus, web, qemus):
    vm, qemu, path = web
    daemon.stop()
    qemu.quit()
    daemon.start()
    again = Client(bus.address)
    assert again.get(vm, "VM", "State") == "shutoff"
    again.finish(again.create_snapshot(vm, "s1"))
    again.close()


def test_unregister(client, web):
    vm, qemu, path = web
    client.finish(client.create_snapshot(vm, "s1"))
    disk = client.get(vm, "VM", "Disks")[0]
    with pytest.raises(DBusError) as refused:
        client.call(vm, "VM", "Unregister", "a{sv}", {})
    assert refused.value.short == "InUse" and "forget-snapshots" in refused.value.message
    active = client.get(disk, "Disk", "ActivePath")
    client.call(vm, "VM", "Unregister", "a{sv}", variants({"forget_snapshots": True}))
    assert client.of_kind("vm") == {} and client.of_kind("snapshot") == {}
    assert client.get(disk, "Disk", "VM") == "/" and os.path.exists(path) and qemu.active_file("dev0") == active
    # The monitor is free for others again.
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    assert client.get(vm, "VM", "Disks") == [disk]


def test_update(client, web, qemus, pool_directory):
    vm, qemu, path = web
    other = qemus("other", [make_chain(pool_directory, "other")[0]])
    client.call(vm, "VM", "Update", "a{sv}", variants({"name": "renamed"}))
    assert client.find("vm", "renamed") == vm
    qemu.quit()
    client.call(vm, "VM", "Refresh")
    client.call(vm, "VM", "Update", "a{sv}", variants({"qmp_socket": other.qmp}))
    client.call(vm, "VM", "Refresh")
    assert client.get(vm, "VM", "State") == "paused" and client.get(vm, "VM", "QmpSocket") == other.qmp


def test_configuration(client, web):
    vm, _, _ = web
    client.call(vm, "VM", "SetConfig", "ays", b"<domain/>\0\xff", "application/xml")
    assert client.call(vm, "VM", "GetConfig") == (b"<domain/>\0\xff", "application/xml")
    snapshot = client.finish(client.create_snapshot(vm, "s1"))["snapshot"]
    client.call(vm, "VM", "SetConfig", "ays", b"{}", "application/json")
    assert client.call(snapshot, "Snapshot", "GetConfig") == (b"<domain/>\0\xff", "application/xml")
    assert client.get(vm, "VM", "ConfigType") == "application/json"


def test_metadata_of_a_snapshot(client, web):
    vm, _, _ = web
    one = client.finish(client.create_snapshot(vm, "one"))["snapshot"]
    client.finish(client.create_snapshot(vm, "two"))
    client.call(one, "Snapshot", "SetMetadata", "a{sv}", variants({"name": "first", "description": "the first"}))
    assert (client.get(one, "Snapshot", "Name"), client.get(one, "Snapshot", "Description")) == ("first", "the first")
    for options, error in [({"name": "two"}, "AlreadyExists"), ({"name": ""}, "InvalidArgument"),
                           ({"colour": "red"}, "InvalidArgument")]:
        with pytest.raises(DBusError) as refused:
            client.call(one, "Snapshot", "SetMetadata", "a{sv}", variants(options))
        assert refused.value.short == error


def test_refresh_finds_what_others_did(client, web, pool_directory):
    """An overlay made past us, by a tool of the administrator: seen by Refresh, and then worked on."""
    vm, qemu, path = web
    top = f"{pool_directory}/mine.qcow2"
    qemu.execute("blockdev-snapshot-sync", **{"node-name": "vol0", "snapshot-file": top, "format": "qcow2",
                                              "snapshot-node-name": "mine"})
    client.call(vm, "VM", "Refresh")
    disk, properties = disk_by_target(client, vm, "serial0")
    assert properties["ActivePath"] == top and properties["State"] == "ok"
    client.finish(client.create_snapshot(vm, "s1"))
    assert images.chain(qemu.active_file("dev0"))[1:] == [top, path]


def test_a_snapshot_after_others_changed_the_graph(client, web, pool_directory):
    """Without a Refresh: the transaction must not be taken on a node that is no longer on top."""
    vm, qemu, path = web
    top = f"{pool_directory}/mine.qcow2"
    qemu.execute("blockdev-snapshot-sync", **{"node-name": "vol0", "snapshot-file": top, "format": "qcow2",
                                              "snapshot-node-name": "mine"})
    before = sorted(qemu.nodes())
    state, error, message, _ = client.wait(client.create_snapshot(vm, "s1"))
    if state == "succeeded":
        assert images.chain(qemu.active_file("dev0"))[1:] == [top, path]
    else:
        assert sorted(qemu.nodes()) == before and qemu.active_file("dev0") == top, (error, message)
        client.call(vm, "VM", "Refresh")
        client.finish(client.create_snapshot(vm, "s1"))
        assert images.chain(qemu.active_file("dev0"))[1:] == [top, path]


def test_find(client, web):
    vm, _, path = web
    disk = client.get(vm, "VM", "Disks")[0]
    volume = client.get(disk, "Disk", "Active")
    identity = client.get(vm, "VM", "Id")
    assert client.find("vm", identity) == client.find("vm", identity[:8]) == client.find("vm", "web") == vm
    assert client.find("volume", path) == volume and client.find("disk", path) == disk
    for kind, what, error in [("vm", "none", "NotFound"), ("vm", identity[:3], "NotFound"), ("thing", "web", "InvalidArgument"),
                              ("volume", "/none", "NotFound")]:
        with pytest.raises(DBusError) as refused:
            client.find(kind, what)
        assert refused.value.short == error, (kind, what, refused.value.message)


def test_the_manifest_tells_all(client, daemon, web, pool_directory):
    vm, qemu, path = web
    client.call(vm, "VM", "SetConfig", "ays", b"<domain/>", "application/xml")
    snapshot = client.finish(client.create_snapshot(vm, "s1", description="mine"))["snapshot"]
    identity = vm.rsplit("/", 1)[1].replace("_", "-")
    daemon.stop()  # what is not written yet is written now
    assert os.listdir(f"{pool_directory}/.volchain") == [f"{identity}.json"]
    written = f"{pool_directory}/.volchain/{identity}.json"
    assert stat.S_IMODE(os.stat(written).st_mode) & 0o077 == 0
    with open(written) as f:
        manifest = json.load(f)
    assert manifest["vm"]["id"] == identity and manifest["vm"]["name"] == "web"
    (taken,) = manifest["snapshots"]
    assert (taken["name"], taken["description"]) == ("s1", "mine")
    assert taken["id"] == snapshot.rsplit("/", 1)[1].replace("_", "-") == manifest["vm"]["current-snapshot"]
    (disk,) = manifest["disks"]
    assert {os.path.basename(v["file"]) for v in disk["volumes"]} == {os.path.basename(path), os.path.basename(qemu.active_file("dev0"))}


def test_the_daemon_ends_when_the_bus_goes(client, daemon, bus, web):
    client.close()
    bus.stop()
    assert daemon.process.wait(30) == 1
    assert "message bus" in daemon.text()
