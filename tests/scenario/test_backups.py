# SPDX-License-Identifier: MIT
"""Backups of a running VM: what is read is the moment that was held, of all disks at once, whatever the guest writes meanwhile;
incremental ones read what changed and little else; and the guest never pays for it."""
import os
import random
import threading

import nbd
import pytest

from harness import backups, exports, images
from harness.agent_double import AgentDouble
from harness.client import DBusError
from harness.tree import MIB, Tree

SIZE = 64 * MIB
CLUSTER = 65536


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, count=2, size=SIZE)
    yield tree
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []
    assert backups.exports_left(client) == []


def content(tree):
    """The digests of the disks, as they are now."""
    return [value for (_, _), value in sorted((k, v) for k, v in tree.content().items() if k[0] == "active")]


def scatter(tree, seed, writes=24):
    chance = random.Random(seed)
    for _ in range(writes):
        device = f"dev{chance.randrange(len(tree.disks))}"
        tree.qemu.write(device, chance.randrange(1, 255), chance.randrange(SIZE // 4096 - 8) * 4096,
                        chance.choice([4096, 32768]))


def read(tree, backup, copies):
    """The digests of what it shows, by way of what the copies have."""
    shown = backups.shown(tree.client, backup)
    return [copy.take(*shown[disk]) for disk, copy in zip(tree.disks, copies)]


def new_copies(tree):
    return [backups.Copy() for _ in tree.disks]


@pytest.mark.parametrize("layers", [1, 3])
def test_full(tree, layers):
    """With data that only backing files have, zeroes that were written, and what was discarded."""
    for number in range(layers - 1):
        tree.snapshot(f"s{number}")
    scatter(tree, 1)
    tree.qemu.io("dev0", f"write -z {8 * MIB} {MIB}")
    tree.qemu.io("dev1", f"discard {2 * MIB} {MIB}")
    held = content(tree)
    backup = backups.start(tree.client, tree.vm)
    scatter(tree, 2, writes=60)
    tree.qemu.io("dev0", f"write -z 0 {MIB}")
    tree.qemu.io("dev1", f"discard 0 {MIB}")
    copies = new_copies(tree)
    assert read(tree, backup, copies) == held
    assert all(copy.read < SIZE // 2 for copy in copies), "holes and zeroes were not told"
    properties = tree.client.get_all(backup, "Backup")
    assert (properties["Kind"], properties["Mode"], properties["State"]) == ("full", "pull", "ready")
    assert properties["Checkpoint"] == properties["Since"] == "" and properties["Consistency"] == "crash"
    assert backups.finish(tree.client, backup) == {}
    assert backup not in tree.client.of_kind("backup")
    tree.check()


def test_all_programs_read_the_same(tree, directory):
    tree.snapshot("s1")
    scatter(tree, 3)
    held = content(tree)
    backup = backups.start(tree.client, tree.vm)
    scatter(tree, 4)
    uri = backups.shown(tree.client, backup)[tree.disks[0]][0]
    assert exports.all_digests(uri, directory) == {held[0]}
    backups.abort(tree.client, backup)


def test_incremental_and_differential(tree, capsys):
    copies, base = new_copies(tree), new_copies(tree)
    scatter(tree, 5, writes=100)
    held = content(tree)
    first = backups.start(tree.client, tree.vm, checkpoint="c0")
    assert read(tree, first, copies) == held == read(tree, first, base)
    assert backups.finish(tree.client, first) == {"checkpoint": "c0"}
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "ok"}
    for number in range(1, 4):
        if number == 2:
            tree.snapshot("s1")
        if number == 3:
            tree.down()
            tree.up()
        scatter(tree, 10 + number, writes=16)
        held = content(tree)
        backup = backups.start(tree.client, tree.vm, kind="incremental", checkpoint=f"c{number}")
        assert tree.client.get(backup, "Backup", "Since") == f"c{number - 1}"
        assert set(backups.kinds(tree.client, backup).values()) == {"incremental"}
        scatter(tree, 20 + number)
        assert read(tree, backup, copies) == held
        bytes_read = sum(copy.read for copy in copies)
        # What was written between the last backup and this one, and while the last one was read.
        assert bytes_read <= (16 + 24 + 24 + 80) * 2 * CLUSTER
        with capsys.disabled():
            print(f"\n  incremental {number}: {bytes_read >> 10} KiB read of {2 * SIZE >> 20} MiB")
        backups.finish(tree.client, backup)
    scatter(tree, 30)
    held = content(tree)
    backup = backups.start(tree.client, tree.vm, kind="differential", since="c0")
    assert read(tree, backup, base) == held
    backups.finish(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {f"c{n}": "ok" for n in range(4)}
    tree.check()


def test_one_percent_changed(client, directory, qemus, daemon, capsys, small_filesystem):
    """Bytes read are in proportion to what changed: of 10 GiB, most of which nobody ever wrote."""
    size = 10 << 30
    pool = small_filesystem(1500)  # in memory: what is written lies all over the disk
    tree = Tree(client, directory, qemus, size=size, pools=[pool])
    for number in range(64):
        tree.write(number + 1, number * (size // 64), MIB)
    copy = backups.FileCopy(f"{pool}/.copy.raw")
    held = content(tree)
    backup = backups.start(client, tree.vm, checkpoint="c0")
    assert [copy.take(*backups.shown(client, backup)[tree.disks[0]])] == held
    assert copy.read <= 2 * 65 * MIB
    backups.finish(client, backup)
    clusters = size // CLUSTER
    changed = clusters // 100
    for number in range(changed):
        # 3977 and the number of clusters have no common factor: none is written twice.
        tree.qemu.write("dev0", number % 255 + 1, number * 3977 % clusters * CLUSTER, 4096)
    held = content(tree)
    backup = backups.start(client, tree.vm, kind="incremental")
    assert [copy.take(*backups.shown(client, backup)[tree.disks[0]])] == held
    with capsys.disabled():
        print(f"\n  1 % of {size >> 30} GiB changed: {copy.read >> 10} KiB read for {changed} clusters of 64 KiB, "
              f"{copy.read / (changed * CLUSTER):.2f} times what changed")
    assert copy.read <= 2 * changed * CLUSTER
    backups.finish(client, backup)


def test_aborted(tree):
    backup = backups.start(tree.client, tree.vm, checkpoint="monday")
    backups.abort(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {}
    with pytest.raises(DBusError):
        tree.client.call(backup, "Backup", "Finish", "a{sv}", {})
    tree.check()


def test_old_ids_are_nobody_else_s(tree):
    old = backups.start(tree.client, tree.vm)
    backups.finish(tree.client, old)
    new = backups.start(tree.client, tree.vm)
    for method, arguments in (("Finish", ("a{sv}", {})), ("Abort", ())):
        with pytest.raises(DBusError, match="(?i)unknown|no backup"):
            tree.client.call(old, "Backup", method, *arguments)
    assert tree.client.get(new, "Backup", "State") == "ready"
    backups.abort(tree.client, new)


def test_honest_fallback(tree):
    """Disk by disk, with the reason."""
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0", disks=[tree.disks[0]]))
    backup = backups.start(tree.client, tree.vm, kind="incremental")
    assert backups.kinds(tree.client, backup) == {tree.disks[0]: "incremental", tree.disks[1]: "full"}
    assert "has no such bitmap" in backups.reasons(tree.client, backup)[tree.disks[1]]
    held = content(tree)
    assert read(tree, backup, [copy_of(tree, 0), backups.Copy()]) == held
    backups.finish(tree.client, backup)
    with pytest.raises(DBusError) as failure:
        backups.begin(tree.client, tree.vm, kind="incremental", require_incremental=True)
    assert failure.value.name.endswith("Unsupported") and "web-serial1" in str(failure.value)
    assert len(tree.client.of_kind("backup")) == 0


def copy_of(tree, number):
    """What a backup of the moment before would have."""
    copy = backups.Copy()
    tree.qemu.io(f"dev{number}", "flush")
    path = f"{tree.pool}/../copy{number}.raw"
    images.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", tree.path(number), path)
    with open(path, "rb") as f:
        copy.data = bytearray(f.read())
    return copy


def test_no_checkpoint_at_all(tree):
    backup = backups.start(tree.client, tree.vm, kind="incremental", checkpoint="first")
    assert set(backups.reasons(tree.client, backup).values()) == {"there is no checkpoint"}
    backups.finish(tree.client, backup)


def test_inconsistent_after_a_crash(tree):
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0"))
    tree.down()
    tree.up()
    tree.qemu.kill()
    tree.up()
    backup = backups.start(tree.client, tree.vm, kind="incremental", checkpoint="c1")
    assert set(backups.kinds(tree.client, backup).values()) == {"full"}
    assert all("when its QEMU crashed" in why for why in backups.reasons(tree.client, backup).values())
    backups.finish(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "unusable", "c1": "ok"}


@pytest.mark.parametrize("how", ["live", "down"])
def test_cut_and_grown_again(tree, how):
    """What was cut off is zero then, which no bitmap tells."""
    scatter(tree, 60, writes=100)
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0"))
    copies = [copy_of(tree, number) for number in range(2)]
    if how == "down":
        tree.down()
    for size in (SIZE // 2, SIZE):
        tree.client.finish(tree.client.call(tree.disks[0], "Disk", "Resize", "ta{sv}", size, {"shrink": ("b", True)}))
    if how == "down":
        tree.up()
    held = content(tree)
    backup = backups.start(tree.client, tree.vm, kind="incremental", checkpoint="c1")
    assert backups.kinds(tree.client, backup) == {tree.disks[0]: "full", tree.disks[1]: "incremental"}
    copies[0] = backups.Copy()
    assert read(tree, backup, copies) == held
    backups.finish(tree.client, backup)


def test_nobody_has_the_backup_of_a_failed_ones_checkpoint(tree, daemon):
    """Whatever could not be done away with: an increment goes back to the one before."""
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="c0"))
    copies = [copy_of(tree, number) for number in range(2)]
    scatter(tree, 61)
    failed = backups.start(tree.client, tree.vm, checkpoint="c1")
    daemon.at("finish-backup.drop", "error Timeout QEMU does not answer")
    backups.spoil(tree.qemu)
    _, message = tree.client.failure(tree.client.call(failed, "Backup", "Finish", "a{sv}", {}))
    assert "abort it again" in message and tree.client.get(failed, "Backup", "State") == "failed"
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "ok", "c1": "ok"}
    scatter(tree, 62)
    held = content(tree)
    backup = backups.start(tree.client, tree.vm, kind="incremental", checkpoint="c2")
    assert tree.client.get(backup, "Backup", "Since") == "c0"
    assert read(tree, backup, copies) == held
    backups.finish(tree.client, backup)
    daemon.forget_failpoints()
    backups.abort(tree.client, failed)
    assert backups.checkpoints(tree.client, tree.vm) == {"c0": "ok", "c2": "ok"}


def test_raw_disks_hold_no_checkpoint(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, base_format="raw", size=SIZE)
    with pytest.raises(DBusError, match="no image of these disks can hold one"):
        backups.begin(client, tree.vm, checkpoint="c0")
    tree.write(5, 0, MIB)
    backup = backups.start(client, tree.vm, kind="incremental")
    assert set(backups.kinds(client, backup).values()) == {"full"}
    tree.write(6, 0, MIB)
    copy = backups.Copy()
    copy.take(*backups.shown(client, backup)[tree.disks[0]])
    assert copy.data[:MIB] == b"\5" * MIB
    backups.finish(client, backup)
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []


def test_what_is_wrong(tree):
    def refused(**options):
        with pytest.raises(DBusError) as failure:
            backups.begin(tree.client, tree.vm, **options)
        return failure.value.name.rsplit(".", 1)[1], str(failure.value)
    assert refused(since="c0")[0] == "InvalidArgument"
    assert refused(kind="differential")[0] == "InvalidArgument"
    assert refused(kind="incremental", since="c0")[0] == "NotFound"
    assert refused(checkpoint="a/b")[0] == "InvalidArgument"
    assert refused(require_incremental=True)[0] == "InvalidArgument"
    assert refused(kind="weekly")[0] == "InvalidArgument"
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    assert refused()[0] == "Busy"
    backups.finish(tree.client, backup)
    name, text = refused(checkpoint="c0")
    assert name == "AlreadyExists" and "delete it" in text
    tree.down()
    name, text = refused(quiesce="require")
    assert name == "NotRunning" and "no guest to freeze" in text


def test_disks_are_busy_meanwhile(tree):
    backup = backups.start(tree.client, tree.vm)
    for call in (lambda: tree.client.create_snapshot(tree.vm, "s1", quiesce="off"),
                 lambda: tree.client.call(tree.disks[0], "Disk", "Resize", "ta{sv}", 2 * SIZE, {}),
                 lambda: tree.client.call(tree.vm, "VM", "Unregister", "a{sv}", {}),
                 lambda: tree.client.call(tree.vm, "VM", "DeleteCheckpoint", "sa{sv}", "x", {})):
        with pytest.raises(DBusError) as failure:
            call()
        assert failure.value.name.endswith(("Busy", "NotFound")), str(failure.value)
        assert "backup " + backup.rsplit("/", 1)[1].replace("_", "-") in str(failure.value) or \
            failure.value.name.endswith("NotFound")
    export = tree.client.get(backup, "Backup", "Exports")[0]
    with pytest.raises(DBusError, match="is a part of backup"):
        tree.client.call(export, "Export", "Stop", "a{sv}", {})
    backups.abort(tree.client, backup)
    tree.snapshot("s1")


def test_somebody_else_s_nbd_server(tree, directory):
    tree.qemu.execute("nbd-server-start", addr={"type": "unix", "data": {"path": f"{directory}/other.sock"}})
    error, message = tree.client.failure(backups.begin(tree.client, tree.vm, checkpoint="c0"))
    assert error == "QemuFailed" and "already running" in message
    assert tree.client.of_kind("backup") == {} and backups.checkpoints(tree.client, tree.vm) == {}
    connection = nbd.NBD()
    with pytest.raises(nbd.Error, match="export"):
        connection.connect_uri(f"nbd+unix:///none?socket={directory}/other.sock")
    tree.qemu.execute("nbd-server-stop")


def test_a_full_scratch_breaks_the_backup_not_the_guest(client, directory, qemus, daemon, small_filesystem):
    """The guest's writes succeed; the backup says that it is worth nothing, and its checkpoint is gone."""
    pool = small_filesystem(220)
    tree = Tree(client, directory, qemus, size=SIZE, pools=[pool])
    tree.write(1, 0, SIZE)  # all of it is there: no write needs room
    backup = backups.start(client, tree.vm, checkpoint="c0")
    room = os.statvfs(pool)
    with open(f"{pool}/filler", "wb") as f:
        f.write(bytes(room.f_bavail * room.f_frsize - 8 * MIB))
    for number in range(24):
        tree.qemu.write("dev0", 2, number * MIB, MIB)
    assert tree.qemu.execute("query-status")["status"] == "prelaunch", "the guest was stopped"
    assert "not held any more" in backups.wait_failed(client, backup)
    assert backups.checkpoints(client, tree.vm) == {}
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []
    with pytest.raises(DBusError, match="has failed"):
        client.call(backup, "Backup", "Finish", "a{sv}", {})
    os.unlink(f"{pool}/filler")
    # A failed one is in nobody's way.
    backups.finish(client, backups.start(client, tree.vm))
    backups.abort(client, backup)
    assert client.of_kind("backup") == {}


def test_finish_asks_before_it_says_good(tree):
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    backups.spoil(tree.qemu)
    error, message = tree.client.failure(tree.client.call(backup, "Backup", "Finish", "a{sv}", {}))
    assert error == "QemuFailed" and "checkpoint was dropped" in message
    assert backups.checkpoints(tree.client, tree.vm) == {}
    assert tree.client.get(backup, "Backup", "State") == "failed"
    backups.abort(tree.client, backup)


@pytest.mark.parametrize("how", ["kill", "quit"])
def test_qemu_ends(tree, daemon, how):
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    getattr(tree.qemu, how)()
    assert "QEMU has ended" in backups.wait_failed(tree.client, backup)
    assert backups.leftovers(daemon.directory, tree.pools) == [] and backups.exports_left(tree.client) == []
    assert backups.checkpoints(tree.client, tree.vm) == {}
    for number in range(2):
        assert images.bitmaps(tree.path(number)) == {}
    backups.abort(tree.client, backup)
    tree.up()


def test_the_caller_leaves(tree, bus, daemon):
    from harness.client import Client
    other = Client(bus.address)
    backup = backups.start(other, tree.vm, checkpoint="c0", bind_to_caller=True)
    assert backup in tree.client.of_kind("backup")
    other.close()
    backups.gone(tree.client, backup)
    assert backups.checkpoints(tree.client, tree.vm) == {}


def test_the_daemon_restarts_meanwhile(tree, daemon, bus):
    """It finds the backup again; who reads does not notice."""
    from harness.client import Client
    scatter(tree, 40)
    held = content(tree)
    backup = backups.start(tree.client, tree.vm, checkpoint="c0")
    uri, _ = backups.shown(tree.client, backup)[tree.disks[0]]
    reader = nbd.NBD()
    reader.connect_uri(uri)
    daemon.stop()
    scatter(tree, 41)
    assert len(reader.pread(MIB, 0)) == MIB
    daemon.start()
    tree.client = client = Client(bus.address)
    try:
        assert client.get(backup, "Backup", "State") == "ready"
        scatter(tree, 42)
        assert read(tree, backup, new_copies(tree)) == held
        reader.shutdown()
        assert backups.finish(client, backup) == {"checkpoint": "c0"}
        assert backups.checkpoints(client, tree.vm) == {"c0": "ok"}
    finally:
        client.close()
        tree.client = Client(bus.address)


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_quiesced(client, directory, qemus, daemon, mode):
    path = images.create(f"{directory}/root.qcow2", SIZE)
    qemu = qemus("vm", [path], running=True)
    agent = AgentDouble(f"{directory}/agent.sock")
    try:
        vm = client.register_vm("web", qmp_socket=qemu.qmp, agent_socket=agent.path)
        backup = backups.start(client, vm, quiesce=mode)
        assert client.get(backup, "Backup", "Consistency") == "filesystem"
        assert "guest-fsfreeze-thaw" in agent.asked and not agent.frozen
        backups.abort(client, backup)
    finally:
        agent.close()


def test_quiesce_required_and_not_there(tree):
    error, message = tree.client.failure(backups.begin(tree.client, tree.vm, quiesce="require", checkpoint="c0"))
    assert error == "QuiesceFailed"
    assert tree.client.of_kind("backup") == {} and backups.checkpoints(tree.client, tree.vm) == {}


def test_one_moment_of_all_disks(tree):
    """A writer that writes a number to one disk after the other: no disk is ahead of the one before it."""
    stop = threading.Event()

    def write():
        number = 1
        while not stop.is_set():
            for disk in range(2):
                tree.qemu.write(f"dev{disk}", number % 255 + 1, 0, 4096)
            number += 1
    for _ in range(5):
        stop.clear()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            backup = backups.start(tree.client, tree.vm)
        finally:
            stop.set()
            writer.join()
        found = []
        for disk in tree.disks:
            handle = nbd.NBD()
            handle.connect_uri(backups.shown(tree.client, backup)[disk][0])
            found.append(handle.pread(4096, 0))
            handle.shutdown()
        assert all(len(set(block)) == 1 for block in found), "a write was cut in half"
        first, second = (block[0] for block in found)
        assert (first - second) % 255 in (0, 1), (first, second)
        backups.abort(tree.client, backup)
