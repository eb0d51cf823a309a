# SPDX-License-Identifier: MIT
"""Variable stores of UEFI firmware: kept with each snapshot, back with its configuration, and nobody else's file."""
import os
import stat

import pytest

from harness import images
from harness.client import Client, DBusError, Variant, variants
from harness.down_vm import DownVm
from harness.memory_vm import MIB, MemoryVm
from harness.polkit import FakePolkit
from harness.world import World

FIRMWARE = "/usr/share/seabios/bios-256k.bin"


def content(tag, size=64 * 1024):
    return (tag.encode() * size)[:size]


def write(path, tag, size=64 * 1024):
    with open(path, "wb") as f:
        f.write(content(tag, size))


def read(path):
    with open(path, "rb") as f:
        return f.read()


def paths(*all_of_them):
    return Variant("as", [str(path) for path in all_of_them])


@pytest.fixture
def stores(directory):
    os.mkdir(f"{directory}/nvram")
    made = [f"{directory}/nvram/web_VARS.fd", f"{directory}/nvram/second_VARS.fd"]
    write(made[0], "first ")
    write(made[1], "second ", 5000)
    os.chmod(made[0], 0o640)
    os.chown(made[0], 1, 2)
    return made


@pytest.fixture
def vm(client, directory, stores):
    vm = DownVm(client, directory)
    client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": paths(*stores)}))
    yield vm
    vm.check()
    check_copies(vm)


def copies(vm):
    return sorted(name for name in os.listdir(vm.pool_path) if ".nvram" in name)


def check_copies(vm):
    """As many as snapshots name, and a preview keeps."""
    named = sum(len(p["Nvram"]) for p in vm.client.of_kind("snapshot").values())
    preview = vm.get("PreviewOf") != "/"
    assert len(copies(vm)) == named + (2 if preview else 0), copies(vm)


def test_offline(vm, stores, client):
    assert vm.get("Nvram") == stores
    vm.take("s1")
    assert vm.snapshots()["s1"]["Nvram"] == stores and len(copies(vm)) == 2
    then = [os.stat(path) for path in stores]
    model = os.stat(vm.active(vm.disks[0]))
    for name in copies(vm):
        found = os.stat(f"{vm.pool_path}/{name}")
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == \
            (model.st_uid, model.st_gid, stat.S_IMODE(model.st_mode))
    write(stores[0], "later ")
    vm.write()
    vm.take("s2")
    write(stores[0], "now ", 70_000)

    assert "not-restored" not in vm.preview("s1")
    assert [read(path) for path in stores] == [content("first "), content("second ", 5000)]
    found = [os.stat(path) for path in stores]
    assert [(f.st_uid, f.st_gid, f.st_mode) for f in found] == [(t.st_uid, t.st_gid, t.st_mode) for t in then]
    write(stores[0], "by the preview ")
    vm.undo()
    assert read(stores[0]) == content("now ", 70_000) and read(stores[1]) == content("second ", 5000)
    vm.preview("s2")
    assert read(stores[0]) == content("later ")
    vm.commit()
    assert read(stores[0]) == content("later ")
    vm.preview("s1", config=False)
    assert read(stores[0]) == content("later ")
    vm.undo()
    vm.revert("s1")
    assert read(stores[0]) == content("first ") and vm.tree() == {"s1": None}
    assert not [name for name in os.listdir(os.path.dirname(stores[0])) if name.startswith(".")]


@pytest.mark.parametrize("way", ["revert", "preview"])
def test_it_is_kept_with_the_branch(vm, stores, way):
    vm.history("s1")
    write(stores[0], "of the branch ")
    if way == "revert":
        vm.revert("s1", keep_branch=True)
    else:
        vm.preview("s1")
        vm.commit(keep_branch=True)
    assert read(stores[0]) == content("first ")
    [kept] = [p for name, p in vm.snapshots().items() if name.startswith("before")]
    assert kept["Nvram"] == stores
    vm.revert(kept["Name"], keep_branch=True)
    assert read(stores[0]) == content("of the branch ")


def test_it_goes_with_its_snapshot(vm, client):
    vm.history("s1", "s2")
    client.finish(vm.of_snapshot("s1", "Delete"))
    assert len(copies(vm)) == 2
    client.finish(vm.of_snapshot("s2", "Delete"))
    assert copies(vm) == []


