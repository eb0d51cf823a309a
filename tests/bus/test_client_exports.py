# SPDX-License-Identifier: MIT
"""volchainctl export, and volume export, against the daemon."""
import os
import re
import shutil
import subprocess
import time

import pytest

from harness import exports, images
from harness.ctl import PROGRAM
from harness.filesystems import ENVIRONMENT, make_disk

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MIB = 1 << 20


@pytest.fixture
def disk(ctl, daemon, pool_directory):
    """A floating disk with a snapshot, "s1"; the path of its first image."""
    ctl.ok("pool", "create", "main", pool_directory)
    path = images.create(f"{pool_directory}/root.qcow2", 8 * MIB)
    images.write(path, 7, 0, MIB)
    ctl.ok("disk", "import", "main", "root.qcow2", "--name=root")
    ctl.ok("disk", "snapshot", "root", "s1")
    yield path
    assert exports.leftovers(daemon.directory) == []


def create(ctl, *options):
    return ctl.ok("-q", "export", "create", "s1", "root", *options).strip()


def test_create_and_stop(ctl, disk):
    text = ctl.ok("export", "create", "s1", "root")
    found = re.search(rf"Export: ({UUID})\n", text)
    assert found and re.search(r"Uri: (nbd\+unix:\S+)\n", text), text
    address = re.search(r"Uri: (\S+)\n", text).group(1)
    assert exports.digest_by_uri(address) == images.digest(disk)
    assert "is exported: export" in ctl.fails("snapshot", "delete", "s1")
    assert ctl.ok("export", "stop", found.group(1)) == ""
    ctl.ok("snapshot", "delete", "s1")


def test_list_and_show(ctl, disk):
    assert ctl.ok("export", "list") == "No exports.\n" and ctl.json("export", "list") == []
    made = create(ctl, "--ttl=1h", "--writable")
    header, row, _, footer = ctl.ok("export", "list").splitlines()
    assert header.split()[:6] == ["ID", "KIND", "DISK", "SNAPSHOT", "WRITABLE", "CONNECTIONS"]
    assert row.split()[0] == made[:8] and row.split()[1:5] == ["nbd", "root", "s1", "yes"] and footer == "1 export listed."
    [listed] = ctl.json("export", "list")
    assert listed["id"] == made and listed["writable"] is True and listed["connections"] == 0
    shown = ctl.json("export", "show", made[:6])
    assert shown["snapshot"]["name"] == "s1" and shown["owner_uid"] == os.getuid()
    assert 3500 < shown["expires_usec"] / 1e6 - time.time() < 3601
    ctl.ok("export", "renew", made, "2h")
    assert ctl.json("export", "show", made)["expires_usec"] > shown["expires_usec"]
    ctl.ok("export", "renew", made, "0")
    assert ctl.json("export", "show", made)["expires_usec"] is None
    other = create(ctl)
    ctl.ok("export", "stop", made, other)


def test_volume_export(ctl, disk):
    made = ctl.ok("-q", "volume", "export", disk, "--max-connections=3").strip()
    assert exports.digest_by_uri(ctl.json("export", "show", made)["uri"]) == images.digest(disk)
    ctl.ok("export", "stop", made)
    active = ctl.json("disk", "show", "root")["active_path"]
    assert "take a snapshot" in ctl.fails("volume", "export", active)


def test_open(ctl, disk):
    """As libnbd runs it, at the other end of its standard input and output."""
    made = create(ctl)

    def connect(handle):
        os.environ.update(ctl.environment)
        handle.connect_command([PROGRAM, "export", "open", made])
    assert exports.digest_by_libnbd(connect) == images.digest(disk)
    # Who is not interested any more.
    process = subprocess.run([PROGRAM, "export", "open", made], stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
                             env=ctl.environment, check=False)
    assert process.returncode == 0 and process.stdout.startswith(b"NBDMAGIC")
    ctl.ok("export", "stop", made)
    assert "there is no export" in ctl.fails("export", "open", made)


@pytest.mark.skipif(os.getuid() != 0 or not os.path.exists("/dev/fuse"), reason="exports of kind file are NOT tested")
def test_file(ctl, disk):
    made = ctl.json("export", "create", "s1", "root", "--kind=file", "--allow-uid=bin")
    assert exports.digest_of_file(made["path"]) == images.digest(disk) and os.stat(made["path"]).st_uid == 2
    ctl.ok("export", "stop", made["export"]["id"])


