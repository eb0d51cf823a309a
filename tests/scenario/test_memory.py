# SPDX-License-Identifier: MIT
"""Snapshots with memory: of one instant with the disks, while the guest runs on; brought back once; and what cannot be."""
import os
import stat

import pytest

from harness import images
from harness.busy_guest import check_content
from harness.client import Client, DBusError, Variant, variants
from harness.filesystems import Filler
from harness.memory_vm import MIB, MemoryVm

# Its RAM takes seconds to be written, though nearly all of it is zeroes.
LARGE = 2048


@pytest.fixture
def make(client, directory):
    made = []

    def make(**options):
        made.append(MemoryVm(client, directory, **options))
        return made[-1]
    yield make
    for vm in made:
        vm.end()


def test_the_guest_goes_on_from_there(make, client):
    vm = make()
    before = vm.migration_settings()
    vm.pauses()
    snapshot, result = vm.take()
    assert result["memory"] == "background" and "memory-paused" not in result, result
    assert (snapshot["Consistency"], snapshot["Status"], snapshot["VMState"]) == ("memory", "ok", "running")
    pauses = vm.pauses()
    assert [name for name, _ in pauses] == ["STOP", "RESUME"]
    assert abs(result["pause-usec"] / 1e6 - (pauses[1][1] - pauses[0][1])) < 0.001
    assert snapshot["MemoryBytes"] == result["memory-bytes"] == os.path.getsize(snapshot["MemoryPath"]) > 0
    assert vm.migration_settings() == before
    vm.check_files()
    then = os.stat(snapshot["MemoryPath"])
    model = os.stat(client.get(snapshot["Disks"][0][1], "Volume", "Path"))
    assert (then.st_uid, then.st_gid, stat.S_IMODE(then.st_mode)) == (model.st_uid, model.st_gid, stat.S_IMODE(model.st_mode))

    vm.guest.wait_writing()
    later = vm.count()
    vm.down()
    assert "memory" not in vm.revert() and vm.get("ResumesFrom") == vm.snapshot()
    assert vm.arguments()[-2:] == ["-incoming", "defer"]
    vm.launch(paused=True)
    state, _, message, loaded = vm.loaded()
    assert state == "succeeded" and not loaded["resumed"], message
    assert (vm.get("State"), vm.get("ResumesFrom")) == ("paused", "/")
    count = vm.check_of_one_instant()
    assert 0 < count < later
    vm.guest.execute("cont")
    client.wait_property(vm.vm, "VM", "State", "running")
    vm.guest.wait_writing()
    assert vm.count() > count
    client.finish(client.create_snapshot(vm.vm, "s2"))

    # Once: then it boots, and counts anew.
    vm.down()
    assert "-incoming" not in vm.arguments()
    vm.launch()
    vm.guest.wait_writing(2)
    assert vm.load_job(1) is None and vm.get("State") == "running"
    vm.check_files()


def test_the_disk_is_of_that_instant(make):
    """What the snapshot's own volume holds is what the memory counts: also where the guest wrote as fast as it could."""
    vm = make()
    snapshots = [vm.take(f"s{n}")[0] for n in range(3)]
    vm.down()
    for number, snapshot in enumerate(snapshots):
        vm.preview(snapshot["Name"])
        vm.launch(paused=True)
        assert vm.loaded(number)[0] == "succeeded"
        count = vm.check_of_one_instant()
        check_content(vm.client.get(snapshot["Disks"][0][1], "Volume", "Path"), vm.guest.blocks, vm.guest.block, count)
        vm.down()
        vm.undo()
    vm.check_files()


def test_it_runs_by_itself_where_it_ran(make, client):
    vm = make()
    vm.take()
    vm.down()
    vm.revert()
    vm.launch()
    state, _, message, result = vm.loaded()
    assert state == "succeeded" and result["resumed"] and result["snapshot"] == vm.snapshot(), message
    client.wait_property(vm.vm, "VM", "State", "running")
    vm.guest.wait_writing(50)
    client.finish(client.call(vm.disk, "Disk", "CreateOverlay", "a{sv}", {}))


