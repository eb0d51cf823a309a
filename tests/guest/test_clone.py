# SPDX-License-Identifier: MIT
"""A clone of a snapshot that was taken of a running Linux is a machine that boots, and has the files of that moment."""
import pytest

from harness import images
from harness.client import variants
from harness.filesystems import make_disk


@pytest.fixture
def config():
    return '[quiesce]\nagent-timeout = "10s"\nthaw-timeout = "20s"\nfreeze-timeout = "30s"\nfreeze-limit = "30s"\n'


WAYS = {"copy": {}, "raw": {"format": "raw"}, "thin": {"thin": True}}


@pytest.mark.parametrize("way", list(WAYS))
def test_it_boots(client, pool_directory, guests, way):
    path = make_disk(f"{pool_directory}/root.qcow2")
    guest = guests("source", [path])
    vm = client.register_vm("source", qmp_socket=guest.qmp, agent_socket=guest.agent)
    guest.shell("echo of that moment > /mnt/vda/words; sync")
    snapshot = client.finish(client.create_snapshot(vm, "s1", quiesce="require"))["snapshot"]
    guest.shell("echo later > /mnt/vda/words; echo more > /mnt/vda/more; sync")
    made = client.finish(client.call(snapshot, "Snapshot", "Clone", "sa{sv}", "clone", variants(WAYS[way])))
    volume = client.get_all(client.get(made["disks"][0], "Disk", "Active"), "Volume")
    assert volume["Format"] == ("raw" if way == "raw" else "qcow2")
    [disk] = made["disks"]
    clone = guests("clone", [{"path": volume["Path"], "fmt": volume["Format"]}], boots=True)
    client.call(made["vm"], "VM", "Update", "a{sv}", variants({"qmp-socket": clone.qmp, "agent-socket": clone.agent}))
    client.wait_property(made["vm"], "VM", "State", "running")
    client.call(made["vm"], "VM", "Refresh")
    assert client.get(made["vm"], "VM", "Disks") == [disk]
    assert clone.shell("cat /mnt/vda/words; ls /mnt/vda/more 2>/dev/null || true") == "of that moment\n"
    assert guest.shell("cat /mnt/vda/words") == "later\n"
    # It is a machine like any other.
    clone.shell("echo its own > /mnt/vda/words; sync")
    client.finish(client.create_snapshot(made["vm"], "first", quiesce="require"))
    clone.shutdown()
    guest.shutdown()
    images.check(client.get(disk, "Disk", "ActivePath"))
