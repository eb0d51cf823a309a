# SPDX-License-Identifier: MIT
"""A guest that writes all the time, without an operating system (busy_guest.s): it is there in half a second, writes
more than a thousand blocks a second, or a hundred where it rests in between, knows how long it had to wait for each, and leaves
a content that tells what was lost."""
import os
import struct
import subprocess
import time

from harness import images
from harness.qemu import Qemu

MIB = 1 << 20
SECTOR = 512
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "busy_guest.s")
COUNT, SLOTS, SLOT_COUNT = 0x8000, 0x20000, 16384
SLOT_TICKS, GAP_TICKS = 1 << 26, 256


def boot_sector(directory, first, blocks, sectors, rests):
    """The bytes of the program for a region that begins at sector `first`."""
    names = {"object": f"{directory}/busy.o", "binary": f"{directory}/busy.bin"}
    values = {"FIRST": first, "BLOCKS": blocks, "SECTORS": sectors, "RESTS": int(rests)}
    defined = [f"--defsym={name}={value}" for name, value in values.items()]
    subprocess.run(["as", "--32", *defined, "-o", names["object"], SOURCE], check=True, timeout=60)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", names["binary"], names["object"]],
                   check=True, timeout=60)
    with open(names["binary"], "rb") as f:
        return f.read()


class BusyGuest(Qemu):
    """Its disk is made by make(). With `block` bytes it writes to the `region` at 1 MiB, again and again."""
    FIRST = MIB
    # The firmware's driver of virtio-blk has its status on a stack beside its code: TCG drops the code after each write.
    DEVICE = "ide-hd"

    @staticmethod
    def make(path, size, region=8 * MIB, block=4096, rests=False):
        """The disk's image, bootable; `rests`: it sleeps for up to 10 ms after each write. The path."""
        raw = f"{path}.raw"
        with open(raw, "wb") as f:
            f.write(boot_sector(os.path.dirname(path), BusyGuest.FIRST // SECTOR, region // block, block // SECTOR, rests))
            f.truncate(size)
        images.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
        for leftover in (raw, *(f"{os.path.dirname(path)}/busy.{kind}" for kind in ("o", "bin"))):
            os.unlink(leftover)
        return str(path)

    def __init__(self, directory, disks, region=8 * MIB, block=4096, **options):
        disks = [{"path": disk} if isinstance(disk, (str, os.PathLike)) else dict(disk) for disk in disks]
        for disk in disks[:1]:
            disk["device"] = {"driver": self.DEVICE, **disk.get("device", {})}
        super().__init__(directory, disks, running=True, **options)
        self.blocks, self.block = region // block, block
        self._origin = self._hertz = None

    def start(self):
        """Returns when the guest writes."""
        super().start()
        try:
            return self._measured()
        except BaseException:
            # Nobody else has it yet, and a guest that hangs takes a CPU.
            self.kill()
            raise

    def _measured(self):
        self.wait_writing(2)
        first, since = self._state(), time.monotonic()
        self.wait_writing(50, minimum=0.5)
        second, until = self._state(), time.monotonic()
        self._hertz = (second["last"] - first["last"]) / (until - since)
        self._origin = until - (second["last"] - second["began"]) / self._hertz
        return self

    def _memory(self, address, length):
        path = f"{self.directory}/memory"
        self.execute("pmemsave", val=address, size=length, filename=path)
        with open(path, "rb") as f:
            return f.read()

    def _state(self):
        count, errors, last, began = struct.unpack_from("<IIQQ", self._memory(COUNT, 24))
        return {"count": count, "errors": errors, "last": last, "began": began}

    def written(self):
        """The number of the last write that is done. None was refused."""
        state = self._state()
        assert state["errors"] == 0, f"{state['errors']} writes of the guest were refused"
        return state["count"]

    def wait_writing(self, writes=200, timeout=60, minimum=0.0):
        """Until it has written so much more, and for at least so many seconds."""
        began = time.monotonic()
        goal = self._state()["count"] + writes
        while self._state()["count"] < goal or time.monotonic() < began + minimum:
            assert self.process.poll() is None, "QEMU has ended"
            assert time.monotonic() < began + timeout, "the guest does not write"
            time.sleep(0.02)  # nothing tells what a guest without an operating system does

    def longest_gap(self, since, until=None):
        """Seconds from one write to the next, the longest of those that ended between two moments of time.monotonic(), or
        have not ended yet."""
        now = time.monotonic()
        state = self._state()
        pending = (now - self._origin) - (state["last"] - state["began"]) / self._hertz if until is None else 0.0
        first, last = (int((moment - self._origin) * self._hertz / SLOT_TICKS) for moment in (since, until or now))
        assert last < SLOT_COUNT, "it runs for too long to know"
        gaps = struct.unpack(f"<{SLOT_COUNT}I", self._memory(SLOTS, 4 * SLOT_COUNT))
        return max(pending, max(gaps[max(0, first - 1):last + 2]) * GAP_TICKS / self._hertz)

    def rate(self, seconds=1.0):
        """Bytes that it writes in a second."""
        before, since = self.written(), time.monotonic()
        time.sleep(seconds)
        return (self.written() - before) * self.block / (time.monotonic() - since)

    def stop_writing(self):
        """The guest stands still; the number of the last write that is done."""
        self.execute("stop")
        return self.written()


def region_after(before, blocks, block, count):
    """What the region holds when so many writes are done since the guest began, and what it held then."""
    region = bytearray(before)
    for number in range(max(1, count - blocks + 1), count + 1):
        at = number % blocks * block
        region[at:at + block] = (struct.pack("<I", number) + b"\x5a" * (SECTOR - 4)) * (block // SECTOR)
    return bytes(region)


def writes_in(region, before, blocks, block, least, most):
    """How many writes it holds, all of them and no other: a number between `least` and `most`. None where it is the region
    of no moment between them."""
    for count in range(most, least - 1, -1):
        at = count % blocks * block
        if struct.unpack_from("<I", region, at)[0] == count or count == least:
            if region == region_after(before, blocks, block, count):
                return count
    return None


def check_content(path, blocks, block, count, booted_anew=False):
    """The image holds all that a guest with these parameters wrote which stood still after so many writes: the one after
    that may have been done, or half done. Where it booted on a disk that it had written to before, blocks that it has not
    come to yet may be of any write."""
    raw = f"{path}.content.raw"
    try:
        images.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, raw)
        with open(raw, "rb") as f:
            f.seek(BusyGuest.FIRST)
            region = f.read(blocks * block)
    finally:
        os.unlink(raw)
    for number in range(blocks):
        content = region[number * block:(number + 1) * block]
        found = {struct.unpack_from("<I", content, offset)[0] for offset in range(0, block, SECTOR)}
        right = count - (count - number) % blocks
        if booted_anew and right <= 0:
            continue
        allowed = {max(right, 0)}
        if (count + 1) % blocks == number:
            allowed.add(count + 1)
        assert found <= allowed, f"block {number} of {path} is of write {sorted(found)}, not {sorted(allowed)}"