def test_of_a_guest_that_stands_still(make, client):
    """QEMU would let it run: it is written while it stands, and its disks are its own afterwards."""
    vm = make()
    vm.guest.execute("stop")
    client.wait_property(vm.vm, "VM", "State", "paused")
    count = vm.check_of_one_instant()
    vm.pauses()
    snapshot, result = vm.take()
    assert result["memory"] == "paused" and "not running" in result["memory-paused"] and "pause-usec" not in result
    assert (snapshot["Consistency"], snapshot["VMState"]) == ("memory", "paused")
    assert vm.pauses() == [] and vm.get("State") == "paused" and vm.count() == count
    # A job that writes to an image that was given up would end QEMU.
    vm.guest.io("dev0", "write -q -P 7 0 4096")
    client.finish(client.create_snapshot(vm.vm, "disks"))
    client.finish(vm.of_snapshot("disks", "Delete"))
    error, message = vm.refused(lambda: client.create_snapshot(vm.vm, "again", memory=True))
    assert error == "Unsupported" and "resume the guest" in message
    vm.guest.execute("cont")
    client.wait_property(vm.vm, "VM", "State", "running")
    vm.guest.wait_writing()
    assert vm.take("again")[1]["memory"] == "background"

    vm.down()
    vm.revert()
    vm.launch()
    state, _, message, result = vm.loaded()
    assert state == "succeeded" and not result["resumed"], message
    assert vm.get("State") == "paused" and vm.check_of_one_instant() == count


def test_where_it_cannot_be_in_the_background(make, client, directory):
    """RAM that userfaultfd does not protect: the guest stands still until all is written, and runs again."""
    ram = f"{directory}/ram"
    with open(ram, "wb") as f:
        f.truncate(32 * MIB)
    vm = make(extra=["-object", f"memory-backend-file,id=ram,size=32M,mem-path={ram},share=on",
                     "-machine", "memory-backend=ram"])
    before = vm.migration_settings()
    vm.pauses()
    snapshot, result = vm.take()
    assert result["memory"] == "paused" and "not compatible" in result["memory-paused"]
    assert snapshot["Consistency"] == "memory" and snapshot["VMState"] == "running"
    assert [name for name, _ in vm.pauses()] == ["STOP", "RESUME"] and vm.migration_settings() == before
    assert vm.get("State") == "running" and result["pause-usec"] > 0
    vm.guest.wait_writing()
    client.finish(client.create_snapshot(vm.vm, "disks"))
    vm.down()
    vm.revert()
    vm.launch(paused=True)
    assert vm.loaded()[0] == "succeeded"
    assert vm.check_of_one_instant() > 0


# --- what cannot be ---

def test_a_machine_that_cannot_be_migrated(make, client, directory):
    path = images.create(f"{directory}/other.qcow2", "16M")
    vm = make(extra=["-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={path},read-only=on",
                     "-device", "nvme,serial=x,drive=n"])
    before = vm.files(), vm.migration_settings()
    vm.pauses()
    error, message = vm.refused(lambda: client.create_snapshot(vm.vm, "s1", memory=True))
    assert error == "Unsupported" and "nvme" in message and "without memory" in message
    assert (vm.files(), vm.migration_settings()) == before and vm.pauses() == []
    assert client.of_kind("snapshot") == {}
    assert client.finish(client.create_snapshot(vm.vm, "s1"))


@pytest.mark.parametrize("options,words", [({"on_disk_failure": "exclude"}, "on-disk-failure"),
                                           ({"quiesce": "require"}, "quiesce"), ({"disks": "first"}, "all disks")])
