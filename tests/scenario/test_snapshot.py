# SPDX-License-Identifier: MIT
"""VM.CreateSnapshot of a running VM: contents layer by layer, disks chosen and left out, failures, bitmaps, cancel."""
import os
import re
import subprocess

import pytest

from harness import images
from harness.chains import disk_by_target, make_chain, volume_at, volume_chain
from harness.client import DBusError

MIB = 1 << 20


class World:
    """A VM with some disks, and what is to be true of it before and after."""

    def __init__(self, client, qemu, vm, paths):
        self.client, self.qemu, self.vm, self.paths = client, qemu, vm, paths
        self.directories = sorted({os.path.dirname(path) for path in paths})

    def disk(self, number):
        return disk_by_target(self.client, self.vm, f"serial{number}")[0]

    def active(self, number):
        return self.client.get(self.disk(number), "Disk", "ActivePath")

    def picture(self):
        """All that a snapshot which is undone has to leave as it was."""
        objects = {path: interfaces for path, interfaces in self.client.objects().items() if "/job/" not in path}
        for interfaces in objects.values():
            interfaces.get("org.volchain1.Pool", {}).pop("FreeBytes", None)
            interfaces.get("org.volchain1.Volume", {}).pop("AllocatedBytes", None)
        files = {d: images.image_files(d) for d in self.directories}
        return objects, files, sorted(self.qemu.nodes())

    def snapshot(self, name="", **options):
        return self.client.create_snapshot(self.vm, name, **options)

    def take(self, name="", **options):
        """The properties of a snapshot that has to succeed."""
        result = self.client.finish(self.snapshot(name, **options))
        return self.client.get_all(result["snapshot"], "Snapshot")


@pytest.fixture
def world(client, directory, qemus):
    """make(N): N disks in directories of their own."""
    def make(count=1, options=None, **qemu_options):
        paths = []
        for number in range(count):
            os.mkdir(f"{directory}/pool{number}")
            paths += make_chain(f"{directory}/pool{number}", f"disk{number}", options=options)
        qemu = qemus("vm", paths, **qemu_options)
        vm = client.register_vm("web", qmp_socket=qemu.qmp, agent_socket=qemu.agent if "agent" in qemu_options else None)
        return World(client, qemu, vm, paths)
    return make


def test_each_layer_holds_what_was_written_before_it(world):
    w = world(2)
    digests = []
    for step in range(3):
        for number in range(2):
            w.qemu.write(f"dev{number}", 0x10 * (step + 1) + number, (8 + step) * MIB, MIB)
        snapshot = w.take(f"s{step}")
        assert snapshot["Status"] == "ok" and snapshot["Consistency"] == "crash" and len(snapshot["Disks"]) == 2
        digests.append({disk: images.digest(w.client.get(volume, "Volume", "Path"))
                        for disk, volume in snapshot["Disks"]})
    assert len({digest for step in digests for digest in step.values()}) == 6
    w.qemu.write("dev0", 0x77, 8 * MIB, 4 * MIB)
    w.qemu.write("dev1", 0x78, 8 * MIB, 4 * MIB)
    for number, snapshot in enumerate(sorted(w.client.of_kind("snapshot").values(), key=lambda s: s["CreatedUsec"])):
        for disk, volume in snapshot["Disks"]:
            assert images.digest(w.client.get(volume, "Volume", "Path")) == digests[number][disk]
    for number in range(2):
        active = w.active(number)
        assert active == w.qemu.active_file(f"dev{number}")
        assert volume_chain(w.client, w.client.get(w.disk(number), "Disk", "Active")) == images.chain(active)
        assert len(images.chain(active)) == 4
        for path in images.chain(active):
            images.check(path)


def test_the_overlay_takes_after_its_parent(world):
    w = world(1)
    os.chmod(w.paths[0], 0o640)
    os.chown(w.paths[0], 65534, 65533)
    w.take("s1")
    made, info = os.stat(w.active(0)), images.info(w.active(0))
    assert (made.st_mode & 0o7777, made.st_uid, made.st_gid) == (0o640, 65534, 65533)
    assert os.path.dirname(w.active(0)) == os.path.dirname(w.paths[0])
    assert info["backing-filename"] == os.path.basename(w.paths[0]) and info["backing-filename-format"] == "qcow2"
    assert info["virtual-size"] == 64 * MIB


