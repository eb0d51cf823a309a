# SPDX-License-Identifier: MIT
"""Snapshots of a guest that has trouble: whatever happens to its agent, to itself or to the daemon, the job
ends in time, says what was reached, and the guest does not stay frozen."""
import contextlib
import time

import pytest

from harness.client import DBusError
from harness.filesystems import Ext4
from harness.guest_world import check_clean

AGENT_TIMEOUT, THAW_TIMEOUT = 3, 3
# What a busy machine may add to a deadline.
SLACK = 10


@pytest.fixture
def config():
    return (f'[quiesce]\nagent-timeout = "{AGENT_TIMEOUT}s"\nthaw-timeout = "{THAW_TIMEOUT}s"\n'
            'freeze-timeout = "20s"\nfreeze-limit = "60s"\n')


@contextlib.contextmanager
def frozen(world, daemon, **options):
    """A job whose snapshot stands right before the switch, the guest frozen; it goes on at the end."""
    daemon.at("create-snapshot.switch", "stop")
    job = world.client.create_snapshot(world.vm, **options)
    daemon.wait_stopped()
    assert world.guest.agent_says_frozen()
    yield job
    daemon.resume()


@contextlib.contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds + SLACK, f"it took {took:.1f} s"


# --- the agent ---

def check_no_answer(world):
    """A snapshot of a guest whose agent hangs, and the same after it has come to."""
    with within(2 * AGENT_TIMEOUT):
        assert "does not answer" in world.refused(quiesce="require")
    world.agent_state("unresponsive")
    with within(2 * AGENT_TIMEOUT):
        snapshot, result = world.snapshot()
    assert snapshot["Consistency"] == "crash" and "does not answer" in result["quiesce"]
    world.goes_on()
    world.guest.shell("agent continue")
    assert world.snapshot(quiesce="require")[0]["Consistency"] == "filesystem"
    world.agent_state("connected")
    world.goes_on()


def test_agent_hung_from_the_start(world):
    world = world(agent="hung")
    world.agent_state("unresponsive")
    check_no_answer(world)


def test_agent_hung_later(world):
    world = world()
    world.agent_state("connected")
    world.guest.shell("agent hang")
    check_no_answer(world)