def test_options_that_do_not_go_with_it(make, client, directory, options, words):
    other = images.create(f"{directory}/other.qcow2", "16M")
    vm = make(device={"bootindex": 0}, extra=["-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={other}",
                                              "-device", "virtio-blk-pci,serial=other,drive=n"])
    [first] = [disk for disk in vm.get("Disks") if client.get(disk, "Disk", "Target") == "serial0"]
    options = {key: [first] if value == "first" else value for key, value in options.items()}
    error, message = vm.refused(lambda: client.create_snapshot(vm.vm, "s1", memory=True, **options))
    assert error == "InvalidArgument" and words in message
    assert client.of_kind("snapshot") == {} and client.of_kind("job") == {}


def test_of_a_vm_that_is_down(make, client):
    vm = make()
    vm.down()
    error, message = vm.refused(lambda: client.create_snapshot(vm.vm, "s1", memory=True))
    assert error == "NotRunning" and "memory" in message


def test_no_room(client, directory, small_filesystem):
    pool = small_filesystem(90)
    vm = MemoryVm(client, directory, pool=pool, memory=64)
    try:
        before = vm.files()
        error, message = vm.refused(lambda: client.create_snapshot(vm.vm, "s1", memory=True))
        assert error == "NoSpace" and "free" in message and vm.files() == before
        assert client.of_kind("snapshot") == {}
    finally:
        vm.end()


def test_the_room_is_used_up_meanwhile(client, daemon, directory, small_filesystem):
    """It was reserved: somebody else's files do not make the writing fail, which would leave the guest hanging."""
    pool = small_filesystem(160)
    vm = MemoryVm(client, directory, pool=pool, memory=32)
    try:
        before = vm.migration_settings()
        daemon.at("create-snapshot.switch", "stop")
        job = client.create_snapshot(vm.vm, "s1", memory=True)
        daemon.wait_stopped()
        filler = Filler(pool, left=20 * MIB)
        daemon.resume()
        snapshot = client.get_all(client.finish(job)["snapshot"], "Snapshot")
        assert snapshot["Consistency"] == "memory" and vm.migration_settings() == before
        filler.gone()
        # What it did not need is free again.
        found = os.stat(snapshot["MemoryPath"])
        assert found.st_blocks * 512 <= found.st_size + MIB
        vm.guest.wait_writing(20)
        vm.check_files()
    finally:
        vm.end()


def test_the_room_is_taken_by_somebody_else_before(client, daemon, directory, small_filesystem):
    """Between the look and the reservation: nothing was done."""
    pool = small_filesystem(160)
    vm = MemoryVm(client, directory, pool=pool, memory=32)
    try:
        before = vm.files(), vm.migration_settings()
        daemon.at("create-snapshot.nodes", "stop")
        job = client.create_snapshot(vm.vm, "s1", memory=True)
        daemon.wait_stopped()
        filler = Filler(pool, left=20 * MIB)
        daemon.resume()
        error, message = client.failure(job)
        assert error == "NoSpace" and "reserve" in message, (error, message)
        filler.gone()
        assert (vm.files(), vm.migration_settings()) == before and client.of_kind("snapshot") == {}
        vm.guest.wait_writing(20)
        vm.take("s2")
    finally:
        vm.end()


def check_disks_only(vm, name="s1"):
    """The snapshot is there, without memory, and the guest runs."""
    [snapshot] = [p for p in vm.client.of_kind("snapshot").values() if p["Name"] == name]
    assert (snapshot["Consistency"], snapshot["Status"], snapshot["MemoryBytes"]) == ("crash", "ok", 0)
    assert snapshot["MemoryPath"] == "" and len(snapshot["Disks"]) == 1 and snapshot["Current"]
    vm.client.wait_property(vm.vm, "VM", "State", "running")
    vm.guest.wait_writing(20)
    vm.check_files()
    assert vm.get("Job") == "/"


