# SPDX-License-Identifier: MIT
"""Previews of snapshots: shown, written to, undone, committed; what goes then, and what stays."""
import json
import os
import signal
import sqlite3

import pytest

from harness import images
from harness.chains import make_chain, volume_at
from harness.client import Client, Variant, variants
from harness.down_vm import MIB, SIZE, DownVm
from harness.qemu import Qemu


@pytest.fixture
def make(client, directory, daemon):
    """make(...) -> DownVm; in the end its files and records agree."""
    made = []

    def make(*arguments, **options):
        made.append(DownVm(client, directory, *arguments, **options))
        return made[-1]
    yield make
    for vm in made:
        if daemon.process.poll() is None:
            vm.check()


def shown(vm, name, disks=None):
    return [vm.states[name][disk] for disk in disks or vm.disks]


# --- a preview and its undoing ---

@pytest.mark.parametrize("count", [1, 2, 3])
def test_shown_and_undone(make, client, count):
    vm = make(count).history("s1", "s2")
    formers, contents = vm.actives(), vm.contents()
    before = {path: vm.bytes_of(path) for path in vm.files()}
    assert vm.preview("s1") == {}
    assert vm.contents() == shown(vm, "s1") and vm.get("PreviewOf") == vm.snapshot("s1")
    assert {name: p["Status"] for name, p in vm.snapshots().items()} == {"s1": "previewed", "s2": "ok"}
    assert vm.current() == "s2", "not before it is committed"
    for disk, former in zip(vm.disks, formers):
        shows = client.get_all(disk, "Disk")
        assert shows["State"] == "preview" and client.get(shows["Former"], "Volume", "Path") == former
        s1 = dict(vm.snapshots()["s1"]["Disks"])[disk]
        assert images.chain(shows["ActivePath"])[1] == client.get(s1, "Volume", "Path")
    vm.check()
    vm.write()
    assert vm.contents() != shown(vm, "s1")
    assert vm.undo() == {}
    assert vm.actives() == formers and vm.contents() == contents
    assert {path: vm.bytes_of(path) for path in vm.files()} == before, "not exactly what was there"
    assert vm.get("PreviewOf") == "/" and vm.tree() == {"s1": None, "s2": "s1"} and vm.current() == "s2"
    assert {p["Status"] for p in vm.snapshots().values()} == {"ok"}
    assert {client.get(disk, "Disk", "State") for disk in vm.disks} == {"ok"}


def test_the_newest_snapshot(make):
    """What was written since it goes."""
    vm = make(2).history("s1")
    vm.preview("s1")
    vm.undo()
    vm.preview("s1")
    assert vm.commit() == {}
    assert vm.contents() == shown(vm, "s1") and vm.tree() == {"s1": None} and vm.current() == "s1"
    assert len(vm.files()) == 4


def test_it_outlives_the_daemon(make, client, daemon, bus):
    vm = make(2).history("s1", "s2")
    contents = vm.contents()
    vm.preview("s1")
    vm.write()
    written = vm.contents()
    before = [client.of_kind(kind) for kind in ("vm", "disk", "snapshot")]
    client.close()
    daemon.stop()
    daemon.start()
    vm.client = Client(bus.address)
    assert [vm.client.of_kind(kind) for kind in ("vm", "disk", "snapshot")] == before and vm.contents() == written
    with open(f"{vm.pool_path}/.volchain/{vm.get('Id')}.json") as f:
        assert json.load(f)["vm"]["preview"]["snapshot"] == vm.snapshots()["s1"]["Id"]
    vm.undo()
    assert vm.contents() == contents


# --- commit ---

def test_commit(make, client):
    vm = make(2).history("s1", "s2", "s3")
    vm.preview("s1")
    vm.write()
    contents = vm.contents()
    result = vm.commit()
    assert result == {"removed": ["s2", "s3"]}
    assert vm.tree() == {"s1": None} and vm.current() == "s1" and vm.get("PreviewOf") == "/"
    assert vm.contents() == contents and len(vm.files()) == 4
    assert {client.get(disk, "Disk", "State") for disk in vm.disks} == {"ok"}
    vm.write()
    vm.take("next")
    assert vm.tree() == {"s1": None, "next": "s1"}


