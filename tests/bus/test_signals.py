# SPDX-License-Identifier: MIT
"""What the daemon tells without being asked: true, complete, in order, and to everybody, whatever some do."""
import os
import socket
import threading
import time

import pytest
from jeepney import DBusAddress, MatchRule, message_bus, new_method_call
from jeepney.io.blocking import Proxy
from jeepney.low_level import HeaderFields, MessageType

from harness import images
from harness.agent_double import AgentDouble, properly, then, when
from harness.client import NAME, ROOT, Client, DBusError, Variant, variants
from harness.interfaces import KINDS
from harness.mirror import Mirror
from harness.qemu import Qemu
from harness.world import World, MiB


@pytest.fixture
def world(directory):
    """A new one for each test: with a short look at the pools, so that what happens to them is told soon."""
    config = '[pools]\ncheck-interval = "1s"\n[qemu]\ngreeting-timeout = "1s"\n'
    world = World(f"{directory}/w", config)
    os.mkdir(world.directory)
    try:
        yield world.start()
    finally:
        world.stop()


@pytest.fixture
def mirror(world):
    mirror = Mirror(world.bus.address)
    yield mirror
    mirror.close()


def check(mirror, label):
    assert mirror.compare() == {}, label
    assert mirror.complaints == [], label


def call(world, path, method, signature=None, *arguments):
    """A call, and the end of the job that it starts."""
    interface, member = method.split(".")
    result = world.client.call(path, interface, member, signature, *arguments)
    if isinstance(result, str) and result.startswith(f"{ROOT}/job/"):
        return world.client.finish(result)
    return result


def changed(path, member, value):
    """For hear_until(): a property of an object becomes this."""
    return lambda heard: (heard.path == path and heard.member == "PropertiesChanged"
                          and heard.body[1].get(member, (None, None))[1] == value)


# --- a cache fed from signals -------------------------------------------------------------------------------

def test_cache_is_true_through_records(world, mirror):
    """Pools, disks, snapshots of a VM that is down: after each change, a cache fed from signals is what
    is."""
    def step(label, *arguments):
        result = call(world, *arguments)
        check(mirror, label)
        return result

    check(mirror, "nothing")
    pool = step("new pool", ROOT, "Manager.CreatePool", "ssa{sv}", "second", world.vacant, {})
    disk = step("new disk", pool, "Pool.CreateDisk", "sta{sv}", "new", MiB, {})["disk"]
    step("import", world.pool, "Pool.ImportDisk", "sa{sv}", "stray.qcow2", {})
    step("refresh", world.pool, "Pool.Refresh")
    vm = step("new VM", ROOT, "Manager.RegisterVM", "sa{sv}", "third", {})
    step("attach", disk, "Disk.Attach", "osa{sv}", vm, "x", {})
    first = step("snapshot", vm, "VM.CreateSnapshot", "sa{sv}", "one", {})["snapshot"]
    step("second snapshot", vm, "VM.CreateSnapshot", "sa{sv}", "two", variants({"description": "said"}))
    step("rename it", first, "Snapshot.SetMetadata", "a{sv}",
         variants({"name": "uno", "description": "changed"}))
    step("preview", first, "Snapshot.Preview", "a{sv}", {})
    step("undo", vm, "VM.UndoPreview", "a{sv}", {})
    step("custom preview", vm, "VM.Preview", "a{oo}a{sv}", {disk: first}, {})
    step("commit", vm, "VM.CommitPreview", "a{sv}", variants({"keep_branch": True}))
    step("snapshot on the branch", vm, "VM.CreateSnapshot", "sa{sv}", "three", {})
    step("revert", first, "Snapshot.Revert", "a{sv}", {})
    step("overlay", disk, "Disk.CreateOverlay", "a{sv}", {})
    base = next(p for p, v in world.client.of_kind("volume").items() if v["Disk"] == disk and v["Depth"] == 1)
    step("branch", disk, "Disk.CreateOverlay", "a{sv}", variants({"backing": Variant("o", base)}))
    step("branch that is activated", disk, "Disk.CreateOverlay", "a{sv}",
         variants({"backing": Variant("o", base), "activate": True}))
    step("resize", disk, "Disk.Resize", "ta{sv}", 2 * MiB, {})
    step("snapshot of it alone", disk, "Disk.CreateSnapshot", "sa{sv}", "alone", {})
    step("detach", disk, "Disk.Detach", "a{sv}", {})
    step("snapshot of a floating disk", disk, "Disk.CreateSnapshot", "sa{sv}", "floating", {})
    step("attach again", disk, "Disk.Attach", "osa{sv}", vm, "x", {})
    other = step("another disk", pool, "Pool.CreateDisk", "sta{sv}", "other", MiB, {})["disk"]
    step("attach it, too", other, "Disk.Attach", "osa{sv}", vm, "y", {})
    step("snapshot of both", vm, "VM.CreateSnapshot", "sa{sv}", "both", {})
    step("delete it", other, "Disk.Delete", "a{sv}", variants({"snapshots": True}))
    step("rename the VM", vm, "VM.Update", "a{sv}", variants({"name": "drei"}))
    step("configuration", vm, "VM.SetConfig", "ays", b"x", "text/plain")
    step("sockets", vm, "VM.Update", "a{sv}", variants({"qmp_socket": f"{world.directory}/none.sock",
                                                        "agent_socket": f"{world.directory}/no.sock"}))
    step("forget the VM", vm, "VM.Unregister", "a{sv}", variants({"forget_snapshots": True}))
    step("forget the pool", pool, "Pool.Remove")
    assert {h.member for h in mirror.heard} == {"InterfacesAdded", "InterfacesRemoved", "PropertiesChanged",
                                                "JobFinished"}