def test_cancelled_while_it_is_written(make, client):
    vm = make(memory=LARGE)
    before = vm.migration_settings()
    job = client.create_snapshot(vm.vm, "s1", memory=True)
    client.wait_property(job, "Job", "Step", "write")
    client.wait_property(job, "Job", "Cancellable", True)
    assert client.get(job, "Job", "TotalBytes") > 0 or client.get(job, "Job", "State") == "running"
    client.call(job, "Job", "Cancel")
    state, error, message, _ = client.wait(job)
    assert (state, error) == ("cancelled", "Cancelled") and "kept without memory" in message, (state, message)
    # QEMU was left to write to the end: one that is broken off leaves the guest's memory protected.
    assert vm.guest.execute("query-migrate")["status"] == "completed"
    check_disks_only(vm)
    assert vm.migration_settings() == before
    vm.take("s2")


def test_cancelled_while_the_guest_stands_still(make, client, directory):
    """It runs again at once."""
    ram = f"{directory}/ram"
    with open(ram, "wb") as f:
        f.seek(32 * MIB)  # firmware and guest count on zeroes there
        for _ in range(1024 - 32):
            f.write(os.urandom(MIB))
    vm = make(memory=1024, extra=["-object", f"memory-backend-file,id=ram,size=1G,mem-path={ram},share=off",
                                  "-machine", "memory-backend=ram"])
    job = client.create_snapshot(vm.vm, "s1", memory=True)
    client.wait_property(job, "Job", "Step", "write")
    client.wait_property(job, "Job", "Cancellable", True)
    client.call(job, "Job", "Cancel")
    state, error, message, _ = client.wait(job)
    assert (state, error) == ("cancelled", "Cancelled"), message
    check_disks_only(vm)


def test_progress(make, client):
    vm = make(memory=LARGE)
    job = client.create_snapshot(vm.vm, "s1", memory=True)
    with client.signals(path=job, member="PropertiesChanged") as changes:
        seen = set()
        while True:
            properties = client.get_all(job, "Job")
            if properties["TotalBytes"]:
                seen.add(properties["DoneBytes"])
            if properties["State"] != "running":
                break
            changes.next()
    assert properties["State"] == "succeeded" and properties["TotalBytes"] >= LARGE * MIB
    assert len(seen) > 3 and max(seen) == properties["TotalBytes"], seen


# --- when it comes back, and when not ---

def test_preview_undo_and_commit(make, client):
    vm = make()
    vm.take()
    vm.guest.wait_writing()
    vm.down()
    vm.preview()
    assert vm.get("ResumesFrom") == vm.snapshot() and vm.get("PreviewOf") == vm.snapshot()
    vm.launch()
    assert vm.loaded()[0] == "succeeded"
    vm.guest.wait_writing()
    vm.down()
    vm.undo()
    assert vm.get("ResumesFrom") == "/" and "-incoming" not in vm.arguments()
    # Not loaded before it is undone: then it is not due any more, and due again with the next preview.
    vm.preview()
    vm.undo()
    assert vm.get("ResumesFrom") == "/"
    vm.preview()
    vm.commit()
    assert vm.get("ResumesFrom") == vm.snapshot()
    vm.launch(paused=True)
    assert vm.loaded(1)[0] == "succeeded"
    vm.check_of_one_instant()


def test_what_was_due_before_a_preview_is_due_after_its_undoing(make):
    vm = make()
    vm.take("s1")
    vm.take("s2")
    vm.down()
    vm.revert("s2")
    vm.preview("s1")
    assert vm.get("ResumesFrom") == vm.snapshot("s1")
    vm.undo()
    assert vm.get("ResumesFrom") == vm.snapshot("s2")
    vm.preview("s1", memory=False)
    assert vm.get("ResumesFrom") == "/"
    vm.undo()
    vm.launch(paused=True)
    assert vm.loaded()[0] == "succeeded"
    vm.check_of_one_instant()