def test_commit_and_keep(make, client):
    vm = make(2).history("s1", "s2")
    files, contents = vm.files(), vm.contents()
    vm.preview("s1")
    vm.write()
    result = vm.commit(keep_branch=True)
    kept = "before preview of 's1'"
    assert result == {"snapshot": vm.snapshot(kept)}
    assert vm.tree() == {"s1": None, "s2": "s1", kept: "s2"} and vm.current() == "s1"
    properties = vm.snapshots()[kept]
    assert (properties["Status"], properties["Consistency"], properties["Origin"]) == ("ok", "offline", "user")
    assert [d for d, _ in properties["Disks"]] == sorted(vm.disks) and files < vm.files()
    # And back: the kept state is a snapshot like any other.
    vm.write()
    vm.take("s3")
    vm.write()
    vm.preview(kept)
    assert vm.contents() == contents
    assert vm.commit()["removed"] == ["s3"]
    assert vm.tree() == {"s1": None, "s2": "s1", kept: "s2"} and vm.current() == kept


def test_keep_what_holds_nothing(make):
    """Nothing was written since the newest snapshot: there is nothing to be kept."""
    vm = make(2)
    vm.write()
    vm.take("s1")
    vm.write()
    vm.take("s2")
    files = vm.files()
    leaves = set(vm.actives())
    vm.preview("s1")
    assert vm.commit(keep_branch=True) == {}
    assert vm.tree() == {"s1": None, "s2": "s1"} and vm.files() & files == files - leaves


def test_keep_what_one_disk_holds(make):
    """One disk was written to, the other not: together they are a state."""
    vm = make(2)
    vm.write()
    vm.take("s1")
    vm.write(vm.disks[0])
    contents = vm.contents()
    vm.preview("s1")
    vm.commit(keep_branch=True)
    assert len(vm.snapshots()["before preview of 's1'"]["Disks"]) == 2
    vm.preview("before preview of 's1'")
    assert vm.contents() == contents


def test_names_of_what_is_kept(make):
    vm = make(1).history("s1")
    for expected in ("before preview of 's1'", "before preview of 's1'-2", "before revert to 's1'",
                     "before revert to 's1'-2"):
        if "preview" in expected:
            vm.preview("s1")
            result = vm.commit(keep_branch=True)
        else:
            result = vm.revert("s1", keep_branch=True)
        assert result["snapshot"] == vm.snapshot(expected)
        vm.write()
    assert set(vm.tree().values()) == {None, "s1"}
    name = "n" * 128
    vm.take(name)
    vm.write()
    vm.revert(name, keep_branch=True)
    (kept,) = [n for n in vm.tree() if n.startswith("before revert to 'nn")]
    assert len(kept) <= 128


def test_other_branches_stay(make):
    """s2 has a child on another branch: it stays, and all above it."""
    vm = make(2).history("s1", "s2", "s3")
    vm.preview("s2")
    vm.commit(keep_branch=True)
    vm.write()
    vm.take("s4")
    vm.write()
    contents = {name: shown(vm, name) for name in ("s1", "s2", "s3", "s4")}
    kept = "before preview of 's2'"
    assert vm.tree() == {"s1": None, "s2": "s1", "s3": "s2", kept: "s3", "s4": "s2"}
    vm.preview("s1")
    assert vm.commit() == {"removed": ["s4"]}
    assert vm.tree() == {"s1": None, "s2": "s1", "s3": "s2", kept: "s3"} and vm.current() == "s1"
    vm.write()
    vm.preview("s3")
    assert vm.contents() == contents["s3"]
    vm.commit()
    assert vm.tree() == {"s1": None, "s2": "s1", "s3": "s2", kept: "s3"} and vm.current() == "s3"


def test_revert(make):
    vm = make(3).history("s1", "s2")
    assert vm.revert("s1") == {"removed": ["s2"]}
    assert vm.contents() == shown(vm, "s1") and vm.tree() == {"s1": None} and vm.current() == "s1"
    assert vm.get("PreviewOf") == "/" and len(vm.files()) == 6
    vm.write()
    vm.take("s3")
    vm.write()
    contents = vm.contents()
    result = vm.revert("s1", keep_branch=True)
    assert result == {"snapshot": vm.snapshot("before revert to 's1'")}
    assert vm.contents() == shown(vm, "s1")
    vm.revert("before revert to 's1'")
    assert vm.contents() == contents


