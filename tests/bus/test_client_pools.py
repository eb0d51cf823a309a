# SPDX-License-Identifier: MIT
"""volchainctl pool, disk and volume against the daemon."""
import os
import re

import pytest

from harness import images
from harness.chains import make_chain

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MIB = 1 << 20


@pytest.fixture
def pool(ctl, daemon, pool_directory):
    """Its id."""
    return ctl.ok("-q", "pool", "create", "main", pool_directory).strip()


def test_pool_create(ctl, daemon, directory):
    path = f"{directory}/new"
    text = ctl.ok("pool", "create", "new", path, "--create")
    assert re.fullmatch(rf"Pool: new \({UUID}\)\n", text) and os.path.isdir(path)
    made = ctl.json("pool", "create", "other", f"{directory}/other", "--create")
    assert made["pool"]["kind"] == "pool" and made["pool"]["name"] == "other"
    assert "has this name already" in ctl.fails("pool", "create", "new", directory)


def test_pool_list_and_show(ctl, pool, pool_directory):
    header, row, _, footer = ctl.ok("pool", "list").splitlines()
    assert header.split() == ["NAME", "PATH", "FILESYSTEM", "CAPACITY", "FREE", "USED", "REFLINK", "STATE"]
    assert row.split()[:2] == ["main", pool_directory] and row.split()[-1] == "ok"
    assert footer == "1 pool listed."
    [listed] = ctl.json("pool", "list")
    assert listed["id"] == pool and listed["path"] == pool_directory and listed["state"] == "ok"
    assert isinstance(listed["capacity_bytes"], int) and listed["capacity_bytes"] >= listed["free_bytes"] > 0
    assert 0 <= listed["used"] <= 100 and listed["reflink"] in (True, False)

    shown = ctl.json("pool", "show", "main")
    assert shown["id"] == pool and "used" not in shown
    for name in (pool, pool[:4], pool.replace("-", "_"), f"/org/volchain1/pool/{pool.replace('-', '_')}"):
        assert ctl.json("pool", "show", name)["id"] == pool, name
    lines = ctl.ok("pool", "show", "main").splitlines()
    assert lines[0].strip() == "Name: main" and f"Path: {pool_directory}" in [line.strip() for line in lines]
    assert "there is no pool 'none'" in ctl.fails("pool", "show", "none")


def test_pool_refresh(ctl, pool, pool_directory):
    images.create(f"{pool_directory}/stray.qcow2", MIB)
    result = ctl.run("pool", "refresh", "main")
    assert result.returncode == 0 and result.stderr == "refresh-pool: look\n"
    assert "Unknown: stray.qcow2\n" in result.stdout and "Volumes: 0\n" in result.stdout
    assert ctl.json("pool", "refresh", "main") == {"corrupt": 0, "missing": 0, "unknown": ["stray.qcow2"], "volumes": 0}


def test_pool_remove(ctl, pool, pool_directory):
    assert ctl.ok("pool", "remove", "main") == ""
    assert ctl.ok("pool", "list") == "No pools.\n" and ctl.json("pool", "list") == []
    assert os.path.isdir(pool_directory)


def test_disk_create(ctl, pool, pool_directory):
    result = ctl.run("disk", "create", "main", "data", "8M")
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "create-disk: finish"
    assert re.fullmatch(rf"  Disk: data \({UUID}\)\nVolume: {pool_directory}/\S+ \({UUID}\)\n", result.stdout)
    made = ctl.json("disk", "create", "main", "fine", "16M", "--cluster-size=32K", "--extended-l2", "--compression=zstd",
                    "--preallocation=metadata", "--format=qcow2")
    info = images.info(made["volume"]["name"])
    data = info["format-specific"]["data"]
    assert info["virtual-size"] == 16 * MIB and info["cluster-size"] == 32768
    assert data["extended-l2"] and data["compression-type"] == "zstd"
    raw = ctl.json("disk", "create", "main", "raw", str(MIB), "--format=raw", "--preallocation", "full")
    assert images.info(raw["volume"]["name"])["format"] == "raw"

    disks = {d["name"]: d for d in ctl.json("disk", "list")}
    assert set(disks) == {"data", "fine", "raw"} and disks["data"]["size_bytes"] == 8 * MIB
    assert disks["data"]["vm"] is None and disks["data"]["pool"]["id"] == pool
    assert ctl.json("disk", "show", "raw")["active"]["name"] == raw["volume"]["name"]
    assert ctl.json("disk", "show", raw["volume"]["name"])["name"] == "raw", "a disk by the path of its image"
    assert len(ctl.ok("-q", "disk", "create", "main", "more", "1M").strip()) == 36


