# SPDX-License-Identifier: MIT
"""Disk.Check: what is wrong with a disk is found, and named with its way out; nothing is changed unless that is asked for;
and what is mended then is only what nobody could have used."""
import os
import subprocess

import pytest

from harness import damage, images
from harness.chains import volume_at
from harness.client import Client, DBusError, Variant, variants
from harness.damage import digests, findings, kinds, only
from harness.disks import attach, overlay, resize
from harness.down_vm import DownVm
from harness.picture import picture
from harness.qemu import Qemu
from harness.tree import Tree

MIB = 1 << 20


@pytest.fixture
def tree(client, directory, qemus):
    def make(*args, **options):
        return Tree(client, directory, qemus, *args, **options)
    return make


class Restart:
    """The daemon and its client, ended and started again. Its client is .client"""

    def __init__(self, daemon, bus, client):
        self.daemon, self.bus, self.client = daemon, bus, client

    def __call__(self, *statements):
        """With these statements of SQL in between."""
        self.daemon.stop()
        with damage.state(self.daemon) as database:
            for statement in statements:
                database.execute(statement)
        self.daemon.start()
        if self.client.connection.sock.fileno() >= 0:
            self.client.close()
        self.client = Client(self.bus.address)
        return self.client


@pytest.fixture
def restart(daemon, bus, client):
    restart = Restart(daemon, bus, client)
    yield restart
    restart.client.close()


def identifier(path):
    """The id in an object's path."""
    return path.rsplit("/", 1)[1].replace("_", "-")


# --- nothing is wrong ---
def test_a_healthy_disk(client, tree):
    tree = tree()
    tree.snapshot("s1")
    tree.snapshot("s2")
    (found,) = findings(client, tree.disks[0])
    assert (found["kind"], found["severity"], found["path"]) == ("unchecked", "info", tree.path())
    assert found["volume"] == client.get(tree.disks[0], "Disk", "Active") and not found["repairable"]
    tree.down()
    job = client.call(tree.disks[0], "Disk", "Check", "a{sv}", {})
    assert client.finish(job) == {"findings": []}
    done, total = client.get(job, "Job", "DoneBytes"), client.get(job, "Job", "TotalBytes")
    assert done == total > 3 * MIB
    assert findings(client, tree.disks[0], repair=True) == []


def test_a_preview_is_healthy(client, directory):
    vm = DownVm(client, directory, 2).history("s1", "s2")
    vm.preview("s1")
    for disk in vm.disks:
        assert findings(client, disk) == []
    vm.undo()
    assert findings(client, vm.disks[0]) == []


def test_a_floating_raw_disk_is_healthy(client, imported):
    disk, _ = imported("plain", base_format="raw")
    assert findings(client, disk) == []


# --- nothing is changed ---
def test_the_default_changes_nothing(client, daemon, directory, tree, pool_directory):
    """With all kinds of damage, while the VM runs and when it is down: files, records and QEMU are what they were."""
    tree = tree()
    tree.down()
    damage.lose_bitmap(directory, tree.path(), "lost")
    tree.up()
    tree.snapshot("s1")
    disk = tree.disks[0]
    overlay(client, disk, backing=Variant("o", tree.volume_of("s1")))
    inner = client.get(tree.volume_of("s1"), "Volume", "Path")
    spare = overlay(client, disk, backing=Variant("o", tree.volume_of("s1")))
    damage.leak(client.get(spare, "Volume", "Path"))
    orphan = orphan_on(inner, client.get(disk, "Disk", "Name"))
    for down in (False, True):
        if down:
            tree.down()
            client.finish(client.call(client.get(disk, "Disk", "Pool"), "Pool", "Refresh"))
        qemu = None if down else tree.qemu
        before = picture(client, qemu), digests(tree.pool), damage.records(daemon, directory)
        found = findings(client, disk)
        assert {"orphan", "leak", "unused", "bitmap"} <= {f["kind"] for f in found} and os.path.exists(orphan)
        assert any(f["repairable"] for f in found) and not any(f["repaired"] for f in found)
        assert (picture(client, qemu), digests(tree.pool), damage.records(daemon, directory)) == before


# --- images inside ---
@pytest.fixture
def chain(imported):
    """(disk, paths): a floating disk of three layers."""
    return imported("root", 3)


def test_leaks_are_freed(client, chain):
    disk, paths = chain
    before = images.digest(paths[-1])
    for path in paths[1:]:
        damage.leak(path)
    found = findings(client, disk)
    assert kinds(found) == ["leak warning+"] * 2
    assert sorted(f["path"] for f in found) == paths[1:] and all("3 clusters" in f["message"] for f in found)
    assert kinds(findings(client, disk, repair=True)) == ["leak warning!"] * 2
    assert findings(client, disk) == [] and images.digest(paths[-1]) == before
    for path in paths:
        images.check(path)