def test_node_options_go_on(world, client, directory, qemus):
    os.mkdir(f"{directory}/pool")
    path = make_chain(f"{directory}/pool", "root")[0]
    blockdevs = [{"driver": "file", "node-name": "f", "filename": path, "cache": {"direct": True, "no-flush": False},
                  "aio": "native", "discard": "unmap", "auto-read-only": True},
                 {"driver": "qcow2", "node-name": "root", "file": "f", "cache": {"direct": True, "no-flush": False},
                  "discard": "unmap", "detect-zeroes": "unmap"}]
    qemu = qemus("vm", [{"path": path, "node": "root", "blockdevs": blockdevs}])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    w = World(client, qemu, vm, [path])
    w.take("s1")
    node = qemu.top_node("dev0")
    assert node["cache"] == {"direct": True, "no-flush": False, "writeback": True}
    assert node["detect_zeroes"] == "unmap"
    # aio is not told by QMP: the descriptor's flags and the discards are what can be seen from outside.
    fds = [f"/proc/{qemu.process.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{qemu.process.pid}/fd")]
    fd = next(fd for fd in fds if os.readlink(fd) == w.active(0))
    flags = int(re.search(r"flags:\s+(\d+)", open(fd.replace("/fd/", "/fdinfo/")).read()).group(1), 8)
    assert flags & os.O_DIRECT
    qemu.write("dev0", 0x55, 0, 4 * MIB)
    before = os.stat(w.active(0)).st_blocks
    qemu.io("dev0", "discard 0 4M")
    assert os.stat(w.active(0)).st_blocks < before - 2 * MIB // 512


def test_names(world):
    w = world(1)
    first = w.take()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["Name"]), first["Name"]
    names = [w.take()["Name"] for _ in range(3)]
    assert len({first["Name"], *names}) == 4
    w.take("mine", description="before the update")
    with pytest.raises(DBusError) as refused:
        w.snapshot("mine")
    assert refused.value.short == "AlreadyExists"


def test_the_tree(world):
    w = world(1)
    one, two = w.take("one"), w.take("two")
    snapshots = {p["Name"]: (path, p) for path, p in w.client.of_kind("snapshot").items()}
    assert one["Parent"] == "/" and two["Parent"] == snapshots["one"][0]
    assert snapshots["one"][1]["Children"] == [snapshots["two"][0]]
    assert (snapshots["one"][1]["Current"], snapshots["two"][1]["Current"]) == (False, True)
    assert w.client.get(w.vm, "VM", "CurrentSnapshot") == snapshots["two"][0]
    assert sorted(w.client.get(w.vm, "VM", "Snapshots")) == sorted(path for path, _ in snapshots.values())


def test_disks_that_are_chosen(world):
    w = world(4)
    some = w.take("some", disks=[w.disk(0), w.disk(2)])
    assert {disk for disk, _ in some["Disks"]} == {w.disk(0), w.disk(2)}
    assert some["Status"] == "ok" and some["Excluded"] == []
    assert [len(images.chain(w.active(n))) for n in range(4)] == [2, 1, 2, 1]
    but = w.take("but", exclude=[w.disk(0)])
    assert {disk for disk, _ in but["Disks"]} == {w.disk(n) for n in (1, 2, 3)}
    before = w.picture()
    for options in [{"disks": []}, {"exclude": [w.disk(n) for n in range(4)]}, {"disks": [w.vm]},
                    {"disks": ["/org/volchain1/disk/6f3d7a5c_1111_4222_8333_944444444444"]}]:
        with pytest.raises(DBusError) as refused:
            w.snapshot("x", **options)
        assert refused.value.short in ("InvalidArgument", "NotFound")
    assert w.picture() == before


def test_a_base_that_others_see_is_not_written_to(world):
    w = world(1)
    before = images.digest(w.paths[0])
    w.take("s1")
    w.qemu.write("dev0", 0x99, 0, 8 * MIB)
    assert images.digest(w.paths[0]) == before


