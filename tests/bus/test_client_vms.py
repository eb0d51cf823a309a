# SPDX-License-Identifier: MIT
"""volchainctl vm and snapshot against the daemon, with a QEMU that has no guest."""
import re

import pytest

from harness.agent_double import AgentDouble
from harness.chains import make_chain

MIB = 1 << 20


@pytest.fixture
def qemu(qemus, pool_directory):
    return qemus("vm", [make_chain(pool_directory, "root", layers=2)[-1], make_chain(pool_directory, "data")[0]],
                 running=True)


@pytest.fixture
def web(ctl, daemon, qemu):
    """Its id."""
    return ctl.ok("-q", "vm", "register", "web", "--qmp-socket", qemu.qmp).strip()


def test_register_adopts(ctl, web, qemu, pool_directory):
    header, row, _, footer = ctl.ok("vm", "list").splitlines()
    assert header.split()[:2] == ["NAME", "STATE"] and row.split()[:5] == ["web", "running", "absent", "2", "0"]
    assert footer == "1 VM listed."
    [listed] = ctl.json("vm", "list")
    assert listed["id"] == web and [d["name"] for d in listed["disks"]] == ["web-serial0", "web-serial1"]
    assert listed["current_snapshot"] is None and listed["qmp_socket"] == qemu.qmp
    [pool] = ctl.json("pool", "list")
    assert (pool["path"], pool["state"]) == (pool_directory, "ok") and pool["capacity_bytes"] > 0
    assert ctl.json("vm", "show", web[:6])["name"] == "web"
    assert "QMP socket: " + qemu.qmp in ctl.ok("vm", "show", "web")


def test_register_with_all_that_can_be_said(ctl, daemon, directory):
    wanted = "12345678-1234-4234-8234-123456789abc"
    result = ctl.json("vm", "register", "box", "--id", wanted, "--agent-socket", f"{directory}/a.sock", "--qmp-socket",
                      f"{directory}/q.sock", "--config=-", "--config-type=text/plain", "--no-adopt",
                      "--foreign-manager", input="a document")
    assert result["vm"] == {"kind": "vm", "id": wanted, "name": "box"}
    shown = ctl.json("vm", "show", "box")
    assert shown["agent_socket"] == f"{directory}/a.sock" and shown["config_type"] == "text/plain"
    assert ctl.ok("vm", "config", "box") == "a document"


def test_configuration(ctl, web, directory):
    document = f"{directory}/web.xml"
    with open(document, "w") as f:
        f.write("<domain>\n  <name>Größe</name>\n</domain>")
    ctl.ok("vm", "set-config", "web", document, "--type=application/xml")
    assert ctl.ok("vm", "config", "web") == open(document).read()
    assert ctl.json("vm", "config", "web") == {"type": "application/xml", "config": open(document).read()}
    ctl.ok("snapshot", "create", "web", "one")
    ctl.ok("vm", "set-config", "web", "-", input="other")
    assert ctl.json("vm", "config", "web") == {"type": "application/xml", "config": "other"}, "the type stays"
    assert ctl.ok("snapshot", "config", "one") == open(document).read()
    assert "No such file" in ctl.fails("vm", "set-config", "web", f"{directory}/none")
    with open(document, "w") as f:
        f.write("x" * (4 * MIB + 1))
    assert "4194304" in ctl.fails("vm", "set-config", "web", document)


def test_update_refresh_unregister(ctl, web, qemus, qemu):
    assert ctl.ok("vm", "update", "web", "--name=www") == ""
    assert ctl.json("vm", "show", web)["name"] == "www"
    other = qemus("other", [])
    ctl.ok("vm", "update", "www", "--qmp-socket", other.qmp, "--agent-socket=")
    ctl.ok("vm", "refresh", "www")
    assert ctl.json("vm", "show", "www")["state"] == "paused"
    ctl.ok("vm", "update", "www", "--qmp-socket", qemu.qmp)
    ctl.ok("vm", "refresh", "www")
    ctl.ok("snapshot", "create", "www", "one")
    assert "snapshot" in ctl.fails("vm", "unregister", "www")
    ctl.ok("vm", "unregister", "www", "--forget-snapshots")
    assert ctl.ok("vm", "list") == "No VMs.\n"
    assert {d["vm"] for d in ctl.json("disk", "list")} == {None}


