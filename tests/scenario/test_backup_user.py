# SPDX-License-Identifier: MIT
"""volchainctl backup run by a user who is not root: polkit lets it, the socket and the files are that user's, and nobody else's."""
import os
import shutil
import stat

import pytest

from harness import images, polkit
from harness.bus import Bus
from harness.ctl import PROGRAM, Ctl
from harness.tree import MIB, Tree

USER, OTHER = 2, 3  # bin, sys
NEEDED = ("org.volchain1.look", "org.volchain1.export", "org.volchain1.read-config")

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="backups by other users are NOT tested: it takes root")


@pytest.fixture
def authority(directory):
    authority = polkit.FakePolkit(directory)
    authority.answers = dict.fromkeys(NEEDED, "yes")
    return authority


@pytest.fixture
def bus(directory, authority):
    bus = Bus(f"{directory}/bus", authority.bus_policy)
    authority.start(bus)
    yield bus
    authority.stop()
    bus.stop()


@pytest.fixture
def tree(client, directory, qemus):
    tree = Tree(client, directory, qemus, size=16 * MIB)
    tree.write(0x31, 3 * MIB, MIB)
    client.call(tree.vm, "VM", "SetConfig", "ays", b"<domain/>", "application/xml")
    return tree


@pytest.fixture
def program(directory):
    """Where every user gets at it."""
    return shutil.copy(PROGRAM, f"{directory}/volchainctl")


@pytest.fixture
def target(directory):
    path = f"{directory}/backups"
    os.mkdir(path, 0o700)
    os.chown(path, USER, USER)
    return path


def as_user(bus, program, uid):
    return Ctl(bus.address, program=program, wrapper=["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"])


def test_full_and_incremental(tree, bus, program, target):
    ctl = as_user(bus, program, USER)
    held, moments = [], []
    for number in range(2):
        tree.write(0x50 + number, (5 + number) * MIB, MIB)
        held.append(tree.content()["active", 0])
        moments.append(ctl.json("backup", "run", "web", target, "--quiesce=off", timeout=200))
    assert [moment["disks"][0]["kind"] for moment in moments] == ["full", "incremental"]
    for digest, moment in zip(held, moments):
        assert images.digest(f"{target}/{moment['disks'][0]['file']}") == digest
    for name in os.listdir(target):
        status = os.stat(f"{target}/{name}")
        assert status.st_uid == USER and not stat.S_IMODE(status.st_mode) & 0o077, name
    ctl.ok("backup", "verify", target, timeout=200)
    assert tree.client.of_kind("backup") == {}


def test_not_allowed(tree, bus, program, target, authority):
    authority.answers["org.volchain1.export"] = "no"
    assert "not authorized for org.volchain1.export" in as_user(bus, program, USER).fails("backup", "run", "web", target, "--quiesce=off")
    assert tree.client.of_kind("backup") == {} and tree.client.get(tree.vm, "VM", "Checkpoints") == []


def test_configuration_may_not_be_read(tree, bus, program, target, authority):
    """It may hold secrets; the disks are backed up without it, and that is said."""
    authority.answers["org.volchain1.read-config"] = "no"
    ctl = as_user(bus, program, USER)
    result = ctl.run("backup", "run", "web", target, "--quiesce=off", timeout=200)
    assert result.returncode == 0 and "configuration may not be read" in result.stderr, result.stderr
    assert not any(name.startswith("config.") for name in os.listdir(target))


def test_directory_of_somebody_else(tree, bus, program, target):
    """Nothing is begun."""
    said = as_user(bus, program, OTHER).fails("backup", "run", "web", target, "--quiesce=off")
    assert target in said and "Permission denied" in said
    assert tree.client.of_kind("backup") == {} and tree.client.get(tree.vm, "VM", "Checkpoints") == []