def test_leaks_stay_while_the_image_is_open(client, tree):
    tree = tree()
    tree.snapshot("s1")
    tree.down()
    base, active = tree.paths[0], tree.path()
    for path in (base, active):
        damage.leak(path)
    tree.up()
    found = findings(client, tree.disks[0], repair=True)
    assert kinds(found) == ["leak warning", "unchecked info"]
    assert only(found, "leak")["path"] == base and "when no process has the image open" in only(found, "leak")["message"]
    assert only(found, "unchecked")["path"] == active
    tree.down()
    assert kinds(findings(client, tree.disks[0], repair=True)) == ["leak warning!"] * 2
    tree.check()


def test_damage_is_left_alone(client, chain):
    disk, paths = chain
    damage.leak(paths[1])
    damage.corrupt(paths[2])
    damage.leak(paths[2])
    broken = digests(os.path.dirname(paths[2]))[os.path.basename(paths[2])]
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["corruption error", "leak warning", "leak warning!"]
    assert only(found, "corruption")["path"] == paths[2] and "is damaged in" in only(found, "corruption")["message"]
    (stays,) = [f for f in found if f["kind"] == "leak" and not f["repaired"]]
    assert stays["path"] == paths[2] and "the image is damaged" in stays["message"]
    assert digests(os.path.dirname(paths[2]))[os.path.basename(paths[2])] == broken


def test_features_that_say_that_something_happened(client, chain):
    disk, paths = chain
    damage.set_feature(paths[1], damage.DIRTY)
    damage.set_feature(paths[2], damage.CORRUPT)
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["corruption error", "dirty warning"]
    assert only(found, "dirty")["path"] == paths[1] and only(found, "corruption")["path"] == paths[2]


def test_an_image_that_somebody_else_has(client, chain, directory):
    disk, paths = chain
    damage.leak(paths[2])
    stranger = Qemu(f"{directory}/stranger", [paths[2]]).start()
    try:
        found = findings(client, disk, repair=True)
        assert kinds(found) == ["unchecked warning"]
        assert str(stranger.process.pid) in found[0]["message"] and found[0]["path"] == paths[2]
    finally:
        stranger.kill()
    assert kinds(findings(client, disk, repair=True)) == ["leak warning!"]


def test_no_image_at_all(client, chain):
    disk, paths = chain
    with open(paths[1], "r+b") as f:
        f.write(bytes(4))
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["corruption error"] and found[0]["path"] == paths[1]


# --- bitmaps ---
def test_a_bitmap_that_was_lost_goes(client, imported, directory):
    """QEMU was killed while it had it: nothing can be done with it but that, and it stands in the way of a resize."""
    disk, (path,) = imported("root")
    damage.lose_bitmap(directory, path, "lost")
    images.run("qemu-img", "bitmap", "--add", path, "kept")
    before = images.digest(path)
    assert client.failure(resize(client, disk, 128 * MIB))[0] == "QemuFailed"
    found = findings(client, disk)
    assert kinds(found) == ["bitmap warning+"] and "'lost'" in found[0]["message"]
    assert kinds(findings(client, disk, repair=True)) == ["bitmap warning!"]
    assert set(images.bitmaps(path)) == {"kept"} and images.bitmaps(path)["kept"]["flags"] == ["auto"]
    assert images.digest(path) == before and findings(client, disk) == []
    client.finish(resize(client, disk, 128 * MIB))


def test_a_bitmap_that_was_lost_goes_in_the_running_vm(client, tree, directory):
    tree = tree()
    tree.down()
    damage.lose_bitmap(directory, tree.path(), "lost")
    images.run("qemu-img", "bitmap", "--add", tree.path(), "kept")
    tree.up()
    found = findings(client, tree.disks[0], repair=True)
    assert kinds(found) == ["bitmap warning!", "unchecked info"]
    assert {b["name"] for b in tree.qemu.top_node("dev0")["dirty-bitmaps"]} == {"kept"}
    assert [name for name, _, _ in client.get(client.get(tree.disks[0], "Disk", "Active"), "Volume", "Bitmaps")] == ["kept"]
    tree.down()
    assert set(images.bitmaps(tree.path())) == {"kept"} and findings(client, tree.disks[0]) == []


def test_a_lost_bitmap_stays_where_one_above_would_look_whole(client, imported, directory):
    disk, paths = imported("root", 2)
    damage.lose_bitmap(directory, paths[0], "since")
    images.run("qemu-img", "bitmap", "--add", paths[1], "since")
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["bitmap warning"] and found[0]["path"] == paths[0]
    assert paths[1] in found[0]["message"] and "look whole" in found[0]["message"]
    assert set(images.bitmaps(paths[0])) == set(images.bitmaps(paths[1])) == {"since"}
    images.run("qemu-img", "bitmap", "--remove", paths[1], "since")
    assert kinds(findings(client, disk, repair=True)) == ["bitmap warning!"]