# --- several snapshots, some disks ---

def test_custom_preview(make, client):
    """Each disk its own snapshot: the deepest leads where they are on one path."""
    vm = make(3).history("s1", "s2", "s3")
    a, b, c = vm.disks
    vm.preview({a: "s1", b: "s2", c: "s3"})
    assert vm.contents() == [vm.states["s1"][a], vm.states["s2"][b], vm.states["s3"][c]]
    assert vm.get("PreviewOf") == vm.snapshot("s3")
    assert {p["Status"] for p in vm.snapshots().values()} == {"previewed"}
    vm.undo()
    vm.preview({a: "s1", b: "s2", c: "s2"})
    assert vm.get("PreviewOf") == vm.snapshot("s2") and vm.snapshots()["s3"]["Status"] == "ok"
    vm.write()
    contents = vm.contents()
    assert vm.commit() == {"removed": ["s3"]}
    assert vm.contents() == contents and vm.tree() == {"s1": None, "s2": "s1"} and vm.current() == "s2"
    vm.take("next")
    assert vm.tree()["next"] == "s2"
    # Nothing is lost by going on: each disk has its own chain.
    vm.preview("s2")
    assert vm.contents() == shown(vm, "s2")


def test_custom_preview_over_branches(make):
    vm = make(2).history("s1", "s2")
    vm.revert("s1", keep_branch=True)
    vm.write()
    vm.take("s3")
    a, b = vm.disks
    vm.preview({a: "s2", b: "s3"})
    assert vm.get("PreviewOf") == vm.snapshot("s3"), "the youngest"
    vm.undo()
    vm.preview({a: "s2", b: "s3"}, config_from=Variant("o", vm.snapshot("s2")))
    assert vm.get("PreviewOf") == vm.snapshot("s2"), "the one with the configuration"
    vm.commit()
    assert {"s1", "s2", "s3"} <= set(vm.tree()) and vm.current() == "s2"
    assert vm.contents() == [vm.states["s2"][a], vm.states["s3"][b]]


def test_disks_that_stay(make, client):
    """What a disk stands on that was not chosen stays."""
    vm = make(2).history("s1", "s2")
    a, b = vm.disks
    leaf = vm.active(a)
    staying = vm.active(b)
    content = images.digest(staying)
    vm.preview({a: "s1"})
    assert client.get(b, "Disk", "State") == "ok" and client.get(b, "Disk", "Former") == "/"
    assert vm.active(b) == staying
    assert vm.commit() == {}
    assert vm.tree() == {"s1": None, "s2": "s1"} and vm.current() == "s1"
    assert vm.contents() == [vm.states["s1"][a], content] and leaf not in vm.files()
    vm.write()
    vm.take("s3")
    assert vm.tree() == {"s1": None, "s2": "s1", "s3": "s1"}
    # Now for all: only s3 goes, for s2 is on another branch.
    assert vm.revert("s1") == {"removed": ["s3"]}
    vm.revert("s2")
    assert vm.contents() == shown(vm, "s2") and vm.tree() == {"s1": None, "s2": "s1"}


def test_keep_of_some_disks(make):
    vm = make(2).history("s1")
    a, b = vm.disks
    contents = vm.contents()
    vm.preview({a: "s1"})
    vm.commit(keep_branch=True)
    assert [d for d, _ in vm.snapshots()["before preview of 's1'"]["Disks"]] == [a]
    vm.preview("before preview of 's1'")
    assert vm.contents() == contents


def test_a_disk_in_no_snapshot_holds_none(make):
    vm = make(1).history("s1", "s2")
    vm.disks.append(vm.add_disk("late", "late"))
    vm.write()
    content = images.digest(vm.active(vm.disks[1]))
    assert vm.revert("s1") == {"removed": ["s2"]}
    assert vm.tree() == {"s1": None} and images.digest(vm.active(vm.disks[1])) == content