def test_a_disk_that_others_use_too(world, client, directory, qemus):
    os.mkdir(f"{directory}/pool")
    path = make_chain(f"{directory}/pool", "shared")[0]
    qemu = qemus("vm", [{"path": path, "device": {"share-rw": True}}])
    w = World(client, qemu, client.register_vm("web", qmp_socket=qemu.qmp), [path])
    with pytest.raises(DBusError) as refused:
        client.call(w.disk(0), "Disk", "CreateOverlay", "a{sv}", {})
    assert refused.value.short == "Unsupported" and "shared" in refused.value.message
    with pytest.raises(DBusError) as refused:
        w.snapshot("s1")
    assert refused.value.short == "Unsupported"
    assert w.active(0) == path


# --- one of four disks fails ---

@pytest.fixture
def failing_pool(directory):
    """make(how) -> (path, fail): a directory that, after fail(), takes no new file, while QEMU goes on writing."""
    mounted = []

    def make(how):
        path = f"{directory}/failing"
        os.mkdir(path)
        if how == "read-only":
            # A mount of its own, so that a second one of the same directory can be made read-only over it.
            subprocess.run(["mount", "--bind", path, path], check=True, timeout=20)
            mounted.append(path)
        if how == "full":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", path], check=True, timeout=20)
            mounted.append(path)

        def make_read_only():
            # A mount over the directory itself: who has files open below goes on by the mount under it.
            subprocess.run(["mount", "--bind", path, path], check=True, timeout=20)
            mounted.append(path)
            subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True, timeout=20)

        def fill():
            with open(path + "/filler", "wb", buffering=0) as f, pytest.raises(OSError):
                while True:
                    f.write(b"x" * 4096)
        return path, fill if how == "full" else make_read_only
    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True, timeout=20)


@pytest.mark.parametrize("policy", ["abort", "exclude"])
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_one_of_four_fails(client, directory, qemus, failing_pool, how, policy):
    failing, fail = failing_pool(how)
    paths = []
    for number in range(4):
        where = failing if number == 2 else f"{directory}/pool{number}"
        os.makedirs(where, exist_ok=True)
        paths += make_chain(where, f"disk{number}", size=16 * MIB)
    qemu = qemus("vm", paths)
    w = World(client, qemu, client.register_vm("web", qmp_socket=qemu.qmp), paths)
    fail()
    for pool, properties in client.of_kind("pool").items():
        if properties["Path"] == failing:
            client.finish(client.call(pool, "Pool", "Refresh"))
            assert client.get(pool, "Pool", "State") == ("ok" if how == "full" else "read-only")
    before = w.picture()
    if policy == "abort":
        error, message = client.failure(w.snapshot("s1"))
        assert error == {"full": "NoSpace", "read-only": "ReadOnly"}[how], message
        assert failing in message and w.disk(2).rsplit("/", 1)[1].replace("_", "-") in message, message
        assert w.picture() == before
        return
    snapshot = w.take("s1", on_disk_failure="exclude")
    assert snapshot["Status"] == "partial" and {d for d, _ in snapshot["Disks"]} == {w.disk(n) for n in (0, 1, 3)}
    (excluded, why), = snapshot["Excluded"]
    assert excluded == w.disk(2) and failing in why
    assert w.active(2) == paths[2] == qemu.active_file("dev2")
    assert images.image_files(failing) == before[1][failing]
    assert [n["file"] for n in qemu.nodes().values() if n["file"].startswith(failing)] == [paths[2]] * 2
    qemu.write("dev2", 0x33, 0, MIB)


def test_all_disks_fail(client, directory, qemus, failing_pool):
    failing, fail = failing_pool("full")
    path = make_chain(failing, "disk", size=16 * MIB)[0]
    qemu = qemus("vm", [path])
    w = World(client, qemu, client.register_vm("web", qmp_socket=qemu.qmp), [path])
    fail()
    before = w.picture()
    error, _ = client.failure(w.snapshot("s1", on_disk_failure="exclude"))
    assert error == "NoSpace" and w.picture() == before