def test_a_recording_with_a_hole(client, imported):
    disk, paths = imported("root", 3)
    for path in (paths[0], paths[2]):
        images.run("qemu-img", "bitmap", "--add", path, "since")
    found = findings(client, disk)
    assert kinds(found) == ["bitmap info"] and paths[1] in found[0]["message"] and "has a hole" in found[0]["message"]


# --- files and headers ---
def test_files_that_are_not_there(client, chain):
    disk, paths = chain
    branch = overlay(client, disk, backing=Variant("o", volume_at(client, paths[1])[0]))
    os.unlink(client.get(branch, "Volume", "Path"))
    os.rename(paths[0], paths[0] + ".away")
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["missing error", "missing warning"], "what the missing ones stand on is not known"
    (needed,) = [f for f in found if f["severity"] == "error"]
    assert needed["path"] == paths[0] and paths[1] in needed["message"] and "stands on it" in needed["message"]
    os.rename(paths[0] + ".away", paths[0])
    assert kinds(findings(client, disk, repair=True)) == ["missing warning!"]
    assert branch not in client.of_kind("volume") and len(client.of_kind("volume")) == 3
    assert findings(client, disk) == []


def test_a_snapshot_that_lost_its_volume(client, directory):
    vm = DownVm(client, directory, 1).history("s1")
    volume = dict(client.get(vm.snapshot("s1"), "Snapshot", "Disks"))[vm.disks[0]]
    os.rename(client.get(volume, "Volume", "Path"), f"{directory}/away")
    (found,) = findings(client, vm.disks[0], repair=True)
    assert (found["kind"], found["severity"], found["volume"]) == ("missing", "error", volume)
    assert "'s1'" in found["message"] and volume in client.of_kind("volume")


def test_a_pool_that_is_away(client, chain, pool_directory):
    """Nothing is forgotten for that."""
    disk, paths = chain
    branch = overlay(client, disk, backing=Variant("o", volume_at(client, paths[1])[0]))
    os.rename(pool_directory, pool_directory + ".away")
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["pool error"] and found[0]["path"] == pool_directory
    # As a directory is where its file system is not mounted.
    os.mkdir(pool_directory)
    found = findings(client, disk, repair=True)
    assert {f["kind"] for f in found} == {"missing"} and not any(f["repairable"] for f in found)
    os.rmdir(pool_directory)
    os.rename(pool_directory + ".away", pool_directory)
    assert kinds(findings(client, disk)) == ["unused info"] and branch in client.of_kind("volume")


def test_a_backing_file_that_nobody_knows(client, chain, directory):
    disk, paths = chain
    stranger = images.create(f"{directory}/stranger.qcow2", "64M")
    images.run("qemu-img", "rebase", "-u", "-b", stranger, "-F", "qcow2", paths[1])
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["foreign warning", "unused info"]
    assert only(found, "foreign")["path"] == paths[1] and stranger in only(found, "foreign")["message"]
    os.unlink(stranger)
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["foreign error", "unused info"] and "not there" in only(found, "foreign")["message"]


def test_headers_that_are_not_right(client, chain):
    disk, paths = chain
    images.run("qemu-img", "rebase", "-u", "-b", "json:{}", "-F", "qcow2", paths[1])
    assert "header error" in kinds(findings(client, disk, repair=True))
    images.run("qemu-img", "rebase", "-u", "-b", os.path.basename(paths[0]), "-F", "raw", paths[1])
    found = only(findings(client, disk), "header")
    assert found["severity"] == "error" and "'raw'" in found["message"] and "recorded as qcow2" in found["message"]
    images.run("qemu-img", "rebase", "-u", "-b", os.path.basename(paths[2]), "-F", "qcow2", paths[1])
    found = [f for f in findings(client, disk) if f["kind"] == "header"]
    assert len(found) == 2 and all("stands on itself" in f["message"] for f in found)
    images.run("qemu-img", "rebase", "-u", "-b", os.path.basename(paths[0]), "-F", "qcow2", paths[1])
    assert findings(client, disk) == []


def test_an_overlay_that_is_smaller(client, chain):
    disk, paths = chain
    images.run("qemu-img", "resize", "-q", "--shrink", paths[2], "32M")
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["size warning"] and str(32 * MIB) in found[0]["message"] and str(64 * MIB) in found[0]["message"]


def test_a_raw_image_with_the_marks_of_another(client, imported):
    disk, (path,) = imported("plain", base_format="raw")
    header = images.create(path + ".qcow2", "1M")
    with open(header, "rb") as source, open(path, "r+b") as target:
        target.write(source.read(4096))
    os.unlink(header)
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["format warning"] and "marks of qcow2" in found[0]["message"]