def test_cache_is_true_through_the_life_of_a_vm(world, mirror):
    up, qemu = world.up, world.qemu
    call(world, up, "VM.CreateSnapshot", "sa{sv}", "second", {})
    check(mirror, "live snapshot")
    disk = world.client.get(up, "VM", "Disks")[0]
    call(world, disk, "Disk.CreateOverlay", "a{sv}", {})
    check(mirror, "live overlay")
    qemu.execute("stop")
    mirror.hear_until(changed(up, "State", "paused"))
    qemu.execute("cont")
    mirror.hear_until(changed(up, "State", "running"))
    check(mirror, "paused and resumed")
    qemu.kill()
    mirror.hear_until(changed(up, "State", "crashed"))
    check(mirror, "killed")
    disks = {disk["Target"]: disk | {"path": path} for path, disk in world.client.of_kind("disk").items()
             if disk["VM"] == up}
    leaves = [disks[serial]["ActivePath"] for serial in ("serial0", "serial1")]
    world.qemu = Qemu(f"{world.directory}/qemu", leaves, running=True).start()
    mirror.hear_until(changed(up, "State", "running"))
    check(mirror, "started again")
    world.qemu.quit()
    mirror.hear_until(changed(up, "State", "shutoff"))
    check(mirror, "shut down")
    # On another leaf than is recorded.
    world.qemu = Qemu(f"{world.directory}/qemu", [f"{world.vm_path}/up-root.qcow2"], running=True).start()
    mirror.hear_until(changed(disks["serial0"]["path"], "State", "broken"))
    check(mirror, "on another volume")
    world.qemu.quit()
    mirror.hear_until(changed(up, "State", "shutoff"))
    check(mirror, "and down again")


def test_cache_is_true_when_files_vanish(world, mirror):
    disk = world.disks[0]
    path = world.client.get(disk, "Disk", "ActivePath")
    volume = world.client.get(disk, "Disk", "Active")
    os.rename(path, path + ".away")
    call(world, world.pool, "Pool.Refresh")
    assert world.client.get(volume, "Volume", "State") == "missing"
    assert world.client.get(disk, "Disk", "State") == "broken"
    check(mirror, "a missing file")
    os.rename(path + ".away", path)
    call(world, world.pool, "Pool.Refresh")
    check(mirror, "it is back")
    base = world.client.get(world.client.get(disk, "Disk", "Active"), "Volume", "Backing")
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", f"{path}.none", path)
    call(world, world.pool, "Pool.Refresh")
    assert world.client.get(base, "Volume", "Children") == []
    check(mirror, "another backing file")

    os.rename(world.pool_path, world.pool_path + ".away")
    mirror.hear_until(changed(world.pool, "State", "missing"))
    check(mirror, "a missing directory")
    os.rename(world.pool_path + ".away", world.pool_path)
    mirror.hear_until(changed(world.pool, "State", "ok"))
    check(mirror, "that is back, too")