def test_files_without_guestfish(ctl, disk, tmp_path):
    """What to install is said before anything is done."""
    assert "package guestfish" in ctl.fails("export", "files", "s1", "root", PATH=str(tmp_path))
    assert "absolute path" in ctl.fails("export", "files", "s1", "root", "etc", status=2)
    assert "takes the path" in ctl.fails("export", "files", "s1", "root", "--copy-out=/tmp", status=2)
    assert "no directory" in ctl.fails("export", "files", "s1", "root", "/etc", "--copy-out=/none", status=2)
    assert not [job for job in ctl.json("job", "list") if job["kind"] == "export"]


@pytest.fixture
def with_files(ctl, daemon, pool_directory):
    """A floating disk with a file system and files in it, and a snapshot, "s1"."""
    raw, path = f"{pool_directory}/data.raw", f"{pool_directory}/data.qcow2"
    make_disk(path)
    images.run("qemu-img", "convert", "-O", "raw", path, raw)
    with open(f"{pool_directory}/words", "w") as f:
        f.write("what was saved\n")
    commands = f"mkdir /letters\nwrite {pool_directory}/words /letters/words\nwrite {pool_directory}/words /top\n"
    images.run("debugfs", "-w", "-f", "/dev/stdin", raw, input=commands, env=ENVIRONMENT)
    images.run("qemu-img", "convert", "-O", "qcow2", raw, path)
    os.unlink(raw)
    ctl.ok("pool", "create", "main", pool_directory)
    ctl.ok("disk", "import", "main", "data.qcow2", "--name=data")
    ctl.ok("disk", "snapshot", "data", "s1")
    yield path
    assert exports.leftovers(daemon.directory) == []


@pytest.mark.skipif(not shutil.which("guestfish"), reason="export files is NOT tested: no guestfish")
def test_files(ctl, with_files, tmp_path):
    slow = {"timeout": 300, "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    expected = images.digest(with_files)
    assert {"letters", "top"} <= set(ctl.json("export", "files", "s1", "data", **slow)["names"])
    listing = ctl.ok("export", "files", "s1", "data", "/letters", "--filesystem=/dev/sda", **slow)
    assert re.search(r"15 .*words\n", listing), listing
    ctl.ok("export", "files", "s1", "data", "/letters", "/top", f"--copy-out={tmp_path}", **slow)
    for name in "letters/words", "top":
        with open(f"{tmp_path}/{name}") as f:
            assert f.read() == "what was saved\n"
    # What goes wrong in there leaves nothing either.
    assert "guestfish could not" in ctl.fails("export", "files", "s1", "data", "/none", **slow)
    assert "has no file system '/dev/sdz'" in ctl.fails("export", "files", "s1", "data", "--filesystem=/dev/sdz", **slow)
    assert ctl.json("export", "list") == [] and images.digest(with_files) == expected


def test_what_is_wrong(ctl, disk):
    assert "no-such-user" in ctl.fails("export", "create", "s1", "root", "--allow-uid=no-such-user", status=2)
    assert "no number" in ctl.fails("export", "create", "s1", "root", "--max-connections=many", status=2)
    assert "nbd|file|device" in ctl.fails("export", "create", "s1", "root", "--kind=usb", status=2)
    assert "TLS" in ctl.fails("export", "create", "s1", "root", "--address=127.0.0.1:1")
    assert "'/none'" in ctl.fails("export", "create", "s1", "root", "--tls-credentials=/none",
                                            "--address=127.0.0.1:0")
    assert "monday" in ctl.fails("export", "create", "s1", "root", "--since=monday")
    assert "'serial'" in ctl.fails("export", "create", "s1", "root", "--serial=x")
    assert "there is no vm" in ctl.fails("export", "create", "s1", "root", "--kind=device", "--vm=none")
    assert "'vm'" in ctl.fails("export", "create", "s1", "root", "--kind=device")
    assert "there is no snapshot" in ctl.fails("export", "create", "none", "root")
    assert "there is no export" in ctl.fails("export", "stop", "none")