def test_a_base_of_another_disk(client, pool, imported):
    base, (below, _) = imported("base", 2)
    top = images.create(below.replace("base", "top"), None, backing=os.path.basename(below))
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", os.path.basename(top), {})
    disk = client.finish(job)["disk"]
    damage.leak(below)
    assert findings(client, disk, repair=True) == [], "that is the other disk's"
    os.rename(below, below + ".away")
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["missing error"] and "check that disk" in found[0]["message"]
    os.rename(below + ".away", below)
    assert kinds(findings(client, base, repair=True)) == ["leak warning!"]


# --- files that no record knows ---
def orphan_on(parent, disk, number=1, size="64M", backing_format="qcow2"):
    """An overlay with a name as ours, as a power cut may leave one."""
    name = f"{disk}-00000000-0000-4000-8000-{number:012}.qcow2"
    path = os.path.join(os.path.dirname(parent), name)
    return images.create(path, size, backing=os.path.basename(parent), backing_format=backing_format)


def test_an_empty_overlay_that_no_record_knows_goes(client, chain, pool_directory):
    disk, paths = chain
    orphan = orphan_on(paths[1], "root")
    never_filled = orphan.replace("0001.qcow2", "0002.qcow2")
    open(never_filled, "wb").close()
    before = digests(pool_directory)
    found = findings(client, disk)
    assert kinds(found) == ["orphan warning+"] * 2 and sorted(f["path"] for f in found) == [orphan, never_filled]
    assert digests(pool_directory) == before
    assert kinds(findings(client, disk, repair=True)) == ["orphan warning!"] * 2
    assert images.image_files(pool_directory) == [os.path.basename(path) for path in paths]


@pytest.mark.parametrize("how", ["data", "a bitmap", "another base", "a base", "another disk", "another name", "a link"])
def test_files_that_may_be_somebodys(client, chain, imported, pool_directory, directory, how):
    """Each of them would look like one that nobody needs, but for one thing."""
    disk, paths = chain
    orphan = orphan_on(paths[1], "root")
    expected = ["orphan warning"]
    if how == "data":
        images.write(orphan, 7, 0, 65536)
    elif how == "a bitmap":
        images.run("qemu-img", "bitmap", "--add", orphan, "b")
    elif how == "another base":
        images.run("qemu-img", "rebase", "-u", "-b", images.create(f"{pool_directory}/other.qcow2", "1M"), "-F", "qcow2", orphan)
    elif how == "a base":
        images.create(orphan, "64M")
    elif how == "another disk":
        imported("other")
        os.rename(orphan, orphan.replace("root-", "other-"))
        expected = []
    elif how == "another name":
        os.rename(orphan, f"{pool_directory}/root-copy.qcow2")
        expected = []
    else:
        os.link(orphan, f"{directory}/elsewhere")
    before = digests(pool_directory)
    found = findings(client, disk, repair=True)
    assert kinds(found) == expected, found
    assert digests(pool_directory) == before


@pytest.mark.parametrize("how", ["an image", "a process", "a configuration", "a running job", "an image that cannot be read"])
def test_what_an_empty_overlay_is_needed_for(client, daemon, chain, imported, pool, pool_directory, directory, how):
    disk, paths = chain
    if how == "a running job":
        daemon.at("create-disk.format", "stop")
        job = client.call(pool, "Pool", "CreateDisk", "sta{sv}", "slow", MIB, {})
        daemon.wait_stopped()
    orphan = orphan_on(paths[1], "root")
    until_gone = []
    if how == "an image":
        # Not in the pool of the disk, and by another way to it.
        os.mkdir(f"{directory}/second")
        client.create_pool("second", f"{directory}/second")
        os.symlink(pool_directory, f"{directory}/way")
        above = images.create(f"{directory}/second/above.qcow2", None, backing=f"{directory}/way/{os.path.basename(orphan)}")
        until_gone.append(lambda: os.unlink(above))
        expected = above
    elif how == "a process":
        stranger = Qemu(f"{directory}/stranger", [orphan]).start()
        until_gone.append(stranger.kill)
        expected = str(stranger.process.pid)
    elif how == "a configuration":
        vm = client.register_vm("other", config=f"<source file='{orphan}'/>".encode())
        until_gone.append(lambda: client.call(vm, "VM", "Unregister", "a{sv}", {}))
        expected = "'other'"
    elif how == "a running job":
        check = client.send(disk, "Disk", "Check", "a{sv}", variants({"repair": True}))
        daemon.resume()
        found = damage.unpacked(client.finish(client.answer(check)))
        client.finish(job)
        # The creation may have ended before the look at the files.
        assert kinds(found) == ["orphan warning"] or not os.path.exists(orphan)
        return
    else:
        unreadable = f"{pool_directory}/unreadable.qcow2"
        with open(unreadable, "wb") as f:
            f.write(b"QFI\xfb\0\0\0\3" + bytes(100))
        until_gone.append(lambda: os.unlink(unreadable))
        expected = unreadable
    found = findings(client, disk, repair=True)
    assert [f["repaired"] for f in found] == [False] and expected in found[0]["message"], found
    assert os.path.exists(orphan)
    for end in until_gone:
        end()
    assert kinds(findings(client, disk, repair=True)) == ["orphan warning!"] and not os.path.exists(orphan)


