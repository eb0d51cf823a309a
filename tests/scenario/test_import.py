# SPDX-License-Identifier: MIT
"""Pools, CreateDisk, ImportDisk, Refresh: and that no QEMU process opens an image that is not fit for it."""
import os
import stat
import struct

import pytest

from harness import images
from harness.chains import make_chain, volume_at, volume_chain
from harness.client import DBusError, variants

MIB = 1 << 20


@pytest.fixture
def pool(client, pool_directory):
    return client.create_pool("local", pool_directory)


def import_disk(client, pool, path, **options):
    return client.call(pool, "Pool", "ImportDisk", "sa{sv}", str(path), variants(options))


def create_disk(client, pool, name, size, **options):
    return client.call(pool, "Pool", "CreateDisk", "sta{sv}", name, size, variants(options))


# --- import ---

def test_a_chain_is_imported_where_it_lies(client, pool, pool_directory):
    chain = make_chain(pool_directory, "root", layers=3)
    before = [images.digest(path) for path in chain]
    result = client.finish(import_disk(client, pool, "root.2.qcow2"))
    disk = client.get_all(result["disk"], "Disk")
    assert disk["Active"] == result["volume"] and disk["VM"] == "/" and disk["SizeBytes"] == 64 * MIB
    assert volume_chain(client, result["volume"]) == chain[::-1]
    assert [images.digest(path) for path in chain] == before
    assert images.image_files(pool_directory) == [os.path.basename(path) for path in chain]


def test_raw_is_never_guessed(client, pool, pool_directory):
    raw = images.create(f"{pool_directory}/data.raw", MIB, fmt="raw")
    error, message = client.failure(import_disk(client, pool, raw))
    assert error == "InvalidArgument" and "format=raw" in message
    result = client.finish(import_disk(client, pool, raw, format="raw"))
    assert client.get(result["volume"], "Volume", "Format") == "raw"


def test_imported_twice(client, pool, pool_directory):
    chain = make_chain(pool_directory, "root", layers=2)
    client.finish(import_disk(client, pool, chain[1]))
    error, message = client.failure(import_disk(client, pool, chain[1]))
    assert error == "AlreadyExists" and chain[1] in message
    top = images.create(f"{pool_directory}/top.qcow2", None, backing="root.1.qcow2")
    error, message = client.failure(import_disk(client, pool, top))
    assert error == "InUse"  # it would stand on a volume that a guest may write to
    assert len(client.of_kind("disk")) == 1


def patch(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def hostile_images(directory, outside):
    """name -> (path, the errors that are right)."""
    def image(name, **options):
        return images.create(f"{directory}/{name}.qcow2", MIB, **options)

    def with_backing(name, backing, fmt=b"qcow2"):
        path = images.create(f"{directory}/{name}.qcow2", MIB)
        # An unsafe reference (-u) is what qemu-img writes without looking at the file.
        images.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", backing, *(["-F", fmt.decode()] if fmt else []), path)
        return path

    secret = images.create(f"{outside}/secret.qcow2", MIB)
    yield "outside", with_backing("outside", secret), {"UnsafeImage"}
    yield "dotdot", with_backing("dotdot", "../secret.qcow2"), {"UnsafeImage"}
    yield "json", with_backing("json", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"/etc/shadow"}}'), \
        {"UnsafeImage"}
    yield "nbd", with_backing("nbd", "nbd://example.org/x"), {"UnsafeImage"}
    yield "device", with_backing("device", "/dev/null", b"raw"), {"UnsafeImage"}
    yield "missing", with_backing("missing", "gone.qcow2"), {"BrokenChain"}
    yield "loop", with_backing("loop", "loop.qcow2"), {"BrokenChain"}
    base = image("plain-base")
    no_format = with_backing("no-format", os.path.basename(base))
    # The extension that names the format of the backing file, made one that nobody knows.
    with open(no_format, "rb") as f:
        header = f.read(65536)
    patch(no_format, header.index(struct.pack(">I", 0xE2792ACA)), struct.pack(">I", 0x12345678))
    yield "no-format", no_format, {"UnsafeImage"}
    images.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={outside}/data.raw,data_file_raw=on",
               f"{directory}/data-file.qcow2", "1M")
    yield "data-file", f"{directory}/data-file.qcow2", {"UnsafeImage"}
    feature = image("feature")
    patch(feature, 72, struct.pack(">Q", 1 << 37))
    yield "feature", feature, {"Unsupported"}
    giant = image("giant")
    patch(giant, 24, struct.pack(">Q", (1 << 63) + 512))
    yield "giant", giant, {"CorruptImage", "Unsupported"}
    clusters = image("clusters")
    patch(clusters, 20, struct.pack(">I", 40))
    yield "clusters", clusters, {"CorruptImage", "Unsupported"}
    table = image("table")
    patch(table, 40, struct.pack(">Q", 1 << 62))
    yield "table", table, {"CorruptImage"}
    link = f"{directory}/link.qcow2"
    os.symlink(secret, link)
    yield "link", link, {"UnsafeImage"}
    short = f"{directory}/short.qcow2"
    with open(short, "wb") as f:
        f.write(b"QFI\xfb\0\0\0\3" + bytes(50))
    yield "short", short, {"CorruptImage"}
    fifo = f"{directory}/fifo.qcow2"
    os.mkfifo(fifo)
    yield "fifo", fifo, {"UnsafeImage", "Unsupported", "InvalidArgument"}
    yield "encrypted", images.create_encrypted(f"{directory}/luks.qcow2", "1M"), {"Unsupported"}
    vmdk = images.create(f"{directory}/other.vmdk", MIB, fmt="vmdk")
    yield "vmdk", vmdk, {"Unsupported"}


