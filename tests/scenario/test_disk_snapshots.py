# SPDX-License-Identifier: MIT
"""Snapshots of one disk alone, of a VM or floating, and whose they are when the disk comes to a VM or leaves it."""
import os

import pytest

from harness import images
from harness.agent_double import AgentDouble
from harness.chains import volume_at, volume_chain
from harness.client import Client, Variant, variants
from harness.disks import active, attach, detach, overlay, patterns, refused, snapshot

MIB = 1 << 20


def take(client, disk, name="", **options):
    return client.finish(snapshot(client, disk, name, **options))["snapshot"]


def shown(client, path):
    return client.get_all(path, "Snapshot")


@pytest.fixture
def two(client, imported):
    """(vm, root, data): a VM that is down, and its disks."""
    root, data = imported("root")[0], imported("data")[0]
    vm = client.register_vm("web")
    client.finish(attach(client, root, vm, "root"))
    client.finish(attach(client, data, vm, "data"))
    return vm, root, data


# --- of a floating disk ---

def test_floating(client, imported, pool_directory):
    disk, paths = imported("data", bitmaps=("one",))
    content = images.digest(paths[0])
    with client.signals(member="InterfacesAdded") as added:
        result = client.finish(snapshot(client, disk, "first", description="mine"))
        added.until(lambda path, member, body: body[0] == result["snapshot"])
    assert set(result) == {"snapshot"}
    first = shown(client, result["snapshot"])
    assert (first["Name"], first["Description"], first["VM"], first["Parent"]) == ("first", "mine", "/", "/")
    assert (first["Consistency"], first["VMState"], first["Status"]) == ("offline", "shutoff", "ok")
    assert first["Disks"] == [(disk, volume_at(client, paths[0])[0])] and not first["Current"]
    assert images.chain(active(client, disk)) == [active(client, disk), paths[0]]
    assert set(images.bitmaps(active(client, disk))) == {"one"}
    images.write(active(client, disk), 9, 0, MIB)
    assert images.digest(paths[0]) == content
    second = take(client, disk)
    assert shown(client, second)["Parent"] == result["snapshot"]
    assert client.get(result["snapshot"], "Snapshot", "Children") == [second]
    assert sorted(f"{pool_directory}/{name}" for name in images.image_files(pool_directory)) == \
        sorted(images.chain(active(client, disk)))
    assert client.find("snapshot", "first") == result["snapshot"]


def test_the_parent_is_the_youngest_in_the_chain(client, imported):
    """Not the youngest there is: the disk went back to an earlier volume."""
    disk, paths = imported("data")
    first, second = take(client, disk, "first"), take(client, disk, "second")
    base = volume_at(client, paths[0])[0]
    overlay(client, disk, backing=Variant("o", base), activate=True)
    third = take(client, disk, "third")
    assert shown(client, third)["Parent"] == first
    assert set(client.get(first, "Snapshot", "Children")) == {second, third}


def test_names(client, imported):
    one, other = imported("one")[0], imported("other")[0]
    first = take(client, one, "same")
    take(client, other, "same")
    error, message = refused(lambda: snapshot(client, one, "same"))
    assert error == "AlreadyExists" and "'one'" in message, message
    assert refused(lambda: snapshot(client, one, "a/b"))[0] == "InvalidArgument"
    second = take(client, one, "second")
    rename = lambda name: client.call(second, "Snapshot", "SetMetadata", "a{sv}", variants({"name": name}))  # noqa: E731
    assert refused(lambda: rename("same"))[0] == "AlreadyExists"
    rename("renamed")
    assert shown(client, second)["Name"] == "renamed" and shown(client, first)["Name"] == "same"


def test_no_guest_to_freeze(client, imported, pool_directory):
    disk, paths = imported("data")
    error, message = client.failure(snapshot(client, disk, "s1", quiesce="require"))
    assert error == "NotRunning", message
    assert client.of_kind("snapshot") == {} and images.image_files(pool_directory) == [os.path.basename(paths[0])]


def test_a_process_has_it_open(client, imported, qemus, pool_directory):
    disk, paths = imported("data")
    qemu = qemus("stranger", [paths[0]])
    error, message = client.failure(snapshot(client, disk, "s1"))
    assert error == "InUse" and str(qemu.process.pid) in message, message
    assert client.of_kind("snapshot") == {} and images.image_files(pool_directory) == [os.path.basename(paths[0])]


def test_pools_with_snapshots_are_not_forgotten(client, imported, pool):
    disk, _ = imported("data")
    take(client, disk, "s1")
    error, message = refused(lambda: client.call(pool, "Pool", "Remove"))
    assert error == "InUse" and "'s1'" in message, message


# --- of a VM's disk ---

def test_of_a_vm_that_is_down(client, two):
    vm, root, data = two
    before = active(client, root)
    both = client.finish(client.create_snapshot(vm, "both"))["snapshot"]
    alone = take(client, data, "alone")
    found = shown(client, alone)
    assert (found["VM"], found["Parent"], found["Current"]) == (vm, both, True)
    assert [disk for disk, _ in found["Disks"]] == [data]
    assert (len(images.chain(active(client, root))), len(images.chain(active(client, data)))) == (2, 3)
    assert images.chain(active(client, root))[1:] == [before]
    assert client.get(vm, "VM", "CurrentSnapshot") == alone
    assert refused(lambda: snapshot(client, root, "both"))[0] == "AlreadyExists"


