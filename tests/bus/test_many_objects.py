# SPDX-License-Identifier: MIT
"""A host with thousands of objects: what it takes to list them, and a list that no message can hold."""
import json
import os
import sqlite3
import subprocess
import time
import uuid

import pytest

from harness.client import NAME, ROOT, Client, DBusError
from harness.daemon import Daemon

VMS, DISKS, LAYERS, JOBS = 100, 2, 10, 2000
OBJECTS = 1 + VMS * (1 + DISKS + DISKS * LAYERS + LAYERS) + JOBS


@pytest.fixture
def daemon(directory, bus):
    """One that has run before, and is not running now."""
    daemon = Daemon(f"{directory}/d", bus, verbose=False)
    daemon.start()
    daemon.stop()
    yield daemon
    daemon.stop()


def fill(daemon, pool_path):
    """Writes records of a busy host: VMs with disks of ten layers, a snapshot for each, and a day's jobs."""
    database = sqlite3.connect(f"{daemon.directory}/state/volchain.db")
    new = lambda: str(uuid.uuid4())  # noqa: E731
    pool = new()
    rows = {"pool": [(pool, "images", pool_path)], "vm": [], "disk": [], "volume": [], "snapshot": [],
            "snapshot_disk": [], "job": []}
    for vm_number in range(VMS):
        vm, snapshots = new(), [new() for _ in range(LAYERS)]
        rows["vm"].append((vm, f"vm-{vm_number}", "", "", "", "", snapshots[-1], 1, 0, None, None, None, None, "{}",
                           "[]", None, None, "[]"))
        for number, snapshot in enumerate(snapshots):
            parent = snapshots[number - 1] if number else None
            rows["snapshot"].append((snapshot, vm, f"daily-{number}", "made by a schedule", parent,
                                     1_700_000_000_000_000 + number, "running", "filesystem", "ok", "user",
                                     "", "", None, "[]"))
        for disk_number in range(DISKS):
            disk, volumes = new(), [new() for _ in range(LAYERS)]
            name = f"vm-{vm_number}-{disk_number}"
            rows["disk"].append((disk, name, vm, f"serial{disk_number}", volumes[-1], None, 0, "{}"))
            for volume, snapshot in zip(volumes, snapshots):
                rows["volume"].append((volume, disk, pool, f"{name}-{volume}.qcow2", "qcow2", 0, "none"))
                rows["snapshot_disk"].append((snapshot, disk, volume))
    for _ in range(JOBS):
        rows["job"].append((new(), "create-snapshot", "vm", vm, "succeeded", "finish", 1,
                            int(time.time() * 1e6), 0, 0, 0, None, None,
                            json.dumps({"frozen-usec": 1234}), "{}"))
    insert(database, rows)
    database.close()


def insert(database, rows):
    with database:
        for table, values in rows.items():
            columns = len(database.execute(f"PRAGMA table_info({table})").fetchall())
            for value in values[:1]:
                assert len(value) == columns, f"table {table} has {columns} columns now"
            database.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * columns)})", values)


def list_all(bus):
    """Without a parser that would take longer than the daemon: (seconds, output of busctl)."""
    started = time.monotonic()
    output = subprocess.run(
        ["busctl", f"--address={bus.address}", "--json=short", "call", NAME, ROOT,
         "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"],
        capture_output=True, text=True, timeout=120)
    assert output.returncode == 0, output.stderr
    return time.monotonic() - started, output.stdout


def test_thousands_of_objects(daemon, bus, directory):
    os.mkdir(f"{directory}/pool")
    fill(daemon, f"{directory}/pool")
    daemon.start(timeout=120)
    client = Client(bus.address)
    try:
        seconds, text = list_all(bus)
        found = json.loads(text)["data"][0]
        assert len(found) == OBJECTS
        print(f"\n{OBJECTS} objects: ready after {daemon.ready_after:.2f} s, listed in {seconds:.2f} s")
        # Under the sanitizers, beside other tests: a limit that finds what grows with the square of the
        # numbers.
        assert seconds < 20
        disk = next(path for path in found if "/disk/" in path)
        started = time.monotonic()
        for _ in range(50):
            assert len(client.get(disk, "Disk", "Volumes")) == LAYERS
        assert time.monotonic() - started < 5
        # One change is no reason to look at everything.
        vm = next(path for path in found if "/vm/" in path)
        started = time.monotonic()
        for number in range(20):
            client.call(vm, "VM", "Update", "a{sv}", {"name": ("s", f"renamed-{number}")})
        assert time.monotonic() - started < 10
    finally:
        client.close()


def test_more_than_a_message_holds(daemon, bus, directory):
    """An error for who asked. (The bus throws out whoever sends more than 32 MiB: that would end the
    daemon.)"""
    database = sqlite3.connect(f"{daemon.directory}/state/volchain.db")
    words = "x" * 200_000
    now = int(time.time() * 1e6)
    jobs = [(str(uuid.uuid4()), "create-snapshot", "vm", str(uuid.uuid4()), "failed", "finish", 1, now,
             0, 0, 0, "QemuFailed", words, "{}", "{}") for _ in range(200)]
    insert(database, {"job": jobs})
    database.close()
    daemon.start()
    client = Client(bus.address)
    try:
        with pytest.raises(DBusError) as refused:
            client.objects()
        assert refused.value.short == "Unsupported" and "Introspect" in refused.value.message
        listing = client.introspect(f"{ROOT}/job")
        assert listing.count("<node name=") == 200
        # Each by itself is no trouble.
        os.mkdir(f"{directory}/pool")
        pool = client.create_pool("p", f"{directory}/pool")
        assert client.get(pool, "Pool", "Name") == "p"
        job = client.call(pool, "Pool", "Refresh")
        assert client.wait(job)[0] == "succeeded"
        assert daemon.process.poll() is None
    finally:
        client.close()
