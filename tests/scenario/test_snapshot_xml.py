# SPDX-License-Identifier: MIT
"""Snapshots as libvirt's documents: valid by its schema, taken by virsh, and the same tree when they are imported again."""
import os
import re
import shutil
import subprocess

import pytest

from harness import images
from harness.client import variants
from harness.down_vm import DownVm

SCHEMA = "/usr/share/libvirt/schemas/domainsnapshot.rng"
pytestmark = pytest.mark.skipif(not os.path.exists(SCHEMA) or not shutil.which("virsh") or not shutil.which("xmllint"),
                                reason="needs libvirt's schemas, virsh and xmllint")


@pytest.fixture
def vm(client, directory):
    vm = DownVm(client, directory, count=2)
    yield vm
    vm.check()


def document(vm, name):
    return vm.client.call(vm.snapshot(name), "Snapshot", "ToXML")


def take_in(vm, xml, **options):
    return vm.client.call(vm.vm, "VM", "ImportSnapshotXML", "sa{sv}", xml, variants(options))


def validate(xml, directory):
    path = f"{directory}/document.xml"
    with open(path, "w") as f:
        f.write(xml)
    images.run("xmllint", "--noout", "--nonet", "--relaxng", SCHEMA, path)
    return path


def domain(vm, disks):
    """What libvirt would have as the VM's configuration."""
    devices = "".join(f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>"
                      f"<target dev='{target}' bus='virtio'/></disk>" for target, path in disks.items())
    return (f"<domain type='test'><name>web</name><uuid>{vm.get('Id')}</uuid><memory unit='KiB'>65536</memory><vcpu>1</vcpu>"
            f"<os><type arch='i686'>hvm</type></os><devices>{devices}</devices></domain>")


def everything(vm):
    """What is shown of the snapshots, without what an import cannot know."""
    return {name: {key: value for key, value in p.items()} for name, p in vm.snapshots().items()}