def test_snapshot_create_list_show_set(ctl, web, client):
    result = ctl.run("snapshot", "create", "web", "one", "--description=before the upgrade", "--quiesce=off")
    assert result.returncode == 0 and "create-snapshot: switch\n" in result.stderr
    assert re.search(r"^Snapshot: one \(\S{36}\)$", result.stdout, re.M) and re.search(r"^  Switch: [\d.]+[mu]s$", result.stdout, re.M)
    two = ctl.json("snapshot", "create", "web", "--disk=web-serial0", "--on-disk-failure=exclude", "--freeze-timeout=5s")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", two["snapshot"]["name"])
    assert isinstance(two["switch_usec"], int)
    three = ctl.ok("-q", "snapshot", "create", "web", "three", "--exclude", "web-serial0").strip()

    listed = ctl.json("snapshot", "list", "web")
    assert [s["name"] for s in listed] == ["one", two["snapshot"]["name"], "three"]
    assert [len(s["disks"]) for s in listed] == [2, 1, 1] and listed[2]["disks"][0]["disk"]["name"] == "web-serial1"
    assert listed[1]["parent"]["name"] == "one" and [s["current"] for s in listed] == [False, False, True]
    assert ctl.ok("snapshot", "list").splitlines()[-1] == "3 snapshots listed."

    shown = ctl.json("snapshot", "show", "one")
    assert shown["description"] == "before the upgrade" and shown["vm"]["id"] == web and shown["consistency"] == "crash"
    created = client.get(f"/org/volchain1/snapshot/{shown['id'].replace('-', '_')}", "Snapshot", "CreatedUsec")
    assert shown["created_usec"] == created
    assert "Description: before the upgrade\n" in ctl.ok("snapshot", "show", "one")
    ctl.ok("snapshot", "set", "one", "--name=first", "--description=")
    assert ctl.json("snapshot", "show", shown["id"])["name"] == "first"
    assert ctl.json("snapshot", "show", "first")["description"] == ""
    assert "has a snapshot 'first' already" in ctl.fails("snapshot", "create", "web", "first")
    assert ctl.json("snapshot", "show", three)["name"] == "three"


def test_memory_and_variable_stores(ctl, daemon, directory, qemu):
    stores = [f"{directory}/first.fd", f"{directory}/second.fd"]
    for path in stores:
        with open(path, "wb") as f:
            f.write(b"variables")
    assert "contradict" in ctl.fails("vm", "update", "x", "--nvram", stores[0], "--no-nvram", status=2)
    ctl.ok("vm", "register", "web", "--qmp-socket", qemu.qmp, "--nvram", stores[0])
    assert ctl.json("vm", "show", "web")["nvram"] == stores[:1]
    ctl.ok("vm", "update", "web", *(word for path in stores for word in ("--nvram", path)))
    assert ctl.json("vm", "show", "web")["nvram"] == stores
    assert "contradict" in ctl.fails("snapshot", "create", "web", "--memory", "--no-memory", status=2)
    result = ctl.json("snapshot", "create", "web", "one", "--memory")
    assert result["memory"] in ("background", "paused") and result["memory_bytes"] > 0
    shown = ctl.json("snapshot", "show", "one")
    assert shown["consistency"] == "memory" and shown["memory_bytes"] == result["memory_bytes"] and shown["nvram"] == stores
    assert "memory" in ctl.ok("vm", "tree", "web")
    ctl.ok("vm", "save-profile", "web", "p", "--memory")
    text = ctl.ok("snapshot", "create", "web", "two", "--profile=p")
    assert "Memory: " in text
    ctl.ok("snapshot", "create", "web", "three", "--profile=p", "--no-memory")
    assert ctl.json("snapshot", "show", "three")["memory_bytes"] == 0
    ctl.ok("vm", "update", "web", "--no-nvram")
    assert ctl.json("vm", "show", "web")["nvram"] == []

    qemu.quit()
    ctl.ok("vm", "refresh", "web")
    assert "the snapshot has none" in ctl.fails("snapshot", "preview", "three", "--memory")
    ctl.ok("snapshot", "preview", "one", "--no-memory")
    assert "-incoming" not in ctl.ok("vm", "launch-arguments", "web")
    ctl.ok("vm", "undo-preview", "web")
    ctl.ok("snapshot", "revert", "one", "--memory")
    assert ctl.json("vm", "show", "web")["resumes_from"]["name"] == "one"
    assert "-incoming" in ctl.ok("vm", "launch-arguments", "web", "--memory")
    assert "-incoming" not in ctl.ok("vm", "launch-arguments", "web", "--no-memory")
    assert "discard-memory" in ctl.fails("snapshot", "delete", "one")
    ctl.ok("vm", "update", "web", "--discard-memory")
    assert ctl.json("vm", "show", "web")["resumes_from"] is None
    assert "-incoming" not in ctl.ok("vm", "launch-arguments", "web")


