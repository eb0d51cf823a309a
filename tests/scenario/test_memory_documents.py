# SPDX-License-Identifier: MIT
"""Memory and variable stores of snapshots where a VM is told of elsewhere: in libvirt's documents, and in manifests."""
import os
import shutil
import struct

import pytest

from harness import images
from harness.client import ROOT, Client, Variant, variants
from harness.memory_vm import MemoryVm

SCHEMA = "/usr/share/libvirt/schemas/domainsnapshot.rng"


@pytest.fixture
def vm(client, directory):
    vm = MemoryVm(client, directory)
    yield vm
    vm.end()


@pytest.fixture
def store(vm, client, directory):
    path = f"{directory}/web_VARS.fd"
    with open(path, "wb") as f:
        f.write(b"then " * 1000)
    client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": Variant("as", [path])}))
    return path


def document(vm, name="s1"):
    return vm.client.call(vm.snapshot(name), "Snapshot", "ToXML")


def validate(xml, directory):
    if os.path.exists(SCHEMA) and shutil.which("xmllint"):
        path = f"{directory}/document.xml"
        with open(path, "w") as f:
            f.write(xml)
        images.run("xmllint", "--noout", "--nonet", "--relaxng", SCHEMA, path)


def take_in(vm, xml, **options):
    return vm.client.call(vm.vm, "VM", "ImportSnapshotXML", "sa{sv}", xml, variants(options))


