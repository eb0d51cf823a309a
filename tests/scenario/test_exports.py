# SPDX-License-Identifier: MIT
"""Snapshots shown over NBD: what readers see, who may connect, what is held meanwhile, and what is left afterwards."""
import os
import subprocess
import threading
import time

import nbd
import pytest

from harness import digest, exports, images
from harness.client import Client, DBusError, variants
from harness.disks import refused
from harness.tree import Tree

MIB = 1 << 20


@pytest.fixture
def home(daemon):
    """The daemon's directories; nothing of exports is left in them at the end."""
    yield daemon.directory
    assert exports.leftovers(daemon.directory) == []


@pytest.fixture
def tree(client, directory, qemus, home):
    """A VM with a disk of three layers, and two snapshots."""
    tree = Tree(client, directory, qemus)
    tree.snapshot("s1")
    tree.snapshot("s2")
    return tree


def export_of(client, tree, name="s1", number=0, **options):
    return exports.make(client, tree.snapshots[name], tree.disks[number], **options)


def digest_of(client, tree, name="s1", number=0):
    return images.digest(client.get(tree.volume_of(name, number), "Volume", "Path"))


# --- reading and writing ------------------------------------------------------------------------------------

def test_readers_see_the_snapshot_while_the_guest_goes_on(client, tree, directory):
    expected = digest_of(client, tree)
    export = export_of(client, tree)
    shown = client.get_all(export, "Export")
    assert (shown["Kind"], shown["State"], shown["Writable"], shown["Bitmap"]) == ("nbd", "ready", False, "")
    assert (shown["Snapshot"], shown["Disk"]) == (tree.snapshots["s1"], tree.disks[0])
    assert shown["Volume"] == tree.volume_of("s1") and shown["OwnerUid"] == os.getuid()
    address = shown["Uri"]
    assert exports.all_digests(address, directory) == {expected}
    tree.write(0x77, 0, 8 * MIB)
    tree.snapshot("s3")
    tree.write(0x78, 0, 8 * MIB)
    assert exports.digest_by_nbdcopy(address, directory) == expected
    # What was taken after it is merged under its eyes.
    client.finish(tree.delete("s3"))
    tree.forget("s3")
    client.finish(tree.delete("s2"))
    tree.forget("s2")
    assert exports.all_digests(address, directory) == {expected}
    exports.stop(client, export)
    tree.check()
    assert digest_of(client, tree) == expected


def test_what_an_nbd_client_is_told(client, tree):
    told = exports.info(exports.uri(client, export := export_of(client, tree, "s2")))
    assert told["export-name"] == "" and told["export-size"] == 64 * MIB
    assert told["is_read_only"] and told["can_multi_conn"]
    assert set(told["contexts"]) >= {"base:allocation", "qemu:allocation-depth"}
    depths = exports.extents(exports.uri(client, export), "qemu:allocation-depth")
    # The base has a pattern in its first MiB; the layer over it in that MiB and at 6 MiB.
    assert depths == [(0, MIB, 1), (MIB, 5 * MIB, 0), (6 * MIB, MIB, 1), (7 * MIB, 57 * MIB, 0)]
    exports.stop(client, export)


def test_without_writable_nothing_can_be_written(client, tree):
    export = export_of(client, tree)
    handle = nbd.NBD()
    handle.set_strict_mode(0)  # else the library does not even try
    handle.connect_uri(exports.uri(client, export))
    assert handle.is_read_only()
    for attempt in (lambda: handle.pwrite(b"x" * 512, 0), lambda: handle.zero(512, 0), lambda: handle.trim(512, 0)):
        with pytest.raises(nbd.Error):
            attempt()
    exports.stop(client, export)