def test_devices_that_are_no_disks_of_ours(world):
    """A snapshot of "all disks" passes none over in silence."""
    w = world(2, extra=["-blockdev", '{"driver":"null-co","node-name":"foreign","size":1048576,"read-zeroes":true}',
                        "-device", "virtio-blk-pci,drive=foreign,id=hot"])
    before = w.picture()
    with pytest.raises(DBusError) as refused:
        w.snapshot("s1")
    assert refused.value.short == "Unsupported" and "'hot'" in refused.value.message
    assert w.picture() == before
    snapshot = w.take("s1", on_disk_failure="exclude")
    assert snapshot["Status"] == "partial" and snapshot["Excluded"][0][0] == "/" and "'hot'" in snapshot["Excluded"][0][1]
    assert w.take("s2", disks=[w.disk(0), w.disk(1)])["Status"] == "ok"


def test_a_read_only_disk_takes_no_part(client, pool_directory, qemus):
    paths = [make_chain(pool_directory, f"disk{n}")[0] for n in range(2)]
    qemu = qemus("vm", [paths[0], {"path": paths[1], "ro": True}])
    w = World(client, qemu, client.register_vm("web", qmp_socket=qemu.qmp), paths)
    w.take("s1")
    assert qemu.active_file("dev1") == paths[1]


def test_a_disk_that_was_plugged_in_meanwhile(world, directory):
    """QEMU sends no event for it; all disks are all disks nevertheless."""
    w = world(1, extra=["-device", "pcie-root-port,id=port1,slot=1"])
    w.take("s1")
    os.mkdir(f"{directory}/hot")
    path = make_chain(f"{directory}/hot", "hot")[0]
    w.qemu.execute("blockdev-add", **{"driver": "qcow2", "node-name": "hot",
                                      "file": {"driver": "file", "filename": path}})
    w.qemu.execute("device_add", driver="virtio-blk-pci", id="hot0", drive="hot", bus="port1", serial="hot")
    taken = w.take("s2")
    hot = disk_by_target(w.client, w.vm, "hot")[0]
    assert {disk for disk, _ in taken["Disks"]} == {w.disk(0), hot} and taken["Status"] == "ok"
    assert w.qemu.active_file("hot0") == w.client.get(hot, "Disk", "ActivePath") != path
    assert len(w.take("s3")["Disks"]) == 2


# --- bitmaps ---

def test_a_bitmap_that_somebody_added_meanwhile(world):
    w = world(1)
    w.take("s1")
    w.qemu.execute("block-dirty-bitmap-add", node=w.qemu.top_node("dev0")["node-name"], name="mine", persistent=True)
    w.take("s2")
    assert [b["name"] for b in w.qemu.top_node("dev0")["dirty-bitmaps"]] == ["mine"]


def test_persistent_bitmaps_go_on(world):
    w = world(2)
    for node, name, options in [("vol0", "check-1", {"persistent": True, "granularity": 131072}),
                                ("vol0", "check-2", {"persistent": True}), ("vol0", "passing", {}),
                                ("vol0", "stopped", {"persistent": True, "disabled": True}),
                                ("vol1", "check-1", {"persistent": True})]:
        w.qemu.execute("block-dirty-bitmap-add", node=node, name=name, **options)
    w.client.call(w.vm, "VM", "Refresh")
    w.qemu.write("dev0", 0x41, 0, MIB)
    w.take("s1")
    w.qemu.write("dev0", 0x42, 4 * MIB, MIB)
    w.take("s2")
    w.qemu.write("dev0", 0x43, 8 * MIB, MIB)
    found = {b["name"]: b for b in w.qemu.top_node("dev0")["dirty-bitmaps"]}
    assert sorted(found) == ["check-1", "check-2"]
    assert all(b["recording"] and b["persistent"] and b["count"] == MIB for b in found.values())
    assert found["check-1"]["granularity"] == 131072
    listed = {name: (granularity, flags) for name, granularity, flags in
              w.client.get(w.client.get(w.disk(0), "Disk", "Active"), "Volume", "Bitmaps")}
    assert sorted(listed) == ["check-1", "check-2"] and listed["check-1"][0] == 131072
    w.qemu.quit()
    for number, path in enumerate(images.chain(w.active(0))):
        bitmaps = images.bitmaps(path)
        assert {"check-1", "check-2"} <= set(bitmaps) and not any("in-use" in b["flags"] for b in bitmaps.values())
        assert ("stopped" in bitmaps) == (number == 2)
    assert set(images.bitmaps(w.active(1))) == {"check-1"}