def forget_snapshots(vm):
    """The VM is registered anew, with the id and the disks that it had."""
    targets = {disk: vm.client.get(disk, "Disk", "Target") for disk in vm.disks}
    identity, config = vm.get("Id"), vm.config()
    vm.client.call(vm.vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    assert vm.client.register_vm("web", id=identity, qmp_socket=vm.qmp, config=config, config_type="application/xml") == vm.vm
    for disk, target in targets.items():
        vm.client.finish(vm.client.call(disk, "Disk", "Attach", "osa{sv}", vm.vm, target, {}))
    assert not vm.snapshots()


def branched(vm):
    """base - s1 - s2 (current), and a branch of s1."""
    vm.history("base", "s1", "old")
    vm.revert("s1", keep_branch=True)
    vm.write()
    vm.take("s2", description="with <odd> & \"characters\"\n in it")
    vm.write()
    vm.client.finish(vm.client.create_snapshot(vm.vm, "one disk", exclude=[vm.disks[1]]))


def test_the_same_tree_when_it_is_imported_again(vm, directory):
    branched(vm)
    tree, before, contents = vm.tree(), everything(vm), vm.contents()
    documents = {name: document(vm, name) for name in tree}
    for xml in documents.values():
        validate(xml, directory)
    forget_snapshots(vm)
    left = dict(documents)
    while left:
        for name in [n for n in left if tree[n] is None or tree[n] not in left]:
            take_in(vm, left.pop(name))
    assert vm.tree() == tree and everything(vm) == before
    assert vm.contents() == contents
    vm.client.call(vm.vm, "VM", "Refresh")
    for name in ("base", "s1", "s2"):
        vm.preview(name)
        assert vm.contents() == [vm.states[name][disk] for disk in vm.disks]
        vm.undo()
    vm.client.finish(vm.of_snapshot("s1", "Delete"))
    assert vm.contents() == contents


def test_libvirt_takes_the_documents(vm, directory):
    """With the VM's configuration as libvirt's domain, virsh redefines the whole tree, and prints it likewise."""
    disks = dict(zip(("vda", "vdb"), vm.actives()))
    vm.client.call(vm.vm, "VM", "SetConfig", "ays", domain(vm, disks).encode(), "application/xml")
    vm.history("base", "s1", "s2")
    orders = [f"define {directory}/domain.xml"]
    with open(f"{directory}/domain.xml", "w") as f:
        f.write(domain(vm, disks))
    for name in ("base", "s1", "s2"):
        xml = document(vm, name)
        validate(xml, directory)
        with open(f"{directory}/{name}.xml", "w") as f:
            f.write(xml)
        assert "name=\"vda\"" in xml and "name=\"vdb\"" in xml
        orders.append(f"snapshot-create web --redefine --validate {directory}/{name}.xml")
    orders += ["snapshot-list web --tree", "snapshot-dumpxml web s1"]
    result = subprocess.run(["virsh", "-c", "test:///default", "; ".join(orders)], capture_output=True, text=True, timeout=60,
                            env={**os.environ, "LC_ALL": "C"})
    assert result.returncode == 0, result.stderr
    assert re.search(r"base\n.*s1\n.*s2", result.stdout, re.S), result.stdout
    # What libvirt prints of it is taken back, as another tool's document.
    printed = result.stdout[result.stdout.index("<domainsnapshot>"):]
    before = everything(vm)["s1"]
    forget_snapshots(vm)
    for name in ("base",):
        with open(f"{directory}/{name}.xml") as f:
            take_in(vm, f.read())
    take_in(vm, printed)
    after = everything(vm)["s1"]
    assert sorted(after["Disks"]) == sorted(before["Disks"])
    for key in ("Name", "Description", "Parent", "Consistency", "Status"):
        assert after[key] == before[key], key


# --- of other tools ---

def foreign(vm, name, parent="", disks="", state="shutoff", time="<creationTime>1700000000</creationTime>", memory="", more=""):
    parent = f"<parent><name>{parent}</name></parent>" if parent else ""
    return (f"<domainsnapshot><name>{name}</name><state>{state}</state>{time}{parent}{memory}<disks>{disks}</disks>"
            f"<domain><uuid>{vm.get('Id')}</uuid></domain>{more}</domainsnapshot>")


def covered(target, path):
    return f"<disk name='{target}' snapshot='external' type='file'><driver type='qcow2'/><source file='{path}'/></disk>"


def overlay_chain(vm):
    """Two layers over each disk, that nobody has a snapshot of."""
    vm.write()
    for disk in vm.disks:
        for _ in range(2):
            vm.client.finish(vm.client.call(disk, "Disk", "CreateOverlay", "a{sv}", {}))
    return [images.chain(path) for path in vm.actives()]


def test_of_another_tool(vm, directory):
    chains = overlay_chain(vm)
    first = foreign(vm, "first", disks="".join(covered(p, c[1]) for p, c in zip((c[-1] for c in chains), chains)))
    second = foreign(vm, "second", parent="first", state="running",
                     disks=covered(chains[0][-1], chains[0][0]) + f"<disk name='{chains[1][-1]}' snapshot='no'/>")
    for xml in (first, second):
        validate(xml, directory)
    error, text = vm.refused(lambda: take_in(vm, second))
    assert error == "NotFound" and "first" in text
    take_in(vm, first)
    take_in(vm, second, current=True)
    shown = vm.snapshots()
    assert vm.tree() == {"first": None, "second": "first"} and vm.current() == "second"
    assert (shown["first"]["Consistency"], shown["second"]["Consistency"]) == ("offline", "crash")
    assert shown["second"]["Status"] == "partial" and shown["first"]["CreatedUsec"] == 1700000000 * 10**6
    paths = {vm.client.get(v, "Volume", "Path") for _, v in shown["first"]["Disks"]}
    assert paths == {c[2] for c in chains}


def test_what_cannot_be_taken_says_why(vm, directory):
    chain = overlay_chain(vm)[0]
    base, disk = chain[-1], covered(chain[-1], chain[0])
    cases = {
        "InvalidArgument no <name>": foreign(vm, "", disks=disk),
        "InvalidArgument creationTime": foreign(vm, "x", disks=disk, time=""),
        "InvalidArgument no disk": foreign(vm, "x"),
        "InvalidArgument domain": re.sub("<uuid>[0-9a-f]{8}", "<uuid>00000000", foreign(vm, "x", disks=disk)),
        "InvalidArgument twice": foreign(vm, "x", disks=disk + disk),
        "Unsupported memory": foreign(vm, "x", disks=disk, memory="<memory snapshot='internal'/>"),
        "Unsupported inside": foreign(vm, "x", disks=f"<disk name='{base}' snapshot='internal'/>"),
        "Unsupported no file": foreign(vm, "x", disks="<disk name='vda' snapshot='external' type='network'>"
                                       "<source protocol='rbd' name='a/b'><host name='h' port='1'/></source></disk>"),
        "NotFound no volume": foreign(vm, "x", disks=covered(base, "/no/such/file")),
        "BrokenChain covers no": foreign(vm, "x", disks=covered(base, base)),
    }
    for expected, xml in cases.items():
        name, words = expected.split(" ", 1)
        if name != "InvalidArgument" or words == "creationTime":
            validate(xml, directory)
        error, text = vm.refused(lambda: take_in(vm, xml))
        assert error == name and words in text, (expected, error, text)
    take_in(vm, foreign(vm, "x", disks=disk))
    error, text = vm.refused(lambda: take_in(vm, foreign(vm, "y", disks=disk)))
    assert error == "AlreadyExists" and "'x'" in text
    error, text = vm.refused(lambda: take_in(vm, foreign(vm, "below", parent="x", disks=covered(base, chain[1]))))
    assert error == "BrokenChain" and "parent" in text
    assert set(vm.snapshots()) == {"x"}


def test_no_file_is_read_and_nothing_fetched(vm, directory):
    with open(f"{directory}/secret", "w") as f:
        f.write("secret")
    xml = (f"<!DOCTYPE d [<!ENTITY e SYSTEM 'file://{directory}/secret'>]>"
           "<domainsnapshot><name>&e;</name></domainsnapshot>")
    error, text = vm.refused(lambda: take_in(vm, xml))
    assert error == "InvalidArgument" and "document type" in text