def test_what_the_daemon_refuses_is_told_as_it_says(ctl, pool):
    message = ctl.fails("disk", "create", "main", "odd", "100")
    assert message == "volchainctl: a disk of 100 bytes: the size must be a multiple of 512, and not 0\n"
    assert "'metadata' is for qcow2 only" in ctl.fails("disk", "create", "main", "x", "1M", "--format=raw",
                                                       "--preallocation=metadata")
    assert ctl.json("job", "list") == []


def test_disk_import(ctl, pool, pool_directory):
    top = make_chain(pool_directory, "root", layers=3)[-1]
    made = ctl.json("disk", "import", "main", "root.2.qcow2", "--name=imported")
    assert made["disk"]["name"] == "imported" and made["volume"]["name"] == top
    assert len(ctl.json("volume", "list", "imported")) == 3
    raw = images.create(f"{pool_directory}/plain.raw", MIB, fmt="raw")
    assert "plain.raw" in ctl.fails("disk", "import", "main", raw)
    assert ctl.json("disk", "import", "main", raw, "--format=raw")["disk"]["name"] == "plain"


def test_disk_import_of_a_copy(ctl, pool, pool_directory, tmp_path, monkeypatch):
    """The file is named as seen from here, not from the pool."""
    chain = make_chain(tmp_path, "root", layers=2)
    before = [images.digest(path) for path in chain]
    monkeypatch.chdir(tmp_path)
    assert "'copy'" in ctl.fails("disk", "import", "main", chain[1])
    made = ctl.json("disk", "import", "main", "root.1.qcow2", "--copy", "--name=copied")
    assert made["disk"]["name"] == "copied" and os.path.dirname(made["volume"]["name"]) == pool_directory
    assert images.digest(made["volume"]["name"]) == before[1] and len(ctl.json("volume", "list", "copied")) == 2
    assert [images.digest(path) for path in chain] == before


def test_volumes_of_a_disk_with_a_branch(ctl, pool):
    ctl.ok("disk", "create", "main", "data", "1M")
    ctl.ok("disk", "create", "main", "else", "1M")
    base = ctl.json("disk", "show", "data")["active"]
    over = ctl.json("disk", "overlay", "data")["volume"]
    branch = ctl.json("disk", "overlay", "data", "--backing", base["name"])["volume"]
    disk = ctl.json("disk", "show", "data")
    assert disk["active"]["id"] == over["id"] and len(disk["volumes"]) == 3
    listed = ctl.json("volume", "list", "data")
    assert [v["depth"] for v in listed] == [1, 2, 2] and {v["disk"]["name"] for v in listed} == {"data"}
    assert len(ctl.json("volume", "list")) == 4
    shown = ctl.json("volume", "show", branch["name"])
    assert shown["backing"]["id"] == base["id"] and shown["active"] is False and shown["size_bytes"] == MIB
    assert ctl.json("volume", "show", branch["id"])["path"] == branch["name"]
    head = ctl.ok("volume", "list", "data").splitlines()[0].split()
    assert head == ["DISK", "DEPTH", "PATH", "FORMAT", "SIZE", "ALLOCATED", "ACTIVE", "STATE"]
    ctl.ok("disk", "overlay", "data", "--backing", base["id"], "--activate")
    assert ctl.json("disk", "show", "data")["active"]["id"] not in (over["id"], branch["id"])