def test_a_pool_that_was_forgotten_and_made_again(client, pool, pool_directory):
    """All images of all its disks are files with our names that no record knows: none of them goes."""
    for name in ("one", "two"):
        made = client.finish(client.call(pool, "Pool", "CreateDisk", "sta{sv}", name, 16 * MIB, {}))
        images.write(client.get(made["volume"], "Volume", "Path"), 5, 0, MIB)
        overlay(client, made["disk"])
    paths = {name: client.get(disk, "Disk", "ActivePath") for disk, name in
             [(path, p["Name"]) for path, p in client.of_kind("disk").items()]}
    for path in paths.values():
        images.write(path, 6, MIB, MIB)
    client.call(pool, "Pool", "Remove")
    again = client.create_pool("again", pool_directory)
    job = client.call(again, "Pool", "ImportDisk", "sa{sv}", os.path.basename(paths["one"]), variants({"name": "one"}))
    disk = client.finish(job)["disk"]
    before = digests(pool_directory)
    found = findings(client, disk, repair=True)
    assert {f["kind"] for f in found} == {"orphan"} and len(found) == 2 and not any(f["repairable"] for f in found)
    assert digests(pool_directory) == before


def give_up(client, daemon, disk, directory):
    """A leaf with data that a revert has left, and whose file could not be removed: (its path, who has it open)"""
    vm = client.register_vm("web")
    client.finish(attach(client, disk, vm, "root"))
    snapshot = client.finish(client.create_snapshot(vm, "s1"))["snapshot"]
    path = client.get(disk, "Disk", "ActivePath")
    images.write(path, 9, 0, MIB)
    daemon.at("revert.unlink", "stop")
    job = client.call(snapshot, "Snapshot", "Revert", "a{sv}", {})
    daemon.wait_stopped()
    stranger = Qemu(f"{directory}/stranger", [path]).start()
    daemon.resume()
    assert "not-removed" in client.finish(job)
    return path, stranger


def test_a_file_that_could_not_be_removed(client, daemon, restart, chain, directory):
    """What an operation has given up is remembered, over a restart, and goes when nobody has it open any more."""
    disk, paths = chain
    path, stranger = give_up(client, daemon, disk, directory)
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["orphan warning+"] and found[0]["path"] == path and "could not be mended" in found[0]["message"]
    assert str(stranger.process.pid) in found[0]["message"]
    stranger.kill()
    client = restart()
    assert kinds(findings(client, disk)) == ["orphan warning+"] and os.path.exists(path)
    assert kinds(findings(client, disk, repair=True)) == ["orphan warning!"]
    assert not os.path.exists(path) and findings(client, disk) == []
    # Another file of that name is another one's.
    images.create(path, "1M")
    assert kinds(findings(client, disk, repair=True)) == ["orphan warning"] and os.path.exists(path)


def test_a_file_that_is_wanted_again(client, daemon, pool, chain, directory):
    """It was given up, and made a disk before it went: then it stays for good."""
    disk, paths = chain
    path, stranger = give_up(client, daemon, disk, directory)
    stranger.kill()
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", os.path.basename(path), variants({"name": "again"}))
    again = client.finish(job)["disk"]
    assert findings(client, disk, repair=True) == [] == findings(client, again, repair=True)
    # Also when its record is forgotten, and its file is one of those that nobody knows.
    top = os.path.basename(client.get(disk, "Disk", "ActivePath"))
    client.call(client.get(disk, "Disk", "VM"), "VM", "Unregister", "a{sv}", variants({"forget-snapshots": True}))
    client.call(pool, "Pool", "Remove")
    pool = client.create_pool("again", os.path.dirname(path))
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", top, variants({"name": "root"}))
    disk = client.finish(job)["disk"]
    assert kinds(findings(client, disk, repair=True)) == ["orphan warning"] and os.path.exists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_directory_that_was_read_only_at_the_unlink(client, daemon, tree):
    """The merge is done, the file of what was merged stays, and the check says so; later it can go."""
    tree = tree()
    tree.snapshot("s1")
    tree.snapshot("s2")
    before = tree.content()
    mount = ["mount", "--bind", tree.pool, tree.pool]
    daemon.at("delete-snapshot.unlink", "stop")
    job = tree.delete("s2")
    daemon.wait_stopped()
    subprocess.run(mount, check=True, timeout=20)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tree.pool], check=True, timeout=20)
        daemon.resume()
        error, message = client.failure(job)
        assert error == "ReadOnly", message
        found = findings(client, tree.disks[0], repair=True)
        assert "pool warning" in kinds(found) and not any(f["repaired"] for f in found)
    finally:
        subprocess.run(["umount", "-l", tree.pool], check=True, timeout=20)
    found = findings(client, tree.disks[0], repair=True)
    assert only(found, "orphan")["repaired"], found
    if tree.snapshots["s2"] in client.of_kind("snapshot"):
        client.finish(tree.delete("s2"))
    tree.forget("s2")
    assert tree.content() == {key: value for key, value in before.items() if key[0] != "s2"}
    tree.check()
    assert kinds(findings(client, tree.disks[0])) == ["unchecked info"]


