# SPDX-License-Identifier: MIT
"""Backups of VMs that are down, and of snapshots: read from storage daemons, with the same options and results as those of running
VMs; a VM that is started meanwhile goes before its backup; and a snapshot's VM does not notice."""
import os
import random
import threading

import nbd
import pytest

from harness import backups, exports, images
from harness.client import Client, DBusError, Variant
from harness.tree import MIB, Tree

SIZE = 64 * MIB
CLUSTER = 65536


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, count=2, size=SIZE)
    yield tree
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []
    assert exports.leftovers(daemon.directory) == []
    assert client.of_kind("backup") == {} and backups.exports_left(client) == []


@pytest.fixture
def target(directory):
    path = f"{directory}/backups"
    os.mkdir(path)
    yield path
    assert [name for name in os.listdir(path) if name.endswith(".part")] == []


def content(tree, of="active"):
    """The digests of the disks, as they are now or were at a snapshot."""
    return [value for (what, _), value in sorted(tree.content().items(), key=lambda item: item[0][1]) if what == of]


def scatter(tree, seed, writes=16):
    chance = random.Random(seed)
    for _ in range(writes):
        number = chance.randrange(len(tree.disks))
        pattern, offset = chance.randrange(1, 255), chance.randrange(SIZE // 4096 - 8) * 4096
        length = chance.choice([4096, 32768])
        if tree.qemu.process.poll() is None:
            tree.qemu.write(f"dev{number}", pattern, offset, length)
        else:
            images.write(tree.path(number), pattern, offset, length)


def new_copies(tree):
    return [backups.Copy() for _ in tree.disks]


def read(tree, backup, copies):
    shown = backups.shown(tree.client, backup)
    return [copy.take(*shown[disk]) for disk, copy in zip(tree.disks, copies)]


def push(tree, target, **options):
    return sorted(tree.client.finish(backups.begin(tree.client, tree.vm, mode="push", target=target, **options))["files"])


def digests(files):
    for path in files:
        images.check(path)
    return [images.digest(path) for path in files]


# --- VMs that are down ---

@pytest.mark.parametrize("layers", [1, 3])
def test_full(tree, layers, directory):
    for number in range(layers - 1):
        tree.snapshot(f"s{number}")
    scatter(tree, 1)
    tree.qemu.io("dev0", f"write -z {8 * MIB} {MIB}")
    tree.down()
    held = content(tree)
    backup = backups.start(tree.client, tree.vm)
    copies = new_copies(tree)
    assert read(tree, backup, copies) == held
    assert all(copy.read < SIZE // 2 for copy in copies), "holes and zeroes were not told"
    properties = tree.client.get_all(backup, "Backup")
    assert (properties["Source"], properties["Mode"], properties["State"]) == ("down", "pull", "ready")
    assert properties["Consistency"] == "offline" and properties["Snapshot"] == "/"
    assert properties["MomentUsec"] >= properties["CreatedUsec"] > 0
    for number, disk in enumerate(tree.disks):
        assert exports.all_digests(backups.shown(tree.client, backup)[disk][0], directory) == {held[number]}
    with pytest.raises(DBusError, match="is being backed up"):
        tree.client.create_snapshot(tree.vm, "s9")
    assert backups.finish(tree.client, backup) == {}
    tree.check()


def test_up_and_down(tree, capsys):
    """Checkpoints made while it is down and while it runs, across shutdowns, starts and snapshots; full, incremental and
    differential."""
    copies, base = new_copies(tree), new_copies(tree)
    scatter(tree, 5, writes=60)
    tree.down()
    held = content(tree)
    first = backups.start(tree.client, tree.vm, checkpoint="c0")
    assert read(tree, first, copies) == held == read(tree, first, base)
    assert backups.finish(tree.client, first) == {"checkpoint": "c0"}
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "ok"}
    assert all(len(images.bitmaps(tree.path(number))) == 1 for number in range(2))
    for number in range(1, 5):
        tree.up()
        if number == 2:
            tree.snapshot("s1")
        scatter(tree, 10 + number, writes=12)
        if number != 3:
            tree.down()
        held = content(tree)
        backup = backups.start(tree.client, tree.vm, kind="incremental", checkpoint=f"c{number}")
        assert tree.client.get(backup, "Backup", "Since") == f"c{number - 1}"
        assert tree.client.get(backup, "Backup", "Source") == ("running" if number == 3 else "down")
        assert set(backups.kinds(tree.client, backup).values()) == {"incremental"}
        assert read(tree, backup, copies) == held
        with capsys.disabled():
            print(f"\n  incremental {number}: {sum(copy.read for copy in copies) >> 10} KiB read of {2 * SIZE >> 20} MiB")
        assert sum(copy.read for copy in copies) <= (12 + 24 + 70) * 2 * CLUSTER
        assert backups.finish(tree.client, backup) == {"checkpoint": f"c{number}"}
        if number == 3:
            tree.down()
    backup = backups.start(tree.client, tree.vm, kind="differential", since="c0")
    assert read(tree, backup, base) == held
    backups.finish(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {f"c{n}": "ok" for n in range(5)}
    tree.check()


def test_pushed(tree, target):
    """A chain of increments, some of them written by the VM's QEMU, some by a storage daemon."""
    scatter(tree, 2, writes=60)
    tree.down()
    held = {"c0": content(tree)}
    files = {"c0": push(tree, target, checkpoint="c0")}
    for number in range(1, 4):
        tree.up()
        scatter(tree, 20 + number)
        if number == 2:
            tree.snapshot("s1")
        else:
            tree.down()
        held[f"c{number}"] = content(tree)
        files[f"c{number}"] = push(tree, target, kind="incremental", checkpoint=f"c{number}", compress=number == 3)
        if number == 2:
            tree.down()
    held["now"] = content(tree)
    files["now"] = push(tree, target, kind="differential", since="c1")
    for name in held:
        assert digests(files[name]) == held[name], name
    assert images.chain(files["c3"][0]) == [f"{target}/web-serial0.c{n}.qcow2" for n in (3, 2, 1, 0)]
    assert images.chain(files["now"][0])[1:] == [f"{target}/web-serial0.c{n}.qcow2" for n in (1, 0)]
    assert backups.checkpoints(tree.client, tree.vm) == {f"c{n}": "ok" for n in range(4)}
    tree.check()


def test_push_cancelled(tree, target):
    tree.write(1, 0, SIZE)
    tree.down()
    job = backups.begin(tree.client, tree.vm, mode="push", target=target, checkpoint="c0", speed=MIB)
    tree.client.wait_property(job, "Job", "Step", "copy")
    [backup] = tree.client.of_kind("backup").values()
    assert (backup["Mode"], backup["State"], backup["Source"]) == ("push", "running", "down")
    tree.client.call(job, "Job", "Cancel")
    assert tree.client.wait(job)[0] == "cancelled"
    assert os.listdir(target) == [] and backups.checkpoints(tree.client, tree.vm) == {}
    assert images.bitmaps(tree.path(0)) == {}


def test_aborted(tree):
    tree.down()
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "ok"}
    backups.abort(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {}
    assert all(images.bitmaps(tree.path(number)) == {} for number in range(2))
    tree.up()
    tree.check()


def test_the_vm_is_started_meanwhile(tree):
    """It can be, and its guest's writes succeed; the backup fails and says so."""
    scatter(tree, 3)
    tree.down()
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    uri, _ = backups.shown(tree.client, backup)[tree.disks[0]]
    reader = nbd.NBD()
    reader.connect_uri(uri)
    reader.pread(MIB, 0)
    tree.up()
    scatter(tree, 4)
    why = backups.wait_failed(tree.client, backup)
    assert "was started" in why and "checkpoint was dropped" in why
    assert backups.checkpoints(tree.client, tree.vm) == {}
    with pytest.raises(nbd.Error):
        for _ in range(100):
            reader.pread(MIB, 0)
    with pytest.raises(DBusError, match="has failed"):
        tree.client.call(backup, "Backup", "Finish", "a{sv}", {})
    backups.abort(tree.client, backup)
    # Nothing is in the way of the next one.
    held = content(tree)
    next_one = backups.start(tree.client, tree.vm, checkpoint="c0")
    assert read(tree, next_one, new_copies(tree)) == held
    backups.finish(tree.client, next_one)
    tree.check()


@pytest.mark.parametrize("how", ["written", "not written", "removed"])
def test_somebody_else_opens_an_image(tree, how):
    """What counts is whether the image was written to, not who has it open: by a program that nobody told volchain of."""
    tree.down()
    backup = backups.start(tree.client, tree.vm)
    copies = new_copies(tree)
    held = content(tree)
    assert read(tree, backup, copies) == held
    if how == "written":
        images.write(tree.path(0), 0x77, 0, 4096)
    elif how == "not written":
        images.run("qemu-io", "-f", "qcow2", "-c", "read 0 65536", tree.path(0))
    else:
        os.rename(tree.path(0), tree.path(0) + ".away")
    if how == "not written":
        assert backups.finish(tree.client, backup) == {}
        return
    error, message = tree.client.failure(tree.client.call(backup, "Backup", "Finish", "a{sv}", {}))
    assert error == "QemuFailed" and "back it up anew" in message
    backups.abort(tree.client, backup)
    if how == "removed":
        os.rename(tree.path(0) + ".away", tree.path(0))
        tree.client.finish(tree.client.call(next(iter(tree.client.of_kind("pool"))), "Pool", "Refresh"))


def test_noticed_without_finish(tree):
    """Who reads need not read to the end to be told."""
    tree.down()
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    images.write(tree.path(1), 0x77, 0, 4096)
    assert "was written to" in backups.wait_failed(tree.client, backup)
    backups.abort(tree.client, backup)


def test_written_while_it_is_pushed(tree, target):
    tree.write(1, 0, SIZE)
    tree.down()
    job = backups.begin(tree.client, tree.vm, mode="push", target=target, checkpoint="c0", speed=MIB)
    tree.client.wait_copied(job)
    images.write(tree.path(0), 0x77, 0, 4096)
    error, message = tree.client.failure(job, timeout=30)
    assert error == "QemuFailed" and "was written to" in message
    assert os.listdir(target) == [] and backups.checkpoints(tree.client, tree.vm) == {}


def test_images_in_use(tree):
    """By a QEMU that volchain does not know: nothing is begun."""
    paths = [tree.path(number) for number in range(2)]
    tree.down()
    stranger = tree.qemus("stranger", paths)
    for options in {}, {"checkpoint": "c0"}:
        error, message = tree.client.failure(backups.begin(tree.client, tree.vm, **options))
        assert error == "InUse", message
    stranger.quit()
    assert all(images.bitmaps(path) == {} for path in paths)


def test_honest_fallback(tree):
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0", disks=[tree.disks[0]]))
    tree.down()
    with pytest.raises(DBusError) as failure:
        backups.begin(tree.client, tree.vm, kind="incremental", require_incremental=True)
    assert failure.value.name.endswith("Unsupported") and "web-serial1" in str(failure.value)
    backup = backups.start(tree.client, tree.vm, kind="incremental")
    assert backups.kinds(tree.client, backup) == {tree.disks[0]: "incremental", tree.disks[1]: "full"}
    assert "has no such bitmap" in backups.reasons(tree.client, backup)[tree.disks[1]]
    backups.finish(tree.client, backup)


def test_a_crash_before(tree):
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0"))
    tree.down()
    tree.up()
    tree.qemu.kill()
    tree.client.wait_property(tree.vm, "VM", "State", "crashed")
    backup = backups.start(tree.client, tree.vm, kind="incremental", checkpoint="c1")
    assert all("when its QEMU crashed" in why for why in backups.reasons(tree.client, backup).values())
    held = content(tree)
    assert read(tree, backup, new_copies(tree)) == held
    backups.finish(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "unusable", "c1": "ok"}


def test_raw_disks(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, base_format="raw", size=SIZE)
    tree.write(5, 0, MIB)
    tree.down()
    with pytest.raises(DBusError, match="no image of these disks can hold one"):
        backups.begin(client, tree.vm, checkpoint="c0")
    backup = backups.start(client, tree.vm)
    copy = backups.Copy()
    copy.take(*backups.shown(client, backup)[tree.disks[0]])
    assert copy.data[:MIB] == b"\5" * MIB
    images.write(tree.path(), 6, 0, 4096, fmt="raw")
    assert "was written to" in backups.wait_failed(client, backup)
    backups.abort(client, backup)
    assert exports.leftovers(daemon.directory) == []


def test_a_storage_daemon_ends(tree, daemon):
    tree.down()
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    export = tree.client.get(backup, "Backup", "Exports")[0]
    os.kill(exports.server_of(daemon.directory, export), 9)
    why = backups.wait_failed(tree.client, backup)
    assert "storage daemon" in why and "checkpoint was dropped" in why
    assert exports.leftovers(daemon.directory) == [] and backups.exports_left(tree.client) == []
    assert backups.checkpoints(tree.client, tree.vm) == {}
    backups.abort(tree.client, backup)


def test_the_daemon_restarts_meanwhile(tree, daemon, bus):
    tree.down()
    held = content(tree)
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    reader = nbd.NBD()
    reader.connect_uri(backups.shown(tree.client, backup)[tree.disks[0]][0])
    daemon.stop()
    assert len(reader.pread(MIB, 0)) == MIB
    daemon.start()
    tree.client = client = Client(bus.address)
    try:
        assert client.get(backup, "Backup", "State") == "ready"
        assert read(tree, backup, new_copies(tree)) == held
        assert len(reader.pread(MIB, 0)) == MIB
        reader.shutdown()
        assert backups.finish(client, backup) == {"checkpoint": "c0"}
        assert backups.checkpoints(client, tree.vm) == {"c0": "ok"}
    finally:
        client.close()
        tree.client = Client(bus.address)


@pytest.mark.parametrize("what", ["written", "storage daemon"])
def test_while_the_daemon_is_away(tree, daemon, bus, what):
    tree.down()
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    [path, export] = [tree.path(0), tree.client.get(backup, "Backup", "Exports")[0]]
    daemon.kill()
    if what == "written":
        images.write(path, 0x77, 0, 4096)
    else:
        os.kill(exports.server_of(daemon.directory, export), 9)
    daemon.start()
    tree.client = client = Client(bus.address)
    try:
        backups.wait_failed(client, backup)
        assert backups.checkpoints(client, tree.vm) == {}
        backups.abort(client, backup)
    finally:
        client.close()
        tree.client = Client(bus.address)


def test_the_caller_leaves(tree, bus):
    tree.down()
    other = Client(bus.address)
    backup = backups.start(other, tree.vm, checkpoint="c0", bind_to_caller=True)
    assert backup in tree.client.of_kind("backup")
    other.close()
    backups.gone(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {}


def test_sockets_of_the_vm(tree, directory):
    """They cannot be changed while a backup needs them, whether the VM runs or not."""
    for step in tree.down, tree.up:
        backup = backups.start(tree.client, tree.vm)
        for option in "qmp-socket", "agent-socket":
            with pytest.raises(DBusError) as failure:
                tree.client.call(tree.vm, "VM", "Update", "a{sv}", {option: ("s", f"{directory}/other.sock")})
            assert failure.value.short == "Busy" and "backup" in str(failure.value)
        tree.client.call(tree.vm, "VM", "Update", "a{sv}", {"name": ("s", "web")})
        backups.finish(tree.client, backup)
        step()
    tree.client.call(tree.vm, "VM", "Update", "a{sv}", {"agent-socket": ("s", f"{directory}/other.sock")})


def test_the_configuration_goes_along(tree):
    def config(backup):
        document, kind = tree.client.call(backup, "Backup", "GetConfig")
        return bytes(document), kind
    tree.client.call(tree.vm, "VM", "SetConfig", "ays", b"<now/>", "application/xml")
    for step in tree.down, tree.up:
        backup = backups.start(tree.client, tree.vm)
        tree.client.call(tree.vm, "VM", "SetConfig", "ays", b"<later/>", "text/xml")
        assert config(backup) == (b"<now/>", "application/xml")
        backups.finish(tree.client, backup)
        tree.client.call(tree.vm, "VM", "SetConfig", "ays", b"<now/>", "application/xml")
        step()
    tree.snapshot("s1")
    tree.client.call(tree.vm, "VM", "SetConfig", "ays", b"<later/>", "text/xml")
    backup = backups.start_of_snapshot(tree.client, tree.vm, tree.snapshots["s1"])
    assert config(backup) == (b"<now/>", "application/xml")
    backups.finish(tree.client, backup)


# --- snapshots ---

def test_of_a_snapshot(tree):
    """The guest's QEMU is not touched: it has no node, job or export more than before."""
    tree.snapshot("s1")
    scatter(tree, 6)
    tree.snapshot("s2")
    scatter(tree, 7)
    nodes = set(tree.qemu.nodes())
    for name in "s1", "s2":
        held = content(tree, name)
        backup = backups.start_of_snapshot(tree.client, tree.vm, tree.snapshots[name])
        properties = tree.client.get_all(backup, "Backup")
        assert (properties["Source"], properties["Snapshot"]) == ("snapshot", tree.snapshots[name])
        assert properties["MomentUsec"] == tree.client.get(tree.snapshots[name], "Snapshot", "CreatedUsec")
        assert set(tree.qemu.nodes()) == nodes and tree.qemu.execute("query-block-exports") == []
        assert read(tree, backup, new_copies(tree)) == held
        # The VM is free, the snapshot is not.
        tree.snapshot(f"after-{name}")
        nodes = set(tree.qemu.nodes())
        with pytest.raises(DBusError, match="is being backed up"):
            tree.client.finish(tree.delete(name))
        assert backups.finish(tree.client, backup) == {}
    tree.check()


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
def test_changes_until_a_snapshot(tree, down):
    """Between a checkpoint and a snapshot, in the middle of the chain, or when what was below it has been merged: the copy of the
    checkpoint's backup and what the bitmap says make up the snapshot."""
    copies = {}
    for name in "c0", "c1":
        scatter(tree, name)
        held = content(tree)
        backup = backups.start(tree.client, tree.vm, checkpoint=name)
        copies[name] = new_copies(tree)
        assert read(tree, backup, copies[name]) == held
        backups.finish(tree.client, backup)
        for number in range(2):
            scatter(tree, f"{name}{number}")
            tree.snapshot(f"{name}-s{number}")
    scatter(tree, "end")
    if down:
        tree.down()
    held = {name: content(tree, name) for name in tree.snapshots}

    def check(snapshot, since):
        data = [bytes(copy.data) for copy in copies[since]]
        again = new_copies(tree)
        for copy, before in zip(again, data):
            copy.data = bytearray(before)
        backup = backups.start_of_snapshot(tree.client, tree.vm, tree.snapshots[snapshot], kind="differential", since=since)
        assert set(backups.kinds(tree.client, backup).values()) == {"incremental"}
        assert read(tree, backup, again) == held[snapshot], (snapshot, since)
        assert sum(copy.read for copy in again) < SIZE
        backups.finish(tree.client, backup)
        export = exports.make(tree.client, tree.snapshots[snapshot], tree.disks[0], since=since)
        copy = backups.Copy()
        copy.data = bytearray(data[0])
        properties = tree.client.get_all(export, "Export")
        assert copy.take(properties["Uri"], properties["Bitmap"]) == held[snapshot][0], (snapshot, since)
        exports.stop(tree.client, export)
    for snapshot, since in (("c0-s1", "c0"), ("c1-s0", "c0"), ("c1-s0", "c1")):
        check(snapshot, since)
    with pytest.raises(DBusError) as failure:
        backups.begin_of_snapshot(tree.client, tree.vm, tree.snapshots["c0-s1"], kind="differential", since="c1")
    assert failure.value.short == "NotFound", "a checkpoint that is younger than the snapshot"
    # The last one before the snapshot.
    backup = backups.start_of_snapshot(tree.client, tree.vm, tree.snapshots["c1-s0"], kind="incremental")
    assert tree.client.get(backup, "Backup", "Since") == "c1"
    backups.finish(tree.client, backup)
    tree.client.finish(tree.delete("c0-s1"))
    tree.forget("c0-s1")
    for snapshot, since in (("c1-s0", "c0"), ("c1-s1", "c1")):
        check(snapshot, since)


def test_a_snapshot_pushed(tree, target):
    scatter(tree, 8)
    first = push(tree, target, checkpoint="c0")
    scatter(tree, 9)
    tree.snapshot("s1")
    scatter(tree, 10)
    held = content(tree, "s1")
    job = backups.begin_of_snapshot(tree.client, tree.vm, tree.snapshots["s1"], kind="incremental", mode="push", target=target)
    files = sorted(tree.client.finish(job)["files"])
    assert digests(files) == held
    assert [images.chain(path)[1:] for path in files] == [[path] for path in first]
    tree.check()


@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
def test_a_chain_of_snapshots(tree, target, down, monkeypatch):
    """Each snapshot begins a checkpoint, and the next one's backup holds what has changed since: no guest is asked for anything but
    snapshots, which may go when they were backed up."""
    if down:
        tree.down()

    def kept(number):
        scatter(tree, 20 + number)
        options = {"quiesce": Variant("s", "off"), "checkpoint": Variant("s", f"c:{number}")}
        job = tree.client.call(tree.vm, "VM", "CreateSnapshot", "sa{sv}", f"s{number}", options)
        tree.snapshots[f"s{number}"] = tree.client.finish(job)["snapshot"]
        assert [state for name, state in backups.checkpoints(tree.client, tree.vm).items()] == ["ok"] * (number + 1)
        scatter(tree, 40 + number)
        return content(tree, f"s{number}")

    def pushed(number, **options):
        job = backups.begin_of_snapshot(tree.client, tree.vm, tree.snapshots[f"s{number}"], mode="push", target=target, **options)
        return sorted(tree.client.finish(job)["files"])

    held = [kept(0)]
    files = [pushed(0)]
    assert [os.path.basename(path) for path in files[0]] == ["web-serial0.c-0.qcow2", "web-serial1.c-0.qcow2"]
    held.append(kept(1))
    files.append(pushed(1, kind="incremental", require_incremental=True))
    tree.client.finish(tree.delete("s0"))
    tree.forget("s0")
    held.append(kept(2))
    files.append(pushed(2, kind="incremental", require_incremental=True))
    with pytest.raises(DBusError, match="already"):
        tree.client.call(tree.vm, "VM", "CreateSnapshot", "sa{sv}", "again", {"checkpoint": Variant("s", "c:2")})
    monkeypatch.chdir(target)  # a name with ':' would be that of a protocol here
    assert [digests([os.path.basename(path) for path in at_once]) for at_once in files] == held
    assert [len(images.chain(path)) for path in files[2]] == [3, 3]
    tree.check()


def test_a_snapshot_is_kept_while_it_is_pushed(tree, target):
    tree.write(1, 0, SIZE)
    tree.snapshot("s1")
    tree.snapshot("s2")
    job = backups.begin_of_snapshot(tree.client, tree.vm, tree.snapshots["s1"], mode="push", target=target, speed=4 * MIB)
    tree.client.wait_property(job, "Job", "Step", "copy")
    with pytest.raises(DBusError) as failure:
        tree.client.finish(tree.delete("s1"))
    assert failure.value.short == "Busy" and "backup" in str(failure.value)
    tree.snapshot("s3")
    tree.client.call(job, "Job", "SetSpeed", "t", 0)
    held = content(tree, "s1")
    assert digests(sorted(tree.client.finish(job)["files"])) == held


def test_snapshots_wrong(tree, client, directory, qemus):
    tree.snapshot("s1")

    def refused(**options):
        with pytest.raises(DBusError) as failure:
            backups.begin_of_snapshot(client, tree.vm, tree.snapshots["s1"], **options)
        return failure.value.short
    assert refused(checkpoint="c0") == refused(quiesce="off") == "InvalidArgument"
    assert refused(freeze_timeout_usec=1) == refused(disks=[tree.vm]) == "InvalidArgument"
    assert refused(kind="incremental", require_incremental=True) == "Unsupported"
    other = client.register_vm("other")
    with pytest.raises(DBusError, match="is none of"):
        backups.begin_of_snapshot(client, other, tree.snapshots["s1"])


def test_readers_at_once(tree, directory):
    """Several connections, each of its own, as programs that copy in parallel have."""
    tree.write(3, 0, SIZE)
    tree.down()
    held = content(tree)
    backup = backups.start(tree.client, tree.vm)
    uri = backups.shown(tree.client, backup)[tree.disks[0]][0]
    assert exports.info(uri)["can_multi_conn"] is True
    found = []
    readers = [threading.Thread(target=lambda: found.append(exports.digest_by_uri(uri))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert found == [held[0]] * 4
    assert exports.digest_by_nbdcopy(uri, directory) == held[0]
    backups.abort(tree.client, backup)


def test_a_user_of_their_own(tree, daemon):
    """allow-uid: who may connect."""
    if os.geteuid() != 0:
        pytest.skip("not root: other users are NOT tried")
    tree.down()
    backup = backups.start(tree.client, tree.vm, allow_uid=Variant("u", 4321))
    path = tree.client.get(tree.client.get(backup, "Backup", "Exports")[0], "Export", "Path")
    assert exports.connects(path, 4321) and not exports.connects(path, 4322)
    backups.abort(tree.client, backup)
