# SPDX-License-Identifier: MIT
"""Disks that are restored: filled over NBD by whatever program, turned into a disk that holds just that, or gone without a trace."""
import os
import random
import time

import nbd
import pytest

from harness import backups, digest, exports, images, restores
from harness.client import Client, DBusError
from harness.tree import MIB, Tree

SIZE = 64 * MIB


@pytest.fixture
def pool(client, directory, daemon):
    """(path of the directory, pool)"""
    path = f"{directory}/restored"
    os.mkdir(path)
    yield path, client.create_pool("restored", path)
    assert exports.leftovers(daemon.directory) == [] and backups.exports_left(client) == []


def some_data(seed=1, size=SIZE):
    chance = random.Random(seed)
    data = bytearray(size)
    for _ in range(20):
        at = chance.randrange(size // 4096 - 16) * 4096
        data[at:at + 65536] = bytes([chance.randrange(1, 255)]) * 65536
    return data


def content(client, disk):
    volume = client.get(disk, "Disk", "Active")
    return images.digest(client.get(volume, "Volume", "Path"), fmt=client.get(volume, "Volume", "Format"))


def nothing_left(client, path):
    assert restores.leftovers(path) == [] and client.of_kind("disk") == {} and client.of_kind("backup") == {}


@pytest.mark.parametrize("options", [
    {}, {"format": "raw"}, {"preallocation": "metadata"}, {"preallocation": "falloc"}, {"format": "raw", "preallocation": "full"},
    {"cluster_size": 4096}, {"extended_l2": True, "cluster_size": 131072}, {"compression": "zstd"},
], ids=lambda options: "-".join(f"{value}" for value in options.values()) or "plain")
def test_restored(client, pool, options):
    path, its_pool = pool
    data = some_data()
    restore, uri = restores.start(client, "root", its_pool, SIZE, **options)
    properties = client.get_all(restore, "Backup")
    assert (properties["Kind"], properties["Mode"], properties["State"]) == ("restore", "fill", "ready")
    assert properties["DiskName"] == "root" and properties["VM"] == properties["Snapshot"] == "/"
    assert properties["Source"] == properties["Consistency"] == "" and properties["Disks"] == []
    [export] = properties["Exports"]
    shown = client.get_all(export, "Export")
    assert (shown["Backup"], shown["Uri"], shown["Writable"]) == (restore, uri, True)
    assert shown["Disk"] == shown["Volume"] == "/"
    assert client.of_kind("disk") == {} and client.of_kind("volume") == {}
    restores.fill(uri, data)
    result = client.finish(client.call(restore, "Backup", "Finish", "a{sv}", {}))
    assert set(result) == {"disk", "volume"}
    assert content(client, result["disk"]) == digest.of_bytes(data)
    disk = client.get_all(result["disk"], "Disk")
    assert (disk["Name"], disk["State"], disk["SizeBytes"], disk["VM"]) == ("root", "ok", SIZE, "/")
    if options.get("format") != "raw":
        images.check(disk["ActivePath"])
    assert [os.path.basename(disk["ActivePath"])] == restores.leftovers(path)
    assert client.of_kind("backup") == {}
    if "preallocation" not in options:
        assert client.get(result["volume"], "Volume", "AllocatedBytes") < SIZE // 2


def test_efficient(client, pool):
    """What an NBD client needs to be told to do it well."""
    restore, uri = restores.start(client, "root", pool[1], SIZE)
    info = exports.info(uri)
    for can in ("can_zero", "can_fast_zero", "can_trim", "can_flush", "can_fua", "can_multi_conn"):
        assert info[can] is True, can
    assert info["is_read_only"] is False and info["export-size"] == SIZE
    handle = nbd.NBD()
    handle.connect_uri(uri)
    handle.pwrite(b"\1" * (8 * MIB), 0)
    handle.trim(8 * MIB, 0)
    handle.pwrite(b"\2" * (8 * MIB), 8 * MIB)
    handle.zero(8 * MIB, 8 * MIB)
    handle.flush()
    [name] = restores.leftovers(pool[0])
    assert os.stat(f"{pool[0]}/{name}").st_blocks * 512 < MIB, "trims and zeroes take room"
    handle.shutdown()
    backups.abort(client, restore)
    nothing_left(client, pool[0])


@pytest.mark.parametrize("program", ["nbdcopy", "qemu-img", "qemu-io"])
def test_programs(client, pool, directory, program):
    data = some_data(2)
    raw = f"{directory}/source.raw"
    with open(raw, "wb") as f:
        f.truncate(SIZE)
        f.write(data)
    restore, uri = restores.start(client, "root", pool[1], SIZE)
    if program == "nbdcopy":
        images.run("nbdcopy", "--destination-is-zero", raw, uri)
    elif program == "qemu-img":
        images.run("qemu-img", "convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw", raw, uri)
    else:
        images.run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 1M", "-c", "flush", uri)
        data = bytearray(SIZE)
        data[MIB:2 * MIB] = b"\7" * MIB
    result = client.finish(client.call(restore, "Backup", "Finish", "a{sv}", {}))
    assert content(client, result["disk"]) == digest.of_bytes(data)


def test_a_whole_vm(client, directory, qemus, daemon, pool):
    """A backup is read straight into a restore, a VM is registered with the saved configuration, and runs on the disks."""
    tree = Tree(client, directory, qemus, count=2, size=SIZE)
    client.call(tree.vm, "VM", "SetConfig", "ays", b"<domain/>", "application/xml")
    held = [value for key, value in sorted(tree.content().items()) if key[0] == "active"]
    backup = backups.start(client, tree.vm)
    config, kind = client.call(backup, "Backup", "GetConfig")
    made = []
    for disk, (uri, _) in backups.shown(client, backup).items():
        restore, target = restores.start(client, client.get(disk, "Disk", "Name") + "-again", pool[1], SIZE)
        images.run("nbdcopy", "--destination-is-zero", uri, target)
        made.append((client.get(disk, "Disk", "Target"),
                     client.finish(client.call(restore, "Backup", "Finish", "a{sv}", {}))["disk"]))
    backups.finish(client, backup)
    vm = client.register_vm("again", config=bytes(config), config_type=kind, qmp_socket=f"{directory}/again/qmp.sock")
    for target, disk in made:
        client.finish(client.call(disk, "Disk", "Attach", "osa{sv}", vm, target, {}))
    assert [content(client, disk) for _, disk in sorted(made)] == held
    document, kind = client.call(vm, "VM", "GetConfig")
    assert (bytes(document), kind) == (b"<domain/>", "application/xml")
    arguments = client.call(vm, "VM", "LaunchArguments", "a{sv}", {"device": ("s", "virtio-blk-pci")})
    from harness.qemu import Qemu
    qemu = Qemu(f"{directory}/again", [], extra=arguments).start()
    try:
        client.call(vm, "VM", "Refresh")
        backups.finish(client, backups.start(client, vm, checkpoint="first"))
        assert backups.checkpoints(client, vm) == {"first": "ok"}
    finally:
        qemu.quit()


def test_aborted(client, pool):
    restore, uri = restores.start(client, "root", pool[1], SIZE)
    restores.fill(uri, some_data())
    handle = nbd.NBD()
    handle.connect_uri(uri)
    backups.abort(client, restore)
    nothing_left(client, pool[0])
    with pytest.raises(nbd.Error):
        handle.pwrite(b"x" * 512, 0)
        handle.flush()
    for method, arguments in (("Finish", ("a{sv}", {})), ("Abort", ())):
        with pytest.raises(DBusError, match="(?i)unknown|no backup"):
            client.call(restore, "Backup", method, *arguments)


def test_a_client_writes_on(client, pool):
    """What it is told was written before its connection ended is there; the rest is not half there."""
    restore, uri = restores.start(client, "root", pool[1], SIZE)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    job = client.call(restore, "Backup", "Finish", "a{sv}", {})
    written = 0
    with pytest.raises(nbd.Error):
        while True:
            handle.pwrite(b"\5" * 65536, written % SIZE)
            written += 65536
    disk = client.finish(job)["disk"]
    path = client.get(disk, "Disk", "ActivePath")
    images.check(path)
    with open(f"{path}.raw", "wb"):
        pass
    images.run("qemu-img", "convert", "-O", "raw", path, f"{path}.raw")
    with open(f"{path}.raw", "rb") as f:
        data = f.read()
    os.unlink(f"{path}.raw")
    done = min(written, SIZE)
    assert data[:done] == b"\5" * done


def test_names(client, pool):
    restore, _ = restores.start(client, "root", pool[1], SIZE)
    for call in (lambda: restores.begin(client, "root", pool[1], SIZE),
                 lambda: client.call(pool[1], "Pool", "CreateDisk", "sta{sv}", "root", SIZE, {})):
        with pytest.raises(DBusError) as failure:
            call()
        assert failure.value.short == "AlreadyExists"
    backups.abort(client, restore)
    disk = client.finish(client.call(pool[1], "Pool", "CreateDisk", "sta{sv}", "root", SIZE, {}))["disk"]
    with pytest.raises(DBusError) as failure:
        restores.begin(client, "root", pool[1], SIZE)
    assert failure.value.short == "AlreadyExists"
    client.finish(client.call(disk, "Disk", "Delete", "a{sv}", {}))
    nothing_left(client, pool[0])


def test_nobody_else_uses_the_image(client, pool, directory, daemon):
    """It is no stray file, cannot be imported, and its pool cannot be removed."""
    other = client.finish(client.call(pool[1], "Pool", "CreateDisk", "sta{sv}", "root two", SIZE, {}))["disk"]
    restore, uri = restores.start(client, "root-two", pool[1], SIZE)
    restores.fill(uri, some_data())
    [name] = [name for name in restores.leftovers(pool[0]) if name.startswith("root-two")]
    assert client.finish(client.call(pool[1], "Pool", "Refresh"))["unknown"] == []
    error, message = client.failure(client.call(pool[1], "Pool", "ImportDisk", "sa{sv}", name, {}))
    assert error == "InUse" and "is being restored" in message
    with pytest.raises(DBusError) as failure:
        client.call(pool[1], "Pool", "Remove")
    assert failure.value.short == "InUse" and "restore" in str(failure.value)
    findings = client.finish(client.call(other, "Disk", "Check", "a{sv}", {"repair": ("b", True)}))["findings"]
    assert findings == [], findings
    export = client.get(restore, "Backup", "Exports")[0]
    with pytest.raises(DBusError, match="is a part of restore"):
        client.call(export, "Export", "Stop", "a{sv}", {})
    result = client.finish(client.call(restore, "Backup", "Finish", "a{sv}", {}))
    assert content(client, result["disk"]) == digest.of_bytes(some_data())


def test_its_time_is_up(client, pool):
    restore, _ = restores.start(client, "root", pool[1], SIZE, ttl_usec=3_600_000_000)
    export = client.get(restore, "Backup", "Exports")[0]
    assert client.get(export, "Export", "ExpiresUsec") > time.time() * 1_000_000
    client.call(export, "Export", "Renew", "t", 300_000)
    backups.gone(client, restore)
    nothing_left(client, pool[0])


def test_more_time(client, pool):
    restore, uri = restores.start(client, "root", pool[1], SIZE, ttl_usec=3_000_000)
    export = client.get(restore, "Backup", "Exports")[0]
    client.call(export, "Export", "Renew", "t", 0)
    assert client.get(export, "Export", "ExpiresUsec") == 0
    end = time.monotonic() + 4
    while time.monotonic() < end:
        restores.fill(uri, some_data())
    client.finish(client.call(restore, "Backup", "Finish", "a{sv}", {}))


def test_the_caller_leaves(client, pool, bus):
    other = Client(bus.address)
    restore, _ = restores.start(other, "root", pool[1], SIZE, bind_to_caller=True)
    assert restore in client.of_kind("backup")
    other.close()
    backups.gone(client, restore)
    nothing_left(client, pool[0])


def test_who_may_write(client, pool):
    if os.geteuid() != 0:
        pytest.skip("not root: other users are NOT tried")
    restore, uri = restores.start(client, "root", pool[1], SIZE, allow_uid=4321)
    path = uri.split("socket=")[1]
    assert exports.connects(path, 4321) and not exports.connects(path, 4322)
    backups.abort(client, restore)


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_the_daemon_restarts_meanwhile(client, pool, daemon, bus, kill):
    """Who fills it does not notice."""
    data = some_data(3)
    restore, uri = restores.start(client, "root", pool[1], SIZE)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    handle.pwrite(bytes(data[:MIB]), 0)
    daemon.kill() if kill else daemon.stop()
    handle.pwrite(bytes(data[MIB:2 * MIB]), MIB)
    daemon.start()
    again = Client(bus.address)
    try:
        assert again.get(restore, "Backup", "State") == "ready"
        with pytest.raises(DBusError) as failure:
            restores.begin(again, "root", pool[1], SIZE)
        assert failure.value.short == "AlreadyExists"
        handle.pwrite(bytes(data[2 * MIB:3 * MIB]), 2 * MIB)
        handle.shutdown()
        restores.fill(uri, data)
        result = again.finish(again.call(restore, "Backup", "Finish", "a{sv}", {}))
        assert content(again, result["disk"]) == digest.of_bytes(data)
    finally:
        again.close()


@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
def test_its_storage_daemon_ends(client, pool, daemon, bus, away):
    """Nobody knows what of it was written: it fails, says so, and leaves nothing."""
    restore, uri = restores.start(client, "root", pool[1], SIZE)
    restores.fill(uri, some_data())
    export = client.get(restore, "Backup", "Exports")[0]
    pid = exports.server_of(daemon.directory, export)
    if away:
        daemon.kill()
    os.kill(pid, 9)
    if away:
        daemon.start()
    again = Client(bus.address)
    try:
        why = backups.wait_failed(again, restore)
        assert "has ended" in why, why
        assert restores.leftovers(pool[0]) == [] and backups.exports_left(again) == []
        with pytest.raises(DBusError, match="has failed"):
            again.call(restore, "Backup", "Finish", "a{sv}", {})
        # Its name is free.
        second, _ = restores.start(again, "root", pool[1], SIZE)
        backups.abort(again, second)
        backups.abort(again, restore)
        assert again.of_kind("backup") == {}
    finally:
        again.close()


def test_no_room(client, directory, daemon, small_filesystem):
    """The client is told; nothing of it stays."""
    path = small_filesystem(16)
    its_pool = client.create_pool("small", path)
    error, _ = client.failure(restores.begin(client, "root", its_pool, SIZE, preallocation="full"))
    assert error == "NoSpace"
    restore, uri = restores.start(client, "root", its_pool, SIZE)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    with pytest.raises(nbd.Error, match="[Nn]o space|ENOSPC"):
        for number in range(64):
            handle.pwrite(b"\3" * MIB, number * MIB)
    handle.shutdown()
    backups.abort(client, restore)
    assert [name for name in restores.leftovers(path) if name != "lost+found"] == []
    assert exports.leftovers(daemon.directory) == []


def test_damaged_meanwhile(client, pool, daemon):
    """An image that is not right any more does not become a disk."""
    restore, uri = restores.start(client, "root", pool[1], SIZE)
    restores.fill(uri, some_data())
    [name] = restores.leftovers(pool[0])
    with open(f"{pool[0]}/{name}", "r+b") as f:
        f.seek(65536 * 2)
        f.write(b"\xff" * 65536)
    error, message = client.failure(client.call(restore, "Backup", "Finish", "a{sv}", {}))
    assert error in ("CorruptImage", "QemuFailed") and "nothing is left" in message
    assert restores.leftovers(pool[0]) == []
    backups.abort(client, restore)


def test_tcp(client, pool, directory):
    keys = f"{directory}/keys"
    os.mkdir(keys)
    images.run("psktool", "-u", "backup", "-p", f"{keys}/keys.psk")
    restore, uri = restores.start(client, "root", pool[1], SIZE, address="127.0.0.1:0", tls_credentials=keys)
    handle = nbd.NBD()
    handle.set_tls(nbd.TLS_REQUIRE)
    handle.set_tls_psk_file(f"{keys}/keys.psk")
    handle.set_tls_username("backup")
    handle.connect_tcp("127.0.0.1", uri.rstrip("/").rsplit(":", 1)[1])
    handle.pwrite(b"\4" * MIB, 0)
    handle.shutdown()
    result = client.finish(client.call(restore, "Backup", "Finish", "a{sv}", {}))
    assert content(client, result["disk"]) == digest.of_bytes(b"\4" * MIB + bytes(SIZE - MIB))