def test_cache_is_true_through_failures(world, mirror):
    """Jobs that fail and are cancelled; calls that are refused."""
    job = world.client.call(world.pool, "Pool", "ImportDisk", "sa{sv}", "none.qcow2", {})
    assert world.client.failure(job)[0] == "NotFound"
    check(mirror, "failed")
    job = world.client.call(world.pool, "Pool", "CreateDisk", "sta{sv}", "large", 8192 * MiB,
                            variants({"preallocation": "full"}))
    world.client.call(job, "Job", "Cancel")
    assert world.client.wait(job)[0] == "cancelled"
    check(mirror, "cancelled")
    assert any(h.path == job and h.body[1].get("State", ("", ""))[1] == "cancelling" for h in mirror.heard
               if h.member == "PropertiesChanged")
    with pytest.raises(DBusError):
        world.client.call(world.pool, "Pool", "Remove")
    check(mirror, "refused")


# --- order, and who hears it --------------------------------------------------------------------------------

def test_job_finished_once_each(world, mirror):
    """After all that it says of the job was told, and not for jobs of an earlier life of the daemon."""
    before = set(world.client.of_kind("job"))
    for name in ("a", "b", "c"):
        world.create_disk(name)
    world.client.wait(world.client.call(world.pool, "Pool", "ImportDisk", "sa{sv}", "none.qcow2", {}))
    check(mirror, "jobs")
    finished = [h.body[0] for h in mirror.heard if h.member == "JobFinished"]
    assert sorted(finished) == sorted(set(world.client.of_kind("job")) - before)
    states = sorted(h.body[3] for h in mirror.heard if h.member == "JobFinished")
    assert states == ["failed"] + ["succeeded"] * 3
    assert {h.path for h in mirror.heard if h.member == "JobFinished"} == {ROOT}


def test_whoever_has_the_answer_has_the_news(world, mirror):
    """What a call changed was told before it is answered: to the caller as to everybody."""
    me = mirror.client
    pool = me.create_pool("fresh", world.vacant)
    heard = [message.body[0] for message in mirror.queue]
    assert pool in heard
    job = me.call(pool, "Pool", "CreateDisk", "sta{sv}", "d", MiB, {})
    disk = me.finish(job)["disk"]
    added = [m.body[0] for m in mirror.queue if len(m.body) == 2 and m.body[0] in (job, disk)]
    assert added == [job, disk]
    me.call(pool, "Pool", "Remove")
    mirror.hear()
    assert disk not in mirror.objects and pool not in mirror.objects
    check(mirror, "removed")


def test_every_client_hears_the_same(world):
    mirrors = [Mirror(world.bus.address) for _ in range(5)]
    try:
        for number in range(5):
            world.create_disk(f"disk-{number}")
            call(world, world.down, "VM.CreateSnapshot", "sa{sv}", "", {})
        for mirror in mirrors:
            check(mirror, "disks and snapshots")
        assert all(mirror.heard == mirrors[0].heard for mirror in mirrors) and len(mirrors[0].heard) > 50
    finally:
        for mirror in mirrors:
            mirror.close()


def test_signals_outlive_restarts_of_the_daemon(world):
    """A client that stays on the bus finds everything where it was, and is told only of what is new."""
    before = world.objects()
    world.daemon.stop()
    world.daemon.start()
    mirror = Mirror(world.bus.address)
    try:
        if world.client.get(world.up, "VM", "State") != "running":
            mirror.hear_until(changed(world.up, "State", "running"))
        check(mirror, "started")
        assert world.objects() == before
        world.create_disk("after the restart")
        check(mirror, "new disk")
    finally:
        mirror.close()


# --- clients that misbehave ---------------------------------------------------------------------------------

def deaf_client(world):
    """Listens to everything and asks for everything, and never reads a byte of it."""
    client = Client(world.bus.address)
    client.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    Proxy(message_bus, client.connection).AddMatch(MatchRule(type="signal", path_namespace=ROOT))
    return client


def ask_without_reading(client, count):
    address = DBusAddress(ROOT, bus_name=NAME, interface="org.freedesktop.DBus.ObjectManager")
    for _ in range(count):
        client.connection.send(new_method_call(address, "GetManagedObjects"))