def test_quiesced(ctl, directory, daemon, qemu):
    agent = AgentDouble(f"{directory}/agent.sock", file_systems=2)
    try:
        ctl.ok("vm", "register", "web", "--qmp-socket", qemu.qmp, "--agent-socket", agent.path)
        result = ctl.json("snapshot", "create", "web", "one", "--quiesce=require", "--freeze-timeout=10s")
        assert result["frozen_usec"] > 0 and "quiesce" not in result
        assert ctl.json("snapshot", "show", "one")["consistency"] == "filesystem"
    finally:
        agent.close()


def test_a_failed_job_fails_with_its_message(ctl, web):
    result = ctl.run("snapshot", "create", "web", "one", "--quiesce=require")
    assert result.returncode == 1 and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("volchainctl: ") and "web" in last and "agent" in last
    assert ctl.json("snapshot", "list") == []


def test_a_name_that_two_snapshots_have(ctl, web):
    ctl.ok("vm", "register", "down")
    ctl.ok("disk", "create", ctl.json("pool", "list")[0]["name"], "data", "1M")
    ctl.ok("disk", "attach", "data", "down", "vda")
    ids = [ctl.ok("-q", "snapshot", "create", vm, "same").strip() for vm in ("web", "down")]
    message = ctl.fails("snapshot", "show", "same")
    assert all(id in message for id in ids) and "use the id" in message
    assert [ctl.json("snapshot", "show", id)["vm"]["name"] for id in ids] == ["web", "down"]


def test_tree(ctl, web):
    ctl.ok("snapshot", "create", "web", "one")
    ctl.ok("snapshot", "create", "web", "two", "--disk=web-serial0")
    text = ctl.ok("vm", "tree", "web")
    lines = [re.sub(r" +", " ", line).rstrip() for line in text.splitlines()]
    assert lines[0].split() == ["SNAPSHOT", "VOLUME", "SIZE", "ALLOCATED", "STATE", "ABOUT"]
    assert lines[1] == "web running"
    assert re.fullmatch(r"└─ one ok [\d-]+ [\d:]+, crash", lines[2])
    assert re.fullmatch(r" │ web-serial0 root\.1\.qcow2 64M [\d.]+[KM] ok", lines[3])
    assert re.fullmatch(r" │ root\.0\.qcow2 64M [\d.]+[KM] ok", lines[4])
    assert re.fullmatch(r" │ web-serial1 data\.0\.qcow2 64M [\d.]+[KM] ok", lines[5])
    assert re.fullmatch(r" two ok [\d-]+ [\d:]+, crash, current", lines[6])
    assert re.fullmatch(r" │ web-serial0 \S+ 64M \d+K ok", lines[7])
    assert lines[8] == " (now)"
    assert re.fullmatch(r" web-serial0 \S+ 64M \d+K ok active", lines[9])
    assert re.fullmatch(r" web-serial1 \S+ 64M \d+K ok active", lines[10]) and len(lines) == 11
    ascii_text = ctl.ok("vm", "tree", "web", "--no-legend", LC_ALL="C")
    assert ascii_text.isascii() and "`- one" in ascii_text

    tree = ctl.json("vm", "tree", "web")
    [one] = tree["tree"]
    assert tree["name"] == "web" and one["name"] == "one" and [v["layer"] for v in one["volumes"]] == [False, True, False]
    [two] = one["children"]
    [now] = two["children"]
    assert two["current"] and now["type"] == "now"
    active = {d["active_path"] for d in ctl.json("disk", "list")}
    assert {v["path"] for v in now["volumes"]} == active and all(v["active"] for v in now["volumes"])


@pytest.fixture
def box(ctl, daemon, pool_directory):
    """A VM that is down, with two disks and two snapshots."""
    ctl.ok("pool", "create", "main", pool_directory)
    ctl.ok("vm", "register", "box", "--config=-", "--config-type=text/plain", input="first")
    for disk, target in ("root", "vda"), ("data", "vdb"):
        ctl.ok("disk", "create", "main", disk, "1M")
        ctl.ok("disk", "attach", disk, "box", target)
    ctl.ok("snapshot", "create", "box", "one")
    ctl.ok("vm", "set-config", "box", "-", input="second")
    ctl.ok("snapshot", "create", "box", "two")
    return "box"