def forget_snapshots(vm):
    """The VM is down; it is registered anew, with the id and the disk that it had, and no snapshots."""
    identity, target = vm.get("Id"), vm.client.get(vm.disk, "Disk", "Target")
    vm.client.call(vm.vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    again = vm.client.register_vm("web", id=identity, qmp_socket=vm.guest.qmp, config=b"<then/>", config_type="application/xml")
    assert again == vm.vm
    vm.client.finish(vm.client.call(vm.disk, "Disk", "Attach", "osa{sv}", vm.vm, target, {}))
    assert not vm.client.of_kind("snapshot")


def goes_on(vm):
    vm.launch(paused=True)
    state, _, message, _ = vm.loaded()
    assert state == "succeeded", message
    assert vm.check_of_one_instant() > 0


def libvirt_save(stream, magic=b"LibvirtQemudSave", version=2, compressed=0):
    """The file that libvirt makes of memory: numbers in the host's order, the domain's XML, the stream."""
    xml = b"<domain type='qemu'><name>web</name></domain>\0"
    return struct.pack("=16sIIIII14I", magic, version, len(xml), 1, compressed, 0, *[0] * 14) + xml + stream


def foreign(vm, memory, name="of libvirt", state="running"):
    top, *_, base = images.chain(vm.active())
    return (f"<domainsnapshot><name>{name}</name><state>{state}</state><creationTime>1700000000</creationTime>"
            f"<memory snapshot='external'{memory and f' file={memory!r}'}/>"
            f"<disks><disk name='{base}' snapshot='external' type='file'><driver type='qcow2'/><source file='{top}'/></disk>"
            f"</disks><domain><uuid>{vm.get('Id')}</uuid></domain></domainsnapshot>")


def test_own_document(vm, store, client, directory):
    vm.take()
    before, files = client.get_all(vm.snapshot(), "Snapshot"), vm.files()
    xml = document(vm)
    validate(xml, directory)
    assert f"<memory snapshot=\"external\" file=\"{before['MemoryPath']}\"" in xml and "<state>running</state>" in xml
    vm.down()
    forget_snapshots(vm)
    assert vm.files() == files
    client.call(vm.vm, "VM", "Update", "a{sv}", variants({"nvram": Variant("as", [store])}))
    take_in(vm, xml)
    assert client.get_all(vm.snapshot(), "Snapshot") == before
    with open(store, "wb") as f:
        f.write(b"later")
    vm.revert()
    with open(store, "rb") as f:
        assert f.read() == b"then " * 1000
    goes_on(vm)


def test_of_libvirt(vm, client, directory):
    """Whose file has a header before QEMU's stream."""
    vm.take()
    path = f"{vm.pool_path}/web.of-libvirt"
    with open(client.get(vm.snapshot(), "Snapshot", "MemoryPath"), "rb") as f, open(path, "wb") as copy:
        copy.write(libvirt_save(f.read()))
    vm.down()
    forget_snapshots(vm)
    xml = foreign(vm, path)
    validate(xml, directory)
    take_in(vm, xml)
    p = client.get_all(vm.snapshot("of libvirt"), "Snapshot")
    assert (p["Consistency"], p["MemoryPath"], p["MemoryBytes"], p["VMState"]) == \
        ("memory", path, os.path.getsize(path), "running")
    vm.revert("of libvirt")
    goes_on(vm)
    # It is the snapshot's from now on.
    vm.down()
    client.finish(vm.of_snapshot("of libvirt", "Delete"))
    assert not os.path.exists(path)


def test_what_cannot_be_taken_says_why(vm, client, directory):
    snapshot, _ = vm.take()
    with open(snapshot["MemoryPath"], "rb") as f:
        stream = f.read()
    contents = {"text": b"no memory", "part": libvirt_save(stream, magic=b"LibvirtQemudPart"),
                "compressed": libvirt_save(stream, compressed=1), "new": libvirt_save(stream, version=3)}
    for name, content in contents.items():
        with open(f"{vm.pool_path}/{name}", "wb") as f:
            f.write(content)
    shutil.copy(snapshot["MemoryPath"], f"{directory}/outside")
    os.symlink(f"{directory}/outside", f"{vm.pool_path}/link")
    client.finish(client.call(vm.disk, "Disk", "CreateOverlay", "a{sv}", {}))
    vm.down()
    cases = {"NotFound in no pool": f"{directory}/outside", "NotFound gone": f"{vm.pool_path}/gone",
             "UnsafeImage link": f"{vm.pool_path}/link", "CorruptImage no memory": f"{vm.pool_path}/text",
             "CorruptImage to its end": f"{vm.pool_path}/part", "Unsupported compressed": f"{vm.pool_path}/compressed",
             "Unsupported version 3": f"{vm.pool_path}/new", "InvalidArgument is a volume": vm.active(),
             "AlreadyExists 's1'": snapshot["MemoryPath"], "InvalidArgument names no file": ""}
    for expected, path in cases.items():
        name, words = expected.split(" ", 1)
        error, text = vm.refused(lambda: take_in(vm, foreign(vm, path)))
        assert error == name and words in text, (expected, error, text)
    assert set(p["Name"] for p in client.of_kind("snapshot").values()) == {"s1"}


def test_manifest(vm, store, client, daemon, bus):
    """All is lost but what lies beside the images: the snapshot has its files, and what is due is due."""
    vm.take()
    vm.down()
    vm.revert()
    before = client.get_all(vm.snapshot(), "Snapshot")
    assert vm.get("ResumesFrom") == vm.snapshot() and before["Nvram"] == [store]
    path, directory = f"{vm.pool_path}/.volchain/{vm.get('Id')}.json", daemon.directory
    client.close()
    daemon.stop()
    shutil.rmtree(directory + "/state")
    os.mkdir(directory + "/state")
    daemon.start()
    vm.client = Client(bus.address)
    vm.client.call(ROOT, "Manager", "ImportManifest", "sa{sv}", path, {})
    assert vm.client.get_all(vm.snapshot(), "Snapshot") == before
    # What files of this host are its stores is said anew.
    assert vm.get("Nvram") == [] and vm.get("ResumesFrom") == vm.snapshot()
    vm.client.call(vm.vm, "VM", "Update", "a{sv}",
                   variants({"qmp-socket": vm.guest.qmp, "nvram": Variant("as", [store])}))
    goes_on(vm)
    vm.check_files()
    vm.client.close()
