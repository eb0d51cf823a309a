# SPDX-License-Identifier: MIT
"""Exports as a file, through FUSE: for those who know only files."""
import contextlib
import os
import signal
import stat
import subprocess

import pytest

from harness import exports, images
from harness.client import Client
from harness.filesystems import make_disk
from harness.tree import Tree

MIB = 1 << 20

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="exports of kind file are NOT tested: it takes root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="exports of kind file are NOT tested: no /dev/fuse")]


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus)
    tree.snapshot("s1")
    yield tree
    assert exports.leftovers(daemon.directory) == []


def make(client, tree, **options):
    return exports.make(client, tree.snapshots["s1"], tree.disks[0], kind="file", **options)


def as_user(uid, *words):
    return subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *words],
                          capture_output=True, timeout=60)


def test_it_is_a_file_with_the_snapshots_content(client, tree):
    expected = images.digest(client.get(tree.volume_of("s1"), "Volume", "Path"))
    export = make(client, tree)
    shown = client.get_all(export, "Export")
    path = shown["Path"]
    assert (shown["Kind"], shown["Uri"], shown["State"]) == ("file", "", "ready") and os.path.isabs(path)
    assert os.stat(path).st_size == 64 * MIB and exports.digest_of_file(path) == expected
    tree.write(0x77, 0, 8 * MIB)
    tree.snapshot("s2")
    assert exports.digest_of_file(path) == expected
    with pytest.raises(PermissionError if os.getuid() else OSError):
        with open(path, "r+b") as f:
            f.write(b"x" * 512)
            f.flush()
            os.fsync(f.fileno())
    assert exports.digest_of_file(path) == expected
    exports.stop(client, export)
    assert not os.path.exists(path)
    tree.check()


def test_writes_go_with_it(client, tree):
    expected = images.digest(client.get(tree.volume_of("s1"), "Volume", "Path"))
    export = make(client, tree, writable=True)
    path = client.get(export, "Export", "Path")
    with open(path, "r+b") as f:
        f.write(b"\xee" * MIB)
        f.flush()
        os.fsync(f.fileno())
    with open(path, "rb") as f:
        assert f.read(MIB) == b"\xee" * MIB
    assert images.digest(client.get(tree.volume_of("s1"), "Volume", "Path")) == expected
    exports.stop(client, export)


def test_whose_it_is(client, tree):
    own, others = make(client, tree), make(client, tree, allow_uid=2)
    path = client.get(others, "Export", "Path")
    with open(client.get(own, "Export", "Path"), "rb") as f:
        expected = f.read(MIB)
    assert expected.strip(b"\0"), "nothing to be told from what is not there"
    read = as_user(2, "head", "-c", str(MIB), path)
    assert read.returncode == 0 and read.stdout == expected
    for uid, shown in (3, path), (2, client.get(own, "Export", "Path")):
        read = as_user(uid, "head", "-c", "1", shown)
        assert (read.returncode, read.stdout) == (1, b"") and b"Permission denied" in read.stderr
    for uid, shown in (2, path), (0, client.get(own, "Export", "Path")):
        status = os.stat(shown)
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (uid, 0o400)
    # Nobody gets at it by the socket in between.
    socket = os.path.dirname(path) + "/nbd.sock"
    assert not exports.connects(socket, uid=2)
    for export in (own, others):
        exports.stop(client, export)


def test_a_file_system_is_mounted(client, directory, qemus, daemon):
    """A loop mount, as a backup by files makes it; with a journal that has to be replayed where it may write."""
    image = make_disk(f"{directory}/root.qcow2")
    qemu = qemus("vm", [image])
    vm = client.register_vm("web", qmp_socket=qemu.qmp)
    [disk] = client.get(vm, "VM", "Disks")
    snapshot = client.finish(client.create_snapshot(vm, "s1", quiesce="off"))["snapshot"]
    mountpoint = f"{directory}/mnt"
    os.mkdir(mountpoint)
    for writable in (False, True):
        export = exports.make(client, snapshot, disk, kind="file", writable=writable)
        path = client.get(export, "Export", "Path")
        images.run("mount", "-o", "loop" if writable else "loop,ro,noload", path, mountpoint)
        try:
            assert "lost+found" in os.listdir(mountpoint)
            if writable:
                with open(f"{mountpoint}/new", "w") as f:
                    f.write("written")
        finally:
            images.run("umount", mountpoint)
        exports.stop(client, export)
    assert exports.leftovers(daemon.directory) == []
    images.check(image)


def test_it_is_stopped_while_it_is_read(client, tree):
    export = make(client, tree)
    descriptor = os.open(client.get(export, "Export", "Path"), os.O_RDONLY)
    assert os.pread(descriptor, 512, 0)
    exports.stop(client, export)
    with pytest.raises(OSError):
        os.pread(descriptor, 512, 40 * MIB)
    with contextlib.suppress(OSError):  # the same again
        os.close(descriptor)


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_it_goes_on_without_the_daemon(client, daemon, bus, tree, how):
    expected = images.digest(client.get(tree.volume_of("s1"), "Volume", "Path"))
    export = make(client, tree)
    path = client.get(export, "Export", "Path")
    daemon.kill() if how == "kill" else daemon.stop()
    assert exports.digest_of_file(path) == expected
    daemon.start()
    again = Client(bus.address)
    assert again.get(export, "Export", "State") == "ready" and exports.digest_of_file(path) == expected
    exports.stop(again, export)
    again.close()


@pytest.mark.parametrize("when", ["now", "while nobody looks"])
@pytest.mark.parametrize("which", [0, 1], ids=["server", "mounter"])
def test_a_storage_daemon_dies(client, daemon, bus, tree, which, when):
    """Also the dead mount goes."""
    export = make(client, tree, writable=True)
    pids = sorted(exports.servers(daemon.directory))
    assert len(pids) == 2
    if when != "now":
        daemon.kill()
    os.kill(pids[which], signal.SIGKILL)
    if when != "now":
        daemon.start()
    again = Client(bus.address)
    exports.gone(again, export)
    again.close()
