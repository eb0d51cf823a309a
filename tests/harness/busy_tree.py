# SPDX-License-Identifier: MIT
"""A VM with two disks whose guest writes to the first one all the time, beside what the test writes to both; and what the
disks held at the moment of a call: exactly, where the guest stood still, or up to which of its writes, where it did not."""
import contextlib
import os

from harness import images
from harness.busy_guest import BusyGuest, writes_in
from harness.chains import disk_by_target
from harness.qemu import Qemu
from harness.tree import MIB, Tree

SIZE = 16 * MIB
REGION, BLOCK = 2 * MIB, 4096
FIRST, END = BusyGuest.FIRST, BusyGuest.FIRST + REGION
DISKS = 2


class Guest(BusyGuest):
    """Starts at once, as nobody asks how long its writes took."""

    def start(self):
        Qemu.start(self)
        self.wait_writing(2)
        return self


class Moment:
    """`contents`: of the disks when it began, if the guest stood still, in all of it. Else `least` and `most` tell which of the
    guest's writes may be the last one in it, and `booted` what the region held before the first one."""

    def __init__(self, contents, booted):
        self.contents, self.booted = contents, booted
        self.least = self.most = None

    def check(self, number, data):
        """That it is what the disk held then."""
        held = self.contents[number]
        assert len(data) == len(held)
        if number or self.least is None:
            assert data == held, f"disk {number}: {difference(data, held)}"
            return
        around = [data[:FIRST] + data[END:], held[:FIRST] + held[END:]]
        assert around[0] == around[1], f"disk {number}, where the guest does not write: {difference(*around)}"
        found = writes_in(data[FIRST:END], self.booted, REGION // BLOCK, BLOCK, self.least, self.most)
        assert found is not None, f"what the guest has written is of no moment from its write {self.least} to {self.most}"


def difference(data, held):
    places = [at for at in range(0, len(held), BLOCK) if data[at:at + BLOCK] != held[at:at + BLOCK]]
    shown = [(data[at], held[at]) for at in places[:8]]
    return f"{len(places)} of {len(held) // BLOCK} blocks differ, as those at {places[:8]}: {shown}"


class BusyTree(Tree):
    """As a Tree. What a test writes does not lie where the guest writes."""

    def __init__(self, client, directory):
        self.client, self.directory = client, directory
        self.pool = f"{directory}/pool"
        os.mkdir(self.pool)
        self.pools, self.snapshots, self.started, self.crashed = [self.pool], {}, [], False
        paths = [BusyGuest.make(f"{self.pool}/disk0.qcow2", SIZE, region=REGION, block=BLOCK, rests=True)]
        paths += [images.create(f"{self.pool}/disk{number}.qcow2", SIZE) for number in range(1, DISKS)]
        self._start(paths)
        self.vm = client.register_vm("web", qmp_socket=self.qemu.qmp)
        self.disks = [disk_by_target(client, self.vm, f"serial{number}")[0] for number in range(DISKS)]

    def _start(self, paths):
        self.booted = images.content(paths[0])[FIRST:END]
        self.qemu = Guest(f"{self.directory}/vm", paths, region=REGION, block=BLOCK)
        self.started.append(self.qemu)
        self.qemu.start()

    def close(self):
        for qemu in self.started:
            qemu.kill()

    def running(self):
        return self.qemu.process.poll() is None

    def up(self):
        self._start([self.path(number) for number in range(DISKS)])
        self.client.call(self.vm, "VM", "Refresh")

    def kill(self):
        """QEMU, in the middle of whatever it does."""
        self.qemu.kill()
        self.crashed = True
        self.client.wait_property(self.vm, "VM", "State", "crashed")

    def scatter(self, random, count):
        """Writes of both disks, at random places and of random lengths; zeroes, and what is given back, too."""
        for _ in range(count):
            number = random.randrange(DISKS)
            length = random.choice((4096, 4096, 65536, 200 * 1024))
            offset = random.randrange(0 if number else END // 4096, (SIZE - length) // 4096) * 4096
            command = random.choice([f"write -q -P {random.randint(1, 255)}"] * 6 + ["write -q -z", "write -q -z -u", "discard -q"])
            if self.running():
                self.qemu.io(f"dev{number}", f"{command} {offset} {length}")
            else:
                images.run("qemu-io", "-f", "qcow2", "-d", "unmap", "-c", f"{command} {offset} {length}", self.path(number))

    def contents(self):
        """Of the active layers. The guest stands still."""
        return [images.content(self.path(number)) for number in range(DISKS)]

    @contextlib.contextmanager
    def still(self):
        """The guest stands still, and what QEMU had in its caches is in the images."""
        live = self.running()
        if live:
            self.qemu.execute("stop")
        yield
        if live:
            self.qemu.execute("cont")

    @contextlib.contextmanager
    def moment(self, still):
        """The moment is in what is done with it: the guest stands still (or is down), or writes on."""
        live = self.running()
        if live:
            self.qemu.execute("stop")
        moment = Moment(self.contents(), self.booted)
        if live and not still:
            moment.least = self.qemu.written()
            self.qemu.execute("cont")
        yield moment
        if live and still:
            self.qemu.execute("cont")
        elif live:
            moment.most = self.qemu.written() + 1  # it may be done, and the guest does not know yet

    def check(self):
        with self.still():
            super().check()

    def check_image(self, path):
        (images.check_after_crash if self.crashed else images.check)(path)
