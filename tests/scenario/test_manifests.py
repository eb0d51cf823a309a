# SPDX-License-Identifier: MIT
"""The state directory is lost, or the images are on another host: VMs come back by their manifests, as they were."""
import json
import os
import shutil
import time

import pytest

from harness.client import ROOT, Client, Variant, variants
from harness.down_vm import DownVm


def manifests_of(vm):
    name = vm.client.get(vm.vm, "VM", "Id") + ".json"
    return [f"{pool['Path']}/.volchain/{name}" for pool in vm.client.of_kind("pool").values()]


def import_manifest(client, path, **options):
    return client.call(ROOT, "Manager", "ImportManifest", "sa{sv}", path, variants(options))


def shown(client):
    """Everything but jobs and what is of this moment."""
    volatile = {"FreeBytes", "CapacityBytes", "AllocatedBytes", "NextUsec", "QmpSocket", "Reflink"}
    return {path: {name: {p: v for p, v in properties.items() if p not in volatile} for name, properties in found.items()}
            for path, found in client.objects().items() if "/job/" not in path and path != ROOT}


class Lost:
    """A VM whose daemon loses all that it knows."""

    def __init__(self, vm, daemon, bus):
        self.vm, self.daemon, self.bus = vm, daemon, bus

    def lose(self):
        """The manifests, when a stopped daemon has written all of them; then a new one that knows nothing."""
        paths = manifests_of(self.vm)
        self.vm.client.close()
        self.daemon.stop()
        shutil.rmtree(self.daemon.directory + "/state")
        os.mkdir(self.daemon.directory + "/state")
        self.daemon.start()
        self.vm.client = Client(self.bus.address)
        assert not [p for p in self.vm.client.objects() if "/job/" not in p and p != ROOT]
        return paths


@pytest.fixture
def two_pools(client, directory):
    """A VM with a disk in each of two pools."""
    vm = DownVm(client, directory, count=1)
    os.mkdir(f"{directory}/second")
    second = client.create_pool("second", f"{directory}/second")
    job = client.call(second, "Pool", "CreateDisk", "sta{sv}", "other", 16 << 20, {})
    disk = client.finish(job)["disk"]
    client.finish(client.call(disk, "Disk", "Attach", "osa{sv}", vm.vm, "serial1", {}))
    vm.disks.append(disk)
    client.call(vm.vm, "VM", "Update", "a{sv}", {"qmp-socket": ("s", "")})
    return vm


@pytest.fixture
def lost(two_pools, daemon, bus):
    yield Lost(two_pools, daemon, bus)
    two_pools.client.close()


def test_everything_is_as_before(lost):
    """Every snapshot, preview and merge works as before."""
    vm = lost.vm
    vm.history("s1", "s2")
    vm.revert("s1", keep_branch=True)
    vm.write()
    vm.take("s3")
    vm.write()
    vm.client.finish(vm.client.create_snapshot(vm.vm, "part", exclude=[vm.disks[1]]))
    vm.client.call(vm.vm, "VM", "SaveProfile", "sa{sv}", "p", variants({"disks": [vm.disks[0]], "quiesce": "off"}))
    vm.client.create_schedule(vm.vm, "nightly", "daily", keep_daily=Variant("u", 3))
    contents, tree = vm.contents(), vm.tree()
    before = shown(vm.client)
    paths = lost.lose()
    assert len(paths) == 2
    assert import_manifest(vm.client, paths[0]) == vm.vm
    assert shown(vm.client) == before
    assert vm.tree() == tree and vm.contents() == contents
    for name in ("s1", "s2", "s3"):
        vm.preview(name)
        assert vm.contents() == [vm.states[name][disk] for disk in vm.disks]
        vm.undo()
    vm.client.finish(vm.of_snapshot("s1", "Delete"))
    assert vm.contents() == contents
    vm.write()
    vm.take("s4")
    (schedule,) = vm.client.of_kind("schedule")
    vm.client.finish(vm.client.call(schedule, "Schedule", "RunNow"))
    assert len(vm.client.get(schedule, "Schedule", "Snapshots")) == 1
    for disk in vm.disks:
        findings = vm.client.finish(vm.client.call(disk, "Disk", "Check", "a{sv}", {}))["findings"]
        assert findings == [], findings