def test_a_disk_that_was_detached(make, client):
    vm = make(2).history("s1", "s2")
    a, b = vm.disks
    client.finish(client.call(b, "Disk", "Detach", "a{sv}", {}))
    loose = images.digest(vm.active(b))
    vm.disks = [a]
    assert vm.preview("s1") == {"left-out": [b]}
    vm.undo()
    assert vm.revert("s1") == {"left-out": [b], "removed": ["s2"]}
    assert vm.contents() == shown(vm, "s1") and images.digest(vm.active(b)) == loose
    assert len(images.chain(vm.active(b))) == 3, "what it stands on has to stay"
    client.finish(client.call(a, "Disk", "Detach", "a{sv}", {}))
    error, message = vm.refused(lambda: vm.of_snapshot("s1", "Preview"))
    assert error == "Unsupported" and "s1" in message


def test_a_volume_that_another_disk_stands_on(make, client):
    """An overlay of somebody else's, in the same pool, over a volume of a snapshot that goes."""
    vm = make(1).history("s1", "s2")
    s2 = client.get(vm.snapshots()["s2"]["Disks"][0][1], "Volume", "Path")
    clone = images.create(f"{vm.pool_path}/clone.qcow2", None, backing=os.path.basename(s2))
    job = client.call(vm.pool, "Pool", "ImportDisk", "sa{sv}", "clone.qcow2", {})
    client.finish(job)
    content = images.digest(clone)
    assert vm.revert("s1") == {"removed": ["s2"]}
    assert s2 in vm.files() and images.digest(clone) == content
    vm.check()
    # It is in nobody's way.
    vm.write()
    vm.take("s3")
    vm.write()
    contents = vm.contents()
    client.finish(client.call(vm.snapshot("s3"), "Snapshot", "Delete", "a{sv}", {}))
    assert s2 in vm.files() and images.digest(clone) == content and vm.contents() == contents


def test_a_branch_of_its_own_over_a_snapshot_that_goes(make, client):
    """Its volume stays as long as it has to, and goes when something is merged."""
    vm = make(1).history("s1", "s2")
    disk = vm.disks[0]
    volume = vm.snapshots()["s2"]["Disks"][0][1]
    s2 = client.get(volume, "Volume", "Path")
    branch = client.finish(client.call(disk, "Disk", "CreateOverlay", "a{sv}", {"backing": ("o", volume)}))["volume"]
    path = client.get(branch, "Volume", "Path")
    content = images.digest(path)
    assert vm.revert("s1") == {"removed": ["s2"]}
    assert s2 in vm.files() and images.digest(path) == content
    vm.take("s3")
    client.finish(client.call(vm.snapshot("s3"), "Snapshot", "Delete", "a{sv}", {}))
    (left,) = {s2, path} & vm.files()
    assert images.digest(left) == content and len(images.chain(left)) == 2
    client.finish(client.call(volume_at(client, left)[0], "Volume", "Delete", "a{sv}", {}))


def test_deletions_while_it_is_shown(make, client):
    """Of snapshots, of volumes, by merging: the tree is not changed under a preview."""
    vm = make(2).history("s1", "s2")
    leaf = client.get(vm.disks[0], "Disk", "Active")
    vm.preview({vm.disks[0]: "s1"})
    for call in (lambda: client.call(vm.snapshot("s1"), "Snapshot", "Delete", "a{sv}", {}),
                 lambda: client.call(vm.snapshot("s2"), "Snapshot", "Delete", "a{sv}", {}),
                 lambda: client.call(vm.disks[1], "Disk", "Flatten", "a{sv}", {})):
        error, message = vm.refused(call)
        assert error == "Busy" and "commit or undo" in message, message
    error, message = vm.refused(lambda: client.call(leaf, "Volume", "Delete", "a{sv}", {}))
    assert error in ("Busy", "InUse"), message
    vm.undo()
    client.finish(client.call(vm.snapshot("s1"), "Snapshot", "Delete", "a{sv}", {}))
    vm.preview("s2")
    vm.undo()