# --- what unfinished operations leave ---
def test_a_merge_that_ended_halfway(client, daemon, tree):
    tree = tree()
    tree.write(0x10, 30 * MIB, 24 * MIB)
    tree.snapshot("s1", mib=8)
    before = tree.content()
    daemon.at("delete-snapshot.bitmaps", "error QemuFailed it has other plans")
    assert client.failure(tree.delete("s1"))[0] == "QemuFailed"
    found = findings(client, tree.disks[0], repair=True)
    # After the abort of the commit QEMU keeps the lower volume open for writing.
    assert kinds(found) == ["illegal warning", "snapshot warning"] + ["unchecked info"] * 2, found
    illegal = only(found, "illegal")
    assert illegal["path"] == tree.paths[0] and "delete snapshot 's1'" in illegal["message"]
    assert "'s1'" in only(found, "snapshot")["message"] and "delete it again" in only(found, "snapshot")["message"]
    client.finish(tree.delete("s1"))
    tree.forget("s1")
    assert tree.content() == {("active", 0): before["active", 0]}
    assert kinds(findings(client, tree.disks[0])) == ["unchecked info"]


def test_a_volume_merge_that_ended_halfway(client, daemon, tree):
    """No snapshot names it: the way out is another one, and it works."""
    tree = tree()
    tree.write(0x10, 30 * MIB, 24 * MIB)
    base = client.get(tree.disks[0], "Disk", "Active")
    overlay(client, tree.disks[0])
    tree.write(0x33, 9 * MIB, MIB)
    before = tree.content()
    daemon.at("merge-volume.bitmaps", "error QemuFailed it has other plans")
    assert client.failure(client.call(base, "Volume", "Merge", "a{sv}", {}))[0] == "QemuFailed"
    found = only(findings(client, tree.disks[0], repair=True), "illegal")
    assert found["volume"] == base and "volume merge" in found["message"]
    client.finish(client.call(base, "Volume", "Merge", "a{sv}", {}))
    assert tree.content() == before and kinds(findings(client, tree.disks[0])) == ["unchecked info"]


def test_leftovers(client, restart, tree):
    tree = tree()
    tree.write(0x10, 30 * MIB, 24 * MIB)
    tree.snapshot("s1")
    tree.down()
    disk = tree.disks[0]
    shared = tree.volume_of("s1")
    first = client.get(disk, "Disk", "Active")
    client.finish(client.call(disk, "Disk", "CreateOverlay", "a{sv}",
                              variants({"activate": True}) | {"backing": ("o", shared)}))
    client.finish(tree.delete("s1"))
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["leftover info", "unused info"]
    assert only(found, "leftover")["volume"] == shared and "2 volumes stand on it" in only(found, "leftover")["message"]
    assert only(found, "unused")["volume"] == first
    # One that nothing stands on, as it stays where a clone of it was deleted.
    client = restart(f"UPDATE volume SET mark='leftover' WHERE id='{identifier(first)}'")
    path, content = client.get(first, "Volume", "Path"), images.digest(client.get(disk, "Disk", "ActivePath"))
    above = images.create(f"{tree.pool}/above.qcow2", None, backing=os.path.basename(path))
    found = only([f for f in findings(client, disk, repair=True) if f["volume"] == first], "leftover")
    assert found["repairable"] and not found["repaired"] and above in found["message"] and os.path.exists(path)
    os.unlink(above)
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["leftover info", "leftover warning!"] and not os.path.exists(path)
    found = findings(client, disk)
    assert kinds(found) == ["leftover info"] and "volume merge" in found[0]["message"]
    assert first not in client.of_kind("volume") and images.digest(client.get(disk, "Disk", "ActivePath")) == content


def test_marks_that_mean_nothing(client, restart, tree):
    """As they stay where a merge could not note that its switch did not take place."""
    tree = tree()
    tree.snapshot("s1")
    disk = tree.disks[0]
    active = client.get(disk, "Disk", "Active")
    tree.client = client = restart(
        f"UPDATE volume SET mark='illegal' WHERE id='{identifier(active)}'",
        f"UPDATE volume SET mark='leftover' WHERE id='{identifier(tree.volume_of('s1'))}'")
    assert client.get(active, "Volume", "State") == "illegal"
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["illegal warning!", "leftover info!", "unchecked info"], found
    assert client.get(active, "Volume", "State") == "ok"
    assert kinds(findings(client, disk)) == ["unchecked info"]


