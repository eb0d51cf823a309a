# SPDX-License-Identifier: MIT
"""volchainctl disk check: a table of what is wrong, or JSON, whatever there is."""
import re

import pytest

from harness import damage, images

MIB = 1 << 20


@pytest.fixture
def disk(ctl, daemon, pool_directory):
    """The path of its image."""
    ctl.ok("pool", "create", "main", pool_directory)
    path = ctl.json("disk", "create", "main", "data", "8M")["volume"]["name"]
    images.write(path, 7, 0, MIB)
    return path


def test_nothing_is_wrong(ctl, disk):
    result = ctl.run("disk", "check", "data")
    assert (result.returncode, result.stdout) == (0, "No findings.\n")
    assert result.stderr.splitlines()[-1] == "check-disk: files"
    assert ctl.json("disk", "check", "data", "--repair") == []


def test_findings(ctl, disk):
    damage.leak(disk)
    header, row, _, footer = ctl.ok("disk", "check", "data").splitlines()
    assert header.split() == ["SEVERITY", "KIND", "REPAIRABLE", "REPAIRED", "MESSAGE"]
    assert row.split()[:4] == ["warning", "leak", "yes", "no"] and "3 clusters of volume" in row
    assert footer == "1 finding listed."
    [found] = ctl.json("disk", "check", disk)
    message = found.pop("message")
    volume = ctl.json("disk", "show", "data")["active"]
    assert found == {"severity": "warning", "kind": "leak", "repairable": True, "repaired": False, "volume": volume, "path": disk}
    assert disk in message
    assert ctl.ok("disk", "check", "data", "--no-legend").count("\n") == 1


def test_repair(ctl, disk):
    damage.leak(disk)
    assert ctl.ok("disk", "check", "data", "--repair", "--no-legend").split()[:4] == ["warning", "leak", "yes", "yes"]
    assert ctl.ok("-q", "disk", "check", "data") == "No findings.\n"
    images.check(disk)


def test_as_a_job(ctl, disk):
    damage.leak(disk)
    job = ctl.ok("--no-wait", "disk", "check", "data").strip()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", job)
    [found] = ctl.json("job", "wait", job)["findings"]
    assert found["kind"] == "leak" and found["volume"]["kind"] == "volume"
    assert "clusters of volume" in ctl.ok("job", "wait", job)
    assert "clusters of volume" in ctl.ok("job", "show", job)


def test_what_fails(ctl, disk):
    assert "there is no disk 'none'" in ctl.fails("disk", "check", "none")