# --- the job ---

def test_the_job_tells(world):
    w = world(1)
    with w.client.signals(interface="org.volchain1.Manager", member="JobFinished") as ended:
        job = w.snapshot("s1")
        state, error, message, result = w.client.wait(job)
        path, member, body = ended.next()
    assert (state, error, message) == ("succeeded", "", "") and body == (job, "create-snapshot", w.vm, "succeeded")
    properties = w.client.get_all(job, "Job")
    assert properties["Kind"] == "create-snapshot" and properties["Subject"] == w.vm and properties["OwnerUid"] == os.getuid()
    assert properties["StartedUsec"] <= properties["FinishedUsec"] and not properties["Cancellable"]
    assert properties["Result"]["snapshot"][1] == result["snapshot"] and result["switch-usec"] > 0
    assert w.client.wait(job)[3] == result  # asked again
    with pytest.raises(DBusError) as refused:
        w.client.call(job, "Job", "Cancel")
    assert refused.value.short == "Unsupported"


def held_at(w, daemon, point, name="s1", **options):
    """A snapshot's job that stands still at a failpoint, the daemon stopped with it; call daemon.resume()."""
    daemon.at(f"create-snapshot.{point}", "stop")
    job = w.snapshot(name, **options)
    daemon.wait_stopped()
    return job


def test_cancel_before_the_switch(world, daemon):
    w = world(2)
    before = w.picture()
    job = held_at(w, daemon, "nodes")
    request = w.client.send(job, "Job", "Cancel")
    daemon.resume()
    assert w.client.answer(request) is None
    state, error, message, _ = w.client.wait(job)
    assert state == "cancelled" and error == "Cancelled", message
    assert w.picture() == before
    w.take("s1")


def test_cancel_after_the_switch_is_refused(world, daemon):
    w = world(1)
    job = held_at(w, daemon, "thaw")
    request = w.client.send(job, "Job", "Cancel")
    daemon.resume()
    try:
        w.client.answer(request)
    except DBusError as refused:
        assert refused.short == "Unsupported"
    assert w.client.wait(job)[0] == "succeeded"


def test_a_second_client_is_told_who_is_busy(world, daemon):
    w = world(1)
    disk = w.disk(0)
    job = held_at(w, daemon, "nodes")
    requests = [w.client.send(w.vm, "VM", "CreateSnapshot", "sa{sv}", "other", {}),
                w.client.send(disk, "Disk", "CreateOverlay", "a{sv}", {})]
    daemon.resume()
    for request in requests:
        with pytest.raises(DBusError) as refused:
            w.client.answer(request)
        assert refused.value.short == "Busy"
        assert "create-snapshot" in refused.value.message and job.rsplit("/", 1)[1].replace("_", "-") in refused.value.message
    assert w.client.wait(job)[0] == "succeeded"


def test_qemu_is_killed_before_the_switch(world, daemon):
    w = world(1)
    job = held_at(w, daemon, "nodes")
    w.qemu.kill()
    daemon.resume()
    error, message = w.client.failure(job)
    assert error in ("Unreachable", "NotRunning", "Interrupted"), message
    assert images.image_files(os.path.dirname(w.paths[0])) == [os.path.basename(w.paths[0])]
    assert w.client.of_kind("snapshot") == {}


def test_sixty_layers(world):
    w = world(1)
    for number in range(60):
        w.take(f"s{number}")
    assert len(images.chain(w.active(0))) == 61
    active = w.client.get(w.disk(0), "Disk", "Active")
    assert w.client.get(active, "Volume", "Depth") == 61