def test_attach_and_detach(ctl, pool):
    ctl.ok("disk", "create", "main", "data", "1M")
    ctl.ok("vm", "register", "web")
    assert ctl.json("disk", "attach", "data", "web", "vdb")["disk"]["name"] == "data"
    [disk] = ctl.json("disk", "list", "web")
    assert disk["vm"]["name"] == "web" and disk["target"] == "vdb"
    assert "web" in ctl.fails("disk", "attach", "data", "web").splitlines()[-1]
    message = ctl.fails("disk", "attach", "data", "web", "--device=scsi-hd", "--bus=scsi0.0").splitlines()[-1]
    assert "web" in message
    ctl.ok("disk", "detach", "data", "--timeout=30s")
    assert ctl.json("disk", "list", "web") == [] and ctl.json("disk", "show", "data")["vm"] is None
    assert "'device'" in ctl.fails("disk", "attach", "data", "web", "--device=scsi-hd")
    ctl.fails("disk", "detach", "data", "--timeout=5", status=2)


def test_resize(ctl, pool):
    ctl.ok("disk", "create", "main", "data", "1M")
    assert ctl.json("disk", "resize", "data", "4M") == {"size_bytes": 4 * MIB, "before_bytes": MIB}
    assert re.search(r"\bSize: 4M$", ctl.ok("disk", "show", "data"), re.M)
    assert "shrink" in ctl.fails("disk", "resize", "data", "2M")
    result = ctl.run("disk", "resize", "data", "2M", "--shrink")
    assert result.returncode == 0 and "resize-disk: resize\n" in result.stderr and "2M" in result.stdout
    assert ctl.json("disk", "show", "data")["size_bytes"] == 2 * MIB
    ctl.fails("disk", "resize", "data", "large", status=2)


def test_snapshot_and_delete(ctl, pool, pool_directory):
    ctl.ok("disk", "create", "main", "data", "1M")
    taken = ctl.json("disk", "snapshot", "data", "one", "--description=mine", "--quiesce=off", "--freeze-timeout=1s")
    assert taken["snapshot"]["name"] == "one"
    unnamed = ctl.json("disk", "snapshot", "data")["snapshot"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", unnamed["name"])
    shown = ctl.json("snapshot", "show", "one")
    assert shown["vm"] is None and shown["description"] == "mine" and shown["children"][0]["id"] == unnamed["id"]
    assert "'one'" in ctl.fails("disk", "delete", "data").splitlines()[-1]
    assert ctl.json("disk", "delete", "data", "--snapshots") == {"volumes": 3}
    assert ctl.json("disk", "list") == [] and ctl.json("snapshot", "list") == []
    assert images.image_files(pool_directory) == []


def test_clone(ctl, pool):
    ctl.ok("disk", "create", "main", "data", "1M")
    ctl.ok("vm", "register", "web")
    ctl.ok("disk", "attach", "data", "web", "vda")
    ctl.ok("snapshot", "create", "web", "one")
    made = ctl.json("snapshot", "clone", "one", "copy", "--pool=main", "--pool=data=main", "--disk=data", "--format=raw",
                    "--preallocation=falloc", "--shareable=skip", "--speed=1G")
    assert made["vm"]["name"] == "copy" and [disk["name"] for disk in made["disks"]] == ["copy-vda"]
    [disk] = ctl.json("disk", "list", "copy")
    assert disk["target"] == "vda"
    assert ctl.json("snapshot", "clone", "one", "thin", "--thin")["disks"][0]["name"] == "thin-vda"
    assert "web" in ctl.fails("snapshot", "clone", "one", "web").splitlines()[-1]
    ctl.fails("snapshot", "clone", "one", "x", "--pool=main", "--pool=main", status=2)
    volume = ctl.json("disk", "show", "data")["active"]["id"]
    made = ctl.json("volume", "clone", volume, "single", "main", "--format=qcow2", "--cluster-size=128K", "--extended-l2",
                    "--compression=zstd")
    assert [disk["name"] for disk in made["disks"]] == ["single"]


def test_move(ctl, pool, directory):
    os.mkdir(f"{directory}/other")
    ctl.ok("pool", "create", "other", f"{directory}/other")
    ctl.ok("disk", "create", "main", "data", "1M")
    ctl.ok("disk", "snapshot", "data", "one")
    assert ctl.json("disk", "move", "data", "other", "--speed=1G") == {"volumes": 2}
    [disk] = ctl.json("disk", "list")
    assert disk["pool"]["name"] == "other" and disk["active_path"].startswith(f"{directory}/other/")
    assert ctl.json("disk", "move", "data", "main", "--collapse") == {"volumes": 1}
    assert "'main'" in ctl.fails("disk", "move", "data", "main").splitlines()[-1]
