# SPDX-License-Identifier: MIT
"""A Linux guest with a writer, the VM that it is for the daemon, and what snapshots of it have to hold."""
from harness.filesystems import Ext4
from harness.picture import picture


class GuestWorld:
    def __init__(self, client, guest, vm):
        self.client, self.guest, self.vm = client, guest, vm

    def snapshot(self, **options):
        """(properties, result) of a snapshot that has to succeed."""
        return self.taken(self.client.create_snapshot(self.vm, **options))

    def taken(self, job):
        result = self.client.finish(job)
        return self.client.get_all(result["snapshot"], "Snapshot"), result

    def refused(self, **options):
        """The message of a snapshot that has to fail for the guest's sake and to leave nothing."""
        before = self.picture()
        error, message = self.client.failure(self.client.create_snapshot(self.vm, **options))
        assert error == "QuiesceFailed", message
        assert self.picture() == before
        return message

    def picture(self):
        return picture(self.client, self.guest)

    def volumes(self, snapshot):
        """The paths of a snapshot's volumes, in the order of the guest's disks."""
        paths = {self.client.get(disk, "Disk", "Target"): self.client.get(volume, "Volume", "Path")
                 for disk, volume in snapshot["Disks"]}
        return [paths[target] for target in sorted(paths)]

    def agent_state(self, state):
        """Waits for it: the daemon hears of it by an event, or by an answer that does not come."""
        self.client.wait_property(self.vm, "VM", "AgentState", state)

    def goes_on(self):
        """The guest writes, and its agent has nothing frozen."""
        self.guest.wait_writing()
        assert not self.guest.agent_says_frozen()


def check_clean(volumes, least, most):
    """Clean file systems, all of one instant, with all records that were durable before and none from after.
    How many there are."""
    counts = []
    for path in volumes:
        with Ext4(path) as filesystem:
            assert filesystem.clean, filesystem.why
            counts.append(filesystem.records())
            # What the guest never flushed is there as well: the freeze has.
            assert filesystem.records("dirty") >= counts[-1]
    assert least <= counts[-1] and counts[0] <= most, (least, counts, most)
    # The writer goes from disk to disk: at any instant the first ones have the record under way.
    assert counts == sorted(counts, reverse=True) and counts[0] - counts[-1] <= 1, counts
    return counts[-1]