def test_what_is_written_is_seen_by_its_reader_and_never_by_the_snapshot(client, tree, home):
    expected = digest_of(client, tree)
    writable, other = export_of(client, tree, writable=True), export_of(client, tree, writable=True)
    plain = export_of(client, tree)
    handle = nbd.NBD()
    handle.connect_uri(exports.uri(client, writable))
    handle.pwrite(b"\xee" * MIB, 0)
    handle.pwrite(b"\xef" * MIB, 40 * MIB)
    handle.flush()
    assert handle.pread(MIB, 0) == b"\xee" * MIB and handle.pread(MIB, 40 * MIB) == b"\xef" * MIB
    handle.shutdown()
    changed = exports.digest_by_uri(exports.uri(client, writable))
    assert changed != expected
    assert exports.digest_by_uri(exports.uri(client, other)) == expected
    assert exports.digest_by_uri(exports.uri(client, plain)) == expected
    assert digest_of(client, tree) == expected
    assert len(os.listdir(f"{home}/state/exports")) == 2
    for export in (writable, other, plain):
        exports.stop(client, export)
    assert os.listdir(f"{home}/state/exports") == []
    tree.check()


@pytest.mark.parametrize("base", ["raw", "qcow2"])
def test_of_a_vm_that_is_down(client, directory, qemus, home, base):
    tree = Tree(client, directory, qemus, base_format=base)
    tree.snapshot("s1")
    tree.down()
    for writable in (False, True):
        export = export_of(client, tree, writable=writable)
        fmt = client.get(tree.volume_of("s1"), "Volume", "Format")
        assert fmt == base
        expected = images.digest(client.get(tree.volume_of("s1"), "Volume", "Path"), fmt=fmt)
        assert exports.digest_by_uri(exports.uri(client, export)) == expected
        exports.stop(client, export)


def test_of_a_volume_alone(client, tree):
    volume = tree.volume_of("s1")
    export = exports.make_of_volume(client, volume)
    assert client.get(export, "Export", "Snapshot") == "/"
    assert exports.digest_by_uri(exports.uri(client, export)) == digest_of(client, tree)
    exports.stop(client, export)
    active = client.get(tree.disks[0], "Disk", "Active")
    error, message = refused(lambda: exports.make_of_volume(client, active))
    assert error == "InUse" and "take a snapshot" in message


def test_many_at_a_time(client, directory, qemus, home):
    """Of several disks and snapshots, asked for at once, while a snapshot is deleted."""
    tree = Tree(client, directory, qemus, count=2)
    for name in ("s1", "s2", "s3", "s4"):
        tree.snapshot(name, mib=4)
    deletion = tree.delete("s4")
    expected, calls = [], []
    for name in ("s1", "s2"):
        for number in range(2):
            for _ in range(2):
                expected.append(digest_of(client, tree, name, number))
                calls.append(client.send(tree.snapshots[name], "Snapshot", "Export", "oa{sv}", tree.disks[number], {}))
    made = [client.finish(client.answer(call))["export"] for call in calls]
    assert [exports.digest_by_uri(exports.uri(client, export)) for export in made] == expected
    assert len(exports.servers(home)) == len(made)
    client.finish(deletion)
    tree.forget("s4")
    for export in made:
        exports.stop(client, export)
    tree.check()


# --- what it tells of changes -------------------------------------------------------------------------------

@pytest.fixture
def tracked(client, directory, qemus, home):
    """A VM whose disk records since checkpoint "cp": a MiB at 10 before s1, one at 20 before s2, one at 30 after."""
    tree = Tree(client, directory, qemus, bitmaps=("cp", "other"))
    for position, name in ((10, "s1"), (20, "s2")):
        tree.qemu.write("dev0", position, position * MIB, MIB)
        tree.snapshots[name] = client.finish(client.create_snapshot(tree.vm, name, quiesce="off"))["snapshot"]
    tree.qemu.write("dev0", 30, 30 * MIB, MIB)
    return tree