def test_client_that_never_reads_stalls_nobody(world, mirror):
    deaf = deaf_client(world)
    try:
        ask_without_reading(deaf, 200)
        slowest = 0
        for number in range(300):
            started = time.monotonic()
            world.client.call(world.down, "VM", "Update", "a{sv}", variants({"name": f"down-{number}"}))
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 5
        call(world, world.up, "VM.CreateSnapshot", "sa{sv}", "", {})
        check(mirror, "all the while")
    finally:
        deaf.close()
    world.create_disk("afterwards")
    check(mirror, "and afterwards")


def test_clients_that_leave_in_the_middle(world, mirror):
    """Of a Wait, of a call, of an answer."""
    job = world.client.call(world.pool, "Pool", "CreateDisk", "sta{sv}", "large", 8192 * MiB,
                            variants({"preallocation": "full"}))
    for _ in range(20):
        client = Client(world.bus.address)
        address = DBusAddress(job, bus_name=NAME, interface=f"{NAME}.Job")
        client.connection.send(new_method_call(address, "Wait"))
        ask_without_reading(client, 5)
        client.close()
    world.client.call(job, "Job", "Cancel")
    assert world.client.wait(job)[0] == "cancelled"
    check(mirror, "they are gone")


@pytest.fixture
def lasting_job(world):
    """A job that lasts until end() is called: a snapshot that waits for the guest's agent."""
    release = threading.Event()
    agent = AgentDouble(f"{world.directory}/agent.sock")
    agent.always("guest-fsfreeze-freeze", then(when(release), properly))
    world.client.call(world.up, "VM", "Update", "a{sv}", variants({"agent_socket": agent.path}))
    mirror = Mirror(world.bus.address)
    if world.client.get(world.up, "VM", "AgentState") != "connected":
        mirror.hear_until(changed(world.up, "AgentState", "connected"))
    mirror.close()
    job = world.client.create_snapshot(world.up, "lasting", quiesce="require")
    agent.wait_asked("guest-fsfreeze-freeze")
    yield job, release.set
    release.set()
    agent.close()


def test_hundreds_wait_for_one_job(world, lasting_job):
    """On one connection, as a manager of many VMs has it (the bus allows 128 open calls), and on many."""
    job, end = lasting_job
    wait = new_method_call(DBusAddress(job, bus_name=NAME, interface=f"{NAME}.Job"), "Wait")
    manager = Client(world.bus.address)
    others = [Client(world.bus.address) for _ in range(20)]
    try:
        serials = {}
        for client in [manager] * 120 + others * 10:
            serial = next(client.connection.outgoing_serial)
            client.connection.send(wait, serial=serial)
            serials.setdefault(client, set()).add(serial)
        # None of them is in the way of anything else.
        started = time.monotonic()
        assert world.client.find("pool", "main") == world.pool
        assert manager.find("pool", "main") == world.pool
        assert time.monotonic() - started < 5
        end()
        for client, expected in serials.items():
            answered = set()
            while answered != expected:
                message = client.connection.receive(timeout=60)
                serial = message.header.fields.get(HeaderFields.reply_serial)
                if serial in expected:
                    assert message.header.message_type == MessageType.method_return, message.body
                    assert message.body[0] == "succeeded"
                    answered.add(serial)
    finally:
        for client in [manager, *others]:
            client.close()


def test_too_many_calls_are_refused_and_nobody_else_suffers(world, lasting_job):
    """By the bus, or where that allows more, by the daemon."""
    job, end = lasting_job
    wait = new_method_call(DBusAddress(job, bus_name=NAME, interface=f"{NAME}.Job"), "Wait")
    greedy = Client(world.bus.address)
    try:
        for _ in range(2000):
            greedy.connection.send(wait)
        refused = greedy.connection.receive(timeout=60)
        while refused.header.message_type != MessageType.error:
            refused = greedy.connection.receive(timeout=60)
        assert refused.header.fields[HeaderFields.error_name] == "org.freedesktop.DBus.Error.LimitsExceeded"
        assert world.client.find("pool", "main") == world.pool
        end()
        assert world.client.wait(job)[0] == "succeeded"
    finally:
        greedy.close()


def test_kinds_are_all_looked_at(world):
    """The tests above see objects of every kind, or this world has grown a kind that they do not know."""
    assert {path.split("/")[3] for path in world.client.objects()} == set(KINDS)