@pytest.fixture
def no_qemu(directory, monkeypatch):
    """The daemon finds programs in the place of QEMU's that only leave a trace."""
    programs = f"{directory}/bin"
    trace = f"{directory}/qemu-was-started"
    os.mkdir(programs)
    for name in ("qemu-storage-daemon", "qemu-img", "qemu-nbd"):
        with open(f"{programs}/{name}", "w") as f:
            f.write(f"#!/bin/sh\necho \"$0 $*\" >> {trace}\nexit 1\n")
        os.chmod(f"{programs}/{name}", 0o755)
    return trace


@pytest.fixture
def config(no_qemu):
    return f'[qemu]\nstorage-daemon = "{os.path.dirname(no_qemu)}/bin/qemu-storage-daemon"\n'


def test_hostile_images_are_refused_before_qemu(client, pool, pool_directory, directory, no_qemu):
    if os.path.exists(no_qemu):
        os.unlink(no_qemu)  # the daemon asked for the version when it started
    found = list(hostile_images(pool_directory, directory))
    before = {path: os.lstat(path).st_mtime_ns for _, path, _ in found}
    for name, path, errors in found:
        error, message = client.failure(import_disk(client, pool, path))
        assert error in errors, f"{name}: {error}: {message}"
        assert os.path.basename(path) in message, f"{name}: {message}"
    # The same below an innocent top.
    for name, path, errors in found:
        top = images.create(f"{pool_directory}/top-{name}.qcow2", MIB)
        images.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", os.path.basename(path), "-F", "qcow2", top)
        error, message = client.failure(import_disk(client, pool, top))
        # Declared qcow2 by the header above, what is none is a damaged one.
        assert error in errors | {"UnsafeImage", "CorruptImage"}, f"{name}: {error}: {message}"
    # A file with the marks of another format, declared raw: by the caller, by the header above.
    plain = images.create(f"{pool_directory}/plain.qcow2", MIB)
    error, message = client.failure(import_disk(client, pool, plain, format="raw"))
    assert error == "UnsafeImage", message
    top = images.create(f"{pool_directory}/top-raw.qcow2", None, backing="plain.qcow2", backing_format="raw")
    error, message = client.failure(import_disk(client, pool, top))
    assert error == "UnsafeImage", message
    assert client.of_kind("disk") == {} and client.of_kind("volume") == {}
    assert not os.path.exists(no_qemu), open(no_qemu).read()
    assert {path: os.lstat(path).st_mtime_ns for _, path, _ in found} == before


@pytest.mark.parametrize("path", ["../secret.qcow2", "/etc/passwd", "", "a/../../b", "x" * 10000, "/", "."])
def test_paths_that_lead_out(client, pool, path):
    try:
        error, message = client.failure(import_disk(client, pool, path))
    except DBusError as refused:
        error, message = refused.short, refused.message
    assert error in ("InvalidArgument", "UnsafeImage", "NotFound"), message


# --- create ---

@pytest.mark.parametrize("options", [
    {}, {"format": "raw"}, {"preallocation": "metadata"}, {"preallocation": "falloc"}, {"preallocation": "full"},
    {"format": "raw", "preallocation": "falloc"}, {"format": "raw", "preallocation": "full"},
    {"cluster_size": 4096}, {"cluster_size": 2 * MIB}, {"extended_l2": True}, {"extended_l2": True, "cluster_size": 131072},
    {"compression": "zstd"}], ids=str)
class TestCreateDisk:
    @pytest.fixture
    def config(self):
        return ""  # with the real storage daemon

    def test_what_is_made_is_what_was_asked_for(self, client, pool, pool_directory, options):
        result = client.finish(create_disk(client, pool, "data", 8 * MIB, **options))
        volume = client.get_all(result["volume"], "Volume")
        path = volume["Path"]
        info = images.info(path)
        assert info["format"] == options.get("format", "qcow2") == volume["Format"]
        assert info["virtual-size"] == 8 * MIB == volume["SizeBytes"]
        if volume["Format"] == "qcow2":
            images.check(path)
            assert info["cluster-size"] == options.get("cluster_size", 65536) == volume["ClusterBytes"]
            data = info["format-specific"]["data"]
            assert data["compression-type"] == options.get("compression", "zlib")
            assert data["extended-l2"] == options.get("extended_l2", False)
        if options.get("preallocation") in ("falloc", "full"):
            assert os.stat(path).st_blocks * 512 >= 8 * MIB
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        assert images.image_files(pool_directory) == [os.path.basename(path)]


