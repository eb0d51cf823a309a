# SPDX-License-Identifier: MIT
"""Schedules: snapshots by a clock that the test moves; what is kept, what is skipped, what a restart makes of it."""
import datetime
import time
import zoneinfo

import pytest

from harness import images
from harness.client import Client, Variant, variants
from harness.clock import Clock
from harness.down_vm import DownVm

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


@pytest.fixture
def vm(client, directory):
    return DownVm(client, directory, count=1)


@pytest.fixture
def clock(daemon):
    return Clock(daemon)


class Schedule:
    """One that takes snapshots of a VM that is down, unless said otherwise."""

    def __init__(self, client, vm, calendar, name="nightly", **options):
        self.client, self.vm = client, vm
        options.setdefault("when_down", "snapshot")
        numbers = {key: Variant("u", value) for key, value in options.items()
                   if key.startswith("keep_") or key == "max_chain"}
        self.path = client.create_schedule(vm, name, calendar, **{**options, **numbers})

    def get(self, name):
        return self.client.get(self.path, "Schedule", name)

    def update(self, **options):
        self.client.call(self.path, "Schedule", "Update", "a{sv}", variants(options))

    def run_now(self):
        return self.client.call(self.path, "Schedule", "RunNow")

    def settled(self, last, timeout=60):
        """Until a run that began at `last` (seconds, the daemon's clock) or later has ended with all that follows it."""
        end = time.monotonic() + timeout
        while True:
            shown = self.client.get_all(self.path, "Schedule")
            if shown["LastUsec"] >= last * 1e6 - 1 and not shown["Running"]:
                return shown["LastResult"]
            assert time.monotonic() < end, shown
            time.sleep(0.02)

    def made(self):
        """Their times, oldest first."""
        return sorted(self.client.get(path, "Snapshot", "CreatedUsec") / 1e6 for path in self.get("Snapshots"))

    def pass_to(self, clock, moment):
        """The clock is moved on from run to run, up to `moment`; each is waited for."""
        results = []
        while self.get("NextUsec") / 1e6 <= moment.timestamp():
            begin = self.get("NextUsec") / 1e6
            clock.set(begin)
            self.update()
            results.append(self.settled(begin))
        clock.set(moment)
        return results


def at(year, month, day, hour=0, minute=0, zone=BERLIN):
    return datetime.datetime(year, month, day, hour, minute, tzinfo=zone)


def days_of(times, zone=BERLIN):
    return [datetime.datetime.fromtimestamp(t, zone).strftime("%m-%d %H:%M") for t in times]


# --- by the clock ---

def test_days_weeks_and_months_across_a_change_of_the_clocks(client, vm, clock):
    """Three weeks, over the night in which 02:30 comes twice: exactly what is to be kept."""
    clock.set(at(2027, 10, 18))
    schedule = Schedule(client, vm.vm, "30 2 * * *", time_zone="Europe/Berlin", keep_daily=3, keep_weekly=3, keep_monthly=2)
    results = schedule.pass_to(clock, at(2027, 11, 5, 12))
    assert len(results) == 19 and set(results) == {"ok"}, results
    # The last of October is a Sunday, as is the 24th; and three days.
    assert days_of(schedule.made()) == ["10-24 02:30", "10-31 02:30", "11-03 02:30", "11-04 02:30", "11-05 02:30"]
    assert len(images.chain(vm.active(vm.disks[0]))) == 6
    names = {p["Name"] for p in vm.snapshots().values()}
    assert all(name.startswith("nightly 2027-1") for name in names), names
    assert {p["Origin"] for p in vm.snapshots().values()} == {"schedule"}
    assert {p["Schedule"] for p in vm.snapshots().values()} == {schedule.path}
    vm.check()


def test_only_its_own_are_removed(client, vm, clock):
    clock.set(at(2027, 5, 1))
    vm.history("mine")
    contents = vm.states["mine"]
    first = Schedule(client, vm.vm, "daily", keep_last=1)
    second = Schedule(client, vm.vm, "daily", name="other", enabled=False, keep_last=1)
    client.finish(second.run_now())
    second.settled(0)
    first.pass_to(clock, at(2027, 5, 6))
    assert len(first.made()) == 1 and len(second.made()) == 1
    assert {"mine"} < set(vm.snapshots()) and len(vm.snapshots()) == 3
    vm.preview("mine")
    assert vm.contents() == [contents[disk] for disk in vm.disks]
    vm.undo()
    client.call(first.path, "Schedule", "Delete")
    assert len(vm.snapshots()) == 3, "what it made stays"
    assert "/" in {p["Schedule"] for p in vm.snapshots().values()}
    vm.check()