def test_of_a_running_vm(client, directory, stores):
    """Of the instant: while the guest is stopped for its memory, and else as it is at the switch."""
    os.chown(stores[0], 0, 0)
    vm = MemoryVm(client, directory)
    try:
        client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": paths(stores[0])}))
        vm.take("memory")
        write(stores[0], "later ")
        vm.take("disks", memory=False)
        write(stores[0], "now ")
        vm.down()
        for name, tag in (("memory", "first "), ("disks", "later ")):
            vm.preview(name)
            assert read(stores[0]) == content(tag)
            vm.undo()
            assert read(stores[0]) == content("now ")
    finally:
        vm.end()


@pytest.mark.skipif(not os.path.exists(FIRMWARE), reason="needs SeaBIOS as firmware in flash memory")
def test_in_flash_memory(client, directory, stores):
    """QEMU has it open and locked; it is no disk and nothing unmanaged; memory brings its content back, too."""
    store = stores[0]
    os.chown(store, 0, 0)
    firmware = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}",
                "-drive", f"if=pflash,unit=1,format=raw,file={store},id=vars"]
    vm = MemoryVm(client, directory, extra=firmware)
    try:
        other = client.register_vm("other", nvram=paths(stores[1]))
        assert client.get(other, "VM", "Nvram") == [stores[1]]
        # It was taken for a disk, as nobody had said what it is.
        [disk] = [d for d, p in client.of_kind("disk").items() if p["ActivePath"] == store]
        with pytest.raises(DBusError) as refused:
            client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": paths(store)}))
        assert refused.value.short == "AlreadyExists" and store in refused.value.message
        # Said beforehand, it is none.
        client.call(vm.vm, "VM", "Unregister", "a{sv}", {})
        for pool in list(client.of_kind("pool")):
            client.call(pool, "Pool", "Remove")
        assert client.of_kind("disk") == {} and disk
        vm.vm = client.register_vm("web", qmp_socket=vm.guest.qmp, nvram=paths(store))
        [vm.disk] = vm.get("Disks")
        assert vm.get("Unmanaged") == []
        vm.take()
        # As the guest would write to its flash memory.
        vm.guest.execute("human-monitor-command", **{"command-line": 'qemu-io vars "write -q -P 0x41 0 512"'})
        vm.guest.wait_writing()
        assert read(store)[:4] == b"AAAA"
        with pytest.raises(DBusError) as refused:
            vm.revert()
        assert refused.value.short == "Running"
        vm.down()
        vm.revert()
        assert read(store) == content("first ")
        vm.launch(paused=True)
        assert vm.loaded()[0] == "succeeded"
        assert vm.check_of_one_instant() > 0
        assert read(store) == content("first ")
    finally:
        vm.end()


def test_in_use(vm, stores, qemus):
    """A QEMU that runs on the store, though the VM is down for all that is known: nothing is replaced under it."""
    vm.history("s1")
    write(stores[1], "used ", 65536)
    before = vm.contents()
    qemu = qemus("other", [{"path": stores[1], "fmt": "raw"}])
    error, message = vm.refused(lambda: vm.of_snapshot("s1", "Preview"))
    assert error == "InUse" and stores[1] in message
    assert vm.contents() == before and read(stores[0]) == content("first ")
    qemu.quit()
    vm.preview("s1")
    assert read(stores[1]) == content("second ", 5000)
    vm.undo()


def test_one_that_is_gone(vm, stores):
    """A snapshot is of all of it or not taken; to bring it back it need not be there."""
    vm.history("s1")
    os.unlink(stores[0])
    error, message = vm.refused(lambda: vm.client.create_snapshot(vm.vm, "s2"))
    assert error == "NotFound" and stores[0] in message and set(vm.snapshots()) == {"s1"}
    vm.revert("s1")
    assert read(stores[0]) == content("first ") and os.stat(stores[0]).st_uid == 1
    vm.take("s2")
    os.rename(os.path.dirname(stores[0]), os.path.dirname(stores[0]) + ".away")
    error, message = vm.refused(lambda: vm.of_snapshot("s1", "Preview"))
    assert error == "NotFound" and os.path.dirname(stores[0]) in message
    os.rename(os.path.dirname(stores[0]) + ".away", os.path.dirname(stores[0]))


