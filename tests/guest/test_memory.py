# SPDX-License-Identifier: MIT
"""A snapshot with memory of a running Linux: it hardly notices, and goes on from there after a revert, as if nothing had been
in between: the same boot, the same processes, the files of that instant."""
import time

import pytest

from harness import images
from harness.client import variants
from harness.filesystems import make_disk

# Counts in the memory of one process and in a file of the disk, a line for each.
COUNTER = """cat > /run/counter <<'END'
i=0
while :; do
    i=$((i + 1))
    echo $i >> /run/count
    echo $i >> /mnt/vda/count
    sync
    usleep 2000
done
END
setsid sh /run/counter </dev/null >/dev/null 2>&1 & echo $! > /run/counter.pid"""
# More than QEMU itself needs, in microseconds: what is asked of a snapshot with memory.
LONGEST_MORE = 200_000


@pytest.fixture
def config():
    return '[quiesce]\nagent-timeout = "10s"\nthaw-timeout = "20s"\nfreeze-timeout = "30s"\nfreeze-limit = "30s"\n'


class Counting:
    """VM "web", whose guest counts."""

    def __init__(self, client, directory, guests):
        self.client, self.guests = client, guests
        self.guest = guests("guest", [make_disk(f"{directory}/root.qcow2")], boots=True)
        self.vm = client.register_vm("web", qmp_socket=self.guest.qmp, agent_socket=self.guest.agent)
        [self.disk] = client.get(self.vm, "VM", "Disks")
        self.guest.shell(COUNTER)
        self.boot = self.guest.shell("cat /proc/sys/kernel/random/boot_id")
        self.until(10)

    def count(self):
        return int(self.guest.shell("tail -n 1 /run/count").strip() or 0)

    def until(self, number, timeout=60):
        end = time.monotonic() + timeout
        while (count := self.count()) < number:
            assert time.monotonic() < end, count
        return count

    def take(self, **options):
        return self.client.finish(self.client.create_snapshot(self.vm, "s1", memory=True, **options))

    def revert(self, snapshot):
        self.guest.kill()
        self.client.call(self.vm, "VM", "Refresh")
        self.client.finish(self.client.call(snapshot, "Snapshot", "Revert", "a{sv}", {}))

    def start(self, **options):
        """With what LaunchArguments says: nobody else tells it that there is memory."""
        arguments = self.client.call(self.vm, "VM", "LaunchArguments", "a{sv}", variants({"device": "virtio-blk-pci"}))
        assert arguments[-2:] == ["-incoming", "defer"]
        self.guest = self.guests("guest", [], extra=arguments, **options)

    def check_goes_on(self):
        """The process counts on, and its file has each number once, in order."""
        assert self.guest.shell("cat /proc/sys/kernel/random/boot_id") == self.boot
        self.until(self.count() + 10)
        # Stopped between two lines, or before the second one of a number.
        self.guest.shell("kill -STOP $(cat /run/counter.pid)")
        lines = [int(line) for line in self.guest.shell("cat /mnt/vda/count").split()]
        assert lines == list(range(1, len(lines) + 1)) and self.count() - len(lines) in (0, 1)


@pytest.fixture
def counting(client, pool_directory, guests):
    return Counting(client, pool_directory, guests)


def test_it_goes_on_from_there(counting, client):
    guest = counting.guest
    before = counting.count()
    result = counting.take()
    assert result["memory"] == "background" and "frozen-usec" not in result, result
    more = result["pause-usec"] - result["downtime-usec"]
    snapshot = client.get_all(result["snapshot"], "Snapshot")
    print(f"paused for {result['pause-usec'] / 1000:.1f} ms, {more / 1000:.1f} ms more than QEMU needs; "
          f"{snapshot['MemoryBytes'] >> 20} MiB")
    assert more <= LONGEST_MORE
    assert snapshot["Consistency"] == "memory" and not guest.agent_says_frozen()
    # It has counted on meanwhile, and does now.
    then = counting.until(counting.count() + 20)
    guest.shell("echo later > /run/later; echo later > /mnt/vda/later; sync")
    counting.revert(result["snapshot"])
    counting.start()
    client.wait_property(counting.vm, "VM", "State", "running")
    assert counting.guest.shell("cat /run/later /mnt/vda/later 2>/dev/null || true") == ""
    counting.check_goes_on()
    assert then > before
    # Its disk is sound, and a machine that boots from it finds what there is.
    counting.guest.shutdown()
    images.check(client.get(counting.disk, "Disk", "ActivePath"))


def test_of_a_guest_that_stands_still(counting, client):
    counting.guest.execute("stop")
    client.wait_property(counting.vm, "VM", "State", "paused")
    result = counting.take()
    assert result["memory"] == "paused" and client.get(counting.vm, "VM", "State") == "paused"
    counting.guest.execute("cont")
    counting.until(counting.count() + 20)
    counting.guest.shell("echo later > /run/later; sync")
    counting.revert(result["snapshot"])
    counting.start(standing=True)
    client.wait_property(counting.vm, "VM", "ResumesFrom", "/")
    client.wait_property(counting.vm, "VM", "State", "paused")
    counting.guest.execute("cont")
    counting.guest.wait_booted()
    assert counting.guest.shell("cat /run/later 2>/dev/null || true") == ""
    counting.check_goes_on()