def test_the_longest_chain(client, vm, clock):
    clock.set(at(2027, 5, 1))
    vm.history("mine")
    schedule = Schedule(client, vm.vm, "hourly", time_zone="UTC", max_chain=4)
    schedule.pass_to(clock, at(2027, 5, 1, 10))
    assert len(images.chain(vm.active(vm.disks[0]))) == 4
    assert len(schedule.made()) == 2 and "mine" in vm.snapshots()
    vm.check()


def test_missed_runs_are_made_up_once(client, vm, clock, daemon, bus):
    clock.set(at(2027, 5, 1))
    Schedule(client, vm.vm, "daily", time_zone="Europe/Berlin")
    client.close()
    daemon.stop()
    clock.set(at(2027, 5, 9, 12))
    began = clock.now()
    daemon.start()
    again = Client(bus.address)
    try:
        path = next(iter(again.of_kind("schedule")))
        schedule = Schedule.__new__(Schedule)
        schedule.client, schedule.path = again, path
        assert schedule.settled(began) == "ok"
        assert len(schedule.made()) == 1
        assert days_of([schedule.get("NextUsec") / 1e6]) == ["05-10 00:00"]
    finally:
        again.close()


def test_a_run_that_a_crash_broke_off_is_made_up(client, vm, clock, daemon, bus):
    """Killed before the snapshot was there: once more. Killed after it: not again, and what was begun is finished."""
    clock.set(at(2027, 5, 1))
    schedule = Schedule(client, vm.vm, "daily")
    for step in ("create-snapshot.files", "delete-snapshot.copy"):
        if step.startswith("delete"):
            schedule.update(keep_last=Variant("u", 1))
        daemon.at(step)
        clock.set(schedule.get("NextUsec") / 1e6)
        began = clock.now()
        schedule.client.send(schedule.path, "Schedule", "Update", "a{sv}", {})
        daemon.wait_killed()
        schedule.client.close()
        daemon.start()
        schedule.client = vm.client = Client(bus.address)
        result = schedule.settled(began - 1)
        assert result.startswith("ok"), result
        # What was begun before is a job like any other now, and the daemon does not wait for what it copies.
        for job in vm.client.of_kind("job"):
            vm.client.wait(job)
        (made,) = schedule.made()
        assert made >= began - 1
        assert daemon.passed().count("create-snapshot.switch") == (1 if step.startswith("create") else 2)
    clock.set(schedule.get("NextUsec") / 1e6)
    began = clock.now()
    schedule.update()
    assert schedule.settled(began) == "ok"
    assert len(schedule.made()) == 1
    vm.check()
    schedule.client.close()


def test_jitter_comes_later_and_stays(client, vm, clock, daemon):
    clock.set(at(2027, 5, 1))
    plain = Schedule(client, vm.vm, "daily", name="plain", time_zone="UTC", enabled=False)
    assert plain.get("NextUsec") == 0
    late = [Schedule(client, vm.vm, "daily", name=f"late{n}", time_zone="UTC", jitter_usec=3_600_000_000) for n in range(6)]
    due = at(2027, 5, 1, zone=datetime.timezone.utc).timestamp() * 1e6
    times = [schedule.get("NextUsec") for schedule in late]
    assert all(due <= t <= due + 3_600_000_000 for t in times) and len(set(times)) > 1
    assert [schedule.get("NextUsec") for schedule in late] == times


# --- skipped ---

def test_skipped_when_down(client, vm, clock):
    clock.set(at(2027, 5, 1))
    schedule = Schedule(client, vm.vm, "daily", when_down="skip")
    (result,) = schedule.pass_to(clock, at(2027, 5, 2, 12))[:1]
    assert result.startswith("skipped: ") and "is down" in result
    assert schedule.made() == []
    client.finish(schedule.run_now())
    assert len(schedule.made()) == 1, "by hand it is taken"


