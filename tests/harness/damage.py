# SPDX-License-Identifier: MIT
"""Images that something has happened to, byte by byte as the qcow2 specification has them; and what a check of a disk says
of that."""
import contextlib
import os
import shutil
import sqlite3
import struct

from harness import digest, images
from harness.client import variants
from harness.qemu import Qemu

DIRTY, CORRUPT = 1 << 0, 1 << 1  # incompatible features


def _number(f, offset, form):
    f.seek(offset)
    return struct.unpack(form, f.read(struct.calcsize(form)))[0]


def _put(f, offset, form, value):
    f.seek(offset)
    f.write(struct.pack(form, value))


def _reference_count(f, cluster):
    """Where the 16-bit reference count of a cluster is; only of those in the first block of such."""
    table = _number(f, 48, ">Q")
    block = _number(f, table, ">Q")
    assert _number(f, 96, ">I") == 4 and block
    return block + 2 * cluster


def _clusters(f):
    cluster = 1 << _number(f, 20, ">I")
    f.seek(0, os.SEEK_END)
    return cluster, -(-f.tell() // cluster)


def leak(path, count=3):
    """Clusters at the end of the file that nothing refers to; what the image shows stays."""
    with open(path, "r+b") as f:
        cluster, end = _clusters(f)
        f.truncate((end + count) * cluster)
        for number in range(end, end + count):
            _put(f, _reference_count(f, number), ">H", 1)


def corrupt(path):
    """The last cluster that is in use has a reference count that says that it is not."""
    with open(path, "r+b") as f:
        _, end = _clusters(f)
        places = [_reference_count(f, number) for number in range(end)]
        used = [place for place in places if _number(f, place, ">H") == 1]
        _put(f, used[-1], ">H", 0)


def set_feature(path, bits):
    with open(path, "r+b") as f:
        _put(f, 72, ">Q", _number(f, 72, ">Q") | bits)


def set_backing(path, name):
    """Another name of the backing file, not longer than the one before; whoever has the image open."""
    with open(path, "r+b") as f:
        offset, length = _number(f, 8, ">Q"), _number(f, 16, ">I")
        assert len(name) <= length
        f.seek(offset)
        f.write(name.encode())
        _put(f, 16, ">I", len(name))


def lose_bitmap(directory, path, name):
    """An image with a bitmap that a QEMU had when it was killed. What else it has of bitmaps is lost, too."""
    images.run("qemu-img", "bitmap", "--add", path, name)
    Qemu(f"{directory}/killed", [path]).start().kill()


def bitmap_extension(path):
    """(offset of the data of the header extension of bitmaps, offset of their directory)"""
    with open(path, "rb") as f:
        at = _number(f, 100, ">I")
        while (kind := _number(f, at, ">I")) != 0x23852875:
            assert kind != 0, f"{path} has no bitmaps"
            at += (8 + _number(f, at + 4, ">I") + 7) // 8 * 8
        return at + 8, _number(f, at + 8 + 16, ">Q")


def _lie(path, where, form, value):
    extension, directory = bitmap_extension(path)
    with open(path, "r+b") as f:
        place, offset = where
        _put(f, {"extension": extension, "first": directory}[place] + offset, form, value)


# What the directory of an image's bitmaps may say that is not so (qcow2 specification, "Bitmaps extension" and "Bitmap
# directory"); the first bitmap is meant.
LIES = {
    "more bitmaps than there are": (("extension", 0), ">I", 9),
    "a directory of another length": (("extension", 8), ">Q", 4096),
    "a directory beyond the end": (("extension", 16), ">Q", 1 << 40),
    "a directory in the header": (("extension", 16), ">Q", 0),
    "a table beyond the end": (("first", 0), ">Q", 1 << 40),
    "no table": (("first", 0), ">Q", 0),
    "a table that is the L1 table": (("first", 0), ">Q", None),
    "a table of another length": (("first", 8), ">I", 7),
    "in use": (("first", 12), ">I", 3),
    "flags that nobody knows": (("first", 12), ">I", 6),
    "another type": (("first", 16), ">B", 2),
    "a granularity that is too large": (("first", 17), ">B", 63),
    "a name of no bytes": (("first", 18), ">H", 0),
    "a name beyond the end": (("first", 18), ">H", 1000),
    "a name with a NUL": (("first", 24), ">B", 0),
    "extra data": (("first", 20), ">I", 8),
}


def lie_about_bitmaps(path, lie):
    where, form, value = LIES[lie]
    if value is None:
        with open(path, "rb") as f:
            value = _number(f, 40, ">Q")
    _lie(path, where, form, value)


def findings(client, disk, **options):
    """What Disk.Check finds: a list of {name: value}."""
    job = client.call(disk, "Disk", "Check", "a{sv}", variants(options))
    return unpacked(client.finish(job))


def unpacked(result):
    return [{name: value for name, (_, value) in finding.items()} for finding in result["findings"]]


def kinds(found):
    """"kind severity" of each, sorted; a "+" for what can be mended, "!" for what was."""
    return sorted(f"{f['kind']} {f['severity']}" + ("!" if f["repaired"] else "+" if f["repairable"] else "") for f in found)


def only(found, kind):
    """The one finding of a kind."""
    of_kind = [f for f in found if f["kind"] == kind]
    assert len(of_kind) == 1, found
    return of_kind[0]


def digests(directory):
    """{name: digest} of all files below a directory."""
    all_of_them = {}
    for place, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(place, name)
            all_of_them[os.path.relpath(path, directory)] = digest.of_file(path)
    return all_of_them


@contextlib.contextmanager
def state(daemon):
    """The state database of a daemon that does not run: to be put into a state that no operation leaves it in."""
    database = sqlite3.connect(os.path.join(daemon.directory, "state/volchain.db"))
    with contextlib.closing(database), database:
        yield database


def records(daemon, directory):
    """All that is recorded but jobs, by table; of a copy, as the daemon has it open."""
    copy = os.path.join(directory, "state-copy")
    shutil.copytree(os.path.join(daemon.directory, "state"), copy)
    try:
        with contextlib.closing(sqlite3.connect(os.path.join(copy, "volchain.db"))) as database:
            tables = [name for name, in database.execute("SELECT name FROM sqlite_schema WHERE type='table' AND name != 'job'")]
            return {table: sorted(database.execute(f"SELECT * FROM {table}")) for table in tables}
    finally:
        shutil.rmtree(copy)