def test_without_memory(make, client):
    vm = make()
    vm.take()
    vm.down()
    vm.preview(memory=False)
    assert vm.get("ResumesFrom") == "/" and "-incoming" not in vm.arguments()
    vm.undo()
    vm.preview(config=False)
    assert vm.get("ResumesFrom") == "/"
    vm.undo()
    error, message = vm.refused(lambda: vm.of_snapshot("s1", "Preview", memory=True, config=False))
    assert error == "InvalidArgument" and "configuration" in message
    vm.revert()
    assert vm.arguments(memory=False)[-1] != "defer" and vm.arguments(memory=True)[-1] == "defer"
    # It boots: and with that the memory is of no use any more, whether anybody sees it or not.
    vm.launch(arguments=vm.arguments(memory=False))
    vm.guest.wait_writing(2)
    client.wait_property(vm.vm, "VM", "ResumesFrom", "/")
    vm.down()
    error, message = vm.refused(lambda: vm.arguments(memory=True))
    assert error == "InvalidArgument" and "due" in message


def test_disks_that_were_written_to_since(make, client):
    vm = make()
    vm.take()
    vm.down()
    vm.revert()
    images.write(vm.active(), 0x77, 0, 65536)
    assert "-incoming" not in vm.arguments()
    error, message = vm.refused(lambda: vm.arguments(memory=True))
    assert error == "InvalidArgument" and "written to" in message and vm.active() in message
    # Somebody has kept the arguments from before.
    vm.launch(arguments=[*vm.arguments(), "-incoming", "defer"])
    state, error, message, _ = vm.loaded()
    assert (state, error) == ("failed", "Unsupported") and "written to" in message
    assert vm.guest.execute("query-status")["status"] == "inmigrate"


def test_a_snapshot_over_it_changes_nothing(make, client):
    """Offline: the disk still shows what it held; and the new one stands where it should."""
    vm = make()
    vm.take()
    vm.down()
    vm.revert()
    client.finish(client.create_snapshot(vm.vm, "offline"))
    assert vm.arguments()[-2:] == ["-incoming", "defer"]
    vm.launch(paused=True)
    assert vm.loaded()[0] == "succeeded"
    vm.check_of_one_instant()


def test_a_disk_that_the_guest_did_not_have(make, client):
    vm = make()
    vm.take()
    vm.down()
    pool = next(iter(client.of_kind("pool")))
    disk = client.finish(client.call(pool, "Pool", "CreateDisk", "sta{sv}", "more", 16 * MIB, {}))["disk"]
    client.finish(client.call(disk, "Disk", "Attach", "osa{sv}", vm.vm, "more", {}))
    result = vm.preview()
    assert "did not have" in result["memory"] and vm.get("ResumesFrom") == "/"
    vm.undo()
    error, message = vm.refused(lambda: vm.of_snapshot("s1", "Preview", memory=True))
    assert error == "InvalidArgument" and "more" in message


def test_a_mix_of_snapshots(make, client, directory):
    """Memory comes from one snapshot, and only with all of its disks."""
    other = images.create(f"{directory}/other.qcow2", "16M")
    vm = make(device={"bootindex": 0}, extra=["-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={other}",
                                              "-device", "virtio-blk-pci,serial=other,drive=n"])
    vm.take("s1")
    vm.take("s2")
    vm.down()
    disks = vm.get("Disks")

    def preview(choice, **options):
        return client.call(vm.vm, "VM", "Preview", "a{oo}a{sv}", {d: vm.snapshot(s) for d, s in zip(disks, choice)},
                           variants(options))
    source = Variant("o", vm.snapshot("s1"))
    result = client.finish(preview(["s1", "s2"], config_from=source))
    assert "another snapshot" in result["memory"] and vm.get("ResumesFrom") == "/"
    vm.undo()
    error, _ = vm.refused(lambda: preview(["s1", "s2"], config_from=source, memory=True))
    assert error == "InvalidArgument"
    client.finish(preview(["s1", "s1"], config_from=source, memory=True))
    assert vm.get("ResumesFrom") == vm.snapshot("s1")
    vm.undo()
    client.finish(preview(["s1", "s1"]))
    assert vm.get("ResumesFrom") == "/"
    vm.undo()