def test_agent_hangs_while_frozen(world, daemon):
    world = world()
    with frozen(world, daemon) as job:
        world.guest.shell("agent hang")
    with within(AGENT_TIMEOUT):
        snapshot, result = world.taken(job)
    assert snapshot["Consistency"] == "crash" and "is not known" in result["quiesce"]
    world.agent_state("unresponsive")
    assert world.guest.agent_says_frozen()
    # Nobody forgets a guest that is frozen, and nobody waits for it for long.
    with within(THAW_TIMEOUT), pytest.raises(DBusError) as refusal:
        world.client.call(world.vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    assert refusal.value.short == "Busy" and "frozen" in refusal.value.message
    with within(2 * AGENT_TIMEOUT):
        assert world.snapshot()[0]["Consistency"] == "crash"
    world.guest.shell("agent continue")
    world.goes_on()
    world.agent_state("connected")
    assert world.snapshot(quiesce="require")[0]["Consistency"] == "filesystem"


def test_agent_hangs_while_frozen_and_that_is_not_enough(world, daemon):
    world = world()
    before = world.picture()
    with frozen(world, daemon, quiesce="require") as job:
        world.guest.shell("agent hang")
    error, message = world.client.failure(job)
    assert error == "QuiesceFailed" and "is not known" in message
    assert world.picture() == before
    world.guest.shell("agent continue")
    world.goes_on()
    assert world.picture() == before


def test_thaw_pending_while_the_next_one_freezes(world, daemon):
    """The thaw that is still to come must not end the freeze of the next snapshot."""
    world = world()
    with frozen(world, daemon) as job:
        world.guest.shell("agent hang")
    assert world.taken(job)[0]["Consistency"] == "crash"
    world.guest.shell("agent continue")
    before = world.guest.acknowledged()
    snapshot, _ = world.snapshot(quiesce="require")
    check_clean(world.volumes(snapshot), before, world.guest.acknowledged() + 1)
    world.goes_on()


def test_agent_crashes_while_frozen(world, daemon):
    """The new one thaws what the old one has frozen, so nothing is lost."""
    world = world(disks=2)
    before = world.guest.acknowledged()
    with frozen(world, daemon, quiesce="require") as job:
        world.guest.shell("agent kill; agent start")
    snapshot, _ = world.taken(job)
    assert snapshot["Consistency"] == "filesystem"
    check_clean(world.volumes(snapshot), before, world.guest.acknowledged() + 1)
    world.goes_on()


def test_agent_crashes_while_frozen_and_comes_back_late(world, daemon):
    world = world()
    with frozen(world, daemon) as job:
        world.guest.shell("agent kill")
    with within(AGENT_TIMEOUT):
        snapshot, result = world.taken(job)
    assert snapshot["Consistency"] == "crash" and "is not known" in result["quiesce"]
    assert world.guest.agent_says_frozen()
    world.agent_state("absent")
    world.guest.shell("agent start")
    world.goes_on()


def test_freeze_that_takes_too_long(world):
    """It comes about after the snapshot was taken, and has to be thawed nevertheless."""
    world = world()
    world.guest.shell("echo freeze sleep 6 > /run/hook")
    with within(1 + AGENT_TIMEOUT):
        snapshot, result = world.snapshot(freeze_timeout_usec=1_000_000)
    assert snapshot["Consistency"] == "crash" and "freezing failed" in result["quiesce"]
    world.guest.shell("until grep -q thaw /run/fsfreeze.log; do usleep 50000; done")
    world.goes_on()
    world.agent_state("connected")
    world.guest.shell("rm /run/hook")
    assert world.snapshot(quiesce="require")[0]["Consistency"] == "filesystem"


def test_hook_that_fails(world):
    world = world()
    world.guest.shell("echo freeze fail > /run/hook")
    assert "freezing failed" in world.refused(quiesce="require")
    snapshot, result = world.snapshot()
    assert snapshot["Consistency"] == "crash" and "freezing failed" in result["quiesce"]
    world.goes_on()
    # Of the thaw: the agent reports a failure, and has thawed.
    world.guest.shell("echo thaw fail > /run/hook")
    snapshot, result = world.snapshot()
    assert snapshot["Consistency"] == "crash" and "is not known" in result["quiesce"]
    world.goes_on()
    assert "is not known" in world.refused(quiesce="require")
    world.goes_on()


# --- the guest ---

def test_guest_resets_while_frozen(world, daemon):
    world = world()
    with frozen(world, daemon) as job:
        acknowledged = world.guest.acknowledged()
        world.guest.execute("system_reset")
    snapshot, result = world.taken(job)
    assert snapshot["Consistency"] == "crash" and "quiesce" in result
    world.guest.wait_booted()
    world.goes_on()
    assert int(world.guest.shell("stat -c %s /mnt/vda/journal")) // 64 > acknowledged
    world.agent_state("connected")
    assert world.snapshot(quiesce="require")[0]["Consistency"] == "filesystem"


def test_guest_panics_while_frozen(world, daemon, guests):
    world = world(panic="pause")
    with frozen(world, daemon) as job:
        acknowledged = world.guest.acknowledged()
        world.guest.start_shell("echo c > /proc/sysrq-trigger")
        world.guest.monitor.event("GUEST_PANICKED")
    snapshot, _ = world.taken(job)
    assert snapshot["Consistency"] == "crash"
    world.client.wait_property(world.vm, "VM", "State", "crashed")
    top = world.guest.active_file("dev0")
    world.guest.quit()
    # The next start, where the daemon has to find it again.
    guest = guests("guest", [top], writer=1)
    world.client.wait_property(world.vm, "VM", "State", "running")
    assert guest.acknowledged() == 0 and int(guest.shell("stat -c %s /mnt/vda/journal")) // 64 >= acknowledged
    guest.wait_writing()


def test_guest_powers_off_while_frozen(world, daemon, guests):
    """QEMU is gone before the switch: nothing has happened, and the VM starts where it was."""
    world = world()
    before = world.client.of_kind("disk")
    with frozen(world, daemon) as job:
        acknowledged = world.guest.acknowledged()
        world.guest.start_shell("poweroff -f")
        world.guest.process.wait(30)
    error, message = world.client.failure(job)
    assert error in ("Unreachable", "NotRunning", "Interrupted"), message
    world.client.wait_property(world.vm, "VM", "State", "shutoff")
    after = world.client.of_kind("disk")
    assert after == before and world.client.of_kind("snapshot") == {}
    [disk] = after.values()
    guest = guests("guest", [disk["ActivePath"]], writer=1)
    assert int(guest.shell("stat -c %s /mnt/vda/journal")) // 64 >= acknowledged
    guest.wait_writing()


# --- the daemon ---

def test_daemon_killed_before_the_switch(world, daemon):
    world = world()
    before = world.picture()
    daemon.at("create-snapshot.switch")
    job = world.client.create_snapshot(world.vm)
    daemon.wait_killed()
    assert world.guest.agent_says_frozen()
    daemon.start()
    error, message = world.client.failure(job)
    assert error == "Interrupted" and "undone" in message
    world.goes_on()
    assert world.picture() == before
    daemon.stop()
    assert world.guest.agent_client().execute("guest-fsfreeze-status") == "thawed"


@pytest.mark.parametrize("quiesce", ["auto", "require"])
def test_daemon_killed_after_the_switch(world, daemon, quiesce):
    """Nobody can know whether the guest had thawed by itself before the daemon came back."""
    world = world()
    before = world.picture()
    acknowledged = world.guest.acknowledged()
    daemon.at("create-snapshot.thaw")
    job = world.client.create_snapshot(world.vm, quiesce=quiesce)
    daemon.wait_killed()
    assert world.guest.agent_says_frozen()
    daemon.start()
    if quiesce == "auto":
        snapshot, result = world.taken(job)
        assert snapshot["Consistency"] == "crash" and "not known" in result["quiesce"]
        with Ext4(world.volumes(snapshot)[0]) as filesystem:
            assert filesystem.records() >= acknowledged
    else:
        error, message = world.client.failure(job)
        assert error == "QuiesceFailed" and "not known" in message
        assert world.picture() == before
    world.goes_on()


def test_daemon_killed_while_it_waits_for_the_freeze(world, daemon):
    world = world()
    before = world.picture()
    world.guest.shell("echo freeze sleep 3 > /run/hook")
    job = world.client.create_snapshot(world.vm)
    world.guest.shell("until grep -q freeze /run/fsfreeze.log; do usleep 10000; done")
    daemon.kill()
    daemon.start()
    assert world.client.failure(job)[0] == "Interrupted"
    world.guest.shell("until grep -q thaw /run/fsfreeze.log; do usleep 10000; done")
    world.goes_on()
    assert world.picture() == before


def test_daemon_killed_with_the_agent_hung(world, daemon):
    """It cannot thaw at its start, but it does as soon as that can be."""
    world = world()
    daemon.at("create-snapshot.switch")
    world.client.create_snapshot(world.vm)
    daemon.wait_killed()
    world.guest.shell("agent hang")
    daemon.start()
    assert world.guest.agent_says_frozen()
    world.guest.shell("agent continue")
    world.goes_on()