def test_previews(ctl, box, pool_directory):
    active = {d["active_path"] for d in ctl.json("disk", "list")}
    # Another VM has a snapshot of the same name.
    ctl.ok("vm", "register", "other")
    ctl.ok("disk", "create", "main", "other", "1M")
    ctl.ok("disk", "attach", "other", "other")
    ctl.ok("snapshot", "create", "other", "one")
    assert ctl.ok("vm", "preview", "box", "root=one", "vdb=two", "--config-from=one") == ""
    assert ctl.ok("vm", "config", "box") == "first"
    shown = ctl.json("vm", "show", "box")
    assert shown["preview_of"]["name"] == "two" and shown["current_snapshot"]["name"] == "two"
    assert {(s["name"], s["status"]) for s in ctl.json("snapshot", "list", "box")} == \
        {("one", "previewed"), ("two", "previewed")}
    tree = ctl.ok("vm", "tree", "box")
    assert "(before)" in tree and "(preview)" in tree and "(other volumes)" not in tree
    assert "commit or undo" in ctl.fails("snapshot", "create", "box", "three")
    ctl.ok("vm", "undo-preview", "box")
    assert ctl.ok("vm", "config", "box") == "second"
    assert {d["active_path"] for d in ctl.json("disk", "list", "box")} == active

    one = ctl.json("snapshot", "list", "box")[0]["id"]
    ctl.ok("snapshot", "preview", one, "--no-config")
    assert ctl.ok("vm", "config", "box") == "second"
    assert ctl.json("vm", "commit-preview", "box", "--keep-branch") == {}, "nothing was written: nothing is kept"
    assert ctl.ok("snapshot", "revert", "two") == ""
    ctl.ok("snapshot", "create", "box", "three")
    assert ctl.ok("snapshot", "revert", one) == "Removed: two\n         three\n"
    assert [s["name"] for s in ctl.json("snapshot", "list", "box")] == ["one"]
    assert "shows no preview" in ctl.fails("vm", "undo-preview", "box")


def test_wrong_choices(ctl, box):
    for word in "root", "root=", "=one":
        assert "DISK=SNAPSHOT" in ctl.fails("vm", "preview", "box", word, status=2)
    assert "named twice" in ctl.fails("vm", "preview", "box", "root=one", "vda=two", status=2)
    assert "DISK=SNAPSHOT" in ctl.fails("vm", "preview", "box", status=2)
    assert "none" in ctl.fails("vm", "preview", "box", "root=none")


def test_launch_arguments(ctl, box, qemus):
    lines = ctl.ok("vm", "launch-arguments", "box", "--device=virtio-blk-pci").splitlines()
    assert lines == ctl.json("vm", "launch-arguments", "box", "--device=virtio-blk-pci")
    assert lines.count("-blockdev") == 6 and lines.count("-device") == 2
    qemus("box", [], extra=lines).quit()


def by_depth(ctl, disk):
    return sorted(ctl.json("volume", "list", disk), key=lambda volume: volume["depth"])


def test_snapshots_and_volumes_go(ctl, web):
    ctl.ok("snapshot", "create", "web", "one")
    ctl.ok("snapshot", "create", "web", "two")
    ctl.ok("snapshot", "delete", "one")
    assert [snapshot["name"] for snapshot in ctl.json("snapshot", "list", "web")] == ["two"]
    ctl.ok("snapshot", "delete", "two", "--children", "--speed=1G")
    assert ctl.json("snapshot", "list", "web") == []

    ctl.ok("disk", "overlay", "web-serial0")
    volumes = by_depth(ctl, "web-serial0")
    assert len(volumes) == 3
    ctl.ok("volume", "merge", volumes[1]["id"], "--direction=stream", "--speed=1G")
    volumes = by_depth(ctl, "web-serial0")
    ctl.ok("volume", "commit", volumes[1]["id"], volumes[0]["id"])
    assert [volume["id"] for volume in by_depth(ctl, "web-serial0")] == [volumes[0]["id"]]
    ctl.ok("disk", "overlay", "web-serial0")
    ctl.ok("disk", "flatten", "web-serial0")
    assert len(by_depth(ctl, "web-serial0")) == 1

    [base] = by_depth(ctl, "web-serial1")
    ctl.ok("disk", "overlay", "web-serial1")
    known = {volume["id"] for volume in by_depth(ctl, "web-serial1")}
    ctl.ok("disk", "overlay", "web-serial1", "--backing=" + base["id"])
    [branch] = {volume["id"] for volume in by_depth(ctl, "web-serial1")} - known
    ctl.ok("volume", "delete", branch)
    assert {volume["id"] for volume in by_depth(ctl, "web-serial1")} == known


def test_a_job_that_has_ended_cannot_be_told_anything(ctl, web):
    ctl.ok("snapshot", "create", "web", "one")
    job = ctl.json("job", "list")[0]["id"]
    for words in (["job", "pause", job], ["job", "resume", job], ["job", "speed", job, "1M"]):
        assert "has ended" in ctl.fails(*words)
