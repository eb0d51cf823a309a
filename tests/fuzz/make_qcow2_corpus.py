#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Makes the inputs that the qcow2 fuzzer begins with: tests/fuzz/corpus/qcow2.

Images are made by qemu-img with 512-byte clusters where the feature allows it, so that they are whole and
small. Of others only the first bytes are kept, which is what the second reading of the fuzzer (followed by
zeroes) is for. Times are set to 0 and identifiers cut off, so that making the corpus again changes nothing.
Inputs that a fuzzer found are named found-* and are left alone.
"""

import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness.damage import LIES, lie_about_bitmaps  # noqa: E402

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus" / "qcow2"
HEAD = 2048


def qemu_img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def qemu_io(path, *commands):
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, path], check=True, stdout=subprocess.DEVNULL)


def create(path, options="", size="64k", more=()):
    qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), *more, path, size)


def without_times(data):
    """Sets the times in the snapshot table to 0 (qcow2 specification, "Snapshots")."""
    data = bytearray(data)
    count, offset = struct.unpack_from(">IQ", data, 60)
    for _ in range(count):
        id_bytes, name_bytes = struct.unpack_from(">HH", data, offset + 12)
        struct.pack_into(">II", data, offset + 16, 0, 0)
        extra, = struct.unpack_from(">I", data, offset + 36)
        offset = (offset + 40 + extra + id_bytes + name_bytes + 7) // 8 * 8
    return bytes(data)


def keep(name, data):
    (CORPUS / name).write_bytes(data)


def keep_head(name, data, limit):
    keep(name, data[:limit].rstrip(b"\0"))


def whole_images(path):
    small = "cluster_size=512"
    for name, options in {
        "v3": small,
        "v2": small + ",compat=0.10",
        "lazy": small + ",lazy_refcounts=on",
        "zstd": small + ",compression_type=zstd",
        "refcount-1": small + ",refcount_bits=1",
        "refcount-64": small + ",refcount_bits=64",
        "data-file": small + ",data_file=data,data_file_raw=on",
    }.items():
        create(path, options)
        keep(name, path.read_bytes())
    create(path, small)
    keep("luks", with_luks_header(path.read_bytes()))
    create(path, small, "0")
    keep("size-0", path.read_bytes())
    for name, options in {"backing-v3": small, "backing-v2": small + ",compat=0.10"}.items():
        create(path, options, more=("-u", "-b", "base.qcow2", "-F", "qcow2"))
        keep(name, path.read_bytes())
    create(path, small)
    qemu_io(path, "write 0 512", "write -z 32k 512")
    keep("written", path.read_bytes())


def layers(path):
    """Images with clusters of each kind. Of the one with subclusters, whose clusters are large, only the tables are kept,
    close together; the rest of it is in the zeroes that follow."""
    for name, options in {"layers-v3": "", "layers-v2": ",compat=0.10"}.items():
        create(path, "cluster_size=512" + options, "48k", more=("-u", "-b", "null-co://", "-F", "raw"))
        qemu_io(path, "write -c 0 512", "write 512 2k", "write -z 1k 512", "write -z -u 32k 1k", "write 40k 1k",
                "discard 40k 512")
        keep(name, path.read_bytes())
    create(path, "cluster_size=16k,extended_l2=on", "1M", more=("-u", "-b", "null-co://", "-F", "raw"))
    data = bytearray(path.read_bytes()[:16384].ljust(32768, b"\0"))
    struct.pack_into(">QQ", data, 40, 16384, 49152)  # L1 table, refcount table
    struct.pack_into(">Q", data, 16384, 1 << 63 | 32768)
    host = 1 << 63 | 65536
    for entry in [(host, 0xffffffff), (host, 0x0000ff00000000ff), (host, 0), (0, 0x0f << 32), (0, 0), (1 << 62 | 65600, 0),
                  (65536, 0x5555555500000000)]:
        data += struct.pack(">QQ", *entry)
    keep("layers-extended-l2", data)


def with_luks_header(data):
    """An image of LUKS encryption, whose header would take 2 MiB were it a real one."""
    data = bytearray(data.ljust(2048, b"\0"))
    struct.pack_into(">I", data, 32, 2)
    struct.pack_into(">IIQQ", data, 112, 0x0537be77, 16, len(data), 592)
    return bytes(data) + b"LUKS\xba\xbe".ljust(592, b"\0")


def snapshots_and_bitmaps(path):
    for name, options in {"snapshots-v3": "", "snapshots-v2": ",compat=0.10"}.items():
        create(path, "cluster_size=512" + options, "4k")
        qemu_img("snapshot", "-c", "one", path)
        qemu_img("snapshot", "-c", "two", path)
        keep(name, without_times(path.read_bytes()))
    create(path, "cluster_size=512", "4k")
    qemu_img("bitmap", "--add", path, "recording")
    qemu_img("bitmap", "--add", "--disable", "-g", "512", path, "disabled")
    data = path.read_bytes()
    keep("bitmaps", data)
    keep("bitmaps-stale", data[:88] + bytes(8) + data[96:])
    for lie in LIES:
        path.write_bytes(data)
        lie_about_bitmaps(path, lie)
        keep("bitmaps-" + lie.replace(" ", "-"), path.read_bytes())
    create(path, "cluster_size=512", "4k", more=("-u", "-b", "null-co://", "-F", "raw"))
    qemu_img("bitmap", "--add", path, "b")
    qemu_img("snapshot", "-c", "s", path)
    keep("everything", without_times(path.read_bytes()))


def heads(path):
    for name, options in {
        "head-64k": "",
        "head-extended-l2": "extended_l2=on,cluster_size=16k",
        "head-2m": "cluster_size=2M",
    }.items():
        create(path, options)
        keep_head(name, path.read_bytes(), HEAD)
    create(path, more=("-u", "-b", "nbd://localhost/x", "-F", "raw"))
    data = path.read_bytes()
    keep_head("head-backing", data, HEAD)
    unknown = struct.pack(">QQQ", 1 << 9, 1 << 5, 1 << 63)
    keep_head("head-unknown-features", data[:72] + unknown + data[96:], HEAD)


def other_formats(path):
    for name, (driver, options) in {
        "other-vmdk": ("vmdk", "subformat=monolithicFlat"),
        "other-vdi": ("vdi", ""),
        "other-vhdx": ("vhdx", ""),
        "other-qed": ("qed", ""),
        "other-qcow": ("qcow", ""),
        "other-parallels": ("parallels", ""),
    }.items():
        qemu_img("create", "-q", "-f", driver, *(["-o", options] if options else []), path, "1M")
        data = re.sub(rb"CID=\w{8}", b"CID=00000000", path.read_bytes())
        keep_head(name, data, 128)
    keep("other-vpc-footer", bytes(512) + b"conectix" + bytes(504))
    keep("other-dmg-trailer", bytes(512) + b"koly" + bytes(508))


def main():
    CORPUS.mkdir(parents=True, exist_ok=True)
    for old in CORPUS.iterdir():
        if not old.name.startswith("found-"):
            old.unlink()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        path = pathlib.Path("image")
        whole_images(path)
        layers(path)
        snapshots_and_bitmaps(path)
        heads(path)
        other_formats(path)


if __name__ == "__main__":
    main()
