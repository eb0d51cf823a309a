# SPDX-License-Identifier: MIT
import pytest

from harness.filesystems import make_disk
from harness.guest_world import GuestWorld


@pytest.fixture
def world(client, pool_directory, guests):
    """Makes a guest that writes and is registered: world(disks=1, further options of LinuxGuest)."""
    def make(disks=1, **options):
        paths = [make_disk(f"{pool_directory}/disk{number}.qcow2") for number in range(disks)]
        guest = guests("guest", paths, **{"writer": 1, **options})
        guest.wait_writing()
        vm = client.register_vm("web", qmp_socket=guest.qmp, agent_socket=guest.agent)
        return GuestWorld(client, guest, vm)
    return make
