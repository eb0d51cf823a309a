# SPDX-License-Identifier: MIT
"""ImportDisk with "copy": what lies anywhere is copied with its chain and stays as it was; what is not fit for QEMU never
becomes a copy; what fails or is cancelled leaves nothing."""
import os
import subprocess
import time

import pytest

from harness import images
from harness.chains import make_chain, volume_chain
from harness.client import variants
from harness.filesystems import Filler
from harness.qemu import Qemu

MIB = 1 << 20


@pytest.fixture
def outside(directory):
    """A directory that is in no pool."""
    path = f"{directory}/outside"
    os.mkdir(path)
    return path


@pytest.fixture
def pool(client, pool_directory):
    return client.create_pool("local", pool_directory)


def import_copy(client, pool, path, **options):
    return client.call(pool, "Pool", "ImportDisk", "sa{sv}", str(path), variants({"copy": True, **options}))


def state_of(paths):
    """What must not change, not even the times."""
    return [(images.digest(path, fmt=path.rsplit(".", 1)[1]), os.stat(path).st_mtime_ns, os.stat(path).st_ino)
            for path in paths]


@pytest.mark.parametrize("base", ["qcow2", "raw"])
def test_a_chain_is_copied_and_left_as_it_was(client, pool, pool_directory, outside, base):
    chain = make_chain(outside, "root", layers=3, base_format=base)
    images.run("qemu-img", "bitmap", "--add", chain[2], "backup0")
    before = state_of(chain)
    made = client.finish(import_copy(client, pool, chain[2]))
    disk = client.get_all(made["disk"], "Disk")
    assert (disk["Name"], disk["Active"], disk["SizeBytes"], disk["State"]) == ("root.2", made["volume"], 64 * MIB, "ok")
    copies = volume_chain(client, made["volume"])
    assert [os.path.dirname(path) for path in copies] == [pool_directory] * 3
    assert [os.path.join(pool_directory, layer) for layer in images.chain(copies[0])] == copies
    assert images.digest(copies[0]) == before[2][0] and images.bitmaps(copies[0]) == images.bitmaps(chain[2])
    owner, mode = os.stat(pool_directory).st_uid, 0o660
    for copy in copies:
        images.check(copy) if copy.endswith("qcow2") else None
        assert (os.stat(copy).st_uid, os.stat(copy).st_mode & 0o777) == (owner, mode)
    # Each is an image of its own.
    client.finish(client.call(made["disk"], "Disk", "CreateSnapshot", "sa{sv}", "s1", {}))
    images.write(client.get(made["disk"], "Disk", "ActivePath"), 0x77, 0, MIB)
    assert state_of(chain) == before
    again = client.finish(import_copy(client, pool, chain[2], name="twice"))
    assert client.get(again["disk"], "Disk", "Name") == "twice"


def test_of_an_image_in_the_pool(client, pool, pool_directory):
    """Also one that is a volume: a template."""
    template = images.create(f"{pool_directory}/template.qcow2", 8 * MIB)
    images.write(template, 3, 0, MIB)
    client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", "template.qcow2", {}))
    before = state_of([template])
    made = client.finish(import_copy(client, pool, "template.qcow2"))
    copy = client.get(made["volume"], "Volume", "Path")
    assert copy != template and images.digest(copy) == before[0][0] and state_of([template]) == before


def test_holes_stay_holes(client, pool, outside):
    path = images.create(f"{outside}/sparse.raw", 4096 * MIB, fmt="raw")
    for number in (0, 1000, 4000):
        images.write(path, 0x21, number * MIB, MIB, fmt="raw")
    made = client.finish(import_copy(client, pool, path, format="raw"))
    copy = client.get(made["volume"], "Volume", "Path")
    assert os.stat(copy).st_size == 4096 * MIB and os.stat(copy).st_blocks * 512 <= 4 * MIB
    assert images.digest(copy, fmt="raw") == images.digest(path, fmt="raw")


def hostile(directory, secrets):
    """name -> (path, error)"""
    def with_backing(name, backing, fmt="qcow2"):
        path = images.create(f"{directory}/{name}.qcow2", MIB)
        images.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", backing, "-F", fmt, path)
        return path
    secret = images.create(f"{secrets}/secret.qcow2", MIB)
    yield with_backing("elsewhere", secret), "UnsafeImage"
    yield with_backing("above", f"../{os.path.basename(secrets)}/secret.qcow2"), "UnsafeImage"
    yield with_backing("file", "/etc/shadow", "raw"), "UnsafeImage"
    yield with_backing("device", "/dev/null", "raw"), "UnsafeImage"
    yield with_backing("json", 'json:{"driver":"file","filename":"/etc/shadow"}'), "UnsafeImage"
    yield with_backing("nbd", "nbd://example.org/x"), "UnsafeImage"
    yield with_backing("missing", "gone.qcow2"), "BrokenChain"
    yield with_backing("loop", "loop.qcow2"), "BrokenChain"
    os.symlink(secret, f"{directory}/link.qcow2")
    yield f"{directory}/link.qcow2", "UnsafeImage"
    yield with_backing("by-link", "link.qcow2"), "UnsafeImage"
    images.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={directory}/data.raw,data_file_raw=on",
               f"{directory}/data-file.qcow2", "1M")
    yield f"{directory}/data-file.qcow2", "UnsafeImage"
    os.mkfifo(f"{directory}/fifo.qcow2")
    yield f"{directory}/fifo.qcow2", "UnsafeImage"
    plain = images.create(f"{directory}/plain.raw", MIB, fmt="raw")
    yield plain, "InvalidArgument"  # nobody said that it is raw
    yield f"{directory}/none.qcow2", "NotFound"
    yield directory + "/", "InvalidArgument"