def test_another_file_in_its_place(vm, stores, directory):
    """Neither read nor written: a link, another name of something else, another user's file, an image."""
    secret = f"{directory}/secret"
    write(secret, "secret ")

    def attempts():
        return [vm.refused(lambda: vm.client.create_snapshot(vm.vm, "x")),
                vm.refused(lambda: vm.of_snapshot("s1", "Preview"))]
    vm.history("s1")
    os.unlink(stores[0])
    os.symlink(secret, stores[0])
    assert {error for error, _ in attempts()} == {"UnsafeImage"}
    os.unlink(stores[0])
    os.link(secret, stores[0])
    assert {error for error, _ in attempts()} == {"UnsafeImage"}
    os.unlink(stores[0])
    write(stores[0], "of root ")
    for error, message in attempts():
        assert error == "UnsafeImage" and "belongs to user 0" in message
    os.truncate(stores[0], 65 << 20)
    os.chown(stores[0], 1, 2)
    assert {error for error, _ in attempts()} == {"UnsafeImage"}
    assert read(secret) == content("secret ") and set(vm.snapshots()) == {"s1"}
    os.unlink(stores[0])
    os.rename(os.path.dirname(stores[0]), f"{directory}/moved")
    os.symlink(f"{directory}/moved", os.path.dirname(stores[0]))
    assert {error for error, _ in attempts()} == {"UnsafeImage"}


def test_not_while_a_preview_is_shown(vm, stores):
    vm.history("s1")
    vm.preview("s1")
    error, message = vm.refused(lambda: vm.client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": paths()})))
    assert error == "Busy" and "preview" in message
    vm.undo()
    vm.client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": paths()}))
    assert vm.get("Nvram") == []
    vm.preview("s1")
    assert vm.get("PreviewOf") == vm.snapshot("s1")
    vm.undo()
    vm.client.finish(vm.of_snapshot("s1", "Delete"))


def test_with_the_rights_of_whoever_names_it(directory):
    """A member of the group may not have root read, or write, what he could not himself."""
    world = World(directory, polkit=FakePolkit).start()
    try:
        plain = Client(world.bus.address, uid=2)
        world.polkit.answers = {"org.volchain1.manage-vms": "yes"}
        own, readable, roots = (f"{world.vacant}/{name}" for name in ("own", "readable", "roots"))
        for path in (own, readable, roots):
            write(path, "x ")
        os.chown(own, 2, 2)
        os.chmod(roots, 0o600)
        os.chmod(world.vacant, 0o755)
        for path in (readable, roots, "/etc/shadow"):
            with pytest.raises(DBusError) as refused:
                plain.call("/org/volchain1", "Manager", "RegisterVM", "sa{sv}", "x", variants({"nvram": paths(path)}))
            assert refused.value.short.endswith("AccessDenied"), refused.value
            with pytest.raises(DBusError) as refused:
                plain.call(world.down, "VM", "Update", "a{sv}", variants({"nvram": paths(path)}))
            assert refused.value.short.endswith("AccessDenied"), refused.value
        plain.call(world.down, "VM", "Update", "a{sv}", variants({"nvram": paths(own)}))
        assert world.client.get(world.down, "VM", "Nvram") == [own]
        plain.close()
    finally:
        world.stop()


def test_at_another_place(vm, stores, directory):
    """As on another host, after an import: the stores are named anew, and meant by their order."""
    vm.history("s1")
    moved = [f"{directory}/a.fd", f"{directory}/b.fd"]
    for path in moved:
        write(path, "elsewhere ")
    vm.client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": paths(*moved)}))
    vm.preview("s1")
    assert [read(path) for path in moved] == [content("first "), content("second ", 5000)]
    vm.undo()
    assert [read(path) for path in moved] == [content("elsewhere ")] * 2
    assert read(stores[0]) == content("first ")


def test_large_one(vm, stores):
    """As those of ARM machines."""
    os.truncate(stores[0], 64 << 20)
    vm.history("s1")
    with open(stores[0], "r+b") as f:
        f.seek(63 << 20)
        f.write(b"later")
    vm.revert("s1")
    assert os.path.getsize(stores[0]) == 64 << 20 and read(stores[0])[63 << 20:][:5] == bytes(5)


def test_it_needs_its_room(client, directory, stores, small_filesystem):
    pool = small_filesystem(8)
    os.truncate(stores[0], 32 << 20)
    with open(stores[0], "r+b") as f:
        for _ in range(32):
            f.write(os.urandom(MIB))
    disk = images.create(f"{pool}/root.qcow2", "16M")
    client.create_pool("small", pool)
    [path] = client.of_kind("pool")
    made = client.finish(client.call(path, "Pool", "ImportDisk", "sa{sv}", disk, {}))["disk"]
    vm = client.register_vm("web", nvram=paths(stores[0]))
    client.finish(client.call(made, "Disk", "Attach", "osa{sv}", vm, "root", {}))
    result = client.finish(client.create_snapshot(vm, "s1"))
    assert stores[0] in result["not-kept"][0]
    assert client.get(result["snapshot"], "Snapshot", "Nvram") == []
    assert sorted(name for name in os.listdir(pool) if name.startswith("web")) == []
