# SPDX-License-Identifier: MIT
"""volchainctl backup, and the checkpoints of VMs, against the daemon with a QEMU that has no guest."""
import os
import re

import pytest

from harness import backups, exports, images
from harness.chains import make_chain

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def web(ctl, daemon, qemus, pool_directory):
    """Its QEMU."""
    qemu = qemus("vm", [make_chain(pool_directory, "root", layers=2)[-1], make_chain(pool_directory, "data")[0]],
                 running=True)
    ctl.ok("vm", "register", "web", "--qmp-socket", qemu.qmp)
    yield qemu
    assert backups.leftovers(daemon.directory, [pool_directory], qemu) == []


def test_start_and_finish(ctl, web):
    assert ctl.ok("backup", "list") == "No backups.\n" and ctl.json("backup", "list") == []
    text = ctl.ok("backup", "start", "web", "--checkpoint=monday", "--quiesce=off")
    backup = re.search(rf"Backup: ({UUID})\n", text).group(1)
    header, row, _, footer = ctl.ok("backup", "list").splitlines()
    assert header.split()[:4] == ["ID", "VM", "KIND", "CHECKPOINT"] and footer == "1 backup listed."
    assert row.split()[:4] == [backup[:8], "web", "full", "monday"]
    shown = ctl.json("backup", "show", backup[:6])
    assert (shown["state"], shown["mode"], shown["owner_uid"]) == ("ready", "pull", os.getuid())
    listed = ctl.json("export", "list")
    assert sorted(e["disk"]["name"] for e in listed) == ["web-serial0", "web-serial1"]
    uri = next(e["uri"] for e in listed if e["disk"]["name"] == "web-serial0")
    assert exports.digest_by_uri(uri) == images.digest(web.active_file("dev0"))
    assert "is a part of backup" in ctl.fails("export", "stop", listed[0]["id"])
    assert "is being backed up" in ctl.fails("snapshot", "create", "web", "s1")
    ctl.ok("backup", "finish", backup)
    assert ctl.ok("backup", "list") == "No backups.\n"
    assert "there is no backup" in ctl.fails("backup", "finish", backup)
    [checkpoint] = ctl.json("vm", "checkpoints", "web")
    assert (checkpoint["name"], checkpoint["state"], checkpoint["problems"]) == ("monday", "ok", None)


def test_all_options(ctl, web):
    first = ctl.ok("-q", "backup", "start", "web", "--checkpoint=monday", "--quiesce=off", "--disk=serial0").strip()
    ctl.ok("backup", "finish", first)
    assert "partial" in ctl.ok("vm", "checkpoints", "web")
    [row] = ctl.json("vm", "checkpoints", "web")
    assert "web-serial1" in row["problems"][0]
    error = ctl.fails("backup", "start", "web", "--kind=incremental", "--require-incremental")
    assert "web-serial1" in error and "full backup" in error
    second = ctl.ok("-q", "backup", "start", "web", "--kind=differential", "--since=monday", "--disk=serial0",
                    "--disk=serial1", "--quiesce=auto", "--freeze-timeout=5s", "--allow-uid=root").strip()
    shown = ctl.json("backup", "show", second)
    assert shown["kind"] == "differential" and shown["since"] == "monday"
    ctl.ok("backup", "abort", second)
    assert "require" in ctl.fails("backup", "start", "web", "--quiesce=never", status=2)
    assert "cannot be frozen" in ctl.fails("backup", "start", "web", "--quiesce=require")
    assert "no-such-user" in ctl.fails("backup", "start", "web", "--allow-uid=no-such-user", status=2)
    assert "there is no vm" in ctl.fails("backup", "start", "none")
    ctl.ok("vm", "delete-checkpoint", "web", "monday")
    assert ctl.ok("vm", "checkpoints", "web") == "No checkpoints.\n"
    assert "no checkpoint 'monday'" in ctl.fails("vm", "delete-checkpoint", "web", "monday")


def test_what_stays_of_a_checkpoint_is_named(ctl, web):
    ctl.ok("backup", "finish", ctl.ok("-q", "backup", "start", "web", "--checkpoint=monday", "--quiesce=off").strip())
    ctl.ok("snapshot", "create", "web", "s1", "--quiesce=off")
    text = ctl.ok("vm", "delete-checkpoint", "web", "monday")
    assert text.startswith("Left: ") and ".qcow2" in text