def test_a_switch_that_nobody_settled(client, restart, tree):
    """The VM is down and its active volume is about to be switched away from: that is not for a check to settle."""
    tree = tree()
    tree.snapshot("s1")
    tree.down()
    disk = tree.disks[0]
    active, below = client.get(disk, "Disk", "Active"), tree.volume_of("s1")
    tree.client = client = restart(f"UPDATE volume SET mark='illegal' WHERE id IN ('{identifier(active)}', '{identifier(below)}')",
                                   f"UPDATE snapshot SET status='failed' WHERE id='{identifier(tree.snapshots['s1'])}'")
    before = tree.content()
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["illegal error", "illegal warning", "snapshot warning"]
    (unsettled,) = [f for f in found if f["severity"] == "error"]
    assert unsettled["volume"] == active and "delete snapshot 's1'" in unsettled["message"] and "do not start" in unsettled["message"]
    # Their contents differ: the one that was written last is kept, and what is left is an ordinary unfinished deletion.
    assert client.failure(tree.delete("s1"))[0] == "Interrupted"
    assert kinds(findings(client, disk)) == ["illegal warning", "snapshot warning"]
    client.finish(tree.delete("s1"))
    tree.forget("s1")
    assert tree.content() == {("active", 0): before["active", 0]} and findings(client, disk) == []
    tree.check()


def test_a_deletion_that_no_job_carries_on(client, restart, tree):
    tree = tree()
    tree.snapshot("s1")
    disk, snapshot = tree.disks[0], tree.snapshots["s1"]
    tree.client = client = restart(f"UPDATE snapshot SET status='deleting' WHERE id='{identifier(snapshot)}'")
    with pytest.raises(DBusError) as busy:
        tree.delete("s1")
    assert busy.value.short == "Busy"
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["snapshot warning!", "unchecked info"]
    assert client.get(snapshot, "Snapshot", "Status") == "failed"
    client.finish(tree.delete("s1"))
    tree.forget("s1")
    tree.check()


def test_a_former_volume_without_a_preview(client, restart, directory):
    vm = DownVm(client, directory, 1).history("s1")
    former = client.get(vm.disks[0], "Disk", "Active")
    vm.preview("s1")
    client = restart("UPDATE vm SET preview=NULL, preview_with_config=NULL, former_config=NULL, former_config_type=NULL")
    disk = vm.disks[0]
    assert client.get(disk, "Disk", "Former") == former
    found = findings(client, disk, repair=True)
    assert kinds(found) == ["record warning!"] and client.get(disk, "Disk", "Former") == "/"
    assert kinds(findings(client, disk)) == ["unused info"] and os.path.exists(client.get(former, "Volume", "Path"))


def test_a_snapshot_without_its_volume(client, restart, tree):
    tree = tree()
    tree.snapshot("s1")
    tree.down()
    tree.client = client = restart("UPDATE snapshot_disk SET volume='00000000-0000-4000-8000-000000000000'")
    found = findings(client, tree.disks[0], repair=True)
    assert kinds(found) == ["snapshot error"] and "'s1'" in found[0]["message"] and "lost" in found[0]["message"]


def test_a_snapshot_that_is_written_to(client, restart, tree):
    tree = tree()
    tree.snapshot("s1")
    tree.down()
    active = identifier(client.get(tree.disks[0], "Disk", "Active"))
    tree.client = client = restart(f"UPDATE snapshot_disk SET volume='{active}'")
    found = findings(client, tree.disks[0], repair=True)
    assert kinds(found) == ["snapshot error"] and "disk overlay" in found[0]["message"]


# --- QEMU has it in another way ---
def test_a_vm_that_runs_on_another_volume(client, tree):
    tree = tree()
    tree.snapshot("s1")
    tree.down()
    tree.qemu = tree.qemus("vm", [tree.paths[0]])
    client.call(tree.vm, "VM", "Refresh")
    found = findings(client, tree.disks[0], repair=True)
    graph = only(found, "graph")
    assert graph["severity"] == "error" and graph["path"] == tree.paths[0] and "launch-arguments" in graph["message"]
    assert client.get(tree.disks[0], "Disk", "State") == "broken"


def test_a_vm_that_runs_without_it(client, tree):
    tree = tree()
    tree.down()
    tree.qemu = tree.qemus("vm", [])
    client.call(tree.vm, "VM", "Refresh")
    assert kinds(findings(client, tree.disks[0], repair=True)) == ["graph warning"]


def test_a_header_that_was_changed_under_a_running_vm(client, tree):
    tree = tree()
    tree.snapshot("s1")
    tree.snapshot("s2")
    middle = client.get(tree.volume_of("s2"), "Volume", "Path")
    other = images.create(f"{tree.pool}/other.qcow2", "64M")
    pool = client.get(tree.disks[0], "Disk", "Pool")
    client.finish(client.call(pool, "Pool", "ImportDisk", "sa{sv}", "other.qcow2", {}))
    damage.set_backing(middle, "other.qcow2")
    found = only(findings(client, tree.disks[0], repair=True), "graph")
    assert found["severity"] == "error" and found["path"] == middle
    assert tree.paths[0] in found["message"] and other in found["message"]


