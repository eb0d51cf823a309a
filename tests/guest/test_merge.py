# SPDX-License-Identifier: MIT
"""Snapshots go while a real guest writes to its file systems and flushes each record: it never waits for long, whoever dies
meanwhile, and all that it was told to be on its disks is there in the end."""
import os
import threading
import time

import pytest

from harness.filesystems import Ext4

DISKS = 2
# From one record that is flushed on all disks to the next: without KVM, beside other tests, it takes a tenth of that at times.
LONGEST_GAP = 5.0


@pytest.fixture
def config():
    """The agent of a guest without KVM on a busy host."""
    return ('[quiesce]\nagent-timeout = "10s"\nthaw-timeout = "20s"\n'
            'freeze-timeout = "30s"\nfreeze-limit = "30s"\n')


class Gaps:
    """Watches the writer: how long it takes from one acknowledged record to the next."""

    def __init__(self, guest):
        self.guest, self.longest, self.records = guest, 0.0, 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        size, since = self._size(), time.monotonic()
        while not self._stopped.wait(0.002):  # a file that QEMU writes wakes nobody
            now = time.monotonic()
            self.longest = max(self.longest, now - since)
            if self._size() != size:
                size, since = self._size(), now
                self.records += 1

    def _size(self):
        return os.stat(self.guest.acknowledged_path).st_size

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()


@pytest.fixture
def two_snapshots(world):
    """With much data before each of them, and little since the last: it is written down."""
    w = world(DISKS)
    snapshots = []
    for mebibytes in (16, 8):
        w.guest.shell(f"for d in /mnt/*; do dd if=/dev/zero of=$d/m{mebibytes} bs=1M count={mebibytes}; done; sync")
        _, result = w.snapshot(quiesce="require")
        w.guest.wait_writing(20)
        snapshots.append(result["snapshot"])
    return w, snapshots


def delete(client, snapshot):
    return client.call(snapshot, "Snapshot", "Delete", "a{sv}", {})


def check_at_the_end(w, client):
    """The guest is shut down in order: its file systems are clean, with all records."""
    last = w.guest.wait_writing(20)
    disks = client.get(w.vm, "VM", "Disks")
    w.guest.shutdown()
    client.call(w.vm, "VM", "Refresh")
    for disk in disks:
        with Ext4(client.get(disk, "Disk", "ActivePath")) as filesystem:
            filesystem.replay()
            assert filesystem.records() >= last


def test_a_guest_that_flushes_each_write(two_snapshots, client, capsys):
    w, (first, second) = two_snapshots
    with Gaps(w.guest) as before:
        w.guest.wait_writing(40)
    for snapshot, what in ((second, "the active layers, down"), (first, "inner layers")):
        with Gaps(w.guest) as gaps:
            client.finish(delete(client, snapshot))
            w.guest.wait_writing(5)
        with capsys.disabled():
            print(f"\n  {what}: longest wait for a flushed record {1e3 * gaps.longest:.0f} ms "
                  f"(before: {1e3 * before.longest:.0f} ms)")
        assert gaps.longest < LONGEST_GAP
    check_at_the_end(w, client)


@pytest.mark.parametrize("completed", [False, True], ids=["ready", "completed"])
def test_the_daemon_dies_in_the_moment_of_the_switch(two_snapshots, client, daemon, completed):
    """The job is ready, or told to complete, and nobody looks after it: the guest writes on."""
    w, (_, second) = two_snapshots
    daemon.at("delete-snapshot.switch")
    with Gaps(w.guest) as gaps:
        client.send(second, "Snapshot", "Delete", "a{sv}", {})
        daemon.wait_killed()
        if completed:
            for job in w.guest.execute("query-jobs"):
                assert job["id"].startswith("vc-commit") and job["status"] == "ready"
                w.guest.execute("job-complete", id=job["id"])
        w.guest.wait_writing(60)
        daemon.start()
        (job,) = [path for path, p in client.of_kind("job").items() if p["Kind"] == "delete-snapshot"]
        client.finish(job)
        w.guest.wait_writing(20)
    assert gaps.longest < LONGEST_GAP
    assert second not in client.of_kind("snapshot")
    check_at_the_end(w, client)