def test_taken_of_a_running_vm(client, vm, clock):
    qemu = vm.run()
    try:
        clock.set(at(2027, 5, 1))
        schedule = Schedule(client, vm.vm, "daily", when_down="skip", keep_last=2, snapshot=Variant("a{sv}", {"quiesce": ("s", "off")}))
        assert set(schedule.pass_to(clock, at(2027, 5, 6))) == {"ok"}
        assert len(schedule.made()) == 2
    finally:
        vm.end(qemu)
    vm.check()


def test_skipped_when_busy(client, vm, clock, daemon):
    clock.set(at(2027, 5, 1))
    vm.history("mine")
    schedule = Schedule(client, vm.vm, "daily")
    vm.preview("mine")
    results = schedule.pass_to(clock, at(2027, 5, 2, 12))
    assert all(r.startswith("skipped: ") and "preview" in r for r in results), results
    vm.undo()
    assert schedule.pass_to(clock, at(2027, 5, 3, 12))[-1] == "ok"


def test_what_is_exported_stays(client, vm, clock, directory):
    clock.set(at(2027, 5, 1))
    vm.write()
    schedule = Schedule(client, vm.vm, "daily", keep_last=1)
    schedule.pass_to(clock, at(2027, 5, 2, 12))
    (kept,) = schedule.get("Snapshots")
    export = client.finish(client.call(kept, "Snapshot", "Export", "oa{sv}", vm.disks[0], {}))["export"]
    vm.write()
    result = schedule.pass_to(clock, at(2027, 5, 3, 12))[-1]
    assert result.startswith("ok; not removed yet: ") and "export" in result, result
    assert kept in schedule.get("Snapshots")
    client.finish(client.call(export, "Export", "Stop", "a{sv}", {}))
    assert schedule.pass_to(clock, at(2027, 5, 4, 12))[-1] == "ok"
    assert kept not in client.of_kind("snapshot") and len(schedule.made()) == 1
    vm.check()


# --- profiles ---

def test_profiles(client, directory):
    vm = DownVm(client, directory, count=3)
    first, second, third = vm.disks
    client.call(vm.vm, "VM", "SaveProfile", "sa{sv}", "two", variants({"disks": [first, second], "description": "saved"}))
    assert vm.get("Profiles").keys() == {"two"}
    made = client.finish(client.create_snapshot(vm.vm, "a", profile="two"))["snapshot"]
    shown = client.get_all(made, "Snapshot")
    assert {disk for disk, _ in shown["Disks"]} == {first, second} and shown["Description"] == "saved"
    made = client.finish(client.create_snapshot(vm.vm, "b", profile="two", disks=[third], description="said"))["snapshot"]
    shown = client.get_all(made, "Snapshot")
    assert {disk for disk, _ in shown["Disks"]} == {third} and shown["Description"] == "said"

    schedule = Schedule(client, vm.vm, "daily", snapshot=Variant("a{sv}", {"profile": ("s", "two")}))
    made = client.finish(schedule.run_now())["snapshot"]
    assert {disk for disk, _ in client.get(made, "Snapshot", "Disks")} == {first, second}
    error, _ = vm.refused(lambda: client.call(vm.vm, "VM", "DeleteProfile", "s", "two"))
    assert error == "InUse"
    client.call(schedule.path, "Schedule", "Delete")
    client.call(vm.vm, "VM", "DeleteProfile", "s", "two")
    assert vm.get("Profiles") == {}
    error, _ = vm.refused(lambda: client.create_snapshot(vm.vm, "c", profile="two"))
    assert error == "NotFound"


def test_profiles_and_schedules_are_there_after_a_restart(client, vm, daemon, bus):
    client.call(vm.vm, "VM", "SaveProfile", "sa{sv}", "p", variants({"quiesce": "off", "freeze_timeout_usec": 5_000_000}))
    schedule = Schedule(client, vm.vm, "Mon 03:00", keep_weekly=3, jitter_usec=1_000_000, max_chain=9, speed=1 << 20,
                        snapshot=Variant("a{sv}", {"profile": ("s", "p"), "description": ("s", "x")}))
    before = client.get_all(schedule.path, "Schedule"), vm.get("Profiles")
    client.close()
    daemon.kill()
    daemon.start()
    again = Client(bus.address)
    try:
        assert (again.get_all(schedule.path, "Schedule"), again.get(vm.vm, "VM", "Profiles")) == before
    finally:
        again.close()
