# SPDX-License-Identifier: MIT
"""volchainctl schedule, profiles, documents of snapshots, manifests, and the lists of snapshots, against the daemon."""
import glob
import os
import time

import pytest

MIB = 1 << 20


@pytest.fixture
def vm(ctl, daemon, pool_directory):
    """VM "web", which is down, with a disk "root"."""
    ctl.ok("pool", "create", "main", pool_directory)
    ctl.ok("disk", "create", "main", "root", "4M")
    ctl.ok("vm", "register", "web")
    ctl.ok("disk", "attach", "root", "web", "root")
    return "web"


def shown(ctl, name):
    return ctl.json("schedule", "show", name)


def test_create_with_every_option(ctl, vm):
    ctl.ok("vm", "save-profile", vm, "p", "--quiesce=off")
    ctl.ok("schedule", "create", vm, "nightly", "30 2 * * mon-fri", "--keep-last=1", "--keep-hourly=2", "--keep-daily=3",
           "--keep-weekly=4", "--keep-monthly=5", "--keep-yearly=6", "--max-chain=7", "--time-zone=Europe/Berlin", "--jitter=5m",
           "--when-down=snapshot", "--speed=1M", "--profile=p", "--description=d", "--disk=root", "--quiesce=require",
           "--freeze-timeout=3s", "--on-disk-failure=exclude", "--disabled")
    made = shown(ctl, "nightly")
    assert made["calendar"] == "30 2 * * mon-fri" and made["time_zone"] == "Europe/Berlin" and made["enabled"] is False
    assert made["keep"] == {"last": 1, "hourly": 2, "daily": 3, "weekly": 4, "monthly": 5, "yearly": 6}
    assert (made["max_chain"], made["when_down"], made["speed_bytes"]) == (7, "snapshot", MIB)
    assert made["jitter_usec"] == 300_000_000 and made["next_usec"] is None
    options = made["snapshot"]
    assert (options["profile"], options["description"], options["quiesce"], options["on_disk_failure"]) == (
        "p", "d", "require", "exclude")
    assert [disk["name"] for disk in options["disks"]] == ["root"]
    assert made["vm"]["name"] == vm and made["owner_uid"] == os.getuid()


def test_list_set_run_delete(ctl, vm):
    assert ctl.ok("schedule", "list") == "No schedules.\n"
    ctl.ok("schedule", "create", vm, "nightly", "daily", "--exclude=root", "--disabled")
    assert "no disk is left" in ctl.fails("schedule", "run", "nightly")
    ctl.ok("schedule", "set", "nightly", "--name=hourly", "--calendar=hourly", "--enabled=yes", "--keep-last=2", "--keep-hourly=1",
           "--keep-daily=1", "--keep-weekly=1", "--keep-monthly=1", "--keep-yearly=1", "--max-chain=9", "--time-zone=UTC",
           "--jitter=1s", "--when-down=skip", "--speed=0", "--description=x", "--quiesce=off", "--freeze-timeout=1s",
           "--on-disk-failure=abort", "--disk=root")
    made = shown(ctl, "hourly")
    assert made["enabled"] is True and 0 < made["next_usec"] / 1e6 - time.time() <= 3601 and made["max_chain"] == 9
    header, row, _, footer = ctl.ok("schedule", "list", vm).splitlines()
    assert header.split()[:4] == ["NAME", "VM", "CALENDAR", "NEXT"] and row.split()[:3] == ["hourly", "web", "hourly"]
    assert footer == "1 schedule listed."
    ctl.ok("schedule", "run", "hourly")
    end = time.monotonic() + 30
    while shown(ctl, "hourly")["last_result"] != "ok" or shown(ctl, "hourly")["running"]:
        assert time.monotonic() < end, shown(ctl, "hourly")
    assert len(shown(ctl, "hourly")["snapshots"]) == 1
    ctl.ok("vm", "save-profile", vm, "p")
    ctl.ok("schedule", "set", "hourly", "--profile=p")
    assert "is used by" in ctl.fails("vm", "delete-profile", vm, "p")
    ctl.ok("schedule", "set", "hourly", "--exclude=root")
    ctl.ok("schedule", "delete", "hourly")
    assert ctl.json("schedule", "list") == [] and len(ctl.json("snapshot", "list")) == 1


def test_wrong_words(ctl, vm):
    assert "number" in ctl.fails("schedule", "create", vm, "x", "daily", "--keep-last=some", status=2)
    assert "no weekday" in ctl.fails("schedule", "create", vm, "x", "sometimes")
    assert "time zone" in ctl.fails("schedule", "create", vm, "x", "daily", "--time-zone=Atlantis")