def test_nodes_and_jobs_that_belong_to_nothing(client, tree):
    tree = tree()
    tree.snapshot("s1")
    gone = images.create(f"{tree.pool}/gone.qcow2", "1M")
    tree.qemu.execute("blockdev-add", **{"node-name": "vc-0123456789abcdef", "driver": "qcow2", "file": {
        "driver": "file", "node-name": "vcf-0123456789abcdef", "filename": gone}})
    nodes = len(tree.qemu.nodes())
    active = tree.qemu.top_node("dev0")["node-name"]
    upper = identifier(client.get(tree.disks[0], "Disk", "Active"))
    tree.qemu.execute("block-commit", device=active, **{"job-id": f"vc-commit-{upper[:18]}", "auto-dismiss": False})
    found = findings(client, tree.disks[0])
    # The commit has opened the lower volume for writing, and QEMU keeps it so.
    assert kinds(found) == ["graph info+", "graph warning"] + ["unchecked info"] * 2, found
    (job,) = [f for f in found if f["kind"] == "graph" and f["severity"] == "warning"]
    assert f"vc-commit-{upper[:18]}" in job["message"]
    tree.qemu.execute("block-job-cancel", device=f"vc-commit-{upper[:18]}", force=True)
    while tree.qemu.execute("query-jobs")[0]["status"] != "concluded":
        pass
    tree.qemu.execute("job-dismiss", id=f"vc-commit-{upper[:18]}")
    assert kinds(findings(client, tree.disks[0], repair=True)) == ["graph info!"] + ["unchecked info"] * 2
    assert len(tree.qemu.nodes()) == nodes - 2 and gone not in [tree.qemu.file_of(n) for n in tree.qemu.nodes().values()]


def test_a_vm_that_does_not_answer(client, daemon, tree):
    """Its monitor is somebody else's: what can be seen of the files is, and nothing that may be open is touched."""
    tree = tree()
    tree.snapshot("s1")
    branch = overlay(client, tree.disks[0], backing=Variant("o", tree.volume_of("s1")))
    damage.leak(client.get(branch, "Volume", "Path"))
    tree.qemu.process.send_signal(19)  # SIGSTOP
    try:
        daemon.kill()
        client.close()
        daemon.start()
        again = Client(daemon.bus.address)
        assert again.get(tree.vm, "VM", "State") == "unreachable"
        found = findings(again, tree.disks[0], repair=True)
        assert kinds(found) == ["leak warning!", "unchecked warning", "unchecked warning", "unused info"], found
        again.close()
    finally:
        tree.qemu.process.send_signal(18)  # SIGCONT


# --- as a job ---
def test_nobody_else_works_on_the_disk_meanwhile(client, daemon, tree):
    tree = tree()
    daemon.at("check-disk.images", "stop")
    job = client.call(tree.disks[0], "Disk", "Check", "a{sv}", {})
    daemon.wait_stopped()
    request = client.send(tree.vm, "VM", "CreateSnapshot", "sa{sv}", "s", {})
    cancel = client.send(job, "Job", "Cancel")
    daemon.resume()
    with pytest.raises(DBusError) as busy:
        client.answer(request)
    assert busy.value.short == "Busy" and "check-disk" in busy.value.message
    client.answer(cancel)
    assert client.failure(job)[0] == "Cancelled"
    assert client.get(tree.disks[0], "Disk", "State") == "ok"


def test_a_cancel_ends_qemu_img(client, daemon, pool, pool_directory):
    """A file of 100 million clusters takes qemu-img some seconds."""
    path = f"{pool_directory}/large.qcow2"
    images.create(path, "1M", options="cluster_size=4096")
    os.truncate(path, 400 << 30)
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", "large.qcow2", {})
    disk = client.finish(job)["disk"]
    job = client.call(disk, "Disk", "Check", "a{sv}", {})
    children = f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children"

    def running():
        with open(children) as f:
            return f.read().split()
    while not running():
        assert client.get(job, "Job", "State") == "running"
    client.call(job, "Job", "Cancel")
    assert client.failure(job)[0] == "Cancelled" and running() == []


def test_busy_disk_is_refused(client, daemon, tree):
    tree = tree()
    daemon.at("create-snapshot.files", "stop")
    snapshot = client.call(tree.vm, "VM", "CreateSnapshot", "sa{sv}", "s", {"quiesce": ("s", "off")})
    daemon.wait_stopped()
    check = client.send(tree.disks[0], "Disk", "Check", "a{sv}", {})
    daemon.resume()
    with pytest.raises(DBusError) as busy:
        client.answer(check)
    assert busy.value.short == "Busy"
    client.finish(snapshot)