class TestCreate:
    @pytest.fixture
    def config(self):
        return ""

    def test_a_refused_disk_leaves_nothing(self, client, pool, pool_directory):
        for name, size, options in [
                ("d", 0, {}), ("d", 513, {}), ("d", 1 << 63, {}), ("", MIB, {}), ("a/b", MIB, {}), ("d", MIB, {"format": "vmdk"}),
                ("d", MIB, {"cluster_size": 3000}), ("d", MIB, {"cluster_size": 4 * MIB}), ("d", MIB, {"preallocation": "some"}),
                ("d", MIB, {"format": "raw", "preallocation": "metadata"}), ("d", MIB, {"format": "raw", "cluster_size": 65536}),
                ("d", MIB, {"extended_l2": True, "cluster_size": 4096}), ("d", MIB, {"compression": "lzo"})]:
            with pytest.raises(DBusError) as refused:
                create_disk(client, pool, name, size, **options)
            assert refused.value.short == "InvalidArgument", (name, size, options)
        assert client.of_kind("disk") == {} and images.image_files(pool_directory) == []

    def test_names_are_unique(self, client, pool):
        client.finish(create_disk(client, pool, "data", MIB))
        with pytest.raises(DBusError) as refused:
            create_disk(client, pool, "data", MIB)
        assert refused.value.short == "AlreadyExists"

    def test_no_room(self, client, directory, small_filesystem):
        where = small_filesystem(16)
        pool = client.create_pool("small", where)
        error, message = client.failure(create_disk(client, pool, "data", 64 * MIB, preallocation="full"))
        assert error == "NoSpace" and "data" in message
        assert [n for n in images.image_files(where) if n != "lost+found"] == [] and client.of_kind("disk") == {}


# --- pools ---

def test_create_pool(client, directory, pool_directory):
    os.symlink(pool_directory, f"{directory}/link")
    pool = client.create_pool("local", f"{directory}/link")
    assert client.get(pool, "Pool", "Path") == pool_directory
    assert client.get(pool, "Pool", "State") == "ok" and client.get(pool, "Pool", "CapacityBytes") > 0
    for name, path, error in [("other", pool_directory, "AlreadyExists"), ("local", directory, "AlreadyExists"),
                              ("new", f"{directory}/none", "NotFound"), ("new", "relative", "InvalidArgument"),
                              ("new", f"{directory}/../x", "InvalidArgument"), ("new", __file__, "InvalidArgument")]:
        with pytest.raises(DBusError) as refused:
            client.create_pool(name, path)
        assert refused.value.short == error, (name, path, refused.value.message)
    made = client.create_pool("made", f"{directory}/made", create=True)
    assert os.path.isdir(f"{directory}/made") and client.get(made, "Pool", "State") == "ok"


def test_refresh_sees_what_changed(client, pool, pool_directory):
    chain = make_chain(pool_directory, "root", layers=2)
    images.create(f"{pool_directory}/stray.qcow2", MIB)
    result = client.finish(import_disk(client, pool, chain[1]))
    assert client.finish(client.call(pool, "Pool", "Refresh")) == {
        "volumes": 2, "missing": 0, "corrupt": 0, "unknown": ["stray.qcow2"]}
    os.rename(chain[0], chain[0] + ".away")
    patch(chain[1], 40, struct.pack(">Q", 1 << 62))
    found = client.finish(client.call(pool, "Pool", "Refresh"))
    assert (found["missing"], found["corrupt"]) == (1, 1)
    assert volume_at(client, chain[0])[1]["State"] == "missing"
    assert client.get(result["volume"], "Volume", "State") == "corrupt"
    assert client.get(result["disk"], "Disk", "State") == "broken"


def test_remove_forgets_and_deletes_nothing(client, pool, pool_directory):
    chain = make_chain(pool_directory, "root", layers=2)
    client.finish(import_disk(client, pool, chain[1]))
    client.call(pool, "Pool", "Remove")
    assert client.of_kind("pool") == {} and client.of_kind("disk") == {} and client.of_kind("volume") == {}
    assert images.image_files(pool_directory) == [os.path.basename(path) for path in chain]
    again = client.create_pool("again", pool_directory)
    client.finish(import_disk(client, again, chain[1]))


def test_a_pool_that_comes_and_goes(client, pool, pool_directory):
    os.rename(pool_directory, pool_directory + ".away")
    client.finish(client.call(pool, "Pool", "Refresh"))
    assert client.get(pool, "Pool", "State") == "missing"
    os.rename(pool_directory + ".away", pool_directory)
    client.finish(client.call(pool, "Pool", "Refresh"))
    assert client.get(pool, "Pool", "State") == "ok"
