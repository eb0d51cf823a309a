# SPDX-License-Identifier: MIT
"""Volume.Checksum, held against a definition of it in Python that reads every byte."""
import os
import random
import signal
import subprocess
import time

import pytest

from harness import images
from harness.chains import volume_at
from harness.client import Client, DBusError, variants
from harness.content import checksum, content
from harness.down_vm import DownVm
from harness.tree import Tree

MIB = 1 << 20


def begin(client, volume, **options):
    return client.call(volume, "Volume", "Checksum", "a{sv}", variants(options))


def checksum_of(client, volume, **options):
    return client.finish(begin(client, volume, **options))


def children_of(daemon):
    """The processes that the daemon has started: (pid, name)."""
    found = subprocess.run(["ps", "--ppid", str(daemon.process.pid), "-o", "pid=,stat=,comm="], capture_output=True, text=True,
                           timeout=20)
    rows = [line.split() for line in found.stdout.splitlines()]
    return [(int(pid), name) for pid, stat, name in rows if not stat.startswith("Z")]


def wait_progress(client, job):
    with client.signals(path=job, member="PropertiesChanged") as changes:
        while client.get(job, "Job", "DoneBytes") == 0:
            changes.next()


@pytest.fixture
def slow(client, imported):
    """(volume, job): a checksum that takes a minute, and has begun to read."""
    disk, paths = imported("slow", 2, size=64 * MIB)
    images.write(paths[-1], 5, 0, 40 * MIB)
    volume = client.get(disk, "Disk", "Active")
    job = begin(client, volume, speed=MIB // 2)
    wait_progress(client, job)
    return volume, job


# --- what it says -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [None, "cluster_size=4096", "extended_l2=on"])
@pytest.mark.parametrize("algorithm", ["sha256/64KiB", "blake2b512/64KiB"])
def test_as_defined(client, imported, algorithm, options):
    disk, paths = imported("root", 3, size=16 * MIB + 512, options=options)
    commands = ["write -P 7 5M 70000", "write -z 6M 1M", "write -P 0 8M 1M", "write -P 9 16M 512", "write -P 3 10239k 2k",
                # Data that ends, and zeroes that end, within a block.
                "write -P 5 11284k 4k", "write -P 6 12308k 300k", "write -z 12400k 8k", "write -z 12480k 100k"]
    images.run("qemu-io", "-f", "qcow2", *[w for command in commands for w in ("-c", command)], paths[-1])
    for path in paths:
        data = content(path)
        result = checksum_of(client, volume_at(client, path)[0], algorithm=algorithm)
        assert result["checksum"] == checksum(data, algorithm), path
        assert result["algorithm"] == algorithm and result["bytes"] == len(data) == 16 * MIB + 512
        assert 0 < result["data-bytes"] < 6 * MIB


@pytest.mark.parametrize("seed", range(1, 5))
def test_anything_scattered(client, pool, pool_directory, seed):
    """A raw file with data and holes of any number of file system blocks."""
    rng, path = random.Random(seed), f"{pool_directory}/scattered.raw"
    with open(path, "wb") as f:
        f.truncate(24 * MIB + 512 * rng.randrange(128))
        for _ in range(200):
            f.seek(rng.randrange(24 * MIB // 4096) * 4096)
            f.write(bytes([rng.randrange(4)]) * 4096 * rng.choice((1, 1, 2, 16, 40)))
    volume = client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", path, {"format": ("s", "raw")}))["volume"]
    result = checksum_of(client, volume)
    assert result["checksum"] == checksum(content(path, "raw"))
    assert result["data-bytes"] < result["bytes"]


def test_the_same_content_in_other_images(client, pool, pool_directory, imported):
    """As a chain, in one image, compressed, raw, with other clusters."""
    disk, paths = imported("root", 4, size=16 * MIB)
    images.write(paths[-1], 200, 15 * MIB, 130000)
    expected = checksum_of(client, client.get(disk, "Disk", "Active"))["checksum"]
    copies = {"flat.qcow2": ("qcow2", []), "packed.qcow2": ("qcow2", ["-c"]), "plain.raw": ("raw", []),
              "fine.qcow2": ("qcow2", ["-o", "cluster_size=4096"]), "full.raw": ("raw", ["-S", "0"]),
              "subclusters.qcow2": ("qcow2", ["-o", "extended_l2=on"])}
    for name, (fmt, options) in copies.items():
        path = f"{pool_directory}/{name}"
        images.run("qemu-img", "convert", "-f", "qcow2", "-O", fmt, *options, paths[-1], path)
        volume = client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", path, {"format": ("s", fmt)}))["volume"]
        assert checksum_of(client, volume)["checksum"] == expected, name
    images.write(f"{pool_directory}/flat.qcow2", 1, 9 * MIB, 512)
    assert checksum_of(client, volume_at(client, f"{pool_directory}/flat.qcow2")[0])["checksum"] != expected


def test_odd_sizes(client, pool, pool_directory):
    """Of a raw file that ends within a sector, the disk has all of that; and there are disks of less than a block."""
    for size in (512, 1000, 65536, 65537, 3 * MIB + 1):
        path = f"{pool_directory}/{size}.raw"
        with open(path, "wb") as f:
            f.write(os.urandom(size))
        volume = client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", path, {"format": ("s", "raw")}))["volume"]
        result = checksum_of(client, volume)
        data = content(path, "raw")
        assert (result["checksum"], result["bytes"]) == (checksum(data), len(data)) and len(data) == (size + 511) // 512 * 512


def test_what_is_zero_is_not_read(client, imported):
    disk, paths = imported("large", 2, size=2 << 40)
    images.run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1T 64k", paths[-1])
    result = checksum_of(client, client.get(disk, "Disk", "Active"))
    assert result["bytes"] == 2 << 40 and result["data-bytes"] == 2 * MIB + 65536


# --- beside VMs and operations ------------------------------------------------------------------------------

def test_below_a_running_vm(client, directory, qemus):
    """A snapshot's volume, while the guest writes on; the active one is refused, and says how."""
    tree = Tree(client, directory, qemus, 2, size=16 * MIB)
    tree.snapshot("s1")
    tree.snapshot("s2")
    for name in "s1", "s2":
        for number in range(2):
            volume = tree.volume_of(name, number)
            expected = checksum(content(client.get(volume, "Volume", "Path")))
            tree.qemu.write(f"dev{number}", 0x77, 0, 8 * MIB)
            assert checksum_of(client, volume)["checksum"] == expected
    active = client.get(tree.disks[0], "Disk", "Active")
    with pytest.raises(DBusError) as error:
        begin(client, active)
    assert error.value.short == "Running" and "snapshot" in error.value.message and "'web'" in error.value.message
    tree.snapshot("s3")
    assert checksum_of(client, active)["checksum"] == checksum(content(client.get(active, "Volume", "Path")))
    tree.check()


def test_of_a_vm_that_is_down(client, directory):
    vm = DownVm(client, directory, 1).history("one")
    volume = client.get(vm.disks[0], "Disk", "Active")
    assert checksum_of(client, volume)["checksum"] == checksum(content(vm.active(vm.disks[0])))
    vm.check()


def test_owners_and_modes(client, imported, directory):
    """The image is its owner's alone, who may write to nothing else."""
    disk, paths = imported("root", 2, size=16 * MIB)
    for path in paths:
        os.chown(path, 2, 2)
        os.chmod(path, 0o400)
    assert checksum_of(client, client.get(disk, "Disk", "Active"))["checksum"] == checksum(content(paths[-1]))


def test_volumes_are_held(client, directory):
    """None of those that are read can go meanwhile; all else goes on."""
    vm = DownVm(client, directory, 1)
    images.write(vm.active(vm.disks[0]), 3, 0, 12 * MIB)
    vm.history("one", "two", "three")
    volume = dict(client.get(vm.snapshot("two"), "Snapshot", "Disks"))[vm.disks[0]]
    expected = checksum(content(client.get(volume, "Volume", "Path")))
    job = begin(client, volume, speed=8 * MIB)
    wait_progress(client, job)
    for name in "one", "two":
        error, message = vm.refused(lambda: vm.of_snapshot(name, "Delete"))
        assert error == "Busy" and "checksum" in message, (name, error, message)
    vm.take("four")
    client.finish(vm.of_snapshot("four", "Delete"))
    second = begin(client, volume)  # others may read it, too
    qemu = vm.run()
    assert client.finish(second)["checksum"] == expected
    assert client.finish(job)["checksum"] == expected
    vm.end(qemu)
    client.finish(vm.of_snapshot("two", "Delete"))
    vm.check()


def test_the_active_volume_is_locked(client, slow):
    """As nobody may write to it: no QEMU, and no operation."""
    volume, job = slow
    disk = client.get(volume, "Volume", "Disk")
    path = client.get(volume, "Volume", "Path")
    result = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", path], capture_output=True, text=True, timeout=20)
    assert "lock" in result.stderr and result.returncode != 0
    with pytest.raises(DBusError) as error:
        client.call(disk, "Disk", "Resize", "ta{sv}", 128 * MIB, {})
    assert error.value.short == "Busy" and "checksum-volume" in error.value.message
    with pytest.raises(DBusError) as error:
        client.call(disk, "Disk", "Delete", "a{sv}", {})
    assert error.value.short == "Busy" and "checksum" in error.value.message
    below = client.get(volume, "Volume", "Backing")
    assert checksum_of(client, below)["checksum"] == checksum(content(client.get(below, "Volume", "Path")))
    client.call(job, "Job", "Cancel")
    assert client.wait(job)[0] == "cancelled"
    client.finish(client.call(disk, "Disk", "Resize", "ta{sv}", 128 * MIB, {}))


def test_a_stranger_has_it(client, imported, qemus):
    disk, (path,) = imported("root", size=16 * MIB)
    qemus("stranger", [path])
    error, message = client.failure(begin(client, client.get(disk, "Disk", "Active")))
    assert error == "InUse", (error, message)


def test_while_a_merge_is_under_way(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, size=16 * MIB)
    tree.snapshot("s1")
    tree.snapshot("s2")
    volume = tree.volume_of("s2")
    daemon.at("delete-snapshot.copy", "stop")
    client.send(tree.snapshots["s1"], "Snapshot", "Delete", "a{sv}", {})
    daemon.wait_stopped()
    asked = client.send(volume, "Volume", "Checksum", "a{sv}", {})
    daemon.resume()
    with pytest.raises(DBusError) as error:
        client.answer(asked)
    assert error.value.short == "Busy" and "delete-snapshot" in error.value.message


# --- its end ------------------------------------------------------------------------------------------------

def test_cancel(client, slow, daemon):
    volume, job = slow
    assert len(children_of(daemon)) == 1
    started = time.monotonic()
    client.call(job, "Job", "Cancel")
    assert client.wait(job)[:2] == ("cancelled", "Cancelled")
    assert time.monotonic() - started < 10
    assert children_of(daemon) == []
    assert os.listdir(f"{daemon.directory}/run") == []


def test_speed(client, slow):
    """A limit holds from now on, and so does its end."""
    volume, job = slow
    done = client.get(job, "Job", "DoneBytes")
    assert done < 8 * MIB and client.get(job, "Job", "TotalBytes") == 64 * MIB
    started = time.monotonic()
    client.call(job, "Job", "SetSpeed", "t", 0)
    assert client.finish(job)["data-bytes"] == 40 * MIB
    assert time.monotonic() - started < 40  # it would take another minute


def test_the_storage_daemon_dies(client, slow, daemon):
    volume, job = slow
    ((pid, name),) = children_of(daemon)
    os.kill(pid, signal.SIGKILL)
    error, message = client.failure(job)
    assert error in ("QemuFailed", "Unreachable"), (error, message)
    assert children_of(daemon) == []


def test_nothing_is_left(client, imported, daemon, directory):
    disk, paths = imported("root", 2, size=16 * MIB)
    checksum_of(client, client.get(disk, "Disk", "Active"))
    assert children_of(daemon) == [] and os.listdir(f"{daemon.directory}/run") == []
    for path in paths:
        images.write(path, 1, 0, 512)


@pytest.mark.parametrize("point", ["open", "read"])
def test_the_daemon_is_killed(client, imported, daemon, bus, point):
    disk, paths = imported("root", 2, size=16 * MIB)
    volume = client.get(disk, "Disk", "Active")
    before = content(paths[-1])
    daemon.at(f"checksum-volume.{point}")
    client.send(volume, "Volume", "Checksum", "a{sv}", {})
    daemon.wait_killed()
    client.close()
    daemon.start()
    again = Client(bus.address)
    try:
        (job,) = [path for path, p in again.of_kind("job").items() if p["Kind"] == "checksum-volume"]
        assert again.failure(job)[0] == "Interrupted"
        assert again.get(volume, "Volume", "State") == "ok"
        assert checksum_of(again, volume)["checksum"] == checksum(before)
        assert os.listdir(f"{daemon.directory}/run") == []
    finally:
        again.close()