def test_another_machine(make, client):
    """QEMU ends; nothing is lost, and the right one goes on."""
    vm = make()
    vm.take()
    vm.down()
    vm.revert()
    vm.launch(memory=64)
    state, error, message, _ = vm.loaded()
    assert state == "failed" and "its own log" in message and "Nothing is changed" in message, (error, message)
    vm.guest.process.wait(20)
    assert vm.get("ResumesFrom") == vm.snapshot()
    vm.launch(paused=True)
    assert vm.loaded(1)[0] == "succeeded"
    vm.check_of_one_instant()


def test_a_file_that_is_no_memory(make, client):
    vm = make()
    snapshot, _ = vm.take()
    vm.down()
    vm.revert()
    with open(snapshot["MemoryPath"], "r+b") as f:
        f.write(b"nonsense")
    assert "-incoming" not in vm.arguments()
    error, message = vm.refused(lambda: vm.arguments(memory=True))
    assert error == "InvalidArgument" and snapshot["MemoryPath"] in message
    os.unlink(snapshot["MemoryPath"])
    assert "-incoming" not in vm.arguments()
    findings = client.finish(client.call(vm.disk, "Disk", "Check", "a{sv}", {}))["findings"]
    found = [{k: v for k, (_, v) in f.items()} for f in findings]
    assert [f["kind"] for f in found] == ["missing"] and "memory" in found[0]["message"]


def test_nothing_is_done_to_a_vm_that_waits(make, client):
    """One that no memory is due to: a live migration of somebody else's, or old arguments."""
    vm = make()
    vm.take()
    vm.down()
    vm.launch(arguments=[*vm.arguments(), "-incoming", "defer"])
    for attempt in (lambda: client.create_snapshot(vm.vm, "x"), lambda: vm.of_snapshot("s1", "Delete"),
                    lambda: client.call(vm.disk, "Disk", "Resize", "ta{sv}", 64 * MIB, {}),
                    lambda: client.call(vm.disk, "Disk", "CreateOverlay", "a{sv}", {})):
        error, message = vm.refused(attempt)
        assert error == "Busy" and "waits for the memory" in message, (error, message)
    assert vm.load_job() is None


# --- what becomes of the file ---

def test_it_goes_with_its_snapshot(make, client):
    vm = make()
    first = vm.take("s1")[0]
    vm.take("s2")
    client.finish(vm.of_snapshot("s1", "Delete"))
    assert not os.path.exists(first["MemoryPath"])
    vm.check_files()
    vm.down()
    vm.revert("s2")
    error, message = vm.refused(lambda: vm.of_snapshot("s2", "Delete"))
    assert error == "InUse" and "--discard-memory" in message
    client.call(vm.vm, "VM", "Update", "a{sv}", {"discard-memory": ("b", True)})
    assert vm.get("ResumesFrom") == "/" and "-incoming" not in vm.arguments()
    client.finish(vm.of_snapshot("s2", "Delete"))
    vm.check_files()
    assert not [name for name in os.listdir(vm.pool_path) if name.endswith(".memory")]


def test_it_goes_with_the_branch_that_is_left(make, client):
    vm = make()
    vm.take("s1")
    vm.take("s2")
    vm.down()
    assert vm.revert("s1")["removed"] == ["s2"]
    vm.check_files()
    vm.launch(paused=True)
    assert vm.loaded()[0] == "succeeded"
    vm.check_of_one_instant()


