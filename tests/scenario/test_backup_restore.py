# SPDX-License-Identifier: MIT
"""volchainctl backup restore: disks and VMs that are by digest what was backed up, from directories of backup run and from what
was pushed; nothing where anything goes wrong."""
import json
import os
import random
import signal
import time

import pytest

from harness import backups, images
from harness.ctl import Ctl
from harness.tree import MIB, Tree

SIZE = 64 * MIB
CONFIG = b"<domain><name>web</name></domain>"


@pytest.fixture
def ctl(bus, daemon, directory):
    failpoints = f"{directory}/client-failpoints"
    os.mkdir(failpoints)
    return Ctl(bus.address, VOLCHAIN_FAILPOINTS=failpoints)


def at(ctl, name, order="kill"):
    with open(os.path.join(ctl.environment["VOLCHAIN_FAILPOINTS"], name), "w") as f:
        f.write(order)


class Scene:
    """A VM with two disks, a directory with three moments of it, and a pool to restore to."""

    def __init__(self, client, ctl, directory, qemus):
        self.client, self.ctl = client, ctl
        self.tree = Tree(client, directory, qemus, count=2, size=SIZE)
        client.call(self.tree.vm, "VM", "SetConfig", "ays", CONFIG, "application/xml")
        self.target, self.pool = f"{directory}/backups", f"{directory}/restored"
        os.mkdir(self.pool)
        client.create_pool("restored", self.pool)
        self.held, self.moments = [], []
        chance = random.Random(5)
        for number in range(3):
            for _ in range(30):
                self.tree.qemu.write(f"dev{chance.randrange(2)}", chance.randrange(1, 255),
                                     chance.randrange(SIZE // 4096 - 8) * 4096, 32768)
            if number == 2:
                self.tree.qemu.io("dev0", f"write -z 0 {8 * MIB}")
            content = self.tree.content()
            self.held.append({f"serial{n}": content["active", n] for n in range(2)})
            self.moments.append(ctl.json("backup", "run", "web", self.target, "--quiesce=off"))

    def restored(self, vm):
        """{target: digest} of a VM's disks."""
        found = {}
        for disk in self.client.get(vm, "VM", "Disks"):
            properties = self.client.get_all(disk, "Disk")
            assert properties["State"] == "ok" and properties["ActivePath"].startswith(self.pool)
            found[properties["Target"]] = images.digest(properties["ActivePath"],
                                                        "raw" if properties["ActivePath"].endswith(".raw") else "qcow2")
        return found

    def vm(self, name):
        return next(path for path, p in self.client.of_kind("vm").items() if p["Name"] == name)

    def nothing_left(self, vms=("web",), timeout=40):
        end = time.monotonic() + timeout
        while self.client.of_kind("backup") or self.client.of_kind("export"):
            assert time.monotonic() < end, self.client.of_kind("backup")
            time.sleep(0.02)
        assert sorted(p["Name"] for p in self.client.of_kind("vm").values()) == sorted(vms)
        assert len(self.client.of_kind("disk")) == 2
        assert images.image_files(self.pool) == []


@pytest.fixture
def scene(client, ctl, directory, qemus):
    return Scene(client, ctl, directory, qemus)


def test_whole_vm(scene, ctl):
    """The last moment and an earlier one, with the configuration; beside the VM that was backed up."""
    made = ctl.json("backup", "restore", scene.target, "--pool=restored", "--vm-name=web2")
    assert made["vm"]["name"] == "web2" and made["moment"] == scene.moments[2]["moment"]
    assert sorted(disk["name"] for disk in made["disks"]) == ["web2-serial0", "web2-serial1"]
    assert scene.restored(scene.vm("web2")) == scene.held[2]
    config, kind = scene.client.call(scene.vm("web2"), "VM", "GetConfig")
    assert (bytes(config), kind) == (CONFIG, "application/xml")
    moment = scene.moments[0]["moment"]
    ctl.ok("backup", "restore", scene.target, "--pool=restored", "--vm-name=web3", f"--moment={moment}")
    assert scene.restored(scene.vm("web3")) == scene.held[0]
    assert "already" in ctl.fails("backup", "restore", scene.target, "--pool=restored")
    assert scene.client.of_kind("backup") == {}


def test_one_disk(scene, ctl):
    """Floating, under another name, in another format."""
    moment = scene.moments[1]["moment"]
    identity = ctl.ok("-q", "backup", "restore", scene.target, "--pool=restored", f"--moment={moment}", "--disk=serial1",
                      "--name=found", "--format=raw").strip()
    [disk] = [p for p in scene.client.of_kind("disk").values() if p["Id"] == identity]
    assert disk["Name"] == "found" and disk["VM"] == "/"
    assert images.digest(disk["ActivePath"], "raw") == scene.held[1]["serial1"]
    assert "there is a disk" in ctl.fails("backup", "restore", scene.target, "--pool=restored", "--disk=serial0")
    assert "no disk 'other'" in ctl.fails("backup", "restore", scene.target, "--pool=restored", "--disk=other")
    assert len(scene.client.of_kind("vm")) == 1


def test_pushed_chain(scene, ctl, client, directory):
    """Without any catalogue."""
    target = f"{directory}/pushed"
    os.mkdir(target)
    for number in range(2):
        scene.tree.write(40 + number, (30 + number) * MIB, MIB)
        held = scene.tree.content()["active", 0]
        kind = "incremental" if number else "full"
        client.finish(backups.begin(client, scene.tree.vm, kind=kind, mode="push", target=target, checkpoint=f"c{number}"))
    made = ctl.json("backup", "restore", f"--file={target}/web-serial0.c1.qcow2", "--pool=restored", "--name=again")
    [disk] = [p for p in client.of_kind("disk").values() if p["Name"] == "again"]
    assert images.digest(disk["ActivePath"]) == held and made["vm"] is None
    images.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", f"{target}/web-serial0.c1.qcow2")
    error = ctl.fails("backup", "restore", f"--file={target}/web-serial0.c1.qcow2", "--pool=restored", "--name=evil")
    assert "only such chains are restored" in error
    assert "DIRECTORY" in ctl.fails("backup", "restore", "--pool=restored", status=2)
    assert "DIRECTORY" in ctl.fails("backup", "restore", scene.target, "--file=x", "--pool=restored", status=2)


def test_damage_is_found_before_there_is_a_disk(scene, ctl):
    """A byte of the middle file."""
    path = f"{scene.target}/web-serial0.{scene.moments[1]['moment']}.qcow2"
    [extent, *_] = [e for e in json.loads(images.run("qemu-img", "map", "-U", "--output=json", path))
                    if e["depth"] == 0 and e["data"] and e["start"] >= 8 * MIB]
    with open(path, "r+b") as f:
        f.seek(extent["offset"] + 7)
        f.write(b"\xee")
    error = ctl.fails("backup", "restore", scene.target, "--pool=restored", "--vm-name=web2")
    assert "is damaged" in error and "backup verify" in error
    scene.nothing_left()
    moment = scene.moments[0]["moment"]
    ctl.ok("backup", "restore", scene.target, "--pool=restored", "--vm-name=web2", f"--moment={moment}")
    assert scene.restored(scene.vm("web2")) == scene.held[0]
    os.unlink(path)
    assert "is not there" in ctl.fails("backup", "restore", scene.target, "--pool=restored", "--vm-name=web4")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(scene, ctl, number):
    at(ctl, "restore.filled", "stop")
    process = ctl.start("backup", "restore", scene.target, "--pool=restored", "--vm-name=web2")
    end = time.monotonic() + 60
    while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode == -number
    scene.nothing_left()


def test_killed_before_there_are_disks(scene, ctl):
    """The daemon takes away what is bound to a client that is gone."""
    at(ctl, "restore.filled")
    result = ctl.run("backup", "restore", scene.target, "--pool=restored", "--vm-name=web2")
    assert result.returncode == -signal.SIGKILL
    scene.nothing_left()


@pytest.mark.parametrize("step", ["finished", "registered"])
def test_failed_later(scene, ctl, step):
    at(ctl, f"restore.{step}", "error NoSpace there is no room for more")
    assert "no room for more" in ctl.fails("backup", "restore", scene.target, "--pool=restored", "--vm-name=web2")
    scene.nothing_left()


def test_full_pool(scene, ctl, client, small_filesystem):
    path = small_filesystem(1)
    client.create_pool("tiny", path)
    assert "pace" in ctl.fails("backup", "restore", scene.target, "--pool=tiny", "--vm-name=web2")
    scene.nothing_left()
    assert images.image_files(path) == []


@pytest.mark.parametrize("step", ["close", "check", "finish"])
@pytest.mark.every
def test_daemon_restarted(scene, ctl, client, daemon, step):
    """While it turns what was restored into a disk."""
    daemon.at(f"finish-backup.{step}", "kill")
    process = ctl.start("backup", "restore", scene.target, "--pool=restored", "--vm-name=again", "--json=short")
    daemon.wait_killed()
    daemon.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert scene.restored(scene.vm("again")) == scene.held[-1]


def test_a_moment_of_some_disks(scene, ctl):
    """Is not the whole VM, and that is said."""
    alone = ctl.json("backup", "run", "web", scene.target, "--quiesce=off", "--disk=serial1")
    result = ctl.run("backup", "restore", scene.target, "--pool=restored", "--vm-name=again", timeout=120)
    assert result.returncode == 0, result.stderr
    assert f"'web-serial0' is not in moment {alone['moment']}, but in {scene.moments[-1]['moment']}" in result.stderr
    assert set(scene.restored(scene.vm("again"))) == {"serial1"}