def test_what_is_unsafe_is_not_copied(client, pool, pool_directory, outside, directory):
    os.mkdir(f"{directory}/secrets")
    for path, expected in hostile(outside, f"{directory}/secrets"):
        error, message = client.failure(import_copy(client, pool, path))
        assert error == expected, (path, error, message)
        assert images.image_files(pool_directory) == [], path
    error, message = client.failure(client.call(pool, "Pool", "ImportDisk", "sa{sv}", f"{outside}/plain.raw", {}))
    assert error == "InvalidArgument" and "'copy'" in message
    assert client.of_kind("disk") == {}


def test_not_while_somebody_writes_to_it(client, pool, pool_directory, outside, directory):
    chain = make_chain(outside, "root", layers=2)
    os.mkdir(f"{directory}/vm")
    qemu = Qemu(f"{directory}/vm", [chain[1]]).start()
    try:
        error, message = client.failure(import_copy(client, pool, chain[1]))
        assert error == "InUse" and chain[1] in message, message
    finally:
        qemu.kill()
    assert images.image_files(pool_directory) == []
    client.finish(import_copy(client, pool, chain[1]))


def large(outside, mib=64):
    path = images.create(f"{outside}/large.raw", mib * MIB, fmt="raw")
    with open(path, "r+b") as f:
        f.write(os.urandom(MIB) * mib)
    return path


def slow_copy(client, daemon, pool, path):
    """The job of a copy that is slowed down as it begins: the daemon finds that call as it goes on, and may have copied 32 MiB."""
    daemon.at("import-disk.copy", "stop")
    job = import_copy(client, pool, path, format="raw")
    daemon.wait_stopped()
    slower = client.send(job, "Job", "SetSpeed", "t", 4 * MIB)
    daemon.resume()
    client.answer(slower)
    return job


def test_speed_pause_and_cancel(client, daemon, pool, pool_directory, outside):
    path = large(outside)
    job = slow_copy(client, daemon, pool, path)
    with client.signals(path=job, member="PropertiesChanged") as changes:
        changes.until(lambda path, member, body: 0 < body[1].get("DoneBytes", (0, 0))[1] < 64 * MIB)
        client.call(job, "Job", "Pause")
        changes.until(lambda path, member, body: body[1].get("State", (0, ""))[1] == "paused")
        done = client.get(job, "Job", "DoneBytes")
        time.sleep(1)
        assert client.get(job, "Job", "DoneBytes") == done < 64 * MIB
        assert len(images.image_files(pool_directory)) == 1
        client.call(job, "Job", "Resume")
        changes.until(lambda path, member, body: body[1].get("DoneBytes", (0, 0))[1] > done)
    client.call(job, "Job", "Cancel")
    assert client.wait(job)[0] == "cancelled"
    assert images.image_files(pool_directory) == [] and client.of_kind("disk") == {}


@pytest.fixture
def mounted(directory):
    """mount(kind) -> a directory with a file system of its own."""
    made = []

    def mount(kind):
        path = f"{directory}/{kind}"
        os.mkdir(path)
        if kind == "tmpfs":
            images.run("mount", "-t", "tmpfs", "-o", "size=160M,mode=755", "tmpfs", path)
        else:
            images.create(path + ".img", 512 * MIB, fmt="raw")
            images.run("mkfs.xfs", "-q", "-m", "reflink=1", path + ".img", env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
            images.run("mount", "-o", "loop", path + ".img", path)
        made.append(path)
        return path
    yield mount
    for path in made:
        subprocess.run(["umount", "-l", path], check=True, timeout=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_no_room(client, daemon, mounted, outside):
    directory = mounted("tmpfs")
    pool = client.create_pool("small", directory)
    error, message = client.failure(import_copy(client, pool, large(outside, 192), format="raw"))
    assert error == "NoSpace" and "nothing was copied" in message
    assert images.image_files(directory) == []
    # The room goes while it copies.
    path = large(outside, 128)
    job = slow_copy(client, daemon, pool, path)
    with client.signals(path=job, member="PropertiesChanged") as changes:
        if not client.get(job, "Job", "DoneBytes"):
            changes.until(lambda path, member, body: body[1].get("DoneBytes", (0, 0))[1] > 0)
    filler = Filler(directory)
    client.call(job, "Job", "SetSpeed", "t", 0)
    error, message = client.failure(job)
    assert error == "NoSpace", message
    assert images.image_files(directory) == []
    filler.gone()
    client.finish(import_copy(client, pool, path, format="raw"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_reflink_takes_no_room(client, mounted):
    directory = mounted("xfs")
    os.mkdir(f"{directory}/pool")
    os.mkdir(f"{directory}/outside")
    pool = client.create_pool("reflinks", f"{directory}/pool")
    path = large(f"{directory}/outside", 160)
    for number in range(4):  # more than there is room for
        made = client.finish(import_copy(client, pool, path, format="raw", name=f"copy{number}"))
        assert images.digest(client.get(made["volume"], "Volume", "Path"), fmt="raw") == images.digest(path, fmt="raw")