def test_push(ctl, web, directory):
    target = f"{directory}/backups"
    os.mkdir(target)
    result = ctl.json("backup", "start", "web", "--mode=push", f"--target={target}", "--checkpoint=c0", "--quiesce=off",
                      "--speed=1G", "--compress")
    assert sorted(result["files"]) == [f"{target}/web-serial0.c0.qcow2", f"{target}/web-serial1.c0.qcow2"]
    assert images.digest(f"{target}/web-serial0.c0.qcow2") == images.digest(web.active_file("dev0"))
    pool = f"{directory}/more"
    os.mkdir(pool)
    ctl.ok("pool", "create", "more", pool)
    text = ctl.ok("backup", "start", "web", "--mode=push", "--target-pool=more", "--quiesce=off", "--disk=serial1")
    assert f"Files: {pool}/web-serial1." in text
    assert "target" in ctl.fails("backup", "start", "web", "--mode=push")
    assert ctl.ok("backup", "list") == "No backups.\n"


def test_of_a_snapshot(ctl, web):
    ctl.ok("snapshot", "create", "web", "s1", "--quiesce=off", "--checkpoint=since-s1")
    assert "since-s1" in ctl.ok("vm", "checkpoints", "web")
    backup = ctl.ok("-q", "backup", "start", "web", "--snapshot=s1").strip()
    shown = ctl.json("backup", "show", backup)
    assert (shown["source"], shown["snapshot"]["name"], shown["consistency"]) == ("snapshot", "s1", "crash")
    assert "is being backed up" in ctl.fails("snapshot", "delete", "s1")
    ctl.ok("backup", "finish", backup)
    assert "moment is over" in ctl.fails("backup", "start", "web", "--snapshot=s1", "--checkpoint=monday")
    assert "there is no snapshot" in ctl.fails("backup", "start", "web", "--snapshot=s2")
    ctl.ok("snapshot", "delete", "s1")


def test_of_a_vm_that_is_down(ctl, web):
    web.quit()
    ctl.ok("vm", "refresh", "web")
    backup = ctl.ok("-q", "backup", "start", "web", "--checkpoint=monday").strip()
    shown = ctl.json("backup", "show", backup)
    assert (shown["source"], shown["consistency"], shown["state"]) == ("down", "offline", "ready")
    assert "no guest to freeze" in ctl.fails("backup", "start", "web", "--quiesce=require")
    ctl.ok("backup", "finish", backup)
    [checkpoint] = ctl.json("vm", "checkpoints", "web")
    assert (checkpoint["name"], checkpoint["state"]) == ("monday", "ok")


# --- directories of backup run ---

def test_directories(ctl, web, tmp_path):
    target = tmp_path / "backups"
    moment = ctl.ok("-q", "backup", "run", "web", target, "--quiesce=off").strip()
    assert re.fullmatch(r"\d{8}T\d{6}Z", moment)
    text = ctl.ok("backup", "list", target)
    assert text.splitlines()[1].split()[0] == moment and text.endswith("1 moment listed.\n")
    text = ctl.ok("backup", "verify", target)
    assert text == f"{moment}  ok\n" and ctl.ok("-q", "backup", "verify", target) == ""
    text = ctl.ok("backup", "run", "web", target, "--quiesce=off")
    assert "incremental" in text and "full" not in text
    assert "no moment 'x'" in ctl.fails("backup", "verify", target, "--moment=x")


def test_directories_that_are_none(ctl, web, tmp_path):
    assert ctl.json("backup", "list", tmp_path) == [] and ctl.ok("backup", "list", tmp_path) == "No moments.\n"
    for words in (("list",), ("verify",)):
        assert "cannot open directory" in ctl.fails("backup", *words, tmp_path / "none")
    assert "volchain-backup.json" in ctl.fails("backup", "verify", tmp_path)
    assert "cannot make directory" in ctl.fails("backup", "run", "web", tmp_path / "none/none")
    assert "there is no vm" in ctl.fails("backup", "run", "none", tmp_path)
    for words in (("run", "web"), ("verify",), ("run", "web", tmp_path, "--keep=many"), ("run", "web", tmp_path, "--no-wait"),
                  ("run", "web", tmp_path, "--full", "--require-incremental")):
        ctl.fails("backup", *words, status=2)
    # Nothing was begun.
    assert ctl.ok("backup", "list") == "No backups.\n"
    (tmp_path / "volchain-backup.json").write_text('{"format": "volchain-backup", "version": 2}')
    assert "is of version 2" in ctl.fails("backup", "list", tmp_path)
