# SPDX-License-Identifier: MIT
"""What a guest would read of an image, and checksums of it by the definition in org.volchain1(5)."""
import hashlib
import os

from harness import images

BLOCK = 65536


def content(path, fmt="qcow2"):
    """All of it, through the chain."""
    raw = f"{path}.content.raw"
    try:
        images.run("qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", path, raw)
        with open(raw, "rb") as f:
            return f.read()
    finally:
        if os.path.exists(raw):
            os.unlink(raw)


def checksum(data, algorithm="sha256/64KiB"):
    function, blocks = algorithm.split("/")
    assert blocks == "64KiB"
    digest = hashlib.new(function)
    for start in range(0, len(data), BLOCK):
        digest.update(hashlib.new(function, data[start:start + BLOCK]).digest())
    digest.update(len(data).to_bytes(8, "little"))
    return digest.hexdigest()
