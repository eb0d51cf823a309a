# SPDX-License-Identifier: MIT
"""Digests of what disks contain: SHA-256 of each block that is not all zeroes, with where it lies, and of the size. Most of a
test's disks is zeroes, and hashing those was a good part of the time of all tests."""
import hashlib
import os

BLOCK = 65536
ZEROES = bytes(BLOCK)


class Digest:
    """Fed from the first byte on, in pieces of any length."""

    def __init__(self, data=b""):
        self._sum = hashlib.sha256()
        self._at = 0
        self._rest = b""
        self.update(data)

    def update(self, data):
        data = self._rest + data
        whole = len(data) - len(data) % BLOCK
        for offset in range(0, whole, BLOCK):
            self._block(bytes(data[offset:offset + BLOCK]))
        self._rest = data[whole:]

    def skip_blocks(self, count):
        """So many blocks of zeroes."""
        assert not self._rest
        self._at += count * BLOCK

    def hexdigest(self):
        total = self._sum.copy()
        if self._rest.strip(b"\0"):
            total.update(self._at.to_bytes(8, "big") + self._rest)
        total.update((self._at + len(self._rest)).to_bytes(8, "big"))
        return total.hexdigest()

    def _block(self, block):
        # Two objects of bytes: a memoryview would be compared byte by byte, a hundred times as slowly.
        if block != ZEROES:
            self._sum.update(self._at.to_bytes(8, "big"))
            self._sum.update(block)
        self._at += BLOCK


def of_bytes(data):
    return Digest(data).hexdigest()


def of_file(path):
    """Of all that is in a file; its holes are not read."""
    total = Digest()
    with open(path, "rb", buffering=0) as f:
        size = os.fstat(f.fileno()).st_size
        at = 0
        while at < size:
            try:
                data = os.lseek(f.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:  # ENXIO: nothing but a hole is left
                data = size // BLOCK * BLOCK
            data = max(at, data)
            total.skip_blocks((data - at) // BLOCK)
            block = os.pread(f.fileno(), BLOCK, data)
            assert len(block) == min(BLOCK, size - data)
            total.update(block)
            at = data + len(block)
    return total.hexdigest()
