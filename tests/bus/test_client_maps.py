# SPDX-License-Identifier: MIT
"""volchainctl volume map, measure and checksum, and snapshot diff, against the daemon."""
import re

import pytest

from harness import images
from harness.chains import make_chain
from harness.content import checksum, content

MIB = 1 << 20


@pytest.fixture
def top(ctl, daemon, pool_directory):
    """The active volume of a disk "root": two layers, with data in the first two MiB."""
    ctl.ok("pool", "create", "main", pool_directory)
    path = make_chain(pool_directory, "root", layers=2, size=16 * MIB)[-1]
    ctl.ok("disk", "import", "main", path, "--name=root")
    images.run("qemu-io", "-f", "qcow2", "-c", "write -z 4M 1M", path)
    return path


def extents(*rows):
    return [dict(zip(("start", "length", "kind"), row)) for row in rows]


def test_map(ctl, top):
    header, *rows, _, footer = ctl.ok("volume", "map", top).splitlines()
    assert header.split() == ["START", "LENGTH", "KIND"] and footer == "4 extents listed."
    assert [row.split() for row in rows] == [["0", "2097152", "data"], ["2097152", "2097152", "hole"],
                                             ["4194304", "1048576", "zero"], ["5242880", "11534336", "hole"]]
    assert ctl.json("volume", "map", top, "--start=1M", "--length=2M") == extents((MIB, MIB, "data"), (2 * MIB, MIB, "hole"))
    assert ctl.json("volume", "map", top, "--start", "4M") == extents((4 * MIB, MIB, "zero"), (5 * MIB, 11 * MIB, "hole"))
    assert ctl.json("volume", "map", top, "--length=100G")[-1] == extents((5 * MIB, 11 * MIB, "hole"))[0]
    assert ctl.json("volume", "map", top, "--start=16M") == []
    assert "behind the end" in ctl.fails("volume", "map", top, "--start=17M")
    ctl.fails("volume", "map", top, "--start=here", status=2)


def test_map_of_many_pages(ctl, top, pool_directory):
    path, count = f"{pool_directory}/fragments.raw", 40_001
    with open(path, "wb") as f:
        for number in range(0, count, 2):
            f.seek(number * 4096)
            f.write(b"x" * 4096)
    ctl.ok("disk", "import", "main", path, "--format=raw")
    assert ctl.json("volume", "map", path) == extents(*[(n * 4096, 4096, "zero" if n % 2 else "data") for n in range(count)])


def test_measure(ctl, top):
    measured = ctl.json("volume", "measure", top)
    assert set(measured) == {"required_bytes", "full_bytes"} and 2 * MIB < measured["required_bytes"] < 3 * MIB
    assert 16 * MIB < measured["full_bytes"] < 17 * MIB
    assert re.fullmatch(r"Required: 2\.\dM\n    Full: 16\.\dM\n", ctl.ok("volume", "measure", top))
    assert ctl.json("volume", "measure", top, "--format=raw") == {"required_bytes": 16 * MIB, "full_bytes": 16 * MIB}
    finer = ctl.json("volume", "measure", top, "--cluster-size=16K", "--extended-l2", "--format=qcow2")
    assert finer["required_bytes"] != measured["required_bytes"]
    assert ctl.json("volume", "measure", top, "--bitmaps") == measured, "there are none"
    assert "'cluster-size'" in ctl.fails("volume", "measure", top, "--format=raw", "--cluster-size=4K")


def test_checksum(ctl, top):
    expected = checksum(content(top))
    result = ctl.run("volume", "checksum", top)
    assert result.returncode == 0 and "checksum-volume: read\n" in result.stderr
    assert f"Checksum: {expected}\n" in result.stdout and "Bytes: 16M\n" in result.stdout
    assert ctl.json("volume", "checksum", top) == {"algorithm": "sha256/64KiB", "checksum": expected, "bytes": 16 * MIB,
                                                   "data_bytes": 2 * MIB}
    other = ctl.json("volume", "checksum", top, "--algorithm=blake2b512/64KiB", "--speed=1G")
    assert other["checksum"] == checksum(content(top), "blake2b512/64KiB")
    assert "sha256/64KiB" in ctl.fails("volume", "checksum", top, "--algorithm=md5", status=2)


def test_diff(ctl, top):
    ctl.ok("vm", "register", "web")
    ctl.ok("vm", "register", "other")
    ctl.ok("disk", "attach", "root", "web", "vda")
    ctl.ok("snapshot", "create", "web", "one")
    images.write(ctl.json("disk", "show", "root")["active_path"], 7, 3 * MIB, 65536)
    ctl.ok("snapshot", "create", "web", "two")
    images.write(ctl.json("disk", "show", "root")["active_path"], 8, 9 * MIB, 131072)
    ctl.ok("disk", "create", "main", "foreign", "1M")
    ctl.ok("disk", "attach", "foreign", "other")
    ctl.ok("snapshot", "create", "other", "two")  # names are those of the first one's VM

    header, row, _, footer = ctl.ok("snapshot", "diff", "one", "two").splitlines()
    assert header.split() == ["DISK", "IN", "SIZE", "OTHER", "SIZE", "DIFFERING", "EXTENTS"]
    assert row.split() == ["root", "both", "16M", "16M", "64K", "1"] and footer == "1 disk listed."
    [now] = ctl.json("snapshot", "diff", "one")
    assert now["disk"]["name"] == "root" and now["in"] == "both"
    assert now["differing_bytes"] == 3 * 65536 and now["extents"] == 2 and now["size_bytes"] == 16 * MIB
    rows = ctl.json("snapshot", "diff", "one", "--extents")
    assert [(r["disk"]["name"], r["start"], r["length"], r["kind"]) for r in rows] == [
        ("root", 3 * MIB, 65536, "data"), ("root", 9 * MIB, 131072, "data")]
    header, row, _, footer = ctl.ok("snapshot", "diff", "one", "two", "--extents").splitlines()
    assert header.split() == ["DISK", "START", "LENGTH", "KIND"] and row.split() == ["root", "3145728", "65536", "data"]
    assert footer == "1 extent listed."
    assert ctl.json("snapshot", "diff", "one", "one", "--extents") == []

    ctl.ok("disk", "create", "main", "more", "1M")
    ctl.ok("disk", "attach", "more", "web")
    rows = {r["disk"]["name"]: r for r in ctl.json("snapshot", "diff", "one")}
    assert rows["more"]["in"] == "other" and rows["more"]["size_bytes"] is None
    assert rows["more"]["other_size_bytes"] == MIB and rows["more"]["differing_bytes"] is None
    assert "none" in ctl.fails("snapshot", "diff", "one", "none")