def test_layers_that_no_snapshot_names(make, client):
    """Overlays without a snapshot are parts of the branch, and go with it."""
    vm = make(1).history("s1")
    disk = vm.disks[0]
    for _ in range(2):
        client.finish(client.call(disk, "Disk", "CreateOverlay", "a{sv}", {}))
        vm.write()
    assert len(images.chain(vm.active(disk))) == 4
    contents = vm.contents()
    vm.preview("s1")
    vm.commit(keep_branch=True)
    vm.revert("before preview of 's1'")
    assert vm.contents() == contents
    vm.revert("s1")
    assert len(vm.files()) == 2 and vm.tree() == {"s1": None}


# --- configurations ---

def test_configuration(make, client):
    vm = make(1)
    vm.history("s1")
    client.call(vm.vm, "VM", "SetConfig", "ays", b"later", "text/plain")
    vm.take("s2")
    vm.preview("s1")
    assert vm.config() == b"<now/>" and vm.get("ConfigType") == "application/xml"
    vm.undo()
    assert vm.config() == b"later" and vm.get("ConfigType") == "text/plain"
    vm.preview("s1", config=False)
    assert vm.config() == b"later"
    vm.undo()
    vm.preview({vm.disks[0]: "s2"}, config_from=Variant("o", vm.snapshot("s1")))
    assert vm.config() == b"<now/>"
    vm.commit(keep_branch=True)
    assert vm.config() == b"<now/>"
    assert vm.revert("s2", config=False, keep_branch=True) == {}
    assert vm.config() == b"<now/>"
    vm.write()
    client.call(vm.vm, "VM", "SetConfig", "ays", b"kept", "text/plain")
    vm.preview("s1")
    kept = vm.commit(keep_branch=True)["snapshot"]
    assert bytes(client.call(kept, "Snapshot", "GetConfig")[0]) == b"kept"
    assert vm.config() == b"<now/>"


# --- with a running VM ---

def test_run_while_it_is_shown(make, client):
    """The VM is started on the preview, written to, and the preview committed while it runs."""
    vm = make(2).history("s1", "s2")
    formers = vm.actives()
    vm.preview("s1")
    qemu = vm.run(running=True)
    for number, disk in enumerate(vm.disks):
        qemu.write(vm.device_of(disk), 0xa0 + number, 8 * MIB, MIB)
        assert qemu.active_file(vm.device_of(disk)) == vm.active(disk)
        assert client.get(disk, "Disk", "State") == "preview"
    assert not client.get(vm.vm, "VM", "Unmanaged")
    error, message = vm.refused(lambda: client.call(vm.vm, "VM", "UndoPreview", "a{sv}", {}))
    assert error == "Running" and "web" in message
    nodes = sorted(qemu.nodes())
    assert vm.commit() == {"removed": ["s2"]}
    assert sorted(qemu.nodes()) == nodes and vm.tree() == {"s1": None} and vm.current() == "s1"
    assert not vm.files() & set(formers)
    for disk in vm.disks:
        qemu.write(vm.device_of(disk), 0xb0, 9 * MIB, MIB)
    client.finish(client.create_snapshot(vm.vm, "live"))
    assert vm.tree() == {"s1": None, "live": "s1"}
    vm.end(qemu)
    contents = vm.contents()
    vm.preview("live")
    qemu = vm.run(running=True)
    qemu.write(vm.device_of(vm.disks[0]), 0xc0, 10 * MIB, MIB)
    vm.end(qemu)
    vm.undo()
    assert vm.contents() == contents


def test_keep_while_it_runs(make, client):
    vm = make(1).history("s1")
    contents = vm.contents()
    vm.preview("s1")
    qemu = vm.run()
    vm.commit(keep_branch=True)
    vm.end(qemu)
    vm.preview("before preview of 's1'")
    assert vm.contents() == contents
    vm.undo()