def test_a_preview_is_still_shown_and_can_be_ended(lost):
    vm = lost.vm
    vm.history("s1", "s2")
    vm.client.call(vm.vm, "VM", "SetConfig", "ays", b"\x00\xff later", "x/y")
    former = vm.contents()
    vm.preview("s1")
    vm.write()
    now = vm.contents()
    paths = lost.lose()
    import_manifest(vm.client, paths[1])
    assert vm.get("PreviewOf") == vm.snapshot("s1") and vm.contents() == now
    assert vm.config() == b"<now/>"
    vm.undo()
    assert vm.contents() == former and vm.config() == b"\x00\xff later"
    vm.preview("s1")
    paths = lost.lose()
    import_manifest(vm.client, paths[0])
    vm.commit()
    assert vm.tree() == {"s1": None}
    assert vm.contents() == [vm.states["s1"][disk] for disk in vm.disks]


def test_pools_that_are_elsewhere_now(lost, directory):
    vm = lost.vm
    vm.history("s1")
    paths = lost.lose()
    for name in ("pool", "second"):
        os.rename(f"{directory}/{name}", f"{directory}/moved-{name}")
    first = paths[0].replace("/pool/", "/moved-pool/").replace("/second/", "/moved-second/")
    error, text = vm.refused(lambda: import_manifest(vm.client, first))
    assert error == "NotFound", text
    moved = {f"{directory}/{name}": f"{directory}/moved-{name}" for name in ("pool", "second")}
    import_manifest(vm.client, first, pools=Variant("a{ss}", moved))
    vm.preview("s1")
    assert vm.contents() == [vm.states["s1"][disk] for disk in vm.disks]
    vm.undo()


def test_what_is_known_already(lost):
    vm = lost.vm
    vm.history("s1")
    vm.client.call(vm.vm, "VM", "Refresh")
    paths = lost.lose()
    import_manifest(vm.client, paths[0])
    error, text = vm.refused(lambda: import_manifest(vm.client, paths[0]))
    assert error == "AlreadyExists" and "known already" in text
    vm.client.call(vm.vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    error, text = vm.refused(lambda: import_manifest(vm.client, paths[0]))
    assert error == "AlreadyExists", "its disks are there"


def test_an_older_manifest_than_the_images(lost):
    """A snapshot was taken, and the manifest that tells of it was lost: nothing is to be written below it."""
    vm = lost.vm
    vm.history("s1")
    vm.client.call(vm.vm, "VM", "Refresh")
    path = manifests_of(vm)[0]
    end = time.monotonic() + 20
    while '"s1"' not in open(path).read():
        assert time.monotonic() < end
        time.sleep(0.05)
    older = open(path).read()
    vm.take("s2")
    newest = vm.active(vm.disks[0])
    lost.lose()
    with open(path, "w") as f:
        f.write(older)
    error, text = vm.refused(lambda: import_manifest(vm.client, path))
    assert error == "BrokenChain" and "older" in text and os.path.basename(newest) in text
    import_manifest(vm.client, path, ignore_newer=True)
    assert set(vm.snapshots()) == {"s1"}


@pytest.mark.parametrize("damage", ["cut off", "a path outside", "an unknown word", "another version", "a foreign pool"])
def test_a_manifest_is_not_believed(lost, directory, damage):
    vm = lost.vm
    vm.history("s1")
    (path, _) = lost.lose()
    with open(path) as f:
        text = f.read()
    document = json.loads(text)
    if damage == "cut off":
        text = text[:len(text) // 2]
    else:
        if damage == "a path outside":
            document["disks"][0]["volumes"][0]["file"] = "../../etc/passwd"
        elif damage == "an unknown word":
            document["snapshots"][0]["consistency"] = "perfect"
        elif damage == "another version":
            document["volchain-manifest"] = 1000
        else:
            document["disks"][0]["volumes"][0].update(pool="/etc", file="passwd", format="raw")
        text = json.dumps(document)
    with open(path, "w") as f:
        f.write(text)
    error, _ = vm.refused(lambda: import_manifest(vm.client, path))
    assert error == {"another version": "Unsupported", "a foreign pool": "NotFound"}.get(damage, "CorruptImage")
    assert not vm.client.of_kind("vm") and not vm.client.of_kind("pool")
