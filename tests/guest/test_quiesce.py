# SPDX-License-Identifier: MIT
"""CreateSnapshot of a real Linux: what `quiesce` promises is looked for in the snapshot's file systems."""
import pytest

from harness import images
from harness.chains import disk_by_target, volume_chain
from harness.filesystems import ENVIRONMENT, Ext4, make_disk
from harness.guest_world import GuestWorld, check_clean
from harness.tap import Tap, check_window


@pytest.fixture
def config():
    """The agent of a guest without KVM on a busy host."""
    return ('[quiesce]\nagent-timeout = "10s"\nthaw-timeout = "20s"\n'
            'freeze-timeout = "30s"\nfreeze-limit = "30s"\n')


@pytest.mark.parametrize("disks", [1, 4])
def test_required(world, disks):
    world = world(disks)
    before = world.guest.acknowledged()
    snapshot, result = world.snapshot(name="before-upgrade", quiesce="require")
    after = world.guest.acknowledged()
    assert snapshot["Consistency"] == "filesystem" and snapshot["Status"] == "ok"
    assert snapshot["VMState"] == "running"
    assert "quiesce" not in result and result["frozen-usec"] >= result["switch-usec"] > 0
    world.guest.shell("echo later > /mnt/vda/later; sync")
    volumes = world.volumes(snapshot)
    assert len(volumes) == disks
    check_clean(volumes, before, after + 1)

    digests = [images.digest(path) for path in volumes]
    world.goes_on()
    assert [images.digest(path) for path in volumes] == digests, "the guest writes into the snapshot"
    with Ext4(volumes[0]) as filesystem:
        assert filesystem.read("/later") is None
    assert world.guest.shell("cat /mnt/vda/later") == "later\n"
    for number, volume in enumerate(volumes):
        top = world.guest.active_file(f"dev{number}")
        assert top != volume and images.chain(top) == [top, volume]
        images.check(volume)


@pytest.mark.parametrize("disks", [1, 4])
def test_window(client, directory, pool_directory, guests, disks):
    """What the daemon says to QEMU and to the agent while the guest is frozen: the one switch."""
    paths = [make_disk(f"{pool_directory}/disk{number}.qcow2") for number in range(disks)]
    guest = guests("guest", paths, writer=1)
    tap = Tap(f"{directory}/taps", {"qmp": guest.qmp, "agent": guest.agent})
    try:
        vm = client.register_vm("web", qmp_socket=tap.path("qmp"), agent_socket=tap.path("agent"))
        client.finish(client.create_snapshot(vm, quiesce="require"))
        check_window(tap.messages, disks)
    finally:
        tap.close()


def test_auto_freezes_where_it_can(world):
    world = world()
    before = world.guest.acknowledged()
    snapshot, result = world.snapshot()
    assert snapshot["Consistency"] == "filesystem" and "quiesce" not in result
    check_clean(world.volumes(snapshot), before, world.guest.acknowledged() + 1)
    assert world.client.get(world.vm, "VM", "AgentState") == "connected"
    world.goes_on()


def test_off_is_as_after_a_power_cut(world):
    """And it is the proof that the checks of the others can fail."""
    world = world()
    world.client.wait_property(world.vm, "VM", "AgentState", "connected")
    before = world.guest.acknowledged()
    snapshot, result = world.snapshot(quiesce="off")
    assert snapshot["Consistency"] == "crash" and "frozen-usec" not in result
    with Ext4(world.volumes(snapshot)[0]) as filesystem:
        assert filesystem.needs_recovery and not filesystem.clean
        assert filesystem.replay() and filesystem.records() >= before
    assert world.guest.shell("cat /run/fsfreeze.log", check=False)[0] != 0, "the guest was frozen"
    world.goes_on()


def test_ten_in_a_row(world):
    world = world()
    least, parent = 0, "/"
    for number in range(10):
        before = world.guest.wait_writing(3)
        snapshot, _ = world.snapshot(name=f"number {number}", quiesce="require")
        least = check_clean(world.volumes(snapshot), max(least, before), world.guest.acknowledged() + 1)
        assert snapshot["Consistency"] == "filesystem"
        assert snapshot["Parent"] == parent and snapshot["Current"]
        parent = world.client.get(world.vm, "VM", "CurrentSnapshot")
    top = world.guest.active_file("dev0")
    assert len(images.chain(top)) == 11
    _, disk = disk_by_target(world.client, world.vm, "serial0")
    assert volume_chain(world.client, disk["Active"]) == images.chain(top)
    world.goes_on()