def test_a_running_vm_is_not_previewed(make, client):
    vm = make(1).history("s1")
    qemu = vm.run()
    for call in (lambda: vm.of_snapshot("s1", "Preview"), lambda: vm.of_snapshot("s1", "Revert"),
                 lambda: vm.preview_job({vm.disks[0]: "s1"})):
        error, message = vm.refused(call)
        assert error == "Running" and "web" in message
    qemu.process.send_signal(signal.SIGSTOP)
    try:
        client.call(vm.vm, "VM", "Update", "a{sv}", variants({"qmp_socket": ""}))
        client.call(vm.vm, "VM", "Update", "a{sv}", variants({"qmp_socket": vm.qmp}))
        error, message = vm.refused(lambda: vm.of_snapshot("s1", "Preview"))
        assert error in ("Unreachable", "Timeout"), message
    finally:
        qemu.process.send_signal(signal.SIGCONT)
    vm.end(qemu)


def test_another_process_has_an_image(make, client, directory):
    vm = make(2).history("s1", "s2")
    stranger = Qemu(f"{directory}/stranger", [vm.active(vm.disks[1])]).start()
    contents, files = vm.contents(), vm.files()
    try:
        for method in "Preview", "Revert":
            error, message = vm.refused(lambda: vm.of_snapshot("s1", method))
            assert error == "InUse" and vm.active(vm.disks[1]) in message, message
            assert str(stranger.process.pid) in message
            assert vm.files() == files and vm.get("PreviewOf") == "/"
    finally:
        stranger.kill()
    assert vm.contents() == contents
    vm.preview("s1")
    leaf = client.get(client.get(vm.disks[1], "Disk", "Former"), "Volume", "Path")
    for path, calls in {leaf: ["CommitPreview"], vm.active(vm.disks[0]): ["UndoPreview"]}.items():
        stranger = Qemu(f"{directory}/stranger", [path]).start()
        try:
            for method in calls:
                error, message = vm.refused(lambda: client.call(vm.vm, "VM", method, "a{sv}", {}))
                assert error == "InUse" and path in message and "shown as before" in message, message
        finally:
            stranger.kill()
    vm.check()
    vm.undo()
    assert vm.contents() == contents


def test_an_overlay_of_somebody_else_over_the_preview(make, client):
    """It would lose what it stands on. Neither the preview's volumes nor the former ones can be stood on by right."""
    vm = make(1).history("s1")
    vm.preview("s1")
    former = client.get(client.get(vm.disks[0], "Disk", "Former"), "Volume", "Path")
    above = images.create(f"{vm.pool_path}/above.qcow2", SIZE)
    client.finish(client.call(vm.pool, "Pool", "ImportDisk", "sa{sv}", "above.qcow2", {}))
    for path in vm.active(vm.disks[0]), former:
        wrong = images.create(f"{vm.pool_path}/wrong.qcow2", None, backing=os.path.basename(path))
        error, message = client.failure(client.call(vm.pool, "Pool", "ImportDisk", "sa{sv}", "wrong.qcow2", {}))
        assert error == "InUse" and "disk0" in message, message
        os.unlink(wrong)
    images.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", os.path.basename(vm.active(vm.disks[0])), above)
    client.finish(client.call(vm.pool, "Pool", "Refresh"))
    error, message = vm.refused(lambda: client.call(vm.vm, "VM", "UndoPreview", "a{sv}", {}))
    assert error == "InUse" and "above.qcow2" in message, message
    assert vm.get("PreviewOf") == vm.snapshot("s1")
    vm.commit()


# --- bitmaps ---

def test_bitmaps_go_on(make, client):
    vm = make(2, bitmaps=("check",)).history("s1", "s2")
    vm.preview("s1")
    for path in vm.actives():
        found = images.bitmaps(path)
        assert list(found) == ["check"] and found["check"]["flags"] == ["auto"]
    vm.check()
    vm.undo()
    for path in vm.actives():
        assert images.bitmaps(path)["check"]["flags"] == ["auto"]
    vm.revert("s1")
    for path in vm.actives():
        assert list(images.bitmaps(path)) == ["check"]


# --- what is lost ---

def test_a_lost_leaf(make, client):
    """It can be left, and only that."""
    vm = make(2).history("s1")
    leaf = vm.active(vm.disks[0])
    os.unlink(leaf)
    vm.preview("s1")
    assert vm.contents() == shown(vm, "s1")
    error, message = vm.refused(lambda: client.call(vm.vm, "VM", "UndoPreview", "a{sv}", {}))
    assert error == "BrokenChain" and leaf in message
    error, message = vm.refused(lambda: client.call(vm.vm, "VM", "CommitPreview", "a{sv}",
                                                    variants({"keep_branch": True})))
    assert error == "BrokenChain" and leaf in message
    vm.commit()
    assert vm.contents() == shown(vm, "s1")