def dirty(client, export):
    context = client.get(export, "Export", "Bitmap")
    return [(offset // MIB, length // MIB) for offset, length, flags in exports.extents(exports.uri(client, export), context)
            if flags]


@pytest.mark.parametrize("writable", [False, True])
def test_what_changed_since_a_checkpoint(client, tracked, writable):
    before = images.bitmaps(client.get(tracked.volume_of("s1"), "Volume", "Path"))
    for name, expected in (("s1", [(10, 1)]), ("s2", [(10, 1), (20, 1)])):
        export = export_of(client, tracked, name, since="cp", writable=writable)
        assert client.get(export, "Export", "Bitmap").startswith("qemu:dirty-bitmap:")
        assert dirty(client, export) == expected
        if writable:
            handle = nbd.NBD()
            handle.connect_uri(exports.uri(client, export))
            handle.pwrite(b"x" * MIB, 50 * MIB)
            handle.shutdown()
            assert dirty(client, export) == expected, "the bitmap records what the appliance writes"
        exports.stop(client, export)
    assert images.bitmaps(client.get(tracked.volume_of("s1"), "Volume", "Path")) == before
    tracked.check()


def test_a_checkpoint_that_is_not_known(client, tracked):
    error, message = client.failure(exports.begin(client, tracked.snapshots["s1"], tracked.disks[0], since="none"))
    assert error == "NotFound" and "'none'" in message
    assert client.of_kind("export") == {}


def test_a_recording_that_is_not_whole(client, tracked):
    tracked.down()
    paths = [client.get(tracked.volume_of(name), "Volume", "Path") for name in ("s1", "s2")]
    images.run("qemu-img", "bitmap", "--disable", paths[0], "cp")
    error, message = client.failure(exports.begin(client, tracked.snapshots["s2"], tracked.disks[0], since="cp"))
    assert error == "Unsupported" and "does not record" in message and paths[0] in message, message
    # The others are of use as before.
    export = export_of(client, tracked, "s2", since="other")
    assert dirty(client, export) == [(10, 1), (20, 1)]
    exports.stop(client, export)


# --- who may ------------------------------------------------------------------------------------------------

def test_only_its_user_and_root_can_connect(client, tree):
    own, others = export_of(client, tree), export_of(client, tree, allow_uid=2)
    assert exports.connects(client.get(own, "Export", "Path"))
    assert not exports.connects(client.get(own, "Export", "Path"), uid=2)
    path = client.get(others, "Export", "Path")
    assert exports.connects(path, uid=2) and exports.connects(path) and not exports.connects(path, uid=3)
    status = os.stat(path)
    assert (status.st_uid, status.st_mode & 0o777) == (2, 0o600)
    for export in (own, others):
        exports.stop(client, export)


def test_open_hands_over_a_connection(client, tree):
    expected = digest_of(client, tree)
    export = export_of(client, tree)
    first, second = exports.opened(client, export), exports.opened(client, export)
    assert exports.digest_of_socket(first) == expected
    assert exports.digest_of_socket(second) == expected
    exports.stop(client, export)
    with pytest.raises(DBusError) as error:
        client.call(export, "Export", "Open")
    assert error.value.name.endswith(".UnknownObject") or error.value.name.endswith(".UnknownMethod")


def test_so_many_connections_and_no_more(client, tree):
    export = export_of(client, tree, max_connections=2)
    address = exports.uri(client, export)
    handles = []
    for count in (1, 2):
        handle = nbd.NBD()
        handle.connect_uri(address)
        handles.append(handle)
        exports.connections(client, export, count)
    third = threading.Thread(target=lambda: handles.append(exports.digest_by_uri(address)), daemon=True)
    third.start()
    third.join(0.5)
    assert third.is_alive(), "a third client got through"
    handles[0].shutdown()
    third.join(30)
    assert handles[-1] == digest_of(client, tree)
    handles[1].shutdown()
    exports.connections(client, export, 0)
    exports.stop(client, export)


# --- what is held -------------------------------------------------------------------------------------------

def test_what_it_shows_is_held(client, tree):
    export = export_of(client, tree, "s2")
    identity = export.rsplit("/", 1)[1].replace("_", "-")

    def busy(call):
        error, message = refused(call)
        assert error == "Busy" and identity in message, (error, message)
    before = tree.content()
    busy(lambda: tree.delete("s2"))
    busy(lambda: tree.delete("s1"))  # what s2 stands on
    busy(lambda: client.call(tree.vm, "VM", "Unregister", "a{sv}", variants({"forget_snapshots": True})))
    tree.down()
    busy(lambda: tree.delete("s2"))
    busy(lambda: client.call(tree.disks[0], "Disk", "Delete", "a{sv}", variants({"snapshots": True})))
    preview = client.call(tree.snapshots["s1"], "Snapshot", "Preview", "a{sv}", {})
    client.finish(preview)
    error, message = client.failure(client.call(tree.vm, "VM", "CommitPreview", "a{sv}", {}))
    assert error == "Busy" and identity in message, (error, message)
    client.finish(client.call(tree.vm, "VM", "UndoPreview", "a{sv}", {}))
    tree.up()
    assert tree.content() == before
    exports.stop(client, export)
    for name in ("s2", "s1"):
        client.finish(tree.delete(name))
        tree.forget(name)
    tree.check()


def test_not_while_it_is_being_merged(client, tree):
    """The merge copies slowly for as long as it is looked at."""
    tree.write(0x55, 16 * MIB, 16 * MIB)
    tree.snapshot("s3")
    job = tree.delete("s2", speed=MIB // 8)
    client.wait_property(job, "Job", "Step", "copy")
    error, message = refused(lambda: client.call(tree.snapshots["s3"], "Snapshot", "Export", "oa{sv}", tree.disks[0], {}))
    assert error == "Busy" and "delete-snapshot" in message, (error, message)
    assert client.of_kind("export") == {}
    client.call(job, "Job", "SetSpeed", "t", 0)
    client.finish(job)
    tree.forget("s2")
    expected = digest_of(client, tree, "s3")
    export = export_of(client, tree, "s3")
    assert exports.digest_by_uri(exports.uri(client, export)) == expected
    exports.stop(client, export)


# --- as time goes by ----------------------------------------------------------------------------------------

def test_its_time_is_up(client, tree):
    brief = export_of(client, tree, ttl_usec=400_000)
    renewed = export_of(client, tree, ttl_usec=2_000_000)
    endless = export_of(client, tree)
    assert client.get(endless, "Export", "ExpiresUsec") == 0
    client.call(renewed, "Export", "Renew", "t", 3_600_000_000)
    hour = client.get(renewed, "Export", "ExpiresUsec") - time.time() * 1e6
    assert 3_500_000_000 < hour < 3_601_000_000
    exports.gone(client, brief)
    time.sleep(2)
    assert set(client.of_kind("export")) == {renewed, endless}
    client.call(renewed, "Export", "Renew", "t", 1000)
    exports.gone(client, renewed)
    client.call(endless, "Export", "Renew", "t", 0)
    exports.stop(client, endless)
    kinds = [job["Kind"] for job in client.of_kind("job").values() if job["State"] == "succeeded"]
    assert kinds.count("stop-export") == 3


def test_the_caller_leaves(client, bus, tree):
    caller = Client(bus.address)
    bound = exports.make(caller, tree.snapshots["s1"], tree.disks[0], bind_to_caller=True)
    free = exports.make(caller, tree.snapshots["s1"], tree.disks[0])
    caller.close()
    exports.gone(client, bound)
    assert set(client.of_kind("export")) == {free}
    exports.stop(client, free)


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_it_goes_on_without_the_daemon(client, daemon, bus, tree, directory, how):
    expected = digest_of(client, tree)
    made = {writable: export_of(client, tree, writable=writable) for writable in (False, True)}
    servers = {writable: exports.server_of(daemon.directory, export) for writable, export in made.items()}
    addresses = {writable: exports.uri(client, export) for writable, export in made.items()}
    caller = Client(bus.address)
    bound = exports.make(caller, tree.snapshots["s1"], tree.disks[0], bind_to_caller=True)
    expiring = export_of(client, tree, ttl_usec=1_500_000)
    reader = nbd.NBD()
    reader.connect_uri(addresses[False])
    first = reader.pread(MIB, 0)
    daemon.kill() if how == "kill" else daemon.stop()
    caller.close()
    assert reader.pread(MIB, 0) == first and exports.all_digests(addresses[False], directory) == {expected}
    time.sleep(1.5)
    daemon.start()
    again = tree.client = Client(bus.address)
    try:
        assert reader.pread(MIB, 0) == first
        reader.shutdown()
        for export in (bound, expiring):
            exports.gone(again, export)
        for writable, export in made.items():
            assert again.get(export, "Export", "State") == "ready"
            assert again.get(export, "Export", "Uri") == addresses[writable]
            assert exports.server_of(daemon.directory, export) == servers[writable]
            assert exports.digest_by_uri(addresses[writable]) == expected
        error, _ = refused(lambda: tree.delete("s1"))
        assert error == "Busy"
        for export in made.values():
            exports.stop(again, export)
        again.finish(tree.delete("s1"))
    finally:
        again.close()


def test_a_copy_goes_on_while_the_daemon_is_killed(client, daemon, bus, tree, directory):
    expected = digest_of(client, tree)
    export = export_of(client, tree)
    address = exports.uri(client, export)
    copy = subprocess.Popen(["nbdcopy", address, "-"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    total = digest.Digest(copy.stdout.read(MIB))  # it waits for us now
    daemon.kill()
    daemon.start()
    total.update(copy.stdout.read())
    assert copy.wait(60) == 0 and total.hexdigest() == expected
    again = Client(bus.address)
    exports.stop(again, export)
    again.close()


# --- trouble ------------------------------------------------------------------------------------------------

def test_its_storage_daemon_dies(client, daemon, tree):
    dying, other = export_of(client, tree, writable=True), export_of(client, tree)
    os.kill(exports.server_of(daemon.directory, dying), 9)
    exports.gone(client, dying)
    assert "has ended" in daemon.text()
    assert client.get(other, "Export", "State") == "ready"
    exports.stop(client, other)
    client.finish(tree.delete("s1"))
    tree.forget("s1")
    tree.check()


def test_its_storage_daemon_dies_while_nobody_looks(client, daemon, bus, tree):
    export = export_of(client, tree, writable=True)
    pid = exports.server_of(daemon.directory, export)
    daemon.kill()
    os.kill(pid, 9)
    daemon.start()
    again = Client(bus.address)
    exports.gone(again, export)
    again.close()


def test_its_storage_daemon_hangs(client, daemon, tree):
    export = export_of(client, tree)
    pid = exports.server_of(daemon.directory, export)
    os.kill(pid, 19)
    exports.stop(client, export)
    assert exports.servers(daemon.directory) == set()


@pytest.fixture
def config(request):
    quick = "hangs" in request.node.name
    return '[quiesce]\nagent-timeout = "1s"\n[qemu]\ngreeting-timeout = "1s"\n' + ('command-timeout = "2s"\n' if quick else "")


def test_a_layer_is_missing(client, tree, daemon):
    path = client.get(tree.volume_of("s1"), "Volume", "Path")
    os.rename(path, path + ".away")
    error, message = refused(lambda: exports.begin(client, tree.snapshots["s2"], tree.disks[0]))
    assert error == "BrokenChain" and path in message
    os.rename(path + ".away", path)
    client.call(client.of_kind("pool").popitem()[0], "Pool", "Refresh")
    exports.stop(client, export_of(client, tree, "s2"))


def test_hundreds_leave_nothing(client, daemon, tree, home):
    """Descriptors of the daemon and of the VM's QEMU, nodes, processes, files: after two hundred as after two."""
    def descriptors():
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (daemon.process.pid, tree.qemu.process.pid)]

    def children():
        with open(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children") as f:
            return len(f.read().split())

    def one(number):
        export = export_of(client, tree, writable=number % 2 == 0)
        handle = nbd.NBD()
        handle.connect_uri(exports.uri(client, export))
        assert handle.pread(512, 0)
        exports.stop(client, export)
    one(0), one(1)
    before, nodes = descriptors(), set(tree.qemu.nodes())
    files = sorted(path for path, _, _ in os.walk(home)), images.image_files(tree.pool)
    for number in range(200):
        one(number)
    assert all(now <= then + 1 for now, then in zip(descriptors(), before)), (before, descriptors())
    assert set(tree.qemu.nodes()) == nodes and children() == 0
    assert (sorted(path for path, _, _ in os.walk(home)), images.image_files(tree.pool)) == files
    assert exports.leftovers(home) == []