def test_profiles(ctl, vm):
    ctl.ok("vm", "save-profile", vm, "p", "--description=saved", "--disk=root", "--quiesce=off", "--freeze-timeout=2s",
           "--on-disk-failure=exclude")
    profile = ctl.json("vm", "show", vm)["profiles"]["p"]
    assert profile["description"] == "saved" and profile["quiesce"] == "off" and profile["on_disk_failure"] == "exclude"
    ctl.ok("snapshot", "create", vm, "s1", "--profile=p")
    assert ctl.json("snapshot", "show", "s1")["description"] == "saved"
    ctl.ok("vm", "save-profile", vm, "none", "--exclude=root")
    assert "no disk is left" in ctl.fails("snapshot", "create", vm, "s2", "--profile=none")
    ctl.ok("vm", "delete-profile", vm, "p")
    assert "no profile 'p'" in ctl.fails("snapshot", "create", vm, "s2", "--profile=p")


def test_lists_sorted_and_filtered(ctl, vm):
    for name in ("b", "c", "a"):
        ctl.ok("snapshot", "create", vm, name)
    ctl.ok("schedule", "create", vm, "later", "daily")
    ctl.ok("schedule", "create", vm, "sooner", "hourly")
    ctl.ok("schedule", "create", vm, "never", "daily", "--disabled")

    def names(*options):
        return [row["name"] for row in ctl.json("snapshot", "list", vm, *options)]
    assert names() == names("--sort=date") == names("--show=taken") == ["b", "c", "a"]
    assert names("--reverse") == ["a", "c", "b"]
    assert names("--sort=name") == ["a", "b", "c"] and names("--sort=name", "--reverse") == ["c", "b", "a"]
    assert sorted(names("--show=scheduled")) == ["later", "sooner"]
    assert names("--show=all")[:3] == ["b", "c", "a"] and len(names("--show=all")) == 5
    assert names("--show=all", "--sort=name") == ["a", "b", "c", "later", "sooner"]
    [row] = [row for row in ctl.json("snapshot", "list", "--show=scheduled") if row["name"] == "sooner"]
    assert row["created_usec"] == shown(ctl, "sooner")["next_usec"] and row["status"] == "scheduled"
    assert "scheduled" in ctl.ok("snapshot", "list", "--show=all")


def test_documents_of_snapshots(ctl, vm, directory):
    ctl.ok("snapshot", "create", vm, "s1")
    xml = ctl.ok("snapshot", "xml", "s1")
    assert xml.startswith("<domainsnapshot>") and ctl.json("snapshot", "xml", "s1") == {"xml": xml}
    identity = ctl.json("vm", "show", vm)["id"]
    ctl.ok("vm", "unregister", vm, "--forget-snapshots")
    ctl.ok("vm", "register", vm, f"--id={identity}")
    ctl.ok("disk", "attach", "root", vm, "root")
    with open(f"{directory}/s1.xml", "w") as f:
        f.write(xml)
    ctl.ok("vm", "import-snapshot", vm, f"{directory}/s1.xml", "--current=no")
    assert ctl.json("snapshot", "show", "s1")["current"] is False
    assert "already" in ctl.fails("vm", "import-snapshot", vm, "-", input=xml)
    ctl.ok("vm", "unregister", vm, "--forget-snapshots")
    ctl.ok("vm", "register", vm, f"--id={identity}")
    ctl.ok("disk", "attach", "root", vm, "root")
    ctl.ok("vm", "import-snapshot", vm, "-", input=xml)
    assert ctl.json("snapshot", "show", "s1")["current"] is True


def test_import_of_a_vm(ctl, vm, directory, daemon, pool_directory):
    ctl.ok("snapshot", "create", vm, "s1")
    daemon.stop()
    for path in glob.glob(daemon.directory + "/state/*"):
        os.unlink(path)
    os.rename(pool_directory, pool_directory + "-elsewhere")
    daemon.start()
    [path] = glob.glob(pool_directory + "-elsewhere/.volchain/*.json")
    ctl.ok("vm", "import", path, "--name=again", f"--pool=/nowhere={directory}", f"--qmp-socket={directory}/q",
           f"--agent-socket={directory}/a", "--ignore-newer")
    found = ctl.json("vm", "show", "again")
    assert found["qmp_socket"] == f"{directory}/q" and found["agent_socket"] == f"{directory}/a"
    assert [row["name"] for row in ctl.json("snapshot", "list", "again")] == ["s1"]
    assert "already" in ctl.fails("vm", "import", path)
    assert "OLD=NEW" in ctl.fails("vm", "import", path, "--pool=x", status=2)