def test_a_lost_preview(make, client):
    """The way back stays open."""
    vm = make(2).history("s1")
    contents = vm.contents()
    vm.preview("s1")
    os.unlink(vm.active(vm.disks[0]))
    error, message = vm.refused(lambda: client.call(vm.vm, "VM", "CommitPreview", "a{sv}", {}))
    assert error == "BrokenChain"
    vm.undo()
    assert vm.contents() == contents


def test_a_snapshot_that_is_not_whole(make, client, daemon, bus):
    vm = make(2).history("s1", "s2")
    base = client.get(dict(vm.snapshots()["s1"]["Disks"])[vm.disks[0]], "Volume", "Path")
    os.rename(base, base + ".away")
    for method in "Preview", "Revert":
        error, message = vm.refused(lambda: vm.of_snapshot("s1", method))
        assert error == "BrokenChain" and base in message, message
    os.rename(base + ".away", base)
    s1, s2 = (vm.snapshots()[name]["Id"] for name in ("s1", "s2"))
    volume = client.get(dict(vm.snapshots()["s2"]["Disks"])[vm.disks[1]], "Volume", "Id")
    client.close()
    daemon.stop()
    with sqlite3.connect(f"{daemon.directory}/state/volchain.db") as database:
        database.execute("UPDATE snapshot SET status='failed' WHERE id=?", (s1,))
        database.execute("UPDATE volume SET mark='illegal' WHERE id=?", (volume,))
    database.close()
    daemon.start()
    vm.client = Client(bus.address)
    vm.right_states.add("illegal")
    error, message = vm.refused(lambda: vm.of_snapshot("s1", "Preview"))
    assert error == "BrokenChain" and "deleted" in message and s1 in message
    error, message = vm.refused(lambda: vm.of_snapshot("s2", "Preview"))
    assert error == "BrokenChain" and volume in message and s2 in message
    vm.preview({vm.disks[0]: "s2"})
    vm.undo()
    assert vm.contents() != shown(vm, "s2")


# --- refusals ---

def test_busy_while_it_is_shown(make, client):
    vm = make(1).history("s1")
    loose = client.finish(client.call(vm.pool, "Pool", "CreateDisk", "sta{sv}", "loose", SIZE, {}))["disk"]
    vm.preview("s1")
    disk = vm.disks[0]
    for call in (lambda: client.create_snapshot(vm.vm, "s2"),
                 lambda: client.call(disk, "Disk", "CreateOverlay", "a{sv}", {}),
                 lambda: client.call(disk, "Disk", "Detach", "a{sv}", {}),
                 lambda: client.call(loose, "Disk", "Attach", "osa{sv}", vm.vm, "loose", {}),
                 lambda: vm.of_snapshot("s1", "Preview"), lambda: vm.of_snapshot("s1", "Revert"),
                 lambda: vm.preview_job({disk: "s1"}),
                 lambda: client.call(vm.vm, "VM", "Unregister", "a{sv}", variants({"forget_snapshots": True}))):
        error, message = vm.refused(call)
        assert error == "Busy" and "commit or undo" in message and "'s1'" in message and "'web'" in message, message
    vm.check()
    vm.undo()
    client.finish(client.call(loose, "Disk", "Attach", "osa{sv}", vm.vm, "loose", {}))
    client.finish(client.create_snapshot(vm.vm, "s2"))
    client.finish(client.call(disk, "Disk", "CreateOverlay", "a{sv}", {}))