def test_paused_guest(world):
    world = world()
    world.guest.execute("stop")
    world.client.wait_property(world.vm, "VM", "State", "paused")
    assert "paused" in world.refused(quiesce="require")
    snapshot, result = world.snapshot()
    assert snapshot["Consistency"] == "crash" and "paused" in result["quiesce"]
    assert snapshot["VMState"] == "paused"
    world.guest.execute("cont")
    world.client.wait_property(world.vm, "VM", "State", "running")
    world.goes_on()
    assert world.snapshot()[0]["Consistency"] == "filesystem"


def test_no_agent_in_the_guest(world):
    world = world(agent="none")
    assert world.client.get(world.vm, "VM", "AgentState") == "absent"
    assert "no guest agent runs" in world.refused(quiesce="require")
    snapshot, result = world.snapshot()
    assert snapshot["Consistency"] == "crash" and "no guest agent runs" in result["quiesce"]
    world.goes_on()
    # It may be installed later, which QEMU tells.
    world.guest.shell("agent start")
    world.client.wait_property(world.vm, "VM", "AgentState", "connected")
    assert world.snapshot(quiesce="require")[0]["Consistency"] == "filesystem"


def test_vm_registered_without_agent(client, pool_directory, guests):
    guest = guests("guest", [make_disk(f"{pool_directory}/disk.qcow2")], writer=1)
    world = GuestWorld(client, guest, client.register_vm("web", qmp_socket=guest.qmp))
    assert "without a guest agent" in world.refused(quiesce="require")
    assert world.snapshot()[0]["Consistency"] == "crash"


def test_frozen_by_somebody_in_the_guest(world):
    """The agent finds nothing left to freeze. It thaws that as well: a thaw of qemu-ga is of all there is."""
    world = world()
    world.guest.shell("fsfreeze --freeze /mnt/vda")
    snapshot, result = world.snapshot()
    assert snapshot["Consistency"] == "crash" and "no file system to freeze" in result["quiesce"]
    world.goes_on()
    world.guest.shell("fsfreeze --freeze /mnt/vda")
    assert "no file system to freeze" in world.refused(quiesce="require")
    world.goes_on()


def test_one_of_two_frozen_by_somebody_in_the_guest(world):
    """It is frozen all the same, and the other one by the agent: the snapshot is what was asked for."""
    world = world(disks=2)
    before = world.guest.acknowledged()
    world.guest.shell("fsfreeze --freeze /mnt/vdb")
    snapshot, _ = world.snapshot(quiesce="require")
    assert snapshot["Consistency"] == "filesystem"
    check_clean(world.volumes(snapshot), before, world.guest.acknowledged() + 1)
    world.goes_on()


def test_one_of_two_thawed_by_somebody_in_the_guest(world, daemon):
    """The thaw's answer tells: fewer than were frozen."""
    world = world(disks=2)
    daemon.at("create-snapshot.switch", "stop")
    job = world.client.create_snapshot(world.vm)
    daemon.wait_stopped()
    world.guest.shell("fsfreeze --unfreeze /mnt/vdb")
    daemon.resume()
    result = world.client.finish(job)
    assert world.client.get(result["snapshot"], "Snapshot", "Consistency") == "crash"
    assert "thawed" in result["quiesce"]
    world.goes_on()


def test_xfs(client, directory, pool_directory, guests):
    """XFS writes a record to its log as it freezes, which a mount replays; all data is there without that."""
    path = make_disk(f"{pool_directory}/disk.qcow2", size=320 << 20, filesystem="xfs")
    guest = guests("guest", [path], xfs=True, writer=1)
    before = guest.wait_writing()
    vm = client.register_vm("web", qmp_socket=guest.qmp, agent_socket=guest.agent)
    world = GuestWorld(client, guest, vm)
    snapshot, _ = world.snapshot(quiesce="require")
    after = guest.acknowledged()
    assert snapshot["Consistency"] == "filesystem"
    world.goes_on()
    guest.kill()
    raw = f"{directory}/look.raw"
    images.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", world.volumes(snapshot)[0], raw)
    look = guests("look", [raw], xfs=True, mountopts="ro,norecovery")
    counts = [len(look.shell(f"cat /mnt/vda/{name}")) // 64 for name in ("journal", "dirty")]
    assert before <= counts[0] <= after + 1 and counts[1] >= counts[0], (before, counts, after)
    look.shell("umount /mnt/vda && mount -t xfs /dev/vda /mnt/vda && umount /mnt/vda")
    look.shutdown()
    images.run("xfs_repair", "-n", raw, env=ENVIRONMENT)