def test_it_stays_where_it_is_when_the_disk_moves(make, client, directory):
    vm = make()
    vm.take()
    vm.down()
    os.mkdir(f"{directory}/elsewhere")
    other = client.create_pool("elsewhere", f"{directory}/elsewhere")
    client.finish(client.call(vm.disk, "Disk", "Move", "oa{sv}", other, {}))
    [old] = [path for path, p in client.of_kind("pool").items() if p["Path"] == vm.pool_path]
    with pytest.raises(DBusError) as refused:
        client.call(old, "Pool", "Remove")
    assert refused.value.short == "InUse" and "s1" in refused.value.message
    vm.revert()
    vm.launch(paused=True)
    assert vm.loaded()[0] == "succeeded"
    vm.check_of_one_instant()
    vm.down()
    findings = client.finish(client.call(vm.disk, "Disk", "Check", "a{sv}", {}))["findings"]
    assert findings == [], findings


def test_with_the_disk_deleted(make, client):
    vm = make()
    snapshot, _ = vm.take()
    vm.down()
    client.finish(client.call(vm.disk, "Disk", "Delete", "a{sv}", {"snapshots": ("b", True)}))
    assert not os.path.exists(snapshot["MemoryPath"]) and client.of_kind("snapshot") == {}
    assert vm.files() == set()


def test_a_clone_boots(make, client):
    vm = make()
    vm.take()
    made = client.finish(client.call(vm.snapshot(), "Snapshot", "Clone", "sa{sv}", "clone", {}))
    assert any("memory" in what for what in made["left-out"])
    assert client.get(made["vm"], "VM", "ResumesFrom") == "/"
    assert "-incoming" not in client.call(made["vm"], "VM", "LaunchArguments", "a{sv}", {})


def test_by_profile_and_schedule(make, client):
    vm = make()
    client.call(vm.vm, "VM", "SaveProfile", "sa{sv}", "whole", variants({"memory": True}))
    assert vm.get("Profiles") == {"whole": {"memory": ("b", True)}}
    result = client.finish(client.create_snapshot(vm.vm, "s1", profile="whole"))
    assert client.get(result["snapshot"], "Snapshot", "Consistency") == "memory"
    result = client.finish(client.create_snapshot(vm.vm, "s2", profile="whole", memory=False))
    assert client.get(result["snapshot"], "Snapshot", "Consistency") == "crash"
    schedule = client.create_schedule(vm.vm, "yearly", "yearly", when_down="snapshot",
                                      snapshot=Variant("a{sv}", {"profile": ("s", "whole")}))
    taken = client.finish(client.call(schedule, "Schedule", "RunNow"))["snapshot"]
    assert client.get(taken, "Snapshot", "Consistency") == "memory"
    vm.down()
    client.wait_property(schedule, "Schedule", "Running", False)
    taken = client.finish(client.call(schedule, "Schedule", "RunNow"))["snapshot"]
    assert client.get(taken, "Snapshot", "Consistency") == "offline"


def test_of_another_user(make, client):
    """QEMU needs no right to the file: it is given it open. Who may not use userfaultfd is written while it stands still."""
    nobody = 65534
    vm = make(user=nobody)
    snapshot, result = vm.take()
    assert result["memory"] in ("background", "paused") and snapshot["Consistency"] == "memory"
    os.chown(snapshot["MemoryPath"], 0, 0)
    os.chmod(snapshot["MemoryPath"], 0o600)
    vm.down()
    vm.revert()
    for name in os.listdir(vm.pool_path):
        if name.endswith(".qcow2"):
            os.chown(f"{vm.pool_path}/{name}", nobody, nobody)
    vm.launch(paused=True)
    state, _, message, _ = vm.loaded()
    assert state == "succeeded", message
    vm.check_of_one_instant()


def test_the_end_of_the_daemon_in_order(make, client, daemon, bus):
    """What has begun comes to its end first."""
    vm = make(memory=1024)
    job = client.create_snapshot(vm.vm, "s1", memory=True)
    client.wait_property(job, "Job", "Step", "write")
    daemon.stop()
    daemon.start()
    vm.client = Client(bus.address)
    assert vm.client.get(job, "Job", "State") == "succeeded"
    assert vm.client.get(vm.snapshot(), "Snapshot", "Consistency") == "memory"
    vm.guest.wait_writing()
    vm.client.close()