def test_what_is_asked_for_wrongly(make, client):
    vm = make(2).history("s1")
    a, b = vm.disks
    s1 = vm.snapshot("s1")
    for method in "CommitPreview", "UndoPreview":
        error, message = vm.refused(lambda: client.call(vm.vm, "VM", method, "a{sv}", {}))
        assert error == "InvalidArgument" and "no preview" in message
    vm.take("only", disks=[a])
    client.call(vm.vm, "VM", "SetConfig", "ays", b"", "")
    vm.take("bare")
    other = client.register_vm("other")
    disk = client.finish(client.call(vm.pool, "Pool", "CreateDisk", "sta{sv}", "other", SIZE, {}))["disk"]
    client.finish(client.call(disk, "Disk", "Attach", "osa{sv}", other, "x", {}))
    strange = client.finish(client.create_snapshot(other, "strange"))["snapshot"]

    def preview(choice, **options):
        return client.call(vm.vm, "VM", "Preview", "a{oo}a{sv}", choice, variants(options))
    for choice, part in [({}, "no disk"), ({disk: s1}, "not a disk of"), ({a: strange}, "strange"),
                         ({a: s1, b: vm.snapshot("only")}, "only"), ({s1: a}, "disks")]:
        error, message = vm.refused(lambda: preview(choice))
        assert error == "InvalidArgument" and part in message, message
    for snapshot, part in (strange, "strange"), (vm.snapshot("bare"), "no configuration"):
        error, message = vm.refused(lambda: preview({a: s1}, config_from=Variant("o", snapshot)))
        assert error == "InvalidArgument" and part in message, message
    assert client.get(vm.vm, "VM", "PreviewOf") == "/"


# --- cancelling ---

@pytest.mark.parametrize("point", ["preview.lock", "preview.bitmaps", "revert.files", "revert.bitmaps"])
def test_cancel(make, client, daemon, point):
    vm = make(2, bitmaps=("check",)).history("s1", "s2")
    contents, files, tree = vm.contents(), vm.files(), vm.tree()
    method = point.split(".")[0].capitalize()
    daemon.at(point, "stop")
    job = vm.of_snapshot("s1", method)
    daemon.wait_stopped()
    cancel = client.send(job, "Job", "Cancel")
    daemon.resume()
    client.answer(cancel)
    state, error, message, _ = client.wait(job)
    assert (state, error) == ("cancelled", "Cancelled") and "was on before" in message
    assert (vm.contents(), vm.files(), vm.tree()) == (contents, files, tree)
    vm.check()


def test_cancel_of_a_commit(make, client, daemon):
    vm = make(2).history("s1", "s2")
    vm.preview("s1")
    files, tree = vm.files(), vm.tree()
    daemon.at("commit-preview.lock", "stop")
    job = client.call(vm.vm, "VM", "CommitPreview", "a{sv}", {})
    daemon.wait_stopped()
    cancel = client.send(job, "Job", "Cancel")
    daemon.resume()
    client.answer(cancel)
    state, error, message, _ = client.wait(job)
    assert (state, error) == ("cancelled", "Cancelled") and "shown as before" in message
    assert (vm.files(), vm.tree()) == (files, tree) and vm.get("PreviewOf") == vm.snapshot("s1")
    daemon.at("commit-preview.unlink", "stop")
    job = client.call(vm.vm, "VM", "CommitPreview", "a{sv}", {})
    daemon.wait_stopped()
    cancel = client.send(job, "Job", "Cancel")
    daemon.resume()
    error, message = vm.refused(lambda: client.answer(cancel))
    assert error == "Unsupported", message
    client.finish(job)


def test_a_file_that_cannot_be_removed(make, client, daemon, directory):
    """What is done is done: the result says what is left."""
    vm = make(2).history("s1")
    leaves = vm.actives()
    vm.preview("s1")
    daemon.at("commit-preview.unlink", "stop")
    job = client.call(vm.vm, "VM", "CommitPreview", "a{sv}", {})
    daemon.wait_stopped()
    stranger = Qemu(f"{directory}/stranger", [leaves[0]]).start()
    daemon.resume()
    result = client.finish(job)
    stranger.kill()
    (left,) = result["not-removed"]
    assert leaves[0] in left and str(stranger.process.pid) in left
    assert os.path.exists(leaves[0]) and not os.path.exists(leaves[1]) and vm.get("PreviewOf") == "/"
    assert client.finish(client.call(vm.pool, "Pool", "Refresh"))["unknown"] == [os.path.basename(leaves[0])]
    os.unlink(leaves[0])