def test_of_a_vm_that_runs(client, directory, imported, qemus):
    root, root_paths = imported("root")
    data, data_paths = imported("data")
    qemu = qemus("vm", [root_paths[0], data_paths[0]], running=True)
    agent = AgentDouble(f"{directory}/agent.sock", file_systems=2)
    try:
        vm = client.register_vm("web", qmp_socket=qemu.qmp, agent_socket=agent.path)
        result = client.finish(snapshot(client, data, "alone", quiesce="require"))
    finally:
        agent.close()
    assert result["frozen-usec"] >= result["switch-usec"] > 0
    found = shown(client, result["snapshot"])
    assert (found["VM"], found["Consistency"]) == (vm, "filesystem") and [d for d, _ in found["Disks"]] == [data]
    assert qemu.active_file("dev0") == root_paths[0] and qemu.active_file("dev1") == active(client, data) != data_paths[0]


# --- coming and going ---

def test_they_go_with_the_disk_and_come_back(client, two):
    """both(root, data) <- a(data) <- b(data) <- c(root) <- d(data): a, b and d go, c stands on both then."""
    vm, root, data = two
    both = client.finish(client.create_snapshot(vm, "both"))["snapshot"]
    a, b, c, d = (take(client, disk, name) for disk, name in ((data, "a"), (data, "b"), (root, "c"), (data, "d")))
    chains = {disk: images.chain(active(client, disk)) for disk in (root, data)}

    with client.signals(path=d, member="PropertiesChanged") as changes:
        client.finish(detach(client, data))
        changes.until(lambda path, member, body: body[1].get("VM", (0, 0))[1] == "/")
    assert client.get(data, "Disk", "VM") == "/" and sorted(client.get(vm, "VM", "Snapshots")) == sorted([both, c])
    found = client.of_kind("snapshot")
    assert {path: (s["VM"], s["Parent"]) for path, s in found.items()} == {
        both: (vm, "/"), c: (vm, both), a: ("/", "/"), b: ("/", a), d: ("/", b)}
    assert client.get(vm, "VM", "CurrentSnapshot") == c and found[c]["Current"] and not found[d]["Current"]
    assert found[both]["Children"] == [c] and found[b]["Children"] == [d]
    # The one of both goes on naming it.
    assert {disk for disk, _ in found[both]["Disks"]} == {root, data} and found[both]["Status"] == "ok"
    assert {disk: images.chain(active(client, disk)) for disk in (root, data)} == chains
    assert volume_chain(client, client.get(data, "Disk", "Active")) == chains[data]

    # While it floats it goes on; and in another VM, too.
    e = take(client, data, "e")
    assert shown(client, e)["Parent"] == d
    other = client.register_vm("other")
    client.finish(attach(client, data, other, "data"))
    found = client.of_kind("snapshot")
    assert {path: (s["VM"], s["Parent"]) for path, s in found.items()} == {
        both: (vm, "/"), c: (vm, both), a: (other, "/"), b: (other, a), d: (other, b), e: (other, d)}
    assert sorted(client.get(other, "VM", "Snapshots")) == sorted([a, b, d, e])


def test_names_that_are_taken(client, imported):
    disk, _ = imported("data")
    own = imported("root")[0]
    floating = take(client, disk, "s1"), take(client, disk, "s2")
    vm = client.register_vm("web")
    client.finish(attach(client, own, vm, "root"))
    taken = take(client, own, "s1")
    client.finish(attach(client, disk, vm, "data"))
    names = {shown(client, s)["Name"] for s in (taken, *floating)}
    assert shown(client, taken)["Name"] == "s1" and shown(client, floating[1])["Name"] == "s2"
    assert len(names) == 3 and shown(client, floating[0])["Name"].startswith("s1-")
    assert shown(client, floating[1])["Parent"] == floating[0]


def test_a_running_vm_that_has_the_disk_takes_them(client, imported, qemus):
    """Found in it, not attached to it."""
    disk, _ = imported("data")
    first = take(client, disk, "s1")
    qemu = qemus("vm", [active(client, disk)])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    assert client.get(disk, "Disk", "VM") == shown(client, first)["VM"] == vm
    assert client.get(vm, "VM", "Snapshots") == [first]


def test_two_disks_with_snapshots_of_one_name(client, imported, qemus):
    disks = [imported(name)[0] for name in ("one", "other")]
    taken = [take(client, disk, "same") for disk in disks]
    qemu = qemus("vm", [active(client, disk) for disk in disks])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    assert sorted(client.get(vm, "VM", "Snapshots")) == sorted(taken)
    assert sorted(shown(client, s)["Name"] for s in taken) == ["same", "same-2"]


def test_a_vm_with_nothing_but_them_may_go(client, imported):
    disk, _ = imported("data")
    vm = client.register_vm("web")
    client.finish(attach(client, disk, vm, "data"))
    first = take(client, disk, "s1")
    client.finish(detach(client, disk))
    client.call(vm, "VM", "Unregister", "a{sv}", {})
    assert shown(client, first)["VM"] == "/"


def test_all_is_so_after_a_restart(client, daemon, bus, two):
    vm, root, data = two
    client.finish(client.create_snapshot(vm, "both"))
    take(client, data, "a")
    take(client, root, "b")
    client.finish(detach(client, data))
    images.write(active(client, data), 7, 0, MIB)
    take(client, data, "c")
    before = client.of_kind("snapshot")
    client.close()
    daemon.stop()
    daemon.start()
    again = Client(bus.address)
    assert again.of_kind("snapshot") == before
    patterns(active(again, data), (7, 0, MIB))
    again.close()
